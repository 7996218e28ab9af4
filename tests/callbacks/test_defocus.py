# ruff: noqa: N803 - every bluesky user calls it RE

import contextlib
import math
from concurrent.futures import ThreadPoolExecutor

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky.utils import Msg, RunEngineInterrupted
from ophyd import Component as Cpt
from ophyd import Device, Signal

from bluesky_autofocus.callbacks import (
    AnalysisError,
    SharpnessAnalysis,
    SingleShotAnalysis,
    TwoLEDAnalysis,
    analyse,
    recorded_direction,
    recorded_optics,
)
from bluesky_autofocus.catalog import open_catalog
from bluesky_autofocus.defocus import DefocusEstimate, DefocusEstimator, ModelMismatchError
from bluesky_autofocus.devices import SimulatedAxis, SimulatedLEDArray
from bluesky_autofocus.leds import Orientation, Single
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.records import Reason

EAST, WEST, SOUTH = Single(0.4, 0.0), Single(0.4, 180.0), Single(0.4, 90.0)
OPTICS = LightOptics()


class Objective(Device):
    numerical_aperture = Cpt(Signal, value=0.5, kind="normal")
    wavelength_um = Cpt(Signal, value=0.53, kind="normal")
    pixel_size_um = Cpt(Signal, value=0.3, kind="config")  # a fixed figure may be configuration
    magnification = Cpt(Signal, value=20.0, kind="normal")
    refractive_index = Cpt(Signal, value=1.0, kind="normal")


class Numbers:
    """Makes of frames what is in their first pixel: the numbers in which they were taken."""

    range_um = 30.0
    model_hash = "cafe"
    parameters = {"kind": "numbers"}

    def __init__(self, *leds: Single, says=lambda number: DefocusEstimate(number, 0.5)) -> None:
        self.leds, self.frames_needed, self.says = leds, len(leds), says
        self.seen: list[tuple[float, ...]] = []

    def check(self, optics, na_xy_list):
        if optics != OPTICS:
            raise ModelMismatchError(f"made for {OPTICS}")
        if not np.allclose([led.na_xy for led in self.leds], na_xy_list, atol=0.02):
            raise ModelMismatchError(f"LED at {na_xy_list}")

    def estimate(self, *frames):
        self.seen.append(tuple(float(frame[0, 0]) for frame in frames))
        return self.says(math.fsum(self.seen[-1]))


@pytest.fixture
def camera(make_camera):
    numbers = iter(range(1, 1000))
    noise = np.random.default_rng(5).integers(1000, 2000, (16, 16)).astype(np.uint16)

    def render():
        frame = noise.copy()
        frame[0, 0] = next(numbers)
        return frame

    return make_camera(render=render, frame_shape=(16, 16))


@pytest.fixture
def leds():
    array = SimulatedLEDArray(name="leds", orientation=Orientation())
    array.set(EAST).wait(1)
    return array


@pytest.fixture
def objective():
    return Objective(name="objective")


@pytest.fixture
def subscribed(RE):
    def subscribed(analysis):
        RE.subscribe(analysis)
        return analysis

    return subscribed


@pytest.fixture
def one(subscribed):
    return subscribed(SingleShotAnalysis(Numbers(EAST)))


@pytest.fixture
def two(subscribed):
    return subscribed(TwoLEDAnalysis(Numbers(EAST, WEST)))


