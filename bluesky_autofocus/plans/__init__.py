"""Bluesky plans that focus: stubs open no run and return a verdict, plans open one."""

from bluesky_autofocus.plans._approach import approach_focus
from bluesky_autofocus.plans._autofocus import METHODS, UnknownMethodError, autofocus, register_method
from bluesky_autofocus.plans._beside import focus_beside
from bluesky_autofocus.plans._blur import focus_if_blurred
from bluesky_autofocus.plans._brent import brent_focus
from bluesky_autofocus.plans._calibrate_leds import LEDCalibration, calibrate_leds, led_calibration
from bluesky_autofocus.plans._check import check_instrument
from bluesky_autofocus.plans._collect import collect_focal_stacks
from bluesky_autofocus.plans._disk import (
    DiskForecast,
    StoresFrames,
    check_disk,
    check_disk_decorator,
    check_disk_wrapper,
)
from bluesky_autofocus.plans._disk_guard import disk_guard_decorator, disk_guard_wrapper
from bluesky_autofocus.plans._exposing import (
    Exposure,
    ReadingTimeoutError,
    expose,
    record_verdict,
    wait_reading,
)
from bluesky_autofocus.plans._key_frame import coarse_fine_focus, key_frame_focus
from bluesky_autofocus.plans._label import record_labels
from bluesky_autofocus.plans._limits import (
    OutsideLimitsError,
    axis_limits_decorator,
    axis_limits_wrapper,
)
from bluesky_autofocus.plans._map_focus import MappingAnalysis, map_focus
from bluesky_autofocus.plans._moving import Approach
from bluesky_autofocus.plans._protocols import (
    DefocusAnalysis,
    FocusAnalysis,
    FocusAxis,
    FocusStub,
    PairAnalysis,
    PatternLight,
    RunningAxis,
    ScanAnalysis,
)
from bluesky_autofocus.plans._record_surface import record_surface
from bluesky_autofocus.plans._search import search_focus
from bluesky_autofocus.plans._single_shot import single_shot_focus
from bluesky_autofocus.plans._sweep import sweep_focus
from bluesky_autofocus.plans._tiling import Visited, tile_scan, time_lapse
from bluesky_autofocus.plans._track import Tracking, scan_in_focus, track_focus
from bluesky_autofocus.plans._trial import CheckingAnalysis
from bluesky_autofocus.plans._two_exposure import two_exposure_focus
from bluesky_autofocus.plans._two_led import two_led_focus
from bluesky_autofocus.plans._when import EveryExposures, EverySeconds, Farther, Since, When
from bluesky_autofocus.plans._when_measured import Blurred, Uncertain
from bluesky_autofocus.plans._wrapper import (
    FocusNotFoundError,
    PlanConflictError,
    autofocus_decorator,
    autofocus_wrapper,
)

__all__ = [
    "METHODS",
    "Approach",
    "Blurred",
    "CheckingAnalysis",
    "DefocusAnalysis",
    "DiskForecast",
    "EveryExposures",
    "EverySeconds",
    "Exposure",
    "Farther",
    "FocusAnalysis",
    "FocusAxis",
    "FocusNotFoundError",
    "FocusStub",
    "LEDCalibration",
    "MappingAnalysis",
    "OutsideLimitsError",
    "PairAnalysis",
    "PatternLight",
    "PlanConflictError",
    "ReadingTimeoutError",
    "RunningAxis",
    "ScanAnalysis",
    "Since",
    "StoresFrames",
    "Tracking",
    "Uncertain",
    "UnknownMethodError",
    "Visited",
    "When",
    "approach_focus",
    "autofocus",
    "autofocus_decorator",
    "autofocus_wrapper",
    "axis_limits_decorator",
    "axis_limits_wrapper",
    "brent_focus",
    "calibrate_leds",
    "check_disk",
    "check_disk_decorator",
    "check_disk_wrapper",
    "check_instrument",
    "coarse_fine_focus",
    "collect_focal_stacks",
    "disk_guard_decorator",
    "disk_guard_wrapper",
    "expose",
    "focus_beside",
    "focus_if_blurred",
    "key_frame_focus",
    "led_calibration",
    "map_focus",
    "record_labels",
    "record_surface",
    "record_verdict",
    "register_method",
    "scan_in_focus",
    "search_focus",
    "single_shot_focus",
    "sweep_focus",
    "tile_scan",
    "time_lapse",
    "track_focus",
    "two_exposure_focus",
    "two_led_focus",
    "wait_reading",
]
