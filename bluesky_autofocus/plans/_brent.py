"""Brent's method along the focus axis."""

from bluesky.utils import MsgGenerator, plan

from bluesky_autofocus.plans._moving import Approach
from bluesky_autofocus.plans._operation import check_positive
from bluesky_autofocus.plans._protocols import Detectors, FocusAnalysis, FocusAxis
from bluesky_autofocus.plans._searching import focus_by_search
from bluesky_autofocus.records import Verdict
from bluesky_autofocus.search import LEAST_BRENT_EXPOSURES, ScalarSolver, Search, bounded_brent, brent_search

__all__ = ["brent_focus"]


@plan
def brent_focus(
    detectors: Detectors,
    axis: FocusAxis,
    *,
    analysis: FocusAnalysis,
    bounds_um: tuple[float, float] | None = None,
    range_um: float | None = None,
    budget: int = 20,
    dose_budget_s: float | None = None,
    tolerance_um: float | None = None,
    depth_of_field_um: float | None = None,
    verify: bool = True,
    confirm: bool = True,
    solver: ScalarSolver = bounded_brent,
    travel_um: tuple[float, float] | None = None,
    approach: Approach = Approach(),
    timeout_s: float = 30.0,
) -> MsgGenerator[Verdict]:
    """Focus by Brent's bounded method on 1/score; a stub that opens no run.

    It is `scipy.optimize.minimize_scalar(method="bounded")` itself that chooses the positions. It finds
    *a* minimum: over a range of many depths of field that need not be the focus. Unless told not to, the
    stub therefore spends a few exposures on looking for reasons not to believe it.

    Parameters
    ----------
    detectors : sequence of Readable
        The camera first.
    axis : FocusAxis
        What is moved, in um.
    analysis : FocusAnalysis
        Gives the score; subscribed to the RunEngine before the run opens.
    bounds_um : tuple of float, optional
        Lowest and highest position to search, absolute.
    range_um : float, optional
        Instead of bounds: the width of the range about where the axis is.
    budget : int
        Most exposures to spend, checks included.
    dose_budget_s : float, optional
        Most seconds of exposure. The exposures are as few as it allows; where those would not suffice for a
        conclusion, or the next one would exceed it, the verdict is ``dose_spent``.
    tolerance_um : float, optional
        Accuracy at which Brent's method stops; by default half a depth of field where that is known, else
        1/200 of the range.
    depth_of_field_um : float, optional
        How narrow a peak can be. Where it is given, a peak must be of believable width.
    verify : bool
        Look for reasons not to believe the result. Without it the conclusion rests on Brent's own points.
    confirm : bool
        Take one exposure at the focus in the end and compare it with what the search promised.
    solver : ScalarSolver
        Any other minimiser of one variable can take Brent's place.
    travel_um : tuple of float, optional
        No move leaves this range; by default the bounds and the start.
    approach : Approach
        From which side positions are approached.
    timeout_s : float
        Longest wait for a reading.

    Returns
    -------
    Verdict
        Where the focus is and the axis now stands; or ``found=False`` with the reason and the axis back
        where it was.

    Raises
    ------
    ValueError
        If an argument makes no sense; before anything moves.
    LimitError
        If the bounds are beyond the limits of the axis; before anything moves.
    NotSubscribedError
        If the analysis is not subscribed; before anything moves.

    References
    ----------
    R. P. Brent, Algorithms for Minimization Without Derivatives (1973), chapter 5.
    """
    check_positive("tolerance_um", tolerance_um)
    check_positive("depth_of_field_um", depth_of_field_um)

    def search(bounds: tuple[float, float], exposures: int) -> Search:
        return brent_search(
            bounds,
            exposures=exposures,
            tolerance_um=tolerance_um,
            depth_of_field_um=depth_of_field_um,
            verify=verify,
            solver=solver,
        )

    return (
        yield from focus_by_search(
            detectors,
            axis,
            search,
            method="brent",
            analysis=analysis,
            bounds_um=bounds_um,
            range_um=range_um,
            budget=budget,
            least_budget=LEAST_BRENT_EXPOSURES,
            travel_um=travel_um,
            approach=approach,
            confirm=confirm,
            timeout_s=timeout_s,
            dose_budget_s=dose_budget_s,
            parameters={
                "tolerance_um": tolerance_um,
                "depth_of_field_um": depth_of_field_um,
                "verify": verify,
                "solver": getattr(solver, "__name__", repr(solver)),
            },
        )
    )
