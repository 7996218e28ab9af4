"""Narrow bins of defocus, of which the classes of focus are made."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from bluesky_autofocus.models.hh_net.classes import INDICES, ClassTable

__all__ = ["DefocusBins"]

LABEL_SIGMA = 0.7
"""Of a bin's width: a known defocus is spread over the bins about it, so that their mean tells it to a small
part of a bin."""


class DefocusBins:
    """Bins of defocus between ascending edges; the outermost ones have no end.

    Where a network was trained with frames sorted by eye the bins are the classes themselves. Then it
    measures defocus only within them, and only as finely as they are wide.

    Parameters
    ----------
    table : ClassTable
    edges_um : sequence of float
        The edges between the classes are among them.

    Raises
    ------
    ValueError
        If they are not.
    """

    def __init__(self, table: ClassTable, edges_um: Sequence[float]) -> None:
        edges = np.asarray(edges_um, np.float64)
        if edges.ndim != 1 or not np.isfinite(edges).all() or not (np.diff(edges) > 0).all():
            raise ValueError("bins_um must be finite numbers in ascending order")
        inner = np.array(table.edges_um[1:])
        missing = [edge for edge in inner if np.abs(edges[1:-1] - edge).min(initial=math.inf) > 1e-6]
        if missing:
            raise ValueError(f"bins_um has no edge at {missing[0]:g} um, where a class begins")
        self.edges_um = edges
        self.middles_um = (edges[1:] + edges[:-1]) / 2
        self._within_um2 = np.diff(edges) ** 2 / 12
        number = len(INDICES) - 1 - np.searchsorted(inner, self.middles_um)
        self._margin_um = float(np.diff(table.edges_um).min())
        self._members = np.eye(len(INDICES))[number]

    @classmethod
    def of_classes(cls, table: ClassTable) -> "DefocusBins":
        """Return the classes themselves; index 4 is taken for as wide as its neighbour."""
        edges = table.edges_um
        return cls(table, (*edges, 2 * edges[-1] - edges[-2]))

    @classmethod
    def fine(cls, table: ClassTable, lowest_um: float, highest_um: float, parts: int = 12) -> "DefocusBins":
        """Return bins of which the narrowest class has so many, from a lowest to a highest defocus.

        Parameters
        ----------
        table : ClassTable
        lowest_um, highest_um : float
            At least from the limit of the table to where index 4 begins.
        parts : int
        """
        step_um = float(np.diff(table.edges_um).min()) / parts
        ends = (
            min(lowest_um, table.limit_um),
            *table.edges_um[1:],
            max(highest_um, table.edges_um[-1] + step_um),
        )
        pieces = [
            np.linspace(low, high, max(1, round((high - low) / step_um)), endpoint=False)
            for low, high in zip(ends, ends[1:], strict=False)
        ]
        return cls(table, np.append(np.concatenate(pieces), ends[-1]).tolist())

    def __len__(self) -> int:
        return len(self.middles_um)

    @property
    def range_um(self) -> tuple[float, float]:
        """Lowest and highest defocus that is measured.

        Frames from beyond the bins are told to be in the outer ones, so nothing that lies within a class of
        their ends is taken for measured. But classes of frames that were sorted by eye begin at the limit,
        and there is nothing beyond.
        """
        if len(self) == len(INDICES):
            return float(self.edges_um[0]), float(self.edges_um[-2])
        return float(self.edges_um[0] + self._margin_um), float(self.edges_um[-1] - self._margin_um)

    def measures(self, defocus_um: float) -> bool:
        """Return whether a defocus lies where it is measured."""
        low, high = self.range_um
        return low <= defocus_um <= high

    def classes(self, p: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the probabilities of the classes, (..., 7), by those of the bins, (..., n_bins)."""
        return p @ self._members

    def mean(self, p: NDArray[np.floating]) -> tuple[float, float]:
        """Return the defocus of a frame and its deviation, by what its patches say of it.

        Each patch counts by the inverse of its variance, so that what is empty has no say.

        Parameters
        ----------
        p : ndarray, shape (n_patches, n_bins)

        Returns
        -------
        defocus_um, sigma_um : float
            The deviation is that of the patches' mean by how they scatter, and by how sure they are.
        """
        of_patches = p @ self.middles_um
        second = p @ (self.middles_um**2 + self._within_um2)
        weight = 1 / np.maximum(second - of_patches**2, self._within_um2.min())
        total = float(weight.sum())
        defocus_um = float(weight @ of_patches / total)
        scatter_um2 = float(weight @ (of_patches - defocus_um) ** 2 / total)
        return defocus_um, math.sqrt(scatter_um2 / max(len(p) - 1, 1) + 1 / total)

    def soft_labels(self, defocus_um: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the probabilities of the bins where the defocus is known.

        Parameters
        ----------
        defocus_um : ndarray, shape (n,)

        Returns
        -------
        ndarray of float32, shape (n, n_bins)
        """
        sigma_um = LABEL_SIGMA * np.diff(self.edges_um).min()
        inner = ndtr((self.edges_um[1:-1] - defocus_um[:, None]) / sigma_um)
        below = np.pad(inner, ((0, 0), (1, 1)), constant_values=((0, 0), (0, 1)))
        return np.diff(below, axis=1).astype(np.float32)

    def labels_of_classes(self, number: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return which bins belong to some classes, 1 or 0, by the place of the classes.

        Parameters
        ----------
        number : ndarray of int, shape (n,)

        Returns
        -------
        ndarray of float32, shape (n, n_bins)
        """
        return self._members.T[number].astype(np.float32)
