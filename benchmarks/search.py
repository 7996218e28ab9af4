"""Focus searches side by side: those of this package, and what others do, on the same fields.

Ordinary fields: eight kinds of specimen under four simulated instruments, ranges of 4 to 80 depths of
field, three doses. Where focus lies in the range is random, at least a depth of field and a tenth of the
range from its ends, and so is the start. Everybody gets the same field, start and noise. A claim more than
one depth of field from focus is confident and wrong; those without a verdict always claim. Costs are
exposures, dose in frames of high dose, travel, and seconds on a motor with ramps and settling.

Then the same under drift, backlash, hysteresis, vibration, flicker, dust and dead frames; traps, in which
there is no focus, or something hides it; recorded stacks from every plane as the start, where they are there;
and the package's search over very many synthetic curves. Where motion is lost, the package's methods are told
how far to go past a position to come from one side, as their plans are.

``--curves N`` only counts over that many curves, and prints.
"""

import argparse
import itertools
import math
import multiprocessing
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from statistics import fmean
from typing import Any

import cv2

from benchmarks import _results
from benchmarks._ours import OURS
from benchmarks._peer_packages import versions
from benchmarks._search_cases import (
    RECORDED_TRAPS,
    ROBUST_RANGE_DOF,
    SEED,
    STACKS,
    ordinary,
    recorded,
    recorded_names,
    robust,
)
from benchmarks._search_curves import count_curves
from benchmarks._search_instruments import DOSES
from benchmarks._search_outcomes import COMPETITORS, Outcome, competing, search_once, summary
from benchmarks._search_pictures import draw, draw_curves, draw_hard
from benchmarks._search_traps import TRAP_RANGE_DOF, TRAPS, trap

RANGES_DOF = (4, 10, 20, 40, 80)

BETTER = ("sweep, argmax", "OughtaFocus Brent", "OughtaFocus stack", "OpenFlexure fast", "fibsem", "mapfost")
"""Peers that are also tried under conditions that are not ideal."""

PHASE = "cells"
"""Specimens that hardly absorb: their octaves are sharpest at different positions, which `search` does not
believe. They count by themselves."""

CURVES = 20_000
CURVES_AT_ONCE = 100
STARTS_AT_ONCE = 12

COLUMNS = [
    "part",
    "competitor",
    "case",
    "range_dof",
    "dose",
    "trials",
    "within_half_dof",
    "within_1_dof",
    "not_found",
    "confident_wrong",
    "stands_in_focus",
    "median_error_dof",
    "coverage_2sigma",
    "exposures",
    "dose_spent",
    "travel_dof",
    "seconds",
]


def measure(quick: bool) -> tuple[_results.Figures, list[dict[str, Any]], Any]:
    """Search everything."""
    packages = versions()
    trials = 8 if quick else 304  # a multiple of the kinds
    tasks: list[Callable[[], list[Outcome]]] = [
        partial(
            search_ordinary, trial, (10, 40) if quick else RANGES_DOF, ("medium", "low") if quick else DOSES
        )
        for trial in range(trials)
    ]
    tasks += [partial(search_robust, trial) for trial in range(4 if quick else 104)]
    tasks += [partial(search_trap, name, trial) for trial in range(1 if quick else 50) for name in TRAPS]
    for name in recorded_names():
        starts = range(0, len(list(recorded(name))), STARTS_AT_ONCE)
        tasks += [
            partial(search_recorded, name, first, first + (1 if quick else STARTS_AT_ONCE))
            for first in (starts[:1] if quick else starts)
        ]
    with _processes() as pool:
        of = defaultdict(list)
        for outcome in itertools.chain.from_iterable(pool.map(_call, tasks)):
            of[outcome.part].append(outcome)
        counts = curves(200 if quick else CURVES, pool)
    rows = [
        *_rows(of["ordinary"], "range_dof", "dose"),
        *_rows([one for one in of["ordinary"] if (one.range_dof, one.dose) == (40, "medium")], "kind"),
        *_rows(of["robust"], "case"),
        *_rows(of["trap"], "case"),
        *_rows(of["recorded"], "case"),
        *_curve_rows(counts),
        {"part": "packages", "case": ", ".join(f"{name} {version}" for name, version in packages.items())},
    ]
    if not of["recorded"]:
        rows.append({"part": "recorded", "case": f"the recorded stacks are not at {STACKS}"})
    if not quick:
        draw_hard(of["robust"], of["trap"]).savefig(_results.RESULTS / "search_hard.png", dpi=110)
        draw_curves().savefig(_results.RESULTS / "search_curves.png", dpi=110)
    return _figures(of, counts), rows, draw(of["ordinary"])


