"""Which planes a key-frame scan exposes and what it concludes, with a made-up focus."""

import math

import pytest

from bluesky_autofocus.records import Reason
from bluesky_autofocus.search import Sighting, key_frame_search, spacing_of

COARSE = (-1.0, 0.0, 1.0)
FINE = (-0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75)


def drive(search, focus_um, *, margin_um=0.0, sigma_um=0.03):
    """Answer a search as a perfect model would; return where it exposed and what it concluded."""
    exposed = []
    try:
        plane = next(search)
        while True:
            exposed.append(plane.position_um)
            if not plane.last:
                sighting = Sighting(Reason.INCOMPLETE)
            elif min(exposed) - 0.5 + margin_um <= focus_um <= max(exposed) + 0.5 - margin_um:
                sighting = Sighting(Reason.OK, focus_um, sigma_um)
            else:
                sighting = Sighting(Reason.EDGE, focus_um, math.nan)
            plane = search.send(sighting)
    except StopIteration as end:
        return exposed, end.value


def test_a_scan_that_contains_the_focus_exposes_its_planes():
    exposed, conclusion = drive(key_frame_search(COARSE, exposures=12), 0.3)
    assert exposed == [-1.0, 0.0, 1.0]
    assert conclusion.found and conclusion.position_um == 0.3 and conclusion.sigma_um == 0.03


@pytest.mark.parametrize(("focus_um", "more"), [(2.2, [2.0]), (-2.9, [-2.0, -3.0])])
def test_it_walks_on_to_the_side_of_the_focus(focus_um, more):
    exposed, conclusion = drive(key_frame_search(COARSE, exposures=12), focus_um)
    assert exposed == [*COARSE, *more]
    assert conclusion.found


def test_planes_that_were_exposed_are_not_exposed_again():
    exposed, conclusion = drive(key_frame_search(FINE, exposed_um=(-1.0, 0.0, 1.0), exposures=9), 0.1)
    assert exposed == [-0.75, -0.5, -0.25, 0.25, 0.5, 0.75]
    assert conclusion.found


def test_walking_on_passes_over_what_was_exposed():
    exposed, _ = drive(key_frame_search(FINE, exposed_um=(0.0, 1.0), exposures=9), 2.0)
    assert exposed[6:] == [1.25, 1.5]


def test_where_all_was_exposed_the_last_plane_is_again():
    exposed, conclusion = drive(key_frame_search(COARSE, exposed_um=COARSE, exposures=2), 1.0)
    assert exposed == [1.0]
    assert conclusion.found


def test_the_budget_ends_the_walk():
    exposed, conclusion = drive(key_frame_search(COARSE, exposures=4), 5.0)
    assert len(exposed) == 4
    assert conclusion.reason is Reason.EDGE and not conclusion.found


def test_too_small_a_budget_exposes_nothing():
    exposed, conclusion = drive(key_frame_search(FINE, exposures=6), 0.0)
    assert exposed == []
    assert conclusion.reason is Reason.NOT_CONVERGED


def test_the_range_ends_the_walk():
    exposed, conclusion = drive(key_frame_search(COARSE, within_um=(-1.5, 2.5), exposures=12), 5.0)
    assert max(exposed) == 2.0
    assert conclusion.reason is Reason.EDGE


def test_now_above_now_below_is_nothing():
    search = key_frame_search(COARSE, exposures=12)
    next(search)
    search.send(Sighting(Reason.INCOMPLETE))
    search.send(Sighting(Reason.INCOMPLETE))
    assert search.send(Sighting(Reason.EDGE, 3.0)).position_um == 2.0
    with pytest.raises(StopIteration) as end:
        search.send(Sighting(Reason.EDGE, -3.0))
    assert end.value.value.reason is Reason.UNCERTAIN


@pytest.mark.parametrize("reason", [Reason.BLACK, Reason.SATURATED])
def test_a_frame_that_cannot_be_used_ends_it_at_once(reason):
    search = key_frame_search(COARSE, exposures=12)
    next(search)
    with pytest.raises(StopIteration) as end:
        search.send(Sighting(reason))
    assert end.value.value.reason is reason


@pytest.mark.parametrize("reason", [Reason.EMPTY, Reason.UNFAMILIAR, Reason.UNCERTAIN])
def test_a_scan_of_which_nothing_can_be_said_says_why(reason):
    search = key_frame_search(COARSE, exposures=12)
    next(search)
    search.send(Sighting(Reason.INCOMPLETE))
    search.send(Sighting(Reason.INCOMPLETE))
    with pytest.raises(StopIteration) as end:
        search.send(Sighting(reason))
    assert end.value.value.reason is reason


def test_spacing():
    assert spacing_of("offsets_um", FINE) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ((-1.0, 0.0), "odd number"),
        ((0.0,), "odd number"),
        ((-1.0, 0.0, 1.0, 2.0), "odd number"),
        ((1.0, 0.0, -1.0), "ascending"),
        ((-1.0, 0.0, math.nan), "finite"),
        ((-1.0, 0.0, 2.0), "evenly spaced"),
        ((1.0, 2.0, 3.0), "contain 0"),
        ((-0.5, 0.5, 1.5), "contain 0"),
    ],
)
def test_offsets_that_make_no_scan(offsets, message):
    with pytest.raises(ValueError, match=f"offsets_um .*{message}.*, got"):
        spacing_of("offsets_um", offsets)
