"""What the default network is shown beside a frame: the same, deconvolved for about the right distance.

To undo a blur that is forty pixels wide takes filters of that size, which a network of small ones learns late
and badly; the optics give them at once. How far out the frame is, a small network tells from its power
spectrum. Since that is off by a um or two, the frame is deconvolved for this distance and for one to either
side, and which of them to follow where, and what of them are artefacts, is left to the large network.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus._fft import fft, threads
from bluesky_autofocus.models._dense import DenseNetwork
from bluesky_autofocus.models._model import part_of
from bluesky_autofocus.models.refocus._spectrum import RINGS, ring_powers
from bluesky_autofocus.widefield import Widefield

__all__ = ["CHANNELS_IN", "DefocusNetwork", "with_deconvolved"]

_FILTERS = ((-2.0, 0.1), (0.0, 0.1), (2.0, 0.1), (0.0, 0.04))
"""Offset in um from the distance that was told, and balance of the Wiener filter: transfer functions below
that are noise rather than signal. The last one holds more detail, and in dim frames more noise."""
CHANNELS_IN = 1 + len(_FILTERS)
_GRID_UM = 0.5
"""Transfer functions are computed for distances so far apart."""


class DefocusNetwork:
    """Tells the distance from focus of a piece of a frame by its power spectrum.

    Parameters
    ----------
    arrays : mapping
        ``mean`` and ``deviation`` of the ring powers, shape (RINGS + 1,); ``kernel0``, ``bias0`` ... of a
        dense network with one output.
    scale_um : float
        What 1 at its output stands for.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]], scale_um: float) -> None:
        layers = {name: array for name, array in arrays.items() if name not in ("mean", "deviation")}
        self._network = DenseNetwork.from_arrays(layers)
        self._mean, self._deviation = arrays["mean"], arrays["deviation"]
        self.scale_um = scale_um
        if (self._network.inputs, self._network.outputs) != (RINGS + 1, 1):
            raise ValueError(f"a network of {self._network.inputs} inputs: expected {RINGS + 1}")
        if not (self._deviation > 0).all():
            raise ValueError("deviation has values that are not positive")

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]], scale_um: float) -> "DefocusNetwork":
        """Return the part of a model's arrays whose names begin with ``defocus.``."""
        return cls(part_of(arrays, "defocus"), scale_um)

    def __call__(self, x: NDArray[np.float32]) -> float:
        """Return image plane minus focus in um; `x` as `Levels` makes it, shape (h, w)."""
        return float(self.of_powers(ring_powers(x)[None])[0])

    def of_powers(self, powers: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the distances of ring powers, shape (n, RINGS + 1)."""
        out = self._network((powers - self._mean) / self._deviation)[:, 0]
        return np.clip(out, -1, 1) * np.float32(self.scale_um)


def with_deconvolved(x: NDArray[np.float32], defocus_um: float, widefield: Widefield) -> NDArray[np.float32]:
    """Return a piece of a frame and what Wiener filters make of it.

    Parameters
    ----------
    x : ndarray of float32, shape (h, w)
        The filter takes it for periodic: some 30 pixels at its edges come out wrong.
    defocus_um : float
        About how far from focus.
    widefield : Widefield
        The optics.

    Returns
    -------
    ndarray of float32, shape (h, w, 5)
    """
    spectrum = fft.rfft2(x, workers=threads())
    out = np.empty((*x.shape, CHANNELS_IN), np.float32)
    out[..., 0] = x
    for n, (offset_um, balance) in enumerate(_FILTERS, 1):
        z_um = np.clip(defocus_um + offset_um, -widefield.reach_um, widefield.reach_um)
        step = int(round(float(z_um) / _GRID_UM))
        filters = _wiener(widefield, step, balance, x.shape)
        out[..., n] = fft.irfft2(spectrum * filters, s=x.shape, workers=threads())
    return out


@lru_cache(maxsize=192)
def _wiener(widefield: Widefield, step: int, balance: float, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return the filter that undoes the blur of a distance, but for that in focus."""
    blurred = widefield.transfer(step * _GRID_UM, shape)
    filters = blurred * widefield.transfer(0.0, shape) / (blurred**2 + balance**2)
    return filters.astype(np.float32)
