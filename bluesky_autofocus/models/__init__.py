"""Networks: one folder for each, with its features, training, inference and weights, and what they share."""

from bluesky_autofocus.models.card import ModelCard, ModelFileError, read_model, write_model

__all__ = ["ModelCard", "ModelFileError", "read_model", "write_model"]
