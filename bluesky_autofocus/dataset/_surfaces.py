"""Focus surfaces that were recorded, for use in a later run."""

import json
from typing import Any

from bluesky_autofocus.dataset._collections import DatasetError
from bluesky_autofocus.prediction import FocusSurface

__all__ = ["surface_of"]


def surface_of(run: Any) -> FocusSurface:
    """Return the newest focus surface that a run has recorded.

    Parameters
    ----------
    run : databroker.client.BlueskyRun

    Raises
    ------
    DatasetError
        If it has recorded none.
    """
    if "focus_surface" not in run:
        start = run.start
        raise DatasetError(f"run {start['uid'][:8]} ({start.get('plan_name')}) has recorded no focus surface")
    recorded = run["focus_surface"].read(["focus_surface_surface"])["focus_surface_surface"].values
    return FocusSurface.from_dict(json.loads(str(recorded[-1])))
