# ruff: noqa: N803 - every bluesky user calls it RE

import os
import threading
import time

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import numpy as np
import pytest
import tifffile
from bluesky.utils import FailedStatus, RunEngineInterrupted
from ophyd.utils import LimitError

from bluesky_autofocus.backends.sem import DemoOptics, demo_control, instrument
from bluesky_autofocus.callbacks import DoseLedger, FrameCheckAnalysis
from bluesky_autofocus.clock import WallClock
from bluesky_autofocus.devices import SimulatedSEM
from bluesky_autofocus.devices.sem import FibsemControl, SEMError, SEMLimits, SmartSEMControl, VendorSEM
from bluesky_autofocus.plans import autofocus, check_instrument
from bluesky_autofocus.simulation.served import ServedSEM

LIMITS_UM = (4_000.0, 30_000.0)


class Recorded:
    """A vendor's interface that writes down what it is told; any call can be made to fail or to hang."""

    frame_shape, dtype = (6, 8), np.dtype(np.uint8)
    limits = SEMLimits(working_distance_m=(2e-3, 0.02), stigmator=(-1.0, 1.0), dwell_s=(1e-7, 1e-4))

    def __init__(self):
        self.at_m, self.stigmator, self.dwell_s, self.width_m = 0.010, (0.0, 0.0), 1e-6, 20e-6
        self.calls, self.threads, self.failing = [], set(), set()
        self.moving, self.go_on = threading.Event(), threading.Event()
        self.scanning, self.scan_on = threading.Event(), threading.Event()
        for event in (self.go_on, self.scan_on):
            event.set()

    def __getattribute__(self, name):
        found = object.__getattribute__(self, name)
        if not callable(found) or name.startswith("__") or name == "_note":
            return found

        def call(*arguments):
            self.calls.append((name, *arguments))
            self.threads.add(threading.get_ident())
            if name in self.failing:
                raise OSError(f"no route to the column ({name})")
            return found(*arguments)

        return call

    def connect(self):
        pass

    def disconnect(self):
        pass

    def get_working_distance(self):
        return self.at_m

    def set_working_distance(self, metres):
        self.moving.set()
        assert self.go_on.wait(5)
        self.at_m = metres

    def get_stigmator(self):
        return self.stigmator

    def set_stigmator(self, x, y):
        self.stigmator = x, y

    def get_dwell_time(self):
        return self.dwell_s

    def set_dwell_time(self, seconds):
        self.dwell_s = seconds

    def get_field_width(self):
        return self.width_m

    def set_field_width(self, metres):
        self.width_m = metres

    def acquire(self):
        self.scanning.set()
        assert self.scan_on.wait(60)
        return np.full(self.frame_shape, 7, np.uint8)


@pytest.fixture
def made():
    devices = []
    yield devices
    for device in devices:
        device.destroy()


@pytest.fixture
def connect(made, tmp_path):
    """Return a function that makes the device of an interface."""

    def make(control, **options):
        sem = VendorSEM(
            name="sem", control=control, frame_directory=tmp_path, **{"limits_um": LIMITS_UM, **options}
        )
        made.append(sem)
        return sem

    return make


@pytest.fixture
def vendor():
    return Recorded()


@pytest.fixture
def sem(connect, vendor):
    return connect(vendor, convergence_mrad=5.0)


