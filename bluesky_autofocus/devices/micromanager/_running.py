"""A focus stage of a Micro-Manager core that runs at a velocity, by the property of its speed."""

import dataclasses
import math
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from ophyd import Component as Cpt
from ophyd.status import MoveStatus, Status

from bluesky_autofocus.devices._axis import AxisBusyError
from bluesky_autofocus.devices._axis import _Velocity as _VelocityOfAxis
from bluesky_autofocus.devices._limits import check_speed
from bluesky_autofocus.devices._signals import ComputedSignal
from bluesky_autofocus.devices.micromanager._axis import STANDING_S, STOPPING_S, ZStage
from bluesky_autofocus.devices.micromanager._calls import (
    POLL_S,
    MicroManagerTimeoutError,
    in_background,
    wait_until_idle,
)
from bluesky_autofocus.devices.micromanager._signals import PropertySignal

__all__ = ["RunningZStage"]

CREEP = 0.1
"""Of its speed: a stage that gets on more slowly stands. Where an encoder holds it, its readback trembles."""


class _Velocity(_VelocityOfAxis):
    """The velocity that the stage is told to run at; setting it runs the stage, or stops it."""

    def set(self, value: float, **kwargs: Any) -> Status:
        """Run at a velocity: done when the stage is told. At 0 stop: done when it stands after a run."""
        axis: Any = self.parent
        return in_background(Status(self), axis.ordered(float(value)), f"{self.name}-set")


@dataclasses.dataclass(eq=False)
class _Run:
    """A run under way."""

    velocity_um_s: float
    seen_um: float = math.nan
    seen_s: float = math.inf
    """Where the stage was last seen to get on, and when, on `time.monotonic`; at first when it was told."""

    @property
    def is_to_be_seen(self) -> bool:
        """Whether it was told, or seen to get on, long enough ago to tell whether it still does."""
        return time.monotonic() - self.seen_s > STANDING_S

    def stands(self, position_um: float) -> bool:
        """Return whether the stage, which is there now, has not got on since it was last seen."""
        now_s = time.monotonic()
        if abs(position_um - self.seen_um) < CREEP * abs(self.velocity_um_s) * (now_s - self.seen_s):
            return True
        self.seen_um, self.seen_s = position_um, now_s
        return False


