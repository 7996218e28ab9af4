"""A light microscope that is not there: what stands over a slide, and the one with an LED array."""

import copy
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ophyd import Component as Cpt
from ophyd import Device

from bluesky_autofocus.clock import Clock, VirtualClock
from bluesky_autofocus.devices._axis import SimulatedAxis
from bluesky_autofocus.devices._camera import HoldsCamera, SimulatedCamera
from bluesky_autofocus.devices._leds import SimulatedLEDArray
from bluesky_autofocus.devices._signals import ComputedSignal
from bluesky_autofocus.leds import LEDGeometry, Orientation
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.simulation import (
    SPECIMEN_KINDS,
    AbbeImageFormation,
    Aberrations,
    FieldView,
    LightCamera,
    Slide,
    specimen,
)
from bluesky_autofocus.simulation.motion import AxisMechanics

__all__ = ["NOMINAL_EXPOSURE_S", "Objective", "SimulatedMicroscope", "SlideMicroscope"]

NOMINAL_EXPOSURE_S = 0.01
"""Exposure time at which one LED on the axis at full brightness, or a condenser, gives what
`LightCamera.electrons` says."""
_KEPT_FIELDS = 2


class _MadeBy(Cpt):
    """A component whose keyword arguments its device gives when it is made."""

    def create_component(self, instance: Any) -> Any:
        made = copy.copy(self)
        made.kwargs = {**self.kwargs, **instance.component_options[self.attr]}
        return Cpt.create_component(made, instance)


def seed_of_field(seed: int, *index: int) -> tuple[int, ...]:
    """Return the seed of a field of a slide by its index; seeds cannot be negative."""
    return seed, *(2 * i if i >= 0 else -2 * i - 1 for i in index)


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


