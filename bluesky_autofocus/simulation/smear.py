"""Stained smears in colour: a specimen, an objective that is not quite corrected, and an RGB camera.

A smear absorbs: haematoxylin in the nuclei and eosin around them have optical densities in red, green and
blue, and Beer-Lambert makes light of them. The condenser is taken to fill the objective's aperture, so image
formation is incoherent: each colour's intensity is filtered by the transfer function of its pupil,

    I_c(z) = IFFT{ T_c(f) H_c(|f|; z - z_c) },    H_c = autocorrelation of exp(i 2 pi (z kz(u) + W(u)))

with z_c where that colour is in focus and W the spherical aberration. Both make the sign of a defocus visible
in one frame: on one side of focus red is the sharpest colour, on the other blue; and with spherical
aberration the disc of blur has a bright rim on one side of focus and a bright centre on the other.

A positive defocus is an image plane above focus: the objective is too far away.

Transfer functions depend on optics alone. They are computed once, for a fine grid of defocus, from the radial
point spread functions (two Hankel transforms as products of matrices), and interpolated. A frame then costs
one inverse transform for each colour and each of the few heights that its field spans.
"""

import dataclasses
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus._fft import fft, threads
from bluesky_autofocus.widefield import transfer_table

__all__ = ["CLASS_WIDTH_UM", "Smear", "SmearCamera", "SmearOptics"]

CLASS_WIDTH_UM = 6.0
"""By how much neighbouring focus classes differ in height, by default.

The article states none, but its loop came from the border of the outermost class, 3.5 widths from focus, to
the border of the focused one in 0.25 s, at a fifth of 223.7 um/s times the class: that is 0.030 s for each um
of width, so 6 um and 0.07 s of delays, or 8.4 um without any. With an aperture of 0.4 and pixels of 0.33 um
the depth of field is 4.2 um, and the focused class, 3 um to either side, lies within it. 3.5 widths are
21 um: a disc of blur 18 um wide, as large as a cell, beyond which only patches of colour are left."""

_HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
_EOSIN = np.array([0.07, 0.99, 0.11])
"""Optical densities in red, green and blue of one unit of stain (Ruifrok and Johnston 2001)."""
_GREY = np.array([0.9, 1.0, 1.1])
_BAND_UM = 0.015
"""Each colour is a band: three wavelengths this far apart, which takes the worst rings out of a blur."""
_REACH_UM = 80.0
"""Farthest from focus that a transfer function is computed for."""
_STEP_UM = 0.25
_FREQUENCIES = 1024
_BINS = 1 << 14
"""Of the spatial frequency, in which a transfer function is looked up."""
_COARSE_PX = 16
"""Heights of a field are computed this coarsely; they are smooth."""
_PLANE_UM = 2.0
"""Planes this far apart, half a depth of field, are blended where a field is not level."""
_SOFT_UM = 0.35
"""Over which the edges of drawn things fade: a pixel."""
_ROWS = 16
"""A camera works on so many rows at a time, which stay in the processor's cache."""


