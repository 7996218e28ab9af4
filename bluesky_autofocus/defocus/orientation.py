"""Where the light of an LED comes from, seen in the frames that it makes.

The image under one LED within the objective's aperture is the interference of the light that the specimen
scatters with that which it does not. Its spectrum therefore fills two circles as wide as the pupil, centred
on plus and minus the LED's direction. One frame so tells the direction but for its sign. The sign shows in
how the image is displaced along the axis: the outer part of one circle, where the other does not reach,
holds one sideband only, whose phase turns with the height of the image plane in a known way.
"""

import dataclasses
import math

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.optimize import minimize

from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.records import Reason

__all__ = ["Circles", "LEDDirection", "Parallax", "find_circles", "led_direction", "parallax"]

_TILE_PX = 512
"""Larger frames are cut into tiles whose spectra are averaged: less noise, and fine enough a frequency."""
_LOWEST_NA = 0.04
_STEP_SAMPLES = 3.0
"""Distance of the directions tried at first, in samples of the spectrum; the edge is compared over more."""
_BESIDE_EDGE_PX = (1.5, 2.5, 3.5, 4.5)
"""How far inside and outside the edge of the circles the power is compared, in samples of the spectrum."""
_ELSEWHERE_NA = 0.05
_LARGEST_PART = 0.97
"""Of the objective's aperture: an LED closer to its edge cannot be told from one that is just beyond."""
_LEAST_CONFIDENCE = 0.3
_LEAST_SIGNIFICANCE = 7.0
_LEAST_STRENGTH = 0.2
_LEAST_STRUCTURE = math.log(3.0)


@dataclasses.dataclass(frozen=True)
class Circles:
    """The two circles in the spectrum of a frame under one LED.

    Parameters
    ----------
    na : float
        Distance of their centres from the middle, as the aperture of the LED. NaN where none were found.
    angle_deg : float
        Direction of their centres from x (columns) towards y (rows, down), from 0 to 180: the light comes
        from here or from opposite.
    contrast : float
        Logarithm of the power just inside over that just outside their edge, on average.
    confidence : float
        From 0 to 1: how much smaller the contrast of the next best pair of circles is.
    accepted : bool
        Whether there are two circles.
    reason : Reason
        Why not.
    """

    na: float
    angle_deg: float
    contrast: float
    confidence: float
    accepted: bool = True
    reason: Reason = Reason.OK

    @property
    def na_xy(self) -> tuple[float, float]:
        """Centre of one of them, in NA space."""
        angle = math.radians(self.angle_deg)
        return self.na * math.cos(angle), self.na * math.sin(angle)


@dataclasses.dataclass(frozen=True)
class Parallax:
    """How the image went aside from one height of the image plane to another.

    Parameters
    ----------
    displacement_um : tuple of float
        By which the second frame is displaced (x, y) from the first. NaN where it could not be told.
    distance_um : float
        By how much the image plane went up, if the light came from ``circles.na_xy``; negative where it
        comes from opposite (or the axis runs the other way).
    strength : float
        From 0 to 1: which part of the sideband's phase the displacement explains.
    accepted : bool
        Whether the sign is beyond doubt.
    """

    displacement_um: tuple[float, float]
    distance_um: float
    strength: float
    accepted: bool = True
    reason: Reason = Reason.OK


@dataclasses.dataclass(frozen=True)
class LEDDirection:
    """Where the light of an LED comes from, in the axes of the frame.

    Parameters
    ----------
    na_x, na_y : float
        In NA space. NaN where it could not be told.
    distance_um : float
        Between the two image planes as the parallax has it: the true one tells that the axis is right.
    confidence, strength : float
        Of `Circles` and `Parallax`.
    accepted : bool
        Whether the direction is to be believed.
    reason : Reason
        Why not.
    """

    na_x: float
    na_y: float
    distance_um: float
    confidence: float
    strength: float
    accepted: bool = True
    reason: Reason = Reason.OK


