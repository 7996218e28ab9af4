"""Search by the contrast in several octaves: a few exposures far apart, then some about the focus."""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from bluesky_autofocus.records import Reason
from bluesky_autofocus.search._band_model import BandModel, empty_beside, shows_specks_alone
from bluesky_autofocus.search._grid import MOST_LOST, grid_search
from bluesky_autofocus.search._peak import judge
from bluesky_autofocus.search._samples import Conclusion, Sample, Search
from bluesky_autofocus.search._sweep import pass_through

__all__ = ["LEAST_OCTAVE_EXPOSURES", "octave_search"]

LEAST_OCTAVE_EXPOSURES = 7
"""Three to find the valley, one at the focus, one on each side, and one to doubt it."""

LEAST_EXPOSED = 5
"""However well fewer agree: what is no focus may please the octaves of two or three."""

SPACING_IN_DOF = 10.0
"""Of the first exposures: the third octave still has half of its contrast in between."""

LEAST_COARSE = 3

TOP = 0.3
"""One exposure is so near to the focus, in widths of the finest peak, or nearer."""

FLANK = (0.25, 1.3)
"""And one on each side is so far from it, where the peak tells most of its centre."""

STEEPEST = 0.55
"""So far from the focus, in widths, an exposure tells most of it."""

FALL = 0.05
"""The peak must fall on both sides by this fraction of its height, within what was exposed."""

FALL_IN_SIGMAS = 4.0
"""And by so many standard uncertainties."""

FALL_WITHIN = 2.0
"""And within so many widths: between exposures farther apart there is room for another peak, a higher one."""

ROOM_IN_DOF = 0.5
"""A focus so near to the end of what was exposed cannot be told from one beyond."""

WIDTH_IN_DOF = (0.5, 25.0)
"""The finest peak is as wide as this at half height."""

EXCESS = 0.2
"""A score this fraction of the peak above what was fitted is looked at again. Twice, and there is another
peak."""

EXCESS_IN_SIGMAS = 6.0

MOST_LIGHT = 0.45
"""So much more contrast in all bands, as a fraction, is looked at again too: a lamp that flickers does not do
it twice, another layer will."""

GREATEST_SHIFTS = (0.3, 0.12)
"""A band whose peak is so far from the common focus, in its widths, contradicts the others: the coarsest, the
finest. Light from one side only moves the peaks of coarse ones."""

GREATEST_MISFIT = 4.0
"""Squared deviations may be so many times those that are allowed for."""

GREATEST_UNSTEADY_MISFIT = 2.0
"""And so many where the light is taken to have changed too: if that was it, little is left."""

SAME_IN_DOF = 0.1
"""Positions so near to each other are one."""

MOST_AT_THE_END = 2

LEAST_GAP_IN_DOF = 0.7
"""Where nothing is seen, exposures go between the others until they are as near as this."""

PLACED = 0.025
"""No real peak is symmetric: its centre is not taken to be known better than this fraction of its width."""

CERTAIN_SIGMAS = 3.0
"""So many standard uncertainties of the focus must fit into a depth of field."""

CERTAIN_WIDTH = 0.3
"""And into this fraction of the finest peak, which tells the depth of field where nobody knows it."""

ENOUGH_BESIDE = 1.0
"""Where another focus lies, if there is one, is known well enough to this many depths of field."""

FRACTION_OF_RANGE = 1 / 40
"""Taken for the depth of field where nobody knows it: off by four either way it costs exposures, no more."""


