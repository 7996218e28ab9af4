# ruff: noqa: N803 - every bluesky user calls it RE

import json
import math

import pytest
from bluesky import plan_stubs as bps
from bluesky.simulators import summarize_plan
from bluesky.utils import FailedStatus, RunEngineInterrupted
from interrupting import at_message, pausing, throwing
from ophyd.utils import LimitError

from bluesky_autofocus.callbacks import AnalysisError, NotSubscribedError, OrientationAnalysis
from bluesky_autofocus.defocus.orientation import LEDDirection
from bluesky_autofocus.devices import SimulatedMicroscope
from bluesky_autofocus.leds import Orientation, PatternError, Single
from bluesky_autofocus.plans import Approach, calibrate_leds, led_calibration
from bluesky_autofocus.records import Reading, Reason


@pytest.fixture
def orientation(RE) -> OrientationAnalysis:
    made = OrientationAnalysis()
    RE.subscribe(made)
    return made


@pytest.fixture
def make_microscope(tmp_path):
    def make(**options) -> SimulatedMicroscope:
        made = SimulatedMicroscope(
            name="microscope",
            **{
                "frame_shape": (288, 288),
                "frame_directory": tmp_path / "frames",
                "calibrated": False,
                "calibration_path": tmp_path / "leds.json",
                "z_um": 5.0,
                "seed": 2,
                **options,
            },
        )
        made.leds.set("half_annulus_left").wait(1)
        return made

    return make


class TestMeasured:
    @pytest.mark.parametrize(
        ("kind", "truth"),
        [("cells", Orientation(-3.0)), ("tissue", Orientation(100.0, True)), ("cells", Orientation(180.0))],
    )
    def test_rotation_and_mirror_are_found(self, RE, documents, make_microscope, orientation, kind, truth):
        microscope = make_microscope(kind=kind, array_orientation=truth)
        leds, z = microscope.leds, microscope.z
        before, lit = z.position, leds.lit
        RE(calibrate_leds([microscope], z, leds=leds, analysis=orientation, md={"by": "me"}))

        assert leds.is_calibrated and leds.orientation.mirrored == truth.mirrored
        assert abs(math.remainder(leds.orientation.rotation_deg - truth.rotation_deg, 360)) < 0.7
        assert z.position == before and leds.lit == lit
        (recorded,) = documents.events("led_calibration")
        assert recorded["led_calibration_found"] and recorded["led_calibration_reason"] == "found"
        assert recorded["led_calibration_rotation_deg"] == leds.orientation.rotation_deg
        assert recorded["led_calibration_residual_na"] < 0.01
        assert recorded["led_calibration_exposures"] == 6
        measured = json.loads(recorded["led_calibration_measured"])
        assert [math.hypot(*one["array_na_xy"]) for one in measured] == pytest.approx([0.4] * 3)
        assert [one["distance_um"] for one in measured] == pytest.approx([10] * 3, abs=1)
        exposures = documents.events("calibrate_leds")
        assert [event["led_calibration_offset_um"] for event in exposures] == [-5.0, 5.0] * 3
        assert [event["microscope_z"] for event in exposures] == [0.0, 10.0] * 3
        readings = documents.events("reading_orientation")
        assert all(event["orientation_accepted"] for event in readings)
        start, stop = documents.named("start")[0], documents.named("stop")[0]
        assert start["plan_name"] == "calibrate_leds" and start["by"] == "me"
        assert stop["exit_status"] == "success"
        again = SimulatedMicroscope(
            name="again",
            frame_shape=(64, 64),
            frame_directory=".",
            calibration_path=leds.calibration_path,
            calibrated=False,
        )
        assert again.leds.orientation == leds.orientation

    def test_an_axis_that_runs_the_other_way(self, RE, make_microscope, orientation):
        """Told the wrong sign it is half a turn off, and nothing in the frames could say so."""
        microscope = make_microscope()
        RE(
            calibrate_leds(
                [microscope], microscope.z, leds=microscope.leds, analysis=orientation, axis_sign=-1
            )
        )
        assert abs(microscope.leds.orientation.rotation_deg) == pytest.approx(180, abs=0.7)

    @pytest.mark.parametrize(
        ("options", "reason"), [({"kind": "empty"}, Reason.EMPTY), ({"darkfield": True}, Reason.UNFAMILIAR)]
    )
    def test_frames_that_tell_nothing(self, RE, documents, make_microscope, orientation, options, reason):
        leds = {"na": 0.6, "angles_deg": (0, 90)} if options.get("darkfield") else {}
        microscope = make_microscope(kind=options.get("kind", "cells"))
        microscope.camera.exposure_s.put(0.1 if leds else 0.01)
        RE(calibrate_leds([microscope], microscope.z, leds=microscope.leds, analysis=orientation, **leds))
        (recorded,) = documents.events("led_calibration")
        assert not recorded["led_calibration_found"] and recorded["led_calibration_reason"] == reason
        assert recorded["led_calibration_exposures"] == 1
        assert "was refused" in recorded["led_calibration_problem"]
        assert not microscope.leds.is_calibrated and not microscope.leds.calibration_path.exists()
        assert microscope.leds.pattern.get() == "half_annulus_left" and microscope.z.position == 5.0


