"""SEMs behind vendors' interfaces, from plain options."""

import importlib
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bluesky_autofocus.clock import Clock
from bluesky_autofocus.devices.sem import ANSWER_S, FibsemControl, SEMControl, SmartSEMControl, VendorSEM
from bluesky_autofocus.instruments import Instrument
from bluesky_autofocus.simulation import SEMOptics
from bluesky_autofocus.simulation.served import ServedSEM

__all__ = ["DemoOptics", "demo_control", "instrument"]

_STIGMATOR_PERCENT = 100.0
"""Of the stigmators of fibsem, which go to 1."""

_STEP_S = 0.01


def instrument(
    frame_directory: Path,
    clock: Clock,
    *,
    vendor: Literal["demo", "thermo", "tescan", "zeiss"] = "demo",
    ip_address: str | None = None,
    limits_um: Sequence[float] = (4_000.0, 30_000.0),
    resolution: Sequence[int] = (512, 512),
    dwell_us: float = 1.0,
    bits: int = 8,
    depth_of_field_um: float | None = None,
    range_um: float | None = None,
    convergence_mrad: float | None = None,
    answer_s: float = ANSWER_S,
    seed: int = 0,
) -> Instrument:
    """Make a SEM that a vendor's interface drives.

    Parameters
    ----------
    frame_directory : path
        Where frames go.
    clock : Clock
        Not used: a real microscope takes the time that it takes.
    vendor : {"demo", "thermo", "tescan", "zeiss"}
        "demo" is fibsem's demonstration microscope with a simulated specimen, out of focus; "zeiss" has never
        been run on a microscope.
    ip_address : str, optional
        Of the microscope's computer, for Thermo Fisher and TESCAN; that of fibsem's configuration by default.
    limits_um : sequence of float
        Allowed working distances; the lower one is the safe floor.
    resolution : sequence of int
        Columns and rows of a frame, which the microscope must have.
    dwell_us : float
        Time of the beam on a pixel.
    bits : int
        Of a pixel, as the microscope is set up; more than 8 are taken for frames of 16, not all of them used.
    depth_of_field_um : float, optional
        Range of working distance in which the blur stays within a pixel. By default what follows from
        `convergence_mrad` and the present size of a pixel, if that is known.
    range_um : float, optional
        Of the search; 40 depths of field by default, or 200 um.
    convergence_mrad : float, optional
        Half angle of the beam.
    answer_s : float
        Longest wait for what the microscope answers at once.
    seed : int
        Of the specimen and the noise of "demo".

    Raises
    ------
    SEMError
        If it cannot be connected.
    ValueError
        If there is no such vendor, naming those there are, or the microscope does not take an option.
    """
    if vendor != "zeiss":
        importlib.import_module("fibsem")  # that it is missing is said here, not on the vendor's thread
    columns, rows = (int(pixels) for pixels in resolution)
    low_um, high_um = limits_um
    control: SEMControl
    dtype = np.dtype(np.uint8 if bits <= 8 else np.uint16)
    options: dict[str, Any] = {"resolution": (columns, rows), "dwell_s": 1e-6 * dwell_us, "dtype": dtype}
    if vendor == "demo":
        optics = DemoOptics(ServedSEM((rows, columns), optics=SEMOptics(bits=bits), seed=seed))
        control = demo_control(optics, **options)
        convergence_mrad = convergence_mrad or optics.served.optics.convergence_mrad
    elif vendor in ("thermo", "tescan"):
        control = FibsemControl.of(vendor, ip_address, **options)
    elif vendor == "zeiss":
        control = SmartSEMControl(frame_shape=(rows, columns), dtype=dtype)
    else:
        raise ValueError(f"vendor is {vendor!r}: expected demo, thermo, tescan or zeiss")
    sem = VendorSEM(
        name="sem",
        control=control,
        frame_directory=frame_directory,
        limits_um=(float(low_um), float(high_um)),
        convergence_mrad=convergence_mrad,
        answer_s=answer_s,
    )
    try:
        sem.dwell_time.put(dwell_us)
        if depth_of_field_um is None and convergence_mrad is not None:
            depth_of_field_um = sem.pixel_size_um.get() / (1e-3 * convergence_mrad)
    except BaseException:
        sem.destroy()
        raise
    focus_options: dict[str, Any] = {
        "range_um": range_um or (200.0 if depth_of_field_um is None else 40 * depth_of_field_um)
    }
    if depth_of_field_um is not None:
        focus_options["depth_of_field_um"] = depth_of_field_um
    return Instrument(
        name="fibsem" if vendor != "zeiss" else "zeiss",
        devices={"sem": sem},
        detectors=[sem],
        axis=sem.working_distance,
        focus_options=focus_options,
        full_scale=2.0**bits - 1,
    )


