"""Any microscope that Micro-Manager has a configuration for, by the labels of its devices."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bluesky_autofocus.clock import Clock
from bluesky_autofocus.instruments import Instrument

__all__ = ["SIMULATED", "instrument"]

SIMULATED = "simulated"
"""In place of a configuration: the simulated microscope as devices of a core."""

LED_APERTURE = 0.8
"""How far out, in apertures of the objective, the LEDs of `two_led` are: as 0.4 for 0.5, its default."""


def instrument(
    frame_directory: Path,
    clock: Clock,
    *,
    cfg: str | Path = SIMULATED,
    adapter_paths: Sequence[str | Path] = (),
    camera: str | None = None,
    exposure_s: float | None = None,
    continuous: bool = False,
    focus: str | None = None,
    focus_limits_um: Sequence[float] | None = None,
    focus_speed: Mapping[str, Any] | None = None,
    xy: str | None = None,
    x_limits_um: Sequence[float] | None = None,
    y_limits_um: Sequence[float] | None = None,
    turret: str | None = None,
    objectives: Mapping[str, Mapping[str, float]] | None = None,
    shutter: str | None = None,
    leds: str | None = None,
    led_states: Mapping[str, str | int] | None = None,
    led_brightness: str | None = None,
    led_board: Mapping[str, float] | None = None,
    led_rotation_deg: float | None = None,
    led_mirrored: bool = False,
    led_calibration: str | Path | None = None,
    properties: Mapping[str, Sequence[str]] | None = None,
    numerical_aperture: float | None = None,
    wavelength_um: float = 0.53,
    pixel_size_um: float | None = None,
    magnification: float = 20.0,
    refractive_index: float = 1.0,
    range_um: float | None = None,
    move_s: float | None = None,
    short_um: float | None = None,
    xy_short_um: float | None = None,
    readout_s: float | None = None,
    answer_s: float | None = None,
    frame_px: int = 512,
    seed: int = 0,
    z_um: float = 12.0,
) -> Instrument:
    """Load a configuration and make its camera and focus stage, and what else is named, an instrument.

    Parameters
    ----------
    frame_directory : path
        Where frames go.
    clock : Clock
        Not used: here time passes by itself.
    cfg : path
        A ``.cfg`` of Micro-Manager; ``"simulated"`` is the simulated microscope inside a core, all of whose
        devices are then made, and named by themselves.
    adapter_paths : sequence of path
        Folders with device adapters; see `bluesky_autofocus.devices.micromanager.open_core`.
    camera, focus : str, optional
        Labels; by default the core's camera and focus device.
    exposure_s : float, optional
        Exposure time; by default it is left alone.
    continuous : bool
        Whether the camera exposes all the time while a plan runs; see `CoreCamera`.
    focus_limits_um : sequence of float
        Lowest and highest position of the focus stage: Micro-Manager knows none, and the lower one keeps the
        objective off the sample.
    focus_speed : mapping, optional
        By what the focus stage runs, for sweeps in flight: options of `RunningZStage`, ``speed_property``,
        ``um_s_per_unit`` and ``velocity_limit_um_s``.
    xy : str, optional
        Label of the XY stage, which needs limits too.
    x_limits_um, y_limits_um : sequence of float, optional
        Lowest and highest positions of it.
    turret : str, optional
        Label of the objective turret.
    objectives : mapping, optional
        What it has, by the labels of its positions: ``{"20x": {"numerical_aperture": 0.5, ...}}``.
    shutter : str, optional
        Label of a shutter or lamp.
    leds : str, optional
        Label of the LED array: an SLM, or a state device.
    led_states : mapping, optional
        If it is a state device: label or number of the state of each pattern.
    led_brightness : str, optional
        If it is one: the name of its property for the brightness.
    led_board : mapping, optional
        Where the LEDs are, on a flat board: ``rows``, ``columns``, ``pitch_mm`` and ``distance_mm`` from the
        sample. By default they are those of the quasi-dome of simulated microscopes.
    led_rotation_deg : float, optional
        By how much the array is turned against the frame, where that is known without calibration.
    led_mirrored : bool
        Whether its y axis is reversed before it is turned.
    led_calibration : path, optional
        Where the result of `calibrate_leds` is kept; if it exists it wins.
    properties : mapping, optional
        What else is to be a signal, by its name: label of the device and name of the property.
    numerical_aperture, wavelength_um, pixel_size_um, magnification, refractive_index : float
        As of `LightOptics`, where there is no turret. The pixel size may be left to the core.
    range_um : float, optional
        How far around the axis focus is looked for; by default 20 depths of field.
    move_s : float, optional
        Longest time of a move of any stage; these five are as the devices have them by default.
    short_um, xy_short_um : float, optional
        How far from its target a move of the focus stage, or the XY stage, may end.
    readout_s : float, optional
        Longest time of a frame beyond its exposure.
    answer_s : float, optional
        Longest wait for what any device answers at once.
    frame_px, seed, z_um
        Of the simulated microscope: rows and columns of a frame, what is on the slide, and where the focus
        stage stands at first; focus is at 0.

    Raises
    ------
    MicroManagerError
        If the configuration is not loaded, or has no device of a label, or one of another type.
    ValueError
        If limits or optics are missing, or an option makes no sense.
    """
    from bluesky_autofocus.devices import micromanager as mm
    from bluesky_autofocus.optics import LightOptics
    from bluesky_autofocus.simulation.served import ServedMicroscope

    if str(cfg) == SIMULATED:
        served = ServedMicroscope((frame_px, frame_px), seed=seed, z_um=z_um)
        core = mm.simulated_core(served)
        optics_here = {"numerical_aperture": 0.5, "magnification": 20.0, "pixel_size_um": 0.3}
        turret, objectives = turret or "Objective", objectives or {"20x/0.5": optics_here}
        xy, shutter, leds = xy or "XY", shutter or "Lamp", leds or "LEDs"
        led_rotation_deg = 0.0 if led_rotation_deg is None else led_rotation_deg
        focus_limits_um = focus_limits_um or (-100.0, 100.0)
        focus_speed = focus_speed or {"speed_property": "Velocity", "velocity_limit_um_s": 500.0}
        x_limits_um = x_limits_um or (-10_000.0, 10_000.0)
        y_limits_um = y_limits_um or (-10_000.0, 10_000.0)
    else:
        core = mm.open_core(cfg, adapter_paths=adapter_paths)
    at_once = {"core": core, **_given(answer_s=answer_s)}
    of_focus: dict[str, Any] = {**at_once, **_given(move_s=move_s, short_um=short_um)}
    of_focus["limits"] = _limits("focus_limits_um", focus_limits_um)
    if focus_speed is None:
        z = mm.ZStage(label=focus, name="z", **of_focus)
    else:
        z = mm.RunningZStage(label=focus, name="z", **of_focus, **focus_speed)
    detector = mm.CoreCamera(
        label=camera,
        name="camera",
        frame_directory=frame_directory,
        continuous=continuous,
        **at_once,
        **_given(readout_s=readout_s),
    )
    if exposure_s is not None:
        detector.exposure_s.put(exposure_s)
    devices: dict[str, Any] = {"camera": detector, "z": z}
    if xy is not None:
        devices["xy"] = mm.XYStage(
            label=xy,
            name="xy",
            x_limits=_limits("x_limits_um", x_limits_um),
            y_limits=_limits("y_limits_um", y_limits_um),
            **at_once,
            **_given(move_s=move_s, short_um=xy_short_um),
        )
    optics: LightOptics | None = None
    if turret is not None:
        devices["objective"] = mm.ObjectiveTurret(
            label=turret,
            name="objective",
            objectives=objectives or {},
            wavelength_um=wavelength_um,
            **at_once,
        )
        optics = devices["objective"].optics
    elif numerical_aperture is not None:
        pixel_um = pixel_size_um or float(core.getPixelSizeUm())
        optics = LightOptics(numerical_aperture, wavelength_um, pixel_um, magnification, refractive_index)
    if optics is None and range_um is None:
        raise ValueError("expected a turret with its objectives, a numerical_aperture, or a range_um")
    if shutter is not None:
        devices["shutter"] = mm.Shutter(label=shutter, name="shutter", kind="normal", **at_once)
    for name, (label, property_name) in (properties or {}).items():
        devices[name] = mm.PropertySignal(
            label=label, property_name=property_name, name=name, kind="normal", **at_once
        )
    if leds is not None:
        options: dict[str, Any] = {
            **at_once,
            "label": leds,
            "name": "leds",
            "geometry": None if led_board is None else _board(**led_board),
            "numerical_aperture": optics.numerical_aperture if optics else 0.5,
            "orientation": _orientation(led_rotation_deg, led_mirrored),
            "calibration_path": led_calibration,
        }
        if led_states is None:
            devices["leds"] = mm.SLMLEDArray(**options)
        else:
            devices["leds"] = mm.StateLEDArray(
                states=led_states, brightness_property=led_brightness, **options
            )
    analyses = _analyses(devices["leds"], optics) if leds is not None and optics is not None else {}
    known = {"depth_of_field_um": optics.depth_of_field_um} if optics else {}
    by_light = {"leds": devices.get("leds"), **known}
    return Instrument(
        name="micromanager",
        devices=devices,
        # what shapes a frame is in its Event
        detectors=[
            detector,
            *(device for name, device in devices.items() if name not in ("camera", "z", "xy")),
        ],
        axis=z,
        focus_options={"range_um": range_um or 20 * known["depth_of_field_um"], **known},
        analyses=analyses,
        method_options={name: by_light for name in ("two_led", "single_shot") if name in analyses},
        full_scale=detector.full_scale,
        closing=(partial(mm.unload, core),),
    )


def _given(**options: float | None) -> dict[str, Any]:
    """Return those options that are given: a device knows what it does without."""
    return {name: value for name, value in options.items() if value is not None}


def _limits(name: str, limits_um: Sequence[float] | None) -> tuple[float, float]:
    if limits_um is None or len(limits_um) != 2:
        raise ValueError(f"{name} is {limits_um!r}: expected lowest and highest position in um")
    return float(limits_um[0]), float(limits_um[1])


def _orientation(rotation_deg: float | None, mirrored: bool) -> Any:
    from bluesky_autofocus.leds import Orientation

    return None if rotation_deg is None else Orientation(rotation_deg, mirrored)


def _board(rows: float, columns: float, pitch_mm: float, distance_mm: float) -> Any:
    """Return where the LEDs of a flat board are, those of a row one after the other."""
    import numpy as np

    from bluesky_autofocus.leds import LEDGeometry

    row, column = np.mgrid[: int(rows), : int(columns)]
    x_mm = pitch_mm * (column.ravel() - (columns - 1) / 2)
    y_mm = pitch_mm * (row.ravel() - (rows - 1) / 2)
    na_xy = np.column_stack([x_mm, y_mm]) / np.sqrt(x_mm**2 + y_mm**2 + distance_mm**2)[:, None]
    # no more than half the distance of two LEDs on the axis
    return LEDGeometry(na_xy, tolerance_na=max(0.03, pitch_mm / distance_mm / 2))


def _analyses(array: Any, optics: Any) -> dict[str, Any]:
    """Return what focuses by an LED array, as far as it has LEDs for that."""
    from bluesky_autofocus.callbacks import OrientationAnalysis, SingleShotAnalysis, TwoLEDAnalysis
    from bluesky_autofocus.defocus import TwoLEDFilter
    from bluesky_autofocus.instruments import shipped
    from bluesky_autofocus.models.single_shot import SingleShotModel

    analyses: dict[str, Any] = {"calibrate_leds": OrientationAnalysis(optics=optics)}
    led = array.nearest(LED_APERTURE * optics.numerical_aperture)
    if 0.1 * optics.numerical_aperture <= led.na <= 0.97 * optics.numerical_aperture:
        analyses["two_led"] = TwoLEDAnalysis(TwoLEDFilter(optics, led.na, led.angle_deg), optics=optics)
    if (model := shipped(SingleShotModel.load)) is not None:
        analyses["single_shot"] = SingleShotAnalysis(model, optics=optics)
    return analyses
