"""Frames made in-focus again: input, deconvolution, the published network and the default one.

Fields that nothing was trained or chosen by, of the size of BBBC006's frames. The target is the field in
focus without noise. Deconvolution knows the distance from focus and the optics but for each objective's own
departures; the networks are not told how far out a frame is.
"""

import time
import tracemalloc
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks._results import RESULTS, Figures, figure, run
from bluesky_autofocus.callbacks import LiveRefocus
from bluesky_autofocus.models.refocus import Refocuser, UNetModel, load_model, refocus_rows
from bluesky_autofocus.models.refocus.classical import RichardsonLucy, Wiener
from bluesky_autofocus.models.refocus.metrics import contrast_of, psnr_db, ssim
from bluesky_autofocus.models.refocus.pairs import FocalPairs
from bluesky_autofocus.session import open_session
from bluesky_autofocus.simulation import FluorescentNuclei, LightCamera
from bluesky_autofocus.training.refocus import OPTICS, TRAINING, StackRecipe, focal_pairs
from bluesky_autofocus.widefield import Widefield

TEST = (
    StackRecipe("fluorescence", 620_000, 40, (520, 696)),
    StackRecipe("brightfield", 625_000, 8, (520, 696), electrons=(4000.0, 16_000.0)),
)
"""By which nothing is ever chosen."""
PLANES = (1, 5, 10, 14, 15, 16, 17, 18, 22, 27, 32)
NAMED = (1, 5, 10, 32)
WAVES = sum(TRAINING[0].spherical_waves) / 2
CLASSICAL = ("wiener", "richardson-lucy")
CLASSICAL_FIELDS = 5
"""Deconvolution takes seconds a frame, so it is compared on the first fields."""


def measure(quick: bool) -> tuple[Figures, list[dict[str, Any]], Any]:
    """Refocus every field at every plane by every method."""
    model = UNetModel.load()
    model.prepare()
    published = published_model()
    rows: list[dict[str, Any]] = []
    shown: dict[tuple[int, int], dict[str, NDArray[Any]]] = {}
    for recipe in TEST:
        pairs = focal_pairs(recipe)
        fields = 4 if quick else len(pairs)
        for z in NAMED if quick else PLANES:
            rows += _rows_of_plane(pairs, z, fields, model, published, shown)
    by = {(row["modality"], row["z"], row["method"]): row for row in rows}
    gain = {z: by["fluorescence", z, "default"]["psnr_gain_db"] for z in NAMED}
    classical = max(by["fluorescence", 10, name]["psnr_gain_db"] for name in CLASSICAL)
    ahead = min(
        row["default_gain_db"] - row["psnr_gain_db"]
        for row in rows
        if row["method"] in CLASSICAL and row["modality"] == "fluorescence"
    )

    def of_default(key: str) -> list[float]:
        return [row[key] for row in rows if row["method"] == "default"]

    times = _times(model, 2 if quick else 7)
    figures = {
        **{
            f"psnr_gain_z{z}": figure(gain[z], "dB", f"at least {aim}", "higher")
            for z, aim in ((1, 8), (5, 8), (10, 6), (32, 6))
        },
        "best_classical_gain_z10": figure(classical, "dB", "", "higher"),
        "least_ahead_of_classical_db": figure(ahead, "dB", "above 0", "higher"),
        "ssim_z10": figure(by["fluorescence", 10, "default"]["ssim"], "", "at least 0.94", "higher"),
        "frame_2048_s": figure(times["frame_s"], "s", "2", "lower"),
        "frame_2048_mb": figure(times["frame_mb"], "MB", "", "lower"),
        "slide_10240_s": figure(times["slide_s"], "s", "", "lower"),
        "slide_10240_mb": figure(times["slide_mb"], "MB", "", "lower"),
        "live_latest_s": figure(_live(4 if quick else 15), "s", "2, a frame every 2 s", "lower"),
        "worst_gain_db": figure(min(of_default("worst_gain_db")), "dB", "at least 0", "higher"),
        "refused": figure(float(np.mean(of_default("refused"))), "", "", "lower"),
        "within_two_sigma": figure(
            float(np.nanmean(of_default("within_two_sigma"))),
            "", "0.95", "higher",
        ),
    }  # fmt: skip
    if not quick:
        _strips(shown)
    return figures, rows, _picture(rows)


def published_model() -> Refocuser | None:
    """Return the published network, trained on one side of focus, where it was trained on this machine."""
    from benchmarks.refocus_published import trained

    return trained()


@cache
def _widefield() -> Widefield:
    return Widefield(OPTICS, WAVES)


