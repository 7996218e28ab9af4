"""Decide whether a focus curve holds one believable peak, and where.

A score-against-position curve is believed when it has contrast, rises towards one maximum only, falls on
both sides within what was searched, and is as wide as a focus peak can be.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import curve_fit
from scipy.signal import find_peaks
from scipy.special import stdtrit

from bluesky_autofocus.records import Reason
from bluesky_autofocus.search._samples import Conclusion, Sample

__all__ = ["FocusCurve", "judge"]

LEAST_CONTRAST = 0.05
"""Least fall of the score away from the peak, as a fraction of the peak."""

LEAST_SIGNAL_TO_NOISE = 5.0
"""Least height of the peak over its surroundings, in units of their scatter."""

OTHER_PEAK_PROMINENCE = 0.2
"""A second rise of this fraction of the first one makes the curve ambiguous. Real single peaks recorded on
microscopes show second rises of up to a tenth, phase objects of a third and more."""

WIDTH_IN_DOF = (0.5, 20.0)
"""A peak at half height is at least half a depth of field wide, and not wider than this many: specimens
without fine detail have wide peaks, but then their position says little."""

WIDEST_FRACTION_OF_RANGE = 0.25
"""Where no depth of field is known, a peak known from few points is not believed if it is wider: there may
be anything between the points."""

GREATEST_MISFIT = 0.1
"""The scores may deviate from a smooth peak by this fraction of its height (root mean square). Recorded
single peaks deviate by up to 0.08, phase objects by 0.12 and more."""

SHAPE_UNCERTAINTY = 0.02
"""No real peak has exactly the fitted shape: this fraction of its width at half height is added, in
quadrature, to the uncertainty that the fit states."""

CERTAIN_SIGMAS = 3.0
"""Where the depth of field is known, so many standard uncertainties of the position must fit into it."""

HALF_WIDTH_OF_SQUARED_LORENTZIAN = math.sqrt(math.sqrt(2.0) - 1.0)


@dataclasses.dataclass(frozen=True)
class FocusCurve:
    """Scores at ascending, different positions.

    Parameters
    ----------
    positions_um, scores : numpy.ndarray
        Shape (N,).
    """

    positions_um: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> "FocusCurve":
        """Sort samples and average those taken at the same position."""
        if not samples:
            return cls(np.empty(0), np.empty(0))
        positions, which, counts = np.unique(
            [sample.position_um for sample in samples], return_inverse=True, return_counts=True
        )
        sums = np.bincount(which, weights=[sample.score for sample in samples])
        return cls(positions, sums / counts)

    def __len__(self) -> int:
        return len(self.positions_um)

    @property
    def best(self) -> int:
        """Index of the highest score."""
        return int(np.argmax(self.scores))

    @property
    def best_um(self) -> float:
        """Position of the highest score."""
        return float(self.positions_um[self.best])

    @property
    def half_height(self) -> float:
        """The score half way between the lowest and the highest."""
        return float(self.scores.min() + self.scores.max()) / 2

    def side(self, direction: int) -> tuple[float, float]:
        """Return how far the curve stays above half height on one side of its maximum.

        Parameters
        ----------
        direction : int
            -1 for lower positions, +1 for higher ones.

        Returns
        -------
        inside, outside : float
            Distance in um from the maximum to the last point above half height and to the first one
            below; `outside` is infinite if there is none.
        """
        inside = 0.0
        index = self.best + direction
        while 0 <= index < len(self):
            distance = abs(float(self.positions_um[index] - self.positions_um[self.best]))
            if self.scores[index] < self.half_height:
                return inside, distance
            inside = distance
            index += direction
        return inside, math.inf

    def width_um(self) -> tuple[float, float]:
        """Return the least and the greatest width at half height that the points allow, in um."""
        (left_in, left_out), (right_in, right_out) = self.side(-1), self.side(1)
        return left_in + right_in, left_out + right_out

    def other_peak(self) -> float:
        """Return the prominence of the second peak as a fraction of the height of the first; 0 if none.

        A rise towards either end counts: a higher peak may lie beyond it.
        """
        height = float(np.ptp(self.scores))
        if height == 0:
            return 0.0
        floor = self.scores.min()
        padded = np.concatenate(([floor], self.scores, [floor]))
        _, found = find_peaks(padded, prominence=0.0)
        prominences = np.sort(found["prominences"])
        return float(prominences[-2] / height) if len(prominences) > 1 else 0.0

    def signal_to_noise(self) -> float:
        """Return the height of the peak over the points below half height, in units of their scatter.

        Infinite where fewer than four such points leave nothing to judge by.
        """
        around = np.flatnonzero(self.scores < self.half_height)
        if len(around) < 4:
            return math.inf
        floor = self.scores[around]
        # Neighbours share the slow fall of the curve, so their differences hold the noise.
        scatter = float(np.median(np.abs(np.diff(floor)))) / (0.6745 * math.sqrt(2.0))
        return float(self.scores.max() - np.median(floor)) / scatter if scatter else math.inf

    def fit(self) -> "PeakFit | None":
        """Fit a peak to the points about the maximum; None where they do not determine one.

        The shape is a squared Lorentzian on a floor, which describes the sharpness of a defocused image
        well from its centre into its tails.
        """
        left, right = (outside for _, outside in (self.side(-1), self.side(1)))
        reach_um = min(max(left, right), float(np.ptp(self.positions_um)))
        near = np.abs(self.positions_um - self.best_um) <= 1.5 * reach_um
        if near.sum() < 5:
            return None
        x = (self.positions_um[near] - self.best_um) / reach_um
        y = (self.scores[near] - self.scores.min()) / float(np.ptp(self.scores))
        try:
            shape, covariance = curve_fit(
                _squared_lorentzian,
                x,
                y,
                p0=(0.0, 1.0, 0.0, 1.0),
                bounds=([-1.0, 0.3, -0.5, 0.05], [1.0, 3.0, 0.5, 10.0]),
                max_nfev=200,
            )
        except RuntimeError:  # no convergence
            return None
        # from few points the scatter itself is poorly known, so two sigma are Student's
        sigma = math.sqrt(covariance[0, 0]) * float(stdtrit(max(near.sum() - 4, 1), 0.97725)) / 2
        if not math.isfinite(sigma):
            return None
        misfit = float(np.sqrt(np.mean((y - _squared_lorentzian(x, *shape)) ** 2)))
        return PeakFit(self.best_um + float(shape[0]) * reach_um, sigma * reach_um, misfit, int(near.sum()))


@dataclasses.dataclass(frozen=True)
class PeakFit:
    """A peak fitted to a focus curve.

    Parameters
    ----------
    position_um, sigma_um : float
        Centre and its standard uncertainty.
    misfit : float
        Root mean square deviation of the scores, as a fraction of the height.
    points : int
        How many scores it was fitted to; five determine it without telling whether it fits.
    """

    position_um: float
    sigma_um: float
    misfit: float
    points: int


def _squared_lorentzian(
    x: np.ndarray, centre: float, height: float, floor: float, half_width: float
) -> np.ndarray:
    return floor + height / (1 + (HALF_WIDTH_OF_SQUARED_LORENTZIAN * (x - centre) / half_width) ** 2) ** 2


def judge(
    samples: Sequence[Sample],
    *,
    bounds_um: tuple[float, float],
    depth_of_field_um: float | None = None,
    dense: bool,
) -> Conclusion:
    """Conclude from all exposures of a search.

    Parameters
    ----------
    samples : sequence of Sample
        In any order.
    bounds_um : tuple of float
        What was searched.
    depth_of_field_um : float, optional
        Where it is known, the width of the peak must agree with it.
    dense : bool
        Whether the whole range was sampled evenly, so that no peak can hide between the points.

    Returns
    -------
    Conclusion
        The position is the highest sample's, or the fitted centre where that is determined and close by.
    """
    curve = FocusCurve.of(samples)
    if len(curve) < 3:
        return Conclusion(Reason.NOT_ENOUGH_POINTS)
    # a metric that goes below zero has no natural fraction; its own spread then stands for the peak
    peak = max(float(curve.scores.max()), float(np.ptp(curve.scores)))
    if float(np.ptp(curve.scores)) < LEAST_CONTRAST * peak or peak == 0:
        return Conclusion(Reason.FLAT)
    best = curve.best
    if best in (0, len(curve) - 1):
        return Conclusion(Reason.EDGE)
    if curve.other_peak() > OTHER_PEAK_PROMINENCE:
        return Conclusion(Reason.SEVERAL_PEAKS)
    # between points that are far apart the curve itself changes, which says nothing of its noise
    if dense and curve.signal_to_noise() < LEAST_SIGNAL_TO_NOISE:
        return Conclusion(Reason.FLAT)
    least_um, greatest_um = curve.width_um()
    if math.isinf(greatest_um):
        return Conclusion(Reason.EDGE)
    if depth_of_field_um is not None:
        narrowest_um, widest_um = (factor * depth_of_field_um for factor in WIDTH_IN_DOF)
        if greatest_um < narrowest_um:
            return Conclusion(Reason.SPIKE)
        if least_um > widest_um:
            return Conclusion(Reason.POOR_FIT)
    elif not dense and (least_um + greatest_um) / 2 > WIDEST_FRACTION_OF_RANGE * (
        bounds_um[1] - bounds_um[0]
    ):
        return Conclusion(Reason.POOR_FIT)
    fitted = curve.fit()
    if fitted is not None and fitted.points > 5 and fitted.misfit > GREATEST_MISFIT:
        return Conclusion(Reason.POOR_FIT)
    conclusion = _located(curve, fitted, depth_of_field_um or 0.0)
    if depth_of_field_um is not None and CERTAIN_SIGMAS * conclusion.sigma_um > depth_of_field_um:
        return Conclusion(Reason.UNCERTAIN)
    return conclusion


def _located(curve: FocusCurve, fitted: PeakFit | None, doubt_um: float) -> Conclusion:
    """Place the peak as well as the points allow."""
    below_um, here_um, above_um = (float(curve.positions_um[curve.best + step]) for step in (-1, 0, 1))
    width_um = sum(curve.width_um()) / 2
    # Noise decides which of the points within a depth of field is highest; there the fit knows better.
    if fitted is not None and below_um - doubt_um <= fitted.position_um <= above_um + doubt_um:
        return Conclusion(
            Reason.FOUND, fitted.position_um, math.hypot(fitted.sigma_um, SHAPE_UNCERTAINTY * width_um)
        )
    # Anywhere between the neighbours is as good: the standard deviation of a uniform distribution.
    return Conclusion(Reason.FOUND, here_um, (above_um - below_um) / math.sqrt(12.0))
