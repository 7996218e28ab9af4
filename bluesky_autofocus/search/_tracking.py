"""Where focus is over a specimen that is neither level nor flat, by readings of which some are wrong."""

import dataclasses
import math

import numpy as np

from bluesky_autofocus.search._approach import ROOM, TOTALLY_BLURRED, ApproachLaw

__all__ = ["FocusTracker", "TrackingLaw"]

_SURPRISE = 3.0
"""Standard deviations from what was expected beyond which a reading is not believed."""
_JURY = 3
"""So many such readings in a row, all to one side, are believed after all."""
_LEAST_SIGMA_UM = 0.05
"""No reading is taken to be surer: neighbouring frames have most of their error in common."""

_STILL = 0.02
"""Class widths from focus within which an axis does nothing about it."""
_SLOWEST = 1e-4
"""Part of the default velocity that is not worth a command."""


@dataclasses.dataclass(frozen=True)
class _Doubt:
    """Readings in a row that were not believed, and to which side of what was expected they were."""

    count: int = 0
    side: float = 0.0


class FocusTracker:
    """A plane that is fitted to the newest readings, and bends as the stage goes on: a Kalman filter.

    Its state is the height of focus at the place of the newest frame, and its slopes along x and y. Slopes
    wander with the way that the stage goes. A single reading that surprises is not used; where several in a
    row surprise to the same side, it is the plane that is wrong. Where there are no readings, the plane is
    followed and becomes less certain.

    Parameters
    ----------
    place_um : tuple of float
        Position (x, y) of the stage at first.
    focus_um, sigma_um : float
        Where focus is expected there, and with what standard deviation.
    tilt_um_per_mm : float
        How steep the specimen may lie, one standard deviation.
    unevenness_um : float
        Standard deviation of focus from a plane.
    smooth_um : float
        Length of the waves in which it deviates.
    patience : int
        So many frames in a row without a reading that can be used, and it is `lost`.

    Raises
    ------
    ValueError
        If a number makes no sense.
    """

    def __init__(
        self,
        place_um: tuple[float, float],
        focus_um: float,
        sigma_um: float,
        *,
        tilt_um_per_mm: float = 3.0,
        unevenness_um: float = 1.0,
        smooth_um: float = 2000.0,
        patience: int = 20,
    ) -> None:
        for name, value in (
            ("sigma_um", sigma_um),
            ("tilt_um_per_mm", tilt_um_per_mm),
            ("unevenness_um", unevenness_um),
            ("smooth_um", smooth_um),
        ):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive and finite, got {value!r}")
        if patience < 1:
            raise ValueError(f"patience must be at least 1 frame, got {patience!r}")
        self.patience = patience
        self._place_um = np.array(place_um, float)
        self._state = np.array([focus_um, 0.0, 0.0])
        tilt = 1e-3 * tilt_um_per_mm
        self._covariance = np.diag([sigma_um, tilt, tilt]) ** 2
        # Waves of this length have slopes of pi u / l along any one direction, which change over l / pi.
        self._wander_per_um = 2 * math.pi**3 * unevenness_um**2 / smooth_um**3
        self._doubt = _Doubt()
        self._unused = 0
        self.last_good_um = float(focus_um)

    @property
    def slope(self) -> tuple[float, float]:
        """By how much focus rises along x and y, in um per um."""
        return float(self._state[1]), float(self._state[2])

    @property
    def sigma_um(self) -> float:
        """Standard uncertainty of the height of focus at the newest frame."""
        return math.sqrt(self._covariance[0, 0])

    @property
    def lost(self) -> bool:
        """Whether there has been no reading that can be used for so long that the plane says nothing."""
        return self._unused >= self.patience

    def expected_um(self, place_um: tuple[float, float]) -> float:
        """Return where focus is by the plane."""
        return float(self._state[0] + self._state[1:] @ (np.asarray(place_um) - self._place_um))

    def miss(self, place_um: tuple[float, float]) -> None:
        """Take in that a frame at a place said nothing; NaN if nobody knows where it was."""
        if all(map(math.isfinite, place_um)):
            self._go(place_um)
        self._unused += 1

    def take(self, place_um: tuple[float, float], focus_um: float, sigma_um: float) -> bool:
        """Take in where focus is by the reading of a frame, and return whether that was used.

        Parameters
        ----------
        place_um : tuple of float
            Position (x, y) of the stage when the frame was taken.
        focus_um : float
            Where focus is by the reading.
        sigma_um : float
            Its standard uncertainty.
        """
        if not all(map(math.isfinite, (*place_um, focus_um, sigma_um))):
            self.miss(place_um)
            return False
        self._go(place_um)
        variance = max(sigma_um, _LEAST_SIGMA_UM) ** 2
        surprise_um = focus_um - self._state[0]
        if abs(surprise_um) > _SURPRISE * math.sqrt(self._covariance[0, 0] + variance):
            side = math.copysign(1.0, surprise_um)
            self._doubt = _Doubt(self._doubt.count + 1 if side == self._doubt.side else 1, side)
            if self._doubt.count < _JURY:
                self._unused += 1
                return False
            self._covariance[0, 0] += surprise_um**2
        self._doubt = _Doubt()
        gain = self._covariance[:, 0] / (self._covariance[0, 0] + variance)
        self._state = self._state + gain * surprise_um
        covariance = self._covariance - np.outer(gain, self._covariance[0])
        self._covariance = (covariance + covariance.T) / 2  # rounding errors would make it lopsided
        self._unused = 0
        self.last_good_um = float(self._state[0])
        return True

    def _go(self, place_um: tuple[float, float]) -> None:
        """Follow the plane to a place."""
        way = np.asarray(place_um, float) - self._place_um
        way_um = math.hypot(*way)
        self._place_um = self._place_um + way
        transition = np.eye(3)
        transition[0, 1:] = way
        self._state = transition @ self._state
        # of slopes that wander on the way, and of the height that follows from them
        noise = np.diag([way_um**3 / 3, way_um, way_um])
        noise[0, 1:] = noise[1:, 0] = way_um / 2 * way
        self._covariance = transition @ self._covariance @ transition.T + self._wander_per_um * noise


