"""Train the default model. Keras and TensorFlow are loaded here and nowhere else."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bluesky_autofocus.leds import Single
from bluesky_autofocus.models._training import (
    cosine_optimiser,
    distinct_fields,
    import_keras,
    library_versions,
    principal_axes,
    scale_sigma,
    tenth_kept_out,
)
from bluesky_autofocus.models.card import FeatureRecord, ModelCard, ModelInputs, TrainingRecord
from bluesky_autofocus.models.single_shot._model import ARCHITECTURE, OUTPUT_SCALE_UM, SingleShotModel
from bluesky_autofocus.models.single_shot.features import ContourFeatures

__all__ = ["TrainingOptions", "train_default"]


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """How the networks are trained.

    Parameters
    ----------
    networks : int
        How many, each from other initial weights and other data order.
    width, depth : int
        Units of a hidden layer and number of these.
    steps, batch : int
        Number of batches, frames a batch.
    learning_rate, weight_decay : float
        Of AdamW; the rate warms up and falls as a cosine.
    noise : float
        Gaussian noise on the standardised features.
    most_patches : int
        Frames are averages over a random number of patches up to this one.
    seed : int
        Of everything.
    """

    networks: int = 5
    width: int = 256
    depth: int = 3
    steps: int = 8000
    batch: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    noise: float = 0.2
    most_patches: int = 16
    seed: int = 0


def train_default(
    powers: ArrayLike,
    defocus_um: ArrayLike,
    groups: ArrayLike,
    features: ContourFeatures,
    *,
    options: TrainingOptions = TrainingOptions(),
    valid_range_um: float = 30.0,
    validation: tuple[ArrayLike, ArrayLike] | None = None,
    data: str = "",
    valid_for: str = "",
    name: str = "single-shot",
    version: str = "1",
    progress: Callable[[int, int], None] | None = None,
) -> SingleShotModel:
    """Train the networks, then calibrate what they say of their uncertainty on frames kept out.

    Parameters
    ----------
    powers : array_like, shape (n, patches, bins)
        Of `ContourFeatures.powers`, for each frame.
    defocus_um : array_like, shape (n,)
        Image plane minus focus.
    groups : array_like, shape (n,)
        Which field a frame shows. A tenth of the fields, chosen by the seed, is kept out for calibration.
    features : ContourFeatures
        What made the powers.
    options : TrainingOptions
        How.
    valid_range_um : float
        Defocus to either side for which the model will answer; training frames beyond it make it sure of
        where its range ends.
    validation : tuple of array_like, optional
        Powers and defoci of whole frames to calibrate on instead.
    data, valid_for, name, version : str
        For the card.
    progress : callable, optional
        Called with steps done and steps in all.

    Returns
    -------
    SingleShotModel
        Not yet saved; its card holds the figures.

    Raises
    ------
    ValueError
        If shapes do not fit, values are not finite, or there are fewer than ten fields.
    """
    powers, target = np.asarray(powers, np.float32), np.asarray(defocus_um, np.float32)
    fields = np.asarray(groups)
    if powers.ndim != 3 or target.shape != powers.shape[:1] or fields.shape != powers.shape[:1]:
        raise ValueError(
            f"powers, defocus_um, groups have shapes {powers.shape}, {target.shape}, {fields.shape}: "
            "expected (n, patches, bins), (n,), (n,)"
        )
    if powers.shape[2] != features.size - 1:
        raise ValueError(f"powers have {powers.shape[2]} bins: these features make {features.size - 1}")
    for name, array in (("powers", powers), ("defocus_um", target)):
        if not np.isfinite(array).all():
            raise ValueError(f"{name} has values that are not finite: expected frames whose focus is known")
    distinct = distinct_fields(fields)
    started = time.monotonic()
    rng = np.random.default_rng(options.seed)
    kept = np.isin(fields, tenth_kept_out(distinct, rng) if validation is None else distinct[:0])
    all_patches = features.vectors(powers[~kept].mean(axis=1))
    mean, deviation = all_patches.mean(axis=0), all_patches.std(axis=0) + 1e-3
    networks = []
    for index in range(options.networks):
        networks.append(
            _train_network(
                powers[~kept],
                target[~kept],
                mean,
                deviation,
                options,
                options.seed + 1000 * index,
                (
                    lambda done, index=index: progress(
                        index * options.steps + done, options.networks * options.steps
                    )
                )
                if progress
                else (lambda done: None),
            )
        )
    arrays: dict[str, NDArray[np.floating[Any]]] = {"mean": mean, "deviation": deviation}
    for layer in range(options.depth + 1):
        arrays[f"w{layer}"] = np.stack([network[layer][0] for network in networks])
        arrays[f"b{layer}"] = np.stack([network[layer][1] for network in networks])
    _, arrays["axes"], arrays["spread"] = principal_axes((all_patches - mean) / deviation)
    settings = {
        "residual_limit": 1.0,
        "distance_limit": 1.0,
        "least_contrast": -1e9,
        "sigma_scale": 1.0,
        "sigma_floor_um": 0.0,
        "largest_sigma_um": 1e9,
    }
    card = ModelCard(
        name=name,
        architecture=ARCHITECTURE,
        version=version,
        inputs=ModelInputs.of(
            features.optics,
            illumination=str(_single(features.na_xy)),
            patch_px=features.patch_px,
            led_na_xy=(features.na_xy,),
            bit_depth=16,
        ),
        features=_record(features),
        valid_range_um=(-valid_range_um, valid_range_um),
        training=TrainingRecord(
            data=data,
            fields=len(distinct),
            frames=len(powers),
            seed=options.seed,
            minutes=0.0,
            options=dataclasses.asdict(options),
            versions=library_versions(),
        ),
        figures={},
        valid_for=valid_for,
        licence="BSD-3-Clause",
        architecture_parameters=settings,
    )
    model = SingleShotModel(card, arrays)
    check = (powers[kept], target[kept]) if validation is None else validation
    return _calibrated(model, arrays, *check, minutes=(time.monotonic() - started) / 60)


def _train_network(
    powers: NDArray[np.float32],
    target: NDArray[np.float32],
    mean: NDArray[np.float32],
    deviation: NDArray[np.float32],
    options: TrainingOptions,
    seed: int,
    progress: Callable[[int], None],
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Return weights and biases of the layers of one network."""
    keras, tf = import_keras()
    keras.utils.set_random_seed(seed)
    n, patches, bins = powers.shape
    inputs = keras.Input((bins + 1,))
    x: Any = inputs
    for _ in range(options.depth):
        x = keras.layers.Dense(options.width, activation="relu", kernel_initializer="he_normal")(x)
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    variables = model.trainable_variables
    optimiser = cosine_optimiser(
        keras, variables, options.learning_rate, options.steps, weight_decay=options.weight_decay
    )
    stored, wanted = tf.constant(powers), tf.constant(target[:, None] / OUTPUT_SCALE_UM)
    most = min(options.most_patches, patches)

    @tf.function
    def step() -> None:
        which = tf.random.uniform((options.batch,), 0, n, tf.int32)
        x, y = tf.gather(stored, which), tf.gather(wanted, which)
        if patches > 1:
            # the average over k patches drawn at random, k small as often as large
            octave = tf.random.uniform((options.batch, 1), 0.0, np.log(most + 0.999).astype(np.float32))
            k = tf.floor(tf.exp(octave))
            order = tf.argsort(tf.argsort(tf.random.uniform((options.batch, patches)), axis=1), axis=1)
            chosen = tf.cast(tf.cast(order, tf.float32) < k, tf.float32)
            x = tf.reduce_sum(x * chosen[..., None], axis=1) / tf.reduce_sum(chosen, axis=1, keepdims=True)
        else:
            x = x[:, 0]
        logs = tf.math.log(tf.maximum(x, 1e-12))
        level = tf.reduce_mean(logs[:, :-1], axis=1, keepdims=True)
        vectors = (tf.concat([logs - level, level], axis=1) - mean) / deviation
        vectors += options.noise * tf.random.normal(tf.shape(vectors))
        with tf.GradientTape() as tape:
            out = model(vectors, training=True)
            log_sigma = tf.clip_by_value(out[:, 1:], -6.0, 4.0)
            loss = 0.5 * tf.exp(-2 * log_sigma) * (y - out[:, :1]) ** 2 + log_sigma
            # weighting by sigma (beta = 1/2) keeps hard frames from being given up (Seitzer et al. 2022)
            loss = tf.reduce_mean(loss * tf.stop_gradient(tf.exp(log_sigma)))
        optimiser.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    for done in range(options.steps):
        step()
        if done % 50 == 49 or done == options.steps - 1:
            progress(done + 1)
    layers = [layer for layer in model.layers if layer.weights]
    return [tuple(np.asarray(weight) for weight in layer.get_weights()) for layer in layers]  # type: ignore[misc]


