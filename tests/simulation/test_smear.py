import dataclasses
import math

import numpy as np
import pytest

from bluesky_autofocus.simulation import CLASS_WIDTH_UM, Slide, Smear, SmearCamera, SmearOptics

SHAPE = (240, 320)
LEVEL = {"tilt_um": (0.0, 0.0), "unevenness_um": 0.0}
RED, GREEN, BLUE = range(3)


@pytest.fixture(scope="module")
def smear():
    return Smear(3, SHAPE, density_per_mm2=(3000, 3000), **LEVEL)


def sharpness(image):
    """Return the power of the finest detail in each colour, in logarithms of the light."""
    log = np.log(np.maximum(image.astype(float), 1e-3))
    return sum((np.diff(log, 2, axis=axis) ** 2).mean((0, 1)) for axis in (0, 1))


def stack(smear, defocus_um):
    return np.array([sharpness(smear.image_formation(z)) for z in defocus_um])


class TestField:
    def test_a_seed_gives_a_field(self):
        one, same, other = Smear(5, SHAPE), Smear(5, SHAPE), Smear((5, 1), SHAPE)
        image = one.image_formation(2.5)
        assert image.shape == (*SHAPE, 3) and image.dtype == np.float32
        assert (image == same.image_formation(2.5)).all() and one.focus_um == same.focus_um
        assert np.abs(image - other.image_formation(2.5)).mean() > 0.01
        assert (one.image_formation(2.5) == image).all(), "and a second look changes nothing"

    def test_fields_differ(self):
        images = [Smear(seed, SHAPE).image_formation(0) for seed in range(12)]
        shares = [(image[..., RED] < 0.6).mean() for image in images]
        assert min(shares) < 0.03 and max(shares) > 0.12  # of nuclei
        dark = [image[image[..., RED] <= np.quantile(image[..., RED], 0.02)] for image in images]
        tones = np.array([pixels.mean(0) for pixels in dark])
        assert (np.ptp(tones, axis=0) > 0.1).all()

    def test_stains_have_their_colours(self):
        only = {"red_cells": (1.0, 1.0), "dirt_per_mm2": (0, 0), "covered": (1, 1)}
        pink = Smear(1, SHAPE, density_per_mm2=(4000, 4000), **only).image_formation(0)
        assert pink[..., GREEN].min() < 0.8 < 0.9 < pink[..., RED].min()
        nuclei = Smear(1, SHAPE, density_per_mm2=(4000, 4000), red_cells=(0, 0)).image_formation(0)
        dark = nuclei[nuclei[..., RED] < np.quantile(nuclei[..., RED], 0.02)].mean(0)
        assert dark[GREEN] < dark[BLUE] and dark[RED] < dark[BLUE]

    def test_some_of_it_lies_bare(self):
        half = Smear(2, (400, 400), covered=(0.4, 0.4), dirt_per_mm2=(0, 0)).image_formation(0)
        assert 0.3 < (half.min(-1) > 0.97).mean() < 0.8

    def test_empty(self):
        empty = Smear(1, SHAPE, density_per_mm2=(0, 0), dirt_per_mm2=(0, 0))
        assert np.abs(empty.image_formation(0) - 1).max() < 1e-5
        assert math.isfinite(empty.focus_um)
        frame = SmearCamera().frame(empty.image_formation(12.0), np.random.default_rng(0))
        assert frame.reshape(-1, 3).mean(0) == pytest.approx(0.9 * 255, abs=0.1)
        assert (frame.reshape(-1, 3).std(0) > 1).all()

    def test_dirt(self):
        dirty = Smear(1, SHAPE, density_per_mm2=(0, 0), dirt_per_mm2=(2000, 2000)).image_formation(0)
        assert dirty.min() < 0.8 and np.median(dirty) > 0.98

    def test_it_wraps_round(self):
        smear = Smear(4, SHAPE, density_per_mm2=(4000, 4000), **LEVEL)
        assert smear.period_px == SHAPE, "shapes of a good length"
        image = smear.image_formation(0)
        moved = smear.image_at(smear.focus_um, (31, -57))
        assert np.abs(np.roll(image, (31, -57), (0, 1)) - moved).max() < 1e-5
        seams = np.abs(image[0] - image[-1]).mean(), np.abs(image[:, 0] - image[:, -1]).mean()
        assert max(seams) < 2 * np.abs(np.diff(image, axis=0)).mean()

    def test_of_a_length_that_transforms_do_not_like(self):
        smear = Smear(4, (241, 307))
        assert smear.period_px[0] > 241 and smear.image_formation(3.0).shape == (241, 307, 3)


