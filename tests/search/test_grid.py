import itertools
import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from octaves import follow

from bluesky_autofocus.records import Reason
from bluesky_autofocus.search import LEAST_GRID_EXPOSURES, Sample, grid_search

DOF_UM = 2.0
fixed = settings(deadline=None, derandomize=True, max_examples=20)
foci = st.floats(-20, 20)
widths = st.floats(3 * DOF_UM, 8 * DOF_UM)


def searched(drive, curve, *, bounds_um=(-25.0, 25.0), exposures=14, **options):
    return drive(grid_search(bounds_um, exposures=exposures, depth_of_field_um=DOF_UM, **options), curve)


def gaussian(x, *, focus_um, fwhm_um):
    return 0.1 + math.exp(-4 * math.log(2) * ((x - focus_um) / fwhm_um) ** 2)


K = np.linspace(0.02, 1, 60)


def laplacian_energy(x, *, focus_um, fwhm_um):
    """Return the energy that a Gaussian blur leaves of a specimen with detail up to a cut-off."""
    blur = 3.2 * abs(x - focus_um) / fwhm_um
    return 0.1 + float(np.sum(K**2 * (1 - K) * np.exp(-((K * blur) ** 2))) / np.sum(K**2 * (1 - K)))


SHAPES = ("squared Lorentzian", "gaussian", "laplacian")


@pytest.fixture
def shape_of(peak):
    return dict(zip(SHAPES, (peak, gaussian, laplacian_energy), strict=True))


@pytest.fixture
def trials(drive):
    """Return a function that searches random curves: their errors in depths of field, nan where not found."""

    def run(make_curve, range_dof, *, noise=0.0, count=40, **options):
        rng = np.random.default_rng((int(range_dof), int(1000 * noise)))
        half_um = range_dof / 2 * DOF_UM
        errors, exposures = [], []
        for _ in range(count):
            focus_um = rng.uniform(-0.8, 0.8) * half_um
            curve = make_curve(rng, half_um, focus_um, rng.uniform(3, 8) * DOF_UM)
            asked, conclusion = searched(
                drive,
                lambda x, curve=curve: curve(x) + rng.normal(0, noise),
                bounds_um=(-half_um, half_um),
                **options,
            )
            errors.append((conclusion.position_um - focus_um) / DOF_UM)
            exposures.append(len(asked))
        return np.array(errors), np.array(exposures)

    return run


class TestManyCurves:
    """Peaks anywhere in ranges of many depths of field, and curves that have none."""

    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize(
        ("range_dof", "noise", "share", "most"),
        [
            (16, 0.0, 1.0, 10.0),
            (24, 0.02, 1.0, 13.0),
            (40, 0.0, 1.0, 13.5),
            (40, 0.05, 0.9, 14.0),
            (80, 0.02, 0.35, 14.0),
        ],
    )
    def test_one_peak(self, trials, shape_of, shape, range_dof, noise, share, most):
        def one_peak(rng, half_um, focus_um, fwhm_um):
            return lambda x: shape_of[shape](x, focus_um=focus_um, fwhm_um=fwhm_um)

        errors, exposures = trials(one_peak, range_dof, noise=noise)
        assert not (np.abs(errors) > 1).any(), "confident and wrong"
        assert np.isfinite(errors).mean() >= share
        assert exposures.mean() <= most

    @pytest.mark.parametrize("noise", [0.1, 0.3])
    @pytest.mark.parametrize("range_dof", [4, 16, 40])
    def test_much_noise(self, trials, peak, range_dof, noise):
        def one_peak(rng, half_um, focus_um, fwhm_um):
            return lambda x: peak(x, focus_um=focus_um, fwhm_um=fwhm_um)

        errors, _ = trials(one_peak, range_dof, noise=noise)
        assert not (np.abs(errors) > 1).any(), "confident and wrong"

    @pytest.mark.parametrize("range_dof", [4, 8])
    def test_narrow_ranges_widen(self, trials, peak, range_dof):
        def one_peak(rng, half_um, focus_um, fwhm_um):
            return lambda x: peak(x, focus_um=focus_um, fwhm_um=fwhm_um)

        errors, _ = trials(one_peak, range_dof, noise=0.01, outer_um=(-12 * DOF_UM, 12 * DOF_UM))
        assert (np.abs(errors) <= 1).mean() >= 0.95
        assert not (np.abs(errors) > 1).any()

    @pytest.mark.parametrize("range_dof", [24, 40, 80])
    def test_two_peaks(self, trials, peak, range_dof):
        """The higher one may be found, never the other."""

        def two_peaks(rng, half_um, focus_um, fwhm_um):
            fwhm_um = min(fwhm_um, 5 * DOF_UM)
            apart_um = math.copysign(rng.uniform(2, 3) * fwhm_um, -focus_um)
            height = rng.uniform(0.4, 0.95)
            return lambda x: (
                peak(x, focus_um=focus_um, fwhm_um=fwhm_um)
                + peak(x, focus_um=focus_um + apart_um, fwhm_um=fwhm_um, height=height)
            )

        errors, _ = trials(two_peaks, range_dof, noise=0.01)
        assert not (np.abs(errors) > 1).any(), "confident and wrong"

    @pytest.mark.parametrize("range_dof", [4, 16, 40])
    @pytest.mark.parametrize(
        ("curve", "reasons"),
        [
            (lambda x: 3.0, {Reason.FLAT}),
            (lambda x: 0.0, {Reason.FLAT}),
            (lambda x: 100.0 + x, {Reason.EDGE}),
            (lambda x: -x, {Reason.EDGE}),
            (lambda x: math.exp(x / 10), {Reason.EDGE}),
            (lambda x: math.tanh(-x / 5), {Reason.EDGE}),
            (lambda x: -1 / (1 + (x / 9) ** 2), set(Reason) - {Reason.FOUND}),
        ],
        ids=["constant", "zero", "up", "down", "steep", "step", "dip"],
    )
    def test_no_peak(self, drive, curve, reasons, range_dof):
        half_um = range_dof / 2 * DOF_UM
        asked, conclusion = searched(drive, curve, bounds_um=(-half_um, half_um))
        assert conclusion.reason in reasons
        assert math.isnan(conclusion.position_um)

    @pytest.mark.parametrize("range_dof", [4, 16, 40, 80])
    def test_nothing_but_noise(self, trials, range_dof):
        errors, _ = trials(lambda *_: lambda x: 1.0, range_dof, noise=0.05, count=30)
        assert np.isnan(errors).all()


