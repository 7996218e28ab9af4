"""How a motorised axis moves: ramps, runs at a velocity, backlash, and a readback that is never exact.

A motion is a row of segments of constant acceleration that begin at given times. It is known as a whole when
it is commanded, up to where it ends by itself, so positions are exact at every time: no step of integration,
no thread. What was is kept for a while, so that a frame can be that of the middle of its exposure.
"""

import dataclasses
import math
from bisect import bisect_right
from collections.abc import Iterator
from operator import attrgetter
from typing import NamedTuple

import numpy as np

__all__ = ["AxisMechanics", "AxisMotion"]

_KEPT_SEGMENTS = 256
_TINY_UM = 1e-9
"""Rounding errors of positions."""


@dataclasses.dataclass(frozen=True)
class AxisMechanics:
    """What a motorised axis is like.

    Parameters
    ----------
    velocity_um_s : float
        Speed of a move; `math.inf` moves at once.
    settle_s : float
        Time after a move until it is reported done.
    backlash_um : float
        Lost motion on reversing: what the motor travels before the load follows.
    readback_noise_um : float
        Standard deviation of one readback.
    acceleration_um_s2 : float
        How fast the speed changes, in moves and in runs, up as down; `math.inf` changes it at once.
    latency_s : float
        Time between a command and its effect.
    """

    velocity_um_s: float = math.inf
    settle_s: float = 0.0
    backlash_um: float = 0.0
    readback_noise_um: float = 0.0
    acceleration_um_s2: float = math.inf
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("velocity_um_s", "acceleration_um_s2"):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value!r}")
        for name in ("settle_s", "backlash_um", "readback_noise_um", "latency_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be finite and not negative, got {value!r}")


@dataclasses.dataclass(frozen=True)
class _Segment:
    """A motion of constant acceleration, one way, from some time on."""

    start_s: float
    motor_um: float
    velocity_um_s: float
    acceleration_um_s2: float
    load_um: float

    def at(self, now_s: float) -> tuple[float, float]:
        """Return position and velocity of the motor."""
        if self.velocity_um_s == self.acceleration_um_s2 == 0:
            return self.motor_um, 0.0
        time_s = max(now_s - self.start_s, 0.0)
        gained = self.acceleration_um_s2 * time_s
        return self.motor_um + (self.velocity_um_s + gained / 2) * time_s, self.velocity_um_s + gained


class _Leg(NamedTuple):
    """What is planned of a segment; the last one, at rest, lasts for ever."""

    duration_s: float
    motor_um: float
    velocity_um_s: float = 0.0
    acceleration_um_s2: float = 0.0


