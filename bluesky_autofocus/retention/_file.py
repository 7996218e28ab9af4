"""Delete frames from an HDF5 file without a moment at which it is not whole."""

import errno
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py._objects import phil
from numpy.typing import NDArray

from bluesky_autofocus.disk import DiskFullError, size
from bluesky_autofocus.frames import DATASET, PRUNED, PRUNINGS

__all__ = ["delete_rows", "frame_bytes", "prunings", "remove_unfinished", "rows_deleted"]

UNFINISHED = ".unfinished"
"""What the name of a file ends in that is being written, to take the place of the one without."""

OVERHEAD_BYTES = 10_000
"""What a file without any frame takes, at most: 7 kB for 500 rows."""


def rows_deleted(path: Path) -> NDArray[np.bool_]:
    """Return which rows of a file hold no frame any more."""
    with _opened(path) as file:
        return file[PRUNED][()] if PRUNED in file else np.zeros(len(file[DATASET]), bool)


def prunings(path: Path) -> list[dict[str, Any]]:
    """Return when, by whom and how frames were deleted from a file, the oldest first."""
    with _opened(path) as file:
        return json.loads(file[PRUNED].attrs[PRUNINGS]) if PRUNED in file else []


def frame_bytes(path: Path) -> NDArray[np.int_]:
    """Return what the frame in each row of a file takes of the disk, 0 where there is none.

    Raises
    ------
    ValueError
        If a frame is not a chunk of its own, which `FrameWriter` makes it.
    """
    with _opened(path) as file:
        frames = file[DATASET]
        if frames.chunks != (1, *frames.shape[1:]):
            raise ValueError(f"{path} has chunks of {frames.chunks}: expected one for each frame")
        taken = np.zeros(len(frames), int)
        for row, n_bytes in _chunks(frames):
            taken[row] = n_bytes
        return taken


def delete_rows(path: Path, rows: NDArray[np.bool_], said: Mapping[str, Any]) -> int:
    """Delete the frames of some rows; the others, and all shapes, stay as they are.

    What stays is copied to a new file, chunk by chunk as it is, which takes the place of the old one once it
    is on the disk. Whatever happens, a killed process or a power cut, there is the old file or the new one.

    Parameters
    ----------
    path : Path
        Nobody may be writing to it. Who has it open for reading goes on to read the old one.
    rows : ndarray of bool, shape (n,)
        Which to delete, one for each row of the file.
    said : mapping
        Of the record of it, JSON-able.

    Returns
    -------
    int
        By how many bytes the file is smaller.

    Raises
    ------
    OSError
        If there is no room for what stays (`DiskFullError`), or a reader forbids to replace it (Windows). The
        old file is as it was.
    """
    before = path.stat().st_size
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        with _opened(path) as old, h5py.File(unfinished, "w", libver="latest") as new:
            _copy_all_but_frames(old, new)
            _copy_frames(old, new, ~rows)
            gone = rows | (old[PRUNED][()] if PRUNED in old else False)
            new[PRUNED] = gone
            earlier = json.loads(old[PRUNED].attrs[PRUNINGS]) if PRUNED in old else []
            new[PRUNED].attrs[PRUNINGS] = json.dumps([*earlier, dict(said)])
        shutil.copymode(path, unfinished)
        _to_disk(unfinished)
        os.replace(unfinished, path)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            needed = size(frame_bytes(path)[~rows].sum() + OVERHEAD_BYTES)
            raise DiskFullError(f"no room for {needed}, a copy of the frames of {path} that stay") from error
        raise
    _to_disk(path.parent)
    return before - path.stat().st_size


def remove_unfinished(directory: Path) -> None:
    """Remove what a killed process left of new files."""
    for path in directory.glob(f"*{UNFINISHED}"):
        path.unlink(missing_ok=True)


def _opened(path: Path) -> Any:
    # what a killed process left open is readable only as a SWMR reader would read it
    return h5py.File(path, "r", libver="latest", swmr=True)


def _chunks(frames: Any) -> list[tuple[int, int]]:
    """Return row and size of each frame that is there."""
    found: list[tuple[int, int]] = []
    frames.id.chunk_iter(lambda chunk: found.append((chunk.chunk_offset[0], chunk.size)))
    return found


def _copy_all_but_frames(old: h5py.File, new: h5py.File) -> None:
    def copy(name: str, found: h5py.Group | h5py.Dataset) -> None:
        if isinstance(found, h5py.Group):
            new.require_group(name).attrs.update(found.attrs)
        elif f"/{name}" not in (DATASET, PRUNED):
            old.copy(found, new, name)

    new.attrs.update(old.attrs)
    old.visititems(copy)


def _copy_frames(old: h5py.File, new: h5py.File, stays: NDArray[np.bool_]) -> None:
    """Copy the chunks of some rows, of a dataset that has the same shape, filters and attributes."""
    source: Any = old[DATASET]
    # of creation: what was never written takes no room, and reads as this
    form = source.id.get_create_plist().copy()
    if source.dtype.kind == "f":
        form.set_fill_value(np.array(np.nan, source.dtype))
    parent, name = DATASET.rsplit("/", 1)
    made = h5py.h5d.create(
        new.require_group(parent).id, name.encode(), source.id.get_type(), source.id.get_space(), form
    )
    for row, _ in _chunks(source):
        if stays[row]:
            _copy_chunk(source.id, made, (row, *(0,) * (source.ndim - 1)))
    h5py.Dataset(made).attrs.update(source.attrs)


def _copy_chunk(source: Any, target: Any, offset: tuple[int, ...]) -> None:
    with phil:  # direct writing goes without h5py's lock, and HDF5 crashes when two threads write
        filters, stored = source.read_direct_chunk(offset)
        target.write_direct_chunk(offset, stored, filters)


def _to_disk(path: Path) -> None:
    """Have the operating system put a file, or the names in a folder, on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # there a folder cannot be opened, and need not be
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
