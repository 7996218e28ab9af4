"""Time-lapses: when and where they focus, how they follow the drift, and when time points begin."""

import json
import math
import threading
from collections import Counter

import numpy as np
import pytest
from bluesky.simulators import summarize_plan
from bluesky.utils import RunEngineInterrupted
from interrupting import at_message, pausing, throwing
from tiles import START, TileBench, knowing, knowing_focus

from bluesky_autofocus.clock import VirtualClock, WallClock
from bluesky_autofocus.plans import METHODS, FocusNotFoundError, time_lapse
from bluesky_autofocus.plans._tiling._time_lapse import Schedule

POSITIONS = [(0.0, 0.0), (500.0, -300.0), (-400.0, 100.0)]


@pytest.fixture
def make(tmp_path):
    return lambda **options: TileBench(tmp_path, **options)


@pytest.fixture(autouse=True)
def methods(monkeypatch):
    monkeypatch.setitem(METHODS, "knowing", knowing_focus)


@pytest.fixture
def lapse(RE, analysis):  # noqa: N803
    """Return a function that makes the plan for a bench."""

    def lapse(bench, **options):
        places = {"stage": bench.stage, "positions": POSITIONS}
        options = {
            "analysis": analysis,
            "interval_s": 60.0,
            "count": 4,
            "depth_of_field_um": bench.depth_of_field_um,
            "travel_um": (-60.0, 60.0),
            "range_um": 30.0,
            "clock": bench.clock,
            **({} if "positions" in options else places),
            **options,
        }
        return time_lapse(bench.detectors, bench.z, **options)

    return lapse


def visits(documents):
    return [(data["tile_time_point"], data["tile_index"]) for data in documents.events("tile")]


def looked(documents):
    return [(data["tile_time_point"], data["tile_index"]) for data in documents.events("tile_focus")]


class TestInFocus:
    def test_positions_that_drift_each_by_itself(self, RE, make, lapse, documents):  # noqa: N803
        """Two drift, one of them the other way and faster; each is followed, and looked at as it needs."""
        bench = make()
        rates = {500.0: 3e-3, -400.0: -6e-3}
        bench.drift = lambda time_s: rates.get(bench.x.position, 0.0) * time_s
        RE(lapse(bench, count=16))
        frames = documents.events("primary")
        assert visits(documents) == [(point, index) for point in range(16) for index in range(3)]
        assert abs(bench.errors_dof(frames)).max() < 1.0
        assert np.ptp([data["truth_focus_um"] for data in frames if data["tile_index"] == 2]) > 5
        looks = Counter(index for _, index in looked(documents))
        assert sum(looks.values()) < 36
        assert looked(documents)[:3] == [(0, 0), (0, 1), (0, 2)]
        # each stands at its own place, in x, y and z
        for data in frames:
            assert (data["x"], data["y"]) == POSITIONS[data["tile_index"]]
        assert bench.now == START

    def test_where_it_stands(self, RE, make, lapse, documents, messages):  # noqa: N803
        bench = make(drift=lambda time_s: 1e-3 * time_s)
        RE(lapse(bench, stage=(), positions=None, count=5, **knowing(bench)))
        assert visits(documents) == [(point, 0) for point in range(5)]
        assert not [msg for msg in messages if msg.command == "set" and msg.obj in bench.stage]
        assert abs(bench.errors_dof(documents.events("primary"))).max() < 1.0

    def test_a_position_says_where_focus_is_expected(self, RE, make, lapse, documents):  # noqa: N803
        """It is looked for there, not where the axis was."""
        bench = make(height=lambda x_um, y_um: 50.0)
        positions = [(0.0, 0.0, 48.0)]
        RE(lapse(bench, stage=bench.stage, positions=positions, count=1, **knowing(bench)))
        assert documents.events("tile_focus")[0]["tile_found"]
        assert bench.errors_dof(documents.events("primary")) == pytest.approx([0])

    def test_at_the_latest_after_so_many(self, RE, make, lapse, documents):  # noqa: N803
        bench = make()
        RE(lapse(bench, count=7, sigma_um=50.0, refocus_every=3, **knowing(bench)))
        assert {point for point, _ in looked(documents)} == {0, 3, 6}
        documents.clear()
        RE(lapse(bench, count=7, sigma_um=50.0, refocus_every_s=119.0, **knowing(bench)))
        assert {point for point, _ in looked(documents)} == {0, 2, 4, 6}


