"""Scan a specimen without stopping, and keep it in focus meanwhile."""

import dataclasses
import inspect
import json
import math
from collections.abc import Sequence
from typing import Any

from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.utils import CustomPlanMetadata, MsgGenerator, plan

from bluesky_autofocus.plans._exposing import Exposure, _Record, _record, position_in, versions
from bluesky_autofocus.plans._moving import Approach, Travel, check_reachable, interval_um
from bluesky_autofocus.plans._operation import Operation, check_positive, put_back_all, start_of
from bluesky_autofocus.plans._protocols import Detectors, FocusAnalysis, FocusAxis, RunningAxis
from bluesky_autofocus.plans._running import check_running, expose_on_the_run, halt_all, run_at
from bluesky_autofocus.records import Reading, Reason
from bluesky_autofocus.search import ROOM, FocusTracker, Passage, TrackingLaw

__all__ = ["Tracking", "scan_in_focus", "track_focus"]

SURE = 2.0
"""So many standard uncertainties of the focus must fit into the tolerance of a frame that is vouched for."""


@dataclasses.dataclass(frozen=True)
class Tracking:
    """How a scan in focus went.

    Parameters
    ----------
    frames : int
        How many were taken.
    vouched : int
        How many of them were in focus, by their own readings and those before.
    lost_um : tuple
        Places (x, y) at which the focus was lost: there had been no reading to go by for too long.
    complete : bool
        Whether the budget sufficed for all rows.
    """

    frames: int
    vouched: int
    lost_um: tuple[tuple[float, float], ...]
    complete: bool

    @property
    def share(self) -> float:
        """Share of the frames that are vouched for; NaN if there are none."""
        return self.vouched / self.frames if self.frames else math.nan


