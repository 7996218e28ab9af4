"""Where focus will be: between corrections, by how it drifts; between tiles, by a surface. Pure numbers."""

from bluesky_autofocus.prediction._deviations import Deviations
from bluesky_autofocus.prediction._drift import DriftFilter
from bluesky_autofocus.prediction._next_tile import next_tile
from bluesky_autofocus.prediction._predicted import FocusPoint, Predicted
from bluesky_autofocus.prediction._surface import LEAST_POINTS, FocusSurface

__all__ = [
    "LEAST_POINTS",
    "Deviations",
    "DriftFilter",
    "FocusPoint",
    "FocusSurface",
    "Predicted",
    "next_tile",
]
