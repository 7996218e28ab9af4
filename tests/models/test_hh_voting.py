"""From the distributions of patches to that of a frame."""

import math

import numpy as np
import pytest

from bluesky_autofocus.models.hh_net.voting import WAYS, certainty, vote, winner


def leaning(to, share, classes=7):
    """Return a distribution with a share in one class, the rest equal."""
    p = np.full(classes, (1 - share) / (classes - 1))
    p[to] = share
    return p


# ---- certainty -------------------------------------------------------------------------------------------


def test_certainty_by_hand():
    assert certainty([0, 1, 0]) == 1
    assert certainty([1 / 3, 1 / 3, 1 / 3]) == pytest.approx(0, abs=1e-12)
    # 1 - ln 2 / ln 4
    assert certainty([0.5, 0.5, 0, 0]) == pytest.approx(0.5)
    # 1 + (3/4 ln 3/4 + 1/4 ln 1/4) / ln 2 = 1 - 0.8113
    assert certainty([0.75, 0.25]) == pytest.approx(0.1887, abs=1e-4)


def test_certainty_lies_between_0_and_1_and_grows_with_what_is_known():
    p = np.random.default_rng(0).dirichlet(np.full(7, 0.4), (50, 4))
    c = certainty(p)
    assert c.shape == (50, 4)
    assert c.min() >= 0 and c.max() <= 1
    shares = certainty([leaning(2, share) for share in (1 / 7, 0.3, 0.6, 0.9, 1.0)])
    assert (np.diff(shares) > 0).all()


# ---- the winner ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        ([0.2, 0.5, 0.3], 1),
        ([0.4, 0.0, 0.0, 0.2, 0.4], 4),  # mean (0.6 + 1.6) = 2.2: 4 is nearer to it than 0
        ([0.4, 0.2, 0.0, 0.0, 0.4], 0),  # mean 1.8
        ([0.2, 0.2, 0.2, 0.2, 0.2], 2),  # mean 2
        ([0.5, 0.0, 0.5], 2),  # both as near to the mean of 1: the closer class
        ([0.25, 0.25, 0.25, 0.25], 2),  # mean 1.5
        ([0.1 + 0.2, 0.3, 0.4 - 1e-16], 2),
        ([0.1 + 0.2, 0.4, 0.3], 1),
        ([0.1 + 0.2, 0.3, 0.1, 0.3], 1),  # a tie but for rounding; mean 0.3 + 0.2 + 0.9 = 1.4
    ],
)
def test_the_winner(p, expected):
    assert winner(p) == expected


def test_winners_of_many():
    p = np.random.default_rng(1).dirichlet(np.ones(7), (6, 5))
    np.testing.assert_array_equal(winner(p), p.argmax(-1))


# ---- votes -----------------------------------------------------------------------------------------------


def test_votes_by_hand():
    p = [[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]]
    # Patch 2 is tied between 0 and 1, mean 0.5: class 1. Patch 3, mean 1.5: class 2.
    np.testing.assert_allclose(vote(p, "hard"), [1 / 3, 1 / 3, 1 / 3, 0])
    np.testing.assert_allclose(vote(p, "linear"), [1.75 / 3, 0.75 / 3, 0.25 / 3, 0.25 / 3])
    # certainties 1, 1/2, 0: (1 + 1/4) / 1.5 and (1/4) / 1.5
    np.testing.assert_allclose(vote(p, "certainty"), [1.25 / 1.5, 0.25 / 1.5, 0, 0], atol=1e-12)
    np.testing.assert_array_equal(vote(p), vote(p, "certainty"))


@pytest.mark.parametrize("how", WAYS)
def test_the_vote_is_a_distribution(how):
    p = np.random.default_rng(2).dirichlet(np.full(7, 0.3), 30).astype(np.float32)
    voted = vote(p, how)
    assert voted.shape == (7,)
    assert voted.sum() == pytest.approx(1, abs=1e-12)
    assert voted.min() >= 0
    np.testing.assert_allclose(vote(p[::-1], how), voted)


@pytest.mark.parametrize("how", ["linear", "certainty"])
def test_patches_that_all_know_nothing_give_nothing(how):
    np.testing.assert_allclose(vote(np.full((5, 7), 1 / 7), how), 1 / 7)


@pytest.mark.parametrize("how", WAYS)
def test_patches_that_agree_are_believed(how):
    assert winner(vote([leaning(5, 0.6)] * 4, how)) == 5


