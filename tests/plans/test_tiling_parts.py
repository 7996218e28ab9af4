"""What tile scans and time-lapses decide by: no messages, no devices."""

import math

import pytest

from bluesky_autofocus.plans import EveryExposures
from bluesky_autofocus.plans._tiling._care import LONGEST_BREAK, Care, Sharp
from bluesky_autofocus.plans._tiling._forecast import (
    KEPT_POINTS,
    Foreseen,
    PositionsForecast,
    Source,
    SurfaceForecast,
    drift_maker,
    points_of,
)
from bluesky_autofocus.plans._tiling._tiles import Tile, grid_tiles, listed_tiles, numbers_in, spread
from bluesky_autofocus.plans._when import AnyOf
from bluesky_autofocus.prediction import FocusPoint

SURE = Foreseen(3.0, 0.1, Source.SURFACE)
UNSURE = Foreseen(3.0, 2.0, Source.SURFACE)
UNKNOWN = Foreseen(3.0, math.nan, Source.LAST_GOOD, "beyond the surface")


def care(when=AnyOf(()), *, tries_always=False, patience=2, memory=3):  # noqa: B008 - frozen
    return Care(when, 0.5, Sharp(0.5, 0.7, patience, memory), tries_always=tries_always)


class TestCare:
    def test_it_focuses_where_focus_is_not_known_well_enough(self):
        one = care()
        assert one.why(SURE, 0.0) == "not focused yet"
        one.focused(True, 0.0)
        assert one.why(SURE, 1.0) == ""
        assert one.why(UNSURE, 2.0) == "uncertain by 2 um"
        assert one.why(UNKNOWN, 3.0) == "beyond the surface"
        assert one.sure(SURE) and not one.sure(UNSURE) and not one.sure(UNKNOWN)

    def test_it_focuses_when_it_is_due(self):
        one = care(EveryExposures(3))
        one.focused(True, 0.0)
        assert [one.why(SURE, 0.0) for _ in range(3)] == ["", "", "3 exposures"]

    def test_breaks_grow_with_failures_in_a_row(self):
        one = care()
        tries = []
        for visit in range(120):
            if one.why(UNSURE, 0.0):
                tries.append(visit)
                one.focused(False, 0.0, "empty")
        assert tries[:6] == [0, 2, 6, 14, 30, 62]
        assert tries[6] - tries[5] == LONGEST_BREAK + 1
        assert one.failure == "empty"
        one.focused(True, 0.0)
        assert one.failure == ""
        assert one.why(UNSURE, 0.0)

    def test_there_are_no_breaks_where_each_tile_counts(self):
        one = care(tries_always=True)
        for _ in range(5):
            assert one.why(UNSURE, 0.0)
            one.focused(False, 0.0, "empty")

    def test_frames_are_compared_with_those_in_focus(self):
        one = care()
        assert one.seen(1.0, 0.0, in_focus=True) == (False, False)
        assert one.seen(0.6, 0.0, in_focus=False) == (False, False)
        assert one.seen(0.4, 0.0, in_focus=False) == (True, False)
        # one alone is no evidence; a sharp one in between, and the count begins anew
        assert one.seen(0.9, 0.0, in_focus=False) == (False, False)
        assert one.seen(0.4, 0.0, in_focus=False) == (True, False)
        # having been blurred it has to be sharper
        assert one.seen(0.6, 0.0, in_focus=False) == (True, True)

    def test_the_baseline_is_the_median_of_several_fields(self):
        one = care(patience=1)
        for score in (1.0, 10.0, 1.2):
            one.seen(score, 0.0, in_focus=True)
        assert one.seen(0.7, 0.0, in_focus=False) == (False, False)
        assert one.seen(0.5, 0.0, in_focus=False) == (True, True)

    def test_after_focusing_in_vain_a_blurred_frame_waits_too(self):
        one = care(patience=1)
        one.seen(1.0, 0.0, in_focus=True)
        assert one.seen(0.1, 0.0, in_focus=False) == (True, True)
        one.focused(False, 0.0, "flat")
        assert one.seen(0.1, 0.0, in_focus=False) == (True, False)
        assert one.seen(0.1, 0.0, in_focus=False) == (True, True)


def plane(x_um, y_um):
    return 5.0 + 2e-3 * x_um - 1e-3 * y_um


