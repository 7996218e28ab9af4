"""A scanning electron microscope that is not there."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ophyd import Component as Cpt
from ophyd import Device
from ophyd.status import DeviceStatus
from ophyd.utils import LimitError

from bluesky_autofocus.averaging import average_frames
from bluesky_autofocus.clock import Clock, VirtualClock
from bluesky_autofocus.devices._axis import SimulatedAxis
from bluesky_autofocus.devices._camera import SimulatedCamera
from bluesky_autofocus.devices._signals import BoundedSignal, ComputedSignal
from bluesky_autofocus.frames import FrameWriter
from bluesky_autofocus.simulation import SEMImageFormation
from bluesky_autofocus.simulation.motion import AxisMechanics

__all__ = ["SimulatedSEM"]

FRAME_OVERHEAD_S = 0.1
"""Time per frame beside the dwell: scan setup and transfer, while the beam is blanked."""


class _MadeBy(Cpt):
    """A component whose keyword arguments its device gives when it is made."""

    def create_component(self, instance: Any) -> Any:
        made = copy.copy(self)
        made.kwargs = {**self.kwargs, **instance.component_options[self.attr]}
        return Cpt.create_component(made, instance)


class _WholeNumber(BoundedSignal):
    """A number of things, or 1 and 0 for on and off."""

    def check_value(self, value: float, **kwargs: Any) -> None:
        """Refuse a value beyond the limits, and parts of one."""
        super().check_value(value, **kwargs)
        if value != int(value):
            raise LimitError(f"{self.name}: {value!r} is no whole number")

    def put(self, value: float, **kwargs: Any) -> None:
        """Set the value after checking it; it is a whole number in the documents too."""
        self.check_value(value)
        super(BoundedSignal, self).put(int(value), **kwargs)


class SimulatedSEM(Device):
    """A SEM whose working distance focuses it. As a detector it gives one frame a trigger.

    Everything that shapes a frame is a signal and is read into its Event: working distance,
    magnification, stigmators, dwell time, and of how many scans it is the average; so are the size of a pixel
    and the convergence of the beam. The exposure time is that of the beam on the field, for all of them.

    What drifts sideways while a scan goes on is drawn askew. Scans that are averaged are registered before,
    if `drift_correction` is set.

    Parameters
    ----------
    image_formation : SEMImageFormation
        The specimen and the electron optics.
    frame_directory : path
        Where frames are written.
    focus_um : float
        Working distance at which the specimen is in focus, at first.
    working_distance_um : float
        Where the working distance stands at first.
    limits_um : tuple of float
        Allowed working distances; the lower one is the safe floor below which the lens may touch the
        specimen.
    drift_um_s : float
        How fast `focus_um` drifts upwards.
    drift_px_s : float
        How fast the image drifts to the right.
    mechanics : AxisMechanics, optional
        Of the working distance. By default it changes at once and exactly.
    clock : Clock, optional
        The session's.
    seed : int
        Of the noise of the detector and of the readback.
    """

    working_distance = _MadeBy(SimulatedAxis, kind="hinted")
    magnification = Cpt(BoundedSignal, value=5000.0, egu="x", limits=(100.0, 500_000.0), kind="normal")
    stigmator_x = Cpt(BoundedSignal, value=0.0, egu="unit", limits=(-100.0, 100.0), kind="normal")
    stigmator_y = Cpt(BoundedSignal, value=0.0, egu="unit", limits=(-100.0, 100.0), kind="normal")
    dwell_time = Cpt(BoundedSignal, value=1.0, egu="us", limits=(0.001, 1000.0), kind="normal")
    averaged_frames = Cpt(_WholeNumber, value=1, egu="frames", limits=(1, 256), kind="normal")
    drift_correction = Cpt(_WholeNumber, value=1, egu="", limits=(0, 1), kind="normal")
    pixel_size_um = Cpt(ComputedSignal, attribute="_pixel_um", egu="um", value=0.0, kind="normal")
    convergence_mrad = Cpt(
        ComputedSignal,
        attribute="image_formation.optics.convergence_mrad",
        egu="mrad",
        value=0.0,
        kind="normal",
    )
    camera = _MadeBy(SimulatedCamera, kind="hinted")

    def __init__(
        self,
        prefix: str = "",
        *,
        image_formation: SEMImageFormation,
        frame_directory: Path | str,
        focus_um: float = 10_000.0,
        working_distance_um: float | None = None,
        limits_um: tuple[float, float] = (4_000.0, 30_000.0),
        drift_um_s: float = 0.0,
        drift_px_s: float = 0.0,
        mechanics: AxisMechanics | None = None,
        clock: Clock | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        self.image_formation = image_formation
        self.focus_at_start_um = focus_um
        self.drift_um_s = drift_um_s
        self.drift_px_s = drift_px_s
        self.clock: Clock = clock or VirtualClock()
        self._rng = np.random.default_rng(seed)
        self.component_options = {
            "working_distance": {
                "limits": limits_um,
                "position_um": focus_um if working_distance_um is None else working_distance_um,
                "mechanics": mechanics,
                "clock": self.clock,
                "seed": seed,
            },
            "camera": {
                "render": self._render,
                "frame_directory": frame_directory,
                "frame_shape": image_formation.frame_shape,
                "dtype": np.uint8 if image_formation.optics.bits <= 8 else np.uint16,
                "clock": self.clock,
            },
        }
        super().__init__(prefix, **kwargs)
        for signal in (self.dwell_time, self.averaged_frames):
            signal.subscribe(self._timing_changed, run=False)
        self._timing_changed()

    @property
    def _scan_s(self) -> float:
        """Time of the beam on the field for one scan of it."""
        return 1e-6 * self.dwell_time.get() * float(np.prod(self.image_formation.frame_shape))

    def _timing_changed(self, **kwargs: Any) -> None:
        scans = int(self.averaged_frames.get())
        self.camera.exposure_s.put(scans * self._scan_s)
        self.camera.dead_s = scans * FRAME_OVERHEAD_S

    def reseed(self, seed: int | tuple[int, ...]) -> None:
        """Begin the detector's noise anew."""
        self._rng = np.random.default_rng(seed)

    @property
    def focus_um(self) -> float:
        """The working distance at which the specimen is in focus now. No real instrument tells it."""
        return self.focus_at_start_um + self.drift_um_s * self.clock.now_s()

    @property
    def _pixel_um(self) -> float:
        return self.image_formation.pixel_size_um(self.magnification.get())

    @property
    def depth_of_field_um(self) -> float:
        """Range of working distance in which the blur stays within one pixel, at this magnification."""
        return self.image_formation.depth_of_field_um(self.magnification.get())

    def _render(self) -> np.ndarray:
        scans = int(self.averaged_frames.get())
        frame_s = self._scan_s + FRAME_OVERHEAD_S
        ends_s = [self.clock.now_s() - frame_s * later for later in reversed(range(scans))]
        if scans == 1:
            return self._scan(*ends_s)
        averaged = average_frames(
            [self._scan(end_s) for end_s in ends_s], register=bool(self.drift_correction.get())
        )
        white = 2**self.image_formation.optics.bits - 1
        return np.clip(np.rint(averaged.frame), 0, white).astype(self.camera.dtype)

    def _scan(self, end_s: float) -> np.ndarray:
        """Return the frame of a scan that ended at a time of the clock."""
        return self.image_formation.image(
            self.working_distance.load_um - self.focus_um,
            magnification=self.magnification.get(),
            stigmator_x=self.stigmator_x.get(),
            stigmator_y=self.stigmator_y.get(),
            dwell_us=self.dwell_time.get(),
            offset_px=(0.0, self.drift_px_s * (end_s - self._scan_s)),
            skew_px=self.drift_px_s * self._scan_s,
            rng=self._rng,
        )

    @property
    def frame_writer(self) -> FrameWriter:
        """Where its frames are written."""
        return self.camera.frame_writer

    @property
    def frame_directory(self) -> Path:
        """The folder that its frames go to."""
        return self.frame_writer.directory

    def trigger(self) -> DeviceStatus:
        """Scan one frame."""
        return self.camera.trigger()

    def collect_asset_docs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Write the newest frame and yield the documents that announce it."""
        yield from self.camera.collect_asset_docs()
