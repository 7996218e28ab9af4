"""A sweep on one run of the axis: the focus of a sweep that stops, in a fraction of its time."""
# ruff: noqa: N803 - every bluesky user calls it RE

import asyncio
import math

import numpy as np
import pytest
from bluesky.utils import RunEngineInterrupted
from interrupting import at_message, pausing, throwing
from ophyd.utils import LimitError

from bluesky_autofocus.callbacks import SharpnessAnalysis
from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.devices import SimulatedRunningAxis, SimulatedSmearMicroscope
from bluesky_autofocus.devices._smear import TimedCamera
from bluesky_autofocus.plans import Approach, ReadingTimeoutError, search_focus, sweep_focus
from bluesky_autofocus.records import Reason
from bluesky_autofocus.simulation.motion import AxisMechanics

FOCUS_UM = 7.3
START_UM = -11.0
BOUNDS_UM = (-30.0, 40.0)
MECHANICS = AxisMechanics(
    velocity_um_s=500.0,
    settle_s=0.05,
    backlash_um=1.0,
    acceleration_um_s2=5000.0,
    latency_s=0.002,
    readback_noise_um=0.01,
)


class FlightBench:
    """A running axis, and a camera whose contrast depends on where the load was in mid-exposure."""

    def __init__(self, folder, *, contrast=None, transfer_s=0.02, **axis):
        self.clock = VirtualClock()
        self.contrast = contrast or (lambda z: 1 / (1 + ((z - FOCUS_UM) / 6) ** 2))
        self.axis = SimulatedRunningAxis(
            name="z",
            clock=self.clock,
            **{"limits": (-100.0, 100.0), "position_um": START_UM, "mechanics": MECHANICS, **axis},
        )
        self.went_um = []
        self.pattern = np.random.default_rng(3).uniform(-1, 1, (32, 32))
        self.camera = TimedCamera(
            name="bench_camera",
            render_at=self.frame,
            frame_directory=folder,
            frame_shape=(32, 32),
            clock=self.clock,
        )
        self.camera.transfer_s.put(transfer_s)

    def frame(self, time_s):
        position_um = self.axis.load_at_um(time_s)
        self.went_um += [position_um, self.axis.load_um]
        return (10_000 * (1 + 0.8 * self.contrast(position_um) * self.pattern)).astype(np.uint16)

    @property
    def at_rest(self):
        return self.axis.actual_velocity_um_s == 0 and not self.axis.running and not self.axis.moving


@pytest.fixture
def make(tmp_path):
    return lambda *args, **options: FlightBench(
        tmp_path / f"{len(list(tmp_path.iterdir()))}", *args, **options
    )


def sweep(bench, analysis, **options):
    options = {
        "bounds_um": BOUNDS_UM,
        "velocity_um_s": 60.0,
        "budget": 100,
        "depth_of_field_um": 4.0,
        "approach": Approach(overshoot_um=2.0),
        "travel_um": (-35.0, 45.0),
        **options,
    }
    return sweep_focus([bench.camera], bench.axis, analysis=analysis, **options)


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize(
    ("transfer_s", "velocity_um_s", "share"), [(0.0, 80.0, 0.3), (0.02, 80.0, 0.4), (0.1, 25.0, 0.6)]
)
def test_finds_the_focus_of_a_sweep_that_stops_and_sooner(
    make, analysis, run, documents, transfer_s, velocity_um_s, share, direction
):
    approach = Approach(direction, overshoot_um=2.0)
    bench = make(transfer_s=transfer_s)
    flown = run(
        sweep(bench, analysis, velocity_um_s=velocity_um_s, reaction_s=0.15, approach=approach, confirm=False)
    )
    flown_s, exposures = bench.clock.now_s(), documents.events("focus_sweep")
    stopping = make(transfer_s=transfer_s)
    stopped = run(
        sweep(
            stopping, analysis, velocity_um_s=None, budget=flown.exposures, approach=approach, confirm=False
        )
    )
    assert flown.found and flown.method == "sweep"
    # what a frame is told to be the position of is that of the motor, behind which the load hangs downwards
    focus_um = FOCUS_UM - (direction < 0) * MECHANICS.backlash_um
    assert flown.position_um == pytest.approx(focus_um, abs=0.3)
    assert flown.position_um == pytest.approx(stopped.position_um, abs=0.3)
    assert bench.axis.load_um == pytest.approx(FOCUS_UM, abs=0.3)
    assert bench.at_rest
    # all of what a slow camera takes it takes in flight too
    assert flown_s < share * stopping.clock.now_s()
    assert len(exposures) == flown.exposures > 15
    assert {"z", "z_velocity", "z_actual_velocity", "z_time_s", "bench_camera_time_s"} <= set(exposures[0])
    assert {one["z_velocity"] for one in exposures} <= {direction * velocity_um_s, 0.0}
    ways = np.diff([one["z"] for one in exposures]) * direction
    assert (ways > 0).all()
    assert len(documents.named("start")) == 2


