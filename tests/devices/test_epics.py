"""EPICS devices over real Channel Access: a soft IOC and motor records, each in a process of its own."""

import math
import sys
import threading
import time
import types

import numpy as np
import ophyd
import pytest
from bluesky import plan_stubs as bps
from bluesky import plans as bp
from bluesky.utils import FailedStatus
from epics import ca, dbr
from epics.ca import ChannelAccessGetFailure
from ophyd.sim import FakeEpicsSignal, fake_device_cache, make_fake_device
from ophyd.utils import DisconnectedError, LimitError
from ophyd.utils.epics_pvs import AlarmSeverity
from served_epics import MADE, port_of, put, pv, restart, running, running_motors

from bluesky_autofocus.backends import epics as backend
from bluesky_autofocus.backends import epics_sem as sem_backend
from bluesky_autofocus.clock import WallClock
from bluesky_autofocus.devices import FrameError
from bluesky_autofocus.devices.epics import (
    EpicsCamera,
    EpicsLEDArray,
    EpicsSEM,
    FocusMotor,
    FocusPositioner,
    MoveError,
    Setting,
    SettingWithReadback,
    StoppableFocusPositioner,
    _moves,
    restored,
)
from bluesky_autofocus.instruments import MissingExtraError, make_instrument
from bluesky_autofocus.leds import LEDGeometry
from bluesky_autofocus.simulation.ioc import IOCError, IOCProcess

PX = 256


@pytest.fixture(scope="module")
def ioc():
    with IOCProcess("microscope", port=port_of("other"), frame_px=PX, start_um=0.0) as served:
        yield served


@pytest.fixture(scope="module")
def made(ioc, tmp_path_factory):
    """One of each device, by name."""
    devices = {
        "z": StoppableFocusPositioner(f"{ioc.prefix}Z", name="z", arrival_s=0.1),
        "leds": EpicsLEDArray(f"{ioc.prefix}Leds:", name="leds"),
        "lamp": Setting(f"{ioc.prefix}Lamp", name="lamp"),
    }
    for device in devices.values():
        device.wait_for_connection(timeout=60)
    camera = EpicsCamera(ioc.prefix, name="camera", frame_directory=tmp_path_factory.mktemp("frames"))
    camera.wait_for_connection(timeout=60)
    devices["camera"] = camera
    MADE.append(devices)
    return devices


@pytest.fixture
def z(ioc, made):
    put(f"{ioc.prefix}Z:Velocity", 200.0)
    made["z"].set(0.0).wait(10)
    return made["z"]


@pytest.fixture
def standing_um(ioc):
    """Return a function that waits until the stage stands and returns where, both asked of the IOC."""

    def stands():
        while pv(f"{ioc.prefix}Z:Moving").get():
            time.sleep(0.02)
        return pv(f"{ioc.prefix}Z:Readback").get()

    return stands


@pytest.fixture
def camera(made):
    return made["camera"]


@pytest.fixture(scope="module")
def motors():
    return running_motors()


@pytest.fixture
def motor(motors):
    """Return a function that connects a motor record."""

    def connect(name, kind=FocusMotor, **options):
        axis = kind(f"{motors.prefix}{name}", name="z", **options)
        axis.wait_for_connection(timeout=60)
        MADE.append(axis)
        return axis

    return connect


def under_way(axis, target_um):
    """Begin a move and return its status when the axis is on its way."""
    start_um, status = axis.position, axis.set(target_um)
    while abs(axis.position - start_um) < 0.5:
        time.sleep(0.005)
    return status


# Axes


def test_a_move(z, standing_um):
    z.set(12.5).wait(10)
    assert z.read()["z"]["value"] == standing_um() == 12.5


def test_its_limits_are_those_of_the_ioc(z, standing_um):
    assert z.limits == (-100.0, 100.0)
    for beyond in (100.1, -100.1, math.nan):
        with pytest.raises(LimitError, match=r"z: \S+ um is not within the limits -100.0 .. 100.0 um"):
            z.set(beyond)
    assert standing_um() == 0.0


