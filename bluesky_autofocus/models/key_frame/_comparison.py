"""The network that compares the planes of a scan, in NumPy and, to be trained, in Keras.

It sees of each plane the encoder's features and by how much they differ from the mean of all planes, and two
made-up planes at the ends that stand for "below" and "above". Two convolutions along the axis, with the mean
over all planes handed to the second, give one log-odds a plane. So it serves any number of planes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.models.card import ModelFileError

__all__ = ["Comparison", "comparison_arrays", "keras_comparison"]

_NAMES = ("kernel0", "bias0", "kernel1", "bias1", "kernel2", "bias2")


class Comparison:
    """Log-odds of the planes of a scan from their features.

    Parameters
    ----------
    arrays : mapping
        ``kernel0`` (k, 2 * size + 2, width), ``kernel1`` (k, 2 * width, width), ``kernel2`` (1, width, 1)
        and their ``bias``.

    Raises
    ------
    ModelFileError
        If one is missing or does not fit.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        if sorted(arrays) != sorted(_NAMES):
            raise ModelFileError(f"expected the arrays {', '.join(_NAMES)}, got {', '.join(sorted(arrays))}")
        self.arrays = {name: np.asarray(arrays[name], np.float32) for name in _NAMES}
        first, second, last = (self.arrays[f"kernel{i}"].shape for i in range(3))
        width = first[-1]
        if (
            len(first) != 3
            or (first[1] - 2) % 2
            or second[1:] != (2 * width, width)
            or last != (1, width, 1)
            or any(
                self.arrays[f"bias{i}"].shape != shape[-1:] for i, shape in enumerate((first, second, last))
            )
        ):
            raise ModelFileError(f"kernels of shapes {first}, {second}, {last} do not make a comparison")
        self.size = (first[1] - 2) // 2

    def __call__(self, features: NDArray[np.float32], stretch: float) -> NDArray[np.float32]:
        """Return log-odds.

        Parameters
        ----------
        features : ndarray, shape (n_cells, n_planes, size)
            Of the encoder.
        stretch : float
            Spacing of the planes over the nominal one.

        Returns
        -------
        ndarray of float32, shape (n_cells, n_planes + 2)
            "Below", each plane, "above".
        """
        cells, n, size = features.shape
        x = np.zeros((cells, n + 2, 2 * size + 2), np.float32)
        x[:, 1:-1, :size] = features
        x[:, 1:-1, size:-2] = features - features.mean(axis=1, keepdims=True)
        x[:, (0, -1), -2] = 1
        x[:, :, -1] = stretch - 1
        y = np.maximum(_convolve(x, self.arrays["kernel0"]) + self.arrays["bias0"], 0)
        y = np.concatenate([y, np.broadcast_to(y.mean(axis=1, keepdims=True), y.shape)], axis=2)
        y = np.maximum(_convolve(y, self.arrays["kernel1"]) + self.arrays["bias1"], 0)
        return (_convolve(y, self.arrays["kernel2"]) + self.arrays["bias2"])[..., 0]


def _convolve(x: NDArray[np.float32], kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    side = kernel.shape[0]
    padded = np.pad(x, [(0, 0), (side // 2, side // 2), (0, 0)])
    n = x.shape[1]
    total = padded[:, :n] @ kernel[0]
    for i in range(1, side):
        total += padded[:, i : i + n] @ kernel[i]
    return total


def keras_comparison(keras: Any, size: int, width: int, side: int, name: str) -> Any:
    """Return a comparison to be trained, of what `comparison_inputs` made; `comparison_arrays` exports it."""
    inputs = keras.Input((None, 2 * size + 2))
    layers = keras.layers
    y = layers.Conv1D(width, side, padding="same", activation="relu")(inputs)
    mean = layers.GlobalAveragePooling1D(keepdims=True)(y)
    y = layers.Concatenate()([y, keras.ops.zeros_like(y) + mean])
    y = layers.Conv1D(width, side, padding="same", activation="relu")(y)
    return keras.Model(inputs, layers.Conv1D(1, 1)(y), name=name)


def comparison_inputs(tf: Any, features: Any, stretch: Any) -> Any:
    """Return what `keras_comparison` takes, in TensorFlow: see `Comparison.__call__`.

    Parameters
    ----------
    features : tensor, shape (n_scans, n_planes, size)
    stretch : tensor, shape (n_scans,)
    """
    scans, n = tf.shape(features)[0], tf.shape(features)[1]
    x = tf.concat([features, features - tf.reduce_mean(features, axis=1, keepdims=True)], axis=2)
    x = tf.pad(x, [[0, 0], [1, 1], [0, 0]])
    end = tf.concat([tf.ones((scans, 1)), tf.zeros((scans, n)), tf.ones((scans, 1))], axis=1)
    spacing = tf.broadcast_to(stretch[:, None] - 1, (scans, n + 2))
    return tf.concat([x, end[..., None], spacing[..., None]], axis=2)


def comparison_arrays(model: Any) -> dict[str, NDArray[np.float32]]:
    """Return the arrays of a comparison made by `keras_comparison`."""
    layers = [layer for layer in model.layers if layer.weights]
    return {
        f"{kind}{i}": np.asarray(weight, np.float32)
        for i, layer in enumerate(layers)
        for kind, weight in zip(("kernel", "bias"), layer.get_weights(), strict=True)
    }


def restore_comparison(model: Any, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Put exported arrays back into a comparison, to go on from them."""
    model.set_weights([arrays[name] for name in _NAMES])
