"""Tile scans: what is in focus, what that cost, what is recorded, and what is put back."""

import itertools
import json
import math
from collections import Counter

import numpy as np
import pytest
from bluesky.simulators import summarize_plan
from bluesky.utils import RunEngineInterrupted
from interrupting import at_message, pausing, throwing
from ophyd.utils import LimitError
from tiles import START, TileBench, dome, knowing, knowing_focus

from bluesky_autofocus.callbacks import NotSubscribedError, SharpnessAnalysis
from bluesky_autofocus.leds import PatternError, Single
from bluesky_autofocus.plans import (
    METHODS,
    Approach,
    FocusNotFoundError,
    UnknownMethodError,
    tile_scan,
)

FAR_UM = (4010.0, 4010.0)


@pytest.fixture
def make(tmp_path):
    return lambda **options: TileBench(tmp_path, **options)


@pytest.fixture
def scan(RE, analysis):  # noqa: N803
    """Return a function that makes the plan for a bench."""

    def scan(bench, **options):
        options = {
            "analysis": analysis,
            "stage": bench.stage,
            "depth_of_field_um": bench.depth_of_field_um,
            "travel_um": (-60.0, 60.0),
            "range_um": 30.0,
            "clock": bench.clock,
            **({} if "tiles" in options else {"rows": 3, "columns": 3, "pitch_um": 100.0}),
            **options,
        }
        return tile_scan(bench.detectors, bench.z, **options)

    return scan


@pytest.fixture(autouse=True)
def methods(monkeypatch):
    monkeypatch.setitem(METHODS, "knowing", knowing_focus)


def counting(documents):
    """Return the frames of each tile that count: those of its last attempt, one of a kind."""
    kinds = [
        tuple(data[f"tile_{key}"] for key in ("index", "attempt", "channel", "offset_um"))
        for data in documents.events("primary")
    ]
    assert len(set(kinds)) == len(kinds)
    last = {data["tile_index"]: data["tile_attempt"] for data in documents.events("tile")}
    return [
        data for data in documents.events("primary") if data["tile_attempt"] == last.get(data["tile_index"])
    ]


def looked(documents):
    return [(data["tile_index"], data["tile_why"]) for data in documents.events("tile_focus")]


