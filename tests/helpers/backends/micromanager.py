"""The simulated microscope as Python devices of a Micro-Manager core."""

import contextlib
import dataclasses

from backends import Bench
from bluesky_autofocus.devices.micromanager import CoreCamera, SLMLEDArray, ZStage, simulated_core
from bluesky_autofocus.leds import Orientation
from bluesky_autofocus.simulation.served import ServedMicroscope

LIMITS_UM = (-100.0, 100.0)


@contextlib.contextmanager
def opened(directory, RE):  # noqa: N803
    served = ServedMicroscope((512, 512), focus_um=3.0, z_um=-9.0)
    core = simulated_core(served)
    stage, sensor = (core._pydevices[label] for label in ("Z", "Camera"))
    axis = ZStage(core=core, name="z", limits=LIMITS_UM)
    camera = CoreCamera(core=core, name="camera", frame_directory=directory)
    leds = SLMLEDArray(core=core, name="leds", geometry=served.geometry, orientation=Orientation())

    def slow_down():
        stage.motion.mechanics = dataclasses.replace(stage.motion.mechanics, velocity_um_s=10.0)

    def restore():
        core.loadPyDevice("Camera", sensor)
        core.initializeDevice("Camera")
        core.setCameraDevice("Camera")

    yield Bench(
        detectors=[camera],
        axis=axis,
        image_key="camera_image",
        frame_shape=served.frame_shape,
        bounds_um=(-17.0, 23.0),
        limits_um=LIMITS_UM,
        depth_of_field_um=served.depth_of_field_um,
        where_um=stage.settle,
        focus_um=lambda: served.focus_um,
        slow_down=slow_down,
        lose=lambda: core.unloadDevice("Camera"),
        restore=restore,
        lost_names="camera",
        leds=leds,
        lit=lambda: served.lit,
        transmitted=lambda: core.setShutterOpen("Lamp", False),
        focus_of_cells_um=lambda: served.focus_of_cells_um,
    )
    core.unloadAllDevices()
