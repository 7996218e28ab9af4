"""Rigs of small simulated devices, and the plans that are run on them while something breaks."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bluesky.plans as bp
import numpy as np
from bluesky import preprocessors as bpp
from bluesky.utils import MsgGenerator
from numpy.typing import NDArray
from ophyd import Component as Cpt
from ophyd import Device, Signal

from bluesky_autofocus.callbacks import (
    Analysis,
    FocusMapAnalysis,
    FrameCheckAnalysis,
    KeyFrameAnalysis,
    OrientationAnalysis,
    SharpnessAnalysis,
    SingleShotAnalysis,
    TwoExposureAnalysis,
    TwoLEDAnalysis,
)
from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.defocus import DefocusEstimate
from bluesky_autofocus.defocus.orientation import LEDDirection
from bluesky_autofocus.defocus.two_exposure import BeamTransfer, TwoExposureEstimate
from bluesky_autofocus.devices import (
    SimulatedAxis,
    SimulatedCamera,
    SimulatedLEDArray,
    SimulatedRunningAxis,
)
from bluesky_autofocus.devices._smear import TimedCamera
from bluesky_autofocus.leds import Orientation, Single
from bluesky_autofocus.models.key_frame import KeyFrameEstimate, Scan
from bluesky_autofocus.plans import (
    Approach,
    Blurred,
    EveryExposures,
    Uncertain,
    approach_focus,
    autofocus,
    autofocus_wrapper,
    calibrate_leds,
    check_instrument,
    collect_focal_stacks,
    focus_beside,
    focus_if_blurred,
    map_focus,
    scan_in_focus,
    tile_scan,
    time_lapse,
)
from bluesky_autofocus.records import Reading, Reason
from bluesky_autofocus.search import BlurTrigger
from bluesky_autofocus.simulation.motion import AxisMechanics

__all__ = ["PLANS", "SET_WHERE_FOUND", "Rig", "make_rig"]

SIDE = 64
LEVEL = 10_000.0
FOCUS_UM, DOF_UM = 7.3, 2.0
TRAVEL_UM, LIMITS_UM = (-60.0, 70.0), (-100.0, 100.0)
LATE_S = 0.05
"""How long plans wait for a reading."""

LEFT = Single(0.4, 0.0)

SET_WHERE_FOUND = {"two_exposure": {"x": 12.0, "y": -22.0}}
"""Where a plan leaves other axes when it has found the focus: two exposures take them for stigmators."""

UM_PER_UNIT = 0.5
"""Of a stigmator."""


class _Objective(Device):
    numerical_aperture = Cpt(Signal, value=0.5, kind="normal")
    wavelength_um = Cpt(Signal, value=0.53, kind="normal")
    pixel_size_um = Cpt(Signal, value=0.3, kind="normal")
    magnification = Cpt(Signal, value=20.0, kind="normal")
    refractive_index = Cpt(Signal, value=1.0, kind="normal")


class Rig:
    """What a plan is run on, where it stands before, and what judges its frames.

    Attributes
    ----------
    axes : dict
        By name, those that move.
    camera : Camera
    leds : SimulatedLEDArray or None
    analyses : list of Analysis
        To be subscribed.
    start : dict
        Where each axis stands before a plan.
    """

    leds: Any = None
    before = "half_annulus_left"
    camera: Any
    axes: dict[str, Any]
    start: dict[str, float]
    analyses: list[Any]

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock

    def reset(self) -> None:
        """Bring everything to where it stands before a plan."""
        self.clock.advance(10.0)
        for name, axis in self.axes.items():
            axis.set(self.start[name]).wait(5)
        if self.leds is not None:
            self.leds.calibrate(Orientation())
            self.leds.set(self.before).wait(5)

    @property
    def now(self) -> dict[str, Any]:
        """How everything that a plan may change is set, but for the position of the focus axis."""
        settings = {name: axis.position for name, axis in self.axes.items() if name != "z"}
        settings["exposure_s"] = self.camera.exposure_s.get()
        for name, axis in self.axes.items():
            speed = axis.move_velocity if hasattr(axis, "move_velocity") else axis.velocity
            settings[f"{name}_velocity"] = speed.get()
            settings[f"{name}_running"] = bool(getattr(axis, "running", False))
        if self.leds is not None:
            settings["leds"] = tuple(self.leds.lit)
        return settings


class StillRig(Rig):
    """Axes x, y and z, an LED array, and a camera whose frames blur with the distance from focus."""

    def __init__(self, folder: Path) -> None:
        super().__init__(VirtualClock())
        self.start = {"x": 10.0, "y": -20.0, "z": FOCUS_UM - 11.3}
        moves = AxisMechanics(velocity_um_s=500.0, settle_s=0.01)
        self.axes = {
            name: SimulatedAxis(
                name=name,
                limits=LIMITS_UM if name == "z" else (-5000.0, 5000.0),
                position_um=self.start[name],
                mechanics=moves,
                clock=self.clock,
            )
            for name in "xyz"
        }
        self.leds = SimulatedLEDArray(
            name="leds", orientation=Orientation(), calibration_path=folder / "leds.json"
        )
        self.leds.set(self.before).wait(5)
        self.objective = _Objective(name="objective")
        self._rng = np.random.default_rng(5)
        self._frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE))
        white = np.fft.rfft2(np.random.default_rng(3).standard_normal((SIDE, SIDE)))
        self._spectrum = 0.1 * white / np.maximum(self._frequency, 1 / SIDE)
        self.camera = SimulatedCamera(
            name="camera",
            render=self._frame,
            frame_directory=folder,
            frame_shape=(SIDE, SIDE),
            dtype=np.float32,
            clock=self.clock,
        )
        self.detectors = [self.camera, self.objective]
        beside = (4, SIDE, 0, SIDE)
        self.sharpness = SharpnessAnalysis(roi=beside)
        self.map = FocusMapAnalysis(roi=beside, grid=(2, 2))
        self.watch = SharpnessAnalysis("laplacian_ratio", name="watch", roi=beside, octaves=False)
        self.single_shot = SingleShotAnalysis(_Estimator(LEFT))
        self.two_led = TwoLEDAnalysis(_Estimator(LEFT, LEFT.opposite))
        self.key_frame = KeyFrameAnalysis(_Planes())
        self.directions = _Directions(self.leds)
        self.pair = TwoExposureAnalysis(_Pair(), pixel_size_um=0.3)
        self.check = FrameCheckAnalysis()

    def _frame(self) -> NDArray[np.float32]:
        """Return a frame that says in its first pixels where it was taken, and by what light."""
        z_um = self.axes["z"].load_um
        blur_px = math.hypot(0.8, 0.4 * (z_um - FOCUS_UM))
        seen = np.fft.irfft2(self._spectrum * np.exp(-2 * (np.pi * blur_px * self._frequency) ** 2))
        frame = LEVEL * (1 + seen + 0.005 * self._rng.standard_normal((SIDE, SIDE)))
        frame[0, :3] = LEVEL + 20 * z_um, *np.nan_to_num([self.leds.mean_na_x, self.leds.mean_na_y])
        frame[0, 3:5] = [LEVEL + 20 * self.axes[name].load_um for name in "xy"]
        return frame.clip(-10, 65535).astype(np.float32)


class RunningRig(Rig):
    """Three axes that can run, and a camera that sees how far from focus it is."""

    def __init__(self, folder: Path) -> None:
        super().__init__(VirtualClock())
        self.start = {"x": 10.0, "y": -20.0, "z": 45.0}
        fast = AxisMechanics(velocity_um_s=5000.0, acceleration_um_s2=20_000.0, settle_s=0.01)
        slow = AxisMechanics(velocity_um_s=200.0, acceleration_um_s2=5000.0, settle_s=0.01)
        self.axes = {
            name: SimulatedRunningAxis(
                name=name,
                limits=LIMITS_UM if name == "z" else (-5000.0, 5000.0),
                position_um=self.start[name],
                velocity_limit_um_s=223.7 if name == "z" else 2000.0,
                mechanics=slow if name == "z" else fast,
                clock=self.clock,
                watchdog_s=0.5,
            )
            for name in "xyz"
        }
        self.camera = TimedCamera(
            name="camera",
            render_at=lambda time_s: np.full(
                (8, 8), self.axes["z"].load_at_um(time_s) - FOCUS_UM, np.float32
            ),
            frame_directory=folder,
            frame_shape=(8, 8),
            dtype=np.float32,
            clock=self.clock,
        )
        self.camera.transfer_s.put(0.02)
        self.detectors = [self.camera]
        self.eye = _Eye("eye")


# Analyses that read the truth from the frame


class _Estimator:
    range_um, model_hash = 40.0, "0123abcd"

    def __init__(self, *leds: Single) -> None:
        self.leds, self.frames_needed, self.parameters = leds, len(leds), {"kind": "knowing"}

    def check(self, optics: Any, na_xy_list: Any) -> None:
        """Fit any optics."""

    def estimate(self, *frames: NDArray[Any]) -> DefocusEstimate:
        z_um = np.mean([(float(frame[0, 0]) - LEVEL) / 20 for frame in frames])
        return DefocusEstimate(float(z_um) - FOCUS_UM, 0.1)


class _Pair:
    """Reads from two frames where the axis and two stigmators were."""

    model_hash, range_dof, dark_level, astigmatism = "", 20.0, 0.0, True

    def __init__(self) -> None:
        self.parameters = {"kind": "knowing pair"}
        self.transfer = BeamTransfer(10.0)
        self.full_scale: float | None = None

    def estimate(
        self, first: Any, second: Any, *, separation_um: float, pixel_size_um: float
    ) -> TwoExposureEstimate:
        z_um = np.mean([(float(frame[0, 0]) - LEVEL) / 20 for frame in (first, second)])
        best = SET_WHERE_FOUND["two_exposure"]
        x_um, y_um = (
            UM_PER_UNIT * ((float(second[0, 3 + n]) - LEVEL) / 20 - best[name]) for n, name in enumerate("xy")
        )
        defocus_um = float(z_um) - FOCUS_UM
        return TwoExposureEstimate(defocus_um, 0.1, True, Reason.OK, x_um, y_um, 0.05, 0.05, 1.0)


class _Planes:
    model_hash = "89abcdef"

    def __init__(self) -> None:
        self.scans = (Scan("coarse", (0.88, 1.2), 1.0, (3, 5), 1), Scan("fine", (0.22, 0.3), 0.25, (5, 9), 3))
        self.parameters = {"kind": "knowing planes"}

    def check(self, optics: Any) -> None:
        """Fit any optics."""

    def scan_of(self, spacing_um: float, n_planes: int) -> Scan:
        low_um, high_um = self.scans[0].spacing_um
        return self.scans[0] if low_um <= spacing_um <= high_um else self.scans[1]

    def estimate(self, frames: Any, spacing_um: float, *, mask: Any = None) -> KeyFrameEstimate:
        n, first_um = len(frames), (float(frames[0][0, 0]) - LEVEL) / 20
        said, last_um = FOCUS_UM - first_um, (n - 1) * spacing_um
        inside = -spacing_um / 2 <= said <= last_um + spacing_um / 2
        return KeyFrameEstimate(
            focus_um=said if inside else (-spacing_um if said < 0 else last_um + spacing_um),
            sigma_um=0.02,
            plane=int(np.clip(round(said / spacing_um), 0, n - 1)),
            probabilities=(1 / n,) * n,
            outside=(0.0, 0.0),
            cells=1,
            accepted=inside,
            reason=Reason.OK if inside else Reason.EDGE,
        )


class _Directions(OrientationAnalysis):
    """Knows how the array is turned."""

    def __init__(self, leds: Any) -> None:
        super().__init__()
        self._array, self._truth = leds, Orientation(-25.0, True)

    def _line(self, frame: Any, optics: Any) -> Reading:
        return Reading("", 0.0, unit="deg")

    def _direction_of(self, led: Any, low: Any, high: Any, optics: Any, span_um: float) -> Reading:
        x, y = self._truth.matrix @ self._array.geometry.array_na_xy[led]
        self._directions[led] = LEDDirection(x, y, span_um, 1.0, 1.0)
        return Reading("", math.degrees(math.atan2(y, x)), unit="deg")


class _Eye(Analysis):
    unit = "um"

    def analyse_frame(self, frame: NDArray[Any]) -> Reading:
        defocus_um = float(frame[0, 0])
        if abs(defocus_um) > 21.0:
            value = math.copysign(24.0, defocus_um)
            return Reading("", value, math.nan, "um", accepted=False, reason=Reason.OUT_OF_RANGE)
        return Reading("", defocus_um, 0.2, "um")


# Plans


def _named(
    method: str, analysis: str, of_rig: Callable[[Any], dict[str, Any]] = lambda rig: {}, **options: Any
) -> Callable[[Any], MsgGenerator[Any]]:
    def plan(rig: Any) -> MsgGenerator[Any]:
        chosen = {"travel_um": TRAVEL_UM, "timeout_s": LATE_S, **of_rig(rig), **options}
        return autofocus(
            rig.detectors, rig.axes["z"], analysis=getattr(rig, analysis), method=method, **chosen
        )

    return plan


def _wrapped(rig: Any) -> MsgGenerator[Any]:
    x, y = rig.axes["x"], rig.axes["y"]
    return autofocus_wrapper(
        bp.grid_scan(rig.detectors, y, 0.0, 100.0, 2, x, 0.0, 200.0, 3, snake_axes=True),
        "search",
        when=EveryExposures(3) | Blurred(rig.watch) | Uncertain(0.5, DOF_UM),
        detectors=rig.detectors,
        axis=rig.axes["z"],
        analysis=rig.sharpness,
        follow=True,
        clock=rig.clock,
        range_um=40.0,
        depth_of_field_um=DOF_UM,
        travel_um=TRAVEL_UM,
        timeout_s=LATE_S,
    )


def _tiled(rig: Any, **options: Any) -> dict[str, Any]:
    return {
        "analysis": rig.sharpness,
        "stage": (rig.axes["x"], rig.axes["y"]),
        "depth_of_field_um": DOF_UM,
        "travel_um": TRAVEL_UM,
        "range_um": 40.0,
        "watch": rig.watch,
        "light": rig.leds,
        "channels": ["annulus", LEFT],
        "on_failure": ("wider", "surface"),
        "clock": rig.clock,
        "timeout_s": LATE_S,
        **options,
    }


def _tiles(rig: Any) -> MsgGenerator[Any]:
    grid = {"rows": 2, "columns": 3, "pitch_um": 100.0, "survey": 0, "kind": "plane"}
    return tile_scan(rig.detectors, rig.axes["z"], **_tiled(rig, **grid))


def _times(rig: Any) -> MsgGenerator[Any]:
    points = {"positions": [(0.0, 0.0), (300.0, 100.0)], "interval_s": 30.0, "count": 3}
    return time_lapse(rig.detectors, rig.axes["z"], **_tiled(rig, **points))


@bpp.run_decorator()
def _blurred(rig: Any) -> MsgGenerator[Any]:
    trigger = BlurTrigger()
    for _ in range(2):
        yield from focus_if_blurred(
            rig.detectors,
            rig.axes["z"],
            analysis=rig.sharpness,
            trigger=trigger,
            range_um=40.0,
            travel_um=TRAVEL_UM,
            timeout_s=LATE_S,
        )


@bpp.run_decorator()
def _mapped(rig: Any) -> MsgGenerator[Any]:
    yield from map_focus(
        rig.detectors,
        rig.axes["z"],
        analysis=rig.map,
        range_um=24.0,
        budget=9,
        travel_um=TRAVEL_UM,
        timeout_s=LATE_S,
    )


@bpp.run_decorator()
def _beside(rig: Any) -> MsgGenerator[Any]:
    yield from focus_beside(
        rig.detectors,
        rig.axes["z"],
        analysis=rig.sharpness,
        stage=(rig.axes["x"], rig.axes["y"]),
        offset_um=(300.0, 0.0),
        by="search",
        tilt_um_per_mm=(0.0, 0.0),
        tilt_sigma_um_per_mm=0.1,
        shutter=rig.leds,
        range_um=40.0,
        depth_of_field_um=DOF_UM,
        travel_um=TRAVEL_UM,
        timeout_s=LATE_S,
    )


def _lit(rig: Any) -> dict[str, Any]:
    return {"leds": rig.leds}


def _stigmating(rig: Any) -> dict[str, Any]:
    return {"stigmators": (rig.axes["x"], rig.axes["y"]), "um_per_unit": UM_PER_UNIT}


def _collected(rig: Any) -> MsgGenerator[Any]:
    return collect_focal_stacks(
        rig.detectors,
        rig.axes["z"],
        leds=rig.leds,
        stage=(rig.axes["x"], rig.axes["y"]),
        positions=[(0.0, 0.0), (200.0, 0.0)],
        sample="faults",
        patterns=["annulus", LEFT],
        z_um=(-2.0, 2.0),
        step_um=2.0,
        travel_um=TRAVEL_UM,
    )


def _checked(rig: Any) -> MsgGenerator[Any]:
    return check_instrument(
        rig.detectors,
        rig.axes["z"],
        bounds_um=TRAVEL_UM,
        analysis=rig.check,
        leds=rig.leds,
        depth_of_field_um=DOF_UM,
        planes=8,
        watch_s=0.05,
        clock=rig.clock,
        timeout_s=1.0,
    )


def _calibrated(rig: Any) -> MsgGenerator[Any]:
    return calibrate_leds(
        rig.detectors,
        rig.axes["z"],
        leds=rig.leds,
        analysis=rig.directions,
        travel_um=TRAVEL_UM,
        timeout_s=LATE_S,
    )


@bpp.run_decorator()
def _approached(rig: Any) -> MsgGenerator[Any]:
    yield from approach_focus(
        rig.detectors,
        rig.axes["z"],
        analysis=rig.eye,
        default_velocity=223.7,
        class_width_um=6.0,
        travel_um=TRAVEL_UM,
        timeout_s=LATE_S,
    )


def _tracked(rig: Any) -> MsgGenerator[Any]:
    return scan_in_focus(
        rig.detectors,
        rig.axes["z"],
        analysis=rig.eye,
        stage=(rig.axes["x"], rig.axes["y"]),
        x_um=(0.0, 200.0),
        y_um=[0.0, 100.0],
        scan_velocity_um_s=900.0,
        default_velocity=223.7,
        class_width_um=6.0,
        reaction_s=0.1,
        travel_um=TRAVEL_UM,
        timeout_s=LATE_S,
    )


BACKLASH = Approach(overshoot_um=2.0)

PLANS: dict[str, Callable[[Any], MsgGenerator[Any]]] = {
    "search": _named("search", "sharpness", range_um=40.0, depth_of_field_um=DOF_UM, approach=BACKLASH),
    "brent": _named("brent", "sharpness", range_um=40.0, budget=9),
    "sweep": _named("sweep", "sharpness", range_um=40.0, budget=9, approach=BACKLASH),
    "single_shot": _named("single_shot", "single_shot", _lit, depth_of_field_um=DOF_UM),
    "two_led": _named("two_led", "two_led", _lit, depth_of_field_um=DOF_UM),
    "key_frame": _named("key_frame", "key_frame", depth_of_field_um=DOF_UM),
    "coarse_fine": _named("coarse_fine", "key_frame", depth_of_field_um=DOF_UM),
    "two_exposure": _named("two_exposure", "pair", _stigmating, depth_of_field_um=DOF_UM),
    "map_focus": _mapped,
    "focus_if_blurred": _blurred,
    "focus_beside": _beside,
    "autofocus_wrapper": _wrapped,
    "tile_scan": _tiles,
    "time_lapse": _times,
    "calibrate_leds": _calibrated,
    "collect_focal_stacks": _collected,
    "check_instrument": _checked,
    "approach": _approached,
    "scan_in_focus": _tracked,
}
"""By name; each opens a run of its own."""


JUDGES = {
    "single_shot": ("single_shot",),
    "two_led": ("two_led",),
    "key_frame": ("key_frame",),
    "coarse_fine": ("key_frame",),
    "two_exposure": ("pair",),
    "map_focus": ("map",),
    "check_instrument": ("check",),
    "calibrate_leds": ("directions",),
    "approach": ("eye",),
    "scan_in_focus": ("eye",),
    "autofocus_wrapper": ("sharpness", "watch"),
    "tile_scan": ("sharpness", "watch"),
    "time_lapse": ("sharpness", "watch"),
}
"""Which analyses a plan needs; those that are not named need the sharpness."""


def make_rig(plan: str, folder: Path) -> Any:
    """Make what a plan is run on; its frames go to a folder."""
    rig = (RunningRig if plan in ("approach", "scan_in_focus") else StillRig)(folder)
    rig.analyses = [getattr(rig, name) for name in JUDGES.get(plan, ("sharpness",))]
    if plan in ("key_frame", "coarse_fine"):
        # these look near focus, and find it from there alone
        rig.start["z"] = FOCUS_UM + 0.9
    rig.reset()
    return rig
