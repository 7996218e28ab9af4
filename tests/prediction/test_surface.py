"""Focus over the stage by a few places: against other programs, how honest it is, and what it refuses."""

import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bluesky_autofocus.prediction import (
    LEAST_POINTS,
    Deviations,
    FocusPoint,
    FocusSurface,
)
from bluesky_autofocus.prediction._deviations import weigh
from bluesky_autofocus.prediction._frame import Frame
from bluesky_autofocus.prediction._kriging import Kriging
from bluesky_autofocus.prediction._outline import Outline
from bluesky_autofocus.simulation.uneven import uneven_focus

KINDS = tuple(LEAST_POINTS)
ALONG_UM = np.linspace(0, 3000, 15)
PLACES_UM = np.stack(np.meshgrid(ALONG_UM, ALONG_UM), axis=-1).reshape(-1, 2)
SIGMA_UM = 0.1


def tilted(x_um, y_um):
    return 12.0 + 3e-3 * x_um - 1e-3 * y_um


def points_on(height, n=16, *, seed=0, sigma_um=SIGMA_UM):
    """Return points at random over 2 mm."""
    rng = np.random.default_rng(seed)
    return [
        FocusPoint(x, y, height(x, y) + rng.normal(0, sigma_um), sigma_um)
        for x, y in rng.uniform(0, 2000, (n, 2)).tolist()
    ]


def dusty(points, *indices, by_um=20.0):
    return [
        dataclasses.replace(point, focus_um=point.focus_um + by_um) if index in indices else point
        for index, point in enumerate(points)
    ]


class TestAgainstOtherPrograms:
    @pytest.fixture
    def numbers(self):
        rng = np.random.default_rng(4)
        places, heights = rng.uniform(-1, 1, (15, 2)), rng.normal(size=15)
        return places, heights, rng.uniform(0.1, 0.4, 15), rng.uniform(-1.2, 1.2, (30, 2))

    def test_a_thin_plate_is_that_of_scipy(self, numbers):
        from scipy.interpolate import RBFInterpolator

        places, heights, sigmas, elsewhere = numbers
        mean, _ = Kriging("thin_plate", places, heights, sigmas, [Deviations(1.0, 0.8, 0.0, 1.0)]).predict(
            elsewhere
        )
        plate = RBFInterpolator(
            places, heights, kernel="thin_plate_spline", smoothing=sigmas**2 * 0.55 / 0.8**2
        )
        assert mean == pytest.approx(plate(elsewhere), abs=1e-9)

    def test_a_gaussian_process_is_that_of_scikit_learn(self, numbers):
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel

        places, heights, sigmas, elsewhere = numbers
        plane = ConstantKernel(1e5) * DotProduct(1.0)  # as good as unknown
        deviations = ConstantKernel(0.8 * 0.64) * Matern(0.7, nu=2.5) + WhiteKernel(0.2 * 0.64)
        theirs = GaussianProcessRegressor(plane + deviations, alpha=sigmas**2, optimizer=None)
        expected = theirs.fit(places, heights).predict(elsewhere, return_std=True)
        ours = Kriging("gaussian_process", places, heights, sigmas, [Deviations(1.0, 0.8, 0.2, 0.7)])
        assert np.array(ours.predict(elsewhere)) == pytest.approx(np.array(expected), abs=1e-4)

    def test_the_likelihood_is_theirs_but_for_a_constant(self, numbers):
        """Of lengths, given all the rest: the weights of hypotheses."""
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel

        places, heights, sigmas, _ = numbers
        believed, _ = weigh("gaussian_process", places, 3 * heights, sigmas, 1.0)
        size, rough = believed[0].deviation_um, believed[0].rough
        alike = [one for one in believed if (one.deviation_um, one.rough) == (size, rough)]
        assert len(alike) > 1
        likelihoods = []
        for one in alike:
            kernel = (
                ConstantKernel(1e6) * DotProduct(1.0)
                + ConstantKernel((1 - rough) * size**2) * Matern(one.length, nu=2.5)
                + WhiteKernel(rough * size**2)
            )
            theirs = GaussianProcessRegressor(kernel, alpha=sigmas**2, optimizer=None)
            likelihoods.append(theirs.fit(places, 3 * heights).log_marginal_likelihood_value_)
        weights = np.log([one.weight for one in alike])
        assert weights - weights[0] == pytest.approx(np.array(likelihoods) - likelihoods[0], abs=1e-3)

    @pytest.mark.parametrize("kind", KINDS)
    def test_each_point_is_left_out(self, numbers, kind):
        places, heights, sigmas, _ = numbers
        _, surprises = weigh(kind, places, heights, sigmas, 1.0)
        for index in (0, 7, 14):
            others = np.arange(15) != index
            rest = places[others], heights[others], sigmas[others]
            mean, deviation = Kriging(kind, *rest, weigh(kind, *rest, 1.0)[0]).predict(places[~others])
            off = (heights[index] - mean[0]) / math.hypot(deviation[0], sigmas[index])
            # but for hypotheses that weigh next to nothing
            assert surprises[index] == pytest.approx(off, rel=0.05, abs=0.02)


