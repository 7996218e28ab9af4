"""Judge the frames of a camera."""

import math
import statistics
from collections.abc import Sequence

from bluesky_autofocus.commissioning._axis import spread
from bluesky_autofocus.commissioning._measured import Measured, Shot
from bluesky_autofocus.commissioning._report import Finding, Grade, Suggestion

__all__ = ["camera_findings", "full_scale_of"]

CLIPPED_WARNING = 1e-3
"""Part of the pixels at full scale, above which bright detail is lost."""

CLIPPED_FAILED = 0.75
"""Above which nothing is left to focus by."""

WELL_EXPOSED = 0.7
"""Part of the full scale that the brightest of a frame should reach: noise and a brighter field have room."""

TOO_DARK = 0.1
"""Below which exposing longer is worth while."""

LARGEST_CHANGE = 10.0
"""Of the exposure time that is suggested from one look."""

CERTAIN = 5.0
"""Standard uncertainties by which the noise must be seen to grow with the light."""

UNSTEADY = 0.02
"""Part by which the brightness of frames may vary with nothing changed."""


def camera_findings(measured: Measured) -> tuple[list[Finding], list[Suggestion]]:
    """Return what frames with nothing changed tell of the camera, and what follows for it."""
    shots, camera = measured.still, measured.camera
    if not shots:
        return [Finding(camera, "frames", Grade.UNKNOWN, "no frame was taken.")], []
    findings: list[Finding] = []
    suggestions: list[Suggestion] = []

    def find(what: str, grade: Grade, said: str, *value: float, unit: str = "") -> None:
        findings.append(Finding(camera, what, grade, said, *value, unit=unit))

    first = shots[0].frame
    shapes = {(shot.frame.rows, shot.frame.columns, shot.frame.dtype) for shot in shots}
    no_numbers = max(shot.frame.no_numbers for shot in shots)
    said = f"{len(shots)} frames of {first.rows} x {first.columns} px, {first.dtype}"
    if len(shapes) > 1:
        find("frames", Grade.FAILED, f"{said}, and others: they must all be alike.")
    elif no_numbers > 0:
        said += f"; {no_numbers:.2%} of the pixels are no numbers: no such frame can be used."
        find("frames", Grade.FAILED, said)
    else:
        find("frames", Grade.OK, f"{said}.")
    if no_numbers == 1:
        return findings, []
    _levels(measured, find, suggestions)
    latency_s = statistics.median(shot.latency_s for shot in shots)
    known = not math.isnan(shots[0].exposure_s)
    beside = f"beside the exposure of {shots[0].exposure_s:g} s" if known else "exposure and all"
    latency_sigma = spread([shot.latency_s for shot in shots])
    find(
        "latency", Grade.OK, f"a frame takes {latency_s:.3g} s {beside}.", latency_s, latency_sigma, unit="s"
    )
    _noise(measured, find)
    mean = statistics.fmean(shot.frame.mean for shot in shots)
    varies = statistics.pstdev(shot.frame.mean for shot in shots) / mean if mean > 0 else math.nan
    unsteady = varies > UNSTEADY
    find(
        "steadiness",
        Grade.WARNING if unsteady else Grade.OK,
        f"the brightness varies by {varies:.1%} from frame to frame"
        + (": the lamp flickers, or frames begin before the light is on." if unsteady else "."),
        varies,
    )
    return findings, suggestions


def full_scale_of(measured: Measured, shots: Sequence[Shot]) -> tuple[float, str]:
    """Return the grey level at which the camera clips and how that is known; NaN where it is not."""
    if measured.full_scale is not None:
        return measured.full_scale, "as configured"
    seen = [shot.frame.clips_at for shot in shots if not math.isnan(shot.frame.clips_at)]
    if seen:
        return max(seen), "frames are seen to clip there"
    return {"uint8": (255.0, "of its type")}.get(shots[0].frame.dtype, (math.nan, ""))


