"""What holds for every metric: focus wins, settings do what they say, bad input is refused by name."""

import pickle

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bluesky_autofocus.sharpness import DEFAULT_METRIC, UnknownMetricError, metric, names, register

BUILT_IN = (
    "band_power",
    "brenner",
    "dct_energy",
    "laplacian_ratio",
    "log_power",
    "normalised_variance",
    "smoothed_laplacian",
    "tenengrad",
    "variance_of_laplacian",
    "vollath_f4",
    "vollath_f5",
)
# log_power is a logarithm: rounding to whole grey levels alone moves it in its third digit.
ROUGH = {"log_power"}


def scene(shape=(200, 160), seed=0):
    """Return ellipses with hard edges on a fine texture, 20 to 230."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=shape)
    image = cv2.GaussianBlur(image, (0, 0), 1.2) * 25 + 110
    for _ in range(40):
        centre = tuple(int(v) for v in rng.integers(0, shape[::-1]))
        axes = tuple(int(v) for v in rng.integers(3, 20, 2))
        cv2.ellipse(image, centre, axes, float(rng.uniform(0, 180)), 0, 360, float(rng.uniform(40, 220)), -1)
    return np.clip(image, 20, 230)


def defocused(image, defocus):
    return image if defocus == 0 else cv2.GaussianBlur(image, (0, 0), 0.6 * abs(defocus))


def as_kind(image, kind):
    if kind == "rgb":
        return np.stack([image * 0.9, image, image * 0.7], axis=2).astype(np.uint8)
    return (image * 200).astype(np.uint16) if kind == "uint16" else image.astype(kind)


def test_names_are_the_documented_ones():
    assert set(BUILT_IN) <= set(names())
    assert list(names()) == sorted(names())
    assert DEFAULT_METRIC in names()


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32", "rgb"])
@pytest.mark.parametrize("name", BUILT_IN)
def test_peaks_in_focus(name, kind):
    score = metric(name)
    steps = np.arange(-5, 6)
    image = scene()
    scores = [score(as_kind(defocused(image, step), kind)) for step in steps]
    assert steps[np.argmax(scores)] == 0
    near, far = [scores[4], scores[6]], [scores[0], scores[-1]]
    assert min(near) > max(far)


@pytest.mark.parametrize(
    "dtype", [np.uint16, np.int16, np.int32, np.int64, np.uint32, np.float32, np.float64]
)
@pytest.mark.parametrize("name", BUILT_IN)
def test_score_does_not_depend_on_the_dtype(name, dtype):
    image = scene().astype(np.uint8)
    score = metric(name)
    assert score(image.astype(dtype)) == pytest.approx(score(image), rel=1e-4)


def test_foreign_byte_order_and_float16():
    image = scene().astype(np.uint8)
    score = metric(DEFAULT_METRIC)
    assert score(image.astype(">u2")) == pytest.approx(score(image), rel=1e-6)
    assert score(image.astype(np.float16)) == pytest.approx(score(image), rel=1e-6)


def test_bool_is_0_and_1():
    mask = scene() > 110
    assert metric("brenner")(mask) == metric("brenner")(mask.astype(np.uint8))


@pytest.mark.parametrize("name", BUILT_IN)
def test_any_memory_layout(name):
    image = np.random.default_rng(4).integers(0, 255, (64, 90)).astype(np.uint16)
    score = metric(name)
    expected = score(image)
    assert score(np.asfortranarray(image)) == pytest.approx(expected, rel=1e-6)
    padded = np.zeros((128, 180), np.uint16)
    padded[::2, ::2] = image
    assert score(padded[::2, ::2]) == pytest.approx(expected, rel=1e-6)
    assert score(image[::-1, ::-1][::-1, ::-1]) == pytest.approx(expected, rel=1e-6)
    reversed_view = image[::-1, ::-1]
    assert score(reversed_view) == pytest.approx(score(reversed_view.copy()), rel=1e-6)


@pytest.mark.parametrize("name", BUILT_IN)
@settings(max_examples=15, deadline=None)
@given(gain=st.floats(0.01, 200))
def test_brightness_does_not_change_the_normalised_score(name, gain):
    image = scene((64, 80)).astype(np.float32)
    score = metric(name)
    assert score(image * np.float32(gain)) == pytest.approx(score(image), rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("name", sorted(set(BUILT_IN) - ROUGH))
def test_brightness_of_integer_frames(name):
    image = scene().astype(np.uint8)
    score = metric(name)
    assert score(image.astype(np.uint16) * 257) == pytest.approx(score(image), rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_roi_is_the_crop(data):
    image = np.random.default_rng(5).integers(0, 255, (60, 70, 3)).astype(np.uint8)
    row_start = data.draw(st.integers(0, 44))
    row_stop = data.draw(st.integers(row_start + 16, 60))
    col_start = data.draw(st.integers(0, 54))
    col_stop = data.draw(st.integers(col_start + 16, 70))
    roi = (row_start, row_stop, col_start, col_stop)
    crop = image[row_start:row_stop, col_start:col_stop]
    assert metric("tenengrad", roi=roi)(image) == metric("tenengrad")(crop)


def test_denoising_is_a_gaussian_blur():
    image = scene().astype(np.uint8)
    blurred = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.5)
    assert metric("tenengrad", denoise_sigma_px=1.5)(image) == metric("tenengrad")(blurred)
    assert metric("tenengrad", denoise_sigma_px=1.5)(image) < metric("tenengrad")(image)


def test_the_frame_is_left_unchanged():
    image = scene().astype(np.float32)
    before = image.copy()
    for name in BUILT_IN:
        metric(name, denoise_sigma_px=1, roi=(0, 64, 0, 64))(image)
        metric(name)(image)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("shape", [(64, 64), (64, 64, 3)], ids=["grey", "rgb"])
def test_float64_is_scored_like_float32(shape):
    image = np.random.default_rng(6).random(shape)
    assert metric(DEFAULT_METRIC)(image) == metric(DEFAULT_METRIC)(image.astype(np.float32))


def test_default_finds_focus_where_the_plain_laplacian_sees_only_noise():
    """At 2 electrons per pixel, in white, over 21 steps of 0.35 px of blur."""
    rng = np.random.default_rng(7)
    steps = np.arange(-10, 11)
    hits = dict.fromkeys((DEFAULT_METRIC, "variance_of_laplacian"), 0)
    n_stacks = 12
    for seed in range(n_stacks):
        image = scene((384, 384), seed=seed)
        electrons = [
            cv2.GaussianBlur(image, (0, 0), np.hypot(0.7, 0.35 * abs(step))) / 255 * 2 for step in steps
        ]
        stack = [rng.poisson(frame).astype(np.uint16) for frame in electrons]
        for name in hits:
            best = steps[np.argmax([metric(name)(frame) for frame in stack])]
            hits[name] += abs(best) <= 1
    assert hits[DEFAULT_METRIC] >= 0.6 * n_stacks
    assert hits[DEFAULT_METRIC] >= hits["variance_of_laplacian"] + 0.3 * n_stacks


@pytest.mark.parametrize("shape", [(100, 50), (55, 116), (16, 16), (480, 640)])
@pytest.mark.parametrize("name", BUILT_IN)
def test_small_and_oblong_frames(name, shape):
    sharp = scene(shape)
    score = metric(name)(sharp.astype(np.uint8))
    assert np.isfinite(score)
    if min(shape) > 16:
        assert score > metric(name)(defocused(sharp, 5).astype(np.uint8))


@pytest.mark.parametrize(
    "shape", [(50,), (32, 32, 2), (32, 32, 4), (2, 32, 32, 3), (0, 0), (15, 40), (40, 15, 3)]
)
def test_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"grey \(H, W\) or RGB \(H, W, 3\).*16 x 16 px.*got shape") as error:
        metric(DEFAULT_METRIC)(np.zeros(shape, np.uint8))
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("dtype", [np.complex64, object, "datetime64[s]"])
def test_refuses_what_is_not_real_numbers(dtype):
    with pytest.raises(TypeError, match="real numbers, got dtype"):
        metric(DEFAULT_METRIC)(np.zeros((32, 32), dtype))


@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf])
@pytest.mark.parametrize("name", BUILT_IN)
def test_refuses_to_normalise_without_brightness(name, value):
    dark = np.full((32, 32), value, np.float32)
    with np.errstate(invalid="ignore", divide="ignore"), pytest.raises(ValueError, match="whose mean is"):
        metric(name)(dark)


def test_roi_outside_the_frame_names_both():
    score = metric(DEFAULT_METRIC, roi=(0, 64, 40, 120))
    with pytest.raises(ValueError, match=r"rows 0:64, columns 40:120 do not fit in a frame of 80 rows x 100"):
        score(np.ones((80, 100), np.uint8))


@pytest.mark.parametrize(
    "roi", [(0, 64, 0), (0, 64.5, 0, 64), "abcd", (-1, 64, 0, 64), (0, 8, 0, 64), (64, 0, 0, 64), 5]
)
def test_refuses_an_impossible_roi(roi):
    with pytest.raises(ValueError, match="roi must"):
        metric(DEFAULT_METRIC, roi=roi)


@pytest.mark.parametrize("sigma", [-1, np.nan, np.inf])
def test_refuses_an_impossible_blur(sigma):
    with pytest.raises(ValueError, match="denoise_sigma_px must be finite and not negative"):
        metric(DEFAULT_METRIC, denoise_sigma_px=sigma)


@pytest.mark.parametrize("passband", [(0.2, 0.1), (-0.1, 0.2), (0.1, 0.8), (0.1,), (0.1, np.nan), 0.1])
def test_refuses_an_impossible_passband(passband):
    with pytest.raises(ValueError, match="passband_cycles_per_px must be"):
        metric("band_power", passband_cycles_per_px=passband)


def test_a_passband_is_for_band_power():
    with pytest.raises(ValueError, match="'brenner' has no passband_cycles_per_px"):
        metric("brenner", passband_cycles_per_px=(0.1, 0.2))


def test_unknown_name_lists_the_known():
    with pytest.raises(UnknownMetricError, match="'sharpness'.*brenner, .*smoothed_laplacian") as error:
        metric("sharpness")
    assert isinstance(error.value, ValueError)


def test_settings_survive_pickling():
    score = metric("band_power", roi=[0, 32, 0, 48], denoise_sigma_px=1, passband_cycles_per_px=[0.1, 0.3])
    copy = pickle.loads(pickle.dumps(score))
    assert copy == score
    assert hash(copy) == hash(score)
    assert copy.roi == (0, 32, 0, 48)
    image = scene().astype(np.uint16)
    assert copy(image) == score(image)
    with pytest.raises(AttributeError):
        score.name = "brenner"


@pytest.fixture
def registry(monkeypatch):
    from bluesky_autofocus.sharpness import _registry

    monkeypatch.setattr(_registry, "_entries", dict(_registry._entries))


def test_own_metric(registry):
    @register("largest_step")
    def largest_step(grey):
        assert grey.ndim == 2
        return float(np.abs(np.diff(grey.astype(float))).max()) ** 2

    assert "largest_step" in names()
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, 16:] = 40
    assert metric("largest_step", normalise=False)(image) == 1600
    assert metric("largest_step")(image) == pytest.approx(4)


def test_own_metric_with_its_own_normaliser_and_passband(registry):
    @register("linear", normaliser=lambda score, mean: score / mean)
    def linear(grey, passband_cycles_per_px=(0, 1)):
        return float(grey.mean()) * passband_cycles_per_px[1]

    image = np.full((16, 16), 9, np.uint16)
    assert metric("linear")(image) == 1
    assert metric("linear", passband_cycles_per_px=(0, 0.5))(image) == 0.5


def test_a_name_is_taken_once_but_its_function_may_be_redefined(registry):
    def define(value):
        @register("constant")
        def constant(grey):
            return value

    define(1.0)
    define(2.0)
    assert metric("constant", normalise=False)(np.ones((16, 16), np.uint8)) == 2
    with pytest.raises(ValueError, match=r"'brenner' is already .*_gradient\.brenner"):
        register("brenner")(lambda grey: 0.0)
