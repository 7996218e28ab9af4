"""Frames go, and all else stays as it was: documents, shapes, readings, and the frames that are kept."""

# ruff: noqa: N803 - every bluesky user calls it RE

import dataclasses
import errno
import json
import logging
import math
import os
import subprocess
import sys
import textwrap
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.utils import Msg, RunEngineInterrupted
from filelock import FileLock

import bluesky_autofocus.session as session_module
from bluesky_autofocus.callbacks import SharpnessAnalysis, analyse
from bluesky_autofocus.callbacks._computed_run import ComputedRun
from bluesky_autofocus.catalog import open_catalog
from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.devices import SimulatedAxis, SimulatedCamera, SimulatedSEM
from bluesky_autofocus.disk import DiskFullError
from bluesky_autofocus.frames import (
    DATASET,
    FrameCache,
    FrameFile,
    PrunedFrameError,
    install_frame_routing,
    read_frame,
)
from bluesky_autofocus.plans import autofocus, brent_focus, record_labels
from bluesky_autofocus.records import FocusLabel, Reason
from bluesky_autofocus.retention import (
    Pruning,
    RecordedReading,
    RecordedRun,
    RecordedVerdict,
    RunOpenError,
    _file,
    _pruning,
    deleted_frames,
    keep_all,
    keep_in_focus,
    policy_named,
    prune,
    pruning_history,
    readings_only,
    runs_older_than,
)
from bluesky_autofocus.retention._automatic import PruneAfterRun
from bluesky_autofocus.session import open_session
from bluesky_autofocus.simulation import SEMImageFormation, scene

# Of packages below Tiled, at their own use of each other
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")


# Which frames stay


def reading(number, position_um, stream="focus_brent", **said):
    return RecordedReading(f"{stream}/{number}", stream, number, position_um, **said)


def verdict(*readings, found=True, position_um=10.0, sigma_um=0.1, depth_of_field_um=2.0):
    uids = frozenset(one.event_uid for one in readings)
    return RecordedVerdict(found, position_um, sigma_um, depth_of_field_um, uids)


def run_of(*verdicts, readings, frames=None):
    recorded = {}
    for one in readings:
        recorded.setdefault(one.stream, set()).add(one.seq_num)
    return RecordedRun({**recorded, **(frames or {})}, tuple(readings), verdicts)


