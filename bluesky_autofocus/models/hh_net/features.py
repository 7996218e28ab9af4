"""The eighteen hand-crafted features of a colour frame of a stained smear.

Those of Ge et al., "HH-Net: Image driven microscope fast auto-focus with deep neural network" (section
2.2.3), of the frame as a whole. Frames are RGB of uint8, shape (H, W, 3), in bright field: what is stained is
darker than the background.
"""

import functools
import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.models.hh_net.patches import as_colour

__all__ = [
    "NAMES",
    "EmptyRegionError",
    "cooccurrence",
    "correlations",
    "handcrafted",
    "moments",
    "region_of_interest",
    "shape",
    "texture",
]

NAMES = (
    "mean",
    "variance",
    "skewness",
    "kurtosis",
    "sum_entropy",
    "sum_average",
    "difference_variance",
    "difference_entropy",
    "convexity",
    "compactness",
    "aspect_ratio",
    "area_ratio",
    "correlation_12",
    "correlation_13",
    "correlation_14",
    "correlation_23",
    "correlation_24",
    "correlation_34",
)
"""What `handcrafted` returns, in its order."""

_CROP_PX = 100
"""Side of the patches that are correlated."""
_MOST_BINNING = 16
_LEVELS = 32
_PAIRS = ((0, 1), (1, 1), (1, 0), (1, -1))
"""Rows and columns from a pixel to the neighbours that it is paired with: to 0, 45, 90 and 135 degrees."""
_HALVES = ((-0.5, -0.5), (-0.5, 0.5), (0.5, -0.5), (0.5, 0.5))
"""From the middle of a pixel to its corners."""


class EmptyRegionError(ValueError):
    """There is nothing stained in the frame, or too little."""


def handcrafted(
    frame: NDArray[Any], *, seed: int = 0, grey: str = "refuse", binning: int = 2
) -> NDArray[np.float32]:
    """Return the eighteen hand-crafted features of a frame, in the order of `NAMES`.

    `moments`, `texture` and `shape` of the region of interest, all in the grey frame after binning, and
    `correlations` of crops of the grey frame as it is.

    Parameters
    ----------
    frame : ndarray of uint8, shape (H, W, 3)
    seed : int
        Of the places of the crops. With one seed they are the same in all frames of a size.
    grey : str
        As for `as_colour`.
    binning : int
        Side in px, 1 to 16, of the squares that the mean is taken over first; rows and columns that do not
        fill one are left out. The region, its grey levels and its texture are those of the binned frame. The
        paper does not bin, which is 1 and takes several times as long as 2.

    Returns
    -------
    ndarray of float32, shape (18,)

    Raises
    ------
    EmptyRegionError
        If nothing in the frame is stained.
    ValueError
        If the frame is none of colours or too small, or there is no such binning.
    """
    levels = cv2.cvtColor(as_colour(frame, grey), cv2.COLOR_RGB2GRAY)
    if not 1 <= binning <= _MOST_BINNING:
        raise ValueError(f"binning is {binning!r}: expected 1 to {_MOST_BINNING}")
    crops = correlations(levels, seed)  # first, for it refuses frames that are too small
    height, width = (n // binning for n in levels.shape)
    if binning > 1:
        whole = levels[: height * binning, : width * binning]
        levels = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
    mask = region_of_interest(levels)
    left, top, columns, rows = cv2.boundingRect(mask)
    box = np.s_[top : top + rows, left : left + columns]
    levels, mask = levels[box], mask[box]
    return np.array(
        [*moments(levels, mask), *texture(cooccurrence(levels, mask)), *shape(mask), *crops], np.float32
    )


def region_of_interest(
    grey: NDArray[Any], *, least_contrast: float = 5.0, least_px: int = 16
) -> NDArray[np.uint8]:
    """Return where the region of interest is: the largest part that is stained, with its holes.

    Stained is what is darker than Otsu's threshold, and a part is what hangs together over edges or corners
    of pixels. Otsu's method always parts a frame in two, so an empty one is told by its contrast.

    The paper speaks of a mask and does not say how it was made.

    Parameters
    ----------
    grey : ndarray of uint8, shape (H, W)
    least_contrast : float
        By how many grey levels the background is at least brighter than what is stained, on average.
    least_px : int
        How many px the part has at least.

    Returns
    -------
    ndarray of uint8, shape (H, W)
        1 inside.

    Raises
    ------
    EmptyRegionError
        If there is no such region.
    """
    _, stained = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY_INV + cv2.THRESH_OTSU)
    contrast = 0.0
    if 0 < cv2.countNonZero(stained) < stained.size:
        contrast = cv2.mean(grey, 1 - stained)[0] - cv2.mean(grey, stained)[0]
    if contrast <= 0 or contrast < least_contrast:
        raise EmptyRegionError(
            f"the frame has a contrast of {contrast:.1f} grey levels between stained and background: "
            f"expected at least {least_contrast:g}"
        )
    _, number, parts, _ = cv2.connectedComponentsWithStats(stained, connectivity=8)
    largest = 1 + int(parts[1:, cv2.CC_STAT_AREA].argmax())  # 0 is the background
    area = int(parts[largest, cv2.CC_STAT_AREA])
    if area < least_px:
        raise EmptyRegionError(f"the largest stained part has {area} px: expected at least {least_px}")
    return _filled(_outline((number == largest).astype(np.uint8)), grey.shape)


