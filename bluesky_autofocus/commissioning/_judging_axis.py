"""Judge the limits, the moves and the readback of an axis."""

import math
import statistics
from collections.abc import Sequence

import numpy as np

from bluesky_autofocus.commissioning._axis import Displacement, backlash, lost_motion, settling, speed, spread
from bluesky_autofocus.commissioning._focus import flank
from bluesky_autofocus.commissioning._measured import Measured, Move
from bluesky_autofocus.commissioning._report import Finding, Grade, Suggestion, rounded_up

__all__ = ["axis_findings"]

STANDS = 0.05
"""An axis that reads back less than this part of what it was sent along does not move."""

WRONG_SCALE = 0.02
"""Part by which the way read back may differ from the way it was sent."""

TOLERATED_DOF = 0.25
"""Errors of the axis, in depths of field, that focusing does not notice."""

TOLERATED_RANGE = 0.01
"""In parts of the range, where the depth of field is not known."""

GREATEST_BACKLASH = 0.1
"""That the check can see, in parts of the range."""

SEEN_SIGMAS = 5.0
"""Backlash that is less certain is none. The uncertainty itself rests on the few frames on the flanks."""

LEAST_SEEN = 2e-3
"""Nor is it told from none below this part of the range."""

ALLOWANCE = 1.5
"""What is suggested is so much more than what was measured."""


def axis_findings(measured: Measured) -> tuple[list[Finding], list[Suggestion]]:
    """Return what was seen of the axis, and how positions are best approached."""
    judging = _Judging(measured)
    judging.limits()
    if not measured.moves:
        judging.find("moves", Grade.UNKNOWN, "it was not moved.")
        return judging.findings, judging.suggestions
    if judging.moves():
        judging.errors()
        judging.speed()
        judging.backlash()
        judging.settling()
    return judging.findings, judging.suggestions