class TestInFocus:
    def test_a_specimen_that_is_tilted_curved_and_drifts(self, RE, make, scan, documents):  # noqa: N803
        bench = make(drift=lambda time_s: 2e-3 * time_s, exposure_s=1.0)
        RE(scan(bench, rows=5, columns=6, pitch_um=220.0, survey=10, kind="thin_plate"))
        frames = documents.events("primary")
        assert sorted(data["tile_index"] for data in frames) == list(range(30))
        assert abs(bench.errors_dof(frames)).max() < 1.0
        # without any of it they would be several depths of field off
        assert np.ptp([data["truth_focus_um"] for data in frames]) > 3 * bench.depth_of_field_um
        focused = {index for index, _ in looked(documents)}
        assert len(focused) < 20
        sources = Counter(data["tile_source"] for data in frames)
        assert sources["surface"] > 15 and set(sources) <= {"surface", "focused"}
        assert bench.now == START

    def test_they_are_visited_to_and_fro(self, RE, make, scan, documents):  # noqa: N803
        bench = make()
        RE(scan(bench, kind=None, pitch_um=(100.0, 50.0), origin_um=(0.0, 10.0), **knowing(bench)))
        frames = documents.events("primary")
        assert [(data["tile_row"], data["tile_column"]) for data in frames] == [
            *((0, 0), (0, 1), (0, 2)),
            *((1, 2), (1, 1), (1, 0)),
            *((2, 0), (2, 1), (2, 2)),
        ]
        for data in frames:
            assert (data["x"], data["y"]) == (100 * data["tile_column"], 10 + 50 * data["tile_row"])
            assert data["tile_index"] == 3 * data["tile_row"] + data["tile_column"]

    def test_at_places_of_ones_own(self, RE, make, scan, documents):  # noqa: N803
        bench = make()
        places = [(0.0, 0.0), (500.0, 100.0, 1.5), (-200.0, 0.0)]
        RE(scan(bench, tiles=places, kind=None, **knowing(bench)))
        frames = documents.events("primary")
        assert [(data["x"], data["y"]) for data in frames] == [place[:2] for place in places]
        assert [data["tile_column"] for data in frames] == [0, 1, 2]
        assert bench.errors_dof(frames) == pytest.approx(0, abs=1e-9)

    def test_what_is_known_of_the_surface_before(self, RE, make, scan, documents):  # noqa: N803
        """Its shape is known; one focusing tells how far it has drifted."""
        corners = [(x, y) for x in (0.0, 100.0, 200.0) for y in (0.0, 100.0, 200.0)]
        surface = [(x, y, dome(x, y) - 7.0, 0.05) for x, y in corners]
        bench = make()
        options = {"origin_um": (0.0, 0.0), "surface": surface, "survey": 0, "kind": "thin_plate"}
        RE(scan(bench, **options, **knowing(bench)))
        assert looked(documents) == [(0, "how far it has drifted")]
        assert abs(bench.errors_dof(documents.events("primary"))).max() < 0.5

    def test_planes_and_channels(self, RE, make, scan, documents):  # noqa: N803
        bench = make()
        channels = ["annulus", Single(0.4, 0.0), "half_annulus_top"]
        options = {"channels": channels, "light": bench.leds, "z_offsets_um": (-3.0, 0.0, 3.0)}
        RE(scan(bench, tiles=[(0.0, 0.0), (50.0, 0.0)], kind=None, **options, **knowing(bench)))
        frames = documents.events("primary")
        assert len(frames) == documents.named("start")[0]["num_points"] == 2 * 3 * 3
        assert [data["leds"] for data in frames] == [str(one) for one in channels] * 6
        assert [data["tile_channel"] for data in frames] == [0, 1, 2] * 6
        assert [data["tile_offset_um"] for data in frames] == sum([[z] * 3 for z in (-3, 0, 3)] * 2, [])
        assert bench.errors_dof(frames) == pytest.approx(0, abs=1e-9)
        assert bench.now == START

    def test_positions_are_approached_from_one_side(self, RE, make, scan, messages):  # noqa: N803
        bench = make()
        options = {
            "approach": {"direction": -1, "overshoot_um": 2.0},
            "stage_approach": Approach(overshoot_um=5.0),
        }
        RE(scan(bench, rows=2, columns=2, kind=None, **options, **knowing(bench)))
        moves = [msg.args[0] for msg in messages if msg.command == "set" and msg.obj is bench.x]
        # from below to where it stands, on, stays, and back
        assert moves[:6] == [5.0, 10.0, 110.0, 110.0, 5.0, 10.0]
        frames, heights = 0, []
        for msg in messages:
            if msg.command == "set" and msg.obj is bench.z:
                heights.append(msg.args[0])
            elif msg.command == "create" and msg.kwargs["name"] == "primary":
                frames += 1
                assert heights[-2] - heights[-1] >= 2.0 - 1e-9, "from above"
        assert frames == 4


