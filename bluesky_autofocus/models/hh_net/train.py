"""Train the default HH-Net. Keras and TensorFlow are loaded here and nowhere else."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bluesky_autofocus.models._dense import dense_arrays
from bluesky_autofocus.models._training import (
    Progress,
    cosine_optimiser,
    distinct_fields,
    import_keras,
    library_versions,
    scale_sigma,
    tenth_kept_out,
)
from bluesky_autofocus.models.card import FeatureRecord, ModelCard, ModelInputs, TrainingRecord
from bluesky_autofocus.models.hh_net._model import ARCHITECTURE, INPUT_LIMIT, HHNetModel, PatchFacts
from bluesky_autofocus.models.hh_net.bins import DefocusBins
from bluesky_autofocus.models.hh_net.classes import INDICES, ClassTable
from bluesky_autofocus.models.hh_net.vectors import PatchVectors
from bluesky_autofocus.models.hh_net.voting import WAYS, vote, winner

__all__ = ["FrameSet", "TrainingOptions", "judged", "train_hh_net"]

_GOING_ON = 0.2
"""Of the learning rate, where training goes on from a model."""
_MOST_SIGMA = 1.5
"""Times the largest uncertainties of a class on frames kept out: what is less sure is not believed."""
_LEAST_VARIANCE = 1e-6
"""Of the standardised vectors of a class along any axis: those of a single patch have none."""
_LEAST_CHECKED = 10
"""Frames that uncertainties are calibrated on."""
_LEAST_SCALE = 0.5
"""Of the deviation of patches: by few frames it may seem to tell nothing of the error."""
_ANY_UM = 1e6
"""Uncertainty that is as good as none; cards hold finite numbers."""
_BINS = 10
"""Of the confidence, in which the calibration error is found."""


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
        Number of batches, patches a batch.
    learning_rate, weight_decay : float
        Of AdamW; the rate warms up and falls as a cosine.
    noise : float
        Added to the standardised inputs.
    dropout : float
        Share of the hidden units that are left out of a step.
    most_patches : int
        That are looked at in a frame, those with the most content.
    seed : int
        Of everything.
    """

    networks: int = 3
    width: int = 128
    depth: int = 2
    steps: int = 12_000
    batch: int = 512
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    noise: float = 0.06
    dropout: float = 0.2
    most_patches: int = 10
    seed: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class FrameSet:
    """Vectors of the patches of frames, and what is known of their focus, checked.

    Parameters
    ----------
    vectors : ndarray of float32, shape (n_patches, size)
        Of the patches, those that a model is to look at.
    frames : ndarray of int, shape (n_patches,)
        Which frame each patch belongs to.
    defocus_um : ndarray, shape (n_frames,)
        Image plane minus focus; NaN where a person has only said the class.
    index : ndarray of int, shape (n_frames,)
        Distance index of these frames; of others it follows from the defocus and is not looked at.
    field : ndarray of int, shape (n_frames,)
        Which field each frame shows.

    Raises
    ------
    ValueError
        If shapes do not fit, vectors are not finite, a frame has no patch or no index where it needs one.
    """

    vectors: NDArray[np.float32]
    frames: NDArray[np.intp]
    defocus_um: NDArray[np.float64]
    index: NDArray[np.intp]
    field: NDArray[np.intp]

    @classmethod
    def of(
        cls,
        vectors: ArrayLike,
        frames: ArrayLike,
        *,
        defocus_um: ArrayLike | None = None,
        index: ArrayLike | None = None,
        field: ArrayLike | None = None,
    ) -> "FrameSet":
        """Make it of arrays of any type; by default each frame shows another field."""
        n = len(np.asarray(index if defocus_um is None else defocus_um))
        return cls(
            np.asarray(vectors, np.float32),
            np.asarray(frames, np.intp),
            np.full(n, np.nan) if defocus_um is None else np.asarray(defocus_um, np.float64),
            np.zeros(n, np.intp) if index is None else np.asarray(index, np.intp),
            np.arange(n) if field is None else np.asarray(field, np.intp),
        )

    def __post_init__(self) -> None:
        shapes = [one.shape for one in (self.vectors, self.frames, self.defocus_um, self.index, self.field)]
        n_frames = self.defocus_um.shape
        if (
            len(shapes[0]) != 2
            or shapes[1] != shapes[0][:1]
            or len(n_frames) != 1
            or {*shapes[2:]} != {n_frames}
        ):
            raise ValueError(
                f"vectors, frames, defocus_um, index, field have shapes {', '.join(map(str, shapes))}: "
                "expected (n_patches, size), (n_patches,) and three times (n_frames,)"
            )
        if not np.isfinite(self.vectors).all():
            raise ValueError("vectors has values that are not finite: expected frames that show something")
        if set(self.frames.tolist()) != set(range(len(self))):
            raise ValueError(f"frames must name each of the {len(self)} frames, from 0, at least once")
        unknown = set(self.index[~self.measured].tolist()) - set(INDICES)
        if unknown:
            raise ValueError(
                f"index has {unknown.pop()} for a frame of unknown defocus: expected one of "
                f"{', '.join(map(str, INDICES))}"
            )

    def __len__(self) -> int:
        return len(self.defocus_um)

    @property
    def measured(self) -> NDArray[np.bool_]:
        """Of which frames the defocus is known."""
        return np.isfinite(self.defocus_um)

    def only(self, which: NDArray[np.bool_]) -> "FrameSet":
        """Return those frames."""
        patches = which[self.frames]
        number = np.cumsum(which) - 1
        return FrameSet(
            self.vectors[patches],
            number[self.frames[patches]],
            self.defocus_um[which],
            self.index[which],
            self.field[which],
        )

    def classes(self, table: ClassTable) -> NDArray[np.intp]:
        """Return the place of each frame's class; what is nearer than the limit counts as the last one."""
        last = len(INDICES) - 1
        measured = last - np.searchsorted(np.array(table.edges_um[1:]), self.defocus_um, side="right")
        return np.where(self.measured, measured, INDICES[0] - self.index)

    def by_frame(self) -> list[NDArray[np.float32]]:
        """Return the vectors of each frame."""
        order = np.argsort(self.frames, kind="stable")
        starts = np.searchsorted(self.frames[order], np.arange(1, len(self)))
        return np.split(self.vectors[order], starts)


