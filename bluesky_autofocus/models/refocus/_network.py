"""The default network: a small U-Net, told once and made in Keras for training or in ONNX for use.

    channels (n, h, w, k)
      4x4/2 -> [block] ---------------------------------------------------- + -> [block] -> 4x4 x2 -> out
                3x3/2 -> [block] --------------------------- + -> [block] -^
                          ...                                ^
                           3x3/2 -> [block] -> 1x1, nearest x2

Its first convolution halves the frame, so that most of the work is done at a quarter of the pixels; four more
halvings let it see 200 pixels around each, more than any blur it is trained on. What goes across is added,
not concatenated, which halves the work where there are most pixels. It tells what is to be added to the
frame, so that for one in focus the answer is nothing, and the logarithm of how far off that is on average.
What the deepest block makes of the whole, on average, is given beside: by that a frame is known to be unlike
all that it was trained on.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.models._training import import_keras

__all__ = ["CHANNELS", "HINT", "MULTIPLE", "keras_network", "network_arrays", "onnx_network", "shapes_of"]

HINT = "refocusing needs ONNX Runtime: pip install 'bluesky-autofocus[refocus]'"
CHANNELS = (16, 32, 64, 128, 128)
MULTIPLE = 2
"""A tile's sides are multiples of this to the power of the number of levels."""


class _Maker(Protocol):
    """What makes layers, of whatever kind."""

    def convolution(
        self, x: Any, name: str, filters: int, side: int, *, stride: int = 1, rectified: bool = True
    ) -> Any: ...

    def enlarging(self, x: Any, name: str, filters: int, side: int) -> Any:
        """Transposed convolution that doubles the size."""
        ...

    def doubled(self, x: Any) -> Any:
        """Each pixel four times."""
        ...

    def rectified_sum(self, x: Any, y: Any) -> Any: ...

    def mean(self, x: Any) -> Any:
        """Over rows and columns."""
        ...


def _layers(make: _Maker, x: Any, channels: Sequence[int]) -> tuple[Any, Any]:
    """Make all layers; return what the network tells, and what its deepest block makes of the whole."""

    def block(x: Any, name: str, filters: int) -> Any:
        y = make.convolution(x, f"{name}_1", filters, 3)
        return make.rectified_sum(x, make.convolution(y, f"{name}_2", filters, 3, rectified=False))

    across = []
    for level, filters in enumerate(channels):
        x = make.convolution(x, f"down{level}", filters, 3 if level else 4, stride=2)
        x = block(x, f"in{level}", filters)
        across.append(x)
    deepest = make.mean(x)
    for level in range(len(channels) - 2, -1, -1):
        x = make.doubled(make.convolution(x, f"up{level}", channels[level], 1, rectified=False))
        x = block(make.rectified_sum(x, across[level]), f"out{level}", channels[level])
    return make.enlarging(x, "last", 2, 4), deepest


class _KerasMaker:
    def __init__(self, keras: Any, seed: int) -> None:
        self._keras = keras
        self._seeds = iter(np.random.default_rng((seed, 0)).integers(2**31, size=1000).tolist())

    def _start(self, gain: float) -> Any:
        return self._keras.initializers.VarianceScaling(gain, "fan_in", "truncated_normal", next(self._seeds))

    def convolution(
        self, x: Any, name: str, filters: int, side: int, *, stride: int = 1, rectified: bool = True
    ) -> Any:
        return self._keras.layers.Conv2D(
            filters,
            side,
            strides=stride,
            padding="same",
            activation="relu" if rectified else None,
            # blocks begin as almost nothing, without which so many on top of each other blow up
            kernel_initializer=self._start(2.0 if rectified else 0.2),
            name=name,
        )(x)

    def enlarging(self, x: Any, name: str, filters: int, side: int) -> Any:
        return self._keras.layers.Conv2DTranspose(
            filters, side, strides=2, padding="same", kernel_initializer=self._start(0.02), name=name
        )(x)

    def doubled(self, x: Any) -> Any:
        return self._keras.layers.UpSampling2D(2, interpolation="nearest")(x)

    def rectified_sum(self, x: Any, y: Any) -> Any:
        return self._keras.layers.ReLU()(self._keras.layers.Add()([x, y]))

    def mean(self, x: Any) -> Any:
        return self._keras.layers.GlobalAveragePooling2D()(x)