def find_circles(frame: NDArray[np.number], optics: LightOptics) -> Circles:
    """Find the direction of the LED, up to its sign, in the spectrum of one frame.

    The centre of the circles is where the logarithm of the power falls most steeply across the edge of
    their union. Measured on simulated cells and tissue at 512 px, within +-25 um of focus: half a degree and
    0.005 NA at most, 0.1 degrees and 0.002 NA on average.

    Parameters
    ----------
    frame : ndarray, shape (H, W) or (n, H, W)
        Under a single LED within the objective's aperture; several frames under the same LED (at different
        heights of the image plane) are evaluated together.
    optics : LightOptics
        Of the frame.

    Returns
    -------
    Circles
        Not accepted where there is no specimen (`Reason.EMPTY`), or no pair of circles stands out, as under
        a darkfield LED or several ones (`Reason.UNFAMILIAR`).

    Raises
    ------
    ValueError
        If the frame has the wrong shape or is smaller than 64 px.
    """
    frames = _checked(frame)
    if not np.isfinite(frames).all():
        return _no_circles(Reason.NOT_FINITE)
    if (frames.mean((1, 2)) <= 0).any() or (frames == frames[:, :1, :1]).all((1, 2)).any():
        return _no_circles(Reason.UNIFORM)
    power = np.mean([(np.abs(_spectra(one)) ** 2).mean(0) for one in frames], axis=0)
    log_power = np.log(gaussian_filter(power, 1.0, mode="wrap") + np.finfo(np.float32).tiny)
    if _structure(log_power, optics) < _LEAST_STRUCTURE:
        return _no_circles(Reason.EMPTY)
    edge = _Edge(log_power, optics)

    candidates = edge.candidates()
    contrasts = edge.contrast(candidates)
    best = int(contrasts.argmax())
    middle = float(np.median(contrasts))
    spread = 1.48 * float(np.median(np.abs(contrasts - middle)))
    away = np.minimum(*(np.hypot(*(candidates - sign * candidates[best]).T) for sign in (1, -1)))
    rival = float(contrasts[away > _ELSEWHERE_NA].max())
    confidence = float(np.clip(1 - rival / contrasts[best], 0, 1)) if contrasts[best] > 0 else 0.0

    (x, y), contrast = edge.refine(candidates[best])
    na = math.hypot(x, y)
    angle_deg = math.degrees(math.atan2(y, x)) % 180.0
    found = (
        confidence >= _LEAST_CONFIDENCE
        and contrasts[best] - middle >= _LEAST_SIGNIFICANCE * spread
        and na <= _LARGEST_PART * optics.numerical_aperture
    )
    if not found:
        return dataclasses.replace(
            _no_circles(Reason.UNFAMILIAR), contrast=contrast, confidence=min(confidence, _LEAST_CONFIDENCE)
        )
    return Circles(na, angle_deg, contrast, confidence)


def parallax(
    frame_low: NDArray[np.number],
    frame_high: NDArray[np.number],
    circles: Circles,
    optics: LightOptics,
    *,
    span_um: float,
) -> Parallax:
    """Tell by how much the image was displaced from one frame to the other, and so the sign of the light.

    A phase correlation of the two frames: not for a shift of all frequencies alike, which defocus spoils (a
    phase object even reverses its contrast when it passes through focus), but for the phase that a
    sideband acquires between the two image planes.

    It tells the direction of the light *times* the direction in which the axis raises the image plane. Of
    two instruments that are mirror images of each other in this respect, the frames are the same: whether a
    larger axis position is a higher image plane is for the user to declare (`axis_sign`).

    Parameters
    ----------
    frame_low, frame_high : ndarray, shape (H, W)
        Under the same LED, at two heights of the image plane. Neither need be in focus.
    circles : Circles
        As `find_circles` found them in these frames.
    optics : LightOptics
        Of the frames.
    span_um : float
        How far apart the planes are supposed to be. Distances to 2.5 times as many are tried.

    Returns
    -------
    Parallax
        Not accepted where the phase fits neither sign, or both (`Reason.UNCERTAIN`).

    Raises
    ------
    ValueError
        If the frames have the wrong shape, `span_um` is not positive or the circles are none.
    """
    frames = _checked(np.stack([frame_low, frame_high]))
    if not (math.isfinite(span_um) and span_um > 0):
        raise ValueError(f"span_um is {span_um!r}: expected a positive, finite number")
    if not circles.accepted:
        raise ValueError("there are no circles in these frames, so no direction to look along")
    low, high = (_spectra(one) for one in frames)
    cross = (high * np.conj(low)).sum(0)
    cross /= np.maximum(np.abs(cross), np.finfo(np.float32).tiny)

    frequency = scipy.fft.fftfreq(cross.shape[0], optics.pixel_size_um)
    fy, fx = frequency[:, None], frequency
    lam, pupil = optics.wavelength_um, 0.97 * optics.numerical_aperture / optics.wavelength_um
    ux, uy = (component / lam for component in circles.na_xy)
    alone = (np.hypot(fx + ux, fy + uy) < pupil) & (np.hypot(fx - ux, fy - uy) > pupil)
    wave_number = optics.refractive_index / lam
    rows, columns = np.nonzero(alone)
    kx, ky = ux + frequency[columns], uy + frequency[rows]
    phase_per_um = np.sqrt(wave_number**2 - kx**2 - ky**2) - math.sqrt(wave_number**2 - ux**2 - uy**2)

    step_um = min(span_um / 50, optics.depth_of_field_um / 10)
    distances = np.arange(-2.5 * span_um, 2.5 * span_um + step_um, step_um)
    sideband = cross[alone]
    strengths = np.abs(_projection(sideband, phase_per_um, distances))
    best = int(strengths.argmax())
    distance, strength = float(distances[best]), float(strengths[best])
    rival = float(strengths[distances * math.copysign(1, distance) < 0].max())
    tangent = circles.na / math.sqrt(optics.refractive_index**2 - circles.na**2)
    x, y = circles.na_xy
    told = Parallax(
        (distance * tangent * x / circles.na, distance * tangent * y / circles.na), distance, strength
    )
    if strength < _LEAST_STRENGTH or strength < 2 * rival or abs(distance) < span_um / 4:
        return dataclasses.replace(
            told, displacement_um=(math.nan, math.nan), accepted=False, reason=Reason.UNCERTAIN
        )
    return told