@pytest.mark.parametrize("transfer_s", [0.0, 0.02, 0.1])
def test_frames_are_placed_where_they_were_taken(make, analysis, run, documents, transfer_s):
    bench = make(transfer_s=transfer_s)
    run(sweep(bench, analysis, velocity_um_s=25.0, reaction_s=0.15))
    taken = bench.went_um[::2]
    placed = [one["sharpness_position_um"] for one in documents.events("reading_sharpness")]
    # all but those at its beginning, when it was not yet as fast as when it was read
    assert placed[2:] == pytest.approx(taken[2:], abs=0.1)


@pytest.mark.parametrize("watchdog_s", [None, 0.2])
def test_a_watchdog_is_kept_quiet(make, analysis, run, documents, watchdog_s):
    bench = make(watchdog_s=watchdog_s)
    assert run(sweep(bench, analysis)).found
    assert not any(one["z_watchdog_tripped"] for one in documents.events("focus_sweep"))


@pytest.mark.parametrize(("transfer_s", "velocity_um_s"), [(0.0, 80.0), (0.05, 40.0), (0.13, 20.0)])
@pytest.mark.parametrize("direction", [1, -1])
def test_without_room_beyond_it_does_not_leave_its_range(
    make, analysis, run, transfer_s, velocity_um_s, direction
):
    bench = make(transfer_s=transfer_s, mechanics=None)
    options = {"velocity_um_s": velocity_um_s, "reaction_s": 0.15, "approach": Approach(direction)}
    verdict = run(sweep(bench, analysis, travel_um=BOUNDS_UM, **options))
    assert verdict.found
    assert min(bench.went_um) >= BOUNDS_UM[0] and max(bench.went_um) <= BOUNDS_UM[1]
    ends = BOUNDS_UM[::direction]
    assert bench.went_um[-4] == pytest.approx(ends[1]), "the last one before confirming, at rest"


def test_the_rest_of_the_bench_may_be_still(make, analysis, run):
    """Of an axis that does not go where it is told to run it is soon seen that it does not."""
    bench = make()
    bench.axis.run = lambda velocity_um_s: None
    verdict = run(sweep(bench, analysis, budget=12))
    assert (verdict.reason, verdict.exposures) == (Reason.NOT_ENOUGH_POINTS, 3)


