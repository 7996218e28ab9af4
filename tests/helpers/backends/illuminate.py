"""An LED array behind a simulated firmware on a pseudo-terminal, which lights the specimen."""

import contextlib
import functools

from backends import Bench
from bluesky_autofocus.backends.illuminate import led_array
from bluesky_autofocus.clock import WallClock
from bluesky_autofocus.devices import SimulatedAxis, SimulatedCamera
from bluesky_autofocus.simulation.illuminate import Firmware, PseudoTerminal
from bluesky_autofocus.simulation.served import ServedMicroscope

LIMITS_UM = (-100.0, 100.0)


@contextlib.contextmanager
def opened(directory, RE):  # noqa: N803
    served = ServedMicroscope((512, 512), focus_um=3.0, z_um=-9.0)
    clock = WallClock()
    axis = SimulatedAxis(name="z", limits=LIMITS_UM, position_um=served.z_um, clock=clock)

    def render():
        served.z_um = axis.load_um
        return served.frame()

    camera = SimulatedCamera(
        name="camera",
        render=render,
        frame_directory=directory,
        frame_shape=served.frame_shape,
        dtype=served.dtype,
        clock=clock,
    )
    firmware = Firmware(served.geometry.array_na_xy, on_light=served.light)
    with PseudoTerminal(firmware, boot_s=0.2) as cable:
        leds = led_array(cable.port, rotation_deg=0.0, reply_timeout_s=4.0)
        try:
            yield Bench(
                detectors=[camera, leds],
                axis=axis,
                image_key="camera_image",
                frame_shape=served.frame_shape,
                bounds_um=(-17.0, 23.0),
                limits_um=LIMITS_UM,
                depth_of_field_um=served.depth_of_field_um,
                where_um=lambda: axis.load_um,
                focus_um=lambda: served.focus_um,
                slow_down=functools.partial(axis.velocity.put, 10.0),
                lose=cable.unplug,
                restore=cable.plug,
                lost_names="leds",
                leds=leds,
                lit=lambda: firmware.lit,
                transmitted=functools.partial(setattr, served, "lamp", False),
                focus_of_cells_um=lambda: served.focus_of_cells_um,
            )
        finally:
            leds.destroy()
