"""Is there room for another frame?"""

import math

import pytest

from bluesky_autofocus.search import Passage


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("frame_s", [0.01, 0.07, 0.2])
def test_it_stops_within_its_range_and_not_too_soon(direction, frame_s):
    speed, end_um = 50.0, direction * 100.0
    passage = Passage(direction * speed, end_um, reaction_s=0.2)
    at_um = 0.0
    while passage.goes_on(at_um):
        assert passage.left_s(at_um) >= frame_s, "there is time for the frame"
        at_um += direction * speed * frame_s
    assert 0 <= passage.room_um(at_um) < 2 * speed * frame_s + 1e-9


def test_until_it_is_seen_a_frame_takes_as_long_as_it_may():
    passage = Passage(100.0, 30.0, reaction_s=0.2)
    assert passage.longest_s == 0.2
    assert not passage.goes_on(0.0)
    passage = Passage(100.0, 50.0, reaction_s=0.2)
    assert passage.goes_on(0.0) and passage.goes_on(1.0)
    assert passage.longest_s == pytest.approx(0.01)
    assert passage.goes_on(47.0) is False, "the longest one counts"
    assert passage.longest_s == pytest.approx(0.46)


def test_a_way_back_is_no_frame():
    passage = Passage(10.0, 100.0)
    passage.goes_on(0.0)
    passage.goes_on(1.0)
    passage.interrupted()
    passage.goes_on(60.0)
    assert passage.longest_s == pytest.approx(0.1)


def test_past_its_end_there_is_no_room():
    passage = Passage(-10.0, 0.0)
    assert not passage.goes_on(-5.0)
    assert (passage.room_um(-5.0), passage.left_s(-5.0)) == (-5.0, 0.0)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0.0, 1.0), "velocity_um_s must be finite and not zero, got 0.0"),
        ((math.inf, 1.0), "velocity_um_s must be finite and not zero, got inf"),
        ((1.0, math.nan), "end_um must be finite, got nan"),
        ((1.0, 1.0, 0.0), "reaction_s must be positive and finite, got 0.0"),
    ],
)
def test_bad_numbers(numbers, message):
    with pytest.raises(ValueError, match=message):
        Passage(*numbers)
