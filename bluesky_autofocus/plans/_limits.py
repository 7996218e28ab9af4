"""Keep an axis within limits that are narrower than its own, whatever plan runs."""

from contextlib import closing
from typing import TypeVar

from bluesky.utils import Msg, MsgGenerator, ensure_generator, make_decorator

from bluesky_autofocus.plans._moving import interval_um
from bluesky_autofocus.plans._protocols import FocusAxis, RunningAxis

__all__ = ["OutsideLimitsError", "axis_limits_decorator", "axis_limits_wrapper"]

_T = TypeVar("_T")

SETPOINTS = ("setpoint", "user_setpoint")
"""Parts of axes of ophyd that move them when they are set."""


class OutsideLimitsError(ValueError):
    """A plan would have sent an axis beyond the limits that it was given; it was not."""


def axis_limits_wrapper(
    plan: MsgGenerator[_T], axis: FocusAxis, limits_um: tuple[float, float]
) -> MsgGenerator[_T]:
    """Refuse every move of an axis beyond these limits, those of a cleanup too, before it is made.

    Parameters
    ----------
    plan : generator of messages
        Any.
    axis : FocusAxis
        One with a velocity mode may not run at all: only its own limits hold while it runs.
    limits_um : tuple of float
        Lowest and highest position in um. Where a low one is dangerous the lower one is the safe floor.

    Returns
    -------
    object
        What the plan returns.

    Raises
    ------
    ValueError
        If the limits are none; before the first message.
    OutsideLimitsError
        From within the plan, in place of the move, so that its own cleanup takes place.
    """
    low_um, high_um = interval_um("limits_um", limits_um)
    moved_by = [axis, *(getattr(axis, name) for name in SETPOINTS if hasattr(axis, name))]

    def check(msg: Msg) -> None:
        if msg.command != "set":
            return
        if any(msg.obj is one for one in moved_by) and not low_um <= float(msg.args[0]) <= high_um:
            raise OutsideLimitsError(
                f"{axis.name}: {msg.args[0]} um is beyond the limits {low_um} .. {high_um} um of this session"
            )
        if isinstance(axis, RunningAxis) and msg.obj is axis.velocity and msg.args[0] != 0:
            raise OutsideLimitsError(
                f"{axis.name} may not run at a velocity: nothing would stop it at the limits "
                f"{low_um} .. {high_um} um of this session; give them to the axis itself"
            )

    with closing(ensure_generator(plan)) as messages:
        answer, error = None, None
        while True:
            try:
                msg = messages.send(answer) if error is None else messages.throw(error)
            except StopIteration as end:
                return end.value
            answer = error = None
            try:
                check(msg)
                answer = yield msg
            except Exception as raised:
                error = raised


axis_limits_decorator = make_decorator(axis_limits_wrapper)
