"""What the networks see of a frame: numbers from the Fourier magnitude of its patches.

Two kinds. ``strip_magnitude`` is that of the published code (Pinkard et al. 2019): the centre of |FFT| as one
long vector of unit mean. ``contours`` is the default: power averaged along the contours on which defocus has
the same effect, which keeps what tells the defocus and averages away what is the specimen's own.
"""

import functools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from bluesky_autofocus._fft import fft, threads
from bluesky_autofocus.defocus import TwoCircles
from bluesky_autofocus.optics import LightOptics

__all__ = ["FEATURES", "ContourFeatures", "Features", "StripFeatures", "make_features"]


class Features(Protocol):
    """From a frame to one vector for each patch."""

    patch_px: int

    @property
    def size(self) -> int:
        """Length of a vector."""
        ...

    @property
    def parameters(self) -> dict[str, Any]:
        """What `make_features` needs to make them again, JSON-able."""
        ...

    def __call__(self, frame: NDArray[Any]) -> NDArray[np.float32]:
        """Return the vectors, shape (n_patches, size)."""
        ...


def patches_of(frame: NDArray[Any], patch_px: int) -> NDArray[Any]:
    """Cut a frame into patches that do not overlap, as a view; what is left over at the edges is not used.

    Parameters
    ----------
    frame : ndarray, shape (H, W)

    Returns
    -------
    ndarray, shape (rows, columns, patch_px, patch_px)

    Raises
    ------
    ValueError
        If the frame has colours or is smaller than a patch.
    """
    if frame.ndim != 2:
        raise ValueError(f"the frame has shape {frame.shape}: expected (H, W), without colours")
    rows, columns = (n // patch_px for n in frame.shape)
    if rows == 0 or columns == 0:
        raise ValueError(f"the frame is {frame.shape} px: expected at least one patch of {patch_px} px")
    cut = frame[: rows * patch_px, : columns * patch_px]
    return cut.reshape(rows, patch_px, columns, patch_px).swapaxes(1, 2)


class StripFeatures:
    """The centre of the Fourier transform of each patch, as published: rows along the LED's axis.

    No window, the mean taken out, magnitude divided by its mean. Half of the plane is left out, for the
    spectrum of a real image is symmetric.

    Parameters
    ----------
    optics, na_xy, patch_px
        As for `make_features`. The LED must lie on the x or y axis of the frame.
    phase : bool
        Give the phase in place of the magnitude: the comparison of the paper's figure 3a.
    along_per_um, across_per_um : float
        Extent of the strip in cycles per um, along the axis of the LED to both sides and across it.
    """

    def __init__(
        self,
        optics: LightOptics,
        na_xy: Sequence[float],
        patch_px: int,
        *,
        phase: bool = False,
        along_per_um: float = 0.923,
        across_per_um: float = 0.154,
    ) -> None:
        self.optics, self.na_xy, self.patch_px, self.phase = optics, tuple(na_xy), patch_px, phase
        self.along_per_um, self.across_per_um = along_per_um, across_per_um
        step = 1 / (patch_px * optics.pixel_size_um)
        self.half_length, self.width = round(along_per_um / step), round(across_per_um / step)
        self.vertical = abs(na_xy[1]) > abs(na_xy[0])
        if min(abs(na_xy[0]), abs(na_xy[1])) > 0.3 * max(abs(na_xy[0]), abs(na_xy[1])):
            raise ValueError(f"na_xy is {self.na_xy!r}: expected an LED on the x or y axis")
        if not (1 <= self.half_length <= patch_px // 2 and 1 <= self.width <= patch_px // 2):
            raise ValueError(
                f"a patch of {patch_px} px of {optics.pixel_size_um} um has no strip of "
                f"{along_per_um} x {across_per_um} cycles per um"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Of the strip, along and across the axis of the LED."""
        return 2 * self.half_length, self.width

    @property
    def size(self) -> int:
        """Length of a vector."""
        return 2 * self.half_length * self.width

    @property
    def parameters(self) -> dict[str, Any]:
        """What `make_features` needs to make them again."""
        return {
            "name": "strip_phase" if self.phase else "strip_magnitude",
            "along_per_um": self.along_per_um,
            "across_per_um": self.across_per_um,
        }

    def __call__(self, frame: NDArray[Any]) -> NDArray[np.float32]:
        """Return the vectors, shape (n_patches, size)."""
        x = patches_of(frame, self.patch_px).reshape(-1, self.patch_px, self.patch_px).astype(np.float32)
        if self.vertical:
            x = x.swapaxes(-1, -2)
        x = x - x.mean(axis=(-2, -1), keepdims=True)
        # across the axis first, so that only the few columns of the strip are transformed along it
        spectrum = fft.rfft(x, axis=-2, workers=threads())[:, : self.width]
        spectrum = fft.fft(spectrum, axis=-1, workers=threads())
        strip = np.concatenate(
            [spectrum[..., -self.half_length :], spectrum[..., : self.half_length]], axis=-1
        ).swapaxes(-1, -2)
        if self.phase:
            return np.angle(strip).reshape(len(x), -1).astype(np.float32)
        magnitude = np.abs(strip).reshape(len(x), -1)
        return magnitude / np.maximum(magnitude.mean(axis=1, keepdims=True), 1e-12)


class ContourFeatures:
    """Log power of each patch, averaged over bins of equal effect of defocus.

    Bins of g inside both circles, in which defocus makes fringes; bins of the spatial frequency inside one
    circle alone, which say what the specimen is like; bins across the circles' edge, which say whether the
    optics are the right ones; and what is beyond, which is noise. Each relative to their mean; the contrast
    and the noise come last.

    Parameters
    ----------
    optics, na_xy, patch_px
        As for `make_features`.
    contours, rings, edges : int
        Numbers of bins.
    offset : float
        Grey level of the camera without light.
    """

    def __init__(
        self,
        optics: LightOptics,
        na_xy: Sequence[float],
        patch_px: int,
        *,
        contours: int = 64,
        rings: int = 24,
        edges: int = 16,
        offset: float = 100.0,
    ) -> None:
        for name, count in (("contours", contours), ("rings", rings), ("edges", edges)):
            if count < 1:
                raise ValueError(f"{name} is {count!r}: expected at least 1")
        if not math.isfinite(offset):
            raise ValueError(f"offset is {offset!r}: expected a finite number")
        self.optics, self.na_xy, self.patch_px = optics, tuple(na_xy), patch_px
        self.contours, self.rings, self.edges, self.offset = contours, rings, edges, offset
        # the axis that the light is tilted less along is transformed first and cut to one circle
        self._transpose = abs(na_xy[1]) > abs(na_xy[0])
        sx, sy = reversed(self.na_xy) if self._transpose else self.na_xy
        frequencies = fft.fftfreq(patch_px, optics.pixel_size_um)
        half = fft.rfftfreq(patch_px, optics.pixel_size_um)
        reach = (optics.numerical_aperture + abs(sy)) / optics.wavelength_um * 1.15
        self._rows = int(min((half <= reach).sum(), len(half)))
        fy, fx = half[: self._rows, None], frequencies
        circles = TwoCircles(optics, (sx, sy), fx, fy)
        radius = np.hypot(fx, fy)
        step = 1 / (patch_px * optics.pixel_size_um)
        used = radius > 2.5 * step  # the window smears the mean over the lowest frequencies
        nearer = np.minimum(circles.to_plus, circles.to_minus)
        both = used & (np.maximum(circles.to_plus, circles.to_minus) < 0.98)
        one = used & (nearer < 0.98) & (np.maximum(circles.to_plus, circles.to_minus) > 1.02)
        rim = used & (np.abs(nearer - 1) < 0.2) & (np.maximum(circles.to_plus, circles.to_minus) > 1.2)
        beyond = nearer > 1.12
        if not all(region.any() for region in (both, one, rim, beyond)):
            raise ValueError(
                f"na_xy is {self.na_xy!r}: expected an LED within the objective's aperture, "
                f"{optics.numerical_aperture:g}, and off its axis, so that two circles overlap, and pixels "
                "fine enough to show what is beyond them"
            )
        self._matrix = self._averaging(
            [
                *_bins(both, circles.g, contours),
                *_bins(one, radius, rings),
                *_bins(rim, nearer, edges),
                np.flatnonzero(beyond),
            ]
        )
        self._window = _tukey(patch_px, 0.25)

    def _averaging(self, bins: list[NDArray[np.intp]]) -> Any:
        n = self._rows * self.patch_px
        lengths = [len(one) for one in bins]
        weights = np.concatenate([np.full(k, 1 / max(k, 1), np.float32) for k in lengths])
        return sparse.csr_matrix(
            (weights, np.concatenate(bins), np.concatenate([[0], np.cumsum(lengths)])), shape=(len(bins), n)
        )

    @property
    def size(self) -> int:
        """Length of a vector."""
        return int(self._matrix.shape[0]) + 1

    @property
    def parameters(self) -> dict[str, Any]:
        """What `make_features` needs to make them again."""
        return {
            "name": "contours",
            "contours": self.contours,
            "rings": self.rings,
            "edges": self.edges,
            "offset": self.offset,
        }

    def __call__(self, frame: NDArray[Any]) -> NDArray[np.float32]:
        """Return the vectors, shape (n_patches, size)."""
        return self.vectors(self.powers(frame))

    def powers(self, frame: NDArray[Any], most: int | None = None) -> NDArray[np.float32]:
        """Return the mean power in each bin relative to the square of the brightness, the noise last.

        Powers of several patches, or of several frames at one defocus, may be averaged before `vectors`.

        Parameters
        ----------
        frame : ndarray, shape (H, W)
        most : int, optional
            Look at no more patches than this, spread over the frame. By default at all.

        Returns
        -------
        ndarray of float32, shape (n_patches, size - 1)
        """
        patches = patches_of(frame, self.patch_px)
        rows, columns = patches.shape[:2]
        count = rows * columns if most is None else min(most, rows * columns)
        where = [
            divmod(round(index), columns) for index in np.linspace(0, rows * columns - 1, count).tolist()
        ]
        chosen = [patches[place][None] for place in where]
        if len(chosen) == 1 or threads() == 1:
            return np.concatenate([self._powers_of(patch) for patch in chosen])
        # all of it, not only the transforms, on all cores
        return np.concatenate(list(_pool().map(self._powers_of, chosen)))

    def _powers_of(self, patches: NDArray[Any]) -> NDArray[np.float32]:
        x = patches.astype(np.float32)
        mean = np.maximum(x.mean(axis=(-2, -1), keepdims=True) - np.float32(self.offset), 1.0)
        x -= mean + np.float32(self.offset)
        x *= self._window / mean
        if self._transpose:
            x = x.swapaxes(-1, -2)
        spectrum = fft.rfft(x, axis=-2)[:, : self._rows]
        spectrum = fft.fft(spectrum, axis=-1)
        power = spectrum.real**2
        power += spectrum.imag**2
        return np.ascontiguousarray((self._matrix @ power.reshape(len(x), -1).T).T)

    @staticmethod
    def vectors(powers: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the vectors that belong to some powers, shape (n, size)."""
        logs = np.log(np.maximum(powers, 1e-12)).astype(np.float32)
        signal, noise = logs[:, :-1], logs[:, -1:]
        level = signal.mean(axis=1, keepdims=True)
        return np.concatenate([signal - level, noise - level, level], axis=1)


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="contour-features")


def _bins(where: NDArray[np.bool_], value: NDArray[np.float64], count: int) -> list[NDArray[np.intp]]:
    """Return flat indices for bins of equal width in `value`; empty ones are left out."""
    inside = value[where]
    number = np.full(value.shape, -1)
    scaled = (value - inside.min()) / max(float(np.ptp(inside)), 1e-12) * count
    number[where] = np.minimum(scaled[where], count - 1e-6).astype(int)
    found = [np.flatnonzero(number == index) for index in range(count)]
    return [one for one in found if len(one)]


def _tukey(n: int, taper: float) -> NDArray[np.float32]:
    """Return a window over a patch, flat in the middle, so that its edges do not spill over the spectrum."""
    flat = np.ones(n, np.float32)
    k = int(n * taper / 2)
    ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(k) + 0.5) / k)
    flat[:k], flat[n - k :] = ramp, ramp[::-1]
    return flat[:, None] * flat


FEATURES = ("contours", "strip_magnitude", "strip_phase")
"""The kinds there are."""


def make_features(
    name: str, optics: LightOptics, na_xy: Sequence[float], patch_px: int, **options: Any
) -> Features:
    """Make features by name.

    Parameters
    ----------
    name : str
        One of `FEATURES`.
    optics : LightOptics
        Of the frames.
    na_xy : sequence of float
        Direction (x, y) of the LED in the frame's axes.
    patch_px : int
        Side of the patches.
    options
        Of the kind.

    Raises
    ------
    ValueError
        If there is no such kind, the LED is none within the objective's aperture, or a patch is too small.
    """
    if name not in FEATURES:
        raise ValueError(f"unknown features {name!r}; there are {', '.join(FEATURES)}")
    if patch_px < 32:
        raise ValueError(f"patch_px is {patch_px!r}: expected at least 32")
    if not 0 < math.hypot(*na_xy) < 1:
        raise ValueError(f"na_xy is {tuple(na_xy)!r}: expected an off-axis direction within NA 1")
    if name == "contours":
        return ContourFeatures(optics, na_xy, patch_px, **options)
    return StripFeatures(optics, na_xy, patch_px, phase=name == "strip_phase", **options)
