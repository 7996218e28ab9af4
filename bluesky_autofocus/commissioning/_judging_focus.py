"""Judge whether the image depends on the axis, and how far to look for focus."""

import math

from bluesky_autofocus.commissioning._focus import PEAK_WIDTH_FACTOR, contrast_curve
from bluesky_autofocus.commissioning._measured import Measured
from bluesky_autofocus.commissioning._report import Finding, Grade, Suggestion, rounded_up

__all__ = ["focus_findings"]

SEARCHED_DOF = 20.0
"""Width of a search, in depths of field, that the default one does in few exposures."""


def focus_findings(measured: Measured) -> tuple[list[Finding], list[Suggestion]]:
    """Return whether there is a focus in the range, and what it says of the depth of field."""
    camera, dof_um = measured.camera, measured.depth_of_field_um
    if not measured.up:
        return [Finding(camera, "contrast along the axis", Grade.UNKNOWN, "it was not looked for.")], []
    curve = contrast_curve(measured.up, measured.still, dof_um)
    findings: list[Finding] = []
    suggestions: list[Suggestion] = []

    def find(what: str, grade: Grade, said: str, *value: float) -> None:
        findings.append(Finding(camera, what, grade, said, *value, unit="um"))

    low_um, high_um = measured.bounds_um
    if not curve.depends:
        said = (
            "the frames do not depend on the axis: it does not move the specimen, the field is empty, or the "
            "range is too short."
        )
        find("contrast along the axis", Grade.FAILED, said)
    elif not curve.conclusion.found:
        said = (
            f"the sharpness depends on the axis, but no focus was found ({curve.conclusion.reason}): move "
            "nearer to focus or check a wider range."
        )
        find("contrast along the axis", Grade.WARNING, said)
    else:
        conclusion = curve.conclusion
        said = f"the sharpness has its peak there, {curve.width_um:.3g} um wide at half height."
        find("contrast along the axis", Grade.OK, said, conclusion.position_um, conclusion.sigma_um)
        _depth_of_field(measured, curve, find, suggestions)
        dof_um = dof_um or curve.depth_of_field_um
    if dof_um is not None and not math.isnan(dof_um):
        widest_um = math.inf if measured.limits_um is None else measured.limits_um[1] - measured.limits_um[0]
        range_um = min(rounded_up(SEARCHED_DOF * dof_um), widest_um)
        suggestions.append(Suggestion("focus.range_um", range_um, f"{SEARCHED_DOF:g} depths of field"))
    return findings, suggestions


def _depth_of_field(measured: Measured, curve, find, suggestions: list[Suggestion]) -> None:
    estimate_um, known_um = curve.depth_of_field_um, measured.depth_of_field_um
    if math.isnan(estimate_um):
        return
    sigma_um = estimate_um * (PEAK_WIDTH_FACTOR - 1 / PEAK_WIDTH_FACTOR) / 2
    if known_um is None:
        said = (
            f"by the width of the peak, to within a factor of {PEAK_WIDTH_FACTOR:g}; optics tell it better."
        )
        find("depth of field", Grade.OK, said, estimate_um, sigma_um)
        why = f"by the width of the peak, to within a factor of {PEAK_WIDTH_FACTOR:g}: give the true one"
        suggestions.append(Suggestion("focus.depth_of_field_um", rounded_up(estimate_um), why))
        return
    fits = 1 / PEAK_WIDTH_FACTOR <= estimate_um / known_um <= PEAK_WIDTH_FACTOR
    said = f"by the width of the peak; {known_um:.3g} um is configured" + (
        "." if fits else ", which differs."
    )
    if curve.width_um < 3 * curve.spacing_um:
        said += " Frames were too far apart to tell well."
        fits = True
    find("depth of field", Grade.OK if fits else Grade.WARNING, said, estimate_um, sigma_um)
    suggestions.append(Suggestion("focus.depth_of_field_um", known_um, "as it was configured"))
