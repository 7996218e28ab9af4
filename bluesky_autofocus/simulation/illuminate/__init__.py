"""The firmware of an Illuminate LED array, without the array: for people who learn, and for tests.

``python -m bluesky_autofocus.simulation.illuminate`` serves it on a pseudo-terminal or over TCP.
"""

from bluesky_autofocus.simulation.illuminate._firmware import Firmware
from bluesky_autofocus.simulation.illuminate._ports import PseudoTerminal, TCPPort

__all__ = ["Firmware", "PseudoTerminal", "TCPPort"]
