"""Focusing in plans that know nothing of it: when, where, and that the plan does not notice."""

import inspect
import json
import math
from functools import partial

import numpy as np
import pytest
from bluesky import Msg, SupplementalData
from bluesky import plan_stubs as bps
from bluesky import plans as bp
from bluesky import preprocessors as bpp
from bluesky.simulators import summarize_plan
from bluesky.utils import RunEngineInterrupted
from interrupting import at_message, pausing, throwing
from ophyd import Signal

from bluesky_autofocus.callbacks import AnalysisError, NotSubscribedError, SharpnessAnalysis
from bluesky_autofocus.catalog import open_catalog
from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.devices import SimulatedAxis, SimulatedRunningAxis
from bluesky_autofocus.plans import (
    EveryExposures,
    EverySeconds,
    Farther,
    FocusNotFoundError,
    PlanConflictError,
    UnknownMethodError,
    autofocus_decorator,
    autofocus_wrapper,
    brent_focus,
    focus_if_blurred,
    sweep_focus,
)
from bluesky_autofocus.records import Reason
from bluesky_autofocus.search import BlurTrigger

SWEEP = {"bounds_um": (-12.7, 27.3), "budget": 6}
EVERY_SECOND = EveryExposures(2)
TILT = (0.3, -0.1)
"""um of focus for each um of the stage."""


@pytest.fixture
def stage():
    return [SimulatedAxis(name=name, limits=(-1000, 1000)) for name in ("x", "y")]


@pytest.fixture
def tilted(sem, stage, monkeypatch):
    """Let the focus of the SEM depend on where the stage is."""

    def focus_um(self):
        return 10_000.0 + sum(slope * axis.position for slope, axis in zip(TILT, stage, strict=True))

    monkeypatch.setattr(type(sem), "focus_um", property(focus_um))
    return sem


@pytest.fixture
def in_focus(tilted, analysis):
    """Return a function that puts focusing of the SEM into a plan."""

    def wrap(plan, when, **options):
        options = {
            "detectors": [tilted],
            "axis": tilted.working_distance,
            "analysis": analysis,
            "range_um": 100.0,
            "depth_of_field_um": tilted.depth_of_field_um,
            **options,
        }
        return autofocus_wrapper(plan, "brent", when=when, **options)

    return wrap


def decisions(documents):
    """Return before which exposure of its run each focusing came, and why."""
    found = documents.events("focus_decision")
    return [(data["focus_decision_exposure"], data["focus_decision_why"]) for data in found]


def order(documents):
    """Return the streams of the Events in order, each as often as its Events are not interrupted."""
    names = {doc["uid"]: doc["name"] for doc in documents.named("descriptor")}
    streams = [names[doc["descriptor"]] for doc in documents.named("event")]
    return [name for name, before in zip(streams, [None, *streams], strict=False) if name != before]


