# ruff: noqa: N803 - every bluesky user calls it RE

import math
import threading
import time

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import numpy as np
import pytest
from bluesky.protocols import Movable, Readable, Stoppable
from bluesky.utils import FailedStatus
from ophyd.utils import LimitError, UnknownStatusFailure

from bluesky_autofocus.clock import VirtualClock, WallClock
from bluesky_autofocus.devices import SimulatedAxis
from bluesky_autofocus.simulation.motion import AxisMechanics

PATIENCE_S = 10


class HeldClock(VirtualClock):
    """Time that a test lets pass: calls back when it is advanced far enough."""

    def __init__(self):
        super().__init__()
        self.waiting = []

    def call_after(self, delay_s, done, *, tick=None):
        entry = (self.now_s() + delay_s, done)
        self.waiting.append(entry)
        return lambda: entry in self.waiting and self.waiting.remove(entry)

    def advance(self, seconds):
        super().advance(seconds)
        for entry in [entry for entry in self.waiting if entry[0] <= self.now_s()]:
            self.waiting.remove(entry)
            entry[1]()


def make_axis(clock=None, *, limits=(-100, 100), position_um=0.0, seed=0, **mechanics):
    return SimulatedAxis(
        name="z",
        limits=limits,
        position_um=position_um,
        clock=clock,
        seed=seed,
        mechanics=AxisMechanics(**mechanics),
    )


class TestMove:
    def test_takes_distance_over_velocity_and_settles(self):
        clock = VirtualClock()
        axis = make_axis(clock, velocity_um_s=4, settle_s=0.5)
        axis.set(10).wait(PATIENCE_S)
        assert clock.now_s() == 3
        assert axis.position == axis.load_um == 10
        axis.set(-10).wait(PATIENCE_S)
        assert clock.now_s() == 8.5
        assert axis.setpoint.get() == -10
        assert not axis.moving

    def test_on_the_wall_clock(self):
        clock = WallClock(speed=50)
        axis = make_axis(clock, velocity_um_s=5, settle_s=1)
        start_s = clock.now_s()
        status = axis.set(25)
        assert axis.moving
        status.wait(PATIENCE_S)
        assert clock.now_s() - start_s >= 6
        assert axis.position == 25
        assert not axis.moving

    def test_watchers_are_told_on_the_way(self):
        axis = make_axis(WallClock(speed=50), velocity_um_s=5)
        told = []
        status = axis.set(50)
        status.watch(lambda **update: told.append(update))
        status.wait(PATIENCE_S)
        on_the_way = [update["current"] for update in told if 0 < update.get("current", 0) < 50]
        assert len(on_the_way) > 1
        assert on_the_way == sorted(on_the_way)
        assert told[0]["unit"] == "um"
        assert told[0]["target"] == 50

    def test_no_way_to_go(self):
        clock = VirtualClock()
        axis = make_axis(clock, velocity_um_s=4, settle_s=0.5, position_um=3)
        axis.set(3).wait(PATIENCE_S)
        assert clock.now_s() == 0.5

    def test_wait_and_callback(self):
        axis, called = make_axis(velocity_um_s=4), threading.Event()
        status = axis.set(5, wait=True, moved_cb=lambda status, obj: called.set())
        assert status.done
        assert called.wait(PATIENCE_S)

    def test_through_the_setpoint(self):
        axis = make_axis(velocity_um_s=4)
        axis.setpoint.set(5).wait(PATIENCE_S)
        assert axis.load_um == 5


class TestLimits:
    @pytest.mark.parametrize("target", [100.001, -101, math.nan, math.inf])
    def test_are_checked_before_anything_moves(self, target):
        clock = HeldClock()
        axis = make_axis(clock, velocity_um_s=1)
        under_way = axis.set(10)
        clock.advance(5)
        for move in (axis.set, axis.move, axis.setpoint.set):
            with pytest.raises(LimitError, match=r"z: .* um is not within the limits -100.0 \.\. 100.0 um"):
                move(target)
        assert axis.setpoint.get() == 10, "the refused one leaves the move under way alone"
        clock.advance(5)
        under_way.wait(PATIENCE_S)
        assert axis.position == 10

    def test_end_a_plan(self, RE, documents):
        axis = make_axis()
        with pytest.raises(LimitError):
            RE(bp.scan([], axis, 0, 200, 3))
        assert axis.position == 100
        assert documents.named("stop")[0]["exit_status"] == "fail"

    def test_themselves_may_be_reached(self):
        axis = make_axis(velocity_um_s=0.3, limits=(-7.7, 9.9))
        for target in (9.9, -7.7, 9.9):
            axis.set(target).wait(PATIENCE_S)
            assert axis.position == pytest.approx(target)

    @pytest.mark.parametrize("limits", [(1, -1), (0, 0), (0, math.inf), (math.nan, 1)])
    def test_that_cannot_be(self, limits):
        with pytest.raises(ValueError, match="finite and ascending"):
            make_axis(limits=limits)

    @pytest.mark.parametrize("position_um", [-101, math.nan])
    def test_hold_for_the_start(self, position_um):
        with pytest.raises(ValueError, match="position_um must lie within"):
            make_axis(position_um=position_um)


