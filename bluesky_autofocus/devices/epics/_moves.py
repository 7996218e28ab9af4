"""Moves that end well only where they were to go."""

import contextlib
import functools
import math
import threading
import time
from collections.abc import Callable
from typing import Any

from ophyd.positioner import PositionerBase
from ophyd.signal import EpicsSignalBase
from ophyd.status import MoveStatus
from ophyd.status import wait as wait_for
from ophyd.utils import DisconnectedError

from bluesky_autofocus.devices._limits import check_within
from bluesky_autofocus.devices.epics._connection import ended, fail_late, fail_when_lost, require_connected

__all__ = ["CheckedMoves", "MoveError"]

POLL_S = 0.02
"""Interval at which a readback is read that has not arrived yet."""

STOPPING_S = 10.0
"""Longest wait for an axis that was told to stop; one that never says so is sent on all the same."""


class MoveError(RuntimeError):
    """A move ended elsewhere than it was to, or in alarm."""


class _Move(MoveStatus):
    """A move that stops the axis when it fails, as all of ophyd's do, unless the axis cannot be told.

    One that was given up for another does not stop that one.
    """

    def _handle_failure(self) -> None:
        axis: Any = self.pos
        with contextlib.suppress(DisconnectedError):
            axis.stop_move(self)


class CheckedMoves(PositionerBase):
    """The moves of an axis in um whose controller may stop, stall, be stopped by others, or go away.

    A move succeeds when its controller says that it is over and the position read back then is within
    `tolerance_um` of where it was to go, at the latest `arrival_s` afterwards. It fails with a `MoveError`
    otherwise, with a `DisconnectedError` when the connection is lost, and after `timeout` at the latest.

    A move takes the place of one under way at once. After one that was stopped or has failed it begins when
    the axis stands: a motor that is coming to rest does not take a new target.

    Parameters
    ----------
    limits_um : tuple of float, optional
        Lowest and highest position. Narrows the limits that the control system has; needed where it has none.
    tolerance_um : float
        How far from its target a move may end.
    arrival_s : float
        How long the readback may take to follow, after the controller has said that the move is over.
    timeout : float
        Longest duration of a move in s.

    Raises
    ------
    ValueError
        If a number makes no sense.
    """

    def __init__(
        self,
        prefix: str = "",
        *,
        limits_um: tuple[float, float] | None = None,
        tolerance_um: float = 0.5,
        arrival_s: float = 0.5,
        timeout: float = 60.0,
        **kwargs: Any,
    ) -> None:
        for name, value in (("tolerance_um", tolerance_um), ("timeout", timeout)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value!r}: expected a positive, finite number")
        if not (math.isfinite(arrival_s) and arrival_s >= 0):
            raise ValueError(f"arrival_s is {arrival_s!r}: expected a finite number, zero or more")
        if limits_um is not None:
            low, high = limits_um
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"limits_um must be finite and ascending, got {limits_um!r}")
            limits_um = float(low), float(high)
        self.limits_um, self.tolerance_um, self.arrival_s = limits_um, tolerance_um, arrival_s
        self.timeout_s = float(timeout)
        self._under_way: MoveStatus | None = None
        self._commanded: MoveStatus | None = None
        """The move that is not over, though its status may have failed."""
        self._waiting: MoveStatus | None = None
        """The move that begins when that one is over."""
        self._stopping: tuple[MoveStatus, bool] | None = None
        self._turns = threading.Lock()
        super().__init__(prefix, timeout=timeout, **kwargs)  # pyright: ignore[reportCallIssue] - Device's

    # What the kinds of axis say

    def _channels(self) -> list[EpicsSignalBase]:
        """Return the PVs without which nothing can be moved."""
        raise NotImplementedError

    def _begin(self, target_um: float, status: MoveStatus) -> None:
        """Tell the controller, and have `_over` called when it says that it is done."""
        raise NotImplementedError

    def _halt(self) -> None:
        """Tell the controller to stop."""
        raise NotImplementedError

    def _stands(self) -> bool:
        """Return whether the axis stands, as far as the IOC can be asked."""
        return True

    def _where_um(self) -> float:
        """Return the position, read from the IOC now."""
        raise NotImplementedError

    def _trouble(self) -> str:
        """Return what is wrong with the axis according to the IOC; nothing if nothing is."""
        raise NotImplementedError

    def _record_limits_um(self) -> tuple[float, float] | None:
        """Return the limits that the control system has, None where it has none."""
        raise NotImplementedError

    def _check_unit(self) -> None:
        """Raise a ValueError unless positions are known to be in um."""
        raise NotImplementedError

    # Limits

    @property
    def limits(self) -> tuple[float, float]:  # pyright: ignore[reportIncompatibleMethodOverride] - ophyd: (0, 0)
        """Lowest and highest position in um.

        Raises
        ------
        ValueError
            If neither the control system nor whoever made this device has set any.
        """
        require_connected(self.name, self._channels())
        found = [limits for limits in (self.limits_um, self._record_limits_um()) if limits is not None]
        if not found:
            raise ValueError(
                f"{self.name}: {self._channels()[0].pvname} has no limits, so it would go anywhere: set them "
                "in the IOC, or give limits_um=(low, high)"
            )
        low, high = max(low for low, _ in found), min(high for _, high in found)
        if low > high:
            raise ValueError(f"{self.name}: limits_um {found[0]} lie outside those of the IOC, {found[1]} um")
        return low, high

    def check_value(self, value: float, **kwargs: Any) -> None:
        """Refuse a position that is not finite or beyond the limits.

        Raises
        ------
        LimitError
            Naming the value and the limits.
        ValueError
            If there are no limits, or the unit is not known.
        DisconnectedError
            If the IOC is not there.
        """
        require_connected(self.name, self._channels())
        self._check_unit()
        check_within(self.name, value, self.limits)

    # Moves

    def move(  # pyright: ignore[reportIncompatibleMethodOverride] - in the order of EpicsMotor and PVPositioner
        self,
        position: float,
        wait: bool = True,
        timeout: float | None = None,
        moved_cb: Callable[..., None] | None = None,
    ) -> MoveStatus:
        """Start a move to a position in um, and wait for it if asked to."""
        target_um = float(position)
        self.check_value(target_um)
        signals = self._channels()
        status = _Move(self, target_um, settle_time=self.settle_time)
        if moved_cb is not None:
            status.add_callback(functools.partial(moved_cb, obj=self))
        with self._turns:
            before, self._under_way = self._under_way, status
            earlier = self._commanded
            waits = earlier is not None and (earlier.done or self._is_told_to_stop(earlier))
            if waits:
                self._waiting = status
            else:
                self._commanded = status
        if before is not None:
            ended(before, MoveError(f"{self.name}: the move to {before.target} um was given up for another"))
        fail_when_lost(status, self.name, signals)
        late = f"{self.name}: {signals[0].pvname} has not said that the move to {target_um} um is over"
        fail_late(status, timeout or self.timeout_s, late)
        if waits:
            timer = threading.Timer(STOPPING_S, self._go_on_after, (earlier,))
            timer.daemon = True
            timer.start()
            status.add_callback(lambda _: timer.cancel())
        elif not status.done:
            self._begin(target_um, status)
        if wait:
            try:
                wait_for(status)
            except KeyboardInterrupt:
                self.stop()
                raise
        return status

    def stop(self, *, success: bool = False) -> None:
        """Stop. The status of a move under way ends as `success` says, once the axis stands."""
        self.stop_move(self._waiting or self._commanded, success=success)

    def stop_move(self, status: MoveStatus | None, *, success: bool = False) -> None:
        """Stop, if the axis is on its way for this move or will be."""
        with self._turns:
            if status is None or (status is not self._commanded and status is not self._waiting):
                return
            try:
                require_connected(self.name, self._channels())
            except DisconnectedError:
                self._commanded = self._waiting = None  # nobody will say that they are over
                raise
            self._stopping = status, success
        self._halt()

    def _is_told_to_stop(self, status: MoveStatus) -> bool:
        return self._stopping is not None and self._stopping[0] is status

    def _over(self, status: MoveStatus | None) -> None:
        """Judge a move that the controller says is over; called from any thread."""
        if status is None or status is not self._commanded:
            return
        if not self._judged(status, last=self.arrival_s == 0):
            threading.Thread(target=self._await_arrival, args=(status,), daemon=True).start()

    def _await_arrival(self, status: MoveStatus) -> None:
        end_s = time.monotonic() + self.arrival_s
        while not self._judged(status, last=time.monotonic() >= end_s):
            time.sleep(POLL_S)

    def _judged(self, status: MoveStatus, *, last: bool) -> bool:
        """End the status of a move if it can be told how it ended, at the `last` look in any case.

        Not while the axis moves: then it was an earlier motion that was over, and the end of this one will
        be said too.
        """
        whither = f"{self.name}: the move to {status.target} um ended"
        error: Exception | None = None
        try:
            if not self._stands():
                return True
            at_um, trouble = self._where_um(), self._trouble()
        except DisconnectedError as lost:
            error = lost
        except Exception as unknown:  # too late
            error = MoveError(f"{whither}, nobody knows where: {unknown}")
        else:
            if self._is_told_to_stop(status):
                error = self._stopped(status)
            elif trouble:
                error = MoveError(f"{whither} at {at_um:.6g} um: {trouble}")
            elif abs(at_um - status.target) > self.tolerance_um:
                if not (last or status.done):
                    return False
                away = f"more than {self.tolerance_um} um away; was it stopped?"
                error = MoveError(f"{whither} at {at_um:.6g} um, {away}")
        self._go_on_after(status)
        ended(status, error)
        return True

    def _stopped(self, status: MoveStatus) -> MoveError | None:
        if self._stopping == (status, True):
            return None
        return MoveError(f"{self.name}: stopped on the way to {status.target} um")

    def _go_on_after(self, status: MoveStatus) -> None:
        """Begin the move that waits for the end of this one, if there is one."""
        with self._turns:
            if self._commanded is not status:
                return
            following, self._waiting, self._commanded = self._waiting, None, None
            if following is None or following.done:
                return
            stopped = self._is_told_to_stop(following)
            if not stopped:
                self._commanded = following
        if stopped:
            ended(following, self._stopped(following))
            return
        try:
            self._begin(following.target, following)
        except Exception as error:
            ended(following, error)
