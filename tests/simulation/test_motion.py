import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesky_autofocus.simulation.motion import AxisMechanics, AxisMotion

targets = st.lists(st.floats(-100, 100), min_size=1, max_size=8)


def test_a_ramp():
    motion = AxisMotion(AxisMechanics(velocity_um_s=2.0, settle_s=0.5), 10.0)
    assert motion.start(4.0, now_s=100.0) == 3.5
    assert motion.motor_um(100.0) == 10
    assert motion.motor_um(101.0) == 8
    assert motion.motor_um(103.0) == 4
    assert motion.motor_um(1e6) == 4


def test_an_axis_without_velocity_is_there_at_once():
    motion = AxisMotion(AxisMechanics(), 0.0)
    assert motion.start(5.0, 0.0) == 0
    assert motion.motor_um(0.0) == 5


def test_stop_and_a_new_target_under_way():
    motion = AxisMotion(AxisMechanics(velocity_um_s=1.0), 0.0)
    motion.start(10.0, 0.0)
    motion.stop(4.0)
    assert motion.motor_um(50.0) == 4
    motion.start(10.0, 50.0)
    assert motion.start(0.0, 53.0) == 7
    assert motion.motor_um(55.0) == 5


def test_backlash():
    motion = AxisMotion(AxisMechanics(backlash_um=3.0), 0.0)

    def load_after(target):
        motion.start(target, 0.0)
        return motion.load_um(0.0)

    assert load_after(10) == 10, "driven upwards the load stands on the motor"
    assert load_after(8) == 10, "the gap is taken up first"
    assert load_after(7) == 10
    assert load_after(5) == 8, "driven downwards it trails"
    assert load_after(6) == 8
    assert load_after(8) == 8
    assert load_after(9) == 9


@given(targets, st.floats(0, 5), st.floats(0.1, 50), st.data())
def test_the_load_stays_within_the_backlash(positions, backlash, velocity, data):
    motion = AxisMotion(AxisMechanics(velocity_um_s=velocity, backlash_um=backlash), 0.0)
    now = 0.0
    for target in positions:
        duration = motion.start(target, now)
        part = data.draw(st.floats(0, 1.2))  # some moves are given up on the way
        before = motion.load_um(now)
        now += part * duration
        motor, load = motion.motor_um(now), motion.load_um(now)
        assert motor <= load <= motor + backlash
        # the load never overtakes: it moves at most as far as the motor
        assert abs(load - before) <= velocity * part * duration + 1e-9


@given(targets)
def test_approaching_from_below_leaves_no_backlash(positions):
    motion = AxisMotion(AxisMechanics(backlash_um=2.0), 0.0)
    for target in positions:
        motion.start(target - 2.0, 0.0)
        motion.start(target, 0.0)
        assert motion.load_um(0.0) == pytest.approx(target)


def test_readback_noise():
    motion = AxisMotion(AxisMechanics(readback_noise_um=0.2), 50.0, seed=3)
    readbacks = np.array([motion.readback_um(0.0) for _ in range(4000)])
    # four standard errors of the mean and of the standard deviation
    assert readbacks.mean() == pytest.approx(50, abs=4 * 0.2 / math.sqrt(4000))
    assert readbacks.std() == pytest.approx(0.2, rel=4 / math.sqrt(8000))
    again = AxisMotion(AxisMechanics(readback_noise_um=0.2), 50.0, seed=3)
    assert again.readback_um(0.0) == readbacks[0]


def test_ramps_of_an_axis_that_accelerates():
    motion = AxisMotion(AxisMechanics(velocity_um_s=4.0, acceleration_um_s2=2.0, latency_s=0.5), 0.0)
    assert motion.start(20.0, now_s=10.0) == 0.5 + 2 + 3 + 2
    assert [motion.motor_um(10.5 + t) for t in (0, 1, 2, 5, 6, 7, 8)] == [0, 1, 4, 16, 19, 20, 20]
    assert [motion.velocity_um_s(10.5 + t) for t in (0, 1, 2, 5, 6, 7)] == [0, 2, 4, 4, 2, 0]
    assert motion.start(18.0, now_s=20.0) == 0.5 + 2, "too short a way for the whole speed"
    assert motion.motor_um(21.5) == 19


@given(targets, st.floats(0.5, 1000), st.floats(0.1, 500), st.data())
def test_a_move_under_way_is_taken_over_without_a_jump(positions, acceleration, velocity, data):
    mechanics = AxisMechanics(velocity_um_s=velocity, acceleration_um_s2=acceleration)
    motion, now = AxisMotion(mechanics, 0.0), 0.0
    for target in positions:
        before = motion.motor_um(now), motion.velocity_um_s(now)
        duration = motion.start(target, now)
        assert (motion.motor_um(now), motion.velocity_um_s(now)) == pytest.approx(before, abs=1e-6)
        assert motion.motor_um(now + duration + 1e-9) == pytest.approx(target, abs=1e-6)
        assert abs(motion.velocity_um_s(now + duration / 3)) <= velocity + 1e-6
        now += data.draw(st.floats(0, 1.2)) * duration


def test_a_way_shorter_than_numbers_tell():
    motion = AxisMotion(AxisMechanics(velocity_um_s=1.0, acceleration_um_s2=0.5), 0.0)
    assert motion.start(5e-324, 0.0) == pytest.approx(0, abs=1e-9)
    assert motion.motor_um(1.0) == pytest.approx(0, abs=1e-9)


def test_a_run_without_limits():
    motion = AxisMotion(AxisMechanics(acceleration_um_s2=2.0), 0.0)
    motion.run(-4.0, 0.0)
    assert motion.commanded_um_s(1e6) == -4 and motion.velocity_um_s(1e6) == -4
    assert motion.motor_um(12.0) == -44
    assert motion.stop(12.0) == 2
    assert motion.motor_um(20.0) == -48 and motion.commanded_um_s(12.0) == 0


def test_a_watchdog_may_trip_at_the_moment_of_a_stop():
    motion = AxisMotion(AxisMechanics(), 0.0)
    motion.run(1.0, 0.0, watchdog_s=2.0)
    assert not motion.tripped(1.9) and motion.tripped(2.0)
    motion.stop(2.0)
    assert motion.tripped(3.0) and motion.motor_um(3.0) == 2
    motion.run(1.0, 3.0, watchdog_s=2.0)
    assert not motion.tripped(3.0) and not motion.tripped(4.9) and motion.tripped(5.0)


def test_long_runs_keep_a_bounded_past():
    motion = AxisMotion(AxisMechanics(acceleration_um_s2=100.0), 0.0)
    for n in range(3000):
        motion.run(10.0 if n % 2 else 5.0, n * 0.1, watchdog_s=1.0)
    assert len(motion._segments) < 300 and len(motion._trips) < 300
    assert motion.motor_um(299.0) == pytest.approx(299 * 7.5, rel=0.01)


@pytest.mark.parametrize(
    "wrong",
    [
        {"velocity_um_s": 0},
        {"velocity_um_s": math.nan},
        {"settle_s": -1},
        {"settle_s": math.inf},
        {"backlash_um": -0.1},
        {"readback_noise_um": math.nan},
        {"acceleration_um_s2": 0},
        {"acceleration_um_s2": math.nan},
        {"latency_s": -1},
    ],
)
def test_mechanics_that_cannot_be(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AxisMechanics(**wrong)
