"""Move an axis within bounds, from one side, and put it back."""

import asyncio
import contextlib
import dataclasses
import inspect
import math
from collections.abc import Iterable
from functools import partial
from typing import Any
from uuid import uuid4

from bluesky import plan_stubs as bps
from bluesky.protocols import Checkable, Movable, Status, Stoppable
from bluesky.utils import FailedStatus, MsgGenerator, maybe_await

from bluesky_autofocus.plans._protocols import FocusAxis

__all__ = ["Approach", "Travel", "check_reachable", "interval_um", "refused_by", "settled"]

STOPPING_S = 10.0
"""Longest wait for an axis that was told to stop; one that never says so is sent back all the same."""


def interval_um(name: str, value: Any) -> tuple[float, float]:
    """Return ``(low, high)`` as floats.

    Raises
    ------
    ValueError
        Unless it is two finite, ascending numbers.
    """
    try:
        low, high = (float(bound) for bound in value)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"{name} must be two finite positions in um, the lower first; got {value!r}")
    return low, high


@dataclasses.dataclass(frozen=True)
class Approach:
    """From which side a position is approached, so that backlash does not displace it.

    Parameters
    ----------
    direction : int
        +1: upwards, from below; -1: downwards.
    overshoot_um : float
        How far to go past before turning round; at least the backlash. 0 for an axis without.
    settle_s : float
        How long to wait afterwards.

    Raises
    ------
    ValueError
        If one of them makes no sense.
    """

    direction: int = 1
    overshoot_um: float = 0.0
    settle_s: float = 0.0

    def __post_init__(self) -> None:
        if self.direction not in (1, -1):
            raise ValueError(f"direction must be +1 or -1, got {self.direction!r}")
        for name in ("overshoot_um", "settle_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be finite and not negative, got {value!r}")


class Travel:
    """The moves of one focusing operation: all within its travel range, all approached from one side.

    Parameters
    ----------
    axis : FocusAxis
        What is moved.
    travel_um : tuple of float
        Lowest and highest position that any move may go to.
    start_um : float
        Where the axis is.
    approach : Approach
        How positions are approached.

    Attributes
    ----------
    moved : bool
        Whether any move was begun.
    """

    def __init__(
        self, axis: FocusAxis, travel_um: tuple[float, float], start_um: float, approach: Approach
    ) -> None:
        self.axis = axis
        self.low_um, self.high_um = travel_um
        self.approach = approach
        self.start_um = start_um
        self._at_um = start_um
        self._from_um = start_um
        self._under_way: Status | None = None
        self.moved = False

    def reached(self, positions_um: Iterable[float]) -> list[float]:
        """Return these positions and those at which their approach turns round."""
        positions = list(positions_um)
        return positions + [self._turning_point_um(position) for position in positions]

    def to(self, target_um: float) -> MsgGenerator[None]:
        """Move to a position, from the declared side, and settle.

        Raises
        ------
        ValueError
            If it lies outside the travel range; nothing moves then.
        """
        if not self.low_um <= target_um <= self.high_um:
            raise ValueError(
                f"{self.axis.name}: {target_um} um is outside the travel range "
                f"{self.low_um} .. {self.high_um} um of this operation"
            )
        turn_um, direction = self._turning_point_um(target_um), self.approach.direction
        # all the way since it last turned round takes up lost motion
        goes_on = (target_um - self._at_um) * direction >= 0
        comes_from_far_enough = (turn_um - self._from_um) * direction >= 0
        if not (goes_on and comes_from_far_enough):
            self._from_um = turn_um
            if self.approach.overshoot_um:
                yield from self._move(turn_um)
        yield from self._move(target_um)
        self._at_um = target_um
        if self.approach.settle_s:
            yield from bps.sleep(self.approach.settle_s)

    def _turning_point_um(self, target_um: float) -> float:
        # close to the end of the range there is less room than the overshoot asks for
        turn_um = target_um - self.approach.direction * self.approach.overshoot_um
        return min(max(turn_um, self.low_um), self.high_um)

    def _move(self, position_um: float) -> MsgGenerator[None]:
        group = str(uuid4())
        self.moved = True
        self._under_way = yield from bps.abs_set(self.axis, position_um, group=group)
        yield from bps.wait(group=group)
        self._under_way = None

    def ran(self) -> None:
        """Take note that the axis was moved by other means."""
        self.moved = True
        self._at_um = self._from_um = math.nan

    def put_back(self) -> MsgGenerator[None]:
        """Stop whatever motion is under way and return to where the operation started."""
        with contextlib.suppress(FailedStatus):  # the move that is stopped may say that it failed
            yield from bps.wait_for([self._stop])
        self.ran()  # stopped somewhere: the side it was approached from is unknown
        yield from self.to(self.start_um)

    def undo(self) -> MsgGenerator[None]:
        """Put back, if anything has moved."""
        if self.moved:
            yield from self.put_back()

    async def _stop(self) -> None:
        """Stop the axis and wait until it says so.

        A move that fails when it is stopped would have the RunEngine throw its failure into the plan, and
        so interrupt the putting back. The message ``stop`` always fails the move, hence this coroutine.
        """
        if isinstance(self.axis, Stoppable):
            await maybe_await(self.axis.stop(success=True))
        await settled(self._under_way)


async def settled(status: Status | None) -> None:
    """Wait until a status is done, well or not, but no longer than `STOPPING_S`."""
    if status is None:
        return
    over, loop = asyncio.Event(), asyncio.get_running_loop()

    def tell(_: Status) -> None:
        loop.call_soon_threadsafe(over.set)

    # called after the RunEngine's own callback, so a failure has reached the plan by then
    status.add_callback(tell)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(over.wait(), STOPPING_S)


def check_reachable(device: Movable[Any], values: Iterable[Any]) -> MsgGenerator[None]:
    """Ask a device whether it may be set to all of these values, an axis to positions; nothing moves.

    Raises
    ------
    LimitError or another
        What the axis raises for a position beyond its limits.
    """
    refusal = yield from refused_by(device, values)
    if refusal is not None:
        raise refusal


def refused_by(device: Movable[Any], values: Iterable[Any]) -> MsgGenerator[Exception | None]:
    """Return what a device raises for the first of these values that it cannot be set to; nothing moves."""
    if not isinstance(device, Checkable):
        return None
    for value in values:
        if inspect.iscoroutinefunction(device.check_value):
            tasks = yield from bps.wait_for([partial(device.check_value, value)])
            errors = [task.exception() for task in tasks or ()]
            if errors and isinstance(errors[0], Exception):
                return errors[0]
        else:
            try:
                device.check_value(value)
            except Exception as error:
                return error
    return None
