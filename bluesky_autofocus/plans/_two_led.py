"""Correct the defocus that is read from two frames under opposite off-axis LEDs."""

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

__all__ = ["two_led_focus"]


@plan
def two_led_focus(
    detectors: Detectors,
    axis: FocusAxis,
    *,
    leds: PatternLight,
    analysis: DefocusAnalysis,
    budget: int = 6,
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
    """Focus by two frames under opposite LEDs, from whose displacement the defocus follows; opens no run.

    As `single_shot_focus`, but each prediction costs two exposures, one under each LED, and needs no
    training.

    Parameters
    ----------
    detectors, axis, leds, dose_budget_s, verify, accept_um, depth_of_field_um, axis_sign, travel_um, \
approach, fallback, fallback_analysis, fallback_options, fallback_pattern, timeout_s
        As for `single_shot_focus`.
    analysis : DefocusAnalysis
        Gives the defocus of each pair of frames, such as `TwoLEDAnalysis`.
    budget : int
        Most exposures to spend; each prediction takes two.

    Returns
    -------
    Verdict
        As for `single_shot_focus`.

    Raises
    ------
    ValueError, LimitError, NotSubscribedError, AnalysisError
        As for `single_shot_focus`.
    """
    return (
        yield from focus_by_correction(
            detectors,
            axis,
            leds=leds,
            analysis=analysis,
            method="two_led",
            frames=2,
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
