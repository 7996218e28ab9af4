"""Which of the runs that go on is to be seen."""

from collections.abc import Mapping
from typing import Any

from bluesky_autofocus.callbacks._watched_run import FetchFrame, WatchedRun
from bluesky_autofocus.frames import read_frame

__all__ = ["Watched"]


class Watched:
    """Which of the runs that go on is to be seen: the one that began last, or else ended last.

    Subscribe it to a RunEngine, or hand it documents from elsewhere, always on one thread.

    Parameters
    ----------
    fetch_frame : callable, optional
        As for `WatchedRun`.

    Attributes
    ----------
    run : WatchedRun or None
    """

    def __init__(self, fetch_frame: FetchFrame = read_frame) -> None:
        self.run: WatchedRun | None = None
        self._fetch_frame = fetch_frame
        self._open: dict[str, WatchedRun] = {}
        self._run_of: dict[str, str] = {}

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take in a document; those of a run whose start was missed are left out."""
        if name == "start":
            self.run = self._open[doc["uid"]] = WatchedRun(doc, self._fetch_frame)
            return
        parent = doc.get("descriptor") or doc.get("stream_resource", "")
        uid = doc.get("run_start") or self._run_of.get(parent)
        run = self._open.get(uid or "")
        if uid is None or run is None:
            return
        if "uid" in doc and name in ("descriptor", "stream_resource"):
            self._run_of[doc["uid"]] = uid
        run(name, doc)
        if name == "stop":
            del self._open[uid]
            self._run_of = {key: of for key, of in self._run_of.items() if of != uid}
            # a run that was open around this one is still to be seen
            self.run = next(reversed(self._open.values()), run)
