"""The simulated microscope as Python devices of a Micro-Manager core: what is written for one can be tried.

Only imported when it is asked for: it needs pymmcore-plus, whose devices in Python are experimental.
"""

import dataclasses
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pymmcore_plus.experimental.unicore import (
    ShutterDevice,
    SimpleCameraDevice,
    SLMDevice,
    StageDevice,
    StateDevice,
    UniMMCore,
    XYStageDevice,
    pymm_property,
)

from bluesky_autofocus.simulation.motion import AxisMechanics, AxisMotion
from bluesky_autofocus.simulation.served import ServedMicroscope

__all__ = ["SimulatedZ", "make_core"]


def make_core(microscope: ServedMicroscope, velocity_um_s: float) -> Any:
    """Return a core whose devices are those of a simulated microscope."""
    # no adapters, but it looks for an installation unless it is told of one
    core = UniMMCore(mm_path=str(Path(__file__).parent))
    z = SimulatedZ(microscope, velocity_um_s)
    devices = {
        "Z": z,
        "XY": _XY(microscope),
        "Camera": _Camera(microscope, z),
        "LEDs": _LEDs(microscope),
        "Lamp": _Lamp(microscope),
        "Objective": _Objective(microscope),
    }
    for label, device in devices.items():
        core.loadPyDevice(label, device)
        core.initializeDevice(label)
    core.setCameraDevice("Camera")
    core.setFocusDevice("Z")
    core.setXYStageDevice("XY")
    core.setSLMDevice("LEDs")
    core.setShutterDevice("Lamp")
    # the lamp is one of two lights, so the camera is not to open it by itself
    core.setAutoShutter(False)
    return core


class SimulatedZ(StageDevice):
    """The focus drive."""

    def __init__(self, microscope: ServedMicroscope, velocity_um_s: float) -> None:
        super().__init__()
        self._microscope = microscope
        self.motion = AxisMotion(AxisMechanics(velocity_um_s=velocity_um_s), microscope.z_um)
        self._ends_s = -math.inf

    @pymm_property(name="Velocity", limits=(0.001, 1e6))
    def velocity(self) -> float:
        """Speed of its moves, in um/s."""
        return self.motion.mechanics.velocity_um_s

    @velocity.setter
    def _set_velocity(self, value: float) -> None:
        self.motion.mechanics = dataclasses.replace(self.motion.mechanics, velocity_um_s=float(value))

    def settle(self, ago_s: float = 0.0) -> float:
        """Put the microscope's stage where it is now, or was some time ago, and return that in um."""
        self._microscope.z_um = self.motion.load_um(time.monotonic() - ago_s)
        return self._microscope.z_um

    def busy(self) -> bool:
        """Return whether it moves."""
        return time.monotonic() < self._ends_s

    def set_position_um(self, val: float) -> None:
        """Start a move."""
        now_s = time.monotonic()
        self._ends_s = now_s + self.motion.start(val, now_s)

    def get_position_um(self) -> float:
        """Return where it is."""
        return self.settle()

    def home(self) -> None:
        """Go to 0."""
        self.set_position_um(0.0)

    def stop(self) -> None:
        """Stop at once."""
        now_s = time.monotonic()
        self._ends_s = now_s + self.motion.stop(now_s)

    def set_origin(self) -> None:
        """Refuse: positions are the microscope's."""
        raise NotImplementedError("the origin of the simulated focus drive is fixed")


class _XY(XYStageDevice):
    """The stage, which moves at once."""

    def __init__(self, microscope: ServedMicroscope) -> None:
        super().__init__()
        self._microscope = microscope

    def set_position_um(self, x: float, y: float) -> None:
        self._microscope.x_um, self._microscope.y_um = float(x), float(y)

    def get_position_um(self) -> tuple[float, float]:
        return self._microscope.x_um, self._microscope.y_um

    def home(self) -> None:
        self.set_position_um(0.0, 0.0)

    def stop(self) -> None:
        pass

    def set_origin_x(self) -> None:
        raise NotImplementedError("the origin of the simulated stage is fixed")

    set_origin_y = set_origin_x


class _Camera(SimpleCameraDevice):
    """The camera: a frame is what there is to be seen in the middle of its exposure."""

    def __init__(self, microscope: ServedMicroscope, z: SimulatedZ) -> None:
        self._microscope, self._z = microscope, z
        super().__init__()

    def sensor_shape(self) -> tuple[int, int]:
        return self._microscope.frame_shape

    def dtype(self) -> Any:
        return self._microscope.dtype

    def get_exposure(self) -> float:
        return 1000 * self._microscope.exposure_s

    def set_exposure(self, exposure: float) -> None:
        self._microscope.exposure_s = exposure / 1000

    def snap(self, buffer: np.ndarray) -> Mapping[str, Any]:
        time.sleep(self._microscope.exposure_s)
        self._z.settle(self._microscope.exposure_s / 2)
        buffer[:] = self._microscope.frame()
        return {}


class _LEDs(SLMDevice):
    """The LED array: pixels in the order in which one reads, in a square that holds all LEDs."""

    def __init__(self, microscope: ServedMicroscope) -> None:
        super().__init__()
        self._microscope = microscope
        self._count = len(microscope.geometry)
        side = math.ceil(math.sqrt(self._count))
        self._loaded = np.zeros((side, side), np.uint8)

    def shape(self) -> tuple[int, ...]:
        return self._loaded.shape

    def dtype(self) -> Any:
        return np.uint8

    def set_image(self, pixels: np.ndarray) -> None:
        self._loaded = np.array(pixels, np.uint8)

    def display_image(self) -> None:
        levels = self._loaded.ravel()[: self._count]
        self._microscope.light(np.flatnonzero(levels).tolist(), float(levels.max()) / 255)

    def set_exposure(self, interval_ms: float) -> None:
        if interval_ms:
            raise NotImplementedError("the simulated LEDs stay on until they are switched off")

    def get_exposure(self) -> float:
        return 0.0


class _Lamp(ShutterDevice):
    """The lamp that makes nuclei fluoresce."""

    def __init__(self, microscope: ServedMicroscope) -> None:
        super().__init__()
        self._microscope = microscope

    def get_open(self) -> bool:
        return self._microscope.lamp

    def set_open(self, open: bool) -> None:  # noqa: A002 - pymmcore-plus' name
        self._microscope.lamp = bool(open)


class _Objective(StateDevice):
    """A turret with one objective."""

    def __init__(self, microscope: ServedMicroscope) -> None:
        optics = microscope.optics
        super().__init__({0: f"{optics.magnification:g}x/{optics.numerical_aperture:g}"})
        self._state = 0

    def get_state(self) -> int:
        return self._state

    def set_state(self, position: int) -> None:
        self._state = int(position)