class Knowing(OrientationAnalysis):
    """Knows how the array of a bench lies, without looking, and may be told to err."""

    def __init__(self, leds, truth: Orientation, **errors) -> None:
        super().__init__()
        self.leds, self.truth, self.errors = leds, truth, errors

    def _line(self, frame, optics):
        return Reading("", 0.0, unit="deg")

    def _direction_of(self, led, low, high, optics, span_um):
        x, y = self.truth.matrix @ self.leds.geometry.array_na_xy[led]
        sign = -1 if led in self.errors.get("reversed_leds", ()) else 1
        scale = self.errors.get("scale", 1.0)
        moved = span_um * self.errors.get("span", 1.0)
        self._directions[led] = LEDDirection(sign * scale * x, sign * scale * y, moved, 1.0, 1.0)
        return Reading("", math.degrees(math.atan2(y, x)), unit="deg")


TRUTH = Orientation(-25.0, True)


@pytest.fixture
def bench(make_light_bench, tmp_path):
    made = make_light_bench()
    made.leds.calibration_path = tmp_path / "leds.json"
    reset(made)
    made.patterns.calls = 0
    return made


def reset(bench):
    bench.leds.calibrate(Orientation(5.0))
    bench.leds.set(bench.before).wait(1)


@pytest.fixture
def knowing(RE, bench):
    def make(truth=TRUTH, **errors):
        made = Knowing(bench.leds, truth, **errors)
        RE.subscribe(made)
        return made

    return make


@pytest.fixture
def calibrate(bench, knowing):
    """Return a function that makes the stub for a bench."""
    made = knowing()
    return lambda **options: led_calibration(
        bench.detectors, bench.axis, **{"leds": bench.leds, "analysis": made, **options}
    )


def led_at(bench, angle_deg):
    return bench.leds.geometry.turned(Orientation()).select(Single(0.4, angle_deg))


def as_before(bench, where=None):
    assert bench.axis.position == pytest.approx(bench.start_um, abs=1e-9), where
    assert bench.leds.pattern.get() == bench.before, where
    assert bench.leds.lit == bench.leds.select(bench.before), where
    assert bench.leds.orientation == Orientation(5.0), where
    assert not bench.pending, where


class TestConclusions:
    def test_found(self, bench, run, calibrate):
        found = run(calibrate())
        assert found.found and found.rotation_deg == pytest.approx(-25) and found.mirrored
        assert bench.leds.orientation.rotation_deg == pytest.approx(-25)
        assert bench.axis.position == bench.start_um
        assert "turned by -25.00 degrees, mirrored" in str(found)
        kept = json.loads(bench.leds.calibration_path.read_text())["calibration"]
        assert kept["measured"] == [dict(one) for one in found.measured] and kept["axis_sign"] == 1

    @pytest.mark.parametrize(
        ("errors", "problem"),
        [
            ({"scale": 1.1}, "from where it should be"),
            ({"span": 1.5}, "the axis moved by 15.0 um instead of 10"),
            ({"reversed_leds": "third"}, "a sign is wrong"),
        ],
    )
    def test_what_does_not_fit_is_not_believed(self, bench, run, knowing, calibrate, errors, problem):
        if errors.get("reversed_leds"):
            errors = {"reversed_leds": led_at(bench, 225)}
        found = run(calibrate(analysis=knowing(**errors)))
        assert not found.found and found.reason is Reason.UNCERTAIN
        assert problem in found.problem and problem in str(found)
        as_before(bench)

    def test_of_two_leds_a_wrong_sign_looks_like_a_mirror(self, bench, run, knowing, calibrate):
        """Which is why there are three by default."""
        second = led_at(bench, 90)
        found = run(calibrate(analysis=knowing(reversed_leds=second), angles_deg=(0, 90)))
        assert found.found and found.mirrored != TRUTH.mirrored


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"na": 0.99}, PatternError, "no LED within"),
            ({"angles_deg": (0,)}, ValueError, "two LEDs or more"),
            ({"angles_deg": (0, 180)}, ValueError, "two LEDs or more"),
            ({"angles_deg": (0, 1, 90)}, ValueError, "expected different ones"),
            ({"span_um": 0}, ValueError, "span_um must be positive"),
            ({"tolerance_na": math.nan}, ValueError, "tolerance_na must be"),
            ({"axis_sign": 0}, ValueError, "axis_sign must be"),
            ({"travel_um": (-12, -10)}, ValueError, r"travel_um .* must contain the positions"),
            ({"span_um": 300}, LimitError, "limits"),
            ({"leds": object()}, ValueError, "leds must be an LED array"),
            ({"analysis": object()}, ValueError, "analysis must measure directions"),
        ],
    )
    def test_refused_before_anything_changes(self, bench, run, calibrate, options, error, message):
        with pytest.raises(error, match=message):
            run(calibrate(**options))
        assert bench.moves.calls == 0 and bench.patterns.calls == 0
        as_before(bench)

    def test_not_subscribed(self, bench, run, calibrate):
        with pytest.raises(NotSubscribedError, match="'orientation'"):
            run(calibrate(analysis=OrientationAnalysis()))
        assert bench.moves.calls == 0

    def test_frames_of_another_plan(self, RE, documents, make_microscope, orientation):
        microscope = make_microscope(frame_shape=(64, 64))
        from bluesky import plans as bp

        RE(bp.count([microscope]))
        with pytest.raises(AnalysisError, match="for the plan calibrate_leds"):
            orientation.reading("primary")
        with pytest.raises(AnalysisError, match="no pair of frames under LED 3"):
            orientation.direction(3)

    def test_a_dry_run(self, bench, calibrate, capsys):
        summarize_plan(calibrate(travel_um=(-20, 20)))
        assert capsys.readouterr().out.count("Read ['camera'") == 6
        list(calibrate())
        as_before(bench)


