"""Where focus is expected at a tile, by what was found before: no messages.

Over tiles that are each visited once it is a surface, and a drift that all of them share. At positions that
are visited again and again each has a drift of its own, which supposes nothing of the others.
"""

import abc
import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from typing import Any

from bluesky_autofocus.plans._tiling._tiles import Tile
from bluesky_autofocus.prediction import DriftFilter, FocusPoint, FocusSurface, Predicted

__all__ = [
    "Forecast",
    "Foreseen",
    "PositionsForecast",
    "Source",
    "SurfaceForecast",
    "drift_maker",
    "points_of",
]

KEPT_POINTS = 300
"""Of a surface: a fit to so many takes less than a second, and a night no more memory than an hour."""

LEARN_AGAIN = 0.1
"""How uneven a specimen is, and which points are outliers, is learnt again when there are so many more of
them. In between a surface is laid through a new one by what was learnt, which takes a tenth of the time."""

SURPRISING = 3.0
"""Standard deviations off what was expected from which on a point has both learnt again at once."""


class Source(StrEnum):
    """What a tile's focus rests on."""

    FOCUSED = "focused"
    """It was found at this tile, now."""
    SURFACE = "surface"
    """The surface through what was found elsewhere, and the drift since."""
    DRIFT = "drift"
    """What was found at this position before, and its drift since."""
    LAST_GOOD = "last_good"
    """What was found last, here or nearby; nobody knows how far from focus that is now."""
    NONE = "none"
    """Nothing: it is where the axis stood."""


@dataclasses.dataclass(frozen=True)
class Foreseen:
    """Where focus is expected.

    Parameters
    ----------
    position_um, sigma_um : float
        NaN where nothing is known.
    source : Source
        What that rests on.
    reason : str
        Why it is not known, where it is not, or what there is to be said against it.
    drift_um : float
        What of the position is drift since the surface was measured; NaN where nobody knows.
    """

    position_um: float
    sigma_um: float
    source: Source
    reason: str = ""
    drift_um: float = 0.0

    @property
    def known(self) -> bool:
        """Whether the position has an uncertainty that can be relied on."""
        return math.isfinite(self.position_um) and math.isfinite(self.sigma_um)


class Forecast(abc.ABC):
    """Says where focus is expected, and is told where it was found."""

    same_field = False
    """Whether a tile's frames are of the field that was sharp before: then a blurred one is a witness too. In
    another field there may be nothing of the specimen: it is blurred, and what floats in it is found."""

    @abc.abstractmethod
    def predict(self, tile: Tile, now_s: float, temperature_c: float | None = None) -> Foreseen:
        """Return where focus is expected at a tile, at a time of the session's clock."""

    @abc.abstractmethod
    def focused(
        self,
        tile: Tile,
        now_s: float,
        position_um: float,
        sigma_um: float,
        temperature_c: float | None = None,
    ) -> None:
        """Take in where it was found."""

    def confirmed(
        self,
        tile: Tile,
        now_s: float,
        position_um: float,
        sigma_um: float,
        temperature_c: float | None = None,
    ) -> None:
        """Take in that the frame was blurred, too, before focus was found elsewhere.

        That is a second observation, if one is not enough, where frames are of the same field.
        """
        if self.same_field and self.doubt(tile):
            self.focused(tile, now_s, position_um, sigma_um, temperature_c)

    @abc.abstractmethod
    def doubt(self, tile: Tile) -> str:
        """Return why what was found last is not believed yet; an empty string if it is."""

    def referee(self) -> Tile | None:
        """Return a tile where focusing now would tell what to think of what is not believed; None mostly."""
        return None


