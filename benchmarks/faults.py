"""A thousand faults, one a run: does a plan survive it or end well, and is nothing lost and all put back.

Each plan is run once undisturbed, which tells how often each part of the instrument is used. Then it is run
again and again, with a real catalogue and real files, and at a moment that is drawn something breaks. What
must hold then:

- the plan has ended, by itself with what it concluded, or with the error and a stop document;
- each Event that was emitted has its frame in its file, and its document in the catalogue, or in the spool
  until the catalogue is opened again;
- no move went beyond the limits of its axis or the travel range of the plan;
- axes, light, exposure time and velocities are as before, but for a focus that was found. Who halts a plan
  has it put back nothing.

Some runs are ended by killing the process; what it had emitted must be in the catalogue that is opened next.
"""

import collections
import contextlib
import math
import multiprocessing
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import h5py
import numpy as np
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted

from benchmarks._fault_kinds import KINDS, Kind, Places, kill
from benchmarks._fault_rigs import LIMITS_UM, PLANS, SET_WHERE_FOUND, TRAVEL_UM, make_rig
from benchmarks._results import Figures, figure, run
from bluesky_autofocus.catalog import open_catalog
from bluesky_autofocus.catalog._spool import read_spooled
from bluesky_autofocus.frames import install_frame_routing
from bluesky_autofocus.plans import _moving as moving

SEED = 0
FAULTS, KILLED = 1000, 36
"""How many there are, and how many of them kill the process."""
STALLED_S = 0.1
"""How long plans wait for a device that never says that it has stopped; ten seconds, where time is real."""
NEARLY_UM = 1e-6
GOES_BACK = (
    "tile_scan", "time_lapse", "calibrate_leds", "collect_focal_stacks", "check_instrument", "scan_in_focus",
)  # fmt: skip
"""Plans that leave the axis where it was, in whatever focus they found."""


def measure(quick: bool) -> tuple[Figures, list[dict[str, Any]], Any]:
    """Let everything break."""
    faults, killed = (60, 4) if quick else (FAULTS, KILLED)
    outcomes = strike(faults - killed, seed=SEED) + kill_some(killed, seed=SEED)
    rows = []
    for kind in dict.fromkeys(one["kind"] for one in outcomes):
        of = [one for one in outcomes if one["kind"] == kind]
        rows.append({"kind": kind, "plans": len({one["plan"] for one in of}), **_counted(of)})
    for plan in PLANS:
        of = [one for one in outcomes if one["plan"] == plan]
        rows.append({"kind": f"all, {plan}", "plans": 1, **_counted(of)})
    all_of_them = _counted(outcomes)
    figures: Figures = {"faults": figure(len(outcomes), "", ">= 1000", "higher")}
    for key in ("lost_frames", "out_of_bounds", "not_restored", "not_ended"):
        figures[key] = figure(all_of_them[key], "", "0", "lower")
    for key in ("survived", "cleanly_stopped", "killed"):
        figures[key] = figure(all_of_them[key], "", "the rest of them", "higher")
    return figures, rows, _picture(rows)


def _counted(outcomes: Sequence[dict[str, Any]]) -> dict[str, int]:
    counts = {"faults": len(outcomes)}
    for how in ("survived", "cleanly_stopped", "killed"):
        counts[how] = sum(one["ended"] == how for one in outcomes)
    for what in ("lost_frames", "out_of_bounds", "not_restored", "not_ended"):
        counts[what] = sum(one[what] for one in outcomes)
    return counts