def test_a_stop_fails_the_move_and_the_axis_stands(ioc, z, standing_um):
    put(f"{ioc.prefix}Z:Velocity", 20.0)
    status = under_way(z, 90.0)
    z.stop()
    with pytest.raises(MoveError, match="z: stopped on the way to 90.0 um"):
        status.wait(10)
    assert not pv(f"{ioc.prefix}Z:Moving").get()
    assert 0.5 <= standing_um() < 80


def test_a_stop_that_is_to_be_a_success_is_one(ioc, z, standing_um):
    put(f"{ioc.prefix}Z:Velocity", 20.0)
    status = under_way(z, 90.0)
    z.stop(success=True)
    status.wait(10)
    assert standing_um() < 80


def test_what_others_stop_fails(ioc, z):
    put(f"{ioc.prefix}Z:Velocity", 20.0)
    status = under_way(z, -90.0)
    pv(f"{ioc.prefix}Z:Stop").put(1)
    with pytest.raises(MoveError, match=r"the move to -90.0 um ended at -\S+ um, more than 0.5 um away"):
        status.wait(10)


def test_a_stage_in_alarm_fails(ioc, z):
    put(f"{ioc.prefix}Z:Stall", 1)
    try:
        with pytest.raises(MoveError, match=rf"{ioc.prefix}Z:Readback is in alarm, severity MAJOR"):
            z.set(3.0).wait(10)
    finally:
        put(f"{ioc.prefix}Z:Stall", 0)
    z.set(3.0).wait(10)


def test_a_move_that_takes_too_long_is_stopped(ioc, z, standing_um):
    put(f"{ioc.prefix}Z:Velocity", 20.0)
    with pytest.raises(
        TimeoutError, match=rf"{ioc.prefix}Z:Position has not said that the move .* within 0.2 s"
    ):
        z.set(90.0, timeout=0.2).wait(10)
    assert standing_um() < 80


def test_a_move_that_another_one_takes_the_place_of_fails(z, standing_um):
    first = z.set(30.0)
    z.set(10.0).wait(10)
    with pytest.raises(MoveError, match="the move to 30.0 um was given up for another"):
        first.wait(10)
    assert standing_um() == 10.0


@pytest.fixture
def length(motor):
    """Return a function that connects an axis whose setpoint is its readback."""
    return lambda name, **options: motor(name, FocusPositioner, setpoint="", readback="", **options)


@pytest.mark.parametrize(
    ("name", "declared", "um"),
    [
        ("in_um", None, 1.0),
        ("in_micron", None, 1.0),
        ("in_mm", None, 1e3),
        ("in_m", None, 1e6),
        ("in_nothing", "nm", 1e-3),
        ("in_volts", "mm", 1e3),
    ],
)
def test_units_are_converted(length, name, declared, um):
    axis = length(name, unit=declared)
    assert axis.position == pytest.approx(3.0 * um)
    assert axis.limits == pytest.approx((1.0 * um, 5.0 * um))
    described = axis.describe()["z"]
    assert described["units"] == "um"
    assert described["upper_ctrl_limit"] == pytest.approx(5.0 * um)
    assert axis.hints == {"fields": ["z"]}


@pytest.mark.parametrize("name", ["in_nothing", "in_volts"])
def test_what_is_no_length_is_refused(motors, length, name):
    axis = length(name, limits_um=(0.0, 10.0))
    with pytest.raises(ValueError, match=rf"the unit of {motors.prefix}{name} is .*, which is no known unit"):
        axis.set(1.0)
    with pytest.raises(ValueError, match="expected one of um"):
        axis.readback.declare_unit("furlong")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("limits_um", (1.0, 1.0)),
        ("limits_um", (0.0, math.inf)),
        ("tolerance_um", 0.0),
        ("arrival_s", -1.0),
        ("timeout", math.inf),
    ],
)
def test_options_that_make_no_sense(option, value):
    with pytest.raises(ValueError, match=option):
        make_fake_device(FocusPositioner)("X", name="wd", **{option: value})


def test_without_limits_it_does_not_move(motors, length):
    axis = length("without_limits")
    with pytest.raises(ValueError, match="without_limits has no limits, so it would go anywhere"):
        axis.set(1.0)
    axis.limits_um = (-5.0, 5.0)
    axis.set(4.0).wait(10)
    assert axis.limits == (-5.0, 5.0)


