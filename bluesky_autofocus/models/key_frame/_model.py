"""The key-frame model: which plane of a scan is in focus, where between the planes, and when to believe it.

One encoder looks at the cells of each plane; a comparison for each kind of scan, coarse and fine, tells which
planes are in focus (`_comparison`), and what follows from that is the posterior of the position of focus
(`_posterior`), to which all cells of the field contribute.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bluesky_autofocus.defocus import ModelMismatchError, problem_of
from bluesky_autofocus.models._convolutional import Encoder
from bluesky_autofocus.models._model import TolerantModel, part_of, strange_parts
from bluesky_autofocus.models.card import ModelCard
from bluesky_autofocus.models.key_frame._comparison import Comparison
from bluesky_autofocus.models.key_frame._posterior import posterior
from bluesky_autofocus.models.key_frame.cells import Mask, crops, find_cells, relative
from bluesky_autofocus.records import Reason

__all__ = ["ARCHITECTURE", "SHIPPED", "CellFacts", "KeyFrameEstimate", "KeyFrameModel", "Scan"]

ARCHITECTURE = "key-frame-comparison-1"
SHIPPED = "weights/simulated-60x.h5"
"""The weights that come with the package, beside this module: for simulated living cells at 60x."""

_OUTSIDE = 0.1
"""Probability of the focus being outside the scan from which on the scan is to be continued."""


@dataclasses.dataclass(frozen=True)
class Scan:
    """A kind of scan that a model compares the planes of.

    Parameters
    ----------
    name : str
        "coarse" or "fine".
    spacing_um : tuple of float
        Smallest and largest distance of the planes.
    nominal_um : float
        The one in the middle, by which positions in planes are scaled.
    planes : tuple of int
        Fewest and most.
    in_focus : int
        How many planes a label marks.
    temperature, sigma_scale, sigma_floor_um : float
        What makes probabilities and uncertainty true; found in calibration.
    """

    name: str
    spacing_um: tuple[float, float]
    nominal_um: float
    planes: tuple[int, int]
    in_focus: int
    temperature: float = 1.0
    sigma_scale: float = 1.0
    sigma_floor_um: float = 0.0

    def __str__(self) -> str:
        low, high = self.spacing_um
        return f"{self.name} ({self.planes[0]} to {self.planes[1]} planes, {low:g} to {high:g} um apart)"


@dataclasses.dataclass(frozen=True)
class KeyFrameEstimate:
    """What a model makes of a scan.

    Parameters
    ----------
    focus_um : float
        Position of focus from the first plane. Where the reason is ``edge`` it only tells the side.
    sigma_um : float
        Its standard uncertainty.
    plane : int
        The plane nearest to focus.
    probabilities : tuple of float
        For each plane, that it is in focus as a label marks it.
    outside : tuple of float
        That focus lies so far below, or above, that not all planes a label marks are in the scan.
    cells : int
        How many voted.
    accepted : bool
        Whether the figures are to be believed.
    reason : Reason
        Why not, where they are not. "None of these planes" is ``edge`` where the side is known, else
        ``uncertain``.
    """

    focus_um: float
    sigma_um: float
    plane: int
    probabilities: tuple[float, ...]
    outside: tuple[float, float]
    cells: int
    accepted: bool = True
    reason: Reason = Reason.OK

    @classmethod
    def refused(cls, reason: Reason) -> "KeyFrameEstimate":
        """Return the estimate that is none, with the reason."""
        return cls(math.nan, math.nan, -1, (), (math.nan, math.nan), 0, False, reason)


@dataclasses.dataclass(frozen=True, eq=False)
class CellFacts:
    """What the network says of the cells of a scan, before it is judged.

    Parameters
    ----------
    log_odds : ndarray, shape (n_cells, n_planes + 2)
        "Below", each plane, "above".
    strangeness : float
        Distance of the features from what the training set explains; up to 1 for cells like those.
    """

    log_odds: NDArray[np.float32]
    strangeness: float


class KeyFrameModel(TolerantModel):
    """Tells which plane of a scan is in focus.

    Made by `load`, or by training and `save`.

    Parameters
    ----------
    card : ModelCard
        What it is; ``inputs.scans`` are the kinds of `Scan`.
    arrays : mapping of str to ndarray
        ``encoder.NAME``, and ``SCAN.NAME`` for each kind of scan; ``familiar.mean`` (size,),
        ``familiar.axes`` (n, size) and ``familiar.spread`` (n,) of the training set's features.

    Raises
    ------
    ModelFileError
        If the card is that of another architecture, or an array is missing or does not fit.
    """

    architecture = ARCHITECTURE
    shipped = "bluesky_autofocus.models.key_frame", SHIPPED

    def __init__(self, card: ModelCard, arrays: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(card, arrays)
        said, known = card.architecture_parameters, part_of(self.arrays, "familiar")
        with self._complete():
            self.scans = tuple(_scan(one) for one in card.inputs.scans)
            self.encoder = Encoder(said["layers"], part_of(self.arrays, "encoder"))
            self._compare = {one.name: Comparison(part_of(self.arrays, one.name)) for one in self.scans}
            self._limit = float(said["strangeness_limit"])
            self._mean, self._axes, self._spread = (known[name] for name in ("mean", "axes", "spread"))
            size = self.encoder.size
            if (
                not self.scans
                or any(one.size != size for one in self._compare.values())
                or self._mean.shape != (size,)
                or self._axes.shape != (len(self._spread), size)
            ):
                raise ValueError("the parts do not fit together")
        self.patch_px = card.inputs.patch_px

    def scan_of(self, spacing_um: float, n_planes: int) -> Scan:
        """Return the kind of scan that planes so far apart make.

        Raises
        ------
        ModelMismatchError
            If the card lists none.
        """
        for scan in self.scans:
            low, high = scan.spacing_um
            if low - 1e-9 <= spacing_um <= high + 1e-9 and scan.planes[0] <= n_planes <= scan.planes[1]:
                return scan
        raise ModelMismatchError(
            f"{n_planes} planes {spacing_um:g} um apart: {self.card.name} was made for "
            f"{', '.join(map(str, self.scans))}"
        )

    def estimate(
        self, frames: ArrayLike, spacing_um: float, *, mask: Mask | NDArray[Any] | None = None
    ) -> KeyFrameEstimate:
        """Return where the focus of a scan is, and whether to believe that.

        Parameters
        ----------
        frames : array_like, shape (n_planes, H, W)
            Grey levels as the camera gave them, upwards.
        spacing_um : float
            Between them.
        mask : callable or ndarray of shape (H, W), optional
            Where cells are, or what tells from the relative frames; by default `mask_of_cells`.

        Raises
        ------
        ValueError
            If these are no frames of at least a patch.
        ModelMismatchError
            If the card lists no such scan.
        """
        stack = np.asarray(frames)
        if stack.ndim != 3:
            raise ValueError(f"frames have shape {stack.shape}: expected (n_planes, H, W)")
        scan = self.scan_of(spacing_um, len(stack))
        for frame in stack:
            problem = problem_of(frame, self.full_scale)
            if problem is not None:
                return KeyFrameEstimate.refused(problem)
        planes = relative(stack)
        given = mask(planes) if callable(mask) else mask
        centres = find_cells(planes, self.patch_px, given)
        if not centres:
            return KeyFrameEstimate.refused(Reason.EMPTY)
        return self.judge(
            self.facts(crops(planes, centres, self.patch_px), scan, spacing_um), scan, spacing_um
        )

    # In parts, for training and benchmarks

    def facts(self, patches: NDArray[np.float32], scan: Scan, spacing_um: float) -> CellFacts:
        """Return what the network says of patches, shape (n_cells, n_planes, patch_px, patch_px)."""
        cells, n = patches.shape[:2]
        features = self.encoder(patches.reshape(cells * n, *patches.shape[2:], 1)).reshape(cells, n, -1)
        log_odds = self._compare[scan.name](features, spacing_um / scan.nominal_um)
        return CellFacts(log_odds, float(np.median(self.strange_parts(features)) / self._limit))

    def strange_parts(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return how far the mean features of cells lie from what the training set explains, (n_cells,)."""
        return strange_parts(features.mean(axis=1), self._mean, self._axes, self._spread)

    def judge(self, facts: CellFacts, scan: Scan, spacing_um: float) -> KeyFrameEstimate:
        """Decide whether to believe what the network says."""
        n = facts.log_odds.shape[1] - 2
        known = posterior(facts.log_odds, scan.in_focus, scan.temperature)
        raw_um = math.hypot(known.sigma, known.disagreement) * spacing_um
        marked = (scan.in_focus - 1) / 2 - 0.5
        outside = known.share_below(marked), known.share_above(n - 1 - marked)
        estimate = KeyFrameEstimate(
            focus_um=known.mean * spacing_um,
            sigma_um=math.hypot(scan.sigma_scale * raw_um, scan.sigma_floor_um),
            plane=known.nearest_plane,
            probabilities=tuple(float(one) for one in known.in_focus),
            outside=outside,
            cells=len(facts.log_odds),
        )
        reason = self._reason(estimate, facts, scan, (n - 1) / 2 * spacing_um)
        return estimate if reason is None else dataclasses.replace(estimate, accepted=False, reason=reason)

    def _reason(
        self, estimate: KeyFrameEstimate, facts: CellFacts, scan: Scan, middle_um: float
    ) -> Reason | None:
        below, above = estimate.outside
        if not facts.strangeness <= 1:
            return Reason.UNFAMILIAR
        if below + above > _OUTSIDE:
            one_side = max(below, above) > 0.8 * (below + above)
            agrees = (estimate.focus_um > middle_um) == (above > below)
            return Reason.EDGE if one_side and agrees else Reason.UNCERTAIN
        if estimate.sigma_um > 0.5 * scan.nominal_um * max(1.0, scan.in_focus / 2):
            return Reason.UNCERTAIN
        return None


def _scan(said: Mapping[str, Any]) -> Scan:
    values = dict(said)
    values["spacing_um"], values["planes"] = tuple(values["spacing_um"]), tuple(values["planes"])
    return Scan(**values)