class TestSingleShot:
    def test_reads_the_defocus(self, RE, one, camera, leds, objective, documents):
        RE(bp.count([camera, leds, objective], 2))
        reading = one.reading("primary")
        assert (reading.value, reading.sigma, reading.unit, reading.accepted) == (2.0, 0.5, "um", True)
        assert (reading.event_uid, reading.seq_num) == (documents.named("event")[-1]["uid"], 2)
        assert (one.leds, one.range_um, one.model_hash) == ((EAST,), 30.0, "cafe")

    @pytest.mark.parametrize(
        ("estimate", "reason"),
        [
            (DefocusEstimate.refused(Reason.EMPTY), "empty"),
            (DefocusEstimate(3.0, 0.1, False, Reason.OUT_OF_RANGE), "out_of_range"),
            (DefocusEstimate(math.inf, 0.1), "not_finite"),
            (DefocusEstimate(1.0, math.nan), "not_finite"),
        ],
    )
    def test_refused(self, RE, subscribed, camera, leds, objective, estimate, reason):
        one = subscribed(SingleShotAnalysis(Numbers(EAST, says=lambda _: estimate)))
        RE(bp.count([camera, leds, objective]))
        reading = one.reading("primary")
        assert (reading.accepted, reading.reason) == (False, reason)
        assert math.isnan(reading.value)

    def test_frames_that_cannot_be_used(self, RE, subscribed, make_camera, leds, objective):
        frame = np.full((16, 16), 100, np.uint16)
        camera = make_camera(render=lambda: frame, frame_shape=frame.shape)
        plain = subscribed(SingleShotAnalysis(Numbers(EAST)))
        told = subscribed(SingleShotAnalysis(Numbers(EAST), dark_level=100))
        RE(bp.count([camera, leds, objective]))
        assert plain.reading("primary").reason == "uniform"
        assert told.reading("primary").reason == "black"
        frame[:] = 4095
        full = subscribed(SingleShotAnalysis(Numbers(EAST), full_scale=4095))
        RE(bp.count([camera, leds, objective]))
        assert full.reading("primary").reason == "saturated"

    def test_a_colour_frame(self, RE, one, make_camera, leds, objective):
        frame = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)
        camera = make_camera(render=lambda: frame, frame_shape=frame.shape, dtype=np.uint8)
        RE(bp.count([camera, leds, objective]))
        with pytest.raises(AnalysisError, match=r"expected a grey frame, got one of shape \(16, 16, 3\)"):
            one.reading("primary")

    @pytest.mark.parametrize(
        ("pattern", "said"),
        [
            (SOUTH, "LED at"),
            ("half_annulus_right", "'leds' showed 'half_annulus_right'.*under a single LED"),
            ("line(na_from=0.35, na_to=0.45, angle_deg=0)", "'leds' showed 'line.*under a single LED"),
            ("off", "'leds' showed 'off'"),
        ],
    )
    def test_another_light(self, RE, one, camera, leds, objective, pattern, said):
        leds.set(pattern).wait(1)
        RE(bp.count([camera, leds, objective]))
        with pytest.raises(AnalysisError, match=said):
            one.reading("primary")

    def test_an_led_by_its_number(self, RE, one, camera, leds, objective):
        leds.set(f"leds(indices={leds.lit})").wait(1)
        RE(bp.count([camera, leds, objective]))
        assert one.reading("primary").accepted

    def test_an_array_that_was_not_calibrated(self, RE, one, camera, leds, objective):
        leds.calibrate(None)
        RE(bp.count([camera, leds, objective]))
        with pytest.raises(AnalysisError, match="'leds' was not calibrated.*run the plan calibrate_leds"):
            one.reading("primary")

    def test_no_array_in_the_event(self, RE, one, camera, objective):
        RE(bp.count([camera, objective]))
        with pytest.raises(AnalysisError, match="no document says under which LED"):
            one.reading("primary")

    def test_a_turret_that_turned(self, RE, one, camera, leds, objective):
        RE(bps.mv(objective.numerical_aperture, 0.75))
        RE(bp.count([camera, leds, objective]))
        with pytest.raises(AnalysisError, match="'single_shot' failed: made for LightOptics"):
            one.reading("primary")

    def test_optics_that_documents_do_not_say(self, RE, one, subscribed, camera, leds):
        told = subscribed(SingleShotAnalysis(Numbers(EAST), optics=OPTICS))
        RE(bp.count([camera, leds]))
        assert told.reading("primary").accepted
        with pytest.raises(AnalysisError, match=r"says the numerical_aperture.*optics=LightOptics"):
            one.reading("primary")

    def test_another_number_of_frames(self):
        with pytest.raises(ValueError, match="SingleShotAnalysis takes an estimator of defocus from 1 frame"):
            SingleShotAnalysis(Numbers(EAST, WEST))
        with pytest.raises(ValueError, match="TwoLEDAnalysis takes an estimator of defocus from 2 frame"):
            TwoLEDAnalysis(Numbers(EAST))
        with pytest.raises(ValueError, match="got 'model'"):
            SingleShotAnalysis("model")

    def test_parameters(self):
        made = SingleShotAnalysis(Numbers(EAST), name="mine", optics=OPTICS, full_scale=4095)
        assert made.parameters["name"] == "mine"
        assert made.parameters["estimator"] == {"kind": "numbers"}
        assert made.parameters["leds"] == [str(EAST)]
        assert made.parameters["optics"]["numerical_aperture"] == 0.5
        assert isinstance(made.estimator, DefocusEstimator)


