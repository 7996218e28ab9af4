"""What the acceptance test runs over: one module here is one back end.

A module has ``opened(directory, RE)``, a context manager that gives a `Bench`, and may have ``LACKS``: the
behaviours that this back end has no means for (``single_shot`` where there are no LEDs), with why. What takes
long to import or a network is imported in ``opened``.
"""

import contextlib
import dataclasses
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

__all__ = ["BACKENDS", "Bench", "lacking", "open_bench"]

BACKENDS = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


@dataclasses.dataclass
class Bench:
    """An instrument behind a control system, with what is true of it, which no control system tells.

    Attributes
    ----------
    detectors : list
        That plans get; the first gives the frames.
    axis : object
        That focuses, in um. It stands out of focus, within the range of `bounds_um`.
    image_key, frame_shape
        Of the frames in the documents.
    bounds_um : tuple of float
        Where the focus is searched.
    limits_um : tuple of float
        That the axis keeps to.
    depth_of_field_um : float
        Of the instrument.
    where_um, focus_um : callable
        The true position, and that at which the specimen is in focus, asked of what stands behind.
    slow_down : callable
        Make moves last about a second for 10 um and more, so that one can be interrupted.
    lose, restore : callable
        Break the connection, or the device behind it, and mend it. What is lost fails within 10 s.
    lost_names : str
        A regular expression of what the error of a lost device says.
    leds : object, optional
        The LED array.
    lit : callable, optional
        Which LEDs are on, asked of what stands behind.
    transmitted : callable, optional
        Make frames show the cells in the light of the LEDs.
    focus_of_cells_um : callable, optional
        Where those are in focus.
    """

    detectors: list[Any]
    axis: Any
    image_key: str
    frame_shape: tuple[int, int]
    bounds_um: tuple[float, float]
    limits_um: tuple[float, float]
    depth_of_field_um: float
    where_um: Callable[[], float]
    focus_um: Callable[[], float]
    slow_down: Callable[[], None]
    lose: Callable[[], None]
    restore: Callable[[], None]
    lost_names: str
    leds: Any = None
    lit: Callable[[], tuple[int, ...]] = tuple
    transmitted: Callable[[], None] = lambda: None
    focus_of_cells_um: Callable[[], float] = lambda: float("nan")


def lacking(backend: str, behaviour: str) -> str | None:
    """Return why a back end cannot be tried on a behaviour, None where it can."""
    module = importlib.import_module(f"{__name__}.{backend}")
    return getattr(module, "LACKS", {}).get(behaviour)


def open_bench(backend: str, directory: Any, RE: Any) -> contextlib.AbstractContextManager[Bench]:  # noqa: N803
    """Open the bench of a back end."""
    return importlib.import_module(f"{__name__}.{backend}").opened(directory, RE)
