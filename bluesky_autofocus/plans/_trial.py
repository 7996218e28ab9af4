"""Try devices one by one: what fails is noted down, and the rest tried all the same."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, cast, runtime_checkable
from uuid import uuid4

from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.protocols import Movable, Readable, Triggerable
from bluesky.run_engine import WaitForTimeoutError
from bluesky.utils import (
    FailedStatus,
    Msg,
    MsgGenerator,
    RunEngineControlException,
    root_ancestor,
    separate_devices,
)

from bluesky_autofocus.clock import Clock
from bluesky_autofocus.commissioning import CheckReport, FrameStatistics, Measured, Move, Problem, Read, Shot
from bluesky_autofocus.plans._exposing import (
    _exposure_s,
    _Record,
    _record,
    _RecordedReading,
    position_in,
    wait_reading,
)
from bluesky_autofocus.plans._lighting import Lighting
from bluesky_autofocus.plans._moving import Approach, Travel
from bluesky_autofocus.plans._operation import put_back_all
from bluesky_autofocus.plans._protocols import Detectors, FocusAnalysis, FocusAxis, PatternLight
from bluesky_autofocus.plans._tiling._time_lapse import _reached

__all__ = ["CheckingAnalysis", "Trial", "exposure_time_of", "is_settable", "with_timeout"]

STREAM = "check"


@runtime_checkable
class CheckingAnalysis(FocusAnalysis, Protocol):
    """An analysis whose readings are sharpness, and have a `FrameStatistics` and a `PhotonTransfer` or None.

    They are the attributes ``frame`` and ``noise`` of a reading.
    """

    def recorded(self, stream: str) -> Mapping[str, Any]:
        """Return what was recorded with the newest frame of a stream."""
        ...


class Trial:
    """Devices that are tried, and what was measured of them.

    Parameters
    ----------
    detectors, axis, leds, analysis
        As of `check_instrument`.
    clock : Clock
        That all times are taken on.
    timeout_s : float
        Longest wait for a reading.
    measured : Measured
        Filled while it goes on.
    dry_run : bool
        Whether nobody answers.

    Attributes
    ----------
    working : set of str
        Names of the devices that have not failed.
    """

    def __init__(
        self,
        detectors: Detectors,
        axis: FocusAxis,
        leds: PatternLight | None,
        *,
        analysis: FocusAnalysis,
        clock: Clock,
        timeout_s: float,
        measured: Measured,
        dry_run: bool,
    ) -> None:
        self.axis, self.leds, self.analysis, self.clock = axis, leds, analysis, clock
        self.timeout_s, self.measured, self.dry_run = timeout_s, measured, dry_run
        self.camera = detectors[0]
        every = [*detectors, axis, *([] if leds is None else [leds])]
        self.devices: list[Any] = list({id(device): device for device in every}.values())
        self.working = {device.name for device in self.devices}
        self.travel = Travel(axis, measured.bounds_um, measured.start_um, Approach())
        self.lighting: Lighting | None = None
        self._staged: list[Any] = []
        self._began_s = self._ended_s = self._now_s = 0.0

    # What fails

    def attempt(self, device: str, doing: str, plan: MsgGenerator[Any]) -> MsgGenerator[bool]:
        """Do something with a device that works so far; note down if it fails, and do not use it any more."""
        if device not in self.working:
            plan.close()
            return False
        try:
            yield from plan
        except RunEngineControlException:  # a person or another program wants it to end
            raise
        except Exception as error:
            self.failed(device, doing, error)
            return False
        return True

    def failed(self, device: str, doing: str, error: BaseException) -> None:
        """Note down that a device failed at something."""
        cause = error.__cause__ if isinstance(error, FailedStatus) and error.__cause__ else error
        said = str(cause) or type(cause).__name__
        # of these neither text nor name tells what was waited for
        if isinstance(error, WaitForTimeoutError) or (isinstance(error, TimeoutError) and not str(error)):
            said = f"no answer within {self.timeout_s:g} s"
        self.measured.problems.append(Problem(device, doing, said))
        self.working.discard(device)

    def works(self, *devices: Any) -> bool:
        """Return whether none of these has failed."""
        return all(device.name in self.working for device in devices)

    # Around it

    def stage(self) -> MsgGenerator[None]:
        """Stage whatever works."""
        for device in separate_devices([root_ancestor(one) for one in self._usable()]):
            self._staged.append(device)  # what fails half way is unstaged too
            parts = [one.name for one in self.devices if root_ancestor(one) is device]
            if not (yield from self.attempt(parts[0], "get ready", bps.stage(device))):
                self.working -= set(parts)

    def put_back(self) -> MsgGenerator[None]:
        """Put back the axis and the light, and unstage; one that fails does not keep the others from it."""
        light = [] if self.lighting is None else [self.lighting.put_back]
        unstage = [partial(bps.unstage, device) for device in reversed(self._staged)]
        yield from put_back_all([self.travel.undo], light, cast("list[Callable]", unstage))
        self._staged = []
        self.travel.moved = False

    def end(self) -> MsgGenerator[None]:
        """Put everything back, once more if that fails, and note it down."""
        for last in (False, True):
            try:
                return (yield from self.put_back())
            except RunEngineControlException:
                raise
            except Exception as error:
                self.failed(self.axis.name, "be put back, with all else", error)
                self.measured.returned = not last

    # What is measured

    def read(self, device: Readable) -> MsgGenerator[None]:
        """Read a device once."""
        yield from self._note("_began_s")
        values: Any = yield from bps.read(device)
        yield from self._note("_ended_s")
        numbers = {key: one["value"] for key, one in (values or {}).items()}
        wrong = tuple(
            key for key, value in numbers.items() if isinstance(value, float) and not math.isfinite(value)
        )
        read = Read(device.name, len(numbers), self._took_s, wrong)
        self.measured.reads.append(read)

    def where(self) -> MsgGenerator[float]:
        """Return one readback of the axis."""
        return float((yield from bps.rd(self.axis, default_value=self.measured.start_um)))

    def move(self, target_um: float) -> MsgGenerator[None]:
        """Move the axis and time it."""
        from_um = yield from self.where()
        yield from self._note("_began_s")
        yield from self.travel.to(target_um)
        yield from self._note("_ended_s")
        reached_um = yield from bps.rd(self.axis, default_value=target_um)
        move = Move(from_um, target_um, float(reached_um), self._took_s)
        self.measured.moves.append(move)
        yield from _record(Values("check_moves", **vars(move)), "check_moves")
        yield from bps.checkpoint()

    def shoot(self, step: str) -> MsgGenerator[Shot | None]:
        """Take a frame and time it; None in a dry run."""
        usable = separate_devices(self._usable())
        group = str(uuid4())
        triggered = [device for device in usable if isinstance(device, Triggerable)]
        yield from self._note("_began_s")
        for device in triggered:
            yield from bps.trigger(device, group=group)
        if triggered:
            yield from bps.wait(group=group)
        yield from self._note("_ended_s")
        yield from bps.create(name=STREAM)
        taken = Values("check", lambda: {"step": step, "began_s": self._began_s, "ended_s": self._ended_s})
        reading_all = self._read_all([*usable, taken])
        # dropped where it fails, so that what works can go on in the same run
        yield from bpp.contingency_wrapper(reading_all, except_plan=lambda _: bps.drop())
        yield from bps.save()
        reading = yield from wait_reading(
            self.analysis, stream=STREAM, timeout_s=self.timeout_s, dry_run=self.dry_run
        )
        at_um = (yield from self.where()) if reading is not None else math.nan
        yield from _record(
            _RecordedReading(self.analysis, STREAM, lambda: self._position_um(at_um)),
            f"reading_{self.analysis.name}",
        )
        yield from bps.checkpoint()
        return None if reading is None else self._shot(at_um)

    def wait_until(self, time_s: float) -> MsgGenerator[None]:
        """Wait until a time of the clock."""
        yield from bps.wait_for([partial(_reached, self.clock, time_s)])

    def now(self) -> MsgGenerator[float]:
        """Return the time of the clock, as a message, so that it is taken anew when that is repeated."""
        yield from self._note("_now_s")
        return self._now_s

    def record(self, report: CheckReport) -> MsgGenerator[None]:
        """Record what was concluded, in the stream ``check_report``."""
        recorded = json.dumps(report.recorded())
        yield from _record(Values("check_report", grade=str(report.grade), report=recorded), "check_report")

    def _usable(self) -> list[Any]:
        return [device for device in self.devices if device.name in self.working]

    def _read_all(self, devices: Sequence[Any]) -> MsgGenerator[None]:
        for device in devices:
            try:
                yield from bps.read(device)
            except RunEngineControlException:
                raise
            except Exception as error:
                if device is not self.camera and device.name in self.working:
                    self.failed(device.name, "be read", error)
                raise

    @property
    def _took_s(self) -> float:
        return self._ended_s - self._began_s

    def _note(self, name: str) -> MsgGenerator[None]:
        async def note() -> None:
            setattr(self, name, self.clock.now_s())

        yield from bps.wait_for([note])

    def _position_um(self, otherwise_um: float) -> float:
        values = cast("CheckingAnalysis", self.analysis).recorded(STREAM)
        return position_in(values, self.axis, self.camera.name, otherwise_um)

    def _shot(self, at_um: float) -> Shot:
        values = cast("CheckingAnalysis", self.analysis).recorded(STREAM)
        reading: Any = self.analysis.reading(STREAM)
        frame: FrameStatistics = reading.frame
        return Shot(
            position_um=self._position_um(at_um),
            began_s=float(values["check_began_s"]),
            ended_s=float(values["check_ended_s"]),
            exposure_s=_exposure_s(dict(values)),
            sharpness=reading.value,
            reason=str(reading.reason),
            frame=frame,
            noise=reading.noise,
            event_uid=reading.event_uid,
        )


class Values(_Record):
    """Plain values to be recorded: given, or computed when they are read."""

    def __init__(self, name: str, compute: Callable[[], dict[str, Any]] | None = None, **values: Any) -> None:
        super().__init__(name)
        self._compute = compute or (lambda: values)

    def fields(self) -> dict[str, Any]:
        return self._compute()


def exposure_time_of(camera: Any) -> Any:
    """Return what reads the exposure time of a camera, or of the one that a detector holds; or None."""
    for one in (camera, getattr(camera, "camera", None)):
        if (found := getattr(one, "exposure_s", None)) is not None:
            return found
    return None


def is_settable(signal: Any) -> bool:
    """Whether a signal can be set; one that follows from others can only be read."""
    return isinstance(signal, Movable) and getattr(signal, "write_access", True)


def with_timeout(plan: MsgGenerator[Any], timeout_s: float) -> MsgGenerator[Any]:
    """Let no wait of a plan last longer: who never says that it is done fails with a TimeoutError."""

    def in_time(msg: Msg) -> Msg:
        if msg.command != "wait" or msg.kwargs.get("timeout") is not None:
            return msg
        return msg._replace(kwargs={**msg.kwargs, "timeout": timeout_s})

    return (yield from bpp.msg_mutator(plan, in_time))
