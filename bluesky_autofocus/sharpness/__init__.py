"""Sharpness of a frame as one number, and whether the frame can be scored at all.

Every metric is larger for a sharper frame. `metric` gives one by name, `names` lists them, and `register`
adds your own.
"""

# The metrics register themselves on import.
from . import _gradient, _laplacian, _spectral  # noqa: F401
from ._metric import DEFAULT_METRIC, SharpnessMetric, metric
from ._registry import UnknownMetricError, names, register
from .quality import (
    BLACK,
    MAX_SATURATED_FRACTION,
    MIN_CONTRAST,
    NOT_FINITE,
    SATURATED,
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
    "UNIFORM",
    "FrameQuality",
    "SharpnessMetric",
    "UnknownMetricError",
    "examine_frame",
    "metric",
    "names",
    "register",
]