class DemoOptics:
    """What fibsem's demonstration microscope lacks: a specimen that is in focus at one working distance.

    Parameters
    ----------
    served : ServedSEM
        Whose frames it shows.

    Attributes
    ----------
    lens_um_s : float
        How fast the working distance changes; at once by default.
    is_broken : bool
        Whether all calls raise, as if its computer had gone.
    """

    def __init__(self, served: ServedSEM) -> None:
        self.served = served
        self.lens_um_s = math.inf
        self.is_broken = False

    def check(self) -> None:
        """Raise if the connection is broken."""
        if self.is_broken:
            raise ConnectionError("the microscope's computer does not answer")

    def focus(self, working_distance_um: float) -> None:
        """Change the working distance, at the speed that it has."""
        served, begun = self.served, time.monotonic()
        start_um = served.working_distance_um
        away_um = working_distance_um - start_um
        while (gone_um := self.lens_um_s * (time.monotonic() - begun)) < abs(away_um):
            served.working_distance_um = start_um + math.copysign(gone_um, away_um)
            time.sleep(_STEP_S)
        served.working_distance_um = working_distance_um


def demo_control(optics: DemoOptics, **options: Any) -> FibsemControl:
    """Return fibsem's demonstration microscope with a specimen, as a `SEMControl`.

    Its own frames are noise at every working distance.

    Parameters
    ----------
    optics : DemoOptics
        What it shows.
    **options
        As of `FibsemControl`.
    """

    def connect() -> Any:
        return _demo_microscope(optics)

    return FibsemControl(connect, **options)


def _demo_microscope(optics: DemoOptics) -> Any:
    from fibsem import utils
    from fibsem.microscopes.simulator import DemoMicroscope
    from fibsem.structures import BeamType, FibsemImage

    served = optics.served

    class Microscope(DemoMicroscope):
        def _get(self, key: str, beam_type: Any = None) -> Any:
            optics.check()
            if key == "working_distance" and beam_type is BeamType.ELECTRON:
                return 1e-6 * served.working_distance_um
            return super()._get(key, beam_type)

        def _set(self, key: str, value: Any, beam_type: Any = None) -> None:
            optics.check()
            if key == "working_distance" and beam_type is BeamType.ELECTRON:
                optics.focus(1e6 * value)
            else:
                super()._set(key, value, beam_type)

        def acquire_image(self, image_settings: Any = None, beam_type: Any = None) -> FibsemImage:
            optics.check()
            stigmators = self.get_stigmation(image_settings.beam_type)
            served.stigmator_x = _STIGMATOR_PERCENT * stigmators.x
            served.stigmator_y = _STIGMATOR_PERCENT * stigmators.y
            served.magnification = 1e-3 * served.optics.field_width_mm / image_settings.hfw
            served.dwell_us = 1e6 * image_settings.dwell_time
            return FibsemImage(data=np.asarray(served.frame()))

    optics.check()
    system = utils.load_microscope_configuration().system
    microscope = Microscope(system)
    microscope.connect_to_microscope(system.info.ip_address)
    microscope.set_field_of_view(
        1e-3 * served.optics.field_width_mm / served.magnification, BeamType.ELECTRON
    )
    return microscope
