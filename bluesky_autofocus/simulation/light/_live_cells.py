"""Living cells under an objective of high aperture, each with a nucleus whose mid-plane is its focus.

What is seen of them in bright field is phase: cytoplasm (an index about 0.02 above the medium's) that thins
out into a lamella, a nucleus of slightly lower index with an envelope whose rim is sharpest at its equator,
nucleoli, granules and vesicles of strong contrast at all heights, fibres, and debris on the glass, which is a
trap for whoever goes by sharpness alone. All that is drawn anew for every field.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._slab import Cell, Grid, Slab, Specimen, apart, check_range, check_slices

__all__ = ["live_cells"]

_SOFT_UM = 0.07
"""Over which edges of small things fade: about half a sample."""
_ENVELOPE_UM = 0.14
"""Half width of the nuclear envelope with what clings to it, as an objective could see it at best."""
_FIBRE_STEP_UM = 0.08
_RING_STEPS = 3
"""Heights within each slice at which the envelope is drawn."""


def live_cells(
    rng: np.random.Generator,
    grid: Grid,
    *,
    density_per_mm2: tuple[float, float] = (500.0, 2000.0),
    radius_um: tuple[float, float] = (6.0, 12.0),
    granules: tuple[float, float] = (30.0, 260.0),
    contrast: tuple[float, float] = (0.6, 1.5),
    debris_per_mm2: tuple[float, float] = (500.0, 2500.0),
    focus_sd_um: float = 0.1,
    n_slices: int = 7,
    spacing_um: float = 0.7,
) -> Specimen:
    """Make a field of living cells.

    The heights of the slices have a random offset, so that what is in focus is not always a slice.

    Parameters
    ----------
    rng : numpy.random.Generator
        Of everything.
    grid : AbbeImageFormation
        The microscope.
    density_per_mm2 : tuple of float
        Lowest and highest number of cells per square millimetre; there is always one at least.
    radius_um : tuple of float
        Of the cells; less where the field is too small.
    granules : tuple of float
        Of a cell, lowest and highest number.
    contrast : tuple of float
        By which the phase of everything is multiplied.
    debris_per_mm2 : tuple of float
        Lowest and highest number of specks per square millimetre, most of them on the glass.
    focus_sd_um : float
        Deviation of the cells' heights from z = 0.
    n_slices : int
        How many slices there are.
    spacing_um : float
        Between them.

    Raises
    ------
    ValueError
        If a number makes no sense.
    """
    for name, value in (
        ("density_per_mm2", density_per_mm2),
        ("radius_um", radius_um),
        ("granules", granules),
        ("contrast", contrast),
        ("debris_per_mm2", debris_per_mm2),
    ):
        check_range(name, value)
    if radius_um[0] <= 0:
        raise ValueError(f"radius_um is {radius_um!r}: expected positive numbers")
    if not 0 <= focus_sd_um < np.inf:
        raise ValueError(f"focus_sd_um is {focus_sd_um!r}: expected a finite number, zero or more")
    check_slices(n_slices, "spacing_um", spacing_um)
    heights_um = (np.arange(n_slices) - (n_slices - 1) / 2 + rng.uniform(-0.5, 0.5)) * spacing_um
    slab = Slab(grid, heights_um)
    field = _Field(rng, slab, spacing_um, rng.uniform(*contrast))
    area_mm2 = slab.extent_um[0] * slab.extent_um[1] * 1e-6
    count = max(1, round(rng.uniform(*density_per_mm2) * area_mm2))
    largest_um = min(slab.extent_um) / 3.2  # a cell is to fit between its own images on either side
    radii_um = (min(radius_um[0], largest_um), min(radius_um[1], largest_um))
    many = rng.uniform(*granules)
    cells = []
    for y_um, x_um, radius in apart(rng, slab, count, radii_um):
        focus_um = float(np.clip(focus_sd_um * rng.normal(), heights_um[0], heights_um[-1]))
        # on a sample: the middle of its window
        y_um = round(y_um / slab.dy) % slab.shape[0] * slab.dy
        x_um = round(x_um / slab.dx) % slab.shape[1] * slab.dx
        cells.append(Cell(y_um, x_um, radius, focus_um))
        field.draw_cell(cells[-1], round(many * rng.uniform(0.7, 1.3)))
    field.draw_fibres(int(rng.integers(3, 30)))
    field.draw_debris(rng.uniform(*debris_per_mm2))
    return slab.specimen("live_cells", tuple(cells))


class _Field:
    """A field of cells while it is being drawn: what they have in common, and the slices."""

    def __init__(self, rng: np.random.Generator, slab: Slab, spacing_um: float, contrast: float) -> None:
        self.rng, self.slab, self.spacing_um = rng, slab, spacing_um
        edges = (slab.heights_um[:-1] + spacing_um / 2).tolist()
        # what sticks out counts to the outermost slice
        self.layers: list[tuple[float, float]] = list(zip([-np.inf, *edges], [*edges, np.inf], strict=True))
        self.contrast = contrast
        self.half_height_um = rng.uniform(1.2, 2.6)  # of a nucleus
        self.glass_um = -self.half_height_um - rng.uniform(0.1, 0.5)
        self.cap_um = rng.uniform(0.1, 0.6)  # of cytoplasm over a nucleus
        self.lamella_um = rng.uniform(0.2, 0.8)
        self.cytoplasm, self.nucleus = rng.uniform(0.012, 0.028), rng.uniform(-0.008, 0.002)  # indices
        self.grain, self.nuclear_grain = rng.uniform(0.08, 0.25), rng.uniform(0.03, 0.12)
        self.envelope_rad = rng.uniform(0.06, 0.2)
        self.nucleolus = rng.uniform(0.008, 0.022)
        self.granule_rad = rng.uniform(0.25, 0.6)
        self.granule_absorption = rng.uniform(0.0, 0.12)
        smallest_um = rng.uniform(0.8, 1.6)
        self.textures = [
            slab.texture(rng, smallest_um, 4.0, 0.7) * np.float32(rng.uniform(0.5, 1.2))
            for _ in slab.heights_um
        ]

    def draw_cell(self, cell: Cell, granules: int) -> None:
        """Draw a cell with all that is in it."""
        rng, slab, focus_um, radius_um = self.rng, self.slab, cell.focus_um, cell.radius_um
        where, y, x = slab.window(cell.y_um, cell.x_um, 1.55 * radius_um)
        # the nucleus: an ellipsoid with a slightly wobbly outline; rho is 1 there
        a_um = radius_um * rng.uniform(0.45, 0.65)
        b_um = a_um * rng.uniform(0.6, 0.95)
        c_um = self.half_height_um * rng.uniform(0.92, 1.08)
        turn = rng.uniform(0, np.pi)
        along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        angle = np.arctan2(across / b_um, along / a_um)
        rho = np.hypot(along / a_um, across / b_um) / self._wobble(angle, 0.05)
        nucleus_um = c_um * np.sqrt(np.clip(1 - rho**2, 0, 1))
        # the body over the glass, and the lamella that it sends out
        sy, sx = rng.normal(0, 0.08 * radius_um, 2)
        away, direction = np.hypot(y - sy, x - sx), np.arctan2(y - sy, x - sx)
        outline_um = np.minimum(radius_um * self._wobble(direction, 0.12), 1.3 * radius_um)
        reach_um = np.minimum(
            outline_um + radius_um * rng.uniform(0.05, 0.3) * self._wobble(direction, 0.5), 1.4 * radius_um
        )
        dome_um = (focus_um + c_um - self.glass_um) * np.clip(1 - (away / outline_um) ** 2, 0, 1) ** 0.8
        lamella_um = self.lamella_um * np.clip((reach_um - away) / 0.4, 0, 1)
        over_nucleus_um = (focus_um - self.glass_um) + (1 + self.cap_um / c_um) * nucleus_um
        height_um = np.maximum(np.maximum(dome_um, lamella_um), np.where(rho < 1, over_nucleus_um, 0))
        top_um = self.glass_um + height_um
        for index, (floor, ceiling) in enumerate(self.layers):
            body = np.clip(np.minimum(top_um, ceiling) - max(self.glass_um, floor), 0, None)
            core = np.clip(
                np.minimum(focus_um + nucleus_um, ceiling) - np.maximum(focus_um - nucleus_um, floor), 0, body
            )
            grain = self.textures[index][where]
            optical = (body - core) * self.cytoplasm * (1 + self.grain * grain)
            optical += core * (self.cytoplasm + self.nucleus) * (1 + self.nuclear_grain * grain)
            phase = slab.wave_number * optical + self._envelope(
                rho, math.sqrt(a_um * b_um), c_um, focus_um, index
            )
            slab.phase[index][where] += self.contrast * phase
        self._draw_nucleoli(cell, a_um, b_um, c_um, turn)
        self._draw_granules(cell, granules, rho, away / outline_um, top_um)

    def _wobble(self, angle: NDArray[np.float32], size: float) -> NDArray[np.float32]:
        """Return a smooth function of the angle about 1."""
        waves = (
            self.rng.normal(0, size / m) * np.cos(m * angle + self.rng.uniform(0, 2 * np.pi))
            for m in range(2, 6)
        )
        return np.maximum(1 + sum(waves), 0.3)

    def _envelope(
        self, rho: NDArray[np.float32], mean_um: float, c_um: float, focus_um: float, index: int
    ) -> NDArray[np.float32] | float:
        """Return the phase of the nuclear envelope in a slice: rings, one for each of some heights."""
        low, high = max(self.layers[index][0], focus_um - c_um), min(self.layers[index][1], focus_um + c_um)
        if high <= low:
            return 0.0
        heights = (np.linspace(low, high, _RING_STEPS + 1) - focus_um) / c_um
        radii = np.sqrt(np.clip(1 - heights**2, 0, 1)).tolist()
        share = (high - low) / (_RING_STEPS * self.spacing_um)
        phase = np.zeros_like(rho)
        for one, two in zip(radii[:-1], radii[1:], strict=True):
            # away from the equator the envelope lies flat, and its ring is wide and weak
            width_um = math.hypot(_ENVELOPE_UM, mean_um * (one - two) / 2)
            ring = np.exp(-(((rho - (one + two) / 2) * (mean_um / width_um)) ** 2))
            phase += self.envelope_rad * share * _ENVELOPE_UM / width_um * ring
        return phase

    def _draw_nucleoli(self, cell: Cell, a_um: float, b_um: float, c_um: float, turn: float) -> None:
        rng = self.rng
        for _ in range(rng.integers(1, 5)):
            radius_um = min(rng.uniform(0.6, 1.6), 0.4 * b_um, 0.7 * c_um)
            r, angle = math.sqrt(rng.uniform(0, 0.4)), rng.uniform(0, 2 * np.pi)
            u, v = r * a_um * math.cos(angle), r * b_um * math.sin(angle)
            y_um = cell.y_um + u * math.sin(turn) + v * math.cos(turn)
            x_um = cell.x_um + u * math.cos(turn) - v * math.sin(turn)
            height_um = cell.focus_um + float(np.clip(rng.normal(0, 0.25), -0.6, 0.6))
            where, y, x = self.slab.window(y_um, x_um, 1.4 * radius_um + 0.3)
            distance = np.hypot(y * rng.uniform(0.85, 1.2), x * rng.uniform(0.85, 1.2)) / radius_um
            half_um = radius_um * np.sqrt(np.clip(1 - distance**2, 0, 1))
            index_difference = self.nucleolus * rng.uniform(0.7, 1.2)
            for index, (floor, ceiling) in enumerate(self.layers):
                inside = np.minimum(height_um + half_um, ceiling) - np.maximum(height_um - half_um, floor)
                inside = np.clip(inside, 0, None)
                self.slab.phase[index][where] += (
                    self.contrast * self.slab.wave_number * index_difference * inside
                )

    def _draw_granules(
        self,
        cell: Cell,
        count: int,
        rho: NDArray[np.float32],
        away: NDArray[np.float32],
        top_um: NDArray[Any],
    ) -> None:
        """Draw granules and vesicles into the cytoplasm: around the nucleus, or more on one side of it."""
        rng = self.rng
        # more of them near the nucleus, and towards one side; none in it
        side, lopsided, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0, 1) ** 2, rng.uniform(0.25, 0.9)
        ny, nx = rho.shape
        angle = np.arctan2(*np.ogrid[-(ny // 2) : ny - ny // 2, -(nx // 2) : nx - nx // 2])
        chance = np.exp(-((rho - 1) / reach)) * (1 - lopsided * np.cos(angle - side))
        chance = np.where((rho > 1.05) & (away < 0.97), chance, 0).ravel()
        if not chance.any() or count == 0:
            return
        at = rng.choice(chance.size, count, p=chance / chance.sum())
        dy, dx = self.slab.dy, self.slab.dx
        y_um = cell.y_um + (at // nx - ny // 2 + rng.uniform(-0.5, 0.5, count)) * dy
        x_um = cell.x_um + (at % nx - nx // 2 + rng.uniform(-0.5, 0.5, count)) * dx
        radius_um = rng.uniform(0.15, 0.4, count)
        middle_um, spread_um = rng.normal(0, 0.35), rng.uniform(0.3, 0.9)
        height_um = rng.normal(cell.focus_um + middle_um, spread_um, count)
        low_um = self.glass_um + radius_um
        height_um = np.clip(height_um, low_um, np.maximum(top_um.ravel()[at] - radius_um, low_um))
        sign = np.where(rng.random(count) < 0.12, -0.5, 1.0)  # a few vesicles hold little but water
        phase = self.contrast * sign * rng.uniform(0.1, self.granule_rad, count)
        absorption = self.granule_absorption * rng.random(count) * (sign > 0)
        self.draw_dots(y_um, x_um, height_um, radius_um, phase, absorption)

    def draw_fibres(self, count: int) -> None:
        """Draw bent fibres, each at a height of its own, as rows of dots."""
        rng, slab = self.rng, self.slab
        for _ in range(count):
            n = round(rng.uniform(3, 15) / _FIBRE_STEP_UM)
            angle = (
                rng.uniform(0, 2 * np.pi)
                + np.cumsum(rng.normal(0, 0.02, n))
                + rng.normal(0, 0.004) * np.arange(n)
            )
            y_um, x_um = slab.place(rng)
            y_um = y_um + np.cumsum(np.sin(angle)) * _FIBRE_STEP_UM
            x_um = x_um + np.cumsum(np.cos(angle)) * _FIBRE_STEP_UM
            height_um = rng.uniform(max(self.glass_um, -2.4), 1.5) + np.linspace(0, rng.normal(0, 0.3), n)
            # dots overlap: about five at every point
            phase = self.contrast * rng.uniform(0.02, 0.1) / 5 * np.sin(np.linspace(0, np.pi, n)) ** 0.3
            self.draw_dots(y_um, x_um, height_um, np.full(n, rng.uniform(0.1, 0.2)), phase, np.zeros(n))

    def draw_debris(self, per_mm2: float) -> None:
        """Draw specks, most of them on the glass, some afloat: what goes by sharpness falls for them."""
        rng, slab = self.rng, self.slab
        n = slab.number(rng, per_mm2)
        places = np.array([slab.place(rng) for _ in range(n)]).reshape(n, 2)
        radius_um = rng.uniform(0.15, 0.7, n)
        height_um = np.where(rng.random(n) < 0.7, self.glass_um, rng.uniform(-2.4, 2.4, n))
        phase, absorption = rng.uniform(0.1, 0.8, n), rng.uniform(0.02, 0.4, n)
        self.draw_dots(places[:, 0], places[:, 1], height_um, radius_um, phase, absorption)

    def draw_dots(
        self,
        y_um: NDArray[np.float64],
        x_um: NDArray[np.float64],
        height_um: NDArray[np.float64],
        radius_um: NDArray[np.float64],
        phase: NDArray[np.float64],
        absorption: NDArray[np.float64],
    ) -> None:
        """Add small round things, given by arrays of shape (n,), each to the two slices next to it."""
        if len(y_um) == 0:
            return
        slab = self.slab
        half_um = float(radius_um.max()) + 4 * _SOFT_UM
        n_slices, ny, nx = slab.phase.shape
        iy, ix = (np.arange(-math.ceil(half_um / d), math.ceil(half_um / d) + 1) for d in (slab.dy, slab.dx))
        row, column = np.round(y_um / slab.dy).astype(int), np.round(x_um / slab.dx).astype(int)
        rows, columns = row[:, None] + iy, column[:, None] + ix
        away_y = (rows * slab.dy - y_um[:, None]).astype(np.float32)[:, :, None]
        away_x = (columns * slab.dx - x_um[:, None]).astype(np.float32)[:, None, :]
        edge = (np.hypot(away_y, away_x) - radius_um.astype(np.float32)[:, None, None]) / np.float32(_SOFT_UM)
        profile = 1 / (1 + np.exp(np.minimum(edge, 20)))
        at = (rows % ny)[:, :, None] * nx + (columns % nx)[:, None, :]
        level = np.clip((height_um - slab.heights_um[0]) / self.spacing_um, 0, n_slices - 1)
        below = np.minimum(level.astype(int), max(n_slices - 2, 0))
        for target, strength in ((slab.phase, phase), (slab.absorption, absorption)):
            if not strength.any():
                continue
            for index, share in ((below, 1 - (level - below)), (below + 1, level - below)):
                for one in np.unique(index[share > 0]):
                    mine = (index == one) & (share > 0)
                    values = profile[mine] * (strength * share)[mine, None, None]
                    added = np.bincount(at[mine].ravel(), values.ravel(), ny * nx)
                    target[one] += added.reshape(ny, nx)
