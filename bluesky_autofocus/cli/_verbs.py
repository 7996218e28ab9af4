# ruff: noqa: T201 - these functions are the command line: printing is what they are for
"""What each verb of the command line does. A verb is the function of its name with an underscore."""

import json
import logging
import math
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
from ophyd.utils import LimitError

from bluesky_autofocus.catalog import CatalogError, open_catalog
from bluesky_autofocus.instruments import MissingExtraError
from bluesky_autofocus.records import Verdict
from bluesky_autofocus.stacks import FocusStack, StackError, read_stack

USER_ERRORS = (CatalogError, StackError, LimitError, MissingExtraError, ValueError, OSError)
"""What a user can mend; anything else is our fault and shows its traceback."""


def demo_(options: Namespace) -> int:
    """Focus a simulated SEM and write a report from databroker."""
    from bluesky_autofocus.clock import WallClock
    from bluesky_autofocus.report import write_report
    from bluesky_autofocus.session import open_session

    def say(line: str) -> None:
        if not options.json:
            print(line, flush=True)

    _quiet()
    say("opening the catalogue and the simulated SEM ...")
    with open_session(
        "sem", catalog=options.catalog, clock=WallClock(speed=4.0), seed=options.seed, show=say
    ) as session:
        sem, run_engine = session.instrument.devices["sem"], session.RE
        dof_um = sem.depth_of_field_um
        say(
            f"focusing from {(sem.working_distance.position - sem.focus_um) / dof_um:+.1f} depths of field "
            "(at 4 times real speed)"
        )
        started_s = time.monotonic()
        run_engine(_look_then_focus(session), sample="demo")
        seconds = time.monotonic() - started_s
        run = session.db[-1]
        verdict = _recorded_verdict(run)
        report = write_report(run, options.report, title="Focusing a simulated SEM")
        error_um = verdict["position_um"] - sem.focus_um
        result = {
            "start_um": verdict["start_um"],
            "found": bool(verdict["found"]),
            "reason": str(verdict["reason"]),
            "position_um": float(verdict["position_um"]),
            "sigma_um": float(verdict["sigma_um"]),
            "true_focus_um": sem.focus_um,
            "error_um": error_um,
            "error_dof": error_um / dof_um,
            "exposures": int(verdict["exposures"]),
            "seconds": seconds,
            "run": run.metadata["start"]["uid"],
            "report": str(report.resolve()),
        }
    if options.json:
        # JSON has no number for what was not found
        print(json.dumps({key: None if value != value else value for key, value in result.items()}))
    else:
        _print_demo(result)
    return 0 if result["found"] else 1


def _look_then_focus(session: Any) -> Any:
    """Take a frame where the microscope stands, so that the report shows what it was like, then focus."""
    from bluesky import preprocessors as bpp

    from bluesky_autofocus.plans import focus_if_blurred
    from bluesky_autofocus.search import BlurTrigger

    instrument = session.instrument

    @bpp.stage_decorator([*instrument.detectors, instrument.axis])
    @bpp.run_decorator(md={"plan_name": "demo", "motors": [instrument.axis.name], "method": "brent"})
    def plan() -> Any:
        return (
            yield from focus_if_blurred(
                instrument.detectors,
                instrument.axis,
                analysis=session.sharpness,
                trigger=BlurTrigger(),
                **instrument.focus_options,
            )
        )

    return plan()


def _print_demo(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False)
    verdict = (
        f"{result['position_um']:.2f} +- {result['sigma_um']:.2f} um" if result["found"] else result["reason"]
    )
    for name, value in (
        ("start", f"{result['start_um']:.2f} um"),
        ("verdict", verdict),
        ("true focus", f"{result['true_focus_um']:.2f} um"),
        ("error", f"{result['error_um']:+.3f} um, {result['error_dof']:+.3f} DOF"),
        ("exposures", str(result["exposures"])),
        ("time", f"{result['seconds']:.1f} s"),
        ("run", result["run"][:8]),
        ("report", result["report"]),
    ):
        table.add_row(name, value)
    Console().print(table)


