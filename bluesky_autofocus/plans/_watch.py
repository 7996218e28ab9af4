"""Follow a plan by its messages: where exposures begin, and what leaves no place before them."""

from typing import Any, TypeVar

from bluesky import preprocessors as bpp
from bluesky.protocols import HasName
from bluesky.utils import Msg, MsgGenerator, single_gen

from bluesky_autofocus.plans._protocols import Detectors, FocusAxis, RunningAxis

__all__ = ["PlanConflictError", "Watch"]

_T = TypeVar("_T")


class PlanConflictError(ValueError):
    """A plan does what leaves no place to focus in it."""


class Watch:
    """Follow by its messages what a plan does, and see its exposures coming.

    Parameters
    ----------
    detectors : sequence of Readable
        Whose exposures.
    axis : FocusAxis
        That the plan is not to move.

    Attributes
    ----------
    dry_run : bool
        Whether nobody carries the messages out.
    seen : int
        How many exposures there were.
    exposed : tuple or None
        Run and stream of the newest exposure; None where that run is closed.
    """

    def __init__(self, detectors: Detectors, axis: FocusAxis) -> None:
        self.dry_run = False
        self.seen = 0
        self.exposed: tuple[Any, str] | None = None
        self._detectors = detectors
        self._axis = axis
        self._exposures: dict[Any, int] = {}  # of each run that is open
        self._bundles: dict[Any, str] = {}  # streams of Events that are being put together, by run
        self._exposing: set[Any] = set()  # runs in which an exposure has begun
        self._triggered: list[str] = []  # what else, since the last Event or checkpoint
        self._targets: dict[Any, Any] = {}
        self._rewindable = True

    def begins_exposure(self, msg: Msg) -> bool:
        """Return whether a message is the first of an exposure in an open run."""
        return (
            msg.command == "trigger"
            and any(msg.obj is detector for detector in self._detectors)
            and msg.run in self._exposures
            and msg.run not in self._exposing
        )

    def moves_focus(self, msg: Msg) -> bool:
        """Return whether a message moves the focus axis."""
        running = isinstance(self._axis, RunningAxis) and msg.obj is self._axis.velocity
        return msg.command == "set" and (msg.obj is self._axis or running)

    def number(self, msg: Msg) -> int:
        """Return which exposure of its run a message begins, from 1."""
        return self._exposures[msg.run] + 1

    def target_um(self, axis: HasName) -> float:
        """Return where an axis was sent last, for want of anything better."""
        return self._targets.get(axis, 0.0)

    def refuse(self, msg: Msg) -> None:
        """Raise a PlanConflictError if a message leaves no place to focus."""
        if self.moves_focus(msg) and self._exposures:
            raise PlanConflictError(
                f"the plan sets {msg.obj.name} in its run, which focusing moves too: one would undo what the "
                "other did. Move it before the run opens, or leave the focusing to the plan"
            )
        if not self.begins_exposure(msg):
            return
        if self._bundles:
            raise PlanConflictError(
                f"{msg.obj.name} is triggered between `create` and `save`, where there is no focusing: "
                "trigger it before `create`, as bluesky.plan_stubs.trigger_and_read does"
            )
        if self._triggered:
            raise PlanConflictError(
                f"{', '.join(self._triggered)} triggered before {msg.obj.name} for the same exposure: "
                "focusing would come in between. Name all of them in `detectors`, or trigger them later"
            )

    def in_place_of(self, msg: Msg, stub: MsgGenerator[_T]) -> MsgGenerator[_T]:
        """Let a stub run as if it had been written where a message is."""
        if msg.run is not None:
            stub = bpp.set_run_key_wrapper(stub, msg.run)
        if self._rewindable:
            return (yield from stub)
        # the plan's detectors cannot be triggered again after a pause; a move of the search must be
        yield Msg("rewindable", None, True)
        return (yield from bpp.finalize_wrapper(stub, lambda: single_gen(Msg("rewindable", None, False))))

    def done(self, msg: Msg, answer: Any) -> None:
        """Take in that a message has been carried out."""
        match msg.command:
            case "open_run":
                self._exposures[msg.run] = 0
                self.dry_run = answer is None
            case "close_run":
                self._exposures.pop(msg.run, None)
                self._ended(msg.run)
                if self.exposed is not None and self.exposed[0] == msg.run:
                    self.exposed = None
            case "create":
                self._bundles[msg.run] = msg.kwargs.get("name") or (msg.args[0] if msg.args else "primary")
            case "save" | "drop":
                if msg.command == "save" and msg.run in self._exposing and msg.run in self._bundles:
                    self.exposed = (msg.run, self._bundles[msg.run])
                self._ended(msg.run)
            case "checkpoint":
                self._exposing.clear()
                self._triggered.clear()
            case "trigger" if self.begins_exposure(msg):
                self.seen += 1
                self._exposures[msg.run] += 1
                self._exposing.add(msg.run)
            case "trigger" if msg.run in self._exposures and msg.run not in self._exposing:
                self._triggered.append(msg.obj.name)
            case "set":
                self._targets[msg.obj] = msg.args[0]
            case "rewindable" if msg.args[0] is not None:
                self._rewindable = msg.args[0]

    def _ended(self, run: Any) -> None:
        self._bundles.pop(run, None)
        self._exposing.discard(run)
        self._triggered.clear()
