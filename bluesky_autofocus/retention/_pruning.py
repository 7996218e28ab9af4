"""Delete those frames of a recorded run that its retention does not keep."""

import contextlib
import dataclasses
import getpass
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.retention._file import (
    delete_rows,
    frame_bytes,
    prunings,
    remove_unfinished,
    rows_deleted,
)
from bluesky_autofocus.retention._policies import Policy, policy_named
from bluesky_autofocus.retention._recorded import FrameFiles, frame_files, recorded_run
from bluesky_autofocus.retention._references import references_to

__all__ = [
    "PrunedFrames",
    "Pruning",
    "RunOpenError",
    "deleted_frames",
    "prune",
    "pruning_history",
    "require_ended",
]

LOCK = "prune.lock"
"""In the folder of all frames: one process deletes at a time."""

PATIENCE_S = 60.0
"""How long another process is waited for that deletes; a run of some GB takes that long on a slow disk."""


class RunOpenError(ValueError):
    """The run has not ended: its frames are still being written."""


@dataclasses.dataclass(frozen=True)
class PrunedFrames:
    """What went of the frames of one camera in one stream.

    Parameters
    ----------
    stream, key : str
        Which these are.
    frames : int
        That were there.
    numbers : tuple of int
        Of the Events whose frames went, or would.
    n_bytes : int
        What these took.
    """

    stream: str
    key: str
    frames: int
    numbers: tuple[int, ...]
    n_bytes: int


@dataclasses.dataclass(frozen=True)
class Pruning:
    """What was deleted of a run, or would be.

    Parameters
    ----------
    run : str
        Its uid.
    keep : str
        What was to stay: the name of the policy.
    parts : tuple of PrunedFrames
        Of all streams that have frames.
    without_reading : int
        How many of the deleted frames no analysis has read: nothing but their Events is left of them.
    spared : tuple of str
        Why frames stay that the policy would have let go.
    dry_run : bool
        Whether nothing was touched.
    """

    run: str
    keep: str
    parts: tuple[PrunedFrames, ...]
    without_reading: int
    spared: tuple[str, ...]
    dry_run: bool

    @property
    def frames(self) -> int:
        """How many were there."""
        return sum(part.frames for part in self.parts)

    @property
    def deleted(self) -> int:
        """How many of them went, or would."""
        return sum(len(part.numbers) for part in self.parts)

    @property
    def n_bytes(self) -> int:
        """What these took."""
        return sum(part.n_bytes for part in self.parts)


def prune(
    client: Any, run: Any, keep: str | Policy, *, dry_run: bool = False, referred: bool = False
) -> Pruning:
    """Delete frames of a recorded run; its documents, readings and verdicts stay as they are.

    Shapes and keys do not change: databroker gives zeros in the place of a frame that is gone, NaN where
    pixels are floating-point numbers; `read_frame` raises a `PrunedFrameError`; `deleted_frames` tells which
    they are, and `pruning_history` who did it and when.

    Parameters
    ----------
    client : databroker.client.CatalogOfBlueskyRuns
        ``db``, or the client of `open_catalog`: where the run is, and those that may refer to it.
    run : databroker.client.BlueskyRun
        ``db[-1]``.
    keep : str or callable
        "all", "in-focus", "readings", or a policy of your own.
    dry_run : bool
        Only tell what would go.
    referred : bool
        Let those frames go too that other runs refer to: that were refocused or labelled, or collected to
        train networks with.

    Returns
    -------
    Pruning
        What went.

    Raises
    ------
    ValueError
        If there is no such policy.
    RunOpenError
        A ValueError, if the run has not ended.
    OSError
        If the files cannot be written, or another process deletes at the same time. What was not done yet can
        be done later.
    """
    policy = policy_named(keep) if isinstance(keep, str) else keep
    name = keep if isinstance(keep, str) else getattr(keep, "__name__", repr(keep))
    require_ended(run)
    uid, streams = run.start["uid"], dict(run.items())
    files = frame_files(uid, streams)
    if not any(file.path is None or frame_bytes(file.path).any() for file in files):
        return Pruning(uid, name, (), 0, (), dry_run)
    recorded = recorded_run(streams, files)
    wanted = {(stream, int(number)) for stream, numbers in policy(recorded).items() for number in numbers}
    goes, spared = set(wanted), []
    for reference in [] if referred or not wanted else references_to(client, run):
        kept = {frame for frame in wanted if frame in reference}
        if kept:
            spared.append(reference.why)
            goes -= kept
    parts = []
    # what takes least room first: on a full disk that makes room for the rest
    for file in sorted(
        files, key=lambda file: sum((file.stream, number) not in goes for number in file.numbers)
    ):
        if file.path is None:
            if any(frame[0] == file.stream for frame in goes):
                spared.append(f"{file.key} of {file.stream} is in no file of this run alone on this machine")
            continue
        with _alone(file.path.parent, locked=not dry_run):
            parts.append(_prune_file(file, file.path, goes, name, dry_run))
    read = {reading.frame for reading in recorded.readings}
    unread = sum((part.stream, number) not in read for part in parts for number in part.numbers)
    return Pruning(uid, name, tuple(parts), unread, tuple(spared), dry_run)


