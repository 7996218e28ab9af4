"""Running towards focus, on an axis and under a camera that let time pass, with a perfect or a faulty eye."""

import math

import numpy as np
import pytest
from bluesky import preprocessors as bpp
from bluesky.utils import Msg, RunEngineInterrupted

from bluesky_autofocus.callbacks import Analysis
from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.devices import SimulatedRunningAxis
from bluesky_autofocus.devices._smear import TimedCamera
from bluesky_autofocus.plans import ReadingTimeoutError, approach_focus
from bluesky_autofocus.records import Reading, Reason
from bluesky_autofocus.search import ApproachLaw
from bluesky_autofocus.simulation.motion import AxisMechanics

FOCUS_UM = 12.0
WIDTH_UM = 6.0
DEFAULT_UM_S = 223.7


class Eye(Analysis):
    """Reads the true defocus from a pixel of the frame; what is totally blurred it only knows the side of."""

    unit = "um"

    def __init__(self, says=lambda defocus_um: defocus_um, sigma_um=0.2, limit_um=3.5 * WIDTH_UM):
        self.says, self.sigma_um, self.limit_um = says, sigma_um, limit_um
        super().__init__("eye")

    def analyse_frame(self, frame):
        said = self.says(float(frame[0, 0]) - FOCUS_UM)
        if isinstance(said, Reading):
            return said
        if abs(said) > self.limit_um:
            value = math.copysign(4 * WIDTH_UM, said)
            return Reading("", value, math.nan, "um", accepted=False, reason=Reason.OUT_OF_RANGE)
        return Reading("", said, self.sigma_um, "um")


class RunBench:
    def __init__(self, folder, *, start_um=60.0, exposure_s=0.01, transfer_s=0.015, limits=(-100.0, 100.0)):
        self.clock = VirtualClock()
        self.start_um = start_um
        self.axis = SimulatedRunningAxis(
            name="z",
            limits=limits,
            position_um=start_um,
            mechanics=AxisMechanics(
                velocity_um_s=200.0, settle_s=0.01, acceleration_um_s2=5000.0, readback_noise_um=0.01
            ),
            clock=self.clock,
            watchdog_s=0.5,
        )
        self.camera = TimedCamera(
            name="bench_camera",
            render_at=lambda time_s: np.full((8, 8), self.axis.load_at_um(time_s), np.float32),
            frame_directory=folder,
            frame_shape=(8, 8),
            dtype=np.float32,
            clock=self.clock,
        )
        self.camera.exposure_s.put(exposure_s)
        self.camera.transfer_s.put(transfer_s)


@pytest.fixture
def make(tmp_path):
    return lambda **options: RunBench(tmp_path / f"{len(list(tmp_path.iterdir()))}", **options)


@pytest.fixture
def eye(RE):  # noqa: N803
    def make(*args, **options):
        made = Eye(*args, **options)
        RE.subscribe(made)
        return made

    return make


def approach(bench, analysis, **options):
    options = {
        "default_velocity": DEFAULT_UM_S, "class_width_um": WIDTH_UM, "travel_um": (-80.0, 90.0), **options
    }  # fmt: skip
    return approach_focus([bench.camera], bench.axis, analysis=analysis, **options)


def at_rest(bench):
    bench.clock.advance(1.0)
    return bench.axis.actual_velocity_um_s == 0 and not bench.axis.running


@pytest.mark.parametrize("start_um", [85.0, 60.0, 25.0, 12.5, 0.0, -30.0])
def test_it_runs_to_the_focus_from_either_side(make, eye, run, documents, start_um):
    bench = make(start_um=start_um)
    began_s = bench.clock.now_s()
    verdict = run(approach(bench, eye()))
    assert verdict.found and verdict.method == "approach"
    assert bench.axis.load_um == pytest.approx(FOCUS_UM, abs=0.3)
    assert verdict.position_um == pytest.approx(FOCUS_UM, abs=0.3)
    assert bench.clock.now_s() - began_s < 2.0
    assert at_rest(bench)
    exposures = documents.events("focus_approach")
    assert len(exposures) == verdict.exposures
    # nearer with every frame while it runs
    away = np.abs(np.array([one["z"] for one in exposures]) - FOCUS_UM)
    assert (np.diff(away[:-2]) <= 0.1).all()
    assert {"z_velocity", "z_actual_velocity", "z_time_s"} <= set(exposures[0])


