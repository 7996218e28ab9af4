"""The network that refocuses: the same in Keras, where it is trained, and in ONNX, where it is used."""

import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
from refocusing import network_arrays

from bluesky_autofocus.models.refocus._channels import CHANNELS_IN
from bluesky_autofocus.models.refocus._network import (
    CHANNELS,
    MULTIPLE,
    keras_network,
    onnx_network,
    shapes_of,
)
from bluesky_autofocus.models.refocus._network import network_arrays as arrays_of_keras

SMALL = (3, 5, 4)


def run(channels, arrays, x):
    """Return what ONNX Runtime makes of images, shape (n, h, w, k), by that network."""
    session = onnxruntime.InferenceSession(onnx_network(channels, arrays), providers=["CPUExecutionProvider"])
    y, deepest = session.run(["y", "deepest"], {"x": np.ascontiguousarray(x.transpose(0, 3, 1, 2))})
    return y.transpose(0, 2, 3, 1), deepest


def images(shape=(2, 64, 96), seed=0):
    return np.random.default_rng(seed).normal(0.3, 1, (*shape, CHANNELS_IN)).astype(np.float32)


def random_arrays(channels, seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(0, 1 / np.sqrt(np.prod(shape[:-1])), shape).astype(np.float32)
        for name, shape in shapes_of(CHANNELS_IN, channels).items()
    }


@pytest.fixture(scope="module")
def tensorflow():
    return pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def made(tensorflow):
    """Return a small network none of whose arrays is zero, and these arrays."""
    network, arrays = keras_network(CHANNELS_IN, SMALL), random_arrays(SMALL)
    for layer in network.layers:
        if f"{layer.name}.kernel" in arrays:
            layer.set_weights([arrays[f"{layer.name}.{kind}"] for kind in ("kernel", "bias")])
    return network, arrays


@pytest.mark.usefixtures("tensorflow")
class TestKeras:
    @pytest.mark.parametrize("shape", [(2, 64, 96), (1, 8, 24), (3, 40, 16)])
    def test_onnx_gives_the_same(self, made, shape):
        network, arrays = made
        x = images(shape)
        expected, found = network(x, training=False), run(SMALL, arrays_of_keras(network), x)
        for one, other, least in zip(expected, found, (0.1, 0.01), strict=True):
            assert np.std(one) > least
            np.testing.assert_allclose(other, np.asarray(one), atol=1e-5)
        np.testing.assert_array_equal(run(SMALL, arrays, x)[0], found[0])

    def test_onnx_gives_the_same_at_full_size(self):
        network, x = keras_network(CHANNELS_IN, seed=1), images((1, 96, 64))
        expected, found = network(x, training=False), run(CHANNELS, arrays_of_keras(network), x)
        assert found[0].shape == (1, 96, 64, 2) and found[1].shape == (1, CHANNELS[-1])
        for one, other in zip(expected, found, strict=True):
            assert np.std(one) > 1e-4
            np.testing.assert_allclose(other, np.asarray(one), atol=1e-5)

    @pytest.mark.parametrize("channels", [SMALL, CHANNELS])
    def test_its_arrays(self, channels):
        arrays = arrays_of_keras(keras_network(CHANNELS_IN, channels))
        assert {name: array.shape for name, array in arrays.items()} == shapes_of(CHANNELS_IN, channels)
        assert all(array.dtype == np.float32 for array in arrays.values())

    def test_a_seed_tells_all_weights(self):
        first, again, other = (arrays_of_keras(keras_network(CHANNELS_IN, SMALL, seed)) for seed in (3, 3, 4))
        for name, array in first.items():
            np.testing.assert_array_equal(array, again[name])
            assert name.endswith("bias") or (array != other[name]).mean() > 0.99


def test_a_last_layer_of_nothing_gives_nothing():
    y, deepest = run(SMALL, network_arrays(SMALL), images())
    assert not y.any()
    assert deepest.shape == (2, 4) and deepest.std() > 0


def test_pieces_of_any_size():
    side = MULTIPLE ** len(SMALL)
    for h, w in ((side, side), (side, 5 * side), (4 * side, 3 * side)):
        y, deepest = run(SMALL, random_arrays(SMALL), images((1, h, w)))
        assert y.shape == (1, h, w, 2) and deepest.shape == (1, 4)


def test_an_image_does_not_depend_on_those_beside_it():
    arrays, x = random_arrays(SMALL), images()
    together, alone = run(SMALL, arrays, x), run(SMALL, arrays, x[1:])
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one[1:], other, atol=1e-6)


def test_how_large_it_is():
    shapes = shapes_of(CHANNELS_IN, CHANNELS)
    assert shapes["down0.kernel"] == (4, 4, CHANNELS_IN, 16) and shapes["last.kernel"] == (4, 4, 2, 16)
    assert 1.2e6 < sum(np.prod(shape) for shape in shapes.values()) < 1.5e6


def test_without_onnx(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"needs ONNX Runtime: pip install 'bluesky-autofocus\[refocus\]'"):
        onnx_network(SMALL, network_arrays(SMALL))


def test_using_it_takes_no_tensorflow():
    code = (
        "import sys\n"
        "from bluesky_autofocus.models.refocus import load_model, refocus_rows\n"
        "assert not {'tensorflow', 'keras', 'onnx', 'onnxruntime', 'bluesky'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
