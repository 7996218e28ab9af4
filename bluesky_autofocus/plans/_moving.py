"""Move an axis within bounds, from one side, and put it back."""

import dataclasses
import inspect
import math
from collections.abc import Iterable
from functools import partial
from typing import Any

from bluesky import plan_stubs as bps
from bluesky.protocols import Checkable, Stoppable
from bluesky.utils import MsgGenerator

from bluesky_autofocus.plans._protocols import FocusAxis

__all__ = ["Approach", "Travel", "check_reachable"]


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
    """

    def __init__(
        self, axis: FocusAxis, travel_um: tuple[float, float], start_um: float, approach: Approach
    ) -> None:
        self.axis = axis
        self.low_um, self.high_um = travel_um
        self.approach = approach
        self.start_um = start_um
        self._at_um = start_um

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
        turn_um = self._turning_point_um(target_um)
        comes_from_the_declared_side = (turn_um - self._at_um) * self.approach.direction >= 0
        if self.approach.overshoot_um and not comes_from_the_declared_side:
            yield from bps.mv(self.axis, turn_um)
        yield from bps.mv(self.axis, target_um)
        self._at_um = target_um
        if self.approach.settle_s:
            yield from bps.sleep(self.approach.settle_s)

    def _turning_point_um(self, target_um: float) -> float:
        # close to the end of the range there is less room than the overshoot asks for
        turn_um = target_um - self.approach.direction * self.approach.overshoot_um
        return min(max(turn_um, self.low_um), self.high_um)

    def put_back(self) -> MsgGenerator[None]:
        """Stop whatever motion is under way and return to where the operation started."""
        if isinstance(self.axis, Stoppable):
            yield from bps.stop(self.axis)
        self._at_um = math.nan  # stopped somewhere: the side it was approached from is unknown
        yield from self.to(self.start_um)


def check_reachable(axis: FocusAxis, positions_um: Iterable[float]) -> MsgGenerator[None]:
    """Ask an axis whether it may go to all of these positions; nothing moves.

    Raises
    ------
    LimitError or another
        What the axis raises for a position beyond its limits.
    """
    if not isinstance(axis, Checkable):
        return
    for position in positions_um:
        if inspect.iscoroutinefunction(axis.check_value):
            tasks = yield from bps.wait_for([partial(axis.check_value, position)])
            for task in tasks or ():
                task.result()
        else:
            axis.check_value(position)