def _rows_of_plane(
    pairs: FocalPairs,
    z: int,
    fields: int,
    model: UNetModel,
    published: Refocuser | None,
    shown: dict[tuple[int, int], dict[str, NDArray[Any]]],
) -> list[dict[str, Any]]:
    plane = z - 1
    z_um = float(pairs.defocus_um[plane])
    methods: dict[str, Callable[[NDArray[Any]], Any]] = {
        "wiener": Wiener(_widefield(), z_um).refocus,
        "richardson-lucy": RichardsonLucy(_widefield(), z_um).refocus,
        "default": model.refocus,
    }
    if published is not None:
        methods["published"] = published.refocus
    found: dict[str, dict[str, list[float]]] = {}

    def note(method: str, **values: float) -> None:
        for name, value in values.items():
            found.setdefault(method, {}).setdefault(name, []).append(value)

    for i in tqdm(range(fields), f"{pairs.modality} z = {z}"):
        frame, target = np.asarray(pairs.planes[i, plane]), np.asarray(pairs.targets[i])
        before = psnr_db(frame, target)
        results = {"input": frame}
        note("input", psnr=before, ssim=ssim(frame, target), gain=0.0)
        for method, refocus in methods.items():
            if method in CLASSICAL and i >= CLASSICAL_FIELDS:
                continue
            made = refocus(frame)
            after = psnr_db(made.frame, target)
            # what is not believed is left as it was, so it gains and loses nothing
            note(
                method,
                psnr=after,
                ssim=ssim(made.frame, target),
                gain=after - before,
                refused=not made.accepted,
                mismatch=made.mismatch,
            )
            if method == "default":
                error = np.abs(made.frame.astype(np.float32) - target)
                inside = np.mean(error <= 2 * made.sigma) if np.isfinite(made.sigma).any() else np.nan
                note(method, within_two_sigma=float(inside))
            results[method] = made.frame
        if pairs.modality == "fluorescence":
            for method, frame_made in results.items():
                f1, area = nuclei_agree(frame_made, target)
                note(method, nuclei_f1=f1, area_error=area)
            if z in NAMED:
                shown[i, z] = results | {"target": target}
    return [
        {
            "modality": pairs.modality,
            "z": z,
            "defocus_um": z_um,
            "method": method,
            "fields": len(values["psnr"]),
            "psnr_db": float(np.mean(values["psnr"])),
            "psnr_gain_db": float(np.mean(values["gain"])),
            # on the same frames
            "default_gain_db": float(np.mean(found["default"]["gain"][: len(values["psnr"])])),
            "worst_gain_db": float(np.min(values["gain"])),
            "ssim": float(np.mean(values["ssim"])),
            "refused": float(np.mean(values.get("refused", [0.0]))),
            "within_two_sigma": float(np.nanmean(values.get("within_two_sigma", [np.nan]))),
            "nuclei_f1": float(np.nanmean(values.get("nuclei_f1", [np.nan]))),
            "area_error": float(np.nanmean(values.get("area_error", [np.nan]))),
        }
        for method, values in found.items()
    ]


def nuclei_of(frame: NDArray[Any]) -> NDArray[np.int_]:
    """Return labelled nuclei by Otsu's threshold and a watershed of the distance from the edge."""
    from scipy import ndimage
    from skimage.feature import peak_local_max
    from skimage.filters import gaussian, threshold_otsu
    from skimage.segmentation import watershed

    smooth = gaussian(np.asarray(frame, float), 1.0)
    # nuclei differ in brightness by a factor of several; so do the levels that Otsu separates
    level = np.log(np.maximum(smooth - np.percentile(smooth, 1), 1e-3) + 0.02 * contrast_of(frame))
    mask = ndimage.binary_opening(level > threshold_otsu(level), iterations=2)
    distance: Any = ndimage.distance_transform_edt(mask)
    peaks = peak_local_max(gaussian(distance, 1.5), min_distance=6, labels=mask.astype(int))
    markers = np.zeros(mask.shape, int)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-distance, markers, mask=mask)


def nuclei_agree(frame: NDArray[Any], target: NDArray[Any]) -> tuple[float, float]:
    """Return F1 of the nuclei found, a pair overlapping by more than half, and by how much areas are off."""
    ours, theirs = nuclei_of(frame), nuclei_of(target)
    n, m = int(ours.max()), int(theirs.max())
    if not m:
        return float("nan"), float("nan")
    both = np.zeros((n + 1, m + 1))
    np.add.at(both, (ours.ravel(), theirs.ravel()), 1)
    sizes, true_sizes = both.sum(axis=1)[1:], both.sum(axis=0)[1:]
    overlap = both[1:, 1:] / np.maximum(sizes[:, None] + true_sizes - both[1:, 1:], 1)
    pairs = np.argwhere(overlap > 0.5)
    f1 = 2 * len(pairs) / (n + m)
    off = [abs(sizes[i] / true_sizes[j] - 1) for i, j in pairs]
    return f1, float(np.median(off)) if off else float("nan")


