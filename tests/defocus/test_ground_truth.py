"""Where a simulated stack is in focus, and when it is better not to say."""

import numpy as np
import pytest

from bluesky_autofocus.defocus.ground_truth import GroundTruth, focus_of_stack
from bluesky_autofocus.leds import parse_pattern, quasi_dome
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.records import Reason
from bluesky_autofocus.simulation import AbbeImageFormation, LightCamera, specimen

HALF_ANNULUS = parse_pattern("half_annulus_top", LightOptics().numerical_aperture)
Z_UM = np.arange(-16.0, 17.0)
FOCUS_UM = 1.37
"""Where the stage brings the plane z = 0 of the specimen into focus."""


@pytest.fixture(scope="module")
def stack():
    """Return a function that returns the frames of a stack, and the position of the specimen's focus."""
    formation = AbbeImageFormation(frame_shape=(256, 256))
    geometry = quasi_dome()
    leds = geometry.na_xy[list(geometry.select(HALF_ANNULUS))]
    made = {}

    def stack(kind, seed=0, electrons=2000.0):
        if (kind, seed) not in made:
            one = specimen(kind, [3, seed], formation)
            view = formation.view(one)
            made[kind, seed] = view.intensity(leds, Z_UM - FOCUS_UM) / len(leds), FOCUS_UM + view.focus_um
        intensity, focus_um = made[kind, seed]
        camera = LightCamera(electrons=electrons)
        return camera.frame(intensity, np.random.default_rng([7, seed])), focus_um

    return stack


@pytest.mark.parametrize("kind", ["tissue", "cells"])
def test_a_noisy_stack_gives_the_focus_of_the_simulation(stack, kind):
    errors, sigmas = [], []
    for seed in range(4):
        frames, focus_um = stack(kind, seed)
        truth = focus_of_stack(frames, Z_UM)
        assert truth.trusted
        assert truth.reason is Reason.OK
        errors.append(truth.position_um - focus_um)
        sigmas.append(truth.sigma_um)
    assert abs(np.mean(errors)) < 0.2
    assert np.std(errors) < 0.15
    assert max(sigmas) < 0.4


def test_the_published_maximum(stack):
    frames, focus_um = stack("tissue")
    truth = focus_of_stack(frames, Z_UM, at="maximum")
    assert truth.position_um == pytest.approx(focus_um, abs=0.9)
    best = Z_UM[np.argmax(truth.scores)]
    assert 0 < abs(truth.position_um - best) <= 0.75  # between the planes


def test_neither_order_nor_step_nor_a_lamp_that_changes_matters(stack):
    frames, _ = stack("tissue")
    expected = focus_of_stack(frames, Z_UM)
    shuffled = np.random.default_rng(0).permutation(len(Z_UM))
    assert focus_of_stack(frames[shuffled], Z_UM[shuffled]) == expected
    assert focus_of_stack(frames[::2], Z_UM[::2]).position_um == pytest.approx(expected.position_um, abs=0.15)
    lamp = np.random.default_rng(1).uniform(0.6, 1.4, len(Z_UM))[:, None, None]
    dimmed = (frames - 100.0) * lamp
    assert focus_of_stack(dimmed, Z_UM).position_um == pytest.approx(expected.position_um, abs=0.02)


def test_frames_are_read_one_at_a_time(stack):
    frames, _ = stack("tissue")
    alive = []

    def one_by_one():
        for frame in frames:
            assert len(alive) <= 1
            alive.append(1)
            yield frame
            alive.pop()

    assert focus_of_stack(one_by_one(), Z_UM) == focus_of_stack(frames, Z_UM)


def test_a_field_without_specimen(stack):
    for seed in range(3):
        frames, _ = stack("empty", seed)
        truth = focus_of_stack(frames, Z_UM)
        assert not truth.trusted
        assert truth.reason is Reason.FLAT


@pytest.mark.parametrize("kind", ["cells", "tissue"])
def test_a_stack_without_its_focus_is_never_trusted(stack, kind):
    for seed in range(4):
        frames, focus_um = stack(kind, seed)
        for low in range(-16, 9, 2):
            for high in range(low + 7, 17, 3):
                if low - 1 <= focus_um <= high + 1:
                    continue
                inside = (Z_UM >= low) & (Z_UM <= high)
                assert not focus_of_stack(frames[inside], Z_UM[inside]).trusted, (seed, low, high)