def train_hh_net(
    training: FrameSet,
    *,
    vectors: PatchVectors,
    table: ClassTable,
    inputs: ModelInputs,
    options: TrainingOptions = TrainingOptions(),
    validation: FrameSet | None = None,
    start: HHNetModel | None = None,
    data: str = "",
    valid_for: str = "",
    name: str = "hh-net",
    version: str = "1",
    tolerances: dict[str, float] | None = None,
    progress: Progress | None = None,
) -> HHNetModel:
    """Train the networks, then calibrate on frames kept out.

    Where the defocus of frames is known the networks tell it in bins of a twelfth of a class, and further out
    than the classes where there are such frames. Of frames that were sorted by eye only the class is known;
    with nothing else, the bins are the classes.

    Parameters
    ----------
    training : FrameSet
    vectors : PatchVectors
        What its vectors were made with.
    table : ClassTable
        Which defocus the classes mean.
    inputs : ModelInputs
        Optics and patch size, for the card.
    options : TrainingOptions
        How.
    validation : FrameSet, optional
        Other frames, to calibrate on. By default a tenth of the fields, chosen by the seed, is kept out.
    start : HHNetModel, optional
        To go on from, at a fifth of the rate; with its vectors, bins and sizes.
    data, valid_for, name, version : str
        For the card.
    tolerances : dict, optional
        Relative difference up to which ``pixel_size_um``, ``magnification`` ... may differ from the card.
    progress : callable, optional
        Called with steps done and steps in all.

    Returns
    -------
    HHNetModel
        Not yet saved; its card holds the figures.

    Raises
    ------
    ValueError
        If vectors are of another size, a class has no frame, there are fewer than ten fields, training does
        not converge, or `start` is of another kind.
    """
    if training.vectors.shape[1] != vectors.size:
        raise ValueError(
            f"the vectors have {training.vectors.shape[1]} features: expected {vectors.size}, those of "
            f"{', '.join(vectors.kinds)}"
        )
    distinct = distinct_fields(training.field)
    started = time.monotonic()
    rng = np.random.default_rng(options.seed)
    n_frames, n_fields = len(training), len(distinct)
    if validation is None:
        kept = np.isin(training.field, tenth_kept_out(distinct, rng))
        training, check = training.only(~kept), training.only(kept)
    else:
        check = validation
        n_frames, n_fields = n_frames + len(check), n_fields + len(np.unique(check.field))
    missing = set(range(len(INDICES))) - set(training.classes(table).tolist())
    if missing:
        indices = ", ".join(str(INDICES[number]) for number in sorted(missing))
        raise ValueError(f"there is no frame to train with of the classes of index {indices}")
    if start is not None:
        bins = start.bins
        _check_start(start, vectors, table, options)
    elif training.measured.any():
        known = training.defocus_um[training.measured]
        bins = DefocusBins.fine(table, float(known.min()), float(known.max()))
    else:
        bins = DefocusBins.of_classes(table)
    arrays = _train(training, table, bins, options, progress or (lambda done, total: None), start)
    card = ModelCard(
        name=name,
        architecture=ARCHITECTURE,
        version=version,
        inputs=inputs,
        features=FeatureRecord(", ".join(vectors.kinds), vectors.to_dict()),
        valid_range_um=(table.edges_um[0], table.edges_um[-1]),
        training=TrainingRecord(
            data=data,
            fields=n_fields,
            frames=n_frames,
            seed=options.seed,
            minutes=0.0,
            options=dataclasses.asdict(options),
            versions=library_versions(),
        ),
        figures={},
        valid_for=valid_for,
        licence="BSD-3-Clause",
        architecture_parameters={
            "classes": table.to_dict(),
            "bins_um": bins.edges_um.tolist(),
            "networks": options.networks,
            "most_patches": options.most_patches,
            "temperature": 1.0,
            "strangeness_limit": 1.0,
            "sigma_floor_um": 0.0,
            "sigma_scale": 1.0,
            "most_sigma_um": [_ANY_UM] * len(INDICES),
            **{f"{key}_tolerance": value for key, value in (tolerances or {}).items()},
        },
    )
    card = _calibrated(card, arrays, check)
    minutes = (time.monotonic() - started) / 60
    return HHNetModel(
        dataclasses.replace(card, training=dataclasses.replace(card.training, minutes=minutes)), arrays
    )


