"""Specimens as a few slices of complex transmission: cells on glass, a section of tissue, nothing.

Numbers (refractive index differences, sizes, densities) are those of white blood cells on a cover glass and
of an unstained section of 5 um, the two specimens of Pinkard et al. 2019.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus._fft import fft, threads
from bluesky_autofocus.optics import LightOptics

__all__ = ["SPECIMEN_KINDS", "Specimen", "specimen"]

SPECIMEN_KINDS = ("cells", "tissue", "empty")


class _Grid(Protocol):
    """What a specimen needs to know of the microscope it is made for."""

    optics: LightOptics
    sample_shape: tuple[int, int]
    extent_um: tuple[float, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Specimen:
    """Complex transmission of some slices.

    Parameters
    ----------
    slices : ndarray of complex64, shape (n, ny, nx)
        In the order in which light meets them.
    heights_um : ndarray, shape (n,)
        Of the slices, ascending; light travels upwards.
    kind : str
        What it is.
    """

    slices: NDArray[np.complex64]
    heights_um: NDArray[np.floating[Any]]
    kind: str

    @property
    def centre_um(self) -> float:
        """Height that the light is scattered from on average, weighted by scattered power.

        Near where a microscope is in focus, but not there: that depends on its aberrations and on what is
        refracted on the way, see `FieldView.focus_um`. 0 where nothing scatters.
        """
        power = np.array([np.mean(np.abs(np.diff(one[::2], axis=0)) ** 2) for one in self.slices], float)
        return float((power * self.heights_um).sum() / power.sum()) if power.sum() > 1e-9 else 0.0


def specimen(kind: str, seed: int | Sequence[int], grid: _Grid, **options: Any) -> Specimen:
    """Make a specimen for a microscope.

    Parameters
    ----------
    kind : str
        One of `SPECIMEN_KINDS`.
    seed : int or sequence of int
        Of everything that is random.
    grid : AbbeImageFormation
        The microscope.
    options
        Of the kind. For cells ``density_per_mm2`` (lowest and highest), ``index_difference``; for tissue
        ``thickness_um``.

    Raises
    ------
    ValueError
        If there is no such kind, or an option is no sensible number.
    """
    makers = {"cells": _cells, "tissue": _tissue, "empty": _empty}
    if kind not in makers:
        raise ValueError(f"kind is {kind!r}: expected one of {', '.join(SPECIMEN_KINDS)}")
    return makers[kind](np.random.default_rng(seed), grid, **options)


def _check_range(name: str, value: tuple[float, float]) -> None:
    if not (len(value) == 2 and 0 <= value[0] <= value[1] < np.inf):
        raise ValueError(f"{name} is {value!r}: expected the lowest and the highest, zero or more")


def _check_slices(n_slices: int, name: str, length_um: float) -> None:
    if n_slices < 1:
        raise ValueError(f"n_slices is {n_slices!r}: expected at least 1")
    if not 0 < length_um < np.inf:
        raise ValueError(f"{name} is {length_um!r}: expected a positive, finite number")


class _Slab:
    """Optical phase and absorption of the slices while a specimen is being built."""

    def __init__(self, grid: _Grid, heights_um: NDArray[np.floating[Any]]) -> None:
        self.heights_um = heights_um
        self.shape, self.extent_um = grid.sample_shape, grid.extent_um
        self.dy, self.dx = (extent / n for extent, n in zip(self.extent_um, self.shape, strict=True))
        self.wave_number = 2 * np.pi / grid.optics.wavelength_um
        self.phase = np.zeros((len(heights_um), *self.shape), np.float32)
        self.absorption = np.zeros_like(self.phase)

    def texture(
        self, rng: np.random.Generator, smallest_um: float, largest_um: float, slope: float = 0.0
    ) -> NDArray[np.float32]:
        """Return a random field of unit variance with structure between two sizes."""
        fy, fx = fft.fftfreq(self.shape[0], self.dy), fft.rfftfreq(self.shape[1], self.dx)
        f = np.hypot(fy[:, None], fx).astype(np.float32)
        gain = np.exp(-2 * (f * smallest_um / 2) ** 2) * (1 - np.exp(-8 * (f * largest_um / 2) ** 2))
        if slope:
            gain *= np.maximum(f, 1 / max(self.extent_um)) ** -slope
        noise = fft.rfft2(rng.standard_normal(self.shape, np.float32), workers=threads())
        field = fft.irfft2(noise * gain, s=self.shape, workers=threads())
        return field / field.std()

    def window(self, y_um: float, x_um: float, half_um: float) -> tuple[Any, Any, Any]:
        """Return the indices of a square (it wraps round), and its coordinates about its centre."""
        iy, ix = (np.arange(-round(half_um / d), round(half_um / d)) for d in (self.dy, self.dx))
        rows = (round(y_um / self.dy) + iy) % self.shape[0]
        columns = (round(x_um / self.dx) + ix) % self.shape[1]
        y, x = (iy * self.dy)[:, None].astype(np.float32), (ix * self.dx).astype(np.float32)
        return np.ix_(rows, columns), y, x

    def place(self, rng: np.random.Generator) -> tuple[float, float]:
        """Return a random place (y, x) in um."""
        return rng.uniform(0, self.extent_um[0]), rng.uniform(0, self.extent_um[1])

    def number(self, rng: np.random.Generator, per_mm2: float) -> int:
        """Return how many things of a density lie in this field."""
        return int(rng.poisson(per_mm2 * self.extent_um[0] * self.extent_um[1] * 1e-6))

    def specimen(self, kind: str) -> Specimen:
        slices = np.empty(self.phase.shape, np.complex64)
        modulus = np.exp(-self.absorption)
        np.multiply(modulus, np.cos(self.phase), out=slices.real)
        np.multiply(modulus, np.sin(self.phase), out=slices.imag)
        return Specimen(slices, self.heights_um, kind)


def _empty(rng: np.random.Generator, grid: _Grid) -> Specimen:
    slab = _Slab(grid, np.zeros(1))
    slab.phase[0] = 0.002 * slab.texture(rng, 0.6, 8.0, 0.5)
    return slab.specimen("empty")


def _cells(
    rng: np.random.Generator,
    grid: _Grid,
    *,
    density_per_mm2: tuple[float, float] = (134.0, 1500.0),
    index_difference: tuple[float, float] = (0.012, 0.035),
    n_slices: int = 3,
    spacing_um: float = 2.0,
) -> Specimen:
    """Cells that lie on glass: domes with internal texture and a nucleus, and some dirt."""
    _check_range("density_per_mm2", density_per_mm2)
    _check_range("index_difference", index_difference)
    _check_slices(n_slices, "spacing_um", spacing_um)
    slab = _Slab(grid, (np.arange(n_slices) - (n_slices - 1) / 2) * spacing_um)
    textures = [slab.texture(rng, 0.5, 2.5) for _ in range(min(n_slices, 2))]
    slab.phase[0] += rng.uniform(0.005, 0.03) * slab.texture(rng, 0.6, 8.0, 0.5)
    cytoplasm, nucleus = rng.uniform(*index_difference), rng.uniform(0.004, 0.02)
    graininess, absorption = rng.uniform(0.3, 1.0), rng.uniform(0.002, 0.02)
    glass_um = rng.normal(0, 0.4) - n_slices * spacing_um / 2
    floors, ceilings = slab.heights_um - spacing_um / 2, slab.heights_um + spacing_um / 2
    floors[0], ceilings[-1] = -np.inf, np.inf  # what sticks out counts to the outermost slice
    count = max(1, slab.number(rng, rng.uniform(*density_per_mm2)))
    for y_um, x_um, radius_um in _apart(rng, slab, count):
        height_um, bottom_um = rng.uniform(2.5, 6.5), glass_um + rng.normal(0, 0.2)
        where, y, x = slab.window(y_um, x_um, 1.6 * radius_um)
        angle, r = np.arctan2(y, x), np.hypot(y, x)
        rim = radius_um * (
            1
            + sum(
                rng.normal(0, 0.12 / m) * np.cos(m * angle + rng.uniform(0, 2 * np.pi)) for m in range(2, 6)
            )
        )
        dome_um = height_um * np.clip(1 - (r / rim) ** 2, 0, 1) ** 0.6
        ny, nx = rng.normal(0, 0.15 * radius_um, 2)
        core = np.clip((rng.uniform(0.3, 0.45) * radius_um - np.hypot(y - ny, x - nx)) / 0.6 + 0.5, 0, 1)
        for index, (floor, ceiling) in enumerate(zip(floors, ceilings, strict=True)):
            thickness = np.clip(np.minimum(bottom_um + dome_um, ceiling) - max(bottom_um, floor), 0, None)
            grain = textures[index % len(textures)][where]
            density = cytoplasm * (1 + graininess * grain * (1 - 0.7 * core)) + nucleus * core
            slab.phase[index][where] += slab.wave_number * thickness * density
            slab.absorption[index][where] += (
                absorption * thickness * (0.5 + 0.5 * np.maximum(grain, 0) ** 2 + core)
            )
    for _ in range(slab.number(rng, 200.0)):  # small absorbing particles on the glass
        radius_um, strength = rng.uniform(0.3, 1.2), rng.uniform(0.1, 0.5)
        where, y, x = slab.window(*slab.place(rng), 3 * radius_um + 0.4)
        speck = strength * np.exp(-(y**2 + x**2) / radius_um**2)
        slab.absorption[0][where] += speck
        slab.phase[0][where] += speck
    return slab.specimen("cells")


def _apart(rng: np.random.Generator, slab: _Slab, count: int) -> list[tuple[float, float, float]]:
    """Return places and radii of cells that hardly overlap; fewer than asked where there is no room."""
    placed = np.empty((count, 3))
    n = 0
    extent = np.array(slab.extent_um)
    for _ in range(count):
        radius = rng.uniform(6, 13)
        for _attempt in range(12):
            at = np.array(slab.place(rng))
            away = (placed[:n, :2] - at + extent / 2) % extent - extent / 2
            if (np.hypot(*away.T) > 0.85 * (placed[:n, 2] + radius)).all():
                placed[n] = (*at, radius)
                n += 1
                break
    return [(float(y), float(x), float(r)) for y, x, r in placed[:n]]


def _tissue(
    rng: np.random.Generator, grid: _Grid, *, thickness_um: float = 5.0, n_slices: int = 3
) -> Specimen:
    """A dense section: textured all over, with fibres, gaps and nuclei through its thickness."""
    _check_slices(n_slices, "thickness_um", thickness_um)
    spacing_um = thickness_um / n_slices
    slab = _Slab(grid, (np.arange(n_slices) - (n_slices - 1) / 2) * spacing_um)
    large, base = slab.texture(rng, 6, 60, 1.0), slab.texture(rng, 0.6, 12, 1.0)
    fibres = slab.texture(rng, 0.5, 2.0)
    cover = np.clip((large + rng.uniform(0, 2.0)) * 1.5, 0, 1)
    phase, absorption = rng.uniform(0.15, 0.5), rng.uniform(0.01, 0.05)
    shared = rng.uniform(0.3, 0.7) * base + 0.5 * fibres
    for index in range(n_slices):
        pattern = shared + 0.5 * (slab.texture(rng, 0.5, 3.0) if index else fibres)
        slab.phase[index] = cover * phase * (1 + 0.8 * pattern)
        slab.absorption[index] = cover * absorption * np.clip(0.5 + 0.6 * pattern, 0, None)
    for _ in range(slab.number(rng, 3000.0)):  # nuclei
        a, b = rng.uniform(2, 4.5, 2)
        turn = rng.uniform(0, np.pi)
        where, y, x = slab.window(*slab.place(rng), 6.0)
        along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        body = np.clip((1 - np.sqrt((along / a) ** 2 + (across / b) ** 2)) * 3 + 0.5, 0, 1) * cover[where]
        index = rng.integers(n_slices)
        slab.absorption[index][where] += body * rng.uniform(0.02, 0.1)
        slab.phase[index][where] += body * rng.uniform(0.1, 0.6)
    return slab.specimen("tissue")
