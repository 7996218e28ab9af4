"""How far a run is, and how long it will take."""

import math
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["CollectionProgress", "Progress", "RunProgress"]


class Progress:
    """How many of the points of a run are there, as its documents tell.

    Parameters
    ----------
    start : mapping
        The start document. ``num_points``, or the product of ``shape``, is how many there will be; the first
        dimension of its hints says in which stream, by default ``primary``.

    Attributes
    ----------
    done : int
        Points that are there.
    total : int or None
        Points that there will be, None where the run does not say.
    """

    def __init__(self, start: Mapping[str, Any]) -> None:
        self.stream = _counted_stream(start)
        self.total = _total(start)
        self.done = 0
        self._started_s = self._newest_s = float(start.get("time", math.nan))

    def take(self, stream: str, event: Mapping[str, Any]) -> bool:
        """Take in an Event; return whether it is one of the points."""
        if stream != self.stream:
            return False
        # after a pause the newest may come again, under its old number
        self.done = event["seq_num"]
        self._newest_s = float(event["time"])
        return True

    def remaining_s(self, now_s: float | None = None) -> float:
        """Return how long the rest takes if it goes on as until now; NaN where nobody knows.

        Parameters
        ----------
        now_s : float, optional
            Seconds since 1970; by default when the newest point was there.
        """
        if self.total is None or self.done < 1:
            return math.nan
        a_point_s = (self._newest_s - self._started_s) / self.done
        passed_s = 0.0 if now_s is None else now_s - self._newest_s
        return max(0.0, a_point_s * (self.total - self.done) - passed_s)


def _total(start: Mapping[str, Any]) -> int | None:
    total = start.get("num_points")
    if total is None and start.get("shape"):
        total = math.prod(start["shape"])
    return int(total) if total else None


def _counted_stream(start: Mapping[str, Any]) -> str:
    dimensions = start.get("hints", {}).get("dimensions") or ()
    return dimensions[0][1] if dimensions else "primary"


class RunProgress:
    """A document callback that shows a progress bar, with the remaining time, for each run.

    For each, that is, that says how many points it will have.

    Parameters
    ----------
    make_bar : callable, optional
        ``make_bar(total=..., unit=..., desc=...)`` returns something with ``n``, ``update`` and ``close``; by
        default `tqdm.auto.tqdm`. None where there is no tqdm: then nothing is shown.
    least : int
        Runs of fewer points have no bar.
    """

    unit = "points"

    def __init__(self, make_bar: Callable[..., Any] | None = None, *, least: int = 1) -> None:
        self._make_bar = make_bar or _tqdm
        self._least = least
        self._streams: dict[str, str] = {}
        self._progress: Progress | None = None
        self._run = ""
        self._bar: Any = None

    def wanted(self, start: Mapping[str, Any]) -> bool:
        """Return whether a run is to have a bar."""
        return (_total(start) or 0) >= self._least

    def on_event(self, stream: str, doc: Mapping[str, Any]) -> None:
        """Take in an Event of the run."""
        if self._progress is not None and self._progress.take(stream, doc) and self._bar is not None:
            self._bar.update(self._progress.done - self._bar.n)

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take in a document."""
        if name == "start" and self._progress is None and self.wanted(doc):
            self._run, self._progress = doc["uid"], Progress(doc)
            self._bar = self._make_bar(
                total=self._progress.total, unit=self.unit, desc=str(doc.get("plan_name", "run"))
            )
        elif name == "descriptor" and doc["run_start"] == self._run:
            self._streams[doc["uid"]] = doc["name"]
        elif name == "event" and doc["descriptor"] in self._streams:
            self.on_event(self._streams[doc["descriptor"]], doc)
        elif name == "stop" and doc["run_start"] == self._run:
            if self._bar is not None:
                self._bar.close()
            self._bar = self._progress = None
            self._streams.clear()


class CollectionProgress(RunProgress):
    """A progress bar while `collect_focal_stacks` runs.

    Parameters
    ----------
    make_bar : callable, optional
        As for `RunProgress`.
    completed : callable, optional
        Called with the number of each field that is complete.
    """

    unit = "exposures"

    def __init__(
        self,
        make_bar: Callable[..., Any] | None = None,
        completed: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(make_bar)
        self._completed = completed

    def wanted(self, start: Mapping[str, Any]) -> bool:
        """Return whether a run collects focal stacks."""
        return bool(start.get("collection"))

    def on_event(self, stream: str, doc: Mapping[str, Any]) -> None:
        """Take in an Event of the run."""
        super().on_event(stream, doc)
        if stream == "field" and self._completed is not None:
            self._completed(doc["data"]["field_number"])


def _tqdm(**options: Any) -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm(**options)
