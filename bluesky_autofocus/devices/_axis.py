"""A motorised axis that is not there: same interface as a real one, with a mechanism behind it."""

import dataclasses
import math
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from ophyd import Component as Cpt
from ophyd import Device, Signal
from ophyd.positioner import PositionerBase
from ophyd.status import MoveStatus, Status

from bluesky_autofocus.clock import Clock, VirtualClock
from bluesky_autofocus.devices._limits import check_speed, check_within
from bluesky_autofocus.devices._signals import BoundedSignal, ComputedSignal
from bluesky_autofocus.simulation.motion import AxisMechanics, AxisMotion

__all__ = ["AxisBusyError", "SimulatedAxis", "SimulatedRunningAxis"]


class AxisBusyError(RuntimeError):
    """A move was asked for while the axis runs, or a run while it moves."""


class _Readback(ComputedSignal):
    """The position, which has the limits of its axis."""

    def describe(self) -> dict[str, Any]:
        return _with_limits(super().describe(), self.parent)


class _Setpoint(Signal):
    """Where the axis was last told to go; setting it moves the axis."""

    def describe(self) -> dict[str, Any]:
        described = _with_limits(super().describe(), self.parent)
        described[self.name].update(units="um", dtype="number", dtype_numpy="<f8")
        return described

    def set(self, value: float, **kwargs: Any) -> Any:
        axis: Any = self.parent
        return axis.set(value, **kwargs)


def _with_limits(described: Any, axis: Any) -> dict[str, Any]:
    low, high = axis.limits
    for data_key in described.values():
        data_key.update(lower_ctrl_limit=low, upper_ctrl_limit=high, precision=4)
    return described


