"""Whether a frame can be scored at all."""

from dataclasses import dataclass
from math import ceil

import cv2
import numpy as np

from ._moments import mean, variance
from ._preparation import as_opencv, check_shape

SATURATED = "saturated"
BLACK = "black"
NOT_FINITE = "not_finite"
UNIFORM = "uniform"
TORN = "torn"

MAX_SATURATED_FRACTION = 0.75
"""A frame is saturated if a larger fraction is at full scale. A clipped background does no harm as long as
the objects before it are not: recorded frames with half their pixels clipped focus well."""

MIN_CONTRAST = 1e-3
"""A frame is uniform if its contrast is lower: the shot noise of a full well (1e5 electrons) alone is 3e-3,
so no camera sees such a frame through an open shutter."""

LEAST_TORN_FRACTION = 1 / 64
"""A frame is torn if more of its rows are missing, at the top or at the bottom."""

TORN_STEP = 0.5
"""And if the step from the missing rows to the first others is more than this fraction of that to the mean of
all others. A background that is clipped passes over into the specimen little by little."""

ROWS_BESIDE = 4
"""Those first others."""


@dataclass(frozen=True)
class FrameQuality:
    """What `examine_frame` found.

    Attributes
    ----------
    mean : float
        Mean grey level, over all channels.
    contrast : float
        Standard deviation over the mean; 0.0 if the mean is not positive, NaN if not finite.
    saturated_fraction : float
        Fraction of values at or above full scale.
    finite : bool
        Whether every value is finite.
    dark_level : float
        Mean at or below which the frame counts as black.
    torn_rows : int
        Rows at the top or at the bottom that are missing: of one grey level, up to a step.
    """

    mean: float
    contrast: float
    saturated_fraction: float
    finite: bool
    dark_level: float = 0.0
    torn_rows: int = 0

    @property
    def problem(self) -> str | None:
        """Why the frame should not be scored: NOT_FINITE, SATURATED, BLACK, UNIFORM, TORN or None."""
        if not self.finite:
            return NOT_FINITE
        if self.saturated_fraction > MAX_SATURATED_FRACTION:
            return SATURATED
        if self.mean <= self.dark_level:
            return BLACK
        if self.contrast < MIN_CONTRAST:
            return UNIFORM
        if self.torn_rows:
            return TORN
        return None


def examine_frame(
    image: np.ndarray, *, full_scale: float | None = None, dark_level: float = 0.0
) -> FrameQuality:
    """Examine whether a frame can be scored for sharpness.

    Every pixel is read, which takes about a millisecond for 2048 x 2048 px of uint16.

    Parameters
    ----------
    image : numpy.ndarray, shape (H, W) or (H, W, 3)
        A grey or RGB frame of at least 16 x 16 px.
    full_scale : float, optional
        Grey level at which the camera saturates. By default the largest value of an integer dtype, and no
        limit for floats. Give it for cameras of 12 or 14 bits (4095, 16383) that deliver uint16.
    dark_level : float, optional
        Mean grey level without light, the camera's offset.

    Returns
    -------
    FrameQuality
        Its `problem` is None for a frame that can be scored.

    Raises
    ------
    ValueError
        If the shape is not one of the above or `full_scale` is not positive.
    TypeError
        If the frame does not hold real numbers.
    """
    image = np.asarray(image)
    check_shape(image.shape)
    if full_scale is None and image.dtype.kind in "ui":
        full_scale = float(np.iinfo(image.dtype).max)
    if full_scale is not None and not full_scale > 0:
        raise ValueError(f"full_scale must be positive, got {full_scale}")
    values = as_opencv(image).reshape(image.shape[0], -1)
    level = mean(values)
    if not np.isfinite(level):  # One NaN or infinity among the values makes their sum so.
        return FrameQuality(level, float("nan"), 0.0, False, dark_level)
    saturated = 0
    if full_scale is not None:
        # An int, because numpy compares integers with a float by converting every pixel.
        limit = ceil(full_scale) if values.dtype.kind == "u" else full_scale
        saturated = cv2.countNonZero((values >= limit).view(np.uint8))
    contrast = variance(values) ** 0.5 / level if level > 0 else 0.0
    torn = _torn_rows(values)
    return FrameQuality(level, contrast, saturated / values.size, True, dark_level, torn)


def _torn_rows(values: np.ndarray) -> int:
    """Return how many rows at one end a camera or a link did not deliver; shape of values (H, W)."""
    for rows in (values, values[::-1]):
        grey = rows[0, 0]
        if (rows[0] != grey).any():
            continue
        others = (rows != grey).any(axis=1)
        missing = int(others.argmax())
        if not others.any() or missing <= LEAST_TORN_FRACTION * len(rows):
            continue
        whole = rows[missing:]
        if (whole.min(axis=1) == whole.max(axis=1)).any():
            continue  # a pattern without noise, or a background that is clipped, which a camera delivered
        step, to_mean = (abs(float(part.mean()) - float(grey)) for part in (whole[:ROWS_BESIDE], whole))
        if step > TORN_STEP * to_mean:
            return missing
    return 0
