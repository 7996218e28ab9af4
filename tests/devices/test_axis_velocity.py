# ruff: noqa: N803 - every bluesky user calls it RE

import math
import time

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky.protocols import Movable, Readable, Stoppable
from bluesky.utils import RunEngineInterrupted
from ophyd.utils import LimitError, UnknownStatusFailure

from bluesky_autofocus.clock import VirtualClock, WallClock
from bluesky_autofocus.devices import AxisBusyError, SimulatedRunningAxis
from bluesky_autofocus.simulation.motion import AxisMechanics

PATIENCE_S = 10
LIMIT_UM_S = 223.7


class HeldClock(VirtualClock):
    """Time that only a test lets pass."""

    def __init__(self):
        super().__init__()
        self.waiting = []

    def call_after(self, delay_s, done, *, tick=None):
        entry = (self.now_s() + delay_s, done)
        self.waiting.append(entry)
        return lambda: entry in self.waiting and self.waiting.remove(entry)

    def advance(self, seconds):
        super().advance(seconds)
        for entry in [entry for entry in self.waiting if entry[0] <= self.now_s() + 1e-12]:
            self.waiting.remove(entry)
            entry[1]()


@pytest.fixture
def clock():
    return VirtualClock()


def make_axis(clock=None, *, limits=(-100, 100), position_um=0.0, watchdog_s=None, seed=0, **mechanics):
    return SimulatedRunningAxis(
        name="z",
        limits=limits,
        position_um=position_um,
        watchdog_s=watchdog_s,
        clock=clock,
        seed=seed,
        mechanics=AxisMechanics(**mechanics),
    )


def track(axis, seconds, n=200):
    """Return times, positions and velocities while time passes."""
    rows = []
    for _ in range(n):
        rows.append((axis.clock.now_s(), axis.position, axis.actual_velocity.get()))
        axis.clock.advance(seconds / n)
    return np.array(rows).T