def test_few_clear_patches_outvote_many_ambiguous_ones_by_certainty_alone():
    p = [leaning(5, 0.94)] * 3 + [leaning(2, 0.25)] * 27
    # hard: 3 to 27. Linear: class 5 has 3 x 0.94 + 27 x 0.125 = 6.2, class 2 has 3 x 0.01 + 27 x 0.25 = 6.8.
    assert winner(vote(p, "hard")) == 2
    assert winner(vote(p, "linear")) == 2
    # Entropies 0.334 and 1.906 of ln 7 = 1.946, certainties 0.828 and 0.0204. Class 5 has
    # 3 x 0.828 x 0.94 + 27 x 0.0204 x 0.125 = 2.40, class 2 has 3 x 0.828 x 0.01 + 27 x 0.0204 x 0.25 = 0.16.
    assert winner(vote(p, "certainty")) == 5
    np.testing.assert_allclose(
        vote(p, "certainty")[[5, 2]], np.array([2.404, 0.1626]) / (3 * 0.8281 + 27 * 0.0204), rtol=5e-3
    )


def test_few_sure_and_wrong_patches_outvote_the_others_by_certainty_alone():
    p = [leaning(1, 0.5)] * 21 + [leaning(6, 0.94)] * 9
    # hard: 21 to 9. Linear: class 1 has 21 x 0.5 + 9 x 0.01 = 10.6, class 6 has 21 x 0.083 + 9 x 0.94 = 10.2.
    assert winner(vote(p, "hard")) == 1
    assert winner(vote(p, "linear")) == 1
    # Certainties 0.183 and 0.828: class 1 has 21 x 0.183 x 0.5 + 9 x 0.828 x 0.01 = 2.0, class 6 has
    # 21 x 0.183 x 0.083 + 9 x 0.828 x 0.94 = 7.3.
    assert winner(vote(p, "certainty")) == 6


def shares_right(frames, truth):
    return {
        how: float(np.mean([winner(vote(p, how)) == t for p, t in zip(frames, truth, strict=True)]))
        for how in WAYS
    }


def drawn_frames(sure_of, others, n=150):
    """Return frames whose patches are drawn by two rules, and the class of each frame."""
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 7, n)
    frames = []
    for true in truth:
        wrong = (true + rng.integers(1, 7)) % 7
        patches = [
            rng.dirichlet(rule(true, wrong)) for rule, count in (sure_of, others) for _ in range(count)
        ]
        frames.append(np.stack(patches))
    return frames, truth


def test_frames_mostly_empty_are_told_by_certainty():
    clear = (lambda true, wrong: leaning(true, 0.9) * 30, 4)
    empty = (lambda true, wrong: leaning(wrong, 0.25) * 60, 26)
    right = shares_right(*drawn_frames(clear, empty))
    assert right["certainty"] > 0.95
    assert right["certainty"] > right["linear"] + 0.1
    assert right["linear"] > right["hard"] + 0.1


def test_frames_with_patches_sure_and_wrong_are_told_by_counting():
    astray = (lambda true, wrong: leaning(wrong, 0.96) * 60, 9)
    fair = (lambda true, wrong: leaning(true, 0.5) * 30, 21)
    right = shares_right(*drawn_frames(astray, fair))
    assert right["hard"] > 0.95
    assert right["certainty"] < 0.1
    assert right["hard"] > right["linear"] > right["certainty"]


# ---- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "message"),
    [
        (0.5, r"p has shape \(\): expected \(..., n_classes\)"),
        ([[1.0]], "at least two classes"),
        ([[0.5, math.nan]], "not finite"),
        ([[1.5, -0.5]], "down to -0.5: expected probabilities, none below 0"),
        ([[0.5, 0.5], [0.5, 0.4]], "p adds up to 0.9: expected 1 over the classes"),
    ],
)
def test_what_is_no_distribution(p, message):
    for function in (certainty, winner, vote):
        with pytest.raises(ValueError, match=message):
            function(p)


@pytest.mark.parametrize("p", [[0.5, 0.5], np.zeros((0, 7)), np.full((2, 2, 2), 0.5)])
def test_votes_are_of_patches(p):
    with pytest.raises(ValueError, match=r"expected \(n_patches, n_classes\), at least one patch"):
        vote(p, "hard")


def test_unknown_ways_are_refused():
    with pytest.raises(ValueError, match="unknown way of voting 'loud'; there are hard, linear, certainty"):
        vote([[0.5, 0.5]], "loud")
