"""An ophyd-async axis beside an ophyd camera."""

import asyncio
import threading

import pytest

pytest.importorskip("ophyd_async")

from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.utils import RunEngineInterrupted
from ophyd_async.core import init_devices
from ophyd_async.sim import SimMotor

from bluesky_autofocus.devices import SimulatedCamera
from bluesky_autofocus.plans import Approach, autofocus, brent_focus, focus_if_blurred, sweep_focus
from bluesky_autofocus.records import Reason
from bluesky_autofocus.search import BlurTrigger

START_UM = -11.0


class LimitedMotor(SimMotor):
    """A motor in um that refuses what is beyond 100 um."""

    async def check_value(self, value):
        if abs(value) > 100:
            raise ValueError(f"{self.name}: {value} um is beyond 100 um")


@pytest.fixture
def make_axis(RE):  # noqa: N803
    def make(instant: bool = True) -> SimMotor:
        with init_devices():
            z = LimitedMotor(instant=instant, initial_value=START_UM, units="um")
        return z

    return make


@pytest.fixture
def axis(make_axis):
    return make_axis()


@pytest.fixture
def on_loop(RE):  # noqa: N803
    """Return a function that runs a coroutine where the devices live."""
    return lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, RE.loop).result(5)


@pytest.fixture
def position(on_loop):
    return lambda axis: on_loop(axis.user_readback.get_value())


@pytest.fixture
def watch(on_loop):
    """Return a function that has a callback told each position of an axis."""

    def watch(axis, callback):
        async def subscribe():
            axis.subscribe_reading(lambda reading: callback(reading["z"]["value"]))

        on_loop(subscribe())

    return watch


@pytest.fixture
def camera(bench, axis, watch):
    seen = {"z": START_UM}
    watch(axis, lambda position_um: seen.update(z=position_um))
    bench.camera.render = lambda: bench.frame(seen["z"])
    return bench.camera


@pytest.mark.parametrize("stub", [brent_focus, sweep_focus])
def test_found(bench, camera, axis, analysis, documents, run, position, stub):
    verdict = run(stub([camera], axis, analysis=analysis, bounds_um=bench.bounds_um, budget=25))
    assert verdict.found
    assert verdict.start_um == START_UM
    assert position(axis) == verdict.position_um == pytest.approx(bench.focus_um, abs=2.0)
    assert len(documents.events(f"focus_{verdict.method}")) == verdict.exposures


def test_the_same_as_with_an_ophyd_axis(bench, make_bench, camera, axis, analysis, documents, run):
    options = {"analysis": analysis, "bounds_um": bench.bounds_um, "budget": 25}
    run(brent_focus([camera], axis, **options))
    other = make_bench()
    run(brent_focus([other.camera], other.axis, **options))
    positions = [data["z"] for data in documents.events("focus_brent")]
    assert positions[: len(positions) // 2] == positions[len(positions) // 2 :]


def test_not_found_is_put_back(bench, camera, axis, analysis, run, position):
    bench.contrast = lambda z: 0.5
    verdict = run(
        brent_focus(
            [camera], axis, analysis=analysis, bounds_um=bench.bounds_um, approach=Approach(overshoot_um=2.0)
        )
    )
    assert verdict.reason is Reason.FLAT
    assert position(axis) == START_UM


@pytest.mark.parametrize("bounds_um", [(-40.0, 101.0), (-150.0, 50.0)])
def test_its_limits_are_asked_before_anything_moves(camera, axis, analysis, run, messages, bounds_um):
    with pytest.raises(ValueError, match="is beyond 100 um"):
        run(brent_focus([camera], axis, analysis=analysis, bounds_um=bounds_um))
    assert not {"set", "trigger"} & {message.command for message in messages}


def test_an_exception_at_every_message(bench, camera, axis, analysis, documents, messages, run, position):
    def stub():
        return sweep_focus([camera], axis, analysis=analysis, bounds_um=(-12.7, 27.3), budget=6)

    assert run(stub()).found
    count = len(messages) - 2

    def throwing(msg):
        yield from ()
        raise RuntimeError("thrown")

    for index in range(0, count, 3):
        seen = iter(range(count + 100))

        def at_index(msg, seen=seen, index=index):
            return (throwing(msg) if next(seen) == index else None, None)

        start_um = position(axis)
        with pytest.raises(RuntimeError, match="thrown"):
            run(bpp.plan_mutator(stub(), at_index))
        assert position(axis) == start_um, index
        assert documents.named("stop")[-1]["exit_status"] == "fail"


def test_an_abort_while_it_moves(RE, bench, make_axis, tmp_path, analysis, documents, run, position, watch):  # noqa: N803
    """The put-back is not cut short by the failure of the move that was stopped for it."""
    axis = make_axis(instant=False)
    RE(bps.mv(axis.velocity, 200.0, axis.acceleration_time, 0.05))
    camera = SimulatedCamera(
        name="camera",
        render=lambda: bench.frame(0.0),
        frame_directory=tmp_path / "slow",
        frame_shape=(32, 32),
    )
    threads = []

    def on_position(position_um):
        if position_um > START_UM + 1 and not threads:
            threads.append(threading.Thread(target=RE.abort))
            threads[0].start()

    watch(axis, on_position)
    with pytest.raises(RunEngineInterrupted):
        run(sweep_focus([camera], axis, analysis=analysis, bounds_um=(9.0, 40.0), budget=6))
    threads[0].join()
    assert documents.named("stop")[-1]["exit_status"] == "abort"
    assert position(axis) == START_UM


def test_focus_if_blurred(bench, camera, axis, analysis, run, position):
    trigger = BlurTrigger()
    options = {"analysis": analysis, "trigger": trigger, "bounds_um": bench.bounds_um}
    assert run(focus_if_blurred([camera], axis, **options)).reason is Reason.FOUND
    assert run(focus_if_blurred([camera], axis, **options)).reason is Reason.STILL_SHARP
    assert position(axis) == pytest.approx(bench.focus_um, abs=2.0)


def test_a_dry_run(camera, axis, analysis, bench):
    plan = autofocus([camera], axis, analysis=analysis, bounds_um=bench.bounds_um)
    positions = [message.args[0] for message in plan if message.command == "set"]
    assert positions
    assert all(bench.bounds_um[0] <= z <= bench.bounds_um[1] for z in positions)
