"""What there is to see of a run while it goes on: from its documents, in bounded memory.

The plots of an interactive session, the monitor page and the report draw from this.
"""

import dataclasses
import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from bluesky_autofocus.callbacks._focus_record import FocusPoint, FocusRecord, point_of, verdict_of
from bluesky_autofocus.callbacks._focusing import COLOURS, Focusing
from bluesky_autofocus.callbacks._place import Place, place_in
from bluesky_autofocus.callbacks._progress import Progress
from bluesky_autofocus.callbacks._surface import heights_of
from bluesky_autofocus.callbacks._tiles import THUMBNAIL_PX, Box, Tile, TileMap, map_of, thumbnail
from bluesky_autofocus.frames import read_frame

__all__ = ["FetchFrame", "WatchedRun"]

logger = logging.getLogger(__name__)

MOST_POINTS = 1000
"""Readings of one focusing, and focusings of a run, that are kept; beyond, older ones are thinned out."""

MOST_TILES = 1024
"""Tiles that are kept: their pictures take 16 kB each. Beyond, the oldest are forgotten."""

NEWEST_PX = 256
"""Of the longer side of the newest frame."""

UNITS = (("h", 3600.0), ("min", 60.0), ("s", 1.0))
"""Of time, and their seconds."""

FetchFrame = Callable[[Mapping[str, Any], int], NDArray[Any]]


