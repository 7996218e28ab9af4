"""The spectrum of each colour of a patch, in rings: what defocus does to every spatial frequency.

Defocus multiplies the spectrum of a specimen by a transfer function that falls, passes through zero and
changes its sign; where, in cycles per px, tells how far from focus the frame is, whatever the specimen's
spectrum. Red, green and blue have their focus at different heights: their power at a frequency tells on which
side of focus the specimen lies, and so does the sign with which two colours go together, which where one of
them has passed its zero is negative.
"""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus._fft import fft
from bluesky_autofocus.models.hh_net.patches import logarithms

__all__ = ["rings", "spectra_of"]

_RINGS = 28
"""As many as are asked for; those without a frequency are left out."""
_LOWEST = 1.5
"""Cycles in a patch: what is slower is the patch's own gradient."""
_FLOOR = 1e-8
"""Least power: far below that of a camera's noise."""
_PAIRS = ((0, 1), (1, 2), (0, 2))
"""Red with green, green with blue, red with blue."""


def rings(side_px: int) -> int:
    """Return how many rings the spectrum of a patch has."""
    return len(_layout(side_px)[1])


def spectra_of(patch: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the power of each colour and the coherence of each two, in rings of spatial frequency.

    Of x = log(intensity + 8) less its mean, under a Hann window, so that a stain's density is a constant. The
    rings are equally wide in the logarithm of frequency, from 1.5 cycles in a patch to half a cycle per px.

    Parameters
    ----------
    patch : ndarray of uint8, shape (n, n, 3)

    Returns
    -------
    ndarray of float32, shape (6 * n_rings,)
        For red, green and blue half the logarithm of the mean power in each ring; then for red and green,
        green and blue, red and blue the mean real part of their cross spectrum in each ring, relative to the
        powers: from -1 to 1.

    Raises
    ------
    ValueError
        If the patch is not square or has no three colours.
    """
    side = patch.shape[0]
    if patch.shape != (side, side, 3):
        raise ValueError(f"the patch has shape {patch.shape}: expected (n, n, 3)")
    order, starts, weight, window, norm = _layout(side)
    x = np.take(logarithms(), patch.transpose(2, 0, 1))
    x -= x.mean(axis=(1, 2), keepdims=True)
    x *= window
    parts = fft.rfft2(x, overwrite_x=True).reshape(3, -1)[:, order]
    real, imaginary = parts.real, parts.imag
    products = np.empty((6, len(order)), np.float32)
    for row, (one, other) in enumerate((*zip(range(3), range(3), strict=True), *_PAIRS)):
        products[row] = real[one] * real[other] + imaginary[one] * imaginary[other]
    products *= weight
    mean = np.add.reduceat(products, starts, axis=1) / norm
    power = mean[:3] + _FLOOR
    together = [mean[3 + row] / np.sqrt(power[one] * power[other]) for row, (one, other) in enumerate(_PAIRS)]
    return np.concatenate([np.log(power).ravel() / 2, *together]).astype(np.float32)


@functools.lru_cache(maxsize=4)
def _layout(side_px: int) -> tuple[Any, Any, NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return the layout of the rings.

    Which frequencies are in rings, in the rings' order; where each ring begins among them; the weight of each
    of them; the window; by what to divide a ring's sum.
    """
    down, across = np.fft.fftfreq(side_px) * side_px, np.fft.rfftfreq(side_px) * side_px
    cycles = np.hypot(down[:, None], across)
    ring = np.digitize(cycles.ravel(), np.geomspace(_LOWEST, side_px / 2, _RINGS + 1))
    order = np.argsort(ring, kind="stable")
    order = order[(ring[order] > 0) & (ring[order] <= _RINGS)]
    _, starts = np.unique(ring[order], return_index=True)
    # of a real frame half the frequencies are not computed: they are those of the other half once more
    twice = np.full(cycles.shape, 2.0, np.float32)
    twice[:, 0] = 1
    if side_px % 2 == 0:
        twice[:, -1] = 1
    weight = twice.ravel()[order]
    hann = np.hanning(side_px + 2)[1:-1].astype(np.float32)
    window = np.outer(hann, hann)
    norm = np.add.reduceat(weight, starts) * np.sum(window**2)
    return order, starts, weight, window, norm.astype(np.float32)
