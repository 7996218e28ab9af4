"""The simulated fluorescence microscope: where focus is, what its frames show, and what is recorded."""

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky import plans as bp

from bluesky_autofocus.devices import SimulatedFluorescenceMicroscope
from bluesky_autofocus.frames import install_frame_routing
from bluesky_autofocus.sharpness import metric


@pytest.fixture
def make(tmp_path):
    def make(**options):
        options = {"frame_shape": (128, 160), "nuclei_options": {"density_per_mm2": (600, 600)}} | options
        return SimulatedFluorescenceMicroscope(name="m", frame_directory=tmp_path, **options)

    return make


def frame_at(microscope, z_um):
    microscope.z.set(z_um).wait()
    return microscope._render()


def test_focus_is_where_frames_are_sharpest(make):
    microscope = make(seed=3)
    score = metric("smoothed_laplacian")
    steps = np.arange(-8, 8.1, 1.0)
    scores = [score(frame_at(microscope, microscope.focus_um + z)) for z in steps]
    assert abs(steps[int(np.argmax(scores))]) <= 2


def test_the_slide_is_not_level(make):
    microscope = make(slide_tilt=(5.0, 0.0), unevenness_um=0.0)
    low = microscope.focus_um
    microscope.x.set(1000).wait()
    assert microscope.focus_um - low == pytest.approx(5.0)


def test_moving_by_a_pixel_shifts_the_frame(make):
    microscope = make(slide_tilt=(0, 0), unevenness_um=0.0)
    field = microscope._field((0, 0)).image(0.0)
    microscope.x.set(10 * 0.656).wait()
    frame = frame_at(microscope, 0.0)
    expected = microscope.light_camera.noiseless(np.roll(field, -10, 1))
    assert np.corrcoef(frame.ravel(), expected.ravel())[0, 1] > 0.99


def test_another_field_is_another_one(make):
    microscope = make()
    first = frame_at(microscope, 0.0).astype(float)
    microscope.x.set(microscope.field_um[0]).wait()
    second = frame_at(microscope, 0.0).astype(float)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.5


def test_the_truth_is_in_every_event(make):
    microscope = make(seed=1)
    run_engine = RunEngine()
    install_frame_routing(run_engine)
    events, descriptors = [], []
    run_engine.subscribe(lambda name, doc: events.append(doc), "event")
    run_engine.subscribe(lambda name, doc: descriptors.append(doc), "descriptor")
    run_engine(bp.scan([microscope], microscope.z, -10, 10, 3))
    assert [doc["data"]["m_truth_focus_um"] for doc in events] == [pytest.approx(microscope.focus_um)] * 3
    assert events[0]["data"]["m_objective_pixel_size_um"] == 0.656
    assert descriptors[0]["data_keys"]["m_camera_image"]["shape"][-2:] == [128, 160]


def test_longer_exposures_are_brighter(make):
    microscope = make()
    short = frame_at(microscope, 0.0).mean()
    microscope.camera.exposure_s.put(0.02)
    assert frame_at(microscope, 0.0).mean() - 100 == pytest.approx(2 * (short - 100), rel=0.02)


def test_far_out_nothing_changes_any_more(make):
    microscope = make()
    assert frame_at(microscope, 90.0).std() == pytest.approx(frame_at(microscope, 99.0).std(), rel=0.05)


@pytest.mark.parametrize("options", [{"frame_shape": (32, 32)}, {"nuclei_options": {"heights_um": -1}}])
def test_bad_input(make, options):
    with pytest.raises(ValueError, match="expected"):
        make(**options)
