"""The instruments that a session can start with, by name."""

import dataclasses
import importlib
import inspect
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bluesky_autofocus.clock import Clock

__all__ = ["INSTRUMENTS", "Instrument", "MissingExtraError", "make_instrument", "shipped"]

logger = logging.getLogger(__name__)


class MissingExtraError(ImportError):
    """A back end needs a package that is not installed; it says what to type."""


@dataclasses.dataclass(frozen=True)
class Instrument:
    """Devices, and what focuses them.

    Parameters
    ----------
    name : str
        As in ``bluesky-autofocus shell NAME``.
    devices : dict
        By the names that users see.
    detectors : sequence of Readable
        What a focusing plan exposes.
    axis : FocusAxis
        What it moves.
    focus_options : dict
        Sensible options of `autofocus` for this instrument.
    method : str
        What it is focused by unless told otherwise.
    analyses : dict
        What judges the frames of a method or plan, by its name. Other methods go by sharpness.
    method_options : dict
        Sensible options of a method, by its name, in place of `focus_options`.
    full_scale : float, optional
        Grey level at which its camera saturates, where that is not the largest of its type.
    closing : tuple of callable, optional
        What `close` calls, without arguments, once the devices are destroyed.
    """

    name: str
    devices: dict[str, Any]
    detectors: Sequence[Any]
    axis: Any
    focus_options: dict[str, Any]
    method: str = "search"
    analyses: dict[str, Any] = dataclasses.field(default_factory=dict)
    method_options: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    full_scale: float | None = None
    closing: tuple[Callable[[], None], ...] = ()

    def close(self) -> None:
        """Let go of all that was connected: destroy the devices, then call what is `closing`.

        What fails is logged, and keeps nothing else open.
        """
        whole = _wholes((*self.devices.values(), *self.detectors, self.axis))
        # those of ophyd-async hold nothing that is to be destroyed
        destroying = (device.destroy for device in whole if hasattr(device, "destroy"))
        for undo in (*destroying, *self.closing):
            try:
                undo()
            except Exception:
                logger.exception("%s: not all of it could be closed", self.name)


def _wholes(devices: Iterable[Any]) -> list[Any]:
    """Return what these are or are parts of, each once."""
    found: dict[int, Any] = {}
    for device in devices:
        whole = getattr(device, "root", device)
        found[id(whole)] = whole
    return list(found.values())


