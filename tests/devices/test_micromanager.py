# ruff: noqa: N803 - every bluesky user calls it RE
"""Devices over a real Micro-Manager core, with its demo and test adapters."""

import dataclasses
import math
import subprocess
import sys
import threading
import time

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import mm_test_adapters
import numpy as np
import pytest
from bluesky.protocols import Movable, Readable, Stoppable
from bluesky.utils import FailedStatus
from ophyd.utils import LimitError, ReadOnlyError
from pymmcore_plus.experimental.unicore import (
    SimpleCameraDevice,
    StageDevice,
    StateDevice,
    UniMMCore,
    pymm_property,
)

from bluesky_autofocus.backends.micromanager import instrument
from bluesky_autofocus.clock import WallClock
from bluesky_autofocus.devices import AxisBusyError, FrameError
from bluesky_autofocus.devices.micromanager import (
    CoreCamera,
    MicroManagerError,
    MicroManagerTimeoutError,
    ObjectiveTurret,
    PropertySignal,
    RunningZStage,
    Shutter,
    SLMLEDArray,
    StateLEDArray,
    XYStage,
    ZStage,
    open_core,
    simulated_core,
)
from bluesky_autofocus.leds import LEDGeometry, Orientation, PatternError
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.plans import RunningAxis, autofocus
from bluesky_autofocus.plans._exposing import position_in
from bluesky_autofocus.plans._lighting import lighting_of
from bluesky_autofocus.simulation.served import ServedMicroscope

PATIENCE_S = 10
ADAPTERS = mm_test_adapters.device_adapter_path()
DEMO = f"{ADAPTERS}/MMConfig_demo.cfg"
SLOW = """\
Property,Core,Initialize,0
Device,Camera,DemoCamera,DCam
Device,Z,NotificationTester,NTAsyncStage
Device,XY,NotificationTester,NTAsyncXYStage
Property,Core,Initialize,1
Property,Core,Camera,Camera
Property,Core,Focus,Z
Property,Core,XYStage,XY
Property,Z,SlewTimePerStep_s,0.001
Property,Z,UpdateInterval_s,0.01
Property,XY,SlewTimePerStep_s,0.001
Property,XY,UpdateInterval_s,0.01
"""
"""Stages that take 10 ms a um and can be stopped."""
WIDE_UM = (-5000.0, 5000.0)


def unloaded_at_the_end(core):
    yield core
    core.unloadAllDevices()


@pytest.fixture
def demo():
    yield from unloaded_at_the_end(open_core(DEMO))


@pytest.fixture
def slow(tmp_path):
    path = tmp_path / "slow.cfg"
    path.write_text(SLOW)
    yield from unloaded_at_the_end(open_core(path, adapter_paths=[ADAPTERS]))


@pytest.fixture
def python():
    """Return a core for devices that a test writes."""
    yield from unloaded_at_the_end(UniMMCore(mm_path=ADAPTERS))


def load(core, label, device):
    core.loadPyDevice(label, device)
    core.initializeDevice(label)
    return device


def until(true):
    deadline_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.002)


