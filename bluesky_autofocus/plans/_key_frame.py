"""Focus by comparing a few planes: a coarse scan picks one, a fine one about it tells where focus is."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from bluesky import plan_stubs as bps
from bluesky.utils import MsgGenerator, plan

from bluesky_autofocus.plans._criteria import SURE
from bluesky_autofocus.plans._dose import check_dose
from bluesky_autofocus.plans._exposing import Exposure, _Record
from bluesky_autofocus.plans._moving import Approach, interval_um
from bluesky_autofocus.plans._operation import Operation, check_positive, start_of
from bluesky_autofocus.plans._protocols import Detectors, FocusAxis, ScanAnalysis
from bluesky_autofocus.records import Reading, Reason, Verdict
from bluesky_autofocus.search import Conclusion, Plane, Sighting, key_frame_search, spacing_of

__all__ = ["coarse_fine_focus", "key_frame_focus"]

COARSE_UM = (-1.0, 0.0, 1.0)
FINE_UM = (-0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75)

STRAYED = 0.5
"""Part of the spacing by which an axis may be off a plane: half way to the next one it shows another."""


@plan
def key_frame_focus(
    detectors: Detectors,
    axis: FocusAxis,
    *,
    analysis: ScanAnalysis,
    offsets_um: Sequence[float] = COARSE_UM,
    budget: int = 12,
    dose_budget_s: float | None = None,
    depth_of_field_um: float | None = None,
    smooth_um: float | None = None,
    axis_sign: int = 1,
    travel_um: tuple[float, float] | None = None,
    approach: Approach = Approach(),
    timeout_s: float = 30.0,
) -> MsgGenerator[Verdict]:
    """Focus by one scan of a few planes, compared with each other; a stub that opens no run.

    Where the focus lies beyond the scan's edge, the scan walks on to that side, plane by plane, within the
    travel range and the budget. The axis goes to where focus is between the planes.

    Parameters
    ----------
    detectors : sequence of Readable
        The camera first.
    axis : FocusAxis
        What is moved, in um.
    analysis : ScanAnalysis
        Compares the planes, such as `KeyFrameAnalysis`; subscribed to the RunEngine.
    offsets_um : sequence of float
        Planes relative to where the axis is: an odd number, evenly spaced, ascending, 0 among them.
    budget : int
        Most exposures to spend.
    dose_budget_s : float, optional
        Most seconds of exposure, see `brent_focus`.
    depth_of_field_um : float, optional
        Where given, the focus is believed only if three standard uncertainties fit into it.
    smooth_um : float, optional
        Largest correction, for a time-lapse that is to be looked at. Where focus is farther away, the axis
        goes this far towards it and the verdict says ``held_back``.
    axis_sign : int
        -1 where the axis runs downwards.
    travel_um : tuple of float, optional
        Lowest and highest position that any move may go to; by default four times the largest offset to
        either side.
    approach : Approach
        From which side planes are approached.
    timeout_s : float
        Longest wait for the reading of an exposure.

    Returns
    -------
    Verdict
        Also recorded in the stream ``verdict``. Not found: ``EDGE``, the focus lies beyond what the range,
        the axis or the budget allowed; ``UNCERTAIN``, none of these planes; ``EMPTY``, no cell in the field;
        ``UNFAMILIAR``, cells unlike those of the training; ``OUT_OF_REACH``, the axis may not go there.

    Raises
    ------
    ValueError
        If an argument makes no sense, or the analysis knows no such scan; before anything moves.
    LimitError, NotSubscribedError, AnalysisError
        As for the other stubs.
    """
    return (
        yield from _focus(
            detectors,
            axis,
            method="key_frame",
            stages=(("offsets_um", offsets_um, analysis),),
            reuse=True,
            budget=budget,
            dose_budget_s=dose_budget_s,
            depth_of_field_um=depth_of_field_um,
            smooth_um=smooth_um,
            axis_sign=axis_sign,
            travel_um=travel_um,
            approach=approach,
            timeout_s=timeout_s,
        )
    )


@plan
def coarse_fine_focus(
    detectors: Detectors,
    axis: FocusAxis,
    *,
    analysis: ScanAnalysis,
    fine_analysis: ScanAnalysis | None = None,
    coarse_um: Sequence[float] = COARSE_UM,
    fine_um: Sequence[float] = FINE_UM,
    reuse: bool = True,
    budget: int = 12,
    dose_budget_s: float | None = None,
    depth_of_field_um: float | None = None,
    smooth_um: float | None = None,
    axis_sign: int = 1,
    travel_um: tuple[float, float] | None = None,
    approach: Approach = Approach(),
    timeout_s: float = 30.0,
) -> MsgGenerator[Verdict]:
    """Focus by a coarse scan, and a fine one about the plane that it picks; a stub that opens no run.

    Three planes a micron apart, then seven a quarter of one: nine exposures, since the plane in the middle of
    the fine scan has been exposed in the coarse one. Either scan walks on where the focus lies beyond its
    edge, so that the fine one mends what the coarse one got wrong.

    Parameters
    ----------
    analysis : ScanAnalysis
        Compares the planes of the coarse scan, and of the fine one unless there is another for that.
    fine_analysis : ScanAnalysis, optional
        Compares the planes of the fine scan.
    coarse_um, fine_um : sequence of float
        Planes of the scans, as ``offsets_um`` of `key_frame_focus`.
    reuse : bool
        Whether planes of the coarse scan take part in the fine one. If not, all are exposed again.
    detectors, axis, budget, dose_budget_s, depth_of_field_um, smooth_um, axis_sign, travel_um, approach, \
