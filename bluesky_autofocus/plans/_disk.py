"""Whether the disk holds what a plan will record, asked before it begins."""

import dataclasses
import functools
import math
import os
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, ParamSpec, Protocol, TypeAlias, TypeVar, get_args, runtime_checkable

import numpy as np
from bluesky import plan_stubs as bps
from bluesky.protocols import Readable
from bluesky.utils import MsgGenerator, ensure_generator, maybe_await, plan

from bluesky_autofocus.disk import DiskFullError, existing, free_bytes, size
from bluesky_autofocus.plans._protocols import Detectors

__all__ = [
    "DiskForecast",
    "StoresFrames",
    "check_disk",
    "check_disk_decorator",
    "check_disk_wrapper",
    "check_room",
    "described",
    "disk_of",
    "image_bytes",
]

RESERVE_BYTES = 256 * 2**20
"""What is to stay free of a disk. After its last frame a run writes a few MB at most, and deleting frames of
old runs takes what stays of a file; the rest is for whoever else uses the disk."""

MOST_MESSAGES = 2_000_000
"""Of a dry run, where bluesky takes 0.1 ms for each. A hundred thousand exposures have fewer; a plan that
waits for a reading never ends in one."""

Shortage: TypeAlias = Literal["raise", "warn"]

_T = TypeVar("_T")
_P = ParamSpec("_P")


@runtime_checkable
class StoresFrames(Protocol):
    """A detector that says where its frames go."""

    @property
    def frame_directory(self) -> Path | str:
        """A folder that this machine sees; it need not be there yet."""
        ...


@dataclasses.dataclass(frozen=True)
class DiskForecast:
    """What a plan will write to one disk, and what is free there.

    Parameters
    ----------
    directory : str
        Of the frames; the first, where several detectors write to the disk.
    frames : int
        Of all detectors that write there.
    needed_bytes : int
        What these take.
    free_bytes : int
        What is free.
    reserve_bytes : int
        What of it is to stay free.
    """

    directory: str
    frames: int
    needed_bytes: int
    free_bytes: int
    reserve_bytes: int

    @property
    def fits(self) -> bool:
        """Whether there is room for all of it."""
        return self.needed_bytes + self.reserve_bytes <= self.free_bytes

    def __str__(self) -> str:
        """One line for a person."""
        return (
            f"{self.frames} frames will take {size(self.needed_bytes)}; {self.directory} has "
            f"{size(self.free_bytes)} free, and {size(self.reserve_bytes)} are to stay so"
        )


@plan
def check_disk(
    detectors: Detectors,
    exposures: int,
    *,
    frame_bytes: int | None = None,
    directory: Path | str | None = None,
    reserve_bytes: int = RESERVE_BYTES,
    on_shortage: Shortage = "raise",
) -> MsgGenerator[tuple[DiskForecast, ...]]:
    """Make sure that there is room for so many exposures; a stub that exposes nothing and needs no run.

    Parameters
    ----------
    detectors : sequence of Readable
        What is exposed. Those that describe no image take no room.
    exposures : int
        Of each of them.
    frame_bytes : int, optional
        Of one frame, for detectors that do not describe their image before they are staged. By default from
        shape and type of the images that they describe.
    directory : path, optional
        Where frames of detectors go that have no `frame_directory`.
    reserve_bytes : int
        What is to stay free.
    on_shortage : "raise" or "warn"
        What to do where there is not enough room.

    Returns
    -------
    tuple of DiskForecast
        One a disk; none in a dry run.

    Raises
    ------
    ValueError
        If an argument makes no sense, or nobody says where frames go or how large they are.
    DiskFullError
        An OSError, naming what is needed and what is free.
    """
    if exposures < 0:
        raise ValueError(f"exposures must not be negative, got {exposures!r}")
    check_room(reserve_bytes, on_shortage)
    counts = dict.fromkeys(detectors, exposures)
    return (yield from _checked(counts, frame_bytes, directory, reserve_bytes, on_shortage))


def check_disk_wrapper(
    plan: Callable[[], MsgGenerator[_T]],
    detectors: Detectors,
    *,
    frame_bytes: int | None = None,
    directory: Path | str | None = None,
    reserve_bytes: int = RESERVE_BYTES,
    on_shortage: Shortage = "raise",
) -> MsgGenerator[_T]:
    """Go through a plan dry, make sure that there is room for all that it exposes, then run it.

    A frame is counted each time that the plan reads one of `detectors` for an Event. What the plan decides by
    its readings it decides in a dry run as if they said nothing: a search counts as one whose frames show
    nothing new, and a plan that goes on until a reading says so cannot be counted; `check_disk` is told.

    Parameters
    ----------
    plan : callable
        Returns the plan, afresh each time: ``lambda: scan([camera], x, 0, 1, 1000)``.
    detectors : sequence of Readable
        What it exposes.
    frame_bytes, directory, reserve_bytes, on_shortage
        As for `check_disk`.

    Returns
    -------
    object
        What the plan returns.

    Raises
    ------
    TypeError
        If it is given a plan that can be gone through only once.
    ValueError, DiskFullError
        As `check_disk` does, or if the plan has no dry run; before the first message of the plan.
    """
    if not callable(plan):
        raise TypeError(f"the plan is gone through twice: expected what returns it afresh, got {plan!r}")
    check_room(reserve_bytes, on_shortage)
    counts = _counted(plan(), detectors)
    if not any(counts.values()):
        names = ", ".join(detector.name for detector in detectors)
        warnings.warn(f"no disk space was foreseen: the plan exposes none of {names}", stacklevel=2)
    yield from _checked(counts, frame_bytes, directory, reserve_bytes, on_shortage)
    return (yield from plan())


