"""From what a network says of each patch to what it says of the frame (Ge et al., section 2.2.4).

Three ways, those of the paper's table 3. Weighting by certainty lets a few clear patches outvote many empty
or ambiguous ones. It has a price: a few patches that are sure and wrong, such as dirt on a cover glass that
is itself in focus, then outvote the others too; `hard` bears most of those.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["WAYS", "certainty", "vote", "winner"]

WAYS = ("hard", "linear", "certainty")
"""Of voting: how often each class won; the mean; the mean weighted by certainty."""

_SUM_TOLERANCE = 1e-3
"""Probabilities come from back ends of single precision or less."""
_TIE = 1e-9
"""Probabilities that differ by less are equal: their sums were rounded."""


def certainty(p: ArrayLike) -> NDArray[np.float64]:
    """Return how certain distributions are, from 0 for equal probabilities to 1 for one sure class.

    One minus the entropy relative to its greatest value, 1 + sum(p log p) / log C. The paper's equation 14
    is printed as 1 - sum(p log p) / log C. That lies in [1, 2] in place of the [0, 1] which the text says,
    and is greatest for equal probabilities, so that it would favour the least certain patch.

    Parameters
    ----------
    p : array_like, shape (..., n_classes)
        Probabilities.

    Returns
    -------
    ndarray of float64, shape (...)

    Raises
    ------
    ValueError
        If these are no probabilities.
    """
    return _certainty(_checked(p))


def winner(p: ArrayLike) -> NDArray[np.intp]:
    """Return the most probable class.

    Of classes equally probable it is the one nearest to the mean class number of the distribution. Two of
    them may lie equally near: then it is the higher one. Among HH-Net's classes that is the closer one, and
    to correct for it moves the lens away from the specimen.

    Parameters
    ----------
    p : array_like, shape (..., n_classes)
        Probabilities.

    Returns
    -------
    ndarray of int, shape (...)

    Raises
    ------
    ValueError
        If these are no probabilities.
    """
    return _winner(_checked(p))


def vote(p: ArrayLike, how: str = "certainty") -> NDArray[np.float64]:
    """Return the distribution of a frame from those of its patches; `winner` tells its class.

    Parameters
    ----------
    p : array_like, shape (n_patches, n_classes)
        Probabilities.
    how : str
        One of `WAYS`. ``hard``: the share of the patches that each class wins, ties as `winner` decides.
        ``linear``: the mean over the patches. ``certainty``: that mean weighted by `certainty`; where none
        has any, the plain mean, which then is as uncertain as they are.

    Returns
    -------
    ndarray of float64, shape (n_classes,)

    Raises
    ------
    ValueError
        If there is no such way, there are no patches, or these are no probabilities.
    """
    if how not in WAYS:
        raise ValueError(f"unknown way of voting {how!r}; there are {', '.join(WAYS)}")
    each = _checked(p)
    if each.ndim != 2 or not len(each):
        raise ValueError(f"p has shape {each.shape}: expected (n_patches, n_classes), at least one patch")
    if how == "hard":
        return np.bincount(_winner(each), minlength=each.shape[1]) / len(each)
    if how == "linear":
        return each.mean(axis=0)
    weight = _certainty(each)
    total = weight.sum()
    return weight @ each / total if total > _TIE else each.mean(axis=0)


def _checked(p: ArrayLike) -> NDArray[np.float64]:
    """Return probabilities that add up to 1 exactly."""
    given = np.asarray(p, dtype=np.float64)
    if given.ndim < 1 or given.shape[-1] < 2:
        raise ValueError(f"p has shape {given.shape}: expected (..., n_classes), at least two classes")
    if not np.isfinite(given).all():
        raise ValueError("p has values that are not finite: expected probabilities")
    if (given < 0).any():
        raise ValueError(f"p has values down to {given.min():g}: expected probabilities, none below 0")
    total = given.sum(axis=-1, keepdims=True)
    wrong = np.abs(total - 1)
    if given.size and wrong.max() > _SUM_TOLERANCE:
        raise ValueError(f"p adds up to {total.flat[wrong.argmax()]:g}: expected 1 over the classes")
    return given / total


def _certainty(p: NDArray[np.float64]) -> NDArray[np.float64]:
    # 0 log 0 is 0
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    return np.clip(1 + (p * logs).sum(axis=-1) / np.log(p.shape[-1]), 0, 1)


def _winner(p: NDArray[np.float64]) -> NDArray[np.intp]:
    number = np.arange(p.shape[-1])
    distance = np.round(np.abs(number - (p @ number)[..., None]), 9)
    distance[p < p.max(axis=-1, keepdims=True) - _TIE] = np.inf
    # from the far end, so that of two equally near the higher number is found
    return p.shape[-1] - 1 - distance[..., ::-1].argmin(axis=-1)
