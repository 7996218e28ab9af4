import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from bluesky_autofocus.records import Reason
from bluesky_autofocus.search import LEAST_BRENT_EXPOSURES, Sample, bounded_brent, brent_search

BOUNDS_UM = (-40.0, 50.0)
fixed = settings(deadline=None, derandomize=True, max_examples=100)
foci = st.floats(-20, 30)
budgets = st.integers(LEAST_BRENT_EXPOSURES, 40)


def scipy_asks(curve, *, bounds=BOUNDS_UM, tolerance_um=0.5, maxiter=500) -> list[float]:
    asked = []

    def reciprocal(x):
        asked.append(float(x))
        return 1 / curve(x)

    minimize_scalar(
        reciprocal, bounds=bounds, method="bounded", options={"xatol": tolerance_um, "maxiter": maxiter}
    )
    return asked


@given(focus=foci, width=st.floats(1, 60), tolerance=st.floats(0.01, 5), exposures=budgets)
@fixed
def test_it_is_scipy_evaluation_by_evaluation(drive, peak, focus, width, tolerance, exposures):
    def curve(x):
        return peak(x, focus_um=focus, fwhm_um=width)

    search = brent_search(BOUNDS_UM, exposures=exposures, tolerance_um=tolerance, verify=False)
    asked, _ = drive(search, curve)
    assert asked == scipy_asks(curve, tolerance_um=tolerance, maxiter=exposures)


@given(focus=foci, width=st.floats(3, 30), exposures=st.integers(20, 40))
@fixed
def test_the_checks_come_after(drive, peak, focus, width, exposures):
    def curve(x):
        return peak(x, focus_um=focus, fwhm_um=width)

    search = brent_search(BOUNDS_UM, exposures=exposures, tolerance_um=0.5)
    asked, _ = drive(search, curve)
    expected = scipy_asks(curve, tolerance_um=0.5)[: exposures - 10]
    assert asked[: len(expected)] == expected
    assert len(asked) > len(expected)


@given(
    st.lists(st.floats(0, 100), min_size=41, max_size=41),
    budgets,
    st.booleans(),
    st.one_of(st.none(), st.floats(0.1, 20)),
)
@fixed
def test_whatever_it_sees_it_keeps_to_bounds_and_budget(drive, values, exposures, verify, depth_of_field):
    grid = np.linspace(*BOUNDS_UM, len(values))
    search = brent_search(BOUNDS_UM, exposures=exposures, verify=verify, depth_of_field_um=depth_of_field)
    asked, conclusion = drive(search, lambda x: float(np.interp(x, grid, values)))
    assert len(asked) <= exposures
    assert all(BOUNDS_UM[0] <= x <= BOUNDS_UM[1] for x in asked)
    assert not conclusion.found or BOUNDS_UM[0] <= conclusion.position_um <= BOUNDS_UM[1]


@given(
    low=st.floats(-1e5, 1e5),
    span=st.floats(1, 1e4),
    focus=st.floats(0, 1),
    width=st.floats(0.02, 2),
    exposures=budgets,
)
@fixed
def test_never_asks_outside_any_bounds(drive, peak, low, span, focus, width, exposures):
    bounds = (low, low + span)
    asked, _ = drive(
        brent_search(bounds, exposures=exposures),
        lambda x: peak(x, focus_um=low + focus * span, fwhm_um=width * span),
    )
    assert all(bounds[0] <= x <= bounds[1] for x in asked)


@given(focus=foci, width=st.floats(4, 12), exposures=st.integers(22, 40))
@fixed
def test_what_it_finds_of_one_clean_peak_is_right(drive, peak, focus, width, exposures):
    asked, conclusion = drive(
        brent_search(BOUNDS_UM, exposures=exposures, depth_of_field_um=width / 3),
        lambda x: peak(x, focus_um=focus, fwhm_um=width),
    )
    assert not conclusion.found or conclusion.position_um == pytest.approx(focus, abs=width / 3)


@pytest.mark.parametrize("focus_um", [-15.0, 0.0, 7.3, 20.0])
def test_finds_a_clean_peak(drive, peak, focus_um):
    _, conclusion = drive(
        brent_search(BOUNDS_UM, exposures=22, depth_of_field_um=3.0), lambda x: peak(x, focus_um=focus_um)
    )
    assert conclusion.reason is Reason.FOUND
    assert conclusion.position_um == pytest.approx(focus_um, abs=1.0)
    assert 0 < conclusion.sigma_um < 3.0


@given(focus=foci, width=st.floats(4, 30), exponent=st.integers(-20, 20))
@fixed
def test_the_scale_of_the_score_does_not_matter(drive, peak, focus, width, exponent):
    answers = [
        drive(
            brent_search(BOUNDS_UM, exposures=20),
            lambda x, scale=scale: scale * peak(x, focus_um=focus, fwhm_um=width),
        )
        for scale in (1.0, 2.0**exponent)
    ]
    assert repr(answers[0]) == repr(answers[1])


