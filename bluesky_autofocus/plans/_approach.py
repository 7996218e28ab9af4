"""Run towards the focus at a velocity that follows from each frame, stop there, and look again."""

import math

from bluesky import plan_stubs as bps
from bluesky.utils import MsgGenerator, plan

from bluesky_autofocus.plans._correcting import correct, estimate_of
from bluesky_autofocus.plans._criteria import Criteria, Estimate
from bluesky_autofocus.plans._dose import check_dose
from bluesky_autofocus.plans._exposing import Exposure
from bluesky_autofocus.plans._moving import Approach, check_reachable, interval_um
from bluesky_autofocus.plans._operation import Operation, check_positive, start_of
from bluesky_autofocus.plans._protocols import Detectors, FocusAnalysis, RunningAxis
from bluesky_autofocus.plans._running import check_running, run_at
from bluesky_autofocus.records import Reading, Reason, Verdict
from bluesky_autofocus.search import ApproachLaw, Conclusion

__all__ = ["approach_focus"]

SLOWEST = 1e-3
"""Part of the default velocity below which an axis that is not there yet has nowhere to go."""


@plan
def approach_focus(
    detectors: Detectors,
    axis: RunningAxis,
    *,
    analysis: FocusAnalysis,
    default_velocity: float,
    class_width_um: float,
    gain: float = 0.2,
    travel_um: tuple[float, float],
    stop_index: float = 0.5,
    reaction_s: float = 0.2,
    patience: int = 3,
    budget: int = 100,
    dose_budget_s: float | None = None,
    verify: bool = True,
    accept_um: float | None = None,
    depth_of_field_um: float | None = None,
    axis_sign: int = 1,
    approach: Approach = Approach(),
    timeout_s: float = 2.0,
) -> MsgGenerator[Verdict]:
    """Focus by running: the velocity follows from every frame that is taken on the way; opens no run.

    Frames are taken while the axis runs, and each sets its velocity: the default one while frames are totally
    blurred, then less and less (`ApproachLaw`). What it has gone since a frame was taken is allowed for. It
    stops where the frames are in focus, and at rest what is left is measured, taken back and looked at again,
    as the single-shot methods do.

    Parameters
    ----------
    detectors : sequence of Readable
        The camera first.
    axis : RunningAxis
        What is moved, in um; it has a ``velocity`` that it is run by.
    analysis : FocusAnalysis
        Gives the defocus of every frame in um, such as `FocusClassAnalysis`. A reading ``out_of_range`` whose
        value is finite tells the side.
    default_velocity : float
        um/s at which the axis runs while frames are totally blurred.
    class_width_um : float
        By how much neighbouring focus classes differ.
    gain : float
        Of the velocity, as a share of the default one for each class.
    travel_um : tuple of float
        Lowest and highest position. The axis runs no faster than would bring it to their end in `reaction_s`,
        or in the time that answers were seen to take; against a camera that is suddenly slower than that only
        a watchdog of the axis helps.
    stop_index : float
        Classes from focus at which the axis stops.
    reaction_s : float
        Longest time from a frame to the command that follows from the next one; until it is seen to be
        shorter, the axis runs no faster than takes it most of the way to focus in it.
    patience : int
        How many frames in a row may be of no use; the axis stands meanwhile.
    budget : int
        Most exposures to spend.
    dose_budget_s : float, optional
        Most seconds of exposure, see `brent_focus`.
    verify, accept_um, depth_of_field_um, axis_sign, approach
        As for `single_shot_focus`, once the axis has stopped.
    timeout_s : float
        Longest wait for a reading: an answer that is later ends the operation, and stops the axis.

    Returns
    -------
    Verdict
        Also recorded in the stream ``verdict``. Not found: ``OUT_OF_REACH``, the focus lies beyond the travel
        range; ``NOT_CONVERGED``, the budget is spent; the reason of frames that were of no use; or what the
        criteria of a correction say.

    Raises
    ------
    ValueError
        If an argument makes no sense or the axis has no velocity mode; before anything moves.
    LimitError
        If the axis cannot run that fast or go that far; before anything moves.
    ReadingTimeoutError, NotSubscribedError, AnalysisError
        As for the other stubs. The axis is stopped and put back.
    """
    axis = check_running(axis)
    law = ApproachLaw(default_velocity, class_width_um, gain, stop_index, reaction_s)
    low_um, high_um = interval_um("travel_um", travel_um)
    if axis_sign not in (1, -1):
        raise ValueError(f"axis_sign must be +1 or -1, got {axis_sign!r}")
    if patience < 1:
        raise ValueError(f"patience must be at least 1 frame, got {patience!r}")
    check_positive("accept_um", accept_um)
    check_positive("depth_of_field_um", depth_of_field_um)
    at_rest = 1 + bool(verify)
    if budget < 1 + at_rest:
        raise ValueError(f"budget must allow at least {1 + at_rest} exposures, got {budget!r}")
    check_dose(dose_budget_s)
    criteria = Criteria(bool(verify), accept_um, depth_of_field_um)
    allowed = budget

    start_um = yield from start_of(axis, analysis)
    dry_run = start_um is None
    if start_um is None:
        start_um = (low_um + high_um) / 2
    if not low_um <= start_um <= high_um:
        raise ValueError(f"travel_um {(low_um, high_um)} must contain the start {start_um} um")
    operation = Operation(
        detectors,
        axis,
        analysis=analysis,
        method="approach",
        start_um=start_um,
        travel_um=(low_um, high_um),
        approach=approach,
        timeout_s=timeout_s,
        dose_budget_s=dose_budget_s,
        dry_run=dry_run,
    )
    if not dry_run:
        yield from operation.check(low_um, high_um)
    yield from check_reachable(axis.velocity, [default_velocity, -default_velocity])

    def halt() -> MsgGenerator[None]:
        if operation.travel.moved:
            yield from run_at(axis, 0.0)

    def go_on_at(velocity_um_s: float) -> MsgGenerator[None]:
        operation.travel.ran()  # before it does: whatever fails, it is put back
        yield from run_at(axis, velocity_um_s)
        # what goes on after a pause begins with a frame: this velocity was right for where it was
        yield from bps.checkpoint()

    followed = False

    def run_there() -> MsgGenerator[Conclusion | None]:
        """Run until the axis is there; return why it is not."""
        nonlocal followed
        useless, velocity, seen_s = 0, 0.0, None
        first: Estimate | None = None
        while len(operation.exposures) + at_rest < allowed:
            exposure = yield from operation.expose(Reading("", 0.0, 0.0, "um"), start_um)
            reading = exposure.reading
            usable = math.isfinite(reading.value) and math.isfinite(exposure.position_um)
            only_the_side = usable and reading.reason is Reason.OUT_OF_RANGE
            if not usable or not (reading.accepted or only_the_side):
                useless, velocity = useless + 1, 0.0
                yield from halt()
                if useless >= patience:
                    return Conclusion(Reason.UNCERTAIN if reading.accepted else reading.reason)
                continue
            useless = 0
            if reading.accepted:
                now = estimate_of(exposure, axis_sign)
                first = first or now
                expected_um = axis_sign * (exposure.position_um - first.focus_um)
                moved_enough = abs(first.defocus_um - expected_um) >= criteria.nudge_um(now.sigma_um)
                followed = moved_enough and criteria.follows(now, first, expected_um)
            now_um = yield from bps.rd(axis, default_value=start_um)
            gone_um = now_um - exposure.position_um
            defocus_um = reading.value + axis_sign * gone_um
            if only_the_side:
                defocus_um = math.copysign(math.inf, reading.value)
            if law.is_there(defocus_um):
                yield from halt()
                return None
            if velocity:
                # from frame to command; it will be as long again until the next frame has been answered
                seen_s = max(seen_s or 0.0, 2 * abs(gone_um / velocity))
            room_um = (now_um - low_um, high_um - now_um)[::axis_sign]
            # an answer may take `timeout_s`, until it is seen how long it takes
            slowest_s = timeout_s if seen_s is None else seen_s
            velocity = axis_sign * law.velocity_um_s(
                defocus_um, *room_um, reaction_s=seen_s, slowest_s=slowest_s
            )
            if abs(velocity) < SLOWEST * default_velocity:
                return Conclusion(Reason.OUT_OF_REACH)
            yield from go_on_at(velocity)
        return Conclusion(Reason.NOT_CONVERGED)

    def measure(expected_um: float, at_um: float) -> MsgGenerator[Exposure]:
        return (yield from operation.expose(Reading("", expected_um, 0.0, "um"), at_um))

    def conclude() -> MsgGenerator[Conclusion]:
        nonlocal allowed
        allowed = yield from operation.dose.affordable(budget, 1 + at_rest)
        yield from bps.checkpoint()
        try:
            conclusion = yield from run_there()
        except Exception:
            yield from halt()  # it is to stand before it is sent back
            raise
        if conclusion is not None:
            yield from halt()
            return conclusion
        at_um = yield from bps.rd(axis, default_value=start_um)
        return (
            yield from correct(
                operation,
                measure,
                criteria,
                at_um=at_um,
                frames=1,
                budget=allowed,
                axis_sign=axis_sign,
                followed=followed,
            )
        )

    return (
        yield from operation.carry_out(
            conclude(),
            put_back=[halt],
            parameters={
                "default_velocity": default_velocity,
                "class_width_um": class_width_um,
                "gain": gain,
                "stop_index": stop_index,
                "reaction_s": reaction_s,
                "patience": patience,
                "budget": budget,
                "verify": bool(verify),
                "accept_um": accept_um,
                "depth_of_field_um": depth_of_field_um,
                "axis_sign": axis_sign,
            },
        )
    )
