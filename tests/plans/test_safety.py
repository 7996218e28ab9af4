"""Whatever goes wrong, and wherever: the axis goes back, no solver stays behind, the run ends well."""

import asyncio
import json
import threading
from collections.abc import Callable

import pytest
from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.utils import FailedStatus, RunEngineInterrupted
from interrupting import at_message, pausing, throwing
from ophyd.status import MoveStatus, Status

from bluesky_autofocus.callbacks import AnalysisError, SharpnessAnalysis
from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.defocus import DefocusEstimate
from bluesky_autofocus.plans import (
    Approach,
    ReadingTimeoutError,
    brent_focus,
    coarse_fine_focus,
    focus_if_blurred,
    key_frame_focus,
    single_shot_focus,
    sweep_focus,
    two_led_focus,
)
from bluesky_autofocus.records import Reason
from bluesky_autofocus.search import BlurTrigger
from bluesky_autofocus.simulation.motion import AxisMechanics


def four_points(function, bounds, tolerance, evaluations):
    """Stand in for Brent's method where every message of a run is tried out."""
    return min((-20.0, 0.0, 7.3, 14.0), key=function)


def brent(bench, analysis, **options):
    options = {
        "bounds_um": bench.bounds_um,
        "budget": 5,
        "verify": False,
        "solver": four_points,
        "approach": Approach(overshoot_um=1.0),
        **options,
    }
    return brent_focus([bench.camera], bench.axis, analysis=analysis, **options)


def sweep(bench, analysis, **options):
    options = {"bounds_um": (-12.7, 27.3), "budget": 6, **options}
    return sweep_focus([bench.camera], bench.axis, analysis=analysis, **options)


def blur(bench, analysis, *, trigger=None, **options):
    options = {
        "trigger": trigger or BlurTrigger(),
        "bounds_um": bench.bounds_um,
        "budget": 5,
        "verify": False,
        "solver": four_points,
        **options,
    }
    return focus_if_blurred([bench.camera], bench.axis, analysis=analysis, **options)


STUBS = {"brent": brent, "sweep": sweep, "blur": blur}
SCENARIOS = {"found": None, "not found": lambda z: 0.5}


@pytest.fixture(params=STUBS)
def stub(request) -> Callable:
    return STUBS[request.param]


@pytest.fixture(params=SCENARIOS)
def scene(request, make_bench):
    """Return a bench, and whether there is a focus on it."""
    contrast = SCENARIOS[request.param]
    return (make_bench() if contrast is None else make_bench(contrast)), contrast is None


def end_of(documents) -> str:
    return documents.named("stop")[-1]["exit_status"]


@pytest.fixture
def unharmed(RE, documents, live_solvers):  # noqa: N803
    """Return what must hold of a bench after an operation that did not end by itself."""

    def check(bench, where):
        # an axis that takes its time ends a rounding error beside
        assert bench.axis.position == pytest.approx(bench.start_um, abs=1e-9), where
        assert not bench.pending, where
        assert not hasattr(bench, "leds") or bench.leds.pattern.get() == bench.before, where
        assert RE.state == "idle", where
        assert len(documents.named("start")) == len(documents.named("stop")), where
        documents.clear()

    yield check
    assert live_solvers() == []


@pytest.fixture
def count(run, messages):
    """Return how many messages a stub is made of."""

    def count(plan):
        run(plan)
        number = len(messages) - 2  # open_run, close_run
        messages.clear()
        return number

    return count


def put_at_start(bench):
    if bench.axis.position != bench.start_um:
        bench.axis.set(bench.start_um).wait(1)


def test_an_exception_at_every_message(RE, analysis, documents, run, count, unharmed, stub, scene):  # noqa: N803
    bench, _ = scene
    messages = count(stub(bench, analysis))
    assert messages > 20
    for index in range(messages):
        put_at_start(bench)
        with pytest.raises(RuntimeError, match="thrown in place"):
            run(at_message(stub(bench, analysis), index, throwing))
        assert end_of(documents) == "fail", index
        unharmed(bench, index)


def test_an_abort_at_every_message(RE, analysis, documents, run, count, unharmed, stub, scene):  # noqa: N803
    bench, _ = scene
    for index in range(count(stub(bench, analysis))):
        put_at_start(bench)
        with pytest.raises(RunEngineInterrupted):
            run(at_message(stub(bench, analysis), index, pausing))
        if RE.state == "paused":
            RE.abort()
        assert end_of(documents) == "abort", index
        unharmed(bench, index)