def check_disk_decorator(
    detectors: Detectors, **options: Any
) -> Callable[[Callable[_P, MsgGenerator[_T]]], Callable[_P, MsgGenerator[_T]]]:
    """Return a decorator of plans that does as `check_disk_wrapper`."""

    def decorate(function: Callable[_P, MsgGenerator[_T]]) -> Callable[_P, MsgGenerator[_T]]:
        @functools.wraps(function)
        def checked(*args: _P.args, **kwargs: _P.kwargs) -> MsgGenerator[_T]:
            return check_disk_wrapper(partial(function, *args, **kwargs), detectors, **options)

        return checked

    return decorate


def check_room(reserve_bytes: int, on_shortage: Shortage = "raise") -> None:
    """Raise a ValueError if options that concern room make no sense."""
    if not (math.isfinite(reserve_bytes) and reserve_bytes >= 0):
        raise ValueError(f"reserve_bytes must not be negative, got {reserve_bytes!r}")
    if on_shortage not in get_args(Shortage):
        raise ValueError(f"on_shortage must be 'raise' or 'warn', got {on_shortage!r}")


def _counted(messages: MsgGenerator[Any], detectors: Detectors) -> dict[Readable, int]:
    """Return how many frames of each detector a plan records, by its messages alone."""
    counts = dict.fromkeys(detectors, 0)
    bundles: set[Any] = set()
    try:
        for number, msg in enumerate(ensure_generator(messages)):
            if number >= MOST_MESSAGES:
                raise ValueError(
                    f"the plan goes on after {MOST_MESSAGES} messages without readings: tell check_disk how "
                    "many exposures it takes"
                )
            if msg.command == "create":
                bundles.add(msg.run)
            elif msg.command in ("save", "drop"):
                bundles.discard(msg.run)
            elif msg.command == "read" and msg.run in bundles:
                for detector in detectors:
                    counts[detector] += msg.obj is detector
    except (TypeError, KeyError, AttributeError, IndexError) as error:
        raise ValueError(
            f"the plan cannot be gone through without readings ({type(error).__name__}: {error}): tell "
            "check_disk how many exposures it takes"
        ) from error
    return counts


def _checked(
    counts: Mapping[Readable, int],
    frame_bytes: int | None,
    directory: Path | str | None,
    reserve_bytes: int,
    on_shortage: Shortage,
) -> MsgGenerator[tuple[DiskForecast, ...]]:
    images = yield from described(list(counts))
    if not images:
        return ()
    sizes = {one: frame_bytes or image_bytes(images[one]) for one in counts}
    if counts and not any(sizes.values()):
        names = ", ".join(one.name for one in counts)
        raise ValueError(f"{names} describe no image of which the size is known: give frame_bytes")
    folders: dict[int, Path | str] = {}
    frames: dict[int, int] = {}
    needed: dict[int, int] = {}
    for one in (one for one in counts if counts[one] * sizes[one]):
        folder = one.frame_directory if isinstance(one, StoresFrames) else directory
        if folder is None:
            raise ValueError(f"{one.name} has no frame_directory: give the directory that its frames go to")
        disk = disk_of(folder)
        folders.setdefault(disk, folder)
        frames[disk] = frames.get(disk, 0) + counts[one]
        needed[disk] = needed.get(disk, 0) + counts[one] * sizes[one]
    forecasts = tuple(
        DiskForecast(str(folder), frames[disk], needed[disk], free_bytes(folder), reserve_bytes)
        for disk, folder in folders.items()
    )
    for forecast in forecasts:
        if not forecast.fits and on_shortage == "raise":
            raise DiskFullError(f"the plan would fill the disk: {forecast}")
        if not forecast.fits:
            warnings.warn(f"the plan may fill the disk: {forecast}", stacklevel=2)
    return forecasts


def described(detectors: Detectors) -> MsgGenerator[dict[Readable, Mapping[str, Any]]]:
    """Return what detectors describe, ophyd-async's too, by a message; nothing in a dry run."""

    async def describe(detector: Readable) -> Mapping[str, Any]:
        return await maybe_await(detector.describe())

    answers = yield from bps.wait_for([partial(describe, detector) for detector in detectors])
    return (
        {}
        if answers is None
        else {detector: answer.result() for detector, answer in zip(detectors, answers, strict=True)}
    )


def image_bytes(described: Mapping[str, Any]) -> int:
    """Return the size of the images of one Event."""
    return sum(
        math.prod(key["shape"]) * np.dtype(key["dtype_numpy"]).itemsize
        for key in described.values()
        if "external" in key and "dtype_numpy" in key and len(key["shape"]) > 1
    )


def disk_of(directory: Path | str) -> int:
    """Return the number of the disk that a folder is on."""
    return os.stat(existing(directory)).st_dev
