"""Where focus is over a slide, by readings of which some are wrong; and how fast to go there."""

import math

import numpy as np
import pytest

from bluesky_autofocus.search import FocusTracker, TrackingLaw

STEP_UM = 25.0


def slide(x, y, tilt=2e-3, unevenness_um=1.0):
    return tilt * x - tilt / 2 * y + unevenness_um * math.sin(2 * math.pi * x / 2500 + 1) * math.cos(y / 500)


def raster(rows=3, length_um=3000.0, pitch_um=400.0):
    """Return places row by row, to and fro."""
    x = np.arange(0.0, length_um, STEP_UM)
    return [(one, row * pitch_um) for row in range(rows) for one in (x if row % 2 == 0 else x[::-1])]


def tracker_at(place=(0.0, 0.0), focus_um=0.0, **options):
    return FocusTracker(place, focus_um, 20.0, **options)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("tilt", [0.0, 2e-3, -6e-3])
def test_it_is_better_than_its_readings_and_says_how_good(seed, tilt):
    rng, sigma_um = np.random.default_rng(seed), 1.7
    tracker, errors, sigmas, ahead = tracker_at(), [], [], []
    for place in raster():
        truth = slide(*place, tilt=tilt)
        ahead.append(tracker.expected_um(place) - truth)
        assert tracker.take(place, truth + rng.normal(0, sigma_um), sigma_um) or errors
        errors.append(tracker.expected_um(place) - truth)
        sigmas.append(tracker.sigma_um)
    settled = slice(10, None)
    rms_um = np.sqrt(np.mean(np.square(errors[settled])))
    assert rms_um < 0.5 * sigma_um
    assert 0.5 < rms_um / np.mean(sigmas[settled]) < 1.5, "an honest uncertainty"
    assert np.abs(ahead[settled]).max() < 2.5


@pytest.mark.parametrize("wrong_um", [-15.0, 12.0, 100.0])
def test_single_wrong_readings_are_not_used(wrong_um):
    rng, tracker = np.random.default_rng(1), tracker_at()
    for number, place in enumerate(raster()):
        wrong = number % 7 == 6
        reading = slide(*place) + rng.normal(0, 0.7) + wrong * wrong_um
        used = tracker.take(place, reading, 1.0)
        assert not (wrong and used)
        assert number < 6 or abs(tracker.expected_um(place) - slide(*place)) < 1.5


def test_wrong_readings_to_either_side_are_no_jury():
    tracker = tracker_at()
    for number in range(20):
        tracker.take((number * STEP_UM, 0.0), 0.0, 0.5)
    assert not any(
        tracker.take((500.0 + number * STEP_UM, 0.0), 10.0 * (-1) ** number, 0.5) for number in range(12)
    )
    assert abs(tracker.expected_um((800.0, 0.0))) < 0.5


def test_several_that_say_the_same_are_believed():
    tracker = tracker_at()
    places = [(number * STEP_UM, 0.0) for number in range(40)]
    used = [tracker.take(place, 9.0 * (number >= 20), 0.5) for number, place in enumerate(places)]
    assert [number for number, one in enumerate(used) if not one] == [20, 21]
    assert tracker.expected_um(places[-1]) == pytest.approx(9.0, abs=0.3)


def test_where_nothing_is_seen_it_follows_the_plane_and_is_less_and_less_sure():
    tracker = tracker_at(patience=12)
    for number in range(60):
        place = (number * STEP_UM, 0.0)
        tracker.take(place, 4e-3 * place[0], 0.3)
    good_um, sigmas = tracker.last_good_um, []
    for number in range(60, 72):
        assert not tracker.lost
        place = (number * STEP_UM, 0.0)
        tracker.miss(place)
        sigmas.append(tracker.sigma_um)
        assert tracker.expected_um(place) == pytest.approx(4e-3 * place[0], abs=0.4)
    assert (np.diff(sigmas) > 0).all()
    assert tracker.lost and tracker.last_good_um == good_um
    assert tracker.take((1800.0, 0.0), 7.2, 0.3) and not tracker.lost
    assert tracker.slope == pytest.approx((4e-3, 0.0), abs=1e-3)


