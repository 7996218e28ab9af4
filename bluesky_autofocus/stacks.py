"""Read a recorded focus stack: frames of one field at known focus positions."""

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile

__all__ = ["FocusStack", "StackError", "read_stack"]

IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp")

UM_PER_UNIT = {
    "um": 1.0,
    "µm": 1.0,
    "μm": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "nm": 1e-3,
    "mm": 1e3,
    "m": 1e6,
}
"""Length units as OME and ImageJ spell them; ImageJ escapes the micro sign."""


class StackError(ValueError):
    """The file or folder is not a focus stack that can be replayed."""


@dataclasses.dataclass(frozen=True)
class FocusStack:
    """Frames of one field at ascending focus positions.

    Parameters
    ----------
    name : str
        Of the file or folder.
    frames : numpy.ndarray
        Shape (N, H, W) or (N, H, W, 3); uint8, uint16 or float.
    positions_um : numpy.ndarray
        Shape (N,), ascending.
    unit : str
        "um", or "plane" where nobody knows the step; one plane then counts as 1 um.
    focus_index : int or None
        The plane that is in focus, where the stack comes with such a label.
    """

    name: str
    frames: np.ndarray
    positions_um: np.ndarray
    unit: str = "um"
    focus_index: int | None = None

    def __post_init__(self) -> None:
        planes = len(self.frames)
        if planes < 2:
            raise StackError(f"{self.name}: a focus stack has at least 2 planes, this one has {planes}")
        if self.positions_um.shape != (planes,):
            raise StackError(f"{self.name}: {planes} planes but {self.positions_um.size} positions")
        if not np.isfinite(self.positions_um).all() or not (np.diff(self.positions_um) > 0).all():
            raise StackError(f"{self.name}: positions must be finite and all different")

    def plane_at(self, position_um: float) -> int:
        """Return the index of the plane nearest to a position."""
        return int(np.argmin(np.abs(self.positions_um - position_um)))


def read_stack(
    path: Path | str,
    *,
    step_um: float | None = None,
    positions_um: Sequence[float] | None = None,
    channel: int | None = None,
) -> FocusStack:
    """Read a focus stack from one multi-page TIFF or a folder of single images.

    Positions come from the first of: `positions_um`; `step_um`; a JSON file of the same name beside it
    (``{"positions": [...], "unit": "um", "focus_index": 3}``); the OME or ImageJ metadata.

    Parameters
    ----------
    path : path
        A TIFF or OME-TIFF, or a folder whose images, in natural order of their names, are the planes.
    step_um : float, optional
        Distance between neighbouring planes.
    positions_um : sequence of float, optional
        Position of each plane.
    channel : int, optional
        Which channel of a multi-channel stack to take.

    Returns
    -------
    FocusStack
        Sorted by position.

    Raises
    ------
    StackError
        If there is nothing to read, fewer than two planes, frames of unequal size, or no positions.
    """
    path = Path(path)
    if not path.exists():
        raise StackError(f"there is no focus stack at {path}")
    frames, spacing_um = _read_folder(path) if path.is_dir() else _read_tiff(path, channel)
    beside = path.with_suffix(".json")
    notes = _read_notes(beside) if beside.is_file() else {}
    unit = "um"
    if positions_um is not None:
        positions = np.asarray(positions_um, dtype=float)
    elif step_um is not None:
        if not (math.isfinite(step_um) and step_um > 0):
            raise StackError(f"step_um must be positive, got {step_um!r}")
        positions = np.arange(len(frames)) * float(step_um)
    elif "positions" in notes:
        positions = np.asarray(notes["positions"], dtype=float)
        unit = "plane" if str(notes.get("unit", "um")).startswith("plane") else "um"
    elif spacing_um is not None:
        positions = np.arange(len(frames)) * spacing_um
    elif len(frames) < 2:
        positions = np.zeros(len(frames))
    else:
        raise StackError(f"{path.name} does not say how far apart its planes are: give step_um (--step-um)")
    if positions.shape != (len(frames),):
        raise StackError(f"{path.name}: {len(frames)} planes but {positions.size} positions")
    order = np.argsort(positions, kind="stable")
    focus = notes.get("focus_index")
    if focus is not None and focus not in range(len(frames)):
        raise StackError(f"{beside.name}: focus_index must be a plane, 0 .. {len(frames) - 1}, got {focus!r}")
    return FocusStack(
        name=path.stem,
        frames=frames[order],
        positions_um=positions[order],
        unit=unit,
        focus_index=None if focus is None else int(np.flatnonzero(order == focus)[0]),
    )


