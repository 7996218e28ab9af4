"""Astigmatism: how far apart lines of different directions are in focus.

Where a lens is astigmatic, the sharpest position of detail along x is another one than that of detail along
y. Yet the gradient along x of a real texture is made of frequencies all around x, and what is blurred along y
draws its sharpest position to the middle: the distance comes out at half of what it is, or at all of it, as
the texture happens to be. How much it is the frame itself tells, by its spectral moments.
"""

import dataclasses
import math

import numpy as np

from bluesky_autofocus.focus_map._peaks import believed_peak
from bluesky_autofocus.focus_map._robust import robust_fit
from bluesky_autofocus.search._peak_model import PeakModel

__all__ = ["Astigmatism", "TileAstigmatism", "tile_astigmatism"]

DIRECTIONS_DEG = (0, 90, 45, 135)
"""Along which gradients are followed, from x (to the right) towards y (down)."""

LIKENESS = 0.01
"""The curves of two directions are alike, but for their place, to this fraction of their width."""

MOST_UNTOLD = 0.25
"""Lines of one direction tell nothing, and a grid of lines nothing of what is between them. What a texture
does not tell of an astigmatism is taken to be as large as the peaks are wide, or they would be two. Where
more than this fraction is left of that, nothing is said."""

LEAST_TILES = 2
"""That tell an element: one alone is not taken for the frame."""

LEAST_SHARE = 0.5
"""Nor are the fewer."""


@dataclasses.dataclass(frozen=True, eq=False)
class TileAstigmatism:
    """Of one tile.

    Parameters
    ----------
    mean_um, mean_sigma_um : float
        Focus midway between the line foci, where the blur is round (the circle of least confusion), and its
        standard uncertainty, but for what the shape of the peaks has in common.
    straight_um : float
        Line focus of gradients along x less that of gradients along y; NaN where its texture does not tell.
    diagonal_um : float
        Line focus of gradients along 45 degrees, to the lower right, less along 135 degrees; NaN likewise.
    own_sigmas_um, untold_sigmas_um : tuple of float
        Standard uncertainties of these two, from the scatter of the scores, and from what the texture does
        not tell. The second is much the same for all tiles of one texture.
    """

    mean_um: float
    mean_sigma_um: float
    straight_um: float
    diagonal_um: float
    own_sigmas_um: tuple[float, float]
    untold_sigmas_um: tuple[float, float]


def tile_astigmatism(
    positions_um: np.ndarray, moments: np.ndarray, depth_of_field_um: float | None = None
) -> TileAstigmatism | None:
    """Tell the astigmatism of a tile from its moments in all exposures; None where they do not tell it.

    Parameters
    ----------
    positions_um : numpy.ndarray
        Shape (N,).
    moments : numpy.ndarray
        In the order of `bluesky_autofocus.sharpness.SPECTRAL_MOMENTS`, shape (N, 8).
    depth_of_field_um : float, optional
        How narrow a peak can be.

    Notes
    -----
    Under a defocus ``d`` and a traceless symmetric matrix ``S`` of astigmatism, a ray that leaves the lens at
    an angle ``a u`` meets the frame ``a (d + S) u`` off. A nearly Gaussian blur then leaves of the squared
    gradient ``E`` along a direction a maximum at ``d = -tr(J S) / tr(J)``, where ``J`` is the mean of
    ``grad g grad g^T`` of that gradient ``g`` at just that defocus, whatever the texture and however large
    ``S``. So each of four measured positions is a linear equation for the mean focus and the two elements of
    ``S``. Noise is white: what is left of ``J`` in the most blurred exposure is subtracted.
    """
    m20, m11, m02, m40, m31, m22, m13, m04 = moments.T
    most_blurred = int(np.argmin(m40 + 2 * m22 + m04))
    order = np.argsort(positions_um)
    equations: list[tuple[float, float, float]] = []
    peaks: list[PeakModel] = []
    for direction_deg in DIRECTIONS_DEG:
        c, s = math.cos(math.radians(direction_deg)), math.sin(math.radians(direction_deg))
        gradient = c * c * m20 + 2 * c * s * m11 + s * s * m02
        peak = believed_peak(positions_um, gradient, depth_of_field_um)
        if peak is None:
            return None
        xx, xy, yy = (
            np.interp(peak.centre_um, positions_um[order], element[order]) - element[most_blurred]
            for element in (
                c * c * m40 + 2 * c * s * m31 + s * s * m22,
                c * c * m31 + 2 * c * s * m22 + s * s * m13,
                c * c * m22 + 2 * c * s * m13 + s * s * m04,
            )
        )
        if not xx + yy > 0:
            return None
        # the elements of S are minus half the distances of the line foci
        equations.append((1.0, (xx - yy) / (xx + yy) / 2, 2 * xy / (xx + yy) / 2))
        peaks.append(peak)
    return _solved(np.array(equations), peaks)


