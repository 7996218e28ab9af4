"""The last step of a fit, without cells and without edges, and the uncertainty that it leaves.

A frame is cut out of what the optics blur: near its edges it holds light of what lies outside, and a window
that fades them is not blurred with the specimen. Both are as large as the noise where there is much light.
Away from the edges, however,

    r = f1 * h2 - f2 * h1

is free of them (`*` is a convolution): each frame is blurred as the other one is. So the window comes after
that, in place of before.
"""

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus._fft import fft, threads
from bluesky_autofocus.defocus._blur_likelihood import BlurLikelihood, Point
from bluesky_autofocus.defocus._transfer import Transfer

__all__ = ["Polished", "polished"]

_MARGIN = 1 / 32
"""Part of the shorter side that is left out at each edge."""
_TAPER = 1 / 16
"""Part of it over which the rest fades."""
_STEPS = 8
"""At most."""
_ENOUGH = 0.05
"""Standard uncertainties to which the minimum is found."""
_SEEN = 0.1
"""Contrast, root of the sum of squares, that both frames together must transfer of a mode. Where neither
shows it their ratio changes wildly, and cells would not notice."""
_ASTRAY = 1.0
"""Depths of field, and logarithm of brightness, by which the minimum may lie elsewhere."""
_DIFFERENCE = 1e-3
"""Depths of field of which slopes are taken."""


@dataclasses.dataclass(frozen=True)
class Polished:
    """The minimum by the frames themselves.

    Parameters
    ----------
    point : Point
        Where it is.
    sigmas : ndarray
        Its standard uncertainties, in the units of a point.
    misfit : float
        Chi-squared per degree of freedom: 1 where nothing but noise is left.
    unexplained, unexplained_sigma : float
        Share of the specimen's power, as it counts, that is left besides noise, and its uncertainty.
    """

    point: Point
    sigmas: NDArray[np.float64]
    misfit: float
    unexplained: float
    unexplained_sigma: float


def polished(
    likelihood: BlurLikelihood, point: Point, transfer: Transfer, *, pixel_size_um: float, reach_um: float
) -> Polished:
    """Return the minimum by the frames themselves, next to the one by their cells; not finite where none is.

    The uncertainties are from the curvature, or where that is more from the scatter of the slope over the
    frame. Where the noise is that of light, bright edges are noisier than the frame on average, and it is
    they that tell the blur: so the slope is taken apart into what each pixel contributes. That allows for
    misfit as well. (The sandwich estimator, H. White, Econometrica 50, 1 (1982).)

    Parameters
    ----------
    likelihood : BlurLikelihood
        By cells. Its weights, and what it takes the brightness to be, are kept.
    point : ndarray
        Its minimum.
    transfer : Transfer
        The optics.
    pixel_size_um : float
        Side of a pixel.
    reach_um : float
        As for `BlurLikelihood`.
    """
    start, frames = point, _Frames(likelihood, transfer, point, pixel_size_um, reach_um)
    share = likelihood.pair.share
    prior = np.zeros((len(point), len(point)))
    prior[-1, -1] = likelihood.gain[1] ** -2
    for _ in range(_STEPS):
        # what the window of the cells makes of it is none of the frames'
        curvature = (likelihood.curvature(point) - prior) / share + prior
        slope = frames.contributions(point).sum(axis=1) + prior @ (point - likelihood.gain[0])
        step = np.linalg.pinv(curvature) @ slope
        point = point - step
        if not (np.abs(point - start) < _ASTRAY).all():
            return Polished(point, np.full(len(point), math.inf), math.nan, math.nan, math.nan)
        if (step**2 * np.diag(curvature) <= _ENOUGH**2).all():
            break
    inverse = np.linalg.pinv((likelihood.curvature(point) - prior) / share + prior)
    each = frames.contributions(point)
    scattered = np.diag(inverse @ (each @ each.T + prior) @ inverse)
    sigmas = np.sqrt(np.maximum(scattered, np.diag(np.linalg.pinv(likelihood.curvature(point)))))
    return Polished(point, sigmas, *frames.misfit(point))


