"""What an analysis says about one exposure, who labels it about a stack, and what a focusing concludes."""

import dataclasses
import math
from enum import StrEnum
from typing import Any

__all__ = ["CLASS_INDICES", "ClassLabel", "FocusLabel", "Reading", "Reason", "Verdict"]


class Reason(StrEnum):
    """Why a reading was accepted or not, and why a verdict is what it is.

    One enumeration for the whole package, so that a query over many runs can count the causes.
    """

    OK = "ok"
    """The reading can be used."""
    FOUND = "found"
    """A believable peak was found and the axis stands on it."""
    HELD_BACK = "held_back"
    """The focus was found, but farther away than a smooth correction may go: the axis stands as near to it as
    that allowed."""
    STILL_SHARP = "still_sharp"
    """The frame was as sharp as its baseline; nothing was moved."""
    TOO_SOON = "too_soon"
    """The frame is blurred, but the last focusing is too recent for another."""

    EDGE = "edge"
    """The sharpest position lies at the edge of what was searched: focus is probably beyond it."""
    FLAT = "flat"
    """The score hardly changes over the search."""
    SPIKE = "spike"
    """One exposure stands out alone where its neighbours, closer than a peak is wide, do not."""
    SEVERAL_PEAKS = "several_peaks"
    """The curve rises again away from its maximum."""
    SPECKS = "specks"
    """Nothing is in focus there but a few dark specks, which may be dust."""
    POOR_FIT = "poor_fit"
    """No peak of a believable width describes the scores."""
    UNCERTAIN = "uncertain"
    """There is a peak, but its position is not known to within a depth of field."""
    NOT_ENOUGH_POINTS = "not_enough_points"
    """Too few different positions were exposed to tell a peak from anything else."""
    WORSE_AFTERWARDS = "worse_afterwards"
    """The frame taken at the position found was not as sharp as the search had promised, or not nearer to
    focus than the one before the correction."""

    OUT_OF_RANGE = "out_of_range"
    """The defocus lies outside the range that the method can measure."""
    OUT_OF_REACH = "out_of_reach"
    """The correction would leave the travel range; that move was not made."""
    NOT_CONVERGED = "not_converged"
    """The budget was spent and the last exposure was still out of focus."""
    DOSE_SPENT = "dose_spent"
    """Another exposure would have cost the specimen more than the dose budget; it was not taken."""
    UNFAMILIAR = "unfamiliar"
    """The frame is unlike all that the model was trained on: other optics, light or specimen."""
    INVENTED = "invented"
    """What was computed from the frame does not, blurred again, give the frame: it has more, or less."""
    EMPTY = "empty"
    """There is no specimen in the field, or too little of it."""
    INCOMPLETE = "incomplete"
    """The method needs more frames than it has been given yet."""
    PRUNED = "pruned"
    """The frame was deleted to free disk space."""

    BLACK = "black"
    SATURATED = "saturated"
    UNIFORM = "uniform"
    NOT_FINITE = "not_finite"
    TORN = "torn"


@dataclasses.dataclass(frozen=True)
class Reading:
    """What an analysis concluded from the frame of one Event.

    Parameters
    ----------
    event_uid : str
        The Event whose frame was analysed.
    value : float
        Score, defocus or class, in `unit`. NaN where the frame could not be used.
    sigma : float
        Standard uncertainty of `value`, NaN where the method states none.
    unit : str
        Unit of `value`; empty for a score.
    accepted : bool
        Whether a plan may act upon `value`.
    reason : Reason
        Why not, where it is not accepted.
    seq_num : int
        Number of the Event in its stream: databroker finds Events by stream and number, not by uid.
    """

    event_uid: str
    value: float
    sigma: float = math.nan
    unit: str = ""
    accepted: bool = True
    reason: Reason = Reason.OK
    seq_num: int = 0

    @classmethod
    def refused(cls, reason: Reason, unit: str = "") -> "Reading":
        """Return the reading of a frame that cannot be used, with the reason."""
        return cls("", math.nan, unit=unit, accepted=False, reason=reason)

    def recorded(self) -> dict[str, Any]:
        """Return what is recorded of it, the same keys and types for all readings of an analysis.

        An analysis may have more to say of its frames than a value, and add that.
        """
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(Reading)}
        return {**fields, "reason": str(self.reason)}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a focusing operation concludes.

    Parameters
    ----------
    found : bool
        Whether `position_um` is to be believed. When False the axis is back where it started. When True it
        stands there, or, where the reason is ``held_back``, nearer to it than before.
    reason : Reason
        Why.
    position_um : float
        Position of focus along the axis. NaN where none was found.
    sigma_um : float
        Standard uncertainty of `position_um`.
    start_um : float
        Where the axis stood before.
    exposures : int
        Camera frames spent.
    dose : float
        Seconds of exposure spent, NaN where the camera does not say.
    method : str
        Name under which the stub is registered.
    model_hash : str
        Hash of the network's weights; empty where none took part.
    event_uids : tuple of str
        The Events the verdict rests on.
    parameters : dict
        Options of the operation, JSON-able, so that it can be repeated.
    """

    found: bool
    reason: Reason
    position_um: float
    sigma_um: float
    start_um: float
    exposures: int
    dose: float
    method: str
    model_hash: str = ""
    event_uids: tuple[str, ...] = ()
    parameters: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        """One line for a person."""
        spent = f"{self.exposures} exposure{'' if self.exposures == 1 else 's'}"
        if self.found:
            return (
                f"{self.method}: {self.reason} at {self.position_um:.3f} +- {self.sigma_um:.3f} um "
                f"({spent}, started at {self.start_um:.3f} um)"
            )
        return f"{self.method}: not found ({self.reason}), {spent}, back at {self.start_um:.3f} um"


@dataclasses.dataclass(frozen=True)
class FocusLabel:
    """Which plane of the focal stack of a field is in focus, as a person or a simulator says.

    Parameters
    ----------
    field : int
        Number of the field within its run.
    plane : int
        The plane nearest to focus, -1 where there is none.
    focus_um : float
        Position of focus along the axis. NaN where it is not known.
    usable : bool
        Whether the stack may be trained with and judged by.
    note : str
        Why not, or whatever else there is to say.
    """

    field: int
    plane: int
    focus_um: float
    usable: bool = True
    note: str = ""


CLASS_INDICES = range(-2, 5)
"""Distance indices of the classes of focus, from too close to totally blurred; 0 is in focus."""


@dataclasses.dataclass(frozen=True)
class ClassLabel:
    """Which class of focus one frame is of, as a person says who looked at it.

    Parameters
    ----------
    field : int
        Number of the field within its run.
    plane : int
        Which frame of the field.
    index : int or None
        Distance index of the class, one of `CLASS_INDICES`. None where the frame is not usable.
    usable : bool
        Whether the frame may be trained with and judged by.
    note : str
        Why not, or whatever else there is to say.
    """

    field: int
    plane: int
    index: int | None
    usable: bool = True
    note: str = ""