def simulated_sem(
    frame_directory: Path,
    clock: Clock,
    *,
    scene: str = "grains",
    image: str | Path | None = None,
    seed: int = 0,
    dwell_us: float = 1.0,
    defocus_um: float = 60.0,
    drift_um_s: float = 0.0,
    astigmatism_um: tuple[float, float] = (0.0, 0.0),
) -> Instrument:
    """Make a simulated SEM that stands badly out of focus.

    It is focused by sharpness; `two_exposure` does without a search, and sets its stigmators too.

    Parameters
    ----------
    frame_directory : path
        Where frames go.
    clock : Clock
        Moves, exposures and drift take time on it.
    scene : str
        What the specimen looks like, one of `bluesky_autofocus.simulation.KINDS`.
    image : path, optional
        A micrograph of your own as the specimen.
    seed : int
        Of the scene and of all noise.
    dwell_us : float
        Dwell time a pixel.
    defocus_um : float
        How far the working distance stands from focus at first.
    drift_um_s : float
        How fast the focus drifts.
    astigmatism_um : tuple of float
        Of the column, which its stigmators can cancel: distances between the line foci, along 0/90 and along
        45/135 degrees.
    """
    from bluesky_autofocus.callbacks import TwoExposureAnalysis
    from bluesky_autofocus.defocus.two_exposure import BeamTransfer, TwoExposureEstimator
    from bluesky_autofocus.devices import SimulatedSEM
    from bluesky_autofocus.simulation import SEMImageFormation, SEMOptics, scene_from_image
    from bluesky_autofocus.simulation import scene as make_scene
    from bluesky_autofocus.simulation.motion import AxisMechanics

    specimen = make_scene(scene, seed=seed) if image is None else scene_from_image(image)
    optics = SEMOptics(residual_astigmatism_um=(float(astigmatism_um[0]), float(astigmatism_um[1])))
    focus_um = 10_000.0
    sem = SimulatedSEM(
        name="sem",
        image_formation=SEMImageFormation(specimen, optics, seed=seed),
        frame_directory=frame_directory,
        focus_um=focus_um,
        working_distance_um=focus_um + defocus_um,
        drift_um_s=drift_um_s,
        mechanics=AxisMechanics(velocity_um_s=200.0, settle_s=0.1, readback_noise_um=0.01),
        clock=clock,
        seed=seed,
    )
    sem.dwell_time.put(dwell_us)
    dof_um = sem.depth_of_field_um
    estimator = TwoExposureEstimator(
        BeamTransfer(optics.convergence_mrad),
        # from where it stands at first
        range_dof=14.0,
        dark_level=optics.offset * (2**optics.bits - 1),
    )
    return Instrument(
        name="sem",
        devices={"sem": sem},
        detectors=[sem],
        axis=sem.working_distance,
        focus_options={"range_um": 40 * dof_um, "depth_of_field_um": dof_um},
        analyses={"two_exposure": TwoExposureAnalysis(estimator)},
        method_options={
            "two_exposure": {
                "depth_of_field_um": dof_um,
                "stigmators": (sem.stigmator_x, sem.stigmator_y),
                "um_per_unit": optics.astigmatism_um_per_unit,
            }
        },
    )


def replay(
    frame_directory: Path,
    clock: Clock,
    *,
    stack: str | Path,
    step_um: float | None = None,
    channel: int | None = None,
    start_um: float | None = None,
) -> Instrument:
    """Make a recorded focus stack into an instrument.

    Parameters
    ----------
    frame_directory : path
        Where frames go.
    clock : Clock
        The session's.
    stack : path
        A TIFF, or a folder of images; see `bluesky_autofocus.stacks.read_stack`.
    step_um : float, optional
        Distance between planes where the stack does not say.
    channel : int, optional
        Which channel of a multi-channel stack.
    start_um : float, optional
        Where the axis stands at first.
    """
    from bluesky_autofocus.devices import replayed_instrument
    from bluesky_autofocus.stacks import read_stack

    recorded = read_stack(stack, step_um=step_um, channel=channel)
    camera, z = replayed_instrument(recorded, frame_directory, position_um=start_um, clock=clock)
    return Instrument(
        name="replay",
        devices={"camera": camera, "z": z},
        detectors=[camera],
        axis=z,
        focus_options={"bounds_um": list(z.limits)},
    )


