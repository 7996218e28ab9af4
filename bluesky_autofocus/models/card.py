"""Model cards, and the files that hold them together with the weights."""

from bluesky_autofocus.models._card import (
    SCHEMA_VERSION,
    FeatureRecord,
    ModelCard,
    ModelFileError,
    ModelInputs,
    TrainingRecord,
)
from bluesky_autofocus.models._file import read_model, write_model

__all__ = [
    "SCHEMA_VERSION",
    "FeatureRecord",
    "ModelCard",
    "ModelFileError",
    "ModelInputs",
    "TrainingRecord",
    "read_model",
    "write_model",
]
