"""The plan that opens a run and focuses by a named method."""

import inspect
from typing import Any

from bluesky import preprocessors as bpp
from bluesky.utils import CustomPlanMetadata, MsgGenerator, plan

from bluesky_autofocus.plans._approach import approach_focus
from bluesky_autofocus.plans._beside import focus_beside
from bluesky_autofocus.plans._brent import brent_focus
from bluesky_autofocus.plans._exposing import versions
from bluesky_autofocus.plans._key_frame import coarse_fine_focus, key_frame_focus
from bluesky_autofocus.plans._map_focus import map_focus
from bluesky_autofocus.plans._protocols import Detectors, FocusAnalysis, FocusAxis, FocusStub
from bluesky_autofocus.plans._search import search_focus
from bluesky_autofocus.plans._single_shot import single_shot_focus
from bluesky_autofocus.plans._sweep import sweep_focus
from bluesky_autofocus.plans._two_exposure import two_exposure_focus
from bluesky_autofocus.plans._two_led import two_led_focus
from bluesky_autofocus.records import Verdict

__all__ = ["METHODS", "UnknownMethodError", "autofocus", "register_method"]

METHODS: dict[str, FocusStub] = {
    "brent": brent_focus,
    "search": search_focus,
    "sweep": sweep_focus,
    "single_shot": single_shot_focus,
    "two_led": two_led_focus,
    "two_exposure": two_exposure_focus,
    "key_frame": key_frame_focus,
    "coarse_fine": coarse_fine_focus,
    "approach": approach_focus,
    "beside": focus_beside,
    "map": map_focus,
}
"""The focusing stubs by the names that plans, the command line and the queueserver use."""


class UnknownMethodError(ValueError):
    """No focusing stub is registered under that name."""


def register_method(name: str, stub: FocusStub) -> None:
    """Make a focusing stub of your own known under a name.

    Raises
    ------
    ValueError
        If the name is taken by another stub.
    """
    if METHODS.setdefault(name, stub) is not stub:
        raise ValueError(f"the method {name!r} is already {METHODS[name]!r}")


def method_named(name: str) -> FocusStub:
    """Return the focusing stub of that name.

    Raises
    ------
    UnknownMethodError
        Naming the methods there are.
    """
    if name not in METHODS:
        raise UnknownMethodError(f"unknown method {name!r}; there are {', '.join(sorted(METHODS))}")
    return METHODS[name]


@plan
def autofocus(
    detectors: Detectors,
    axis: FocusAxis,
    *,
    analysis: FocusAnalysis,
    method: str = "search",
    md: CustomPlanMetadata | None = None,
    **options: Any,
) -> MsgGenerator[Verdict]:
    """Focus in a run of its own.

    Parameters
    ----------
    detectors : sequence of Readable
        The camera first.
    axis : FocusAxis
        What is moved, in um.
    analysis : FocusAnalysis
        Judges the frames; subscribed to the RunEngine.
    method : str
        One of `METHODS`.
    md : dict, optional
        Metadata of the run; it wins over what the plan itself says.
    options
        Of the stub: ``bounds_um``, ``budget`` ... A light that the stub sets, its ``leds``, is staged like
        the detectors.

    Returns
    -------
    Verdict
        Also recorded in the stream ``verdict``.

    Raises
    ------
    UnknownMethodError
        Naming the methods there are; before the run opens.
    TypeError
        If the method takes no such option; before the run opens.
    ValueError, LimitError, NotSubscribedError
        As the stub does; before anything moves.
    """
    stub = method_named(method)
    inspect.signature(stub).bind(detectors, axis, analysis=analysis, **options)
    metadata = {
        "plan_name": "autofocus",
        "detectors": [detector.name for detector in detectors],
        "motors": [axis.name],
        "plan_args": {
            "detectors": list(map(repr, detectors)),
            "axis": repr(axis),
            "analysis": analysis.name,
            "method": method,
            **{key: repr(value) for key, value in options.items()},
        },
        "method": method,
        "versions": versions(),
        "hints": {"dimensions": [([axis.name], f"focus_{method}")]},
        **(md or {}),
    }

    verdicts = []  # what a run decorator returns is the uid of the run

    lights = [options["leds"]] if "leds" in options else []

    @bpp.stage_decorator([*detectors, axis, *lights])
    @bpp.run_decorator(md=metadata)
    def focusing() -> MsgGenerator[None]:
        verdicts.append((yield from stub(detectors, axis, analysis=analysis, **options)))

    yield from focusing()
    return verdicts[0]
