"""End an operation before the exposure for which no dose is left."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from bluesky import plan_stubs as bps
from bluesky.protocols import Readable
from bluesky.utils import MsgGenerator, maybe_await

from bluesky_autofocus.plans._exposing import _exposure_s
from bluesky_autofocus.plans._protocols import Detectors

__all__ = ["DoseMeter", "DoseSpent", "check_dose"]

ROUNDING = 1e-9
"""Part of the budget by which a sum of exposure times may be off: ten times 0.1 s are 1 s."""


class DoseSpent(Exception):  # noqa: N818 - it ends an operation, and is seen by nobody
    """No dose is left for another exposure."""


def check_dose(dose_budget_s: float | None) -> None:
    """Raise a ValueError if a dose budget that was given is not finite, or negative."""
    if dose_budget_s is not None and not (math.isfinite(dose_budget_s) and dose_budget_s >= 0):
        raise ValueError(f"dose_budget_s must be finite and not negative, got {dose_budget_s!r}")


class DoseMeter(Readable):
    """Counts the seconds of light or beam that exposures cost, each before it is taken.

    It is read by a message before each exposure. Where a pause has an exposure taken again, the RunEngine
    carries out that message again too, so that it is counted as often as the specimen is exposed. The plan
    itself would not learn of it.

    Parameters
    ----------
    budget_s : float or None
        Most seconds of exposure; None for no limit, and nothing is counted then.
    detectors : sequence of Readable
        Whose keys ``*_exposure_s`` say what an exposure costs.

    Attributes
    ----------
    spent_s : float
        Seconds so far.
    refused : bool
        Whether an exposure was refused.
    """

    parent = None

    def __init__(self, budget_s: float | None, detectors: Detectors) -> None:
        check_dose(budget_s)
        self.budget_s = budget_s
        self.spent_s = 0.0
        self.refused = False
        self._detectors = detectors

    @property
    def name(self) -> str:
        """Of the object, not of a key: it gives no data."""
        return "dose_meter"

    @property
    def left_s(self) -> float | None:
        """What is left of the budget; None where there is no limit."""
        return None if self.budget_s is None else max(self.budget_s - self.spent_s, 0.0)

    def affordable(self, budget: int, least: int) -> MsgGenerator[int]:
        """Return how many exposures of a budget the dose allows.

        Raises
        ------
        DoseSpent
            If those are fewer than `least`, with which nothing could be concluded.
        ValueError
            If the detectors do not say how long they expose.
        """
        if self.left_s is None:
            return budget
        readings = []
        for detector in self._detectors:
            readings.append((yield from bps.read(detector)))
            if readings[-1] is None:  # a dry run
                return budget
        cost_s = _cost_s(readings)
        if not math.isfinite(cost_s):
            names = ", ".join(detector.name for detector in self._detectors)
            raise ValueError(f"dose_budget_s needs a key '*_exposure_s' in what is read of {names}")
        if cost_s > 0:
            budget = min(budget, math.floor((1 + ROUNDING) * self.left_s / cost_s))
        if budget < least:
            raise DoseSpent
        return budget

    def ask(self) -> MsgGenerator[None]:
        """Count the exposure that comes next.

        Raises
        ------
        DoseSpent
            If it must not be taken.
        """
        if self.budget_s is not None:
            yield from bps.read(self)

    async def read(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride] - may be one
        """Count an exposure, at the exposure time that is set now."""
        readings = [await maybe_await(detector.read()) for detector in self._detectors]
        spent_s = self.spent_s + _cost_s(readings)
        # written so that an exposure of unknown length is not taken
        if self.budget_s is not None and not spent_s <= (1 + ROUNDING) * self.budget_s:
            self.refused = True
            raise DoseSpent
        self.spent_s = spent_s
        return {}

    def describe(self) -> dict[str, Any]:
        """Describe nothing: it gives no data."""
        return {}


def _cost_s(readings: Iterable[Mapping[str, Any]]) -> float:
    return _exposure_s({key: entry["value"] for reading in readings for key, entry in reading.items()})
