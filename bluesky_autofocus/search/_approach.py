"""How fast an axis is to run towards a focus that is so far away."""

import dataclasses
import math

__all__ = ["ROOM", "ApproachLaw"]

TOTALLY_BLURRED = 3.5
"""Index from which on frames are totally blurred: how far away focus is cannot be told any more."""
_MOST_OF_THE_WAY = 0.7
ROOM = 0.9
"""Part of the room that may be run through: the rest is for braking."""


@dataclasses.dataclass(frozen=True)
class ApproachLaw:
    """Algorithm 1 of HH-Net (Ge et al.), for a distance index that need not be whole, and for slow cameras.

    The index is the defocus over the width of a focus class: 4 in the article is all that lies beyond 3.5
    here. The velocity is the default one there, else `gain` times the default times the index, towards the
    focus, and nothing within the class that is in focus. But never more than takes the axis most of the way
    to focus, or to the end of its range, before it can be told otherwise.

    Parameters
    ----------
    default_velocity_um_s : float
        At which the axis may run without danger.
    width_um : float
        Of a focus class.
    gain : float
        Of the velocity, 0.2 in the article.
    stop_index : float
        Up to which the axis is to stop; 0.5 is the border of the class in focus.
    reaction_s : float
        Longest time from when a frame is taken to when the command that follows from the next one can take
        effect. Nothing is known of where the axis is by then but that it ran.

    Raises
    ------
    ValueError
        If a number makes no sense.
    """

    default_velocity_um_s: float
    width_um: float
    gain: float = 0.2
    stop_index: float = 0.5
    reaction_s: float = 0.2

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{field.name} must be positive and finite, got {value!r}")
        if self.gain > 1:
            raise ValueError(
                f"gain must be at most 1, got {self.gain!r}: it would be faster near focus than far"
            )
        if self.stop_index >= TOTALLY_BLURRED:
            raise ValueError(f"stop_index must be below {TOTALLY_BLURRED}, got {self.stop_index!r}")

    def is_there(self, defocus_um: float) -> bool:
        """Whether the axis is to stop so far from focus."""
        return abs(defocus_um) <= self.stop_index * self.width_um

    def velocity_um_s(
        self,
        defocus_um: float,
        below_um: float,
        above_um: float,
        reaction_s: float | None = None,
        slowest_s: float = 0.0,
    ) -> float:
        """Return the velocity of the image plane, upwards positive.

        Parameters
        ----------
        defocus_um : float
            Image plane minus focus, now; infinite where only its sign is known.
        below_um, above_um : float
            How far the plane may go down and up.
        reaction_s : float, optional
            As it was seen to be.
        slowest_s : float
            Longest time that the axis must stay in its range for without being told anything.

        Returns
        -------
        float
            0 where it is near enough, or has nowhere to go, or nothing is known.
        """
        if self.is_there(defocus_um) or any(map(math.isnan, (defocus_um, below_um, above_um))):
            return 0.0
        reaction_s = reaction_s or self.reaction_s
        slowest_s = max(self.reaction_s, reaction_s, slowest_s)
        index = abs(defocus_um) / self.width_um
        share = 1.0 if index > TOTALLY_BLURRED else min(1.0, self.gain * index)
        # where only the side is known it may begin right behind that border
        way_um = _MOST_OF_THE_WAY * self.width_um * (TOTALLY_BLURRED if math.isinf(index) else index)
        room_um = max(above_um if defocus_um < 0 else below_um, 0.0)
        speed = min(share * self.default_velocity_um_s, way_um / reaction_s, ROOM * room_um / slowest_s)
        return -math.copysign(speed, defocus_um)