class TestRun:
    def test_position_is_a_function_of_time(self, clock):
        axis = make_axis(clock)
        axis.run(20.0)
        assert axis.running and not axis.moving
        for _ in range(3):
            clock.advance(0.5)
            assert axis.position == axis.load_um == pytest.approx(20 * clock.now_s())
        axis.run(0)
        assert not axis.running
        clock.advance(10)
        assert axis.position == 30

    def test_ramps(self, clock):
        axis = make_axis(clock, acceleration_um_s2=100)
        axis.run(50)
        clock.advance(0.5)
        assert axis.actual_velocity.get() == pytest.approx(50)
        assert axis.position == pytest.approx(12.5)
        clock.advance(0.5)
        assert axis.position == pytest.approx(37.5)
        axis.stop()
        assert axis.velocity.get() == 0 and axis.actual_velocity.get() == pytest.approx(50)
        clock.advance(0.25)
        assert axis.actual_velocity.get() == pytest.approx(25)
        clock.advance(0.25)
        assert axis.position == pytest.approx(50), "37.5 + 50^2 / (2 * 100)"
        clock.advance(5)
        assert axis.position == pytest.approx(50) and axis.actual_velocity.get() == 0

    def test_the_speed_changes_under_way(self, clock):
        axis = make_axis(clock, acceleration_um_s2=100, position_um=-100)
        axis.run(100)
        clock.advance(1)
        axis.run(40)
        clock.advance(0.3)
        assert axis.actual_velocity.get() == pytest.approx(70)
        clock.advance(0.3)
        assert axis.actual_velocity.get() == pytest.approx(40)
        assert axis.position == pytest.approx(-100 + 50 + 0.6 * 70)
        axis.run(60)
        clock.advance(0.2)
        assert axis.actual_velocity.get() == pytest.approx(60)

    def test_reversal(self, clock):
        axis = make_axis(clock, acceleration_um_s2=100)
        axis.run(50)
        clock.advance(1)
        axis.run(-50)
        times, positions, velocities = track(axis, 2.0)
        assert positions.max() == pytest.approx(37.5 + 12.5, abs=0.01)
        assert velocities[-1] == -50
        assert np.abs(np.diff(velocities)).max() <= 100 * (times[1] - times[0]) + 1e-9
        assert np.abs(np.diff(positions)).max() <= 50 * (times[1] - times[0]) + 1e-9

    def test_random_commands_leave_no_jumps(self, clock):
        """Position and velocity are continuous and within the limits whatever comes, moves included."""
        rng = np.random.default_rng(0)
        axis = make_axis(clock, acceleration_um_s2=300, velocity_um_s=150, limits=(-30, 30), latency_s=0.013)
        last = axis.position, 0.0
        for _ in range(2000):
            if rng.random() < 0.1 and not axis.running:
                axis.motion.start(rng.uniform(-30, 30), clock.now_s())
            elif rng.random() < 0.3:
                axis.run(rng.choice([0.0, rng.uniform(-LIMIT_UM_S, LIMIT_UM_S)]))
            step_s = rng.uniform(0, 0.03)
            clock.advance(step_s)
            now = axis.position, axis.actual_velocity.get()
            assert -30 - 1e-9 <= now[0] <= 30 + 1e-9
            assert abs(now[1] - last[1]) <= 300 * step_s + 1e-6
            mean = (now[1] + last[1]) / 2
            assert now[0] - last[0] == pytest.approx(mean * step_s, abs=300 * step_s**2 + 1e-9)
            last = now

    def test_a_run_takes_up_backlash(self, clock):
        axis = make_axis(clock, backlash_um=3, acceleration_um_s2=100)
        axis.run(10)
        clock.advance(1)
        axis.run(-10)
        top = 9.5 + 0.5
        clock.advance(0.2)
        assert axis.load_um == pytest.approx(top)
        clock.advance(1)
        assert axis.load_um == pytest.approx(axis.position + 3)
        assert axis.load_at_um(1.1) == pytest.approx(top), "what was is kept"
        assert axis.load_at_um(0.5) == pytest.approx(4.5)
        assert axis.load_at_um(-1) == 0

    @pytest.mark.parametrize("velocity", [223.8, -1e3, math.nan, math.inf])
    def test_too_fast(self, clock, velocity):
        axis = make_axis(clock)
        axis.run(5)
        for run in (axis.run, axis.velocity.set, axis.velocity.put, axis.velocity.check_value):
            with pytest.raises(LimitError, match=r"z: .* um/s is not within \+-223.7 um/s"):
                run(velocity)
        assert axis.velocity.get() == 5

    @pytest.mark.parametrize(
        "options", [{"velocity_limit_um_s": 0}, {"velocity_limit_um_s": math.inf}, {"watchdog_s": -1}]
    )
    def test_that_cannot_be(self, options):
        with pytest.raises(ValueError, match=next(iter(options))):
            SimulatedRunningAxis(name="z", limits=(0, 1), **options)


