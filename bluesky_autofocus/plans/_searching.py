"""Focus by a search along the axis: the one spine that every search hangs on.

Move, expose, have it analysed, tell the search, and in the end stand on the focus or back at the start.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from bluesky import plan_stubs as bps
from bluesky.utils import MsgGenerator

from bluesky_autofocus.plans._dose import check_dose
from bluesky_autofocus.plans._exposing import Exposure
from bluesky_autofocus.plans._moving import Approach, interval_um
from bluesky_autofocus.plans._operation import Operation, check_positive, start_of
from bluesky_autofocus.plans._protocols import Detectors, FocusAnalysis, FocusAxis
from bluesky_autofocus.records import Reading, Reason, Verdict
from bluesky_autofocus.search import Conclusion, Sample, Search

__all__ = ["ExposureAt", "InFlight", "focus_by_search", "follow"]

CONFIRMED_FRACTION = 0.7
"""The frame at the focus must score this fraction of the best one of the search: less means that the axis
did not come back to where it had been, or that focus has moved meanwhile."""

ExposureAt: TypeAlias = Callable[[float], MsgGenerator[Exposure]]
"""``exposure_at(position_um)`` is a stub that exposes where a search wants it, and returns the exposure."""

InFlight: TypeAlias = Callable[[Search, Operation, ExposureAt, tuple[float, float]], MsgGenerator[Conclusion]]
"""``in_flight(search, operation, exposure_at, bounds_um)`` answers a search while the axis runs."""


def focus_by_search(
    detectors: Detectors,
    axis: FocusAxis,
    make_search: Callable[[tuple[float, float], int], Search],
    *,
    method: str,
    analysis: FocusAnalysis,
    bounds_um: tuple[float, float] | None,
    range_um: float | None,
    budget: int,
    least_budget: int,
    travel_um: tuple[float, float] | None,
    approach: Approach,
    confirm: bool,
    timeout_s: float,
    parameters: dict[str, Any],
    dose_budget_s: float | None = None,
    tell_all: bool = False,
    in_flight: InFlight | None = None,
) -> MsgGenerator[Verdict]:
    """Drive a search with exposures and act upon its conclusion.

    Parameters
    ----------
    make_search : callable
        ``make_search(bounds_um, exposures)`` returns the search, told how many exposures it may ask for.
    method : str
        Under which the stub is registered; exposures go to the stream ``focus_METHOD``.
    least_budget : int
        Fewest exposures with which the search can conclude anything.
    parameters : dict
        The stub's own options, for the record.
    tell_all : bool
        Whether the search is also told of frames that cannot be used. By default the first one ends it.
    in_flight : callable, optional
        Answers the search while the axis runs. By default it moves and stops for each exposure.

    The other parameters are those of the public stubs.

    Returns
    -------
    Verdict
        Also recorded in the stream ``verdict``.
    """
    if (bounds_um is None) == (range_um is None):
        raise ValueError("give either bounds_um (absolute) or range_um (about where the axis is)")
    if bounds_um is not None:
        bounds_um = interval_um("bounds_um", bounds_um)
    check_positive("range_um", range_um)
    if travel_um is not None:
        travel_um = interval_um("travel_um", travel_um)
    least = least_budget + int(confirm)
    if budget < least:
        raise ValueError(f"budget must allow at least {least} exposures for {method!r}, got {budget!r}")
    check_dose(dose_budget_s)

    start_um = yield from start_of(axis, analysis)
    dry_run = start_um is None
    if start_um is None:
        start_um = sum(bounds_um or travel_um or (0.0, 0.0)) / 2
    low_um, high_um = bounds_um or (start_um - range_um / 2, start_um + range_um / 2)  # type: ignore[operator]
    reach_um = travel_um or (min(low_um, start_um), max(high_um, start_um))
    if not (reach_um[0] <= min(low_um, start_um) and max(high_um, start_um) <= reach_um[1]):
        raise ValueError(
            f"travel_um {reach_um} must contain the bounds ({low_um}, {high_um}) and the start {start_um} um"
        )
    operation = Operation(
        detectors,
        axis,
        analysis=analysis,
        method=method,
        start_um=start_um,
        travel_um=reach_um,
        approach=approach,
        timeout_s=timeout_s,
        dose_budget_s=dose_budget_s,
        dry_run=dry_run,
    )
    if not dry_run or bounds_um is not None:  # a dry run does not know what a range is about
        yield from operation.check(low_um, high_um)

    def exposure_at(position_um: float) -> MsgGenerator[Exposure]:
        # A search goes by where the axis was read back, so it may ask a rounding error beyond the bounds.
        yield from operation.travel.to(min(max(position_um, low_um), high_um))
        # In a dry run it is equally sharp everywhere, so any search goes to its end.
        return (yield from operation.expose(Reading("", 1.0), position_um))

    def conclude() -> MsgGenerator[Conclusion]:
        allowed = yield from operation.dose.affordable(budget, least)
        search = make_search((low_um, high_um), allowed - int(confirm))
        yield from bps.checkpoint()
        try:
            if in_flight is None:
                conclusion = yield from follow(search, exposure_at, tell_all)
            else:
                conclusion = yield from in_flight(search, operation, exposure_at, (low_um, high_um))
        finally:
            search.close()
        if not conclusion.found:
            return conclusion
        if not confirm:
            yield from operation.travel.to(conclusion.position_um)
            return conclusion
        # not of all: a frame that cannot be used has no score, and NaN compares with nothing
        readings = [exposure.reading for exposure in operation.exposures]
        best = max(reading.value for reading in readings if reading.accepted)
        final = yield from exposure_at(conclusion.position_um)
        if not final.reading.accepted:
            return Conclusion(final.reading.reason)
        # of the size of the best score, since a metric that is a logarithm may be negative
        if final.reading.value < best - (1 - CONFIRMED_FRACTION) * abs(best):
            return Conclusion(Reason.WORSE_AFTERWARDS)
        return conclusion

    return (
        yield from operation.carry_out(
            conclude(),
            parameters={"bounds_um": [low_um, high_um], "budget": budget, "confirm": confirm, **parameters},
        )
    )


def follow(search: Search, exposure_at: ExposureAt, tell_all: bool = False) -> MsgGenerator[Conclusion]:
    """Answer a search with exposures until it concludes, or until a frame cannot be used.

    With `tell_all` the search is told of such frames too.
    """
    try:
        position_um = next(search)
        while True:
            exposure = yield from exposure_at(position_um)
            reading = exposure.reading
            if not (reading.accepted or tell_all):
                return Conclusion(reading.reason)
            bands = getattr(reading, "bands", None)
            reason = Reason.OK if reading.accepted else reading.reason
            position_um = search.send(Sample(exposure.position_um, reading.value, bands, reason))
    except StopIteration as end:
        return end.value