def test_a_pause_at_every_message(RE, analysis, documents, run, count, stub, scene):  # noqa: N803
    bench, there_is_focus = scene
    messages = count(stub(bench, analysis))
    expected = [data["z"] for data in documents.events("focus_brent") + documents.events("focus_sweep")]
    (undisturbed,) = documents.events("verdict")[-1:]
    for index in range(messages):
        put_at_start(bench)
        documents.clear()
        with pytest.raises(RunEngineInterrupted):
            run(at_message(stub(bench, analysis), index, pausing))
        assert RE.state == "paused"
        RE.resume()
        assert end_of(documents) == "success"

        def newest(stream):
            """Return the Events by number: a pause may have had one of them taken again."""
            uids = {doc["uid"] for doc in documents.named("descriptor") if doc["name"] == stream}
            return {doc["seq_num"]: doc for doc in documents.named("event") if doc["descriptor"] in uids}

        *_, verdict = newest("verdict").values()  # the one within comes first
        for key in ("found", "reason", "position_um", "exposures", "start_um"):
            value = verdict["data"][f"verdict_{key}"]
            assert value == pytest.approx(undisturbed[f"verdict_{key}"], nan_ok=True), (index, key)
        exposures = list({**newest("focus_brent"), **newest("focus_sweep")}.values())
        assert [doc["data"]["z"] for doc in exposures] == expected, index
        looks = list(newest("focus_blur").values())
        uids = [doc["uid"] for doc in looks + exposures]
        assert verdict["data"]["verdict_event_uids"] == str(uids).replace("'", '"'), index
        linked = [doc["data"]["sharpness_event_uid"] for doc in newest("reading_sharpness").values()]
        assert linked == uids, index
        at = verdict["data"]["verdict_position_um"] if there_is_focus else bench.start_um
        assert bench.axis.position == pytest.approx(at), index


def test_a_halt_closes_the_solver(RE, bench, analysis, documents, run, live_solvers):  # noqa: N803
    for index in (0, 5, 20, 41, 60):
        put_at_start(bench)
        with pytest.raises(RunEngineInterrupted):
            run(at_message(brent(bench, analysis, solver=four_points), index, pausing))
        if RE.state == "paused":
            RE.halt()
        assert RE.state == "idle"
        assert documents.named("stop")[-1]["exit_status"] == "abort"
        assert live_solvers() == []
        assert -100 <= bench.axis.position <= 100


def test_going_on_after_an_exception(RE, bench, analysis, documents, run, count, stub):  # noqa: N803
    """Whoever catches the error can focus again in the same run, wherever it came from."""
    messages = count(stub(bench, analysis))
    saves = []
    run(bpp.msg_mutator(stub(bench, analysis), lambda msg: saves.append(msg.command == "save") or msg))
    for index in range(0, messages, 3):
        if saves[index]:
            continue  # bluesky's own bundle stays open then
        put_at_start(bench)
        documents.clear()

        def twice(index=index):
            try:
                yield from at_message(stub(bench, analysis), index, throwing)
            except RuntimeError:
                pass
            assert bench.axis.position == bench.start_um
            return (yield from stub(bench, analysis))

        assert run(twice()).found, index
        assert end_of(documents) == "success"


