"""Which light a single-shot network learns best from: the angle of one LED, and patterns of several.

Figures 4a and 4c of Pinkard et al. 2019 on simulated fields, with their network and recipe. Each LED has a
frame with noise of its own; patterns of several are added digitally, as there. All LEDs give the same light
on the sample: exposures that compensate for cos(theta).

They find lines of LEDs best. What might make the difference is tried on one LED and two lines: light shared
among the LEDs instead of the full exposure for each, a fiftieth of the light, a wider part of the spectrum,
other specimens, three times the stacks. A second reader, without a network, compares each spectrum with the
mean spectra of all planes: it tells what is in the light from what a network makes of it.
"""

import dataclasses
import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks._networks import DOF_UM, PUBLISHED, Frames, score, train
from benchmarks._results import RESULTS, Figures, figure, run
from bluesky_autofocus._fft import fft
from bluesky_autofocus.models.single_shot.features import StripFeatures
from bluesky_autofocus.models.single_shot.understanding import illumination_study_picture
from bluesky_autofocus.simulation import AbbeImageFormation, LightCamera, specimen
from bluesky_autofocus.training.fields import ABERRATIONS, CACHE, OPTICS, Recipe

SEED = 0
SEEDS = (0, 1)
PATCH_PX = 512

LED = tuple[float, float]


def _x(*na: float) -> tuple[LED, ...]:
    return tuple((one, 0.0) for one in na)


def _y(*na: float) -> tuple[LED, ...]:
    return tuple((0.0, one) for one in na)


ANGLES = (0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6)
PATTERNS: dict[str, tuple[LED, ...]] = {
    "one, 0.2": _x(0.2),
    "one, 0.3": _x(0.3),
    "one, 0.4": _x(0.4),
    "one, 0.4 on y": _y(0.4),
    "line of 2, 0.3 0.4": _x(0.3, 0.4),
    "line of 2, 0.2 0.4": _x(0.2, 0.4),
    "line of 3, 0.2 to 0.4": _x(0.2, 0.3, 0.4),
    "line of 3 on y": _y(0.2, 0.3, 0.4),
    "line of 4, 0.1 to 0.4": _x(0.1, 0.2, 0.3, 0.4),
    "line of 5, 0.1 to 0.45": _x(0.1, 0.2, 0.3, 0.4, 0.45),
    "line of 5, into darkfield": _x(0.2, 0.3, 0.4, 0.5, 0.6),
    "pair, 0.4": _x(0.4, -0.4),
    "symmetric line of 4": _x(0.2, 0.4, -0.2, -0.4),
    "cross of 4, 0.4": _x(0.4, -0.4) + _y(0.4, -0.4),
    "cross of 8": _x(0.2, 0.4, -0.2, -0.4) + _y(0.2, 0.4, -0.2, -0.4),
    "L of 2, 0.4": _x(0.4) + _y(0.4),
    "L of 6": _x(0.2, 0.3, 0.4) + _y(0.2, 0.3, 0.4),
    "half circle of 3, 0.4": _x(0.4) + _y(0.4, -0.4),
}
LINES = tuple(name for name in PATTERNS if name.startswith("line of"))
COMPARED = ("one, 0.4", "line of 3, 0.2 to 0.4", "line of 5, 0.1 to 0.45")

WEAK = 1 / 50
WIDE_PER_UM = 0.5


@dataclasses.dataclass(frozen=True)
class Fields:
    """Some fields, and what is computed of them.

    Parameters
    ----------
    recipe : Recipe
        The fields; its patterns are not used.
    each : tuple of str
        Names of patterns that each LED has a full exposure for; ``NA 0.45`` is one LED.
    shared : tuple of str
        Names of patterns whose LEDs share one exposure.
    weak, wide : bool
        Whether `COMPARED` are also seen with a fiftieth of the light, and with a wider strip.
    """

    recipe: Recipe
    each: tuple[str, ...]
    shared: tuple[str, ...] = ()
    weak: bool = False
    wide: bool = False

    @property
    def key(self) -> str:
        """A name for the cache."""
        text = json.dumps([dataclasses.asdict(self), PATTERNS, WEAK, WIDE_PER_UM], sort_keys=True)
        return f"illumination-{self.recipe.kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


