"""Document callbacks: analyses that plans wait for."""

from bluesky_autofocus.callbacks._analysis import Analysis, AnalysisError, NotSubscribedError
from bluesky_autofocus.callbacks._replay import analyse
from bluesky_autofocus.callbacks._sharpness import SharpnessAnalysis

__all__ = ["Analysis", "AnalysisError", "NotSubscribedError", "SharpnessAnalysis", "analyse"]
