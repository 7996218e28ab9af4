"""Partially coherent image formation by Abbe's summation over the LEDs that are on.

Each LED is a plane wave. It goes through the slices of the specimen (multislice), its exit spectrum is moved
over the pupil by the tilt of the wave, the pupil adds the defocus phase, and the intensities of all LEDs add:

    I(z) = sum_s w_s |IFFT{ P(u) exp(i 2 pi z kz(u)) O_s(u - u_s) }|^2,   kz(u) = sqrt(lambda^-2 - |u|^2)

with u_s the LED's direction over the wavelength and O_s the spectrum of the specimen under that wave, which
is computed once for all planes. Only the window of the spectrum that the pupil lets through is kept, and
the inverse transform skips the rows that are empty.
"""

import dataclasses
import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bluesky_autofocus._fft import fft, threads
from bluesky_autofocus.defocus.ground_truth import focus_of_stack
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.records import Reason

from ._slab import Specimen

__all__ = ["Aberrations", "AbbeImageFormation", "FieldView"]

_MARGIN_PX = 64
"""The transforms take the field for one tile of an endless pattern; a frame shows a little less than a tile,
as a real one never has its opposite edges fit."""
_STEEPEST_NA = 0.75
"""Of the light that specimens are sampled finely enough for, and up to the objective's own aperture."""
_STEEPEST_AT_ALL = 0.97
"""LEDs are in air."""
_FOCUS_LEVEL_UM = 0.5
"""Across a tilted field, planes this far apart are blended; intensities vary little over a sixth of a DOF."""
_KEPT_SPECTRA = 48
_FOCUS_LEDS = 13
"""Half an annulus by which a field's focus is found."""
_FOCUS_NOISE = 0.014
"""Noise of its frames: that of 5000 electrons."""


