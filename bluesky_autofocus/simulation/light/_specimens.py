"""Specimens as a few slices of complex transmission: cells on glass or alive, a section of tissue, nothing.

Numbers (refractive index differences, sizes, densities) are those of white blood cells on a cover glass and
of an unstained section of 5 um, the two specimens of Pinkard et al. 2019. Living cells: see `_live_cells`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ._live_cells import live_cells
from ._slab import Grid, Slab, Specimen, apart, check_range, check_slices

__all__ = ["SPECIMEN_KINDS", "specimen"]

SPECIMEN_KINDS = ("cells", "tissue", "empty", "live_cells")


def specimen(kind: str, seed: int | Sequence[int], grid: Grid, **options: Any) -> Specimen:
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
        ``thickness_um``; for live_cells those of `live_cells`.

    Raises
    ------
    ValueError
        If there is no such kind, or an option is no sensible number.
    """
    makers = {"cells": _cells, "tissue": _tissue, "empty": _empty, "live_cells": live_cells}
    if kind not in makers:
        raise ValueError(f"kind is {kind!r}: expected one of {', '.join(SPECIMEN_KINDS)}")
    return makers[kind](np.random.default_rng(seed), grid, **options)


def _empty(rng: np.random.Generator, grid: Grid) -> Specimen:
    slab = Slab(grid, np.zeros(1))
    slab.phase[0] = 0.002 * slab.texture(rng, 0.6, 8.0, 0.5)
    return slab.specimen("empty")


def _cells(
    rng: np.random.Generator,
    grid: Grid,
    *,
    density_per_mm2: tuple[float, float] = (134.0, 1500.0),
    index_difference: tuple[float, float] = (0.012, 0.035),
    n_slices: int = 3,
    spacing_um: float = 2.0,
) -> Specimen:
    """Cells that lie on glass: domes with internal texture and a nucleus, and some dirt."""
    check_range("density_per_mm2", density_per_mm2)
    check_range("index_difference", index_difference)
    check_slices(n_slices, "spacing_um", spacing_um)
    slab = Slab(grid, (np.arange(n_slices) - (n_slices - 1) / 2) * spacing_um)
    textures = [slab.texture(rng, 0.5, 2.5) for _ in range(min(n_slices, 2))]
    slab.phase[0] += rng.uniform(0.005, 0.03) * slab.texture(rng, 0.6, 8.0, 0.5)
    cytoplasm, nucleus = rng.uniform(*index_difference), rng.uniform(0.004, 0.02)
    graininess, absorption = rng.uniform(0.3, 1.0), rng.uniform(0.002, 0.02)
    glass_um = rng.normal(0, 0.4) - n_slices * spacing_um / 2
    floors, ceilings = slab.heights_um - spacing_um / 2, slab.heights_um + spacing_um / 2
    floors[0], ceilings[-1] = -np.inf, np.inf  # what sticks out counts to the outermost slice
    count = max(1, slab.number(rng, rng.uniform(*density_per_mm2)))
    for y_um, x_um, radius_um in apart(rng, slab, count):
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


def _tissue(
    rng: np.random.Generator, grid: Grid, *, thickness_um: float = 5.0, n_slices: int = 3
) -> Specimen:
    """A dense section: textured all over, with fibres, gaps and nuclei through its thickness."""
    check_slices(n_slices, "thickness_um", thickness_um)
    spacing_um = thickness_um / n_slices
    slab = Slab(grid, (np.arange(n_slices) - (n_slices - 1) / 2) * spacing_um)
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
