"""Whether the image depends on the axis, and how."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy.interpolate import PchipInterpolator

from bluesky_autofocus.commissioning._axis import spread
from bluesky_autofocus.commissioning._measured import Shot
from bluesky_autofocus.records import Reason
from bluesky_autofocus.search import Conclusion, FocusCurve, Sample, judge

__all__ = ["ContrastCurve", "Flank", "contrast_curve", "flank"]

PEAK_WIDTH_IN_DOF = 3.3
"""Width at half height of the peak of the default sharpness metric, in depths of field: 2.1 over the
simulated smear, 3.4 over the nuclei, 5.0 in the SEM. It is wider where a specimen has less fine detail."""

PEAK_WIDTH_FACTOR = 2.0
"""By which the depth of field that follows from a peak may be wrong, either way."""

SEEN_NOISES = 6.0
"""The sharpness depends on the axis if it varies along the range by so many times what it does at rest."""

SEEN_CONTRAST = 0.02
"""And by at least this part of itself."""

BETWEEN = 500
"""Points of the curve between those that were exposed."""


@dataclasses.dataclass(frozen=True)
class ContrastCurve:
    """Sharpness along the range.

    Parameters
    ----------
    depends : bool
        Whether it depends on the axis at all.
    conclusion : Conclusion
        Whether there is one believable peak, and where.
    width_um : float
        Of the peak at half height, NaN where there is none.
    spacing_um : float
        Between two frames.
    """

    depends: bool
    conclusion: Conclusion
    width_um: float = math.nan
    spacing_um: float = math.nan

    @property
    def depth_of_field_um(self) -> float:
        """What the width says of the depth of field, to within `PEAK_WIDTH_FACTOR`."""
        return self.width_um / PEAK_WIDTH_IN_DOF


def contrast_curve(
    shots: Sequence[Shot], still: Sequence[Shot], depth_of_field_um: float | None = None
) -> ContrastCurve:
    """Judge the sharpness along a range.

    Parameters
    ----------
    shots : sequence of Shot
        Evenly along the range, one way.
    still : sequence of Shot
        With nothing changed, which tell the noise.
    depth_of_field_um : float, optional
        Where it is known.
    """
    samples = [Sample(shot.position_um, shot.sharpness) for shot in shots if math.isfinite(shot.sharpness)]
    curve = FocusCurve.of(samples)
    if len(curve) < 5:
        return ContrastCurve(False, Conclusion(Reason.NOT_ENOUGH_POINTS))
    noise = spread([shot.sharpness for shot in still])
    height, top = float(np.ptp(curve.scores)), float(np.abs(curve.scores).max())
    least = max(SEEN_NOISES * (noise if math.isfinite(noise) else 0.0), SEEN_CONTRAST * top)
    spacing_um = float(np.median(np.diff(curve.positions_um)))
    if height <= least:
        return ContrastCurve(False, Conclusion(Reason.FLAT), spacing_um=spacing_um)
    bounds_um = (float(curve.positions_um[0]), float(curve.positions_um[-1]))
    conclusion = judge(samples, bounds_um=bounds_um, depth_of_field_um=depth_of_field_um, dense=True)
    width_um = _width_um(curve) if conclusion.found else math.nan
    return ContrastCurve(True, conclusion, width_um, spacing_um)


def _width_um(curve: FocusCurve) -> float:
    """Return the width at half height, straight between the points."""
    ends = []
    for way in (-1, 1):
        index = curve.best
        while 0 <= index + way < len(curve) and curve.scores[index + way] >= curve.half_height:
            index += way
        if not 0 <= index + way < len(curve):
            return math.nan
        inside, outside = float(curve.scores[index]), float(curve.scores[index + way])
        part = (inside - curve.half_height) / (inside - outside)
        at_um, next_um = float(curve.positions_um[index]), float(curve.positions_um[index + way])
        ends.append(at_um + part * (next_um - at_um))
    return ends[1] - ends[0]


@dataclasses.dataclass(frozen=True)
class Flank:
    """Where the sharpness changes most along the axis, and the curve there.

    Parameters
    ----------
    position_um : float
        The steepest place.
    slope_per_um : float
        Change of the sharpness there.
    positions_um, scores : numpy.ndarray
        The part of the curve around it that goes one way, close together, by ascending score; shape (N,).
    """

    position_um: float
    slope_per_um: float
    positions_um: np.ndarray
    scores: np.ndarray

    def positions_of(self, scores: Sequence[float]) -> list[float]:
        """Return where the axis is by the sharpness of frames; beyond the curve its end."""
        return np.interp(scores, self.scores, self.positions_um).tolist()


def flank(shots: Sequence[Shot]) -> Flank | None:
    """Return the steepest flank of the sharpness along the range.

    None where it does not change, or too few frames have a sharpness.
    """
    curve = FocusCurve.of(
        [Sample(shot.position_um, shot.sharpness) for shot in shots if math.isfinite(shot.sharpness)]
    )
    if len(curve) < 5 or np.ptp(curve.scores) == 0:
        return None
    slopes = np.gradient(curve.scores, curve.positions_um)
    steepest = 1 + int(np.abs(slopes[1:-1]).argmax())
    way = math.copysign(1.0, slopes[steepest])
    first = last = steepest
    while first > 0 and way * (curve.scores[first] - curve.scores[first - 1]) > 0:
        first -= 1
    while last < len(curve) - 1 and way * (curve.scores[last + 1] - curve.scores[last]) > 0:
        last += 1
    if first == last:
        return None
    between = PchipInterpolator(curve.positions_um[first : last + 1], curve.scores[first : last + 1])
    positions_um = np.linspace(curve.positions_um[first], curve.positions_um[last], BETWEEN)[:: int(way)]
    return Flank(
        float(curve.positions_um[steepest]), float(slopes[steepest]), positions_um, between(positions_um)
    )
