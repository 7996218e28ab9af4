"""areaDetector's own HDF5 files as frames of the documents, by the standard ophyd classes.

For cameras whose frames are too many or too large for Channel Access. Tried with ophyd's fake devices, which
answer as an IOC would; not yet with a detector.
"""

import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any
from uuid import uuid4

from ophyd import CamBase, DetectorBase, SingleTrigger
from ophyd import Component as Cpt
from ophyd.areadetector.filestore_mixins import FileStoreHDF5
from ophyd.areadetector.plugins import HDF5Plugin_V34
from ophyd.areadetector.trigger_mixins import ADTriggerStatus
from ophyd.device import Staged

from bluesky_autofocus.devices._camera import FrameError
from bluesky_autofocus.devices.epics._camera import POLL_S
from bluesky_autofocus.devices.epics._connection import (
    SettingWithReadback,
    asked,
    ended,
    fail_late,
    fail_when_lost,
    require_connected,
)

__all__ = ["AreaDetectorCamera", "StreamedHDF5"]

DATASET = "/entry/data/data"
"""Where the plugin puts frames unless it has a layout file of its own."""


class _Route:
    """To which run and stream the frame belongs that is read next, as `install_frame_routing` says."""

    def __init__(self) -> None:
        self.where: tuple[str, str] | None = None

    def route(self, run_uid: str, stream: str) -> None:
        self.where = run_uid, stream

    def saved(self, resource_uid: str, rows: int) -> None:
        """The file is the IOC's, and no row of it is written twice."""

    def close_run(self, run_uid: str) -> None:
        """The IOC closes it when the detector is unstaged."""


