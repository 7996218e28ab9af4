"""The spectra of two frames of one field, in units of their noise: what a fit of their blur goes by.

All that two frames tell of their blur is, at each frequency, the power of both and the real part of their
cross-spectrum.
"""

import copy
import math

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.defocus._modes import Modes, modes_of

__all__ = ["Pair", "pair_of"]

_SIGNIFICANT = 4.0
"""Standard deviations by which power must exceed the noise to be taken for that of the specimen."""
_NOISE_MODES = 400
"""Frequencies that noise is told from at least: 5 % of scatter."""
_MODEL_ERROR = 0.02
"""Relative error of the model at the strongest frequencies: windows, shading."""
_EQUAL_NOISE = 0.2
"""Difference of the logarithms of two noise powers that brightness need not explain."""
_SAME_BRIGHTNESS = 3e-4
"""Relative uncertainty of brightness: what moves into the frame and out of it with the blur."""
_CROP_PX = 16
_MOST_CROPPED = 4
"""Frames that have moved by more than this part of their side are left as they are: they hardly overlap."""


class Pair:
    """Two frames of one field as a fit sees them.

    Attributes
    ----------
    modes : Modes
        Of their shape.
    share : float
        Of the modes that are as good as independent.
    frames : tuple of ndarray, shape (H, W)
        As they were given.
    noise : tuple of float
        Power of the noise of each frame, of each mode.
    first, second : ndarray of complex, shape (n,)
        Spectra in units of the deviation of their noise, the second one moved onto the first.
    total, difference, cross : ndarray, shape (cells,)
        Sums of ``|F1|^2 + |F2|^2``, of ``|F1|^2 - |F2|^2`` and of twice the real part of ``F1* F2``.
    signal : ndarray, shape (cells,)
        Power of the specimen in both frames together, in units of the noise, where it is significant; else 0.
    rest_px : tuple of float
        How far down and to the right the content of the second frame has moved.
    log_scale : float
        Logarithm by which the second spectrum is larger if both frames are equally bright, for it is in units
        of its own noise.
    log_gain, log_gain_sigma : float
        By how much the second frame is brighter, and how certain that is.
    """

    def __init__(self, first: NDArray[np.floating], second: NDArray[np.floating], dark_level: float) -> None:
        self.modes = modes = modes_of((first.shape[0], first.shape[1]))
        self.share = modes.share
        spectra = [modes.spectrum(frame, modes.window) for frame in (first, second)]
        level = [float(np.average(frame, weights=modes.window)) - dark_level for frame in (first, second)]
        noise = _noise_power(modes, *spectra, brightness=level)
        self.frames, self.noise = (first, second), (noise[0], noise[1])
        self.first, self.second = (
            spectrum / math.sqrt(power) for spectrum, power in zip(spectra, noise, strict=True)
        )
        self.log_scale = math.log(noise[0] / noise[1]) / 2
        self.log_gain = math.log(max(level[1], 1e-9) / max(level[0], 1e-9))
        relative = [
            power / (max(mean, 1e-9) * float(modes.window.sum())) ** 2
            for power, mean in zip(noise, level, strict=True)
        ]
        # of what is not the light of the specimen, a dark level that is not told, nothing more is known
        self.log_gain_sigma = math.hypot(_SAME_BRIGHTNESS, self.log_gain / 2, math.sqrt(sum(relative)))
        self.rest_px = (0.0, 0.0)
        self._gentle = tuple(
            modes.spectrum(frame, modes.gentle_window) / math.sqrt(power)
            for frame, power in zip(self.frames, self.noise, strict=True)
        )
        self.total, self.difference, self.cross = self._sums(self.first, self.second)
        power, of_modes = modes.smoothed(self.total)
        excess = power - 2
        significant = (excess > _SIGNIFICANT * np.sqrt(2 / of_modes)) & (modes.count > 0)
        self.signal = np.where(significant, excess, 0.0)

    def _sums(
        self, first: NDArray[np.complexfloating], second: NDArray[np.complexfloating]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        powers = [self.modes.gather(np.abs(one) ** 2) for one in (first, second)]
        cross = 2 * self.modes.gather((first.conj() * second).real)
        return powers[0] + powers[1], powers[0] - powers[1], cross

    def gentle(self) -> "Pair":
        """Return a twin whose sums are those of frames that fade all the way to their middle."""
        twin = copy.copy(self)
        twin.share = self.modes.gentle_share
        down, right = self.rest_px
        turned = self._gentle[1] * np.exp(2j * np.pi * (self.modes.ky * down + self.modes.kx * right))
        twin.total, twin.difference, twin.cross = self._sums(self._gentle[0], turned)
        return twin

    @property
    def weight(self) -> NDArray[np.float64]:
        """How much each cell is to count: of what is mostly noise, and of what is never modelled, little."""
        return self.signal / (self.signal + 1) / (1 + _MODEL_ERROR**2 * self.signal)

    def align(self, weight: NDArray[np.floating]) -> float:
        """Move the second frame onto the first; return by how many pixels.

        Parameters
        ----------
        weight : ndarray, shape (cells,)
            Of the cross-spectrum. Negative where one frame shows contrast inverted.
        """
        modes = self.modes
        cross = weight[modes.cell] * self.first.conj() * self.second
        if not np.any(cross):
            return 0.0
        correlation = modes.image(cross)
        at = np.unravel_index(int(correlation.argmax()), correlation.shape)
        moved = np.array([(i + n // 2) % n - n // 2 for i, n in zip(at, modes.shape, strict=True)], float)
        k = 2 * np.pi * np.stack([modes.ky, modes.kx])
        for _ in range(5):
            turned = cross * np.exp(1j * (moved @ k))
            slope = k @ turned.imag
            curvature = (k * turned.real) @ k.T
            step = -np.linalg.lstsq(curvature, slope, rcond=None)[0]
            if not np.hypot(*step) < 1:  # the peak is no peak
                break
            moved += step
            if np.hypot(*step) < 1e-4:
                break
        self.second = self.second * np.exp(1j * (moved @ k))
        self.rest_px = (self.rest_px[0] + float(moved[0]), self.rest_px[1] + float(moved[1]))
        self.cross = self._sums(self.first, self.second)[2]
        return float(np.hypot(*moved))

    @property
    def coherence(self) -> float:
        """How much both frames have in common, 0 to 1, whatever the blur and the noise."""
        modes = self.modes
        total, difference, cross = (
            modes.smoothed(sums)[0] for sums in (self.total, self.difference, self.cross)
        )
        own = [np.maximum((total + side * difference) / 2 - 1, 0) for side in (1, -1)]
        weight = self.weight * modes.count
        return float(
            np.sum(weight * np.abs(cross) / 2) / max(np.sum(weight * np.sqrt(own[0] * own[1])), 1e-12)
        )


def pair_of(
    first: NDArray[np.floating], second: NDArray[np.floating], dark_level: float = 0.0
) -> tuple[Pair, tuple[int, int]]:
    """Return two frames as a pair, aligned, and by how many pixels the second one has moved besides.

    What only one of them shows is cut off.

    Parameters
    ----------
    first, second : ndarray, shape (H, W)
    dark_level : float
        Grey level without light.
    """
    pair = Pair(first, second, dark_level)
    pair.align(pair.weight)
    # in steps, so that frames of few shapes come out
    cut = [_CROP_PX * math.ceil(abs(moved) / _CROP_PX) if abs(moved) >= 1 else 0 for moved in pair.rest_px]
    if not any(cut) or any(_MOST_CROPPED * off > n for off, n in zip(cut, first.shape, strict=True)):
        return pair, (0, 0)
    down, right = (round(moved) if off else 0 for moved, off in zip(pair.rest_px, cut, strict=True))
    rows, columns = (n - off for n, off in zip(first.shape, cut, strict=True))

    def seen(frame: NDArray[np.floating], top: int, left: int) -> NDArray[np.floating]:
        return frame[max(0, top) : max(0, top) + rows, max(0, left) : max(0, left) + columns]

    pair = Pair(seen(first, -down, -right), seen(second, down, right), dark_level)
    pair.align(pair.weight)
    return pair, (down, right)


def _noise_power(
    modes: Modes,
    first: NDArray[np.complexfloating],
    second: NDArray[np.complexfloating],
    *,
    brightness: list[float],
) -> list[float]:
    """Return the power of the noise of each frame's modes.

    It is what is left at the highest frequencies, and as far inwards as no more is there. Between the frames
    it is shared out by brightness: the noise is that of light, and what the sharper frame has more at the
    highest frequencies is the specimen. Where it differs by far more, other things have changed.
    """
    powers = [modes.gather(np.abs(one) ** 2) for one in (first, second)]
    rings, counts = modes.rings(powers[0] + powers[1]), modes.rings(modes.count)
    least = max(_NOISE_MODES, 0.01 * counts.sum())
    taken: list[int] = []
    group: list[int] = []
    for ring in np.flatnonzero(counts)[::-1]:
        group.append(int(ring))
        of = counts[group].sum()
        if of < least:
            continue
        if taken:
            level = rings[taken].sum() / counts[taken].sum()
            if rings[group].sum() / of > level * (1 + _SIGNIFICANT / math.sqrt(2 * of * modes.share)):
                break
        taken += group
        group = []
    taken = taken or group
    each = [modes.rings(one)[taken].sum() / counts[taken].sum() for one in powers]
    floor = 1e-12 * float(rings.sum() / counts.sum()) + 1e-300
    each = [max(float(one), floor) for one in each]
    share = math.log(max(brightness[1], 1e-9) / max(brightness[0], 1e-9))
    if abs(math.log(each[1] / each[0]) - share) > _EQUAL_NOISE:
        return each
    mean = (each[0] + each[1]) / (1 + math.exp(share))
    return [mean, mean * math.exp(share)]
