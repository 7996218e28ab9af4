"""Run an analysis over a run that is already in databroker."""

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np

from bluesky_autofocus.callbacks._analysis import Analysis
from bluesky_autofocus.frames import read_frame
from bluesky_autofocus.records import Reading

__all__ = ["analyse", "replayed", "rows_of_events"]

FetchFrame = Callable[[Mapping[str, Any], int], np.ndarray]

_ORDER = ("start", "descriptor", "stream_resource", "stream_datum", "event", "stop")


def analyse(
    run: Any, analysis: Analysis, *, streams: Collection[str] | None = None
) -> dict[str, list[Reading]]:
    """Give an analysis the documents of a recorded run, as if the run went on now.

    What judged the frames live judges them again, from the same pixels: with the same settings it gives
    the same numbers to the last bit.

    Parameters
    ----------
    run : databroker.client.BlueskyRun
        ``db[-1]``.
    analysis : Analysis
        It may be subscribed to a RunEngine meanwhile; a twin of it does the work.
    streams : collection of str, optional
        Which streams to analyse, where some hold frames that the analysis is not made for. By default all
        with frames.

    Returns
    -------
    dict
        Readings by stream, in the order of their Events.

    Raises
    ------
    AnalysisError
        If a frame cannot be analysed.
    """
    documents, fetch = replayed(run)
    stream_names = {doc["uid"]: doc["name"] for name, doc in documents if name == "descriptor"}
    twin = analysis.offline(fetch)
    analysed = {stream_names[doc["descriptor"]] for name, doc in documents if name == "stream_datum"}
    if streams is not None:
        analysed &= set(streams)
    readings: dict[str, list[Reading]] = {stream: [] for stream in analysed}
    for name, doc in documents:
        if name in ("event", "stream_datum") and stream_names[doc["descriptor"]] not in analysed:
            continue
        twin(name, doc)
        if name == "event":
            stream = stream_names[doc["descriptor"]]
            readings[stream].append(twin.reading(stream))
    return readings


def replayed(run: Any) -> tuple[list[tuple[str, dict[str, Any]]], FetchFrame]:
    """Return the documents of a recorded run as if it went on now, and what fetches its frames.

    Announcements of frames come before all Events; those of exposures that were taken again are left out, so
    that rows and Events of a stream correspond one to one. Events come in the order in which they were
    emitted, across streams too.

    Parameters
    ----------
    run : databroker.client.BlueskyRun
        ``db[-1]``.

    Returns
    -------
    list of tuple
        Name and document.
    callable
        ``(stream_resource, row) -> frame``, from its file, or from the server where that is elsewhere.
    """
    # databroker gives all Events before the documents that say where their frames are
    documents = sorted(run.documents(), key=lambda document: _ORDER.index(document[0]))
    stream_names = {doc["uid"]: doc["name"] for name, doc in documents if name == "descriptor"}
    keys = {doc["uid"]: doc["data_key"] for name, doc in documents if name == "stream_resource"}
    stream_of = {
        doc["stream_resource"]: stream_names[doc["descriptor"]]
        for name, doc in documents
        if name == "stream_datum"
    }

    events: dict[str, list[tuple[str, dict[str, Any]]]] = {stream: [] for stream in stream_names.values()}
    rows = Counter[str]()
    for name, doc in documents:
        if name == "event":
            events[stream_names[doc["descriptor"]]].append((name, dict(doc)))
        elif name == "stream_datum":
            rows[doc["stream_resource"]] += doc["indices"]["stop"] - doc["indices"]["start"]
    kept = {
        resource: list(rows_of_events(run, stream).values())
        for resource, stream in stream_of.items()
        if rows[resource] != len(events[stream])
    }

    def fetch(resource: Mapping[str, Any], row: int) -> np.ndarray:
        try:
            return read_frame(resource, row)
        except FileNotFoundError:  # recorded on another machine: ask the server
            return run[stream_of[resource["uid"]], keys[resource["uid"]]][row]

    rewound = set(kept)

    def announced() -> Iterator[tuple[str, dict[str, Any]]]:
        for name, doc in documents:
            if name == "stream_datum" and doc["stream_resource"] in rewound:
                for row in kept.pop(doc["stream_resource"], ()):
                    yield name, {**doc, "indices": {"start": row, "stop": row + 1}}
            elif name not in ("event", "stop"):
                yield name, dict(doc)

    in_turn = heapq.merge(*events.values(), key=lambda event: event[1]["time"])
    stops = [(name, dict(doc)) for name, doc in documents if name == "stop"]
    return [*announced(), *in_turn, *stops], fetch


def rows_of_events(run: Any, stream: str) -> dict[int, int]:
    """Return the row of the frame of each Event that databroker gives, by the Event's number, ascending.

    A pause that rewinds has Events taken again, under the same number. All their frames are recorded, but
    databroker gives only the Event that was taken last.
    """
    newest = {int(number): row for row, number in enumerate(run[stream].read(["seq_num"])["seq_num"].values)}
    return dict(sorted(newest.items()))
