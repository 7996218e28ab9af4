"""Simulated instruments as control systems see them: settings that are put, and a frame that is got.

No ophyd, no clock: what serves them (a soft IOC, a Micro-Manager core, the firmware of an LED array) brings
its own idea of time and of moving.
"""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.leds import LEDGeometry, quasi_dome
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.simulation.fluorescence import FluorescentNuclei
from bluesky_autofocus.simulation.light import AbbeImageFormation, FieldView, LightCamera, specimen
from bluesky_autofocus.simulation.scenes import scene as make_scene
from bluesky_autofocus.simulation.sem import SEMImageFormation, SEMOptics
from bluesky_autofocus.widefield import Widefield

__all__ = ["ServedMicroscope", "ServedSEM"]

_NOMINAL_EXPOSURE_S = 0.01
_REACH_UM = 60.0


class ServedMicroscope:
    """A microscope over stained cells: an LED array below, a lamp above that makes the nuclei fluoresce.

    While the lamp is on frames show the nuclei, else the cells in the light of the LEDs. Frames are made when
    they are asked for, from any thread, one after the other.

    Parameters
    ----------
    frame_shape : tuple of int
        Rows and columns of a frame.
    optics : LightOptics, optional
        20x/0.5 by default.
    geometry : LEDGeometry, optional
        Of the LED array; a quasi-dome by default.
    focus_um : float
        Height at which the nuclei are in focus; the cells within some um of it, see `focus_of_cells_um`.
    z_um : float
        Where the stage stands at first.
    seed : int
        Of the specimen and of the noise.

    Attributes
    ----------
    z_um, x_um, y_um : float
        Where the stages stand. Moving along x and y shifts the frame, whose other end comes in.
    exposure_s : float
        Exposure time.
    lamp : bool
        Whether the lamp is on.
    lit : tuple of int
        Numbers of the LEDs that are on.
    brightness : float
        Of the LEDs, from 0 to 1.

    Raises
    ------
    ValueError
        If a number makes no sense.
    """

    def __init__(
        self,
        frame_shape: tuple[int, int] = (512, 512),
        *,
        optics: LightOptics | None = None,
        geometry: LEDGeometry | None = None,
        focus_um: float = 0.0,
        z_um: float = 12.0,
        seed: int = 0,
    ) -> None:
        self.optics, self.geometry = optics or LightOptics(), geometry or quasi_dome()
        self.frame_shape = (int(frame_shape[0]), int(frame_shape[1]))
        self.focus_um, self.seed = focus_um, seed
        self.z_um, self.x_um, self.y_um = float(z_um), 0.0, 0.0
        self.exposure_s = _NOMINAL_EXPOSURE_S
        self.lamp, self.lit, self.brightness = True, (), 1.0
        self.light_camera = LightCamera()
        self._fluorescence_camera = LightCamera(electrons=900.0, gain=0.5, dust_per_mpx=0.0)
        self._rng = np.random.default_rng((seed, 1))
        self._lock = threading.Lock()
        widefield = Widefield(self.optics, 0.085, reach_um=_REACH_UM)
        self._nuclei = FluorescentNuclei(seed, self.frame_shape, widefield, density_per_mm2=(400.0, 800.0))
        self._made_cells: FieldView | None = None

    @property
    def depth_of_field_um(self) -> float:
        """Range of z in which the specimen is in focus."""
        return self.optics.depth_of_field_um

    @property
    def focus_of_cells_um(self) -> float:
        """Height at which the cells are in focus. It takes as long as dozens of frames the first time."""
        with self._lock:
            return self.focus_um + self._cells.focus_um

    @property
    def dtype(self) -> Any:
        """Type of the frames."""
        return self.light_camera.dtype

    @property
    def full_scale(self) -> float:
        """Grey level at which frames saturate."""
        return self.light_camera.full_scale

    def light(self, leds: Sequence[int], brightness: float = 1.0) -> None:
        """Switch these LEDs on, all others off.

        Raises
        ------
        ValueError
            If there is no such LED, or the brightness is not from 0 to 1.
        """
        lit = tuple(sorted({int(led) for led in leds}))
        if lit and not 0 <= lit[0] <= lit[-1] < len(self.geometry.na_xy):
            raise ValueError(f"LEDs {lit} asked for: there are {len(self.geometry.na_xy)}, from 0")
        if not 0 <= brightness <= 1:
            raise ValueError(f"brightness is {brightness!r}: expected from 0 to 1")
        self.lit, self.brightness = lit, float(brightness)

    def frame(self) -> NDArray[Any]:
        """Return the frame of this moment, shape `frame_shape`."""
        exposure = self.exposure_s / _NOMINAL_EXPOSURE_S
        with self._lock:
            if self.lamp:
                reach_um = _REACH_UM - 5
                defocus_um = float(np.clip(self.z_um - self.focus_um, -reach_um, reach_um))
                camera, intensity = self._fluorescence_camera, self._nuclei.image(defocus_um)
            else:
                lit = list(self.lit)
                camera, light = self.light_camera, self.geometry.irradiance[lit] * self.brightness
                intensity = np.zeros(self.frame_shape, np.float32)
                if light.sum() > 0:
                    heights_um = [self.z_um - self.focus_um]
                    intensity = self._cells.intensity(self.geometry.na_xy[lit], heights_um, light)[0]
            moved_px = [-round(at_um / self.optics.pixel_size_um) for at_um in (self.y_um, self.x_um)]
            return camera.frame(np.roll(intensity, moved_px, (0, 1)), self._rng, exposure)

    @property
    def _cells(self) -> FieldView:
        if self._made_cells is None:
            formation = AbbeImageFormation(self.optics, self.frame_shape)
            self._made_cells = formation.view(specimen("cells", self.seed, formation))
        return self._made_cells