def require_ended(run: Any) -> None:
    """Raise a `RunOpenError` if a run has not ended."""
    if run.metadata.get("stop") is None:
        raise RunOpenError(
            f"run {run.start['uid'][:8]} is open: its frames may still be written. If its process has ended, "
            "open the catalogue anew, which closes it"
        )


def _prune_file(
    file: FrameFiles, path: Path, goes: set[tuple[str, int]], keep: str, dry_run: bool
) -> PrunedFrames:
    taken = frame_bytes(path)
    rows = np.zeros(len(taken), bool)
    # a row beyond belongs to no Event that the catalogue has
    for row, number in enumerate(file.numbers[: len(rows)]):
        rows[row] = taken[row] > 0 and (file.stream, number) in goes
    numbers = tuple(number for number, gone in zip(file.numbers, rows, strict=False) if gone)
    n_bytes = int(taken[rows].sum())
    if numbers and not dry_run:
        said = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "user": _user(),
            "keep": keep,
            "frames": len(numbers),
            "bytes": n_bytes,
            "version": version("bluesky-autofocus"),
        }
        delete_rows(path, rows, said)
    return PrunedFrames(file.stream, file.key, int((taken > 0).sum()), numbers, n_bytes)


@contextlib.contextmanager
def _alone(folder: Path, *, locked: bool) -> Iterator[None]:
    """Keep other processes from deleting frames; those that read or write them go on."""
    if not locked:
        yield
        return
    try:
        with filelock.FileLock(folder.parent / LOCK, timeout=PATIENCE_S):
            remove_unfinished(folder)
            yield
    except filelock.Timeout as error:
        raise OSError(f"another process is deleting frames in {folder.parent}: try again later") from error


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without a list of users
        return "unknown"


def deleted_frames(run: Any) -> dict[tuple[str, str], NDArray[np.bool_]]:
    """Return which frames of a run are gone, by stream and key of the image.

    Parameters
    ----------
    run : databroker.client.BlueskyRun
        ``db[-1]``.

    Returns
    -------
    dict
        A mask of shape (n,) for each: ``run[stream, key][~mask]`` are the frames that are there.
    """
    return {
        (file.stream, file.key): rows_deleted(file.path)[: len(file.numbers)]
        for file in frame_files(run.start["uid"], dict(run.items()))
        if file.path is not None
    }


def pruning_history(run: Any) -> list[dict[str, Any]]:
    """Return when, by whom and how frames of a run were deleted, the oldest first.

    It is kept in the files of the frames, so that it changes with them. Each has ``stream``, ``key``,
    ``time``, ``user``, ``keep``, ``frames``, ``bytes`` and ``version``.
    """
    said = [
        {"stream": file.stream, "key": file.key, **one}
        for file in frame_files(run.start["uid"], dict(run.items()))
        if file.path is not None
        for one in prunings(file.path)
    ]
    return sorted(said, key=lambda one: one["time"])
