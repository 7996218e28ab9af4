"""Train HH-Net as published on simulated smears: ``bluesky-autofocus train hh-net --published``.

Its weights do not come with the package, they are too large. The patches that it is trained with lie in a
file in the user's cache, 2 GB, and are read from there.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.models.hh_net.classes import class_of
from bluesky_autofocus.models.hh_net.features import EmptyRegionError, handcrafted
from bluesky_autofocus.models.hh_net.patches import patches_of
from bluesky_autofocus.models.hh_net.published import PublishedModel, PublishedOptions, train_published
from bluesky_autofocus.training._simulating import CACHE, simulated
from bluesky_autofocus.training.hh_net import PATCH_PX, TABLE, SmearRecipe, field_frames, smear_inputs

__all__ = ["SHOWN", "TRAINING", "train"]

TRAINING = SmearRecipe(480_000, 260, defocus_um=(-15.0, 27.0), tail_share=0.0)
"""2,600 frames: 371 of each class, as the paper has 350."""
SHOWN = 3
"""Patches of each frame, at random places of the grid."""


def train(options: PublishedOptions | None = None, *, show: bool = True) -> PublishedModel:
    """Train the published network from its seeds; without a graphics card at a fraction of its width."""
    patches, features, defocus_um, field = _patches(show)
    classes = np.array([class_of(TABLE.index_of(one)) for one in defocus_um])
    return train_published(
        patches,
        features,
        classes,
        np.repeat(np.arange(len(classes)), SHOWN),
        table=TABLE,
        inputs=smear_inputs(),
        fields=field,
        options=options or PublishedOptions(),
        data=f"simulated: {SHOWN} patches of each of {len(classes)} frames, {TRAINING.count} stained smears",
        valid_for="simulated stained smears in bright field, 20x/0.4",
        progress=show,
    ).model


def _patches(show: bool) -> tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return patches, from a file, and features, defoci and fields of the frames that show something."""
    path = CACHE / f"{TRAINING.key}-patches.npy"
    about = path.with_suffix(".npz")
    if not about.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        size = (TRAINING.count * TRAINING.frames * SHOWN, PATCH_PX, PATCH_PX, 3)
        stored = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=size)
        features, defoci, field, at = [], [], [], 0
        for seed, frames in simulated(_patches_of_field, TRAINING, show=show):
            for patches, of_frame, defocus_um in frames:
                stored[at : at + SHOWN] = patches
                at += SHOWN
                features.append(of_frame)
                defoci.append(defocus_um)
                field.append(seed)
        stored.flush()
        np.savez(about, features=np.array(features), defoci=np.array(defoci), field=np.array(field))
    with np.load(about) as kept:
        features, defoci, field = kept["features"], kept["defoci"], kept["field"]
    return np.load(path, mmap_mode="r")[: len(defoci) * SHOWN], features, defoci, field


def _patches_of_field(job: tuple[SmearRecipe, int]) -> list[tuple[NDArray[np.uint8], NDArray[Any], float]]:
    """Return patches, features and defocus of those frames of a field that show something."""
    rng = np.random.default_rng((job[1], 23))
    kept = []
    for frame, defocus_um in zip(*field_frames(*job), strict=True):
        try:
            of_frame = handcrafted(frame)
        except EmptyRegionError:
            continue
        corners = patches_of(frame, PATCH_PX)
        shown = corners[rng.choice(len(corners), SHOWN, replace=False)]
        patches = np.stack([frame[y : y + PATCH_PX, x : x + PATCH_PX] for y, x in shown.tolist()])
        kept.append((patches, of_frame, defocus_um))
    return kept
