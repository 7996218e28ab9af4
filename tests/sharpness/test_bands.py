import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from bluesky_autofocus.sharpness import band_energies

LEVEL = 200.0


def noise(shape, deviation=10.0, seed=0):
    return (LEVEL + np.random.default_rng(seed).normal(0, deviation, shape)).astype(np.float32)


def detail(shape, sigma_px, contrast=0.2, seed=1):
    pattern = gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma_px, mode="wrap")
    return LEVEL * (1 + contrast * pattern / pattern.std())


def specks(shape, contrast, radius_px=6.0):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    inside = np.hypot(rows - shape[0] / 3, columns - shape[1] / 2) < radius_px
    return LEVEL * (1 + contrast * gaussian_filter(inside.astype(float), 1.0))


@pytest.mark.parametrize(
    ("shape", "bands", "tiles"),
    [((512, 512), 6, 64), ((100, 300), 4, 36), ((64, 64), 4, 16), ((16, 20), 2, 1)],
)
def test_there_are_as_many_as_a_frame_has_room_for(shape, bands, tiles):
    found = band_energies(noise(shape))
    assert len(found.frequencies) == len(found.samples) == len(found.skews) == bands
    assert found.energies.shape == found.noises.shape == (bands, tiles)
    assert list(found.frequencies) == sorted(found.frequencies)


def test_of_noise_all_is_told_to_be_noise():
    found = [band_energies(noise((512, 512), seed=seed)) for seed in range(12)]
    energies = np.array([one.energies for one in found])
    for band, samples in enumerate(found[0].samples):
        level = found[0].noises[band].mean()
        assert energies[:, band].mean() == pytest.approx(level, rel=0.15)
        # each is the mean of so many squares of normal numbers
        assert energies[:, band].std() == pytest.approx(level * np.sqrt(2 / samples), rel=0.2)


@pytest.mark.parametrize("band", range(1, 6))
def test_each_band_answers_to_its_frequency(band):
    frequencies = band_energies(noise((512, 512))).frequencies
    x = np.arange(512)
    for other, frequency in enumerate(frequencies):
        wave = np.tile(LEVEL * (1 + 0.1 * np.cos(2 * np.pi * frequency * x)), (512, 1)).astype(np.float32)
        energies = band_energies(wave).energies.mean(axis=1)
        assert (energies.argmax() == band) == (other == band)


def test_defocus_takes_the_fine_bands_first():
    frame = detail((512, 512), 1.0)
    sharp = band_energies(frame).energies.mean(axis=1)
    left = [band_energies(gaussian_filter(frame, sigma)).energies.mean(axis=1) / sharp for sigma in (1, 3, 9)]
    for one in left:
        assert np.all(np.diff(one[1:]) < 0)
    assert np.all(np.diff([one[4] for one in left]) < 0)


def test_light_does_not_matter():
    frame = detail((256, 256), 2.0)
    dim, bright = (band_energies((factor * frame).astype(np.float32)) for factor in (0.5, 20.0))
    np.testing.assert_allclose(dim.energies, bright.energies, rtol=1e-3)


def test_tiles_are_where_the_detail_is():
    frame = noise((256, 256), 2.0).astype(float)
    frame[64:96, 128:160] = detail((32, 32), 1.0, 0.5)
    energies = band_energies(frame).energies[-1].reshape(8, 8)
    assert np.unravel_index(energies.argmax(), energies.shape) == (2, 4)
    assert energies[2, 4] > 20 * np.median(energies)


def test_what_stands_out_is_dark_or_bright():
    shape = (256, 256)
    dark, bright = (band_energies(specks(shape, contrast)).skews for contrast in (-0.5, 0.5))
    assert np.all(dark[-4:-1] < -5)
    np.testing.assert_allclose(bright, -dark, rtol=1e-2)
    assert np.all(np.abs(band_energies(noise(shape)).skews[-3:]) < 0.1)
    assert not band_energies(np.full(shape, LEVEL)).skews.any()


def test_a_region_is_a_frame_of_its_own():
    frame = detail((256, 256), 2.0).astype(np.float32)
    np.testing.assert_allclose(
        band_energies(frame, roi=(32, 160, 64, 192)).energies, band_energies(frame[32:160, 64:192]).energies
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float64, ">u2"])
def test_types(dtype):
    frame = detail((128, 128), 2.0, 0.05)
    expected = band_energies(frame.astype(np.float32)).energies.mean(axis=1)
    np.testing.assert_allclose(band_energies(frame.astype(dtype)).energies.mean(axis=1), expected, rtol=0.1)


def test_colours_count_as_grey():
    frame = detail((128, 128), 2.0).astype(np.float32)
    np.testing.assert_allclose(
        band_energies(np.dstack([frame] * 3)).energies, band_energies(frame).energies, rtol=1e-3
    )


@pytest.mark.parametrize("frame", [np.zeros((64, 64)), np.full((64, 64), np.nan), -noise((64, 64))])
def test_a_frame_without_a_mean(frame):
    with pytest.raises(ValueError, match="relative to its mean, which is"):
        band_energies(frame)
