"""Which tiles there are, in which order they are visited, and which of them are done: no messages."""

import dataclasses
import math
import operator
from collections.abc import Collection, Sequence
from numbers import Real
from typing import Any

import numpy as np

__all__ = ["Tile", "count_of", "grid_tiles", "listed_tiles", "numbers_in", "spread"]


@dataclasses.dataclass(frozen=True)
class Tile:
    """One tile of a specimen, or one position of a time-lapse.

    Parameters
    ----------
    index : int
        Its number: of a grid from 0 row by row, all rows in the same direction.
    x_um, y_um : float
        Where the stage is for it. NaN where there is no stage.
    row, column : int
        Where it is in the grid. Without one they are in a row, in their order.
    expected_um : float
        Where its focus is expected, NaN where nobody knows.
    """

    index: int
    x_um: float
    y_um: float
    row: int = 0
    column: int = 0
    expected_um: float = math.nan


def grid_tiles(rows: int, columns: int, pitch_um: Any, origin_um: Sequence[float]) -> list[Tile]:
    """Return the tiles of a grid, to and fro, row by row.

    Parameters
    ----------
    rows, columns : int
        Along y and along x.
    pitch_um : float or sequence of float
        Distance of neighbours, or those along x and along y. Negative ones go the other way.
    origin_um : sequence of float
        Position (x, y) of the first tile.

    Raises
    ------
    ValueError
        If a number makes no sense.
    """
    rows, columns = count_of("rows", rows), count_of("columns", columns)
    pitch = tuple(pitch_um) if isinstance(pitch_um, Sequence) else (pitch_um, pitch_um)
    if len(pitch) != 2 or not all(_is_finite(one) and one != 0 for one in pitch):
        raise ValueError(f"pitch_um must be one distance in um, or two, along x and y; got {pitch_um!r}")
    if len(origin_um) != 2 or not all(map(_is_finite, origin_um)):
        raise ValueError(f"origin_um must be a finite (x, y) in um, got {origin_um!r}")
    tiles = []
    for row in range(rows):
        to_and_fro = range(columns) if row % 2 == 0 else reversed(range(columns))
        tiles += [
            Tile(
                row * columns + column,
                float(origin_um[0]) + column * float(pitch[0]),
                float(origin_um[1]) + row * float(pitch[1]),
                row,
                column,
            )
            for column in to_and_fro
        ]
    return tiles


def listed_tiles(name: str, places: Sequence[Sequence[float]]) -> list[Tile]:
    """Return tiles at places (x, y) or (x, y, z), z being where focus is expected; in their order.

    Raises
    ------
    ValueError
        If there are none, or one is no place; naming the argument.
    """
    for place in places:
        if len(place) not in (2, 3) or not all(map(_is_finite, place)):
            raise ValueError(f"{name} must be finite (x, y) or (x, y, z) in um, got {place!r}")
    if not places:
        raise ValueError(f"{name} must be one or more places, got {places!r}")
    return [
        Tile(
            index,
            float(place[0]),
            float(place[1]),
            column=index,
            expected_um=float(place[2]) if len(place) == 3 else math.nan,
        )
        for index, place in enumerate(places)
    ]


def spread(tiles: Sequence[Tile], most: int) -> list[Tile]:
    """Return so many tiles, four or more, or all of them: the corners, and those farthest from the others."""
    if len(tiles) <= most:
        return list(tiles)
    places_um = np.array([(tile.x_um, tile.y_um) for tile in tiles])
    diagonals = places_um @ [[1, 1, -1, -1], [1, -1, 1, -1]]
    chosen = list(dict.fromkeys(diagonals.argmin(axis=0).tolist()))
    nearest_um = np.linalg.norm(places_um[:, None] - places_um[chosen], axis=2).min(axis=1)
    while len(chosen) < most:
        chosen.append(int(nearest_um.argmax()))
        nearest_um = np.minimum(nearest_um, np.linalg.norm(places_um - places_um[chosen[-1]], axis=1))
    return [tiles[index] for index in chosen]


def count_of(name: str, value: Any) -> int:
    """Return a positive whole number.

    Raises
    ------
    ValueError
        If it is none; naming the argument.
    """
    try:
        whole = operator.index(value)
    except TypeError:
        whole = 0
    if whole < 1:
        raise ValueError(f"{name} must be a positive whole number, got {value!r}")
    return whole


def numbers_in(done: Collection[Any], total: int) -> set[int]:
    """Return the numbers that are meant by numbers and runs ``[first, last]``.

    Raises
    ------
    ValueError
        If one is not below `total`.
    """
    numbers: set[int] = set()
    for one in done:
        first, last = one if isinstance(one, Sequence) else (one, one)
        if not 0 <= first <= last < total:
            raise ValueError(f"done must be numbers or [first, last] from 0 to {total - 1}, got {one!r}")
        numbers.update(range(operator.index(first), operator.index(last) + 1))
    return numbers


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value)
