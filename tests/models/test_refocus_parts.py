"""Parts of refocusing: ring powers, deconvolved channels, blurring again, grey levels, figures of merit."""

import math

import cv2
import numpy as np
import pytest
from refocusing import OPTICS, blobs

from bluesky_autofocus.models.card import ModelFileError
from bluesky_autofocus.models.refocus._channels import CHANNELS_IN, DefocusNetwork, with_deconvolved
from bluesky_autofocus.models.refocus._levels import Levels, noise_of
from bluesky_autofocus.models.refocus._reblur import busiest_window, explain
from bluesky_autofocus.models.refocus._spectrum import RINGS, ring_powers
from bluesky_autofocus.models.refocus.metrics import contrast_of, psnr_db, ssim
from bluesky_autofocus.simulation import FluorescentNuclei
from bluesky_autofocus.widefield import Widefield

NOISE = 0.01
INNER = slice(40, -40)


@pytest.fixture(scope="module")
def widefield():
    return Widefield(OPTICS, 0.08, reach_um=30.0)


@pytest.fixture(scope="module")
def nuclei(widefield):
    return FluorescentNuclei(3, (256, 256), widefield, heights_um=0.0)


def noisy(frame, seed=0):
    return (frame + np.random.default_rng(seed).normal(0, NOISE, frame.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def texture():
    """Return soft structure of no particular size, with a little noise."""
    rng = np.random.default_rng(0)
    soft, fine = rng.normal(0, 1, (2, 768, 768)).astype(np.float32)
    return cv2.GaussianBlur(soft, (0, 0), 2) + 0.02 * fine


@pytest.fixture(scope="module", params=[-22.0, -14.0, 0.0, 6.0, 17.5], ids="{:+g} um".format)
def seen(request, nuclei):
    """Return a distance, the frame recorded there and the one in focus."""
    return request.param, noisy(nuclei.image(request.param)), nuclei.image(0.0)


class TestRingPowers:
    def test_white_noise_is_flat(self):
        powers = ring_powers(np.random.default_rng(0).normal(5, 0.3, (512, 512)).astype(np.float32))
        assert powers.shape == (RINGS + 1,) and powers.dtype == np.float32
        np.testing.assert_allclose(powers[:-1], 0, atol=0.15)
        assert powers[-1] == pytest.approx(math.log(0.3), abs=0.02)

    def test_scale_and_offset_do_not_matter_but_to_the_last(self, texture):
        x = texture[:200, :300]
        powers, brighter = ring_powers(x), ring_powers(3 * x + 7)
        np.testing.assert_allclose(brighter[:-1], powers[:-1], atol=2e-3)
        assert brighter[-1] - powers[-1] == pytest.approx(math.log(3), abs=1e-3)
        assert powers[:-1].mean() == pytest.approx(0, abs=1e-5)

    @pytest.mark.parametrize("side", [128, 192, 256, 384])
    def test_the_size_does_not_matter(self, texture, side):
        starts = range(0, 768 - side + 1, side)
        found = np.mean([ring_powers(texture[i : i + side, j : j + side]) for i in starts for j in starts], 0)
        np.testing.assert_allclose(found, ring_powers(texture), atol=0.3)
        assert np.ptp(found) > 3, "a texture of which the sizes could have told different things"

    def test_blur_shows(self, nuclei):
        near, far = (ring_powers(noisy(nuclei.image(z_um))) for z_um in (0.0, 20.0))
        assert np.abs(near - far)[:-1].max() > 0.5

    def test_a_uniform_piece(self):
        assert np.isfinite(ring_powers(np.full((128, 160), 0.5, np.float32))).all()

    @pytest.mark.parametrize("shape", [(64, 64), (48, 60)])
    def test_too_small(self, shape):
        with pytest.raises(
            ValueError, match=f"piece of .{shape[0]}, {shape[1]}. pixels is too small: .* 128"
        ):
            ring_powers(np.zeros(shape, np.float32))


class TestDefocusNetwork:
    ARRAYS = {
        "mean": np.zeros(RINGS + 1),
        "deviation": np.full(RINGS + 1, 2.0),
        "kernel0": np.eye(RINGS + 1)[:, -1:],
        "bias0": np.zeros(1),
    }

    def test_what_it_tells(self):
        """Here simply the last of the powers, within the range that it was trained on."""
        network = DefocusNetwork(self.ARRAYS, 30.0)
        powers = np.zeros((4, RINGS + 1), np.float32)
        powers[:, -1] = 0, 1, -0.5, 9
        np.testing.assert_allclose(network.of_powers(powers), [0, 15, -7.5, 30])
        x = np.random.default_rng(0).normal(0, math.exp(0.5), (128, 128)).astype(np.float32)
        assert network(x) == pytest.approx(7.5, abs=0.5)

    @pytest.mark.parametrize(
        "change",
        [
            {"deviation": np.zeros(RINGS + 1)},
            {"kernel0": np.zeros((RINGS, 1))},
            {"kernel0": np.zeros((RINGS + 1, 2)), "bias0": np.zeros(2)},
            {"kernel1": np.zeros((1, 1))},
        ],
    )
    def test_arrays_that_do_not_fit(self, change):
        with pytest.raises((ValueError, ModelFileError)):
            DefocusNetwork(self.ARRAYS | change, 30.0)


class TestDeconvolved:
    def test_in_focus_it_is_about_the_frame(self, nuclei, widefield):
        frame = nuclei.image(0.0)
        shown = with_deconvolved(frame, 0.0, widefield)
        assert shown.shape == (256, 256, CHANNELS_IN) and shown.dtype == np.float32
        np.testing.assert_array_equal(shown[..., 0], frame)
        best = max(psnr_db(shown[INNER, INNER, n], frame[INNER, INNER]) for n in range(1, CHANNELS_IN))
        assert best > 40

    @pytest.mark.parametrize("z_um", [-20.0, -8.0, 8.0, 20.0])
    def test_a_blurred_field_comes_out_sharper(self, nuclei, widefield, z_um):
        recorded, focus = noisy(nuclei.image(z_um)), nuclei.image(0.0)

        def psnrs(told_um):
            shown = with_deconvolved(recorded, told_um, widefield)
            return [psnr_db(shown[INNER, INNER, n], focus[INNER, INNER]) for n in range(CHANNELS_IN)]

        blurred, *deconvolved = psnrs(z_um)
        assert max(deconvolved) > blurred + 3
        # a distance that is a little wrong is made up for by another channel
        for told_um in (z_um - 2, z_um + 2):
            assert max(psnrs(told_um)) > blurred + 2.5
        assert max(psnrs(-z_um)[1:]) < max(deconvolved), "the sides of focus are not the same"

    @pytest.mark.parametrize("told_um", [-1e3, 30.0, 1e3])
    def test_farther_than_the_optics_were_computed_for(self, nuclei, widefield, told_um):
        assert np.isfinite(with_deconvolved(nuclei.image(0.0), told_um, widefield)).all()

    @pytest.mark.parametrize("shape", [(128, 160), (131, 97)])
    def test_any_size(self, nuclei, widefield, shape):
        frame = nuclei.image(0.0)[: shape[0], : shape[1]]
        assert with_deconvolved(frame, 3.3, widefield).shape == (*shape, CHANNELS_IN)


class TestExplain:
    def test_the_truth_explains_the_frame(self, seen, widefield):
        z_um, recorded, focus = seen
        found = explain(recorded, focus, widefield, noise=NOISE)
        assert found.defocus_um == pytest.approx(abs(z_um), abs=1.5)
        assert 0 <= found.mismatch < 0.02

    def test_an_invented_nucleus(self, seen, widefield):
        _, recorded, focus = seen
        assert focus[50:71, 118:139].max() < 0.3, "there is none here"
        changed = cv2.circle(focus.copy(), (128, 60), 8, 1.0, -1)
        assert explain(recorded, changed, widefield, noise=NOISE).mismatch > 0.15

    def test_a_lost_nucleus(self, seen, widefield):
        _, recorded, focus = seen
        row, column = np.unravel_index(focus[INNER, INNER].argmax(), focus[INNER, INNER].shape)
        changed = cv2.circle(focus.copy(), (int(column) + 40, int(row) + 40), 12, float(focus.min()), -1)
        assert explain(recorded, changed, widefield, noise=NOISE).mismatch > 0.15

    def test_a_frame_explains_itself_where_it_is(self, seen, widefield):
        """Also where there is less left of it than noise, at whatever distance."""
        _, recorded, _ = seen
        found = explain(recorded, recorded, widefield, noise=NOISE)
        assert found.defocus_um <= 0.5 and found.mismatch < 0.01

    def test_a_brightness_that_differs_all_over_is_no_structure(self, seen, widefield):
        _, recorded, focus = seen
        plain, shifted = (explain(recorded, focus + add, widefield, noise=NOISE) for add in (0, 0.2))
        assert shifted.defocus_um == plain.defocus_um
        assert shifted.mismatch == pytest.approx(plain.mismatch, abs=1e-3)

    @pytest.mark.parametrize("reach_um", [10.0, 11.97, 13.3, 14.0])
    def test_any_reach(self, nuclei, reach_um):
        narrow = Widefield(OPTICS, 0.08, reach_um=reach_um)
        found = explain(noisy(nuclei.image(9.0)), nuclei.image(0.0), narrow, noise=NOISE)
        assert found.defocus_um == pytest.approx(9, abs=1.5)

    @pytest.mark.parametrize("shape", [(64, 64), (65, 200), (130, 97)])
    def test_small_frames(self, nuclei, widefield, shape):
        recorded, focus = (one[60 : 60 + shape[0], : shape[1]] for one in (nuclei.image(6), nuclei.image(0)))
        found = explain(noisy(recorded), focus, widefield, noise=NOISE)
        assert 0 <= found.defocus_um <= 30 and math.isfinite(found.mismatch)

    def test_a_uniform_frame(self, widefield):
        flat = np.full((96, 96), 0.5, np.float32)
        assert math.isfinite(explain(flat, flat, widefield, noise=0.0).mismatch)


class TestBusiestWindow:
    @pytest.mark.parametrize(
        "shape", [(64, 64), (64, 3000), (383, 385), (384, 384), (700, 901), (1111, 500), (2000, 1500)]
    )
    @pytest.mark.parametrize("at", [(0.02, 0.97), (0.5, 0.5), (0.98, 0.98)])
    def test_it_lies_in_the_frame_where_something_is(self, shape, at):
        frame = np.random.default_rng(0).normal(100, 1, shape).astype(np.float32)
        row, column = (int(share * n) for share, n in zip(at, shape, strict=True))
        frame[max(row - 8, 0) : row + 8, max(column - 8, 0) : column + 8] += 500
        window = busiest_window(frame)
        for slices, n, place in zip(window, shape, (row, column), strict=True):
            assert 0 <= slices.start < slices.stop <= n
            assert slices.stop - slices.start >= min(n, 64) and slices.stop - slices.start <= 384
            assert slices.start <= place < slices.stop
        assert frame[window].max() > 500
        assert frame[window].shape == (min(384, shape[0]), min(384, shape[1]))


class TestLevels:
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
    def test_there_and_back(self, dtype):
        frame = blobs(dtype=dtype)
        levels = Levels.of(frame)
        x = levels.apply(frame)
        assert np.percentile(x, 2) == pytest.approx(0, abs=0.01)
        assert np.percentile(x, 99.8) == pytest.approx(1, abs=0.01)
        back = levels.undo(x, frame.dtype)
        assert back.dtype == frame.dtype
        np.testing.assert_allclose(back, frame, rtol=1e-6 if np.issubdtype(dtype, np.floating) else 0)

    def test_beyond_the_range_of_a_type(self):
        assert Levels(100.0, 200.0).undo(np.array([-3.0, 0.501, 3.0], np.float32), np.uint8).tolist() == [
            0,
            200,
            255,
        ]

    def test_a_large_frame_by_a_part_of_its_pixels(self):
        frame = np.tile(blobs((256, 256)), (9, 9))
        assert Levels.of(frame).scale == pytest.approx(Levels.of(frame[:256, :256]).scale, rel=0.03)

    def test_a_black_frame(self):
        frame = np.zeros((64, 64), np.uint16)
        assert np.isfinite(Levels.of(frame).apply(frame)).all()

    @pytest.mark.parametrize("noise", [4.0, 20.0])
    def test_noise(self, noise):
        frame = blobs((300, 300), noise=0.0, dtype=np.float32)
        frame += np.random.default_rng(1).normal(0, noise, frame.shape)
        assert noise_of(frame) == pytest.approx(noise, rel=0.25)
        assert noise_of(np.full((64, 64), 7, np.uint8)) == 0


class TestMetrics:
    def test_contrast(self):
        assert contrast_of(np.repeat([10.0, 60.0], 500)) == 50
        assert contrast_of(np.zeros(9)) > 0

    def test_psnr(self):
        target = np.tile(np.repeat([0, 100], 50), (100, 1)).astype(np.uint16)
        assert psnr_db(target + 10, target) == pytest.approx(20)
        assert psnr_db(target, target + 10) == pytest.approx(20), "not below 0 with whole numbers"
        assert psnr_db(target, target) > 150

    def test_ssim(self):
        pytest.importorskip("skimage")
        target, other = blobs(), blobs(seed=1)
        assert ssim(target, target) == pytest.approx(1)
        blurred = cv2.GaussianBlur(target, (0, 0), 3)
        assert ssim(other, target) < ssim(blurred, target) < 0.95
