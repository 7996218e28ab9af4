"""A fluorescence microscope over stained nuclei that is not there."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from ophyd import Component as Cpt
from ophyd import Device

from bluesky_autofocus.clock import Clock, VirtualClock
from bluesky_autofocus.devices._axis import SimulatedAxis
from bluesky_autofocus.devices._camera import HoldsCamera, SimulatedCamera
from bluesky_autofocus.devices._live_cells import Truth
from bluesky_autofocus.devices._microscope import NOMINAL_EXPOSURE_S, Objective, _MadeBy, seed_of_field
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.simulation import HOECHST_20X, FluorescentNuclei, LightCamera, Slide
from bluesky_autofocus.simulation.motion import AxisMechanics
from bluesky_autofocus.widefield import Widefield

__all__ = ["SimulatedFluorescenceMicroscope"]

_REACH_UM = 60.0
_KEPT_FIELDS = 2


class SimulatedFluorescenceMicroscope(HoldsCamera, Device):
    """A 20x microscope over fluorescent nuclei. As a detector it gives one grey frame a trigger.

    The slide is covered with fields, one beside the other; the stage shows them. Moving by less than a field
    shifts the frame by whole pixels, and what goes out on one side comes in on the other. The slide is
    neither level nor flat. Where focus is at the moment is in every Event, as ``NAME_truth_focus_um``.

    Parameters
    ----------
    frame_directory : path
        Where frames are written.
    frame_shape : tuple of int
        Rows and columns of a frame.
    optics : LightOptics, optional
        20x/0.45 and 0.656 um a pixel by default, about as BBBC006.
    spherical_waves : float
        Spherical aberration of the objective, in waves RMS: planes above and below focus look different.
    seed : int
        Of the slide and of all noise.
    slide_tilt : tuple of float
        By how much focus rises along x and y, in um per mm.
    unevenness_um : float
        Deviation of the slide from a plane; smooth over about 2 mm.
    z_um : float
        Where the focus axis stands at first.
    limits_um, stage_um : tuple of float
        Allowed positions of the focus axis and of the stage. Beyond 60 um from focus nothing changes.
    light_camera : LightCamera, optional
        Noise and grey levels. Its exposure 1 is an exposure time of 0.01 s.
    mechanics : AxisMechanics, optional
        Of the focus axis. By default it moves at once and exactly.
    clock : Clock, optional
        The session's.
    nuclei_options : dict, optional
        Of `bluesky_autofocus.simulation.FluorescentNuclei`.

    Raises
    ------
    ValueError
        If a number makes no sense.
    """

    z = _MadeBy(SimulatedAxis, kind="hinted")
    x = _MadeBy(SimulatedAxis, kind="normal")
    y = _MadeBy(SimulatedAxis, kind="normal")
    camera = _MadeBy(SimulatedCamera, kind="hinted")
    objective = _MadeBy(Objective, kind="normal")
    truth = Cpt(Truth, kind="normal")

    def __init__(
        self,
        prefix: str = "",
        *,
        frame_directory: Path | str,
        frame_shape: tuple[int, int] = (520, 696),
        optics: LightOptics = HOECHST_20X,
        spherical_waves: float = 0.085,
        seed: int = 0,
        slide_tilt: tuple[float, float] = (2.0, -1.0),
        unevenness_um: float = 2.0,
        z_um: float = 0.0,
        limits_um: tuple[float, float] = (-100.0, 100.0),
        stage_um: tuple[float, float] = (-10_000.0, 10_000.0),
        light_camera: LightCamera | None = None,
        mechanics: AxisMechanics | None = None,
        clock: Clock | None = None,
        nuclei_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.seed, self.nuclei_options = seed, dict(nuclei_options or {})
        self.frame_shape = (int(frame_shape[0]), int(frame_shape[1]))
        self.widefield = Widefield(optics, spherical_waves, reach_um=_REACH_UM)
        self.slide = Slide(slide_tilt, unevenness_um, seed)
        self.light_camera = light_camera or LightCamera(electrons=900.0, gain=0.5, dust_per_mpx=0.0)
        self.clock: Clock = clock or VirtualClock()
        self._rng = np.random.default_rng((seed, 1))
        self._fields: OrderedDict[tuple[int, int], FluorescentNuclei] = OrderedDict()
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
            "camera": {
                "render": self._render,
                "frame_directory": frame_directory,
                "frame_shape": self.frame_shape,
                "dtype": self.light_camera.dtype,
                "clock": self.clock,
            },
            "objective": {"optics": optics},
        }
        self._field((0, 0))  # what makes no field is refused here
        super().__init__(prefix, **kwargs)
        self.camera.exposure_s.put(NOMINAL_EXPOSURE_S)

    # The slide

    @property
    def field_um(self) -> tuple[float, float]:
        """Distance of the fields on the slide along x and y."""
        pixel_um = self.widefield.optics.pixel_size_um
        return self.frame_shape[1] * pixel_um, self.frame_shape[0] * pixel_um

    @property
    def focus_um(self) -> float:
        """The position of z at which the nuclei are in focus here. No real instrument tells it."""
        return self.slide.height_um(self.x.load_um, self.y.load_um)

    @property
    def defocus_um(self) -> float:
        """How far the image plane is above focus now."""
        return self.z.load_um - self.focus_um

    @property
    def depth_of_field_um(self) -> float:
        """Range of z in which the specimen is in focus."""
        return self.widefield.optics.depth_of_field_um

    def _field(self, index: tuple[int, int]) -> FluorescentNuclei:
        """Return the field of an index (y, x)."""
        if index not in self._fields:
            seed = seed_of_field(self.seed, *index)
            self._fields[index] = FluorescentNuclei(
                seed, self.frame_shape, self.widefield, **self.nuclei_options
            )
            if len(self._fields) > _KEPT_FIELDS:
                self._fields.popitem(last=False)
        self._fields.move_to_end(index)
        return self._fields[index]

    def _render(self) -> np.ndarray:
        at_um, pitch_um = (self.y.load_um, self.x.load_um), self.field_um[::-1]
        index = tuple(round(at / pitch) for at, pitch in zip(at_um, pitch_um, strict=True))
        moved_px = [
            round((i * pitch - at) / self.widefield.optics.pixel_size_um)
            for at, i, pitch in zip(at_um, index, pitch_um, strict=True)
        ]
        z_um = float(np.clip(self.defocus_um, 5 - _REACH_UM, _REACH_UM - 5))
        light = np.roll(self._field((index[0], index[1])).image(z_um), moved_px, (0, 1))
        exposure = self.camera.exposure_s.get() / NOMINAL_EXPOSURE_S
        return self.light_camera.frame(light, self._rng, exposure)
