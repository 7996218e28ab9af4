"""How well a single-shot network learns: with how many stacks, of what variety, from which truth, for what.

Figures 2b and 2c of Pinkard et al. 2019 on simulated fields, with their network and recipe and with one small
network on contour features. Errors are those of single patches of 512 x 512 pixels within +-30 um of focus,
on fields that no network here is trained on and by which nothing is chosen.
"""

import dataclasses
import multiprocessing
import os
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks._networks import CONTOURS, DOF_UM, PUBLISHED, Frames, Settings, Trained, score, train
from benchmarks._results import Figures, figure, run
from bluesky_autofocus.defocus.ground_truth import focus_of_stack
from bluesky_autofocus.leds import parse_pattern, quasi_dome
from bluesky_autofocus.training.fields import CACHE, OPTICS, Recipe, field_frames, fields, seconds_of
from bluesky_autofocus.training.recipes import TRAINING

SEED = 0
RECIPES: dict[str, tuple[str, Settings]] = {
    "published": ("strip_magnitude", PUBLISHED),
    "contours": ("contours", CONTOURS),
}
STACKS = (10, 30, 60, 120, 240, 440)
TISSUE_ADDED = 130
CHECK = {"cells": slice(900, 1000), "tissue": slice(300, 400), "uniform": slice(120, 140)}
"""Fields to judge by: the last of those that are simulated, of which the first are trained on."""

UNIFORM = Recipe(
    "cells", 90_000, 140, planes_um=(-30.0, 30.0, 1.0), features=("contours", "strip_magnitude"),
    electrons=(5000.0, 5000.0), specimen_options=(("density_per_mm2", (700.0, 700.0)),),
)  # fmt: skip
"""Fields of one density of cells and one exposure."""

LABELLED = 60
"""Fields of cells of which both kinds of ground truth are found."""


@dataclasses.dataclass
class Study:
    """Trains and scores, and keeps the rows.

    Parameters
    ----------
    found : dict
        What is known of the fields of each kind.
    check : dict
        Which of them to judge by.
    effort : float
        Times the usual training.
    """

    found: dict[str, dict[str, NDArray[Any]]]
    check: dict[str, slice]
    effort: float
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self._judged: dict[tuple[str, str], Frames] = {}

    def frames(self, recipe: str, kind: str, which: Any) -> Frames:
        """Return what a network of a recipe sees of some fields."""
        return Frames.of(self.found[kind], RECIPES[recipe][0], which)

    def train(
        self,
        recipe: str,
        frames: Frames,
        *,
        seed: int = SEED,
        start: Trained | None = None,
        defocus_um: Any = None,
    ) -> Trained:
        """Train on some frames, less long where it goes on; `defocus_um` in place of the truth."""
        truth = frames.defocus_um if defocus_um is None else defocus_um
        effort = self.effort * (1.0 if start is None else 0.4)
        return train(RECIPES[recipe][1], frames.vectors, truth, seed=seed, start=start, effort=effort)

    def judge(self, study: str, recipe: str, network: Trained, kind: str, **facts: Any) -> dict[str, Any]:
        """Score a network on the fields kept out and keep a row."""
        if (recipe, kind) not in self._judged:
            self._judged[recipe, kind] = self.frames(recipe, kind, self.check[kind])
        row = {"study": study, "recipe": recipe, "tested_on": kind, **facts}
        row |= {"train_s": round(network.seconds, 1), "train_core_s": round(network.core_seconds, 1)}
        row |= {**score(network, self._judged[recipe, kind])}
        self.rows.append(row)
        return row


def measure(quick: bool) -> tuple[Figures, list[dict[str, Any]], Any]:
    """Run all studies."""
    small: dict[str, Any] = {"count": 8, "planes_um": (-30.0, 30.0, 5.0)} if quick else {}
    recipes = [dataclasses.replace(one, **small) for one in TRAINING]
    uniform_recipe = dataclasses.replace(UNIFORM, **small)
    started = time.monotonic()
    found = {one.kind: fields(one) for one in recipes} | {"uniform": fields(uniform_recipe)}
    check = {kind: slice(6, 8) if quick else which for kind, which in CHECK.items()}
    study = Study(found, check, 0.03 if quick else 1.0)
    stacks = (3, 6) if quick else STACKS
    networks = _curve(study, stacks)
    _generalisation(study, networks, TISSUE_ADDED if not quick else 4)
    _variety(study, 120 if not quick else 6)
    labels = _labels(dataclasses.replace(recipes[0], count=3 if quick else LABELLED))
    _ground_truth(study, labels)
    print(f"simulated in {seconds_of([*recipes, uniform_recipe]):.0f} s, kept in {CACHE}")
    print(f"trained and tested in {time.monotonic() - started:.0f} s")
    return _figures(study.rows, max(stacks)), study.rows, draw(study.rows, found["cells"], labels)


