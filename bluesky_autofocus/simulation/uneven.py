"""At which height focus is over a specimen that is tilted and does not lie flat."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["UNEVEN", "uneven_focus"]

UNEVEN = ("flat", "bowl", "waves", "rough", "cells")
"""Kinds of specimen."""


def uneven_focus(kind: str, places_um: NDArray[Any], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return where focus is at places of a specimen.

    All are tilted, by 3 um / mm. They deviate from the plane by 1 um within a factor of e, one standard
    deviation:

    ==========  =========================================================================================
    ``flat``    not at all
    ``bowl``    as a paraboloid, by three times that at the rim of 3 mm
    ``waves``   in eight waves, from 1 to 6 mm long
    ``rough``   in waves, and by 0.3 of that from place to place
    ``cells``   from place to place
    ==========  =========================================================================================

    Parameters
    ----------
    kind : str
        One of `UNEVEN`.
    places_um : numpy.ndarray, shape (n, 2)
        About 3 mm from (0, 0) on.
    rng : numpy.random.Generator

    Returns
    -------
    focus_um : numpy.ndarray, shape (n,)

    Raises
    ------
    ValueError
        If there is no such kind.
    """
    if kind not in UNEVEN:
        raise ValueError(f"kind must be one of {', '.join(UNEVEN)}, got {kind!r}")
    focus_um = places_um @ rng.normal(0, 3e-3, 2)
    size_um = math.exp(rng.normal(0, 1))
    if kind == "bowl":
        focus_um += 3 * size_um * (((places_um - 1500) / 1500) ** 2).sum(axis=1)
    if kind in ("waves", "rough"):
        longest_um = rng.uniform(1500, 4000)
        for _ in range(8):
            angle, wave_um = rng.uniform(0, 2 * math.pi), longest_um * math.exp(rng.normal(0, 0.3))
            way_um = places_um @ [math.cos(angle), math.sin(angle)]
            focus_um += size_um / 2 * np.cos(2 * math.pi * way_um / wave_um + rng.uniform(0, 2 * math.pi))
    if kind in ("rough", "cells"):
        focus_um += rng.normal(0, size_um * (0.3 if kind == "rough" else 1.0), len(focus_um))
    return focus_um
