"""Runs on disk, through a server of their own and through databroker."""

import itertools
import json
import logging
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.utils import Msg, RunEngineInterrupted
from databroker.queries import TimeRange
from filelock import FileLock
from tiled.queries import Eq, Key

import bluesky_autofocus.callbacks._replay as replay_module
from bluesky_autofocus.callbacks import Analysis, AnalysisError, SharpnessAnalysis, analyse
from bluesky_autofocus.callbacks._computed_run import ComputedRun
from bluesky_autofocus.catalog import CatalogError, default_folder, open_catalog
from bluesky_autofocus.catalog._catalog import _Writer
from bluesky_autofocus.devices import SimulatedAxis, SimulatedCamera
from bluesky_autofocus.frames import FrameCache, install_frame_routing, read_frame
from bluesky_autofocus.records import Reading

# Of packages below Tiled, at their own use of each other
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")

# A process whose numbered camera records into the catalogue of a folder, and then does what it is told.
SESSION = """
    import itertools, sys
    import numpy as np
    import bluesky.plans as bp
    from bluesky import RunEngine
    from bluesky_autofocus.catalog import open_catalog
    from bluesky_autofocus.devices import SimulatedAxis, SimulatedCamera
    from bluesky_autofocus.frames import install_frame_routing

    catalog = open_catalog(sys.argv[1])
    number = itertools.count(1)
    camera = SimulatedCamera(
        name="camera", render=lambda: np.full((8, 9), next(number), np.uint16),
        frame_directory=catalog.frame_directory, frame_shape=(8, 9),
    )
    z = SimulatedAxis(name="z", limits=(-1000, 1000))
    RE = RunEngine()
    install_frame_routing(RE)
    catalog.subscribe(RE)
"""


def session(folder, script, **options):
    source = textwrap.dedent(SESSION) + textwrap.dedent(script)
    return subprocess.Popen(
        [sys.executable, "-c", source, str(folder)], stdout=subprocess.PIPE, text=True, **options
    )


class Number(Analysis):
    """Reads the number in the pixels."""

    def analyse_frame(self, frame):
        return Reading("", float(frame.max()))


class Bench:
    """A RunEngine that records into a catalogue, a camera that numbers its frames and an axis."""

    def __init__(self, catalog):
        self.catalog = catalog
        self.db = catalog.client
        self.RE = RunEngine()
        install_frame_routing(self.RE)
        catalog.subscribe(self.RE)
        number = itertools.count(1)
        self.camera = SimulatedCamera(
            name="camera",
            render=lambda: np.full((8, 9), next(number), np.uint16),
            frame_directory=catalog.frame_directory,
            frame_shape=(8, 9),
        )
        self.z = SimulatedAxis(name="z", limits=(-1000, 1000))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("catalogue") / "data"


@pytest.fixture(scope="module")
def catalog(folder):
    opened = open_catalog(folder)
    yield opened
    opened.close()


@pytest.fixture
def bench(catalog):
    return Bench(catalog)


def frames_and_means(run, stream="primary"):
    """Return the number in each frame, as the catalogue gives it, and in the Event that it belongs to."""
    images = np.asarray(run[stream, "camera_image"].read())
    assert (images == images[:, :1, :1]).all()
    return images[:, 0, 0].tolist(), np.asarray(run[stream].read()["camera_mean"]).astype(int).tolist()