class TestDevicesFail:
    @pytest.mark.parametrize("move", [0, 1, 3, 6])
    def test_the_axis_refuses(self, bench, analysis, documents, run, unharmed, move):
        def refuses():
            raise RuntimeError("the axis is stuck")

        bench.moves.fails_at, bench.moves.fails_with = move, refuses
        with pytest.raises(RuntimeError, match="stuck"):
            run(brent(bench, analysis))
        assert end_of(documents) == "fail"
        unharmed(bench, move)

    @pytest.mark.parametrize("move", [0, 1, 3, 6])
    def test_the_axis_fails_under_way(self, bench, analysis, documents, run, unharmed, move):
        def fails():
            status = MoveStatus(bench.axis, 3.0)
            status.set_exception(OSError("following error"))
            return status

        bench.moves.fails_at, bench.moves.fails_with = move, fails
        with pytest.raises(FailedStatus):
            run(brent(bench, analysis))
        assert end_of(documents) == "fail"
        unharmed(bench, move)

    @pytest.mark.parametrize("exposure", [0, 2, 4])
    def test_the_camera_fails(self, bench, analysis, documents, run, unharmed, exposure):
        render = bench.camera.render

        def fails():
            if bench.triggers.calls - 1 == exposure:
                raise OSError("no frame")
            return render()

        bench.camera.render = fails
        with pytest.raises(FailedStatus):
            run(brent(bench, analysis))
        assert end_of(documents) == "fail"
        unharmed(bench, exposure)

    @pytest.mark.parametrize("stub", STUBS.values())
    @pytest.mark.parametrize("exposure", [0, 2, 4])
    def test_the_analysis_fails(self, RE, bench, documents, run, unharmed, stub, exposure):  # noqa: N803
        class Failing(SharpnessAnalysis):
            def analyse_frame(self, frame):
                if bench.triggers.calls - 1 == exposure:
                    raise ArithmeticError("of the model")
                return super().analyse_frame(frame)

        analysis = Failing()
        RE.subscribe(analysis)
        with pytest.raises(AnalysisError, match="'sharpness' failed: of the model"):
            run(stub(bench, analysis))
        assert end_of(documents) == "fail"
        unharmed(bench, exposure)

    def test_the_analysis_is_late(self, RE, bench, documents, run, unharmed):  # noqa: N803
        class Late(SharpnessAnalysis):
            async def settled(self, stream):
                if bench.triggers.calls == 3:
                    await asyncio.sleep(0.3)

        analysis = Late()
        RE.subscribe(analysis)
        with pytest.raises(ReadingTimeoutError, match="'sharpness' gave no reading of 'focus_brent' within"):
            run(brent(bench, analysis, timeout_s=0.01))
        assert end_of(documents) == "fail"
        unharmed(bench, "late")

    def test_the_solver_fails(self, bench, analysis, documents, run, unharmed):
        def failing(function, *_):
            function(3.0)
            raise ArithmeticError("of the solver")

        with pytest.raises(ArithmeticError, match="of the solver"):
            run(brent(bench, analysis, solver=failing))
        assert end_of(documents) == "fail"
        unharmed(bench, "solver")


class HeldClock(VirtualClock):
    """Lets every wait pass at once, but for one, which stays half way and calls `held` instead."""

    def __init__(self, hold: int, held: Callable[[], None]) -> None:
        super().__init__()
        self.waits, self.hold, self.held = 0, hold, held

    def call_after(self, delay_s, done, *, tick=None):
        self.waits += 1
        if self.waits - 1 != self.hold:
            return super().call_after(delay_s, done, tick=tick)
        self.advance(delay_s / 2)
        self.held()
        return lambda: None


class TestInMidMove:
    """The axis takes its time: the move under way is stopped, and says so while it is put back."""

    @pytest.fixture
    def interrupted(self, RE, make_bench, analysis):  # noqa: N803
        """Return a function that interrupts a run from another thread while its n-th move is under way."""
        threads = []

        def interrupted(move, interrupt):
            thread = threading.Thread(target=interrupt)
            threads.append(thread)
            bench = make_bench(
                mechanics=AxisMechanics(velocity_um_s=100.0), clock=HeldClock(move, thread.start)
            )
            return bench

        yield interrupted
        for thread in threads:
            thread.join()

    @pytest.mark.parametrize("move", range(7))
    @pytest.mark.parametrize("how", ["abort", "stop"])
    def test_ended(self, RE, analysis, documents, run, unharmed, interrupted, move, how):  # noqa: N803
        bench = interrupted(move, getattr(RE, how))
        with pytest.raises(RunEngineInterrupted):
            run(brent(bench, analysis))
        assert end_of(documents) == {"abort": "abort", "stop": "success"}[how]
        unharmed(bench, move)

    @pytest.mark.parametrize("move", range(7))
    def test_paused_and_resumed(self, RE, analysis, documents, run, interrupted, move):  # noqa: N803
        bench = interrupted(move, RE.request_pause)
        with pytest.raises(RunEngineInterrupted):
            run(brent(bench, analysis))
        assert RE.state == "paused"
        assert not bench.pending
        RE.resume()
        assert end_of(documents) == "success"
        assert [data["z"] for data in documents.events("focus_brent")] == [-20.0, 0.0, 7.3, 14.0, 7.3]
        assert bench.axis.position == 7.3

    def test_a_failure_beside_it(self, RE, make_bench, analysis, documents, run, unharmed):  # noqa: N803
        """An error of something else, while the axis moves, has it put back too."""
        failing, told = Status(), threading.Event()

        def fail():
            # While it waits for a move, a RunEngine hears of no other failure before that move ends, and
            # this one never does. So it is told before it waits: callbacks are called in turn, its own first.
            failing.add_callback(lambda _: told.set())
            failing.set_exception(OSError("lamp"))
            assert told.wait(60)

        bench = make_bench(mechanics=AxisMechanics(velocity_um_s=100.0), clock=HeldClock(3, fail))

        class Lamp:
            name, parent = "lamp", None

            def set(self, value):
                return failing

        def plan():
            yield from bps.abs_set(Lamp(), 1)
            yield from brent(bench, analysis)

        with pytest.raises(FailedStatus):
            run(plan())
        assert end_of(documents) == "fail"
        unharmed(bench, "lamp")


