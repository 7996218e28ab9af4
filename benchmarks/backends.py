"""The acceptance test over every back end, and how long each takes to move, to expose, and for a point.

Cells are those of ``tests/acceptance``: a back end and what it must do. Latencies are of the same devices,
each on its way: Channel Access, a Micro-Manager core, a serial line, a vendor's package. A point is one of a
scan. Simulated microscopes stand behind them, which form a frame of 512 x 512 px in ``frame_ms``: that much
of an exposure is none of the back end's. Medians of many.
"""

import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any
from xml.etree import ElementTree

from bluesky import RunEngine
from bluesky import plan_stubs as bps
from bluesky import plans as bp

from benchmarks import _results
from bluesky_autofocus.frames import install_frame_routing
from bluesky_autofocus.simulation.ioc import loopback
from bluesky_autofocus.simulation.served import ServedMicroscope

SEED = 0
ROOT = Path(__file__).resolve().parents[1]
HELPERS = ROOT / "tests" / "helpers"
ACCEPTANCE = ROOT / "tests" / "acceptance"
STEP_UM = 1.0
"""Of the moves that are timed."""

COLUMNS = ["back end", "cells", "move_ms", "expose_ms", "point_ms"]


def measure(quick: bool) -> tuple[_results.Figures, list[dict[str, Any]], Any]:
    """Run the acceptance test, then time the devices of each back end."""
    cells = accepted()
    sys.path.insert(0, str(HELPERS))
    from backends import BACKENDS  # pyright: ignore - what the tests share

    rows = []
    for backend in BACKENDS:
        passed = [passed for (name, _), passed in cells.items() if name == backend]
        # in a process of its own: what a control system leaves behind slows down no other
        timed = subprocess.run(
            [sys.executable, "-c", f"from benchmarks.backends import latency; latency({backend!r}, {quick})"],
            cwd=ROOT,
            # Channel Access reads it when ophyd is imported
            env={**os.environ, **loopback(servers=5)},
            capture_output=True,
            text=True,
            check=True,
        )
        numbers = [float(number) for number in timed.stdout.split()[-3:]]
        rows.append(
            {
                "back end": backend,
                "cells": f"{sum(passed)} of {len(passed)}",
                **dict(zip(COLUMNS[2:], numbers, strict=True)),
                "failed": [cell for (name, cell), passed in cells.items() if name == backend and not passed],
            }
        )
    figures = {
        "cells_passed": _results.figure(sum(cells.values()), "cells", "all", "higher"),
        "cells_total": _results.figure(len(cells), "cells", "reported", "higher"),
        "frame_ms": _results.figure(frame_ms(), "ms, the simulated frame alone", "reported", "lower"),
        "slowest_point_ms": _results.figure(max(row["point_ms"] for row in rows), "ms", "reported", "lower"),
    }
    return figures, rows, draw(rows)


def accepted() -> dict[tuple[str, str], bool]:
    """Run the acceptance test; return which cells passed, by back end and behaviour."""
    with tempfile.TemporaryDirectory(prefix="bluesky-autofocus-backends-") as folder:
        report = Path(folder) / "report.xml"
        options = ["-q", "-n", "0", "-p", "no:cacheprovider", f"--junit-xml={report}", str(ACCEPTANCE)]
        subprocess.run([sys.executable, "-m", "pytest", *options], cwd=ROOT, check=False)
        cells = {}
        for case in ElementTree.parse(report).iter("testcase"):
            found = re.fullmatch(r"test_(\w+)\[(?:(\w+)-)?(\w+)\]", case.attrib["name"])
            if found is not None:
                behaviour, variant, backend = found.groups()
                passed = case.find("failure") is None and case.find("error") is None
                cells[backend, behaviour if variant is None else f"{behaviour} {variant}"] = passed
    return cells


def frame_ms() -> float:
    """Return how long the simulated microscope takes to form a frame."""
    served = ServedMicroscope()
    seconds = []
    for _ in range(20):
        started_s = time.perf_counter()
        served.frame()
        seconds.append(time.perf_counter() - started_s)
    return 1e3 * median(seconds)


def latency(backend: str, quick: bool) -> None:
    """Print how many ms a move, an exposure, and a point of a scan take."""
    sys.path.insert(0, str(HELPERS))
    from backends import open_bench  # pyright: ignore - what the tests share

    times = 5 if quick else 40
    run_engine = RunEngine()
    install_frame_routing(run_engine)
    with (
        tempfile.TemporaryDirectory(prefix="bluesky-autofocus-backends-") as folder,
        open_bench(backend, Path(folder), run_engine) as bench,
    ):
        start_um = bench.where_um()
        places_um = itertools.cycle((start_um, start_um + STEP_UM))
        camera = bench.detectors[0]

        def timed(stub: Any) -> Iterator[Any]:
            started_s = time.perf_counter()
            yield from stub
            seconds.append(time.perf_counter() - started_s)

        def moving() -> Iterator[Any]:
            for _ in range(times):
                yield from timed(bps.mv(bench.axis, next(places_um)))

        def exposing() -> Iterator[Any]:
            yield from bps.stage(camera)
            yield from bps.open_run()
            for _ in range(times):
                yield from timed(bps.trigger(camera, wait=True))
                # what takes frames wants them to be read
                yield from bps.create()
                yield from bps.read(camera)
                yield from bps.save()
            yield from bps.close_run()
            yield from bps.unstage(camera)

        of: list[float] = []
        for plan in (moving, exposing):
            seconds: list[float] = []
            run_engine(plan())
            of.append(1e3 * median(seconds))
        started_s = time.perf_counter()
        run_engine(bp.scan(bench.detectors, bench.axis, start_um, start_um + STEP_UM, times))
        of.append(1e3 * (time.perf_counter() - started_s) / times)
    sys.stdout.write(" ".join(f"{one:.3f}" for one in of) + "\n")


def draw(rows: list[dict[str, Any]]) -> Any:
    """Draw what each back end takes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.5 * len(rows) + 1.5), layout="constrained")
    ax = figure.subplots()
    names = [f"{row['back end']} ({row['cells']})" for row in rows]
    for offset, (column, label) in enumerate(
        (
            ("point_ms", "a point of a scan"),
            ("expose_ms", "an exposure"),
            ("move_ms", "a move of 1 um"),
        )
    ):
        heights = [index + 0.2 * (1.5 - offset) for index in range(len(rows))]
        ax.barh(heights, [row[column] for row in rows], height=0.2, label=label)
    ax.set(yticks=range(len(rows)), yticklabels=names, xlabel="ms", xscale="log", title="Back ends")
    ax.legend()
    return figure


if __name__ == "__main__":
    _results.run("backends", measure, seed=SEED, columns=COLUMNS)
