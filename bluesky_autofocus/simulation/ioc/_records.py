"""The records of the soft IOC: a stage that takes its time, a camera that is triggered, settings.

What blocks (a move, an exposure) ends a put with completion, as `caput -c` waits for it.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from softioc import alarm, builder

from bluesky_autofocus.simulation.motion import AxisMechanics, AxisMotion

__all__ = ["Camera", "Stage", "number", "setting", "switch"]

UPDATE_S = 0.05
"""Interval between updates of the position of a stage that moves."""

_DATA_TYPES = {"uint8": "UInt8", "uint16": "UInt16"}
"""areaDetector's names of the types of frames."""


def setting(
    name: str, value: float, put: Callable[[float], None], *, unit: str, limits: tuple[float, float]
) -> Any:
    """Make the record of a number that is set, and put it into what it sets."""
    return builder.aOut(
        name,
        initial_value=value,
        on_update=put,
        blocking=True,
        EGU=unit,
        DRVL=limits[0],
        DRVH=limits[1],
        PREC=4,
    )


def switch(name: str, on: bool, put: Callable[[bool], Any]) -> Any:
    """Make the record of what is on or off."""
    change = {"on_update": lambda at: put(bool(at)), "blocking": True}
    return builder.boolOut(name, "Off", "On", initial_value=on, **change)


def number(name: str, value: float, *, unit: str) -> Any:
    """Make the record of a number that is read."""
    return builder.aIn(name, initial_value=value, EGU=unit, PREC=4)


class Stage:
    """A stage that moves at its velocity, can be stopped, and keeps within its limits.

    Records: ``Position`` is put, and with completion ends when the stage stands; ``Readback``, ``Moving``,
    ``Stop``, ``Velocity``. While ``Stall`` is on a move ends at once, in alarm.

    Parameters
    ----------
    name : str
        What all its records begin with.
    position_um : float
        Where it stands at first.
    limits_um : tuple of float
        Drive limits: a put beyond is clipped, as by any analogue output.
    mechanics : AxisMechanics
        How it moves.
    unit : str
        Of its records.
    um_per_unit : float
        That unit in um.
    """

    def __init__(
        self,
        name: str,
        position_um: float,
        *,
        limits_um: tuple[float, float],
        mechanics: AxisMechanics,
        unit: str = "um",
        um_per_unit: float = 1.0,
    ) -> None:
        self._um_per_unit, self._stalls = um_per_unit, False
        self._motion = AxisMotion(mechanics, position_um)
        self._halt = asyncio.Event()
        low, high = (limit / um_per_unit for limit in limits_um)
        at, shown = position_um / um_per_unit, {"EGU": unit, "PREC": 6}
        # a put of where it stands is a move too
        moved = {"initial_value": at, "on_update": self._move, "always_update": True, "blocking": True}
        builder.aOut(f"{name}:Position", DRVL=low, DRVH=high, **moved, **shown)
        self._readback = builder.aIn(f"{name}:Readback", LOPR=low, HOPR=high, initial_value=at, **shown)
        self._moving = builder.boolIn(f"{name}:Moving", "Idle", "Moving", initial_value=False)
        builder.boolOut(f"{name}:Stop", "No", "Stop", on_update=self._stop, always_update=True)
        velocity = mechanics.velocity_um_s / um_per_unit
        setting(f"{name}:Velocity", velocity, self._speed, unit=f"{unit}/s", limits=(1e-6, 1e6))
        switch(f"{name}:Stall", False, self._stall)

    @property
    def position_um(self) -> float:
        """Where it is."""
        return self._motion.load_um(time.monotonic())

    async def _move(self, position: float) -> None:
        self._halt.clear()
        self._moving.set(True)
        if not self._stalls:
            end_s = time.monotonic() + self._motion.start(position * self._um_per_unit, time.monotonic())
            while (left_s := end_s - time.monotonic()) > 0 and not self._halt.is_set():
                try:
                    await asyncio.wait_for(self._halt.wait(), min(left_s, UPDATE_S))
                except TimeoutError:
                    self._report()
        self._report()
        self._moving.set(False)

    def _report(self) -> None:
        trouble = (alarm.MAJOR_ALARM, alarm.STATE_ALARM) if self._stalls else (alarm.NO_ALARM, alarm.NO_ALARM)
        self._readback.set(self.position_um / self._um_per_unit, *trouble)

    def _stop(self, asked: int) -> None:
        if asked:
            self._motion.stop(time.monotonic())
            self._halt.set()

    def _stall(self, stalls: bool) -> None:
        self._stalls = stalls

    def _speed(self, velocity: float) -> None:
        mechanics = self._motion.mechanics
        self._motion.mechanics = AxisMechanics(
            velocity * self._um_per_unit, mechanics.settle_s, mechanics.backlash_um
        )