_MAIN = Recipe("cells", 92_000, 80, planes_um=(-30.0, 30.0, 2.0))
STUDIES = {
    "cells": Fields(
        _MAIN,
        each=tuple(PATTERNS) + tuple(f"NA {na:g}" for na in ANGLES if f"one, {na:g}" not in PATTERNS),
        shared=(*COMPARED[1:], "pair, 0.4"),
        weak=True,
        wide=True,
    ),
    "more cells": Fields(dataclasses.replace(_MAIN, first_seed=93_000, count=100), each=COMPARED),
    "sparse cells": Fields(
        dataclasses.replace(
            _MAIN, first_seed=94_000, count=60, specimen_options=(("density_per_mm2", (130.0, 260.0)),)
        ),
        each=COMPARED,
    ),
    "tissue": Fields(dataclasses.replace(_MAIN, kind="tissue", first_seed=95_000, count=60), each=COMPARED),
}
CHECKED = 20
"""The last fields of a study are tested on."""


def leds_of(name: str) -> tuple[LED, ...]:
    """Return the LEDs of a pattern."""
    return _x(float(name.removeprefix("NA "))) if name.startswith("NA ") else PATTERNS[name]


def features_of(name: str, **options: Any) -> StripFeatures:
    """Return the features for a pattern: the strip along its LEDs, along x where they are on both axes."""
    vertical = all(x == 0 for x, _ in leds_of(name))
    return StripFeatures(OPTICS, (0.0, 0.4) if vertical else (0.4, 0.0), PATCH_PX, **options)


def intensities(
    recipe: Recipe, seed: int, leds: Iterable[LED]
) -> tuple[dict[LED, NDArray[np.float32]], NDArray[np.float64], LightCamera]:
    """Simulate a field as `bluesky_autofocus.training` does, without the camera's noise.

    Returns
    -------
    of : dict
        Of each LED alone the planes, shape (n_planes, frame_px, frame_px).
    defocus_um : ndarray, shape (n_planes,)
    camera : LightCamera
    """
    rng = np.random.default_rng((seed, 9))
    vary = 1 + recipe.aberrations_vary * rng.uniform(-1, 1, 3)
    names = ("spherical_waves", "coma_waves", "astigmatism_waves")
    changed = {name: getattr(ABERRATIONS, name) * by for name, by in zip(names, vary, strict=True)}
    aberrations = dataclasses.replace(ABERRATIONS, **changed)
    formation = AbbeImageFormation(recipe.optics, (recipe.frame_px, recipe.frame_px), aberrations)
    view = formation.view(specimen(recipe.kind, (seed,), formation, **dict(recipe.specimen_options)))
    heights = recipe.heights_um(rng) + view.specimen.centre_um
    camera = LightCamera(electrons=rng.uniform(*recipe.electrons), vignetting=rng.uniform(0, 0.3), seed=seed)
    return {led: view.intensity([led], heights) for led in leds}, heights - view.focus_um, camera


def spectra(frames: NDArray[Any], features: StripFeatures) -> NDArray[np.complex64]:
    """Return the complex strips of some frames: those of digitally added frames are their sums."""
    x = frames.astype(np.float32)
    x = x.swapaxes(-1, -2) if features.vertical else x
    x -= x.mean(axis=(-2, -1), keepdims=True)
    across = fft.rfft(np.ascontiguousarray(x.swapaxes(-1, -2)), axis=-1)[..., : features.width]
    spectrum = fft.fft(across, axis=-2)
    half = features.half_length
    return np.concatenate([spectrum[..., -half:, :], spectrum[..., :half, :]], axis=-2)


def magnitudes(strips: NDArray[np.complex64]) -> NDArray[np.float16]:
    """Return the vectors of some strips, as `StripFeatures` makes them."""
    magnitude = np.abs(strips).reshape(len(strips), -1)
    return (magnitude / magnitude.mean(axis=1, keepdims=True)).astype(np.float16)


