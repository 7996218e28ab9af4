"""Which points have no part in a surface: focus on dust, or in an empty field."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.prediction._deviations import Kind, weigh
from bluesky_autofocus.prediction._frame import Frame, on_one_line
from bluesky_autofocus.prediction._kriging import Kriging
from bluesky_autofocus.prediction._predicted import FocusPoint

__all__ = ["LEAST_POINTS", "inliers"]

LEAST_POINTS: dict[Kind, int] = {"plane": 4, "thin_plate": 5, "gaussian_process": 5}
"""How many different places each kind of surface needs: three make a plane, and tell nothing of how good it
is."""

RISK = 0.01
"""How likely it is that a surface without outliers loses a point."""
SUSPECT = 2.0
"""Standard deviations off what the others say from which on a point has to prove itself."""
MOST = 1 / 3
"""Share of the points that may be outliers. Where more do not fit, it is the surface that is not
understood."""


def inliers(points: Sequence[FocusPoint], kind: Kind, unevenness_um: float) -> list[int]:
    """Return the indices of the points that a surface is to go through, ascending.

    Outliers hide behind each other. So all that are suspect are set aside, worst first, and then taken in
    again, best first, until one comes that those taken in so far do not explain (Hadi and Simonoff,
    J. Am. Stat. Assoc. 88, 1264, 1993). The surface is learnt anew each time, so points that were set aside
    only because it is uneven come back.

    Raises
    ------
    ValueError
        If the points lie on one line.
    """
    used, aside = list(range(len(points))), []
    while suspects := _suspects([points[index] for index in used], kind, unevenness_um):
        least = max(LEAST_POINTS[kind], round((1 - MOST) * len(points)))
        gone = [used[number] for number in suspects[: len(used) - least]]
        left = [index for index in used if index not in gone]
        if not gone or not _carry(points, left, kind):
            break
        used, aside = left, aside + gone
    while aside:
        index, surprise = _least_off(points, used, aside, kind, unevenness_um)
        if surprise > _allowed(len(used)):
            break
        used, aside = [*used, index], [one for one in aside if one != index]
    return sorted(used)


def _suspects(points: Sequence[FocusPoint], kind: Kind, unevenness_um: float) -> list[int]:
    """Return the numbers of points that the others do not quite explain, worst first."""
    _, surprises = weigh(kind, *Frame(points).standardised, unevenness_um)
    off = np.abs(surprises)
    return [int(number) for number in np.argsort(-off) if off[number] > SUSPECT]


def _least_off(
    points: Sequence[FocusPoint],
    used: Sequence[int],
    aside: Sequence[int],
    kind: Kind,
    unevenness_um: float,
) -> tuple[int, float]:
    """Return which of the points aside is best explained by those used, and how many sigmas it is off."""
    frame = Frame([points[index] for index in used])
    believed, _ = weigh(kind, *frame.standardised, unevenness_um)
    places_um = np.array([(points[index].x_um, points[index].y_um) for index in aside])
    heights_um = np.array([points[index].focus_um for index in aside])
    sigmas_um = np.array([points[index].sigma_um for index in aside])
    mean, deviation_um = Kriging(kind, *frame.standardised, believed).predict(frame.standard(places_um))
    off: NDArray[Any] = np.abs(heights_um - frame.middle_um - mean) / np.hypot(deviation_um, sigmas_um)
    best = int(off.argmin())
    return aside[best], float(off[best])


def _allowed(n: int) -> float:
    """Return how many standard deviations off a point may be, by n others, and be no outlier."""
    from scipy.stats import t

    freedom = n - 3  # a plane takes three
    return float(t.isf(RISK / (2 * (n + 1)), freedom))


def _carry(points: Sequence[FocusPoint], used: Sequence[int], kind: Kind) -> bool:
    """Return whether these points carry a surface."""
    places = np.unique([(points[index].x_um, points[index].y_um) for index in used], axis=0)
    return len(places) >= LEAST_POINTS[kind] and not on_one_line(places)
