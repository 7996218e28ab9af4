"""The focal stacks of nuclei and actin of the Broad Bioimage Benchmark Collection, as pairs to refocus."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from bluesky_autofocus.dataset._collections import DatasetError
from bluesky_autofocus.dataset._focal_pairs import (
    LeftOut,
    RecordedPairs,
    cache_folder,
    counted,
    digest_of,
    in_files,
)

__all__ = ["bbbc006_pairs"]

FOCUSED_Z, STEP_UM = 16, 2.0
_PLANE = "BBBC006_v1_images_z_"
_FILE = re.compile(
    r"mcf-z-stacks-03212011_(?P<row>[a-p])(?P<column>0[1-9]|1\d|2[0-4])_s(?P<site>[12])_w(?P<channel>[12])"
    r"[0-9a-f-]*\.tif",
    re.IGNORECASE,
)
_EXPECTED = (
    f"folders {_PLANE}00 to {_PLANE}33 with files like mcf-z-stacks-03212011_a01_s1_w1....tif, as the "
    "archives of https://bbbc.broadinstitute.org/BBBC006 unpack"
)


def bbbc006_pairs(
    folder: Path | str,
    *,
    planes: Sequence[int] | None = None,
    most_fields: int | None = None,
    channel: int = 1,
    cache: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RecordedPairs:
    """Return the planes of BBBC006, with z = 16 as the target: human U2OS cells, 20x, planes 2 um apart.

    Image set BBBC006v1 of the Broad Bioimage Benchmark Collection (Ljosa et al., Nature Methods, 2012), from
    https://bbbc.broadinstitute.org/BBBC006: 384 wells, two sites each, 696 x 520 pixels of 16 bits. The
    page describes 32 planes, z = 16 at the best focus as a laser found it, 15 above and 16 below; hence z = 1
    to 32, z = 1 being the highest. There are archives of z = 0 to 33: of the outer two it says nothing. By
    default all planes that are there are taken.

    The frames (all of one channel: 19 GB) are copied to a file in the cache once, from which they are then
    read as they are needed; again only if the files of the collection change.

    Parameters
    ----------
    folder : path
        Holds ``BBBC006_v1_images_z_00`` and so on, each with the files of a plane. Files of one field are
        known by well and site: what follows in their names is different in each plane.
    planes : sequence of int, optional
        Which z; by default all that are there.
    most_fields : int, optional
        At most so many fields, evenly spread over the plate.
    channel : int
        1, nuclei (Hoechst), or 2, actin (phalloidin).
    cache : path, optional
        Where the copies are kept; by default the user's cache (``BLUESKY_AUTOFOCUS_CACHE``).
    progress : callable, optional
        Called with fields read and fields in all; not where they were read before.

    Returns
    -------
    RecordedPairs
        Distance from focus is (16 - z) 2 um. The numbers of fields go by their place on the plate, whatever
        is left out: 0 and 1 are the sites of well A01, 2 and 3 those of A02. Left out are fields that lack a
        plane.

    Raises
    ------
    DatasetError
        If the folder is not laid out so, if no field has all planes, if a file cannot be read or is unlike
        the others, or if there is no room in the cache.
    ValueError
        If there is no such channel, the planes are none or not all different, or `most_fields` is less
        than 1.
    """
    if channel not in (1, 2):
        raise ValueError(f"channel is {channel!r}: expected 1 (nuclei) or 2 (actin)")
    if planes is not None and not 0 < len(planes) == len(set(planes)):
        raise ValueError(f"planes are {list(planes)}: expected one or more, all different")
    if most_fields is not None and most_fields < 1:
        raise ValueError(f"most_fields is {most_fields!r}: expected 1 or more")
    folder = Path(folder).resolve()
    wanted = None if planes is None else [int(plane) for plane in planes]
    z, files = _files(folder, wanted, channel)
    left_out: LeftOut = {}
    for name in sorted({name for of_plane in files.values() for name in of_plane}, key=_number):
        missing = [str(plane) for plane, of_plane in files.items() if name not in of_plane]
        if missing:
            left_out.setdefault(f"without z = {', '.join(missing)}", []).append(name)
    out = {name for names in left_out.values() for name in names}
    names = sorted((name for name in files[FOCUSED_Z] if name not in out), key=_number)
    if not names:
        raise DatasetError(f"no field in {folder} has all planes: {counted(left_out)}")
    if most_fields is not None and most_fields < len(names):
        names = [names[at] for at in np.linspace(0, len(names) - 1, most_fields).round().astype(int)]
    first = _read(files[FOCUSED_Z][names[0]])
    if first.ndim != 2 or first.dtype not in (np.uint8, np.uint16):
        raise DatasetError(f"{files[FOCUSED_Z][names[0]]} is no grey image, but {first.dtype} {first.shape}")

    def fill(frames: NDArray[Any], targets: NDArray[Any]) -> None:
        for at, name in enumerate(names):
            for place, plane in enumerate(z):
                frames[at, place] = _read(files[plane][name], like=first)
            targets[at] = _read(files[FOCUSED_Z][name], like=first)
            if progress is not None:
                progress(at + 1, len(names))

    stored = in_files(
        cache_folder() if cache is None else Path(cache),
        f"bbbc006-w{channel}-{digest_of([str(folder), wanted, most_fields])[:12]}",
        [z, [[_facts(files[plane][name]) for plane in files] for name in names]],
        (len(names), len(z), *first.shape),
        first.dtype,
        fill,
    )
    return RecordedPairs(
        *stored,
        defocus_um=(FOCUSED_Z - np.array(z)) * STEP_UM,
        field=np.array([_number(name) for name in names]),
        modality="fluorescence",
        left_out=left_out,
    )


def _files(
    folder: Path, planes: list[int] | None, channel: int
) -> tuple[list[int], dict[int, dict[str, Path]]]:
    """Return which planes are taken, and the files of these and of the one in focus by well and site."""
    inside = sorted(one.name for one in folder.iterdir()) if folder.is_dir() else []
    there = {int(found[1]): name for name in inside if (found := re.fullmatch(rf"{_PLANE}(\d\d)", name))}
    if not there:
        found = ", ".join(inside[:5]) + (f" and {len(inside) - 5} more" if len(inside) > 5 else "")
        what = (found or "nothing") if folder.is_dir() else "no such folder"
        raise DatasetError(f"{folder} does not hold BBBC006: expected {_EXPECTED}; found {what}")
    z = sorted(there) if planes is None else planes
    missing = [f"{_PLANE}{plane:02d}" for plane in sorted({*z, FOCUSED_Z}) if plane not in there]
    if missing:
        raise DatasetError(
            f"{folder} lacks {', '.join(missing)}: found z = {', '.join(map(str, sorted(there)))}; "
            f"z = {FOCUSED_Z} is in focus, what the others are to become"
        )
    if planes is None and z == [FOCUSED_Z]:
        raise DatasetError(f"{folder} has no plane out of focus: found z = {FOCUSED_Z} only")
    files = {plane: _files_of_plane(folder / there[plane], channel) for plane in sorted({*z, FOCUSED_Z})}
    return z, files


def _files_of_plane(folder: Path, channel: int) -> dict[str, Path]:
    # Windows unpacks an archive into a folder of its name, where the archive has such a folder too
    nested = folder / folder.name
    folder = nested if nested.is_dir() else folder
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        found = _FILE.fullmatch(file.name)
        if found is None or int(found["channel"]) != channel:
            continue
        name = f"{found['row'].lower()}{found['column']}_s{found['site']}"
        if name in files:
            raise DatasetError(
                f"two files in {folder} are of {name}, channel {channel}: {files[name].name} and {file.name}"
            )
        files[name] = file
    if not files:
        raise DatasetError(f"no file in {folder} is of channel {channel}: expected {_EXPECTED}")
    return files


def _number(name: str) -> int:
    """Return the number of a field by its well and site, "a01_s1"."""
    row, column, site = ord(name[0]) - ord("a"), int(name[1:3]) - 1, int(name[-1]) - 1
    return (24 * row + column) * 2 + site


def _facts(file: Path) -> tuple[str, int, int]:
    """Return what changes when a file does."""
    facts = file.stat()
    return file.name, facts.st_size, facts.st_mtime_ns


def _read(file: Path, like: NDArray[Any] | None = None) -> NDArray[Any]:
    try:
        frame = tifffile.imread(file)
    # of a broken file the reader and its codecs raise whatever happens to them
    except Exception as error:
        raise DatasetError(f"{file} cannot be read: {error}") from error
    frame = frame.astype(frame.dtype.newbyteorder("="), copy=False)
    if like is not None and (frame.shape, frame.dtype) != (like.shape, like.dtype):
        raise DatasetError(
            f"frames must be of one size and type: {file} is {frame.dtype} {frame.shape}, "
            f"others {like.dtype} {like.shape}"
        )
    return frame