class TestLimits:
    @pytest.mark.parametrize("velocity", [-LIMIT_UM_S, -60.0, 3.0, 100.0, LIMIT_UM_S])
    @pytest.mark.parametrize("acceleration", [20.0, 400.0, 5000.0, math.inf])
    def test_at_every_speed_it_comes_to_rest_at_them(self, clock, velocity, acceleration):
        axis = make_axis(clock, limits=(-10, 25), acceleration_um_s2=acceleration)
        axis.run(velocity)
        _, positions, velocities = track(axis, 20.0, 2000)
        limit = 25 if velocity > 0 else -10
        assert -10 - 1e-9 <= positions.min() and positions.max() <= 25 + 1e-9
        assert positions[-1] == limit and velocities[-1] == 0
        assert not axis.running and axis.velocity.get() == 0
        # it brakes as late as it can
        fast = np.abs(velocities).max()
        braking = np.abs(limit - positions[np.abs(velocities) >= fast * 0.99][-1])
        assert braking <= fast**2 / (2 * acceleration) + fast * 0.015

    def test_standing_at_one(self, clock):
        axis = make_axis(clock, limits=(0, 10), position_um=10, acceleration_um_s2=100)
        axis.run(5)
        clock.advance(1)
        assert axis.position == 10 and not axis.running
        axis.run(-5)
        clock.advance(1)
        assert axis.position < 6 and axis.running

    def test_faster_on_the_way_to_one(self, clock):
        axis = make_axis(clock, limits=(0, 30), acceleration_um_s2=200)
        axis.run(20)
        clock.advance(1.4)
        axis.run(200)
        _, positions, _ = track(axis, 3.0)
        assert positions.max() <= 30 + 1e-9 and positions[-1] == 30

    def test_slower_on_the_way_to_one(self, clock):
        axis = make_axis(clock, limits=(0, 100), acceleration_um_s2=200)
        axis.run(180)
        while axis.position < 90:  # it is braking already
            clock.advance(0.01)
        axis.run(1)
        _, positions, _ = track(axis, 30.0)
        assert positions.max() <= 100 + 1e-9 and positions[-1] == 100


class TestWatchdog:
    def test_without_commands_it_stops(self, clock):
        axis = make_axis(clock, watchdog_s=0.5, acceleration_um_s2=100)
        axis.run(20)
        clock.advance(0.5)
        assert not axis.running and axis.watchdog_tripped.get() == 1
        assert axis.actual_velocity.get() == pytest.approx(20), "it only begins to brake"
        clock.advance(10)
        assert axis.position == pytest.approx(2 + 20 * 0.3 + 2)
        axis.refresh()
        clock.advance(1)
        assert axis.position == pytest.approx(10), "a refresh starts nothing"
        assert axis.watchdog_tripped.get() == 1
        axis.run(-1)
        assert axis.watchdog_tripped.get() == 0

    @pytest.mark.parametrize("how", ["refresh", "run", "velocity"])
    def test_commands_keep_it_running(self, clock, how):
        axis = make_axis(clock, watchdog_s=0.5)
        axis.run(10)
        for _ in range(20):
            clock.advance(0.4)
            if how == "refresh":
                axis.refresh()
            elif how == "run":
                axis.run(10)
            else:
                axis.velocity.set(10).wait(PATIENCE_S)
        assert axis.position == pytest.approx(80) and axis.running
        assert axis.watchdog_tripped.get() == 0

    def test_told_nothing_at_rest(self, clock):
        axis = make_axis(clock, watchdog_s=0.5)
        axis.run(10)
        clock.advance(0.2)
        axis.stop()
        clock.advance(1)
        assert axis.watchdog_tripped.get() == 0
        axis = make_axis(clock, watchdog_s=5, limits=(0, 1))
        axis.run(10)
        clock.advance(10)
        assert axis.watchdog_tripped.get() == 0, "the limit ended the run"

    def test_a_command_that_comes_too_late_starts_anew(self, clock):
        axis = make_axis(clock, watchdog_s=0.5, latency_s=0.1)
        axis.run(10)
        clock.advance(0.55)
        axis.run(10)  # it will arrive at 0.65
        clock.advance(0.07)
        assert axis.watchdog_tripped.get() == 1 and axis.position == pytest.approx(5)
        clock.advance(0.13)
        assert axis.watchdog_tripped.get() == 0 and axis.position == pytest.approx(6)


