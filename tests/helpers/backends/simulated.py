"""The devices of this package that stand for real ones: what all others are compared with."""

import contextlib
import functools

from backends import Bench
from bluesky_autofocus.clock import WallClock
from bluesky_autofocus.devices import SimulatedAxis, SimulatedCamera, SimulatedLEDArray
from bluesky_autofocus.leds import Orientation
from bluesky_autofocus.simulation.served import ServedMicroscope

LIMITS_UM = (-100.0, 100.0)


class PluggedCamera(SimulatedCamera):
    """A camera that can be unplugged."""

    plugged = True

    def trigger(self):
        if not self.plugged:
            raise ConnectionError(f"{self.name} does not answer")
        return super().trigger()


@contextlib.contextmanager
def opened(directory, RE):  # noqa: N803
    served = ServedMicroscope((512, 512), focus_um=3.0, z_um=-9.0)
    clock = WallClock()
    axis = SimulatedAxis(name="z", limits=LIMITS_UM, position_um=served.z_um, clock=clock)
    leds = SimulatedLEDArray(name="leds", geometry=served.geometry, orientation=Orientation(), clock=clock)

    def render():
        served.z_um = axis.load_um
        served.light(leds.lit, leds.brightness.get())
        return served.frame()

    camera = PluggedCamera(
        name="camera",
        render=render,
        frame_directory=directory,
        frame_shape=served.frame_shape,
        dtype=served.dtype,
        clock=clock,
    )
    yield Bench(
        detectors=[camera],
        axis=axis,
        image_key="camera_image",
        frame_shape=served.frame_shape,
        bounds_um=(-17.0, 23.0),
        limits_um=LIMITS_UM,
        depth_of_field_um=served.depth_of_field_um,
        where_um=lambda: axis.load_um,
        focus_um=lambda: served.focus_um,
        slow_down=functools.partial(axis.velocity.put, 10.0),
        lose=functools.partial(setattr, camera, "plugged", False),
        restore=functools.partial(setattr, camera, "plugged", True),
        lost_names="camera",
        leds=leds,
        lit=lambda: leds.lit,
        transmitted=functools.partial(setattr, served, "lamp", False),
        focus_of_cells_um=lambda: served.focus_of_cells_um,
    )
