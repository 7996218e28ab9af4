"""How sharp each colour of a patch is at each scale, in a few numbers.

Red, green and blue have their focus at different heights, so the ratios of their sharpness tell on which side
of focus the specimen lies, which no single colour does. `spectra` tells the same in finer steps.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.models.hh_net.patches import logarithms

__all__ = ["LEVELS", "energies_of"]

LEVELS = 4
"""Of the pyramid, by default."""

_FLOOR = 1e-10
"""Least band energy: that of a patch without any detail."""


def energies_of(patch: NDArray[np.uint8], levels: int = LEVELS) -> NDArray[np.float32]:
    """Return the log band energies of one patch.

    Of x = log(intensity + 8), at each level: half the logarithm of the mean square of x less its mean over
    3 x 3 px, where all of these lie within the patch. From a level to the next 2 x 2 px become their mean; an
    odd row or column at the end is left out. Denser staining adds nearly the same to all of them.

    Parameters
    ----------
    patch : ndarray of uint8, shape (h, w, 3)
    levels : int
        Of the pyramid.

    Returns
    -------
    ndarray of float32, shape (levels * 3,)
        Red, green and blue of the finest level, of the next one, and so on.

    Raises
    ------
    ValueError
        If the patch has no 3 x 3 px left at the last level, or there is no level.
    """
    _check_levels(min(patch.shape[:2]), levels)
    out = np.empty((levels, 3))
    x = cv2.LUT(patch, logarithms())
    for level in range(levels):
        if level:
            height, width = (n // 2 for n in x.shape[:2])
            x = cv2.resize(x[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
        detail = cv2.blur(x, (3, 3))
        cv2.subtract(x, detail, detail)
        inner = detail[1:-1, 1:-1]
        out[level] = cv2.mean(cv2.multiply(inner, inner))[:3]
    return (np.log(out + _FLOOR) / 2).astype(np.float32).ravel()


def _check_levels(side_px: int, levels: int) -> None:
    if levels < 1:
        raise ValueError(f"levels is {levels!r}: expected at least 1")
    least = 3 * 2 ** (levels - 1)
    if side_px < least:
        raise ValueError(
            f"the patch has a side of {side_px} px: expected at least {least} for {levels} levels"
        )