class SimulatedAxis(Device, PositionerBase):  # pyright: ignore - ophyd's own two bases disagree in their types
    """A focus axis in um: a Z stage, or the working distance of a SEM.

    Parameters
    ----------
    limits : tuple of float
        Lowest and highest position in um. Where a low position is dangerous (an objective near the
        sample, a short working distance) the lower limit is the safe floor.
    position_um : float
        Where it stands at first.
    mechanics : AxisMechanics, optional
        Velocity, settling, backlash and readback noise. By default it moves at once and exactly.
    clock : Clock, optional
        The session's. By default time passes only in moves, and at once.
    seed : int
        Of the readback noise.

    Raises
    ------
    ValueError
        If the limits are reversed or not finite, or `position_um` lies outside them.
    """

    readback = Cpt(_Readback, attribute="readback_um", egu="um", value=0.0, kind="hinted")
    setpoint = Cpt(_Setpoint, value=0.0, kind="normal")
    velocity = Cpt(BoundedSignal, value=0.0, egu="um/s", limits=(0.0, 1e6), kind="config")
    settle = Cpt(ComputedSignal, attribute="settle_s", egu="s", value=0.0, kind="config")
    backlash = Cpt(ComputedSignal, attribute="backlash_um", egu="um", value=0.0, kind="config")

    def __init__(
        self,
        prefix: str = "",
        *,
        limits: tuple[float, float],
        position_um: float = 0.0,
        mechanics: AxisMechanics | None = None,
        clock: Clock | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        low, high = limits
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"limits must be finite and ascending, got {limits!r} um")
        if not low <= position_um <= high:
            raise ValueError(f"position_um must lie within the limits {limits!r} um, got {position_um!r}")
        super().__init__(prefix, **kwargs)
        self.clock: Clock = clock or VirtualClock()
        mechanics = mechanics or AxisMechanics()
        self.motion = AxisMotion(mechanics, position_um, seed=seed)
        self._limits = (float(low), float(high))
        self._lock = threading.Lock()
        # ophyd tells who waits for a move that it is done, and then forgets whoever waits: who waits for the
        # next move, which a plan may begin in between on its own thread, would be forgotten too
        self._telling = threading.RLock()
        self._cancel: Callable[[], None] | None = None
        self._move_number = 0
        # The hinted readback carries the axis' own name, as with EpicsMotor.
        self.readback.name = self.name
        self.setpoint.put(float(position_um))
        speed = self._speed
        speed.put(mechanics.velocity_um_s if math.isfinite(mechanics.velocity_um_s) else 0.0)
        speed.subscribe(self._speed_changed, run=False)

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
        """The position read back, in um."""
        return self.readback.get()

    @property
    def readback_um(self) -> float:
        """One noisy readback of the motor's position."""
        return self.motion.readback_um(self.clock.now_s())

    @property
    def _speed(self) -> Any:
        """The signal that holds the speed of moves."""
        return self.velocity

    def _speed_changed(self, value: float, **kwargs: Any) -> None:
        # 0, for which documents have a number, stands for "at once"
        self.motion.mechanics = dataclasses.replace(self.motion.mechanics, velocity_um_s=value or math.inf)

    @property
    def settle_s(self) -> float:
        """Time after a move until it is reported done."""
        return self.motion.mechanics.settle_s

    @property
    def backlash_um(self) -> float:
        """Lost motion on reversing."""
        return self.motion.mechanics.backlash_um

    @property
    def load_um(self) -> float:
        """Where the load truly is, which no readback tells."""
        return self.load_at_um(self.clock.now_s())

    def load_at_um(self, time_s: float) -> float:
        """Return where the load truly was at a time of the clock, not long ago."""
        return self.motion.load_um(time_s)

    def check_value(self, value: float, **kwargs: Any) -> None:
        """Refuse a position that is not finite or beyond the limits.

        Raises
        ------
        LimitError
            Naming the value and the limits.
        """
        check_within(self.name, value, self._limits)

    def set(
        self,
        new_position: float,
        *,
        timeout: float | None = None,
        moved_cb: Callable[..., None] | None = None,
        wait: bool = False,
    ) -> MoveStatus:
        """Start a move; the status is done when the axis has settled.

        A move under way is given up, and its status fails.
        """
        self.check_value(new_position)
        self._abandon_move()
        with self._telling:
            status: MoveStatus = PositionerBase.move(self, new_position, moved_cb=moved_cb, timeout=timeout)
        self.setpoint.put(float(new_position))
        duration_s = self.motion.start(new_position, self.clock.now_s())
        self._run_subs(sub_type=self.SUB_START, timestamp=time.time())
        with self._lock:
            self._move_number += 1
            self._moving = True
        arrived = partial(self._arrived, self._move_number)
        if duration_s > 0:
            cancel = self.clock.call_after(duration_s, arrived, tick=self._report_position)
            with self._lock:
                self._cancel = cancel if self._moving else None
        else:
            arrived()
        if wait:
            status.wait()
        return status

    def stop(self, *, success: bool = False) -> None:
        """Stop where the axis is. The status of a move under way ends as `success` says."""
        self._abandon_move(success=success)

    def _abandon_move(self, success: bool = False) -> None:
        with self._lock:
            cancel, self._cancel = self._cancel, None
            moving, self._moving = self._moving, False
        if cancel is not None:
            cancel()
        if moving:
            self.motion.stop(self.clock.now_s())
            with self._telling:
                # not super().stop(): that is Device's, which never completes the status
                PositionerBase.stop(self, success=success)

    def _arrived(self, move_number: int) -> None:
        with self._lock:
            if not self._moving or move_number != self._move_number:
                return  # given up while the clock's thread was about to report it
            self._cancel, self._moving = None, False
        self._report_position()
        with self._telling:
            self._done_moving(success=True)

    def _report_position(self) -> None:
        self._set_position(self.motion.readback_um(self.clock.now_s()))


