"""Record where focus is over the specimen, for runs to come."""

import json
from typing import Any

from bluesky.utils import MsgGenerator, plan

from bluesky_autofocus.plans._exposing import _Record, _record
from bluesky_autofocus.prediction import FocusSurface

__all__ = ["record_surface"]


@plan
def record_surface(surface: FocusSurface) -> MsgGenerator[None]:
    """Record a focus surface in the stream ``focus_surface`` of the open run; a stub.

    Of several in a run the newest counts. `bluesky_autofocus.session.Session.surface`, or
    `bluesky_autofocus.dataset.surface_of`, gives it back.

    Parameters
    ----------
    surface : FocusSurface

    Raises
    ------
    TypeError
        If it is none.
    """
    if not isinstance(surface, FocusSurface):
        raise TypeError(f"expected a FocusSurface, got {surface!r}")
    yield from _record(_RecordedSurface(surface), "focus_surface")


class _RecordedSurface(_Record):
    def __init__(self, surface: FocusSurface) -> None:
        super().__init__("focus_surface")
        self._surface = surface

    def fields(self) -> dict[str, Any]:
        surface = self._surface
        return {
            "kind": surface.kind,
            "points": len(surface.points),
            "rejected": len(surface.rejected),
            "deviation_um": surface.deviation_um,
            "surface": json.dumps(surface.to_dict()),
        }
