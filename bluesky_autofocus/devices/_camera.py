"""A camera whose every frame is on disk before its Event is emitted."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from ophyd import Component as Cpt
from ophyd import Device, Signal
from ophyd.status import DeviceStatus

from bluesky_autofocus.clock import Clock, VirtualClock
from bluesky_autofocus.devices._signals import BoundedSignal
from bluesky_autofocus.frames import FrameWriter

__all__ = ["Camera", "FrameError", "SimulatedCamera"]


class FrameError(RuntimeError):
    """The camera did not deliver the frame it is described to deliver."""


class Camera(Device):
    """A camera that gives one frame a trigger. Subclasses say where the frame comes from.

    The image is an external key ``NAME_image`` of the documents; ``NAME_mean`` and the exposure time are
    scalars of the Event.

    Parameters
    ----------
    frame_directory : path
        Where the files go.
    frame_shape : tuple of int
        (H, W) or (H, W, 3).
    dtype : numpy dtype
        Of the frames.
    """

    mean = Cpt(Signal, value=0.0, kind="hinted")
    exposure_s = Cpt(BoundedSignal, value=0.01, egu="s", limits=(0.0, 86_400.0), kind="normal")

    def __init__(
        self,
        prefix: str = "",
        *,
        frame_directory: Path | str,
        frame_shape: tuple[int, ...],
        dtype: Any = np.uint16,
        **kwargs: Any,
    ) -> None:
        super().__init__(prefix, **kwargs)
        self.frame_shape = tuple(int(n) for n in frame_shape)
        self.dtype = np.dtype(dtype)
        self.image_key = f"{self.name}_image"
        self.frame_writer = FrameWriter(frame_directory, self.image_key)
        self._frame: np.ndarray | None = None

    @property
    def frame_directory(self) -> Path:
        """The folder that its frames go to."""
        return self.frame_writer.directory

    def expose(self, deliver: Callable[[Callable[[], np.ndarray]], None]) -> None:
        """Start an exposure; when it is over, call `deliver` with a function that returns the frame.

        It may be called from any thread.
        """
        raise NotImplementedError("a camera says how it is exposed")

    def trigger(self) -> DeviceStatus:
        """Expose one frame.

        The status fails with a `FrameError` if the frame has another shape or type than described.
        """
        status = DeviceStatus(self)
        self._frame = None

        def deliver(fetch: Callable[[], np.ndarray]) -> None:
            try:
                self._frame = self._checked(fetch())
                self.mean.put(_mean(self._frame))
            except Exception as error:
                status.set_exception(error)
            else:
                status.set_finished()

        self.expose(deliver)
        return status

    def _checked(self, frame: np.ndarray) -> np.ndarray:
        if frame.shape != self.frame_shape or frame.dtype != self.dtype:
            raise FrameError(
                f"{self.name}: expected a frame of shape {self.frame_shape} and type {self.dtype}, "
                f"got {frame.shape} and {frame.dtype}"
            )
        return frame

    def describe(self) -> Any:
        """Describe the scalars and the image."""
        return {
            **super().describe(),
            self.image_key: {
                "source": f"{type(self).__name__}:{self.name}",
                "dtype": "array",
                "shape": list(self.frame_shape),
                "dtype_numpy": self.dtype.str,
                "dims": ["y", "x", "colour"][: len(self.frame_shape)],
                "external": "STREAM:",
            },
        }

    def collect_asset_docs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Write the newest frame and yield the documents that announce it.

        Raises
        ------
        FrameError
            If the camera was read without ever having been triggered.
        """
        if self._frame is None:
            raise FrameError(f"{self.name} has no frame to record: trigger it before reading it")
        yield from self.frame_writer.write(self._frame)


class HoldsCamera:
    """A device with a component ``camera``, which makes it a detector: to come before `Device` as a base."""

    camera: Any

    @property
    def frame_writer(self) -> FrameWriter:
        """Where its frames are written."""
        return self.camera.frame_writer

    @property
    def frame_directory(self) -> Path:
        """The folder that its frames go to."""
        return self.frame_writer.directory

    def trigger(self) -> DeviceStatus:
        """Take one frame."""
        return self.camera.trigger()

    def collect_asset_docs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Write the newest frame and yield the documents that announce it."""
        yield from self.camera.collect_asset_docs()


def _mean(frame: np.ndarray) -> float:
    channels = 1 if frame.ndim == 2 else frame.shape[2]
    return sum(cv2.mean(frame)[:channels]) / channels


class SimulatedCamera(Camera):
    """A camera that sees what a function renders.

    Parameters
    ----------
    render : callable
        Returns the frame of this moment; called at the end of each exposure.
    clock : Clock, optional
        The session's; the exposure time passes on it.

    Attributes
    ----------
    dead_s : float
        Time for each frame in which the specimen is not exposed; at first 0.
    """

    def __init__(
        self, prefix: str = "", *, render: Callable[[], np.ndarray], clock: Clock | None = None, **kwargs: Any
    ) -> None:
        super().__init__(prefix, **kwargs)
        self.dead_s = 0.0
        self.render = render
        self.clock: Clock = clock or VirtualClock()

    def expose(self, deliver: Callable[[Callable[[], np.ndarray]], None]) -> None:
        """Let the time of a frame pass, then deliver what is rendered."""
        self.clock.call_after(self.dead_s + self.exposure_s.get(), lambda: deliver(self.render))
