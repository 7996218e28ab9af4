"""One focus fitted to the contrast in several octaves of all exposures of a search.

In each octave the contrast has a peak at focus, the wider the coarser the octave. The widths follow a power
of the frequency nearly, and their ratios are fitted with that as a guide. So a few exposures far apart, of
which the coarse octaves still tell, place the focus to within the width of a fine one, and the exposures near
it then place it to a fraction of a depth of field.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from bluesky_autofocus.bands import BandEnergies
from bluesky_autofocus.search._samples import Sample

__all__ = ["BandModel", "empty_beside", "shows_specks_alone"]

TAIL = 4.0
"""The peak is ``(1 + u**2) ** -TAIL``: nearly Gaussian, which peaks of simulated electron and light
microscopes and of recorded stacks are to 2 % of their height."""

HALF = 2 * math.sqrt(2 ** (1 / TAIL) - 1)
"""``u`` at half height, where the distance is in full widths."""

SCATTER = 0.03
"""Nothing is taken to be more precise than this fraction of itself: specimens drift, edges come in."""

SHAPE_MISFIT = 0.015
"""Nor than this fraction of their spread in a band: no real peak has exactly the fitted shape."""

FLOOR = 0.2
"""The noise has been subtracted: far from focus about this fraction of the contrast is left, or nothing."""

LAW = 0.85
"""The width of a peak goes as this power of the period: 1.0 in a simulated SEM, 0.7 to 0.9 on recorded
stacks."""
LAW_SIGMA = 0.15
WIDTH_SIGMA = 0.12
"""Standard deviation of the logarithm of a width from that law."""

APART = (0.05, 0.01)
"""Standard deviation of the centre in the coarsest and the finest band from the common one, in their widths:
aberrations and thick specimens separate them."""

WIDTHS_IN_DOF_PX = np.geomspace(0.12, 8.0, 14)
"""Full widths at half height, in depths of field, times the frequency in cycles/px, that are tried at first.
It is 0.5 in a SEM, by what depth of field means there."""

CENTRES_IN_DOF = 1.0
"""Step of the centres that are tried at first."""
MOST_CENTRES = 160
BEYOND = 0.25
"""Centres are tried so far beyond what was exposed, as a fraction of it: a peak there is told from one at the
end."""

VALLEYS = 3
"""Of so many of the best places of the first look a fit goes on."""

STEPS = 12
"""Of a fit. It has mostly converged after five."""


BRIGHTEST_NOISE = 3.5
"""The highest of some hundred values that are only noise is that many deviations above zero."""

LEAST_WEIGHT = 0.02
"""Of a tile in which nothing stands out of the noise."""

MOST_OF_IT = 0.7
"""A few tiles that hold this fraction of the contrast may be dust, and the specimen in the others."""

LEAST_EMPTY = 0.1
"""If they leave this fraction of the frame."""

FINE = 0.02
"""In cycles/px: coarser octaves also show what is far out of focus."""

MOST_OF_SPECKS = 0.3
"""Specks have most of the contrast in less than this fraction of the tiles, in each fine octave. What noise
leaves of an octave is in a fifth of them."""

SKEW_OF_SPECKS = -3.0
"""Dark specks have an octave that is as skew as this; dark cells that are packed loosely have -2."""

WIDEST_SIGMA = 1.0
"""Standard deviation of the logarithm of all widths from what the table says, to keep them finite."""

LONGEST_STEP = 0.7
"""Of the logarithm of a width."""

HIGHEST = 10.0
"""A peak may be some times as high as what was seen of it."""

SAME = 0.3
"""Fits that end so near to each other, in depths of field, are one."""

SEEN_NOISES = 6.0
"""A band has a peak if what was fitted rises by that many times its noise, all exposures together."""

BELIEF = 10.0
"""What is allowed for counts as much as so many deviations."""

UNSTEADY = 2.0
"""Where squared deviations are so many times those that are allowed for, the light may have changed between
exposures: a camera's dark level in the mean of a frame makes its contrast go with the light."""

LIGHT_SIGMA = 0.2
"""Standard deviation of what all bands of an exposure have more or less by that, as a fraction: lamps flicker
by 10 %."""

