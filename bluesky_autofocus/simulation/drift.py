"""How focus drifts in the course of a night: what warms up, is heated and cooled, creeps, or is knocked."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DRIFTS", "focus_drift"]

DRIFTS = ("steady", "warming", "wandering rate", "wandering", "temperature", "knocked")
"""Kinds of drift."""

_MIN, _HOUR = 60.0, 3600.0


def focus_drift(
    kind: str, times_s: NDArray[Any], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Return where focus is, and the temperature that a thermometer reads.

    ========================  =============================================================================
    ``steady``                0.1 um / min, one standard deviation
    ``warming``               exponentially by 5 to 20 um, with a time constant of 20 to 60 min
    ``wandering rate``        the rate is a random walk: it changes by about 0.1 um / min in an hour
    ``wandering``             focus is a random walk, by about 0.6 um in an hour
    ``temperature``           by 2 um / K, one standard deviation, in a room that swings by 0.2 to 1 K
    ``knocked``               steady, and a jump by 3 to 10 um
    ========================  =============================================================================

    Parameters
    ----------
    kind : str
        One of `DRIFTS`.
    times_s : numpy.ndarray, shape (n,)
        Evenly spaced.
    rng : numpy.random.Generator

    Returns
    -------
    focus_um : numpy.ndarray, shape (n,)
    temperature_c : numpy.ndarray, shape (n,), or None
        With 10 mK of noise, of ``temperature``; other drifts do not follow the room.

    Raises
    ------
    ValueError
        If there is no such kind.
    """
    step_s, n = float(times_s[1] - times_s[0]), len(times_s)
    if kind == "steady":
        return rng.normal(0, 0.1) / _MIN * times_s, None
    if kind == "warming":
        way_um = rng.choice([-1, 1]) * rng.uniform(5, 20)
        return way_um * (1 - np.exp(-times_s / rng.uniform(1200, 3600))), None
    if kind == "wandering rate":
        change = 2.8e-5 * math.exp(rng.normal(0, 0.7)) * math.sqrt(step_s)
        rates = rng.normal(0, 0.05) / _MIN + np.cumsum(rng.normal(0, change, n))
        return np.cumsum(rates * step_s), None
    if kind == "wandering":
        step_um = 0.01 * math.exp(rng.normal(0, 0.7)) * math.sqrt(step_s)
        return np.cumsum(rng.normal(0, step_um, n)), None
    if kind == "temperature":
        swing = np.sin(2 * math.pi * (times_s / rng.uniform(1200, 3600) + rng.uniform()))
        room_c = 21 + rng.uniform(0.2, 1) * swing + rng.normal(0, 0.3) * times_s / _HOUR
        focus_um = rng.normal(0, 2) * (room_c - room_c[0]) + rng.normal(0, 0.02) / _MIN * times_s
        return focus_um, room_c + rng.normal(0, 0.01, n)
    if kind == "knocked":
        knock_um = rng.choice([-1, 1]) * rng.uniform(3, 10)
        after = times_s > rng.uniform(0.3, 0.7) * times_s[-1]
        return rng.normal(0, 0.1) / _MIN * times_s + knock_um * after, None
    raise ValueError(f"kind must be one of {', '.join(DRIFTS)}, got {kind!r}")
