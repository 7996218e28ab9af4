"""A linear fit that some of its values may contradict, and what it knows of its own uncertainty."""

import dataclasses
import itertools
import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtrit

__all__ = ["RobustFit", "robust_fit"]

MAD_OF_ONE_SIGMA = 0.6745

OUTLYING_SIGMAS = 3.5
"""A value farther off than so many standard uncertainties, or so many times the scatter of the better half of
the values, is not among those that agree."""

MOST_SUBSETS = 2000
"""Of just enough values for a fit, among which the one to start from is chosen; if more, drawn at random."""

ROUNDS = 10
"""Within so many the values that agree no longer change, or change to and fro."""


@dataclasses.dataclass(frozen=True, eq=False)
class RobustFit:
    """What `robust_fit` found.

    Parameters
    ----------
    coefficients : numpy.ndarray
        Shape (P,).
    covariance : numpy.ndarray
        Of the coefficients, shape (P, P).
    residuals : numpy.ndarray
        Values less the fit, of all values; shape (N,).
    agreeing : numpy.ndarray of bool
        Which values the fit was made to, shape (N,).
    scatter : float
        Standard deviation of those about the fit beyond their own uncertainties.
    """

    coefficients: np.ndarray
    covariance: np.ndarray
    residuals: np.ndarray
    agreeing: np.ndarray
    scatter: float


def robust_fit(
    design: np.ndarray, values: np.ndarray, sigmas: np.ndarray, tolerances: np.ndarray | None = None
) -> RobustFit:
    """Fit ``design @ coefficients`` to the values that agree with each other, up to nearly half may not.

    It begins with the least median of squares (P. J. Rousseeuw, *Least median of squares regression*, J. Am.
    Stat. Assoc. 79 (1984) 871), which even a cluster of outliers at the edge does not move, and ends with
    least squares of what agrees with that. Each value is weighted by its own uncertainty and by the scatter
    that all have in common beyond it.

    Parameters
    ----------
    design : numpy.ndarray
        Shape (N, P), with N >= P and of rank P.
    values, sigmas : numpy.ndarray
        With their standard uncertainties, shape (N,).
    tolerances : numpy.ndarray, optional
        Standard uncertainties within which a value agrees, where those are larger than `sigmas`; shape (N,).
    """
    tolerances = sigmas if tolerances is None else np.maximum(sigmas, tolerances)
    residuals, spread = _least_median(design, values)
    agreeing = np.abs(residuals) <= OUTLYING_SIGMAS * np.hypot(spread, tolerances)
    fitted = _least_squares(design, values, sigmas, agreeing)
    for _ in range(ROUNDS):
        now = np.abs(fitted.residuals) <= OUTLYING_SIGMAS * np.hypot(max(fitted.scatter, spread), tolerances)
        if (now == fitted.agreeing).all() or np.linalg.matrix_rank(design[now]) < design.shape[1]:
            break
        fitted = _least_squares(design, values, sigmas, now)
    return fitted


def _least_median(design: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, float]:
    """Return what is left by the fit whose median residual is least, and the scatter that this tells."""
    number, terms = design.shape
    if math.comb(number, terms) <= MOST_SUBSETS:
        subsets = np.array(list(itertools.combinations(range(number), terms)))
    else:
        rng = np.random.default_rng(0)
        subsets = rng.permuted(np.tile(np.arange(number), (MOST_SUBSETS, 1)), axis=1)[:, :terms]
    chosen = design[subsets]
    # tiles in a line do not determine a plane
    volume = np.abs(np.linalg.det(chosen))
    determined = volume > 1e-3 * volume.max()
    fits = np.linalg.solve(chosen[determined], values[subsets[determined], None])[..., 0]
    residuals = np.abs(values - fits @ design.T)
    # of those, the one that leaves as many as can be on the other side of the median
    middle = (number + terms + 1) // 2
    sizes = np.partition(residuals, middle - 1, axis=1)[:, middle - 1]
    best = int(np.argmin(sizes))
    # corrected for few values as in Rousseeuw and Leroy, Robust Regression and Outlier Detection (1987)
    few = 1 + 5 / (number - terms) if number > terms else 1.0
    return values - design @ fits[best], float(sizes[best]) * few / MAD_OF_ONE_SIGMA


def _least_squares(
    design: np.ndarray, values: np.ndarray, sigmas: np.ndarray, agreeing: np.ndarray
) -> RobustFit:
    """Fit to the values that agree, their scatter beyond their own uncertainties included."""
    chosen, wanted, variances = design[agreeing], values[agreeing], sigmas[agreeing] ** 2
    freedom = len(wanted) - design.shape[1]
    scatter = _scatter(chosen, wanted, variances, freedom) if freedom else 0.0
    coefficients, covariance = _weighted(chosen, wanted, variances + scatter**2)
    # from few values the scatter is poorly known, so two sigma are Student's
    student = float(stdtrit(freedom, 0.97725)) / 2 if scatter else 1.0
    return RobustFit(coefficients, covariance * student**2, values - design @ coefficients, agreeing, scatter)


def _scatter(design: np.ndarray, values: np.ndarray, variances: np.ndarray, freedom: int) -> float:
    """Return the scatter with which the values deviate by as much as they should.

    R. C. Paule, J. Mandel, *Consensus values and weighting factors*, J. Res. Natl. Bur. Stand. 87 (1982) 377.
    """

    def excess(scatter: float) -> float:
        total = variances + scatter**2
        coefficients, _ = _weighted(design, values, total)
        return float(np.sum((values - design @ coefficients) ** 2 / total)) - freedom

    if excess(0.0) <= 0:
        return 0.0
    coefficients, _ = _weighted(design, values, np.ones_like(values))
    return float(brentq(excess, 0.0, 2 * float(np.linalg.norm(values - design @ coefficients)), rtol=1e-3))  # type: ignore[arg-type]


def _weighted(design: np.ndarray, values: np.ndarray, variances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients and their covariance."""
    weighted = design.T / variances
    covariance = np.asarray(np.linalg.inv(weighted @ design))
    return covariance @ (weighted @ values), covariance