@plan
def track_focus(
    detectors: Detectors,
    axis: RunningAxis,
    *,
    analysis: FocusAnalysis,
    stage: Sequence[FocusAxis],
    x_um: tuple[float, float],
    y_um: Sequence[float],
    scan_velocity_um_s: float,
    default_velocity: float,
    class_width_um: float,
    gain: float = 0.2,
    travel_um: tuple[float, float],
    tolerance_um: float | None = None,
    tilt_um_per_mm: float = 3.0,
    unevenness_um: float = 1.0,
    smooth_um: float = 2000.0,
    patience: int = 20,
    reaction_s: float = 0.2,
    budget: int = 10_000,
    axis_sign: int = 1,
    timeout_s: float = 2.0,
) -> MsgGenerator[Tracking]:
    """Scan rows at constant velocity, frame after frame, with the axis following the focus; opens no run.

    Each row is one run of the stage, to and fro by turns. The reading of each frame, placed where and when
    it was taken, goes into a plane that follows the specimen (`FocusTracker`), and the axis runs after that
    plane: a wrong reading does not throw it off, and where nothing is to be seen it goes on along the
    plane. When there has been no reading to go by for `patience` frames the focus is lost. The axis then
    returns to the last focus and waits there, while the scan goes on, until readings come back.

    Every frame is an Event of the stream ``focus_track``, and its reading one of ``reading_ANALYSIS``. What
    was made of it is one of ``track``: where it was taken, its velocity, reading, class index and
    certainty, where focus was expected, and whether it is vouched for. The end is one of ``tracking``.

    Begin in focus: a scan that has to find it first is blurred at first. However it ends, stage and axis are
    put back.

    Parameters
    ----------
    detectors : sequence of Readable
        The camera first.
    axis : RunningAxis
        The focus axis, in um.
    analysis : FocusAnalysis
        Gives the defocus of every frame in um, such as `FocusClassAnalysis`. A reading ``out_of_range`` whose
        value is finite tells the side.
    stage : sequence of FocusAxis
        What moves the specimen sideways, in um: x, a `RunningAxis`, and y.
    x_um : tuple of float
        What the stage does not leave within a row, ascending. A row ends where there is no room for another
        frame and to stop: two or three frames before the end.
    y_um : sequence of float
        Where the rows are, in the order in which they are scanned.
    scan_velocity_um_s : float
        Of the stage within a row.
    default_velocity : float
        um/s at which the focus axis runs when it is far from focus; it is never faster.
    class_width_um : float
        By how much neighbouring focus classes differ.
    gain : float
        Of the velocity of the focus axis, as a share of the default one for each class.
    travel_um : tuple of float
        Lowest and highest position of the focus axis.
    tolerance_um : float, optional
        Defocus within which a frame is in focus; by default half a class.
    tilt_um_per_mm, unevenness_um, smooth_um
        What specimens are like: standard deviations of their slope and of their height from a plane, and
        the length of the waves in which it varies.
    patience : int
        How many frames in a row may be of no use before the focus is lost.
    reaction_s : float
        Longest time from frame to frame, until it is seen.
    budget : int
        Most frames to take.
    axis_sign : int
        -1 for an axis whose position falls as the defocus rises.
    timeout_s : float
        Longest wait for a reading. Stage and axis stop while one is late; one that is later ends the scan.

    Returns
    -------
    Tracking

    Raises
    ------
    ValueError
        If an argument makes no sense or an axis that must run has no velocity mode; before anything moves.
    LimitError
        If an axis cannot run that fast or go that far; before anything moves.
    ReadingTimeoutError, NotSubscribedError, AnalysisError
        As for the other stubs.
    """
    axis = check_running(axis)
    if len(stage) != 2:
        raise ValueError(f"stage must be two axes, x and y, got {stage!r}")
    fast, slow = check_running(stage[0]), stage[1]
    left_um, right_um = interval_um("x_um", x_um)
    rows_um = [float(y) for y in y_um]
    if not rows_um or not all(map(math.isfinite, rows_um)):
        raise ValueError(f"y_um must be one or more finite positions, got {y_um!r}")
    check_positive("scan_velocity_um_s", scan_velocity_um_s)
    check_positive("tolerance_um", tolerance_um)
    check_positive("reaction_s", reaction_s)
    if scan_velocity_um_s * reaction_s * 2 > right_um - left_um:
        raise ValueError(
            f"scan_velocity_um_s times reaction_s is {scan_velocity_um_s * reaction_s:g} um from frame to "
            f"frame: too much for rows of {right_um - left_um:g} um"
        )
    if budget < 1:
        raise ValueError(f"budget must allow at least 1 exposure, got {budget!r}")
    if axis_sign not in (1, -1):
        raise ValueError(f"axis_sign must be +1 or -1, got {axis_sign!r}")
    low_um, high_um = interval_um("travel_um", travel_um)
    law = TrackingLaw(default_velocity, class_width_um, gain, reaction_s)
    within_um = class_width_um / 2 if tolerance_um is None else tolerance_um

    start_um = yield from start_of(axis, analysis)
    dry_run = start_um is None
    if start_um is None:
        start_um = (low_um + high_um) / 2
    if not low_um <= start_um <= high_um:
        raise ValueError(f"travel_um {(low_um, high_um)} must contain the start {start_um} um")
    tracker = FocusTracker(
        (left_um, rows_um[0]),
        start_um,
        law.reach_um,
        tilt_um_per_mm=tilt_um_per_mm,
        unevenness_um=unevenness_um,
        smooth_um=smooth_um,
        patience=patience,
    )
    operation = Operation(
        detectors=[*detectors, *stage],
        axis=axis,
        analysis=analysis,
        method="track",
        start_um=start_um,
        travel_um=(low_um, high_um),
        approach=Approach(),
        timeout_s=timeout_s,
        dry_run=dry_run,
    )
    if not dry_run:
        yield from operation.check(low_um, high_um)
    yield from check_reachable(axis.velocity, [default_velocity, -default_velocity])
    yield from check_reachable(fast.velocity, [scan_velocity_um_s, -scan_velocity_um_s])
    sideways = []
    for one, wanted in ((fast, [left_um, right_um]), (slow, rows_um)):
        yield from check_reachable(one, wanted)
        at_um = yield from bps.rd(one, default_value=wanted[0])
        sideways.append(Travel(one, (min(*wanted, at_um), max(*wanted, at_um)), at_um, Approach()))
    to_x, to_y = sideways
    travel = operation.travel

    parameters = {
        "travel_um": [low_um, high_um],
        "analysis": analysis.parameters,
        "x_um": [left_um, right_um],
        "y_um": rows_um,
        "scan_velocity_um_s": scan_velocity_um_s,
        "default_velocity": default_velocity,
        "class_width_um": class_width_um,
        "gain": gain,
        "tolerance_um": within_um,
        "tilt_um_per_mm": tilt_um_per_mm,
        "unevenness_um": unevenness_um,
        "smooth_um": smooth_um,
        "patience": patience,
        "reaction_s": reaction_s,
        "budget": budget,
        "axis_sign": axis_sign,
    }

    def halt() -> MsgGenerator[None]:
        yield from halt_all(*(one for moves, one in ((travel, axis), (to_x, fast)) if moves.moved))

    frames: list[_Fields] = []
    lost_um: list[tuple[float, float]] = []

    def look(place_um: tuple[float, float], left_s: float) -> MsgGenerator[None]:
        """Take a frame, and tell the tracker of it."""
        # nothing is known of frames of a dry run but that they are in focus
        exposing = operation.expose(Reading("", 0.0, 0.0, "um"), start_um)
        exposure = yield from expose_on_the_run(exposing, halt, left_s)
        camera = detectors[0].name
        seen_um = [
            position_in(exposure.values, one, camera, otherwise)
            for one, otherwise in zip((fast, slow), place_um, strict=True)
        ]
        if math.isfinite(exposure.position_um) and all(map(math.isfinite, seen_um)):
            place_um = (seen_um[0], seen_um[1])
        else:  # where it was taken is not known
            exposure = dataclasses.replace(exposure, position_um=math.nan)
            seen_um = [math.nan, math.nan]
        was_lost = tracker.lost
        used = _tell(tracker, place_um, exposure, axis_sign=axis_sign, class_width_um=class_width_um)
        if tracker.lost and not was_lost:
            lost_um.append(place_um)
        expected_um = tracker.expected_um(place_um)
        vouched = (
            used
            and exposure.reading.accepted
            and abs(exposure.position_um - expected_um) <= within_um
            and SURE * tracker.sigma_um <= within_um
        )
        frames.append(
            _Fields(
                "track",
                x_um=seen_um[0],
                y_um=seen_um[1],
                z_um=exposure.position_um,
                velocity_um_s=float(exposure.values.get(f"{axis.name}_velocity", math.nan)),
                defocus_um=exposure.reading.value,
                index=exposure.reading.value / class_width_um,
                certainty=exposure.reading.recorded().get("certainty", math.nan),
                focus_um=expected_um,
                sigma_um=tracker.sigma_um,
                used=used,
                vouched=vouched,
                lost=tracker.lost,
                event_uid=exposure.reading.event_uid,
                seq_num=exposure.reading.seq_num,
            )
        )
        yield from _record(frames[-1], "track")
        yield from bps.checkpoint()

    def steer(place_um: tuple[float, float], velocity_um_s: float, longest_s: float) -> MsgGenerator[float]:
        """Run the axis after the focus; return for how long it has room."""
        now_um = yield from bps.rd(axis, default_value=start_um)
        target_um = tracker.last_good_um if tracker.lost else tracker.expected_um(place_um)
        wanted_um_s = law.velocity_um_s(
            now_um - min(max(target_um, low_um), high_um),
            drift_um_s=0.0 if tracker.lost else tracker.slope[0] * velocity_um_s,
            below_um=now_um - low_um,
            above_um=high_um - now_um,
            frame_s=longest_s,
        )
        travel.ran()  # before it does: whatever fails, it is put back
        yield from run_at(axis, wanted_um_s)
        room_um = high_um - now_um if wanted_um_s > 0 else now_um - low_um
        return ROOM * room_um / abs(wanted_um_s) if wanted_um_s else math.inf

    def scan_row(y: float, begin_um: float, end_um: float) -> MsgGenerator[bool]:
        """Scan a row; return whether the budget sufficed."""
        yield from halt()
        yield from to_y.to(y)
        yield from to_x.to(begin_um)
        yield from bps.checkpoint()
        velocity_um_s = math.copysign(scan_velocity_um_s, end_um - begin_um)
        passage = Passage(velocity_um_s, end_um, reaction_s)
        while len(frames) < budget:
            x = yield from bps.rd(fast, default_value=begin_um)
            if not passage.goes_on(x):
                return True
            axis_left_s = yield from steer((x, y), velocity_um_s, passage.longest_s)
            to_x.ran()
            yield from run_at(fast, velocity_um_s)
            # what goes on after a pause begins with a frame at rest, and then decides anew
            yield from bps.checkpoint()
            yield from look((x, y), min(passage.left_s(x), axis_left_s))
            if not (yield from bps.rd(fast.velocity, default_value=velocity_um_s)):
                passage.interrupted()
            if dry_run:  # it would never come to the end
                return True
        return False

    def scan() -> MsgGenerator[bool]:
        begin_um, end_um = left_um, right_um
        for y in rows_um:
            if not (yield from scan_row(y, begin_um, end_um)):
                return False
            begin_um, end_um = end_um, begin_um
        return True

    def put_back() -> MsgGenerator[None]:
        yield from put_back_all([halt, *(moves.undo for moves in (travel, *sideways))])

    yield from bps.checkpoint()
    try:
        complete = yield from scan()
        tracking = Tracking(
            frames=len(frames),
            vouched=sum(bool(frame.fields()["vouched"]) for frame in frames),
            lost_um=tuple(lost_um),
            complete=complete,
        )
        yield from put_back()
        yield from _record(
            _Fields(
                "tracking",
                frames=tracking.frames,
                vouched=tracking.vouched,
                lost_um=json.dumps(tracking.lost_um),
                complete=tracking.complete,
                model_hash=analysis.model_hash,
                parameters=json.dumps(parameters),
                versions=json.dumps(versions()),
            ),
            "tracking",
        )
    except Exception:
        yield from put_back()
        raise
    return tracking


