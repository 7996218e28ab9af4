"""A camera of a Micro-Manager core."""

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ophyd import Component as Cpt
from ophyd.status import Status

from bluesky_autofocus.devices._camera import Camera
from bluesky_autofocus.devices._signals import BoundedSignal, ComputedSignal
from bluesky_autofocus.devices.micromanager._calls import (
    ANSWER_S,
    CAMERA,
    POLL_S,
    DeviceLink,
    MicroManagerError,
    MicroManagerTimeoutError,
    in_background,
)

__all__ = ["CoreCamera"]

READOUT_S = 10.0
"""Longest time of a frame beyond its exposure unless told otherwise."""

_OF_PIXELS = {(1, 1): np.uint8, (2, 1): np.uint16, (4, 4): np.uint8}
"""Type of a sample by the bytes and the components of a pixel."""


class _Exposure(BoundedSignal):
    """The exposure time, which the camera rounds to what it can do."""

    def limit(self) -> None:
        """Take over the camera's limits: some ignore what is beyond, and say nothing."""
        camera: Any = self.parent
        self._limits = camera.exposure_limits_s or self._limits

    def put(self, value: float, **kwargs: Any) -> None:
        self.check_value(value)
        camera: Any = self.parent
        super().put(camera.set_exposure_s(float(value)))

    def set(self, value: float, **kwargs: Any) -> Status:
        self.check_value(value)
        return in_background(Status(self), partial(self.put, value), f"{self.name}-set")


