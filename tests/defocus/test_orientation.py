import math

import numpy as np
import pytest

from bluesky_autofocus.defocus.orientation import find_circles, led_direction, parallax
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.records import Reason
from bluesky_autofocus.simulation import AbbeImageFormation, LightCamera, specimen

OPTICS = LightOptics()
FORMATION = AbbeImageFormation(OPTICS, (384, 384))


def fields(kind, seed):
    return FORMATION.view(specimen(kind, seed, FORMATION))


@pytest.fixture(scope="module")
def cells():
    return fields("cells", 3)


@pytest.fixture(scope="module")
def take(cells):
    """Return a function that takes frames under LEDs at (NA, angle), and tells the true directions.

    The simulation rounds directions to what is periodic over its field.
    """
    rng = np.random.default_rng(1)
    camera = LightCamera()

    def take(leds, planes_um, view=cells, exposure=1.0):
        directions = [(na * math.cos(math.radians(a)), na * math.sin(math.radians(a))) for na, a in leds]
        frames = camera.frame(view.intensity(directions, planes_um) / len(leds), rng, exposure)
        rows, columns = FORMATION._shift_of(directions[0])
        step_y, step_x = (OPTICS.wavelength_um * step for step in FORMATION.step_per_um)
        return frames, np.array([columns * step_x, rows * step_y])

    return take


def turned_deg(x, y, truth):
    """Return the angle between two directions."""
    return math.degrees(math.remainder(math.atan2(y, x) - math.atan2(truth[1], truth[0]), 2 * math.pi))


@pytest.mark.parametrize("kind", ["cells", "tissue"])
@pytest.mark.parametrize(("na", "angle", "z"), [(0.4, 200, -12), (0.3, 75, 4), (0.45, 310, 16)])
def test_direction_with_its_sign(take, cells, kind, na, angle, z):
    view = cells if kind == "cells" else fields(kind, 4)
    (low, high), truth = take([(na, angle)], [z, z + 10], view)
    circles = find_circles(low, OPTICS)
    assert circles.accepted and 0 <= circles.angle_deg < 180
    assert circles.na == pytest.approx(np.hypot(*truth), abs=0.008)  # from one frame
    found = led_direction(low, high, OPTICS, span_um=10)
    assert found.accepted and found.reason is Reason.OK
    assert math.hypot(found.na_x, found.na_y) == pytest.approx(np.hypot(*truth), abs=0.005)
    assert abs(turned_deg(found.na_x, found.na_y, truth)) < 0.5
    assert found.distance_um == pytest.approx(10, abs=0.5)


def test_the_image_goes_aside_by_the_tangent(take):
    (low, high), truth = take([(0.4, 90)], [-5, 5])
    seen = parallax(low, high, find_circles(low, OPTICS), OPTICS, span_um=10)
    assert seen.displacement_um == pytest.approx((0, 10 * math.tan(math.asin(np.hypot(*truth)))), abs=0.3)
    back = parallax(high, low, find_circles(low, OPTICS), OPTICS, span_um=10)
    assert back.displacement_um[1] == pytest.approx(-seen.displacement_um[1])


def test_an_axis_that_runs_the_other_way(take):
    """The frames are those of light from opposite: only the declared sign tells them apart."""
    (low, high), truth = take([(0.4, 30)], [0, 10])
    right = led_direction(high, low, OPTICS, span_um=10, axis_sign=-1)
    wrong = led_direction(high, low, OPTICS, span_um=10)
    assert abs(turned_deg(right.na_x, right.na_y, truth)) < 0.5
    assert (wrong.na_x, wrong.na_y) == pytest.approx((-right.na_x, -right.na_y))


def test_a_wrong_span_shows(take):
    (low, high), _ = take([(0.4, 30)], [0, 10])
    assert led_direction(low, high, OPTICS, span_um=7).distance_um == pytest.approx(10, abs=0.5)


def test_frames_that_are_no_square_and_larger_than_a_tile():
    formation = AbbeImageFormation(OPTICS, (300, 700))
    view = formation.view(specimen("cells", 6, formation))
    frames = LightCamera().frame(view.intensity([(0.4, 0.0)], [2.0, 12.0]), np.random.default_rng(0))
    found = led_direction(*frames, OPTICS, span_um=10)
    assert (found.na_x, found.na_y) == pytest.approx((0.4, 0), abs=0.006)


class TestRefused:
    def test_no_specimen(self, take):
        (low, high), _ = take([(0.4, 0)], [0, 10], fields("empty", 0))
        assert find_circles(low, OPTICS).reason is Reason.EMPTY
        found = led_direction(low, high, OPTICS, span_um=10)
        assert not found.accepted and found.reason is Reason.EMPTY and math.isnan(found.na_x)

    @pytest.mark.parametrize("na", [0.52, 0.55, 0.6])
    @pytest.mark.parametrize("exposure", [1.0, 20.0])
    def test_darkfield(self, take, na, exposure):
        (frame,), _ = take([(na, 40)], [3], exposure=exposure)
        found = find_circles(frame, OPTICS)
        assert not found.accepted and math.isnan(found.na)
        assert found.reason in (Reason.UNFAMILIAR, Reason.EMPTY)

    @pytest.mark.parametrize("leds", [[(0.4, 0), (0.4, 90)], [(0.0, 0)]])
    def test_no_single_off_axis_led(self, take, leds):
        (frame,), _ = take(leds, [3])
        assert find_circles(frame, OPTICS).reason is Reason.UNFAMILIAR

    def test_noise(self):
        frame = np.random.default_rng(0).poisson(1000, (256, 256))
        assert find_circles(frame, OPTICS).reason is Reason.EMPTY

    @pytest.mark.parametrize(
        ("value", "reason"), [(0, Reason.UNIFORM), (7, Reason.UNIFORM), (math.nan, Reason.NOT_FINITE)]
    )
    def test_no_image(self, value, reason):
        assert find_circles(np.full((128, 128), value, float), OPTICS).reason is reason

    def test_an_axis_that_does_not_move(self, take):
        (low, high), _ = take([(0.4, 0)], [3, 3])
        found = led_direction(low, high, OPTICS, span_um=10)
        assert not found.accepted and found.reason is Reason.UNCERTAIN

    def test_frames_of_different_fields(self, take):
        (low,), _ = take([(0.4, 0)], [0])
        (high,), _ = take([(0.4, 0)], [10], fields("cells", 9))
        assert not led_direction(low, high, OPTICS, span_um=10).accepted


class TestBadInput:
    def test_shapes(self):
        with pytest.raises(ValueError, match=r"shape \(32, 32\)"):
            find_circles(np.ones((32, 32)), OPTICS)
        with pytest.raises(ValueError, match="expected"):
            find_circles(np.ones(64), OPTICS)

    def test_numbers(self, take):
        (low, high), _ = take([(0.4, 0)], [0, 10])
        with pytest.raises(ValueError, match="span_um is 0"):
            led_direction(low, high, OPTICS, span_um=0)
        with pytest.raises(ValueError, match="axis_sign is 2"):
            led_direction(low, high, OPTICS, span_um=10, axis_sign=2)
        nothing = find_circles(np.ones((64, 64)), OPTICS)
        with pytest.raises(ValueError, match="no circles"):
            parallax(low, high, nothing, OPTICS, span_um=10)
