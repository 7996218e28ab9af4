"""The plan that records focal stacks of many fields, to train and to judge networks by."""

import dataclasses
import math
from collections.abc import Callable, Collection, Sequence
from numbers import Real
from typing import Any
from uuid import uuid4

from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.protocols import Movable, Readable
from bluesky.utils import CustomPlanMetadata, MsgGenerator, get_hinted_fields, plan

from bluesky_autofocus.leds import Pattern, Single
from bluesky_autofocus.plans._exposing import _Record, _record, versions
from bluesky_autofocus.plans._lighting import Lighting, lighting_of
from bluesky_autofocus.plans._moving import Approach, Travel, check_reachable, interval_um
from bluesky_autofocus.plans._operation import check_positive, put_back_all
from bluesky_autofocus.plans._protocols import Detectors, FocusAxis, PatternLight

__all__ = ["collect_focal_stacks"]

LEAST_PLANES = 3

TRAINING_PATTERNS: Sequence[Pattern | str] = ("half_annulus_top", Single(0.4, 0.0))
"""What a single-shot network is trained with: its ground truth, and what it will see."""


@plan
def collect_focal_stacks(
    detectors: Detectors,
    axis: FocusAxis,
    *,
    leds: PatternLight | None = None,
    stage: Sequence[FocusAxis],
    positions: Sequence[Sequence[float]],
    sample: str,
    patterns: Sequence[Pattern | str] | None = None,
    z_um: tuple[float, float] = (-30.0, 30.0),
    step_um: float = 1.0,
    skip: Collection[int] = (),
    collection: str | None = None,
    resume_of: str | None = None,
    exposure: Movable[float] | None = None,
    exposures_s: Sequence[float] | None = None,
    truth: Readable | None = None,
    travel_um: tuple[float, float] | None = None,
    approach: Approach = Approach(),
    md: CustomPlanMetadata | None = None,
) -> MsgGenerator[str]:
    """Record a focal stack of each of many fields, at each plane under each illumination; in one run.

    Every exposure is an Event of the stream ``stack``, with ``field_number``, ``field_plane`` and
    ``field_pattern`` (which of `patterns`). When a field is complete an Event of the stream ``field`` says
    so: a run that ended early is continued by another one of the same `collection` that skips those
    (`bluesky_autofocus.dataset.completed_fields`).

    Illumination, exposure time, axis and stage are put back however it ends.

    Parameters
    ----------
    detectors : sequence of Readable
        The camera first.
    axis : FocusAxis
        The focus axis, in um.
    leds : PatternLight, optional
        The illumination. Without it the light is left as it is: there is one pattern, without a name, and
        `field_pattern` is 0.
    stage : sequence of FocusAxis
        The axes that move the specimen sideways, x and y, in um.
    positions : sequence of sequence of float
        The fields, (x, y) each, or (x, y, z) with the position where focus is expected. Numbered from 0.
    sample : str
        Name of the specimen. Fields of one specimen are alike: training and validation are told apart by it.
    patterns : sequence of Pattern or str, optional
        The illuminations of `leds`; by default a half annulus and one LED at NA 0.4. A stack under a half
        annulus has its ground truth in itself. Not to be given without `leds`.
    z_um : tuple of float
        Lowest and highest plane, relative to where focus is expected, else to where the axis is at first.
    step_um : float
        Distance of the planes. They are exposed upwards, or as `approach` says.
    skip : collection of int
        Fields that are there already.
    collection : str, optional
        What this run and those that continue it go by; a new one by default.
    resume_of : str, optional
        Uid of the run that this one continues, for the record.
    exposure : Movable, optional
        The exposure time of the camera, in s, set for each pattern to one of `exposures_s`.
    exposures_s : sequence of float, optional
        One a pattern.
    truth : Readable, optional
        Reads one number, the position of focus in um, as simulators know it. It is read into every Event of
        the stack; the metadata's ``truth_key`` names its key.
    travel_um : tuple of float, optional
        No move of the axis leaves this range; by default the planes and the start.
    approach : Approach
        From which side planes are approached.
    md : dict, optional
        Metadata of the run; it wins over what the plan itself says.

    Returns
    -------
    str
        The collection.

    Raises
    ------
    ValueError
        If an argument makes no sense; before anything moves.
    LimitError, PatternError
        If a position is beyond the limits of its axis or a pattern is none; before anything moves.
    """
    fields = _fields(positions, skip)
    low_um, high_um = interval_um("z_um", z_um)
    check_positive("step_um", step_um)
    heights = [low_um + i * step_um for i in range(math.floor((high_um - low_um) / step_um + 1e-9) + 1)]
    if len(heights) < LEAST_PLANES:
        raise ValueError(f"z_um {z_um!r} and step_um {step_um!r} give fewer than {LEAST_PLANES} planes")
    if approach.direction < 0:
        heights.reverse()
    if len(stage) != 2:
        raise ValueError(f"stage must be two axes, x and y, got {stage!r}")
    if not (isinstance(sample, str) and sample):
        raise ValueError(f"sample must be the name of the specimen, got {sample!r}")
    if leds is None:
        if patterns:
            raise ValueError(f"patterns are shown by leds: got {list(map(str, patterns))} and no leds")
        shown, texts = [], [""]
    else:
        shown = list(TRAINING_PATTERNS if patterns is None else patterns)
        texts = [str(pattern) for pattern in shown]
    if not texts or len(set(texts)) < len(texts):
        raise ValueError(f"patterns must be one or more different ones, got {texts}")
    if (exposure is None) != (exposures_s is None):
        raise ValueError("give both exposure (what sets the exposure time) and exposures_s, or neither")
    if exposures_s is not None:
        if len(exposures_s) != len(texts):
            raise ValueError(f"exposures_s must be one for each of {texts}, got {list(exposures_s)}")
        for seconds in exposures_s:
            check_positive("exposures_s", seconds)
    if travel_um is not None:
        travel_um = interval_um("travel_um", travel_um)
    truth_key = None if truth is None else (yield from _key_of_number(truth))

    collection = collection or uuid4().hex[:8]
    metadata = {
        "plan_name": "collect_focal_stacks",
        "detectors": [detector.name for detector in detectors],
        "motors": [axis.name, *(one.name for one in stage)],
        "plan_args": {
            "detectors": list(map(repr, detectors)),
            "axis": repr(axis),
            "leds": repr(leds),
            "stage": list(map(repr, stage)),
            "exposure": repr(exposure),
            "truth": repr(truth),
            "travel_um": travel_um,
            "approach": dataclasses.asdict(approach),
        },
        "collection": collection,
        "sample": sample,
        "positions": [list(map(float, position)) for position in positions],
        "patterns": texts,
        "exposures_s": None if exposures_s is None else list(map(float, exposures_s)),
        "z_um": [low_um, high_um],
        "step_um": float(step_um),
        "fields": sorted(fields),
        "num_points": len(fields) * len(heights) * len(texts),
        "versions": versions(),
        "hints": {"dimensions": [([axis.name], "stack")]},
        **({} if resume_of is None else {"resume_of": resume_of}),
        **({} if truth_key is None else {"truth_key": truth_key}),
        **(md or {}),
    }

    start_um = yield from bps.rd(axis, default_value=0.0)
    planes = {
        number: [(float(place[2]) if len(place) == 3 else start_um) + height for height in heights]
        for number, place in fields.items()
    }
    everywhere = [start_um, *(plane for one in planes.values() for plane in one)]
    overshoot_um = approach.direction * approach.overshoot_um
    turned = [position - overshoot_um for position in everywhere[1:]]
    reach_um = travel_um or (min(everywhere + turned), max(everywhere + turned))
    if not reach_um[0] <= min(everywhere) <= max(everywhere) <= reach_um[1]:
        raise ValueError(
            f"travel_um {reach_um} must contain the planes and the start, "
            f"{min(everywhere):g} .. {max(everywhere):g} um"
        )
    travel = Travel(axis, reach_um, start_um, approach)
    yield from check_reachable(axis, travel.reached((min(everywhere), max(everywhere))))
    sideways = []
    for index, one in enumerate(stage):
        at_um = yield from bps.rd(one, default_value=0.0)
        wanted = [float(place[index]) for place in fields.values()]
        yield from check_reachable(one, wanted)
        sideways.append(Travel(one, (min(*wanted, at_um), max(*wanted, at_um)), at_um, Approach()))
    lighting: Lighting | None = None
    if leds is not None:
        yield from check_reachable(leds, shown)  # type: ignore[arg-type] - asks it about patterns
        lighting = yield from lighting_of(leds)
    timing: Lighting | None = None
    if exposure is not None:
        yield from check_reachable(exposure, exposures_s or ())  # type: ignore[arg-type]
        # an exposure time is set for a while as a pattern is
        timing = yield from lighting_of(exposure)  # type: ignore[arg-type]

    lights = [] if leds is None else [leds]
    # one that is a detector as well is read with those
    truths = [] if truth is None or truth in detectors else [truth]

    def expose(number: int, plane: int, pattern: int) -> MsgGenerator[None]:
        if timing is not None and exposures_s is not None:
            yield from timing.show(exposures_s[pattern])  # type: ignore[arg-type]
        if lighting is not None:
            yield from lighting.show(shown[pattern])
        place = _Place({"number": number, "plane": plane, "pattern": pattern})
        yield from bps.trigger_and_read([*detectors, *lights, axis, *stage, *truths, place], name="stack")
        yield from bps.checkpoint()

    def collect() -> MsgGenerator[None]:
        yield from bps.checkpoint()
        for number, place in fields.items():
            for moves, position in zip(sideways, place[:2], strict=True):
                yield from moves.to(float(position))
            for plane, position in enumerate(planes[number]):
                yield from travel.to(position)
                for pattern in range(len(texts)):
                    yield from expose(number, plane, pattern)
            complete = {"number": number, "exposures": len(heights) * len(texts)}
            yield from _record(_Complete(complete), "field")
            yield from bps.checkpoint()

    put_back: list[Callable[[], MsgGenerator[None]]] = [
        changed.put_back for changed in (lighting, timing) if changed is not None
    ]
    put_back += [moves.undo for moves in (travel, *sideways)]

    @bpp.stage_decorator([*detectors, axis, *lights, *stage])
    @bpp.run_decorator(md=metadata)
    def collecting() -> MsgGenerator[None]:
        try:
            yield from collect()
            yield from put_back_all(put_back)
        except Exception:
            yield from put_back_all(put_back)
            raise

    yield from collecting()
    return collection