@dataclasses.dataclass(frozen=True)
class SmearOptics:
    """An objective in air, with the aberrations that tell the sign of a defocus.

    Parameters
    ----------
    numerical_aperture : float
        Of the objective, and of the condenser.
    wavelengths_um : tuple of float
        Of red, green and blue.
    colour_focus_um : tuple of float
        By how much higher red, green and blue are in focus than the specimen is: longitudinal chromatic
        aberration. In a lens that is not corrected blue is focused nearest to it.
    spherical_waves : float
        Zernike coefficient of primary spherical aberration, in waves RMS at the green wavelength; 0.07 still
        counts as free of aberration.
    magnification : float
        Of the objective and what follows it.

    Raises
    ------
    ValueError
        If a number makes no sense.
    """

    numerical_aperture: float = 0.4
    wavelengths_um: tuple[float, float, float] = (0.61, 0.54, 0.465)
    colour_focus_um: tuple[float, float, float] = (0.55 * CLASS_WIDTH_UM, 0.0, -0.55 * CLASS_WIDTH_UM)
    spherical_waves: float = 0.07
    magnification: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.numerical_aperture < 1:
            raise ValueError(f"numerical_aperture is {self.numerical_aperture!r}: expected between 0 and 1")
        for name, least in (("wavelengths_um", 2 * _BAND_UM), ("colour_focus_um", -math.inf)):
            value = getattr(self, name)
            if len(value) != 3 or not all(math.isfinite(one) and one > least for one in value):
                raise ValueError(f"{name} is {value!r}: expected three sensible numbers")
        if not math.isfinite(self.spherical_waves):
            raise ValueError(f"spherical_waves is {self.spherical_waves!r}: expected a finite number")
        if not (math.isfinite(self.magnification) and self.magnification > 0):
            raise ValueError(f"magnification is {self.magnification!r}: expected a positive, finite number")

    @property
    def cutoff_per_um(self) -> float:
        """Highest spatial frequency that any colour transfers, in cycles per um."""
        return 2 * self.numerical_aperture / (min(self.wavelengths_um) - _BAND_UM)

    def transfer(self, colour: int, defocus_um: float) -> NDArray[np.float32]:
        """Return the transfer function of a colour.

        Parameters
        ----------
        colour : int
            0 red, 1 green, 2 blue.
        defocus_um : float
            Position of the image plane less that of green focus. Beyond 80 um off a colour's own focus it is
            that of 80 um.

        Returns
        -------
        ndarray, shape (1024,)
            At frequencies from 0, where it is 1, to `cutoff_per_um`.
        """
        at = (defocus_um - self.colour_focus_um[colour] + _REACH_UM) / _STEP_UM
        table = _transfer_table(self)[colour]
        at = min(max(at, 0.0), len(table) - 1.0)
        low = min(int(at), len(table) - 2)
        return table[low] + np.float32(at - low) * (table[low + 1] - table[low])


@lru_cache(maxsize=4)
def _transfer_table(optics: SmearOptics) -> NDArray[np.float32]:
    """Return the transfer functions of all colours, shape (3, defocus, frequency)."""
    defocus_um = np.arange(-_REACH_UM, _REACH_UM + _STEP_UM / 2, _STEP_UM)
    frequency = np.linspace(0, optics.cutoff_per_um, _FREQUENCIES)
    na = optics.numerical_aperture
    # within a band focus goes on as it does from colour to colour
    slope = _slope(optics.wavelengths_um, optics.colour_focus_um)
    offsets_um = (-_BAND_UM, 0.0, _BAND_UM)
    return np.stack(
        [
            transfer_table(
                na,
                [centre_um + one for one in offsets_um],
                defocus_um,
                frequency,
                # what the cone of light spreads to, and half as much again for diffraction
                reach_um=1.5 * _REACH_UM * na / math.sqrt(1 - na**2) + 20,
                focus_um=[slope * one for one in offsets_um],
                spherical_um=optics.spherical_waves * optics.wavelengths_um[1],
            )
            for centre_um in optics.wavelengths_um
        ]
    )


def _slope(wavelengths_um: Sequence[float], focus_um: Sequence[float]) -> float:
    deviation = np.asarray(wavelengths_um) - np.mean(wavelengths_um)
    return float(deviation @ np.asarray(focus_um) / max(float(deviation @ deviation), 1e-9))