class ServedSEM:
    """A scanning electron microscope. Frames are made when they are asked for, from any thread.

    Parameters
    ----------
    frame_shape : tuple of int
        Rows and columns of a frame.
    optics : SEMOptics, optional
        The column and the detector.
    scene : str
        What the specimen looks like, one of `bluesky_autofocus.simulation.KINDS`.
    focus_um : float
        Working distance at which it is in focus.
    working_distance_um : float
        Where the working distance stands at first.
    seed : int
        Of the scene and of the noise.

    Attributes
    ----------
    working_distance_um, stigmator_x, stigmator_y, magnification, dwell_us : float
        Settings; stigmators in the units of `optics`.
    """

    def __init__(
        self,
        frame_shape: tuple[int, int] = (512, 512),
        *,
        optics: SEMOptics | None = None,
        scene: str = "grains",
        focus_um: float = 10_000.0,
        working_distance_um: float = 10_060.0,
        seed: int = 0,
    ) -> None:
        self.optics, self.focus_um = optics or SEMOptics(), focus_um
        self.frame_shape = (int(frame_shape[0]), int(frame_shape[1]))
        self.working_distance_um = float(working_distance_um)
        self.stigmator_x = self.stigmator_y = 0.0
        self.magnification, self.dwell_us = 5000.0, 1.0
        self._formation = SEMImageFormation(
            make_scene(scene, seed=seed), self.optics, frame_shape=self.frame_shape, seed=seed
        )
        self._lock = threading.Lock()

    @property
    def depth_of_field_um(self) -> float:
        """Range of working distance in which the blur stays within one pixel."""
        return self._formation.depth_of_field_um(self.magnification)

    @property
    def pixel_size_um(self) -> float:
        """Side of a pixel on the specimen."""
        return self._formation.pixel_size_um(self.magnification)

    @property
    def exposure_s(self) -> float:
        """Time of the beam on the field for one frame."""
        return 1e-6 * self.dwell_us * self.frame_shape[0] * self.frame_shape[1]

    @property
    def dtype(self) -> Any:
        """Type of the frames."""
        return np.uint8 if self.optics.bits <= 8 else np.uint16

    @property
    def full_scale(self) -> float:
        """Grey level at which frames saturate."""
        return 2.0**self.optics.bits - 1

    def frame(self) -> NDArray[Any]:
        """Return a frame, shape `frame_shape`."""
        with self._lock:
            return self._formation.image(
                self.working_distance_um - self.focus_um,
                magnification=self.magnification,
                stigmator_x=self.stigmator_x,
                stigmator_y=self.stigmator_y,
                dwell_us=self.dwell_us,
            )
