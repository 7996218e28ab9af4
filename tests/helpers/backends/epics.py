"""A soft IOC in a process of its own: stage, camera, LED array and lamp over Channel Access."""

import contextlib
import functools

from served_epics import MADE, PX, put, pv, restart, running

from backends import Bench

START_UM = -9.0


@contextlib.contextmanager
def opened(directory, RE):  # noqa: N803
    from bluesky_autofocus.backends.epics import instrument
    from bluesky_autofocus.clock import WallClock

    ioc = running("microscope", focus_um=3.0, start_um=START_UM, seed=1)
    name = ioc.prefix
    for record, value in (("Lamp", 1), ("Z:Velocity", 200.0), ("Z:Position", START_UM)):
        put(f"{name}{record}", value)
    made = instrument(
        directory,
        WallClock(),
        camera=name,
        positioner=f"{name}Z",
        leds=f"{name}Leds:",
        led_rotation_deg=0.0,
        lamp=f"{name}Lamp",
    )
    MADE.append(made)
    yield Bench(
        detectors=list(made.detectors),
        axis=made.axis,
        image_key="camera_image",
        frame_shape=(PX, PX),
        bounds_um=(-17.0, 23.0),
        limits_um=made.axis.limits,
        depth_of_field_um=made.focus_options["depth_of_field_um"],
        where_um=pv(f"{name}Z:Readback").get,
        focus_um=pv(f"{name}True:Focus").get,
        slow_down=functools.partial(put, f"{name}Z:Velocity", 10.0),
        lose=ioc.kill,
        restore=functools.partial(restart, ioc, list(made.devices.values())),
        lost_names=name,
        leds=made.devices["leds"],
        lit=lambda: tuple(int(n) for n in pv(f"{name}Leds:Mask").get().nonzero()[0]),
        transmitted=functools.partial(put, f"{name}Lamp", 0),
        focus_of_cells_um=pv(f"{name}True:FocusOfCells").get,
    )