def test_a_frame_that_stands_out_alone(stack):
    frames, _ = stack("empty")
    sharp, _ = stack("tissue")
    frames = frames.copy()
    frames[20] = sharp[17]
    assert focus_of_stack(frames, Z_UM).reason is Reason.SPIKE


def test_two_specimens_in_one_stack(stack):
    """As of a dirty cover glass: the second is 14 um above the first."""
    frames, _ = stack("tissue")
    both = frames.astype(float)
    both[:, 128:] = np.roll(frames, 12, axis=0)[:, :128]
    truth = focus_of_stack(both, Z_UM)
    assert not truth.trusted


def test_tiles_that_disagree_make_it_uncertain(stack):
    """Half of the field is 4 um lower than the other: no one position is its focus."""
    frames, _ = stack("tissue")
    level = focus_of_stack(frames, Z_UM)
    split = frames.copy()
    split[:, :, 128:] = np.roll(frames, 4, axis=0)[:, :, 128:]
    torn = focus_of_stack(split, Z_UM)
    assert torn.sigma_um > 3 * level.sigma_um
    assert not focus_of_stack(split, Z_UM, max_sigma_um=torn.sigma_um / 2).trusted


def test_too_little_light_is_not_trusted_or_right(stack):
    expected = focus_of_stack(stack("tissue")[0], Z_UM).position_um
    for electrons in (300.0, 30.0, 3.0):
        truth = focus_of_stack(stack("tissue", electrons=electrons)[0], Z_UM)
        assert not truth.trusted or truth.position_um == pytest.approx(expected, abs=0.6)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda frames: frames * 0, Reason.BLACK),
        (lambda frames: np.clip(frames.astype(float) * 40, 0, 65535).astype(np.uint16), Reason.SATURATED),
        (lambda frames: np.where(frames == frames.max(), np.nan, frames), Reason.NOT_FINITE),
    ],
)
def test_frames_that_are_no_use(stack, spoil, reason):
    frames, _ = stack("tissue")
    truth = focus_of_stack(spoil(frames), Z_UM)
    assert (truth.trusted, truth.reason) == (False, reason)
    assert np.isnan(truth.position_um)


def test_a_camera_of_12_bits_is_saturated_where_it_says(stack):
    frames, _ = stack("tissue")
    clipped = np.minimum(frames, 4095)
    assert focus_of_stack(clipped, Z_UM, saturation=4095.0).reason is Reason.SATURATED


def test_too_few_planes(stack):
    frames, _ = stack("tissue")
    assert focus_of_stack(frames[14:20], Z_UM[14:20]).reason is Reason.NOT_ENOUGH_POINTS


def test_constant_frames_of_a_computed_stack():
    assert focus_of_stack(np.ones((9, 64, 64)), np.arange(9.0)).reason is Reason.FLAT


@pytest.mark.parametrize(
    ("frames", "positions", "options", "said"),
    [
        (np.ones((3, 64, 64)), [0.0, 1.0], {}, "3 frames and 2 positions"),
        (np.ones((2, 64, 64)), [0.0, 0.0], {}, "all different"),
        (np.ones((2, 64, 64)), [0.0, np.nan], {}, "finite"),
        (np.ones((2, 32, 64)), [0.0, 1.0], {}, "at least 64 px"),
        (np.ones((2, 64, 64, 3)), [0.0, 1.0], {}, "grey frame"),
        ([np.ones((64, 64)), np.ones((64, 65))], [0.0, 1.0], {}, "one shape"),
        (np.ones((2, 64, 64)), [0.0, 1.0], {"tiles": 1}, "tiles must be at least 2"),
        (np.ones((2, 64, 64)), [0.0, 1.0], {"at": "top"}, "expected 'centre' or 'maximum'"),
        (np.ones((2, 64, 64)), [0.0, 1.0], {"max_sigma_um": 0.0}, "max_sigma_um must be positive"),
    ],
)
def test_what_makes_no_sense(frames, positions, options, said):
    with pytest.raises(ValueError, match=said):
        focus_of_stack(frames, positions, **options)


def test_it_is_a_record():
    truth = GroundTruth(1.0, 0.1, True, Reason.OK)
    with pytest.raises(AttributeError):
        truth.position_um = 2.0
