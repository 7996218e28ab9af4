"""The check of an instrument: what is known of it is found, and what is broken is said to be so."""

import contextlib
import json
import math

import numpy as np
import pytest
from bluesky.utils import IllegalMessageSequence, RunEngineInterrupted
from interrupting import at_message, pausing, throwing
from ophyd.status import DeviceStatus
from ophyd.utils import LimitError

from bluesky_autofocus.callbacks import FrameCheckAnalysis
from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.devices import SimulatedAxis, SimulatedCamera, SimulatedLEDArray
from bluesky_autofocus.leds import Orientation
from bluesky_autofocus.plans import check_instrument
from bluesky_autofocus.simulation.motion import AxisMechanics

FOCUS_UM, START_UM, BOUNDS_UM = 7.3, -5.0, (-32.0, 48.0)
GAIN, OFFSET, READ_NOISE, LIGHT = 0.5, 100.0, 4.0, 8_000.0
"""Grey levels an electron, dark level and noise in grey levels, electrons."""


class CreepingAxis(SimulatedAxis):
    """Goes on by `creep_um`, less and less, after it has said that it has arrived."""

    creep_um, time_constant_s = 0.0, 0.1

    def _arrived(self, move_number):
        self.arrived_s = self.clock.now_s()
        super()._arrived(move_number)

    def load_at_um(self, time_s):
        since_s = time_s - getattr(self, "arrived_s", -math.inf)
        return super().load_at_um(time_s) - self.creep_um * math.exp(-since_s / self.time_constant_s)


class Instrument:
    """An axis, a camera and a light, of which everything is known."""

    half_width_um = 8.0

    def __init__(
        self, directory, *, make_axis=CreepingAxis, dtype=np.uint16, mechanics=None, switching_s=0.0
    ):
        self.clock = VirtualClock()
        self.rng = np.random.default_rng(5)
        self.pattern = np.random.default_rng(3).uniform(-1, 1, (48, 48))
        self.light, self.full_scale = LIGHT, 65_535
        self.axis = make_axis(
            name="z",
            limits=(-100.0, 100.0),
            position_um=START_UM,
            mechanics=mechanics or AxisMechanics(velocity_um_s=50.0, readback_noise_um=0.01),
            clock=self.clock,
        )
        self.leds = SimulatedLEDArray(
            name="leds", orientation=Orientation(), switching_s=switching_s, clock=self.clock
        )
        self.leds.set("half_annulus_left").wait(1)
        self.camera = SimulatedCamera(
            name="camera",
            render=self.render,
            frame_directory=directory,
            frame_shape=(48, 48),
            dtype=dtype,
            clock=self.clock,
        )
        self.sent = []
        moving = self.axis.set
        self.axis.set = lambda position_um, **options: (self.sent.append(position_um), moving(position_um))[1]

    def contrast(self, position_um):
        return 1 / (1 + ((position_um - FOCUS_UM) / self.half_width_um) ** 2)

    def render(self):
        lit = bool(len(self.leds.light[1]))
        electrons = lit * self.light * (1 + 0.8 * self.contrast(self.axis.load_um) * self.pattern)
        levels = OFFSET + GAIN * self.rng.poisson(electrons) + self.rng.normal(0, READ_NOISE, electrons.shape)
        return levels.clip(0, self.full_scale).astype(self.camera.dtype)


@pytest.fixture
def make(tmp_path):
    return lambda **options: Instrument(tmp_path / "frames", **options)


@pytest.fixture
def analysis(RE):  # noqa: N803
    made = FrameCheckAnalysis()
    RE.subscribe(made)
    return made


@pytest.fixture
def plan_of(analysis):
    def plan(instrument, **options):
        chosen = {"bounds_um": BOUNDS_UM, "planes": 8, "timeout_s": 5.0, "leds": instrument.leds, **options}
        return check_instrument(
            [instrument.camera], instrument.axis, analysis=analysis, clock=instrument.clock, **chosen
        )

    return plan


@pytest.fixture
def check(RE, plan_of):  # noqa: N803
    def run(instrument, **options):
        reports = []

        def plan():
            reports.append((yield from plan_of(instrument, **options)))

        RE(plan())
        assert all(BOUNDS_UM[0] <= sent <= BOUNDS_UM[1] for sent in instrument.sent)
        return reports[0]

    return run


def suggested(report):
    return {one.key: one.value for one in report.suggestions}