def test_it_is_fast_far_away_and_slow_near(make, eye, run, documents):
    bench = make(start_um=85.0)
    run(approach(bench, eye(), verify=False))
    exposures = documents.events("focus_approach")
    velocity = np.array([one["z_velocity"] for one in exposures[1:]])
    away = np.array([one["z"] for one in exposures[1:]]) - FOCUS_UM
    running = velocity != 0
    assert velocity.min() == -DEFAULT_UM_S
    assert (np.abs(velocity[running & (away < 2 * WIDTH_UM)]) < 0.2 * 4 * DEFAULT_UM_S).all()
    assert (velocity <= 0).all(), "never past the focus and back"


@pytest.mark.parametrize("transfer_s", [0.0, 0.02, 0.1])
def test_what_it_went_since_the_frame_is_allowed_for(make, eye, run, documents, transfer_s):
    bench = make(start_um=70.0, transfer_s=transfer_s)
    verdict = run(approach(bench, eye()))
    assert verdict.found
    away = np.array([one["z"] for one in documents.events("focus_approach")]) - FOCUS_UM
    assert away.min() > -WIDTH_UM / 2, "no overshoot"
    readings = documents.events("reading_eye")
    known = [one for one in readings if one["eye_accepted"]]
    found = [one["eye_position_um"] - one["eye_value"] for one in known]
    assert found == pytest.approx([FOCUS_UM] * len(found), abs=2.0)  # it may have changed its speed since


@pytest.mark.parametrize("transfer_s", [0.015, 0.3, 1.0])
def test_it_never_leaves_its_range(make, eye, run, transfer_s):
    bench = make(start_um=20.0, transfer_s=transfer_s)
    highest = []
    verdict = run(
        approach(
            bench,
            eye(lambda defocus_um: highest.append(defocus_um + FOCUS_UM) or -30.0),
            travel_um=(0.0, 40.0),
        )
    )
    assert not verdict.found
    assert max(highest) <= 40.0
    assert bench.axis.load_um == pytest.approx(20.0, abs=0.1)


def test_a_wrong_sign_is_contradicted(make, eye, run):
    bench = make(start_um=14.0)
    verdict = run(approach(bench, eye(lambda defocus_um: -defocus_um)))
    assert not verdict.found
    assert bench.axis.load_um == pytest.approx(14.0, abs=0.1)
    assert at_rest(bench)


def test_frames_of_no_use_stop_it_and_end_it(make, eye, run, documents):
    bench = make(start_um=60.0)
    empty = Reading("", math.nan, unit="um", accepted=False, reason=Reason.EMPTY)
    verdict = run(approach(bench, eye(lambda defocus_um: empty if defocus_um < 30 else defocus_um)))
    assert verdict.reason is Reason.EMPTY
    assert [one["eye_reason"] for one in documents.events("reading_eye")][-3:] == ["empty"] * 3
    assert bench.axis.load_um == pytest.approx(60.0, abs=0.1)
    assert at_rest(bench)


def test_an_answer_that_is_no_number_moves_nothing(make, eye, run):
    bench = make(start_um=60.0)
    verdict = run(approach(bench, eye(lambda defocus_um: Reading("", math.nan, 0.1, "um"))))
    assert verdict.reason is Reason.UNCERTAIN
    assert bench.axis.load_um == pytest.approx(60.0, abs=0.1)


def test_one_frame_of_no_use_does_not_matter(make, eye, run):
    bench = make(start_um=60.0)
    empty = Reading("", math.nan, unit="um", accepted=False, reason=Reason.EMPTY)
    seen = []

    def says(defocus_um):
        seen.append(defocus_um)
        return empty if len(seen) == 4 else defocus_um

    assert run(approach(bench, eye(says))).found


