"""Make out-of-focus frames in-focus again: a U-Net, the published one, and classical deconvolution."""

from bluesky_autofocus.models.refocus._frame_model import RefocusModel
from bluesky_autofocus.models.refocus._large import LargeResult, refocus_rows
from bluesky_autofocus.models.refocus._loading import load_model
from bluesky_autofocus.models.refocus._model import UNetModel
from bluesky_autofocus.models.refocus._refocused import Refocused, Refocuser

__all__ = [
    "LargeResult",
    "RefocusModel",
    "Refocused",
    "Refocuser",
    "UNetModel",
    "load_model",
    "refocus_rows",
]
