"""An Illuminate LED array from plain options: alone, or with a simulated camera and stage as the rest."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bluesky_autofocus.clock import Clock
from bluesky_autofocus.instruments import Instrument, shipped

if TYPE_CHECKING:
    from bluesky_autofocus.devices.illuminate import IlluminateArray

__all__ = ["instrument", "led_array"]


def led_array(
    port: str,
    *,
    name: str = "leds",
    numerical_aperture: float = 0.5,
    colour: Sequence[int] = (255, 255, 255),
    rotation_deg: float | None = None,
    mirrored: bool = False,
    calibration_path: str | Path | None = None,
    reply_timeout_s: float = 2.0,
) -> "IlluminateArray":
    """Connect an LED array, for use beside any camera and stage.

    Parameters
    ----------
    port : str
        A serial port such as ``/dev/ttyACM0`` or ``COM3``, or ``socket://host:number``.
    name : str
        Of the device.
    numerical_aperture : float
        Of the objective: what brightfield, darkfield and the named rings go by.
    colour : sequence of int
        Red, green and blue, each relative to the largest.
    rotation_deg : float, optional
        By how much the array is turned against the camera's frame, where that is known without calibration.
    mirrored : bool
        Whether its y axis is reversed before it is turned.
    calibration_path : path, optional
        Where the result of `calibrate_leds` is kept; if it exists it wins.
    reply_timeout_s : float
        Longest silence before the end of a reply.

    Raises
    ------
    LinkLostError
        If it cannot be connected, saying why.
    """
    from bluesky_autofocus.devices.illuminate import IlluminateArray
    from bluesky_autofocus.leds import Orientation

    return IlluminateArray(
        name=name,
        port=port,
        numerical_aperture=numerical_aperture,
        colour=tuple(colour),
        orientation=None if rotation_deg is None else Orientation(rotation_deg, mirrored),
        calibration_path=calibration_path,
        reply_timeout_s=reply_timeout_s,
    )


def instrument(
    frame_directory: Path,
    clock: Clock,
    *,
    port: str | None = None,
    colour: Sequence[int] = (255, 255, 255),
    rotation_deg: float | None = 0.0,
    mirrored: bool = False,
    calibration_path: str | Path | None = None,
    reply_timeout_s: float = 2.0,
    seed: int = 0,
    frame_px: int = 512,
    z_um: float = 9.0,
) -> Instrument:
    """Make a microscope whose light is an Illuminate array, and all the rest simulated.

    Its frames show cells as they would look under the LEDs that the array shows: a trial of the array, its
    wiring and its latency without a specimen. It is focused by `two_led`; `single_shot` is trained for larger
    frames and refuses some of these.

    Parameters
    ----------
    frame_directory : path
        Where frames go.
    clock : Clock
        Moves and exposures take time on it.
    port : str, optional
        Of the array. By default its firmware is simulated too, in this process, over TCP.
    colour, rotation_deg, mirrored, calibration_path, reply_timeout_s
        As of `led_array`. By default the array is not turned, and that is known.
    seed : int
        Of the specimen and of all noise.
    frame_px : int
        Rows and columns of a frame.
    z_um : float
        Where the focus axis stands at first; focus is within some um of 0.

    Raises
    ------
    LinkLostError
        If the array cannot be connected, saying why.
    """
    from bluesky_autofocus.simulation.illuminate import Firmware, TCPPort

    with contextlib.ExitStack() as opened:
        where = opened.enter_context(TCPPort(Firmware())).port if port is None else port
        leds = led_array(
            where,
            colour=colour,
            rotation_deg=rotation_deg,
            mirrored=mirrored,
            calibration_path=calibration_path,
            reply_timeout_s=reply_timeout_s,
        )
        try:
            made = _around(leds, frame_directory, clock, seed=seed, frame_px=frame_px, z_um=z_um)
        except BaseException:
            leds.destroy()
            raise
        return dataclasses.replace(made, closing=(opened.pop_all().close,))


def _around(
    leds: "IlluminateArray", frame_directory: Path, clock: Clock, *, seed: int, frame_px: int, z_um: float
) -> Instrument:
    """Make the rest of the microscope, simulated."""
    from bluesky_autofocus.callbacks import OrientationAnalysis, SingleShotAnalysis, TwoLEDAnalysis
    from bluesky_autofocus.defocus import TwoLEDFilter
    from bluesky_autofocus.devices import SimulatedAxis, SimulatedCamera
    from bluesky_autofocus.leds import LEDGeometry
    from bluesky_autofocus.models.single_shot import SingleShotModel
    from bluesky_autofocus.simulation.motion import AxisMechanics
    from bluesky_autofocus.simulation.served import ServedMicroscope

    served = ServedMicroscope(
        (frame_px, frame_px), geometry=LEDGeometry(leds.geometry.array_na_xy), z_um=z_um, seed=seed
    )
    served.lamp = False
    z = SimulatedAxis(
        name="z",
        limits=(-100.0, 100.0),
        position_um=z_um,
        mechanics=AxisMechanics(velocity_um_s=200.0, settle_s=0.05, readback_noise_um=0.01),
        clock=clock,
        seed=seed,
    )

    def render() -> Any:
        served.z_um = z.load_um
        served.light(leds.lit, leds.brightness.get())
        return served.frame()

    camera = SimulatedCamera(
        name="camera",
        render=render,
        frame_directory=frame_directory,
        frame_shape=served.frame_shape,
        dtype=served.dtype,
        clock=clock,
    )
    two_led = TwoLEDAnalysis(TwoLEDFilter(served.optics), optics=served.optics)
    leds.set(two_led.leds[0]).wait()  # the first exposure that anyone takes is not to be black
    orientation = OrientationAnalysis(optics=served.optics)
    analyses: dict[str, Any] = {"two_led": two_led, "calibrate_leds": orientation}
    model = shipped(SingleShotModel.load)
    if model is not None:
        analyses["single_shot"] = SingleShotAnalysis(model, optics=served.optics)
    dof_um = served.depth_of_field_um
    by_light = {"leds": leds, "depth_of_field_um": dof_um}
    methods = [method for method in ("two_led", "single_shot") if method in analyses]
    return Instrument(
        name="illuminate",
        devices={"camera": camera, "z": z, "leds": leds},
        detectors=[camera, leds],
        axis=z,
        focus_options={"range_um": 20 * dof_um, "depth_of_field_um": dof_um},
        method=methods[0],
        analyses=analyses,
        method_options=dict.fromkeys(methods, by_light),
        full_scale=served.full_scale,
    )
