"""How many corrections a drift filter saves in a night that drifts.

A frame a minute for eight hours. Focus is corrected every so many frames; or when a `DriftFilter` is less
certain of it than a fraction of the depth of field, and in between the axis follows the prediction. Each way
also with a look at the frames themselves: one that is more than a depth of field off is noticed, and focus
corrected before the next. What is compared is the number of corrections for the same share of frames within
one depth of field.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._results import Figures, figure, run
from bluesky_autofocus.prediction import DriftFilter
from bluesky_autofocus.simulation.drift import DRIFTS, focus_drift

SEED = 0
HOURS, INTERVAL_S = 8.0, 60.0
DOF_UM = 1.0
SIGMA_UM = 0.12
"""Of a correction."""
SHARE = 0.99
"""Of the frames, that are to be within one depth of field."""
EVERY = (1, 2, 3, 4, 6, 8, 11, 16, 22, 32, 45, 64, 96)
"""Frames from one correction to the next."""
FRACTIONS = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.8, 1.1, 1.5)
"""Of the depth of field, that the uncertainty may be."""

ALL = "any of them"
"""Nobody knows beforehand what the night will be like: one interval, one fraction for all."""


def measure(quick: bool) -> tuple[Figures, list[dict[str, Any]], Any]:
    """Let nights of each kind go by, each way."""
    nights = 3 if quick else 20
    rows: list[dict[str, Any]] = []
    curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
    coverage: dict[str, list[float]] = {}
    for kind in DRIFTS:
        for looks in (False, True):
            besides = " or blurred" if looks else ""
            fixed = [_nights(kind, nights, every=every, looks=looks) for every in EVERY]
            foreseen = [_nights(kind, nights, fraction=fraction, looks=looks) for fraction in FRACTIONS]
            curves[kind, f"every so often{besides}"] = [one[:2] for one in fixed]
            curves[kind, f"foreseen{besides}"] = [one[:2] for one in foreseen]
            if not looks:
                coverage[kind] = [one[2] for one in foreseen]
    for way in dict.fromkeys(way for _, way in curves):
        pooled = np.mean([curves[kind, way] for kind in DRIFTS], axis=0)
        curves[ALL, way] = [(float(spent), float(share)) for spent, share in pooled]
    for kind in (*DRIFTS, ALL):
        row: dict[str, Any] = {"drift": kind, "nights": nights}
        for besides in ("", " or blurred"):
            fixed, foreseen = (
                _corrections(curves[kind, f"{way}{besides}"]) for way in ("every so often", "foreseen")
            )
            row[f"fixed{besides}"], row[f"foreseen{besides}"] = fixed, foreseen
            row[f"saved{besides}"] = 1 - foreseen / fixed
        row["coverage_2sigma"] = float(np.mean(coverage.get(kind, [*coverage.values()])))
        rows.append(row)
    figures: Figures = {}
    for row in rows:
        name = row["drift"].replace(" ", "_")
        figures[f"saved_{name}"] = figure(row["saved or blurred"], "", ">= 0.5", "higher")
    figures["saved_without_a_look"] = figure(rows[-1]["saved"], "", ">= 0.5", "higher")
    # until it is noticed, a knock is nowhere in the prediction
    everything = [row["coverage_2sigma"] for row in rows if row["drift"] not in ("knocked", ALL)]
    figures["coverage_2sigma"] = figure(float(np.mean(everything)), "", "0.93 .. 0.97", "higher")
    figures["coverage_2sigma_least"] = figure(min(everything), "", ">= 0.93", "higher")
    return figures, rows, _picture(curves)


def _nights(
    kind: str, nights: int, *, every: int = 0, fraction: float = 0.0, looks: bool
) -> tuple[float, float, float]:
    """Return corrections a night, share of frames within a depth of field, and of truths within 2 sigma."""
    corrections, within, covered = [], [], []
    for number in range(nights):
        rng = np.random.default_rng((SEED, DRIFTS.index(kind), number))
        times_s = np.arange(0.0, HOURS * 3600, INTERVAL_S)
        focus_um, room_c = focus_drift(kind, times_s, rng)
        spent, error_um, z = _night(times_s, focus_um, room_c, rng, every, fraction, looks)
        corrections.append(spent)
        within.append(np.mean(np.abs(error_um) <= DOF_UM))
        covered += (np.abs(z) <= 2).tolist()
    return float(np.mean(corrections)), float(np.mean(within)), float(np.mean(covered)) if covered else 1.0


def _night(
    times_s: NDArray[Any],
    focus_um: NDArray[Any],
    room_c: NDArray[Any] | None,
    rng: np.random.Generator,
    every: int,
    fraction: float,
    looks: bool,
) -> tuple[int, NDArray[Any], NDArray[Any]]:
    """Return how many corrections there were, the errors of all frames, and those predicted in sigmas."""
    drift, z, errors_um = DriftFilter(), [], np.zeros(len(times_s))
    found_um = focus_um + rng.normal(0, SIGMA_UM, len(times_s))
    axis_um, since, corrections = 0.0, 0, 0
    for number, now_s in enumerate(times_s):
        temperature_c = None if room_c is None else float(room_c[number])
        due = number == 0 or (looks and abs(errors_um[number - 1]) > DOF_UM)
        if every:
            due |= since >= every
        else:
            predicted = drift.predict(now_s, temperature_c=temperature_c)
            due |= not predicted.sigma_um <= fraction * DOF_UM
            if not due:
                axis_um = predicted.position_um
                z.append((focus_um[number] - axis_um) / predicted.sigma_um)
        if due:
            axis_um, since = float(found_um[number]), 0
            corrections += 1
            if not every:
                drift.observe(now_s, axis_um, SIGMA_UM, temperature_c=temperature_c)
        since += 1
        errors_um[number] = axis_um - focus_um[number]
    return corrections, errors_um, np.array(z)


def _corrections(curve: Sequence[tuple[float, float]]) -> float:
    """Return how many corrections a night, or more, give the share; NaN where no number of them will do."""
    ordered = sorted(curve)
    first = 1 + max((index for index, (_, share) in enumerate(ordered) if share < SHARE), default=-1)
    if first == len(ordered):
        return float("nan")
    if first == 0:
        return ordered[0][0]
    (fewer, less), (more, share) = ordered[first - 1], ordered[first]
    # in between along a straight line over the logarithm
    part = (SHARE - less) / (share - less)
    return float(np.exp(np.log(fewer) + part * (np.log(more) - np.log(fewer))))


def _picture(curves: dict[tuple[str, str], list[tuple[float, float]]]) -> Any:
    from matplotlib.figure import Figure

    picture = Figure(figsize=(11, 6), layout="constrained")
    for kind, ax in zip(DRIFTS, picture.subplots(2, 3, sharex=True, sharey=True).flat, strict=True):
        for way in ("every so often", "foreseen", "every so often or blurred", "foreseen or blurred"):
            corrections, share = np.array(sorted(curves[kind, way])).T
            style, colour = ".:" if "blurred" in way else ".-", "C0" if "often" in way else "C1"
            ax.plot(corrections, 100 * (1 - share), style, color=colour, label=way)
        ax.axhline(100 * (1 - SHARE), color="gray", lw=0.8)
        ax.set(title=kind, xscale="log", ylim=(0, 60))
        ax.set_yscale("symlog", linthresh=0.5)
        ax.grid(alpha=0.3)
    picture.supxlabel("corrections in eight hours")
    picture.supylabel("frames more than a depth of field off (%)")
    picture.axes[0].legend(fontsize="small")
    return picture


if __name__ == "__main__":
    run(
        "predicting_focus",
        measure,
        seed=SEED,
        columns=(
            "drift", "nights", "fixed", "foreseen", "saved", "fixed or blurred", "foreseen or blurred",
            "saved or blurred", "coverage_2sigma",
        ),
    )  # fmt: skip
