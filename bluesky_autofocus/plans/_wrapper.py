"""Focus inside any plan, before the exposures that are chosen."""

import inspect
import math
import warnings
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.protocols import HasName, Readable, Triggerable
from bluesky.utils import Msg, MsgGenerator, RunEngineControlException, ensure_generator, make_decorator

from bluesky_autofocus.clock import Clock, WallClock
from bluesky_autofocus.plans._autofocus import method_named
from bluesky_autofocus.plans._exposing import _Record, _record, wait_reading
from bluesky_autofocus.plans._foresight import Foresight
from bluesky_autofocus.plans._protocols import Detectors, FocusAnalysis, FocusAxis
from bluesky_autofocus.plans._watch import PlanConflictError, Watch
from bluesky_autofocus.plans._when import FocusDue, When
from bluesky_autofocus.prediction import DriftFilter
from bluesky_autofocus.records import Reason, Verdict

__all__ = ["FocusNotFoundError", "PlanConflictError", "autofocus_decorator", "autofocus_wrapper"]

Focus: TypeAlias = Callable[[], MsgGenerator[Verdict]]
"""Returns a fresh focusing stub each time it is called: ``partial(brent_focus, [camera], z, ...)``."""

Policy: TypeAlias = Literal["go_on", "stop"]

Fallback: TypeAlias = Callable[[Verdict], MsgGenerator[Verdict | None]]
"""``fallback(verdict)`` is a stub that does something about a focus that was not found."""

_T = TypeVar("_T")


class FocusNotFoundError(RuntimeError):
    """Focus was not found, and the plan was not to go on without.

    Attributes
    ----------
    verdict : Verdict
        What was concluded instead.
    """

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(str(verdict))
        self.verdict = verdict


