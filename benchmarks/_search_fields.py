"""Specimens as frames without noise at any defocus.

A frame of each height is formed when it is first asked for and kept, and heights between are blended. So an
exposure costs a fraction of a millisecond, and all competitors see the same field.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import cv2
import numpy as np

from benchmarks._search_instruments import (
    BRIGHTFIELD,
    OBLIQUE,
    SHAPE_PX,
    Forming,
    Image,
    Instrument,
    blurred,
    instruments,
    widefield,
)
from bluesky_autofocus.simulation import (
    AbbeImageFormation,
    Aberrations,
    FluorescentNuclei,
    Smear,
    SmearOptics,
    Specimen,
    scene,
    specimen,
)

__all__ = ["KINDS", "Planes", "dusty", "empty", "faint", "field", "layered", "phase_object"]

HALF_ANNULUS_LEDS = 20
"""Of the oblique light that shows phase objects sharpest at focus. With fewer, each one's image is seen by
itself far from focus."""


class Planes:
    """One field at all heights.

    Parameters
    ----------
    instrument : Instrument
        That looks at it.
    form : callable
        Forms the frame of one height.
    coherent : bool
        Details move with defocus, and two heights blended would show them twice: the nearest one is shown.
    """

    def __init__(self, instrument: Instrument, form: Forming, *, coherent: bool = False) -> None:
        self.instrument, self._form, self._coherent = instrument, form, coherent
        self._kept: dict[float, Image] = {}

    def __call__(self, defocus_dof: float) -> Image:
        """Return the frame at a defocus in depths of field; do not write to it."""
        away = abs(defocus_dof)
        # every coarser step is a multiple of the finer one where they meet
        step = 1 / 8 if away < 4 else 1 / 4 if away < 16 else 1 / 2
        if self._coherent:
            return self._at(round(defocus_dof / step) * step)
        low = math.floor(defocus_dof / step) * step
        part = (defocus_dof - low) / step
        if part < 1e-9:
            return self._at(low)
        blended: Any = cv2.addWeighted(self._at(low), 1 - part, self._at(low + step), part, 0)
        return blended

    def _at(self, node_dof: float) -> Image:
        if node_dof not in self._kept:
            formed = self._form(node_dof * self.instrument.depth_of_field_um)
            self._kept[node_dof] = np.maximum(formed, 0, dtype=np.float32)
        return self._kept[node_dof]


class _Combined(Planes):
    """What is made of other fields, height by height; nothing is kept of it but of them."""

    def __init__(self, instrument: Instrument, at: Forming) -> None:
        super().__init__(instrument, at)
        self._of = at

    def __call__(self, defocus_dof: float) -> Image:
        return self._of(defocus_dof)


def faint(planes: Planes, contrast: float) -> Planes:
    """Return a field of less contrast about its mean."""
    level = float(planes(0.0).mean())
    return _Combined(planes.instrument, lambda z: contrast * planes(z) + np.float32((1 - contrast) * level))


def layered(planes: Planes, distance_dof: float) -> Planes:
    """Return two layers that are as strong as each other: a field, and the same turned round above it."""
    half = distance_dof / 2
    return _Combined(
        planes.instrument, lambda z: (planes(z + half) + planes(z - half)[::-1, ::-1]) / np.float32(2)
    )


def dusty(planes: Planes, seed: int, distance_dof: float) -> Planes:
    """Return a field under a cover glass with dust on it, which is in focus so far above."""
    instrument = planes.instrument
    dust = Planes(instrument, blurred(instrument.name, _dust(np.random.default_rng((seed, 15)))))
    return _Combined(instrument, lambda z: planes(z) * dust(z - distance_dof))


def empty(name: str) -> Planes:
    """Return a field without a specimen; a fluorescent one is nearly dark."""
    level = {"brightfield": 0.9, "oblique": 0.9, "fluorescence": 0.05, "sem": 0.3}[name]
    frame = np.full(SHAPE_PX, level, np.float32)
    return _Combined(instruments()[name], lambda z: frame)


def phase_object(seed: int) -> Planes:
    """Return cells without absorption in light that is nearly parallel: the least contrast is at focus."""
    formation = _abbe(0.0)
    cells = _flat_cells(seed, formation)
    view = formation.view(dataclasses.replace(cells, slices=cells.slices / np.abs(cells.slices)))
    return Planes(
        instruments()["oblique"], lambda z_um: 0.7 * view.intensity([[0.0, 0.0]], [z_um])[0], coherent=True
    )


def field(kind: str, seed: int) -> Planes:
    """Return a specimen of a kind; the same seed gives the same one."""
    name, make = KINDS[kind]
    instrument = instruments()[name]
    return Planes(instrument, make(seed), coherent=name == "oblique")


def _scene(kind: str) -> Callable[[int], Forming]:
    def make(seed: int) -> Forming:
        # sampled as in a frame of 512 pixels, of which this one is a part
        pattern = scene(kind, seed=seed, shape=(SHAPE_PX[0] + 128, SHAPE_PX[1] + 128))
        return blurred("sem", pattern)

    return make


def _smear(seed: int) -> Forming:
    """Stained cells as green light sees them: painted through a nearly perfect objective, then blurred."""
    smear = Smear(
        seed,
        SHAPE_PX,
        BRIGHTFIELD.pixel_size_um,
        optics=SmearOptics(numerical_aperture=0.8, colour_focus_um=(0.0, 0.0, 0.0), spherical_waves=0.0),
        density_per_mm2=(2000.0, 8000.0),
        covered=(0.7, 1.0),
        tilt_um=(0.0, 0.0),
        unevenness_um=0.0,
    )
    return blurred("brightfield", smear.image_formation(0.0)[..., 1])


def _nuclei(lowest: float, highest: float) -> Callable[[int], Forming]:
    def make(seed: int) -> Forming:
        drawn = (
            FluorescentNuclei(
                (seed, again),
                SHAPE_PX,
                widefield("fluorescence"),
                density_per_mm2=(lowest, highest),
                heights_um=0.3,
            )
            for again in itertools.count()
        )
        # one at least
        return next(nuclei for nuclei in drawn if nuclei.count).image

    return make


def _cells(seed: int) -> Forming:
    """Unstained cells in oblique light, half an annulus, under which they are sharpest at focus."""
    formation = _abbe(OBLIQUE.numerical_aperture)
    view = formation.view(_flat_cells(seed, formation))
    angles = np.pi * (np.arange(HALF_ANNULUS_LEDS) + 0.5) / HALF_ANNULUS_LEDS
    directions = 0.9 * OBLIQUE.numerical_aperture * np.column_stack([np.cos(angles), np.sin(angles)])
    share = np.full(HALF_ANNULUS_LEDS, 0.7 / HALF_ANNULUS_LEDS)
    focus_um = view.focus_um
    return lambda z_um: view.intensity(directions, [focus_um + z_um], share)[0]


def _flat_cells(seed: int, formation: AbbeImageFormation) -> Specimen:
    """Return cells thinner than a depth of field, so that it is clear where their focus is."""
    return specimen("cells", seed, formation, n_slices=1, density_per_mm2=(500.0, 1500.0))


@cache
def _abbe(steepest_na: float) -> AbbeImageFormation:
    little = Aberrations(spherical_waves=0.01, coma_waves=0.01, astigmatism_waves=0.01)
    return AbbeImageFormation(OBLIQUE, SHAPE_PX, little, steepest_na=steepest_na)


def _dust(rng: np.random.Generator) -> Image:
    """Return the transmission of some dark specks with sharp edges."""
    rows, columns = np.ogrid[: SHAPE_PX[0], : SHAPE_PX[1]]
    pattern = np.ones(SHAPE_PX, np.float32)
    for _ in range(int(rng.integers(2, 6))):
        row, column = rng.uniform(0, SHAPE_PX[0]), rng.uniform(0, SHAPE_PX[1])
        radius, angle = rng.uniform(4, 14), np.arctan2(rows - row, columns - column)
        outline = radius * (1 + 0.3 * np.cos(3 * angle + rng.uniform(0, 2 * np.pi)))
        inside = np.clip(outline - np.hypot(rows - row, columns - column) + 0.5, 0, 1)
        pattern *= 1 - rng.uniform(0.4, 0.9) * inside.astype(np.float32)
    return pattern


KINDS: dict[str, tuple[str, Callable[[int], Forming]]] = {
    "tissue": ("sem", _scene("tissue")),
    "smear": ("brightfield", _smear),
    "grains": ("sem", _scene("grains")),
    "cells": ("oblique", _cells),
    "particles": ("sem", _scene("particles")),
    "nuclei": ("fluorescence", _nuclei(150.0, 1100.0)),
    "sparse": ("sem", _scene("sparse")),
    "few nuclei": ("fluorescence", _nuclei(30.0, 80.0)),
}
"""Specimens in the order in which trials take them, each with its instrument."""
