"""Bluesky plans that focus: stubs open no run and return a verdict, plans open one."""

from bluesky_autofocus.plans._autofocus import METHODS, UnknownMethodError, autofocus, register_method
from bluesky_autofocus.plans._blur import focus_if_blurred
from bluesky_autofocus.plans._brent import brent_focus
from bluesky_autofocus.plans._exposing import (
    Exposure,
    ReadingTimeoutError,
    expose,
    record_verdict,
    wait_reading,
)
from bluesky_autofocus.plans._moving import Approach
from bluesky_autofocus.plans._protocols import FocusAnalysis, FocusAxis, FocusStub
from bluesky_autofocus.plans._sweep import sweep_focus

__all__ = [
    "METHODS",
    "Approach",
    "Exposure",
    "FocusAnalysis",
    "FocusAxis",
    "FocusStub",
    "ReadingTimeoutError",
    "UnknownMethodError",
    "autofocus",
    "brent_focus",
    "expose",
    "focus_if_blurred",
    "record_verdict",
    "register_method",
    "sweep_focus",
    "wait_reading",
]
