"""Convolutional encoders in NumPy: what a session that only predicts needs in place of Keras.

A description, a few numbers a layer, makes the network in Keras for training and is all that is needed to
run its arrays here. Batch normalisation is folded into the convolutions when it is exported.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.models.card import ModelFileError

__all__ = ["Encoder", "Layers", "encoder_arrays", "keras_encoder", "restore_encoder"]

Layers: TypeAlias = Sequence[tuple[int, int, int]]
"""Filters, side of the kernel and stride of each convolution."""

_CHUNK = 16
"""Images at a time, so that unfolded ones stay within the processor's cache."""


class Encoder:
    """Convolutions with rectified linear units, mean and maximum over the image, one dense layer.

    Parameters
    ----------
    layers : sequence of (filters, kernel, stride)
        The convolutions.
    arrays : mapping
        ``kernel0``, ``bias0`` ... of shape (k, k, in, out) and (out,); ``dense_kernel`` of shape
        (2 * out, size) and ``dense_bias``.

    Raises
    ------
    ModelFileError
        If an array is missing or of another shape than the layers say.
    """

    def __init__(self, layers: Layers, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.layers = tuple((int(f), int(k), int(s)) for f, k, s in layers)
        names = [f"{kind}{i}" for i in range(len(self.layers)) for kind in ("kernel", "bias")]
        names += ["dense_kernel", "dense_bias"]
        if sorted(arrays) != sorted(names):
            raise ModelFileError(f"expected the arrays {', '.join(names)}, got {', '.join(sorted(arrays))}")
        self.arrays = {name: np.asarray(arrays[name], np.float32) for name in names}
        channels = self.arrays["kernel0"].shape[2] if self.arrays["kernel0"].ndim == 4 else -1
        self.channels = channels
        for i, (filters, side, _) in enumerate(self.layers):
            self._expect(f"kernel{i}", (side, side, channels, filters))
            self._expect(f"bias{i}", (filters,))
            channels = filters
        self.size = self.arrays["dense_bias"].size
        self._expect("dense_kernel", (2 * channels, self.size))

    def _expect(self, name: str, shape: tuple[int, ...]) -> None:
        if self.arrays[name].shape != shape:
            raise ModelFileError(f"{name} has shape {self.arrays[name].shape}: expected {shape}")

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the features of images.

        Parameters
        ----------
        images : ndarray, shape (n, H, W, channels)

        Returns
        -------
        ndarray of float32, shape (n, size)
        """
        parts = [self._encode(images[i : i + _CHUNK]) for i in range(0, len(images), _CHUNK)]
        return np.concatenate(parts) if parts else np.empty((0, self.size), np.float32)

    def _encode(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        for i, (_, _, stride) in enumerate(self.layers):
            x = _convolve(x, self.arrays[f"kernel{i}"], stride)
            x += self.arrays[f"bias{i}"]
            np.maximum(x, 0, out=x)
        pooled = np.concatenate([x.mean(axis=(1, 2)), x.max(axis=(1, 2))], axis=1)
        return np.maximum(pooled @ self.arrays["dense_kernel"] + self.arrays["dense_bias"], 0)


def _convolve(x: NDArray[np.float32], kernel: NDArray[np.float32], stride: int) -> NDArray[np.float32]:
    """Convolve with zeros around the image, as Keras does with ``padding="same"``."""
    side = kernel.shape[0]
    pads = []
    for n in x.shape[1:3]:
        total = max((-(-n // stride) - 1) * stride + side - n, 0)
        pads.append((total // 2, total - total // 2))
    padded = np.pad(x, [(0, 0), *pads, (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))  # type: ignore[call-overload]
    windows = windows[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3)
    shape = windows.shape[:3]
    return (windows.reshape(-1, kernel[..., 0].size) @ kernel.reshape(-1, kernel.shape[-1])).reshape(
        *shape, -1
    )


def keras_encoder(keras: Any, layers: Layers, size: int, channels: int = 1, name: str = "encoder") -> Any:
    """Return an encoder to be trained; `encoder_arrays` exports it."""
    x = inputs = keras.Input((None, None, channels))
    for filters, side, stride in layers:
        x = keras.layers.Conv2D(filters, side, stride, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=0.95)(x)
        x = keras.layers.Activation("relu")(x)
    pooled = keras.layers.Concatenate()(
        [keras.layers.GlobalAveragePooling2D()(x), keras.layers.GlobalMaxPooling2D()(x)]
    )
    return keras.Model(inputs, keras.layers.Dense(size, activation="relu")(pooled), name=name)


def encoder_arrays(model: Any) -> dict[str, NDArray[np.float32]]:
    """Return the arrays of an encoder made by `keras_encoder`, normalisation folded into the convolutions."""
    arrays: dict[str, NDArray[np.float32]] = {}
    kernels = [layer for layer in model.layers if type(layer).__name__ == "Conv2D"]
    norms = [layer for layer in model.layers if type(layer).__name__ == "BatchNormalization"]
    for i, (convolution, norm) in enumerate(zip(kernels, norms, strict=True)):
        gamma, beta, mean, variance = (np.asarray(one, np.float64) for one in norm.get_weights())
        gain = gamma / np.sqrt(variance + norm.epsilon)
        arrays[f"kernel{i}"] = (np.asarray(convolution.get_weights()[0]) * gain).astype(np.float32)
        arrays[f"bias{i}"] = (beta - mean * gain).astype(np.float32)
    dense = model.layers[-1].get_weights()
    arrays["dense_kernel"], arrays["dense_bias"] = (np.asarray(one, np.float32) for one in dense)
    return arrays


def restore_encoder(model: Any, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Put exported arrays back into an encoder, to go on from them.

    The normalisation was folded away: what is left of it changes nothing but for its bias, as long as the
    encoder is called with ``training=False``.
    """
    kernels = [layer for layer in model.layers if type(layer).__name__ == "Conv2D"]
    norms = [layer for layer in model.layers if type(layer).__name__ == "BatchNormalization"]
    for i, (convolution, norm) in enumerate(zip(kernels, norms, strict=True)):
        convolution.set_weights([arrays[f"kernel{i}"]])
        bias = np.asarray(arrays[f"bias{i}"])
        one = np.ones_like(bias)
        norm.set_weights([one, bias, 0 * one, one - norm.epsilon])
    model.layers[-1].set_weights([arrays["dense_kernel"], arrays["dense_bias"]])