class TestFocus:
    @pytest.mark.parametrize("defocus_um", [-30.0, -6.0, 0.0, 6.0, 30.0, 1000.0])
    def test_blur_keeps_the_light(self, smear, defocus_um):
        """The whole pattern is in this frame, so none is lost at its edges."""
        sharp, blurred = smear.image_formation(0.0), smear.image_formation(defocus_um)
        assert blurred.mean((0, 1), float) == pytest.approx(sharp.mean((0, 1), float), abs=1e-6)
        assert -0.01 < blurred.min() and blurred.max() < 1.1

    def test_each_colour_has_its_own(self, smear):
        at_um = np.arange(-8, 8.1, 0.25)
        peaks = at_um[stack(smear, at_um).argmax(0)]
        assert peaks[RED] - peaks[BLUE] == pytest.approx(1.1 * CLASS_WIDTH_UM, abs=0.8)
        assert peaks == pytest.approx([0.55 * CLASS_WIDTH_UM, 0, -0.55 * CLASS_WIDTH_UM], abs=0.6)

    def test_of_an_objective_without_aberrations(self):
        perfect = SmearOptics(colour_focus_um=(0, 0, 0), spherical_waves=0)
        smear = Smear(3, SHAPE, optics=perfect, **LEVEL)
        assert np.abs(smear.image_formation(5.0) - smear.image_formation(-5.0)).max() < 1e-5

    def test_one_frame_tells_the_sign(self):
        """Whichever field it is: red is sharper above focus, blue below."""
        for seed in range(8):
            smear = Smear(seed, SHAPE, density_per_mm2=(1500, 5000))
            # against its own frame in focus, as stains have other contrasts in red and in blue
            focused = sharpness(smear.image_formation(0))
            for index in (-2, -1, 1, 2, 3):
                ratio = sharpness(smear.image_formation(index * CLASS_WIDTH_UM)) / focused
                assert (ratio[RED] > ratio[BLUE]) == (index > 0), (seed, index)

    def test_spherical_aberration_alone_tells_it_too(self):
        """One side has a rim, the other a bright middle."""
        optics = SmearOptics(colour_focus_um=(0, 0, 0), spherical_waves=0.07)
        smear = Smear(3, SHAPE, optics=optics, **LEVEL)
        above, below = (sharpness(smear.image_formation(z))[GREEN] for z in (12.0, -12.0))
        assert abs(math.log(above / below)) > 0.3

    def test_it_blurs_on_and_on(self, smear):
        """To either side of its focus, no colour becomes sharper again."""
        widths = np.arange(0, 7) * CLASS_WIDTH_UM
        for side in (1, -1):
            seen = stack(smear, side * (widths + 0.55 * CLASS_WIDTH_UM))
            assert (np.diff(seen, axis=0) < 0).all()

    def test_beyond_three_classes_and_a_half_nothing_fine_is_left(self, smear):
        sharp, blurred = stack(smear, [0.0, 3.5 * CLASS_WIDTH_UM])
        assert blurred[GREEN] < sharp[GREEN] / 100
        near = stack(smear, [0.5 * CLASS_WIDTH_UM])[0]
        assert near[GREEN] > sharp[GREEN] / 20, "and within the focused class most is"

    def test_truth_of_a_field_that_is_not_level(self):
        tilted = Smear(3, SHAPE, density_per_mm2=(3000, 3000), tilt_um=(0.0, 3.0), unevenness_um=0.0)
        assert abs(tilted.focus_um) < 0.7 and tilted.focus_um != 0
        at_um = np.arange(-3, 3.1, 0.25)
        peak = at_um[stack(tilted, at_um)[:, GREEN].argmax()]
        level = at_um[stack(Smear(3, SHAPE, density_per_mm2=(3000, 3000), **LEVEL), at_um)[:, GREEN].argmax()]
        assert peak == pytest.approx(level, abs=0.5), "on average it is in focus at the same defocus"
        # left lies lower: it is sharper below
        for z_um, sharper in ((-1.5, "left"), (1.5, "right")):
            left, right = (
                sharpness(tilted.image_at(z_um)[:, half])[GREEN]
                / sharpness(tilted.image_formation(0.0)[:, half])[GREEN]
                for half in (slice(0, 107), slice(213, 320))
            )
            assert (left > right) == (sharper == "left")

    def test_planes_are_blended_closely_enough(self):
        """A level field at a height, and one that only is as high there, look the same."""
        tilted = Smear(3, SHAPE, tilt_um=(1.5, 0.0), unevenness_um=0.0)
        level = Smear(3, SHAPE, **LEVEL)
        rows = slice(58, 62)  # a quarter of the way: 0.375 um lower than the middle
        seen, expected = tilted.image_at(4.0)[rows], level.image_at(4.375)[rows]
        assert np.abs(seen - expected).max() < 0.02
        assert np.abs(seen - expected).max() < 0.5 * np.abs(level.image_at(4.0)[rows] - expected).max()

    def test_unevenness(self):
        heights = [
            Smear(seed, SHAPE, tilt_um=(0, 0), unevenness_um=0.4)._heights_um((0, 0)) for seed in range(6)
        ]
        assert np.std(heights) == pytest.approx(0.4, rel=0.1)

    def test_truth_follows_what_is_moved(self):
        smear = Smear(3, SHAPE, tilt_um=(4.0, 0.0))
        assert smear.focus_at_um((0, 0)) == smear.focus_um
        assert smear.focus_at_um(smear.period_px) == pytest.approx(smear.focus_um)
        assert len({smear.focus_at_um((n, 0)) for n in (0, 64, 128)}) == 3


