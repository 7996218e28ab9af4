"""Focus by measuring the defocus and taking it back: the one spine of all methods that measure it.

Light, expose, read the defocus, move by minus the defocus, and look again whether that was right.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from bluesky import plan_stubs as bps
from bluesky.utils import MsgGenerator

from bluesky_autofocus.leds import Pattern
from bluesky_autofocus.plans._correcting import correct
from bluesky_autofocus.plans._criteria import Criteria
from bluesky_autofocus.plans._dose import check_dose
from bluesky_autofocus.plans._exposing import Exposure
from bluesky_autofocus.plans._lighting import Lighting, lighting_of
from bluesky_autofocus.plans._moving import Approach, Travel, check_reachable, interval_um
from bluesky_autofocus.plans._operation import Operation, check_positive, put_back_all, start_of
from bluesky_autofocus.plans._protocols import (
    DefocusAnalysis,
    Detectors,
    FocusAnalysis,
    FocusAxis,
    FocusStub,
    PatternLight,
)
from bluesky_autofocus.records import Reading, Reason, Verdict
from bluesky_autofocus.search import Conclusion

__all__ = ["focus_by_correction"]


def focus_by_correction(
    detectors: Detectors,
    axis: FocusAxis,
    *,
    leds: PatternLight,
    analysis: DefocusAnalysis,
    method: str,
    frames: int,
    budget: int,
    dose_budget_s: float | None,
    verify: bool,
    accept_um: float | None,
    depth_of_field_um: float | None,
    axis_sign: int,
    travel_um: tuple[float, float] | None,
    approach: Approach,
    fallback: FocusStub | str | None,
    fallback_analysis: FocusAnalysis | None,
    fallback_options: Mapping[str, Any] | None,
    fallback_pattern: Pattern | str,
    timeout_s: float,
) -> MsgGenerator[Verdict]:
    """Correct the defocus that an analysis measures until it is gone; fall back to a search if told to.

    Parameters
    ----------
    method : str
        Under which the stub is registered; exposures go to the stream ``focus_METHOD``.
    frames : int
        How many make one estimate.

    The other parameters are those of the public stubs.

    Returns
    -------
    Verdict
        Also recorded in the stream ``verdict``. Of the fallback, if that was needed: it has recorded it after
        the one that says why it was.
    """
    _check_analysis(analysis, frames)
    if not isinstance(leds, PatternLight):
        raise ValueError(f"leds must be readable and settable to a pattern, got {leds!r}")
    if axis_sign not in (1, -1):
        raise ValueError(f"axis_sign must be +1 or -1, got {axis_sign!r}")
    check_positive("accept_um", accept_um)
    check_positive("depth_of_field_um", depth_of_field_um)
    criteria = Criteria(bool(verify), accept_um, depth_of_field_um)
    if travel_um is not None:
        travel_um = interval_um("travel_um", travel_um)
    elif not math.isfinite(analysis.range_um):
        raise ValueError(f"analysis {analysis.name!r} does not say its range_um: give travel_um")
    least = frames * (1 + bool(verify))
    if budget < least:
        raise ValueError(
            f"budget must allow at least {least} exposures for {method!r}"
            f"{' with verify' if verify else ''}, got {budget!r}"
        )
    check_dose(dose_budget_s)
    fallback = _stub(fallback)
    if fallback is not None:
        if fallback_analysis is None:
            raise ValueError("a fallback needs a fallback_analysis: a defocus is no score to search by")
        fallback_options = {"approach": approach, "timeout_s": timeout_s, **(fallback_options or {})}
        if travel_um is not None:
            fallback_options.setdefault("travel_um", travel_um)
        if dose_budget_s is not None:
            fallback_options["dose_budget_s"] = dose_budget_s  # less what will have been spent by then
        inspect.signature(fallback).bind(detectors, axis, analysis=fallback_analysis, **fallback_options)

    yield from check_reachable(leds, [*analysis.leds, *([] if fallback is None else [fallback_pattern])])

    # what is shown belongs in the Event of each exposure
    detectors = [*detectors, *([] if leds in detectors else [leds])]
    judges = [analysis] if fallback_analysis is None else [analysis, fallback_analysis]
    start_um = yield from start_of(axis, *judges)
    dry_run = start_um is None
    if start_um is None:
        start_um = sum(travel_um or (0.0, 0.0)) / 2
    reach_um = travel_um or (start_um - analysis.range_um, start_um + analysis.range_um)
    if not reach_um[0] <= start_um <= reach_um[1]:
        raise ValueError(f"travel_um {reach_um} must contain the start {start_um} um")
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
    if not dry_run:
        yield from operation.check(start_um, start_um)
    lighting = yield from lighting_of(leds)

    def measure(imagined_um: float, at_um: float) -> MsgGenerator[Exposure]:
        for pattern in analysis.leds:
            yield from lighting.show(pattern)
            exposure = yield from operation.expose(Reading("", imagined_um, 0.0, "um"), at_um)
            if not exposure.reading.accepted and exposure.reading.reason is not Reason.INCOMPLETE:
                break  # the other frame would not help
        return operation.exposures[-1]

    def conclude() -> MsgGenerator[Conclusion]:
        allowed = yield from operation.dose.affordable(budget, least)
        yield from bps.checkpoint()
        return (
            yield from correct(
                operation,
                measure,
                criteria,
                at_um=start_um,
                frames=frames,
                budget=allowed,
                axis_sign=axis_sign,
            )
        )

    verdict = yield from operation.carry_out(
        conclude(),
        put_back=[lighting.put_back],
        parameters={
            "leds": [str(pattern) for pattern in analysis.leds],
            "budget": budget,
            "verify": bool(verify),
            "accept_um": accept_um,
            "depth_of_field_um": depth_of_field_um,
            "axis_sign": axis_sign,
        },
    )
    if verdict.found or verdict.reason is Reason.DOSE_SPENT or fallback is None:
        return verdict
    if operation.dose.left_s is not None:
        fallback_options = {**(fallback_options or {}), "dose_budget_s": operation.dose.left_s}
    return (
        yield from _fall_back(
            partial(fallback, detectors, axis, analysis=fallback_analysis, **(fallback_options or {})),
            lighting,
            fallback_pattern,
            operation.travel,
        )
    )


def _check_analysis(analysis: Any, frames: int) -> None:
    if not isinstance(analysis, DefocusAnalysis):
        raise ValueError(
            f"analysis {getattr(analysis, 'name', analysis)!r} does not measure the defocus under LEDs: "
            "SingleShotAnalysis and TwoLEDAnalysis do"
        )
    if len(analysis.leds) != frames:
        raise ValueError(
            f"analysis {analysis.name!r} takes {len(analysis.leds)} frames for one reading, and the method "
            f"exposes {frames}"
        )


def _stub(fallback: FocusStub | str | None) -> FocusStub | None:
    if not isinstance(fallback, str):
        return fallback
    # that module needs this one, to know the methods that end here
    from bluesky_autofocus.plans._autofocus import method_named

    return method_named(fallback)


def _fall_back(
    focus: Callable[[], MsgGenerator[Verdict]], lighting: Lighting, pattern: Pattern | str, travel: Travel
) -> MsgGenerator[Verdict]:
    found = False
    try:
        yield from lighting.show(pattern)
        yield from bps.checkpoint()
        verdict = yield from focus()
        found = verdict.found
        yield from lighting.put_back()
    except Exception:
        # while it runs it puts the axis back itself; what it had found is lost with the error
        yield from put_back_all([travel.put_back] if found else [], [lighting.put_back])
        raise
    return verdict
