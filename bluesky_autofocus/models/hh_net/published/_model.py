"""The published network as a model: its file, its frames, how it answers."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.models._training import import_keras
from bluesky_autofocus.models.card import ModelCard
from bluesky_autofocus.models.hh_net._frame_model import ClassEstimate, FrameModel
from bluesky_autofocus.models.hh_net.bins import DefocusBins
from bluesky_autofocus.models.hh_net.classes import INDICES
from bluesky_autofocus.models.hh_net.features import NAMES, handcrafted
from bluesky_autofocus.models.hh_net.published._network import KINDS, build, kernels_of
from bluesky_autofocus.models.hh_net.voting import vote, winner

__all__ = ["ARCHITECTURE", "PublishedModel"]

ARCHITECTURE = "hh-net-published-1"

_PATCHES = 8
"""Looked at together: at full width 23 MB each after the first convolution."""


class PublishedModel(FrameModel):
    """Tells which class of focus a colour frame belongs to, by the published network.

    It can stand wherever the default `HHNetModel` does, but refuses only frames that no method could use
    (black, saturated, uniform, without anything stained): the published method has no way to know what it
    does not know. Its probabilities, and the uncertainty that follows from them, are as the network gives
    them and not calibrated. `estimate` raises an ImportError if TensorFlow is not installed.

    Made by `load`, or by `train_published` and `save`.

    Parameters
    ----------
    card : ModelCard
        What it is. ``features.parameters`` has ``patch_px``, ``binning`` and ``seed``;
        ``architecture_parameters`` has ``classes`` (a `ClassTable` as dict), ``width`` and ``last_pooling``.
    arrays : mapping of str to ndarray
        ``LAYER.kernel`` and ``LAYER.bias`` for each of `kernels_of`; ``mean`` and ``deviation`` (18,) of the
        hand-crafted features.

    Raises
    ------
    ModelFileError
        If the card is that of another architecture, or an array is missing or does not fit.
    """

    architecture = ARCHITECTURE

    def __init__(self, card: ModelCard, arrays: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(card, arrays)
        said, options = card.architecture_parameters, card.features.parameters
        with self._complete():
            self.patch_px = int(options["patch_px"])
            self._binning, self._seed = int(options["binning"]), int(options["seed"])
            self._width, self._last_pooling = float(said["width"]), bool(said["last_pooling"])
            self._kernels = kernels_of(self.patch_px, self._width, self._last_pooling)
            self._expect_shapes({"mean": (len(NAMES),), "deviation": (len(NAMES),)})
            for layer, shape in self._kernels.items():
                self._expect_shapes({f"{layer}.kernel": shape, f"{layer}.bias": shape[-1:]})
            if not (self.arrays["deviation"] > 0).all():
                raise ValueError("deviation has values that are not positive")
        self._bins = DefocusBins.of_classes(self.table)

    @property
    def range_um(self) -> tuple[float, float]:
        """Lowest and highest defocus that it measures: what is totally blurred is so at any distance."""
        return self._bins.range_um

    def prepare(self) -> None:
        """Load TensorFlow and the network now, which takes seconds that the first frame would wait."""
        side = self.patch_px
        self.probabilities(np.zeros((1, side, side, 3), np.uint8), np.zeros(len(NAMES), np.float32))

    def _estimate_of(
        self, colour: NDArray[np.uint8], coarse: NDArray[np.uint8], corners: NDArray[np.intp]
    ) -> ClassEstimate:
        of_frame = handcrafted(colour, seed=self._seed, binning=self._binning)
        side = self.patch_px
        patches = np.stack([colour[y : y + side, x : x + side] for y, x in corners.tolist()])
        p = vote(self.probabilities(patches, of_frame), self.vote)
        # bins are in ascending order, classes are listed with index 4 first
        defocus_um, sigma_um = self._bins.mean(p[None, ::-1])
        return ClassEstimate.voted(
            p,
            defocus_um=defocus_um,
            sigma_um=sigma_um,
            measured=INDICES[int(winner(p))] != INDICES[0],
            patches=len(patches),
        )

    def probabilities(
        self, patches: NDArray[np.uint8], of_frame: NDArray[np.floating]
    ) -> NDArray[np.float32]:
        """Return the probabilities of the classes of patches, before they vote.

        Parameters
        ----------
        patches : ndarray of uint8, shape (n_patches, patch_px, patch_px, 3)
            RGB.
        of_frame : ndarray, shape (18,)
            Hand-crafted features of their frame; or those of the frame of each, shape (n_patches, 18).

        Returns
        -------
        ndarray of float32, shape (n_patches, 7)

        Raises
        ------
        ValueError
            If the patches have another shape or type.
        ImportError
            If TensorFlow is not installed.
        """
        side = self.patch_px
        if patches.dtype != np.uint8 or patches.ndim != 4 or patches.shape[1:] != (side, side, 3):
            raise ValueError(
                f"the patches have shape {patches.shape} and are of {patches.dtype}: expected "
                f"(n_patches, {side}, {side}, 3) of uint8"
            )
        given = np.broadcast_to(np.asarray(of_frame, np.float32), (len(patches), len(NAMES)))
        standardised = (given - self.arrays["mean"]) / self.arrays["deviation"]
        parts = [
            self._network(patches[start : start + _PATCHES], standardised[start : start + _PATCHES])
            for start in range(0, len(patches), _PATCHES)
        ]
        return np.concatenate([np.empty((0, len(INDICES)), np.float32), *parts])

    @functools.cached_property
    def _network(self) -> Any:
        """Takes a few patches and their standardised features; made when it is first needed."""
        _, tf = import_keras()
        model = build(self.patch_px, self._width, last_pooling=self._last_pooling)
        for layer in self._kernels:
            model.get_layer(layer).set_weights([self.arrays[f"{layer}.{kind}"] for kind in KINDS])
        side = self.patch_px
        run = tf.function(
            lambda patches, of_frame: model({"patches": patches, "handcrafted": of_frame}, training=False),
            input_signature=[
                tf.TensorSpec((None, side, side, 3), tf.uint8),
                tf.TensorSpec((None, len(NAMES)), tf.float32),
            ],
        )
        return lambda patches, of_frame: run(tf.constant(patches), tf.constant(of_frame)).numpy()
