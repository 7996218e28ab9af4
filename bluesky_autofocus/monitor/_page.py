"""What one browser shows, brought up to date while a run goes on."""

import time
from collections.abc import Callable

from bokeh.document import Document
from bokeh.layouts import column, row
from bokeh.models import Div

from bluesky_autofocus.callbacks import WatchedRun
from bluesky_autofocus.monitor._plots import AgainstTime, Curve, Newest, OverStage, Tiles
from bluesky_autofocus.monitor._words import failures, heading

__all__ = ["Page"]

PERIOD_MS = 500
"""Time from one look to the next; what has not changed is not sent again."""

STYLES: dict[str, str | None] = {"font-size": "1.2rem", "line-height": "1.3"}
"""To be read from across a room."""


class Page:
    """The plots of one browser.

    Parameters
    ----------
    document : bokeh.document.Document
        Of the browser's session.
    shown : callable
        Returns the run to show, or None.
    """

    def __init__(self, document: Document, shown: Callable[[], WatchedRun | None]) -> None:
        self._shown = shown
        self._seen: tuple[str, int] | None = None
        self._heading, self._failures = (Div(width_policy="max", styles=STYLES) for _ in range(2))
        self._plots = [Curve(), AgainstTime(), OverStage(), Tiles(), Newest()]
        curve, against_time, over_stage, tiles, newest = (plot.figure for plot in self._plots)
        self.update()
        document.title = "focus"
        document.add_root(
            column(
                self._heading,
                row(curve, against_time, sizing_mode="stretch_width"),
                row(over_stage, tiles, newest, sizing_mode="stretch_width"),
                self._failures,
                sizing_mode="stretch_width",
            )
        )
        document.add_periodic_callback(self.update, PERIOD_MS)

    def update(self) -> None:
        """Show what has changed."""
        run = self._shown()
        self._heading.text = heading(run, time.time())
        now = None if run is None else (run.start["uid"], run.changes)
        if now == self._seen:
            return
        self._seen = now
        self._failures.text = failures(run)
        for plot in self._plots:
            if run is not None:
                plot.show(run)
