"""A focus map as a picture."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from bluesky_autofocus.focus_map._map import FocusMap

__all__ = ["draw"]

LONGEST = 0.9
"""Line of the greatest astigmatism, as a part of the shorter side of a tile."""

SURFACE_POINTS = 41
"""Along each side of the frame, between which contours are drawn."""


def draw(focus_map: "FocusMap", axes: Any = None) -> Any:
    """Draw the focus of each tile in colour, the surface as contours, astigmatism as lines; return the axes.

    Tiles that do not agree are crossed out, those without a focus are left white. The length of a line goes
    by the distance of the line foci, its direction is that of the gradients that are in focus highest.

    Parameters
    ----------
    focus_map : FocusMap
    axes : matplotlib.axes.Axes, optional
        By default those of a new figure.
    """
    if axes is None:
        from matplotlib.figure import Figure

        axes = Figure(figsize=(6, 5), layout="constrained").add_subplot()
    height_px, width_px = focus_map.frame_px
    mean_um = focus_map.mean_um if focus_map.believed.any() else 0.0
    picture = axes.imshow(
        focus_map.round_um - mean_um, extent=(0, width_px, height_px, 0), cmap="viridis", aspect="equal"
    )
    axes.figure.colorbar(picture, ax=axes, label=f"focus less {mean_um:.2f} um (um)")
    if focus_map.believed.any():
        _draw_surface(focus_map, axes, mean_um)
        _draw_lines(focus_map, axes)
    axes.set_xlabel("x (px)")
    axes.set_ylabel("y (px)")
    believed, agreeing = int(focus_map.believed.sum()), int(focus_map.agreeing.sum())
    axes.set_title(f"{believed} of {focus_map.focus_um.size} tiles in focus, {agreeing} agree")
    return axes


def _draw_surface(focus_map: "FocusMap", axes: Any, mean_um: float) -> None:
    height_px, width_px = focus_map.frame_px
    along = np.linspace(0, 1, SURFACE_POINTS)
    surface_um = np.array([[focus_map.surface.at(row, column)[0] for column in along] for row in along])
    if np.ptp(surface_um) > 0:
        contours = axes.contour(
            along * width_px, along * height_px, surface_um - mean_um, colors="white", linewidths=0.8
        )
        axes.clabel(contours, fontsize="small")
    for row, column in np.argwhere(focus_map.believed & ~focus_map.agreeing):
        x_px, y_px = _middle(focus_map, row, column)
        axes.plot(x_px, y_px, "x", color="tab:red", markersize=14)


def _draw_lines(focus_map: "FocusMap", axes: Any) -> None:
    told = np.isfinite(focus_map.line_foci_um).any(axis=-1)
    # an element that the texture does not tell is drawn as none
    straight_um, diagonal_um = np.moveaxis(np.nan_to_num(focus_map.line_foci_um), -1, 0)
    size_um = np.hypot(straight_um, diagonal_um)
    if not size_um.max() > 0:
        return
    angle = np.arctan2(diagonal_um, straight_um) / 2
    longest_px = LONGEST * min(np.divide(focus_map.frame_px, focus_map.focus_um.shape))
    half_px = longest_px / 2 * size_um / size_um.max()
    for row, column in np.argwhere(told):
        x_px, y_px = _middle(focus_map, row, column)
        dx_px = half_px[row, column] * np.cos(angle[row, column])
        dy_px = half_px[row, column] * np.sin(angle[row, column])
        axes.plot([x_px - dx_px, x_px + dx_px], [y_px - dy_px, y_px + dy_px], color="tab:orange", lw=2)


def _middle(focus_map: "FocusMap", row: int, column: int) -> tuple[float, float]:
    rows, columns = focus_map.focus_um.shape
    height_px, width_px = focus_map.frame_px
    return (column + 0.5) * width_px / columns, (row + 0.5) * height_px / rows