class TestDevice:
    def test_the_same_names_as_the_simulated_one(self, RE, documents, sem):
        RE(bp.count([sem]))
        (event,) = documents.events("primary")
        simulated = {
            child.replace(".", "_")
            for child in ("working_distance", "magnification", "stigmator_x", "stigmator_y", "dwell_time")
        }
        assert simulated <= set(SimulatedSEM.component_names)
        assert {f"sem_{name}" for name in simulated} <= set(event)
        assert event["sem_working_distance"] == pytest.approx(10_000)
        assert event["sem_magnification"] == pytest.approx(127e-3 / 20e-6)
        assert event["sem_field_width"] == pytest.approx(20)
        assert event["sem_pixel_size_um"] == pytest.approx(2.5)
        assert event["sem_dwell_time"] == pytest.approx(1)
        assert event["sem_camera_exposure_s"] == pytest.approx(48e-6)
        assert event["sem_convergence_mrad"] == 5
        assert event["sem_camera_mean"] == 7
        (descriptor,) = documents.named("descriptor")
        units = {key: data.get("units") for key, data in descriptor["data_keys"].items()}
        assert (units["sem_working_distance"], units["sem_dwell_time"]) == ("um", "us")
        assert units["sem_camera_exposure_s"] == "s"
        assert descriptor["hints"]["sem"] == {"fields": ["sem_working_distance", "sem_camera_mean"]}

    def test_what_is_set(self, RE, sem, vendor):
        RE(bps.mv(sem.working_distance, 9_876.5, sem.dwell_time, 10, sem.magnification, 12_700))
        RE(bps.mv(sem.stigmator_x, 0.25, sem.stigmator_y, -0.5))
        assert vendor.at_m == pytest.approx(9.8765e-3)
        assert vendor.dwell_s == pytest.approx(1e-5)
        assert vendor.width_m == pytest.approx(1e-5)
        assert vendor.stigmator == (0.25, -0.5)
        assert sem.field_width.get() == pytest.approx(10)

    def test_what_somebody_changes_at_the_panel_is_in_the_next_event(self, RE, documents, sem, vendor):
        vendor.at_m, vendor.stigmator, vendor.width_m = 0.0111, (0.1, 0.2), 40e-6
        RE(bp.count([sem]))
        (event,) = documents.events("primary")
        assert event["sem_working_distance"] == pytest.approx(11_100)
        assert (event["sem_stigmator_x"], event["sem_stigmator_y"]) == (0.1, 0.2)
        assert event["sem_pixel_size_um"] == pytest.approx(5)

    def test_its_dose_is_in_the_ledger(self, RE, sem):
        ledger = DoseLedger()
        RE.subscribe(lambda name, doc: ledger(name, doc))
        RE(bps.mv(sem.dwell_time, 2.5))
        RE(bp.count([sem], 3))
        (field,) = ledger.fields
        assert (field.exposures, field.dose_s) == (3, pytest.approx(3 * 2.5e-6 * 48))

    def test_all_calls_are_made_from_one_thread(self, RE, sem, vendor):
        """A COM object is of the thread that made it, and most others mind too."""
        RE(bp.scan([sem], sem.working_distance, 9_990, 10_010, 3))
        assert ("connect",) in vendor.calls
        assert len(vendor.threads) == 1 and threading.get_ident() not in vendor.threads

    @pytest.mark.parametrize(
        ("signal", "value"),
        [
            ("stigmator_x", 1.1),
            ("stigmator_y", float("nan")),
            ("dwell_time", 0.05),
            ("dwell_time", 200),
            ("magnification", 1),
            ("field_width", 1e7),
        ],
    )
    def test_limits_of_the_controls(self, RE, sem, vendor, signal, value):
        before = [call for call in vendor.calls if call[0].startswith("set_")]
        with pytest.raises((LimitError, FailedStatus)):
            RE(bps.mv(getattr(sem, signal), value))
        assert [call for call in vendor.calls if call[0].startswith("set_")] == before

    @pytest.mark.parametrize(("position_um", "limits"), [(3_999.0, "4000.0"), (20_001.0, "20000.0")])
    def test_the_safe_floor_and_the_reach_of_the_microscope(self, RE, sem, vendor, position_um, limits):
        with pytest.raises(LimitError, match=f"{position_um} um is not within the limits .*{limits}"):
            RE(bps.mv(sem.working_distance, position_um))
        assert vendor.at_m == 0.010

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"limits_um": (30_000.0, 40_000.0)}, "it reaches 2000 .. 20000 um"),
            ({"convergence_mrad": 0.0}, "convergence_mrad is 0.0"),
            ({"answer_s": 0.0}, "answer_s is 0.0"),
        ],
    )
    def test_what_makes_no_sense(self, connect, vendor, options, match):
        with pytest.raises(ValueError, match=match):
            connect(vendor, **options)


