"""Take a measured astigmatism back with two stigmators, and put them back."""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from bluesky.utils import MsgGenerator

from bluesky_autofocus.plans._criteria import NEAR_ENOUGH, SURE, Criteria, Estimate
from bluesky_autofocus.plans._moving import Approach, Travel, refused_by
from bluesky_autofocus.plans._operation import put_back_all
from bluesky_autofocus.plans._protocols import Detectors, FocusAxis
from bluesky_autofocus.records import Reading, Reason
from bluesky_autofocus.search import Conclusion

__all__ = ["Stigmating", "StigmatingCriteria", "UmPerUnit", "read_besides", "um_per_unit_matrix"]

UmPerUnit: TypeAlias = float | Sequence[Sequence[float]]
"""Distance between the line foci for a unit of the stigmators; a matrix where each acts on both."""

ANYWHERE = (-math.inf, math.inf)
"""Stigmators have units and limits of their own."""


def um_per_unit_matrix(stigmators: Sequence[FocusAxis], um_per_unit: UmPerUnit | None) -> np.ndarray:
    """Return what a unit of each stigmator does to each astigmatism, shape (2, 2), in um.

    Raises
    ------
    ValueError
        If these are not two stigmators, or the numbers make no sense or do not fit them.
    """
    if not stigmators:
        if um_per_unit is not None:
            raise ValueError(f"um_per_unit is that of stigmators, and there are none; got {um_per_unit!r}")
        return np.eye(2)
    if len(stigmators) != 2:
        raise ValueError(f"stigmators must be two, of 0/90 and of 45/135 degrees; got {len(stigmators)}")
    if um_per_unit is None:
        raise ValueError("stigmators need um_per_unit: by how much a unit of them moves the line foci apart")
    try:
        given = np.asarray(um_per_unit, float)
    except (TypeError, ValueError):
        given = np.array(math.nan)
    matrix = np.diag([float(given)] * 2) if given.ndim == 0 else given
    if matrix.shape != (2, 2) or not np.isfinite(matrix).all() or np.linalg.cond(matrix) > 1e3:
        raise ValueError(
            "um_per_unit must be a finite number other than 0, or 2 x 2 that can be inverted; got "
            f"{um_per_unit!r}"
        )
    return matrix


def read_besides(detectors: Detectors, stigmators: Sequence[FocusAxis]) -> Detectors:
    """Return the detectors, and those stigmators that are no part of any of them."""

    def known(device: Any) -> bool:
        return device is not None and (device in detectors or known(getattr(device, "parent", None)))

    return [*detectors, *(one for one in stigmators if not known(one))]


class Stigmating:
    """The stigmators of one operation; without any it does nothing.

    Parameters
    ----------
    stigmators : sequence of FocusAxis
        None, or two.
    before : sequence of float
        What they are set to.
    um_per_unit : ndarray, shape (2, 2)
        As `um_per_unit_matrix` returns it.

    Attributes
    ----------
    keep : bool
        Whether they stay where they are when everything is put back.
    """

    def __init__(
        self, stigmators: Sequence[FocusAxis], before: Sequence[float], um_per_unit: np.ndarray
    ) -> None:
        self.keep = False
        self._matrix = um_per_unit
        self._names = [one.name for one in stigmators]
        self._before, self._now = list(before), list(before)
        self._moves = [
            Travel(one, ANYWHERE, start, Approach()) for one, start in zip(stigmators, before, strict=True)
        ]
        self._readings: list[tuple[np.ndarray, np.ndarray]] = []
        self._corrected = 0

    @property
    def parameters(self) -> dict[str, Any] | None:
        """For the record: what they were set to, and are."""
        if not self._moves:
            return None
        return {
            "names": self._names,
            "um_per_unit": self._matrix.tolist(),
            "before": list(self._before),
            "after": list(self._now),
        }

    def read(self, reading: Reading) -> None:
        """Take in what the newest pair says; in a dry run there is none."""
        if self._moves:
            told = [
                np.array([getattr(reading, f"{which}_{what}", 0.0) for which in ("straight", "diagonal")])
                for what in ("um", "sigma_um")
            ]
            self._readings.append((told[0], told[1]))

    def correct(self) -> MsgGenerator[bool]:
        """Take back what was read last, if it was not yet; return whether the stigmators refuse that."""
        if self._corrected == len(self._readings):
            return False
        self._corrected = len(self._readings)
        wanted = self._now - np.linalg.solve(self._matrix, self._readings[-1][0])
        for move, value in zip(self._moves, map(float, wanted), strict=True):
            if (yield from refused_by(move.axis, [value])) is not None:
                return True
        for index, (move, value) in enumerate(zip(self._moves, map(float, wanted), strict=True)):
            yield from move.to(value)
            self._now[index] = value
        return False

    def conclude(self, verify: bool, depth_of_field_um: float) -> Conclusion | None:
        """Return why the astigmatism keeps what was found from being believed.

        None where it does not; `Reason.NOT_CONVERGED` where it must be corrected once more.
        """
        if not self._readings:
            return None
        left_um, sigma_um = self._readings[-1]
        if not np.isfinite(left_um).all() or not (SURE * sigma_um <= depth_of_field_um).all():
            return Conclusion(Reason.UNCERTAIN)
        near_um = np.maximum(SURE * sigma_um, NEAR_ENOUGH * depth_of_field_um)
        if not verify or (np.abs(left_um) <= near_um).all():
            return None
        if len(self._readings) > 1:
            before_um, before_sigma_um = self._readings[-2]
            grown_um = np.hypot(*left_um) - np.hypot(*before_um)
            if grown_um > SURE * math.hypot(*sigma_um, *before_sigma_um):
                return Conclusion(Reason.WORSE_AFTERWARDS)
        return Conclusion(Reason.NOT_CONVERGED)

    def put_back(self) -> MsgGenerator[None]:
        """Set them to what they were set to, unless they are to be kept."""
        if not self.keep:
            yield from put_back_all([partial(move.undo) for move in self._moves])


@dataclasses.dataclass(frozen=True)
class StigmatingCriteria(Criteria):
    """What must hold before a focus is believed, and the stigmators that go with it."""

    stigmating: Stigmating

    def conclude(
        self, now: Estimate, before: Estimate | None, expected_um: float = 0.0, followed: bool = False
    ) -> Conclusion | None:
        """Return what follows from both; None: correct, and look again."""
        conclusion = super().conclude(now, before, expected_um, followed)
        if conclusion is None or not conclusion.found or self.depth_of_field_um is None:
            return conclusion
        doubt = self.stigmating.conclude(self.verify, self.depth_of_field_um)
        if doubt is None:
            return conclusion
        return None if doubt.reason is Reason.NOT_CONVERGED else doubt