def led_direction(
    frame_low: NDArray[np.number],
    frame_high: NDArray[np.number],
    optics: LightOptics,
    *,
    span_um: float,
    axis_sign: int = 1,
) -> LEDDirection:
    """Return where the light of an LED comes from, with its sign.

    Parameters
    ----------
    frame_low, frame_high : ndarray, shape (H, W)
        Under the same LED, at a lower and a higher position of the axis.
    optics : LightOptics
        Of the frames.
    span_um : float
        How far apart the positions are.
    axis_sign : int
        +1 where a higher position is a higher image plane, -1 where it is a lower one. The frames cannot
        tell: with the wrong sign, directions come out reversed.

    Raises
    ------
    ValueError
        If the frames have the wrong shape or a number makes no sense.
    """
    if axis_sign not in (1, -1):
        raise ValueError(f"axis_sign is {axis_sign!r}: expected +1 or -1")
    circles = find_circles(np.stack([frame_low, frame_high]), optics)
    if not circles.accepted:
        return LEDDirection(
            math.nan, math.nan, math.nan, circles.confidence, 0.0, accepted=False, reason=circles.reason
        )
    seen = parallax(frame_low, frame_high, circles, optics, span_um=span_um)
    if not seen.accepted:
        return LEDDirection(
            math.nan, math.nan, seen.distance_um, circles.confidence, seen.strength, False, seen.reason
        )
    sign = axis_sign * math.copysign(1, seen.distance_um)
    x, y = circles.na_xy
    return LEDDirection(sign * x, sign * y, abs(seen.distance_um), circles.confidence, seen.strength)