def simulated_microscope(
    frame_directory: Path,
    clock: Clock,
    *,
    kind: str = "cells",
    seed: int = 0,
    frame_px: int = 2048,
    z_um: float = 15.0,
    rotation_deg: float | None = None,
) -> Instrument:
    """Make a simulated microscope with an LED array that stands out of focus.

    It is focused by `single_shot` where weights for it are at hand, else by `two_led`, which needs none.

    Parameters
    ----------
    frame_directory : path
        Where frames go.
    clock : Clock
        Moves and exposures take time on it.
    kind : str
        What is on the slide, one of `bluesky_autofocus.simulation.SPECIMEN_KINDS`.
    seed : int
        Of the slide and of all noise.
    frame_px : int
        Rows and columns of a frame.
    z_um : float
        Where the focus axis stands at first; focus is within some um of 0.
    rotation_deg : float, optional
        By how much the LED array is turned, which nothing knows until the plan `calibrate_leds` has found
        out. Then methods want an analysis for an LED that there is (`Session.use`, `LEDArray.nearest`). By
        default it is not turned, and that is known.
    """
    from bluesky_autofocus.callbacks import OrientationAnalysis, SingleShotAnalysis, TwoLEDAnalysis
    from bluesky_autofocus.defocus import TwoLEDFilter
    from bluesky_autofocus.devices import SimulatedMicroscope
    from bluesky_autofocus.leds import Orientation
    from bluesky_autofocus.models.single_shot import SingleShotModel
    from bluesky_autofocus.simulation.motion import AxisMechanics

    microscope = SimulatedMicroscope(
        name="microscope",
        kind=kind,
        frame_shape=(frame_px, frame_px),
        frame_directory=frame_directory,
        seed=seed,
        z_um=z_um,
        array_orientation=Orientation(rotation_deg or 0.0),
        calibrated=rotation_deg is None,
        mechanics=AxisMechanics(velocity_um_s=200.0, settle_s=0.05, readback_noise_um=0.01),
        clock=clock,
    )
    two_led = TwoLEDAnalysis(TwoLEDFilter(microscope.objective.optics))
    microscope.leds.set(two_led.leds[0])  # the first exposure that anyone takes is not to be black
    analyses: dict[str, Any] = {"two_led": two_led, "calibrate_leds": OrientationAnalysis()}
    model = shipped(SingleShotModel.load)
    if model is not None:
        analyses["single_shot"] = SingleShotAnalysis(model)
    dof_um = microscope.depth_of_field_um
    by_light = {"leds": microscope.leds, "depth_of_field_um": dof_um}
    return Instrument(
        name="microscope",
        devices={"microscope": microscope, "leds": microscope.leds},
        detectors=[microscope],
        axis=microscope.z,
        focus_options={"range_um": 20 * dof_um, "depth_of_field_um": dof_um},
        method="two_led" if model is None else "single_shot",
        analyses=analyses,
        method_options={method: by_light for method in ("two_led", "single_shot") if method in analyses},
        full_scale=microscope.light_camera.full_scale,
    )


def simulated_live_cells(
    frame_directory: Path,
    clock: Clock,
    *,
    seed: int = 0,
    frame_px: int = 512,
    defocus_um: float = 1.2,
    drift_um_min: float = 0.0,
    wander_um: float = 0.0,
) -> Instrument:
    """Make a simulated 60x microscope over living cells that stands a little out of focus.

    It is focused by `coarse_fine` where weights for it are at hand.

    Parameters
    ----------
    frame_directory : path
        Where frames go.
    clock : Clock
        Moves, exposures, drift and wandering take time on it.
    seed : int
        Of the slide and of all noise.
    frame_px : int
        Rows and columns of a frame.
    defocus_um : float
        How far above focus the axis stands at first.
    drift_um_min : float
        How fast the focus drifts.
    wander_um : float
        How far the specimen strays to the sides in a minute.
    """
    from bluesky_autofocus.callbacks import KeyFrameAnalysis
    from bluesky_autofocus.devices import SimulatedLiveCellMicroscope
    from bluesky_autofocus.models.key_frame import KeyFrameModel
    from bluesky_autofocus.simulation.motion import AxisMechanics

    microscope = SimulatedLiveCellMicroscope(
        name="microscope",
        frame_shape=(frame_px, frame_px),
        frame_directory=frame_directory,
        seed=seed,
        drift_um_min=drift_um_min,
        wander_um=wander_um,
        mechanics=AxisMechanics(velocity_um_s=20.0, settle_s=0.02, readback_noise_um=0.005),
        clock=clock,
    )
    microscope.z.set(microscope.focus_um + defocus_um).wait()
    dof_um = microscope.depth_of_field_um
    model = shipped(KeyFrameModel.load)
    analyses: dict[str, Any] = {}
    if model is not None:
        both = KeyFrameAnalysis(model)
        analyses = {"coarse_fine": both, "key_frame": both}
    return Instrument(
        name="cells",
        devices={"microscope": microscope},
        detectors=[microscope],
        axis=microscope.z,
        focus_options={"range_um": 10 * dof_um, "depth_of_field_um": dof_um},
        method="coarse_fine" if analyses else "search",
        analyses=analyses,
        method_options={method: {"depth_of_field_um": dof_um} for method in analyses},
        full_scale=microscope.light_camera.full_scale,
    )


