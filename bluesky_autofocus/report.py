"""A self-contained HTML page about one run: what focusing concluded, with pictures and numbers.

Of a focusing run it shows the focus curve and its first and last frames; of a long run focus against time and
place, the tiles, and what was not found.
"""

import base64
import io
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_autofocus.callbacks import (
    COLOURS,
    FocusMapRecord,
    FocusPoint,
    FocusRecord,
    WatchedRun,
    draw_focus_against_time,
    draw_focus_curve,
    draw_focus_surface,
    draw_tiles,
    replayed,
)

__all__ = ["write_report"]

MOST_READINGS = 2000
"""Readings that are listed; beyond, only the first."""

DRAWN_DPI = 110

Document = tuple[str, dict[str, Any]]

FetchFrame = Callable[[Mapping[str, Any], int], np.ndarray]


def write_report(run: Any, path: Path | str, *, title: str | None = None) -> Path:
    """Write a page about a run from what databroker holds of it.

    Parameters
    ----------
    run : databroker.client.BlueskyRun
        ``db[-1]``.
    path : path
        Of the HTML file, which needs no other file and no network.
    title : str, optional
        By default the name of the plan and the start of the uid.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If the run holds neither readings nor frames.
    """
    import jinja2

    documents, fetch = replayed(run)
    record = FocusMapRecord()
    watched = WatchedRun(documents[0][1], fetch)
    for name, doc in documents:
        record(name, doc)
        if name != "start":
            watched(name, doc)
    if not (record.points or watched.frames):
        raise ValueError(
            f"run {record.start.get('uid', run)} holds neither readings nor frames: nothing to report"
        )
    watched.develop(len(watched.tiles) + 1)
    source = resources.files("bluesky_autofocus").joinpath("report.html").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True).from_string(source)
    start, stop = watched.start, watched.stop
    page = template.render(
        title=title or f"{start.get('plan_name', 'run')} {start['uid'][:8]}",
        start=start,
        stop=stop,
        duration_s=stop.get("time", watched.newest_s) - start["time"],
        watched=watched,
        colours=COLOURS,
        verdicts=record.verdicts,
        focusings=sum(watched.outcomes.values()),
        curve=_curve(record, watched),
        pictures=_pictures(watched),
        across=_across(record),
        frames=_frames(documents, fetch, record),
        points=record.points[:MOST_READINGS],
        readings=len(record.points),
        failures=[one for one in watched.focusings if one.kind == "not found"],
        versions=record.verdicts[-1]["versions"] if record.verdicts else start.get("versions", {}),
    )
    path = Path(path)
    path.write_text(page, encoding="utf-8")
    return path


def _curve(record: FocusRecord, watched: WatchedRun) -> str:
    """Return the picture of the only focus curve, or of the newest one; empty where there is none."""
    shown = record if len(watched.focusings) < 2 else watched.curve
    return _drawn(lambda axes: draw_focus_curve(axes, shown)) if shown.points else ""


def _pictures(watched: WatchedRun) -> list[dict[str, str]]:
    """Return the pictures of a long run, of which a focusing run has none."""
    pictures = []
    if len(watched.focusings) > 1:
        drawn = _drawn(lambda axes: draw_focus_against_time(axes, watched))
        pictures.append({"name": "focus against time", "png": drawn})
    if watched.has_surface:
        drawn = _drawn(lambda axes: draw_focus_surface(axes, watched), size=(7, 5))
        pictures.append({"name": "focus over the stage", "png": drawn})
    if watched.tiles:
        drawn = _drawn(lambda axes: draw_tiles(axes, watched), size=(7, 6))
        pictures.append({"name": "tiles", "png": drawn})
    return pictures


def _across(record: FocusMapRecord) -> dict[str, str] | None:
    """Return a picture and a few lines of where the tiles of the frame were in focus, if they were scored."""
    if not record.has_tiles:
        return None
    focus_map = record.focus_map()
    return {"png": _drawn(focus_map.plot, size=(6, 5)), "said": str(focus_map)}


def _drawn(draw: Callable[[Any], None], size: tuple[float, float] = (7, 4)) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    draw(figure.add_subplot())
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DRAWN_DPI)
    return base64.b64encode(file.getvalue()).decode()


def _frames(documents: list[Document], fetch: FetchFrame, record: FocusRecord) -> list[dict[str, Any]]:
    """Return the first and the last frame that were judged, or why there is none any more."""
    if not record.points:
        return []
    frames = []
    for name, point in (("first", record.points[0]), ("last", record.points[-1])):
        shown = {"name": name, "point": point, "png": "", "gone": ""}
        try:
            shown["png"] = _frame_png(fetch(*_row_of(documents, point)))
        except Exception as error:  # deleted, or neither here nor on the server
            shown["gone"] = str(error)
        frames.append(shown)
    return frames


def _row_of(documents: list[Document], point: FocusPoint) -> tuple[Mapping[str, Any], int]:
    """Return where the frame of a reading is: rows and Events of a stream correspond one to one."""
    resources = {doc["uid"]: doc for name, doc in documents if name == "stream_resource"}
    streams = {doc["uid"]: doc["name"] for name, doc in documents if name == "descriptor"}
    of_stream = [
        (name, doc) for name, doc in documents if streams.get(doc.get("descriptor", "")) == point.stream
    ]
    data = [doc for name, doc in of_stream if name == "stream_datum"]
    image = resources[data[0]["stream_resource"]]["data_key"]
    rows = [
        (resources[doc["stream_resource"]], row)
        for doc in data
        if resources[doc["stream_resource"]]["data_key"] == image
        for row in range(doc["indices"]["start"], doc["indices"]["stop"])
    ]
    numbers = [doc["seq_num"] for name, doc in of_stream if name == "event"]
    return rows[numbers.index(point.seq_num)]


def _frame_png(frame: np.ndarray) -> str:
    import cv2

    low, high = np.percentile(frame, (0.5, 99.5))
    scaled = np.clip((frame - low) / max(high - low, 1e-12) * 255, 0, 255).astype(np.uint8)
    if max(scaled.shape[:2]) > 1024:
        factor = 1024 / max(scaled.shape[:2])
        scaled = cv2.resize(scaled, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    if scaled.ndim == 3:
        scaled = scaled[..., ::-1]
    return base64.b64encode(cv2.imencode(".png", np.ascontiguousarray(scaled))[1].tobytes()).decode()
