"""The plots of the page, each of which shows one side of a run with Bokeh."""

import math
import time
from typing import Any

import numpy as np
from bokeh.models import (
    BoxAnnotation,
    ColorBar,
    ColumnDataSource,
    HoverTool,
    LinearColorMapper,
    Span,
    Title,
    Whisker,
)
from bokeh.palettes import Viridis256
from bokeh.plotting import figure
from numpy.typing import NDArray

from bluesky_autofocus.callbacks import COLOURS, Box, Tile, WatchedRun, on_screen
from bluesky_autofocus.monitor._words import place_of

__all__ = ["AgainstTime", "Curve", "Newest", "OverStage", "Tiles"]

SHAPES = {"found": "circle", "held back": "triangle", "left alone": "square", "not found": "x"}
"""As Bokeh calls the markers of matplotlib's."""

HEIGHT_PX = 340


class _Plot:
    """One figure and how it is brought up to date."""

    def __init__(self, title: str, **options: Any) -> None:
        self.title = Title(text=title)
        # typed as loosely as Bokeh takes it
        self.figure: Any = figure(
            title=self.title,
            height=HEIGHT_PX,
            sizing_mode="stretch_width",
            toolbar_location="above",
            tools="pan,wheel_zoom,box_zoom,reset",
            **options,
        )
        self.figure.toolbar.logo = None
        self.figure.visible = False  # until there is something to see

    def show(self, run: WatchedRun) -> None:
        raise NotImplementedError


class Curve(_Plot):
    """The readings of the newest focusing against position, and its verdict."""

    def __init__(self) -> None:
        super().__init__("focus curve", x_axis_label="position (um)", y_axis_label="sharpness")
        self._points, self._line = ColumnDataSource(), ColumnDataSource()
        self.figure.line("position", "value", source=self._line, color="#cccccc")
        self.figure.scatter("position", "value", source=self._points, color="colour", size=9)
        self._focus = Span(dimension="height", line_color=COLOURS["found"], line_width=2, visible=False)
        self._start = Span(dimension="height", line_color="#777777", line_dash="dotted", visible=False)
        self._within = BoxAnnotation(fill_color=COLOURS["found"], fill_alpha=0.15, visible=False)
        for drawn in (self._focus, self._start, self._within):
            self.figure.add_layout(drawn)
        self._line.data = {"position": [], "value": []}
        self._points.data = {"position": [], "value": [], "colour": []}

    def show(self, run: WatchedRun) -> None:
        self.figure.visible = bool(run.curve.points)
        used = [point for point in run.curve.points if point.accepted]
        colours = [Viridis256[round(255 * n / max(len(used) - 1, 1))] for n in range(len(used))]
        values = [point.value for point in used]
        positions = [point.position_um for point in used]
        self._points.data = {"position": positions, "value": values, "colour": colours}
        ascending = sorted(zip(positions, values, strict=True))
        self._line.data = {
            "position": [position for position, _ in ascending],
            "value": [value for _, value in ascending],
        }
        unit = next((point.unit for point in run.curve.points), "")
        self.figure.yaxis.axis_label = f"defocus ({unit})" if unit else "sharpness"
        self._show_verdict(run.curve.verdicts[-1] if run.curve.verdicts else None, len(used))

    def _show_verdict(self, verdict: dict[str, Any] | None, count: int) -> None:
        said = f"{count} readings"
        self._focus.visible = self._within.visible = bool(verdict and verdict["found"])
        self._start.visible = verdict is not None
        if verdict is not None:
            self._start.location = verdict["start_um"]
            said += f"; {verdict['method']}: {verdict['reason']}"
            if verdict["found"]:
                position_um, sigma_um = verdict["position_um"], verdict["sigma_um"]
                said += f" at {position_um:.3f} um"
                self._focus.location = position_um
                if math.isfinite(sigma_um):
                    said += f" +- {sigma_um:.3f} um"
                    self._within.left = position_um - 2 * sigma_um
                    self._within.right = position_um + 2 * sigma_um
                else:
                    self._within.visible = False
        self.title.text = f"focus curve: {said}"


class AgainstTime(_Plot):
    """Where each focusing found the focus, and when."""

    def __init__(self) -> None:
        tips = [("", "@said"), ("where", "@where")]
        super().__init__("focus against time", y_axis_label="position of focus (um)", tooltips=tips)
        self._source = ColumnDataSource(
            {name: [] for name in ("time", "um", "low", "high", "colour", "shape", "said", "where")}
        )
        sigmas = Whisker(base="time", lower="low", upper="high", source=self._source, line_color="colour")
        sigmas.lower_head = sigmas.upper_head = None
        self.figure.add_layout(sigmas)
        self.figure.scatter("time", "um", source=self._source, color="colour", marker="shape", size=9)

    def show(self, run: WatchedRun) -> None:
        some = run.focusings
        self.figure.visible = len(some) > 1
        sigmas = np.nan_to_num([one.sigma_um if one.found else 0.0 for one in some])
        positions = np.array([one.stands_um for one in some])
        self._source.data = {
            "time": run.times(some),
            "um": positions.tolist(),
            "low": (positions - sigmas).tolist(),
            "high": (positions + sigmas).tolist(),
            "colour": [one.colour for one in some],
            "shape": [SHAPES[one.kind] for one in some],
            "said": [f"{one.number}: {one.method}, {one.reason}" for one in some],
            "where": [place_of(one) for one in some],
        }
        self.figure.xaxis.axis_label = f"time since the start ({run.time_unit[0]})"


