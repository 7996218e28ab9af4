import dataclasses
import math

import numpy as np
import pytest

from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.widefield import Widefield, transfer_table

DRY = LightOptics(0.45, 0.46, 0.2, 20.0, 1.0)
"""Pixels that resolve all that the objective does."""
OIL = LightOptics(1.3, 0.53, 0.08, 60.0, 1.515)
SHAPE = (256, 300)


@pytest.fixture(scope="module")
def perfect():
    return Widefield(DRY)


@pytest.fixture(scope="module")
def aberrated():
    return Widefield(DRY, 0.08)


def radial(widefield, defocus_um, count=600):
    """Return frequencies along a row, and what is transferred of them."""
    filters = widefield.transfer(defocus_um, (2, count))[..., 0, :]
    return np.fft.rfftfreq(count, widefield.optics.pixel_size_um), filters


def autocorrelation_of_a_circle(s):
    s = np.minimum(s, 1)
    return 2 / np.pi * (np.arccos(s) - s * np.sqrt(1 - s**2))


def spread(widefield, defocus_um, side=513):
    """Return the image of a point, and how far from it each pixel is in um."""
    image = np.fft.fftshift(np.fft.irfft2(widefield.transfer(defocus_um, (side, side)), s=(side, side)))
    off_um = (np.arange(side) - side // 2) * widefield.optics.pixel_size_um
    return image, np.hypot(off_um[:, None], off_um)


@pytest.mark.parametrize("optics", [DRY, dataclasses.replace(DRY, numerical_aperture=0.8), OIL])
def test_in_focus_it_is_the_autocorrelation_of_a_circle(optics):
    frequency, filters = radial(Widefield(optics, reach_um=8), 0.0)
    expected = autocorrelation_of_a_circle(frequency / optics.cutoff_per_um)
    assert np.abs(filters - expected).max() < 0.008
    assert (filters[frequency >= optics.cutoff_per_um] == 0).all()


def test_of_a_little_defocus(perfect):
    """Stokseth's approximation, J1(a) / (a / 2) of the autocorrelation, with the path of a paraxial lens."""
    from scipy.special import j1

    frequency, filters = radial(perfect, 3.0)
    s = np.minimum(frequency / DRY.cutoff_per_um, 1)
    # path between the middle of the pupil and its edge
    edge_um = 3.0 * (1 - math.sqrt(1 - DRY.numerical_aperture**2))
    a = np.maximum(8 * np.pi * edge_um / DRY.wavelength_um * s * (1 - s), 1e-6)
    approximate = autocorrelation_of_a_circle(s) * 2 * j1(a) / a
    assert np.abs(filters - approximate).max() < 0.05
    assert np.abs(filters - autocorrelation_of_a_circle(s)).max() > 0.3, "and not that in focus"


@pytest.mark.parametrize("spherical_waves", [0.0, 0.1])
def test_light_is_kept_and_none_is_made(spherical_waves):
    filters = Widefield(DRY, spherical_waves).transfer(np.linspace(-40, 40, 33), SHAPE)
    assert filters.shape == (33, 256, 151) and filters.dtype == np.float32
    np.testing.assert_allclose(filters[:, 0, 0], 1, atol=1e-6)
    assert np.abs(filters).max() <= 1 + 1e-6


def test_of_one_distance_or_many(perfect):
    many = perfect.transfer([[1.0, -2.3], [7.1, 39.9]], SHAPE)
    assert many.shape == (2, 2, 256, 151)
    np.testing.assert_array_equal(many[1, 0], perfect.transfer(7.1, SHAPE))


def test_between_the_planes_of_the_table(perfect):
    """Interpolated, as exactly as anything is known of a microscope."""
    defocus_um = np.array([0.12, 1.61, -7.37, 22.9])
    frequency, filters = radial(perfect, defocus_um)
    inside = frequency < DRY.cutoff_per_um
    exact = transfer_table(0.45, [0.46], defocus_um, frequency[inside], reach_um=50.0)
    assert np.abs(filters[:, inside] - exact).max() < 0.006


def test_a_perfect_objective_does_not_tell_above_from_below(perfect):
    np.testing.assert_array_equal(perfect.transfer(8.0, SHAPE), perfect.transfer(-8.0, SHAPE))


def test_spherical_aberration_does(aberrated):
    above, below = aberrated.transfer([8.0, -8.0], SHAPE)
    assert np.abs(above - below).max() > 0.1
    mirrored = Widefield(DRY, -0.08).transfer(-8.0, SHAPE)
    assert np.abs(above - mirrored).max() < 0.003, "the other aberration, the other side"


def test_it_blurs_on_and_on(perfect):
    filters = perfect.transfer([0.0, 2.0, 5.0, 10.0, 20.0, 40.0], SHAPE)
    assert (np.diff((filters**2).sum((1, 2))) < 0).all()


@pytest.mark.parametrize(("optics", "defocus_um"), [(DRY, 30.0), (DRY, -30.0), (OIL, 10.0)])
def test_far_from_focus_light_fills_the_cone(optics, defocus_um):
    """A pupil evenly bright, seen as Abbe's sine condition has it: n sin(angle) goes with the radius."""
    image, off_um = spread(Widefield(optics, reach_um=abs(defocus_um)), defocus_um)
    assert image.sum() == pytest.approx(1, abs=1e-4)
    sine = optics.numerical_aperture / optics.refractive_index
    cone_um = abs(defocus_um) * sine / math.sqrt(1 - sine**2)
    assert image[off_um < 1.1 * cone_um].sum() > 0.96
    for part in (0.5, 0.75):
        within = image[off_um < abs(defocus_um) * part * sine / math.sqrt(1 - (part * sine) ** 2)].sum()
        assert within == pytest.approx(part**2, abs=0.04)


def test_smaller_pixels_see_the_same(perfect):
    fine = Widefield(dataclasses.replace(DRY, pixel_size_um=0.1))
    np.testing.assert_allclose(
        fine.transfer(5.0, (400, 400))[:100, :100], perfect.transfer(5.0, (200, 200))[:100, :100], atol=1e-5
    )


@pytest.mark.parametrize("defocus_um", [40.01, -41.0, math.nan, [0.0, 50.0]])
def test_farther_than_was_asked_for(perfect, defocus_um):
    with pytest.raises(ValueError, match="defocus_um reaches .*: expected at most 40"):
        perfect.transfer(defocus_um, SHAPE)


@pytest.mark.parametrize(("name", "value"), [("spherical_waves", math.nan), ("spherical_waves", math.inf)])
def test_bad_aberration(name, value):
    with pytest.raises(ValueError, match=name):
        Widefield(DRY, value)


@pytest.mark.parametrize("reach_um", [0.0, -1.0, math.nan, math.inf])
def test_bad_reach(reach_um):
    with pytest.raises(ValueError, match="reach_um"):
        Widefield(DRY, reach_um=reach_um)


def test_one_focus_for_each_wavelength():
    with pytest.raises(ValueError, match="shorter"):
        transfer_table(0.45, [0.45, 0.46], np.zeros(1), np.linspace(0, 1, 5), reach_um=20, focus_um=[1.0])
