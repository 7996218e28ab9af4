"""Image formation in a scanning electron microscope: a scene in, the frame the detector would give out.

The beam is a cone. Away from its focus it is a disc of diameter ``2 alpha |defocus|``, with ``alpha`` the
convergence semi-angle; at its focus it is a Gaussian spot. The blur is applied in the Fourier domain, where
the disc has an exact transfer function, so it varies smoothly with defocus however small the disc: a disc
drawn on pixels would make sharpness a staircase, and a focus search would stop on a stair.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import isfinite

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, ndimage, special

_ELECTRON_CHARGE_C = 1.602176634e-19
_FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))

# The Fourier transform takes a frame for one tile of an endless pattern. The guard band keeps what spills
# over from the opposite edge out of the frame, for discs of radius up to _GUARD_PX - _STEP_PX / 2.
_GUARD_PX = 64
# Drift moves the tile over the scene in steps of this size, so that a slow drift seldom needs a new tile;
# the remainder is a phase.
_STEP_PX = 32
# From this mean on, the Poisson distribution is drawn as a normal one, which is several times faster.
_MANY_ELECTRONS = 25.0


@dataclass(frozen=True)
class SEMOptics:
    """The column and the detector of a scanning electron microscope.

    The defaults are those of a general-purpose instrument; at 5000x, frames of 512 x 512 pixels and 1 us per
    pixel they give a pixel of 50 nm, a depth of field of 5 um and some 300 electrons in a bright pixel.

    Attributes
    ----------
    convergence_mrad : float
        Convergence semi-angle of the beam, in milliradian.
    beam_current_pa : float
        Beam current, in picoampere.
    spot_nm : float
        Full width at half maximum of the focused beam, in nanometre.
    field_width_mm : float
        Width of the field of view at magnification 1, in millimetre. Makers quote magnification for a
        picture as wide as a Polaroid 545 print, 127 mm.
    detection_efficiency : float
        Detected secondary electrons per beam electron where the scene is 1.
    electronic_noise : float
        Deviation of the detector's own noise, in electrons per pixel.
    gain, offset : float
        Grey level where the scene is 1 less that where it is 0, and grey level where it is 0 (contrast and
        brightness), as fractions of full scale.
    bits : int
        Bits per pixel, 1 to 16. Up to 8, frames are uint8, else uint16.
    astigmatism_um_per_unit : float
        Distance between the two line foci per unit of stigmator, in micrometre.
    residual_astigmatism_um : tuple of float
        The column's own astigmatism along 0/90 degrees and along 45/135 degrees, as distances between the
        two line foci, in micrometre. A stigmator at ``-residual / astigmatism_um_per_unit`` cancels it.

    Raises
    ------
    ValueError
        If a value is not finite or not in its range.
    """

    convergence_mrad: float = 10.0
    beam_current_pa: float = 100.0
    spot_nm: float = 20.0
    field_width_mm: float = 127.0
    detection_efficiency: float = 0.5
    electronic_noise: float = 0.5
    gain: float = 0.9
    offset: float = 0.05
    bits: int = 8
    astigmatism_um_per_unit: float = 20.0
    residual_astigmatism_um: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        for name in ("convergence_mrad", "beam_current_pa", "field_width_mm", "detection_efficiency", "gain"):
            _require_positive(name, getattr(self, name))
        for name in ("spot_nm", "electronic_noise"):
            if not (isfinite(value := getattr(self, name)) and value >= 0):
                raise ValueError(f"{name} is {value!r}: expected a finite number, zero or more")
        _require_finite("offset", self.offset)
        _require_finite("astigmatism_um_per_unit", self.astigmatism_um_per_unit)
        for value in self.residual_astigmatism_um:
            _require_finite("residual_astigmatism_um", value)
        if self.bits not in range(1, 17):
            raise ValueError(f"bits is {self.bits!r}: expected an integer from 1 to 16")


class SEMImageFormation:
    """Frames of one scene as a scanning electron microscope would take them.

    Parameters
    ----------
    scene : array_like, shape (H, W)
        Relative signal, from 0 to 1. Beyond its edges the scene goes on as its mirror image.
    optics : SEMOptics, optional
        The microscope.
    frame_shape : tuple of int
        Rows and columns of a frame. The magnification sets the width of the field, so more columns mean
        smaller pixels.
    scene_magnification : float
        The magnification at which one pixel of the scene is one pixel of the frame. At others the scene is
        resampled: a higher one shows a smaller part of it, and no new detail.
    seed : int
        Seed of the noise of frames taken without a generator of their own.

    Raises
    ------
    ValueError
        If the scene is not a two-dimensional array of numbers from 0 to 1, or a number is out of range.

    Notes
    -----
    An instance keeps the spectra of the fields it last showed. It is not meant for several threads at once.
    """

    def __init__(
        self,
        scene: ArrayLike,
        optics: SEMOptics | None = None,
        *,
        frame_shape: tuple[int, int] = (512, 512),
        scene_magnification: float = 5000.0,
        seed: int = 0,
    ) -> None:
        self._scene = np.array(scene, dtype=np.float32)  # a copy: its spectra are kept
        if self._scene.ndim != 2 or self._scene.size == 0:
            raise ValueError(f"scene has shape {self._scene.shape}: expected (H, W)")
        if not (self._scene.min() >= 0 and self._scene.max() <= 1):  # also refuses NaN
            raise ValueError(
                f"scene spans {self._scene.min()} to {self._scene.max()}: expected numbers from 0 to 1"
            )
        if len(frame_shape) != 2 or min(frame_shape) < 1:
            raise ValueError(
                f"frame_shape is {frame_shape!r}: expected two positive integers (rows, columns)"
            )
        _require_positive("scene_magnification", scene_magnification)
        self.optics = optics or SEMOptics()
        self.frame_shape = frame_shape
        self.scene_magnification = scene_magnification
        self._rng = np.random.default_rng(seed)

        rows, columns = (fft.next_fast_len(size + 2 * _GUARD_PX, real=True) for size in frame_shape)
        self._tile_shape = rows, columns
        self._fy = fft.fftfreq(rows).astype(np.float32)[:, None]  # in cycles per pixel
        self._fx = fft.rfftfreq(columns).astype(np.float32)[None, :]
        self._spectrum = lru_cache(maxsize=8)(self._make_spectrum)

    def pixel_size_um(self, magnification: float) -> float:
        """Return the side of a pixel on the sample, in micrometre: the field's width over the columns."""
        _require_positive("magnification", magnification)
        return 1e3 * self.optics.field_width_mm / magnification / self.frame_shape[1]

    def depth_of_field_um(self, magnification: float) -> float:
        """Return the range of defocus that looks sharp, in micrometre.

        It is the whole range within which the disc of blur is no wider than one pixel: from ``-px / (2
        alpha)`` to ``+px / (2 alpha)``, that is ``px / alpha`` in all (Goldstein et al., *Scanning Electron
        Microscopy and X-Ray Microanalysis*, depth of field).
        """
        return self.pixel_size_um(magnification) / (1e-3 * self.optics.convergence_mrad)

    def electrons_per_pixel(self, dwell_us: float) -> float:
        """Return the mean number of electrons detected in one pixel where the scene is 1.

        Parameters
        ----------
        dwell_us : float
            Time the beam spends on a pixel, in microsecond.
        """
        _require_positive("dwell_us", dwell_us)
        charge_c = 1e-12 * self.optics.beam_current_pa * 1e-6 * dwell_us
        return self.optics.detection_efficiency * charge_c / _ELECTRON_CHARGE_C

    def transfer_function(
        self, defocus_um: float, *, magnification: float, stigmator_x: float = 0.0, stigmator_y: float = 0.0
    ) -> NDArray[np.float32]:
        """Return the factor by which defocus and astigmatism damp each frequency of a tile; 1 at frequency 0.

        Notes
        -----
        A ray that leaves the lens at angle ``alpha u``, ``u`` in the unit disc, meets the sample ``alpha D
        u`` away from the centre of the beam, where ``D`` is the symmetric matrix of defocus along x and
        along y. The beam is thus a disc pressed into an ellipse by a linear map, and its transfer function
        is that of the disc, ``2 J1(2 pi r) / (2 pi r)`` (Goodman, *Introduction to Fourier Optics*, 2.1),
        at ``r = |alpha D f|``. Its sign alternates, as the contrast of a strongly blurred image does.
        """
        _require_finite("defocus_um", defocus_um)
        _require_finite("stigmator_x", stigmator_x)
        _require_finite("stigmator_y", stigmator_y)
        # Each line focus lies half of their distance from the mean focus.
        half_um = 0.5 * self.optics.astigmatism_um_per_unit
        own_x_um, own_y_um = self.optics.residual_astigmatism_um
        straight_um = half_um * stigmator_x + 0.5 * own_x_um
        diagonal_um = half_um * stigmator_y + 0.5 * own_y_um
        angle_per_px = 1e-3 * self.optics.convergence_mrad / self.pixel_size_um(magnification)
        scale = np.float32(2 * np.pi * angle_per_px)
        along_x = scale * (defocus_um + straight_um)
        along_y = scale * (defocus_um - straight_um)
        across = scale * diagonal_um
        argument = (along_x * self._fx + across * self._fy) ** 2
        argument += (across * self._fx + along_y * self._fy) ** 2
        np.sqrt(argument, out=argument)
        np.maximum(argument, np.float32(1e-3), out=argument)  # where the ratio is 1 in float32 anyway
        return 2 * special.j1(argument) / argument

    def blurred(
        self,
        defocus_um: float,
        *,
        magnification: float,
        stigmator_x: float = 0.0,
        stigmator_y: float = 0.0,
        offset_px: tuple[float, float] = (0.0, 0.0),
        skew_px: float = 0.0,
    ) -> NDArray[np.float32]:
        """Return the frame without noise: the scene as the beam sees it.

        Parameters
        ----------
        defocus_um : float
            Height of the sample above the focus of the beam, in micrometre, of either sign.
        magnification : float
            Magnification; see `pixel_size_um`.
        stigmator_x, stigmator_y : float
            Stigmator settings. With a positive `stigmator_x` the beam is spread along x (to the right)
            above focus and along y (down) below it; with a positive `stigmator_y`, along the diagonal to
            the lower right above focus and along the other one below it.
        offset_px : tuple of float
            How far the content of the frame has moved down and to the right, in pixels of the frame, when
            the first line is scanned.
        skew_px : float
            How much further to the right it is when the last line is: a scan takes its time, and what drifts
            meanwhile is drawn askew.

        Returns
        -------
        ndarray of float32, shape `frame_shape`
            Relative signal, from 0 to about 1.

        Raises
        ------
        ValueError
            If a number is not finite, the magnification not positive, or the frame more askew than 64 px.
        """
        transfer = self.transfer_function(
            defocus_um, magnification=magnification, stigmator_x=stigmator_x, stigmator_y=stigmator_y
        )
        for value in offset_px:
            _require_finite("offset_px", value)
        if not abs(skew_px) <= _GUARD_PX:
            raise ValueError(f"skew_px is {skew_px!r}: expected no more than {_GUARD_PX} px to either side")
        # about the middle line, so that half of it suffices of the guard band
        offset_px = (offset_px[0], offset_px[1] + skew_px / 2)
        down, right = (round(value / _STEP_PX) * _STEP_PX for value in offset_px)
        spectrum = self._spectrum(magnification, down, right) * transfer
        if (rest := (offset_px[0] - down, offset_px[1] - right)) != (0, 0):
            spectrum *= np.exp(-2j * np.pi * rest[0] * self._fy).astype(np.complex64)
            spectrum *= np.exp(-2j * np.pi * rest[1] * self._fx).astype(np.complex64)
        tile = np.asarray(fft.irfft2(spectrum, s=self._tile_shape, overwrite_x=True))
        rows, columns = self.frame_shape
        lines = tile[_GUARD_PX : _GUARD_PX + rows]
        if skew_px:
            lines = self._askew(lines, skew_px)
        frame = lines[:, _GUARD_PX : _GUARD_PX + columns]
        return np.maximum(frame, 0)  # a shift by part of a pixel rings a little below zero

    def _askew(self, lines: NDArray[np.float32], skew_px: float) -> NDArray[np.float32]:
        """Return lines of a tile of which each is moved to the right by a little more than the one before."""
        moved_px = np.linspace(-0.5, 0.5, len(lines), dtype=np.float32)[:, None] * np.float32(skew_px)
        spectra = fft.rfft(lines, axis=1) * np.exp(np.complex64(-2j * np.pi) * moved_px * self._fx)
        return np.asarray(fft.irfft(spectra, n=lines.shape[1], axis=1))

    def image(
        self,
        defocus_um: float,
        *,
        magnification: float,
        dwell_us: float,
        stigmator_x: float = 0.0,
        stigmator_y: float = 0.0,
        offset_px: tuple[float, float] = (0.0, 0.0),
        skew_px: float = 0.0,
        rng: np.random.Generator | None = None,
    ) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Take a frame: the blurred scene with shot noise and detector noise, quantised.

        The grey level does not depend on the dwell time, as the detector integrates a current; only the
        noise does.

        Parameters
        ----------
        defocus_um, magnification, stigmator_x, stigmator_y, offset_px, skew_px
            As for `blurred`.
        dwell_us : float
            Time the beam spends on a pixel, in microsecond.
        rng : numpy.random.Generator, optional
            Source of the noise; the instance's own when left out.

        Returns
        -------
        ndarray of uint8 or uint16, shape `frame_shape`
            Grey levels, from 0 to ``2**bits - 1``.

        Raises
        ------
        ValueError
            If a number is not finite, or the magnification or dwell time not positive.
        """
        dose = self.electrons_per_pixel(dwell_us)
        rng = rng or self._rng
        electrons = self.blurred(
            defocus_um,
            magnification=magnification,
            stigmator_x=stigmator_x,
            stigmator_y=stigmator_y,
            offset_px=offset_px,
            skew_px=skew_px,
        )
        electrons *= dose
        few = electrons < _MANY_ELECTRONS
        few_counted = rng.poisson(electrons[few])
        # Shot noise and detector noise, both normal, add up in the one draw.
        variance = np.where(few, 0, electrons) + np.float32(self.optics.electronic_noise**2)
        electrons[few] = few_counted
        electrons += np.sqrt(variance) * rng.standard_normal(self.frame_shape, np.float32)

        white = 2**self.optics.bits - 1
        grey = electrons
        grey *= white * self.optics.gain / dose
        grey += white * self.optics.offset
        np.clip(np.rint(grey, out=grey), 0, white, out=grey)
        return grey.astype(np.uint8 if self.optics.bits <= 8 else np.uint16)

    def _make_spectrum(self, magnification: float, down_px: int, right_px: int) -> NDArray[np.complex64]:
        """Return the spectrum of the tile around a frame moved by whole pixels, seen with a focused beam."""
        scene_px = self.scene_magnification / magnification  # pixels of the scene in one of the frame
        scene, order = self._scene, 1
        if scene_px > 1:  # several pixels of the scene merge into one: average, or they would alias
            scene = ndimage.gaussian_filter(scene, 0.5 * np.sqrt(scene_px**2 - 1), mode="mirror")
        elif scene_px < 1:
            order = 3
        # The middle of the scene is in the middle of the frame when nothing has moved.
        start = [
            scene_size // 2 - (_GUARD_PX + frame_size // 2 + moved) * scene_px
            for scene_size, frame_size, moved in zip(
                scene.shape, self.frame_shape, (down_px, right_px), strict=True
            )
        ]
        affine = np.array([[scene_px, 0, start[0]], [0, scene_px, start[1]]])
        tile = ndimage.affine_transform(
            scene, affine, output_shape=self._tile_shape, order=order, mode="mirror"
        )
        sigma_px = 1e-3 * self.optics.spot_nm / _FWHM_PER_SIGMA / self.pixel_size_um(magnification)
        spot = np.exp(-2 * (np.pi * sigma_px) ** 2 * (self._fx**2 + self._fy**2))
        return np.asarray(fft.rfft2(np.clip(tile, 0, 1))) * spot.astype(np.float32)


def _require_finite(name: str, value: float) -> None:
    if not isfinite(value):
        raise ValueError(f"{name} is {value!r}: expected a finite number")


def _require_positive(name: str, value: float) -> None:
    if not (isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value!r}: expected a finite number above zero")