class TestLatency:
    def test_of_every_command(self, clock):
        axis = make_axis(clock, latency_s=0.1, velocity_um_s=10)
        axis.run(10)
        clock.advance(0.1)
        assert axis.position == 0 and axis.velocity.get() == 10
        clock.advance(0.4)
        assert axis.position == pytest.approx(4)
        axis.run(-10)
        clock.advance(0.2)
        assert axis.position == pytest.approx(5 - 1)
        axis.stop()
        clock.advance(1)
        assert axis.position == pytest.approx(3)
        start_s = clock.now_s()
        axis.set(8).wait(PATIENCE_S)
        assert clock.now_s() - start_s == pytest.approx(0.1 + 0.5)
        assert axis.position == pytest.approx(8)

    def test_commands_in_flight(self, clock):
        axis = make_axis(clock, latency_s=0.3)
        axis.run(10)
        clock.advance(0.1)
        axis.run(20)
        clock.advance(0.1)
        axis.stop()
        clock.advance(1)
        assert axis.position == pytest.approx(10 * 0.1 + 20 * 0.1)


class TestMoves:
    def test_have_ramps_too(self, clock):
        axis = make_axis(clock, velocity_um_s=50, acceleration_um_s2=100, settle_s=0.2)
        axis.set(50).wait(PATIENCE_S)
        assert clock.now_s() == pytest.approx(1.5 + 0.2) and axis.position == 50
        axis.set(46).wait(PATIENCE_S)
        assert clock.now_s() == pytest.approx(1.7 + 0.4 + 0.2) and axis.position == 46

    def test_are_refused_while_it_runs(self, clock):
        axis = make_axis(clock)
        axis.run(10)
        clock.advance(1)
        for move in (axis.set, axis.setpoint.set):
            with pytest.raises(AxisBusyError, match=r"z cannot move to 5 um: it runs at 10.0 um/s; stop it"):
                move(5)
        clock.advance(1)
        assert axis.position == 20 and axis.setpoint.get() == 0
        axis.stop()
        axis.set(5).wait(PATIENCE_S)
        assert axis.position == 5

    def test_refuse_a_run(self):
        clock = HeldClock()
        axis = make_axis(clock, velocity_um_s=10)
        status = axis.set(50)
        clock.advance(1)
        for run in (axis.run, axis.velocity.set):
            with pytest.raises(AxisBusyError, match=r"z cannot run: it is moving to 50.0 um; stop it"):
                run(5)
        axis.refresh()
        axis.velocity.set(0)  # ends runs only
        clock.advance(4)
        status.wait(PATIENCE_S)
        assert axis.position == 50
        axis.run(-5)
        clock.advance(2)
        assert axis.position == 40

    def test_may_begin_while_it_brakes(self, clock):
        axis = make_axis(clock, velocity_um_s=50, acceleration_um_s2=100)
        axis.run(50)
        clock.advance(1)
        axis.stop()
        assert axis.actual_velocity.get() > 0
        axis.set(40).wait(PATIENCE_S)  # back from 50, where it comes to rest
        assert clock.now_s() == pytest.approx(1 + 0.5 + 2 * math.sqrt(10 / 100))
        assert axis.position == 40

    def test_are_stopped(self):
        clock = HeldClock()
        axis = make_axis(clock, velocity_um_s=50, acceleration_um_s2=100)
        status = axis.set(90)
        clock.advance(1)
        axis.stop()
        with pytest.raises(UnknownStatusFailure):
            status.wait(PATIENCE_S)
        clock.advance(2)
        assert axis.position == pytest.approx(37.5 + 12.5)


