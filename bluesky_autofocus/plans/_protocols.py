"""What plans expect of the things they are handed. No concrete device or callback is imported by a plan."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

from bluesky.protocols import HasName, Movable, Readable
from bluesky.utils import MsgGenerator

from bluesky_autofocus.leds import Pattern, Single
from bluesky_autofocus.records import Reading, Verdict

__all__ = [
    "DefocusAnalysis",
    "FocusAnalysis",
    "FocusAxis",
    "FocusStub",
    "PairAnalysis",
    "PatternLight",
    "RunningAxis",
    "ScanAnalysis",
]


@runtime_checkable
class FocusAnalysis(HasName, Protocol):
    """A document callback that turns the frame of an Event into a reading."""

    @property
    def model_hash(self) -> str:
        """Hash of the network's weights; empty where there is none."""
        ...

    @property
    def parameters(self) -> dict[str, Any]:
        """What the readings depend on, JSON-able."""
        ...

    def require_open_run(self) -> None:
        """Raise unless the documents of an open run arrive here."""
        ...

    def settled(self, stream: str) -> Awaitable[None]:
        """Wait until the newest reading of a stream is there."""
        ...

    def reading(self, stream: str) -> Reading:
        """Return the newest reading of a stream, or raise."""
        ...


@runtime_checkable
class DefocusAnalysis(FocusAnalysis, Protocol):
    """An analysis whose reading is the defocus in um, of frames under LEDs that it names."""

    @property
    def leds(self) -> Sequence[Single]:
        """The LED of each frame that one reading takes, in the order in which they are best exposed."""
        ...

    @property
    def range_um(self) -> float:
        """Largest defocus, to either side, that it can measure."""
        ...


@runtime_checkable
class ScanAnalysis(FocusAnalysis, Protocol):
    """An analysis that compares the planes of a scan: its reading is the defocus in um of the last one."""

    def check_scan(self, spacing_um: float, planes: int) -> None:
        """Raise a ValueError unless it knows scans of that many planes so far apart."""
        ...


@runtime_checkable
class PairAnalysis(FocusAnalysis, Protocol):
    """An analysis that compares two frames some way apart: its reading is the defocus in um of the second.

    Where it tells the astigmatism, its readings have that too: ``straight_um``, ``diagonal_um`` and their
    ``*_sigma_um``, distances of the line foci along 0/90 and 45/135 degrees of the frame.
    """

    @property
    def astigmatism(self) -> bool:
        """Whether it tells the astigmatism."""
        ...

    @property
    def range_dof(self) -> float:
        """Largest defocus, to either side, that it can measure, in depths of field."""
        ...


@runtime_checkable
class FocusAxis(Readable, Movable[float], Protocol):
    """Anything readable and movable that changes focus, in um."""


@runtime_checkable
class RunningAxis(FocusAxis, Protocol):
    """An axis with a velocity mode.

    Setting its `velocity` runs it, in um/s, and changes the speed of a run under way; setting 0 stops it, and
    is done when it stands. ``stop()`` stops a run too. It comes to rest within its own limits. The velocity
    of other axes is that of their moves: it is `run` by which this kind is told.
    """

    def run(self, velocity_um_s: float) -> None:
        """Run at a velocity; plans set `velocity` instead."""
        ...

    @property
    def velocity(self) -> Any:
        """What is set to a velocity in um/s, and read; its ``stop()``, which a pause calls, stops the run."""
        ...


@runtime_checkable
class PatternLight(Readable, Movable[Pattern | str], Protocol):
    """An illumination that is set to a pattern, or to its text, and reads back the text.

    As `bluesky.plan_stubs.rd` reads it: one hinted key, whose value it can be set to again.
    """


FocusStub: TypeAlias = Callable[..., MsgGenerator[Verdict]]
"""``stub(detectors, axis, *, analysis, ...)``: focus within the run that is open, return the verdict."""

Detectors: TypeAlias = Sequence[Readable]