def _vectors_of_field(job: tuple[Fields, int]) -> dict[str, NDArray[Any]]:
    study, seed = job
    rng = np.random.default_rng((seed, 11))
    single = sorted({led for name in study.each for led in leds_of(name)})
    bright, defocus, camera = intensities(study.recipe, seed, single)
    strips: dict[tuple[LED, bool], NDArray[np.complex64]] = {}
    frames = {led: camera.frame(planes, rng) for led, planes in bright.items()}

    def added(name: str) -> NDArray[np.complex64]:
        features = features_of(name)
        for led in leds_of(name):
            if (led, features.vertical) not in strips:
                strips[led, features.vertical] = spectra(frames[led], features)
        return np.sum([strips[led, features.vertical] for led in leds_of(name)], axis=0)

    def shared(name: str, camera: LightCamera) -> NDArray[np.complex64]:
        leds = leds_of(name)
        together = np.sum([bright[led] for led in leds], axis=0)
        return spectra(camera.frame(together, rng, exposure=1 / len(leds)), features_of(name))

    found: dict[str, NDArray[Any]] = {"defocus_um": defocus.astype(np.float32)}
    found |= {name: magnitudes(added(name)) for name in study.each}
    found |= {f"{name} | shared": magnitudes(shared(name, camera)) for name in study.shared}
    for name in COMPARED[:2] if study.wide else ():
        wide = features_of(name, across_per_um=WIDE_PER_UM)
        found[f"{name} | wide"] = magnitudes(
            np.sum([spectra(frames[led], wide) for led in leds_of(name)], axis=0)
        )
    if study.weak:
        dim = dataclasses.replace(camera, electrons=camera.electrons * WEAK)
        weak = {led: camera_frames(dim, bright[led], rng) for led in leds_of(COMPARED[1])}
        for name in COMPARED[:2]:
            found[f"{name} | weak"] = magnitudes(np.sum([weak[led] for led in leds_of(name)], axis=0))
        found[f"{COMPARED[1]} | weak, shared"] = magnitudes(shared(COMPARED[1], dim))
    return found


def camera_frames(
    camera: LightCamera, planes: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.complex64]:
    """Return the strips along x of what a camera makes of some planes."""
    return spectra(camera.frame(planes, rng), features_of(COMPARED[0]))


def vectors_of(study: Fields) -> dict[str, NDArray[Any]]:
    """Return defoci, shape (fields, planes), and vectors, shape (fields, planes, size), kept on disk."""
    folder = CACHE / study.key
    if not (folder / "seconds").exists():
        folder.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        jobs = [(study, study.recipe.first_seed + index) for index in range(study.recipe.count)]
        arrays: dict[str, Any] = {}
        with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
            for index, found in enumerate(
                tqdm(pool.imap(_vectors_of_field, jobs), study.key, len(jobs), mininterval=5)
            ):
                for name, array in found.items():
                    if name not in arrays:
                        shape = (len(jobs), *array.shape)
                        arrays[name] = np.lib.format.open_memmap(
                            folder / f"{name}.npy", "w+", array.dtype, shape
                        )
                    arrays[name][index] = array
        for array in arrays.values():
            array.flush()
        (folder / "seconds").write_text(str(time.monotonic() - started))
    return {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}


def template_score(learn: Frames, check: Frames) -> dict[str, float]:
    """Score a reader that looks for the most similar of the mean spectra of the planes.

    Logarithms of magnitudes, weighed by their variance; the minimum between planes by a parabola.
    """
    logs = np.log(np.maximum(learn.vectors.astype(np.float32), 1e-2))
    planes = np.unique(learn.plane)
    means = np.array([logs[learn.plane == one].mean(axis=0) for one in planes])
    heights = np.array([learn.defocus_um[learn.plane == one].mean() for one in planes])
    precision = 1 / ((logs - means[np.searchsorted(planes, learn.plane)]).var(axis=0) + 1e-6)
    constant = (means**2 * precision).sum(axis=1)

    def predict(vectors: NDArray[Any]) -> NDArray[np.float64]:
        x = np.log(np.maximum(vectors.astype(np.float32), 1e-2))
        distance = constant - 2 * x @ (means * precision).T
        best = np.clip(distance.argmin(axis=1), 1, len(planes) - 2)
        before, at, after = (distance[np.arange(len(x)), best + step] for step in (-1, 0, 1))
        curve = np.maximum(before - 2 * at + after, 1e-9)
        part = np.clip((before - after) / (2 * curve), -1, 1)
        return heights[best] + part * (heights[1] - heights[0])

    found = score(predict, check)
    return {"template_rmse_um": found["rmse_um"], "template_wrong_sign": found["wrong_sign"]}