def autofocus_wrapper(
    plan: MsgGenerator[_T],
    focus: Focus | str,
    *,
    when: When,
    detectors: Detectors,
    axis: FocusAxis,
    analysis: FocusAnalysis | None = None,
    on_failure: Policy | Fallback = "go_on",
    drift: DriftFilter | None = None,
    temperature: Readable | None = None,
    follow: bool = False,
    clock: Clock | None = None,
    **options: Any,
) -> MsgGenerator[_T]:
    """Focus before those exposures of a plan that `when` chooses, the first among them.

    An exposure is what a plan triggers of `detectors` for one Event. Focusing comes between whatever the plan
    did before, such as moving there, and the first of these triggers; it runs in the run that the plan has
    open and nowhere else. Each focusing has an Event in the stream ``focus_decision``, beside those of the
    stub, and the start document says ``autofocus``. A pause neither repeats a focusing that has ended
    nor loses an exposure, but what the plan did before a focusing is not done again on resuming.

    Parameters
    ----------
    plan : generator of messages
        Any that exposes with `bluesky.plan_stubs.trigger_and_read` or likewise, in one run or several.
    focus : str or callable
        One of `METHODS`, called with `detectors`, `axis`, `analysis` and the options; or what returns a fresh
        stub, ``partial(focus_if_blurred, [camera], z, analysis=..., trigger=...)``.
    when : When
        `EveryExposures`, `EverySeconds`, `Farther`, `Blurred`, `Uncertain`, or several of them combined
        by ``|``.
    detectors : sequence of Readable
        The camera first. Name here all that the plan triggers before the camera for an exposure.
    axis : FocusAxis
        What `focus` moves, in um. Within a run the plan must not: each would undo what the other did.
    analysis : FocusAnalysis, optional
        For a method by name.
    on_failure : "go_on", "stop" or callable
        Where focus was not found: go on at the position of before, which the ``focus_decision`` tells; or
        stop; or a stub that is called with the verdict. It may return another verdict, or raise. What
        focus_if_blurred puts off as ``too_soon`` is no failure.
    drift : DriftFilter, optional
        Is told of every focus that is found, and predicts it in between. By default a fresh one, where
        `when` or `follow` need it; one that is kept goes on from plan to plan, on the same clock.
    temperature : Readable, optional
        Thermometer in degrees Celsius, read before each exposure for `drift`.
    follow : bool
        Whether the axis is moved to where focus is expected, before exposures that are not focused: within
        its limits and the travel range of the last focusing, from the same side, and while the prediction
        is not in doubt. Each such move has an Event in the stream ``focus_followed``.
    clock : Clock, optional
        Time for `when` and `drift`; a session passes its own. By default real time.
    options
        For a method by name: ``bounds_um``, ``budget`` ... What it sets besides, its ``leds``, is staged by
        the plan.

    Returns
    -------
    object
        What the plan returns.

    Raises
    ------
    TypeError, ValueError
        If an argument makes no sense, or the method takes no such option; before the first message.
    PlanConflictError
        A ValueError, if the plan moves the focus axis in a run, or triggers detectors in such an order that
        focusing has no place before. Raised within the plan in place of that message, so that its own
        cleanup takes place, in which there is no focusing any more.
    FocusNotFoundError
        If told to stop; raised within the plan likewise.
    Exception
        Whatever `focus` raises; within the plan too.
    """
    make_focus = _focus_of(focus, detectors, axis, analysis, options)
    _check(when, detectors, axis, on_failure)
    clock = clock or WallClock()
    now_s = clock.now_s
    watch, due = Watch(detectors, axis), FocusDue(when)
    foresight = None
    if when.foresees or follow or drift is not None or temperature is not None:
        drift = drift or DriftFilter()
        foresight = Foresight(axis, drift, clock, temperature=temperature, follows=follow)

    def before(msg: Msg) -> MsgGenerator[None]:
        watch.refuse(msg)
        begins = watch.begins_exposure(msg)
        if begins or msg.command == "close_run":  # with a run its readings are forgotten
            yield from scored(msg)
        if not begins:
            return
        if not watch.dry_run:
            for analysis in when.analyses:
                analysis.require_open_run()
        at_um: dict[HasName, float] = {}
        for one in when.axes:
            at_um[one] = yield from bps.rd(one, default_value=watch.target_um(one))  # type: ignore[arg-type]
        if foresight is None:
            why = due.why(now_s(), at_um)
        else:
            yield from foresight.look()
            why = due.why(now_s(), at_um, foresight.predicted, foresight.off_um)
        if why:
            verdict = yield from watch.in_place_of(msg, focused(why, watch.number(msg)))
            if verdict.reason is not Reason.TOO_SOON:  # nobody has looked for it
                due.focused(verdict.found, now_s(), at_um)
            if foresight is not None:
                yield from foresight.focused(verdict)
            if on_failure == "stop" and failed(verdict):
                raise FocusNotFoundError(verdict)
        elif foresight is not None:
            yield from watch.in_place_of(msg, foresight.follow(watch.number(msg)))

    def scored(msg: Msg) -> MsgGenerator[None]:
        """Have the last exposure of the plan scored, if it is of this run and anybody asks for it."""
        if watch.exposed is None or watch.exposed[0] != msg.run:
            return
        (_, stream), watch.exposed = watch.exposed, None
        for analysis in when.analyses:
            reading = yield from wait_reading(analysis, stream=stream, dry_run=watch.dry_run)
            if reading is not None:
                due.scored(analysis, reading.value if reading.accepted else math.nan)

    def focused(why: str, number: int) -> MsgGenerator[Verdict]:
        verdict = _checked((yield from make_focus()), focus)
        yield from _record(_Decision(number, why, verdict), "focus_decision")
        if callable(on_failure) and failed(verdict):
            another = yield from on_failure(verdict)
            if another is not None:
                why, verdict = f"not found: {verdict.reason}", _checked(another, on_failure)
                yield from _record(_Decision(number, why, verdict), "focus_decision")
        # a pause while the plan exposes is not to focus once more
        yield from bps.checkpoint()
        return verdict

    def failed(verdict: Verdict) -> bool:
        # a dry run finds nothing, and is to show the whole plan all the same
        return not (verdict.found or verdict.reason is Reason.TOO_SOON or watch.dry_run)

    def after(msg: Msg, answer: Any) -> None:
        if watch.begins_exposure(msg):
            due.exposed()
        if watch.moves_focus(msg):
            due.forget()
        watch.done(msg, answer)

    metadata = {
        "focus": _name_of(focus),
        "when": when.parameters,
        "on_failure": _name_of(on_failure),
        "detectors": [detector.name for detector in detectors],
        "axis": axis.name,
        **({} if analysis is None else {"analysis": analysis.name}),
        "options": {key: repr(value) for key, value in options.items()},
        **({} if foresight is None else foresight.parameters),
    }
    result = yield from bpp.inject_md_wrapper(_interposed(plan, before, after), {"autofocus": metadata})
    if not watch.seen:
        names = ", ".join(metadata["detectors"])
        warnings.warn(f"the plan was never focused: it exposed none of {names} in a run", stacklevel=2)
    return result


