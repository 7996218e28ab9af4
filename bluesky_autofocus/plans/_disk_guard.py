"""Stop a plan before the disk is full, while there is still room to end it well."""

from pathlib import Path
from typing import Any, TypeVar

from bluesky.utils import Msg, MsgGenerator, make_decorator

from bluesky_autofocus.disk import DiskFullError, free_bytes, size
from bluesky_autofocus.plans._disk import (
    RESERVE_BYTES,
    StoresFrames,
    check_room,
    described,
    disk_of,
    image_bytes,
)
from bluesky_autofocus.plans._protocols import Detectors
from bluesky_autofocus.plans._wrapper import _interposed

__all__ = ["disk_guard_decorator", "disk_guard_wrapper"]

_T = TypeVar("_T")


def disk_guard_wrapper(
    plan: MsgGenerator[_T],
    detectors: Detectors,
    *,
    directory: Path | str | None = None,
    reserve_bytes: int = RESERVE_BYTES,
    every: int = 1,
) -> MsgGenerator[_T]:
    """Stop a plan before an exposure that would leave less than a reserve free of the disk.

    A `DiskFullError` is raised within the plan in place of that trigger, so that its own cleanup takes place:
    what it changed is put back, the run is closed as failed, and its reason names what was free. All that was
    recorded stays readable. Exposures of the cleanup are not watched any more.

    Parameters
    ----------
    plan : generator of messages
        Any.
    detectors : sequence of Readable
        What it exposes.
    directory : path, optional
        Where frames go, if none of the detectors has a `frame_directory`.
    reserve_bytes : int
        What is to stay free.
    every : int
        Ask for the free space only before every so many exposures, where it is slow to ask, as it may be for
        a folder on a network. So many frames are to find room then.

    Returns
    -------
    object
        What the plan returns.

    Raises
    ------
    ValueError
        If an argument makes no sense, or nobody says where frames go; before the first message.
    DiskFullError
        An OSError, from within the plan.
    """
    check_room(reserve_bytes)
    if every < 1:
        raise ValueError(f"every must be 1 or more, got {every!r}")
    folders = [one.frame_directory for one in detectors if isinstance(one, StoresFrames)] or [directory]
    if folders == [None]:
        names = ", ".join(detector.name for detector in detectors)
        raise ValueError(f"{names} have no frame_directory: give the directory that frames go to")
    by_disk = {disk_of(folder): folder for folder in folders if folder is not None}
    open_runs: set[Any] = set()
    exposures, ahead_bytes, over = 0, 0, False

    def before(msg: Msg) -> MsgGenerator[None]:
        nonlocal exposures, ahead_bytes, over
        exposes = msg.command in ("trigger", "kickoff") and any(msg.obj is one for one in detectors)
        if over or not exposes or msg.run not in open_runs:
            return
        if exposures == 0:
            images = yield from described(detectors)
            ahead_bytes = every * sum(image_bytes(one) for one in images.values())
        exposures += 1
        if (exposures - 1) % every:
            return
        for folder in by_disk.values():
            free = free_bytes(folder)
            if free < reserve_bytes + ahead_bytes:
                over = True
                raise DiskFullError(
                    f"stopped before the disk is full: {folder} has {size(free)} free; what comes next "
                    f"takes {size(ahead_bytes)}, and {size(reserve_bytes)} are to stay"
                )

    def after(msg: Msg, answer: Any) -> None:
        if msg.command == "open_run" and answer is not None:  # a dry run writes nothing
            open_runs.add(msg.run)
        elif msg.command == "close_run":
            open_runs.discard(msg.run)

    return (yield from _interposed(plan, before, after))


disk_guard_decorator = make_decorator(disk_guard_wrapper)