class TestPositions:
    def test_the_grid_comes_first(self, drive, peak):
        asked, _ = searched(drive, peak, bounds_um=(-25, 25))
        spacings = [after - before for before, after in pairwise(asked[:10])]
        assert asked[0] == -25 and asked[9] == 25
        assert spacings == pytest.approx([50 / 9] * 9)

    def test_a_narrow_range_needs_few(self, drive, peak):
        asked, conclusion = searched(drive, peak, bounds_um=(-5, 12))
        assert conclusion.found
        assert len(asked) == LEAST_GRID_EXPOSURES

    def test_it_goes_on_until_it_is_precise(self, drive, peak):
        def spent(precision):
            rng = np.random.default_rng(1)
            return searched(drive, lambda x: peak(x) + rng.normal(0, 0.1), exposures=60, precision=precision)

        (few, rough), (many, fine) = spent(0.3), spent(0.05)
        assert len(few) < len(many) < 60
        assert fine.sigma_um < rough.sigma_um

    def test_beyond_the_edge(self, drive, peak):
        options = {"bounds_um": (-25.0, -5.0), "exposures": 20}
        asked, conclusion = searched(drive, peak, **options)
        assert conclusion.reason is Reason.EDGE and max(asked) <= -5
        asked, conclusion = searched(drive, peak, **options, outer_um=(-60.0, 20.0))
        assert conclusion.position_um == pytest.approx(3.0, abs=0.2 * DOF_UM)
        assert min(asked) == -25 and 3 < max(asked) <= 20

    def test_the_outer_limits_are_the_end(self, drive):
        asked, conclusion = searched(drive, lambda x: x, outer_um=(-90.0, 33.0), exposures=20)
        assert conclusion.reason is Reason.EDGE
        assert (min(asked), max(asked)) == (-25.0, 33.0)

    def test_a_disturbed_exposure_is_repeated_and_not_believed(self, drive, peak):
        seen = Counter()

        def disturbed(x):
            seen[x] += 1
            return peak(x) + (0.5 if x == -25.0 and seen[x] == 1 else 0.0)

        asked, conclusion = searched(drive, disturbed, exposures=18)
        assert asked.count(-25.0) == 2
        assert conclusion.position_um == pytest.approx(3.0, abs=0.5 * DOF_UM)

    def test_a_second_peak_that_is_there_twice_is_one(self, drive, peak):
        def two(x):
            return peak(x) + peak(x, focus_um=-19.0, height=0.5)

        assert searched(drive, two, exposures=18)[1].reason is Reason.SEVERAL_PEAKS

    def test_a_gap_that_could_hide_a_peak(self, drive, peak):
        _, conclusion = searched(drive, peak, bounds_um=(-150, 150))
        assert not conclusion.found
        asked, conclusion = searched(drive, peak, bounds_um=(-150, 150), exposures=40)
        assert conclusion.found
        assert max(np.diff(sorted(asked))) < 2 * 8


