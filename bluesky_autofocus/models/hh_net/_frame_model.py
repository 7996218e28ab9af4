"""What networks that tell the class of focus share: which frames they take, and what they answer."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.models._model import TolerantModel
from bluesky_autofocus.models.card import ModelCard
from bluesky_autofocus.models.hh_net.classes import INDICES, ClassTable, name_of
from bluesky_autofocus.models.hh_net.features import EmptyRegionError
from bluesky_autofocus.models.hh_net.patches import GREY, as_colour, coarse_of, patches_of, problem_of
from bluesky_autofocus.models.hh_net.voting import WAYS, certainty, winner
from bluesky_autofocus.records import Reason

__all__ = ["ClassEstimate", "FrameModel"]


@dataclasses.dataclass(frozen=True)
class ClassEstimate:
    """What a model makes of a frame.

    Parameters
    ----------
    index : int or None
        Distance index of the class, 4 to -2. None where the frame was refused unseen.
    name : str
        Of the class.
    probabilities : tuple of float
        Of the classes, index 4 first.
    certainty : float
        Of these, from 0 to 1.
    expected_index : float
        Mean index by the probabilities.
    sigma_index : float
        Deviation of the index by the probabilities.
    defocus_um : float
        Image plane minus focus: the mean of the patches, each weighted by how well it knows.
    sigma_um : float
        Its standard uncertainty.
    measured : bool
        Whether the defocus is a measured one. It is not beyond the bins, where only the side is known.
    patches : int
        How many were looked at.
    accepted : bool
        Whether the figures are to be believed.
    reason : Reason
        Why not, where they are not.
    """

    index: int | None
    name: str
    probabilities: tuple[float, ...]
    certainty: float
    expected_index: float
    sigma_index: float
    defocus_um: float
    sigma_um: float
    measured: bool
    patches: int
    accepted: bool = True
    reason: Reason = Reason.OK

    @classmethod
    def voted(
        cls,
        p: NDArray[np.floating],
        *,
        defocus_um: float,
        sigma_um: float,
        measured: bool,
        patches: int,
        reason: Reason = Reason.OK,
    ) -> "ClassEstimate":
        """Return the estimate that follows from the probabilities of the classes, shape (7,)."""
        number, index = int(winner(p)), np.array(INDICES)
        expected = float(p @ index)
        return cls(
            index=INDICES[number],
            name=name_of(INDICES[number]),
            probabilities=tuple(map(float, p)),
            certainty=float(certainty(p)),
            expected_index=expected,
            sigma_index=math.sqrt(p @ (index - expected) ** 2),
            defocus_um=defocus_um,
            sigma_um=sigma_um,
            measured=measured,
            patches=patches,
            accepted=reason is Reason.OK,
            reason=reason,
        )

    @classmethod
    def refused(cls, reason: Reason) -> "ClassEstimate":
        """Return the estimate that is none, with the reason."""
        nan = math.nan
        return cls(None, "", (), nan, nan, nan, nan, nan, False, 0, False, reason)


class FrameModel(TolerantModel):
    """A network that tells which class of focus a colour frame belongs to.

    What it makes of a usable frame, and the side of its patches, subclasses say.

    Parameters
    ----------
    card, arrays
        As for `Model`; ``architecture_parameters`` has ``classes`` (a `ClassTable` as dict).
    """

    patch_px: int

    def __init__(self, card: ModelCard, arrays: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(card, arrays)
        with self._complete():
            self.table = ClassTable.from_dict(card.architecture_parameters["classes"])
        self._vote, self._grey = "certainty", "refuse"

    @property
    def parameters(self) -> dict[str, Any]:
        """What the estimates depend on, JSON-able."""
        return {**super().parameters, "vote": self.vote, "grey": self.grey}

    @property
    def vote(self) -> str:
        """How patches vote: "hard", "linear" or, by default, "certainty"."""
        return self._vote

    @vote.setter
    def vote(self, way: str) -> None:
        if way not in WAYS:
            raise ValueError(f"vote is {way!r}: expected one of {', '.join(WAYS)}")
        self._vote = way

    @property
    def grey(self) -> str:
        """What is done with a grey frame: by default "refuse"; "repeat" takes it for one of colours."""
        return self._grey

    @grey.setter
    def grey(self, what: str) -> None:
        if what not in GREY:
            raise ValueError(f"grey is {what!r}: expected one of {', '.join(GREY)}")
        self._grey = what

    def estimate(self, frame: NDArray[Any]) -> ClassEstimate:
        """Return the class and the defocus of a frame, and whether to believe them.

        Parameters
        ----------
        frame : ndarray of uint8, shape (H, W, 3)
            RGB as the camera gave it.

        Raises
        ------
        ValueError
            If it is not one frame of colours, or smaller than a patch.
        """
        colour = as_colour(frame, self.grey)
        corners = patches_of(colour, self.patch_px)  # refuses frames that are too small
        coarse = coarse_of(colour)
        problem = problem_of(colour, coarse, self.full_scale)
        if problem is not None:
            return ClassEstimate.refused(problem)
        try:
            return self._estimate_of(colour, coarse, corners)
        except EmptyRegionError:
            return ClassEstimate.refused(Reason.EMPTY)

    def _estimate_of(
        self, colour: NDArray[np.uint8], coarse: NDArray[np.uint8], corners: NDArray[np.intp]
    ) -> ClassEstimate:
        """Return what the network makes of a usable frame, by what `coarse_of` and `patches_of` gave."""
        raise NotImplementedError
