# ruff: noqa: N803 - every bluesky user calls it RE

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import numpy as np
import pytest
from bluesky.utils import FailedStatus
from ophyd.utils import LimitError

from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.devices import FRAME_OVERHEAD_S, SimulatedSEM
from bluesky_autofocus.frames import read_frame
from bluesky_autofocus.simulation import SEMImageFormation, scene
from bluesky_autofocus.simulation.motion import AxisMechanics


def frames(documents):
    resources = {doc["uid"]: doc for doc in documents.named("stream_resource")}
    return [
        read_frame(resources[doc["stream_resource"]], doc["indices"]["start"])
        for doc in documents.named("stream_datum")
    ]


def roughness(frame):
    """Mean square difference of neighbours at 4 px, relative: falls with defocus, noise is averaged out."""
    image = frame.astype(float).reshape(32, 4, 32, 4).mean(axis=(1, 3))
    return np.square(np.diff(image, axis=1)).mean() / image.mean() ** 2


def test_everything_that_shapes_a_frame_is_in_its_event(RE, documents, sem):
    RE(bp.count([sem]))
    assert set(documents.events("primary")[0]) == {
        "sem_working_distance",
        "sem_working_distance_setpoint",
        "sem_magnification",
        "sem_stigmator_x",
        "sem_stigmator_y",
        "sem_dwell_time",
        "sem_averaged_frames",
        "sem_drift_correction",
        "sem_pixel_size_um",
        "sem_convergence_mrad",
        "sem_camera_mean",
        "sem_camera_exposure_s",
    }
    (descriptor,) = documents.named("descriptor")
    units = {key: data.get("units") for key, data in descriptor["data_keys"].items()}
    assert units["sem_working_distance"] == "um"
    assert units["sem_dwell_time"] == "us"
    assert units["sem_camera_exposure_s"] == "s"
    assert descriptor["hints"]["sem"] == {"fields": ["sem_working_distance", "sem_camera_mean"]}


def test_sharpest_in_focus(RE, documents, sem):
    RE(bps.mv(sem.dwell_time, 10))
    RE(bp.list_scan([sem], sem.working_distance, [9800, 9950, 10_000, 10_050, 10_200]))
    scores = [roughness(frame) for frame in frames(documents)]
    assert np.argmax(scores) == 2
    assert scores[0] < scores[1] < scores[2] > scores[3] > scores[4]


def test_dwell_sets_the_exposure(RE, documents, sem):
    RE(bp.list_scan([sem], sem.dwell_time, [1, 5, 20]))
    exposures = [event["sem_camera_exposure_s"] for event in documents.events("primary")]
    assert exposures == pytest.approx([dwell * 1e-6 * 128**2 for dwell in (1, 5, 20)])


def test_the_longest_dwell_of_the_largest_frame(tmp_path):
    """4096 x 4096 px at 1 ms take hours, which no limit of a component may quietly refuse."""
    formation = SEMImageFormation(scene("grains", seed=1, shape=(64, 64)), frame_shape=(4096, 4096))
    sem = SimulatedSEM(name="sem", image_formation=formation, frame_directory=tmp_path)
    sem.dwell_time.put(1000.0)
    assert sem.camera.exposure_s.get() == pytest.approx(1e-3 * 4096**2)


@pytest.mark.parametrize(
    ("signal", "value"),
    [
        ("magnification", 10),
        ("stigmator_x", 101),
        ("stigmator_y", float("nan")),
        ("dwell_time", 0),
        ("averaged_frames", 0),
        ("averaged_frames", 2.5),
        ("drift_correction", 2),
    ],
)
def test_limits_of_the_controls(RE, sem, signal, value):
    with pytest.raises(FailedStatus) as failed:
        RE(bps.mv(getattr(sem, signal), value))
    assert isinstance(failed.value.__cause__, LimitError)


