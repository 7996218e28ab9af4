"""What the published network looks at: magnitude or phase of the spectrum, and where in it.

Figure 3 of Pinkard et al. 2019 on simulated cells: the same network on the magnitude and on the phase of the
same part of the spectrum, and the mean gradient of the prediction with respect to the magnitude.
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._networks import DOF_UM, PUBLISHED, Frames, Trained, score, train
from benchmarks._results import RESULTS, Figures, figure, run
from bluesky_autofocus.defocus import TwoCircles
from bluesky_autofocus.models.single_shot.features import StripFeatures
from bluesky_autofocus.models.single_shot.understanding import saliency, saliency_picture
from bluesky_autofocus.training.fields import CACHE, LED_NA, OPTICS, Recipe, fields, seconds_of
from bluesky_autofocus.training.recipes import TRAINING

SEED = 0
FEATURES = StripFeatures(OPTICS, (LED_NA, 0.0), 512)
BOTH = Recipe("cells", 91_000, 100, planes_um=(-30.0, 30.0, 1.0), features=("strip_magnitude", "strip_phase"))
CHECKED = 25
"""The last fields are tested on."""
STACKS = 240
"""Of cells, that the network is trained on whose saliency is looked at."""
SALIENCY_FRAMES = 1500
EDGE = 0.1
"""What counts as the edge of a circle, in its radius."""


def measure(quick: bool) -> tuple[Figures, list[dict[str, Any]], Any]:
    """Train on both parts of the spectrum; look at the gradient."""
    effort = 0.03 if quick else 1.0
    recipe = dataclasses.replace(BOTH, count=8, planes_um=(-30.0, 30.0, 5.0)) if quick else BOTH
    found = fields(recipe)
    print(f"simulated in {seconds_of([recipe]):.0f} s, kept in {CACHE}")
    split = recipe.count - (2 if quick else CHECKED)
    rows: list[dict[str, Any]] = []
    networks: dict[str, Trained] = {}
    for name in ("strip_magnitude", "strip_phase"):
        learn = Frames.of(found, name, slice(0, split))
        check = Frames.of(found, name, slice(split, None))
        network = train(PUBLISHED, learn.vectors, learn.defocus_um, seed=SEED, effort=effort)
        networks[name] = network
        chance = float(np.std(check.defocus_um))
        for tested, frames in (("training", learn), ("validation", check)):
            rows.append(
                {"input": name, "stacks": split, "tested_on": tested, "chance_um": chance}
                | score(network, frames)
                | {"train_s": round(network.seconds, 1)}
            )

    large = found if quick else fields(TRAINING[0])
    learn = Frames.of(large, "strip_magnitude", slice(0, split if quick else STACKS))
    check = Frames.of(large, "strip_magnitude", slice(split, None) if quick else slice(900, 1000))
    network = train(PUBLISHED, learn.vectors, learn.defocus_um, seed=SEED, effort=effort)
    rows.append(
        {"input": "strip_magnitude", "stacks": len(np.unique(learn.field)), "tested_on": "validation"}
        | score(network, check)
        | {"train_s": round(network.seconds, 1)}
    )
    rng = np.random.default_rng(SEED)
    examples = rng.permutation(len(check))[:SALIENCY_FRAMES]
    vectors = check.vectors[examples].astype(np.float32)
    values = saliency(_gradient_of(network), vectors)
    rows += _where(values, vectors)
    if not quick:
        saliency_picture(
            values, FEATURES, RESULTS / "single_shot_saliency.png",
            title=f"mean |gradient| of the published network over {len(vectors)} frames; dashed: the circles",
        )  # fmt: skip
    return _figures(rows), rows, draw(rows, values)


def _gradient_of(network: Trained) -> Any:
    def gradient(x: NDArray[np.float32]) -> NDArray[np.float32]:
        found = network.network.gradient(x)
        # vectors are kept at unit mean: a magnitude that grows alone takes from the others
        return found - (found * x).mean(axis=1, keepdims=True)

    return gradient


def regions() -> dict[str, NDArray[np.bool_]]:
    """Return which features lie where in the spectrum: parts of the strip that do not overlap."""
    half, width = FEATURES.half_length, FEATURES.width
    step = 1 / (FEATURES.patch_px * OPTICS.pixel_size_um)
    along, across = np.meshgrid(np.arange(-half, half) * step, np.arange(width) * step, indexing="ij")
    circles = TwoCircles(OPTICS, (LED_NA, 0.0), along, across)
    near = np.minimum(np.abs(circles.to_plus - 1), np.abs(circles.to_minus - 1)) < EDGE
    both = (np.maximum(circles.to_plus, circles.to_minus) < 1) & ~near
    return {
        "edges": near.ravel(),
        "both circles": both.ravel(),
        "one circle": (~near & ~both).ravel(),
    }


def _where(values: NDArray[np.float64], vectors: NDArray[np.float32]) -> list[dict[str, Any]]:
    """Return rows: the mean saliency of each part relative to that of the rest of the strip."""
    deviation = vectors.std(axis=0)
    rows = []
    for name, inside in regions().items():
        rows.append(
            {
                "input": "saliency",
                "region": name,
                "share_of_strip": float(inside.mean()),
                "relative": float(values[inside].mean() / values[~inside].mean()),
                # what the part contributes: how much the magnitude varies counts as well
                "relative_times_deviation": float(
                    (values * deviation)[inside].mean() / (values * deviation)[~inside].mean()
                ),
            }
        )
    return rows


def _figures(rows: list[dict[str, Any]]) -> Figures:
    rmse = {(row["input"], row.get("tested_on")): row["rmse_um"] for row in rows if row.get("chance_um")}
    relative = {row["region"]: row["relative"] for row in rows if "region" in row}
    figures: Figures = {}
    for name in ("strip_magnitude", "strip_phase"):
        for tested in ("training", "validation"):
            figures[f"{name.removeprefix('strip_')}_{tested}_um"] = figure(
                rmse[name, tested],
                "um",
                "as low as possible" if "mag" in name else "paper: above magnitude",
                "lower",
            )
    figures["phase_over_magnitude"] = figure(
        rmse["strip_phase", "validation"] / rmse["strip_magnitude", "validation"], "ratio", "> 3", "higher"
    )
    figures["saliency_at_edges"] = figure(relative["edges"], "ratio to the rest", "> 1", "higher")
    return figures


def draw(rows: list[dict[str, Any]], values: NDArray[np.float64]) -> Any:
    """Draw errors by input, and saliency along the axis of the LED."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(11, 4), layout="constrained")
    bars, line = picture.subplots(1, 2, width_ratios=(1, 1.6))
    shown = [row for row in rows if row.get("chance_um")]
    names = [f"{row['input'].removeprefix('strip_')},\n{row['tested_on']}" for row in shown]
    colours = ["tab:blue" if "magnitude" in name else "tab:orange" for name in names]
    drawn = bars.bar(names, [row["rmse_um"] for row in shown], color=colours)
    bars.bar_label(drawn, fmt="%.2g", fontsize="small")
    bars.axhline(shown[0]["chance_um"], color="0.5", linestyle=":")
    bars.text(-0.4, shown[0]["chance_um"] * 1.01, "chance", fontsize="small", va="bottom")
    bars.set(ylabel="RMSE (um)", title="input: magnitude or phase")
    bars.tick_params(axis="x", labelsize="small")
    bars.set_ylim(0, 1.15 * shown[0]["chance_um"])
    second = bars.secondary_yaxis("right", functions=(lambda um: um / DOF_UM, lambda dof: dof * DOF_UM))
    second.set_ylabel("RMSE (DOF)")

    step = 1 / (FEATURES.patch_px * OPTICS.pixel_size_um)
    strip = values.reshape(FEATURES.shape)
    along = np.arange(-FEATURES.half_length, FEATURES.half_length) * step
    for first, last in ((0, 8), (8, 16), (16, FEATURES.width)):
        mean = strip[:, first:last].mean(axis=1)
        label = f"{first * step:.2f} to {last * step:.2f} per um across"
        line.plot(along, np.convolve(mean, np.ones(3) / 3, "same"), linewidth=1, label=label)
    edge = (OPTICS.numerical_aperture - LED_NA) / OPTICS.wavelength_um
    for sign in (-1, 1):
        line.axvline(sign * edge, color="tab:cyan", linestyle="--", linewidth=1)
    line.set(
        xlabel="frequency along the LED's axis (cycles per um)", ylabel="mean |gradient| (um)",
        title="saliency; dashed: edges of the circles", ylim=(0, None),
    )  # fmt: skip
    line.legend(fontsize="small")
    return picture


if __name__ == "__main__":
    run(
        "single_shot_understanding",
        measure,
        seed=SEED,
        columns=[
            "input", "stacks", "tested_on", "rmse_um", "rmse_dof", "median_um", "wrong_sign", "chance_um",
            "region", "share_of_strip", "relative", "relative_times_deviation",
        ],
    )  # fmt: skip
