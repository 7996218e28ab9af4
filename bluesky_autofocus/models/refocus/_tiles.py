"""A network over frames of any size: overlapping tiles, blended, a band of rows at a time."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["blended", "reflected"]

_BLEND_PX = 32
"""Over which neighbouring tiles fade into each other."""


def blended(
    rows: Callable[[int, int], NDArray[np.float32]],
    shape: tuple[int, int],
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    *,
    tile_px: int,
    context_px: int,
    multiple_px: int,
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Run a network over a frame and yield what it gives, from the top down.

    Never more than two bands of tiles are in memory. What lies beyond the frame is its mirror image.

    Parameters
    ----------
    rows : callable
        ``rows(first, last)`` gives those rows of the frame, shape (last - first, W).
    shape : tuple of int
        Rows and columns of the frame, H and W.
    run : callable
        From a tile, shape (h, w), to k values for each pixel, shape (h, w, k).
    tile_px : int
        Largest side of a tile, margins included.
    context_px : int
        Margin of a tile of which nothing is kept.
    multiple_px : int
        What the sides of tiles are multiples of.

    Yields
    ------
    first : int
        Number of the first row.
    values : ndarray of float32, shape (n, W, k)
    """
    vertical, horizontal = (_Places(length, tile_px, context_px, multiple_px) for length in shape)
    carried: NDArray[np.float32] | None = None
    weights: NDArray[np.float32] | None = None
    for number, top in enumerate(vertical.starts):
        band = _mirrored(rows, shape[0], top - context_px, vertical.side_px)
        indices = reflected(np.arange(-context_px, horizontal.padded - context_px), shape[1])
        band = band[:, indices]
        total: Any = None
        weight = np.zeros((vertical.core_px, horizontal.padded), np.float32)
        for left in horizontal.starts:
            tile = band[:, left : left + horizontal.side_px]
            values = run(np.ascontiguousarray(tile))
            fade = np.outer(vertical.fade(top), horizontal.fade(left)).astype(np.float32)
            inside = slice(context_px, -context_px) if context_px else slice(None)
            kept = values[inside, inside]
            if total is None:
                total = np.zeros((*weight.shape, kept.shape[2]), np.float32)
            columns = slice(left + context_px, left + context_px + horizontal.core_px)
            total[:, columns] += kept * fade[..., None]
            weight[:, columns] += fade
        total, weight = (one[:, context_px : context_px + shape[1]] for one in (total, weight))
        if carried is not None and weights is not None:
            total[: len(carried)] += carried
            weight[: len(weights)] += weights
        following = vertical.starts[number + 1] if number + 1 < len(vertical.starts) else shape[0]
        done = min(following, shape[0]) - top
        yield top, total[:done] / weight[:done, :, None]
        carried, weights = total[done:], weight[done:]


class _Places:
    """Where tiles lie along one side of a frame.

    Tiles start at `starts` in a frame that is padded by the margin, so what is kept of them starts there in
    the frame itself.
    """

    def __init__(self, length: int, tile_px: int, context_px: int, multiple_px: int) -> None:
        self._length = length
        most = max(tile_px // multiple_px, 1) * multiple_px
        self.side_px = min(most, math.ceil((length + 2 * context_px) / multiple_px) * multiple_px)
        self.core_px = self.side_px - 2 * context_px
        if self.core_px <= 2 * _BLEND_PX and self.core_px < length:
            raise ValueError(
                f"tiles of {tile_px} pixels are too small: expected more than {2 * (context_px + _BLEND_PX)}"
            )
        last = max(0, length - self.core_px)
        steps = math.ceil(last / (self.core_px - _BLEND_PX)) if last else 0
        self.starts = [round(last * n / steps) for n in range(steps + 1)] if steps else [0]
        self.padded = max(self.starts[-1] + self.side_px, length + 2 * context_px)

    def fade(self, start: int) -> NDArray[np.float64]:
        """Return how much what is kept of a tile counts; 1 up to the frame's own edges."""
        at = np.arange(self.core_px)
        before = np.ones(self.core_px) if start == 0 else (at + 1) / (_BLEND_PX + 1)
        after = (
            np.ones(self.core_px)
            if start + self.core_px >= self._length
            else (self.core_px - at) / (_BLEND_PX + 1)
        )
        return np.minimum(np.minimum(before, after), 1)


def reflected(at: NDArray[np.int_], length: int) -> NDArray[np.int_]:
    """Return the places within the frame, mirrored where they lie beyond an edge, which is not doubled."""
    period = max(2 * (length - 1), 1)
    at = np.abs(at) % period
    return np.where(at < length, at, period - at)


def _mirrored(
    rows: Callable[[int, int], NDArray[np.float32]], height: int, first: int, count: int
) -> NDArray[np.float32]:
    wanted = reflected(np.arange(first, first + count), height)
    low, high = int(wanted.min()), int(wanted.max()) + 1
    return rows(low, high)[wanted - low]