def test_the_safe_floor(RE, sem):
    with pytest.raises(LimitError, match="3999.0 um is not within the limits 4000.0"):
        RE(bps.mv(sem.working_distance, 3999.0))
    assert sem.working_distance.position == 10_030


def test_drift_and_motion_share_the_clock(make_sem):
    clock = VirtualClock()
    sem = make_sem(clock=clock, drift_um_s=0.5, mechanics=AxisMechanics(velocity_um_s=10.0))
    assert sem.focus_um == 10_000
    sem.working_distance.set(10_130).wait(10)
    assert clock.now_s() == 10
    assert sem.focus_um == 10_005
    sem.trigger().wait(10)
    assert clock.now_s() == pytest.approx(10 + sem.camera.exposure_s.get() + FRAME_OVERHEAD_S)


def test_a_seed_gives_the_same_frames(make_sem):
    one, same, other = make_sem(seed=4), make_sem(seed=4), make_sem(seed=5)
    assert (one._render() == same._render()).all()
    assert (one._render() != other._render()).any()


def test_depth_of_field_follows_the_magnification(sem):
    shallow = sem.depth_of_field_um
    sem.magnification.put(2000.0)
    assert sem.depth_of_field_um > 2 * shallow


class TestAveraging:
    """Several quick scans in place of a slow one."""

    def test_it_costs_the_dose_of_all_scans_and_the_time_between_them(self, RE, documents, make_sem):  # noqa: N803
        clock = VirtualClock()
        sem = make_sem(clock=clock)
        RE(bps.mv(sem.averaged_frames, 8, sem.dwell_time, 2.0))
        RE(bp.count([sem]))
        (event,) = documents.events("primary")
        assert event["sem_camera_exposure_s"] == pytest.approx(8 * 2e-6 * 128**2)
        assert (event["sem_averaged_frames"], event["sem_drift_correction"]) == (8, 1)
        assert clock.now_s() == pytest.approx(event["sem_camera_exposure_s"] + 8 * FRAME_OVERHEAD_S)

    def test_the_noise_is_that_of_a_slow_scan(self, make_sem):
        sem = make_sem(working_distance_um=10_000.0)

        def noise(dwell_us, scans):
            sem.dwell_time.put(dwell_us)
            sem.averaged_frames.put(scans)
            return np.std(sem._render().astype(float) - sem._render())

        assert noise(0.1, 16) == pytest.approx(noise(1.6, 1), rel=0.1)
        assert noise(0.1, 1) > 3 * noise(0.1, 16)

    def test_what_drifts_is_registered(self, make_sem):
        """A scan takes 16 ms and 100 ms more: 1.2 px from one to the next, 8 px from first to last."""
        sem = make_sem(working_distance_um=10_000.0, drift_px_s=10.0, clock=VirtualClock())
        sem.averaged_frames.put(8)
        sem.clock.advance(0.9)
        sharp = roughness(sem._render())
        sem.drift_correction.put(0)
        blurred = roughness(sem._render())
        sem.averaged_frames.put(1)
        single = roughness(sem._render())
        assert sharp == pytest.approx(single, rel=0.25)
        assert blurred < 0.5 * sharp

    def test_a_slow_scan_of_what_drifts_is_askew(self, make_sem):
        """In 1.6 s, at 5 px/s, the last line is 8.2 px further to the right than the first."""
        sem = make_sem(working_distance_um=10_000.0, drift_px_s=5.0, clock=VirtualClock())
        sem.dwell_time.put(100.0)
        sem.clock.advance(1.6384)
        drifting = sem._render().astype(float)
        sem.drift_px_s = 0.0
        still = sem._render().astype(float)

        def lag(line):
            one, other = (frame[line] - frame[line].mean() for frame in (still, drifting))
            return np.argmax(np.correlate(other, one, "full")) - (len(one) - 1)

        assert [lag(line) for line in (0, 63, 127)] == [0, 4, 8]
