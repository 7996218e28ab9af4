"""What a run says about focusing: readings against position, and verdicts."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Self

from bluesky_autofocus.records import Reason

__all__ = ["FocusPoint", "FocusRecord", "FocusTable", "point_of", "verdict_of"]


@dataclasses.dataclass(frozen=True)
class FocusPoint:
    """One reading of a focus curve."""

    stream: str
    seq_num: int
    position_um: float
    value: float
    sigma: float
    unit: str
    accepted: bool
    reason: str


class FocusRecord:
    """Collect the focus curve and the verdicts of a run from its documents, live or recorded.

    Attributes
    ----------
    start : dict
        The start document of the newest run.
    points : list of FocusPoint
        In the order in which they were taken.
    verdicts : list of dict
        The fields of `Verdict`, and the versions it depends on.
    """

    def __init__(self) -> None:
        self._clear({})

    def _clear(self, start: dict[str, Any]) -> None:
        self.start = start
        self.points: list[FocusPoint] = []
        self.verdicts: list[dict[str, Any]] = []
        self._streams: dict[str, str] = {}

    @classmethod
    def of(cls, run: Any) -> Self:
        """Return the record of a run in databroker."""
        record = cls()
        for name, doc in run.documents():
            record(name, doc)
        return record

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take in a document."""
        if name == "start":
            self._clear(doc)
        elif name == "descriptor":
            self._streams[doc["uid"]] = doc["name"]
        elif name == "event":
            stream = self._streams.get(doc["descriptor"], "")
            if stream.startswith("reading_"):
                self.on_point(point_of(stream.removeprefix("reading_"), doc["data"]))
            elif stream == "verdict":
                self.on_verdict(verdict_of(doc["data"]))

    def on_point(self, point: FocusPoint) -> None:
        """Take in a reading; displays draw it."""
        self.points.append(point)

    def on_verdict(self, verdict: dict[str, Any]) -> None:
        """Take in a verdict; displays show it."""
        self.verdicts.append(verdict)


def point_of(analysis: str, data: Mapping[str, Any]) -> FocusPoint:
    """Return the reading that an Event of ``reading_ANALYSIS`` holds."""
    names = [field.name for field in dataclasses.fields(FocusPoint)]
    return FocusPoint(**{name: data[f"{analysis}_{name}"] for name in names})


def verdict_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the verdict that an Event holds, with what is JSON decoded."""
    fields = {key.removeprefix("verdict_"): value for key, value in data.items()}
    for key in ("event_uids", "parameters", "versions"):
        fields[key] = json.loads(fields[key])
    return fields


class FocusTable(FocusRecord):
    """Print each exposure as a line while focusing goes on, and the verdict in the end.

    Parameters
    ----------
    show : callable
        What is called with each line.
    """

    def __init__(self, show: Any = print) -> None:
        super().__init__()
        self._show = show

    def on_point(self, point: FocusPoint) -> None:
        """Show a reading."""
        super().on_point(point)
        best = max((seen.value for seen in self.points if seen.accepted), default=float("nan"))
        if point.reason == Reason.INCOMPLETE:
            return  # what its frame tells comes with the one after it
        if not point.accepted:
            said = f"not usable: {point.reason}"
        elif point.unit:
            said = f"defocus {point.value:+.3f} +- {point.sigma:.3f} {point.unit}"
        else:
            bar = "#" * round(40 * max(point.value, 0.0) / best) if best > 0 else ""
            said = f"{point.value:12.5g} {bar}"
        self._show(f"{len(self.points):4d}  {point.position_um:12.3f} um  {said}")

    def on_verdict(self, verdict: dict[str, Any]) -> None:
        """Show a verdict."""
        super().on_verdict(verdict)
        if verdict["found"]:
            self._show(
                f"      {verdict['reason']}: {verdict['position_um']:.3f} +- {verdict['sigma_um']:.3f} um "
                f"after {verdict['exposures']} exposures"
            )
        else:
            self._show(f"      not found: {verdict['reason']}; back at {verdict['start_um']:.3f} um")
