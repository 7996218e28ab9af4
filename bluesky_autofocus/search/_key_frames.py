"""Which planes a key-frame scan exposes, and what it concludes from what is said of them together."""

import dataclasses
import math
from collections.abc import Generator, Sequence
from typing import TypeAlias

from bluesky_autofocus.records import Reason
from bluesky_autofocus.search._samples import Conclusion

__all__ = ["KeyFrameSearch", "Plane", "Sighting", "key_frame_search", "spacing_of"]

_SAME = 0.1
"""Part of the spacing within which two planes are the same one."""


@dataclasses.dataclass(frozen=True)
class Plane:
    """A plane that is to be exposed.

    Parameters
    ----------
    position_um : float
        Where.
    last : bool
        Whether it completes the scan: then all its planes are to be judged together.
    """

    position_um: float
    last: bool


@dataclasses.dataclass(frozen=True)
class Sighting:
    """What was made of a plane and those before it.

    Parameters
    ----------
    reason : Reason
        ``incomplete`` before the scan is, ``ok`` if the focus is known.
    focus_um, sigma_um : float
        Position of focus. Where the reason is ``edge`` it only tells on which side of the scan it is.
    """

    reason: Reason
    focus_um: float = math.nan
    sigma_um: float = math.nan


KeyFrameSearch: TypeAlias = Generator[Plane, Sighting, Conclusion]
"""Yields planes, is sent a `Sighting` for each, and returns a `Conclusion`."""


def spacing_of(name: str, offsets_um: Sequence[float]) -> float:
    """Return the spacing of the planes of a scan.

    Raises
    ------
    ValueError
        Unless they are an odd number, three at least, evenly spaced, ascending, with 0 among them.
    """
    offsets = [float(one) for one in offsets_um]
    steps = [after - before for before, after in zip(offsets[:-1], offsets[1:], strict=True)]
    if len(offsets) < 3 or len(offsets) % 2 == 0:
        raise ValueError(f"{name} must be an odd number of offsets, three at least, got {offsets}")
    if not all(map(math.isfinite, offsets)) or min(steps) <= 0:
        raise ValueError(f"{name} must be finite and ascending, got {offsets}")
    spacing = (offsets[-1] - offsets[0]) / len(steps)
    if max(abs(step - spacing) for step in steps) > 0.01 * spacing:
        raise ValueError(f"{name} must be evenly spaced, got {offsets}")
    if min(map(abs, offsets)) > 1e-6 * spacing:
        raise ValueError(f"{name} must contain 0, the plane where the axis is, got {offsets}")
    return spacing


def key_frame_search(
    planes_um: Sequence[float],
    *,
    exposed_um: Sequence[float] = (),
    within_um: tuple[float, float] = (-math.inf, math.inf),
    exposures: int,
) -> KeyFrameSearch:
    """Expose the planes of a scan, and walk on where the focus lies beyond its edge.

    Parameters
    ----------
    planes_um : sequence of float
        Positions, evenly spaced.
    exposed_um : sequence of float
        Positions that have been exposed already: not again.
    within_um : tuple of float
        No plane is exposed outside.
    exposures : int
        How many there may be.
    """
    spacing = (planes_um[-1] - planes_um[0]) / (len(planes_um) - 1)
    wanted = [one for one in planes_um if all(abs(one - known) > _SAME * spacing for known in exposed_um)]
    if not wanted:  # the last one again: there has to be a frame by which the scan is judged
        wanted = [planes_um[-1]]
    if len(wanted) > exposures:
        return Conclusion(Reason.NOT_CONVERGED)
    for position in wanted[:-1]:
        sighting = yield Plane(position, last=False)
        if sighting.reason not in (Reason.INCOMPLETE, Reason.OK, Reason.EDGE):
            return Conclusion(sighting.reason)
    sighting = yield Plane(wanted[-1], last=True)
    left, low, high = exposures - len(wanted), min(planes_um), max(planes_um)
    gone = 0
    while sighting.reason is Reason.EDGE:
        # once it walks, the newest plane is where it is asked on which side the focus is
        middle = (low + high) / 2 if not gone else high if gone > 0 else low
        side = 1 if sighting.focus_um > middle else -1
        if gone and side != gone:
            return Conclusion(Reason.UNCERTAIN)  # once above, once below: it means neither
        if left < 1:
            return Conclusion(Reason.EDGE)
        following = high + spacing if side > 0 else low - spacing
        while any(abs(following - known) <= _SAME * spacing for known in exposed_um):
            following += side * spacing
        if not within_um[0] <= following <= within_um[1]:
            return Conclusion(Reason.EDGE)
        low, high = (low, following) if side > 0 else (following, high)
        gone = side
        left -= 1
        sighting = yield Plane(following, last=True)
    if sighting.reason is Reason.OK:
        return Conclusion(Reason.FOUND, sighting.focus_um, sighting.sigma_um)
    return Conclusion(sighting.reason)