class TestReading:
    def test_the_last_run(self, bench):
        (uid,) = bench.RE(bp.scan([bench.camera], bench.z, 0, 4, 5))
        run = bench.db[-1]
        assert run.start["uid"] == uid
        assert run.stop["exit_status"] == "success"
        assert run.stop["num_events"] == {"primary": 5}
        data = run["primary"].read()
        assert data["z"].values.tolist() == [0, 1, 2, 3, 4]
        assert frames_and_means(run) == ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5])

    def test_by_uid(self, bench):
        first, second = (bench.RE(bp.count([bench.camera]))[0] for _ in range(2))
        assert bench.db[first].start["uid"] == first
        assert bench.db[first[:8]].start["uid"] == first
        assert bench.db[-2].start["uid"] == first
        assert bench.db[-1].start["uid"] == second
        with pytest.raises(KeyError):
            bench.db["nonesuch"]

    def test_frames_are_read_one_by_one(self, bench):
        bench.RE(bp.count([bench.camera], 4))
        images = bench.db[-1]["primary", "camera_image"]
        assert images.shape == (4, 8, 9)
        assert images.dtype == np.uint16
        assert images.chunks[0] == (1, 1, 1, 1)
        assert (np.asarray(images[2]) == 3).all()

    def test_search(self, bench):
        start_s = time.time()
        sample = f"grid {start_s}"
        (uid,) = bench.RE(bp.scan([bench.camera], bench.z, 0, 1, 2), sample=sample, optics={"NA": 0.75})
        bench.RE(bp.count([bench.camera]), sample="another")

        def found(*queries):
            runs = bench.db
            for query in queries:
                runs = runs.search(query)
            return set(runs)

        assert found(Key("sample") == sample) == {uid}
        assert found(Eq("sample", sample)) == {uid}
        assert uid in found(Key("plan_name") == "scan")
        assert uid not in found(Key("plan_name") == "count")
        assert found(TimeRange(since=start_s), Key("optics.NA") > 0.5) == {uid}
        assert uid not in found(TimeRange(until=start_s))

    def test_several_streams_and_nested_runs(self, bench):
        @bpp.set_run_key_decorator("inner")
        @bpp.run_decorator(md={})
        def inner():
            yield from bps.trigger_and_read([bench.camera], name="focus")

        @bpp.run_decorator(md={})
        def outer():
            yield from bps.trigger_and_read([bench.camera], name="focus")
            yield from bps.trigger_and_read([bench.camera, bench.z], name="overview")
            yield from inner()
            yield from bps.trigger_and_read([bench.camera], name="focus")

        outer_uid, inner_uid = bench.RE(outer())
        assert frames_and_means(bench.db[outer_uid], "focus") == ([1, 4], [1, 4])
        assert frames_and_means(bench.db[outer_uid], "overview") == ([2], [2])
        assert frames_and_means(bench.db[inner_uid], "focus") == ([3], [3])

    def test_a_dropped_event(self, bench):
        @bpp.run_decorator(md={})
        def plan():
            for keep in (True, False, True, False):
                yield from bps.trigger(bench.camera, wait=True)
                yield from bps.create("primary")
                yield from bps.read(bench.camera)
                yield from bps.save() if keep else bps.drop()

        bench.RE(plan())
        assert frames_and_means(bench.db[-1]) == ([1, 3], [1, 3])

    def test_a_run_that_was_rewound(self, bench):
        @bpp.run_decorator(md={})
        def plan():
            for step in range(3):
                yield from bps.checkpoint()
                yield from bps.trigger_and_read([bench.camera])
                if step == 1:
                    yield Msg("pause")

        with pytest.raises(RunEngineInterrupted):
            bench.RE(plan())
        bench.RE.resume()
        frames, means = frames_and_means(bench.db[-1])
        assert frames == means == [1, 2, 3, 4]

    def test_a_run_that_fails(self, bench):
        def plan():
            yield from bps.trigger_and_read([bench.camera])
            raise RuntimeError("the beam is off")

        with pytest.raises(RuntimeError, match="beam"):
            bench.RE(bpp.run_wrapper(plan()))
        assert bench.db[-1].stop["exit_status"] == "fail"
        assert "beam" in bench.db[-1].stop["reason"]
        assert frames_and_means(bench.db[-1]) == ([1], [1])

    def test_documents_come_back_as_they_were(self, bench):
        emitted = []
        bench.RE.subscribe(lambda name, doc: emitted.append((name, doc)))
        bench.RE(bp.scan([bench.camera], bench.z, 0, 1, 2), sample="grid")
        recorded = list(bench.db[-1].documents())

        def of(documents, name):
            return [doc for found, doc in documents if found == name]

        for name in ("start", "stop"):
            assert dict(of(recorded, name)[0]) == json.loads(json.dumps(of(emitted, name)[0]))
        assert [doc["seq_num"] for doc in of(recorded, "event")] == [1, 2]
        assert [doc["data"]["z"] for doc in of(recorded, "event")] == [0, 1]

    def test_runs_are_numbered_on(self, bench, catalog):
        bench.RE(bp.count([bench.camera]))
        number = bench.db[-1].start["scan_id"]
        later = Bench(catalog)
        later.RE(bp.count([later.camera]))
        assert later.db[-1].start["scan_id"] == number + 1

    def test_a_computed_run_has_no_number(self, bench, catalog):
        bench.RE(bp.count([bench.camera]))
        number = bench.db[-1].start["scan_id"]
        computed = ComputedRun(catalog.recorder(), catalog.frame_directory, {"plan_name": "computed"})
        computed.close()
        assert bench.db[-1].start["uid"] == computed.uid
        later = Bench(catalog)
        later.RE(bp.count([later.camera]))
        assert later.db[-1].start["scan_id"] == number + 1
        assert bench.db[number].start["plan_name"] == "count"