class Smear:
    """A field of a stained smear: nucleated cells and red ones, overlapping, with gaps and dirt.

    How much of each there is, how strongly it is stained and in which tones differ from field to field. The
    pattern is periodic: what goes out of the frame on one side comes in on the other.

    Parameters
    ----------
    seed : int or sequence of int
        Of everything that is random.
    shape_px : tuple of int
        Rows and columns of a frame.
    pixel_um : float
        Of a frame, in the specimen.
    optics : SmearOptics
        The objective.
    density_per_mm2 : tuple of float
        Lowest and highest number of cells per square millimetre of what is covered. With (0, 0) and no dirt
        the field is empty: white.
    covered : tuple of float
        Lowest and highest share of the field that is covered; the rest lies bare.
    red_cells : tuple of float
        Lowest and highest share of cells without a nucleus.
    stain : tuple of float
        Lowest and highest strength of each of the two stains.
    dirt_per_mm2 : tuple of float
        Lowest and highest number of specks per square millimetre.
    tilt_um : tuple of float, optional
        How much higher the smear lies at the last row and at the last column than at the first ones. By
        default up to 0.6 um, at random.
    unevenness_um : float
        Standard deviation of its height from a plane.

    Raises
    ------
    ValueError
        If a number makes no sense.
    """

    def __init__(
        self,
        seed: int | Sequence[int],
        shape_px: tuple[int, int] = (1536, 2048),
        pixel_um: float = 0.33,
        *,
        optics: SmearOptics = SmearOptics(),  # noqa: B008 - frozen
        density_per_mm2: tuple[float, float] = (500.0, 6000.0),
        covered: tuple[float, float] = (0.4, 1.0),
        red_cells: tuple[float, float] = (0.0, 0.6),
        stain: tuple[float, float] = (0.6, 1.4),
        dirt_per_mm2: tuple[float, float] = (20.0, 400.0),
        tilt_um: tuple[float, float] | None = None,
        unevenness_um: float = 0.2,
    ) -> None:
        if len(shape_px) != 2 or min(shape_px) < 2 * _COARSE_PX:
            raise ValueError(f"shape_px is {shape_px!r}: expected two integers of at least {2 * _COARSE_PX}")
        if not (math.isfinite(pixel_um) and pixel_um > 0):
            raise ValueError(f"pixel_um is {pixel_um!r}: expected a positive, finite number")
        for name, value, most in (
            ("density_per_mm2", density_per_mm2, math.inf),
            ("covered", covered, 1.0),
            ("red_cells", red_cells, 1.0),
            ("stain", stain, math.inf),
            ("dirt_per_mm2", dirt_per_mm2, math.inf),
        ):
            if len(value) != 2 or not (0 <= value[0] <= value[1] <= most and math.isfinite(value[1])):
                raise ValueError(
                    f"{name} is {value!r}: expected the lowest and the highest, from 0 to {most}"
                )
        if tilt_um is not None and (len(tilt_um) != 2 or not all(map(math.isfinite, tilt_um))):
            raise ValueError(f"tilt_um is {tilt_um!r}: expected two finite numbers")
        if not 0 <= unevenness_um < math.inf:
            raise ValueError(f"unevenness_um is {unevenness_um!r}: expected a finite number, zero or more")
        self.shape_px = (int(shape_px[0]), int(shape_px[1]))
        self.pixel_um, self.optics = pixel_um, optics
        rng = np.random.default_rng(seed)
        tilt = rng.uniform(-0.6, 0.6, 2)
        self.tilt_um = (float(tilt[0]), float(tilt[1])) if tilt_um is None else tilt_um
        self._waves = _Waves(rng, unevenness_um)
        # transforms of a good length; a frame shows the first rows and columns of the pattern
        rows, columns = (int(fft.next_fast_len(n, real=True)) for n in self.shape_px)
        self.period_px = (rows, columns)
        self.covered_share = rng.uniform(*covered)
        painter = _Painter(rng, self.period_px, pixel_um)
        transmission = painter.paint(
            count_per_mm2=rng.uniform(*density_per_mm2),
            covered=self.covered_share,
            red=rng.uniform(*red_cells),
            stains=rng.uniform(*stain, 2),
            dirt_per_mm2=rng.uniform(*dirt_per_mm2),
        )
        self._detail = _detail(transmission[1])
        fy, fx = fft.fftfreq(rows, pixel_um), fft.rfftfreq(columns, pixel_um)
        # what a pixel does to detail that is smaller
        pixel = np.outer(np.sinc(fy * pixel_um), np.sinc(fx * pixel_um)).astype(np.float32)
        self._spectra: list[NDArray[np.complex64]] = []
        for one in transmission:
            self._spectra.append(fft.rfft2(one, workers=threads()))
            self._spectra[-1] *= pixel
        radius = np.hypot(fy[:, None], fx) * ((_BINS - 1) / optics.cutoff_per_um)
        # the last bin is the cutoff, where nothing is transferred
        self._bins = np.minimum(radius + 0.5, _BINS - 1).astype(np.uint16)

    @property
    def extent_um(self) -> tuple[float, float]:
        """Height and width after which the pattern repeats itself."""
        return self.period_px[0] * self.pixel_um, self.period_px[1] * self.pixel_um

    @property
    def focus_um(self) -> float:
        """Height at which green is in focus, on average over what detail the field has."""
        return self.focus_at_um((0, 0))

    def focus_at_um(self, moved_px: tuple[int, int]) -> float:
        """Return the same when the specimen is moved in the frame by some rows and columns."""
        weight = np.roll(self._detail, [round(n / _COARSE_PX) for n in moved_px], (0, 1))
        heights = self._heights_um(moved_px)
        weight = weight[: heights.shape[0], : heights.shape[1]]
        total = float(weight.sum())
        return float((heights * weight).sum() / total if total > 0 else heights.mean())

    def _heights_um(self, moved_px: tuple[int, int]) -> NDArray[np.float32]:
        """Return the heights in the frame, a value for every 16 x 16 pixels."""
        y, x = (np.arange(math.ceil(n / _COARSE_PX)) * _COARSE_PX + _COARSE_PX / 2 for n in self.shape_px)
        tilted = self.tilt_um[0] * (y / self.shape_px[0] - 0.5)[:, None]
        tilted = tilted + self.tilt_um[1] * (x / self.shape_px[1] - 0.5)
        uneven = self._waves.at((y - moved_px[0]) / self.period_px[0], (x - moved_px[1]) / self.period_px[1])
        return (tilted + uneven).astype(np.float32)

    def image_formation(self, defocus_um: float) -> NDArray[np.float32]:
        """Return the light in the image plane at some distance from `focus_um`.

        Parameters
        ----------
        defocus_um : float
            Position of the image plane less that of focus. Beyond about 80 um nothing changes any more.

        Returns
        -------
        ndarray of float32, shape (H, W, 3)
            Red, green and blue; 1 where there is no specimen.

        Raises
        ------
        ValueError
            If the defocus is not a finite number.
        """
        return self.image_at(self.focus_um + defocus_um)

    def image_at(self, z_um: float, moved_px: tuple[int, int] = (0, 0)) -> NDArray[np.float32]:
        """Return the light in the image plane at a height, the specimen moved in the frame.

        Parameters
        ----------
        z_um : float
            On the scale of `focus_um`.
        moved_px : tuple of int
            By how many rows and columns.

        Returns
        -------
        ndarray of float32, shape (H, W, 3)
            As of `image_formation`.
        """
        if not math.isfinite(z_um):
            raise ValueError(f"the defocus must be a finite number, got a height of {z_um!r} um")
        height, width = self.shape_px
        coarse = self._heights_um(moved_px)
        low, high = float(coarse.min()), float(coarse.max())
        if high - low < 1e-3:
            planes, weights = np.array([low]), [None]
        else:
            planes = np.linspace(low, high, max(2, math.ceil((high - low) / _PLANE_UM) + 1))
            step = planes[1] - planes[0]
            weights = [
                cv2.resize(np.maximum(1 - np.abs(coarse - plane) / step, 0), (width, height))
                for plane in planes.astype(np.float32)
            ]
        grid = np.linspace(0, _FREQUENCIES - 1, _BINS)
        channels = []
        for colour, spectrum in enumerate(self._spectra):
            channel: Any = None
            for plane, weight in zip(planes.tolist(), weights, strict=True):
                transfer = np.interp(
                    grid, np.arange(_FREQUENCIES), self.optics.transfer(colour, z_um - plane)
                ).astype(np.float32)
                transfer[-1] = 0
                light = fft.irfft2(
                    spectrum * transfer[self._bins], s=self.period_px, overwrite_x=True, workers=threads()
                )
                if any(moved_px):
                    light = np.roll(light, moved_px, (0, 1))
                light = light[:height, :width]
                if weight is not None:
                    light *= weight
                if channel is None:
                    channel = light
                else:
                    channel += light
            channels.append(channel)
        merged: Any = cv2.merge(channels)
        return merged


