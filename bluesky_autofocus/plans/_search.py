"""A search of a whole range: a grid to find the peak, then exposures where they tell most."""

import math

from bluesky.utils import MsgGenerator, plan

from bluesky_autofocus.plans._moving import Approach, interval_um
from bluesky_autofocus.plans._operation import check_positive
from bluesky_autofocus.plans._protocols import Detectors, FocusAnalysis, FocusAxis
from bluesky_autofocus.plans._searching import focus_by_search
from bluesky_autofocus.records import Verdict
from bluesky_autofocus.search import LEAST_GRID_EXPOSURES, Search, grid_search

__all__ = ["search_focus"]


@plan
def search_focus(
    detectors: Detectors,
    axis: FocusAxis,
    *,
    analysis: FocusAnalysis,
    depth_of_field_um: float,
    bounds_um: tuple[float, float] | None = None,
    range_um: float | None = None,
    widen_um: float = 0.0,
    budget: int = 15,
    precision: float = 0.15,
    confirm: bool = True,
    travel_um: tuple[float, float] | None = None,
    approach: Approach = Approach(),
    timeout_s: float = 30.0,
) -> MsgGenerator[Verdict]:
    """Focus by a grid over the range and one peak fitted to all exposures; a stub that opens no run.

    The grid finds the peak however far away it is, where Brent's method may end on another one. Each further
    exposure is taken where it narrows down the centre of the peak most, until that is certain enough. What
    the peak does not explain is looked at again before anything is believed.

    Parameters
    ----------
    depth_of_field_um : float
        How narrow a peak can be: the grid is spaced by it, as far as the budget allows.
    widen_um : float
        How far beyond the range, to either side, the search may go where the peak lies at its edge.
    budget : int
        Most exposures to spend, the confirming one included. By default enough for 40 depths of field.
    precision : float
        The search stops when the scatter of the scores leaves the centre of the peak uncertain by less than
        this fraction of a depth of field.
    detectors, axis, analysis, bounds_um, range_um, confirm, travel_um, approach, timeout_s
        As for `brent_focus`.

    Returns
    -------
    Verdict
        As for `brent_focus`. In its parameters ``bounds_um`` is the range as widened to both sides.

    Raises
    ------
    ValueError, LimitError, NotSubscribedError
        As for `brent_focus`. The range, widened, must be within the limits of the axis.
    """
    check_positive("depth_of_field_um", depth_of_field_um)
    check_positive("precision", precision)
    check_positive("range_um", range_um)
    if not (math.isfinite(widen_um) and widen_um >= 0):
        raise ValueError(f"widen_um must be finite and not negative, got {widen_um!r}")
    if bounds_um is not None:
        low_um, high_um = interval_um("bounds_um", bounds_um)
        bounds_um = (low_um - widen_um, high_um + widen_um)
    if range_um is not None:
        range_um += 2 * widen_um

    def search(outer: tuple[float, float], exposures: int) -> Search:
        return grid_search(
            (outer[0] + widen_um, outer[1] - widen_um),
            exposures=exposures,
            depth_of_field_um=depth_of_field_um,
            precision=precision,
            outer_um=outer,
        )

    return (
        yield from focus_by_search(
            detectors,
            axis,
            search,
            method="search",
            analysis=analysis,
            bounds_um=bounds_um,
            range_um=range_um,
            budget=budget,
            least_budget=LEAST_GRID_EXPOSURES,
            travel_um=travel_um,
            approach=approach,
            confirm=confirm,
            timeout_s=timeout_s,
            parameters={
                "depth_of_field_um": depth_of_field_um,
                "widen_um": widen_um,
                "precision": precision,
            },
        )
    )
