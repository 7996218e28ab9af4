"""Predict a surface from points: a plane that is not known beforehand, and what deviates from it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.prediction._deviations import Deviations, Kind, covariance, mixture, trend

__all__ = ["Kriging"]


class Kriging:
    """Universal kriging (Cressie, Statistics for Spatial Data, 1993, section 3.4), by several hypotheses.

    With one hypothesis it is what scikit-learn's `GaussianProcessRegressor` gives with a kernel for the
    plane, and with a thin plate what `scipy.interpolate.RBFInterpolator` gives, which states no uncertainty.

    Parameters
    ----------
    kind : str
        Of the covariance.
    places : numpy.ndarray, shape (n, 2)
        About 0, of half extent 1.
    heights, sigmas : numpy.ndarray, shape (n,)
    believed : sequence of Deviations
        Their weights add up to 1.
    """

    def __init__(
        self,
        kind: Kind,
        places: NDArray[Any],
        heights: NDArray[Any],
        sigmas: NDArray[Any],
        believed: Sequence[Deviations],
    ) -> None:
        self._kind: Kind = kind
        self._places = places
        self._weights = np.array([one.weight for one in believed])[:, None]
        self._lengths = [one.length for one in believed]
        variances = np.array([one.deviation_um for one in believed]) ** 2
        rough = np.array([one.rough for one in believed])
        self._smooth, self._rough = variances * (1 - rough), variances * rough
        n = len(places)
        bordered = np.zeros((len(believed), n + 3, n + 3))
        bordered[:, :n, :n] = self._covariance(places, places)
        bordered[:, range(n), range(n)] += self._rough[:, None] + sigmas**2
        bordered[:, :n, n:] = trend(places)
        bordered[:, n:, :n] = trend(places).T
        self._inverse = np.linalg.inv(bordered)
        self._pull = self._inverse[:, :, :n] @ heights

    def predict(self, places: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return mean and standard deviation at places of shape (m, 2), each of shape (m,).

        What is rough is part of them: they are of another place of the specimen, not of a smooth surface.
        """
        plane = np.broadcast_to(trend(places), (len(self._weights), len(places), 3))
        towards = np.concatenate([self._covariance(places, self._places), plane], axis=2)
        means = np.einsum("kmi,ki->km", towards, self._pull)
        explained = ((towards @ self._inverse) * towards).sum(axis=2)
        itself = self._covariance(places[:1], places[:1])[:, :, 0] + self._rough[:, None]
        # rounding errors may leave less than nothing of it
        return mixture(self._weights, means, np.maximum(itself - explained, 0.0))

    def _covariance(self, some: NDArray[Any], others: NDArray[Any]) -> NDArray[Any]:
        """Return that of what is smooth, shape (hypotheses, some, others)."""
        shapes = {
            length: covariance(self._kind, some, others, length) for length in dict.fromkeys(self._lengths)
        }
        return np.stack(
            [size * shapes[length] for size, length in zip(self._smooth, self._lengths, strict=True)]
        )