class WatchedRun:
    """One run. All its attributes may be read between two documents.

    Parameters
    ----------
    start : mapping
        The start document.
    fetch_frame : callable, optional
        ``(stream_resource, row) -> frame``. By default from memory or from the file.

    Attributes
    ----------
    start, stop : mapping
        The documents; the latter is empty while the run goes on.
    curve : FocusRecord
        The readings and the verdict of the newest focusing of more than one exposure.
    focusings : list of Focusing
        Those that have ended.
    outcomes, reasons : Counter
        How many of them, by `Focusing.kind` and by reason.
    tiles : dict
        By place, the newest last.
    newest : Tile or None
        The newest frame of all, whether of a focusing or not.
    frames : Counter
        How many were taken, by stream.
    exposures, dose_s : float
        That focusing took.
    progress : Progress
    changes : int
        Rises with each document that changes what is to be seen.
    """

    def __init__(self, start: Mapping[str, Any], fetch_frame: FetchFrame = read_frame) -> None:
        self.start = start
        self.stop: Mapping[str, Any] = {}
        self.progress = Progress(start)
        self.curve = self._growing = self._empty_curve()
        self.focusings: list[Focusing] = []
        self.outcomes, self.reasons = Counter[str](), Counter[str]()
        self.tiles: dict[Any, Tile] = {}
        self.newest: Tile | None = None
        self.frames = Counter[str]()
        self.exposures, self.dose_s = 0, 0.0
        self.newest_s = float(start["time"])
        self.changes = 0
        self._fetch_frame = fetch_frame
        self._descriptors: dict[str, Mapping[str, Any]] = {}
        self._resources: dict[str, Mapping[str, Any]] = {}
        self._rows: dict[tuple[str, str], deque[tuple[str, int]]] = {}
        self._place = Place()
        self._newest_rests_on: set[str] = set()
        self._recorded: list[tuple[Box, float]] = []
        self._without_tile: list[Focusing] = []
        self._focused_at: dict[Any, Focusing] = {}

    def _empty_curve(self) -> FocusRecord:
        curve = FocusRecord()
        curve.start = dict(self.start)
        return curve

    @property
    def title(self) -> str:
        """What a person calls it."""
        name = str(self.start.get("sample") or self.start.get("plan_name", "run"))
        number = self.start.get("scan_id")
        return f"{name}, run {self.start['uid'][:8]}" + ("" if number is None else f" ({number})")

    @property
    def ended(self) -> str:
        """How it ended; empty while it goes on."""
        return str(self.stop.get("exit_status", ""))

    @property
    def by_kind(self) -> dict[str, list[Focusing]]:
        """Its focusings by what became of them, in the order of `COLOURS`."""
        kinds = {kind: [one for one in self.focusings if one.kind == kind] for kind in COLOURS}
        return {kind: some for kind, some in kinds.items() if some}

    @property
    def time_unit(self) -> tuple[str, float]:
        """A unit of time that suits the length of the run, and its seconds."""
        length_s = self.newest_s - float(self.start["time"])
        return next((unit for unit in UNITS if length_s > 2 * unit[1]), UNITS[-1])

    def times(self, focusings: list[Focusing]) -> list[float]:
        """Return when focusings ended, since the start of the run, in its `time_unit`."""
        return [(one.time_s - float(self.start["time"])) / self.time_unit[1] for one in focusings]

    @property
    def has_surface(self) -> bool:
        """Whether its focus is known at more than one place."""
        return bool(self._recorded) or len({one.place.key for one in self.focusings if one.place.known}) > 1

    def surface(self) -> tuple[list[Focusing], list[tuple[Box, float]]]:
        """Return focusings whose place is known, and squares with where focus is.

        Squares are what tiles cover; where those do not tell, the newest surface that was recorded.
        """
        tile_map = self.tile_map()
        tiles = zip(tile_map.tiles, tile_map.boxes, strict=True) if tile_map.unit == "um" else ()
        heights = [(box, tile.focus_um) for tile, box in tiles if math.isfinite(tile.focus_um)]
        return [one for one in self.focusings if one.place.known], heights or self._recorded

    @property
    def tile_kinds(self) -> Counter[str]:
        """On what the focus of how many tiles rests, by `Tile.kind`."""
        return Counter(tile.kind for tile in self.tiles.values())

    def tile_map(self) -> TileMap:
        """Return where its tiles were taken."""
        return map_of(self.tiles.values())

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take in a document of this run."""
        handler = getattr(self, f"_on_{name}", None)
        if handler is not None:
            handler(doc)
            self.changes += 1

    def _on_descriptor(self, doc: Mapping[str, Any]) -> None:
        self._descriptors[doc["uid"]] = doc

    def _on_stream_resource(self, doc: Mapping[str, Any]) -> None:
        self._resources[doc["uid"]] = doc

    def _on_stream_datum(self, doc: Mapping[str, Any]) -> None:
        stream = self._descriptors[doc["descriptor"]]["name"]
        key = self._resources[doc["stream_resource"]]["data_key"]
        rows = self._rows.setdefault((stream, key), deque())
        new = range(doc["indices"]["start"], doc["indices"]["stop"])
        rows.extend((doc["stream_resource"], row) for row in new)

    def _on_stop(self, doc: Mapping[str, Any]) -> None:
        self.stop = doc
        self.newest_s = max(self.newest_s, float(doc["time"]))

    def _on_event(self, doc: Mapping[str, Any]) -> None:
        descriptor = self._descriptors[doc["descriptor"]]
        stream, data = descriptor["name"], doc["data"]
        self.newest_s = float(doc["time"])
        self.progress.take(stream, doc)
        if stream.startswith("reading_"):
            self._take_point(point_of(stream.removeprefix("reading_"), data))
        elif stream == "verdict":
            self._take_verdict(doc)
        elif stream == "focus_surface":
            self._recorded = heights_of(data["focus_surface_surface"])
        else:
            self._take_frame(descriptor, doc)

    def _take_point(self, point: FocusPoint) -> None:
        if self._growing.verdicts:
            self._growing = self._empty_curve()
        self._growing.on_point(point)
        _thin(self._growing.points)
        if len(self._growing.points) > 1 or not self.curve.points:
            self.curve = self._growing

    def _take_verdict(self, doc: Mapping[str, Any]) -> None:
        verdict = verdict_of(doc["data"])
        self._growing.on_verdict(verdict)
        rests_on = set(verdict["event_uids"])
        if self._newest_rests_on and self._newest_rests_on <= rests_on:
            self._count(
                self.focusings.pop(), -1
            )  # it was a part of this one, whose exposures include its own
        self._newest_rests_on = rests_on
        focusing = Focusing(
            number=sum(self.outcomes.values()) + 1,
            time_s=float(doc["time"]),
            dose_s=float(verdict["dose"]),
            place=self._place,
            **{name: verdict[name] for name in _TAKEN},
        )
        self._count(focusing, 1)
        self.focusings.append(focusing)
        _thin(self.focusings)
        self._without_tile.append(focusing)

    def _count(self, focusing: Focusing, times: int) -> None:
        self.outcomes[focusing.kind] += times
        self.reasons[focusing.reason] += times
        self.exposures += times * focusing.exposures
        self.dose_s += 0.0 if math.isnan(focusing.dose_s) else times * focusing.dose_s

    def _take_frame(self, descriptor: Mapping[str, Any], doc: Mapping[str, Any]) -> None:
        stream, keys = descriptor["name"], descriptor["data_keys"]
        rows = {key: self._rows[stream, key] for key in keys if self._rows.get((stream, key))}
        frames = {key: of.popleft() for key, of in rows.items()}
        data = doc["data"]
        tile = Tile(
            number=doc["seq_num"],
            time_s=float(doc["time"]),
            place=place_in(keys, data),
            focus_um=float(data.get("tile_focus_um", math.nan)),
            said=_said_in(data),
        )
        if tile.place.known:
            self._place = tile.place
        if frames:
            self.frames[stream] += 1
            resource, row = next(iter(frames.values()))
            tile.waiting = self._resources[resource], row
            self.newest = dataclasses.replace(tile)
        if stream.startswith("focus_"):
            return
        if frames:
            self._put((stream, tile.number) if tile.place.key is None else tile.place.key, tile)
        elif tile.place.key is not None:
            self._take_place(tile)

    def _take_place(self, tile: Tile) -> None:
        """Take in what is said of a place without a frame: for what it was focused, or how it ended."""
        key = tile.place.key
        self._belonging(key, tile.place)
        if key in self.tiles:
            self.tiles[key].focusing = self._focused_at.get(key)
            self.tiles[key].said = tile.said or self.tiles[key].said
        elif tile.said:
            self._put(key, tile)  # it was left out

    def _belonging(self, key: Any, place: Place) -> None:
        """Let the focusings of which nobody said yet what they were for be those of a place.

        The stage goes there first, and then it is focused.
        """
        for focusing in self._without_tile:
            if place.known:
                focusing.place = place
            self._focused_at.pop(key, None)
            self._focused_at[key] = focusing
        self._without_tile.clear()
        _forget(self._focused_at)

    def _put(self, key: Any, tile: Tile) -> None:
        """Keep a tile instead of what was at its place before."""
        self._belonging(key, tile.place)
        tile.focusing = self._focused_at.get(key)
        if tile.focusing is not None and not tile.place.known:
            where = tile.focusing.place
            tile.place = dataclasses.replace(tile.place, x_um=where.x_um, y_um=where.y_um)
        before = self.tiles.pop(key, None)
        if before is not None:
            tile.picture = before.picture  # until it has its own
        self.tiles[key] = tile
        _forget(self.tiles)

    def develop(self, most: int = 16) -> int:
        """Look at frames that are waiting, the newest first; return how many still wait.

        Apart from taking in documents, so that frames that come faster than anyone draws cost nothing.

        Parameters
        ----------
        most : int
            How many to look at.
        """
        waiting = [tile for tile in reversed(self.tiles.values()) if tile.waiting is not None]
        if self.newest is not None and self.newest.waiting is not None:
            waiting.insert(0, self.newest)
        for tile in waiting[:most]:
            assert tile.waiting is not None  # noqa: S101 - told to the type checker
            try:
                frame = self._fetch_frame(*tile.waiting)
                tile.picture = thumbnail(frame, NEWEST_PX if tile is self.newest else THUMBNAIL_PX)
            except Exception as error:
                # deleted, on another machine, not written through yet: there is no picture of it
                logger.debug("there is no picture of frame %s: %s", tile.number, error)
            tile.waiting = None
        if waiting:
            self.changes += 1
        return max(0, len(waiting) - most)


_TAKEN = ("method", "found", "reason", "position_um", "sigma_um", "start_um", "exposures")


def _said_in(data: Mapping[str, Any]) -> str:
    """Return what a tile's focus rests on, one of `COLOURS`, where its plan says so and did not focus it."""
    source = data.get("tile_source")
    if source is None:
        return ""
    if data.get("tile_frames") == 0:
        return "not found"
    if data.get("tile_marked"):
        return "marked"
    return "" if source == "focused" else "expected"


def _forget(kept: dict[Any, Any]) -> None:
    """Forget the oldest, once there are too many."""
    while len(kept) > MOST_TILES:
        del kept[next(iter(kept))]


def _thin(kept: list[Any]) -> None:
    """Drop every second one, once there are too many; the first and the last stay."""
    if len(kept) > MOST_POINTS:
        del kept[1:-1:2]
