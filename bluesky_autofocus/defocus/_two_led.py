"""Defocus from two frames under opposite LEDs, without training: a matched filter on their cross-spectrum.

What a spatial frequency u scatters reaches the camera through one side of the pupil under one LED, and
through the mirror image of that place under the opposite LED. Defocus z turns the phase of the first by minus
z times

    a(u) = 2 pi [kz(u - u_s) - kz(u_s)],

that of the second by as much the other way, whatever the specimen: for a weak one the phase of the product of
the two spectra is 2 z a(u) plus a constant. So the defocus, with its sign, is where

    S(z) = | sum_u C(u) / |C(u)| exp(i z 2 a(u)) |,   C = F_1 conj(F_2)

is largest. The sum goes over what lies in one circle only, where no other term disturbs the phase.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus._fft import fft, threads
from bluesky_autofocus.defocus._checks import check_light
from bluesky_autofocus.defocus._circles import TwoCircles
from bluesky_autofocus.defocus._estimate import DefocusEstimate
from bluesky_autofocus.leds import Single
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.records import Reason
from bluesky_autofocus.sharpness import examine_frame

__all__ = ["TwoLEDFilter"]

_BINS = 512
_STEP_UM = 0.25


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
        self._filters: dict[tuple[int, int], _Filter] = {}

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

        Returns
        -------
        DefocusEstimate
            Refused as `UNFAMILIAR` where the frames differ by no more than noise: both were taken under one
            LED. So are those of a specimen that absorbs but has no phase, within 0.1 um of focus.

        Raises
        ------
        ValueError
            If these are not two frames of one shape of at least 128 px.
        """
        if len(frames) != 2 or frames[0].shape != frames[1].shape or frames[0].ndim != 2:
            raise ValueError(
                f"got frames of shape {[frame.shape for frame in frames]}: expected two of one shape (H, W)"
            )
        for frame in frames:
            problem = examine_frame(frame, full_scale=self.full_scale).problem
            if problem is not None:
                return DefocusEstimate.refused(Reason(problem))
        curves = self.curves(*frames)
        estimate = self._judge(curves)
        if estimate.accepted and self._under_one_led(*frames, curves):
            return DefocusEstimate.refused(Reason.UNFAMILIAR)
        return estimate

    def curves(self, first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.complex128]:
        """Return the matched filter's complex output for each patch, over `positions_um`.

        Returns
        -------
        ndarray of complex, shape (n_patches, n_positions)
            Normalised: of magnitude 1 where all frequencies agree.
        """
        filter_ = self._filter(first.shape)
        return np.array(
            [
                filter_(first[where].astype(np.float32), second[where].astype(np.float32), self.camera_offset)
                for where in _patches(first.shape, filter_.side)
            ]
        )

    def _filter(self, frame_shape: tuple[int, ...]) -> "_Filter":
        side = min(self.patch_px, *frame_shape)
        if side < 128:
            raise ValueError(f"the frames are {frame_shape} px: expected at least 128 x 128")
        shape = (side, side)
        if shape not in self._filters:
            self._filters[shape] = _Filter(
                (self.optics, self.second_optics), self.leds[0].na_xy, side, self.positions_um
            )
        return self._filters[shape]

    def _under_one_led(
        self, first: NDArray[Any], second: NDArray[Any], curves: NDArray[np.complex128]
    ) -> bool:
        """Return whether both frames are of one LED: such a pair always says that there is no defocus.

        Spectra of frames are symmetric, so that no circle tells from which side the light came. But opposite
        LEDs turn the phase of what is scattered by a specimen's phase round, even in focus; and where it has
        little, absorption being strong, their frames still differ by more than noise.
        """
        total = curves.mean(axis=0)
        if total[len(total) // 2].real < _ALIKE * np.abs(total).max():
            return False
        filter_ = self._filter(first.shape)
        differing, power, noise = np.sum(
            [
                filter_.difference(
                    first[where].astype(np.float32), second[where].astype(np.float32), self.camera_offset
                )
                for where in _patches(first.shape, filter_.side)
            ],
            axis=0,
        )
        return bool(differing < _LEAST_NOISE * noise + _LEAST_DIFFERENCE * power)

    @property
    def positions_um(self) -> NDArray[Any]:
        """Defoci that are tried."""
        count = round((self.range_um + 4.0) / _STEP_UM)
        return np.arange(-count, count + 1) * _STEP_UM

    def _judge(self, curves: NDArray[np.complex128]) -> DefocusEstimate:
        positions = self.positions_um
        total = np.abs(curves.mean(axis=0))
        best = int(total.argmax())
        noise = float(np.median(total))
        # within this the main lobe of the filter falls to nothing: other peaks lie outside
        lobe = np.abs(positions - positions[best]) < self.lobe_um
        other = float(total[~lobe].max())
        if total[best] < _LEAST_COHERENCE or total[best] < _LEAST_PEAK * noise:
            return DefocusEstimate.refused(Reason.EMPTY)
        if total[best] < _LEAST_LEAD * other:
            return DefocusEstimate.refused(Reason.SEVERAL_PEAKS)
        value = _vertex(positions, total, best)
        if abs(value) > self.range_um:
            return DefocusEstimate.refused(Reason.OUT_OF_RANGE)
        scatter = self._scatter_um(curves, best)
        sigma = math.hypot(scatter, self.bias_sigma_um)
        if sigma > self.optics.depth_of_field_um / 2:
            return DefocusEstimate.refused(Reason.UNCERTAIN)
        return DefocusEstimate(value - self.bias_um, sigma)

    @property
    def lobe_um(self) -> float:
        """Half width of the filter's main lobe: pi over the spread of its phase per micron."""
        return 2 * self.optics.depth_of_field_um

    def _scatter_um(self, curves: NDArray[np.complex128], best: int) -> float:
        """Return the uncertainty of the mean from leaving out one patch at a time (jackknife)."""
        n = len(curves)
        if n == 1:
            return 0.5 * self.optics.depth_of_field_um * 0.2
        positions = self.positions_um
        near = slice(max(best - 8, 0), best + 9)
        without = []
        for index in range(n):
            rest = np.abs(np.delete(curves, index, axis=0).mean(axis=0))[near]
            without.append(_vertex(positions[near], rest, int(rest.argmax())))
        return float(math.sqrt((n - 1) / n * np.sum((np.array(without) - np.mean(without)) ** 2)))


_LEAST_COHERENCE = 0.02
_LEAST_PEAK = 4.0
_LEAST_LEAD = 1.3
_ALIKE = 0.5
"""Part of the peak that is reached without defocus and without a change of phase. Under one LED twice it was
1.0 in all simulated fields with a specimen; under opposite ones, near focus, phase makes it negative."""
_LEAST_NOISE = 1.3
"""Power by which frames differ, relative to their noise: 0.97 to 1.05 under one LED twice, 0.91 to 1.13 where
they had 160 px a side only."""
_LEAST_DIFFERENCE = 0.05
"""The same relative to their own power, which allows for what moves by a fraction of a pixel in between."""


class _Filter:
    """The matched filter for patches of one size."""

    def __init__(
        self,
        optics: tuple[LightOptics, LightOptics],
        na_xy: tuple[float, float],
        side: int,
        positions_um: NDArray[Any],
    ) -> None:
        self.side = side
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
        # farthest from both circles there is little but noise
        nearer = np.minimum(to_plus[1], to_minus[1])
        self._noise = np.flatnonzero(nearer > np.quantile(nearer, 0.9))
        turned = np.where(
            in_plus, first.phase_minus + second.phase_minus, -(first.phase_plus + second.phase_plus)
        ).ravel()[self._where]
        low, high = float(turned.min()), float(turned.max())
        self._bin = np.minimum((turned - low) / (high - low) * _BINS, _BINS - 1).astype(np.intp)
        centres = low + (np.arange(_BINS) + 0.5) * (high - low) / _BINS
        self._rotation = np.exp(1j * np.outer(centres, positions_um))
        k = np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2
        self._window = (k[:, None] * k).astype(np.float32)

    def __call__(
        self, first: NDArray[np.float32], second: NDArray[np.float32], offset: float
    ) -> NDArray[np.complex128]:
        cross = self._spectrum(first, offset)[self._where] * np.conj(
            self._spectrum(second, offset)[self._where]
        )
        cross /= np.abs(cross) + 1e-20
        gathered = np.bincount(self._bin, cross.real, _BINS) + 1j * np.bincount(self._bin, cross.imag, _BINS)
        return (gathered @ self._rotation) / len(self._where)

    def difference(
        self, first: NDArray[np.float32], second: NDArray[np.float32], offset: float
    ) -> tuple[float, float, float]:
        """Return the power of the difference of the spectra, their own, and the noise of the former."""
        one, two = (self._spectrum(patch, offset) for patch in (first, second))
        own = (_power(one[self._where]) + _power(two[self._where])) / 2
        return _power((one - two)[self._where]), own, _power((one - two)[self._noise])

    def _spectrum(self, patch: NDArray[np.float32], offset: float) -> NDArray[np.complex64]:
        light = patch - np.float32(offset)
        light = (light / max(float(light.mean()), 1e-6) - 1) * self._window
        return fft.rfft2(light, workers=threads()).ravel()


def _power(spectrum: NDArray[np.complex64]) -> float:
    return float(np.mean(spectrum.real**2 + spectrum.imag**2))


def _patches(shape: tuple[int, ...], side: int) -> list[tuple[slice, slice]]:
    """Return squares that cover a frame from its first row and column on, overlapping by half."""
    rows, columns = (range(0, n - side + 1, max(side // 2, 1)) for n in shape)
    return [(slice(y, y + side), slice(x, x + side)) for y in rows for x in columns]


def _vertex(positions: NDArray[Any], values: NDArray[Any], best: int) -> float:
    """Return where the parabola through the largest value and its neighbours has its vertex."""
    if not 0 < best < len(values) - 1:
        return float(positions[best])
    a, b, c = values[best - 1 : best + 2]
    return float(positions[best] + (positions[1] - positions[0]) * 0.5 * (a - c) / min(a - 2 * b + c, -1e-12))
