"""Focal stacks of many fields: what is recorded, in which order, and what is put back."""

import itertools
import math

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.simulators import summarize_plan
from bluesky.utils import RunEngineInterrupted
from interrupting import at_message, pausing, throwing
from ophyd import Signal
from ophyd.utils import LimitError

from bluesky_autofocus.devices import SimulatedAxis, SimulatedCamera, SimulatedLEDArray
from bluesky_autofocus.leds import PatternError, Single
from bluesky_autofocus.plans import Approach, collect_focal_stacks

PATTERNS = ["half_annulus_top", "single(na=0.4, angle_deg=0)"]
POSITIONS = [(100.0, 0.0), (200.0, -50.0), (300.0, 0.0, 5.0)]
START = {"x": 10.0, "y": 20.0, "z": 3.0, "leds": "brightfield", "exposure_s": 0.02}


class Bench:
    def __init__(self, frame_directory):
        self.x, self.y, self.z = (
            SimulatedAxis(name=name, limits=(-400.0, 400.0), position_um=START[name]) for name in "xyz"
        )
        self.leds = SimulatedLEDArray(name="leds")
        number = itertools.count(1)
        self.camera = SimulatedCamera(
            name="camera",
            render=lambda: np.full((4, 5), next(number), np.uint16),
            frame_directory=frame_directory,
            frame_shape=(4, 5),
        )
        self.put_at_start()

    def put_at_start(self):
        for name in "xyz":
            getattr(self, name).set(START[name]).wait(1)
        self.leds.set(START["leds"]).wait(1)
        self.camera.exposure_s.put(START["exposure_s"])

    @property
    def now(self):
        return {
            **{name: getattr(self, name).position for name in "xyz"},
            "leds": self.leds.pattern.get(),
            "exposure_s": self.camera.exposure_s.get(),
        }

    def collect(self, **options):
        options = {
            "positions": POSITIONS,
            "sample": "slide 7",
            "z_um": (-1.0, 1.0),
            "exposure": self.camera.exposure_s,
            "exposures_s": (0.01, 0.1),
            **options,
        }
        options = {"leds": self.leds, "stage": (self.x, self.y), **options}
        return collect_focal_stacks([self.camera], self.z, **options)


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path / "frames")


def completed(documents):
    return [data["field_number"] for data in documents.events("field")]


def end_of(documents):
    return documents.named("stop")[-1]["exit_status"]


def test_every_exposure_says_where_and_under_which_light_it_was(RE, bench, documents):  # noqa: N803
    RE(bench.collect())
    events = documents.events("stack")
    assert len(events) == 3 * 3 * 2 == documents.named("start")[0]["num_points"]
    numbers = [(e["field_number"], e["field_plane"], e["field_pattern"]) for e in events]
    assert numbers == list(itertools.product(range(3), range(3), range(2)))
    for event in events:
        x, y, *z = POSITIONS[event["field_number"]]
        about = z[0] if z else START["z"]
        assert (event["x"], event["y"]) == (x, y)
        assert event["z"] == about + event["field_plane"] - 1.0
        assert event["leds"] == PATTERNS[event["field_pattern"]]
        assert event["camera_exposure_s"] == (0.01, 0.1)[event["field_pattern"]]
    assert documents.events("field") == [{"field_number": n, "field_exposures": 6} for n in range(3)]
    assert len(documents.named("stream_datum")) == len(events)
    assert bench.now == START
    assert end_of(documents) == "success"


def test_the_run_says_what_it_is(RE, bench, documents):  # noqa: N803
    RE(bench.collect(collection="c1", resume_of="earlier", md={"operator": "me", "plan_name": "mine"}))
    (start,) = documents.named("start")
    assert start["collection"] == "c1"
    assert start["resume_of"] == "earlier"
    assert start["sample"] == "slide 7"
    assert start["patterns"] == PATTERNS
    assert start["positions"] == [list(position) for position in POSITIONS]
    assert start["z_um"] == [-1.0, 1.0]
    assert start["step_um"] == 1.0
    assert start["fields"] == [0, 1, 2]
    assert start["motors"] == ["z", "x", "y"]
    assert start["operator"] == "me"
    assert start["plan_name"] == "mine"


