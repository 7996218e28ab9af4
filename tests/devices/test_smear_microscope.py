# ruff: noqa: N803 - every bluesky user calls it RE

import math

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest

from bluesky_autofocus.clock import VirtualClock, WallClock
from bluesky_autofocus.devices import SimulatedSmearMicroscope
from bluesky_autofocus.frames import read_frame
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.simulation import SmearCamera
from bluesky_autofocus.simulation.motion import AxisMechanics

PATIENCE_S = 20
QUIET = SmearCamera(electrons=1e9, read_noise_e=0.0)
CROWDED = {"density_per_mm2": (4000.0, 4000.0), "covered": (1.0, 1.0), "stain": (1.0, 1.0)}


@pytest.fixture
def make(tmp_path):
    def make(**options) -> SimulatedSmearMicroscope:
        return SimulatedSmearMicroscope(
            name="microscope",
            **{
                "frame_shape": (144, 192),
                "frame_directory": tmp_path,
                "smear_options": CROWDED,
                **options,
            },
        )

    return make


@pytest.fixture
def microscope(make):
    return make()


def look(microscope):
    return microscope._render_at(microscope.clock.now_s())


def same(one, two):
    """Whether two frames show the same, up to a little noise."""
    return np.abs(one.astype(int) - two).max() <= 2


def run_and_read(microscope, n=4, wait_s=0.0):
    """Return a plan that takes frames while something runs."""

    @bpp.run_decorator(md={})
    def plan():
        for _ in range(n):
            yield from bps.trigger_and_read([microscope])
            yield from bps.sleep(wait_s)

    return plan()


class TestEvents:
    def test_everything_that_shapes_a_frame_and_the_truth_are_there(self, RE, documents, microscope):
        RE(bp.count([microscope]))
        (event,) = documents.events("primary")
        parts = ("", "_setpoint", "_velocity", "_actual_velocity", "_watchdog_tripped", "_time_s")
        assert event.keys() == {
            f"microscope_{key}"
            for key in (
                *(f"{axis}{part}" for axis in "xyz" for part in parts),
                *("camera_mean", "camera_exposure_s", "camera_transfer_s", "camera_time_s"),
                *("truth_focus_um", "truth_defocus_um"),
                *("objective_numerical_aperture", "objective_wavelength_um", "objective_pixel_size_um"),
                *("objective_magnification", "objective_refractive_index"),
            )
        }
        recorded = {key: event[f"microscope_objective_{key}"] for key in LightOptics().__dict__}
        assert LightOptics(**recorded) == LightOptics(0.4, 0.54, 0.33, 20.0)
        (descriptor,) = documents.named("descriptor")
        key = descriptor["data_keys"]["microscope_camera_image"]
        assert key["shape"] == [144, 192, 3] and key["dtype_numpy"] == "|u1"
        assert key["dims"] == ["y", "x", "colour"]
        assert not any("truth" in field for hint in descriptor["hints"].values() for field in hint["fields"])

    def test_frames_are_in_colour(self, RE, documents, microscope):
        RE(bp.count([microscope], num=2))
        (resource,) = documents.named("stream_resource")
        frame = read_frame(resource, 1)
        assert frame.shape == (144, 192, 3) and frame.dtype == np.uint8
        red, green, blue = frame.reshape(-1, 3).mean(0)
        assert green < min(red, blue) - 2, "haematoxylin and eosin take most of the green"
        assert documents.events("primary")[1]["microscope_camera_mean"] == pytest.approx(frame.mean())
        assert (frame != read_frame(resource, 0)).any(), "the noise is new"

    def test_truth_is_what_frames_say(self, RE, documents, make):
        microscope = make(smear_camera=QUIET, slide_tilt=(0, 0), seed=2)
        focus = microscope.focus_um
        RE(bp.scan([microscope], microscope.z, focus - 5, focus + 5, 21))
        events = documents.events("primary")
        defocus = [event["microscope_truth_defocus_um"] for event in events]
        assert defocus == pytest.approx(np.linspace(-5, 5, 21), abs=1e-9)
        assert {event["microscope_truth_focus_um"] for event in events} == {focus}
        (resource,) = documents.named("stream_resource")
        green = [read_frame(resource, n)[..., 1].astype(float) for n in range(21)]
        sharpness = [(np.diff(frame, axis=1) ** 2).mean() for frame in green]
        assert abs(defocus[int(np.argmax(sharpness))]) <= 1.0


