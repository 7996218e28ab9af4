"""The searches of this package, driven without devices as their plans drive them."""

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from benchmarks._peers import Answer, Bounds, Peer
from benchmarks._search_curves import Curve
from benchmarks._search_microscope import Microscope
from bluesky_autofocus.plans._searching import CONFIRMED_FRACTION
from bluesky_autofocus.records import Reason
from bluesky_autofocus.search import Conclusion, Sample, Search, brent_search, octave_search, sweep_search
from bluesky_autofocus.sharpness import DEFAULT_METRIC, band_energies, examine_frame, metric

__all__ = ["OURS", "SampleAt", "on_curve"]

BUDGET = 15
"""Of `search`, its default."""

BUDGET_WIDE = 25
"""Of `search` over more than 40 depths of field."""

BRENT_BUDGET = 20

SampleAt: TypeAlias = Callable[[float], Sample]
"""``sample_at(position_um)`` exposes there and says how sharp it is."""


class _RefusedError(Exception):
    """A frame that cannot be used, with the reason."""


def search(microscope: Microscope, bounds_um: Bounds, start_um: float) -> Answer:
    """Drive `search_focus`."""
    made = _octaves(bounds_um, microscope.depth_of_field_um)
    return _answer(made, _exposing(microscope, bounds_um, octaves=True), start_um)


def brent(microscope: Microscope, bounds_um: Bounds, start_um: float) -> Answer:
    """Drive `brent_focus`."""
    dof_um = microscope.depth_of_field_um
    made = brent_search(bounds_um, exposures=BRENT_BUDGET - 1, depth_of_field_um=dof_um)
    return _answer(made, _exposing(microscope, bounds_um), start_um)


def sweep(microscope: Microscope, bounds_um: Bounds, start_um: float) -> Answer:
    """Drive `sweep_focus`, a frame every depth of field."""
    dof_um = microscope.depth_of_field_um
    frames = max(round((bounds_um[1] - bounds_um[0]) / dof_um) + 1, 5)
    made = sweep_search(np.linspace(*bounds_um, frames).tolist(), depth_of_field_um=dof_um)
    return _answer(made, _exposing(microscope, bounds_um), start_um)


def on_curve(curve: Curve) -> Answer:
    """Drive `search_focus` over a curve that is known without frames, a depth of field its unit."""

    def sample_at(position: float) -> Sample:
        at = min(max(position, 0.0), curve.span)
        told = curve.expose(at)
        return Sample(at, told.score, told.bands)

    return _answer(_octaves((0.0, curve.span), 1.0), sample_at, math.nan)


def _octaves(bounds_um: Bounds, dof_um: float) -> Search:
    wide = bounds_um[1] - bounds_um[0] > 40.5 * dof_um
    exposures = (BUDGET_WIDE if wide else BUDGET) - 1  # one confirms
    return octave_search(bounds_um, exposures=exposures, depth_of_field_um=dof_um)


def _exposing(microscope: Microscope, bounds_um: Bounds, *, octaves: bool = False) -> SampleAt:
    """Return what moves, exposes and scores as the plans and `SharpnessAnalysis` do."""
    score = metric(DEFAULT_METRIC)

    def sample_at(position_um: float) -> Sample:
        at_um = min(max(position_um, bounds_um[0]), bounds_um[1])
        if microscope.lost_um:  # every position is approached from below
            microscope.move(at_um - microscope.lost_um)
        frame = microscope.expose(at_um)
        problem = examine_frame(frame).problem
        if problem is not None and octaves:
            return Sample(at_um, math.nan, reason=Reason(problem))
        if problem is not None:
            raise _RefusedError(problem)
        return Sample(at_um, score(frame), band_energies(frame) if octaves else None)

    return sample_at


def _answer(made: Search, sample_at: SampleAt, start_um: float) -> Answer:
    """Follow a search and confirm what it found; where it found nothing the axis goes back."""
    best = -math.inf
    try:
        position_um = next(made)
        while True:
            sample = sample_at(position_um)
            best = max(best, sample.score) if sample.usable else best
            position_um = made.send(sample)
    except StopIteration as end:
        conclusion: Conclusion = end.value
    except _RefusedError as refused:
        return Answer(start_um, False, reason=str(refused))
    finally:
        made.close()
    if conclusion.found:
        try:
            final = sample_at(conclusion.position_um)
        except _RefusedError as refused:
            return Answer(start_um, False, reason=str(refused))
        if not final.usable or final.score < best - (1 - CONFIRMED_FRACTION) * abs(best):
            conclusion = Conclusion(Reason.WORSE_AFTERWARDS)
    if not conclusion.found:
        return Answer(start_um, False, reason=str(conclusion.reason))
    return Answer(conclusion.position_um, True, conclusion.sigma_um)


OURS: dict[str, Peer] = {"search": search, "brent": brent, "sweep": sweep}
"""By the names of the methods of `autofocus`."""