def test_what_is_known_is_found(make, check, documents):
    mechanics = AxisMechanics(velocity_um_s=50.0, settle_s=0.12, backlash_um=1.6, readback_noise_um=0.02)
    instrument = make(mechanics=mechanics, switching_s=0.03)
    instrument.camera.dead_s = 0.04
    report = check(instrument, planes=15)
    assert report.grade == "warning"  # backlash

    def near(what, truth, least):
        found = report.finding(what)
        assert abs(found.value - truth) <= max(least, 4 * found.sigma), found

    near("velocity", 50.0, 0.2)
    near("time of a move", 0.12, 0.002)
    near("backlash (image)", 1.6, 0.1)
    near("backlash (readback)", 0.0, 0.02)
    near("readback noise", 0.02, 0.015)
    near("latency", 0.04, 1e-6)
    near("switching", 0.03, 1e-6)
    near("dark level", OFFSET, 0.6)
    near("gain", GAIN, 0.02)
    near("noise", math.hypot(READ_NOISE, GAIN * math.sqrt(LIGHT)), 2.0)
    near("contrast along the axis", FOCUS_UM, 0.3)
    for what in ("limits", "moves", "readback error", "repeatability", "image follows", "steadiness"):
        assert report.finding(what).grade == "ok", report.finding(what)
    assert report.finding("settling (readback)").value == report.finding("settling (image)").value == 0
    follows = suggested(report)
    assert 1.6 <= follows["axis.approach.overshoot_um"] <= 3.2
    assert follows["axis.approach.settle_s"] == 0
    # the same is recorded, and every exposure and move
    assert instrument.axis.motion.motor_um(instrument.clock.now_s()) == pytest.approx(START_UM, abs=0.1)
    assert str(instrument.leds.pattern.get()) == "half_annulus_left"
    assert documents.named("stop")[-1]["exit_status"] == "success"
    (recorded,) = documents.events("check_report")
    assert json.loads(recorded["check_report_report"]) == json.loads(json.dumps(report.recorded()))
    shots = documents.events("check")
    assert len(shots) == len(documents.events("reading_frame_check")) > 50
    assert {shot["check_step"] for shot in shots} == {"dark", "lit", "still", "up", "down", "settling"}
    assert len(documents.events("check_moves")) == len(instrument.sent) - 1  # but the last one, back


@pytest.mark.parametrize("creep_um", [3.0, -3.0])
def test_an_axis_that_arrives_later_than_it_says(make, check, creep_um):
    instrument = make()
    instrument.axis.creep_um = creep_um
    report = check(instrument, planes=15)
    assert report.finding("settling (readback)").value == 0  # its encoder does not see it
    settling = report.finding("settling (image)")
    assert settling.grade == "warning"
    tolerance_um = float(settling.said.split("within ")[1].split(" um")[0])
    true_s = instrument.axis.time_constant_s * math.log(abs(creep_um) / tolerance_um)
    assert settling.value == pytest.approx(true_s, abs=2 * settling.sigma + 0.03)
    assert suggested(report)["axis.approach.settle_s"] >= true_s


def test_an_axis_that_does_not_move(make, check):
    class Stuck(SimulatedAxis):
        def set(self, position_um, **options):
            self.check_value(position_um)
            status = DeviceStatus(self)
            status.set_finished()
            return status

    report = check(make(make_axis=Stuck))
    assert report.grade == "failed"
    assert report.finding("moves").grade == "failed" and "does not move" in report.finding("moves").said
    assert report.finding("contrast along the axis").grade == "failed"
    assert report.finding("noise").grade == report.finding("image follows").grade == "ok"
    assert "axis.approach.overshoot_um" not in suggested(report)


def test_an_axis_whose_unit_is_another(make, check):
    class Halved(SimulatedAxis):
        @property
        def readback_um(self):
            return super().readback_um / 2

    report = check(make(make_axis=Halved))
    found = report.finding("moves")
    assert found.grade == "failed" and found.value == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("how", ["raises", "fails", "stalls", "refuses"])
def test_an_axis_that_fails_is_left_alone_and_the_rest_is_tried(make, check, documents, how, monkeypatch):
    monkeypatch.setattr("bluesky_autofocus.plans._moving.STOPPING_S", 0.1)

    class Failing(SimulatedAxis):
        moves = 0

        def check_value(self, position_um, **options):
            super().check_value(position_um)
            if how == "refuses" and position_um > 40:
                raise LimitError("beyond the interlock")

        def set(self, position_um, **options):
            self.moves += 1
            if self.moves != 3 or how == "refuses":
                return super().set(position_um)
            if how == "raises":
                raise ConnectionError("unplugged")
            status = DeviceStatus(self)
            if how == "fails":
                status.set_exception(RuntimeError("lost steps"))
            return status

    instrument = make(make_axis=Failing)
    report = check(instrument, timeout_s=0.3)
    found = report.finding("works")
    said = {"raises": "unplugged", "fails": "lost steps", "stalls": "no answer", "refuses": "the interlock"}
    assert (found.device, found.grade) == ("z", "failed") and said[how] in found.said
    assert report.finding("noise").grade == report.finding("image follows").grade == "ok"
    assert instrument.axis.position == pytest.approx(START_UM, abs=0.1)
    assert documents.named("stop")[-1]["exit_status"] == "success"
    assert len(instrument.sent) == (0 if how == "refuses" else 4)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            TimeoutError("device 'Z': no answer to getPosition within 5 s"),
            "device 'Z': no answer to getPosition",
        ),
        (TimeoutError(), "no answer within 0.5 s"),
    ],
)
def test_what_a_device_that_is_late_says_is_kept(make, check, error, said):
    class Late(SimulatedAxis):
        reads = 0

        def read(self):
            self.reads += 1
            if self.reads > 3:
                raise error
            return super().read()

    report = check(make(make_axis=Late), timeout_s=0.5)
    (found,) = [one for one in report.findings if (one.device, one.what) == ("z", "works")]
    assert found.grade == "failed" and said in found.said