class TestTransfer:
    def test_against_the_theory_of_a_perfect_lens(self):
        optics = SmearOptics(spherical_waves=0, colour_focus_um=(0, 0, 0))
        frequency = np.linspace(0, optics.cutoff_per_um, 1024)
        for colour, wavelength_um in enumerate(optics.wavelengths_um):
            expected = []
            for one in (wavelength_um - 0.015, wavelength_um, wavelength_um + 0.015):
                s = np.minimum(frequency * one / (2 * optics.numerical_aperture), 1)
                expected.append(2 / np.pi * (np.arccos(s) - s * np.sqrt(1 - s**2)))
            assert optics.transfer(colour, 0.0) == pytest.approx(np.mean(expected, axis=0), abs=0.01)

    def test_a_large_blur_is_a_disc(self):
        """Geometry: its transfer function first crosses zero at 0.61 over the radius."""
        optics = SmearOptics(spherical_waves=0, colour_focus_um=(0, 0, 0))
        frequency = np.linspace(0, optics.cutoff_per_um, 1024)
        transfer = optics.transfer(GREEN, 40.0)
        radius_um = 40.0 * math.tan(math.asin(0.4))
        assert frequency[np.argmax(transfer < 0)] == pytest.approx(0.61 / radius_um, rel=0.1)

    def test_it_is_smooth_between_the_grid(self):
        optics = SmearOptics()
        one, between, two = (optics.transfer(GREEN, z) for z in (10.0, 10.125, 10.25))
        assert np.abs(between - (one + two) / 2).max() < 1e-5
        assert 0 < np.abs(one - two).max() < 0.05
        assert (optics.transfer(RED, 500.0) == optics.transfer(RED, 1000.0)).all()

    @pytest.mark.parametrize(
        "wrong",
        [
            {"numerical_aperture": 1.0},
            {"numerical_aperture": math.nan},
            {"wavelengths_um": (0.6, 0.5)},
            {"wavelengths_um": (0.6, 0.5, 0.0)},
            {"colour_focus_um": (0, math.inf, 0)},
            {"spherical_waves": math.nan},
            {"magnification": 0.0},
        ],
    )
    def test_optics_that_cannot_be(self, wrong):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SmearOptics(**wrong)