class TestNotFound:
    @pytest.mark.parametrize(
        ("options", "bench_options", "reason"),
        [
            ({"budget": 12}, {}, Reason.NOT_CONVERGED),
            ({"velocity_um_s": 60.0}, {"transfer_s": 0.4}, Reason.NOT_ENOUGH_POINTS),
            ({}, {"contrast": lambda z: 0.4}, Reason.FLAT),
            ({}, {"contrast": lambda z: 1 / (1 + ((z - 42) / 6) ** 2)}, Reason.EDGE),
        ],
    )
    def test_reasons(self, make, analysis, run, options, bench_options, reason):
        bench = make(**bench_options)
        verdict = run(sweep(bench, analysis, **options))
        assert not verdict.found and verdict.reason is reason
        assert bench.axis.load_um == pytest.approx(START_UM, abs=0.1)
        assert bench.at_rest


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"velocity_um_s": 0.0}, ValueError, "velocity_um_s must be positive and finite, got 0.0"),
            ({"velocity_um_s": -5.0}, ValueError, "velocity_um_s must be positive and finite, got -5.0"),
            ({"velocity_um_s": 250.0, "reaction_s": 0.01}, LimitError, r"250.0 um/s is not within \+-223.7"),
            ({"reaction_s": 0.0}, ValueError, "reaction_s must be positive and finite, got 0.0"),
            ({"velocity_um_s": 100.0}, ValueError, "20 um from frame to frame: .* fewer than 5 .* 70 um"),
            ({"bounds_um": None, "range_um": 50.0}, ValueError, "12 um from frame to frame: .* in 50 um"),
            ({"bounds_um": None, "positions_um": [1.0, 9.0]}, ValueError, "give no positions_um"),
            ({"budget": 5}, ValueError, "budget must allow at least 6 exposures"),
        ],
    )
    def test_numbers(self, make, analysis, run, messages, options, error, message):
        bench = make()
        with pytest.raises(error, match=message):
            run(sweep(bench, analysis, **options))
        assert not {"set", "trigger"} & {one.command for one in messages}

    def test_an_axis_without_velocity(self, bench, analysis, run):
        with pytest.raises(ValueError, match="'z' has no velocity mode"):
            run(sweep(bench, analysis))


def test_a_dry_run_shows_where_it_goes(make):
    bench = make()
    messages = list(sweep(bench, SharpnessAnalysis()))
    told = [(message.obj.name, message.args[0]) for message in messages if message.command == "set"]
    assert ("z", -30.0) in told and told.index(("z_velocity", 60.0)) < told.index(("z_velocity", 0.0))
    assert bench.axis.position == pytest.approx(START_UM, abs=0.1)


class TestLate:
    """Time goes on while somebody is late, until the axis is halted, or for good."""

    @pytest.fixture
    def bench(self, make):
        return make(mechanics=None)

    @pytest.fixture
    def stops(self, bench):
        """Where the axis was halted."""
        brake, where = bench.axis.brake, []

        def braked():
            if bench.axis.running:
                where.append(bench.axis.position)
            return brake()

        bench.axis.brake = braked
        return where

    def test_an_answer_stops_it_and_is_waited_for(self, RE, bench, stops, run, documents):
        class Late(SharpnessAnalysis):
            async def settled(self, stream):
                if bench.axis.position > 0 and not stops:
                    bench.clock.advance(0.5)
                    while not stops:
                        await asyncio.sleep(0.001)

        late = Late()
        RE.subscribe(late)
        verdict = run(sweep(bench, late))
        assert verdict.found and verdict.position_um == pytest.approx(FOCUS_UM, abs=0.3)
        assert stops[0] > 30, "it ran past the focus"
        positions = [one["z"] for one in documents.events("focus_sweep")]
        assert np.diff(np.sort(positions)).max() < 2.5, "and went back"

    def test_an_answer_that_never_comes_ends_it(self, RE, bench, stops, run):
        class Late(SharpnessAnalysis):
            async def settled(self, stream):
                if bench.axis.position > 0:
                    await asyncio.sleep(30)

        late = Late()
        RE.subscribe(late)
        with pytest.raises(ReadingTimeoutError, match="'sharpness' gave no reading of 'focus_sweep'"):
            run(sweep(bench, late, timeout_s=0.5))
        assert len(stops) == 1 and bench.at_rest
        assert bench.axis.position == START_UM

    def test_a_frame_stops_it_and_does_not_count(self, bench, stops, analysis, run, documents):
        expose, brake, waiting = bench.camera.expose, bench.axis.brake, []

        def late(deliver):
            if bench.axis.position > 0 and not stops:
                bench.clock.advance(0.5)
                waiting.append(deliver)
            else:
                expose(deliver)

        def braked():
            seconds = brake()
            while waiting:
                waiting.pop()(lambda: bench.frame(bench.clock.now_s()))
            return seconds

        bench.camera.expose, bench.axis.brake = late, braked
        verdict = run(sweep(bench, analysis))
        assert verdict.found and verdict.position_um == pytest.approx(FOCUS_UM, abs=0.3)
        assert stops[0] > 30
        assert verdict.exposures == len(documents.events("focus_sweep"))

    def test_where_all_are_late_it_gives_up(self, RE, bench, stops, run):
        class Late(SharpnessAnalysis):
            async def settled(self, stream):
                while bench.axis.running:
                    await asyncio.sleep(0.001)

        late = Late()
        RE.subscribe(late)
        verdict = run(sweep(bench, late, budget=7, velocity_um_s=100.0, reaction_s=0.05))
        assert (verdict.reason, verdict.exposures) == (Reason.NOT_ENOUGH_POINTS, 3)
        assert bench.at_rest and bench.axis.position == START_UM