class TestOnTheSEM:
    def test_every_third_of_a_count(self, RE, tilted, in_focus, documents):  # noqa: N803
        RE(in_focus(bp.count([tilted], 7), EveryExposures(3)))
        assert decisions(documents) == [(1, "not focused yet"), (4, "3 exposures"), (7, "3 exposures")]
        assert len(documents.events("verdict")) == 3
        (start,), (stop,) = documents.named("start"), documents.named("stop")
        assert (stop["exit_status"], stop["num_events"]["primary"]) == ("success", 7)
        assert start["plan_name"] == "count"
        assert start["autofocus"] == {
            "focus": "brent",
            "when": [{"exposures": 3}],
            "on_failure": "go_on",
            "detectors": ["sem"],
            "axis": "sem_working_distance",
            "analysis": "sharpness",
            "options": {"range_um": "100.0", "depth_of_field_um": repr(tilted.depth_of_field_um)},
        }
        json.dumps(start)
        positions = [data["sem_working_distance"] for data in documents.events("primary")]
        expected = [data["focus_decision_position_um"] for data in documents.events("focus_decision")]
        assert positions == pytest.approx(np.repeat(expected, 3)[:7])

    def test_grid_scan_over_a_tilted_specimen(self, RE, tilted, stage, in_focus, documents):  # noqa: N803
        """Every exposure is as near to focus as the distance lets it be, and where the plan wants it."""
        x, y = stage
        plan = bp.grid_scan([tilted], y, 0, 60, 3, x, 0, 60, 3, snake_axes=True)
        RE(in_focus(plan, Farther(35.0, stage)))
        # from the corner over one neighbour to the next but one; 0, 30, 60 in each row
        expected = [1, 3, 5, 7, 9]
        assert [number for number, _ in decisions(documents)] == expected
        exposures = documents.events("primary")
        assert [(data["y"], data["x"]) for data in exposures] == [
            *((0, 0), (0, 30), (0, 60)),
            *((30, 60), (30, 30), (30, 0)),
            *((60, 0), (60, 30), (60, 60)),
        ]
        dof_um = tilted.depth_of_field_um
        for number, data in enumerate(exposures, 1):
            focus_um = 10_000.0 + TILT[0] * data["x"] + TILT[1] * data["y"]
            allowed_um = dof_um if number in expected else dof_um + 35.0 * math.hypot(*TILT)
            assert abs(data["sem_working_distance"] - focus_um) <= allowed_um, number

    def test_list_scan_by_time_or_distance(self, RE, tilted, stage, in_focus, documents):  # noqa: N803
        clock = VirtualClock()

        def per_step(detectors, step, pos_cache):
            yield from bps.one_nd_step(detectors, step, pos_cache)
            clock.advance(25.0)

        plan = bp.list_scan([tilted], stage[0], [0, 1, 2, 3, 100, 101, 102], per_step=per_step)
        RE(in_focus(plan, EverySeconds(60.0) | Farther(50.0, stage), clock=clock))
        assert decisions(documents) == [(1, "not focused yet"), (4, "75 s"), (5, "moved 97 um")]
        assert [data["x"] for data in documents.events("primary")] == [0, 1, 2, 3, 100, 101, 102]

    @pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")
    def test_in_the_catalogue(self, RE, make_sem, analysis, tmp_path):  # noqa: N803
        catalog = open_catalog(tmp_path / "data")
        try:
            catalog.subscribe(RE)
            sem = make_sem(frame_directory=catalog.frame_directory)
            options = {"detectors": [sem], "axis": sem.working_distance, "analysis": analysis}
            RE(
                autofocus_wrapper(
                    bp.count([sem], 2),
                    "brent",
                    when=EVERY_SECOND,
                    range_um=100.0,
                    depth_of_field_um=5.0,
                    **options,
                )
            )
            run = catalog.client[-1]
            assert run.start["autofocus"]["when"] == [{"exposures": 2}]
            recorded = run["focus_decision"].read()
            assert recorded["focus_decision_why"].values.tolist() == ["not focused yet"]
            assert recorded["focus_decision_reason"].values.tolist() == ["found"]
            assert run["primary", "sem_camera_image"].read().shape == (2, 128, 128)
        finally:
            catalog.close()


@pytest.fixture
def sweep(bench, analysis):
    """Return a function that makes a stub of six exposures."""
    return partial(sweep_focus, [bench.camera], bench.axis, analysis=analysis, **SWEEP)


@pytest.fixture
def wrap(bench, sweep):
    """Return a function that puts focusing of the bench into a plan."""

    def wrap(plan, when=EVERY_SECOND, focus=sweep, **options):
        return autofocus_wrapper(
            plan, focus, when=when, **{"detectors": [bench.camera], "axis": bench.axis, **options}
        )

    return wrap


