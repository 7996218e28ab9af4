"""The light of a Koehler condenser: a disc of directions, incoherent with each other."""

import dataclasses
import math
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["Condenser"]

_GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))


@dataclasses.dataclass(frozen=True)
class Condenser:
    """A disc-shaped incoherent source, sampled at points of equal light.

    The points lie on a Vogel spiral (that of the sunflower), which covers a disc evenly with any number of
    them. It is moved a little so that the mean direction is the axis: else images would wander with defocus.

    Parameters
    ----------
    numerical_aperture : float
        Of the disc's edge.
    points : int
        How many directions; images take time in proportion.
    angle_deg : float
        By how much the spiral is turned.

    Raises
    ------
    ValueError
        If a number makes no sense.
    """

    numerical_aperture: float = 0.5
    points: int = 12
    angle_deg: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.numerical_aperture < 1:
            raise ValueError(
                f"numerical_aperture is {self.numerical_aperture!r}: expected more than 0 and less than 1"
            )
        if not (isinstance(self.points, int | np.integer) and self.points >= 1):
            raise ValueError(f"points is {self.points!r}: expected an integer of at least 1")
        if not math.isfinite(self.angle_deg):
            raise ValueError(f"angle_deg is {self.angle_deg!r}: expected a finite number")

    @cached_property
    def na_xy(self) -> NDArray[np.float64]:
        """Directions (x, y), shape (n, 2)."""
        index = np.arange(self.points)
        radius = np.sqrt((index + 0.5) / self.points)
        angle = _GOLDEN_ANGLE * index + math.radians(self.angle_deg)
        xy = radius[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
        xy -= xy.mean(axis=0)
        return self.numerical_aperture * xy / max(1.0, float(np.hypot(*xy.T).max()))

    @property
    def weights(self) -> NDArray[np.float64]:
        """Share of the light in each direction, shape (n,); they sum to 1."""
        return np.full(self.points, 1 / self.points)