@given(focus=foci, width=st.floats(4, 30))
@fixed
def test_a_shifted_axis_shifts_the_answer(drive, peak, focus, width):
    answers = [
        drive(
            brent_search((BOUNDS_UM[0] + shift, BOUNDS_UM[1] + shift), exposures=20),
            lambda x, shift=shift: peak(x, focus_um=focus + shift, fwhm_um=width),
        )[1]
        for shift in (0.0, 128.0)
    ]
    assert answers[0].reason is answers[1].reason
    assert answers[1].position_um - 128 == pytest.approx(answers[0].position_um, abs=0.1, nan_ok=True)


@pytest.mark.parametrize("focus_um", [-15.0, -3.3, 4.0, 12.5, 20.0])
def test_a_mirrored_curve_gives_the_mirrored_answer(drive, peak, focus_um):
    """Only to within its uncertainty: the golden section starts from one side."""
    answers = [
        drive(
            brent_search((-45, 45), exposures=22, depth_of_field_um=3.0),
            lambda x, sign=sign: peak(x, focus_um=sign * focus_um),
        )[1]
        for sign in (1, -1)
    ]
    assert [answer.reason for answer in answers] == [Reason.FOUND] * 2
    assert answers[0].position_um == pytest.approx(-answers[1].position_um, abs=1.0)


@pytest.mark.parametrize(
    ("curve", "reasons"),
    [
        (lambda x: 2.0, {Reason.FLAT}),
        (lambda x: 0.0, {Reason.FLAT}),
        (lambda x: 100.0 + x, {Reason.EDGE}),
        (lambda x: 100.0 - x, {Reason.EDGE}),
        (
            lambda x: 1 / (1 + ((x - 25) / 5) ** 2) + 0.9 / (1 + ((x + 15) / 5) ** 2),
            {Reason.SEVERAL_PEAKS},
        ),
        # a spike the search never hits is no focus, whatever the curve then is called
        (lambda x: 1.0 + 50 * (abs(x - 3.21) < 0.01), {Reason.FLAT}),
    ],
)
def test_not_found(drive, curve, reasons):
    asked, conclusion = drive(brent_search(BOUNDS_UM, exposures=22, depth_of_field_um=3.0), curve)
    assert conclusion.reason in reasons
    assert math.isnan(conclusion.position_um)
    assert len(asked) <= 22


def test_a_spike_that_it_hits(drive):
    first = scipy_asks(lambda x: 1.0)[0]
    _, conclusion = drive(
        brent_search(BOUNDS_UM, exposures=22, depth_of_field_um=3.0),
        lambda x: 1.0 + 0.01 * math.sin(x) + 50 * (abs(x - first) < 0.01),
    )
    assert not conclusion.found


class TestSolvers:
    def test_of_your_own(self, drive, peak):
        seen = []

        def solver(function, bounds, tolerance, evaluations):
            seen.append((bounds, tolerance, evaluations))
            return min((-10.0, 2.9, 15.0, 30.0), key=function)

        search = brent_search(BOUNDS_UM, exposures=6, tolerance_um=1.5, verify=False, solver=solver)
        asked, conclusion = drive(search, peak)
        assert asked == [-10.0, 2.9, 15.0, 30.0]
        assert seen == [(BOUNDS_UM, 1.5, 6)]

    def test_one_that_never_ends_is_stopped_at_the_budget(self, drive, peak):
        def endless(function, bounds, tolerance, evaluations):
            x = bounds[0]
            while True:
                function(x := x + 0.37)

        asked, _ = drive(brent_search(BOUNDS_UM, exposures=9, verify=False, solver=endless), peak)
        assert len(asked) == 9

    def test_one_that_asks_nothing(self, drive, peak):
        _, conclusion = drive(brent_search(BOUNDS_UM, exposures=9, verify=False, solver=lambda *_: 0.0), peak)
        assert conclusion.reason is Reason.NOT_ENOUGH_POINTS

    def test_one_that_fails(self, drive, peak):
        def failing(function, *_):
            function(0.0)
            raise ArithmeticError("of the solver")

        with pytest.raises(ArithmeticError, match="of the solver"):
            drive(brent_search(BOUNDS_UM, exposures=9, solver=failing), peak)

    def test_bounded_brent_is_scipys(self):
        expected = minimize_scalar(
            math.cos, bounds=(0, 6), method="bounded", options={"xatol": 1e-3, "maxiter": 50}
        )
        assert bounded_brent(math.cos, (0, 6), 1e-3, 50) == expected.x


def noisy_drive(search, curve, rng, sigma_um):
    """Let the axis come to stand a little off from where it was sent."""
    asked = []
    try:
        position_um = next(search)
        while True:
            asked.append(position_um)
            stands_um = position_um + rng.normal(0, sigma_um)
            position_um = search.send(Sample(stands_um, curve(stands_um)))
    except StopIteration as end:
        return asked, end.value


@given(seed=st.integers(0, 10_000), focus=st.floats(-60, 70), width=st.floats(3, 60))
@fixed
def test_an_axis_that_is_not_exact_does_not_lead_it_out_of_the_bounds(peak, seed, focus, width):
    asked, _ = noisy_drive(
        brent_search(BOUNDS_UM, exposures=25),
        lambda x: peak(x, focus_um=focus, fwhm_um=width),
        np.random.default_rng(seed),
        0.05,
    )
    assert all(BOUNDS_UM[0] <= x <= BOUNDS_UM[1] for x in asked)