def _check_start(
    start: HHNetModel, vectors: PatchVectors, table: ClassTable, options: TrainingOptions
) -> None:
    """Refuse to go on from a model of another kind."""
    said = start.card.training.options
    for name, wanted, found in (
        ("features", vectors, start.vectors),
        ("classes", table, start.table),
        *((size, getattr(options, size), said.get(size)) for size in ("networks", "width", "depth")),
    ):
        if wanted != found:
            raise ValueError(f"{name} is {wanted}: to go on from {start.card.name} it must be its, {found}")


def _train(
    training: FrameSet,
    table: ClassTable,
    bins: DefocusBins,
    options: TrainingOptions,
    progress: Progress,
    start: HHNetModel | None,
) -> dict[str, NDArray[np.float32]]:
    x = training.vectors
    if start is None:
        mean, deviation = x.mean(axis=0), x.std(axis=0) + 1e-3
    else:
        mean, deviation = (np.asarray(start.arrays[key], np.float32) for key in ("mean", "deviation"))
    x = (x - mean) / deviation
    number = training.classes(table)
    known = training.measured
    labels = bins.labels_of_classes(number)
    labels[known] = bins.soft_labels(training.defocus_um[known])
    # each class counts as much as the others
    weight = 1 / np.bincount(number, minlength=len(INDICES)).clip(1)[number]
    weight = (weight / weight.mean()).astype(np.float32)
    arrays: dict[str, NDArray[np.float32]] = {"mean": mean, "deviation": deviation}
    total = options.networks * options.steps
    for index in range(options.networks):
        trained = _train_network(
            x,
            training.frames,
            (labels, known, weight),
            options,
            index,
            lambda done, index=index: progress(index * options.steps + done, total),
            start,
        )
        arrays |= {f"network{index}.{key}": array for key, array in trained.items()}
    return arrays | _familiar(x, number[training.frames])


