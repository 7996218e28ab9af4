"""The layers of the published network, in Keras."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.models._training import import_keras
from bluesky_autofocus.models.hh_net.classes import INDICES
from bluesky_autofocus.models.hh_net.features import NAMES

__all__ = ["KINDS", "arrays_of", "build", "kernels_of"]

_GROUPS = ((5, 64, 2), (3, 128, 2), (3, 256, 3), (3, 512, 3), (3, 512, 3))
"""Side of the kernels, channels and number of the convolutions of each group."""
_PATCH_UNITS, _FRAME_UNITS, _UNITS = 224, 32, 256
"""Of the first fully connected layer, by what they see, and of the second."""
KINDS = ("kernel", "bias")
"""The arrays of a layer, in Keras's order."""


def kernels_of(
    patch_px: int = 300, width: float = 1.0, last_pooling: bool = False
) -> dict[str, tuple[int, ...]]:
    """Return the shape of the kernel of each layer that has one, by the names in `build`.

    Parameters
    ----------
    patch_px, width, last_pooling
        As for `build`.

    Raises
    ------
    ValueError
        If nothing is left of the patch after the poolings, or there is no such width.
    """
    if not (math.isfinite(width) and width > 0):
        raise ValueError(f"width is {width!r}: expected a positive number")
    poolings = len(_GROUPS) - 1 + last_pooling
    if patch_px < 2**poolings:
        raise ValueError(f"patch_px is {patch_px!r}: expected at least {2**poolings}, to be halved so often")
    shapes: dict[str, tuple[int, ...]] = {}
    channels = 3
    for group, (side, filters, count) in enumerate(_GROUPS, 1):
        for layer in range(1, count + 1):
            following = max(1, round(width * filters))
            shapes[f"conv{group}_{layer}"] = (side, side, channels, following)
            channels = following
    return {
        **shapes,
        "patch": ((patch_px >> poolings) ** 2 * channels, _PATCH_UNITS),
        "frame": (len(NAMES), _FRAME_UNITS),
        "both": (_PATCH_UNITS + _FRAME_UNITS, _UNITS),
        "classes": (_UNITS, len(INDICES)),
    }


def build(
    patch_px: int = 300,
    width: float = 1.0,
    *,
    last_pooling: bool = False,
    dropout: tuple[float, float] = (0.7, 0.5),
    seed: int = 0,
) -> Any:
    """Return the network with random weights, to be trained.

    What the paper leaves open, and what is done here:

    - No pooling after the last group, for table 1 has none. Most of the 52 million parameters are then those
      between the last convolutions and the 224 units; `last_pooling` leaves 24 million.
    - The convolutions are padded with zeros, so that only pooling makes an image smaller, as in the networks
      of Simonyan and Zisserman that the table follows.
    - Rectified linear units also in the fully connected layers; the paper tells only of the convolutions.
    - The dropout is the share of the units that is left out, as a rate is; 0.7 could also be what is kept.
    - Weights start as He et al. advise for rectified linear units, without which thirteen layers on top of
      each other do not learn, those of the last layer as Glorot and Bengio advise; biases start at 0.
    - Grey levels go from -1 to 1, by the first layer.

    Parameters
    ----------
    patch_px : int
        Side of a patch.
    width : float
        Of the convolutions, as a share of the published channels. The fully connected layers stay.
    last_pooling : bool
        Whether max pooling follows the last convolution, too.
    dropout : tuple of float
        Shares of the units of the first and the second fully connected layer.
    seed : int
        Of the weights and the dropout, alone: Keras's own seed does not matter.

    Returns
    -------
    keras.Model
        From ``patches``, uint8, shape (n, patch_px, patch_px, 3), and ``handcrafted``, standardised, shape
        (n, 18), to probabilities of the classes, shape (n, 7).

    Raises
    ------
    ValueError
        If nothing is left of the patch after the poolings, or there is no such width.
    ImportError
        If TensorFlow is not installed.
    """
    kernels = kernels_of(patch_px, width, last_pooling)
    keras, _ = import_keras()
    layers, initializers = keras.layers, keras.initializers
    seeds = iter(np.random.default_rng((seed, 0)).integers(2**31, size=len(kernels) + 2).tolist())

    def dense(name: str) -> Any:
        start = initializers.HeNormal(next(seeds))
        return layers.Dense(kernels[name][1], activation="relu", kernel_initializer=start, name=name)

    patches = keras.Input((patch_px, patch_px, 3), dtype="uint8", name="patches")
    of_frame = keras.Input((len(NAMES),), name="handcrafted")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="levels")(patches)
    for group, (side, _, count) in enumerate(_GROUPS, 1):
        for layer in range(1, count + 1):
            name = f"conv{group}_{layer}"
            start = initializers.HeNormal(next(seeds))
            x = layers.Conv2D(
                kernels[name][-1],
                side,
                padding="same",
                activation="relu",
                kernel_initializer=start,
                name=name,
            )(x)
        if group < len(_GROUPS) or last_pooling:
            x = layers.MaxPooling2D(name=f"pool{group}")(x)
    x = layers.Concatenate(name="first")([dense("patch")(layers.Flatten()(x)), dense("frame")(of_frame)])
    x = layers.Dropout(dropout[0], seed=next(seeds))(x)
    x = layers.Dropout(dropout[1], seed=next(seeds))(dense("both")(x))
    start = initializers.GlorotUniform(next(seeds))
    p = layers.Dense(len(INDICES), activation="softmax", kernel_initializer=start, name="classes")(x)
    return keras.Model({"patches": patches, "handcrafted": of_frame}, p, name="hh_net")


def arrays_of(keras_model: Any) -> dict[str, NDArray[np.float32]]:
    """Return kernels and biases of a network that `build` made, ``LAYER.kernel`` and ``LAYER.bias``."""
    return {
        f"{layer.name}.{kind}": np.asarray(array, np.float32)
        for layer in keras_model.layers
        for kind, array in zip(KINDS, layer.get_weights(), strict=False)
    }
