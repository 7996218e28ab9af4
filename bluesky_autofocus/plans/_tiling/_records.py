"""What is recorded of tiles: which one a frame belongs to, what focusing there came to, how it ended."""

import dataclasses
import math
from typing import Any

from bluesky_autofocus.plans._exposing import _Record
from bluesky_autofocus.plans._tiling._forecast import Foreseen, Source
from bluesky_autofocus.plans._tiling._tiles import Tile
from bluesky_autofocus.records import Verdict

__all__ = ["SKIPPED", "Aim", "RecordedFocusing", "RecordedFrame", "RecordedTile", "Visit", "Visited"]


@dataclasses.dataclass(frozen=True)
class Visit:
    """Which tile is visited, and at which time point of a time-lapse."""

    tile: Tile
    time_point: int = 0


@dataclasses.dataclass(frozen=True)
class Aim:
    """Where a tile is exposed, and why there.

    Parameters
    ----------
    position_um, sigma_um : float
        Where focus is taken to be.
    source : Source
        What that rests on.
    reason : str
        Of the verdict, where focus was looked for; why a frame is of no use, where it is not.
    marked : bool
        Whether nobody vouches for its focus.
    """

    position_um: float
    sigma_um: float
    source: Source
    reason: str = ""
    marked: bool = False

    @classmethod
    def at(cls, foreseen: Foreseen, *, reason: str = "", marked: bool = False) -> "Aim":
        """Return the aim at where focus is expected."""
        return cls(foreseen.position_um, foreseen.sigma_um, foreseen.source, reason, marked)


@dataclasses.dataclass(frozen=True)
class Visited:
    """How a tile scan or a time-lapse went.

    Parameters
    ----------
    tiles : int
        How many visits there were, at all time points together.
    marked : int
        How many of them nobody vouches to have been in focus.
    skipped : int
        How many of those were not exposed at all.
    frames : int
        How many were taken of the others, that count.
    focusings : int
        How often focus was looked for.
    exposures : int
        How many were spent beside those frames: on focusing, and on frames that were taken again.
    """

    tiles: int = 0
    marked: int = 0
    skipped: int = 0
    frames: int = 0
    focusings: int = 0
    exposures: int = 0

    def plus(self, **more: int) -> "Visited":
        """Return it with so many more."""
        return dataclasses.replace(self, **{key: getattr(self, key) + number for key, number in more.items()})


class _Said(_Record):
    """Something said of a tile, as if a device had read it."""

    def __init__(self, visit: Visit, **fields: Any) -> None:
        super().__init__("tile")
        tile = visit.tile
        self._fields = {
            "index": tile.index,
            "row": tile.row,
            "column": tile.column,
            "time_point": visit.time_point,
            **fields,
        }

    def fields(self) -> dict[str, Any]:
        return self._fields


def _said_of(aim: Aim) -> dict[str, Any]:
    return {
        "source": str(aim.source),
        "focus_um": float(aim.position_um),
        "sigma_um": float(aim.sigma_um),
        "reason": aim.reason,
        "marked": aim.marked,
    }


class RecordedFrame(_Said):
    """Which exposure of which tile a frame is."""

    def __init__(self, visit: Visit, aim: Aim, *, channel: int, offset_um: float, attempt: int) -> None:
        super().__init__(visit, channel=channel, offset_um=offset_um, attempt=attempt, **_said_of(aim))


class RecordedFocusing(_Said):
    """That focus was looked for at a tile: why, and what came of it."""

    def __init__(self, visit: Visit, verdict: Verdict, *, why: str, drift_um: float, time_s: float) -> None:
        super().__init__(
            visit,
            x_um=visit.tile.x_um,
            y_um=visit.tile.y_um,
            why=why,
            method=verdict.method,
            found=verdict.found,
            reason=str(verdict.reason),
            focus_um=float(verdict.position_um),
            sigma_um=float(verdict.sigma_um),
            drift_um=float(drift_um),
            exposures=verdict.exposures,
            time_s=float(time_s),
        )


class RecordedTile(_Said):
    """That a tile is complete, and how it was exposed."""

    def __init__(
        self,
        visit: Visit,
        aim: Aim,
        *,
        frames: int,
        attempt: int,
        blurred: bool,
        exposures: int,
        time_s: float,
    ) -> None:
        super().__init__(
            visit,
            **_said_of(aim),
            frames=frames,
            attempt=attempt,
            blurred=blurred,
            exposures=exposures,
            time_s=float(time_s),
        )


SKIPPED = Aim(math.nan, math.nan, Source.NONE, marked=True)
"""Nowhere: the tile is not exposed."""