def measure(quick: bool) -> tuple[Figures, list[dict[str, Any]], Any]:
    """Train a network for every kind of light."""
    rows: list[dict[str, Any]] = []
    studies = _small(STUDIES) if quick else STUDIES
    effort, seeds, checked = (0.03, SEEDS[:1], 2) if quick else (1.0, SEEDS, CHECKED)
    simulated_s = 0.0
    for label, study in studies.items():
        found = vectors_of(study)
        simulated_s += float((CACHE / study.key / "seconds").read_text())
        fields = len(found["defocus_um"])
        # more cells go to the training set only: the fields tested on stay the same
        test = found if label != "more cells" else vectors_of(studies["cells"])
        n = fields if label == "more cells" else fields - checked
        for name in tqdm([one for one in found if one != "defocus_um"], label):
            learn = _frames(found, name, slice(0, n))
            if label == "more cells":
                learn += _frames(test, name, slice(0, len(test["defocus_um"]) - checked))
            check = _frames(test, name, slice(len(test["defocus_um"]) - checked, None))
            pattern, _, change = name.partition(" | ")
            scores = []
            seconds = 0.0
            for seed in seeds:
                network = train(PUBLISHED, learn.vectors, learn.defocus_um, seed=seed, effort=effort)
                scores.append(score(network, check))
                seconds += network.seconds
            mean = {key: float(np.mean([one[key] for one in scores])) for key in scores[0]}
            rows.append(
                {
                    "study": _study_of(label, pattern, change),
                    "name": pattern,
                    "change": change or ("" if label == "cells" else label),
                    "leds": len(leds_of(pattern)),
                    "na_xy": leds_of(pattern),
                    **mean,
                    "seeds_um": [round(one["rmse_um"], 3) for one in scores],
                    **template_score(learn, check),
                    "train_s": round(seconds, 1),
                }
            )
    print(f"simulated in {simulated_s:.0f} s, kept in {CACHE}")
    # one LED is an angle and a pattern
    rows += [
        {**row, "study": "angle", "name": row["name"].replace("one, ", "NA ")}
        for row in rows
        if row["study"] == "pattern" and row["leds"] == 1 and "y" not in row["name"]
    ]
    rows.sort(key=lambda row: (row["study"], row["rmse_um"]))
    if not quick:
        draw_lines(rows).savefig(RESULTS / "single_shot_illumination_lines.png", dpi=110)
    shown = [row for row in rows if row["study"] != "why"]
    picture = illumination_study_picture(
        shown, numerical_aperture=OPTICS.numerical_aperture, depth_of_field_um=DOF_UM
    )
    return _figures(rows), rows, picture


def _small(studies: dict[str, Fields]) -> dict[str, Fields]:
    recipe = dataclasses.replace(_MAIN, count=5, planes_um=(-30.0, 30.0, 10.0))
    each = ("NA 0.1", "NA 0.55", "one, 0.2", *COMPARED)
    few = dataclasses.replace(studies["cells"], recipe=recipe, each=each, shared=COMPARED[1:2], wide=False)
    return {"cells": few}


def _study_of(label: str, pattern: str, change: str) -> str:
    if change or label != "cells":
        return "why"
    return "angle" if pattern.startswith("NA ") else "pattern"


def _frames(found: dict[str, NDArray[Any]], name: str, which: slice) -> Frames:
    expanded = {"defocus_um": found["defocus_um"], name: found[name][:, None, :, None]}
    return Frames.of(expanded, name, which)