class TestAnyPlan:
    def test_a_plan_of_your_own(self, RE, bench, sweep, documents):  # noqa: N803
        """It begins before the first trigger, its stream may have any name, others are let alone."""
        thermometer = Signal(name="temperature", value=20.0)

        @autofocus_decorator(sweep, when=EveryExposures(2), detectors=[bench.camera], axis=bench.axis)
        @bpp.run_decorator(md={"plan_name": "mine"})
        def mine(exposures: int):
            for _ in range(exposures):
                yield from bps.trigger_and_read([thermometer], name="room")
                yield from bps.trigger_and_read([bench.camera, bench.axis], name="tile")
            return "done"

        RE(mine(3))
        focusing = ["focus_sweep", "reading_sharpness"] * 6 + ["verdict", "focus_decision"]
        assert order(documents) == ["room", *focusing, "tile", "room", "tile", "room", *focusing, "tile"]
        assert inspect.signature(mine).parameters["exposures"].annotation is int

    def test_the_plan_returns_what_it_returns(self, RE, bench, wrap):  # noqa: N803
        results = []

        def mine():
            yield from bp.count([bench.camera])
            return 42

        def outer():
            results.append((yield from wrap(mine())))

        RE(outer())
        assert results == [42]

    def test_a_list_of_messages(self, RE, bench, wrap, documents):  # noqa: N803
        exposing = list(bps.trigger_and_read([bench.camera]))
        # the same objects again
        RE(wrap([Msg("open_run"), *exposing, *exposing, *exposing, Msg("close_run")]))
        assert [number for number, _ in decisions(documents)] == [1, 3]
        assert len(documents.events("primary")) == 3

    def test_goes_on_counting_from_run_to_run(self, RE, bench, wrap, documents):  # noqa: N803
        RE(wrap(bpp.pchain(bp.count([bench.camera], 3), bp.count([bench.camera], 3)), EveryExposures(4)))
        assert decisions(documents) == [(1, "not focused yet"), (2, "4 exposures")]
        assert [doc["autofocus"]["focus"] for doc in documents.named("start")] == ["sweep_focus"] * 2

    def test_a_condition_serves_any_number_of_plans(self, RE, bench, wrap, documents):  # noqa: N803
        when = EveryExposures(4)
        for _ in range(2):
            RE(wrap(bp.count([bench.camera]), when))
        assert [number for number, _ in decisions(documents)] == [1, 1]

    def test_nothing_outside_a_run(self, RE, bench, wrap, documents):  # noqa: N803
        def plan():
            yield from bps.trigger(bench.camera, wait=True)
            yield from bp.count([bench.camera])
            yield from bps.trigger(bench.camera, wait=True)

        RE(wrap(plan(), EveryExposures(1)))
        assert decisions(documents) == [(1, "not focused yet")]
        assert bench.triggers.calls == 3 + 6

    def test_frames_that_are_thrown_away(self, RE, bench, wrap, documents):  # noqa: N803
        """They belong to the exposure that follows, unless the plan has come to a checkpoint before."""

        @bpp.run_decorator()
        def plan():
            yield from bps.trigger(bench.camera, wait=True)
            yield from bps.trigger_and_read([bench.camera])
            yield from bps.trigger(bench.camera, wait=True)
            yield from bps.checkpoint()
            yield from bps.trigger_and_read([bench.camera])

        RE(wrap(plan(), EveryExposures(1)))
        assert [number for number, _ in decisions(documents)] == [1, 2, 3]

    def test_moving_the_axis_between_runs_asks_for_focusing(self, RE, bench, wrap, documents):  # noqa: N803
        def plan():
            yield from bps.mv(bench.axis, -3.0)
            yield from bp.count([bench.camera])
            yield from bps.mv(bench.axis, 3.0)
            yield from bp.count([bench.camera])

        RE(wrap(plan(), EveryExposures(100)))
        assert [why for _, why in decisions(documents)] == ["not focused yet"] * 2
        assert [data["verdict_start_um"] for data in documents.events("verdict")] == [-3.0, 3.0]

    def test_in_the_run_to_which_the_exposure_belongs(self, RE, bench, wrap, documents):  # noqa: N803
        @bpp.set_run_key_decorator("outer")
        @bpp.run_decorator(md={"which": "outer"})
        def outer():
            yield from inner()

        @bpp.set_run_key_decorator("inner")
        @bpp.run_decorator(md={"which": "inner"})
        def inner():
            yield from bps.trigger_and_read([bench.camera])

        RE(wrap(outer()))
        runs = {doc["uid"]: doc["which"] for doc in documents.named("start")}
        assert {runs[doc["run_start"]] for doc in documents.named("descriptor")} == {"inner"}
        assert len(documents.events("verdict")) == 1

    def test_only_if_it_is_blurred(self, RE, bench, wrap, analysis, documents):  # noqa: N803
        focus = partial(
            focus_if_blurred,
            [bench.camera],
            bench.axis,
            analysis=analysis,
            trigger=BlurTrigger(),
            bounds_um=bench.bounds_um,
        )
        RE(wrap(bp.count([bench.camera], 3), EveryExposures(1), focus))
        reasons = [data["focus_decision_reason"] for data in documents.events("focus_decision")]
        assert reasons == ["found", "still_sharp", "still_sharp"]
        (start,) = documents.named("start")
        assert start["autofocus"]["focus"] == "focus_if_blurred"


