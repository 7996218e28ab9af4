"""Train the default HH-Net. Keras and TensorFlow are loaded here and nowhere else."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from bluesky_autofocus.models._dense import dense_arrays
from bluesky_autofocus.models._training import import_keras, library_versions
from bluesky_autofocus.models.card import FeatureRecord, ModelCard, ModelInputs, TrainingRecord
from bluesky_autofocus.models.hh_net._model import (
    ARCHITECTURE,
    INPUT_LIMIT,
    HHNetModel,
    PatchFacts,
    disagreement,
)
from bluesky_autofocus.models.hh_net.classes import INDICES, ClassTable
from bluesky_autofocus.models.hh_net.features import NAMES, content
from bluesky_autofocus.models.hh_net.voting import WAYS, certainty, vote, winner

__all__ = ["FrameSet", "TrainingOptions", "judged", "train_hh_net"]

_GOING_ON = 0.2
"""Of the learning rate, where training goes on from a model."""
_TWO_CLASSES = 1 - math.log(2) / math.log(len(INDICES))
"""Certainty of two classes that are equally probable, as on the edge between them."""
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
    edge : float
        Labels are soft: a defocus is taken to be uncertain by this share of the narrowest class.
    noise, gain : float
        Added to the band energies: deviation of what differs between them, and of what all have in common,
        as in a specimen that is stained more densely. In units of the energies, which are logarithms.
    leave_out : float
        Share of the patches that are shown without the hand-crafted features of their frame, so that the
        networks do not depend on them: those of a region's shape change with the size of the frame.
    dropout : float
        Share of the hidden units that are left out of a step. Fields differ more than a few hundred show, and
        without it the networks learn these by heart: 84 % of the frames kept out in place of 94 %.
    most_patches : int
        That are looked at in a frame, those with the most content.
    seed : int
        Of everything.
    """

    networks: int = 3
    width: int = 96
    depth: int = 2
    steps: int = 6000
    batch: int = 512
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    edge: float = 0.1
    noise: float = 0.02
    gain: float = 0.1
    leave_out: float = 0.3
    dropout: float = 0.4
    most_patches: int = 12
    seed: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class FrameSet:
    """Features of frames whose defocus is known, checked.

    Parameters
    ----------
    energies : ndarray of float32, shape (n_patches, levels * 3)
        Band energies.
    handcrafted : ndarray of float32, shape (n_frames, 18)
        Features of the frames.
    defocus_um : ndarray, shape (n_frames,)
        Image plane minus focus.
    frames : ndarray of int, shape (n_patches,)
        Which frame each patch belongs to.

    Raises
    ------
    ValueError
        If shapes do not fit, values are not finite, or a frame has no patch.
    """

    energies: NDArray[np.float32]
    handcrafted: NDArray[np.float32]
    defocus_um: NDArray[np.float64]
    frames: NDArray[np.intp]

    @classmethod
    def of(cls, energies: Any, handcrafted: Any, defocus_um: Any, frames: Any) -> "FrameSet":
        """Make it of arrays of any type."""
        return cls(
            np.asarray(energies, np.float32),
            np.asarray(handcrafted, np.float32),
            np.asarray(defocus_um, np.float64),
            np.asarray(frames, np.intp),
        )

    def __post_init__(self) -> None:
        n_patches, n_frames = self.energies.shape[:1], self.defocus_um.shape
        if (
            self.energies.ndim != 2
            or self.energies.shape[1] % 3
            or self.frames.shape != n_patches
            or self.defocus_um.ndim != 1
            or self.handcrafted.shape != (*n_frames, len(NAMES))
        ):
            raise ValueError(
                f"energies, handcrafted, defocus_um, frames have shapes {self.energies.shape}, "
                f"{self.handcrafted.shape}, {self.defocus_um.shape}, {self.frames.shape}: expected "
                f"(n_patches, levels * 3), (n_frames, {len(NAMES)}), (n_frames,), (n_patches,)"
            )
        for name in ("energies", "handcrafted", "defocus_um"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name} has values that are not finite: expected frames with a region")
        if set(self.frames.tolist()) != set(range(len(self))):
            raise ValueError(f"frames must name each of the {len(self)} frames, from 0, at least once")

    def __len__(self) -> int:
        return len(self.defocus_um)

    def only(self, which: NDArray[np.bool_]) -> "FrameSet":
        """Return those frames."""
        patches = which[self.frames]
        number = np.cumsum(which) - 1
        return FrameSet(
            self.energies[patches],
            self.handcrafted[which],
            self.defocus_um[which],
            number[self.frames[patches]],
        )

    def classes(self, table: ClassTable) -> NDArray[np.intp]:
        """Return the place of each frame's class; what is nearer than the limit counts as the last one."""
        edges = np.array(table.edges_um[1:])
        return len(INDICES) - 1 - np.searchsorted(edges, self.defocus_um, side="right")

    def looked_at(self, most: int) -> list[NDArray[np.intp]]:
        """Return, for each frame, which patches a model looks at: those with the most content."""
        order = np.lexsort((-content(self.energies), self.frames))
        starts = np.searchsorted(self.frames[order], np.arange(1, len(self)))
        return [one[:most] for one in np.split(order, starts)]