RIVAL = 18.0
"""Another fit is as good as excluded where its sum of squares is larger by this: by exp(-9), 1e-4."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """One local best fit.

    Parameters
    ----------
    centre : float
        In depths of field, as all lengths here.
    sigma : float
        Standard uncertainty of it, of the noise and all deviations that are allowed for.
    misfit : float
        Sum of squared deviations over their variance, the departures from the guides included.
    widths, heights, floors, shifts : numpy.ndarray
        Of the B bands: full width at half height, height, floor, and centre less the common one in widths.
    light : numpy.ndarray
        How much more contrast all bands of an exposure have, as a fraction; shape (N,).
    """

    centre: float
    sigma: float
    misfit: float
    widths: np.ndarray
    heights: np.ndarray
    floors: np.ndarray
    shifts: np.ndarray
    light: np.ndarray


@dataclasses.dataclass(frozen=True)
class BandModel:
    """What several exposures tell of the focus.

    Parameters
    ----------
    positions : numpy.ndarray
        Of the N exposures, in depths of field, in the order in which they were taken; shape (N,).
    energies, sigmas : numpy.ndarray
        Squared contrast of B bands and its uncertainty, each over the spread in its band; shape (N, B).
    noises : numpy.ndarray
        The part of `sigmas` that is noise; shape (N, B).
    fits : list of Fit
        The local best fits, the best first.
    """

    positions: np.ndarray
    energies: np.ndarray
    sigmas: np.ndarray
    noises: np.ndarray
    fits: list[Fit]

    @classmethod
    def of(
        cls, samples: Sequence[Sample], depth_of_field_um: float, tiles: np.ndarray | None = None
    ) -> "BandModel":
        """Fit one focus to all samples; each has the same bands. `tiles` selects some, shape (T,)."""
        positions = np.array([sample.position_um for sample in samples]) / depth_of_field_um
        bands = [sample.bands for sample in samples if sample.bands is not None]
        frequencies = np.array(bands[0].frequencies)
        energies, noises = _told(*_of_tiles(bands, slice(None) if tiles is None else tiles))
        spread = np.maximum(np.ptp(energies, axis=0), noises.mean(axis=0)) + np.finfo(float).tiny
        energies, noises = energies / spread, noises / spread
        sigmas = np.sqrt(noises**2 + (SCATTER * energies) ** 2 + SHAPE_MISFIT**2)
        valleys = _valleys(positions, energies, sigmas, frequencies)

        def fitted(light_sigma: float) -> "BandModel":
            fits = [_polished(positions, energies, sigmas, frequencies, *at, light_sigma) for at in valleys]
            return cls(positions, energies, sigmas, noises, _different(fits))

        steady = fitted(0.0)
        return steady if steady.temper < UNSTEADY else fitted(LIGHT_SIGMA)

    @property
    def best(self) -> Fit:
        """The most likely fit."""
        return self.fits[0]

    @property
    def temper(self) -> float:
        """How much larger squared deviations are than allowed for, as far as so few of them tell."""
        return (self.best.misfit + BELIEF) / (self.energies.size + BELIEF)

    def modelled(self, fit: Fit) -> np.ndarray:
        """Return what a fit says of the exposures, without floor; shape (N, B)."""
        return fit.heights * _peak((self.positions[:, None] - fit.centre) / fit.widths - fit.shifts)

    @property
    def deviations(self) -> np.ndarray:
        """What the best fit does not explain, shape (N, B)."""
        return self.energies / (1 + self.best.light[:, None]) - self.best.floors - self.modelled(self.best)

    @property
    def seen(self) -> np.ndarray:
        """Whether a band has a peak that stands out of its noise; shape (B,)."""
        modelled = self.modelled(self.best)
        rise = np.square((modelled - modelled.mean(axis=0)) / self.noises).sum(axis=0)
        return rise > SEEN_NOISES**2

    def rival(self) -> Fit | None:
        """Return another fit, a depth of field away or more, that is nearly as likely as the best."""
        for fit in self.fits[1:]:
            if (fit.misfit - self.best.misfit) / self.temper < RIVAL and abs(
                fit.centre - self.best.centre
            ) > 1:
                return fit
        return None


def empty_beside(sample: Sample, band: int) -> np.ndarray | None:
    """Return which tiles show next to nothing in a band, those beside the others left out; None for few.

    What is out of focus spreads over the tiles next to it.
    """
    if sample.bands is None:
        return None
    full = _holding_most(sample.bands, band)
    across = math.isqrt(full.size)
    spread = ndimage.binary_dilation(full.reshape(across, across), np.ones((3, 3), bool))
    empty = np.logical_not(spread).ravel()
    return empty if empty.sum() >= LEAST_EMPTY * empty.size else None


def shows_specks_alone(bands: BandEnergies | None) -> bool:
    """Return whether a few dark specks are all that has contrast in a frame."""
    if bands is None:
        return False
    fine = [band for band, frequency in enumerate(bands.frequencies) if frequency >= FINE]
    dark = any(bands.skews[band] <= SKEW_OF_SPECKS for band in fine)
    return dark and all(_holding_most(bands, band).mean() < MOST_OF_SPECKS for band in fine)


def _holding_most(bands: BandEnergies, band: int) -> np.ndarray:
    """Return which tiles, as few as can be, hold most of the contrast of a band; shape (T,)."""
    contrast = np.maximum(bands.energies[band] - bands.noises[band], 0)
    descending = np.argsort(-contrast)
    held = np.cumsum(contrast[descending])
    count = int(np.searchsorted(held, MOST_OF_IT * held[-1])) + 1
    full = np.zeros(contrast.size, bool)
    full[descending[:count]] = True
    return full


def _of_tiles(bands: Sequence[BandEnergies], tiles: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the contrast of the tiles in each exposure, and what noise leaves uncertain; (N, B, T)."""
    noises = np.array([one.noises for one in bands])[..., tiles]
    # What seems to be noise that changes from exposure to exposure may be detail, in the corners of the
    # spectrum too, or another brightness: half of it is subtracted, and all of it is uncertain.
    of_frames = noises[:, -1].mean(axis=1)
    of_frames = of_frames / max(float(of_frames.mean()), np.finfo(float).tiny)
    noise = noises.mean(axis=0)
    doubtful = (of_frames - of_frames.min())[:, None, None] / 2 * noise
    noise = of_frames.min() * noise + doubtful
    energies = np.array([one.energies for one in bands])[..., tiles] - noise
    squares = (2 * noise**2 + 4 * noise * np.maximum(energies, 0)) / bands[0].samples[:, None]
    return energies, np.sqrt(squares + doubtful**2)


