"""Pictures of the comparison of searches."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks._ours import OURS
from benchmarks._peers import variance_of_laplacian
from benchmarks._search_fields import KINDS, field
from benchmarks._search_instruments import DOSES
from benchmarks._search_outcomes import COMPETITORS, Outcome
from benchmarks._search_scenes import Simulated
from bluesky_autofocus.sharpness import DEFAULT_METRIC, metric

__all__ = ["draw", "draw_curves", "draw_hard"]


def draw(outcomes: Sequence[Outcome]) -> Any:
    """Draw who is in focus, who is wrong about it, and how far off answers are."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(15, 12), layout="constrained")
    grid = picture.subplots(3, 3, sharey="row")
    colours = _colours()
    for column, dose in enumerate(DOSES):
        for name in COMPETITORS:
            of = [one for one in outcomes if one.competitor == name and one.dose == dose]
            ranges = sorted({one.range_dof for one in of})
            if not of:
                continue
            style = {"color": colours[name], "linewidth": 2.5 if name in OURS else 1.2}
            for axes, what in ((grid[0, column], "right"), (grid[1, column], "wrong")):
                shares = [
                    np.mean(
                        [one.found and one.right == (what == "right") for one in of if one.range_dof == each]
                    )
                    for each in ranges
                ]
                axes.plot(ranges, shares, ".-", label=name, **style)
            off = np.sort([one.error_dof for one in of if one.found and one.range_dof == 40])
            share = np.arange(1, len(off) + 1) / max(sum(one.range_dof == 40 for one in of), 1)
            grid[2, column].step(np.maximum(off, 1e-3), share, where="post", **style)
        grid[0, column].set_title(f"{dose} dose")
        for axes in grid[:2, column]:
            axes.set_xscale("log")
            axes.set_xticks([4, 10, 20, 40, 80], ["4", "10", "20", "40", "80"])
            axes.minorticks_off()
            axes.set_xlabel("range (DOF)")
        grid[2, column].set_xscale("log")
        grid[2, column].axvline(1, color="0.7", zorder=0)
        grid[2, column].set_xlabel("error of the answers given, range 40 DOF (DOF)")
    for axes, label in zip(
        grid[:, 0],
        ("claimed, and within 1 DOF", "claimed, and wrong", "of all searches, answers that near"),
        strict=True,
    ):
        axes.set_ylabel(label)
        axes.set_ylim(-0.02, 1.02)
    grid[1, 1].legend(fontsize=8, ncols=2)
    return picture


def draw_hard(robust: Sequence[Outcome], traps: Sequence[Outcome]) -> Any:
    """Draw who is in focus under which condition, and who is wrong in which trap."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(14, 11), layout="constrained")
    upper, middle, lower = picture.subplots(3, 1, height_ratios=[9, 9, 13])
    _table(upper, robust, "claimed, and within 1 DOF (%)", lambda one: one.found and one.right, "Greens")
    _table(middle, robust, "confident and wrong (%)", lambda one: one.confident_wrong, "Reds")
    _table(lower, traps, "traps: confident and wrong (%)", lambda one: one.confident_wrong, "Reds")
    return picture


def _table(axes: Any, outcomes: Sequence[Outcome], title: str, counts: Any, colours: str) -> None:
    names = [name for name in COMPETITORS if any(one.competitor == name for one in outcomes)]
    cases = list(dict.fromkeys(one.case for one in outcomes))
    shares = np.full((len(names), len(cases)), np.nan)
    for row, column in np.ndindex(shares.shape):
        of = [one for one in outcomes if (one.case, one.competitor) == (cases[column], names[row])]
        if of:
            shares[row, column] = np.mean([counts(one) for one in of])
    axes.imshow(100 * shares, cmap=colours, vmin=0, vmax=140, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        if not np.isnan(share):
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(cases)), [case.replace(", ", ",\n") for case in cases], fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_title(title, fontsize=10)


def draw_curves() -> Any:
    """Draw one field of each kind at focus, and what two metrics make of its frames over 40 DOF."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(13, 2.3 * len(KINDS)), layout="constrained")
    grid = picture.subplots(len(KINDS), 5, width_ratios=[1, 1, 1, 2, 2])
    score = metric(DEFAULT_METRIC)
    away = np.linspace(-20, 20, 161)
    for line, kind in zip(grid, KINDS, strict=True):
        scene = Simulated(field(kind, 1))
        rng = np.random.default_rng(0)
        dof_um = scene.instrument.depth_of_field_um
        for axes, dose, at_dof in zip(line, ("high", "low", "high"), (0, 0, 5), strict=False):
            axes.imshow(scene.frame(at_dof * dof_um, dose, 1.0, rng), cmap="gray")
            axes.set_title(f"{kind}, {dose} dose, {at_dof} DOF", fontsize=7)
            axes.axis("off")
        for dose in DOSES:
            frames = [scene.frame(one * dof_um, dose, 1.0, rng) for one in away]
            for axes, of, name in zip(
                line[3:],
                (score, variance_of_laplacian),
                (DEFAULT_METRIC, "variance of Laplacian, as published"),
                strict=True,
            ):
                scores = np.array([of(frame) for frame in frames])
                axes.plot(away, scores / scores.max(), linewidth=1, label=dose)
                axes.set_title(name, fontsize=7)
                axes.set_ylim(0, 1.05)
                axes.tick_params(labelsize=6)
    grid[0, 3].legend(fontsize=7)
    for axes in grid[-1, 3:]:
        axes.set_xlabel("defocus (DOF)", fontsize=7)
    return picture


def _colours() -> dict[str, Any]:
    from matplotlib import colormaps

    ours = dict(zip(OURS, ("black", "tab:blue", "tab:green"), strict=True))
    # of the palette, those that are neither blue nor green
    others = iter((2, 6, 8, 10, 12, 14, 16, 18, 3, 7, 9, 11))
    return {**ours, **{name: colormaps["tab20"](next(others)) for name in COMPETITORS if name not in OURS}}
