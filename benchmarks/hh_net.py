"""Which class of focus a frame of a stained smear belongs to: the default, and what else was tried.

On 30,000 frames of 3,000 unseen fields at continuous distances, 900 x 900 px or nine patches each; then on
frames of optics that nothing was trained on; and the time for a frame of 1536 x 2048 px, all in one run.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.stats import binomtest

from benchmarks._results import Figures, figure, run
from benchmarks.hh_net_published import OPTIONS
from bluesky_autofocus.models.hh_net import HHNetModel
from bluesky_autofocus.models.hh_net.features import handcrafted
from bluesky_autofocus.models.hh_net.patches import busiest, coarse_of, patches_of, problem_of
from bluesky_autofocus.models.hh_net.published import build
from bluesky_autofocus.models.hh_net.train import TrainingOptions, judged
from bluesky_autofocus.models.hh_net.voting import WAYS
from bluesky_autofocus.simulation import Smear, SmearCamera, SmearOptics
from bluesky_autofocus.training import hh_net as training

SEED = 0
TRIED = (
    ("handcrafted",),
    ("energies",),
    ("energies", "handcrafted"),
    ("spectra",),
    ("spectra", "handcrafted"),
)
"""Kinds of features, each trained as the default is, but one network in place of three."""
STRANGE: dict[str, dict[str, Any]] = {
    "as trained": {},
    "spherical aberration 0.03 waves in place of 0.07": {"spherical_waves": 0.03},
    "spherical aberration 0.11 waves": {"spherical_waves": 0.11},
    "no spherical aberration": {"spherical_waves": 0.0},
    "the other sign of it": {"spherical_waves": -0.07},
    "colours 10 % nearer together": {"colour_focus_um": (2.97, 0.0, -2.97)},
    "colours 30 % nearer together": {"colour_focus_um": (2.31, 0.0, -2.31)},
    "colours in focus together": {"colour_focus_um": (0.0, 0.0, 0.0)},
    "aperture 0.38 in place of 0.40": {"numerical_aperture": 0.38},
    "aperture 0.30": {"numerical_aperture": 0.30},
}
_STRANGE_SEED = 495_000


def measure(quick: bool) -> tuple[Figures, list[dict[str, Any]], Any]:
    """Compare all, time the default and the published, and show strange frames."""
    model = HHNetModel.load()
    others = {
        kinds: training.train(TrainingOptions(networks=1), kinds=kinds)
        for kinds in TRIED[: 1 if quick else None]
    }
    strange = [_strange(model, name, options, 3 if quick else 40) for name, options in STRANGE.items()]
    far = _far(model, 5 if quick else 60)
    test = training.smear_frames(*training.TEST[: 1 if quick else None])
    rows = [_row("default: spectra", judged(model, test.frame_set(model.vectors.kinds)))]
    rows += [_row(" + ".join(kinds), judged(other, test.frame_set(kinds))) for kinds, other in others.items()]
    taken = _times(model, 3 if quick else 25)
    default = rows[0]
    figures = {
        "patch_accuracy": figure(default["patch"], "", ">= 0.97; paper 0.924", "higher"),
        "frame_accuracy_certainty": figure(default["certainty"], "", ">= 0.9999; paper 0.9999", "higher"),
        "frame_accuracy_hard": figure(default["hard"], "", "paper 0.9723", "higher"),
        "frame_accuracy_off_edge": figure(default["off_edge"], "", ">= 0.9999", "higher"),
        "frames": figure(default["frames"], "", ">= 30000", "higher"),
        "rmse_um": figure(default["rmse_um"], "um", "", "lower"),
        "believed_wrong": figure(default["believed_wrong"], "frames", "0", "lower"),
        "far_wrong_side": figure(far["wrong_side"], "", "0", "lower"),
        "default_ms": figure(taken["default"], "ms", "<= 25; paper 25", "lower"),
        "published_ms": figure(taken["published"], "ms", "", "lower"),
    }
    times = [{"network": f"time: {name}", "ms": value} for name, value in taken.items()]
    return figures, [*rows, far, *strange, *times], _picture(model, test)


def _row(name: str, found: Mapping[str, float]) -> dict[str, Any]:
    frames = int(found["frames"])
    interval = binomtest(round(found["frame_accuracy_certainty"] * frames), frames).proportion_ci(
        method="wilson"
    )
    return {
        "network": name,
        "frames": frames,
        "patch": found["patch_accuracy"],
        **{way: found[f"frame_accuracy_{way}"] for way in WAYS},
        "interval": f"{interval.low:.4f} .. {interval.high:.4f}",
        "off_edge": found["frame_accuracy_certainty_off_edge"],
        "frames_off_edge": int(found["frames_off_edge"]),
        "within_one": found["within_one"],
        "wrong_sign": found["wrong_sign"],
        **{
            name: found[name]
            for name in (
                "rmse_um",
                "median_um",
                "p99_um",
                "max_um",
                "within_two_sigma",
                "refused",
                "believed_wrong",
            )
            if name in found
        },
    }


def _strange(model: HHNetModel, name: str, options: dict[str, Any], fields: int) -> dict[str, Any]:
    """Show the default frames of other optics; an error of more than a class is a wrong answer."""
    optics, camera = SmearOptics(**options), SmearCamera()
    error, refused = [], 0
    for index in range(fields):
        rng = np.random.default_rng((_STRANGE_SEED, index))
        smear = Smear((_STRANGE_SEED + index,), (900, 900), training.PIXEL_UM, optics=optics)
        for defocus_um in rng.uniform(-15, 27, 5):
            estimate = model.estimate(camera.frame(smear.image_formation(float(defocus_um)), rng))
            refused += not estimate.accepted
            if estimate.accepted:
                error.append(estimate.defocus_um - defocus_um)
    size = np.abs(error)
    return {
        "network": f"default, {name}",
        "frames": 5 * fields,
        "refused": refused / (5 * fields),
        "believed_wrong": int((size > training.TABLE.edges_um[3] * 2).sum()),
        **(
            {
                "rmse_um": float(np.sqrt(np.mean(size**2))),
                "median_um": float(np.median(size)),
                "max_um": float(size.max()),
            }
            if error
            else {}
        ),
    }


def _far(model: HHNetModel, fields: int) -> dict[str, Any]:
    """Show the default frames far from focus, on both sides and beyond what it was trained on."""
    camera, wrong, refused, error, frames = SmearCamera(), 0, 0, [], 0
    for index in range(fields):
        rng = np.random.default_rng((_STRANGE_SEED, 1, index))
        smear = Smear((_STRANGE_SEED, index), (900, 900), training.PIXEL_UM)
        for size_um in rng.uniform(15, 80, 6):
            defocus_um = float(size_um * rng.choice((-1, 1)))
            estimate = model.estimate(camera.frame(smear.image_formation(defocus_um), rng))
            frames += 1
            refused += not estimate.accepted
            wrong += estimate.accepted and estimate.defocus_um * defocus_um < 0
            if estimate.accepted and estimate.measured and abs(defocus_um) < 55:
                error.append(estimate.defocus_um - defocus_um)
    return {
        "network": "default, 15 to 80 um from focus",
        "frames": frames,
        "refused": refused / frames,
        "wrong_side": wrong / frames,
        "rmse_um": float(np.sqrt(np.mean(np.square(error)))),
        "max_um": float(np.abs(error).max()),
    }


def _times(model: HHNetModel, repeats: int) -> dict[str, float]:
    """Return how long each takes for a frame of 1536 x 2048 px, in ms, all in turns."""
    import tensorflow as tf

    smear = Smear((1,), (1536, 2048), training.PIXEL_UM)
    frame = SmearCamera().frame(smear.image_formation(5.0), np.random.default_rng(SEED))
    corners, coarse = patches_of(frame, training.PATCH_PX), coarse_of(frame)
    shown = busiest(coarse, (1536, 2048), corners, training.PATCH_PX, model.most_patches)
    vectors = model.vectors.of(frame, shown)
    facts = model.facts(vectors)
    side = training.PATCH_PX
    patches = np.stack([frame[y : y + side, x : x + side] for y, x in corners.tolist()])
    inputs = {"handcrafted": tf.zeros((5, 18))}
    networks = {}
    for name, width in (("published", 1.0), (f"published, width {OPTIONS.width:g}", OPTIONS.width)):
        network = build(side, width)
        networks[name] = tf.function(lambda part, network=network: network({"patches": part, **inputs}))

    def whole(name: str) -> Callable[[], None]:
        def once() -> None:
            handcrafted(frame)
            for start in range(0, len(patches), 5):  # more at a time do not fit into the memory
                networks[name](tf.constant(patches[start : start + 5]))

        return once

    timed: dict[str, Callable[[], Any]] = {
        "default": lambda: model.estimate(frame),
        "default: is it usable, which patches": lambda: (
            problem_of(frame, coarse_of(frame)),
            busiest(coarse, (1536, 2048), corners, side, model.most_patches),
        ),
        "default: spectra": lambda: model.vectors.of(frame, shown),
        "default: networks": lambda: model.facts(vectors),
        "default: vote": lambda: model.judge(facts),
        "the 18 features": lambda: handcrafted(frame),
        **{name: whole(name) for name in networks},
    }
    taken: dict[str, list[float]] = {name: [] for name in timed}
    for repeat in range(repeats + 1):
        for name, one in timed.items():
            if name == "published" and repeat > 3:
                continue  # it takes seconds
            started = time.perf_counter()
            one()
            if repeat:
                taken[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in taken.items()}


def _picture(model: HHNetModel, test: training.SmearFrames) -> Any:
    """Draw what is estimated of some frames, and the error, against the truth."""
    from matplotlib.figure import Figure

    frames = test.frame_set(model.vectors.kinds).by_frame()[:3000]
    truth = test.defocus_um[: len(frames)]
    said = [model.judge(model.facts(one)) for one in frames]
    error = np.array([one.defocus_um for one in said]) - truth
    picture = Figure(figsize=(10, 4), layout="constrained")
    left, right = picture.subplots(1, 2)
    index = np.array([4 if one.index is None else one.index for one in said])
    for one in range(-2, 5):
        left.hist(truth[index == one], bins=np.arange(-15, 27.1, 0.5), alpha=0.7, label=f"{one:+d}")
    for edge in model.table.edges_um[1:]:
        left.axvline(edge, color="black", lw=0.5)
    left.set(xlabel="true defocus (um)", ylabel="frames", title="by the index that they are given")
    left.legend(fontsize=7, ncol=2)
    right.plot(truth, error, ".", ms=2)
    right.set(xlabel="true defocus (um)", ylabel="error (um)", ylim=(-2, 2), title="of the defocus")
    right.grid(alpha=0.3)
    return picture


if __name__ == "__main__":
    run(
        "hh_net",
        measure,
        seed=SEED,
        columns=(
            "network", "frames", "patch", "hard", "linear", "certainty", "interval", "off_edge", "within_one",
            "wrong_sign", "rmse_um", "p99_um", "max_um", "within_two_sigma", "refused", "believed_wrong",
            "wrong_side", "ms",
        ),
    )  # fmt: skip
