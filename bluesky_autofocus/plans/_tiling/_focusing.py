"""Focus at a tile by a named method, and by a wider search where that fails."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from bluesky.utils import MsgGenerator

from bluesky_autofocus.plans._autofocus import method_named
from bluesky_autofocus.plans._moving import Approach
from bluesky_autofocus.plans._protocols import Detectors, FocusAnalysis, FocusAxis, PatternLight
from bluesky_autofocus.records import Verdict

__all__ = ["Focusing", "Method"]

NARROW_IN_DOF = 10.0
"""Width of a search where focus is expected: most peaks are five depths of field wide, and both their flanks
must be seen."""

SIGMAS = 3.3
"""To either side of where focus is expected, at least; 99.9 % of a normal distribution."""


@dataclasses.dataclass(frozen=True)
class Method:
    """A method of focusing and how wide it looks.

    Parameters
    ----------
    name : str
        One of `METHODS`.
    range_um : float
        Width of the range, for methods that search one.
    options : mapping
        Other options of the stub.
    """

    name: str
    range_um: float
    options: Mapping[str, Any]


class Focusing:
    """Makes the stubs that focus at tiles.

    Parameters
    ----------
    detectors, axis, analysis, approach, timeout_s
        As for the public stubs.
    first, wider : Method
        What is tried, and what where that fails.
    depth_of_field_um : float
        For the stubs that want to know.
    travel_um : tuple of float
        No move leaves it.
    light : PatternLight, optional
        For the stubs that set it.

    Raises
    ------
    UnknownMethodError
        If there is no such method, naming those there are.
    TypeError, ValueError
        If it takes no such option, or one that is the plan's.
    """

    def __init__(
        self,
        detectors: Detectors,
        axis: FocusAxis,
        *,
        analysis: FocusAnalysis,
        first: Method,
        wider: Method,
        depth_of_field_um: float,
        travel_um: tuple[float, float],
        approach: Approach,
        light: PatternLight | None,
        timeout_s: float,
    ) -> None:
        self._depth_of_field_um, self._travel_um = depth_of_field_um, travel_um
        self._first, self._wider = first, wider
        self._given = {
            "analysis": analysis,
            "depth_of_field_um": depth_of_field_um,
            "travel_um": travel_um,
            "approach": approach,
            "timeout_s": timeout_s,
            **({} if light is None else {"leds": light}),
        }
        self._detectors, self._axis = detectors, axis
        for method in (first, wider):
            for place in ("bounds_um", "range_um", "positions_um"):
                if place in method.options:
                    raise ValueError(f"{place} is no option of focusing at tiles: give range_um to the plan")
            stub = method_named(method.name)
            if any(one.kind is one.VAR_KEYWORD for one in inspect.signature(stub).parameters.values()):
                raise ValueError(
                    f"focus {method.name!r} hands on to another method, which is told of no range: "
                    "give that one"
                )
            inspect.signature(stub).bind(detectors, axis, **self._options(method, *travel_um, *travel_um))

    def stub(self, about_um: float, sigma_um: float, *, wider: bool = False) -> MsgGenerator[Verdict]:
        """Return the stub that focuses.

        Parameters
        ----------
        about_um : float
            Where focus is expected, or where to begin.
        sigma_um : float
            How certain that is; NaN where nobody knows, which has it look everywhere.
        wider : bool
            Whether to do what is done where the first method failed.
        """
        method = self._wider if wider else self._first
        width_um = method.range_um if wider else self._width_um(sigma_um)
        inner_um = self._within(about_um, width_um)
        # where the peak lies at its edge, some searches go on as far as this
        outer_um = self._within(about_um, method.range_um)
        return method_named(method.name)(
            self._detectors, self._axis, **self._options(method, *inner_um, *outer_um)
        )

    def _options(
        self, method: Method, low_um: float, high_um: float, lowest_um: float, highest_um: float
    ) -> dict[str, Any]:
        """Return those of a method's stub that it takes."""
        beyond_um = max(min(low_um - lowest_um, highest_um - high_um), 0.0)
        given = {**self._given, "bounds_um": (low_um, high_um), "widen_um": beyond_um}
        taken = inspect.signature(method_named(method.name)).parameters
        return {key: value for key, value in given.items() if key in taken} | dict(method.options)

    def _width_um(self, sigma_um: float) -> float:
        narrow_um = max(NARROW_IN_DOF * self._depth_of_field_um, 2 * SIGMAS * sigma_um)
        # written so that an uncertainty that is not a number is the widest
        return narrow_um if sigma_um >= 0 and narrow_um < self._first.range_um else self._first.range_um

    def _within(self, about_um: float, width_um: float) -> tuple[float, float]:
        """Return a range of that width about a position, as far as the travel range has it."""
        low_um, high_um = self._travel_um
        width_um = min(width_um, high_um - low_um)
        begin_um = min(max(about_um - width_um / 2, low_um), high_um - width_um)
        return begin_um, begin_um + width_um