def test_a_new_collection_gets_a_name_of_its_own(bench):
    RE = RunEngine({}, call_returns_result=True)  # noqa: N806 - what every bluesky user calls it
    from bluesky_autofocus.frames import install_frame_routing

    install_frame_routing(RE)
    names = []
    RE.subscribe(lambda name, doc: names.append(doc["collection"]), "start")
    returned = [RE(bench.collect(positions=POSITIONS[:1])).plan_result for _ in range(2)]
    assert returned == names
    assert len(set(names)) == 2


def test_another_run_adds_the_fields_that_are_missing(RE, bench, documents):  # noqa: N803
    RE(bench.collect(skip=[0, 2], collection="c1"))
    assert completed(documents) == [1]
    assert documents.named("start")[0]["fields"] == [1]
    assert {event["x"] for event in documents.events("stack")} == {200.0}


def test_planes_are_approached_from_one_side(RE, bench, messages):  # noqa: N803
    RE(bench.collect(approach=Approach(direction=1, overshoot_um=2.0), positions=POSITIONS[:2]))
    moves = [msg.args[0] for msg in messages if msg.command == "set" and msg.obj is bench.z]
    # from above to below the lowest plane, then upwards only
    assert moves[:8] == [0.0, 2.0, 3.0, 4.0, 0.0, 2.0, 3.0, 4.0]
    messages.clear()
    RE(bench.collect(approach=Approach(direction=-1), positions=POSITIONS[:1]))
    assert [msg.args[0] for msg in messages if msg.command == "set" and msg.obj is bench.z][:3] == [4, 3, 2]


def test_a_light_that_stays_is_not_switched(RE, bench, messages):  # noqa: N803
    RE(bench.collect(patterns=["annulus"], exposure=None, exposures_s=None))
    switched = [msg.args[0] for msg in messages if msg.command == "set" and msg.obj is bench.leds]
    assert switched == ["annulus", "brightfield"]


def test_a_dry_run(bench, capsys):
    before = bench.now
    summarize_plan(bench.collect())
    assert capsys.readouterr().out.count("Read ['camera', 'leds', 'z', 'x', 'y', 'field']") == 18
    assert bench.now == before


@pytest.fixture
def count(RE, bench, messages):  # noqa: N803
    def count(**options):
        messages.clear()
        RE(bench.collect(**options))
        return len(messages)

    return count


def test_whatever_fails_all_is_put_back(RE, bench, documents, count):  # noqa: N803
    options = {
        "positions": POSITIONS[1:2],
        "approach": Approach(overshoot_um=1.0),
        "patterns": PATTERNS[:1],
        "exposures_s": (0.1,),
    }
    messages = count(**options)
    closing = 1 + 5  # the run, and what was staged
    for index in range(messages - closing):
        documents.clear()
        with pytest.raises(RuntimeError, match="thrown in place"):
            RE(at_message(bench.collect(**options), index, throwing))
        assert bench.now == START, index
        assert RE.state == "idle"
        if documents.named("start"):
            assert end_of(documents) == "fail"


def test_after_an_abort_all_is_put_back_and_what_is_complete_counts(RE, bench, documents, count):  # noqa: N803
    for index in range(0, count(positions=POSITIONS[:2]) - 6, 19):
        documents.clear()
        with pytest.raises(RunEngineInterrupted):
            RE(at_message(bench.collect(positions=POSITIONS[:2]), index, pausing))
        RE.abort()
        assert bench.now == START, index
        done = completed(documents)
        assert done == list(range(len(done)))
        if len(done) < 2:
            RE(bench.collect(positions=POSITIONS[:2], skip=done))
        assert completed(documents) == [0, 1]


