"""Decide when to focus by what was measured: how sharp the frames are, how well focus is known."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from bluesky_autofocus.plans._operation import check_positive
from bluesky_autofocus.plans._protocols import FocusAnalysis
from bluesky_autofocus.plans._when import Since, When
from bluesky_autofocus.search import BlurTrigger

__all__ = ["Blurred", "Uncertain"]


@dataclasses.dataclass(frozen=True)
class Blurred(When):
    """Focus when the plan's own frames have become blurred.

    It costs no exposure: the frame before is judged, so one that is blurred has been taken when it is
    noticed. (`focus_if_blurred` looks before, at the price of an exposure each time.) The first frame that
    the plan takes after focus was found is the baseline. A frame that cannot be used does not count.

    Parameters
    ----------
    analysis : FocusAnalysis
        Scores the frames of the plan; subscribed to the RunEngine. Where fields differ in contrast take a
        metric that does not depend on it, ``SharpnessAnalysis("laplacian_ratio")``.
    blurred_below, sharp_above : float
        Fractions of the baseline, as of `BlurTrigger`.
    min_interval_s : float
        Least time from one focusing to the next: where focus is not found, frames stay blurred.

    Raises
    ------
    ValueError
        If it is no analysis, or a number makes no sense.
    """

    analysis: FocusAnalysis
    blurred_below: float = 0.75
    sharp_above: float = 0.9
    min_interval_s: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.analysis, FocusAnalysis):
            raise ValueError(f"expected an analysis of the plan's frames, got {self.analysis!r}")
        self._trigger(1.0)  # refuses what makes no sense

    def _trigger(self, baseline: float) -> BlurTrigger:
        return BlurTrigger(baseline, self.blurred_below, self.sharp_above, self.min_interval_s)

    @property
    def analyses(self) -> Sequence[FocusAnalysis]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What scores the frames."""
        return (self.analysis,)

    @property
    def parameters(self) -> list[dict[str, Any]]:
        """The thresholds, the time and the name of the analysis."""
        return [
            {
                "blurred_below": float(self.blurred_below),
                "sharp_above": float(self.sharp_above),
                "min_interval_s": float(self.min_interval_s),
                "analysis": self.analysis.name,
            }
        ]

    def why(self, since: Since) -> str:
        """Compare the frames with the first one."""
        if since.seconds < self.min_interval_s:
            return ""
        if not since.found:
            return "never found"
        scores = since.scores.get(self.analysis, ())
        if len(scores) < 2:
            return ""
        trigger = self._trigger(scores[0])
        for score in scores[1:]:
            trigger.wants_focus(score, math.inf)
        return f"blurred: {scores[-1] / scores[0]:.2g} of the baseline" if trigger.blurred else ""


@dataclasses.dataclass(frozen=True)
class Uncertain(When):
    """Focus when it is expected to be farther off than a fraction of the depth of field.

    What counts is the root of the mean square of the error that is to be expected: the standard uncertainty
    of the prediction, and how far the axis stands from where focus is predicted.

    Parameters
    ----------
    fraction : float
        Of the depth of field. At 0.5 focus is within it, to either side, 95 times of 100.
    depth_of_field_um : float
    min_interval_s : float
        Least time from one focusing to the next: where focus is not found, it stays uncertain.

    Raises
    ------
    ValueError
        If a number makes no sense.
    """

    fraction: float
    depth_of_field_um: float
    min_interval_s: float = 0.0
    foresees = True

    def __post_init__(self) -> None:
        check_positive("fraction", self.fraction)
        check_positive("depth_of_field_um", self.depth_of_field_um)
        if not self.min_interval_s >= 0:
            raise ValueError(f"min_interval_s must not be negative, got {self.min_interval_s!r}")

    @property
    def parameters(self) -> list[dict[str, Any]]:
        """The fraction, the depth of field and the time."""
        return [
            {
                "uncertain": float(self.fraction),
                "depth_of_field_um": float(self.depth_of_field_um),
                "min_interval_s": float(self.min_interval_s),
            }
        ]

    def why(self, since: Since) -> str:
        """Compare what is to be expected with what is allowed."""
        if since.seconds < self.min_interval_s:
            return ""
        if since.predicted is None or not since.predicted.known:
            return "no prediction"
        expected_um = math.hypot(since.predicted.sigma_um, since.off_um)
        # written so that what is not a number is too uncertain
        if expected_um <= self.fraction * self.depth_of_field_um:
            return ""
        return f"uncertain by {expected_um:.3g} um"
