"""Stages of a Micro-Manager core as axes in um, and the one that focuses."""

import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from ophyd import Component as Cpt
from ophyd import Device
from ophyd.positioner import PositionerBase
from ophyd.status import MoveStatus
from ophyd.utils.errors import InvalidState

from bluesky_autofocus.devices._axis import _Readback, _Setpoint
from bluesky_autofocus.devices._limits import check_within
from bluesky_autofocus.devices.micromanager._calls import (
    ANSWER_S,
    POLL_S,
    STAGE,
    DeviceLink,
    MicroManagerError,
    wait_until_idle,
)

__all__ = ["MOVE_S", "SHORT_UM", "StageAxis", "ZStage"]

logger = logging.getLogger(__name__)

MOVE_S = 30.0
"""Longest time of a move unless told otherwise: a stepper crosses its whole range in that."""

STOPPING_S = 5.0
"""How long a stage that was told to stop may be busy; plans wait 10 s for it."""

SHORT_UM = 2.0
"""How far from its target a move may end unless told otherwise. Well above the backlash of a stage that
focuses; below what a joystick or a hard stop makes of a move."""

STANDING_S = 0.3
"""A stage whose position has not changed for so long stands: serial adapters poll theirs every 0.1 s."""

REPORT_S = 0.05
"""How often a progress bar learns the position."""


@dataclasses.dataclass
class _Move:
    """A move under way."""

    target_um: float
    status: MoveStatus
    deadline_s: float
    stopped: bool | None = None
    """Whether the stop that ends it is to be a success; None if it is not stopped."""


