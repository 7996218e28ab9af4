"""Try an instrument, device by device, within a range that a person has confirmed."""

import numpy as np
from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.protocols import Checkable
from bluesky.utils import CustomPlanMetadata, MsgGenerator, RunEngineControlException, plan

from bluesky_autofocus.clock import Clock, WallClock
from bluesky_autofocus.commissioning import CheckReport, Measured, Shot, Switch, assess, flank
from bluesky_autofocus.plans._exposing import _record, versions
from bluesky_autofocus.plans._lighting import lighting_of
from bluesky_autofocus.plans._limits import axis_limits_wrapper
from bluesky_autofocus.plans._moving import interval_um, refused_by
from bluesky_autofocus.plans._operation import check_positive
from bluesky_autofocus.plans._protocols import Detectors, FocusAxis, PatternLight
from bluesky_autofocus.plans._trial import (
    CheckingAnalysis,
    Trial,
    Values,
    exposure_time_of,
    is_settable,
    with_timeout,
)

__all__ = ["check_instrument"]

STILLS = 8
"""Frames with nothing changed: they tell the noise, and how much sharpness varies by itself."""

RESTS = 10
"""Readbacks at rest."""

TARGETS = (0.0, 1.0, 0.5, 0.0, 0.5, 0.75, 0.5, 0.25, 0.5, 1.0, 0.5, 0.0, 0.5)
"""Of moves, in parts of the range: three lengths, and the middle several times from either side."""

MARGIN = 0.1
"""Part of the range at either end that is only travelled: lost motion is taken up there."""

LOOKS = 20
"""At the readback after a move."""

FRAMES_AFTER = (6, 24)
"""At least and at most after a move."""

SWITCHES = 3
"""On and off again."""

FRAMES_AFTER_SWITCH = 2

BEYOND = 0.01
"""Of the distance between its limits: so far beyond an axis is asked whether it would go."""


@plan
def check_instrument(
    detectors: Detectors,
    axis: FocusAxis,
    *,
    bounds_um: tuple[float, float],
    analysis: CheckingAnalysis,
    leds: PatternLight | None = None,
    lit: str = "brightfield",
    dark: str = "off",
    depth_of_field_um: float | None = None,
    full_scale: float | None = None,
    planes: int = 21,
    watch_s: float = 1.0,
    clock: Clock | None = None,
    timeout_s: float = 60.0,
    md: CustomPlanMetadata | None = None,
) -> MsgGenerator[CheckReport]:
    """Try an instrument, device by device, and say what it is like; in a run of its own.

    Every device is read. Frames are taken with nothing changed, for their levels, noise and latency. The
    light is switched off and on. The axis is asked for positions beyond its limits, without moving; then it
    moves within the range, for its errors, speed, backlash and settling; frames along the range, upwards and
    downwards, tell whether the image depends on it. In the end axis and light are as before. A device that
    fails is reported and left alone, and the others are tried all the same.

    Parameters
    ----------
    detectors : sequence of Readable
        The camera first.
    axis : FocusAxis
        What focuses, in um.
    bounds_um : tuple of float
        Lowest and highest position. It holds the start, and the axis is not sent beyond, whatever happens.
    analysis : CheckingAnalysis
        `FrameCheckAnalysis`, subscribed to the RunEngine before the run opens.
    leds : PatternLight, optional
        The light, if it can be switched.
    lit, dark : str
        Patterns with light, if none is shown at first, and without.
    depth_of_field_um, full_scale : float, optional
        Of the instrument and of its camera, if they are known.
    planes : int
        Frames along the range, each way.
    watch_s : float
        How long the axis is watched after a move.
    clock : Clock, optional
        That times are taken on; a session's own, by default that of the computer.
    timeout_s : float
        Longest wait for any device; one that is later has failed.
    md : dict, optional
        Metadata of the run; it wins over what the plan itself says.

    Returns
    -------
    CheckReport
        Also recorded, in the stream ``check_report``; each frame is in ``check``, each move in
        ``check_moves``, each readback after one in ``check_settling``, each switch in ``check_light``.

    Raises
    ------
    ValueError
        If an argument makes no sense or the axis stands outside the range; before anything moves.
    NotSubscribedError
        If the analysis is not subscribed; before anything moves.
    """
    low_um, high_um = interval_um("bounds_um", bounds_um)
    if not isinstance(analysis, CheckingAnalysis):
        raise ValueError(f"analysis must examine frames, as FrameCheckAnalysis, got {analysis!r}")
    if planes < 7:
        raise ValueError(f"planes must be at least 7, got {planes!r}")
    for name, value in (("watch_s", watch_s), ("timeout_s", timeout_s)):
        check_positive(name, value)
    check_positive("depth_of_field_um", depth_of_field_um)
    check_positive("full_scale", full_scale)
    metadata = {
        "plan_name": "check_instrument",
        "detectors": [detector.name for detector in detectors],
        "motors": [axis.name],
        "plan_args": {
            "detectors": list(map(repr, detectors)),
            "axis": repr(axis),
            "leds": repr(leds),
            "bounds_um": [low_um, high_um],
            "planes": planes,
            "watch_s": watch_s,
        },
        "versions": versions(),
        "hints": {"dimensions": [([axis.name], "check")]},
        **(md or {}),
    }
    start_um, dead = yield from _start_of(axis, (low_um, high_um))
    measured = Measured(
        bounds_um=(low_um, high_um),
        start_um=(low_um + high_um) / 2 if start_um is None else start_um,
        axis=axis.name,
        camera=detectors[0].name,
        light="" if leds is None else leds.name,
        depth_of_field_um=depth_of_field_um,
        full_scale=full_scale,
        exposure_settable=is_settable(exposure_time_of(detectors[0])),
    )
    trial = Trial(
        detectors,
        axis,
        leds,
        analysis=analysis,
        clock=clock or WallClock(),
        timeout_s=timeout_s,
        measured=measured,
        dry_run=start_um is None and dead is None,
    )
    if dead is not None:
        trial.failed(axis.name, "say where it is", dead)
    reports = []  # what a run decorator returns is the uid of the run

    @bpp.run_decorator(md=metadata)
    def checking() -> MsgGenerator[None]:
        if not trial.dry_run:
            analysis.require_open_run()
        try:
            yield from _try_all(trial, planes, watch_s, lit, dark)
            yield from trial.end()
            report = assess(measured)
            yield from trial.record(report)
        except Exception:
            yield from trial.put_back()
            raise
        reports.append(report)

    yield from axis_limits_wrapper(with_timeout(checking(), timeout_s), axis, (low_um, high_um))
    return reports[0]