class PositionsForecast(Forecast):
    """Of positions that are visited again and again.

    Parameters
    ----------
    make_drift : callable
        Returns a fresh `DriftFilter`.
    """

    same_field = True

    def __init__(self, make_drift: Callable[[], DriftFilter]) -> None:
        self._make_drift = make_drift
        self._drifts: dict[int, DriftFilter] = {}
        self._last_good_um: dict[int, float] = {}

    def predict(self, tile: Tile, now_s: float, temperature_c: float | None = None) -> Foreseen:
        """Return it by the drift of this position, else where it was last."""
        reason = "not focused yet"
        if tile.index in self._drifts:
            predicted = self._drifts[tile.index].predict(now_s, temperature_c=temperature_c)
            if predicted.known:
                return Foreseen(predicted.position_um, predicted.sigma_um, Source.DRIFT, predicted.reason)
            reason = predicted.reason
        return _last_good(self._last_good_um.get(tile.index, tile.expected_um), reason)

    def focused(
        self,
        tile: Tile,
        now_s: float,
        position_um: float,
        sigma_um: float,
        temperature_c: float | None = None,
    ) -> None:
        """Take in where it was found at this position."""
        if tile.index not in self._drifts:
            self._drifts[tile.index] = self._make_drift()
        drift = self._drifts[tile.index]
        drift.observe(_not_before(drift, now_s), position_um, sigma_um, temperature_c=temperature_c)
        self._last_good_um[tile.index] = position_um

    def doubt(self, tile: Tile) -> str:
        """Return it of the drift of this position."""
        return self._drifts[tile.index].doubt if tile.index in self._drifts else ""


@dataclasses.dataclass(frozen=True)
class _Look:
    """Where focus was found: the height there, by the drift of that time.

    Parameters
    ----------
    tile : Tile or None
        The tile; None for what was known before.
    point : FocusPoint
        Its height, and the uncertainty of focusing alone.
    time_s : float
        When; minus infinity for what was known before.
    drift_sigma_um : float
        Standard uncertainty of the drift then.
    """

    tile: Tile | None
    point: FocusPoint
    time_s: float
    drift_sigma_um: float

    def uncertain_by(self, sigma_um: float) -> FocusPoint:
        """Return its height, with an uncertainty beside that of focusing."""
        return dataclasses.replace(self.point, sigma_um=math.hypot(self.point.sigma_um, sigma_um))


