"""Where focus is over the specimen, by a few places at which it was found."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bluesky_autofocus.prediction._deviations import Deviations, Kind, weigh
from bluesky_autofocus.prediction._frame import Frame
from bluesky_autofocus.prediction._kriging import Kriging
from bluesky_autofocus.prediction._outliers import LEAST_POINTS, inliers
from bluesky_autofocus.prediction._outline import Outline
from bluesky_autofocus.prediction._predicted import FocusPoint, Predicted

__all__ = ["LEAST_POINTS", "FocusSurface"]

MARGIN = 0.1
"""How far outside of the points is not yet extrapolation, as a share of their larger extent."""
_FORMAT = "bluesky_autofocus focus surface 1"


@dataclasses.dataclass(frozen=True, eq=False)
class FocusSurface:
    """The height of focus over the stage: a plane and what deviates from it.

    Made by `fit`. The deviations are of a kind: of a ``plane`` they differ from place to place; of a
    ``thin_plate`` and of a ``gaussian_process`` (with a Matern covariance, 5/2) most of them changes
    smoothly. How large they are and over which length they change is not chosen, but averaged over by what
    the points say of it, so that few points give a large uncertainty and not a wrong surface.

    Parameters
    ----------
    kind : str
        Of the deviations.
    points : tuple of FocusPoint
        All that were given.
    rejected : tuple of int
        Indices of those that are outliers and have no part in it, ascending.
    margin_um : float
        How far outside of the other points it is believed.
    unevenness_um : float
        How far specimens deviate from a plane, as was believed beforehand.
    believed : tuple of Deviations
        What the points say of the deviations, the likeliest first.
    """

    kind: Kind
    points: tuple[FocusPoint, ...]
    rejected: tuple[int, ...]
    margin_um: float
    unevenness_um: float
    believed: tuple[Deviations, ...]
    _frame: Frame = dataclasses.field(init=False, repr=False)
    _outline: Outline = dataclasses.field(init=False, repr=False)
    _kriging: Kriging = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        frame = Frame(self.used)
        kriging = Kriging(self.kind, *frame.standardised, self.believed)
        for name, value in (("_frame", frame), ("_outline", Outline(frame.places_um)), ("_kriging", kriging)):
            object.__setattr__(self, name, value)

    @classmethod
    def fit(
        cls,
        points: Sequence[FocusPoint],
        *,
        kind: Kind = "gaussian_process",
        unevenness_um: float = 1.0,
        margin_um: float | None = None,
    ) -> "FocusSurface":
        """Return the surface through points.

        A point that the others do not explain (focus on dust, or in an empty field) is rejected: its
        residual when it is left out, in standard deviations, is beyond what Student's t allows for so few
        points.

        Parameters
        ----------
        points : sequence of FocusPoint
            At `LEAST_POINTS` places or more, not all on one line.
        kind : "plane", "thin_plate" or "gaussian_process"
            The last one needs scikit-learn.
        unevenness_um : float
            How far specimens deviate from a plane, within a factor of four; many points make it irrelevant.
        margin_um : float, optional
            How far outside of the points it is believed; by default a tenth of their extent.

        Raises
        ------
        ValueError
            If the points are too few or on one line, there is no such kind or a number makes no sense.
        ImportError
            If scikit-learn is needed and not installed.
        """
        if kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {kind!r}")
        if not (math.isfinite(unevenness_um) and unevenness_um > 0):
            raise ValueError(f"unevenness_um must be positive and finite, got {unevenness_um!r}")
        if margin_um is not None and not (math.isfinite(margin_um) and margin_um >= 0):
            raise ValueError(f"margin_um must be finite and not negative, got {margin_um!r}")
        points = tuple(points)
        places = {(point.x_um, point.y_um) for point in points}
        if len(places) < LEAST_POINTS[kind]:
            raise ValueError(
                f"a surface of the kind {kind!r} needs points at {LEAST_POINTS[kind]} different places or "
                f"more, got {len(places)}"
            )
        used = inliers(points, kind, unevenness_um)
        frame = Frame([points[index] for index in used])
        believed, _ = weigh(kind, *frame.standardised, unevenness_um)
        return cls(
            kind=kind,
            points=points,
            rejected=tuple(sorted(set(range(len(points))) - set(used))),
            margin_um=MARGIN * frame.extent_um if margin_um is None else float(margin_um),
            unevenness_um=float(unevenness_um),
            believed=tuple(believed),
        )

    def through(self, points: Sequence[FocusPoint], rejected: Sequence[int] = ()) -> "FocusSurface":
        """Return a surface through other points of the same specimen, by what is believed of it already.

        Much quicker than `fit`, where few points have been added, or their uncertainties have changed.

        Parameters
        ----------
        points : sequence of FocusPoint
            All of them.
        rejected : sequence of int
            Indices of those that are outliers.
        """
        return dataclasses.replace(self, points=tuple(points), rejected=tuple(sorted(rejected)))

    @property
    def used(self) -> tuple[FocusPoint, ...]:
        """The points that are no outliers."""
        return tuple(point for index, point in enumerate(self.points) if index not in self.rejected)

    @property
    def deviation_um(self) -> float:
        """How far the specimen deviates from a plane: the root of the mean square, by what is believed."""
        return math.sqrt(sum(one.weight * one.deviation_um**2 for one in self.believed))

    def predict(self, x_um: float, y_um: float) -> Predicted:
        """Return where focus is expected at a place of the stage.

        Returns
        -------
        Predicted
            Refused, with the reason, farther outside of the points than the margin: a surface is no guess
            of how it goes on.
        """
        if not (math.isfinite(x_um) and math.isfinite(y_um)):
            return Predicted.refused(f"({x_um:g}, {y_um:g}) um is no place of the stage")
        outside_um = self.outside_um(x_um, y_um)
        if outside_um > self.margin_um:
            return Predicted.refused(
                f"{outside_um:.4g} um outside of the places where focus was found: the surface is believed "
                f"up to {self.margin_um:.4g} um from them"
            )
        position_um, sigma_um = self.estimate([x_um], [y_um])
        return Predicted(position_um.item(), sigma_um.item())

    def outside_um(self, x_um: float, y_um: float) -> float:
        """Return how far a place lies outside of the points; 0 among them."""
        return self._outline.distance(np.array([x_um, y_um], float))

    def estimate(self, x_um: ArrayLike, y_um: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return position and standard uncertainty of focus at many places, extrapolated ones too.

        Parameters
        ----------
        x_um, y_um : array_like, shape (n,)

        Returns
        -------
        position_um, sigma_um : numpy.ndarray, shape (n,)
        """
        places_um = np.column_stack([np.asarray(x_um, float), np.asarray(y_um, float)])
        mean, sigma_um = self._kriging.predict(self._frame.standard(places_um))
        return mean + self._frame.middle_um, sigma_um

    def plot(self, ax: Any = None) -> Any:
        """Draw the surface, its uncertainty and its points; see `plot_surface`."""
        from bluesky_autofocus.prediction._plot import plot_surface

        return plot_surface(self, ax)

    # For the record

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` makes the same surface of, JSON-able."""
        return {
            "format": _FORMAT,
            "kind": self.kind,
            "points": [dataclasses.asdict(point) for point in self.points],
            "rejected": list(self.rejected),
            "margin_um": self.margin_um,
            "unevenness_um": self.unevenness_um,
            "extent_um": self._frame.extent_um,
            "believed": [dataclasses.asdict(one) for one in self.believed],
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "FocusSurface":
        """Return the surface that was saved: the same predictions.

        Raises
        ------
        ValueError
            If it is none.
        """
        if saved.get("format") != _FORMAT:
            raise ValueError(f"expected a {_FORMAT!r}, got the format {saved.get('format')!r}")
        return cls(
            kind=saved["kind"],
            points=tuple(FocusPoint.from_dict(point) for point in saved["points"]),
            rejected=tuple(int(index) for index in saved["rejected"]),
            margin_um=float(saved["margin_um"]),
            unevenness_um=float(saved["unevenness_um"]),
            believed=tuple(Deviations(**one) for one in saved["believed"]),
        )
