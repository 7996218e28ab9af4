import math

import numpy as np
import pytest

from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.simulation import FluorescentNuclei
from bluesky_autofocus.widefield import Widefield

OPTICS = LightOptics(0.45, 0.46, 0.656, 20.0, 1.0)
SHAPE = (192, 240)
MM2 = SHAPE[0] * SHAPE[1] * OPTICS.pixel_size_um**2 * 1e-6


@pytest.fixture(scope="module")
def widefield():
    return Widefield(OPTICS, 0.08)


@pytest.fixture(scope="module")
def nuclei(widefield):
    return FluorescentNuclei(7, SHAPE, widefield, density_per_mm2=(800, 800))


def sharpness(image):
    """Return the power of the finest detail."""
    return sum((np.diff(image, 2, axis=axis) ** 2).mean() for axis in (0, 1))


class TestField:
    def test_a_seed_gives_a_field(self, widefield):
        one, same, other = (FluorescentNuclei(seed, SHAPE, widefield) for seed in (5, 5, (5, 1)))
        image = one.image(2.5)
        assert image.shape == SHAPE and image.dtype == np.float32
        np.testing.assert_array_equal(image, same.image(2.5))
        assert one.count == same.count
        assert np.abs(image - other.image(2.5)).mean() > 0.01
        np.testing.assert_array_equal(one.image(2.5), image)  # a second look changes nothing

    def test_as_many_nuclei_as_asked_for(self, widefield):
        few, many = (
            [FluorescentNuclei((seed, 3), SHAPE, widefield, density_per_mm2=(d, d)) for seed in range(12)]
            for d in (150, 900)
        )
        for fields, density in ((few, 150), (many, 900)):
            expected = density * MM2 * len(fields)
            assert sum(one.count for one in fields) == pytest.approx(expected, abs=3 * math.sqrt(expected))
        covered = [np.mean([(one.labels > 0.4).mean() for one in fields]) for fields in (few, many)]
        assert 0.01 < covered[0] < 0.05 < covered[1] < 0.3

    def test_fields_differ(self, widefield):
        fields = [FluorescentNuclei(seed, SHAPE, widefield) for seed in range(10)]
        counts = [one.count for one in fields]
        assert max(counts) > 3 * max(min(counts), 1)

    def test_nuclei_are_about_1_on_a_dark_ground(self, nuclei):
        image = nuclei.image(0.0)
        assert 0.0 <= np.quantile(image, 0.1) < 0.15
        inside = np.median(image[nuclei.labels > 0.5])
        assert 0.5 < inside < 1.5

    def test_haze(self, widefield):
        none, thick = (
            FluorescentNuclei(3, SHAPE, widefield, density_per_mm2=(100, 100), haze=(level, level))
            for level in (0.0, 0.3)
        )
        assert np.median(none.labels) == 0
        assert np.median(thick.labels) == pytest.approx(0.3, rel=0.3)

    def test_empty(self, widefield):
        empty = FluorescentNuclei(1, SHAPE, widefield, density_per_mm2=(0, 0))
        assert empty.count == 0
        for defocus_um in (0.0, 12.0):
            assert (empty.image(defocus_um) == 0).all()

    def test_it_wraps_round(self, widefield):
        """No step where one side meets the other."""
        image = FluorescentNuclei(4, SHAPE, widefield, density_per_mm2=(1500, 1500)).image(0.0)
        seams = np.abs(image[0] - image[-1]).mean(), np.abs(image[:, 0] - image[:, -1]).mean()
        inside = np.abs(np.diff(image, axis=0)).mean(1)
        assert max(seams) < inside.max()


class TestFocus:
    @pytest.mark.parametrize("defocus_um", [-32.0, -6.0, 2.0, 10.0, 30.0])
    def test_blur_keeps_the_light(self, nuclei, defocus_um):
        """The whole pattern is in this frame, so none is lost at its edges."""
        assert nuclei.image(defocus_um).mean(dtype=float) == pytest.approx(
            nuclei.labels.mean(dtype=float), rel=2e-3
        )

    @pytest.mark.parametrize("seed", range(4))
    def test_it_is_sharpest_at_0(self, seed):
        perfect = Widefield(OPTICS, reach_um=12)
        nuclei = FluorescentNuclei(seed, SHAPE, perfect, density_per_mm2=(400, 800))
        at_um = np.arange(-8, 8.1, 1.0)
        seen = [sharpness(nuclei.image(z_um)) for z_um in at_um]
        assert abs(at_um[int(np.argmax(seen))]) <= 1.0
        assert max(seen) > 20 * max(seen[0], seen[-1])

    def test_a_nucleus_is_spread_wider_and_wider(self, nuclei):
        peaks = [nuclei.image(z_um).max() for z_um in (0.0, 8.0, 16.0, 32.0)]
        assert (np.diff(peaks) < 0).all() and peaks[-1] < peaks[0] / 2

    def test_above_and_below_differ(self, nuclei):
        """Spherical aberration and the heights of nuclei make them differ."""
        above, below = nuclei.image(8.0), nuclei.image(-8.0)
        assert np.abs(above - below).mean() > 0.03 * above.std()
        assert abs(math.log(sharpness(above) / sharpness(below))) > 0.2

    def test_without_aberration_and_heights_they_do_not(self):
        flat = FluorescentNuclei(2, SHAPE, Widefield(OPTICS, reach_um=10), heights_um=0.0)
        assert np.abs(flat.image(8.0) - flat.image(-8.0)).max() < 1e-5

    def test_nuclei_at_different_heights_are_not_in_focus_together(self, widefield):
        level, uneven = (
            FluorescentNuclei(6, SHAPE, widefield, density_per_mm2=(800, 800), heights_um=height_um)
            for height_um in (0.0, 4.0)
        )
        np.testing.assert_array_equal(level.labels, uneven.labels)
        assert sharpness(uneven.image(0.0)) < 0.9 * sharpness(level.image(0.0))

    def test_farther_than_the_optics_go(self, nuclei):
        with pytest.raises(ValueError, match="expected at most 40"):
            nuclei.image(39.9)  # of one height, though not of the others
        with pytest.raises(ValueError, match="defocus_um"):
            nuclei.image(math.nan)


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape_px": (32, 128)},
        {"shape_px": (128, 128, 3)},
        {"density_per_mm2": (5, 1)},
        {"density_per_mm2": (-1, 1)},
        {"density_per_mm2": (0, math.inf)},
        {"density_per_mm2": (math.nan, 1)},
        {"haze": (0.1,)},
        {"haze": (0.2, 0.1)},
        {"heights_um": -1.0},
        {"heights_um": math.nan},
    ],
)
def test_no_field(widefield, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FluorescentNuclei(0, **{"shape_px": SHAPE, "widefield": widefield, **wrong})
