"""Ways to find a focus that others have published, each in its own words.

A peer is ``peer(microscope, bounds_um, start_um) -> Answer``. Those that search about where they stand are
driven to the middle of the range first, so that all have the same range. Those that have no verdict always
claim to have found the focus.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import cv2
import numpy as np
from scipy.optimize import least_squares, minimize_scalar

from benchmarks._search_microscope import Microscope

__all__ = ["PEERS", "Answer", "Bounds", "Peer"]

Frame: TypeAlias = np.ndarray[Any, Any]
Bounds: TypeAlias = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a competitor concludes.

    Parameters
    ----------
    position_um : float
        Where it leaves the axis.
    found : bool
        Whether it claims that this is the focus.
    sigma_um : float
        The uncertainty that it states, NaN where it states none.
    reason : str
        That it gives.
    """

    position_um: float
    found: bool = True
    sigma_um: float = math.nan
    reason: str = "found"


Peer: TypeAlias = Callable[[Microscope, Bounds, float], Answer]


def variance_of_laplacian(frame: Frame) -> float:
    """Return the variance of the Laplacian, of the frame as it is."""
    return float(cv2.Laplacian(frame, cv2.CV_32F).var(dtype=np.float64))


def literal_brent(microscope: Microscope, bounds_um: Bounds, start_um: float) -> Answer:
    """SciPy's bounded Brent on the reciprocal of the variance of the Laplacian, believed as it comes."""
    solved: Any = minimize_scalar(
        lambda position_um: 1 / max(variance_of_laplacian(microscope.expose(position_um)), 1e-12),
        bounds=bounds_um,
        method="bounded",
        options={"xatol": microscope.depth_of_field_um / 10, "maxiter": 30},
    )
    return Answer(float(solved.x))


def sharpest_of_sweep(microscope: Microscope, bounds_um: Bounds, start_um: float) -> Answer:
    """Every depth of field one frame; the one with the greatest variance of the Laplacian."""
    low_um, high_um = bounds_um
    positions_um = np.linspace(low_um, high_um, round((high_um - low_um) / microscope.depth_of_field_um) + 1)
    scores = [variance_of_laplacian(microscope.expose(position_um)) for position_um in positions_um.tolist()]
    return Answer(float(positions_um[np.argmax(scores)]))


def golden_section(microscope: Microscope, bounds_um: Bounds, start_um: float) -> Answer:
    """Golden section on the variance of the Laplacian until half a depth of field is left."""
    ratio = (math.sqrt(5) - 1) / 2
    low_um, high_um = bounds_um
    left_um, right_um = high_um - ratio * (high_um - low_um), low_um + ratio * (high_um - low_um)
    left, right = (variance_of_laplacian(microscope.expose(one)) for one in (left_um, right_um))
    while high_um - low_um > microscope.depth_of_field_um / 2:
        if left >= right:
            high_um, right_um, right = right_um, left_um, left
            left_um = high_um - ratio * (high_um - low_um)
            left = variance_of_laplacian(microscope.expose(left_um))
        else:
            low_um, left_um, left = left_um, right_um, right
            right_um = low_um + ratio * (high_um - low_um)
            right = variance_of_laplacian(microscope.expose(right_um))
    return Answer((low_um + high_um) / 2)


def edges(frame: Frame) -> float:
    """Return the mean magnitude of the Sobel gradient over the mean: OughtaFocus's default score, "Edges".

    As in ImageJ the magnitude does not exceed the range of the frame's grey levels.
    """
    down, across = (cv2.Sobel(frame, cv2.CV_32F, *order, ksize=3) for order in ((0, 1), (1, 0)))
    magnitude = np.minimum(cv2.magnitude(down, across), np.iinfo(frame.dtype).max)
    return float(magnitude.mean()) / max(float(frame.mean()), 1e-9)


def oughtafocus_brent(microscope: Microscope, bounds_um: Bounds, start_um: float) -> Answer:
    """OughtaFocus of Micro-Manager with its Brent optimizer.

    Brent's method (*Algorithms for Minimization without Derivatives*, 1973, chapter 5) as Apache Commons Math
    has it: it begins in the middle of the range and gives the best point that it saw. At most 100 frames. The
    tolerance, which the user sets, is a quarter of a depth of field.
    """
    return Answer(
        _brent_from_middle(
            lambda position_um: -edges(microscope.expose(position_um)),
            bounds_um,
            tolerance=microscope.depth_of_field_um / 4,
            evaluations=100,
        )
    )


def _brent_from_middle(
    function: Callable[[float], float], bounds: Bounds, *, tolerance: float, evaluations: int
) -> float:
    golden = (3 - math.sqrt(5)) / 2
    low, high = bounds
    best = second = third = (low + high) / 2
    at_best = at_second = at_third = function(best)
    step = before = 0.0
    for _ in range(evaluations - 1):
        middle = (low + high) / 2
        if abs(best - middle) <= 2 * tolerance - (high - low) / 2:
            break
        parabola = False
        if abs(before) > tolerance:
            r = (best - second) * (at_best - at_third)
            q = (best - third) * (at_best - at_second)
            p = (best - third) * q - (best - second) * r
            q = 2 * (q - r)
            p, q = (-p, q) if q > 0 else (p, -q)
            if abs(p) < abs(q * before / 2) and q * (low - best) < p < q * (high - best):
                before, step, parabola = step, p / q, True
                if min(best + step - low, high - best - step) < 2 * tolerance:
                    step = math.copysign(tolerance, middle - best)
        if not parabola:
            before = (high if best < middle else low) - best
            step = golden * before
        tried = best + (step if abs(step) >= tolerance else math.copysign(tolerance, step))
        value = function(tried)
        if value <= at_best:
            low, high = (low, best) if tried < best else (best, high)
            third, at_third, second, at_second = second, at_second, best, at_best
            best, at_best = tried, value
            continue
        low, high = (tried, high) if tried < best else (low, tried)
        if value <= at_second or second == best:
            third, at_third, second, at_second = second, at_second, tried, value
        elif value <= at_third or third in (best, second):
            third, at_third = tried, value
    return best