class OverStage(_Plot):
    """The position of focus over the stage: circles where it was found, squares where tiles have it."""

    def __init__(self) -> None:
        super().__init__(
            "focus over the stage",
            x_axis_label="x (um)",
            y_axis_label="y (um)",
            match_aspect=True,
            tooltips=[("focus", "@um{0.00} um"), ("where", "@x{0}, @y{0} um")],
        )
        self._colours = LinearColorMapper(palette=Viridis256, low=0.0, high=1.0)
        self._found, self._lost, self._tiles = (
            ColumnDataSource({name: [] for name in ("x", "y", "um", "w", "h")}) for _ in range(3)
        )
        colour: Any = {"field": "um", "transform": self._colours}
        self.figure.rect("x", "y", "w", "h", source=self._tiles, fill_color=colour, line_color=None)
        self.figure.scatter(
            "x", "y", source=self._found, fill_color=colour, line_color="white", marker="circle", size=14
        )
        self.figure.scatter("x", "y", source=self._lost, color=COLOURS["not found"], marker="x", size=10)
        self.figure.add_layout(ColorBar(color_mapper=self._colours, title="um"), "right")

    def show(self, run: WatchedRun) -> None:
        focusings, tiles = run.surface()
        found = [one for one in focusings if one.found]
        lost = [one for one in focusings if one.kind == "not found"]
        for source, some in ((self._found, found), (self._lost, lost)):
            source.data = {
                "x": [one.place.x_um for one in some],
                "y": [one.place.y_um for one in some],
                "um": [one.stands_um for one in some],
                "w": [0.0] * len(some),
                "h": [0.0] * len(some),
            }
        self._tiles.data = {
            "x": [box.middle[0] for box, _ in tiles],
            "y": [box.middle[1] for box, _ in tiles],
            "um": [focus_um for _, focus_um in tiles],
            "w": [box.width for box, _ in tiles],
            "h": [box.height for box, _ in tiles],
        }
        heights = [one.position_um for one in found] + [focus_um for _, focus_um in tiles] or [0.0]
        self._colours.low, self._colours.high = min(heights), max(max(heights), min(heights) + 1e-3)
        self.figure.visible = run.has_surface


class Tiles(_Plot):
    """Small pictures of the tiles, framed by the colour of their verdict."""

    def __init__(self) -> None:
        super().__init__("tiles", match_aspect=True)
        self._mosaic = _Image(self.figure)
        self._frames = ColumnDataSource(
            {name: [] for name in ("x", "y", "w", "h", "colour", "said", "where")}
        )
        drawn = self.figure.rect(
            "x", "y", "w", "h", source=self._frames, fill_alpha=0.0, line_color="colour", line_width=3
        )
        tips = [("", "@said"), ("where", "@where")]
        self.figure.add_tools(HoverTool(tooltips=tips, renderers=[drawn]))
        self.figure.grid.visible = False

    def show(self, run: WatchedRun) -> None:
        tile_map = run.tile_map()
        mosaic = tile_map.mosaic()
        if mosaic is not None:
            self._mosaic.show(mosaic.pixels, mosaic.box)
        inner = [box.inner for box in tile_map.boxes]
        self._frames.data = {
            "x": [box.middle[0] for box in inner],
            "y": [box.middle[1] for box in inner],
            "w": [box.width for box in inner],
            "h": [box.height for box in inner],
            "colour": [COLOURS[tile.kind] for tile in tile_map.tiles],
            "said": [_said(tile) for tile in tile_map.tiles],
            "where": [place_of(tile) for tile in tile_map.tiles],
        }
        self.title.text = tile_map.title
        self.figure.axis.visible = tile_map.unit == "um"
        self.figure.visible = bool(tile_map.tiles)


def _said(tile: Tile) -> str:
    focusing = "" if tile.focusing is None else f"; {tile.focusing.method}: {tile.focusing.reason}"
    return f"{tile.kind}{focusing}"


class Newest(_Plot):
    """The newest frame."""

    def __init__(self) -> None:
        super().__init__("newest frame", match_aspect=True)
        self._image = _Image(self.figure)
        self.figure.axis.visible = False
        self.figure.grid.visible = False

    def show(self, run: WatchedRun) -> None:
        tile = run.newest
        self.figure.visible = tile is not None
        if tile is None or tile.picture is None:
            return
        (colours,) = on_screen([tile.picture])
        rows, columns = colours.shape[:2]
        opaque = np.full((rows, columns, 1), 255, np.uint8)
        whole = Box(0.0, 0.0, float(columns), float(rows))
        self._image.show(np.concatenate([colours, opaque], axis=2), whole)
        at = time.strftime("%H:%M:%S", time.localtime(tile.time_s))
        self.title.text = f"newest frame, {at}"


class _Image:
    """One picture in a figure."""

    def __init__(self, into: Any) -> None:
        self._source = ColumnDataSource({name: [] for name in ("image", "x", "y", "dw", "dh")})
        into.image_rgba("image", "x", "y", "dw", "dh", source=self._source)

    def show(self, pixels: NDArray[np.uint8], box: Box) -> None:
        # Bokeh takes the lowest row first, and a pixel as one number
        upwards = np.ascontiguousarray(pixels[::-1]).view(np.uint32)[..., 0]
        self._source.data = {
            "image": [upwards],
            "x": [box.left],
            "y": [box.bottom],
            "dw": [box.width],
            "dh": [box.height],
        }
