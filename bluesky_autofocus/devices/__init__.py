"""Ophyd devices: focus axes, cameras, LED arrays, the SEM and the microscope; simulated and replayed ones."""

from bluesky_autofocus.devices._axis import AxisBusyError, SimulatedAxis, SimulatedRunningAxis
from bluesky_autofocus.devices._camera import Camera, FrameError, SimulatedCamera
from bluesky_autofocus.devices._fluorescence import SimulatedFluorescenceMicroscope
from bluesky_autofocus.devices._leds import CalibrationError, LEDArray, SimulatedLEDArray
from bluesky_autofocus.devices._live_cells import SimulatedLiveCellMicroscope
from bluesky_autofocus.devices._microscope import Objective, SimulatedMicroscope
from bluesky_autofocus.devices._replay import ReplayedAxis, replayed_instrument
from bluesky_autofocus.devices._sem import FRAME_OVERHEAD_S, SimulatedSEM
from bluesky_autofocus.devices._signals import BoundedSignal
from bluesky_autofocus.devices._smear import SimulatedSmearMicroscope

__all__ = [
    "FRAME_OVERHEAD_S",
    "AxisBusyError",
    "BoundedSignal",
    "CalibrationError",
    "Camera",
    "FrameError",
    "LEDArray",
    "Objective",
    "ReplayedAxis",
    "SimulatedAxis",
    "SimulatedCamera",
    "SimulatedFluorescenceMicroscope",
    "SimulatedLEDArray",
    "SimulatedLiveCellMicroscope",
    "SimulatedMicroscope",
    "SimulatedRunningAxis",
    "SimulatedSEM",
    "SimulatedSmearMicroscope",
    "replayed_instrument",
]
