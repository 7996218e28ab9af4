"""A search of a whole range: a few exposures far apart to find the valley, then some about the focus."""

import math

from bluesky.utils import MsgGenerator, plan

from bluesky_autofocus.plans._in_flight import ready_in_flight
from bluesky_autofocus.plans._moving import Approach, interval_um
from bluesky_autofocus.plans._operation import check_positive
from bluesky_autofocus.plans._protocols import Detectors, FocusAnalysis, FocusAxis
from bluesky_autofocus.plans._searching import InFlight, focus_by_search
from bluesky_autofocus.records import Verdict
from bluesky_autofocus.search import LEAST_OCTAVE_EXPOSURES, Search, octave_search

__all__ = ["search_focus"]


@plan
def search_focus(
    detectors: Detectors,
    axis: FocusAxis,
    *,
    analysis: FocusAnalysis,
    depth_of_field_um: float | None = None,
    bounds_um: tuple[float, float] | None = None,
    range_um: float | None = None,
    widen_um: float = 0.0,
    budget: int = 15,
    dose_budget_s: float | None = None,
    precision: float = 0.1,
    specks: bool = False,
    velocity_um_s: float | None = None,
    reaction_s: float = 0.2,
    confirm: bool = True,
    travel_um: tuple[float, float] | None = None,
    approach: Approach = Approach(),
    timeout_s: float = 30.0,
) -> MsgGenerator[Verdict]:
    """Focus by the contrast in several octaves of all exposures; a stub that opens no run.

    A few exposures far apart find the valley by the coarse octaves, some about the focus find it by the fine
    ones, to some hundredths of a depth of field. What one focus does not explain is looked at again, and
    octaves that contradict each other, as those of phase objects do, are not believed.

    In flight, with `velocity_um_s`, the valley is found by one run through the range, as `sweep_focus` makes
    it, in place of exposures far apart, and what is still in doubt is exposed at rest.

    Parameters
    ----------
    depth_of_field_um : float, optional
        Sets the scale of everything; a factor of two either way does not matter. By default a fortieth of the
        range.
    widen_um : float
        How far beyond the range, to either side, the search may go where focus lies there.
    budget : int
        Most exposures to spend, the confirming one included. 40 depths of field take seven or eight.
    precision : float
        The search stops when the standard uncertainty of the focus is less than this fraction of a depth of
        field.
    specks : bool
        Whether the specimen may be a few dark specks in an even field. By default a focus that shows nothing
        else is refused, since dust on a cover glass looks like that.
    analysis : FocusAnalysis
        `SharpnessAnalysis` measures the octaves. One that gives scores alone is searched by a grid, which
        takes twice the exposures.
    velocity_um_s, reaction_s : float, optional
        As for `sweep_focus`; the budget must suffice for the way. Coarse octaves are seen from afar, so a
        frame every five depths of field is enough.
    detectors, axis, dose_budget_s, bounds_um, range_um, confirm, travel_um, approach, timeout_s
        As for `brent_focus`.

    Returns
    -------
    Verdict
        As for `brent_focus`. In its parameters ``bounds_um`` is the range as widened to both sides.

    Raises
    ------
    ValueError, LimitError, NotSubscribedError
        As for `brent_focus`, in flight as for `sweep_focus`. The range, widened, must be within the limits of
        the axis.
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

    in_flight: InFlight | None = None
    if velocity_um_s is not None:
        in_flight = yield from ready_in_flight(
            axis,
            velocity_um_s,
            reaction_s,
            approach=approach,
            bounds_um=bounds_um,
            range_um=range_um,
            tell_all=True,
        )

    def search(outer: tuple[float, float], exposures: int) -> Search:
        inner = (outer[0] + widen_um, outer[1] - widen_um)
        return octave_search(
            inner if in_flight is None else outer,
            exposures=exposures,
            depth_of_field_um=depth_of_field_um,
            precision=precision,
            outer_um=outer,
            passing=0 if in_flight is None else approach.direction,
            specks=specks,
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
            least_budget=LEAST_OCTAVE_EXPOSURES,
            travel_um=travel_um,
            approach=approach,
            confirm=confirm,
            timeout_s=timeout_s,
            dose_budget_s=dose_budget_s,
            tell_all=True,
            parameters={
                "depth_of_field_um": depth_of_field_um,
                "widen_um": widen_um,
                "precision": precision,
                "specks": specks,
                "velocity_um_s": velocity_um_s,
                "reaction_s": reaction_s,
            },
            in_flight=in_flight,
        )
    )
