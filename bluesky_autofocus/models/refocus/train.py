"""How the default network is trained, calibrated and made into a model."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.models._dense import dense_arrays
from bluesky_autofocus.models._model import part_of
from bluesky_autofocus.models._training import (
    Progress,
    cosine_optimiser,
    import_keras,
    library_versions,
    principal_axes,
    scale_sigma,
    shown_progress,
)
from bluesky_autofocus.models.card import FeatureRecord, ModelCard, ModelInputs, TrainingRecord
from bluesky_autofocus.models.refocus._channels import CHANNELS_IN, DefocusNetwork, with_deconvolved
from bluesky_autofocus.models.refocus._frame_model import RefocusModel
from bluesky_autofocus.models.refocus._levels import Levels, noise_of
from bluesky_autofocus.models.refocus._model import LOG_SCALE, UNetModel
from bluesky_autofocus.models.refocus._network import CHANNELS, keras_network, network_arrays
from bluesky_autofocus.models.refocus._reblur import busiest_window
from bluesky_autofocus.models.refocus._spectrum import ring_powers
from bluesky_autofocus.models.refocus.metrics import psnr_db
from bluesky_autofocus.models.refocus.pairs import FocalPairs, Sampler
from bluesky_autofocus.widefield import Widefield

__all__ = ["TrainingOptions", "fit", "gains", "train_refocus"]

_EASY = 0.005
"""Frames nearer to focus than this, as an error of normalised grey levels, are not counted any heavier."""
_SCALE_SHARE = 0.01
"""Of the likelihood of the error that the network expects."""
_MARGIN_PX = 16
"""At the rim of a piece the network does not see what is blurred into it."""
DECONVOLVED_MARGIN_PX = 32
_EPOCHS = 60
_MOST_FRAMES = 24_000
"""By which the distance from focus is learnt."""


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """How to train.

    Parameters
    ----------
    seed : int
        Of everything that is random.
    channels : sequence of int
        Of the network's levels.
    steps, batch : int
        How many steps, of how many pieces each.
    piece_px : int
        Side of the pieces; what the outer 16 pixels come out as does not count.
    rate : float
        Highest learning rate.

    Raises
    ------
    ValueError
        If a number makes no sense.
    """

    seed: int = 0
    channels: tuple[int, ...] = CHANNELS
    steps: int = 7500
    batch: int = 16
    piece_px: int = 160
    rate: float = 1.5e-3

    def __post_init__(self) -> None:
        multiple = 2 ** len(self.channels)
        if self.piece_px % multiple or self.piece_px <= 4 * _MARGIN_PX:
            raise ValueError(
                f"piece_px is {self.piece_px!r}: expected a multiple of {multiple} above {4 * _MARGIN_PX}"
            )
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}: expected at least 1")
        if not self.rate > 0:
            raise ValueError(f"rate is {self.rate!r}: expected a positive number")


def fit(
    sets: Sequence[FocalPairs],
    options: TrainingOptions,
    shown: Callable[[NDArray[np.float32], int, int, int], NDArray[np.float32]],
    *,
    start: dict[str, NDArray[np.float32]] | None = None,
    progress: bool | Progress = False,
) -> tuple[dict[str, NDArray[np.float32]], float]:
    """Train a network; return its arrays and how many minutes it took.

    The loss is the mean absolute error, in which pieces that are nearly in focus count more, as the root of
    how wrong they were to begin with: else the network would learn to repair what is far out and to harm
    what is not. The likelihood of the error that it expects has a small share, so that it hardly changes what
    it says.
    """
    keras, tf = import_keras()
    network = keras_network(CHANNELS_IN, options.channels, options.seed)
    if start is not None:
        for layer in network.layers:
            if f"{layer.name}.kernel" in start:
                layer.set_weights([start[f"{layer.name}.{kind}"] for kind in ("kernel", "bias")])
    optimiser = cosine_optimiser(keras, network.trainable_variables, options.rate, options.steps)
    inner = slice(_MARGIN_PX, -_MARGIN_PX)

    @tf.function
    def step(x: Any, target: Any) -> None:
        with tf.GradientTape() as tape:
            y, _ = network(x, training=True)
            y, seen, wanted = (one[:, inner, inner] for one in (y, x[..., :1], target))
            wrong = tf.abs(seen + y[..., :1] - wanted)
            log_scale = tf.clip_by_value(y[..., 1:], *LOG_SCALE)
            expected = tf.stop_gradient(wrong) * tf.exp(-log_scale) + log_scale
            before = tf.reduce_mean(tf.abs(seen - wanted), axis=(1, 2, 3))
            weight = 1 / tf.sqrt(before + _EASY)
            weight /= tf.reduce_mean(weight)
            loss = tf.reduce_mean(weight * tf.reduce_mean(wrong, axis=(1, 2, 3)))
            loss += _SCALE_SHARE * tf.reduce_mean(expected)
        gradients = tape.gradient(loss, network.trainable_variables)
        optimiser.apply_gradients(zip(gradients, network.trainable_variables, strict=True))

    sampler = Sampler(
        sets,
        np.random.default_rng((options.seed, 1)),
        options.piece_px,
        margin_px=DECONVOLVED_MARGIN_PX,
        beyond_px=UNetModel.context_px,
        shown=shown,
    )
    size = options.batch, options.piece_px, options.piece_px
    signature = [tf.TensorSpec((*size, n), tf.float32) for n in (CHANNELS_IN, 1)]

    def batches() -> Any:
        while True:
            yield sampler.batch(options.batch)

    drawn = tf.data.Dataset.from_generator(batches, output_signature=tuple(signature)).prefetch(4)
    started = time.monotonic()
    with shown_progress(progress) as show:
        for done, (x, target) in enumerate(drawn.take(options.steps), 1):
            step(x, target)
            show(done, options.steps)
    return network_arrays(network), (time.monotonic() - started) / 60


def fit_defocus(
    sets: Sequence[FocalPairs], farthest_um: float, seed: int = 0
) -> dict[str, NDArray[np.float32]]:
    """Train the network that tells the distance from focus; return its arrays (`DefocusNetwork`)."""
    keras, _ = import_keras()
    rng = np.random.default_rng((seed, 4))
    powers, distances = [], []
    each = _MOST_FRAMES // len(sets)
    for one in sets:
        n, planes = one.planes.shape[:2]
        for at in rng.choice(n * planes, min(each, n * planes), replace=False).tolist():
            frame = np.asarray(one.planes[at // planes, at % planes])
            powers.append(ring_powers(as_tile(frame)))
            distances.append(one.defocus_um[at % planes] / farthest_um)
    x, y = np.stack(powers), np.array(distances, np.float32)
    mean, deviation = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
    seeds = rng.integers(2**31, size=3).tolist()
    layers = [
        keras.layers.Dense(units, activation=activation, kernel_initializer=keras.initializers.HeNormal(one))
        for units, activation, one in zip((128, 128, 1), ("relu", "relu", None), seeds, strict=True)
    ]
    network = keras.Sequential([keras.Input((x.shape[1],)), *layers])
    batch, steps = 128, _EPOCHS * (len(x) // 128 + 1)
    optimiser = cosine_optimiser(keras, network.trainable_variables, 3e-3, steps)
    network.compile(optimiser, loss="mae")
    order = rng.permutation(len(x))
    network.fit(((x - mean) / deviation)[order], y[order], epochs=_EPOCHS, batch_size=batch, verbose=0)
    return {**dense_arrays(network), "mean": mean, "deviation": deviation}


def as_tile(frame: NDArray[Any]) -> NDArray[np.float32]:
    """Return a frame as it is refocused: with its mirror image about it, to sides that the network takes."""
    margin = UNetModel.context_px
    rests = [-(n + 2 * margin) % UNetModel.multiple_px for n in frame.shape]
    return np.pad(Levels.of(frame).apply(frame), [(margin, margin + rest) for rest in rests], mode="reflect")


def train_refocus(
    sets: Sequence[FocalPairs],
    *,
    inputs: ModelInputs,
    validation: Sequence[FocalPairs],
    data: str,
    valid_for: str,
    name: str,
    version: str = "1",
    options: TrainingOptions | None = None,
    spherical_waves: float = 0.0,
    start: UNetModel | None = None,
    progress: bool | Progress = False,
) -> UNetModel:
    """Train and calibrate the default model.

    Parameters
    ----------
    sets : sequence of FocalPairs
        One for each kind of frames; they are drawn from equally often.
    inputs : ModelInputs
        What the model takes, with all of the optics.
    validation : sequence of FocalPairs
        Of other fields; by them the model is calibrated and judged.
    data, valid_for, name, version : str
        For the card.
    options : TrainingOptions, optional
    spherical_waves : float
        Typical aberration of the instrument, in waves RMS, by which results are blurred again.
    start : UNetModel, optional
        Go on from this one.
    progress : bool or callable

    Raises
    ------
    ValueError
        If there is nothing to train on, a field is in both parts, or frames are smaller than the pieces.
    """
    options = options or TrainingOptions()
    if not sets or not validation or not all(len(one) for one in (*sets, *validation)):
        raise ValueError("there are no pairs: expected some to train and some to validate on")
    for one in sets:
        for other in validation:
            shared = np.intersect1d(one.field, other.field)
            if one.modality == other.modality and len(shared):
                raise ValueError(f"field {shared[0]} is both trained and validated on")
    if start is not None:
        options = dataclasses.replace(options, channels=start.channels)
    farthest_um = max(float(np.abs(one.defocus_um).max()) for one in sets)
    widefield = Widefield(inputs.optics, spherical_waves, reach_um=farthest_um + 8)
    defocus = fit_defocus(sets, farthest_um, options.seed)
    defocus_of = DefocusNetwork(defocus, farthest_um)
    jitter = np.random.default_rng((options.seed, 3))

    @functools.cache
    def taken_um(s: int, i: int, j: int) -> float:
        return defocus_of(as_tile(np.asarray(sets[s].planes[i, j])))

    def shown(x: NDArray[np.float32], s: int, i: int, j: int) -> NDArray[np.float32]:
        return with_deconvolved(x, taken_um(s, i, j) + float(jitter.normal(0, 0.5)), widefield)

    arrays, minutes = fit(
        sets,
        options,
        shown,
        start=None if start is None else part_of(start.arrays, "network"),
        progress=progress,
    )
    card = ModelCard(
        name=name,
        architecture=UNetModel.architecture,
        version=version,
        inputs=inputs,
        features=FeatureRecord("levels"),
        architecture_parameters={
            "channels": options.channels,
            "modalities": sorted({one.modality for one in sets}),
            "defocus_um": farthest_um,
            "spherical_waves": spherical_waves,
            "sigma_scale": 1.0,
            "sigma_floor": 0.0,
            "strangeness_limit": 1.0,
            "mismatch_limit": 1.0,
        },
        valid_range_um=(-farthest_um, farthest_um),
        figures={},
        valid_for=valid_for,
        licence="BSD-3-Clause",
        training=TrainingRecord(
            data=data,
            fields=sum(len(np.unique(one.field)) for one in (*sets, *validation)),
            frames=sum(one.planes.shape[0] * one.planes.shape[1] for one in (*sets, *validation)),
            seed=options.seed,
            minutes=round(minutes, 1),
            options={key: value for key, value in dataclasses.asdict(options).items() if key != "seed"},
            versions=library_versions(),
        ),
    )
    familiar = {"mean": np.zeros(options.channels[-1]), "axes": np.eye(options.channels[-1])}
    familiar["spread"] = np.ones(options.channels[-1])
    stored = {f"network.{key}": array for key, array in arrays.items()}
    stored |= {f"defocus.{key}": array for key, array in defocus.items()}
    # as they are kept in the file: in half the precision, which nothing above notices
    stored = {key: array.astype(np.float16) for key, array in stored.items()}
    model = UNetModel(card, stored | {f"familiar.{key}": array for key, array in familiar.items()})
    return _calibrated(model, stored, sets, validation, np.random.default_rng((options.seed, 2)))


_FAMILIAR = 600
_CHECKED = 400
_PIXELS = 150
"""How many frames tell what is familiar, how many calibrate, and how many pixels of each."""


def _frames(
    sets: Sequence[FocalPairs], count: int, rng: np.random.Generator
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Return frames and what they ought to be, at random, as many of each set."""
    found = []
    for n in range(count):
        one = sets[n % len(sets)]
        i, j = int(rng.integers(len(one))), int(rng.integers(one.planes.shape[1]))
        found.append((np.asarray(one.planes[i, j]), np.asarray(one.targets[i])))
    return found


