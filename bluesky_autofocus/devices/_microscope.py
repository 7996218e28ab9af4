"""A light microscope with an LED array that is not there."""

import copy
import dataclasses
import math
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ophyd import Component as Cpt
from ophyd import Device
from ophyd.status import DeviceStatus

from bluesky_autofocus.clock import Clock, VirtualClock
from bluesky_autofocus.devices._axis import SimulatedAxis
from bluesky_autofocus.devices._camera import SimulatedCamera
from bluesky_autofocus.devices._leds import SimulatedLEDArray
from bluesky_autofocus.devices._signals import ComputedSignal
from bluesky_autofocus.frames import FrameWriter
from bluesky_autofocus.leds import LEDGeometry, Orientation
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.simulation import (
    SPECIMEN_KINDS,
    AbbeImageFormation,
    Aberrations,
    FieldView,
    LightCamera,
    Specimen,
    specimen,
)
from bluesky_autofocus.simulation.motion import AxisMechanics

__all__ = ["Objective", "SimulatedMicroscope"]

NOMINAL_EXPOSURE_S = 0.01
"""Exposure time at which one LED on the axis at full brightness gives what `LightCamera.electrons` says."""
_KEPT_FIELDS = 2
_WAVES = 4


class _MadeBy(Cpt):
    """A component whose keyword arguments its device gives when it is made."""

    def create_component(self, instance: Any) -> Any:
        made = copy.copy(self)
        made.kwargs = {**self.kwargs, **instance.component_options[self.attr]}
        return Cpt.create_component(made, instance)


class Objective(Device):
    """What images depend on, in every Event: a turret may change it.

    Parameters
    ----------
    optics : LightOptics
        Objective, wavelength and pixel size.
    """

    numerical_aperture = Cpt(ComputedSignal, attribute="optics.numerical_aperture", egu="", value=0.0)
    wavelength_um = Cpt(ComputedSignal, attribute="optics.wavelength_um", egu="um", value=0.0)
    pixel_size_um = Cpt(ComputedSignal, attribute="optics.pixel_size_um", egu="um", value=0.0)
    magnification = Cpt(ComputedSignal, attribute="optics.magnification", egu="", value=0.0)
    refractive_index = Cpt(ComputedSignal, attribute="optics.refractive_index", egu="", value=0.0)

    def __init__(self, prefix: str = "", *, optics: LightOptics, **kwargs: Any) -> None:
        self.optics = optics
        super().__init__(prefix, **kwargs)