PLACES = [(x, y) for x in (0.0, 500.0, 1000.0) for y in (0.0, 500.0, 1000.0)]
MIDDLE = Tile(9, 250.0, 250.0)


def surveyed(kind="plane", now_s=0.0):
    forecast = SurfaceForecast(kind, drift_maker(None))
    for index, (x, y) in enumerate(PLACES):
        forecast.focused(Tile(index, x, y), now_s + index, plane(x, y), 0.05)
    return forecast


class TestSurface:
    def test_nothing_is_known_at_first(self):
        forecast = SurfaceForecast("plane", drift_maker(None))
        foreseen = forecast.predict(MIDDLE, 0.0)
        assert (foreseen.source, foreseen.known) == (Source.NONE, False)
        expected = forecast.predict(Tile(0, 0.0, 0.0, expected_um=7.0), 0.0)
        assert (expected.source, expected.position_um, expected.known) == (Source.LAST_GOOD, 7.0, False)

    def test_between_places(self):
        foreseen = surveyed().predict(MIDDLE, 10.0)
        assert foreseen.source is Source.SURFACE
        assert foreseen.position_um == pytest.approx(plane(250, 250), abs=0.1)
        assert foreseen.sigma_um < 0.3

    def test_beyond_them_it_is_the_last_focus(self):
        forecast = surveyed()
        foreseen = forecast.predict(Tile(10, 5000.0, 0.0), 10.0)
        assert (foreseen.source, foreseen.position_um) == (Source.LAST_GOOD, plane(*PLACES[-1]))
        assert not foreseen.known and foreseen.reason

    def test_without_a_surface_it_is_the_last_focus_too(self):
        forecast = surveyed(kind=None)
        assert forecast.predict(MIDDLE, 10.0).source is Source.LAST_GOOD

    def test_all_of_it_drifts(self):
        """What is found at one tile moves the expectation at the others."""
        forecast = surveyed()
        for now_s in range(60, 1200, 60):
            forecast.focused(MIDDLE, now_s, plane(250, 250) + 1e-3 * now_s, 0.05)
        elsewhere = forecast.predict(Tile(10, 750.0, 100.0), 1200.0)
        assert elsewhere.position_um == pytest.approx(plane(750, 100) + 1.2, abs=0.2)
        assert elsewhere.drift_um == pytest.approx(1.2, abs=0.2)

    def test_a_tile_far_from_what_is_expected_is_not_believed_at_once(self):
        """Dust, or a knock: the next look tells."""
        forecast = surveyed()
        forecast.focused(MIDDLE, 60.0, plane(250, 250) + 20.0, 0.05)
        foreseen = forecast.predict(Tile(10, 750.0, 100.0), 61.0)
        assert foreseen.sigma_um > 10
        assert math.isnan(foreseen.drift_um)
        forecast.focused(Tile(10, 750.0, 100.0), 61.0, plane(750, 100), 0.05)
        assert forecast.predict(MIDDLE, 62.0).position_um == pytest.approx(plane(250, 250), abs=0.3)

    @pytest.mark.parametrize("jumped", [False, True])
    def test_where_it_is_known_tells_a_jump_from_a_surface_that_is_wrong(self, jumped):
        forecast = SurfaceForecast("thin_plate", drift_maker({"witnesses": 4}))
        for index, (x, y) in enumerate(PLACES):
            forecast.focused(Tile(index, x, y), index, plane(x, y), 0.05)
        there = [Tile(20 + number, 400.0 + 40 * number, 600.0) for number in range(3)]
        for number, tile in enumerate(there):
            assert forecast.referee() is None
            forecast.focused(tile, 60.0 + number, plane(tile.x_um, tile.y_um) + 9.0, 0.05)
            assert forecast.doubt(tile)
        referee = forecast.referee()
        assert (referee.x_um, referee.y_um) in PLACES
        forecast.focused(referee, 70.0, plane(referee.x_um, referee.y_um) + 9.0 * jumped, 0.05)
        assert not forecast.doubt(referee) and forecast.referee() is None
        among = forecast.predict(Tile(30, 440.0, 600.0), 71.0)
        # a step so near to what was known before is rounded off
        assert among.position_um == pytest.approx(plane(440, 600) + 9.0, abs=1.5)
        assert abs(among.position_um - plane(440, 600) - 9.0) < 2 * among.sigma_um
        far = forecast.predict(Tile(31, 950.0, 50.0), 71.0)
        assert far.position_um == pytest.approx(plane(950, 50) + 9.0 * jumped, abs=1.0)

    def test_a_tile_is_one_witness_however_often_it_is_asked(self):
        forecast = SurfaceForecast("plane", drift_maker({"witnesses": 2}))
        for index, (x, y) in enumerate(PLACES):
            forecast.focused(Tile(index, x, y), index, plane(x, y), 0.05)
        for number in range(4):
            forecast.focused(MIDDLE, 60.0 + number, plane(250, 250) + 20.0, 0.05)
            assert forecast.doubt(MIDDLE)
        forecast.focused(MIDDLE, 70.0, plane(250, 250), 0.05)
        assert not forecast.doubt(MIDDLE)
        assert forecast.predict(MIDDLE, 71.0).position_um == pytest.approx(plane(250, 250), abs=0.2)

    def test_points_of_before_tell_the_shape(self):
        forecast = SurfaceForecast(
            "plane", drift_maker(None), [FocusPoint(x, y, plane(x, y), 0.05) for x, y in PLACES]
        )
        far, there = Tile(0, 9000.0, 0.0), Tile(1, 250.0, 250.0)
        assert forecast.datum([far]) is None
        assert forecast.datum([far, there]) is there
        foreseen = forecast.predict(there, 0.0)
        assert (foreseen.source, foreseen.known) == (Source.LAST_GOOD, False)
        assert foreseen.position_um == pytest.approx(plane(250, 250), abs=0.1)
        forecast.focused(there, 0.0, plane(250, 250) - 8.0, 0.05)
        assert forecast.datum([far, there]) is None
        elsewhere = forecast.predict(Tile(2, 900.0, 900.0), 1.0)
        assert elsewhere.position_um == pytest.approx(plane(900, 900) - 8.0, abs=0.2)
        assert elsewhere.known

    def test_it_keeps_so_many_points(self):
        forecast = SurfaceForecast("plane", drift_maker(None))
        for index in range(KEPT_POINTS + 20):
            # in a row, of which no surface is made; every other one is among a crowd
            x = float(index) if index % 2 else 1e4 + 10 * index
            forecast.focused(Tile(index, x, 0.0), float(index), 0.0, 0.05)
        assert len(forecast.points) == KEPT_POINTS
        assert sum(point.x_um >= 1e4 for point in forecast.points) == (KEPT_POINTS + 20) // 2

    def test_a_clock_that_was_set_back(self):
        """Neither what is asked nor what is told about an earlier time costs the scan."""
        forecast = surveyed(now_s=1000.0)
        assert forecast.predict(MIDDLE, 0.0).position_um == pytest.approx(plane(250, 250), abs=0.2)
        forecast.focused(MIDDLE, 0.0, plane(250, 250) + 0.1, 0.05)
        assert forecast.predict(MIDDLE, 1010.0).position_um == pytest.approx(plane(250, 250), abs=0.2)

    def test_what_was_learnt_serves_until_something_surprises(self):
        """A surface laid through one more point is nearly that which is fitted anew; a step is noticed."""
        forecast = surveyed("thin_plate")
        forecast.focused(Tile(19, 700.0, 300.0), 20.0, plane(700, 300), 0.05)
        learnt = forecast.known
        forecast.focused(Tile(20, 300.0, 700.0), 25.0, plane(300, 700), 0.05)
        assert forecast.known.believed == learnt.believed and len(forecast.known.points) == 11
        for number, (x, y) in enumerate([(740.0, 730.0), (760.0, 770.0), (750.0, 750.0)]):
            forecast.focused(Tile(21 + number, x, y), 30.0 + number, plane(x, y) + 3.0, 0.05)
        assert forecast.known.believed != learnt.believed

    def test_points_given_as_numbers(self):
        point = FocusPoint(1.0, 2.0, 3.0, 0.1)
        assert points_of([point, (1, 2, 3, 0.1), [1.0, 2.0, 3.0, 0.1]]) == [point] * 3
        for wrong in ((1, 2, 3), (1, 2, 3, 0), (1, 2, math.nan, 0.1)):
            with pytest.raises(ValueError, match="surface must be points"):
                points_of([wrong])