@pytest.mark.parametrize(
    ("own_um", "both_um"), [((-7.0, 2.0), (1.0, 2.0)), ((2.0, 3.0), (2.0, 3.0)), ((0.0, 9.0), (1.0, 5.0))]
)
def test_own_limits_narrow_those_of_the_ioc(length, own_um, both_um):
    assert length("in_um", limits_um=own_um).limits == both_um


def test_own_limits_outside_those_of_the_ioc(length):
    with pytest.raises(ValueError, match="lie outside those of the IOC"):
        length("in_um", limits_um=(6.0, 7.0)).check_value(6.5)


# Motor records


def test_a_motor(motor):
    axis = motor("um")
    axis.set(-20.0).wait(10)
    axis.set(-20.0).wait(10)
    assert axis.position == -20.0
    assert axis.limits == (-100.0, 100.0)
    with pytest.raises(LimitError, match=r"101.0 um is not within the limits -100.0 .. 100.0 um"):
        axis.set(101.0)


@pytest.mark.parametrize("by_others", [False, True])
def test_a_motor_that_is_stopped_fails(motor, by_others):
    axis = motor("um", arrival_s=0.1)
    axis.set(0.0).wait(10)
    axis.velocity.put(20.0)
    try:
        status = under_way(axis, 50.0)
        if by_others:
            axis.motor_stop.put(1)
        else:
            axis.stop()
        with pytest.raises(MoveError, match="more than 0.5 um away" if by_others else "stopped on the way"):
            status.wait(10)
        assert axis.position < 45
    finally:
        axis.velocity.put(200.0)


@pytest.fixture
def heavy(motor):
    """A stage that takes 0.3 s to come to rest, and stands at 0."""
    axis = motor("heavy", arrival_s=0.1)
    axis.set(0.0).wait(20)
    return axis


def late(axis):
    """Have a move take too long, and return its status: the axis is coming to rest then."""
    status = axis.set(90.0, timeout=0.2)
    with pytest.raises(TimeoutError, match="has not said that the move to 90.0 um is over within 0.2 s"):
        status.wait(20)
    return status


def test_a_motor_is_sent_back_from_a_move_that_took_too_long(heavy):
    late(heavy)
    heavy.set(0.0).wait(20)
    assert heavy.user_readback.get(use_monitor=False) == 0.0
    assert heavy.motor_done_move.get(use_monitor=False) == 1


def test_a_motor_that_was_stopped_is_sent_on(heavy):
    first = under_way(heavy, 90.0)
    heavy.stop(success=True)
    heavy.set(2.0).wait(20)
    with pytest.raises(MoveError, match="given up for another"):
        first.wait(20)
    assert heavy.user_readback.get(use_monitor=False) == 2.0


@pytest.mark.parametrize("success", [True, False])
def test_a_move_that_waits_for_a_motor_to_stand_can_be_stopped(heavy, success):
    late(heavy)
    status = heavy.set(0.0)
    heavy.stop(success=success)
    if success:
        status.wait(20)
    else:
        with pytest.raises(MoveError, match="z: stopped on the way to 0.0 um"):
            status.wait(20)
    assert heavy.motor_done_move.get(use_monitor=False) == 1
    assert heavy.user_readback.get(use_monitor=False) > 5.0
    assert heavy.user_setpoint.get(use_monitor=False) == 90.0, "it was sent on all the same"


def fake(kind, **options):
    """Return an axis of ophyd's fake signals, whose puts are never complete, with names as PVs have."""
    axis = make_fake_device(kind)("X:", name="z", **options)
    for signal in axis._channels():
        signal.pvname = signal.name
    return axis


def test_the_end_of_an_earlier_motion_is_not_that_of_this_one():
    axis = fake(FocusMotor, limits_um=(-100.0, 100.0), arrival_s=0.05)
    axis.motor_egu.sim_put("um")
    axis.user_readback.alarm_severity = AlarmSeverity.NO_ALARM
    axis.user_readback.sim_put(10.0)
    axis.motor_done_move.sim_put(1)
    axis.motor_done_move.sim_put(0)
    status = axis.set(20.0)
    axis.motor_done_move.sim_put(1)
    axis.motor_done_move.sim_put(0)
    time.sleep(0.2)
    axis.user_readback.sim_put(20.0)
    axis.motor_done_move.sim_put(1)
    status.wait(10)


