"""What tile scans and time-lapses share: their options, checked, and the run that they open."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.protocols import Readable
from bluesky.utils import MsgGenerator

from bluesky_autofocus.plans._exposing import versions
from bluesky_autofocus.plans._lighting import lighting_of
from bluesky_autofocus.plans._moving import Approach, Travel, check_reachable, interval_um
from bluesky_autofocus.plans._operation import check_positive
from bluesky_autofocus.plans._protocols import Detectors, FocusAnalysis, FocusAxis, PatternLight
from bluesky_autofocus.plans._tiling._care import Care, Sharp
from bluesky_autofocus.plans._tiling._focusing import Focusing, Method
from bluesky_autofocus.plans._tiling._forecast import Forecast
from bluesky_autofocus.plans._tiling._records import Visited
from bluesky_autofocus.plans._tiling._taking import Taking
from bluesky_autofocus.plans._tiling._tiles import Tile, count_of
from bluesky_autofocus.plans._tiling._visiting import Visits
from bluesky_autofocus.plans._when import AnyOf, EveryExposures, EverySeconds, When

__all__ = ["Options", "acquire", "approach_of", "visits_of"]

POLICIES = ("mark", "surface", "wider", "stop")

SURE_IN_DOF = 0.3
"""Standard deviation of the expected focus up to which a tile is exposed there, in depths of field: 99.9 % of
a normal distribution is then within one of them."""

WIDER = 2.0
"""How many times as wide as the first search the second one is, unless told otherwise."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of both plans, as they were given; described in `tile_scan`."""

    analysis: FocusAnalysis
    depth_of_field_um: float
    travel_um: tuple[float, float]
    focus: str
    focus_options: Mapping[str, Any] | None
    range_um: float | None
    wider: Mapping[str, Any] | None
    on_failure: str | Sequence[str]
    sigma_um: float | None
    refocus_every: int | None
    refocus_every_s: float | None
    temperature: Readable | None
    watch: FocusAnalysis | None
    blurred_below: float
    sharp_above: float
    patience: int
    light: PatternLight | None
    channels: Sequence[Any] | None
    z_offsets_um: Sequence[float]
    approach: Approach | Mapping[str, Any]
    stage_approach: Approach | Mapping[str, Any]
    timeout_s: float

    @property
    def policies(self) -> list[str]:
        """What to do where focus is not found, one after the other, to the last of them."""
        given = [self.on_failure] if isinstance(self.on_failure, str) else list(self.on_failure)
        if not given or not set(given) <= set(POLICIES) or "wider" in given[1:] or len(given) > 2:
            raise ValueError(
                f"on_failure must be one of {', '.join(POLICIES)}, or wider and another one; "
                f"got {self.on_failure!r}"
            )
        if len(given) == 2 and given[0] != "wider":
            raise ValueError(f"on_failure: nothing comes after {given[0]!r}, got {self.on_failure!r}")
        return [*given, "mark"] if given == ["wider"] else given

    @property
    def when(self) -> When:
        """At the latest when to focus."""
        conditions: list[When] = []
        if self.refocus_every is not None:
            conditions.append(EveryExposures(self.refocus_every))
        if self.refocus_every_s is not None:
            conditions.append(EverySeconds(self.refocus_every_s))
        return AnyOf(tuple(conditions))

    @property
    def lit(self) -> list[Any]:
        """The channels; one without a name where the light stays as it is."""
        if self.light is None:
            if self.channels:
                raise ValueError(
                    f"channels are shown by a light: got {list(map(str, self.channels))} and none"
                )
            return [None]
        if self.channels is None:
            return [None]
        if not self.channels:
            raise ValueError("channels must be one or more patterns, got none")
        return list(self.channels)

    def methods(self) -> tuple[Method, Method]:
        """Return how to focus, and how where that fails."""
        low_um, high_um = interval_um("travel_um", self.travel_um)
        check_positive("range_um", self.range_um)
        range_um = high_um - low_um if self.range_um is None else self.range_um
        first = Method(self.focus, range_um, dict(self.focus_options or {}))
        wider = {"focus": self.focus, "range_um": WIDER * range_um, **(self.wider or {})}
        check_positive("wider: range_um", wider["range_um"])
        own = {key: value for key, value in wider.items() if key not in ("focus", "range_um")}
        inherited = first.options if wider["focus"] == self.focus else {}
        return first, Method(wider["focus"], wider["range_um"], {**inherited, **own})

    def cares(self, tiles_share: bool) -> Callable[[Tile], Care]:
        """Return what gives the account of a tile: one of its own, or one that all share."""
        sure_um = SURE_IN_DOF * self.depth_of_field_um if self.sigma_um is None else self.sigma_um
        check_positive("sigma_um", sure_um)
        memory = 9 if tiles_share else 1
        sharp = Sharp(self.blurred_below, self.sharp_above, count_of("patience", self.patience), memory)
        tries_always = self.policies[-1] != "surface"
        when = self.when

        def make() -> Care:
            return Care(when, sure_um, sharp, tries_always=tries_always)

        make()  # what makes no sense is noticed now
        cares: dict[int, Care] = {}

        def care_of(tile: Tile) -> Care:
            key = 0 if tiles_share else tile.index
            if key not in cares:
                cares[key] = make()
            return cares[key]

        return care_of


