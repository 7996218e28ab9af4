"""fibsem's demonstration microscope, with a specimen behind it."""

import contextlib
import functools

from backends import Bench
from bluesky_autofocus.backends.sem import DemoOptics, demo_control
from bluesky_autofocus.devices.sem import VendorSEM
from bluesky_autofocus.simulation.served import ServedSEM

LACKS = {"single_shot": "a SEM has no LEDs"}

LIMITS_UM = (4_000.0, 30_000.0)


@contextlib.contextmanager
def opened(directory, RE):  # noqa: N803
    served = ServedSEM((512, 512), working_distance_um=10_060.0)
    optics = DemoOptics(served)
    sem = VendorSEM(
        name="sem",
        control=demo_control(optics, resolution=(512, 512)),
        frame_directory=directory,
        limits_um=LIMITS_UM,
    )
    try:
        yield Bench(
            detectors=[sem.camera],
            axis=sem.working_distance,
            image_key="sem_camera_image",
            frame_shape=served.frame_shape,
            bounds_um=(9_960.0, 10_070.0),
            limits_um=LIMITS_UM,
            depth_of_field_um=served.depth_of_field_um,
            where_um=lambda: served.working_distance_um,
            focus_um=lambda: served.focus_um,
            slow_down=functools.partial(setattr, optics, "lens_um_s", 60.0),
            lose=functools.partial(setattr, optics, "is_broken", True),
            restore=functools.partial(setattr, optics, "is_broken", False),
            lost_names="sem",
        )
    finally:
        sem.destroy()
