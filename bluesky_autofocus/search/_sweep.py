"""Search by looking everywhere."""

import math
from collections.abc import Generator, Sequence

import numpy as np

from bluesky_autofocus.records import Reason
from bluesky_autofocus.search._peak import judge
from bluesky_autofocus.search._samples import Conclusion, Sample, Search

__all__ = ["LEAST_SWEEP_EXPOSURES", "pass_through", "passing_search", "sweep_search"]

LEAST_SWEEP_EXPOSURES = 5
"""A peak, both its sides and what lies beyond them."""

WIDEST_GAP = 4.0
"""Exposures that are taken as they come may be so many times as far apart as they usually are."""


def sweep_search(positions_um: Sequence[float], *, depth_of_field_um: float | None = None) -> Search:
    """Expose at every one of the positions, in their order.

    Parameters
    ----------
    positions_um : sequence of float
        Covering the range that is searched.
    depth_of_field_um : float, optional
        See `judge`.
    """
    samples: list[Sample] = []
    for position_um in positions_um:
        samples.append((yield float(position_um)))
    bounds_um = (min(positions_um), max(positions_um))
    return judge(samples, bounds_um=bounds_um, depth_of_field_um=depth_of_field_um, dense=True)


def passing_search(
    bounds_um: tuple[float, float],
    exposures: int,
    *,
    spacing_um: float = 0.0,
    direction: int = 1,
    depth_of_field_um: float | None = None,
) -> Search:
    """Go to the far end of the range, and take exposures wherever they happen to be taken on the way.

    It always asks for the end. It is there when the end is nearer than the next exposure would be.

    Parameters
    ----------
    bounds_um : tuple of float
        The range. What is exposed outside of it does not count.
    exposures : int
        Most exposures to spend. Spent before the end is reached, they conclude ``not_converged``. Fewer than
        `LEAST_SWEEP_EXPOSURES` by then, or a gap between them, conclude ``not_enough_points``.
    spacing_um : float
        How far apart they may be. A gap that is wider, and several times as wide as is usual, leaves room for
        another peak.
    direction : int
        +1: upwards, from the low end; -1: downwards.
    depth_of_field_um : float, optional
        See `judge`.
    """
    samples: list[Sample] = []
    if not (yield from pass_through(bounds_um, direction, exposures, samples)):
        return Conclusion(Reason.NOT_CONVERGED)
    gaps_um = np.diff(np.unique([sample.position_um for sample in samples]))
    if len(gaps_um) < LEAST_SWEEP_EXPOSURES - 1:
        return Conclusion(Reason.NOT_ENOUGH_POINTS)
    if gaps_um.max() > max(spacing_um, WIDEST_GAP * float(np.median(gaps_um))):
        return Conclusion(Reason.NOT_ENOUGH_POINTS)
    return judge(samples, bounds_um=bounds_um, depth_of_field_um=depth_of_field_um, dense=True)


def pass_through(
    bounds_um: tuple[float, float], direction: int, exposures: int, samples: list[Sample]
) -> Generator[float, Sample, int]:
    """Ask for the far end, keep what can be used; return how often it was asked, 0 if it was not reached."""
    low_um, high_um = bounds_um
    end_um = high_um if direction > 0 else low_um
    left_um = math.inf
    for asked in range(1, exposures + 1):
        sample = yield end_um
        if math.isnan(sample.position_um):  # not known where
            continue
        before_um, left_um = left_um, (end_um - sample.position_um) * direction
        if sample.usable and low_um <= sample.position_um <= high_um:
            samples.append(sample)
        # it is there when the end is nearer than the next exposure would be
        if left_um <= 0 or left_um < (before_um - left_um) / 2 < math.inf:
            return asked
    return 0
