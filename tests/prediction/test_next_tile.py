"""Which tile to focus next: far from what is known, and so that few of them tell the surface."""

import numpy as np
import pytest

from bluesky_autofocus.prediction import FocusPoint, FocusSurface, next_tile
from bluesky_autofocus.simulation.uneven import uneven_focus


def grid(n):
    return [(100.0 * column, 100.0 * row) for row in range(n) for column in range(n)]


def chosen(tiles, n, height=lambda x, y: 0.0):
    """Return the tiles that are focused one after the other."""
    points, numbers = [], []
    for _ in range(n):
        numbers.append(next_tile(points, tiles))
        x, y = tiles[numbers[-1]]
        points.append(FocusPoint(x, y, height(x, y), 0.1))
    return numbers


def test_the_middle_then_the_corners():
    first, *others = chosen(grid(5), 5)
    assert first == 12
    assert set(others) == {0, 4, 20, 24}


def test_none_twice():
    numbers = chosen(grid(5), 25, height=lambda x, y: 0.01 * x)
    assert sorted(numbers) == list(range(25))


def test_a_row_of_tiles():
    assert set(chosen([(100.0 * column, 0.0) for column in range(7)], 7)) == set(range(7))


@pytest.mark.parametrize("kind", ["plane", "thin_plate", "gaussian_process"])
def test_by_a_surface(kind):
    tiles = grid(9)
    points = [
        FocusPoint(x, y, 0.01 * x, 0.1) for x, y in ((0, 0), (400, 0), (0, 800), (400, 800), (200, 400))
    ]
    chosen = next_tile(FocusSurface.fit(points, kind=kind), tiles)
    assert tiles[chosen][0] == 800.0


def test_not_where_focus_is_an_outlier():
    """Dust is there still."""
    tiles = grid(9)
    numbers = chosen(tiles, 12, height=lambda x, y: 30.0 if (x, y) == (400, 400) else 0.01 * x)
    assert len(set(numbers)) == 12


def test_points_that_are_not_quite_on_their_tiles():
    tiles = grid(3)
    points = [FocusPoint(x + 3.0, y - 2.0, 0.0, 0.1) for x, y in tiles[:-1]]
    assert next_tile(points, tiles) == 8


def test_where_all_are_known_the_least_known():
    tiles = grid(3)
    points = [FocusPoint(x, y, 0.0, 5.0 if (x, y) == (200, 200) else 0.1) for x, y in tiles]
    assert next_tile(points, tiles) == 8


def test_one_tile():
    assert next_tile([], [(3.0, 4.0)]) == next_tile([FocusPoint(3.0, 4.0, 0.0, 0.1)], [(3.0, 4.0)]) == 0


def test_better_than_any_tiles():
    """The worst that is known of a curved specimen, after twelve."""
    worst = {"chosen": [], "any": []}
    for seed in range(5):
        rng = np.random.default_rng(seed)
        tiles = [(x, y) for x in np.linspace(0, 3000, 15) for y in np.linspace(0, 3000, 15)]
        places_um = np.array(tiles)
        focus_um = uneven_focus("bowl", places_um, rng)
        for way, found in worst.items():
            points = []
            for anywhere in rng.permutation(len(tiles))[:12]:
                tile = next_tile(points, tiles) if way == "chosen" else anywhere
                points.append(FocusPoint(*tiles[tile], focus_um[tile], 0.1))
            position_um, _ = FocusSurface.fit(points, kind="thin_plate").estimate(*places_um.T)
            found.append(np.abs(position_um - focus_um).max())
    assert np.median(worst["chosen"]) < 0.5 * np.median(worst["any"])


@pytest.mark.parametrize(
    ("tiles", "named"), [([], "one or more tiles, got none"), ([(0.0, float("nan"))], "finite places")]
)
def test_bad_input(tiles, named):
    with pytest.raises(ValueError, match=named):
        next_tile([], tiles)