def _told(energies: np.ndarray, sigmas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the contrast of those tiles in which there is something to see; from (N, B, T) to (N, B)."""
    sigma = sigmas.mean(axis=0)
    brightest = energies.max(axis=0) - BRIGHTEST_NOISE * sigma
    lasting = energies.mean(axis=0) - BRIGHTEST_NOISE * sigma / math.sqrt(len(energies))
    contrast = np.maximum(np.maximum(brightest, lasting), 0)
    weights = LEAST_WEIGHT + contrast**2 / np.maximum(contrast**2 + sigma**2, np.finfo(float).tiny)
    weights /= weights.sum(axis=1, keepdims=True)
    return (energies * weights).sum(axis=2), np.sqrt(np.square(sigmas * weights).sum(axis=2))


def _peak(u: np.ndarray) -> np.ndarray:
    return (1 + (HALF * u) ** 2) ** -TAIL


def _valleys(
    positions: np.ndarray, energies: np.ndarray, sigmas: np.ndarray, frequencies: np.ndarray
) -> list[tuple[float, float]]:
    """Return centre, and logarithm of the width at 1 cycle/px, of the best places of a table."""
    low, high = float(positions.min()), float(positions.max())
    margin = max(BEYOND * (high - low), CENTRES_IN_DOF)
    count = min(MOST_CENTRES, math.ceil((high - low + 2 * margin) / CENTRES_IN_DOF) + 1)
    centres = np.linspace(low - margin, high + margin, count)
    widths = WIDTHS_IN_DOF_PX[:, None] * (frequencies / frequencies[-1]) ** -LAW / frequencies[-1]
    # axes: centre, width, exposure, band
    peaks = _peak((positions[:, None] - centres[:, None, None, None]) / widths[:, None, :])
    weights = sigmas**-2
    # height and floor of each that fit best; the floor is guided to 0
    ones = weights.sum(axis=0) + (FLOOR * np.maximum(np.abs(energies).max(axis=0), 1.0)) ** -2
    by_peak = (weights * peaks).sum(axis=2)
    squares = (weights * peaks**2).sum(axis=2)
    told = (weights * energies * peaks).sum(axis=2)
    total = (weights * energies).sum(axis=0)
    heights = np.maximum(
        (ones * told - by_peak * total) / (squares * ones - by_peak**2 + 1e-9 * squares * ones), 0
    )
    floors = (total - heights * by_peak) / ones
    misfits = (heights**2 * squares + floors**2 * ones + 2 * heights * floors * by_peak).sum(axis=-1)
    misfits -= 2 * (heights * told + floors * total).sum(axis=-1)
    best_width = misfits.argmin(axis=1)
    along = misfits[np.arange(count), best_width]
    padded = np.concatenate(([np.inf], along, [np.inf]))
    lowest = np.flatnonzero((padded[1:-1] <= padded[:-2]) & (padded[1:-1] <= padded[2:]))
    chosen = lowest[np.argsort(along[lowest])][:VALLEYS]
    at_one = np.log(WIDTHS_IN_DOF_PX) + (LAW - 1) * math.log(frequencies[-1])
    return [(float(centres[one]), float(at_one[best_width[one]])) for one in chosen]


def _polished(
    positions: np.ndarray,
    energies: np.ndarray,
    sigmas: np.ndarray,
    frequencies: np.ndarray,
    centre: float,
    log_width: float,
    light_sigma: float,
) -> Fit:
    """Return the best fit near a centre and a width, by damped Gauss-Newton steps."""
    exposures, bands = energies.shape
    logs = np.log(frequencies)
    c, a, law, w, s, n, o = 0, 1, 2, *(slice(3 + k * bands, 3 + (k + 1) * bands) for k in range(4))
    unsteady = exposures if light_sigma > 0 else 0
    g = slice(3 + 4 * bands, 3 + 4 * bands + unsteady)
    theta = np.zeros(g.stop)
    theta[c], theta[a], theta[law] = centre, log_width, LAW
    theta[w] = log_width - LAW * logs
    theta[s] = 1.0
    eye = np.eye(bands)
    data = exposures * bands
    # last, three guides that keep what the exposures say nothing of from running away
    rows = np.zeros((data + 4 * bands + unsteady + 3, theta.size))
    span = max(float(np.ptp(positions)), 1.0)
    width_rows, floor_rows, shift_rows, height_rows = (
        slice(data + k * bands, data + (k + 1) * bands) for k in range(4)
    )
    rows[width_rows, a] = -1 / WIDTH_SIGMA
    rows[width_rows, law] = logs / WIDTH_SIGMA
    rows[width_rows, w] = eye / WIDTH_SIGMA
    most = np.maximum(np.abs(energies).max(axis=0), 1.0)
    rows[floor_rows, n] = eye / (FLOOR * most)
    rows[shift_rows, o] = eye / np.geomspace(*APART, bands)
    rows[height_rows, s] = eye / (HIGHEST * most)
    if unsteady:
        rows[data + 4 * bands : -3, g] = np.eye(exposures) / light_sigma
    rows[-3, c] = 1 / span
    rows[-2, a] = 1 / WIDEST_SIGMA
    rows[-1, law] = 1 / LAW_SIGMA

    def evaluated(theta: np.ndarray, slopes: bool) -> np.ndarray:
        u = (positions[:, None] - theta[c]) / np.exp(theta[w]) - theta[o]
        base = 1 + (HALF * u) ** 2
        peak = base**-TAIL
        residuals = np.empty(len(rows))
        modelled = theta[n] + theta[s] * peak
        light = 1 + theta[g][:, None] if unsteady else np.ones((exposures, 1))
        residuals[:data] = ((light * modelled - energies) / sigmas).ravel()
        residuals[data:] = rows[data:] @ theta
        residuals[-3] -= centre / span
        residuals[-2] -= log_width / WIDEST_SIGMA
        residuals[-1] -= LAW / LAW_SIGMA
        if slopes:
            by_u = light * theta[s] * (-2 * TAIL * HALF**2) * u * peak / base / sigmas
            rows[:data, c] = (-by_u / np.exp(theta[w])).ravel()
            # each row of data belongs to one band
            for columns, slope in (
                (w, -by_u * (u + theta[o])),
                (s, light * peak / sigmas),
                (n, light / sigmas),
                (o, -by_u),
            ):
                rows[:data, columns] = (slope[:, :, None] * eye).reshape(data, bands)
            if unsteady:
                by_light = (modelled / sigmas)[:, :, None] * np.eye(exposures)[:, None, :]
                rows[:data, g] = by_light.reshape(data, exposures)
        return residuals

    damping, residuals = 1e-3, evaluated(theta, True)
    misfit = float(residuals @ residuals)
    for _ in range(STEPS):
        curvature, downhill = rows.T @ rows, rows.T @ residuals
        curvature[np.diag_indices_from(curvature)] *= 1 + damping
        step = np.linalg.solve(curvature, downhill)
        longest = float(np.abs(step[[a, *range(w.start, w.stop)]]).max())
        tried = theta - step / max(1.0, longest / LONGEST_STEP)
        tried[s] = np.maximum(tried[s], 0.0)
        found = evaluated(tried, False)
        found_misfit = float(found @ found)
        if found_misfit > misfit:
            damping *= 10
            continue
        gained, misfit, theta = misfit - found_misfit, found_misfit, tried
        damping /= 5
        residuals = evaluated(theta, True)
        if gained < 1e-3:
            break
    covariance = np.linalg.inv(rows.T @ rows)
    return Fit(
        float(theta[c]),
        math.sqrt(covariance[0, 0]),
        misfit,
        np.exp(theta[w]),
        theta[s],
        theta[n],
        theta[o],
        theta[g] if unsteady else np.zeros(exposures),
    )


def _different(fits: list[Fit]) -> list[Fit]:
    """Return the fits that did not end in the same place, the best first."""
    kept: list[Fit] = []
    for fit in sorted(fits, key=lambda fit: fit.misfit):
        if all(abs(fit.centre - other.centre) > SAME for other in kept):
            kept.append(fit)
    return kept
