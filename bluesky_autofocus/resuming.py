"""Go on with a tile scan or a time-lapse that ended early: what of it is there, by its documents.

Its start document holds the plan and its arguments, ``resumable``, with devices and analyses by name. What is
complete is said by the stream ``tile``, what was learnt of the focus by ``tile_focus``. A run that continues
another one has its ``series``, and says which one in ``continues``.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from bluesky_autofocus.leds import Pattern

__all__ = [
    "NotResumableError",
    "Recorded",
    "Resumption",
    "resumable",
    "resumption",
    "resumption_of",
    "runs_of",
]

KEPT_POINTS = 200
"""Of a surface, spread over the run: its shape needs no more, and they go into a start document."""


class NotResumableError(ValueError):
    """A run that cannot be continued."""


def resumable(plan: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a start document says of a plan, so that it can be called again.

    Parameters
    ----------
    plan : str
        Its name.
    args, kwargs : sequence, mapping
        What it was called with. Devices and analyses become their names, analyses with their parameters.
    """
    return {"resumable": {"plan": plan, "args": _encoded(list(args)), "kwargs": _encoded(dict(kwargs))}}


def _encoded(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): _encoded(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_encoded(one) for one in value]
    if isinstance(value, Pattern):
        return str(value)
    if isinstance(getattr(value, "name", None), str):
        parameters = getattr(value, "parameters", None)
        return {"named": value.name, **({"parameters": _encoded(parameters)} if parameters else {})}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _encoded(dataclasses.asdict(value))
    return {"unknown": repr(value)}


@dataclasses.dataclass
class Recorded:
    """What one run says of its tiles: a callback for its documents.

    Attributes
    ----------
    start : dict
        Its start document.
    complete : dict
        By time point and tile, whether it is marked, that is whether nobody vouches for its focus.
    points : list of tuple
        Where focus was found, less the drift since the surface was measured: (x, y, focus, sigma) in um.
    last_good_um : dict
        By tile, where focus was found last.
    """

    start: dict[str, Any] = dataclasses.field(default_factory=dict)
    complete: dict[tuple[int, int], bool] = dataclasses.field(default_factory=dict)
    points: list[tuple[float, float, float, float]] = dataclasses.field(default_factory=list)
    last_good_um: dict[int, float] = dataclasses.field(default_factory=dict)
    _streams: dict[str, str] = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, run: Any) -> Self:
        """Return what a run in databroker says."""
        recorded = cls(start=dict(run.start))
        for stream in ("tile_focus", "tile"):
            if stream in run:  # it may have ended before the first one
                table = run[stream].read()
                columns = {str(key): table[key].values for key in table if str(key).startswith("tile_")}
                for row in zip(*columns.values(), strict=True):
                    recorded._on_event(stream, dict(zip(columns, row, strict=True)))
        return recorded

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take in a document."""
        if name == "start":
            self.start = doc
        elif name == "descriptor":
            self._streams[doc["uid"]] = doc["name"]
        elif name == "event":
            self._on_event(self._streams[doc["descriptor"]], doc["data"])

    def _on_event(self, stream: str, data: Mapping[str, Any]) -> None:
        if stream == "tile":
            where = int(data["tile_time_point"]), int(data["tile_index"])
            self.complete[where] = bool(data["tile_marked"])
        elif stream == "tile_focus" and data["tile_found"]:
            focus_um = float(data["tile_focus_um"])
            self.last_good_um[int(data["tile_index"])] = focus_um
            height_um = focus_um - float(data["tile_drift_um"])
            point = (
                float(data["tile_x_um"]),
                float(data["tile_y_um"]),
                height_um,
                float(data["tile_sigma_um"]),
            )
            if all(map(math.isfinite, point)):
                self.points.append(point)


@dataclasses.dataclass(frozen=True)
class Resumption:
    """What is left of a tile scan or a time-lapse, and the plan that takes it.

    Parameters
    ----------
    plan : str
        Its name.
    args, kwargs : list, dict
        What to call it with, devices and analyses by name; `decoded` gives them as they are.
    missing : int
        How many visits are left.
    total : int
        Of how many.
    instrument : mapping
        What the session said of its instrument, if it was one.
    """

    plan: str
    args: list[Any]
    kwargs: dict[str, Any]
    missing: int
    total: int
    instrument: Mapping[str, Any]

    @property
    def analyses(self) -> dict[str, dict[str, Any]]:
        """The parameters of the analyses that it was called with, by their names."""
        given = [value for value in self.kwargs.values() if isinstance(value, Mapping) and "named" in value]
        return {one["named"]: dict(one["parameters"]) for one in given if "parameters" in one}

    def decoded(self, named: Callable[[str], Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments with devices and analyses in place of their names.

        Parameters
        ----------
        named : callable
            Returns the device or analysis of a name.

        Raises
        ------
        NotResumableError
            If an argument was recorded only as it looked.
        """
        return _decoded(self.args, named), _decoded(self.kwargs, named)