@pytest.mark.parametrize(("times", "back"), [(1, True), (2, False)])
def test_the_way_back_is_tried_twice(make, check, times, back):
    undisturbed = make()
    assert check(undisturbed).grade != "failed"
    way_back = len(undisturbed.sent)

    class Failing(CreepingAxis):
        moves = 0

        def set(self, position_um, **options):
            self.moves += 1
            if not way_back <= self.moves < way_back + times:
                return super().set(position_um)
            status = DeviceStatus(self)
            status.set_exception(RuntimeError("lost steps"))
            return status

    instrument = make(make_axis=Failing)
    report = check(instrument)
    assert len(instrument.sent) == way_back + 1
    assert "lost steps" in report.finding("works").said
    assert (abs(instrument.axis.position - START_UM) < 0.1) is back
    assert any(one.what == "put back" for one in report.findings) is not back


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("part", [0.01, 1.0])
def test_pixels_that_are_no_numbers(make, check, part):
    instrument = make(dtype=np.float32)
    render, lost = instrument.render, np.random.default_rng(0).random((48, 48)) < part
    instrument.camera.render = lambda: np.where(lost, np.float32(np.nan), render())
    report = check(instrument)
    found = report.finding("frames")
    assert found.grade == "failed" and f"{lost.mean():.2%} of the pixels are no numbers" in found.said
    # what the others tell is said all the same
    if part < 1:
        assert report.finding("gain").value == pytest.approx(GAIN, abs=0.1)
        assert report.finding("image follows").grade == "ok"
    else:
        assert {one.what for one in report.findings if one.device == "camera"} <= {
            "reading", "frames", "contrast along the axis",
        }  # fmt: skip
        assert report.finding("image follows").grade == "not tried"
    assert not any("nan" in one.said for one in report.findings)


def test_a_light_that_is_a_detector_too_is_tried_once(RE, make, analysis, documents):  # noqa: N803
    instrument = make()
    RE(
        check_instrument(
            [instrument.camera, instrument.leds],
            instrument.axis,
            bounds_um=BOUNDS_UM,
            analysis=analysis,
            leds=instrument.leds,
            planes=7,
            watch_s=0.05,
            clock=instrument.clock,
        )
    )
    (recorded,) = documents.events("check_report")
    findings = json.loads(recorded["check_report_report"])["findings"]
    assert [one["device"] for one in findings if one["what"] == "reading"] == ["camera", "leds", "z"]


@pytest.mark.parametrize("how", ["raises", "fails", "stalls", "later"])
def test_a_camera_that_is_dead(make, check, how):
    instrument = make()
    frames = []

    def expose(deliver):
        frames.append(deliver)
        if how == "raises":
            raise ConnectionError("unplugged")
        if how == "fails" or (how == "later" and len(frames) > 30):
            deliver(lambda: np.zeros((2, 2)))
        elif how == "later":
            SimulatedCamera.expose(instrument.camera, deliver)

    instrument.camera.expose = expose
    report = check(instrument, timeout_s=0.5)
    found = report.finding("works")
    said = {"raises": "unplugged", "stalls": "no answer within 0.5 s"}.get(how, "expected a frame of shape")
    assert (found.device, found.grade) == ("camera", "failed") and said in found.said
    assert report.finding("velocity").value == pytest.approx(50.0, abs=0.2)
    assert report.finding("settling (readback)").grade == "ok"
    assert report.finding("backlash (image)").grade == "not tried"
    assert len(frames) == (31 if how == "later" else 1)


def test_an_image_that_does_not_depend_on_the_axis(make, check):
    instrument = make()
    instrument.contrast = lambda position_um: 0.5
    report = check(instrument)
    found = report.finding("contrast along the axis")
    assert found.grade == "failed" and "do not depend on the axis" in found.said
    assert report.finding("backlash (image)").grade == "not tried"
    assert "focus.range_um" not in suggested(report)


