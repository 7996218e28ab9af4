"""Document callbacks: analyses that plans wait for, and displays of what they found."""

from bluesky_autofocus.callbacks._analysis import (
    Analysis,
    AnalysisError,
    NotSubscribedError,
    RecordedExposure,
)
from bluesky_autofocus.callbacks._defocus import SingleShotAnalysis, TwoLEDAnalysis
from bluesky_autofocus.callbacks._focus_class import FocusClassAnalysis
from bluesky_autofocus.callbacks._focus_record import FocusPoint, FocusRecord, FocusTable
from bluesky_autofocus.callbacks._key_frame import KeyFrameAnalysis
from bluesky_autofocus.callbacks._light import recorded_direction, recorded_optics
from bluesky_autofocus.callbacks._orientation import OrientationAnalysis
from bluesky_autofocus.callbacks._plot import LiveFocusCurve, draw_focus_curve
from bluesky_autofocus.callbacks._progress import CollectionProgress
from bluesky_autofocus.callbacks._refocus import LiveRefocus
from bluesky_autofocus.callbacks._replay import analyse, rows_of_events
from bluesky_autofocus.callbacks._sharpness import SharpnessAnalysis

__all__ = [
    "Analysis",
    "AnalysisError",
    "CollectionProgress",
    "FocusClassAnalysis",
    "FocusPoint",
    "FocusRecord",
    "FocusTable",
    "KeyFrameAnalysis",
    "LiveFocusCurve",
    "LiveRefocus",
    "NotSubscribedError",
    "OrientationAnalysis",
    "RecordedExposure",
    "SharpnessAnalysis",
    "SingleShotAnalysis",
    "TwoLEDAnalysis",
    "analyse",
    "draw_focus_curve",
    "recorded_direction",
    "recorded_optics",
    "rows_of_events",
]