timeout_s
        As for `key_frame_focus`.

    Returns
    -------
    Verdict
        As for `key_frame_focus`; ``NOT_CONVERGED`` where the coarse scan left too few exposures to the fine
        one.

    Raises
    ------
    ValueError, LimitError, NotSubscribedError, AnalysisError
        As for `key_frame_focus`.
    """
    return (
        yield from _focus(
            detectors,
            axis,
            method="coarse_fine",
            stages=(
                ("coarse_um", coarse_um, analysis),
                ("fine_um", fine_um, fine_analysis or analysis),
            ),
            reuse=reuse,
            budget=budget,
            dose_budget_s=dose_budget_s,
            depth_of_field_um=depth_of_field_um,
            smooth_um=smooth_um,
            axis_sign=axis_sign,
            travel_um=travel_um,
            approach=approach,
            timeout_s=timeout_s,
        )
    )


def _focus(
    detectors: Detectors,
    axis: FocusAxis,
    *,
    method: str,
    stages: Sequence[tuple[str, Sequence[float], ScanAnalysis]],
    reuse: bool,
    budget: int,
    dose_budget_s: float | None,
    depth_of_field_um: float | None,
    smooth_um: float | None,
    axis_sign: int,
    travel_um: tuple[float, float] | None,
    approach: Approach,
    timeout_s: float,
) -> MsgGenerator[Verdict]:
    """Scan stage by stage, each about the plane that the one before picked; stand on the focus."""
    scans = []
    for name, offsets, analysis in stages:
        spacing_um = spacing_of(name, offsets)
        if not isinstance(analysis, ScanAnalysis):
            raise ValueError(
                f"analysis {getattr(analysis, 'name', analysis)!r} does not compare planes: "
                "KeyFrameAnalysis does"
            )
        analysis.check_scan(spacing_um, len(offsets))
        scans.append(([float(one) for one in offsets], spacing_um, analysis))
    check_positive("depth_of_field_um", depth_of_field_um)
    check_positive("smooth_um", smooth_um)
    if axis_sign not in (1, -1):
        raise ValueError(f"axis_sign must be +1 or -1, got {axis_sign!r}")
    least = sum(len(offsets) for offsets, _, _ in scans) - (len(scans) - 1) * int(reuse)
    if budget < least:
        raise ValueError(f"budget must allow at least {least} exposures for {method!r}, got {budget!r}")
    check_dose(dose_budget_s)
    widest_um = max(abs(one) for one in scans[0][0])
    if travel_um is not None:
        travel_um = interval_um("travel_um", travel_um)

    start_um = yield from start_of(axis, *(analysis for _, _, analysis in scans))
    dry_run = start_um is None
    if start_um is None:
        start_um = sum(travel_um or (0.0, 0.0)) / 2
    reach_um = travel_um or (start_um - 4 * widest_um, start_um + 4 * widest_um)
    first_um = (start_um + scans[0][0][0], start_um + scans[0][0][-1])
    if not reach_um[0] <= first_um[0] <= first_um[1] <= reach_um[1]:
        raise ValueError(
            f"travel_um {reach_um} must contain the planes about the start, {first_um[0]:g} .. "
            f"{first_um[1]:g} um ({stages[0][0]} {scans[0][0]})"
        )
    operation = Operation(
        detectors,
        axis,
        analysis=scans[0][2],
        method=method,
        start_um=start_um,
        travel_um=reach_um,
        approach=approach,
        timeout_s=timeout_s,
        dose_budget_s=dose_budget_s,
        dry_run=dry_run,
    )
    if not dry_run:
        yield from operation.check(*first_um)
    uid = str(uuid4())
    exposed_um: list[float] = []
    allowed = budget

    def exposure_of(plane: Plane, spacing_um: float, planes: int, analysis: Any) -> MsgGenerator[Exposure]:
        yield from operation.travel.to(plane.position_um)
        # each Event says what it belongs to: that is what an analysis puts frames together by
        belongs = _ScanPlace(
            {
                "operation": uid,
                "position_um": plane.position_um,
                "spacing_um": spacing_um,
                "planes": planes,
                "last": plane.last,
                "axis_sign": axis_sign,
            }
        )
        imagined = Reading("", 0.0, 0.0, "um")
        return (
            yield from operation.expose(imagined, plane.position_um, analysis=analysis, beside=(belongs,))
        )

    def scan(centre_um: float, stage: int) -> MsgGenerator[Conclusion]:
        nonlocal uid
        offsets, spacing_um, analysis = scans[stage]
        if not reuse:
            uid = str(uuid4())
            exposed_um.clear()
        planes = [centre_um + one for one in offsets]
        if not (yield from operation.reaches(planes[0], planes[-1])):
            return Conclusion(Reason.OUT_OF_REACH)
        search = key_frame_search(
            planes,
            exposed_um=exposed_um,
            within_um=reach_um,
            exposures=allowed - len(operation.exposures),
        )
        try:
            plane = next(search)
            while True:
                # the limits of the axis may be narrower than the travel range: it does not walk on there
                if not (yield from operation.reaches(plane.position_um)):
                    return Conclusion(Reason.EDGE)
                exposure = yield from exposure_of(plane, spacing_um, len(planes), analysis)
                if abs(exposure.position_um - plane.position_um) > STRAYED * spacing_um:
                    return Conclusion(Reason.UNCERTAIN)  # the axis is not where it was sent
                exposed_um.append(plane.position_um)
                plane = search.send(_sighting(exposure, axis_sign))
        except StopIteration as end:
            return end.value

    def conclude() -> MsgGenerator[Conclusion]:
        nonlocal allowed
        allowed = yield from operation.dose.affordable(budget, least)
        yield from bps.checkpoint()
        conclusion = yield from scan(start_um, 0)
        for stage in range(1, len(scans)):
            if not conclusion.found:
                break
            # about the plane nearest to focus, which need not be exposed again
            picked_um = min(exposed_um, key=lambda one: abs(one - conclusion.position_um))
            conclusion = yield from scan(picked_um, stage)
        if not conclusion.found:
            return conclusion
        if depth_of_field_um is not None and SURE * conclusion.sigma_um > depth_of_field_um:
            return Conclusion(Reason.UNCERTAIN)
        target_um, away_um = conclusion.position_um, conclusion.position_um - start_um
        if smooth_um is not None and abs(away_um) > smooth_um:
            target_um = start_um + math.copysign(smooth_um, away_um)
            conclusion = dataclasses.replace(conclusion, reason=Reason.HELD_BACK)
        if not (yield from operation.reaches(target_um)):
            return Conclusion(Reason.OUT_OF_REACH)
        yield from operation.travel.to(target_um)
        return conclusion

    return (
        yield from operation.carry_out(
            conclude(),
            parameters={
                **{name: offsets for (name, _, _), (offsets, _, _) in zip(stages, scans, strict=True)},
                "reuse": reuse,
                **_of_its_own(scans[0][2], scans[-1][2]),
                "budget": budget,
                "depth_of_field_um": depth_of_field_um,
                "smooth_um": smooth_um,
                "axis_sign": axis_sign,
            },
        )
    )


def _of_its_own(analysis: ScanAnalysis, fine: ScanAnalysis) -> dict[str, Any]:
    """Return what the fine scan was judged by, where that is not what judged the coarse one."""
    if fine is analysis:
        return {}
    return {"fine_analysis": fine.parameters, "fine_model_hash": fine.model_hash}


def _sighting(exposure: Exposure, axis_sign: int) -> Sighting:
    reading = exposure.reading
    return Sighting(reading.reason, exposure.position_um - axis_sign * reading.value, reading.sigma)


class _ScanPlace(_Record):
    """Which exposure of which scan this is."""

    def __init__(self, place: dict[str, Any]) -> None:
        super().__init__("scan")
        self._place = place

    def fields(self) -> dict[str, Any]:
        return self._place
