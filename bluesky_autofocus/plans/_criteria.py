"""When a measured defocus is believed, and when it must be measured again."""

import dataclasses
import math

from bluesky_autofocus.records import Reason
from bluesky_autofocus.search import Conclusion

__all__ = ["Criteria", "Estimate"]

SURE = 3.0
"""Standard uncertainties that are allowed for: an honest one is exceeded by this factor once in 400 times."""

NEAR_ENOUGH = 0.25
"""Part of a depth of field within which an image is in focus, however precisely its defocus is known."""

LEAST_NUDGE_UM = 1.0
"""How far aside a frame is taken at least, where the depth of field is not told."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Where focus is, by what was measured at one position."""

    focus_um: float
    defocus_um: float
    sigma_um: float


@dataclasses.dataclass(frozen=True)
class Criteria:
    """What must hold before a focus is believed; see `single_shot_focus`."""

    verify: bool
    accept_um: float | None
    depth_of_field_um: float | None

    def look_from(self, now: Estimate, at_um: float, followed: bool, direction: int = 1) -> tuple[float, ...]:
        """Return where the next frame is to be taken: the first of these positions that can be reached.

        It is the focus, unless that is hardly anywhere else than the frame before: what was said there would
        be said again, right or wrong, of a blurred frame too. Then it is aside of both.

        Parameters
        ----------
        now : Estimate
            From the newest frame.
        at_um : float
            Where that was taken.
        followed : bool
            Whether any estimate has followed the axis before, as `follows` tells: then this one may be
            believed to do so.
        direction : int
            In which positions are approached: the focus is then reached from the better side.
        """
        accepted_um = self._accepted_um(now.sigma_um)
        elsewhere = abs(now.defocus_um) > max(accepted_um, self.depth_of_field_um or 0.0)
        if elsewhere or followed or not self.verify:
            return (now.focus_um,)
        nudge_um = self.nudge_um(now.sigma_um)
        below, above = min(now.focus_um, at_um) - nudge_um, max(now.focus_um, at_um) + nudge_um
        return (below, above) if direction > 0 else (above, below)

    def nudge_um(self, sigma_um: float) -> float:
        """Return how far an axis must have moved for it to be seen whether estimates follow it.

        Twice what is accepted: an answer that does not change is never taken for one that does.
        """
        return max(self.depth_of_field_um or LEAST_NUDGE_UM, 2 * self._accepted_um(sigma_um))

    def follows(self, now: Estimate, before: Estimate, expected_um: float = 0.0) -> bool:
        """Return whether an estimate changed by more than half of what the axis was moved."""
        return abs(now.defocus_um - expected_um) < abs(before.defocus_um - expected_um) / 2

    def conclude(
        self, now: Estimate, before: Estimate | None, expected_um: float = 0.0, followed: bool = False
    ) -> Conclusion | None:
        """Return what follows from an estimate and the one that led to it; None: correct, and look again.

        Parameters
        ----------
        now, before : Estimate
            From the newest frame and the one before, if there was one.
        expected_um : float
            What the defocus of the newest should be by the one before: not zero where it was taken aside.
        followed : bool
            Whether any estimate has followed the axis before.
        """
        if not (math.isfinite(now.focus_um) and math.isfinite(now.sigma_um)):
            return Conclusion(Reason.UNCERTAIN)
        if not self.verify:
            certain = self._certain(now.focus_um, now.sigma_um)
            return certain if certain.found else None
        if before is None:
            return None
        off_um = abs(now.defocus_um - expected_um)
        follows = self.follows(now, before, expected_um)
        if expected_um == 0:
            # an answer that does not change, and is less and less sure, would be near enough in the end
            near = abs(before.defocus_um) <= self._accepted_um(before.sigma_um)
            follows = follows or followed or near
        if follows and off_um <= self._accepted_um(now.sigma_um):
            return self._certain(*_mean(before, now))
        surprising = off_um > SURE * math.hypot(now.sigma_um, before.sigma_um)
        if surprising and off_um >= max(abs(before.defocus_um), abs(expected_um) / 2):
            return Conclusion(Reason.WORSE_AFTERWARDS)
        return None

    def _accepted_um(self, sigma_um: float) -> float:
        if self.accept_um is not None:
            return self.accept_um
        return max(SURE * sigma_um, NEAR_ENOUGH * (self.depth_of_field_um or 0.0))

    def _certain(self, focus_um: float, sigma_um: float) -> Conclusion:
        if self.depth_of_field_um is not None and SURE * sigma_um > self.depth_of_field_um:
            return Conclusion(Reason.UNCERTAIN)
        return Conclusion(Reason.FOUND, focus_um, sigma_um)


def _mean(one: Estimate, other: Estimate) -> tuple[float, float]:
    """Return the weighted mean of two estimates and its uncertainty.

    Both are of one specimen and have most of their error in common, so none of it is taken to average out.
    """
    a, b = one.sigma_um, other.sigma_um
    if a + b == 0:
        return other.focus_um, 0.0
    weight = b**2 / (a**2 + b**2)
    return weight * one.focus_um + (1 - weight) * other.focus_um, weight * a + (1 - weight) * b