class TestMotion:
    def test_a_frame_is_that_of_the_middle_of_its_exposure(self, RE, documents, make):
        microscope = make(smear_camera=QUIET)
        microscope.camera.exposure_s.put(0.01)
        microscope.z.run(100.0)
        RE(run_and_read(microscope))
        events = documents.events("primary")
        (resource,) = documents.named("stream_resource")
        still = make(smear_camera=QUIET)
        for n, event in enumerate(events):
            middle_s = 0.01 * n + 0.005
            assert event["microscope_camera_time_s"] == pytest.approx(middle_s)
            assert event["microscope_z_time_s"] == pytest.approx(0.01 * (n + 1))
            assert event["microscope_z"] == pytest.approx(100 * 0.01 * (n + 1))
            assert event["microscope_truth_defocus_um"] == pytest.approx(100 * middle_s - still.focus_um)
            still.z.set(100 * middle_s).wait(PATIENCE_S)
            assert same(read_frame(resource, n), look(still))

    def test_transfer_takes_time(self, RE, documents, make):
        microscope = make(transfer_s=0.03)
        microscope.z.run(100.0)
        RE(run_and_read(microscope))
        events = documents.events("primary")
        times = [event["microscope_camera_time_s"] for event in events]
        assert times == pytest.approx([0.005, 0.045, 0.085, 0.125])
        assert [event["microscope_z"] for event in events] == pytest.approx([4, 8, 12, 16])
        assert events[0]["microscope_camera_transfer_s"] == 0.03

    def test_a_command_after_the_exposure_changes_no_frame(self, make):
        """The axis may turn while the frame is being transferred."""
        microscope = make()
        microscope.z.run(100.0)
        microscope.clock.advance(0.1)
        microscope.z.run(-100.0)
        microscope.clock.advance(0.1)
        microscope._render_at(0.08)
        assert microscope.frame_defocus_um == pytest.approx(8.0 - microscope.focus_um)

    def test_the_stage_runs_too(self, RE, documents, make):
        microscope = make(smear_camera=QUIET, slide_tilt=(0, 0), unevenness_um=0.0)
        z = microscope.focus_um
        microscope.z.set(z).wait(PATIENCE_S)
        first = look(microscope)
        microscope.x.run(330.0)  # 1000 pixels a second
        RE(run_and_read(microscope, 3))
        (resource,) = documents.named("stream_resource")
        for n in range(3):
            moved = np.roll(first, -(5 + 10 * n), 1)
            difference = np.abs(read_frame(resource, n).astype(int) - moved)
            assert np.median(difference) <= 1 and difference.mean() < 1, n

    def test_mechanics_limits_and_watchdog(self, make):
        microscope = make(
            mechanics=AxisMechanics(velocity_um_s=50, acceleration_um_s2=1000),
            stage_mechanics=AxisMechanics(velocity_um_s=500),
            limits_um=(-20, 30),
            z_um=-10,
            watchdog_s=0.2,
            stage_velocity_limit_um_s=400,
        )
        assert microscope.z.limits == (-20, 30)
        assert microscope.z.velocity_limit_um_s == 223.7
        assert microscope.x.velocity_limit_um_s == microscope.y.velocity_limit_um_s == 400
        microscope.z.run(-200)
        microscope.clock.advance(1)
        assert microscope.z.position == -20
        microscope.z.run(10)
        microscope.clock.advance(1)
        assert microscope.z.watchdog_tripped.get() == 1 and microscope.z.position < -17
        microscope.x.run(10)
        microscope.clock.advance(1)
        assert microscope.x.running, "the watchdog is for what may crash"

    def test_on_the_wall_clock(self, RE, documents, make):
        microscope = make(clock=WallClock(speed=5.0))
        start_s = microscope.clock.now_s()
        microscope.z.run(20.0)
        RE(run_and_read(microscope, 3, 0.01))
        events = documents.events("primary")
        for event in events:
            assert event["microscope_camera_time_s"] < event["microscope_z_time_s"]
            # z was read later than the frame was taken, by the time between
            gone_s = event["microscope_z_time_s"] - event["microscope_camera_time_s"]
            moved = event["microscope_z"] - 20 * gone_s - event["microscope_truth_focus_um"]
            assert event["microscope_truth_defocus_um"] == pytest.approx(moved, abs=1e-6)
        assert events[0]["microscope_camera_time_s"] > start_s
        microscope.z.stop()