@pytest.mark.parametrize(
    ("light", "full_scale", "grade", "said"),
    [
        (200_000.0, 4095, "failed", "saturated"),
        (6_800.0, 4095, "warning", "4095, where the camera clips"),
        (0.0, 65_535, "warning", "nothing to focus by"),
    ],
)
def test_light_that_is_too_much_or_too_little(make, check, light, full_scale, grade, said):
    instrument = make()
    instrument.light, instrument.full_scale = light, full_scale
    report = check(instrument)
    if not light:
        assert report.finding("image follows").grade == "failed"
        assert report.finding("contrast along the axis").grade == "failed"
        return
    found = report.finding("levels")
    assert found.grade == grade and said in found.said
    assert suggested(report)["camera.full_scale"] == full_scale
    assert suggested(report)["camera.exposure_s"] == pytest.approx(0.005)


def test_a_light_that_lights_nothing(make, check):
    instrument = make()
    instrument.leds.show = lambda indices, brightness: None
    instrument.leds._true_light = ((1, 2), 1.0)
    report = check(instrument)
    found = report.finding("image follows")
    assert (found.device, found.grade) == ("leds", "failed")
    assert report.finding("contrast along the axis").grade == "ok"


def test_nothing_refuses_positions_beyond(make, check):
    class Reckless(SimulatedAxis):
        def check_value(self, position_um, **options):
            pass

    report = check(make(make_axis=Reckless))
    assert report.finding("limits").grade == "warning"
    assert suggested(report)["axis.limits_um"] == list(BOUNDS_UM)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bounds_um": (5.0, 1.0)}, "bounds_um must be two finite positions"),
        ({"bounds_um": (0.0, 10.0)}, "must contain the start"),
        ({"planes": 3}, "planes must be at least 7, got 3"),
        ({"watch_s": 0.0}, "watch_s must be positive"),
        ({"analysis": object()}, "as FrameCheckAnalysis"),
    ],
)
def test_arguments_that_make_no_sense(RE, make, plan_of, documents, options, said):  # noqa: N803
    instrument = make()
    options = {"bounds_um": BOUNDS_UM, "analysis": FrameCheckAnalysis(), **options}
    with pytest.raises(ValueError, match=said):
        RE(check_instrument([instrument.camera], instrument.axis, **options))
    assert not instrument.sent and not documents


def test_a_dry_run(make, plan_of):
    instrument = make()
    messages = list(plan_of(instrument))
    assert {"open_run", "trigger", "set", "save", "close_run"} <= {message.command for message in messages}
    assert not instrument.sent


@pytest.mark.parametrize("part", [0.1, 0.35, 0.6, 0.85])
def test_whatever_fails_all_is_put_back(RE, make, plan_of, documents, part):  # noqa: N803
    """An error in place of a message is a finding about a device, or goes on; all is as before."""
    instrument = make()
    index = round(part * sum(1 for _ in plan_of(instrument, planes=7, watch_s=0.05)))
    with contextlib.suppress(RuntimeError, IllegalMessageSequence):
        RE(at_message(plan_of(instrument, planes=7, watch_s=0.05), index, throwing))
    assert RE.state == "idle"
    assert instrument.axis.position == pytest.approx(START_UM, abs=0.1)
    assert str(instrument.leds.pattern.get()) == "half_annulus_left"
    assert len(documents.named("start")) == len(documents.named("stop")) == 1
    failed = [one for one in documents.events("check_report") if one["check_report_grade"] == "failed"]
    assert bool(failed) == (documents.named("stop")[0]["exit_status"] == "success")


@pytest.mark.parametrize("index", [411, 1102])
def test_a_pause_changes_nothing(RE, make, plan_of, documents, index):  # noqa: N803
    instrument = make()
    reports = []

    def plan():
        reports.append((yield from at_message(plan_of(instrument), index, pausing)))

    with pytest.raises(RunEngineInterrupted):
        RE(plan())
    RE.resume()
    report = reports[0]
    assert report.grade == "ok", [one for one in report.findings if one.grade != "ok"]
    assert report.finding("velocity").value == pytest.approx(50.0, abs=0.5)
    assert len(documents.events("check")) == len(documents.events("reading_frame_check"))


def test_an_abort_puts_everything_back(RE, make, plan_of, documents):  # noqa: N803
    instrument = make()
    with pytest.raises(RunEngineInterrupted):
        RE(at_message(plan_of(instrument), 700, pausing))
    assert instrument.axis.position != pytest.approx(START_UM, abs=0.1)
    RE.abort()
    assert documents.named("stop")[0]["exit_status"] == "abort"
    assert instrument.axis.position == pytest.approx(START_UM, abs=0.1)
    assert str(instrument.leds.pattern.get()) == "half_annulus_left"
