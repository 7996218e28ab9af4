"""How the published network is trained."""

import dataclasses
import itertools
import math
import time
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bluesky_autofocus.models._training import (
    Progress,
    distinct_fields,
    import_keras,
    library_versions,
    share_kept_out,
    shown_progress,
)
from bluesky_autofocus.models.card import FeatureRecord, ModelCard, ModelInputs, TrainingRecord
from bluesky_autofocus.models.hh_net.classes import INDICES, ClassTable
from bluesky_autofocus.models.hh_net.published._augmentation import Augmentation
from bluesky_autofocus.models.hh_net.published._model import ARCHITECTURE, PublishedModel
from bluesky_autofocus.models.hh_net.published._network import arrays_of, build
from bluesky_autofocus.models.hh_net.published._patches import Batches, PatchSet
from bluesky_autofocus.models.hh_net.voting import WAYS, vote, winner

__all__ = ["PublishedOptions", "PublishedTraining", "train_published"]


@dataclasses.dataclass(frozen=True)
class PublishedOptions:
    """What is trained, and how.

    Width, optimiser, learning rate and dropout are the paper's, and so is the share of frames kept out (50 of
    350). It does not tell the batch, which is small enough here for the memory of one graphics card, nor for
    how long it was trained.

    Parameters
    ----------
    width, last_pooling, dropout
        As for `build`. At a width of 1/8 it can be trained without a graphics card.
    epochs : int
        Most passes over the patches.
    patience : int
        Stop after so many epochs without a lower loss on the fields kept out. The weights kept are those with
        the lowest.
    batch : int
        Patches at a time.
    learning_rate : float
        Of Adam.
    augmentation : Augmentation, optional
        None shows the patches as they are.
    validation_share : float
        Of the fields that are kept out.
    seed : int
        Of the fields kept out, the initial weights, the order of the patches, how they are disturbed, and the
        dropout.

    Raises
    ------
    ValueError
        If a value makes no sense, naming it.
    """

    width: float = 1.0
    last_pooling: bool = False
    dropout: tuple[float, float] = (0.7, 0.5)
    epochs: int = 50
    patience: int = 10
    batch: int = 32
    learning_rate: float = 1e-3
    augmentation: Augmentation | None = Augmentation()
    validation_share: float = 1 / 7
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "batch"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}: expected at least 1")
        for name in ("width", "learning_rate"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} is {getattr(self, name)!r}: expected a positive number")
        if len(self.dropout) != 2 or not all(0 <= share < 1 for share in self.dropout):
            raise ValueError(f"dropout is {self.dropout!r}: expected two shares from 0 to below 1")
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share is {self.validation_share!r}: expected between 0 and 1")


@dataclasses.dataclass(frozen=True, eq=False)
class PublishedTraining:
    """What came of training.

    Parameters
    ----------
    model : PublishedModel
        Not yet saved.
    keras_model : keras.Model
        The same network, as `build` made it.
    history : dict
        For each epoch: ``loss``, ``accuracy`` (of patches, in training, with dropout), ``val_loss`` and
        ``val_accuracy`` (of the patches kept out).
    minutes : float
        That training took.
    validation_fields : ndarray
        The fields that were kept out; empty where validation data were given.
    """

    model: PublishedModel
    keras_model: Any
    history: dict[str, list[float]]
    minutes: float
    validation_fields: NDArray[Any]