class TestTwoLED:
    @pytest.fixture
    def exposures(self, RE, two, camera, leds, objective):
        """Return a function that takes exposures under LEDs, and what is read of each."""

        def exposures(*patterns, stream="primary", between=None, **md):
            readings = []

            @bpp.run_decorator(md=md)
            def plan():
                for pattern in patterns:
                    yield from bps.mv(leds, pattern)
                    yield from bps.trigger_and_read([camera, leds, objective], name=stream)
                    reading = two.reading(stream)
                    readings.append(reading.value if reading.accepted else str(reading.reason))

            RE(plan())
            return readings

        return exposures

    @pytest.mark.parametrize(
        ("patterns", "expected", "pairs"),
        [
            ((EAST, WEST), ["incomplete", 3.0], [(1, 2)]),
            ((WEST, EAST), ["incomplete", 3.0], [(2, 1)]),
            ((EAST, WEST, EAST, WEST), ["incomplete", 3.0, "incomplete", 7.0], [(1, 2), (3, 4)]),
            ((EAST, WEST, WEST, EAST), ["incomplete", 3.0, "incomplete", 7.0], [(1, 2), (4, 3)]),
            ((EAST, EAST, WEST), ["incomplete", "incomplete", 5.0], [(2, 3)]),
            ((EAST, WEST, EAST), ["incomplete", 3.0, "incomplete"], [(1, 2)]),
        ],
    )
    def test_pairs(self, two, exposures, patterns, expected, pairs):
        assert exposures(*patterns) == expected
        assert two.estimator.seen == pairs, "the frame under the first LED comes first"

    def test_a_first_half_is_of_this_run(self, exposures):
        assert exposures(EAST) == exposures(WEST) == ["incomplete"]

    def test_a_first_half_in_the_run_around(self, RE, two, camera, leds, objective):
        def exposure(pattern):
            yield from bps.mv(leds, pattern)
            yield from bps.trigger_and_read([camera, leds, objective], name="focus")

        @bpp.set_run_key_decorator("inner")
        @bpp.run_decorator()
        def inner():
            yield from exposure(WEST)
            assert two.reading("focus").reason == "incomplete"

        @bpp.run_decorator()
        def outer():
            yield from exposure(EAST)
            yield from inner()
            yield from exposure(WEST)
            assert two.reading("focus").value == 4.0

        RE(outer())
        assert not two._firsts, "no frame is kept when no run is open"

    def test_a_turret_that_turned_between(self, RE, two, camera, leds, objective):
        @bpp.run_decorator()
        def plan():
            yield from bps.trigger_and_read([camera, leds, objective])
            yield from bps.mv(leds, WEST, objective.numerical_aperture, 0.75)
            yield from bps.trigger_and_read([camera, leds, objective])

        RE(plan())
        assert two.reading("primary").reason == "incomplete"

    @pytest.mark.parametrize(("step_um", "expected"), [(1.0, "incomplete"), (0.02, "ok")])
    def test_an_axis_that_moved_between(self, RE, two, camera, leds, objective, step_um, expected):
        axis = SimulatedAxis(name="z", limits=(-10, 10))

        @bpp.run_decorator(md={"hints": {"dimensions": [(["z"], "primary")]}})
        def plan():
            for position_um, pattern in ((0.0, EAST), (step_um, WEST)):
                yield from bps.mv(axis, position_um, leds, pattern)
                yield from bps.trigger_and_read([camera, leds, objective, axis])

        RE(plan())
        assert two.reading("primary").reason == expected

    def test_leds_that_are_not_opposite(self, exposures):
        with pytest.raises(AnalysisError, match="LED at"):
            exposures(EAST, Single(0.4, 135.0))

    def test_a_half_that_cannot_be_used(self, RE, two, make_camera, leds, objective):
        usable = np.random.default_rng(0).integers(10, 1000, (16, 16)).astype(np.uint16)
        frames = iter([usable * 0, usable])
        camera = make_camera(render=lambda: next(frames), frame_shape=(16, 16))
        seen = []

        @bpp.run_decorator()
        def plan():
            for pattern in (EAST, WEST):
                yield from bps.mv(leds, pattern)
                yield from bps.trigger_and_read([camera, leds, objective])
                seen.append(str(two.reading("primary").reason))

        RE(plan())
        assert seen == ["black", "black"]

    @pytest.mark.parametrize("checkpoint_between", [True, False])
    def test_after_a_rewind(self, RE, two, camera, leds, objective, checkpoint_between):
        """The second half is taken again: with the first, or with the first taken again too."""

        @bpp.run_decorator()
        def plan():
            yield from bps.checkpoint()
            yield from bps.mv(leds, EAST)
            yield from bps.trigger_and_read([camera, leds, objective])
            if checkpoint_between:
                yield from bps.checkpoint()
            yield from bps.mv(leds, WEST)
            yield from bps.trigger_and_read([camera, leds, objective])
            yield Msg("pause")

        with pytest.raises(RunEngineInterrupted):
            RE(plan())
        RE.resume()
        reading = two.reading("primary")
        assert (reading.accepted, reading.seq_num) == (True, 2)
        assert two.estimator.seen == [(1, 2), (1, 3) if checkpoint_between else (3, 4)]

    def test_on_a_thread_of_its_own(self, RE, subscribed, camera, leds, objective):
        with ThreadPoolExecutor(4) as pool:
            two = subscribed(TwoLEDAnalysis(Numbers(EAST, WEST), executor=pool))

            @bpp.run_decorator()
            def plan():
                for pattern in (EAST, WEST, EAST, WEST):
                    yield from bps.mv(leds, pattern)
                    yield from bps.trigger_and_read([camera, leds, objective])

            RE(plan())
        assert two.reading("primary").value == 7.0


@pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")  # of Tiled's packages
def test_replayed_it_reads_the_same(RE, two, camera, leds, objective, tmp_path):
    live = []

    @bpp.run_decorator()
    def plan():
        for pattern in (EAST, WEST, WEST, EAST):
            yield from bps.mv(leds, pattern)
            # as some devices do that are set up in mid-run: the stream gets another descriptor
            yield from bps.configure(objective, {})
            yield from bps.trigger_and_read([camera, leds, objective])
            live.append(two.reading("primary"))

    with contextlib.closing(open_catalog(tmp_path / "data")) as catalog:
        catalog.subscribe(RE)
        RE(plan())
        run = catalog.client[-1]
        replayed = analyse(run, two)["primary"]
    shown = [(reading.reason, reading.seq_num, str(reading.value)) for reading in replayed]
    assert shown == [(reading.reason, reading.seq_num, str(reading.value)) for reading in live]
    assert [str(reading.reason) for reading in live] == ["incomplete", "ok", "incomplete", "ok"]


class TestRecorded:
    told = {f"objective_{key}": value for key, value in vars(OPTICS).items()}

    def test_optics(self):
        assert recorded_optics(self.told) == OPTICS
        assert recorded_optics({}, OPTICS) == OPTICS
        assert recorded_optics({"objective_numerical_aperture": 0.75}, OPTICS).numerical_aperture == 0.75
        # of another device, such as the pitch of the camera's pixels
        assert recorded_optics({**self.told, "camera_pixel_size_um": 6.5}) == OPTICS
        assert recorded_optics({key: np.float64(value) for key, value in self.told.items()}) == OPTICS

    def test_optics_that_are_told_in_part(self):
        with pytest.raises(AnalysisError, match="says the wavelength_um of.*'objective_wavelength_um'"):
            recorded_optics({"objective_numerical_aperture": 0.5})

    def test_several(self):
        with pytest.raises(AnalysisError, match="several objectives: left, right"):
            recorded_optics({"left_numerical_aperture": 0.5, "right_numerical_aperture": 0.5})

    def test_optics_that_cannot_be(self):
        with pytest.raises(ValueError, match="numerical_aperture is -1.0"):
            recorded_optics({**self.told, "objective_numerical_aperture": -1.0})

    def test_direction_without_a_pattern(self):
        """As of an array that says where its light comes from, and no more."""
        assert recorded_direction({"a_na_x": 0.1, "a_na_y": 0.2, "a_calibrated": True}) == (0.1, 0.2)
        with pytest.raises(AnalysisError, match="'a' was not calibrated"):
            recorded_direction({"a_na_x": 0.1, "a_na_y": 0.2})
        with pytest.raises(AnalysisError, match="'a' showed"):
            recorded_direction({"a_na_x": math.nan, "a_na_y": math.nan, "a_calibrated": True})


def test_other_analyses_take_the_frame_alone(RE, analysis, camera, leds):
    """`analyse_exposure` of an analysis that does not care."""
    RE(bp.count([camera, leds]))
    frame = camera.render()
    assert isinstance(analysis, SharpnessAnalysis)
    assert analysis.analyse_exposure(frame, {"leds": "off"}) == analysis.analyse_frame(frame)
