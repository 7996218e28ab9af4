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
from ophyd.status import MoveStatus
from ophyd.utils import LimitError

from bluesky_autofocus.clock import Clock, VirtualClock
from bluesky_autofocus.devices._signals import BoundedSignal, ComputedSignal
from bluesky_autofocus.simulation.motion import AxisMechanics, AxisMotion

__all__ = ["SimulatedAxis"]


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
        self._cancel: Callable[[], None] | None = None
        self._move_number = 0
        # The hinted readback carries the axis' own name, as with EpicsMotor.
        self.readback.name = self.name
        self.setpoint.put(float(position_um))
        self.velocity.put(mechanics.velocity_um_s if math.isfinite(mechanics.velocity_um_s) else 0.0)
        self.velocity.subscribe(self._velocity_changed, run=False)

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

    def _velocity_changed(self, value: float, **kwargs: Any) -> None:
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
        return self.motion.load_um(self.clock.now_s())

    def check_value(self, value: float, **kwargs: Any) -> None:
        """Refuse a position that is not finite or beyond the limits.

        Raises
        ------
        LimitError
            Naming the value and the limits.
        """
        low, high = self._limits
        if not math.isfinite(value) or not low <= value <= high:
            raise LimitError(f"{self.name}: {value!r} um is not within the limits {low} .. {high} um")

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
            # not super().stop(): that is Device's, which never completes the status
            PositionerBase.stop(self, success=success)

    def _arrived(self, move_number: int) -> None:
        with self._lock:
            if not self._moving or move_number != self._move_number:
                return  # given up while the clock's thread was about to report it
            self._cancel, self._moving = None, False
        self._report_position()
        self._done_moving(success=True)

    def _report_position(self) -> None:
        self._set_position(self.motion.readback_um(self.clock.now_s()))
