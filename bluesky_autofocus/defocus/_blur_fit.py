"""The most likely defocus of a pair of frames: a grid that misses no minimum, then down to its bottom."""

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

from bluesky_autofocus.defocus._blur_likelihood import BlurLikelihood, Point

__all__ = ["HORIZON_DOF", "Fitted", "most_likely"]

_STEP_DOF, _ASTIGMATIC_STEP_DOF = 0.25, 0.5
"""Of the grid over defocus, narrower than any minimum; coarser, for speed, where it has three dimensions."""
_ASIDE_DOF = (-4.0, -2.0, 0.0, 2.0, 4.0)
"""Grid over each of the two astigmatisms."""
HORIZON_DOF = 36.0
"""Farther from focus no frame has enough contrast left to be taken for a nearer one."""
_FOLLOWED = 4
"""Minima of the grid that are followed to their bottom."""
_ANOTHER_DOF = 0.5
"""How far apart two minima are not the same one."""
_ENOUGH = 0.02
"""Standard uncertainties to which a minimum is found."""
_MOVED_PX = 0.003
"""Displacement that is not worth aligning the frames for once more."""
_ANY_GAIN = 0.1
"""Deviation of the logarithm of the ratio of brightness, where the frames themselves are to tell it."""
_TOLERABLE = 4.0
"""Deviations by which the brightness that the spectra want may differ from that of the frames."""
_ROUNDS = 2
"""Of aligning by what was found, and of weighting by what that leaves."""


@dataclasses.dataclass(frozen=True)
class Fitted:
    """The best of all minima.

    Parameters
    ----------
    point : Point
        Where it is.
    lead : float
        By how much minus twice the log-likelihood of the next minimum is larger, or of the deepest point
        beyond the range.
    """

    point: Point
    lead: float


def most_likely(likelihood: BlurLikelihood, range_dof: float) -> Fitted | None:
    """Return the deepest minimum; None where it lies beyond the range.

    Parameters
    ----------
    likelihood : BlurLikelihood
        Its weights and what it takes the brightness to be are changed on the way.
    range_dof : float
        Defocus to either side that is looked for, in depths of field.
    """
    pair = likelihood.pair
    likelihood.gain = pair.log_gain, _ANY_GAIN
    minima = [_bottom(likelihood, start) for start in _starts(likelihood, range_dof)]
    if not minima:
        return None
    for _ in range(_ROUNDS):
        best, _ = min(minima, key=lambda one: one[1])
        contrast = likelihood.weight * np.sin(2 * likelihood.angle(best))
        moved_px = pair.align(likelihood.everywhere(contrast))
        minima = [_bottom(likelihood, one) for one, _ in minima]
        if moved_px < _MOVED_PX:
            break
    (best, value), *others = sorted(minima, key=lambda one: one[1])
    farther = _lead_over_farther(likelihood, best, range_dof)
    if abs(best[0]) >= range_dof or farther < 0:
        return None
    misfit = max(likelihood.misfit(best), 1.0)
    rivals = [level - value for one, level in others if np.abs(one - best)[:-1].max() > _ANOTHER_DOF]
    for _ in range(_ROUNDS):
        likelihood.weight_by_scatter(best)
        best, _ = _bottom(likelihood, best)
    return Fitted(_with_known_gain(likelihood, best), 2 * min(farther, *rivals, math.inf) / misfit)


class _Grid:
    """Values of the likelihood on a grid over defocus, at some astigmatism."""

    def __init__(self, likelihood: BlurLikelihood) -> None:
        self._likelihood = likelihood
        # so that half the separation is a whole number of steps, and each transfer function serves twice
        step = _ASTIGMATIC_STEP_DOF if likelihood.astigmatism else _STEP_DOF
        self._steps = math.ceil(abs(likelihood.half) / step)
        self.step = abs(likelihood.half) / self._steps

    def positions(self, range_dof: float) -> NDArray[np.float64]:
        """Return the positions from one end of a range to the other."""
        across = math.ceil(range_dof / self.step)
        return self.step * np.arange(-across, across + 1.0)

    def values(self, positions: NDArray[np.float64], aside: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return minus the log-likelihood at positions that are one step apart."""
        likelihood, gain = self._likelihood, self._likelihood.gain[0]
        outer = self.step * np.arange(-self._steps, len(positions) + self._steps) + positions[0]
        lower = [likelihood.transfer(position, aside) for position in outer]
        upper = lower[2 * self._steps :]
        pairs = zip(lower, upper, strict=False) if likelihood.half > 0 else zip(upper, lower, strict=False)
        return np.array(
            [likelihood.value_of(likelihood.angle_of(first, second, gain), gain) for first, second in pairs]
        )


def _starts(likelihood: BlurLikelihood, range_dof: float) -> list[Point]:
    """Return the deepest minima of a grid; none if it is deepest at an end of the range."""
    grid = _Grid(likelihood)
    positions = grid.positions(range_dof)
    sides = [np.array(_ASIDE_DOF)] * 2 if likelihood.astigmatism else []
    asides = np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, 2) if sides else np.zeros((1, 0))
    values = np.stack([grid.values(positions, aside) for aside in asides], axis=-1)
    if np.unravel_index(values.argmin(), values.shape)[0] in (0, len(positions) - 1):
        return []
    around = ndimage.minimum_filter(values.reshape(-1, *map(len, sides)), size=3, mode="nearest")
    lowest = values <= around.reshape(values.shape)
    lowest[[0, -1]] = False
    at = sorted(np.argwhere(lowest), key=lambda one: values[tuple(one)])[:_FOLLOWED]
    return [np.array([positions[i], *asides[index], likelihood.gain[0]]) for i, index in at]


def _lead_over_farther(likelihood: BlurLikelihood, best: Point, range_dof: float) -> float:
    """Return by how much minus the log-likelihood is larger anywhere beyond the range, at no astigmatism."""
    gentle = likelihood.gently()
    grid = _Grid(gentle)
    positions = grid.positions(HORIZON_DOF)
    values = grid.values(positions, np.zeros(len(best) - 2))
    beyond = values[np.abs(positions) > range_dof + grid.step]
    return float(beyond.min(initial=math.inf)) - _bottom(gentle, best)[1]


def _bottom(likelihood: BlurLikelihood, start: Point) -> tuple[Point, float]:
    """Return the minimum next to a point, and how deep it is."""
    # in units of the uncertainties all directions are alike
    unit = 1 / np.sqrt(np.maximum(np.diag(likelihood.curvature(start)), 1e-12))
    found = optimize.minimize(
        lambda at: likelihood.value(start + unit * at),
        np.zeros(len(start)),
        jac=lambda at: unit * likelihood.gradient(start + unit * at),
        hess=lambda at: unit[:, None] * likelihood.curvature(start + unit * at) * unit,
        method="trust-exact",
        options={
            "gtol": _ENOUGH,
            "initial_trust_radius": float(0.25 / unit[0]),
            "max_trust_radius": float(1.0 / unit[0]),
            "maxiter": 30,
        },
    )
    return start + unit * np.asarray(found.x), float(found.fun)


def _with_known_gain(likelihood: BlurLikelihood, best: Point) -> Point:
    """Return the minimum where the frames' brightness is believed, unless the spectra contradict it."""
    gain, sigma = likelihood.pair.log_gain, likelihood.pair.log_gain_sigma
    own = math.sqrt(np.linalg.pinv(likelihood.curvature(best))[-1, -1])
    if abs(best[-1] - gain) > _TOLERABLE * math.hypot(own, sigma):
        return best
    likelihood.gain = gain, sigma
    return _bottom(likelihood, best)[0]
