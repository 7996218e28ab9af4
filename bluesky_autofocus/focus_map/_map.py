"""Where each tile of a frame is in focus, and what the tiles tell together."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bluesky_autofocus.focus_map._astigmatism import Astigmatism
from bluesky_autofocus.focus_map._peaks import SHAPE_UNCERTAINTY
from bluesky_autofocus.focus_map._saying import lines_of, record_of
from bluesky_autofocus.focus_map._surface import FocusSurface
from bluesky_autofocus.focus_map._tiles import TileFoci
from bluesky_autofocus.sharpness import TileScores

__all__ = ["FocusMap"]

AGREEING_SHARE = 0.75
"""The tiles of a frame agree where so many of those that are not empty lie on one smooth surface."""

LEAST_AGREEING = 4
"""And so many at least: three lie on a plane in any case."""

MAD_OF_ONE_SIGMA = 0.6745


@dataclasses.dataclass(frozen=True, eq=False)
class FocusMap:
    """The local focus of each tile of a frame, and the tilt, curvature and astigmatism that follow.

    Made by `FocusMap.of`.

    Parameters
    ----------
    focus_um, sigma_um : numpy.ndarray
        Where each tile is sharpest, with its standard uncertainty; NaN where it has no peak that can be
        believed. Shape (rows, columns).
    round_um : numpy.ndarray
        Midway between its line foci, where its blur is round (the circle of least confusion): what `focus_um`
        would be on a texture without direction, and is where no line foci can be told. Shape (rows, columns).
    line_foci_um : numpy.ndarray
        Astigmatism of each tile along 0/90 and along 45/135 degrees, see `Astigmatism`; NaN where it cannot
        be told. Shape (rows, columns, 2).
    textured : numpy.ndarray of bool
        Which tiles have a sharpness that depends on the position, with a peak that is believed or without;
        the others are empty. Shape (rows, columns).
    surface : FocusSurface
        Through `round_um` of the tiles that agree.
    residual_um : numpy.ndarray
        `round_um` less the surface, shape (rows, columns).
    agreeing : numpy.ndarray of bool
        Which tiles agree with the surface; others see something else, such as dust. Shape (rows, columns).
    astigmatism : Astigmatism
        Of the frame.
    exposures : int
        How many it was made from.
    frame_px : tuple of int
        Rows and columns of the frame.
    depth_of_field_um, pixel_size_um : float
        NaN where not known.
    """

    focus_um: np.ndarray
    sigma_um: np.ndarray
    round_um: np.ndarray
    line_foci_um: np.ndarray
    textured: np.ndarray
    surface: FocusSurface
    residual_um: np.ndarray
    agreeing: np.ndarray
    astigmatism: Astigmatism
    exposures: int
    frame_px: tuple[int, int]
    depth_of_field_um: float = math.nan
    pixel_size_um: float = math.nan

    @classmethod
    def of(
        cls,
        positions_um: ArrayLike,
        scores: Sequence[TileScores],
        *,
        depth_of_field_um: float | None = None,
        pixel_size_um: float | None = None,
    ) -> "FocusMap":
        """Fit a peak to each tile, and a surface through the peaks.

        Parameters
        ----------
        positions_um : array_like
            Of the N exposures, in any order; shape (N,).
        scores : sequence of TileScores
            Of each exposure: `bluesky_autofocus.sharpness.score_tiles`.
        depth_of_field_um : float, optional
            How narrow a peak can be.
        pixel_size_um : float, optional
            In the sample: with it tilt and curvature are known relative to the size of the frame too.

        Raises
        ------
        ValueError
            If there is no exposure, not one position for each, or they are not of one grid and frame.
        """
        where_um = np.asarray(positions_um, dtype=float)
        if not len(scores) or where_um.shape != (len(scores),):
            raise ValueError(f"expected a position for each exposure, got {where_um.size} for {len(scores)}")
        forms = {(one.sharpness.shape, tuple(one.frame_px)) for one in scores}
        if len(forms) > 1:
            raise ValueError(f"exposures of different grids or frames make no map: {sorted(forms)}")
        frame_px = scores[0].frame_px
        foci = TileFoci.of(where_um, scores, depth_of_field_um)
        believed = np.isfinite(foci.width_um)
        common_um = SHAPE_UNCERTAINTY * float(np.median(foci.width_um[believed])) if believed.any() else 0.0
        surface, residual_um, agreeing = FocusSurface.through(
            foci.round_um, foci.round_sigma_um, common_um, frame_px
        )
        return cls(
            foci.focus_um,
            foci.sigma_um,
            foci.round_um,
            foci.line_foci_um,
            foci.textured,
            surface,
            residual_um,
            agreeing,
            Astigmatism.of(foci.astigmatisms),
            len(scores),
            frame_px,
            depth_of_field_um or math.nan,
            pixel_size_um or math.nan,
        )

    # What the surface says

    @property
    def mean_um(self) -> float:
        """Mean focus over the frame."""
        return float(self.surface.coefficients_um[0])

    @property
    def tilt_x_um(self) -> float:
        """Focus at the right edge less that at the left edge."""
        return float(self.surface.coefficients_um[1])

    @property
    def tilt_y_um(self) -> float:
        """Focus at the lower edge less that at the upper edge."""
        return float(self.surface.coefficients_um[2])

    @property
    def sag_um(self) -> float:
        """Focus in the corners less that in the centre, beyond the tilt: the curvature."""
        return float(self.surface.coefficients_um[3])

    @property
    def sigmas_um(self) -> dict[str, float]:
        """Standard uncertainties of the four above, by their names."""
        names = ("mean_um", "tilt_x_um", "tilt_y_um", "sag_um")
        return dict(zip(names, self.surface.sigmas_um.tolist(), strict=True))

    @property
    def slopes(self) -> tuple[float, float]:
        """Tilt along x and along y in um per um; NaN where the pixel size is not known."""
        height_px, width_px = self.frame_px
        return (
            self.tilt_x_um / (width_px * self.pixel_size_um),
            self.tilt_y_um / (height_px * self.pixel_size_um),
        )

    @property
    def curvature_per_um(self) -> float:
        """One over the radius of the field, in 1/um; NaN where the pixel size is not known."""
        corner_um = math.hypot(*self.frame_px) / 2 * self.pixel_size_um
        return 2 * self.sag_um / corner_um**2

    # Whether the tiles agree

    @property
    def believed(self) -> np.ndarray:
        """Which tiles have a peak that is believed, shape (rows, columns) of bool."""
        return np.isfinite(self.focus_um)

    @property
    def share(self) -> float:
        """Part of the textured tiles that agree with the surface; NaN where all are empty."""
        textured = int(self.textured.sum())
        return int(self.agreeing.sum()) / textured if textured else math.nan

    @property
    def spread_um(self) -> float:
        """Standard deviation of the tiles about the surface, told by the median: a few do not change it."""
        off_um = np.abs(self.residual_um[self.believed])
        return float(np.median(off_um)) / MAD_OF_ONE_SIGMA if len(off_um) else math.nan

    @property
    def agree(self) -> bool:
        """Whether the tiles agree on one surface: evidence that it is focus they see."""
        return int(self.agreeing.sum()) >= LEAST_AGREEING and self.share >= AGREEING_SHARE

    def in_focus_at(self, position_um: float, within_um: float) -> float:
        """Return the part of the tiles that are in focus at a position; NaN where none was found.

        Parameters
        ----------
        position_um : float
            Of the axis, such as that of a verdict.
        within_um : float
            How far off the focus of a tile may be, such as half a depth of field.
        """
        off_um = np.abs(self.focus_um[self.believed] - position_um)
        return float(np.mean(off_um <= within_um)) if len(off_um) else math.nan

    # Where to go

    def position_of(self, tile: tuple[int, int]) -> float:
        """Return where to move the axis to have a tile in focus, in um.

        That is where it is sharpest, or, where it has no focus that agrees with the others, the surface in
        its middle.

        Raises
        ------
        IndexError
            If there is no such tile, naming the grid.
        ValueError
            If nothing is known of it.
        """
        row, column = self._checked(tile)
        if self.agreeing[row, column]:
            return float(self.focus_um[row, column])
        rows, columns = self.focus_um.shape
        position_um, _ = self.surface.at((row + 0.5) / rows, (column + 0.5) / columns)
        if math.isnan(position_um):
            raise ValueError(f"no tile was found in focus, so nothing is known of tile {tile}")
        return position_um

    def roi_of(self, tile: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return the region of a tile, (row_start, row_stop, col_start, col_stop) in px, to focus on alone.

        Raises
        ------
        IndexError
            If there is no such tile, naming the grid.
        """
        row, column = self._checked(tile)
        rows, columns = self.focus_um.shape
        height_px, width_px = self.frame_px
        top, bottom = row * height_px / rows, (row + 1) * height_px / rows
        left, right = column * width_px / columns, (column + 1) * width_px / columns
        return math.ceil(top), math.floor(bottom), math.ceil(left), math.floor(right)

    def _checked(self, tile: tuple[int, int]) -> tuple[int, int]:
        (row, column), (rows, columns) = tile, self.focus_um.shape
        if not (0 <= row < rows and 0 <= column < columns):
            raise IndexError(f"there is no tile {tile}: the map has {rows} rows x {columns} columns, from 0")
        return row, column

    # For people and for the record

    def recorded(self) -> dict[str, Any]:
        """Return what is recorded of it, the same keys and types for all; what has structure is JSON."""
        return record_of(self)

    def __str__(self) -> str:
        """A few lines for a person."""
        return "\n".join(lines_of(self))

    def plot(self, axes: Any = None) -> Any:
        """Draw tiles, surface and line foci into matplotlib axes, by default new ones; return these."""
        from bluesky_autofocus.focus_map._drawing import draw

        return draw(self, axes)
