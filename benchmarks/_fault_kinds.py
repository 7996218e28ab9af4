"""What breaks: simulated devices, the analysis, the disk, the catalogue; and what people do meanwhile."""

import asyncio
import contextlib
import errno
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from ophyd.status import DeviceStatus, MoveStatus, Status
from ophyd.utils import LimitError

import bluesky_autofocus.catalog._spool as spool_module
import bluesky_autofocus.frames as frames_module
from bluesky_autofocus.devices._camera import FrameError

__all__ = ["KINDS", "Kind", "Places", "kill"]

RELEASED_S = 0.05
"""After that somebody ends the plan in which a device stalls."""


class Places:
    """Where a fault can strike: what a rig, its catalogue and its RunEngine have.

    Parameters
    ----------
    rig : Rig
    run_engine : RunEngine
    catalog : Catalog
        With one recorder.
    """

    def __init__(self, rig: Any, run_engine: Any, catalog: Any) -> None:
        self.rig, self.RE, self.catalog = rig, run_engine, catalog

    @property
    def writer(self) -> Any:
        """What records in the catalogue."""
        return self.catalog._writers[0]  # noqa: SLF001

    @property
    def owners(self) -> dict[str, list[tuple[Any, str]]]:
        """Methods, by what they are part of."""
        rig = self.rig
        return {
            "trigger": [(rig.camera, "trigger")],
            "frame": [(rig.camera, "render_at" if hasattr(rig.camera, "render_at") else "render")],
            "focus axis": [(rig.axes["z"], "set")],
            "stage": [(rig.axes["x"], "set"), (rig.axes["y"], "set")],
            "run": [(axis.velocity, "set") for axis in rig.axes.values() if hasattr(axis, "run")],
            "light": [] if rig.leds is None else [(rig.leds, "set")],
            "analysis": [(one, "prepare") for one in rig.analyses],
            "wait": [(one, "settled") for one in rig.analyses],
            "frame file": [(frames_module.FrameFile, "append")],
            "spool": [(spool_module, "_append")],
            "catalogue": [(self.writer, "_write")],
        }

    @contextlib.contextmanager
    def replaced(
        self, part: str, replacement: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> Iterator[None]:
        """Let something else take the place of the methods of a part."""
        with contextlib.ExitStack() as stack:
            for owner, name in self.owners[part]:
                method = getattr(owner, name)
                stack.enter_context(mock.patch.object(owner, name, replacement(method)))
            yield

    @contextlib.contextmanager
    def counted(self) -> Iterator[dict[str, int]]:
        """Count the calls of all parts."""
        counts = dict.fromkeys(self.owners, 0)
        with contextlib.ExitStack() as stack:
            for part in counts:

                def counting(method: Callable[..., Any], part: str = part) -> Callable[..., Any]:
                    def called(*args: Any, **kwargs: Any) -> Any:
                        counts[part] += 1
                        return method(*args, **kwargs)

                    return called

                stack.enter_context(self.replaced(part, counting))
            yield counts


class Kind:
    """A kind of fault.

    Parameters
    ----------
    part : str
        What it strikes, a key of `Places.owners`.
    does : callable
        ``does(places, method, *args, **kwargs)`` in place of the call that is struck.
    lasts : bool
        Whether it strikes all calls after that too, until the plan has ended.
    """

    def __init__(self, part: str, does: Callable[..., Any], *, lasts: bool = False) -> None:
        self.part, self.does, self.lasts = part, does, lasts

    @contextlib.contextmanager
    def at(self, places: Places, moment: int) -> Iterator[list[bool]]:
        """Let it strike at a call; yield a list that tells whether it did."""
        calls, struck = [0], []

        def breaking(method: Callable[..., Any]) -> Callable[..., Any]:
            def called(*args: Any, **kwargs: Any) -> Any:
                calls[0] += 1
                if calls[0] - 1 == moment or (self.lasts and calls[0] > moment):
                    struck.append(True)
                    return self.does(places, method, *args, **kwargs)
                return method(*args, **kwargs)

            return called

        with places.replaced(self.part, breaking):
            yield struck


# Devices


def _late_frame(places: Places, method: Any) -> Any:
    return DeviceStatus(places.rig.camera, timeout=0.02)


def _no_frame(places: Places, method: Any, *args: Any) -> Any:
    raise FrameError("the frame was dropped")


def _small_frame(places: Places, method: Any, *args: Any) -> Any:
    return method(*args)[1:]


def _black_frame(places: Places, method: Any, *args: Any) -> Any:
    return method(*args) * 0


def _stalls(released: bool) -> Callable[..., Any]:
    """Return a move that does not end; the axis says that it has stopped when it is told to, or never."""

    def does(places: Places, method: Any, target_um: float, **kwargs: Any) -> Any:
        axis = method.__self__
        status = MoveStatus(axis, target_um)
        stop = axis.stop

        def stopped(*, success: bool = False) -> None:
            axis.stop = stop
            stop(success=success)
            if released and not status.done:
                status.set_finished() if success else status.set_exception(RuntimeError("stopped"))

        axis.stop = stopped
        _soon(places.RE.abort)
        return status

    return does


def _fails_under_way(places: Places, method: Any, *args: Any, **kwargs: Any) -> Status:
    status = Status()
    status.set_exception(OSError("following error"))
    return status


def _refuses(places: Places, method: Any, *args: Any, **kwargs: Any) -> Any:
    raise LimitError("the limit switch is open")


def _no_answer(places: Places, method: Any, *args: Any, **kwargs: Any) -> Any:
    raise OSError("the controller does not answer")


# What judges, what records


def _wrong_model(places: Places, method: Any, *args: Any) -> Any:
    raise ArithmeticError("of the model")


async def _is_late(places: Places, method: Any, stream: str) -> None:
    await asyncio.sleep(0.2)


def _full(places: Places, method: Any, *args: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def _locked(places: Places, method: Any, *args: Any) -> Any:
    raise sqlite3.OperationalError("database is locked")


# By hand


def _soon(interfere: Callable[[], Any]) -> None:
    def wait() -> None:
        time.sleep(RELEASED_S)
        with contextlib.suppress(Exception):  # it has ended by itself
            interfere()

    threading.Thread(target=wait, daemon=True).start()


def _by(interfere: Callable[[Places], Any]) -> Callable[..., Any]:
    """Return what interferes from another thread while a frame is being taken."""

    def does(places: Places, method: Any) -> Any:
        def now() -> None:
            with contextlib.suppress(Exception):  # it has ended already
                interfere(places)

        threading.Thread(target=now, daemon=True).start()
        time.sleep(0.002)
        return method()

    return does


def _interrupt(places: Places) -> None:
    """Press Ctrl-C twice: pause at once."""
    for _ in range(2):
        if places.RE.state == "running":
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.03)


def kill(places: Places, method: Any, *args: Any, **kwargs: Any) -> Any:
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


KINDS: dict[str, Kind] = {
    "camera times out": Kind("trigger", _late_frame),
    "camera does not answer": Kind("trigger", _no_answer),
    "frame dropped": Kind("frame", _no_frame),
    "frame of another shape": Kind("frame", _small_frame),
    "frame black": Kind("frame", _black_frame),
    "focus axis stalls, released": Kind("focus axis", _stalls(released=True)),
    "focus axis stalls for good": Kind("focus axis", _stalls(released=False)),
    "focus axis fails under way": Kind("focus axis", _fails_under_way),
    "focus axis at a limit": Kind("focus axis", _refuses),
    "run refused": Kind("run", _refuses),
    "stage stalls, released": Kind("stage", _stalls(released=True)),
    "stage fails under way": Kind("stage", _fails_under_way),
    "stage does not answer": Kind("stage", _no_answer),
    "light does not answer": Kind("light", _no_answer),
    "light fails": Kind("light", _fails_under_way),
    "analysis fails": Kind("analysis", _wrong_model),
    "analysis late": Kind("wait", _is_late),
    "disk full for frames": Kind("frame file", _full, lasts=True),
    "disk full for one frame": Kind("frame file", _full),
    "disk full for documents": Kind("spool", _full, lasts=True),
    "catalogue locked": Kind("catalogue", _locked, lasts=True),
    "catalogue locked once": Kind("catalogue", _locked),
    "aborted": Kind("trigger", _by(lambda places: places.RE.abort())),
    "stopped": Kind("trigger", _by(lambda places: places.RE.stop())),
    "halted": Kind("trigger", _by(lambda places: places.RE.halt())),
    "paused": Kind("trigger", _by(lambda places: places.RE.request_pause())),
    "Ctrl-C": Kind("trigger", _by(_interrupt)),
}
