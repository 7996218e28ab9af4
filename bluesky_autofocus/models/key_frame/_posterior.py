"""Where the focus is, from what a network says of each plane: labels, and what follows from them.

A label says of each of the n planes of a scan whether it is in focus. A person marks `in_focus` of them, one
of a coarse scan and three of a fine one, because nobody can tell within the planes beside. Here a label is
written for any position f of focus, counted in planes from the first one, by going linearly from one such
marking to the next:

    l_k(f) = clip((in_focus + 1) / 2 - |k - f|, 0, 1),   l_below(f) = clip(-f, 0, 1),   l_above likewise

so that at whole f it is what the person marks, and two more entries tell when the focus lies outside. Given
the network's log-odds x, the log-likelihood of f under its answers, taken for independent, is but for a
constant

    L(f) = sum_k l_k(f) x_k

(the binary cross-entropy it was trained with, read backwards). Cells add, and a temperature, found on fields
kept out of training, makes the probabilities true.
"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["FocusPosterior", "beyond", "label", "posterior"]

_STEP = 0.05
"""Between the positions that are looked at, in planes."""


def label(focus: ArrayLike, n_planes: int, in_focus: int) -> NDArray[np.float32]:
    """Return labels of scans: the entry for "below", one for each plane, the one for "above".

    Parameters
    ----------
    focus : array_like, shape (...)
        Position of focus, in planes from the first one.
    n_planes : int
        Of the scan.
    in_focus : int
        How many planes are marked; odd.

    Returns
    -------
    ndarray of float32, shape (..., n_planes + 2)
        Between 0 and 1.
    """
    f = np.asarray(focus, dtype=np.float64)[..., None]
    marked = np.clip((in_focus + 1) / 2 - np.abs(np.arange(n_planes) - f), 0, 1)
    below, above = np.clip(-f, 0, 1), np.clip(f - (n_planes - 1), 0, 1)
    return np.concatenate([below, marked, above], axis=-1).astype(np.float32)


def beyond(in_focus: int) -> float:
    """Return how far outside a scan positions are told apart: to a label all that is farther is the same."""
    return (in_focus + 1) / 2 + 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class FocusPosterior:
    """What is known of the position of focus, in planes from the first one.

    Parameters
    ----------
    focus, weight : ndarray, shape (m,)
        Positions, and the probability of each; what lies far outside counts as just outside.
    in_focus : ndarray, shape (n_planes,)
        Probability of each plane to be in focus, as a label marks it.
    disagreement : float
        Standard error of the mean position, from how much the cells differ; 0 where there is one.
    """

    focus: NDArray[np.float64]
    weight: NDArray[np.float64]
    in_focus: NDArray[np.float64]
    disagreement: float

    @property
    def mean(self) -> float:
        """The most likely position on average."""
        return float(self.weight @ self.focus)

    @property
    def sigma(self) -> float:
        """Deviation of the position."""
        return float(np.sqrt(self.weight @ (self.focus - self.mean) ** 2))

    @property
    def nearest_plane(self) -> int:
        """The plane that focus is nearest to."""
        return int(np.clip(np.rint(self.mean), 0, len(self.in_focus) - 1))

    def share_below(self, position: float) -> float:
        """Return the probability of the focus being below a position."""
        return float(self.weight[self.focus < position - 1e-9].sum())

    def share_above(self, position: float) -> float:
        """Return the probability of the focus being above a position."""
        return float(self.weight[self.focus > position + 1e-9].sum())


def posterior(log_odds: ArrayLike, in_focus: int, temperature: float = 1.0) -> FocusPosterior:
    """Return what log-odds say of the position of focus.

    Parameters
    ----------
    log_odds : array_like, shape (n_cells, n_planes + 2)
        Of the labels' entries, for each cell.
    in_focus : int
        As in the labels that the network was trained with.
    temperature : float
        What the log-likelihood is divided by.

    Raises
    ------
    ValueError
        If there are none, or they are not finite.
    """
    x = np.asarray(log_odds, dtype=np.float64)
    if x.ndim != 2 or not x.size or not np.isfinite(x).all():
        raise ValueError(f"log_odds must be finite numbers of shape (n_cells, n_planes + 2), got {x!r}")
    cells, n = len(x), x.shape[1] - 2
    reach = beyond(in_focus)
    focus = np.arange(-reach, n - 1 + reach + _STEP / 2, _STEP)
    labels = label(focus, n, in_focus)
    each = _normalised(x @ labels.T / temperature)
    # Cells of a field err together: as many as there are count as the root of their number.
    weight = _normalised(x.sum(axis=0) @ labels.T / (temperature * np.sqrt(cells)))
    means = each @ focus
    return FocusPosterior(
        focus,
        weight,
        weight @ labels[:, 1:-1],
        float(means.std(ddof=1) / np.sqrt(cells)) if cells > 1 else 0.0,
    )


def _normalised(log_likelihood: NDArray[np.float64]) -> NDArray[np.float64]:
    weight = np.exp(log_likelihood - log_likelihood.max(axis=-1, keepdims=True))
    return weight / weight.sum(axis=-1, keepdims=True)
