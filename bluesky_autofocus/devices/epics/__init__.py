"""Devices of EPICS control systems, over Channel Access: ``pip install 'bluesky-autofocus[epics]'``."""

import ophyd

if ophyd.get_cl().name == "dummy":  # what ophyd has where there is no client of Channel Access
    raise ModuleNotFoundError("no client of Channel Access: pip install pyepics", name="pyepics")

from bluesky_autofocus.devices.epics._area_detector import AreaDetectorCamera, StreamedHDF5
from bluesky_autofocus.devices.epics._camera import EpicsCamera, EpicsScanCamera, restored
from bluesky_autofocus.devices.epics._connection import Setting, SettingWithReadback
from bluesky_autofocus.devices.epics._leds import EpicsLEDArray
from bluesky_autofocus.devices.epics._motor import FocusMotor
from bluesky_autofocus.devices.epics._moves import CheckedMoves, MoveError
from bluesky_autofocus.devices.epics._positioner import FocusPositioner, StoppableFocusPositioner
from bluesky_autofocus.devices.epics._sem import EpicsSEM
from bluesky_autofocus.devices.epics._units import UM_PER_UNIT, InMicrometres

__all__ = [
    "UM_PER_UNIT",
    "AreaDetectorCamera",
    "CheckedMoves",
    "EpicsCamera",
    "EpicsLEDArray",
    "EpicsSEM",
    "EpicsScanCamera",
    "FocusMotor",
    "FocusPositioner",
    "InMicrometres",
    "MoveError",
    "Setting",
    "SettingWithReadback",
    "StoppableFocusPositioner",
    "StreamedHDF5",
    "restored",
]
