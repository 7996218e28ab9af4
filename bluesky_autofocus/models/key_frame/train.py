"""Train the key-frame model. Keras and TensorFlow are loaded here and nowhere else."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.models._convolutional import (
    Encoder,
    Layers,
    encoder_arrays,
    keras_encoder,
    restore_encoder,
)
from bluesky_autofocus.models._model import part_of
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
from bluesky_autofocus.models.key_frame._comparison import (
    comparison_arrays,
    comparison_inputs,
    keras_comparison,
    restore_comparison,
)
from bluesky_autofocus.models.key_frame._model import ARCHITECTURE, KeyFrameModel, Scan
from bluesky_autofocus.models.key_frame._posterior import beyond, label, posterior

__all__ = ["COARSE", "FINE", "STRIDE", "CellStacks", "TrainingOptions", "train_key_frame"]

COARSE = Scan("coarse", (0.88, 1.2), 1.0, (3, 5), 1)
FINE = Scan("fine", (0.22, 0.3), 0.25, (5, 9), 3)
STRIDE = {"coarse": 4, "fine": 1}
"""How many planes of the stacks to go on by from one plane of a scan to the next."""
_LENGTHS = (({"coarse": 3, "fine": 7}, 0.6), ({"coarse": 4, "fine": 9}, 0.2), ({"coarse": 5, "fine": 5}, 0.2))
"""Planes of the scans of a step, and how often."""
_PLANES = 17
"""Of a stack that take part in a step: as many as the longest scan spans."""
_GOING_ON = 0.2
"""Of the learning rate, where training goes on from a model."""
_QUANTUM = 1 / 20
"""Of the stored patches, in deviations of a stack."""


@dataclasses.dataclass(frozen=True, eq=False)
class CellStacks:
    """Focal stacks of single cells, with where their focus is.

    Parameters
    ----------
    patches : ndarray of int8, shape (n, planes, side, side)
        Relative to the local mean, in units of a twentieth of the stack's deviation; upwards, `FINE` apart.
    focus : ndarray, shape (n,)
        Position of focus, in planes from the first one.
    step_um : ndarray, shape (n,)
        Between the planes.
    field : ndarray, shape (n,)
        Which field a cell lies in: fields are told apart, not cells.
    """

    patches: NDArray[np.int8]
    focus: NDArray[np.float32]
    step_um: NDArray[np.float32]
    field: NDArray[np.int_]

    def __len__(self) -> int:
        return len(self.focus)

    def __getitem__(self, which: Any) -> "CellStacks":
        return CellStacks(self.patches[which], self.focus[which], self.step_um[which], self.field[which])

    @staticmethod
    def stored(patches: NDArray[np.float32]) -> NDArray[np.int8]:
        """Return patches, shape (..., side, side), as they are kept."""
        return np.clip(np.rint(patches / _QUANTUM), -127, 127).astype(np.int8)

    def middle(self, cell: Any, planes: Any, side: int) -> NDArray[np.float32]:
        """Return the middle of the patches of a cell at some planes, scaled by their common deviation."""
        at = (self.patches.shape[-1] - side) // 2
        patches = self.patches[cell][planes][..., at : at + side, at : at + side].astype(np.float32)
        return patches / (patches.std() + 1e-6)


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """How the networks are trained.

    Parameters
    ----------
    layers : sequence of (filters, kernel, stride)
        Convolutions of the encoder.
    size, width : int
        Features of a plane; width of the comparison.
    steps, cells : int
        Number of steps, cells a step.
    learning_rate, weight_decay : float
        Of AdamW; the rate warms up and falls as a cosine.
    noise, brightness : float
        Largest noise added, in deviations of the stack; largest relative change of contrast.
    z_reversal : float
        Share of the cells that are shown upside down, labels and all. It makes up for few cells, but takes
        from the network what the sign of contrast says: above focus what refracts is dark.
    seed : int
        Of everything.
    """

    layers: Layers = ((16, 5, 2), (24, 3, 2), (32, 3, 1), (48, 3, 2), (64, 3, 1))
    size: int = 64
    width: int = 64
    steps: int = 4500
    cells: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    noise: float = 0.25
    brightness: float = 0.3
    z_reversal: float = 0.0
    seed: int = 0


def train_key_frame(
    stacks: CellStacks,
    *,
    inputs: ModelInputs,
    options: TrainingOptions = TrainingOptions(),
    validation: CellStacks | None = None,
    start: KeyFrameModel | None = None,
    data: str = "",
    valid_for: str = "",
    name: str = "key-frame",
    version: str = "1",
    tolerances: dict[str, float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> KeyFrameModel:
    """Train encoder and comparisons together, then calibrate on fields kept out.

    Parameters
    ----------
    stacks : CellStacks
        To train on; a tenth of the fields is kept out unless `validation` is given.
    inputs : ModelInputs
        Optics and patch size, for the card.
    options : TrainingOptions
        How.
    validation : CellStacks, optional
        Of other fields, to calibrate on.
    start : KeyFrameModel, optional
        To go on from, at a fifth of the rate; `options` must have its sizes.
    data, valid_for, name, version : str
        For the card.
    tolerances : dict, optional
        Relative difference up to which ``pixel_size_um``, ``magnification`` ... may differ from the card.
    progress : callable, optional
        Called with steps done and steps in all.

    Returns
    -------
    KeyFrameModel
        Not yet saved; its card holds the figures.

    Raises
    ------
    ValueError
        If there are fewer than ten fields, stacks of too few planes or smaller than a patch, or `start` has
        other sizes.
    """
    planes = stacks.patches.shape[1]
    if planes < _PLANES:
        raise ValueError(f"stacks have {planes} planes: expected at least {_PLANES}")
    if not np.isfinite(stacks.focus).all():
        raise ValueError("some stacks have no finite focus: expected those that are labelled")
    if stacks.patches.shape[-1] < inputs.patch_px:
        raise ValueError(
            f"stacks are {stacks.patches.shape[-1]} px wide: less than patch_px {inputs.patch_px}"
        )
    if start is not None:
        _check_sizes(start, options)
    fields = distinct_fields(stacks.field)
    started = time.monotonic()
    rng = np.random.default_rng(options.seed)
    n_fields, n_cells = len(fields), len(stacks)
    if validation is not None:
        n_fields, n_cells = n_fields + len(np.unique(validation.field)), n_cells + len(validation)
    else:
        kept = np.isin(stacks.field, tenth_kept_out(fields, rng))
        stacks, validation = stacks[~kept], stacks[kept]
    arrays = _train(stacks, inputs.patch_px, options, rng, progress or (lambda done, total: None), start)
    card = ModelCard(
        name=name,
        architecture=ARCHITECTURE,
        version=version,
        inputs=dataclasses.replace(inputs, scans=tuple(map(dataclasses.asdict, (COARSE, FINE)))),
        features=FeatureRecord("relative patches", {"patch_px": inputs.patch_px}),
        valid_range_um=None,
        training=TrainingRecord(
            data=data,
            fields=n_fields,
            frames=n_cells * planes,
            seed=options.seed,
            minutes=0.0,
            options=dataclasses.asdict(options),
            versions=library_versions(),
        ),
        figures={},
        valid_for=valid_for,
        licence="BSD-3-Clause",
        architecture_parameters={
            "layers": options.layers,
            "strangeness_limit": 1.0,
            **{f"{key}_tolerance": value for key, value in (tolerances or {}).items()},
        },
    )
    model = _calibrated(KeyFrameModel(card, arrays), arrays, validation)
    training = dataclasses.replace(model.card.training, minutes=(time.monotonic() - started) / 60)
    return KeyFrameModel(dataclasses.replace(model.card, training=training), arrays)


def _check_sizes(start: KeyFrameModel, options: TrainingOptions) -> None:
    """Raise a ValueError unless the networks to be trained are of the sizes of those to go on from."""
    width = start.arrays[f"{COARSE.name}.bias0"].size
    found = start.encoder.layers, start.encoder.size, width
    wanted = tuple(map(tuple, options.layers)), options.size, options.width
    if found != wanted:
        raise ValueError(
            f"layers, size, width of {start.card.name} are {found}: to go on from it options must have the "
            f"same, not {wanted}"
        )


def _train(
    stacks: CellStacks,
    patch_px: int,
    options: TrainingOptions,
    rng: np.random.Generator,
    progress: Callable[[int, int], None],
    start: KeyFrameModel | None,
) -> dict[str, NDArray[np.float32]]:
    keras, tf = import_keras()
    keras.utils.set_random_seed(options.seed)
    encoder = keras_encoder(keras, options.layers, options.size)
    comparisons = {
        scan.name: keras_comparison(keras, options.size, options.width, side, scan.name)
        for scan, side in ((COARSE, 3), (FINE, 5))
    }
    rate = options.learning_rate
    if start is not None:
        restore_encoder(encoder, part_of(start.arrays, "encoder"))
        for name, comparison in comparisons.items():
            restore_comparison(comparison, part_of(start.arrays, name))
        rate *= _GOING_ON
    models = [encoder, *comparisons.values()]
    variables = [variable for model in models for variable in model.trainable_variables]
    optimiser = cosine_optimiser(keras, variables, rate, options.steps, weight_decay=options.weight_decay)

    @tf.function(reduce_retracing=False)
    def step(patches: Any, stretch: Any, gather: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            cells = tf.shape(patches)[0]
            images = tf.reshape(patches, (-1, patch_px, patch_px, 1))
            features = encoder(images, training=start is None)
            features = tf.reshape(features, (cells, _PLANES, options.size))
            loss = 0.0
            for name, comparison in comparisons.items():
                scans = tf.gather(features, gather[name], axis=1)  # (cells, windows, planes, size)
                windows = gather[name].shape[0]
                scans = tf.reshape(scans, (-1, gather[name].shape[1], options.size))
                out = comparison(comparison_inputs(tf, scans, tf.repeat(stretch, windows)), training=True)
                wanted = tf.reshape(labels[name], (-1, gather[name].shape[1] + 2))
                loss += tf.reduce_mean(
                    tf.nn.sigmoid_cross_entropy_with_logits(labels=wanted, logits=out[..., 0])
                )
        optimiser.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    order: list[int] = []
    shares = [share for _, share in _LENGTHS]
    for done in range(options.steps):
        while len(order) < options.cells:
            order += rng.permutation(len(stacks)).tolist()
        chosen = [order.pop() for _ in range(options.cells)]
        lengths = _LENGTHS[rng.choice(len(_LENGTHS), p=shares)][0]
        windows = {
            scan.name: _windows(_PLANES, lengths[scan.name], STRIDE[scan.name]) for scan in (COARSE, FINE)
        }
        patches, focus = zip(*(_drawn(stacks, cell, patch_px, options, rng) for cell in chosen), strict=True)
        labels = {
            scan.name: label(
                (np.array(focus)[:, None] - windows[scan.name][:, 0]) / STRIDE[scan.name],
                lengths[scan.name],
                scan.in_focus,
            )
            for scan in (COARSE, FINE)
        }
        step(
            tf.constant(np.stack(patches)),
            tf.constant(stacks.step_um[chosen] / np.float32(FINE.nominal_um)),
            {name: tf.constant(which) for name, which in windows.items()},
            {name: tf.constant(one) for name, one in labels.items()},
        )
        if done % 20 == 19 or done == options.steps - 1:
            progress(done + 1, options.steps)
    arrays = {f"encoder.{name}": array for name, array in encoder_arrays(encoder).items()}
    for name, comparison in comparisons.items():
        arrays |= {f"{name}.{key}": array for key, array in comparison_arrays(comparison).items()}
    return arrays | _familiar(stacks, arrays, patch_px, options, rng)


def _windows(planes: int, length: int, stride: int) -> NDArray[np.int32]:
    """Return the planes of all scans of a length within some planes, shape (scans, length)."""
    first = np.arange(planes - stride * (length - 1))
    return (first[:, None] + stride * np.arange(length)).astype(np.int32)


def _drawn(
    stacks: CellStacks, cell: int, patch_px: int, options: TrainingOptions, rng: np.random.Generator
) -> tuple[NDArray[np.float32], float]:
    """Return some planes of a cell, turned, shifted and disturbed, and where among them the focus is."""
    focus, planes = float(stacks.focus[cell]), stacks.patches.shape[1]
    # as often with the focus at an edge, or outside, as in the middle
    middle = focus + rng.uniform(-13, 13)
    first = int(np.clip(round(middle - (_PLANES - 1) / 2), 0, planes - _PLANES))
    room = stacks.patches.shape[-1] - patch_px
    top, left = rng.integers(room + 1, size=2)
    patches = stacks.patches[
        cell, first : first + _PLANES, top : top + patch_px, left : left + patch_px
    ].astype(np.float32)
    patches = np.rot90(patches, int(rng.integers(4)), (1, 2))
    patches = patches[:, :, ::-1] if rng.random() < 0.5 else patches
    focus -= first
    if rng.random() < options.z_reversal:
        patches, focus = patches[::-1], _PLANES - 1 - focus
    gain = rng.uniform(1 - options.brightness, 1 + options.brightness) / (patches.std() + 1e-6)
    patches = patches * np.float32(gain)
    # of the frame and of each plane: exposures of a scan are alike, and not quite
    patches *= rng.normal(1, 0.02, (_PLANES, 1, 1)).astype(np.float32)
    noise = rng.standard_normal(patches.shape, np.float32) * np.float32(rng.uniform(0, options.noise))
    return np.add(patches, noise, dtype=np.float32), focus


def _familiar(
    stacks: CellStacks,
    arrays: dict[str, NDArray[np.float32]],
    patch_px: int,
    options: TrainingOptions,
    rng: np.random.Generator,
    count: int = 600,
) -> dict[str, NDArray[np.float32]]:
    """Return the principal axes of the features of scans of training cells, and the deviation along each."""
    encoder = Encoder(options.layers, part_of(arrays, "encoder"))
    x = []
    for cell in rng.choice(len(stacks), min(count, len(stacks)), replace=False):
        scan = (COARSE, FINE)[int(rng.integers(2))]
        stride, n = STRIDE[scan.name], scan.planes[0] if scan is COARSE else 7
        first = int(rng.integers(stacks.patches.shape[1] - stride * (n - 1)))
        patches = stacks.middle(cell, np.arange(first, first + stride * n, stride), patch_px)
        x.append(encoder(patches[..., None]).mean(axis=0))
    mean, axes, spread = principal_axes(np.array(x))
    return {
        "familiar.mean": mean.astype(np.float32),
        "familiar.axes": axes.astype(np.float32),
        "familiar.spread": np.maximum(spread, 1e-6).astype(np.float32),
    }


# What is found on fields kept out


@dataclasses.dataclass(frozen=True, eq=False)
class _Judged:
    """Scans of fields kept out: what the network says of them, and where their focus is."""

    log_odds: list[NDArray[np.float32]]
    focus: NDArray[np.float64]
    spacing_um: NDArray[np.float64]
    strangeness: NDArray[np.float64]


def _calibrated(
    model: KeyFrameModel, arrays: dict[str, NDArray[np.float32]], validation: CellStacks
) -> KeyFrameModel:
    """Set temperatures, scales of sigma and limits."""
    rng = np.random.default_rng(1)
    scans, figures, strange = [], {}, []
    for scan in model.scans:
        judged = _judged(model, scan, validation, rng)
        strange.append(judged.strangeness)
        temperature = _temperature(judged, scan)
        known = [posterior(one, scan.in_focus, temperature) for one in judged.log_odds]
        error = np.array([one.mean for one in known]) - judged.focus
        raw = np.array([np.hypot(one.sigma, one.disagreement) for one in known])
        n = np.array([one.shape[1] - 2 for one in judged.log_odds])
        marked = (scan.in_focus - 1) / 2 - 0.5
        outside = [
            k.share_below(marked) + k.share_above(m - 1 - marked) for k, m in zip(known, n, strict=True)
        ]
        inside = np.array(outside) <= 0.1
        if inside.sum() < 20:
            raise ValueError(
                f"training did not converge: of {len(inside)} {scan.name} scans kept out it found the focus "
                f"in {inside.sum()}; use more fields or steps"
            )
        error_um, raw_um = error[inside] * judged.spacing_um[inside], raw[inside] * judged.spacing_um[inside]
        floor, scale = scale_sigma(error_um, raw_um)
        scans.append(
            dataclasses.replace(
                scan, temperature=temperature, sigma_scale=scale, sigma_floor_um=max(floor, 0.01)
            )
        )
        there = (judged.focus > marked) & (judged.focus < n - 1 - marked)
        figures |= {
            f"validation_{scan.name}_scans": len(error),
            f"validation_{scan.name}_rmse_um": float(np.sqrt(np.mean(error_um**2))),
            f"validation_{scan.name}_median_um": float(np.median(np.abs(error_um))),
            f"validation_{scan.name}_p99_um": float(np.quantile(np.abs(error_um), 0.99)),
            # short stacks, or few of them, may have none of a kind
            **{
                f"validation_{scan.name}_{which}": float(of.mean())
                for which, of in (("inside_missed", ~inside[there]), ("outside_accepted", inside[~there]))
                if of.size
            },
        }
    limit = float(np.quantile(np.concatenate(strange), 0.999) * 1.2)
    card = dataclasses.replace(
        model.card,
        figures=figures,
        inputs=dataclasses.replace(model.card.inputs, scans=tuple(map(dataclasses.asdict, scans))),
        architecture_parameters={**model.card.architecture_parameters, "strangeness_limit": limit},
    )
    return KeyFrameModel(card, arrays)


def _judged(
    model: KeyFrameModel, scan: Scan, stacks: CellStacks, rng: np.random.Generator, least: int = 100
) -> _Judged:
    """Show the model scans of all lengths of the fields, up to four cells of a field together."""
    log_odds, focus, spacing, strange = [], [], [], []
    stride, planes = STRIDE[scan.name], stacks.patches.shape[1]
    fields = np.unique(stacks.field)
    repeats = max(4, -(-least // len(fields)))  # more of each where there are few
    for field in fields:
        cells = np.flatnonzero(stacks.field == field)
        of_field = float(stacks.focus[cells].mean())
        for _ in range(repeats):
            n = int(rng.integers(scan.planes[0], scan.planes[1] + 1))
            half = stride * (n - 1) / 2
            # the focus within the scan, or up to two of its planes outside
            middle = of_field + rng.uniform(-1, 1) * (half + 2 * stride)
            first = int(np.clip(round(middle - half), 0, planes - 1 - stride * (n - 1)))
            which = first + stride * np.arange(n)
            patches = np.stack([stacks.middle(cell, which, model.patch_px) for cell in cells[:4]])
            spacing_um = stride * float(stacks.step_um[cells[0]])
            facts = model.facts(patches, scan, spacing_um)
            log_odds.append(facts.log_odds)
            # beyond where a posterior reaches all is one
            reach = beyond(scan.in_focus)
            focus.append(float(np.clip((of_field - first) / stride, -reach, n - 1 + reach)))
            spacing.append(spacing_um)
            strange.append(facts.strangeness)
    return _Judged(log_odds, np.array(focus), np.array(spacing), np.array(strange))


def _temperature(judged: _Judged, scan: Scan) -> float:
    """Return the temperature at which the true positions are most likely."""
    best = (-np.inf, 1.0)
    for temperature in np.geomspace(0.3, 30, 25):
        total = 0.0
        for one, focus in zip(judged.log_odds, judged.focus, strict=True):
            known = posterior(one, scan.in_focus, temperature)
            total += np.log(np.interp(focus, known.focus, known.weight) + 1e-9)
        best = max(best, (total, float(temperature)))
    return best[1]