def _levels(measured: Measured, find, suggestions: list[Suggestion]) -> None:
    shots = [*measured.still, *measured.up, *measured.down]
    full, how = full_scale_of(measured, shots)
    highest = max(shot.frame.high for shot in shots)
    mean = statistics.fmean(shot.frame.mean for shot in measured.still)
    dark = dark_level(measured)
    clipped = max(shot.frame.at_maximum if shot.frame.maximum >= full else 0.0 for shot in shots)
    if measured.full_scale is None and how.startswith("frames"):
        suggestions.append(Suggestion("camera.full_scale", full, "frames are seen to clip there"))
    if highest <= 0 or all(shot.reason == "black" for shot in measured.still):
        find("levels", Grade.FAILED, "frames are black: no light, or a closed shutter.", mean)
    elif clipped > CLIPPED_FAILED:
        said = f"{clipped:.0%} of the pixels are at {full:g} and above: expose less."
        find("levels", Grade.FAILED, f"saturated: {said}", mean)
    elif clipped > CLIPPED_WARNING:
        said = f"{clipped:.1%} of the pixels are at {full:g}, where the camera clips: expose less."
        find("levels", Grade.WARNING, said, mean)
    elif math.isnan(full):
        said = (
            f"from {shots[0].frame.low:g} to {highest:g}. Nothing clips, so nobody knows where it would: "
            "give camera.full_scale if it has fewer bits than its type."
        )
        find("levels", Grade.OK, said, mean)
    elif highest < TOO_DARK * full:
        said = f"the brightest is at {highest / full:.1%} of the full scale {full:g} ({how}): expose longer."
        find("levels", Grade.WARNING, said, mean)
    else:
        said = f"the brightest is at {highest / full:.0%} of the full scale {full:g} ({how})."
        find("levels", Grade.OK, said, mean)
    if not measured.exposure_settable:
        return
    exposure_s = measured.still[0].exposure_s
    light = highest - (0.0 if math.isnan(dark) else dark)
    if math.isnan(full) or math.isnan(exposure_s) or exposure_s <= 0 or light <= 0:
        return
    if clipped > CLIPPED_WARNING:
        factor = 0.5  # how much brighter it was nobody can tell
        why = f"half of {exposure_s:g} s, as frames clip: check again"
    elif highest < TOO_DARK * full:
        factor = min(WELL_EXPOSED * (full - highest + light) / light, LARGEST_CHANGE)
        why = f"brings the brightest to {WELL_EXPOSED:.0%} of the full scale, or nearer"
    else:
        factor, why = 1.0, "as it was when it was checked"
    suggestions.append(Suggestion("camera.exposure_s", float(f"{factor * exposure_s:.3g}"), why))


def dark_level(measured: Measured) -> float:
    """Return the mean grey level without light, NaN where the light was not switched off."""
    means = [shot.frame.mean for one in measured.switches if not one.lit for shot in one.shots[-1:]]
    return statistics.median(means) if means and _follows(measured) else math.nan


def _follows(measured: Measured) -> bool:
    """Whether there is less light with the light off."""
    lit = [shot.frame.mean for one in measured.switches if one.lit for shot in one.shots[-1:]]
    dark = [shot.frame.mean for one in measured.switches if not one.lit for shot in one.shots[-1:]]
    return bool(lit) and bool(dark) and max(dark) < min(lit)


def _noise(measured: Measured, find) -> None:
    # the first still frame follows another step
    pairs = [shot.noise for shot in measured.still[1:] if shot.noise is not None]
    dark = dark_level(measured)
    if math.isnan(dark):
        lowest = min(shot.frame.low for shot in measured.still)
        said = f"not above {lowest:g}, the darkest of the frames; without light it could be told."
        find("dark level", Grade.UNKNOWN, said)
    else:
        find("dark level", Grade.OK, f"frames without light have a mean of {dark:.4g}.", dark)
    if not pairs:
        find("noise", Grade.UNKNOWN, "it takes two frames to tell.")
        return
    noise = statistics.median(pair.noise for pair in pairs)
    level = statistics.median(pair.level for pair in pairs)
    light = level - (0.0 if math.isnan(dark) else dark)
    sigma = spread([pair.noise for pair in pairs])
    if noise == 0:
        said = "two frames with nothing changed are the same to the last digit: is the camera alive?"
        find("noise", Grade.WARNING, said, 0.0)
        return
    said = f"a pixel at {level:.4g} varies by {noise:.3g}: signal to noise {light / noise:.3g}."
    find("noise", Grade.OK if light > 3 * noise else Grade.WARNING, said, noise, sigma)
    known = [pair for pair in pairs if pair.gain_sigma > 0]
    weights = [pair.gain_sigma**-2 for pair in known]
    gain = sum(w * pair.gain for w, pair in zip(weights, known, strict=True)) / sum(weights) if known else 0.0
    # neighbouring pairs have a frame in common, so they count as half
    gain_sigma = math.sqrt(2 / sum(weights)) if known else math.inf
    if not gain > CERTAIN * gain_sigma:
        said = "the noise is not seen to grow with the light, so electrons cannot be counted."
        find("gain", Grade.UNKNOWN, said)
        return
    said = f"{gain:.3g} grey levels an electron, about {light / gain:.3g} electrons at {level:.4g}"
    floor = statistics.median(pair.floor for pair in known)
    variance = floor + gain * dark
    said += f"; {math.sqrt(variance):.3g} levels of noise without light." if variance > 0 else "."
    find("gain", Grade.OK, said, gain, gain_sigma)
