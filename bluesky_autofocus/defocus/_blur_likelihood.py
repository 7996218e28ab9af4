"""Minus the log-likelihood of the blur of two frames, with its slope and curvature."""

import copy
import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.defocus._pair_spectra import Pair
from bluesky_autofocus.defocus._transfer import Transfer

__all__ = ["BlurLikelihood", "Point"]

Point = NDArray[np.float64]
"""Defocus, with astigmatism also straight and diagonal, in depths of field; last the log of the ratio of
brightness."""

_Local: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]

_STEP = 1e-3
"""Of the differences that slopes are taken from, in depths of field."""

_GREATEST_LOG = 300.0
"""Of a ratio of brightness: frames that are nearly empty have any."""


class BlurLikelihood:
    """Of a pair of frames, over defocus, astigmatism and the ratio of brightness.

    Parameters
    ----------
    pair : Pair
        The frames.
    transfer : Transfer
        The optics.
    separation_um : float
        Defocus of the second frame less that of the first.
    pixel_size_um : float
        Side of a pixel.
    reach_um : float
        Largest defocus of either that is asked for.
    astigmatism : bool
        Whether that is unknown too.

    Attributes
    ----------
    unit_um : float
        A depth of field.
    weight : ndarray, shape (cells,)
        Of each cell that is used.
    gain : tuple of float
        What the log of the ratio of brightness is taken to be beforehand, and its deviation.
    """

    def __init__(
        self,
        pair: Pair,
        transfer: Transfer,
        *,
        separation_um: float,
        pixel_size_um: float,
        reach_um: float,
        astigmatism: bool,
    ) -> None:
        self.pair, self.astigmatism = pair, astigmatism
        self.unit_um = transfer.depth_of_field_um(pixel_size_um)
        self.half = separation_um / 2 / self.unit_um
        self.used = np.flatnonzero(pair.weight)
        self.weight = pair.weight[self.used]
        self.gain = pair.log_gain, math.inf
        self._count, self._signal = pair.modes.count[self.used], pair.signal[self.used]
        self._sampled = transfer.sampled(
            pair.modes.fx[self.used] / pixel_size_um,
            pair.modes.fy[self.used] / pixel_size_um,
            reach_um,
        )
        self._newest: tuple[bytes, _Local] | None = None

    # The two transfer functions

    def transfer(self, defocus: float, aside: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the transfer of the cells used, at a defocus and an astigmatism in depths of field."""
        straight, diagonal = aside if len(aside) else (0.0, 0.0)
        return self._sampled(defocus * self.unit_um, straight * self.unit_um, diagonal * self.unit_um)

    def angle_of(
        self, first: NDArray[np.float64], second: NDArray[np.float64], log_gain: float
    ) -> NDArray[np.float64]:
        """Return the angle whose tangent is the ratio of the transfer functions."""
        scale = math.exp(min(log_gain + self.pair.log_scale, _GREATEST_LOG))
        return np.arctan2(scale * second, first)

    def angle(self, point: Point) -> NDArray[np.float64]:
        """Return that angle at a point."""
        return self.angle_of(*self._transfers(point), float(point[-1]))

    def _transfers(self, point: Point) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        first, second = (self.transfer(point[0] + side * self.half, point[1:-1]) for side in (-1, 1))
        return first, second

    def slopes(self, point: Point) -> NDArray[np.float64]:
        """Return how the angle changes with each coordinate of a point, shape (coordinates, cells)."""
        return self._at(point)[1]

    def _at(self, point: Point) -> _Local:
        """Return angle, slopes, and the power that the specimen should have in each cell."""
        key = point.tobytes()
        if self._newest is None or self._newest[0] != key:
            first, second = self._transfers(point)
            angle = self.angle_of(first, second, float(point[-1]))
            turned = np.array(
                [
                    self.angle(point + step) - self.angle(point - step)
                    for step in _STEP * np.eye(len(point))[:-1]
                ]
            )
            # only the ratio counts: both transfer functions may change their sign
            slopes = ((turned + np.pi / 2) % np.pi - np.pi / 2) / (2 * _STEP)
            slopes = np.vstack([slopes, np.sin(2 * angle) / 2])
            self._newest = key, (angle, slopes, self._power(first**2 + second**2))
        return self._newest[1]

    def _power(self, transferred: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the power of the specimen, shared out among neighbouring cells as the optics transfer it.

        Where they transfer next to nothing the angle turns fast, but there is nothing to see it by.
        """
        around, here = (
            self.pair.modes.smoothed(self.everywhere(one))[0][self.used]
            for one in (transferred * self._count, self._count)
        )
        return self._signal * self._count * transferred * here / np.maximum(around, 1e-12)

    # The likelihood

    def squares(self, angle: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sum of |u|^2 in each cell."""
        pair, of, twice = self.pair, self.used, 2 * angle
        return (pair.total[of] - pair.difference[of] * np.cos(twice) - pair.cross[of] * np.sin(twice)) / 2

    def value_of(self, angle: NDArray[np.float64], log_gain: float) -> float:
        """Return minus the log-likelihood of an angle."""
        prior = ((log_gain - self.gain[0]) / self.gain[1]) ** 2 / 2
        return float(self.pair.share * (self.weight @ self.squares(angle)) + prior)

    def value(self, point: Point) -> float:
        """Return minus the log-likelihood at a point."""
        return self.value_of(self.angle(point), float(point[-1]))

    def gradient(self, point: Point) -> NDArray[np.float64]:
        """Return how that changes with each coordinate."""
        angle, slopes, _ = self._at(point)
        pair, of, twice = self.pair, self.used, 2 * angle
        by_angle = pair.difference[of] * np.sin(twice) - pair.cross[of] * np.cos(twice)
        gradient = pair.share * (slopes @ (self.weight * by_angle))
        gradient[-1] += (point[-1] - self.gain[0]) / self.gain[1] ** 2
        return gradient

    def curvature(self, point: Point) -> NDArray[np.float64]:
        """Return the Hessian as it is expected of this specimen, free of the scatter of the frames."""
        _, slopes, power = self._at(point)
        curvature = 2 * self.pair.share * (slopes * (self.weight * power)) @ slopes.T
        curvature[-1, -1] += self.gain[1] ** -2
        return curvature

    def constraints(self, point: Point) -> float:
        """Return from how many cells the defocus is known, as if each told as much as any other."""
        _, slopes, power = self._at(point)
        told = slopes[0] ** 2 * self.weight * power
        return float(told.sum() ** 2 / max((told**2).sum(), 1e-300))

    # What a point leaves

    def misfit(self, point: Point) -> float:
        """Return chi-squared per degree of freedom."""
        return float(self.weight @ self.squares(self.angle(point)) / (self.weight @ self._count))

    def gently(self) -> "BlurLikelihood":
        """Return a twin for comparing what differs much, see `Pair.gentle`."""
        twin = copy.copy(self)
        twin.pair = self.pair.gentle()
        return twin

    def everywhere(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return values of the cells that are used as values of all cells, 0 elsewhere."""
        spread = np.zeros(len(self.pair.signal))
        spread[self.used] = values
        return spread

    def weight_by_scatter(self, point: Point) -> None:
        """Weight each cell by what is left in it and around it, in place of the noise.

        What is wrong with the model, or with the frames, is so at some frequencies more than at others.
        """
        squares = self.pair.modes.count.copy()
        squares[self.used] = self.squares(self.angle(point))
        # less than noise is chance
        scatter = np.maximum(self.pair.modes.smoothed(squares)[0][self.used], 0.5)
        self.weight = self._signal / (self._signal + scatter) / scatter
