"""A self-contained HTML page about one run: its verdict, its focus curve, its first and last frames."""

import base64
import io
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_autofocus.callbacks import FocusRecord, draw_focus_curve, rows_of_events

__all__ = ["write_report"]


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
        If the run holds no readings.
    """
    import jinja2

    record = FocusRecord.of(run)
    if not record.points:
        raise ValueError(f"run {record.start.get('uid', run)} holds no readings: nothing to report")
    source = resources.files("bluesky_autofocus").joinpath("report.html").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True).from_string(source)
    start = run.metadata["start"]
    stop = run.metadata.get("stop") or {}
    first, last = record.points[0], record.points[-1]
    page = template.render(
        title=title or f"{start.get('plan_name', 'run')} {start['uid'][:8]}",
        start=start,
        stop=stop,
        duration_s=stop.get("time", start["time"]) - start["time"],
        verdicts=record.verdicts,
        curve=_curve_png(record),
        before={"point": first, "png": _frame_png(_frame(run, first))},
        after={"point": last, "png": _frame_png(_frame(run, last))},
        points=record.points,
    )
    path = Path(path)
    path.write_text(page, encoding="utf-8")
    return path


def _frame(run: Any, point: Any) -> np.ndarray:
    """Return the frame that a reading came from, as databroker gives it."""
    stream = run[point.stream]
    image = next(key for key, data in stream.metadata["data_keys"].items() if data.get("external"))
    return np.asarray(stream[image][rows_of_events(run, point.stream)[point.seq_num]])


def _curve_png(record: FocusRecord) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    draw_focus_curve(figure.add_subplot(), record)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return base64.b64encode(file.getvalue()).decode()


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
