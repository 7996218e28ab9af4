"""A focusing operation that has ended, in few words, and the colours by which that is told."""

import dataclasses

from bluesky_autofocus.callbacks._place import Place
from bluesky_autofocus.records import Reason

__all__ = ["COLOURS", "MARKERS", "Focusing"]

COLOURS = {
    "found": "#009E73",
    "held back": "#E69F00",
    "left alone": "#56B4E9",
    "expected": "#0072B2",
    "marked": "#CC79A7",
    "not found": "#D55E00",
    "not focused": "#999999",
}
"""Of what became of a focusing, and of tiles that were exposed where focus was expected, or marked since
nobody vouches for it; told apart by the colour-blind too (Okabe and Ito, 2008)."""

MARKERS = {"found": "o", "held back": "^", "left alone": "s", "not found": "x"}
"""Of what became of a focusing, as matplotlib calls them."""


def kind_of(found: bool, reason: str) -> str:
    """Return what became of a focusing, one of `COLOURS`."""
    if reason in (Reason.STILL_SHARP, Reason.TOO_SOON):
        return "left alone"
    if not found:
        return "not found"
    return "held back" if reason == Reason.HELD_BACK else "found"


@dataclasses.dataclass
class Focusing:
    """A focusing operation that has ended.

    Parameters
    ----------
    number : int
        Which of its run, from 1.
    time_s : float
        Seconds since 1970.
    position_um, sigma_um : float
        Where the focus is and how well that is known; NaN where it was not found.
    start_um : float
        Where the axis stood before.
    place : Place
        Of the stage.
    """

    number: int
    time_s: float
    method: str
    found: bool
    reason: str
    position_um: float
    sigma_um: float
    start_um: float
    exposures: int
    dose_s: float
    place: Place = Place()

    @property
    def kind(self) -> str:
        """What became of it, one of `COLOURS`."""
        return kind_of(self.found, self.reason)

    @property
    def colour(self) -> str:
        """By which that is told."""
        return COLOURS[self.kind]

    @property
    def stands_um(self) -> float:
        """Where the axis stood afterwards, as far as the verdict tells."""
        return self.position_um if self.found else self.start_um