def moments(grey: NDArray[Any], mask: NDArray[Any] | None = None) -> tuple[float, float, float, float]:
    """Return mean, variance, skewness and kurtosis of the grey levels (equations 1 to 4).

    Skewness and kurtosis are relative to the third and fourth power of the deviation; that of a normal
    distribution is 0 and 3. Where all levels are the same they are not defined, and are given as 0.

    Parameters
    ----------
    grey : ndarray of uint8, shape (H, W)
    mask : ndarray of uint8, shape (H, W), optional
        Other than 0 in the region. By default all of it.

    Raises
    ------
    EmptyRegionError
        If the region has no pixels.
    """
    counts = cv2.calcHist([grey], [0], mask, [256], [0, 256]).ravel().astype(np.float64)
    if not counts.sum():
        raise EmptyRegionError("the region has 0 px: expected at least 1")
    p = counts / counts.sum()
    level = np.arange(256.0)
    mean = float(p @ level)
    variance = float(p @ (level - mean) ** 2)
    if np.count_nonzero(counts) == 1:
        return mean, 0.0, 0.0, 0.0
    third, fourth = (float(p @ (level - mean) ** power) for power in (3, 4))
    return mean, variance, third / variance**1.5, fourth / variance**2


def cooccurrence(
    grey: NDArray[Any], mask: NDArray[Any] | None = None, *, levels: int = _LEVELS
) -> NDArray[np.float64]:
    """Return how often two grey levels are neighbours, the grey-level co-occurrence matrix.

    Of pixels at distance 1, in the directions 0, 45, 90 and 135 degrees taken together, each pair both ways
    round (symmetric), as shares of all pairs (normed). The 256 grey levels are put into classes of equal
    width, whatever levels occur. A pair counts if both pixels lie in the region.

    Parameters
    ----------
    grey : ndarray of uint8, shape (H, W)
    mask : ndarray of uint8, shape (H, W), optional
        Other than 0 in the region. By default all of it.
    levels : int
        Ng, the number of classes, 2 to 256.

    Returns
    -------
    ndarray of float64, shape (levels, levels)

    Raises
    ------
    EmptyRegionError
        If there is no pair in the region.
    ValueError
        If there is no such number of levels.
    """
    if not 2 <= levels <= 256:
        raise ValueError(f"levels is {levels!r}: expected 2 to 256")
    coarse = cv2.LUT(grey, (np.arange(256) * levels // 256).astype(np.uint8))
    if mask is not None:
        mask = (mask != 0).astype(np.uint8)  # so that two of them have a bit in common
    counts = np.zeros((levels, levels))
    for row, column in _PAIRS:
        here, there = _shifted(coarse, row, column)
        if not here.size:
            continue
        both = None if mask is None else cv2.bitwise_and(*_shifted(mask, row, column))
        counts += cv2.calcHist([here, there], [0, 1], both, [levels, levels], [0, levels, 0, levels])
    if not counts.any():
        raise EmptyRegionError("the region has no two neighbouring pixels: expected at least one pair")
    counts += counts.T
    return counts / counts.sum()


def texture(matrix: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Return sum entropy, sum average, difference variance and difference entropy (equations 5 to 8).

    Of the sum x+y of the levels of two neighbours and of their difference x-y, without its sign. Levels count
    from 1, so that sums run from 2 to 2 Ng; differences run from 0 to Ng - 1. Logarithms are natural.

    The paper's equation 7 has the sum entropy in the place of the mean difference, and equations 7 and 8 run
    over the numbers of a sum; here they are as they are usually defined, DV = sum((i - mean)^2 p_{x-y}(i)).

    Parameters
    ----------
    matrix : ndarray, shape (Ng, Ng)
        A co-occurrence matrix that adds up to 1.
    """
    levels = len(matrix)
    sums, differences = _sums_and_differences(levels)
    of_sum = np.bincount(sums, matrix.ravel(), 2 * levels - 1)
    of_difference = np.bincount(differences, matrix.ravel(), levels)
    difference = np.arange(levels)
    variance = of_difference @ (difference - of_difference @ difference) ** 2
    average = of_sum @ np.arange(2, 2 * levels + 1)
    return _entropy(of_sum), float(average), float(variance), _entropy(of_difference)


def shape(mask: NDArray[Any]) -> tuple[float, float, float, float]:
    """Return convexity, compactness, aspect ratio and area ratio (equations 9 to 12).

    Of the largest outline in the mask, with its holes. Pixels are squares: the area A is their number, the
    convex hull is that of their corners, and Dx and Dy are the width and height of the box about them. The
    perimeter P is the length of the line through the middles of the outermost pixels and 4 px, by which the
    outline of a rectangle, or of anything convex, grows from there to the pixels' edges.

    Convexity A / A_hull and area ratio A / (Dx Dy) are at most 1. Compactness P^2 / (4 pi A) is about 1.1 for
    a large disc, for its outline goes in steps, and 4 / pi for a square. The aspect ratio is Dy / Dx.

    Parameters
    ----------
    mask : ndarray of uint8, shape (H, W)
        Other than 0 in the region.

    Raises
    ------
    EmptyRegionError
        If the mask is empty.
    """
    outline = _outline(mask)
    left, top, width, height = cv2.boundingRect(outline)
    area = cv2.countNonZero(_filled(outline - (left, top), (height, width)))
    corners = np.concatenate([outline + half for half in _HALVES]).astype(np.float32)
    hull = cv2.contourArea(cv2.convexHull(corners))
    perimeter = cv2.arcLength(outline, True) + 4
    return area / hull, perimeter**2 / (4 * math.pi * area), height / width, area / (width * height)


def correlations(grey: NDArray[Any], seed: int = 0) -> NDArray[np.float64]:
    """Return the correlation coefficients between four random crops of 100 x 100 px (equation 13).

    Crops do not overlap where the frame has room for four: they are drawn from a grid that is laid over it at
    random. In a smaller frame they lie anywhere, at four different places. The correlation with a crop
    without any detail is not defined, and is given as 0.

    Parameters
    ----------
    grey : ndarray of uint8, shape (H, W)
    seed : int
        Of the places.

    Returns
    -------
    ndarray of float64, shape (6,)
        Between crops 1 and 2, 1 and 3, 1 and 4, 2 and 3, 2 and 4, 3 and 4.

    Raises
    ------
    ValueError
        If the frame has no room for a crop, or fewer than four places for one.
    """
    places = _crop_places(grey.shape, seed)
    crops = np.stack([grey[y : y + _CROP_PX, x : x + _CROP_PX].ravel() for y, x in places]).astype(np.float64)
    crops -= crops.mean(axis=1, keepdims=True)
    length = np.sqrt((crops**2).sum(axis=1, keepdims=True))
    crops /= np.where(length > 0, length, 1)
    return (crops @ crops.T)[np.triu_indices(4, 1)]


def _crop_places(size: tuple[int, ...], seed: int) -> list[tuple[int, int]]:
    """Return the top left corners (row, column) of four crops."""
    height, width = size
    if min(height, width) < _CROP_PX:
        raise ValueError(f"the frame is {height} x {width} px: expected at least {_CROP_PX} x {_CROP_PX}")
    down, across = height - _CROP_PX + 1, width - _CROP_PX + 1
    if down * across < 4:
        raise ValueError(
            f"the frame is {height} x {width} px: expected room for four crops of {_CROP_PX} x {_CROP_PX}, "
            f"has it for {down * across}"
        )
    rng = np.random.default_rng(seed)
    rows, columns = height // _CROP_PX, width // _CROP_PX
    if rows * columns < 4:
        return [divmod(place, across) for place in rng.choice(down * across, 4, replace=False).tolist()]
    top, left = (int(rng.integers(n % _CROP_PX + 1)) for n in size)
    cells = [divmod(cell, columns) for cell in rng.choice(rows * columns, 4, replace=False).tolist()]
    return [(top + row * _CROP_PX, left + column * _CROP_PX) for row, column in cells]


def _outline(mask: NDArray[Any]) -> NDArray[np.int32]:
    """Return the pixels (column, row) along the largest outline, shape (n, 1, 2)."""
    found, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not found:
        raise EmptyRegionError("the region has 0 px: expected at least 1")
    # a line has no area, but a length
    return np.asarray(max(found, key=lambda one: (cv2.contourArea(one), len(one))), np.int32)


def _filled(outline: NDArray[np.int32], size: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.asarray(cv2.drawContours(np.zeros(size, np.uint8), [outline], 0, 1, cv2.FILLED), np.uint8)


def _shifted(values: NDArray[Any], row: int, column: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the pixels that have a neighbour so many rows below and columns to the right, and those."""
    height, width = values.shape
    first = values[: height - row, max(-column, 0) : width - max(column, 0)]
    return first, values[row:, max(column, 0) : width - max(-column, 0)]


@functools.cache
def _sums_and_differences(levels: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return, for each entry of a co-occurrence matrix, the sum and the difference of its levels, from 0."""
    level = np.arange(levels)
    return np.add.outer(level, level).ravel(), np.abs(np.subtract.outer(level, level)).ravel()


def _entropy(p: NDArray[Any]) -> float:
    p = p[p > 0]
    return float(-(p @ np.log(p)))
