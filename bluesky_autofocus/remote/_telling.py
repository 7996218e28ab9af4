"""What a worker that comes later has to be told of the runs that are open."""

import dataclasses
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

from bluesky_autofocus.callbacks import RecordedExposure

__all__ = ["KEPT", "OpenRuns", "Told"]

KEPT = 64
"""Newest exposures of a stream that it is told of, where several make a reading; else only the newest."""

Told = tuple[str, dict[str, Any], RecordedExposure | None]
"""A document, and the exposure whose frame may travel with it."""


@dataclasses.dataclass
class _Run:
    opening: dict[str, Told] = dataclasses.field(default_factory=dict)
    newest: dict[str, deque[Told]] = dataclasses.field(default_factory=dict)
    exposures: Counter[str] = dataclasses.field(default_factory=Counter)


class OpenRuns:
    """The documents by which runs opened, and those of the newest exposures.

    Parameters
    ----------
    several : bool
        Whether several exposures make a reading.
    """

    def __init__(self, several: bool) -> None:
        self._kept = KEPT if several else 1
        self._runs: dict[str, _Run] = {}

    def take(self, told: Told) -> None:
        """Take in a document; of a run that was not seen to open, nothing is kept."""
        name, doc, exposure = told
        if name == "start":
            self._runs[doc["uid"]] = _Run({doc["uid"]: told})
        elif name == "stop":
            self._runs.pop(doc["run_start"], None)
        elif name in ("descriptor", "stream_resource"):
            if doc["run_start"] in self._runs:
                self._runs[doc["run_start"]].opening[doc["uid"]] = told
        elif name in ("stream_datum", "event"):
            for run in self._runs.values():
                if doc["descriptor"] in run.opening:
                    self._take_in(run, told)

    def _take_in(self, run: _Run, told: Told) -> None:
        name, doc, exposure = told
        _, descriptor, _ = run.opening[doc["descriptor"]]
        images = sum(key.get("external") == "STREAM:" for key in descriptor["data_keys"].values())
        if images:
            newest = run.newest.setdefault(descriptor["name"], deque(maxlen=self._kept * (images + 1)))
            newest.append(told)
        if exposure is not None:
            run.exposures[descriptor["name"]] += 1

    def exposures(self, run_uid: str, stream: str) -> int:
        """Return how many exposures there were in a stream."""
        return self._runs[run_uid].exposures[stream]

    def missed(self, known: set[str]) -> Iterator[Told]:
        """Yield what belongs to runs that are not known, or not all of them.

        Parameters
        ----------
        known : set of str
            Uids of documents by which runs opened.
        """
        for run in self._runs.values():
            if not run.opening.keys() <= known:
                yield from run.opening.values()
                for newest in run.newest.values():
                    yield from newest
