"""How like a refocused frame is to one in focus."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["contrast_of", "psnr_db", "ssim"]


def contrast_of(target: NDArray[Any]) -> float:
    """Return the range of grey levels of a frame in focus: that by which errors are measured."""
    low, high = np.percentile(target, (2, 99.9))
    return float(max(high - low, 1e-9))


def psnr_db(frame: NDArray[Any], target: NDArray[Any]) -> float:
    """Return the peak signal-to-noise ratio of a frame, shape (H, W), in dB; the peak is the target's range.

    The full scale of a camera would say little of frames that use a part of it.
    """
    error = np.asarray(frame, np.float32) - np.asarray(target, np.float32)
    mean_square = float(np.mean(error.astype(np.float64) ** 2))
    return 10 * math.log10(contrast_of(target) ** 2 / max(mean_square, 1e-20))


def ssim(frame: NDArray[Any], target: NDArray[Any]) -> float:
    """Return the structural similarity (Wang et al. 2004) of a frame to a target, of whose range it is.

    Raises
    ------
    ImportError
        If scikit-image is not installed.
    """
    from skimage.metrics import structural_similarity

    a, b = (np.asarray(one, np.float32) for one in (frame, target))
    found: Any = structural_similarity(a, b, data_range=contrast_of(target))
    return float(found)