def oughtafocus_stack(microscope: Microscope, bounds_um: Bounds, start_um: float) -> Answer:
    """OughtaFocus of Micro-Manager with its Z stack.

    Frames a tolerance apart from the low end of the range on, the high end left out, and a Gaussian fitted
    to the scores by least squares: its mean, no farther than the frames reach. Its floor is not fitted: it is
    the lowest score. The fit begins at the highest score with the width of the range.
    """
    low_um, high_um = bounds_um
    step_um = microscope.depth_of_field_um
    positions_um = low_um + step_um * np.arange(max(int((high_um - low_um) / step_um + 1e-9), 4))
    scores = np.array([edges(microscope.expose(position_um)) for position_um in positions_um.tolist()])
    floor, span_um = scores.min(), float(np.ptp(positions_um))

    def deviations(shape: Frame) -> Frame:
        norm, mean_um, sigma_um = shape
        return floor + norm * np.exp(-(((positions_um - mean_um) / sigma_um) ** 2) / 2) - scores

    guess = (scores.max(), float(positions_um[scores.argmax()]), span_um / 2.355)
    fitted = least_squares(
        deviations, guess, method="lm", x_scale=(max(scores.max(), 1e-9), step_um, step_um)
    )
    return Answer(float(np.clip(fitted.x[1], positions_um[0], positions_um[-1])))


def spread(frame: Frame) -> float:
    """Return the standard deviation: Odemis's measure of electron microscope images."""
    return float(frame.std(dtype=np.float64))


def tenengrad_variance(frame: Frame) -> float:
    """Return the variance of the squared 5 x 5 Sobel gradient: Odemis's measure of camera images."""
    down, across = (cv2.Sobel(frame, cv2.CV_64F, *order, ksize=5) for order in ((0, 1), (1, 0)))
    return float((down**2 + across**2).var())


def odemis(microscope: Microscope, bounds_um: Bounds, start_um: float) -> Answer:
    """The binary search of Odemis, from wherever the axis stands.

    A frame here, one a step above, one a step below. While a side is best it goes there, and near the end
    of the range shortens the step by a third; when the middle is best it halves the step. The first step is
    half the range, or 64 depths of field where that is less, the last a 128th of it. Once it has turned round
    it no longer reuses frames. Its confidence is 0.8 where the best level is at least twice the worst one;
    otherwise it is 0.2 at most, which is counted as not found.
    """
    level = spread if microscope.instrument.name == "sem" else tenengrad_variance
    low_um, high_um = bounds_um
    factor = 128.0
    least_um = min(microscope.depth_of_field_um / 2, (high_um - low_um) / 2 / factor)
    levels: dict[float, float] = {}
    rough, last_um, here_um = True, math.nan, start_um

    def measured(position_um: float, reuse: bool) -> float:
        nonlocal last_um
        if not (reuse and position_um in levels):
            levels[position_um] = level(microscope.expose(position_um))
            last_um = position_um
        return levels[position_um]

    best = 0.0
    for _ in range(100):
        if factor < 1:
            break
        step_um = factor * least_um
        above_um, below_um = min(here_um + step_um, high_um), max(here_um - step_um, low_um)
        middle = measured(here_um, rough or last_um == here_um)
        above, below = measured(above_um, rough), measured(below_um, rough)
        best = max(below, middle, above)
        if best - min(below, middle, above) < 1e-6 * best or best == middle:
            factor /= 2
            rough = False
            continue
        here_um = below_um if best == below else above_um
        if here_um - step_um < low_um or here_um + step_um > high_um:
            factor /= 1.5
            rough = rough and factor > 8
    else:
        return Answer(here_um, False, reason="gave up")
    if best - min(levels.values()) < best / 2:
        return Answer(here_um, False, reason="indecisive")
    return Answer(here_um)


def openflexure(microscope: Microscope, bounds_um: Bounds, start_um: float) -> Answer:
    """The fast autofocus of the OpenFlexure Microscope (Knapper et al., J. Microsc. 285, 29, 2022).

    One sweep through the range without stopping, half a depth of field from frame to frame. The sharpest
    frame is the one that takes the most bytes as a JPEG. It goes back to the beginning of the sweep and from
    there to where that frame was taken, so that backlash is the same.
    """
    low_um, high_um = bounds_um
    instrument = microscope.instrument
    scale = 255 / min(1.25 * instrument.white + instrument.offset, instrument.full_scale)

    def size(frame: Frame) -> int:
        grey = frame if frame.dtype == np.uint8 else cv2.convertScaleAbs(frame, alpha=scale)
        return len(cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, 75])[1])

    frames = round(2 * (high_um - low_um) / microscope.depth_of_field_um) + 1
    positions_um = np.linspace(low_um, high_um, frames)
    microscope.move(low_um)
    sizes = [size(microscope.expose(position_um, running=True)) for position_um in positions_um.tolist()]
    microscope.move(low_um)
    return Answer(float(positions_um[np.argmax(sizes)]))


PEERS: dict[str, Peer] = {
    "literal Brent": literal_brent,
    "sweep, argmax": sharpest_of_sweep,
    "golden section": golden_section,
    "OughtaFocus Brent": oughtafocus_brent,
    "OughtaFocus stack": oughtafocus_stack,
    "Odemis binary": odemis,
    "OpenFlexure fast": openflexure,
}
"""By the names under which they are reported."""
