"""The plan that exposes a specimen tile by tile, in focus."""

import dataclasses
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal
from uuid import uuid4

from bluesky import plan_stubs as bps
from bluesky.protocols import Readable
from bluesky.utils import CustomPlanMetadata, MsgGenerator, plan

from bluesky_autofocus.clock import Clock, WallClock
from bluesky_autofocus.leds import Pattern
from bluesky_autofocus.plans._moving import Approach
from bluesky_autofocus.plans._protocols import Detectors, FocusAnalysis, FocusAxis, PatternLight
from bluesky_autofocus.plans._tiling._arranging import Options, acquire, visits_of
from bluesky_autofocus.plans._tiling._forecast import SurfaceForecast, drift_maker, points_of
from bluesky_autofocus.plans._tiling._records import Visit, Visited
from bluesky_autofocus.plans._tiling._tiles import (
    Tile,
    count_of,
    grid_tiles,
    listed_tiles,
    numbers_in,
    spread,
)
from bluesky_autofocus.plans._tiling._visiting import Visits
from bluesky_autofocus.prediction import FocusPoint, FocusSurface, next_tile
from bluesky_autofocus.resuming import resumable, runs_of

__all__ = ["tile_scan"]

MOST_SURVEYED = 25
"""Tiles at which focus is found before the scan, or one in a hundred, where nothing else is said."""

LEAST_SURVEYED = 5
"""Four corners and what lies between them: fewer do not tell whether the specimen is flat."""

CANDIDATES = 400
"""Tiles, spread over all of them, that are thought of for the survey."""

CHECKED = 100
"""Of these, by which it is seen whether the surface is known well enough."""

WELL_ENOUGH = 0.7
"""Part of the uncertainty allowed that the surface may take: the rest is for what it drifts."""

WITNESSES = 4
"""Focusings in a row that must say that focus has jumped, the last of them where focus is known. What floats
where the specimen was washed off is found at one tile, and at the same height at the next one by chance, but
seldom at a third."""

_SQUARE = [FocusPoint(x, y, 0.0, 1.0) for x in (0.0, 1.0, 2.0) for y in (0.0, 1.0, 2.0)]
"""Points that any kind of surface can be laid through."""