def _calibrated(
    model: SingleShotModel,
    arrays: dict[str, NDArray[Any]],
    powers: ArrayLike,
    defocus_um: ArrayLike,
    *,
    minutes: float,
) -> SingleShotModel:
    """Set limits and the scale of sigma by frames that no network was trained on."""
    dof_um = model.optics.depth_of_field_um
    truth = np.asarray(defocus_um, float)
    inside = np.abs(truth) <= model.range_um
    if not inside.any():
        raise ValueError(f"no frame kept for calibration lies within the range of {model.range_um:g} um")
    facts = [model.facts(frame) for frame in np.asarray(powers, np.float32)[inside]]
    error = np.array([fact.defocus_um for fact in facts]) - truth[inside]
    raw = np.array([fact.raw_um for fact in facts])
    # what is as strange as one frame in a thousand, and a little more, is still taken for familiar
    x = [model.strange_parts(frame) for frame in np.asarray(powers, np.float32)[inside]]
    residual, distance = np.quantile(np.array(x), 0.999, axis=0) * 1.1
    contrast = min(fact.contrast for fact in facts) - 0.5
    floor, scale = scale_sigma(error, raw)
    sigma = np.hypot(scale * raw, floor)
    largest = float(min(np.quantile(sigma, 0.98), dof_um / 3))
    believed = sigma <= largest
    if not believed.any():
        raise ValueError(
            "training did not converge: the median error in validation is "
            f"{np.median(np.abs(error)):.1f} um, expected well below a depth of field; "
            "use more fields or steps"
        )
    floor, scale = scale_sigma(error[believed], raw[believed])
    settings = {
        "residual_limit": float(residual),
        "distance_limit": float(distance),
        "least_contrast": float(contrast),
        "sigma_scale": scale,
        "sigma_floor_um": floor,
        "largest_sigma_um": largest,
    }
    figures = {
        "validation_frames": int(inside.sum()),
        "validation_rmse_um": float(np.sqrt(np.mean(error[believed] ** 2))),
        "validation_median_um": float(np.median(np.abs(error[believed]))),
        "validation_p99_um": float(np.quantile(np.abs(error[believed]), 0.99)),
        "validation_rmse_dof": float(np.sqrt(np.mean(error[believed] ** 2))) / dof_um,
        "validation_rmse_all_um": float(np.sqrt(np.mean(error**2))),
        "validation_refused_share": float(1 - believed.mean()),
        "validation_confident_wrong": int((np.abs(error[believed]) > dof_um).sum()),
    }
    card = dataclasses.replace(
        model.card,
        architecture_parameters=settings,
        figures=figures,
        training=dataclasses.replace(model.card.training, minutes=minutes),
    )
    return SingleShotModel(card, arrays)


def _record(features: ContourFeatures) -> FeatureRecord:
    options = dict(features.parameters)
    return FeatureRecord(options.pop("name"), options)


def _single(na_xy: tuple[float, ...]) -> Single:
    x, y = na_xy
    return Single(round(float(np.hypot(x, y)), 6), round(float(np.degrees(np.arctan2(y, x))), 6))
