"""Judge whether a light switches, and the image follows."""

import math
import statistics

from bluesky_autofocus.commissioning._axis import spread
from bluesky_autofocus.commissioning._measured import Measured
from bluesky_autofocus.commissioning._report import Finding, Grade, Suggestion

__all__ = ["light_findings"]

LAGS = 0.1
"""Part of the change of brightness by which the first frame after a switch may differ from the next."""


def light_findings(measured: Measured) -> tuple[list[Finding], list[Suggestion]]:
    """Return what switching the light off and on tells of it."""
    if not measured.light:
        return [], []
    switches = measured.switches
    if not switches:
        return [Finding(measured.light, "switching", Grade.UNKNOWN, "it was not switched.")], []
    seconds = [one.seconds for one in switches]
    took_s = statistics.median(seconds)
    findings = [
        Finding(
            measured.light,
            "switching",
            Grade.OK,
            f"it says that it has switched after {took_s:.3g} s.",
            took_s,
            spread(seconds),
            "s",
        )
    ]
    seen = [
        one
        for one in switches
        if len(one.shots) > 1 and not any(math.isnan(shot.frame.mean) for shot in one.shots)
    ]
    if not {one.lit for one in seen} == {True, False}:
        findings.append(
            Finding(
                measured.light, "image follows", Grade.UNKNOWN, "there were no frames that could be used."
            )
        )
        return findings, []
    lit, dark = ([one.shots[-1].frame.mean for one in seen if one.lit is way] for way in (True, False))
    change = statistics.median(lit) - statistics.median(dark)
    if max(dark) >= min(lit):
        said = (
            f"frames are as bright with the light off ({statistics.median(dark):.4g}) as on "
            f"({statistics.median(lit):.4g}): it lights something else, or other light outshines it."
        )
        findings.append(Finding(measured.light, "image follows", Grade.FAILED, said, change))
        return findings, []
    lag = max(abs(one.shots[0].frame.mean - one.shots[-1].frame.mean) for one in seen) / change
    said = f"frames change from {statistics.median(dark):.4g} to {statistics.median(lit):.4g}"
    if lag > LAGS:
        said += ", but the first frame after it says that it has switched still shows something of before."
        findings.append(Finding(measured.light, "image follows", Grade.WARNING, said, change))
    else:
        said += ", in the first frame after it has switched."
        findings.append(Finding(measured.light, "image follows", Grade.OK, said, change))
    return findings, []