class TestMessages:
    def test_a_plan_that_knows_only_the_velocity(self, RE, documents, clock):
        axis = make_axis(clock, acceleration_um_s2=100, position_um=-20)

        @bpp.run_decorator(md={})
        def plan():
            yield from bps.abs_set(axis.velocity, 30)
            for _ in range(4):
                clock.advance(0.25)
                yield from bps.trigger_and_read([axis])
            yield from bps.abs_set(axis.velocity, 0, wait=True)
            assert axis.actual_velocity.get() == 0
            yield from bps.trigger_and_read([axis])
            yield from bps.mv(axis, 0)

        RE(plan())
        events = documents.events("primary")
        ramp = 30**2 / 200
        assert [event["z"] for event in events] == pytest.approx(
            [-20 + 3.125, -20 + ramp + 6, -20 + ramp + 13.5, -20 + ramp + 21, -20 + 2 * ramp + 21]
        )
        assert [event["z_velocity"] for event in events] == [30, 30, 30, 30, 0]
        assert [event["z_actual_velocity"] for event in events] == pytest.approx([25, 30, 30, 30, 0])
        assert [event["z_time_s"] for event in events] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.3])
        assert not any(event["z_watchdog_tripped"] for event in events)
        (descriptor,) = documents.named("descriptor")
        keys = descriptor["data_keys"]
        assert keys["z_velocity"]["units"] == keys["z_actual_velocity"]["units"] == "um/s"
        assert keys["z_velocity"]["upper_ctrl_limit"] == LIMIT_UM_S
        assert keys["z_time_s"]["units"] == "s"
        assert keys["z_watchdog_tripped"]["dtype"] == "integer"
        assert descriptor["hints"]["z"] == {"fields": ["z"]}
        assert "z_move_velocity" in descriptor["configuration"]["z"]["data"]

    def test_the_end_of_a_plan_stops_it(self, RE, clock):
        axis = make_axis(clock)
        RE(bps.abs_set(axis.velocity, 30))
        assert not axis.running
        clock.advance(1)
        assert axis.position == 0

    def test_a_plan_that_fails_stops_it(self, RE, clock):
        axis = make_axis(clock)

        def plan():
            yield from bps.abs_set(axis.velocity, 30)
            clock.advance(1)
            raise RuntimeError("enough")

        with pytest.raises(RuntimeError, match="enough"):
            RE(plan())
        clock.advance(1)
        assert axis.position == 30

    def test_a_pause_stops_it(self, RE, clock):
        axis = make_axis(clock)

        def plan():
            yield from bps.abs_set(axis.velocity, 30)
            clock.advance(1)
            yield from bps.pause()

        with pytest.raises(RunEngineInterrupted):
            RE(plan())
        clock.advance(1)
        assert axis.position == 30 and not axis.running
        RE.stop()

    def test_configuring_the_speed_of_moves(self, RE, clock):
        axis = make_axis(clock)
        RE(bps.configure(axis, {"move_velocity": 10.0}))
        axis.set(20).wait(PATIENCE_S)
        assert clock.now_s() == 2

    def test_protocols(self):
        axis = make_axis()
        for protocol in (Movable, Readable, Stoppable):
            assert isinstance(axis, protocol) and isinstance(axis.velocity, protocol)
        assert axis.velocity_limit_um_s == LIMIT_UM_S


def test_on_the_wall_clock():
    clock = WallClock(speed=20)
    axis = make_axis(clock, velocity_um_s=100, acceleration_um_s2=200, watchdog_s=5.0)
    axis.velocity.set(40).wait(PATIENCE_S)
    while axis.actual_velocity.get() != 40:
        time.sleep(0.002)
    readings = []
    for _ in range(20):
        reading = axis.read()
        readings.append((reading["z_time_s"]["value"], reading["z"]["value"]))
        time.sleep(0.002)
    times, positions = np.array(readings).T
    assert np.diff(positions) == pytest.approx(np.diff(times) * 40, abs=1e-6)
    axis.velocity.set(0).wait(PATIENCE_S)
    stands = axis.position
    assert axis.actual_velocity.get() == 0 and axis.position == stands
    assert axis.watchdog_tripped.get() == 0
    axis.set(10).wait(PATIENCE_S)
    assert axis.position == 10


def test_noise_and_its_seed(clock):
    axis = make_axis(clock, readback_noise_um=0.1, seed=3)
    axis.run(10)
    clock.advance(1)
    readbacks = np.array([axis.position for _ in range(500)])
    assert readbacks.mean() == pytest.approx(10, abs=4 * 0.1 / math.sqrt(500))
    assert readbacks.std() == pytest.approx(0.1, rel=0.15)