def test_a_pause_changes_nothing(RE, bench, documents, count):  # noqa: N803
    messages = count(positions=POSITIONS[:2])
    expected = documents.events("stack")
    for index in range(0, messages, 23):
        documents.clear()
        with pytest.raises(RunEngineInterrupted):
            RE(at_message(bench.collect(positions=POSITIONS[:2]), index, pausing))
        RE.resume()
        uids = {doc["uid"] for doc in documents.named("descriptor") if doc["name"] == "stack"}
        newest = {d["seq_num"]: d["data"] for d in documents.named("event") if d["descriptor"] in uids}
        for key in ("x", "y", "z", "leds", "field_number", "field_plane", "field_pattern"):
            assert [data[key] for data in newest.values()] == [data[key] for data in expected]
        assert completed(documents)[-1] == 1
        assert bench.now == START


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"positions": []}, ValueError, "no field to collect"),
        ({"positions": [(1.0,)]}, ValueError, "positions must be finite"),
        ({"positions": [(1.0, math.nan)]}, ValueError, "positions must be finite"),
        ({"positions": [(1000.0, 0.0)]}, LimitError, "1000.0 um is not within"),
        ({"skip": [0, 1, 2]}, ValueError, "no field to collect"),
        ({"skip": [7]}, ValueError, r"not in positions: \[7\]"),
        ({"z_um": (5.0, -5.0)}, ValueError, "z_um must be two finite positions"),
        ({"z_um": (-500.0, 5.0)}, LimitError, "not within the limits"),
        ({"step_um": 0.0}, ValueError, "step_um must be positive"),
        ({"step_um": 1.5}, ValueError, "fewer than 3 planes"),
        ({"sample": ""}, ValueError, "sample must be the name"),
        ({"patterns": []}, ValueError, "patterns must be one or more"),
        ({"patterns": ["annulus", "annulus"]}, ValueError, "different ones"),
        ({"patterns": ["moonlight", "annulus"]}, PatternError, "'moonlight' is no illumination"),
        ({"patterns": [Single(0.99), "annulus"]}, PatternError, "no LED within"),
        ({"exposures_s": None}, ValueError, "both exposure"),
        ({"exposures_s": (0.1,)}, ValueError, "one for each"),
        ({"exposures_s": (0.1, -1.0)}, ValueError, "exposures_s must be positive"),
        ({"exposures_s": (0.1, 1e9)}, LimitError, "exposure_s"),
        ({"travel_um": (0.0, 5.5)}, ValueError, "travel_um .* must contain the planes and the start"),
    ],
)
def test_bad_input_is_refused_before_anything_moves(RE, bench, documents, messages, options, error, said):  # noqa: N803
    with pytest.raises(error, match=said):
        RE(bench.collect(**options))
    assert not documents
    assert not [msg for msg in messages if msg.command in ("set", "open_run", "stage")]


class Focus(Signal):
    """Where the field that a bench shows is in focus."""

    def __init__(self, bench, **kwargs):
        super().__init__(name="focus", **kwargs)
        self.bench = bench

    def get(self, **kwargs):
        return 1.0 + self.bench.x.position / 100


UNLIT = {"leds": None, "exposure": None, "exposures_s": None}


