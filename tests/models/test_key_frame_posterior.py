"""From the labels of planes to where the focus is, and back."""

import numpy as np
import pytest

from bluesky_autofocus.models.key_frame._posterior import label, posterior


def log_odds(focus, n_planes, in_focus, least=3e-4):
    """What a network says that has learnt the labels."""
    p = np.clip(label(focus, n_planes, in_focus)[None], least, 1 - least)
    return np.log(p / (1 - p))


@pytest.mark.parametrize(
    ("focus", "n", "in_focus", "expected"),
    [
        (1, 3, 1, [0, 0, 1, 0, 0]),  # as the original's coarse labels
        (3, 7, 3, [0, 0, 0, 1, 1, 1, 0, 0, 0]),  # and its fine ones
        (0, 7, 3, [0, 1, 1, 0, 0, 0, 0, 0, 0]),
        (1.5, 3, 1, [0, 0, 0.5, 0.5, 0]),
        (3.25, 7, 3, [0, 0, 0, 0.75, 1, 1, 0.25, 0, 0]),
        (-4, 3, 1, [1, 0, 0, 0, 0]),
        (9, 7, 3, [0, 0, 0, 0, 0, 0, 0, 0, 1]),
    ],
)
def test_labels(focus, n, in_focus, expected):
    np.testing.assert_allclose(label(focus, n, in_focus), expected)


def test_labels_of_many():
    assert label(np.zeros((4, 5)), 7, 3).shape == (4, 5, 9)


def test_inside_a_scan_as_many_are_marked_as_ever():
    for focus in np.linspace(1, 5, 33):
        assert label(focus, 7, 3)[1:-1].sum() == pytest.approx(3)


@pytest.mark.parametrize("focus", [1.0, 2.4, 3.0, 4.7])
def test_a_sure_network_gives_the_position_back(focus):
    known = posterior(log_odds(focus, 7, 3), 3)
    assert known.mean == pytest.approx(focus, abs=0.15)
    assert known.sigma < 0.35
    assert known.nearest_plane == round(focus)
    np.testing.assert_allclose(known.in_focus, label(focus, 7, 3)[1:-1], atol=0.2)


def test_between_two_coarse_planes_it_is_half_sure():
    known = posterior(np.array([[-9.0, -9.0, 0.0, 0.0, -9.0]]), 1)
    assert known.mean == pytest.approx(1.5, abs=0.05)
    assert 0.2 < known.sigma < 0.4


@pytest.mark.parametrize(("focus", "side"), [(-3, "below"), (12, "above")])
def test_outside_the_side_is_known(focus, side):
    known = posterior(log_odds(focus, 7, 3), 3)
    shares = {"below": known.share_below(0.0), "above": known.share_above(6.0)}
    assert shares.pop(side) > 0.95
    assert max(shares.values()) < 0.01


def test_knowing_nothing_is_said_so():
    known = posterior(np.zeros((1, 9)), 3)
    assert known.sigma > 2
    assert known.share_below(0.0) + known.share_above(6.0) > 0.2


def test_temperature_makes_it_less_sure():
    sure, less = (posterior(log_odds(3.0, 7, 3), 3, one).sigma for one in (1.0, 5.0))
    assert less > sure


def test_cells_that_agree_make_it_surer_and_those_that_do_not_say_so():
    one = log_odds(3.0, 7, 3, 0.3)
    alone, together = posterior(one, 3), posterior(np.concatenate([one] * 4), 3)
    assert together.sigma < alone.sigma
    assert together.disagreement == 0
    apart = posterior(np.concatenate([log_odds(1.0, 7, 3), log_odds(5.0, 7, 3)]), 3)
    assert apart.disagreement == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize("wrong", [np.zeros(9), np.zeros((0, 9)), np.full((1, 9), np.nan)])
def test_what_is_no_log_odds(wrong):
    with pytest.raises(ValueError, match="log_odds must be finite"):
        posterior(wrong, 3)