class Camera:
    """A camera with the records of an areaDetector that a client needs for one frame after the other.

    ``cam1:Acquire`` is put and with completion ends when the frame is in ``image1:ArrayData``, whose
    ``image1:UniqueId_RBV`` counts them. While ``cam1:Disconnect`` is on an acquisition ends without a frame,
    in alarm.

    Parameters
    ----------
    name : str
        What all its records begin with.
    frame : callable
        Takes a frame, shape `frame_shape`.
    frame_shape : tuple of int
        Rows and columns.
    dtype : numpy dtype
        uint8 or uint16.
    """

    def __init__(
        self, name: str, frame: Callable[[], np.ndarray], frame_shape: tuple[int, int], dtype: Any
    ) -> None:
        self._take, self._disconnected, self._exposure_s = frame, False, 0.0
        kind, (rows, columns) = np.dtype(dtype), frame_shape
        self._acquire = builder.boolOut(
            f"{name}cam1:Acquire",
            "Done",
            "Acquire",
            initial_value=False,
            on_update=self._acquired,
            always_update=True,
            blocking=True,
        )
        self._image = builder.WaveformOut(
            f"{name}image1:ArrayData", initial_value=np.zeros(rows * columns, kind), datatype=kind
        )
        self._number = builder.longOut(f"{name}image1:UniqueId_RBV", initial_value=0)
        builder.longIn(f"{name}image1:ArraySize0_RBV", initial_value=columns)
        builder.longIn(f"{name}image1:ArraySize1_RBV", initial_value=rows)
        builder.stringIn(f"{name}image1:DataType_RBV", initial_value=_DATA_TYPES[kind.name])
        self._exposure_readback = number(f"{name}cam1:AcquireTime_RBV", 0.0, unit="s")
        switch(f"{name}cam1:Disconnect", False, self._disconnect)

    def exposes(self, name: str, exposure_s: float, put: Callable[[float], None]) -> None:
        """Make the record of the exposure time."""

        def change(seconds: float) -> None:
            put(seconds)
            self.exposed(seconds)

        self.exposed(exposure_s)
        setting(f"{name}cam1:AcquireTime", exposure_s, change, unit="s", limits=(1e-4, 60.0))

    def exposed(self, seconds: float) -> None:
        """Say how long an exposure takes."""
        self._exposure_s = seconds
        self._exposure_readback.set(seconds)

    async def _acquired(self, asked: int) -> None:
        if not asked:
            return
        if self._disconnected:
            self._acquire.set(0, process=False, severity=alarm.INVALID_ALARM, alarm=alarm.COMM_ALARM)
            return
        await asyncio.sleep(self._exposure_s)
        frame = await asyncio.get_running_loop().run_in_executor(None, self._take)
        self._image.set(frame.ravel())
        self._number.set(self._number.get() + 1)
        self._acquire.set(0, process=False)

    def _disconnect(self, disconnected: bool) -> None:
        self._disconnected = disconnected