class TestWithoutLight:
    """The light is left as it is."""

    def test_the_light_is_not_touched_and_has_no_name(self, RE, bench, documents, messages):  # noqa: N803
        RE(bench.collect(**UNLIT))
        (start,) = documents.named("start")
        assert start["patterns"] == [""]
        events = documents.events("stack")
        assert [(e["field_number"], e["field_plane"]) for e in events] == list(
            itertools.product(range(3), range(3))
        )
        assert {event["field_pattern"] for event in events} == {0}
        assert not [key for key in events[0] if key.startswith("leds")]
        assert not [msg for msg in messages if msg.obj is bench.leds]
        assert documents.events("field") == [{"field_number": n, "field_exposures": 3} for n in range(3)]
        assert start["num_points"] == 9
        assert bench.now == START

    def test_the_exposure_time_may_be_set_all_the_same(self, RE, bench, documents):  # noqa: N803
        RE(bench.collect(leds=None, exposures_s=(0.1,), patterns=[]))
        assert {event["camera_exposure_s"] for event in documents.events("stack")} == {0.1}
        assert bench.now == START

    def test_another_run_adds_the_fields_that_are_missing(self, RE, bench, documents):  # noqa: N803
        RE(bench.collect(**UNLIT, skip=[0, 2], collection="c1", resume_of="earlier"))
        assert completed(documents) == [1]
        assert documents.named("start")[0]["resume_of"] == "earlier"

    def test_whatever_fails_all_is_put_back(self, RE, bench, documents, count):  # noqa: N803
        options = {**UNLIT, "truth": Focus(bench), "positions": POSITIONS[1:2]}
        closing = 1 + 4  # the run, and what was staged
        for index in range(count(**options) - closing):
            with pytest.raises(RuntimeError, match="thrown in place"):
                RE(at_message(bench.collect(**options), index, throwing))
            assert bench.now == START, index
            assert RE.state == "idle"

    def test_patterns_without_light_are_refused(self, RE, bench, documents, messages):  # noqa: N803
        with pytest.raises(ValueError, match=r"patterns are shown by leds: got \['annulus'\] and no leds"):
            RE(bench.collect(**UNLIT, patterns=["annulus"]))
        assert not documents
        assert not [msg for msg in messages if msg.command in ("set", "open_run", "stage")]


class TestTruth:
    def test_it_is_in_every_event_of_the_stack(self, RE, bench, documents):  # noqa: N803
        RE(bench.collect(truth=Focus(bench)))
        assert documents.named("start")[0]["truth_key"] == "focus"
        events = documents.events("stack")
        assert [event["focus"] for event in events] == [1 + event["x"] / 100 for event in events]
        assert len({event["focus"] for event in events}) == 3

    def test_a_detector_that_knows_it_is_read_once(self, RE, bench, documents, messages):  # noqa: N803
        focus = Focus(bench)
        options = {**UNLIT, "stage": (bench.x, bench.y), "positions": POSITIONS[:1], "sample": "s"}
        del options["exposure"], options["exposures_s"]
        RE(collect_focal_stacks([bench.camera, focus], bench.z, z_um=(-1, 1), truth=focus, **options))
        assert documents.named("start")[0]["truth_key"] == "focus"
        assert [event["focus"] for event in documents.events("stack")] == [2.0] * 3

    def test_of_a_device_with_several_readings_the_hinted_one_counts(self, RE, bench, documents):  # noqa: N803
        RE(bench.collect(truth=SimulatedAxis(name="focus", limits=(-5, 5), position_um=1.5)))
        assert documents.named("start")[0]["truth_key"] == "focus"
        assert {event["focus"] for event in documents.events("stack")} == {1.5}

    def test_without_it_nothing_is_said(self, RE, bench, documents):  # noqa: N803
        RE(bench.collect())
        assert "truth_key" not in documents.named("start")[0]

    def test_a_dry_run(self, bench, capsys):
        summarize_plan(bench.collect(truth=Focus(bench)))
        assert capsys.readouterr().out.count("Read ['camera', 'leds', 'z', 'x', 'y', 'focus', 'field']") == 18

    @pytest.mark.parametrize("value", ["sharp", True])
    def test_what_is_no_number_is_refused(self, RE, bench, documents, messages, value):  # noqa: N803
        with pytest.raises(ValueError, match="truth must read one number, but lamp reads"):
            RE(bench.collect(truth=Signal(name="lamp", value=value)))
        with pytest.raises(ValueError, match=r"truth must read one number, but leds reads"):
            RE(bench.collect(truth=bench.leds))
        assert not documents
        assert not [msg for msg in messages if msg.command in ("set", "open_run", "stage")]