def test_an_axis_that_never_says_that_it_stands_is_sent_on(monkeypatch):
    monkeypatch.setattr(_moves, "STOPPING_S", 0.05)
    axis = fake(StoppableFocusPositioner, unit="um")
    axis.setpoint_pv.sim_set_limits((-100.0, 100.0))
    axis.readback_pv.sim_put(0.0)
    told, sent, over = [], threading.Event(), threading.Event()
    axis.halt.subscribe(lambda value, **_: told.append(value), run=False)
    axis.setpoint_pv.subscribe(lambda value, **_: value == 0.0 and sent.set(), run=False)
    with pytest.raises(TimeoutError, match="90.0 um is over within 0.05 s"):
        moving = axis.set(90.0, timeout=0.05)  # ophyd's fake signals complete no put
        moving.add_callback(lambda _: over.set())
        moving.wait(10)
    # who waits for a status goes on before what follows from its failure is done; its callbacks come after it
    assert over.wait(10) and told == [1]
    status = axis.set(0.0)
    assert sent.wait(10) and not status.done


def test_a_motor_in_mm_is_refused_and_converted_where_asked(motor):
    with pytest.raises(ValueError, match="is 'mm', expected 'um'"):
        motor("mm").set(1.0)
    with pytest.raises(ValueError, match="is 'mm', expected 'um'"):
        motor("mm").describe()
    # caproto's record has no unit at its readback, EPICS' has
    axis = motor(
        "mm",
        StoppableFocusPositioner,
        setpoint=".VAL",
        readback=".RBV",
        stop=".STOP",
        unit="mm",
        limits_um=(-90, 90),
    )
    axis.set(50.0).wait(10)
    assert axis.readback_pv.get() == pytest.approx(0.05)
    assert axis.position == pytest.approx(50.0)


def test_a_motor_without_limits_is_refused_without_ones_of_its_own(motor):
    with pytest.raises(ValueError, match="free.VAL has no limits"):
        motor("free").set(1.0)
    axis = motor("free", limits_um=(-5.0, 5.0))
    axis.set(4.0).wait(10)
    with pytest.raises(LimitError, match="6.0 um"):
        axis.set(6.0)


# Frames


@pytest.mark.parametrize(
    ("came", "was"),
    [("int32", "uint16"), ("int16", "uint16"), ("int8", "uint8"), ("uint8", "uint8"), ("int32", "uint8")],
)
def test_types_are_restored(came, was):
    true = np.array([0, 1, 127, 128, np.iinfo(was).max], was)
    arrived = true.view(came) if np.dtype(came).itemsize == true.itemsize else true.astype(came)
    again = restored(arrived, was)
    assert again.dtype == was
    assert again.tolist() == true.tolist()


@pytest.mark.parametrize(("came", "was"), [("int32", "uint8"), ("float64", "uint16"), ("int16", "uint32")])
def test_types_that_cannot_have_been(came, was):
    with pytest.raises(ValueError, match=f"no {was}"):
        restored(np.array([0, 300], came), was)


def test_a_frame(ioc, camera):
    camera.trigger().wait(20)
    frame = camera._frame
    assert (frame.shape, frame.dtype) == ((PX, PX), np.uint16)
    raw = pv(f"{ioc.prefix}image1:ArrayData").get()
    assert raw.dtype == np.int32, "Channel Access has learnt unsigned types"
    assert (frame == raw.reshape(PX, PX)).all()


def test_the_exposure_time_is_set_and_read(RE, camera, documents):  # noqa: N803
    def plan():
        yield from bps.mv(camera.exposure_s, 0.02)
        yield from bp.count([camera], 2)
        yield from bps.mv(camera.exposure_s, 0.01)

    RE(plan())
    events = documents.events("primary")
    assert [event["camera_exposure_s"] for event in events] == [0.02, 0.02]
    camera.trigger().wait(20)
    assert events[0]["camera_mean"] > camera.mean.get() + 5


