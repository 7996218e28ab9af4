"""When it is time to focus: pure decisions, told of exposures, times and places."""

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesky_autofocus.callbacks import SharpnessAnalysis
from bluesky_autofocus.plans import (
    Blurred,
    EveryExposures,
    EverySeconds,
    Farther,
    Since,
    Uncertain,
    When,
)
from bluesky_autofocus.plans._when import FocusDue
from bluesky_autofocus.prediction import Predicted


class Axis:
    def __init__(self, name):
        self.name = name


X, Y = Axis("x"), Axis("y")


def at(x, y=0.0):
    return {X: x, Y: y}


def focused_before(when, exposures, *, found=lambda number: True):
    """Return before which of these exposures, each a time and a place, it is time to focus, and why."""
    due, reasons = FocusDue(when), {}
    for number, (now_s, at_um) in enumerate(exposures, 1):
        if why := due.why(now_s, at_um):
            reasons[number] = why
            due.focused(found(number), now_s, at_um)
        due.exposed()
    return reasons


def at_places(*xs):
    return [(0.0, at(x)) for x in xs]


def at_times(*times):
    return [(time, at(0.0)) for time in times]


@given(st.integers(1, 9), st.integers(0, 40))
def test_every_so_many_exposures(number, exposures):
    reasons = focused_before(EveryExposures(number), at_times(*[0.0] * exposures))
    assert list(reasons) == list(range(1, exposures + 1, number))


def test_why():
    when = EveryExposures(2) | EverySeconds(60) | Farther(100, [X])
    places = [(0.0, at(0.0)), (1.0, at(0.0)), (2.0, at(0.0)), (3.0, at(123.4)), (80.0, at(0.0))]
    assert focused_before(when, places) == {
        1: "not focused yet",
        3: "2 exposures",
        4: "moved 123.4 um",
        5: "77 s, moved 123.4 um",
    }


@pytest.mark.parametrize("found", [True, False])
def test_every_so_many_seconds_since_the_last_attempt(found):
    reasons = focused_before(EverySeconds(60), at_times(5, 64.9, 65, 124, 500), found=lambda number: found)
    assert list(reasons) == [1, 3, 5]


def test_farther_than_from_where_it_was_found():
    assert list(focused_before(Farther(100, [X]), at_places(0, 60, 100, 101, 1.0, 0.9, -100))) == [1, 4, 6, 7]


def test_distance_in_the_plane():
    places = [(0.0, at(0, 0)), (0.0, at(60, 60)), (0.0, at(60, 90))]
    assert list(focused_before(Farther(100, (X, Y)), places)) == [1, 3]
    assert list(focused_before(Farther(100, [X]) | Farther(100, [Y]), places)) == [1]


def test_an_empty_field_does_not_cost_a_search_at_each_neighbour():
    """Nor does the way back to where focus was found."""
    places = at_places(0, 150, 160, 240, 251, 20, 352)
    assert list(focused_before(Farther(100, [X]), places, found=lambda number: number == 1)) == [1, 2, 5, 7]


def test_never_found():
    assert list(focused_before(Farther(100, [X]), at_places(0, 0, 150), found=lambda number: False)) == [1, 3]


def test_a_position_that_is_not_a_number_is_far_away():
    assert list(focused_before(Farther(100, [X]), at_places(0, math.nan))) == [1, 2]


def test_forgotten():
    due = FocusDue(EveryExposures(10))
    due.focused(True, 0.0, at(0.0))
    assert not due.why(0.0, at(0.0))
    due.forget()
    assert due.why(0.0, at(0.0)) == "not focused yet"


SHARPNESS = SharpnessAnalysis()


def blurred_before(when, scores, *, found=lambda number: True, step_s=10.0):
    """Return before which exposures to focus, by the scores of those before, from 1."""
    due, reasons = FocusDue(when), {}
    for number, score in enumerate([*scores, 0.0], 1):
        now_s = step_s * number
        if why := due.why(now_s, at(0.0)):
            reasons[number] = why
            due.focused(found(number), now_s, at(0.0))
        due.exposed()
        due.scored(SHARPNESS, score)
    return reasons