def strike(number: int, *, seed: int, plans: Sequence[str] = tuple(PLANS)) -> list[dict[str, Any]]:
    """Run plans in each of which something breaks; return what came of it.

    Parameters
    ----------
    number : int
        Of runs.
    seed : int
        Of plans, kinds and moments.
    plans : sequence of str
        Names in `PLANS`.
    """
    rng = np.random.default_rng(seed)
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    benches = {}
    outcomes = []
    with _catalogue(folder) as (catalog, emitted):
        for name in plans:
            benches[name] = Bench(name, folder, catalog)
        for count in range(number):
            bench = benches[plans[count % len(plans)]]
            kind = str(rng.choice([one for one in KINDS if bench.calls[KINDS[one].part]]))
            moment = int(rng.integers(bench.calls[KINDS[kind].part]))
            outcome = bench.struck(kind, moment)
            outcomes.append(outcome)
            for run in bench.recorded.runs:
                emitted[run] = (bench.recorded.runs[run], outcome)
            if bench.broken:
                benches[bench.name] = Bench(bench.name, folder, catalog)
            if outcome["problem"] or count % 100 == 99:
                print(count + 1, outcome, file=sys.stderr, flush=True)
    # what the catalogue did not take is stored when it is opened again
    with _catalogue(folder) as (catalog, _):
        for run, (uids, outcome) in emitted.items():
            lost = len(uids - _stored(catalog, run))
            if lost:
                outcome["lost_frames"] += lost
                outcome["problem"] += f" {lost} Events are not in the catalogue;"
                print(outcome, file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    return outcomes


@contextlib.contextmanager
def _catalogue(folder: Path) -> Any:
    import logging

    # that runs are not in the catalogue yet is what is asked for
    logger = logging.getLogger("bluesky_autofocus.catalog._catalog")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    catalog = open_catalog(folder / "data")
    try:
        yield catalog, {}
    finally:
        catalog.close()
        logger.setLevel(before)


def _stored(catalog: Any, run: str) -> set[str]:
    """Return which Events of a run the catalogue holds."""
    if run not in catalog.client:
        return set()
    return {_event(doc) for name, doc in catalog.client[run].documents() if name == "event"}


def _event(doc: dict[str, Any]) -> str:
    """Return what an Event is known by: a catalogue makes up uids of its own."""
    return f"{doc['descriptor']}/{doc['seq_num']}"


class Recorded:
    """What a RunEngine has emitted.

    Attributes
    ----------
    runs : dict
        The Events of each run.
    """

    def __init__(self) -> None:
        self.documents: list[tuple[str, dict[str, Any]]] = []
        self.runs: dict[str, set[str]] = {}
        self._run = ""

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take in a document."""
        self.documents.append((name, doc))
        if name == "start":
            self._run = doc["uid"]
            self.runs[self._run] = set()
        elif name == "event":
            self.runs[self._run].add(_event(doc))

    def clear(self) -> None:
        """Forget all of it."""
        self.documents.clear()
        self.runs = {}

    def named(self, name: str) -> list[dict[str, Any]]:
        """Return the documents of a name."""
        return [doc for of, doc in self.documents if of == name]

    def lost(self) -> int:
        """Return how many Events with a frame do not have it in its file, as it was when it was taken."""
        return lost_of(self.documents)


def lost_of(documents: Sequence[tuple[str, dict[str, Any]]]) -> int:
    """Return how many Events with a frame do not have it in its file, by the documents of runs."""
    of = collections.defaultdict(list)
    for name, doc in documents:
        of[name].append(doc)
    with_image = {doc["uid"]: doc for doc in of["descriptor"] if "camera_image" in doc["data_keys"]}
    frames: dict[tuple[str, str], list[float]] = collections.defaultdict(list)
    resources = {doc["uid"]: doc for doc in of["stream_resource"]}
    for datum in of["stream_datum"]:
        descriptor = with_image[datum["descriptor"]]
        path = Path(unquote(urlparse(resources[datum["stream_resource"]]["uri"]).path))
        start, stop = datum["indices"]["start"], datum["indices"]["stop"]
        with contextlib.suppress(OSError), h5py.File(path, "r", libver="latest", swmr=True) as file:
            dataset: Any = file[resources[datum["stream_resource"]]["parameters"]["dataset"]]
            means = [float(np.mean(frame, dtype=float)) for frame in dataset[start:stop]]
            frames[descriptor["run_start"], descriptor["name"]] += means
    events: dict[tuple[str, str], list[float]] = collections.defaultdict(list)
    for event in of["event"]:
        if event["descriptor"] in with_image:
            descriptor = with_image[event["descriptor"]]
            events[descriptor["run_start"], descriptor["name"]].append(event["data"]["camera_mean"])
    lost = 0
    for stream, means in events.items():
        rows = frames[stream]
        lost += max(len(means) - len(rows), 0)
        pairs = zip(means, rows, strict=False)
        lost += sum(not math.isclose(*pair, rel_tol=1e-5, abs_tol=1e-6) for pair in pairs)
    return lost


class Bench:
    """A plan on its rig, with a RunEngine and a catalogue.

    Parameters
    ----------
    name : str
        Of the plan.
    folder : Path
        For the frames.
    catalog : Catalog
    """

    def __init__(self, name: str, folder: Path, catalog: Any) -> None:
        self.name, self.catalog = name, catalog
        self.rig = make_rig(name, Path(tempfile.mkdtemp(prefix=f"{name}-", dir=folder)))
        self.RE = RunEngine()
        install_frame_routing(self.RE)
        self.recorder = catalog.recorder()
        catalog._writers.remove(self.recorder)  # noqa: SLF001
        catalog._writers.insert(0, self.recorder)  # noqa: SLF001
        # before the recorder, which may fail: what follows it is not told then
        self.recorded = Recorded()
        self.RE.subscribe(self.recorded)
        self.RE.subscribe(self.recorder)
        for analysis in self.rig.analyses:
            self.RE.subscribe(analysis)
        self.places = Places(self.rig, self.RE, _Of(self.recorder))
        self.targets: list[tuple[str, float]] = []
        for axis_name, axis in self.rig.axes.items():
            self._watch(axis_name, axis)
        self.broken = False
        self.before = self.rig.now
        with self.places.counted() as self.calls:
            self.RE(PLANS[name](self.rig))
        self.catalog_holds()

    def catalog_holds(self) -> None:
        """Make sure that the undisturbed run is recorded as it should be."""
        (run,) = self.recorded.runs
        if self.recorded.lost() or self.recorded.runs[run] - _stored(self.catalog, run):
            raise RuntimeError(f"{self.name}: of an undisturbed run something is lost")

    def _watch(self, name: str, axis: Any) -> None:
        checked = axis.check_value

        def check_value(value: float, **kwargs: Any) -> None:
            checked(value, **kwargs)

        start = axis.motion.start

        def started(target_um: float, *args: Any) -> Any:
            self.targets.append((name, target_um))
            return start(target_um, *args)

        axis.motion.start = started
        axis.check_value = check_value

    def struck(self, kind: str, moment: int) -> dict[str, Any]:
        """Run the plan while something breaks, and see what came of it."""
        self.rig.reset()
        self.recorded.clear()
        self.targets.clear()
        self.before, self.broken = self.rig.now, False
        error = ""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of ophyd, about a status that nobody waits for any more
            with KINDS[kind].at(self.places, moment) as happened:
                error = self._run(kind)
        problems = []
        if self.RE.state != "idle":
            self.broken = True
            problems.append(f"the RunEngine is {self.RE.state}")
        self.rig.clock.advance(5.0)
        starts, stops = self.recorded.named("start"), self.recorded.named("stop")
        not_ended = len(starts) != len(stops) or self.broken
        if len(starts) != len(stops):
            problems.append(f"{len(starts)} runs were opened and {len(stops)} closed")
        lost = self.recorded.lost()
        if lost:
            problems.append(f"{lost} Events have no frame, or another one")
        beyond = self._beyond()
        if beyond:
            problems.append(f"moves beyond: {beyond}")
        changed = "" if "halted" in kind else self._changed()
        if changed:
            problems.append(f"not restored: {changed}")
        return {
            "plan": self.name,
            "kind": kind,
            "moment": moment,
            "struck": bool(happened),
            "ended": "cleanly_stopped" if error else "survived",
            "error": error,
            "exit_status": stops[-1]["exit_status"] if stops else "",
            "lost_frames": lost,
            "out_of_bounds": int(bool(beyond)),
            "not_restored": int(bool(changed)),
            "not_ended": int(not_ended),
            "problem": "; ".join(problems),
        }

    def _run(self, kind: str) -> str:
        """Run the plan; return what ended it, empty if it came to its end."""
        try:
            try:
                self.RE(PLANS[self.name](self.rig))
            except RunEngineInterrupted as interrupted:
                if self.RE.state != "paused":
                    return repr(interrupted)
                if kind == "paused":
                    self.RE.resume()
                    return ""
                self.RE.abort()
                return "paused and aborted"
        except KeyboardInterrupt:
            return "interrupted when all was over"
        except Exception as error:
            return repr(error)
        return ""

    def _beyond(self) -> str:
        """Return which moves of the focus axis left the travel range, or its limits."""
        low_um, high_um = TRAVEL_UM if self.name != "autofocus_wrapper" else LIMITS_UM
        of_focus = [target for name, target in self.targets if name == "z"]
        beyond: list[Any] = [target for target in of_focus if not low_um <= target <= high_um]
        for name, axis in self.rig.axes.items():
            low, high = axis.limits
            if not low <= axis.load_um <= high:
                beyond.append((name, axis.load_um))
        return str(beyond) if beyond else ""

    def _changed(self) -> str:
        """Return what is not as before."""
        now = self.rig.now
        moved = () if self.name != "autofocus_wrapper" else ("x", "y")  # a grid scan leaves the stage
        found = [
            event["data"]["verdict_position_um"]
            for event in self.recorded.named("event")
            if event["data"].get("verdict_found")
        ]
        expected = {**self.before, **(SET_WHERE_FOUND.get(self.name, {}) if found else {})}
        changed = [
            f"{key} is {now[key]!r}, not {value!r}"
            for key, value in expected.items()
            if key not in moved and not _same(value, now[key])
        ]
        followed = [
            event["data"]["focus_followed_position_um"]
            for event in self.recorded.named("event")
            if "focus_followed_position_um" in event["data"]
        ]
        keeps_focus = self.name not in GOES_BACK
        allowed = [self.rig.start["z"], *((found + followed) if keeps_focus else [])]
        at_um = self.rig.axes["z"].load_um
        if not any(abs(at_um - one) < 0.02 for one in allowed):
            changed.append(f"z is {at_um}, not {allowed}")
        return ", ".join(changed)


class _Of:
    """A catalogue that has one recorder."""

    def __init__(self, recorder: Any) -> None:
        self._writers = [recorder]


def _same(before: Any, now: Any) -> bool:
    return abs(before - now) < NEARLY_UM if isinstance(before, float) else before == now


# Killed processes


def kill_some(number: int, *, seed: int, plans: Sequence[str] = tuple(PLANS)) -> list[dict[str, Any]]:
    """Kill processes in which plans run, and see what the catalogue holds that is opened next."""
    rng = np.random.default_rng((seed, 1))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.faults"])
    outcomes = []
    for count in range(number):
        plan = plans[count % len(plans)]
        part = str(rng.choice(["trigger", "focus axis", "frame file", "spool", "catalogue", "analysis"]))
        folder = Path(tempfile.mkdtemp(prefix="killed-"))
        process = context.Process(target=_killed, args=(plan, part, float(rng.random()), folder))
        process.start()
        process.join(120)
        problem = "" if process.exitcode == -9 else f"it ended with {process.exitcode}"
        if process.is_alive():
            process.kill()
            problem = "it hangs"
        emitted = (folder / "emitted").read_text().split()
        with _catalogue(folder) as (catalog, _):
            documents = [one for run in catalog.client.values() for one in run.documents()]
            spooled = [one for path in folder.rglob("*.jsonl") for one in read_spooled(path)]
        kept = {_event(doc) for name, doc in documents if name == "event"}
        missing = len(set(emitted) - kept)
        lost = lost_of([(name, dict(doc)) for name, doc in documents]) + missing
        if lost or spooled:
            problem += f" {missing} documents are lost, {lost - missing} frames, {len(spooled)} left over"
        outcome = {
            "plan": plan,
            "kind": f"killed at: {part}",
            "ended": "killed",
            "lost_frames": lost,
            "out_of_bounds": 0,
            "not_restored": 0,
            "not_ended": int(bool(problem) and not lost),
            "problem": problem,
        }
        outcomes.append(outcome)
        if problem:
            print(outcome, file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
    return outcomes


def _killed(plan: str, part: str, when: float, folder: Path) -> None:
    """Run a plan twice, the second time until it is killed; note each Event that has been recorded."""
    moving.STOPPING_S = STALLED_S
    with _catalogue(folder) as (catalog, _):
        bench = Bench(plan, folder, catalog)
        noted = os.open(folder / "emitted", os.O_WRONLY | os.O_CREAT)

        def note(name: str, doc: dict[str, Any]) -> None:
            if name == "event":
                os.write(noted, f"{_event(doc)}\n".encode())

        bench.RE.subscribe(note)
        bench.rig.reset()
        with Kind(part, kill).at(bench.places, int(when * bench.calls[part])):
            bench.RE(PLANS[plan](bench.rig))


def _picture(rows: Sequence[dict[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    picture = Figure(figsize=(9, 10), layout="constrained")
    ax = picture.add_subplot()
    shown = rows[::-1]
    left = np.zeros(len(shown))
    for key, colour in (("survived", "C2"), ("cleanly_stopped", "C0"), ("killed", "0.6")):
        width = np.array([row[key] for row in shown], float)
        ax.barh([row["kind"] for row in shown], width, left=left, color=colour, label=key.replace("_", " "))
        left += width
    for number, row in enumerate(shown):
        bad = sum(row[key] for key in ("lost_frames", "out_of_bounds", "not_restored", "not_ended"))
        ax.text(left[number], number, f" {bad} bad" if bad else "", va="center", color="red")
    ax.set(xlabel="faults")
    ax.legend()
    return picture


if __name__ == "__main__":
    moving.STOPPING_S = STALLED_S
    run(
        "faults",
        measure,
        seed=SEED,
        columns=(
            "kind", "plans", "faults", "survived", "cleanly_stopped", "killed", "lost_frames",
            "out_of_bounds", "not_restored", "not_ended",
        ),
    )  # fmt: skip