class TestHonesty:
    """Two stated standard deviations hold the truth 95 times of 100, at tiles that were not focused."""

    @staticmethod
    def errors(kind, shape, n, seeds=16):
        z = []
        for seed in range(seeds):
            rng = np.random.default_rng((seed, n))
            focus_um = uneven_focus(shape, PLACES_UM, rng)
            focused = rng.permutation(len(PLACES_UM))[:n]
            points = [
                FocusPoint(*PLACES_UM[tile], focus_um[tile] + rng.normal(0, 0.2), 0.2) for tile in focused
            ]
            surface = FocusSurface.fit(points, kind=kind)
            others = np.delete(np.arange(len(PLACES_UM)), focused)
            inside = [tile for tile in others if surface.outside_um(*PLACES_UM[tile]) == 0]
            position_um, sigma_um = surface.estimate(*PLACES_UM[inside].T)
            z.append((focus_um[inside] - position_um) / sigma_um)
        return np.concatenate(z)

    @pytest.mark.parametrize(
        ("kind", "shape", "n", "least"),
        [
            ("gaussian_process", "waves", 14, 0.93),
            ("gaussian_process", "rough", 14, 0.93),
            ("gaussian_process", "bowl", 9, 0.95),
            ("gaussian_process", "flat", 9, 0.95),
            ("thin_plate", "waves", 14, 0.91),
            ("thin_plate", "bowl", 9, 0.95),
            ("plane", "flat", 6, 0.95),
            ("plane", "waves", 14, 0.91),
            # few points must not be fitted too well
            ("gaussian_process", "waves", 6, 0.9),
            ("gaussian_process", "rough", 5, 0.9),
        ],
    )
    def test_coverage(self, kind, shape, n, least):
        assert np.mean(np.abs(self.errors(kind, shape, n)) <= 2) >= least

    def test_more_points_make_it_surer(self):
        def middle(n):
            return FocusSurface.fit(points_on(tilted, n)).predict(1000.0, 1000.0)

        few, many = middle(6), middle(60)
        assert many.sigma_um < few.sigma_um / 2
        assert many.position_um == pytest.approx(tilted(1000, 1000), abs=0.1)

    @pytest.mark.parametrize("kind", KINDS)
    def test_an_uncertain_point_counts_for_less(self, kind):
        points = points_on(tilted, 12)
        off = dataclasses.replace(points[0], focus_um=points[0].focus_um + 3, sigma_um=50.0)
        without, with_it = (
            FocusSurface.fit(some, kind=kind).predict(1000.0, 1000.0).position_um
            for some in (points[1:], [off, *points[1:]])
        )
        assert with_it == pytest.approx(without, abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
class TestSurface:
    def test_of_a_plane(self, kind):
        surface = FocusSurface.fit(points_on(tilted), kind=kind)
        for x, y in ((500.0, 700.0), (1400.0, 900.0)):
            predicted = surface.predict(x, y)
            assert predicted.known and predicted.reason == ""
            assert predicted.position_um == pytest.approx(tilted(x, y), abs=0.2)
            assert 0.02 < predicted.sigma_um < 0.3
        assert surface.rejected == ()
        assert surface.deviation_um < 0.25

    def test_it_does_not_matter_where_and_how_large_all_is(self, kind):
        small = points_on(tilted)
        large = [
            FocusPoint(1e6 + 50 * p.x_um, -2e5 + 50 * p.y_um, 9e3 + p.focus_um, p.sigma_um) for p in small
        ]
        here = FocusSurface.fit(small, kind=kind).predict(800.0, 900.0)
        there = FocusSurface.fit(large, kind=kind).predict(1e6 + 50 * 800.0, -2e5 + 50 * 900.0)
        assert there.position_um - 9e3 == pytest.approx(here.position_um, abs=1e-6)
        assert there.sigma_um == pytest.approx(here.sigma_um, rel=1e-6)

    def test_one_outlier(self, kind):
        points = dusty(points_on(tilted), 5)
        surface = FocusSurface.fit(points, kind=kind)
        assert surface.rejected == (5,)
        assert surface.points == tuple(points)
        assert points[5] not in surface.used and len(surface.used) == 15
        assert surface.predict(800.0, 900.0).position_um == pytest.approx(tilted(800, 900), abs=0.2)

    def test_outliers_that_hide_behind_each_other(self, kind):
        points = dusty(dusty(points_on(tilted, 20), 2, 9, 11), 4, by_um=-12.0)
        assert FocusSurface.fit(points, kind=kind).rejected == (2, 4, 9, 11)

    def test_where_more_than_a_third_do_not_fit_it_is_uncertain(self, kind):
        rng = np.random.default_rng(1)
        points = points_on(lambda x, y: rng.uniform(-20, 20), 15)
        surface = FocusSurface.fit(points, kind=kind)
        assert len(surface.rejected) <= 5
        assert surface.predict(1000.0, 1000.0).sigma_um > 3

    def test_too_few_points(self, kind):
        least = LEAST_POINTS[kind]
        points = points_on(tilted, least - 1)
        message = f"kind '{kind}' needs points at {least} different places or more, got {least - 1}"
        with pytest.raises(ValueError, match=message):
            FocusSurface.fit(points, kind=kind)
        with pytest.raises(ValueError, match=f"got {least - 1}"):
            FocusSurface.fit(points * 3, kind=kind)
        assert FocusSurface.fit(points_on(tilted, least), kind=kind).predict(1000.0, 1000.0)

    def test_points_on_one_line(self, kind):
        with pytest.raises(ValueError, match="8 points on one line tell nothing of the surface beside it"):
            FocusSurface.fit([FocusPoint(x, 2 * x, 1.0, 0.1) for x in range(8)], kind=kind)

    def test_a_place_that_was_focused_again_and_again(self, kind):
        points = points_on(tilted, 12)
        again = [dataclasses.replace(points[0], focus_um=points[0].focus_um + off) for off in (-0.1, 0.1)]
        surface = FocusSurface.fit([*points, *again], kind=kind)
        assert surface.rejected == ()

    def test_for_the_record(self, kind):
        surface = FocusSurface.fit(dusty(points_on(tilted), 3), kind=kind, margin_um=77.0)
        saved = json.loads(json.dumps(surface.to_dict(), allow_nan=False))
        again = FocusSurface.from_dict(saved)
        for place in ((300.0, 300.0), (1900.0, 100.0), (9e9, 0.0)):
            assert repr(again.predict(*place)) == repr(surface.predict(*place))
        assert (again.kind, again.points, again.rejected, again.believed, again.margin_um) == (
            *(surface.kind, surface.points, surface.rejected, surface.believed),
            77.0,
        )
        assert again.to_dict() == surface.to_dict()
        assert sum(one["weight"] for one in saved["believed"]) == pytest.approx(1)

    def test_a_picture(self, kind):
        from matplotlib import pyplot

        surface = FocusSurface.fit(dusty(points_on(tilted), 3), kind=kind)
        try:
            ax = surface.plot()
            assert (ax.get_xlabel(), ax.get_ylabel()) == ("x (um)", "y (um)")
            focused, outliers = ax.get_lines()
            assert (len(focused.get_xdata()), len(outliers.get_xdata())) == (15, 1)
            drawn = ax.collections[0].get_array()
            assert drawn.mask.any() and not drawn.mask.all()
            low, high = (tilted(0, 2000), tilted(2000, 0))
            assert low - 1 < drawn.min() < drawn.max() < high + 1
            assert surface.plot(ax) is ax
        finally:
            pyplot.close("all")


class TestExtrapolation:
    @pytest.fixture
    def surface(self):
        corners = [(0.0, 0.0), (1000.0, 0.0), (0.0, 1000.0), (1000.0, 1000.0), (500.0, 500.0)]
        points = [FocusPoint(x, y, tilted(x, y), SIGMA_UM) for x, y in corners]
        return FocusSurface.fit(points, kind="thin_plate")

    @pytest.mark.parametrize("place", [(-90.0, 500.0), (1090.0, 0.0), (1060.0, 1060.0), (10.0, 990.0)])
    def test_within_a_tenth_of_the_extent(self, surface, place):
        predicted = surface.predict(*place)
        assert predicted.known
        assert predicted.sigma_um > surface.predict(500.0, 400.0).sigma_um

    @pytest.mark.parametrize(
        ("place", "outside"),
        [((-101.0, 500.0), "101"), ((1080.0, 1080.0), "113.1"), ((500.0, 4000.0), "3000")],
    )
    def test_refused_farther_outside(self, surface, place, outside):
        predicted = surface.predict(*place)
        assert not predicted.known and math.isnan(predicted.position_um)
        assert predicted.reason == (
            f"{outside} um outside of the places where focus was found: the surface is believed up to "
            "100 um from them"
        )

    def test_no_place(self, surface):
        assert surface.predict(math.nan, 0.0).reason == "(nan, 0) um is no place of the stage"

    def test_an_outlier_does_not_widen_it(self):
        points = points_on(tilted)
        far = FocusPoint(9000.0, 9000.0, 500.0, SIGMA_UM)
        surface = FocusSurface.fit([*points, far], kind="plane")
        assert surface.rejected == (16,)
        assert not surface.predict(8000.0, 8000.0).known

    def test_no_margin(self, surface):
        without = FocusSurface.fit(surface.points, kind="plane", margin_um=0.0)
        assert without.predict(1000.0, 500.0).known
        assert not without.predict(1000.1, 500.0).known

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 2**31), st.floats(-3, 3), st.floats(-3, 3))
    def test_the_distance_is_to_the_nearest_point_of_the_hull(self, seed, x, y):
        rng = np.random.default_rng(seed)
        places = rng.uniform(-1, 1, (6, 2))
        corners = Outline(places).corners
        along = np.linspace(0, 1, 2001)[:, None]
        rim = np.concatenate(
            [a + along * (b - a) for a, b in zip(corners, np.roll(corners, -1, 0), strict=True)]
        )
        nearest = np.linalg.norm(rim - (x, y), axis=1).min()
        distance = Outline(places).distance(np.array([x, y]))
        assert distance == pytest.approx(nearest, abs=2e-3) or distance == 0
        # inside if all triangles with the corners turn the same way
        (edge_x, edge_y), (to_x, to_y) = (np.roll(corners, -1, 0) - corners).T, (np.array([x, y]) - corners).T
        turns = edge_x * to_y - edge_y * to_x
        assert (distance == 0) == bool((turns >= 0).all()) or nearest < 1e-9


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"kind": "spline"}, "plane, thin_plate, gaussian_process, got 'spline'"),
            ({"unevenness_um": 0.0}, r"unevenness_um must be positive and finite, got 0\.0"),
            ({"margin_um": -1.0}, r"margin_um must be finite and not negative, got -1\.0"),
        ],
    )
    def test_options(self, options, named):
        with pytest.raises(ValueError, match=named):
            FocusSurface.fit(points_on(tilted), **options)

    @pytest.mark.parametrize(
        ("numbers", "named"),
        [
            ((math.nan, 0.0, 0.0, 0.1), "x_um must be finite, got nan"),
            ((0.0, 0.0, math.inf, 0.1), "focus_um must be finite, got inf"),
            ((0.0, 0.0, 0.0, 0.0), r"sigma_um must be positive, got 0\.0"),
        ],
    )
    def test_points(self, numbers, named):
        with pytest.raises(ValueError, match=named):
            FocusPoint(*numbers)

    def test_a_specimen_that_does_not_exist(self):
        with pytest.raises(ValueError, match="got 'square'"):
            uneven_focus("square", PLACES_UM, np.random.default_rng(0))

    def test_another_format(self):
        with pytest.raises(ValueError, match="got the format 'poem'"):
            FocusSurface.from_dict({"format": "poem"})

    def test_it_cannot_be_changed(self):
        surface = FocusSurface.fit(points_on(tilted), kind="plane")
        with pytest.raises(dataclasses.FrozenInstanceError):
            surface.margin_um = 1e9  # type: ignore[misc]

    def test_without_scikit_learn(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "sklearn.gaussian_process.kernels", None)
        with pytest.raises(ImportError, match=r"pip install bluesky-autofocus\[prediction\]"):
            FocusSurface.fit(points_on(tilted))
        for kind in ("plane", "thin_plate"):
            assert FocusSurface.fit(points_on(tilted), kind=kind).predict(1000.0, 1000.0).known


