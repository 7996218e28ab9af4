"""Sharpness curves without frames, in great number: how often a search is confident and wrong.

In each octave of spatial frequency the contrast falls with defocus as the transfer function of a disc of blur
does, squared, in part of the curves as a Gaussian or a squared Lorentzian of the same width: a search may not
live on one shape. Both sides of focus differ a little, coarse octaves have more contrast than fine ones, the
tiles of a field differ in contrast and a little in height, and white noise is in each octave according to how
many frequencies it has.
"""

import dataclasses
import math
from collections import Counter

import numpy as np
from scipy.special import j1

from bluesky_autofocus.bands import BandEnergies

__all__ = ["Curve", "Exposed", "count_curves", "draw_curve"]

SEED = 20261123

PIXELS = 512**2
"""Of the frames that the curves stand for."""

TILES = 16

FREQUENCIES = 0.19 * 2.0 ** -np.arange(5, -1, -1)
"""The middle of each octave in cycles/px."""

SHARES = 1.5 * np.pi * FREQUENCIES**2
"""Of all frequencies of a frame, from each middle over the root of two to it times that."""

KINDS = {
    "one peak": 0.64,
    "flat": 0.06,
    "beyond the edge": 0.08,
    "two peaks": 0.08,
    "one frame disturbed": 0.08,
    "lamp drift": 0.06,
}
"""What is unusual of a curve, and the share of such curves."""

SHAPES = {"disc": 0.6, "gaussian": 0.2, "lorentzian": 0.2}

HALF_OF_DISC = 0.257
"""Where the squared transfer function of a disc has fallen to a half, in radii times cycles."""


@dataclasses.dataclass(frozen=True)
class Exposed:
    """What one exposure tells.

    Parameters
    ----------
    score : float
        As of the default metric: the finer the octave the more it counts.
    bands : BandEnergies
        As `bluesky_autofocus.sharpness.band_energies` measures them.
    """

    score: float
    bands: BandEnergies


@dataclasses.dataclass
class Curve:
    """One focus curve; lengths are in depths of field.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    span : float
        The range is from 0 to this.
    peaks : list of tuple of float
        Position and strength of each peak; the first is the focus.
    shape : str
        One of `SHAPES`.
    blur_px : float
        Radius of the disc of blur at a defocus of 1.
    skew : float
        Relative difference of the widths above and below.
    contrasts : ndarray, shape (B, T)
        Squared contrast at focus of each octave and tile.
    heights : ndarray, shape (T,)
        Of the tiles.
    noise : float
        Variance of the noise of a pixel over its squared mean.
    floor : float
        Of the contrast, that defocus does not take away.
    repeatability : float
        Relative deviation of one exposure from the next that is not noise of its pixels.
    disturbed : int
        Number of an exposure that is; -1 for none.
    drift : float
        Relative change of the contrast from one exposure to the next.
    rng : numpy.random.Generator
        Of its noise.
    """

    kind: str
    span: float
    peaks: list[tuple[float, float]]
    shape: str
    blur_px: float
    skew: float
    contrasts: np.ndarray
    heights: np.ndarray
    noise: float
    floor: float
    repeatability: float
    disturbed: int
    drift: float
    rng: np.random.Generator
    exposures: int = 0

    @property
    def any_focus(self) -> bool:
        """Whether there is a focus within the range."""
        return self.kind not in ("flat", "beyond the edge")

    def expose(self, position: float) -> Exposed:
        """Return what one exposure tells."""
        rng = self.rng
        falls = sum(strength * self._transferred(position - centre) for centre, strength in self.peaks)
        signal = self.contrasts * (self.floor + (1 - self.floor) * falls)
        signal = signal * (1 + self.repeatability * rng.normal()) * (1 + self.drift) ** self.exposures
        if self.exposures == self.disturbed:
            signal = signal * rng.uniform(0.2, 1) + self.contrasts.max() * rng.uniform(0.2, 2)
        self.exposures += 1
        noise = self.noise * SHARES[:, None]
        samples = SHARES[:, None] * PIXELS / TILES
        sigmas = np.sqrt((2 * noise**2 + 4 * noise * np.maximum(signal, 0)) / samples)
        energies = signal + sigmas * rng.standard_normal(signal.shape)
        weights = FREQUENCIES**2 / (1 + (FREQUENCIES / 0.12) ** 4)
        score = float(weights @ np.maximum(energies + noise, 0).mean(axis=1))
        noises = np.broadcast_to(noise, energies.shape)
        even = np.zeros(len(FREQUENCIES))
        bands = BandEnergies(tuple(FREQUENCIES), energies + noise, noises, samples[:, 0], even)
        return Exposed(score, bands)

    def _transferred(self, defocus: float) -> np.ndarray:
        away = defocus - self.heights
        away = np.abs(away) * (1 + self.skew * np.sign(away))
        reach = FREQUENCIES[:, None] * self.blur_px * away
        if self.shape == "gaussian":
            return np.exp(-math.log(2) * (reach / HALF_OF_DISC) ** 2)
        if self.shape == "lorentzian":
            return (1 + (math.sqrt(2) - 1) * (reach / HALF_OF_DISC) ** 2) ** -2
        argument = np.maximum(2 * np.pi * reach, 1e-6)
        return (2 * j1(argument) / argument) ** 2


