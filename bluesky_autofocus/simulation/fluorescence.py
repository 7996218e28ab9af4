"""Fluorescent nuclei under a widefield microscope, like those of BBBC006 (Hoechst, 20x, planes 2 um apart).

Nuclei lie at a few heights. Each height is filtered by the transfer function of its own defocus and all add
up (`bluesky_autofocus.widefield`): light from what is out of focus is spread, never lost.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus._fft import fft, threads
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.widefield import Widefield

__all__ = ["HOECHST_20X", "FluorescentNuclei"]

HOECHST_20X = LightOptics(
    numerical_aperture=0.45, wavelength_um=0.46, pixel_size_um=0.656, magnification=20.0, refractive_index=1.0
)
"""About those of BBBC006, whose pixels are binned 2 x 2."""

_LAYERS = 3
_SOFT_UM = 0.6
"""Over which the edge of a nucleus fades."""


class FluorescentNuclei:
    """A field of cells whose nuclei are stained: alone, touching, in clumps, and a few that divide or die.

    How many there are, how bright and how coarse their chromatin is differs from field to field. The pattern
    is periodic: what goes out of the frame on one side comes in on the other.

    Parameters
    ----------
    seed : int or sequence of int
        Of everything that is random.
    shape_px : tuple of int
        Rows and columns of a frame.
    widefield : Widefield
        Optics and aberration.
    density_per_mm2 : tuple of float
        Lowest and highest number of nuclei per square millimetre. With (0, 0) the field is empty.
    heights_um : float
        Deviation of the nuclei's heights.
    haze : tuple of float
        Weakest and strongest light of what is stained all over, relative to a nucleus.

    Raises
    ------
    ValueError
        If a number makes no sense.
    """

    def __init__(
        self,
        seed: int | Sequence[int],
        shape_px: tuple[int, int],
        widefield: Widefield,
        *,
        density_per_mm2: tuple[float, float] = (80.0, 1100.0),
        heights_um: float = 0.8,
        haze: tuple[float, float] = (0.02, 0.08),
    ) -> None:
        if len(shape_px) != 2 or min(shape_px) < 64:
            raise ValueError(f"shape_px is {shape_px!r}: expected two integers of at least 64")
        for name, value in (("density_per_mm2", density_per_mm2), ("haze", haze)):
            if len(value) != 2 or not (0 <= value[0] <= value[1] and math.isfinite(value[1])):
                raise ValueError(f"{name} is {value!r}: expected the lowest and the highest, from 0")
        if not 0 <= heights_um < math.inf:
            raise ValueError(f"heights_um is {heights_um!r}: expected a finite number, zero or more")
        self.shape_px, self.widefield = (int(shape_px[0]), int(shape_px[1])), widefield
        self._pixel_um = pixel_um = widefield.optics.pixel_size_um
        self._rng = rng = np.random.default_rng(seed)
        self._layers = np.zeros((_LAYERS, *self.shape_px), np.float32)
        self._layers_um = heights_um * np.array([-1.2, 0.0, 1.2])
        self.count = int(
            rng.poisson(rng.uniform(*density_per_mm2) * math.prod(self.shape_px) * pixel_um**2 * 1e-6)
        )
        self._texture = self._random_field(1.0, 4.0)
        self._radius_um, self._coarseness = rng.uniform(5.0, 8.0), rng.uniform(0.08, 0.35)
        clumps = rng.uniform(0, 1, (max(1, self.count // 8), 2)) * self.shape_px
        for _ in range(self.count):
            alone = rng.uniform(0, 1, 2) * self.shape_px
            together = clumps[rng.integers(len(clumps))] + rng.normal(0, 14 / pixel_um, 2)
            self._draw_nucleus(*(alone if rng.random() < 0.6 else together))
        for _ in range(rng.poisson(0.15 * self.count)):
            self._draw_debris(*rng.uniform(0, 1, 2) * self.shape_px)
        if self.count:
            # cytoplasm and medium are not quite dark
            level = rng.uniform(*haze)
            self._layers[1] += level * np.maximum(1 + 0.4 * self._random_field(20.0, 120.0), 0)
        fy, fx = fft.fftfreq(shape_px[0], pixel_um), fft.rfftfreq(shape_px[1], pixel_um)
        # what a pixel does to detail that is smaller
        pixel = np.outer(np.sinc(fy * pixel_um), np.sinc(fx * pixel_um)).astype(np.float32)
        self._spectra = fft.rfft2(self._layers, workers=threads()) * pixel

    def image(self, defocus_um: float) -> NDArray[np.float32]:
        """Return the light in the image plane at some distance from focus.

        Parameters
        ----------
        defocus_um : float
            Image plane minus that of the nuclei's mean height.

        Returns
        -------
        ndarray of float32, shape (H, W)
            About 1 in a nucleus that is in focus.

        Raises
        ------
        ValueError
            If the defocus is farther than the optics were computed for.
        """
        filters = self.widefield.transfer(defocus_um - self._layers_um, self.shape_px)
        spectrum = np.einsum("kij,kij->ij", self._spectra, filters)
        return np.maximum(fft.irfft2(spectrum, s=self.shape_px, workers=threads()), 0)

    @property
    def labels(self) -> NDArray[np.float32]:
        """What is stained, before any optics, shape (H, W)."""
        return self._layers.sum(axis=0)

    # Painting

    def _random_field(self, smallest_um: float, largest_um: float) -> NDArray[np.float32]:
        """Return a periodic random field of unit variance with structure between two sizes."""
        shape, pixel_um = self.shape_px, self._pixel_um
        f = np.hypot(fft.fftfreq(shape[0], pixel_um)[:, None], fft.rfftfreq(shape[1], pixel_um))
        gain = (np.exp(-((f * smallest_um) ** 2)) / (f + 1 / largest_um)).astype(np.float32)
        gain[0, 0] = 0
        noise = fft.rfft2(self._rng.standard_normal(shape, np.float32), workers=threads())
        field = fft.irfft2(noise * gain, s=shape, workers=threads())
        return field / field.std()

    def _window(
        self, row: float, column: float, reach_um: float
    ) -> tuple[Any, NDArray[np.floating], NDArray[np.floating]]:
        """Return the indices of a square about a place, and coordinates from the place in um."""
        half = min(math.ceil(reach_um / self._pixel_um), min(self.shape_px) // 2 - 1)
        steps = np.arange(-half, half + 1)
        rows, columns = steps + int(row), steps + int(column)
        where = np.ix_(rows % self.shape_px[0], columns % self.shape_px[1])
        y, x = (rows - row)[:, None] * self._pixel_um, (columns - column) * self._pixel_um
        return where, y, x

    def _draw_nucleus(self, row: float, column: float) -> None:
        rng = self._rng
        brightness, radius_um = rng.lognormal(0, 0.35), self._radius_um * rng.lognormal(0, 0.12)
        if rng.random() < 0.06:
            # dividing or dying: condensed, and brighter for it
            brightness, radius_um = brightness * rng.uniform(2, 4), radius_um * rng.uniform(0.4, 0.6)
        turn, aspect = rng.uniform(0, np.pi), rng.uniform(0.55, 0.95)
        where, y, x = self._window(row, column, 2 * radius_um)
        u = (x * math.cos(turn) + y * math.sin(turn)) * math.sqrt(aspect)
        v = (y * math.cos(turn) - x * math.sin(turn)) / math.sqrt(aspect)
        r = np.hypot(u, v)
        # a little dented
        bent = rng.normal(0, 0.06) * (u**3 - 3 * u * v * v) / np.maximum(r**3, 1e-3)
        inside = np.clip((radius_um * (1 + bent) - r) / _SOFT_UM + 0.5, 0, 1)
        # thicker in the middle
        thickness = 0.7 + 0.3 * np.sqrt(np.clip(1 - (r / radius_um) ** 2, 0, 1))
        chromatin = np.maximum(1 + self._coarseness * self._texture[where], 0.2)
        layer = rng.choice(_LAYERS, p=[0.25, 0.5, 0.25])
        self._layers[layer][where] += (brightness * inside * thickness * chromatin).astype(np.float32)

    def _draw_debris(self, row: float, column: float) -> None:
        rng = self._rng
        radius_um = rng.uniform(0.6, 1.8)
        where, y, x = self._window(row, column, 4 * radius_um)
        spot = rng.uniform(0.1, 0.8) * np.exp(-(y**2 + x**2) / radius_um**2)
        self._layers[rng.integers(_LAYERS)][where] += spot.astype(np.float32)
