"""Draw with matplotlib what a watched run shows: focus against time and place, and its tiles."""

from typing import Any

import numpy as np

from bluesky_autofocus.callbacks._focusing import COLOURS, MARKERS, Focusing
from bluesky_autofocus.callbacks._watched_run import WatchedRun

__all__ = ["draw_focus_against_time", "draw_focus_surface", "draw_tiles"]


def draw_focus_against_time(axes: Any, run: WatchedRun) -> None:
    """Draw where each focusing found the focus, with its standard uncertainty, and which did not."""
    axes.clear()
    for kind, some in run.by_kind.items():
        times, positions = run.times(some), [one.stands_um for one in some]
        label = f"{kind} ({run.outcomes[kind]})"
        axes.scatter(times, positions, marker=MARKERS[kind], s=22, color=COLOURS[kind], label=label, zorder=2)
        sigmas = np.nan_to_num([one.sigma_um if one.found else 0.0 for one in some])
        if sigmas.any():
            axes.errorbar(times, positions, sigmas, fmt="none", ecolor=COLOURS[kind], elinewidth=1, zorder=1)
    axes.set_xlabel(f"time since the start ({run.time_unit[0]})")
    axes.set_ylabel("position of focus (um)")
    axes.set_title("focus against time")
    if run.focusings:
        axes.legend(loc="best", fontsize="small")


def draw_focus_surface(axes: Any, run: WatchedRun) -> None:
    """Draw the position of focus over the stage: circles where it was found, squares where tiles have it.

    Crosses are where it was not found.
    """
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    axes.clear()
    axes.set_title("focus over the stage")
    focusings, tiles = run.surface()
    found = [one for one in focusings if one.found]
    heights = [one.position_um for one in found] + [focus_um for _, focus_um in tiles]
    if heights:
        within = {"clim": (min(heights), max(heights)), "cmap": "viridis"}
        squares = [Rectangle((box.left, box.bottom), box.width, box.height) for box, _ in tiles]
        axes.add_collection(PatchCollection(squares, array=[focus_um for _, focus_um in tiles], **within))
        drawn = axes.scatter(
            *_places(found), c=[one.position_um for one in found], s=45, edgecolors="white", cmap="viridis"
        )
        drawn.set_clim(*within["clim"])
        axes.figure.colorbar(drawn, ax=axes, label="focus (um)")
    lost = [one for one in focusings if one.kind == "not found"]
    axes.scatter(*_places(lost), marker="x", color=COLOURS["not found"])
    axes.set_xlabel("x (um)")
    axes.set_ylabel("y (um)")
    axes.set_aspect("equal", adjustable="datalim")


def _places(focusings: list[Focusing]) -> tuple[list[float], list[float]]:
    return [one.place.x_um for one in focusings], [one.place.y_um for one in focusings]


def draw_tiles(axes: Any, run: WatchedRun) -> None:
    """Draw small pictures of the tiles where they were taken, framed by the colour of their verdict."""
    from matplotlib.collections import PatchCollection
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    axes.clear()
    tile_map = run.tile_map()
    axes.set_title(tile_map.title)
    mosaic = tile_map.mosaic()
    if mosaic is not None:
        whole = mosaic.box
        extent = whole.left, whole.left + whole.width, whole.bottom, whole.bottom + whole.height
        axes.imshow(mosaic.pixels, extent=extent, interpolation="nearest")
    inner = [box.inner for box in tile_map.boxes]
    frames = [Rectangle((box.left, box.bottom), box.width, box.height) for box in inner]
    colours = [COLOURS[tile.kind] for tile in tile_map.tiles]
    axes.add_collection(PatchCollection(frames, facecolor="none", edgecolor=colours, linewidth=2))
    axes.autoscale_view()
    axes.set_aspect("equal", adjustable="box")
    legend = [
        Line2D([], [], color=COLOURS[kind], label=f"{kind} ({n})") for kind, n in run.tile_kinds.items()
    ]
    axes.legend(handles=legend, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize="small", frameon=False)
    if tile_map.unit == "um":
        axes.set_xlabel("x (um)")
        axes.set_ylabel("y (um)")
    else:
        axes.set_xticks([])
        axes.set_yticks([])