class TestFrugal:
    """The frames of the tiles themselves tell whether they are in focus."""

    def test_a_stack_makes_focusing_unnecessary(self, RE, make, scan, analysis, documents):  # noqa: N803
        bench = make(drift=lambda time_s: 0.01 * time_s, exposure_s=1.0)
        options = {"z_offsets_um": (-6.0, -3.0, 0.0, 3.0, 6.0), "watch": analysis, "survey": 6}
        RE(scan(bench, rows=2, columns=8, kind="plane", **options))
        by_method = Counter(data["tile_method"] for data in documents.events("tile_focus"))
        assert by_method["stack"] == 16
        assert by_method["search"] <= 8
        assert [data["tile_exposures"] for data in documents.events("tile")].count(0) >= 14
        central = [data for data in documents.events("primary") if data["tile_offset_um"] == 0]
        assert abs(bench.errors_dof(central)).max() < 1.0
        assert np.ptp([data["truth_focus_um"] for data in central]) > 1.0

    def test_a_focus_that_was_lost_is_found_and_the_tiles_are_exposed_again(
        self,
        RE,
        make,
        scan,
        analysis,
        documents,  # noqa: N803
    ):
        bench = make(exposure_s=1.0)
        # somebody leans on the table in the middle of the third row
        bench.drift = lambda time_s: 9.0 if len(documents.events("primary")) > 14 else 0.0
        RE(scan(bench, rows=4, columns=6, watch=analysis, kind="thin_plate", **knowing(bench)))
        assert (12, "blurred") not in looked(documents)
        lost = [index for index, why in looked(documents) if why == "blurred"]
        assert len(lost) == 1
        tiles = documents.events("tile")
        again = [data["tile_index"] for data in tiles if data["tile_attempt"] == 1]
        assert len(again) == 2 and lost[0] in again
        # three tiles say that it has jumped, and one where focus was known, before it is believed
        marked = [data["tile_index"] for data in tiles if data["tile_marked"]]
        assert marked[0] == lost[0] and len(marked) == 3
        assert [why for _, why in looked(documents)].count("whether focus has jumped") == 1
        assert {data["tile_index"] for data in tiles} == set(range(24))
        counted = counting(documents)
        assert abs(bench.errors_dof(counted)).max() < 1.0
        assert len(counted) == 24
        assert sum(data["tile_blurred"] for data in tiles) == 1  # what was blurred and is there again

    def test_a_lamp_that_failed_once(self, RE, make, scan, analysis, documents):  # noqa: N803
        bench = make()
        numbers = itertools.count(1)

        def frame(frame=bench.frame):
            # of each tile the first is to focus
            bench.level = 0.0 if next(numbers) == 4 else 10_000.0
            return frame()

        bench.camera.render = frame
        RE(scan(bench, tiles=[(0, 0), (50, 0), (99, 0)], kind=None, watch=analysis, **knowing(bench)))
        means = [data["camera_mean"] > 100 for data in counting(documents)]
        assert means == [True] * 3
        assert Counter(data["tile_attempt"] for data in documents.events("tile")) == {0: 2, 1: 1}

    def test_a_lamp_that_stays_off(self, RE, make, scan, analysis, documents):  # noqa: N803
        bench = make()
        bench.level = 0.0
        RE(scan(bench, tiles=[(0, 0), (50, 0)], kind=None, watch=analysis, **knowing(bench)))
        tiles = documents.events("tile")
        assert [(data["tile_marked"], data["tile_reason"]) for data in tiles] == [(True, "black")] * 2
        # after the first tile it is known that taking them once more does not help
        assert [data["tile_attempt"] for data in tiles] == [1, 0]


