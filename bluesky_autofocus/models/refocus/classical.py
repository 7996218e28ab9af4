"""Deconvolution with a known point spread: what the networks have to be better than.

Both methods look for the specimen that would have given the frame, and show it as the microscope does in
focus, so not sharper than that. They are those of scikit-image, which comes with the extra ``simulation``.
"""

import dataclasses
import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus._fft import fft, threads
from bluesky_autofocus.defocus import ModelMismatchError
from bluesky_autofocus.models.refocus._levels import Levels, noise_of
from bluesky_autofocus.models.refocus._refocused import Refocused
from bluesky_autofocus.widefield import Widefield

__all__ = ["RichardsonLucy", "Wiener", "point_spread"]

_TOLERANCE = 0.05
"""Relative, of the optics: as of a network's."""
_SHARE = 0.99
_RINGS_UM = 20.0
"""Beyond the cone of light, a point is looked for this much farther out."""
_LEAST_NOISE = 0.01
"""Relative to contrast: what is beyond the borders is not known, even where there is no noise at all."""
_LEAST_SPREAD_PX = 20.0
"""So near to focus there is little to undo, and a frame is not to be smoothed instead."""
_ROUNDING = 1e-6
"""Of transforms of single precision, relative to the brightest pixel."""


def point_spread(widefield: Widefield, defocus_um: float, *, share: float = _SHARE) -> NDArray[np.float32]:
    """Return the image of a point.

    Parameters
    ----------
    widefield : Widefield
        Optics and aberration.
    defocus_um : float
        Image plane minus focus.
    share : float
        Of the light that the array is to hold. The rings that a pupil with a hard edge makes fade so slowly
        that at an aperture of 0.45 a hundredth of the light is more than 10 um off, and a thousandth more
        than 100 um: an array for 0.999 would be as large as many a frame.

    Returns
    -------
    ndarray of float32, shape (n, n)
        n is odd, the point in the middle; nothing is below 0, and the sum is 1. What pixels too coarse for
        the finest detail make ring below 0 is taken as 0.

    Raises
    ------
    ValueError
        If the defocus is farther than the optics were computed for, or the share not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share!r}: expected between 0 and 1")
    optics = widefield.optics
    steepest = optics.numerical_aperture / math.sqrt(
        optics.refractive_index**2 - optics.numerical_aperture**2
    )
    _check_defocus(widefield, defocus_um)
    half = math.ceil((1.5 * abs(defocus_um) * steepest + _RINGS_UM) / optics.pixel_size_um)
    side = 2 * half + 1
    spread = fft.irfft2(widefield.transfer(defocus_um, (side, side)), s=(side, side), workers=threads())
    spread = np.maximum(fft.fftshift(spread), 0)
    off = np.abs(np.arange(-half, half + 1))
    within = np.bincount(np.maximum.outer(off, off).ravel(), weights=spread.ravel()).cumsum()
    kept = int(np.searchsorted(within, share * within[-1]))
    spread = spread[half - kept : half + kept + 1, half - kept : half + kept + 1]
    return spread / spread.sum()


def _check_defocus(widefield: Widefield, defocus_um: float) -> None:
    if not abs(defocus_um) <= widefield.reach_um:  # NaN is not, either
        raise ValueError(
            f"defocus_um is {defocus_um!r}: expected at most {widefield.reach_um:g} to either side of focus"
        )


def _restoration() -> Any:
    try:
        from skimage import restoration
    except ImportError as error:
        raise ImportError(
            "deconvolution takes scikit-image: pip install 'bluesky-autofocus[simulation]'"
        ) from error
    return restoration


def _noise_of(channel: NDArray[Any]) -> float:
    """Return the deviation of noise in grey levels; whole levels alone make some."""
    rounding = 0.0 if np.issubdtype(channel.dtype, np.floating) else 1 / math.sqrt(12)
    return max(noise_of(channel), rounding)


class _Deconvolution:
    """What both methods do with a frame before and after."""

    name: str
    model_hash = ""

    def __init__(self, widefield: Widefield, defocus_um: float) -> None:
        _check_defocus(widefield, defocus_um)
        self.widefield, self.defocus_um = widefield, float(defocus_um)

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Distance from focus and optics, and what the method adds."""
        return {
            "defocus_um": self.defocus_um,
            "optics": dataclasses.asdict(self.widefield.optics),
            "spherical_waves": self.widefield.spherical_waves,
        }

    @cached_property
    def _spread(self) -> NDArray[np.float32]:
        return point_spread(self.widefield, self.defocus_um)

    def check_values(self, optics: Mapping[str, float]) -> None:
        """Make sure of those figures of the optics that are known, by their names in `LightOptics`.

        The magnification is not compared: it matters only through the pixel size.

        Raises
        ------
        ModelMismatchError
            Naming what differs by more than 5 %.
        """
        for name, found in optics.items():
            expected = getattr(self.widefield.optics, name)
            # also where it is not a number
            if name != "magnification" and not abs(found - expected) <= _TOLERANCE * expected:
                raise ModelMismatchError(
                    f"{name} is {found:g}: {self.name} was given a point spread for {expected:g} "
                    f"(within {100 * _TOLERANCE:.0f} %)"
                )

    def refocus(self, frame: NDArray[Any]) -> Refocused:
        """Return the frame as it would look in focus.

        Parameters
        ----------
        frame : ndarray of uint8, uint16 or float, shape (H, W) or (H, W, 3)
            Of a colour frame each channel is taken by itself, all with the same point spread.

        Returns
        -------
        Refocused
            Always accepted; no uncertainty and no mismatch are stated.

        Raises
        ------
        ValueError
            If this is no such frame, it is smaller than the image of a point, or has pixels that are NaN or
            infinite.
        ImportError
            If scikit-image is missing.
        """
        frame = np.asarray(frame)
        self._check(frame)
        result = np.empty_like(frame)
        channels, results = (np.atleast_3d(one) for one in (frame, result))
        for n in range(channels.shape[2]):
            channel = channels[..., n]
            levels = Levels.of(channel)
            with fft.set_workers(threads()):
                in_focus = self._in_focus(levels.apply(channel), _noise_of(channel) / levels.scale)
            results[..., n] = levels.undo(in_focus, frame.dtype)
        return Refocused(
            result, np.full(frame.shape, np.nan, np.float32), abs(self.defocus_um), mismatch=math.nan
        )

    def _check(self, frame: NDArray[Any]) -> None:
        if frame.ndim not in (2, 3) or frame.ndim == 3 and frame.shape[2] != 3:
            raise ValueError(f"frame has shape {frame.shape}: expected (H, W) or (H, W, 3)")
        if frame.dtype not in (np.uint8, np.uint16) and not np.issubdtype(frame.dtype, np.floating):
            raise ValueError(f"frame is of type {frame.dtype}: expected uint8, uint16 or float")
        if min(frame.shape[:2]) < len(self._spread):
            raise ValueError(
                f"frame has shape {frame.shape}: expected at least {len(self._spread)} pixels each way, over "
                f"which a point spreads at {self.defocus_um:g} um from focus"
            )
        if not np.isfinite(frame).all():
            raise ValueError("frame has pixels that are NaN or infinite")

    def _in_focus(self, x: NDArray[np.float32], noise: float) -> NDArray[np.float32]:
        """Return one channel in focus, from grey levels and their noise as `Levels` scales them."""
        raise NotImplementedError

    def _continued(self, x: NDArray[np.float32]) -> tuple[tuple[slice, slice], NDArray[np.float32]]:
        """Return where a channel lies in a larger array, and that: pixels at its borders go on beyond them.

        To reflect it would put a crease along each border, and so sharp a thing no blurred frame has: nuclei
        came out worse by 1 dB.
        """
        margin = 3 * len(self._spread) // 2
        sizes = [fft.next_fast_len(n + 2 * margin, real=True) for n in x.shape]
        widths = [(margin, size - n - margin) for n, size in zip(x.shape, sizes, strict=True)]
        rows, columns = (slice(margin, margin + n) for n in x.shape)
        return (rows, columns), np.pad(x, widths, mode="edge")

    def _focused(self, specimen: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the microscope shows of a specimen in focus."""
        transfer = self.widefield.transfer(0.0, specimen.shape)  # type: ignore[arg-type] - two-dimensional
        return fft.irfft2(fft.rfft2(specimen) * transfer, s=specimen.shape)


class Wiener(_Deconvolution):
    """The linear filter that weighs what the blur left of a frequency against noise.

    A frequency of which H is left comes back as H / (H^2 + balance) of what was recorded.

    Parameters
    ----------
    widefield : Widefield
        Optics and aberration.
    defocus_um : float
        Image plane minus focus of the frames, which has to be known.
    balance : float, optional
        Power of noise relative to the specimen's; more of it leaves more blur and makes fewer ripples. By
        default it is

            2 (noise / (contrast spread))^0.75

        with the deviations of a frame's noise and of its grey levels, and the number of pixels that a point
        is spread over, 20 at least.

    Raises
    ------
    ValueError
        If a number makes no sense.

    Notes
    -----
    The balance by default was fitted to 16 simulated fields of nuclei at 14 planes. It is not the square of
    the noise, as in theory: even where there is hardly any noise, nothing is known of what lies beyond the
    frame's borders, nor which nucleus lies higher than another. scikit-image's `unsupervised_wiener`, which
    takes all that is not explained for noise of the camera, was worse by 6 to 13 dB.
    """

    name = "wiener"

    def __init__(self, widefield: Widefield, defocus_um: float, *, balance: float | None = None) -> None:
        if balance is not None and not (math.isfinite(balance) and balance > 0):
            raise ValueError(f"balance is {balance!r}: expected a positive, finite number")
        super().__init__(widefield, defocus_um)
        self.balance = balance

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Distance from focus, optics and balance, None where it follows the frame."""
        return {**super().parameters, "balance": self.balance}

    def _in_focus(self, x: NDArray[np.float32], noise: float) -> NDArray[np.float32]:
        mean = x.mean()
        inside, beyond = self._continued(x - mean)
        # what the transform takes for periodic has to meet itself without a step
        for axis, (n, window) in enumerate(zip(beyond.shape, inside, strict=True)):
            at = np.arange(n)
            away = np.maximum(np.maximum(window.start - at, at - window.stop + 1), 0) / window.start
            fade = np.cos(np.pi / 2 * np.minimum(away, 1)).astype(np.float32) ** 2
            beyond *= fade[:, None] if axis == 0 else fade
        transfer = self.widefield.transfer(self.defocus_um, beyond.shape)  # type: ignore[arg-type]
        balance = self.balance if self.balance is not None else _balance(x, noise, transfer)
        # scikit-image knows transfer functions by their shape, if that of the other is complex, too; that of
        # an impulse is 1 everywhere
        specimen = _restoration().wiener(
            beyond,
            transfer.astype(np.complex64),
            balance,
            reg=np.ones(transfer.shape, np.complex64),
            clip=False,
        )
        return self._focused(specimen)[inside] + mean


def _balance(x: NDArray[np.float32], noise: float, transfer: NDArray[np.float32]) -> float:
    contrast = math.sqrt(max(float(x.var()) - noise**2, 1e-12))
    spread = max(1 / float((transfer**2).mean()), _LEAST_SPREAD_PX)  # by Parseval's theorem
    return 2 * (max(noise / contrast, _LEAST_NOISE) / spread) ** 0.75


class RichardsonLucy(_Deconvolution):
    """The most likely specimen for noise of photons, approached step by step and never darker than dark.

    Where most of a frame is bright and what absorbs light stands out dark, it is the light that is missing
    which is never negative: the frame is taken upside down. Which kind it is the skewness of its grey levels
    tells.

    Parameters
    ----------
    widefield : Widefield
        Optics and aberration.
    defocus_um : float
        Image plane minus focus of the frames, which has to be known.
    iterations : int
        With more of them finer detail comes out, and later noise. 80 are near the best for nuclei 12 to 32 um
        from focus; nearer to it, fewer do.

    Raises
    ------
    ValueError
        If a number makes no sense.
    """

    name = "richardson-lucy"

    def __init__(self, widefield: Widefield, defocus_um: float, *, iterations: int = 80) -> None:
        if not (isinstance(iterations, int) and iterations >= 1):
            raise ValueError(f"iterations is {iterations!r}: expected a positive integer")
        super().__init__(widefield, defocus_um)
        self.iterations = iterations

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Distance from focus, optics and iterations."""
        return {**super().parameters, "iterations": self.iterations}

    def _in_focus(self, x: NDArray[np.float32], noise: float) -> NDArray[np.float32]:
        upright = float(((x - x.mean()) ** 3).mean()) >= 0
        light = np.maximum(x if upright else 1 - x, 0)
        # scikit-image takes all beyond the array for dark, and that comes in with every iteration
        inside, light = self._continued(light)
        specimen = _restoration().richardson_lucy(
            light,
            self._spread,
            num_iter=self.iterations,
            clip=False,
            filter_epsilon=_ROUNDING * float(light.max()),
        )
        light = self._focused(specimen)[inside]
        return light if upright else 1 - light