def test_the_budget_ends_it(make, eye, run):
    bench = make(start_um=80.0)
    verdict = run(approach(bench, eye(), budget=6))
    assert verdict.reason is Reason.NOT_CONVERGED and verdict.exposures <= 6
    assert bench.axis.load_um == pytest.approx(80.0, abs=0.1)


def test_an_axis_that_runs_the_other_way(make, eye, run):
    bench = make(start_um=60.0)
    verdict = run(approach(bench, eye(lambda defocus_um: -defocus_um), axis_sign=-1))
    assert verdict.found
    assert bench.axis.load_um == pytest.approx(FOCUS_UM, abs=0.3)


def test_a_late_answer_stops_it(make, RE, run):  # noqa: N803
    class Late(Eye):
        async def settled(self, stream):
            import asyncio

            if bench.axis.running:
                await asyncio.sleep(30)

    bench = make(start_um=60.0)
    late = Late()
    RE.subscribe(late)
    with pytest.raises(ReadingTimeoutError, match="'eye' gave no reading of 'focus_approach' within 0.2 s"):
        run(approach(bench, late, timeout_s=0.2))
    assert at_rest(bench)
    assert bench.axis.load_um == pytest.approx(60.0, abs=0.1)


def pausing_at_exposure(plan, number):
    """Pause instead of the third trigger, say: while it runs."""
    seen = iter(range(1000))

    def pause(message):
        yield Msg("pause")
        return (yield message)

    def at(message):
        return (pause(message) if message.command == "trigger" and next(seen) == number else None), None

    return bpp.plan_mutator(plan, at)


def test_a_pause_on_the_way_stops_it_and_it_goes_on(make, eye, run, RE):  # noqa: N803
    bench = make(start_um=60.0)
    with pytest.raises(RunEngineInterrupted):
        run(pausing_at_exposure(approach(bench, eye()), 3))
    assert at_rest(bench)
    assert bench.axis.load_um < 59
    RE.resume()
    assert bench.axis.load_um == pytest.approx(FOCUS_UM, abs=0.3)
    assert at_rest(bench)


@pytest.mark.parametrize("index", [60, 66, 70, 72, 74, 76])
def test_after_a_pause_the_position_is_that_of_the_frame_taken_anew(make, eye, run, RE, documents, index):  # noqa: N803
    """Whichever message it falls upon: what was read before it does not count."""
    bench = make(start_um=60.0)
    seen = iter(range(10_000))

    def pause(message):
        yield Msg("pause")
        return (yield message)

    plan = bpp.plan_mutator(
        approach(bench, eye()), lambda message: (pause(message) if next(seen) == index else None, None)
    )
    with pytest.raises(RunEngineInterrupted):
        run(plan)
    bench.clock.advance(5.0)
    RE.resume()
    known = [one for one in documents.events("reading_eye") if one["eye_accepted"]]
    found = [one["eye_position_um"] - one["eye_value"] for one in known]
    assert found == pytest.approx([FOCUS_UM] * len(found), abs=2.0)
    assert bench.axis.load_um == pytest.approx(FOCUS_UM, abs=0.3)


@pytest.mark.parametrize("how", ["abort", "stop"])
def test_ended_on_the_way(make, eye, run, RE, how):  # noqa: N803
    bench = make(start_um=60.0)
    with pytest.raises(RunEngineInterrupted):
        run(pausing_at_exposure(approach(bench, eye()), 3))
    getattr(RE, how)()
    assert at_rest(bench)
    assert bench.axis.load_um == pytest.approx(60.0, abs=0.1)


def test_an_exception_at_every_other_message(make, eye, run, RE):  # noqa: N803
    def throwing(message):
        yield from ()
        raise RuntimeError(f"thrown in place of {message.command}")

    bench = make(start_um=40.0)
    analysis = eye()
    messages = []
    RE.msg_hook = messages.append
    run(approach(bench, analysis, verify=False))
    number = len(messages) - 2  # open_run, close_run
    assert number > 30
    for index in range(0, number, 2):
        bench.axis.set(40.0).wait(1)  # it is put back to where it says it was, which is a little off
        seen = iter(range(10_000))
        plan = bpp.plan_mutator(
            approach(bench, analysis, verify=False),
            lambda message, seen=seen, index=index: (
                throwing(message) if next(seen) == index else None,
                None,
            ),
        )
        with pytest.raises(RuntimeError, match="thrown in place"):
            run(plan)
        assert at_rest(bench), index
        assert bench.axis.load_um == pytest.approx(40.0, abs=0.1), index


