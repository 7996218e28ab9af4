"""HH-Net as published (Ge et al., section 2.2 and tables 1 and 2), to compare the default with.

Thirteen convolutions look at a patch of 300 x 300 px, in five groups with max pooling between them. Of the
256 units of the first fully connected layer 224 see what these find, and 32 the eighteen hand-crafted
features of the whole frame. All patches of a frame then vote.

It answers by TensorFlow, which is loaded for the first frame, or before it by `PublishedModel.prepare`.
"""

from bluesky_autofocus.models.hh_net.published._augmentation import Augmentation
from bluesky_autofocus.models.hh_net.published._model import ARCHITECTURE, PublishedModel
from bluesky_autofocus.models.hh_net.published._network import build, kernels_of
from bluesky_autofocus.models.hh_net.published._patches import PatchSet
from bluesky_autofocus.models.hh_net.published._training import (
    PublishedOptions,
    PublishedTraining,
    train_published,
)

__all__ = [
    "ARCHITECTURE",
    "Augmentation",
    "PatchSet",
    "PublishedModel",
    "PublishedOptions",
    "PublishedTraining",
    "build",
    "kernels_of",
    "train_published",
]