def _curve(study: Study, stacks: tuple[int, ...]) -> dict[str, Trained]:
    """Train with more and more stacks; return the networks of most stacks of cells."""
    networks: dict[str, Trained] = {}
    jobs = [
        (recipe, kind, n)
        for recipe in RECIPES
        for kind in ("cells", "tissue")
        for n in stacks
        if n <= study.check[kind].start and not (kind == "tissue" and n > 240)
    ]
    for recipe, kind, n in tqdm(jobs, "learning curve"):
        # which few fields there are matters: different ones twice
        repeats = 2 if n <= 30 and 2 * n <= study.check[kind].start else 1
        results = []
        for index in range(repeats):
            network = study.train(
                recipe, study.frames(recipe, kind, slice(index * n, index * n + n)), seed=index
            )
            study.judge("stacks", recipe, network, kind, trained_on=kind, stacks=n, repeat=index)
            results.append(network)
        if kind == "cells":
            networks[recipe] = results[0]
    return networks


def _generalisation(study: Study, networks: dict[str, Trained], added: int) -> None:
    """Test networks for cells on tissue, then show them a little tissue."""
    for recipe, network in tqdm(networks.items(), "generalisation"):
        cells = study.frames(recipe, "cells", slice(0, max(r.get("stacks", 0) for r in study.rows)))
        tissue = study.frames(recipe, "tissue", slice(0, added))
        tuned = study.train(recipe, tissue, start=network)
        both = cells + tissue
        variants = {
            "cells": network,
            "cells, then tissue": tuned,
            "cells, then both": study.train(recipe, both, start=network),
            "both from the start": study.train(recipe, both),
        }
        for name, one in variants.items():
            for kind in ("cells", "tissue"):
                study.judge("generalisation", recipe, one, kind, trained_on=name)


def _variety(study: Study, n: int) -> None:
    """Train on as many stacks with and without variety."""
    for recipe in tqdm(RECIPES, "variety"):
        for seed in (0, 1):
            for kind, name in (("cells", "varied"), ("uniform", "uniform")):
                network = study.train(recipe, study.frames(recipe, kind, slice(0, n)), seed=seed)
                for tested in ("cells", "uniform"):
                    study.judge("variety", recipe, network, tested, trained_on=name, stacks=n, repeat=seed)


LABELS = (
    "incoherent",
    "incoherent, maximum",
    "coherent",
    "coherent, maximum",
    "coherent, within 12 um",
    "coherent, within 12 um, maximum",
)
"""By the centre of the peak, or by its maximum as published; the last two know about where the focus is."""


def _labels(recipe: Recipe) -> dict[str, NDArray[Any]]:
    """Return where stacks of fields are in focus, relative to the truth, and whether that is trusted.

    Both stacks have the range of the paper's, noise of their own and planes 1.5 um apart, at heights that
    differ from those the truth was found with. For the incoherent one the half annulus of the simulated array
    is lit.
    """
    path = CACHE / f"labels-{recipe.key}.npz"
    if not path.exists():
        jobs = [(recipe, recipe.first_seed + index) for index in range(recipe.count)]
        with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
            found = list(tqdm(pool.imap(_labels_of_field, jobs), "ground truth", len(jobs)))
        np.savez(path, error_um=[one[0] for one in found], trusted=[one[1] for one in found])
    with np.load(path) as file:
        return dict(file)


def _labels_of_field(job: tuple[Recipe, int]) -> tuple[list[float], list[bool]]:
    recipe, seed = job
    dome = quasi_dome()
    chosen = dome.select(parse_pattern("half_annulus_top", OPTICS.numerical_aperture))
    half = tuple((float(x), float(y)) for x, y in dome.na_xy[list(chosen)])
    both = dataclasses.replace(recipe, planes_um=(-33.4, 33.0, 1.5), patterns=(half, *recipe.patterns))
    (incoherent, coherent), z = field_frames(both, seed)
    near = np.abs(z) <= 12
    errors, trusted = [], []
    for frames, heights in ((incoherent, z), (coherent, z), (coherent[near], z[near])):
        for at in ("centre", "maximum"):
            truth = focus_of_stack(frames, heights, at=at)
            errors.append(truth.position_um)
            trusted.append(truth.trusted)
    return errors, trusted


