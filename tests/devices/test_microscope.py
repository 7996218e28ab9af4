# ruff: noqa: N803 - every bluesky user calls it RE

import math

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import numpy as np
import pytest

from bluesky_autofocus.defocus import TwoLEDFilter
from bluesky_autofocus.defocus.orientation import find_circles
from bluesky_autofocus.devices import SimulatedMicroscope
from bluesky_autofocus.frames import read_frame
from bluesky_autofocus.leds import Orientation, Single
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.simulation import LightCamera
from bluesky_autofocus.simulation.motion import AxisMechanics


@pytest.fixture
def make(tmp_path):
    def make(**options) -> SimulatedMicroscope:
        made = SimulatedMicroscope(
            name="microscope", **{"frame_shape": (256, 256), "frame_directory": tmp_path, **options}
        )
        made.leds.set(made.leds.nearest(0.4)).wait(1)
        return made

    return make


@pytest.fixture
def microscope(make):
    return make()


def test_everything_that_shapes_a_frame_is_in_its_event(RE, documents, microscope):
    RE(bp.count([microscope]))
    (event,) = documents.events("primary")
    assert event.keys() == {
        f"microscope_{key}"
        for key in (
            *(f"{axis}{part}" for axis in "xyz" for part in ("", "_setpoint")),
            *(f"leds{part}" for part in ("", "_na_x", "_na_y", "_brightness", "_calibrated")),
            *("camera_mean", "camera_exposure_s"),
            *("objective_numerical_aperture", "objective_wavelength_um", "objective_pixel_size_um"),
            *("objective_magnification", "objective_refractive_index"),
        )
    }
    assert event["microscope_leds"] == "single(na=0.4, angle_deg=0)"
    assert event["microscope_leds_na_x"] == pytest.approx(0.4)
    recorded = {key: event[f"microscope_objective_{key}"] for key in LightOptics().__dict__}
    assert LightOptics(**recorded) == microscope.objective.optics
    (resource,) = documents.named("stream_resource")
    frame = read_frame(resource, 0)
    assert frame.shape == (256, 256) and frame.dtype == np.uint16


def test_true_defocus_is_what_frames_say(RE, microscope):
    """The two-LED filter needs no training, so it tells whether z, its sign and the truth belong together."""
    estimator = TwoLEDFilter(microscope.objective.optics)
    for z in (-14.0, 9.0):
        microscope.z.set(z).wait(1)
        frames = []
        for led in estimator.leds:
            RE(bps.mv(microscope.leds, led))
            frames.append(microscope._render())
        assert microscope.defocus_um == pytest.approx(z - microscope.focus_um)
        assert estimator.estimate(*frames).defocus_um == pytest.approx(microscope.defocus_um, abs=1.0)


def test_light_and_exposure_scale_the_frame(microscope):
    def light():
        return float(microscope._render().mean()) - 100  # the camera's offset

    bright = light()
    microscope.camera.exposure_s.put(0.02)
    assert light() == pytest.approx(2 * bright, rel=0.01)
    microscope.leds.brightness.put(0.25)
    assert light() == pytest.approx(bright / 2, rel=0.01)
    microscope.leds.set("off").wait(1)
    assert light() == pytest.approx(0, abs=1)


def test_light_of_a_dome_falls_and_exposure_compensates(make):
    microscope = make(kind="empty")
    levels = {}
    for led in (Single(0.0), Single(0.45)):
        microscope.leds.set(led).wait(1)
        for name, seconds in (("plain", 0.01), ("compensated", microscope.leds.compensated_exposure_s(0.01))):
            microscope.camera.exposure_s.put(seconds)
            levels[led.na, name] = float(microscope._render().mean()) - 100
    assert levels[0.45, "plain"] / levels[0.0, "plain"] == pytest.approx(math.sqrt(1 - 0.45**2), rel=0.01)
    assert levels[0.45, "compensated"] == pytest.approx(levels[0.0, "compensated"], rel=0.01)


def test_the_array_may_lie_otherwise_than_is_known(make):
    microscope = make(array_orientation=Orientation(20.0), calibrated=False, frame_shape=(320, 320))
    assert not microscope.leds.is_calibrated and microscope.leds.na_y.get() == pytest.approx(0)
    circles = find_circles(microscope._render(), microscope.objective.optics)
    assert circles.angle_deg == pytest.approx(20, abs=1)
    known = make(array_orientation=Orientation(20.0))
    assert known.leds.is_calibrated and known.leds.orientation == Orientation(20.0)


class TestSlide:
    def test_a_small_move_shifts_the_frame(self, make):
        microscope = make(light_camera=LightCamera(vignetting=0, dust_per_mpx=0, electrons=1e4, gain=1))
        before = microscope._render().astype(float)
        step = microscope.image_formation.extent_um[1] / microscope.image_formation.sample_shape[1]
        moved_px = 12 * step / 0.3
        microscope.x.set(12 * step).wait(1)
        after = microscope._render().astype(float)
        product = np.fft.fft2(after - after.mean()).conj() * np.fft.fft2(before - before.mean())
        row, column = np.unravel_index(np.fft.ifft2(product).real.argmax(), before.shape)
        assert row == 0 and column == pytest.approx(moved_px, abs=1)

    def test_fields_are_different_and_come_back(self, microscope):
        first = microscope._render()
        microscope.reseed(1)
        pitch = microscope.field_um[0]
        focus = {}
        for x in (0, pitch, -pitch, 0):
            microscope.x.set(x).wait(1)
            focus.setdefault(x, microscope.focus_um)
            assert microscope.focus_um == focus[x]
        assert len(set(focus.values())) == 3
        microscope.reseed((0, 1))
        assert (microscope._render() == first).all()

    def test_focus_follows_the_slide(self, make):
        tilted = make(slide_tilt=(2.0, -1.0), unevenness_um=0.0)
        assert tilted.slide_um(1000.0, 1000.0) == pytest.approx(1.0)
        uneven = make(slide_tilt=(0.0, 0.0), unevenness_um=1.0)
        heights = [uneven.slide_um(x, y) for x in range(-9000, 9001, 300) for y in range(-9000, 9001, 300)]
        assert np.std(heights) == pytest.approx(1.0, rel=0.15)
        near = [uneven.slide_um(x, 0) for x in range(0, 300, 30)]
        assert np.ptp(near) < 1.0

    def test_a_seed_gives_the_same_slide(self, make):
        one, same, other = make(seed=4), make(seed=4), make(seed=5)
        assert (one._render() == same._render()).all()
        assert (one._render() != other._render()).any()


def test_axes_have_mechanics_and_limits(make):
    microscope = make(mechanics=AxisMechanics(velocity_um_s=10.0), limits_um=(-50, 40), z_um=-20.0)
    assert microscope.z.limits == (-50, 40)
    microscope.z.set(0).wait(1)
    assert microscope.clock.now_s() == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "stars"}, "kind is 'stars'.*cells, tissue, empty"),
        ({"slide_tilt": (math.nan, 0)}, "slide_tilt"),
        ({"frame_shape": (8, 8)}, "frame_shape"),
        ({"z_um": 300}, "position_um"),
    ],
)
def test_no_microscope(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
