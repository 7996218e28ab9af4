"""Serve a simulated microscope or SEM over Channel Access until standard input ends or Ctrl-C is typed."""

import argparse
import asyncio
import contextlib
import math
import sys
from collections.abc import Sequence

import numpy as np

from bluesky_autofocus.simulation.ioc._process import READY

MICROSCOPE_LIMITS_UM = (-100.0, 100.0)
SEM_LIMITS_UM = (4_000.0, 30_000.0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the records of an instrument and serve them."""
    options = _parser().parse_args(arguments)
    try:
        from softioc import asyncio_dispatcher, builder, softioc
    except ImportError as error:
        raise SystemExit(f"no softioc ({error}): pip install 'bluesky-autofocus[ioc]'") from error
    make = {"microscope": _serve_microscope, "sem": _serve_sem}[options.instrument]
    make(options)
    builder.LoadDatabase()
    dispatcher = asyncio_dispatcher.AsyncioDispatcher()
    softioc.iocInit(dispatcher, enable_pva=False)
    print(f"{READY} {options.instrument} as {options.prefix}", flush=True)  # noqa: T201 - a program's answer
    with contextlib.suppress(KeyboardInterrupt):
        sys.stdin.read()
    softioc.safeEpicsExit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m bluesky_autofocus.simulation.ioc", description=__doc__)
    parser.add_argument("instrument", nargs="?", choices=("microscope", "sem"), default="microscope")
    parser.add_argument("--prefix", default="SIM:", help="of all PVs (default: %(default)s)")
    parser.add_argument("--frame-px", type=int, default=512, help="rows and columns (default: %(default)s)")
    parser.add_argument(
        "--velocity-um-s", type=float, default=200.0, help="of the focus axis (default: %(default)s)"
    )
    parser.add_argument("--settle-s", type=float, default=0.02, help="after a move (default: %(default)s)")
    parser.add_argument("--focus-um", type=float, help="where it is in focus (default: 0, SEM 10 000)")
    parser.add_argument("--start-um", type=float, help="where it stands at first (default: 12, SEM 10 060)")
    parser.add_argument("--seed", type=int, default=0, help="of specimen and noise (default: %(default)s)")
    return parser


def _serve_microscope(options: argparse.Namespace) -> None:
    from softioc import builder

    from bluesky_autofocus.simulation.ioc._records import Camera, Stage, number, setting, switch
    from bluesky_autofocus.simulation.motion import AxisMechanics
    from bluesky_autofocus.simulation.served import ServedMicroscope

    served = ServedMicroscope(
        (options.frame_px, options.frame_px),
        focus_um=0.0 if options.focus_um is None else options.focus_um,
        z_um=12.0 if options.start_um is None else options.start_um,
        seed=options.seed,
    )
    served.frame()  # the first one takes longest
    prefix = options.prefix
    mechanics = AxisMechanics(options.velocity_um_s, options.settle_s)
    stage = Stage(f"{prefix}Z", served.z_um, limits_um=MICROSCOPE_LIMITS_UM, mechanics=mechanics)
    number(f"{prefix}True:Focus", served.focus_um, unit="um")
    true_cells = number(f"{prefix}True:FocusOfCells", math.nan, unit="um")

    def frame() -> np.ndarray:
        served.z_um = stage.position_um
        return served.frame()

    camera = Camera(prefix, frame, served.frame_shape, served.dtype)
    camera.exposes(prefix, served.exposure_s, lambda seconds: setattr(served, "exposure_s", seconds))

    async def burn(on: bool) -> None:
        served.lamp = on
        if not on:  # the cells are drawn now, which takes seconds the first time, and not in an exposure
            where = await asyncio.get_running_loop().run_in_executor(None, lambda: served.focus_of_cells_um)
            true_cells.set(where)

    switch(f"{prefix}Lamp", served.lamp, burn)

    def shine(*_: object) -> None:
        served.light([int(led) for led in np.flatnonzero(mask.get())], brightness.get())

    count = len(served.geometry.na_xy)
    mask = builder.WaveformOut(
        f"{prefix}Leds:Mask", initial_value=np.zeros(count, np.uint8), on_update=shine, blocking=True
    )
    brightness = setting(f"{prefix}Leds:Brightness", 1.0, shine, unit="", limits=(0.0, 1.0))


def _serve_sem(options: argparse.Namespace) -> None:
    from bluesky_autofocus.simulation.ioc._records import Camera, Stage, number, setting
    from bluesky_autofocus.simulation.motion import AxisMechanics
    from bluesky_autofocus.simulation.served import ServedSEM

    served = ServedSEM(
        (options.frame_px, options.frame_px),
        focus_um=10_000.0 if options.focus_um is None else options.focus_um,
        working_distance_um=10_060.0 if options.start_um is None else options.start_um,
        seed=options.seed,
    )
    served.frame()  # the first one takes longest
    prefix = options.prefix
    # millimetres, as the makers of such instruments have it
    lens = Stage(
        f"{prefix}WD",
        served.working_distance_um,
        limits_um=SEM_LIMITS_UM,
        mechanics=AxisMechanics(options.velocity_um_s, options.settle_s),
        unit="mm",
        um_per_unit=1000.0,
    )
    number(f"{prefix}True:Focus", served.focus_um, unit="um")
    pixel = number(f"{prefix}PixelSize", served.pixel_size_um, unit="um")
    number(f"{prefix}Convergence", served.optics.convergence_mrad, unit="mrad")

    def frame() -> np.ndarray:
        served.working_distance_um = lens.position_um
        return served.frame()

    camera = Camera(prefix, frame, served.frame_shape, served.dtype)
    camera.exposed(served.exposure_s)

    def dwell(microseconds: float) -> None:
        served.dwell_us = microseconds
        camera.exposed(served.exposure_s)

    def magnify(magnification: float) -> None:
        served.magnification = magnification
        pixel.set(served.pixel_size_um)

    setting(f"{prefix}Dwell", served.dwell_us, dwell, unit="us", limits=(0.001, 1000.0))
    setting(f"{prefix}Magnification", served.magnification, magnify, unit="x", limits=(100.0, 500_000.0))
    for axis in "xy":
        setting(
            f"{prefix}Stig:{axis.upper()}",
            0.0,
            lambda value, axis=axis: setattr(served, f"stigmator_{axis}", value),
            unit="",
            limits=(-100.0, 100.0),
        )


if __name__ == "__main__":
    main()
