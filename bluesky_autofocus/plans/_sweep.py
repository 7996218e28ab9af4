"""A full sweep along the focus axis."""

from collections.abc import Sequence

import numpy as np
from bluesky.utils import MsgGenerator, plan

from bluesky_autofocus.plans._in_flight import ready_in_flight
from bluesky_autofocus.plans._moving import Approach
from bluesky_autofocus.plans._operation import check_positive
from bluesky_autofocus.plans._protocols import Detectors, FocusAnalysis, FocusAxis
from bluesky_autofocus.plans._searching import InFlight, focus_by_search
from bluesky_autofocus.records import Verdict
from bluesky_autofocus.search import LEAST_SWEEP_EXPOSURES, Search, passing_search, sweep_search

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
    velocity_um_s: float | None = None,
    reaction_s: float = 0.2,
    budget: int = 22,
    dose_budget_s: float | None = None,
    depth_of_field_um: float | None = None,
    confirm: bool = True,
    travel_um: tuple[float, float] | None = None,
    approach: Approach = Approach(),
    timeout_s: float = 30.0,
) -> MsgGenerator[Verdict]:
    """Focus by looking everywhere; a stub that opens no run.

    Exposures are spread evenly over the range, one of the budget is kept for confirming. It costs more
    than a search and misses no peak wider than its spacing.

    In flight, with `velocity_um_s`, there is one motion in place of many: the axis runs through the range at
    constant velocity while frame after frame is exposed, each placed where it was taken (by the times in
    its Event, ``*_camera_time_s`` and ``AXIS_time_s``). The spacing is what it goes while one frame is
    exposed, transferred and analysed: choose a velocity that leaves several frames within the peak.

    Parameters
    ----------
    detectors, axis, analysis, bounds_um, range_um, dose_budget_s, confirm, travel_um, approach, timeout_s
        As for `brent_focus`.
    positions_um : sequence of float, optional
        Instead of bounds or a range: where to expose. The budget then only has to suffice.
    velocity_um_s : float, optional
        At which to sweep in flight. The axis must be a `RunningAxis`. It runs the way in which positions are
        approached, and stops where another frame might take it out of `travel_um`.
    reaction_s : float
        In flight: longest time from frame to frame. If one takes longer the axis stops, and goes back to
        where it was. It cannot where an analysis holds up the RunEngine itself: give one that takes its time
        an executor.
    budget : int
        Exposures to spend, the confirming one included; in flight the most. Where they do not suffice for the
        way, the verdict is ``not_converged``; where the camera was too slow for 5 of them, or left a gap,
        it is ``not_enough_points``.
    depth_of_field_um : float, optional
        Where it is given, a peak must be of believable width.

    Returns
    -------
    Verdict
        As for `brent_focus`.

    Raises
    ------
    ValueError, LimitError, NotSubscribedError
        As for `brent_focus`; in flight also for an axis that cannot run, or not that fast, and for a velocity
        that leaves fewer than 5 frames `reaction_s` apart; before anything moves.
    """
    check_positive("depth_of_field_um", depth_of_field_um)
    if positions_um is not None:
        if bounds_um is not None or range_um is not None:
            raise ValueError("positions_um say where to expose: give no bounds_um or range_um beside them")
        if velocity_um_s is not None:
            raise ValueError(
                "in flight frames are taken as they come: give no positions_um with velocity_um_s"
            )
        if budget < len(positions_um) + confirm:
            raise ValueError(
                f"budget {budget!r} does not suffice for {len(positions_um)} positions"
                + (" and the confirming exposure" if confirm else "")
            )
        bounds_um = (min(positions_um), max(positions_um))

    def search(bounds: tuple[float, float], exposures: int) -> Search:
        where = np.linspace(*bounds, exposures).tolist() if positions_um is None else list(positions_um)
        return sweep_search(where, depth_of_field_um=depth_of_field_um)

    def search_in_flight(bounds: tuple[float, float], exposures: int) -> Search:
        return passing_search(
            bounds,
            exposures,
            spacing_um=(velocity_um_s or 0.0) * reaction_s,
            direction=approach.direction,
            depth_of_field_um=depth_of_field_um,
        )

    in_flight: InFlight | None = None
    if velocity_um_s is not None:
        in_flight = yield from ready_in_flight(
            axis, velocity_um_s, reaction_s, approach=approach, bounds_um=bounds_um, range_um=range_um
        )

    return (
        yield from focus_by_search(
            detectors,
            axis,
            search if in_flight is None else search_in_flight,
            method="sweep",
            analysis=analysis,
            bounds_um=bounds_um,
            range_um=range_um,
            budget=budget,
            least_budget=max(LEAST_SWEEP_EXPOSURES, len(positions_um or ())),
            travel_um=travel_um,
            approach=approach,
            confirm=confirm,
            timeout_s=timeout_s,
            dose_budget_s=dose_budget_s,
            parameters={
                "depth_of_field_um": depth_of_field_um,
                "velocity_um_s": velocity_um_s,
                "reaction_s": reaction_s,
            },
            in_flight=in_flight,
        )
    )