# Tasks, each done in a process


def search_ordinary(trial: int, ranges_dof: tuple[int, ...], doses: tuple[str, ...]) -> list[Outcome]:
    """Search one ordinary field by all."""
    return [
        search_once(competitor, "ordinary", "", range_dof, case)
        for range_dof, case in ordinary(trial, ranges_dof, doses)
        for competitor in competing(case)
    ]


def search_robust(trial: int) -> list[Outcome]:
    """Search one field under all conditions."""
    return [
        search_once(competitor, "robust", condition, ROBUST_RANGE_DOF, case)
        for condition, case in robust(trial)
        for competitor in competing(case, (*OURS, *BETTER))
    ]


def search_trap(name: str, trial: int) -> list[Outcome]:
    """Walk into one trap by all."""
    case = trap(name, trial)
    return [search_once(competitor, "trap", name, TRAP_RANGE_DOF, case) for competitor in competing(case)]


def search_recorded(name: str, first: int, last: int) -> list[Outcome]:
    """Search a recorded stack from some of its planes by all."""
    return [
        search_once(competitor, "recorded", name, 0, case)
        for case in itertools.islice(recorded(name), first, last)
        for competitor in competing(case)
    ]


def curves(number: int, pool: ProcessPoolExecutor) -> Counter[tuple[str, str]]:
    """Search so many synthetic curves by this package."""
    firsts = range(0, number, CURVES_AT_ONCE)
    tasks = [partial(count_curves, first, min(first + CURVES_AT_ONCE, number)) for first in firsts]
    return sum(pool.map(_call, tasks), Counter())


def _processes() -> ProcessPoolExecutor:
    spawning = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(os.cpu_count(), mp_context=spawning, initializer=_alone)


def _alone() -> None:
    """One thread in each process."""
    cv2.setNumThreads(1)


def _call(task: Callable[[], Any]) -> Any:
    return task()


# What came out


def _rows(outcomes: Iterable[Outcome], *keys: str) -> list[dict[str, Any]]:
    """Sum up for each competitor and each value of the keys."""
    groups: dict[tuple[Any, ...], list[Outcome]] = defaultdict(list)
    for one in outcomes:
        groups[tuple(getattr(one, key) for key in keys) + (one.competitor,)].append(one)
    return [
        {
            "part": group[0].part if keys != ("kind",) else "kind at 40, medium",
            "competitor": group[0].competitor,
            **{"case" if key == "kind" else key: getattr(group[0], key) for key in keys},
            **summary(group),
        }
        for group in groups.values()
    ]


def _curve_rows(counts: Counter[tuple[str, str]]) -> list[dict[str, Any]]:
    rows = []
    for kind in sorted({kind for kind, _ in counts}):
        trials, right = counts[kind, "trials"], counts[kind, "right"]
        rows.append(
            {
                "part": "curves",
                "competitor": "search",
                "case": kind,
                "trials": trials,
                "within_1_dof": right / trials,
                "not_found": counts[kind, "not_found"] / trials,
                "confident_wrong": counts[kind, "confident_wrong"] / trials,
                "coverage_2sigma": counts[kind, "covered"] / right if right else math.nan,
                "exposures": counts[kind, "exposures"] / trials,
            }
        )
    return rows


