"""What came out of searches, one by one and summed up."""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

from benchmarks._ours import OURS
from benchmarks._peer_packages import fibsem, mapfost
from benchmarks._peers import PEERS, Peer
from benchmarks._search_cases import Case

__all__ = ["COMPETITORS", "Outcome", "competing", "search_once", "summary"]

COMPETITORS: dict[str, Peer] = {**OURS, **PEERS, "fibsem": fibsem, "mapfost": mapfost}
"""All that are compared; `mapfost` on electron microscopes only."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """How one search went.

    Parameters
    ----------
    competitor, part, case, kind, dose : str
        Whose, of which part of the benchmark, under which name there, of what specimen, in which light.
    number : tuple of int
        Of the case: searches of the same one have the same.
    range_dof : int
        Of the search; 0 for a recorded stack.
    found, right : bool
        What it claims, and whether it left the axis in focus.
    reason : str
        That it gives.
    error_dof, sigma_dof : float
        How far from focus it left the axis, and what it says of that.
    exposures : int
        That it took.
    dose_spent, travel_dof, seconds : float
        What it cost; the dose in frames of high dose.
    """

    competitor: str
    part: str
    case: str
    kind: str
    dose: str
    number: tuple[int, ...]
    range_dof: int
    found: bool
    right: bool
    reason: str
    error_dof: float
    sigma_dof: float
    exposures: int
    dose_spent: float
    travel_dof: float
    seconds: float

    @property
    def confident_wrong(self) -> bool:
        """Whether it claims a focus that is none."""
        return self.found and not self.right


def competing(case: Case, among: Sequence[str] | None = None) -> dict[str, Peer]:
    """Return who takes part in a case."""
    electrons = case.scene.instrument.name == "sem"
    return {
        name: peer
        for name, peer in COMPETITORS.items()
        if (among is None or name in among) and (electrons or name != "mapfost")
    }


def search_once(competitor: str, part: str, name: str, range_dof: int, case: Case) -> Outcome:
    """Let a competitor search; the error is that of the axis as it stands in the end."""
    microscope = case.microscope()
    dof_um = microscope.depth_of_field_um
    answer = COMPETITORS[competitor](microscope, case.bounds_um, case.start_um)
    microscope.move(answer.position_um)
    defocus_um = microscope.defocus_um()
    return Outcome(
        competitor,
        part,
        name,
        case.kind,
        case.dose,
        case.number,
        range_dof,
        answer.found,
        case.right(answer.position_um, defocus_um),
        answer.reason,
        abs(defocus_um) / dof_um if case.any_focus else math.nan,
        answer.sigma_um / dof_um,
        len(microscope.positions_um),
        microscope.dose_spent,
        microscope.travel_um / dof_um,
        microscope.now_s,
    )


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Count what happened; shares are of all trials."""
    trials = len(outcomes)
    found = [one for one in outcomes if one.found]
    stated = [one for one in found if not math.isnan(one.sigma_dof) and not math.isnan(one.error_dof)]
    errors = [one.error_dof for one in found if not math.isnan(one.error_dof)]
    return {
        "trials": trials,
        "within_half_dof": sum(one.right and one.error_dof <= 0.5 for one in found) / trials,
        "within_1_dof": sum(one.right for one in found) / trials,
        "not_found": 1 - len(found) / trials,
        "confident_wrong": sum(one.confident_wrong for one in outcomes) / trials,
        "stands_in_focus": sum(one.right for one in outcomes) / trials,
        "median_error_dof": median(errors) if errors else math.nan,
        "coverage_2sigma": (
            fmean(one.error_dof <= 2 * one.sigma_dof for one in stated) if stated else math.nan
        ),
        "exposures": fmean(one.exposures for one in outcomes),
        "dose_spent": fmean(one.dose_spent for one in outcomes),
        "travel_dof": fmean(one.travel_dof for one in outcomes),
        "seconds": median(one.seconds for one in outcomes),
        "reasons": dict(Counter(one.reason for one in outcomes if not one.found)),
    }