class TestBlurred:
    def test_below_a_fraction_of_the_first_frame(self):
        """Noticed by one frame, focused before the next; the frame after that is the new baseline."""
        reasons = blurred_before(Blurred(SHARPNESS), [10.0, 9.0, 7.6, 7.4, 6.0, 5.9, 4.6, 4.4])
        assert reasons == {
            1: "not focused yet",
            5: "blurred: 0.74 of the baseline",
            9: "blurred: 0.73 of the baseline",
        }

    def test_a_frame_that_cannot_be_used_does_not_count(self):
        scores = [math.nan, 10.0, math.nan, 9.0, math.nan, 5.0, math.nan]
        assert list(blurred_before(Blurred(SHARPNESS), scores)) == [1, 7]

    def test_focus_that_is_not_found(self):
        """The baseline remains, and so does the blur: no sooner than the interval allows."""
        when = Blurred(SHARPNESS, min_interval_s=30.0)
        reasons = blurred_before(when, [10.0, *[5.0] * 8], found=lambda number: number == 1)
        assert list(reasons) == [1, 4, 7, 10]

    def test_focus_that_was_never_found(self):
        reasons = blurred_before(
            Blurred(SHARPNESS, min_interval_s=20.0), [1.0] * 4, found=lambda number: False
        )
        assert reasons == {1: "not focused yet", 3: "never found", 5: "never found"}

    def test_between_the_thresholds_a_blurred_frame_stays_blurred(self):
        when = Blurred(SHARPNESS, blurred_below=0.5, sharp_above=0.9, min_interval_s=45.0)
        found = {"found": lambda number: number == 1}
        assert list(blurred_before(when, [10.0, 4.0, 8.0, 8.0, 8.0, 8.0], **found)) == [1, 6]
        assert list(blurred_before(when, [10.0, 4.0, 9.5, 8.0, 8.0, 8.0], **found)) == [1]

    def test_each_analysis_has_scores_of_its_own(self):
        other = SharpnessAnalysis(name="other")
        due = FocusDue(Blurred(SHARPNESS) | Blurred(other))
        due.focused(True, 0.0, at(0.0))
        for one, score in ((SHARPNESS, 10.0), (other, 1.0), (SHARPNESS, 9.0), (other, 0.5)):
            due.scored(one, score)
        assert due.why(1.0, at(0.0)) == "blurred: 0.5 of the baseline"
        assert list(due.when.analyses) == [SHARPNESS, other]

    def test_forgotten(self):
        due = FocusDue(Blurred(SHARPNESS))
        due.focused(True, 0.0, at(0.0))
        due.scored(SHARPNESS, 10.0)
        due.forget()
        due.scored(SHARPNESS, 1.0)
        due.focused(True, 0.0, at(0.0))
        due.scored(SHARPNESS, 10.0)
        assert due.why(1.0, at(0.0)) == ""


class TestUncertain:
    WHEN = Uncertain(0.5, depth_of_field_um=2.0, min_interval_s=60.0)

    @pytest.mark.parametrize(
        ("predicted", "off_um", "why"),
        [
            (Predicted(5.0, 0.99), 0.0, ""),
            (Predicted(5.0, 1.01), 0.0, "uncertain by 1.01 um"),
            (Predicted(5.0, 0.6), 0.79, ""),
            (Predicted(5.0, 0.6), -0.81, "uncertain by 1.01 um"),
            (Predicted(5.0, 0.6), math.nan, "uncertain by nan um"),
            (Predicted.refused("nothing observed"), 0.0, "no prediction"),
            (None, 0.0, "no prediction"),
        ],
    )
    def test_by_the_error_that_is_to_be_expected(self, predicted, off_um, why):
        due = FocusDue(self.WHEN)
        due.focused(True, 0.0, at(0.0))
        assert due.why(100.0, at(0.0), predicted, off_um) == why
        assert due.why(59.0, at(0.0), predicted, off_um) == ""

    def test_it_says_that_it_needs_a_prediction(self):
        assert self.WHEN.foresees and (EveryExposures(3) | self.WHEN).foresees
        assert not (EveryExposures(3) | EverySeconds(4)).foresees


def test_the_measured_conditions_are_recorded():
    when = Blurred(SHARPNESS, 0.6) | Uncertain(0.3, 2.0)
    assert when.parameters == [
        {"blurred_below": 0.6, "sharp_above": 0.9, "min_interval_s": 0.0, "analysis": "sharpness"},
        {"uncertain": 0.3, "depth_of_field_um": 2.0, "min_interval_s": 0.0},
    ]


def test_the_conditions_are_recorded():
    when = EveryExposures(10) | EverySeconds(60) | Farther(100, [X, Y]) | Farther(5, [X])
    assert when.parameters == [
        {"exposures": 10},
        {"seconds": 60.0},
        {"farther_um": 100.0, "axes": ["x", "y"]},
        {"farther_um": 5.0, "axes": ["x"]},
    ]
    assert list(when.axes) == [X, Y]


def test_a_condition_of_your_own():
    class Even(When):
        parameters = [{"even": True}]

        def why(self, since: Since) -> str:
            return "even" if since.exposures % 2 == 0 else ""

    assert list(focused_before(Even() | EveryExposures(5), at_times(*range(6)))) == [1, 3, 5]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        *((lambda n=n: EveryExposures(n), repr(n)) for n in (0, -1, 2.0, "3")),
        *((lambda t=t: EverySeconds(t), repr(t)) for t in (0.0, -1.0, math.nan, math.inf)),
        *((lambda um=um: Farther(um, [X]), repr(um)) for um in (0.0, -1.0, math.nan, math.inf)),
        (lambda: Farther(10.0), r"\(\)"),
        (lambda: Farther(10.0, []), r"\[\]"),
        (lambda: Farther(10.0, "xy"), "'xy'"),
        (lambda: Farther(10.0, SimpleNamespace(name="x")), "name='x'"),
        (lambda: Blurred("sharpness"), "an analysis of the plan's frames, got 'sharpness'"),
        (lambda: Blurred(SHARPNESS, blurred_below=0.95), "0.95 and 0.9"),
        (lambda: Blurred(SHARPNESS, min_interval_s=-1.0), "-1.0"),
        (lambda: Uncertain(0.0, 2.0), r"fraction must be positive and finite, got 0\.0"),
        (lambda: Uncertain(0.3, math.nan), "depth_of_field_um must be positive and finite, got nan"),
        (lambda: Uncertain(0.3, 2.0, -5.0), "-5.0"),
    ],
)
def test_bad_input(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_only_conditions_combine():
    with pytest.raises(TypeError):
        EveryExposures(3) | 3  # type: ignore[operator]
