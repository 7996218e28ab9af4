"""What the page says of a run in words: its state, how long it will take, what was not found."""

import math
import time
from collections.abc import Mapping
from html import escape
from typing import Any

from bluesky_autofocus.callbacks import COLOURS, Focusing, WatchedRun

__all__ = ["duration", "failures", "heading", "place_of"]

MOST_FAILURES = 8
"""Of the newest focusings that found nothing."""

QUIET_S = 60.0
"""Longest that a run which goes on may say nothing before the page points it out."""


def duration(seconds: float) -> str:
    """Return a duration as a person says it: ``45 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if not math.isfinite(seconds):
        return "unknown"
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {whole % 60:02d} s" if minutes else f"{whole} s"


def heading(run: WatchedRun | None, now_s: float) -> str:
    """Return what stands at the head of the page, in HTML.

    Parameters
    ----------
    run : WatchedRun or None
        None where there was no run yet.
    now_s : float
        Seconds since 1970.
    """
    at = time.strftime("%H:%M:%S", time.localtime(now_s))
    if run is None:
        return f"<h1>no run yet</h1><p>as of {at}</p>"
    lines = [f"<h1>{escape(run.title)}</h1>", _state(run, now_s, at), _progress(run, now_s), _outcomes(run)]
    return "".join(lines)


def _state(run: WatchedRun, now_s: float, at: str) -> str:
    begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(run.start["time"])))
    plan = escape(str(run.start.get("plan_name", "")))
    if run.ended:
        took = duration(run.newest_s - float(run.start["time"]))
        why = escape(str(run.stop.get("reason") or ""))
        colour = COLOURS["found"] if run.ended == "success" else COLOURS["not found"]
        state = f'<b style="color:{colour}">ended: {escape(run.ended)}</b> {why} after {took}'
    else:
        quiet_s = now_s - run.newest_s
        state = f"going on, last heard of {duration(max(quiet_s, 0.0))} ago"
        if quiet_s > QUIET_S:
            state = f'<b style="color:{COLOURS["not found"]}">{state}</b>'
    return f"<p>{plan}, begun {begun}; {state} (as of {at})</p>"


def _progress(run: WatchedRun, now_s: float) -> str:
    progress = run.progress
    frames = sum(run.frames.values())
    if progress.total is None:
        return f"<p>{frames} frames</p>"
    said = f"{progress.done} of {progress.total} points, {frames} frames"
    if not run.ended:
        said += f", {duration(progress.remaining_s(now_s))} left"
    bar = f'<progress max="{progress.total}" value="{progress.done}" style="width:30em"></progress>'
    return f"<p>{bar} {said}</p>"


def _outcomes(run: WatchedRun) -> str:
    said = ""
    if run.outcomes:
        spent = f"{run.exposures} exposures"
        if run.dose_s:
            spent += f", {run.dose_s:.3g} s of exposure"
        said += f"<p>focusing: {_counted(run.outcomes)} ({spent})</p>"
    return said + (f"<p>tiles: {_counted(run.tile_kinds)}</p>" if run.tiles else "")


def _counted(kinds: Mapping[str, int]) -> str:
    return " ".join(
        f'<span style="color:{COLOURS[kind]}">&#9632;</span> {kind}: {kinds[kind]} &nbsp;'
        for kind in COLOURS
        if kinds.get(kind)
    )


def place_of(one: Any) -> str:
    """Return where a focusing or a tile was, as far as is known."""
    place = one.place
    said = [] if place.row is None else [f"row {place.row}, column {place.column}"]
    if place.known:
        said.append(f"x {place.x_um:.0f}, y {place.y_um:.0f} um")
    return "; ".join(said)


def failures(run: WatchedRun | None) -> str:
    """Return the newest focusings that found nothing, in HTML."""
    lost = [] if run is None else [one for one in run.focusings if one.kind == "not found"]
    if not lost:
        return ""
    rows = "".join(map(_row, reversed(lost[-MOST_FAILURES:])))
    return f"<h2>Not found</h2><table>{rows}</table>"


def _row(one: Focusing) -> str:
    at = time.strftime("%H:%M:%S", time.localtime(one.time_s))
    cells = (at, one.method, one.reason, place_of(one))
    return "<tr>" + "".join(f'<td style="padding-right:1em">{escape(cell)}</td>' for cell in cells) + "</tr>"