class TestAnalyse:
    @pytest.fixture
    def recorded(self, catalog, make_sem):
        """Return a recorded sweep of a SEM and the readings that were taken live."""
        run_engine, sem = RunEngine(), make_sem(frame_directory=catalog.frame_directory)
        install_frame_routing(run_engine)
        analysis = SharpnessAnalysis(denoise_sigma_px=1.0)
        run_engine.subscribe(analysis)
        catalog.subscribe(run_engine)
        live = []
        run_engine.subscribe(lambda name, doc: live.append(analysis.reading("primary")), "event")
        run_engine(bp.scan([sem], sem.working_distance, 9950, 10_050, 5))
        return catalog.client[-1], analysis, live

    @pytest.fixture
    def from_disk(self, monkeypatch):
        monkeypatch.setattr("bluesky_autofocus.frames.recent_frames", FrameCache())

    def test_gives_the_same_numbers(self, recorded, from_disk):
        run, analysis, live = recorded
        again = analyse(run, analysis)
        assert list(again) == ["primary"]
        assert [reading.value for reading in again["primary"]] == [reading.value for reading in live]
        assert [reading.seq_num for reading in again["primary"]] == [1, 2, 3, 4, 5]
        assert all(reading.event_uid for reading in again["primary"])

    def test_when_the_files_are_on_another_machine(self, recorded, monkeypatch):
        run, analysis, live = recorded
        asked = []

        def missing(resource, row):
            asked.append(row)
            raise FileNotFoundError(resource["uri"])

        monkeypatch.setattr(replay_module, "read_frame", missing)
        again = analyse(run, analysis)
        assert asked == [0, 1, 2, 3, 4]
        assert [reading.value for reading in again["primary"]] == [reading.value for reading in live]

    def test_leaves_the_live_analysis_alone(self, recorded):
        run, analysis, live = recorded
        analyse(run, analysis)
        assert analysis.reading("primary") == live[-1]

    def test_a_run_that_was_rewound(self, bench, from_disk):
        """Two frames were taken for the second Event: the second one is its."""

        @bpp.run_decorator(md={})
        def plan():
            for step in range(3):
                yield from bps.checkpoint()
                yield from bps.trigger_and_read([bench.camera])
                if step == 1:
                    yield Msg("pause")

        with pytest.raises(RunEngineInterrupted):
            bench.RE(plan())
        bench.RE.resume()

        readings = analyse(bench.db[-1], Number("number"))["primary"]
        assert [(reading.seq_num, reading.value) for reading in readings] == [(1, 1), (2, 3), (3, 4)]

    def test_a_run_in_which_a_device_was_configured(self, bench, from_disk):
        """It gives its stream a second descriptor, while all frames stay in one file."""
        live = Number("number")
        bench.RE.subscribe(live)
        seen = []

        @bpp.run_decorator(md={})
        def plan():
            for velocity in (1.0, 2.0):
                yield from bps.configure(bench.z, {"velocity": velocity})
                for _ in range(2):
                    yield from bps.trigger_and_read([bench.camera, bench.z])
                    seen.append(live.reading("primary").value)

        bench.RE(plan())
        assert len(bench.db[-1]["primary"].descriptors) == 2
        assert seen == [1, 2, 3, 4]
        assert [reading.value for reading in analyse(bench.db[-1], live)["primary"]] == seen

    def test_frames_that_cannot_be_analysed(self, bench):
        bench.RE(bp.count([bench.camera]))  # 8 x 9 px are too few
        with pytest.raises(AnalysisError, match="'sharpness' failed"):
            analyse(bench.db[-1], SharpnessAnalysis())

    def test_a_run_without_frames(self, bench):
        bench.RE(bp.count([bench.z]))
        assert analyse(bench.db[-1], SharpnessAnalysis()) == {}


