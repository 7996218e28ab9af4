"""Where focus is between corrections, by how it has drifted so far, and for how long to believe that."""

import math
from collections.abc import Mapping
from typing import Any

from bluesky_autofocus.prediction._doubts import GATE, Doubts
from bluesky_autofocus.prediction._filter_bank import COEFFICIENT, RATE, FilterBank
from bluesky_autofocus.prediction._predicted import Predicted

__all__ = ["DriftFilter"]

_LONGEST_S = 1e7
"""Four months: farther ahead nobody looks."""
_MIN = 60.0


class DriftFilter:
    """Predict where focus is from where and when it was found: a bank of Kalman filters.

    How much focus strays is learnt from the observations. What was stated is where learning begins:
    filters that believe more and less of it run side by side, and count by how well they have predicted. So
    the uncertainty is honest from the second observation on, and shrinks as a drift turns out to be steady.

    An observation that is off by more than four standard deviations is not believed at once: focus may have
    been found on dust, or the stage was knocked. Until the next observation the prediction is as uncertain
    as that one was off. If the next one agrees with the prediction, the first was an outlier; if they agree
    with each other, `witnesses` in a row, focus has jumped, and the filter goes on from there.

    Times are in seconds on any clock that does not run backwards.

    Parameters
    ----------
    wander_um_per_sqrt_s : float
        How far focus strays at random: the standard deviation of a random walk after one second. At 0.005
        it is 0.3 um after an hour.
    rate_wander : float
        How the rate of the drift strays likewise, in um / s / sqrt(s). At 1e-5 it changes by 0.036 um / min
        in an hour.
    spread : float
        By what factor either may differ from what is stated, one standard deviation. 1: they are as stated,
        and nothing is learnt.
    rate_um_per_min : float
        How fast focus may drift at first, one standard deviation.
    sigma_um_floor : float
        No observation is taken to be surer.
    temperature_coefficient_um_per_c : float
        By how much focus rises with the temperature.
    temperature_coefficient_sigma_um_per_c : float
        Standard deviation of it. By default 2: aluminium expands by 2.3 um / K for each 100 mm.
    witnesses : int
        How many observations in a row must say that focus has jumped, at least 2. More of them where errors
        are alike: what lies on a cover glass is found at the same height in one field and the next.

    Raises
    ------
    ValueError
        If a number makes no sense.
    """

    def __init__(
        self,
        *,
        wander_um_per_sqrt_s: float = 0.005,
        rate_wander: float = 1e-5,
        spread: float = 5.0,
        rate_um_per_min: float = 0.2,
        sigma_um_floor: float = 0.05,
        temperature_coefficient_um_per_c: float = 0.0,
        temperature_coefficient_sigma_um_per_c: float = 2.0,
        witnesses: int = 2,
    ) -> None:
        if not (isinstance(witnesses, int) and witnesses >= 2):
            raise ValueError(f"witnesses must be a whole number, at least 2, got {witnesses!r}")
        self._options: dict[str, Any] = {
            "wander_um_per_sqrt_s": float(wander_um_per_sqrt_s),
            "rate_wander": float(rate_wander),
            "spread": float(spread),
            "rate_um_per_min": float(rate_um_per_min),
            "sigma_um_floor": float(sigma_um_floor),
            "temperature_coefficient_um_per_c": float(temperature_coefficient_um_per_c),
            "temperature_coefficient_sigma_um_per_c": float(temperature_coefficient_sigma_um_per_c),
            "witnesses": witnesses,
        }
        for name in ("wander_um_per_sqrt_s", "rate_wander", "rate_um_per_min", "sigma_um_floor"):
            if not (math.isfinite(self._options[name]) and self._options[name] > 0):
                raise ValueError(f"{name} must be positive and finite, got {self._options[name]!r}")
        if not (math.isfinite(spread) and spread >= 1):
            raise ValueError(f"spread is a factor: it must be finite and at least 1, got {spread!r}")
        if not math.isfinite(temperature_coefficient_um_per_c):
            raise ValueError(
                f"temperature_coefficient_um_per_c must be finite, got {temperature_coefficient_um_per_c!r}"
            )
        sigma = temperature_coefficient_sigma_um_per_c
        if not (math.isfinite(sigma) and sigma >= 0):
            raise ValueError(
                f"temperature_coefficient_sigma_um_per_c must be finite and not negative, got {sigma!r}"
            )
        self._bank = FilterBank(
            wander=self._options["wander_um_per_sqrt_s"],
            rate_wander=self._options["rate_wander"],
            spread=self._options["spread"],
            rate_um_s=self._options["rate_um_per_min"] / _MIN,
            coefficient=self._options["temperature_coefficient_um_per_c"],
            coefficient_sigma=sigma,
        )
        self._observations: list[tuple[float, float, float, float | None]] = []
        self._taken_s = math.nan
        self._reference_c: float | None = None
        self._last_c: float | None = None
        self._doubts = Doubts(witnesses)
        self._outliers_s: list[float] = []
        self._jumps_s: list[float] = []

    # What there is to know of it

    @property
    def doubt(self) -> str:
        """Why the newest observation is not believed; empty if it is."""
        return self._doubts.reason

    @property
    def nearly_believed(self) -> bool:
        """Whether one more observation that agrees with those that are not believed makes a jump of them."""
        return self._doubts.nearly_believed

    @property
    def outliers_s(self) -> tuple[float, ...]:
        """When focus was found where it was not, as what came after told."""
        return tuple(self._outliers_s)

    @property
    def jumps_s(self) -> tuple[float, ...]:
        """When focus was first seen to have jumped."""
        return tuple(self._jumps_s)

    @property
    def newest_s(self) -> float:
        """When focus was observed last, believed or not; NaN if never."""
        return self._observations[-1][0] if self._observations else math.nan

    @property
    def parameters(self) -> dict[str, Any]:
        """What was stated and what was learnt, JSON-able, for the record."""
        bank = self._bank
        rate, rate_sigma = bank.mean_and_deviation(RATE)
        coefficient, coefficient_sigma = bank.mean_and_deviation(COEFFICIENT)
        return {
            **self._options,
            "observations": len(self._observations),
            "learnt": {
                "wander_um_per_sqrt_s": bank.learnt(bank.wander),
                "rate_wander": bank.learnt(bank.rate_wander),
                "rate_um_per_min": rate * _MIN,
                "rate_sigma_um_per_min": rate_sigma * _MIN,
                "temperature_coefficient_um_per_c": coefficient,
                "temperature_coefficient_sigma_um_per_c": coefficient_sigma,
            },
            "outliers_s": list(self._outliers_s),
            "jumps_s": list(self._jumps_s),
        }

    # Observations in

    def observe(
        self, time_s: float, position_um: float, sigma_um: float, *, temperature_c: float | None = None
    ) -> None:
        """Take in where focus was found. Whether that is believed, `doubt` tells.

        Parameters
        ----------
        time_s : float
            When; not before the observation before.
        position_um : float
            Position of focus along its axis.
        sigma_um : float
            Its standard uncertainty.
        temperature_c : float, optional
            At that time. Where it is missing, or NaN, the last one is taken to hold.

        Raises
        ------
        ValueError
            If a number is not finite, the uncertainty not positive, or time runs backwards.
        """
        _check_finite(time_s)
        if self._observations and time_s < self.newest_s:
            raise ValueError(
                f"time cannot run backwards: focus was observed at {self.newest_s:g} s, this is {time_s:g} s"
            )
        if not math.isfinite(position_um):
            raise ValueError(f"position_um must be finite, got {position_um!r}")
        if not (math.isfinite(sigma_um) and sigma_um > 0):
            raise ValueError(f"sigma_um must be positive and finite, got {sigma_um!r}")
        time_s, position_um = float(time_s), float(position_um)
        temperature_c = _temperature(temperature_c)
        self._observations.append((time_s, position_um, float(sigma_um), temperature_c))
        if temperature_c is not None:
            self._last_c = temperature_c
            self._reference_c = temperature_c if self._reference_c is None else self._reference_c
        sigma_um = max(float(sigma_um), self._options["sigma_um_floor"])
        if math.isnan(self._taken_s):
            self._bank.begin(position_um, sigma_um)
            self._taken_s = time_s
            return
        warmth = self._warmth(temperature_c)
        off_um, may_be_off_um = self._off(time_s, position_um, sigma_um, warmth)
        wrong = None
        if abs(off_um) <= GATE * may_be_off_um:
            self._outliers_s += self._doubts.times_s
        else:
            self._doubts.add(time_s, off_um, may_be_off_um, sigma_um)
            wrong = self._doubts.resolved(self._options["rate_um_per_min"] / _MIN)
            if wrong is None:
                return
            self._jumps_s.append(self._doubts.times_s[0])
        self._bank.go(time_s - self._taken_s)
        self._taken_s = time_s
        if wrong is not None:
            self._bank.reopen(*wrong)
        # a jump says nothing of how focus strays
        self._bank.take(position_um, sigma_um, warmth, learn=wrong is None)
        self._doubts = Doubts(self._options["witnesses"])

    def surprised_by(
        self, time_s: float, position_um: float, sigma_um: float, *, temperature_c: float | None = None
    ) -> bool:
        """Return whether an observation, as for `observe`, would not be believed at once; it is not taken."""
        if math.isnan(self._taken_s):
            return False
        sigma_um = max(float(sigma_um), self._options["sigma_um_floor"])
        warmth = self._warmth(_temperature(temperature_c))
        off_um, may_be_off_um = self._off(time_s, position_um, sigma_um, warmth)
        return abs(off_um) > GATE * may_be_off_um

    def _off(self, time_s: float, position_um: float, sigma_um: float, warmth: float) -> tuple[float, float]:
        """Return how far an observation is from what is expected, and how far it might be: one sigma."""
        expected_um, deviation_um = self._bank.predict(time_s - self._taken_s, warmth)
        return position_um - float(expected_um), math.hypot(float(deviation_um), sigma_um)

    # Predictions out

    def predict(self, time_s: float, *, temperature_c: float | None = None) -> Predicted:
        """Return where focus is expected at a time.

        Parameters
        ----------
        time_s : float
            An instant before the newest observation is as uncertain as one after it: focus may have strayed
            until then as from then on.
        temperature_c : float, optional
            At that time. Where it is missing, or NaN, the last observed one is taken to hold.

        Returns
        -------
        Predicted
            Refused where nothing was observed yet. While the newest observation is not believed the
            uncertainty covers it, and the reason is `doubt`.

        Raises
        ------
        ValueError
            If the time is not finite.
        """
        _check_finite(time_s)
        if not self._observations:
            return Predicted.refused("focus has not been observed yet")
        position_um, sigma_um = self._bank.predict(
            time_s - self._taken_s, self._warmth(_temperature(temperature_c))
        )
        return Predicted(float(position_um), math.hypot(float(sigma_um), self._doubts.off_um), self.doubt)

    def seconds_until(self, sigma_um: float, time_s: float) -> float:
        """Return for how long, from a time on, the prediction is at least as certain as this.

        With the temperature as it was observed last.

        Parameters
        ----------
        sigma_um : float
            Standard uncertainty that is still good enough.
        time_s : float

        Returns
        -------
        float
            Seconds: 0 where it is less certain already; infinity if it will be that certain for months.

        Raises
        ------
        ValueError
            If `sigma_um` is not positive, or the time not finite.
        """
        if not sigma_um > 0:
            raise ValueError(f"sigma_um must be positive, got {sigma_um!r}")
        now = self.predict(time_s)
        # written so that what is not known is not certain
        if not now.sigma_um <= sigma_um:
            return 0.0
        from scipy.optimize import brentq

        def exceeds_um(later_s: float) -> float:
            return self.predict(time_s + later_s).sigma_um - sigma_um

        later_s = 1.0
        while exceeds_um(later_s) <= 0:
            later_s *= 2
            if later_s > _LONGEST_S:
                return math.inf
        root_s: Any = brentq(exceeds_um, 0.0, later_s, xtol=1e-3)  # typed as what it may return besides
        return float(root_s)

    def _warmth(self, temperature_c: float | None) -> float:
        temperature_c = self._last_c if temperature_c is None else temperature_c
        if temperature_c is None or self._reference_c is None:
            return 0.0
        return temperature_c - self._reference_c

    # To go on with later

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` makes the same filter of, JSON-able."""
        return {"options": dict(self._options), "observations": [list(one) for one in self._observations]}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "DriftFilter":
        """Return the filter that was saved: the same predictions."""
        made = cls(**saved["options"])
        for time_s, position_um, sigma_um, temperature_c in saved["observations"]:
            made.observe(time_s, position_um, sigma_um, temperature_c=temperature_c)
        return made


def _check_finite(time_s: float) -> None:
    if not math.isfinite(time_s):
        raise ValueError(f"time_s must be finite, got {time_s!r}")


def _temperature(temperature_c: float | None) -> float | None:
    return None if temperature_c is None or not math.isfinite(temperature_c) else float(temperature_c)
