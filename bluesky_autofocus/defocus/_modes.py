"""The Fourier plane of a frame in small cells, over which optics hardly change.

Sums over cells are as good as single frequencies and a hundred times fewer. The cells are polar.
"""

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bluesky_autofocus._fft import fft, threads

__all__ = ["Modes", "modes_of"]

_RINGS, _SECTORS = 128, 24
"""Cells along the radius, to the corner of the Fourier plane, and around half of it: a disc of blur of 16 px
turns the phase of its transfer function by 0.4 rad at most across one."""
_FINE_PER_PX = 0.05
"""Frequency, in cycles per pixel, up to which rings are narrow; beyond they widen in proportion. The farther
from focus, the faster the transfer function varies, and the lower are the frequencies that are left."""
_LOWEST = 4
"""Waves across the frame below which a frequency is left out: those are mostly shading."""
_CROSS = 3
"""Waves along either axis below which one is: there the edges of the frame leave their mark."""
_TAPER = 1 / 16
"""Part of a side over which a frame fades at each edge."""
_GENTLE = 1 / 2
"""The same where minima are compared whose blur differs much: what fades a frame is not blurred with the
specimen, and the more abruptly it does, the more it takes far from focus."""
_SMOOTH_MODES = 400
"""Frequencies over which a power is averaged at least: 7 % of scatter."""


class Modes:
    """Those frequencies of frames of one shape that are used, and the cells that they lie in.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns.

    Attributes
    ----------
    window, gentle_window : ndarray, shape (H, W)
        Fade the edges of a frame; of unit mean square.
    share, gentle_share : float
        How many modes are as good as independent, as part of all: a window correlates neighbours.
    ky, kx : ndarray, shape (n,)
        Of each mode, in cycles per pixel.
    cell : ndarray of int, shape (n,)
        Of each mode.
    count, fx, fy : ndarray, shape (cells,)
        Modes in each cell, and their mean frequency.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        rows, columns = shape
        fy, fx = np.broadcast_arrays(fft.fftfreq(rows)[:, None], fft.rfftfreq(columns)[None, :])
        ky, kx = np.abs(fy) * rows, fx * columns
        keep = (ky >= _CROSS) & (kx >= _CROSS) & (np.hypot(ky, kx) >= _LOWEST)
        keep &= (kx < columns // 2) & (ky < rows // 2)
        self._index = np.flatnonzero(keep)
        self.ky, self.kx = fy[keep], fx[keep]
        radius = np.hypot(self.ky, self.kx)
        ring = _RINGS * np.log1p(radius / _FINE_PER_PX) / math.log1p(math.sqrt(0.5) / _FINE_PER_PX)
        ring = ring.astype(int).clip(0, _RINGS - 1)
        angle = np.arctan2(self.ky, self.kx) / np.pi + 0.5
        sector = (angle * _SECTORS).astype(int).clip(0, _SECTORS - 1)
        self.cell = ring * _SECTORS + sector
        self.count = self.gather(np.ones(len(self.cell)))
        some = np.maximum(self.count, 1)
        fx_, fy_ = self.gather(self.kx) / some, self.gather(self.ky) / some
        # the mean of vectors is a little too short
        stretch = self.gather(radius) / some / np.maximum(np.hypot(fx_, fy_), 1e-9)
        self.fx, self.fy = fx_ * stretch, fy_ * stretch
        self.window, self.gentle_window = _window(shape, _TAPER), _window(shape, _GENTLE)
        self.share, self.gentle_share = (
            1 / float((one**4).mean()) for one in (self.window, self.gentle_window)
        )
        self._smooth = max(1.5, math.sqrt(_SMOOTH_MODES / (4 * math.pi * float(some.mean()))))

    def spectrum(self, frame: NDArray[np.floating], window: NDArray[np.floating]) -> NDArray[np.complex128]:
        """Return the modes of a frame, shape (n,), without its mean and with faded edges."""
        light = frame - np.average(frame, weights=window)
        return self.pick(fft.rfft2(light * window, workers=threads()))

    def pick(self, spectrum: NDArray[Any]) -> NDArray[Any]:
        """Return the modes, shape (n,), of what `scipy.fft.rfft2` returns."""
        return spectrum.ravel()[self._index]

    def image(self, modes: NDArray[np.complexfloating]) -> NDArray[np.float64]:
        """Return what these modes, shape (n,), look like as a frame."""
        spectrum = np.zeros(self.shape[0] * (self.shape[1] // 2 + 1), complex)
        spectrum[self._index] = modes
        return fft.irfft2(spectrum.reshape(self.shape[0], -1), s=self.shape, workers=threads())

    def gather(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the sums over each cell of values of shape (n,)."""
        return np.bincount(self.cell, values, _RINGS * _SECTORS).astype(float)

    def smoothed(self, sums: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return means over each cell and its surroundings, and from how many independent modes they are."""
        total, count = (
            ndimage.gaussian_filter(
                one.reshape(_RINGS, _SECTORS),
                self._smooth,
                mode=("nearest", "wrap"),  # pyright: ignore[reportArgumentType] - one for each axis
            ).ravel()
            for one in (sums, self.count)
        )
        count = np.maximum(count, 1e-9)
        return total / count, self.share * count * 4 * np.pi * self._smooth**2

    def rings(self, sums: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the sums over each ring, from the inside out."""
        return sums.reshape(_RINGS, _SECTORS).sum(axis=1)


def _window(shape: tuple[int, int], taper: float) -> NDArray[np.float64]:
    """Return what fades the edges of a frame, of unit mean square."""
    sides = []
    for n in shape:
        edge = (np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5) / (taper * n)
        sides.append(0.5 - 0.5 * np.cos(np.pi * np.minimum(edge, 1)))
    window = np.outer(*sides)
    return window / math.sqrt(float((window**2).mean()))


@lru_cache(maxsize=8)
def modes_of(shape: tuple[int, int]) -> Modes:
    """Return the modes of frames of a shape."""
    return Modes(shape)
