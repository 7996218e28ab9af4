"""Find out how an LED array lies with respect to the camera frame."""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable
from uuid import uuid4

from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.utils import CustomPlanMetadata, MsgGenerator, plan

from bluesky_autofocus.leds import LEDGeometry, LEDs, Orientation, Single
from bluesky_autofocus.plans._exposing import Exposure, _Record, _record, expose, versions
from bluesky_autofocus.plans._lighting import Lighting, lighting_of
from bluesky_autofocus.plans._moving import Approach, Travel, check_reachable, interval_um
from bluesky_autofocus.plans._operation import check_positive, put_back_all, start_of
from bluesky_autofocus.plans._protocols import Detectors, FocusAnalysis, FocusAxis, PatternLight
from bluesky_autofocus.records import Reason

if TYPE_CHECKING:
    from bluesky_autofocus.defocus.orientation import LEDDirection

__all__ = ["CalibratedLight", "DirectionAnalysis", "LEDCalibration", "calibrate_leds", "led_calibration"]

STREAM = "calibrate_leds"
SPAN_TOLERANCE = 0.2
"""Part by which the height between the two planes may differ from what the parallax says."""


@runtime_checkable
class CalibratedLight(PatternLight, Protocol):
    """An LED array whose orientation can be set."""

    @property
    def geometry(self) -> LEDGeometry:
        """Where its LEDs are."""
        ...

    @property
    def calibration(self) -> Any:
        """Its orientation: readable, and settable to a mapping or to what was read."""
        ...


@runtime_checkable
class DirectionAnalysis(FocusAnalysis, Protocol):
    """An analysis of the two frames that were taken under each LED."""

    def direction(self, led: int) -> "LEDDirection":
        """Return where the light of an LED came from, for an axis of sign +1."""
        ...


