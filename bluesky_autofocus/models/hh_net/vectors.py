"""What a network is told of each patch of a frame: a vector of features, of the kinds that its card names."""

import dataclasses
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus._fft import threads
from bluesky_autofocus.models.hh_net.energies import LEVELS, energies_of
from bluesky_autofocus.models.hh_net.features import NAMES, handcrafted
from bluesky_autofocus.models.hh_net.spectra import rings, spectra_of

__all__ = ["KINDS", "PatchVectors"]

KINDS = ("spectra", "energies", "handcrafted")
"""Of features: `spectra` and band `energies` of the patch, the eighteen hand-crafted ones of its frame."""


@dataclasses.dataclass(frozen=True)
class PatchVectors:
    """Makes vectors of patches.

    Parameters
    ----------
    patch_px : int
        Side of the patches.
    kinds : tuple of str
        Some of `KINDS`, in the order in which they stand in a vector.
    seed, binning : int
        As for `handcrafted`.

    Raises
    ------
    ValueError
        If there is no such kind, or none.
    """

    patch_px: int
    kinds: tuple[str, ...] = ("spectra",)
    seed: int = 0
    binning: int = 2

    def __post_init__(self) -> None:
        if not self.kinds or not set(self.kinds) <= set(KINDS) or len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"kinds is {self.kinds!r}: expected one or more of {', '.join(KINDS)}")

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "PatchVectors":
        """Make it again from what `to_dict` returned."""
        numbers = {name: int(record[name]) for name in ("patch_px", "seed", "binning")}
        return cls(kinds=tuple(record["kinds"]), **numbers)

    def to_dict(self) -> dict[str, Any]:
        """Return it for a model card, JSON-able."""
        return {**dataclasses.asdict(self), "kinds": list(self.kinds)}

    @property
    def size(self) -> int:
        """Length of a vector."""
        sizes = {"spectra": 6 * rings(self.patch_px), "energies": 3 * LEVELS, "handcrafted": len(NAMES)}
        return sum(sizes[kind] for kind in self.kinds)

    def of(self, frame: NDArray[np.uint8], corners: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return the vectors of some patches.

        Parameters
        ----------
        frame : ndarray of uint8, shape (H, W, 3)
        corners : ndarray of int, shape (n, 2)
            Row and column of their top left corners.

        Returns
        -------
        ndarray of float32, shape (n, size)

        Raises
        ------
        EmptyRegionError, ValueError
            As `handcrafted`, where that is among the kinds.
        """
        side = self.patch_px
        patches = [frame[y : y + side, x : x + side] for y, x in corners.tolist()]
        parts = {"spectra": spectra_of, "energies": energies_of}
        columns = []
        for kind in self.kinds:
            if kind == "handcrafted":
                of_frame = handcrafted(frame, seed=self.seed, binning=self.binning)
                columns.append(np.broadcast_to(of_frame, (len(patches), len(of_frame))))
            else:
                columns.append(_each(parts[kind], patches))
        return np.concatenate(columns, axis=1).astype(np.float32)


def _each(
    describe: Callable[[NDArray[np.uint8]], NDArray[np.float32]], patches: list[NDArray[np.uint8]]
) -> NDArray[np.float32]:
    """Describe patches on all cores, unless many processes share them already."""
    if threads() == 1 or len(patches) < 2:
        return np.stack([describe(patch) for patch in patches])
    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(describe, patches)))