class AxisMotion:
    """Where a motor and the load it drives are at a given time.

    Commands come in the order of their times. Positions may be asked for afterwards: those of the last few
    dozen commands are kept.

    Parameters
    ----------
    mechanics : AxisMechanics
    position_um : float
        Where the motor stands at first. The load is taken to have been driven there upwards.
    seed : int
        Of the readback's noise.
    """

    def __init__(self, mechanics: AxisMechanics, position_um: float, *, seed: int = 0) -> None:
        self.mechanics = mechanics
        self._rng = np.random.default_rng(seed)
        # these are replaced as a whole and never changed: another thread may be reading them
        self._segments = [_Segment(-math.inf, float(position_um), 0.0, 0.0, float(position_um))]
        self._run = (0.0, -math.inf)
        """Velocity last commanded, and when that ends by itself."""
        self._trips: list[tuple[float, bool]] = []
        """When the watchdog trips, and when a new run takes that back."""

    # Commands

    def start(self, target_um: float, now_s: float) -> float:
        """Start a move from wherever the motor is; return the seconds until it is done and settled.

        The mechanics of this moment hold for the whole move.
        """
        effect_s = self._command(now_s)
        way_s = self._follow(effect_s, self._way(effect_s, float(target_um), self.mechanics.velocity_um_s))
        return self.mechanics.latency_s + way_s + self.mechanics.settle_s

    def stop(self, now_s: float) -> float:
        """Brake, and stop where that ends; return the seconds until the motor stands."""
        effect_s = self._command(now_s)
        return self.mechanics.latency_s + self._follow(effect_s, self._braking(*self._motor(effect_s)))

    def run(
        self,
        velocity_um_s: float,
        now_s: float,
        *,
        limits_um: tuple[float, float] = (-math.inf, math.inf),
        watchdog_s: float = math.inf,
    ) -> None:
        """Start a motion that has no target, or change the velocity of the one under way.

        Parameters
        ----------
        velocity_um_s : float
            Its sign is the direction. At 0 the motor brakes.
        now_s : float
            When the command is given.
        limits_um : tuple of float
            It brakes in time to come to rest at one of them.
        watchdog_s : float
            It brakes by itself this long after the command took effect, unless another one has by then.
        """
        if velocity_um_s == 0:
            self.stop(now_s)
            return
        effect_s = self._command(now_s)
        limit_um = limits_um[1] if velocity_um_s > 0 else limits_um[0]
        end_s = effect_s + self._follow(effect_s, self._way(effect_s, limit_um, abs(velocity_um_s)))
        trips = [*self._trips, (effect_s, False)]
        trip_s = effect_s + watchdog_s
        if trip_s < end_s:
            self._follow(trip_s, self._braking(*self._motor(trip_s)))
            trips.append((trip_s, True))
            end_s = trip_s
        self._trips = trips[-_KEPT_SEGMENTS:]
        self._run = (velocity_um_s, end_s)

    def _command(self, now_s: float) -> float:
        """End whatever was commanded before; return when that takes effect."""
        effect_s = now_s + self.mechanics.latency_s
        self._run = (0.0, -math.inf)
        # a watchdog that would have tripped after that does not
        self._trips = [one for one in self._trips if one[0] <= effect_s]
        return effect_s

    # Plans

    def _way(self, effect_s: float, target_um: float, cruise_um_s: float) -> Iterator[_Leg]:
        """Plan the way to a target and to rest there; an infinite one is never reached."""
        motor, velocity = self._motor(effect_s)
        acceleration = self.mechanics.acceleration_um_s2
        if math.isinf(acceleration):
            way = target_um - motor
            # an axis of infinite velocity is there even though no time has passed
            if way and not math.isinf(cruise_um_s):
                yield _Leg(abs(way) / cruise_um_s, motor, math.copysign(cruise_um_s, way))
            yield _Leg(math.inf, target_um)
            return
        way = target_um - motor
        braking_um = velocity**2 / (2 * acceleration)
        if velocity * way < 0 or braking_um > abs(way) + _TINY_UM:
            *brake, rest = self._braking(motor, velocity)
            yield from brake
            motor, velocity, way = rest.motor_um, 0.0, target_um - rest.motor_um
        towards, away_um, speed = math.copysign(1.0, way), abs(way), abs(velocity)
        peak = cruise_um_s
        if not math.isinf(away_um):
            peak = min(peak, math.sqrt(speed**2 / 2 + acceleration * away_um))
        if speed > cruise_um_s:  # slow down first
            peak = cruise_um_s
        change = math.copysign(acceleration, peak - speed)
        change_um = (peak**2 - speed**2) / (2 * change)
        braking_um = peak**2 / (2 * acceleration)
        cruise_um = max(away_um - change_um - braking_um, 0.0)
        if peak != speed:
            yield _Leg((peak - speed) / change, motor, towards * speed, towards * change)
            motor += towards * change_um
        if cruise_um > 0 and peak > 0:  # a way shorter than numbers tell has no speed
            yield _Leg(cruise_um / peak, motor, towards * peak)
            motor += towards * cruise_um
        if peak > 0 and not math.isinf(away_um):
            yield _Leg(peak / acceleration, motor, towards * peak, -towards * acceleration)
        yield _Leg(math.inf, target_um)

    def _braking(self, motor_um: float, velocity_um_s: float) -> Iterator[_Leg]:
        """Plan to come to rest as soon as can be."""
        acceleration = self.mechanics.acceleration_um_s2
        if velocity_um_s and not math.isinf(acceleration):
            against = -math.copysign(acceleration, velocity_um_s)
            yield _Leg(abs(velocity_um_s) / acceleration, motor_um, velocity_um_s, against)
            motor_um -= velocity_um_s**2 / (2 * against)
        yield _Leg(math.inf, motor_um)

    def _follow(self, effect_s: float, legs: Iterator[_Leg]) -> float:
        """Follow a plan from some time on; return the seconds until the motor stands."""
        plan = list(legs)  # made from where the motor is going so far
        load = self.load_um(effect_s)
        segments = [one for one in self._segments if one.start_s < effect_s]
        start_s, duration_s = effect_s, 0.0
        for leg in plan:
            load = self._pushed(load, leg.motor_um)
            segments.append(_Segment(start_s, leg.motor_um, leg.velocity_um_s, leg.acceleration_um_s2, load))
            if leg.velocity_um_s == leg.acceleration_um_s2 == 0:
                break
            start_s, duration_s = start_s + leg.duration_s, duration_s + leg.duration_s
        self._segments = segments[-_KEPT_SEGMENTS:]
        return duration_s

    def _pushed(self, load_um: float, motor_um: float) -> float:
        # driven upwards the load stands on the motor, driven downwards it trails by the backlash
        return min(max(load_um, motor_um), motor_um + self.mechanics.backlash_um)

    # Readings

    def _segment(self, now_s: float) -> _Segment:
        segments = self._segments
        return segments[max(bisect_right(segments, now_s, key=attrgetter("start_s")) - 1, 0)]

    def _motor(self, now_s: float) -> tuple[float, float]:
        return self._segment(now_s).at(now_s)

    def motor_um(self, now_s: float) -> float:
        """Return the position of the motor, which is what its encoder counts."""
        return self._motor(now_s)[0]

    def velocity_um_s(self, now_s: float) -> float:
        """Return the velocity of the motor."""
        return self._motor(now_s)[1]

    def commanded_um_s(self, now_s: float) -> float:
        """Return the velocity of the run that is commanded; 0 if there is none, or it has ended by itself."""
        velocity, end_s = self._run
        return velocity if now_s < end_s else 0.0

    def tripped(self, now_s: float) -> bool:
        """Return whether the watchdog has ended the last run."""
        past = [tripped for at_s, tripped in self._trips if at_s <= now_s]
        return bool(past) and past[-1]

    def load_um(self, now_s: float) -> float:
        """Return the position of the load: it follows once the motor has taken up the backlash.

        Within one segment the motor goes one way, so the load is where it was, pushed along by either flank
        of the gap.
        """
        segment = self._segment(now_s)
        return self._pushed(segment.load_um, segment.at(now_s)[0])

    def readback_um(self, now_s: float) -> float:
        """Return one noisy readback of the motor's position."""
        noise = self.mechanics.readback_noise_um
        return self.motor_um(now_s) + (float(self._rng.normal(0.0, noise)) if noise else 0.0)
