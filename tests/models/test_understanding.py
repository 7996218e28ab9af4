"""Saliency and its picture, and that of the illumination study."""

import subprocess
import sys

import numpy as np
import pytest

from bluesky_autofocus.models._dense import DenseNetwork
from bluesky_autofocus.models.single_shot.features import StripFeatures
from bluesky_autofocus.models.single_shot.understanding import (
    illumination_study_picture,
    on_spectrum,
    saliency,
    saliency_picture,
)
from bluesky_autofocus.optics import LightOptics

FEATURES = StripFeatures(LightOptics(), (0.4, 0.0), 64)


def network(size=FEATURES.size):
    rng = np.random.default_rng(0)
    return DenseNetwork(
        [(rng.standard_normal((size, 16)), rng.standard_normal(16)), (rng.standard_normal((16, 1)), [0.0])]
    )


def test_the_saliency_is_the_mean_magnitude_of_the_gradient():
    made, x = network(), np.random.default_rng(1).random((700, FEATURES.size))
    expected = np.abs(made.gradient(x)).mean(axis=0)
    for model in (made, made.gradient):
        np.testing.assert_allclose(saliency(model, x), expected, rtol=1e-5)
    np.testing.assert_allclose(saliency(made, x.reshape(350, 2, -1)), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="no vectors"):
        saliency(made, x[:0])


def test_what_moves_the_answer_stands_out_where_it_lies():
    """A network that looks at one frequency, found again in a frame with a grating of that frequency."""
    y, x = np.mgrid[:64, :64]
    grating = 1000 + 500 * np.cos(2 * np.pi * (10 * x + 2 * y) / 64)
    vector = FEATURES(grating)[0]
    kernel = np.zeros((FEATURES.size, 1))
    kernel[vector.argmax()] = 3.0
    found = saliency(DenseNetwork([(kernel, [0.0])]), np.ones((4, FEATURES.size)))
    picture, across, along = on_spectrum(found, FEATURES)
    step = 1 / (64 * 0.3)
    where = {
        (round(across[i] / step), round(along[j] / step))
        for i, j in zip(*np.nonzero(picture > 1), strict=True)
    }
    assert where == {(2, 10), (-2, -10)}


def test_the_spectrum_of_a_frame_is_laid_out_whole():
    frame = np.random.default_rng(0).random((64, 64))
    for features in (FEATURES, StripFeatures(LightOptics(), (0.0, 0.4), 64)):
        picture, across, along = on_spectrum(features(frame)[0], features)
        whole = np.abs(np.fft.fft2(frame - frame.mean()))
        whole = whole.T if features.vertical else whole
        rows, columns = (np.rint(f * 64 * 0.3).astype(int) for f in (across, along))
        expected = whole[np.ix_(rows, columns)]
        seen = np.isfinite(picture) & (expected > 1e-6)  # the mean has been taken out
        assert seen.mean() > 0.9
        ratio = picture[seen] / expected[seen]
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)


def test_the_pictures_are_written_without_a_display(tmp_path):
    values = saliency(network(), np.random.default_rng(1).random((5, FEATURES.size)))
    figure = saliency_picture(values, FEATURES, tmp_path / "saliency.png", title="a title")
    assert figure.axes[0].get_title() == "a title" and len(figure.axes[0].patches) == 2
    centres = sorted(circle.center for circle in figure.axes[0].patches)
    np.testing.assert_allclose(centres, [(-0.4 / 0.53, 0), (0.4 / 0.53, 0)])
    assert (tmp_path / "saliency.png").read_bytes().startswith(b"\x89PNG")


ANGLES = [
    {"na_xy": [(na, 0.0)], "rmse_um": rmse} for na, rmse in ((0.1, 6.0), (0.4, 2.0), (0.2, 4.0), (0.6, 15.0))
]
PATTERNS = [
    {"name": "line of 3", "na_xy": [(0.2, 0), (0.3, 0), (0.4, 0)], "rmse_um": 1.5},
    {"name": "pair", "na_xy": [(0.4, 0), (-0.4, 0)], "rmse_um": 2.5},
    {"name": "one", "study": "pattern", "na_xy": [(0.4, 0)], "rmse_um": 2.0},
]


def test_the_illumination_study_shows_angles_and_patterns(tmp_path):
    figure = illumination_study_picture(
        ANGLES + PATTERNS, tmp_path / "study.png", numerical_aperture=0.5, depth_of_field_um=2.7
    )
    assert (tmp_path / "study.png").stat().st_size > 1000
    line = figure.axes[0].lines[0]
    np.testing.assert_array_equal(line.get_xdata(), [0.1, 0.2, 0.4, 0.6])
    labels = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    assert labels == ["line of 3", "one", "pair"]  # the best first


@pytest.mark.parametrize("rows", [ANGLES, PATTERNS])
def test_one_part_of_the_study_is_enough(rows):
    assert illumination_study_picture(rows).axes


def test_no_rows_are_an_error():
    with pytest.raises(ValueError, match="no rows"):
        illumination_study_picture([])


def test_matplotlib_is_loaded_only_to_draw():
    code = (
        "import sys, bluesky_autofocus.models.single_shot.understanding, bluesky_autofocus.models\n"
        "assert not {'matplotlib', 'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