def _solved(equations: np.ndarray, peaks: list[PeakModel]) -> TileAstigmatism:
    foci_um = np.array([peak.centre_um for peak in peaks])
    # of the shape only that part counts in which the directions differ
    noise = np.diag([peak.fit_sigma_um**2 + (LIKENESS * peak.width_um) ** 2 for peak in peaks])
    width_um = float(np.median([peak.width_um for peak in peaks]))
    known = np.diag([0.0, width_um**-2, width_um**-2])
    weighted = equations.T @ np.linalg.inv(noise)
    covariance = np.linalg.inv(weighted @ equations + known)
    gain = covariance @ weighted
    mean_um, *elements_um = (gain @ foci_um).tolist()
    own_um = np.sqrt(np.diag(gain @ noise @ gain.T)[1:])
    untold_um = np.sqrt(np.maximum(np.diag(covariance)[1:] - own_um**2, 0.0))
    told = untold_um <= MOST_UNTOLD * width_um
    straight_um, diagonal_um = np.where(told, elements_um, np.nan).tolist()
    return TileAstigmatism(
        mean_um,
        math.sqrt(float(covariance[0, 0])),
        straight_um,
        diagonal_um,
        tuple(own_um.tolist()),
        tuple(untold_um.tolist()),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Astigmatism:
    """Of the frame: what most of its tiles agree on.

    Parameters
    ----------
    straight_um, diagonal_um : float
        Distances of the line foci: gradients along x less along y, and along 45 degrees (to the lower right)
        less along 135 degrees. NaN where the tiles do not tell.
    straight_sigma_um, diagonal_sigma_um : float
        Their standard uncertainties.
    """

    straight_um: float = math.nan
    straight_sigma_um: float = math.nan
    diagonal_um: float = math.nan
    diagonal_sigma_um: float = math.nan

    @property
    def size_um(self) -> float:
        """Distance between the line foci."""
        return math.hypot(self.straight_um, self.diagonal_um)

    @property
    def size_sigma_um(self) -> float:
        """Its standard uncertainty, along the direction in which it was found."""
        if not self.size_um:
            return math.hypot(self.straight_sigma_um, self.diagonal_sigma_um)
        parts = (
            self.straight_um * self.straight_sigma_um,
            self.diagonal_um * self.diagonal_sigma_um,
        )
        return math.hypot(*parts) / self.size_um

    @property
    def angle_deg(self) -> float:
        """Direction of the gradients that are in focus highest, from x towards y (down); -90 to 90."""
        return math.degrees(math.atan2(self.diagonal_um, self.straight_um)) / 2

    @classmethod
    def of(cls, tiles: list[TileAstigmatism]) -> "Astigmatism":
        """Combine tiles; NaN where fewer than half of them tell, or than two."""
        straight = _combined([tile.straight_um for tile in tiles], tiles, 0)
        diagonal = _combined([tile.diagonal_um for tile in tiles], tiles, 1)
        return cls(*straight, *diagonal)


def _combined(elements_um: list[float], tiles: list[TileAstigmatism], which: int) -> tuple[float, float]:
    """Return what most tiles agree on of an element, and its standard uncertainty."""
    values = np.array(elements_um)
    told = np.isfinite(values)
    if told.sum() < max(LEAST_TILES, LEAST_SHARE * len(tiles)):
        return math.nan, math.nan
    own_um = np.array([tile.own_sigmas_um[which] for tile in tiles])
    untold_um = np.array([tile.untold_sigmas_um[which] for tile in tiles])
    fitted = robust_fit(np.ones((told.sum(), 1)), values[told], own_um[told])
    sigma_um = math.sqrt(float(fitted.covariance[0, 0]))
    return float(fitted.coefficients[0]), math.hypot(sigma_um, float(np.median(untold_um[told])))