class TestInterrupted:
    """At messages so far apart that each of the 17 of a frame has its turn."""

    @pytest.fixture
    def short(self, analysis):
        """Return a function that makes a sweep of few messages."""
        return lambda bench: sweep(
            bench,
            analysis,
            velocity_um_s=60.0,
            bounds_um=(-4.7, 19.3),
            reaction_s=0.08,
            budget=14,
            depth_of_field_um=None,
        )

    @pytest.fixture
    def bench(self, make):
        return make(transfer_s=0.04)

    @pytest.fixture
    def number(self, bench, short, run, messages):
        assert run(short(bench)).found
        return len(messages) - 2  # open_run, close_run

    def back(self, bench):
        bench.axis.set(START_UM).wait(1)

    def test_an_exception_at_any_message(self, bench, short, run, number):
        assert number > 100
        # all at its beginning and its end, and between them one in three
        for index in sorted({*range(45), *range(45, number - 45, 3), *range(number - 45, number)}):
            self.back(bench)
            with pytest.raises(RuntimeError, match="thrown in place"):
                run(at_message(short(bench), index, throwing))
            assert bench.at_rest, index
            assert bench.axis.position == pytest.approx(START_UM, abs=0.1), index

    def test_an_abort_at_any_message(self, RE, bench, short, run, number):
        for index in range(0, number, 5):
            self.back(bench)
            with pytest.raises(RunEngineInterrupted):
                run(at_message(short(bench), index, pausing))
            assert bench.clock.advance(0.1) or bench.at_rest, "a pause stops it"
            if RE.state == "paused":
                RE.abort()
            assert bench.at_rest, index
            assert bench.axis.position == pytest.approx(START_UM, abs=0.1), index

    def test_a_pause_at_any_message(self, RE, bench, short, run, number, documents):
        for index in range(0, number, 7):
            self.back(bench)
            documents.clear()
            with pytest.raises(RunEngineInterrupted):
                run(at_message(short(bench), index, pausing))
            RE.resume()
            (verdict,) = documents.events("verdict")[-1:]
            assert verdict["verdict_found"], (index, verdict)
            assert verdict["verdict_position_um"] == pytest.approx(FOCUS_UM, abs=0.7), index
            assert bench.axis.position == pytest.approx(verdict["verdict_position_um"], abs=0.1), index
            assert bench.at_rest, index
        assert max(bench.went_um) <= 45.0


