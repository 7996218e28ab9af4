"""Grey levels of a frame, as the networks see them and back."""

import dataclasses
import math
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Levels", "noise_of"]

_LOW, _HIGH = 2.0, 99.8
"""Percentiles that become 0 and 1. Nuclei may cover less than a hundredth of a frame."""
_EMPTY = 5.0
"""A frame whose range of grey levels is not larger than so many deviations of its noise shows nothing."""
_MOST_PIXELS = 1 << 19
"""That percentiles are taken of: about as many of a larger frame, evenly chosen."""


@dataclasses.dataclass(frozen=True)
class Levels:
    """Which grey level is 0, and how many make 1.

    Parameters
    ----------
    offset : float
        Grey level that becomes 0.
    scale : float
        Grey levels that become 1.
    """

    offset: float
    scale: float

    @classmethod
    def of(cls, frame: NDArray[Any]) -> Self:
        """Return those of a frame, shape (H, W), or of a sample of one."""
        step = max(1, math.isqrt(frame.size // _MOST_PIXELS))
        low, high = np.percentile(frame[::step, ::step], (_LOW, _HIGH))
        return cls(float(low), float(max(high - low, 1e-6)))

    def show_something(self, noise: float) -> bool:
        """Return whether there is more in the frame than noise of this deviation, in grey levels."""
        return self.scale >= _EMPTY * noise

    def apply(self, frame: NDArray[Any]) -> NDArray[np.float32]:
        """Return a frame as the networks see it."""
        return (np.asarray(frame, np.float32) - np.float32(self.offset)) * np.float32(1 / self.scale)

    def undo(self, x: NDArray[np.float32], dtype: Any) -> NDArray[Any]:
        """Return grey levels, rounded and within the range of the type where that has one."""
        levels = x * np.float32(self.scale) + np.float32(self.offset)
        if not np.issubdtype(dtype, np.integer):
            return levels.astype(dtype)
        limits = np.iinfo(dtype)
        return np.clip(np.rint(levels), limits.min, limits.max).astype(dtype)


def noise_of(frame: NDArray[Any]) -> float:
    """Return the deviation of a frame's noise in grey levels, by what its finest detail is mostly made of.

    The median of the absolute second differences in both directions: edges are few, noise is everywhere
    (Immerkaer 1996, with a median in place of the mean).
    """
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    detail = cv2.filter2D(np.asarray(frame, np.float32), -1, kernel)[1:-1, 1:-1]
    step = max(1, math.isqrt(detail.size // _MOST_PIXELS))
    return float(np.median(np.abs(detail[::step, ::step])) / (0.6745 * 6.0))