class TestSessions:
    def test_of_two_processes_see_each_others_runs(self, bench, folder):
        (ours,) = bench.RE(bp.count([bench.camera], 2))
        number = bench.db[-1].start["scan_id"]
        other = session(
            folder,
            """
            assert not catalog.serving
            (uid,) = RE(bp.count([camera], 3), operator="other")
            print(uid, catalog.client[sys.argv[2]].start["scan_id"])
            catalog.close()
            """.replace("sys.argv[2]", repr(ours)),
        )
        out, _ = other.communicate(timeout=60)
        assert other.returncode == 0
        theirs, seen_number = out.split()
        assert int(seen_number) == number
        assert bench.db[-1].start["uid"] == theirs
        assert bench.db[-1].start["scan_id"] == number + 1
        assert frames_and_means(bench.db[-1]) == ([1, 2, 3], [1, 2, 3])

    def test_of_one_process(self, bench, catalog, folder):
        again = open_catalog(folder)
        bench.RE(bp.count([bench.camera]))
        assert again.client[-1].start["uid"] == catalog.client[-1].start["uid"]
        other = Bench(again)
        (uid,) = other.RE(bp.count([other.camera]))
        again.close()
        again.close()
        # who has opened it first goes on
        assert catalog.client[-1].start["uid"] == uid
        bench.RE(bp.count([bench.camera]))
        assert catalog.client[-2].start["uid"] == uid

    def test_are_private(self, catalog, folder):
        assert (folder / "server.json").stat().st_mode & 0o077 == 0
        assert "127.0.0.1" in catalog.web_page

    def test_leave_nothing_in_the_spool(self, bench, folder):
        bench.RE(bp.count([bench.camera]))
        assert not list((folder / "spool").rglob("*.jsonl"))