class TestPolicies:
    search = [reading(number, at) for number, at in enumerate((0, 20, 9.2, 11.4, 10.6, 10.02), start=1)]

    def test_all(self):
        assert keep_all(run_of(readings=self.search)) == {}

    def test_readings(self):
        run = run_of(readings=self.search, frames={"primary": frozenset({1, 2})})
        assert readings_only(run) == {"focus_brent": {1, 2, 3, 4, 5, 6}, "primary": {1, 2}}

    @pytest.mark.parametrize(
        ("said", "goes"),
        [
            ({}, {1, 2, 4}),
            ({"depth_of_field_um": 0.1}, {1, 2, 3, 4, 5}),
            ({"depth_of_field_um": 0.1, "sigma_um": 1.5}, {1, 2}),
            ({"depth_of_field_um": math.nan}, {1, 2, 3, 4, 5}),
            # held back: no frame was taken at the focus, and the nearest stays
            ({"position_um": 30.0}, {1, 3, 4, 5, 6}),
            ({"depth_of_field_um": math.nan, "sigma_um": math.nan}, {1, 2, 3, 4, 5}),
        ],
    )
    def test_in_focus_by_position(self, said, goes):
        run = run_of(verdict(*self.search, **said), readings=self.search)
        assert keep_in_focus(run) == {"focus_brent": goes}

    def test_what_nobody_judged_stays(self):
        later = reading(7, 50.0)
        run = run_of(verdict(*self.search), readings=[*self.search, later], frames={"focus_sweep": {1}})
        assert keep_in_focus(run) == {"focus_brent": {1, 2, 4}}

    def test_what_led_to_no_focus_stays(self):
        """It tells why."""
        again = [reading(number, at) for number, at in ((7, 10.0), (8, 40.0))]
        failed = verdict(*self.search, found=False, position_um=math.nan, sigma_um=math.nan)
        run = run_of(failed, verdict(*again), readings=[*self.search, *again])
        assert keep_in_focus(run) == {"focus_brent": {8}}

    def test_streams_that_are_not_of_focusing_stay(self):
        frames = [reading(number, at, stream="primary") for number, at in ((1, 0.0), (2, 10.0))]
        assert keep_in_focus(run_of(verdict(*frames), readings=frames)) == {}

    def test_a_frame_whose_own_reading_says_so(self):
        seen = [
            reading(1, 30.0, defocus_um=0.9),
            reading(2, 30.0, defocus_um=-1.1),
            reading(3, 30.0, index=0.0),
            reading(4, 30.0, index=1.0, defocus_um=6.0),
            reading(5, 10.0),
        ]
        assert keep_in_focus(run_of(verdict(*seen), readings=seen)) == {"focus_brent": {2, 4}}

    def test_an_operation_within_another(self):
        """The verdict of `focus_if_blurred` is about the frames of the search within as well."""
        look = reading(1, 40.0, stream="focus_blur")
        outer = verdict(look, *self.search, depth_of_field_um=math.nan)
        run = run_of(verdict(*self.search), outer, readings=[look, *self.search])
        assert keep_in_focus(run) == {"focus_brent": {1, 2, 4}, "focus_blur": {1}}

    @pytest.mark.parametrize("positions", [(math.nan, math.nan), (math.nan, 10.0), (10.0, math.nan)])
    def test_frames_taken_nobody_knows_where(self, positions):
        seen = [reading(number, at) for number, at in enumerate(positions)]
        goes = keep_in_focus(run_of(verdict(*seen), readings=seen)).get("focus_brent", set())
        assert goes == (
            {number for number, at in enumerate(positions) if math.isnan(at)} if 10.0 in positions else set()
        )

    def test_by_name(self):
        assert policy_named("in-focus") is keep_in_focus
        with pytest.raises(ValueError, match="no retention 'some': expected one of all, in-focus, readings"):
            policy_named("some")


# The file


def make_file(path, rows=6, dtype=np.uint16, shape=(20, 30)):
    frames = np.random.default_rng(0).integers(1, 200, (rows, *shape)).astype(dtype)
    file = FrameFile(path, frames[0])
    for row, frame in enumerate(frames):
        file.append(frame)
        file.saved = row + 1
    file.close()
    return frames


SAID = {
    "time": "2026-01-01T00:00:00+0000",
    "user": "somebody",
    "keep": "in-focus",
    "frames": 2,
    "bytes": 1200,
}


def resource_of(path):
    return {
        "uid": "not in memory",
        "data_key": "camera_image",
        "uri": path.as_uri(),
        "parameters": {"dataset": DATASET},
    }


