"""A soft IOC with a simulated instrument behind it: ``python -m bluesky_autofocus.simulation.ioc``."""

from bluesky_autofocus.simulation.ioc._process import IOCError, IOCProcess, loopback

__all__ = ["IOCError", "IOCProcess", "loopback"]