class RunningZStage(ZStage):
    """A stage that focuses, and also runs: for sweeps in flight.

    Micro-Manager has no velocity mode. A run is a move to the limit on its way at a set speed, which is the
    usual one again when it has ended; so it ends within the limits. It is told as `SimulatedRunningAxis` is,
    by ``run`` or the child ``velocity``, and reads the same, with the time of its position on
    `time.monotonic` as ``NAME_time_s``. Nothing watches over it: who runs it stops it.

    Some adapters say too early that a stage is no longer busy, or always. So a run that nobody stops is over
    when the position does not get on either, and the stage is told to stop even then.

    Parameters
    ----------
    speed_property : str
        Of the stage, for the speed of its moves. It must be an adapter that returns from a move at once.
    um_s_per_unit : float
        What a unit of that is: 1000 if it is in mm/s.
    velocity_limit_um_s : float, optional
        Highest speed of a run; by default what the property allows.
    **kwargs
        As of `ZStage`.

    Raises
    ------
    MicroManagerError
        If the stage has no such property, and as `ZStage`.
    ValueError
        If neither the property nor anyone says how fast it may run, or a number makes no sense.
    """

    velocity = Cpt(_Velocity, attribute="commanded_um_s", egu="um/s", value=0.0, kind="normal")
    time_s = Cpt(ComputedSignal, attribute="read_at_s", egu="s", value=0.0, kind="normal")

    def __init__(
        self,
        prefix: str = "",
        *,
        core: Any,
        speed_property: str,
        um_s_per_unit: float = 1.0,
        velocity_limit_um_s: float | None = None,
        **kwargs: Any,
    ) -> None:
        self.read_at_s = time.monotonic()
        self._run: _Run | None = None
        self._last_run: _Run | None = None  # that it may not stand after
        self._says_busy = False  # ever
        self._run_lock = threading.Lock()
        self._usual_speed: Any = None
        super().__init__(prefix, core=core, **kwargs)
        self._speed = PropertySignal(
            core=core,
            label=self.label,
            property_name=speed_property,
            name=f"{self.name}_speed",
            answer_s=self._link.answer_s,
        )
        if velocity_limit_um_s is None:
            velocity_limit_um_s = um_s_per_unit * self._speed.limits[1]
        if not (um_s_per_unit > 0 and velocity_limit_um_s > 0):
            raise ValueError(
                f"{self.name}: um_s_per_unit is {um_s_per_unit!r}, velocity_limit_um_s is "
                f"{velocity_limit_um_s!r}: expected positive numbers; property {speed_property!r} of device "
                f"{self.label!r} allows {self._speed.limits}"
            )
        self.um_s_per_unit, self.velocity_limit_um_s = um_s_per_unit, float(velocity_limit_um_s)

    def _asked_um(self) -> float:
        before_s = time.monotonic()
        position_um = super()._asked_um()
        self.read_at_s = (before_s + time.monotonic()) / 2
        return position_um

    # Runs

    @property
    def commanded_um_s(self) -> float:
        """Velocity that it is told to run at; 0 if it does not run, or has reached a limit."""
        run = self._run
        if run is None:
            return 0.0
        # not as a reading of the axis, which has a time of its own
        if run.is_to_be_seen and not self._link.ask("deviceBusy") and run.stands(super()._asked_um()):
            self._brake(run)
            return 0.0
        return run.velocity_um_s

    def check_velocity(self, velocity_um_s: float) -> None:
        """Refuse a velocity that is not finite or above the limit.

        Raises
        ------
        LimitError
            Naming the velocity and the limit.
        """
        check_speed(self.name, velocity_um_s, self.velocity_limit_um_s)

    def run(self, velocity_um_s: float) -> None:
        """Run at a velocity from now on, or stop at 0 and wait until it stands. A move is left alone by 0.

        Raises
        ------
        LimitError
            If the velocity is too high or not finite.
        AxisBusyError
            If a move is under way.
        MicroManagerError
            If the stage fails, or does not stop.
        """
        self.ordered(velocity_um_s)()

    def ordered(self, velocity_um_s: float) -> Callable[[], None]:
        """Return what runs it, or stops it; from now on a stop will be seen by that. Errors as of `run`."""
        self.check_velocity(velocity_um_s)
        if velocity_um_s == 0:
            if self.moving:
                return lambda: None
            self._end_run()
            return self._stand
        if self.moving:
            raise AxisBusyError(
                f"{self.name} cannot run: it is moving to {self.setpoint.get()} um; stop it first"
            )
        if velocity_um_s == self.commanded_um_s:
            return lambda: None  # told the same again
        with self._run_lock:
            self._run = self._last_run = run = _Run(velocity_um_s)
        return partial(self._begin, run)

    def _begin(self, run: _Run) -> None:
        what = f"a run at {run.velocity_um_s} um/s"

        def tell(core: Any) -> None:
            if self._run is not run:
                return  # it was stopped meanwhile
            if self._usual_speed is None:
                self._usual_speed = self._speed.asked_of(core)
            run.seen_um = float(core.getPosition(self.label))
            self._speed.told(core, speed)
            core.setPosition(self.label, self.limits[run.velocity_um_s > 0])
            run.seen_s = time.monotonic()
            self._says_busy = self._says_busy or bool(core.deviceBusy(self.label))

        try:
            speed = self._speed.checked(abs(run.velocity_um_s) / self.um_s_per_unit)
            self._link.run(what, tell)
        except Exception:
            self.stop()
            raise

    def _end_run(self, run: _Run | None = None) -> None:
        """Have the stage stop, whatever is known of it; for a run, unless another one has begun."""
        with self._run_lock:
            if run is not None and self._run is not run:
                return
            self._run = None
        self._halt()

    def _brake(self, run: _Run | None = None) -> None:
        """End a run and wait for nothing."""
        self._end_run(run)
        in_background(Status(self), self._stand, f"{self.name}-stop")

    def _stand(self) -> None:
        """Wait until the stage stands after a run, and give it its usual speed."""
        began_s = time.monotonic()
        wait_until_idle(self._link, "a run", lambda: began_s + STOPPING_S)
        last = self._last_run
        if last is not None and not self._says_busy:
            self._wait_until_still(last, began_s)
        self._link.run("its usual speed", self._slow_down)

    def _wait_until_still(self, last: _Run, began_s: float) -> None:
        """Wait until the position does not get on, after a run with an adapter that never says busy."""
        seen = _Run(last.velocity_um_s, super()._asked_um(), time.monotonic())
        while self._last_run is last and not (seen.is_to_be_seen and seen.stands(super()._asked_um())):
            if (took_s := time.monotonic() - began_s) > STOPPING_S:
                raise MicroManagerTimeoutError(
                    f"device {self.label!r}: still moves after a run, and after {took_s:.2g} s"
                )
            time.sleep(POLL_S)

    def _slow_down(self, core: Any) -> None:
        if self._run is not None:
            return
        if self._usual_speed is not None:
            self._speed.told(core, self._usual_speed)
        self._usual_speed = self._last_run = None

    # Moves

    def move(self, position: float, *args: Any, **kwargs: Any) -> MoveStatus:
        """Start a move; as of `ZStage`, but not while it runs.

        Raises
        ------
        LimitError
            If the position lies beyond the limits.
        AxisBusyError
            If it runs.
        """
        self.check_value(position)
        if velocity_um_s := self.commanded_um_s:
            raise AxisBusyError(
                f"{self.name} cannot move to {position} um: it runs at {velocity_um_s} um/s; stop it first"
            )
        return super().move(position, *args, **kwargs)

    def _make_way(self) -> None:
        if self._last_run is not None:
            self._stand()  # it may still be braking

    def stop(self, *, success: bool = False) -> None:
        """Stop the stage. The status of a move under way ends as `success` says, when the stage stands."""
        if self.moving:
            super().stop(success=success)
        else:
            self._brake()
