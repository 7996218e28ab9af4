"""The local focus of each tile of the frame, from the exposures of a search or a sweep, live and recorded."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bluesky_autofocus.callbacks._analysis import AnalysisError
from bluesky_autofocus.callbacks._focus_record import FocusRecord
from bluesky_autofocus.callbacks._light import known_optics
from bluesky_autofocus.callbacks._replay import analyse
from bluesky_autofocus.callbacks._sharpness import SharpnessAnalysis, _SharpnessReading
from bluesky_autofocus.focus_map import LEAST_POSITIONS, FocusMap
from bluesky_autofocus.records import Reading
from bluesky_autofocus.sharpness import DEFAULT_METRIC, TileScores, check_grid, score_tiles

__all__ = ["FocusMapAnalysis", "FocusMapRecord", "focus_map"]

MOST_EXPOSURES = 1000
"""That an analysis keeps: some MB of numbers. A map is asked for when a search has ended."""


@dataclasses.dataclass(frozen=True)
class _TileReading(_SharpnessReading):
    """A reading of the whole frame that brings with it the sharpness of its tiles."""

    tiles: TileScores | None = None
    pixel_size_um: float = math.nan

    def recorded(self) -> dict[str, Any]:
        """Return also the tiles as JSON, empty where the frame could not be used, and the size of a pixel."""
        tiles = "" if self.tiles is None else self.tiles.as_json()
        return {**super().recorded(), "tiles": tiles, "pixel_size_um": self.pixel_size_um}


class FocusMapAnalysis(SharpnessAnalysis):
    """Give the sharpness of every frame as its reading, and record that of its tiles beside it.

    It serves any search in place of a `SharpnessAnalysis`, of which it is one. When the search has ended,
    `focus_map` tells where each tile was in focus; so does `bluesky_autofocus.callbacks.focus_map` of the
    recorded run, without its frames.

    Parameters
    ----------
    metric : str
        Of the whole frame, by which the search goes. Tiles go by the default metric in any case.
    grid : tuple of int
        Rows and columns of tiles.
    name : str, optional
        Of the analysis; "focus_map" by default.
    pixel_size_um : float, optional
        In the sample, where the documents do not say it (``*_pixel_size_um``).
    options
        As for `SharpnessAnalysis`. A ``roi`` is that of the reading; the tiles are those of the frame.

    Raises
    ------
    UnknownMetricError
        If there is no such metric, naming those there are.
    ValueError
        If `grid` is not two positive integers.
    """

    def __init__(
        self,
        metric: str = DEFAULT_METRIC,
        *,
        grid: tuple[int, int] = (4, 4),
        name: str = "focus_map",
        pixel_size_um: float | None = None,
        **options: Any,
    ) -> None:
        self.grid = check_grid(grid)
        self.pixel_size_um = pixel_size_um
        super().__init__(metric, name=name, **options)

    def _forget(self) -> None:
        super()._forget()
        self._record = FocusMapRecord(most=MOST_EXPOSURES)

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take in a document."""
        super().__call__(name, doc)
        # positions are in what the plan records of the readings
        self._record(name, doc)

    @property
    def parameters(self) -> dict[str, Any]:
        """The metric, its settings and the grid."""
        return {**super().parameters, "grid": list(self.grid)}

    def analyse_exposure(self, frame: np.ndarray, recorded: Mapping[str, Any]) -> Reading:
        """Return the sharpness of a frame and of its tiles, or why it has none.

        Raises
        ------
        ValueError
            If tiles would be smaller than 16 px, saying how large the frame is.
        """
        whole = super().analyse_exposure(frame, recorded)
        fields = {field.name: getattr(whole, field.name) for field in dataclasses.fields(whole)}
        tiles = score_tiles(frame, self.grid) if whole.accepted else None
        return _TileReading(**fields, tiles=tiles, pixel_size_um=self._pixel_size_um(recorded))

    def _pixel_size_um(self, recorded: Mapping[str, Any]) -> float:
        try:
            said = known_optics(recorded).get("pixel_size_um")
        except AnalysisError:  # several objectives: which one counts does not matter for sharpness
            said = None
        return float(said or self.pixel_size_um or math.nan)

    def focus_map(self, **options: Any) -> FocusMap:
        """Return the map of the newest search, in this run or in the last; see `FocusMapRecord.focus_map`."""
        return self._record.focus_map(**options)

    def map_of(self, event_uids: Sequence[str]) -> FocusMap | None:
        """Return the map that these exposures make; None where they are at fewer than 5 positions."""
        return self._record.map_of(event_uids)