class TestPositions:
    @pytest.mark.parametrize("off_um", [0.5, 8.0])
    def test_a_blurred_frame_confirms_what_is_in_doubt_and_nothing_else(self, off_um):
        once, twice = (PositionsForecast(drift_maker(None)) for _ in range(2))
        tile = Tile(0, 0.0, 0.0)
        for forecast in (once, twice):
            for now_s in range(0, 1200, 60):
                forecast.focused(tile, now_s, 3.0, 0.05)
            forecast.focused(tile, 1210.0, 3.0 + off_um, 0.2)
        twice.confirmed(tile, 1210.0, 3.0 + off_um, 0.2)
        assert not twice.doubt(tile)
        if once.doubt(tile):
            assert twice.predict(tile, 1211.0).position_um == pytest.approx(3.0 + off_um, abs=0.2)
        else:
            assert twice.predict(tile, 1211.0) == once.predict(tile, 1211.0)

    def test_each_has_a_drift_of_its_own(self):
        forecast = PositionsForecast(drift_maker(None))
        still, moving = Tile(0, 0.0, 0.0), Tile(1, 1.0, 0.0)
        for now_s in range(0, 1200, 60):
            forecast.focused(still, now_s, 3.0, 0.05)
            forecast.focused(moving, now_s, 50.0 + 0.01 * now_s, 0.05)
        assert forecast.predict(still, 1260.0).position_um == pytest.approx(3.0, abs=0.1)
        foreseen = forecast.predict(moving, 1260.0)
        assert foreseen.position_um == pytest.approx(62.6, abs=0.3)
        assert foreseen.source is Source.DRIFT
        assert foreseen.sigma_um < forecast.predict(moving, 4000.0).sigma_um

    def test_by_the_temperature(self):
        forecast = PositionsForecast(drift_maker({"temperature_coefficient_um_per_c": 4.0}))
        tile = Tile(0, 0.0, 0.0)
        forecast.focused(tile, 0.0, 3.0, 0.05, 21.0)
        assert forecast.predict(tile, 60.0, 22.0).position_um == pytest.approx(7.0)

    def test_a_clock_that_was_set_back(self):
        forecast = PositionsForecast(drift_maker(None))
        tile = Tile(0, 0.0, 0.0)
        forecast.focused(tile, 1000.0, 3.0, 0.05)
        forecast.focused(tile, 990.0, 3.1, 0.05)
        assert forecast.predict(tile, 980.0).position_um == pytest.approx(3.05, abs=0.1)

    def test_where_nothing_was_found_yet(self):
        forecast = PositionsForecast(drift_maker(None))
        assert forecast.predict(Tile(0, 0.0, 0.0), 0.0).source is Source.NONE
        assert forecast.predict(Tile(1, 0.0, 0.0, expected_um=4.0), 0.0).position_um == 4.0


