"""Calls to a Micro-Manager core: one after another for each adapter, and none waited for without end."""

import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from ophyd.utils.errors import InvalidState

from bluesky_autofocus.devices._worker import Worker, in_time

__all__ = ["ANSWER_S", "DeviceLink", "MicroManagerError", "MicroManagerTimeoutError", "wait_until_idle"]

ANSWER_S = 5.0
"""Longest wait for what a device answers at once. A serial device takes up to some 100 ms, one behind a hub
that is busy a few times that."""

POLL_S = 0.002
"""Between two questions whether a device is busy: what a piezo stage takes for its shortest moves."""

CAMERA, SHUTTER, STATE, STAGE, XY_STAGE, SLM = 2, 3, 4, 5, 6, 14
"""Types of devices, as MMDevice.h (MM::DeviceType) numbers them."""

DEVICE_TYPES = {
    CAMERA: "a camera",
    SHUTTER: "a shutter",
    STATE: "a state device",
    STAGE: "a stage",
    XY_STAGE: "an XY stage",
    SLM: "an SLM",
}
"""What they are called in errors."""


class MicroManagerError(RuntimeError):
    """A device of a Micro-Manager core failed, is not there, or is not what it is taken for."""


class MicroManagerTimeoutError(MicroManagerError, TimeoutError):
    """A device did not answer, or was busy for too long."""


_workers: "weakref.WeakKeyDictionary[Any, dict[str, Worker]]" = weakref.WeakKeyDictionary()
_workers_lock = threading.Lock()


def _worker_of(core: Any, adapter: str) -> Worker:
    """Return what calls an adapter: the core locks it for as long as it is in a call."""
    with _workers_lock:
        workers = _workers.setdefault(core, {})
        if adapter not in workers:
            workers[adapter] = Worker(f"micromanager-{adapter}")
        return workers[adapter]


class DeviceLink:
    """A device of a core.

    Parameters
    ----------
    core : pymmcore.CMMCore
        With its configuration loaded; pymmcore-plus' will do.
    label : str
        Of the device in the configuration.
    kind : int, optional
        Number of the type that it must be of, one of `DEVICE_TYPES`.
    answer_s : float
        Longest wait for what it answers at once.

    Raises
    ------
    MicroManagerError
        If there is no such device, or it is of another type.
    """

    def __init__(self, core: Any, label: str, kind: int | None = None, *, answer_s: float = ANSWER_S) -> None:
        self.core, self.label, self.answer_s = core, label, answer_s
        labels = [str(one) for one in core.getLoadedDevices()]
        expected = "a device" if kind is None else DEVICE_TYPES[kind]
        if label not in labels:
            fitting = [one for one in labels if kind is None or int(core.getDeviceType(one)) == kind]
            raise MicroManagerError(
                f"the configuration has no device {label!r}: expected {expected}, "
                f"{'of which there are ' + listed(fitting) if fitting else 'of which there is none'}"
            )
        found = int(core.getDeviceType(label))
        if kind is not None and found != kind:
            raise MicroManagerError(
                f"device {label!r} is {DEVICE_TYPES.get(found, f'of type {found}')}: expected {expected}"
            )
        self._adapter = str(core.getDeviceLibrary(label))
        self._worker = _worker_of(core, self._adapter)

    def submit(self, what: str, function: Callable[[Any], Any]) -> Future[Any]:
        """Have a function of the core called on the adapter's thread."""
        return self._worker.submit(f"{what} of {self.label!r}", lambda: function(self.core))

    def run(self, what: str, function: Callable[[Any], Any], timeout_s: float | None = None) -> Any:
        """Return what a function of the core returns; no other call to the adapter comes between its own.

        Raises
        ------
        MicroManagerTimeoutError
            If it did not return in time. If it has not begun by then, it never will.
        MicroManagerError
            If it fails.
        """
        timeout_s = self.answer_s if timeout_s is None else timeout_s
        future = self.submit(what, function)
        if not in_time(future, timeout_s):
            raise MicroManagerTimeoutError(
                f"device {self.label!r}: no answer to {what} within {timeout_s:.2g} s; its adapter "
                f"{self._adapter!r} is busy with {self._worker.under_way or 'nothing'}"
            )
        try:
            return future.result()
        except MicroManagerError:
            raise
        except Exception as error:
            raise MicroManagerError(f"device {self.label!r}: {what} failed: {error}") from error

    def ask(self, method: str, *args: Any, timeout_s: float | None = None) -> Any:
        """Return what a method of the core returns for this device; errors as of `run`."""
        return self.run(method, lambda core: getattr(core, method)(self.label, *args), timeout_s)


def wait_until_idle(
    link: DeviceLink,
    what: str,
    deadline_s: Callable[[], float],
    report: Callable[[], None] = lambda: None,
) -> None:
    """Wait until a device is no longer busy.

    Not by the core's ``waitForDevice``, which has one timeout for all devices and cannot be told to end.

    Parameters
    ----------
    link : DeviceLink
        The device.
    what : str
        It was told to do, for the error.
    deadline_s : callable
        Returns until when to wait, on `time.monotonic`; it may change meanwhile.
    report : callable
        Called while it is busy.

    Raises
    ------
    MicroManagerTimeoutError
        If it is still busy then.
    """
    began_s = time.monotonic()
    while link.ask("deviceBusy"):
        now_s = time.monotonic()
        if now_s >= deadline_s():
            raise MicroManagerTimeoutError(
                f"device {link.label!r}: still busy with {what} after {now_s - began_s:.2g} s"
            )
        report()
        time.sleep(POLL_S)


def in_background(status: Any, work: Callable[[], None], name: str) -> Any:
    """Do something on a thread of its own, let a status end as it does, and return the status."""

    def run() -> None:
        error: Exception | None = None
        try:
            work()
        except Exception as raised:
            error = raised
        with contextlib.suppress(InvalidState):  # who waited may have given up
            if error is None:
                status.set_finished()
            else:
                status.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return status


def listed(names: Sequence[Any]) -> str:
    """Return names for an error, quoted."""
    return ", ".join(repr(str(name)) for name in names) or "none"