class TestCamera:
    def test_a_seed_gives_a_frame(self, smear):
        light, camera = smear.image_formation(0), SmearCamera()
        frame = camera.frame(light, np.random.default_rng(1))
        assert frame.shape == (*SHAPE, 3) and frame.dtype == np.uint8
        assert (frame == camera.frame(light, np.random.default_rng(1))).all()
        assert (frame != camera.frame(light, np.random.default_rng(2))).any()

    @pytest.mark.parametrize("level", [1.0, 0.25])
    def test_noise_is_that_of_photons(self, level):
        camera = SmearCamera(electrons=5000, read_noise_e=20, lamp=(1, 1, 0.5))
        frame = camera.frame(np.full((500, 500, 3), level, np.float32), np.random.default_rng(0))
        for colour, lamp in enumerate(camera.lamp):
            electrons = 5000 * lamp * level
            expected = 0.9 * 255 * level * math.sqrt(electrons + 400) / electrons
            expected = math.hypot(expected, 1 / math.sqrt(12))  # of grey levels being whole
            assert frame[..., colour].std() == pytest.approx(expected, rel=0.02)
            assert frame[..., colour].mean() == pytest.approx(0.9 * 255 * level, abs=0.05)

    def test_white_balance_exposure_and_saturation(self):
        light, rng = np.ones((64, 64, 3), np.float32), np.random.default_rng(0)
        off = SmearCamera(white=(0.95, 0.9, 0.7))
        assert off.frame(light, rng).mean((0, 1)) == pytest.approx(255 * np.array(off.white), abs=0.3)
        assert off.frame(light, rng, 0.5).mean((0, 1)) == pytest.approx(
            255 * np.array(off.white) / 2, abs=0.3
        )
        assert (off.frame(light, rng, 2.0) == 255).all()
        assert (SmearCamera(read_noise_e=0).frame(light, rng, 0.0) == 0).all()
        assert SmearCamera().frame(np.ones((1100, 1000, 3), np.float32), rng).std() > 1, "a large one"

    @pytest.mark.parametrize(
        "wrong",
        [
            {"electrons": 0},
            {"lamp": (1.0, 1.0)},
            {"lamp": (1.0, 0.0, 1.0)},
            {"white": (1.0, math.nan, 1.0)},
            {"read_noise_e": -1},
        ],
    )
    def test_that_cannot_be(self, wrong):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SmearCamera(**wrong)

    def test_what_is_no_image(self):
        rng = np.random.default_rng(0)
        with pytest.raises(ValueError, match=r"light has shape \(8, 8\)"):
            SmearCamera().frame(np.ones((8, 8), np.float32), rng)
        with pytest.raises(ValueError, match="exposure is -1"):
            SmearCamera().frame(np.ones((8, 8, 3), np.float32), rng, -1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape_px": (16, 64)},
        {"shape_px": (64, 64, 3)},
        {"pixel_um": 0.0},
        {"pixel_um": math.nan},
        {"density_per_mm2": (5, 1)},
        {"density_per_mm2": (0, math.inf)},
        {"covered": (0.5, 1.5)},
        {"red_cells": (-0.1, 0.5)},
        {"stain": (math.nan, 1)},
        {"dirt_per_mm2": (1,)},
        {"tilt_um": (math.inf, 0)},
        {"unevenness_um": -1},
    ],
)
def test_no_smear(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Smear(0, **{"shape_px": SHAPE, **wrong})


@pytest.mark.parametrize("defocus_um", [math.nan, math.inf])
def test_no_defocus(smear, defocus_um):
    with pytest.raises(ValueError, match="finite number"):
        smear.image_formation(defocus_um)


def test_pixels_may_be_of_another_size():
    fine, coarse = (Smear(3, (128, 128), pixel_um, **LEVEL) for pixel_um in (0.33, 0.66))
    assert coarse.extent_um == (128 * 0.66, 128 * 0.66)
    assert fine.image_formation(0).shape == coarse.image_formation(0).shape
    assert dataclasses.asdict(fine.optics) == dataclasses.asdict(coarse.optics)


def test_slide():
    level = Slide((2.0, -1.0), 0.0, 0)
    assert level.height_um(1000, 1000) == pytest.approx(1.0)
    uneven, same, other = (Slide((0, 0), 1.0, seed) for seed in (0, 0, 1))
    heights = [uneven.height_um(x, y) for x in range(-9000, 9001, 300) for y in range(-9000, 9001, 300)]
    assert np.std(heights) == pytest.approx(1.0, rel=0.15)
    assert uneven.height_um(5, 7) == same.height_um(5, 7) != other.height_um(5, 7)
    with pytest.raises(ValueError, match="slide_tilt"):
        Slide((math.nan, 0), 0.0, 0)
    with pytest.raises(ValueError, match="unevenness_um"):
        Slide((0, 0), math.inf, 0)