class TestTiles:
    def test_as_far_apart_as_they_can_be(self):
        tiles = grid_tiles(100, 80, 10.0, (0.0, 0.0))
        chosen = spread(tiles, 9)
        corners = {(row, column) for row in (0, 99) for column in (0, 79)}
        assert {(one.row, one.column) for one in chosen[:4]} == corners
        assert len(set(chosen)) == 9
        assert spread(tiles[:5], 9) == tiles[:5]

    def test_a_grid(self):
        tiles = grid_tiles(2, 3, (10.0, -20.0), (1.0, 2.0))
        assert [(one.index, one.row, one.column) for one in tiles] == [
            *((0, 0, 0), (1, 0, 1), (2, 0, 2)),
            *((5, 1, 2), (4, 1, 1), (3, 1, 0)),
        ]
        assert [(one.x_um, one.y_um) for one in tiles[2:4]] == [(21.0, 2.0), (21.0, -18.0)]

    def test_a_list(self):
        first, second = listed_tiles("tiles", [(1, 2), (3.0, 4.0, 5.0)])
        assert (first.index, first.x_um, second.index, second.expected_um) == (0, 1.0, 1, 5.0)
        assert math.isnan(first.expected_um)

    def test_numbers_and_runs_of_them(self):
        assert numbers_in([1, [3, 5], (7, 7)], 8) == {1, 3, 4, 5, 7}
        for wrong in ([8], [[3, 8]], [[5, 3]], [-1]):
            with pytest.raises(ValueError, match="from 0 to 7"):
                numbers_in(wrong, 8)