def train_published(
    patches: Any,
    handcrafted: ArrayLike,
    classes: ArrayLike,
    frames: ArrayLike,
    *,
    table: ClassTable,
    inputs: ModelInputs,
    fields: ArrayLike | None = None,
    options: PublishedOptions = PublishedOptions(),
    validation: tuple[Any, ArrayLike, ArrayLike, ArrayLike] | None = None,
    validation_fields: ArrayLike | None = None,
    binning: int = 2,
    crops_seed: int = 0,
    data: str = "",
    valid_for: str = "",
    name: str = "hh-net, as published",
    version: str = "1",
    tolerances: dict[str, float] | None = None,
    progress: bool | Progress = False,
) -> PublishedTraining:
    """Train the published network.

    Parameters
    ----------
    patches, handcrafted, classes, frames
        As of `PatchSet`. There should be as many frames of each class, as the paper has: none is weighted.
    table : ClassTable
        Which defocus the classes mean.
    inputs : ModelInputs
        Optics and patch size, for the card.
    fields : array_like, shape (n_frames,), optional
        Which field each frame shows; by default each another. Whole fields are kept out for validation,
        chosen by the seed, unless `validation` is given.
    options : PublishedOptions
        How.
    validation : tuple, optional
        The same four of other frames, to validate on.
    validation_fields : array_like, optional
        Which field each of these shows, for the card; by default each another.
    binning, crops_seed : int
        What the hand-crafted features were made with.
    data, valid_for, name, version : str
        For the card.
    tolerances : dict, optional
        Relative difference up to which ``pixel_size_um``, ``magnification`` ... may differ from the card.
    progress : bool or callable
        True shows a bar; a function is called with batches done and batches at most.

    Returns
    -------
    PublishedTraining
        Its figures are of frames that also chose which epoch was kept.

    Raises
    ------
    ValueError
        If the data do not fit together or to the card, a class has no frame to train with, there are fewer
        than two fields to split, or training diverges.
    ImportError
        If TensorFlow is not installed.
    """
    given = PatchSet.of(patches, handcrafted, classes, frames)
    field = np.arange(len(given)) if fields is None else np.asarray(fields)
    if field.shape != (len(given),):
        raise ValueError(f"fields has shape {field.shape}: expected ({len(given)},), one for each frame")
    distinct = distinct_fields(field, least=2 if validation is None else 1)
    kept = distinct[:0]
    if validation is None:
        rng = np.random.default_rng((options.seed, 2))
        kept = share_kept_out(distinct, options.validation_share, rng)
    is_kept = np.isin(field, kept)
    check, is_check, n_frames, n_fields = given, is_kept, len(given), len(distinct)
    if validation is not None:
        check = PatchSet.of(*validation)
        is_check = np.full(len(check), True)
        n_frames += len(check)
        n_fields += len(check) if validation_fields is None else len(np.unique(np.asarray(validation_fields)))
    for one in (given, check):
        if one.patches.shape[1] != inputs.patch_px:
            raise ValueError(
                f"the patches have a side of {one.patches.shape[1]} px: expected {inputs.patch_px}"
            )
    missing = set(range(len(INDICES))) - set(given.classes[~is_kept].tolist())
    if missing:
        indices = ", ".join(str(INDICES[number]) for number in sorted(missing))
        raise ValueError(f"there is no frame to train with of the classes of index {indices}")

    started = time.monotonic()
    of_frames = given.handcrafted[~is_kept]
    mean, deviation = of_frames.mean(axis=0), of_frames.std(axis=0) + np.float32(1e-3)
    keras_model = build(
        inputs.patch_px, options.width, last_pooling=options.last_pooling, dropout=options.dropout,
        seed=options.seed,
    )  # fmt: skip
    training, checking = (
        Batches(of, of.rows_of(which), (of.handcrafted - mean) / deviation, options.batch)
        for of, which in ((given, ~is_kept), (check, is_check))
    )
    with shown_progress(progress) as show:
        history = _fit(keras_model, training, checking, options, show)
    figures = _figures(keras_model, checking)
    minutes = (time.monotonic() - started) / 60
    edges = table.edges_um
    card = ModelCard(
        name=name,
        architecture=ARCHITECTURE,
        version=version,
        inputs=inputs,
        features=FeatureRecord(
            "RGB patches, hand-crafted features of the frame",
            {"patch_px": inputs.patch_px, "binning": binning, "seed": crops_seed},
        ),
        valid_range_um=(edges[0], edges[-1]),
        training=TrainingRecord(
            data=data,
            fields=n_fields,
            frames=n_frames,
            seed=options.seed,
            minutes=minutes,
            options=dataclasses.asdict(options),
            versions=library_versions(),
        ),
        figures={**figures, "epochs": len(history["loss"])},
        valid_for=valid_for,
        licence="BSD-3-Clause",
        architecture_parameters={
            "classes": table.to_dict(),
            "width": options.width,
            "last_pooling": options.last_pooling,
            **{f"{key}_tolerance": value for key, value in (tolerances or {}).items()},
        },
    )
    model = PublishedModel(card, {**arrays_of(keras_model), "mean": mean, "deviation": deviation})
    return PublishedTraining(model, keras_model, history, minutes, kept)


def _fit(
    model: Any, training: Batches, checking: Batches, options: PublishedOptions, progress: Progress
) -> dict[str, list[float]]:
    """Train; leave the model with the weights of the best epoch, and return the history."""
    keras, _ = import_keras()
    total = options.epochs * len(training)
    steps = itertools.count(1)
    optimiser = keras.optimizers.Adam(options.learning_rate)
    optimiser.build(model.trainable_variables)  # else the first step is traced twice
    model.compile(
        optimiser,
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,
    )
    rng = np.random.default_rng((options.seed, 1))
    history = model.fit(
        training.dataset(options.augmentation, rng),
        epochs=options.epochs,
        shuffle=False,  # the batches are drawn at random as they are
        validation_data=checking.dataset(),
        callbacks=[
            keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs: progress(next(steps), total)
            ),
            keras.callbacks.TerminateOnNaN(),
            keras.callbacks.EarlyStopping("val_loss", patience=options.patience, restore_best_weights=True),
        ],
        verbose=0,
    ).history
    if not all(np.isfinite(values).all() for values in history.values()):
        raise ValueError(
            f"training diverged: learning_rate is {options.learning_rate!r}, expected a lower one"
        )
    return {name: [float(value) for value in values] for name, values in history.items()}


def _figures(model: Any, checking: Batches) -> dict[str, float]:
    """Return how good the network is on frames that it was not trained on, patch by patch and by voting."""
    p = model.predict(checking.dataset(), verbose=0)
    frames = checking.of.frames[checking.rows]
    distinct = np.unique(frames)
    truth, focused = checking.of.classes[distinct], INDICES.index(0)
    found = {
        way: np.array([winner(vote(p[frames == frame], way)) for frame in distinct.tolist()]) for way in WAYS
    }
    number = found["certainty"]
    return {
        "validation_frames": len(distinct),
        "validation_patch_accuracy": float(np.mean(winner(p) == checking.of.classes[frames])),
        **{f"validation_frame_accuracy_{way}": float(np.mean(one == truth)) for way, one in found.items()},
        "validation_within_one": float(np.mean(np.abs(number - truth) <= 1)),
        "validation_wrong_sign": float(np.mean((number - focused) * (truth - focused) < 0)),
    }
