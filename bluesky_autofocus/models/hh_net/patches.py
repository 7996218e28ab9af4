"""What is looked at of a colour frame: whether it shows anything, and the patches that show most.

Frames are RGB of uint8, shape (H, W, 3), in bright field: what is stained is darker than the background.
"""

import functools
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.records import Reason
from bluesky_autofocus.sharpness import examine_frame

__all__ = ["GREY", "as_colour", "busiest", "coarse_of", "logarithms", "patches_of", "problem_of"]

GREY = ("refuse", "repeat")
"""What can be done with a grey frame."""

_DARK = 8.0
"""Added to intensities before their logarithm, so that noise in the dark counts little."""
_DARK_LEVEL = 3.0
"""Grey level: a bright field is never that dark on average in any colour."""
_MOST_CLIPPED = 0.5
"""Share of the pixels of a colour that may be at the highest grey level. Where what is bare is clipped the
cells are still as sharp as they are."""
_LOOKED_AT = 256
"""About as many rows and columns are looked at to tell black, saturated and uniform frames."""
_COARSE_PX = 8
"""Side of the squares by whose mean stained content is told: noise is gone, and defocus matters little."""
_LEAST_CONTRAST = 4.0
"""Grey levels by which the background is at least brighter than what is stained, in such squares."""


def as_colour(frame: NDArray[Any], grey: str = "refuse") -> NDArray[np.uint8]:
    """Return a frame if it is one of colours.

    Parameters
    ----------
    frame : ndarray of uint8, shape (H, W, 3)
    grey : str
        One of `GREY`. ``repeat`` takes a frame of shape (H, W) for one whose colours are all the same. It
        tells nothing about the sign of defocus then.

    Raises
    ------
    ValueError
        If the frame is grey and that was not asked for, or has another shape or dtype.
    """
    if grey not in GREY:
        raise ValueError(f"grey is {grey!r}: expected one of {', '.join(GREY)}")
    frame = np.asarray(frame)
    if frame.dtype != np.uint8:
        raise ValueError(f"the frame is of {frame.dtype}: expected uint8")
    if frame.ndim == 2:
        if grey != "repeat":
            raise ValueError(
                f"the frame has shape {frame.shape}: expected colours, (H, W, 3); "
                "a grey frame is taken only with grey='repeat'"
            )
        return np.repeat(frame[..., None], 3, axis=2)
    if frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"the frame has shape {frame.shape}: expected (H, W, 3)")
    return frame


def patches_of(frame: NDArray[Any], patch_px: int = 300) -> NDArray[np.intp]:
    """Return the top left corners of patches that do not overlap.

    As many as fit, 5 x 6 of 300 px in 1536 x 2048, in a grid in the middle of the frame. What is left over
    is left out, half of it at each side; of an odd number the larger half is below and to the right.

    Parameters
    ----------
    frame : ndarray, shape (H, W, ...)
    patch_px : int
        Side of a patch.

    Returns
    -------
    ndarray of int, shape (n, 2)
        Row and column of each corner, as they are read.

    Raises
    ------
    ValueError
        If the frame is smaller than a patch, or a patch has no pixels.
    """
    if patch_px < 1:
        raise ValueError(f"patch_px is {patch_px!r}: expected at least 1")
    height, width = frame.shape[:2]
    if min(height, width) < patch_px:
        raise ValueError(f"the frame is {height} x {width} px: expected at least one patch of {patch_px} px")
    rows, columns = (n % patch_px // 2 + patch_px * np.arange(n // patch_px) for n in (height, width))
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)


@functools.cache
def logarithms() -> NDArray[np.float32]:
    """Return the logarithm of intensity of each grey level, shape (256,): stains add up in it."""
    return np.log(np.arange(256) + _DARK).astype(np.float32)


def coarse_of(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a frame made smaller, by which `problem_of` and `busiest` tell stained content."""
    height, width = (max(n // _COARSE_PX, 1) for n in frame.shape[:2])
    return np.asarray(cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def problem_of(
    frame: NDArray[np.uint8], coarse: NDArray[np.uint8], full_scale: float | None = None
) -> Reason | None:
    """Return why no focus can be told from a frame, or None.

    Each of its colours has to be usable, and something has to be stained: Otsu's threshold always parts a
    frame in two, so an empty one is told by the contrast of the parts.

    Parameters
    ----------
    frame : ndarray of uint8, shape (H, W, 3)
    coarse : ndarray of uint8
        Of `coarse_of`.
    full_scale : float, optional
        Grey level at which the camera saturates, by default 255.
    """
    every = max(1, min(frame.shape[:2]) // _LOOKED_AT)
    for colour in range(3):
        some = np.ascontiguousarray(frame[::every, ::every, colour])
        quality = examine_frame(some, full_scale=full_scale, dark_level=_DARK_LEVEL)
        if quality.problem is not None:
            return Reason(quality.problem)
        if quality.saturated_fraction > _MOST_CLIPPED:
            return Reason.SATURATED
    grey = cv2.cvtColor(coarse, cv2.COLOR_RGB2GRAY)
    _, stained = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY_INV + cv2.THRESH_OTSU)
    if not 0 < cv2.countNonZero(stained) < stained.size:
        return Reason.EMPTY
    contrast = cv2.mean(grey, 1 - stained)[0] - cv2.mean(grey, stained)[0]
    return Reason.EMPTY if contrast < _LEAST_CONTRAST else None


def busiest(
    coarse: NDArray[np.uint8], frame_px: tuple[int, int], corners: NDArray[np.intp], side: int, most: int
) -> NDArray[np.intp]:
    """Return the corners of those patches that have the most stained content, the one with most first.

    Defocus takes fine detail first, and noise is strongest in it; so patches compare by coarse detail.

    Parameters
    ----------
    coarse : ndarray of uint8
        Of `coarse_of`.
    frame_px : tuple of int
        Rows and columns of the frame.
    corners : ndarray of int, shape (n, 2)
        Top left corners of the patches.
    side : int
        Of a patch.
    most : int
        How many, at least 1.
    """
    x = np.log(coarse.astype(np.float32) + np.float32(_DARK))
    energy = ((x - cv2.blur(x, (3, 3))) ** 2).sum(axis=2)
    sums: Any = cv2.integral(energy)
    scale = np.array(coarse.shape[:2]) / frame_px
    (top, left), (bottom, right) = (np.rint(at * scale).astype(np.intp).T for at in (corners, corners + side))
    content = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return corners[np.argsort(-content, kind="stable")[:most]]