class _Judging:
    def __init__(self, measured: Measured) -> None:
        self.measured = measured
        self.findings: list[Finding] = []
        self.suggestions: list[Suggestion] = []
        low_um, high_um = measured.bounds_um
        self.range_um = high_um - low_um
        dof_um = measured.depth_of_field_um
        self.tolerated_um = TOLERATED_RANGE * self.range_um if dof_um is None else TOLERATED_DOF * dof_um

    def find(self, what: str, grade: Grade, said: str, *value: float, unit: str = "um") -> None:
        self.findings.append(Finding(self.measured.axis, what, grade, said, *value, unit=unit))

    def limits(self) -> None:
        limits, refuses = self.measured.limits_um, self.measured.refuses
        low_um, high_um = self.measured.bounds_um
        stated = "it states no limits" if limits is None else f"limits {limits[0]:g} .. {limits[1]:g} um"
        if refuses and all(refuses.values()):
            self.find("limits", Grade.OK, f"{stated}; it refuses positions beyond.")
            return
        if refuses is None:
            said = f"{stated}; it cannot be asked whether it would go somewhere (check_value)."
        else:
            gone = ", ".join(f"{position:g}" for position, refused in refuses.items() if not refused)
            said = f"{stated}, and it would go to {gone} um: nothing keeps it from a crash."
        self.find("limits", Grade.WARNING, said)
        why = "the axis refuses nothing: the range that was confirmed; widen it with care"
        self.suggestions.append(Suggestion("axis.limits_um", [low_um, high_um], why))

    def moves(self) -> bool:
        """Return whether the axis follows at all."""
        moves = self.measured.moves
        targets = np.array([move.target_um for move in moves])
        reached = np.array([move.reached_um for move in moves])
        if len(moves) < 4 or np.ptp(targets) == 0:
            self.find("moves", Grade.UNKNOWN, f"it was moved only {len(moves)} times.")
            return False
        scale = float(np.polyfit(targets, reached, 1)[0])
        if np.ptp(reached) < STANDS * np.ptp(targets):
            said = (
                f"sent along {np.ptp(targets):.4g} um it says that it has arrived and reads back a way of "
                f"{np.ptp(reached):.2g} um: it does not move, or its readback is dead."
            )
            self.find("moves", Grade.FAILED, said)
            return False
        wrong = abs(scale - 1) > WRONG_SCALE
        said = f"{len(moves)} moves; a way of 1 um is read back as {scale:.4g} um" + (
            ": is its unit um?" if wrong else "."
        )
        self.find("moves", Grade.FAILED if wrong else Grade.OK, said, scale, unit="")
        return not wrong

    def errors(self) -> None:
        moves = self.measured.moves
        errors = [move.error_um for move in moves]
        noise_um = spread(self.measured.rest_um)
        worst = max(errors, key=abs)
        large = abs(worst) > max(self.tolerated_um, 5 * (noise_um if math.isfinite(noise_um) else 0.0))
        said = f"at rest the readback varies by {noise_um:.2g} um"
        noisy = noise_um > self.tolerated_um
        self.find("readback noise", Grade.WARNING if noisy else Grade.OK, f"{said}.", noise_um)
        self.find(
            "readback error",
            Grade.WARNING if large else Grade.OK,
            f"it stops {statistics.fmean(errors):+.2g} um from where it was sent, at most {worst:+.2g} um.",
            statistics.fmean(errors),
            spread(errors),
        )
        repeated = _repeatability(moves)
        if repeated is not None:
            self.find(
                "repeatability",
                Grade.WARNING if repeated > max(self.tolerated_um, 3 * noise_um) else Grade.OK,
                "sent to the same place from the same side again and again, it reads back within that.",
                repeated,
            )

    def speed(self) -> None:
        found = speed(self.measured.moves)
        if found is None:
            return
        if math.isinf(found.velocity_um_s):
            said = f"moves take {found.overhead_s:.3g} s however long they are."
            self.find("velocity", Grade.OK, said)
        else:
            said = "by the time that moves of different lengths take."
            self.find("velocity", Grade.OK, said, found.velocity_um_s, found.velocity_sigma, unit="um/s")
        said = "what each move takes beside its way, until it says that it has arrived."
        self.find("time of a move", Grade.OK, said, found.overhead_s, found.overhead_sigma, unit="s")

    def backlash(self) -> None:
        measured = self.measured
        by_readback = lost_motion(measured.moves)
        if by_readback is not None:
            seen = self._is_seen(by_readback)
            said = "by the readback: " + (
                "positions that are approached from above read back that much higher."
                if seen
                else "no difference between the two sides. An encoder at the motor would not see any."
            )
            self.find("backlash (readback)", Grade.WARNING if seen else Grade.OK, said, *_values(by_readback))
        by_image = backlash(measured.up, measured.down, 2 * GREATEST_BACKLASH * self.range_um)
        if by_image is None or flank(measured.up) is None or not self._image_depends():
            said = "by the image it could not be told: that takes frames that depend on the axis."
            self.find("backlash (image)", Grade.UNKNOWN, said)
            chosen = by_readback
        else:
            seen = self._is_seen(by_image)
            said = "by the image: " + (
                "the sharpness along the range is shifted by that when it is taken downwards"
                if seen
                else "none is seen"
            )
            if by_image.limited or abs(by_image.um) > GREATEST_BACKLASH * self.range_um:
                said += ", which is as much as can be seen here: check a wider range"
            self.find("backlash (image)", Grade.WARNING if seen else Grade.OK, f"{said}.", *_values(by_image))
            chosen = by_image
        self.suggestions.append(
            Suggestion("axis.approach.direction", 1, "positions are approached from below")
        )
        if chosen is not None and self._is_seen(chosen):
            overshoot_um = rounded_up(ALLOWANCE * abs(chosen.um))
            why = f"{ALLOWANCE:g} times the backlash of {abs(chosen.um):.3g} um"
        else:
            overshoot_um, why = 0.0, "no backlash was seen"
        self.suggestions.append(Suggestion("axis.approach.overshoot_um", overshoot_um, why))

    def settling(self) -> None:
        measured = self.measured
        settled = []
        if measured.settling_um:
            times, positions = zip(*measured.settling_um, strict=True)
            by_readback = settling(times, positions, spread(measured.rest_um), self.range_um)
            if by_readback is not None:
                settled.append(by_readback)
                self._settled("settling (readback)", by_readback, "the readback")
        steepest = flank(measured.up)
        shots = [shot for shot in measured.settling if math.isfinite(shot.sharpness)]
        if steepest is not None and shots and self._image_depends():
            times = [(shot.began_s + shot.ended_s) / 2 - measured.settled_s for shot in shots]
            positions = steepest.positions_of([shot.sharpness for shot in shots])
            noise_um = spread([shot.sharpness for shot in measured.still]) / abs(steepest.slope_per_um)
            by_image = settling(times, positions, noise_um, self.range_um)
            if by_image is not None:
                settled.append(by_image)
                self._settled("settling (image)", by_image, "the image")
        if not settled:
            self.find("settling (readback)", Grade.UNKNOWN, "it was not watched after a move.", unit="s")
            return
        longest = max(settled, key=lambda one: one.seconds)
        if longest.seconds > 0:
            settle_s, why = rounded_up(ALLOWANCE * longest.seconds), f"{ALLOWANCE:g} times what was seen"
        else:
            settle_s, why = 0.0, "it stands when it says so"
        self.suggestions.append(Suggestion("axis.approach.settle_s", settle_s, why))

    def _settled(self, what: str, found, whose: str) -> None:
        if not found.at_rest:
            said = (
                f"{whose} still changes {found.seconds:.3g} s after the axis says that it has arrived, by "
                f"{found.moved_um:.2g} um: it drifts, or takes longer than it was watched."
            )
            self.find(what, Grade.WARNING, said, found.seconds, found.resolution_s, unit="s")
        elif found.seconds > 0:
            said = (
                f"{whose} goes on for {found.moved_um:.2g} um after the axis says that it has arrived; after "
                f"that time it stays within {found.tolerance_um:.2g} um."
            )
            self.find(what, Grade.WARNING, said, found.seconds, found.resolution_s, unit="s")
        else:
            said = f"{whose} stays within {found.tolerance_um:.2g} um once the axis says that it has arrived."
            self.find(what, Grade.OK, said, 0.0, found.resolution_s, unit="s")

    def _is_seen(self, found: Displacement) -> bool:
        sigma_um = found.sigma_um if math.isfinite(found.sigma_um) else 0.0
        noise_um = spread(self.measured.rest_um)
        least_um = noise_um if math.isfinite(noise_um) else 0.0
        return abs(found.um) > max(SEEN_SIGMAS * sigma_um, least_um, LEAST_SEEN * self.range_um)

    def _image_depends(self) -> bool:
        from bluesky_autofocus.commissioning._focus import contrast_curve

        return contrast_curve(self.measured.up, self.measured.still).depends


def _values(found: Displacement) -> tuple[float, float]:
    return found.um, found.sigma_um


def _repeatability(moves: Sequence[Move]) -> float | None:
    """Return how much the readback varies at places that were reached from one side several times."""
    places: dict[tuple[float, bool], list[float]] = {}
    for move in moves:
        places.setdefault((round(move.target_um, 6), move.upwards), []).append(move.reached_um)
    groups = [values for values in places.values() if len(values) > 1]
    if not groups:
        return None
    squares = sum((value - statistics.fmean(values)) ** 2 for values in groups for value in values)
    return math.sqrt(squares / sum(len(values) - 1 for values in groups))