def _recorded_verdict(run: Any) -> dict[str, Any]:
    from bluesky_autofocus.callbacks import FocusRecord

    return FocusRecord.of(run).verdicts[-1]


def shell_(options: Namespace) -> int:
    """Open IPython with an instrument connected."""
    import IPython
    from traitlets.config import Config

    from bluesky_autofocus.session import start_interactive

    if options.instrument is None and options.config is None:
        raise ValueError("give the name of an instrument, or --config FILE")
    chosen = {
        key: value
        for key, value in vars(options).items()
        if key not in ("verb", "instrument") and value is not None
    }
    namespace, banner = start_interactive(options.instrument, **chosen)
    session = namespace["session"]  # IPython empties the namespace when it ends
    config = Config()
    config.TerminalInteractiveShell.banner1 = banner + "\n"
    try:
        IPython.start_ipython(argv=[], user_ns=namespace, config=config)
    finally:
        session.close()
    return 0


def check_(options: Namespace) -> int:
    """Try an instrument, device by device."""
    from bluesky_autofocus.cli._checking import check

    _quiet()
    return check(options)


def focus_(options: Namespace) -> int:
    """Focus an instrument once."""
    from bluesky_autofocus.cli._checking import focus

    _quiet()
    return focus(options)


def try_(options: Namespace) -> int:
    """Run a method on a recorded stack, one verdict a line."""
    _quiet()
    _configure_try(options)
    stack = read_stack(options.stack, step_um=options.step_um, channel=options.channel)
    starts = options.start_um or np.linspace(stack.positions_um[0], stack.positions_um[-1], 5).tolist()
    for start in starts:
        if not stack.positions_um[0] <= start <= stack.positions_um[-1]:
            raise ValueError(
                f"--start-um {start} is outside the stack, "
                f"{stack.positions_um[0]:g} .. {stack.positions_um[-1]:g} {stack.unit}"
            )
    if not options.json:
        label = "" if stack.focus_index is None else f", labelled focus in plane {stack.focus_index}"
        print(f"{stack.name}: {len(stack.frames)} planes{label}; positions in {stack.unit}")
    with tempfile.TemporaryDirectory() as scratch:
        catalog = open_catalog(options.catalog) if options.record else None
        try:
            for start in starts:
                frames = catalog.frame_directory if catalog else Path(scratch)
                verdict, across = _focus_stack(stack, start, options, frames, catalog)
                _print_try(verdict, stack, across, as_json=options.json)
        finally:
            if catalog is not None:
                catalog.close()
    return 0


def _configure_try(options: Namespace) -> None:
    """Take from a configuration what was not given; a method that needs more than a stack it leaves."""
    if options.config is not None:
        from bluesky_autofocus.configuration import read_configuration

        said = read_configuration(options.config).focus
        if options.method is None and said.method in ("search", "brent", "sweep", "map"):
            options.method = said.method
        for name in ("metric", "range_um", "budget"):
            if getattr(options, name) is None:
                setattr(options, name, getattr(said, name))
        options.dof_um = options.dof_um or said.depth_of_field_um
    options.method = options.method or "search"


def _focus_stack(
    stack: FocusStack, start_um: float, options: Namespace, frames: Path, catalog: Any
) -> tuple[Verdict, Any]:
    """Return the verdict and, where the method is ``map`` and there is one, the focus map."""
    from bluesky import RunEngine

    from bluesky_autofocus.callbacks import FocusMapAnalysis, SharpnessAnalysis
    from bluesky_autofocus.devices import replayed_instrument
    from bluesky_autofocus.frames import install_frame_routing
    from bluesky_autofocus.plans import autofocus

    kind = FocusMapAnalysis if options.method == "map" else SharpnessAnalysis
    analysis = kind(options.metric) if options.metric else kind()
    camera: Any
    z: Any
    camera, z = replayed_instrument(stack, frames, position_um=start_um)
    run_engine = RunEngine(call_returns_result=True)
    install_frame_routing(run_engine)
    run_engine.subscribe(analysis)
    if catalog is not None:
        catalog.subscribe(run_engine)
    chosen: dict[str, Any] = {}
    low_um, high_um = z.limits
    if options.range_um is not None:
        low_um = max(low_um, start_um - options.range_um / 2)
        high_um = min(high_um, start_um + options.range_um / 2)
    if options.method in ("sweep", "map"):
        # a recorded stack can be looked through plane by plane, however irregular its steps
        inside = (stack.positions_um >= low_um) & (stack.positions_um <= high_um)
        chosen["positions_um"] = stack.positions_um[inside].tolist()
        chosen["budget"] = int(inside.sum()) + 1
    else:
        chosen["bounds_um"] = (low_um, high_um)
    if options.budget is not None:
        chosen["budget"] = options.budget
    if options.dof_um is not None:
        chosen["depth_of_field_um"] = options.dof_um
    result = run_engine(
        autofocus([camera], z, analysis=analysis, method=options.method, md={"stack": stack.name}, **chosen)
    )
    verdict = result.plan_result  # type: ignore[union-attr] - call_returns_result makes it one
    across = analysis.map_of(verdict.event_uids) if isinstance(analysis, FocusMapAnalysis) else None
    return verdict, across