class TestNotBelieved:
    def test_what_was_found_on_dust(self, RE, make, scan, documents):  # noqa: N803
        """It is marked; the next look tells that it was wrong, and the tile is exposed on the surface."""
        bench = make(lure=lambda x_um, y_um: 8.0 if (round(x_um), round(y_um)) == (100, 0) else 0.0)
        surface = [(x, y, dome(x, y), 0.05) for x in (-9, 100, 209) for y in (-9, 100, 209)]
        options = {"surface": surface, "refocus_every": 2, "origin_um": (0.0, 0.0)}
        RE(scan(bench, rows=2, **options, **knowing(bench)))
        tiles = documents.events("tile")
        of_dust = [data for data in tiles if data["tile_index"] == 1]
        assert [data["tile_source"] for data in of_dust] == ["focused", "surface"]
        assert [data["tile_marked"] for data in of_dust] == [True, False]
        assert [data["tile_attempt"] for data in of_dust] == [0, 1]
        assert not any(data["tile_marked"] for data in tiles if data["tile_index"] != 1)
        assert abs(bench.errors_dof(counting(documents))).max() < 0.5

    def test_where_all_is_different_from_what_was_known(self, RE, make, scan, documents):  # noqa: N803
        """Three looks agree, and one where focus is known: it has jumped, and all are in focus."""
        bench = make()
        surface = [(x, y, dome(x, y), 0.05) for x in (-9, 100, 209) for y in (-9, 100, 209)]
        bench.drift = lambda time_s: 8.0 if len(documents.events("primary")) >= 3 else 0.0
        options = {"surface": surface, "refocus_every": 2, "origin_um": (0.0, 0.0)}
        RE(scan(bench, **options, **knowing(bench)))
        frames = documents.events("primary")
        assert [data["tile_attempt"] for data in frames] == [0] * 9
        assert abs(bench.errors_dof(frames)).max() < 0.5
        marked = [data["tile_index"] for data in documents.events("tile") if data["tile_marked"]]
        assert marked == [5, 4, 3]
        assert looked(documents)[-2:] == [(0, "whether focus has jumped"), (7, "2 exposures")]

    def test_what_floats_beside_the_specimen(self, RE, make, scan, analysis, documents):  # noqa: N803
        """Fields without specimen are blurred, and something else is found there: that is no jump."""
        washed = {(100, 100), (150, 100), (200, 100)}

        def is_washed(x_um, y_um):
            return (round(x_um), round(y_um)) in washed

        bench = make(
            detail=lambda x_um, y_um: 0.02 if is_washed(x_um, y_um) else 1.0,
            lure=lambda x_um, y_um: 12.0 if is_washed(x_um, y_um) else 0.0,
        )
        surface = [(x, y, dome(x, y), 0.05) for x in (-9, 150, 309) for y in (-9, 100, 209)]
        options = {"surface": surface, "origin_um": (0.0, 0.0), "pitch_um": (50.0, 100.0), "watch": analysis}
        RE(scan(bench, rows=3, columns=7, **options, **knowing(bench)))
        off_dof = {data["tile_index"]: bench.errors_dof([data])[0] for data in counting(documents)}
        marked = {data["tile_index"]: data["tile_marked"] for data in documents.events("tile")}
        assert set(off_dof) == set(range(21))
        assert max(abs(off_dof[index]) for index in off_dof if not marked[index]) < 0.5
        assert {index for index in marked if marked[index]} <= {9, 10, 11}

    @pytest.mark.parametrize("before", [8, 9, 10, 11])
    def test_a_jump_at_the_end(self, RE, make, scan, analysis, documents, before):  # noqa: N803
        """What is open when all tiles are done is looked at again: in focus, or marked."""
        bench = make(exposure_s=1.0)
        bench.drift = lambda time_s: 9.0 if len(documents.events("primary")) >= before else 0.0
        surface = [(x, y, dome(x, y), 0.05) for x in (-9, 150, 309) for y in (-9, 100, 209)]
        options = {"surface": surface, "origin_um": (0.0, 0.0), "kind": "thin_plate", "watch": analysis}
        RE(scan(bench, rows=3, columns=4, **options, **knowing(bench)))
        marked = {data["tile_index"]: data["tile_marked"] for data in documents.events("tile")}
        off_dof = {data["tile_index"]: bench.errors_dof([data])[0] for data in counting(documents)}
        assert len(off_dof) == 12
        assert max(abs(off_dof[index]) for index in off_dof if not marked[index]) < 1.0

    @pytest.mark.parametrize("on_failure", ["mark", "surface"])
    def test_a_jump_that_is_noticed_where_focus_is_not_found(
        self,
        RE,  # noqa: N803
        make,
        scan,
        analysis,
        documents,
        monkeypatch,
        on_failure,
    ):
        """The tiles before it were blurred too: they are looked at again once there is a focus to go by."""
        bench = make(exposure_s=1.0)
        bench.drift = lambda time_s: 9.0 if len(documents.events("primary")) >= 6 else 0.0
        calls = itertools.count()

        def failing_once(detectors, axis, *, bounds_um, **options):
            bounds_um = (1e6, 1e6 + 1) if next(calls) == 1 else bounds_um
            return (yield from knowing_focus(detectors, axis, bounds_um=bounds_um, **options))

        def as_it_is(detectors, axis, *, analysis, travel_um, bounds_um, bench, timeout_s=5.0):
            options = {"analysis": analysis, "travel_um": travel_um, "bench": bench, "timeout_s": timeout_s}
            return (yield from failing_once(detectors, axis, bounds_um=bounds_um, **options))

        monkeypatch.setitem(METHODS, "knowing", as_it_is)
        surface = [(x, y, dome(x, y), 0.05) for x in (-9, 150, 309) for y in (-9, 100, 209)]
        options = {"surface": surface, "origin_um": (0.0, 0.0), "kind": "thin_plate", "watch": analysis}
        options |= {"pitch_um": (50.0, 100.0), "on_failure": on_failure}
        RE(scan(bench, rows=3, columns=6, **options, **knowing(bench)))
        marked = {data["tile_index"]: data["tile_marked"] for data in documents.events("tile")}
        off_dof = {data["tile_index"]: bench.errors_dof([data])[0] for data in counting(documents)}
        assert max(abs(off_dof[index]) for index in off_dof if not marked[index]) < 1.0

    def test_its_own_stack_is_no_other_witness(self, RE, make, scan, analysis, documents):  # noqa: N803
        """Two fields in which something floats, each seen by search and stack: the rest is where it was."""
        bench = make(lure=lambda x_um, y_um: 0.0, exposure_s=1.0)
        floating = {(100, 0), (150, 0)}
        bench.height = lambda x_um, y_um: dome(x_um, y_um) + 8.0 * ((round(x_um), round(y_um)) in floating)
        surface = [(x, y, dome(x, y), 0.05) for x in (-9, 150, 309) for y in (-9, 100, 209)]
        options = {"surface": surface, "origin_um": (0.0, 0.0), "pitch_um": (50.0, 100.0), "watch": analysis}
        options |= {"refocus_every": 1, "z_offsets_um": (-4.0, -2.0, 0.0, 2.0, 4.0)}
        RE(scan(bench, rows=2, columns=6, **options, **knowing(bench)))
        marked = {data["tile_index"] for data in documents.events("tile") if data["tile_marked"]}
        assert marked <= {2, 3}


