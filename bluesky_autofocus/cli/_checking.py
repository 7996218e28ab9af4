# ruff: noqa: T201 - this is the command line: printing is what it is for
"""What `check` and `focus` do: try an instrument device by device, and focus it once."""

import argparse
import copy
import json
import math
import sys
import tomllib
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bluesky_autofocus.cli._interrupting import INTERRUPTED, completed

__all__ = ["add_check", "add_focus", "check", "focus"]

PROPOSED_DOF = 10.0
"""To either side, in depths of field."""


def add_check(verbs: Any, add_catalog: Callable[[Any], None], add_json: Callable[[Any], None]) -> None:
    """Add the verb that tries an instrument."""
    verb = verbs.add_parser("check", help="try an instrument device by device, and write its configuration")
    _add_instrument(verb)
    verb.add_argument(
        "--range-um", type=float, nargs=2, metavar=("LO", "HI"), help="within which the axis may be moved"
    )
    verb.add_argument("--yes", action="store_true", help="do not ask")
    verb.add_argument("--planes", type=int, default=21, help="frames along the range, each way")
    verb.add_argument("--watch-s", type=float, default=1.0, help="how long the axis is watched after a move")
    verb.add_argument("--timeout-s", type=float, default=60.0, help="longest wait for any device")
    verb.add_argument("--write", type=Path, metavar="FILE", help="write the configuration that follows")
    add_catalog(verb)
    add_json(verb)


def add_focus(verbs: Any, add_catalog: Callable[[Any], None], add_json: Callable[[Any], None]) -> None:
    """Add the verb that focuses an instrument once."""
    verb = verbs.add_parser("focus", help="focus an instrument once, and leave it there")
    _add_instrument(verb)
    verb.add_argument("--method", help="how (default: as suits the instrument)")
    add_catalog(verb)
    add_json(verb)


def _add_instrument(verb: Any) -> None:
    verb.add_argument("instrument", nargs="?", help="by name, with defaults; or give --config")
    verb.add_argument("--config", type=Path, metavar="FILE", help="that describes the instrument")
    verb.add_argument(
        "--option",
        action="append",
        default=[],
        type=_option,
        metavar="KEY=VALUE",
        help="of the instrument, the value as in TOML; may be given several times",
    )


def _option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{text!r}: expected KEY=VALUE")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value  # text needs no quotes here


def _opened(options: Namespace, **more: Any) -> Any:
    from bluesky_autofocus.session import open_session

    if options.instrument is None and options.config is None:
        raise ValueError("give the name of an instrument, or --config FILE")
    return open_session(
        options.instrument,
        config=options.config,
        catalog=options.catalog,
        **more,
        **dict(options.option),
    )


def focus(options: Namespace) -> int:
    """Focus once; return 0 if the focus was found, else 1."""
    from bluesky_autofocus.callbacks import FocusRecord

    show = None if options.json else print
    with _opened(options, show=show) as session:
        chosen = {} if options.method is None else {"method": options.method}
        if not completed(session.RE, session.focus(**chosen)):
            return _put_back()
        run = session.db[-1]
        verdict = FocusRecord.of(run).verdicts[-1]
        if options.json:
            keys = ("found", "reason", "position_um", "sigma_um", "start_um", "exposures", "method")
            said = {key: _plain(verdict[key]) for key in keys}
            print(json.dumps({**said, "run": run.metadata["start"]["uid"]}))
        return 0 if verdict["found"] else 1


def _put_back() -> int:
    """Say that a plan was interrupted; return the exit status."""
    print("interrupted; all is put back", file=sys.stderr)
    return INTERRUPTED


def check(options: Namespace) -> int:
    """Ask where the axis may go, try everything, show what it is like; return 1 if something failed."""
    if options.write is not None:
        _check_writable(options)
    if not (options.yes or (sys.stdin.isatty() and not options.json)):
        raise ValueError("check moves the axis: give --range-um LO HI --yes where nobody can be asked")
    if options.yes and options.range_um is None:
        raise ValueError("check moves the axis: --yes needs --range-um LO HI")
    with _opened(options, show=None) as session:
        bounds_um = _confirmed(session, options)
        if bounds_um is None:
            print("nothing was moved")
            return 1
        reports: list[Any] = []

        def plan() -> Any:
            checking = session.check(
                bounds_um, planes=options.planes, watch_s=options.watch_s, timeout_s=options.timeout_s
            )
            reports.append((yield from checking))

        if not completed(session.RE, plan()):
            return _put_back()
        (report,) = reports
        run = session.db[-1].metadata["start"]["uid"]
    written = None if options.write is None else _write(options, report, run)
    if options.json:
        print(json.dumps({**report.recorded(), "run": run, "written": written}))
    else:
        _print(report)
        print(f"run {run[:8]}" + ("" if written is None else f"; written to {written}"))
    return 1 if report.grade == "failed" else 0


