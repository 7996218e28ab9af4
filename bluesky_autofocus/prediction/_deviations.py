"""How a specimen may deviate from a plane: kinds of covariance, and what points say of it."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Deviations", "Kind", "covariance", "mixture", "trend", "weigh"]

Kind: TypeAlias = Literal["plane", "thin_plate", "gaussian_process"]

_NODES = np.linspace(-2.5, 2.5, 24)
"""Of the prior of the logarithm of the deviation, in its standard deviations."""
_FACTOR = 4.0
"""One standard deviation of what a specimen deviates from a plane is this factor: slides and wafers are
flat within some um, tissue is not."""
_LENGTHS = (0.3, 0.6, 1.2, 2.4)
"""In which specimens deviate, in half extents of the points. Shorter ones cannot be told from what is
rough, longer ones not from a plane."""
_ROUGH = (0.001, 0.05, 0.5, 0.95)
"""Share of the deviations that differ from place to place: cells do not all lie at the same height, and a
slide that is bent by 20 um is no rougher for that."""
_SHAPES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "plane": ((1.0,), (1.0,)),
    "thin_plate": (_ROUGH, (1.0,)),
    "gaussian_process": (_ROUGH, _LENGTHS),
}
_NEGLIGIBLE = 1e-2
"""Hypotheses of less weight, compared with the likeliest, are left out."""
_THIN_PLATE_VARIANCE = 0.55
"""Mean square over a square of half extent 1, less its plane, of what r^2 log r describes."""


@dataclasses.dataclass(frozen=True)
class Deviations:
    """One hypothesis of how a specimen deviates from a plane.

    Parameters
    ----------
    weight : float
        Its probability.
    deviation_um : float
        Standard deviation from the plane.
    rough : float
        Share of the variance that differs from place to place.
    length : float
        In which the rest changes, in half extents of the points.
    """

    weight: float
    deviation_um: float
    rough: float
    length: float


def weigh(
    kind: Kind,
    places: NDArray[Any],
    heights: NDArray[Any],
    sigmas: NDArray[Any],
    unevenness_um: float,
) -> tuple[list[Deviations], NDArray[Any]]:
    """Return what points say of the deviations, and how far each point is off what the others say.

    Of the plane nothing is known beforehand, so hypotheses are weighed by their restricted likelihood
    (Patterson and Thompson, Biometrika 58, 545, 1971). Each point is left out without solving anything
    again (Dubrule, Math. Geology 15, 687, 1983), and the hypotheses are weighed without it too: an outlier
    does not excuse itself by making the surface look uneven.

    Parameters
    ----------
    kind : str
    places : numpy.ndarray, shape (n, 2)
        About 0, of half extent 1.
    heights, sigmas : numpy.ndarray, shape (n,)
    unevenness_um : float
        Median of the deviation, before any point is known.

    Returns
    -------
    believed : list of Deviations
        The hypotheses that matter, the likeliest first.
    surprises : numpy.ndarray, shape (n,)
        In standard deviations.
    """
    from scipy.linalg import eigh

    # what is left of heights when the plane is taken out, whichever it is
    contrasts = np.linalg.svd(trend(places))[0][:, 3:]
    noise = contrasts.T @ (sigmas[:, None] ** 2 * contrasts)
    deviations_um = unevenness_um * _FACTOR**_NODES
    hypotheses, log_weights, off, variances = [], [], [], []
    for rough, length in itertools.product(*_SHAPES[kind]):
        shape = (1 - rough) * covariance(kind, places, places, length) + rough * np.eye(len(places))
        # in these axes the covariance is diagonal, whatever the size of the deviations
        sizes, axes = eigh(contrasts.T @ shape @ contrasts, noise)
        axes = contrasts @ axes
        spread = 1 + np.outer(deviations_um**2, np.maximum(sizes, 0.0))
        along = axes.T @ heights
        log_weights.append(-(_NODES**2) / 2 - ((along**2 / spread) + np.log(spread)).sum(axis=1) / 2)
        precisions = (1 / spread) @ axes.T**2
        off.append((along / spread) @ axes.T / precisions)
        variances.append(1 / precisions)
        hypotheses += [Deviations(0.0, float(size), rough, length) for size in deviations_um]
    log_weight, off_um, variance = (np.concatenate(rows) for rows in (log_weights, off, variances))
    log_without = log_weight[:, None] + (off_um**2 / variance + np.log(variance)) / 2
    mean, deviation = mixture(_probabilities(log_without), off_um, variance)
    weights = _probabilities(log_weight[:, None])[:, 0]
    believed = [
        dataclasses.replace(one, weight=float(weight))
        for one, weight in zip(hypotheses, weights, strict=True)
        if weight >= _NEGLIGIBLE * weights.max()
    ]
    return _normalised(believed), mean / deviation


def _normalised(believed: Sequence[Deviations]) -> list[Deviations]:
    total = sum(one.weight for one in believed)
    found = [dataclasses.replace(one, weight=one.weight / total) for one in believed]
    return sorted(found, key=lambda one: -one.weight)


def _probabilities(log_weights: NDArray[Any]) -> NDArray[Any]:
    return np.exp(log_weights - np.logaddexp.reduce(log_weights, axis=0))


def mixture(
    weights: NDArray[Any], means: NDArray[Any], variances: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return mean and standard deviation over hypotheses, the first axis."""
    mean = (weights * means).sum(axis=0)
    return mean, np.sqrt((weights * (variances + (means - mean) ** 2)).sum(axis=0))


def trend(places: NDArray[Any]) -> NDArray[Any]:
    """Return the terms of a plane at places of shape (n, 2), shape (n, 3)."""
    return np.column_stack([np.ones(len(places)), places])


def covariance(kind: Kind, some: NDArray[Any], others: NDArray[Any], length: float) -> NDArray[Any]:
    """Return that of deviations which change smoothly, of variance 1; shape (some, others)."""
    return _COVARIANCES[kind](some, others, length)


def _none(some: NDArray[Any], others: NDArray[Any], length: float) -> NDArray[Any]:
    return np.zeros((len(some), len(others)))


def _thin_plate(some: NDArray[Any], others: NDArray[Any], length: float) -> NDArray[Any]:
    """Of a thin plate that is bent: r^2 log r, which is a covariance once the plane is taken out.

    Wahba, Spline Models for Observational Data, SIAM 1990, section 2.4.
    """
    distance = np.linalg.norm(some[:, None] - others[None], axis=2)
    bent = distance**2 * np.log(np.where(distance > 0, distance, 1.0))
    return bent / _THIN_PLATE_VARIANCE


def _matern(some: NDArray[Any], others: NDArray[Any], length: float) -> NDArray[Any]:
    """Of a surface that has slopes and curvatures, and no more: a Gaussian would promise more."""
    try:
        from sklearn.gaussian_process.kernels import Matern
    except ImportError as error:
        raise ImportError(
            "a Gaussian process needs scikit-learn: pip install bluesky-autofocus[prediction], or choose "
            "the kind 'thin_plate'"
        ) from error
    return np.asarray(Matern(length_scale=length, nu=2.5)(some, others))


_COVARIANCES: dict[str, Callable[[NDArray[Any], NDArray[Any], float], NDArray[Any]]] = {
    "plane": _none,
    "thin_plate": _thin_plate,
    "gaussian_process": _matern,
}