def empty_at(*places):
    return lambda x_um, y_um: float((round(x_um), round(y_um)) not in places)


class TestNotFound:
    """What is done at a tile where there is nothing to focus on, the fifth of nine."""

    ORIGIN = {"origin_um": (0.0, 0.0)}

    @pytest.fixture
    def bench(self, make):
        return make(detail=empty_at((100, 100)))

    def test_it_is_left_out_and_marked(self, RE, bench, scan, documents):  # noqa: N803
        RE(scan(bench, **self.ORIGIN, kind=None, **knowing(bench)))
        assert [data["tile_index"] for data in documents.events("primary")] == [0, 1, 2, 5, 3, 6, 7, 8]
        (marked,) = [data for data in documents.events("tile") if data["tile_marked"]]
        assert (marked["tile_index"], marked["tile_frames"]) == (4, 0)
        assert (marked["tile_source"], marked["tile_reason"]) == ("none", "empty")
        assert math.isnan(marked["tile_focus_um"])

    def test_it_is_exposed_where_focus_was_last(self, RE, bench, scan, documents):  # noqa: N803
        """Without a surface nobody vouches for it."""
        RE(scan(bench, **self.ORIGIN, kind=None, on_failure="surface", **knowing(bench)))
        frames = documents.events("primary")
        (four,) = [data for data in frames if data["tile_index"] == 4]
        before = frames[frames.index(four) - 1]
        assert (four["tile_source"], four["tile_reason"], four["tile_marked"]) == ("last_good", "empty", True)
        assert four["z"] == before["z"]
        # the next one is not tried: an empty region is not to cost a search at each tile
        after = frames[frames.index(four) + 1]
        assert (after["tile_source"], after["tile_marked"]) == ("last_good", True)

    def test_it_is_exposed_on_the_surface(self, RE, bench, scan, documents):  # noqa: N803
        surface = [(x, y, dome(x, y), 0.05) for x in (-9, 100, 209) for y in (-9, 100, 209)]
        options = {"surface": surface, "refocus_every": 1, "kind": "thin_plate", "on_failure": "surface"}
        RE(scan(bench, **self.ORIGIN, **options, **knowing(bench)))
        (four,) = [data for data in documents.events("primary") if data["tile_index"] == 4]
        assert (four["tile_source"], four["tile_reason"], four["tile_marked"]) == ("surface", "empty", False)
        assert abs(bench.errors_dof([four])[0]) < 0.5

    def test_it_looks_wider(self, RE, make, scan, documents):  # noqa: N803
        bench = make(height=lambda x_um, y_um: 12.0 if x_um > 50 else 0.0)
        tiles = [(0.0, 0.0), (100.0, 0.0)]
        RE(scan(bench, tiles=tiles, kind=None, range_um=16.0, on_failure="wider", **knowing(bench)))
        looks = documents.events("tile_focus")
        assert [(data["tile_index"], data["tile_why"], data["tile_found"]) for data in looks] == [
            (0, "not focused yet", True),
            (1, "no surface yet", False),
            (1, "not found: edge", True),
        ]
        assert bench.errors_dof(documents.events("primary")) == pytest.approx([0, 0])

    def test_it_looks_by_another_method(self, RE, bench, scan, documents):  # noqa: N803
        wider = {"focus": "sweep", "range_um": 24.0, "budget": 6}
        tiles = [(0.0, 0.0), (100.0, 100.0)]
        options = {"wider": wider, "on_failure": ["wider", "surface"]}
        RE(scan(bench, tiles=tiles, kind=None, **options, **knowing(bench)))
        assert [data["tile_method"] for data in documents.events("tile_focus")] == [
            "knowing",
            "knowing",
            "sweep",
        ]
        assert len(documents.events("focus_sweep")) >= 5
        assert [data["tile_marked"] for data in documents.events("tile")] == [False, True]

    def test_it_stops(self, RE, bench, scan, documents):  # noqa: N803
        with pytest.raises(FocusNotFoundError, match="empty"):
            RE(scan(bench, **self.ORIGIN, kind=None, on_failure="stop", **knowing(bench)))
        assert [data["tile_index"] for data in documents.events("tile")] == [0, 1, 2, 5]
        assert documents.events("tile_focus")[-1]["tile_reason"] == "empty"
        assert documents.named("stop")[-1]["exit_status"] == "fail"
        assert bench.now == START

    def test_an_empty_region_costs_few_searches(self, RE, make, scan, documents):  # noqa: N803
        bench = make(detail=lambda x_um, y_um: float(x_um < 0))
        tiles = [(-50.0, 0.0), *((50.0 * i, 0.0) for i in range(1, 40))]
        RE(scan(bench, tiles=tiles, kind=None, on_failure="surface", **knowing(bench)))
        assert [index for index, _ in looked(documents)] == [0, 1, 3, 7, 15, 31]
        assert len(documents.events("primary")) == 40
        assert sum(data["tile_marked"] for data in documents.events("tile")) == 39


