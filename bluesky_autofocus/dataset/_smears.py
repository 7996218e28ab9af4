"""From labelled frames of stained smears to what a network of focus classes is trained with."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.dataset._collections import DatasetError
from bluesky_autofocus.dataset._computing import Computer
from bluesky_autofocus.dataset._labelled_frames import LabelledFrame
from bluesky_autofocus.models._training import Progress
from bluesky_autofocus.models.hh_net.patches import as_colour, busiest, coarse_of, patches_of, problem_of
from bluesky_autofocus.models.hh_net.train import FrameSet
from bluesky_autofocus.models.hh_net.vectors import PatchVectors

__all__ = ["smear_vectors"]


def smear_vectors(
    frames: Sequence[LabelledFrame],
    vectors: PatchVectors,
    *,
    most_patches: int,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> tuple[FrameSet, Counter[str]]:
    """Return the vectors of the patches of frames, those with the most content, with what is known of each.

    Only the vectors of a frame are kept.

    Parameters
    ----------
    frames : sequence of LabelledFrame
        From `labelled_frames`.
    vectors : PatchVectors
        What the network is told of a patch.
    most_patches : int
        Of a frame.
    scheduler : str, optional
        As for `make_dataset`. By default frames are read one after the other, here.
    progress : callable, optional
        Called with frames done and frames in all.

    Returns
    -------
    FrameSet
    left_out : Counter
        How many frames were left out, by the reason for which they cannot be used.

    Raises
    ------
    DatasetError
        If no frame can be used.
    ValueError
        If frames have no colours or are smaller than a patch.
    """
    kept, number, defocus_um, index, field = [], [], [], [], []
    fields: dict[tuple[str, int, int], int] = {}
    left_out: Counter[str] = Counter()
    compute = partial(_vectors_of, vectors=vectors, most_patches=most_patches)
    for one, found in zip(frames, _computed(compute, frames, scheduler, progress), strict=True):
        if isinstance(found, str):
            left_out[found] += 1
        else:
            kept.append(found)
            number.append(np.full(len(found), len(defocus_um)))
            defocus_um.append(one.defocus_um)
            index.append(one.index)
            place = (one.run, one.field, one.plane if one.still else -1)
            field.append(fields.setdefault(place, len(fields)))
    if not kept:
        raise DatasetError(f"none of the {len(frames)} frames can be used: {dict(left_out)}")
    return (
        FrameSet.of(
            np.concatenate(kept), np.concatenate(number), defocus_um=defocus_um, index=index, field=field
        ),
        left_out,
    )


def _vectors_of(one: LabelledFrame, *, vectors: PatchVectors, most_patches: int) -> NDArray[np.float32] | str:
    """Return the vectors of a frame, one row a patch, or why it cannot be used."""
    frame = as_colour(one.read())
    corners, coarse = patches_of(frame, vectors.patch_px), coarse_of(frame)
    problem = problem_of(frame, coarse)
    if problem is not None:
        return str(problem)
    return vectors.of(frame, busiest(coarse, frame.shape[:2], corners, vectors.patch_px, most_patches))


def _computed(
    compute: partial[NDArray[np.float32] | str],
    frames: Sequence[LabelledFrame],
    scheduler: str | None,
    progress: Progress | None,
) -> Iterator[NDArray[np.float32] | str]:
    if scheduler is not None:
        with Computer(scheduler, None) as computer:
            yield from computer.map(compute, frames, progress)
        return
    for done, one in enumerate(frames, 1):
        yield compute(one)
        if progress is not None:
            progress(done, len(frames))