@plan
def scan_in_focus(
    detectors: Detectors,
    axis: RunningAxis,
    *,
    analysis: FocusAnalysis,
    stage: Sequence[FocusAxis],
    md: CustomPlanMetadata | None = None,
    **options: Any,
) -> MsgGenerator[Tracking]:
    """Scan rows at constant velocity in focus, in a run of its own.

    Parameters
    ----------
    detectors, axis, analysis, stage
        As for `track_focus`.
    md : dict, optional
        Metadata of the run; it wins over what the plan itself says.
    options
        Of `track_focus`: ``x_um``, ``y_um``, ``scan_velocity_um_s`` ...

    Returns
    -------
    Tracking
        Also recorded in the stream ``tracking``.

    Raises
    ------
    TypeError
        If there is no such option, or one is missing; before the run opens.
    ValueError, LimitError, NotSubscribedError
        As `track_focus` does; before anything moves.
    """
    inspect.signature(track_focus).bind(detectors, axis, analysis=analysis, stage=stage, **options)
    metadata = {
        "plan_name": "scan_in_focus",
        "detectors": [detector.name for detector in detectors],
        "motors": [axis.name, *(one.name for one in stage)],
        "plan_args": {
            "detectors": list(map(repr, detectors)),
            "axis": repr(axis),
            "analysis": analysis.name,
            "stage": list(map(repr, stage)),
            **{key: repr(value) for key, value in options.items()},
        },
        "versions": versions(),
        "hints": {"dimensions": [([one.name], "focus_track") for one in stage]},
        **(md or {}),
    }

    results = []  # what a run decorator returns is the uid of the run

    @bpp.stage_decorator([*detectors, axis, *stage])
    @bpp.run_decorator(md=metadata)
    def scanning() -> MsgGenerator[None]:
        results.append((yield from track_focus(detectors, axis, analysis=analysis, stage=stage, **options)))

    yield from scanning()
    return results[0]


def _tell(
    tracker: FocusTracker,
    place_um: tuple[float, float],
    exposure: Exposure,
    *,
    axis_sign: int,
    class_width_um: float,
) -> bool:
    """Tell the tracker what a frame says of the focus, and return whether it used it."""
    reading = exposure.reading
    focus_um = exposure.position_um - axis_sign * reading.value
    only_the_side = reading.reason is Reason.OUT_OF_RANGE
    if not math.isfinite(focus_um) or not (reading.accepted or only_the_side):
        tracker.miss(place_um)
        return False
    # one that states no uncertainty, or none but the side, is right to about a class
    sigma_um = class_width_um if only_the_side or not math.isfinite(reading.sigma) else reading.sigma
    return tracker.take(place_um, focus_um, sigma_um)


class _Fields(_Record):
    """What is known when it is recorded: of a frame of the scan, or of how that went."""

    def __init__(self, name: str, **fields: Any) -> None:
        super().__init__(name)
        self._fields = fields

    def fields(self) -> dict[str, Any]:
        return self._fields
