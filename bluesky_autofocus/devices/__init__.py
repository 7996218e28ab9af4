"""Ophyd devices: focus axes, cameras and the SEM; simulated and replayed ones."""

from bluesky_autofocus.devices._axis import SimulatedAxis
from bluesky_autofocus.devices._camera import Camera, FrameError, SimulatedCamera
from bluesky_autofocus.devices._replay import ReplayedAxis, replayed_instrument
from bluesky_autofocus.devices._sem import FRAME_OVERHEAD_S, SimulatedSEM
from bluesky_autofocus.devices._signals import BoundedSignal

__all__ = [
    "FRAME_OVERHEAD_S",
    "BoundedSignal",
    "Camera",
    "FrameError",
    "ReplayedAxis",
    "SimulatedAxis",
    "SimulatedCamera",
    "SimulatedSEM",
    "replayed_instrument",
]
