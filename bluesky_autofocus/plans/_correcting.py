"""Take a measured defocus back and look again, until the criteria believe it."""

from collections.abc import Callable

from bluesky.utils import MsgGenerator

from bluesky_autofocus.plans._criteria import Criteria, Estimate
from bluesky_autofocus.plans._exposing import Exposure
from bluesky_autofocus.plans._operation import Operation
from bluesky_autofocus.records import Reason
from bluesky_autofocus.search import Conclusion

__all__ = ["correct", "estimate_of"]


def estimate_of(exposure: Exposure, axis_sign: int) -> Estimate:
    """Return where focus is by an exposure whose reading is the defocus."""
    reading = exposure.reading
    return Estimate(exposure.position_um - axis_sign * reading.value, reading.value, reading.sigma)


def correct(
    operation: Operation,
    measure: Callable[[float, float], MsgGenerator[Exposure]],
    criteria: Criteria,
    *,
    at_um: float,
    frames: int,
    budget: int,
    axis_sign: int,
    followed: bool = False,
) -> MsgGenerator[Conclusion]:
    """Measure, correct, and measure again; return what the criteria conclude, the axis on the focus if found.

    Parameters
    ----------
    operation : Operation
        Whose axis it is.
    measure : callable
        ``measure(expected_um, at_um)`` is a stub that exposes and returns an exposure whose reading is the
        defocus; in a dry run it is what was expected.
    criteria : Criteria
        What must hold.
    at_um : float
        Where the axis is.
    frames : int
        How many exposures make one measurement.
    budget : int
        How many exposures the whole operation may spend.
    axis_sign : int
        -1 where the defocus rises as the position falls.
    followed : bool
        Whether estimates of before have followed the axis, as `Criteria.follows` tells.
    """
    before: Estimate | None = None
    expected_um = 0.0
    while True:
        exposure = yield from measure(expected_um, at_um)
        reading = exposure.reading
        if not reading.accepted:
            return Conclusion(reading.reason)
        now = estimate_of(exposure, axis_sign)
        conclusion = criteria.conclude(now, before, expected_um, followed)
        focus_um = now.focus_um
        if conclusion is not None:
            if not conclusion.found:
                return conclusion
            focus_um = conclusion.position_um
        elif len(operation.exposures) + frames > budget:
            return Conclusion(Reason.NOT_CONVERGED if criteria.verify else Reason.UNCERTAIN)
        if not (yield from operation.reaches(focus_um)):
            return Conclusion(Reason.OUT_OF_REACH)
        if conclusion is not None:
            yield from operation.travel.to(focus_um)
            return conclusion
        followed = followed or (before is not None and criteria.follows(now, before, expected_um))
        direction = operation.travel.approach.direction
        for at_um in criteria.look_from(now, exposure.position_um, followed, direction):
            if (yield from operation.reaches(at_um)):
                break
        else:
            return Conclusion(Reason.OUT_OF_REACH)
        yield from operation.travel.to(at_um)
        # by where it was sent, not by where it says it is: one that is stuck does not follow either
        before, expected_um = now, axis_sign * (at_um - focus_um)
