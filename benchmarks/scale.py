"""What a catalogue of many runs costs, and an analysis in another process.

Catalogues of 10^3, 10^4 and 10^5 runs on SQLite, and on PostgreSQL where ``POSTGRESQL`` names an empty
database: filled by SQL with copies of a run, then the time of the last runs through the normal path, of a
search by metadata, by number, of the newest one, and of reading its Events. And the time from an Event to its
reading, made here and by a worker on loopback, in turns. On a machine that others use too the CPU tells more
than the clock.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks._results import Figures, figure, run
from benchmarks._scale_fill import fill_postgresql, fill_sqlite

SEED = 0
SIZES = (10**3, 10**4, 10**5)
EVENTS = 8
"""Of a run, as many as a search exposes."""
LAST = 100
"""Runs that are stored through the normal path, and timed, when a catalogue has its size."""
REPEATS = 6
"""Of everything else that is timed."""
FRAME_PX = 1024
IN_TURN = 10
"""Readings made one way before it is the turn of the next."""


def measure(quick: bool) -> tuple[Figures, list[dict[str, Any]], Any]:
    """Time catalogues, then readings."""
    sizes = SIZES[:1] if quick else SIZES
    rows: list[dict[str, Any]] = []
    for kind, taken_ms in _round_trips(10 if quick else 100).items():
        rows.append(
            {
                "database": f"reading, {kind}",
                "median_ms": statistics.median(taken_ms),
                "p95_ms": statistics.quantiles(taken_ms, n=20)[-1],
            }
        )
        print(rows[-1], flush=True)
    databases = {"SQLite": ""}
    if os.environ.get("POSTGRESQL"):
        databases["PostgreSQL"] = os.environ["POSTGRESQL"]
    for name, database in databases.items():
        with tempfile.TemporaryDirectory() as scratch:
            rows += _catalogue_rows(name, database, Path(scratch), sizes, 5 if quick else LAST)
    return _figures(rows), rows, _picture(rows)


def _catalogue_rows(name: str, database: str, folder: Path, sizes: Any, last: int) -> list[dict[str, Any]]:
    from bluesky_autofocus.catalog import open_catalog

    os.environ["BLUESKY_AUTOFOCUS_DATA"] = str(folder)
    location = database or folder
    rows = []
    for size in sizes:
        catalog = open_catalog(location)
        if not len(catalog.client):
            # not all tables of Events are the first one that was made
            _store(catalog, 0, stream="another")
            _store(catalog, 1)
        catalog.close()
        if database:
            asyncio.run(fill_postgresql(database, size - last))
        else:
            fill_sqlite(folder, size - last)
        catalog = open_catalog(location)
        taken_ms = _timed_catalogue(catalog, size, last)
        catalog.close()
        for what, all_ms in taken_ms.items():
            low, median, high = statistics.quantiles([wall_ms for wall_ms, _ in all_ms], n=4)
            rows.append(
                {
                    "database": name,
                    "runs": size,
                    "what": what,
                    "median_ms": median,
                    "quartiles_ms": f"{low:.1f} .. {high:.1f}",
                    "cpu_ms": statistics.median(cpu_ms for _, cpu_ms in all_ms),
                    "load": round(os.getloadavg()[0], 1),
                }
            )
            print(rows[-1], flush=True)
    return rows


def _timed_catalogue(catalog: Any, size: int, last: int) -> dict[str, list[tuple[float, float]]]:
    """Store the last runs, then look for what is there; return the times of each, by the clock and CPU."""
    from tiled.queries import Key

    db = catalog.client
    inserted = [_timed_ms(_store, catalog, number) for number in range(size - last + 1, size + 1)]
    if len(db) != size or len(list(db.search(Key("sample") == "sample 3"))) != 1:
        raise RuntimeError(f"the catalogue holds {len(db)} runs, not {size}")
    looked: dict[str, Callable[[int], Any]] = {
        "search": lambda one: list(db.search(Key("sample") == f"sample {one}")),
        "number": lambda one: db[one],
        "newest": lambda one: db[-1],
        "read": lambda one: db[-1]["reading_sharpness"].read(),
    }
    taken_ms: dict[str, list[tuple[float, float]]] = {"insert": inserted, **{what: [] for what in looked}}
    for number in range(REPEATS + 1):
        one = 3 + number * (size - last - 3) // REPEATS
        for what, look in looked.items():
            taken = _timed_ms(look, one)
            if number:  # the first one connects and compiles
                taken_ms[what].append(taken)
    return taken_ms


def _store(catalog: Any, number: int, stream: str = "reading_sharpness") -> None:
    """Record a run, spool and catalogue, until the catalogue holds it."""
    from bluesky_autofocus.callbacks._computed_run import ComputedRun
    from bluesky_autofocus.records import Reading

    if not hasattr(catalog, "kept_recorder"):
        catalog.kept_recorder = catalog.recorder()
    metadata = {"plan_name": "autofocus", "scan_id": number, "sample": f"sample {number}", "method": "search"}
    stored = ComputedRun(catalog.kept_recorder, catalog.frame_directory, metadata)
    for event in range(EVENTS):
        reading = Reading("", 0.1 * event, seq_num=event + 1).recorded()
        stored.add(stream, {f"{stream}_{key}": value for key, value in reading.items()})
    stored.close()


def _timed_ms(function: Callable[..., Any], *arguments: Any) -> tuple[float, float]:
    """Return how long it took, and how much CPU; client and server are this process, PostgreSQL is not."""
    started, busy = time.perf_counter(), time.process_time()
    function(*arguments)
    return 1e3 * (time.perf_counter() - started), 1e3 * (time.process_time() - busy)


WORKER = """
import sys
from bluesky_autofocus.callbacks import SharpnessAnalysis
from bluesky_autofocus.remote import Addresses, Worker
Worker(SharpnessAnalysis(), Addresses(*sys.argv[1:])).serve()
"""


def _round_trips(exposures: int) -> dict[str, list[float]]:
    """Return for each way the times from an Event to its reading."""
    import numpy as np
    from bluesky import RunEngine
    from bluesky import plan_stubs as bps
    from bluesky import preprocessors as bpp

    from bluesky_autofocus.callbacks import SharpnessAnalysis
    from bluesky_autofocus.devices import SimulatedCamera
    from bluesky_autofocus.frames import install_frame_routing
    from bluesky_autofocus.plans import wait_reading
    from bluesky_autofocus.remote import RemoteAnalysis, start_proxy

    proxy = start_proxy()
    command = [sys.executable, "-c", WORKER, proxy.in_address, proxy.out_address]
    worker = subprocess.Popen(command)
    frame = np.random.default_rng(SEED).poisson(900, (FRAME_PX, FRAME_PX)).astype(np.uint16)
    analyses: dict[str, Any] = {
        "here": SharpnessAnalysis(),
        "remote, file": RemoteAnalysis(SharpnessAnalysis(), proxy, timeout_s=60),
        "remote, frames sent": RemoteAnalysis(SharpnessAnalysis(), proxy, timeout_s=60, send_frames=True),
    }
    taken_ms: dict[str, list[float]] = {name: [] for name in analyses}
    try:
        with tempfile.TemporaryDirectory() as folder:
            camera: Any = SimulatedCamera(
                name="camera", render=lambda: frame, frame_directory=folder, frame_shape=frame.shape
            )
            engines = {}
            for name, analysis in analyses.items():
                if name != "here" and not analysis.wait_for_worker(60):
                    raise RuntimeError("the worker has not started")
                engines[name] = RunEngine()
                install_frame_routing(engines[name])
                engines[name].subscribe(analysis)

            @bpp.run_decorator()
            def plan(name: str) -> Any:
                for exposure in range(IN_TURN + 1):
                    yield from bps.trigger(camera, wait=True)
                    yield from bps.create("primary")
                    yield from bps.read(camera)
                    started = time.perf_counter()
                    yield from bps.save()
                    reading: Any = yield from wait_reading(analyses[name], stream="primary")
                    if exposure:  # the first one has documents before it
                        taken_ms[name].append(1e3 * (time.perf_counter() - started))
                    if name != "here" and reading.made_by == "local":
                        raise RuntimeError("the worker has not answered")

            for _ in range(exposures // IN_TURN):
                for name, run_engine in engines.items():
                    run_engine(plan(name))
    finally:
        for analysis in list(analyses.values())[1:]:
            analysis.close()
        worker.terminate()
        worker.wait()
    return taken_ms


def _figures(rows: list[dict[str, Any]]) -> Figures:
    figures = {}
    aims = {
        "insert": "grows by less than a third",
        "search": "500",
        "number": "500",
        "newest": "100",
        "read": "100",
    }
    for row in rows:
        if "runs" in row:
            size = f"1e{len(str(row['runs'])) - 1}"
            suffix = "" if row["database"] == "SQLite" else "_postgresql"
            key = f"{row['what']}_ms_{size}{suffix}"
            figures[key] = figure(row["median_ms"], "ms", aims[row["what"]], "lower")
            figures[key.replace("_ms_", "_cpu_ms_")] = figure(row["cpu_ms"], "ms of CPU", "none", "lower")
        else:
            kind = row["database"].removeprefix("reading, ").replace(", ", "_").replace(" ", "_")
            for what in ("median", "p95"):
                figures[f"reading_{kind}_{what}_ms"] = figure(row[f"{what}_ms"], "ms", "50", "lower")
    return figures


def _picture(rows: list[dict[str, Any]]) -> Any:
    import matplotlib.pyplot as plt

    picture, ax = plt.subplots(figsize=(8, 4), layout="constrained")
    lines = {(row["database"], row["what"]): ([], []) for row in rows if "runs" in row}
    for row in rows:
        if "runs" in row:
            x, y = lines[row["database"], row["what"]]
            x.append(row["runs"])
            y.append(row["median_ms"])
    for (database, what), (x, y) in lines.items():
        ax.plot(x, y, "o-" if database == "SQLite" else "s--", label=f"{what}, {database}")
    ax.set(xscale="log", yscale="log", xlabel="runs in the catalogue", ylabel="median time (ms)")
    ax.legend(fontsize="small", ncols=2)
    return picture


if __name__ == "__main__":
    run(
        "scale",
        measure,
        seed=SEED,
        columns=("database", "runs", "what", "median_ms", "p95_ms", "quartiles_ms", "cpu_ms", "load"),
    )
