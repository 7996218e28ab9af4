"""LED arrays with the Illuminate firmware, over a serial port; wants the extra ``led``."""

from bluesky_autofocus.devices.illuminate._array import IlluminateArray
from bluesky_autofocus.devices.illuminate._link import IlluminateError, Link, LinkLostError

__all__ = ["IlluminateArray", "IlluminateError", "Link", "LinkLostError"]
