"""Which simulated fields the shipped weights are trained, calibrated and tested on: never the same ones."""

from typing import Any

from bluesky_autofocus.training.fields import LED_NA, TWO_LED, Recipe

__all__ = ["CALIBRATION", "TEST", "TRAINING"]

PAIR = (((LED_NA, 0.0),), ((-LED_NA, 0.0),))

TRAINING = (
    Recipe("cells", 10_000, 1000, features=("contours", "strip_magnitude")),
    Recipe("tissue", 20_000, 400, features=("contours", "strip_magnitude")),
)
"""Small frames: each is one patch. Patches of several fields at one defocus make up a large frame."""

_LARGE: dict[str, Any] = {"planes_um": (-30.0, 30.0, 1.0), "frame_px": 1024, "patterns": PAIR}

CALIBRATION = (
    Recipe("cells", 40_000, 60, random_planes=8, features=("contours", TWO_LED), **_LARGE),
    Recipe("tissue", 45_000, 30, random_planes=8, features=("contours", TWO_LED), **_LARGE),
)
"""Whole frames by which choices are made and sigma is scaled: a quarter of the default sensor."""

TEST = (
    Recipe(
        "cells", 50_000, 140, random_planes=8, features=("contours", "strip_magnitude", TWO_LED), **_LARGE
    ),
    Recipe(
        "tissue", 55_000, 60, random_planes=8, features=("contours", "strip_magnitude", TWO_LED), **_LARGE
    ),
)
"""Whole frames by which nothing is ever chosen."""