@dataclasses.dataclass(frozen=True)
class TrackingLaw:
    """How fast an axis runs after a focus that moves.

    As fast as the focus does, and in addition as `ApproachLaw` has it run to a focus that stands still.

    Parameters
    ----------
    default_velocity_um_s, width_um, gain, reaction_s
        As of `ApproachLaw`. It is never faster than the default.
    """

    default_velocity_um_s: float
    width_um: float
    gain: float = 0.2
    reaction_s: float = 0.2

    def __post_init__(self) -> None:
        self._law()  # refuses what makes no sense

    def _law(self) -> ApproachLaw:
        return ApproachLaw(
            self.default_velocity_um_s,
            self.width_um,
            self.gain,
            stop_index=_STILL,
            reaction_s=self.reaction_s,
        )

    @property
    def reach_um(self) -> float:
        """How far from focus frames are totally blurred."""
        return TOTALLY_BLURRED * self.width_um

    def velocity_um_s(
        self, off_um: float, *, drift_um_s: float, below_um: float, above_um: float, frame_s: float
    ) -> float:
        """Return the velocity of the axis, upwards positive.

        Parameters
        ----------
        off_um : float
            Position of the axis less that of focus, now.
        drift_um_s : float
            Velocity of the focus.
        below_um, above_um : float
            How far the axis may go down and up.
        frame_s : float
            Longest time from one command to the next, as it was seen to be.
        """
        towards = self._law().velocity_um_s(off_um, below_um, above_um, reaction_s=frame_s)
        wanted = towards + drift_um_s
        room_um = max(above_um if wanted > 0 else below_um, 0.0)
        speed = min(abs(wanted), self.default_velocity_um_s, ROOM * room_um / max(frame_s, self.reaction_s))
        return math.copysign(speed, wanted) if speed > _SLOWEST * self.default_velocity_um_s else 0.0