class TestFailingWriter:
    def test_costs_a_warning_and_no_data(self, tmp_path, monkeypatch, caplog):
        folder = tmp_path / "data"
        catalog = open_catalog(folder)
        bench = Bench(catalog)
        (whole,) = bench.RE(bp.count([bench.camera]))
        writer = catalog._writers[0]
        working = writer._write

        def broken(name, doc):
            if name == "event":
                raise ConnectionError("the server is gone")
            working(name, doc)

        monkeypatch.setattr(writer, "_write", broken)
        with caplog.at_level(logging.WARNING):
            (lost,) = bench.RE(bp.count([bench.camera], 3))
        assert f"run {lost} is not in the catalogue (the server is gone)" in caplog.text
        (kept,) = (folder / "spool").rglob("*.jsonl")
        assert kept.stem == lost
        # the next run is not held against it
        monkeypatch.setattr(writer, "_write", working)
        (next_one,) = bench.RE(bp.count([bench.camera]))
        catalog.close()

        again = open_catalog(folder)
        assert again.repaired == [lost]
        assert frames_and_means(again.client[lost]) == ([2, 3, 4], [2, 3, 4])
        assert again.client[lost].stop["exit_status"] == "success"
        assert set(again.client) == {whole, lost, next_one}
        assert not list((folder / "spool").iterdir())
        again.close()

    def test_is_held_against_the_run_that_failed_and_no_other(self, tmp_path, monkeypatch, caplog):
        """Of two runs that are open at once the one that stops first is whole."""
        folder = tmp_path / "data"
        catalog = open_catalog(folder)
        bench = Bench(catalog)
        uids = {}

        @bpp.set_run_key_decorator("inner")
        @bpp.run_decorator(md={"which": "inner"})
        def inner():
            yield from bps.trigger_and_read([bench.camera])

        @bpp.set_run_key_decorator("outer")
        @bpp.run_decorator(md={"which": "outer"})
        def outer():
            yield from bps.trigger_and_read([bench.camera])
            yield from inner()

        bench.RE.subscribe(lambda _, doc: uids.update({doc["which"]: doc["uid"]}), "start")
        writer = catalog._writers[0]
        working = writer._write
        failed = []

        def broken(name, doc):
            if name == "event" and not failed:
                failed.append(doc)
                raise ConnectionError("the server is gone")
            working(name, doc)

        monkeypatch.setattr(writer, "_write", broken)
        with caplog.at_level(logging.WARNING):
            bench.RE(outer())
        assert f"run {uids['outer']} is not in the catalogue (the server is gone)" in caplog.text
        assert uids["inner"] not in caplog.text
        assert [path.stem for path in (folder / "spool").rglob("*.jsonl")] == [uids["outer"]]
        catalog.close()
        again = open_catalog(folder)
        assert again.repaired == [uids["outer"]]
        assert frames_and_means(again.client[uids["outer"]]) == ([1], [1])
        assert frames_and_means(again.client[uids["inner"]]) == ([2], [2])
        again.close()

    def test_a_slow_one_does_not_hold_up_the_experiment(self, tmp_path, monkeypatch, caplog):
        monkeypatch.setattr(_Writer, "patience_s", 0.05)
        catalog = open_catalog(tmp_path / "data")
        bench = Bench(catalog)
        go_on = threading.Event()
        writer = catalog._writers[0]
        working = writer._write
        monkeypatch.setattr(writer, "_write", lambda name, doc: (go_on.wait(10), working(name, doc)))
        with caplog.at_level(logging.WARNING):
            (uid,) = bench.RE(bp.count([bench.camera]))
        assert f"run {uid} is not in the catalogue (not written within 0.05 s)" in caplog.text
        go_on.set()
        catalog.close()
        again = open_catalog(tmp_path / "data")
        assert frames_and_means(again.client[uid]) == ([1], [1])
        again.close()


