import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bluesky_autofocus.records import Reason
from bluesky_autofocus.search import LEAST_SWEEP_EXPOSURES, sweep_search

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
