"""Where camera frames are written and read back: one HDF5 file per run, stream and camera.

A bluesky Event carries scalars; its frame is a row of an HDF5 dataset that a `stream_resource` document
names and a `stream_datum` document indexes. Rows and Events must correspond one to one, or every later
reader shows the wrong frame. An ophyd device cannot know that by itself: it is asked for a frame without
being told for which run or stream, or whether the Event was then saved. `install_frame_routing` makes a
RunEngine tell it.
"""

import contextlib
import errno
import json
import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname
from uuid import uuid4

import h5py
import numpy as np
from bluesky.run_engine import RunEngine
from bluesky.utils import Msg
from h5py._objects import phil

from bluesky_autofocus.disk import DiskFullError, free_bytes, size

__all__ = ["FrameWriter", "PrunedFrameError", "RecordsFrames", "install_frame_routing", "read_frame"]

logger = logging.getLogger(__name__)

DATASET = "/entry/data/data"

PRUNED = "/entry/data/pruned"
"""In a file from which frames were deleted, which rows are those; its attribute `PRUNINGS` says by whom."""

PRUNINGS = "prunings"
"""JSON list, one object for each time: ``time``, ``user``, ``keep``, ``frames``, ``bytes``, ``version``."""

LEFT_FREE_BYTES = 16 * 2**20
"""What frames leave free of a disk: documents and catalogue are often on the same, and a run has to end well
there. Its last documents, twice, and SQLite's log take well below 1 MB."""


class PrunedFrameError(OSError):
    """The frame was deleted to free disk space; its Event, readings and verdicts are still there."""


class FrameCache:
    """The newest frames of this process, so that a callback need not read back what was just written.

    Parameters
    ----------
    max_bytes : int
        Frames beyond this are forgotten, oldest first; they are in their files all the same.
    """

    def __init__(self, max_bytes: int = 64 * 2**20) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._frames: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, resource_uid: str, index: int, frame: np.ndarray) -> None:
        """Remember a frame; the array must not be written to afterwards."""
        with self._lock:
            replaced = self._frames.pop((resource_uid, index), None)
            self._bytes += frame.nbytes - (0 if replaced is None else replaced.nbytes)
            self._frames[resource_uid, index] = frame
            while self._bytes > self._max_bytes and len(self._frames) > 1:
                _, oldest = self._frames.popitem(last=False)
                self._bytes -= oldest.nbytes

    def get(self, resource_uid: str, index: int) -> np.ndarray | None:
        """Return the frame, or None if it is forgotten or was never taken in this process."""
        with self._lock:
            return self._frames.get((resource_uid, index))


recent_frames = FrameCache()


def read_frame(resource: Mapping[str, Any], index: int) -> np.ndarray:
    """Return one frame, from memory when it was taken in this process, else from its file.

    Parameters
    ----------
    resource : mapping
        The `stream_resource` document.
    index : int
        Row of the dataset, from the `stream_datum` document.

    Returns
    -------
    numpy.ndarray
        Shape (H, W) or (H, W, 3).

    Raises
    ------
    FileNotFoundError
        If the file is not on this machine.
    PrunedFrameError
        If the frame was deleted.
    """
    frame = recent_frames.get(resource["uid"], index)
    if frame is not None:
        return frame
    path = Path(url2pathname(unquote(urlparse(resource["uri"]).path)))
    if not path.exists():
        raise FileNotFoundError(f"the frames of {resource['data_key']!r} are not on this machine: {path}")
    # A file that a killed process left open is readable only as a SWMR reader would read it.
    with h5py.File(path, "r", libver="latest", swmr=True) as file:
        pruned: Any = file.get(PRUNED)
        if pruned is not None and pruned[index]:
            last = json.loads(pruned.attrs[PRUNINGS])[-1]
            raise PrunedFrameError(
                f"frame {index} of {resource['data_key']!r} was deleted to free disk space (keep "
                f"{last['keep']}, {last['time'][:10]}, by {last['user']}): {path}"
            )
        return file[resource["parameters"]["dataset"]][index]  # type: ignore[index]  # h5py types a group


