import numpy as np
import pytest

from bluesky_autofocus.sharpness import (
    BLACK,
    MAX_SATURATED_FRACTION,
    NOT_FINITE,
    SATURATED,
    TORN,
    UNIFORM,
    examine_frame,
)


def frame(dtype=np.uint16, shape=(100, 120), low=100, high=2000):
    return np.random.default_rng(0).integers(low, high, shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64, np.int32])
def test_a_usable_frame(dtype):
    image = frame(dtype)
    quality = examine_frame(image)
    assert quality.problem is None
    assert quality.finite
    assert quality.saturated_fraction == 0
    assert quality.mean == pytest.approx(image.mean())
    assert quality.contrast == pytest.approx(image.std() / image.mean())


def test_rgb():
    image = frame(np.uint8, (60, 70, 3), 10, 200)
    quality = examine_frame(image)
    assert quality.problem is None
    assert quality.mean == pytest.approx(image.mean())
    image[..., 0] = 255
    assert examine_frame(image).saturated_fraction == pytest.approx(1 / 3)
    assert examine_frame(image).problem is None
    image[:50] = 255
    assert examine_frame(image).problem == SATURATED


def test_saturation_begins_above_the_limit():
    image = frame()
    n_allowed = int(MAX_SATURATED_FRACTION * image.size)
    places = np.random.default_rng(5).permutation(image.size)
    image.flat[places[:n_allowed]] = 65535
    assert examine_frame(image).saturated_fraction == pytest.approx(MAX_SATURATED_FRACTION)
    assert examine_frame(image).problem is None
    image.flat[places[n_allowed]] = 65535
    assert examine_frame(image).problem == SATURATED


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.int32])
def test_a_camera_of_12_bits_saturates_below_its_dtype(dtype):
    image = np.minimum(frame(np.int32, high=32000), 4095).astype(dtype)
    assert examine_frame(image).problem is None
    quality = examine_frame(image, full_scale=4095)
    assert quality.problem == SATURATED
    assert quality.saturated_fraction == pytest.approx(np.mean(image == 4095))


def test_full_scale_beyond_the_dtype_is_never_reached():
    assert examine_frame(np.full((16, 16), 255, np.uint8), full_scale=4095).saturated_fraction == 0


def test_a_fractional_full_scale():
    image = frame(np.uint8, low=0, high=200)
    assert examine_frame(image, full_scale=99.5).saturated_fraction == pytest.approx(np.mean(image >= 99.5))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_single_value_that_is_not_finite(value, dtype):
    image = frame(dtype, (301, 257))
    image[201, 77] = value
    quality = examine_frame(image)
    assert not quality.finite
    assert quality.problem == NOT_FINITE


def test_opposite_infinities_do_not_cancel():
    image = frame(np.float32)
    image[0, 0], image[50, 50] = np.inf, -np.inf
    assert examine_frame(image).problem == NOT_FINITE


def test_black():
    assert examine_frame(np.zeros((32, 32), np.uint16)).problem == BLACK
    assert examine_frame(frame(np.float32) - 5000).problem == BLACK
    offset = frame(low=95, high=105)
    assert examine_frame(offset).problem is None
    assert examine_frame(offset, dark_level=100).problem == BLACK


def test_few_electrons_are_not_black():
    assert examine_frame(np.random.default_rng(1).poisson(0.5, (64, 64)).astype(np.uint16)).problem is None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_uniform(dtype):
    assert examine_frame(np.full((32, 32), 100, dtype)).problem == UNIFORM


def test_saturation_is_named_before_uniformity():
    assert examine_frame(np.full((32, 32), 255, np.uint8)).problem == SATURATED


@pytest.mark.parametrize("shape", [(50,), (32, 32, 2), (0, 0), (15, 40)])
def test_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="got shape"):
        examine_frame(np.zeros(shape, np.uint8))


def test_refuses_other_settings():
    with pytest.raises(ValueError, match="full_scale must be positive, got 0"):
        examine_frame(frame(), full_scale=0)
    with pytest.raises(TypeError, match="got dtype complex64"):
        examine_frame(frame(np.complex64))


@pytest.mark.parametrize("level", [0, 65535])
@pytest.mark.parametrize("missing", [slice(None, 30), slice(55, None)])
def test_a_frame_without_its_first_or_last_rows(level, missing):
    image = frame()
    image[missing] = level
    assert examine_frame(image).problem == TORN
    assert examine_frame(image).torn_rows == len(image[missing])


def test_a_clipped_background_is_not_torn():
    rows, columns = np.ogrid[:100, :120]
    spot = 30_000 * np.exp(-((rows - 70) ** 2 + (columns - 60) ** 2) / 200)
    image = np.maximum(spot - 50, 0).astype(np.uint16)
    assert (image[:20] == 0).all()
    assert examine_frame(image).problem is None
    assert examine_frame(65535 - image).problem is None


def test_a_row_that_is_missing_alone_does_no_harm():
    image = frame()
    image[0] = 0
    assert examine_frame(image).problem is None


def test_stripes_are_not_torn():
    image = np.full((48, 64), 1000, np.uint16)
    image[::2] += 400
    assert examine_frame(image).problem is None