class _Waves:
    """A few waves that fit into a period, as the unevenness of a field."""

    _ORDERS = np.array([(1, 0), (0, 1), (1, 1), (1, -1), (2, 1)])

    def __init__(self, rng: np.random.Generator, deviation_um: float) -> None:
        self._phases = rng.uniform(0, 2 * np.pi, len(self._ORDERS))
        sizes = rng.uniform(0.3, 1.0, len(self._ORDERS))
        self._sizes_um = sizes * (deviation_um * math.sqrt(2) / np.linalg.norm(sizes))

    def at(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the heights at rows and columns in parts of a period."""
        total = np.zeros((len(y), len(x)))
        for (m, n), phase, size_um in zip(self._ORDERS, self._phases, self._sizes_um, strict=True):
            total += size_um * np.cos(2 * np.pi * (m * y[:, None] + n * x) + phase)
        return total


def _detail(transmission: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how much detail there is in each 16 x 16 pixels."""
    dx = cv2.Sobel(transmission, cv2.CV_32F, 1, 0)
    dy = cv2.Sobel(transmission, cv2.CV_32F, 0, 1)
    rows, columns = (math.ceil(n / _COARSE_PX) for n in transmission.shape)
    energy = cv2.resize(dx * dx + dy * dy, (columns, rows), interpolation=cv2.INTER_AREA)
    return np.where(energy > 1e-9, energy, 0)


class _Painter:
    """A field while it is being painted: the amounts of the two stains and of dirt."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, int], pixel_um: float) -> None:
        self.rng, self.shape, self.pixel_um = rng, shape, pixel_um
        # what is painted beyond an edge is added on the other side at the end
        self.margin = min(math.ceil(24.0 / pixel_um), min(shape) // 2)
        padded = (shape[0] + 2 * self.margin, shape[1] + 2 * self.margin)
        self.haematoxylin, self.eosin, self.grey = (np.zeros(padded, np.float32) for _ in range(3))
        f = np.hypot(fft.fftfreq(shape[0], pixel_um)[:, None], fft.rfftfreq(shape[1], pixel_um))
        self._frequency = f.astype(np.float32)

    def texture(self, smallest_um: float, largest_um: float) -> NDArray[np.float32]:
        """Return a periodic random field of unit variance with structure between two sizes."""
        f = self._frequency
        gain = np.exp(-((f * smallest_um) ** 2)) / (f + 1 / largest_um)
        gain[0, 0] = 0
        noise = fft.rfft2(self.rng.standard_normal(self.shape, np.float32), workers=threads())
        field = fft.irfft2(noise * gain, s=self.shape, workers=threads())
        return field / field.std()

    def paint(
        self,
        *,
        count_per_mm2: float,
        covered: float,
        red: float,
        stains: NDArray[np.float64],
        dirt_per_mm2: float,
    ) -> list[NDArray[np.float32]]:
        """Paint everything; return the transmission in red, green and blue."""
        rng = self.rng
        area_mm2 = self.shape[0] * self.shape[1] * self.pixel_um**2 * 1e-6
        extent_um = max(self.shape) * self.pixel_um
        land = self.texture(0.06 * extent_um, 0.5 * extent_um)
        shore = float(np.quantile(land[::8, ::8], 1 - covered))
        self.chromatin, self.grain = self.texture(0.7, 2.5), self.texture(0.9, 8.0)
        self.padded_chromatin, self.padded_grain = (
            np.pad(one, self.margin, mode="wrap") for one in (self.chromatin, self.grain)
        )
        self._draw_tones()
        for _ in range(rng.poisson(count_per_mm2 * area_mm2 * covered)):
            y, x = self._place(land, shore)
            if rng.random() < red:
                self.paint_red_cell(y, x)
            else:
                self.paint_cell(y, x)
        for _ in range(rng.poisson(dirt_per_mm2 * area_mm2)):
            self.paint_speck(*rng.uniform(0, 1, 2))
        haematoxylin, eosin, grey = (self._folded(one) for one in (self.haematoxylin, self.eosin, self.grey))
        if count_per_mm2 > 0:
            # the film that cells lie in thins out towards what is bare
            film = np.clip((land - shore) * 2.0 + 0.2, 0, 1) * np.float32(rng.uniform(0.005, 0.06))
            eosin += film * np.maximum(1 + 0.35 * self.grain, 0)
            haematoxylin += film * np.float32(rng.uniform(0, 0.3))
        tones = rng.normal(1.0, 0.05, (2, 3))
        haematoxylin_od = stains[0] * _HAEMATOXYLIN * tones[0]
        eosin_od = stains[1] * _EOSIN * tones[1]
        return [
            np.exp(-(h * haematoxylin + e * eosin + g * grey))
            for h, e, g in zip(
                haematoxylin_od.astype(np.float32),
                eosin_od.astype(np.float32),
                _GREY.astype(np.float32),
                strict=True,
            )
        ]

    def _draw_tones(self) -> None:
        """Draw what the cells of a field have in common."""
        rng = self.rng
        self.nucleus_um = rng.uniform(3.6, 6.5)
        self.nucleus_od, self.cytoplasm_od = rng.uniform(0.45, 0.95), rng.uniform(0.08, 0.3)
        self.coarseness, self.graininess = rng.uniform(0.12, 0.4), rng.uniform(0.1, 0.35)
        self.rim = rng.uniform(0.0, 0.35)
        self.body = rng.uniform(1.25, 2.0)
        self.red_od, self.pallor = rng.uniform(0.12, 0.35), rng.uniform(0.2, 0.7)

    def _place(self, land: NDArray[np.float32], shore: float) -> NDArray[np.float64]:
        """Return a place (row, column), in parts of the field, that is covered."""
        for _ in range(30):
            at = self.rng.uniform(0, 1, 2)
            if land[tuple((at * self.shape).astype(int))] >= shore:
                return at
        return self.rng.uniform(0, 1, 2)

    def _window(self, row: float, column: float, half_um: float) -> tuple[Any, Any, Any]:
        """Return the slices of a square, and coordinates about the place in um."""
        y, x = row * self.shape[0], column * self.shape[1]
        half = min(math.ceil(half_um / self.pixel_um), self.margin - 1)
        iy, ix = int(y), int(x)
        rows = slice(iy + self.margin - half, iy + self.margin + half + 1)
        columns = slice(ix + self.margin - half, ix + self.margin + half + 1)
        steps = np.arange(-half, half + 1, dtype=np.float32)
        dy = ((steps - np.float32(y - iy)) * np.float32(self.pixel_um))[:, None]
        return (rows, columns), dy, (steps - np.float32(x - ix)) * np.float32(self.pixel_um)

    def _outline(self, y: Any, x: Any, radius_um: float, wobble: float) -> NDArray[np.float32]:
        """Return the distance in um from the edge of a roundish shape; positive within."""
        rng = self.rng
        turn, long = rng.uniform(0, np.pi), rng.uniform(1.0, 1.0 + 3 * wobble)
        c, s = math.cos(turn), math.sin(turn)
        u, v = (x * c + y * s) / long, (y * c - x * s) * long
        squared = u * u + v * v
        r = np.sqrt(squared)
        # the third and second harmonic without an arc tangent
        bent = (u**3 - 3 * u * v * v) / np.maximum(squared * r, 1e-3) * rng.normal(0, wobble / 2)
        bent += u * v / np.maximum(squared, 1e-3) * rng.normal(0, wobble)
        return radius_um * (1 + bent) - r

    def paint_cell(self, row: float, column: float) -> None:
        """Paint a cell with a nucleus."""
        rng = self.rng
        nucleus_um = self.nucleus_um * rng.uniform(0.8, 1.25)
        body_um = min(nucleus_um * self.body * rng.uniform(0.85, 1.2), 13.0)
        where, y, x = self._window(row, column, 1.7 * body_um)
        grain = self.padded_grain[where]
        inside = self._outline(y, x, body_um, 0.08)
        body = np.clip(inside / (2 * _SOFT_UM) + 0.5, 0, 1)
        # thicker in the middle
        body *= 0.5 + 0.5 * np.clip(inside / body_um, 0, 1)
        sy, sx = rng.normal(0, 0.25 * max(body_um - nucleus_um, 0.3), 2)
        deep = self._outline(y - np.float32(sy), x - np.float32(sx), nucleus_um, 0.07)
        nucleus = np.clip(deep / _SOFT_UM + 0.5, 0, 1)
        od = self.cytoplasm_od * rng.uniform(0.6, 1.4)
        self.eosin[where] += od * body * np.maximum(1 + self.graininess * grain, 0.1)
        chromatin = 1 + self.coarseness * self.padded_chromatin[where]
        chromatin += self.rim * np.exp(-((deep - 0.4) ** 2) / 0.18)
        for _ in range(rng.integers(0, 4)):
            angle, away = rng.uniform(0, 2 * np.pi), nucleus_um * math.sqrt(rng.uniform(0, 0.5))
            ny, nx = sy + away * math.sin(angle), sx + away * math.cos(angle)
            spot = np.exp(-((y - ny) ** 2 + (x - nx) ** 2) / rng.uniform(0.4, 1.2) ** 2)
            chromatin += rng.uniform(-0.3, 0.6) * spot
        self.haematoxylin[where] += (
            self.nucleus_od * rng.uniform(0.7, 1.3) * nucleus * np.maximum(chromatin, 0.1)
        )

    def paint_red_cell(self, row: float, column: float) -> None:
        """Paint a red cell: a disc, paler in its middle."""
        radius_um = self.rng.uniform(3.2, 4.0)
        where, y, x = self._window(row, column, 1.5 * radius_um)
        inside = self._outline(y, x, radius_um, 0.05)
        disc = np.clip(inside / _SOFT_UM + 0.5, 0, 1)
        pale = self.pallor * np.exp(-((radius_um - inside) ** 2) / (0.5 * radius_um) ** 2)
        self.eosin[where] += self.red_od * self.rng.uniform(0.8, 1.2) * disc * (1 - pale)

    def paint_speck(self, row: float, column: float) -> None:
        """Paint a speck of dust or of stain that fell out."""
        rng = self.rng
        radius_um = 0.4 * rng.pareto(2.5) + 0.3
        where, y, x = self._window(row, column, min(3 * radius_um, 12.0))
        speck = np.clip(self._outline(y, x, min(radius_um, 4.0), 0.2) / _SOFT_UM + 0.5, 0, 1)
        layer = self.haematoxylin if rng.random() < 0.5 else self.grey
        layer[where] += rng.uniform(0.2, 1.2) * speck

    def _folded(self, padded: NDArray[np.float32]) -> NDArray[np.float32]:
        """Add what was painted beyond an edge on the other side."""
        m, (rows, columns) = self.margin, self.shape
        padded[m : 2 * m] += padded[rows + m :]
        padded[rows : rows + m] += padded[:m]
        padded[:, m : 2 * m] += padded[:, columns + m :]
        padded[:, columns : columns + m] += padded[:, :m]
        return padded[m : m + rows, m : m + columns]


@dataclasses.dataclass(frozen=True)
class SmearCamera:
    """An RGB camera of 8 bits whose white is balanced.

    Parameters
    ----------
    electrons : float
        Mean photo-electrons a green pixel where there is no specimen, at exposure 1.
    lamp : tuple of float
        Light that red, green and blue pixels get, relative to green. The camera amplifies to make up for it,
        so that blue is noisier than green under a lamp.
    white : tuple of float
        Grey level of red, green and blue where there is no specimen, at exposure 1: 1 is full scale. Values
        that differ are a white balance that is off.
    read_noise_e : float
        Deviation of the readout, in electrons.

    Raises
    ------
    ValueError
        If a number makes no sense.
    """

    electrons: float = 9000.0
    lamp: tuple[float, float, float] = (1.05, 1.0, 0.65)
    white: tuple[float, float, float] = (0.9, 0.9, 0.9)
    read_noise_e: float = 6.0

    def __post_init__(self) -> None:
        for name in ("lamp", "white"):
            value = getattr(self, name)
            if len(value) != 3 or not all(math.isfinite(one) and one > 0 for one in value):
                raise ValueError(f"{name} is {value!r}: expected three positive, finite numbers")
        if not (math.isfinite(self.electrons) and self.electrons > 0):
            raise ValueError(f"electrons is {self.electrons!r}: expected a positive, finite number")
        if not (math.isfinite(self.read_noise_e) and self.read_noise_e >= 0):
            raise ValueError(f"read_noise_e is {self.read_noise_e!r}: expected a finite number, zero or more")

    def frame(
        self, light: NDArray[np.float32], rng: np.random.Generator, exposure: float = 1.0
    ) -> NDArray[np.uint8]:
        """Return what the camera gives out.

        Parameters
        ----------
        light : ndarray of float32, shape (H, W, 3)
            Red, green and blue; 1 where there is no specimen.
        rng : numpy.random.Generator
            Of the noise.
        exposure : float
            Relative exposure time.

        Returns
        -------
        ndarray of uint8, shape (H, W, 3)

        Raises
        ------
        ValueError
            If this is no colour image, or the exposure no number of zero or more.
        """
        if light.ndim != 3 or light.shape[2] != 3:
            raise ValueError(f"light has shape {light.shape}: expected (H, W, 3)")
        if not (math.isfinite(exposure) and exposure >= 0):
            raise ValueError(f"exposure is {exposure!r}: expected a finite number, zero or more")
        lamp, white = np.array(self.lamp), np.array(self.white)
        level = (255 * white * exposure).astype(np.float32)
        # of a grey level: variance at white, and of the readout
        shot = (255 * white) ** 2 * exposure / (self.electrons * lamp)
        read = (255 * white * self.read_noise_e / (self.electrons * lamp)) ** 2
        shot, read = shot.astype(np.float32), read.astype(np.float32)
        frame = np.empty(light.shape, np.uint8)
        store = _noise()
        row = light[0].size
        for start in range(0, len(light), _ROWS):
            rows = light[start : start + _ROWS]
            deviation = rows * shot
            deviation += read
            np.sqrt(np.maximum(deviation, 0, out=deviation), out=deviation)
            count = len(rows) * row
            at = int(rng.integers(store.size - count)) if count < store.size // 4 else -1
            noise = rng.standard_normal(count, np.float32) if at < 0 else store[at : at + count]
            deviation *= noise.reshape(rows.shape)
            deviation += rows * level
            deviation += np.float32(0.5)
            np.clip(deviation, 0, 255, out=deviation)
            frame[start : start + _ROWS] = deviation
        return frame


@lru_cache(maxsize=1)
def _noise() -> NDArray[np.float32]:
    """Return normal deviates of which frames get pieces cut at random, faster than new ones."""
    return np.random.default_rng(0).standard_normal(1 << 22, np.float32)