def simulated_smear(
    frame_directory: Path,
    clock: Clock,
    *,
    seed: int = 0,
    frame_px: int = 900,
    defocus_um: float = 40.0,
    transfer_s: float = 0.015,
) -> Instrument:
    """Make a simulated microscope over a stained smear, in colour, whose focus axis runs at a velocity.

    It is focused by `approach` where weights for it are at hand.

    Parameters
    ----------
    frame_directory : path
        Where frames go.
    clock : Clock
        Motion and exposures take time on it.
    seed : int
        Of the slide and of all noise.
    frame_px : int
        Rows and columns of a frame.
    defocus_um : float
        How far above focus the axis stands at first.
    transfer_s : float
        Time from the end of an exposure until the frame is there.
    """
    from bluesky_autofocus.callbacks import FocusClassAnalysis
    from bluesky_autofocus.devices import SimulatedSmearMicroscope
    from bluesky_autofocus.models.hh_net import HHNetModel
    from bluesky_autofocus.simulation import CLASS_WIDTH_UM
    from bluesky_autofocus.simulation.motion import AxisMechanics

    microscope = SimulatedSmearMicroscope(
        name="microscope",
        frame_directory=frame_directory,
        frame_shape=(frame_px, frame_px),
        seed=seed,
        transfer_s=transfer_s,
        watchdog_s=1.0,
        mechanics=AxisMechanics(
            velocity_um_s=200.0, settle_s=0.02, readback_noise_um=0.02, acceleration_um_s2=5000.0
        ),
        clock=clock,
    )
    microscope.z.set(microscope.focus_um + defocus_um).wait()
    dof_um = microscope.objective.optics.depth_of_field_um
    model = shipped(HHNetModel.load)
    analyses = {} if model is None else {"approach": FocusClassAnalysis(model)}
    low_um, high_um = microscope.z.limits
    by_velocity = {
        "default_velocity": microscope.z.velocity_limit_um_s,
        "class_width_um": CLASS_WIDTH_UM,
        # where each frame is placed when it was taken, more than the article's 0.2 does not overshoot
        "gain": 0.5,
        "travel_um": (low_um, high_um),
        "depth_of_field_um": dof_um,
    }
    return Instrument(
        name="smear",
        devices={"microscope": microscope},
        detectors=[microscope],
        axis=microscope.z,
        focus_options={"range_um": 20 * dof_um, "depth_of_field_um": dof_um},
        method="approach" if analyses else "search",
        analyses=analyses,
        method_options=dict.fromkeys(analyses, by_velocity),
    )


def simulated_nuclei(
    frame_directory: Path,
    clock: Clock,
    *,
    seed: int = 0,
    frame_px: int = 512,
    defocus_um: float = 22.0,
) -> Instrument:
    """Make a simulated fluorescence microscope over stained nuclei that stands out of focus.

    It is focused by sharpness, or near focus by `two_exposure`; what was taken out of focus can be refocused
    (`Session.refocus`).

    Parameters
    ----------
    frame_directory : path
        Where frames go.
    clock : Clock
        Moves and exposures take time on it.
    seed : int
        Of the slide and of all noise.
    frame_px : int
        Rows and columns of a frame.
    defocus_um : float
        How far above focus the axis stands at first.
    """
    from bluesky_autofocus.callbacks import TwoExposureAnalysis
    from bluesky_autofocus.defocus.two_exposure import LightTransfer, TwoExposureEstimator
    from bluesky_autofocus.devices import SimulatedFluorescenceMicroscope
    from bluesky_autofocus.simulation.motion import AxisMechanics

    microscope = SimulatedFluorescenceMicroscope(
        name="microscope",
        frame_directory=frame_directory,
        frame_shape=(frame_px, frame_px),
        seed=seed,
        mechanics=AxisMechanics(velocity_um_s=200.0, settle_s=0.05, readback_noise_um=0.01),
        clock=clock,
    )
    microscope.z.set(microscope.focus_um + defocus_um).wait()
    dof_um = microscope.depth_of_field_um
    camera, widefield = microscope.light_camera, microscope.widefield
    estimator = TwoExposureEstimator(
        LightTransfer(widefield.optics, widefield.spherical_waves),
        # nuclei lie at heights that differ by 0.8 um
        specimen_sigma_um=0.3,
        unexplained=0.05,
        dark_level=camera.offset,
        full_scale=camera.full_scale,
    )
    return Instrument(
        name="nuclei",
        devices={"microscope": microscope},
        detectors=[microscope],
        axis=microscope.z,
        focus_options={"range_um": 20 * dof_um, "depth_of_field_um": dof_um},
        analyses={"two_exposure": TwoExposureAnalysis(estimator)},
        method_options={"two_exposure": {"depth_of_field_um": dof_um}},
        full_scale=camera.full_scale,
    )


