"""Rows of an array that is too large for memory."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["RowsOnDisk"]


class RowsOnDisk:
    """Some rows of an array on disk, read when they are asked for.

    Parameters
    ----------
    array : array_like
        A memory map, or another `RowsOnDisk`.
    rows : ndarray of int
        Which, in the order that they are to have.
    """

    def __init__(self, array: Any, rows: NDArray[np.int_]) -> None:
        self._array, self._rows = array, rows
        self.dtype = self._array.dtype
        self.shape = (len(rows), *self._array.shape[1:])
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> NDArray:
        row, *rest = index if isinstance(index, tuple) else (index,)
        return np.asarray(self._array[(self._rows[row], *rest)])

    def select(self, rows: NDArray[np.int_]) -> "RowsOnDisk":
        """Return some of these rows, still unread."""
        return RowsOnDisk(self._array, self._rows[rows])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray:
        whole = np.asarray(self._array[self._rows])
        return whole if dtype is None else whole.astype(dtype)
