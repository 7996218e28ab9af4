"""From labelled frames of stained smears to what a network of focus classes is trained with."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from bluesky_autofocus.dataset._collections import DatasetError
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
    progress: Progress | None = None,
) -> tuple[FrameSet, Counter[str]]:
    """Return the vectors of the patches of frames, those with the most content, with what is known of each.

    Frames are read one after the other, and only their vectors are kept.

    Parameters
    ----------
    frames : sequence of LabelledFrame
        From `labelled_frames`.
    vectors : PatchVectors
        What the network is told of a patch.
    most_patches : int
        Of a frame.
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
    for done, one in enumerate(frames):
        frame = as_colour(one.read())
        corners, coarse = patches_of(frame, vectors.patch_px), coarse_of(frame)
        problem = problem_of(frame, coarse)
        if problem is not None:
            left_out[str(problem)] += 1
        else:
            shown = busiest(coarse, frame.shape[:2], corners, vectors.patch_px, most_patches)
            kept.append(vectors.of(frame, shown))
            number.append(np.full(len(shown), len(defocus_um)))
            defocus_um.append(one.defocus_um)
            index.append(one.index)
            place = (one.run, one.field, one.plane if one.still else -1)
            field.append(fields.setdefault(place, len(fields)))
        if progress is not None:
            progress(done + 1, len(frames))
    if not kept:
        raise DatasetError(f"none of the {len(frames)} frames can be used: {dict(left_out)}")
    return (
        FrameSet.of(
            np.concatenate(kept), np.concatenate(number), defocus_um=defocus_um, index=index, field=field
        ),
        left_out,
    )
