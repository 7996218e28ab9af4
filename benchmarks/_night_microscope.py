"""A fluorescence microscope in a night that is not kind to it: what a tile scan meets beside drift."""

import dataclasses
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.clock import Clock
from bluesky_autofocus.devices import SimulatedFluorescenceMicroscope
from bluesky_autofocus.devices._microscope import seed_of_field
from bluesky_autofocus.instruments import Instrument
from bluesky_autofocus.simulation import FluorescentNuclei, LightCamera
from bluesky_autofocus.simulation.drift import focus_drift
from bluesky_autofocus.simulation.motion import AxisMechanics

__all__ = ["SIDE_PX", "Disc", "Lamp", "NightMicroscope", "night_instrument"]

SIDE_PX = 256
"""Rows and columns of a frame."""

TILE_S = 2.5
"""From one exposure to the next beside the exposure itself: filter wheel, readout, the stage's settling. Ten
thousand tiles take a night."""

DRIFT = ("warming", "wandering")
"""What focus does in the course of it, all of it at once."""

BOWL_UM_PER_CM2 = 25.0
"""By how much the specimen falls off from its middle, a centimetre away: a slide that is clamped."""

FLICKER = 0.06
"""Standard deviation of the lamp's brightness from frame to frame."""

DIM = (0.004, 0.25)
"""Share of frames in which the lamp drops, and to what."""

DARK = 0.001
"""Share of frames that are black."""

BUBBLES_PER_MM2, HOLES_PER_MM2 = 0.04, 0.05
"""How many places there are at which the mountant is not what it should be, and from which the specimen was
washed off."""

RIM, RIM_UM = 1.5, 1.5
"""How bright the rim of a bubble is, in nuclei, and how wide."""

REACH_UM = 58.0
"""Beyond nothing changes any more."""

KEPT_FIELDS = 2

FLOATERS = 0.2
"""Share of empty fields in which something floats that is stained, far from where the specimen would be."""


@dataclasses.dataclass(frozen=True)
class Disc:
    """A bubble in the mountant, or a place where the specimen was washed off or has come off the glass.

    Parameters
    ----------
    x_um, y_um, radius_um : float
        Where it is.
    height_um : float
        How far above the specimen its rim is, or by how much the specimen is lifted in it.
    """

    x_um: float
    y_um: float
    radius_um: float
    height_um: float

    def holds(self, x_um: float, y_um: float) -> bool:
        """Return whether a place is within."""
        return math.hypot(x_um - self.x_um, y_um - self.y_um) < self.radius_um


class Field:
    """A field of the slide, with the rim of a bubble above it or something that floats instead of it.

    Parameters
    ----------
    nuclei : FluorescentNuclei
        What lies in it.
    height_um : float
        How far above the specimen's height that is.
    rim : ndarray, shape (H, W), optional
        Light of a rim.
    rim_um : float
        How far above the specimen that is.
    """

    def __init__(
        self,
        nuclei: FluorescentNuclei,
        height_um: float = 0.0,
        rim: NDArray[np.float32] | None = None,
        rim_um: float = 0.0,
    ) -> None:
        self.nuclei, self.height_um, self.rim_um = nuclei, height_um, rim_um
        self._rim = None if rim is None else np.fft.rfft2(rim)

    def image(self, defocus_um: float) -> NDArray[np.float32]:
        """Return the light in the image plane at some distance from the specimen's height."""
        widefield = self.nuclei.widefield
        light = self.nuclei.image(float(np.clip(defocus_um - self.height_um, -REACH_UM, REACH_UM)))
        if self._rim is None:
            return light
        away_um = float(np.clip(defocus_um - self.rim_um, -REACH_UM, REACH_UM))
        blurred = self._rim * widefield.transfer(np.array([away_um]), light.shape)[0]
        return light + np.maximum(np.fft.irfft2(blurred, light.shape), 0).astype(np.float32)


class Lamp(LightCamera):
    """The light camera under a lamp that flickers, drops, and now and then does not light."""

    def frame(
        self, intensity: NDArray[np.float32], rng: np.random.Generator, exposure: float = 1.0
    ) -> NDArray[np.uint8 | np.uint16]:
        """Return what the camera gives out, by the lamp of this moment."""
        brightness, chance = max(rng.normal(1, FLICKER), 0.0), rng.random()
        if chance < DARK:
            brightness = 0.0
        elif chance < DARK + DIM[0]:
            brightness *= DIM[1]
        return super().frame(intensity, rng, exposure * brightness)


