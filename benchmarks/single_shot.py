"""The default single-shot model, the published recipe and two LEDs on the same fresh fields.

All three see the same frames of fields that were never used for any choice. The published network is trained
here, on the same simulated fields as the weights that are shipped. Then 500 frames that the model is not made
for: of other optics, under other light, of nothing.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks._results import Figures, figure, run
from bluesky_autofocus.models.single_shot import SingleShotModel, make_features
from bluesky_autofocus.models.single_shot.published import PublishedModel, PublishedOptions, train_published
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.simulation import AbbeImageFormation, specimen
from bluesky_autofocus.training.fields import ABERRATIONS, LED_NA, OPTICS, TWO_LED, Recipe, fields
from bluesky_autofocus.training.recipes import CALIBRATION, TEST, TRAINING

SEED = 0
DOF_UM = OPTICS.depth_of_field_um
LED = (LED_NA, 0.0)

_LEDS = ((0.3, 0.0), (0.45, 0.0), (0.0, 0.4), (0.283, 0.283), (0.55, 0.0), (0.0, 0.0))
_FOREIGN: dict[str, dict[str, Any]] = {
    **{f"NA {na:g}": {"optics": LightOptics(numerical_aperture=na)} for na in (0.42, 0.45, 0.6, 0.75)},
    **{
        f"pixel {pixel_um:g} um": {"optics": LightOptics(pixel_size_um=pixel_um)}
        for pixel_um in (0.25, 0.275, 0.325, 0.45, 0.65)
    },
    **{f"LED at NA ({x:g}, {y:g})": {"patterns": (((x, y),),)} for x, y in _LEDS},
    "two LEDs": {"patterns": (((LED_NA, 0.0), (-LED_NA, 0.0)),)},
    "no specimen": {"kind": "empty"},
}
"""What differs from the frames that the model is made for."""


def foreign_recipes(count: int) -> dict[str, Recipe]:
    """Return recipes of frames that the model should refuse; their features are computed all the same."""
    made = {}
    for index, (name, change) in enumerate(_FOREIGN.items()):
        made[name] = Recipe(
            **{
                "kind": "cells",
                "first_seed": 70_000 + 1000 * index,
                "count": count,
                "planes_um": (-30.0, 30.0, 1.0),
                "random_planes": 8,
                "frame_px": 1024,
                "features_for": LED,
                "features_optics": OPTICS,
                **change,
            }
        )
    return made


def measure(quick: bool) -> tuple[Figures, list[dict[str, Any]], Any]:
    """Compare the three methods, then show the default what it is not made for."""
    model = SingleShotModel.load()
    tests = [dataclasses.replace(one, count=4 if quick else one.count) for one in TEST]
    found = [fields(one) for one in (CALIBRATION if quick else tests)]
    kinds = np.repeat([one.kind for one in TEST], [one["defocus_um"].size for one in found])
    truth = np.concatenate([one["defocus_um"].ravel() for one in found])
    rows: list[dict[str, Any]] = []

    default = _default_estimates(model, found)
    rows += _rows("one LED, default", default, truth, kinds)
    # the constant bias of two LEDs on this instrument, measured on other fields
    bias_um = float(np.median(_two_led_bias([fields(one) for one in CALIBRATION])))
    two_led = np.concatenate([one[TWO_LED].reshape(-1, 3) for one in found]).astype(float)
    two_led[:, 0] -= bias_um
    rows += _rows("two LEDs", two_led, truth, kinds)
    published_rows, published = [], np.full((len(truth), 3), np.nan)
    minutes = math.nan
    if not quick:
        trained, minutes = _train_published()
        vectors = [one["strip_magnitude"][:, 0] for one in found]
        answers = np.concatenate([trained.predict(v.reshape(-1, *v.shape[2:])) for v in vectors])
        published = np.column_stack([answers, np.full(len(truth), trained.sigma_um), np.ones(len(truth))])
        published_rows = _rows("one LED, as published", published, truth, kinds)
    rows += published_rows
    foreign = _foreign(model, 1 if quick else 4)
    rows += foreign
    rows += _bounds(2 if quick else 6)

    everywhere = {(row["method"], row["specimens"]): row for row in rows if "specimens" in row}
    one, two = everywhere["one LED, default", "all"], everywhere["two LEDs", "all"]
    error = default[:, 0] - truth
    believed = default[:, 2] > 0
    figures = {
        "rmse_um_default": figure(one["rmse_um"], "um", "0.35, and half of rmse_um_published", "lower"),
        "p99_um_default": figure(one["p99_um"], "um", "", "lower"),
        "refused_share": figure(one["refused"], "", "at most 0.05", "lower"),
        "confident_wrong_per_1000": figure(
            1000 * one["wrong"] / max(int(believed.sum()), 1), "frames", "at most 1", "lower"
        ),
        "coverage_2sigma": figure(
            float(np.mean(np.abs(error[believed]) <= 2 * default[believed, 1])), "", "0.93 .. 0.97", "higher"
        ),
        "rmse_um_two_led": figure(two["rmse_um"], "um", "0.25", "lower"),
        "max_um_two_led": figure(two["max_um"], "um", "", "lower"),
        "confident_wrong_two_led": figure(two["wrong"], "frames", "0", "lower"),
        "coverage_2sigma_two_led": figure(two["coverage"], "", "0.93 .. 0.97", "higher"),
        "bias_um_two_led": figure(bias_um, "um", "measured on other fields, taken off", "lower"),
        "foreign_frames": figure(sum(row["frames"] for row in foreign), "frames", "500", "higher"),
        "foreign_accepted": figure(
            sum(row["frames"] - row["refused_frames"] for row in foreign), "frames", "", "lower"
        ),
        "foreign_accepted_wrong": figure(sum(row["wrong"] for row in foreign), "frames", "0", "lower"),
        "train_minutes": figure(model.card.training.minutes or math.nan, "min", "90, 2019", "lower"),
    }
    if not quick:
        as_published = everywhere["one LED, as published", "all"]
        figures["rmse_um_published"] = figure(as_published["rmse_um"], "um", "", "lower")
        figures["train_minutes_published"] = figure(minutes, "min", "90, 2019", "lower")
    return figures, rows, _picture(truth, default, two_led, published, kinds)


def _default_estimates(model: SingleShotModel, found: Sequence[dict[str, np.ndarray]]) -> np.ndarray:
    """Return (defocus, sigma, accepted) of each frame; the defocus also where it is not accepted."""
    estimates = []
    for one in found:
        powers = one["contours"][:, 0]
        for frame in powers.reshape(-1, *powers.shape[2:]):
            facts = model.facts(np.asarray(frame))
            judged = model.judge(facts)
            estimates.append((facts.defocus_um, judged.sigma_um, judged.accepted))
    return np.array(estimates, float)


def _two_led_bias(found: Sequence[dict[str, np.ndarray]]) -> np.ndarray:
    return np.concatenate(
        [(one[TWO_LED][..., 0] - one["defocus_um"])[one[TWO_LED][..., 2] > 0] for one in found]
    )


def _rows(method: str, estimates: np.ndarray, truth: np.ndarray, kinds: np.ndarray) -> list[dict[str, Any]]:
    rows = []
    for kind in ("all", *dict.fromkeys(kinds.tolist())):
        of = (kinds == kind) | (kind == "all")
        believed = of & (estimates[:, 2] > 0)
        error = np.abs(estimates[believed, 0] - truth[believed])
        rows.append(
            {
                "method": method,
                "specimens": kind,
                "frames": int(of.sum()),
                "rmse_um": float(np.sqrt(np.mean(error**2))),
                "rmse_dof": float(np.sqrt(np.mean(error**2))) / DOF_UM,
                "median_um": float(np.median(error)),
                "p95_um": float(np.quantile(error, 0.95)),
                "p99_um": float(np.quantile(error, 0.99)),
                "max_um": float(error.max()),
                "refused": float(1 - believed.sum() / of.sum()),
                "wrong": int((error > DOF_UM).sum()),
                "coverage": float(np.mean(error <= 2 * estimates[believed, 1])),
            }
        )
    return rows


def _train_published() -> tuple[PublishedModel, float]:
    """Train the published network on the patches that the default was trained on."""
    features: Any = make_features("strip_magnitude", OPTICS, LED, 512)
    found = [fields(one) for one in TRAINING]
    vectors, defoci, groups = [], [], []
    for index, one in enumerate(found):
        stacks = one["strip_magnitude"][:, 0]  # (fields, planes, 1, size)
        vectors.append(np.asarray(stacks).reshape(-1, 1, features.size))
        defoci.append(one["defocus_um"].ravel())
        groups.append(np.repeat(np.arange(len(stacks)) + 10_000 * index, stacks.shape[1]))
    trained = train_published(
        np.concatenate(vectors),
        np.concatenate(defoci),
        np.concatenate(groups),
        features,
        options=PublishedOptions(epochs=30, patience=100_000, batch=256, seed=SEED),
    )
    return trained.model, trained.minutes


def _foreign(model: SingleShotModel, count: int) -> list[dict[str, Any]]:
    rows = []
    for name, recipe in foreign_recipes(count).items():
        found = fields(recipe)
        estimates, truth = _default_estimates(model, [found]), found["defocus_um"].ravel()
        believed = estimates[:, 2] > 0
        wrong = believed & (np.abs(estimates[:, 0] - truth) > DOF_UM)
        rows.append(
            {
                "method": "one LED, default",
                "foreign": name,
                "frames": len(truth),
                "refused_frames": int((~believed).sum()),
                "wrong": int(wrong.sum()),
            }
        )
    return rows


def _bounds(count: int) -> list[dict[str, Any]]:
    """Return how well photons alone would let one know the defocus, if the specimen were known.

    The Cramer-Rao bound with lateral shift and brightness as unknowns, at 5000 electrons a pixel.
    """
    electrons, rows = 5000.0, []
    for kind in ("cells", "tissue"):
        bounds = []
        for index in range(count):
            formation = AbbeImageFormation(OPTICS, (512, 512), ABERRATIONS)
            view = formation.view(specimen(kind, (90_000 + index,), formation))
            for z in (-20.0, -5.0, 0.0, 5.0, 20.0):
                below, here, above = view.intensity([LED], [z - 0.05, z, z + 0.05]) * electrons
                rates = np.stack([(above - below) / 0.1, *np.gradient(here, OPTICS.pixel_size_um), here])
                weighted = rates.reshape(4, -1) / np.sqrt(here.ravel() + 4)
                bounds.append(math.sqrt(np.linalg.inv(weighted @ weighted.T)[0, 0]))
        rows.append(
            {
                "method": "photon bound, specimen known",
                "specimens": kind,
                "frames": len(bounds),
                "rmse_um": float(np.median(bounds)),
                "rmse_dof": float(np.median(bounds)) / DOF_UM,
            }
        )
    return rows


def _picture(
    truth: np.ndarray, default: np.ndarray, two_led: np.ndarray, published: np.ndarray, kinds: np.ndarray
) -> Any:
    import matplotlib.pyplot as plt

    picture, axes = plt.subplots(1, 3, figsize=(15, 4.5), sharey=True, layout="constrained")
    for ax, (name, estimates) in zip(
        axes,
        {"as published": published, "default": default, "two LEDs": two_led}.items(),
        strict=True,
    ):
        for kind, colour in (("cells", "C0"), ("tissue", "C1")):
            of = kinds == kind
            believed = of & (estimates[:, 2] > 0)
            ax.plot(truth[believed], (estimates[:, 0] - truth)[believed], ".", ms=3, color=colour, label=kind)
        refused = ~(estimates[:, 2] > 0)
        ax.plot(truth[refused], (estimates[:, 0] - truth)[refused], "x", ms=4, color="0.6", label="refused")
        ax.axhspan(-DOF_UM, DOF_UM, color="0.93", zorder=0)
        ax.set(title=name, xlabel="defocus (um)", ylim=(-6, 6))
    axes[0].set_ylabel("error (um); grey: one depth of field")
    axes[1].legend(loc="upper right")
    return picture


if __name__ == "__main__":
    run(
        "single_shot",
        measure,
        seed=SEED,
        columns=(
            "method",
            "specimens",
            "foreign",
            "frames",
            "rmse_um",
            "rmse_dof",
            "median_um",
            "p95_um",
            "p99_um",
            "max_um",
            "refused",
            "refused_frames",
            "wrong",
            "coverage",
        ),
    )
