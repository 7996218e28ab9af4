"""A peak fitted to all exposures of a search, and what it does not explain.

The shape is a squared Lorentzian on a floor, whose tails reach far: every exposure says something of where
the peak is. Scores are taken relative to the lowest and highest, so their unit and offset do not matter.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import least_squares
from scipy.special import stdtrit

from bluesky_autofocus.search._peak import HALF_WIDTH_OF_SQUARED_LORENTZIAN, SHAPE_UNCERTAINTY
from bluesky_autofocus.search._samples import Sample

__all__ = ["PeakModel"]

PARAMETERS = 4
"""Centre, width, height and floor."""

FITTED_WIDTH_IN_DOF = (0.3, 60.0)
"""Widths at half height that are tried: somewhat more than those that are believed."""

FIRST_WIDTHS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Widths at half height, in depths of field, among which the fit begins."""

FIRST_CENTRES = 100
"""Centres, evenly over the range, among which the fit begins, besides those of the exposures."""

OUTLIER = 0.1
"""A score farther off than this fraction of their spread pulls the fit less than its deviation asks."""

SHAPE_MISFIT = 0.02
"""No real peak has exactly the fitted shape: scores are not taken to be more precise than this fraction of
their spread when the next exposure is chosen."""

EXACT = 1e-6
"""Scores without any noise are taken to have this fraction of their spread."""

SAME_IN_DOF = 0.1
"""Positions so near to each other, in depths of field, count as one."""

MAD_OF_ONE_SIGMA = 0.6745


@dataclasses.dataclass(frozen=True)
class PeakModel:
    """A squared Lorentzian on a floor that was fitted to scores.

    Heights, deviations and noise are fractions of the spread of the scores.

    Parameters
    ----------
    positions_um : numpy.ndarray
        Of the N exposures, ascending; shape (N,).
    deviations : numpy.ndarray
        Score less the model, shape (N,).
    same : numpy.ndarray of bool
        Whether two exposures were taken at one position, shape (N, N).
    centre_um, width_um : float
        Position and width at half height.
    height, floor : float
        Over the floor, and of the floor.
    information : numpy.ndarray
        Curvature of the fit for centre in um, logarithm of the width, height and floor; shape (4, 4).
    """

    positions_um: np.ndarray
    deviations: np.ndarray
    same: np.ndarray
    centre_um: float
    width_um: float
    height: float
    floor: float
    information: np.ndarray

    @classmethod
    def of(cls, samples: Sequence[Sample], depth_of_field_um: float) -> "PeakModel | None":
        """Fit the peak to all samples, whatever their order; None where their scores are all the same."""
        ordered = sorted(samples, key=lambda sample: sample.position_um)
        positions_um = np.array([sample.position_um for sample in ordered])
        scores = np.array([sample.score for sample in ordered])
        spread = float(np.ptp(scores))
        if spread <= 1e-9 * float(np.abs(scores).max()):  # rounding
            return None
        x = (positions_um - positions_um.mean()) / depth_of_field_um
        y = (scores - scores.min()) / spread
        fitted = least_squares(
            lambda shape: _peak(x, shape) - y,
            _first_guess(x, y),
            jac=lambda shape: _slopes(x, shape),  # type: ignore[arg-type]
            bounds=(
                [x[0], math.log(FITTED_WIDTH_IN_DOF[0]), 0.0, -10.0],
                [x[-1], math.log(FITTED_WIDTH_IN_DOF[1]), 20.0, 1.0],
            ),
            loss="soft_l1",
            f_scale=OUTLIER,
            xtol=1e-4,
            ftol=1e-4,
            max_nfev=40,
        )
        centre, log_width, height, floor = fitted.x
        deviations = y - _peak(x, fitted.x)
        weights = 1 / np.sqrt(1 + (deviations / OUTLIER) ** 2)
        slopes = _slopes(x, fitted.x)
        unit = np.array([1 / depth_of_field_um, 1.0, 1.0, 1.0])
        return cls(
            positions_um,
            deviations,
            np.abs(x[:, None] - x) <= SAME_IN_DOF,
            float(centre) * depth_of_field_um + float(positions_um.mean()),
            math.exp(log_width) * depth_of_field_um,
            float(height),
            float(floor),
            np.outer(unit, unit) * (slopes.T @ (weights[:, None] * slopes)),
        )

    def __call__(self, positions_um: np.ndarray) -> np.ndarray:
        """Return the scores that the peak would have, relative to the spread of those it was fitted to."""
        return _peak(positions_um, self._shape)

    @property
    def scores(self) -> np.ndarray:
        """What the peak was fitted to, from 0 to 1; shape (N,)."""
        return self(self.positions_um) + self.deviations

    @property
    def confirmed(self) -> np.ndarray:
        """The smallest deviation at each position: what a second exposure does not show is not there."""
        there = np.where(self.same, np.abs(self.deviations), np.inf).argmin(axis=1)
        return self.deviations[there]

    @property
    def freedom(self) -> int:
        """How many more scores there are than parameters; 1 where there are not."""
        return max(len(self.deviations) - PARAMETERS, 1)

    @property
    def scatter(self) -> float:
        """Standard deviation of the scores about the peak."""
        # one exposure may have been disturbed; where several do not come out the same again, that is noise
        deviations = self.deviations.copy()
        worst = int(np.argmax(np.abs(deviations)))
        deviations[worst] = self.confirmed[worst]
        return math.sqrt(float(np.sum(deviations**2)) / self.freedom)

    @property
    def noise(self) -> float:
        """Standard deviation of scores at one position; where none was repeated, that of most scores."""
        first, second = np.nonzero(np.triu(self.same, 1))
        if len(first):
            apart = np.abs(self.deviations[first] - self.deviations[second])
            return float(np.median(apart)) / (MAD_OF_ONE_SIGMA * math.sqrt(2))
        share = math.sqrt(len(self.deviations) / self.freedom)
        return float(np.median(np.abs(self.deviations))) / MAD_OF_ONE_SIGMA * share

    @property
    def fit_sigma_um(self) -> float:
        """Standard uncertainty of the centre from the scatter of the scores."""
        # from few points the scatter itself is poorly known, so two sigma are Student's
        student = float(stdtrit(self.freedom, 0.97725)) / 2
        return math.sqrt(float(self._covariance(max(self.scatter, EXACT))[0, 0])) * student

    @property
    def sigma_um(self) -> float:
        """Standard uncertainty of the centre, that of the shape included."""
        return math.hypot(self.fit_sigma_um, SHAPE_UNCERTAINTY * self.width_um)

    def falls(self) -> tuple[float, float]:
        """Return by how much the peak falls towards the lowest and the highest position exposed."""
        low, high = self.height + self.floor - self(self.positions_um[[0, -1]])
        return float(low), float(high)

    @property
    def contrast(self) -> float:
        """By how much the peak falls within what was exposed; its height may be beyond that."""
        return max(self.falls())

    def most_telling_um(self, candidates_um: np.ndarray) -> float:
        """Return the position at which one more exposure would narrow down the centre most.

        Parameters
        ----------
        candidates_um : numpy.ndarray
            Positions to choose from, shape (M,).
        """
        noise = max(self.scatter, SHAPE_MISFIT)
        slopes = _slopes(candidates_um, self._shape)
        told = slopes @ self._covariance(noise)
        gain = told[:, 0] ** 2 / (noise**2 + np.sum(told * slopes, axis=1))
        return float(candidates_um[np.argmax(gain)])

    @property
    def _shape(self) -> tuple[float, float, float, float]:
        return self.centre_um, math.log(self.width_um), self.height, self.floor

    def _covariance(self, noise: float) -> np.ndarray:
        """Return that of centre, logarithm of the width, height and floor; shape (4, 4)."""
        # that much is known of any peak beforehand, so that it exists even where the exposures tell nothing
        known = np.diag([self.width_um**-2, 1.0, 1.0, 1.0])
        return np.linalg.inv(self.information / noise**2 + known)


