"""Soft IOCs that tests talk to, one of a kind for all tests of a process."""

import functools
import os
import time
from pathlib import Path

PX = 512
"""Rows and columns of their frames."""

KINDS = ("microscope", "sem", "motor", "other", "small")
"""One port each, of those that conftest has put into the environment."""

MADE = []
"""Devices that nobody destroys live as long as the process: Channel Access has been seen to crash without."""


def port_of(kind):
    return int(os.environ["EPICS_CA_ADDR_LIST"].split()[KINDS.index(kind)].rpartition(":")[2])


@functools.cache
def running(kind, **options):
    """Return the IOC of a kind, which ends with this process."""
    from bluesky_autofocus.simulation.ioc import IOCProcess

    return IOCProcess(kind, port=port_of(kind), frame_px=PX, **options)


@functools.cache
def running_motors():
    """Return the IOC of motor records, which ends with this process."""
    from bluesky_autofocus.simulation.ioc import IOCProcess

    here = {"PYTHONPATH": str(Path(__file__).parent)}
    return IOCProcess("motors", module="motor_ioc", port=port_of("motor"), environment=here)


@functools.cache
def pv(name):
    """Return the signal of a PV, as a test sees it that does not go through the devices."""
    from ophyd import EpicsSignal

    signal = EpicsSignal(name, name=name, put_complete=True)
    signal.wait_for_connection(timeout=60)
    return signal


def put(name, value):
    pv(name).wait_for_connection(timeout=60)
    pv(name).set(value).wait(60)


def restart(ioc, devices):
    """Start an IOC again and wait until all is connected."""
    ioc.start()
    end_s = time.monotonic() + 120
    while not all(device.connected for device in devices):
        assert time.monotonic() < end_s, "it did not connect again"
        time.sleep(0.05)
