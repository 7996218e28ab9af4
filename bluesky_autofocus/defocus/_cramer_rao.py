"""How well any method could do: the Cramer-Rao bound of the defocus from two frames."""

import math

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus._fft import fft
from bluesky_autofocus.defocus._transfer import Transfer

__all__ = ["cramer_rao_bound"]


def cramer_rao_bound(
    specimen: NDArray[np.floating],
    noise_variance: float,
    transfer: Transfer,
    *,
    defocus_um: float,
    separation_um: float,
    pixel_size_um: float,
    astigmatism_um: tuple[float, float] | None = None,
) -> NDArray[np.float64]:
    """Return the least standard uncertainty that an unbiased estimate from two frames can have.

    The specimen is unknown at each frequency, as it is to the estimate; noise, brightness and the place of
    the frames are known. The information of the frames on the angle phi = atan2(H2, H1) is then

        I = sum_k 2 |O|^2 (H1^2 + H2^2) / s^2  grad(phi) grad(phi)^T

    over half of the Fourier plane, and the bound the root of the diagonal of its inverse.

    Parameters
    ----------
    specimen : ndarray, shape (H, W)
        In focus and without noise, in units such as electrons.
    noise_variance : float
        Of one pixel of one frame, in those units squared; of shot noise the mean of the frame.
    transfer : Transfer
        The optics.
    defocus_um : float
        Of the mean of the two positions.
    separation_um : float
        Defocus of the second frame less that of the first.
    pixel_size_um : float
        Side of a pixel.
    astigmatism_um : tuple of float, optional
        Distances between the line foci, along 0/90 and 45/135 degrees, where they are unknown as well.

    Returns
    -------
    ndarray, shape (1,) or (3,)
        In um, of the defocus and of the two astigmatisms.

    Raises
    ------
    ValueError
        If the variance is not positive and finite, or the specimen no frame.

    Notes
    -----
    At low dose no method gets there: since nobody knows the specimen, noise is taken for it. Nor do frames
    whose shot noise is strongest where the detail is: here it is as strong everywhere.
    """
    if specimen.ndim != 2:
        raise ValueError(f"specimen has shape {specimen.shape}: expected (H, W)")
    if not (math.isfinite(noise_variance) and noise_variance > 0):
        raise ValueError(f"noise_variance is {noise_variance!r}: expected a positive, finite number")
    rows, columns = specimen.shape
    # the edges of the frame are none of the specimen's
    window = np.outer(np.hanning(rows), np.hanning(columns))
    window /= math.sqrt(float((window**2).mean()))
    light = specimen - np.average(specimen, weights=window)
    power = np.abs(fft.rfft2(light * window)) ** 2 / (noise_variance * specimen.size)
    fy, fx = np.broadcast_arrays(fft.fftfreq(rows)[:, None], fft.rfftfreq(columns)[None, :])
    both_halves = np.where((fx == 0) | (2 * fx == 1), 0.5, 1.0)
    reach_um = abs(defocus_um) + abs(separation_um)
    sampled = transfer.sampled(fx / pixel_size_um, fy / pixel_size_um, reach_um)
    half_um = separation_um / 2
    point = np.array([defocus_um, *(astigmatism_um or (0.0, 0.0))])

    def transfers(at: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return sampled(at[0] - half_um, at[1], at[2]), sampled(at[0] + half_um, at[1], at[2])

    first, second = transfers(point)
    step_um = 1e-3 * transfer.depth_of_field_um(pixel_size_um)
    # with the information on the angle, (H1^2 + H2^2) grad(phi)^2 = (H1 dH2 - H2 dH1)^2 / (H1^2 + H2^2)
    strength = np.sqrt(2 * both_halves * power / np.maximum(first**2 + second**2, 1e-12))
    slopes = []
    for index in range(1 if astigmatism_um is None else 3):
        step = np.zeros(3)
        step[index] = step_um
        (above_1, above_2), (below_1, below_2) = transfers(point + step), transfers(point - step)
        turning = first * (above_2 - below_2) - second * (above_1 - below_1)
        slopes.append((strength * turning / (2 * step_um)).ravel())
    information = np.array(slopes) @ np.array(slopes).T
    return np.sqrt(np.diag(np.linalg.inv(information)))
