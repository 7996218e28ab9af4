"""Which commands light a set of LEDs: the list, or a pattern of the firmware that is exactly that set."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.devices.illuminate._link import LONGEST_COMMAND

__all__ = ["drawing"]

MARGIN_NA = 0.001
"""How near to the edge of a pattern an LED may be: positions are told to 0.0005, the firmware counts on."""

_AXES = {"t": (1, 1), "b": (1, -1), "l": (0, -1), "r": (0, 1)}


def drawing(
    numbers: Sequence[int], chosen: Sequence[int], na_xy: NDArray[np.float64] | None = None
) -> list[str]:
    """Return the commands that light these LEDs and no others, where the firmware clears before it draws.

    ``bf``, ``df`` and ``dpc`` are rings and halves of rings too, but go by an aperture that whoever was
    connected before may have changed; `an` and `ha` say theirs.

    Parameters
    ----------
    numbers : sequence of int, length n
        What the firmware calls the LEDs that there are.
    chosen : sequence of int
        Which of these n are to be lit, from 0.
    na_xy : ndarray, shape (n, 2), optional
        Where they are according to the firmware, which has no others. Without it they are listed.
    """
    if not chosen:
        return ["x"]
    lists = _lists([numbers[index] for index in chosen])
    if len(lists) == 1:
        return lists
    if na_xy is not None and (pattern := _pattern(chosen, na_xy)):
        return [pattern]
    first, *rest = lists
    return [first, "ac.0", *rest, "ac.1"]


def _pattern(chosen: Sequence[int], na_xy: NDArray[np.float64]) -> str | None:
    """Return the command for a pattern of the firmware, if its LEDs are exactly these."""
    if len(chosen) == len(na_xy):
        return "ff"
    inside = np.zeros(len(na_xy), bool)
    inside[list(chosen)] = True
    edges = _edges(inside, np.hypot(*na_xy.T))
    return _half_ring(inside, na_xy) if edges is None else f"an.{edges[0]}.{edges[1]}"


def _lists(numbers: Sequence[int]) -> list[str]:
    lines = ["l"]
    for number in numbers:
        if len(lines[-1]) + len(f".{number}") > LONGEST_COMMAND:
            lines.append("l")
        lines[-1] += f".{number}"
    return lines


def _half_ring(inside: NDArray[np.bool_], na_xy: NDArray[np.float64]) -> str | None:
    away = np.hypot(*na_xy.T)
    for side, (axis, sign) in _AXES.items():
        along = sign * na_xy[:, axis]
        if (along[inside] <= MARGIN_NA).any():
            continue
        # of those on the line it is not known on which side the firmware has them
        possible = along > -MARGIN_NA
        edges = _edges(inside[possible], away[possible])
        if edges is not None:
            return f"ha.{side}.{edges[0]}.{edges[1]}"
    return None


def _edges(inside: NDArray[np.bool_], away: NDArray[np.float64]) -> tuple[int, int] | None:
    """Return the hundredths of NA between which these LEDs are, and none of the others."""
    nearest, farthest = away[inside].min(), away[inside].max()
    others = away[~inside]
    if ((others > nearest - 2 * MARGIN_NA) & (others < farthest + 2 * MARGIN_NA)).any():
        return None
    below = max(others[others < nearest], default=-1.0)
    above = min(others[others > farthest], default=math.inf)
    low = 0 if nearest < MARGIN_NA else math.floor(100 * (nearest - MARGIN_NA))
    high = math.ceil(100 * (farthest + MARGIN_NA))
    if low < 100 * (below + MARGIN_NA) or high > 100 * (above - MARGIN_NA):
        return None
    return low, high
