"""What defocus does to each spatial frequency: the beam of a SEM, and incoherent light."""

import dataclasses
import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy import interpolate, special

from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.widefield import transfer_table

__all__ = ["BeamTransfer", "LightTransfer", "Sampled", "Transfer"]

_FREQUENCIES = 512
_STEPS_A_DOF = 16
"""Of the table in depth, between which a cubic spline goes: it is right to 1e-4."""

Sampled: TypeAlias = Callable[[float, float, float], NDArray[np.float64]]
"""``sampled(defocus_um, straight_um, diagonal_um)`` returns the transfer of chosen frequencies."""


@runtime_checkable
class Transfer(Protocol):
    """How contrast is transferred at a distance from focus.

    Attributes
    ----------
    astigmatic : bool
        Whether it depends on astigmatism.
    parameters : dict
        What it depends on, JSON-able.
    """

    @property
    def astigmatic(self) -> bool: ...  # noqa: D102 - told above

    @property
    def parameters(self) -> dict[str, Any]: ...  # noqa: D102

    def depth_of_field_um(self, pixel_size_um: float) -> float:
        """Return the range of defocus in which a frame with such pixels looks sharp."""
        ...

    def sampled(self, fx: NDArray[np.floating], fy: NDArray[np.floating], reach_um: float) -> Sampled:
        """Return the transfer of some frequencies as a function of defocus.

        Parameters
        ----------
        fx, fy : ndarray, shape (...)
            Frequencies along columns and rows, in cycles per um.
        reach_um : float
            Largest defocus that will be asked for.
        """
        ...


@dataclasses.dataclass(frozen=True)
class BeamTransfer:
    """A beam of electrons that converges: away from its focus it is a disc, or with astigmatism an ellipse.

    The transfer function of the disc is ``2 J1(2 pi r) / (2 pi r)`` at ``r = alpha |D f|``, with ``D`` the
    symmetric matrix of the defocus along x and y (Goodman, *Introduction to Fourier Optics*, 2.1). The spot
    in focus blurs every frame alike and cancels wherever two frames are compared.

    Parameters
    ----------
    convergence_mrad : float
        Convergence semi-angle of the beam, in milliradian.

    Raises
    ------
    ValueError
        If it is not positive and finite.
    """

    convergence_mrad: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.convergence_mrad) and self.convergence_mrad > 0):
            raise ValueError(
                f"convergence_mrad is {self.convergence_mrad!r}: expected a positive, finite number"
            )

    @property
    def astigmatic(self) -> bool:
        """It is: a stigmator presses the disc into an ellipse."""
        return True

    @property
    def parameters(self) -> dict[str, Any]:
        """The convergence."""
        return {"kind": "beam", **dataclasses.asdict(self)}

    def depth_of_field_um(self, pixel_size_um: float) -> float:
        """Return the range in which the disc is no wider than a pixel, ``px / alpha``."""
        return pixel_size_um / (1e-3 * self.convergence_mrad)

    def sampled(self, fx: NDArray[np.floating], fy: NDArray[np.floating], reach_um: float) -> Sampled:
        """Return the transfer of some frequencies; each line focus lies half of their distance away."""
        scale = 2 * math.pi * 1e-3 * self.convergence_mrad
        x, y = scale * np.asarray(fx, float), scale * np.asarray(fy, float)

        def transfer(defocus_um: float, straight_um: float, diagonal_um: float) -> NDArray[np.float64]:
            straight_um, diagonal_um = straight_um / 2, diagonal_um / 2
            argument = np.hypot(
                (defocus_um + straight_um) * x + diagonal_um * y,
                diagonal_um * x + (defocus_um - straight_um) * y,
            )
            np.maximum(argument, 1e-6, out=argument)
            return 2 * special.j1(argument) / argument

        return transfer


@dataclasses.dataclass(frozen=True)
class LightTransfer:
    """Incoherent light, as of fluorescence: the autocorrelation of the pupil with the phase of defocus.

    Parameters
    ----------
    optics : LightOptics
        Objective, emission wavelength, pixel size.
    spherical_waves : float
        Zernike coefficient of primary spherical aberration, in waves RMS: with some, planes above and below
        focus differ.

    Raises
    ------
    ValueError
        If the aberration is not finite.
    """

    optics: LightOptics
    spherical_waves: float = 0.0
    _tables: dict[int, Any] = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not math.isfinite(self.spherical_waves):
            raise ValueError(f"spherical_waves is {self.spherical_waves!r}: expected a finite number")

    @property
    def astigmatic(self) -> bool:
        """It is taken to be free of astigmatism."""
        return False

    @property
    def parameters(self) -> dict[str, Any]:
        """Optics and aberration."""
        return {
            "kind": "light",
            "optics": dataclasses.asdict(self.optics),
            "spherical_waves": self.spherical_waves,
        }

    def depth_of_field_um(self, pixel_size_um: float) -> float:
        """Return the depth of field of the optics with such pixels."""
        return dataclasses.replace(self.optics, pixel_size_um=pixel_size_um).depth_of_field_um

    @cached_property
    def _frequency(self) -> NDArray[np.float64]:
        return np.linspace(0, self.optics.cutoff_per_um, _FREQUENCIES)

    def _table(self, steps: int) -> interpolate.CubicSpline:
        """Return the radial transfer function as a spline over defocus, so many steps to either side."""
        if steps not in self._tables:
            optics = self.optics
            na, n = optics.numerical_aperture, optics.refractive_index
            z_um = np.arange(-steps, steps + 1) * optics.depth_of_field_um / _STEPS_A_DOF
            table = transfer_table(
                na,
                [optics.wavelength_um],
                z_um,
                self._frequency,
                # what the cone of light spreads to, and half as much again for diffraction
                reach_um=1.5 * float(z_um[-1]) * na / math.sqrt(n**2 - na**2) + 20,
                spherical_um=self.spherical_waves * optics.wavelength_um,
                refractive_index=n,
            )
            self._tables[steps] = interpolate.CubicSpline(z_um, table.astype(float))
        return self._tables[steps]

    def sampled(self, fx: NDArray[np.floating], fy: NDArray[np.floating], reach_um: float) -> Sampled:
        """Return the transfer of some frequencies, interpolated."""
        spline = self._table(math.ceil(reach_um / self.optics.depth_of_field_um * _STEPS_A_DOF) + 1)
        f = np.hypot(fx, fy)

        def transfer(defocus_um: float, straight_um: float, diagonal_um: float) -> NDArray[np.float64]:
            return np.interp(f, self._frequency, spline(defocus_um), right=0.0)

        return transfer
