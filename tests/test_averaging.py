"""Quick frames in place of a slow scan: the same noise, and no blur by drift."""

import numpy as np
import pytest

from bluesky_autofocus.averaging import average_frames
from bluesky_autofocus.simulation import SEMImageFormation, scene

SHAPE = (160, 192)


@pytest.fixture(scope="module", params=["grains", "particles", "tissue"])
def formation(request):
    return SEMImageFormation(scene(request.param, seed=2, shape=(320, 320)), frame_shape=SHAPE)


def taken(formation, offsets_px, *, defocus_um=0.0, dwell_us=1.0):
    rng = np.random.default_rng(5)
    return [
        formation.image(defocus_um, magnification=5000, dwell_us=dwell_us, offset_px=offset, rng=rng)
        for offset in offsets_px
    ]


DRIFT_PX = [(-0.35 * k, 1.3 * k) for k in range(6)]


@pytest.mark.parametrize(("defocus_um", "dwell_us", "within_px"), [(0, 1, 0.1), (0, 0.1, 0.2), (20, 1, 0.2)])
def test_shifts_are_found_to_a_part_of_a_pixel(formation, defocus_um, dwell_us, within_px):
    """Also at 30 electrons a pixel, and far out of focus, where high frequencies are noise."""
    averaged = average_frames(taken(formation, DRIFT_PX, defocus_um=defocus_um, dwell_us=dwell_us))
    assert np.abs(averaged.shifts_px - DRIFT_PX).max() < within_px
    assert averaged.shifts_px[0].tolist() == [0.0, 0.0]


def test_the_mean_lies_where_the_first_frame_does_and_is_as_sharp(formation):
    truth = 255 * (0.05 + 0.9 * formation.blurred(0.0, magnification=5000))
    inner = np.s_[16:-16, 16:-16]

    def error(frame):
        return np.sqrt(np.mean((frame - truth)[inner] ** 2))

    frames = taken(formation, DRIFT_PX)
    single, registered = error(frames[0]), error(average_frames(frames).frame)
    assert registered < 0.6 * single  # 1 / sqrt(6) is 0.41; moving by parts of a pixel costs a little
    assert error(average_frames(frames, register=False).frame) > 2 * registered


def test_noise_falls_by_the_root_of_their_number(formation):
    still = taken(formation, [(0.0, 0.0)] * 9)
    noise = np.std(still[0].astype(float) - still[1])
    averaged = [average_frames(still[:4]).frame, average_frames(still[4:8]).frame]
    assert np.std(averaged[0] - averaged[1]) == pytest.approx(noise / 2, rel=0.06)


def test_where_a_part_of_the_frames_shows_nothing_fewer_are_averaged(formation):
    """The right columns have drifted out of the later frames' first one; none is dark or doubled."""
    frames = taken(formation, [(0.0, 0.0), (0.0, 8.0)])
    averaged = average_frames(frames).frame
    assert averaged[:, -1] == pytest.approx(frames[0][:, -1].astype(float), abs=1e-3)
    assert averaged[:, :8].mean() == pytest.approx(frames[0][:, :8].mean(), rel=0.05)


def test_noise_is_not_registered_upon_itself():
    """Frames of nothing stay where they are: moved to where their noise agrees, it would not average out."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        averaged = average_frames([rng.normal(100, 10, SHAPE) for _ in range(4)])
        assert not averaged.shifts_px.any()
        assert np.std(averaged.frame) == pytest.approx(5.0, rel=0.03)


def test_one_frame_and_no_registration(formation):
    (frame,) = taken(formation, [(0.0, 0.0)])
    assert (average_frames([frame]).frame == frame).all()
    two = average_frames([frame, frame + np.uint8(2)], register=False)
    assert two.frame == pytest.approx(frame + 1.0)
    assert not two.shifts_px.any()


@pytest.mark.parametrize(
    ("frames", "options", "says"),
    [
        ([], {}, "one or more grey frames"),
        ([np.zeros((4, 4, 3))], {}, "one or more grey frames"),
        ([np.zeros((4, 4)), np.zeros((4, 5))], {}, r"\(4, 4\), \(4, 5\)"),
        ([np.zeros((4, 4))], {"most_px": 0}, "most_px must be positive"),
    ],
)
def test_what_makes_no_sense(frames, options, says):
    with pytest.raises(ValueError, match=says):
        average_frames(frames, **options)
