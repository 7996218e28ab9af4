"""Each metric against its definition, written out in NumPy on a small frame."""

import cv2
import numpy as np
import pytest
from scipy.fft import dctn

from bluesky_autofocus.sharpness import metric


def frame(dtype, shape=(24, 20), seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)


def laplacian(f):
    p = np.pad(f.astype(float), 1, mode="reflect")
    return p[:-2, 1:-1] + p[2:, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:] - 4 * f


def binomial_blur(f):
    kernel = np.array([1, 4, 6, 4, 1]) / 16
    p = np.pad(f.astype(float), 2, mode="reflect")
    rows = sum(k * p[i : i + f.shape[0]] for i, k in enumerate(kernel))
    return sum(k * rows[:, i : i + f.shape[1]] for i, k in enumerate(kernel))


def tenengrad(f):
    p = np.pad(f, 1, mode="reflect")
    smooth_rows = p[:-2] + 2 * p[1:-1] + p[2:]
    smooth_columns = p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]
    along_row = smooth_rows[:, 2:] - smooth_rows[:, :-2]
    along_column = smooth_columns[2:] - smooth_columns[:-2]
    return np.mean(along_row**2 + along_column**2)


def brenner(f):
    return np.mean((f[:, 2:] - f[:, :-2]) ** 2) + np.mean((f[2:] - f[:-2]) ** 2)


def vollath_f4(f):
    def along_row(f):
        return np.mean(f[:, :-2] * f[:, 1:-1]) - np.mean(f[:, :-2] * f[:, 2:])

    return (along_row(f) + along_row(f.T)) / 2


def vollath_f5(f):
    return (np.mean(f[:, :-1] * f[:, 1:]) + np.mean(f[:-1] * f[1:])) / 2 - np.mean(f) ** 2


def dct_energy(f):
    order = np.add.outer(np.arange(8), np.arange(8))
    middle = (order >= 2) & (order <= 5)
    energies = [
        dctn(f[row : row + 8, column : column + 8], norm="ortho")[middle] ** 2
        for row in range(0, f.shape[0] // 8 * 8, 8)
        for column in range(0, f.shape[1] // 8 * 8, 8)
    ]
    return np.mean(energies)


def radius_cycles_per_px(shape):
    return np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1]))


def band_power(f):
    radius = radius_cycles_per_px(f.shape)
    return np.sum(np.abs(np.fft.fft2(f))[(radius >= 0.05) & (radius < 0.2)] ** 2) / f.size**2