class StageAxis(Device, PositionerBase):  # pyright: ignore - ophyd's own two bases disagree in their types
    """One coordinate of a stage. Subclasses say how it is told and asked."""

    readback = Cpt(_Readback, attribute="readback_um", egu="um", value=0.0, kind="hinted")
    setpoint = Cpt(_Setpoint, value=0.0, kind="normal")

    def __init__(
        self,
        prefix: str = "",
        *,
        link: DeviceLink,
        limits: tuple[float, float],
        move_s: float = MOVE_S,
        short_um: float = SHORT_UM,
        **kwargs: Any,
    ) -> None:
        low, high = limits
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"limits must be finite and ascending, got {limits!r} um")
        for name, value in (("move_s", move_s), ("short_um", short_um)):
            if not value > 0:
                raise ValueError(f"{name} is {value!r}: expected a positive number")
        self._link, self._limits = link, (float(low), float(high))
        self.move_s, self.short_um = move_s, short_um
        self._lock = threading.Lock()
        self._move: _Move | None = None
        super().__init__(prefix, **kwargs)
        self.readback.name = self.name  # the hinted readback carries the axis' own name, as with EpicsMotor
        self.setpoint.put(self.readback_um)

    # What subclasses say

    def _tell(self, core: Any, position_um: float) -> None:
        raise NotImplementedError

    def _tell_to_stop(self, core: Any) -> None:
        core.stop(self.label)

    def _asked_um(self) -> float:
        raise NotImplementedError

    def _make_way(self) -> None:
        """Wait until the stage is free for a move."""

    # Positions

    @property
    def label(self) -> str:
        """What the configuration calls the stage."""
        return self._link.label

    @property
    def egu(self) -> str:
        """Unit of the positions."""
        return "um"

    @property
    def limits(self) -> tuple[float, float]:  # pyright: ignore[reportIncompatibleMethodOverride] - ophyd: (0, 0)
        """Lowest and highest position in um."""
        return self._limits

    @property
    def position(self) -> float:
        """The position in um as it was last read; `readback_um` asks for it."""
        position: Any = self._position
        return position

    @property
    def readback_um(self) -> float:
        """The position that the stage says it has now."""
        self._position = position = self._asked_um()
        return position

    @property
    def moving(self) -> bool:
        """Whether a move is under way."""
        return self._move is not None

    def check_value(self, value: float, **kwargs: Any) -> None:
        """Refuse a position that is not finite or beyond the limits.

        Raises
        ------
        LimitError
            Naming the value and the limits.
        """
        check_within(self.name, value, self._limits)

    def describe(self) -> Any:
        """Describe the position, with its unit, its limits and the device that it is of."""
        described: Any = super().describe()
        described[self.name]["source"] = f"MicroManager:{self.label}"
        return described

    # Moves

    def move(
        self,
        position: float,
        moved_cb: Callable[..., None] | None = None,
        timeout: float | None = None,
        wait: bool = False,
    ) -> MoveStatus:
        """Start a move; the status is done when the stage is no longer busy. As `set`.

        A move under way is given up, and its status fails. So does one that takes longer than `timeout`, by
        default `move_s`, or ends elsewhere.

        Raises
        ------
        LimitError
            If the position lies beyond the limits; nothing moves then.
        """
        self.check_value(position)
        timeout = self.move_s if timeout is None else timeout
        # ophyd would have a move that is given up stop the one that follows it
        status = MoveStatus(self, float(position), call_stop_on_failure=False)
        move = _Move(float(position), status, time.monotonic() + timeout)
        if moved_cb is not None:
            status.add_callback(partial(moved_cb, obj=self))
        with self._lock:
            given_up, self._move = self._move, move
        if given_up is not None:
            given_up.deadline_s = -math.inf  # nobody follows it any more
            self._halt()
            self._end(given_up, MicroManagerError(f"{self.name}: given up for a move to {position} um"))
        self.setpoint.put(float(position))
        self._run_subs(sub_type=self.SUB_START, timestamp=time.time())
        threading.Thread(target=self._drive, args=(move, given_up is not None), daemon=True).start()
        if wait:
            status.wait()
        return status

    def stop(self, *, success: bool = False) -> None:
        """Stop the stage. The status of a move under way ends as `success` says, when the stage stands."""
        with self._lock:
            move = self._move
            if move is None or move.stopped is not None:
                return
            move.stopped = success
            move.deadline_s = min(move.deadline_s, time.monotonic() + STOPPING_S)
        self._halt()

    def _halt(self, move: _Move | None = None) -> None:
        """Have the stage stop, after what it is being told now; for a move, unless another one has come."""

        def halt(core: Any) -> None:
            if move is None or self._move is None or self._move is move:
                self._tell_to_stop(core)

        self._link.submit("stop", halt).add_done_callback(self._halted)

    def _halted(self, stopping: Future[Any]) -> None:
        if error := stopping.exception():
            logger.error("%s: device %r was not stopped: %s", self.name, self.label, error)

    def _drive(self, move: _Move, halted: bool) -> None:
        """Tell the stage, follow it until it stands, and end the status."""
        what = f"a move to {move.target_um} um"
        reported_s = time.monotonic()

        def tell(core: Any) -> None:
            # seen on the adapter's thread: a stop comes before, and is seen, or after, and is obeyed
            if move.stopped is None and self._move is move:
                self._tell(core, move.target_um)

        def report() -> None:
            nonlocal reported_s
            if time.monotonic() - reported_s >= REPORT_S:
                reported_s = time.monotonic()
                self._set_position(self._asked_um())

        error: Exception | None = None
        try:
            wait = partial(wait_until_idle, self._link, what, lambda: move.deadline_s)
            if halted:
                wait()
            self._make_way()
            self._link.run(what, tell, max(move.deadline_s - time.monotonic(), 0.0))
            wait(report)
            error = self._missed(move, self._settled_um(move))
        except Exception as failed:
            error = failed
            self._halt(move)  # whatever it may be doing
        with self._lock:
            if self._move is not move:
                return  # it was given up, and its status has ended
            self._move = None
        self._end(move, error)

    def _settled_um(self, move: _Move) -> float:
        """Return where a stage ends that says it is no longer busy. Some say so too early, or always."""
        position_um, since_s = self._asked_um(), time.monotonic()
        while move.stopped is None and abs(position_um - move.target_um) > self.short_um:
            now_s = time.monotonic()
            if now_s - since_s > STANDING_S or now_s > move.deadline_s:
                break
            time.sleep(POLL_S)
            before_um, position_um = position_um, self._asked_um()
            if position_um != before_um:
                since_s = now_s
        self._set_position(position_um)
        return position_um

    def _missed(self, move: _Move, position_um: float) -> Exception | None:
        """Return why a move that is over did not succeed, None if it did."""
        if move.stopped is not None:
            return (
                None if move.stopped else MicroManagerError(f"{self.name}: stopped at {position_um:.6g} um")
            )
        if abs(position_um - move.target_um) > self.short_um:
            return MicroManagerError(
                f"{self.name}: device {self.label!r} stands at {position_um:.6g} um after a move to "
                f"{move.target_um:.6g} um: expected it within {self.short_um:g} um"
            )
        return None

    def _end(self, move: _Move, error: Exception | None) -> None:
        if error is None:
            self._run_subs(sub_type=self.SUB_DONE, timestamp=time.time(), value=self._position)
        try:
            if error is None:
                move.status.set_finished()
            else:
                move.status.set_exception(error)
        except InvalidState:
            pass  # who waited has ended it


class ZStage(StageAxis):
    """A stage that focuses.

    Parameters
    ----------
    core : pymmcore.CMMCore
        With its configuration loaded.
    label : str, optional
        Of the stage in the configuration; by default the core's focus device.
    limits : tuple of float
        Lowest and highest position in um; the core knows none. Where a low position is dangerous the lower
        limit is the safe floor.
    move_s : float
        Longest time that a move may take.
    short_um : float
        How far from its target a move may end. Where the adapter never says that it is busy a move ends when
        it is so near, so make it small.
    answer_s : float
        Longest wait for what the device answers at once.

    Raises
    ------
    MicroManagerError
        If the configuration has no such stage, or it does not tell its position.
    ValueError
        If the limits are reversed or not finite, or another number makes no sense.
    """

    def __init__(
        self,
        prefix: str = "",
        *,
        core: Any,
        label: str | None = None,
        limits: tuple[float, float],
        answer_s: float = ANSWER_S,
        **kwargs: Any,
    ) -> None:
        link = DeviceLink(core, label or core.getFocusDevice(), STAGE, answer_s=answer_s)
        super().__init__(prefix, link=link, limits=limits, **kwargs)

    def _tell(self, core: Any, position_um: float) -> None:
        core.setPosition(self.label, position_um)

    def _asked_um(self) -> float:
        return float(self._link.ask("getPosition"))
