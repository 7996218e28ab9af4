"""Frames of a specimen that is not in focus everywhere at once, through a lens that may be astigmatic."""

from functools import lru_cache

import numpy as np

from bluesky_autofocus.simulation import SEMImageFormation, SEMOptics, scene
from bluesky_autofocus.stacks import FocusStack

MAGNIFICATION = 10_000.0
ELECTRONS = 300.0
LEVELS_UM = np.linspace(-84.0, 84.0, 43)
"""Defocus of the uniformly blurred frames of which others are put together; beyond, all look the same."""


@lru_cache(maxsize=8)
def _blurred(kind, astigmatism_um, size_px):
    """Return the image formation, and frames at all levels."""
    formation = SEMImageFormation(
        scene(kind, seed=1, shape=(2 * size_px, 2 * size_px)),
        # the line foci of the column are the other way round
        SEMOptics(
            residual_astigmatism_um=tuple(-one for one in astigmatism_um),
            field_width_mm=127.0 * size_px / 256,
        ),
        frame_shape=(size_px, size_px),
        scene_magnification=MAGNIFICATION,
    )
    return formation, np.stack([formation.blurred(one, magnification=MAGNIFICATION) for one in LEVELS_UM])


class Tilted:
    """A simulated SEM's view of a specimen that is tilted or curved; its depth of field is about 5 um.

    Each pixel is taken from a frame that is blurred as it should be there.

    Parameters
    ----------
    kind : str
        Of `bluesky_autofocus.simulation.KINDS`.
    tilt_um : tuple of float
        Focus at the right edge less that at the left, and at the lower edge less that at the upper.
    sag_um : float
        Focus in the corners less that in the centre.
    astigmatism_um : tuple of float
        Distances of the line foci along 0/90 and 45/135 degrees.
    focus_um : ndarray of shape (H, W), optional
        In place of tilt and sag.
    """

    def __init__(
        self,
        kind="grains",
        *,
        tilt_um=(0.0, 0.0),
        sag_um=0.0,
        astigmatism_um=(0.0, 0.0),
        focus_um=None,
        size_px=192,
    ):
        formation, self._blurred = _blurred(kind, astigmatism_um, size_px)
        self.depth_of_field_um = formation.depth_of_field_um(MAGNIFICATION)
        self.pixel_size_um = formation.pixel_size_um(MAGNIFICATION)
        across = (np.arange(size_px) + 0.5) / size_px - 0.5
        y, x = np.meshgrid(across, across, indexing="ij")
        surface_um = tilt_um[0] * x + tilt_um[1] * y + sag_um * (2 * (x**2 + y**2) - 1 / 3)
        self.focus_um = surface_um if focus_um is None else focus_um
        self._rng = np.random.default_rng(7)

    def frame(self, position_um):
        """Return a noisy frame, shape (H, W) of uint16."""
        level = (position_um - self.focus_um - LEVELS_UM[0]) / (LEVELS_UM[1] - LEVELS_UM[0])
        level = level.clip(0, len(LEVELS_UM) - 1.001)
        below = level.astype(int)
        part = level - below
        rows, columns = np.indices(level.shape)
        low, high = (self._blurred[below + step, rows, columns] for step in (0, 1))
        return self._rng.poisson(5 + ELECTRONS * ((1 - part) * low + part * high)).astype(np.uint16)

    def stack(self, positions_um):
        """Return a focus stack."""
        frames = np.stack([self.frame(one) for one in positions_um])
        return FocusStack("tilted", frames, np.asarray(positions_um, dtype=float))
