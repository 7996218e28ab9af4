"""Synthetic focus curves, and a way to let a search loose on them."""

import math
from collections.abc import Callable

import pytest

from bluesky_autofocus.search import Conclusion, Sample, Search


def peak(
    position_um: float,
    *,
    focus_um: float = 3.0,
    fwhm_um: float = 8.0,
    height: float = 1.0,
    floor: float = 0.1,
) -> float:
    """Return a squared Lorentzian on a floor."""
    half_widths = 2 * (position_um - focus_um) / fwhm_um * math.sqrt(math.sqrt(2) - 1)
    return floor + height / (1 + half_widths**2) ** 2


def drive(search: Search, curve: Callable[[float], float]) -> tuple[list[float], Conclusion]:
    """Return where a search looks on a curve, and what it concludes."""
    asked = []
    try:
        position_um = next(search)
        while True:
            asked.append(position_um)
            position_um = search.send(Sample(position_um, curve(position_um)))
    except StopIteration as end:
        return asked, end.value


@pytest.fixture(scope="session", name="peak")
def _peak() -> Callable[..., float]:
    return peak


@pytest.fixture(scope="session", name="drive")
def _drive() -> Callable[..., tuple[list[float], Conclusion]]:
    return drive