def train_hh_net(
    energies: ArrayLike,
    handcrafted: ArrayLike,
    defocus_um: ArrayLike,
    frames: ArrayLike,
    *,
    table: ClassTable,
    inputs: ModelInputs,
    fields: ArrayLike | None = None,
    options: TrainingOptions = TrainingOptions(),
    validation: tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike] | None = None,
    validation_fields: ArrayLike | None = None,
    start: HHNetModel | None = None,
    binning: int = 2,
    crops_seed: int = 0,
    data: str = "",
    valid_for: str = "",
    name: str = "hh-net",
    version: str = "1",
    tolerances: dict[str, float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> HHNetModel:
    """Train the networks, then calibrate on frames kept out.

    Parameters
    ----------
    energies, handcrafted, defocus_um, frames : array_like
        As of `FrameSet`. Where frames were sorted by eye, the defocus is the middle of the class. Frames
        nearer than the limit of the table count as its last class.
    table : ClassTable
        Which defocus the classes mean.
    inputs : ModelInputs
        Optics and patch size, for the card.
    fields : array_like, shape (n_frames,), optional
        Which field each frame shows; by default each another. A tenth of them, chosen by the seed, is kept
        out unless `validation` is given.
    options : TrainingOptions
        How.
    validation : tuple of array_like, optional
        The same four of other frames, to calibrate on.
    validation_fields : array_like, optional
        Which field each of these shows, for the card; by default each another.
    start : HHNetModel, optional
        To go on from, at a fifth of the rate; `options` must have its sizes.
    binning, crops_seed : int
        What the hand-crafted features were made with.
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
        If shapes do not fit, values are not finite, a class has no frame, there are fewer than ten fields,
        or `start` has other sizes.
    """
    training = FrameSet.of(energies, handcrafted, defocus_um, frames)
    field = np.arange(len(training)) if fields is None else np.asarray(fields)
    if field.shape != (len(training),):
        raise ValueError(f"fields has shape {field.shape}: expected ({len(training)},), one for each frame")
    distinct = np.unique(field)
    if len(distinct) < 10:
        raise ValueError(f"there are {len(distinct)} fields: expected at least 10 to train and validate on")
    started = time.monotonic()
    rng = np.random.default_rng(options.seed)
    n_frames, n_fields = len(training), len(distinct)
    if validation is None:
        kept = np.isin(field, rng.choice(distinct, max(1, len(distinct) // 10), replace=False))
        training, check = training.only(~kept), training.only(kept)
    else:
        check = FrameSet.of(*validation)
        n_frames += len(check)
        n_fields += len(check) if validation_fields is None else len(np.unique(np.asarray(validation_fields)))
    missing = set(range(len(INDICES))) - set(training.classes(table).tolist())
    if missing:
        indices = ", ".join(str(INDICES[number]) for number in sorted(missing))
        raise ValueError(f"there is no frame to train with of the classes of index {indices}")
    arrays = _train(training, table, options, progress or (lambda done, total: None), start)
    edges = table.edges_um
    card = ModelCard(
        name=name,
        architecture=ARCHITECTURE,
        version=version,
        inputs=inputs,
        features=FeatureRecord(
            "band energies of patches, hand-crafted features of the frame",
            {
                "patch_px": inputs.patch_px,
                "levels": training.energies.shape[1] // 3,
                "binning": binning,
                "seed": crops_seed,
            },
        ),
        valid_range_um=(edges[0], edges[-1]),
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
            "networks": options.networks,
            "most_patches": options.most_patches,
            "temperature": 1.0,
            "strangeness_limit": 1.0,
            "least_certainty": 0.0,
            "most_disagreement": 1.0,
            **{f"{key}_tolerance": value for key, value in (tolerances or {}).items()},
        },
    )
    card = _calibrated(card, arrays, check)
    minutes = (time.monotonic() - started) / 60
    return HHNetModel(
        dataclasses.replace(card, training=dataclasses.replace(card.training, minutes=minutes)), arrays
    )


def soft_labels(defocus_um: NDArray[np.float64], table: ClassTable, edge: float) -> NDArray[np.float32]:
    """Return the probabilities of the classes where the defocus is known to within a deviation.

    Parameters
    ----------
    defocus_um : ndarray, shape (n,)
    table : ClassTable
    edge : float
        Deviation, as a share of the narrowest class.

    Returns
    -------
    ndarray of float32, shape (n, 7)
    """
    edges = np.array(table.edges_um)
    deviation_um = max(edge, 1e-6) * np.diff(edges).min()
    # the last class has no end below, the first none above
    below = ndtr((edges[1:] - defocus_um[:, None]) / deviation_um)
    below = np.pad(below, ((0, 0), (1, 1)), constant_values=((0, 0), (0, 1)))
    return np.diff(below, axis=1)[:, ::-1].astype(np.float32)


def _train(
    training: FrameSet,
    table: ClassTable,
    options: TrainingOptions,
    progress: Callable[[int, int], None],
    start: HHNetModel | None,
) -> dict[str, NDArray[np.float32]]:
    n_energies = training.energies.shape[1]
    x = np.concatenate([training.energies, training.handcrafted[training.frames]], axis=1)
    if start is None:
        mean, deviation = x.mean(axis=0), x.std(axis=0) + 1e-3
    else:
        mean, deviation = (np.asarray(start.arrays[key], np.float32) for key in ("mean", "deviation"))
        if mean.shape != x.shape[1:] or start.card.architecture_parameters["networks"] != options.networks:
            raise ValueError(
                f"{start.card.name} has {start.card.architecture_parameters['networks']} networks of "
                f"{mean.size} inputs: to go on from it there must be as many, not {options.networks} of "
                f"{x.shape[1]}"
            )
    x = (x - mean) / deviation
    labels = soft_labels(training.defocus_um, table, options.edge)
    number = training.classes(table)
    # each class counts as much as the others
    weight = 1 / np.bincount(number, minlength=len(INDICES)).clip(1)[number]
    arrays: dict[str, NDArray[np.float32]] = {"mean": mean, "deviation": deviation}
    for index in range(options.networks):
        trained = _train_network(
            x,
            labels[training.frames],
            (weight / weight.mean())[training.frames].astype(np.float32),
            deviation[:n_energies],
            options,
            index,
            lambda done, index=index: progress(
                index * options.steps + done, options.networks * options.steps
            ),
            start,
        )
        arrays |= {f"network{index}.{key}": array for key, array in trained.items()}
    return arrays | _familiar(x[:, :n_energies], number[training.frames])


def _train_network(
    x: NDArray[np.float32],
    labels: NDArray[np.float32],
    weight: NDArray[np.float32],
    deviation: NDArray[np.float32],
    options: TrainingOptions,
    index: int,
    progress: Callable[[int], None],
    start: HHNetModel | None,
) -> dict[str, NDArray[np.float32]]:
    """Return the arrays of one network."""
    keras, tf = import_keras()
    keras.utils.set_random_seed(options.seed + 1000 * index)
    n, size = x.shape
    n_energies = len(deviation)
    layers = []
    for _ in range(options.depth):
        layers.append(keras.layers.Dense(options.width, activation="relu", kernel_initializer="he_normal"))
        layers.append(keras.layers.Dropout(options.dropout))
    model = keras.Sequential([keras.Input((size,)), *layers, keras.layers.Dense(len(INDICES))])
    rate = options.learning_rate
    if start is not None:
        names = [f"network{index}.{kind}{depth}" for depth in range(options.depth + 1) for kind in _KINDS]
        try:
            model.set_weights([start.arrays[name] for name in names])
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"the networks of {start.card.name} are of other sizes: to go on from it options must have "
                "the same width and depth"
            ) from error
        rate *= _GOING_ON
    schedule: Any = keras.optimizers.schedules.CosineDecay(
        0.05 * rate,
        options.steps,
        warmup_target=rate,
        warmup_steps=max(20, options.steps // 20),
        alpha=0.01,
    )
    optimiser = keras.optimizers.AdamW(schedule, weight_decay=options.weight_decay, clipnorm=1.0)
    variables = model.trainable_variables
    optimiser.build(variables)
    stored, wanted, counts = tf.constant(x), tf.constant(labels), tf.constant(weight)
    per_energy = tf.constant(1 / deviation)

    @tf.function
    def steps(count: Any) -> None:
        for _ in tf.range(count):
            which = tf.random.uniform((options.batch,), 0, n, tf.int32)
            rows = tf.gather(stored, which)
            common = options.gain * tf.random.normal((options.batch, 1))
            own = options.noise * tf.random.normal((options.batch, n_energies))
            shown = tf.cast(tf.random.uniform((options.batch, 1)) >= options.leave_out, tf.float32)
            rows = tf.concat(
                [rows[:, :n_energies] + (common + own) * per_energy, rows[:, n_energies:] * shown], axis=1
            )
            rows = tf.clip_by_value(rows, -INPUT_LIMIT, INPUT_LIMIT)
            with tf.GradientTape() as tape:
                loss = tf.nn.softmax_cross_entropy_with_logits(
                    tf.gather(wanted, which), model(rows, training=True)
                )
                loss = tf.reduce_mean(loss * tf.gather(counts, which))
            optimiser.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    for done in range(0, options.steps, 50):
        count = min(50, options.steps - done)
        steps(tf.constant(count))
        progress(done + count)
    return dense_arrays(model)


_KINDS = ("kernel", "bias")


def _familiar(x: NDArray[np.float32], number: NDArray[np.intp]) -> dict[str, NDArray[np.float32]]:
    """Return mean and principal axes of the standardised energies of each class, see `HHNetModel`."""
    means, axes = [], []
    for one in range(len(INDICES)):
        of_class = x[number == one].astype(np.float64)
        means.append(of_class.mean(axis=0))
        centred = of_class - means[-1]
        values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
        # few patches may lie in a plane
        axes.append(vectors / np.sqrt(np.maximum(values, 1e-5 * values.max())))
    return {
        "familiar.mean": np.array(means, np.float32),
        "familiar.axes": np.array(axes, np.float32),
    }


# What is found on frames kept out


def facts_of(model: HHNetModel, frames: FrameSet) -> list[PatchFacts]:
    """Return what the networks of a model say of each frame."""
    return [
        model.facts(frames.energies[which], of_frame)
        for which, of_frame in zip(frames.looked_at(model.most_patches), frames.handcrafted, strict=True)
    ]


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
        ``calibration_error`` (expected, of ten equal bins of the highest probability), ``refused``, and
        ``believed_wrong``, how many of those accepted are more than one class off. The first ones again
        with ``_off_edge``, without frames within 5 % of an edge between classes.
    """
    facts = facts_of(model, frames)
    p = {way: np.stack([vote(one.probabilities, way) for one in facts]) for way in WAYS}
    truth = frames.classes(model.table)
    patches = [
        float(np.mean(winner(one.probabilities) == number)) for one, number in zip(facts, truth, strict=True)
    ]
    inside = frames.defocus_um >= model.table.limit_um
    off_edge = np.array(
        [
            within and not model.table.near_edge(defocus)
            for within, defocus in zip(inside, frames.defocus_um.tolist(), strict=True)
        ]
    )
    figures: dict[str, float] = {"frames": len(frames)}
    for suffix, which in (("", np.full(len(frames), True)), ("_off_edge", off_edge)):
        if which.any():
            found = _figures({way: one[which] for way, one in p.items()}, truth[which])
            found["patch_accuracy"] = float(np.mean(np.array(patches)[which]))
            figures |= {f"{name}{suffix}": value for name, value in found.items()}
    figures["frames_off_edge"] = int(off_edge.sum())
    believed = np.array([model.judge(one).accepted for one in facts])
    off = np.abs(winner(p["certainty"]) - truth)
    return {
        **figures,
        "refused": float(1 - believed.mean()),
        "believed_wrong": int((believed & (off > 1)).sum()),
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

    def changed(**parameters: float) -> HHNetModel:
        both = {**model.card.architecture_parameters, **parameters}
        return HHNetModel(dataclasses.replace(model.card, architecture_parameters=both), arrays)

    model = HHNetModel(card, arrays)
    truth = check.classes(model.table)
    best = (math.inf, 1.0)
    for temperature in np.geomspace(0.25, 8, 26):
        facts = facts_of(changed(temperature=float(temperature)), check)
        p = np.stack([vote(one.probabilities) for one in facts])
        loss = -np.log(np.maximum(p[np.arange(len(truth)), truth], 1e-6)).mean()
        best = min(best, (float(loss), float(temperature)))
    model = changed(temperature=best[1])
    facts = facts_of(model, check)
    p = np.stack([vote(one.probabilities) for one in facts])
    if np.mean(np.abs(winner(p) - truth) <= 1) < 0.5:
        raise ValueError(
            "training did not converge: most frames kept out are more than one class off; use more frames "
            "or steps"
        )
    sure = certainty(p)
    apart = [disagreement(one.probabilities, int(n)) for one, n in zip(facts, winner(p), strict=True)]
    # as strange, and as much at odds, as the worst of a few hundred frames and a little more; but two
    # neighbouring classes between which it cannot decide are always believed
    model = changed(
        strangeness_limit=1.1 * float(np.quantile([one.strangeness for one in facts], 0.999)),
        least_certainty=float(np.clip(np.quantile(sure, 0.005), 0.3, 0.9 * _TWO_CLASSES)),
        most_disagreement=float(np.clip(1.2 * np.quantile(apart, 0.995), 0.2, 0.5)),
    )
    figures = {f"validation_{name}": value for name, value in judged(model, check).items()}
    return dataclasses.replace(model.card, figures=figures)
