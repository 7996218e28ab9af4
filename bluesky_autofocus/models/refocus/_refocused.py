"""What refocusing gives: a frame that was computed, and how far to believe it."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.records import Reason

__all__ = ["Refocused", "Refocuser"]


@dataclasses.dataclass(frozen=True, eq=False)
class Refocused:
    """A frame that was made in-focus by computation.

    Parameters
    ----------
    frame : ndarray, shape (H, W) or (H, W, 3)
        Of the type and on the scale of the recorded frame. Where the frame was refused, a copy of it.
    sigma : ndarray of float32, the same shape
        Standard uncertainty of each pixel in grey levels; NaN where the method states none.
    defocus_um : float
        Distance from focus, without its sign, by which the result blurred again is most like the recorded
        frame; NaN where that was not looked at.
    mismatch : float
        How much then remains of the recorded frame that neither blur nor noise explains, as a share of the
        frame's contrast: what the method invented or lost.
    accepted : bool
        Whether the frame may be shown as one in focus.
    reason : Reason
        Why not, where it may not; ``still_sharp`` where it was in focus and is given back as it was.
    """

    frame: NDArray[Any]
    sigma: NDArray[np.float32]
    defocus_um: float
    mismatch: float
    accepted: bool = True
    reason: Reason = Reason.OK


class Refocuser(Protocol):
    """Whatever makes out-of-focus frames in-focus: a network, or a deconvolution."""

    @property
    def name(self) -> str:
        """For records and tables."""
        ...

    @property
    def model_hash(self) -> str:
        """Of a network's weights; empty where there are none."""
        ...

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What the result depends on, JSON-able."""
        ...

    def check_values(self, optics: Mapping[str, float]) -> None:
        """Make sure of those figures of the optics that are known, by their names in `LightOptics`.

        Raises
        ------
        ModelMismatchError
            Naming what differs from what the method is made for.
        """
        ...

    def refocus(self, frame: NDArray[Any]) -> Refocused:
        """Return the frame as it would look in focus.

        Raises
        ------
        ValueError
            If this is no frame that the method takes.
        """
        ...
