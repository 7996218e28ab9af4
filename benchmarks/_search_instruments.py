"""Four simulated instruments: an electron microscope, and light microscopes of three kinds.

They are what searches have to do with: a depth of field, a camera, a motor, and how a flat pattern looks out
of focus.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus._fft import fft
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.simulation import SEMImageFormation, SEMOptics
from bluesky_autofocus.simulation.motion import AxisMechanics
from bluesky_autofocus.widefield import Widefield

__all__ = [
    "BRIGHTFIELD",
    "DOSES",
    "OBLIQUE",
    "SHAPE_PX",
    "Forming",
    "Image",
    "Instrument",
    "blurred",
    "instruments",
    "widefield",
]

Image: TypeAlias = NDArray[np.float32]

Forming: TypeAlias = Callable[[float], Image]
"""``form(defocus_um)``: the frame without noise, 1 where it is as bright as the instrument is set for."""

SHAPE_PX = (256, 256)

DOSES = ("high", "medium", "low")

REACH_DOF = 92
"""Farthest from focus: the widest range, focus at a tenth of it, and what an axis may go beyond."""

MAGNIFICATION = 5000.0
"""Of the SEM: pixels of 50 nm, a depth of field of 5 um."""


@dataclasses.dataclass(frozen=True)
class Instrument:
    """What is the same for all specimens under one instrument.

    Parameters
    ----------
    name : str
        Of the kind of instrument.
    depth_of_field_um, pixel_um : float
        As the package defines them.
    convergence : float
        Sine of the half angle of the cone that a point out of focus is spread over.
    electrons : tuple of float
        At high, medium and low dose, in a pixel where the light is 1.
    frame_s : tuple of float
        Seconds that a frame takes at each dose.
    read_noise_e : float
        Deviation of the readout in electrons.
    bits : int
        Of a frame: 8 or 16.
    offset : float
        Grey level without light.
    white : float
        Grey level over that where the light is 1, at high dose. A SEM keeps it at all doses.
    mechanics : AxisMechanics
        Of what focuses.
    """

    name: str
    depth_of_field_um: float
    pixel_um: float
    convergence: float
    electrons: tuple[float, float, float]
    frame_s: tuple[float, float, float]
    read_noise_e: float
    bits: int
    offset: float
    white: float
    mechanics: AxisMechanics

    @property
    def full_scale(self) -> int:
        """Highest grey level."""
        return 2**self.bits - 1


CONDENSER = AxisMechanics(velocity_um_s=500.0, settle_s=0.05, readback_noise_um=0.0)
"""Typical of a lens that is switched and settles."""

STAGE = AxisMechanics(velocity_um_s=500.0, settle_s=0.03, acceleration_um_s2=5000.0, latency_s=0.01)
"""A motorised focus drive."""

SEM_OPTICS = SEMOptics(field_width_mm=127.0 * SHAPE_PX[1] / 512)
"""A corner of a frame of 512 pixels."""

BRIGHTFIELD = LightOptics(numerical_aperture=0.4, wavelength_um=0.54, pixel_size_um=0.33)
FLUORESCENCE = LightOptics(numerical_aperture=0.45, wavelength_um=0.46, pixel_size_um=0.656)
OBLIQUE = LightOptics(numerical_aperture=0.5, wavelength_um=0.53, pixel_size_um=0.30)


def _light(name: str, optics: LightOptics, electrons: tuple[float, float, float]) -> Instrument:
    return Instrument(
        name,
        optics.depth_of_field_um,
        optics.pixel_size_um,
        optics.numerical_aperture,
        electrons,
        frame_s=(0.05, 0.03, 0.02),
        read_noise_e=1.6,
        bits=16,
        offset=100.0,
        white=2 * electrons[0],
        mechanics=STAGE,
    )


@cache
def instruments() -> dict[str, Instrument]:
    """Return the instruments by name."""
    sem = SEMImageFormation(np.zeros((8, 8)), SEM_OPTICS, frame_shape=SHAPE_PX)
    dwells_us = (1.0, 0.1, 0.026)
    return {
        "sem": Instrument(
            "sem",
            sem.depth_of_field_um(MAGNIFICATION),
            sem.pixel_size_um(MAGNIFICATION),
            1e-3 * SEM_OPTICS.convergence_mrad,
            electrons=tuple(map(sem.electrons_per_pixel, dwells_us)),  # type: ignore[arg-type] - three
            frame_s=tuple(0.1 + math.prod(SHAPE_PX) * 1e-6 * one for one in dwells_us),  # type: ignore[arg-type]
            read_noise_e=SEM_OPTICS.electronic_noise,
            bits=8,
            offset=255 * SEM_OPTICS.offset,
            white=255 * SEM_OPTICS.gain,
            mechanics=CONDENSER,
        ),
        "brightfield": _light("brightfield", BRIGHTFIELD, (8000.0, 800.0, 80.0)),
        "fluorescence": _light("fluorescence", FLUORESCENCE, (1000.0, 100.0, 20.0)),
        "oblique": _light("oblique", OBLIQUE, (8000.0, 800.0, 80.0)),
    }


@cache
def widefield(name: str) -> Widefield:
    """Return the transfer functions of a light microscope."""
    optics = {"brightfield": BRIGHTFIELD, "fluorescence": FLUORESCENCE, "oblique": OBLIQUE}[name]
    return Widefield(optics, reach_um=REACH_DOF * optics.depth_of_field_um)


class _SEM(SEMImageFormation):
    """Image formation whose transfer functions, the same for all scenes, are kept."""

    def transfer_function(self, defocus_um: float, **other: float) -> Image:
        key = (defocus_um, *other.values())
        if key not in _transfers:
            _transfers[key] = super().transfer_function(defocus_um, **other)  # type: ignore[misc]
        return _transfers[key]


_transfers: dict[tuple[float, ...], Image] = {}


def blurred(name: str, pattern: Image) -> Forming:
    """Return a flat pattern as an instrument with incoherent light, or with an electron beam, shows it."""
    if name == "sem":
        formation = _SEM(pattern, SEM_OPTICS, frame_shape=SHAPE_PX)
        return lambda z_um: formation.blurred(z_um, magnification=MAGNIFICATION)
    transfer = widefield(name).transfer
    spectrum = fft.rfft2(pattern)
    return lambda z_um: fft.irfft2(spectrum * transfer(z_um, SHAPE_PX), s=SHAPE_PX)
