"""The published network in Keras: a U-Net whose contracting path is a ResNet-34.

fastai's ``unet_learner(data, models.resnet34, blur=True, norm_type=NormType.Weight)``, layer by layer:

    frame (n, h, w, 1)
      7x7/2 64 ----------------------------------------------------------------- across -> up4 -> up5
        3x3/2 max, 3 blocks of 64 -------------------------------------- across -> up3 -^
          4 blocks of 128 ------------------------------------- across -> up2 -^
            6 blocks of 256 ------------------------ across -> up1 -^
              3 blocks of 512 -> 3x3 1024 -> 3x3 512 -^

``up1`` to ``up4`` double the size, join what comes across, and have two 3x3 convolutions. ``up5`` comes back
to the size of the frame; then the frame itself is joined, and there are one more residual block and a 1x1
convolution.

Arrays are called ``LAYER.kernel``, ``LAYER.gain`` and ``LAYER.bias``; the layers of the contracting path are
called as in torchvision, with ``_`` in place of the points.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.models._training import import_keras

__all__ = [
    "BATCH_EPSILON",
    "DEVIATION",
    "MEAN",
    "NORMS",
    "UPSAMPLINGS",
    "arrays_of",
    "build",
    "check_network",
    "encoder_arrays",
    "initial_arrays",
    "settle",
    "shapes_of",
]

Arrays = dict[str, NDArray[np.float32]]

NORMS = ("weight", "group")
"""Ways to normalise the expanding path."""
UPSAMPLINGS = ("blurred-shuffle", "shuffle", "resize")
"""Ways to double the size."""
MEAN, DEVIATION = 0.449, 0.226
"""Of grey levels from 0 to 1 in ImageNet, averaged over its three colours."""
_BLOCKS = (3, 4, 6, 3)
"""Of each stage of the contracting path."""
_GROUPS = 32
"""Of channels that are normalised together, or as many as divide them."""
_RESIDUAL, _LAST = 0.1, 0.01
"""Gains to begin with of what is added to something, and of what is added to the frame; of all others 1."""
BATCH_EPSILON = 1e-5
"""That torchvision adds to a variance."""
_LEAST_SPREAD = 0.05
"""A channel that hardly varies is not blown up any further."""


def check_network(width: float, norm: str, upsampling: str) -> None:
    """Make sure that there is such a network.

    Raises
    ------
    ValueError
        If there is not, naming what does not fit.
    """
    if not 0 < width <= 1:
        raise ValueError(f"width is {width!r}: expected a share of the published channels, in (0, 1]")
    for name, value, known in (("norm", norm, NORMS), ("upsampling", upsampling, UPSAMPLINGS)):
        if value not in known:
            raise ValueError(f"{name} is {value!r}: expected one of {', '.join(known)}")


def _layers(width: float, upsampling: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of each layer's kernel, (side, side, in, out), or (channels,) where it has none."""
    first = max(1, round(64 * width))

    def enlarging(channels: int, filters: int) -> tuple[int, ...]:
        return (3, 3, channels, filters) if upsampling == "resize" else (1, 1, channels, 4 * filters)

    layers: dict[str, tuple[int, ...]] = {"conv1": (7, 7, 1, first)}
    channels, across = first, [first]
    for stage, count in enumerate(_BLOCKS, 1):
        filters = first << (stage - 1)
        for block in range(count):
            name = f"layer{stage}_{block}"
            layers[f"{name}_conv1"] = (3, 3, channels, filters)
            layers[f"{name}_conv2"] = (3, 3, filters, filters)
            if channels != filters:
                layers[f"{name}_downsample"] = (1, 1, channels, filters)
            channels = filters
        across.append(channels)
    layers["deepest"] = (across.pop(),)
    layers["middle1"], layers["middle2"] = (3, 3, channels, 2 * channels), (3, 3, 2 * channels, channels)
    for step, joining in enumerate(reversed(across), 1):
        layers[f"up{step}_enlarging"] = enlarging(channels, channels // 2)
        layers[f"up{step}_across"] = (joining,)
        channels = channels // 2 + joining
        # the last of them keeps only half of its channels: there are most pixels
        filters = channels if step < len(across) else channels // 2
        layers[f"up{step}_conv1"] = (3, 3, channels, filters)
        layers[f"up{step}_conv2"] = (3, 3, filters, filters)
        channels = filters
    layers["up5_enlarging"] = enlarging(channels, channels)
    channels += 1
    layers["last_conv1"] = layers["last_conv2"] = (3, 3, channels, channels)
    layers["out"] = (1, 1, channels, 1)
    return layers


def shapes_of(width: float = 1.0, upsampling: str = UPSAMPLINGS[0]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the network's arrays, by their names."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in _layers(width, upsampling).items():
        if len(shape) > 1:
            shapes[f"{name}.kernel"] = shape
        shapes[f"{name}.gain"] = shapes[f"{name}.bias"] = shape[-1:]
    return shapes


def _is_encoder(layer: str) -> bool:
    """Return whether a layer belongs to the ResNet-34."""
    return layer.startswith(("conv1", "layer"))


def initial_arrays(width: float = 1.0, upsampling: str = UPSAMPLINGS[0], *, seed: int = 0) -> Arrays:
    """Return random weights to begin with.

    Kernels are normal (He et al. 2015). Those before a pixel shuffle are the same for the four pixels that
    they become (ICNR, Aitken et al. 2017), which so begin as one pixel enlarged, without a checkerboard. What
    is added to something else begins as little of it. `settle` fits the gains to data.

    Parameters
    ----------
    width, upsampling
        As for `build`.
    seed : int
        Of the weights, alone: neither Keras's own seed nor NumPy's matters.
    """
    rng = np.random.default_rng((seed, 0))
    arrays: Arrays = {}
    for name, shape in _layers(width, upsampling).items():
        added = name == "last_conv2" or (_is_encoder(name) and name.endswith("_conv2"))
        gain = _LAST if name == "out" else _RESIDUAL if added else 1.0
        if len(shape) > 1:
            copies = 4 if name.endswith("_enlarging") and upsampling != "resize" else 1
            one = rng.normal(0, math.sqrt(2 / math.prod(shape[:-1])), (*shape[:-1], shape[-1] // copies))
            arrays[f"{name}.kernel"] = np.tile(one, copies).astype(np.float32)
        arrays[f"{name}.gain"] = np.full(shape[-1:], gain, np.float32)
        arrays[f"{name}.bias"] = np.zeros(shape[-1:], np.float32)
    return arrays


@functools.cache
def _layer_kinds() -> tuple[Any, Any]:
    """Return the two kinds of layers that Keras lacks; it is loaded only when they are needed."""
    keras, tf = import_keras()

    class Normalised(keras.layers.Layer):
        """Convolution with normalised weights or channels; where it has no kernel, gain and bias alone."""

        settling = False

        def __init__(
            self, shape: tuple[int, ...], norm: str, stride: int, rectified: bool, name: str
        ) -> None:
            super().__init__(name=name)
            self._shape, self._norm, self._stride, self._rectified = shape, norm, stride, rectified

        def build(self, input_shape: Any) -> None:
            for kind in ("kernel", "gain", "bias"):
                shape = self._shape if kind == "kernel" else self._shape[-1:]
                if kind != "kernel" or len(shape) > 1:
                    setattr(self, kind, self.add_weight(shape=shape, initializer="zeros", name=kind))
            self.built = True

        def call(self, x: Any) -> Any:
            if self.settling and self._norm == "weight":
                answer = self._answered(x, 0.0) / self.gain
                mean, variance = tf.nn.moments(answer, [0, 1, 2])
                self.gain.assign(self.gain / tf.maximum(tf.sqrt(variance), _LEAST_SPREAD))
                self.bias.assign(-self.gain * mean)
            x = self._answered(x, self.bias)
            return tf.nn.relu(x) if self._rectified else x

        def _answered(self, x: Any, bias: Any) -> Any:
            gain: Any = self.gain
            if len(self._shape) > 1:
                kernel: Any = tf.convert_to_tensor(self.kernel)
                if self._norm == "weight":
                    kernel *= gain * tf.math.rsqrt(tf.reduce_sum(kernel**2, axis=(0, 1, 2)) + 1e-12)
                    gain = 1.0
                # the same all around, as in torchvision; Keras's "same" is not where there is a stride
                margin = [self._shape[0] // 2] * 2
                x = tf.pad(x, [[0, 0], margin, margin, [0, 0]])
                x = tf.nn.conv2d(x, kernel, self._stride, "VALID")
            if self._norm == "group":
                x = self._grouped(x)
            return x * gain + bias

        def _grouped(self, x: Any) -> Any:
            channels, shape = self._shape[-1], tf.shape(x)
            groups = math.gcd(channels, _GROUPS)
            parts = tf.reshape(x, [shape[0], shape[1] * shape[2], groups, channels // groups])
            mean, variance = tf.nn.moments(parts, [1, 3], keepdims=True)
            return tf.reshape((parts - mean) * tf.math.rsqrt(variance + 1e-5), shape)

    class PixelShuffle(keras.layers.Layer):
        """Four channels become four pixels; blurred, each is the mean of itself and those before it."""

        def __init__(self, blurred: bool, name: str) -> None:
            super().__init__(name=name)
            self._blurred = blurred

        def call(self, x: Any) -> Any:
            x = tf.nn.depth_to_space(x, 2)
            if self._blurred:
                x = tf.pad(x, [[0, 0], [1, 0], [1, 0], [0, 0]], "SYMMETRIC")
                x = tf.nn.avg_pool2d(x, 2, 1, "VALID")
            return x

    return Normalised, PixelShuffle


def build(
    width: float = 1.0,
    norm: str = NORMS[0],
    upsampling: str = UPSAMPLINGS[0],
    *,
    arrays: Mapping[str, NDArray[Any]] | None = None,
    seed: int = 0,
) -> Any:
    """Return the network, for frames of any size whose sides are multiples of 32.

    Where it differs from what fastai makes:

    - One channel goes in and one comes out. What goes in is normalised with the mean and the deviation of
      ImageNet's three colours together.
    - What the last convolution gives is added to the frame. It could tell the same without that, since the
      frame is joined before it; but so the network begins as one that changes hardly anything, and not as one
      that first has to learn to copy.
    - Nowhere is there batch normalisation, which both the ResNet-34 and the expanding path of fastai's have
      (there before each joining). Its statistics of the few pieces of a batch are poor, the more so where a
      network of random weights is trained and most of a piece is dark, and they are not those that it answers
      with. The kernels of the contracting path are normalised in its place, with as many parameters, and a
      ResNet-34 whose statistics are those of its training can be written so exactly: see `encoder_arrays`.
      Where fastai's joins what was normalised by the batch, here there are a gain and a bias a channel.

    Parameters
    ----------
    width : float
        Share of the published channels. At 1/8 it can be trained without a graphics card.
    norm : str
        Of the expanding path. "weight" (Salimans and Kingma 2016), as published: each kernel is a direction
        and a gain. "group" (Wu and He 2018): channels are normalised in groups over the whole tile, by which
        it learns a little faster. The default is the former also for a reason of its own: what comes out at a
        pixel then depends on what is around it, but not on what else is in the tile, so that tiles of a frame
        fit together. On blurred discs, 48 px from its edge a tile was off by 0.0006 of the range of grey
        levels, and by "group" by 0.003, however far from the edge; the error of either was 0.05.
    upsampling : str
        "blurred-shuffle", as published: a 1x1 convolution makes four channels of each, which become four
        pixels, and each is the mean of the 2x2 that end with it. "shuffle": the same without that mean.
        "resize": each pixel four times, then a 3x3 convolution (Odena et al. 2016).
    arrays : mapping of str to ndarray, optional
        Weights, as of `arrays_of`; by default `initial_arrays`.
    seed : int
        Of these.

    Returns
    -------
    keras.Model
        From grey levels as `Levels` makes them, shape (n, h, w, 1), to the same shape.

    Raises
    ------
    ValueError
        If there is no such network.
    ImportError
        If TensorFlow is not installed.
    """
    check_network(width, norm, upsampling)
    keras, _ = import_keras()
    normalised, pixel_shuffle = _layer_kinds()
    kernels = _layers(width, upsampling)

    def layer(x: Any, name: str, *, norm: str = norm, stride: int = 1, rectified: bool = True) -> Any:
        return normalised(kernels[name], norm, stride, rectified, name)(x)

    def added(x: Any, y: Any) -> Any:
        return keras.layers.ReLU()(keras.layers.Add()([x, y]))

    def block(x: Any, name: str, stride: int) -> Any:
        y = layer(x, f"{name}_conv1", norm="weight", stride=stride)
        y = layer(y, f"{name}_conv2", norm="weight", rectified=False)
        if f"{name}_downsample" in kernels:
            x = layer(x, f"{name}_downsample", norm="weight", stride=stride, rectified=False)
        return added(x, y)

    def doubled(x: Any, name: str) -> Any:
        if upsampling == "resize":
            return layer(keras.layers.UpSampling2D(2, interpolation="nearest")(x), name)
        return pixel_shuffle(upsampling == "blurred-shuffle", f"{name}_shuffle")(layer(x, name))

    frame = keras.Input((None, None, 1), name="frame")
    seen = keras.layers.Rescaling(1 / DEVIATION, offset=-MEAN / DEVIATION, name="levels")(frame)
    x = layer(seen, "conv1", norm="weight", stride=2)
    across = [x]
    # nothing is below zero, so that zeros around are as good as nothing around
    x = keras.layers.MaxPooling2D(3, 2)(keras.layers.ZeroPadding2D(1)(x))
    for stage, count in enumerate(_BLOCKS, 1):
        for number in range(count):
            x = block(x, f"layer{stage}_{number}", stride=2 if stage > 1 and number == 0 else 1)
        across.append(x)
    x = layer(across.pop(), "deepest")
    x = layer(layer(x, "middle1"), "middle2")
    for step, y in enumerate(reversed(across), 1):
        x = doubled(x, f"up{step}_enlarging")
        y = layer(y, f"up{step}_across", rectified=False)
        x = keras.layers.ReLU()(keras.layers.Concatenate()([x, y]))
        x = layer(layer(x, f"up{step}_conv1"), f"up{step}_conv2")
    x = keras.layers.Concatenate()([doubled(x, "up5_enlarging"), seen])
    x = keras.layers.Add()([x, layer(layer(x, "last_conv1"), "last_conv2")])
    # normalised by channels, its only one would always be 0 on average
    x = layer(x, "out", norm="weight", rectified=False)
    model = keras.Model(frame, keras.layers.Add()([frame, x]), name="refocus_published")
    set_arrays(model, initial_arrays(width, upsampling, seed=seed) if arrays is None else arrays)
    return model


def settle(model: Any, pieces: NDArray[np.float32], *, encoder: bool = True) -> None:
    """Fit gains and biases to pieces, so that at first each channel is 0 on average and varies by its gain.

    So Salimans and Kingma begin with weight normalisation. It is what batch normalisation would do to these
    pieces, but once and for all. On blurred discs, at a width of 1/8, 250 steps of 8 pieces of 64 px brought
    the error of other discs from 0.065 to 0.039; without this to 0.051; with batch normalisation where
    fastai's has it, in the contracting path and before each joining, to 0.044.

    Parameters
    ----------
    model : keras.Model
        That `build` made.
    pieces : ndarray, shape (n, h, w, 1)
        Some of those of training.
    encoder : bool
        Whether the contracting path is fitted, too; not where it was trained before.
    """
    chosen = [
        layer
        for layer in model.layers
        if hasattr(layer, "settling") and (encoder or not _is_encoder(layer.name))
    ]
    for layer in chosen:
        layer.settling = True
    try:
        model(pieces, training=False)
    finally:
        for layer in chosen:
            layer.settling = False


def encoder_arrays(given: Mapping[str, NDArray[Any]], width: float = 1.0) -> Arrays:
    """Return the contracting path of arrays that are called as in torchvision's ResNet-34.

    Batch normalisation with the statistics of its training multiplies and adds the same whatever it is shown:
    this becomes gain and bias of the normalised kernel, exactly. The colours of the first kernel are summed,
    as if grey levels were given three times.

    Parameters
    ----------
    given : mapping of str to ndarray
        ``conv1.weight``, shape (64, 3, 7, 7) or (64, 1, 7, 7), ``bn1.weight``, ``bn1.bias``,
        ``bn1.running_mean``, ``bn1.running_var``, ``layer1.0.conv1.weight`` ... Others do not matter.
    width : float
        Of the network.

    Raises
    ------
    ValueError
        If one is missing or has another shape, naming the first.
    """

    def wanted(name: str, *shapes: tuple[int, ...]) -> NDArray[np.float64]:
        if name not in given:
            raise ValueError(f"there is no array {name}: expected those of torchvision's ResNet-34")
        if given[name].shape not in shapes:
            expected = " or ".join(str(shape) for shape in shapes)
            raise ValueError(f"{name} has shape {given[name].shape}: expected {expected}")
        return np.asarray(given[name], np.float64)

    arrays: Arrays = {}
    for name, (side, _, channels, filters) in (
        (name, shape) for name, shape in _layers(width, UPSAMPLINGS[0]).items() if _is_encoder(name)
    ):
        *block, last = name.split("_")
        here = "".join(f"{part}." for part in block)
        convolution, norm = (
            ("downsample.0", "downsample.1") if last == "downsample" else (last, last.replace("conv", "bn"))
        )
        shape = (filters, channels, side, side)
        colours = [(filters, 3, side, side)] if name == "conv1" else []
        kernel = wanted(f"{here}{convolution}.weight", *colours, shape).transpose(2, 3, 1, 0)
        kernel = kernel.sum(axis=2, keepdims=True) if name == "conv1" else kernel
        gamma, beta, mean, variance = (
            wanted(f"{here}{norm}.{kind}", (filters,))
            for kind in ("weight", "bias", "running_mean", "running_var")
        )
        factor = gamma / np.sqrt(variance + BATCH_EPSILON)
        arrays[f"{name}.kernel"] = kernel.astype(np.float32)
        arrays[f"{name}.gain"] = (factor * np.sqrt((kernel**2).sum(axis=(0, 1, 2)))).astype(np.float32)
        arrays[f"{name}.bias"] = (beta - factor * mean).astype(np.float32)
    return arrays


def set_arrays(model: Any, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Put arrays into a network that `build` made."""
    for layer in model.layers:
        if layer.weights:
            layer.set_weights([arrays[f"{layer.name}.{weight.name}"] for weight in layer.weights])


def arrays_of(model: Any) -> Arrays:
    """Return the weights of a network that `build` made, by the names that `shapes_of` gives."""
    return {
        f"{layer.name}.{weight.name}": np.asarray(weight.value, np.float32)
        for layer in model.layers
        for weight in layer.weights
    }