@dataclasses.dataclass(frozen=True)
class LEDCalibration:
    """What a calibration of an LED array concludes.

    Parameters
    ----------
    found : bool
        Whether the orientation is to be believed; it was set on the array only then.
    reason : Reason
        Why.
    problem : str
        What does not fit, in words; empty where all does.
    rotation_deg, mirrored
        The orientation, as of `Orientation`. NaN and False where there is none.
    residual_na : float
        Largest distance, in NA, between where an LED was seen and where it should be in this orientation.
    measured : tuple of dict
        Of each LED: its number ``led``, its direction in the array's axes ``array_na_xy`` and in the frame's
        ``frame_na_xy``, ``distance_um``, ``confidence`` and ``strength`` as of `LEDDirection`.
    exposures : int
        Camera frames spent.
    event_uids : tuple of str
        The Events it rests on.
    """

    found: bool
    reason: Reason
    problem: str = ""
    rotation_deg: float = math.nan
    mirrored: bool = False
    residual_na: float = math.nan
    measured: tuple[dict[str, Any], ...] = ()
    exposures: int = 0
    event_uids: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line for a person."""
        if not self.found:
            return f"LED array not calibrated ({self.reason}): {self.problem}; nothing was changed"
        return (
            f"LED array: turned by {self.rotation_deg:.2f} degrees{', mirrored' if self.mirrored else ''}, "
            f"LEDs within NA {self.residual_na:.4f} ({self.exposures} exposures)"
        )


@plan
def led_calibration(
    detectors: Detectors,
    axis: FocusAxis,
    *,
    leds: CalibratedLight,
    analysis: DirectionAnalysis,
    na: float = 0.4,
    angles_deg: Sequence[float] = (0.0, 90.0, 225.0),
    span_um: float = 10.0,
    axis_sign: int = 1,
    tolerance_na: float = 0.02,
    travel_um: tuple[float, float] | None = None,
    approach: Approach = Approach(),
    timeout_s: float = 60.0,
) -> MsgGenerator[LEDCalibration]:
    """Measure how an LED array lies with respect to the frame, and set it; a stub that opens no run.

    Under each of some LEDs it exposes below and above where the axis is. The circles in the spectra tell the
    direction of the light but for its sign, the displacement of the image tells the sign. If all LEDs agree
    with one rotation (and reflection), the array's `calibration` is set. The result is recorded in the
    stream ``led_calibration`` either way. Pattern and axis are as before in the end.

    Any specimen with structure serves, within some ten um of focus.

    Parameters
    ----------
    detectors : sequence of Readable
        The camera first. What records the optics, the objective, belongs to them.
    axis : FocusAxis
        What is moved, in um.
    leds : CalibratedLight
        The LED array.
    analysis : DirectionAnalysis
        `OrientationAnalysis`, subscribed to the RunEngine before the run opens.
    na : float
        Aperture of the LEDs to use, well within that of the objective.
    angles_deg : sequence of float
        Their angles in the array's own axes, two or more. Of two, a wrong sign of one would look like a
        mirrored array; a third one gives it away.
    span_um : float
        Distance between the lower and the higher position.
    axis_sign : int
        +1 where a higher position of the axis is a higher defocus, -1 where it is a lower one. The frames
        cannot tell it: with the wrong sign the array comes out turned by 180 degrees.
    tolerance_na : float
        Largest accepted distance of an LED from where it should be.
    travel_um : tuple of float, optional
        No move leaves this range; by default `span_um` about the start.
    approach : Approach
        From which side positions are approached.
    timeout_s : float
        Longest wait for a reading.

    Returns
    -------
    LEDCalibration
        With ``found=False`` and nothing changed where a frame was refused (no specimen, darkfield, too far
        from focus), or the LEDs do not agree.

    Raises
    ------
    ValueError, PatternError
        If an argument makes no sense or the array has no such LED; before anything changes.
    LimitError
        If the axis cannot reach the positions; before anything changes.
    NotSubscribedError
        If the analysis is not subscribed; before anything changes.
    """
    if not isinstance(leds, CalibratedLight):
        raise ValueError(f"leds must be an LED array with a geometry and a calibration, got {leds!r}")
    if not isinstance(analysis, DirectionAnalysis):
        raise ValueError(
            f"analysis must measure directions of LEDs, as OrientationAnalysis, got {analysis!r}"
        )
    if axis_sign not in (1, -1):
        raise ValueError(f"axis_sign must be +1 or -1, got {axis_sign!r}")
    check_positive("span_um", span_um)
    check_positive("tolerance_na", tolerance_na)
    array = leds.geometry.turned(Orientation())
    numbers = [array.select(Single(na, angle))[0] for angle in angles_deg]
    array_xy = array.array_na_xy[numbers]
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"angles_deg {list(angles_deg)} belong to LEDs {numbers}: expected different ones")
    Orientation.between(array_xy, array_xy)  # refuses LEDs that are all on one line

    start_um = yield from start_of(axis, analysis)
    dry_run = start_um is None
    if start_um is None:
        start_um = 0.0 if travel_um is None else sum(interval_um("travel_um", travel_um)) / 2
    low_um, high_um = start_um - span_um / 2, start_um + span_um / 2
    reach_um = (low_um, high_um) if travel_um is None else interval_um("travel_um", travel_um)
    if not reach_um[0] <= low_um < high_um <= reach_um[1]:
        raise ValueError(
            f"travel_um {reach_um} must contain the positions {low_um} and {high_um} um: span_um is "
            f"{span_um} and the axis is at {start_um} um"
        )
    travel = Travel(axis, reach_um, start_um, approach)
    if not dry_run:
        yield from check_reachable(axis, travel.reached((low_um, high_um, start_um)))
    yield from check_reachable(leds, [LEDs((number,)) for number in numbers])
    lighting = yield from lighting_of(leds)
    before = yield from bps.rd(leds.calibration, default_value="")
    detectors = [*detectors, *([] if leds in detectors else [leds])]
    exposures: list[Exposure] = []

    def measure() -> MsgGenerator[LEDCalibration]:
        yield from bps.checkpoint()
        measured = []
        for number, (array_x, array_y) in zip(numbers, array_xy.tolist(), strict=True):
            yield from lighting.show(LEDs((number,)))
            for offset_um in (-span_um / 2, span_um / 2):
                yield from travel.to(start_um + offset_um)
                exposure = yield from expose(
                    [*detectors, _Step(number, offset_um)],
                    axis,
                    analysis=analysis,
                    stream=STREAM,
                    timeout_s=timeout_s,
                )
                if exposure is None:
                    continue
                exposures.append(exposure)
                if not exposure.reading.accepted:
                    return _refused(exposure, number, measured)
            if dry_run:
                measured.append(_as_seen(number, (array_x, array_y), (array_x, array_y), span_um))
                continue
            seen = analysis.direction(number)
            frame_xy = (axis_sign * seen.na_x, axis_sign * seen.na_y)
            measured.append(
                _as_seen(
                    number,
                    (array_x, array_y),
                    frame_xy,
                    seen.distance_um,
                    confidence=seen.confidence,
                    strength=seen.strength,
                )
            )
        return _conclude(measured, tolerance_na, span_um)

    calibration_touched = False

    def put_calibration_back() -> MsgGenerator[None]:
        if calibration_touched:
            yield from _set(leds.calibration, before)
            # setting it may have given the pattern another name
            yield from Lighting(leds, lighting.before).show(lighting.before)

    try:
        found = yield from measure()
        yield from put_back_all([travel.put_back, lighting.put_back])
        found = dataclasses.replace(
            found,
            exposures=len(exposures),
            event_uids=tuple(exposure.reading.event_uid for exposure in exposures),
        )
        parameters = {
            "na": na,
            "angles_deg": list(angles_deg),
            "span_um": span_um,
            "axis_sign": axis_sign,
            "tolerance_na": tolerance_na,
            "start_um": start_um,
            "analysis": analysis.parameters,
        }
        yield from _record(_RecordedCalibration(found, parameters), "led_calibration")
        if found.found:
            calibration_touched = True
            # last of all: whatever is recorded in this run was recorded in the old orientation
            yield from _set(
                leds.calibration,
                {
                    "rotation_deg": found.rotation_deg,
                    "mirrored": found.mirrored,
                    "residual_na": found.residual_na,
                    "axis_sign": axis_sign,
                    "measured": list(found.measured),
                },
            )
    except Exception:
        yield from put_back_all([travel.put_back, put_calibration_back, lighting.put_back])
        raise
    return found


@plan
def calibrate_leds(
    detectors: Detectors,
    axis: FocusAxis,
    *,
    leds: CalibratedLight,
    analysis: DirectionAnalysis,
    na: float = 0.4,
    angles_deg: Sequence[float] = (0.0, 90.0, 225.0),
    span_um: float = 10.0,
    axis_sign: int = 1,
    tolerance_na: float = 0.02,
    travel_um: tuple[float, float] | None = None,
    approach: Approach = Approach(),
    timeout_s: float = 60.0,
    md: CustomPlanMetadata | None = None,
) -> MsgGenerator[LEDCalibration]:
    """Measure how an LED array lies with respect to the frame, and set it; in a run of its own.

    Parameters
    ----------
    detectors, axis, leds, analysis, na, angles_deg, span_um, axis_sign, tolerance_na, travel_um, approach, \