class CoreCamera(Camera):
    """A camera that snaps a frame a trigger, or gives the next one of those that it takes all the time.

    A core has one current camera; this one is made current for each of its frames. ``NAME_time_s`` is the
    middle of the exposure on `time.monotonic`, as far as it is known: half way from when it may have begun to
    when the frame was there.

    Parameters
    ----------
    core : pymmcore.CMMCore
        With its configuration loaded.
    label : str, optional
        Of the camera in the configuration; by default the core's current one.
    frame_directory : path
        Where frames are written.
    continuous : bool
        Whether the camera goes on exposing from the first trigger after it was staged until it is unstaged.
        A trigger then gives the first frame that began after it: where arming a camera costs more than a
        frame that is the sooner one. The specimen has light all the time.
    readout_s : float
        Longest time of a frame beyond its exposure.
    answer_s : float
        Longest wait for what the camera answers at once.

    Raises
    ------
    MicroManagerError
        If the configuration has no such camera, or its pixels are neither 8 or 16 bits of grey nor RGB.
    """

    exposure_s = Cpt(_Exposure, value=0.01, egu="s", limits=(0.0, 86_400.0), kind="normal")
    time_s = Cpt(ComputedSignal, attribute="middle_s", egu="s", value=0.0, kind="normal")

    def __init__(
        self,
        prefix: str = "",
        *,
        core: Any,
        label: str | None = None,
        frame_directory: Path | str,
        continuous: bool = False,
        readout_s: float = READOUT_S,
        answer_s: float = ANSWER_S,
        **kwargs: Any,
    ) -> None:
        if not readout_s > 0:
            raise ValueError(f"readout_s is {readout_s!r}: expected a positive number")
        self._link = DeviceLink(core, label or core.getCameraDevice(), CAMERA, answer_s=answer_s)
        self.continuous, self.readout_s = continuous, readout_s
        self._lock = threading.Lock()
        self.middle_s = time.monotonic()
        shape, dtype, self.full_scale = self._link.run("its frames", self._frames_of)
        super().__init__(prefix, frame_directory=frame_directory, frame_shape=shape, dtype=dtype, **kwargs)
        self.exposure_s.limit()
        BoundedSignal.put(self.exposure_s, self._link.ask("getExposure") / 1000)

    @property
    def label(self) -> str:
        """What the configuration calls the camera."""
        return self._link.label

    def _frames_of(self, core: Any) -> tuple[tuple[int, ...], Any, float]:
        """Return shape and type of its frames, and the grey level at which they saturate."""
        self._make_current(core)
        pixel = core.getBytesPerPixel(), core.getNumberOfComponents()
        if pixel not in _OF_PIXELS:
            raise MicroManagerError(
                f"device {self.label!r} has pixels of {pixel[0]} bytes and {pixel[1]} components: expected "
                "8 or 16 bits of grey, or 8 bits each of red, green and blue"
            )
        shape: tuple[int, ...] = (core.getImageHeight(), core.getImageWidth())
        if pixel[1] == 4:
            return (*shape, 3), np.uint8, 255.0
        return shape, _OF_PIXELS[pixel], 2.0 ** core.getImageBitDepth() - 1

    def _make_current(self, core: Any) -> None:
        if core.getCameraDevice() != self.label:
            core.setCameraDevice(self.label)

    @property
    def exposure_limits_s(self) -> tuple[float, float] | None:
        """Shortest and longest exposure time, None where the camera tells none."""
        name = "Exposure"
        if not self._link.ask("hasProperty", name) or not self._link.ask("hasPropertyLimits", name):
            return None
        low, high = (self._link.ask(f"getProperty{side}Limit", name) / 1000 for side in ("Lower", "Upper"))
        return low, high

    def set_exposure_s(self, value: float) -> float:
        """Set the exposure time, and return what the camera made of it."""
        self._end_sequence()

        def expose_for(core: Any) -> float:
            core.setExposure(self.label, 1000 * value)
            return core.getExposure(self.label) / 1000

        return float(self._link.run(f"an exposure time of {value} s", expose_for))

    # Frames

    def expose(self, deliver: Callable[[Callable[[], np.ndarray]], None]) -> None:
        """Have a frame taken, then deliver it."""
        fetch = self._next_frame if self.continuous else self._snapped
        threading.Thread(target=deliver, args=(fetch,), name=f"{self.name}-expose", daemon=True).start()

    @property
    def _frame_s(self) -> float:
        return self.exposure_s.get() + self.readout_s

    def _snapped(self) -> np.ndarray:
        def snap(core: Any) -> np.ndarray:
            # the core has one current camera and one image, so nothing may come between these
            with _current_camera:
                self._make_current(core)
                began_s = time.monotonic()
                core.snapImage()
                self.middle_s = (began_s + time.monotonic()) / 2
                return _as_frame(core.getImage())

        return self._link.run("a frame", snap, self._frame_s)

    def _next_frame(self) -> np.ndarray:
        def begin(core: Any) -> int:
            """Go on exposing; return how many frames may have begun before."""
            with _current_camera:
                self._make_current(core)
                if core.isSequenceRunning(self.label):
                    # one by one: a core in Python breaks when its buffer is cleared under a frame
                    while core.getRemainingImageCount():
                        core.popNextImage()
                    return 1
                core.startContinuousSequenceAcquisition(0)
                return 0

        def take(core: Any) -> np.ndarray | None:
            nonlocal early, began_s
            while core.getRemainingImageCount():
                frame = core.popNextImage()
                now_s = time.monotonic()
                if not early:
                    self.middle_s = (began_s + now_s) / 2
                    return _as_frame(frame)
                early, began_s = early - 1, now_s
            if not core.isSequenceRunning(self.label):
                raise MicroManagerError(f"device {self.label!r} has stopped taking frames by itself")
            return None

        with self._lock:
            early: int = self._link.run("a sequence of frames", begin)
            began_s = time.monotonic()
            deadline_s = time.monotonic() + (1 + early) * self._frame_s
            while (frame := self._link.run("the next frame", take)) is None:
                if time.monotonic() > deadline_s:
                    raise MicroManagerTimeoutError(
                        f"device {self.label!r}: no frame within {(1 + early) * self._frame_s:.3g} s"
                    )
                time.sleep(POLL_S)
            return frame

    def _end_sequence(self) -> None:
        def end(core: Any) -> None:
            if core.isSequenceRunning(self.label):
                core.stopSequenceAcquisition(self.label)

        if self.continuous:
            self._link.run("the end of a sequence", end)

    def unstage(self) -> list[Any]:
        """Stop exposing."""
        self._end_sequence()
        return super().unstage()

    def pause(self) -> None:
        """Stop exposing while the RunEngine is paused; the next trigger goes on."""
        self._end_sequence()


_current_camera = threading.Lock()
"""Held while a core's current camera is to stay so; adapters have threads of their own."""


def _as_frame(image: np.ndarray) -> np.ndarray:
    """Return a frame of its own, colours as (H, W, 3) in the order red, green, blue."""
    if image.dtype == np.uint32:  # pymmcore gives a pixel of blue, green, red and nothing as one number
        return np.ascontiguousarray(image.view(np.uint8).reshape(*image.shape, 4)[..., 2::-1])
    return np.array(image[..., :3] if image.ndim == 3 else image)
