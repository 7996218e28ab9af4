"""Planes out of focus, and the same field in focus, of recorded focal stacks: to train refocusing with."""

import dataclasses
import hashlib
import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from platformdirs import user_cache_path

from bluesky_autofocus.dataset._collections import DatasetError
from bluesky_autofocus.dataset._labels import OUTSIDE, FieldStack, field_stacks, labels_of
from bluesky_autofocus.models.refocus.pairs import FocalPairs
from bluesky_autofocus.records import FocusLabel

__all__ = ["LeftOut", "RecordedPairs", "cache_folder", "counted", "digest_of", "in_files", "recorded_pairs"]

MEMORY_GIB = 1.0
"""Frames that take more go to files."""
_UNEVEN = 0.1
"""Part of the spacing by which the planes of a stack may be unevenly spaced."""
_SAME_SPACING = 0.01
"""Part by which the spacings of two stacks may differ: the outermost of 100 planes are half a spacing off."""

LeftOut = dict[str, list[str]]
"""Names of the fields that are left out, by reason."""


@dataclasses.dataclass(frozen=True, eq=False)
class RecordedPairs(FocalPairs):
    """Pairs that were recorded, and what was left out of them.

    Parameters
    ----------
    planes, targets, defocus_um, field, modality
        As for `FocalPairs`.
    left_out : dict
        Names of the fields that were left out, by reason.
    """

    left_out: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        """One line for a person."""
        count, planes, height, width = self.planes.shape
        out = counted(self.left_out)
        return (
            f"{count} stacks of {len(np.unique(self.field))} fields, {self.modality}: {planes} planes of "
            f"{width} x {height} pixels, {self.defocus_um.min():g} to {self.defocus_um.max():g} um from focus"
            + (f"; left out: {out}" if out else "")
        )


def counted(left_out: Mapping[str, Sequence[str]]) -> str:
    """Return how many fields were left out, and why, in words."""
    return ", ".join(f"{len(names)} {reason}" for reason, names in left_out.items())


