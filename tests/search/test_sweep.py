import inspect
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bluesky_autofocus.records import Reason
from bluesky_autofocus.search import LEAST_SWEEP_EXPOSURES, Sample, passing_search, sweep_search

POSITIONS_UM = np.linspace(-40, 40, 33).tolist()
fixed = settings(deadline=None, derandomize=True, max_examples=50)


@given(
    st.lists(st.floats(-1e4, 1e4), min_size=LEAST_SWEEP_EXPOSURES, max_size=30, unique=True),
    st.floats(-1e4, 1e4),
)
@fixed
def test_asks_for_every_position_in_order(drive, peak, positions, focus):
    asked, conclusion = drive(sweep_search(positions), lambda x: peak(x, focus_um=focus, fwhm_um=100))
    assert asked == positions
    if conclusion.found:
        assert min(positions) < conclusion.position_um < max(positions)


@given(focus=st.floats(-25, 25), width=st.floats(6, 14))
@fixed
def test_finds_the_peak(drive, peak, focus, width):
    _, conclusion = drive(sweep_search(POSITIONS_UM), lambda x: peak(x, focus_um=focus, fwhm_um=width))
    assert conclusion.reason is Reason.FOUND
    assert conclusion.position_um == pytest.approx(focus, abs=0.1 * width)


@given(focus=st.floats(-25, 25), width=st.floats(6, 14))
@fixed
def test_downwards_it_finds_the_same(drive, peak, focus, width):
    def curve(x):
        return peak(x, focus_um=focus, fwhm_um=width)

    (asked, up), (asked_down, down) = (
        drive(sweep_search(positions), curve) for positions in (POSITIONS_UM, POSITIONS_UM[::-1])
    )
    assert asked_down == asked[::-1]
    assert down == up


@pytest.mark.parametrize(
    ("curve", "reason"),
    [
        (lambda x: 1.0, Reason.FLAT),
        (lambda x: 100.0 - x, Reason.EDGE),
        (lambda x: 1 / (1 + (x - 20) ** 2 / 30) + 1 / (1 + (x + 20) ** 2 / 30), Reason.SEVERAL_PEAKS),
    ],
)
def test_not_found(drive, curve, reason):
    asked, conclusion = drive(sweep_search(POSITIONS_UM), curve)
    assert asked == POSITIONS_UM
    assert conclusion.reason is reason


def test_is_a_generator():
    assert inspect.isgenerator(sweep_search(POSITIONS_UM))


class TestPassing:
    """Frames as they come on one way through the range."""

    @staticmethod
    def drive(search, curve, positions):
        """Return how many positions a search takes in, and what it concludes."""
        asked, taken = {next(search)}, 0
        try:
            while True:
                position_um, taken = positions[taken], taken + 1
                asked.add(search.send(Sample(position_um, curve(position_um))))
        except StopIteration as end:
            assert len(asked) == 1, "always the far end"
            return taken, end.value

    @pytest.mark.parametrize("direction", [1, -1])
    @given(
        focus=st.floats(-25, 25), width=st.floats(6, 14), spacing=st.floats(0.7, 2.0), start=st.floats(0, 1)
    )
    @fixed
    def test_finds_the_peak(self, peak, direction, focus, width, spacing, start):
        way = np.arange(-40 + start, 200, spacing)
        search = passing_search((-40.0, 40.0), 200, direction=direction)
        number, conclusion = self.drive(
            search, lambda x: peak(x, focus_um=focus, fwhm_um=width), direction * way
        )
        assert conclusion.reason is Reason.FOUND
        assert conclusion.position_um == pytest.approx(focus, abs=0.1 * width)
        assert abs(way[number - 1] - 40) <= spacing, "and goes no farther than it must"

    @pytest.mark.parametrize(
        ("positions", "exposures", "reason"),
        [
            (np.arange(-40, 60, 1.0), 50, Reason.NOT_CONVERGED),
            (np.zeros(60), 50, Reason.NOT_CONVERGED),
            (np.arange(-40, 80, 25.0), 50, Reason.NOT_ENOUGH_POINTS),
            (np.r_[np.arange(-40, -10, 1.0), np.arange(20, 60, 1.0)], 99, Reason.NOT_ENOUGH_POINTS),
            (np.full(60, math.nan), 50, Reason.NOT_CONVERGED),
        ],
    )
    def test_not_found(self, peak, positions, exposures, reason):
        search = passing_search((-40.0, 40.0), exposures)
        number, conclusion = self.drive(search, peak, positions)
        assert conclusion.reason is reason and number <= exposures

    def test_what_is_allowed_for_is_no_gap(self, peak):
        positions = np.r_[np.arange(-40, -20, 1.0), np.arange(-14, 60, 1.0)]
        for spacing_um, reason in ((0.0, Reason.NOT_ENOUGH_POINTS), (7.0, Reason.FOUND)):
            search = passing_search((-40.0, 40.0), 99, spacing_um=spacing_um)
            assert self.drive(search, peak, positions)[1].reason is reason

    def test_what_lies_outside_or_nowhere_does_not_count(self, peak):
        def curve(x):
            return 5.0 if not -40 <= x <= 40 else peak(x)

        positions = np.r_[np.arange(-45, -10, 1.0), math.nan, np.arange(-9, 60, 1.0)]
        _, conclusion = self.drive(passing_search((-40.0, 40.0), 99), curve, positions)
        assert conclusion.reason is Reason.FOUND
