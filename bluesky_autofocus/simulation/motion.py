"""How a motorised axis moves: a ramp at constant velocity, backlash, and a readback that is never exact."""

import dataclasses
import math

import numpy as np

__all__ = ["AxisMechanics", "AxisMotion"]


@dataclasses.dataclass(frozen=True)
class AxisMechanics:
    """What a motorised axis is like.

    Parameters
    ----------
    velocity_um_s : float
        Speed of a move; `math.inf` moves at once.
    settle_s : float
        Time after a move until it is reported done.
    backlash_um : float
        Lost motion on reversing: what the motor travels before the load follows.
    readback_noise_um : float
        Standard deviation of one readback.
    """

    velocity_um_s: float = math.inf
    settle_s: float = 0.0
    backlash_um: float = 0.0
    readback_noise_um: float = 0.0

    def __post_init__(self) -> None:
        if not self.velocity_um_s > 0:
            raise ValueError(f"velocity_um_s must be positive, got {self.velocity_um_s!r}")
        for name in ("settle_s", "backlash_um", "readback_noise_um"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be finite and not negative, got {value!r}")


class AxisMotion:
    """Where a motor and the load it drives are at a given time.

    Parameters
    ----------
    mechanics : AxisMechanics
    position_um : float
        Where the motor stands at first. The load is taken to have been driven there upwards.
    seed : int
        Of the readback's noise.
    """

    def __init__(self, mechanics: AxisMechanics, position_um: float, *, seed: int = 0) -> None:
        self.mechanics = mechanics
        self._rng = np.random.default_rng(seed)
        self._from_um = self._to_um = float(position_um)
        self._start_s = 0.0
        self._velocity_um_s = mechanics.velocity_um_s
        self._load_um = float(position_um)

    def start(self, target_um: float, now_s: float) -> float:
        """Start a move from wherever the motor is; return the seconds until it is done and settled.

        The mechanics of this moment hold for the whole move.
        """
        self._load_um = self.load_um(now_s)
        self._from_um, self._to_um, self._start_s = self.motor_um(now_s), float(target_um), now_s
        self._velocity_um_s = self.mechanics.velocity_um_s
        return abs(self._to_um - self._from_um) / self._velocity_um_s + self.mechanics.settle_s

    def stop(self, now_s: float) -> None:
        """Stop where the motor is."""
        self.start(self.motor_um(now_s), now_s)

    def motor_um(self, now_s: float) -> float:
        """Return the position of the motor, which is what its encoder counts."""
        way = self._to_um - self._from_um
        done = (now_s - self._start_s) * self._velocity_um_s if now_s > self._start_s else 0.0
        # an axis of infinite velocity is there even though no time has passed
        if math.isinf(self._velocity_um_s) or done >= abs(way):
            return self._to_um
        return self._from_um + math.copysign(done, way)

    def load_um(self, now_s: float) -> float:
        """Return the position of the load: it follows once the motor has taken up the backlash.

        Within one move the motor goes one way, so the load is where it was, pushed along by either flank
        of the gap.
        """
        motor = self.motor_um(now_s)
        # driven upwards the load stands on the motor, driven downwards it trails by the backlash
        return min(max(self._load_um, motor), motor + self.mechanics.backlash_um)

    def readback_um(self, now_s: float) -> float:
        """Return one noisy readback of the motor's position."""
        noise = self.mechanics.readback_noise_um
        return self.motor_um(now_s) + (float(self._rng.normal(0.0, noise)) if noise else 0.0)