def _ground_truth(study: Study, labels: dict[str, NDArray[Any]]) -> None:
    """Train on the labels that stacks of each kind give."""
    error = labels["error_um"]
    for index, name in enumerate(LABELS):
        one = error[:, index]
        known = np.isfinite(one)
        study.rows.append(
            {
                "study": "ground truth", "recipe": "the label itself", "trained_on": name,
                "rmse_um": float(np.sqrt(np.mean(one[known] ** 2))),
                "rmse_dof": float(np.sqrt(np.mean(one[known] ** 2)) / DOF_UM),
                "median_um": float(np.median(np.abs(one[known]))), "bias_um": float(np.median(one[known])),
                "trusted": float(labels["trusted"][:, index].mean()), "stacks": len(one),
            }
        )  # fmt: skip
    for recipe in tqdm(RECIPES, "ground truth"):
        frames = study.frames(recipe, "cells", slice(0, len(error)))
        for name in ("truth", *LABELS[::2]):
            wrong = error[:, LABELS.index(name)] if name in LABELS else np.zeros(len(error))
            used = np.isfinite(wrong)
            chosen = frames[used[frames.field]]
            # a label above the focus makes every defocus of its stack too small
            network = study.train(recipe, chosen, defocus_um=chosen.defocus_um - wrong[chosen.field])
            study.judge("ground truth", recipe, network, "cells", trained_on=name, stacks=int(used.sum()))


def _rmse(rows: list[dict[str, Any]], **wanted: Any) -> float:
    """Return the RMSE of rows that belong together, over their repeats."""
    chosen = [row["rmse_um"] for row in rows if all(row.get(key) == value for key, value in wanted.items())]
    return float(np.sqrt(np.mean(np.square(chosen)))) if chosen else float("nan")


def _figures(rows: list[dict[str, Any]], most: int) -> Figures:
    figures: Figures = {}
    for recipe in RECIPES:
        few = min(row["stacks"] for row in rows if row["study"] == "stacks")
        for kind in ("cells", "tissue"):
            n = most if kind == "cells" else min(most, 240)
            value = _rmse(rows, study="stacks", recipe=recipe, tested_on=kind, stacks=n)
            figures[f"{recipe}_{kind}_{n}_stacks_um"] = figure(
                value, "um", "paper's code on cells: 1.36", "lower"
            )
            gain = _rmse(rows, study="stacks", recipe=recipe, tested_on=kind, stacks=few) / value
            figures[f"{recipe}_{kind}_gain_from_{few}_stacks"] = figure(
                gain, "ratio", "> 1: more stacks help", "higher"
            )
        seconds = [
            row["train_core_s"]
            for row in rows
            if row["study"] == "stacks" and row["recipe"] == recipe and row["stacks"] == most
        ]
        # TensorFlow keeps two cores busy
        figures[f"{recipe}_train_core_s_{most}_stacks"] = figure(
            seconds[0], "s of a core", "paper: 5400 s of a desktop", "lower"
        )
        general = {"study": "generalisation", "recipe": recipe}
        for key, name, paper in (
            ("cells_only", "cells", "18.2"), ("then_tissue", "cells, then both", "1.75")
        ):  # fmt: skip
            figures[f"{recipe}_on_tissue_{key}_um"] = figure(
                _rmse(rows, **general, trained_on=name, tested_on="tissue"),
                "um", f"paper's code: {paper}", "lower",
            )  # fmt: skip
        variety = {"study": "variety", "recipe": recipe, "tested_on": "cells"}
        figures[f"{recipe}_gain_from_variety"] = figure(
            _rmse(rows, **variety, trained_on="uniform") / _rmse(rows, **variety, trained_on="varied"),
            "ratio", "> 1: variety helps", "higher",
        )  # fmt: skip
        truth = {"study": "ground truth", "recipe": recipe}
        figures[f"{recipe}_coherent_labels_worse"] = figure(
            _rmse(rows, **truth, trained_on="coherent") / _rmse(rows, **truth, trained_on="incoherent"),
            "ratio", "> 1: incoherent is better", "higher",
        )  # fmt: skip
    labels = {"study": "ground truth", "recipe": "the label itself"}
    for name in ("incoherent", "coherent"):
        figures[f"{name}_label_um"] = figure(
            _rmse(rows, **labels, trained_on=name), "um", "as low as possible", "lower"
        )
    return figures


