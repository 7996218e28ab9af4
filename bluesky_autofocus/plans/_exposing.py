"""Take one exposure, have it analysed, record what was read."""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib.metadata import version
from typing import Any

from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.protocols import Readable
from bluesky.utils import MsgGenerator, get_hinted_fields

from bluesky_autofocus.plans._protocols import Detectors, FocusAnalysis, FocusAxis, RunningAxis
from bluesky_autofocus.records import Reading, Verdict

__all__ = ["Exposure", "expose", "position_in", "record_verdict", "wait_reading"]


class ReadingTimeoutError(TimeoutError):
    """An analysis gave no reading in time."""


@dataclasses.dataclass(frozen=True)
class Exposure:
    """What a stub knows of one exposure.

    Parameters
    ----------
    position_um : float
        Where the axis stood, read back in the same Event; of an axis that runs, where it was when the frame
        was taken, if the Event says when that was (``*_camera_time_s``), and when the axis was read.
    reading : Reading
        What the analysis made of the frame.
    exposure_s : float
        Exposure time, NaN where the camera does not say.
    values : mapping
        Of the Event, by key; nothing in a dry run.
    """

    position_um: float
    reading: Reading
    exposure_s: float
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def expose(
    detectors: Detectors, axis: FocusAxis, *, analysis: FocusAnalysis, stream: str, timeout_s: float = 30.0
) -> MsgGenerator[Exposure | None]:
    """Take one exposure in the open run and return what the analysis made of it.

    The reading is recorded in the stream ``reading_ANALYSIS`` with the position, linked to the exposure by
    its Event's uid and by stream and number: the focus curve can be drawn again without the frames. It ends
    with a checkpoint: a pause in the middle takes the exposure again, a later one does not.

    Parameters
    ----------
    detectors : sequence of Readable
        The camera, and whatever else belongs in the Event.
    axis : FocusAxis
        Read with them.
    analysis : FocusAnalysis
        Subscribed to the RunEngine.
    stream : str
        Of the exposure.
    timeout_s : float
        Longest wait for the reading.

    Returns
    -------
    Exposure or None
        None in a dry run (``list(plan)``, ``summarize_plan``), which reads nothing.

    Raises
    ------
    ReadingTimeoutError
        If the analysis is late.
    AnalysisError
        If it failed.
    """
    event = yield from bps.trigger_and_read([*detectors, axis], name=stream)
    reading = yield from wait_reading(analysis, stream=stream, timeout_s=timeout_s, dry_run=not event)
    otherwise_um = (yield from _read_besides(event, axis)) if event else math.nan

    def position_um() -> float:
        return position_in(_newest(event, analysis, stream), axis, detectors[0].name, otherwise_um)

    yield from _record(_RecordedReading(analysis, stream, position_um), f"reading_{analysis.name}")
    yield from bps.checkpoint()
    if reading is None:
        return None
    # After a pause the exposure was perhaps taken once more: what was recorded is what counts.
    values = _newest(event, analysis, stream)
    return Exposure(position_um(), analysis.reading(stream), _exposure_s(values), values)


def wait_reading(
    analysis: FocusAnalysis, *, stream: str, timeout_s: float = 30.0, dry_run: bool = False
) -> MsgGenerator[Reading | None]:
    """Wait for the reading of the Event that was saved last in a stream.

    The RunEngine goes on serving pause and abort while a slow model runs.

    Raises
    ------
    ReadingTimeoutError
        If there is no reading after `timeout_s`; naming the analysis.
    AnalysisError
        If the analysis failed or saw no frame.
    """
    try:
        yield from bps.wait_for([partial(analysis.settled, stream)], timeout=timeout_s)
    except TimeoutError as error:
        raise ReadingTimeoutError(
            f"analysis {analysis.name!r} gave no reading of {stream!r} within {timeout_s} s"
        ) from error
    return None if dry_run else analysis.reading(stream)


def record_verdict(verdict: Verdict) -> MsgGenerator[None]:
    """Record a verdict in the stream ``verdict`` of the open run."""
    yield from _record(_RecordedVerdict(verdict), "verdict")


def _record(record: "_Record", stream: str) -> MsgGenerator[None]:
    yield from bps.create(name=stream)
    # dropped where it fails, so that whoever catches the error can go on in the same run
    yield from bpp.contingency_wrapper(bps.read(record), except_plan=lambda _: bps.drop())
    yield from bps.save()


def _newest(event: Mapping[str, Any], analysis: FocusAnalysis, stream: str) -> dict[str, Any]:
    """Return the values of an Event, by key, as they are in the newest one of the stream.

    Messages that are taken again after a pause answer nobody: the plan has read the Event of before.
    """
    recorded = getattr(analysis, "recorded", None)
    newest = {} if recorded is None else recorded(stream)
    return {key: newest.get(key, reading["value"]) for key, reading in event.items()}