def test_nothing_happens_where_it_stands():
    tracker = tracker_at()
    for _ in range(5):
        tracker.take((0.0, 0.0), 3.0, 1.0)
    assert tracker.expected_um((0.0, 0.0)) == pytest.approx(3.0, abs=0.1)
    assert tracker.sigma_um == pytest.approx(1 / math.sqrt(5), rel=0.01)
    assert tracker.slope == (0.0, 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tilt_um_per_mm": 0.0}, "tilt_um_per_mm must be positive and finite, got 0.0"),
        ({"unevenness_um": math.nan}, "unevenness_um must be positive and finite, got nan"),
        ({"smooth_um": -1.0}, "smooth_um must be positive and finite, got -1.0"),
        ({"patience": 0}, "patience must be at least 1 frame, got 0"),
    ],
)
def test_bad_numbers(options, message):
    with pytest.raises(ValueError, match=message):
        tracker_at(**options)


class TestLaw:
    law = TrackingLaw(223.7, 6.0, reaction_s=0.1)

    def velocity(self, off_um, drift_um_s=0.0, below_um=50.0, above_um=50.0, frame_s=0.03):
        return self.law.velocity_um_s(
            off_um, drift_um_s=drift_um_s, below_um=below_um, above_um=above_um, frame_s=frame_s
        )

    def test_in_focus_it_goes_as_the_focus_does(self):
        assert self.velocity(0.0) == 0.0
        assert self.velocity(0.05, 3.0) == 3.0
        assert self.velocity(0.0, -3.0) == -3.0

    @pytest.mark.parametrize("off_um", [-20.0, -2.0, 2.0, 20.0])
    @pytest.mark.parametrize("frame_s", [0.01, 0.1])
    def test_out_of_focus_it_comes_nearer_and_not_past_it(self, off_um, frame_s):
        now_um = off_um
        for _ in range(100):
            before_um, now_um = now_um, now_um + frame_s * self.velocity(now_um, frame_s=frame_s)
            assert abs(now_um) <= abs(before_um) and now_um * off_um >= 0
        assert abs(now_um) <= 0.13

    def test_a_moving_focus_is_caught_up_with(self):
        off_um = 10.0
        for _ in range(100):
            off_um += 0.03 * (self.velocity(off_um, 5.0) - 5.0)
        assert abs(off_um) <= 0.13

    def test_it_is_never_too_fast_and_has_room(self):
        assert abs(self.velocity(500.0, -300.0, below_um=900.0, frame_s=0.01)) == 223.7
        assert self.velocity(10.0, below_um=1.0) == pytest.approx(-9.0)
        assert self.velocity(0.0, 50.0, above_um=0.0) == 0.0
        assert self.velocity(0.0, 50.0, above_um=1.0, frame_s=0.5) == pytest.approx(1.8)

    def test_bad_numbers(self):
        with pytest.raises(ValueError, match="gain must be at most 1, got 2.0"):
            TrackingLaw(1.0, 1.0, gain=2.0)


def test_a_place_or_a_reading_that_is_no_number_is_a_miss():
    tracker = FocusTracker((0.0, 0.0), 10.0, 1.0, patience=3)
    assert tracker.take((10.0, 0.0), 10.2, 0.1)
    for place, focus in (((math.nan, 0.0), 10.0), ((20.0, 0.0), math.nan), ((20.0, math.inf), 10.0)):
        assert not tracker.take(place, focus, 0.1)
    assert tracker.lost
    assert tracker.take((30.0, 0.0), 10.3, 0.1) and not tracker.lost
    assert tracker.expected_um((30.0, 0.0)) == pytest.approx(10.3, abs=0.1)
