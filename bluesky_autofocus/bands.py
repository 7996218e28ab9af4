"""What is measured of a frame in bands of spatial frequency, and what searches go by."""

import dataclasses

import numpy as np

__all__ = ["BandEnergies"]


@dataclasses.dataclass(frozen=True, eq=False)
class BandEnergies:
    """The contrast of the tiles of a frame in bands of spatial frequency.

    Parameters
    ----------
    frequencies : tuple of float
        The middle of each of the B bands in cycles/px, ascending.
    energies : numpy.ndarray
        Squared contrast (variance over the squared mean of the frame) of each band in each of T tiles, with
        that of the noise; shape (B, T).
    noises : numpy.ndarray
        How much of it the noise is at most, shape (B, T).
    samples : numpy.ndarray
        Independent values that each is the mean of, shape (B,).
    skews : numpy.ndarray
        Skewness of each band over the whole frame, noise and all, shape (B,): far below zero where what
        stands out is dark and little, far above where it is bright.
    """

    frequencies: tuple[float, ...]
    energies: np.ndarray
    noises: np.ndarray
    samples: np.ndarray
    skews: np.ndarray
