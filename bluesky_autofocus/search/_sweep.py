"""Search by looking everywhere."""

from collections.abc import Sequence

from bluesky_autofocus.search._peak import judge
from bluesky_autofocus.search._samples import Sample, Search

__all__ = ["LEAST_SWEEP_EXPOSURES", "sweep_search"]

LEAST_SWEEP_EXPOSURES = 5
"""A peak, both its sides and what lies beyond them."""


def sweep_search(positions_um: Sequence[float], *, depth_of_field_um: float | None = None) -> Search:
    """Expose at every one of the positions, in their order.

    Parameters
    ----------
    positions_um : sequence of float
        Covering the range that is searched.
    depth_of_field_um : float, optional
        See `judge`.
    """
    samples: list[Sample] = []
    for position_um in positions_um:
        samples.append((yield float(position_um)))
    bounds_um = (min(positions_um), max(positions_um))
    return judge(samples, bounds_um=bounds_um, depth_of_field_um=depth_of_field_um, dense=True)
