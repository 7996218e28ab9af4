"""Focus only when the frame is blurred."""

import contextlib
import inspect
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from bluesky import plan_stubs as bps
from bluesky.utils import MsgGenerator, plan

from bluesky_autofocus.plans._brent import brent_focus
from bluesky_autofocus.plans._dose import DoseMeter, DoseSpent
from bluesky_autofocus.plans._exposing import expose, record_verdict, wait_reading
from bluesky_autofocus.plans._moving import Approach, Travel
from bluesky_autofocus.plans._protocols import Detectors, FocusAnalysis, FocusAxis, FocusStub
from bluesky_autofocus.records import Reading, Reason, Verdict
from bluesky_autofocus.search import BlurTrigger

__all__ = ["focus_if_blurred"]

OTHER_FRAMES = frozenset({"leds", "stage"})
"""Options of stubs whose frames are taken under another light, or elsewhere; verdicts record them too."""


@plan
def focus_if_blurred(
    detectors: Detectors,
    axis: FocusAxis,
    *,
    analysis: FocusAnalysis,
    trigger: BlurTrigger,
    focus: FocusStub = brent_focus,
    focus_analysis: FocusAnalysis | None = None,
    dose_budget_s: float | None = None,
    now_s: Callable[[], float] = time.monotonic,
    timeout_s: float = 30.0,
    **options: Any,
) -> MsgGenerator[Verdict]:
    """Take one exposure and focus if it is blurred; a stub that opens no run.

    It costs one exposure when nothing is wrong. Keep the trigger from call to call: it holds the baseline,
    which is how sharp a frame was at the focus that was found. Searches take such a frame themselves, to
    confirm the focus. After other stubs, and after those that looked elsewhere or under another light, one
    more exposure is taken for it, if there is dose left.

    Parameters
    ----------
    detectors : sequence of Readable
        The camera first.
    axis : FocusAxis
        What is moved, in um.
    analysis : FocusAnalysis
        Gives the sharpness that is compared with the baseline. On fields of differing contrast take a
        metric that does not depend on it, ``SharpnessAnalysis("laplacian_ratio")``.
    trigger : BlurTrigger
        Baseline, thresholds and least time between focusing. Without a baseline the first call focuses.
    focus : callable
        The stub that focuses.
    focus_analysis : FocusAnalysis, optional
        What `focus` goes by; by default the same `analysis`.
    dose_budget_s : float, optional
        Most seconds of exposure, the one that asks for focusing included. `focus` gets what is left.
    now_s : callable
        Time for the trigger; a session passes its clock's.
    timeout_s : float
        Longest wait for a reading.
    options
        Passed to `focus`.

    Returns
    -------
    Verdict
        What `focus` found, the exposure that asked for it included; ``STILL_SHARP`` where nothing was
        wrong; ``TOO_SOON`` where focusing must wait. A frame that cannot be used does not count as
        blurred: the verdict then gives its reason, and nothing moves. ``HELD_BACK``, short of the focus, and
        where none was found the baseline stays as it was.

    Raises
    ------
    ValueError, LimitError, NotSubscribedError
        As `focus` does.
    """
    meter = DoseMeter(dose_budget_s, detectors)
    if dose_budget_s is not None:
        options["dose_budget_s"] = dose_budget_s
    # a wrong option is to be noticed now, not when a frame is blurred for the first time
    inspect.signature(focus).bind(detectors, axis, analysis=analysis, timeout_s=timeout_s, **options)
    start_um = yield from bps.rd(axis, default_value=None)
    if start_um is not None:
        for needed in (analysis, focus_analysis or analysis):
            needed.require_open_run()
    yield from bps.checkpoint()
    try:
        yield from meter.affordable(1, least=1)
        yield from meter.ask()
    except DoseSpent:
        spared = Verdict(
            found=False,
            reason=Reason.DOSE_SPENT,
            position_um=math.nan,
            sigma_um=math.nan,
            start_um=start_um,  # pyright: ignore[reportArgumentType] - in a dry run nothing is spent
            exposures=0,
            dose=0.0,
            method="blur",
            model_hash=analysis.model_hash,
        )
        yield from record_verdict(spared)
        return spared
    look = yield from expose(detectors, axis, analysis=analysis, stream="focus_blur", timeout_s=timeout_s)
    looks = [] if look is None else [look]

    def look_at_focus(focused: Verdict) -> MsgGenerator[Reading | None]:
        """Return how a frame at the focus is read; None where there is none."""
        if focused.reason is Reason.HELD_BACK:  # it stands short of it
            return None
        if _has_looked(focus, options, focused):  # and this analysis has seen it too
            return (
                yield from wait_reading(
                    analysis, stream=f"focus_{focused.method}", timeout_s=timeout_s, dry_run=look is None
                )
            )
        with contextlib.suppress(DoseSpent):
            yield from meter.ask()
            again = yield from expose(
                detectors, axis, analysis=analysis, stream="focus_blur", timeout_s=timeout_s
            )
            if again is not None:
                looks.append(again)
                return again.reading
        return None

    if look is None:  # a dry run shows the longer way
        imagined = yield from focus(
            detectors, axis, analysis=focus_analysis or analysis, timeout_s=timeout_s, **options
        )
        if imagined.found:
            yield from look_at_focus(imagined)
        return imagined

    def verdict(found: bool, reason: Reason, **changes: Any) -> Verdict:
        return Verdict(
            **{
                "found": found,
                "reason": reason,
                "position_um": look.position_um if found else math.nan,
                "sigma_um": math.nan,
                "start_um": look.position_um,
                "exposures": 1,
                "dose": look.exposure_s,
                "method": "blur",
                "model_hash": analysis.model_hash,
                "event_uids": (look.reading.event_uid,),
                "parameters": {
                    "analysis": analysis.parameters,
                    "score": look.reading.value,
                    "baseline": None if math.isnan(trigger.baseline) else trigger.baseline,
                    "blurred_below": trigger.blurred_below,
                    "sharp_above": trigger.sharp_above,
                },
                **changes,
            }
        )

    focused: Verdict | None = None
    sharp: float | None = None
    try:
        if not look.reading.accepted:
            concluded = verdict(False, look.reading.reason)
        elif trigger.wants_focus(look.reading.value, now_s()):
            if meter.left_s is not None:
                options["dose_budget_s"] = meter.left_s
            focused = yield from focus(
                detectors, axis, analysis=focus_analysis or analysis, timeout_s=timeout_s, **options
            )
            meter.spent_s += focused.dose
            if focused.found:
                seen = yield from look_at_focus(focused)
                sharp = seen.value if seen is not None and seen.accepted else None
            concluded = verdict(
                focused.found,
                focused.reason,
                position_um=focused.position_um,
                sigma_um=focused.sigma_um,
                exposures=len(looks) + focused.exposures,
                dose=math.fsum(one.exposure_s for one in looks) + focused.dose,
                event_uids=(*(one.reading.event_uid for one in looks), *focused.event_uids),
            )
        elif trigger.blurred:
            concluded = verdict(False, Reason.TOO_SOON)
        else:
            concluded = verdict(True, Reason.STILL_SHARP)
        yield from record_verdict(concluded)
    except Exception:
        # While it runs `focus` puts the axis back itself; once it has found the focus it is up to us.
        if focused is not None and focused.found:
            way_um = sorted((focused.start_um, focused.position_um))
            low_um, high_um = focused.parameters.get("travel_um", way_um)
            approach = options.get("approach", Approach())
            yield from Travel(axis, (low_um, high_um), focused.start_um, approach).put_back()
        raise
    if focused is not None:
        trigger.focused(sharp, now_s())
    return concluded


def _has_looked(focus: FocusStub, options: Mapping[str, Any], focused: Verdict) -> bool:
    """Return whether the last frame of a stub was one of the focus, here and in this light."""
    told = {*getattr(focus, "keywords", ()), *options, *focused.parameters}
    return bool(focused.parameters.get("confirm")) and OTHER_FRAMES.isdisjoint(told)
