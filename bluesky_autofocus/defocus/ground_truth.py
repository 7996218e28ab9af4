"""Where a focal stack is in focus, from the stack itself: what a network is trained towards and judged by.

Under one half of an annulus of LEDs, incoherent with each other, phase and absorption alike are sharpest in
focus. The focus curve is the published one: the logarithm of the radial power spectrum, summed over the
upper three quarters of its radii. It is made from tiles of the field, because their agreement tells how well
the focus is known. A position that is not to be trusted is refused with the reason: a wrong label spoils
a training and a test alike.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.fft import rfft2, rfftfreq
from scipy.interpolate import CubicSpline

from bluesky_autofocus.records import Reason

__all__ = ["GroundTruth", "focus_of_stack"]

LEAST_PLANES = 7
"""Fewer say nothing about the shape of the curve beside its maximum."""

LEAST_RADIUS = 0.25
"""The lowest quarter of the radii changes little with focus and holds vignetting and stray light."""

LEAST_TILE_PX = 32

LEAST_SIGNAL_TO_NOISE = 20.0
"""Least height of the curve in units of what chance makes of the power spectrum of noise. A field without
specimen reaches 7, the faintest of the simulated specimens 120."""

LEAST_RISE = 0.15
"""In focus the power must be higher by this, in the mean over the radii of its logarithm. Simulated specimens
rose by 0.7 and more, and by less than 0.15 far from focus, where one in a thousand looked convincing."""

OTHER_PEAK_HEIGHT = 0.75
"""Beside the peak the curve must stay below this fraction of its height. Far from focus it does rise again:
to 0.56 of the height over +-30 um of stained tissue."""

BANDS = ((0.16, 0.44), (0.44, 1.0))
"""Low and high radii. In focus all are at their highest; elsewhere each rises where its own fringes are."""

GREATEST_DISAGREEMENT = 1.5
"""The bands may disagree by this, in units of the largest trusted uncertainty. They differed by at most
0.4 um at the focus of simulated specimens, and hardly ever by less than 1 um elsewhere."""

WIDEST_FRACTION_OF_RANGE = 0.6
"""A curve above half its height over more of the stack than this has not been seen to fall."""


@dataclasses.dataclass(frozen=True)
class GroundTruth:
    """Where a stack is in focus.

    Parameters
    ----------
    position_um : float
        Of the focus; NaN where there is none to speak of. Not to be used unless `trusted`.
    sigma_um : float
        Its standard uncertainty, from the agreement of the tiles: noise, and specimen that is not flat.
    trusted : bool
        Whether it may be used as the truth.
    reason : Reason
        OK, or why not.
    positions_um, scores : tuple of float
        The focus curve.
    """

    position_um: float
    sigma_um: float
    trusted: bool
    reason: Reason
    positions_um: tuple[float, ...] = dataclasses.field(default=(), repr=False)
    scores: tuple[float, ...] = dataclasses.field(default=(), repr=False)


def focus_of_stack(
    frames: Iterable[NDArray],
    positions_um: Sequence[float] | NDArray,
    *,
    at: Literal["centre", "maximum"] = "centre",
    tiles: int = 4,
    max_sigma_um: float = 0.5,
    saturation: float | None = None,
) -> GroundTruth:
    """Return where a focal stack is in focus.

    Parameters
    ----------
    frames : iterable of numpy.ndarray, shape (H, W)
        One a position; read once, one at a time.
    positions_um : sequence of float
        Where each was taken, in any order.
    at : {"centre", "maximum"}
        Which point of the cubic spline through the curve is called the focus: the centre of mass of what
        rises above half height, or the highest point, as published. On top the curve is flat; on simulated
        cells the centre scattered by 0.1 um, the maximum by 0.3 um, about the plane that scatters most.
    tiles : int
        The field is cut into so many tiles a side, at least 2; fewer where they would be too small.
    max_sigma_um : float
        Largest standard uncertainty that is trusted.
    saturation : float, optional
        Grey level at which the camera saturates; by default the largest of an integer type.

    Returns
    -------
    GroundTruth
        Untrusted where the peak reaches the edge of the stack (``EDGE``), does not stand out from the
        noise (``FLAT``), is a single frame (``SPIKE``), is not the only one (``SEVERAL_PEAKS``), is too
        wide (``POOR_FIT``), or where tiles or bands of the spectrum disagree (``UNCERTAIN``); with fewer
        than 7 planes (``NOT_ENOUGH_POINTS``) and with frames that are black, saturated or not finite.

    Raises
    ------
    ValueError
        If frames and positions do not match, positions coincide or are not finite, or the frames are too
        small or not of one shape.

    References
    ----------
    H. Pinkard et al., Deep learning for single-shot autofocus microscopy, Optica 6, 794 (2019), and the
    code published with it.
    """
    where = np.asarray(positions_um, dtype=float)
    if where.ndim != 1 or not np.isfinite(where).all() or len(np.unique(where)) != len(where):
        raise ValueError(f"positions_um must be finite and all different, got {positions_um!r}")
    if at not in ("centre", "maximum"):
        raise ValueError(f"at is {at!r}: expected 'centre' or 'maximum'")
    if tiles < 2:
        raise ValueError(f"tiles must be at least 2 a side, got {tiles!r}")
    if not max_sigma_um > 0:
        raise ValueError(f"max_sigma_um must be positive, got {max_sigma_um!r}")

    measure: _Spectrum | None = None
    powers, problems = [], []
    for frame in frames:
        frame = np.asarray(frame)
        if measure is None:
            measure = _spectrum_of(frame.shape, tiles)
        if frame.shape != measure.shape:
            raise ValueError(f"frames must be of one shape, {measure.shape}; got {frame.shape}")
        problems.append(_problem(frame, saturation))
        powers.append(measure.power(frame))
    if len(powers) != len(where):
        raise ValueError(f"there are {len(powers)} frames and {len(where)} positions")

    for problem in (Reason.NOT_FINITE, Reason.BLACK, Reason.SATURATED):
        if problem in problems:
            return GroundTruth(math.nan, math.nan, False, problem)
    if len(where) < LEAST_PLANES:
        return GroundTruth(math.nan, math.nan, False, Reason.NOT_ENOUGH_POINTS)
    order = np.argsort(where)
    assert measure is not None  # noqa: S101 - there were frames
    return _judge(where[order], np.stack(powers)[order], measure.pixels, at, max_sigma_um)


def _problem(frame: NDArray, saturation: float | None) -> Reason | None:
    limit = saturation
    if limit is None and frame.dtype.kind in "ui":
        limit = float(np.iinfo(frame.dtype).max)
    level = float(frame.mean(dtype=float))
    if not math.isfinite(level):
        return Reason.NOT_FINITE
    if level <= 0:
        return Reason.BLACK
    if limit is not None and np.count_nonzero(frame >= limit) > 0.01 * frame.size:
        return Reason.SATURATED
    return None


class _Spectrum:
    """Radial power spectra of the tiles of a frame.

    Parameters
    ----------
    shape : tuple of int
        Of the frames.
    tiles : int
        A side.
    """

    def __init__(self, shape: tuple[int, ...], tiles: int) -> None:
        if len(shape) != 2 or min(shape) < 2 * LEAST_TILE_PX:
            raise ValueError(
                f"a grey frame of at least {2 * LEAST_TILE_PX} px a side is needed, got the shape {shape}"
            )
        self.shape = shape
        self.tiles = max(2, min(tiles, min(shape) // LEAST_TILE_PX))
        self.side = side = min(shape) // self.tiles // 2 * 2
        # of an oblong frame as many tiles as fit, about its centre
        self._count = tuple(length // side for length in shape)
        self._start = tuple((n - k * side) // 2 for n, k in zip(shape, self._count, strict=True))
        radius = np.hypot(*np.meshgrid(np.fft.fftfreq(side), rfftfreq(side), indexing="ij")) * side
        self._bins = side // 2
        # corners beyond the largest full circle are left out: the last bin, which nobody looks at
        self._which = np.minimum(np.round(radius).astype(int), self._bins).ravel()
        self.pixels = np.bincount(self._which, minlength=self._bins + 1)[: self._bins]

    def power(self, frame: NDArray) -> NDArray[np.float64]:
        """Return the mean power at each radius, shape (tiles, radii), of the frame over its mean."""
        (rows, columns), side = self._count, self.side
        top, left = self._start
        cut = frame[top : top + rows * side, left : left + columns * side].astype(np.float32)
        cut = cut.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)
        # the lamp may change from frame to frame
        cut /= np.float32(max(float(frame.mean(dtype=float)), 1e-9))
        # no window: it would blind the tiles to a third of the specimen, which trebled the scatter on cells
        spectrum: Any = rfft2(cut)
        power = spectrum.real**2 + spectrum.imag**2
        sums = [
            np.bincount(self._which, tile.ravel(), minlength=self._bins + 1)[: self._bins] for tile in power
        ]
        return np.stack(sums) / self.pixels


@functools.lru_cache(maxsize=4)
def _spectrum_of(shape: tuple[int, ...], tiles: int) -> _Spectrum:
    return _Spectrum(shape, tiles)


def _scores(power: NDArray[np.float64], low: float = LEAST_RADIUS, high: float = 1.0) -> NDArray[np.float64]:
    """Return the focus curve of radial powers, shape (..., planes, radii), between two relative radii."""
    n = power.shape[-1]
    # a floor far below any noise, for frames that are computed and hold none
    return np.log(np.maximum(power[..., round(low * n) : round(high * n)], 1e-12)).sum(-1)


def _judge(
    where: NDArray[np.float64],
    power: NDArray[np.float64],
    pixels: NDArray[np.int_],
    at: str,
    max_sigma_um: float,
) -> GroundTruth:
    """Find the peak of the field's curve, and how far to believe it.

    Parameters
    ----------
    where : numpy.ndarray, shape (planes,)
        Ascending.
    power : numpy.ndarray, shape (planes, tiles, radii)
    pixels : numpy.ndarray, shape (radii,)
        How many samples of the spectrum of one tile each is the mean of.
    at, max_sigma_um
        As for `focus_of_stack`.
    """
    total = power.sum(axis=1)
    curve = _Curve(where, _scores(total))
    position = curve.position(at)
    # Leaving out one tile at a time (jackknife): a tile without specimen changes nothing, and a field that
    # rests upon a single tile is found out.
    without = np.array(
        [_Curve(where, _scores(total - power[:, tile])).position(at) for tile in range(power.shape[1])]
    )
    n = len(without)
    sigma = math.sqrt((n - 1) / n * float(((without - without.mean()) ** 2).sum()))
    used = pixels[round(LEAST_RADIUS * len(pixels)) :]
    # the power of noise is distributed exponentially: the mean of n samples scatters by 1/sqrt(n)
    by_chance = math.sqrt(float((1 / (n * used)).sum()))
    reason = curve.doubt(max(LEAST_SIGNAL_TO_NOISE * by_chance, LEAST_RISE * len(used)))
    if reason is Reason.OK:
        low, high = (_Curve(where, _scores(total, *band)).position("centre") for band in BANDS)
        if sigma > max_sigma_um or abs(low - high) > GREATEST_DISAGREEMENT * max_sigma_um:
            reason = Reason.UNCERTAIN
    return GroundTruth(
        position, sigma, reason is Reason.OK, reason, tuple(where.tolist()), tuple(curve.scores.tolist())
    )


class _Curve:
    """A focus curve at ascending positions, and the cubic spline through it."""

    points_a_plane = 20

    def __init__(self, where: NDArray[np.float64], scores: NDArray[np.float64]) -> None:
        self.where, self.scores = where, scores
        self.fine = np.linspace(where[0], where[-1], self.points_a_plane * (len(where) - 1) + 1)
        self.spline = CubicSpline(where, scores)
        self.smooth = self.spline(self.fine)
        self.best = int(self.smooth.argmax())
        self.height = float(np.ptp(scores))
        above = self.smooth > scores.min() + self.height / 2
        # of what rises above half height, the part that holds the maximum
        self.first = self.best - int(np.argmin(np.append(above[self.best :: -1], False))) + 1
        self.last = self.best + int(np.argmin(np.append(above[self.best :], False))) - 1

    def position(self, at: str) -> float:
        if self.height == 0:
            return math.nan
        if at == "maximum":
            near = self.spline.derivative().roots(extrapolate=False)
            candidates = np.append(near[np.isfinite(near)], self.where)
            return float(candidates[np.argmax(self.spline(candidates))])
        part = slice(self.first, self.last + 1)
        weights = self.smooth[part] - (self.scores.min() + self.height / 2)
        return float((weights * self.fine[part]).sum() / weights.sum())

    def doubt(self, least_height: float) -> Reason:
        """Return OK, or why the peak is not to be believed."""
        if self.height < least_height:
            return Reason.FLAT
        highest = int(self.scores.argmax())
        if min(highest, len(self.scores) - 1 - highest) < 2:
            return Reason.EDGE
        if self.first == 0 or self.last == len(self.fine) - 1:
            return Reason.EDGE
        if max(self.scores[highest - 1], self.scores[highest + 1]) < self.scores.min() + 0.2 * self.height:
            return Reason.SPIKE
        beside = np.concatenate((self.smooth[: self.first], self.smooth[self.last + 1 :]))
        if beside.max() > self.scores.min() + OTHER_PEAK_HEIGHT * self.height:
            return Reason.SEVERAL_PEAKS
        width = self.fine[self.last] - self.fine[self.first]
        if width > WIDEST_FRACTION_OF_RANGE * (self.where[-1] - self.where[0]):
            return Reason.POOR_FIT
        return Reason.OK
