"""A microscope over living cells that is not there: they drift out of focus, and they wander."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ophyd import Component as Cpt
from ophyd import Device

from bluesky_autofocus.clock import Clock, VirtualClock
from bluesky_autofocus.devices._microscope import SlideMicroscope
from bluesky_autofocus.devices._signals import ComputedSignal
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.simulation import AbbeImageFormation, Aberrations, Condenser, LightCamera
from bluesky_autofocus.simulation.motion import AxisMechanics

__all__ = ["SimulatedLiveCellMicroscope"]

OPTICS = LightOptics(
    numerical_aperture=1.3,
    wavelength_um=0.55,
    pixel_size_um=0.108,
    magnification=60.0,
    refractive_index=1.4,
)
_SPHERICAL_WAVES, _OTHER_WAVES = 0.02, 0.01
_SWING_MIN, _SWING = 20.0, 2.0
"""Period of the swing that goes with the drift, and its amplitude in minutes of drift: the rate of the drift
varies by 60 %, as that of a room does whose air is conditioned."""
_STEP_S = 10.0
_STEPS_AT_ONCE = 256


class Truth(Device):
    """What a simulation knows and no instrument: labels for those who collect frames to train with."""

    focus_um = Cpt(ComputedSignal, attribute="parent.focus_um", egu="um", value=0.0, kind="normal")


class SimulatedLiveCellMicroscope(SlideMicroscope):
    """A 60x immersion microscope over living cells. As a detector it gives one frame a trigger.

    Fields, stage and frames are as those of `SimulatedMicroscope`; the light is the bright field of a
    condenser, and there are no LEDs. Cells are in focus where the mid-planes of their nuclei are, on average
    over a field. Where that is at the moment is in every Event, as ``NAME_truth_focus_um``.

    Parameters
    ----------
    kind : str
        What is on the slide, one of `bluesky_autofocus.simulation.SPECIMEN_KINDS`.
    optics : LightOptics, optional
        60x/1.3, index 1.4, 108 nm a pixel by default.
    condenser : Condenser, optional
        Of aperture 0.5, in 12 points, by default. Frames take time in proportion to the points.
    frame_shape : tuple of int
        Rows and columns of a frame.
    seed : int
        Of the slide, the objective's aberrations, the wandering and all noise.
    frame_directory : path
        Where frames are written.
    specimen_options : dict, optional
        Of the kind; see `bluesky_autofocus.simulation.specimen`.
    slide_tilt : tuple of float
        By how much focus rises along x and y, in um per mm.
    unevenness_um : float
        Deviation of the slide from a plane; smooth over about 2 mm.
    drift_um_min : float
        How fast the focus rises, on the clock. A slow swing goes with it.
    wander_um : float
        How far the specimen strays to the sides in a minute: the deviation of a random walk, along x and
        along y, that grows with the square root of time.
    z_um : float
        Where the focus axis stands at first.
    limits_um, stage_um : tuple of float
        Allowed positions of the focus axis and of the stage.
    aberrations : Aberrations, optional
        Of the objective. By default small ones, spherical aberration up to 0.02 waves.
    light_camera : LightCamera, optional
        Noise and grey levels.
    mechanics : AxisMechanics, optional
        Of the focus axis. By default it moves at once and exactly.
    clock : Clock, optional
        The session's.

    Raises
    ------
    ValueError
        If there is no such kind of specimen, or a number makes no sense.
    """

    truth = Cpt(Truth, kind="normal")
    condenser_aperture = Cpt(  # the objective is known by its numerical_aperture
        ComputedSignal, attribute="condenser.numerical_aperture", egu="", value=0.0, kind="normal"
    )

    def __init__(
        self,
        prefix: str = "",
        *,
        frame_directory: Path | str,
        kind: str = "live_cells",
        optics: LightOptics = OPTICS,
        condenser: Condenser = Condenser(),  # noqa: B008 - frozen
        frame_shape: tuple[int, int] = (512, 512),
        seed: int = 0,
        specimen_options: dict[str, Any] | None = None,
        slide_tilt: tuple[float, float] = (0.2, -0.1),
        unevenness_um: float = 0.5,
        drift_um_min: float = 0.0,
        wander_um: float = 0.0,
        z_um: float = 0.0,
        limits_um: tuple[float, float] = (-50.0, 50.0),
        stage_um: tuple[float, float] = (-10_000.0, 10_000.0),
        aberrations: Aberrations | None = None,
        light_camera: LightCamera | None = None,
        mechanics: AxisMechanics | None = None,
        clock: Clock | None = None,
        **kwargs: Any,
    ) -> None:
        if not math.isfinite(drift_um_min):
            raise ValueError(f"drift_um_min is {drift_um_min!r}: expected a finite number")
        if not (math.isfinite(wander_um) and wander_um >= 0):
            raise ValueError(f"wander_um is {wander_um!r}: expected a finite number, zero or more")
        own = np.random.default_rng((seed, 3))
        spherical, coma, astigmatism, self._swing_phase = own.uniform(-1, 1, 4).tolist()
        if aberrations is None:
            aberrations = Aberrations(
                _SPHERICAL_WAVES * spherical, _OTHER_WAVES * coma, _OTHER_WAVES * astigmatism
            )
        self.condenser = condenser
        self.drift_um_min, self.wander_um = drift_um_min, wander_um
        self._steps = np.random.default_rng((seed, 4))
        self._path = np.zeros((1, 2))
        clock = clock or VirtualClock()
        self._start_s = clock.now_s()
        super().__init__(
            prefix,
            frame_directory=frame_directory,
            kind=kind,
            image_formation=AbbeImageFormation(
                optics, frame_shape, aberrations, steepest_na=condenser.numerical_aperture
            ),
            seed=seed,
            slide_tilt=slide_tilt,
            unevenness_um=unevenness_um,
            z_um=z_um,
            limits_um=limits_um,
            stage_um=stage_um,
            light_camera=light_camera,
            mechanics=mechanics,
            clock=clock,
            specimen_options=specimen_options,
            **kwargs,
        )

    @property
    def illumination(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Directions (x, y), shape (n, 2), and light of each, shape (n,), of the condenser."""
        return self.condenser.na_xy, self.condenser.weights

    @property
    def drifted_um(self) -> float:
        """By how much the focus has risen since the microscope was made."""
        minutes = (self.clock.now_s() - self._start_s) / 60
        phase = math.pi * self._swing_phase
        swing = math.sin(2 * math.pi * minutes / _SWING_MIN + phase) - math.sin(phase)
        return self.drift_um_min * (minutes + _SWING * swing)

    @property
    def wandered_um(self) -> tuple[float, float]:
        """How far the specimen has strayed (x, y) since the microscope was made."""
        if self.wander_um == 0:
            return 0.0, 0.0
        at = (self.clock.now_s() - self._start_s) / _STEP_S
        while at > len(self._path) - 1:
            steps = self._steps.standard_normal((_STEPS_AT_ONCE, 2))
            self._path = np.concatenate([self._path, self._path[-1] + np.cumsum(steps, axis=0)])
        scale_um = self.wander_um * math.sqrt(_STEP_S / 60)
        x, y = (float(np.interp(at, np.arange(len(self._path)), one)) for one in self._path.T)
        return scale_um * x, scale_um * y

    @property
    def _sample_um(self) -> float:
        return super()._sample_um + self.drifted_um

    @property
    def _focus_in_field_um(self) -> float:
        # wherever it strays to
        return self._field(self._place()[0]).focus_um

    def _moved_um(self) -> tuple[float, float]:
        y_um, x_um = super()._moved_um()
        by_x, by_y = self.wandered_um
        return y_um + by_y, x_um + by_x