def keras_network(inputs: int, channels: Sequence[int] = CHANNELS, seed: int = 0) -> Any:
    """Return the network in Keras with random weights, from (n, h, w, inputs) to (n, h, w, 2), (n, channels).

    Parameters
    ----------
    channels : sequence of int
        Of each level, that with most pixels first.
    seed : int
        Of the weights.
    """
    keras, _ = import_keras()
    x = keras.Input((None, None, inputs))
    return keras.Model(x, _layers(_KerasMaker(keras, seed), x, channels), name="refocus")


def network_arrays(network: Any) -> dict[str, NDArray[np.float32]]:
    """Return kernels and biases of a Keras network, as ``LAYER.kernel`` and ``LAYER.bias``."""
    return {
        f"{layer.name}.{kind}": np.asarray(array, np.float32)
        for layer in network.layers
        for kind, array in zip(("kernel", "bias"), layer.get_weights(), strict=False)
    }


class _ShapesMaker:
    """Makes nothing but notes which arrays there are; `x` is a number of channels."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}

    def convolution(
        self, x: int, name: str, filters: int, side: int, *, stride: int = 1, rectified: bool = True
    ) -> int:
        self.shapes[f"{name}.kernel"], self.shapes[f"{name}.bias"] = (side, side, x, filters), (filters,)
        return filters

    def enlarging(self, x: int, name: str, filters: int, side: int) -> int:
        self.shapes[f"{name}.kernel"], self.shapes[f"{name}.bias"] = (side, side, filters, x), (filters,)
        return filters

    def doubled(self, x: int) -> int:
        return x

    def rectified_sum(self, x: int, y: int) -> int:
        return y

    def mean(self, x: int) -> int:
        return x


def shapes_of(inputs: int, channels: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the arrays of a network, by their names."""
    maker = _ShapesMaker()
    _layers(maker, inputs, channels)
    return maker.shapes


class _OnnxMaker:
    """Collects the nodes of an ONNX graph; `x` is the name of a value, channels before rows and columns."""

    def __init__(self, helper: Any, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._helper, self._arrays = helper, arrays
        self.nodes: list[Any] = []
        self.constants: dict[str, NDArray[Any]] = {"scales": np.array([1, 1, 2, 2], np.float32)}

    def _node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        output = f"{kind}{len(self.nodes)}"
        self.nodes.append(self._helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def _weights(self, name: str, order: tuple[int, ...]) -> tuple[str, str]:
        kernel, bias = f"{name}.kernel", f"{name}.bias"
        self.constants[kernel] = np.ascontiguousarray(self._arrays[kernel].transpose(order), np.float32)
        self.constants[bias] = np.asarray(self._arrays[bias], np.float32)
        return kernel, bias

    def convolution(
        self, x: str, name: str, filters: int, side: int, *, stride: int = 1, rectified: bool = True
    ) -> str:
        y = self._node(
            "Conv",
            [x, *self._weights(name, (3, 2, 0, 1))],
            kernel_shape=[side, side],
            strides=[stride, stride],
            auto_pad="SAME_UPPER",
        )
        return self._node("Relu", [y]) if rectified else y

    def enlarging(self, x: str, name: str, filters: int, side: int) -> str:
        margin = (side - 2) // 2
        return self._node(
            "ConvTranspose",
            [x, *self._weights(name, (3, 2, 0, 1))],
            kernel_shape=[side, side],
            strides=[2, 2],
            pads=[margin] * 4,
        )

    def doubled(self, x: str) -> str:
        return self._node(
            "Resize",
            [x, "", "scales"],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def rectified_sum(self, x: str, y: str) -> str:
        return self._node("Relu", [self._node("Add", [x, y])])

    def mean(self, x: str) -> str:
        return self._node("ReduceMean", [x], axes=[2, 3], keepdims=0)


def onnx_network(channels: Sequence[int], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the network as an ONNX model, from ``x`` (n, k, h, w) to ``y`` (n, 2, h, w) and ``deepest``.

    Raises
    ------
    ImportError
        If ONNX is not installed, saying how to.
    """
    try:
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise ImportError(f"{HINT} ({error})") from error
    maker = _OnnxMaker(helper, arrays)
    for value, name in zip(_layers(maker, "x", channels), ("y", "deepest"), strict=True):
        maker.nodes.append(helper.make_node("Identity", [value], [name]))
    graph = helper.make_graph(
        maker.nodes,
        "refocus",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "k", "h", "w"])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2, "h", "w"]),
            helper.make_tensor_value_info("deepest", TensorProto.FLOAT, ["n", channels[-1]]),
        ],
        [numpy_helper.from_array(array, name) for name, array in maker.constants.items()],
    )
    # versions that all runtimes of the last years read
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()
