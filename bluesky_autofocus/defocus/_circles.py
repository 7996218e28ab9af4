"""The spectrum of a frame under one off-axis LED: two circles, and what defocus does where they overlap.

Light scattered by a spatial frequency u reaches the camera through the pupil at u_s + u and at u_s - u,
with u_s the direction of the LED over the wavelength. Where both lie within the pupil the two interfere, and
defocus z turns their phase against the direct light by z g(u) each way:

    g(u) = pi [ 2 kz(u_s) - kz(u_s + u) - kz(u_s - u) ],    kz(u) = sqrt((n / lambda)^2 - |u|^2)

so the power of a weak specimen goes as sin^2(z g + d) along the contours of g, and |FFT| over a frame is two
circles of radius NA / lambda about +-u_s.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bluesky_autofocus.optics import LightOptics

__all__ = ["TwoCircles"]


class TwoCircles:
    """Where a spatial frequency lies with respect to the two circles.

    Parameters
    ----------
    optics : LightOptics
        Objective, wavelength.
    na_xy : sequence of float
        Direction (x, y) of the LED in the frame's axes.
    fx, fy : array_like
        Spatial frequencies in cycles per um, of shapes that broadcast.
    """

    def __init__(self, optics: LightOptics, na_xy: Sequence[float], fx: ArrayLike, fy: ArrayLike) -> None:
        self.radius = optics.numerical_aperture / optics.wavelength_um
        wave_number = optics.refractive_index / optics.wavelength_um
        sx, sy = (component / optics.wavelength_um for component in na_xy)
        fx, fy = np.asarray(fx, float), np.asarray(fy, float)

        def kz(ux: NDArray[np.float64], uy: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.sqrt(np.maximum(wave_number**2 - ux**2 - uy**2, 0))

        self.to_plus: NDArray[np.float64] = np.hypot(fx - sx, fy - sy) / self.radius
        """Distance from the centre of the circle about +u_s, 1 on its edge."""
        self.to_minus: NDArray[np.float64] = np.hypot(fx + sx, fy + sy) / self.radius
        """The same for the circle about -u_s."""
        direct = np.sqrt(wave_number**2 - sx**2 - sy**2)
        self.phase_minus: NDArray[np.float64] = 2 * np.pi * (kz(fx - sx, fy - sy) - direct)
        """Phase per um of defocus of what is scattered to u - u_s, against the direct light, in radian."""
        self.phase_plus: NDArray[np.float64] = 2 * np.pi * (kz(fx + sx, fy + sy) - direct)
        """The same for what is scattered to u + u_s."""
        self.g: NDArray[np.float64] = -(self.phase_minus + self.phase_plus) / 2
        """Phase of the interference per um of defocus, in radian; of meaning inside both circles."""