class FrameFile:
    """An HDF5 file that grows by one frame at a time and is readable after a crash.

    Every `append` ends with a flush to the operating system: a killed process loses nothing that was
    appended. A power cut may cost what the operating system had not yet put on the disk.
    """

    def __init__(self, path: Path, frame: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.uid = str(uuid4())
        self.saved = 0
        """Rows whose Event was emitted; a row beyond is overwritten by the next frame."""
        self._file = h5py.File(path, "w-", libver="latest")
        try:
            self._dataset = self._file.create_dataset(
                DATASET,
                shape=(0, *frame.shape),
                maxshape=(None, *frame.shape),
                chunks=(1, *frame.shape),
                dtype=frame.dtype,
            )
            self._file.swmr_mode = True
        except BaseException:
            # a file that was not finished would be in the way of the next attempt
            with contextlib.suppress(OSError, RuntimeError):
                self._file.close()
            path.unlink()
            raise

    def append(self, frame: np.ndarray) -> int:
        """Write a frame, return its row."""
        if self._dataset.shape[0] <= self.saved:
            self._dataset.resize(self.saved + 1, axis=0)
        # One chunk is one frame, so the bytes can go to the file without the type conversion of `ds[i] =`.
        # It alone of all that h5py does goes without h5py's lock (until its pull request 2764), and HDF5
        # crashes when two threads write.
        with phil:
            self._dataset.id.write_direct_chunk(
                (self.saved,) + (0,) * frame.ndim, np.ascontiguousarray(frame).data
            )
        self._dataset.flush()
        return self.saved

    def close(self) -> None:
        """Close the file, without the frame of an Event that was dropped last; delete it if it holds none."""
        if self._dataset.shape[0] > self.saved:
            self._dataset.resize(self.saved, axis=0)
        self._file.close()
        if self.saved == 0:
            self.path.unlink()


class FrameWriter:
    """Write the frames of one camera and describe them in documents.

    Parameters
    ----------
    directory : path
        Files go to ``directory/RUN_UID/STREAM-DATA_KEY.h5``.
    data_key : str
        Key of the image in the documents.
    """

    def __init__(self, directory: Path | str, data_key: str) -> None:
        self.directory = Path(directory)
        self.data_key = data_key
        self._files: dict[tuple[str, str], FrameFile] = {}
        self._route: tuple[str, str] | None = None

    def route(self, run_uid: str, stream: str) -> None:
        """Say to which run and stream the next frame belongs."""
        self._route = run_uid, stream

    def write(self, frame: np.ndarray) -> Iterator[tuple[str, dict[str, Any]]]:
        """Write a frame to the routed file, yield the documents that announce it.

        Raises
        ------
        RuntimeError
            If the RunEngine does not route frames.
        DiskFullError
            If the disk has no room for it, and for what the run has to write in the end.
        """
        if self._route is None:
            raise RuntimeError(
                f"{self.data_key}: this RunEngine does not say which run and stream a frame belongs to; call "
                "bluesky_autofocus.frames.install_frame_routing(RE) once after making it"
            )
        try:
            file, row = self._written(frame, *self._route)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DiskFullError(
                f"{self.data_key}: no room for a frame of {size(frame.nbytes)} in {self.directory}: "
                f"{size(free_bytes(self.directory))} free, {size(LEFT_FREE_BYTES)} of it to end the run with"
            ) from error
        recent_frames.put(file.uid, row, frame)
        if row == 0:
            yield (
                "stream_resource",
                {
                    "uid": file.uid,
                    "data_key": self.data_key,
                    "mimetype": "application/x-hdf5",
                    "uri": _localhost_uri(file.path),
                    "parameters": {
                        "dataset": DATASET,
                        "swmr": True,
                        "join_method": "stack",
                        "chunk_shape": [1, *frame.shape],
                    },
                },
            )
        yield (
            "stream_datum",
            {
                "uid": f"{file.uid}/{row}",
                "stream_resource": file.uid,
                "descriptor": "",
                "indices": {"start": row, "stop": row + 1},
                "seq_nums": {"start": 0, "stop": 0},
            },
        )

    def _written(self, frame: np.ndarray, run_uid: str, stream: str) -> tuple[FrameFile, int]:
        """Append a frame to the file of a run and stream, return the file and the row."""
        if free_bytes(self.directory) < frame.nbytes + LEFT_FREE_BYTES:
            raise OSError(errno.ENOSPC, "nearly full")
        file = self._files.get((run_uid, stream))
        if file is None:
            file = FrameFile(self.directory / run_uid / f"{stream}-{self.data_key}.h5", frame)
            self._files[run_uid, stream] = file
        return file, file.append(frame)

    def saved(self, resource_uid: str, rows: int) -> None:
        """Keep the rows below `rows`: their Events were emitted."""
        for file in self._files.values():
            if file.uid == resource_uid:
                file.saved = rows

    def close_run(self, run_uid: str) -> None:
        """Close the files of a run."""
        for key in [key for key in self._files if key[0] == run_uid]:
            file = self._files.pop(key)
            try:
                file.close()
            except (OSError, RuntimeError) as error:
                # whoever records the stop document is told of it after this
                logger.error("%s was not closed (%s); its frames are in it up to there", file.path, error)
        if self._route is not None and self._route[0] == run_uid:
            self._route = None


def _localhost_uri(path: Path) -> str:
    return path.absolute().as_uri().replace("file://", "file://localhost", 1)


@runtime_checkable
class RecordsFrames(Protocol):
    """A readable whose frames are written by a `FrameWriter`: a camera, or a device that holds one."""

    @property
    def frame_writer(self) -> FrameWriter:
        """The writer of its frames."""
        ...


def install_frame_routing(run_engine: RunEngine) -> Callable[[], None]:
    """Make a RunEngine tell cameras to which run and stream each frame belongs. Call it once.

    The commands themselves are wrapped, not the plan: a preprocessor would miss the messages that others
    insert outside of it (a baseline), and those that the RunEngine replays after a pause without asking
    the plan again. A row of a file is kept once its `stream_datum` has been emitted, so a dropped or
    rewound bundle leaves no orphan behind.

    Returns
    -------
    callable
        Takes the routing out again.
    """
    writers: weakref.WeakSet[FrameWriter] = weakref.WeakSet()
    run_uids: dict[Any, str] = {}
    streams: dict[Any, str] = {}
    # bluesky lets commands be replaced, but has no public way to wrap one
    commands = run_engine._command_registry  # noqa: SLF001
    plain = {name: commands[name] for name in ("open_run", "create", "read")}

    async def open_run(msg: Msg) -> str:
        run_uids[msg.run] = await plain["open_run"](msg)
        return run_uids[msg.run]

    async def create(msg: Msg) -> None:
        await plain["create"](msg)
        streams[msg.run] = msg.kwargs["name"] if "name" in msg.kwargs else msg.args[0]

    async def read(msg: Msg) -> Any:
        if isinstance(msg.obj, RecordsFrames) and msg.run in streams:
            writer = msg.obj.frame_writer
            writers.add(writer)
            writer.route(run_uids[msg.run], streams[msg.run])
        return await plain["read"](msg)

    def follow(name: str, doc: dict[str, Any]) -> None:
        if name == "stream_datum":
            for writer in writers:
                writer.saved(doc["stream_resource"], doc["indices"]["stop"])
        elif name == "stop":
            for writer in writers:
                writer.close_run(doc["run_start"])
            for key in [key for key, uid in run_uids.items() if uid == doc["run_start"]]:
                del run_uids[key]
                streams.pop(key, None)

    for name, command in (("open_run", open_run), ("create", create), ("read", read)):
        run_engine.register_command(name, command)
    token = run_engine.subscribe(follow)

    def uninstall() -> None:
        run_engine.unsubscribe(token)
        for name, command in plain.items():
            run_engine.register_command(name, command)

    return uninstall
