"""Run an analysis over a run that is already in databroker."""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from bluesky_autofocus.callbacks._analysis import Analysis
from bluesky_autofocus.frames import read_frame
from bluesky_autofocus.records import Reading

__all__ = ["analyse", "rows_of_events"]

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
    # databroker gives all Events before the documents that say where their frames are
    documents = sorted(run.documents(), key=lambda document: _ORDER.index(document[0]))
    stream_names = {doc["uid"]: doc["name"] for name, doc in documents if name == "descriptor"}
    keys = {doc["uid"]: doc["data_key"] for name, doc in documents if name == "stream_resource"}
    stream_of = {
        doc["stream_resource"]: stream_names[doc["descriptor"]]
        for name, doc in documents
        if name == "stream_datum"
    }

    events = Counter(stream_names[doc["descriptor"]] for name, doc in documents if name == "event")
    rows = Counter[str]()
    for name, doc in documents:
        if name == "stream_datum":
            rows[doc["stream_resource"]] += doc["indices"]["stop"] - doc["indices"]["start"]
    kept = {
        resource: list(rows_of_events(run, stream).values())
        for resource, stream in stream_of.items()
        if rows[resource] != events[stream]
    }

    def fetch(resource: Mapping[str, Any], row: int) -> np.ndarray:
        try:
            return read_frame(resource, row)
        except FileNotFoundError:  # recorded on another machine: ask the server
            return run[stream_of[resource["uid"]], keys[resource["uid"]]][row]

    twin = analysis.offline(fetch)
    analysed = set(stream_of.values())
    if streams is not None:
        analysed &= set(streams)
    readings: dict[str, list[Reading]] = {stream: [] for stream in analysed}
    for name, doc in documents:
        if name in ("event", "stream_datum") and stream_names[doc["descriptor"]] not in analysed:
            continue
        if name == "stream_datum" and doc["stream_resource"] in kept:
            for row in kept[doc["stream_resource"]]:
                twin(name, {**doc, "indices": {"start": row, "stop": row + 1}})
        else:
            twin(name, dict(doc))
        if name == "event":
            stream = stream_names[doc["descriptor"]]
            readings[stream].append(twin.reading(stream))
    return readings


def rows_of_events(run: Any, stream: str) -> dict[int, int]:
    """Return the row of the frame of each Event that databroker gives, by the Event's number, ascending.

    A pause that rewinds has Events taken again, under the same number. All their frames are recorded, but
    databroker gives only the Event that was taken last.
    """
    newest = {int(number): row for row, number in enumerate(run[stream].read(["seq_num"])["seq_num"].values)}
    return dict(sorted(newest.items()))
