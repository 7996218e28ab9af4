"""Puts that end: what is lost on the network is said at once, and by the name of the PV.

Channel Access itself waits, or answers what is not so: a put with completion to an IOC that dies is either
never answered or said to be complete, with no word of the loss. So what is complete is asked for.
"""

import contextlib
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

import epics
from ophyd import EpicsSignal
from ophyd.signal import EpicsSignalBase
from ophyd.status import Status, StatusBase
from ophyd.utils import DisconnectedError
from ophyd.utils.errors import InvalidState

__all__ = [
    "PUT_S",
    "Setting",
    "SettingWithReadback",
    "asked",
    "completed_put",
    "ended",
    "fail_late",
    "fail_when_lost",
    "require_connected",
]

DISCONNECTED = 192
"""ECA_DISCONN: what Channel Access answers, before it says to anybody else that a connection is lost."""

PUT_S = 10.0
"""Longest wait for a setting to be taken over. It takes milliseconds; that of a lamp may take seconds."""


def require_connected(name: str, signals: Sequence[EpicsSignalBase]) -> None:
    """Raise unless all of these are connected.

    Raises
    ------
    DisconnectedError
        Naming the device and the PVs.
    """
    lost = [signal.pvname for signal in signals if not signal.connected]
    if lost:
        raise DisconnectedError(f"{name}: no connection to {', '.join(lost)}")


def asked(name: str, signal: EpicsSignalBase, **how: Any) -> Any:
    """Return the value that the IOC has now.

    Raises
    ------
    DisconnectedError
        Naming the device and the PV, if the connection is lost meanwhile.
    """
    try:
        return signal.get(use_monitor=False, **how)
    except Exception as error:
        _forget_requests(signal.pvname)
        refused = isinstance(error, epics.ca.CASeverityException)
        if refused or getattr(error, "status", None) == DISCONNECTED or not signal.connected:
            raise DisconnectedError(f"{name}: lost the connection to {signal.pvname}") from error
        raise


def _forget_requests(pvname: str) -> None:
    """Have the next request sent: pyepics waits for the last one, even if it was never sent.

    That is so where the connection was lost at that very instant, and without this until the process ends.
    """
    entry = epics.ca.get_cache(pvname)
    if entry is None:
        return
    with entry.lock:
        for kind, (result,) in list(entry.get_results.items()):
            if result is epics.ca.GET_PENDING:
                del entry.get_results[kind]


def fail_when_lost(status: StatusBase, name: str, signals: Sequence[EpicsSignalBase]) -> None:
    """Have a status fail as soon as one of these loses its connection."""

    def changed(*_: Any, obj: EpicsSignalBase, connected: bool, **__: Any) -> None:
        if not connected:
            ended(status, DisconnectedError(f"{name}: lost the connection to {obj.pvname}"))

    def forget(_: Any) -> None:
        for unsubscribe in subscribed:
            with contextlib.suppress(KeyError):  # the device is destroyed
                unsubscribe()

    subscribed = []
    for signal in signals:
        token = signal.subscribe(changed, event_type=signal.SUB_META, run=False)
        subscribed.append(partial(signal.unsubscribe, token))
    status.add_callback(forget)
    for signal in signals:
        # it may have been lost before this was looked out for
        changed(obj=signal, connected=bool(signal.connected))


def ended(status: StatusBase, error: Exception | None = None) -> None:
    """End a status, if it has not ended before."""
    with contextlib.suppress(InvalidState):
        if error is None:
            status.set_finished()
        else:
            status.set_exception(error)


def fail_late(status: StatusBase, timeout_s: float, what: str) -> None:
    """Have a status fail with a `TimeoutError` that says `what` was not done, unless it has ended by then."""
    late = TimeoutError(f"{what} within {timeout_s:g} s")
    timer = threading.Timer(timeout_s, ended, (status, late))
    timer.daemon = True
    timer.start()
    status.add_callback(lambda _: timer.cancel())


def completed_put(name: str, signal: EpicsSignal, value: Any, *, timeout_s: float = PUT_S) -> Status:
    """Put a value; the status ends when the IOC says that all has been done, fails when it is lost or late.

    Parameters
    ----------
    name : str
        Of the device, for errors.
    signal : EpicsSignal
        What is put.
    value : object
        The value.
    timeout_s : float
        Longest wait.

    Raises
    ------
    DisconnectedError
        If it is not connected.
    """
    require_connected(name, [signal])
    status = Status(signal)
    fail_when_lost(status, name, [signal])
    fail_late(status, timeout_s, f"{name}: {signal.pvname} was put and has not completed")

    def confirm(**_: Any) -> None:
        if status.done:
            return
        try:
            asked(name, signal)
        except Exception as error:
            ended(status, error)
        else:
            ended(status)

    signal.put(value, use_complete=True, callback=confirm)
    return status


class Setting(EpicsSignal):
    """A PV that is set: a number, or 1 and 0 for what is on or off.

    Setting it is done when the IOC has processed it. A RunEngine leaves it as it is when a plan ends.
    """

    def set(self, value: Any, *, timeout: Any = None, settle_time: float | None = None) -> Status:
        """Put the value; done when the IOC says so, failed when it is lost or late."""
        self.check_value(value)
        return completed_put(self.name, self, value, timeout_s=PUT_S if timeout is None else timeout)


class SettingWithReadback(Setting):
    """A PV that is set, and read as another one whose name ends in ``_RBV``, as areaDetector has it."""

    def __init__(self, prefix: str, **kwargs: Any) -> None:
        super().__init__(f"{prefix}_RBV", write_pv=prefix, **kwargs)
