# ruff: noqa: T201 - this is the command line: printing is what it is for
"""Collect focal stacks on a simulated microscope, and go on with a collection that was cut short."""

import dataclasses
import json
import math
from argparse import Namespace
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from bluesky import RunEngine

from bluesky_autofocus.callbacks import CollectionProgress
from bluesky_autofocus.catalog import Catalog
from bluesky_autofocus.cli._interrupting import INTERRUPTED, completed
from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.dataset import completed_fields, find_collections
from bluesky_autofocus.frames import install_frame_routing
from bluesky_autofocus.instruments import make_instrument
from bluesky_autofocus.leds import Single
from bluesky_autofocus.plans import collect_focal_stacks

__all__ = ["collect", "planned", "resumed"]

IN_FOCUS = {"microscope": {"z_um": 0.0}, "smear": {"defocus_um": 0.0}}
"""Options of the instruments that can collect, for their axis to stand near focus at first."""


@dataclasses.dataclass(frozen=True)
class Collecting:
    """What to collect, and what of it is there."""

    collection: str
    sample: str
    instrument: str
    slide: Mapping[str, Any]
    fields: int
    patterns: list[str]
    z_um: tuple[float, float]
    step_um: float
    skip: frozenset[int] = frozenset()
    resume_of: str | None = None


def planned(options: Namespace) -> Collecting:
    """Return a new collection as the options of the command have it."""
    if options.fields < 1:
        raise ValueError(f"--fields must be at least 1, got {options.fields}")
    if options.range_um is not None and not options.range_um > 0:
        raise ValueError(f"--range-um must be positive, got {options.range_um}")
    smear = options.instrument == "smear"
    for option, given in (("--kind", options.kind), ("--pattern", options.pattern)):
        if smear and given is not None:
            raise ValueError(f"{option} is for --instrument microscope, got {given!r} for smear")
    kind = "smear" if smear else options.kind or "cells"
    frame_px = (900 if smear else 512) if options.frame_px is None else options.frame_px
    slide = {"seed": options.seed, "frame_px": frame_px}
    return Collecting(
        collection=uuid4().hex[:8],
        sample=options.sample or f"{kind} {options.seed}",
        instrument=options.instrument,
        slide=slide if smear else {"kind": kind, **slide},
        fields=options.fields,
        patterns=[] if smear else options.pattern or ["half_annulus_top", str(Single(0.4, 0.0))],
        z_um=_planes_um(options.range_um, smear),
        step_um=options.step_um,
    )


def _planes_um(range_um: float | None, smear: bool) -> tuple[float, float]:
    """Return the lowest and the highest plane: of a smear by default as many of each class of focus."""
    if smear and range_um is None:
        from bluesky_autofocus.simulation import CLASS_WIDTH_UM

        return -2.5 * CLASS_WIDTH_UM, 4.5 * CLASS_WIDTH_UM
    range_um = 30.0 if range_um is None else range_um
    return -range_um, range_um


def resumed(client: Any, collection: str) -> Collecting:
    """Return what a collection in the catalogue was to be, and what of it is complete."""
    *_, newest = find_collections(client, collections=[collection])
    start = newest.start
    if "simulated_slide" not in start:
        raise ValueError(f"collection {collection} was recorded by something else than this command")
    return Collecting(
        collection=collection,
        sample=start["sample"],
        # those of old do not say
        instrument=start.get("simulated_instrument", "microscope"),
        slide=dict(start["simulated_slide"]),
        fields=len(start["positions"]),
        patterns=list(start["patterns"]),
        z_um=(start["z_um"][0], start["z_um"][1]),
        step_um=start["step_um"],
        skip=frozenset(completed_fields(client, collection)),
        resume_of=start["uid"],
    )


def collect(catalog: Catalog, plan: Collecting, *, as_json: bool) -> int:
    """Record the fields that are missing; return the exit status."""

    def say(line: str, **data: Any) -> None:
        print(json.dumps({"collection": plan.collection, **data}) if as_json else line, flush=True)

    missing = plan.fields - len(plan.skip)
    resume = f"bluesky-autofocus collect --resume {plan.collection}"
    say(
        f"collection {plan.collection}, sample {plan.sample}: {missing} of {plan.fields} fields to record\n"
        f"should it be cut short: {resume}",
        sample=plan.sample,
        fields=plan.fields,
        missing=missing,
    )
    if missing:
        instrument = make_instrument(
            plan.instrument,
            catalog.frame_directory,
            VirtualClock(),
            **IN_FOCUS[plan.instrument],
            **plan.slide,
        )
        run_engine = RunEngine()
        install_frame_routing(run_engine)
        catalog.subscribe(run_engine)
        progress = CollectionProgress(
            make_bar=(lambda **_: None) if as_json else None,
            completed=(lambda number: say("", field=number)) if as_json else None,
        )
        run_engine.subscribe(progress)
        if not completed(run_engine, _collecting(instrument, plan)):
            say(f"interrupted; to go on: {resume}", complete=False)
            return INTERRUPTED
    say(f"collection {plan.collection} is complete: {plan.fields} fields", complete=True)
    return 0


def _collecting(instrument: Any, plan: Collecting) -> Any:
    microscope = instrument.devices["microscope"]
    # not the same noise again
    microscope.reseed((microscope.seed, 3, len(plan.skip)))
    return collect_focal_stacks(
        instrument.detectors,
        instrument.axis,
        stage=(microscope.x, microscope.y),
        positions=_places(plan.fields, microscope.field_um),
        sample=plan.sample,
        z_um=plan.z_um,
        step_um=plan.step_um,
        skip=sorted(plan.skip),
        collection=plan.collection,
        resume_of=plan.resume_of,
        md={"simulated_instrument": plan.instrument, "simulated_slide": dict(plan.slide)},
        **({"truth": microscope.truth.focus_um} if plan.instrument == "smear" else _light(microscope, plan)),
    )


def _light(microscope: Any, plan: Collecting) -> dict[str, Any]:
    """Return the options of the plan that make frames equally bright, however many LEDs are on."""
    leds, exposure = microscope.leds, microscope.camera.exposure_s
    light = [float(leds.geometry.irradiance[list(leds.select(text))].sum()) for text in plan.patterns]
    if not all(light):
        raise ValueError(f"--pattern must give light, got {plan.patterns[light.index(0.0)]!r}")
    return {
        "leds": leds,
        "patterns": plan.patterns,
        "exposure": exposure,
        "exposures_s": [exposure.get() / one for one in light],
    }


def _places(count: int, pitch_um: tuple[float, float]) -> list[tuple[float, float]]:
    """Return a square of fields about the centre of the slide, row by row, to and fro."""
    columns = math.ceil(math.sqrt(count))
    places = []
    for number in range(count):
        row, column = divmod(number, columns)
        column = columns - 1 - column if row % 2 else column
        places.append(((column - columns // 2) * pitch_um[0], (row - columns // 2) * pitch_um[1]))
    return places
