"""Average quick frames in place of one slow scan, having moved each to where the others are.

N frames of a dwell time have the shot noise of one of N times that, and cost the same dose. What drifts while
they are taken makes a slow scan askew; in their average it is a blur, unless they are registered first.
"""

import dataclasses
import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

__all__ = ["AveragedFrames", "average_frames"]

SMOOTHING_PX = 1.5
"""Of what is correlated: noise has no place of its own from pixel to pixel. Whitened spectra, as
`cv2.phaseCorrelate` compares them, are off by 0.3 px where plain ones are by 0.02, in frames of 300 electrons
a pixel that are four depths of field out of focus, and by tens of pixels in sparse ones of 30."""

SURE = 5.0
"""A shift is believed if the correlation is so many standard deviations of what noise alone gives: the
highest of the thousand shifts that are looked at is above that in less than one of a thousand frames."""

PASSES = 2
"""The first finds the shift to part of a pixel, against a window that stays where it is; the second what is
left of it."""


@dataclasses.dataclass(frozen=True)
class AveragedFrames:
    """Several frames in one.

    Parameters
    ----------
    frame : numpy.ndarray of float32, shape (H, W)
        Their mean, as the first one lies.
    shifts_px : numpy.ndarray, shape (N, 2)
        How far the content of each lies down and to the right of that of the first; 0 where nothing tells.
    """

    frame: NDArray[np.float32]
    shifts_px: NDArray[np.float64]


def average_frames(
    frames: Sequence[ArrayLike], *, register: bool = True, most_px: float = 16.0
) -> AveragedFrames:
    """Average frames of one field.

    Each is moved by its shift from the mean of those before, to a part of a pixel. At the borders fewer
    frames are averaged.

    Parameters
    ----------
    frames : sequence of array_like, shape (H, W)
        In the order in which they were taken.
    register : bool
        Whether to move them. Without it the mean is that of each pixel.
    most_px : float
        Largest shift from one frame to the next that is looked for, along either axis.

    Raises
    ------
    ValueError
        If there are no frames, they are not grey or differ in shape, or `most_px` is not positive.

    References
    ----------
    M. Guizar-Sicairos, S. T. Thurman and J. R. Fienup, Opt. Lett. 33, 156 (2008), on registration by
    cross-correlation.
    """
    stack = [np.asarray(frame, dtype=np.float32) for frame in frames]
    if not stack or stack[0].ndim != 2 or any(frame.shape != stack[0].shape for frame in stack):
        raise ValueError(
            f"expected one or more grey frames of one shape, got {[frame.shape for frame in stack]}"
        )
    if not (math.isfinite(most_px) and most_px > 0):
        raise ValueError(f"most_px must be positive and finite, got {most_px!r}")
    shifts = np.zeros((len(stack), 2))
    if not register:
        return AveragedFrames(np.asarray(np.mean(stack, axis=0, dtype=np.float32)), shifts)
    total, weight = stack[0].copy(), np.ones_like(stack[0])
    for number, frame in enumerate(stack[1:], 1):
        reference, shift = total / weight, shifts[number - 1].copy()
        for _ in range(PASSES):
            shift += _shift(reference, _moved(frame, shift)[0], most_px)
        shifts[number] = shift
        moved, inside = _moved(frame, shift)
        total += moved * inside
        weight += inside
    return AveragedFrames(total / weight, shifts)


def _moved(
    frame: NDArray[np.float32], shift: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a frame whose shift is taken back, and where there is something of it."""
    if not shift.any():
        return frame, np.ones_like(frame)
    down_px, right_px = shift
    back = np.array([[1, 0, -right_px], [0, 1, -down_px]], dtype=np.float32)
    moved = cv2.warpAffine(
        frame, back, frame.shape[::-1], flags=cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE
    )
    inside = np.ones_like(frame)
    for axis, by_px in enumerate(shift):
        gone = min(math.ceil(abs(by_px)), frame.shape[axis])
        lines = np.moveaxis(inside, axis, 0)
        if by_px > 0:
            lines[len(lines) - gone :] = 0
        elif by_px < 0:
            lines[:gone] = 0
    return np.asarray(moved, dtype=np.float32), inside


def _shift(reference: NDArray[np.float32], frame: NDArray[np.float32], most_px: float) -> NDArray[np.float64]:
    """Return how far a frame lies down and to the right of another; 0 where that is not to be told."""
    along_y, along_x = (np.hanning(size) for size in frame.shape)
    window = (along_y[:, None] * along_x).astype(np.float32)
    one, other = (_smooth(image) * window for image in (reference, frame))
    shape = [fft.next_fast_len(size + 2 * math.ceil(most_px), real=True) for size in frame.shape]
    product = np.asarray(fft.rfft2(other, s=shape)) * np.asarray(fft.rfft2(one, s=shape)).conj()
    reach = [min(math.ceil(most_px) + 1, size - 1) for size in frame.shape]
    correlation = np.roll(np.asarray(fft.irfft2(product, s=shape)), reach, axis=(0, 1))
    correlation = correlation[: 2 * reach[0] + 1, : 2 * reach[1] + 1]
    # the outermost lags are there for the fit only
    inner = correlation[1:-1, 1:-1]
    row, column = (index + 1 for index in np.unravel_index(np.argmax(inner), inner.shape))
    # pixels that are independent of each other, the window and the smoothing allowed for
    independent = float((window**2).sum() ** 2 / (window**4).sum()) / (4 * math.pi * SMOOTHING_PX**2)
    strength = math.sqrt(float((one**2).sum()) * float((other**2).sum()))
    if not correlation[row, column] > SURE / math.sqrt(independent) * strength:
        return np.zeros(2)
    part = (
        _vertex(*correlation[row - 1 : row + 2, column]),
        _vertex(*correlation[row, column - 1 : column + 2]),
    )
    return np.array([row, column], dtype=np.float64) - reach + np.array(part)


def _smooth(image: NDArray[np.float32]) -> NDArray[np.float32]:
    smooth = cv2.GaussianBlur(image, (0, 0), SMOOTHING_PX)
    return np.asarray(smooth - smooth.mean(), dtype=np.float32)


def _vertex(before: float, at: float, after: float) -> float:
    """Return where the parabola through three values, a step apart, has its vertex."""
    bend = before - 2 * at + after
    return float(0.5 * (before - after) / bend) if bend < 0 else 0.0