def recorded_pairs(
    client: Any,
    runs: Sequence[str],
    *,
    modality: str,
    image_key: str | None = None,
    channel: int | None = None,
    axis_sign: int = 1,
    person_only: bool = False,
    planes: Sequence[int] | None = None,
    folder: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RecordedPairs:
    """Return the planes of focal stacks in the catalogue whose focus is known, and each stack's one in focus.

    The target of a field is the plane nearest to focus. Planes are counted from there, and so are their
    distances from focus, in whole spacings: focus itself may be up to half a spacing off. Fields can only
    serve together if they have the same planes; by default those that make the most frames, of at least
    half of the fields.

    Left out, with the reason, are fields that nobody labelled or that are labelled as unusable; stacks that
    focus lies outside of, by more than half of their largest step, or that are not evenly spaced; and what
    is unlike most of the other fields: in the frames' size and type, in spacing, in the planes there are.

    Parameters
    ----------
    client : databroker.client.CatalogOfBlueskyRuns
        ``db``, or the client of `open_catalog`.
    runs : sequence of str
        Uids, or their first characters, of runs of `collect_focal_stacks` or of others that hold one stack;
        labelled by a person (`record_labels`) or a simulator. A field of a collection that several of them
        hold has one number, so that it is never on both sides of a split.
    modality : str
        What kind of images these are: "fluorescence", "brightfield".
    image_key : str, optional
        Which image, where there are several cameras.
    channel : int, optional
        Which colour of frames that have several, from 0 on. By default each becomes an entry of its own,
        with the same field number, and with the same plane as its target.
    axis_sign : int
        -1 where the axis runs downwards.
    person_only : bool
        Whether what a simulator knew does not count.
    planes : sequence of int, optional
        Which planes, counted from the one in focus, positive where the image plane is above it. Fields that
        lack one are left out.
    folder : path, optional
        Where to keep the frames in files, from which they are then read as they are needed. By default
        frames of more than 1 GiB are kept in the user's cache (``BLUESKY_AUTOFOCUS_CACHE``), fewer in
        memory. Files that are there already are used again.
    progress : callable, optional
        Called with fields read and fields in all; not where they were read before.

    Returns
    -------
    RecordedPairs
        Run by run and field by field; the lowest image plane first, unless `planes` says otherwise.

    Raises
    ------
    DatasetError
        If a run is unknown or holds no stacks, if no field is left, if frames have no such channel, or if
        there is no room for the files.
    ValueError
        If the sign is not 1 or -1, or the planes are none or not all different.
    """
    if axis_sign not in (1, -1):
        raise ValueError(f"axis_sign is {axis_sign!r}: expected 1 or -1")
    if planes is not None and not 0 < len(planes) == len(set(planes)):
        raise ValueError(f"planes are {list(planes)}: expected one or more, all different")
    left_out: LeftOut = {}
    found = _focused_stacks(client, runs, image_key, axis_sign, person_only, left_out)
    chosen, numbers = _that_fit_together(found, planes, left_out)
    if not chosen:
        why = counted(left_out) or "no runs were given"
        raise DatasetError(f"there is no field to learn refocusing from: {why}")
    shape, dtype = chosen[0].shape, chosen[0].dtype
    colours = 1 if len(shape) == 2 else shape[2]
    if channel is not None and not 0 <= channel < colours:
        raise DatasetError(f"there is no channel {channel!r}: the frames have {colours}, counted from 0")
    each = colours if channel is None else 1

    def fill(frames: NDArray[Any], targets: NDArray[Any]) -> None:
        for at, one in enumerate(chosen):
            rows = slice(at * each, (at + 1) * each)
            for place, number in enumerate(numbers):
                frames[rows, place] = one.colours(number, channel)
            targets[rows] = one.colours(0, channel)
            if progress is not None:
                progress(at + 1, len(chosen))

    size = (len(chosen) * each, len(numbers), *shape[:2])
    if folder is None and _gib(size, dtype) <= MEMORY_GIB:
        stored = np.empty(size, dtype), np.empty((size[0], *size[2:]), dtype)
        fill(*stored)
    else:
        # what is recorded does not change: rows of runs say all that the files depend on
        made_of = [[(one.run, one.stack.stream, one.rows(numbers)) for one in chosen], image_key, channel]
        stored = in_files(
            cache_folder() if folder is None else Path(folder),
            f"recorded-{digest_of(made_of)[:12]}",
            made_of,
            size,
            dtype,
            fill,
        )
    fields: dict[tuple[str, int], int] = {}
    return RecordedPairs(
        *stored,
        defocus_um=np.array(numbers) * float(np.median([one.spacing_um for one in chosen])),
        field=np.repeat([fields.setdefault(one.field, len(fields)) for one in chosen], each),
        modality=modality,
        left_out=left_out,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _FocusedStack:
    """A stack and which of its planes is in focus; planes are counted from that one, upwards."""

    run: str
    field: tuple[str, int]
    stack: FieldStack
    focused: int
    spacing_um: float
    axis_sign: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def name(self) -> str:
        return _name(self.run, self.stack)

    @property
    def reach(self) -> range:
        """Which planes there are."""
        below, above = self.focused, len(self.stack) - 1 - self.focused
        return range(-below, above + 1) if self.axis_sign > 0 else range(-above, below + 1)

    def rows(self, numbers: Sequence[int]) -> list[int]:
        """Return the rows of the plane in focus and of others in their stream."""
        return [self.stack.rows[self._index(number)] for number in (0, *numbers)]

    def colours(self, number: int, channel: int | None) -> NDArray[Any]:
        """Return the colours of a plane, or one of them, shape (n, H, W)."""
        frame = self.stack.frame(self._index(number))
        colours = frame[np.newaxis] if frame.ndim == 2 else np.moveaxis(frame, 2, 0)
        return colours if channel is None else colours[channel : channel + 1]

    def _index(self, number: int) -> int:
        return self.focused + self.axis_sign * number


def _name(run: str, stack: FieldStack) -> str:
    return f"{run[:8]}/{stack.number}"


def _focused_stacks(
    client: Any,
    runs: Sequence[str],
    image_key: str | None,
    axis_sign: int,
    person_only: bool,
    left_out: LeftOut,
) -> list[_FocusedStack]:
    """Return the stacks whose focus is known and near a plane; add the others to `left_out`."""
    found, seen = [], set()
    for asked in runs:
        labels, run = labels_of(client, asked, person_only=person_only), client[asked]
        uid = run.start["uid"]
        if uid in seen:
            continue
        seen.add(uid)
        for number, stack in field_stacks(run, image_key=image_key).items():
            known = _focused(stack, labels.get(number))
            if isinstance(known, str):
                left_out.setdefault(known, []).append(_name(uid, stack))
                continue
            frame = stack.frame(known[0])
            field, dtype = (run.start.get("collection", uid), number), frame.dtype.newbyteorder("=")
            found.append(_FocusedStack(uid, field, stack, *known, axis_sign, frame.shape, dtype))
    return found


def _focused(stack: FieldStack, label: FocusLabel | None) -> tuple[int, float] | str:
    """Return which plane is in focus and the spacing in um; or why the stack is left out."""
    if label is None:
        return "not labelled"
    if not label.usable:
        return OUTSIDE if label.note == OUTSIDE else "labelled as unusable"
    if len(stack) < 2:
        return "of one plane"
    steps_um = np.diff(stack.positions_um)
    spacing_um = float(steps_um.mean())
    if not (spacing_um > 0 and (np.abs(steps_um - spacing_um) <= _UNEVEN * spacing_um).all()):
        return "planes unevenly spaced"
    distance_um = np.abs(np.array(stack.positions_um) - label.focus_um)
    # as `true_labels` judges; also what is halfway between two planes, whatever the rounding
    if not distance_um.min() <= 0.5 * steps_um.max() + 1e-9:
        return OUTSIDE
    return int(np.argmin(distance_um)), spacing_um


def _that_fit_together(
    found: list[_FocusedStack], planes: Sequence[int] | None, left_out: LeftOut
) -> tuple[list[_FocusedStack], list[int]]:
    """Return stacks that are alike and the planes that all of them have; add the others to `left_out`."""

    def only(fits: Callable[[_FocusedStack], bool], reason: Callable[[_FocusedStack], str]) -> None:
        for one in [one for one in found if not fits(one)]:
            left_out.setdefault(reason(one), []).append(one.name)
            found.remove(one)

    def frames_of(one: _FocusedStack) -> str:
        return f"with {one.dtype} frames of shape {one.shape}"

    only(lambda one: one.dtype in (np.uint8, np.uint16) and one.shape[2:] in ((), (3,)), frames_of)
    if not found:
        return [], []
    commonest = Counter(map(frames_of, found)).most_common(1)[0][0]
    only(lambda one: frames_of(one) == commonest, frames_of)

    spacings_um = np.array([one.spacing_um for one in found])
    near = np.abs(spacings_um - spacings_um[:, np.newaxis]) <= _SAME_SPACING * spacings_um[:, np.newaxis]
    spacing_um = spacings_um[np.argmax(near.sum(axis=1))]
    only(
        lambda one: abs(one.spacing_um - spacing_um) <= _SAME_SPACING * spacing_um,
        lambda one: f"with planes {one.spacing_um:.3g} um apart",
    )

    numbers = list(_shared([one.reach for one in found]) if planes is None else planes)
    only(
        lambda one: all(number in one.reach for number in numbers),
        lambda one: f"with only the planes {one.reach[0]} to {one.reach[-1]} from focus",
    )
    return found, numbers


def _shared(reaches: Sequence[range]) -> range:
    """Return the planes that make the most frames, of at least half of the stacks.

    There always are two: each stack has one beside that in focus, and at least half have it on one side.
    """
    lows, highs = (np.array([reach[end] for reach in reaches]) for end in (0, -1))

    def frames(low: int, high: int) -> tuple[int, int]:
        fields = int(((lows <= low) & (highs >= high)).sum())
        enough = low < high and 2 * fields >= len(reaches)
        return (fields * (high - low + 1) if enough else 0), fields

    ends = itertools.product(sorted({*lows.tolist(), 0}), sorted({*highs.tolist(), 0}))
    low, high = max(ends, key=lambda pair: frames(*pair))
    return range(low, high + 1)


def cache_folder() -> Path:
    """Return where files go that can be made again."""
    return Path(os.environ.get("BLUESKY_AUTOFOCUS_CACHE") or user_cache_path("bluesky-autofocus"))


def digest_of(said: Any) -> str:
    """Return what tells one thing that is JSON-able from another."""
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def in_files(
    folder: Path,
    name: str,
    made_of: Any,
    shape: tuple[int, ...],
    dtype: Any,
    fill: Callable[[NDArray[Any], NDArray[Any]], None],
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return planes and targets that lie in files; these are written if they are not there.

    They are there completely or not at all. Whoever else wants the same waits until they are.

    Parameters
    ----------
    folder : path
        Where to keep them, in a folder of their own; made if it is not there.
    name : str
        Of their own folder.
    made_of : object
        All that the frames depend on, JSON-able. Files under this name that were made of something else are
        replaced.
    shape : tuple of int
        Of the planes, (n, n_planes, H, W).
    dtype : numpy dtype
        Of both.
    fill : callable
        Called with the arrays of planes and of targets, to write to.

    Returns
    -------
    planes, targets : ndarray
        Mapped into memory, not to be written to.

    Raises
    ------
    DatasetError
        If there is no room for them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ready, partial, digest = folder / name, folder / f"{name}.partial", digest_of([made_of, list(shape)])
    with FileLock(folder / f"{name}.lock"):
        said = ready / "made_of.txt"
        if not (said.is_file() and said.read_text() == digest):
            for old in (ready, partial):
                shutil.rmtree(old, ignore_errors=True)
            gib, free_gib = _gib(shape, dtype), shutil.disk_usage(folder).free / 2**30
            # to run out of room while writing to a mapped file would end the process
            if gib > 0.95 * free_gib:
                raise DatasetError(
                    f"the frames take {gib:.1f} GiB, but in {folder} only {free_gib:.1f} GiB are free"
                )
            partial.mkdir()
            try:
                _write(partial, shape, dtype, fill)
                (partial / said.name).write_text(digest)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            partial.rename(ready)
        planes, targets = (np.load(ready / f"{one}.npy", mmap_mode="r") for one in ("planes", "targets"))
    return planes, targets


def _write(
    folder: Path, shape: tuple[int, ...], dtype: Any, fill: Callable[[NDArray[Any], NDArray[Any]], None]
) -> None:
    planes = np.lib.format.open_memmap(folder / "planes.npy", "w+", dtype, shape)
    targets = np.lib.format.open_memmap(folder / "targets.npy", "w+", dtype, (shape[0], *shape[2:]))
    fill(planes, targets)
    planes.flush()
    targets.flush()


def _gib(shape: tuple[int, ...], dtype: Any) -> float:
    """Return how much the planes of a shape and their targets take."""
    return np.dtype(dtype).itemsize * np.prod(shape, dtype=float) * (1 + 1 / shape[1]) / 2**30
