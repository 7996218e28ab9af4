"""Whether frames were taken with the light that an estimator was made for."""

import dataclasses
import math
from collections.abc import Sequence

from bluesky_autofocus.defocus._estimate import ModelMismatchError
from bluesky_autofocus.leds import Single
from bluesky_autofocus.optics import LightOptics

__all__ = ["check_light"]

OPTICS_TOLERANCE = 0.01
"""Relative difference of pixel size, aperture, wavelength: 2 % of a pixel cost 1.2 um of error in a trial."""

DIRECTION_TOLERANCE_NA = 0.014
"""Distance of an LED from where it should be; 2 degrees at NA 0.4, which cost 1.5 um in a trial."""


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
