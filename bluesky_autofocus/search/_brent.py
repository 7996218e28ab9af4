"""Brent's bounded method, and the doubts that its answer deserves."""

import math
from collections.abc import Callable, Generator
from typing import TypeAlias

from scipy.optimize import minimize_scalar

from bluesky_autofocus.records import Reason
from bluesky_autofocus.search._inverted import inverted
from bluesky_autofocus.search._peak import FocusCurve, judge
from bluesky_autofocus.search._samples import Conclusion, Sample, Search

__all__ = ["LEAST_BRENT_EXPOSURES", "ScalarSolver", "bounded_brent", "brent_search"]

LEAST_BRENT_EXPOSURES = 4

ScalarSolver: TypeAlias = Callable[[Callable[[float], float], tuple[float, float], float, int], float]
"""``solver(function, bounds, tolerance, evaluations) -> x``: any minimiser of one variable."""

SIDE_PROBES = 3
"""Exposures to find where the peak has fallen to half its height, on each side."""

SCOUTS = 4
"""Exposures in the largest gaps, where another peak may hide."""


def bounded_brent(
    function: Callable[[float], float], bounds: tuple[float, float], tolerance: float, evaluations: int
) -> float:
    """Minimise with SciPy's bounded Brent, in at most `evaluations` evaluations (but at least two)."""
    result = minimize_scalar(
        function, bounds=bounds, method="bounded", options={"xatol": tolerance, "maxiter": evaluations}
    )
    return float(result.x)


def reciprocal(score: float) -> float:
    """Return what is minimised: 1/score, and a large number where there is nothing to score.

    Raises
    ------
    ValueError
        For a negative score, as a logarithmic metric gives: its reciprocal does not fall with sharpness.
    """
    if score < 0:
        raise ValueError(f"Brent's method minimises 1/score, so scores must not be negative; got {score}")
    return 1.0 / score if score > 0 else 1e100


def brent_search(
    bounds_um: tuple[float, float],
    *,
    exposures: int,
    tolerance_um: float | None = None,
    depth_of_field_um: float | None = None,
    verify: bool = True,
    solver: ScalarSolver = bounded_brent,
) -> Search:
    """Minimise 1/score, then look for reasons not to believe the minimum.

    The first exposures are the solver's own, evaluation by evaluation. What the budget leaves then goes
    to the flanks of the peak and into the largest gaps of the range.

    Parameters
    ----------
    bounds_um : tuple of float
        Where to search.
    exposures : int
        Most exposures to ask for.
    tolerance_um : float, optional
        Given to the solver; by default half a depth of field, or 1/200 of the range.
    depth_of_field_um : float, optional
        See `judge`.
    verify : bool
        Whether to spend exposures on doubts.
    solver : ScalarSolver
        What minimises.
    """
    low_um, high_um = bounds_um
    if tolerance_um is None:
        tolerance_um = depth_of_field_um / 2 if depth_of_field_um else (high_um - low_um) / 200
    reserve = min(2 * SIDE_PROBES + SCOUTS, exposures - LEAST_BRENT_EXPOSURES) if verify else 0
    samples: list[Sample] = []

    solution_um = yield from _solved(solver, bounds_um, tolerance_um, exposures - reserve, samples)
    if not samples:  # a solver that asked for nothing
        return Conclusion(Reason.NOT_ENOUGH_POINTS)
    # where the axis stood, which need not be where the solver asked for
    solved = max(samples, key=lambda sample: sample.score)
    if verify:
        doubts = _doubts(samples, bounds_um)
        for position_um in doubts:
            if len(samples) >= exposures:
                break
            samples.append((yield position_um))
    conclusion = judge(samples, bounds_um=bounds_um, depth_of_field_um=depth_of_field_um, dense=False)
    if not conclusion.found:
        return conclusion
    if abs(FocusCurve.of(samples).best_um - solved.position_um) > max(tolerance_um, conclusion.sigma_um):
        # a check has seen a sharper place than the solver found: its answer is not the focus
        return Conclusion(Reason.SEVERAL_PEAKS)
    # The solver answers with its best sample; all samples together say more precisely where the peak is.
    return conclusion if verify else Conclusion(Reason.FOUND, solution_um, conclusion.sigma_um)


def _solved(
    solver: ScalarSolver,
    bounds_um: tuple[float, float],
    tolerance_um: float,
    evaluations: int,
    samples: list[Sample],
) -> Generator[float, Sample, float]:
    """Answer the solver with samples until it is done, or has used up its evaluations."""
    asked = inverted(lambda function: solver(function, bounds_um, tolerance_um, evaluations))
    try:
        position_um = next(asked)
        while len(samples) < evaluations:
            sample = yield position_um
            samples.append(sample)
            position_um = asked.send(reciprocal(sample.score))
    except StopIteration as end:
        return end.value
    finally:
        asked.close()
    # a solver that would go on asking is stopped at what it has
    return max(samples, key=lambda sample: sample.score).position_um


def _doubts(samples: list[Sample], bounds_um: tuple[float, float]) -> Generator[float, None, None]:
    """Yield where to look for reasons not to believe the highest of the samples so far.

    `samples` grows by one between two positions.
    """
    low_um, high_um = bounds_um
    for direction, end_um in ((-1, low_um), (1, high_um)):
        for _ in range(SIDE_PROBES):
            curve = FocusCurve.of(samples)
            peak_um = curve.best_um
            inside_um, outside_um = curve.side(direction)
            room_um = (end_um - peak_um) * direction  # less than nothing where noise reads it beyond the end
            if outside_um <= 2.5 * inside_um or room_um <= 0:
                break
            if math.isfinite(outside_um):
                probe_um = peak_um + direction * max(math.sqrt(inside_um * outside_um), outside_um / 4)
                yield min(max(probe_um, low_um), high_um)
            elif inside_um < room_um:
                yield end_um
            else:
                break
    for _ in range(SCOUTS):
        positions = [low_um, *FocusCurve.of(samples).positions_um.tolist(), high_um]
        gaps = [
            (above - below, (above + below) / 2)
            for below, above in zip(positions, positions[1:], strict=False)
        ]
        yield max(gaps)[1]