def _check_writable(options: Namespace) -> None:
    """Find what would fail when all is measured."""
    if not options.write.parent.is_dir():
        raise ValueError(f"--write {options.write}: there is no folder {options.write.parent}")
    if options.write.exists() and not options.yes and options.write != options.config:
        raise ValueError(f"--write {options.write}: it exists; give --yes to replace it")


def _confirmed(session: Any, options: Namespace) -> tuple[float, float] | None:
    """Return the range that the person, or the command line, confirms; None if it is none."""
    if options.yes:
        return options.range_um[0], options.range_um[1]
    axis = session.instrument.axis
    at_um = float(axis.position)
    lowest_um, highest_um = getattr(axis, "limits", None) or (0.0, 0.0)
    stated = lowest_um < highest_um
    dof_um = session.instrument.focus_options.get("depth_of_field_um")
    half_um = PROPOSED_DOF * dof_um if dof_um else session.instrument.focus_options.get("range_um", 20.0) / 2
    low_um, high_um = (at_um - half_um, at_um + half_um) if options.range_um is None else options.range_um
    if stated:
        low_um, high_um = max(low_um, lowest_um), min(high_um, highest_um)
    print(f"{axis.name} is at {at_um:.4g} um;", end=" ")
    print(f"its limits are {lowest_um:g} .. {highest_um:g} um." if stated else "it states no limits.")
    print(f"It will be moved within {low_um:.4g} .. {high_um:.4g} um, and nothing moves before you say so.")
    answer = input("move it there? [y/N, or LO HI] ").strip().lower()
    if answer in ("y", "yes"):
        return low_um, high_um
    try:
        low_um, high_um = (float(bound) for bound in answer.split())
    except ValueError:
        return None
    return low_um, high_um


def _write(options: Namespace, report: Any, run: str) -> str:
    """Write the configuration that follows; what the check says nothing of stays as it was."""
    from bluesky_autofocus.configuration import Configuration, read_configuration, write_configuration

    if options.config is None:
        tables: dict[str, Any] = {"instrument": {"name": options.instrument, "options": dict(options.option)}}
    else:
        tables = read_configuration(options.config).tables()
        tables["instrument"].setdefault("options", {}).update(dict(options.option))
    merged = _merged(tables, report.suggested())
    looked = merged.setdefault("focus", {})
    allowed = [one for one in (merged.get("axis", {}).get("limits_um"), looked.get("travel_um")) if one]
    if "range_um" in looked:
        looked["range_um"] = min(looked["range_um"], *(high - low for low, high in allowed), math.inf)
    comments = {one.key: f"{one.why} (check {run[:8]})" for one in report.suggestions}
    write_configuration(Configuration.of(merged, str(options.write)), options.write, comments)
    return str(options.write.resolve())


def _merged(tables: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(dict(tables))
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _print(report: Any) -> None:
    """Print the findings, device by device, and what follows."""
    devices = dict.fromkeys(one.device for one in report.findings)
    rows = [(device, [one for one in report.findings if one.device == device]) for device in devices]
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        for device, findings in rows:
            print(device)
            for one in findings:
                print(f"  {one.what:24s} {one.grade:10s} {_told(one)}")
    else:
        colours = {"ok": "green", "warning": "yellow", "failed": "bold red", "not tried": "dim"}
        table = Table(box=None, pad_edge=False, show_header=False)
        for device, findings in rows:
            table.add_row(Text(device, style="bold"))
            for one in findings:
                table.add_row(
                    Text(f"  {one.what}"), Text(str(one.grade), style=colours[one.grade]), _told(one)
                )
        Console(highlight=False, markup=False).print(table)
    print()
    for one in report.suggestions:
        print(f"{one.key} = {json.dumps(one.value)}  # {one.why}")


def _told(finding: Any) -> str:
    return f"{finding.measured}: {finding.said}" if finding.measured else finding.said


def _plain(value: Any) -> Any:
    """Return a recorded value as JSON has it; no number is null."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and math.isnan(value) else value
