"""A microscope over stained smears that is not there: in colour, its axes run while frames are taken."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ophyd import Component as Cpt
from ophyd import Device

from bluesky_autofocus.clock import Clock, VirtualClock
from bluesky_autofocus.devices._axis import SimulatedRunningAxis
from bluesky_autofocus.devices._camera import HoldsCamera, SimulatedCamera
from bluesky_autofocus.devices._live_cells import Truth
from bluesky_autofocus.devices._microscope import NOMINAL_EXPOSURE_S, Objective, _MadeBy, seed_of_field
from bluesky_autofocus.devices._signals import BoundedSignal, ComputedSignal
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.simulation import Slide, Smear, SmearCamera, SmearOptics
from bluesky_autofocus.simulation.motion import AxisMechanics

__all__ = ["SimulatedSmearMicroscope"]

_KEPT_FIELDS = 2


class TimedCamera(SimulatedCamera):
    """A camera that sees things as they were in the middle of the exposure, and says when that was.

    Parameters
    ----------
    render_at : callable
        Takes a time of the clock and returns the frame of it.
    """

    transfer_s = Cpt(BoundedSignal, value=0.0, egu="s", limits=(0.0, 60.0), kind="normal")
    time_s = Cpt(ComputedSignal, attribute="middle_s", egu="s", value=0.0, kind="normal")

    def __init__(self, prefix: str = "", *, render_at: Callable[[float], np.ndarray], **kwargs: Any) -> None:
        self.middle_s = 0.0
        super().__init__(prefix, render=lambda: render_at(self.middle_s), **kwargs)

    def expose(self, deliver: Callable[[Callable[[], np.ndarray]], None]) -> None:
        """Let the exposure and the transfer pass, then deliver the frame of the middle of the exposure."""
        exposure_s = self.exposure_s.get()
        self.middle_s = self.clock.now_s() + exposure_s / 2
        self.clock.call_after(exposure_s + self.transfer_s.get(), partial(deliver, self.render))


class SmearTruth(Truth):
    """What a simulation knows of its smear: labels for those who collect frames to train with."""

    defocus_um = Cpt(ComputedSignal, attribute="parent.frame_defocus_um", egu="um", value=0.0, kind="normal")


class SimulatedSmearMicroscope(HoldsCamera, Device):
    """A microscope over a stained smear, in colour. As a detector it gives one RGB frame a trigger.

    The slide is covered with fields, one beside the other, each a smear of its own; the stage shows them.
    Moving by less than a field shifts the frame by whole pixels, and what goes out on one side comes in on
    the other. The slide is neither level nor flat, so that every field has its focus somewhere else.

    Focus axis and stage can run, see `SimulatedRunningAxis`, and frames may be taken meanwhile: a frame is
    that of the middle of its exposure, without motion blur. When that was is in its Event as
    ``NAME_camera_time_s`` on the session's clock, as ``NAME_z_time_s`` is when z was read. How far from focus
    the frame was taken is there as ``NAME_truth_defocus_um``; ``NAME_truth_focus_um`` is where focus is at
    the time of the read.

    Parameters
    ----------
    frame_directory : path
        Where frames are written.
    frame_shape : tuple of int
        Rows and columns of a frame; their shape is (rows, columns, 3), red, green and blue in 8 bits.
    optics : SmearOptics, optional
        20x/0.4 by default, with the aberrations that tell the sign of a defocus.
    pixel_um : float
        Of a frame, in the specimen.
    seed : int
        Of the slide and of all noise.
    smear_options : dict, optional
        Of `bluesky_autofocus.simulation.Smear`: density, stain, dirt and so on.
    slide_tilt : tuple of float
        By how much focus rises along x and y, in um per mm.
    unevenness_um : float
        Deviation of the slide from a plane; smooth over about 2 mm.
    z_um : float
        Where the focus axis stands at first.
    limits_um, stage_um : tuple of float
        Allowed positions of the focus axis and of the stage.
    velocity_limit_um_s, stage_velocity_limit_um_s : float
        Highest speeds at which the focus axis and the stage run.
    watchdog_s : float, optional
        After how long without a command a run of the focus axis ends; by default never.
    smear_camera : SmearCamera, optional
        Noise and white balance. Its exposure 1 is an exposure time of 0.01 s.
    transfer_s : float
        Time from the end of an exposure until the frame is there.
    mechanics, stage_mechanics : AxisMechanics, optional
        Of the focus axis and of the stage. By default they move at once and exactly.
    clock : Clock, optional
        The session's.

    Raises
    ------
    ValueError
        If a number makes no sense.
    """

    z = _MadeBy(SimulatedRunningAxis, kind="hinted")
    x = _MadeBy(SimulatedRunningAxis, kind="normal")
    y = _MadeBy(SimulatedRunningAxis, kind="normal")
    camera = _MadeBy(TimedCamera, kind="hinted")
    objective = _MadeBy(Objective, kind="normal")
    truth = Cpt(SmearTruth, kind="normal")

    def __init__(
        self,
        prefix: str = "",
        *,
        frame_directory: Path | str,
        frame_shape: tuple[int, int] = (1536, 2048),
        optics: SmearOptics | None = None,
        pixel_um: float = 0.33,
        seed: int = 0,
        smear_options: dict[str, Any] | None = None,
        slide_tilt: tuple[float, float] = (1.0, -0.5),
        unevenness_um: float = 1.0,
        z_um: float = 0.0,
        limits_um: tuple[float, float] = (-100.0, 100.0),
        stage_um: tuple[float, float] = (-10_000.0, 10_000.0),
        velocity_limit_um_s: float = 223.7,
        stage_velocity_limit_um_s: float = 2000.0,
        watchdog_s: float | None = None,
        smear_camera: SmearCamera | None = None,
        transfer_s: float = 0.0,
        mechanics: AxisMechanics | None = None,
        stage_mechanics: AxisMechanics | None = None,
        clock: Clock | None = None,
        **kwargs: Any,
    ) -> None:
        self.seed, self.pixel_um = seed, pixel_um
        self.frame_shape = (int(frame_shape[0]), int(frame_shape[1]))
        self.smear_optics = optics or SmearOptics()
        self.smear_camera = smear_camera or SmearCamera()
        self.slide = Slide(slide_tilt, unevenness_um, seed)
        self.clock: Clock = clock or VirtualClock()
        # the slide's tilt is seen within a field too
        height_um, width_um = (n * pixel_um for n in self.frame_shape)
        self.smear_options: dict[str, Any] = {
            "tilt_um": (1e-3 * slide_tilt[1] * height_um, 1e-3 * slide_tilt[0] * width_um),
            **(smear_options or {}),
        }
        self._rng = np.random.default_rng((seed, 1))
        self._fields: OrderedDict[tuple[int, int], Smear] = OrderedDict()
        self._frame_defocus_um: float | None = None
        stage = {
            "limits": stage_um,
            "velocity_limit_um_s": stage_velocity_limit_um_s,
            "mechanics": stage_mechanics,
            "clock": self.clock,
            "seed": seed,
        }
        self.component_options: dict[str, dict[str, Any]] = {
            "z": {
                "limits": limits_um,
                "position_um": z_um,
                "velocity_limit_um_s": velocity_limit_um_s,
                "watchdog_s": watchdog_s,
                "mechanics": mechanics,
                "clock": self.clock,
                "seed": seed,
            },
            "x": stage,
            "y": stage,
            "camera": {
                "render_at": self._render_at,
                "frame_directory": frame_directory,
                "frame_shape": (*self.frame_shape, 3),
                "dtype": np.uint8,
                "clock": self.clock,
            },
            "objective": {
                "optics": LightOptics(
                    numerical_aperture=self.smear_optics.numerical_aperture,
                    wavelength_um=self.smear_optics.wavelengths_um[1],
                    pixel_size_um=pixel_um,
                    magnification=self.smear_optics.magnification,
                )
            },
        }
        # the size of the fields, and what makes no smear is refused here
        self._pitch_um = self._field((0, 0)).extent_um
        super().__init__(prefix, **kwargs)
        self.camera.exposure_s.put(NOMINAL_EXPOSURE_S)
        self.camera.transfer_s.put(transfer_s)

    def reseed(self, seed: int | tuple[int, ...]) -> None:
        """Begin the camera's noise anew."""
        self._rng = np.random.default_rng(seed)

    # The slide

    @property
    def field_um(self) -> tuple[float, float]:
        """Distance of the fields on the slide along x and y."""
        return self._pitch_um[1], self._pitch_um[0]

    def slide_um(self, x_um: float, y_um: float) -> float:
        """Return the height of the slide at a place."""
        return self.slide.height_um(x_um, y_um)

    @property
    def focus_um(self) -> float:
        """The position of z at which green is in focus here, on average. No real instrument tells it."""
        return self._focus_at_um(self.clock.now_s())

    @property
    def defocus_um(self) -> float:
        """How far the image plane is above focus now."""
        return self.z.load_um - self.focus_um

    @property
    def frame_defocus_um(self) -> float:
        """How far it was when the newest frame was taken; how far it is now if none has been."""
        return self.defocus_um if self._frame_defocus_um is None else self._frame_defocus_um

    @property
    def depth_of_field_um(self) -> float:
        """Range of z in which the specimen is in focus."""
        return self.objective.optics.depth_of_field_um

    def _place(self, time_s: float) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return which field was under the objective, and by how many pixels it was moved; both (y, x)."""
        at_um = (self.y.load_at_um(time_s), self.x.load_at_um(time_s))
        iy, ix = (round(at / pitch) for at, pitch in zip(at_um, self._pitch_um, strict=True))
        row, column = (
            round((index * pitch - at) / self.pixel_um)
            for at, index, pitch in zip(at_um, (iy, ix), self._pitch_um, strict=True)
        )
        return (iy, ix), (row, column)

    def _slide_at_um(self, time_s: float) -> float:
        return self.slide.height_um(self.x.load_at_um(time_s), self.y.load_at_um(time_s))

    def _focus_at_um(self, time_s: float) -> float:
        field, moved_px = self._place(time_s)
        return self._slide_at_um(time_s) + self._field(field).focus_at_um(moved_px)

    def _field(self, index: tuple[int, int]) -> Smear:
        """Return the field of an index (y, x)."""
        if index not in self._fields:
            iy, ix = index
            seed = seed_of_field(self.seed, ix, iy)
            self._fields[index] = Smear(
                seed, self.frame_shape, self.pixel_um, optics=self.smear_optics, **self.smear_options
            )
            if len(self._fields) > _KEPT_FIELDS:
                self._fields.popitem(last=False)
        self._fields.move_to_end(index)
        return self._fields[index]

    def _render_at(self, time_s: float) -> np.ndarray:
        field, moved_px = self._place(time_s)
        z_um = self.z.load_at_um(time_s)
        light = self._field(field).image_at(z_um - self._slide_at_um(time_s), moved_px)
        self._frame_defocus_um = z_um - self._focus_at_um(time_s)
        exposure = self.camera.exposure_s.get() / NOMINAL_EXPOSURE_S
        return self.smear_camera.frame(light, self._rng, exposure)