def test_no_frame_is_taken_for_another(ioc, camera):
    camera.trigger().wait(20)
    put(f"{ioc.prefix}cam1:Disconnect", 1)
    try:
        with pytest.raises(FrameError, match=rf"{ioc.prefix}cam1:Acquire is in alarm, severity INVALID"):
            camera.trigger().wait(20)
    finally:
        put(f"{ioc.prefix}cam1:Disconnect", 0)
    camera.trigger().wait(20)


def test_a_frame_of_another_size_is_refused(ioc, camera, tmp_path):
    other = EpicsCamera(ioc.prefix, name="camera", frame_directory=tmp_path, frame_shape=(4, 8), dtype="u2")
    other.wait_for_connection(timeout=60)
    MADE.append(other)
    other.trigger().wait(20)  # as many as were asked for: a client cannot know that there are more
    other.frame_shape = (PX, PX + 1)
    with pytest.raises(
        FrameError, match=rf"image1:ArrayData holds {PX * PX} values, expected {PX * (PX + 1)}"
    ):
        other.trigger().wait(20)


def test_an_array_that_is_too_large_names_the_variable(tmp_path):
    """The IOC sends less than it has if it was told so before it was started."""
    little = {"EPICS_CA_AUTO_ARRAY_BYTES": "NO", "EPICS_CA_MAX_ARRAY_BYTES": "16384"}
    with IOCProcess("microscope", port=port_of("small"), frame_px=128, environment=little) as small:
        camera = EpicsCamera(small.prefix, name="camera", frame_directory=tmp_path, connection_s=20)
        camera.wait_for_connection(timeout=60)
        MADE.append(camera)
        with pytest.raises(FrameError, match=r"image1:ArrayData .* EPICS_CA_MAX_ARRAY_BYTES"):
            camera.trigger().wait(20)


# Light


def test_leds(ioc, made):
    leds = made["leds"]
    leds.set("half_annulus_top").wait(10)
    mask = pv(f"{ioc.prefix}Leds:Mask").get()
    assert tuple(mask.nonzero()[0]) == leds.lit == leds.select("half_annulus_top")
    leds.brightness.set(0.25).wait(10)
    assert pv(f"{ioc.prefix}Leds:Brightness").get() == 0.25
    leds.set("off").wait(10)
    assert not pv(f"{ioc.prefix}Leds:Mask").get().any()
    leds.stop()
    leds.brightness.set(1.0).wait(10)


@pytest.fixture
def left_on(ioc, made):
    """LEDs that were on when this session began: a pattern with a name, at half the brightness."""
    lit = made["leds"].select("half_annulus_left")
    mask = np.zeros(len(made["leds"].geometry), np.uint8)
    mask[list(lit)] = 1
    put(f"{ioc.prefix}Leds:Mask", mask)
    put(f"{ioc.prefix}Leds:Brightness", 0.5)
    leds = EpicsLEDArray(f"{ioc.prefix}Leds:", name="leds")
    leds.wait_for_connection(timeout=60)
    MADE.append(leds)
    yield leds
    leds.set("off").wait(10)
    leds.brightness.set(1.0).wait(10)


def test_leds_that_were_left_on_are_read_and_put_back(RE, ioc, left_on, documents):  # noqa: N803
    def lit():
        return tuple(pv(f"{ioc.prefix}Leds:Mask").get(use_monitor=False).nonzero()[0])

    def plan():
        before = yield from bps.rd(left_on)
        yield from bps.mv(left_on, "off")
        assert not lit()
        yield from bps.mv(left_on, before)

    was = lit()
    RE(bp.count([left_on]))
    (event,) = documents.events("primary")
    assert (event["leds"], event["leds_brightness"]) == ("half_annulus_left", 0.5)
    assert event["leds_na_x"] < -0.2
    RE(plan())
    assert lit() == was == left_on.lit
    assert pv(f"{ioc.prefix}Leds:Brightness").get(use_monitor=False) == 0.5


def test_the_brightness_that_was_left_stays(ioc, left_on):
    left_on.set("leds((0, 3))").wait(10)
    assert pv(f"{ioc.prefix}Leds:Brightness").get(use_monitor=False) == 0.5
    assert left_on.brightness.get() == 0.5