def _train_network(
    x: NDArray[np.float32],
    frames: NDArray[np.intp],
    truth: tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
    options: TrainingOptions,
    index: int,
    progress: Callable[[int], None],
    start: HHNetModel | None,
) -> dict[str, NDArray[np.float32]]:
    """Return the arrays of one network."""
    keras, tf = import_keras()
    keras.utils.set_random_seed(options.seed + 1000 * index)
    layers = []
    for _ in range(options.depth):
        layers.append(keras.layers.Dense(options.width, activation="relu", kernel_initializer="he_normal"))
        layers.append(keras.layers.Dropout(options.dropout))
    n_bins = truth[0].shape[1]
    model = keras.Sequential([keras.Input((x.shape[1],)), *layers, keras.layers.Dense(n_bins)])
    rate = options.learning_rate
    if start is not None:
        names = [f"network{index}.{kind}{depth}" for depth in range(options.depth + 1) for kind in _KINDS]
        model.set_weights([start.arrays[name] for name in names])
        rate *= _GOING_ON
    variables = model.trainable_variables
    optimiser = cosine_optimiser(keras, variables, rate, options.steps, weight_decay=options.weight_decay)
    stored, of_frame = tf.constant(x), tf.constant(frames)
    labels, known, weight = map(tf.constant, truth)

    @tf.function
    def steps(count: Any) -> None:
        for _ in tf.range(count):
            which = tf.random.uniform((options.batch,), 0, len(x), tf.int32)
            frame = tf.gather(of_frame, which)
            rows = tf.gather(stored, which) + options.noise * tf.random.normal((options.batch, x.shape[1]))
            rows = tf.clip_by_value(rows, -INPUT_LIMIT, INPUT_LIMIT)
            wanted = tf.gather(labels, frame)
            with tf.GradientTape() as tape:
                log_p = tf.nn.log_softmax(model(rows, training=True))
                exact = -tf.reduce_sum(wanted * log_p, axis=1)
                # of a class it does not matter which of its bins
                only_class = -tf.reduce_logsumexp(tf.math.log(wanted) + log_p, axis=1)
                loss = tf.where(tf.gather(known, frame), exact, only_class)
                loss = tf.reduce_mean(loss * tf.gather(weight, frame))
            optimiser.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    for done in range(0, options.steps, 50):
        count = min(50, options.steps - done)
        steps(tf.constant(count))
        progress(done + count)
    return dense_arrays(model)


_KINDS = ("kernel", "bias")


def _familiar(x: NDArray[np.float32], number: NDArray[np.intp]) -> dict[str, NDArray[np.float32]]:
    """Return mean and principal axes of the standardised vectors of each class, see `HHNetModel`."""
    means, axes = [], []
    for one in range(len(INDICES)):
        of_class = x[number == one].astype(np.float64)
        means.append(of_class.mean(axis=0))
        centred = of_class - means[-1]
        values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
        # few patches may lie in a plane
        axes.append(vectors / np.sqrt(np.maximum(values, max(1e-5 * values.max(), _LEAST_VARIANCE))))
    return {
        "familiar.mean": np.array(means, np.float32),
        "familiar.axes": np.array(axes, np.float32),
    }


# What is found on frames kept out


def facts_of(model: HHNetModel, frames: FrameSet) -> list[PatchFacts]:
    """Return what the networks of a model say of each frame."""
    return [model.facts(one) for one in frames.by_frame()]


def judged(model: HHNetModel, frames: FrameSet) -> dict[str, float]:
    """Return how good a model is on frames that it has not seen.

    Parameters
    ----------
    model : HHNetModel
    frames : FrameSet

    Returns
    -------
    dict
        ``frames``; ``patch_accuracy``; for each way of voting ``frame_accuracy_WAY``; by certainty
        ``within_one`` (share within one class), ``wrong_sign`` (share put on the other side of focus),
        ``calibration_error`` (expected, of ten equal bins of the highest probability). The same again with
        ``_off_edge``, without frames within 5 % of an edge between classes. Of frames whose defocus is known,
        within what is measured: ``rmse_um``, ``median_um``, ``p99_um`` and ``max_um`` of the error, and
        ``within_two_sigma``. ``refused``, and ``believed_wrong``, how many of those accepted are more than
        one class off.
    """
    facts = facts_of(model, frames)
    classes = [model.bins.classes(one.probabilities) for one in facts]
    p = {way: np.stack([vote(one, way) for one in classes]) for way in WAYS}
    truth = frames.classes(model.table)
    patches = np.array([np.mean(winner(one) == number) for one, number in zip(classes, truth, strict=True)])
    off_edge = np.array([model.table.off_edge(one) for one in frames.defocus_um.tolist()])
    figures: dict[str, float] = {"frames": len(frames), "frames_off_edge": int(off_edge.sum())}
    for suffix, which in (("", np.full(len(frames), True)), ("_off_edge", off_edge)):
        if which.any():
            found = _figures({way: one[which] for way, one in p.items()}, truth[which])
            found["patch_accuracy"] = float(patches[which].mean())
            figures |= {f"{name}{suffix}": value for name, value in found.items()}
    said = [model.judge(one) for one in facts]
    believed = np.array([one.accepted for one in said])
    off = np.abs(winner(p["certainty"]) - truth)
    figures |= {"refused": float(1 - believed.mean()), "believed_wrong": int((believed & (off > 1)).sum())}
    low_um, high_um = model.bins.range_um
    inside = believed & (frames.defocus_um > low_um) & (frames.defocus_um < high_um)
    if not inside.any():
        return figures
    error = np.array([one.defocus_um for one in said])[inside] - frames.defocus_um[inside]
    sigma = np.array([one.sigma_um for one in said])[inside]
    size = np.abs(error)
    return {
        **figures,
        "rmse_um": float(np.sqrt(np.mean(error**2))),
        "median_um": float(np.median(size)),
        "p99_um": float(np.quantile(size, 0.99)),
        "max_um": float(size.max()),
        "within_two_sigma": float(np.mean(size <= 2 * sigma)),
    }


