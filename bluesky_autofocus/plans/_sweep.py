"""A full sweep along the focus axis."""

from collections.abc import Sequence

import numpy as np
from bluesky.utils import MsgGenerator, plan

from bluesky_autofocus.plans._moving import Approach
from bluesky_autofocus.plans._operation import check_positive
from bluesky_autofocus.plans._protocols import Detectors, FocusAnalysis, FocusAxis
from bluesky_autofocus.plans._searching import focus_by_search
from bluesky_autofocus.records import Verdict
from bluesky_autofocus.search import LEAST_SWEEP_EXPOSURES, Search, sweep_search

__all__ = ["sweep_focus"]


@plan
def sweep_focus(
    detectors: Detectors,
    axis: FocusAxis,
    *,
    analysis: FocusAnalysis,
    bounds_um: tuple[float, float] | None = None,
    range_um: float | None = None,
    positions_um: Sequence[float] | None = None,
    budget: int = 22,
    depth_of_field_um: float | None = None,
    confirm: bool = True,
    travel_um: tuple[float, float] | None = None,
    approach: Approach = Approach(),
    timeout_s: float = 30.0,
) -> MsgGenerator[Verdict]:
    """Focus by looking everywhere; a stub that opens no run.

    Exposures are spread evenly over the range, one of the budget is kept for confirming. It costs more
    than a search and misses no peak wider than its spacing.

    Parameters
    ----------
    detectors, axis, analysis, bounds_um, range_um, confirm, travel_um, approach, timeout_s
        As for `brent_focus`.
    positions_um : sequence of float, optional
        Instead of bounds or a range: where to expose. The budget then only has to suffice.
    budget : int
        Exposures to spend, the confirming one included.
    depth_of_field_um : float, optional
        Where it is given, a peak must be of believable width.

    Returns
    -------
    Verdict
        As for `brent_focus`.

    Raises
    ------
    ValueError, LimitError, NotSubscribedError
        As for `brent_focus`; before anything moves.
    """
    check_positive("depth_of_field_um", depth_of_field_um)

    if positions_um is not None:
        if bounds_um is not None or range_um is not None:
            raise ValueError("positions_um say where to expose: give no bounds_um or range_um beside them")
        if budget < len(positions_um) + confirm:
            raise ValueError(
                f"budget {budget!r} does not suffice for {len(positions_um)} positions"
                + (" and the confirming exposure" if confirm else "")
            )
        bounds_um = (min(positions_um), max(positions_um))

    def search(bounds: tuple[float, float], exposures: int) -> Search:
        where = np.linspace(*bounds, exposures).tolist() if positions_um is None else list(positions_um)
        return sweep_search(where, depth_of_field_um=depth_of_field_um)

    return (
        yield from focus_by_search(
            detectors,
            axis,
            search,
            method="sweep",
            analysis=analysis,
            bounds_um=bounds_um,
            range_um=range_um,
            budget=budget,
            least_budget=LEAST_SWEEP_EXPOSURES,
            travel_um=travel_um,
            approach=approach,
            confirm=confirm,
            timeout_s=timeout_s,
            parameters={"depth_of_field_um": depth_of_field_um},
        )
    )