def octave_search(
    bounds_um: tuple[float, float],
    *,
    exposures: int,
    depth_of_field_um: float | None = None,
    precision: float = 0.1,
    outer_um: tuple[float, float] | None = None,
    passing: int = 0,
    specks: bool = False,
) -> Search:
    """Find the valley by what coarse octaves show from afar, then the focus by what fine ones show near it.

    After each exposure one focus is fitted to all octaves of all exposures. The next exposure is taken where
    it settles what is most in doubt: which valley, whether focus is beyond the end, the top, the two flanks,
    the precision, what the fit does not explain.

    Where the analysis gives scores alone, `grid_search` takes over after the first exposure. A frame that
    cannot be used is taken again.

    Parameters
    ----------
    bounds_um : tuple of float
        Where to search.
    exposures : int
        Most exposures to ask for.
    depth_of_field_um : float, optional
        Sets the scale of everything; a factor of two either way does not matter. By default a fortieth of the
        range.
    precision : float
        It stops when the focus is known to this fraction of a depth of field, one standard uncertainty, and
        all evidence is there.
    outer_um : tuple of float, optional
        Where focus lies beyond the bounds, the search goes on as far as this; by default it does not.
    passing : int
        The direction, +1 or -1, in which the axis passes the range first: the search asks for its far end,
        and goes by exposures wherever they happen to be taken on the way, in place of a few far apart. Where
        they have scores alone a peak is fitted to them, and nothing else is asked for.
    specks : bool
        Whether the specimen may be a few dark specks. By default a focus that shows nothing else is refused.
    """
    low_um, high_um = bounds_um
    outer_um = outer_um or bounds_um
    if depth_of_field_um is None:
        depth_of_field_um = FRACTION_OF_RANGE * (high_um - low_um)
    count = math.ceil((high_um - low_um) / (SPACING_IN_DOF * depth_of_field_um) - 1e-9)
    count = max(min(count, exposures - LEAST_OCTAVE_EXPOSURES + LEAST_COARSE), LEAST_COARSE)
    coarse_um = low_um + (np.arange(count) + 0.5) / count * (high_um - low_um)
    samples: list[Sample] = []
    if passing:
        asked = yield from pass_through(bounds_um, passing, exposures, samples)
        if not asked:
            return Conclusion(Reason.NOT_CONVERGED)
        exposures -= asked - len(samples)  # those of no use
        if len(samples) < LEAST_EXPOSED:
            return Conclusion(Reason.NOT_ENOUGH_POINTS)
        if any(sample.bands is None for sample in samples):
            return judge(samples, bounds_um=bounds_um, depth_of_field_um=depth_of_field_um, dense=True)
        count = 0
    evidence: _Evidence | None = None
    beside: _Evidence | None = None
    lost = 0
    while True:
        if len(samples) < count:
            wish_um = float(coarse_um[len(samples)])
        else:
            evidence = _Evidence(samples, depth_of_field_um, bounds_um, outer_um, precision)
            beside = evidence.beside()
            wish = None if beside is None else beside.wish()
            wish = evidence.wish() if wish is None else wish
            wish_um = None if wish is None else wish * depth_of_field_um
        if wish_um is None or len(samples) + lost >= exposures:
            break
        sample = yield wish_um
        if not sample.usable:
            lost += 1
            if lost > MOST_LOST:
                return Conclusion(sample.reason)
            continue
        if sample.bands is None:
            grid = grid_search(
                bounds_um,
                exposures=exposures - len(samples) - lost - 1,  # this one is not used
                depth_of_field_um=depth_of_field_um,
                precision=precision,
                outer_um=outer_um,
                most_lost=MOST_LOST - lost,
            )
            return (yield from grid)
        samples.append(sample)
    if evidence is None:
        return Conclusion(Reason.NOT_ENOUGH_POINTS)
    if beside is not None and beside.is_one():
        return Conclusion(Reason.SEVERAL_PEAKS)
    return evidence.conclusion(specks=specks)


