"""How sharp each tile of a frame is, as a whole and along every direction, from one pass over the frame."""

import dataclasses
import json
from typing import Any

import cv2
import numpy as np

from ._laplacian import half_resolution
from ._moments import mean
from ._preparation import MIN_SIZE_PX, prepare

__all__ = ["SPECTRAL_MOMENTS", "TileScores", "check_grid", "score_tiles"]

SPECTRAL_MOMENTS = ((2, 0), (1, 1), (0, 2), (4, 0), (3, 1), (2, 2), (1, 3), (0, 4))
"""Powers p, q of the frequencies along x (to the right) and y (down) in the moments of a tile."""

DIGITS = 7
"""Of each number in the record: a frame of 8 bits has fewer."""


@dataclasses.dataclass(frozen=True, eq=False)
class TileScores:
    """Sharpness of the tiles of one frame, relative to the squared mean of the frame.

    Parameters
    ----------
    sharpness : numpy.ndarray
        Of each tile by the metric `smoothed_laplacian`, shape (rows, columns).
    moments : numpy.ndarray
        The moments ``m_pq``, the mean over each tile of power times ``fx**p fy**q``, in the order of
        `SPECTRAL_MOMENTS`; shape (8, rows, columns). Those of second order give the squared gradient along
        every direction, those of fourth order tell which frequencies it is made of.
    frame_px : tuple of int
        Rows and columns of the frame.
    """

    sharpness: np.ndarray
    moments: np.ndarray
    frame_px: tuple[int, int]

    def as_json(self) -> str:
        """Return it as text, for a column of a table; `of_json` reads it."""
        said = {
            "frame_px": self.frame_px,
            "sharpness": _rounded(self.sharpness),
            "moments": _rounded(self.moments),
        }
        return json.dumps(said, separators=(",", ":"))

    @classmethod
    def of_json(cls, text: str) -> "TileScores":
        """Return what `as_json` wrote."""
        said = json.loads(text)
        height_px, width_px = said["frame_px"]
        return cls(np.array(said["sharpness"]), np.array(said["moments"]), (height_px, width_px))


def _rounded(values: np.ndarray) -> Any:
    if values.ndim == 0:
        return float(f"{values:.{DIGITS}g}")
    return [_rounded(part) for part in values]


def check_grid(grid: tuple[int, int]) -> tuple[int, int]:
    """Return `grid` as a tuple; raise a ValueError unless it is two positive integers."""
    try:
        rows, columns = grid
    except (TypeError, ValueError):
        rows = columns = 0
    if not (isinstance(rows, int) and isinstance(columns, int) and min(rows, columns) >= 1):
        raise ValueError(f"grid must be (rows, columns), two integers from 1 on, got {grid!r}")
    return rows, columns


def score_tiles(image: np.ndarray, grid: tuple[int, int] = (4, 4)) -> TileScores:
    """Score all tiles of a frame at once: it is filtered as a whole, and the tiles are averages of that.

    Parameters
    ----------
    image : numpy.ndarray, shape (H, W) or (H, W, 3)
        A grey or RGB frame, of at least 16 x 16 px a tile.
    grid : tuple of int
        Rows and columns of tiles. They are of one size, whole pixels or not.

    Returns
    -------
    TileScores
        Brightness is taken out by the mean of the whole frame, so that tiles can be compared.

    Raises
    ------
    ValueError
        If a tile would be smaller, or the mean of the frame is not a positive number; `examine_frame` tells
        such frames.
    TypeError
        If the frame does not hold real numbers.

    Notes
    -----
    The derivatives are Scharr's, after the blur of `smoothed_laplacian`: of small kernels they depend least
    on the direction (H. Scharr, *Optimale Operatoren in der digitalen Bildverarbeitung*, Heidelberg 2000).
    What is averaged are the moments of the spectrum (M. S. Longuet-Higgins, *The statistical analysis of a
    random, moving surface*, Phil. Trans. R. Soc. A 249 (1957) 321).
    """
    rows, columns = check_grid(grid)
    grey = prepare(image, None, 0.0)
    height_px, width_px = grey.shape
    if min(height_px / rows, width_px / columns) < MIN_SIZE_PX:
        raise ValueError(
            f"a grid of {rows} x {columns} tiles of at least {MIN_SIZE_PX} px does not fit in a frame of "
            f"{height_px} rows x {width_px} columns"
        )
    brightness = mean(grey)
    if not (brightness > 0 and np.isfinite(brightness)):
        raise ValueError(f"tiles are scored relative to the mean of the frame, which is {brightness:g}")
    smooth = half_resolution(grey)
    x, y = _slope(smooth, 1, 0), _slope(smooth, 0, 1)
    xx, xy, yy = _slope(x, 1, 0), _slope(x, 0, 1), _slope(y, 0, 1)

    def averaged(values: np.ndarray) -> np.ndarray:
        return cv2.resize(values, (columns, rows), interpolation=cv2.INTER_AREA).astype(np.float64)

    pairs = ((x, x), (x, y), (y, y), (xx, xx), (xx, xy), (xy, xy), (xy, yy), (yy, yy))
    moments = np.stack([averaged(one * other) for one, other in pairs])
    laplacian = cv2.Laplacian(smooth, cv2.CV_32F)
    sharpness = np.maximum(averaged(laplacian * laplacian) - averaged(laplacian) ** 2, 0.0)
    return TileScores(sharpness / brightness**2, moments / brightness**2, (height_px, width_px))


def _slope(values: np.ndarray, x: int, y: int) -> np.ndarray:
    return cv2.Scharr(values, cv2.CV_32F, x, y, scale=1 / 32)
