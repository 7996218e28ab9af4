"""The toy microscope of the article that this library grew from, with its flaws.

The article (an introduction to autofocus for electron microscopes by the variance of the Laplacian) tries its
search on a picture blurred by a disc whose radius is a whole number of pixels. The radius is 0 within 5 of
the optimum and then climbs a stair, so the sharpness is flat around the optimum and jumps elsewhere, unlike
any real microscope. The search the article publishes, `scipy.optimize.minimize_scalar` within `BOUNDS` on the
reciprocal of the variance, tries 44.4, 65.6, 31.2, 48.4, 55.0 and 51.7 on any picture with enough detail: the
stair and the golden section decide, not the picture. It is kept to compare with what the article reports; for
anything else use `SEMImageFormation`, whose blur is smooth.
"""

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from .scenes import scene

OPTIMUM = 50.0
"""The working distance in focus, in the article's arbitrary unit."""

BLUR_SCALE = 0.1
"""Pixels of radius per unit of distance from the optimum."""

BOUNDS = (10.0, 100.0)
"""The working distances that the article's search may try."""


class ArticleMicroscope:
    """A microscope with one knob and no noise.

    Parameters
    ----------
    image : array_like of uint8, shape (H, W), optional
        The picture in focus. The article's own was not published; the default is a polycrystal with a fixed
        seed, on which its search ends near the optimum as it reports.

    Raises
    ------
    ValueError
        If the image is not a grey picture of 8 bits.
    """

    def __init__(self, image: ArrayLike | None = None) -> None:
        if image is None:
            image = np.rint(255 * scene("grains", seed=0, shape=(512, 512))).astype(np.uint8)
        self.image = np.asarray(image)
        if self.image.dtype != np.uint8 or self.image.ndim != 2 or self.image.size == 0:
            raise ValueError(
                f"image is {self.image.dtype} of shape {self.image.shape}: expected uint8 of shape (H, W)"
            )

    def scan_image(self, working_distance: float) -> NDArray[np.uint8]:
        """Return the picture at a working distance.

        Parameters
        ----------
        working_distance : float
            Working distance, in the article's arbitrary unit.

        Returns
        -------
        ndarray of uint8, shape (H, W)
            The picture averaged over a disc of ``round(|working_distance - OPTIMUM| * BLUR_SCALE)`` pixels.

        Raises
        ------
        ValueError
            If the working distance is not finite.
        """
        if not np.isfinite(working_distance):
            raise ValueError(f"working_distance is {working_distance!r}: expected a finite number")
        radius = round(abs(working_distance - OPTIMUM) * BLUR_SCALE)
        y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
        disc = (x**2 + y**2 <= radius**2).astype(np.float64)
        return np.asarray(cv2.filter2D(self.image, -1, disc / disc.sum()), np.uint8)