def _fields(positions: Sequence[Sequence[float]], skip: Collection[int]) -> dict[int, Sequence[float]]:
    """Return the fields to collect by number."""
    for position in positions:
        if len(position) not in (2, 3) or not all(map(math.isfinite, position)):
            raise ValueError(f"positions must be finite (x, y) or (x, y, z) in um, got {position!r}")
    unknown = sorted(set(skip) - set(range(len(positions))))
    if unknown:
        raise ValueError(f"skip names fields that are not in positions: {unknown}")
    fields = {number: place for number, place in enumerate(positions) if number not in skip}
    if not fields:
        raise ValueError(f"there is no field to collect: {len(positions)} positions, {len(skip)} to skip")
    return fields


def _key_of_number(device: Readable) -> MsgGenerator[str]:
    """Return the key under which a device reads its only number, or the only one that it hints at."""
    reading = yield from bps.read(device)
    keys = get_hinted_fields(device) or list(reading or [device.name])
    if not reading and len(keys) == 1:  # a dry run
        return keys[0]
    values = [reading[key]["value"] for key in keys if key in reading]
    if len(keys) != 1 or not (len(values) == 1 and _is_number(values[0])):
        raise ValueError(f"truth must read one number, but {device.name} reads {values} as {keys}")
    return keys[0]


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


class _Numbers(_Record):
    """Numbers of a field, as if a device read them."""

    def __init__(self, numbers: dict[str, int]) -> None:
        super().__init__("field")
        self._numbers = numbers

    def fields(self) -> dict[str, Any]:
        return self._numbers


class _Place(_Numbers):
    """Which exposure of which field this is."""


class _Complete(_Numbers):
    """Which field is complete, and how many exposures that took."""