def _lorentzian(x: np.ndarray, centre: float | np.ndarray, width: float | np.ndarray) -> np.ndarray:
    """Return the Lorentzian whose square is the peak: ``width`` is that of the square at half height."""
    return 1 / (1 + (2 * HALF_WIDTH_OF_SQUARED_LORENTZIAN * (x - centre) / width) ** 2)


def _peak(x: np.ndarray, shape: Sequence[float] | np.ndarray) -> np.ndarray:
    centre, log_width, height, floor = shape
    return floor + height * _lorentzian(x, centre, math.exp(log_width)) ** 2


def _slopes(x: np.ndarray, shape: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the derivatives by centre, logarithm of the width, height and floor: shape (N, 4)."""
    centre, log_width, height, _ = shape
    width = math.exp(log_width)
    root = _lorentzian(x, centre, width)
    steepness = 4 * height * root**3 * (2 * HALF_WIDTH_OF_SQUARED_LORENTZIAN / width) ** 2
    by_centre = steepness * (x - centre)
    return np.stack([by_centre, by_centre * (x - centre), root**2, np.ones_like(x)], axis=1)


def _first_guess(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float, float]:
    """Return the best of a table of peaks, so that the fit begins in the right valley.

    Height and floor are those that fit each centre and width best.
    """
    centres = np.concatenate((np.linspace(x[0], x[-1], FIRST_CENTRES), x))
    centre, width = (grid.ravel() for grid in np.meshgrid(centres, FIRST_WIDTHS))
    shapes = _lorentzian(x, centre[:, None], width[:, None]) ** 2
    mean = shapes.mean(axis=1)
    shapes -= mean[:, None]
    variance = np.sum(shapes**2, axis=1) + 1e-12
    height = np.maximum(shapes @ (y - y.mean()), 0.0) / variance
    best = int(np.argmax(height**2 * variance))
    height_limited = min(float(height[best]), 19.0)
    floor = float(np.clip(y.mean() - height_limited * mean[best], -9.9, 0.99))
    return float(centre[best]), math.log(width[best]), height_limited, floor