class TestTrouble:
    @pytest.mark.parametrize("call", ["get_working_distance", "set_working_distance", "acquire"])
    def test_a_call_that_fails_is_named(self, RE, documents, sem, vendor, call):
        vendor.failing = {call}
        with pytest.raises((FailedStatus, SEMError)) as failed:
            RE(bp.list_scan([sem.camera], sem.working_distance, [10_010]))
        cause = failed.value if isinstance(failed.value, SEMError) else failed.value.__cause__
        assert f"sem: Recorded.{call}(" in str(cause)
        assert "no route to the column" in str(cause)
        assert documents.named("stop")[-1]["exit_status"] == "fail"
        assert not sem.working_distance.moving
        vendor.failing = set()
        connections = vendor.calls.count(("connect",))
        RE(bp.list_scan([sem.camera], sem.working_distance, [10_020]))
        assert vendor.calls.count(("connect",)) == connections + 1
        assert vendor.at_m == pytest.approx(0.01002)

    def test_it_cannot_be_connected(self, connect, vendor):
        vendor.failing = {"connect"}
        with pytest.raises(SEMError, match=r"sem: Recorded\.connect\(\) failed"):
            connect(vendor)

    def test_a_setting_that_has_no_effect(self, RE, sem, vendor):
        """fibsem does so with stigmators on a TESCAN, and says it in its log."""
        object.__setattr__(vendor, "set_stigmator", lambda x, y: None)
        with pytest.raises(FailedStatus) as failed:
            RE(bps.mv(sem.stigmator_x, 0.5))
        assert "sem_stigmator_x: 0.5 unit was asked for, it is at 0" in str(failed.value.__cause__)

    def test_a_move_that_has_no_effect(self, RE, sem, vendor):
        object.__setattr__(vendor, "set_working_distance", lambda metres: None)
        with pytest.raises(FailedStatus) as failed:
            RE(bps.mv(sem.working_distance, 9_990))
        assert "set_working_distance(0.00999) left it at 10000.000 um" in str(failed.value.__cause__)

    def test_a_frame_of_another_shape(self, RE, sem, vendor):
        object.__setattr__(vendor, "acquire", lambda: np.zeros((6, 8), np.uint16))
        with pytest.raises(FailedStatus) as failed:
            RE(bp.count([sem]))
        assert "expected a frame of shape (6, 8) and type uint8" in str(failed.value.__cause__)

    @pytest.fixture
    def hung(self, connect, vendor):
        """Return the device of a microscope that takes a frame for ever."""
        vendor.scan_on.clear()
        yield connect(vendor, answer_s=0.2)
        vendor.scan_on.set()

    BUSY = "no answer to reading {} within 0.2 s; the microscope is busy with a frame"

    def test_a_call_that_never_returns_fails_who_asks(self, hung, vendor):
        frame = hung.camera.trigger()
        assert vendor.scanning.wait(5)
        for part in (hung.working_distance, hung.stigmator_x, hung.camera):
            with pytest.raises(SEMError, match=self.BUSY.format(part.name)):
                part.read()
        for stuck in (hung.reconnect, hung.reconnect):
            with pytest.raises(SEMError, match="no answer to disconnecting"):
                stuck()
        vendor.scan_on.set()
        frame.wait(5)
        assert hung.working_distance.position == pytest.approx(10_000)
        assert vendor.calls.count(("disconnect",)) == 0, "what was given up before it began never happens"

    def test_it_is_reported_and_left_alone(self, RE, hung):
        checking = FrameCheckAnalysis()
        RE.subscribe(checking)
        reports = []

        def plan():
            report = yield from check_instrument(
                [hung.camera],
                hung.working_distance,
                bounds_um=(9_990, 10_010),
                analysis=checking,
                timeout_s=1.0,
            )
            reports.append(report)

        RE(plan())
        failed = " ".join(finding.said for finding in reports[0].findings if finding.grade == "failed")
        assert "no answer within 1 s" in failed
        assert self.BUSY.format("sem_working_distance") in failed

    @pytest.mark.parametrize("is_hung", [False, True])
    def test_it_is_let_go_of(self, request, vendor, is_hung):
        sem = request.getfixturevalue("hung" if is_hung else "sem")
        if is_hung:
            sem.trigger()
            assert vendor.scanning.wait(5)
        (thread,) = (one for one in threading.enumerate() if one.name == "sem-vendor")
        assert thread.daemon, "it is not to keep the process"
        sem.destroy()
        sem.destroy()
        vendor.scan_on.set()
        thread.join(5)
        assert not thread.is_alive()
        assert vendor.calls.count(("disconnect",)) == 1
        with pytest.raises(
            SEMError, match="reading sem_dwell_time was asked for, but the device is destroyed"
        ):
            sem.dwell_time.get()

    @pytest.mark.parametrize("success", [True, False])
    def test_stop(self, sem, vendor, success):
        """The lens cannot be stopped: the status says when it is there. What was not begun never is."""
        vendor.go_on.clear()
        under_way = sem.working_distance.set(9_990)
        waiting = sem.working_distance.set(9_980)
        assert vendor.moving.wait(5)
        sem.working_distance.stop(success=success)
        after = sem.working_distance.set(9_970)
        assert not under_way.done and sem.working_distance.moving
        vendor.go_on.set()
        after.wait(5)
        for status in (under_way, waiting):
            error = status.exception(timeout=5)
            assert error is None if success else "was stopped" in str(error)
        moves = [call[1] for call in vendor.calls if call[0] == "set_working_distance"]
        assert moves == pytest.approx([9.99e-3, 9.97e-3])
        assert not sem.working_distance.moving


