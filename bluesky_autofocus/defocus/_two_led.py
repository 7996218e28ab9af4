"""Defocus from two frames under opposite LEDs, without training: a matched filter on their cross-spectrum.

What a spatial frequency u scatters reaches the camera through one side of the pupil under one LED, and
through the mirror image of that place under the opposite LED. Defocus z turns the phase of the first by minus
z times

    a(u) = 2 pi [kz(u - u_s) - kz(u_s)],

that of the second by as much the other way, whatever the specimen: for a weak one the phase of the product of
the two spectra is 2 z a(u) plus a constant. So the defocus, with its sign, is where

    S(z) = | sum_u C(u) / |C(u)| exp(i z 2 a(u)) |,   C = F_1 conj(F_2)

is largest. The sum goes over what lies in one circle only, where no other term disturbs the phase.

All these frequencies together tell which peak is the right one. Its place is then taken from the low ones
among them: their phase is the parallax between the two frames, which neither the aberrations of the pupil's
edge nor what thick cells refract disturb much. How well that is known is told by parts of the frame, each for
itself: where the specimen is not thin and weak, they disagree.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus._fft import fft, threads
from bluesky_autofocus.defocus._checks import check_light, problem_of
from bluesky_autofocus.defocus._circles import TwoCircles
from bluesky_autofocus.defocus._estimate import DefocusEstimate
from bluesky_autofocus.leds import Single
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.records import Reason

__all__ = ["TwoLEDFilter"]

_BINS = 512
_STEP_UM = 0.25

_LEAST_PX = 128
_LEAST_COHERENCE = 0.03
"""Height of the peak. Fields without specimen, but for the roughness of the glass, reach 0.03."""
_LEAST_PEAK = 6.0
"""Height of the peak over the median. It was 4.9 at most where there was none to be found: without specimen,
or far out of range."""
_LEAST_LEAD = 1.5
"""Height of the peak over the next one. 1.7 at most in the same frames, where the peak was above 4.5 medians."""
_LEAST_DIFFERENCE = 1.5
"""Power of what differs between the frames, relative to that of the noise: 1.0 under one LED twice."""
_LOW = 0.48
"""Frequencies up to about this, in apertures of the objective over the wavelength, tell the place of the peak.
With all of them the RMSE on simulated fields of 1024 px was TODO."""
_NEAR_UM = 2.0
"""How far from the peak of all frequencies that of the low ones may lie."""
_SCATTER = 3.0
"""What specimens do to the phase is not independent from patch to patch, and these overlap: the jackknife's
figure times this held the truth within two sigma in 95 % of simulated fields."""
_LEAST_PATCHES = 9
"""For that figure; a frame that is cut into fewer is cut into smaller ones for it."""


class TwoLEDFilter:
    """Tells the defocus from two frames, under an LED and under the opposite one.

    Parameters
    ----------
    optics : LightOptics
        Of the frames.
    na, angle_deg : float
        Of the first LED, in the frame's axes; within the objective's aperture.
    bias_um : float
        What the estimate is constantly too high by on this instrument: from fields whose focus is known.
    bias_sigma_um : float
        By how much the estimate differs from the specimen's focus from specimen to specimen though nothing
        in the frames shows it: thick ones scatter from several heights. Part of every stated uncertainty.
        By default what holds 95 % of simulated fields of cells and tissue within two sigma.
    range_um : float
        Defocus to either side that is looked for.
    patch_px : int
        Frames are cut into patches of at most this side; their agreement gives the uncertainty.
    camera_offset : float
        Grey level of the camera without light.
    full_scale : float, optional
        Grey level at which the camera saturates, by default the largest of the frames' type.
    second_wavelength_um : float, optional
        Of the second LED, where both are on in one exposure and a colour camera tells them apart: the frames
        are then two of its channels. By default that of the optics.

    Raises
    ------
    ValueError
        If the LED is not an off-axis one within the objective's aperture, or a number makes no sense.
    """

    frames_needed = 2
    model_hash = ""

    def __init__(
        self,
        optics: LightOptics,
        na: float = 0.4,
        angle_deg: float = 0.0,
        *,
        bias_um: float = 0.0,
        bias_sigma_um: float = 0.35,
        range_um: float = 36.0,
        patch_px: int = 1024,
        camera_offset: float = 100.0,
        full_scale: float | None = None,
        second_wavelength_um: float | None = None,
    ) -> None:
        if not 0.1 * optics.numerical_aperture <= na <= 0.97 * optics.numerical_aperture:
            raise ValueError(
                f"na is {na!r}: expected an off-axis LED within the objective's aperture, "
                f"{0.1 * optics.numerical_aperture:g} to {0.97 * optics.numerical_aperture:g}"
            )
        if not (math.isfinite(range_um) and range_um > 0):
            raise ValueError(f"range_um is {range_um!r}: expected a positive, finite number")
        if patch_px < 128:
            raise ValueError(f"patch_px is {patch_px!r}: expected at least 128")
        self.optics, self.range_um, self.patch_px = optics, range_um, patch_px
        self.bias_um, self.bias_sigma_um = bias_um, bias_sigma_um
        self.camera_offset, self.full_scale = camera_offset, full_scale
        self.second_optics = dataclasses.replace(
            optics,
            wavelength_um=optics.wavelength_um if second_wavelength_um is None else second_wavelength_um,
        )
        first = Single(na, angle_deg)
        self.leds: tuple[Single, Single] = (first, first.opposite)
        self._filters: dict[int, _Filter] = {}

    @property
    def parameters(self) -> dict[str, Any]:
        """What the estimates depend on, JSON-able."""
        return {
            "method": "two_led",
            "optics": dataclasses.asdict(self.optics),
            "leds": [str(led) for led in self.leds],
            "bias_um": self.bias_um,
            "bias_sigma_um": self.bias_sigma_um,
            "range_um": self.range_um,
            "patch_px": self.patch_px,
            "camera_offset": self.camera_offset,
            "full_scale": self.full_scale,
            "second_wavelength_um": self.second_optics.wavelength_um,
        }

    def check(self, optics: LightOptics, na_xy_list: Sequence[tuple[float, float]]) -> None:
        """Make sure that frames of these optics and LEDs are what the filter is made for.

        Raises
        ------
        ModelMismatchError
            Naming what differs.
        """
        check_light(self.optics, self.leds, optics, na_xy_list)

    def estimate(self, *frames: NDArray[Any]) -> DefocusEstimate:
        """Return the defocus.

        Parameters
        ----------
        *frames : ndarray, shape (H, W)
            Under ``leds[0]`` and under ``leds[1]``, at one position of the stage.

        Raises
        ------
        ValueError
            If these are not two frames of one shape of at least 128 px.
        """
        if len(frames) != 2 or frames[0].shape != frames[1].shape or frames[0].ndim != 2:
            raise ValueError(
                f"got frames of shape {[frame.shape for frame in frames]}: expected two of one shape (H, W)"
            )
        side = min(self.patch_px, *frames[0].shape)
        if side < _LEAST_PX:
            raise ValueError(f"the frames are {frames[0].shape} px: expected at least {_LEAST_PX} a side")
        for frame in frames:
            problem = problem_of(frame, self.full_scale)
            if problem is not None:
                return DefocusEstimate.refused(problem)
        return self._judge(frames, side)

    def _outputs(self, frames: Sequence[NDArray[Any]], side: int) -> "_Outputs":
        """Return what the matched filter says of each patch."""
        if side not in self._filters:
            self._filters[side] = _Filter(
                (self.optics, self.second_optics), self.leds[0].na_xy, side, self.positions_um
            )
        first, second = frames
        return _Outputs.of(
            [
                self._filters[side](
                    first[where].astype(np.float32), second[where].astype(np.float32), self.camera_offset
                )
                for where in _patches(first.shape, side)
            ]
        )

    @property
    def positions_um(self) -> NDArray[Any]:
        """Defoci that are tried."""
        count = round((self.range_um + 4.0) / _STEP_UM)
        return np.arange(-count, count + 1) * _STEP_UM

    def _judge(self, frames: Sequence[NDArray[Any]], side: int) -> DefocusEstimate:
        found = self._outputs(frames, side)
        positions = self.positions_um
        total = np.abs(found.all.mean(axis=0))
        best = int(total.argmax())
        # the main lobe of the filter and its side lobes; other peaks lie outside
        lobe = np.abs(positions - positions[best]) < self.lobe_um
        if found.difference < _LEAST_DIFFERENCE:
            # a pair of opposite LEDs differs by more than noise, if there is a specimen; the same LED does not
            alike = total[best] > _LEAST_COHERENCE
            return DefocusEstimate.refused(Reason.UNFAMILIAR if alike else Reason.EMPTY)
        if total[best] < max(_LEAST_COHERENCE, _LEAST_PEAK * float(np.median(total))):
            return DefocusEstimate.refused(Reason.EMPTY)
        if total[best] < _LEAST_LEAD * float(total[~lobe].max()):
            return DefocusEstimate.refused(Reason.SEVERAL_PEAKS)
        near = np.abs(positions - positions[best]) <= _NEAR_UM
        value, at_edge = _peak(positions[near], np.abs(found.low.mean(axis=0))[near])
        if abs(value - self.bias_um) > self.range_um:
            return DefocusEstimate.refused(Reason.OUT_OF_RANGE)
        if len(found.low) < _LEAST_PATCHES:
            found = self._outputs(frames, side // 2)
        sigma = math.hypot(_SCATTER * _jackknife_um(positions[near], found.low[:, near]), self.bias_sigma_um)
        if at_edge or sigma > self.optics.depth_of_field_um / 2:
            return DefocusEstimate.refused(Reason.UNCERTAIN)
        return DefocusEstimate(value - self.bias_um, sigma)

    @property
    def lobe_um(self) -> float:
        """Half width of what belongs to one peak of the filter."""
        return 2 * self.optics.depth_of_field_um


@dataclasses.dataclass(frozen=True)
class _Outputs:
    """What the matched filter says of some patches.

    Parameters
    ----------
    all, low : ndarray of complex, shape (n_patches, n_positions)
        Its output, from all frequencies and from the low ones; of magnitude 1 where they agree.
    difference : float
        Power of the difference of the frames where a specimen scatters, relative to that of the noise.
    """

    all: NDArray[np.complex128]
    low: NDArray[np.complex128]
    difference: float

    @classmethod
    def of(cls, patches: Sequence[tuple[Any, Any, float, float]]) -> "_Outputs":
        every, low, different, noise = zip(*patches, strict=True)
        return cls(np.array(every), np.array(low), sum(different) / max(sum(noise), 1e-30))


class _Filter:
    """The matched filter for patches of one size."""

    def __init__(
        self,
        optics: tuple[LightOptics, LightOptics],
        na_xy: tuple[float, float],
        side: int,
        positions_um: NDArray[Any],
    ) -> None:
        pixel_size_um = optics[0].pixel_size_um
        fx = fft.rfftfreq(side, pixel_size_um)
        fy = fft.fftfreq(side, pixel_size_um)[:, None]
        first, second = (TwoCircles(one, na_xy, fx, fy) for one in optics)
        # both halves of the plane say the same; on the one that is kept, u may lie in either circle
        to_plus = np.maximum(first.to_plus, second.to_plus), np.minimum(first.to_plus, second.to_plus)
        to_minus = np.maximum(first.to_minus, second.to_minus), np.minimum(first.to_minus, second.to_minus)
        in_plus = (to_plus[0] < 0.97) & (to_minus[1] > 1.03)
        in_minus = (to_minus[0] < 0.97) & (to_plus[1] > 1.03)
        self._where = np.flatnonzero(in_plus | in_minus)
        # the tenth of all frequencies that lies farthest out: noise
        nearer = np.minimum(to_plus[1], to_minus[1])
        self._noise = np.flatnonzero(nearer > np.quantile(nearer, 0.9))
        turned = np.where(
            in_plus, first.phase_minus + second.phase_minus, -(first.phase_plus + second.phase_plus)
        ).ravel()[self._where]
        low, high = float(turned.min()), float(turned.max())
        self._bin = np.minimum((turned - low) / (high - low) * _BINS, _BINS - 1).astype(np.intp)
        centres = low + (np.arange(_BINS) + 0.5) * (high - low) / _BINS
        self._rotation = np.exp(1j * np.outer(centres, positions_um))
        # the lowest that lie in one circle only are far from the axis where the LED is near it
        radius = optics[0].numerical_aperture / optics[0].wavelength_um
        low_per_um = max(_LOW * radius, 1.5 * (radius - math.hypot(*na_xy) / optics[0].wavelength_um))
        weights = np.exp(-((np.hypot(fx, fy).ravel()[self._where] / low_per_um) ** 4))
        self._low = np.flatnonzero(weights > 0.01)
        self._weights = weights[self._low] / weights[self._low].sum()
        k = np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2
        self._window = (k[:, None] * k).astype(np.float32)

    def __call__(
        self, first: NDArray[np.float32], second: NDArray[np.float32], offset: float
    ) -> tuple[NDArray[np.complex128], NDArray[np.complex128], float, float]:
        one, two = self._spectrum(first, offset), self._spectrum(second, offset)
        different, noise = (_power((one - two)[where]) for where in (self._where[self._low], self._noise))
        cross = (one * np.conj(two))[self._where]
        cross /= np.abs(cross) + 1e-20
        low = self._turned(self._bin[self._low], cross[self._low] * self._weights)
        return self._turned(self._bin, cross / len(cross)), low, different, noise

    def _turned(self, which: NDArray[np.intp], values: NDArray[Any]) -> NDArray[np.complex128]:
        """Return the sum of values, turned back by the phase that each position would give them."""
        gathered = np.bincount(which, values.real, _BINS) + 1j * np.bincount(which, values.imag, _BINS)
        return gathered @ self._rotation

    def _spectrum(self, patch: NDArray[np.float32], offset: float) -> NDArray[np.complex64]:
        light = patch - np.float32(offset)
        light = (light / max(float(light.mean()), 1e-6) - 1) * self._window
        return fft.rfft2(light, workers=threads()).ravel()


def _power(spectrum: NDArray[np.complex64]) -> float:
    return float(np.mean(spectrum.real**2 + spectrum.imag**2))


def _patches(shape: tuple[int, ...], side: int) -> list[tuple[slice, slice]]:
    """Return squares that are spread over a frame and overlap by about half."""
    starts = []
    for n in shape:
        count = round((n - side) / (side / 2)) + 1
        starts.append(np.linspace(0, n - side, count).astype(int) if count > 1 else [(n - side) // 2])
    rows, columns = starts
    return [(slice(y, y + side), slice(x, x + side)) for y in rows for x in columns]


def _peak(positions: NDArray[Any], values: NDArray[Any]) -> tuple[float, bool]:
    """Return where the parabola through the largest value and its neighbours has its vertex.

    And whether the largest value is the first or the last one, so that there is no such parabola.
    """
    best = int(values.argmax())
    if not 0 < best < len(values) - 1:
        return float(positions[best]), True
    a, b, c = values[best - 1 : best + 2]
    step = positions[1] - positions[0]
    return float(positions[best] + step * 0.5 * (a - c) / min(a - 2 * b + c, -1e-12)), False


def _jackknife_um(positions: NDArray[Any], curves: NDArray[np.complex128]) -> float:
    """Return the uncertainty of the peak's position, from leaving out one patch at a time."""
    n = len(curves)
    rest = np.abs(curves.sum(axis=0) - curves)
    without = np.array([_peak(positions, one)[0] for one in rest])
    return math.sqrt((n - 1) / n * float(np.sum((without - without.mean()) ** 2)))
