"""What a competitor drives: positions in, frames out; everything that it costs is counted.

The axis takes its time, and may lose motion on reversing, lag behind, or be shaken; the lamp may flicker and
the camera fail. All that is random comes from one generator, which is the same for every competitor.
"""

import dataclasses
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks._search_instruments import DOSES
from benchmarks._search_scenes import Scene
from bluesky_autofocus.simulation.motion import AxisMotion

__all__ = ["CONDITIONS", "Conditions", "Microscope"]

PLAYS = (0.02, 0.05, 0.1)
"""An open-loop piezo is a sum of plays to either side, here as fractions of the range: the operator of
Prandtl and Ishlinskii."""

PLAY_SHARE = 0.25
"""Of the motion that goes through each play. The way up and the way down are 8 % of the range apart."""


@dataclasses.dataclass(frozen=True)
class Conditions:
    """What is not ideal.

    Parameters
    ----------
    drift_dof_s : float
        Focus moves so fast; towards which side is random.
    backlash_dof : float
        Lost motion on reversing.
    hysteresis : bool
        Whether the axis is an open-loop piezo.
    vibration_dof : float
        Deviation of the height in one exposure.
    flicker : float
        Relative deviation of the light from exposure to exposure.
    lamp_drift : float
        By how much each exposure is brighter than the one before; below 0, darker.
    dead_frames : float
        Share of frames that fail: black, white, or half read.
    dead_frame : int, optional
        One more exposure, counted from 0, that is half read and half white.
    """

    drift_dof_s: float = 0.0
    backlash_dof: float = 0.0
    hysteresis: bool = False
    vibration_dof: float = 0.0
    flicker: float = 0.0
    lamp_drift: float = 0.0
    dead_frames: float = 0.0
    dead_frame: int | None = None


CONDITIONS = {
    "none": Conditions(),
    "drift": Conditions(drift_dof_s=0.05),
    "backlash": Conditions(backlash_dof=1.0),
    "hysteresis": Conditions(hysteresis=True),
    "vibration": Conditions(vibration_dof=0.3),
    "flicker": Conditions(flicker=0.1),
    "dead frames": Conditions(dead_frames=0.05),
}
"""By the names under which robustness is reported."""


class Microscope:
    """One trial as one competitor sees it.

    Parameters
    ----------
    scene : Scene
        Field and camera.
    dose : str
        One of `DOSES`.
    focus_um : float
        Where focus is at the beginning.
    limits_um : tuple of float
        Between which the axis moves; commands are clipped to them.
    start_um : float
        Where it stands at the beginning.
    range_um : float
        Of the search, which hysteresis is relative to.
    conditions : Conditions
        What is not ideal.
    seed : sequence of int
        Of all that is random.
    """

    def __init__(
        self,
        scene: Scene,
        dose: str,
        *,
        focus_um: float,
        limits_um: tuple[float, float],
        start_um: float,
        range_um: float,
        conditions: Conditions,
        seed: tuple[int, ...],
    ) -> None:
        self.instrument, self.dose, self.conditions = scene.instrument, dose, conditions
        self.positions_um: list[float] = []
        """Of the exposures, as commanded."""
        self.path_um = [start_um]
        """Where the axis was sent."""
        self.now_s = 0.0
        self._scene, self._focus_um, self._limits_um = scene, focus_um, limits_um
        self._range_um = range_um
        self._rng = np.random.default_rng(seed)
        dof_um = self.depth_of_field_um
        self._drift_um_s = conditions.drift_dof_s * dof_um * float(self._rng.choice((-1, 1)))
        mechanics = dataclasses.replace(
            self.instrument.mechanics, backlash_um=conditions.backlash_dof * dof_um
        )
        self._motion = AxisMotion(mechanics, start_um)
        self._plays_um = [start_um] * len(PLAYS)

    @property
    def depth_of_field_um(self) -> float:
        """Of the instrument."""
        return self.instrument.depth_of_field_um

    @property
    def lost_um(self) -> float:
        """How far to go past a position to come back to it the same way: what a user would have measured."""
        lost_um = self.conditions.backlash_dof * self.depth_of_field_um
        return lost_um + (2 * max(PLAYS) * self._range_um if self.conditions.hysteresis else 0.0)

    @property
    def travel_um(self) -> float:
        """How far the axis has moved in all."""
        return sum(abs(b - a) for a, b in pairwise(self.path_um))

    @property
    def dose_spent(self) -> float:
        """In frames of high dose."""
        electrons = self.instrument.electrons
        return len(self.positions_um) * electrons[DOSES.index(self.dose)] / electrons[0]

    def move(self, position_um: float, *, running: bool = False) -> None:
        """Move there; `running`, pass there without stopping."""
        target_um = min(max(position_um, self._limits_um[0]), self._limits_um[1])
        if target_um != self.path_um[-1]:
            settled_s = self._motion.start(target_um, self.now_s)
            self.now_s += settled_s - running * self.instrument.mechanics.settle_s
        for index, play in enumerate(PLAYS):
            half_um = play * self._range_um
            self._plays_um[index] = min(max(self._plays_um[index], target_um - half_um), target_um + half_um)
        self.path_um.append(target_um)

    def expose(self, position_um: float, *, running: bool = False) -> np.ndarray[Any, Any]:
        """Move there and take a frame.

        Parameters
        ----------
        position_um : float
            Where to.
        running : bool
            Whether frames are taken as the axis runs past, one frame's time apart at least.

        Returns
        -------
        ndarray of uint8 or uint16, shape (H, W)
        """
        before_s, frame_s = self.now_s, self.instrument.frame_s[DOSES.index(self.dose)]
        self.move(position_um, running=running)
        # a running axis is exposed on its way
        self.now_s = max(self.now_s, before_s + frame_s) if running else self.now_s + frame_s
        number = len(self.positions_um)
        self.positions_um.append(self.path_um[-1])
        conditions, rng = self.conditions, self._rng
        # drawn whether they are used or not, so that conditions change nothing else
        shaken, flicker, failed, how = *rng.standard_normal(2), *rng.random(2)
        brightness = max(1 + conditions.flicker * flicker, 0.1) * (1 + conditions.lamp_drift) ** number
        defocus_um = self.defocus_um() + conditions.vibration_dof * self.depth_of_field_um * shaken
        frame = self._scene.frame(defocus_um, self.dose, brightness, rng)
        if number == conditions.dead_frame:
            return _half_read(frame, self.instrument.full_scale)
        if failed < conditions.dead_frames:
            return _dead(frame, how, self.instrument.full_scale)
        return frame

    def defocus_um(self) -> float:
        """Return how far from focus the field is now: what no competitor may know."""
        load_um = self._motion.load_um(self.now_s + 1e-9)
        if self.conditions.hysteresis:
            load_um += PLAY_SHARE * sum(play_um - self.path_um[-1] for play_um in self._plays_um)
        return load_um - (self._focus_um + self._drift_um_s * self.now_s)


def _dead(frame: np.ndarray[Any, Any], how: float, full_scale: int) -> np.ndarray[Any, Any]:
    if how < 1 / 3:
        return np.zeros_like(frame)
    if how < 2 / 3:
        return np.full_like(frame, full_scale)
    half = frame.copy()
    half[len(half) // 2 :] = 0
    return half


def _half_read(frame: np.ndarray[Any, Any], full_scale: int) -> np.ndarray[Any, Any]:
    half = frame.copy()
    half[len(half) // 2 :] = full_scale
    return half
