"""The single-shot network as published (Pinkard et al. 2019), to compare the default with.

The centre of |FFT| of each patch, of unit mean, into ten layers of a hundred units with dropout on the input
only; the answers of all patches are averaged. It states no uncertainty of its own.
"""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bluesky_autofocus.defocus import DefocusEstimate
from bluesky_autofocus.leds import Single
from bluesky_autofocus.models._dense import DenseNetwork, dense_arrays
from bluesky_autofocus.models._training import (
    Progress,
    cosine_optimiser,
    distinct_fields,
    import_keras,
    library_versions,
    share_kept_out,
    shown_progress,
)
from bluesky_autofocus.models.card import (
    FeatureRecord,
    ModelCard,
    ModelFileError,
    ModelInputs,
    TrainingRecord,
)
from bluesky_autofocus.models.single_shot._led_model import LEDModel
from bluesky_autofocus.models.single_shot.features import StripFeatures
from bluesky_autofocus.records import Reason
from bluesky_autofocus.sharpness import examine_frame

__all__ = [
    "ARCHITECTURE",
    "AS_PUBLISHED",
    "PublishedModel",
    "PublishedOptions",
    "PublishedTraining",
    "train_published",
]

ARCHITECTURE = "published-dense-1"

_CHUNK = 512
"""Vectors that are looked at together where all of them are: 64 MB at the published size."""


@dataclasses.dataclass(frozen=True)
class PublishedOptions:
    """How the published network is trained.

    The network is the published one; the defaults of how it is trained are not, since with the published
    ones it takes many times as long: a higher learning rate that warms up and falls as a cosine, larger
    batches, targets in units of 10 um. `AS_PUBLISHED` has the published values.

    Parameters
    ----------
    epochs : int
        Most passes over the training frames.
    patience : int
        Stop after so many batches without a lower error on the frames kept out, which are looked at once an
        epoch. The weights kept are those with the lowest.
    batch : int
        Vectors, of one patch each, at a time.
    learning_rate : float
        Of Adam.
    schedule : {"cosine", "constant"}
        How the rate changes; with the cosine gradients are also limited to norm 1.
    target_scale_um : float
        Unit of the network's output in training.
    dropout : float
        Share of the inputs left out.
    width, depth : int
        Units of a hidden layer, and number of these.
    validation_share : float
        Of the fields that are kept out.
    seed : int
        Of the fields kept out, the initial weights, the order of the batches and the dropout.

    Raises
    ------
    ValueError
        If a value makes no sense, naming it.
    """

    epochs: int = 40
    patience: int = 2000
    batch: int = 64
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    target_scale_um: float = 10.0
    dropout: float = 0.6
    width: int = 100
    depth: int = 10
    validation_share: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "batch", "width", "depth"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}: expected at least 1")
        for name in ("learning_rate", "target_scale_um"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)!r}: expected more than 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout!r}: expected 0 to 1")
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share is {self.validation_share!r}: expected between 0 and 1")
        if self.schedule not in ("cosine", "constant"):
            raise ValueError(f"schedule is {self.schedule!r}: expected cosine or constant")


AS_PUBLISHED = PublishedOptions(
    epochs=1000, patience=2000, batch=25, learning_rate=2e-5, schedule="constant", target_scale_um=1.0
)
"""What the published code does."""


