"""Search by a grid that finds the valley, and by more exposures where they tell most."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
from scipy.special import stdtrit

from bluesky_autofocus.records import Reason
from bluesky_autofocus.search._peak import (
    CERTAIN_SIGMAS,
    GREATEST_MISFIT,
    LEAST_SIGNAL_TO_NOISE,
    WIDTH_IN_DOF,
)
from bluesky_autofocus.search._peak_model import PeakModel
from bluesky_autofocus.search._samples import Conclusion, Sample, Search

__all__ = ["LEAST_GRID_EXPOSURES", "MOST_LOST", "grid_search"]

LEAST_GRID_EXPOSURES = 8
"""Twice as many as a peak has parameters: fewer would not tell the noise."""

SIGNIFICANT = 1 - 1e-5
"""Probability with which the contrast must not be noise, could that not choose where its peak is."""

LEAST_GRID = 5
"""A peak, both its sides and what lies beyond them."""

SPACING_IN_DOF = 2.5
"""Of the grid, where the budget allows: the peaks of most specimens are five depths of field wide."""

REFINING = 4
"""Exposures that the grid leaves of the budget."""

WIDEST_GAP = 1.75
"""Exposures may be so many widths of the peak apart: another such peak between them would show in both."""

LEAST_NEAR = 5
"""Exposures within one width of the peak: fewer do not tell its shape."""

TOP = 0.25
"""One of them is this fraction of the width from its centre, or less."""

FALL = 0.2
"""The peak must fall on both sides by this fraction of its contrast, within what was exposed."""

FALL_IN_SCATTERS = 3.0
"""And by so many times the scatter of the scores: noise bends a slope that levels off."""

ROOM_IN_DOF = 1.0
"""A peak so near to the end of what was exposed cannot be told from one that lies there."""

CLEAR_FALL = 0.5
"""Where it falls less the search widens, if it may."""

OTHER_PEAK = 0.15
"""A score this fraction of the contrast off the peak that was fitted is looked at again. Twice, and there is
another peak, or a dip between two."""

DOUBTFUL_NOISES = 3.0
"""And so many times the noise."""

MISFIT_NOISES = 2.0
"""What the fit leaves is taken for noise up to so many times that of scores at one position."""

CANDIDATES = 17
"""Positions about the peak among which the next one is chosen."""

MOST_LOST = 2
"""Frames that cannot be used are taken again, so many in all."""


def grid_search(
    bounds_um: tuple[float, float],
    *,
    exposures: int,
    depth_of_field_um: float,
    precision: float = 0.15,
    outer_um: tuple[float, float] | None = None,
    most_lost: int = MOST_LOST,
) -> Search:
    """Look everywhere coarsely, then where it tells most of the position of the peak.

    Each score goes into one fit of a peak. What that does not explain is looked at again, since it may be
    another peak, and so are gaps that could hide one. A frame that cannot be used is taken again.

    Parameters
    ----------
    bounds_um : tuple of float
        Where to search.
    exposures : int
        Most exposures to ask for.
    depth_of_field_um : float
        How narrow a peak can be.
    precision : float
        It stops when the scatter of the scores leaves the centre uncertain by less than this fraction of a
        depth of field.
    outer_um : tuple of float, optional
        Where the peak lies at the edge, the search goes on as far as this; by default not beyond the bounds.
    most_lost : int
        How many frames that cannot be used are taken again; one more ends the search with its reason.
    """
    low_um, high_um = bounds_um
    wanted = math.ceil((high_um - low_um) / (SPACING_IN_DOF * depth_of_field_um) - 1e-9) + 1
    grid_um = np.linspace(low_um, high_um, max(min(wanted, exposures - REFINING), LEAST_GRID))
    spacing_um = float(grid_um[1] - grid_um[0])
    samples: list[Sample] = []
    model: PeakModel | None = None
    lost = 0
    while True:
        left = exposures - len(samples) - lost
        if len(samples) < len(grid_um):
            wish_um = float(grid_um[len(samples)])
        else:
            model = PeakModel.of(samples, depth_of_field_um)
            if model is None:
                break
            wishes = itertools.chain(
                _beyond(model, outer_um or bounds_um, spacing_um),
                _doubtful(model),
                _telling(model, precision * depth_of_field_um),
                _between(model, left),
            )
            wish_um = next(wishes, None)
        if wish_um is None or left <= 0:
            break
        sample = yield wish_um
        if sample.usable:
            samples.append(sample)
            continue
        lost += 1
        if lost > most_lost:
            return Conclusion(sample.reason)
    if len(samples) < len(grid_um):
        return Conclusion(Reason.NOT_ENOUGH_POINTS)
    return _concluded(model, depth_of_field_um)


def _beyond(model: PeakModel, outer_um: tuple[float, float], spacing_um: float) -> Iterator[float]:
    """Yield a position beyond the end towards which the peak does not fall clearly, if there is room."""
    if not _stands_out(model):
        return
    low_um, high_um = float(model.positions_um[0]), float(model.positions_um[-1])
    low_fall, high_fall = model.falls()
    if low_fall < CLEAR_FALL * model.contrast and low_um - outer_um[0] > spacing_um / 4:
        yield max(low_um - spacing_um, outer_um[0])
    if high_fall < CLEAR_FALL * model.contrast and outer_um[1] - high_um > spacing_um / 4:
        yield min(high_um + spacing_um, outer_um[1])


def _doubtful(model: PeakModel) -> Iterator[float]:
    """Yield the positions, not repeated yet, whose scores may be those of another peak; the worst first."""
    deviations = np.abs(model.deviations)
    for index in np.argsort(-deviations):
        if deviations[index] > _believed_deviation(model) and model.same[index].sum() == 1:
            yield float(model.positions_um[index])


def _telling(model: PeakModel, sigma_um: float) -> Iterator[float]:
    """Yield the position that tells most of where the peak is, unless enough is known."""
    if not _top_seen(model):
        yield model.centre_um
    if _shape_seen(model) and _stands_out(model) and model.fit_sigma_um <= sigma_um:
        return
    low_um, high_um = model.centre_um + model.width_um * np.array([-1, 1])
    candidates_um = np.linspace(
        max(low_um, model.positions_um[0]), min(high_um, model.positions_um[-1]), CANDIDATES
    )
    # elsewhere than before, where there is room, since it also tells whether the shape is right
    apart_um = np.abs(candidates_um[:, None] - model.positions_um).min(axis=1)
    elsewhere_um = candidates_um[apart_um > np.ptp(candidates_um) / CANDIDATES]
    yield model.most_telling_um(elsewhere_um if len(elsewhere_um) else candidates_um)


def _between(model: PeakModel, exposures: int) -> Iterator[float]:
    """Yield the middle of the widest gap that could hide a peak, if the exposures suffice for all gaps."""
    gaps_um = np.diff(model.positions_um)
    needed = np.ceil(gaps_um / (WIDEST_GAP * model.width_um)).sum() - len(gaps_um)
    if 0 < needed <= exposures:
        widest = int(np.argmax(gaps_um))
        yield float(model.positions_um[widest : widest + 2].mean())


def _stands_out(model: PeakModel) -> bool:
    # from few points the scatter itself is poorly known
    least = float(stdtrit(model.freedom, SIGNIFICANT))
    return model.contrast > least * model.scatter


def _top_seen(model: PeakModel) -> bool:
    return bool(np.abs(model.positions_um - model.centre_um).min() <= TOP * model.width_um)


def _shape_seen(model: PeakModel) -> bool:
    near = np.abs(model.positions_um - model.centre_um) <= model.width_um
    return len(near) >= LEAST_GRID_EXPOSURES and near.sum() >= LEAST_NEAR


def _believed_deviation(model: PeakModel) -> float:
    """Return how far a score may lie off the peak without being another one's."""
    return max(OTHER_PEAK * model.contrast, DOUBTFUL_NOISES * model.noise)


