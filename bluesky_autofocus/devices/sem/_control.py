"""What a vendor's interface must be able to do, in SI units, so that `VendorSEM` can drive it."""

import dataclasses
import math
from typing import Any, Protocol

import numpy as np

__all__ = ["SEMControl", "SEMLimits"]


@dataclasses.dataclass(frozen=True)
class SEMLimits:
    """Lowest and highest values that a microscope takes.

    Parameters
    ----------
    working_distance_m : tuple of float
        In m.
    stigmator : tuple of float
        Of either stigmator, in the vendor's unit.
    dwell_s : tuple of float
        Time of the beam on a pixel.
    field_width_m : tuple of float
        Width of the scanned field.
    """

    working_distance_m: tuple[float, float]
    stigmator: tuple[float, float] = (-1.0, 1.0)
    dwell_s: tuple[float, float] = (25e-9, 1e-3)
    field_width_m: tuple[float, float] = (1e-7, 5e-3)

    def __post_init__(self) -> None:
        for name, (low, high) in dataclasses.asdict(self).items():
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"{name} is {(low, high)!r}: expected finite, ascending limits")


class SEMControl(Protocol):
    """A vendor's interface. A new microscope wants a class with these methods and nothing else.

    All are called from one thread, one after the other; so are those of an interface that minds in which
    thread it was made. They return when what was asked for has happened, and raise whatever the vendor's
    interface raises: `VendorSEM` says which call it was.

    Attributes
    ----------
    frame_shape : tuple of int
        Rows and columns of a frame.
    dtype : numpy dtype
        Of the frames.
    limits : SEMLimits
        Known at the latest when it is connected.
    """

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Rows and columns of a frame."""
        ...

    @property
    def dtype(self) -> Any:
        """Type of the frames."""
        ...

    @property
    def limits(self) -> SEMLimits:
        """What the microscope takes."""
        ...

    def connect(self) -> None:
        """Connect, or connect again."""
        ...

    def disconnect(self) -> None:
        """Let go of the microscope, which stays as it is."""
        ...

    def get_working_distance(self) -> float:
        """Return the working distance in m."""
        ...

    def set_working_distance(self, metres: float) -> None:
        """Focus the beam at this distance in m; return when the lens has settled."""
        ...

    def get_stigmator(self) -> tuple[float, float]:
        """Return both stigmators, in the vendor's unit."""
        ...

    def set_stigmator(self, x: float, y: float) -> None:
        """Set both stigmators."""
        ...

    def get_dwell_time(self) -> float:
        """Return the time of the beam on a pixel, in s."""
        ...

    def set_dwell_time(self, seconds: float) -> None:
        """Set the time of the beam on a pixel; the nearest there is."""
        ...

    def get_field_width(self) -> float:
        """Return the width of the scanned field in m."""
        ...

    def set_field_width(self, metres: float) -> None:
        """Set the width of the scanned field."""
        ...

    def acquire(self) -> np.ndarray:
        """Scan a frame with these settings and return it, shape `frame_shape`."""
        ...