class TestLostFrames:
    """Exposures of these numbers give frames that cannot be used."""

    def of(self, curve, lost, *, exposures=14, **options):
        numbers = itertools.count()

        def sample_at(x):
            if next(numbers) in lost:
                return Sample(x, math.nan, reason=Reason.BLACK)
            return Sample(x, curve(x))

        options = {"exposures": exposures, "depth_of_field_um": DOF_UM, **options}
        return follow(grid_search((-25.0, 25.0), **options), sample_at)

    @pytest.mark.parametrize("lost", [(0,), (0, 1), (4, 9), (10, 12), (11, 12)])
    def test_are_taken_again(self, peak, lost):
        """In the grid or after it."""
        undisturbed, expected = self.of(peak, (), exposures=30)
        asked, conclusion = self.of(peak, lost, exposures=30)
        assert len(asked) == len(undisturbed) + len(lost) < 30
        assert [x for number, x in enumerate(asked) if number not in lost] == undisturbed
        assert conclusion == expected
        assert conclusion.position_um == pytest.approx(3.0, abs=0.5 * DOF_UM)

    def test_but_not_for_ever(self, peak):
        asked, conclusion = self.of(peak, range(99))
        assert (conclusion.reason, asked) == (Reason.BLACK, 3 * [-25.0])
        asked, conclusion = self.of(peak, range(5, 99), most_lost=0)
        assert (conclusion.reason, len(asked)) == (Reason.BLACK, 6)

    @pytest.mark.parametrize("exposures", [3, 5, 6, LEAST_GRID_EXPOSURES, 14])
    @pytest.mark.parametrize("lost", [(), (0,), (0, 1), (2, 4), (7,)])
    def test_count(self, peak, lost, exposures):
        asked, conclusion = self.of(lambda x: peak(x) + 0.2 * math.sin(9 * x), lost, exposures=exposures)
        assert len(asked) <= exposures
        if exposures < LEAST_GRID_EXPOSURES:
            assert not conclusion.found

    def test_the_last_one(self, peak):
        """Nothing is left to take it again with: what the others tell is concluded."""

        def rippled(x):
            return peak(x) + 0.01 * math.sin(9 * x)

        undisturbed, _ = self.of(rippled, (), precision=1e-4)
        asked, conclusion = self.of(rippled, (13,), precision=1e-4)
        assert len(asked) == 14 and asked == undisturbed
        assert conclusion.position_um == pytest.approx(3.0, abs=0.5 * DOF_UM)


curves = st.lists(st.floats(0, 100), min_size=12, max_size=12)


@given(curves, st.integers(LEAST_GRID_EXPOSURES, 25), st.floats(1, 300), st.floats(0, 50))
@fixed
def test_whatever_it_sees_it_keeps_to_limits_and_budget(drive, values, exposures, span, widen):
    at = np.linspace(-span / 2 - widen, span / 2 + widen, len(values))
    asked, conclusion = searched(
        drive,
        lambda x: float(np.interp(x, at, values)),
        bounds_um=(-span / 2, span / 2),
        exposures=exposures,
        outer_um=(-span / 2 - widen, span / 2 + widen),
    )
    assert len(asked) <= exposures
    assert all(at[0] <= x <= at[-1] for x in asked)
    assert not conclusion.found or (
        at[0] < conclusion.position_um < at[-1] and 0 < conclusion.sigma_um <= DOF_UM / 3
    )


@given(focus=foci, width=widths, exponent=st.integers(-12, 12), offset=st.floats(-100, 100))
@fixed
def test_neither_scale_nor_offset_of_the_score_matters(drive, peak, focus, width, exponent, offset):
    (asked, plain), (asked_other, other) = (
        searched(drive, lambda x, a=a, b=b: a * (peak(x, focus_um=focus, fwhm_um=width) + b))
        for a, b in ((1.0, 0.0), (2.0**exponent, offset))
    )
    assert other.reason is plain.reason
    # about the middle of a symmetric curve, rounding decides which side comes first
    assert sorted(asked_other) == pytest.approx(sorted(asked), abs=0.1 * DOF_UM)
    assert other.position_um == pytest.approx(plain.position_um, abs=0.01 * DOF_UM, nan_ok=True)


@given(focus=foci, width=widths, shift=st.floats(-1e4, 1e4))
@fixed
def test_a_mirrored_or_shifted_curve_gives_that_answer(drive, peak, focus, width, shift):
    assume(abs(focus) > 0.5)  # in the middle both sides tell as much, and either may be exposed first
    _, plain = searched(drive, lambda x: peak(x, focus_um=focus, fwhm_um=width))
    _, mirrored = searched(drive, lambda x: peak(-x, focus_um=focus, fwhm_um=width))
    _, shifted = searched(
        drive,
        lambda x: peak(x - shift, focus_um=focus, fwhm_um=width),
        bounds_um=(shift - 25, shift + 25),
    )
    assert plain.reason is mirrored.reason is shifted.reason
    assert -mirrored.position_um == pytest.approx(plain.position_um, abs=0.02 * DOF_UM, nan_ok=True)
    assert shifted.position_um - shift == pytest.approx(plain.position_um, abs=0.02 * DOF_UM, nan_ok=True)


def test_the_stated_uncertainty_holds(drive, peak):
    rng = np.random.default_rng(11)
    off = []
    for focus_um in np.linspace(-15, 15, 40):
        _, conclusion = searched(
            drive, lambda x, at=focus_um: peak(x, focus_um=at, fwhm_um=10) + rng.normal(0, 0.04)
        )
        if conclusion.found:
            off.append(abs(conclusion.position_um - focus_um) / conclusion.sigma_um)
    assert len(off) > 35
    assert np.mean(np.array(off) < 2) > 0.9
