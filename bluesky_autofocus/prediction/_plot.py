"""A picture of a focus surface."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from bluesky_autofocus.prediction._surface import FocusSurface

__all__ = ["plot_surface"]

_PIXELS = 64
"""Along each side of the picture."""


def plot_surface(surface: "FocusSurface", ax: Any = None) -> Any:
    """Draw where focus is in colour, how uncertain that is in lines, the points, and crosses for outliers.

    What is extrapolated is left blank.

    Parameters
    ----------
    surface : FocusSurface
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default in a new figure.

    Returns
    -------
    matplotlib.axes.Axes
    """
    if ax is None:
        from matplotlib import pyplot

        _, ax = pyplot.subplots(layout="constrained")
    places_um = np.array([(point.x_um, point.y_um) for point in surface.points])
    low_um, high_um = (
        places_um.min(axis=0) - surface.margin_um,
        places_um.max(axis=0) + surface.margin_um,
    )
    x_um, y_um = np.meshgrid(
        *(np.linspace(low, high, _PIXELS) for low, high in zip(low_um, high_um, strict=True))
    )
    position_um, sigma_um = (
        values.reshape(x_um.shape) for values in surface.estimate(x_um.ravel(), y_um.ravel())
    )
    outside_um = np.array([surface.outside_um(*place) for place in zip(x_um.flat, y_um.flat, strict=True)])
    unknown = outside_um.reshape(x_um.shape) > surface.margin_um
    drawn = ax.pcolormesh(x_um, y_um, np.ma.array(position_um, mask=unknown), shading="nearest")
    ax.figure.colorbar(drawn, ax=ax, label="focus (um)")
    uncertain = np.ma.array(sigma_um, mask=unknown)
    lines = ax.contour(x_um, y_um, uncertain, levels=4, colors="white", linewidths=0.8)
    ax.clabel(lines, fmt="+-%.2g um", fontsize="small")
    used = np.array([(point.x_um, point.y_um) for point in surface.used])
    ax.plot(*used.T, "o", color="black", markersize=5, label="focused")
    if surface.rejected:
        ax.plot(*places_um[list(surface.rejected)].T, "x", color="red", markersize=8, label="outlier")
    ax.set(xlabel="x (um)", ylabel="y (um)", aspect="equal", title=f"focus surface, {surface.kind}")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, fontsize="small")
    return ax
