"""Document callbacks: analyses that plans wait for, and displays of what they found."""

from bluesky_autofocus.callbacks._analysis import Analysis, AnalysisError, NotSubscribedError
from bluesky_autofocus.callbacks._focus_record import FocusPoint, FocusRecord, FocusTable
from bluesky_autofocus.callbacks._plot import LiveFocusCurve, draw_focus_curve
from bluesky_autofocus.callbacks._replay import analyse, rows_of_events
from bluesky_autofocus.callbacks._sharpness import SharpnessAnalysis

__all__ = [
    "Analysis",
    "AnalysisError",
    "FocusPoint",
    "FocusRecord",
    "FocusTable",
    "LiveFocusCurve",
    "NotSubscribedError",
    "SharpnessAnalysis",
    "analyse",
    "draw_focus_curve",
    "rows_of_events",
]
