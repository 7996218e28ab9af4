"""When it is time to focus: pure decisions, told of exposures, times and places."""

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesky_autofocus.plans import EveryExposures, EverySeconds, Farther, Since, When
from bluesky_autofocus.plans._when import FocusDue


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
    ],
)
def test_bad_input(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_only_conditions_combine():
    with pytest.raises(TypeError):
        EveryExposures(3) | 3  # type: ignore[operator]