class PublishedModel(LEDModel):
    """Tells the defocus from one frame under one LED on the x or y axis of the frame.

    Made by `load`, or by `train_published` and `save`.

    Parameters
    ----------
    card : ModelCard
        What it is.
    arrays : mapping of str to ndarray
        Of the dense network; it gives um.

    Raises
    ------
    ModelFileError
        If the card is that of another architecture, or arrays and card do not fit.
    """

    architecture = ARCHITECTURE
    features_of = StripFeatures
    features: StripFeatures

    def __init__(self, card: ModelCard, arrays: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(card, arrays)
        with self._complete():
            self.network = DenseNetwork.from_arrays(self.arrays)
            self.sigma_um = float(card.figures["validation_rmse_um"])
        if (self.network.inputs, self.network.outputs) != (self.features.size, 1):
            raise ModelFileError(
                f"{card.name}: a network of {self.network.inputs} inputs and {self.network.outputs} outputs "
                f"does not fit features of length {self.features.size}"
            )

    def estimate(self, *frames: NDArray[Any]) -> DefocusEstimate:
        """Return the defocus; its uncertainty is the error in validation, the same for all frames.

        Only frames that no method could use (black, saturated, uniform, not finite) and answers outside the
        range of training are refused: the published method has no way to know what it does not know.

        Parameters
        ----------
        *frames : ndarray, shape (H, W)
            One frame, in grey levels as the camera gave them.

        Raises
        ------
        ValueError
            If it is not one frame without colours of at least a patch.
        """
        frame = self._only(frames)
        problem = examine_frame(frame, full_scale=self.full_scale).problem
        if problem is not None:
            return DefocusEstimate.refused(Reason(problem))
        defocus_um = float(self.predict(self.features(frame)[None])[0])
        if not abs(defocus_um) <= self.range_um:
            return DefocusEstimate.refused(Reason.OUT_OF_RANGE)
        return DefocusEstimate(defocus_um, self.sigma_um)

    def predict(self, vectors: ArrayLike) -> NDArray[np.float64]:
        """Return the defocus of frames from the vectors of their patches.

        Parameters
        ----------
        vectors : array_like, shape (n, n_patches, size)

        Returns
        -------
        ndarray, shape (n,)
            In um, averaged over the patches.
        """
        vectors = np.asarray(vectors, np.float32)
        if vectors.ndim != 3:
            raise ValueError(f"the vectors have shape {vectors.shape}: expected (n, n_patches, size)")
        return _predicted(self.network, vectors, np.arange(len(vectors)))

    def gradient(self, vectors: ArrayLike) -> NDArray[np.float32]:
        """Return the derivative of the prediction with respect to the Fourier magnitude.

        Magnitudes count in units of their mean, as in the vectors. That the vectors are kept at unit mean
        is part of it: a magnitude that grows alone takes from the others.

        Parameters
        ----------
        vectors : array_like, shape (n, size)

        Returns
        -------
        ndarray of float32, shape (n, size)
            In um.
        """
        x = np.asarray(vectors, np.float32)
        gradient = self.network.gradient(x)
        return gradient if self.features.phase else gradient - (gradient * x).mean(axis=1, keepdims=True)


def _predicted(network: DenseNetwork, vectors: Any, rows: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the mean over the patches of what a network makes of each, a few frames at a time."""
    _, patches, size = vectors.shape
    found = np.empty(len(rows))
    step = max(1, _CHUNK // patches)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        x = np.asarray(vectors[rows[part]], np.float32).reshape(-1, size)
        found[part] = network(x).reshape(-1, patches).mean(axis=1, dtype=np.float64)
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class PublishedTraining:
    """What came of training.

    Parameters
    ----------
    model : PublishedModel
        Not yet saved.
    keras_model : keras.Model
        The same network with which it was trained, in units of `PublishedOptions.target_scale_um`.
    history : dict
        For each epoch: ``step`` (batches so far), ``loss`` (mean squared error in training, um^2) and
        ``validation_rmse_um``.
    minutes : float
        That training took.
    validation_rmse_um, validation_rmse_dof : float
        Of frames averaged over their patches. These frames also chose which epoch was kept.
    validation_groups : ndarray
        The fields that were kept out; empty where validation data were given.
    """

    model: PublishedModel
    keras_model: Any
    history: dict[str, list[float]]
    minutes: float
    validation_rmse_um: float
    validation_rmse_dof: float
    validation_groups: NDArray[Any]


def train_published(
    vectors: Any,
    defocus_um: ArrayLike,
    groups: ArrayLike,
    features: StripFeatures,
    *,
    options: PublishedOptions = PublishedOptions(),
    valid_range_um: float = 30.0,
    validation: tuple[Any, ArrayLike] | None = None,
    data: str = "",
    valid_for: str = "",
    name: str = "single-shot, as published",
    version: str = "1",
    progress: bool | Progress = False,
) -> PublishedTraining:
    """Train the published network.

    Parameters
    ----------
    vectors : array, shape (n, n_patches, size) or (n, size)
        Of `StripFeatures`, for each frame. May lie on disk: some rows at a time are read.
    defocus_um : array_like, shape (n,)
        Image plane minus focus.
    groups : array_like, shape (n,)
        Which field a frame shows. Whole fields are kept out for validation, chosen by the seed.
    features : StripFeatures
        What made the vectors.
    options : PublishedOptions
        How; `AS_PUBLISHED` is slow.
    valid_range_um : float
        Defocus to either side for which the model will answer.
    validation : tuple, optional
        Vectors and defoci to validate on instead of fields kept out.
    data, valid_for, name, version : str
        For the card.
    progress : bool or callable
        True shows a bar; a function is called with batches done and batches at most.

    Returns
    -------
    PublishedTraining

    Raises
    ------
    ValueError
        If shapes do not fit or a defocus is not finite, or if there are fewer than two fields to split.
    ImportError
        If TensorFlow is not installed.
    """
    vectors = vectors if hasattr(vectors, "ndim") else np.asarray(vectors, np.float32)
    vectors = vectors[:, None] if vectors.ndim == 2 else vectors
    target, fields = np.asarray(defocus_um, np.float32), np.asarray(groups)
    _check_shapes(vectors, target, fields, features)
    distinct = distinct_fields(fields, least=2 if validation is None else 1)
    kept = distinct[:0]
    if validation is None:
        rng = np.random.default_rng((options.seed, 0))
        kept = share_kept_out(distinct, options.validation_share, rng)
    is_kept = np.isin(fields, kept)
    if validation is None:
        check = _Judged(vectors, target, np.flatnonzero(is_kept))
    else:
        judged = validation[0] if hasattr(validation[0], "ndim") else np.asarray(validation[0], np.float32)
        judged = judged[:, None] if judged.ndim == 2 else judged
        truth = np.asarray(validation[1], np.float32)
        _check_shapes(judged, truth, truth, features)
        check = _Judged(judged, truth, np.arange(len(truth)))

    import_keras()
    started = time.monotonic()
    with shown_progress(progress) as show:
        model, history = _fit(vectors, target, np.flatnonzero(~is_kept), check, options, show)
    minutes = (time.monotonic() - started) / 60
    rmse_um = min(history["validation_rmse_um"])
    rmse_dof = rmse_um / features.optics.depth_of_field_um
    parameters = dict(features.parameters)
    x, y = features.na_xy
    card = ModelCard(
        name=name,
        architecture=ARCHITECTURE,
        version=version,
        inputs=ModelInputs.of(
            features.optics,
            illumination=str(Single(round(float(np.hypot(x, y)), 6), float(np.degrees(np.arctan2(y, x))))),
            patch_px=features.patch_px,
            led_na_xy=(features.na_xy,),
            bit_depth=16,
        ),
        features=FeatureRecord(parameters.pop("name"), parameters),
        valid_range_um=(-valid_range_um, valid_range_um),
        training=TrainingRecord(
            data=data,
            fields=len(distinct),
            frames=len(target),
            seed=options.seed,
            minutes=minutes,
            options=dataclasses.asdict(options),
            versions=library_versions(),
        ),
        figures={
            "validation_rmse_um": rmse_um,
            "validation_rmse_dof": rmse_dof,
            "validation_frames": len(check.rows),
            "validation_fields": len(kept),
            "epochs": len(history["step"]),
        },
        valid_for=valid_for,
        licence="BSD-3-Clause",
        architecture_parameters={"width": options.width, "depth": options.depth},
    )
    trained = PublishedModel(card, dense_arrays(model, options.target_scale_um))
    return PublishedTraining(trained, model, history, minutes, rmse_um, rmse_dof, kept)


@dataclasses.dataclass(frozen=True, eq=False)
class _Judged:
    """Frames that a network is judged by and not trained on."""

    vectors: Any
    defocus_um: NDArray[np.float32]
    rows: NDArray[np.intp]

    def rmse_um(self, network: DenseNetwork) -> float:
        error = _predicted(network, self.vectors, self.rows) - self.defocus_um[self.rows]
        return float(np.sqrt(np.mean(error**2)))


def _check_shapes(
    vectors: Any, defocus_um: NDArray[Any], groups: NDArray[Any], features: StripFeatures
) -> None:
    n = len(vectors)
    if vectors.ndim != 3 or n < 1 or defocus_um.shape != (n,) or groups.shape != (n,):
        raise ValueError(
            f"vectors, defocus_um, groups have shapes {vectors.shape}, {defocus_um.shape}, {groups.shape}: "
            "expected (n, n_patches, size), (n,), (n,)"
        )
    if vectors.shape[2] != features.size:
        raise ValueError(f"the vectors have length {vectors.shape[2]}: these features make {features.size}")
    if not np.isfinite(defocus_um).all():
        raise ValueError("defocus_um has values that are not finite")


def _keras_network(keras: Any, size: int, options: PublishedOptions) -> Any:
    """Return the network; what is random in it comes from the seed alone, not from Keras's own."""
    seeds = iter(np.random.default_rng((options.seed, 1)).integers(2**31, size=options.depth + 2).tolist())
    inputs = keras.Input((size,))
    x = keras.layers.Dropout(options.dropout, seed=next(seeds))(inputs)
    for _ in range(options.depth):
        start = keras.initializers.HeNormal(seed=next(seeds))
        x = keras.layers.Dense(options.width, activation="relu", kernel_initializer=start)(x)
    start = keras.initializers.GlorotUniform(seed=next(seeds))
    return keras.Model(inputs, keras.layers.Dense(1, kernel_initializer=start)(x))


def _fit(
    vectors: Any,
    target: NDArray[np.float32],
    rows: NDArray[np.intp],
    check: _Judged,
    options: PublishedOptions,
    progress: Progress,
) -> tuple[Any, dict[str, list[float]]]:
    """Train on some rows; return the Keras model with the weights of the best epoch, and the history."""
    keras, tf = import_keras()
    _, patches, size = vectors.shape
    # an epoch shows every patch once; the last batch, which may be smaller, would cost a second tracing
    each = len(rows) * patches
    batch = min(options.batch, each)
    steps = each // batch
    total = steps * options.epochs
    model = _keras_network(keras, size, options)
    variables, rate = model.trainable_variables, options.learning_rate
    if options.schedule == "cosine":
        warm = min(max(20, total // 20), max(1, total // 2))
        optimiser = cosine_optimiser(keras, variables, rate, max(1, total - warm), warmup_steps=warm)
    else:
        optimiser = keras.optimizers.Adam(rate)
        optimiser.build(variables)

    @tf.function(reduce_retracing=True)
    def learn(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        optimiser.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    rng = np.random.default_rng((options.seed, 2))
    history: dict[str, list[float]] = {"step": [], "loss": [], "validation_rmse_um": []}
    best, best_step, best_weights = np.inf, 0, model.get_weights()
    scale = options.target_scale_um
    done = 0
    for _ in range(options.epochs):
        order, losses = rng.permutation(each), []
        for start in range(0, steps * batch, batch):
            chosen = order[start : start + batch]
            frames, patch = rows[chosen // patches], chosen % patches
            y = target[frames, None] / np.float32(scale)
            losses.append(learn(tf.constant(_gathered(vectors, frames, patch)), tf.constant(y)))
            done += 1
            if done % 20 == 0:
                progress(done, total)
        rmse_um = check.rmse_um(DenseNetwork.from_arrays(dense_arrays(model, scale)))
        history["step"].append(done)
        history["loss"].append(float(np.mean(losses)) * scale**2)
        history["validation_rmse_um"].append(rmse_um)
        if rmse_um < best:
            best, best_step, best_weights = rmse_um, done, model.get_weights()
        elif done - best_step >= options.patience:
            break
    progress(done, total)
    if not np.isfinite(best):
        raise ValueError(
            f"training diverged: learning_rate is {options.learning_rate!r}, expected a lower one"
        )
    model.set_weights(best_weights)
    return model, history


def _gathered(vectors: Any, frames: NDArray[np.intp], patch: NDArray[np.intp]) -> NDArray[np.float32]:
    """Return one patch of each of some frames, wherever the vectors lie."""
    if isinstance(vectors, np.ndarray):
        return np.asarray(vectors[frames, patch], np.float32)
    return np.asarray(vectors[frames], np.float32)[np.arange(len(frames)), patch]