class TestWithOtherPreprocessors:
    @pytest.mark.parametrize("outside", [True, False])
    def test_nested(self, RE, bench, wrap, stage, documents, outside):  # noqa: N803
        told = []

        def others(plan):
            plan = bpp.inject_md_wrapper(plan, {"sample": "grains"})
            plan = bpp.baseline_wrapper(plan, stage)
            plan = bpp.relative_set_wrapper(plan, stage)
            return bpp.subs_wrapper(plan, {"stop": lambda name, doc: told.append(name)})

        def mine():
            for _ in range(3):
                yield from bps.trigger_and_read([bench.camera])

        plan = bpp.stage_wrapper(bpp.run_wrapper(mine(), md={"plan_name": "mine"}), [bench.camera])
        RE(others(wrap(plan)) if outside else wrap(others(plan)))
        (start,) = documents.named("start")
        assert (start["sample"], start["plan_name"]) == ("grains", "mine")
        assert start["autofocus"]["when"] == [{"exposures": 2}]
        assert len(documents.events("baseline")) == 2
        assert [number for number, _ in decisions(documents)] == [1, 3]
        assert told == ["stop"]

    def test_baseline_of_the_session(self, RE, bench, wrap, documents):  # noqa: N803
        """Even of the camera: what is put around the whole plan is none of its exposures."""
        RE.preprocessors.append(SupplementalData(baseline=[bench.axis, bench.camera]))
        RE(wrap(bp.count([bench.camera], 2)))
        assert [data["z"] for data in documents.events("baseline")][0] == bench.start_um
        assert [number for number, _ in decisions(documents)] == [1]

    def test_another_camera_and_axis_inside(self, RE, bench, make_bench, wrap, analysis, documents):  # noqa: N803
        other = make_bench()
        other.camera.name = "other"
        plan = autofocus_wrapper(
            bp.count([bench.camera], 2),
            "sweep",
            when=EveryExposures(2),
            detectors=[bench.camera],
            axis=other.axis,
            analysis=analysis,
            **SWEEP,
        )
        with pytest.warns(UserWarning, match="exposed none of other"):
            RE(wrap(plan, detectors=[other.camera]))
        assert [number for number, _ in decisions(documents)] == [1]


class TestNotFound:
    @pytest.fixture
    def bench(self, make_bench):
        return make_bench(lambda z: 0.5)

    def test_goes_on_at_the_position_of_before(self, RE, bench, wrap, documents):  # noqa: N803
        RE(wrap(bp.count([bench.camera, bench.axis], 3)))
        assert [data["z"] for data in documents.events("primary")] == [bench.start_um] * 3
        for data in documents.events("focus_decision"):
            assert (data["focus_decision_found"], data["focus_decision_reason"]) == (False, "flat")
        assert len(decisions(documents)) == 2

    def test_stops(self, RE, bench, wrap, documents):  # noqa: N803
        """The plan cleans up, without focusing once more before what it exposes then."""

        def dark():
            yield from bps.trigger_and_read([bench.camera], name="dark")

        plan = bpp.run_wrapper(bpp.finalize_wrapper(bps.trigger_and_read([bench.camera]), dark))
        with pytest.raises(FocusNotFoundError, match=r"sweep: not found \(flat\)") as raised:
            RE(wrap(plan, EveryExposures(1), on_failure="stop"))
        assert raised.value.verdict.reason is Reason.FLAT
        assert order(documents)[-2:] == ["focus_decision", "dark"]
        assert documents.named("stop")[0]["exit_status"] == "fail"
        assert not documents.events("primary")
        assert bench.axis.position == bench.start_um

    def test_something_else(self, RE, bench, wrap, sweep, documents):  # noqa: N803
        """What another attempt concludes takes the place of the first one."""
        given = []

        def look_again(verdict):
            given.append(verdict)
            bench.contrast = type(bench)(bench.camera.frame_writer.directory).contrast
            return (yield from sweep())

        RE(wrap(bp.count([bench.camera, bench.axis], 1), on_failure=look_again))
        assert [verdict.reason for verdict in given] == [Reason.FLAT]
        assert decisions(documents) == [(1, "not focused yet"), (1, "not found: flat")]
        assert [data["focus_decision_found"] for data in documents.events("focus_decision")] == [False, True]
        assert documents.events("primary")[0]["z"] == pytest.approx(bench.focus_um, abs=2.0)
        assert documents.named("start")[0]["autofocus"]["on_failure"] == "look_again"

    def test_something_that_concludes_nothing(self, RE, bench, wrap, documents):  # noqa: N803
        def tell(verdict):
            yield from bps.null()

        RE(wrap(bp.count([bench.camera], 1), on_failure=tell))
        assert len(decisions(documents)) == len(documents.events("primary")) == 1

    def test_what_is_put_off_is_no_failure(self, RE, bench, wrap, analysis, documents):  # noqa: N803
        """Nor has anybody focused: it is due still."""
        trigger = BlurTrigger(baseline=5 * bench.score(0.0), min_interval_s=math.inf)
        trigger.focused(None, 0.0)
        focus = partial(
            focus_if_blurred,
            [bench.camera],
            bench.axis,
            analysis=analysis,
            trigger=trigger,
            bounds_um=bench.bounds_um,
        )
        RE(wrap(bp.count([bench.camera], 2), EveryExposures(10), focus, on_failure="stop"))
        reasons = [data["focus_decision_reason"] for data in documents.events("focus_decision")]
        assert reasons == ["too_soon", "too_soon"]
        assert decisions(documents) == [(1, "not focused yet"), (2, "not focused yet")]