class NightMicroscope(SimulatedFluorescenceMicroscope):
    """The simulated fluorescence microscope over a slide that is clamped, drifts, and has bubbles and holes.

    Parameters
    ----------
    extent_um : float
        Of the part of the slide that is scanned, along each side, about (0, 0).
    seed : int
        Of everything.
    blisters : int
        At how many places the specimen has come off the glass, by 5 to 12 um, within a sharp edge.
    """

    def __init__(
        self, prefix: str = "", *, extent_um: float, seed: int, blisters: int = 0, **options: Any
    ) -> None:
        rng = np.random.default_rng((seed, 7))
        self._times_s = np.arange(0.0, 24 * 3600.0, 20.0)
        drift_um = np.sum([focus_drift(kind, self._times_s, rng)[0] for kind in DRIFT], axis=0)
        self._drift_um = drift_um - drift_um[0]
        area_mm2 = (extent_um * 1e-3) ** 2
        bubbles, holes = (max(round(area_mm2 * each), 1) for each in (BUBBLES_PER_MM2, HOLES_PER_MM2))
        self.bubbles = _discs(rng, bubbles, extent_um, (150.0, 500.0), (8.0, 25.0))
        self.holes = _discs(rng, holes, extent_um, (150.0, 700.0), (8.0, 25.0))
        self.blisters = _discs(rng, blisters, extent_um, (150.0, 500.0), (5.0, 12.0))
        self._shown: OrderedDict[tuple[int, int], Field] = OrderedDict()
        super().__init__(prefix, seed=seed, **options)
        self.camera.dead_s = TILE_S

    def drift_um(self, time_s: float) -> float:
        """Return how far focus has drifted."""
        return float(np.interp(time_s, self._times_s, self._drift_um))

    def height_um(self, x_um: float, y_um: float) -> float:
        """Return where the specimen is in focus at a place, at first."""
        bowl_um = BOWL_UM_PER_CM2 * math.hypot(x_um * 1e-4, y_um * 1e-4) ** 2
        lifted_um = sum(one.height_um for one in self.blisters if one.holds(x_um, y_um))
        return self.slide.height_um(x_um, y_um) - bowl_um + lifted_um

    @property
    def focus_um(self) -> float:
        """The position of z at which the specimen is in focus here, now."""
        return self.height_um(self.x.load_um, self.y.load_um) + self.drift_um(self.clock.now_s())

    def empty(self, x_um: float, y_um: float) -> bool:
        """Return whether there is nothing of the specimen in the field at a place."""
        return self._hole(x_um, y_um) is not None or not self._field(self._index(x_um, y_um)).nuclei.count

    def _hole(self, x_um: float, y_um: float) -> Disc | None:
        return next((one for one in self.holes if one.holds(x_um, y_um)), None)

    def _index(self, x_um: float, y_um: float) -> tuple[int, int]:
        pitch_x_um, pitch_y_um = self.field_um
        return round(y_um / pitch_y_um), round(x_um / pitch_x_um)

    def _field(self, index: tuple[int, int]) -> Any:
        """Return the field of an index (y, x)."""
        if index not in self._shown:
            self._shown[index] = self._made(index)
            if len(self._shown) > KEPT_FIELDS:
                self._shown.popitem(last=False)
        return self._shown[index]

    def _made(self, index: tuple[int, int]) -> Field:
        pitch_x_um, pitch_y_um = self.field_um
        x_um, y_um = index[1] * pitch_x_um, index[0] * pitch_y_um
        hole, seed = self._hole(x_um, y_um), seed_of_field(self.seed, *index)
        density: dict[str, Any] = {}
        rng = np.random.default_rng((9, *seed))
        floats = hole is not None and rng.random() < FLOATERS
        floats_um = float(rng.choice([-1, 1]) * rng.uniform(8, 25)) if floats else 0.0
        if hole is not None:
            density = {"density_per_mm2": (40.0, 120.0) if floats else (0.0, 0.0)}
        nuclei = FluorescentNuclei(seed, self.frame_shape, self.widefield, **density)
        at_x_um = x_um + (np.arange(self.frame_shape[1]) / self.frame_shape[1] - 0.5) * pitch_x_um
        at_y_um = y_um + (np.arange(self.frame_shape[0])[:, None] / self.frame_shape[0] - 0.5) * pitch_y_um
        for bubble in self.bubbles:
            away_um = np.hypot(at_x_um - bubble.x_um, at_y_um - bubble.y_um) - bubble.radius_um
            rim = (RIM * np.exp(-((away_um / RIM_UM) ** 2))).astype(np.float32)
            if rim.max() > RIM / 2:
                return Field(nuclei, rim=rim, rim_um=bubble.height_um)
        return Field(nuclei, height_um=floats_um)


def _discs(
    rng: np.random.Generator,
    number: int,
    extent_um: float,
    radii_um: tuple[float, float],
    heights_um: tuple[float, float],
) -> list[Disc]:
    """Return discs somewhere within, of some radii, at some heights or as far below."""
    discs = []
    for _ in range(number):
        x_um, y_um = rng.uniform(-extent_um / 2, extent_um / 2, 2)
        radius_um, side = rng.uniform(*radii_um), rng.choice([-1, 1])
        discs.append(Disc(float(x_um), float(y_um), radius_um, float(side * rng.uniform(*heights_um))))
    return discs


def night_instrument(
    frame_directory: Path, clock: Clock, *, extent_um: float, seed: int = 0, blisters: int = 0
) -> Instrument:
    """Make the microscope into an instrument of a session."""
    microscope = NightMicroscope(
        name="microscope",
        extent_um=extent_um,
        seed=seed,
        blisters=blisters,
        frame_directory=frame_directory,
        frame_shape=(SIDE_PX, SIDE_PX),
        slide_tilt=(1.0, -0.6),
        unevenness_um=1.0,
        light_camera=Lamp(electrons=900.0, gain=0.5),
        mechanics=AxisMechanics(velocity_um_s=200.0, settle_s=0.05, readback_noise_um=0.01),
        clock=clock,
    )
    microscope.z.set(microscope.focus_um + 12.0).wait()
    return Instrument(
        name="night",
        devices={"microscope": microscope},
        detectors=[microscope],
        axis=microscope.z,
        focus_options={"range_um": 20 * microscope.depth_of_field_um},
        full_scale=microscope.light_camera.full_scale,
    )