def _at_the_edge(model: PeakModel, depth_of_field_um: float) -> bool:
    room_um = float(np.abs(model.positions_um[[0, -1]] - model.centre_um).min())
    least_fall = max(FALL * model.contrast, FALL_IN_SCATTERS * model.scatter)
    highest_at_the_end = model.scores.argmax() in (0, len(model.scores) - 1)
    return highest_at_the_end or room_um < ROOM_IN_DOF * depth_of_field_um or min(model.falls()) < least_fall


def _concluded(model: PeakModel | None, depth_of_field_um: float) -> Conclusion:
    """Believe the peak, or say why not."""
    if model is None:
        return Conclusion(Reason.FLAT)
    stands_out = _stands_out(model)
    if not stands_out and LEAST_SIGNAL_TO_NOISE * model.noise > 1:  # the spread of the scores
        return Conclusion(Reason.FLAT)
    if _at_the_edge(model, depth_of_field_um):
        return Conclusion(Reason.EDGE)
    if (np.abs(model.confirmed) > _believed_deviation(model)).any():
        return Conclusion(Reason.SEVERAL_PEAKS)
    if not stands_out:
        return Conclusion(Reason.POOR_FIT)
    narrowest_um, widest_um = (factor * depth_of_field_um for factor in WIDTH_IN_DOF)
    if model.width_um < narrowest_um:
        return Conclusion(Reason.SPIKE)
    misfit = model.scatter > max(GREATEST_MISFIT * model.contrast, MISFIT_NOISES * model.noise)
    if model.width_um > widest_um or misfit:
        return Conclusion(Reason.POOR_FIT)
    widest_gap_um = float(np.diff(model.positions_um).max())
    if not (_top_seen(model) and _shape_seen(model)) or widest_gap_um > WIDEST_GAP * model.width_um:
        return Conclusion(Reason.NOT_ENOUGH_POINTS)
    if CERTAIN_SIGMAS * model.sigma_um > depth_of_field_um:
        return Conclusion(Reason.UNCERTAIN)
    return Conclusion(Reason.FOUND, model.centre_um, model.sigma_um)
