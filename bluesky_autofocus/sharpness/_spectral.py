"""Metrics of the frame's spectrum. Fourier transforms run in float32."""

from functools import lru_cache

import numpy as np
import scipy.fft

from ._moments import mean
from ._registry import less_log_squared_mean, register

DEFAULT_PASSBAND_CYCLES_PER_PX = (0.05, 0.2)
"""Where a well sampled image has most of the detail that defocus removes; noise is strongest above."""

_BLOCK_PX = 8


@register("dct_energy")
def dct_energy(grey: np.ndarray) -> float:
    """Return the mean energy of the middle frequencies of the discrete cosine transform of 8 x 8 px blocks.

    Middle are the coefficients (u, v) with 2 <= u + v <= 5: those below are shading, those above mostly
    noise, after the mid-frequency DCT of [1]_. Rows and columns that do not fill a block are left out.

    References
    ----------
    .. [1] S. Y. Lee et al., "Enhanced autofocus algorithm using robust focus measure and fuzzy reasoning",
       IEEE Trans. Circuits Syst. Video Technol. 18 (2008) 1237.
    """
    rows, columns = (length // _BLOCK_PX for length in grey.shape)
    blocks = grey[: rows * _BLOCK_PX, : columns * _BLOCK_PX].astype(np.float32, copy=False)
    blocks = blocks.reshape(rows, _BLOCK_PX, columns, _BLOCK_PX)
    # As two products with the 8 x 8 matrix of the transform: BLAS is faster on blocks this short than an FFT.
    matrix = np.asarray(scipy.fft.dct(np.eye(_BLOCK_PX, dtype=np.float32), axis=0, norm="ortho"))
    along_rows = blocks @ matrix.T
    coefficients = np.matmul(matrix, along_rows.reshape(rows, _BLOCK_PX, -1))
    energy = (
        np.square(coefficients).reshape(rows, _BLOCK_PX, columns, _BLOCK_PX).mean((0, 2), dtype=np.float64)
    )
    order = np.add.outer(np.arange(_BLOCK_PX), np.arange(_BLOCK_PX))
    return float(energy[(order >= 2) & (order <= 5)].mean())


@register("band_power")
def band_power(
    grey: np.ndarray, passband_cycles_per_px: tuple[float, float] = DEFAULT_PASSBAND_CYCLES_PER_PX
) -> float:
    """Return the part of the frame's variance that lies within a passband.

    Parameters
    ----------
    grey : numpy.ndarray, shape (H, W)
        The frame.
    passband_cycles_per_px : tuple of float
        Lowest (included) and highest (excluded) spatial frequency, in cycles/px, within 0 to 0.71. An
        objective of numerical aperture NA passes at most 2 NA / wavelength; with a pixel p at the specimen
        that is 2 NA p / wavelength cycles/px. Set the upper limit to half of this or less.

    Returns
    -------
    float
        The sum of |F|² over the passband, divided by (H W)² (Parseval), in squared grey levels.
    """
    low, high = passband_cycles_per_px
    height_px, width_px = grey.shape
    # Columns beyond the passband are dropped before the second transform, most of the work of a 2-D one.
    column_frequency = np.fft.rfftfreq(width_px)
    column_frequency = column_frequency[column_frequency < high]
    half = np.asarray(scipy.fft.rfft(_without_mean(grey), axis=1))[:, : len(column_frequency)]
    power = _power(np.asarray(scipy.fft.fft(half, axis=0)))
    radius = np.hypot(np.fft.fftfreq(height_px)[:, None], column_frequency)
    inside = (radius >= low) & (radius < high)
    per_column = np.sum(power, axis=0, where=inside, dtype=np.float64)
    return float(per_column @ _mirror_weight(width_px)[: len(column_frequency)]) / grey.size**2


@register("log_power", normaliser=less_log_squared_mean)
def log_power(grey: np.ndarray) -> float:
    """Return the radially averaged log power spectrum, averaged over the upper three quarters of the radii.

    This is the focus score by which [1]_ labelled its stacks, divided by the number of radii so that
    frames of different sizes compare. Power is |F|² / (H W), the logarithm natural, radii are those of full
    circles, and a radius is one cycle per shorter side wide. The score may be negative.

    References
    ----------
    .. [1] H. Pinkard et al., "Deep learning for single-shot autofocus microscopy", Optica 6 (2019) 794, code.
    """
    power = _power(np.asarray(scipy.fft.rfft2(_without_mean(grey)))) / grey.size
    # Rounding in float32 limits what the transform can show beside the frame's own mean.
    floor = (np.finfo(np.float32).eps * mean(grey)) ** 2 + np.finfo(np.float32).tiny
    radius, weight, n_radii = _radii(grey.shape)
    log_spectrum = np.log(np.maximum(power, np.float32(floor)))
    total = np.bincount(radius.ravel(), (log_spectrum * weight).ravel(), n_radii + 1)
    count = np.bincount(radius.ravel(), np.broadcast_to(weight, radius.shape).ravel(), n_radii + 1)
    radial = total[:n_radii] / count[:n_radii]
    return float(radial[n_radii // 4 :].mean())


def _without_mean(grey: np.ndarray) -> np.ndarray:
    # Without its mean, else the rounding error of the sum would exceed the weakest frequencies.
    return np.subtract(grey, np.float32(mean(grey)), dtype=np.float32)


def _power(spectrum: np.ndarray) -> np.ndarray:
    return np.square(np.real(spectrum)) + np.square(np.imag(spectrum))


def _mirror_weight(width_px: int) -> np.ndarray:
    """Return how often each column of a half spectrum occurs in the whole one."""
    weight = np.full(width_px // 2 + 1, 2.0, np.float32)
    weight[0] = 1
    if width_px % 2 == 0:
        weight[-1] = 1
    return weight


@lru_cache(maxsize=2)
def _radii(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, int]:
    """Return radius number and weight of each value of a half spectrum, and the number of full circles."""
    height_px, width_px = shape
    radius = np.hypot(np.fft.fftfreq(height_px)[:, None], np.fft.rfftfreq(width_px))
    n_radii = min(shape) // 2
    number = np.minimum((radius * min(shape)).astype(np.int32), n_radii)
    return number, _mirror_weight(width_px), n_radii
