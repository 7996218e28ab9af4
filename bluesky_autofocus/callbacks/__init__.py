"""Document callbacks: analyses that plans wait for, and displays of what they found."""

from bluesky_autofocus.callbacks._analysis import (
    Analysis,
    AnalysisError,
    NotSubscribedError,
    RecordedExposure,
)
from bluesky_autofocus.callbacks._defocus import SingleShotAnalysis, TwoLEDAnalysis
from bluesky_autofocus.callbacks._dose_ledger import DoseLedger, FieldDose
from bluesky_autofocus.callbacks._focus_class import FocusClassAnalysis
from bluesky_autofocus.callbacks._focus_map import FocusMapAnalysis, FocusMapRecord, focus_map
from bluesky_autofocus.callbacks._focus_record import FocusPoint, FocusRecord, FocusTable
from bluesky_autofocus.callbacks._focusing import COLOURS, MARKERS, Focusing
from bluesky_autofocus.callbacks._frame_check import FrameCheckAnalysis
from bluesky_autofocus.callbacks._key_frame import KeyFrameAnalysis
from bluesky_autofocus.callbacks._light import recorded_direction, recorded_optics
from bluesky_autofocus.callbacks._live_view import LiveView, draw_run
from bluesky_autofocus.callbacks._orientation import OrientationAnalysis
from bluesky_autofocus.callbacks._plot import draw_focus_curve
from bluesky_autofocus.callbacks._progress import CollectionProgress, Progress, RunProgress
from bluesky_autofocus.callbacks._refocus import LiveRefocus
from bluesky_autofocus.callbacks._replay import analyse, replayed, rows_of_events
from bluesky_autofocus.callbacks._sharpness import SharpnessAnalysis
from bluesky_autofocus.callbacks._tiles import Box, Tile, TileMap, on_screen
from bluesky_autofocus.callbacks._two_exposure import TwoExposureAnalysis
from bluesky_autofocus.callbacks._views import draw_focus_against_time, draw_focus_surface, draw_tiles
from bluesky_autofocus.callbacks._watched import Watched
from bluesky_autofocus.callbacks._watched_run import WatchedRun

__all__ = [
    "COLOURS",
    "MARKERS",
    "Analysis",
    "AnalysisError",
    "Box",
    "CollectionProgress",
    "DoseLedger",
    "FieldDose",
    "FocusClassAnalysis",
    "FocusMapAnalysis",
    "FocusMapRecord",
    "FocusPoint",
    "FocusRecord",
    "FocusTable",
    "Focusing",
    "FrameCheckAnalysis",
    "KeyFrameAnalysis",
    "LiveRefocus",
    "LiveView",
    "NotSubscribedError",
    "OrientationAnalysis",
    "Progress",
    "RecordedExposure",
    "RunProgress",
    "SharpnessAnalysis",
    "SingleShotAnalysis",
    "Tile",
    "TileMap",
    "TwoExposureAnalysis",
    "TwoLEDAnalysis",
    "Watched",
    "WatchedRun",
    "analyse",
    "draw_focus_against_time",
    "draw_focus_curve",
    "draw_focus_surface",
    "draw_run",
    "focus_map",
    "draw_tiles",
    "on_screen",
    "recorded_direction",
    "recorded_optics",
    "replayed",
    "rows_of_events",
]
