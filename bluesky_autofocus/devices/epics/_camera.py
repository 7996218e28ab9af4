"""A camera whose frames come as the array of a PV."""

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ophyd import Component as Cpt
from ophyd import EpicsSignal, EpicsSignalRO
from ophyd.signal import EpicsSignalBase
from ophyd.status import Status
from ophyd.utils import DisconnectedError
from ophyd.utils.epics_pvs import AlarmSeverity

from bluesky_autofocus.devices._camera import Camera, FrameError
from bluesky_autofocus.devices.epics._connection import (
    SettingWithReadback,
    asked,
    completed_put,
    require_connected,
)

__all__ = ["EpicsCamera", "EpicsScanCamera", "restored"]

POLL_S = 0.005
"""Interval at which is asked whether the frame has arrived."""

_TYPES = {"Int8": "int8", "UInt8": "uint8", "Int16": "int16", "UInt16": "uint16"}
"""Types of frames by the names that areaDetector has for them."""


def restored(values: np.ndarray, dtype: Any) -> np.ndarray:
    """Return an array as it was before Channel Access, which has no unsigned types but bytes.

    Parameters
    ----------
    values : numpy.ndarray
        What a client got: as a wider type, or with the largest values as negative ones.
    dtype : numpy dtype
        What the frame was.

    Raises
    ------
    ValueError
        If it cannot have been that.
    """
    wanted = np.dtype(dtype)
    if values.dtype == wanted:
        return values
    if values.dtype.kind not in "iu" or wanted.kind not in "iu" or values.dtype.itemsize < wanted.itemsize:
        raise ValueError(f"values of type {values.dtype} are no {wanted}")
    if values.dtype.itemsize == wanted.itemsize:
        return values.view(wanted)
    limits = np.iinfo(wanted)
    if values.size and not limits.min <= values.min() <= values.max() <= limits.max:
        raise ValueError(f"values from {values.min()} to {values.max()} are no {wanted}")
    return values.astype(wanted)


