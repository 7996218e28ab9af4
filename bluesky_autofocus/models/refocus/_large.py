"""Refocus an image that is too large for memory, a band of rows at a time."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.models.refocus._frame_model import RefocusModel
from bluesky_autofocus.models.refocus._levels import Levels, noise_of
from bluesky_autofocus.models.refocus._reblur import busiest_window
from bluesky_autofocus.records import Reason
from bluesky_autofocus.sharpness import examine_frame

__all__ = ["LargeResult", "refocus_rows"]

_PART_PX = 2048
"""Squares of this side are judged each by itself."""
_MOST_PARTS = 16


@dataclasses.dataclass(frozen=True)
class LargeResult:
    """What became of a large image.

    Parameters
    ----------
    parts : int
        How many squares of it were judged, evenly chosen.
    defocus_um : float
        Their median distance from focus.
    mismatch : float
        The median of what neither blur nor noise explains, as in `Refocused`.
    reasons : tuple of Reason
        Why squares were not believed, one each, or ``empty`` where none of them shows anything; none where
        all are believed.
    """

    parts: int
    defocus_um: float
    mismatch: float
    reasons: tuple[Reason, ...]

    @property
    def accepted(self) -> bool:
        """Whether all squares are believed."""
        return not self.reasons


def refocus_rows(
    model: RefocusModel,
    source: NDArray[Any],
    target: NDArray[Any],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> LargeResult:
    """Refocus an image from one array into another, both of which may lie in files.

    Nothing is left as it was because it is in focus or not believed, as with `RefocusModel.refocus`: what
    is judged are squares of it, and one cannot cut them out. The grey levels of the whole count, so that the
    result has no seams.

    Parameters
    ----------
    model : RefocusModel
    source : array_like of uint8, uint16 or float, shape (H, W) or (H, W, 3)
        Sliced by rows.
    target : array_like, the same shape and type
        Written by rows. Its bytes are in the order of this machine, whatever those of the source are.
    progress : callable, optional
        Called with how many rows are done, and of how many.

    Raises
    ------
    ValueError
        If this is no image that the model takes, has pixels that are not finite, or the target does not fit.
    """
    if target.shape != source.shape or target.dtype != source.dtype.newbyteorder("="):
        raise ValueError(
            f"the target is {target.shape} of {target.dtype}: expected {source.shape} of {source.dtype}"
        )
    model.check_frame(source)
    found: list[tuple[float, float, Reason | None]] = []
    colours = 1 if source.ndim == 2 else source.shape[2]
    height = source.shape[0]
    for colour in range(colours):
        shown: Any = source if source.ndim == 2 else source[..., colour]
        made: Any = target if target.ndim == 2 else target[..., colour]
        step = max(1, math.isqrt(height * source.shape[1] >> 20))
        levels = Levels.of(np.asarray(shown[::step, ::step]))
        strangeness: list[float] = []

        def rows(first: int, last: int, shown: Any = shown, levels: Levels = levels) -> NDArray[np.float32]:
            part = np.asarray(shown[first:last])
            if part.dtype.kind == "f" and not np.isfinite(part).all():
                raise ValueError(f"rows {first} to {last} of the image have pixels that are NaN or infinite")
            return levels.apply(part)

        for first, values in model.blended(rows, source.shape, strangeness):
            made[first : first + len(values)] = levels.undo(values[..., 0], target.dtype)
            if progress is not None:
                progress(colour * height + first + len(values), colours * height)
        found += _judged(model, shown, made, levels, float(np.median(strangeness)))
    if not found:
        return LargeResult(0, math.nan, math.nan, (Reason.EMPTY,))
    return LargeResult(
        len(found),
        float(np.median([one[0] for one in found])),
        float(np.median([one[1] for one in found])),
        tuple(reason for _, _, reason in found if reason is not None),
    )


def _judged(
    model: RefocusModel, shown: Any, made: Any, levels: Levels, strangeness: float
) -> list[tuple[float, float, Reason | None]]:
    """Return distance from focus, mismatch and reason of evenly chosen squares that show something."""
    height, width = shown.shape
    corners = [(y, x) for y in range(0, height, _PART_PX) for x in range(0, width, _PART_PX)]
    chosen = np.linspace(0, len(corners) - 1, min(_MOST_PARTS, len(corners))).round().astype(int)
    found = []
    for y, x in (corners[n] for n in chosen):
        part = np.ascontiguousarray(shown[y : y + _PART_PX, x : x + _PART_PX])
        if min(part.shape) < model.multiple_px * 2:
            continue
        noise = noise_of(part)
        # black where an image was put together from fields, or saturated: nothing is said of these
        problem = examine_frame(part, full_scale=model.full_scale).problem
        if problem is not None or not Levels.of(part).show_something(noise):
            continue
        window = busiest_window(part)
        result = levels.apply(np.asarray(made[y : y + _PART_PX, x : x + _PART_PX])[window])
        known = model.explained(levels.apply(part[window]), result, noise / levels.scale)
        found.append((known.defocus_um, known.mismatch, model.reason(known, strangeness)))
    return found
