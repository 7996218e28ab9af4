"""A focus surface that was recorded, as squares of a map."""

import json
import math
from typing import Any

import numpy as np

from bluesky_autofocus.callbacks._tiles import Box

__all__ = ["heights_of"]

SQUARES = 16
"""Along each side of the map."""


def heights_of(recorded: str) -> list[tuple[Box, float]]:
    """Return squares that cover a surface, and where focus is in their middles; none where it is unknown.

    Parameters
    ----------
    recorded : str
        The JSON in an Event of the stream ``focus_surface``.
    """
    from bluesky_autofocus.prediction import FocusSurface

    surface = FocusSurface.from_dict(json.loads(recorded))
    left, right = _within(point.x_um for point in surface.points)
    bottom, top = _within(point.y_um for point in surface.points)
    width, height = (right - left) / SQUARES, (top - bottom) / SQUARES
    boxes = [
        Box(float(x), float(y), width, height)
        for x in np.linspace(left, right, SQUARES, endpoint=False)
        for y in np.linspace(bottom, top, SQUARES, endpoint=False)
    ]
    heights = [(box, float(surface.predict(*box.middle).position_um)) for box in boxes]
    return [(box, focus_um) for box, focus_um in heights if math.isfinite(focus_um)]


def _within(positions: Any) -> tuple[float, float]:
    known = list(positions)
    low, high = min(known), max(known)
    return (low, high) if low < high else (low - 0.5, high + 0.5)