def _calibrated(
    model: UNetModel,
    stored: dict[str, NDArray[Any]],
    sets: Sequence[FocalPairs],
    validation: Sequence[FocalPairs],
    rng: np.random.Generator,
) -> UNetModel:
    """Return the model with what is familiar, true uncertainties, limits and figures."""
    margin = model.context_px

    def run(frame: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Return what becomes of a frame as one tile, and the features of that."""
        x = as_tile(frame)
        mean, expected, deepest = model.raw(x, model.defocus_of(x))
        inside = tuple(slice(margin, margin + n) for n in frame.shape)
        return mean[inside], expected[inside], deepest

    features = np.stack([run(frame)[2] for frame, _ in _frames(sets, _FAMILIAR, rng)])
    mean, axes, spread = principal_axes(features.astype(np.float64))
    familiar = {"mean": mean, "axes": axes, "spread": spread}
    arrays = stored | {f"familiar.{key}": array.astype(np.float32) for key, array in familiar.items()}
    model = UNetModel(model.card, arrays)
    errors, expected, strange, mismatch = [], [], [], []
    for frame, target in _frames(validation, _CHECKED, rng):
        levels = Levels.of(frame)
        result, scale, deepest = run(frame)
        strange.append(model.strangeness(deepest))
        window = busiest_window(frame)
        known = model.explained(levels.apply(frame[window]), result[window], noise_of(frame) / levels.scale)
        mismatch.append(known.mismatch)
        chosen = rng.integers(frame.size, size=_PIXELS)
        errors.append((result - levels.apply(target)).ravel()[chosen])
        expected.append(scale.ravel()[chosen])
    floor, scale = scale_sigma(np.concatenate(errors).astype(float), np.concatenate(expected).astype(float))
    said = {
        **model.card.architecture_parameters,
        "sigma_scale": scale,
        "sigma_floor": floor,
        # as strange, and as unexplained, as the worst of a few hundred and a little more
        "strangeness_limit": 1.15 * float(np.quantile(strange, 0.998)),
        "mismatch_limit": 1.15 * float(np.quantile(mismatch, 0.998)),
    }
    card = dataclasses.replace(model.card, architecture_parameters=said)
    figures = {
        f"validation_{key}": value
        for one in validation
        for key, value in gains(UNetModel(card, arrays), one, most=12).items()
    }
    return UNetModel(dataclasses.replace(card, figures=figures), arrays)


def gains(
    model: RefocusModel,
    pairs: FocalPairs,
    *,
    z_um: Sequence[float] = (30.0, 22.0, 12.0, -32.0),
    most: int = 0,
) -> dict[str, float]:
    """Return by how much frames come nearer to what they ought to be, at some distances from focus.

    Parameters
    ----------
    model : RefocusModel
    pairs : FocalPairs
        That it was not trained on.
    z_um : sequence of float
        Distances; the nearest plane of each is taken.
    most : int
        Fields at most, 0 for all.

    Returns
    -------
    dict
        ``MODALITY_gain_db_ZZum`` of frames that were accepted, and ``MODALITY_refused``.
    """
    found: dict[str, float] = {}
    refused = count = 0
    for distance_um in z_um:
        plane, better = pairs.nearest(distance_um), []
        for i in range(min(len(pairs), most or len(pairs))):
            frame, target = np.asarray(pairs.planes[i, plane]), np.asarray(pairs.targets[i])
            made = model.refocus(frame)
            count, refused = count + 1, refused + (not made.accepted)
            if made.accepted:
                better.append(psnr_db(made.frame, target) - psnr_db(frame, target))
        if better:
            found[f"{pairs.modality}_gain_db_{pairs.defocus_um[plane]:+.0f}um"] = float(np.mean(better))
    return {**found, f"{pairs.modality}_refused": refused / max(count, 1)}
