"""Focus on a field next to the one of interest, which is spared the exposures."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bluesky import plan_stubs as bps
from bluesky.utils import MsgGenerator, plan

from bluesky_autofocus.plans._brent import brent_focus
from bluesky_autofocus.plans._criteria import SURE
from bluesky_autofocus.plans._exposing import record_verdict
from bluesky_autofocus.plans._lighting import lighting_of
from bluesky_autofocus.plans._moving import Approach, Travel, check_reachable, refused_by
from bluesky_autofocus.plans._operation import put_back_all, start_of
from bluesky_autofocus.plans._protocols import Detectors, FocusAnalysis, FocusAxis, FocusStub, PatternLight
from bluesky_autofocus.records import Reason, Verdict

__all__ = ["focus_beside"]

UM_PER_MM = 1000.0


@plan
def focus_beside(
    detectors: Detectors,
    axis: FocusAxis,
    *,
    analysis: FocusAnalysis,
    stage: Sequence[FocusAxis],
    offset_um: Sequence[float],
    by: FocusStub | str = brent_focus,
    tilt_um_per_mm: Sequence[float] | None = None,
    surface: Callable[..., float] | None = None,
    tilt_sigma_um_per_mm: float = 3.0,
    shutter: PatternLight | None = None,
    closed: Any = "off",
    stage_approach: Approach = Approach(),
    **options: Any,
) -> MsgGenerator[Verdict]:
    """Focus beside the field of interest, by any stub, and come back; a stub that opens no run.

    The stage moves by the offset, `by` focuses there, the stage moves back, and the axis goes on by what
    is known of the difference in height. The field of interest is not exposed. Whatever happens the stage
    comes back, and the axis too, unless the focus was found.

    Parameters
    ----------
    detectors : sequence of Readable
        The camera first. The stage is read with them, so that each Event says where it was exposed.
    axis : FocusAxis
        What `by` moves, in um.
    analysis : FocusAnalysis
        What `by` goes by.
    stage : sequence of FocusAxis
        What moves the specimen sideways, in um.
    offset_um : sequence of float
        By how much each axis of the stage is moved: together a field at least, and farther than the light or
        the beam reaches.
    by : callable or str
        The stub that focuses, or its name in `METHODS`.
    tilt_um_per_mm : sequence of float, optional
        By how much the position of focus rises along each axis of the stage. By default it is level.
    surface : callable, optional
        In place of a tilt: ``surface(x_um, y_um)`` gives the position of focus at a place of the stage, of
        which the difference between two places counts.
    tilt_sigma_um_per_mm : float
        Standard uncertainty of that tilt: what the way to the side adds to that of the focus. By default what
        specimens are like, as for `track_focus`.
    shutter : PatternLight, optional
        Closed while the stage moves; otherwise it is as it was before. An LED array, or any light or beam
        that is read and set.
    closed : object
        The value to which it is set then.
    stage_approach : Approach
        From which side the stage approaches its positions, both there and back.
    options
        Passed to `by`.

    Returns
    -------
    Verdict
        Of `by`, with its position carried over to the field of interest, and its uncertainty widened. The
        parameters say where it was found: ``found_at_um``, ``focus_there_um``. `by` has recorded its own
        before. ``OUT_OF_REACH`` where the position carried over is not within the travel range of `by` or
        the limits of the axis.

    Raises
    ------
    ValueError
        If an argument makes no sense, or the uncertainty of the tilt alone is more than a depth of field,
        where that is given; before anything moves.
    LimitError
        If the stage may not go there; before anything moves.
    TypeError
        If `by` takes no such option; before anything moves.
    ValueError, LimitError, NotSubscribedError, AnalysisError
        As `by` does. Stage and axis are put back.
    """
    stub = _stub_of(by)
    offsets_um = _checked_offsets(stage, offset_um)
    tilt = _checked_tilt(offsets_um, tilt_um_per_mm, surface)
    added_um = _added_um(offsets_um, tilt_sigma_um_per_mm, options.get("depth_of_field_um"))
    detectors = [*detectors, *(one for one in stage if one not in detectors)]
    inspect.signature(stub).bind(detectors, axis, analysis=analysis, **options)

    start_um = yield from start_of(axis, analysis)
    moves: list[Travel] = []
    there_um: list[float] = []
    for one, by_um in zip(stage, offsets_um, strict=True):
        here_um = float((yield from bps.rd(one, default_value=0.0)))
        there_um.append(here_um + by_um)
        past_um = stage_approach.overshoot_um
        reach_um = (min(here_um, there_um[-1]) - past_um, max(here_um, there_um[-1]) + past_um)
        moves.append(Travel(one, reach_um, here_um, stage_approach))
        if start_um is not None:
            yield from check_reachable(one, moves[-1].reached([there_um[-1], here_um]))
    if surface is None:
        rise_um = sum(-slope * by_um for slope, by_um in zip(tilt, offsets_um, strict=True)) / UM_PER_MM
    else:
        rise_um = float(surface(*(move.start_um for move in moves))) - float(surface(*there_um))
        if not math.isfinite(rise_um):
            raise ValueError(f"the surface does not know the way from {there_um} um")
    lighting = None
    if shutter is not None:
        yield from check_reachable(shutter, [closed])
        lighting = yield from lighting_of(shutter)

    def move_stage(targets_um: Sequence[float]) -> MsgGenerator[None]:
        if lighting is not None:
            yield from lighting.show(closed)
        for move, target_um, by_um in zip(moves, targets_um, offsets_um, strict=True):
            if by_um:
                yield from move.to(target_um)
        if lighting is not None:
            yield from lighting.put_back()
        yield from bps.checkpoint()

    # while it runs `by` puts the axis back itself; what it has found is lost with an error
    axis_back: list[Callable[[], MsgGenerator[None]]] = []
    try:
        yield from bps.checkpoint()
        yield from move_stage(there_um)
        focused = yield from stub(detectors, axis, analysis=analysis, **options)
        travel = _travel_of(axis, focused, options)
        if focused.found:
            axis_back.append(travel.put_back)
        yield from move_stage([move.start_um for move in moves])
        verdict = yield from _carry_over(travel, focused, rise_um)
        verdict = dataclasses.replace(
            verdict,
            sigma_um=math.hypot(verdict.sigma_um, added_um),
            method="beside",
            parameters={
                **verdict.parameters,
                "by": focused.method,
                "stage": [one.name for one in stage],
                "offset_um": offsets_um,
                "found_at_um": there_um,
                "focus_there_um": focused.position_um if focused.found else None,
                "rise_um": rise_um,
                "tilt_sigma_um_per_mm": tilt_sigma_um_per_mm,
            },
        )
        yield from record_verdict(verdict)
    except Exception:
        dark = [] if lighting is None else [lighting.settle, partial(lighting.show, closed)]
        light = [] if lighting is None else [lighting.put_back]
        yield from put_back_all(dark, [move.undo for move in moves], axis_back, light)
        raise
    return verdict


def _stub_of(by: FocusStub | str) -> FocusStub:
    if not isinstance(by, str):
        return by
    # that module needs this one, which is among the methods
    from bluesky_autofocus.plans._autofocus import method_named

    return method_named(by)


def _checked_offsets(stage: Sequence[FocusAxis], offset_um: Sequence[float]) -> list[float]:
    """Return the offsets as floats, one for each axis."""
    try:
        offsets = [float(one) for one in offset_um]
    except TypeError:
        offsets = []
    if not offsets or len(offsets) != len(stage) or not all(map(math.isfinite, offsets)) or not any(offsets):
        raise ValueError(
            f"offset_um must be a finite distance for each of the {len(stage)} axes of the stage, not all 0; "
            f"got {offset_um!r}"
        )
    return offsets


def _checked_tilt(
    offsets_um: Sequence[float],
    tilt_um_per_mm: Sequence[float] | None,
    surface: Callable[..., float] | None,
) -> list[float]:
    if tilt_um_per_mm is None:
        return [0.0] * len(offsets_um)
    if surface is not None:
        raise ValueError("give either tilt_um_per_mm or a surface")
    tilt = [float(slope) for slope in tilt_um_per_mm]
    if len(tilt) != len(offsets_um) or not all(map(math.isfinite, tilt)):
        raise ValueError(
            f"tilt_um_per_mm must be a finite slope for each axis of the stage, got {tilt_um_per_mm!r}"
        )
    return tilt


def _added_um(
    offsets_um: Sequence[float], tilt_sigma_um_per_mm: float, depth_of_field_um: float | None
) -> float:
    """Return what the way to the side adds to the uncertainty of the focus."""
    if not (math.isfinite(tilt_sigma_um_per_mm) and tilt_sigma_um_per_mm >= 0):
        raise ValueError(
            f"tilt_sigma_um_per_mm must be finite and not negative, got {tilt_sigma_um_per_mm!r}"
        )
    added_um = tilt_sigma_um_per_mm * math.hypot(*offsets_um) / UM_PER_MM
    if depth_of_field_um is not None and SURE * added_um > depth_of_field_um:
        raise ValueError(
            f"a tilt known to {tilt_sigma_um_per_mm:g} um/mm leaves focus uncertain by {added_um:.3g} um so "
            f"far aside, too much for a depth of field of {depth_of_field_um:g} um: give a smaller "
            "offset_um, or tilt_um_per_mm and its tilt_sigma_um_per_mm"
        )
    return added_um


def _travel_of(axis: FocusAxis, focused: Verdict, options: dict[str, Any]) -> Travel:
    """Return the travel of the operation that has ended."""
    way_um = sorted((focused.start_um, focused.position_um))
    low_um, high_um = focused.parameters.get("travel_um", way_um)
    return Travel(axis, (low_um, high_um), focused.start_um, options.get("approach", Approach()))


def _carry_over(travel: Travel, focused: Verdict, rise_um: float) -> MsgGenerator[Verdict]:
    """Move the axis on by the difference in height, if focus was found; return what holds then."""
    if not focused.found or not rise_um:
        return focused
    at_um = focused.position_um
    if focused.reason is Reason.HELD_BACK:  # it stands short of it
        at_um = yield from bps.rd(travel.axis, default_value=at_um)
    target_um = at_um + rise_um
    within = travel.low_um <= target_um <= travel.high_um
    if not within or (yield from refused_by(travel.axis, travel.reached([target_um]))) is not None:
        yield from travel.put_back()
        return dataclasses.replace(
            focused, found=False, reason=Reason.OUT_OF_REACH, position_um=math.nan, sigma_um=math.nan
        )
    yield from travel.to(target_um)
    return dataclasses.replace(focused, position_um=focused.position_um + rise_um)
