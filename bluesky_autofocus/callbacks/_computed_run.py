"""A run of frames that nobody recorded: documents and files of what was computed from another run."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import event_model
import numpy as np

from bluesky_autofocus.frames import FrameWriter

__all__ = ["ComputedRun"]

Record = Callable[[str, Any], object]
"""Takes documents: what `Catalog.recorder` gives."""

_SPECS = {str: "string", bool: "boolean", int: "integer", float: "number"}


class ComputedRun:
    """A run of its own whose start document says that it was computed, and from what.

    Parameters
    ----------
    record : callable
        ``(name, document)``, called for each document in order.
    directory : path
        Where frames go: ``directory/UID/STREAM-KEY.h5``.
    metadata : mapping
        Of the start document, beside ``computed: True``.
    """

    def __init__(self, record: Record, directory: Path | str, metadata: Mapping[str, Any]) -> None:
        self._record, self._directory = record, directory
        self._bundle = event_model.compose_run(metadata={**metadata, "computed": True})
        self._streams: dict[str, Any] = {}
        self._forms: dict[str, dict[str, str]] = {}
        self._counts: dict[str, int] = {}
        self._writers: dict[str, FrameWriter] = {}
        record("start", self._bundle.start_doc)

    @property
    def uid(self) -> str:
        """Of the run."""
        return self._bundle.start_doc["uid"]

    def add(
        self,
        stream: str,
        values: Mapping[str, str | bool | int | float],
        frames: Mapping[str, np.ndarray] | None = None,
        units: Mapping[str, str] | None = None,
    ) -> None:
        """Record one Event; the frames are in their files before it is emitted.

        Parameters
        ----------
        stream : str
            All Events of a stream have the same keys.
        values : mapping
            Scalars, by key.
        frames : mapping, optional
            Images, by key.
        units : mapping, optional
            Of some of them, by key; what the first Event of a stream says counts.

        Raises
        ------
        ValueError
            If keys, or shape or type of a frame, are not those of the stream.
        """
        frames = frames or {}
        form = {key: type(value).__name__ for key, value in values.items()}
        form |= {key: f"{frame.shape} of {frame.dtype}" for key, frame in frames.items()}
        if self._forms.setdefault(stream, form) != form:
            raise ValueError(f"stream {stream!r} has {self._forms[stream]}: got {form}")
        if stream not in self._streams:
            self._open(stream, values, frames, units or {})
        descriptor = self._streams[stream]
        number = self._counts[stream] = self._counts.get(stream, 0) + 1
        for key, frame in frames.items():
            writer = self._writers[key]
            writer.route(self.uid, stream)
            for name, doc in writer.write(frame):
                self._record(name, self._placed(name, doc, descriptor, number))
                if name == "stream_datum":
                    writer.saved(doc["stream_resource"], doc["indices"]["stop"])
        now = time.time()
        event = descriptor.compose_event(
            data=dict(values), timestamps=dict.fromkeys(values, now), seq_num=number, time=now
        )
        self._record("event", event)

    def _open(
        self,
        stream: str,
        values: Mapping[str, Any],
        frames: Mapping[str, np.ndarray],
        units: Mapping[str, str],
    ) -> None:
        keys: dict[str, Any] = {
            key: {"source": "computed", "dtype": _SPECS[type(value)], "shape": []}
            for key, value in values.items()
        }
        for key, frame in frames.items():
            keys[key] = {
                "source": "computed",
                "dtype": "array",
                "dtype_numpy": frame.dtype.str,
                "shape": list(frame.shape),
                "dims": ["y", "x", "colour"][: frame.ndim],
                "external": "STREAM:",
            }
            self._writers.setdefault(key, FrameWriter(self._directory, key))
        for key, unit in units.items():
            keys[key]["units"] = unit
        self._streams[stream] = self._bundle.compose_descriptor(name=stream, data_keys=keys)
        self._record("descriptor", self._streams[stream].descriptor_doc)

    def _placed(self, name: str, doc: dict[str, Any], descriptor: Any, number: int) -> dict[str, Any]:
        """Return a document of a frame with what a RunEngine would add to it."""
        if name == "stream_resource":
            return {**doc, "run_start": self.uid}
        return {
            **doc,
            "descriptor": descriptor.descriptor_doc["uid"],
            "seq_nums": {"start": number, "stop": number + 1},
        }

    def close(self, reason: str = "", *, failed: bool = False) -> None:
        """End the run."""
        for writer in self._writers.values():
            writer.close_run(self.uid)
        stop = self._bundle.compose_stop(exit_status="fail" if failed else "success", reason=reason)
        self._record("stop", stop)