timeout_s
        As for `led_calibration`.
    md : dict, optional
        Metadata of the run; it wins over what the plan itself says.

    Returns
    -------
    LEDCalibration
        As for `led_calibration`; also recorded in the stream ``led_calibration``.
    """
    metadata = {
        "plan_name": "calibrate_leds",
        "detectors": [detector.name for detector in detectors],
        "motors": [axis.name],
        "plan_args": {
            "detectors": list(map(repr, detectors)),
            "axis": repr(axis),
            "leds": repr(leds),
            "na": na,
            "angles_deg": list(angles_deg),
            "span_um": span_um,
            "axis_sign": axis_sign,
        },
        "versions": versions(),
        "hints": {"dimensions": [([axis.name], STREAM)]},
        **(md or {}),
    }
    results = []  # what a run decorator returns is the uid of the run

    @bpp.stage_decorator([*detectors, axis, leds])
    @bpp.run_decorator(md=metadata)
    def calibrating() -> MsgGenerator[None]:
        results.append(
            (
                yield from led_calibration(
                    detectors,
                    axis,
                    leds=leds,
                    analysis=analysis,
                    na=na,
                    angles_deg=angles_deg,
                    span_um=span_um,
                    axis_sign=axis_sign,
                    tolerance_na=tolerance_na,
                    travel_um=travel_um,
                    approach=approach,
                    timeout_s=timeout_s,
                )
            )
        )

    yield from calibrating()
    return results[0]


def _conclude(measured: list[dict[str, Any]], tolerance_na: float, span_um: float) -> LEDCalibration:
    """Return the orientation that fits what was seen of all LEDs, or what does not fit."""
    array_xy = [one["array_na_xy"] for one in measured]
    frame_xy = [one["frame_na_xy"] for one in measured]
    try:
        orientation = Orientation.between(array_xy, frame_xy)
    except ValueError:
        return LEDCalibration(
            False, Reason.UNCERTAIN, "the LEDs were all seen on one line", measured=tuple(measured)
        )
    away = [
        math.dist(seen, orientation.matrix @ array) for array, seen in zip(array_xy, frame_xy, strict=True)
    ]
    problem = ""
    worst = away.index(max(away))
    if away[worst] > tolerance_na:
        problem = (
            f"LED {measured[worst]['led']} was seen NA {away[worst]:.3f} from where it should be, and "
            f"{tolerance_na:g} are allowed: the geometry of the array, the optics recorded or a sign is wrong"
        )
    for one in measured:
        if abs(one["distance_um"] - span_um) > SPAN_TOLERANCE * span_um:
            problem = (
                f"by the parallax under LED {one['led']} the axis moved by {one['distance_um']:.1f} um "
                f"instead of {span_um:g}: its unit or the pixel size is wrong"
            )
    return LEDCalibration(
        found=not problem,
        reason=Reason.UNCERTAIN if problem else Reason.FOUND,
        problem=problem,
        rotation_deg=orientation.rotation_deg,
        mirrored=orientation.mirrored,
        residual_na=max(away),
        measured=tuple(measured),
    )


def _refused(exposure: Exposure, number: int, measured: list[dict[str, Any]]) -> LEDCalibration:
    reason = exposure.reading.reason
    return LEDCalibration(
        False, reason, f"the frame under LED {number} was refused: {reason}", measured=tuple(measured)
    )


def _as_seen(
    number: int,
    array_xy: tuple[float, float],
    frame_xy: tuple[float, float],
    distance_um: float,
    *,
    confidence: float = math.nan,
    strength: float = math.nan,
) -> dict[str, Any]:
    return {
        "led": number,
        "array_na_xy": list(array_xy),
        "frame_na_xy": list(frame_xy),
        "distance_um": distance_um,
        "confidence": confidence,
        "strength": strength,
    }


def _set(obj: Any, value: Any) -> MsgGenerator[None]:
    group = str(uuid4())
    yield from bps.abs_set(obj, value, group=group)
    yield from bps.wait(group=group)


class _Step(_Record):
    """Which LED an exposure shows, and where the axis is about the start."""

    def __init__(self, led: int, offset_um: float) -> None:
        super().__init__("led_calibration")
        self._led, self._offset_um = led, offset_um

    def fields(self) -> dict[str, Any]:
        return {"led": self._led, "offset_um": float(self._offset_um)}


class _RecordedCalibration(_Record):
    def __init__(self, found: LEDCalibration, parameters: dict[str, Any]) -> None:
        super().__init__("led_calibration")
        self._found, self._parameters = found, parameters

    def fields(self) -> dict[str, Any]:
        fields = {field.name: getattr(self._found, field.name) for field in dataclasses.fields(self._found)}
        # A table column holds one type and no lists: what has structure goes in as JSON.
        for key in ("measured", "event_uids"):
            fields[key] = json.dumps(fields[key])
        return {
            **fields,
            "reason": str(self._found.reason),
            "parameters": json.dumps(self._parameters),
            "versions": json.dumps(versions()),
        }
