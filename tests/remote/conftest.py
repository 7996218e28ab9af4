"""A proxy, an analysis that asks others, and workers that are really other processes."""

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator

import pytest

from bluesky_autofocus.callbacks import SharpnessAnalysis
from bluesky_autofocus.plans import autofocus
from bluesky_autofocus.remote import Addresses, RemoteAnalysis, start_proxy

PATIENCE_S = 60.0
"""Starting Python takes a second or two, on a machine that has nothing else to do."""


@pytest.fixture(scope="session")
def proxy() -> Addresses:
    return start_proxy()


def process(proxy: Addresses, *verb: str, script: str = "") -> subprocess.Popen:
    """Start a worker: the verb with its options, or a script that is told where the proxy is."""
    if script:
        command = ["-c", textwrap.dedent(script), proxy.in_address, proxy.out_address]
    else:
        where = ["--in-address", proxy.in_address, "--out-address", proxy.out_address]
        command = ["-m", "bluesky_autofocus", "analyse-remote", *verb, *where]
    return subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)


@pytest.fixture(scope="session")
def worker(proxy) -> Iterator[subprocess.Popen]:
    """Return the process that makes the readings of the analysis ``sharpness``."""
    started = process(proxy, "sharpness")
    yield started
    started.terminate()
    assert started.wait(PATIENCE_S) == 0


@pytest.fixture
def start(proxy) -> Iterator[Callable[..., subprocess.Popen]]:
    """Return a function that starts another one; it answers to a name of its own."""
    started = []

    def start(*verb: str, script: str = "") -> subprocess.Popen:
        started.append(process(proxy, *verb, script=script))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.wait()


@pytest.fixture
def make_remote(proxy) -> Iterator[Callable[..., RemoteAnalysis]]:
    """Return a function that makes the instrument's side of sharpness, under any name, with its worker."""
    made = []

    def make(name: str = "sharpness", *, alone: bool = False, **options) -> RemoteAnalysis:
        made.append(RemoteAnalysis(SharpnessAnalysis(name=name), proxy, **options))
        assert alone or made[-1].wait_for_worker(PATIENCE_S)
        return made[-1]

    yield make
    for remote in made:
        remote.close()


@pytest.fixture
def focus(RE, documents) -> Callable[..., list[dict]]:  # noqa: N803
    """Return a function that focuses a SEM, and what was read of each exposure."""

    def focus(sem, analysis, **options) -> list[dict]:
        documents.clear()
        token = RE.subscribe(analysis)
        try:
            options = {"range_um": 200.0, "depth_of_field_um": 5.0, **options}
            RE(autofocus([sem], sem.working_distance, analysis=analysis, **options))
        finally:
            RE.unsubscribe(token)
        return documents.events(f"reading_{analysis.name}")

    return focus
