"""Decide from the sharpness of single frames when it is time to focus again."""

import dataclasses
import math

__all__ = ["BlurTrigger"]


@dataclasses.dataclass
class BlurTrigger:
    """Compare frames with a baseline, with hysteresis and a minimum time between focusing.

    A frame scoring less than `blurred_below` times the baseline is blurred. Having been blurred, frames
    count as blurred until one scores at least `sharp_above` times the baseline: noise about one threshold
    does not make the microscope focus every other frame.

    Parameters
    ----------
    baseline : float, optional
        Score of a frame known to be sharp. NaN: none yet, so the first frame asks for focusing.
    blurred_below, sharp_above : float
        Fractions of the baseline, ``0 < blurred_below <= sharp_above <= 1``.
    min_interval_s : float
        Least time between two focusing operations.

    Raises
    ------
    ValueError
        If a threshold, the interval or the baseline makes no sense.
    """

    baseline: float = math.nan
    blurred_below: float = 0.75
    sharp_above: float = 0.9
    min_interval_s: float = 0.0
    blurred: bool = dataclasses.field(default=False, init=False)
    _focused_s: float = dataclasses.field(default=-math.inf, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.blurred_below <= self.sharp_above <= 1:
            raise ValueError(
                "expected 0 < blurred_below <= sharp_above <= 1, "
                f"got {self.blurred_below!r} and {self.sharp_above!r}"
            )
        if not self.min_interval_s >= 0:
            raise ValueError(f"min_interval_s must not be negative, got {self.min_interval_s!r}")
        if self.baseline <= 0 or math.isinf(self.baseline):
            raise ValueError(f"baseline must be a positive score, got {self.baseline!r}")

    def wants_focus(self, score: float, now_s: float) -> bool:
        """Take in the score of a frame and say whether to focus now."""
        if math.isnan(self.baseline):
            self.blurred = True
        else:
            threshold = self.sharp_above if self.blurred else self.blurred_below
            # written so that a NaN score counts as blurred
            self.blurred = not score >= threshold * self.baseline
        return self.blurred and now_s - self._focused_s >= self.min_interval_s

    def focused(self, score: float | None, now_s: float) -> None:
        """Take in that focusing has ended.

        Parameters
        ----------
        score : float or None
            Sharpness at the focus that was found, the new baseline; None when none was found, which keeps
            the baseline but still waits `min_interval_s` before the next try.
        now_s : float
            Time of it.
        """
        self._focused_s = now_s
        if score is not None:
            self.baseline, self.blurred = score, False