class SurfaceForecast(Forecast):
    """Of tiles that lie on one surface, which drifts as a whole.

    Focusing at a tile tells the sum of its height and the drift, and how that parts is known less well than
    the sum. So heights are those by the newest look: it counts as certain as focusing is, and those before
    it as uncertain as the drift between them and now. Near a place that was just looked at focus is then
    known well, whatever part of it is drift.

    Where several tiles in a row are not where they are expected, either the drift has jumped or the surface
    is wrong there. Both look alike from there, so a tile elsewhere is the referee: one at which the height is
    known. If that is where it is expected, the tiles belong to the surface.

    A surface that was measured by another run serves: its shape is taken as known, and the first look tells
    how far it has drifted meanwhile.

    Parameters
    ----------
    kind : str or None
        Of the surface, as for `FocusSurface.fit`. None: there is none, and only the last focus is known.
    make_drift : callable
        Returns a fresh `DriftFilter`.
    points : sequence of FocusPoint
        What is known of the surface before.
    unevenness_um : float
        How far such specimens deviate from a plane, as for `FocusSurface.fit`.
    """

    def __init__(
        self,
        kind: Any,
        make_drift: Callable[[], DriftFilter],
        points: Sequence[FocusPoint] = (),
        unevenness_um: float = 1.0,
    ) -> None:
        self._fit_surface = partial(FocusSurface.fit, kind=kind, unevenness_um=unevenness_um)
        self._kind = kind
        self._drift = make_drift()
        self._last_good_um = math.nan
        self._looks = [_Look(None, point, -math.inf, 0.0) for point in points]
        self._doubted: list[_Look] = []
        self._settled_um = 0.0
        self._surface: FocusSurface | None = None
        self._shape: FocusSurface | None = None
        self._learnt_by = 0
        self._newer = 0
        self._lay(0.0)

    @property
    def points(self) -> list[FocusPoint]:
        """By what the surface is known."""
        return [look.point for look in self._looks]

    @property
    def known(self) -> FocusSurface | list[FocusPoint]:
        """The surface, or the points where there are too few for one."""
        return self.points if self._surface is None else self._surface

    def predict(self, tile: Tile, now_s: float, temperature_c: float | None = None) -> Foreseen:
        """Return it by surface and drift, else where it was last."""
        height = _at(self._surface, tile)
        drift = self._drift.predict(now_s, temperature_c=temperature_c)
        if height.known and drift.known:
            return Foreseen(
                height.position_um + drift.position_um,
                math.hypot(height.sigma_um, math.sqrt(self._strayed_um2(drift))),
                Source.SURFACE,
                drift.reason,
                _believed_um(drift),
            )
        last_um = self._last_good_um
        if height.known and math.isnan(last_um):  # known before, but nobody has looked how far it drifted
            last_um = height.position_um
        if math.isnan(last_um):
            last_um = tile.expected_um
        reason = drift.reason if height.known else height.reason
        return dataclasses.replace(_last_good(last_um, reason), drift_um=_believed_um(drift))

    def focused(
        self,
        tile: Tile,
        now_s: float,
        position_um: float,
        sigma_um: float,
        temperature_c: float | None = None,
    ) -> None:
        """Take in where it was found at a tile."""
        now_s = _not_before(self._drift, now_s)
        self._last_good_um = position_um
        # by the shape alone: how uncertain the drift was meanwhile is no uncertainty of what tells the drift
        height = _at(self._shape, tile)
        disputed, jumps = self._drift.nearly_believed, len(self._drift.jumps_s)
        if height.known:
            drift_um, drift_sigma_um = position_um - height.position_um, height.sigma_um
        elif self._looks:
            drift_um = drift_sigma_um = math.nan  # it tells the height, and nothing of the drift
        else:
            drift_um = drift_sigma_um = 0.0  # by definition
        if math.isfinite(drift_um):
            said = now_s, drift_um, math.hypot(sigma_um, drift_sigma_um)
            again = bool(self._doubted) and self._doubted[-1].tile == tile
            if again and self._drift.surprised_by(*said, temperature_c=temperature_c):
                return  # a tile is one witness, however often it is asked
            self._drift.observe(*said, temperature_c=temperature_c)
        drift = self._drift.predict(now_s, temperature_c=temperature_c)
        if self._kind is None or not drift.known:
            return
        point = FocusPoint(tile.x_um, tile.y_um, position_um - drift.position_um, sigma_um)
        if self._drift.doubt:
            self._doubted.append(_Look(tile, point, now_s, self._settled_um))
            return
        if disputed and len(self._drift.jumps_s) == jumps:
            self._looks += self._doubted
            self._shape = None
        self._doubted = []
        self._settled_um = drift.sigma_um
        self._looks.append(_Look(tile, point, now_s, drift.sigma_um))
        self._newer += 1
        if height.known and abs(point.focus_um - height.position_um) > SURPRISING * math.hypot(
            height.sigma_um, sigma_um, drift.sigma_um
        ):
            self._shape = None
        rejected = () if self._shape is None else self._shape.rejected
        while len(self._looks) > KEPT_POINTS:
            gone = _most_crowded(self.points)
            del self._looks[gone]
            rejected = tuple(one - (one > gone) for one in rejected if one != gone)
        self._lay(now_s, rejected)

    def doubt(self, tile: Tile) -> str:
        """Return it of the drift, whichever tile it was."""
        return self._drift.doubt

    def referee(self) -> Tile | None:
        """Return the nearest tile at which the height is known, once one more would make a jump believed."""
        if not self._drift.nearly_believed or self._shape is None:
            return None
        here = self._doubted[-1].tile if self._doubted else None
        known = [
            look.tile
            for number, look in enumerate(self._looks)
            if look.tile is not None and number not in self._shape.rejected
        ]
        if here is None or not known:
            return None
        return min(known, key=lambda tile: math.hypot(tile.x_um - here.x_um, tile.y_um - here.y_um))

    def learn(self, now_s: float) -> None:
        """Have the surface and its outliers learnt anew from all that was found."""
        self._shape = None
        self._lay(now_s)

    def datum(self, tiles: Sequence[Tile]) -> Tile | None:
        """Return one of these tiles at which focusing would tell how far a surface has drifted.

        None where that is known, or none of them lies on it.
        """
        if not self._looks or math.isfinite(self._drift.newest_s):
            return None
        return next((tile for tile in tiles if _at(self._surface, tile).known), None)

    def _strayed_um2(self, drift: Predicted) -> float:
        """Return by how much the drift has become less certain since the last look, as a variance."""
        return max(drift.sigma_um**2 - self._settled_um**2, 0.0)

    def _lay(self, now_s: float, rejected: tuple[int, ...] = ()) -> None:
        """Lay a surface through what was found, by how certain that still is.

        Parameters
        ----------
        now_s : float
        rejected : tuple of int
            Which of the points are outliers, by what was learnt last.
        """
        if self._kind is None:
            return

        def sigma_um(look: _Look) -> float:
            between = look.drift_sigma_um**2 + self._settled_um**2
            if math.isfinite(look.time_s):
                later = self._drift.predict(now_s + (now_s - look.time_s))
                between = min(between, self._strayed_um2(later))
            return math.sqrt(between)

        aged = [look.uncertain_by(sigma_um(look)) for look in self._looks]
        if self._shape is not None and self._newer <= LEARN_AGAIN * self._learnt_by:
            self._shape = self._shape.through(self.points, rejected)
            self._surface = self._shape.through(aged, rejected)
            return
        self._surface = self._shape = None
        self._learnt_by, self._newer = len(self._looks), 0
        with contextlib.suppress(ValueError):  # at too few places, or all in a row
            # looks at different times differ by what is not known of the drift: that is no unevenness
            learnt = self._fit_surface([look.uncertain_by(look.drift_sigma_um) for look in self._looks])
            self._shape = learnt.through(self.points, learnt.rejected)
            self._surface = learnt.through(aged, learnt.rejected)


