"""Answer a search with frames that are taken while the axis runs once through the range."""

from collections.abc import Callable
from functools import partial

from bluesky import plan_stubs as bps
from bluesky.utils import MsgGenerator

from bluesky_autofocus.plans._exposing import Exposure
from bluesky_autofocus.plans._operation import Operation
from bluesky_autofocus.plans._protocols import RunningAxis
from bluesky_autofocus.plans._running import expose_on_the_run, run_at
from bluesky_autofocus.plans._searching import ExposureAt, follow
from bluesky_autofocus.records import Reading, Reason
from bluesky_autofocus.search import Conclusion, Passage, Search

__all__ = ["follow_in_flight"]

PATIENCE = 3
"""Frames in a row for which the axis may have to stop: then they come too slowly for its speed."""


class _TooSlow(Exception):  # noqa: N818 - it ends a search, and is seen by nobody
    """Frame after frame the axis had to stop."""


def follow_in_flight(
    search: Search,
    operation: Operation,
    exposure_at: ExposureAt,
    bounds_um: tuple[float, float],
    *,
    axis: RunningAxis,
    speed_um_s: float,
    reaction_s: float,
) -> MsgGenerator[Conclusion]:
    """Answer a search with exposures taken on one run through the range, until it concludes.

    The axis runs the way in which positions are approached, so lost motion is taken up. Each frame's answer
    is waited for while it runs on: an analysis only keeps its newest reading. If it was stopped meanwhile,
    since one was late, or by a pause or its watchdog, it goes back and takes up its run where it was, so that
    the curve has no gap. Where there is no room to run on, it stops, and the last frame is taken at rest at
    the end of the range.

    Parameters
    ----------
    search : Search
        It asks for the end of the range until it is told that it is there.
    operation : Operation
        Whose axis it is.
    exposure_at : callable
        Moves, and exposes at rest.
    bounds_um : tuple of float
        The range.
    axis : RunningAxis
        That of the operation.
    speed_um_s : float
        At which to run.
    reaction_s : float
        Longest time from frame to frame.
    """
    travel, direction = operation.travel, operation.travel.approach.direction
    begin_um, _ = bounds_um[::direction]
    furthest_um = travel.high_um if direction > 0 else travel.low_um
    velocity_um_s = direction * speed_um_s
    passage = Passage(velocity_um_s, furthest_um, reaction_s)
    halt: Callable[[], MsgGenerator[None]] = partial(run_at, axis, 0.0)

    interrupted = 0

    def on_the_way(target_um: float) -> MsgGenerator[Exposure]:
        nonlocal interrupted
        now_um = yield from bps.rd(axis, default_value=begin_um)
        if not passage.goes_on(now_um):
            yield from halt()
            return (yield from exposure_at(target_um))
        travel.ran()  # before it does: whatever fails, it is put back
        # told each time anew: a watchdog of the axis, if there is one, knows that the plan is alive
        yield from run_at(axis, velocity_um_s)
        # what goes on after a pause begins with a frame at rest, and then decides anew
        yield from bps.checkpoint()
        exposing = operation.expose(Reading("", 1.0), target_um)
        left_s = min(passage.left_s(now_um), reaction_s)
        exposure = yield from expose_on_the_run(exposing, halt, left_s)
        still_um_s = yield from bps.rd(axis.velocity, default_value=velocity_um_s)
        interrupted = 0 if still_um_s else interrupted + 1
        if interrupted >= PATIENCE:
            raise _TooSlow
        if interrupted:
            # what is read back may be a rounding error beyond the range
            yield from travel.to(min(max(now_um, travel.low_um), travel.high_um))
            passage.interrupted()
        return exposure

    try:
        yield from travel.to(begin_um)
        conclusion = yield from follow(search, on_the_way)
        yield from halt()
    except _TooSlow:
        yield from halt()
        return Conclusion(Reason.NOT_ENOUGH_POINTS)
    except Exception:
        yield from halt()  # it is to stand before it is sent back
        raise
    return conclusion
