"""Metrics of first differences: Tenengrad, Brenner and Vollath's autocorrelations."""

from collections.abc import Iterable

import cv2
import numpy as np

from ._moments import mean, mean_square, mean_squared_difference
from ._registry import register


@register("tenengrad")
def tenengrad(grey: np.ndarray) -> float:
    """Return the mean squared Sobel gradient, Gx² + Gy² [1]_.

    References
    ----------
    .. [1] E. Krotkov, "Focusing", Int. J. Comput. Vision 1 (1988) 223, without its threshold.
    """
    depth = cv2.CV_16S if grey.dtype == np.uint8 else cv2.CV_32F
    return mean_square(cv2.Sobel(grey, depth, 1, 0)) + mean_square(cv2.Sobel(grey, depth, 0, 1))


@register("brenner")
def brenner(grey: np.ndarray) -> float:
    """Return the mean squared difference of pixels two apart, (f(x + 2) - f(x))² [1]_, summed over both axes.

    References
    ----------
    .. [1] J. F. Brenner et al., "An automated microscope for cytologic research",
       J. Histochem. Cytochem. 24 (1976) 100, there along one axis only.
    """
    return sum(mean_squared_difference(f[0], f[2]) for f in _shifted(grey, 2))


@register("vollath_f4")
def vollath_f4(grey: np.ndarray) -> float:
    """Return Vollath's F4, the mean of f(x) f(x + 1) - f(x) f(x + 2), averaged over both axes.

    White noise adds to neither product. Every term runs over the same x.

    References
    ----------
    .. [1] D. Vollath, "Automatic focusing by correlative methods", J. Microsc. 147 (1987) 279.
    """
    return _axis_mean(
        _mean_product(f0, f1) - _mean_product(f0, f2)  #
        for f0, f1, f2 in _shifted(grey, 2)
    )


@register("vollath_f5")
def vollath_f5(grey: np.ndarray) -> float:
    """Return Vollath's F5, the mean of f(x) f(x + 1) less the squared mean of f, averaged over both axes.

    This is the variance without that of white noise.

    References
    ----------
    .. [1] D. Vollath, "The influence of the scene parameters and of noise on the behaviour of automatic
       focusing algorithms", J. Microsc. 151 (1988) 133.
    """
    return _axis_mean(_mean_product(f0, f1) for f0, f1 in _shifted(grey, 1)) - mean(grey) ** 2


def _shifted(grey: np.ndarray, largest_px: int) -> list[list[np.ndarray]]:
    """Return, for each axis, the views f(x), f(x + 1), ... f(x + largest_px) of one common length."""
    height_px, width_px = grey.shape
    shifts = range(largest_px + 1)
    return [
        [grey[:, s : width_px - largest_px + s] for s in shifts],
        [grey[s : height_px - largest_px + s] for s in shifts],
    ]


def _axis_mean(values: Iterable[float]) -> float:
    along_row, along_column = values
    return (along_row + along_column) / 2


def _mean_product(a: np.ndarray, b: np.ndarray) -> float:
    # ab = (a² + b² - (a - b)²) / 2, because OpenCV sums squares in float64 without copying the frame.
    return (mean_square(a) + mean_square(b) - mean_squared_difference(a, b)) / 2