class SimulatedMicroscope(Device):
    """A transmitted-light microscope over a slide. As a detector it gives one frame a trigger.

    The slide is covered with fields, one beside the other, each a specimen of its own; the stage shows them.
    Moving by less than a field shifts the frame, and what goes out on one side comes in on the other. The
    slide is neither level nor flat, so that every field has its focus somewhere else.

    Everything that shapes a frame is read into its Event: stage, LED pattern, exposure time and objective.

    Parameters
    ----------
    kind : str
        What is on the slide: "cells", "tissue" or "empty".
    optics : LightOptics, optional
        20x/0.5 by default.
    frame_shape : tuple of int
        Rows and columns of a frame.
    seed : int
        Of the slide and of all noise.
    frame_directory : path
        Where frames are written.
    slide_tilt : tuple of float
        By how much focus rises along x and y, in um per mm.
    unevenness_um : float
        Deviation of the slide from a plane; smooth over about 2 mm.
    z_um : float
        Where the focus axis stands at first.
    limits_um, stage_um : tuple of float
        Allowed positions of the focus axis and of the stage.
    aberrations : Aberrations, optional
        Of the objective.
    light_camera : LightCamera, optional
        Noise and grey levels.
    geometry : LEDGeometry, optional
        Of the LED array.
    array_orientation : Orientation
        How the LED array really lies with respect to the frame.
    calibrated : bool
        Whether the LED array knows that from the start.
    calibration_path : path, optional
        Where the LED array keeps its calibration; what is found there counts.
    mechanics : AxisMechanics, optional
        Of the focus axis. By default it moves at once and exactly.
    clock : Clock, optional
        The session's.

    Raises
    ------
    ValueError
        If there is no such kind of specimen, or a number makes no sense.
    """

    z = _MadeBy(SimulatedAxis, kind="hinted")
    x = _MadeBy(SimulatedAxis, kind="normal")
    y = _MadeBy(SimulatedAxis, kind="normal")
    leds = _MadeBy(SimulatedLEDArray, kind="normal")
    camera = _MadeBy(SimulatedCamera, kind="hinted")
    objective = _MadeBy(Objective, kind="normal")

    def __init__(
        self,
        prefix: str = "",
        *,
        frame_directory: Path | str,
        kind: str = "cells",
        optics: LightOptics | None = None,
        frame_shape: tuple[int, int] = (2048, 2048),
        seed: int = 0,
        slide_tilt: tuple[float, float] = (1.0, -0.5),
        unevenness_um: float = 1.0,
        z_um: float = 0.0,
        limits_um: tuple[float, float] = (-200.0, 200.0),
        stage_um: tuple[float, float] = (-10_000.0, 10_000.0),
        aberrations: Aberrations | None = None,
        light_camera: LightCamera | None = None,
        geometry: LEDGeometry | None = None,
        array_orientation: Orientation = Orientation(),  # noqa: B008 - frozen
        calibrated: bool = True,
        calibration_path: Path | str | None = None,
        mechanics: AxisMechanics | None = None,
        clock: Clock | None = None,
        **kwargs: Any,
    ) -> None:
        if kind not in SPECIMEN_KINDS:
            raise ValueError(f"kind is {kind!r}: expected one of {', '.join(SPECIMEN_KINDS)}")
        for name, value in (("slide_tilt", slide_tilt), ("unevenness_um", (unevenness_um,))):
            if not all(map(math.isfinite, value)):
                raise ValueError(f"{name} is {value!r}: expected finite numbers")
        optics = optics or LightOptics()
        self.specimen_kind, self.seed = kind, seed  # an ophyd device has a kind of its own
        self.image_formation = AbbeImageFormation(optics, frame_shape, aberrations)
        self.light_camera = light_camera or LightCamera()
        self.slide_tilt = slide_tilt
        self.unevenness_um = unevenness_um
        self.clock: Clock = clock or VirtualClock()
        self._rng = np.random.default_rng((seed, 1))
        slide = np.random.default_rng((seed, 2))
        angles, phases = slide.uniform(0, 2 * np.pi, (2, _WAVES))
        # cycles per um of some waves whose sum is the unevenness of the slide
        self._waves = np.stack([np.cos(angles), np.sin(angles)]) * slide.uniform(2e-4, 5e-4, _WAVES)
        self._phases = phases
        self._specimen: tuple[tuple[int, int], Specimen] | None = None
        self._views: OrderedDict[tuple[int, ...], FieldView] = OrderedDict()
        stage = {"limits": stage_um, "clock": self.clock, "seed": seed}
        self.component_options: dict[str, dict[str, Any]] = {
            "z": {
                "limits": limits_um,
                "position_um": z_um,
                "mechanics": mechanics,
                "clock": self.clock,
                "seed": seed,
            },
            "x": stage,
            "y": stage,
            "leds": {
                "geometry": geometry,
                "numerical_aperture": optics.numerical_aperture,
                "true_orientation": array_orientation,
                "orientation": array_orientation if calibrated else None,
                "calibration_path": calibration_path,
                "clock": self.clock,
            },
            "camera": {
                "render": self._render,
                "frame_directory": frame_directory,
                "frame_shape": self.image_formation.frame_shape,
                "dtype": self.light_camera.dtype,
                "clock": self.clock,
            },
            "objective": {"optics": optics},
        }
        super().__init__(prefix, **kwargs)
        self.camera.exposure_s.put(NOMINAL_EXPOSURE_S)

    def reseed(self, seed: int | tuple[int, ...]) -> None:
        """Begin the camera's noise anew."""
        self._rng = np.random.default_rng(seed)

    # The slide

    @property
    def field_um(self) -> tuple[float, float]:
        """Distance of the fields on the slide along x and y; the frame shows a little less."""
        height_um, width_um = self.image_formation.extent_um
        return width_um, height_um

    def slide_um(self, x_um: float, y_um: float) -> float:
        """Return the height of the slide at a place."""
        waves = np.sin(2 * np.pi * (x_um * self._waves[0] + y_um * self._waves[1]) + self._phases)
        tilt = 1e-3 * (self.slide_tilt[0] * x_um + self.slide_tilt[1] * y_um)
        return tilt + self.unevenness_um * math.sqrt(2 / _WAVES) * float(waves.sum())

    @property
    def focus_um(self) -> float:
        """The position of z at which the specimen is in focus here. No real instrument tells it.

        It is computed when it is first asked for at a place, which takes as long as dozens of frames.
        """
        return self.slide_um(self.x.load_um, self.y.load_um) + self._here().focus_um

    @property
    def defocus_um(self) -> float:
        """How far the image plane is above focus."""
        return self.z.load_um - self.focus_um

    @property
    def depth_of_field_um(self) -> float:
        """Range of z in which the specimen is in focus."""
        return self.objective.optics.depth_of_field_um

    def _here(self) -> FieldView:
        """Return the field under the objective."""
        formation = self.image_formation
        at_um, pitch_um = (self.y.load_um, self.x.load_um), formation.extent_um
        field = [round(at / pitch) for at, pitch in zip(at_um, pitch_um, strict=True)]
        steps = (pitch / n for pitch, n in zip(pitch_um, formation.sample_shape, strict=True))
        # the specimen goes on as its own other end, so its shift leaves no seam in the frame
        shift = [
            round((at - index * pitch) / step)
            for at, index, pitch, step in zip(at_um, field, pitch_um, steps, strict=True)
        ]
        key = (*field, *shift)
        if key not in self._views:
            whole = self._specimen_of(field[1], field[0])
            moved = np.roll(whole.slices, [-s for s in shift], axis=(1, 2)) if any(shift) else whole.slices
            self._views[key] = formation.view(dataclasses.replace(whole, slices=moved))
            if len(self._views) > _KEPT_FIELDS:
                self._views.popitem(last=False)
        self._views.move_to_end(key)
        return self._views[key]

    def _specimen_of(self, ix: int, iy: int) -> Specimen:
        if self._specimen is None or self._specimen[0] != (ix, iy):
            # seeds cannot be negative
            seed = (self.seed, *(2 * index if index >= 0 else -2 * index - 1 for index in (ix, iy)))
            self._specimen = (ix, iy), specimen(self.specimen_kind, seed, self.image_formation)
        return self._specimen[1]

    def _render(self) -> np.ndarray:
        view = self._here()
        height_um = self.z.load_um - self.slide_um(self.x.load_um, self.y.load_um)
        directions, light = self.leds.light
        intensity = view.intensity(directions, [height_um], light)[0]
        return self.light_camera.frame(
            intensity, self._rng, exposure=self.camera.exposure_s.get() / NOMINAL_EXPOSURE_S
        )

    # A detector

    @property
    def frame_writer(self) -> FrameWriter:
        """Where its frames are written."""
        return self.camera.frame_writer

    def trigger(self) -> DeviceStatus:
        """Take one frame."""
        return self.camera.trigger()

    def collect_asset_docs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Write the newest frame and yield the documents that announce it."""
        yield from self.camera.collect_asset_docs()