autofocus_decorator = make_decorator(autofocus_wrapper)


def _focus_of(
    focus: Focus | str,
    detectors: Detectors,
    axis: FocusAxis,
    analysis: FocusAnalysis | None,
    options: dict[str, Any],
) -> Focus:
    """Return what makes a fresh focusing stub; it has been checked that it can be called."""
    if isinstance(focus, str):
        stub = method_named(focus)
        if analysis is None:
            raise TypeError(f"the method {focus!r} needs an analysis")
        inspect.signature(stub).bind(detectors, axis, analysis=analysis, **options)
        return partial(stub, detectors, axis, analysis=analysis, **options)
    given = [*options, *([] if analysis is None else ["analysis"])]
    if given:
        raise TypeError(f"{', '.join(given)}: for a method by name; a callable is called without arguments")
    inspect.signature(focus).bind()
    return focus


def _check(when: When, detectors: Detectors, axis: FocusAxis, on_failure: Policy | Fallback) -> None:
    if not isinstance(when, When):
        raise TypeError(f"when must be EveryExposures, EverySeconds, Farther ..., got {when!r}")
    if axis in when.axes:
        raise ValueError(f"when goes by {axis.name}, which focusing itself moves: name axes of the stage")
    if not any(isinstance(detector, Triggerable) for detector in detectors):
        raise ValueError(
            f"an exposure is seen by what it triggers: nothing can be triggered of {detectors!r}"
        )
    if not (callable(on_failure) or on_failure in get_args(Policy)):
        raise ValueError(f"on_failure must be 'go_on', 'stop' or a stub, got {on_failure!r}")


def _checked(verdict: Any, stub: Any) -> Verdict:
    if not isinstance(verdict, Verdict):
        raise TypeError(f"{_name_of(stub)} must return a Verdict, got {verdict!r}")
    return verdict


def _name_of(what: Any) -> str:
    if isinstance(what, str):
        return what
    return getattr(getattr(what, "func", what), "__name__", repr(what))


def _interposed(
    plan: MsgGenerator[_T], before: Callable[[Msg], MsgGenerator[None]], after: Callable[[Msg, Any], None]
) -> MsgGenerator[_T]:
    """Put messages before those of a plan; `after` is told of each that the RunEngine has carried out.

    `bluesky.preprocessors.plan_mutator` would show us what we put in as well, of a message that is
    repeated only the first, and no answers.
    """
    with closing(ensure_generator(plan)) as messages:
        answer, error, over = None, None, False
        while True:
            try:
                msg = messages.send(answer) if error is None else messages.throw(error)
            except StopIteration as end:
                return end.value
            answer = error = None
            try:
                if not over:
                    yield from before(msg)
                answer = yield msg
                after(msg, answer)
            except Exception as raised:
                error = raised
                # what follows is the plan's own cleanup
                over |= isinstance(raised, (RunEngineControlException, PlanConflictError, FocusNotFoundError))


class _Decision(_Record):
    """That a plan was focused before one of its exposures: why, and what came of it."""

    def __init__(self, number: int, why: str, verdict: Verdict) -> None:
        super().__init__("focus_decision")
        self._number, self._why, self._verdict = number, why, verdict

    def fields(self) -> dict[str, Any]:
        return {
            "exposure": self._number,
            "why": self._why,
            "method": self._verdict.method,
            "found": self._verdict.found,
            "reason": str(self._verdict.reason),
            "position_um": float(self._verdict.position_um),
        }
