# ruff: noqa: N803 - every bluesky user calls it RE

import json
import math
import threading

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import numpy as np
import pytest
from bluesky.utils import FailedStatus
from ophyd.status import Status
from ophyd.utils import LimitError

from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.devices import CalibrationError, LEDArray, SimulatedLEDArray
from bluesky_autofocus.leds import LEDs, Orientation, PatternError, Single


@pytest.fixture
def leds() -> SimulatedLEDArray:
    return SimulatedLEDArray(name="leds", orientation=Orientation())


class Deferred(LEDArray):
    """Hardware that takes its time: a test says when it is done."""

    def __init__(self, **options) -> None:
        self.asked: list[tuple] = []
        super().__init__(name="leds", **options)

    def show(self, indices, brightness):
        status = Status()
        self.asked.append((indices, brightness, status))
        return status


def finish(status, error=None):
    told = threading.Event()
    status.add_callback(lambda _: told.set())  # the last callback
    if error is None:
        status.set_finished()
    else:
        status.set_exception(error)
    assert told.wait(5)


class TestPatterns:
    @pytest.mark.parametrize(
        ("pattern", "text"),
        [
            ("half_annulus_top", "half_annulus_top"),
            (Single(na=0.4, angle_deg=0), "single(na=0.4, angle_deg=0)"),
            ("single(0.4, 90)", "single(na=0.4, angle_deg=90)"),
            (LEDs((2, 1)), "leds(indices=(2, 1))"),
            ("off", "off"),
        ],
    )
    def test_by_message(self, RE, documents, leds, pattern, text):
        RE(bps.mv(leds, pattern))
        assert leds.lit == leds.select(pattern) == leds._true_light[0]
        RE(bp.count([leds]))
        (event,) = documents.events("primary")
        assert event["leds"] == text
        RE(bps.mv(leds, event["leds"]))  # what was read can be set

    def test_what_is_in_an_event(self, RE, documents, leds):
        RE(bp.list_scan([], leds, ["off", Single(0.6, 90), "half_annulus_left"]))
        off, single, left = documents.events("primary")
        assert set(off) == {"leds", "leds_na_x", "leds_na_y", "leds_brightness", "leds_calibrated"}
        assert math.isnan(off["leds_na_x"]) and math.isnan(off["leds_na_y"])
        assert (single["leds_na_x"], single["leds_na_y"]) == pytest.approx((0, 0.6))
        assert left["leds_na_x"] < -0.2 and left["leds_na_y"] == pytest.approx(0)
        assert single["leds_calibrated"] is True
        (descriptor,) = documents.named("descriptor")
        assert descriptor["hints"]["leds"] == {"fields": ["leds"]}
        assert descriptor["data_keys"]["leds"]["dtype"] == "string"
        assert descriptor["data_keys"]["leds_calibrated"]["dtype"] == "boolean"

    def test_no_pattern_changes_nothing(self, RE, leds):
        RE(bps.mv(leds, "annulus"))
        for wrong in ("annulos", "single(na=0.4, angle_deg=7)", "leds((9999,))", 3):
            with pytest.raises(PatternError):
                RE(bps.mv(leds, wrong))
            with pytest.raises(PatternError):
                leds.check_value(wrong)
        assert leds.pattern.get() == "annulus"

    def test_the_light_stays_on(self, RE, leds):
        RE(bps.mv(leds, "brightfield"))  # the RunEngine stops what it moved
        leds.stop()
        assert leds.lit and leds._true_light[0] == leds.lit

    def test_nearest(self, leds):
        assert leds.nearest(0.41, 4).na_xy == pytest.approx((0.4, 0))


class TestBrightness:
    def test_set_by_message_shows_the_pattern_anew(self, RE, documents, leds):
        RE(bps.mv(leds, Single(0.6)))
        RE(bp.list_scan([leds], leds.brightness, [0.5, 0.25]))
        assert [event["leds_brightness"] for event in documents.events("primary")] == [0.5, 0.25]
        directions, light = leds.light
        assert directions == pytest.approx(np.array([(0.6, 0)])) and light == pytest.approx([0.8 * 0.25])
        assert leds.irradiance == pytest.approx(0.2)

    @pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
    def test_limits(self, RE, leds, value):
        with pytest.raises(LimitError, match="leds_brightness"):
            RE(bps.mv(leds.brightness, value))
        assert leds.brightness.get() == 1

    def test_exposure_makes_up_for_the_cosine(self, leds):
        leds.set(Single(0.6)).wait(1)
        assert leds.compensated_exposure_s(0.01) == pytest.approx(0.0125)
        assert leds.compensated_exposure_s(0.01, "off") == 0.01
        assert leds.compensated_exposure_s(0.01, Single(0.0)) == pytest.approx(0.01)
        with pytest.raises(ValueError, match="nominal_s is 0"):
            leds.compensated_exposure_s(0)