def _read_notes(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StackError(f"{path} is not JSON: {error}") from error


def _read_folder(folder: Path) -> tuple[np.ndarray, float | None]:
    files = sorted((f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES), key=_natural)
    if not files:
        raise StackError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    frames = []
    for file in files:
        frame = _read_image(file)
        if frames and (frame.shape, frame.dtype) != (frames[0].shape, frames[0].dtype):
            raise StackError(
                f"frames must be of one size and type: {files[0].name} is {frames[0].shape} "
                f"{frames[0].dtype}, {file.name} {frame.shape} {frame.dtype}"
            )
        frames.append(frame)
    return np.stack(frames), None


def _read_image(file: Path) -> np.ndarray:
    """Read a grey or colour image; transparency is left out."""
    if file.suffix.lower().startswith(".tif"):
        try:
            frame = tifffile.imread(file)
        except tifffile.TiffFileError as error:
            raise StackError(f"{file} is not a TIFF file: {error}") from error
        if not (frame.ndim == 2 or (frame.ndim == 3 and frame.shape[2] in (3, 4))):
            raise StackError(f"{file} is not one grey or colour image: its shape is {frame.shape}")
        return frame[..., :3] if frame.ndim == 3 else frame
    import cv2

    frame = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    if frame is None:
        raise StackError(f"{file} cannot be read as an image")
    return frame[..., 2::-1] if frame.ndim == 3 else frame


def _natural(path: Path) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def _read_tiff(path: Path, channel: int | None) -> tuple[np.ndarray, float | None]:
    try:
        with tifffile.TiffFile(path) as tiff:
            if not tiff.series:
                raise StackError(f"{path} holds no images")
            if len(tiff.series) > 1:
                found = sorted({series.shape for series in tiff.series})
                raise StackError(f"{path.name}: frames must be of one size and one series, found {found}")
            series = tiff.series[0]
            return _planes_first(series.asarray(), series.axes, path.name, channel), _spacing_um(tiff)
    except tifffile.TiffFileError as error:
        raise StackError(f"{path} is not a TIFF file: {error}") from error


def _planes_first(pixels: np.ndarray, axes: str, name: str, channel: int | None) -> np.ndarray:
    """Bring an array with named axes into the order plane, y, x[, colour].

    Parameters
    ----------
    axes : str
        One letter a dimension as `tifffile` gives them: Y, X, S (samples of a colour), C (channel), and
        any other for the planes.
    """
    if "C" in axes and pixels.shape[axes.index("C")] > 1:
        channels = pixels.shape[axes.index("C")]
        if channel is None or not 0 <= channel < channels:
            raise StackError(f"{name} has {channels} channels: say which, 0 .. {channels - 1}; got {channel}")
        pixels = pixels.take([channel], axis=axes.index("C"))
    planes = [
        axis for axis, length in zip(axes, pixels.shape, strict=True) if axis not in "YXS" and length > 1
    ]
    if len(planes) > 1:
        raise StackError(f"{name} has more than one dimension beside y and x: {axes} {pixels.shape}")
    plane = planes[0] if planes else next((axis for axis in axes if axis not in "YXS"), None)
    if plane is None:
        pixels, axes, plane = pixels[np.newaxis], f"Z{axes}", "Z"
    wanted = f"{plane}YX" + ("S" if "S" in axes else "")
    rest = "".join(axis for axis in axes if axis not in wanted)
    pixels = pixels.transpose([axes.index(axis) for axis in wanted + rest])
    pixels = pixels.reshape(pixels.shape[: len(wanted)])
    # the fourth sample of a colour is transparency
    return pixels[..., :3] if wanted.endswith("S") else pixels


def _spacing_um(tiff: tifffile.TiffFile) -> float | None:
    """Return the distance between planes from OME or ImageJ metadata, None where neither gives a length."""
    size, unit = None, ""
    imagej = tiff.imagej_metadata or {}
    if tiff.ome_metadata:
        for element in ElementTree.fromstring(tiff.ome_metadata).iter():
            if element.tag.endswith("}Pixels") and "PhysicalSizeZ" in element.attrib:
                size, unit = element.attrib["PhysicalSizeZ"], element.attrib.get("PhysicalSizeZUnit", "µm")
                break
    elif "spacing" in imagej:
        size, unit = imagej["spacing"], str(imagej.get("unit", "um")).replace("\\u00B5", "µ")
    if size is None or unit not in UM_PER_UNIT:
        return None
    spacing_um = abs(float(size)) * UM_PER_UNIT[unit]
    return spacing_um if math.isfinite(spacing_um) and spacing_um > 0 else None
