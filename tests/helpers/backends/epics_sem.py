"""A soft IOC in a process of its own: a SEM over Channel Access, whose working distance is in mm."""

import contextlib
import functools

from served_epics import MADE, PX, put, pv, restart, running

from backends import Bench

LACKS = {"single_shot": "an electron beam has no direction to choose"}

START_MM = 10.06


@contextlib.contextmanager
def opened(directory, RE):  # noqa: N803
    from bluesky_autofocus.backends.epics_sem import instrument
    from bluesky_autofocus.clock import WallClock

    ioc = running("sem", start_um=1000 * START_MM)
    name = ioc.prefix
    for record, value in (("WD:Velocity", 2.0), ("WD:Position", START_MM)):
        put(f"{name}{record}", value)
    made = instrument(directory, WallClock(), prefix=name, depth_of_field_um=5.0)
    MADE.append(made)
    device = made.devices["sem"]
    yield Bench(
        detectors=[device.camera],  # the axis beside it, as all others have it
        axis=made.axis,
        image_key="sem_camera_image",
        frame_shape=(PX, PX),
        bounds_um=(9_930.0, 10_090.0),
        limits_um=made.axis.limits,
        depth_of_field_um=5.0,
        where_um=lambda: 1000 * pv(f"{name}WD:Readback").get(),
        focus_um=pv(f"{name}True:Focus").get,
        slow_down=functools.partial(put, f"{name}WD:Velocity", 0.01),
        lose=ioc.kill,
        restore=functools.partial(restart, ioc, [device]),
        lost_names=name,
    )