@pytest.fixture
def short(calibrate):
    """Return a function that makes the stub with as few LEDs as will do: there is a first and a last one."""
    return lambda: calibrate(angles_deg=(0, 90), approach=Approach(overshoot_um=1.0))


@pytest.fixture
def count(bench, run, short, messages):
    run(short())
    number = len(messages) - 2
    reset(bench)
    messages.clear()
    return number


class TestPutBack:
    def test_an_exception_at_every_message(self, bench, documents, run, short, count):
        assert count > 60
        for index in range(count):
            with pytest.raises(RuntimeError, match="thrown in place"):
                run(at_message(short(), index, throwing))
            assert documents.named("stop")[-1]["exit_status"] == "fail", index
            as_before(bench, index)

    def test_an_abort_at_every_third_message(self, RE, bench, run, short, count):
        for index in [*range(1, count, 3), count - 2, count - 1]:
            with pytest.raises(RunEngineInterrupted):
                run(at_message(short(), index, pausing))
            RE.abort()
            as_before(bench, index)

    def test_a_pause_at_every_fourth_message(self, RE, bench, documents, run, short, count):
        for index in [*range(0, count, 4), count - 1]:
            documents.clear()
            with pytest.raises(RunEngineInterrupted):
                run(at_message(short(), index, pausing))
            RE.resume()
            recorded = documents.events("led_calibration")[-1]
            assert recorded["led_calibration_rotation_deg"] == pytest.approx(-25), index
            assert bench.leds.orientation.rotation_deg == pytest.approx(-25), index
            assert bench.axis.position == bench.start_um
            reset(bench)

    @pytest.mark.parametrize("at", [0, 1, 2])
    def test_the_array_fails(self, bench, run, calibrate, at):
        def fails():
            raise OSError("unplugged")

        bench.patterns.fails_at, bench.patterns.fails_with = at, fails
        with pytest.raises(OSError, match="unplugged"):
            run(calibrate())
        as_before(bench)

    def test_the_calibration_cannot_be_kept(self, bench, run, calibrate, tmp_path):
        (tmp_path / "file").write_text("")
        bench.leds.calibration_path = tmp_path / "file" / "leds.json"
        with pytest.raises(OSError, match="file"):
            run(calibrate())
        assert bench.leds.orientation == Orientation(5.0) and bench.leds.lit
        assert bench.axis.position == bench.start_um

    def test_the_axis_fails(self, bench, run, calibrate):
        from ophyd.status import MoveStatus

        def fails():
            status = MoveStatus(bench.axis, 3.0)
            status.set_exception(OSError("following error"))
            return status

        bench.moves.fails_at, bench.moves.fails_with = 3, fails
        with pytest.raises(FailedStatus):
            run(calibrate())
        as_before(bench)


def test_later_runs_are_recorded_in_the_new_orientation(RE, bench, documents, calibrate, run):
    from bluesky import plans as bp

    RE(bps.mv(bench.leds, "single(na=0.4, angle_deg=5)"))
    run(calibrate())
    RE(bp.count([bench.leds]))
    (event,) = documents.events("primary")
    assert event["leds"].startswith("leds(indices=")
    assert (event["leds_na_x"], event["leds_na_y"]) == pytest.approx(tuple(TRUTH.matrix @ (0.4, 0)))


def test_offline_the_same(RE, documents, make_microscope, orientation, tmp_path):
    """What the documents hold suffices: the analysis says the same of them replayed."""
    from bluesky_autofocus.frames import read_frame

    microscope = make_microscope()
    RE(calibrate_leds([microscope], microscope.z, leds=microscope.leds, analysis=orientation))
    twin = orientation.offline(read_frame)
    values = []
    for name, doc in documents:
        twin(name, doc)
        if name == "event" and "led_calibration_offset_um" in doc["data"]:
            values.append(twin.reading("calibrate_leds").value)
    assert values == [event["orientation_value"] for event in documents.events("reading_orientation")]
