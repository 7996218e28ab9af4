"""What most tests need: a RunEngine, an instrument that moves at once, and the documents it emits."""

import itertools
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from bluesky_autofocus.simulation.ioc import loopback

# No test draws to a screen.
os.environ.setdefault("MPLBACKEND", "Agg")
# Nor talks any to the IOCs of a laboratory, which is to be said before ophyd is imported.
os.environ.update(loopback(servers=5))

from bluesky import RunEngine

from bluesky_autofocus.callbacks import SharpnessAnalysis
from bluesky_autofocus.devices import SimulatedCamera, SimulatedSEM
from bluesky_autofocus.frames import install_frame_routing
from bluesky_autofocus.simulation import SEMImageFormation, scene

SHARED_STACKS = Path(__file__).resolve().parents[2] / "shared" / "focus-stacks"


class Documents(list):
    """Everything a RunEngine emitted, with a few ways to look at it."""

    def __call__(self, name: str, doc: dict) -> None:
        self.append((name, doc))

    def named(self, name: str) -> list[dict]:
        return [doc for found, doc in self if found == name]

    def events(self, stream: str) -> list[dict]:
        """Return the data of the Events of a stream."""
        descriptors = {doc["uid"] for doc in self.named("descriptor") if doc["name"] == stream}
        return [doc["data"] for doc in self.named("event") if doc["descriptor"] in descriptors]


@pytest.fixture
def RE() -> Iterator[RunEngine]:  # noqa: N802 - what every bluesky user calls it
    run_engine = RunEngine()
    install_frame_routing(run_engine)
    yield run_engine
    if run_engine.state != "idle":
        run_engine.halt()
    # Each has an event loop of its own in a thread; by the thousand they would use up the file descriptors.
    loop = run_engine.loop
    loop.call_soon_threadsafe(loop.stop)
    while loop.is_running():
        time.sleep(0.001)
    loop.close()


@pytest.fixture
def documents(RE) -> Documents:  # noqa: N803
    collected = Documents()
    RE.subscribe(lambda name, doc: collected(name, doc))  # a list itself cannot be hashed
    return collected


@pytest.fixture
def analysis(RE) -> SharpnessAnalysis:  # noqa: N803
    made = SharpnessAnalysis()
    RE.subscribe(made)
    return made


@pytest.fixture
def make_camera(tmp_path) -> Callable[..., SimulatedCamera]:
    """Return a function that makes a camera whose frames are numbered: all pixels of the n-th are n."""

    def make(name: str = "camera", **options) -> SimulatedCamera:
        shape, dtype = options.setdefault("frame_shape", (4, 5)), options.get("dtype", np.uint16)
        number = itertools.count(1)
        options.setdefault("render", lambda: np.full(shape, next(number), dtype))
        return SimulatedCamera(name=name, frame_directory=tmp_path / "frames", **options)

    return make


@pytest.fixture
def camera(make_camera) -> SimulatedCamera:
    return make_camera()


@pytest.fixture
def make_sem(tmp_path) -> Callable[..., SimulatedSEM]:
    """Return a function that makes a SEM of 128 x 128 px: in focus at 10 000 um, DOF about 5 um."""

    def make(**options) -> SimulatedSEM:
        formation = SEMImageFormation(
            scene("grains", seed=1, shape=(256, 256)), frame_shape=(128, 128), scene_magnification=20_000
        )
        sem = SimulatedSEM(
            name="sem",
            **{
                "image_formation": formation,
                "frame_directory": tmp_path / "frames",
                "working_distance_um": 10_030.0,
                **options,
            },
        )
        sem.magnification.put(20_000.0)
        return sem

    return make


@pytest.fixture
def sem(make_sem) -> SimulatedSEM:
    return make_sem()


@pytest.fixture
def shared_stacks() -> Path:
    """Return the folder of recorded focus stacks, or skip."""
    if not SHARED_STACKS.is_dir():
        pytest.skip(f"the recorded focus stacks are not at {SHARED_STACKS}")
    return SHARED_STACKS


def pytest_terminal_summary(terminalreporter) -> None:
    """Print what every back end did at the acceptance test, as a table."""
    cells: dict[tuple[str, str], bool] = {}
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            found = re.search(r"test_backends\.py::test_(\w+)\[(?:(\w+)-)?(\w+)\]", report.nodeid)
            if found and (report.when == "call" or outcome == "error"):
                behaviour, variant, backend = found.groups()
                cell = backend, behaviour if variant is None else f"{behaviour} {variant}"
                cells[cell] = cells.get(cell, True) and outcome == "passed"
    if not cells:
        return
    behaviours = list(dict.fromkeys(behaviour for _, behaviour in cells))
    terminalreporter.section("back end x behaviour")
    for backend in sorted({backend for backend, _ in cells}):
        row = [{True: "yes", False: "NO", None: "-"}[cells.get((backend, each))] for each in behaviours]
        said = "  ".join(f"{each}: {yes}" for each, yes in zip(behaviours, row, strict=True))
        terminalreporter.write_line(f"{backend:14} {said}")
    terminalreporter.write_line(f"{sum(cells.values())} of {len(cells)} cells passed")
