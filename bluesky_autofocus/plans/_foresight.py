"""Where a plan expects focus between focusings, and the axis following it."""

import math
from typing import Any

from bluesky import plan_stubs as bps
from bluesky.protocols import Readable
from bluesky.utils import MsgGenerator

from bluesky_autofocus.clock import Clock
from bluesky_autofocus.plans._exposing import _Record, _record
from bluesky_autofocus.plans._moving import Approach, Travel, refused_by
from bluesky_autofocus.plans._protocols import FocusAxis
from bluesky_autofocus.prediction import DriftFilter, Predicted
from bluesky_autofocus.records import Verdict

__all__ = ["Foresight"]

WORTH_A_MOVE = 0.5
"""Part of its uncertainty by which a prediction must differ from where the axis stands. Shorter moves would
make the expected error smaller by a ninth at most, and wear the axis."""


class Foresight:
    """Predicts focus for one plan by the verdicts of its focusings, and lets the axis follow.

    Parameters
    ----------
    axis : FocusAxis
        What follows.
    drift : DriftFilter
        Told of every focus that is found.
    clock : Clock
        Whose times the filter is told.
    temperature : Readable, optional
        Thermometer, in degrees Celsius.
    follows : bool
        Whether the axis follows.

    Attributes
    ----------
    predicted : Predicted
        For the time of the last look.
    """

    def __init__(
        self,
        axis: FocusAxis,
        drift: DriftFilter,
        clock: Clock,
        *,
        temperature: Readable | None = None,
        follows: bool = False,
    ) -> None:
        self._axis, self._drift, self._clock = axis, drift, clock
        self._thermometer, self._follows = temperature, follows
        self._temperature_c: float | None = None
        self._at_um = math.nan
        self._travel: tuple[float, float] | None = None
        self._approach = Approach()
        self._reachable = False
        now_s = clock.now_s()
        if now_s < drift.newest_s:
            raise ValueError(
                f"time cannot run backwards: focus was observed at {drift.newest_s:g} s, the clock is at "
                f"{now_s:g} s; give the clock by which the filter was told"
            )
        self.predicted = drift.predict(now_s)

    @property
    def parameters(self) -> dict[str, Any]:
        """What is recorded of it at the start."""
        thermometer = {} if self._thermometer is None else {"temperature": self._thermometer.name}
        return {"drift": self._drift.parameters, "follow": self._follows, **thermometer}

    @property
    def off_um(self) -> float:
        """How far the exposure would be from where focus is expected: nothing, if the axis can follow."""
        return 0.0 if self._reachable else self.predicted.position_um - self._at_um

    def look(self) -> MsgGenerator[None]:
        """Predict where focus is now, and see whether the axis can go there."""
        self._at_um = yield from bps.rd(self._axis, default_value=math.nan)
        yield from self._feel()
        self.predicted = self._drift.predict(self._clock.now_s(), temperature_c=self._temperature_c)
        self._reachable = self._follows and (yield from self._reaches())

    def _feel(self) -> MsgGenerator[None]:
        if self._thermometer is not None:
            self._temperature_c = yield from bps.rd(self._thermometer, default_value=None)

    def _reaches(self) -> MsgGenerator[bool]:
        """Return whether the axis may go where focus is expected."""
        # what is doubted is not followed
        if self._travel is None or not self.predicted.known or self.predicted.reason:
            return False
        low_um, high_um = self._travel
        if not low_um <= self.predicted.position_um <= high_um:
            return False
        reached = self._moves().reached([self.predicted.position_um])
        return (yield from refused_by(self._axis, reached)) is None

    def focused(self, verdict: Verdict) -> MsgGenerator[None]:
        """Take in what focusing came to."""
        # frames that are as sharp as before do not say where focus is
        if not (verdict.found and math.isfinite(verdict.sigma_um) and verdict.sigma_um > 0):
            return
        yield from self._feel()
        self._drift.observe(
            self._clock.now_s(),
            verdict.position_um,
            verdict.sigma_um,
            temperature_c=self._temperature_c,
        )
        # following may go where focusing might have gone, in the way in which it would have
        if "travel_um" in verdict.parameters:
            low_um, high_um = verdict.parameters["travel_um"]
            self._travel = (float(low_um), float(high_um))
            self._approach = Approach(**verdict.parameters.get("approach", {}))

    def follow(self, number: int) -> MsgGenerator[None]:
        """Move the axis to where focus is expected, if that is worth a move, and record it.

        Parameters
        ----------
        number : int
            Of the exposure that comes next, in its run.
        """
        if not self._reachable:
            return
        target_um = self.predicted.position_um
        if abs(target_um - self._at_um) <= WORTH_A_MOVE * self.predicted.sigma_um:
            return
        moves = self._moves()
        try:
            yield from moves.to(target_um)
            yield from _record(_Followed(number, self._at_um, self.predicted), "focus_followed")
        except Exception:
            yield from moves.undo()
            raise
        # a pause while the plan exposes does not take the axis back
        yield from bps.checkpoint()

    def _moves(self) -> Travel:
        travel_um = self._travel or (self._at_um, self._at_um)
        low_um, high_um = min(travel_um[0], self._at_um), max(travel_um[1], self._at_um)
        return Travel(self._axis, (low_um, high_um), self._at_um, self._approach)


class _Followed(_Record):
    """That the axis was moved to where focus was expected."""

    def __init__(self, number: int, start_um: float, predicted: Predicted) -> None:
        super().__init__("focus_followed")
        self._number, self._start_um, self._predicted = number, start_um, predicted

    def fields(self) -> dict[str, Any]:
        return {
            "exposure": self._number,
            "start_um": float(self._start_um),
            "position_um": self._predicted.position_um,
            "sigma_um": self._predicted.sigma_um,
        }
