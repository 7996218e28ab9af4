"""Correct the defocus, and the astigmatism, that two frames on either side of the axis' position tell."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from bluesky import plan_stubs as bps
from bluesky.utils import MsgGenerator, get_hinted_fields, plan

from bluesky_autofocus.plans._correcting import correct
from bluesky_autofocus.plans._dose import check_dose
from bluesky_autofocus.plans._exposing import Exposure, _Record
from bluesky_autofocus.plans._moving import Approach, interval_um
from bluesky_autofocus.plans._operation import Operation, check_positive, put_back_all, start_of
from bluesky_autofocus.plans._protocols import Detectors, FocusAxis, PairAnalysis
from bluesky_autofocus.plans._stigmating import (
    Stigmating,
    StigmatingCriteria,
    UmPerUnit,
    read_besides,
    um_per_unit_matrix,
)
from bluesky_autofocus.records import Reading, Reason, Verdict
from bluesky_autofocus.search import Conclusion

__all__ = ["two_exposure_focus"]


@plan
def two_exposure_focus(
    detectors: Detectors,
    axis: FocusAxis,
    *,
    analysis: PairAnalysis,
    depth_of_field_um: float,
    offset_um: float | None = None,
    stigmators: Sequence[FocusAxis] | None = None,
    um_per_unit: UmPerUnit | None = None,
    budget: int = 6,
    dose_budget_s: float | None = None,
    verify: bool = True,
    accept_um: float | None = None,
    axis_sign: int = 1,
    travel_um: tuple[float, float] | None = None,
    approach: Approach = Approach(),
    timeout_s: float = 30.0,
) -> MsgGenerator[Verdict]:
    """Focus by two frames on either side of where the axis is, one estimate, one move; opens no run.

    The blur of one is compared with that of the other, which tells how far focus is and on which side. It
    works some depths of field from focus and no farther: alone where the axis is known to be near, or after a
    search. Unless told not to, it takes another pair where focus was found to be, corrects again while that
    says so, and believes what two pairs agree on; where the first correction is small the second pair is
    taken aside, as with `single_shot_focus`.

    With stigmators the astigmatism is read from the same frames, and taken back with the defocus.

    Parameters
    ----------
    detectors : sequence of Readable
        The camera first.
    axis : FocusAxis
        What is moved, in um.
    analysis : PairAnalysis
        Compares the two frames, such as `TwoExposureAnalysis`; subscribed to the RunEngine before the run
        opens.
    depth_of_field_um : float
        A focus is only believed if three standard uncertainties fit into it.
    offset_um : float, optional
        How far from the axis' position each of the two frames is taken. By default a depth of field.
    stigmators : sequence of two Movable, optional
        What takes back the astigmatism along 0/90 and along 45/135 degrees of the frame, in units of their
        own. Unless focus is found they go back to where they were. They are read with the detectors.
    um_per_unit : float or 2 x 2 numbers, optional
        By how much the distance between the line foci grows with a unit of the stigmators; needed with them.
        Where each acts on both astigmatisms, ``((xx, xy), (yx, yy))``: um of the one along 0/90 for a unit of
        the first and of the second, then of the one along 45/135.
    budget : int
        Most exposures to spend; each estimate takes two.
    dose_budget_s : float, optional
        Most seconds of exposure, see `brent_focus`.
    verify : bool
        Take another pair after each move. Without it the first estimate is believed whose uncertainty is
        small enough; as the last step of a search, which has confirmed that it is near.
    accept_um, axis_sign, approach, timeout_s
        As for `single_shot_focus`. Both frames of a pair are approached from the declared side.
    travel_um : tuple of float, optional
        No move leaves this range. By default as far to either side of the start as the analysis can measure,
        and twice the offset.

    Returns
    -------
    Verdict
        As for `single_shot_focus`. Of frames besides: ``EMPTY``, no contrast above the noise; ``UNFAMILIAR``,
        the two do not show the same; ``POOR_FIT``, their blur is not that of any defocus; ``OUT_OF_RANGE``;
        ``SEVERAL_PEAKS``, two defoci are nearly as likely. `parameters` tell what the stigmators were set to.

    Raises
    ------
    ValueError
        If an argument makes no sense; before anything moves.
    LimitError
        If the axis may not go to the first two positions; before anything moves.
    NotSubscribedError
        If the analysis is not subscribed; before anything moves.
    AnalysisError
        If the documents do not say what the analysis must know. All is put back.

    References
    ----------
    J. Binding, S. Mikula, W. Denk, Low-dosage maximum-a-posteriori focusing and stigmation, Microscopy and
    Microanalysis 19, 38 (2013).
    """
    if not isinstance(analysis, PairAnalysis):
        raise ValueError(
            f"analysis {getattr(analysis, 'name', analysis)!r} does not compare two exposures: "
            "TwoExposureAnalysis does"
        )
    check_positive("depth_of_field_um", depth_of_field_um)
    check_positive("offset_um", offset_um)
    check_positive("accept_um", accept_um)
    check_dose(dose_budget_s)
    if axis_sign not in (1, -1):
        raise ValueError(f"axis_sign must be +1 or -1, got {axis_sign!r}")
    if travel_um is not None:
        travel_um = interval_um("travel_um", travel_um)
    least = 2 * (1 + bool(verify))
    if budget < least:
        raise ValueError(
            f"budget must allow at least {least} exposures for 'two_exposure'"
            f"{' with verify' if verify else ''}, got {budget!r}"
        )
    stigmators = tuple(stigmators or ())
    if stigmators and not analysis.astigmatism:
        raise ValueError(f"analysis {analysis.name!r} does not tell the astigmatism: stigmators need that")
    matrix = um_per_unit_matrix(stigmators, um_per_unit)
    apart_um = depth_of_field_um if offset_um is None else float(offset_um)

    start_um = yield from start_of(axis, analysis)
    dry_run = start_um is None
    if start_um is None:
        start_um = sum(travel_um or (0.0, 0.0)) / 2
    far_um = analysis.range_dof * depth_of_field_um + 2 * apart_um
    reach_um = travel_um or (start_um - far_um, start_um + far_um)
    if not reach_um[0] <= start_um - apart_um <= start_um + apart_um <= reach_um[1]:
        raise ValueError(
            f"travel_um {reach_um} must contain {start_um - apart_um:g} .. {start_um + apart_um:g} um, where "
            "the first two frames are taken"
        )
    operation = Operation(
        read_besides(detectors, stigmators),
        axis,
        analysis=analysis,
        method="two_exposure",
        start_um=start_um,
        travel_um=reach_um,
        approach=approach,
        timeout_s=timeout_s,
        dose_budget_s=dose_budget_s,
        dry_run=dry_run,
    )
    if not dry_run:
        yield from operation.check(start_um - apart_um, start_um + apart_um)
    stigmating = Stigmating(stigmators, (yield from _values_of(stigmators)), matrix)
    criteria = StigmatingCriteria(bool(verify), accept_um, depth_of_field_um, stigmating)
    parameters: dict[str, Any] = {
        "offset_um": apart_um,
        "budget": budget,
        "verify": bool(verify),
        "accept_um": accept_um,
        "depth_of_field_um": depth_of_field_um,
        "axis_sign": axis_sign,
        "stigmators": stigmating.parameters,
    }

    def measure(expected_um: float, at_um: float) -> MsgGenerator[Exposure]:
        refused = yield from stigmating.correct()
        # from the declared side, the one frame and then the other
        offsets_um = [-approach.direction * apart_um, approach.direction * apart_um]
        if refused or not (yield from operation.reaches(*(at_um + one for one in offsets_um))):
            return Exposure(at_um, Reading.refused(Reason.OUT_OF_REACH, "um"), math.nan)
        pair = str(uuid4())
        taken: list[Exposure] = []
        for offset in offsets_um:
            yield from operation.travel.to(at_um + offset)
            belongs = _PairPlace(pair, axis, at_um + offset, last=bool(taken), axis_sign=axis_sign)
            imagined = Reading("", expected_um + axis_sign * offset, 0.0, "um")
            taken.append((yield from operation.expose(imagined, at_um + offset, beside=(belongs,))))
            reading = taken[-1].reading
            if not reading.accepted and reading.reason is not Reason.INCOMPLETE:
                return taken[-1]  # the other frame would not help
        first, last = taken
        stigmating.read(last.reading)
        middle_um = (first.position_um + last.position_um) / 2
        defocus_um = last.reading.value - axis_sign * (last.position_um - middle_um)
        return dataclasses.replace(
            last, position_um=middle_um, reading=dataclasses.replace(last.reading, value=defocus_um)
        )

    def conclude() -> MsgGenerator[Conclusion]:
        allowed = yield from operation.dose.affordable(budget, least)
        yield from bps.checkpoint()
        conclusion = yield from correct(
            operation,
            measure,
            criteria,
            at_um=start_um,
            frames=2,
            budget=allowed,
            axis_sign=axis_sign,
        )
        if conclusion.found:
            # what no other pair has looked at
            if not verify and (yield from stigmating.correct()):
                return Conclusion(Reason.OUT_OF_REACH)
            stigmating.keep = True
            parameters["stigmators"] = stigmating.parameters
        return conclusion

    try:
        return (
            yield from operation.carry_out(conclude(), put_back=[stigmating.put_back], parameters=parameters)
        )
    except Exception:
        # it was found, and then it could not be recorded
        if stigmating.keep:
            stigmating.keep = False
            yield from put_back_all([stigmating.put_back])
        raise


def _values_of(stigmators: Sequence[FocusAxis]) -> MsgGenerator[list[float]]:
    values = []
    for one in stigmators:
        values.append(float((yield from bps.rd(one, default_value=0.0))))
    return values


class _PairPlace(_Record):
    """Which frame of which pair this is."""

    def __init__(
        self, operation: str, axis: FocusAxis, position_um: float, *, last: bool, axis_sign: int
    ) -> None:
        super().__init__("pair")
        fields = get_hinted_fields(axis)
        self._place = {
            "operation": operation,
            "last": last,
            "axis": fields[0] if len(fields) == 1 else "",
            "position_um": position_um,
            "axis_sign": axis_sign,
        }

    def fields(self) -> dict[str, Any]:
        return self._place
