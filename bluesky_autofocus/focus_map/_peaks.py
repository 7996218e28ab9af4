"""The one peak of a focus curve, if it is to be believed."""

import numpy as np
from scipy.special import stdtrit

from bluesky_autofocus.search import Sample
from bluesky_autofocus.search._peak_model import PeakModel

__all__ = ["LEAST_POSITIONS", "SHAPE_UNCERTAINTY", "believed_peak", "changes_with_position"]

LEAST_POSITIONS = 5
"""A peak has four parameters, and one more score tells whether it fits."""

SCALES_IN_RANGE = 40
"""Where no depth of field is known, peaks are sought as if this many of them made up the range."""

SIGNIFICANT = 1 - 1e-4
"""Probability with which the contrast of a tile must not be noise."""

FALL = 0.2
"""The peak falls on both sides by this fraction of its contrast, within what was exposed."""

FALL_IN_SCATTERS = 3.0
"""And by so many times the scatter of the scores."""

GREATEST_MISFIT = 0.15
"""Scores scatter about the peak by at most this fraction of its contrast. Tiles are smaller than frames, and
what moves at their borders scatters them more."""

WIDEST = 0.75
"""Its width at half height is at most this fraction of the range: otherwise it has no floor, and its position
says little."""

TOP = 0.5
"""One exposure is this fraction of the width from its centre, or less."""

LEAST_NEAR = 3
"""Exposures within one width of its centre."""

SHAPE_UNCERTAINTY = 0.02
"""No real peak has exactly the fitted shape: this fraction of its width is uncertain. The tiles of one frame
have much the same shape, so it is left out where they are compared with each other."""

SMOOTH_SIGMAS = 3.0
"""Scores change with the position where neighbours are nearer to each other than those of noise would be, by
so many standard deviations."""


def changes_with_position(positions_um: np.ndarray, scores: np.ndarray) -> bool:
    """Return whether scores are a curve and not mere noise, whatever the curve.

    By the ratio of the mean squared difference of neighbours to the variance, which is 2 for noise (J. von
    Neumann, *Distribution of the ratio of the mean square successive difference to the variance*, Ann. Math.
    Stat. 12 (1941) 367). Few scores never tell.
    """
    ordered, number = scores[np.argsort(positions_um)], len(scores)
    variance = float(np.var(ordered)) if number >= LEAST_POSITIONS else 0.0
    if not (np.isfinite(variance) and variance > 0):
        return False
    ratio = float(np.sum(np.diff(ordered) ** 2)) / (number * variance)
    return ratio < 2 - SMOOTH_SIGMAS * 2 * np.sqrt((number - 2) / (number**2 - 1))


def believed_peak(
    positions_um: np.ndarray, scores: np.ndarray, depth_of_field_um: float | None = None
) -> PeakModel | None:
    """Fit a peak to the scores of a tile; None where they have none, or none that can be believed.

    Parameters
    ----------
    positions_um, scores : numpy.ndarray
        In any order, shape (N,).
    depth_of_field_um : float, optional
        How narrow a peak can be.
    """
    range_um = float(np.ptp(positions_um)) if len(positions_um) else 0.0
    if len(np.unique(positions_um)) < LEAST_POSITIONS or not np.isfinite(scores).all():
        return None
    samples = [
        Sample(position_um, score)
        for position_um, score in zip(positions_um.tolist(), scores.tolist(), strict=True)
    ]
    model = PeakModel.of(samples, depth_of_field_um or range_um / SCALES_IN_RANGE)
    return model if model is not None and _is_believed(model, range_um) else None


def _is_believed(model: PeakModel, range_um: float) -> bool:
    # from few scores their scatter is poorly known
    least = float(stdtrit(model.freedom, SIGNIFICANT)) * model.scatter
    apart_um = np.abs(model.positions_um - model.centre_um)
    return (
        model.contrast > least
        and model.scatter <= GREATEST_MISFIT * model.contrast
        and min(model.falls()) >= max(FALL * model.contrast, FALL_IN_SCATTERS * model.scatter)
        and int(np.argmax(model.scores)) not in (0, len(model.scores) - 1)
        and model.width_um <= WIDEST * range_um
        and bool(apart_um.min() <= TOP * model.width_um)
        and int(np.sum(apart_um <= model.width_um)) >= LEAST_NEAR
    )
