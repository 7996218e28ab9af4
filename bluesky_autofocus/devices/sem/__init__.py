"""Scanning electron microscopes behind their vendors' interfaces; `FibsemControl` wants the extra ``sem``."""

from bluesky_autofocus.devices.sem._calls import ANSWER_S, SEMError
from bluesky_autofocus.devices.sem._control import SEMControl, SEMLimits
from bluesky_autofocus.devices.sem._device import VendorSEM
from bluesky_autofocus.devices.sem._fibsem import FibsemControl
from bluesky_autofocus.devices.sem._smartsem import SmartSEMControl
from bluesky_autofocus.devices.sem._working_distance import WorkingDistance

__all__ = [
    "ANSWER_S",
    "FibsemControl",
    "SEMControl",
    "SEMError",
    "SEMLimits",
    "SmartSEMControl",
    "VendorSEM",
    "WorkingDistance",
]