class TestKilled:
    def test_loses_at_most_the_frame_being_taken(self, tmp_path, monkeypatch):
        folder = tmp_path / "data"
        killed = session(
            folder,
            """
            RE(bp.count([camera], 2))

            def tell(name, doc):
                if name == "start":
                    print(doc["uid"], flush=True)
                elif name == "event":
                    print(doc["seq_num"], int(doc["data"]["camera_mean"]), flush=True)

            RE.subscribe(tell)
            RE(bp.scan([camera], z, 0, 999, 100_000))
            """,
        )
        uid = killed.stdout.readline().strip()
        printed = [killed.stdout.readline() for _ in range(40)]
        killed.send_signal(signal.SIGKILL)
        printed += killed.communicate(timeout=60)[0].splitlines()
        printed = [tuple(map(int, line.split())) for line in printed if line.strip()]
        assert len(printed) >= 40
        assert (folder / "server.json").exists(), "it could not clean up"

        catalog = open_catalog(folder)
        assert catalog.repaired == [uid]
        run = catalog.client[uid]
        assert run.stop["exit_status"] == "abort"
        frames, means = frames_and_means(run)
        assert frames == means
        # the Event may be on disk a moment before it is printed
        assert len(printed) <= len(frames) <= len(printed) + 1
        assert frames[: len(printed)] == [number for _, number in printed]
        monkeypatch.setattr("bluesky_autofocus.frames.recent_frames", FrameCache())
        resources = {doc["uid"]: doc for name, doc in run.documents() if name == "stream_resource"}
        (resource,) = resources.values()
        assert [int(read_frame(resource, row).max()) for row in range(len(frames))] == frames
        # the run before it is whole, and work goes on
        assert frames_and_means(catalog.client[-2]) == ([1, 2], [1, 2])
        bench = Bench(catalog)
        bench.RE(bp.count([bench.camera]))
        assert catalog.client[-1].start["scan_id"] == run.start["scan_id"] + 1
        catalog.close()
        assert open_once_more(folder) == []


def open_once_more(folder):
    catalog = open_catalog(folder)
    repaired = catalog.repaired
    catalog.close()
    return repaired


class TestCannotBeOpened:
    @pytest.fixture
    def copy(self, folder, catalog, tmp_path):
        """Return a copy of the catalogue's databases in a folder that nobody serves."""
        copied = tmp_path / "copy"
        copied.mkdir()
        for name in ("catalog.db", "tables.db"):
            with sqlite3.connect(folder / name) as source, sqlite3.connect(copied / name) as target:
                source.backup(target)
            source.close()
            target.close()
        return copied

    def set_revision(self, folder, revision):
        with sqlite3.connect(folder / "catalog.db") as connection:
            connection.execute("update alembic_version set version_num = ?", [revision])
        connection.close()

    def test_below_a_file(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(CatalogError, match="cannot keep a catalogue in .*file/data"):
            open_catalog(tmp_path / "file" / "data")

    def test_of_a_newer_tiled(self, copy):
        self.set_revision(copy, "c0ffee123456")
        with pytest.raises(CatalogError, match="made by a newer version of Tiled.*c0ffee123456.*update"):
            open_catalog(copy)
        # and it is not held after that
        with pytest.raises(CatalogError, match="c0ffee123456"):
            open_catalog(copy)

    def test_of_an_older_tiled(self, copy):
        from tiled.catalog.core import ALL_REVISIONS

        self.set_revision(copy, ALL_REVISIONS[-1])
        with pytest.raises(CatalogError, match="older version of Tiled.*back it up.*upgrade-database sqlite"):
            open_catalog(copy)

    @pytest.mark.parametrize("content", [b"", b"hello, I am a text file. " * 100])
    def test_not_a_database(self, tmp_path, content):
        (tmp_path / "catalog.db").write_bytes(content)
        with pytest.raises(CatalogError, match="catalog.db is not a catalogue"):
            open_catalog(tmp_path)

    def test_held_by_a_process_that_does_not_serve_it(self, tmp_path, monkeypatch):
        monkeypatch.setattr("bluesky_autofocus.catalog._embedded.STARTUP_TIMEOUT_S", 0.1)
        with FileLock(tmp_path / "server.lock"), pytest.raises(CatalogError, match="does not serve it"):
            open_catalog(tmp_path)

    def test_a_server_that_does_not_answer(self, monkeypatch):
        monkeypatch.setattr("tiled.client.utils.TILED_RETRY_ATTEMPTS", 1)
        with pytest.raises(CatalogError, match="does not answer"):
            open_catalog("http://127.0.0.1:9/api/v1?api_key=none")


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("BLUESKY_AUTOFOCUS_DATA", str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv("BLUESKY_AUTOFOCUS_DATA")
    assert default_folder().name == "bluesky-autofocus"