class TestRecorded:
    def test_the_run_says_what_it_is_and_can_be_called_again(self, RE, make, scan, documents):  # noqa: N803
        bench = make()
        options = {"light": bench.leds, "channels": [Single(0.4, 0.0)], "watch": None}
        md = {"sample": "slide 7"}
        plan = scan(bench, rows=1, columns=2, kind=None, continues="abc", series="s", md=md, **options)
        RE(plan)
        (start,) = documents.named("start")
        json.dumps(start)
        assert (start["plan_name"], start["sample"], start["continues"], start["series"]) == (
            "tile_scan",
            "slide 7",
            "abc",
            "s",
        )
        assert start["motors"] == ["z", "x", "y"]
        assert start["num_points"] == 2
        resumable = start["resumable"]
        assert resumable["plan"] == "tile_scan"
        assert resumable["args"] == [[{"named": "camera"}, {"named": "truth"}], {"named": "z"}]
        kwargs = resumable["kwargs"]
        assert kwargs["stage"] == [{"named": "x"}, {"named": "y"}]
        assert kwargs["analysis"] == {"named": "sharpness", "parameters": SharpnessAnalysis().parameters}
        assert kwargs["channels"] == ["single(na=0.4, angle_deg=0)"]
        assert kwargs["origin_um"] == [START["x"], START["y"]]
        assert kwargs["approach"] == {"direction": 1, "overshoot_um": 0.0, "settle_s": 0.0}

    def test_each_series_has_a_name_of_its_own(self, RE, make, scan, documents):  # noqa: N803
        bench = make()
        for _ in range(2):
            RE(scan(bench, tiles=[(0.0, 0.0)], kind=None, **knowing(bench)))
        assert len({start["series"] for start in documents.named("start")}) == 2

    def test_only_what_is_not_done(self, RE, make, scan, documents):  # noqa: N803
        bench = make()
        RE(scan(bench, kind=None, done=[[0, 3], 5, 8], **knowing(bench)))
        assert [data["tile_index"] for data in documents.events("tile")] == [4, 6, 7]
        (start,) = documents.named("start")
        assert start["done"] == [[0, 3], [5, 5], [8, 8]]
        assert start["num_points"] == 3

    def test_what_a_tile_says(self, RE, make, scan, documents):  # noqa: N803
        bench = make()
        RE(scan(bench, tiles=[(0.0, 0.0)], kind=None, **knowing(bench)))
        (frame,), (tile,), (look,) = map(documents.events, ("primary", "tile", "tile_focus"))
        shared = {
            "tile_index": 0,
            "tile_row": 0,
            "tile_column": 0,
            "tile_time_point": 0,
            "tile_attempt": 0,
            "tile_source": "focused",
            "tile_focus_um": dome(0.0, 0.0),
            "tile_sigma_um": 0.1,
            "tile_reason": "found",
            "tile_marked": False,
        }
        assert shared.items() <= frame.items()
        assert {key for key in frame if key.startswith("tile_")} - set(shared) == {
            "tile_channel",
            "tile_offset_um",
        }
        assert (
            shared
            | {
                "tile_frames": 1,
                "tile_blurred": False,
                "tile_exposures": 1,
                "tile_time_s": tile["tile_time_s"],
            }
            == tile
        )
        assert (look["tile_method"], look["tile_exposures"]) == ("knowing", 1)


