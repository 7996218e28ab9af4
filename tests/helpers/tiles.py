"""A bench with a stage, over a specimen whose focus is a known function of place and time."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bluesky import plan_stubs as bps
from ophyd import Component as Cpt
from ophyd import Device

from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.devices import SimulatedAxis, SimulatedCamera, SimulatedLEDArray
from bluesky_autofocus.devices._signals import ComputedSignal
from bluesky_autofocus.plans import expose, record_verdict
from bluesky_autofocus.records import Reason, Verdict
from bluesky_autofocus.simulation.motion import AxisMechanics

__all__ = ["START", "TileBench", "dome", "knowing", "knowing_focus"]

SIDE = 64
"""Pixels of a frame along each side."""

START = {"x": 10.0, "y": -20.0, "z": 3.0, "leds": "annulus"}
"""Where everything is before a plan; on a bench that is put there again."""


def dome(x_um: float, y_um: float) -> float:
    """Return the height of a specimen that is tilted and curved: by some ten um over 2 mm."""
    return 4e-3 * x_um - 2e-3 * y_um - 5e-6 * (x_um**2 + y_um**2)


class Truth(Device):
    """Where focus is; a simulation tells it with each frame."""

    focus_um = Cpt(ComputedSignal, attribute="bench.focus_um", egu="um", value=0.0, kind="normal")

    def __init__(self, bench: "TileBench", **kwargs: Any) -> None:
        self.bench = bench
        super().__init__(**kwargs)


class TileBench:
    """Axes x, y and z, a light, and a camera whose contrast falls with the distance from focus.

    Parameters
    ----------
    height : callable
        ``height(x_um, y_um)`` is where the specimen is in focus at first.
    drift : callable
        ``drift(time_s)`` is by how much it has risen since, on the bench's clock.
    lure : callable
        ``lure(x_um, y_um)`` is by how much `knowing_focus` finds something else: dust, or a bubble.
    detail : callable
        ``detail(x_um, y_um)`` is how much there is to be seen: 0 in an empty field.
    noise : float
        Standard deviation of a pixel, as a fraction of its mean.
    """

    depth_of_field_um = 2.0
    blur_px_per_um = 0.4
    """Standard deviation of the Gaussian by which a frame is blurred, for each um from focus."""

    def __init__(
        self,
        frame_directory: Path,
        *,
        height: Callable[[float, float], float] = dome,
        drift: Callable[[float], float] = lambda time_s: 0.0,
        lure: Callable[[float, float], float] = lambda x_um, y_um: 0.0,
        detail: Callable[[float, float], float] = lambda x_um, y_um: 1.0,
        noise: float = 0.005,
        exposure_s: float = 0.01,
    ) -> None:
        self.height, self.drift, self.lure = height, drift, lure
        self.detail, self.noise = detail, noise
        self.clock = VirtualClock()
        self.level = 10_000.0
        """Grey level of the mean; 0 for a lamp that is off."""
        self.rng = np.random.default_rng(5)
        self.frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE))
        white = np.fft.rfft2(np.random.default_rng(3).standard_normal((SIDE, SIDE)))
        # as of natural scenes: as much contrast in each octave
        self.spectrum = 0.1 * white / np.maximum(self.frequency, 1 / SIDE)
        stage = AxisMechanics(velocity_um_s=2000.0)
        self.x, self.y = (
            SimulatedAxis(
                name=name,
                limits=(-5000, 5000),
                position_um=START[name],
                mechanics=stage,
                clock=self.clock,
            )
            for name in "xy"
        )
        self.z = SimulatedAxis(name="z", limits=(-100, 100), position_um=START["z"], clock=self.clock)
        self.leds = SimulatedLEDArray(name="leds")
        self.leds.set(START["leds"]).wait(1)
        self.camera = SimulatedCamera(
            name="camera",
            render=self.frame,
            frame_directory=frame_directory,
            frame_shape=(SIDE, SIDE),
            clock=self.clock,
        )
        self.camera.exposure_s.put(exposure_s)
        self.truth = Truth(self, name="truth")

    @property
    def focus_um(self) -> float:
        return self.height(self.x.position, self.y.position) + self.drift(self.clock.now_s())

    @property
    def detectors(self) -> list[Any]:
        return [self.camera, self.truth]

    @property
    def stage(self) -> list[Any]:
        return [self.x, self.y]

    @property
    def now(self) -> dict[str, Any]:
        return {
            "x": self.x.position,
            "y": self.y.position,
            "z": self.z.position,
            "leds": self.leds.pattern.get(),
        }

    def put_at_start(self) -> None:
        for name in "xyz":
            getattr(self, name).set(START[name]).wait(1)
        self.leds.set(START["leds"]).wait(1)

    def frame(self) -> np.ndarray:
        blur_px = math.hypot(0.8, self.blur_px_per_um * (self.z.load_um - self.focus_um))
        transferred = self.spectrum * np.exp(-2 * (np.pi * blur_px * self.frequency) ** 2)
        detail = self.detail(self.x.position, self.y.position) * np.fft.irfft2(transferred, (SIDE, SIDE))
        noise = self.noise * self.rng.standard_normal((SIDE, SIDE))
        return (self.level * (1 + detail + noise)).clip(0, 65535).astype(np.uint16)

    def errors_dof(self, frames: list[dict]) -> np.ndarray:
        """Return how far from focus these frames were taken, in depths of field, by what was recorded."""
        defocus_um = [data["z"] - data["truth_focus_um"] - data["tile_offset_um"] for data in frames]
        return np.array(defocus_um) / self.depth_of_field_um


def knowing_focus(detectors, axis, *, analysis, travel_um, bounds_um, bench, timeout_s=5.0):
    """Find the focus of a bench by one exposure, unless there is nothing to be seen; a stub."""
    start_um = yield from bps.rd(axis, default_value=0.0)
    focus_um = bench.focus_um + bench.lure(bench.x.position, bench.y.position)
    empty = not bench.detail(bench.x.position, bench.y.position)
    found = not empty and bounds_um[0] <= focus_um <= bounds_um[1]
    if found:
        yield from bps.mv(axis, focus_um)
    yield from expose(detectors, axis, analysis=analysis, stream="focus_knowing", timeout_s=timeout_s)
    verdict = Verdict(
        found=found,
        reason=Reason.FOUND if found else Reason.EMPTY if empty else Reason.EDGE,
        position_um=focus_um if found else math.nan,
        sigma_um=0.1 if found else math.nan,
        start_um=start_um,
        exposures=1,
        dose=0.01,
        method="knowing",
    )
    yield from record_verdict(verdict)
    return verdict


def knowing(bench: TileBench) -> dict[str, Any]:
    """Return the options by which a plan focuses a bench by that stub, registered as ``knowing``."""
    return {"focus": "knowing", "focus_options": {"bench": bench}}