def _print_try(verdict: Verdict, stack: FocusStack, across: Any, *, as_json: bool) -> None:
    plane = stack.plane_at(verdict.position_um) if verdict.found else None
    if as_json:
        print(
            json.dumps(
                {
                    "stack": stack.name,
                    "method": verdict.method,
                    "start_um": verdict.start_um,
                    "found": verdict.found,
                    "reason": str(verdict.reason),
                    "position_um": verdict.position_um if verdict.found else None,
                    "sigma_um": None if math.isnan(verdict.sigma_um) else verdict.sigma_um,
                    "plane": plane,
                    "exposures": verdict.exposures,
                    "labelled_plane": stack.focus_index,
                    **({} if across is None else {"map": _without_nan(across.recorded())}),
                }
            )
        )
    elif verdict.found:
        print(
            f"start {verdict.start_um:10.3f}: "
            f"found at {verdict.position_um:10.3f} +- {verdict.sigma_um:.3f}, "
            f"plane {plane}, {verdict.exposures} exposures"
        )
    else:
        print(
            f"start {verdict.start_um:10.3f}: not found ({verdict.reason}), back at {verdict.start_um:.3f}, "
            f"{verdict.exposures} exposures"
        )
    if across is not None and not as_json:
        print(across)


def _without_nan(values: dict[str, Any]) -> dict[str, Any]:
    # JSON has no number for what was not found
    return {key: None if value != value else value for key, value in values.items()}


def analyse_(options: Namespace) -> int:
    """Score the frames of a recorded run again."""
    from bluesky_autofocus.callbacks import SharpnessAnalysis, analyse

    analysis = SharpnessAnalysis(options.metric) if options.metric else SharpnessAnalysis()
    _quiet()
    catalog = open_catalog(options.catalog)
    try:
        for stream, readings in analyse(_find_run(catalog.client, options.run), analysis).items():
            for reading in readings:
                if options.json:
                    value = None if math.isnan(reading.value) else reading.value
                    said = {"stream": stream, "seq_num": reading.seq_num, "value": value}
                    print(json.dumps({**said, "accepted": reading.accepted, "reason": str(reading.reason)}))
                else:
                    print(f"{stream} {reading.seq_num:5d} {reading.value:14.8g} {reading.reason}")
    finally:
        catalog.close()
    return 0


def analyse_remote_(options: Namespace) -> int:
    """Analyse the frames of an instrument in another process."""
    from bluesky_autofocus.cli._answering import serve_analysis

    _quiet()
    return serve_analysis(options)


def collect_(options: Namespace) -> int:
    """Record focal stacks of a simulated slide, or what is missing of them."""
    from bluesky_autofocus.cli._collecting import collect, planned, resumed

    _quiet()
    catalog = open_catalog(options.catalog)
    try:
        plan = planned(options) if options.resume is None else resumed(catalog.client, options.resume)
        return collect(catalog, plan, as_json=options.json)
    finally:
        catalog.close()


