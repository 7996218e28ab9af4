"""What one exposure costs through the whole chain, beside a bare loop that does the same work.

The chain: a plan step (checkpoint, move, trigger, read, save), documents, the sharpness analysis, the reading
recorded, the frame on disk, spool and catalogue. The bare loop: grab, score with the same metric, and write
the frame with h5py into a file of one chunk a frame, flushed at each. Frames are 2048 x 2048 uint16, ready
in memory; both run in turns in one process, on the same disk.
"""

import itertools
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import h5py
import numpy as np
from bluesky import RunEngine
from bluesky import preprocessors as bpp

from benchmarks import _results
from bluesky_autofocus.callbacks import SharpnessAnalysis
from bluesky_autofocus.catalog import open_catalog
from bluesky_autofocus.devices import SimulatedAxis, SimulatedCamera
from bluesky_autofocus.frames import install_frame_routing
from bluesky_autofocus.plans import expose
from bluesky_autofocus.sharpness import DEFAULT_METRIC, metric

SEED = 1
SHAPE = (2048, 2048)


def measure(quick: bool) -> tuple[_results.Figures, list[dict[str, Any]], Any]:
    """Time the chain and the bare loop in turns, and the chain without one part at a time."""
    turns, exposures = (2, 20) if quick else (7, 60)
    rng = np.random.default_rng(SEED)
    frames = [rng.integers(500, 4096, SHAPE, dtype=np.uint16) for _ in range(4)]
    scratch = Path(tempfile.mkdtemp(prefix="bluesky-autofocus-chain-"))
    catalog = open_catalog(scratch / "catalog")
    try:
        parts = {
            "bare loop": lambda: bare(frames, exposures, scratch),
            "chain": lambda: chain(frames, exposures, scratch, catalog),
            "chain without catalogue": lambda: chain(frames, exposures, scratch, None),
            "grab only": lambda: grab_only(frames, exposures),
            "score only": lambda: score_only(frames, exposures),
            "write only": lambda: bare(frames, exposures, scratch, score=False),
        }
        times: dict[str, list[float]] = {name: [] for name in parts}
        for _ in range(turns):
            for name, part in parts.items():
                times[name].append(1e3 * part())
    finally:
        catalog.close()
        shutil.rmtree(scratch)
    rows = [
        {"part": name, "ms": median(of), "ms_min": min(of), "ms_max": max(of)} for name, of in times.items()
    ]
    ratios = [chained / plain for chained, plain in zip(times["chain"], times["bare loop"], strict=True)]
    figures = {
        "overhead_ratio": _results.figure(median(ratios), "times", "< 1.5", "lower"),
        "chain_ms": _results.figure(median(times["chain"]), "ms an exposure", "reported", "lower"),
        "bare_ms": _results.figure(median(times["bare loop"]), "ms an exposure", "reported", "lower"),
    }
    return figures, rows, draw(rows)


def bare(frames: list[np.ndarray], exposures: int, scratch: Path, *, score: bool = True) -> float:
    """Grab, score and write; return the seconds an exposure."""
    sharpness = metric(DEFAULT_METRIC)
    path = scratch / "bare.h5"
    source = itertools.cycle(frames)
    with h5py.File(path, "w", libver="latest") as file:
        dataset = file.create_dataset(
            "data", shape=(0, *SHAPE), maxshape=(None, *SHAPE), chunks=(1, *SHAPE), dtype=np.uint16
        )
        started_s = time.perf_counter()
        scores = []
        for index in range(exposures):
            frame = next(source).copy()
            if score:
                scores.append(sharpness(frame))
            dataset.resize(index + 1, axis=0)
            dataset[index] = frame
            file.flush()
        seconds = time.perf_counter() - started_s
    path.unlink()
    return seconds / exposures


def grab_only(frames: list[np.ndarray], exposures: int) -> float:
    """Return the seconds that handing over a frame takes."""
    source = itertools.cycle(frames)
    started_s = time.perf_counter()
    for _ in range(exposures):
        next(source).copy()
    return (time.perf_counter() - started_s) / exposures


def score_only(frames: list[np.ndarray], exposures: int) -> float:
    """Return the seconds that scoring a frame takes."""
    sharpness = metric(DEFAULT_METRIC)
    source = itertools.cycle(frames)
    started_s = time.perf_counter()
    for _ in range(exposures):
        sharpness(next(source))
    return (time.perf_counter() - started_s) / exposures


def chain(frames: list[np.ndarray], exposures: int, scratch: Path, catalog: Any) -> float:
    """Expose through the RunEngine; return the seconds from the first exposure to the last, for each."""
    source = itertools.cycle(frames)
    folder = scratch / "frames" if catalog is None else catalog.frame_directory
    camera = SimulatedCamera(
        name="camera",
        render=lambda: next(source).copy(),
        frame_directory=folder,
        frame_shape=SHAPE,
        dtype=np.uint16,
    )
    z = SimulatedAxis(name="z", limits=(0.0, float(exposures)))
    analysis = SharpnessAnalysis()
    run_engine = RunEngine()
    install_frame_routing(run_engine)
    run_engine.subscribe(analysis)
    if catalog is not None:
        catalog.subscribe(run_engine)
    marks_s: list[float] = []

    @bpp.run_decorator(md={"plan_name": "chain"})
    def plan() -> Any:
        # the first exposure declares streams and opens the file, which is a cost of the run
        yield from step(camera, z, analysis, 0)
        marks_s.append(time.perf_counter())
        for index in range(1, exposures):
            yield from step(camera, z, analysis, index)
        marks_s.append(time.perf_counter())

    run_engine(plan())
    shutil.rmtree(folder)
    if catalog is not None:
        folder.mkdir()
    return (marks_s[1] - marks_s[0]) / (exposures - 1)


def step(camera: Any, z: Any, analysis: Any, index: int) -> Any:
    """Do what a focusing stub does for each exposure."""
    from bluesky import plan_stubs as bps

    yield from bps.checkpoint()
    yield from bps.mv(z, float(index))
    yield from expose([camera], z, analysis=analysis, stream="focus_chain")


def draw(rows: list[dict[str, Any]]) -> Any:
    """Draw the times as bars."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(7, 3), layout="constrained")
    axes = picture.subplots()
    axes.barh([row["part"] for row in rows], [row["ms"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("ms an exposure, 2048 x 2048 uint16")
    return picture


if __name__ == "__main__":
    _results.run("chain", measure, seed=SEED, columns=["part", "ms", "ms_min", "ms_max"])
