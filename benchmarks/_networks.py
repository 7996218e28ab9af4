"""What the single-shot studies share: training many small networks quickly, and scoring them.

`PUBLISHED` is the published network and recipe but for the numbers that would make it take hours: it learns
at 1e-3 with a cosine in batches of 64, in place of 2e-5 in batches of 25 until nothing is gained for 2000
steps. `CONTOURS` is one small network of the kind that the default model averages several of.
"""

import dataclasses
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.models._dense import DenseNetwork, dense_arrays
from bluesky_autofocus.models._training import cosine_optimiser, import_keras
from bluesky_autofocus.models.single_shot.features import ContourFeatures
from bluesky_autofocus.training.fields import OPTICS

DOF_UM = OPTICS.depth_of_field_um
RANGE_UM = 30.0
_SCALE_UM = 10.0
_STEPS_A_CALL = 50


@dataclasses.dataclass(frozen=True)
class Settings:
    """A network and how it is trained.

    Parameters
    ----------
    width, depth : int
        Units of a hidden layer, and number of these.
    dropout : float
        Share of the inputs left out in training.
    noise : float
        Gaussian noise on the inputs, which are then standardised.
    states_sigma : bool
        Whether it has a second output, and learns by the likelihood of the error (beta = 1/2).
    epochs, least_steps : int
        Passes over the training frames, or so many batches where that is more.
    batch : int
        Frames at a time.
    learning_rate : float
        Of Adam; it warms up and falls as a cosine.
    """

    width: int
    depth: int
    dropout: float = 0.0
    noise: float = 0.0
    states_sigma: bool = False
    epochs: int = 30
    least_steps: int = 1500
    batch: int = 64
    learning_rate: float = 1e-3

    def steps(self, frames: int) -> int:
        """Return how many batches it is trained with."""
        return max(self.least_steps, self.epochs * frames // self.batch)


PUBLISHED = Settings(width=100, depth=10, dropout=0.6)
CONTOURS = Settings(
    width=128,
    depth=3,
    noise=0.1,
    states_sigma=True,
    epochs=40,
    least_steps=2000,
    batch=256,
    learning_rate=2e-3,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A network that has been trained.

    Parameters
    ----------
    network : DenseNetwork
        In um.
    mean, deviation : ndarray
        Of the inputs, taken out before the network.
    weights : list of ndarray
        To go on from.
    seconds, core_seconds : float
        That it took, by the clock and of all cores together: the latter says more on a busy machine.
    """

    network: DenseNetwork
    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]
    weights: list[NDArray[np.float32]]
    seconds: float
    core_seconds: float

    def __call__(self, vectors: Any) -> NDArray[np.float32]:
        """Return the defocus in um of vectors, shape (n, size)."""
        parts = [vectors[start : start + 1024] for start in range(0, len(vectors), 1024)]
        return np.concatenate(
            [self.network((part.astype(np.float32) - self.mean) / self.deviation)[:, 0] for part in parts]
        )


def train(
    settings: Settings,
    vectors: NDArray[Any],
    defocus_um: NDArray[Any],
    *,
    seed: int = 0,
    start: Trained | None = None,
    effort: float = 1.0,
) -> Trained:
    """Train a network.

    Parameters
    ----------
    vectors : ndarray, shape (n, size)
        One for each frame.
    defocus_um : ndarray, shape (n,)
        The truth.
    seed : int
        Of initial weights, order and noise.
    start : Trained, optional
        To go on from, at the same rates.
    effort : float
        Times the usual number of steps.
    """
    keras, tf = import_keras()
    tf.get_logger().setLevel("ERROR")  # every network is a function of its own, about which it warns
    keras.utils.set_random_seed(seed)
    size = vectors.shape[1]
    mean, deviation = np.zeros(size, np.float32), np.ones(size, np.float32)
    if start is not None:
        mean, deviation = start.mean, start.deviation
    elif settings.noise:
        mean, deviation = vectors.mean(axis=0), vectors.std(axis=0) + np.float32(1e-3)
    if settings.noise:
        vectors = (vectors - mean) / deviation
    model = _network(keras, size, settings)
    if start is not None:
        model.set_weights(start.weights)
    steps = max(1, round(effort * settings.steps(len(vectors))))
    variables = model.trainable_variables
    optimiser = cosine_optimiser(keras, variables, settings.learning_rate, steps)
    x_all = tf.constant(vectors)  # strips stay in half precision: a stack is 0.8 MB
    y_all = tf.constant(np.asarray(defocus_um, np.float32)[:, None] / np.float32(_SCALE_UM))

    @tf.function
    def learn(count: Any) -> None:
        for _ in tf.range(count):
            which = tf.random.uniform((settings.batch,), 0, len(vectors), tf.int32)
            x, y = tf.cast(tf.gather(x_all, which), tf.float32), tf.gather(y_all, which)
            with tf.GradientTape() as tape:
                loss = _loss(tf, settings, model(x, training=True), y)
            optimiser.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    learn(tf.constant(0))  # what comes before the first step is not counted
    started, cores_started = time.monotonic(), time.process_time()
    for done in range(0, steps, _STEPS_A_CALL):
        learn(tf.constant(min(_STEPS_A_CALL, steps - done)))
    seconds, core_seconds = time.monotonic() - started, time.process_time() - cores_started
    network = DenseNetwork.from_arrays(dense_arrays(model, _SCALE_UM))
    return Trained(network, mean, deviation, model.get_weights(), seconds, core_seconds)


def _network(keras: Any, size: int, settings: Settings) -> Any:
    inputs = keras.Input((size,))
    x = keras.layers.Dropout(settings.dropout)(inputs) if settings.dropout else inputs
    x = keras.layers.GaussianNoise(settings.noise)(x) if settings.noise else x
    for _ in range(settings.depth):
        x = keras.layers.Dense(settings.width, activation="relu", kernel_initializer="he_normal")(x)
    return keras.Model(inputs, keras.layers.Dense(2 if settings.states_sigma else 1)(x))


def _loss(tf: Any, settings: Settings, out: Any, y: Any) -> Any:
    square = (out[:, :1] - y) ** 2
    if not settings.states_sigma:
        return tf.reduce_mean(square)
    log_sigma = tf.clip_by_value(out[:, 1:], -6.0, 4.0)
    likelihood = 0.5 * tf.exp(-2 * log_sigma) * square + log_sigma
    return tf.reduce_mean(likelihood * tf.stop_gradient(tf.exp(log_sigma)))


@dataclasses.dataclass(frozen=True, eq=False)
class Frames:
    """Vectors of the frames of some fields with their truth, within `RANGE_UM`.

    Parameters
    ----------
    vectors : ndarray, shape (n, size)
        Of the first pattern and patch.
    defocus_um, field, plane : ndarray, shape (n,)
        The truth, and which plane of which field a frame is.
    """

    vectors: NDArray[Any]
    defocus_um: NDArray[np.float32]
    field: NDArray[np.int_]
    plane: NDArray[np.int_]

    @classmethod
    def of(cls, found: dict[str, NDArray[Any]], name: str, which: Any, pattern: int = 0) -> "Frames":
        """Take some fields of what `bluesky_autofocus.training.fields` gave; powers become vectors."""
        chosen = np.arange(len(found["defocus_um"]))[which]
        defocus = np.asarray(found["defocus_um"][chosen])
        near = np.abs(defocus) <= RANGE_UM
        vectors = np.asarray(found[name][chosen, pattern])[:, :, 0][near]
        if name == "contours":
            vectors = ContourFeatures.vectors(vectors)
        fields, planes = np.broadcast_arrays(chosen[:, None], np.arange(defocus.shape[1]))
        return cls(
            vectors, defocus[near], np.broadcast_to(chosen[:, None], defocus.shape)[near], planes[near]
        )

    def __getitem__(self, rows: NDArray[Any]) -> "Frames":
        return Frames(self.vectors[rows], self.defocus_um[rows], self.field[rows], self.plane[rows])

    def __len__(self) -> int:
        return len(self.vectors)

    def __add__(self, other: "Frames") -> "Frames":
        return Frames(
            np.concatenate([self.vectors, other.vectors]),
            np.concatenate([self.defocus_um, other.defocus_um]),
            np.concatenate([self.field, other.field + 1 + self.field.max()]),
            np.concatenate([self.plane, other.plane]),
        )


def score(predict: Any, frames: Frames) -> dict[str, float]:
    """Return errors: RMSE in um and DOF, its standard error over fields, median, and the sign mistaken.

    Only frames beyond 1 DOF have a sign to be mistaken.
    """
    predicted = predict(frames.vectors)
    square = (predicted - frames.defocus_um) ** 2
    rmse = float(np.sqrt(square.mean()))
    # whole fields are good or bad, so that they, not frames, are what scatters
    by_field = np.array([square[frames.field == one].mean() for one in np.unique(frames.field)])
    rng = np.random.default_rng(0)
    again = np.sqrt(rng.choice(by_field, (500, len(by_field))).mean(axis=1))
    far = np.abs(frames.defocus_um) > DOF_UM
    return {
        "rmse_um": rmse,
        "rmse_dof": rmse / DOF_UM,
        "se_um": float(again.std()),
        "median_um": float(np.median(np.sqrt(square))),
        "wrong_sign": float(np.mean((predicted * frames.defocus_um < 0)[far])),
    }