class TestFibsem:
    @pytest.fixture
    def optics(self):
        return DemoOptics(ServedSEM((256, 256), working_distance_um=10_060.0))

    @pytest.fixture
    def sem(self, connect, optics):
        return connect(demo_control(optics, resolution=(256, 256)))

    def test_settings_reach_the_column(self, RE, sem, optics):
        served = optics.served
        RE(bps.mv(sem.dwell_time, 4, sem.magnification, 8_000, sem.working_distance, 10_020))
        RE(bps.mv(sem.stigmator_x, 0.02, sem.stigmator_y, -0.01))
        RE(bp.count([sem]))
        assert served.working_distance_um == pytest.approx(10_020)
        assert served.dwell_us == pytest.approx(4)
        assert served.magnification == pytest.approx(8_000)
        assert (served.stigmator_x, served.stigmator_y) == pytest.approx((2, -1))

    def test_its_own_demonstration_microscope_as_fibsem_opens_it(self, RE, documents, connect):
        sem = connect(FibsemControl.of("demo", resolution=(192, 128)), limits_um=(3_000.0, 9_000.0))
        RE(bp.list_scan([sem.camera], sem.working_distance, [4_000, 4_010]))
        at_um = [event["sem_working_distance"] for event in documents.events("primary")]
        assert at_um == pytest.approx([4_000, 4_010])

    def test_abort_in_mid_move(self, RE, sem, optics, analysis):
        optics.lens_um_s = 100.0
        start_um = optics.served.working_distance_um

        def abort():
            while optics.served.working_distance_um == start_um:
                time.sleep(0.002)
            RE.abort()

        aborting = threading.Thread(target=abort)
        aborting.start()
        with pytest.raises(RunEngineInterrupted):
            RE(
                autofocus(
                    [sem], sem.working_distance, analysis=analysis, method="sweep", bounds_um=(10_000, 10_040)
                )
            )
        aborting.join(5)
        assert not sem.working_distance.moving
        assert optics.served.working_distance_um == pytest.approx(start_um)


@pytest.mark.parametrize("bits", [8, 12])
def test_an_instrument(RE, analysis, made, tmp_path, bits):
    sem_instrument = instrument(tmp_path, WallClock(), resolution=(256, 256), seed=3, bits=bits)
    sem = sem_instrument.devices["sem"]
    made.append(sem)
    verdicts = []

    def plan():
        verdict = yield from autofocus(
            sem_instrument.detectors,
            sem_instrument.axis,
            analysis=analysis,
            **sem_instrument.focus_options,
        )
        verdicts.append(verdict)

    RE(plan())
    assert verdicts[0].found
    assert sem.working_distance.position == pytest.approx(
        10_000, abs=sem_instrument.focus_options["depth_of_field_um"]
    )


@pytest.mark.parametrize("options", [{"dwell_us": 1e9}, {"convergence_mrad": -1.0}, {"limits_um": (1, 2)}])
def test_an_instrument_that_is_refused_stays_not_connected(tmp_path, monkeypatch, options):
    connected = []
    for name, change in (("connect", connected.append), ("disconnect", connected.remove)):
        monkeypatch.setattr(FibsemControl, name, called_after(getattr(FibsemControl, name), change))
    with pytest.raises(ValueError):
        instrument(tmp_path, WallClock(), resolution=(64, 64), **options)
    assert not connected


def called_after(method, before):
    def call(control):
        before(control)
        return method(control)

    return call


def test_no_such_vendor(tmp_path):
    with pytest.raises(ValueError, match="vendor is 'jeol': expected one of thermo, tescan, demo"):
        FibsemControl.of("jeol")
    with pytest.raises(ValueError, match="vendor is 'jeol': expected demo, thermo, tescan or zeiss"):
        instrument(tmp_path, WallClock(), vendor="jeol")