class _Frames:
    """Two frames in units of their noise, aligned, and what a point leaves of them."""

    def __init__(
        self,
        likelihood: BlurLikelihood,
        transfer: Transfer,
        point: Point,
        pixel_size_um: float,
        reach_um: float,
    ) -> None:
        self._of, pair = likelihood, likelihood.pair
        self._shape = rows, columns = pair.modes.shape
        fy, fx = fft.fftfreq(rows)[:, None], fft.rfftfreq(columns)[None, :]
        spectra = [
            fft.rfft2((frame - frame.mean()) / math.sqrt(power), workers=threads())
            for frame, power in zip(pair.frames, pair.noise, strict=True)
        ]
        down, right = pair.rest_px
        self._first, self._second = spectra[0], spectra[1] * np.exp(2j * np.pi * (fy * down + fx * right))
        window = np.outer(*map(_faded, self._shape))
        self._window = window / math.sqrt(float((window**2).mean()))
        fy, fx = np.broadcast_arrays(fy, fx)
        self._sampled = transfer.sampled(fx / pixel_size_um, fy / pixel_size_um, reach_um)
        seen = self._noise(self._transfers(point)) > _SEEN
        self._weight = np.where(seen, likelihood.everywhere(likelihood.weight)[pair.modes.cell], 0)

    def _transfers(self, point: Point) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        of = self._of
        straight, diagonal = of.unit_um * point[1:-1] if of.astigmatism else (0.0, 0.0)
        first, second = (
            self._sampled((point[0] + side * of.half) * of.unit_um, straight, diagonal) for side in (-1, 1)
        )
        return first, second * math.exp(point[-1] + of.pair.log_scale)

    def _left(self, first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.complex128]:
        """Return the modes of each frame blurred as the other one, one less the other."""
        difference = self._first * second - self._second * first
        return self._of.pair.modes.pick(
            fft.rfft2(
                fft.irfft2(difference, s=self._shape, workers=threads()) * self._window, workers=threads()
            )
        )

    def _noise(self, transfers: tuple[NDArray[np.float64], ...]) -> NDArray[np.float64]:
        """Return the deviation of the noise of what is left: in units of it, that is u of the cells."""
        return np.sqrt(np.maximum(sum(self._of.pair.modes.pick(one) ** 2 for one in transfers), 1e-9))

    def misfit(self, point: Point) -> tuple[float, float, float]:
        """Return misfit, share unexplained and its uncertainty, as `Polished` has them."""
        pair, transfers = self._of.pair, self._transfers(point)
        weight, count = pair.weight, pair.modes.count
        squares = pair.modes.gather(np.abs(self._left(*transfers) / self._noise(transfers)) ** 2)
        power = weight @ (pair.signal * count)
        # the window correlates neighbours
        scatter = math.sqrt(weight**2 @ count * float((self._window**4).mean()))
        return (
            float(weight @ squares / (weight @ count)),
            float(weight @ (squares - count) / power),
            float(scatter / power),
        )

    def contributions(self, point: Point) -> NDArray[np.float64]:
        """Return what each pixel contributes to the slope at a point, shape (coordinates, pixels)."""
        modes = self._of.pair.modes
        transfers = self._transfers(point)
        noise = self._noise(transfers)
        left = self._left(*transfers) / noise
        seen = modes.image(left)
        each = []
        for step in _DIFFERENCE * np.eye(len(point)):
            above, below = self._transfers(point + step), self._transfers(point - step)
            change = [(one - other) / (2 * _DIFFERENCE) for one, other in zip(above, below, strict=True)]
            of_noise = sum(
                modes.pick(one) * modes.pick(by) for one, by in zip(transfers, change, strict=True)
            )
            turned = self._left(*change) / noise - left * of_noise / noise**2
            each.append((seen.size * seen * modes.image(self._weight * turned)).ravel())
        return np.array(each)


def _faded(n: int) -> NDArray[np.float64]:
    """Return a window of `n` pixels that is 0 at the edges, and fades towards them."""
    edge = (np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5) / n
    return 0.5 - 0.5 * np.cos(np.pi * np.clip((edge - _MARGIN) / _TAPER, 0, 1))
