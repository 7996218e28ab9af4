# ruff: noqa: T201 - this is the command line: printing is what it is for
"""Delete frames of recorded runs, having shown what will go."""

import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from bluesky_autofocus.catalog import Catalog
from bluesky_autofocus.disk import size
from bluesky_autofocus.retention import Pruning, prune, require_ended, runs_older_than

__all__ = ["check", "delete"]


def check(options: Namespace) -> None:
    """Find what would fail later."""
    if not options.run and options.older_than is None:
        raise ValueError("prune needs runs: name some, or give --older-than DAYS")
    if not (options.dry_run or options.yes or (sys.stdin.isatty() and not options.json)):
        raise ValueError(
            "frames that are deleted do not come back: give --yes, or --dry-run to see what goes"
        )


def delete(options: Namespace, catalog: Catalog, find_run: Callable[[Any, str], Any]) -> int:
    """Ask, having shown what would go; delete it; return 0."""
    client = catalog.client
    runs = {run.start["uid"]: run for run in (find_run(client, name) for name in options.run)}
    if options.older_than is not None:
        named = set(runs)
        old = {run.start["uid"]: run for run in runs_older_than(client, options.older_than)}
        runs = {uid: run for uid, run in old.items() if uid in named or not named}
    for run in runs.values():  # before the first frame goes
        require_ended(run)
    if not options.yes:
        foreseen = _prune(client, runs, options, dry_run=True)
        if options.dry_run or not any(one.deleted for one in foreseen):
            return 0
        if input("delete them? They do not come back. [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was deleted")
            return 0
    _prune(client, runs, options, dry_run=options.dry_run)
    return 0


def _prune(client: Any, runs: dict[str, Any], options: Namespace, *, dry_run: bool) -> list[Pruning]:
    """Prune run after run, and show each when it is done."""
    done = []
    for run in runs.values():
        one = prune(client, run, options.keep, dry_run=dry_run, referred=options.referred)
        done.append(one)
        if options.json:
            print(json.dumps(_said(one)), flush=True)
            continue
        day = time.strftime("%Y-%m-%d", time.localtime(run.start["time"]))
        told = f"{one.deleted} of {one.frames} frames {'would go' if dry_run else 'deleted'}"
        unread = f", {one.without_reading} of them never read" if one.without_reading else ""
        print(f"{one.run[:8]} {day}: {told}, {size(one.n_bytes)}{unread}", flush=True)
        for why in one.spared:
            print(f"    stays: {why}")
    if not options.json:
        counted = "1 run" if len(done) == 1 else f"{len(done)} runs"
        freed = f"{'would free' if dry_run else 'freed'} {size(sum(one.n_bytes for one in done))}"
        print(f"{counted}: {sum(one.deleted for one in done)} frames, {freed}")
    return done


def _said(one: Pruning) -> dict[str, Any]:
    return {
        "run": one.run,
        "keep": one.keep,
        "frames": one.frames,
        "deleted": one.deleted,
        "bytes": one.n_bytes,
        "without_reading": one.without_reading,
        "spared": list(one.spared),
        "streams": {part.stream: list(part.numbers) for part in one.parts if part.numbers},
        "dry_run": one.dry_run,
    }
