"""Observations that are too far from what was expected: outliers, or the first ones after a jump."""

import dataclasses
import math

__all__ = ["GATE", "Doubts"]

GATE = 4.0
"""Standard deviations from what was expected beyond which an observation is not believed at once. In
simulated nights without a jump that was one observation in a thousand or fewer."""


@dataclasses.dataclass(frozen=True)
class _Doubt:
    """An observation that was not believed.

    Parameters
    ----------
    time_s : float
    off_um : float
        How far it was from what was expected.
    may_be_off_um : float
        How far it might have been, one standard deviation.
    sigma_um : float
        Standard uncertainty of the observation alone.
    """

    time_s: float
    off_um: float
    may_be_off_um: float
    sigma_um: float


class Doubts:
    """Observations in a row that were not believed.

    Parameters
    ----------
    witnesses : int
        So many in a row must agree before they are. If they do not agree, it takes as many again but one:
        then the prediction is wrong, wherever it goes.
    """

    def __init__(self, witnesses: int) -> None:
        self._witnesses = witnesses
        self._all: list[_Doubt] = []

    def __bool__(self) -> bool:
        return bool(self._all)

    @property
    def times_s(self) -> list[float]:
        """When they were made."""
        return [one.time_s for one in self._all]

    @property
    def off_um(self) -> float:
        """How far off they are at most; 0 if there are none."""
        return max((abs(one.off_um) for one in self._all), default=0.0)

    @property
    def reason(self) -> str:
        """Why the newest one is not believed; empty if there is none."""
        if not self._all:
            return ""
        newest = self._all[-1]
        return (
            f"focus was found {newest.off_um:+.3g} um from where it was expected, "
            f"{abs(newest.off_um) / newest.may_be_off_um:.1f} standard deviations: an outlier, or a jump"
        )

    @property
    def nearly_believed(self) -> bool:
        """Whether one more that agrees will do."""
        return self._agree(self._witnesses - 1)

    def add(self, time_s: float, off_um: float, may_be_off_um: float, sigma_um: float) -> None:
        """Take in an observation that is not believed."""
        self._all.append(_Doubt(time_s, off_um, may_be_off_um, sigma_um))

    def resolved(self, rate_um_s: float) -> tuple[float, float] | None:
        """Return how far focus and its rate are from what was expected, if it is that which was wrong.

        Parameters
        ----------
        rate_um_s : float
            How fast focus may drift, one standard deviation, where the rate is not known either.

        Returns
        -------
        tuple of float or None
            In um and um / s. None as long as nobody can tell.
        """
        if self._agree(self._witnesses):
            return abs(self._all[-1].off_um), 0.0
        if len(self._all) < 2 * self._witnesses - 1:
            return None
        first, newest = self._all[0], self._all[-1]
        # they do not agree with each other either: it goes somewhere, and fast
        lasted_s = newest.time_s - first.time_s
        change_um_s = (newest.off_um - first.off_um) / lasted_s if lasted_s else 0.0
        return abs(newest.off_um), math.hypot(rate_um_s, change_um_s)

    def _agree(self, count: int) -> bool:
        """Return whether so many of the newest agree with each other."""
        if len(self._all) < count:
            return False
        newest, off_um = self._all[-1], [one.off_um for one in self._all[-count:]]
        return max(off_um) - min(off_um) <= GATE * math.hypot(newest.may_be_off_um, newest.sigma_um)
