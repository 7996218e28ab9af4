"""What an estimator of defocus is, and what it says of a frame."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from bluesky_autofocus.leds import Single
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.records import Reason

__all__ = ["DefocusEstimate", "DefocusEstimator", "ModelMismatchError"]


class ModelMismatchError(ValueError):
    """An estimator was given frames of other optics, LEDs, pixel size or binning than it was made for."""


@dataclasses.dataclass(frozen=True)
class DefocusEstimate:
    """How far the image plane is from focus.

    Parameters
    ----------
    defocus_um : float
        Position of the image plane minus that of focus. NaN where the frames were refused.
    sigma_um : float
        Its standard uncertainty. NaN where the frames were refused.
    accepted : bool
        Whether the figures are to be believed.
    reason : Reason
        Why not, where they are not.
    """

    defocus_um: float
    sigma_um: float
    accepted: bool = True
    reason: Reason = Reason.OK

    @classmethod
    def refused(cls, reason: Reason) -> "DefocusEstimate":
        """Return the estimate that is none, with the reason."""
        return cls(math.nan, math.nan, False, reason)


@runtime_checkable
class DefocusEstimator(Protocol):
    """Tells the defocus from frames under off-axis LEDs, one frame for each of `leds`.

    Attributes
    ----------
    leds : sequence of Single
        Under which frames it wants, in the order in which `estimate` takes them, in frame axes.
    frames_needed : int
        How many: ``len(leds)``.
    parameters : dict
        What its estimates depend on, JSON-able.
    model_hash : str
        Of the network's weights; empty where there are none.
    range_um : float
        Defocus to either side that it can measure: it refuses what it takes to be further away.
    """

    @property
    def leds(self) -> Sequence[Single]: ...  # noqa: D102 - told above

    @property
    def frames_needed(self) -> int: ...  # noqa: D102

    @property
    def parameters(self) -> dict[str, Any]: ...  # noqa: D102

    @property
    def model_hash(self) -> str: ...  # noqa: D102

    @property
    def range_um(self) -> float: ...  # noqa: D102

    def estimate(self, *frames: np.ndarray) -> DefocusEstimate:
        """Return the defocus from frames of shape (H, W), grey levels as the camera gave them."""
        ...

    def check(self, optics: LightOptics, na_xy_list: Sequence[tuple[float, float]]) -> None:
        """Make sure that frames of these optics, under LEDs from these directions, are what it is made for.

        Parameters
        ----------
        optics : LightOptics
            As recorded with the frames.
        na_xy_list : sequence of tuple of float
            The direction (x, y) of the light of each frame, in frame axes, in the order of `leds`.

        Raises
        ------
        ModelMismatchError
            Naming what differs, what it is, and what was expected.
        """
        ...