def visits_of(
    detectors: Detectors,
    axis: FocusAxis,
    options: Options,
    *,
    stage: Sequence[FocusAxis],
    tiles: Sequence[Tile],
    forecast: Forecast,
    tiles_share: bool,
    now_s: Callable[[], float],
) -> MsgGenerator[Visits]:
    """Check everything and return what visits the tiles; nothing moves.

    Raises
    ------
    ValueError, TypeError, UnknownMethodError
        If an option makes no sense.
    LimitError, PatternError
        If a position is beyond the limits of its axis, or a channel is no pattern.
    """
    check_positive("depth_of_field_um", options.depth_of_field_um)
    travel_um = interval_um("travel_um", options.travel_um)
    approach = approach_of("approach", options.approach)
    stage_approach = approach_of("stage_approach", options.stage_approach)
    policies, channels, care_of = options.policies, options.lit, options.cares(tiles_share)
    first, wider = options.methods()
    focusing = Focusing(
        detectors,
        axis,
        analysis=options.analysis,
        first=first,
        wider=wider,
        depth_of_field_um=options.depth_of_field_um,
        travel_um=travel_um,
        approach=approach,
        light=options.light,
        timeout_s=options.timeout_s,
    )
    offsets_um = [float(offset) for offset in options.z_offsets_um]
    if not offsets_um or not all(map(math.isfinite, offsets_um)):
        raise ValueError(f"z_offsets_um must be one or more finite distances, got {options.z_offsets_um!r}")
    if len(stage) not in (0, 2):
        raise ValueError(f"stage must be two axes, x and y, got {stage!r}")

    start_um = yield from bps.rd(axis, default_value=None)
    dry_run = start_um is None
    if start_um is None:
        start_um = sum(travel_um) / 2
    if not travel_um[0] <= start_um <= travel_um[1]:
        raise ValueError(f"travel_um {travel_um} must contain where {axis.name} stands, {start_um} um")
    travel = Travel(axis, travel_um, float(start_um), approach)
    yield from check_reachable(axis, travel.reached(travel_um))
    sideways = []
    for one, places_um in zip(
        stage, zip(*((tile.x_um, tile.y_um) for tile in tiles), strict=True), strict=False
    ):
        at_um = yield from bps.rd(one, default_value=places_um[0])
        overshoot_um = stage_approach.direction * stage_approach.overshoot_um
        ends_um = [min(*places_um, at_um), max(*places_um, at_um)]
        reach_um = min(*ends_um, ends_um[0] - overshoot_um), max(*ends_um, ends_um[1] - overshoot_um)
        moves = Travel(one, reach_um, float(at_um), stage_approach)
        yield from check_reachable(one, moves.reached(ends_um))
        sideways.append(moves)
    lighting = None
    if options.light is not None and options.channels is not None:
        yield from check_reachable(options.light, channels)  # type: ignore[arg-type] - asks it about patterns
        lighting = yield from lighting_of(options.light)
    taking = Taking(
        detectors=detectors,
        travel=travel,
        beside=[one for one in (options.light, *stage, options.temperature) if one is not None],
        lighting=lighting,
        channels=channels,
        offsets_um=offsets_um,
        watch=options.watch,
        timeout_s=options.timeout_s,
    )
    return Visits(
        taking=taking,
        sideways=sideways,
        focusing=focusing,
        on_failure=policies,
        forecast=forecast,
        care_of=care_of,
        depth_of_field_um=options.depth_of_field_um,
        temperature=options.temperature,
        now_s=now_s,
        dry_run=dry_run,
    )


def acquire(
    visits: Visits,
    body: Callable[[], MsgGenerator[None]],
    *,
    detectors: Detectors,
    axis: FocusAxis,
    stage: Sequence[FocusAxis],
    options: Options,
    metadata: dict[str, Any],
) -> MsgGenerator[Visited]:
    """Open a run, visit, and let light, axis and stage be as they were, however it ends."""
    lights = [] if options.light is None else [options.light]
    md = {
        "detectors": [detector.name for detector in detectors],
        "motors": [axis.name, *(one.name for one in stage)],
        "versions": versions(),
        "hints": {"dimensions": [([one.name], "primary") for one in stage] or [(["time"], "primary")]},
        **metadata,
    }

    @bpp.stage_decorator([*detectors, axis, *stage, *lights])
    @bpp.run_decorator(md=md)
    def acquiring() -> MsgGenerator[None]:
        if not visits.dry_run:
            for analysis in filter(None, (options.analysis, options.watch)):
                analysis.require_open_run()
        try:
            yield from bps.checkpoint()
            yield from body()
            yield from visits.put_back()
        except Exception:
            yield from visits.put_back()
            raise

    yield from acquiring()
    return visits.visited


def approach_of(name: str, given: Approach | Mapping[str, Any]) -> Approach:
    """Return an approach, also from its fields, as a queue has them.

    Raises
    ------
    ValueError
        If they make none.
    """
    if isinstance(given, Approach):
        return given
    try:
        return Approach(**given)
    except TypeError:
        fields = ", ".join(field.name for field in dataclasses.fields(Approach))
        raise ValueError(f"{name} must be an Approach or its fields {fields}, got {given!r}") from None
