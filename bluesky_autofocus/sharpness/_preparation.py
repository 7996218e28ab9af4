"""From a camera's frame to the grey frame that the metrics read."""

import operator
from collections.abc import Sequence

import cv2
import numpy as np

Roi = tuple[int, int, int, int]
"""(row_start, row_stop, col_start, col_stop) in px, half-open as a slice."""

MIN_SIZE_PX = 16
"""Shortest side of a frame or region: the coarsest metric looks at a sixteenth of the resolution."""

_KEPT_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))


def check_roi(roi: Sequence[int]) -> Roi:
    """Return `roi` as a tuple of four int; raise ValueError if no frame could contain it."""
    try:
        row_start, row_stop, col_start, col_stop = (operator.index(edge) for edge in roi)
    except (TypeError, ValueError):
        raise ValueError(
            f"roi must be four integers (row_start, row_stop, col_start, col_stop), got {roi!r}"
        ) from None
    if row_start < 0 or col_start < 0:
        raise ValueError(f"roi must not start before 0, got {tuple(roi)}")
    if min(row_stop - row_start, col_stop - col_start) < MIN_SIZE_PX:
        raise ValueError(f"roi must be at least {MIN_SIZE_PX} px high and wide, got {tuple(roi)}")
    return row_start, row_stop, col_start, col_stop


def check_shape(shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `shape` is that of a grey or RGB frame of sufficient size."""
    is_grey_or_rgb = len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)
    if not is_grey_or_rgb or min(shape[:2]) < MIN_SIZE_PX:
        raise ValueError(
            f"expected a grey (H, W) or RGB (H, W, 3) frame of at least {MIN_SIZE_PX} x {MIN_SIZE_PX} px, "
            f"got shape {shape}"
        )


def as_opencv(image: np.ndarray) -> np.ndarray:
    """Return a frame as uint8, uint16 or float32, the dtypes for which every OpenCV function used works.

    OpenCV 5 rejects float16 and all wider integers, and bytes in foreign order (``>u2`` from TIFF or HDF5).
    float32 holds integers up to 2**24 exactly.
    """
    if image.dtype in _KEPT_DTYPES:
        return image
    if image.dtype.kind == "b":
        return image.astype(np.uint8)
    if image.dtype.kind in "uif":
        return image.astype(np.float32)
    raise TypeError(f"expected a frame of real numbers, got dtype {image.dtype}")


def crop(image: np.ndarray, roi: Roi) -> np.ndarray:
    """Return the view of `image` inside `roi`; raise ValueError if the frame does not contain it."""
    row_start, row_stop, col_start, col_stop = roi
    height_px, width_px = image.shape[:2]
    if row_stop > height_px or col_stop > width_px:
        raise ValueError(
            f"roi rows {row_start}:{row_stop}, columns {col_start}:{col_stop} do not fit in a frame of "
            f"{height_px} rows x {width_px} columns"
        )
    return image[row_start:row_stop, col_start:col_stop]


def prepare(image: np.ndarray, roi: Roi | None, denoise_sigma_px: float) -> np.ndarray:
    """Return the grey frame, shape (H, W), that a metric reads."""
    image = np.asarray(image)
    check_shape(image.shape)
    if roi is not None:
        image = crop(image, roi)
    grey = as_opencv(image)
    if grey.ndim == 3:
        grey = cv2.cvtColor(grey, cv2.COLOR_RGB2GRAY)
    if denoise_sigma_px > 0:
        # In float32, because the grey levels that rounding would remove are what smoothing has gained.
        grey = cv2.GaussianBlur(grey.astype(np.float32, copy=False), (0, 0), denoise_sigma_px)
    return grey
