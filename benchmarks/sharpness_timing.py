"""How long each sharpness metric takes, beside the Laplacian as it is commonly written."""

from collections.abc import Callable
from statistics import median
from time import perf_counter

import cv2
import numpy as np

from bluesky_autofocus.sharpness import metric, names


def timing_table(repeats: int = 15, size_px: int = 2048) -> list[dict]:
    """Time every metric in turns with ``cv2.Laplacian(image, cv2.CV_64F).var()``.

    The two alternate, so that other load on the machine falls on both.

    Parameters
    ----------
    repeats : int
        Number of turns.
    size_px : int
        Height and width of the frame.

    Returns
    -------
    list of dict
        One row per metric and dtype: ``metric``, ``dtype``, ``ms_median``, ``ms_min``, ``ms_max`` and
        ``ratio_to_naive``, the median of how many times as fast as the common way the metric was. Scores
        are not normalised. OpenCV 5 has no CV_64F Laplacian of float32, so CV_32F stands in for it there.
    """
    rows = []
    for dtype in (np.uint8, np.uint16, np.float32):
        image = _texture(size_px, dtype)
        naive_depth = cv2.CV_32F if dtype is np.float32 else cv2.CV_64F

        def naive(image: np.ndarray, depth: int = naive_depth) -> float:
            return float(cv2.Laplacian(image, depth).var())

        for name in names():
            score = metric(name, normalise=False)
            score(image)  # The first call fills caches.
            naive(image)
            turns = [(_milliseconds(score, image), _milliseconds(naive, image)) for _ in range(repeats)]
            own_ms = [own for own, _ in turns]
            rows.append(
                {
                    "metric": name,
                    "dtype": np.dtype(dtype).name,
                    "ms_median": median(own_ms),
                    "ms_min": min(own_ms),
                    "ms_max": max(own_ms),
                    "ratio_to_naive": median(common / own for own, common in turns),
                }
            )
    return rows


def _texture(size_px: int, dtype: type) -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=(size_px, size_px)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return np.clip(120 + 60 * smooth / smooth.std(), 0, 255).astype(dtype)


def _milliseconds(function: Callable[[np.ndarray], float], image: np.ndarray) -> float:
    start = perf_counter()
    function(image)
    return 1e3 * (perf_counter() - start)
