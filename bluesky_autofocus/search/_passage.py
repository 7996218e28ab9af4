"""One way along an axis that runs while frames are taken, as long as there is room for another frame."""

import dataclasses
import math

from bluesky_autofocus.search._approach import ROOM

__all__ = ["Passage"]

_FRAMES_LEFT = 2
"""There must be room for so many more frames: for one, and to come to rest."""


@dataclasses.dataclass
class Passage:
    """A run at constant velocity towards an end that it is not to pass.

    Nobody knows beforehand how long a frame and its answer take, so it goes by the longest way that the axis
    has gone from one to the next.

    Parameters
    ----------
    velocity_um_s : float
        Its sign is the direction.
    end_um : float
        Position not to be passed.
    reaction_s : float
        Longest time from frame to frame, until it is seen.

    Raises
    ------
    ValueError
        If a number makes no sense.
    """

    velocity_um_s: float
    end_um: float
    reaction_s: float = 0.2
    _step_um: float = dataclasses.field(default=0.0, init=False, repr=False)
    _at_um: float = dataclasses.field(default=math.nan, init=False, repr=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.velocity_um_s) and self.velocity_um_s != 0):
            raise ValueError(f"velocity_um_s must be finite and not zero, got {self.velocity_um_s!r}")
        if not math.isfinite(self.end_um):
            raise ValueError(f"end_um must be finite, got {self.end_um!r}")
        if not (math.isfinite(self.reaction_s) and self.reaction_s > 0):
            raise ValueError(f"reaction_s must be positive and finite, got {self.reaction_s!r}")

    def room_um(self, at_um: float) -> float:
        """Return how far the end is."""
        return (self.end_um - at_um) * math.copysign(1.0, self.velocity_um_s)

    def left_s(self, at_um: float) -> float:
        """Return for how long it may run on from there without being told anything."""
        return max(ROOM * self.room_um(at_um) / abs(self.velocity_um_s), 0.0)

    @property
    def longest_s(self) -> float:
        """Longest time from frame to frame, as far as it was seen; `reaction_s` before."""
        return self._step_um / abs(self.velocity_um_s) or self.reaction_s

    def interrupted(self) -> None:
        """Take in that it was stopped, and is not where it would be."""
        self._at_um = math.nan

    def goes_on(self, at_um: float) -> bool:
        """Take in where it is between two frames, and say whether there is room for the next one."""
        gone_um = abs(at_um - self._at_um)
        if gone_um > self._step_um:  # not if it is the first
            self._step_um = gone_um
        self._at_um = at_um
        return self.room_um(at_um) >= _FRAMES_LEFT * self.longest_s * abs(self.velocity_um_s)