def draw(rows: list[dict[str, Any]], cells: dict[str, NDArray[Any]], labels: dict[str, NDArray[Any]]) -> Any:
    """Draw learning curves, generalisation, and what labels do."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(12, 8), layout="constrained")
    (curve, general), (variety, truth) = picture.subplots(2, 2)
    for recipe, colour in (("published", "tab:blue"), ("contours", "tab:orange")):
        for kind, style in (("cells", "-"), ("tissue", "--")):
            chosen = {"study": "stacks", "recipe": recipe, "tested_on": kind}
            counts = sorted(
                {row["stacks"] for row in rows if all(row.get(k) == v for k, v in chosen.items())}
            )
            values = [_rmse(rows, **chosen, stacks=n) for n in counts]
            curve.plot(counts, values, "o", linestyle=style, color=colour, label=f"{recipe}, {kind}")
    curve.set(
        xscale="log", yscale="log", xlabel="stacks trained on", ylabel="RMSE (um)", title="learning curve"
    )
    counts = sorted({row["stacks"] for row in rows if row["study"] == "stacks"})
    curve.set_xticks(counts, [str(n) for n in counts])
    curve.minorticks_off()
    ticks = [one for one in (0.3, 0.5, 1, 2, 5, 10) if curve.get_ylim()[0] < one < curve.get_ylim()[1]]
    curve.set_yticks(ticks, [f"{one:g}" for one in ticks])
    curve.grid(alpha=0.3)
    curve.legend(fontsize="small")
    second = curve.secondary_yaxis("right", functions=(lambda um: um / DOF_UM, lambda dof: dof * DOF_UM))
    second.set_ylabel("RMSE (DOF)")

    names = ["cells", "cells, then tissue", "cells, then both", "both from the start"]
    _bars(general, rows, "generalisation", names, ("cells", "tissue"))
    general.set(yscale="log", title="trained on ... (paper: 1.36, tissue 18.2, then 1.75)")
    _bars(variety, rows, "variety", ["varied", "uniform"], ("cells", "uniform"))
    variety.set(title="density and exposure of the training fields", ylim=(0, None))
    names = ["truth", *LABELS[::2]]
    _bars(truth, rows, "ground truth", names, ("cells",), legend="upper right")
    truth.set(title="labels from stacks of ... light", ylim=(0, None))
    inset = truth.inset_axes((0.08, 0.5, 0.4, 0.42))
    for index in (0, 2, 4):
        error = labels["error_um"][:, index]
        inset.hist(np.clip(error, -35, 35), np.arange(-35, 35.1, 1), alpha=0.6, label=LABELS[index])
    inset.set_yscale("log")
    inset.set_xlabel("error of the label (um)", fontsize=7)
    inset.tick_params(labelsize=6)
    inset.legend(fontsize=6)
    return picture


def _bars(
    axes: Any,
    rows: list[dict[str, Any]],
    study: str,
    names: list[str],
    tested: tuple[str, ...],
    legend: str = "best",
) -> None:
    place = np.arange(len(names))
    sets = [(recipe, kind) for recipe in RECIPES for kind in tested]
    width = 0.8 / len(sets)
    for index, (recipe, kind) in enumerate(sets):
        values = [_rmse(rows, study=study, recipe=recipe, tested_on=kind, trained_on=name) for name in names]
        colour = {"published": "tab:blue", "contours": "tab:orange"}[recipe]
        bars = axes.bar(
            place + (index - (len(sets) - 1) / 2) * width, values, width, color=colour,
            alpha=1.0 if kind == tested[0] else 0.5, label=f"{recipe}, on {kind}",
        )  # fmt: skip
        axes.bar_label(bars, fmt="%.2g", fontsize=7)
    axes.set_xticks(place, names, fontsize="small")
    axes.set_ylabel("RMSE (um)")
    axes.legend(fontsize="small", loc=legend)


if __name__ == "__main__":
    run(
        "single_shot_learning",
        measure,
        seed=SEED,
        columns=[
            "study", "recipe", "trained_on", "stacks", "tested_on", "rmse_um", "se_um", "rmse_dof",
            "median_um", "wrong_sign", "train_s", "train_core_s", "bias_um", "trusted",
        ],
    )  # fmt: skip
