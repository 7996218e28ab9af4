"""What one frame tells of a camera, and what two frames of the same scene tell of its noise."""

import dataclasses
import math

import numpy as np

__all__ = ["FrameStatistics", "PhotonTransfer", "photon_transfer"]

LOW_AND_HIGH = (0.1, 99.9)
"""Percentiles that stand for the darkest and the brightest of a frame: single hot pixels do not count."""

MOST_PIXELS = 2**18
"""Of a pair are looked at, evenly over the frame: a variance is known to 1 % from fewer."""

LEVELS = 16
"""Groups of pixels of about the same brightness, of as many pixels each."""

NEAR_FULL = 0.98
"""Pixels above this part of the brightest level are left out: clipping takes their noise away."""

CLIPPED_FRACTION = 1e-4
"""Of all pixels on exactly the highest grey level of the frame, above which that is where the camera clips.
Noise spreads the brightest of a frame over several levels."""

_LEVELS = ("mean", "low", "high", "maximum", "at_maximum")


@dataclasses.dataclass(frozen=True)
class FrameStatistics:
    """Grey levels of one frame.

    Parameters
    ----------
    rows, columns : int
        Of the frame.
    dtype : str
        Its type, as NumPy writes it.
    no_numbers : float
        Part of the values that are NaN or infinite; the rest tells of the others, all NaN if there are none.
    mean, low, high, maximum : float
        Mean, 0.1 % and 99.9 % percentiles, and the highest.
    at_maximum : float
        Part of the values that are on exactly the highest.
    step : int
        Greatest common divisor of the grey levels; 16 where 12 bits lie in the upper end of 16. 0 for floats.
    """

    rows: int
    columns: int
    dtype: str
    no_numbers: float
    mean: float
    low: float
    high: float
    maximum: float
    at_maximum: float
    step: int

    @classmethod
    def of(cls, frame: np.ndarray) -> "FrameStatistics":
        """Examine a frame of shape (H, W) or (H, W, 3)."""
        whole = frame.dtype.kind in "ui"
        values = frame if whole else frame[np.isfinite(frame)]
        shape = {"rows": frame.shape[0], "columns": frame.shape[1], "dtype": str(frame.dtype)}
        no_numbers = 1 - values.size / frame.size
        if not values.size:
            return cls(**shape, no_numbers=no_numbers, **dict.fromkeys(_LEVELS, math.nan), step=0)
        levels, counts = _histogram(values)
        low, high = levels[np.searchsorted(np.cumsum(counts), np.array(LOW_AND_HIGH) / 100 * values.size)]
        return cls(
            **shape,
            no_numbers=no_numbers,
            mean=float(values.mean()),
            low=float(low),
            high=float(high),
            maximum=float(levels[-1]),
            at_maximum=float(counts[-1] / values.size),
            step=int(np.gcd.reduce(levels)) if whole else 0,
        )

    @property
    def clips_at(self) -> float:
        """Grey level at which the frame is seen to clip, NaN where it does not."""
        return self.maximum if self.at_maximum >= CLIPPED_FRACTION and self._is_at_end else math.nan

    @property
    def _is_at_end(self) -> bool:
        """Whether its highest level is the highest of so many bits: 255, 1023, 4095 ..., or these shifted."""
        steps = {1, self.step} - {0}
        return self.step > 0 and any(_all_ones(int(self.maximum) // step) for step in steps)


def _histogram(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the grey levels that a frame has, ascending, and how often each."""
    if frame.dtype in (np.uint8, np.uint16):  # many times faster than sorting
        counts = np.bincount(frame.ravel())
        levels = np.flatnonzero(counts)
        return levels, counts[levels]
    return np.unique(frame, return_counts=True)


def _all_ones(level: int) -> bool:
    return level >= 255 and level & (level + 1) == 0


@dataclasses.dataclass(frozen=True)
class PhotonTransfer:
    """Noise of a camera by the difference of two frames of the same scene.

    The variance of the shot noise is the gain times the light: ``variance = floor + gain * level`` (J. R.
    Janesick, Photon Transfer, SPIE Press 2007). Levels are as read out, so the floor holds the dark level
    too.

    Parameters
    ----------
    level : float
        Median grey level.
    noise : float
        Standard deviation of a pixel there, in grey levels.
    gain, gain_sigma : float
        Grey levels per electron and its standard uncertainty; NaN where the frames are too evenly lit to
        tell. One pair of small frames may leave it wide open.
    floor : float
        Variance that is left at level 0.
    """

    level: float
    noise: float
    gain: float = math.nan
    gain_sigma: float = math.nan
    floor: float = math.nan


def photon_transfer(first: np.ndarray, second: np.ndarray) -> PhotonTransfer:
    """Return what two frames of the same scene tell of the noise.

    Parameters
    ----------
    first, second : numpy.ndarray, shape (H, W) or (H, W, 3)
        Taken one after the other with nothing changed. A change of the brightness as a whole does no harm, a
        movement is taken for noise. Pixels that are no numbers are left out; where next to none are left, all
        is NaN.

    Raises
    ------
    ValueError
        If their shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"the frames of a pair must be alike, got shapes {first.shape} and {second.shape}")
    every = math.ceil(math.sqrt(first.shape[0] * first.shape[1] / MOST_PIXELS))
    one, other = (frame[::every, ::every].astype(np.float32).ravel() for frame in (first, second))
    numbers = np.isfinite(one) & np.isfinite(other)
    if numbers.sum() < LEVELS:
        return PhotonTransfer(math.nan, math.nan)
    one, other = one[numbers], other[numbers]
    level = (one + other) / 2
    difference = one - other
    difference -= difference.mean()
    kept = level <= max(NEAR_FULL * float(level.max()), float(np.median(level)))
    order = np.argsort(level[kept], kind="stable")
    levels = np.array([group.mean() for group in np.array_split(level[kept][order], LEVELS)], float)
    # of a difference half the variance belongs to each; sum and difference of equal noises are independent,
    # so to sort by the one does not choose the other
    groups = np.array_split(difference[kept][order], LEVELS)
    variances = np.array([np.mean(np.square(group, dtype=np.float64)) / 2 for group in groups])
    middle = LEVELS // 2
    noise = math.sqrt(float(np.median(variances[middle - 2 : middle + 2])))
    measured = PhotonTransfer(float(np.median(level)), noise)
    if np.ptp(levels) <= 2 * noise:
        return measured
    # the variance of a variance is 2 v^2 / n
    weights = 1 / np.maximum(variances, 1e-12)
    (gain, floor), covariance = np.polyfit(levels, variances, 1, w=weights, cov=True)
    return dataclasses.replace(
        measured, gain=float(gain), gain_sigma=math.sqrt(covariance[0, 0]), floor=float(floor)
    )
