"""Documents that were lost, or come twice, must not give an Event the frame of another one."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np

from bluesky_autofocus.frames import recent_frames

__all__ = ["Matched"]

Document = tuple[str, dict[str, Any]]

_REMEMBERED = 1024
"""Uids of the newest Events, by which one that comes twice is known."""


class Matched:
    """Hand on documents so that rows and Events of a stream correspond one to one.

    An analysis takes rows and Events in the order in which they come. On a network either may get lost, so
    here a row is handed on only with the Event whose number it was announced for. Documents that open a run
    are handed on once, and Events too; what belongs to a run that is not known is dropped.

    An Event that brings its frame with it is handed on without, and the frame kept where `read_frame` looks
    first.
    """

    def __init__(self) -> None:
        self._opening: dict[str, tuple[str, dict[str, Any]]] = {}
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self._events: OrderedDict[str, None] = OrderedDict()

    @property
    def known(self) -> list[str]:
        """Uids of the documents by which the runs that are open began."""
        # a copy at once: the thread that delivers documents changes it
        return list(self._opening.copy())

    def stream_of(self, event: dict[str, Any]) -> tuple[str, str]:
        """Return the run and the stream of an Event."""
        _, descriptor = self._opening[event["descriptor"]]
        return descriptor["run_start"], descriptor["name"]

    def __call__(self, name: str, doc: dict[str, Any]) -> Iterator[Document]:
        """Yield what is to be handed on when a document has come."""
        if name in ("start", "descriptor", "stream_resource"):
            run = doc["uid"] if name == "start" else doc["run_start"]
            if doc["uid"] not in self._opening and (name == "start" or run in self._opening):
                self._opening[doc["uid"]] = run, doc
                yield name, doc
        elif name == "stream_datum":
            if doc["descriptor"] in self._opening and doc["stream_resource"] in self._opening:
                self._rows.setdefault(doc["descriptor"], []).append(doc)
        elif name == "event":
            if doc["descriptor"] in self._opening and doc["uid"] not in self._events:
                yield from self._with_rows(doc)
        elif name == "stop":
            yield name, doc
            self._opening = {
                uid: (run, of) for uid, (run, of) in self._opening.items() if run != doc["run_start"]
            }
            self._rows = {uid: rows for uid, rows in self._rows.items() if uid in self._opening}

    def _with_rows(self, event: dict[str, Any]) -> Iterator[Document]:
        self._events[event["uid"]] = None
        if len(self._events) > _REMEMBERED:
            self._events.popitem(last=False)
        number = event["seq_num"]
        rows: dict[str, dict[str, Any]] = {}
        for row in self._rows.pop(event["descriptor"], ()):
            if row["seq_nums"]["start"] == number:  # the last, if it was announced twice
                rows[self._opening[row["stream_resource"]][1]["data_key"]] = row
        frames = {key: value for key, value in event["data"].items() if _is_frame(value, event, key)}
        for key, row in rows.items():
            if key in frames:
                recent_frames.put(row["stream_resource"], row["indices"]["start"], frames[key])
            yield "stream_datum", row
        data = {key: value for key, value in event["data"].items() if key not in frames}
        yield "event", {**event, "data": data}


def _is_frame(value: Any, event: dict[str, Any], key: str) -> bool:
    return isinstance(value, np.ndarray) and bool(event.get("filled", {}).get(key))