@dataclasses.dataclass(frozen=True)
class _Exposure:
    """What was recorded of one exposure."""

    event_uid: str
    stream: str
    seq_num: int
    position_um: float
    tiles: str
    pixel_size_um: float


class FocusMapRecord(FocusRecord):
    """Collect the tiles of the exposures of a run from its documents, live or recorded.

    Parameters
    ----------
    most : int, optional
        Keep no more than so many exposures, the newest.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        super().__init__()

    def _clear(self, start: dict[str, Any]) -> None:
        super()._clear(start)
        # one that was taken again, after a pause, has its number again
        self._exposures: dict[tuple[str, str, int], _Exposure] = {}

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take in a document."""
        super().__call__(name, doc)
        stream = self._streams.get(doc["descriptor"], "") if name == "event" else ""
        if not stream.startswith("reading_"):
            return
        analysis, data = stream.removeprefix("reading_"), doc["data"]
        exposure = _Exposure(
            *(data[f"{analysis}_{key}"] for key in ("event_uid", "stream", "seq_num", "position_um")),
            tiles=data.get(f"{analysis}_tiles", ""),
            pixel_size_um=data.get(f"{analysis}_pixel_size_um", math.nan),
        )
        self._exposures[analysis, exposure.stream, exposure.seq_num] = exposure
        while self._most is not None and len(self._exposures) > self._most:
            self._exposures.pop(next(iter(self._exposures)))

    @property
    def has_tiles(self) -> bool:
        """Whether the newest focusing that could give a map has recorded its tiles."""
        operations = self._operations()
        return bool(operations) and any(exposure.tiles for exposure in operations[-1][0])

    def _operations(self) -> list[tuple[list[_Exposure], Mapping[str, Any]]]:
        """Return the exposures and the verdict's parameters of each focusing with enough positions.

        One without a verdict, still going on or interrupted, comes last.
        """
        left = {exposure.event_uid: exposure for exposure in self._exposures.values()}
        found = []
        for verdict in self.verdicts:
            of_it = [left.pop(uid) for uid in verdict["event_uids"] if uid in left]
            found.append((of_it, verdict["parameters"]))
        found.append((list(left.values()), {}))
        return [one for one in found if _suffice(one[0])]

    def operation(self, number: int = -1) -> tuple[list[_Exposure], Mapping[str, Any]]:
        """Return the exposures of one focusing, and the parameters of its verdict.

        Raises
        ------
        ValueError
            If there is none of that number, saying how many there are.
        """
        operations = self._operations()
        try:
            return operations[number]
        except IndexError:
            raise ValueError(
                f"run {self.start.get('uid', '')[:8]} holds {len(operations)} focusings with exposures at "
                f"{LEAST_POSITIONS} positions or more, which a focus map takes; asked for number {number}"
            ) from None

    def map_of(self, event_uids: Sequence[str]) -> FocusMap | None:
        """Return the map that exposures make, by the uids of their Events as they were emitted.

        None where they are at fewer than 5 positions, or their tiles were not recorded.
        """
        wanted = set(event_uids)
        exposures = [one for one in self._exposures.values() if one.tiles and one.event_uid in wanted]
        if not _suffice(exposures):
            return None
        of_them = [one for one in self.verdicts if wanted.issuperset(one["event_uids"])]
        return _map_of(_scored(exposures), of_them[-1]["parameters"] if of_them else {}, None, None)

    def focus_map(
        self,
        number: int = -1,
        *,
        depth_of_field_um: float | None = None,
        pixel_size_um: float | None = None,
    ) -> FocusMap:
        """Return the map of one focusing of the run.

        Parameters
        ----------
        number : int
            Which focusing of the run, of those with exposures at 5 positions or more; by default the last.
        depth_of_field_um, pixel_size_um : float, optional
            By default as recorded.

        Raises
        ------
        ValueError
            If there is no such focusing, or it recorded no tiles.
        """
        exposures, parameters = self.operation(number)
        scored = _scored(exposures)
        if not scored:
            raise ValueError(
                f"no tiles were recorded in run {self.start.get('uid', '')[:8]}: focus with a "
                "FocusMapAnalysis, or compute them from the frames by focus_map(run)"
            )
        return _map_of(scored, parameters, depth_of_field_um, pixel_size_um)


