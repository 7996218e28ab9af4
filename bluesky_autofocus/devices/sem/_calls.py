"""Calls of a vendor's interface: on one thread, in the order of asking, and by name if they fail."""

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

from bluesky_autofocus.devices._worker import Worker, in_time
from bluesky_autofocus.devices.sem._control import SEMControl

__all__ = ["ANSWER_S", "Calls", "Reconnecting", "SEMError"]

ANSWER_S = 5.0
"""Longest wait for what the microscope answers at once, unless told otherwise."""

CONNECTING_S = 60.0
"""Longest wait for a connection: it goes over a network, and what answers may have to start first."""


class SEMError(RuntimeError):
    """A call of a vendor's interface failed, had no effect, or did not return in time."""


class Calls:
    """The one thread from which a vendor's interface is called.

    Parameters
    ----------
    name : str
        Of the device, for errors.
    control : SEMControl
        The interface.
    answer_s : float
        Longest wait for what the microscope answers at once.
    """

    def __init__(self, name: str, control: SEMControl, *, answer_s: float = ANSWER_S) -> None:
        if not answer_s > 0:
            raise ValueError(f"answer_s is {answer_s!r}: expected a positive number")
        self.name, self.answer_s = name, answer_s
        self.has_failed = False
        self._control: Any = _Named(name, control)
        self._worker = Worker(f"{name}-vendor")
        self._is_closed = False

    def submit(self, what: str, task: Callable[[SEMControl], Any]) -> "Future[Any]":
        """Have a task done on the thread; it gets the interface, whose errors are a `SEMError`.

        Raises
        ------
        SEMError
            If it has let go of the microscope for good.
        """

        def work() -> Any:
            try:
                return task(self._control)
            except SEMError:
                self.has_failed = True
                raise

        if self._is_closed:
            raise SEMError(f"{self.name}: {what} was asked for, but the device is destroyed")
        return self._worker.submit(what, work)

    def run(self, what: str, task: Callable[[SEMControl], Any], timeout_s: float | None = None) -> Any:
        """Have a task done, after all that was asked for before, and return its result.

        Parameters
        ----------
        what : str
            It does, for errors.
        task : callable
            Gets the interface.
        timeout_s : float, optional
            Longest wait for it, by default `answer_s`.

        Raises
        ------
        SEMError
            If it fails, or has not returned in time. If it has not begun by then, it never will.
        """
        timeout_s = self.answer_s if timeout_s is None else timeout_s
        future = self.submit(what, task)
        if not in_time(future, timeout_s):
            raise SEMError(
                f"{self.name}: no answer to {what} within {timeout_s:.2g} s; the microscope is busy with "
                f"{self._worker.under_way or 'nothing'}"
            )
        return future.result()

    def connect(self) -> None:
        """Connect.

        Raises
        ------
        SEMError
            If it cannot be connected.
        """
        self.run("connecting", lambda control: control.connect(), CONNECTING_S)
        self.has_failed = False

    def reconnect(self) -> None:
        """Let go of the microscope, as far as that goes, and connect again.

        Raises
        ------
        SEMError
            If it cannot be connected.
        """
        self.run("disconnecting", _let_go)
        self.connect()

    def close(self) -> None:
        """Let go of the microscope for good, when the call under way, if there is one, has returned."""
        if self._is_closed:
            return
        letting_go = self.submit("disconnecting", _let_go)
        self._is_closed = True
        self._worker.close()
        wait([letting_go], self.answer_s)


def _let_go(control: SEMControl) -> None:
    with contextlib.suppress(SEMError):
        control.disconnect()


class Reconnecting:
    """A device that connects again when a plan stages it, if a call has failed: to come before `Device`."""

    calls: Calls

    def stage(self) -> list[Any]:
        """Be ready for a plan."""
        if self.calls.has_failed:
            self.calls.reconnect()
        parent: Any = super()
        return parent.stage()


class _Named:
    """An interface whose errors say which call failed, with what."""

    def __init__(self, name: str, control: SEMControl) -> None:
        self._name, self._control = name, control

    def __getattr__(self, method: str) -> Any:
        attribute = getattr(self._control, method)
        if not callable(attribute):
            return attribute

        def call(*arguments: Any) -> Any:
            try:
                return attribute(*arguments)
            except Exception as error:
                said = ", ".join(f"{argument:.9g}" for argument in arguments)
                kind = type(self._control).__name__
                raise SEMError(f"{self._name}: {kind}.{method}({said}) failed: {error}") from error

        return call
