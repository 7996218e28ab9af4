"""All tiles of a frame scored at once."""

import numpy as np
import pytest

from bluesky_autofocus.sharpness import SPECTRAL_MOMENTS, TileScores, metric, score_tiles


def speckle(shape=(192, 256), seed=0):
    rng = np.random.default_rng(seed)
    return (1000 + 200 * rng.normal(size=shape)).clip(0).astype(np.uint16)


def wave(angle_deg, period_px=24.0, size_px=256):
    y, x = np.mgrid[:size_px, :size_px]
    along = x * np.cos(np.radians(angle_deg)) + y * np.sin(np.radians(angle_deg))
    return (1000 + 300 * np.sin(2 * np.pi * along / period_px)).astype(np.float32)


def test_one_tile_is_the_default_metric_of_the_frame():
    frame = speckle((193, 255))
    assert score_tiles(frame, (1, 1)).sharpness.item() == pytest.approx(
        metric("smoothed_laplacian")(frame), rel=1e-4
    )


def test_each_tile_is_that_part_of_the_frame():
    frame = speckle((384, 512))
    frame[96:192, 128:256] = 1000 + 3 * (frame[96:192, 128:256].astype(int) - 1000).clip(-300, 300)
    scores = score_tiles(frame)
    assert np.unravel_index(scores.sharpness.argmax(), (4, 4)) == (1, 1)
    alone = metric("smoothed_laplacian", normalise=False)(frame[:96, :128]) / frame.mean() ** 2
    assert scores.sharpness[0, 0] == pytest.approx(alone, rel=0.1)  # but for what lies across its border


def test_the_mean_of_the_tiles_is_the_score_of_the_frame():
    frame = speckle((384, 512))
    assert score_tiles(frame, (3, 4)).sharpness.mean() == pytest.approx(
        metric("smoothed_laplacian")(frame), rel=1e-2
    )


@pytest.mark.parametrize("angle_deg", [0, 20, 45, 70, 90, 110, 135, 160])
def test_moments_tell_direction_and_frequency_of_a_wave(angle_deg):
    # in the middle tile, since waves are mirrored at the border
    moments = dict(zip(SPECTRAL_MOMENTS, score_tiles(wave(angle_deg), (3, 3)).moments[:, 1, 1], strict=True))
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    second = c**2 * moments[2, 0] + 2 * c * s * moments[1, 1] + s**2 * moments[0, 2]
    fourth = sum(
        ways * moments[p, q] * c**p * s**q
        for (p, q), ways in zip(SPECTRAL_MOMENTS[3:], (1, 4, 6, 4, 1), strict=True)
    )
    # along the wave all of it
    assert second == pytest.approx(moments[2, 0] + moments[0, 2], rel=0.01)
    assert fourth == pytest.approx(moments[4, 0] + 2 * moments[2, 2] + moments[0, 4], rel=0.01)
    # at half the resolution; differences of pixels are a little less than derivatives
    assert fourth / second == pytest.approx((2 * np.pi / 12.0) ** 2, rel=0.12)


def test_waves_of_all_directions_count_the_same():
    totals = []
    for angle_deg in range(0, 180, 15):
        m20, _, m02, *_ = score_tiles(wave(angle_deg), (3, 3)).moments[:, 1, 1]
        totals.append(m20 + m02)
    assert np.ptp(totals) < 0.02 * np.mean(totals)


def test_brightness_does_not_matter():
    frame = speckle().astype(np.float32)
    once, twice = score_tiles(frame), score_tiles(2.5 * frame)
    assert twice.sharpness == pytest.approx(once.sharpness, rel=1e-5)
    assert twice.moments == pytest.approx(once.moments, rel=1e-4, abs=1e-9)


def test_colour_frames_are_scored_in_grey():
    frame = speckle().clip(0, 255).astype(np.uint8)
    assert score_tiles(np.dstack([frame] * 3)).sharpness == pytest.approx(score_tiles(frame).sharpness)


def test_as_text_and_back():
    scores = score_tiles(speckle(), (2, 3))
    again = TileScores.of_json(scores.as_json())
    assert (
        again.frame_px == (192, 256) and again.sharpness.shape == (2, 3) and again.moments.shape == (8, 2, 3)
    )
    assert again.sharpness == pytest.approx(scores.sharpness, rel=1e-6)
    assert again.moments == pytest.approx(scores.moments, rel=1e-6)


@pytest.mark.parametrize("grid", [(0, 4), (4, -1), (2.0, 2), 4, (1, 2, 3), None])
def test_a_grid_is_two_positive_integers(grid):
    with pytest.raises(ValueError, match="grid must be"):
        score_tiles(speckle(), grid)


def test_tiles_too_small():
    with pytest.raises(
        ValueError, match="20 x 4 tiles of at least 16 px does not fit in a frame of 192 rows x 256"
    ):
        score_tiles(speckle(), (20, 4))


def test_a_black_frame():
    with pytest.raises(ValueError, match="mean of the frame"):
        score_tiles(np.zeros((64, 64), np.uint8))
