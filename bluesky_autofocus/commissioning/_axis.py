"""What moves and readbacks tell of an axis."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy.interpolate import PchipInterpolator

from bluesky_autofocus.commissioning._measured import Move, Shot

__all__ = [
    "MAD_OF_ONE_SIGMA",
    "Displacement",
    "Settling",
    "Speed",
    "backlash",
    "lost_motion",
    "settling",
    "speed",
    "spread",
]

MAD_OF_ONE_SIGMA = 0.6745

NOISES = 5.0
"""What stays within so many standard deviations of where it ends has settled. They are estimated from few."""

FIRST_LOOKS = 3
"""What has not settled shows in one of these; a single one far off later on is noise."""

LEAST_SETTLED = 1e-3
"""Nor is anything told apart that is nearer than this part of the range."""

FINAL_PART = 0.4
"""The end of a series that is taken to have settled."""

TRIED_SHIFTS = 401
"""Of the one curve against the other."""

LEAST_OVERLAP = 0.5
"""Of the positions must lie on the other curve, however it is shifted."""


def spread(values: Sequence[float] | np.ndarray) -> float:
    """Return the standard deviation of values by their median deviation, which outliers do not reach."""
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    if len(known) < 2:
        return math.nan
    return float(np.median(np.abs(known - np.median(known))) / MAD_OF_ONE_SIGMA)


@dataclasses.dataclass(frozen=True)
class Speed:
    """How long moves take: ``overhead_s + distance / velocity_um_s``.

    Parameters
    ----------
    velocity_um_s, velocity_sigma : float
        Infinite where the time does not depend on the distance.
    overhead_s, overhead_sigma : float
        What each takes whatever the distance: latency, acceleration, settling.
    """

    velocity_um_s: float
    velocity_sigma: float
    overhead_s: float
    overhead_sigma: float


def speed(moves: Sequence[Move]) -> Speed | None:
    """Return how fast moves are; None where fewer than four, or all as long, leave it open."""
    distances = np.array([abs(move.target_um - move.from_um) for move in moves])
    seconds = np.array([move.seconds for move in moves])
    if len(moves) < 4 or np.ptp(distances) < 0.2 * distances.max():
        return None
    (slope, overhead), covariance = np.polyfit(distances, seconds, 1, cov=True)
    # once more without those that the computer held up
    left = np.abs(seconds - (overhead + slope * distances))
    kept = left <= 4 * max(float(np.median(left)) / MAD_OF_ONE_SIGMA, 1e-6)
    if 4 <= kept.sum() < len(kept):
        (slope, overhead), covariance = np.polyfit(distances[kept], seconds[kept], 1, cov=True)
    slope_sigma, overhead_sigma = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    overhead = max(float(overhead), 0.0)
    if slope <= 3 * slope_sigma or slope <= 0:
        return Speed(math.inf, math.nan, float(np.median(seconds)), float(overhead_sigma))
    return Speed(1 / slope, slope_sigma / slope**2, overhead, float(overhead_sigma))


@dataclasses.dataclass(frozen=True)
class Settling:
    """When something has come to rest after a move was said to be done.

    Parameters
    ----------
    seconds : float
        From when on it stayed where it ended; 0 if it did from the first look.
    resolution_s : float
        Time between two looks: it is not known better.
    tolerance_um : float
        What counts as where it ended.
    moved_um : float
        How far it still went.
    at_rest : bool
        Whether it was at rest by then.
    """

    seconds: float
    resolution_s: float
    tolerance_um: float
    moved_um: float
    at_rest: bool = True


def settling(
    times_s: Sequence[float], positions_um: Sequence[float], noise_um: float, range_um: float
) -> Settling | None:
    """Return when a series of positions has come to rest; None for fewer than five.

    Parameters
    ----------
    times_s : sequence of float
        Since the move was said to be done, ascending.
    positions_um : sequence of float
        Read back, or by the image.
    noise_um : float
        Standard deviation of one of them at rest.
    range_um : float
        Of the axis, for what counts as nothing.
    """
    times, positions = np.asarray(times_s, float), np.asarray(positions_um, float)
    if len(times) < 5:
        return None
    last = max(3, round(FINAL_PART * len(times)))
    end_um = float(np.median(positions[-last:]))
    noise_um = max(noise_um if math.isfinite(noise_um) else 0.0, float(np.std(positions[-last:], ddof=1)))
    tolerance_um = max(NOISES * noise_um, LEAST_SETTLED * range_um)
    away = np.abs(positions - end_um) > tolerance_um
    interval_s = float(np.median(np.diff(times)))
    if not away[:FIRST_LOOKS].any():
        return Settling(0.0, float(times[0]), tolerance_um, 0.0)
    after = int(np.flatnonzero(away)[-1]) + 1
    moved_um = float(np.abs(positions - end_um).max())
    if after > len(times) - last:
        return Settling(float(times[-1]), interval_s, tolerance_um, moved_um, at_rest=False)
    return Settling(float(times[after]), interval_s, tolerance_um, moved_um)


@dataclasses.dataclass(frozen=True)
class Displacement:
    """How far what is reached downwards lies from what is reached upwards.

    Parameters
    ----------
    um, sigma_um : float
        Positive where the image of a position that is approached from above is that of a higher one from
        below: lost motion.
    limited : bool
        Whether it is as large as can be measured in the range: the truth may be larger.
    """

    um: float
    sigma_um: float
    limited: bool = False


def lost_motion(moves: Sequence[Move]) -> Displacement | None:
    """Return by how much the readback differs with the side from which it comes; None where nobody tried."""
    both = [[move.error_um for move in moves if move.upwards is way] for way in (True, False)]
    if min(len(errors) for errors in both) < 2:
        return None
    above, below = (float(np.median(errors)) for errors in both[::-1])
    sigma_um = math.hypot(*(spread(errors) / math.sqrt(len(errors)) for errors in both))
    return Displacement(above - below, sigma_um)


def backlash(up: Sequence[Shot], down: Sequence[Shot], greatest_um: float) -> Displacement | None:
    """Return by how much the image differs with the side from which the axis comes.

    The sharpness along the range, taken downwards, is the curve that was taken upwards, shifted: the shift
    that leaves least of the difference. None where the curves have no five positions each in common.

    Parameters
    ----------
    up, down : sequence of Shot
        Along the range, each way.
    greatest_um : float
        Largest shift to look for.
    """
    rising, falling = (_curve(shots) for shots in (up, down))
    if rising is None or falling is None:
        return None
    positions, scores = rising
    fallen, fallen_scores = falling
    span = float(np.ptp(scores))

    def left_over(shift_um: float) -> float:
        at = fallen + shift_um
        inside = (at >= positions[0]) & (at <= positions[-1])
        if inside.sum() < max(LEAST_OVERLAP * len(fallen), 4):
            return math.inf
        expected = PchipInterpolator(positions, scores)(at[inside])
        return float(np.mean((expected - fallen_scores[inside]) ** 2)) / span**2

    shifts = np.linspace(-greatest_um, greatest_um, TRIED_SHIFTS)
    left = np.array([left_over(float(shift)) for shift in shifts])
    if not np.isfinite(left).any():
        return None
    best = int(left.argmin())
    limited = best in (0, len(shifts) - 1) or not np.isfinite(left[[best - 1, best + 1]]).all()
    if limited:
        return Displacement(float(shifts[best]), math.nan, limited=True)
    # the parabola through the lowest three, and how sharp it is against what is left over
    step = float(shifts[1] - shifts[0])
    before, here, after = left[best - 1 : best + 2]
    bend = before - 2 * here + after
    offset = 0.5 * (before - after) / bend if bend > 0 else 0.0
    wide = max(5, TRIED_SHIFTS // 20)
    near = slice(max(best - wide, 0), best + wide + 1)
    finite = np.isfinite(left[near])
    curvature = float(np.polyfit((shifts[near] - shifts[best])[finite], left[near][finite], 2)[0])
    sigma_um = math.sqrt(here / (max(curvature, 1e-30) * len(fallen)))
    return Displacement(float(shifts[best] + offset * step), min(sigma_um, 2 * greatest_um))


def _curve(shots: Sequence[Shot]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return positions and sharpness, ascending; None where there are too few or they say nothing."""
    seen = sorted(
        {shot.position_um: shot.sharpness for shot in shots if math.isfinite(shot.sharpness)}.items()
    )
    if len(seen) < 5 or len({score for _, score in seen}) < 2:
        return None
    positions, scores = zip(*seen, strict=True)
    return np.array(positions), np.array(scores)