class TestHardware:
    def test_done_when_the_light_is_as_asked(self):
        leds = Deferred()
        status = leds.set("annulus")
        assert not status.done and leds.pattern.get() == "off"
        finish(leds.asked[0][2])
        status.wait(1)
        assert leds.pattern.get() == "annulus" and leds.lit == leds.asked[0][0]

    def test_pattern_and_brightness_at_once(self):
        leds = Deferred()
        statuses = [leds.set("annulus"), leds.brightness.set(0.5)]
        assert leds.asked[1][:2] == (leds.select("annulus"), 0.5)
        for *_, status in leds.asked:
            finish(status)
        for status in statuses:
            status.wait(1)
        assert (leds.pattern.get(), leds.brightness.get()) == ("annulus", 0.5)

    def test_what_was_on_before_is_asked_for_until_it_is_known(self):
        answers = [OSError("no answer"), ((2, 5), 0.5), ((), 1.0)]

        class LeftOn(Deferred):
            def ask_light(self):
                answer = answers.pop(0)
                if isinstance(answer, Exception):
                    raise answer
                return answer

        leds = LeftOn()
        with pytest.raises(OSError, match="no answer"):
            leds.set("annulus")
        assert not leds.asked
        assert leds.lit == (2, 5)
        read = {name: reading["value"] for name, reading in leds.read().items()}
        assert (read["leds"], read["leds_brightness"]) == ("leds(indices=(2, 5))", 0.5)
        assert read["leds_na_x"] == pytest.approx(leds.mean_na_x, nan_ok=False)
        leds.brightness.set(0.25)
        leds.set("off")
        assert [light[:2] for light in leds.asked] == [((2, 5), 0.25), ((), 0.25)]

    def test_the_newest_counts(self):
        leds = Deferred()
        first, second = leds.set("annulus"), leds.set("brightfield")
        finish(leds.asked[1][2])
        finish(leds.asked[0][2])
        first.wait(1)
        second.wait(1)
        assert leds.pattern.get() == "brightfield"

    def test_a_failure_is_told_and_not_believed(self, RE):
        leds = Deferred()
        status = leds.set("annulus")
        finish(leds.asked[0][2], OSError("no answer"))
        with pytest.raises(OSError, match="no answer"):
            status.wait(1)
        assert leds.pattern.get() == "off"
        leds.brightness.set(0.5)
        assert leds.asked[-1][0] == ()  # not what failed

        class Broken(LEDArray):
            def show(self, indices, brightness):
                raise OSError("unplugged")

        with pytest.raises(FailedStatus):
            RE(bps.mv(Broken(name="broken"), "annulus"))

    def test_switching_takes_time(self):
        clock = VirtualClock()
        leds = SimulatedLEDArray(name="leds", clock=clock, switching_s=0.02)
        leds.set("annulus").wait(1)
        assert clock.now_s() == pytest.approx(0.02) and leds._true_light[0] == leds.lit