class TestOpening:
    def test_adapters_beside_the_configuration(self, demo):
        assert "Camera" in demo.getLoadedDevices()

    def test_adapters_where_the_environment_says(self, tmp_path, monkeypatch):
        monkeypatch.setenv("MICROMANAGER_PATH", ADAPTERS)
        (tmp_path / "my.cfg").write_text(SLOW)
        core = open_core(tmp_path / "my.cfg")
        assert set(core.getLoadedDevices()) == {"Camera", "Z", "XY", "Core"}

    def test_no_such_file(self, tmp_path):
        with pytest.raises(MicroManagerError, match=r"no configuration file .*mine\.cfg.*expected"):
            open_core(tmp_path / "mine.cfg")

    def test_no_such_folder(self):
        with pytest.raises(MicroManagerError, match="no folder '/nowhere'"):
            open_core(DEMO, adapter_paths=["/nowhere"])

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("Device,Z,Nikon,ZDrive", 'Line 1: .*adapter "Nikon"'),
            ("Device,Z,DemoCamera,ZDrive", 'Line 1: .*"DemoCamera".*"ZDrive"'),
        ],
    )
    def test_a_line_that_fails(self, tmp_path, line, said):
        path = tmp_path / "mine.cfg"
        path.write_text(line)
        with pytest.raises(
            MicroManagerError, match=f"(?s)mine.cfg.*{said}.*4 device adapters.*API version 75"
        ):
            open_core(path, adapter_paths=[ADAPTERS])

    def test_importing_is_light_and_a_process_shuts_its_devices_down(self):
        code = (
            "from bluesky_autofocus.devices.micromanager import open_core, simulated_core\n"
            "import bluesky_autofocus.backends.micromanager, sys, logging\n"
            "print({'pymmcore', 'pymmcore_plus'} & set(sys.modules))\n"
            f"core, python = open_core({DEMO!r}), simulated_core()\n"
            "print(logging.getLogger().level)\n"
            "core.unloadAllDevices = lambda: print('unloaded')\n"
            "python._pydevices['Lamp'].shutdown = lambda: print('shut down')\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
        begun, ended = done.stdout.splitlines()[:2], done.stdout.splitlines()[2:]
        assert begun == ["set()", "30"]
        assert sorted(ended) == ["shut down", "unloaded"]


MADE = {
    "a stage": lambda core, label: ZStage(core=core, label=label, name="d", limits=WIDE_UM),
    "an XY stage": lambda core, label: XYStage(
        core=core, label=label, name="d", x_limits=WIDE_UM, y_limits=WIDE_UM
    ),
    "a camera": lambda core, label: CoreCamera(core=core, label=label, name="d", frame_directory="."),
    "a shutter": lambda core, label: Shutter(core=core, label=label, name="d"),
    "an SLM": lambda core, label: SLMLEDArray(core=core, label=label, name="d"),
    "a state device": lambda core, label: StateLEDArray(core=core, label=label, name="d", states={"off": 0}),
}


@pytest.mark.parametrize("kind", MADE)
class TestLabels:
    def test_that_is_not_there(self, demo, kind):
        fitting = {"a stage": "'Z'", "a camera": "'Camera'", "an SLM": "none"}.get(kind, "'.*'")
        with pytest.raises(
            MicroManagerError, match=rf"no device 'Zed': expected {kind}, of which .*{fitting}"
        ):
            MADE[kind](demo, "Zed")

    def test_of_another_type(self, demo, kind):
        other, said = ("Z", "a stage") if kind == "a camera" else ("Camera", "a camera")
        with pytest.raises(MicroManagerError, match=f"device '{other}' is {said}: expected {kind}"):
            MADE[kind](demo, other)


def make_z(core, **options):
    return ZStage(core=core, name="z", **{"limits": WIDE_UM, **options})


class TestZ:
    def test_what_it_is(self, slow):
        z = make_z(slow, limits=(-10, 100))
        assert isinstance(z, Readable) and isinstance(z, Movable) and isinstance(z, Stoppable)
        assert z.hints == {"fields": ["z"]}
        key = z.describe()["z"]
        assert key["units"] == "um" and key["source"] == "MicroManager:Z"
        assert (key["lower_ctrl_limit"], key["upper_ctrl_limit"]) == (-10, 100)

    def test_a_move_takes_its_time(self, slow):
        z, told = make_z(slow), []
        status = z.set(20)
        status.watch(lambda **update: told.append(update["current"]))
        assert z.moving and not status.done
        status.wait(PATIENCE_S)
        assert not z.moving and z.position == slow.getPosition("Z") == 20
        assert any(0 < one < 20 for one in told)

    def test_in_a_plan(self, RE, documents, demo):
        z = make_z(demo)
        RE(bp.scan([], z, -3, 3, 4))
        events = [event["data"] for event in documents.named("event")]
        assert [event["z"] for event in events] == pytest.approx([-3, -1, 1, 3], abs=0.02)
        assert [event["z_setpoint"] for event in events] == [-3, -1, 1, 3]

    @pytest.mark.parametrize("beyond", [-10.001, 101, float("nan"), float("inf")])
    def test_limits(self, slow, beyond):
        z = make_z(slow, limits=(-10, 100))
        with pytest.raises(LimitError, match=r"z: .* um is not within the limits -10.0 \.\. 100.0 um"):
            z.set(beyond)
        assert slow.getPosition("Z") == 0

    @pytest.mark.parametrize("limits", [(1, 0), (0, float("inf"))])
    def test_limits_that_make_no_sense(self, slow, limits):
        with pytest.raises(ValueError, match="limits must be finite and ascending"):
            make_z(slow, limits=limits)

    def test_what_the_core_refuses(self, RE, demo):
        z = make_z(demo)
        with pytest.raises(MicroManagerError, match="device 'Z': a move to 1000.0 um failed: .*out of range"):
            z.set(1000).wait(PATIENCE_S)
        with pytest.raises(FailedStatus):
            RE(bps.mv(z, 1000))
        z.set(5).wait(PATIENCE_S)

    @pytest.mark.parametrize("success", [True, False])
    def test_stopped_in_mid_move(self, slow, success):
        z = make_z(slow)
        status = z.set(500)
        until(lambda: slow.getPosition("Z") > 2)
        z.stop(success=success)
        if success:
            status.wait(PATIENCE_S)
        else:
            with pytest.raises(MicroManagerError, match="z: stopped at"):
                status.wait(PATIENCE_S)
        assert not slow.deviceBusy("Z") and 2 < slow.getPosition("Z") < 500
        z.stop()  # of what stands is nothing

    def test_stopped_before_it_moves(self, slow):
        z = make_z(slow)
        held = threading.Event()
        z._link.submit("holding on", lambda core: held.wait(PATIENCE_S))
        status = z.set(500)
        z.stop(success=True)
        held.set()
        status.wait(PATIENCE_S)
        assert slow.getPosition("Z") == 0

    def test_given_up_for_another_move(self, slow):
        z = make_z(slow)
        first = z.set(500)
        until(lambda: slow.getPosition("Z") > 2)
        second = z.set(1)
        with pytest.raises(MicroManagerError, match="z: given up for a move to 1 um"):
            first.wait(PATIENCE_S)
        second.wait(PATIENCE_S)
        assert slow.getPosition("Z") == 1

    def test_one_that_was_given_up_has_no_timeout(self, slow):
        z = make_z(slow)
        z.set(500, timeout=0.3)
        until(lambda: slow.getPosition("Z") > 2)
        z.set(80).wait(PATIENCE_S)
        assert slow.getPosition("Z") == 80

    def test_cannot_be_stopped(self, python, caplog):
        stage = load(python, "Z", Silent())
        stage.stop = lambda: 1 / 0
        z = make_z(python, label="Z", short_um=0.1)
        status = z.set(4000)
        z.stop(success=True)
        status.wait(PATIENCE_S)
        until(lambda: "z: device 'Z' was not stopped: division by zero" in caplog.text)

    def test_too_slow(self, slow):
        z = make_z(slow, move_s=0.1)
        with pytest.raises(MicroManagerTimeoutError, match="'Z': still busy with a move to 500.0 um after 0"):
            z.set(500).wait(PATIENCE_S)
        until(lambda: not slow.deviceBusy("Z"))
        assert slow.getPosition("Z") < 100, "it was stopped"

    def test_stopped_by_someone_else(self, slow):
        z = make_z(slow)
        status = z.set(500)
        until(lambda: slow.getPosition("Z") > 2)
        slow.stop("Z")
        with pytest.raises(
            MicroManagerError, match=r"stands at .* after a move to 500 um: expected it within 2"
        ):
            status.wait(PATIENCE_S)

    def test_unloaded(self, RE, slow):
        z = make_z(slow)
        slow.unloadDevice("Z")
        with pytest.raises(MicroManagerError, match="device 'Z': getPosition failed: No device with label"):
            RE(bps.rd(z))
        with pytest.raises(MicroManagerError, match="device 'Z': a move"):
            z.set(5).wait(PATIENCE_S)


class Eye(SimpleCameraDevice):
    """A camera whose frames are as bright as the stage is high in the middle of their exposure."""

    PATTERN = np.random.default_rng(0).integers(0, 100, (64, 64))

    def __init__(self, stage):
        super().__init__()
        self.stage = stage

    @classmethod
    def seen_um(cls, mean):
        return (mean - cls.PATTERN.mean()) / 100 - 100

    def sensor_shape(self):
        return (64, 64)

    def dtype(self):
        return np.uint16

    def get_exposure(self):
        return 10.0

    def set_exposure(self, exposure): ...

    def snap(self, buffer):
        time.sleep(0.005)
        at_um = self.stage.get_position_um()
        time.sleep(0.005)
        buffer[:] = self.PATTERN + round(100 * (at_um + 100))
        return {}


class TestARunningStage:
    @pytest.fixture
    def core(self):
        yield from unloaded_at_the_end(simulated_core(ServedMicroscope((64, 64), z_um=0.0)))

    @pytest.fixture
    def z(self, core):
        return RunningZStage(
            core=core, name="z", limits=(-50, 50), speed_property="Velocity", velocity_limit_um_s=500
        )

    def test_what_it_is(self, z):
        assert isinstance(z, RunningAxis) and isinstance(z.velocity, Stoppable)
        described = z.describe()
        assert {key: described[key]["units"] for key in ("z", "z_velocity", "z_time_s")} == {
            "z": "um", "z_velocity": "um/s", "z_time_s": "s"
        }  # fmt: skip
        assert described["z_velocity"]["upper_ctrl_limit"] == 500

    @pytest.mark.parametrize("velocity_um_s", [5.0, -5.0])
    def test_runs_until_it_is_stopped(self, RE, documents, core, z, velocity_um_s):
        def plan():
            yield from bps.open_run()
            yield from bps.abs_set(z.velocity, velocity_um_s, wait=True)
            for _ in range(6):
                yield from bps.sleep(0.1)
                yield from bps.trigger_and_read([z])
            yield from bps.abs_set(z.velocity, 0.0, wait=True)
            assert not core.deviceBusy("Z")
            yield from bps.close_run()

        RE(plan())
        events = documents.events("primary")
        assert {event["z_velocity"] for event in events} == {velocity_um_s}
        gone_um, took_s = (events[-1][key] - events[0][key] for key in ("z", "z_time_s"))
        assert gone_um / took_s == pytest.approx(velocity_um_s, rel=0.3)
        assert z.velocity.get() == 0 and core.getProperty("Z", "Velocity") == 200, "its usual speed"

    def test_ends_with_its_plan(self, RE, core, z):
        RE(bps.abs_set(z.velocity, 20.0, wait=True))
        assert z.velocity.get() == 0
        until(lambda: not core.deviceBusy("Z") and core.getProperty("Z", "Velocity") == 200)

    def test_turns_round(self, core, z):
        z.run(20.0)
        until(lambda: core.getPosition("Z") > 1)
        z.run(20.0)  # told again, as plans do
        z.run(-40.0)
        assert z.velocity.get() == -40
        until(lambda: core.getPosition("Z") < 0)
        z.stop()
        until(lambda: core.getProperty("Z", "Velocity") == 200)

    def test_ends_at_a_limit(self, core, z):
        z.run(500.0)
        until(lambda: z.velocity.get() == 0)
        assert z.readback_um == 50
        until(lambda: core.getProperty("Z", "Velocity") == 200)
        z.set(0).wait(PATIENCE_S)

    @pytest.fixture
    def stage(self, core):
        """Return the device in the core, which takes 0.2 s to brake from 40 um/s."""
        stage = core._pydevices["Z"]
        stage.motion.mechanics = dataclasses.replace(stage.motion.mechanics, acceleration_um_s2=200.0)
        return stage

    @pytest.fixture(params=[True, False], ids=["busy", "never busy"])
    def braking(self, request, monkeypatch, stage):
        """Return the device; it says that it is busy, or never does."""
        if not request.param:
            monkeypatch.setattr(stage, "busy", lambda: False)
        return stage

    def speed_of(self, stage):
        return abs(stage.motion.velocity_um_s(time.monotonic()))

    @pytest.mark.parametrize("end", ["velocity", "stop"])
    def test_runs_on_when_it_never_says_that_it_is_busy(self, monkeypatch, core, z, end):
        stage = core._pydevices["Z"]
        monkeypatch.setattr(stage, "busy", lambda: False)
        z.run(20.0)
        for further_um in (8, 16):
            until(lambda further_um=further_um: core.getPosition("Z") > further_um)
            assert z.velocity.get() == 20
        if end == "velocity":
            z.velocity.set(0.0).wait(PATIENCE_S)
        else:
            z.stop()
        until(lambda: core.getProperty("Z", "Velocity") == 200)
        assert self.speed_of(stage) == 0 and z.velocity.get() == 0
        assert core.getPosition("Z") < 50

    def test_ends_at_a_limit_that_it_does_not_tell(self, monkeypatch, core, z):
        monkeypatch.setattr(core._pydevices["Z"], "busy", lambda: False)
        z.run(500.0)
        until(lambda: z.velocity.get() == 0)
        z.set(0).wait(PATIENCE_S)

    def test_is_told_to_stop_whether_it_runs_or_not(self, monkeypatch, core, z):
        stops, stage = [], core._pydevices["Z"]
        monkeypatch.setattr(stage, "stop", lambda: stops.append(True))
        z.velocity.set(0.0).wait(PATIENCE_S)
        z.stop()
        until(lambda: len(stops) == 2)

    def test_velocity_0_is_done_when_it_stands(self, core, z, braking):
        """Also where a pause has told it to stop before, and nobody has waited."""
        z.run(40.0)
        until(lambda: core.getPosition("Z") > 5)
        z.velocity.stop()
        z.velocity.set(0.0).wait(PATIENCE_S)
        assert self.speed_of(braking) == 0
        assert core.getProperty("Z", "Velocity") == 200
        z.velocity.set(0.0).wait(PATIENCE_S)

    def test_a_move_waits_until_it_stands(self, monkeypatch, core, z, braking):
        begun_at_um_s, begin = [], braking.set_position_um

        def set_position_um(position_um):
            begun_at_um_s.append(self.speed_of(braking))
            begin(position_um)

        z.run(40.0)
        until(lambda: core.getPosition("Z") > 5)
        monkeypatch.setattr(braking, "set_position_um", set_position_um)
        z.stop()
        z.set(0).wait(PATIENCE_S)
        assert begun_at_um_s == [0]
        until(lambda: core.getPosition("Z") == 0)

    def test_does_not_stop(self, monkeypatch, z, braking):
        monkeypatch.setattr("bluesky_autofocus.devices.micromanager._running.STOPPING_S", 0.5)
        monkeypatch.setattr(braking, "stop", lambda: None)
        z.run(5.0)
        with pytest.raises(MicroManagerTimeoutError, match=r"device 'Z': still .* after 0\.5"):
            z.run(0.0)
        monkeypatch.undo()
        z.stop()

    def test_stopped_before_it_runs(self, core, z):
        held = threading.Event()
        z._link.submit("holding on", lambda core: held.wait(PATIENCE_S))
        status = z.velocity.set(20.0)
        z.velocity.stop()
        held.set()
        status.wait(PATIENCE_S)
        assert core.getPosition("Z") == 0 and not core.deviceBusy("Z")

    def test_one_motion_at_a_time(self, z):
        z.run(20.0)
        with pytest.raises(AxisBusyError, match="z cannot move to 3 um: it runs at 20.0 um/s; stop it first"):
            z.set(3)
        z.run(0.0)
        moving = z.set(40)
        with pytest.raises(AxisBusyError, match="z cannot run: it is moving to 40.0 um"):
            z.velocity.set(20.0)
        z.velocity.set(0.0).wait(PATIENCE_S)
        moving.wait(PATIENCE_S)

    @pytest.mark.parametrize("velocity_um_s", [500.1, -501, math.nan])
    def test_too_fast(self, z, velocity_um_s):
        with pytest.raises(LimitError, match=r"z: .* um/s is not within \+-500.0 um/s"):
            z.velocity.set(velocity_um_s)

    def test_a_speed_that_is_not_known(self, slow):
        with pytest.raises(MicroManagerError, match="device 'Z' has no property 'Speed': expected one of"):
            RunningZStage(core=slow, name="z", limits=WIDE_UM, speed_property="Speed")
        with pytest.raises(ValueError, match="velocity_limit_um_s is 0.0: expected positive numbers"):
            RunningZStage(core=slow, name="z", limits=WIDE_UM, speed_property="ExternallySetSteps")

    @pytest.mark.parametrize("continuous", [False, True])
    def test_frames_are_placed_where_they_were_taken(self, RE, documents, core, z, tmp_path, continuous):
        load(core, "Eye", Eye(core._pydevices["Z"]))
        camera = CoreCamera(
            core=core, label="Eye", name="mm_camera", frame_directory=tmp_path, continuous=continuous
        )

        def plan():
            yield from bps.stage(camera)
            yield from bps.open_run()
            yield from bps.abs_set(z.velocity, 2.0, wait=True)
            for _ in range(9):
                yield from bps.trigger_and_read([camera, z])
            yield from bps.abs_set(z.velocity, 0.0, wait=True)
            yield from bps.close_run()
            yield from bps.unstage(camera)

        RE(plan())
        missed_um = [
            position_in(event, z, camera.name) - Eye.seen_um(event["mm_camera_mean"])
            for event in documents.events("primary")
        ]
        # most: a busy machine may hold anything up between two looks at the time
        assert np.median(np.abs(missed_um)) < 0.2
        assert core.getProperty("Z", "Velocity") == 200 and not core.isSequenceRunning("Eye")

    @pytest.mark.parametrize(("method", "continuous"), [("sweep", False), ("search", True)])
    def test_focusing_in_flight(self, RE, analysis, documents, tmp_path, method, continuous):
        """In real time: the stage runs while the camera goes on, and the frames say where focus is."""
        served = ServedMicroscope((256, 256), focus_um=3.0, z_um=-9.0)
        core = simulated_core(served)
        z = RunningZStage(
            core=core, name="z", limits=WIDE_UM, speed_property="Velocity", velocity_limit_um_s=500
        )
        camera = CoreCamera(core=core, name="camera", frame_directory=tmp_path, continuous=continuous)
        options = {"velocity_um_s": 10.0, "reaction_s": 0.5, "budget": 200}
        options["depth_of_field_um"] = served.depth_of_field_um
        for _ in range(4):
            documents.clear()
            RE(autofocus([camera], z, method=method, analysis=analysis, bounds_um=(-17, 23), **options))
            (verdict,) = documents.events("verdict")
            if verdict["verdict_found"]:
                break
            # a busy machine may hold up frame after frame, which leaves gaps
            assert core.getPosition("Z") == pytest.approx(-9.0)
        assert verdict["verdict_found"], verdict["verdict_reason"]
        assert core.getPosition("Z") == pytest.approx(served.focus_um, abs=served.depth_of_field_um / 2)
        on_the_way = [data["z_velocity"] for data in documents.events(f"focus_{method}")].count(10.0)
        assert on_the_way > 15
        assert core.getProperty("Z", "Velocity") == 200
        core.unloadAllDevices()


class Silent(StageDevice):
    """A stage that moves by 1 um each time it is asked where it is, and never says that it is busy."""

    def __init__(self, end_um=math.inf):
        super().__init__()
        self.at_um, self.target_um, self.end_um = 0.0, 0.0, end_um

    def set_position_um(self, val):
        self.target_um = val

    def get_position_um(self):
        left_um = self.target_um - self.at_um
        self.at_um = min(self.at_um + math.copysign(min(1.0, abs(left_um)), left_um), self.end_um)
        return self.at_um

    def home(self): ...

    def stop(self):
        self.target_um = self.at_um

    def set_origin(self): ...


class TestAnAdapterThatIsNeverBusy:
    def test_is_followed_by_its_position(self, python):
        load(python, "Z", Silent())
        z = make_z(python, label="Z", short_um=0.1)
        z.set(20).wait(PATIENCE_S)
        assert z.position == 20

    def test_hits_its_end(self, python):
        load(python, "Z", Silent(end_um=7))
        z = make_z(python, label="Z")
        with pytest.raises(MicroManagerError, match="'Z' stands at 7 um after a move to 20 um"):
            z.set(20).wait(PATIENCE_S)


class Stuck(StageDevice):
    """A stage whose adapter does not return from a move until a test lets it."""

    def __init__(self):
        super().__init__()
        self.free, self.at_um, self.moves = threading.Event(), 0.0, []

    def set_position_um(self, val):
        self.free.wait(PATIENCE_S)
        self.moves.append(val)
        self.at_um = val

    def get_position_um(self):
        return self.at_um

    def home(self): ...

    def stop(self): ...

    def set_origin(self): ...


class TestAnAdapterThatHangs:
    def test_fails_what_waits_for_it(self, RE, python):
        stage = load(python, "Z", Stuck())
        z = make_z(python, label="Z", move_s=0.5, answer_s=1.0)
        with pytest.raises(MicroManagerTimeoutError, match="'Z': no answer to a move to 5.0 um within 0"):
            z.set(5).wait(PATIENCE_S)
        with pytest.raises(MicroManagerTimeoutError, match="busy with a move to 5.0 um of 'Z'"):
            RE(bps.rd(z))
        with pytest.raises(MicroManagerTimeoutError):
            z.set(7).wait(PATIENCE_S)
        stage.free.set()
        z.set(1).wait(PATIENCE_S)
        assert stage.moves == [5, 1], "what was given up before it began never happens"

    def test_leaves_other_adapters_alone(self, python):
        stage = load(python, "Z", Stuck())
        python.loadDevice("Other", "DemoCamera", "DStage")
        python.initializeDevice("Other")
        stuck, other = make_z(python, label="Z"), make_z(python, label="Other")
        moving = stuck.set(5)
        other.set(3).wait(PATIENCE_S)
        assert other.position == pytest.approx(3, abs=0.02) and not moving.done
        stage.free.set()
        moving.wait(PATIENCE_S)


class TestXY:
    @pytest.fixture
    def xy(self, slow):
        return XYStage(core=slow, name="xy", x_limits=(-100, 100), y_limits=(-1000, 1000))

    def test_both_at_once(self, RE, documents, xy):
        RE(bps.mv(xy.x, 3, xy.y, -8))
        assert (xy.x.position, xy.y.position) == (3, -8)
        RE(bp.count([xy]))
        assert documents.events("primary")[0] == {
            "xy_x": 3, "xy_x_setpoint": 3, "xy_y": -8, "xy_y_setpoint": -8
        }  # fmt: skip

    def test_one_while_the_other_is_on_its_way(self, slow, xy):
        x = xy.x.set(30)
        until(lambda: slow.getXYPosition("XY")[0] > 1)
        y = xy.y.set(-5)
        for status in (x, y):
            status.wait(PATIENCE_S)
        assert tuple(slow.getXYPosition("XY")) == (30, -5)

    def test_stopping_one_stops_both(self, slow, xy):
        x, y = xy.x.set(100), xy.y.set(900)
        until(lambda: slow.getXYPosition("XY")[0] > 1)
        xy.x.stop(success=True)
        x.wait(PATIENCE_S)
        with pytest.raises(MicroManagerError, match="xy_y: device 'XY' stands at .* after a move to 900 um"):
            y.wait(PATIENCE_S)

    def test_limits(self, xy):
        xy.y.set(2)
        with pytest.raises(LimitError, match="xy_x: 101 um"):
            xy.x.set(101)
        xy.stop()

    def test_put_aside_by_hand(self, slow, xy):
        xy.x.set(5).wait(PATIENCE_S)
        slow.setXYPosition("XY", 7, 8)
        until(lambda: not slow.deviceBusy("XY"))
        xy.y.set(1).wait(PATIENCE_S)
        assert tuple(slow.getXYPosition("XY")) == (7, 1)


class Counting(SimpleCameraDevice):
    """A camera of 4 x 5 pixels, all of which are the number of the frame, counted when it begins."""

    def __init__(self, exposure_s=0.01):
        super().__init__()
        self.begun, self.exposure_s, self.free = 0, exposure_s, threading.Event()
        self.free.set()

    def sensor_shape(self):
        return (4, 5)

    def dtype(self):
        return np.uint16

    def get_exposure(self):
        return 1000 * self.exposure_s

    def set_exposure(self, exposure):
        self.exposure_s = round(exposure) / 1000

    def snap(self, buffer):
        self.begun += 1
        number = self.begun
        time.sleep(self.exposure_s)
        self.free.wait(PATIENCE_S)
        buffer[:] = number
        return {}


class TestCamera:
    @pytest.fixture
    def make(self, tmp_path):
        return lambda core, **options: CoreCamera(
            core=core, **{"name": "camera", "frame_directory": tmp_path / "frames", **options}
        )

    @pytest.fixture
    def counting(self, python):
        return load(python, "Counting", Counting())

    def test_frames_are_recorded(self, RE, documents, demo, make):
        camera = make(demo)
        assert camera.frame_shape == (512, 512) and camera.dtype == np.uint16 and camera.full_scale == 65535
        RE(bp.count([camera], 2))
        assert [doc["indices"] for doc in documents.named("stream_datum")] == [
            {"start": 0, "stop": 1},
            {"start": 1, "stop": 2},
        ]
        event = documents.events("primary")[-1]
        assert event["camera_mean"] == pytest.approx(camera._frame.mean()) and camera._frame.std() > 0
        assert event["camera_exposure_s"] == 0.01

    def test_exposure_time(self, RE, counting, python, make):
        camera = make(python, label="Counting")
        RE(bps.mv(camera.exposure_s, 0.0123))
        assert camera.exposure_s.get() == 0.012, "as the camera rounds it"
        assert counting.exposure_s == 0.012
        with pytest.raises(LimitError, match="camera_exposure_s: -1"):
            camera.exposure_s.set(-1)

    def test_exposure_time_that_the_camera_refuses(self, demo, make):
        camera = make(demo)
        with pytest.raises(LimitError, match=r"camera_exposure_s: 100.0 s is not within 0.0 \.\. 10.0 s"):
            camera.exposure_s.set(100.0)
        assert camera.exposure_s.get() == 0.01

    @pytest.mark.parametrize(
        ("pixels", "shape", "dtype"),
        [("8bit", (512, 512), np.uint8), ("32bitRGB", (512, 512, 3), np.uint8)],
    )
    def test_pixels(self, demo, make, pixels, shape, dtype):
        demo.setProperty("Camera", "PixelType", pixels)
        camera = make(demo)
        assert (camera.frame_shape, camera.dtype, camera.full_scale) == (shape, dtype, 255)
        camera.trigger().wait(PATIENCE_S)
        if len(shape) == 3:
            pixel = int(demo.getImage()[100, 100])
            assert camera._frame[100, 100].tolist() == [pixel >> 16 & 255, pixel >> 8 & 255, pixel & 255]

    def test_pixels_that_are_no_frame(self, demo, make):
        demo.setProperty("Camera", "PixelType", "64bitRGB")
        with pytest.raises(
            MicroManagerError, match="'Camera' has pixels of 8 bytes and 4 components: expected"
        ):
            make(demo)

    def test_another_binning_than_described(self, demo, make):
        camera = make(demo)
        demo.setProperty("Camera", "Binning", "2")
        with pytest.raises(FrameError, match=r"expected a frame of shape \(512, 512\)"):
            camera.trigger().wait(PATIENCE_S)

    def test_two_cameras(self, python, counting, make):
        load(python, "Second", Counting())
        first, second = (
            make(python, label=label, name=name)
            for label, name in (("Counting", "first"), ("Second", "second"))
        )
        for _ in range(3):
            for camera in (first, second):
                camera.trigger().wait(PATIENCE_S)
        assert first._frame.tolist() == second._frame.tolist() == [[3] * 5] * 4

    @pytest.mark.parametrize("continuous", [False, True])
    def test_hangs(self, counting, python, make, continuous):
        camera = make(python, label="Counting", readout_s=0.5, answer_s=1.0, continuous=continuous)
        counting.free.clear()
        with pytest.raises(MicroManagerTimeoutError, match="'Counting': no "):
            camera.trigger().wait(PATIENCE_S)
        counting.free.set()
        camera.trigger().wait(PATIENCE_S)
        camera.unstage()

    def test_unplugged(self, RE, documents, counting, python, make):
        camera = make(python, label="Counting")
        RE(bp.count([camera]))
        python.unloadDevice("Counting")
        with pytest.raises(FailedStatus) as failed:
            RE(bp.count([camera]))
        assert "device 'Counting': a frame failed" in str(failed.value.__cause__)
        assert documents.named("stop")[-1]["exit_status"] == "fail"

    def test_continuous(self, RE, documents, counting, python, make):
        camera = make(python, label="Counting", continuous=True)
        python.setCircularBufferMemoryFootprint(1)
        begun = []

        def plan():
            yield from bps.stage(camera)
            yield from bps.open_run()
            for _ in range(4):
                yield from bps.sleep(0.03)
                begun.append(counting.begun)
                yield from bps.trigger_and_read([camera])
            assert python.isSequenceRunning("Counting")
            yield from bps.close_run()
            yield from bps.unstage(camera)

        RE(plan())
        taken = [event["camera_mean"] for event in documents.events("primary")]
        assert all(before < frame for before, frame in zip(begun, taken, strict=True))
        assert taken[-1] > 4, "it went on between the triggers"
        assert not python.isSequenceRunning("Counting")

    def test_continuous_of_an_adapter(self, RE, documents, demo, make):
        camera = make(demo, continuous=True)
        demo.setCircularBufferMemoryFootprint(1)  # one frame: it overflows
        RE(bp.count([camera], 5, delay=0.03))
        assert len(documents.events("primary")) == 5
        assert not demo.isSequenceRunning("Camera")

    def test_a_sequence_ends_for_a_pause_and_for_another_exposure_time(self, counting, python, make):
        camera = make(python, label="Counting", continuous=True)
        for end in (camera.pause, lambda: camera.exposure_s.put(0.005)):
            camera.trigger().wait(PATIENCE_S)
            assert python.isSequenceRunning("Counting")
            end()
            assert not python.isSequenceRunning("Counting")

    def test_a_sequence_that_ends_by_itself(self, counting, python, make, monkeypatch):
        camera = make(python, label="Counting", continuous=True)
        monkeypatch.setattr(python, "startContinuousSequenceAcquisition", lambda interval_ms: None)
        with pytest.raises(MicroManagerError, match="'Counting' has stopped taking frames by itself"):
            camera.trigger().wait(PATIENCE_S)


class Dimmed(StateDevice):
    """A light that is on or off, at a level in whole numbers."""

    def __init__(self):
        super().__init__({0: "Off", 1: "On"})
        self.state, self.level = 0, 0

    @pymm_property(name="Level", limits=(0, 255))
    def _get_level(self) -> int:
        return self.level

    @_get_level.setter
    def _set_level(self, value: int) -> None:
        self.level = int(value)

    def get_state(self):
        return self.state

    def set_state(self, position):
        self.state = position


class TestLEDs:
    @pytest.fixture
    def served(self):
        return ServedMicroscope((64, 64))

    def test_pixels_of_an_slm(self, RE, documents, served):
        core = simulated_core(served)
        leds = SLMLEDArray(core=core, name="leds", geometry=served.geometry, orientation=Orientation())
        RE(bps.mv(leds, "half_annulus_top"))
        assert served.lit == leds.lit == leds.select("half_annulus_top")
        RE(bps.mv(leds.brightness, 0.5))
        assert served.brightness == pytest.approx(0.5, abs=0.003) and served.lit == leds.lit
        RE(bps.mv(leds, "off"))
        assert served.lit == ()
        RE(bp.count([leds]))
        assert documents.events("primary")[-1]["leds"] == "off"

    def test_pixels_in_another_order(self, served):
        core = simulated_core(served)
        leds = SLMLEDArray(
            core=core, name="leds", geometry=LEDGeometry([(0, 0), (0.1, 0)]), pixels=[(0, 7), (0, 4)]
        )
        leds.set("leds((1,))").wait(PATIENCE_S)
        assert served.lit == (4,)

    @pytest.mark.parametrize(
        ("pixels", "said"),
        [([(0, 7)], "expected row and column of 2 LEDs"), ([(0, 7), (0, 99)], "has some beyond")],
    )
    def test_pixels_that_are_not_there(self, served, pixels, said):
        geometry = LEDGeometry([(0, 0), (0.1, 0)])
        with pytest.raises(ValueError, match=said):
            SLMLEDArray(core=simulated_core(served), name="leds", geometry=geometry, pixels=pixels)

    def test_an_slm_that_was_left_on_is_switched_off(self, RE, documents, served):
        """Nobody can ask an SLM what it shows, and the Events are to be right."""
        served.light([3, 4], 1.0)
        leds = SLMLEDArray(core=simulated_core(served), name="leds", geometry=served.geometry)
        assert served.lit == ()
        RE(bp.count([leds]))
        assert documents.events("primary")[-1]["leds"] == "off"

    def test_too_few_pixels(self, served):
        geometry = LEDGeometry(np.zeros((1000, 2)))
        with pytest.raises(
            MicroManagerError, match=r"'LEDs' has .* pixels: expected one for each of 1000 LEDs"
        ):
            SLMLEDArray(core=simulated_core(served), name="leds", geometry=geometry)

    STATES = {"off": "Closed", "leds((0,))": "385nm", "leds((1, 2))": 2}  # noqa: RUF012

    def make(self, core, **options):
        geometry = LEDGeometry([(0, 0), (0.1, 0), (0, 0.1)])
        return StateLEDArray(
            core=core, name="leds", label="LED", geometry=geometry, **{"states": self.STATES, **options}
        )

    def test_states(self, RE, demo):
        leds = self.make(demo)
        RE(bps.mv(leds, "leds((2, 1))"))
        assert demo.getState("LED") == 2 and leds.lit == (1, 2)
        RE(bps.mv(leds, "off"))
        assert demo.getStateLabel("LED") == "Closed"

    def test_what_the_last_session_left_on_is_put_back(self, RE, documents, demo):
        demo.setState("LED", 2)
        leds = self.make(demo)
        assert demo.getState("LED") == 2

        def plan():
            lighting = yield from lighting_of(leds)
            yield from lighting.show("off")
            assert demo.getStateLabel("LED") == "Closed"
            yield from lighting.put_back()

        RE(bp.count([leds]))
        (event,) = documents.events("primary")
        assert event["leds"] == "leds(indices=(1, 2))"
        assert event["leds_na_x"] == pytest.approx(0.05) and event["leds_brightness"] == 1
        RE(plan())
        assert demo.getState("LED") == 2

    def test_a_state_that_is_no_pattern_is_switched_off(self, demo):
        demo.setState("LED", 4)
        leds = self.make(demo)
        assert demo.getStateLabel("LED") == "Closed" and leds.lit == ()

    @pytest.mark.parametrize("level", [0, 77, 255])
    def test_brightness_in_steps(self, python, level):
        device = load(python, "LED", Dimmed())
        device.state, device.level = 1, level
        leds = self.make(python, states={"off": 0, "leds((0,))": 1}, brightness_property="Level")
        assert leds.lit == (0,)
        assert leds.brightness.get() == pytest.approx(level / 255)
        leds.set("off").wait(PATIENCE_S)
        leds.set("leds((0,))").wait(PATIENCE_S)
        assert (device.state, device.level) == (1, level)
        leds.brightness.set(0.5).wait(PATIENCE_S)
        assert device.level == 128

    def test_a_pattern_without_a_state(self, demo):
        with pytest.raises(
            PatternError, match=r"'LED' has no state for leds\(\(0, 1\)\): expected one of 'off'"
        ):
            self.make(demo).set("leds((0, 1))")

    @pytest.mark.parametrize("state", ["green", 99, 1.5])
    def test_a_state_that_is_not_there(self, demo, state):
        with pytest.raises(
            MicroManagerError, match=f"'LED' has no state {state!r}: expected 'Closed', '385nm'"
        ):
            self.make(demo, states={"off": state})

    def test_no_state_for_off(self, demo):
        with pytest.raises(ValueError, match="states has none for 'off'"):
            self.make(demo, states={"leds((0,))": 1})

    def test_no_brightness(self, demo):
        leds = self.make(demo)
        with pytest.raises(MicroManagerError, match="'LED' cannot be dimmed to 0.5"):
            leds.brightness.set(0.5).wait(PATIENCE_S)
        with pytest.raises(MicroManagerError, match="device 'LED' has no property 'Power'"):
            self.make(demo, brightness_property="Power")
        with pytest.raises(MicroManagerError, match="property 'Label' of device 'LED' has no limits"):
            self.make(demo, brightness_property="Label")


class TestTurret:
    TABLE = {  # noqa: RUF012
        "Nikon 10X S Fluor": {"numerical_aperture": 0.3, "magnification": 10},
        "Nikon 20X Plan Fluor ELWD": {"numerical_aperture": 0.45, "magnification": 20, "wavelength_um": 0.6},
        "Objective-2": {"numerical_aperture": 0.2, "magnification": 4},
        "Objective-4": LightOptics(),
    }

    def make(self, core, objectives=None):
        return ObjectiveTurret(
            core=core, label="Objective", name="objective", objectives=objectives or self.TABLE
        )

    def test_what_it_puts_into_events(self, RE, documents, demo):
        turret = self.make(demo)
        RE(bps.mv(turret, "Nikon 20X Plan Fluor ELWD"))
        RE(bp.count([turret]))
        assert documents.events("primary")[-1] == {
            "objective": "Nikon 20X Plan Fluor ELWD",
            "objective_numerical_aperture": 0.45,
            "objective_wavelength_um": 0.6,
            "objective_pixel_size_um": 0.5,
            "objective_magnification": 20,
            "objective_refractive_index": 1.0,
        }
        RE(bps.mv(turret, 1))
        assert turret.optics == LightOptics(0.3, 0.53, 1.0, 10)
        turret.set("Objective-4").wait(PATIENCE_S)
        assert turret.optics == LightOptics()

    def test_the_pixel_size_follows_the_binning(self, demo):
        turret = self.make(demo)
        demo.setProperty("Camera", "Binning", "2")
        assert turret.optics.pixel_size_um == 2.0

    def test_nobody_knows_the_pixel_size(self, demo):
        turret = self.make(demo)
        turret.set("Objective-2").wait(PATIENCE_S)
        with pytest.raises(MicroManagerError, match="no pixel size for 'Objective-2' of device 'Objective'"):
            turret.read()

    def test_optics_that_are_not_known(self, demo):
        turret = self.make(demo)
        with pytest.raises(
            ValueError, match="the optics of 'Objective-5' are not known: expected 'Nikon 10X"
        ):
            turret.set("Objective-5")
        with pytest.raises(ValueError, match="device 'Objective' has no '100x': expected 'Nikon 40X"):
            turret.set("100x")
        demo.setState("Objective", 5)
        with pytest.raises(MicroManagerError, match="'Objective' stands at 'Objective-5': expected one of"):
            turret.read()

    @pytest.mark.parametrize(
        ("objectives", "said"),
        [
            ({"100x": {}}, "device 'Objective' has no position '100x'"),
            ({"Objective-2": {"numerical_aperture": 0.5}}, "'Objective-2' has no 'magnification'"),
            ({"Objective-2": {"na": 0.5}}, "'Objective-2' has 'na': expected 'magnification'"),
            (
                {"Objective-2": {"numerical_aperture": 1.4, "magnification": 60}},
                "'Objective-2': numerical_aperture is 1.4",
            ),
        ],
    )
    def test_a_table_that_makes_no_sense(self, demo, objectives, said):
        with pytest.raises((MicroManagerError, ValueError), match=said):
            self.make(demo, objectives)


class TestSignals:
    def make(self, core, label, property_name):
        return PropertySignal(core=core, label=label, property_name=property_name, name="signal", egu="ms")

    @pytest.mark.parametrize(
        ("label", "property_name", "value", "dtype"),
        [
            ("Camera", "Gain", 3, "integer"),
            ("Camera", "TestProperty1", 0.07, "number"),
            ("Camera", "Binning", 2, "integer"),
            ("Emission", "Label", "Chroma-HQ535", "string"),
        ],
    )
    def test_properties(self, RE, documents, demo, label, property_name, value, dtype):
        signal = self.make(demo, label, property_name)
        RE(bps.mv(signal, value))
        RE(bp.count([signal]))
        assert documents.events("primary") == [{"signal": value}]
        key = documents.named("descriptor")[0]["data_keys"]["signal"]
        assert key["dtype"] == dtype and key["source"] == f"MicroManager:{label}.{property_name}"
        assert key.get("units", "ms") == "ms"

    @pytest.mark.parametrize(
        ("property_name", "value", "error", "said"),
        [
            (
                "Gain",
                1000,
                LimitError,
                "property 'Gain' of device 'Camera' was set to 1000: expected -5 .. 8",
            ),
            ("Gain", 1.5, ValueError, "expected a whole number"),
            ("Gain", "much", ValueError, "expected a number"),
            ("TestProperty1", float("nan"), LimitError, "was set to nan"),
            ("Binning", 3, ValueError, "expected one of '1', '2', '4', '8'"),
            ("PixelType", "9bit", ValueError, "expected one of .*'8bit'"),
            ("Description", "mine", ReadOnlyError, "can only be read"),
        ],
    )
    def test_what_a_property_cannot_be(self, demo, property_name, value, error, said):
        signal = self.make(demo, "Camera", property_name)
        before = demo.getProperty("Camera", property_name)
        with pytest.raises(error, match=said):
            signal.set(value)
        assert demo.getProperty("Camera", property_name) == before

    def test_no_such_property(self, demo):
        with pytest.raises(
            MicroManagerError, match="'Camera' has no property 'Grain': expected one of .*'Gain'"
        ):
            self.make(demo, "Camera", "Grain")

    def test_no_such_device(self, demo):
        with pytest.raises(
            MicroManagerError, match="no device 'Laser': expected a device, of which .*'Camera'"
        ):
            self.make(demo, "Laser", "Power")

    def test_shutter(self, RE, documents, demo):
        shutter = Shutter(core=demo, name="shutter")
        for value in (True, 0, 1):
            RE(bps.mv(shutter, value))
            assert demo.getShutterOpen() == shutter.get() == value
        RE(bp.count([shutter]))
        assert documents.events("primary") == [{"shutter": 1}]
        with pytest.raises(ValueError, match="shutter was set to 'ajar': expected 1 or True"):
            shutter.set("ajar")


class TestInstrument:
    def test_of_a_configuration(self, RE, documents, tmp_path):
        made = instrument(
            tmp_path,
            WallClock(),
            cfg=DEMO,
            focus_limits_um=[-100, 100],
            xy="XY",
            x_limits_um=[-500, 500],
            y_limits_um=[-500, 500],
            turret="Objective",
            objectives={"Nikon 10X S Fluor": {"numerical_aperture": 0.3, "magnification": 10}},
            shutter="White Light Shutter",
            leds="LED",
            led_states={"off": "Closed", "leds((0,))": "385nm"},
            led_board={"rows": 2, "columns": 2, "pitch_mm": 4, "distance_mm": 60},
            properties={"gain": ["Camera", "Gain"]},
            exposure_s=0.02,
        )
        assert set(made.devices) == {"camera", "z", "xy", "objective", "shutter", "leds", "gain"}
        assert set(made.analyses) >= {"two_led", "calibrate_leds"}
        assert made.full_scale == 65535
        dof_um = 0.53 / 0.3**2 + 1 / 0.3
        assert made.focus_options == {
            "depth_of_field_um": pytest.approx(dof_um),
            "range_um": pytest.approx(20 * dof_um),
        }
        RE(bp.count([*made.detectors, made.axis]))
        event = documents.events("primary")[0]
        assert event["camera_exposure_s"] == 0.02 and event["gain"] == 0 and event["leds"] == "off"
        assert event["objective_magnification"] == 10

    def test_how_long_and_how_near_is_told_to_the_devices(self, tmp_path):
        made = instrument(
            tmp_path,
            WallClock(),
            frame_px=64,
            move_s=60.0,
            short_um=0.05,
            xy_short_um=0.7,
            readout_s=3.0,
            answer_s=20.0,
        )
        z, xy, camera = (made.devices[name] for name in ("z", "xy", "camera"))
        assert (z.move_s, z.short_um, camera.readout_s) == (60, 0.05, 3)
        assert [(one.move_s, one.short_um) for one in (xy.x, xy.y)] == 2 * [(60, 0.7)]
        slow = [z, z._speed, xy.x, camera, made.devices["shutter"], made.devices["leds"]]
        assert {one._link.answer_s for one in slow} == {20} == {made.devices["objective"].link.answer_s}
        with pytest.raises(ValueError, match="short_um is -1: expected a positive number"):
            instrument(tmp_path, WallClock(), short_um=-1)

    def test_closing_shuts_its_devices_down(self, tmp_path):
        made = instrument(tmp_path, WallClock(), frame_px=64, leds="LEDs")
        core = made.devices["z"]._link.core
        made.close()
        assert list(core.getLoadedDevices()) in ([], ["Core"])
        made.close()  # a second time does no harm

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({}, "focus_limits_um is None: expected lowest and highest position"),
            ({"focus_limits_um": [0]}, r"focus_limits_um is \[0\]"),
            ({"focus_limits_um": [0, 9]}, "expected a turret with its objectives, a numerical_aperture"),
            ({"focus_limits_um": [0, 9], "focus": "XY"}, "device 'XY' is an XY stage: expected a stage"),
            ({"focus_limits_um": [0, 9], "xy": "XY"}, "x_limits_um is None"),
        ],
    )
    def test_what_is_missing(self, tmp_path, options, said):
        with pytest.raises((ValueError, MicroManagerError), match=said):
            instrument(tmp_path, WallClock(), cfg=DEMO, **options)
