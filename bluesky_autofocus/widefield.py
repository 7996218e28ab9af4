"""Transfer functions of incoherent imaging: fluorescence, or a condenser as wide as the objective.

Intensities are filtered by the autocorrelation of the pupil,

    H(f; z) = autocorrelation of exp(i 2 pi (z kz(u) + W(u))),    kz(u) = sqrt((n / lambda)^2 - |u|^2)

with z the defocus and W what aberration there is. All is radial, so that a whole stack of planes costs two
Hankel transforms as products of matrices.
"""

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from bluesky_autofocus._fft import fft
from bluesky_autofocus.optics import LightOptics

__all__ = ["Widefield", "transfer_table"]

_PUPIL_POINTS = 256
_FREQUENCIES = 512
"""Of both, more where they do not do: for high apertures, far from focus."""
_STEP_UM = 0.25


def transfer_table(
    numerical_aperture: float,
    wavelengths_um: Sequence[float],
    defocus_um: NDArray[np.floating],
    frequency: NDArray[np.floating],
    *,
    reach_um: float,
    focus_um: Sequence[float] | None = None,
    spherical_um: float = 0.0,
    refractive_index: float = 1.0,
) -> NDArray[np.float32]:
    """Return transfer functions of a band of light.

    Parameters
    ----------
    numerical_aperture : float
        Of the objective.
    wavelengths_um : sequence of float
        That make up the band, equally strong.
    defocus_um : ndarray, shape (n,)
        Image plane minus focus.
    frequency : ndarray, shape (m,)
        From 0 on, in cycles per um.
    reach_um : float
        Radius up to which a point is spread.
    focus_um : sequence of float, optional
        By how much each wavelength is in focus higher than the band's middle.
    spherical_um : float
        Zernike coefficient of primary spherical aberration, RMS, as a path.
    refractive_index : float
        Of the immersion.

    Returns
    -------
    ndarray of float32, shape (n, m)
        1 where the frequency is 0.
    """
    # Periods of the integrals over the pupil: of a point's farthest rings, and of the farthest defocus.
    axial = refractive_index - math.sqrt(refractive_index**2 - numerical_aperture**2)
    periods = (numerical_aperture * reach_um + axial * float(np.abs(defocus_um).max())) / min(wavelengths_um)
    rho, rho_weight = _quadrature(max(_PUPIL_POINTS, math.ceil(2 * periods)), 1.0)
    # finely enough for what has the bandwidth of the transfer function
    r_um, r_weight = _quadrature(math.ceil(1.5 * frequency[-1] * reach_um), reach_um)
    to_frequency = (2 * np.pi * r_um * r_weight)[:, None] * special.j0(2 * np.pi * r_um[:, None] * frequency)
    to_frequency = to_frequency.astype(np.float32)
    aberration_um = spherical_um * (math.sqrt(5) * (6 * rho**4 - 6 * rho**2 + 1))
    # of the pupil's rays, for 1 um of defocus
    path_um = np.sqrt(refractive_index**2 - (numerical_aperture * rho) ** 2)
    total = np.zeros((len(defocus_um), len(frequency)))
    for wavelength_um, in_focus_um in zip(
        wavelengths_um, focus_um or [0.0] * len(wavelengths_um), strict=True
    ):
        wavefront_um = (defocus_um - in_focus_um)[:, None] * path_um + aberration_um
        pupil = np.exp(2j * np.pi / wavelength_um * wavefront_um) * (rho * rho_weight)
        to_radius = special.j0(2 * np.pi * numerical_aperture / wavelength_um * rho[:, None] * r_um)
        amplitude = pupil.astype(np.complex64) @ to_radius.astype(np.complex64)
        transfer = (amplitude.real**2 + amplitude.imag**2) @ to_frequency
        transfer /= transfer[:, :1]
        transfer[:, frequency > 2 * numerical_aperture / wavelength_um] = 0
        total += transfer
    return (total / len(wavelengths_um)).astype(np.float32)


def _quadrature(n: int, end: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return places and weights for an integral from 0 to `end`."""
    x, weight = np.polynomial.legendre.leggauss(n)
    return (x + 1) * end / 2, weight * end / 2


class Widefield:
    """What a microscope with incoherent light does to the image of a thin specimen.

    Parameters
    ----------
    optics : LightOptics
        Objective, emission wavelength, pixel size.
    spherical_waves : float
        Zernike coefficient of primary spherical aberration, in waves RMS: with some, planes above and below
        focus differ.
    reach_um : float
        Largest distance from focus that is asked for.

    Raises
    ------
    ValueError
        If a number makes no sense.
    """

    def __init__(self, optics: LightOptics, spherical_waves: float = 0.0, *, reach_um: float = 40.0) -> None:
        if not math.isfinite(spherical_waves):
            raise ValueError(f"spherical_waves is {spherical_waves!r}: expected a finite number")
        if not (math.isfinite(reach_um) and reach_um > 0):
            raise ValueError(f"reach_um is {reach_um!r}: expected a positive, finite number")
        self.optics, self.spherical_waves, self.reach_um = optics, spherical_waves, reach_um

    @cached_property
    def _table(self) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        optics = self.optics
        na = optics.numerical_aperture
        # two more than are asked for, so that there always is a neighbour to interpolate with
        steps = math.ceil(self.reach_um / _STEP_UM) + 1
        steepest = na / math.sqrt(optics.refractive_index**2 - na**2)
        # 12 in each period that the farthest blur makes the transfer function have
        finely = math.ceil(12 * steepest * self.reach_um * optics.cutoff_per_um)
        frequency = np.linspace(0, optics.cutoff_per_um, max(_FREQUENCIES, finely))
        # what the cone of light spreads to, and half as much again for diffraction
        return frequency, transfer_table(
            na,
            [optics.wavelength_um],
            np.arange(-steps, steps + 1) * _STEP_UM,
            frequency,
            reach_um=1.5 * self.reach_um * steepest + 20,
            spherical_um=self.spherical_waves * optics.wavelength_um,
            refractive_index=optics.refractive_index,
        )

    def transfer(self, defocus_um: ArrayLike, shape: tuple[int, int]) -> NDArray[np.float32]:
        """Return the filters of the spectra, as `scipy.fft.rfft2` lays them out.

        Parameters
        ----------
        defocus_um : float or array_like, shape (...)
            Image plane minus focus.
        shape : tuple of int
            Rows and columns of the frame.

        Returns
        -------
        ndarray of float32, shape (..., rows, columns // 2 + 1)

        Raises
        ------
        ValueError
            If a defocus is farther than `reach_um`.
        """
        z_um = np.asarray(defocus_um, float)
        if not (np.abs(z_um) <= self.reach_um).all():
            raise ValueError(
                f"defocus_um reaches {float(np.abs(z_um).max()):g}: expected at most {self.reach_um:g}"
            )
        frequency, table = self._table
        at = z_um / _STEP_UM + (len(table) - 1) // 2
        low = np.floor(at).astype(int)
        part = (at - low)[..., None].astype(np.float32)
        radial = table[low] * (1 - part) + table[low + 1] * part
        pixel_um = self.optics.pixel_size_um
        f = np.hypot(fft.fftfreq(shape[0], pixel_um)[:, None], fft.rfftfreq(shape[1], pixel_um))
        at = f / frequency[1]
        low = np.minimum(at.astype(int), len(frequency) - 2)
        part = (at - low).astype(np.float32)
        filters = radial[..., low] * (1 - part) + radial[..., low + 1] * part
        return np.where(f < frequency[-1], filters, np.float32(0))