@plan
def tile_scan(
    detectors: Detectors,
    axis: FocusAxis,
    *,
    analysis: FocusAnalysis,
    stage: Sequence[FocusAxis],
    rows: int | None = None,
    columns: int | None = None,
    pitch_um: float | Sequence[float] | None = None,
    origin_um: Sequence[float] | None = None,
    tiles: Sequence[Sequence[float]] | None = None,
    depth_of_field_um: float,
    travel_um: tuple[float, float],
    focus: str = "search",
    focus_options: Mapping[str, Any] | None = None,
    range_um: float | None = None,
    wider: Mapping[str, Any] | None = None,
    on_failure: str | Sequence[str] = "mark",
    kind: Literal["plane", "thin_plate", "gaussian_process"] | None = "thin_plate",
    unevenness_um: float = 1.0,
    survey: int | None = None,
    surface: Sequence[Any] = (),
    drift: Mapping[str, Any] | None = None,
    sigma_um: float | None = None,
    refocus_every: int | None = None,
    refocus_every_s: float | None = None,
    temperature: Readable | None = None,
    watch: FocusAnalysis | None = None,
    blurred_below: float = 0.5,
    sharp_above: float = 0.7,
    patience: int = 2,
    light: PatternLight | None = None,
    channels: Sequence[Pattern | str] | None = None,
    z_offsets_um: Sequence[float] = (0.0,),
    approach: Approach | Mapping[str, Any] = Approach(),
    stage_approach: Approach | Mapping[str, Any] = Approach(),
    clock: Clock | None = None,
    timeout_s: float = 30.0,
    done: Collection[Any] = (),
    continues: str | None = None,
    series: str | None = None,
    md: CustomPlanMetadata | None = None,
) -> MsgGenerator[Visited]:
    """Expose a specimen tile by tile, in focus, with as few exposures for focusing as that takes; in one run.

    First it focuses at a few tiles, chosen where least is known, and puts a surface through them. Then it
    visits all tiles, row by row to and fro. Where the surface, and how far it has drifted since, are known
    well enough, a tile is exposed there without focusing; else it is focused first, which tells more of
    both. With `watch` the sharpness of the tiles' own frames is looked at too: where they show that focus
    was lost it is looked for, and the tiles are exposed again.

    Frames are Events of the stream ``primary``, each with the tile it belongs to. When a tile is complete an
    Event of the stream ``tile`` says so, and on what its focus rests. What focusing came to is in
    ``tile_focus``. A run that ended early is continued by `bluesky_autofocus.resuming`.

    Light, axis and stage are put back however it ends.

    Parameters
    ----------
    detectors : sequence of Readable
        The camera first.
    axis : FocusAxis
        The focus axis, in um.
    analysis : FocusAnalysis
        What the method goes by; subscribed to the RunEngine.
    stage : sequence of FocusAxis
        The axes that move the specimen sideways, x and y, in um.
    rows, columns : int, optional
        Of a grid of tiles, along y and along x.
    pitch_um : float or sequence of float, optional
        Distance of neighbouring tiles, or those along x and along y.
    origin_um : sequence of float, optional
        Position (x, y) of the first tile of the grid; by default where the stage is.
    tiles : sequence of sequence of float, optional
        Instead of a grid: places (x, y), or (x, y, z) with the position where focus is expected, in the order
        in which they are visited.
    depth_of_field_um : float
        What frames are to be within.
    travel_um : tuple of float
        Lowest and highest position that the axis is ever moved to.
    focus : str
        The method, one of `METHODS`.
    focus_options : mapping, optional
        Of the method.
    range_um : float, optional
        How wide it looks where nothing is known; by default the travel range. Where focus is expected it
        looks less wide.
    wider : mapping, optional
        What ``wider`` does: ``focus``, ``range_um`` and other options in place of those above. By default the
        same method looks twice as wide.
    on_failure : str or sequence of str
        What to do where focus is not found. ``mark``: do not expose the tile, and mark it. ``surface``:
        expose it where focus is expected, and mark it unless that is certain enough; tiles after it are then
        not tried for a while. ``stop``: end the run with a `FocusNotFoundError`. ``wider``: look wider
        first, then do what comes next, ``("wider", "surface")``; by default ``mark``. It does not look wider
        where focus is foreseen and there is nothing to be seen.
    kind : str, optional
        Of the surface, as of `bluesky_autofocus.prediction.FocusSurface`. None: there is none, and each tile
        is focused.
    unevenness_um : float
        How far such specimens deviate from a plane, within a factor of four. What is found soon counts more.
    survey : int, optional
        Most tiles at which to focus first; fewer where the surface is known well enough. By default a quarter
        of the tiles, but no more than 25, or one in a hundred.
    surface : sequence, optional
        What is known of it before: `FocusPoint`, or (x, y, focus, sigma) in um. Only its shape is taken as
        known; the first focusing tells how far it has drifted.
    drift : mapping, optional
        Options of `bluesky_autofocus.prediction.DriftFilter`; by default focus has jumped when three tiles in
        a row say so, and one of those before them that is focused again.
    sigma_um : float, optional
        Standard deviation of the expected focus up to which a tile is exposed without focusing; by default
        0.3 depths of field, which leaves 99.9 % of the tiles within one.
    refocus_every, refocus_every_s : int, float, optional
        Focus at the latest after so many tiles, or seconds.
    temperature : Readable, optional
        Reads one number, the temperature in deg C by which focus drifts.
    watch : FocusAnalysis, optional
        Gives the sharpness of the tiles' own frames, in the first channel. Fields differ: take a metric that
        does not depend on contrast, ``SharpnessAnalysis("laplacian_ratio")``. Of a stack of five planes or
        more it tells where focus was, which makes focusing unnecessary.
    blurred_below, sharp_above : float
        Fractions of the sharpness of tiles that were focused, as of `BlurTrigger`.
    patience : int
        How many tiles in a row must be blurred.
    light : PatternLight, optional
        The illumination.
    channels : sequence of Pattern or str, optional
        What it shows at each plane, one after the other. It focuses under the first, unless the method sets
        the light itself. By default the light stays as it is.
    z_offsets_um : sequence of float
        Planes that are exposed, from focus.
    approach, stage_approach : Approach or mapping
        From which side positions of the axis and of the stage are approached.
    clock : Clock, optional
        Time for drift; a session passes its own. By default real time.
    timeout_s : float
        Longest wait for a reading.
    done : collection
        Numbers of tiles not to be visited, or first and last of several, ``[0, 99]``. Those of a grid count
        row by row.
    continues : str, optional
        Uid of the run that this one continues.
    series : str, optional
        What this run and those that continue it go by; a new one by default.
    md : dict, optional
        Metadata of the run; it wins over what the plan itself says.

    Returns
    -------
    Visited
        How it went.

    Raises
    ------
    UnknownMethodError, TypeError, ValueError
        If a method, an option or an argument makes no sense; before anything moves.
    LimitError, PatternError
        If a position is beyond the limits of its axis or a channel is no pattern; before anything moves.
    NotSubscribedError
        If an analysis is not subscribed; before anything moves.
    FocusNotFoundError
        If it was not found and the policy is to stop.
    """
    options = Options(
        analysis=analysis,
        depth_of_field_um=depth_of_field_um,
        travel_um=travel_um,
        focus=focus,
        focus_options=focus_options,
        range_um=range_um,
        wider=wider,
        on_failure=on_failure,
        sigma_um=sigma_um,
        refocus_every=refocus_every,
        refocus_every_s=refocus_every_s,
        temperature=temperature,
        watch=watch,
        blurred_below=blurred_below,
        sharp_above=sharp_above,
        patience=patience,
        light=light,
        channels=channels,
        z_offsets_um=z_offsets_um,
        approach=approach,
        stage_approach=stage_approach,
        timeout_s=timeout_s,
    )
    if len(stage) != 2:
        raise ValueError(f"stage must be two axes, x and y, got {stage!r}")
    if tiles is not None:
        if (rows, columns, pitch_um, origin_um) != (None,) * 4:
            raise ValueError("give either tiles or rows, columns and pitch_um, not both")
        everywhere = listed_tiles("tiles", tiles)
    else:
        if rows is None or columns is None or pitch_um is None:
            raise ValueError("give rows, columns and pitch_um, or tiles")
        if origin_um is None:
            origin_um = yield from _places_of(stage)
        everywhere = grid_tiles(rows, columns, pitch_um, origin_um)
    there = numbers_in(done, len(everywhere))
    left = [tile for tile in everywhere if tile.index not in there]
    if not left:
        raise ValueError(f"there is no tile to expose: all {len(everywhere)} are done")
    if survey is None:
        survey = min(max(MOST_SURVEYED, len(everywhere) // 100), len(everywhere) // 4)
        survey = survey if survey >= LEAST_SURVEYED else 0
    survey = count_of("survey", survey) if survey != 0 else 0
    if kind is not None:
        # a kind that there is not, or not here, is noticed now
        FocusSurface.fit(_SQUARE, kind=kind, unevenness_um=unevenness_um)
    forecast = SurfaceForecast(
        kind, drift_maker({"witnesses": WITNESSES, **(drift or {})}), points_of(surface), unevenness_um
    )
    visits = yield from visits_of(
        detectors,
        axis,
        options,
        stage=stage,
        tiles=everywhere,
        forecast=forecast,
        tiles_share=True,
        now_s=(clock or WallClock()).now_s,
    )
    metadata = {
        "plan_name": "tile_scan",
        "series": series or uuid4().hex[:8],
        "num_points": len(left) * visits.taking.frames,
        "done": runs_of(there),
        **({} if continues is None else {"continues": continues}),
        **resumable(
            "tile_scan",
            [list(detectors), axis],
            {
                **{field.name: getattr(options, field.name) for field in dataclasses.fields(options)},
                "stage": list(stage),
                **({"tiles": tiles} if tiles is not None else _grid(rows, columns, pitch_um, origin_um)),
                "kind": kind,
                "unevenness_um": unevenness_um,
                "survey": survey,
                "surface": [dataclasses.astuple(point) for point in points_of(surface)],
                "drift": drift,
            },
        ),
        **(md or {}),
    }

    def scan() -> MsgGenerator[None]:
        if kind is not None:
            yield from _survey(visits, forecast, everywhere, survey)
        pending = deque((Visit(tile), 0) for tile in left)
        while pending:
            visit, attempt = pending.popleft()
            again = yield from visits.visit(visit, attempt)
            pending.extendleft(reversed(again))
            if not pending:
                pending.extend(visits.open_questions())

    return (
        yield from acquire(
            visits, scan, detectors=detectors, axis=axis, stage=stage, options=options, metadata=metadata
        )
    )


def _places_of(stage: Sequence[FocusAxis]) -> MsgGenerator[list[float]]:
    places_um = []
    for one in stage:
        places_um.append(float((yield from bps.rd(one, default_value=0.0))))
    return places_um


def _grid(rows: Any, columns: Any, pitch_um: Any, origin_um: Any) -> dict[str, Any]:
    return {"rows": rows, "columns": columns, "pitch_um": pitch_um, "origin_um": origin_um}


def _survey(
    visits: Visits, forecast: SurfaceForecast, tiles: Sequence[Tile], most: int
) -> MsgGenerator[None]:
    """Focus at tiles where least is known of the surface, until it is known well enough everywhere."""
    datum = forecast.datum(tiles)
    if datum is not None:
        yield from _look_at(visits, datum, "how far it has drifted")
    candidates = spread(tiles, CANDIDATES)
    untried = list(candidates)
    for _ in range(min(most, len(untried))):
        now_s = visits.now_s()
        known = (
            visits.care_of(tile).sure(forecast.predict(tile, now_s), part=WELL_ENOUGH)
            for tile in candidates[:CHECKED]
        )
        if len(forecast.points) >= LEAST_SURVEYED and all(known):
            break
        tile = untried.pop(next_tile(forecast.known, [(one.x_um, one.y_um) for one in untried]))
        yield from _look_at(visits, tile, "survey")
    # what was found first is judged by what was found last
    forecast.learn(visits.now_s())


def _look_at(visits: Visits, tile: Tile, why: str) -> MsgGenerator[None]:
    visit = Visit(tile)
    yield from visits.go_to(visit)
    yield from visits.focus(visit, (yield from visits.foreseen(visit)), why)