class TestFile:
    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "run" / "focus-camera_image.h5"

    @pytest.mark.parametrize("dtype", ["<u2", ">u2", "|u1", "<f4", "<f8"])
    def test_what_stays_stays_to_the_bit(self, path, dtype):
        frames = make_file(path, dtype=np.dtype(dtype))
        before = path.stat().st_size
        gone = np.array([True, False, False, True, True, False])
        freed = _file.delete_rows(path, gone, SAID)
        assert freed == before - path.stat().st_size
        assert freed == pytest.approx(frames[gone].nbytes, abs=5000), "less what the record takes"
        with h5py.File(path) as file:
            found = file[DATASET]
            assert (found.shape, found.dtype, found.chunks) == (frames.shape, frames.dtype, (1, 20, 30))
            assert found.maxshape == (None, 20, 30)
            assert found[~gone].tobytes() == frames[~gone].tobytes()
            deleted = found[gone]
            assert (np.isnan(deleted) if deleted.dtype.kind == "f" else deleted == 0).all()
        assert _file.rows_deleted(path).tolist() == gone.tolist()
        assert _file.frame_bytes(path).tolist() == [0 if one else frames[0].nbytes for one in gone]
        assert _file.prunings(path) == [SAID]

    def test_read_frame_says_so(self, path):
        frames = make_file(path)
        _file.delete_rows(path, np.arange(6) == 2, SAID)
        assert (read_frame(resource_of(path), 1) == frames[1]).all()
        with pytest.raises(
            PrunedFrameError, match=r"frame 2 of 'camera_image' was deleted .*in-focus, 2026-01-01, by some"
        ):
            read_frame(resource_of(path), 2)

    def test_several_times(self, path):
        frames = make_file(path)
        _file.delete_rows(path, np.arange(6) == 2, SAID)
        _file.delete_rows(path, np.arange(6) > 3, {**SAID, "user": "somebody else"})
        assert _file.rows_deleted(path).tolist() == [False, False, True, False, True, True]
        assert [said["user"] for said in _file.prunings(path)] == ["somebody", "somebody else"]
        with h5py.File(path) as file:
            assert (file[DATASET][:2] == frames[:2]).all()

    def test_all_of_it(self, path):
        make_file(path, rows=50, shape=(100, 100))
        _file.delete_rows(path, np.ones(50, bool), SAID)
        assert path.stat().st_size < 20_000
        with h5py.File(path) as file:
            assert file[DATASET].shape == (50, 100, 100)

    def test_what_else_is_in_it_stays(self, path):
        """Compression, attributes, other data sets, permissions."""
        path.parent.mkdir()
        with h5py.File(path, "w", libver="latest") as file:
            made = file.create_dataset(
                DATASET, shape=(4, 64, 64), maxshape=(None, 64, 64), chunks=(1, 64, 64), dtype="u2",
                compression="gzip", shuffle=True,
            )  # fmt: skip
            made[:] = np.arange(4)[:, None, None] * 1000
            made.attrs["units"] = "counts"
            file.attrs["made_by"] = "another"
            file["/entry/instrument/temperature"] = np.arange(4.0)
            file["/entry/instrument"].attrs["name"] = "camera"
        path.chmod(0o640)
        _file.delete_rows(path, np.arange(4) == 1, SAID)
        with h5py.File(path) as file:
            assert file[DATASET][:, 5, 6].tolist() == [0, 0, 2000, 3000]
            assert (file[DATASET].compression, file[DATASET].shuffle) == ("gzip", True)
            assert file[DATASET].attrs["units"] == "counts"
            assert file.attrs["made_by"] == "another"
            assert file["/entry/instrument/temperature"][()].tolist() == [0, 1, 2, 3]
            assert file["/entry/instrument"].attrs["name"] == "camera"
        if os.name == "posix":
            assert path.stat().st_mode & 0o777 == 0o640

    def test_chunks_of_several_frames(self, path):
        path.parent.mkdir()
        with h5py.File(path, "w") as file:
            file.create_dataset(DATASET, data=np.zeros((6, 4, 4)), chunks=(2, 4, 4))
        with pytest.raises(ValueError, match=r"chunks of \(2, 4, 4\): expected one for each frame"):
            _file.frame_bytes(path)

    def test_a_reader_who_has_it_open_goes_on_to_read_the_old_one(self, path):
        frames = make_file(path)
        if os.name == "nt":
            pytest.skip("an open file cannot be replaced here")
        with h5py.File(path, "r", libver="latest", swmr=True) as file:
            _file.delete_rows(path, np.ones(6, bool), SAID)
            assert (file[DATASET][:] == frames).all()

    @pytest.mark.parametrize("fails", ["_copy_chunk", "_to_disk", "_copy_all_but_frames"])
    def test_what_fails_leaves_the_old_file(self, path, monkeypatch, fails):
        frames = make_file(path)

        def failing(*args):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(_file, fails, failing)
        with pytest.raises(
            DiskFullError, match=r"no room for 16\.0 kB, a copy of the frames of .* that stay"
        ):
            _file.delete_rows(path, np.arange(6) == 1, SAID)
        assert [one.name for one in path.parent.iterdir()] == [path.name]
        with h5py.File(path) as file:
            assert (file[DATASET][:] == frames).all()


