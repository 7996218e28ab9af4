"""What a specimen would show in each octave where it is in focus, and less of away from there."""

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy.special import j1

from bluesky_autofocus.bands import BandEnergies
from bluesky_autofocus.search import Conclusion, Sample, Search

FREQUENCIES = np.array([0.007, 0.0142, 0.027, 0.055, 0.106, 0.19])
SAMPLES = np.array([2.6, 9.7, 38.0, 149.0, 525.0, 1412.0])
"""Of a tile of a frame of 512 x 512 px."""

TILES = 64
GAINS = np.array([1.48e-4, 5.85e-4, 2.31e-3, 8.93e-3, 3.13e-2, 7.0e-2])


class Octaves:
    """A layer that loses contrast by a disc of blur, as in a SEM; lengths are in depths of field.

    Parameters
    ----------
    focus : float
        Where it is.
    contrast : float
        Of all octaves together; falls by 1 / frequency from octave to octave.
    noise : float
        Deviation of a pixel, relative to the mean.
    filled : float
        Part of the tiles in which there is anything.
    invert : bool
        Whether it is a phase object: no contrast in focus, and the coarser the farther away.
    skew : float
        Skewness of each octave.
    """

    def __init__(self, focus, *, contrast=0.1, noise=0.1, filled=1.0, invert=False, skew=0.0, seed=0):
        self.focus, self.invert, self.skews = focus, invert, np.full(6, skew)
        rng = np.random.default_rng(seed)
        spectrum = rng.lognormal(0, 0.3, 6) / FREQUENCIES**0.5
        self.energies = contrast**2 * spectrum / spectrum.sum()
        self.where = rng.random(TILES) < filled
        self.noise_power = noise**2 * GAINS
        self.rng = np.random.default_rng((seed, 1))

    def left(self, position: float) -> np.ndarray:
        # of frequencies all over the octave; the disc is 2 px wide one depth of field away
        frequencies = FREQUENCIES * np.geomspace(0.7, 1.4, 9)[:, None]
        if self.invert:
            return (np.sin(np.pi / 2 * abs(position - self.focus) * frequencies) ** 2).mean(axis=0)
        argument = np.maximum(2 * np.pi * abs(position - self.focus) * frequencies, 1e-6)
        return ((2 * j1(argument) / argument) ** 2).mean(axis=0)

    def bands(self, position: float) -> BandEnergies:
        signal = np.multiply.outer(self.energies * self.left(position), self.where)
        noise = np.broadcast_to(self.noise_power[:, None], signal.shape)
        sigma = np.sqrt((2 * noise**2 + 4 * noise * signal) / SAMPLES[:, None])
        measured = signal + noise + sigma * self.rng.standard_normal(signal.shape)
        return BandEnergies(tuple(FREQUENCIES), measured, noise, SAMPLES, self.skews)


class Several(Octaves):
    """Layers that lie over each other."""

    def __init__(self, *layers: Octaves):
        self.layers = layers

    def bands(self, position: float) -> BandEnergies:
        all_of_them = [layer.bands(position) for layer in self.layers]
        first = all_of_them[0]
        energies = sum(one.energies for one in all_of_them) - (len(all_of_them) - 1) * first.noises
        return dataclasses.replace(first, energies=energies)


def follow(search: Search, sample_at: Callable[[float], Sample]) -> tuple[list[float], Conclusion]:
    """Return where a search looks, and what it concludes."""
    asked = []
    try:
        position = next(search)
        while True:
            asked.append(position)
            position = search.send(sample_at(position))
    except StopIteration as end:
        return asked, end.value