def _figures(p: dict[str, NDArray[np.float64]], truth: NDArray[np.intp]) -> dict[str, float]:
    found = {f"frame_accuracy_{way}": float(np.mean(winner(one) == truth)) for way, one in p.items()}
    number, focused = winner(p["certainty"]), INDICES.index(0)
    confidence = p["certainty"].max(axis=1)
    right = (number == truth).astype(float)
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = [abs(float((right - confidence)[bins == one].sum())) for one in range(_BINS)]
    return {
        **found,
        "within_one": float(np.mean(np.abs(number - truth) <= 1)),
        "wrong_sign": float(np.mean((number - focused) * (truth - focused) < 0)),
        "calibration_error": sum(gaps) / len(truth),
    }


def _calibrated(card: ModelCard, arrays: dict[str, NDArray[np.float32]], check: FrameSet) -> ModelCard:
    """Return the card with temperature, limits and figures, by frames that no network was trained on."""

    def changed(**parameters: Any) -> HHNetModel:
        both = {**model.card.architecture_parameters, **parameters}
        return HHNetModel(dataclasses.replace(model.card, architecture_parameters=both), arrays)

    if len(check) < _LEAST_CHECKED:
        raise ValueError(
            f"{len(check)} frames are kept out to calibrate on: expected at least {_LEAST_CHECKED}; use more"
        )
    model = HHNetModel(card, arrays)
    truth = check.classes(model.table)
    rows, frames = np.arange(len(truth)), check.by_frame()
    best = (math.inf, 1.0)
    # below a quarter a patch would name single bins, and its mean be no finer than these
    for temperature in np.geomspace(0.25, 8, 26):
        trial = changed(temperature=float(temperature))
        p = np.stack([vote(model.bins.classes(trial.probabilities(one))) for one in frames])
        loss = -np.log(np.maximum(p[rows, truth], 1e-6)).mean()
        best = min(best, (float(loss), float(temperature)))
    model = changed(temperature=best[1])
    facts = facts_of(model, check)
    p = np.stack([vote(model.bins.classes(one.probabilities)) for one in facts])
    if np.mean(np.abs(winner(p) - truth) <= 1) < 0.5:
        raise ValueError(
            "training did not converge: most frames kept out are more than one class off; use more frames "
            "or steps"
        )
    # as strange as the strangest of a few hundred frames and a little more
    strangeness = float(np.quantile([one.strangeness for one in facts], 0.999))
    model = changed(strangeness_limit=1.1 * strangeness, **_uncertainty(model, facts, check))
    figures = {f"validation_{name}": value for name, value in judged(model, check).items()}
    return dataclasses.replace(model.card, figures=figures)


def _uncertainty(model: HHNetModel, facts: list[PatchFacts], check: FrameSet) -> dict[str, Any]:
    """Return how the deviation of the patches becomes an uncertainty, and the largest one of each class."""
    means, raw = np.array([model.bins.mean(one.probabilities) for one in facts]).T
    low_um, high_um = model.bins.range_um
    known = (check.defocus_um > low_um) & (check.defocus_um < high_um)
    if known.any():
        floor_um, scale = scale_sigma((means - check.defocus_um)[known], raw[known])
        scale = max(scale, _LEAST_SCALE)
    else:
        # of frames that were sorted by eye: as finely as the classes are wide
        floor_um, scale = float(np.diff(model.table.edges_um).max()) / math.sqrt(12), 1.0
    sigma_um = np.hypot(scale * raw, floor_um)
    number = check.classes(model.table)
    largest = {
        one: _MOST_SIGMA * float(np.quantile(sigma_um[number == one], 0.995)) for one in set(number.tolist())
    }
    # a class that none of these frames is of is trusted no further than the least sure of the others
    most = [largest.get(one, max(largest.values())) for one in range(len(INDICES))]
    return {"sigma_floor_um": floor_um, "sigma_scale": scale, "most_sigma_um": most}
