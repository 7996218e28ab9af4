"""Ophyd devices over a Micro-Manager core: any microscope that Micro-Manager has a configuration for.

Not imported by `bluesky_autofocus.devices`; pymmcore is only loaded when a core is opened.
"""

from bluesky_autofocus.devices.micromanager._axis import ZStage
from bluesky_autofocus.devices.micromanager._calls import MicroManagerError, MicroManagerTimeoutError
from bluesky_autofocus.devices.micromanager._camera import CoreCamera
from bluesky_autofocus.devices.micromanager._leds import SLMLEDArray, StateLEDArray
from bluesky_autofocus.devices.micromanager._opening import open_core, simulated_core, unload
from bluesky_autofocus.devices.micromanager._running import RunningZStage
from bluesky_autofocus.devices.micromanager._signals import PropertySignal, Shutter
from bluesky_autofocus.devices.micromanager._turret import ObjectiveTurret
from bluesky_autofocus.devices.micromanager._xy import XYStage

__all__ = [
    "CoreCamera",
    "MicroManagerError",
    "MicroManagerTimeoutError",
    "ObjectiveTurret",
    "PropertySignal",
    "RunningZStage",
    "SLMLEDArray",
    "Shutter",
    "StateLEDArray",
    "XYStage",
    "ZStage",
    "open_core",
    "simulated_core",
    "unload",
]