def _start_of(
    axis: FocusAxis, bounds_um: tuple[float, float]
) -> MsgGenerator[tuple[float | None, Exception | None]]:
    """Return where the axis is, None in a dry run; and what it said instead."""
    try:
        start_um = yield from bps.rd(axis, default_value=None)
    except RunEngineControlException:
        raise
    except Exception as error:
        return None, error
    if start_um is None:
        return None, None
    if not bounds_um[0] <= start_um <= bounds_um[1]:
        raise ValueError(f"bounds_um {bounds_um} must contain the start: {axis.name} is at {start_um} um")
    return float(start_um), None


def _try_all(trial: Trial, planes: int, watch_s: float, lit: str, dark: str) -> MsgGenerator[None]:
    camera, axis, measured = trial.camera.name, trial.axis.name, trial.measured
    for device in trial.devices:
        yield from trial.attempt(device.name, "be read", trial.read(device))
    yield from trial.stage()
    yield from bps.checkpoint()
    if trial.leds is not None:
        yield from trial.attempt(trial.leds.name, "be switched", _switch(trial, lit, dark))
    yield from trial.attempt(camera, "take frames", _shoot(trial, "still", measured.still, STILLS))
    yield from trial.attempt(axis, "be asked for positions beyond its limits", _ask_beyond(trial))
    yield from trial.attempt(axis, "move within the range", _move_about(trial))
    yield from _look_along(trial, planes)
    yield from _watch_settling(trial, watch_s)


def _shoot(trial: Trial, step: str, shots: list[Shot], number: int = 1) -> MsgGenerator[None]:
    for _ in range(number):
        shot = yield from trial.shoot(step)
        if shot is not None:
            shots.append(shot)


def _switch(trial: Trial, lit: str, dark: str) -> MsgGenerator[None]:
    """Switch the light off and on, and end with light on."""
    assert trial.leds is not None  # noqa: S101 - for the type checker
    lighting = trial.lighting = yield from lighting_of(trial.leds)
    shown = lit if str(lighting.before) in ("off", dark) else lighting.before
    refusal = yield from refused_by(trial.leds, [shown, dark])
    if refusal is not None:
        raise refusal
    yield from lighting.show(shown)
    for number in range(2 * SWITCHES):
        on = number % 2 == 1
        pattern = shown if on else dark
        began_s = yield from trial.now()
        yield from lighting.show(pattern)
        seconds = (yield from trial.now()) - began_s
        step, shots = "lit" if on else "dark", []
        yield from _record(Values("check_light", pattern=str(pattern), seconds=seconds), "check_light")
        yield from trial.attempt(
            trial.camera.name, "take frames", _shoot(trial, step, shots, FRAMES_AFTER_SWITCH)
        )
        trial.measured.switches.append(Switch(str(pattern), on, seconds, tuple(shots)))


