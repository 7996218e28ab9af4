"""Decide before which exposures of a plan to focus: pure decisions, without messages."""

import abc
import dataclasses
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from bluesky.protocols import HasName

from bluesky_autofocus.plans._operation import check_positive
from bluesky_autofocus.plans._protocols import FocusAnalysis
from bluesky_autofocus.prediction import Predicted

__all__ = ["EveryExposures", "EverySeconds", "Farther", "FocusDue", "Since", "When"]


@dataclasses.dataclass(frozen=True)
class Since:
    """What a plan has done since it was last focused.

    Parameters
    ----------
    exposures : int
        How many it has taken since then, whether focus was found or not.
    seconds : float
        How long ago that was.
    at_um : mapping
        Where its axes are now.
    places_um : sequence of mapping
        Where they were when focus was last found, and when it was last looked for.
    found : bool
        Whether it has been found at all.
    scores : mapping
        By analysis, the sharpness of its exposures since focus was last found; the first is the baseline.
        Frames that cannot be used have none.
    predicted : Predicted, optional
        Where focus is expected now, if anybody predicts it.
    off_um : float
        How far from there the focus axis stands.
    """

    exposures: int
    seconds: float
    at_um: Mapping[HasName, float]
    places_um: Sequence[Mapping[HasName, float]]
    found: bool = True
    scores: Mapping[FocusAnalysis, Sequence[float]] = dataclasses.field(default_factory=dict)
    predicted: Predicted | None = None
    off_um: float = 0.0

    def moved_um(self, axes: Sequence[HasName]) -> float:
        """Return the distance along these axes from the nearer of the two places."""
        return min(
            math.hypot(*(self.at_um[axis] - place_um[axis] for axis in axes)) for place_um in self.places_um
        )


class When(abc.ABC):
    """Says before which exposures to focus; combined by ``|``, whichever comes first.

    The first exposure needs no condition: nobody has focused yet. Conditions hold no state, so one serves
    any number of plans.
    """

    axes: Sequence[HasName] = ()
    """What has to be read, in um, before each exposure."""
    analyses: Sequence[FocusAnalysis] = ()
    """What has to score the plan's own exposures."""
    foresees: bool = False
    """Whether somebody has to predict where focus is."""

    @property
    @abc.abstractmethod
    def parameters(self) -> list[dict[str, Any]]:
        """The conditions, of which one suffices, JSON-able, for the record."""

    @abc.abstractmethod
    def why(self, since: Since) -> str:
        """Return why it is time to focus, for the record; an empty string if it is not."""

    def __or__(self, other: "When") -> "When":
        return AnyOf((self, other)) if isinstance(other, When) else NotImplemented


@dataclasses.dataclass(frozen=True)
class EveryExposures(When):
    """Focus before the first of every `number` exposures.

    Raises
    ------
    ValueError
        If it is no positive whole number.
    """

    number: int

    def __post_init__(self) -> None:
        try:
            whole = operator.index(self.number)
        except TypeError:
            whole = 0
        if whole < 1:
            raise ValueError(f"expected a positive whole number of exposures, got {self.number!r}")

    @property
    def parameters(self) -> list[dict[str, Any]]:
        """The number."""
        return [{"exposures": int(self.number)}]

    def why(self, since: Since) -> str:
        """Count the exposures."""
        return f"{since.exposures} exposures" if since.exposures >= self.number else ""


@dataclasses.dataclass(frozen=True)
class EverySeconds(When):
    """Focus when the last focusing ended `seconds` ago.

    Raises
    ------
    ValueError
        If it is no positive, finite time.
    """

    seconds: float

    def __post_init__(self) -> None:
        check_positive("seconds", self.seconds)

    @property
    def parameters(self) -> list[dict[str, Any]]:
        """The time."""
        return [{"seconds": float(self.seconds)}]

    def why(self, since: Since) -> str:
        """Look at the time."""
        return f"{since.seconds:.4g} s" if since.seconds >= self.seconds else ""


