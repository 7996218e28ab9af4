"""Small pictures of the frames of a run, and a map of them."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.callbacks._focusing import Focusing
from bluesky_autofocus.callbacks._place import Place

__all__ = ["THUMBNAIL_PX", "Box", "Mosaic", "Tile", "TileMap", "map_of", "on_screen", "thumbnail"]

THUMBNAIL_PX = 64
"""Of the longer side of a small picture."""

MOST_MOSAIC_PX = 768
"""Of the longer side of a mosaic: what is sent to a page each time that it changes stays about 2 MB."""

MARGIN = 0.04
"""Of a tile, by which the frames of neighbours stay apart."""

STRIP = 12
"""Frames without a place are laid out in rows of so many."""

LIMITS = (0.5, 99.5)
"""Percentiles of the grey levels of a mosaic that become black and white."""


@dataclasses.dataclass
class Tile:
    """The newest frame of a place, and the newest focusing that was done for it.

    Parameters
    ----------
    number : int
        Of its Event.
    time_s : float
        Seconds since 1970.
    focusing : Focusing or None
        None where none was done for it.
    focus_um : float
        Where its focus was taken to be; NaN where the plan does not say.
    said : str
        One of `COLOURS`, where the plan said on what its focus rests; empty where it was focused.
    picture : numpy.ndarray or None
        None where it was not exposed, or not looked at yet.
    waiting : tuple or None
        The `stream_resource` and the row of a frame that was not looked at yet.
    """

    number: int
    time_s: float
    place: Place
    focusing: Focusing | None = None
    focus_um: float = math.nan
    said: str = ""
    picture: NDArray[np.float32] | None = None
    waiting: tuple[Mapping[str, Any], int] | None = None

    @property
    def kind(self) -> str:
        """What its focus rests on, one of `COLOURS`."""
        return self.said or ("not focused" if self.focusing is None else self.focusing.kind)


@dataclasses.dataclass(frozen=True)
class Box:
    """What a tile covers of a map."""

    left: float
    bottom: float
    width: float
    height: float

    @property
    def middle(self) -> tuple[float, float]:
        """Its centre."""
        return self.left + self.width / 2, self.bottom + self.height / 2

    @property
    def inner(self) -> "Box":
        """What is left of it beside a margin."""
        x, y = MARGIN * self.width, MARGIN * self.height
        return Box(self.left + x, self.bottom + y, self.width - 2 * x, self.height - 2 * y)


@dataclasses.dataclass(frozen=True)
class Mosaic:
    """Small pictures put where they were taken.

    Parameters
    ----------
    pixels : numpy.ndarray of uint8, shape (rows, columns, 4)
        Red, green, blue and opacity, the highest row first; transparent where there is no picture.
    box : Box
        What it covers.
    """

    pixels: NDArray[np.uint8]
    box: Box


@dataclasses.dataclass(frozen=True)
class TileMap:
    """Tiles where they were taken.

    Parameters
    ----------
    tiles : list of Tile
    boxes : list of Box
        What each covers.
    unit : str
        Of the map: "um", "tile" or "frame".
    """

    tiles: list[Tile]
    boxes: list[Box]
    unit: str

    @property
    def title(self) -> str:
        """How many there are."""
        return "1 tile" if len(self.tiles) == 1 else f"{len(self.tiles)} tiles"

    def mosaic(self) -> Mosaic | None:
        """Return the pictures put together, all with the same black and white; None where there is none."""
        shown = [(tile.picture, box) for tile, box in zip(self.tiles, self.boxes, strict=True)]
        there = [(picture, box) for picture, box in shown if picture is not None]
        if not there:
            return None
        left, bottom = min(box.left for box in self.boxes), min(box.bottom for box in self.boxes)
        right = max(box.left + box.width for box in self.boxes)
        top = max(box.bottom + box.height for box in self.boxes)
        widest = max(self.boxes[0].width, self.boxes[0].height)
        scale = min(THUMBNAIL_PX / widest, MOST_MOSAIC_PX / max(right - left, top - bottom))
        pixels = np.zeros((round((top - bottom) * scale), round((right - left) * scale), 4), np.uint8)
        coloured = on_screen([picture for picture, _ in there])
        for colours, (_, box) in zip(coloured, there, strict=True):
            x0, x1 = (round((x - left) * scale) for x in (box.left, box.left + box.width))
            y0, y1 = (round((top - y) * scale) for y in (box.bottom + box.height, box.bottom))
            _put(colours, pixels[y0:y1, x0:x1])
        return Mosaic(pixels, Box(left, bottom, right - left, top - bottom))


def map_of(tiles: Iterable[Tile]) -> TileMap:
    """Return where tiles were taken.

    By the stage where it was read for all of them, in um and y upwards; else by column and row; else in the
    order in which they were taken. Rows go downwards.
    """
    tiles = list(tiles)
    places = [tile.place for tile in tiles]
    if all(place.known for place in places) and len({place.key for place in places}) > 1:
        wide_um = _spacing(place.x_um for place in places)
        high_um = _spacing(place.y_um for place in places)
        wide_um, high_um = wide_um or high_um or 1.0, high_um or wide_um or 1.0
        boxes = [
            Box(place.x_um - wide_um / 2, place.y_um - high_um / 2, wide_um, high_um) for place in places
        ]
        return TileMap(tiles, boxes, "um")
    numbers = [(place.column, place.row) for place in places]
    boxes = [
        Box(float(column), -row - 1.0, 1.0, 1.0)
        for column, row in numbers
        if column is not None and row is not None
    ]
    if len(boxes) == len(tiles):
        return TileMap(tiles, boxes, "tile")
    strip = [Box(float(n % STRIP), -(n // STRIP) - 1.0, 1.0, 1.0) for n in range(len(tiles))]
    return TileMap(tiles, strip, "frame")


def _spacing(positions: Iterable[float]) -> float | None:
    """Return the usual distance of neighbours; None if all are at one position.

    What a stage reads back scatters: positions much closer than the widest step are one.
    """
    ascending = np.unique(np.round(list(positions), 6))
    steps = np.diff(ascending)
    if len(steps) == 0:
        return None
    return float(np.median(steps[steps > 0.2 * steps.max()]))


def thumbnail(frame: NDArray[Any], side_px: int = THUMBNAIL_PX) -> NDArray[np.float32]:
    """Return a small picture of a frame, in its grey levels: means of areas.

    Parameters
    ----------
    frame : numpy.ndarray, shape (H, W) or (H, W, 3)
    side_px : int
        Its longer side, or that of the frame where that is less.

    Returns
    -------
    numpy.ndarray of float32
        Of the same kind.
    """
    scale = min(1.0, side_px / max(frame.shape[:2]))
    return _resized(np.asarray(frame, np.float32), scale)


def on_screen(pictures: Sequence[NDArray[np.float32]]) -> list[NDArray[np.uint8]]:
    """Return pictures as colours of a screen, shape (H, W, 3), all with the same black and white."""
    low, high = np.nanpercentile(np.concatenate([picture.ravel() for picture in pictures]), LIMITS)
    if not low < high:  # of one grey level, black or saturated: shown grey
        low, high = low - 1.0, high + 1.0
    scaled = [np.clip((picture - low) * (255 / (high - low)), 0, 255) for picture in pictures]
    grey = [np.nan_to_num(picture).astype(np.uint8) for picture in scaled]
    return [one if one.ndim == 3 else np.repeat(one[..., None], 3, axis=2) for one in grey]


def _put(colours: NDArray[np.uint8], pixels: NDArray[np.uint8]) -> None:
    """Put a picture in the middle of some pixels, as large as it fits."""
    rows, columns = pixels.shape[:2]
    if not (rows and columns):
        return
    scale = min(rows / colours.shape[0], columns / colours.shape[1])
    fitted = _resized(colours, scale)[:rows, :columns]
    down, across = (rows - fitted.shape[0]) // 2, (columns - fitted.shape[1]) // 2
    part = pixels[down : down + fitted.shape[0], across : across + fitted.shape[1]]
    part[..., :3], part[..., 3] = fitted, 255


def _resized(picture: NDArray[Any], scale: float) -> NDArray[Any]:
    import cv2

    rows, columns = (max(1, round(side * scale)) for side in picture.shape[:2])
    return np.asarray(cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_AREA), picture.dtype)
