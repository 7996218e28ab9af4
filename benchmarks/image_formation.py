"""How long a focal stack takes to simulate, a plane, against the straightforward way.

That goes through the slices of the specimen, multiplies the spectrum by the pupil and transforms back for
every plane, at the same sampling and in double precision; and the same with a spectrum that is kept. All have
SciPy's transforms on all cores.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks._results import Figures, figure, run
from bluesky_autofocus._fft import fft
from bluesky_autofocus.simulation import AbbeImageFormation, FieldView, LightCamera, specimen

SEED = 0
NA_XY = (0.4, 0.0)
PLANES_UM = np.arange(-30.0, 31.0)


def exit_spectrum(view: FieldView) -> np.ndarray:
    """Return the spectrum of the wave behind the specimen under the LED, in double precision."""
    formation, wave_number = view.formation, 1 / view.formation.optics.wavelength_um
    n, extent = formation.sample_shape, formation.extent_um
    # a direction that is a whole number of periods over the field, as the fast way has it
    shift = [round(na * wave_number * length) for na, length in zip(reversed(NA_XY), extent, strict=True)]
    # the tilt of the wave is taken out until the end, so that both ways are sampled alike
    uy, ux = (fft.fftfreq(k, length / k) + m / length for k, length, m in zip(n, extent, shift, strict=True))
    square = wave_number**2 - uy[:, None] ** 2 - ux**2
    kz = np.sqrt(np.maximum(square, 0))
    kz -= kz[0, 0]
    wave = np.ones(n, complex)
    heights = view.specimen.heights_um
    spectrum = np.empty(n, complex)
    for index, transmission in enumerate(view.specimen.slices):
        step = heights[index + 1] - heights[index] if index + 1 < len(heights) else -heights[-1]
        spectrum = fft.fft2(wave * transmission, workers=-1) * np.exp(2j * np.pi * step * kz)
        spectrum[square <= 0] = 0  # evanescent
        wave = fft.ifft2(spectrum, workers=-1)
    spectrum = np.roll(spectrum, shift, axis=(0, 1))
    # as many frequencies as the frame has points
    rows, columns = (np.r_[0 : k // 2, -(k // 2) : 0] for k in formation.shape)
    scale = np.prod(formation.shape) / np.prod(n)
    return spectrum[rows[:, None], columns] * scale


def naive_plane(view: FieldView, defocus_um: float, spectrum: np.ndarray | None = None) -> np.ndarray:
    """Return one image computed as one would write it down."""
    formation, optics = view.formation, view.formation.optics
    spectrum = exit_spectrum(view) if spectrum is None else spectrum
    wave_number = 1 / optics.wavelength_um
    uy, ux = (
        fft.fftfreq(k, length / k) for k, length in zip(formation.shape, formation.extent_um, strict=True)
    )
    radius = np.hypot(uy[:, None], ux)
    kz = np.sqrt(np.maximum(wave_number**2 - radius**2, 0)) - wave_number
    rho = radius * optics.wavelength_um / optics.numerical_aperture
    edge = np.clip((1 - rho) / rho[0, 1] + 0.5, 0, 1)
    waves = formation.aberrations.phase_waves(rho, np.arctan2(uy[:, None], ux))
    pupil = edge * np.exp(2j * np.pi * (waves + defocus_um * kz))
    height, width = formation.frame_shape
    return np.abs(fft.ifft2(spectrum * pupil, workers=-1)[:height, :width]) ** 2


def median_ms(work: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Return median and interquartile range of the time that something takes."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - started))
    return float(np.median(times)), float(np.subtract(*np.quantile(times, (0.75, 0.25))))


def measure(quick: bool) -> tuple[Figures, list[dict[str, Any]], Any]:
    """Time whole stacks, spectrum included, and single planes the naive way."""
    rows: list[dict[str, Any]] = []
    for frame_px in (512,) if quick else (512, 1024, 2048):
        formation = AbbeImageFormation(frame_shape=(frame_px, frame_px))
        made = specimen("cells", SEED, formation)
        repeats = 3 if quick or frame_px > 1024 else 7
        kept = formation.view(made)

        def stack(formation: Any = formation, made: Any = made) -> None:
            formation.view(made).intensity([NA_XY], PLANES_UM)  # a new view knows no spectrum

        def one_plane(kept: FieldView = kept) -> np.ndarray:
            return kept.intensity([NA_XY], [7.3])

        stack_ms, stack_iqr = median_ms(stack, repeats)
        alone_ms, alone_iqr = median_ms(lambda: naive_plane(kept, 7.3), repeats)  # noqa: B023
        spectrum = exit_spectrum(kept)
        reused_ms, _ = median_ms(lambda: naive_plane(kept, 7.3, spectrum), repeats)  # noqa: B023
        random_ms, _ = median_ms(one_plane, 3 * repeats)
        camera, rng = LightCamera(), np.random.default_rng(SEED)
        image = one_plane()[0]
        camera_ms, _ = median_ms(lambda: camera.frame(image, rng), 3 * repeats)  # noqa: B023
        rows.append(
            {
                "frame_px": frame_px,
                "stack_ms_a_plane": stack_ms / len(PLANES_UM),
                "iqr_ms": stack_iqr / len(PLANES_UM),
                "naive_ms_a_plane": alone_ms,
                "naive_iqr_ms": alone_iqr,
                "times_as_fast": alone_ms * len(PLANES_UM) / stack_ms,
                "naive_spectrum_reused_ms": reused_ms,
                "times_as_fast_as_reused": reused_ms * len(PLANES_UM) / stack_ms,
                "one_more_plane_ms": random_ms,
                "camera_ms": camera_ms,
                "difference": float(np.abs(naive_plane(kept, 7.3) - image).max()),
            }
        )
    figures: Figures = {}
    for row in rows:
        px = row["frame_px"]
        figures[f"ms_a_plane_{px}"] = figure(row["stack_ms_a_plane"], "ms", "as low as possible", "lower")
        figures[f"times_as_fast_{px}"] = figure(row["times_as_fast"], "times", ">= 10", "higher")
        figures[f"times_as_fast_as_reused_{px}"] = figure(
            row["times_as_fast_as_reused"], "times, spectrum reused by both", ">= 2", "higher"
        )
    return figures, rows, draw(rows)


def draw(rows: list[dict[str, Any]]) -> Any:
    """Draw time against the size of the frame."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(6, 4), layout="constrained")
    axes = picture.subplots()
    px = [row["frame_px"] for row in rows]
    for key, label in (
        ("naive_ms_a_plane", "naive: everything for each plane"),
        ("naive_spectrum_reused_ms", "naive, but for a spectrum that is kept"),
        ("one_more_plane_ms", "one more plane anywhere"),
        ("stack_ms_a_plane", "a plane of a stack of 61, spectrum included"),
        ("camera_ms", "the camera's noise"),
    ):
        axes.plot(px, [row[key] for row in rows], "o-", label=label)
    axes.set(xscale="log", yscale="log", xlabel="side of the frame (px)", ylabel="ms")
    axes.set_xticks(px, [str(one) for one in px])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return picture


if __name__ == "__main__":
    run(
        "image_formation",
        measure,
        seed=SEED,
        columns=[
            "frame_px", "stack_ms_a_plane", "iqr_ms", "naive_ms_a_plane", "times_as_fast",
            "naive_spectrum_reused_ms", "times_as_fast_as_reused", "one_more_plane_ms", "camera_ms",
            "difference",
        ],
    )  # fmt: skip