class StreamedHDF5(HDF5Plugin_V34, FileStoreHDF5):
    """The HDF5 plugin, one file a staging and one row a frame, announced by `stream_resource`.

    ophyd's own mixins announce by `resource` and `datum`, which analyses here do not read. The file is
    written in SWMR mode and flushed at each frame, so that it can be read while it grows. The camera waits
    for the plugin: when it says that it has acquired, the frame is in the file. Its row is told by how many
    frames the plugin has captured, not by how many were asked for.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.frame_route = _Route()
        self.stage_sigs.update({"swmr_mode": "On", "num_frames_flush": 1, "blocking_callbacks": "Yes"})
        self.stage_sigs.move_to_end("capture")  # what is set before it holds for the file
        self._forget()

    def _generate_resource(self, resource_kwargs: dict[str, Any]) -> None:
        """Begin a file: it is announced with its first frame."""
        self._forget()

    def _forget(self) -> None:
        self._announced: tuple[str, tuple[str, str] | None] = ("", None)

    def captured(self) -> int:
        """Return how many frames are in the file now."""
        return int(asked(self._detector.name, self.num_captured))

    @property
    def _detector(self) -> Any:
        return self.parent

    def describe(self) -> Any:
        """Describe the frames too."""
        shape: tuple[int, ...] = self._detector.make_data_key()["shape"]
        described = {**self._detector.make_data_key(), "external": "STREAM:", "shape": list(shape[-2:])}
        return {**super().describe(), f"{self._detector.name}_image": {**described, "dims": ["y", "x"]}}

    def collect_asset_docs(self) -> Generator[tuple[str, dict[str, Any]], None, None]:
        """Announce the newest frame.

        Raises
        ------
        FrameError
            If there is none since the last trigger, or it belongs to another run or stream than those before
            it in the file.
        """
        row = self._detector.row
        if row is None:
            raise FrameError(f"{self._detector.name} has no frame to record: trigger it before reading it")
        uid, where = self._announced
        if uid and where != self.frame_route.where:
            raise FrameError(
                f"{self._detector.name}: its file is that of the stream {where and where[1]!r} and cannot be "
                "of another one: unstage and stage it in between, or use an EpicsCamera"
            )
        if not uid:
            uid = str(uuid4())
            self._announced = uid, self.frame_route.where
            yield (
                "stream_resource",
                {
                    "uid": uid,
                    "data_key": f"{self._detector.name}_image",
                    "mimetype": "application/x-hdf5",
                    "uri": Path(str(self._fn)).as_uri().replace("file://", "file://localhost", 1),
                    "parameters": {
                        "dataset": DATASET,
                        "swmr": True,
                        "join_method": "stack",
                        "chunk_shape": [1, *self._detector.make_data_key()["shape"][-2:]],
                    },
                },
            )
        yield (
            "stream_datum",
            {
                "uid": f"{uid}/{row}",
                "stream_resource": uid,
                "descriptor": "",
                "indices": {"start": row, "stop": row + 1},
                "seq_nums": {"start": 0, "stop": 0},
            },
        )


class _Exposure(ADTriggerStatus):
    """A frame that is taken, and its row of the file when it is there."""

    captured_before = 0
    row: int | None = None


class AreaDetectorCamera(SingleTrigger, DetectorBase):  # pyright: ignore - as ophyd's own detectors
    """An areaDetector camera whose IOC writes the frames: one frame a trigger, one stream a staging.

    Plans stage it. A plan that records in several streams, as one that takes tiles and focuses in between,
    needs an `EpicsCamera`. A plugin that has had no frame since its IOC was started does not know their size
    and refuses to be staged: ``hdf1.warmup()`` sends it one.

    Parameters
    ----------
    prefix : str
        Of its PVs, before ``cam1:`` and ``HDF1:``.
    write_path_template : str
        The folder, as the machine of the IOC sees it; ``%Y`` and the like are those of the day.
    read_path_template : str, optional
        The same folder as this machine sees it, if that is another path.
    overhead_s : float
        How much longer than the exposure time a frame may take until it is in the file.
    """

    _default_read_attrs = ("exposure_s", "hdf1")

    cam = Cpt(CamBase, "cam1:")
    exposure_s = Cpt(SettingWithReadback, "cam1:AcquireTime", kind="normal")
    hdf1 = Cpt(StreamedHDF5, "HDF1:", write_path_template="/", kind="normal")

    def __init__(
        self,
        prefix: str = "",
        *,
        write_path_template: str,
        read_path_template: str | None = None,
        overhead_s: float = 10.0,
        **kwargs: Any,
    ) -> None:
        if not overhead_s > 0:
            raise ValueError(f"overhead_s is {overhead_s!r}: expected a positive number")
        self.overhead_s = overhead_s
        super().__init__(prefix, **kwargs)
        self.hdf1.write_path_template = write_path_template
        self.hdf1.read_path_template = read_path_template
        self.stage_sigs["cam.num_images"] = 1
        self._newest: _Exposure | None = None

    def trigger(self) -> Any:
        """Take one frame, after the one that is being taken if there is one.

        The status is done when the frame is in the file. It fails with a `DisconnectedError` when the
        connection is lost, and with a `TimeoutError` where no frame comes.
        """
        if self._staged != Staged.yes:
            raise RuntimeError(f"{self.name} is not staged: stage it before it is triggered")
        require_connected(self.name, self._channels())
        status, before = _Exposure(self), self._newest
        self._newest = status
        if before is None:
            self._acquire(status)
        else:
            before.add_callback(lambda _: self._acquire(status))
        return status

    def stop(self, *, success: bool = False) -> None:
        """Give up an exposure under way, as one that has failed: it is not to be taken for the next one."""
        if self._acquisition_signal.connected:
            self._acquisition_signal.put(0, wait=False)

    def unstage(self) -> Any:
        """End the file; an exposure under way is not waited for."""
        unstaged = super().unstage()
        self._newest = None
        if self._status is not None:
            ended(self._status)
        return unstaged

    @property
    def row(self) -> int | None:
        """The row of the file that the newest exposure is in; None where there is none."""
        return None if self._newest is None else self._newest.row

    def _channels(self) -> list[Any]:
        return [self._acquisition_signal, self.hdf1.num_captured]

    def _acquire(self, status: "_Exposure") -> None:
        """Begin an exposure."""
        if self._staged != Staged.yes:
            ended(status)
            return
        try:
            wait_s = float(self.exposure_s.get()) + self.overhead_s
            status.captured_before, self._status = self.hdf1.captured(), status
            fail_when_lost(status, self.name, self._channels())
            acquire, captured = (signal.pvname for signal in self._channels())
            late = f"{self.name}: {acquire} was put and no frame has come to the file, says {captured},"
            fail_late(status, wait_s, late)
            if not status.done:
                self._acquisition_signal.put(1, wait=False)
        except Exception as error:
            ended(status, error)

    def _acquire_changed(self, value: Any = None, old_value: Any = None, **kwargs: Any) -> None:
        """Wait for the frame of an exposure that has ended."""
        status: Any = self._status
        if status is not None and not status.done and (old_value, value) == (1, 0):
            # not on the thread that tells it: it has others to tell
            threading.Thread(target=self._await_frame, args=(status,), daemon=True).start()

    def _await_frame(self, status: "_Exposure") -> None:
        while not status.done:
            try:
                captured = self.hdf1.captured()
            except Exception as error:
                ended(status, error)
                return
            if captured > status.captured_before:
                status.row = captured - 1
                ended(status)
            else:
                time.sleep(POLL_S)

    @property
    def frame_writer(self) -> Any:
        """What is told to which run and stream a frame belongs."""
        return self.hdf1.frame_route