class SlideMicroscope(HoldsCamera, Device):
    """What all simulated transmitted-light microscopes have: a slide, a stage, an objective and a camera.

    Those that can be used say what light there is, by `illumination`.

    Parameters
    ----------
    kind : str
        What is on the slide, one of `bluesky_autofocus.simulation.SPECIMEN_KINDS`.
    image_formation : AbbeImageFormation
        Optics and size of a frame.
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
    light_camera : LightCamera, optional
        Noise and grey levels.
    mechanics : AxisMechanics, optional
        Of the focus axis. By default it moves at once and exactly.
    clock : Clock
        The session's.
    specimen_options : dict, optional
        Of `bluesky_autofocus.simulation.specimen`.
    component_options : dict, optional
        Keyword arguments of further components, by their names.

    Raises
    ------
    ValueError
        If there is no such kind of specimen, or a number makes no sense.
    """

    z = _MadeBy(SimulatedAxis, kind="hinted")
    x = _MadeBy(SimulatedAxis, kind="normal")
    y = _MadeBy(SimulatedAxis, kind="normal")
    camera = _MadeBy(SimulatedCamera, kind="hinted")
    objective = _MadeBy(Objective, kind="normal")

    def __init__(
        self,
        prefix: str = "",
        *,
        frame_directory: Path | str,
        kind: str,
        image_formation: AbbeImageFormation,
        seed: int,
        slide_tilt: tuple[float, float],
        unevenness_um: float,
        z_um: float,
        limits_um: tuple[float, float],
        stage_um: tuple[float, float],
        light_camera: LightCamera | None,
        mechanics: AxisMechanics | None,
        clock: Clock,
        specimen_options: dict[str, Any] | None = None,
        component_options: dict[str, dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        if kind not in SPECIMEN_KINDS:
            raise ValueError(f"kind is {kind!r}: expected one of {', '.join(SPECIMEN_KINDS)}")
        self.specimen_kind, self.seed = kind, seed  # an ophyd device has a kind of its own
        self.specimen_options = dict(specimen_options or {})
        self.image_formation = image_formation
        self.light_camera = light_camera or LightCamera()
        self.slide = Slide(slide_tilt, unevenness_um, seed)
        self.clock = clock
        self._rng = np.random.default_rng((seed, 1))
        self._fields: OrderedDict[tuple[int, int], FieldView] = OrderedDict()
        self._focus_um: dict[tuple[int, ...], float] = {}
        stage = {"limits": stage_um, "clock": clock, "seed": seed}
        self.component_options: dict[str, dict[str, Any]] = {
            "z": {
                "limits": limits_um,
                "position_um": z_um,
                "mechanics": mechanics,
                "clock": clock,
                "seed": seed,
            },
            "x": stage,
            "y": stage,
            "camera": {
                "render": self._render,
                "frame_directory": frame_directory,
                "frame_shape": image_formation.frame_shape,
                "dtype": self.light_camera.dtype,
                "clock": clock,
            },
            "objective": {"optics": image_formation.optics},
            **(component_options or {}),
        }
        super().__init__(prefix, **kwargs)
        self.camera.exposure_s.put(NOMINAL_EXPOSURE_S)

    @property
    def illumination(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Directions (x, y), shape (n, 2), and light of each, shape (n,), that fall on the specimen now."""
        raise NotImplementedError("a microscope says what light it has")

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
        return self.slide.height_um(x_um, y_um)

    @property
    def focus_um(self) -> float:
        """The position of z at which the specimen is in focus here. No real instrument tells it.

        It is computed when it is first asked for at a place, which takes as long as dozens of frames.
        """
        return self._sample_um + self._focus_in_field_um

    @property
    def _sample_um(self) -> float:
        """How high what is under the objective lies: z there is height 0 of the specimen."""
        return self.slide_um(self.x.load_um, self.y.load_um)

    @property
    def _focus_in_field_um(self) -> float:
        """Height above that at which the specimen is in focus."""
        field, samples = self._place()
        if (*field, *samples) not in self._focus_um:
            self._focus_um[*field, *samples] = self._here().focus_um
        return self._focus_um[*field, *samples]

    @property
    def defocus_um(self) -> float:
        """How far the image plane is above focus."""
        return self.z.load_um - self.focus_um

    @property
    def depth_of_field_um(self) -> float:
        """Range of z in which the specimen is in focus."""
        return self.objective.optics.depth_of_field_um

    def _place(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return which field is under the objective, and how far from its middle, in samples; both (y, x)."""
        formation = self.image_formation
        at_um = (self.y.load_um, self.x.load_um)
        iy, ix = (round(at / pitch) for at, pitch in zip(at_um, formation.extent_um, strict=True))
        row, column = (
            round((at - index * pitch) / pitch * n)
            for at, index, pitch, n in zip(
                at_um, (iy, ix), formation.extent_um, formation.sample_shape, strict=True
            )
        )
        return (iy, ix), (row, column)

    def _moved_um(self) -> tuple[float, float]:
        """Return by how much the specimen of the field is moved in the frame (y, x)."""
        formation = self.image_formation
        y_um, x_um = (
            -samples * extent / n
            for samples, extent, n in zip(
                self._place()[1], formation.extent_um, formation.sample_shape, strict=True
            )
        )
        return y_um, x_um

    def _here(self) -> FieldView:
        """Return the field under the objective."""
        field, moved_um = self._field(self._place()[0]), self._moved_um()
        # the specimen goes on as its own other end, so that this leaves no seam in the frame
        return field.moved(*moved_um) if any(moved_um) else field

    def _field(self, index: tuple[int, int]) -> FieldView:
        """Return the field of an index (y, x), its specimen in the middle."""
        if index not in self._fields:
            iy, ix = index
            seed = seed_of_field(self.seed, ix, iy)
            formation = self.image_formation
            made = specimen(self.specimen_kind, seed, formation, **self.specimen_options)
            self._fields[index] = formation.view(made)
            if len(self._fields) > _KEPT_FIELDS:
                self._fields.popitem(last=False)
        self._fields.move_to_end(index)
        return self._fields[index]

    def _render(self) -> np.ndarray:
        directions, light = self.illumination
        intensity = self._here().intensity(directions, [self.z.load_um - self._sample_um], light)[0]
        return self.light_camera.frame(
            intensity, self._rng, exposure=self.camera.exposure_s.get() / NOMINAL_EXPOSURE_S
        )


class SimulatedMicroscope(SlideMicroscope):
    """A transmitted-light microscope over a slide. As a detector it gives one frame a trigger.

    The slide is covered with fields, one beside the other, each a specimen of its own; the stage shows them.
    Moving by less than a field shifts the frame, and what goes out on one side comes in on the other. The
    slide is neither level nor flat, so that every field has its focus somewhere else.

    Everything that shapes a frame is read into its Event: stage, LED pattern, exposure time and objective.

    Parameters
    ----------
    kind : str
        What is on the slide, one of `bluesky_autofocus.simulation.SPECIMEN_KINDS`.
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

    leds = _MadeBy(SimulatedLEDArray, kind="normal")

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
        optics, clock = optics or LightOptics(), clock or VirtualClock()
        super().__init__(
            prefix,
            frame_directory=frame_directory,
            kind=kind,
            image_formation=AbbeImageFormation(optics, frame_shape, aberrations),
            seed=seed,
            slide_tilt=slide_tilt,
            unevenness_um=unevenness_um,
            z_um=z_um,
            limits_um=limits_um,
            stage_um=stage_um,
            light_camera=light_camera,
            mechanics=mechanics,
            clock=clock,
            component_options={
                "leds": {
                    "geometry": geometry,
                    "numerical_aperture": optics.numerical_aperture,
                    "true_orientation": array_orientation,
                    "orientation": array_orientation if calibrated else None,
                    "calibration_path": calibration_path,
                    "clock": clock,
                }
            },
            **kwargs,
        )

    @property
    def illumination(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Directions (x, y), shape (n, 2), and light of each, shape (n,), of the LEDs that are on."""
        return self.leds.light
