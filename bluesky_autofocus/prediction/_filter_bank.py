"""Kalman filters side by side, which differ in how much they believe that focus strays."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["FilterBank"]

_NODES = np.linspace(-2.0, 2.0, 7)
"""Of the prior of the logarithm of a wander, in its standard deviations."""
_NOISES = np.array([1.0, 2.0])
"""By what observations are perhaps less certain than they say: a search states what its own exposures tell,
and nothing of what they have in common."""
_MEMORY = 0.98
"""Share of what was learnt that is kept from one observation to the next: an instrument that has warmed up
strays less than it did. With 0.95 to 1 the coverage is the same."""

POSITION, RATE, COEFFICIENT = range(3)


class FilterBank:
    """Filters for one drift, each with process noise of its own, weighted by how well they have predicted.

    Multiple-model estimation (Magill, IEEE Trans. Autom. Control 10, 434, 1965), with forgetting (Raftery,
    Karny and Ettler, Technometrics 52, 52, 2010). What is not known of the process noise widens the
    prediction; after one or two observations, that is nearly all there is to it.

    Each filter is a local linear trend (Harvey, Forecasting, structural time series models, 1989): focus
    moves at a rate and strays besides as a random walk, the rate is a random walk too, and the temperature
    has its part, of a coefficient that does not change:

        d position = rate dt + wander dw1,    d rate = rate_wander dw2,
        focus = position + coefficient * warmth

    Parameters
    ----------
    wander : float
        Median of what the filters believe of it, in um / sqrt(s).
    rate_wander : float
        The same, in um / s / sqrt(s).
    spread : float
        One standard deviation of what they believe is this factor. 1: all believe the same.
    rate_um_s : float
        Standard deviation of the rate at first.
    coefficient, coefficient_sigma : float
        Of the temperature, in um / K, at first.
    """

    def __init__(
        self,
        *,
        wander: float,
        rate_wander: float,
        spread: float,
        rate_um_s: float,
        coefficient: float,
        coefficient_sigma: float,
    ) -> None:
        grid = np.meshgrid(_NODES, _NODES, np.log2(_NOISES), indexing="ij")
        of_wander, of_rate, of_noise = (axis.ravel() for axis in grid)
        self.wander = wander * spread**of_wander
        self.rate_wander = rate_wander * spread**of_rate
        self._noise = 2.0**of_noise
        self._prior = _normalised(-(of_wander**2 + of_rate**2 + of_noise**2) / 2)
        self._log_weights = self._prior
        self._state = np.zeros((len(of_wander), 3))
        self._state[:, COEFFICIENT] = coefficient
        self._covariance = np.zeros((len(of_wander), 3, 3))
        self._covariance[:] = np.diag([0.0, rate_um_s, coefficient_sigma]) ** 2

    @property
    def weights(self) -> NDArray[np.float64]:
        """How much each filter counts, shape (n,); they add up to 1."""
        return np.exp(self._log_weights)

    def begin(self, position_um: float, sigma_um: float) -> None:
        """Take in where focus is at first."""
        self._state[:, POSITION] = position_um
        self._covariance[:, POSITION, POSITION] = (self._noise * sigma_um) ** 2

    def predict(self, seconds: ArrayLike, warmth: float = 0.0) -> tuple[Any, Any]:
        """Return mean and standard deviation of the focus after so many seconds, of the shape of these.

        Parameters
        ----------
        seconds : array_like
            After the last observation that was taken; before it where they are negative.
        warmth : float
            Temperature less that of reference, in K.
        """
        later = np.asarray(seconds, float)
        expected, variance = self._expected(later.reshape(-1), warmth)
        weights = self.weights
        mean = weights @ expected
        deviation = np.sqrt(weights @ (variance + (expected - mean) ** 2))
        return mean.reshape(later.shape), deviation.reshape(later.shape)

    def _expected(self, later: NDArray[Any], warmth: float) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return mean and variance by each filter, shapes (n, m), at times of shape (m,)."""
        # row by row what the focus is made of, after this long
        makes = np.stack([np.ones_like(later), later, np.full_like(later, warmth)], axis=1)
        expected = self._state @ makes.T
        variance = np.einsum("mi,nij,mj->nm", makes, self._covariance, makes)
        apart = np.abs(later)
        strayed = np.outer(self.wander**2, apart) + np.outer(self.rate_wander**2, apart**3 / 3)
        return expected, variance + strayed

    def go(self, seconds: float) -> None:
        """Let time pass."""
        transition = np.eye(3)
        transition[POSITION, RATE] = seconds
        noise = np.zeros_like(self._covariance)
        by_rate = self.rate_wander**2
        noise[:, POSITION, POSITION] = self.wander**2 * seconds + by_rate * seconds**3 / 3
        noise[:, POSITION, RATE] = noise[:, RATE, POSITION] = by_rate * seconds**2 / 2
        noise[:, RATE, RATE] = by_rate * seconds
        self._state = self._state @ transition.T
        self._covariance = transition @ self._covariance @ transition.T + noise

    def take(self, position_um: float, sigma_um: float, warmth: float = 0.0, *, learn: bool = True) -> None:
        """Take in where focus is now, and learn from it which filters predict well."""
        makes = np.array([1.0, 0.0, warmth])
        with_focus = self._covariance @ makes
        variance = with_focus @ makes + (self._noise * sigma_um) ** 2
        surprise = position_um - self._state @ makes
        gain = with_focus / variance[:, None]
        self._state = self._state + gain * surprise[:, None]
        covariance = self._covariance - gain[:, :, None] * with_focus[:, None, :]
        # rounding errors would make it lopsided
        self._covariance = (covariance + covariance.transpose(0, 2, 1)) / 2
        if learn:
            kept = _MEMORY * self._log_weights + (1 - _MEMORY) * self._prior
            self._log_weights = _normalised(kept - (surprise**2 / variance + np.log(variance)) / 2)

    def reopen(self, position_sigma_um: float, rate_sigma_um_s: float = 0.0) -> None:
        """Forget so much of where focus is, and of its rate; not how it strays."""
        self._covariance[:, POSITION, POSITION] += position_sigma_um**2
        self._covariance[:, RATE, RATE] += rate_sigma_um_s**2

    def mean_and_deviation(self, part: int) -> tuple[float, float]:
        """Return them of one part of the state: `POSITION`, `RATE` or `COEFFICIENT`."""
        values, weights = self._state[:, part], self.weights
        mean = weights @ values
        variance = weights @ (self._covariance[:, part, part] + (values - mean) ** 2)
        return float(mean), math.sqrt(variance)

    def learnt(self, values: NDArray[np.float64]) -> float:
        """Return the geometric mean of `wander` or `rate_wander`, by the weights of the filters."""
        return float(np.exp(self.weights @ np.log(values)))


def _normalised(log_weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return log_weights - np.logaddexp.reduce(log_weights)