def draw_curve(number: int) -> Curve:
    """Return a curve at random; the same number gives the same one."""
    rng = np.random.default_rng((SEED, number))
    kind, shape = (str(rng.choice(list(of), p=list(of.values()))) for of in (KINDS, SHAPES))
    span = float(np.exp(rng.uniform(math.log(4), math.log(80))))
    room = max(0.1, 1 / span)
    focus = float(rng.uniform(room, 1 - room)) * span
    if kind == "beyond the edge":
        outside = float(rng.uniform(1.5, 8))
        focus = -outside if rng.random() < 0.5 else span + outside
    peaks = [(focus, 0.0 if kind == "flat" else 1.0)]
    if kind == "two peaks":
        other = focus + float(rng.choice((-1, 1)) * rng.uniform(6, 20))
        peaks.append((other, float(rng.uniform(0.3, 0.8))))
    contrasts = 10 ** rng.uniform(-3.5, -0.7) * (FREQUENCIES / FREQUENCIES[0]) ** -rng.uniform(0.2, 2.0)
    contrasts = (contrasts * rng.lognormal(0, 0.3, len(contrasts)))[:, None] * rng.lognormal(0, 0.7, TILES)
    return Curve(
        kind,
        span,
        peaks,
        shape,
        blur_px=float(rng.uniform(0.7, 2.0)),
        skew=float(rng.uniform(-0.15, 0.15)),
        contrasts=contrasts,
        heights=rng.normal(0, rng.uniform(0, 0.2), TILES),
        noise=float(10 ** rng.uniform(-4, -0.7)),
        floor=float(rng.uniform(0, 0.1)),
        repeatability=float(rng.uniform(0, 0.03)),
        disturbed=int(rng.integers(14)) if kind == "one frame disturbed" else -1,
        drift=float(rng.uniform(-0.03, 0.03)) if kind == "lamp drift" else 0.0,
        rng=rng,
    )


def count_curves(first: int, last: int) -> Counter[tuple[str, str]]:
    """Search curves by their numbers; count how it went with each kind."""
    from benchmarks._ours import on_curve

    counts: Counter[tuple[str, str]] = Counter()
    for number in range(first, last):
        curve = draw_curve(number)
        answer = on_curve(curve)
        error = abs(answer.position_um - curve.peaks[0][0])
        counts[curve.kind, "trials"] += 1
        counts[curve.kind, "exposures"] += curve.exposures
        if not answer.found:
            counts[curve.kind, "not_found"] += 1
        elif curve.any_focus and error <= 1:
            counts[curve.kind, "right"] += 1
            counts[curve.kind, "covered"] += error <= 2 * answer.sigma_um
        else:
            counts[curve.kind, "confident_wrong"] += 1
    return counts
