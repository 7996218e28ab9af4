"""What all benchmarks share: the command line, and how results are written."""

import argparse
import datetime
import json
import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

Figures = dict[str, dict[str, Any]]


def figure(value: float, unit: str, aim: str, better: str) -> dict[str, Any]:
    """Return one figure of a result; `better` is "lower" or "higher"."""
    return {"value": round(value, 6), "unit": unit, "aim": aim, "better": better}


def run(
    name: str,
    measure: Callable[[bool], tuple[Figures, list[dict[str, Any]], Any]],
    *,
    seed: int,
    columns: Sequence[str],
) -> None:
    """Measure, print the table, write ``results/NAME.json`` and ``NAME.png``.

    A quick run prints only: results that are committed come from full runs.

    Parameters
    ----------
    measure : callable
        ``measure(quick) -> figures, rows, matplotlib figure``.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    parser.add_argument("--quick", action="store_true", help="fewer trials; prints, writes nothing")
    quick = parser.parse_args().quick
    started_s = time.monotonic()
    figures, rows, picture = measure(quick)
    seconds = time.monotonic() - started_s
    print_table(rows, columns)
    print()
    for key, entry in figures.items():
        print(f"{key:34s} {entry['value']:10.4g} {entry['unit']:12s} aim {entry['aim']}")
    print(f"\n{seconds:.0f} s")
    if quick:
        return
    RESULTS.mkdir(exist_ok=True)
    result = {
        "seed": seed,
        "date": datetime.date.today().isoformat(),
        "seconds": round(seconds, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "versions": {
            package: version(package)
            for package in (
                "bluesky-autofocus",
                "bluesky",
                "ophyd",
                "numpy",
                "scipy",
                "opencv-python-headless",
            )
        },
        "figures": figures,
        "rows": rows,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(_finite(result), indent=1) + "\n")
    picture.savefig(RESULTS / f"{name}.png", dpi=110)
    print(f"wrote {RESULTS / name}.json and .png")


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print rows as aligned columns."""
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in [list(columns), *cells]) for i in range(len(columns))]
    for line in [list(columns), *cells]:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str("" if value is None else value)


def _finite(value: Any) -> Any:
    """Replace what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
