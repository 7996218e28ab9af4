"""Deconvolution of simulated fields, against what they look like in focus without noise."""

import dataclasses
import json
import math
import sys

import numpy as np
import pytest

from bluesky_autofocus.defocus import ModelMismatchError
from bluesky_autofocus.models.refocus import Refocuser
from bluesky_autofocus.models.refocus.classical import RichardsonLucy, Wiener, point_spread
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.records import Reason
from bluesky_autofocus.simulation import FluorescentNuclei, LightCamera
from bluesky_autofocus.widefield import Widefield

OPTICS = LightOptics(0.45, 0.46, 0.656, 20.0, 1.0)
SHAPE = (200, 240)
CAMERA = LightCamera(electrons=1000.0, gain=1.0, vignetting=0.0, dust_per_mpx=0.0)
QUICKLY = {Wiener: {}, RichardsonLucy: {"iterations": 15}}
"""Where it does not matter how good they are."""
METHODS = pytest.mark.parametrize("method", [Wiener, RichardsonLucy])


@pytest.fixture(scope="module")
def widefield():
    return Widefield(OPTICS, 0.08)


@pytest.fixture(scope="module")
def nuclei(widefield):
    # larger than what the frames show of it: at their borders things go on
    return FluorescentNuclei(7, (320, 320), widefield, density_per_mm2=(500, 500))


def shown(image):
    return image[50 : 50 + SHAPE[0], 40 : 40 + SHAPE[1]]


@pytest.fixture(scope="module")
def target(nuclei):
    return CAMERA.noiseless(shown(nuclei.image(0.0)))


def frame_at(nuclei, defocus_um, camera=CAMERA):
    return camera.frame(shown(nuclei.image(defocus_um)), np.random.default_rng(0))


def psnr(frame, target):
    error = np.asarray(frame, float) - target
    return 10 * math.log10(np.ptp(target.astype(float)) ** 2 / (error**2).mean())


