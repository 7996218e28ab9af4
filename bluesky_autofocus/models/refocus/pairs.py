"""What refocusing is learnt from: planes of focal stacks, and each field as it looks in focus."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus._rows import RowsOnDisk
from bluesky_autofocus.models.refocus._levels import Levels
from bluesky_autofocus.models.refocus._tiles import reflected

__all__ = ["FocalPairs", "Sampler"]


@dataclasses.dataclass(frozen=True, eq=False)
class FocalPairs:
    """Planes out of focus, and what they ought to look like.

    Parameters
    ----------
    planes : ndarray of uint8 or uint16, shape (n, n_planes, H, W)
        Grey frames; it may lie in a file. A field that was recorded in three colours is there three times.
    targets : ndarray, shape (n, H, W)
        The same in focus, on the same scale: another frame, or where they are simulated one without noise.
    defocus_um : ndarray, shape (n_planes,)
        Image plane minus focus of each plane.
    field : ndarray of int, shape (n,)
        Which field they show; what is validated with are other fields than those of training.
    modality : str
        What kind of images these are: "fluorescence", "brightfield".

    Raises
    ------
    ValueError
        If the shapes do not fit together.
    """

    planes: Any
    targets: Any
    defocus_um: NDArray[np.float64]
    field: NDArray[np.int_]
    modality: str

    def __post_init__(self) -> None:
        shape = self.planes.shape
        if len(shape) != 4 or self.targets.shape != (shape[0], *shape[2:]):
            raise ValueError(
                f"planes have shape {shape} and targets {self.targets.shape}: expected (n, n_planes, H, W) "
                "and (n, H, W)"
            )
        if self.defocus_um.shape != shape[1:2] or self.field.shape != shape[:1]:
            raise ValueError(
                f"{shape[0]} fields of {shape[1]} planes, but {self.field.shape} fields and "
                f"{self.defocus_um.shape} distances"
            )

    def __len__(self) -> int:
        return len(self.planes)

    def take(self, which: NDArray[Any]) -> Self:
        """Return some of the fields, by number or by what is true for each; no frame is read for it."""
        chosen = np.flatnonzero(which) if np.asarray(which).dtype == bool else np.asarray(which)
        planes, targets = (RowsOnDisk(array, chosen) for array in (self.planes, self.targets))
        return dataclasses.replace(self, planes=planes, targets=targets, field=self.field[chosen])

    def split(self, kept_out: NDArray[Any]) -> tuple[Self, Self]:
        """Return the pairs of all other fields, and those of the fields that are kept out."""
        out = np.isin(self.field, kept_out)
        return self.take(~out), self.take(out)

    def nearest(self, defocus_um: float) -> int:
        """Return the number of the plane nearest to a distance from focus."""
        return int(np.argmin(np.abs(self.defocus_um - defocus_um)))


class Sampler:
    """Draw pieces of pairs at random, turned and mirrored, as the networks see them.

    Parameters
    ----------
    sets : sequence of FocalPairs
        All sets are drawn from equally often, whatever their size.
    rng : numpy.random.Generator
        Of all that is random.
    crop_px : int
        Side of the pieces.
    planes_um : sequence of float, optional
        Only planes at these distances from focus; by default all.
    margin_px : int
        What `shown` is given beside the pieces, on each side.
    beyond_px : int
        How far pieces with their margins may reach beyond the frame, where it is mirrored, as it is when
        it is refocused.
    shown : callable, optional
        ``(x, set, field, plane) -> channels``: what the network is shown of a piece with its margin, shape
        (h, w) and (h, w, k). By default the piece alone.
    jitter : float
        By how much the scale of grey levels is off, as a share: a frame with few bright objects has another
        than one with many.

    Raises
    ------
    ValueError
        If the frames are smaller than the pieces.
    """

    def __init__(
        self,
        sets: Sequence[FocalPairs],
        rng: np.random.Generator,
        crop_px: int,
        *,
        planes_um: Sequence[float] | None = None,
        margin_px: int = 0,
        beyond_px: int = 0,
        shown: Callable[[NDArray[np.float32], int, int, int], NDArray[np.float32]] | None = None,
        jitter: float = 0.3,
    ) -> None:
        for one in sets:
            if min(one.targets.shape[1:]) + 2 * beyond_px < crop_px + 2 * margin_px:
                raise ValueError(
                    f"frames of {one.targets.shape[1:]} pixels are too small for pieces of {crop_px}"
                    + (f" with margins of {margin_px}" if margin_px else "")
                )
        self._margin_px, self._beyond_px = margin_px, beyond_px
        self._shown = shown or (lambda x, s, i, j: x[..., None])
        self._sets, self._rng, self._crop_px, self._jitter = list(sets), rng, crop_px, jitter
        self._numbers = [
            np.arange(one.planes.shape[1])
            if planes_um is None
            else np.array([one.nearest(z_um) for z_um in planes_um])
            for one in sets
        ]
        self._levels = cache(lambda s, i, j: Levels.of(self._sets[s].planes[i, j]))

    def batch(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what is shown of pieces, shape (count, crop_px, crop_px, k), and these in focus, k = 1."""
        rng, margin, beyond = self._rng, self._margin_px, self._beyond_px
        side, inner = self._crop_px + 2 * margin, slice(margin, margin + self._crop_px)
        x, target = [], []
        for _ in range(count):
            s = int(rng.integers(len(self._sets)))
            one = self._sets[s]
            i, j = int(rng.integers(len(one))), int(rng.choice(self._numbers[s]))
            window = np.ix_(
                *(
                    reflected(int(rng.integers(-beyond, size + beyond - side + 1)) + np.arange(side), size)
                    for size in one.targets.shape[1:]
                )
            )
            levels = self._levels(s, i, j)
            levels = dataclasses.replace(
                levels, scale=levels.scale * float(np.exp(rng.uniform(-self._jitter, self._jitter)))
            )
            turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
            shown = self._shown(levels.apply(one.planes[i, j][window]), s, i, j)
            for out, seen in ((x, shown), (target, levels.apply(one.targets[i][window])[..., None])):
                turned = np.rot90(seen[inner, inner], turns)
                out.append(turned[:, ::-1] if mirrored else turned)
        return np.stack(x), np.stack(target)