def _decoded(value: Any, named: Callable[[str], Any]) -> Any:
    if isinstance(value, Mapping):
        if "named" in value and set(value) <= {"named", "parameters"}:
            return named(value["named"])
        if set(value) == {"unknown"}:
            raise NotResumableError(f"the run was made with {value['unknown']}, which no document can hold")
        return {key: _decoded(one, named) for key, one in value.items()}
    if isinstance(value, list):
        return [_decoded(one, named) for one in value]
    return value


def resumption(runs: Iterable[Recorded], *, marked: bool = False) -> Resumption:
    """Return what is left of a series of runs.

    Parameters
    ----------
    runs : iterable of Recorded
        Those of the series, the oldest first.
    marked : bool
        Whether to visit the marked tiles again too.

    Raises
    ------
    NotResumableError
        If the newest of them was made by another plan.
    """
    runs = list(runs)
    newest = runs[-1].start
    if "resumable" not in newest:
        raise NotResumableError(
            f"run {newest['uid'][:8]} is no tile_scan or time_lapse "
            f"but {newest.get('plan_name', 'of another plan')}"
        )
    plan, args, kwargs = (newest["resumable"][key] for key in ("plan", "args", "kwargs"))
    tiles, time_points = _size(plan, kwargs)
    is_marked: dict[int, bool] = {}
    for first, last in newest.get("done", []):  # also where an earlier run is no longer there
        is_marked |= dict.fromkeys(range(first, last + 1), False)
    for one in runs:
        is_marked |= {point * tiles + index: given for (point, index), given in one.complete.items()}
    done = [number for number, given in is_marked.items() if not (marked and given)]
    known = _surface(kwargs, runs[-1]) if plan == "tile_scan" else _positions(kwargs, runs)
    return Resumption(
        plan=plan,
        args=list(args),
        kwargs={
            **kwargs,
            **known,
            "done": runs_of(done),
            "continues": newest["uid"],
            "series": newest["series"],
        },
        missing=tiles * time_points - len(done),
        total=tiles * time_points,
        instrument=newest.get("instrument") or {},
    )


def resumption_of(client: Any, run: Any, *, marked: bool = False) -> Resumption:
    """Return what is left of the series that a run in databroker belongs to.

    Parameters
    ----------
    client : databroker.client.CatalogOfBlueskyRuns
        ``db``, or the client of `open_catalog`.
    run : databroker.client.BlueskyRun
        Any run of the series.
    marked : bool
        Whether to visit the marked tiles again too.

    Raises
    ------
    NotResumableError
        If it was made by another plan, or a run of the series has not ended.
    """
    from tiled.queries import Key

    series = run.start.get("series")
    runs = [run] if series is None else list(client.search(Key("series") == series).values())
    for one in runs:
        if one.stop is None:
            raise NotResumableError(f"run {one.start['uid'][:8]} has not ended: it is being recorded")
    return resumption(
        (Recorded.of(one) for one in sorted(runs, key=lambda one: one.start["time"])), marked=marked
    )


def _size(plan: str, kwargs: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many tiles there are, and how many time points."""
    if plan == "time_lapse":
        return len(kwargs["positions"] or [None]), kwargs["count"]
    if kwargs.get("tiles") is not None:
        return len(kwargs["tiles"]), 1
    return kwargs["rows"] * kwargs["columns"], 1


def _surface(kwargs: Mapping[str, Any], newest: Recorded) -> dict[str, Any]:
    """Return the points by which a tile scan knows its surface: those it began with, and what it found."""
    points = [*kwargs["surface"], *map(list, newest.points)]
    return {"surface": points[:: math.ceil(len(points) / KEPT_POINTS) or 1]}


def _positions(kwargs: Mapping[str, Any], runs: Sequence[Recorded]) -> dict[str, Any]:
    """Return the positions of a time-lapse with the last good focus of each."""
    if kwargs["positions"] is None:
        return {}
    last_good_um: dict[int, float] = {}
    for one in runs:
        last_good_um |= one.last_good_um
    return {
        "positions": [
            [*place[:2], last_good_um[index]] if index in last_good_um else place
            for index, place in enumerate(kwargs["positions"])
        ]
    }


def runs_of(numbers: Iterable[int]) -> list[list[int]]:
    """Return numbers as runs ``[first, last]``, ascending: what is done of a night is a short list."""
    ordered = np.array(sorted(numbers), int)
    parts = np.split(ordered, np.flatnonzero(np.diff(ordered) > 1) + 1)
    return [[int(part[0]), int(part[-1])] for part in parts if len(part)]
