import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bluesky_autofocus.records import Reason
from bluesky_autofocus.search import FocusCurve, Sample, judge

BOUNDS_UM = (-40.0, 40.0)
fixed = settings(deadline=None, derandomize=True, max_examples=100)
scores = st.lists(st.floats(0, 1e6), min_size=3, max_size=25)
foci = st.floats(-25, 25)
widths = st.floats(6, 14)


def sampled(curve, count=41, bounds=BOUNDS_UM) -> list[Sample]:
    return [Sample(float(x), float(curve(x))) for x in np.linspace(*bounds, count)]


def judged(samples, **options):
    return judge(samples, **{"bounds_um": BOUNDS_UM, "dense": True, **options})


class TestCurve:
    curve = FocusCurve.of([Sample(2.0, 5.0), Sample(0.0, 1.0), Sample(2.0, 7.0), Sample(1.0, 2.0)])

    def test_sorted_and_averaged(self):
        assert self.curve.positions_um.tolist() == [0.0, 1.0, 2.0]
        assert self.curve.scores.tolist() == [1.0, 2.0, 6.0]

    def test_highest(self):
        assert (self.curve.best, self.curve.best_um, self.curve.half_height) == (2, 2.0, 3.5)

    def test_sides(self):
        assert self.curve.side(-1) == (0.0, 1.0)
        assert self.curve.side(1) == (0.0, math.inf)

    def test_empty(self):
        assert len(FocusCurve.of([])) == 0

    @given(scores)
    @fixed
    def test_a_second_peak_is_a_fraction(self, values):
        curve = FocusCurve.of([Sample(float(i), value) for i, value in enumerate(values)])
        assert 0 <= curve.other_peak() <= 1 + 1e-9


@given(focus=foci, width=widths, floor=st.floats(0, 1))
@fixed
def test_a_clean_peak_is_found_where_it_is(peak, focus, width, floor):
    conclusion = judged(sampled(lambda x: peak(x, focus_um=focus, fwhm_um=width, floor=floor)))
    assert conclusion.reason is Reason.FOUND
    assert conclusion.position_um == pytest.approx(focus, abs=0.05 * width)


@given(focus=foci, width=widths, seed=st.integers(0, 1000))
@fixed
def test_a_noisy_peak_is_found_where_it_is(peak, focus, width, seed):
    noise = np.random.default_rng(seed)
    conclusion = judged(sampled(lambda x: peak(x, focus_um=focus, fwhm_um=width) + noise.normal(0, 0.01)))
    assert conclusion.reason is Reason.FOUND
    assert conclusion.position_um == pytest.approx(focus, abs=0.05 * width)
    assert 0 < conclusion.sigma_um < 0.1 * width


class TestNotFound:
    def test_flat(self):
        assert judged(sampled(lambda x: 3.0)).reason is Reason.FLAT

    def test_all_zero(self):
        assert judged(sampled(lambda x: 0.0)).reason is Reason.FLAT

    def test_hardly_any_contrast(self, peak):
        assert judged(sampled(lambda x: 100 + peak(x))).reason is Reason.FLAT

    def test_noise(self):
        noise = np.random.default_rng(5)
        reasons = {judged(sampled(lambda x: noise.uniform(0, 1))).reason for _ in range(100)}
        assert Reason.FOUND not in reasons

    @pytest.mark.parametrize("focus_um", [-40.0, 40.0, -60.0, 41.0])
    def test_edge(self, peak, focus_um):
        assert judged(sampled(lambda x: peak(x, focus_um=focus_um, fwhm_um=20))).reason is Reason.EDGE

    def test_slope(self):
        assert judged(sampled(lambda x: 50 + x)).reason is Reason.EDGE

    @pytest.mark.parametrize("height", [0.4, 0.7, 1.0])
    @pytest.mark.parametrize("other_um", [-20.0, 25.0])
    def test_two_peaks(self, peak, other_um, height):
        def curve(x):
            return peak(x) + peak(x, focus_um=other_um, height=height)

        assert judged(sampled(curve)).reason is Reason.SEVERAL_PEAKS

    def test_spike(self):
        conclusion = judged(
            sampled(lambda x: 1.0 + 0.02 * math.cos(x) + 9.0 * (abs(x - 4) < 0.5)), depth_of_field_um=10.0
        )
        assert conclusion.reason is Reason.SPIKE

    def test_wider_than_any_peak(self, peak):
        conclusion = judged(sampled(lambda x: peak(x, fwhm_um=30.0)), depth_of_field_um=0.5)
        assert conclusion.reason is Reason.POOR_FIT

    @pytest.mark.parametrize("count", [0, 1, 2])
    def test_too_few_points(self, peak, count):
        assert judged(sampled(peak, count)).reason is Reason.NOT_ENOUGH_POINTS

    def test_the_same_point_again_and_again(self):
        assert judged([Sample(1.0, 5.0)] * 10).reason is Reason.NOT_ENOUGH_POINTS


@given(scores, st.one_of(st.none(), st.floats(0.1, 20)), st.booleans())
@fixed
def test_whatever_the_scores_the_answer_is_well_formed(values, depth_of_field_um, dense):
    samples = [
        Sample(float(x), value) for x, value in zip(np.linspace(*BOUNDS_UM, len(values)), values, strict=True)
    ]
    conclusion = judged(samples, depth_of_field_um=depth_of_field_um, dense=dense)
    if conclusion.found:
        assert BOUNDS_UM[0] < conclusion.position_um < BOUNDS_UM[1]
        assert 0 <= conclusion.sigma_um < math.inf
    else:
        assert math.isnan(conclusion.position_um)
        assert math.isnan(conclusion.sigma_um)


@given(scores, st.integers(-30, 30))
@fixed
def test_the_scale_of_the_score_does_not_matter(values, exponent):
    assume(min((value for value in values if value), default=1) > 1e-200)  # no underflow
    positions = np.linspace(*BOUNDS_UM, len(values))
    answers = [
        judged([Sample(float(x), value * factor) for x, value in zip(positions, values, strict=True)])
        for factor in (1.0, 2.0**exponent)
    ]
    assert repr(answers[0]) == repr(answers[1])


@given(focus=foci, width=st.floats(1, 60), floor=st.floats(0, 30), seed=st.integers(0, 1000))
@fixed
def test_mirrored(peak, focus, width, floor, seed):
    noise = np.random.default_rng(seed)
    samples = sampled(
        lambda x: peak(x, focus_um=focus, fwhm_um=width, floor=floor) + noise.normal(0, 0.03), 21
    )
    mirrored = [Sample(-sample.position_um, sample.score) for sample in samples]
    one, other = judged(samples), judged(mirrored)
    assert one.reason is other.reason
    assert other.position_um == pytest.approx(-one.position_um, abs=0.01, nan_ok=True)


@given(focus=foci, width=widths, seed=st.integers(0, 1000))
@fixed
def test_the_order_of_the_samples_does_not_matter(peak, focus, width, seed):
    samples = sampled(lambda x: peak(x, focus_um=focus, fwhm_um=width))
    shuffled = list(np.random.default_rng(seed).permutation(np.array(samples, dtype=object)))
    assert judged(shuffled) == judged(samples)


def test_negative_scores_are_scores(peak):
    """A metric may be a logarithm."""
    conclusion = judged(sampled(lambda x: math.log(peak(x, floor=0.01)) - 10))
    assert conclusion.reason is Reason.FOUND
    assert conclusion.position_um == pytest.approx(3.0, abs=0.5)
