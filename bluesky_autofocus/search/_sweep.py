"""Search by looking everywhere: evenly spaced positions over the whole range."""

import numpy as np

from bluesky_autofocus.search._peak import judge
from bluesky_autofocus.search._samples import Sample, Search

__all__ = ["LEAST_SWEEP_EXPOSURES", "sweep_search"]

LEAST_SWEEP_EXPOSURES = 5
"""A peak, both its sides and what lies beyond them."""


def sweep_search(
    bounds_um: tuple[float, float], *, exposures: int, depth_of_field_um: float | None = None
) -> Search:
    """Expose evenly from the lower bound to the upper one.

    Parameters
    ----------
    bounds_um : tuple of float
        First and last position.
    exposures : int
        How many, both ends included.
    depth_of_field_um : float, optional
        See `judge`.
    """
    samples: list[Sample] = []
    for position_um in np.linspace(*bounds_um, exposures):
        samples.append((yield float(position_um)))
    return judge(samples, bounds_um=bounds_um, depth_of_field_um=depth_of_field_um, dense=True)