LEFT_OPEN = """
    import os, sys
    from pathlib import Path
    import numpy as np
    from bluesky_autofocus.frames import FrameFile

    file = FrameFile(Path(sys.argv[1]), np.zeros((20, 30), np.uint16))
    for row in range(4):
        file.append(np.full((20, 30), row + 1, np.uint16))
        file.saved = row + 1
    os._exit(0)
"""


def test_a_file_that_a_killed_process_left_open(tmp_path):
    path = tmp_path / "frames.h5"
    subprocess.run([sys.executable, "-c", textwrap.dedent(LEFT_OPEN), str(path)], check=True)
    with pytest.raises(OSError, match="already open for write"):
        h5py.File(path)
    _file.delete_rows(path, np.arange(4) == 1, SAID)
    with h5py.File(path) as file:
        assert file[DATASET][:, 0, 0].tolist() == [1, 0, 3, 4]


KILLED = """
    import itertools, os, signal, sys
    from pathlib import Path
    import h5py
    import numpy as np
    from bluesky_autofocus.frames import DATASET, PRUNED, FrameFile
    from bluesky_autofocus.retention import _file

    folder, rows = Path(sys.argv[1]), 5
    gone = np.arange(rows) % 2 == 1
    working = {name: getattr(_file, name) for name in ("_copy_all_but_frames", "_copy_chunk", "_to_disk")}
    replace = os.replace

    def die_at(step):
        steps = itertools.count()

        def dying(function):
            def call(*args):
                for of_step in (lambda: function(*args), lambda: None):
                    if next(steps) == step:
                        os.kill(os.getpid(), signal.SIGKILL)
                    result = of_step()
            return call

        for name, function in working.items():
            setattr(_file, name, dying(function))
        os.replace = dying(replace)

    for step in itertools.count():
        path = folder / f"{step}.h5"
        file = FrameFile(path, np.zeros((8, 9), np.uint16))
        for row in range(rows):
            file.append(np.full((8, 9), row + 1, np.uint16))
            file.saved = row + 1
        file.close()
        child = os.fork()
        if child == 0:
            die_at(step)
            _file.delete_rows(path, gone, {"keep": "in-focus"})
            os._exit(0)
        _, status = os.waitpid(child, 0)
        with h5py.File(path) as file:
            found, marked = file[DATASET][:, 0, 0].tolist(), PRUNED in file
            assert file[DATASET].shape == (rows, 8, 9)
        assert (found, marked) in (([1, 2, 3, 4, 5], False), ([1, 0, 3, 0, 5], True)), (step, found)
        _file.remove_unfinished(folder)
        assert sorted(one.name for one in folder.iterdir()) == [path.name]
        if not marked:
            _file.delete_rows(path, gone, {"keep": "in-focus"})
            assert _file.rows_deleted(path).tolist() == gone.tolist()
        path.unlink()
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0 and marked
            break
        print(step, "new" if marked else "old")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
def test_a_process_that_is_killed_at_any_step(tmp_path):
    """There is the old file or the new one; what is left beside it is removed by the next."""
    script = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)]
    ended = subprocess.run(script, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = [line.split()[1] for line in ended.stdout.splitlines()]
    assert len(found) > 12, (
        "before and after each of: the rest of the file, three frames, two syncs, the renaming"
    )
    assert found == sorted(found, reverse=True), "old up to some step, new from there on"
    assert set(found) == {"old", "new"}


# A run


class Bench:
    """A RunEngine that records into a catalogue, a SEM, and a camera that numbers its frames."""

    def __init__(self, catalog, sem):
        self.catalog, self.db, self.sem = catalog, catalog.client, sem
        self.RE = RunEngine()
        install_frame_routing(self.RE)
        catalog.subscribe(self.RE)
        self.analysis = SharpnessAnalysis()
        self.RE.subscribe(self.analysis)
        self.z = SimulatedAxis(name="z", limits=(-100, 100))
        self.number = 0
        self.camera = SimulatedCamera(
            name="camera", render=self.render, frame_directory=catalog.frame_directory, frame_shape=(8, 9)
        )

    def render(self):
        self.number += 1
        return np.full((8, 9), self.number, np.uint16)

    def count(self, frames=4, **md):
        self.RE(bp.count([self.camera], frames, md=md))
        return self.db[-1]

    def focus(self, **md):
        dof_um = self.sem.depth_of_field_um
        self.sem.working_distance.set(10_030.0).wait(1)
        self.RE(
            autofocus(
                [self.sem], self.sem.working_distance, analysis=self.analysis, method="brent",
                range_um=30 * dof_um, depth_of_field_um=dof_um, md=md,
            )
        )  # fmt: skip
        return self.db[-1]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    opened = open_catalog(tmp_path_factory.mktemp("catalogue") / "data")
    yield opened
    opened.close()


@pytest.fixture
def bench(catalog, make_sem):
    return Bench(catalog, make_sem(frame_directory=catalog.frame_directory))


@pytest.fixture(autouse=True)
def from_disk(monkeypatch):
    monkeypatch.setattr("bluesky_autofocus.frames.recent_frames", FrameCache())


def documents_of(run):
    return json.dumps(list(run.documents()), default=dict)


def numbers_in(run, stream="primary"):
    return np.asarray(run[stream, "camera_image"].read())[:, 0, 0].tolist()


@dataclasses.dataclass
class Pruned:
    """A focusing run of which only the frames in focus were kept, and what it was like before."""

    run: Any
    done: Pruning
    foreseen: Pruning
    documents: str
    tables: dict
    readings: list
    file_bytes: tuple[int, int, int]
    depth_of_field_um: float


@pytest.fixture(scope="module")
def pruned(catalog):
    formation = SEMImageFormation(
        scene("grains", seed=1, shape=(256, 256)), frame_shape=(128, 128), scene_magnification=20_000
    )
    sem = SimulatedSEM(name="sem", image_formation=formation, frame_directory=catalog.frame_directory)
    sem.magnification.put(20_000.0)
    bench = Bench(catalog, sem)
    run = bench.focus()
    (path,) = (catalog.frame_directory / run.start["uid"]).iterdir()
    documents, tables = documents_of(run), {stream: run[stream].read() for stream in run}
    readings = analyse(run, bench.analysis)["focus_brent"]
    file_bytes = [path.stat().st_size]
    foreseen = prune(bench.db, run, "in-focus", dry_run=True)
    file_bytes.append(path.stat().st_size)
    done = prune(bench.db, run, "in-focus")
    file_bytes.append(path.stat().st_size)
    run = bench.db[run.start["uid"]]
    return Pruned(run, done, foreseen, documents, tables, readings, tuple(file_bytes), sem.depth_of_field_um)


class TestFocusingRun:
    key = "focus_brent", "sem_camera_image"

    def test_documents_are_as_they_were(self, pruned):
        assert documents_of(pruned.run) == pruned.documents

    def test_tables_are_as_they_were(self, pruned):
        mask = deleted_frames(pruned.run)[self.key]
        assert 0 < mask.sum() == pruned.done.deleted < len(mask) == pruned.done.frames
        assert set(pruned.run) == set(pruned.tables) == {"focus_brent", "reading_sharpness", "verdict"}
        for stream, before in pruned.tables.items():
            after = pruned.run[stream].read()
            assert set(after) == set(before)
            for key in before:
                assert after[key].shape == before[key].shape and after[key].dtype == before[key].dtype
                if key != "sem_camera_image":
                    np.testing.assert_array_equal(after[key].values, before[key].values)
                    continue
                assert (after[key].values[~mask] == before[key].values[~mask]).all()
                assert before[key].values[mask].any(axis=(1, 2)).all()
                assert not after[key].values[mask].any()

    def test_frames_are_read_one_by_one(self, pruned):
        images = pruned.run[self.key]
        assert images.chunks[0] == (1,) * len(pruned.readings)
        for row, gone in enumerate(deleted_frames(pruned.run)[self.key]):
            assert np.asarray(images[row]).any() == (not gone)

    def test_what_is_in_focus_stays(self, pruned):
        mask = deleted_frames(pruned.run)[self.key]
        position_um = pruned.tables["reading_sharpness"]["sharpness_position_um"].values
        verdict = pruned.tables["verdict"]
        (found_um,), (sigma_um,) = (verdict[f"verdict_{key}_um"].values for key in ("position", "sigma"))
        reach_um = max(pruned.depth_of_field_um / 2, sigma_um)
        assert mask.tolist() == (np.abs(position_um - found_um) > reach_um).tolist()
        assert not mask[-1], "the one that confirmed the focus"

    def test_frees_what_the_frames_took(self, pruned):
        done, foreseen = pruned.done, pruned.foreseen
        assert (done.deleted, done.n_bytes) == (foreseen.deleted, foreseen.n_bytes)
        assert (done.dry_run, foreseen.dry_run) == (False, True)
        assert done.n_bytes == done.deleted * 128 * 128
        assert done.without_reading == 0
        before, unchanged, after = pruned.file_bytes
        assert unchanged == before
        assert before - after == pytest.approx(done.n_bytes, abs=5000)

    def test_can_be_analysed_again(self, pruned):
        after = analyse(pruned.run, SharpnessAnalysis())["focus_brent"]
        mask = deleted_frames(pruned.run)[self.key]
        for old, new, gone in zip(pruned.readings, after, mask, strict=True):
            assert (old.seq_num, old.event_uid) == (new.seq_num, new.event_uid)
            assert new.reason is (Reason.PRUNED if gone else Reason.OK)
            assert math.isnan(new.value) if gone else new.value == old.value

    def test_once_more(self, pruned, catalog, monkeypatch):
        monkeypatch.setattr("getpass.getuser", lambda: "somebody else")
        assert prune(catalog.client, pruned.run, "in-focus").n_bytes == 0, "it is all gone"
        (first,) = pruning_history(pruned.run)
        assert (first["stream"], first["key"], first["keep"]) == (*self.key, "in-focus")
        assert (first["frames"], first["bytes"]) == (pruned.done.deleted, pruned.done.n_bytes)
        assert first["user"] and first["time"][:2] == "20" and first["version"]
        rest = prune(catalog.client, pruned.run, "readings")
        assert rest.deleted == pruned.done.frames - pruned.done.deleted
        first, second = pruning_history(pruned.run)
        assert (second["keep"], second["user"]) == ("readings", "somebody else")
        assert deleted_frames(pruned.run)[self.key].all()


class TestRun:
    def test_the_streams_of_the_experiment_stay(self, bench):
        @bpp.run_decorator()
        def plan():
            yield from brent_focus(
                [bench.sem], bench.sem.working_distance, analysis=bench.analysis, range_um=150.0
            )
            for _ in range(2):
                yield from bps.trigger_and_read([bench.camera])

        bench.RE(plan())
        run = bench.db[-1]
        assert prune(bench.db, run, "all").deleted == 0
        done = prune(bench.db, run, "in-focus")
        assert [part.stream for part in done.parts if part.numbers] == ["focus_brent"]
        assert numbers_in(run) == [1, 2]
        done = prune(bench.db, run, "readings")
        assert numbers_in(run) == [0, 0]
        assert done.without_reading == 2

    def test_two_cameras_a_pause_and_a_policy_of_ones_own(self, bench, monkeypatch):
        """The row of an exposure that was taken again goes with that which replaced it."""
        other = SimulatedCamera(
            name="other",
            render=lambda: np.ones((4, 5), np.float32),
            frame_directory=bench.catalog.frame_directory,
            frame_shape=(4, 5),
            dtype=np.float32,
        )

        @bpp.run_decorator()
        def plan():
            for step in range(3):
                yield from bps.checkpoint()
                yield from bps.trigger_and_read([bench.camera, other])
                if step == 1:
                    yield Msg("pause")
            for _ in range(2):
                yield from bps.trigger_and_read([bench.camera], name="z_nothing_stays")

        def second(recorded):
            return {"primary": {2}, "z_nothing_stays": recorded.frames["z_nothing_stays"]}

        with pytest.raises(RunEngineInterrupted):
            bench.RE(plan())
        bench.RE.resume()
        run = bench.db[-1]
        assert numbers_in(run) == [1, 2, 3, 4]
        order = []
        delete = _file.delete_rows
        monkeypatch.setattr(
            _pruning, "delete_rows", lambda path, *rest: (order.append(path.stem), delete(path, *rest))
        )
        done = prune(bench.db, run, second)
        assert done.deleted == 6
        assert numbers_in(run) == [1, 0, 0, 4]
        assert np.isnan(np.asarray(run["primary", "other_image"].read())).any(axis=(1, 2)).tolist() == [
            0,
            1,
            1,
            0,
        ]
        assert done.keep == pruning_history(run)[0]["keep"] == "second"
        assert order[0] == "z_nothing_stays-camera_image", "on a full disk that makes room for the copies"

    def test_while_it_is_open(self, bench):
        refused = []

        def plan():
            uid = yield from bps.open_run()
            yield from bps.trigger_and_read([bench.camera])
            while uid not in bench.db:  # the catalogue's writer has a thread of its own
                yield from bps.sleep(0.01)
            with pytest.raises(RunOpenError, match="is open: its frames may still be written"):
                prune(bench.db, bench.db[uid], "readings")
            assert uid not in [run.start["uid"] for run in runs_older_than(bench.db, 0)]
            refused.append(uid)
            yield from bps.trigger_and_read([bench.camera])
            yield from bps.close_run()

        bench.RE(plan())
        (uid,) = refused
        assert numbers_in(bench.db[uid]) == [1, 2]
        # and how old it is
        assert runs_older_than(bench.db, 0)[-1].start["uid"] == uid
        assert uid not in [one.start["uid"] for one in runs_older_than(bench.db, 0.01)]
        with pytest.raises(ValueError, match="an age of 0 days or more, got -1"):
            runs_older_than(bench.db, -1)

    def test_a_run_without_frames(self, bench):
        bench.RE(bp.count([bench.z]))
        assert prune(bench.db, bench.db[-1], "readings").frames == 0

    def test_what_cannot_be_pruned(self, bench, monkeypatch):
        run = bench.count()
        monkeypatch.setattr(_pruning, "PATIENCE_S", 0.01)
        with FileLock(bench.catalog.frame_directory / _pruning.LOCK):
            assert prune(bench.db, run, "readings", dry_run=True).deleted == 4
            with pytest.raises(OSError, match="another process is deleting frames"):
                prune(bench.db, run, "readings")
        (path,) = (bench.catalog.frame_directory / run.start["uid"]).iterdir()
        path.rename(path.with_name("elsewhere.h5"))
        done = prune(bench.db, run, "readings")
        assert done.deleted == 0
        assert done.spared == ("camera_image of primary is in no file of this run alone on this machine",)


def test_a_user_without_a_name(monkeypatch):
    def nobody():
        raise OSError("No username set in the environment")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert _pruning._user() == "unknown"


class TestReferences:
    def computed(self, bench, run):
        metadata = {"refocused_run": run.start["uid"]}
        return ComputedRun(bench.catalog.recorder(), bench.catalog.frame_directory, metadata)

    def test_to_frames_of_a_run(self, bench):
        run = bench.count(5)
        refocused = self.computed(bench, run)
        for number in (2, 4):
            refocused.add("refocused", {"of_stream": "primary", "of_seq_num": number})
        done = prune(bench.db, run, "readings")
        assert done.deleted == 0
        assert done.spared == (f"run {refocused.uid[:8]} is being computed from it",)
        refocused.close()

        done = prune(bench.db, run, "readings")
        assert done.deleted == 3
        assert numbers_in(run) == [0, 2, 0, 4, 0]
        assert done.spared == (f"run {refocused.uid[:8]} was computed from 2 of its frames",)

        summed = self.computed(bench, run)
        summed.add("sum", {"value": 1.0})
        summed.close()
        labels = [FocusLabel(0, 1, 2.0)]
        bench.RE(record_labels(labels, labels_of=run.start["uid"], labeller="somebody"))
        spared = prune(bench.db, run, lambda recorded: {"primary": {2}}).spared
        assert spared[0] == "its frames were labelled, in 1 run"
        assert f"run {summed.uid[:8]} was computed from it" in spared
        done = prune(bench.db, run, "readings", referred=True)
        assert (done.deleted, done.spared) == (2, ())

    def test_to_a_collection_for_training(self, bench):
        run = bench.count(collection="c0ffee", sample="cells")
        done = prune(bench.db, run, "readings")
        assert done.deleted == 0
        assert done.spared == ("it belongs to the collection c0ffee, to train networks with",)
        assert prune(bench.db, run, "in-focus").spared == (), "nothing would have gone"


# After each run


class TestAfterRun:
    @pytest.fixture
    def automatic(self, bench):
        made = PruneAfterRun(bench.db)
        bench.RE.subscribe(made)
        return made

    def test_as_the_run_says(self, bench, automatic):
        bench.count(retention="all")
        assert automatic.wait(30) is None
        seen = []
        automatic.first.append(lambda: seen.append(numbers_in(bench.db[-1])))
        run = bench.count(retention="readings")
        done = automatic.wait(30)
        assert (done.run, done.deleted) == (run.start["uid"], 4)
        assert pruning_history(run)[0]["keep"] == run.start["retention"]
        assert seen == [[5, 6, 7, 8]], "who still reads is waited for"

    def test_a_run_that_failed_keeps_its_frames(self, bench, automatic):
        @bpp.run_decorator(md={"retention": "readings"})
        def plan():
            yield from bps.trigger_and_read([bench.camera])
            raise RuntimeError("the beam is off")

        with pytest.raises(RuntimeError, match="beam"):
            bench.RE(plan())
        assert automatic.wait(30) is None
        assert numbers_in(bench.db[-1]) == [1]
        # unless it is told to
        assert prune(bench.db, bench.db[-1], "readings").deleted == 1

    def test_a_name_that_is_none_is_refused_before_the_first_exposure(self, bench, automatic):
        with pytest.raises(ValueError, match="no retention 'some'"):
            bench.count(retention="some")
        assert bench.number == 0

    def test_what_fails_is_told_and_disturbs_nobody(self, automatic, caplog):
        automatic("start", {"uid": "nonesuch", "retention": "readings"})
        with caplog.at_level(logging.ERROR):
            automatic("stop", {"run_start": "nonesuch", "exit_status": "success"})
            assert automatic.wait(30) is None
        assert "run nonesuch was not pruned; all its frames are there" in caplog.text


class TestSession:
    @pytest.fixture
    def session(self, tmp_path):
        with open_session(
            "sem", catalog=tmp_path / "data", show=None, clock=VirtualClock(), retention="in-focus"
        ) as opened:
            yield opened

    def test_retention_of_all_its_runs(self, session, monkeypatch):
        session.RE(session.focus())
        assert 0 < session.pruning.wait(30).deleted
        run = session.db[-1]
        assert run.start["retention"] == "in-focus"
        # and a plan may say otherwise
        session.RE(session.focus(md={"retention": "all"}))
        session.pruning.wait(30)
        assert pruning_history(session.db[-1]) == []
        # by hand
        foreseen = session.prune(dry_run=True)
        assert foreseen.run == session.db[-1].start["uid"] and foreseen.deleted > 0
        assert session.prune(run, keep="readings").deleted > 0
        # the disk is watched, too
        monkeypatch.setattr("bluesky_autofocus.plans._disk_guard.free_bytes", lambda _: 1000)
        with pytest.raises(DiskFullError, match="stopped before the disk is full"):
            session.RE(session.focus())
        assert "stopped before" in session.db[-1].stop["reason"]

        class Live:
            def __init__(self, *args, **options):
                pass

            def __call__(self, name, doc):
                order.append((name, "refocus"))

            def wait(self):
                order.append(("waited", ""))

        order = []
        monkeypatch.undo()
        monkeypatch.setattr(session_module, "LiveRefocus", Live)
        session.refocus(object())
        session.RE(bp.count(session.instrument.detectors))
        session.pruning.wait(30)
        assert order[-2:] == [("stop", "refocus"), ("waited", "")]

    def test_a_retention_that_is_none(self, tmp_path):
        with pytest.raises(ValueError, match="no retention 'some'"):
            open_session("sem", catalog=tmp_path / "data", retention="some")
