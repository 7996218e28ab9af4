"""ReFocus as published ("ReFocus: Making Out-of-Focus Microscopy Images In-Focus Again"), to compare with.

A U-Net whose contracting path is a ResNet-34, trained with a feature loss on three planes on one side of
focus, 128 x 128 px at a time.

It answers by TensorFlow, which is loaded for the first frame, or before it by
`PublishedRefocusModel.prepare`.
"""

from bluesky_autofocus.models.refocus.published._features import (
    FeatureLoss,
    FeatureNetwork,
    gram_matrix,
)
from bluesky_autofocus.models.refocus.published._model import ARCHITECTURE, PublishedRefocusModel
from bluesky_autofocus.models.refocus.published._network import build, encoder_arrays, shapes_of
from bluesky_autofocus.models.refocus.published._training import PublishedRefocusOptions, train_published
from bluesky_autofocus.models.refocus.published._weight_files import read_arrays

__all__ = [
    "ARCHITECTURE",
    "FeatureLoss",
    "FeatureNetwork",
    "PublishedRefocusModel",
    "PublishedRefocusOptions",
    "build",
    "encoder_arrays",
    "gram_matrix",
    "read_arrays",
    "shapes_of",
    "train_published",
]