def test_leds_without_a_name_go_by_number_and_others_are_refused(ioc, made, left_on):
    count = len(left_on.geometry)
    put(f"{ioc.prefix}Leds:Mask", np.eye(1, count, 7, dtype=np.uint8)[0])
    assert left_on.pattern.get() == "leds(indices=(7,))"
    fewer = EpicsLEDArray(f"{ioc.prefix}Leds:", name="leds", geometry=LEDGeometry(np.array([(0.0, 0.0)])))
    fewer.wait_for_connection(timeout=60)
    MADE.append(fewer)
    with pytest.raises(ValueError, match=rf"leds: {ioc.prefix}Leds:Mask has LED 7 on: expected a mask of 1 "):
        fewer.read()


def test_a_run_engine_leaves_the_lamp_as_a_plan_has_set_it(RE, ioc, made):  # noqa: N803
    RE(bps.mv(made["lamp"], 0, timeout=60))
    assert pv(f"{ioc.prefix}Lamp").get() == 0
    RE(bps.mv(made["lamp"], 1))


def test_a_sem_reads_all_that_shapes_a_frame(tmp_path, monkeypatch):
    for kind in (Setting, SettingWithReadback):
        monkeypatch.setitem(fake_device_cache, kind, FakeEpicsSignal)
    options = {"frame_shape": (4, 4), "dtype": "u1"}
    sem = make_fake_device(EpicsSEM)(
        "X:", name="sem", frame_directory=tmp_path, axis={"unit": "mm"}, camera=options
    )
    sem.working_distance.setpoint_pv.sim_put(10.0)
    sem.working_distance.readback_pv.sim_put(10.06)
    assert sem.read()["sem_working_distance"]["value"] == 10_060.0
    assert {"sem_working_distance", "sem_magnification", "sem_stigmator_x", "sem_stigmator_y"} <= set(
        sem.read()
    )
    assert {"sem_dwell_time", "sem_pixel_size_um", "sem_convergence_mrad"} <= set(sem.read())
    assert {"sem_camera_mean", "sem_camera_exposure_s"} <= set(sem.read())
    assert sem.frame_directory == tmp_path


# What is not there, or no more


def test_an_ioc_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "CONNECTION_S", 0.2)
    with pytest.raises(TimeoutError, match="NOWHERE:Z:Position"):
        backend.instrument(tmp_path, WallClock(), camera="NOWHERE:", positioner="NOWHERE:Z")


def test_a_wrong_pv(ioc, tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "CONNECTION_S", 2.0)
    known = {"camera": ioc.prefix, "positioner": f"{ioc.prefix}Z"}
    with pytest.raises(TimeoutError, match=rf"{ioc.prefix}Z:Where\)") as caught:
        backend.instrument(tmp_path, WallClock(), readback=":Where", **known)
    assert "Z:Position" not in str(caught.value)


TIMES = {"timeout": 0.2, "arrival_s": 0.3, "overhead_s": 7.0}


def test_a_session_is_told_times(ioc, z, standing_um, tmp_path):
    made = backend.instrument(tmp_path, WallClock(), camera=ioc.prefix, positioner=f"{ioc.prefix}Z", **TIMES)
    MADE.append(made)
    assert (made.axis.arrival_s, made.devices["camera"].overhead_s) == (0.3, 7.0)
    put(f"{ioc.prefix}Z:Velocity", 20.0)
    with pytest.raises(TimeoutError, match=r"is over within 0.2 s"):
        made.axis.set(90.0).wait(10)
    assert standing_um() < 80


def test_a_session_at_a_sem_is_told_times(tmp_path):
    sem = running("sem", start_um=10_060.0)  # as other tests have it
    made = sem_backend.instrument(tmp_path, WallClock(), prefix=sem.prefix, depth_of_field_um=5.0, **TIMES)
    MADE.append(made)
    assert (made.axis.timeout_s, made.axis.arrival_s) == (0.2, 0.3)
    assert made.devices["sem"].camera.overhead_s == 7.0


