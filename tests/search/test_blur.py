import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesky_autofocus.search import BlurTrigger


def test_the_first_frame_asks_for_focusing():
    assert BlurTrigger().wants_focus(0.001, now_s=0.0)


def test_a_sharp_frame_does_not():
    assert not BlurTrigger(baseline=10.0).wants_focus(9.0, now_s=0.0)


def test_hysteresis():
    trigger = BlurTrigger(baseline=10.0, blurred_below=0.6, sharp_above=0.8)
    scores = [10.0, 7.0, 6.0, 5.9, 7.0, 7.9, 8.0, 7.0, 5.0]
    wanted = [trigger.wants_focus(score, 0.0) for score in scores]
    assert wanted == [False, False, False, True, True, True, False, False, True]


def test_focusing_sets_the_baseline():
    trigger = BlurTrigger()
    trigger.wants_focus(1.0, 0.0)
    trigger.focused(4.0, 1.0)
    assert trigger.baseline == 4.0
    assert not trigger.blurred
    assert not trigger.wants_focus(3.0, 2.0)
    assert trigger.wants_focus(2.0, 2.0)


def test_failing_to_focus_keeps_the_baseline_and_the_blur():
    trigger = BlurTrigger(baseline=10.0)
    assert trigger.wants_focus(1.0, 0.0)
    trigger.focused(None, 1.0)
    assert trigger.baseline == 10.0
    assert trigger.blurred


@pytest.mark.parametrize("score", [None, 5.0])
def test_least_interval(score):
    trigger = BlurTrigger(baseline=10.0, min_interval_s=60.0)
    assert trigger.wants_focus(1.0, now_s=100.0)
    trigger.focused(score, now_s=110.0)
    assert not trigger.wants_focus(1.0, now_s=169.9)
    assert trigger.blurred
    assert trigger.wants_focus(1.0, now_s=170.0)


def test_a_score_that_is_not_a_number_is_blurred():
    assert BlurTrigger(baseline=1.0).wants_focus(math.nan, 0.0)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"blurred_below": 0.9, "sharp_above": 0.8}, "0.9"),
        ({"blurred_below": 0.0}, "0.0"),
        ({"blurred_below": math.nan}, "nan"),
        ({"sharp_above": 1.1}, "1.1"),
        ({"min_interval_s": -1.0}, "-1.0"),
        ({"min_interval_s": math.nan}, "nan"),
        ({"baseline": 0.0}, "0.0"),
        ({"baseline": -2.0}, "-2.0"),
        ({"baseline": math.inf}, "inf"),
    ],
)
def test_bad_input(options, named):
    with pytest.raises(ValueError, match=named):
        BlurTrigger(**options)


@given(st.lists(st.floats(0, 20), max_size=30), st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_follows_a_schmitt_trigger_and_no_scale(scores, one, other):
    below, above = sorted((one, other))
    trigger, scaled = (BlurTrigger(b, blurred_below=below, sharp_above=above) for b in (8.0, 8.0 * 1024))
    blurred = False
    for score in scores:
        blurred = score < 8.0 * (above if blurred else below)
        assert trigger.wants_focus(score, 0.0) is blurred
        assert scaled.wants_focus(score * 1024, 0.0) is blurred