class TestStop:
    def test_leaves_it_where_it_is(self):
        clock = HeldClock()
        axis = make_axis(clock, velocity_um_s=2)
        status = axis.set(10)
        clock.advance(3)
        axis.stop()
        with pytest.raises(UnknownStatusFailure):
            status.wait(PATIENCE_S)
        assert not axis.moving
        clock.advance(100)
        assert axis.position == axis.load_um == 6

    def test_as_a_success(self):
        clock = HeldClock()
        axis = make_axis(clock, velocity_um_s=2)
        status = axis.set(10)
        clock.advance(3)
        axis.stop(success=True)
        status.wait(PATIENCE_S)
        assert axis.position == 6

    def test_at_rest(self):
        axis = make_axis(position_um=4)
        axis.stop()
        axis.stop(success=True)
        assert axis.position == 4

    def test_while_it_settles(self):
        clock = HeldClock()
        axis = make_axis(clock, velocity_um_s=2, settle_s=5)
        status = axis.set(10)
        clock.advance(6)
        axis.stop()
        with pytest.raises(UnknownStatusFailure):
            status.wait(PATIENCE_S)
        assert axis.position == 10

    def test_a_second_move_gives_up_the_first(self):
        clock = HeldClock()
        axis = make_axis(clock, velocity_um_s=2)
        first = axis.set(10)
        clock.advance(3)
        second = axis.set(0)
        with pytest.raises(UnknownStatusFailure):
            first.wait(PATIENCE_S)
        clock.advance(2.5)
        assert not second.done
        assert axis.load_um == 1
        clock.advance(0.5)
        second.wait(PATIENCE_S)
        assert axis.position == 0

    def test_an_arrival_that_comes_too_late_ends_no_other_move(self):
        """The clock's thread may be about to report the first move when the second begins."""
        clock = HeldClock()
        axis = make_axis(clock, velocity_um_s=2)
        axis.set(10)
        ((_, arrived),) = clock.waiting
        second = axis.set(-10)
        arrived()
        assert axis.moving
        assert not second.done
        clock.advance(5)
        second.wait(PATIENCE_S)
        assert axis.position == -10

    def test_on_the_wall_clock(self):
        axis = make_axis(WallClock(speed=50), velocity_um_s=1)
        status, moving = axis.set(100), threading.Event()
        status.watch(lambda current, **update: moving.set() if current > 0 else None)
        assert moving.wait(PATIENCE_S)
        axis.stop()
        with pytest.raises(UnknownStatusFailure):
            status.wait(PATIENCE_S)
        stands = axis.position
        assert 0 < stands < 100
        assert axis.position == stands

    def test_by_the_run_engine_when_a_plan_fails(self, RE):
        clock = HeldClock()
        axis = make_axis(clock, velocity_um_s=2)

        def plan():
            yield from bps.abs_set(axis, 10, group="never waited for")
            clock.advance(2)
            raise RuntimeError("enough")

        with pytest.raises(RuntimeError, match="enough"):
            RE(plan())
        assert not axis.moving
        assert axis.position == 4


class TestReading:
    def test_backlash(self):
        axis = make_axis(backlash_um=3)
        axis.set(10)
        axis.set(8)
        assert axis.position == 8, "the encoder sits on the motor"
        assert axis.load_um == 10
        axis.set(0)
        assert axis.load_um == 3

    def test_noise(self):
        axis = make_axis(readback_noise_um=0.1, position_um=20, seed=5)
        readbacks = np.array([axis.read()["z"]["value"] for _ in range(1000)])
        assert readbacks.mean() == pytest.approx(20, abs=4 * 0.1 / math.sqrt(1000))
        assert readbacks.std() == pytest.approx(0.1, rel=4 / math.sqrt(2000))
        assert axis.load_um == 20
        assert axis.setpoint.get() == 20
        assert make_axis(readback_noise_um=0.1, position_um=20, seed=5).position == readbacks[0]

    def test_in_a_scan(self, RE, documents):
        clock = VirtualClock()
        axis = make_axis(clock, velocity_um_s=4, settle_s=0.5)
        RE(bps.mv(axis, -20))
        RE(bp.scan([], axis, -10, 10, 5))
        assert [event["z"] for event in documents.events("primary")] == [-10, -5, 0, 5, 10]
        assert [event["z_setpoint"] for event in documents.events("primary")] == [-10, -5, 0, 5, 10]
        assert clock.now_s() == 5.5 + 3 + 4 * 1.75
        (descriptor,) = documents.named("descriptor")
        assert descriptor["hints"]["z"] == {"fields": ["z"]}
        assert descriptor["configuration"]["z"]["data"] == {"z_velocity": 4, "z_settle": 0.5, "z_backlash": 0}

    def test_a_relative_scan_returns(self, RE):
        axis = make_axis(position_um=5)
        RE(bp.rel_scan([], axis, -1, 1, 3))
        assert axis.position == 5

    def test_describe(self):
        described = make_axis().describe()
        assert set(described) == {"z", "z_setpoint"}
        for data_key in described.values():
            assert data_key["units"] == "um"
            assert (data_key["lower_ctrl_limit"], data_key["upper_ctrl_limit"]) == (-100, 100)
            assert data_key["dtype"] == "number"

    def test_protocols(self):
        axis = make_axis()
        assert isinstance(axis, Movable)
        assert isinstance(axis, Readable)
        assert isinstance(axis, Stoppable)
        assert axis.egu == "um"
        assert (axis.low_limit, axis.high_limit) == (-100, 100)


def test_a_move_that_begins_while_the_one_before_is_told_done_ends_too(monkeypatch):
    axis = make_axis(WallClock(), velocity_um_s=10.0)
    forget = axis._reset_sub

    def forget_late(event_type):
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.05)
        forget(event_type)

    monkeypatch.setattr(axis, "_reset_sub", forget_late)
    for position_um in (1.0, 2.0, 3.0):
        axis.set(position_um).wait(PATIENCE_S)
    assert axis.position == pytest.approx(3.0)


def test_a_failed_move_ends_a_plan(RE):
    clock = HeldClock()
    axis = make_axis(clock, velocity_um_s=2)

    def plan():
        yield from bps.abs_set(axis, 10, group="move")
        axis.stop()
        yield from bps.wait("move")

    with pytest.raises(FailedStatus):
        RE(plan())
