"""Patches of frames whose class is known, wherever they lie, and how they are shown in training."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.models._training import import_keras
from bluesky_autofocus.models.hh_net.classes import INDICES
from bluesky_autofocus.models.hh_net.features import NAMES
from bluesky_autofocus.models.hh_net.published._augmentation import Augmentation

__all__ = ["Batches", "PatchSet"]


@dataclasses.dataclass(frozen=True, eq=False)
class PatchSet:
    """Patches of frames whose class is known, checked.

    Parameters
    ----------
    patches : array of uint8, shape (n_patches, side, side, 3)
        RGB. May lie on disk, as a memmap or a dataset of HDF5: a batch at a time is read.
    handcrafted : ndarray of float32, shape (n_frames, 18)
        Features of the frames.
    classes : ndarray of int, shape (n_frames,)
        Place of each frame's class among the probabilities: 0 for index 4, 6 for index -2.
    frames : ndarray of int, shape (n_patches,)
        Which frame each patch belongs to.

    Raises
    ------
    ValueError
        If shapes or types do not fit, values are not finite, there is no such class or frame, or a frame has
        no patch.
    """

    patches: Any
    handcrafted: NDArray[np.float32]
    classes: NDArray[np.intp]
    frames: NDArray[np.intp]

    @classmethod
    def of(cls, patches: Any, handcrafted: Any, classes: Any, frames: Any) -> "PatchSet":
        """Make it of arrays of any type, but for the patches."""
        return cls(
            patches if hasattr(patches, "dtype") else np.asarray(patches),
            np.asarray(handcrafted, np.float32),
            _whole_numbers(classes, "classes"),
            _whole_numbers(frames, "frames"),
        )

    def __post_init__(self) -> None:
        shape, n_frames = self.patches.shape, self.classes.shape
        if (
            len(shape) != 4
            or shape[1] != shape[2]
            or shape[3] != 3
            or self.frames.shape != shape[:1]
            or self.classes.ndim != 1
            or self.handcrafted.shape != (*n_frames, len(NAMES))
        ):
            raise ValueError(
                f"patches, handcrafted, classes, frames have shapes {shape}, {self.handcrafted.shape}, "
                f"{self.classes.shape}, {self.frames.shape}: expected (n_patches, side, side, 3), "
                f"(n_frames, {len(NAMES)}), (n_frames,), (n_patches,)"
            )
        if self.patches.dtype != np.uint8:
            raise ValueError(f"the patches are of {self.patches.dtype}: expected uint8")
        if not np.isfinite(self.handcrafted).all():
            raise ValueError("handcrafted has values that are not finite: expected frames with a region")
        wrong = np.setdiff1d(self.classes, np.arange(len(INDICES)))
        if wrong.size:
            raise ValueError(f"classes has {wrong[0]}: expected 0 to {len(INDICES) - 1}")
        if set(self.frames.tolist()) != set(range(len(self))):
            raise ValueError(f"frames must name each of the {len(self)} frames, from 0, at least once")

    def __len__(self) -> int:
        return len(self.classes)

    def rows_of(self, which: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Return the rows of the patches of those frames."""
        return np.flatnonzero(which[self.frames])


def _whole_numbers(values: Any, name: str) -> NDArray[np.intp]:
    given = np.asarray(values)
    # distances and indices are easily taken for classes
    if given.dtype.kind not in "iu":
        raise ValueError(f"{name} is of {given.dtype}: expected whole numbers")
    return given.astype(np.intp)


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """Some patches of a set, read from where they lie a batch at a time."""

    of: PatchSet
    rows: NDArray[np.intp]
    standardised: NDArray[np.float32]
    batch: int

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch)

    def read(
        self, augmentation: Augmentation | None = None, rng: np.random.Generator | None = None
    ) -> Iterator[tuple[dict[str, NDArray[Any]], NDArray[np.intp]]]:
        """Give each patch once, in their order or, with a generator, in any."""
        order = self.rows if rng is None else rng.permutation(self.rows)
        for start in range(0, len(order), self.batch):
            # ascending: HDF5 wants it so, and a disk is faster
            which = np.sort(order[start : start + self.batch])
            patches = np.asarray(self.of.patches[which])
            if augmentation is not None and rng is not None:
                patches = augmentation(patches, rng)
            frames = self.of.frames[which]
            yield {"patches": patches, "handcrafted": self.standardised[frames]}, self.of.classes[frames]

    def dataset(
        self, augmentation: Augmentation | None = None, rng: np.random.Generator | None = None
    ) -> Any:
        """Return them for Keras; the next batch is read while one is learnt from."""
        _, tf = import_keras()
        side = self.of.patches.shape[1]
        said = (
            {
                "patches": tf.TensorSpec((None, side, side, 3), tf.uint8),
                "handcrafted": tf.TensorSpec((None, len(NAMES)), tf.float32),
            },
            tf.TensorSpec((None,), tf.int64),
        )
        made = tf.data.Dataset.from_generator(lambda: self.read(augmentation, rng), output_signature=said)
        return made.apply(tf.data.experimental.assert_cardinality(len(self))).prefetch(2)
