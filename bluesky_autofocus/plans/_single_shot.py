"""Correct the defocus that is read from one frame under one off-axis LED."""

from collections.abc import Mapping
from typing import Any

from bluesky.utils import MsgGenerator, plan

from bluesky_autofocus.leds import Pattern
from bluesky_autofocus.plans._correction import focus_by_correction
from bluesky_autofocus.plans._moving import Approach
from bluesky_autofocus.plans._protocols import (
    DefocusAnalysis,
    Detectors,
    FocusAnalysis,
    FocusAxis,
    FocusStub,
    PatternLight,
)
from bluesky_autofocus.records import Verdict

__all__ = ["single_shot_focus"]


@plan
def single_shot_focus(
    detectors: Detectors,
    axis: FocusAxis,
    *,
    leds: PatternLight,
    analysis: DefocusAnalysis,
    budget: int = 3,
    dose_budget_s: float | None = None,
    verify: bool = True,
    accept_um: float | None = None,
    depth_of_field_um: float | None = None,
    axis_sign: int = 1,
    travel_um: tuple[float, float] | None = None,
    approach: Approach = Approach(),
    fallback: FocusStub | str | None = None,
    fallback_analysis: FocusAnalysis | None = None,
    fallback_options: Mapping[str, Any] | None = None,
    fallback_pattern: Pattern | str = "half_annulus_top",
    timeout_s: float = 30.0,
) -> MsgGenerator[Verdict]:
    """Focus by one frame under one LED, one prediction, one move; a stub that opens no run.

    It sets the LED that the analysis asks for, exposes, moves the axis by minus the defocus, and, unless told
    not to, exposes again: only a second frame can tell a right prediction from a wrong one. While that is
    further from focus than its uncertainty allows, it corrects again, as far as the budget goes. Whatever the
    outcome, the light shows in the end what it showed before.

    A second frame from nearly the same place would tell nothing: a model that answers 0 to whatever it does
    not know would answer 0 again. So where the first correction is no larger than the depth of field, or than
    what `accept_um` allows, the axis is not sent to focus but aside of it, by a depth of field (1 um where
    that is not given) or by twice what is allowed, whichever is more: to the side from which positions are
    approached, or to the other one where that is out of reach. The second frame has to show that defocus, and
    the axis goes to focus from there. It costs no exposure.

    Parameters
    ----------
    detectors : sequence of Readable
        The camera first. What records the optics, the objective, belongs to them. The LED array is read with
        them in any case.
    axis : FocusAxis
        What is moved, in um.
    leds : PatternLight
        The LED array: set to patterns, read with each exposure.
    analysis : DefocusAnalysis
        Gives the defocus, and says under which LED, such as `SingleShotAnalysis`; subscribed to the RunEngine
        before the run opens.
    budget : int
        Most exposures to spend, the verifying ones included.
    dose_budget_s : float, optional
        Most seconds of exposure, see `brent_focus`; those of the fallback are among them.
    verify : bool
        Expose again after each move, and believe what two frames agree on that were not taken at the same
        place. Without it the first prediction is believed whose uncertainty is small enough.
    accept_um : float, optional
        Largest defocus at which the verifying frame counts as in focus; where it is taken aside, the
        largest difference from what it should show there. By default three standard uncertainties of that
        frame, since less cannot be told from none, or a quarter of a depth of field where that is more, since
        nobody would see it.
    depth_of_field_um : float, optional
        Where it is given, a focus is only believed if three standard uncertainties fit into it.
    axis_sign : int
        +1 where the position of the axis rises with the defocus, -1 where it falls.
    travel_um : tuple of float, optional
        No move leaves this range. By default as far to either side of the start as the analysis can measure:
        no correction that it could ask for in good faith goes further.
    approach : Approach
        From which side positions are approached.
    fallback : callable or str, optional
        The stub, or the name of the method, that focuses where this one does not: `brent_focus`, "brent". It
        is given `approach`, `timeout_s` and, if it was given, `travel_um`.
    fallback_analysis : FocusAnalysis, optional
        What the fallback goes by.
    fallback_options : dict, optional
        Of the fallback; ``range_um`` or ``bounds_um`` at least for the searches.
    fallback_pattern : Pattern or str
        What the light shows meanwhile.
    timeout_s : float
        Longest wait for a reading.

    Returns
    -------
    Verdict
        Where the focus is and the axis now stands: the mean of what the last two frames say, weighted. Its
        uncertainty is not taken to be reduced by that: the errors of both have one cause, the specimen. Or
        ``found=False`` with the axis back where it was, for the reason of a frame that was refused, or
        ``OUT_OF_REACH``: the correction, or the way aside, would leave the travel range or the limits of
        the axis; ``WORSE_AFTERWARDS``: the verifying frame is at least as far from focus as the one before,
        or does not show that it was taken aside, and their uncertainties do not account for it;
        ``NOT_CONVERGED``: the budget is spent; ``UNCERTAIN``: three standard uncertainties exceed the depth
        of field, or none was stated.
        With a fallback, its verdict; both are recorded, and each counts its own exposures.

    Raises
    ------
    ValueError
        If an argument makes no sense; before anything moves.
    LimitError
        If the axis may not come back to where it is; before anything moves.
    NotSubscribedError
        If an analysis is not subscribed; before anything moves.
    AnalysisError
        If the frames are not what the analysis is made for: other optics, another LED, an LED array whose
        orientation was not calibrated. All is put back.

    References
    ----------
    H. Pinkard, Z. Phillips, A. Babakhani, D. A. Fletcher, L. Waller, Deep learning for single-shot autofocus
    microscopy, Optica 6, 794 (2019).
    """
    return (
        yield from focus_by_correction(
            detectors,
            axis,
            leds=leds,
            analysis=analysis,
            method="single_shot",
            frames=1,
            budget=budget,
            dose_budget_s=dose_budget_s,
            verify=verify,
            accept_um=accept_um,
            depth_of_field_um=depth_of_field_um,
            axis_sign=axis_sign,
            travel_um=travel_um,
            approach=approach,
            fallback=fallback,
            fallback_analysis=fallback_analysis,
            fallback_options=fallback_options,
            fallback_pattern=fallback_pattern,
            timeout_s=timeout_s,
        )
    )
