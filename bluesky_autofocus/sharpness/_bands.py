"""How much contrast each tile of a frame has in each octave of spatial frequency, and what of it is noise.

Defocus takes away the fine octaves first, and the coarse ones only far from focus. So the octaves together
tell of focus over a wide range, and near it as precisely as the finest of them.
"""

import cv2
import numpy as np

from bluesky_autofocus.bands import BandEnergies
from bluesky_autofocus.sharpness._preparation import Roi, prepare

__all__ = ["band_energies"]

FREQUENCIES = (0.190, 0.106, 0.055, 0.027, 0.0142, 0.0070)
"""In cycles/px, where each level of the pyramid passes most. What is coarser is shading."""

NOISE_GAINS = (0.0700, 0.0313, 8.93e-3, 2.31e-3, 5.85e-4, 1.48e-4)
"""What each level leaves of the variance of white noise."""

PX_PER_SAMPLE = (2.9, 7.8, 27.5, 106.0, 421.0, 1550.0)
"""Pixels of the frame for each independent one of a level."""

CORNER = np.outer([1, -2, 1], [1, -2, 1]).astype(np.float32) / 6
"""Passes the corners of the spectrum, where no optics leave detail, and of white noise the variance as it is
(Immerkaer, *Fast noise variance estimation*, Comput. Vis. Image Underst. 64 (1996) 300)."""

SOFTENING = np.array([1, 2, 1], np.float32) / 4
"""Takes away what is finer than the first octave, which is noise more than anything."""

TILES = 8
"""Along each side, or fewer of small frames."""

LEAST_TILE_PX = 16

LEAST_LEVEL_PX = 8
"""A level is used if it is so many of its own pixels wide."""


def band_energies(image: np.ndarray, *, roi: Roi | None = None) -> BandEnergies:
    """Measure the contrast of each tile of a frame in each octave, by a Laplacian pyramid.

    The frame is divided by its mean, so light that flickers does not matter. Noise is white: it is measured
    in the corners of the spectrum, where few frames have any detail.

    Parameters
    ----------
    image : numpy.ndarray, shape (H, W) or (H, W, 3)
        A grey or RGB frame of at least 16 x 16 px.
    roi : tuple of int, optional
        (row_start, row_stop, col_start, col_stop) in px.

    Returns
    -------
    BandEnergies
        Of the octaves that a frame of this size has.

    Raises
    ------
    ValueError
        If the shape is another, or the mean of the frame is not a positive number.
    TypeError
        If the frame does not hold real numbers.

    References
    ----------
    P. J. Burt and E. H. Adelson, *The Laplacian pyramid as a compact image code*, IEEE Trans. Commun. 31
    (1983) 532.
    """
    grey = prepare(image, roi, 0.0).astype(np.float32)
    mean = float(np.mean(grey, dtype=np.float64))
    if not (mean > 0 and np.isfinite(mean)):
        raise ValueError(f"the bands of a frame are relative to its mean, which is {mean:g}")
    grey /= np.float32(mean)
    tiles = max(min(TILES, min(grey.shape) // LEAST_TILE_PX), 1)
    tile_px = grey.size / tiles**2
    noise = _means(np.square(cv2.filter2D(grey, cv2.CV_32F, CORNER)), tiles)
    levels = max(sum(min(grey.shape) >> level >= LEAST_LEVEL_PX for level in range(len(FREQUENCIES))), 1)
    energies, skews = [], []
    level = cv2.sepFilter2D(grey, cv2.CV_32F, SOFTENING, SOFTENING)
    for _ in range(levels):
        coarser = cv2.pyrDown(level)
        level -= cv2.pyrUp(coarser, dstsize=level.shape[::-1])
        squares = np.square(level)
        energies.append(_means(squares, tiles))
        skews.append(_skewness(level, squares))
        level = coarser
    ascending = slice(levels - 1, None, -1)
    return BandEnergies(
        FREQUENCIES[ascending],
        np.array(energies[::-1]),
        np.multiply.outer(NOISE_GAINS[ascending], noise),
        tile_px / np.array(PX_PER_SAMPLE[ascending]),
        np.array(skews[::-1]),
    )


def _means(image: np.ndarray, tiles: int) -> np.ndarray:
    """Return the mean of each tile, row by row; shape (tiles**2,)."""
    return cv2.resize(image, (tiles, tiles), interpolation=cv2.INTER_AREA).astype(np.float64).ravel()


def _skewness(band: np.ndarray, squares: np.ndarray) -> float:
    """Return the skewness of a band, whose mean is next to 0; 0 for one that is even."""
    variance = float(np.mean(squares, dtype=np.float64))
    cube = float(np.vdot(band, squares)) / band.size
    return cube / variance**1.5 if variance > 0 else 0.0
