import numpy as np
import pytest

from bluesky_autofocus.models.refocus._levels import Levels, noise_of
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.simulation import FluorescentNuclei, LightCamera
from bluesky_autofocus.widefield import Widefield

OPTICS = LightOptics(0.45, 0.46, 0.656, 20.0, 1.0)
SHAPE = (256, 300)


@pytest.fixture(scope="module")
def nuclei():
    return FluorescentNuclei(7, SHAPE, Widefield(OPTICS, 0.08), density_per_mm2=(700, 700))


class TestLevels:
    @pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535), (np.uint16, 900)])
    def test_there_and_back(self, dtype, top):
        frame = np.random.default_rng(0).integers(0, top, SHAPE, endpoint=True).astype(dtype)
        levels = Levels.of(frame)
        back = levels.undo(levels.apply(frame), dtype)
        assert back.dtype == dtype
        np.testing.assert_array_equal(back, frame)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize(("offset", "scale"), [(0.0, 1.0), (-5.0, 3e-4), (300.0, 2e4)])
    def test_there_and_back_of_floats(self, dtype, offset, scale):
        frame = (offset + scale * np.random.default_rng(0).normal(0, 1, SHAPE)).astype(dtype)
        levels = Levels.of(frame)
        back = levels.undo(levels.apply(frame), dtype)
        assert back.dtype == dtype
        np.testing.assert_allclose(back, frame, rtol=0, atol=1e-6 * (abs(offset) + 6 * scale))

    def test_what_becomes_0_and_1(self, nuclei):
        frame = LightCamera(offset=200.0).frame(nuclei.image(0.0), np.random.default_rng(0))
        levels = Levels.of(frame)
        assert 180 < levels.offset < 1000, "the ground"
        x = levels.apply(frame)
        assert x.dtype == np.float32
        assert np.mean(x < 0) == pytest.approx(0.02, abs=0.003)
        assert np.mean(x > 1) == pytest.approx(0.002, abs=0.0005)

    def test_they_follow_the_scale(self, nuclei):
        """A frame twice as bright, with another offset, looks the same."""
        frame = nuclei.image(5.0).astype(np.float64)
        other = 1500 * frame + 77
        np.testing.assert_allclose(Levels.of(frame).apply(frame), Levels.of(other).apply(other), atol=1e-4)

    @pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
    def test_what_is_out_of_range_does_not_wrap_round(self, dtype, top):
        x = np.array([[-2.0, 0.0, 0.5, 1.0, 7.0]], np.float32)
        assert Levels(10.0, top - 20.0).undo(x, dtype).tolist() == [
            [0, 10, round(10 + (top - 20) / 2), top - 10, top]
        ]

    def test_grey_levels_are_rounded(self):
        x = np.array([[0.14, 0.16, 0.24]], np.float32)
        assert Levels(0.0, 10.0).undo(x, np.uint8).tolist() == [[1, 2, 2]]
        np.testing.assert_allclose(Levels(0.0, 10.0).undo(x, np.float32), 10 * x)

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
    def test_of_a_frame_without_contrast(self, dtype):
        frame = np.full(SHAPE, 9, dtype)
        levels = Levels.of(frame)
        assert levels.offset == 9 and levels.scale > 0
        assert (levels.apply(frame) == 0).all()
        np.testing.assert_array_equal(levels.undo(levels.apply(frame), dtype), frame)

    def test_of_a_large_frame_a_sample_does(self, nuclei):
        large = np.tile(nuclei.image(10.0), (6, 6))
        found, expected = Levels.of(large), Levels.of(nuclei.image(10.0))
        assert found.offset == pytest.approx(expected.offset, abs=0.01)
        assert found.scale == pytest.approx(expected.scale, rel=0.05)


class TestNoise:
    @pytest.mark.parametrize("defocus_um", [0.0, 12.0])
    @pytest.mark.parametrize("sigma", [0.02, 0.05, 0.2])
    def test_of_a_frame_with_much_in_it(self, nuclei, defocus_um, sigma):
        noise = np.random.default_rng(0).normal(0, sigma, SHAPE)
        frame = nuclei.image(defocus_um) + noise
        assert noise_of(frame) == pytest.approx(sigma, rel=0.15)

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_of_grey_levels(self, nuclei, dtype):
        noise = np.random.default_rng(1).normal(0, 4, SHAPE)
        frame = np.rint(np.clip(20 + 80 * nuclei.image(6.0) + noise, 0, 255)).astype(dtype)
        assert noise_of(frame) == pytest.approx(4, rel=0.15)

    @pytest.mark.parametrize("electrons", [300.0, 2000.0])
    def test_of_photons_it_is_that_of_the_ground(self, nuclei, electrons):
        """Most of a frame is dark; there are few pixels in nuclei, which have more noise."""
        camera = LightCamera(electrons=electrons, gain=0.5, vignetting=0.0, dust_per_mpx=0.0)
        image = nuclei.image(0.0)
        variance_e = electrons * float(np.median(image)) + camera.read_noise_e**2
        expected = np.sqrt(camera.gain**2 * variance_e + 1 / 12)
        assert noise_of(camera.frame(image, np.random.default_rng(0))) == pytest.approx(expected, rel=0.15)

    def test_where_there_is_none(self, nuclei):
        assert noise_of(np.full(SHAPE, 7, np.uint16)) == 0
        assert noise_of(nuclei.image(12.0)) < 0.002
        rows, columns = np.mgrid[:200, :200]
        assert noise_of((3.0 * rows - 2.0 * columns).astype(np.float32)) < 1e-3, "a slope is no noise"

    def test_of_a_large_frame_a_sample_does(self):
        noise = np.random.default_rng(0).normal(0, 3, (1500, 1600)).astype(np.float32)
        assert noise_of(noise) == pytest.approx(3, rel=0.02)