class TestBadInput:
    def test_an_axis_without_velocity(self, bench, eye, run):
        with pytest.raises(ValueError, match="'z' has no velocity mode"):
            run(
                approach_focus(
                    [bench.camera],
                    bench.axis,
                    analysis=eye(),
                    default_velocity=10.0,
                    class_width_um=6.0,
                    travel_um=(-20.0, 20.0),
                )
            )

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"default_velocity": 0.0}, "default_velocity_um_s must be positive and finite, got 0.0"),
            ({"class_width_um": math.nan}, "width_um must be positive and finite, got nan"),
            ({"gain": 1.5}, "gain must be at most 1, got 1.5"),
            ({"stop_index": 4.0}, "stop_index must be below 3.5, got 4.0"),
            ({"patience": 0}, "patience must be at least 1 frame, got 0"),
            ({"budget": 2}, "budget must allow at least 3 exposures, got 2"),
            ({"axis_sign": 0}, "axis_sign must be"),
            ({"travel_um": (0.0, 30.0)}, "must contain the start 60"),
            ({"travel_um": (30.0, 0.0)}, "travel_um must be two finite positions"),
        ],
    )
    def test_numbers(self, make, eye, run, options, message):
        bench = make()
        with pytest.raises(ValueError, match=message):
            run(approach(bench, eye(), **options))
        assert bench.axis.load_um == 60.0

    def test_a_velocity_above_the_limit(self, make, eye, run):
        from ophyd.utils import LimitError

        bench = make()
        with pytest.raises(LimitError, match=r"250.0 um/s is not within \+-223.7"):
            run(approach(bench, eye(), default_velocity=250.0))
        assert bench.axis.load_um == 60.0

    def test_a_range_beyond_the_limits(self, make, eye, run):
        from ophyd.utils import LimitError

        bench = make()
        with pytest.raises(LimitError):
            run(approach(bench, eye(), travel_um=(-200.0, 90.0)))


def test_a_dry_run_goes_to_its_end(make):
    bench = make()
    assert "close_run" not in [message.command for message in approach(bench, Eye())]


@pytest.mark.parametrize("limits", [(-100.0, 100.0), (-90.0, -60.0)])
def test_a_dry_run_exposes_as_often_wherever_the_axis_may_be(make, limits):
    bench = make(start_um=-75.0, limits=limits)
    triggered = [message.obj for message in approach(bench, Eye()) if message.command == "trigger"]
    assert triggered.count(bench.camera) == 3


class TestLaw:
    law = ApproachLaw(DEFAULT_UM_S, WIDTH_UM)

    @pytest.mark.parametrize(
        ("index", "share"), [(4, -1.0), (3, -0.6), (2, -0.4), (1, -0.2), (0, 0.0), (-1, 0.2), (-2, 0.4)]
    )
    def test_as_in_the_article(self, index, share):
        velocity = self.law.velocity_um_s(index * WIDTH_UM, math.inf, math.inf, 0.05)
        assert velocity == pytest.approx(share * DEFAULT_UM_S)

    def test_room(self):
        assert self.law.velocity_um_s(4 * WIDTH_UM, 2.0, 100.0) == pytest.approx(-9.0)
        assert self.law.velocity_um_s(4 * WIDTH_UM, 0.0, 100.0) == 0.0
        assert self.law.velocity_um_s(-2 * WIDTH_UM, 100.0, 1.0) == pytest.approx(4.5)

    @pytest.mark.parametrize("unknown", [(math.nan, 9.0, 9.0), (30.0, math.nan, 9.0), (30.0, 9.0, math.nan)])
    def test_what_is_not_known_is_not_run_by(self, unknown):
        assert self.law.velocity_um_s(*unknown) == 0.0
