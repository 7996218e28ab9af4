"""Run axes by their velocity while frames are taken, and never for longer than there is room."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.protocols import Stoppable
from bluesky.utils import Msg, MsgGenerator

from bluesky_autofocus.plans._exposing import Exposure
from bluesky_autofocus.plans._protocols import RunningAxis

__all__ = ["check_running", "expose_on_the_run", "halt_all", "run_at"]

_LEAST_S = 1e-3
"""A wait of no time at all would not see what is there already."""


def check_running(axis: Any) -> RunningAxis:
    """Return an axis that has a velocity mode, which a pause stops.

    Raises
    ------
    ValueError
        If it has none.
    """
    if not isinstance(axis, RunningAxis):
        raise ValueError(f"axis {getattr(axis, 'name', axis)!r} has no velocity mode: it needs a `velocity`")
    if not isinstance(axis.velocity, Stoppable):
        raise ValueError(f"the velocity of axis {axis.name!r} has no stop(): a pause would not stop its run")
    return axis


def run_at(axis: RunningAxis, velocity_um_s: float) -> MsgGenerator[None]:
    """Run an axis, or have it go on; at 0 stop it and wait until it stands."""
    yield from bps.abs_set(axis.velocity, velocity_um_s, wait=True)


def halt_all(*axes: RunningAxis) -> MsgGenerator[None]:
    """Stop axes at once, and wait until all of them stand."""
    if axes:
        group = f"halt-{uuid4()}"
        for axis in axes:
            yield from bps.abs_set(axis.velocity, 0.0, group=group)
        yield from bps.wait(group)


def expose_on_the_run(
    exposure: MsgGenerator[Exposure], halt: Callable[[], MsgGenerator[None]], left_s: float
) -> MsgGenerator[Exposure]:
    """Take an exposure while axes run that have room for so many seconds.

    If the camera or the analysis takes longer they are halted, and what is late is waited for at rest, as
    long as it is allowed to take.

    Parameters
    ----------
    exposure : generator of messages
        Takes it, has it analysed and returns it.
    halt : callable
        Halts whatever runs.
    left_s : float
        For how long it may run on.

    Returns
    -------
    Exposure
        Its position is NaN if the camera was late: the axis was read after it had stopped, so where the frame
        was taken is not known.
    """
    late: list[str] = []
    left_s = max(left_s, _LEAST_S)
    # camera and analysis share it
    deadline_s = time.monotonic() + left_s

    def in_time(message: Msg) -> MsgGenerator[Any]:
        timeout_s = min(max(deadline_s - time.monotonic(), _LEAST_S), left_s)
        try:
            return (yield message._replace(kwargs={**message.kwargs, "timeout": timeout_s}))
        except TimeoutError:
            late.append(message.command)
            yield from halt()
            return (yield message)

    def watch(message: Msg) -> tuple[MsgGenerator[Any] | None, None]:
        # once halted there is nothing to be in time for
        waits = message.command in ("wait", "wait_for") and not late
        timeout_s = message.kwargs.get("timeout")
        if waits and (timeout_s is None or timeout_s > left_s):
            return in_time(message), None
        return None, None

    taken: Any = yield from bpp.plan_mutator(exposure, watch)
    return dataclasses.replace(taken, position_um=math.nan) if "wait" in late else taken
