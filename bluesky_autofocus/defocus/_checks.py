"""Whether frames can be measured, and were taken with the light that an estimator was made for."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.defocus._estimate import ModelMismatchError
from bluesky_autofocus.leds import Single
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.records import Reason
from bluesky_autofocus.sharpness import examine_frame

__all__ = ["check_light", "problem_of"]

OPTICS_TOLERANCE = 0.01
"""Relative difference of pixel size, aperture, wavelength: 2 % of a pixel cost 1.2 um of error in a trial."""

DIRECTION_TOLERANCE_NA = 0.014
"""Distance of an LED from where it should be; 2 degrees at NA 0.4, which cost 1.5 um in a trial."""

MOST_CLIPPED = 0.01
"""Share of the pixels that may be at the highest grey level. Defocus is in the spectrum, which clipping fills
with harmonics: with 5 % clipped a network was wrong by a depth of field, and sure of it."""


def problem_of(frame: NDArray[Any], full_scale: float | None = None) -> Reason | None:
    """Return why no defocus can be told from a frame, or None.

    Clipped frames are known by their highest grey level, whatever it is, being more common than the next
    lower one: many cameras saturate below the largest number that their pixels could hold.

    Parameters
    ----------
    frame : ndarray, shape (H, W)
    full_scale : float, optional
        Grey level at which the camera saturates, as for `examine_frame`.
    """
    problem = examine_frame(frame, full_scale=full_scale).problem
    if problem is not None:
        return Reason(problem)
    some = np.ascontiguousarray(frame[::4, ::4])
    top = some.max()
    if full_scale is not None:
        top = min(top, full_scale)
    highest = np.count_nonzero(some >= top)
    if highest > MOST_CLIPPED * some.size and highest > 2 * np.count_nonzero(some == top - 1):
        return Reason.SATURATED
    return None


def check_light(
    made_for: LightOptics,
    leds: Sequence[Single],
    optics: LightOptics,
    na_xy_list: Sequence[tuple[float, float]],
) -> None:
    """Raise unless optics and LEDs are those that an estimator was made for.

    Parameters
    ----------
    made_for, leds
        What the estimator wants.
    optics, na_xy_list
        What the frames were taken with.

    Raises
    ------
    ModelMismatchError
        Naming what differs, what it is and what was expected.
    """
    for field in dataclasses.fields(LightOptics):
        if field.name == "magnification":
            continue  # it matters only through the pixel size, which is compared
        expected, found = getattr(made_for, field.name), getattr(optics, field.name)
        if abs(found - expected) > OPTICS_TOLERANCE * expected:
            raise ModelMismatchError(f"{field.name} is {found:g}: this estimator was made for {expected:g}")
    if len(na_xy_list) != len(leds):
        raise ModelMismatchError(f"got {len(na_xy_list)} frames: this estimator takes {len(leds)}")
    for led, (x, y) in zip(leds, na_xy_list, strict=True):
        away = math.hypot(x - led.na_xy[0], y - led.na_xy[1])
        if not away <= DIRECTION_TOLERANCE_NA:  # also where the direction is NaN: no single LED is on
            raise ModelMismatchError(
                f"the light comes from NA {math.hypot(x, y):.3f} at {math.degrees(math.atan2(y, x)):.1f} "
                f"degrees: this estimator was made for {led}"
            )
