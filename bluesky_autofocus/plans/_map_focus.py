"""Focus, and record where each tile of the frame was in focus meanwhile."""

import asyncio
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from bluesky import plan_stubs as bps
from bluesky.utils import MsgGenerator, plan

from bluesky_autofocus.plans._exposing import _Record, _record
from bluesky_autofocus.plans._moving import Approach, Travel
from bluesky_autofocus.plans._protocols import Detectors, FocusAnalysis, FocusAxis, FocusStub
from bluesky_autofocus.plans._sweep import sweep_focus
from bluesky_autofocus.records import Verdict

__all__ = ["MappingAnalysis", "map_focus"]


class RecordedMap(Protocol):
    """Where the tiles of a frame are in focus."""

    def recorded(self) -> Mapping[str, Any]:
        """Return what is recorded of it, the same keys and types for all."""
        ...


@runtime_checkable
class MappingAnalysis(FocusAnalysis, Protocol):
    """An analysis that scores the tiles of each frame beside the whole, such as `FocusMapAnalysis`."""

    def map_of(self, event_uids: Sequence[str]) -> RecordedMap | None:
        """Return the map that these exposures make, None where they are too few."""
        ...


@plan
def map_focus(
    detectors: Detectors,
    axis: FocusAxis,
    *,
    analysis: MappingAnalysis,
    by: FocusStub | str = sweep_focus,
    **options: Any,
) -> MsgGenerator[Verdict]:
    """Focus, and record tilt, curvature and astigmatism of the frame from the same exposures; opens no run.

    The map is recorded in the stream ``focus_map``, after the verdict of `by`. It is
    ``analysis.focus_map()`` too. Where the exposures were too few for one none is recorded.

    Parameters
    ----------
    detectors : sequence of Readable
        The camera first.
    axis : FocusAxis
        What is moved, in um.
    analysis : MappingAnalysis
        A `FocusMapAnalysis`, subscribed to the RunEngine.
    by : callable or str
        The stub that focuses, or its name in `METHODS`. A sweep tells most of tiles that are in focus
        elsewhere than the frame as a whole; a search exposes mostly where that is.
    options
        Passed to `by`.

    Returns
    -------
    Verdict
        Of `by`.

    Raises
    ------
    ValueError
        If the analysis scores no tiles; before anything moves.
    TypeError
        If `by` takes no such option; before anything moves.
    ValueError, LimitError, NotSubscribedError, AnalysisError
        As `by` does.
    """
    if not isinstance(analysis, MappingAnalysis):
        raise ValueError(f"a focus map takes a FocusMapAnalysis, which scores tiles; got {analysis!r}")
    stub = _stub_of(by)
    inspect.signature(stub).bind(detectors, axis, analysis=analysis, **options)
    verdict = yield from stub(detectors, axis, analysis=analysis, **options)
    maps: list[RecordedMap | None] = []

    async def fit() -> None:
        # fitting peaks takes a part of a second, in which the RunEngine goes on serving pause and abort
        maps.append(await asyncio.to_thread(analysis.map_of, verdict.event_uids))

    try:
        yield from bps.checkpoint()
        yield from bps.wait_for([fit])
        if maps and maps[-1] is not None:
            yield from _record(_RecordedMap(maps[-1]), "focus_map")
    except Exception:
        if verdict.found:
            yield from _way_back(axis, verdict, options).put_back()
        raise
    return verdict


def _stub_of(by: FocusStub | str) -> FocusStub:
    if not isinstance(by, str):
        return by
    # that module needs this one, which is among the methods
    from bluesky_autofocus.plans._autofocus import method_named

    return method_named(by)


def _way_back(axis: FocusAxis, verdict: Verdict, options: Mapping[str, Any]) -> Travel:
    way_um = sorted((verdict.start_um, verdict.position_um))
    low_um, high_um = verdict.parameters.get("travel_um", way_um)
    return Travel(axis, (low_um, high_um), verdict.start_um, options.get("approach", Approach()))


class _RecordedMap(_Record):
    def __init__(self, focus_map: RecordedMap) -> None:
        super().__init__("focus_map")
        self._map = focus_map

    @property
    def hints(self) -> dict[str, list[str]]:
        return {"fields": ["focus_map_tilt_x_um", "focus_map_tilt_y_um", "focus_map_sag_um"]}

    def fields(self) -> dict[str, Any]:
        return dict(self._map.recorded())