class TestPointSpread:
    @pytest.mark.parametrize("defocus_um", [0.0, 2.0, -10.0, 32.0])
    def test_it_is_light(self, widefield, defocus_um):
        spread = point_spread(widefield, defocus_um)
        assert spread.dtype == np.float32
        assert spread.shape[0] == spread.shape[1] and spread.shape[0] % 2 == 1
        assert spread.min() >= 0 and spread.sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(spread, spread[::-1, ::-1], atol=1e-7)
        np.testing.assert_allclose(spread, spread.T, atol=1e-7)

    @pytest.mark.parametrize("defocus_um", [12.0, -30.0])
    def test_it_does_what_the_transfer_function_does(self, widefield, nuclei, defocus_um):
        sharp = nuclei.labels
        filters = widefield.transfer(defocus_um, sharp.shape)
        expected = np.fft.irfft2(np.fft.rfft2(sharp) * filters, s=sharp.shape)
        spread = np.zeros(sharp.shape)
        small = point_spread(widefield, defocus_um)
        spread[: len(small), : len(small)] = small
        spread = np.roll(spread, [-(len(small) // 2)] * 2, (0, 1))
        blurred = np.fft.irfft2(np.fft.rfft2(sharp) * np.fft.rfft2(spread), s=sharp.shape)
        assert np.abs(blurred - expected).max() < 0.02 * expected.max()

    def test_it_grows_with_the_cone_of_light(self, widefield):
        sides = [len(point_spread(widefield, z_um)) for z_um in (12.0, 24.0, 36.0)]
        cone_px = 12 * math.tan(math.asin(0.45)) / OPTICS.pixel_size_um
        assert sides[2] - sides[0] == pytest.approx(4 * cone_px, rel=0.15)
        assert len(point_spread(widefield, 12.0, share=0.9)) < sides[0]

    @pytest.mark.parametrize("share", [0.0, 1.0, math.nan])
    def test_bad_share(self, widefield, share):
        with pytest.raises(ValueError, match="share is"):
            point_spread(widefield, 5.0, share=share)

    @pytest.mark.parametrize("defocus_um", [40.5, math.nan])
    def test_too_far(self, widefield, defocus_um):
        with pytest.raises(ValueError, match="defocus_um is .*: expected at most 40"):
            point_spread(widefield, defocus_um)


@METHODS
class TestBoth:
    @pytest.mark.parametrize("defocus_um", [30.0, 12.0, -4.0, -18.0])
    def test_frames_get_better(self, widefield, nuclei, target, method, defocus_um):
        blurred = frame_at(nuclei, defocus_um)
        result = method(widefield, defocus_um).refocus(blurred)
        assert psnr(result.frame, target) > psnr(blurred, target) + 2.5

    def test_it_has_to_know_on_which_side_of_focus(self, widefield, nuclei, target, method):
        blurred = frame_at(nuclei, 20.0)
        right, wrong = (method(widefield, z_um).refocus(blurred).frame for z_um in (20.0, -20.0))
        assert psnr(right, target) > psnr(wrong, target) + 0.5

    def test_a_frame_in_focus_stays_one(self, widefield, nuclei, target, method):
        frame = frame_at(nuclei, 0.0)
        assert psnr(method(widefield, 0.0).refocus(frame).frame, target) > psnr(frame, target) - 2

    def test_what_is_said_of_it(self, widefield, nuclei, method):
        result = method(widefield, -18.0, **QUICKLY[method]).refocus(frame_at(nuclei, -18.0))
        assert result.accepted and result.reason is Reason.OK
        assert result.defocus_um == 18.0 and math.isnan(result.mismatch)
        assert result.sigma.shape == SHAPE and result.sigma.dtype == np.float32
        assert np.isnan(result.sigma).all()

    def test_it_is_a_refocuser(self, widefield, method):
        one: Refocuser = method(widefield, -18.0)
        assert one.model_hash == "" and one.name in ("wiener", "richardson-lucy")
        parameters = json.loads(json.dumps(dict(one.parameters)))
        assert parameters["defocus_um"] == -18.0
        assert parameters["optics"] == dataclasses.asdict(OPTICS)
        assert parameters["spherical_waves"] == 0.08
        assert {"balance", "iterations"} & set(parameters)

    def test_a_second_time_it_is_the_same(self, widefield, nuclei, method):
        frame = frame_at(nuclei, 12.0)
        before = frame.copy()
        one = method(widefield, 12.0, **QUICKLY[method])
        np.testing.assert_array_equal(one.refocus(frame).frame, one.refocus(frame).frame)
        np.testing.assert_array_equal(frame, before)

    @pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
    def test_type_and_scale_are_kept(self, widefield, nuclei, target, method, dtype):
        frame, one = frame_at(nuclei, 12.0), method(widefield, 12.0, **QUICKLY[method])
        expected = one.refocus(frame).frame
        assert expected.dtype == np.uint16
        # to 8 bits, or to a float scale with an offset of its own
        scale, offset = (0.05, 0.0) if dtype is np.uint8 else (1e-3, -3.0)
        other = (scale * frame + offset).astype(dtype)
        result = one.refocus(other).frame
        assert result.dtype == dtype and result.shape == SHAPE
        back = (result.astype(float) - offset) / scale
        assert psnr(back, target) == pytest.approx(psnr(expected, target), abs=1.0)
        assert result.mean() == pytest.approx(other.mean(), abs=0.03 * float(other.std()))

    def test_of_colour_each_channel_by_itself(self, widefield, nuclei, method):
        grey = frame_at(nuclei, 12.0)
        colour = np.stack([grey, grey // 2 + 7, grey[::-1]], axis=2)
        one = method(widefield, 12.0, **QUICKLY[method])
        result = one.refocus(colour)
        assert result.frame.shape == result.sigma.shape == (*SHAPE, 3) and result.frame.dtype == np.uint16
        for n in range(3):
            np.testing.assert_array_equal(
                result.frame[..., n], one.refocus(np.ascontiguousarray(colour[..., n])).frame
            )

    def test_what_absorbs_light(self, widefield, nuclei, method):
        """Dark nuclei on a bright ground, as in a stained smear."""
        camera = LightCamera(bits=8, electrons=8000.0, gain=0.025, vignetting=0.0, dust_per_mpx=0.0, offset=0)
        blurred, target = (
            make(1 - 0.25 * shown(nuclei.image(z_um)))
            for make, z_um in (
                (lambda light: camera.frame(light, np.random.default_rng(0)), 15.0),
                (camera.noiseless, 0.0),
            )
        )
        result = method(widefield, 15.0).refocus(blurred).frame
        assert psnr(result, target) > psnr(blurred, target) + 3

    def test_nothing_comes_in_from_the_borders(self, widefield, method):
        """A slope ends there in steps, for a transform that takes the frame for periodic."""
        rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
        frame = (1000 + 5.0 * rows + 3.0 * columns).astype(np.float32)
        result = method(widefield, 20.0).refocus(frame).frame
        off = np.abs(result - frame) / np.ptp(frame)
        assert off[60:-60, 60:-60].max() < 0.03 and off.mean() < 0.04 and off.max() < 0.4

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
    def test_an_empty_frame_stays_empty(self, widefield, method, dtype):
        one = method(widefield, 12.0, **QUICKLY[method])
        flat = np.full(SHAPE, 7, dtype)
        np.testing.assert_allclose(one.refocus(flat).frame, flat, rtol=1e-5)
        noise = np.random.default_rng(0).normal(100, 3, SHAPE)
        dark = (noise if dtype is np.float32 else np.rint(noise)).astype(dtype)
        result = one.refocus(dark).frame
        assert result.mean() == pytest.approx(100, abs=1) and result.std() < 6

    def test_light_is_not_wrapped_round(self, widefield, method):
        frame = np.full(SHAPE, 250, np.uint8)
        frame[80:120, 100:140] = 5
        result = method(widefield, 12.0).refocus(frame).frame
        assert result[5, 5] > 200 and result[100, 120] < 60

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_pixels_that_are_no_numbers(self, widefield, method, value):
        frame = np.ones(SHAPE, np.float32)
        frame[3, 4] = value
        with pytest.raises(ValueError, match="NaN or infinite"):
            method(widefield, 5.0).refocus(frame)

    @pytest.mark.parametrize("shape", [(200,), (200, 240, 4), (200, 240, 1), (2, 200, 240, 3)])
    def test_what_is_no_frame(self, widefield, method, shape):
        with pytest.raises(ValueError, match=r"frame has shape .*: expected \(H, W\) or \(H, W, 3\)"):
            method(widefield, 5.0).refocus(np.zeros(shape, np.uint8))

    @pytest.mark.parametrize("dtype", [np.int32, np.uint32, bool, complex, object])
    def test_grey_levels_of_another_type(self, widefield, method, dtype):
        with pytest.raises(ValueError, match="frame is of type .*: expected uint8, uint16 or float"):
            method(widefield, 5.0).refocus(np.zeros(SHAPE, dtype))

    @pytest.mark.parametrize("shape", [(50, 200), (200, 50), (50, 200, 3)])
    def test_smaller_than_the_image_of_a_point(self, widefield, method, shape):
        with pytest.raises(ValueError, match="expected at least .* pixels each way"):
            method(widefield, 30.0).refocus(np.zeros(shape, np.uint8))

    @pytest.mark.parametrize("defocus_um", [41.0, -41.0, math.nan, math.inf])
    def test_farther_than_the_optics_go(self, widefield, method, defocus_um):
        with pytest.raises(ValueError, match="defocus_um is .*: expected at most 40"):
            method(widefield, defocus_um)

    def test_other_optics(self, widefield, method):
        one = method(widefield, 5.0)
        one.check_values({})
        one.check_values({"numerical_aperture": 0.46, "pixel_size_um": 0.65, "magnification": 40.0})
        for wrong in ({"numerical_aperture": 0.5}, {"pixel_size_um": 0.3}, {"wavelength_um": math.nan}):
            with pytest.raises(ModelMismatchError, match=f"{next(iter(wrong))} is"):
                one.check_values(wrong)

    def test_without_scikit_image_the_error_says_what_to_install(self, widefield, method, monkeypatch):
        monkeypatch.setitem(sys.modules, "skimage", None)
        with pytest.raises(ImportError, match=r"bluesky-autofocus\[simulation\]"):
            method(widefield, 5.0).refocus(np.zeros(SHAPE, np.uint8))


class TestWiener:
    @pytest.mark.parametrize(
        ("defocus_um", "electrons", "most_db"),
        [(30.0, 1000, 1), (12.0, 1000, 1), (12.0, 60, 1.5), (12.0, 4000, 1), (-32.0, 1000, 2)],
    )
    def test_the_balance_by_default_is_near_the_best(self, widefield, nuclei, defocus_um, electrons, most_db):
        camera = dataclasses.replace(CAMERA, electrons=electrons)
        frame, target = frame_at(nuclei, defocus_um, camera), camera.noiseless(shown(nuclei.image(0.0)))
        found = psnr(Wiener(widefield, defocus_um).refocus(frame).frame, target)
        others = [
            psnr(Wiener(widefield, defocus_um, balance=balance).refocus(frame).frame, target)
            for balance in 10.0 ** np.arange(-4, 0, 0.5)
        ]
        assert found > max(others) - most_db

    def test_the_light_is_kept(self, widefield, nuclei):
        frame = frame_at(nuclei, 12.0).astype(np.float64)
        assert Wiener(widefield, 12.0).refocus(frame).frame.mean() == pytest.approx(frame.mean(), rel=0.01)

    @pytest.mark.parametrize("balance", [0.0, -1.0, math.nan, math.inf])
    def test_bad_balance(self, widefield, balance):
        with pytest.raises(ValueError, match="balance is"):
            Wiener(widefield, 5.0, balance=balance)


class TestRichardsonLucy:
    def test_more_iterations_bring_out_more(self, widefield, nuclei, target):
        frame = frame_at(nuclei, 20.0)
        found = [
            psnr(RichardsonLucy(widefield, 20.0, iterations=n).refocus(frame).frame, target)
            for n in (3, 10, 60)
        ]
        assert found[0] < found[1] - 0.5 < found[2] - 1

    def test_nothing_is_darker_than_dark(self, widefield, nuclei):
        frame = frame_at(nuclei, 12.0)
        result = RichardsonLucy(widefield, 12.0).refocus(frame).frame
        assert result.min() >= math.floor(np.percentile(frame, 2)) - 1
        assert Wiener(widefield, 12.0, balance=1e-3).refocus(frame).frame.min() < result.min()

    def test_a_hot_pixel_does_not_upset_it(self, widefield, nuclei, target):
        frame = frame_at(nuclei, 12.0)
        frame[20, 30] = 65535
        result = RichardsonLucy(widefield, 12.0).refocus(frame).frame
        away = (slice(100, None), slice(100, None))
        assert psnr(result[away], target[away]) > psnr(frame[away], target[away]) + 2

    @pytest.mark.parametrize("iterations", [0, -1, 2.5])
    def test_bad_iterations(self, widefield, iterations):
        with pytest.raises(ValueError, match="iterations is"):
            RichardsonLucy(widefield, 5.0, iterations=iterations)
