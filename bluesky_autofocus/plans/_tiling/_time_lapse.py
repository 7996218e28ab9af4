"""The plan that exposes positions again and again, in focus."""

import asyncio
import contextlib
import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any
from uuid import uuid4

from bluesky import plan_stubs as bps
from bluesky.protocols import Readable
from bluesky.utils import CustomPlanMetadata, MsgGenerator, plan

from bluesky_autofocus.clock import Clock, WallClock
from bluesky_autofocus.leds import Pattern
from bluesky_autofocus.plans._moving import Approach
from bluesky_autofocus.plans._protocols import Detectors, FocusAnalysis, FocusAxis, PatternLight
from bluesky_autofocus.plans._tiling._arranging import Options, acquire, visits_of
from bluesky_autofocus.plans._tiling._forecast import PositionsForecast, drift_maker
from bluesky_autofocus.plans._tiling._records import Visit, Visited
from bluesky_autofocus.plans._tiling._tiles import Tile, count_of, listed_tiles, numbers_in
from bluesky_autofocus.resuming import resumable, runs_of

__all__ = ["Schedule", "time_lapse"]

LONGEST_WAIT_S = 5.0
"""One message waits no longer: what is waited for goes on by itself when a pause interrupts that."""


class Schedule:
    """When time points begin: a fixed interval apart, and none is made up for in a burst.

    Parameters
    ----------
    interval_s : float
        From one to the next.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._due_s: float | None = None

    def next_s(self, now_s: float) -> float:
        """Return when the next time point begins, at the earliest now.

        One that is late by less than an interval begins at once, and those after it are on time. After more,
        such as a pause, all are put off.
        """
        if self._due_s is None or now_s - self._due_s > 2 * self._interval_s:
            self._due_s = now_s
        else:
            self._due_s += self._interval_s
        return max(self._due_s, now_s)


@plan
def time_lapse(
    detectors: Detectors,
    axis: FocusAxis,
    *,
    analysis: FocusAnalysis,
    stage: Sequence[FocusAxis] = (),
    positions: Sequence[Sequence[float]] | None = None,
    interval_s: float,
    count: int,
    depth_of_field_um: float,
    travel_um: tuple[float, float],
    focus: str = "search",
    focus_options: Mapping[str, Any] | None = None,
    range_um: float | None = None,
    wider: Mapping[str, Any] | None = None,
    on_failure: str | Sequence[str] = "surface",
    drift: Mapping[str, Any] | None = None,
    sigma_um: float | None = None,
    refocus_every: int | None = None,
    refocus_every_s: float | None = None,
    temperature: Readable | None = None,
    watch: FocusAnalysis | None = None,
    blurred_below: float = 0.75,
    sharp_above: float = 0.9,
    patience: int = 1,
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
    """Expose one or more positions again and again, in focus; in one run.

    At its first visit each position is focused. From then on the drift of each is followed by itself: where
    it is known well enough the position is exposed there without focusing, else it is focused first, which
    tells more of the drift. With `watch` the sharpness of the frames themselves is looked at too: where they
    show that focus was lost it is looked for, and the position is exposed again.

    What is recorded is as of `tile_scan`; ``tile_index`` is the number of the position and
    ``tile_time_point`` that of the time point. Light, axis and stage are put back however it ends.

    Parameters
    ----------
    stage : sequence of FocusAxis
        The axes that move the specimen sideways, x and y, in um; nothing where it stays where it is.
    positions : sequence of sequence of float, optional
        (x, y) each, or (x, y, z) with the position where focus is expected. To be given with `stage`.
    interval_s : float
        From one time point to the next. One that is late begins at once.
    count : int
        How many time points.
    on_failure : str or sequence of str
        As for `tile_scan`; ``surface`` is where the drift has focus, else where it was found last.
    watch, blurred_below, sharp_above, patience
        As for `tile_scan`; frames are compared with those of the same position when it was last focused.
    clock : Clock, optional
        By which time points begin; a session passes its own. By default real time.
    done : collection
        Visits not to be made, or first and last of several. They count from 0, position by position and
        time point by time point.
    detectors, axis, analysis, depth_of_field_um, travel_um, focus, focus_options, range_um, wider, drift, \
sigma_um, refocus_every, refocus_every_s, temperature, light, channels, z_offsets_um, approach, \
stage_approach, timeout_s, continues, series, md
        As for `tile_scan`.

    Returns
    -------
    Visited
        How it went.

    Raises
    ------
    UnknownMethodError, TypeError, ValueError, LimitError, PatternError, NotSubscribedError, \
FocusNotFoundError
        As for `tile_scan`.
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
    if (positions is None) == bool(stage):
        raise ValueError("give both stage and positions, or neither")
    everywhere = [Tile(0, math.nan, math.nan)] if positions is None else listed_tiles("positions", positions)
    count = count_of("count", count)
    if not (math.isfinite(interval_s) and interval_s >= 0):
        raise ValueError(f"interval_s must be finite and not negative, got {interval_s!r}")
    there = numbers_in(done, count * len(everywhere))
    missing = count * len(everywhere) - len(there)
    if not missing:
        raise ValueError(f"there is nothing to expose: all {count} time points are done")
    forecast = PositionsForecast(drift_maker(drift))
    clock = clock or WallClock()
    visits = yield from visits_of(
        detectors,
        axis,
        options,
        stage=stage,
        tiles=everywhere,
        forecast=forecast,
        tiles_share=False,
        now_s=clock.now_s,
    )
    metadata = {
        "plan_name": "time_lapse",
        "series": series or uuid4().hex[:8],
        "num_points": missing * visits.taking.frames,
        "done": runs_of(there),
        **({} if continues is None else {"continues": continues}),
        **resumable(
            "time_lapse",
            [list(detectors), axis],
            {
                **{field.name: getattr(options, field.name) for field in dataclasses.fields(options)},
                "stage": list(stage),
                "positions": positions,
                "interval_s": interval_s,
                "count": count,
                "drift": drift,
            },
        ),
        **(md or {}),
    }

    def lapse() -> MsgGenerator[None]:
        schedule = Schedule(interval_s)
        for point in range(count):
            numbered = enumerate(everywhere, start=point * len(everywhere))
            due = [Visit(tile, point) for number, tile in numbered if number not in there]
            if due:
                yield from _wait_until(clock, schedule.next_s(clock.now_s()), visits.dry_run)
            for visit in due:
                yield from visits.visit(visit)

    return (
        yield from acquire(
            visits, lapse, detectors=detectors, axis=axis, stage=stage, options=options, metadata=metadata
        )
    )


def _wait_until(clock: Clock, due_s: float, dry_run: bool) -> MsgGenerator[None]:
    """Wait until a time of the clock, whoever interrupts."""
    while (left_s := due_s - clock.now_s()) > 0:
        until_s = clock.now_s() + min(left_s, LONGEST_WAIT_S)
        yield from bps.wait_for([partial(_reached, clock, until_s)])
        yield from bps.checkpoint()
        if dry_run:  # no time passes
            return


async def _reached(clock: Clock, time_s: float) -> None:
    """Wait until a time of a clock, which may be reached already."""
    left_s = time_s - clock.now_s()
    if left_s <= 0:
        return
    loop, reached = asyncio.get_running_loop(), asyncio.Event()

    def tell() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(reached.set)

    cancel = clock.call_after(left_s, tell)
    try:
        await reached.wait()
    finally:
        cancel()