@dataclasses.dataclass(frozen=True)
class Aberrations:
    """Departures of the objective from perfection.

    Parameters
    ----------
    spherical_waves, coma_waves, astigmatism_waves : float
        Zernike coefficients of the pupil, in waves RMS.
    field_curvature_um : float
        By how much the focus in the corners lies above that in the centre.

    Raises
    ------
    ValueError
        If a number is not finite.
    """

    spherical_waves: float = 0.05
    coma_waves: float = 0.03
    astigmatism_waves: float = 0.03
    field_curvature_um: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value):
                raise ValueError(f"{field.name} is {value!r}: expected a finite number")

    def phase_waves(self, rho: NDArray[np.float64], theta: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the wavefront over the pupil, in waves; `rho` is 1 at its edge."""
        return (
            self.spherical_waves * math.sqrt(5) * (6 * rho**4 - 6 * rho**2 + 1)
            + self.coma_waves * math.sqrt(8) * (3 * rho**3 - 2 * rho) * np.cos(theta)
            + self.astigmatism_waves * math.sqrt(6) * rho**2 * np.cos(2 * theta)
        )


class AbbeImageFormation:
    """A transmitted-light microscope with an LED array as its condenser.

    Parameters
    ----------
    optics : LightOptics
        Objective, wavelength and pixel size.
    frame_shape : tuple of int
        Rows and columns of a frame.
    aberrations : Aberrations
        Of the objective.
    sample_pixel_um : float
        Spacing at which specimens are sampled, about; finer where the light of an LED array needs it.
    steepest_na : float, optional
        The most tilted light that specimens are sampled finely enough for. By default 0.75 or the
        objective's own aperture; that of a narrow condenser makes fewer samples and so faster images.
    tilt_um : tuple of float
        How much higher the focus lies at the last row and at the last column than at the first ones: a
        stage that is not level.

    Raises
    ------
    ValueError
        If a number makes no sense.
    """

    def __init__(
        self,
        optics: LightOptics | None = None,
        frame_shape: tuple[int, int] = (2048, 2048),
        aberrations: Aberrations | None = None,
        *,
        sample_pixel_um: float = 0.2,
        steepest_na: float | None = None,
        tilt_um: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        if len(frame_shape) != 2 or min(frame_shape) < 16:
            raise ValueError(f"frame_shape is {frame_shape!r}: expected two integers of at least 16")
        if not (math.isfinite(sample_pixel_um) and sample_pixel_um > 0):
            raise ValueError(f"sample_pixel_um is {sample_pixel_um!r}: expected a positive, finite number")
        if len(tilt_um) != 2 or not all(math.isfinite(one) for one in tilt_um):
            raise ValueError(f"tilt_um is {tilt_um!r}: expected two finite numbers")
        if steepest_na is not None and not 0 <= steepest_na < math.inf:
            raise ValueError(f"steepest_na is {steepest_na!r}: expected a finite number, zero or more")
        optics, aberrations = optics or LightOptics(), aberrations or Aberrations()
        self.optics, self.aberrations, self.tilt_um = optics, aberrations, tilt_um
        self.frame_shape = (int(frame_shape[0]), int(frame_shape[1]))
        wave_number = optics.refractive_index / optics.wavelength_um
        pupil = optics.numerical_aperture / optics.wavelength_um
        # The field amplitude must not alias; a coarse camera pixel gathers several points of the field.
        self.oversampling = max(1, math.ceil(2.1 * pupil * optics.pixel_size_um))
        self.shape: tuple[int, int] = tuple(  # type: ignore[assignment] - two
            self.oversampling * _nice(n + _MARGIN_PX) for n in self.frame_shape
        )
        pixel_um = optics.pixel_size_um / self.oversampling
        self.extent_um = (self.shape[0] * pixel_um, self.shape[1] * pixel_um)
        # What the most tilted wave scatters into the pupil must not alias either.
        steepest = optics.numerical_aperture
        if steepest_na is None:
            self.steepest_na = max(_STEEPEST_NA, optics.numerical_aperture)
        else:
            self.steepest_na = steepest_na
            # directions are rounded, and so is the pupil's edge: by three samples of the spectrum at most
            steepest += 3 * optics.wavelength_um / min(self.extent_um)
        steepest += self.steepest_na
        sample_pixel_um = min(sample_pixel_um, optics.wavelength_um / (2.05 * steepest))
        self.sample_shape: tuple[int, int] = tuple(  # type: ignore[assignment] - two
            _nice(extent / sample_pixel_um) for extent in self.extent_um
        )
        self.step_per_um = (1 / self.extent_um[0], 1 / self.extent_um[1])
        self._half = tuple(math.ceil(pupil / step) + 1 for step in self.step_per_um)
        uy, ux = (
            np.arange(-half, half + 1) * step for half, step in zip(self._half, self.step_per_um, strict=True)
        )
        radius = np.hypot(uy[:, None], ux)
        rho = radius / pupil
        edge = np.clip((1 - rho) * pupil / min(self.step_per_um) + 0.5, 0, 1)  # one sample wide
        wavefront = aberrations.phase_waves(rho, np.arctan2(uy[:, None], ux))
        self.pupil: NDArray[np.complex64] = (edge * np.exp(2j * np.pi * wavefront)).astype(np.complex64)
        inside = rho <= 1.05
        self._kz = np.where(
            inside, np.sqrt(np.maximum(wave_number**2 - radius**2, 0)) - wave_number, 0
        ).astype(np.float32)
        self._wave_number = wave_number
        self._focus_levels = self._levels_of_focus()

    @property
    def wave_number_per_um(self) -> float:
        """Refractive index over wavelength, in cycles per um."""
        return self._wave_number

    def _levels_of_focus(self) -> list[tuple[float, NDArray[np.float32] | None]]:
        """Return focus heights and, for each, the weight of its plane at every pixel of the frame."""
        y, x = (np.linspace(-0.5, 0.5, n) for n in self.frame_shape)
        height = self.tilt_um[0] * y[:, None] + self.tilt_um[1] * x
        height = height + self.aberrations.field_curvature_um * 2 * (y[:, None] ** 2 + x**2)
        low, high = float(height.min()), float(height.max())
        if high - low < 1e-9:
            return [(low, None)]
        heights = np.linspace(low, high, math.ceil((high - low) / _FOCUS_LEVEL_UM) + 1)
        step = heights[1] - heights[0]
        return [
            (float(level), np.maximum(1 - np.abs(height - level) / step, 0).astype(np.float32))
            for level in heights
        ]

    def view(self, specimen: Specimen) -> "FieldView":
        """Look at a specimen made for this microscope.

        Raises
        ------
        ValueError
            If it was made on another grid.
        """
        return FieldView(self, specimen)

    def _shift_of(self, na_xy: Sequence[float] | NDArray[Any]) -> tuple[int, int]:
        """Return the tilt of a wave in samples of the spectrum (rows, columns).

        Waves are periodic over the field, so that directions are rounded: to 0.003 NA over 173 um.
        """
        x, y = na_xy
        if not math.hypot(x, y) < 1:
            raise ValueError(f"na_xy is {tuple(na_xy)!r}: expected a direction within NA 1")
        lam = self.optics.wavelength_um
        shift = round(y / lam / self.step_per_um[0]), round(x / lam / self.step_per_um[1])
        for moved, half, n in zip(shift, self._half, self.sample_shape, strict=True):
            if abs(moved) + half > n // 2:
                raise ValueError(
                    f"na_xy is {tuple(na_xy)!r}: specimens are sampled too coarsely for light that steep; "
                    "expected a smaller sample_pixel_um"
                )
        return shift

    def _window(self, spectrum: NDArray[np.complex64], shift: tuple[int, int]) -> NDArray[np.complex64]:
        """Return what the pupil sees of a spectrum on the sample's grid, its zero frequency in the middle."""
        rows, columns = (
            (np.arange(-half, half + 1) - moved) % n
            for half, moved, n in zip(self._half, shift, self.sample_shape, strict=True)
        )
        scale = np.float32(np.prod(self.shape) / np.prod(self.sample_shape))
        return np.multiply(spectrum[rows[:, None], columns], self.pupil * scale, dtype=np.complex64)

    def _kernel(self, defocus_um: float) -> NDArray[np.complex64]:
        phase = (np.float32(2 * np.pi * defocus_um)) * self._kz
        kernel = np.empty(phase.shape, np.complex64)
        np.cos(phase, out=kernel.real)
        np.sin(phase, out=kernel.imag)
        return kernel

    def _intensity(self, windowed: NDArray[np.complex64]) -> NDArray[np.float32]:
        """Return |IFFT|^2 of a windowed spectrum over the frame, by a transform that skips empty rows."""
        (half_y, half_x), (ny, nx) = self._half, self.shape
        rows = np.zeros((2 * half_y + 1, nx), np.complex64)
        rows[:, : half_x + 1] = windowed[:, half_x:]
        rows[:, -half_x:] = windowed[:, :half_x]
        rows = fft.ifft(rows, axis=1, workers=threads(), overwrite_x=True)
        rows = rows[:, : self.frame_shape[1] * self.oversampling]
        field = np.zeros((ny, rows.shape[1]), np.complex64)
        field[: half_y + 1] = rows[half_y:]
        field[-half_y:] = rows[:half_y]
        field = fft.ifft(field, axis=0, workers=threads(), overwrite_x=True)
        field = field[: self.frame_shape[0] * self.oversampling]
        intensity = field.real**2
        intensity += field.imag**2
        if self.oversampling > 1:
            k = self.oversampling
            intensity = intensity.reshape(self.frame_shape[0], k, self.frame_shape[1], k).mean((1, 3))
        return intensity


class FieldView:
    """One field of a specimen under the microscope; made by `AbbeImageFormation.view`.

    It keeps the spectrum of each LED it was asked for. Not meant for several threads at once.
    """

    def __init__(self, formation: AbbeImageFormation, specimen: Specimen) -> None:
        if specimen.slices.shape[1:] != formation.sample_shape:
            raise ValueError(
                f"the specimen is sampled on {specimen.slices.shape[1:]} points, this microscope needs "
                f"{formation.sample_shape}: make it for this microscope"
            )
        self.formation, self.specimen = formation, specimen
        self._thin: NDArray[np.complex64] | None = None
        self._moved: tuple[FieldView, NDArray[np.complex64]] | None = None
        self._windows: OrderedDict[tuple[int, int], NDArray[np.complex64]] = OrderedDict()

    def intensity(
        self, na_xy: ArrayLike, defocus_um: ArrayLike, weights: ArrayLike | None = None
    ) -> NDArray[np.float32]:
        """Return the images at some planes, under some LEDs at once.

        Parameters
        ----------
        na_xy : array_like, shape (n_leds, 2)
            Directions (x, y) of the LEDs.
        defocus_um : array_like, shape (n_planes,)
            Heights of the planes over z = 0 of the specimen. Equally spaced ones are computed faster.
        weights : array_like, shape (n_leds,), optional
            Light of each LED, 1 by default.

        Returns
        -------
        ndarray of float32, shape (n_planes, H, W)
            1 where a single LED of weight 1 within the objective's aperture meets no specimen.

        Raises
        ------
        ValueError
            If a direction, height or weight is none, or light is too steep for the specimen's samples.
        """
        directions = np.asarray(na_xy, dtype=float)
        if directions.ndim != 2 or directions.shape[1] != 2:
            raise ValueError(f"na_xy has shape {directions.shape}: expected (n_leds, 2)")
        heights = np.asarray(defocus_um, dtype=float).ravel()
        if not np.isfinite(heights).all():
            raise ValueError(f"defocus_um is {heights!r}: expected finite numbers")
        light = np.ones(len(directions)) if weights is None else np.asarray(weights, dtype=float)
        if light.shape != (len(directions),):
            raise ValueError(f"weights has shape {light.shape}: expected one for each of {len(directions)}")
        if not (np.isfinite(light).all() and (light >= 0).all()):
            raise ValueError(f"weights is {light!r}: expected finite numbers, zero or more")
        total = np.zeros((len(heights), *self.formation.frame_shape), np.float32)
        for direction, weight in zip(directions, light, strict=True):
            if weight == 0:
                continue
            window = self._window_of(self.formation._shift_of(direction))  # noqa: SLF001 - one module
            for level, share in self.formation._focus_levels:  # noqa: SLF001
                for plane, image in zip(total, self._planes(window, heights - level), strict=True):
                    image *= np.float32(weight) if share is None else np.float32(weight) * share
                    plane += image
        return total

    @cached_property
    def focus_um(self) -> float:
        """Where the field is in focus: the truth of all simulations here.

        What the specimen states where it does (living cells: the mid-plane of their nuclei). Else the plane
        in which it is sharpest under half an annulus of light, as Pinkard et al. 2019 have it, from frames
        about a micron apart with the usual noise. Spherical aberration of 0.05 waves moves it by 0.3 um, what
        thick cells refract by as much again; so no height of the specimen can stand for it, but where there
        is too little specimen for anything else.
        """
        if self.specimen.focus_um is not None:
            return self.specimen.focus_um
        optics = self.formation.optics
        angles = np.pi * (1 + np.arange(1, _FOCUS_LEDS + 1) / (_FOCUS_LEDS + 1))
        reach = min(0.9 * optics.numerical_aperture, self.formation.steepest_na, _STEEPEST_AT_ALL)
        directions = reach * np.column_stack([np.cos(angles), np.sin(angles)])
        heights = self.specimen.centre_um + np.arange(-6, 7) * optics.depth_of_field_um / 2.7
        light = np.full(_FOCUS_LEDS, 1 / _FOCUS_LEDS)
        frames = self.intensity(directions, heights, light)
        frames += np.random.default_rng(0).normal(0, _FOCUS_NOISE, frames.shape).astype(np.float32)
        found = focus_of_stack(frames, heights)
        known = math.isfinite(found.position_um) and found.reason is not Reason.FLAT
        return found.position_um if known else self.specimen.centre_um

    def moved(self, y_um: float, x_um: float) -> "FieldView":
        """Return the same field with its specimen moved; what goes out on one side comes in on the other.

        That costs nothing: to move is to turn the phases of the spectra, which the two views share. The
        view's `specimen` stays as it was made.

        Parameters
        ----------
        y_um, x_um : float
            By how much from where it was made, towards higher rows and columns of the frame.

        Raises
        ------
        ValueError
            If these are no finite numbers.
        """
        if not (math.isfinite(y_um) and math.isfinite(x_um)):
            raise ValueError(f"y_um, x_um are {y_um!r}, {x_um!r}: expected finite numbers")
        view = FieldView(self.formation, self.specimen)
        by_row, by_column = (
            np.exp(-2j * np.pi * np.arange(-half, half + 1) * step * by_um)
            for half, step, by_um in zip(
                self.formation._half,  # noqa: SLF001
                self.formation.step_per_um,
                (y_um, x_um),
                strict=True,
            )
        )
        ramp = by_row.astype(np.complex64)[:, None] * by_column.astype(np.complex64)
        whole, already = self._moved or (self, 1)
        view._moved = whole, ramp * already
        return view

    def _planes(
        self, window: NDArray[np.complex64], heights: NDArray[np.float64]
    ) -> Iterator[NDArray[np.float32]]:
        formation = self.formation
        steps = np.diff(heights)
        if len(steps) > 1 and np.allclose(steps, steps[0], atol=1e-9):
            # from plane to plane by one multiplication; single precision loses 1e-6 over a hundred of them
            field, step = window * formation._kernel(heights[0]), formation._kernel(steps[0])  # noqa: SLF001
            for index in range(len(heights)):
                if index:
                    field *= step
                yield formation._intensity(field)  # noqa: SLF001
        else:
            for height in heights:
                yield formation._intensity(window * formation._kernel(height))  # noqa: SLF001

    def _window_of(self, shift: tuple[int, int]) -> NDArray[np.complex64]:
        if self._moved is not None:
            whole, ramp = self._moved
            return whole._window_of(shift) * ramp  # noqa: SLF001
        if shift in self._windows:
            self._windows.move_to_end(shift)
        else:
            self._windows[shift] = self.formation._window(self._exit_spectrum(shift), shift)  # noqa: SLF001
            if len(self._windows) > _KEPT_SPECTRA:
                self._windows.popitem(last=False)
        return self._windows[shift]

    def _exit_spectrum(self, shift: tuple[int, int]) -> NDArray[np.complex64]:
        """Return the spectrum of the wave behind the specimen, referred back to z = 0, its tilt taken out."""
        slices, heights = self.specimen.slices, self.specimen.heights_um
        if len(slices) == 1 and heights[0] == 0:  # the same for all directions
            if self._thin is None:
                self._thin = fft.fft2(slices[0], workers=threads())
            thin: Any = self._thin
            return thin
        spectrum = fft.fft2(slices[0], workers=threads())
        propagators: dict[float, NDArray[np.complex64]] = {}

        def propagate(distance: float) -> None:
            if distance not in propagators:
                propagators[distance] = self._propagator(shift, distance)
            np.multiply(spectrum, propagators[distance], out=spectrum)

        for transmission, distance in zip(slices[1:], np.diff(heights), strict=True):
            propagate(round(float(distance), 9))
            wave = fft.ifft2(spectrum, workers=threads(), overwrite_x=True)
            wave *= transmission
            spectrum = fft.fft2(wave, workers=threads(), overwrite_x=True)
        if heights[-1] != 0:
            propagate(-float(heights[-1]))
        return spectrum

    def _propagator(self, shift: tuple[int, int], distance_um: float) -> NDArray[np.complex64]:
        formation = self.formation
        step_y, step_x = formation.step_per_um
        tilt_y, tilt_x = shift[0] * step_y, shift[1] * step_x
        uy, ux = (
            fft.fftfreq(n, extent / n)
            for n, extent in zip(formation.sample_shape, formation.extent_um, strict=True)
        )
        square = formation.wave_number_per_um**2
        remaining = (square - (uy + tilt_y)[:, None] ** 2) - (ux + tilt_x) ** 2
        straight = math.sqrt(square - tilt_y**2 - tilt_x**2)
        phase = (np.sqrt(np.maximum(remaining, 0)) - straight).astype(np.float32)
        phase *= np.float32(2 * np.pi * distance_um)
        kernel = np.empty(phase.shape, np.complex64)
        np.cos(phase, out=kernel.real)
        np.sin(phase, out=kernel.imag)
        kernel[remaining <= 0] = 0  # evanescent
        return kernel


def _nice(n: float) -> int:
    """Return an even length, not below `n`, that transforms fast."""
    length = math.ceil(n)
    while (length := fft.next_fast_len(length)) % 2:
        length += 1
    return length
