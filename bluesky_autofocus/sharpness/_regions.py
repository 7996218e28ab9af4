"""Regions of a frame, in pixels or as fractions of it."""

from collections.abc import Sequence

import numpy as np

from ._preparation import MIN_SIZE_PX, check_roi, crop

__all__ = ["Region", "check_region", "cut_out"]

Region = tuple[int, int, int, int] | tuple[float, float, float, float]
"""(row_start, row_stop, col_start, col_stop): integers are pixels, floats are fractions of the frame."""


def check_region(region: Sequence[float]) -> Region:
    """Return a region as a tuple; raise a ValueError if no frame could contain it."""
    try:
        row_start, row_stop, col_start, col_stop = region
        fractions = any(isinstance(edge, float) for edge in region)
    except (TypeError, ValueError):
        return check_roi(region)  # type: ignore[arg-type] - raises
    if not fractions:
        return check_roi(region)  # type: ignore[arg-type] - integers, or it raises
    if not (0 <= row_start < row_stop <= 1 and 0 <= col_start < col_stop <= 1):
        raise ValueError(
            "a roi of fractions must be (row_start, row_stop, col_start, col_stop), ascending from 0 to 1, "
            f"got {tuple(region)}"
        )
    return float(row_start), float(row_stop), float(col_start), float(col_stop)


def cut_out(image: np.ndarray, region: Sequence[float]) -> np.ndarray:
    """Return the view of a frame inside a region.

    Raises
    ------
    ValueError
        If the frame does not contain it, or too few pixels are left, saying how large the frame is.
    """
    region = check_region(region)
    if not isinstance(region[0], float):
        return crop(image, region)  # type: ignore[arg-type] - of integers
    height_px, width_px = image.shape[:2]
    top, bottom = round(region[0] * height_px), round(region[1] * height_px)
    left, right = round(region[2] * width_px), round(region[3] * width_px)
    if min(bottom - top, right - left) < MIN_SIZE_PX:
        raise ValueError(
            f"roi {region} of a frame of {height_px} rows x {width_px} columns is {bottom - top} rows x "
            f"{right - left} columns: expected at least {MIN_SIZE_PX} of each"
        )
    return crop(image, (top, bottom, left, right))
