"""Regions of a frame, in pixels and as fractions."""

import numpy as np
import pytest

from bluesky_autofocus.sharpness import check_region, cut_out

FRAME = np.arange(100 * 200).reshape(100, 200)


@pytest.mark.parametrize(
    ("region", "same_as"),
    [
        ((10, 50, 20, 90), np.s_[10:50, 20:90]),
        ((0.0, 0.5, 0.25, 1.0), np.s_[:50, 50:]),
        ([0, 0.5, 0.25, 1], np.s_[:50, 50:]),
        ((0.333, 0.5, 0.0, 1.0), np.s_[33:50, :]),
        ((0.0, 1.0, 0.0, 1.0), np.s_[:, :]),
    ],
)
def test_integers_are_pixels_and_floats_fractions(region, same_as):
    assert np.array_equal(cut_out(FRAME, region), FRAME[same_as])


def test_colour():
    assert cut_out(np.zeros((100, 200, 3)), (0.0, 0.5, 0.0, 0.5)).shape == (50, 100, 3)


@pytest.mark.parametrize(
    ("region", "problem"),
    [
        ((0, 120, 0, 50), "do not fit in a frame of 100 rows x 200 columns"),
        ((0.0, 0.1, 0.0, 1.0), "of a frame of 100 rows x 200 columns is 10 rows x 200 columns"),
    ],
)
def test_what_does_not_fit_says_how_large_the_frame_is(region, problem):
    with pytest.raises(ValueError, match=problem):
        cut_out(FRAME, region)


@pytest.mark.parametrize(
    ("region", "problem"),
    [
        ((0.5, 0.4, 0.0, 1.0), "ascending from 0 to 1"),
        ((0.0, 1.5, 0.0, 1.0), "ascending from 0 to 1"),
        ((0.0, float("nan"), 0.0, 1.0), "ascending from 0 to 1"),
        ((0, 10, 0, 50), "at least 16 px"),
        ((0, 50, 0), "four integers"),
        (7, "four integers"),
        ("left", "four integers"),
    ],
)
def test_what_is_no_region(region, problem):
    with pytest.raises(ValueError, match=problem):
        check_region(region)