def focus_map(
    run: Any,
    number: int = -1,
    *,
    grid: tuple[int, int] = (4, 4),
    depth_of_field_um: float | None = None,
    pixel_size_um: float | None = None,
    image_key: str | None = None,
) -> FocusMap:
    """Tell where each tile of the frame was in focus in a recorded search or sweep.

    From the tiles that were recorded, if they were; otherwise from the frames.

    Parameters
    ----------
    run : databroker.client.BlueskyRun
        ``db[-1]``.
    number : int
        Which focusing of the run, of those with exposures at 5 positions or more; by default the last.
    grid : tuple of int
        Rows and columns of tiles, where they are computed from the frames.
    depth_of_field_um, pixel_size_um : float, optional
        By default as recorded.
    image_key : str, optional
        Which image, where a stream has several and its tiles were not recorded.

    Raises
    ------
    ValueError
        If the run holds no such focusing.
    AnalysisError
        If its frames cannot be analysed.
    """
    record = FocusMapRecord.of(run)
    exposures, parameters = record.operation(number)
    if any(exposure.tiles for exposure in exposures):
        return record.focus_map(number, depth_of_field_um=depth_of_field_um, pixel_size_um=pixel_size_um)
    full_scale = (parameters.get("analysis") or {}).get("full_scale")
    analysis = FocusMapAnalysis(grid=grid, full_scale=full_scale, image_key=image_key)
    streams = {exposure.stream for exposure in exposures}
    readings = {
        (stream, reading.seq_num): reading
        for stream, of_stream in analyse(run, analysis, streams=streams).items()
        for reading in of_stream
    }
    scored = []
    for exposure in exposures:
        reading = readings.get((exposure.stream, exposure.seq_num))
        if isinstance(reading, _TileReading) and reading.tiles is not None:
            scored.append((exposure.position_um, reading.tiles, reading.pixel_size_um))
    if not scored:
        raise ValueError(
            f"no frame of run {record.start['uid'][:8]} can be used: black, saturated or uniform"
        )
    return _map_of(scored, parameters, depth_of_field_um, pixel_size_um)


def _suffice(exposures: Sequence[_Exposure]) -> bool:
    return len({exposure.position_um for exposure in exposures}) >= LEAST_POSITIONS


def _scored(exposures: Sequence[_Exposure]) -> list[tuple[float, TileScores, float]]:
    return [
        (exposure.position_um, TileScores.of_json(exposure.tiles), exposure.pixel_size_um)
        for exposure in exposures
        if exposure.tiles
    ]


def _map_of(
    scored: Sequence[tuple[float, TileScores, float]],
    parameters: Mapping[str, Any],
    depth_of_field_um: float | None,
    pixel_size_um: float | None,
) -> FocusMap:
    positions_um, tiles, sizes_um = zip(*scored, strict=True)
    if pixel_size_um is None and math.isfinite(sizes_um[0]):
        pixel_size_um = sizes_um[0]
    return FocusMap.of(
        positions_um,
        tiles,
        depth_of_field_um=depth_of_field_um or parameters.get("depth_of_field_um"),
        pixel_size_um=pixel_size_um,
    )
