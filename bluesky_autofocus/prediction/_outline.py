"""How far a place is from the area that points enclose."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["Outline"]


class Outline:
    """The convex hull of points in a plane.

    Parameters
    ----------
    places : numpy.ndarray, shape (n, 2)
        Not all on one line.
    """

    def __init__(self, places: NDArray[np.float64]) -> None:
        from scipy.spatial import ConvexHull

        hull = ConvexHull(places)
        self.corners = places[hull.vertices]
        """In order, counter-clockwise, shape (corners, 2)."""
        self._sides = hull.equations
        self._edges = np.roll(self.corners, -1, axis=0) - self.corners

    def distance(self, place: NDArray[np.float64]) -> float:
        """Return how far outside a place of shape (2,) lies; 0 inside."""
        if (self._sides[:, :2] @ place + self._sides[:, 2] <= 0).all():
            return 0.0
        from_corners = place - self.corners
        along = (from_corners * self._edges).sum(axis=1) / (self._edges**2).sum(axis=1)
        nearest = self.corners + np.clip(along, 0, 1)[:, None] * self._edges
        return float(np.linalg.norm(place - nearest, axis=1).min())