def label_(options: Namespace) -> int:
    """Let a person say where recorded stacks are in focus, or which class of focus frames are of."""
    from bluesky_autofocus.cli._labelling import label

    _quiet()
    catalog = open_catalog(options.catalog)
    try:
        return label(catalog, _find_run(catalog.client, options.run), options)
    finally:
        catalog.close()


def predict_(options: Namespace) -> int:
    """Tell the defocus of recorded frames."""
    from bluesky_autofocus.cli._predicting import predict

    return predict(options)


def refocus_(options: Namespace) -> int:
    """Make out-of-focus frames in-focus."""
    from bluesky_autofocus.cli._refocusing import check, refocus

    check(options)
    _quiet()
    return refocus(options, lambda: open_catalog(options.catalog), _find_run)


def train_(options: Namespace) -> int:
    """Train a network from focal stacks in the catalogue."""
    from bluesky_autofocus.cli._training import check, train

    check(options)
    _quiet()
    catalog = open_catalog(options.catalog)
    try:
        if getattr(options, "run", None):
            options.run = [_find_run(catalog.client, name).start["uid"] for name in options.run]
        return train(options, catalog)
    finally:
        catalog.close()


def resume_(options: Namespace) -> int:
    """Go on with a tile scan or a time-lapse that ended early."""
    from bluesky_autofocus.cli._resuming import resume

    _quiet()
    return resume(options, _find_run)


def prune_(options: Namespace) -> int:
    """Delete frames of recorded runs."""
    from bluesky_autofocus.cli._pruning import check, delete

    check(options)
    _quiet()
    catalog = open_catalog(options.catalog)
    try:
        return delete(options, catalog, _find_run)
    finally:
        catalog.close()


def dose_(options: Namespace) -> int:
    """Tell what each field was exposed to."""
    import dataclasses

    from bluesky_autofocus.callbacks import DoseLedger

    _quiet()
    catalog = open_catalog(options.catalog)
    try:
        client = catalog.client
        runs = [_find_run(client, name) for name in options.run] if options.run else client.values()
        for field in DoseLedger.of(runs, keys=options.key, field_um=options.field_um).fields:
            if options.json:
                print(json.dumps(dataclasses.asdict(field)))
            else:
                place = ", ".join(f"{at:.1f}" if isinstance(at, float) else str(at) for at in field.place)
                untimed = f" and {field.untimed} of unknown length" if field.untimed else ""
                print(
                    f"{field.sample or '-':16s} {place or 'place unknown':24s} {field.exposures:6d} exposures"
                    f" {field.dose_s:12.6g} s{untimed}, {len(field.runs)} runs"
                )
    finally:
        catalog.close()
    return 0


def report_(options: Namespace) -> int:
    """Write a page about a run."""
    from bluesky_autofocus.report import write_report

    _quiet()
    catalog = open_catalog(options.catalog)
    try:
        run = _find_run(catalog.client, options.run)
        uid = run.metadata["start"]["uid"]
        print(write_report(run, options.output or Path(f"focus-{uid[:8]}.html")).resolve())
    finally:
        catalog.close()
    return 0


def serve_(options: Namespace) -> int:
    """Serve the catalogue and the monitor page until interrupted."""
    from bluesky_autofocus.cli._serving import serve

    _quiet()
    catalog = open_catalog(options.catalog, port=options.port, address=options.listen, keys=options.keys)
    try:
        return serve(options, catalog, _find_run)
    finally:
        catalog.close()


def _find_run(client: Any, name: str) -> Any:
    # the first characters of a uid may all be digits; no uid is found by fewer than five
    keys: list[str | int] = [name] if len(name) >= 5 else []
    if name.lstrip("-").isdigit():
        keys.append(int(name))
    for key in keys:
        try:
            return client[key]
        except (KeyError, IndexError):
            continue
    raise ValueError(f"there is no run {name} in the catalogue")


def _quiet() -> None:
    """Keep the libraries' own notices off the screen; what a user must know we say ourselves."""
    for name in ("tiled", "httpx", "alembic", "uvicorn", "bokeh", "tornado"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # the RunEngine logs the traceback of every plan that fails; `main` shows what is not the user's
    logging.getLogger("bluesky").setLevel(logging.CRITICAL)
