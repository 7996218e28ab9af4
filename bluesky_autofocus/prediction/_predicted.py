"""What is predicted of focus, and the places at which it was found."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["FocusPoint", "Predicted"]


@dataclasses.dataclass(frozen=True)
class Predicted:
    """Where focus is expected.

    Parameters
    ----------
    position_um : float
        Of the focus axis. NaN where nothing is predicted.
    sigma_um : float
        Standard uncertainty of it, NaN likewise: focus lies within two of them 95 times of 100.
    reason : str
        Why nothing is predicted, or what there is to be said against it.
    """

    position_um: float
    sigma_um: float
    reason: str = ""

    @classmethod
    def refused(cls, reason: str) -> "Predicted":
        """Return that nothing is predicted, with the reason."""
        return cls(math.nan, math.nan, reason)

    @property
    def known(self) -> bool:
        """Whether anything is predicted; how well is up to `sigma_um`."""
        return math.isfinite(self.position_um) and math.isfinite(self.sigma_um)


@dataclasses.dataclass(frozen=True)
class FocusPoint:
    """A place of the stage, and where focus was found there.

    Parameters
    ----------
    x_um, y_um : float
        Position of the stage.
    focus_um : float
        Position of focus along its axis.
    sigma_um : float
        Standard uncertainty of `focus_um`.

    Raises
    ------
    ValueError
        If a number is not finite, or the uncertainty not positive.
    """

    x_um: float
    y_um: float
    focus_um: float
    sigma_um: float

    def __post_init__(self) -> None:
        for name in ("x_um", "y_um", "focus_um", "sigma_um"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be finite, got {getattr(self, name)!r}")
        if not self.sigma_um > 0:
            raise ValueError(f"sigma_um must be positive, got {self.sigma_um!r}")

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "FocusPoint":
        """Return what `dataclasses.asdict` was made of."""
        return cls(**{name: float(fields[name]) for name in ("x_um", "y_um", "focus_um", "sigma_um")})
