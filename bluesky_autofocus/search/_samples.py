"""What a search is told and what it concludes."""

import dataclasses
import math
from collections.abc import Generator
from typing import TypeAlias

from bluesky_autofocus.bands import BandEnergies
from bluesky_autofocus.records import Reason

__all__ = ["Conclusion", "Sample", "Search"]


@dataclasses.dataclass(frozen=True)
class Sample:
    """One exposure as a search sees it.

    Parameters
    ----------
    position_um : float
        Where the axis stood, read back.
    score : float
        Sharpness; larger is sharper.
    bands : BandEnergies, optional
        Contrast in each octave, where the analysis measures it.
    reason : Reason
        Why the frame cannot be used, where it cannot: then it has no score. Only searches that say so are
        told of such frames.
    """

    position_um: float
    score: float
    bands: BandEnergies | None = None
    reason: Reason = Reason.OK

    @property
    def usable(self) -> bool:
        """Whether it has a score."""
        return self.reason is Reason.OK


@dataclasses.dataclass(frozen=True)
class Conclusion:
    """Where a search puts the focus, or why it does not."""

    reason: Reason
    position_um: float = math.nan
    sigma_um: float = math.nan

    @property
    def found(self) -> bool:
        """Whether the position is to be believed."""
        return self.reason in (Reason.FOUND, Reason.HELD_BACK)


Search: TypeAlias = Generator[float, Sample, Conclusion]
"""A search yields positions in um, is sent a `Sample` for each, and returns a `Conclusion`.

It knows nothing of devices or messages, so it can be driven by a plan, by a test or over a table.
"""
