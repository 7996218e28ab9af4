"""Draw focus curves with matplotlib, live and in reports."""

from typing import Any

from bluesky_autofocus.callbacks._focus_record import FocusRecord

__all__ = ["draw_focus_curve"]


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
    motors = record.start.get("motors", ())  # of a plan that focuses in between, those of the stage
    axes.set_xlabel(f"{motors[0] if len(motors) == 1 else 'position'} (um)")
    unit = next((point.unit for point in record.points), "")
    axes.set_ylabel(f"defocus ({unit})" if unit else "sharpness")
    if record.points:
        axes.legend(loc="best", fontsize="small")
