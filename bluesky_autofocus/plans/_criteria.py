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

    def conclude(self, now: Estimate, before: Estimate | None) -> Conclusion | None:
        """Return what follows from an estimate and the one that led to it; None: correct, and look again."""
        if not (math.isfinite(now.focus_um) and math.isfinite(now.sigma_um)):
            return Conclusion(Reason.UNCERTAIN)
        if not self.verify:
            certain = self._certain(now.focus_um, now.sigma_um)
            return certain if certain.found else None
        if before is None:
            return None
        if abs(now.defocus_um) <= self._accepted_um(now.sigma_um):
            return self._certain(*_mean(before, now))
        surprising = abs(now.defocus_um) > SURE * math.hypot(now.sigma_um, before.sigma_um)
        if surprising and abs(now.defocus_um) >= abs(before.defocus_um):
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