def log_power(f):
    log_spectrum = np.log(np.abs(np.fft.fft2(f)) ** 2 / f.size)
    number = (radius_cycles_per_px(f.shape).astype(np.float64) * min(f.shape)).astype(int)
    n_radii = min(f.shape) // 2
    return np.mean([log_spectrum[number == n].mean() for n in range(n_radii // 4, n_radii)])


DEFINITIONS = {
    "variance_of_laplacian": lambda f: laplacian(f).var(),
    "smoothed_laplacian": lambda f: laplacian(binomial_blur(binomial_blur(f)[::2, ::2])).var(),
    "normalised_variance": lambda f: f.var() / f.mean(),
    "tenengrad": tenengrad,
    "brenner": brenner,
    "vollath_f4": vollath_f4,
    "vollath_f5": vollath_f5,
    "dct_energy": dct_energy,
    "band_power": band_power,
    "log_power": log_power,
}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(24, 20), (33, 41)])
@pytest.mark.parametrize("name", DEFINITIONS)
def test_metric_is_its_definition(name, shape, dtype):
    image = frame(dtype, shape)
    expected = DEFINITIONS[name](image.astype(np.float64))
    assert metric(name, normalise=False)(image) == pytest.approx(expected, rel=1e-4)


def test_brenner_by_hand():
    # Columns 0 0 2 2 0 0 2 2 ...: every difference over two columns is 2, over two rows 0.
    image = np.tile(np.array([0, 0, 2, 2], np.uint8), (16, 4))
    assert metric("brenner", normalise=False)(image) == 4


def test_variance_of_laplacian_by_hand():
    # A checkerboard of 0 and 1: the Laplacian is +-4 everywhere, also at the mirrored edges.
    image = np.indices((16, 16)).sum(0).astype(np.uint8) % 2
    assert metric("variance_of_laplacian", normalise=False)(image) == 16


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)], ids=["uint8", "uint16"])
def test_variance_of_laplacian_equals_the_common_way(dtype, top):
    image = np.random.default_rng(1).integers(0, top, (500, 700), endpoint=True).astype(dtype)
    common = cv2.Laplacian(image, cv2.CV_64F).var()
    assert metric("variance_of_laplacian", normalise=False)(image) == pytest.approx(common, rel=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_no_sum_overflows_at_full_scale(dtype):
    stripes = np.zeros((1024, 1024), dtype)
    stripes[:, np.arange(1024) % 4 > 1] = np.iinfo(dtype).max
    for name in ("variance_of_laplacian", "tenengrad", "brenner", "vollath_f5", "normalised_variance"):
        score = metric(name, normalise=False)
        assert score(stripes) == pytest.approx(score(stripes.astype(np.float32)), rel=1e-6)


@pytest.mark.parametrize("name", ["normalised_variance", "vollath_f5"])
def test_faint_detail_on_a_bright_background(name):
    rng = np.random.default_rng(2)
    image = 30_000 + cv2.GaussianBlur(rng.normal(size=(256, 256)), (0, 0), 2) * 40
    image = image.astype(np.float32)
    expected = DEFINITIONS[name](image.astype(np.float64))
    assert metric(name, normalise=False)(image) == pytest.approx(expected, rel=1e-3)


def test_band_powers_add_up_to_the_variance():
    image = frame(np.float32, (31, 40))
    bands = [(1e-6, 0.1), (0.1, 0.3), (0.3, 0.5**0.5)]
    total = sum(metric("band_power", normalise=False, passband_cycles_per_px=b)(image) for b in bands)
    corner = np.abs(np.fft.fft2(image)[radius_cycles_per_px(image.shape) >= 0.5**0.5]) ** 2
    assert total + corner.sum() / image.size**2 == pytest.approx(image.var(), rel=1e-4)


def test_band_power_of_a_grating_lies_in_its_band():
    grating = np.broadcast_to(100 + 10 * np.cos(2 * np.pi * np.arange(100) * 0.1), (50, 100))
    inside = metric("band_power", normalise=False, passband_cycles_per_px=(0.09, 0.11))
    outside = metric("band_power", normalise=False, passband_cycles_per_px=(0.12, 0.3))
    assert inside(grating) == pytest.approx(50, rel=1e-4)
    assert outside(grating) < 1e-6


class TestLaplacianRatio:
    @staticmethod
    def scene(blur_sigma_px, contrast, noise=0.0, seed=3):
        rng = np.random.default_rng(seed)
        shape = (384, 384)
        radius = radius_cycles_per_px(shape)
        radius[0, 0] = 1
        detail = np.fft.ifft2(np.fft.fft2(rng.normal(size=shape)) / radius).real
        detail *= contrast / detail.std()
        if blur_sigma_px:
            detail = cv2.GaussianBlur(detail, (0, 0), blur_sigma_px)
        image = 100 * (1 + detail) + rng.normal(0, noise, shape)
        return image.astype(np.float32)

    def test_falls_with_blur(self):
        ratio = metric("laplacian_ratio")
        scores = [ratio(self.scene(blur, 0.2)) for blur in (0, 1, 2, 4)]
        assert scores == sorted(scores, reverse=True)
        assert scores[0] > 0.5 > 0.25 > scores[-1] > 0

    def test_is_independent_of_contrast(self):
        ratio = metric("laplacian_ratio")
        for blur in (0, 2, 4):
            assert ratio(self.scene(blur, 0.05)) == pytest.approx(ratio(self.scene(blur, 0.4)), rel=0.02)

    def test_subtracts_white_noise(self):
        ratio = metric("laplacian_ratio")
        for blur in (0, 2, 4):
            clean, noisy = ratio(self.scene(blur, 0.3)), ratio(self.scene(blur, 0.3, noise=15))
            assert noisy == pytest.approx(clean, abs=0.08)

    def test_gives_zero_where_there_is_nothing_to_judge(self):
        ratio = metric("laplacian_ratio")
        assert ratio(np.full((200, 200), 7.3, np.float32)) == 0
        assert ratio(self.scene(0, 0.0, noise=10)) == 0
        assert ratio(self.scene(0, 1e-3)) == 0
