"""Patches disturbed at random, of which more are seen in training than there are."""

import dataclasses

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Augmentation"]

_ZOOMED = 0.5
"""Share of the patches that are zoomed; the others are as sharp as those that the network will meet."""


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Disturbs patches at random, of which more are seen in training than there are.

    Only the zoom changes how sharp a patch is: patches turn by quarter turns and shift by whole pixels. At
    any other angle pixels are interpolated, which takes the finest detail away just as defocus does. A zoom
    cannot do without that, and it magnifies the blur besides; so it is small, only half of the patches have
    it, and 0 leaves it out. What comes in from outside is mirrored at the edge.

    The paper names rotation, reflection, translation, zoom, crops and jittering, without figures. The patches
    are crops already; jittering is taken to be of the colours, as if exposure and white balance changed.

    Parameters
    ----------
    rotation : bool
        By 0, 90, 180 or 270 degrees.
    reflection : bool
        Of half of the patches.
    shift : float
        Most, down and across, as a share of the side; below 1.
    zoom : float
        Most that the magnification changes, as a share; below 1.
    jitter : float
        Most that the intensity of each colour changes, as a share; below 1.

    Raises
    ------
    ValueError
        If a share is not from 0 to 1.
    """

    rotation: bool = True
    reflection: bool = True
    shift: float = 0.05
    zoom: float = 0.02
    jitter: float = 0.05

    def __post_init__(self) -> None:
        for name in ("shift", "zoom", "jitter"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}: expected from 0 to below 1")

    def __call__(self, patches: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Return the same patches disturbed, each in another way.

        Parameters
        ----------
        patches : ndarray of uint8, shape (n, side, side, 3)
        rng : numpy.random.Generator
        """
        return np.stack([self._jittered(self._moved(patch, rng), rng) for patch in patches])

    def _moved(self, patch: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        side = len(patch)
        if self.rotation:
            patch = np.rot90(patch, int(rng.integers(4)))
        if self.reflection and rng.random() < 0.5:
            patch = patch[:, ::-1]
        scale = 1 + self.zoom * rng.uniform(-1, 1) if self.zoom and rng.random() < _ZOOMED else 1.0
        offsets = np.rint(self.shift * side * rng.uniform(-1, 1, 2)) + (1 - scale) * (side - 1) / 2
        return np.asarray(
            cv2.warpAffine(
                np.ascontiguousarray(patch),
                np.column_stack([scale * np.eye(2), offsets]),
                (side, side),
                flags=cv2.INTER_NEAREST if scale == 1 else cv2.INTER_LANCZOS4,
                borderMode=cv2.BORDER_REFLECT_101,
            ),
            np.uint8,
        )

    def _jittered(self, patch: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        if not self.jitter:
            return patch
        gains = 1 + self.jitter * rng.uniform(-1, 1, 3)
        levels = np.clip(np.rint(np.arange(256)[:, None] * gains), 0, 255).astype(np.uint8)
        return np.asarray(cv2.LUT(patch, levels[None]), np.uint8)
