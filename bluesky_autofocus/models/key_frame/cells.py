"""Find the cells of a field, and cut out of every plane what a network looks at.

Frames are divided by their own low-pass, so that uneven light and its fluctuations drop out, and all planes
of a scan are scaled by one number: it is by comparing planes that focus is found, and a phase object has
least contrast in it.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["MOST_CELLS", "Mask", "crops", "find_cells", "mask_of_cells", "relative"]

Mask = Callable[[NDArray[np.float32]], NDArray[Any]]
"""Takes a stack of relative frames, shape (n, H, W), and returns where cells are, shape (H, W)."""

MOST_CELLS = 4
"""Cells of a field that vote: the largest ones. More of them tell little more and cost as much again."""

_FLAT_PX = 65
_FINEST_PX, _COARSEST_PX = 1.2, 4.0
"""Detail of cells lies between: it is neither noise nor uneven light."""
_SPECK = 0.06
"""Contrast from which on detail counts no more, so that a speck of dirt is not taken for a cell."""
_ENERGY_PX = 9.0
_LEAST_CONTRAST = 2.0
"""Energy of detail in cells over that beside them. Without any, noise alone gives less than half of this."""
_COVERED = 0.4
_LEAST_COVERED = 0.25
"""Share of a patch that a cell is to fill, and of the only one there is."""
_CLIP = 6.0


def relative(frames: ArrayLike) -> NDArray[np.float32]:
    """Return frames relative to their own low-pass: 0 is the local mean.

    Parameters
    ----------
    frames : array_like, shape (n, H, W)

    Returns
    -------
    ndarray of float32, shape (n, H, W)
    """
    planes = np.asarray(frames)
    out = np.empty(planes.shape, np.float32)
    for plane, into in zip(planes, out, strict=True):
        bright = np.ascontiguousarray(plane, np.float32)
        flat = cv2.blur(bright, (_FLAT_PX, _FLAT_PX), borderType=cv2.BORDER_REFLECT)
        np.divide(bright, np.maximum(flat, 1e-6), out=into)
        into -= 1
    return out


def mask_of_cells(planes: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return where cells are, by the energy of detail in all planes together.

    Otsu's threshold on its logarithm; none where the two sides differ by little.

    Parameters
    ----------
    planes : ndarray, shape (n, H, W)
        Relative frames.

    Returns
    -------
    ndarray of uint8, shape (H, W)
        1 in cells.
    """
    energy = np.zeros(planes.shape[1:], np.float32)
    for plane in planes:
        fine = cv2.GaussianBlur(plane, (0, 0), _FINEST_PX)
        fine -= cv2.GaussianBlur(fine, (0, 0), _COARSEST_PX)
        energy += np.minimum(fine * fine, _SPECK**2)
    energy = cv2.GaussianBlur(energy, (0, 0), _ENERGY_PX)
    logs = np.log(np.maximum(energy, 1e-12))
    low, high = float(logs.min()), float(logs.max())
    if not high - low > np.log(_LEAST_CONTRAST):
        return np.zeros(energy.shape, np.uint8)
    grey = ((logs - low) * (255 / (high - low))).astype(np.uint8)
    _, mask = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    inside = mask.astype(bool)
    if not inside.any() or inside.all():
        return np.zeros(energy.shape, np.uint8)
    if energy[inside].mean() < _LEAST_CONTRAST * energy[~inside].mean():
        return np.zeros(energy.shape, np.uint8)
    return mask.astype(np.uint8)


def find_cells(
    planes: NDArray[np.float32], patch_px: int, mask: NDArray[Any] | None = None, most: int = MOST_CELLS
) -> list[tuple[int, int]]:
    """Return the centres of cells, the best first; patches about them lie within the frame.

    A patch is chosen by how much of it is cell that no patch before has shown, and by how deep in the cell
    its middle lies. So where cells touch a region is taken for several.

    Parameters
    ----------
    planes : ndarray, shape (n, H, W)
        Relative frames of one scan.
    patch_px : int
        Side of the crops that will be cut.
    mask : ndarray, shape (H, W), optional
        Where cells are; by default `mask_of_cells`.
    most : int
        How many to return at most.

    Returns
    -------
    list of (row, column)

    Raises
    ------
    ValueError
        If the frames are smaller than a patch, or the mask is not of their shape.
    """
    shape = planes.shape[1:]
    if min(shape) < patch_px:
        raise ValueError(f"frames have shape {shape}: expected at least a patch of {patch_px} px")
    given = mask_of_cells(planes) if mask is None else np.asarray(mask)
    if given.shape != shape:
        raise ValueError(f"the mask has shape {given.shape}: expected that of the frames, {shape}")
    left = np.ascontiguousarray(given.astype(bool).astype(np.float32))
    # the border counts as outside: of a cell that it cuts off the middle of what is seen is taken
    inside = cv2.copyMakeBorder(left.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5)[1:-1, 1:-1] / patch_px
    half = patch_px // 2
    allowed = np.zeros(shape, np.uint8)
    allowed[half : shape[0] - half + 1, half : shape[1] - half + 1] = 1
    found: list[tuple[int, int]] = []
    while len(found) < most:
        covered = cv2.blur(left, (patch_px, patch_px), borderType=cv2.BORDER_CONSTANT)
        _, _, _, (column, row) = cv2.minMaxLoc(covered + depth, allowed)
        if covered[row, column] < (_COVERED if found else _LEAST_COVERED):
            break
        found.append((row, column))
        left[row - half : row + half, column - half : column + half] = 0
        cv2.circle(allowed, (column, row), half, 0, -1)
    return found


def crops(planes: NDArray[np.float32], centres: list[tuple[int, int]], patch_px: int) -> NDArray[np.float32]:
    """Return patches about the centres, scaled; what would stick out of the frame is moved inwards.

    Parameters
    ----------
    planes : ndarray, shape (n, H, W)
        Relative frames of one scan.
    centres : list of (row, column)
    patch_px : int
        Side of a patch.

    Returns
    -------
    ndarray of float32, shape (n_cells, n, patch_px, patch_px)
        All planes of a cell divided by their common deviation.
    """
    n, height, width = planes.shape
    out = np.empty((len(centres), n, patch_px, patch_px), np.float32)
    for cell, (row, column) in zip(out, centres, strict=True):
        top = min(max(row - patch_px // 2, 0), height - patch_px)
        left = min(max(column - patch_px // 2, 0), width - patch_px)
        cell[:] = planes[:, top : top + patch_px, left : left + patch_px]
        cell /= cell.std() + 1e-6
    return np.clip(out, -_CLIP, _CLIP, out=out)
