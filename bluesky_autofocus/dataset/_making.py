"""Make a data set: ground truth of every field, features of every frame."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.dataset._collections import (
    DatasetError,
    Recorded,
    Stack,
    find_collections,
    recorded_fields,
)
from bluesky_autofocus.dataset._computing import Computer
from bluesky_autofocus.dataset._dataset import FEATURES, TABLE, Dataset, Field
from bluesky_autofocus.defocus.ground_truth import GroundTruth, focus_of_stack
from bluesky_autofocus.leds import LEDs, PatternError, Single, parse_pattern

__all__ = ["ground_truths", "make_dataset"]

MEMORY_GIB = 4.0
"""Features that take more go to disk."""

Features: TypeAlias = Callable[[NDArray], NDArray]
"""``features(frame) -> (n_patches, d)``; picklable, if it is to go to a cluster."""

Progress: TypeAlias = Callable[[int, int], None]


def ground_truths(
    client: Any,
    *,
    samples: Sequence[str] | None = None,
    collections: Sequence[str] | None = None,
    since: Any = None,
    until: Any = None,
    truth_pattern: str | None = None,
    max_sigma_um: float = 0.5,
    image_key: str | None = None,
    scheduler: Any = "threads",
    workers: int | None = None,
    progress: Progress | None = None,
) -> list[Field]:
    """Return where each field of the runs that a query finds is in focus, trusted or not.

    Parameters
    ----------
    client, samples, collections, since, until
        As for `find_collections`.
    truth_pattern : str, optional
        Under which stack to look; by default the half annulus.
    max_sigma_um : float
        Largest uncertainty of a focus that is trusted.
    image_key : str, optional
        Which image, where there are several cameras.
    scheduler, workers, progress
        As for `make_dataset`.

    Raises
    ------
    DatasetError
        If the query finds nothing, or nothing with such a stack.
    """
    runs = find_collections(client, samples=samples, collections=collections, since=since, until=until)
    recorded = _complete(runs, image_key)
    with Computer(scheduler, workers) as computer:
        return _judged(recorded, truth_pattern, max_sigma_um, computer, progress)


def _complete(runs: list[Any], image_key: str | None) -> list[Recorded]:
    recorded = recorded_fields(runs, image_key)
    if not recorded:
        raise DatasetError(f"none of the {len(runs)} runs found holds a complete field")
    return recorded


def _judged(
    recorded: list[Recorded],
    truth_pattern: str | None,
    max_sigma_um: float,
    computer: Computer,
    progress: Progress | None,
) -> list[Field]:
    stacks = [_truth_stack(field, truth_pattern) for field in recorded]
    truths = computer.map(partial(_truth, max_sigma_um=max_sigma_um), stacks, progress)
    return [
        Field(field.run, field.number, field.collection, field.sample, truth)
        for field, truth in zip(recorded, truths, strict=True)
    ]


def _truth_stack(field: Recorded, pattern: str | None) -> Stack:
    wanted = [
        text
        for text in field.stacks
        if (text.startswith("half_annulus") if pattern is None else text == pattern)
    ]
    if not wanted:
        raise DatasetError(
            f"collection {field.collection} has no stack under {pattern or 'a half annulus'} to take the "
            f"ground truth from, only under {', '.join(field.stacks)}"
        )
    return field.stacks[wanted[0]]


def _truth(stack: Stack, *, max_sigma_um: float) -> GroundTruth:
    return focus_of_stack(stack.frames(), stack.positions_um, max_sigma_um=max_sigma_um)


def make_dataset(
    client: Any,
    features: Features,
    *,
    samples: Sequence[str] | None = None,
    collections: Sequence[str] | None = None,
    since: Any = None,
    until: Any = None,
    patterns: Sequence[str] | None = None,
    truth_pattern: str | None = None,
    max_sigma_um: float = 0.5,
    range_um: float | None = None,
    axis_sign: int = 1,
    image_key: str | None = None,
    scheduler: Any = "threads",
    workers: int | None = None,
    out: Path | str | None = None,
    progress: Progress | None = None,
    show: Callable[[str], None] | None = print,
) -> "Dataset":
    """Make a data set of the focal stacks that a query finds.

    Fields whose ground truth is not to be trusted are left out, and counted.

    Parameters
    ----------
    client, samples, collections, since, until
        As for `find_collections`.
    features : callable
        ``features(frame)`` returns the features of the patches of a frame, shape (n_patches, d). If it has
        ``parameters``, they are kept with the data set.
    patterns : sequence of str, optional
        Under which illuminations, as in the run's ``patterns``; by default all single LEDs.
    truth_pattern, max_sigma_um, image_key
        As for `ground_truths`.
    range_um : float, optional
        Leave out frames that are further from focus.
    axis_sign : int
        -1 for an axis whose upward moves bring the image plane down.
    scheduler : str or distributed.Client
        "threads", another of Dask's schedulers on this machine, or the address of a Dask cluster,
        ``"tcp://..."``, whose workers see the files of the frames under the same paths.
    workers : int, optional
        How many threads; by default one a processor. A cluster has its own.
    out : path, optional
        A folder for the features, which are then read from there as they are needed, and for the rest:
        `Dataset.open` opens it again. Required for features of more than 4 GiB.
    progress : callable, optional
        Called with how many fields are done, of how many; first for ground truth, then for features.
    show : callable, optional
        Says in one line what was left out and why.

    Returns
    -------
    Dataset

    Raises
    ------
    DatasetError
        If the query finds nothing, if there is no trusted field or no frame, or if optics differ.
    """
    if axis_sign not in (1, -1):
        raise ValueError(f"axis_sign must be +1 or -1, got {axis_sign!r}")
    if range_um is not None and not range_um > 0:
        raise ValueError(f"range_um must be positive, got {range_um!r}")
    if out is not None and (Path(out) / TABLE).exists():
        raise DatasetError(f"{out} holds a data set already")
    runs = find_collections(client, samples=samples, collections=collections, since=since, until=until)
    recorded = _complete(runs, image_key)
    optics = {field.optics for field in recorded}
    if len(optics) > 1:
        raise DatasetError(
            "the runs were recorded with different optics, which no network may mix: "
            + "; ".join(sorted(map(str, optics)))
        )
    with Computer(scheduler, workers) as computer:
        judged = _judged(recorded, truth_pattern, max_sigma_um, computer, progress)
        left_out = Counter(str(field.truth.reason) for field in judged if not field.truth.trusted)
        said = _say(judged, left_out)
        if show is not None:
            show(said)
        kept = [
            (field, record) for field, record in zip(judged, recorded, strict=True) if field.truth.trusted
        ]
        if not kept:
            raise DatasetError(f"there is no field with ground truth: {said}")
        rows = [
            _selected(stack, index, field.truth.position_um, axis_sign, range_um)
            for index, (field, record) in enumerate(kept)
            for stack in _feature_stacks(record, patterns)
        ]
        rows = [one for one in rows if one.stack.rows]
        if not rows:
            raise DatasetError(f"no frame lies within {range_um} um of focus")
        array = _gather(rows, features, computer, out, progress)
    texts = sorted({one.stack.pattern for one in rows})
    counts = [len(one.stack.rows) for one in rows]
    dataset = Dataset(
        features=array,
        defocus_um=np.concatenate([one.defocus_um for one in rows]).astype(np.float32),
        field=np.repeat([one.field for one in rows], counts),
        pattern=np.repeat([texts.index(one.stack.pattern) for one in rows], counts),
        na_xy=np.repeat([one.stack.na_xy for one in rows], counts, axis=0),
        fields=tuple(field for field, _ in kept),
        patterns=tuple(texts),
        optics=optics.pop(),
        left_out=dict(left_out),
        parameters={
            "features": getattr(features, "parameters", None),
            "runs": sorted({field.run for field, _ in kept}),
            "truth_pattern": truth_pattern,
            "max_sigma_um": max_sigma_um,
            "range_um": range_um,
            "axis_sign": axis_sign,
        },
    )
    if out is not None:
        dataset.write_table(Path(out))
    return dataset


def _say(judged: list[Field], left_out: Mapping[str, int]) -> str:
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(left_out.items()))
    return (
        f"{len(judged)} fields, {sum(left_out.values())} left out because their ground truth is not to be "
        f"trusted{f' ({reasons})' if reasons else ''}"
    )


def _feature_stacks(record: Recorded, patterns: Sequence[str] | None) -> list[Stack]:
    if patterns is None:
        patterns = [text for text in record.stacks if _is_single(text)]
        if not patterns:
            raise DatasetError(f"collection {record.collection} has no stack under a single LED")
    missing = [text for text in patterns if text not in record.stacks]
    if missing:
        raise DatasetError(
            f"collection {record.collection} has no stack under {', '.join(missing)}, "
            f"only under {', '.join(record.stacks)}"
        )
    return [record.stacks[text] for text in patterns]


def _is_single(text: str) -> bool:
    try:
        pattern = parse_pattern(text, 0.5)  # patterns that go by the aperture are not single
    except PatternError:
        return False
    return isinstance(pattern, Single) or (isinstance(pattern, LEDs) and len(pattern.indices) == 1)


@dataclasses.dataclass(frozen=True)
class _Rows:
    """The frames of one stack that go into the data set."""

    stack: Stack
    field: int
    defocus_um: NDArray[np.float64]


def _selected(stack: Stack, field: int, focus_um: float, axis_sign: int, range_um: float | None) -> _Rows:
    defocus = axis_sign * (np.array(stack.positions_um) - focus_um)
    inside = np.ones(len(defocus), bool) if range_um is None else np.abs(defocus) <= range_um
    chosen = dataclasses.replace(
        stack,
        rows=tuple(np.array(stack.rows, int)[inside].tolist()),
        positions_um=tuple(np.array(stack.positions_um)[inside].tolist()),
    )
    return _Rows(chosen, field, defocus[inside])


def _features(stack: Stack, *, features: Features) -> NDArray[np.float32]:
    return np.stack([np.asarray(features(frame), np.float32) for frame in stack.frames()])


def _gather(
    rows: list[_Rows],
    features: Features,
    computer: Computer,
    out: Path | str | None,
    progress: Progress | None,
) -> NDArray[np.float32]:
    """Compute the features stack by stack into one array, in memory or on disk."""
    total = sum(len(one.stack.rows) for one in rows)
    array: Any = None
    at = 0
    for block in computer.map(partial(_features, features=features), [one.stack for one in rows], progress):
        if block.ndim != 3:
            raise ValueError(f"features must return (n_patches, d), got the shape {block.shape[1:]}")
        if array is None:
            array = _allocate((total, *block.shape[1:]), out)
        if block.shape[1:] != array.shape[1:]:
            raise DatasetError(
                f"features have the shapes {block.shape[1:]} and {array.shape[1:]}: "
                "are the frames of one size?"
            )
        array[at : at + len(block)] = block
        at += len(block)
    if out is not None:
        array.flush()
        return np.load(Path(out) / FEATURES, mmap_mode="r")
    return array


def _allocate(shape: tuple[int, ...], out: Path | str | None) -> Any:
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        return np.lib.format.open_memmap(Path(out) / FEATURES, "w+", np.float32, shape)
    gib = 4 * np.prod(shape, dtype=float) / 2**30
    if gib > MEMORY_GIB:
        raise DatasetError(f"the features take {gib:.1f} GiB: give a folder for them, out=...")
    return np.empty(shape, np.float32)