def _figures(of: dict[str, list[Outcome]], counts: Counter[tuple[str, str]]) -> _results.Figures:
    figure = _results.figure
    ours = [one for one in of["ordinary"] if one.competitor == "search"]
    whole = summary(ours)
    at_40 = {
        name: summary(
            [
                one
                for one in of["ordinary"]
                if (one.competitor, one.range_dof, one.dose) == (name, 40, "medium")
            ]
        )
        for name in COMPETITORS
    }
    medium = [one for one in of["ordinary"] if (one.range_dof, one.dose) == (40, "medium")]
    # where nothing stands out of the noise, not even a full sweep is sharpest in focus
    peaks = {one.number for one in medium if one.competitor == "sweep, argmax" and one.right}
    visible = [one for one in medium if one.competitor == "search" and one.number in peaks]
    shares = {
        phase: fmean(one.found and one.right for one in visible if (one.kind == PHASE) == phase)
        for phase in (False, True)
        if any((one.kind == PHASE) == phase for one in visible)
    }
    # mapfost was not tried on all of the fields
    best = max(
        (name for name in at_40 if name not in (*OURS, "mapfost")),
        key=lambda name: at_40[name]["within_1_dof"],
    )
    best_wrong = fmean(one.confident_wrong for one in of["ordinary"] if one.competitor == best)
    traps = [one for one in of["trap"] if one.competitor == "search"]
    traps += [one for one in of["recorded"] if one.competitor == "search" and one.case in RECORDED_TRAPS]
    robust_shares = [
        row["within_1_dof"] for row in _rows(of["robust"], "case") if row["competitor"] == "search"
    ]
    total = sum(number for (_, what), number in counts.items() if what == "trials")
    curves_wrong = sum(number for (_, what), number in counts.items() if what == "confident_wrong")
    figures = {
        "success_40dof_medium": figure(shares[False], "share where there is a peak", "0.995", "higher"),
        "success_40dof_medium_phase": figure(
            shares.get(True, math.nan), "share of phase specimens", "reported", "higher"
        ),
        "success_40dof_medium_all": figure(
            at_40["search"]["within_1_dof"], "share of all fields", "reported", "higher"
        ),
        "mean_exposures": figure(
            fmean(one.exposures for one in visible if one.kind != PHASE),
            "where there is a peak, 40 DOF, medium",
            "9",
            "lower",
        ),
        "mean_exposures_all": figure(whole["exposures"], "of all ranges and doses", "reported", "lower"),
        "confident_wrong_per_10000": figure(1e4 * whole["confident_wrong"], f"of {len(ours)}", "0", "lower"),
        "median_error_dof": figure(whole["median_error_dof"], "DOF", "0.1", "lower"),
        "coverage_2sigma": figure(whole["coverage_2sigma"], "share", "0.95", "higher"),
        "traps_confident": figure(
            sum(one.confident_wrong for one in traps), f"of {len(traps)}", "0", "lower"
        ),
        "robust_least_success": figure(min(robust_shares), "share", "reported", "higher"),
        "curves_confident_wrong_per_100000": figure(1e5 * curves_wrong / total, f"of {total}", "0", "lower"),
        "best_peer_success_40dof_medium": figure(
            at_40[best]["within_1_dof"], f"share, {best}", "reported", "higher"
        ),
        "best_peer_confident_wrong_per_10000": figure(1e4 * best_wrong, best, "reported", "lower"),
    }
    clear = [one for one in of["recorded"] if one.competitor == "search" and one.case not in RECORDED_TRAPS]
    if clear:
        figures["recorded_success"] = figure(
            summary(clear)["within_1_dof"], f"share of {len(clear)} starts", "reported", "higher"
        )
        figures["recorded_confident_wrong"] = figure(
            sum(one.confident_wrong for one in clear), f"of {len(clear)}", "0", "lower"
        )
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--curves", type=int)
    asked, _ = parser.parse_known_args()
    if asked.curves:
        with _processes() as processes:
            counted = curves(asked.curves, processes)
        _results.print_table(_curve_rows(counted), COLUMNS)
    else:
        _results.run("search", measure, seed=SEED, columns=COLUMNS)
