"""Fully connected networks in NumPy: what a session that only predicts needs in place of Keras."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bluesky_autofocus.models.card import ModelFileError

__all__ = ["DenseNetwork", "dense_arrays"]

# What Keras calls the layers that do nothing, or nothing but in training.
_PASSED_OVER = ("InputLayer", "Dropout", "GaussianNoise", "GaussianDropout")


class DenseNetwork:
    """Fully connected layers: rectified linear ones, the last one linear.

    Parameters
    ----------
    layers : sequence of (kernel, bias)
        Arrays of shape (inputs, outputs) and (outputs,), in order.

    Raises
    ------
    ValueError
        If there is no layer, or their shapes do not fit together.
    """

    def __init__(self, layers: Sequence[tuple[ArrayLike, ArrayLike]]) -> None:
        self._layers = [
            (np.asarray(kernel, np.float32), np.asarray(bias, np.float32)) for kernel, bias in layers
        ]
        if not self._layers:
            raise ValueError("a network needs a layer")
        width = self._layers[0][0].shape[0] if self._layers[0][0].ndim == 2 else -1
        for number, (kernel, bias) in enumerate(self._layers):
            if kernel.ndim != 2 or kernel.shape[0] != width or bias.shape != kernel.shape[1:]:
                raise ValueError(
                    f"layer {number} has a kernel of shape {kernel.shape} and a bias of {bias.shape}: "
                    f"expected ({width}, n) and (n,)"
                )
            width = kernel.shape[1]

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "DenseNetwork":
        """Return the network whose arrays `dense_arrays` gave.

        Raises
        ------
        ModelFileError
            If one is missing, there are others, or shapes do not fit.
        """
        depth = len(arrays) // 2
        names = {f"{kind}{number}" for number in range(depth) for kind in ("kernel", "bias")}
        if set(arrays) != names:
            raise ModelFileError(
                f"expected the arrays kernel0, bias0, kernel1 ... of a dense network, got {sorted(arrays)}"
            )
        try:
            return cls([(arrays[f"kernel{number}"], arrays[f"bias{number}"]) for number in range(depth)])
        except ValueError as error:
            raise ModelFileError(str(error)) from error

    @property
    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Kernels and biases by the names that `from_arrays` knows."""
        named = {}
        for number, (kernel, bias) in enumerate(self._layers):
            named[f"kernel{number}"], named[f"bias{number}"] = kernel, bias
        return named

    @property
    def inputs(self) -> int:
        """Length of an input vector."""
        return self._layers[0][0].shape[0]

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return self._layers[-1][1].size

    def __call__(self, x: ArrayLike) -> NDArray[np.float32]:
        """Return the outputs.

        Parameters
        ----------
        x : array_like, shape (n, inputs)

        Returns
        -------
        ndarray of float32, shape (n, outputs)
        """
        return self._forward(x)[-1]

    def gradient(self, x: ArrayLike, output: int = 0) -> NDArray[np.float32]:
        """Return the derivative of one output with respect to the inputs, by back-propagation.

        Parameters
        ----------
        x : array_like, shape (n, inputs)
        output : int
            Which.

        Returns
        -------
        ndarray of float32, shape (n, inputs)
        """
        hidden = self._forward(x)[:-1]
        kernel = self._layers[-1][0]
        back = np.broadcast_to(kernel[:, output], (len(hidden[-1]), kernel.shape[0]))
        for values, (kernel, _) in zip(hidden[:0:-1], self._layers[-2::-1], strict=True):
            back = (back * (values > 0)) @ kernel.T
        return np.array(back)

    def _forward(self, x: ArrayLike) -> list[NDArray[np.float32]]:
        """Return the inputs and what every layer makes of them."""
        values = [np.asarray(x, np.float32)]
        if values[0].ndim != 2 or values[0].shape[1] != self.inputs:
            raise ValueError(f"the vectors have shape {values[0].shape}: expected (n, {self.inputs})")
        for number, (kernel, bias) in enumerate(self._layers):
            y = values[-1] @ kernel
            y += bias
            if number < len(self._layers) - 1:
                np.maximum(y, 0, out=y)
            values.append(y)
        return values


def dense_arrays(keras_model: Any, output_scale: float = 1.0) -> dict[str, NDArray[np.float32]]:
    """Return the arrays of a Keras model that consists of dense layers.

    Parameters
    ----------
    keras_model : keras.Model
        Dense layers one behind the other, rectified linear but for the last, which is linear. Dropout and
        noise, which act in training only, are left out.
    output_scale : float
        The exported network's outputs are those of the model times this.

    Returns
    -------
    dict of str to ndarray
        For `DenseNetwork.from_arrays`, and to be written with `write_model`.

    Raises
    ------
    ValueError
        If the model has layers of other kinds, naming them.
    """
    layers = [layer for layer in keras_model.layers if type(layer).__name__ not in _PASSED_OVER]
    said = [
        f"{type(layer).__name__}({getattr(getattr(layer, 'activation', None), '__name__', '')})"
        for layer in layers
    ]
    expected = ["Dense(relu)"] * (len(layers) - 1) + ["Dense(linear)"]
    if not layers or said != expected:
        raise ValueError(
            f"the model has the layers {', '.join(said)}: expected Dense(relu) and one Dense(linear)"
        )
    pairs = [tuple(np.asarray(part, np.float32) for part in layer.get_weights()) for layer in layers]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("the model has a layer without bias")
    kernel, bias = pairs[-1]
    pairs[-1] = (kernel * np.float32(output_scale), bias * np.float32(output_scale))
    return DenseNetwork(pairs).arrays  # type: ignore[arg-type] - pairs, as was checked
