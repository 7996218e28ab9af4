"""Which frames of a run are to stay: decided by what the run recorded of them, never by looking at them."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

__all__ = [
    "POLICIES",
    "Policy",
    "RecordedReading",
    "RecordedRun",
    "RecordedVerdict",
    "keep_all",
    "keep_in_focus",
    "policy_named",
    "readings_only",
]

FOCUSING = "focus_"
"""What the names of streams begin with whose frames were taken to find the focus."""


@dataclasses.dataclass(frozen=True)
class RecordedReading:
    """What an analysis said of one frame.

    Parameters
    ----------
    event_uid : str
        Of the Event of the frame, as it was emitted.
    stream, seq_num
        Where the frame is.
    position_um : float
        Where the axis stood. NaN where that is not known.
    defocus_um : float
        NaN where the reading is none, or was not accepted.
    index : float
        Distance index of its class, 0 in focus. NaN where it has none, or was not accepted.
    """

    event_uid: str
    stream: str
    seq_num: int
    position_um: float
    defocus_um: float = math.nan
    index: float = math.nan

    @property
    def frame(self) -> tuple[str, int]:
        """Stream and number."""
        return self.stream, self.seq_num


@dataclasses.dataclass(frozen=True)
class RecordedVerdict:
    """What a focusing operation concluded.

    Parameters
    ----------
    found : bool
        Whether its position is to be believed.
    position_um, sigma_um : float
        Of focus.
    depth_of_field_um : float
        NaN where the operation was not told.
    event_uids : frozenset of str
        The Events it rests on, as they were emitted.
    """

    found: bool
    position_um: float
    sigma_um: float
    depth_of_field_um: float
    event_uids: frozenset[str]


@dataclasses.dataclass(frozen=True)
class RecordedRun:
    """What a run recorded of its frames.

    Parameters
    ----------
    frames : mapping
        Numbers of the Events that have frames, by stream.
    readings : tuple of RecordedReading
        In the order in which they were taken.
    verdicts : tuple of RecordedVerdict
        Likewise.
    """

    frames: Mapping[str, frozenset[int]]
    readings: tuple[RecordedReading, ...] = ()
    verdicts: tuple[RecordedVerdict, ...] = ()


Policy: TypeAlias = Callable[[RecordedRun], Mapping[str, Iterable[int]]]
"""``policy(run)`` returns the numbers of the Events whose frames go, by stream. What it leaves out stays."""


def keep_all(run: RecordedRun) -> dict[str, set[int]]:
    """Let every frame stay."""
    return {}


def readings_only(run: RecordedRun) -> dict[str, set[int]]:
    """Let every frame go, of all streams: Events, readings and verdicts are what stays."""
    return {stream: set(numbers) for stream, numbers in run.frames.items()}


def keep_in_focus(run: RecordedRun) -> dict[str, set[int]]:
    """Let those frames go that a focusing operation took on its way and that are out of focus.

    A frame is in focus if the axis stood within half a depth of field of the focus that was found, or within
    its uncertainty where that is more; or nearest to it of all frames of the operation; or if its own
    accepted reading says so: a defocus within the same distance, or the class 0.

    What nobody judged stays: every stream that is not one of focusing (``primary``), frames that no verdict
    rests on, and those of operations that found no focus, which are what tells why.
    """
    judged: set[tuple[str, int]] = set()
    sharp: set[tuple[str, int]] = set()
    for verdict in run.verdicts:
        seen = [one for one in run.readings if one.event_uid in verdict.event_uids]
        if not verdict.found or all(math.isnan(one.position_um) for one in seen):
            continue
        nearest = min(seen, key=lambda one: _distance_um(one, verdict))
        judged |= {one.frame for one in seen}
        sharp |= {one.frame for one in seen if one is nearest or _is_sharp(one, verdict)}
    goes: dict[str, set[int]] = {}
    for stream, number in judged - sharp:
        if stream.startswith(FOCUSING):
            goes.setdefault(stream, set()).add(number)
    return goes


def _is_sharp(reading: RecordedReading, verdict: RecordedVerdict) -> bool:
    reach_um = max(
        (one for one in (verdict.depth_of_field_um / 2, verdict.sigma_um) if math.isfinite(one)), default=0.0
    )
    return (
        _distance_um(reading, verdict) <= reach_um
        or abs(reading.defocus_um) <= reach_um  # NaN is not
        or reading.index == 0
    )


def _distance_um(reading: RecordedReading, verdict: RecordedVerdict) -> float:
    distance_um = abs(reading.position_um - verdict.position_um)
    return math.inf if math.isnan(distance_um) else distance_um


POLICIES: dict[str, Policy] = {"all": keep_all, "in-focus": keep_in_focus, "readings": readings_only}
"""By what is kept: the names that metadata, sessions and the command line use."""


def policy_named(name: str) -> Policy:
    """Return a policy by its name.

    Raises
    ------
    ValueError
        If there is none, naming those there are.
    """
    if name not in POLICIES:
        raise ValueError(f"there is no retention {name!r}: expected one of {', '.join(POLICIES)}")
    return POLICIES[name]
