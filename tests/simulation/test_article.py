import cv2
import numpy as np
import pytest
from scipy import optimize

from bluesky_autofocus.simulation import ArticleMicroscope
from bluesky_autofocus.simulation.article import BOUNDS, OPTIMUM


def laplacian_variance(image):
    return cv2.Laplacian(image, cv2.CV_64F).var()


@pytest.mark.parametrize("exposures", [5, 6])  # the article's call and its default
def test_the_search_of_the_article_ends_where_it_reports(exposures):
    microscope = ArticleMicroscope()
    tried = []

    def cost(working_distance):
        tried.append(working_distance)
        return 1 / laplacian_variance(microscope.scan_image(working_distance))

    found = optimize.minimize_scalar(cost, method="bounded", bounds=BOUNDS, options={"maxiter": exposures})
    assert found.x == pytest.approx(50, abs=5)
    assert len(tried) <= 6


def test_sharpness_is_a_bell_around_the_optimum():
    microscope = ArticleMicroscope()
    score = np.array([laplacian_variance(microscope.scan_image(z)) for z in range(10, 101, 10)])
    assert score.argmax() == 4
    assert np.all(np.diff(score[:5]) > 0)
    assert np.all(np.diff(score[4:]) < 0)


def test_in_focus_the_image_is_as_given():
    image = np.random.default_rng(0).integers(0, 256, (40, 50)).astype(np.uint8)
    np.testing.assert_array_equal(ArticleMicroscope(image).scan_image(OPTIMUM), image)


def test_a_point_becomes_a_disc_of_whole_pixels():
    image = np.zeros((21, 21), np.uint8)
    image[10, 10] = 255
    disc = ArticleMicroscope(image).scan_image(OPTIMUM + 21)  # 2.1, hence a radius of 2
    y, x = np.ogrid[-10:11, -10:11]
    np.testing.assert_array_equal(disc, np.where(x**2 + y**2 <= 4, np.rint(255 / 13), 0))


def test_the_blur_is_a_stair():
    microscope = ArticleMicroscope()
    np.testing.assert_array_equal(microscope.scan_image(50), microscope.scan_image(54.9))
    assert np.any(microscope.scan_image(54.9) != microscope.scan_image(55.1))


def test_bad_inputs_are_refused():
    with pytest.raises(ValueError, match="working_distance is nan: expected a finite number"):
        ArticleMicroscope().scan_image(float("nan"))
    with pytest.raises(ValueError, match=r"image is float64 of shape \(4, 4\): expected uint8"):
        ArticleMicroscope(np.zeros((4, 4)))