def newest(documents, stream):
    """Return the data of the Events by number: a pause may have had one of them taken again."""
    uids = {doc["uid"] for doc in documents.named("descriptor") if doc["name"] == stream}
    found = {doc["seq_num"]: doc["data"] for doc in documents.named("event") if doc["descriptor"] in uids}
    assert list(found) == list(range(1, len(found) + 1))
    return list(found.values())


class TestInterrupted:
    """At messages all over a scan of three exposures with two focusings."""

    @pytest.fixture
    def plan(self, bench, stage, wrap):
        x, _ = stage
        return lambda: wrap(bp.list_scan([bench.camera, bench.axis], x, [0, 10, 20]))

    @pytest.fixture
    def indices(self, RE, plan, messages, documents):  # noqa: N803
        RE(plan())
        # a pause after it has bluesky repeat in no run what was done in this one
        last = [msg.command for msg in messages].index("close_run")
        messages.clear()
        assert last > 200
        return range(1, last, 11)

    def test_a_pause(self, RE, bench, stage, plan, indices, documents):  # noqa: N803
        """No focusing is repeated that has ended, no exposure lost."""
        for index in indices:
            bench.axis.set(bench.start_um).wait(1)
            stage[0].set(0).wait(1)
            documents.clear()
            with pytest.raises(RunEngineInterrupted):
                RE(at_message(plan(), index, pausing))
            RE.resume()
            assert [data["x"] for data in newest(documents, "primary")] == [0, 10, 20], index
            assert len(newest(documents, "verdict")) == len(newest(documents, "focus_decision")) == 2, index
            assert len(newest(documents, "focus_sweep")) == 12, index
            # what is taken again is one exposure, or the record of a focusing, and no search
            assert len(documents.events("focus_sweep")) <= 13, index
            first, second = (data["verdict_position_um"] for data in newest(documents, "verdict"))
            positions = [data["z"] for data in newest(documents, "primary")]
            assert positions == pytest.approx([first, first, second]), index

    def test_a_pause_after_a_focusing(self, RE, bench, plan, messages, documents):  # noqa: N803
        """The exposure is taken again, and nothing before it."""
        RE(plan())
        primary = [n for n, msg in enumerate(messages) if msg == Msg("create", name="primary")]
        for index in (primary[0], primary[2] + 1):
            documents.clear()
            messages.clear()
            with pytest.raises(RunEngineInterrupted):
                RE(at_message(plan(), index, pausing))
            paused = len(messages)
            RE.resume()
            assert messages[paused].command == "trigger"
            assert len(documents.events("verdict")) == len(documents.events("focus_decision")) == 2
            assert len(documents.events("primary")) == 3

    @pytest.mark.parametrize("way", ["throw", "abort"])
    def test_an_end(self, RE, bench, plan, indices, documents, way):  # noqa: N803
        for index in indices:
            bench.axis.set(bench.start_um).wait(1)
            documents.clear()
            if way == "throw":
                with pytest.raises(RuntimeError, match="thrown in place"):
                    RE(at_message(plan(), index, throwing))
            else:
                with pytest.raises(RunEngineInterrupted):
                    RE(at_message(plan(), index, pausing))
                RE.abort()
            status = {"throw": "fail", "abort": "abort"}[way]
            assert {doc["exit_status"] for doc in documents.named("stop")} <= {status}, index
            found = [data["verdict_position_um"] for data in documents.events("verdict")]
            assert any(bench.axis.position == pytest.approx(z) for z in [bench.start_um, *found]), index
            assert not bench.pending, index
            assert RE.state == "idle", index
            assert len(documents.named("start")) == len(documents.named("stop")), index

    def test_nothing_is_put_into_the_cleanup(self, RE, bench, wrap, documents):  # noqa: N803
        def dark():
            yield from bps.trigger_and_read([bench.camera], name="dark")

        def exposing():
            yield from bps.trigger_and_read([bench.camera])
            yield from bps.pause()

        with pytest.raises(RunEngineInterrupted):
            RE(wrap(bpp.run_wrapper(bpp.finalize_wrapper(exposing(), dark)), EveryExposures(1)))
        RE.abort()
        assert len(decisions(documents)) == len(documents.events("dark")) == 1

    def test_a_plan_that_goes_on_after_an_error_is_focused(self, RE, bench, documents, wrap):  # noqa: N803
        class Failing(SharpnessAnalysis):
            failures = 1

            def analyse_frame(self, frame):
                self.failures -= 1
                if self.failures == 0:
                    raise ArithmeticError("of the model")
                return super().analyse_frame(frame)

        failing = Failing()
        RE.subscribe(failing)
        focus = partial(sweep_focus, [bench.camera], bench.axis, analysis=failing, **SWEEP)
        errors = []

        @bpp.run_decorator()
        def plan():
            for _ in range(2):
                try:
                    yield from bps.trigger_and_read([bench.camera])
                except AnalysisError as error:
                    errors.append(error)

        RE(wrap(plan(), EveryExposures(10), focus))
        assert len(errors) == 1
        assert decisions(documents) == [(1, "not focused yet")]
        assert len(documents.events("primary")) == 1

    def test_detectors_that_cannot_be_triggered_again(self, RE, bench, stage, documents, wrap):  # noqa: N803
        """A pause in a search before them takes up the search as always."""
        bench.camera.rewindable = Signal(name="rewindable", value=False)
        x, _ = stage
        plan = wrap(bp.list_scan([bench.camera, bench.axis], x, [0, 10]), EveryExposures(5))
        flags = []

        def act(msg):
            if msg.command == "set" and msg.obj is bench.axis:
                flags.append(RE.rewindable)
            return msg

        RE(bpp.msg_mutator(plan, act))
        assert flags
        assert all(flags)
        assert RE.rewindable
        assert len(documents.events("primary")) == 2


