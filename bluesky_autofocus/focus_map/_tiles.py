"""What each tile tells by itself: where it is sharpest, and where its line foci are."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from bluesky_autofocus.focus_map._astigmatism import TileAstigmatism, tile_astigmatism
from bluesky_autofocus.focus_map._peaks import believed_peak, changes_with_position
from bluesky_autofocus.sharpness import TileScores

__all__ = ["TileFoci"]


@dataclasses.dataclass(frozen=True, eq=False)
class TileFoci:
    """All arrays have the shape of the grid, and are NaN where a tile does not tell.

    Parameters
    ----------
    focus_um, sigma_um : numpy.ndarray
        Where it is sharpest, with its standard uncertainty.
    round_um, round_sigma_um : numpy.ndarray
        Midway between its line foci, or where it is sharpest if those cannot be told; with the uncertainty
        that it does not share with the other tiles.
    width_um : numpy.ndarray
        Of its peak at half height.
    textured : numpy.ndarray of bool
        Whether its sharpness depends on the position, in whatever way.
    line_foci_um : numpy.ndarray
        Astigmatism along 0/90 and 45/135 degrees; the last of three dimensions.
    astigmatisms : list of TileAstigmatism
        Of those tiles that have one.
    """

    focus_um: np.ndarray
    sigma_um: np.ndarray
    round_um: np.ndarray
    round_sigma_um: np.ndarray
    width_um: np.ndarray
    textured: np.ndarray
    line_foci_um: np.ndarray
    astigmatisms: list[TileAstigmatism]

    @classmethod
    def of(
        cls, positions_um: np.ndarray, scores: Sequence[TileScores], depth_of_field_um: float | None
    ) -> "TileFoci":
        """Fit the peaks of all tiles to exposures at N positions."""
        sharpness = np.stack([one.sharpness for one in scores])
        moments = np.stack([one.moments for one in scores])
        grid = sharpness.shape[1:]
        foci = cls._untold(grid)
        for tile in np.ndindex(*grid):
            of_tile = sharpness[:, *tile]
            peak = believed_peak(positions_um, of_tile, depth_of_field_um)
            foci.textured[tile] = peak is not None or changes_with_position(positions_um, of_tile)
            if peak is None:
                continue
            foci.focus_um[tile] = foci.round_um[tile] = peak.centre_um
            foci.sigma_um[tile], foci.round_sigma_um[tile] = peak.sigma_um, peak.fit_sigma_um
            foci.width_um[tile] = peak.width_um
            lines = tile_astigmatism(positions_um, moments[:, :, *tile], depth_of_field_um)
            if lines is not None:
                foci.round_um[tile], foci.round_sigma_um[tile] = lines.mean_um, lines.mean_sigma_um
                foci.line_foci_um[tile] = lines.straight_um, lines.diagonal_um
                foci.astigmatisms.append(lines)
        return foci

    @classmethod
    def _untold(cls, grid: tuple[int, ...]) -> "TileFoci":
        def untold() -> np.ndarray:
            return np.full(grid, np.nan)

        lines = np.full((*grid, 2), np.nan)
        return cls(untold(), untold(), untold(), untold(), untold(), np.zeros(grid, bool), lines, [])
