"""How far a frame under off-axis light is from focus, and on which side; arrays in, microns out."""

from bluesky_autofocus.defocus._checks import check_light, problem_of
from bluesky_autofocus.defocus._circles import TwoCircles
from bluesky_autofocus.defocus._estimate import DefocusEstimate, DefocusEstimator, ModelMismatchError
from bluesky_autofocus.defocus._two_led import TwoLEDFilter

__all__ = [
    "DefocusEstimate",
    "DefocusEstimator",
    "ModelMismatchError",
    "TwoCircles",
    "TwoLEDFilter",
    "check_light",
    "problem_of",
]