def points_of(surface: Sequence[Any]) -> list[FocusPoint]:
    """Return the points of a surface that are given as such, or as ``(x, y, focus, sigma)`` in um.

    Raises
    ------
    ValueError
        If one is none of these.
    """
    points = []
    for one in surface:
        if isinstance(one, FocusPoint):
            points.append(one)
            continue
        if len(one) != 4 or not all(map(math.isfinite, one)) or not one[3] > 0:
            raise ValueError(f"surface must be points (x, y, focus, sigma) in um, got {one!r}")
        points.append(FocusPoint(*map(float, one)))
    return points


def drift_maker(options: Mapping[str, Any] | None) -> Callable[[], DriftFilter]:
    """Return what makes a `DriftFilter` with these options; they have been checked."""
    chosen = dict(options or {})
    DriftFilter(**chosen)
    return lambda: DriftFilter(**chosen)


def _at(surface: FocusSurface | None, tile: Tile) -> Predicted:
    if surface is None:
        return Predicted.refused("no surface yet")
    return surface.predict(tile.x_um, tile.y_um)


def _not_before(drift: DriftFilter, now_s: float) -> float:
    """Return the time, or that of the newest observation: a clock that was set back costs no night."""
    return drift.newest_s if now_s < drift.newest_s else now_s


def _believed_um(drift: Predicted) -> float:
    """Return the drift, NaN where it is not known or what was observed last is not believed."""
    return drift.position_um if drift.known and not drift.reason else math.nan


def _last_good(position_um: float, reason: str) -> Foreseen:
    source = Source.NONE if math.isnan(position_um) else Source.LAST_GOOD
    return Foreseen(position_um, math.nan, source, reason)


def _most_crowded(points: Sequence[FocusPoint]) -> int:
    """Return which of the older points tells least: the one that has another one nearest to it."""

    def nearest_um(index: int) -> float:
        one = points[index]
        return min(
            math.hypot(one.x_um - other.x_um, one.y_um - other.y_um)
            for number, other in enumerate(points)
            if number != index
        )

    return min(range(len(points) - 1), key=nearest_um)
