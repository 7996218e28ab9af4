"""Whether a refocused frame, blurred again, gives what was recorded.

Whatever a method puts into a frame must have been in it, blurred. So its result is blurred by the known
optics at each distance from focus, and the distance that fits best is how far out the frame was; what then is
left of the frame was invented or lost. Detail so fine that the blur would wipe it out anyway is not judged by
this, only by the uncertainty that a network states.
"""

import dataclasses
import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus._fft import fft, threads
from bluesky_autofocus.widefield import Widefield

__all__ = ["Explanation", "busiest_window", "explain"]

_WINDOW_PX = 384
_EDGE_PX = 32
"""At the edge of the window what is beyond it is not known."""
_STEP_UM = 1.0
_FLOOR = 0.02
"""Of a transfer function: what the microscope passes so weakly in focus is not made up for."""


@dataclasses.dataclass(frozen=True)
class Explanation:
    """How a recorded frame follows from a refocused one.

    Parameters
    ----------
    defocus_um : float
        Distance from focus at which it fits best, without its sign.
    mismatch : float
        Deviation of what is left, less that of noise, as a share of the recorded frame's contrast.
    """

    defocus_um: float
    mismatch: float


def busiest_window(frame: NDArray[Any], side_px: int = _WINDOW_PX) -> tuple[slice, slice]:
    """Return the square of a frame, shape (H, W), in which most happens."""
    height, width = frame.shape
    step = max(1, min(height, width) // 64)
    small = cv2.resize(
        np.asarray(frame, np.float32), (width // step, height // step), interpolation=cv2.INTER_AREA
    )
    deviation = (small - np.median(small)) ** 2
    side = min(side_px // step, *small.shape)
    summed: Any = cv2.integral(deviation)
    inside = summed[side:, side:] - summed[:-side, side:] - summed[side:, :-side] + summed[:-side, :-side]
    row, column = (int(n) * step for n in np.unravel_index(int(inside.argmax()), inside.shape))
    row, column = min(row, max(height - side_px, 0)), min(column, max(width - side_px, 0))
    return slice(row, min(row + side_px, height)), slice(column, min(column + side_px, width))


def explain(
    recorded: NDArray[np.float32],
    result: NDArray[np.float32],
    widefield: Widefield,
    *,
    noise: float,
    near_um: float | None = None,
) -> Explanation:
    """Return the distance from focus at which a result explains a recorded frame, and how well.

    Parameters
    ----------
    recorded, result : ndarray of float32, shape (H, W)
        On the same scale.
    widefield : Widefield
        The optics.
    noise : float
        Deviation of the recorded frame's noise.
    near_um : float, optional
        Look only at about this distance, on both sides of focus, and not at all that there are.
    """
    shape = recorded.shape
    height, width = (int(fft.next_fast_len(n + 2 * _EDGE_PX, real=True)) for n in shape)
    padded = height, width
    margins = [(_EDGE_PX, p - n - _EDGE_PX) for p, n in zip(padded, shape, strict=True)]
    # reflected, so that the transform does not see the frame end
    spectrum = fft.rfft2(np.pad(result, margins, mode="reflect"), workers=threads())
    in_focus = widefield.transfer(0.0, padded)
    sharpened = spectrum * (in_focus / (in_focus**2 + _FLOOR**2))
    seen = cv2.GaussianBlur(recorded, (0, 0), 1.0)
    contrast = max(float(seen.std()), 1e-9)
    inner = tuple(slice(_EDGE_PX, n - _EDGE_PX) if n > 4 * _EDGE_PX else slice(None) for n in shape)
    # noise that the light smoothing above leaves of white noise: 1 / (2 sqrt(pi)) of its deviation
    left_of_noise = noise / (2 * math.sqrt(math.pi))

    def left_over(z_um: float) -> float:
        blurred = fft.irfft2(sharpened * widefield.transfer(z_um, padded), s=padded, workers=threads())
        blurred = blurred[_EDGE_PX : _EDGE_PX + shape[0], _EDGE_PX : _EDGE_PX + shape[1]]
        left = (seen - cv2.GaussianBlur(blurred, (0, 0), 1.0))[inner]
        # brightness that differs by a little all over is no structure
        return float(left.var())

    found: dict[float, float] = {}

    def at(z_um: float) -> None:
        if z_um not in found:
            found[z_um] = left_over(z_um)

    reach = widefield.reach_um
    if near_um is None:
        coarse = np.arange(-reach, reach + 0.1, 4 * _STEP_UM).clip(-reach, reach).tolist()
    else:
        coarse = [near_um, -near_um]
    for z_um in coarse:
        at(z_um)
    for step_um in (2 * _STEP_UM, _STEP_UM, 0.5 * _STEP_UM)[0 if near_um is None else 1 :]:
        best = min(found, key=lambda z: found[z])
        for z_um in (best - step_um, best + step_um):
            if abs(z_um) <= reach:
                at(z_um)
    best = min(found, key=lambda z: found[z])
    # noise is taken off last: where less is left than noise, distances still differ
    return Explanation(abs(best), math.sqrt(max(found[best] - left_of_noise**2, 0.0)) / contrast)
