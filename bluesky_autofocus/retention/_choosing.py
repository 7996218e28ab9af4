"""Choose recorded runs by their age."""

import math
import time
from typing import Any

__all__ = ["runs_older_than"]

DAY_S = 86_400.0


def runs_older_than(client: Any, days: float) -> list[Any]:
    """Return the runs that began at least so many days ago and have ended, oldest first.

    Parameters
    ----------
    client : databroker.client.CatalogOfBlueskyRuns
        ``db``.
    days : float
        Their age.

    Raises
    ------
    ValueError
        If `days` is negative or not finite.
    """
    from databroker.queries import TimeRange

    if not (math.isfinite(days) and days >= 0):
        raise ValueError(f"runs are chosen by an age of 0 days or more, got {days!r}")
    runs = client.search(TimeRange(until=time.time() - days * DAY_S)).values()
    ended = [run for run in runs if run.metadata.get("stop") is not None]
    return sorted(ended, key=lambda run: run.start["time"])