class TestConflicts:
    """What leaves no place to focus is an error that says so, raised within the plan, once."""

    @pytest.mark.parametrize("scan", [bp.scan, bp.rel_scan])
    def test_the_plan_moves_the_focus_axis(self, RE, bench, wrap, documents, scan):  # noqa: N803
        with pytest.raises(PlanConflictError, match="the plan sets z in its run"):
            RE(wrap(scan([bench.camera], bench.axis, -5, 5, 3)))
        assert documents.named("stop")[0]["exit_status"] == "fail"
        assert bench.axis.position == bench.start_um
        assert bench.triggers.calls == 0

    def test_its_own_cleanup_may(self, RE, bench, wrap):  # noqa: N803
        plan = bpp.finalize_wrapper(bps.mv(bench.axis, 5.0), bps.mv(bench.axis, 1.0))
        with pytest.raises(ValueError, match="the plan sets z in its run"):
            RE(wrap(bpp.run_wrapper(plan)))
        assert bench.axis.position == 1.0

    def test_the_plan_runs_the_focus_axis(self, RE, bench, wrap):  # noqa: N803
        running = SimulatedRunningAxis(name="running", limits=(-100, 100), clock=VirtualClock())
        with pytest.raises(PlanConflictError, match="sets running_velocity"):
            RE(wrap(bpp.run_wrapper(bps.mv(running.velocity, 5.0)), axis=running))

    def test_focusing_is_already_in_the_plan(self, RE, bench, wrap, documents):  # noqa: N803
        with pytest.raises(PlanConflictError, match="leave the focusing to the plan"):
            RE(wrap(wrap(bp.count([bench.camera], 2))))
        assert len(documents.events("verdict")) <= 1
        assert documents.named("stop")[0]["exit_status"] == "fail"

    def test_another_detector_is_triggered_before(self, RE, bench, make_camera, wrap, documents):  # noqa: N803
        early = make_camera("early")
        with pytest.raises(PlanConflictError, match="early triggered before camera"):
            RE(wrap(bp.count([early, bench.camera])))
        RE(wrap(bp.count([bench.camera, early], 2)))
        RE(wrap(bp.count([early, bench.camera], 2), detectors=[bench.camera, early]))
        assert len(documents.events("verdict")) == 2

    def test_triggered_within_the_bundle(self, RE, bench, wrap):  # noqa: N803
        def plan():
            yield from bps.create("primary")
            yield from bps.trigger(bench.camera, wait=True)

        with pytest.raises(PlanConflictError, match="camera is triggered between `create` and `save`"):
            RE(wrap(bpp.run_wrapper(plan())))