@pytest.mark.parametrize(("transfer_s", "velocity_um_s"), [(0.0, 40.0), (0.1, 10.0)])
def test_on_a_stained_smear_in_colour(tmp_path, run, analysis, transfer_s, velocity_um_s):
    """As near the truth as the sweep that stops."""

    def make(folder):
        return SimulatedSmearMicroscope(
            name="microscope",
            frame_directory=tmp_path / folder,
            frame_shape=(96, 128),
            smear_options={"density_per_mm2": (4000.0, 4000.0), "covered": (1.0, 1.0)},
            mechanics=MECHANICS,
            transfer_s=transfer_s,
            z_um=9.0,
            seed=3,
        )

    found, times_s = [], []
    for speed_um_s in (velocity_um_s, None):
        microscope = make(str(speed_um_s))
        found.append(
            run(
                sweep_focus(
                    [microscope],
                    microscope.z,
                    analysis=analysis,
                    bounds_um=(-20.0, 20.0),
                    velocity_um_s=speed_um_s,
                    budget=40 if speed_um_s is None else 200,
                    depth_of_field_um=microscope.depth_of_field_um,
                    approach=Approach(overshoot_um=2.0),
                    travel_um=(-25.0, 25.0),
                )
            )
        )
        times_s.append(microscope.clock.now_s())
        assert found[-1].found, found[-1]
        assert abs(microscope.defocus_um) < microscope.depth_of_field_um / 2
        assert math.isfinite(found[-1].sigma_um)
    assert found[0].position_um == pytest.approx(found[1].position_um, abs=0.7)
    assert times_s[0] < times_s[1]


def test_the_dose_does_not_last_for_the_way(make, analysis, run):
    """It takes no more frames than it may, and comes back."""
    bench = make()
    verdict = run(sweep(bench, analysis, dose_budget_s=0.08))
    assert (verdict.found, verdict.reason) == (False, Reason.NOT_CONVERGED)
    assert verdict.exposures <= 8 and verdict.dose <= 0.08 * (1 + 1e-9)
    assert bench.at_rest and bench.axis.position == pytest.approx(START_UM, abs=0.1)


def test_the_exposure_time_rises_on_the_way(make, analysis, run):
    """The axis runs when the next exposure is refused: it is stopped, and sent back."""
    bench = make()
    frame = bench.frame

    def longer(time_s):
        bench.camera.exposure_s.put(0.05)
        return frame(time_s)

    bench.camera.render = lambda: longer(bench.camera.middle_s)
    verdict = run(sweep(bench, analysis, dose_budget_s=0.2))
    assert (verdict.found, verdict.reason) == (False, Reason.DOSE_SPENT)
    assert bench.at_rest and bench.axis.position == pytest.approx(START_UM, abs=0.1)


@pytest.mark.parametrize("z_um", [9.0, -14.0])
def test_a_search_that_begins_in_flight(tmp_path, run, analysis, documents, z_um):
    """One run finds the valley, a few exposures at rest the focus."""
    microscope = SimulatedSmearMicroscope(
        name="microscope",
        frame_directory=tmp_path,
        frame_shape=(128, 160),
        smear_options={"density_per_mm2": (4000.0, 4000.0), "covered": (1.0, 1.0)},
        mechanics=MECHANICS,
        z_um=z_um,
        seed=3,
    )
    dof_um = microscope.depth_of_field_um
    verdict = run(
        search_focus(
            [microscope],
            microscope.z,
            analysis=analysis,
            bounds_um=(-20.0, 20.0),
            velocity_um_s=100.0,
            reaction_s=0.08,
            budget=100,
            depth_of_field_um=dof_um,
            approach=Approach(overshoot_um=2.0),
            travel_um=(-25.0, 25.0),
        )
    )
    assert verdict.found, verdict
    assert abs(microscope.defocus_um) < dof_um / 2
    assert (verdict.method, verdict.parameters["velocity_um_s"]) == ("search", 100.0)
    velocities = [data["microscope_z_actual_velocity"] for data in documents.events("focus_search")]
    in_flight = [velocity for velocity in velocities if velocity]
    assert 5 <= len(in_flight) == len(velocities) - velocities[::-1].index(in_flight[-1])
    assert len(velocities) > len(in_flight)  # the confirming one at least


def test_a_search_that_begins_in_flight_and_is_refused(make, analysis, run):
    bench = make(contrast=lambda z: 0.5)
    verdict = run(
        search_focus(
            [bench.camera],
            bench.axis,
            analysis=analysis,
            bounds_um=BOUNDS_UM,
            velocity_um_s=60.0,
            budget=60,
            travel_um=(-35.0, 45.0),
        )
    )
    assert not verdict.found
    assert bench.at_rest and bench.axis.position == pytest.approx(START_UM, abs=0.1)