class TestFrugal:
    def test_its_own_frames_tell_that_focus_was_lost(self, RE, make, lapse, analysis, documents):  # noqa: N803
        """The second position is bumped, nobody knows: the frame is taken again, the others cost nothing."""
        bench = make()
        bench.drift = lambda time_s: 8.0 if bench.x.position == 500 and time_s > 150 else 0.0
        RE(lapse(bench, count=6, sigma_um=50.0, watch=analysis, **knowing(bench)))
        assert looked(documents) == [(0, 0), (0, 1), (0, 2), (3, 1)]
        (again,) = [data for data in documents.events("tile") if data["tile_attempt"]]
        assert (again["tile_time_point"], again["tile_index"], again["tile_exposures"]) == (3, 1, 2)
        counted = [
            data
            for data in documents.events("primary")
            if data["tile_attempt"] or (data["tile_time_point"], data["tile_index"]) != (3, 1)
        ]
        assert len(counted) == 18
        assert abs(bench.errors_dof(counted)).max() < 1.0

    def test_a_field_that_changes_is_not_taken_for_blurred_for_long(
        self,
        RE,
        make,
        lapse,
        analysis,
        documents,  # noqa: N803
    ):
        """Cells left: half the detail is what in focus looks like from then on."""
        bench = make()
        bench.detail = lambda x_um, y_um: 0.5 if bench.clock.now_s() > 150 else 1.0
        options = {"stage": (), "positions": None, "sigma_um": 50.0, "watch": analysis}
        RE(lapse(bench, count=8, **options, **knowing(bench)))
        assert looked(documents) == [(0, 0), (3, 0)]
        assert not any(data["tile_attempt"] or data["tile_blurred"] for data in documents.events("tile"))


class TestNotFound:
    def test_the_last_good_focus_of_each_position(self, RE, make, lapse, documents):  # noqa: N803
        """The specimen goes away: each position is exposed where it was in focus last, and marked."""
        bench = make()
        bench.detail = lambda x_um, y_um: float(bench.clock.now_s() < 100)
        RE(lapse(bench, sigma_um=0.01, **knowing(bench)))
        tiles = documents.events("tile")
        good = [data["tile_focus_um"] for data in tiles[:3]]
        assert len(set(good)) == 3
        for data in tiles[6:]:
            assert data["tile_focus_um"] == pytest.approx(good[data["tile_index"]], abs=0.5)
            assert (data["tile_frames"], data["tile_marked"], data["tile_reason"]) == (1, True, "empty")

    def test_it_is_left_out(self, RE, make, lapse, documents):  # noqa: N803
        bench = make(detail=lambda x_um, y_um: float(x_um != 500))
        RE(lapse(bench, on_failure="mark", count=2, **knowing(bench)))
        assert [data["tile_index"] for data in documents.events("primary")] == [0, 2, 0, 2]
        assert [data["tile_marked"] for data in documents.events("tile")] == [False, True, False] * 2

    def test_it_stops(self, RE, make, lapse, documents):  # noqa: N803
        bench = make(detail=lambda x_um, y_um: float(x_um != 500))
        with pytest.raises(FocusNotFoundError):
            RE(lapse(bench, on_failure="stop", **knowing(bench)))
        assert visits(documents) == [(0, 0)]
        assert bench.now == START


class TestTime:
    def test_time_points_are_an_interval_apart(self, RE, make, lapse, documents):  # noqa: N803
        bench = make()
        RE(lapse(bench, interval_s=100.0, count=5, **knowing(bench)))
        begun = [data["tile_time_s"] for data in documents.events("tile") if data["tile_index"] == 0]
        assert np.diff(begun) == pytest.approx([100.0] * 4, abs=1.0)

    def test_the_schedule(self):
        schedule = Schedule(10.0)
        assert schedule.next_s(3.0) == 3.0
        assert schedule.next_s(5.0) == 13.0
        # late by less than an interval: at once, and the one after it is on time
        assert schedule.next_s(27.0) == 27.0
        assert schedule.next_s(28.0) == 33.0
        # after a long pause none is made up for
        assert schedule.next_s(90.0) == 90.0
        assert schedule.next_s(91.0) == 100.0

    def test_of_real_time(self, RE, make, lapse, documents):  # noqa: N803
        bench = make()
        clock = WallClock(speed=1000.0)
        RE(lapse(bench, interval_s=50.0, count=3, clock=clock, **knowing(bench)))
        begun = [data["tile_time_s"] for data in documents.events("tile") if data["tile_index"] == 0]
        assert (np.diff(begun) > 10).all() and clock.now_s() > 100

    def test_a_pause_while_it_waits(self, RE, make, lapse, documents):  # noqa: N803
        """Nothing is taken twice, and the wait ends when it was to end."""
        bench = make()
        clock = WallClock(speed=100.0)
        timer = threading.Timer(0.3, RE.request_pause)
        timer.start()
        options = {"stage": (), "positions": None, "interval_s": 60.0, "count": 2, "clock": clock}
        with pytest.raises(RunEngineInterrupted):
            RE(lapse(bench, **options, **knowing(bench)))
        timer.join()
        RE.resume()
        assert visits(documents) == [(0, 0), (1, 0)]
        assert documents.named("stop")[-1]["exit_status"] == "success"

    def test_memory_stays_flat(self, RE, make, lapse):  # noqa: N803
        """Between checkpoints the RunEngine keeps every message; while it waits there are some too."""
        bench = make()
        longest = []
        RE.msg_hook = lambda msg: longest.append(len(RE._msg_cache or ()))
        RE(lapse(bench, interval_s=3600.0, count=2, **knowing(bench)))
        assert max(longest) < 40


