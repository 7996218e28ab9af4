# ruff: noqa: N803 - every bluesky user calls it RE

import math

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import numpy as np
import pytest

from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.devices import SimulatedLiveCellMicroscope
from bluesky_autofocus.frames import read_frame
from bluesky_autofocus.simulation import Condenser, LightCamera
from bluesky_autofocus.simulation.light import _imaging
from bluesky_autofocus.simulation.motion import AxisMechanics

CLEAN = LightCamera(electrons=3e5, gain=0.1, full_well_e=1e6, vignetting=0, dust_per_mpx=0)


@pytest.fixture
def make(tmp_path):
    def make(**options) -> SimulatedLiveCellMicroscope:
        return SimulatedLiveCellMicroscope(
            name="microscope",
            **{
                "frame_shape": (192, 192),
                "condenser": Condenser(0.5, 5),
                "frame_directory": tmp_path,
                "light_camera": CLEAN,
                **options,
            },
        )

    return make


@pytest.fixture
def microscope(make):
    return make()


def look(microscope):
    frame = microscope._render().astype(float)
    return frame - frame.mean()


def displacement(before, after, side=128):
    """Return by how many pixels (row, column) a picture has moved, from its middle."""
    cut = (slice((before.shape[0] - side) // 2, (before.shape[0] + side) // 2),) * 2
    window = np.outer(np.hanning(side), np.hanning(side))
    one, two = (np.fft.fft2((frame[cut] - frame[cut].mean()) * window) for frame in (before, after))
    peak = np.fft.ifft2(one.conj() * two).real
    row, column = np.unravel_index(peak.argmax(), peak.shape)
    return tuple((int(at) + side // 2) % side - side // 2 for at in (row, column))


def test_everything_that_shapes_a_frame_and_the_truth_are_in_its_event(RE, documents, microscope):
    RE(bp.count([microscope]))
    (event,) = documents.events("primary")
    assert event.keys() == {
        f"microscope_{key}"
        for key in (
            *(f"{axis}{part}" for axis in "xyz" for part in ("", "_setpoint")),
            *("camera_mean", "camera_exposure_s", "condenser_aperture", "truth_focus_um"),
            *("objective_numerical_aperture", "objective_wavelength_um", "objective_pixel_size_um"),
            *("objective_magnification", "objective_refractive_index"),
        )
    }
    assert event["microscope_truth_focus_um"] == pytest.approx(microscope.focus_um)
    assert event["microscope_condenser_aperture"] == 0.5
    assert event["microscope_objective_numerical_aperture"] == 1.3
    (descriptor,) = documents.named("descriptor")
    assert descriptor["data_keys"]["microscope_truth_focus_um"]["units"] == "um"
    assert not any("truth" in key for hint in descriptor["hints"].values() for key in hint["fields"])
    (resource,) = documents.named("stream_resource")
    frame = read_frame(resource, 0)
    assert frame.shape == (192, 192) and frame.dtype == np.uint16
    assert frame.std() > 10 * math.sqrt(frame.mean() / 10)  # more than noise


def test_the_truth_is_recorded_beside_other_detectors(RE, documents, make):
    """A collector that reads `truth` alone labels its frames."""
    microscope = make(drift_um_min=0.5)

    def lapse():
        yield from bps.open_run()
        for _ in range(3):
            yield from bps.trigger_and_read([microscope.camera, microscope.truth])
            microscope.clock.advance(60)
        yield from bps.close_run()

    RE(lapse())
    focus = [event["microscope_truth_focus_um"] for event in documents.events("primary")]
    assert len(focus) == 3 and np.all(np.diff(focus) > 0.1)


def test_it_is_a_60x_over_a_nearly_flat_slide(tmp_path):
    microscope = SimulatedLiveCellMicroscope(name="m", frame_directory=tmp_path)
    assert microscope.image_formation.frame_shape == (512, 512)
    assert microscope.specimen_kind == "live_cells"
    assert microscope.z.limits == (-50, 50)
    assert microscope.depth_of_field_um == pytest.approx(0.57, abs=0.02)
    heights = [microscope.slide_um(x, y) for x in range(0, 2000, 100) for y in range(0, 2000, 100)]
    assert np.std(heights) < 1
    others = [
        SimulatedLiveCellMicroscope(name="m", frame_directory=tmp_path, frame_shape=(64, 64), seed=seed)
        for seed in range(8)
    ]
    spherical = [one.image_formation.aberrations.spherical_waves for one in others]
    assert 0.005 < np.abs(spherical).max() <= 0.02 and len(set(spherical)) == 8


def test_frames_are_in_focus_where_the_truth_is(microscope):
    """A stack recorded by the device, against that of the specimen alone."""
    view = microscope._here()
    assert microscope.focus_um == pytest.approx(microscope.slide_um(0, 0) + view.specimen.focus_um)
    frames = {}
    for offset in (0.0, 2.0):
        microscope.z.set(microscope.focus_um + offset).wait(1)
        assert microscope.defocus_um == pytest.approx(offset)
        frames[offset] = look(microscope)
        expected = view.intensity(
            microscope.condenser.na_xy, [view.specimen.focus_um + offset], microscope.condenser.weights
        )[0]
        assert np.corrcoef(frames[offset].ravel(), expected.ravel())[0, 1] > 0.98
    assert np.corrcoef(frames[0.0].ravel(), frames[2.0].ravel())[0, 1] < 0.7


def test_drift_moves_the_focus_and_nothing_else(make):
    microscope = make(drift_um_min=0.2, wander_um=0.0)
    start, first = microscope.focus_um, look(microscope)
    microscope.clock.advance(1200)  # a whole swing
    assert microscope.focus_um - start == pytest.approx(4.0)
    microscope.z.set(4.0).wait(1)  # follow it: the same picture
    assert np.corrcoef(look(microscope).ravel(), first.ravel())[0, 1] > 0.98
    rates = []
    for _ in range(20):
        before = microscope.focus_um
        microscope.clock.advance(60)
        rates.append(microscope.focus_um - before)
    assert np.mean(rates) == pytest.approx(0.2)
    assert 0.3 < min(rates) / 0.2 < 0.5 and 1.5 < max(rates) / 0.2 < 1.7
    assert make().drifted_um == 0


def test_time_before_the_microscope_was_made_does_not_count(make):
    clock = VirtualClock()
    clock.advance(6000)
    microscope = make(clock=clock, drift_um_min=1.0, wander_um=1.0)
    assert microscope.drifted_um == 0 and microscope.wandered_um == (0, 0)


def test_wandering_moves_the_picture_but_not_the_focus(make):
    microscope = make(wander_um=1.0)
    first, focus = look(microscope), microscope.focus_um
    at = []
    for seconds in (7, 120, 300):
        microscope.clock.advance(seconds)
        x_um, y_um = microscope.wandered_um
        at.append((x_um, y_um))
        assert microscope.focus_um == focus
        assert displacement(first, look(microscope)) == pytest.approx((y_um / 0.108, x_um / 0.108), abs=1.0)
    assert len(set(at)) == 3 and max(np.hypot(*one) for one in at) > 0.3


def test_wandering_is_a_random_walk_of_its_seed(make):
    one, same, other = (make(wander_um=0.5, seed=seed) for seed in (1, 1, 2))
    path = []
    for _ in range(600):
        one.clock.advance(60)
        path.append(one.wandered_um)
    same.clock.advance(36_000)
    other.clock.advance(36_000)
    assert same.wandered_um == pytest.approx(path[-1]) and other.wandered_um != path[-1]
    steps = np.diff(path, axis=0)
    assert steps.std() == pytest.approx(0.5, rel=0.1)
    assert np.abs(np.corrcoef(steps[:-1, 0], steps[1:, 0])[0, 1]) < 0.15
    assert np.corrcoef(*steps.T)[0, 1] < 0.15
    still = make()
    still.clock.advance(1e6)
    assert still.wandered_um == (0, 0)


def test_a_wandering_field_is_computed_once(make, monkeypatch):
    microscope = make(wander_um=2.0, drift_um_min=0.1)
    count = 0
    exit_spectrum = _imaging.FieldView._exit_spectrum

    def counted(self, shift):
        nonlocal count
        count += 1
        return exit_spectrum(self, shift)

    monkeypatch.setattr(_imaging.FieldView, "_exit_spectrum", counted)
    for _ in range(5):
        microscope._render()
        microscope.clock.advance(60)
    assert count == microscope.condenser.points


def test_the_stage_shows_other_fields(microscope):
    first, focus = look(microscope), microscope.focus_um
    microscope.x.set(1.08).wait(1)
    assert displacement(first, look(microscope)) == pytest.approx((0, -10), abs=1)
    microscope.x.set(microscope.field_um[0]).wait(1)
    assert microscope.focus_um != focus
    assert abs(np.corrcoef(look(microscope).ravel(), first.ravel())[0, 1]) < 0.3


def test_noise_begins_anew(make):
    one, same, other = make(seed=4), make(seed=4), make(seed=5)
    first = one._render()
    assert (first == same._render()).all() and (first != other._render()).any()
    assert (one._render() != first).any()
    one.reseed((4, 1))
    assert (one._render() == first).all()


def test_options_reach_the_specimen(make):
    microscope = make(specimen_options={"density_per_mm2": (1.0, 1.0), "focus_sd_um": 0.0})
    (cell,) = microscope._here().specimen.cells
    assert cell.focus_um == 0 and microscope.focus_um == microscope.slide_um(0, 0)
    with pytest.raises(ValueError, match="contrast"):
        make(specimen_options={"contrast": (2.0, 1.0)})._render()


def test_axes_have_mechanics(make):
    microscope = make(mechanics=AxisMechanics(velocity_um_s=10.0), z_um=-20.0)
    microscope.z.set(0).wait(1)
    assert microscope.clock.now_s() == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "stars"}, "kind is 'stars'.*live_cells"),
        ({"drift_um_min": math.nan}, "drift_um_min is nan: expected"),
        ({"wander_um": -1.0}, "wander_um is -1.0: expected"),
        ({"wander_um": math.inf}, "wander_um is inf: expected"),
        ({"unevenness_um": math.nan}, "unevenness_um"),
        ({"frame_shape": (8, 8)}, "frame_shape"),
        ({"z_um": 60}, "position_um"),
    ],
)
def test_no_microscope(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
