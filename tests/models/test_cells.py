"""Finding cells and cutting them out, on simulated fields and on made-up masks."""

import dataclasses

import numpy as np
import pytest

from bluesky_autofocus.models.key_frame.cells import crops, find_cells, mask_of_cells, relative
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.simulation import AbbeImageFormation, Condenser, LightCamera, specimen

PATCH = 128
LIGHT = Condenser(0.4)


@pytest.fixture(scope="module")
def formation():
    return AbbeImageFormation(LightOptics(1.3, 0.55, 0.108, 60, 1.4), (384, 384), steepest_na=0.4)


def planes_of(formation, made, heights_um=(-1.0, 0.0, 1.0)):
    bright = formation.view(made).intensity(LIGHT.na_xy, heights_um, LIGHT.weights)
    return relative(LightCamera(vignetting=0.3).frame(bright, np.random.default_rng(0)))


@pytest.fixture(scope="module")
def field(formation):
    return specimen("live_cells", 5, formation, density_per_mm2=(1000.0, 1000.0))


@pytest.fixture(scope="module")
def planes(formation, field):
    return planes_of(formation, field)


def test_relative_frames_have_no_light_of_their_own():
    rng = np.random.default_rng(0)
    detail = rng.normal(0, 0.02, (2, 200, 200))
    slope = np.linspace(0.5, 1.5, 200)
    one, other = (relative(scale * slope * (1 + detail)) for scale in (np.float32(100), np.float32(3000)))
    np.testing.assert_allclose(one, other, atol=1e-4)
    assert abs(one[:, 40:-40, 40:-40].mean()) < 0.002
    assert one[:, 40:-40, 40:-40].std() == pytest.approx(0.02, rel=0.1)


def test_patches_are_on_cells(formation, field, planes):
    centres = find_cells(planes, PATCH)
    assert 1 <= len(centres) <= 4
    pixel_um, extent_um = formation.optics.pixel_size_um, np.array(formation.extent_um)
    for centre in centres:
        away = [
            # the field is one tile of an endless pattern
            (np.array(centre) * pixel_um - (one.y_um, one.x_um) + extent_um / 2) % extent_um - extent_um / 2
            for one in field.cells
        ]
        radii = [one.radius_um for one in field.cells]
        assert min(np.hypot(*one) / radius for one, radius in zip(away, radii, strict=True)) < 1


def test_an_empty_field_has_none(formation):
    assert find_cells(planes_of(formation, specimen("empty", 1, formation)), PATCH) == []


def test_nor_has_noise():
    noise = np.random.default_rng(0).normal(1000, 14, (7, 300, 300))
    assert find_cells(relative(noise), PATCH) == []


def test_a_speck_of_dirt_is_no_cell(formation):
    bare = specimen("empty", 1, formation)
    slices = bare.slices.copy()
    slices[0, 100:106, 100:106] *= 0.3
    planes = planes_of(formation, dataclasses.replace(bare, slices=slices))
    assert find_cells(planes, PATCH) == []


def test_patches_lie_within_the_frame():
    mask = np.zeros((300, 200), bool)
    mask[:80, :80] = True  # in a corner
    ((row, column),) = find_cells(np.zeros((3, 300, 200), np.float32), PATCH, mask)
    assert PATCH // 2 <= row <= 300 - PATCH // 2
    assert PATCH // 2 <= column <= 200 - PATCH // 2


def test_two_cells_are_two():
    mask = np.zeros((200, 500), bool)
    mask[50:150, 60:160] = mask[50:150, 330:430] = True
    found = sorted(find_cells(np.zeros((3, 200, 500), np.float32), PATCH, mask), key=lambda one: one[1])
    assert len(found) == 2
    assert found[0] == pytest.approx((100, 110), abs=4)
    assert found[1] == pytest.approx((100, 380), abs=4)


def test_no_more_than_asked_for():
    mask = np.ones((600, 600), bool)
    assert len(find_cells(np.zeros((3, 600, 600), np.float32), PATCH, mask, most=3)) == 3


def test_a_mask_of_ones_own(planes):
    nowhere = np.zeros(planes.shape[1:], bool)
    assert find_cells(planes, PATCH, nowhere) == []


@pytest.mark.parametrize(
    ("frame", "mask", "message"),
    [
        ((100, 300), None, r"frames have shape \(100, 300\): expected at least a patch of 128 px"),
        ((300, 300), (300, 200), r"the mask has shape \(300, 200\): expected that of the frames"),
    ],
)
def test_what_does_not_fit(frame, mask, message):
    given = None if mask is None else np.ones(mask)
    with pytest.raises(ValueError, match=message):
        find_cells(np.zeros((3, *frame), np.float32), PATCH, given)


def test_crops_are_scaled_together(planes):
    cut = crops(planes, [(64, 64), (200, 200)], PATCH)
    assert cut.shape == (2, 3, PATCH, PATCH)
    assert cut.std(axis=(1, 2, 3)) == pytest.approx(1, rel=0.05)
    # what differs between planes stays different
    deviations = cut.std(axis=(2, 3))
    assert np.ptp(deviations) > 0.05


def test_crops_at_the_edge_are_moved_inwards(planes):
    inside, outside = crops(planes, [(64, 64), (0, 0)], PATCH)
    np.testing.assert_array_equal(inside, outside)


def test_the_mask_is_where_detail_is():
    rng = np.random.default_rng(0)
    frames = 1000 + rng.normal(0, 5, (3, 300, 300))
    frames[:, 100:220, 80:200] += 60 * np.sin(np.arange(120) / 2)
    mask = mask_of_cells(relative(frames)).astype(bool)
    assert mask[120:200, 100:180].mean() > 0.95
    assert mask[:60].mean() < 0.05