@pytest.mark.parametrize("kind", ["thin_plate", "gaussian_process"])
def test_a_specimen_that_is_bent_is_not_rough_for_that(kind):
    """Between tiles where focus was found it is known well, however much the specimen falls off."""
    places = [(1e3 * column, 1e3 * row) for row in range(7) for column in range(7)]
    points = [FocusPoint(x, y, -1e-6 * (x**2 + y**2), 0.1) for x, y in places]
    predicted = FocusSurface.fit(points, kind=kind).predict(2500.0, 3500.0)
    assert predicted.position_um == pytest.approx(-18.5, abs=0.3)
    assert predicted.sigma_um < 0.6


def test_through_one_more_point():
    """By what was learnt it is nearly the surface that is fitted anew, and outliers stay out."""
    points = dusty(points_on(tilted, 20), 3)
    surface = FocusSurface.fit(points[:-1])
    through, fitted = surface.through(points, surface.rejected), FocusSurface.fit(points)
    assert through.rejected == fitted.rejected == (3,)
    assert through.believed == surface.believed
    at_um = through.predict(900.0, 700.0).position_um
    assert at_um == pytest.approx(fitted.predict(900.0, 700.0).position_um, abs=0.05)


def test_heights_are_measured_from_their_median():
    frame = Frame([FocusPoint(x, y, 100.0 + x, 0.1) for x, y in ((0, 0), (10, 0), (0, 10), (10, 10))])
    places, heights_um, _ = frame.standardised
    assert (frame.middle_um, frame.extent_um) == (105.0, 10.0)
    assert places.tolist() == [[-1, -1], [1, -1], [-1, 1], [1, 1]]
    assert heights_um.tolist() == [-5, 5, -5, 5]


def test_light_to_import():
    code = "import bluesky_autofocus.prediction, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert not {"sklearn", "matplotlib", "scipy", "bluesky"} & set(run.stdout.split())