def refusing(defocus_um):
    return DefocusEstimate.refused(Reason.UNFAMILIAR)


def always_five(defocus_um):
    return 5.0


def three_points(function, bounds, tolerance, evaluations):
    return min((-6.0, 7.3, 20.0), key=function)


LIGHT_CASES = {
    "single": ("single_shot", {}, {}, True),
    "single, contradicted": ("single_shot", {"says": always_five}, {}, False),
    "single, fallback": ("single_shot", {"says": refusing}, {"budget": 4}, True),
    "two": ("two_led", {}, {}, True),
    "two, contradicted": ("two_led", {"says": always_five}, {}, False),
}


class TestLight:
    """What sets the light puts that back too, as well as the axis, wherever it is interrupted."""

    @pytest.fixture
    def case(self, request, make_light_bench, single_shot, two_led, analysis):
        """Return a bench, a function that makes the plan, and whether it finds the focus."""
        method, judge, fallback, found = LIGHT_CASES[request.param]
        bench = make_light_bench()
        measuring = {"single_shot": single_shot, "two_led": two_led}[method](**judge)
        stub = {"single_shot": single_shot_focus, "two_led": two_led_focus}[method]
        options = {"leds": bench.leds, "analysis": measuring, "approach": Approach(overshoot_um=1.0)}
        if fallback:
            options |= {
                "fallback": brent_focus,
                "fallback_analysis": analysis,
                "fallback_options": {
                    "bounds_um": bench.bounds_um,
                    "budget": 4,
                    "verify": False,
                    "confirm": False,
                    "solver": three_points,
                    **fallback,
                },
            }
        return bench, lambda: stub(bench.detectors, bench.axis, **options), found

    @pytest.mark.parametrize(
        "case",
        ["single, contradicted", "single, fallback", "two"],
        indirect=True,
    )
    def test_an_exception_at_every_message(self, RE, documents, run, count, unharmed, case):  # noqa: N803
        bench, make, _ = case
        messages = count(make())
        assert messages > 40
        for index in range(messages):
            put_at_start(bench)
            with pytest.raises(RuntimeError, match="thrown in place"):
                run(at_message(make(), index, throwing))
            assert end_of(documents) == "fail", index
            unharmed(bench, index)

    @pytest.mark.parametrize("case", ["single", "two, contradicted"], indirect=True)
    def test_an_abort_at_every_other_message(self, RE, documents, run, count, unharmed, case):  # noqa: N803
        bench, make, _ = case
        for index in range(0, count(make()), 2):
            put_at_start(bench)
            with pytest.raises(RunEngineInterrupted):
                run(at_message(make(), index, pausing))
            if RE.state == "paused":
                RE.abort()
            assert end_of(documents) == "abort", index
            unharmed(bench, index)

    @pytest.mark.parametrize("case", ["single, contradicted", "two"], indirect=True)
    def test_a_pause_at_every_other_message(self, RE, documents, run, count, case):  # noqa: N803
        bench, make, found = case
        messages = count(make())
        streams = ("focus_single_shot", "focus_two_led", "focus_brent")
        keys = ("z", "leds")
        expected = [[data[key] for key in keys] for stream in streams for data in documents.events(stream)]
        verdicts = documents.events("verdict")
        for index in range(1, messages, 2):
            put_at_start(bench)
            documents.clear()
            with pytest.raises(RunEngineInterrupted):
                run(at_message(make(), index, pausing))
            assert RE.state == "paused"
            RE.resume()
            assert end_of(documents) == "success"

            def newest(stream):
                """Return the Events by number: a pause may have had one of them taken again."""
                uids = {doc["uid"] for doc in documents.named("descriptor") if doc["name"] == stream}
                return {doc["seq_num"]: doc for doc in documents.named("event") if doc["descriptor"] in uids}

            exposures = [list(newest(stream).values()) for stream in streams]
            taken = [[doc["data"][key] for key in keys] for docs in exposures for doc in docs]
            assert taken == expected, index
            for verdict, undisturbed in zip(newest("verdict").values(), verdicts, strict=True):
                for key in ("found", "reason", "position_um", "exposures", "start_um"):
                    value = verdict["data"][f"verdict_{key}"]
                    assert value == pytest.approx(undisturbed[f"verdict_{key}"], nan_ok=True), (index, key)
                uids = [doc["uid"] for docs in exposures for doc in docs]
                linked = verdict["data"]["verdict_event_uids"]
                assert all(uid in uids for uid in json.loads(linked)), index
            at = verdict["data"]["verdict_position_um"] if found else bench.start_um
            assert bench.axis.position == pytest.approx(at), index
            assert bench.leds.pattern.get() == bench.before, index
            assert not bench.pending, index


