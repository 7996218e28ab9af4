"""What all focusing operations share: where one starts, what it exposes, and how it ends.

However it ends, what was changed is put back; the axis too, unless the focus was found.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from bluesky import plan_stubs as bps
from bluesky.utils import MsgGenerator

from bluesky_autofocus.plans._dose import DoseMeter, DoseSpent
from bluesky_autofocus.plans._exposing import Exposure, expose, record_verdict
from bluesky_autofocus.plans._moving import Approach, Travel, check_reachable, refused_by
from bluesky_autofocus.plans._protocols import Detectors, FocusAnalysis, FocusAxis
from bluesky_autofocus.records import Reading, Reason, Verdict
from bluesky_autofocus.search import Conclusion

__all__ = ["Operation", "check_positive", "put_back_all", "start_of"]


def check_positive(name: str, value: float | None) -> None:
    """Raise a ValueError if a number that was given is not positive and finite."""
    if value is not None and not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite, got {value!r}")


def start_of(axis: FocusAxis, *analyses: FocusAnalysis) -> MsgGenerator[float | None]:
    """Return where an axis is, having made sure that the analyses see the open run; None in a dry run.

    Raises
    ------
    NotSubscribedError
        If one of them does not.
    """
    start_um = yield from bps.rd(axis, default_value=None)
    if start_um is None:
        return None
    for analysis in analyses:
        analysis.require_open_run()
    return float(start_um)


class Operation:
    """One focusing operation.

    Parameters
    ----------
    detectors, axis, analysis, timeout_s
        As for the public stubs.
    method : str
        Under which the stub is registered; exposures go to the stream ``focus_METHOD``.
    start_um : float
        Where the axis is.
    travel_um : tuple of float
        Lowest and highest position that any move may go to.
    approach : Approach
        How positions are approached.
    dose_budget_s : float, optional
        Most seconds of exposure.
    dry_run : bool
        Whether nobody knows where the axis really is.
    """

    def __init__(
        self,
        detectors: Detectors,
        axis: FocusAxis,
        *,
        analysis: FocusAnalysis,
        method: str,
        start_um: float,
        travel_um: tuple[float, float],
        approach: Approach,
        timeout_s: float,
        dry_run: bool,
        dose_budget_s: float | None = None,
    ) -> None:
        self.detectors, self.axis, self.analysis = detectors, axis, analysis
        self.method = method
        self.travel = Travel(axis, travel_um, start_um, approach)
        self.dose = DoseMeter(dose_budget_s, detectors)
        self.timeout_s = timeout_s
        self.dry_run = dry_run
        self.exposures: list[Exposure] = []

    def check(self, lowest_um: float, highest_um: float) -> MsgGenerator[None]:
        """Ask the axis whether it may go where the operation may want it to; nothing moves.

        Raises
        ------
        LimitError or another
            What the axis raises for a position beyond its limits.
        """
        wanted = self.travel.reached((lowest_um, highest_um, self.travel.start_um))
        yield from check_reachable(self.axis, wanted)

    def reaches(self, *positions_um: float) -> MsgGenerator[bool]:
        """Return whether the axis may be moved to all of these positions; nothing moves."""
        if not all(self.travel.low_um <= one <= self.travel.high_um for one in positions_um):
            return False
        reached = self.travel.reached(positions_um)
        return self.dry_run or (yield from refused_by(self.axis, reached)) is None

    def expose(
        self,
        imagined: Reading,
        imagined_um: float,
        *,
        analysis: FocusAnalysis | None = None,
        beside: Detectors = (),
    ) -> MsgGenerator[Exposure]:
        """Take an exposure; in a dry run imagine that it gave that reading at that position.

        Parameters
        ----------
        analysis : FocusAnalysis, optional
            That judges it, where it is not the operation's.
        beside : sequence of Readable
            What belongs in the Event besides the detectors.

        Raises
        ------
        DoseSpent
            In place of an exposure for which no dose is left; `carry_out` makes it a conclusion.
        """
        yield from self.dose.ask()
        try:
            exposure = yield from expose(
                [*self.detectors, *beside],
                self.axis,
                analysis=analysis or self.analysis,
                stream=f"focus_{self.method}",
                timeout_s=self.timeout_s,
            )
        except Exception as error:
            # Refused when it was to be taken again after a pause: bluesky cannot drop what is rewound.
            if self.dose.refused:
                raise DoseSpent from error
            raise
        if exposure is None:
            exposure = Exposure(imagined_um, imagined, math.nan)
        self.exposures.append(exposure)
        return exposure

    def carry_out(
        self,
        conclude: MsgGenerator[Conclusion],
        *,
        parameters: dict[str, Any],
        put_back: Sequence[Callable[[], MsgGenerator[None]]] = (),
    ) -> MsgGenerator[Verdict]:
        """Do what leads to a conclusion, put back what must be, record the verdict.

        Parameters
        ----------
        conclude : generator of messages
            Moves and exposes; in the end the axis stands on the focus, if it was found.
        parameters : dict
            Options of the stub, as they took effect, JSON-able.
        put_back : sequence of callable
            What restores what else was changed. Each may be called again, if it did not get to its end.

        Raises
        ------
        Exception
            Whatever was raised on the way, once everything is back.
        """
        travel = self.travel
        try:
            try:
                conclusion = yield from conclude
            except DoseSpent:
                conclusion = Conclusion(Reason.DOSE_SPENT)
            yield from put_back_all(() if conclusion.found else (self._put_axis_back,), put_back)
            verdict = Verdict(
                found=conclusion.found,
                reason=conclusion.reason,
                position_um=conclusion.position_um,
                sigma_um=conclusion.sigma_um,
                start_um=travel.start_um,
                exposures=len(self.exposures),
                dose=math.fsum(exposure.exposure_s for exposure in self.exposures),
                method=self.method,
                model_hash=self.analysis.model_hash,
                event_uids=tuple(exposure.reading.event_uid for exposure in self.exposures),
                parameters={
                    "travel_um": [travel.low_um, travel.high_um],
                    "approach": dataclasses.asdict(travel.approach),
                    "analysis": self.analysis.parameters,
                    "dose_budget_s": self.dose.budget_s,
                    **parameters,
                },
            )
            yield from record_verdict(verdict)
        except Exception:
            yield from put_back_all((self._put_axis_back,), put_back)
            raise
        return verdict

    def _put_axis_back(self) -> MsgGenerator[None]:
        if self.travel.moved:
            yield from self.travel.put_back()


def put_back_all(*steps: Sequence[Callable[[], MsgGenerator[None]]]) -> MsgGenerator[None]:
    """Restore one thing after the other; one that fails does not keep the others from it.

    Raises
    ------
    Exception
        What the first one that failed had raised, in the end.
    """
    errors = []
    for step in (step for group in steps for step in group):
        try:
            yield from step()
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]