def _read_besides(event: Mapping[str, Any], axis: FocusAxis) -> MsgGenerator[float]:
    """Read an axis whose position the Event does not hold."""
    fields = get_hinted_fields(axis)
    if len(fields) == 1 and fields[0] in event:
        return math.nan
    return float((yield from bps.rd(axis)))


def position_in(
    values: Mapping[str, Any], axis: FocusAxis, camera: str, otherwise_um: float = math.nan
) -> float:
    """Return where an axis was when the frame of an Event was taken.

    NaN where it ran and nobody says when the frame was taken, or when the axis was read.

    Parameters
    ----------
    values : mapping
        Of the Event, by key.
    axis : FocusAxis
    camera : str
        Name of the detector that took the frame.
    otherwise_um : float
        If the Event does not hold its position.
    """
    fields = get_hinted_fields(axis)
    if len(fields) != 1 or fields[0] not in values:
        return otherwise_um
    position_um = float(values[fields[0]])
    velocity = values.get(f"{axis.name}_actual_velocity", values.get(f"{axis.name}_velocity"))
    # of axes that cannot run it is the speed of their moves
    if not isinstance(axis, RunningAxis) or not velocity:
        return position_um
    taken = [key for key in values if key.endswith("camera_time_s")]
    own = [key for key in taken if key.startswith(camera)]
    read_s = values.get(f"{axis.name}_time_s")
    if read_s is None or len(own or taken) != 1:
        return math.nan
    (key,) = own or taken
    return position_um - float(velocity) * (float(read_s) - float(values[key]))


def _exposure_s(values: Mapping[str, Any]) -> float:
    times = [value for key, value in values.items() if key.endswith("_exposure_s")]
    return float(sum(times)) if times else math.nan


class _Record(Readable):
    """Something to be recorded as an Event, though it is no device.

    A stream has a fixed set of objects, so records of one name count as the same object.
    """

    parent = None

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.name == self.name  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((type(self), self.name))

    def fields(self) -> dict[str, Any]:
        """Return the current values; their types must not change from one to the next."""
        raise NotImplementedError

    def read(self) -> dict[str, Any]:
        now = time.time()
        return {
            f"{self.name}_{key}": {"value": value, "timestamp": now} for key, value in self.fields().items()
        }

    def describe(self) -> dict[str, Any]:
        return {
            f"{self.name}_{key}": {
                "source": f"{type(self).__name__}:{self.name}",
                "shape": [],
                **_dtype(value),
            }
            for key, value in self.fields().items()
        }


def _dtype(value: Any) -> dict[str, str]:
    if isinstance(value, bool):
        return {"dtype": "boolean", "dtype_numpy": "|b1"}
    if isinstance(value, int):
        return {"dtype": "integer", "dtype_numpy": "<i8"}
    if isinstance(value, float):
        return {"dtype": "number", "dtype_numpy": "<f8"}
    return {"dtype": "string"}


class _RecordedReading(_Record):
    """The newest reading of a stream, asked for when it is recorded: after a rewind that is another one."""

    def __init__(self, analysis: FocusAnalysis, stream: str, position_um: Callable[[], float]) -> None:
        super().__init__(analysis.name)
        self._analysis, self._stream, self._position_um = analysis, stream, position_um

    @property
    def hints(self) -> dict[str, list[str]]:
        return {"fields": [f"{self.name}_value"]}

    def fields(self) -> dict[str, Any]:
        return {
            **self._analysis.reading(self._stream).recorded(),
            "stream": self._stream,
            "position_um": self._position_um(),
        }


class _RecordedVerdict(_Record):
    def __init__(self, verdict: Verdict) -> None:
        super().__init__("verdict")
        self._verdict = verdict

    @property
    def hints(self) -> dict[str, list[str]]:
        return {"fields": ["verdict_position_um"]}

    def fields(self) -> dict[str, Any]:
        fields = {
            field.name: getattr(self._verdict, field.name) for field in dataclasses.fields(self._verdict)
        }
        # A table column holds one type and no lists: what has structure goes in as JSON.
        for key in ("event_uids", "parameters"):
            fields[key] = json.dumps(fields[key])
        return {**fields, "reason": str(self._verdict.reason), "versions": json.dumps(versions())}


@cache
def versions() -> dict[str, str]:
    """Return the versions that a verdict depends on."""
    packages = ("bluesky-autofocus", "bluesky", "ophyd", "numpy", "scipy", "opencv-python-headless")
    return {package: version(package) for package in packages}
