"""The published network as a model: its file, and how it answers."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.models._training import import_keras
from bluesky_autofocus.models.card import ModelCard
from bluesky_autofocus.models.refocus._frame_model import RefocusModel, Tile
from bluesky_autofocus.models.refocus.published._network import build, check_network, shapes_of

__all__ = ["ARCHITECTURE", "PublishedRefocusModel"]

ARCHITECTURE = "refocus-resnet34-unet-1"


class PublishedRefocusModel(RefocusModel):
    """Makes out-of-focus frames in-focus by the published network.

    It can stand wherever the default `UNetModel` does, but states no uncertainty of what it makes of a pixel,
    and has no way to know that a frame is unlike what it was trained on: only whether its result explains the
    frame is looked at. `refocus` raises an ImportError if TensorFlow is not installed.

    Made by `load`, or by `train_published` and `save`.

    Parameters
    ----------
    card : ModelCard
        What it is. ``architecture_parameters`` has ``width``, ``norm`` and ``upsampling``, as for `build`,
        and what `RefocusModel` needs.
    arrays : mapping of str to ndarray
        ``LAYER.kernel``, ``LAYER.gain`` and ``LAYER.bias``, as `shapes_of` tells.

    Raises
    ------
    ModelFileError
        If the card is that of another architecture, or an array is missing or does not fit.
    """

    architecture = ARCHITECTURE

    def __init__(self, card: ModelCard, arrays: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(card, arrays)
        said = card.architecture_parameters
        with self._complete():
            self.width = float(said["width"])
            self.norm, self.upsampling = str(said["norm"]), str(said["upsampling"])
            check_network(self.width, self.norm, self.upsampling)
            self._expect_shapes(shapes_of(self.width, self.upsampling))

    @functools.cached_property
    def _network(self) -> Any:
        """Takes tiles, shape (n, h, w, 1); made when it is first needed."""
        _, tf = import_keras()
        model = build(self.width, self.norm, self.upsampling, arrays=self.arrays)
        run = tf.function(
            lambda x: model(x, training=False),
            input_signature=[tf.TensorSpec((None, None, None, 1), tf.float32)],
        )
        return lambda x: run(tf.constant(x)).numpy()

    def _run(self, x: NDArray[np.float32]) -> Tile:
        return Tile(self._network(np.ascontiguousarray(x)[None, ..., None])[0, ..., 0], None)
