"""Which tile to focus next, so that a surface is known well from few of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.prediction._predicted import FocusPoint
from bluesky_autofocus.prediction._surface import LEAST_POINTS, FocusSurface

__all__ = ["next_tile"]

_SAME_TILE = 0.25
"""Part of the distance between tiles within which a point is of the tile."""


def next_tile(
    surface_or_points: FocusSurface | Sequence[FocusPoint], tiles: Sequence[tuple[float, float]]
) -> int:
    """Return the tile whose focusing tells most: the one where least is known of the focus.

    While there are too few points for a surface it is the tile farthest from all of them, and the one in the
    middle at first. Tiles that have a point, an outlier too, are chosen only when all have.

    Parameters
    ----------
    surface_or_points : FocusSurface or sequence of FocusPoint
        What is known. A thin plate is laid through points, and through those of a plane: by itself a plane
        asks for its corners only, where nobody sees that it is none.
    tiles : sequence of tuple
        Places (x, y) on the stage, in um.

    Returns
    -------
    int
        Index into `tiles`.

    Raises
    ------
    ValueError
        If there are no tiles, or a place is not finite.
    """
    places_um = np.array([(float(x), float(y)) for x, y in tiles])
    if not len(places_um):
        raise ValueError("expected one or more tiles, got none")
    if not np.isfinite(places_um).all():
        raise ValueError("tiles must be at finite places (x, y) in um")
    if isinstance(surface_or_points, FocusSurface):
        surface, points = surface_or_points, surface_or_points.points
    else:
        surface, points = None, surface_or_points
    if surface is None or surface.kind == "plane":
        surface = _thin_plate(points)
    known_um = np.array([(point.x_um, point.y_um) for point in points]).reshape(-1, 2)
    free = _without_points(places_um, known_um)
    if surface is not None:
        _, unknown = surface.estimate(*places_um[free].T)
    elif len(known_um):
        unknown = _nearest(places_um[free], known_um)
    else:
        middle_um = (places_um.min(axis=0) + places_um.max(axis=0)) / 2
        unknown = -np.linalg.norm(places_um - middle_um, axis=1)
    return int(free[unknown.argmax()])


def _thin_plate(points: Sequence[FocusPoint]) -> FocusSurface | None:
    if len(points) < LEAST_POINTS["thin_plate"]:
        return None
    try:
        return FocusSurface.fit(points, kind="thin_plate")
    except ValueError:  # on one line, or the same place again and again
        return None


def _without_points(places_um: NDArray[np.float64], known_um: NDArray[np.float64]) -> NDArray[np.int_]:
    """Return which tiles have no point yet; all of them, if there are none."""
    everything = np.arange(len(places_um))
    if len(places_um) < 2 or not len(known_um):
        return everything
    apart_um = np.linalg.norm(places_um[:, None] - places_um[None], axis=2)
    tile_um = np.min(apart_um[apart_um > 0], initial=np.inf)
    free = everything[_nearest(places_um, known_um) > _SAME_TILE * (tile_um if np.isfinite(tile_um) else 0)]
    return free if len(free) else everything


def _nearest(places_um: NDArray[np.float64], known_um: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance of each place from the nearest one that is known."""
    return np.linalg.norm(places_um[:, None] - known_um[None], axis=2).min(axis=1)
