"""Visit a tile: go there, focus if it must be, expose, see whether that was in focus, and say so."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

from bluesky import plan_stubs as bps
from bluesky.protocols import Readable
from bluesky.utils import MsgGenerator

from bluesky_autofocus.plans._exposing import _record
from bluesky_autofocus.plans._moving import Travel
from bluesky_autofocus.plans._operation import put_back_all
from bluesky_autofocus.plans._tiling._care import Care
from bluesky_autofocus.plans._tiling._focusing import Focusing
from bluesky_autofocus.plans._tiling._forecast import Forecast, Foreseen, Source
from bluesky_autofocus.plans._tiling._records import (
    SKIPPED,
    Aim,
    RecordedFocusing,
    RecordedTile,
    Visit,
    Visited,
)
from bluesky_autofocus.plans._tiling._taking import Taken, Taking, within
from bluesky_autofocus.plans._tiling._tiles import Tile
from bluesky_autofocus.plans._wrapper import FocusNotFoundError
from bluesky_autofocus.records import Reason, Verdict
from bluesky_autofocus.search import Conclusion

__all__ = ["Visits"]

TRANSIENT = (Reason.BLACK, Reason.SATURATED, Reason.NOT_FINITE, Reason.TORN)
"""What a lamp or a camera does now and then: such a frame is taken once more, unless that was in vain the
last time. A uniform one may be an empty field."""

NOTHING_THERE = (Reason.EMPTY, Reason.BLACK, Reason.UNIFORM, Reason.FLAT)
"""What is said of a field in which there is nothing to be seen. Where focus is foreseen looking wider would
show no more, and a frame of it looks blurred."""

BLURRED = "blurred"
"""Why to focus, where the frames of a tile say so."""

JUMPED = "whether focus has jumped"
"""Why to focus at a tile where it is known, when some others say otherwise."""

Again: TypeAlias = tuple[Visit, int]
"""A tile that is to be visited again, and the number of the frames then: those of the last attempt count."""

CERTAIN_SIGMAS = 3.0
"""A method that states no uncertainty is taken to be right to a depth of field, in so many standard
deviations: the searches conclude nothing that is less certain."""


@dataclasses.dataclass
class Visits:
    """Visits tiles, in an open run.

    Parameters
    ----------
    taking : Taking
        Takes the frames.
    sideways : sequence of Travel
        Moves of the stage; nothing where it stays.
    focusing : Focusing
        Makes the stubs that focus.
    on_failure : sequence of str
        What to do where focus is not found: ``wider`` first, if at all, then one of the other policies.
    forecast : Forecast
        Says where focus is expected.
    care_of : callable
        ``care_of(tile)`` decides for it when to focus.
    depth_of_field_um : float
    temperature : Readable or None
        What tells the temperature by which focus drifts, if any.
    now_s : callable
        Time of the session's clock.
    dry_run : bool
        Whether nobody carries the messages out.
    """

    taking: Taking
    sideways: Sequence[Travel]
    focusing: Focusing
    on_failure: Sequence[str]
    forecast: Forecast
    care_of: Callable[[Tile], Care]
    depth_of_field_um: float
    temperature: Readable | None
    now_s: Callable[[], float]
    dry_run: bool

    def __post_init__(self) -> None:
        self.visited = Visited()
        self._travel = self.taking.travel
        self._here: Tile | None = None
        self._again: list[Again] = []
        self._suspects: list[_Exposed] = []
        self._doubted: list[_Exposed] = []
        self._refereed = False
        self._temperature_c: float | None = None

    def put_back(self) -> MsgGenerator[None]:
        """Let light, axis and stage be as they were; to be repeated if it fails half way."""
        lighting = self.taking.lighting
        yield from put_back_all(
            [] if lighting is None else [lighting.put_back],
            [moves.undo for moves in (self._travel, *self.sideways)],
        )

    # One tile

    def visit(self, visit: Visit, attempt: int = 0) -> MsgGenerator[list[Again]]:
        """Visit a tile; return those before it that are to be visited again, since focus had been lost there.

        Parameters
        ----------
        visit : Visit
        attempt : int
            Number of its frames: those of the last attempt count. Above 0 it is visited again.

        Raises
        ------
        FocusNotFoundError
            If it was not found, and the policy is to stop.
        """
        self._again = []
        yield from self._settle(visit)
        yield from self.go_to(visit)
        care, spent = self.care_of(visit.tile), self.visited.exposures
        foreseen = yield from self.foreseen(visit)
        why = care.why(foreseen, self.now_s())
        aim: Aim | None = Aim.at(foreseen, reason=care.failure, marked=not care.sure(foreseen))
        if why:
            aim = yield from self.focus(visit, foreseen, why)
        if aim is None:
            skipped = dataclasses.replace(SKIPPED, reason=care.failure)
            yield from self._complete(visit, _Outcome(skipped, attempt), 0, spent)
            return self._again
        aim, taken = yield from self._taken(visit, aim, attempt)
        outcome = yield from self._checked(visit, aim, taken, first=attempt == 0)
        self._consider(visit, outcome, first=attempt == 0)
        yield from self._complete(visit, outcome, self.taking.frames, spent)
        return self._again

    def open_questions(self) -> list[Again]:
        """Return the tiles of which nothing later told whether they are in focus; each of them once."""
        exposed, self._doubted, self._suspects = [*self._doubted, *self._suspects], [], []
        return [one.again for one in exposed]

    def _consider(self, visit: Visit, outcome: "_Outcome", *, first: bool) -> None:
        """Keep in mind a focus that is not believed yet; if it turns out wrong its tile is visited again."""
        if outcome.aim.source is not Source.FOCUSED:
            return
        if self.forecast.doubt(visit.tile):
            if first:  # where it is wrong again and again there is no end to it
                self._doubted.append(_Exposed(visit, outcome.aim.position_um, outcome.attempt))
            return
        self._refereed = False
        for one in self._doubted:
            foreseen = self.forecast.predict(one.visit.tile, self.now_s(), self._temperature_c)
            if abs(foreseen.position_um - one.position_um) > self.depth_of_field_um:
                self._again.append(one.again)
        self._doubted = []

    def _settle(self, visit: Visit) -> MsgGenerator[None]:
        """Focus where focus is known, if that tells what to think of the tiles before: once."""
        referee = self.forecast.referee()
        if referee is None or self._refereed:
            return
        self._refereed = True
        there = dataclasses.replace(visit, tile=referee)
        yield from self.go_to(there)
        aim = yield from self.focus(there, (yield from self.foreseen(there)), JUMPED)
        if aim is not None:
            self._consider(there, _Outcome(aim, 0), first=False)

    def go_to(self, visit: Visit) -> MsgGenerator[None]:
        """Bring a tile under the objective."""
        if visit.tile == self._here:
            return
        self._here = None
        for moves, position_um in zip(self.sideways, (visit.tile.x_um, visit.tile.y_um), strict=False):
            yield from moves.to(position_um)
        self._here = visit.tile

    def foreseen(self, visit: Visit) -> MsgGenerator[Foreseen]:
        """Return where focus is expected, or where the axis is; nowhere that the axis may not go."""
        if self.temperature is not None:
            self._temperature_c = yield from bps.rd(self.temperature, default_value=None)
        foreseen = self.forecast.predict(visit.tile, self.now_s(), self._temperature_c)
        if math.isnan(foreseen.position_um):
            at_um = yield from bps.rd(self._travel.axis, default_value=self._travel.start_um)
            return dataclasses.replace(foreseen, position_um=within(self._travel, at_um))
        within_um = within(self._travel, foreseen.position_um)
        if within_um != foreseen.position_um:
            return dataclasses.replace(
                foreseen, position_um=within_um, sigma_um=math.nan, reason=str(Reason.OUT_OF_REACH)
            )
        return foreseen

    def _complete(self, visit: Visit, outcome: "_Outcome", frames: int, spent: int) -> MsgGenerator[None]:
        """Record that a tile is done with, and how."""
        done = RecordedTile(
            visit,
            outcome.aim,
            frames=frames,
            attempt=outcome.attempt,
            blurred=outcome.blurred,
            exposures=self.visited.exposures - spent,
            time_s=self.now_s(),
        )
        yield from _record(done, "tile")
        yield from bps.checkpoint()
        self.visited = self.visited.plus(
            tiles=1, marked=int(outcome.aim.marked), skipped=int(frames == 0), frames=frames
        )

    # Focusing

    def focus(self, visit: Visit, foreseen: Foreseen, why: str) -> MsgGenerator[Aim | None]:
        """Look for the focus, and if it is not found do what the policy says.

        Returns
        -------
        Aim or None
            Where to expose; None for not at all.

        Raises
        ------
        FocusNotFoundError
            If the policy is to stop.
        """
        care = self.care_of(visit.tile)
        verdict = yield from self._look(visit, foreseen, why, wider=False)
        for policy in self.on_failure:
            nothing = (foreseen.known or why == BLURRED) and verdict.reason in NOTHING_THERE
            if verdict.found or nothing or policy != "wider":
                break
            verdict = yield from self._look(visit, foreseen, f"not found: {verdict.reason}", wider=True)
        care.focused(verdict.found, self.now_s(), str(verdict.reason))
        if verdict.found:
            return Aim(
                verdict.position_um,
                verdict.sigma_um,
                Source.FOCUSED,
                str(verdict.reason),
                marked=bool(self.forecast.doubt(visit.tile)),
            )
        match self.on_failure[-1]:
            case "stop":
                raise FocusNotFoundError(verdict)
            case "mark":
                return None
        return Aim.at(foreseen, reason=str(verdict.reason), marked=not care.sure(foreseen))

    def _look(self, visit: Visit, foreseen: Foreseen, why: str, *, wider: bool) -> MsgGenerator[Verdict]:
        """Focus once, record what came of it, and tell the forecast."""
        if self.taking.lighting is not None:
            yield from self.taking.lighting.show(self.taking.channels[0])
        yield from self._travel.to(foreseen.position_um)
        verdict = yield from self.focusing.stub(foreseen.position_um, foreseen.sigma_um, wider=wider)
        self._travel.ran()
        if self.dry_run:  # which finds nothing, and is to show the plan as it goes when all is well
            verdict = dataclasses.replace(
                verdict, found=True, reason=Reason.FOUND, position_um=foreseen.position_um
            )
        if verdict.found and math.isnan(verdict.sigma_um):
            # one that states no uncertainty is believed as far as found may be wrong
            verdict = dataclasses.replace(verdict, sigma_um=self.depth_of_field_um / CERTAIN_SIGMAS)
        self.visited = self.visited.plus(focusings=1, exposures=verdict.exposures)
        yield from self._learn(visit, verdict, why)
        return verdict

    def _learn(self, visit: Visit, verdict: Verdict, why: str) -> MsgGenerator[None]:
        """Tell the forecast of a verdict, and record it with the tile."""
        now_s = self.now_s()
        if verdict.found:
            self.forecast.focused(
                visit.tile, now_s, verdict.position_um, verdict.sigma_um, self._temperature_c
            )
        drift_um = self.forecast.predict(visit.tile, now_s, self._temperature_c).drift_um
        focusing = RecordedFocusing(visit, verdict, why=why, drift_um=drift_um, time_s=now_s)
        yield from _record(focusing, "tile_focus")
        yield from bps.checkpoint()

    # What the frames of a tile tell of its focus

    def _checked(self, visit: Visit, aim: Aim, taken: Taken, *, first: bool) -> MsgGenerator["_Outcome"]:
        """See by the frames of a tile whether they are in focus; if focus was lost look for it."""
        outcome = _Outcome(aim, taken.attempt)
        if taken.score is None:
            return outcome
        stack = taken.conclusion(self.depth_of_field_um)
        if stack is not None and stack.found:
            yield from self._learn_from(visit, stack)
            return outcome
        care = self.care_of(visit.tile)
        in_focus = aim.source is Source.FOCUSED
        blurred, lost = care.seen(taken.score, self.now_s(), in_focus=in_focus)
        if stack is not None and stack.reason is Reason.EDGE and not in_focus:
            blurred = lost = True
        if not lost:
            # a blurred frame where focus was not found last is vouched for by nobody
            aim = dataclasses.replace(aim, marked=aim.marked or bool(blurred and care.failure))
            if not blurred:
                self._suspects = []
            elif first and not aim.marked:
                self._suspects.append(_Exposed(visit, aim.position_um, taken.attempt))
            return dataclasses.replace(outcome, aim=aim, blurred=blurred)
        return (yield from self._recovered(visit, aim, taken))

    def _learn_from(self, visit: Visit, stack: Conclusion) -> MsgGenerator[None]:
        """Take in where focus is by a tile's own stack, which costs nothing."""
        verdict = Verdict(
            found=True,
            reason=stack.reason,
            position_um=stack.position_um,
            sigma_um=stack.sigma_um,
            start_um=math.nan,
            exposures=0,
            dose=0.0,
            method="stack",
        )
        self._suspects = []
        self.care_of(visit.tile).focused(True, self.now_s())
        yield from self._learn(visit, verdict, "its own stack")

    def _recovered(self, visit: Visit, aim: Aim, taken: Taken) -> MsgGenerator["_Outcome"]:
        """Look for a focus that was lost, and expose the tile again if it is elsewhere."""
        # what was exposed before it with blurred frames is judged when it is known whether focus has jumped
        self._doubted, self._suspects = [*self._doubted, *self._suspects], []
        care = self.care_of(visit.tile)
        # where it was expected is where it is not
        foreseen = dataclasses.replace((yield from self.foreseen(visit)), sigma_um=math.nan)
        found = yield from self.focus(visit, foreseen, BLURRED)
        if found is None or found.source is not Source.FOCUSED:
            return _Outcome(dataclasses.replace(aim, reason=care.failure, marked=True), taken.attempt, True)
        if abs(found.position_um - aim.position_um) <= self.depth_of_field_um / 2:
            # there is no more detail here: this is what in focus looks like
            care.seen(taken.score or 0.0, self.now_s(), in_focus=True)
            return _Outcome(dataclasses.replace(aim, reason=found.reason, marked=False), taken.attempt)
        self.forecast.confirmed(
            visit.tile, self.now_s(), found.position_um, found.sigma_um, self._temperature_c
        )
        found = dataclasses.replace(found, marked=bool(self.forecast.doubt(visit.tile)))
        self.visited = self.visited.plus(exposures=self.taking.frames)
        found, taken = yield from self._taken(visit, found, taken.attempt + 1)
        if taken.score is not None:
            care.seen(taken.score, self.now_s(), in_focus=True)
        return _Outcome(found, taken.attempt)

    def _taken(self, visit: Visit, aim: Aim, attempt: int) -> MsgGenerator[tuple[Aim, Taken]]:
        """Take the frames of a tile, once more where lamp or camera failed; mark it where that is no help."""
        care = self.care_of(visit.tile)
        taken = yield from self.taking.take(visit, aim, attempt)
        if taken.reason in TRANSIENT and not care.dark:
            self.visited = self.visited.plus(exposures=self.taking.frames)
            taken = yield from self.taking.take(visit, aim, taken.attempt + 1)
        care.dark = taken.reason in TRANSIENT
        if care.dark:
            aim = dataclasses.replace(aim, reason=str(taken.reason), marked=True)
        return aim, taken


@dataclasses.dataclass(frozen=True)
class _Exposed:
    """A tile that was exposed where focus may turn out not to be.

    Parameters
    ----------
    visit : Visit
    position_um : float
        Where it was exposed.
    attempt : int
        Number of those frames.
    """

    visit: Visit
    position_um: float
    attempt: int

    @property
    def again(self) -> Again:
        """What to visit, and the number of the frames then."""
        return self.visit, self.attempt + 1


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """How a visit ended, by the frames of it that count."""

    aim: Aim
    attempt: int
    blurred: bool = False