class _Edge:
    """The contrast across the edge of two circles of any centre, in one spectrum."""

    def __init__(self, log_power: NDArray[np.floating], optics: LightOptics) -> None:
        self._log_power = log_power
        self._aperture = optics.numerical_aperture
        # one sample of the spectrum in NA
        self._step_na = optics.wavelength_um / (log_power.shape[0] * optics.pixel_size_um)

    def candidates(self) -> NDArray[np.floating]:
        """Return centres (n, 2) all over half of the aperture, about evenly spaced."""
        step = _STEP_SAMPLES * self._step_na
        centres = []
        for na in np.arange(_LOWEST_NA, self._aperture - step / 2, step):
            count = math.ceil(math.pi * na / step)
            angles = np.arange(count) * np.pi / count
            centres.append(np.stack([na * np.cos(angles), na * np.sin(angles)], axis=1))
        return np.concatenate(centres)

    def contrast(
        self, centres: NDArray[np.floating], widened_px: float = 0.5, directions: int = 120
    ) -> NDArray[np.floating]:
        """Return the mean step of the log power across the union's edge for centres (n, 2) in NA."""
        angles = (np.arange(directions) + 0.5) * 2 * np.pi / directions
        rim = np.stack([np.cos(angles), np.sin(angles)])
        centre = centres[:, :, None] / self._step_na
        radius = self._aperture / self._step_na + widened_px
        # what the other circle covers is no edge of the union
        other = np.hypot(*np.moveaxis(2 * centre + radius * rim, 1, 0))
        visible = other > radius + _BESIDE_EDGE_PX[-1] + 1
        step = np.zeros(visible.shape)
        for beside in _BESIDE_EDGE_PX:
            for sign in (1, -1):
                x, y = np.moveaxis(centre + (radius - sign * beside) * rim, 1, 0)
                # beyond the Nyquist frequency the spectrum goes on as its alias
                step += sign * map_coordinates(self._log_power, [y, x], order=1, mode="grid-wrap")
        return (step * visible).sum(1) / np.maximum(visible.sum(1), 1) / len(_BESIDE_EDGE_PX)

    def refine(self, centre: NDArray[np.floating]) -> tuple[tuple[float, float], float]:
        """Return the centre of the largest contrast near one, and the contrast.

        The radius is left free by a few samples: windowing and smoothing widen the circles by about one,
        and an objective's aperture is not exactly what is engraved.
        """

        def loss(parameters: NDArray[np.floating]) -> float:
            return -float(self.contrast(parameters[None, :2], parameters[2], directions=360)[0])

        start = np.array([*centre, 1.0])
        simplex = start + np.vstack([np.zeros(3), np.diag([0.006, 0.006, 1.0])])
        found = minimize(
            loss,
            start,
            method="Nelder-Mead",
            options={"initial_simplex": simplex, "xatol": 1e-4, "fatol": 1e-4, "maxiter": 200},
        )
        return (float(found.x[0]), float(found.x[1])), -float(found.fun)


def _checked(frame: NDArray[np.number]) -> NDArray[np.float32]:
    frames = np.asarray(frame, dtype=np.float32)
    frames = frames[None] if frames.ndim == 2 else frames
    if frames.ndim != 3 or not len(frames) or min(frames.shape[1:]) < 64:
        raise ValueError(f"frame has shape {np.shape(frame)}: expected (H, W) of at least 64 x 64")
    return frames


def _spectra(frame: NDArray[np.float32]) -> NDArray[np.complex64]:
    """Return the spectra of square, windowed tiles that cover a frame, shape (n, t, t)."""
    size = min(_TILE_PX, *frame.shape)
    window = np.hanning(size + 1)[:-1].astype(np.float32)
    starts = ([round(s) for s in np.linspace(0, n - size, math.ceil(n / size))] for n in frame.shape)
    rows, columns = starts
    tiles = np.stack([frame[r : r + size, c : c + size] for r in rows for c in columns])
    tiles = (tiles / frame.mean() - 1) * (window[:, None] * window)
    spectra: NDArray[np.complex64] = np.asarray(scipy.fft.fft2(tiles))
    return spectra


def _structure(log_power: NDArray[np.floating], optics: LightOptics) -> float:
    """Return the log power of what an objective passes well over that of what it hardly does: noise."""
    frequency = scipy.fft.fftfreq(log_power.shape[0], optics.pixel_size_um)
    radius = np.hypot(frequency[:, None], frequency) / optics.cutoff_per_um
    passed = log_power[(radius > 0.05) & (radius < 0.4)]
    return float(passed.mean() - np.quantile(log_power, 0.05))


def _projection(
    sideband: NDArray[np.complexfloating], phase_per_um: NDArray[np.floating], distances: NDArray[np.floating]
) -> NDArray[np.complexfloating]:
    """Return the mean of ``sideband * exp(-2 pi i d phase_per_um)`` for each distance d.

    Samples of nearly the same phase are added up first: a thousand bins instead of a hundred thousand
    samples.
    """
    bins = 1024
    low, high = float(phase_per_um.min()), float(phase_per_um.max())
    index = np.minimum(((phase_per_um - low) / (high - low + 1e-12) * bins).astype(int), bins - 1)
    sums = np.bincount(index, sideband.real, bins) + 1j * np.bincount(index, sideband.imag, bins)
    centres = low + (np.arange(bins) + 0.5) * (high - low) / bins
    return np.exp(-2j * np.pi * distances[:, None] * centres) @ sums / len(sideband)


def _no_circles(reason: Reason) -> Circles:
    return Circles(math.nan, math.nan, 0.0, 0.0, accepted=False, reason=reason)
