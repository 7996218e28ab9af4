"""A camera behind a light microscope: photons, noise, dirt and grey levels."""

import dataclasses
import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["LightCamera"]

_MANY_ELECTRONS = 30.0
"""From this mean on the Poisson distribution is drawn as a normal one, which is many times faster."""


@dataclasses.dataclass(frozen=True)
class LightCamera:
    """What turns an intensity into a frame.

    Parameters
    ----------
    electrons : float
        Mean photo-electrons a pixel where the intensity is 1, at exposure 1.
    read_noise_e : float
        Deviation of the readout, in electrons.
    gain : float
        Grey levels an electron.
    offset : float
        Grey level without light.
    full_well_e : float
        Electrons at which a pixel saturates.
    vignetting : float
        By how much the corners are darker than the centre.
    dust_per_mpx : float
        Specks of dust on the sensor's window per million pixels; always at the same place.
    bits : int
        8 or less: frames are uint8; up to 16: uint16.
    seed : int
        Of the dust.

    Raises
    ------
    ValueError
        If a number makes no sense.
    """

    electrons: float = 5000.0
    read_noise_e: float = 2.0
    gain: float = 2.0
    offset: float = 100.0
    full_well_e: float = 30_000.0
    vignetting: float = 0.15
    dust_per_mpx: float = 4.0
    bits: int = 16
    seed: int = 0
    _shading: dict[tuple[int, int], NDArray[np.float32]] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        for name in ("electrons", "gain", "full_well_e"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value!r}: expected a positive, finite number")
        for name in ("read_noise_e", "offset", "vignetting", "dust_per_mpx"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value!r}: expected a finite number, zero or more")
        if self.vignetting > 1:
            raise ValueError(f"vignetting is {self.vignetting!r}: expected at most 1, black corners")
        if self.bits not in range(1, 17):
            raise ValueError(f"bits is {self.bits!r}: expected an integer from 1 to 16")

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """Of its frames."""
        return np.uint8 if self.bits <= 8 else np.uint16

    @property
    def full_scale(self) -> float:
        """Grey level of pixels that are saturated."""
        return float(min(int(self.gain * self.full_well_e + self.offset + 0.5), 2**self.bits - 1))

    def frame(
        self, intensity: NDArray[np.float32], rng: np.random.Generator, exposure: float = 1.0
    ) -> NDArray[np.uint8 | np.uint16]:
        """Return what the camera gives out.

        Parameters
        ----------
        intensity : ndarray, shape (H, W) or (n, H, W)
            Relative to the bright field of one LED.
        rng : numpy.random.Generator
            Of the noise.
        exposure : float
            Relative exposure time.

        Raises
        ------
        ValueError
            If these are no images, or the exposure no number of zero or more.
        """
        if intensity.ndim not in (2, 3):
            raise ValueError(f"intensity has shape {intensity.shape}: expected (H, W) or (n, H, W)")
        _check_exposure(exposure)
        if intensity.ndim == 3:
            return np.stack([self.frame(one, rng, exposure) for one in intensity])
        electrons = intensity * self._shade(intensity.shape)  # type: ignore[arg-type] - two-dimensional
        electrons *= np.float32(self.electrons * exposure)
        if electrons.mean() < _MANY_ELECTRONS:
            electrons = rng.poisson(np.maximum(electrons, 0)).astype(np.float32)
            deviation = np.full_like(electrons, self.read_noise_e)
        else:
            deviation = np.sqrt(np.maximum(electrons, 0) + np.float32(self.read_noise_e**2))
        electrons += deviation * self._normal(electrons.shape, rng)
        return self._levels(electrons)

    def noiseless(
        self, intensity: NDArray[np.float32], exposure: float = 1.0
    ) -> NDArray[np.uint8 | np.uint16]:
        """Return what the mean of very many frames would be, shape (H, W), as `frame` takes it.

        Raises
        ------
        ValueError
            If this is no image, or the exposure no number of zero or more.
        """
        if intensity.ndim != 2:
            raise ValueError(f"intensity has shape {intensity.shape}: expected (H, W)")
        _check_exposure(exposure)
        electrons = intensity * self._shade(intensity.shape)  # type: ignore[arg-type] - two-dimensional
        return self._levels(electrons * np.float32(self.electrons * exposure))

    def _levels(self, electrons: NDArray[np.float32]) -> NDArray[np.uint8 | np.uint16]:
        electrons = np.minimum(electrons, np.float32(self.full_well_e))
        electrons *= np.float32(self.gain)
        electrons += np.float32(self.offset + 0.5)
        return np.clip(electrons, 0, 2**self.bits - 1).astype(self.dtype)

    def _shade(self, shape: tuple[int, int]) -> NDArray[np.float32]:
        """Return vignetting and dust."""
        if shape not in self._shading:
            y, x = (np.linspace(-1, 1, n) for n in shape)
            shade = 1 - self.vignetting * (y[:, None] ** 2 + x**2) / 2
            rng = np.random.default_rng((self.seed, *shape))
            rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])
            for _ in range(rng.poisson(self.dust_per_mpx * shape[0] * shape[1] * 1e-6)):
                cy, cx, radius = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(5, 20)
                # out of focus: a shallow disc with a soft rim
                distance = np.hypot(rows - cy, columns - cx)
                shade -= rng.uniform(0.01, 0.05) * np.clip((radius - distance) / 3 + 0.5, 0, 1)
            self._shading[shape] = shade.astype(np.float32)
        return self._shading[shape]

    def _normal(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
        """Return normal deviates cut at random from a long store, five times faster than drawing them."""
        count = math.prod(shape)
        store = _store()
        if count > store.size // 2:
            return rng.standard_normal(shape, np.float32)
        start = rng.integers(store.size - count)
        return store[start : start + count].reshape(shape) * np.float32(rng.choice((-1, 1)))


def _check_exposure(exposure: float) -> None:
    if not (math.isfinite(exposure) and exposure >= 0):
        raise ValueError(f"exposure is {exposure!r}: expected a finite number, zero or more")


@cache
def _store() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(1 << 23, np.float32)