@dataclasses.dataclass(frozen=True)
class Farther(When):
    """Focus when axes have moved farther than `um` from where focus was last found.

    Where it was looked for in vain since, they must have moved as far from there too: an empty field does
    not cost a search before each exposure next to it.

    Parameters
    ----------
    um : float
        Over which distance a focus holds.
    axes : sequence of HasName
        Those of the stage, in um, along which it is measured.

    Raises
    ------
    ValueError
        If the distance is not positive and finite, or there are no axes.
    """

    um: float
    axes: Sequence[HasName] = ()

    def __post_init__(self) -> None:
        check_positive("um", self.um)
        axes = self.axes if isinstance(self.axes, Sequence) else ()
        if not axes or not all(isinstance(axis, HasName) for axis in axes):
            raise ValueError(f"expected a sequence of one or more axes, got {self.axes!r}")

    @property
    def parameters(self) -> list[dict[str, Any]]:
        """The distance, and the names of the axes."""
        return [{"farther_um": float(self.um), "axes": [axis.name for axis in self.axes]}]

    def why(self, since: Since) -> str:
        """Measure the distance."""
        moved_um = since.moved_um(self.axes)
        # written so that a position that is not a number counts as far away
        return "" if moved_um <= self.um else f"moved {moved_um:.4g} um"


@dataclasses.dataclass(frozen=True)
class AnyOf(When):
    """Focus when one of several conditions says so; made by ``|``."""

    conditions: tuple[When, ...]

    @property
    def axes(self) -> Sequence[HasName]:  # pyright: ignore[reportIncompatibleVariableOverride] - derived
        """Those of all conditions."""
        return list(dict.fromkeys(axis for one in self.conditions for axis in one.axes))

    @property
    def analyses(self) -> Sequence[FocusAnalysis]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Those of all conditions."""
        return list(dict.fromkeys(analysis for one in self.conditions for analysis in one.analyses))

    @property
    def foresees(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether one of them needs a prediction."""
        return any(one.foresees for one in self.conditions)

    @property
    def parameters(self) -> list[dict[str, Any]]:
        """Those of all conditions."""
        return [entry for one in self.conditions for entry in one.parameters]

    def why(self, since: Since) -> str:
        """Return all the reasons there are."""
        return ", ".join(filter(None, (one.why(since) for one in self.conditions)))


class FocusDue:
    """Keeps account for one plan of when to focus next.

    Parameters
    ----------
    when : When
        The conditions.
    """

    def __init__(self, when: When) -> None:
        self.when = when
        self.forget()

    def forget(self) -> None:
        """Take in that nobody knows any more where the focus is."""
        self._exposures = 0
        self._focused_s = math.nan
        self._found_um: Mapping[HasName, float] | None = None
        self._tried_um: Mapping[HasName, float] | None = None
        self._scores: dict[FocusAnalysis, list[float]] = {}

    def why(
        self,
        now_s: float,
        at_um: Mapping[HasName, float],
        predicted: Predicted | None = None,
        off_um: float = 0.0,
    ) -> str:
        """Return why to focus before the next exposure; an empty string if it is not time.

        Parameters
        ----------
        now_s : float
            Time on a clock that is always the same.
        at_um : mapping
            Where the axes of `when` are.
        predicted : Predicted, optional
            Where focus is expected.
        off_um : float
            How far from there the focus axis stands.
        """
        places_um = [place_um for place_um in (self._found_um, self._tried_um) if place_um is not None]
        if not places_um:
            return "not focused yet"
        since = Since(
            exposures=self._exposures,
            seconds=now_s - self._focused_s,
            at_um=at_um,
            places_um=places_um,
            found=self._found_um is not None,
            scores=self._scores,
            predicted=predicted,
            off_um=off_um,
        )
        return self.when.why(since)

    def focused(self, found: bool, now_s: float, at_um: Mapping[HasName, float]) -> None:
        """Take in that focusing has ended, whether it was found, when and where."""
        self._exposures, self._focused_s = 0, now_s
        self._tried_um = at_um
        if found:
            self._found_um = at_um
            self._scores = {}

    def scored(self, analysis: FocusAnalysis, score: float) -> None:
        """Take in how sharp the newest exposure is; NaN where nobody can tell."""
        if self._found_um is not None and not math.isnan(score):
            self._scores.setdefault(analysis, []).append(score)

    def exposed(self) -> None:
        """Take in that an exposure is taken."""
        self._exposures += 1
