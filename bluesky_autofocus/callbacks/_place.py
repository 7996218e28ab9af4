"""Where the frame of an Event was taken."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["Place", "place_in"]

UM = {"um": 1.0, "µm": 1.0, "micron": 1.0, "mm": 1000.0, "nm": 1e-3}
"""Micrometres in the units that stages are read in."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a frame was taken, as far as its Event tells.

    Parameters
    ----------
    x_um, y_um : float
        Of the stage; NaN where it was not read.
    column, row, index : int or None
        Of its tile.
    """

    x_um: float = math.nan
    y_um: float = math.nan
    column: int | None = None
    row: int | None = None
    index: int | None = None

    @property
    def known(self) -> bool:
        """Whether the stage was read."""
        return math.isfinite(self.x_um) and math.isfinite(self.y_um)

    @property
    def key(self) -> tuple[Any, ...] | None:
        """By what the same place is known again; None where nothing tells."""
        if self.index is not None:
            return (self.index,)
        if self.column is not None and self.row is not None:
            return self.column, self.row
        return (round(self.x_um, 1), round(self.y_um, 1)) if self.known else None


def place_in(data_keys: Mapping[str, Any], data: Mapping[str, Any]) -> Place:
    """Return where an Event was taken.

    A stage is known by keys that end in ``x`` and ``y`` and have a unit of length, a tile by keys that end in
    ``column`` and ``row``, or ``tile_index``.
    """
    x_um, y_um = (_position_um(data_keys, data, axis) for axis in "xy")
    column, row, index = (_whole_number(data_keys, data, name) for name in ("column", "row", "tile_index"))
    return Place(x_um, y_um, column, row, index)


def _position_um(data_keys: Mapping[str, Any], data: Mapping[str, Any], axis: str) -> float:
    for key in _ending(data_keys, axis) + _ending(data_keys, f"{axis}_um"):
        scale = 1.0 if key.endswith("_um") else UM.get(data_keys[key].get("units") or "")
        if scale is not None and data_keys[key]["dtype"] == "number":
            return scale * float(data[key])
    return math.nan


def _whole_number(data_keys: Mapping[str, Any], data: Mapping[str, Any], name: str) -> int | None:
    return next((int(data[key]) for key in _ending(data_keys, name) if data[key] >= 0), None)


def _ending(data_keys: Mapping[str, Any], name: str) -> list[str]:
    """Return the keys whose last word is that, the shortest first."""
    return sorted((key for key in data_keys if key == name or key.endswith(f"_{name}")), key=len)