def _ask_beyond(trial: Trial) -> MsgGenerator[None]:
    """Ask the axis whether it would go beyond its limits; nothing moves."""
    measured, axis = trial.measured, trial.axis
    limits = getattr(axis, "limits", None)
    if limits is not None and limits[0] < limits[1]:
        measured.limits_um = (float(limits[0]), float(limits[1]))
    if isinstance(axis, Checkable):
        low_um, high_um = measured.limits_um or (-1e9, 1e9)
        beyond_um = BEYOND * (high_um - low_um)
        measured.refuses = {}
        for position_um in (low_um - beyond_um, high_um + beyond_um):
            refusal = yield from refused_by(axis, [position_um])
            measured.refuses[position_um] = refusal is not None
    refusal = yield from refused_by(axis, measured.bounds_um)
    if refusal is not None:
        raise refusal
    for _ in range(RESTS):
        measured.rest_um.append((yield from trial.where()))


def _move_about(trial: Trial) -> MsgGenerator[None]:
    for part in TARGETS:
        yield from trial.move(_at(trial, part))


def _look_along(trial: Trial, planes: int) -> MsgGenerator[None]:
    """Take frames along the range, upwards and then downwards."""
    parts = np.linspace(MARGIN, 1 - MARGIN, planes).tolist()
    for step, first, along in (("up", 0.0, parts), ("down", 1.0, parts[::-1])):
        yield from trial.attempt(trial.axis.name, "move within the range", trial.move(_at(trial, first)))
        for part in along:
            if not trial.works(trial.axis, trial.camera):
                return
            moving = trial.move(_at(trial, part))
            yield from trial.attempt(trial.axis.name, "move within the range", moving)
            yield from trial.attempt(
                trial.camera.name, "take frames", _shoot(trial, step, getattr(trial.measured, step))
            )


def _watch_settling(trial: Trial, watch_s: float) -> MsgGenerator[None]:
    """Go a long way to where the image changes most along the axis; watch the readback, and then frames."""
    measured, axis = trial.measured, trial.axis.name
    steepest = flank(measured.up)
    target_um = _at(trial, 0.5) if steepest is None else steepest.position_um
    if (yield from trial.attempt(axis, "move within the range", _go_far(trial, target_um))):
        yield from trial.attempt(axis, "be read", _read_back(trial, watch_s))
    if trial.works(trial.camera) and (
        yield from trial.attempt(axis, "move within the range", _go_far(trial, target_um))
    ):
        measured.settled_s = yield from trial.now()
        least, most = FRAMES_AFTER
        for number in range(most):
            if number >= least and (yield from trial.now()) > measured.settled_s + watch_s:
                break
            # a fast camera is held back: its frames are to show all of the time
            yield from trial.wait_until(measured.settled_s + number * watch_s / most)
            shooting = _shoot(trial, "settling", measured.settling)
            if not (yield from trial.attempt(trial.camera.name, "take frames", shooting)):
                break


def _go_far(trial: Trial, target_um: float) -> MsgGenerator[None]:
    low_um, high_um = trial.measured.bounds_um
    yield from trial.move(low_um if target_um - low_um > MARGIN * (high_um - low_um) else high_um)
    yield from trial.move(target_um)


def _read_back(trial: Trial, watch_s: float) -> MsgGenerator[None]:
    done_s = yield from trial.now()
    for number in range(LOOKS):
        yield from trial.wait_until(done_s + number * watch_s / LOOKS)
        position_um = yield from trial.where()
        seconds = (yield from trial.now()) - done_s
        trial.measured.settling_um.append((seconds, position_um))
        values = Values("check_settling", seconds=seconds, position_um=position_um)
        yield from _record(values, "check_settling")


def _at(trial: Trial, part: float) -> float:
    """Return a position by its part of the range, which no rounding leaves."""
    low_um, high_um = trial.measured.bounds_um
    return min(max(low_um + part * (high_um - low_um), low_um), high_um)