class _Velocity(ComputedSignal):
    """The velocity that an axis is told to run at; setting it runs the axis, or stops it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._metadata.update(write_access=True)

    @property
    def limits(self) -> tuple[float, float]:  # pyright: ignore[reportIncompatibleMethodOverride] - ophyd: (0, 0)
        """Lowest and highest velocity in um/s."""
        axis: Any = self.parent
        return -axis.velocity_limit_um_s, axis.velocity_limit_um_s

    def check_value(self, value: float, **kwargs: Any) -> None:
        """Refuse a velocity that is not finite or too high."""
        axis: Any = self.parent
        axis.check_velocity(value)

    def describe(self) -> dict[str, Any]:
        described = super().describe()
        low, high = self.limits
        described[self.name].update(lower_ctrl_limit=low, upper_ctrl_limit=high)
        return described

    def put(self, value: float, **kwargs: Any) -> None:
        """Run at a velocity, or stop at 0."""
        self.set(value)

    def set(self, value: float, **kwargs: Any) -> Any:
        """Run at a velocity: done at once. At 0 stop: done when the axis stands."""
        axis: Any = self.parent
        status = Status(self)
        if value == 0:
            axis.clock.call_after(axis.brake(), status.set_finished)
        else:
            axis.run(value)
            status.set_finished()
        return status

    def stop(self, *, success: bool = False) -> None:
        """Stop the axis. A RunEngine calls it at the end of a plan that set the velocity, and at a pause."""
        axis: Any = self.parent
        axis.stop(success=success)


class SimulatedRunningAxis(SimulatedAxis):
    """An axis that can also run: move at a velocity, without a target, until it is told otherwise.

    What a plan can rely on:

    - ``run(v)`` starts a motion at v um/s, or changes the one under way; the sign is the direction. It
      returns at once and nothing completes. `refresh` tells it the same again. ``run(0)`` and ``stop()`` end
      it, with the deceleration of the mechanics: a distance of ``v**2 / (2 a)``.
    - The child ``velocity`` does all that by messages: ``bps.abs_set(axis.velocity, v)`` is ``run(v)`` and
      done at once, and ``bps.abs_set(axis.velocity, 0, wait=True)`` is done when the axis stands. It reads
      what is commanded, in every Event: 0 at rest, and 0 again once the axis has ended a run by itself.
    - A velocity that is not finite or above ``velocity_limit_um_s`` is a LimitError, before anything changes.
    - At every speed the axis begins to brake so that it comes to rest within its ``limits``, and the run is
      over there. Running on outwards leaves it where it is.
    - If neither ``run`` nor ``refresh`` comes within ``watchdog_s``, the axis brakes by itself, and the child
      ``watchdog_tripped`` reads 1 until the next run.
    - A read gives the position, also while moving, and as ``NAME_time_s`` the time on the session's clock
      that it belongs to.
    - ``set`` while it runs, and ``run`` while a move is under way, are an `AxisBusyError`; the one under way
      goes on. While it is still braking at the end of a run, a move is accepted.
    - A RunEngine that ends a plan or pauses stops the run.

    The position is a function of the clock's time, so it is exact on a `VirtualClock` too, on which time
    passes only in moves, exposures and waits.

    Parameters
    ----------
    velocity_limit_um_s : float
        Highest speed of a run.
    watchdog_s : float, optional
        After how long without a command a run ends; by default never.
    mechanics : AxisMechanics, optional
        As of any axis; its acceleration and latency are those of runs too.
    **kwargs
        As of `SimulatedAxis`.

    Raises
    ------
    ValueError
        If a number makes no sense.
    """

    velocity = Cpt(_Velocity, attribute="commanded_um_s", egu="um/s", value=0.0, kind="normal")  # pyright: ignore
    actual_velocity = Cpt(
        ComputedSignal, attribute="actual_velocity_um_s", egu="um/s", value=0.0, kind="normal"
    )
    watchdog_tripped = Cpt(ComputedSignal, attribute="is_watchdog_tripped", egu="", value=0, kind="normal")
    time_s = Cpt(ComputedSignal, attribute="read_at_s", egu="s", value=0.0, kind="normal")
    move_velocity = Cpt(BoundedSignal, value=0.0, egu="um/s", limits=(0.0, 1e6), kind="config")

    def __init__(
        self,
        prefix: str = "",
        *,
        velocity_limit_um_s: float = 223.7,
        watchdog_s: float | None = None,
        **kwargs: Any,
    ) -> None:
        for name, value in (("velocity_limit_um_s", velocity_limit_um_s), ("watchdog_s", watchdog_s)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value!r}: expected a positive, finite number")
        self.velocity_limit_um_s = float(velocity_limit_um_s)
        self.watchdog_s = watchdog_s
        self._read_at_s: float | None = None
        super().__init__(prefix, **kwargs)

    @property
    def _speed(self) -> Any:
        return self.move_velocity

    @property
    def readback_um(self) -> float:
        """One noisy readback of the motor's position."""
        self._read_at_s = now_s = self.clock.now_s()
        return self.motion.readback_um(now_s)

    @property
    def read_at_s(self) -> float:
        """When, on the clock, the position was last read."""
        return self.clock.now_s() if self._read_at_s is None else self._read_at_s

    @property
    def commanded_um_s(self) -> float:
        """Velocity that it is told to run at; 0 if it does not run."""
        return self.motion.commanded_um_s(self.clock.now_s())

    @property
    def actual_velocity_um_s(self) -> float:
        """Velocity of the motor now."""
        return self.motion.velocity_um_s(self.clock.now_s())

    @property
    def running(self) -> bool:
        """Whether a run is under way that has not been told to end."""
        return self.commanded_um_s != 0

    @property
    def is_watchdog_tripped(self) -> int:
        """1 if the last run ended because no command came in time, else 0."""
        return int(self.motion.tripped(self.clock.now_s()))

    def check_velocity(self, velocity_um_s: float) -> None:
        """Refuse a velocity that is not finite or above the limit.

        Raises
        ------
        LimitError
            Naming the velocity and the limit.
        """
        check_speed(self.name, velocity_um_s, self.velocity_limit_um_s)

    def run(self, velocity_um_s: float) -> None:
        """Run at a velocity from now on, or stop at 0.

        Raises
        ------
        LimitError
            If the velocity is too high or not finite.
        AxisBusyError
            If a move is under way.
        """
        self.check_velocity(velocity_um_s)
        if velocity_um_s == 0:
            self.brake()
            return
        if self.moving:
            raise AxisBusyError(
                f"{self.name} cannot run: it is moving to {self.setpoint.get()} um; stop it first"
            )
        self.motion.run(
            float(velocity_um_s),
            self.clock.now_s(),
            limits_um=self.limits,
            watchdog_s=math.inf if self.watchdog_s is None else self.watchdog_s,
        )

    def refresh(self) -> None:
        """Tell a run under way to go on, so that the watchdog does not end it. It starts none."""
        velocity = self.commanded_um_s
        if velocity:
            self.run(velocity)

    def brake(self) -> float:
        """End a run; return the seconds until the axis stands. A move is left alone."""
        return 0.0 if self.moving else self.motion.stop(self.clock.now_s())

    def set(
        self,
        new_position: float,
        *,
        timeout: float | None = None,
        moved_cb: Callable[..., None] | None = None,
        wait: bool = False,
    ) -> MoveStatus:
        """Start a move; the status is done when the axis has settled.

        A move under way is given up, and its status fails.

        Raises
        ------
        LimitError
            If the position lies beyond the limits.
        AxisBusyError
            If the axis runs.
        """
        self.check_value(new_position)
        if self.running:
            raise AxisBusyError(
                f"{self.name} cannot move to {new_position} um: it runs at {self.commanded_um_s} um/s; "
                "stop it first"
            )
        return super().set(new_position, timeout=timeout, moved_cb=moved_cb, wait=wait)

    def stop(self, *, success: bool = False) -> None:
        """Brake. The status of a move under way ends as `success` says."""
        if not self.moving:
            self.brake()
        super().stop(success=success)