SCAN_CASES = {
    "coarse and fine": (coarse_fine_focus, {}, {}, "found"),
    "coarse and fine, none": (coarse_fine_focus, {"says": lambda scan, _: Reason.UNCERTAIN}, {}, "uncertain"),
    "key frame, walking on": (key_frame_focus, {}, {"start_um": 9.1}, "found"),
    "key frame, held back": (key_frame_focus, {}, {"smooth_um": 0.3}, "held_back"),
}


class TestScans:
    """Planes that are compared with each other: one that is exposed again belongs to the same scan."""

    @pytest.fixture
    def case(self, request, make_light_bench, key_frame):
        """Return a bench, a function that makes the plan, and the reason of its verdict."""
        stub, judge, options, reason = SCAN_CASES[request.param]
        options = {"start_um": 8.2, "approach": Approach(overshoot_um=0.5), **options}
        if stub is coarse_fine_focus:
            options["fine_um"] = (-0.5, -0.25, 0.0, 0.25, 0.5)
        bench, analysis = make_light_bench(start_um=options.pop("start_um")), key_frame(**judge)
        return bench, lambda: stub(bench.detectors, bench.axis, analysis=analysis, **options), reason

    @pytest.mark.parametrize("case", SCAN_CASES, indirect=True)
    def test_an_exception_at_every_message(self, RE, documents, run, count, unharmed, case):  # noqa: N803
        bench, make, _ = case
        messages = count(make())
        assert messages > 40
        for index in range(messages):
            put_at_start(bench)
            with pytest.raises(RuntimeError, match="thrown in place"):
                run(at_message(make(), index, throwing))
            assert end_of(documents) == "fail", index
            unharmed(bench, index)

    @pytest.mark.parametrize("case", ["coarse and fine", "key frame, held back"], indirect=True)
    def test_an_abort_at_every_third_message(self, RE, documents, run, count, unharmed, case):  # noqa: N803
        bench, make, _ = case
        for index in range(0, count(make()), 3):
            put_at_start(bench)
            with pytest.raises(RunEngineInterrupted):
                run(at_message(make(), index, pausing))
            if RE.state == "paused":
                RE.abort()
            assert end_of(documents) == "abort", index
            unharmed(bench, index)

    @pytest.mark.parametrize("case", ["coarse and fine", "key frame, held back"], indirect=True)
    def test_a_pause_at_every_third_message(self, RE, documents, run, count, case):  # noqa: N803
        bench, make, reason = case
        messages = count(make())
        streams = ("focus_coarse_fine", "focus_key_frame")
        keys = ("z", "scan_position_um", "scan_last")
        expected = [[data[key] for key in keys] for stream in streams for data in documents.events(stream)]
        (undisturbed,) = documents.events("verdict")
        assert undisturbed["verdict_reason"] == reason
        stands_at = bench.axis.position
        for index in range(1, messages, 3):
            put_at_start(bench)
            documents.clear()
            with pytest.raises(RunEngineInterrupted):
                run(at_message(make(), index, pausing))
            assert RE.state == "paused"
            RE.resume()
            assert end_of(documents) == "success"

            def newest(stream):
                """Return the Events by number: a pause may have had one of them taken again."""
                uids = {doc["uid"] for doc in documents.named("descriptor") if doc["name"] == stream}
                return {doc["seq_num"]: doc for doc in documents.named("event") if doc["descriptor"] in uids}

            exposures = [doc for stream in streams for doc in newest(stream).values()]
            assert [[doc["data"][key] for key in keys] for doc in exposures] == expected, index
            assert len({doc["data"]["scan_operation"] for doc in exposures}) == 1, index
            (verdict,) = newest("verdict").values()
            for key in ("found", "reason", "position_um", "sigma_um", "exposures", "start_um"):
                value = verdict["data"][f"verdict_{key}"]
                assert value == pytest.approx(undisturbed[f"verdict_{key}"], nan_ok=True), (index, key)
            uids = [doc["uid"] for doc in exposures]
            assert json.loads(verdict["data"]["verdict_event_uids"]) == uids, index
            linked = [doc["data"]["key_frame_event_uid"] for doc in newest("reading_key_frame").values()]
            assert linked == uids, index
            assert bench.axis.position == pytest.approx(stands_at, abs=1e-9), index
            assert not bench.pending, index
