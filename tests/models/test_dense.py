"""Dense networks in NumPy: the same answers as Keras, and the right gradient."""

import numpy as np
import pytest

from bluesky_autofocus.models._dense import DenseNetwork, dense_arrays
from bluesky_autofocus.models.card import ModelFileError


def made(widths, seed=0) -> DenseNetwork:
    rng = np.random.default_rng(seed)
    return DenseNetwork(
        [
            (rng.standard_normal((a, b)) / np.sqrt(a), rng.standard_normal(b))
            for a, b in zip(widths, widths[1:], strict=False)
        ]
    )


def test_a_network_is_what_it_says():
    x = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
    network = made((4, 3, 2))
    a = network.arrays
    expected = np.maximum(x @ a["kernel0"] + a["bias0"], 0) @ a["kernel1"] + a["bias1"]
    np.testing.assert_allclose(network(x), expected, rtol=1e-6)
    assert (network.inputs, network.outputs, network(x).dtype) == (4, 2, np.float32)


def test_a_network_survives_its_arrays():
    network = made((4, 3, 2))
    x = np.ones((2, 4))
    np.testing.assert_array_equal(DenseNetwork.from_arrays(network.arrays)(x), network(x))


def test_a_network_can_be_kept_in_half_precision():
    network = made((40, 30, 1))
    half = DenseNetwork.from_arrays({name: a.astype(np.float16) for name, a in network.arrays.items()})
    x = np.random.default_rng(1).standard_normal((5, 40))
    np.testing.assert_allclose(half(x), network(x), atol=0.02)


def test_the_gradient_is_that_of_finite_differences():
    network = made((6, 20, 20, 2))
    x = np.random.default_rng(2).standard_normal((3, 6))
    step = 1e-3
    for output in (0, 1):
        found = network.gradient(x, output)
        for k in range(6):
            e = step * np.eye(6)[k]
            slope = (network(x + e)[:, output] - network(x - e)[:, output]) / (2 * step)
            np.testing.assert_allclose(found[:, k], slope, rtol=0.02, atol=0.01)


def test_a_single_layer_has_its_kernel_as_gradient():
    network = made((6, 2))
    np.testing.assert_array_equal(network.gradient(np.ones((3, 6)), 1), [network.arrays["kernel0"][:, 1]] * 3)


@pytest.mark.parametrize("x", [np.ones(4), np.ones((2, 3)), np.ones((1, 2, 4))])
def test_vectors_of_another_shape_are_refused(x):
    with pytest.raises(ValueError, match=r"expected \(n, 4\)"):
        made((4, 3, 2))(x)


def test_arrays_that_are_no_network_are_refused():
    arrays = made((4, 3, 2)).arrays
    with pytest.raises(ModelFileError, match="expected the arrays kernel0"):
        DenseNetwork.from_arrays({**arrays, "more": arrays["bias0"]})
    with pytest.raises(ModelFileError, match="layer 1 has a kernel of shape"):
        DenseNetwork.from_arrays({**arrays, "kernel1": arrays["kernel0"]})
    with pytest.raises(ModelFileError, match="needs a layer"):
        DenseNetwork.from_arrays({})


@pytest.fixture(scope="module")
def keras():
    pytest.importorskip("tensorflow")
    from bluesky_autofocus.models._training import import_keras

    return import_keras()[0]


def test_keras_and_numpy_agree(keras):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((50,)),
            layers.Dropout(0.6),
            layers.Dense(100, activation="relu"),
            layers.GaussianNoise(0.1),
            *[layers.Dense(100, activation="relu") for _ in range(9)],
            layers.Dense(2),
        ]
    )
    rng = np.random.default_rng(0)
    model.set_weights([weight + 0.1 * rng.standard_normal(weight.shape) for weight in model.get_weights()])
    x = rng.standard_normal((20, 50)).astype(np.float32)
    network = DenseNetwork.from_arrays(dense_arrays(model, output_scale=10.0))
    expected = 10 * np.asarray(model(x, training=False))
    np.testing.assert_allclose(network(x), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["convolution", "tanh", "no bias", "relu at the end"])
def test_other_networks_are_not_exported(keras, kind):
    layers = keras.layers
    made_of = {
        "convolution": [keras.Input((8, 8, 1)), layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(1)],
        "tanh": [keras.Input((8,)), layers.Dense(4, activation="tanh"), layers.Dense(1)],
        "no bias": [keras.Input((8,)), layers.Dense(4, activation="relu", use_bias=False), layers.Dense(1)],
        "relu at the end": [keras.Input((8,)), layers.Dense(1, activation="relu")],
    }
    with pytest.raises(ValueError, match="the model has"):
        dense_arrays(keras.Sequential(made_of[kind]))