class TestInterrupted:
    TILES = [(60.0, 0.0), (120.0, 40.0)]

    @pytest.fixture
    def plan(self, make, scan, analysis):
        bench = make()
        bench.z.set(START["z"]).wait(1)
        options = {
            "tiles": self.TILES,
            "kind": None,
            "light": bench.leds,
            "channels": ["half_annulus_top"],
            "watch": analysis,
            "approach": Approach(overshoot_um=1.0),
            **knowing(bench),
        }
        return bench, lambda **more: scan(bench, **{**options, **more})

    def test_whatever_fails_all_is_put_back(self, RE, plan, documents, messages):  # noqa: N803
        bench, make_plan = plan
        one = {"tiles": self.TILES[:1]}
        RE(make_plan(**one))
        count = len(messages)
        closing = 1 + 6  # the run, and what was staged
        assert count > 40
        for index in range(count - closing):
            documents.clear()
            with pytest.raises(RuntimeError, match="thrown in place"):
                RE(at_message(make_plan(**one), index, throwing))
            assert bench.now == START, index
            assert RE.state == "idle"
            if documents.named("start"):
                assert documents.named("stop")[-1]["exit_status"] == "fail"

    def test_a_pause_takes_no_tile_twice(self, RE, plan, documents, messages):  # noqa: N803
        bench, make_plan = plan
        RE(make_plan())
        expected = documents.events("primary")
        for index in range(0, len(messages), 17):
            documents.clear()
            with pytest.raises(RunEngineInterrupted):
                RE(at_message(make_plan(), index, pausing))
            RE.resume()
            for stream, count in (("primary", 2), ("tile", 2), ("tile_focus", 2)):
                uids = {doc["uid"] for doc in documents.named("descriptor") if doc["name"] == stream}
                events = [doc for doc in documents.named("event") if doc["descriptor"] in uids]
                newest = {doc["seq_num"]: doc["data"] for doc in events}
                assert [data["tile_index"] for data in newest.values()] == [0, 1], (index, stream)
                assert len(events) <= count + 1
                if stream == "primary":
                    for data, before in zip(newest.values(), expected, strict=True):
                        assert [data[key] for key in ("x", "y", "z", "leds")] == [
                            before[key] for key in ("x", "y", "z", "leds")
                        ], index
            assert bench.now == START, index
            messages.clear()

    def test_an_abort_puts_back(self, RE, plan, documents, messages):  # noqa: N803
        bench, make_plan = plan
        RE(make_plan())
        for index in range(3, len(messages) - 7, 37):
            with pytest.raises(RunEngineInterrupted):
                RE(at_message(make_plan(), index, pausing))
            RE.abort()
            assert bench.now == START, index

    def test_a_dry_run(self, make, scan, capsys):
        bench = make()
        channels = ["annulus", "half_annulus_top"]
        summarize_plan(scan(bench, rows=2, columns=2, light=bench.leds, channels=channels))
        lines = capsys.readouterr().out.splitlines()
        assert sum("'tile'" in line and "'leds'" in line for line in lines) == 8
        assert bench.now == START
        messages = list(scan(bench, rows=1, columns=1, on_failure="stop", kind=None))
        assert [msg.command for msg in messages].count("open_run") == 1


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"rows": None}, ValueError, "give rows, columns and pitch_um, or tiles"),
        ({"rows": 0}, ValueError, "rows must be a positive whole number, got 0"),
        ({"columns": 2.5}, ValueError, "columns must be a positive whole number, got 2.5"),
        ({"pitch_um": (1.0, 0.0)}, ValueError, "pitch_um must be one distance"),
        ({"origin_um": (0.0, math.nan)}, ValueError, "origin_um must be a finite"),
        ({"origin_um": FAR_UM, "pitch_um": 1000.0}, LimitError, "is not within the limits"),
        ({"tiles": [(0.0, 0.0)], "rows": 3}, ValueError, "either tiles or rows"),
        ({"tiles": []}, ValueError, "tiles must be one or more places"),
        ({"tiles": [(0.0,)]}, ValueError, r"tiles must be finite \(x, y\) or"),
        ({"stage": ()}, ValueError, "stage must be two axes"),
        ({"depth_of_field_um": 0.0}, ValueError, "depth_of_field_um must be positive"),
        ({"travel_um": (5.0, -5.0)}, ValueError, "travel_um must be two finite positions"),
        ({"travel_um": (5.0, 9.0)}, ValueError, "must contain where z stands, 3.0 um"),
        ({"travel_um": (-500.0, 9.0)}, LimitError, "-500.0 um is not within the limits"),
        ({"range_um": -1.0}, ValueError, "range_um must be positive"),
        ({"focus": "magic"}, UnknownMethodError, "unknown method 'magic'"),
        ({"focus_options": {"speed": 3}}, TypeError, "speed"),
        ({"focus_options": {"bounds_um": (0, 1)}}, ValueError, "bounds_um is no option of focusing at tiles"),
        ({"wider": {"focus": "magic"}}, UnknownMethodError, "unknown method 'magic'"),
        ({"on_failure": "pray"}, ValueError, "on_failure must be one of mark, surface, wider, stop"),
        ({"on_failure": ("surface", "mark")}, ValueError, "nothing comes after 'surface'"),
        ({"on_failure": ()}, ValueError, "on_failure must be one of"),
        ({"kind": "bumpy"}, ValueError, "kind must be one of plane, thin_plate"),
        ({"unevenness_um": 0.0}, ValueError, "unevenness_um must be positive"),
        ({"survey": -1}, ValueError, "survey must be a positive whole number, got -1"),
        ({"survey": 2.5}, ValueError, "survey must be a positive whole number, got 2.5"),
        ({"focus": "map"}, ValueError, "focus 'map' hands on to another method"),
        ({"surface": [(1.0, 2.0)]}, ValueError, "surface must be points"),
        ({"sigma_um": 0.0}, ValueError, "sigma_um must be positive"),
        ({"refocus_every": 0}, ValueError, "positive whole number of exposures"),
        ({"refocus_every_s": -1.0}, ValueError, "seconds must be positive"),
        ({"blurred_below": 2.0}, ValueError, "blurred_below"),
        ({"patience": 0}, ValueError, "patience must be a positive whole number"),
        ({"channels": ["annulus"]}, ValueError, "channels are shown by a light: got .'annulus'. and none"),
        ({"channels": [], "light": True}, ValueError, "channels must be one or more patterns"),
        ({"channels": ["moonlight"], "light": True}, PatternError, "'moonlight' is no illumination"),
        ({"z_offsets_um": ()}, ValueError, "z_offsets_um must be one or more finite distances"),
        ({"approach": {"speed": 1}}, ValueError, "approach must be an Approach or its fields direction"),
        ({"stage_approach": {"direction": 0}}, ValueError, "direction must be"),
        ({"done": [[3, 9]]}, ValueError, r"done must be numbers or \[first, last\] from 0 to 8"),
        ({"done": [[0, 8]]}, ValueError, "all 9 are done"),
    ],
)
def test_bad_input_is_refused_before_anything_moves(
    RE, make, scan, documents, messages, options, error, said
):  # noqa: N803
    bench = make()
    if options.get("light"):
        options = {**options, "light": bench.leds}
    with pytest.raises(error, match=said):
        RE(scan(bench, **options))
    assert not documents
    assert not [msg for msg in messages if msg.command in ("set", "open_run", "stage")]


def test_an_analysis_that_is_not_subscribed(RE, make, scan, documents, messages):  # noqa: N803
    bench = make()
    with pytest.raises(NotSubscribedError, match="'elsewhere' has seen no run open"):
        RE(scan(bench, watch=SharpnessAnalysis(name="elsewhere")))
    assert not [msg for msg in messages if msg.command == "set"]
    assert bench.now == START
