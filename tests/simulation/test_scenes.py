import sys

import cv2
import numpy as np
import pytest
import tifffile

from bluesky_autofocus.simulation import KINDS, scene, scene_from_image
from bluesky_autofocus.simulation.scenes import _drop_spheres

PHOTOGRAPHS = {"brick", "cell", "grass", "gravel"}


def laplacian_variance(image):
    return cv2.Laplacian(image.astype(np.float64), cv2.CV_64F).var()


@pytest.fixture(autouse=True)
def _scikit_image_for_photographs(request):
    if getattr(request.node, "callspec", None) and request.node.callspec.params.get("kind") in PHOTOGRAPHS:
        pytest.importorskip("skimage")


@pytest.mark.parametrize("kind", KINDS)
def test_scene_is_a_reproducible_signal(kind):
    image = scene(kind, seed=3, shape=(300, 400))
    assert image.shape == (300, 400)
    assert image.dtype == np.float32
    assert image.min() >= 0
    assert image.max() <= 1
    assert image.std() > 0.01
    np.testing.assert_array_equal(image, scene(kind, seed=3, shape=(300, 400)))
    assert np.any(image != scene(kind, seed=4, shape=(300, 400)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_blur_of_one_pixel_costs_sharpness(kind):
    image = scene(kind, seed=1, shape=(512, 512))
    blurred = cv2.GaussianBlur(image, (0, 0), 0.5)  # about as much as a disc of 2 pixels
    assert laplacian_variance(blurred) < 0.8 * laplacian_variance(image)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - PHOTOGRAPHS))
@pytest.mark.parametrize("shape", [(1, 1), (7, 40), (65, 33)])
def test_any_shape_will_do(kind, shape):
    assert scene(kind, seed=0, shape=shape).shape == shape


def test_spheres_have_bright_rims_and_dark_feet():
    image = np.full((400, 400), 0.2, np.float32)
    _drop_spheres(image, np.random.default_rng(1), np.array([40.0]))
    row, column = np.unravel_index(image.argmax(), image.shape)
    inside = image > 0.22
    centre = np.argwhere(inside).mean(axis=0)
    assert np.hypot(row - centre[0], column - centre[1]) > 37
    assert image.max() > 2 * image[tuple(centre.astype(int))]
    assert image.min() < 0.15


@pytest.mark.parametrize("kind", ["cheese", ""])
def test_unknown_kind_is_named_with_those_known(kind):
    with pytest.raises(ValueError, match=f"unknown scene '{kind}'.*grains.*gravel"):
        scene(kind, seed=0)


@pytest.mark.parametrize("shape", [(0, 5), (5,), (4, 4, 4)])
def test_bad_shape_is_refused(shape):
    with pytest.raises(ValueError, match="expected two positive integers"):
        scene("grains", seed=0, shape=shape)


def test_without_scikit_image_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(ImportError, match=r"bluesky-autofocus\[simulation\]"):
        scene("brick", seed=0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_own_image_of_any_type_is_stretched(dtype):
    image = scene_from_image(np.array([[10, 20], [30, 50]], dtype))
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, [[0, 0.25], [0.5, 1]], atol=1e-7)


def test_own_colour_image_becomes_grey():
    rgb = np.zeros((1, 4, 3), np.uint8)
    rgb[0, 1:] = 255 * np.eye(3)
    green = scene_from_image(rgb)[0] * 0.587  # green is the brightest
    np.testing.assert_allclose(green, [0, 0.299, 0.587, 0.114], atol=1e-6)
    rgba = np.concatenate([rgb, np.full((1, 4, 1), 9, np.uint8)], axis=2)
    np.testing.assert_array_equal(scene_from_image(rgba), scene_from_image(rgb))


@pytest.mark.parametrize("name", ["grey.png", "grey.tif", "grey.TIFF"])
def test_own_image_from_a_file(tmp_path, name):
    pixels = np.random.default_rng(0).integers(0, 4096, (20, 30)).astype(np.uint16)
    path = tmp_path / name
    if name.endswith("png"):
        cv2.imwrite(str(path), pixels)
    else:
        tifffile.imwrite(path, pixels)
    np.testing.assert_array_equal(scene_from_image(path), scene_from_image(pixels))
    np.testing.assert_array_equal(scene_from_image(str(path)), scene_from_image(pixels))


def test_own_colour_file_has_its_channels_in_order(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "colour.png"), rgb[..., ::-1])
    np.testing.assert_array_equal(scene_from_image(tmp_path / "colour.png"), scene_from_image(rgb))


def test_own_image_is_cropped_or_mirrored_but_never_resampled():
    pixels = np.arange(8.0)[None, :] * np.ones((3, 1))
    assert scene_from_image(pixels, (1, 4))[0].tolist() == pytest.approx(np.arange(2, 6) / 7)
    assert scene_from_image(pixels, (5, 10))[0].tolist() == pytest.approx(
        np.array([0, 0, 1, 2, 3, 4, 5, 6, 7, 7]) / 7
    )


def test_bad_images_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no image file at .*absent\.png"):
        scene_from_image(tmp_path / "absent.png")
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(ValueError, match="not an image"):
        scene_from_image(tmp_path / "text.png")
    with pytest.raises(ValueError, match=r"shape \(2, 2, 2\): expected"):
        scene_from_image(np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match=r"spans 7\.0 to 7\.0: expected"):
        scene_from_image(np.full((4, 4), 7))
    with pytest.raises(ValueError, match="expected finite"):
        scene_from_image(np.array([[0, np.nan]]))
