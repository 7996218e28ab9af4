"""Key-frame detection: which of a few planes is in focus, by comparing them."""

from bluesky_autofocus.models.key_frame._model import KeyFrameEstimate, KeyFrameModel, Scan

__all__ = ["KeyFrameEstimate", "KeyFrameModel", "Scan"]
