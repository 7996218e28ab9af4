# ruff: noqa: T201 - this is the command line: printing is what it is for
"""Go on with a tile scan or a time-lapse that ended early, with the instrument that it was begun with."""

import json
from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import Any

from bluesky_autofocus.catalog import open_catalog
from bluesky_autofocus.cli._interrupting import INTERRUPTED, completed
from bluesky_autofocus.clock import Clock, VirtualClock, WallClock
from bluesky_autofocus.configuration import Configuration
from bluesky_autofocus.resuming import NotResumableError, resumption_of
from bluesky_autofocus.session import open_session

__all__ = ["resume"]


def resume(options: Namespace, find_run: Callable[[Any, str], Any]) -> int:
    """Visit the tiles that are missing; return the exit status."""

    def say(line: str, **data: Any) -> None:
        print(json.dumps(data) if options.json else line, flush=True)

    catalog = open_catalog(options.catalog)
    try:
        run = find_run(catalog.client, options.run)
        uid = run.start["uid"]
        left = resumption_of(catalog.client, run, marked=options.marked)
    finally:
        catalog.close()
    say(
        f"{left.plan} {uid[:8]}: {left.missing} of {left.total} visits are missing",
        run=uid,
        missing=left.missing,
        total=left.total,
    )
    if not left.missing:
        return 0
    if not left.instrument:
        raise NotResumableError(
            f"run {uid[:8]} does not say by which instrument it was made: in a session with yours, "
            f"RE(resume({uid[:8]!r}))"
        )
    with open_session(
        config=_configuration_of(left.instrument),
        catalog=options.catalog,
        clock=_clock_of(left.instrument),
        show=None,
    ) as session:
        uids: list[str] = []
        session.RE.subscribe(lambda _, doc: uids.append(doc["uid"]), "start")
        if not completed(session.RE, session.resume(uid, marked=options.marked)):
            say(f"interrupted; to go on: bluesky-autofocus resume {uid[:8]}", complete=False)
            return INTERRUPTED
    say(f"complete: run {uids[-1][:8]} goes on with {uid[:8]}", complete=True, run=uids[-1], continues=uid)
    return 0


def _configuration_of(instrument: Mapping[str, Any]) -> Configuration:
    """Return what the instrument of the run was made by."""
    made = {"name": instrument["name"], "options": dict(instrument["options"])}
    return Configuration.of({**instrument.get("configuration", {}), "instrument": made})


def _clock_of(instrument: Mapping[str, Any]) -> Clock:
    """Return a clock that goes as that of the run did."""
    speed = instrument["clock_speed"]
    return WallClock(speed) if speed else VirtualClock()
