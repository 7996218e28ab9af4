"""Points as numbers that are easy to reckon with."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.prediction._predicted import FocusPoint

__all__ = ["Frame"]

_ONE_LINE = 1e-3
"""Ratio of the extents across and along below which points lie on one line."""


class Frame:
    """Places about 0, of half extent 1, and heights about 0.

    Parameters
    ----------
    points : sequence of FocusPoint

    Attributes
    ----------
    places_um : numpy.ndarray, shape (n, 2)
        Where the points are on the stage.
    extent_um : float
        Over how much of it they extend, along x or y.
    middle_um : float
        From where heights count.
    standardised : tuple
        Places, shape (n, 2), heights and their sigmas in um, shape (n,).

    Raises
    ------
    ValueError
        If the places lie on one line.
    """

    def __init__(self, points: Sequence[FocusPoint]) -> None:
        self.places_um = np.array([(point.x_um, point.y_um) for point in points])
        heights_um = np.array([point.focus_um for point in points])
        sigmas_um = np.array([point.sigma_um for point in points])
        low_um, high_um = self.places_um.min(axis=0), self.places_um.max(axis=0)
        self.extent_um = float((high_um - low_um).max())
        self._origin_um = (low_um + high_um) / 2
        self.middle_um = float(np.median(heights_um))
        if on_one_line(self.places_um):
            raise ValueError(
                f"{len(points)} points on one line tell nothing of the surface beside it: focus elsewhere too"
            )
        self.standardised = (self.standard(self.places_um), heights_um - self.middle_um, sigmas_um)

    def standard(self, places_um: NDArray[Any]) -> NDArray[Any]:
        """Return places of the stage as those of `standardised` are."""
        return (places_um - self._origin_um) / (self.extent_um / 2)


def on_one_line(places: NDArray[Any]) -> bool:
    """Return whether places of shape (n, 2) are."""
    along, across = np.linalg.svd(places - places.mean(axis=0), compute_uv=False)
    return bool(across <= _ONE_LINE * along)