class TestCalibration:
    def test_unknown_at_first(self, RE, documents):
        leds = SimulatedLEDArray(name="leds", true_orientation=Orientation(30))
        leds.set(Single(0.4, 0)).wait(1)
        RE(bp.count([leds]))
        (event,) = documents.events("primary")
        assert event["leds_calibrated"] is False
        assert event["leds_na_x"] == pytest.approx(0.4)  # its own axes are taken for those of the frame
        assert leds.light[0] == pytest.approx(np.array([Single(0.4, 30).na_xy]))

    @pytest.mark.parametrize(
        "value",
        [
            Orientation(90.0, True),
            (90, True),
            {"rotation_deg": 90.0, "mirrored": True, "measured": [{"led": 3}]},
            '{"rotation_deg": 90.0, "mirrored": true}',
        ],
    )
    def test_set_by_message_and_kept(self, RE, documents, tmp_path, value):
        path = tmp_path / "new" / "leds.json"
        leds = SimulatedLEDArray(name="leds", calibration_path=path)
        (own,) = leds.select(Single(0.4, 0))
        RE(bps.mv(leds.calibration, value))
        assert leds.orientation == Orientation(90.0, True) and leds.is_calibrated
        assert leds.select(Single(0.4, 90)) == (own,)
        again = SimulatedLEDArray(name="leds", calibration_path=path, orientation=Orientation(1))
        assert again.orientation == leds.orientation
        assert again.calibration.get() == leds.calibration.get()
        content = json.loads(path.read_text())
        assert content["device"] == "leds" and content["calibration"]["date"].startswith("20")
        if isinstance(value, dict):
            assert content["calibration"]["measured"] == [{"led": 3}]
        assert [file.name for file in path.parent.iterdir()] == ["leds.json"]
        RE(bp.count([leds]))
        (descriptor,) = documents.named("descriptor")
        recorded = descriptor["configuration"]["leds"]["data"]["leds_calibration"]
        assert json.loads(recorded)["rotation_deg"] == 90

    def test_forgotten_again(self, RE, tmp_path):
        path = tmp_path / "leds.json"
        leds = SimulatedLEDArray(name="leds", calibration_path=path)
        RE(bps.mv(leds.calibration, (3, False)))
        RE(bps.mv(leds.calibration, ""))
        assert not leds.is_calibrated and leds.orientation == Orientation() and not path.exists()

    def test_the_light_does_not_change_but_its_name_may(self, leds):
        leds.set(Single(0.4, 0)).wait(1)
        lit = leds.lit
        leds.calibrate((2, False))
        assert leds.pattern.get() == "single(na=0.4, angle_deg=0)" and leds.lit == lit
        leds.calibrate((90, False))
        assert leds.pattern.get() == f"leds(indices={lit!r})" and leds.lit == lit
        assert (leds.na_x.get(), leds.na_y.get()) == pytest.approx((0, 0.4))
        assert leds.select(leds.pattern.get()) == lit
        leds.brightness.put(0.5)
        assert leds.lit == lit and leds.pattern.get() == f"leds(indices={lit!r})"

    @pytest.mark.parametrize(
        "value",
        [
            "nonsense",
            "3",
            (1,),
            3,
            (math.nan, False),
            (3, "yes"),
            {"rotation_deg": 3},
            {"rotation_deg": 3, "mirrored": False, "measured": object()},
        ],
    )
    def test_no_calibration(self, leds, value):
        with pytest.raises(CalibrationError, match="is no calibration of an LED array"):
            leds.calibration.set(value)
        assert leds.orientation == Orientation()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "leds.json holds no calibration"),
            ("[]", "something else"),
            ('{"format": "x"}', "something else"),
            ('{"format": "bluesky_autofocus LED array orientation", "version": 2}', "version is 2"),
            ('{"format": "bluesky_autofocus LED array orientation", "version": 1}', "calibration"),
            (
                '{"format": "bluesky_autofocus LED array orientation", "version": 1, "calibration": {}}',
                "rotation_deg",
            ),
        ],
    )
    def test_a_corrupt_file_is_an_error(self, tmp_path, text, message):
        path = tmp_path / "leds.json"
        path.write_text(text)
        with pytest.raises(CalibrationError, match=message):
            SimulatedLEDArray(name="leds", calibration_path=path)
        assert path.read_text() == text

    def test_where_it_cannot_be_kept_nothing_changes(self, tmp_path):
        (tmp_path / "file").write_text("")
        leds = SimulatedLEDArray(name="leds", calibration_path=tmp_path / "file" / "leds.json")
        with pytest.raises(OSError, match="file"):
            leds.calibration.set((3, False))
        assert not leds.is_calibrated


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"numerical_aperture": 0}, "numerical_aperture is 0"),
        ({"timeout_s": math.inf}, "timeout_s is inf"),
        ({"switching_s": -1}, "switching_s is -1"),
    ],
)
def test_no_array(options, message):
    with pytest.raises(ValueError, match=message):
        SimulatedLEDArray(name="leds", **options)