class TestRecorded:
    def test_the_run_says_what_it_is(self, RE, make, lapse, documents):  # noqa: N803
        bench = make()
        RE(lapse(bench, count=2, md={"sample": "slide 7"}))
        (start,) = documents.named("start")
        json.dumps(start)
        assert (start["plan_name"], start["sample"], start["num_points"]) == ("time_lapse", "slide 7", 6)
        kwargs = start["resumable"]["kwargs"]
        assert (kwargs["count"], kwargs["interval_s"]) == (2, 60.0)
        assert kwargs["positions"] == [list(place) for place in POSITIONS]

    def test_only_what_is_not_done(self, RE, make, lapse, documents):  # noqa: N803
        """Visits count position by position and time point by time point; a time point that is done is not
        waited for."""
        bench = make()
        RE(lapse(bench, done=[[0, 3], 6, 7, 8], **knowing(bench)))
        assert visits(documents) == [(1, 1), (1, 2), (3, 0), (3, 1), (3, 2)]
        assert bench.clock.now_s() < 70


class TestInterrupted:
    @pytest.fixture
    def plan(self, make, lapse, analysis):
        bench = make()
        options = {"light": bench.leds, "channels": ["half_annulus_top"], "watch": analysis, "count": 1}
        positions = {"stage": bench.stage, "positions": POSITIONS[1:2]}
        return bench, lambda **more: lapse(bench, **{**options, **positions, **knowing(bench), **more})

    def test_whatever_fails_all_is_put_back(self, RE, plan, messages):  # noqa: N803
        bench, make_plan = plan
        RE(make_plan())
        for index in range(0, len(messages) - 7, 7):
            with pytest.raises(RuntimeError, match="thrown in place"):
                RE(at_message(make_plan(), index, throwing))
            assert bench.now == START, index
            assert RE.state == "idle"

    def test_a_pause_takes_no_position_twice(self, RE, plan, documents, messages):  # noqa: N803
        bench, make_plan = plan
        RE(make_plan(count=2))
        for index in range(0, len(messages), 29):
            documents.clear()
            with pytest.raises(RunEngineInterrupted):
                RE(at_message(make_plan(count=2), index, pausing))
            RE.resume()
            for stream in ("primary", "tile"):
                uids = {doc["uid"] for doc in documents.named("descriptor") if doc["name"] == stream}
                newest = {
                    d["seq_num"]: d["data"] for d in documents.named("event") if d["descriptor"] in uids
                }
                assert [data["tile_time_point"] for data in newest.values()] == [0, 1], (index, stream)
            assert bench.now == START

    def test_a_dry_run(self, make, lapse, capsys):
        bench = make()
        bench.clock = VirtualClock()
        summarize_plan(lapse(bench, count=3))
        lines = capsys.readouterr().out.splitlines()
        assert sum("'tile'" in line and "'camera'" in line for line in lines) == 9
        assert bench.now == START


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"positions": None}, ValueError, "give both stage and positions, or neither"),
        ({"positions": []}, ValueError, "positions must be one or more places"),
        ({"positions": [(0.0, math.inf)]}, ValueError, "positions must be finite"),
        ({"count": 0}, ValueError, "count must be a positive whole number"),
        ({"interval_s": -1.0}, ValueError, "interval_s must be finite and not negative"),
        ({"done": [[0, 11]]}, ValueError, "all 4 time points are done"),
        ({"drift": {"speed": 3}}, TypeError, "speed"),
    ],
)
def test_bad_input_is_refused_before_anything_moves(
    RE, make, lapse, documents, messages, options, error, said
):  # noqa: N803
    bench = make()
    with pytest.raises(error, match=said):
        RE(lapse(bench, **{"stage": bench.stage, "positions": POSITIONS, **options}))
    assert not documents
    assert not [msg for msg in messages if msg.command in ("set", "open_run", "stage")]