class Untriggered:
    name, parent = "untriggered", None


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "error", "named"),
        [
            ({"when": 10}, TypeError, "got 10"),
            ({"on_failure": "shrug"}, ValueError, "'shrug'"),
            ({"detectors": []}, ValueError, r"\[\]"),
            ({"detectors": [Untriggered]}, ValueError, "Untriggered"),
            ({"focus": "guess"}, UnknownMethodError, "'guess'"),
            ({"focus": "brent"}, TypeError, "'brent' needs an analysis"),
            ({"focus": brent_focus}, TypeError, "detectors"),
            ({"analysis": "sharpness"}, TypeError, "analysis"),
            ({"budget": 3}, TypeError, "budget"),
        ],
    )
    def test_refused_before_the_first_message(self, RE, bench, wrap, messages, options, error, named):  # noqa: N803
        with pytest.raises(error, match=named):
            RE(wrap(bp.count([bench.camera]), **options))
        assert messages == []

    def test_an_option_that_the_method_does_not_have(self, RE, bench, wrap, analysis, messages):  # noqa: N803
        with pytest.raises(TypeError, match="speed"):
            RE(wrap(bp.count([bench.camera]), focus="sweep", analysis=analysis, speed=3))
        assert messages == []

    def test_distance_along_the_focus_axis(self, RE, bench, wrap, messages):  # noqa: N803
        with pytest.raises(ValueError, match="when goes by z"):
            RE(wrap(bp.count([bench.camera]), Farther(5.0, [bench.axis])))
        assert messages == []

    def test_no_verdict(self, RE, bench, wrap, documents):  # noqa: N803
        def nothing():
            yield from bps.null()

        with pytest.raises(TypeError, match="nothing must return a Verdict, got None"):
            RE(wrap(bp.count([bench.camera]), focus=nothing))
        assert documents.named("stop")[0]["exit_status"] == "fail"

    def test_not_subscribed(self, RE, bench, wrap):  # noqa: N803
        stranger = SharpnessAnalysis(name="stranger")
        with pytest.raises(NotSubscribedError, match="'stranger'"):
            RE(wrap(bp.count([bench.camera]), focus="sweep", analysis=stranger, **SWEEP))
        assert bench.moves.calls == 0

    def test_a_plan_of_other_exposures(self, RE, make_camera, wrap):  # noqa: N803
        with pytest.warns(UserWarning, match="exposed none of camera"):
            RE(wrap(bp.count([make_camera("other")])))


class TestWithoutARunEngine:
    def test_a_dry_run_shows_when_it_would_focus(self, bench, stage, wrap, capsys):
        """By where the plan sets the stage; that nothing is found in it stops nothing."""
        plan = partial(bp.list_scan, [bench.camera], stage[0], [0, 10, 60, 70])
        seen = list(wrap(plan(), Farther(50.0, stage), on_failure="stop"))
        commands = [(msg.command, getattr(msg.obj, "name", msg.kwargs.get("name"))) for msg in seen]
        steps = [entry for entry in commands if entry in (("set", "x"), ("create", "verdict"))]
        move, focus = ("set", "x"), ("create", "verdict")
        assert steps == [move, focus, move, move, focus, move]
        summarize_plan(wrap(plan(), Farther(50.0, stage)))
        assert "z ->" in capsys.readouterr().out
        assert (bench.moves.calls, bench.triggers.calls) == (0, 0)

    def test_closed_in_the_middle(self, bench, wrap):
        """Whatever it was doing."""
        for number in (1, 5, 30, 60):
            plan = wrap(bp.count([bench.camera], 3))
            for _ in range(number):
                next(plan)
            plan.close()