class _Evidence:
    """What speaks for and against the focus that was fitted; lengths are in depths of field."""

    def __init__(
        self,
        samples: Sequence[Sample],
        dof_um: float,
        bounds_um: tuple[float, float],
        outer_um: tuple[float, float],
        precision: float,
        tiles: np.ndarray | None = None,
    ) -> None:
        self.samples, self.dof_um, self.precision = samples, dof_um, precision
        self.bounds, self.outer = np.array(bounds_um) / dof_um, np.array(outer_um) / dof_um
        self.model = model = BandModel.of(samples, dof_um, tiles)
        self.fit = model.best
        self.at = model.positions
        self.seen = model.seen
        finest = int(np.flatnonzero(self.seen)[-1]) if self.seen.any() else 0
        self.finest, self.width = finest, float(self.fit.widths[finest])
        self.told = self.fit.sigma * math.sqrt(model.temper)  # what more exposures would make less
        self.sigma = math.hypot(self.told, PLACED * self.width)

    def wish(self) -> float | None:
        """Return where to expose next, None where nothing is in doubt that an exposure would settle."""
        return next(filter(self._is_worth_it, self.wishes()), None)

    def beside(self) -> "_Evidence | None":
        """Return what the tiles show that have no part in the focus that was found, if it lies elsewhere."""
        if self.objection() is not None:
            return None
        tiles = empty_beside(self._nearest, self.finest)
        if tiles is None:
            return None
        bounds_um, outer_um = tuple(self.bounds * self.dof_um), tuple(self.outer * self.dof_um)
        others = _Evidence(self.samples, self.dof_um, bounds_um, outer_um, ENOUGH_BESIDE, tiles)
        apart = abs(others.fit.centre - self.fit.centre)
        elsewhere = apart > max(1.0, self.width, CERTAIN_SIGMAS * others.sigma)
        return others if others.seen.any() and elsewhere else None

    @property
    def _nearest(self) -> Sample:
        """The exposure nearest to the focus."""
        return self.samples[int(np.abs(self.at - self.fit.centre).argmin())]

    def is_one(self) -> bool:
        """Return whether there may be a focus: between exposures, as that of haze is not, and no medley."""
        between = float(self.at.min()) + ROOM_IN_DOF < self.fit.centre < float(self.at.max()) - ROOM_IN_DOF
        return between and self.objection() not in (Reason.SEVERAL_PEAKS, Reason.POOR_FIT)

    def wishes(self) -> Iterator[float]:
        """Yield where to expose next, what is most in doubt first."""
        if not self.seen.any():
            yield from self._widest_gap()
            return
        yield from self._beyond()
        rival = self.model.rival()
        for place in (self.fit, rival):
            if place is not None and not self._exposed_at(place.centre):
                yield self._within(place.centre)
        yield from self._flanks()
        yield from self._farther()
        yield from self._doubtful()
        if self.told > self.precision or len(self.at) < LEAST_EXPOSED:
            yield self._telling()

    def _is_worth_it(self, position: float) -> bool:
        """Return whether another exposure there would tell more: at an end of the range a third does not."""
        ends = np.abs(self.outer - position).min() < SAME_IN_DOF
        return not ends or (np.abs(self.at - position) < SAME_IN_DOF).sum() < MOST_AT_THE_END

    def conclusion(self, *, specks: bool) -> Conclusion:
        """Believe the focus, or say why not; of a few dark specks alone only if these may be the specimen."""
        reason = self.objection()
        if reason is None and not specks and shows_specks_alone(self._nearest.bands):
            reason = Reason.SPECKS
        if reason is not None:
            return Conclusion(reason)
        return Conclusion(Reason.FOUND, self.fit.centre * self.dof_um, self.sigma * self.dof_um)

    def objection(self) -> Reason | None:
        """Return what speaks against the focus, if anything does."""
        if not self.seen.any():
            return Reason.FLAT
        if any(True for _ in self._open_sides()):
            return Reason.EDGE
        allowed = np.geomspace(*GREATEST_SHIFTS, len(self.seen))
        shifted = (np.abs(self.fit.shifts) > allowed)[self.seen]
        confirmed = (self._elsewhere() > 0) & self._repeated()
        if self.model.rival() is not None or confirmed.any() or shifted.any():
            return Reason.SEVERAL_PEAKS
        if self.width < WIDTH_IN_DOF[0]:
            return Reason.SPIKE
        greatest = GREATEST_UNSTEADY_MISFIT if self.fit.light.any() else GREATEST_MISFIT
        if self.width > WIDTH_IN_DOF[1] or self.model.temper > greatest:
            return Reason.POOR_FIT
        open_questions = itertools.chain(self._flanks(), self._doubtful())
        if (
            any(True for _ in open_questions)
            or not self._exposed_at(self.fit.centre)
            or len(self.at) < LEAST_EXPOSED
        ):
            return Reason.NOT_ENOUGH_POINTS
        if CERTAIN_SIGMAS * self.sigma > min(1.0, self.width * CERTAIN_WIDTH):
            return Reason.UNCERTAIN
        return None

    # what was exposed

    def _within(self, position: float) -> float:
        return float(np.clip(position, *self.outer))

    def _exposed_at(self, position: float) -> bool:
        return bool(np.abs(self.at - position).min() <= TOP * self.width)

    def _on_flank(self, side: int) -> np.ndarray:
        away = side * (self.at - self.fit.centre) / self.width
        return (away >= FLANK[0]) & (away <= FLANK[1])

    def _telling(self) -> float:
        """Return where one more exposure tells most of the focus, on the side that was exposed less."""
        places = [(self._on_flank(side).sum(), self._within(self._steepest(side))) for side in (-1, 1)]
        roomy = [place for place in places if abs(place[1] - self.fit.centre) > FLANK[0] * self.width]
        return min(roomy or places)[1]

    def _steepest(self, side: int) -> float:
        return self.fit.centre + side * STEEPEST * self.width

    def _repeated(self) -> np.ndarray:
        """Return whether an exposure was taken at the position of another one."""
        return (np.abs(self.at[:, None] - self.at) < SAME_IN_DOF).sum(axis=1) > 1

    # what is in doubt

    def _widest_gap(self) -> Iterator[float]:
        ends = np.sort(np.concatenate((self.bounds, self.at)))
        widest = int(np.argmax(np.diff(ends)))
        if ends[widest + 1] - ends[widest] > LEAST_GAP_IN_DOF:
            yield float(ends[widest : widest + 2].mean())

    def _beyond(self) -> Iterator[float]:
        """Yield the end of the range, or what is beyond it, where focus seems to lie there."""
        for side, end in zip((-1, 1), self.bounds, strict=True):
            outermost = float((side * self.at).max()) * side
            if side * (self.fit.centre - outermost) < 0:
                continue
            limit = end if side * (end - outermost) > SAME_IN_DOF else self.outer[(side + 1) // 2]
            if side * (limit - outermost) > SAME_IN_DOF:
                yield min(side * self._steepest(side), side * float(limit)) * side

    def _flanks(self) -> Iterator[float]:
        for side in (-1, 1):
            if not self._on_flank(side).any():
                position = self._within(self._steepest(side))
                if np.abs(self.at - position).min() > SAME_IN_DOF:
                    yield position

    def _doubtful(self) -> Iterator[float]:
        """Yield the positions, not repeated yet, where there seems to be another focus."""
        elsewhere = np.where(self._repeated(), 0, self._elsewhere())
        for index in np.argsort(-elsewhere):
            if elsewhere[index] > 0:
                yield float(self.at[index])

    def _elsewhere(self) -> np.ndarray:
        """Return how much there is in each exposure that one focus does not explain; not above 0: nothing."""
        believed = np.maximum(EXCESS * self.fit.heights, EXCESS_IN_SIGMAS * self.model.sigmas)
        excess = (self.model.deviations - believed).max(axis=1)
        return np.maximum(excess, self.fit.light - MOST_LIGHT)

    def _farther(self) -> Iterator[float]:
        """Yield positions farther out on the sides on which the peak was not seen to fall."""
        for side in self._open_sides():
            away = side * (self.at - self.fit.centre)
            near = away[away <= FALL_WITHIN * self.width]
            outermost = self.fit.centre + side * float(near.max(initial=0.0))
            position = self._within(outermost + side * max(STEEPEST * self.width, LEAST_GAP_IN_DOF))
            if abs(position - outermost) > SAME_IN_DOF:
                yield position

    def _open_sides(self) -> Iterator[int]:
        """Yield the sides on which nothing shows that the peak falls: there it may rise on."""
        finest = self.finest
        measured = self.model.energies[:, finest]
        top = float(self.fit.heights[finest] + self.fit.floors[finest])
        sigma = float(self.model.noises[:, finest].max())
        least = max(FALL * float(np.ptp(self.model.modelled(self.fit)[:, finest])), FALL_IN_SIGMAS * sigma)
        for side in (-1, 1):
            away = side * (self.at - self.fit.centre)
            beside = measured[(away > FLANK[0] / 2 * self.width) & (away <= FALL_WITHIN * self.width)]
            if away.max() < ROOM_IN_DOF or not len(beside) or top - beside.min() < least:
                yield side
