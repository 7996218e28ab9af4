"""A sharpness metric with its settings, as one callable value."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np

from ._moments import mean
from ._preparation import Roi, check_roi, prepare
from ._registry import lookup

DEFAULT_METRIC = "smoothed_laplacian"
"""Finds focus as well on noisy frames as on clean ones, and is among the fastest."""


@dataclass(frozen=True)
class SharpnessMetric:
    """A named sharpness metric with its settings: call it with a frame to get the score.

    It holds settings only, so it compares by value and pickles; a metric of your own must be registered
    in the process that calls it. Made by `metric`, which describes the fields.
    """

    name: str
    roi: Roi | None = None
    denoise_sigma_px: float = 0.0
    normalise: bool = True
    passband_cycles_per_px: tuple[float, float] | None = None

    def __post_init__(self):
        function = lookup(self.name).function
        if self.roi is not None:
            object.__setattr__(self, "roi", check_roi(self.roi))
        if not (self.denoise_sigma_px >= 0 and isfinite(self.denoise_sigma_px)):
            raise ValueError(f"denoise_sigma_px must be finite and not negative, got {self.denoise_sigma_px}")
        if self.passband_cycles_per_px is not None:
            if "passband_cycles_per_px" not in inspect.signature(function).parameters:
                raise ValueError(f"the sharpness metric {self.name!r} has no passband_cycles_per_px")
            object.__setattr__(self, "passband_cycles_per_px", _check_passband(self.passband_cycles_per_px))

    def __call__(self, image: np.ndarray) -> float:
        """Return the sharpness of a frame; larger is sharper.

        Parameters
        ----------
        image : numpy.ndarray, shape (H, W) or (H, W, 3)
            A grey or RGB frame of at least 16 x 16 px. uint8, uint16 and float32 are used as they are;
            other integers and floats become float32, bool becomes 0 and 1.

        Returns
        -------
        float
            The score, in squared grey levels for most metrics, without unit if `normalise`.

        Raises
        ------
        ValueError
            If the shape is not one of the above, the frame does not contain `roi`, or `normalise` is set
            and the mean of the frame is not a positive number; `examine_frame` tells such frames.
        TypeError
            If the frame does not hold real numbers.
        """
        grey = prepare(image, self.roi, self.denoise_sigma_px)
        entry = lookup(self.name)
        if self.passband_cycles_per_px is None:
            score = entry.function(grey)
        else:
            score = entry.function(grey, passband_cycles_per_px=self.passband_cycles_per_px)
        if not self.normalise:
            return float(score)
        # The score is divided, not the frame, which would cost a conversion of every pixel to float.
        brightness = mean(grey)
        if not (brightness > 0 and isfinite(brightness)):
            raise ValueError(
                f"cannot normalise the sharpness of a frame whose mean is {brightness:g}; "
                "leave the frame out or set normalise=False"
            )
        return float(entry.normaliser(score, brightness))


def metric(
    name: str,
    *,
    roi: Sequence[int] | None = None,
    denoise_sigma_px: float = 0.0,
    normalise: bool = True,
    passband_cycles_per_px: Sequence[float] | None = None,
) -> SharpnessMetric:
    """Return the sharpness metric `name` with its settings.

    Parameters
    ----------
    name : str
        One of `names()`.
    roi : sequence of int, optional
        Region to score: (row_start, row_stop, col_start, col_stop) in px, at least 16 px high and wide.
    denoise_sigma_px : float, optional
        Standard deviation in px of a Gaussian blur before scoring; 0 for none.
    normalise : bool, optional
        Take the brightness out of the score, so that a lamp or beam that drifts does not look like defocus:
        ``metric(a * image) == metric(image)`` for a > 0. The black level should be 0.
    passband_cycles_per_px : sequence of float, optional
        Lowest and highest spatial frequency in cycles/px for `band_power`; by default (0.05, 0.2).

    Returns
    -------
    SharpnessMetric
        A callable: ``metric(name)(image) -> float``, larger for sharper frames.

    Raises
    ------
    UnknownMetricError
        If nothing is registered as `name`.
    ValueError
        If a setting is outside its range or does not apply to this metric.

    Examples
    --------
    >>> import numpy as np
    >>> score = metric("brenner", roi=(0, 32, 0, 32))
    >>> score(np.tile(np.array([0, 0, 200, 200], np.uint8), (64, 16)))
    4.0
    """
    return SharpnessMetric(
        name,
        None if roi is None else check_roi(roi),
        float(denoise_sigma_px),
        normalise,
        None if passband_cycles_per_px is None else _check_passband(passband_cycles_per_px),
    )


def _check_passband(passband_cycles_per_px: Sequence[float]) -> tuple[float, float]:
    try:
        low, high = (float(limit) for limit in passband_cycles_per_px)
    except (TypeError, ValueError):
        low = high = float("nan")
    # The corner of the spectrum, the highest frequency a square pixel grid can hold, is at sqrt(1/2).
    if not 0 <= low < high <= 0.5**0.5:
        raise ValueError(
            "passband_cycles_per_px must be (low, high) with 0 <= low < high <= 0.707 cycles/px, "
            f"got {passband_cycles_per_px!r}"
        )
    return low, high
