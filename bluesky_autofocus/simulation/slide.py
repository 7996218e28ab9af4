"""A slide on a stage: how high it lies where."""

import math

import numpy as np

__all__ = ["Slide"]


class Slide:
    """A slide that is neither level nor flat.

    Parameters
    ----------
    tilt : tuple of float
        By how much it rises along x and y, in um per mm.
    unevenness_um : float
        Deviation from a plane; smooth over about 2 mm.
    seed : int
        Of the unevenness.

    Raises
    ------
    ValueError
        If a number is not finite.
    """

    _WAVES = 4

    def __init__(self, tilt: tuple[float, float], unevenness_um: float, seed: int) -> None:
        for name, value in (("slide_tilt", tilt), ("unevenness_um", (unevenness_um,))):
            if not all(map(math.isfinite, value)):
                raise ValueError(f"{name} is {value!r}: expected finite numbers")
        self.tilt, self.unevenness_um = tilt, unevenness_um
        rng = np.random.default_rng((seed, 2))
        angles, self._phases = rng.uniform(0, 2 * np.pi, (2, self._WAVES))
        # cycles per um
        self._waves = np.stack([np.cos(angles), np.sin(angles)]) * rng.uniform(2e-4, 5e-4, self._WAVES)

    def height_um(self, x_um: float, y_um: float) -> float:
        """Return its height at a place."""
        waves = np.sin(2 * np.pi * (x_um * self._waves[0] + y_um * self._waves[1]) + self._phases)
        tilted = 1e-3 * (self.tilt[0] * x_um + self.tilt[1] * y_um)
        return tilted + self.unevenness_um * math.sqrt(2 / self._WAVES) * float(waves.sum())