class TestSlide:
    def test_fields_are_different_and_come_back(self, microscope):
        first, focus = look(microscope), microscope.focus_um
        pitch = microscope.field_um[0]
        microscope.reseed(1)
        for x in (pitch, -pitch):
            microscope.x.set(x).wait(PATIENCE_S)
            assert microscope.focus_um != focus
            assert np.abs(look(microscope).astype(int) - first).mean() > 3
        microscope.x.set(0).wait(PATIENCE_S)
        microscope.reseed((0, 1))
        assert (look(microscope) == first).all() and microscope.focus_um == focus

    def test_focus_follows_the_slide(self, make):
        tilted = make(slide_tilt=(2.0, -1.0), unevenness_um=0.0)
        assert tilted.slide_um(1000, 1000) == pytest.approx(1.0)
        focus = []
        for x in (0.0, 40 * tilted.field_um[0]):
            tilted.x.set(x).wait(PATIENCE_S)
            focus.append(tilted.focus_um)
        assert focus[1] - focus[0] == pytest.approx(80e-3 * tilted.field_um[0], abs=0.5)
        width_um, height_um = 192 * 0.33, 144 * 0.33
        assert tilted._field((0, 0)).tilt_um == pytest.approx((-1e-3 * height_um, 2e-3 * width_um))

    def test_a_field_is_painted_once(self, make):
        microscope = make()
        field = microscope._field((0, 0))
        for x in (0, 5, 10):
            microscope.x.set(x).wait(PATIENCE_S)
            look(microscope)
        assert microscope._field((0, 0)) is field
        for index in ((0, 1), (0, 2)):
            microscope._field(index)
        assert microscope._field((0, 0)) is not field, "only a few are kept"

    def test_a_seed_gives_a_slide(self, make):
        one, again, other = make(seed=4), make(seed=4), make(seed=5)
        assert (look(one) == look(again)).all() and one.focus_um == again.focus_um
        assert (look(one) != look(other)).any()
        assert one.slide_um(500, 0) != other.slide_um(500, 0)

    def test_exposure_scales_the_frame(self, microscope):
        bright = look(microscope).mean()
        microscope.camera.exposure_s.put(0.005)
        assert look(microscope).mean() == pytest.approx(bright / 2, abs=0.5)


def test_it_shows_what_there_is_before_a_frame(microscope):
    microscope.z.set(7.0).wait(PATIENCE_S)
    assert microscope.truth.defocus_um.get() == microscope.defocus_um == 7.0 - microscope.focus_um
    look(microscope)
    microscope.z.set(0.0).wait(PATIENCE_S)
    assert microscope.truth.defocus_um.get() == 7.0 - microscope.focus_um, "that of the newest frame"
    assert microscope.depth_of_field_um == pytest.approx(4.2, abs=0.01)


def test_stopping_the_microscope_stops_all_that_runs(microscope):
    for axis in (microscope.z, microscope.x):
        axis.run(10.0)
    microscope.stop()
    assert not microscope.z.running and not microscope.x.running


def test_many_fields_in_one_plan(RE, documents, make):
    """A stage scan with autofocus would look like this."""
    microscope = make(clock=VirtualClock())
    pitch = microscope.field_um[0]
    RE(bp.scan([microscope], microscope.x, -pitch, pitch, 3))
    assert len({event["microscope_truth_focus_um"] for event in documents.events("primary")}) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frame_shape": (8, 8)}, "shape_px"),
        ({"slide_tilt": (math.nan, 0)}, "slide_tilt"),
        ({"unevenness_um": math.inf}, "unevenness_um"),
        ({"z_um": 300}, "position_um"),
        ({"transfer_s": -1}, "transfer_s"),
        ({"velocity_limit_um_s": 0}, "velocity_limit_um_s"),
        ({"smear_options": {"covered": (2, 3)}}, "covered"),
    ],
)
def test_no_microscope(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
