"""Draw focus curves with matplotlib, live and in reports."""

from typing import Any

from bluesky_autofocus.callbacks._focus_record import FocusPoint, FocusRecord

__all__ = ["LiveFocusCurve", "draw_focus_curve"]


def draw_focus_curve(axes: Any, record: FocusRecord) -> None:
    """Draw sharpness, or measured defocus, against position into matplotlib axes.

    Points are coloured in the order in which they were taken; the verdict is a vertical line with a band of
    two standard uncertainties.
    """
    axes.clear()
    for stream in dict.fromkeys(point.stream for point in record.points):
        points = [point for point in record.points if point.stream == stream and point.accepted]
        ascending = sorted(points, key=lambda point: point.position_um)
        axes.plot(
            [point.position_um for point in ascending],
            [point.value for point in ascending],
            color="0.8",
            zorder=1,
        )
        axes.scatter(
            [point.position_um for point in points],
            [point.value for point in points],
            c=range(len(points)),
            cmap="viridis",
            zorder=2,
            label=f"{stream} ({len(points)})",
        )
    for verdict in record.verdicts[-1:]:
        axes.axvline(verdict["start_um"], color="tab:gray", linestyle=":", label="start")
        if verdict["found"]:
            position, sigma = verdict["position_um"], verdict["sigma_um"]
            axes.axvline(position, color="tab:red", label=f"focus {position:.2f} um")
            if sigma == sigma:
                axes.axvspan(position - 2 * sigma, position + 2 * sigma, color="tab:red", alpha=0.15)
        else:
            axes.set_title(f"not found: {verdict['reason']}")
    axes.set_xlabel(f"{', '.join(record.start.get('motors', ['position']))} (um)")
    unit = next((point.unit for point in record.points), "")
    axes.set_ylabel(f"defocus ({unit})" if unit else "sharpness")
    if record.points:
        axes.legend(loc="best", fontsize="small")


class LiveFocusCurve(FocusRecord):
    """Draw the focus curve while it is measured.

    Subscribe it through `bluesky.callbacks.core.make_class_safe` so that a window that fails never stops
    an experiment.
    """

    def __init__(self) -> None:
        super().__init__()
        self._figure: Any = None

    def on_point(self, point: FocusPoint) -> None:
        """Draw a reading."""
        super().on_point(point)
        self._draw()

    def on_verdict(self, verdict: dict[str, Any]) -> None:
        """Draw a verdict."""
        super().on_verdict(verdict)
        self._draw()

    def _draw(self) -> None:
        import matplotlib.pyplot as plt

        if self._figure is None or not plt.fignum_exists(self._figure.number):
            self._figure = plt.figure("focus curve")
            self._figure.add_subplot()
        draw_focus_curve(self._figure.axes[0], self)
        self._figure.canvas.draw_idle()
