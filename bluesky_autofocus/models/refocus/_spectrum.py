"""What tells how far from focus a piece of a frame is: its power in rings of spatial frequency.

Blur takes frequencies away in a pattern of its own at each distance, and spherical aberration makes that of
the two sides differ. Only ratios count: the mean of the logarithms is taken off.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus._fft import fft

__all__ = ["RINGS", "ring_powers"]

RINGS = 36
_LOWEST, _HIGHEST = 1 / 96, 0.5
"""Cycles a pixel; pieces of 128 pixels have a frequency in each ring."""
_FLOOR = 1e-9
"""Least power, where 1 is the range of grey levels: far below that of noise."""


def ring_powers(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logarithm of the power in each ring, less their mean, and that mean.

    Parameters
    ----------
    x : ndarray of float32, shape (h, w)
        Of at least 128 pixels a side; the size does not matter otherwise.

    Returns
    -------
    ndarray of float32, shape (RINGS + 1,)
    """
    order, starts, counts, window, norm = _layout(x.shape)
    spectrum = fft.rfft2((x - x.mean()) * window).ravel()[order]
    power = np.add.reduceat(spectrum.real**2 + spectrum.imag**2, starts) * (norm / counts)
    log = np.log(power + _FLOOR) / 2
    return np.append(log - log.mean(), log.mean()).astype(np.float32)


@lru_cache(maxsize=8)
def _layout(shape: tuple[int, int]) -> tuple[Any, Any, Any, NDArray[np.float32], float]:
    """Return which frequencies belong to which ring, a window, and what makes sizes comparable."""
    f = np.hypot(fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1])).ravel()
    edges = np.geomspace(_LOWEST, _HIGHEST, RINGS + 1)
    # narrow rings at the lowest frequencies would be empty
    edges = np.maximum.accumulate(np.maximum(edges, edges[0] + np.arange(RINGS + 1) / 160))
    edges = edges[0] + (edges - edges[0]) * (_HIGHEST - edges[0]) / (edges[-1] - edges[0])
    ring = np.digitize(f, edges) - 1
    inside = np.flatnonzero((ring >= 0) & (ring < RINGS))
    order = inside[np.argsort(ring[inside], kind="stable")]
    starts = np.searchsorted(ring[order], np.arange(RINGS))
    counts = np.bincount(ring[order], minlength=RINGS)
    if not counts.all():
        raise ValueError(f"a piece of {shape} pixels is too small: expected at least 128 a side")
    window = np.outer(np.hanning(shape[0]), np.hanning(shape[1])).astype(np.float32)
    return order, starts, counts, window, 1 / float((window**2).sum())
