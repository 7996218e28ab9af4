"""Tilt and curvature: a surface through the foci of the tiles."""

import dataclasses
import math

import numpy as np

from bluesky_autofocus.focus_map._robust import robust_fit

__all__ = ["FocusSurface"]

SPARE = 2
"""A term of the surface is fitted where so many more tiles are believed than there are terms."""

LEAST_INDEPENDENT = 0.1
"""And where the terms before it leave so much of it: tiles in a row tell nothing of the tilt across."""

TERMS = ("mean", "tilt_x", "tilt_y", "sag")


@dataclasses.dataclass(frozen=True, eq=False)
class FocusSurface:
    """Where focus is over the frame: a plane and the rotationally symmetric curvature of a field.

    Parameters
    ----------
    coefficients_um : numpy.ndarray
        Mean over the frame; right edge less left one; lower edge less upper one; corner less centre. Shape
        (4,), NaN for what the tiles do not tell, which is then taken to be 0.
    covariance_um2 : numpy.ndarray
        Of these, shape (4, 4); NaN likewise.
    scatter_um : float
        Standard deviation of the tiles that agree about the surface, beyond their own uncertainties.
    frame_px : tuple of int
        Rows and columns of the frame.
    """

    coefficients_um: np.ndarray
    covariance_um2: np.ndarray
    scatter_um: float
    frame_px: tuple[int, int]

    @property
    def sigmas_um(self) -> np.ndarray:
        """Standard uncertainties of the coefficients, shape (4,)."""
        return np.sqrt(np.diag(self.covariance_um2))

    def at(self, row: float, column: float) -> tuple[float, float]:
        """Return where focus is at a point of the frame, and its standard uncertainty, in um.

        Parameters
        ----------
        row, column : float
            As fractions of the height and the width of the frame, from 0 to 1.
        """
        terms = _terms(np.array([column - 0.5]), np.array([row - 0.5]), self.frame_px)[0]
        known = np.isfinite(self.coefficients_um)
        if not known[0]:
            return math.nan, math.nan
        value = float(terms[known] @ self.coefficients_um[known])
        variance = float(terms[known] @ self.covariance_um2[np.ix_(known, known)] @ terms[known])
        return value, math.sqrt(variance)

    @classmethod
    def through(
        cls,
        focus_um: np.ndarray,
        sigma_um: np.ndarray,
        common_um: float,
        frame_px: tuple[int, int],
    ) -> tuple["FocusSurface", np.ndarray, np.ndarray]:
        """Fit a surface to the tiles that agree.

        Parameters
        ----------
        focus_um, sigma_um : numpy.ndarray
            Of the tiles, with the uncertainty that each has of its own; NaN where nothing is believed. Shape
            (rows, columns).
        common_um : float
            Standard uncertainty that all tiles have in common.
        frame_px : tuple of int
            Rows and columns of the frame.

        Returns
        -------
        surface : FocusSurface
        residual_um : numpy.ndarray
            Focus less surface, NaN where nothing is believed; shape (rows, columns).
        agreeing : numpy.ndarray of bool
            Which tiles agree with the surface, and made it; shape (rows, columns).
        """
        coefficients = np.full(len(TERMS), np.nan)
        covariance = np.full((len(TERMS), len(TERMS)), np.nan)
        residual_um, agreeing = np.full(focus_um.shape, np.nan), np.zeros(focus_um.shape, bool)
        believed = np.isfinite(focus_um)
        if not believed.any():
            return cls(coefficients, covariance, math.nan, frame_px), residual_um, agreeing
        design = _tile_terms(focus_um.shape, frame_px)[believed.ravel()]
        told = _told(design)
        fitted = robust_fit(
            design[:, told],
            focus_um[believed],
            sigma_um[believed],
            np.hypot(sigma_um[believed], common_um),
        )
        coefficients[told] = fitted.coefficients
        covariance[np.ix_(told, told)] = fitted.covariance
        covariance[0, 0] += common_um**2
        residual_um[believed], agreeing[believed] = fitted.residuals, fitted.agreeing
        return cls(coefficients, covariance, fitted.scatter, frame_px), residual_um, agreeing


def _tile_centres(tiles: int) -> np.ndarray:
    """Return the centres of tiles side by side, from -0.5 to 0.5 of what they divide; shape (tiles,)."""
    return (np.arange(tiles) + 0.5) / tiles - 0.5


def _terms(x: np.ndarray, y: np.ndarray, frame_px: tuple[int, int]) -> np.ndarray:
    """Return the terms of the surface at points from -0.5 to 0.5 of the frame, shape (N, 4).

    All but the first have no mean over the frame.
    """
    height_px, width_px = frame_px
    corner_px2 = (height_px**2 + width_px**2) / 4
    radius = ((x * width_px) ** 2 + (y * height_px) ** 2) / corner_px2
    return np.stack([np.ones_like(x), x, y, radius - 1 / 3], axis=1)


def _tile_terms(grid: tuple[int, ...], frame_px: tuple[int, int]) -> np.ndarray:
    """Return the means of the terms over each tile, row by row; shape (rows * columns, 4)."""
    rows, columns = grid
    y, x = (one.ravel() for one in np.meshgrid(_tile_centres(rows), _tile_centres(columns), indexing="ij"))
    terms = _terms(x, y, frame_px)
    height_px, width_px = frame_px
    within = ((width_px / columns) ** 2 + (height_px / rows) ** 2) / 12
    terms[:, -1] += within / ((height_px**2 + width_px**2) / 4)
    return terms


def _told(design: np.ndarray) -> np.ndarray:
    """Return which terms the tiles can tell, shape (4,)."""
    told = np.zeros(design.shape[1], bool)
    for term in range(design.shape[1]):
        if term and len(design) < told.sum() + 1 + SPARE:
            break
        column, before = design[:, term], design[:, told]
        left = column - before @ np.linalg.lstsq(before, column)[0] if told.any() else column
        # a term is as large as 0.3 over a whole frame
        told[term] = np.sqrt(np.mean(left**2)) > LEAST_INDEPENDENT * 0.3
    return told
