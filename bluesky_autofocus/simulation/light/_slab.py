"""Slices of complex transmission, and what specimens of all kinds are built with."""

import dataclasses
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus._fft import fft, threads
from bluesky_autofocus.optics import LightOptics

__all__ = ["Cell", "Grid", "Slab", "Specimen", "apart", "check_range", "check_slices"]


class Grid(Protocol):
    """What a specimen needs to know of the microscope it is made for."""

    optics: LightOptics
    sample_shape: tuple[int, int]
    extent_um: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell whose focus is known.

    Parameters
    ----------
    y_um, x_um : float
        Where its nucleus has its centre, in the specimen's extent. The pattern wraps round.
    radius_um : float
        Of the cell.
    focus_um : float
        Height of the nucleus' mid-plane, on the scale of the slices' heights.
    """

    y_um: float
    x_um: float
    radius_um: float
    focus_um: float


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
    cells : tuple of Cell
        Where the kind knows the focus of its cells.
    """

    slices: NDArray[np.complex64]
    heights_um: NDArray[np.floating[Any]]
    kind: str
    cells: tuple[Cell, ...] = ()

    @property
    def focus_um(self) -> float | None:
        """Mean height of its cells; None where it states none."""
        return float(np.mean([cell.focus_um for cell in self.cells])) if self.cells else None

    @property
    def centre_um(self) -> float:
        """Height that the light is scattered from on average, weighted by scattered power.

        Near where a microscope is in focus, but not there: that depends on its aberrations and on what is
        refracted on the way, see `FieldView.focus_um`. 0 where nothing scatters.
        """
        power = np.array([np.mean(np.abs(np.diff(one[::2], axis=0)) ** 2) for one in self.slices], float)
        return float((power * self.heights_um).sum() / power.sum()) if power.sum() > 1e-9 else 0.0


def check_range(name: str, value: tuple[float, float]) -> None:
    """Refuse what is no range of numbers from zero on."""
    if not (len(value) == 2 and 0 <= value[0] <= value[1] < np.inf):
        raise ValueError(f"{name} is {value!r}: expected the lowest and the highest, zero or more")


def check_slices(n_slices: int, name: str, length_um: float) -> None:
    """Refuse what makes no slices."""
    if n_slices < 1:
        raise ValueError(f"n_slices is {n_slices!r}: expected at least 1")
    if not 0 < length_um < np.inf:
        raise ValueError(f"{name} is {length_um!r}: expected a positive, finite number")


class Slab:
    """Optical phase and absorption of the slices while a specimen is being built."""

    def __init__(self, grid: Grid, heights_um: NDArray[np.floating[Any]]) -> None:
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

    def specimen(self, kind: str, cells: tuple[Cell, ...] = ()) -> Specimen:
        """Return what was built."""
        slices = np.empty(self.phase.shape, np.complex64)
        modulus = np.exp(-self.absorption)
        np.multiply(modulus, np.cos(self.phase), out=slices.real)
        np.multiply(modulus, np.sin(self.phase), out=slices.imag)
        return Specimen(slices, self.heights_um, kind, cells)


def apart(
    rng: np.random.Generator, slab: Slab, count: int, radii_um: tuple[float, float] = (6.0, 13.0)
) -> list[tuple[float, float, float]]:
    """Return places and radii of cells that hardly overlap; fewer than asked where there is no room."""
    placed = np.empty((count, 3))
    n = 0
    extent = np.array(slab.extent_um)
    for _ in range(count):
        radius = rng.uniform(*radii_um)
        for _attempt in range(12):
            at = np.array(slab.place(rng))
            away = (placed[:n, :2] - at + extent / 2) % extent - extent / 2
            if (np.hypot(*away.T) > 0.85 * (placed[:n, 2] + radius)).all():
                placed[n] = (*at, radius)
                n += 1
                break
    return [(float(y), float(x), float(r)) for y, x, r in placed[:n]]