def _times(model: UNetModel, repeats: int) -> dict[str, float]:
    """Return seconds and memory of a large frame, and of a slide by rows."""
    nuclei = FluorescentNuclei((630_000,), (2048, 2048), _widefield())
    camera = LightCamera(electrons=900, gain=0.5, dust_per_mpx=0)
    frame = camera.frame(nuclei.image(16.0), np.random.default_rng(0))
    model.refocus(frame)
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        model.refocus(frame)
        seconds.append(time.perf_counter() - started)
    tracemalloc.start()
    model.refocus(frame)
    frame_mb = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    side = 4096 if repeats < 3 else 10_240
    with TemporaryDirectory() as folder:
        source, target = (
            np.lib.format.open_memmap(Path(folder) / f"{name}.npy", "w+", frame.dtype, (side, side))
            for name in ("source", "target")
        )
        for y in range(0, side, 2048):
            for x in range(0, side, 2048):
                source[y : y + 2048, x : x + 2048] = frame
        tracemalloc.start()
        started = time.perf_counter()
        refocus_rows(model, source, target)
        slide_s = time.perf_counter() - started
        slide_mb = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
    return {
        "frame_s": float(np.median(seconds)),
        "frame_mb": frame_mb,
        "slide_s": slide_s,
        "slide_mb": slide_mb,
    }


def _live(frames: int) -> float:
    """Return how long after its Event the latest result of a run is recorded that has a frame every 2 s."""
    taken: dict[int, float] = {}
    done: dict[int, float] = {}
    with (
        TemporaryDirectory() as folder,
        open_session("nuclei", catalog=folder, frame_px=2048, show=None) as session,
    ):
        microscope = session.instrument.devices["microscope"]
        recorder = session.catalog.recorder()

        def record(name: str, doc: dict[str, Any]) -> None:
            recorder(name, doc)
            if name == "event":
                done[doc["data"]["of_seq_num"]] = time.monotonic()

        live = LiveRefocus(load_model(), record, session.catalog.frame_directory)
        live.refocuser.refocus(np.asarray(microscope._render()))  # noqa: SLF001 - loads the network
        session.RE.subscribe(live)
        session.RE.subscribe(lambda _, doc: taken.setdefault(doc["seq_num"], time.monotonic()), "event")

        @bpp.run_decorator(md={})
        def every_two_seconds() -> Any:
            for _ in range(frames):
                started = time.monotonic()
                yield from bps.trigger_and_read([microscope])
                yield from bps.sleep(max(0.0, 2.0 - (time.monotonic() - started)))

        session.RE(every_two_seconds())
        live.wait(300)
    return max(done[number] - at for number, at in taken.items())


_COLOURS = {
    "input": "grey", "wiener": "tab:orange", "richardson-lucy": "tab:red", "published": "tab:purple",
    "default": "tab:blue",
}  # fmt: skip


def _picture(rows: list[dict[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    picture = Figure(figsize=(10, 7), layout="constrained")
    axes = picture.subplots(2, 2, sharex=True)
    for column, modality in enumerate(("fluorescence", "brightfield")):
        for ax, key, name in zip(axes[:, column], ("psnr_db", "ssim"), ("PSNR (dB)", "SSIM"), strict=True):
            for method, colour in _COLOURS.items():
                own = [row for row in rows if row["modality"] == modality and row["method"] == method]
                if own:
                    ax.plot(
                        [r["defocus_um"] for r in own],
                        [r[key] for r in own],
                        "o-",
                        ms=3,
                        c=colour,
                        label=method,
                    )
            ax.set(ylabel=name, title=modality if key == "psnr_db" else "")
        axes[1, column].set(xlabel="defocus (um)")
    axes[0, 0].legend(fontsize="small")
    return picture


def _strips(shown: dict[tuple[int, int], dict[str, NDArray[Any]]]) -> None:
    """Write the best, the median and the worst field of each plane, in rows."""
    from matplotlib.figure import Figure

    columns = ("input", "wiener", "richardson-lucy", "published", "default", "target")
    columns = tuple(name for name in columns if all(name in one for one in shown.values()))
    for z in NAMED:
        gains = {
            i: psnr_db(one["default"], one["target"]) - psnr_db(one["input"], one["target"])
            for (i, of), one in shown.items()
            if of == z
        }
        order = sorted(gains, key=lambda i: -gains[i])
        chosen = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
        picture = Figure(figsize=(2.6 * len(columns), 6.6), layout="constrained")
        axes = picture.subplots(3, len(columns))
        for line, (name, i) in zip(axes, chosen.items(), strict=True):
            one = shown[i, z]
            low, high = np.percentile(one["target"], (1, 99.8))
            for ax, column in zip(line, columns, strict=True):
                ax.imshow(one[column][100:360, 100:360], cmap="gray", vmin=low, vmax=high)
                ax.set(xticks=[], yticks=[])
                if name == "best":
                    ax.set_title(column)
            line[0].set_ylabel(f"{name}, {gains[i]:+.1f} dB")
        picture.savefig(RESULTS / f"refocus_z{z}.png", dpi=70)


if __name__ == "__main__":
    run(
        "refocus",
        measure,
        seed=TEST[0].first_seed,
        columns=(
            "modality", "z", "defocus_um", "method", "fields", "psnr_db", "psnr_gain_db", "default_gain_db",
            "worst_gain_db", "ssim",
            "refused", "within_two_sigma", "nuclei_f1", "area_error",
        ),
    )  # fmt: skip