def test_one_focus_axis_is_to_be_named(tmp_path):
    with pytest.raises(ValueError, match="expected one of the two"):
        backend.instrument(tmp_path, WallClock(), camera="A:", motor="B:m1", positioner="B:Z")


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(ophyd, "cl", types.SimpleNamespace(name="dummy"))
    monkeypatch.delitem(sys.modules, "bluesky_autofocus.devices.epics")
    with pytest.raises(
        MissingExtraError, match=r"epics needs pyepics: pip install 'bluesky-autofocus\[epics\]'"
    ):
        make_instrument("epics", tmp_path, WallClock(), camera="A:", motor="B:m1")


def test_a_program_that_does_not_start_says_why():
    with pytest.raises(IOCError, match="invalid choice: 'telescope'"):
        IOCProcess("telescope")


def test_lost_in_mid_move_and_in_mid_exposure_and_back(RE, ioc, made, z, camera):  # noqa: N803
    put(f"{ioc.prefix}Z:Velocity", 20.0)
    camera.exposure_s.set(5.0).wait(30)
    move, exposure = under_way(z, 90.0), camera.trigger()
    ioc.kill()
    try:
        with pytest.raises(DisconnectedError, match=rf"z: lost the connection to {ioc.prefix}Z:"):
            move.wait(30)
        with pytest.raises(
            DisconnectedError, match=rf"camera: lost the connection to {ioc.prefix}cam1:Acquire"
        ):
            exposure.wait(30)
        # PVs are known to be lost one after the other: what is not yet is given up after a second
        gone = (DisconnectedError, TimeoutError)
        for lost in (
            lambda: z.set(3.0),
            camera.trigger,
            lambda: z.check_value(3.0),
            lambda: made["lamp"].set(1),
        ):
            with pytest.raises(gone, match=ioc.prefix):
                lost()
        with pytest.raises(gone, match=ioc.prefix):
            made["leds"].set("brightfield").wait(30)
        with pytest.raises(Exception, match=ioc.prefix) as caught:
            RE(bps.mv(z, 1.0))
        assert not isinstance(caught.value, FailedStatus)
    finally:
        restart(ioc, made.values())
    z.set(3.0).wait(30)
    camera.trigger().wait(30)
    made["leds"].set("brightfield").wait(30)
    assert pv(f"{ioc.prefix}Leds:Mask").get().sum() == len(made["leds"].lit)


def test_a_put_that_is_only_said_to_be_complete(made, z, camera, monkeypatch):
    """Channel Access completes a put whose connection is lost; pyepics does not tell the two apart."""

    def lose(signal):
        known = signal.get

        def get(*, use_monitor=None, **how):
            if use_monitor is not False:
                return known(use_monitor=use_monitor, **how)
            raise ChannelAccessGetFailure("Get failed; status code: 192", None, 192)

        monkeypatch.setattr(signal, "get", get)

    lose(z.readback_pv)
    with pytest.raises(DisconnectedError, match=rf"z: lost the connection to {z.readback_pv.pvname}"):
        z.set(2.0).wait(30)
    lose(made["lamp"])
    with pytest.raises(DisconnectedError, match=rf"lamp: lost the connection to {made['lamp'].pvname}"):
        made["lamp"].set(1).wait(30)
    lose(camera.acquire)
    with pytest.raises(DisconnectedError, match=rf"camera: lost the connection to {camera.acquire.pvname}"):
        camera.trigger().wait(30)


def test_a_request_that_could_not_be_sent_is_not_waited_for(z, monkeypatch):
    """What pyepics marks as sent before it is told that the connection has just gone."""
    entry = ca.get_cache(z.readback_pv.pvname)
    for kind in (dbr.DOUBLE, dbr.TIME_DOUBLE, dbr.CTRL_DOUBLE):
        entry.get_results[kind] = [ca.GET_PENDING]
    with pytest.raises(MoveError, match="nobody knows where"):
        z.set(2.0).wait(30)
    z.set(3.0).wait(30)
    assert z.position == 3.0


def test_no_thread_is_left_waiting(z):
    """Neither a move nor a put leaves a thread behind: a night has hundreds of thousands."""
    z.set(1.0).wait(10)
    before = threading.active_count()
    for um in (2.0, 3.0, 4.0, 5.0, 6.0):
        z.set(um).wait(10)
    assert threading.active_count() <= before + 1
