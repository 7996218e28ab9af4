"""What a person at the instrument sees while a run goes on: a window of plots."""

import logging
import time
from collections.abc import Callable
from typing import Any

from bluesky.callbacks.core import make_class_safe
from bluesky.callbacks.mpl_plotting import QtAwareCallback

from bluesky_autofocus.callbacks._plot import draw_focus_curve
from bluesky_autofocus.callbacks._views import draw_focus_against_time, draw_focus_surface, draw_tiles
from bluesky_autofocus.callbacks._watched import Watched
from bluesky_autofocus.callbacks._watched_run import WatchedRun

__all__ = ["LiveView", "draw_run"]

logger = logging.getLogger(__name__)

INTERVAL_S = 0.5
"""Least time from one drawing to the next: four plots take a tenth of a second."""


@make_class_safe(logger=logger)
class LiveView(QtAwareCallback):
    """Draw the focus curve, focus against time and place, and the tiles of a run, while it goes on.

    A window that fails never stops an experiment: what goes wrong is logged. It draws at most every half
    second, so it does not slow down what is fast, and always when a run ends; with a Qt window on the main
    thread, as bluesky's own plots do.

    Parameters
    ----------
    make_figure : callable, optional
        Returns the matplotlib figure to draw into; by default a window, opened anew where it was closed.
    interval_s : float
        Least time from one drawing to the next.
    """

    def __init__(
        self, make_figure: Callable[[], Any] | None = None, *, interval_s: float = INTERVAL_S
    ) -> None:
        super().__init__()
        self.watched = Watched()
        self._make_figure = make_figure or _window
        self._interval_s = interval_s
        self._drawn_s = float("-inf")

    def start(self, doc: Any) -> None:
        """Take in a document."""
        self._take("start", doc)

    def descriptor(self, doc: Any) -> None:
        """Take in a document."""
        self._take("descriptor", doc)

    def stream_resource(self, doc: Any) -> None:
        """Take in a document."""
        self._take("stream_resource", doc)

    def stream_datum(self, doc: Any) -> None:
        """Take in a document."""
        self._take("stream_datum", doc)

    def event(self, doc: Any) -> Any:
        """Take in a document; draw, unless that was just done."""
        self._take("event", doc)
        if time.monotonic() - self._drawn_s > self._interval_s:
            self.draw()
        return doc

    def stop(self, doc: Any) -> None:
        """Take in a document, draw."""
        self._take("stop", doc)
        self.draw()

    def _take(self, name: str, doc: Any) -> None:
        self.watched(name, doc)

    def draw(self) -> None:
        """Draw what is known now, if there is anything to see."""
        run = self.watched.run
        if run is None or not (run.curve.points or run.focusings or run.tiles):
            return
        run.develop()
        figure = self._make_figure()
        draw_run(figure, run)
        figure.canvas.draw_idle()
        self._drawn_s = time.monotonic()


def draw_run(figure: Any, run: WatchedRun) -> None:
    """Draw into a matplotlib figure what there is to see of a run: what there is nothing of is left out."""
    figure.clear()
    wanted: list[Callable[[Any], Any]] = []
    if run.curve.points:
        wanted.append(lambda axes: draw_focus_curve(axes, run.curve))
    if len(run.focusings) > 1:
        wanted.append(lambda axes: draw_focus_against_time(axes, run))
    if run.has_surface:
        wanted.append(lambda axes: draw_focus_surface(axes, run))
    if run.tiles:
        wanted.append(lambda axes: draw_tiles(axes, run))
    columns = 1 if len(wanted) == 1 else 2
    rows = -(-len(wanted) // columns)
    for number, draw in enumerate(wanted, 1):
        draw(figure.add_subplot(rows, columns, number))
    figure.suptitle(run.title)


def _window() -> Any:
    import matplotlib.pyplot as plt

    if plt.fignum_exists("focus"):
        return plt.figure("focus")
    return plt.figure("focus", figsize=(11, 8), layout="constrained")
