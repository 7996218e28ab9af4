"""Instruments behind EPICS IOCs, over Channel Access: options name PVs, and say what PVs do not tell."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bluesky_autofocus.clock import Clock
from bluesky_autofocus.instruments import Instrument, shipped

__all__ = ["instrument"]

CONNECTION_S = 10.0
"""Longest wait for the PVs of an instrument: those of a slow network are found within some seconds."""


def instrument(
    frame_directory: Path,
    clock: Clock,
    *,
    camera: str,
    motor: str | None = None,
    positioner: str | None = None,
    setpoint: str = ":Position",
    readback: str = ":Readback",
    stop: str | None = ":Stop",
    unit: str | None = None,
    limits_um: Sequence[float] | None = None,
    tolerance_um: float = 0.5,
    arrival_s: float = 0.5,
    timeout: float = 60.0,
    overhead_s: float = 10.0,
    leds: str | None = None,
    led_rotation_deg: float | None = None,
    led_mirrored: bool = False,
    led_calibration: str | Path | None = None,
    lamp: str | None = None,
    numerical_aperture: float = 0.5,
    wavelength_um: float = 0.53,
    pixel_size_um: float = 0.30,
    magnification: float = 20.0,
    refractive_index: float = 1.0,
    full_scale: float | None = None,
    range_um: float | None = None,
) -> Instrument:
    """Connect a microscope: a camera and a focus axis, and an LED array and a lamp where there are some.

    Parameters
    ----------
    frame_directory : path
        Where frames go.
    clock : Clock
        Not used: here time passes by itself.
    camera : str
        What the PVs of the camera begin with, before ``cam1:`` and ``image1:``; see `EpicsCamera`.
    motor : str
        The focus axis, if it is a motor record in um.
    positioner, setpoint, readback, stop : str
        The focus axis, if it is not: what its PVs begin with, and their ends; `stop` may be None.
    unit : str, optional
        Of the positioner's PVs, where they do not say.
    limits_um : sequence of float, optional
        Lowest and highest position; narrows the limits of the IOC, and is needed where it has none.
    tolerance_um : float
        How far from its target a move may end.
    arrival_s : float
        How long the readback may take to follow, after the controller has said that a move is over.
    timeout : float
        Longest duration of a move in s.
    overhead_s : float
        How much longer than the exposure time a frame may take until it is there.
    leds : str, optional
        What the PVs of the LED array begin with; see `EpicsLEDArray`.
    led_rotation_deg : float, optional
        By how much the array is turned against the frame, where that is known without calibration.
    led_mirrored : bool
        Whether its y axis is reversed before it is turned.
    led_calibration : path, optional
        Where the result of `calibrate_leds` is kept; if it exists it wins.
    lamp : str, optional
        PV of a lamp or shutter.
    numerical_aperture, wavelength_um, pixel_size_um, magnification, refractive_index : float
        As of `LightOptics`.
    full_scale : float, optional
        Grey level at which the camera saturates, where that is not the largest of its type.
    range_um : float, optional
        How far around the axis focus is looked for; by default 20 depths of field.

    Raises
    ------
    TimeoutError
        If a PV is not there, naming it.
    ValueError
        If it is not said what the focus axis is, or it has no limits, or its unit is not known, or a number
        makes no sense.
    """
    from bluesky_autofocus.callbacks import OrientationAnalysis, SingleShotAnalysis, TwoLEDAnalysis
    from bluesky_autofocus.defocus import TwoLEDFilter
    from bluesky_autofocus.devices.epics import EpicsCamera, EpicsLEDArray, FocusMotor, Setting
    from bluesky_autofocus.leds import Orientation
    from bluesky_autofocus.models.single_shot import SingleShotModel
    from bluesky_autofocus.optics import LightOptics

    if (motor is None) == (positioner is None):
        raise ValueError(f"motor is {motor!r} and positioner {positioner!r}: expected one of the two")
    optics = LightOptics(numerical_aperture, wavelength_um, pixel_size_um, magnification, refractive_index)
    moves = {
        "limits_um": None if limits_um is None else tuple(limits_um),
        "tolerance_um": tolerance_um,
        "arrival_s": arrival_s,
        "timeout": timeout,
    }
    axis: Any
    if motor is not None:
        axis = FocusMotor(motor, name="z", **moves)
    else:
        axis = _positioner(
            positioner, name="z", setpoint=setpoint, readback=readback, stop=stop, unit=unit, **moves
        )
    axis.wait_for_connection(timeout=CONNECTION_S)
    axis.check_value(axis.position)
    detector = EpicsCamera(
        camera,
        name="camera",
        frame_directory=frame_directory,
        overhead_s=overhead_s,
        connection_s=CONNECTION_S,
    )
    detector.wait_for_connection(timeout=CONNECTION_S)
    devices: dict[str, Any] = {"camera": detector, "z": axis}
    if lamp is not None:
        devices["lamp"] = Setting(lamp, name="lamp", kind="normal")
        devices["lamp"].wait_for_connection(timeout=CONNECTION_S)
    analyses: dict[str, Any] = {}
    if leds is not None:
        known = None if led_rotation_deg is None else Orientation(led_rotation_deg, led_mirrored)
        array = devices["leds"] = EpicsLEDArray(
            leds,
            name="leds",
            numerical_aperture=numerical_aperture,
            orientation=known,
            calibration_path=led_calibration,
        )
        array.wait_for_connection(timeout=CONNECTION_S)
        analyses = {
            "two_led": TwoLEDAnalysis(TwoLEDFilter(optics), optics=optics),
            "calibrate_leds": OrientationAnalysis(optics=optics),
        }
        model = shipped(SingleShotModel.load)
        if model is not None:
            analyses["single_shot"] = SingleShotAnalysis(model, optics=optics)
    dof_um = optics.depth_of_field_um
    by_light = {"leds": devices.get("leds"), "depth_of_field_um": dof_um}
    return Instrument(
        name="epics",
        devices=devices,
        detectors=[detector, *(devices[name] for name in ("leds", "lamp") if name in devices)],
        axis=axis,
        focus_options={"range_um": range_um or 20 * dof_um, "depth_of_field_um": dof_um},
        analyses=analyses,
        method_options={name: by_light for name in ("two_led", "single_shot") if name in analyses},
        full_scale=full_scale,
    )


def _positioner(prefix: Any, *, stop: str | None, **options: Any) -> Any:
    from bluesky_autofocus.devices.epics import FocusPositioner, StoppableFocusPositioner

    if stop is None:
        return FocusPositioner(prefix, **options)
    return StoppableFocusPositioner(prefix, stop=stop, **options)
