"""Answer a search with frames that are taken while the axis runs once through the range."""

from collections.abc import Callable
from functools import partial

from bluesky import plan_stubs as bps
from bluesky.utils import MsgGenerator

from bluesky_autofocus.plans._exposing import Exposure
from bluesky_autofocus.plans._moving import Approach, check_reachable, interval_um
from bluesky_autofocus.plans._operation import Operation, check_positive
from bluesky_autofocus.plans._protocols import FocusAxis, RunningAxis
from bluesky_autofocus.plans._running import check_running, expose_on_the_run, run_at
from bluesky_autofocus.plans._searching import ExposureAt, InFlight, follow
from bluesky_autofocus.records import Reading, Reason
from bluesky_autofocus.search import LEAST_SWEEP_EXPOSURES, Conclusion, Passage, Search

__all__ = ["follow_in_flight", "ready_in_flight"]

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
    tell_all: bool = False,
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
        It asks for the end of the range until it is told that it is there. What it asks for after that is
        exposed at rest.
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
    tell_all : bool
        As for `follow`.
    """
    travel, direction = operation.travel, operation.travel.approach.direction
    begin_um, end_um = bounds_um[::direction]
    furthest_um = travel.high_um if direction > 0 else travel.low_um
    velocity_um_s = direction * speed_um_s
    passage = Passage(velocity_um_s, furthest_um, reaction_s)
    halt: Callable[[], MsgGenerator[None]] = partial(run_at, axis, 0.0)

    interrupted, passed = 0, False

    def on_the_way(target_um: float) -> MsgGenerator[Exposure]:
        nonlocal interrupted, passed
        if passed:
            return (yield from exposure_at(target_um))
        now_um = yield from bps.rd(axis, default_value=begin_um)
        if target_um != end_um or not passage.goes_on(now_um):
            yield from halt()
            passed = True
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
        conclusion = yield from follow(search, on_the_way, tell_all)
        yield from halt()
    except _TooSlow:
        yield from halt()
        return Conclusion(Reason.NOT_ENOUGH_POINTS)
    except Exception:
        yield from halt()  # it is to stand before it is sent back
        raise
    return conclusion


def ready_in_flight(
    axis: FocusAxis,
    velocity_um_s: float,
    reaction_s: float,
    *,
    approach: Approach,
    bounds_um: tuple[float, float] | None,
    range_um: float | None,
    tell_all: bool = False,
) -> MsgGenerator[InFlight]:
    """Return what answers a search in flight, after checking that the axis can run like that.

    Raises
    ------
    TypeError, ValueError, LimitError
        For an axis that cannot run, or not that fast, and for a velocity that leaves too few frames.
    """
    running = check_running(axis)
    check_positive("velocity_um_s", velocity_um_s)
    check_positive("reaction_s", reaction_s)
    _check_spacing(velocity_um_s * reaction_s, bounds_um, range_um)
    yield from check_reachable(running.velocity, [approach.direction * velocity_um_s])
    return partial(
        follow_in_flight, axis=running, speed_um_s=velocity_um_s, reaction_s=reaction_s, tell_all=tell_all
    )


def _check_spacing(spacing_um: float, bounds_um: tuple[float, float] | None, range_um: float | None) -> None:
    """Raise a ValueError if frames so far apart are too few for the range."""
    if bounds_um is not None:
        low_um, high_um = interval_um("bounds_um", bounds_um)
        range_um = high_um - low_um
    if range_um is not None and range_um < LEAST_SWEEP_EXPOSURES * spacing_um:
        raise ValueError(
            f"velocity_um_s times reaction_s is {spacing_um:g} um from frame to frame: "
            f"that leaves fewer than {LEAST_SWEEP_EXPOSURES} frames in {range_um:g} um"
        )
