"""Metrics of second differences and of plain variance."""

from functools import lru_cache

import cv2
import numpy as np

from ._moments import mean, mean_square, variance
from ._registry import already_relative, per_mean, register


@register("normalised_variance", normaliser=per_mean)
def normalised_variance(grey: np.ndarray) -> float:
    """Return the variance over the mean [1]_; NaN for a frame whose mean is 0.

    References
    ----------
    .. [1] F. C. A. Groen, I. T. Young, G. Ligthart, "A comparison of different focus functions for use in
       autofocus algorithms", Cytometry 6 (1985) 81.
    """
    brightness = mean(grey)
    return variance(grey) / brightness if brightness else float("nan")


@register("variance_of_laplacian")
def variance_of_laplacian(grey: np.ndarray) -> float:
    """Return the variance of the four-neighbour Laplacian [1]_, ``cv2.Laplacian(grey, cv2.CV_64F).var()``.

    White noise of variance s² adds 20 s², so a noisy frame needs `smoothed_laplacian` instead.

    References
    ----------
    .. [1] J. L. Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 3 (2000) 314.
    """
    # The Laplacian of uint8 lies within +-1020 and fits int16, which halves the memory traffic.
    depth = cv2.CV_16S if grey.dtype == np.uint8 else cv2.CV_32F
    return variance(cv2.Laplacian(grey, depth))


@register("smoothed_laplacian")
def smoothed_laplacian(grey: np.ndarray) -> float:
    """Return the variance of the Laplacian after a Gaussian-like blur of 2.2 px, at half the resolution.

    The blur is the binomial kernel (1 4 6 4 1) / 16 once at full and once at half resolution: standard
    deviations of 1 px and 2 px, together 2.2 px. It passes the part of the noise that lies in the band of
    most optical images and no more: the Laplacian alone weights each frequency by its fourth power and
    so mostly measures noise. Half the resolution loses nothing after the first blur and costs a quarter.
    """
    return variance(cv2.Laplacian(half_resolution(grey), cv2.CV_32F))


def half_resolution(grey: np.ndarray) -> np.ndarray:
    """Return a frame blurred by 2.2 px, at half the resolution: (H / 2, W / 2) rounded up, of float32."""
    # In float32: where a pixel counts only a few electrons, averages rounded to integers would lose the gain.
    half = cv2.pyrDown(grey.astype(np.float32, copy=False))
    return cv2.GaussianBlur(half, (5, 5), 0)


_FINE_LEVEL, _COARSE_LEVEL = 2, 4
_MAX_RATIO_ERROR = 0.1
# Below this a real camera shows mostly its fixed pattern and compression, which are not white.
_MIN_COARSE_CONTRAST = 0.005


@register("laplacian_ratio", normaliser=already_relative)
def laplacian_ratio(grey: np.ndarray) -> float:
    """Return the energy of detail of about 8 px over that of about 32 px, less the noise in each.

    Contrast cancels, so one threshold tells a blurred frame from a sharp one on fields of differing
    contrast: detail whose power falls with the square of the frequency, as in most scenes, gives about 1 in
    focus and tends to 0 with defocus. The energies are the mean squares of the Laplacian at two levels of a
    binomial pyramid. Noise is taken as white and estimated from the frame by Immerkaer's operator [1]_;
    smoothing the frame beforehand defeats that estimate, and noise that is not white (fixed pattern,
    JPEG) is mistaken for detail where there is little other. Not for finding the sharpest frame of a stack.

    Returns
    -------
    float
        The ratio, at least 0; 0.0 also where noise alone scatters it by more than 0.1 or the coarse detail
        is fainter than 0.5 % of the brightness, for then the frame holds nothing to judge.

    References
    ----------
    .. [1] J. Immerkaer, "Fast noise variance estimation", Comput. Vis. Image Underst. 64 (1996) 300, with
       the mean square in place of the mean magnitude so that it also holds for counts of few electrons.
    """
    frame = grey.astype(np.float32, copy=False)
    noise_variance = mean_square(cv2.filter2D(frame, cv2.CV_32F, _NOISE_OPERATOR))
    fine_frame = _pyramid_level(frame, _FINE_LEVEL)
    coarse_frame = _pyramid_level(fine_frame, _COARSE_LEVEL - _FINE_LEVEL)
    fine_noise, coarse_noise = (_noise_gain(level) * noise_variance for level in (_FINE_LEVEL, _COARSE_LEVEL))
    fine = mean_square(cv2.Laplacian(fine_frame, cv2.CV_32F)) - fine_noise
    coarse = mean_square(cv2.Laplacian(coarse_frame, cv2.CV_32F)) - coarse_noise
    # The mean square of n normal values scatters by sqrt(2 / n) of itself.
    fine_scatter = fine_noise * (2 / fine_frame.size) ** 0.5
    coarse_scatter = coarse_noise * (2 / coarse_frame.size) ** 0.5
    faintest = _MIN_COARSE_CONTRAST**2 * mean_square(coarse_frame)
    if coarse <= max(fine_scatter / _MAX_RATIO_ERROR, coarse_scatter / _MAX_RATIO_ERROR, faintest):
        return 0.0
    return max(fine, 0.0) / coarse


# The difference of two Laplacians: blind to edges, and of unit gain for white noise (36 / 6²).
_NOISE_OPERATOR = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6


def _pyramid_level(frame: np.ndarray, level: int) -> np.ndarray:
    for _ in range(level):
        frame = cv2.pyrDown(frame)
    return frame


@lru_cache
def _noise_gain(level: int) -> float:
    """Return the variance of the Laplacian at a pyramid level for white noise of variance 1 in the frame.

    That is the sum of the squared weights with which one value of it draws on the pixels of the frame.
    """
    blur = np.ones(1)
    for step in range(level):
        blur = np.convolve(blur, _spread((1, 4, 6, 4, 1), 2**step)) / 16
    spacing_px = 2**level
    second_difference = np.convolve(blur, _spread((1, -2, 1), spacing_px))
    blur = np.pad(blur, spacing_px)
    weights = np.outer(blur, second_difference) + np.outer(second_difference, blur)
    return float(np.sum(weights**2))


def _spread(kernel: tuple[int, ...], spacing_px: int) -> np.ndarray:
    spread = np.zeros((len(kernel) - 1) * spacing_px + 1)
    spread[::spacing_px] = kernel
    return spread
