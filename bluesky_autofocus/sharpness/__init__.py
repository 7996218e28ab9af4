"""Sharpness of a frame as one number, and whether the frame can be scored at all.

Every metric is larger for a sharper frame. `metric` gives one by name, `names` lists them, and `register`
adds your own.
"""

# The metrics register themselves on import.
from . import _gradient, _laplacian, _spectral  # noqa: F401
from ._bands import band_energies
from ._metric import DEFAULT_METRIC, SharpnessMetric, metric
from ._regions import Region, check_region, cut_out
from ._registry import UnknownMetricError, names, register
from ._tiles import SPECTRAL_MOMENTS, TileScores, check_grid, score_tiles
from .quality import (
    BLACK,
    MAX_SATURATED_FRACTION,
    MIN_CONTRAST,
    NOT_FINITE,
    SATURATED,
    TORN,
    UNIFORM,
    FrameQuality,
    examine_frame,
)

__all__ = [
    "BLACK",
    "DEFAULT_METRIC",
    "MAX_SATURATED_FRACTION",
    "MIN_CONTRAST",
    "NOT_FINITE",
    "SATURATED",
    "SPECTRAL_MOMENTS",
    "TORN",
    "UNIFORM",
    "FrameQuality",
    "Region",
    "SharpnessMetric",
    "TileScores",
    "UnknownMetricError",
    "band_energies",
    "check_grid",
    "check_region",
    "cut_out",
    "examine_frame",
    "metric",
    "names",
    "register",
    "score_tiles",
]