class EpicsCamera(Camera):
    """A camera that is triggered and read over Channel Access, by the PVs that areaDetector has.

    A trigger puts 1 to ``cam1:Acquire`` with completion, waits until ``image1:UniqueId_RBV`` has changed, so
    that no frame is taken for another one, and reads ``image1:ArrayData``. Set beforehand: ImageMode Single,
    ``image1:EnableCallbacks`` on. For PVs of other names, subclass and name the components.

    Parameters
    ----------
    prefix : str
        Of all PVs.
    frame_directory : path
        Where the files go.
    frame_shape : tuple of int, optional
        (H, W); by default the IOC is asked, which must be there then.
    dtype : numpy dtype, optional
        uint8 or uint16; by default the IOC is asked.
    overhead_s : float
        How much longer than the exposure time a frame may take until it is there.
    connection_s : float
        Longest wait for an IOC that is asked.

    Raises
    ------
    TimeoutError
        If the IOC is asked and not there.
    """

    exposure_s = Cpt(SettingWithReadback, "cam1:AcquireTime", kind="normal")
    acquire = Cpt(EpicsSignal, "cam1:Acquire", kind="omitted")
    frame_number = Cpt(EpicsSignalRO, "image1:UniqueId_RBV", kind="omitted")
    array_data = Cpt(EpicsSignalRO, "image1:ArrayData", kind="omitted")
    columns = Cpt(EpicsSignalRO, "image1:ArraySize0_RBV", kind="omitted")
    rows = Cpt(EpicsSignalRO, "image1:ArraySize1_RBV", kind="omitted")
    data_type = Cpt(EpicsSignalRO, "image1:DataType_RBV", string=True, kind="omitted")

    def __init__(
        self,
        prefix: str = "",
        *,
        frame_directory: Path | str,
        frame_shape: tuple[int, ...] | None = None,
        dtype: Any = None,
        overhead_s: float = 10.0,
        connection_s: float = 5.0,
        **kwargs: Any,
    ) -> None:
        if not overhead_s > 0:
            raise ValueError(f"overhead_s is {overhead_s!r}: expected a positive number")
        self.overhead_s = overhead_s
        super().__init__(
            prefix,
            frame_directory=frame_directory,
            frame_shape=frame_shape or (1, 1),
            dtype=dtype or np.uint16,
            **kwargs,
        )
        if frame_shape is None:
            for signal in (self.rows, self.columns):
                signal.wait_for_connection(connection_s)
            self.frame_shape = int(self.rows.get()), int(self.columns.get())
        if dtype is None:
            self.data_type.wait_for_connection(connection_s)
            name = self.data_type.get()
            if name not in _TYPES:
                raise ValueError(f"{self.name}: frames of type {name!r}: expected one of {', '.join(_TYPES)}")
            self.dtype = np.dtype(_TYPES[name])

    def _channels(self) -> list[EpicsSignalBase]:
        return [self.acquire, self.frame_number, self.array_data]

    def expose(self, deliver: Callable[[Callable[[], np.ndarray]], None]) -> None:
        """Acquire one frame; `deliver` gets it when it is there, or what went wrong."""
        require_connected(self.name, self._channels())
        before: Any = self.frame_number.get()
        wait_s = float(self.exposure_s.get()) + self.overhead_s

        def fetch(acquired: Status) -> None:
            # not on the thread that tells it: it has others to tell
            frame = partial(self._fetched, acquired, before)
            threading.Thread(target=deliver, args=(frame,), daemon=True).start()

        completed_put(self.name, self.acquire, 1, timeout_s=wait_s).add_callback(fetch)

    def _fetched(self, acquired: Status, before: int) -> np.ndarray:
        """Return the frame of an acquisition that has ended."""
        acquired.wait(0)
        end_s = time.monotonic() + self.overhead_s
        while asked(self.name, self.frame_number) == before:
            self._check_alarm()
            if time.monotonic() > end_s:
                raise FrameError(
                    f"{self.name}: {self.acquire.pvname} was acquired and no frame has come to "
                    f"{self.array_data.pvname} within {self.overhead_s} s: is its plugin enabled?"
                )
            time.sleep(POLL_S)
        return self._frame_of(self._array())

    def _check_alarm(self) -> None:
        asked(self.name, self.acquire, form="ctrl")
        severity: Any = self.acquire.alarm_severity
        if severity is not None and severity >= AlarmSeverity.MAJOR:
            raise FrameError(
                f"{self.name}: no frame; {self.acquire.pvname} is in alarm, severity {severity.name}, "
                f"{self.acquire.alarm_status!s}"
            )

    def _array(self) -> Any:
        count = int(np.prod(self.frame_shape))
        too_large = (
            f"{self.name}: {self.array_data.pvname} gave no array of {count} values; if it is larger than "
            "EPICS_CA_MAX_ARRAY_BYTES of the IOC or of this process, raise that"
        )
        try:
            values = asked(self.name, self.array_data, count=count)
        except DisconnectedError:
            raise
        except Exception as error:  # pyepics has its own for each
            raise FrameError(too_large) from error
        if values is None:
            raise FrameError(too_large)
        return np.asarray(values)

    def _frame_of(self, values: np.ndarray) -> np.ndarray:
        count = int(np.prod(self.frame_shape))
        if values.size != count:
            raise FrameError(
                f"{self.name}: {self.array_data.pvname} holds {values.size} values, expected {count} "
                f"of a frame of shape {self.frame_shape}"
            )
        try:
            return restored(values, self.dtype).reshape(self.frame_shape)
        except ValueError as error:
            raise FrameError(f"{self.name}: {self.array_data.pvname}: {error}") from error


class EpicsScanCamera(EpicsCamera):
    """A camera whose exposure time follows from other settings: that of a SEM, the time of a scan."""

    exposure_s = Cpt(EpicsSignalRO, "cam1:AcquireTime_RBV", kind="normal")  # pyright: ignore