def _figures(rows: list[dict[str, Any]]) -> Figures:
    by_name = {row["name"]: row for row in rows if row["study"] != "why"}
    inside = [by_name[f"NA {na:g}"]["rmse_um"] for na in ANGLES if f"NA {na:g}" in by_name and na < 0.5]
    beyond = [by_name[f"NA {na:g}"]["rmse_um"] for na in ANGLES if f"NA {na:g}" in by_name and na > 0.5]
    ranked = sorted((row for row in rows if row["study"] == "pattern"), key=lambda row: row["rmse_um"])
    lines = [row for row in ranked if row["name"] in LINES]
    ones = [row for row in ranked if row["leds"] == 1]
    others = [row for row in ranked if row not in lines and row not in ones]
    figures: Figures = {
        "angle_gain": figure(inside[0] / min(inside), "ratio, NA 0.1 over the best", "> 1", "higher"),
        "darkfield_loss": figure(min(beyond) / min(inside), "ratio", "> 2: far worse", "higher"),
        "best_single_um": figure(ones[0]["rmse_um"], "um", "as low as possible", "lower"),
        "best_line_um": figure(lines[0]["rmse_um"], "um", "paper: below all others", "lower"),
        "single_over_line": figure(
            ones[0]["rmse_um"] / lines[0]["rmse_um"], "ratio of the best", "paper: > 1", "higher"
        ),
    }
    if others:
        figures["other_over_line"] = figure(
            others[0]["rmse_um"] / lines[0]["rmse_um"], "ratio of the best", "paper: > 1", "higher"
        )
        figures["rank_of_best_line"] = figure(ranked.index(lines[0]) + 1, "of 18", "paper: 1", "lower")
    return figures


def draw_lines(rows: list[dict[str, Any]]) -> Any:
    """Draw what was tried to tell why lines do or do not help."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(13, 5), layout="constrained")
    bars, scatter = picture.subplots(1, 2, width_ratios=(2, 1))
    base = {row["name"]: row for row in rows if row["study"] == "pattern"}
    why = [row for row in rows if row["study"] == "why"]
    changes = ["", *dict.fromkeys(row["change"] for row in why)]
    for index, (name, colour) in enumerate(
        zip((*COMPARED, "pair, 0.4"), ("tab:blue", "tab:orange", "tab:red", "0.6"), strict=True)
    ):
        chosen = [
            base.get(name) if not change else next(
                (row for row in why if row["name"] == name and row["change"] == change), None
            )
            for change in changes
        ]  # fmt: skip
        place = np.arange(len(changes)) + (index - 1.5) * 0.2
        there = [row is not None for row in chosen]
        known = [row for row in chosen if row is not None]
        bars.bar(
            place[there], [row["rmse_um"] for row in known], 0.2, color=colour, label=name,
            yerr=[row["se_um"] for row in known], error_kw={"linewidth": 0.8},
        )  # fmt: skip
    bars.set_xticks(range(len(changes)), [one or "as above" for one in changes], fontsize="small")
    bars.set(ylabel="RMSE (um)", title="one LED and lines, in other circumstances")
    bars.legend(fontsize="small")
    for row in rows:
        if row["study"] == "why":
            continue
        colour = "tab:red" if row["name"] in LINES else "tab:blue" if row["leds"] == 1 else "0.5"
        at = (row["template_rmse_um"], row["rmse_um"])
        scatter.plot(*at, "o", color=colour)
        scatter.annotate(row["name"], at, fontsize=5.5)
    scatter.set(
        xscale="log", yscale="log", xlabel="RMSE of the most similar mean spectrum (um)",
        ylabel="RMSE of the network (um)", title="two readers; red: lines, blue: one LED",
    )  # fmt: skip
    return picture


if __name__ == "__main__":
    run(
        "single_shot_illumination",
        measure,
        seed=SEED,
        columns=[
            "study", "name", "change", "leds", "rmse_um", "se_um", "rmse_dof", "median_um", "wrong_sign",
            "template_rmse_um", "template_wrong_sign", "train_s",
        ],
    )  # fmt: skip
