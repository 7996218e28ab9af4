"""SciPy's Fourier transforms, on all cores unless many processes share them already."""

import multiprocessing
from typing import Any

import scipy.fft

__all__ = ["fft", "threads"]

fft: Any = scipy.fft  # its types know only of other array libraries


def threads() -> int:
    """Return the ``workers`` of a transform: all cores, but one in a process of a pool."""
    return -1 if multiprocessing.parent_process() is None else 1