def shipped(load: Callable[[], Any]) -> Any:
    """Return the model whose weights come with the package, or None where they did not come."""
    from bluesky_autofocus.models.card import ModelFileError

    try:
        return load()
    except ModelFileError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise  # damaged ones are nothing to be silent about


@dataclasses.dataclass(frozen=True)
class _BackEnd:
    """A module of `bluesky_autofocus.backends`, imported when an instrument is made.

    Parameters
    ----------
    module : str
        Its name there.
    extra : str, optional
        Of this package, that brings what it needs.
    """

    module: str
    extra: str | None = None

    def __call__(self, frame_directory: Path, clock: Clock, **options: Any) -> Instrument:
        try:
            make = importlib.import_module(f"bluesky_autofocus.backends.{self.module}").instrument
            return _made(make, self.module, frame_directory, clock, options)
        except ModuleNotFoundError as error:
            missing = error.name or ""
            if self.extra is None or missing.split(".")[0] == "bluesky_autofocus":
                raise
            raise MissingExtraError(
                f"{self.module} needs {missing}: pip install 'bluesky-autofocus[{self.extra}]'", name=missing
            ) from error


INSTRUMENTS: dict[str, Callable[..., Instrument]] = {
    "epics": _BackEnd("epics", "epics"),
    "epics_sem": _BackEnd("epics_sem", "epics"),
    "fibsem": _BackEnd("sem", "sem"),
    "illuminate": _BackEnd("illuminate", "led"),
    "micromanager": _BackEnd("micromanager", "micromanager"),
    "sem": simulated_sem,
    "replay": replay,
    "microscope": simulated_microscope,
    "cells": simulated_live_cells,
    "smear": simulated_smear,
    "nuclei": simulated_nuclei,
}


def make_instrument(name: str, frame_directory: Path, clock: Clock, **options: Any) -> Instrument:
    """Make an instrument by name.

    Raises
    ------
    ValueError
        If there is none of that name, or it has no such option, naming those there are; or it lacks one.
    MissingExtraError
        If it needs a package that is not installed.
    """
    if name not in INSTRUMENTS:
        raise ValueError(f"unknown instrument {name!r}; there are {', '.join(sorted(INSTRUMENTS))}")
    return _made(INSTRUMENTS[name], name, frame_directory, clock, options)


def _made(
    make: Callable[..., Instrument], name: str, frame_directory: Path, clock: Clock, options: dict[str, Any]
) -> Instrument:
    signature = inspect.signature(make)
    try:
        signature.bind(frame_directory, clock, **options)
    except TypeError as error:
        known = [one.name for one in signature.parameters.values() if one.kind is one.KEYWORD_ONLY]
        raise ValueError(f"instrument {name!r}: {error}; its options are {', '.join(known)}") from error
    return make(frame_directory, clock, **options)