class FakeSmartSEM:
    """The COM object as those who use it describe it: codes instead of exceptions, 0 for success."""

    def __init__(self, served):
        self.served, self.code, self.stuck = served, 0, False
        self.values = {"DP_SCANRATE": 3, "DP_FREEZE_ON": 2, "AP_MAG": 5_000.0}
        self.frozen_at = 0.0

    def InitialiseRemoting(self):  # noqa: N802
        return self.code

    def ClosingControl(self):  # noqa: N802
        return 0

    def Get(self, name, kind):  # noqa: N802
        served = self.served
        live = self.stuck or time.monotonic() < self.frozen_at
        here = {
            "AP_WD": 1e-6 * served.working_distance_um,
            "AP_STIG_X": served.stigmator_x,
            "AP_STIG_Y": served.stigmator_y,
            "AP_WIDTH": 1e-6 * 0.3e6 / self.values["AP_MAG"],
            "AP_FRAME_TIME": 20.0,
            "DP_FROZEN": "Live" if live else "Frozen",
            **self.values,
        }
        return (0, here[name]) if name in here else (1000, None)

    def Set(self, name, value):  # noqa: N802
        if name == "AP_WD":
            if not 1e-3 <= value <= 0.05:
                return 1008
            self.served.working_distance_um = 1e6 * value
        elif name in ("AP_STIG_X", "AP_STIG_Y"):
            setattr(self.served, f"stigmator_{name[-1].lower()}", value)
        elif name in self.values:
            self.values[name] = value
        else:
            return 1004
        return self.code

    def Execute(self, command):  # noqa: N802
        if command.startswith("CMD_SCANRATE"):
            self.values["DP_SCANRATE"] = int(command.removeprefix("CMD_SCANRATE"))
        elif command == "CMD_FREEZE_ALL":
            assert self.values["DP_FREEZE_ON"] == 0  # at the end of the frame
            self.frozen_at = time.monotonic() + 0.02
        elif command != "CMD_UNFREEZE_ALL":
            return 1015
        return self.code

    def Grab(self, x, y, width, height, reduction, path):  # noqa: N802
        tifffile.imwrite(path, self.served.frame())
        return self.code


class TestSmartSEM:
    """Against an object that behaves as theirs is described to: it has never been run on a microscope."""

    @pytest.fixture
    def api(self):
        return FakeSmartSEM(ServedSEM((96, 128), working_distance_um=10_060.0))

    @pytest.fixture
    def sem(self, connect, api):
        return connect(SmartSEMControl(frame_shape=(96, 128), dispatch=lambda: api))

    def test_settings(self, RE, documents, sem, api):
        RE(
            bps.mv(
                sem.working_distance, 10_010, sem.stigmator_x, 12.5, sem.stigmator_y, -3, sem.dwell_time, 1
            )
        )
        RE(bps.mv(sem.field_width, 30))
        assert (api.served.working_distance_um, api.served.stigmator_x) == pytest.approx((10_010, 12.5))
        assert api.values["AP_MAG"] == pytest.approx(10_000)
        RE(bp.count([sem]))
        (event,) = documents.events("primary")
        assert event["sem_dwell_time"] == pytest.approx(0.8)  # the scan rate that is nearest
        assert event["sem_camera_exposure_s"] == pytest.approx(0.8e-6 * 96 * 128)
        assert event["sem_working_distance"] == pytest.approx(10_010)

    def test_a_code_is_an_error(self, RE, sem, api):
        api.code = 1032
        with pytest.raises(FailedStatus) as failed:
            RE(bps.mv(sem.working_distance, 10_010))
        message = str(failed.value.__cause__)
        assert "SmartSEMControl.set_working_distance(0.01001) failed" in message
        assert "Set('AP_WD', 0.01001) was refused with the code 1032" in message

    def test_a_scan_that_does_not_end(self, RE, sem, api, monkeypatch):
        monkeypatch.setattr("bluesky_autofocus.devices.sem._smartsem._SPARE_S", 0.1)
        api.stuck = True
        with pytest.raises(FailedStatus) as failed:
            RE(bp.count([sem]))
        assert "DP_FROZEN is still 'Live'" in str(failed.value.__cause__)
        api.stuck = False
        RE(bp.count([sem]))

    @pytest.mark.skipif(os.name == "nt", reason="there it may be installed")
    def test_without_windows(self, connect):
        with pytest.raises(SEMError, match="wants Windows and the package pywin32"):
            connect(SmartSEMControl())
