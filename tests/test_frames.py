"""Whatever the plan and whatever goes wrong: the row that an Event's stream_datum names is its frame.

The cameras number their frames in the pixels, and their mean is in the Event, so that each can be checked
against the other.
"""

# ruff: noqa: N803 - every bluesky user calls it RE

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from urllib.parse import urlparse

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.utils import FailedStatus, Msg, RunEngineInterrupted
from ophyd.sim import SynAxis

from bluesky_autofocus.devices import FrameError, SimulatedAxis
from bluesky_autofocus.frames import (
    DATASET,
    FrameCache,
    RecordsFrames,
    install_frame_routing,
    read_frame,
    recent_frames,
)


def path_of(resource):
    return Path(urlparse(resource["uri"]).path)


def rows_of(resource):
    """Return all frames of a file as it is on the disk."""
    with h5py.File(path_of(resource), "r", libver="latest", swmr=True) as file:
        return file[resource["parameters"]["dataset"]][()]


def numbers(documents, *, camera="camera"):
    """Return the frame numbers of the Events by run and stream, having compared every row with its Event."""
    streams = {d["uid"]: (d["run_start"], d["name"]) for d in documents.named("descriptor")}
    resources = {r["uid"]: r for r in documents.named("stream_resource")}
    data = [
        d
        for d in documents.named("stream_datum")
        if resources[d["stream_resource"]]["data_key"] == f"{camera}_image"
    ]
    found = {}
    for uid, key in streams.items():
        rows = [d for d in data if d["descriptor"] == uid]
        events = [
            e for e in documents.named("event") if e["descriptor"] == uid and f"{camera}_mean" in e["data"]
        ]
        assert len(rows) == len(events)
        for row, event in zip(rows, events, strict=True):
            index = row["indices"]["start"]
            assert row["indices"]["stop"] == index + 1
            assert row["seq_nums"]["start"] == event["seq_num"]
            resource = resources[row["stream_resource"]]
            assert resource["run_start"] == key[0]
            frame = rows_of(resource)[index]
            assert (frame == event["data"][f"{camera}_mean"]).all()
            assert (read_frame(resource, index) == frame).all()
            found.setdefault(key, []).append(int(frame.flat[0]))
        if rows:
            assert [r["indices"]["start"] for r in rows] == list(range(len(rows))), (
                "a row for each Event, in order"
            )
            assert len(rows_of(resources[rows[0]["stream_resource"]])) == len(rows), "no row without Event"
    return found


def by_stream(found):
    """Drop the runs of what `numbers` found, for a single run."""
    return {stream: values for (_, stream), values in found.items()}


@pytest.fixture
def axis():
    return SimulatedAxis(name="z", limits=(-100, 100))


class Failing(SynAxis):
    """Reads until it is told to fail."""

    fails = False

    def read(self):
        if self.fails:
            raise OSError("the cable is out")
        return super().read()


@pytest.fixture
def failing():
    return Failing(name="failing")


# Ordinary plans


def test_count(RE, documents, camera):
    RE(bp.count([camera], 3))
    assert by_stream(numbers(documents)) == {"primary": [1, 2, 3]}


def test_scan(RE, documents, camera, axis):
    RE(bp.scan([camera], axis, 0, 10, 4))
    assert by_stream(numbers(documents)) == {"primary": [1, 2, 3, 4]}
    assert [event["z"] for event in documents.events("primary")] == pytest.approx([0, 10 / 3, 20 / 3, 10])


def test_streams_in_turns(RE, documents, camera):
    @bpp.stage_decorator([camera])
    @bpp.run_decorator()
    def plan():
        for stream in ("focus", "overview", "focus", "focus", "overview"):
            yield from bps.trigger_and_read([camera], name=stream)

    RE(plan())
    assert by_stream(numbers(documents)) == {"focus": [1, 3, 4], "overview": [2, 5]}
    assert len(documents.named("stream_resource")) == 2


def test_two_cameras_in_one_event(RE, documents, make_camera):
    left, right = make_camera("left"), make_camera("right")
    RE(bps.mv(left.exposure_s, 0.1))
    RE(bp.count([left], 2))
    RE(bp.count([left, right], 2))
    assert list(numbers(documents, camera="left").values()) == [[1, 2], [3, 4]]
    assert list(numbers(documents, camera="right").values()) == [[1, 2]]


def test_cameras_of_one_name(RE, documents, make_camera):
    one, other = make_camera(), make_camera()

    @bpp.run_decorator()
    def plan():
        for _ in range(3):
            yield from bps.trigger_and_read([one], name="one")
            yield from bps.trigger_and_read([other], name="other")

    RE(plan())
    assert by_stream(numbers(documents)) == {"one": [1, 2, 3], "other": [1, 2, 3]}


def test_runs_in_one_staging(RE, documents, camera):
    @bpp.stage_decorator([camera])
    def plan():
        for _ in range(3):
            yield from bpp.run_wrapper(bps.repeat(lambda: bps.trigger_and_read([camera]), 2))

    uids = RE(plan())
    assert numbers(documents) == {(uid, "primary"): [2 * n + 1, 2 * n + 2] for n, uid in enumerate(uids)}


def test_nested_runs(RE, documents, camera):
    @bpp.set_run_key_decorator("inner")
    @bpp.run_decorator()
    def inner():
        yield from bps.trigger_and_read([camera], name="focus")
        yield from bps.trigger_and_read([camera], name="focus")

    @bpp.set_run_key_decorator("outer")
    @bpp.run_decorator()
    def outer():
        yield from bps.trigger_and_read([camera], name="focus")
        yield from inner()
        yield from bps.trigger_and_read([camera], name="focus")
        yield from inner()
        yield from bps.trigger_and_read([camera], name="focus")

    RE(outer())
    assert sorted(numbers(documents).values()) == [[1, 4, 7], [2, 3], [5, 6]]


def test_a_baseline_appended_after_routing(RE, documents, camera, axis):
    RE.preprocessors.append(bpp.SupplementalData(baseline=[camera]))
    RE(bp.scan([camera], axis, 0, 1, 2))
    assert by_stream(numbers(documents)) == {"baseline": [1, 4], "primary": [2, 3]}


def test_a_camera_inside_a_device(RE, documents, sem):
    RE(bp.scan([sem], sem.working_distance, 9990, 10010, 3))
    (resource,) = documents.named("stream_resource")
    assert resource["data_key"] == "sem_camera_image"
    frames = rows_of(resource)
    assert frames.shape == (3, 128, 128)
    means = [event["sem_camera_mean"] for event in documents.events("primary")]
    assert frames.mean(axis=(1, 2)) == pytest.approx(means)


def test_a_frame_read_again(RE, documents, camera):
    @bpp.run_decorator()
    def plan():
        yield from bps.trigger_and_read([camera])
        yield from bps.create("primary")
        yield from bps.read(camera)
        yield from bps.save()

    RE(plan())
    assert by_stream(numbers(documents)) == {"primary": [1, 1]}


# What goes wrong


def test_a_device_that_fails_drops_its_event(RE, documents, camera, failing):
    @bpp.run_decorator()
    def plan():
        for fails in (False, True, False, True):
            failing.fails = fails
            yield from bps.trigger(camera, wait=True)
            yield from bps.create("primary")
            try:
                yield from bps.read(camera)
                yield from bps.read(failing)
            except OSError:
                yield from bps.drop()
            else:
                yield from bps.save()

    RE(plan())
    assert by_stream(numbers(documents)) == {"primary": [1, 3]}


def test_nothing_is_left_of_a_stream_that_was_never_saved(RE, documents, camera, tmp_path):
    @bpp.run_decorator()
    def plan():
        yield from bps.trigger(camera, wait=True)
        yield from bps.create("primary")
        yield from bps.read(camera)
        yield from bps.drop()

    RE(plan())
    assert not documents.named("stream_resource")
    assert not list((tmp_path / "frames").rglob("*.h5"))


def test_a_device_that_fails_ends_the_plan(RE, documents, camera, failing):
    def plan():
        failing.fails = True
        yield from bps.trigger_and_read([camera, failing])

    @bpp.run_decorator()
    def both():
        yield from bps.trigger_and_read([camera, failing])
        yield from plan()

    with pytest.raises(OSError, match="cable"):
        RE(both())
    assert by_stream(numbers(documents)) == {"primary": [1]}
    assert documents.named("stop")[0]["exit_status"] == "fail"


def test_reading_what_was_not_triggered(RE, documents, camera):
    @bpp.run_decorator()
    def plan():
        yield from bps.create("primary")
        yield from bps.read(camera)
        yield from bps.save()

    with pytest.raises(FrameError, match="camera has no frame to record: trigger it"):
        RE(plan())
    assert not documents.named("event")


def test_an_exposure_that_failed_leaves_no_older_frame(RE, documents, make_camera):
    frames = [np.full((4, 5), 1, np.uint16), np.full((4, 6), 2, np.uint16)]
    camera = make_camera(render=lambda: frames.pop(0))

    @bpp.run_decorator()
    def plan():
        yield from bps.trigger_and_read([camera])
        try:
            yield from bps.trigger(camera, wait=True)
        except FailedStatus:
            yield from bps.create("primary")
            yield from bps.read(camera)

    with pytest.raises(FrameError, match="no frame"):
        RE(plan())
    assert by_stream(numbers(documents)) == {"primary": [1]}


def test_a_run_engine_without_routing(camera):
    with pytest.raises(RuntimeError, match=r"install_frame_routing\(RE\)"):
        RunEngine()(bp.count([camera]))


def test_uninstall(camera):
    run_engine = RunEngine()
    plain = dict(run_engine._command_registry)
    uninstall = install_frame_routing(run_engine)
    run_engine(bp.count([camera]))
    run_engine(bps.rd(camera.mean))
    uninstall()
    assert run_engine._command_registry == plain
    with pytest.raises(RuntimeError, match="install_frame_routing"):
        run_engine(bp.count([camera]))


def test_reading_between_runs_leaves_no_route(RE, camera):
    RE(bp.count([camera]))
    RE(bps.read(camera))
    with pytest.raises(RuntimeError, match="install_frame_routing"):
        RunEngine()(bp.count([camera]))


# Pause, rewind and resume


def paused_plan(camera, axis, pause_after):
    """Take four frames; before message `pause_after` of the second comes a pause."""

    def one(step):
        yield Msg("checkpoint")
        yield from bps.mv(axis, step)
        yield from bps.trigger(camera, wait=True)
        yield from bps.create("primary")
        yield from bps.read(camera)
        yield from bps.read(axis)
        yield from bps.save()
        yield from bps.null()

    @bpp.run_decorator()
    def plan():
        for step in range(4):
            for count, msg in enumerate(one(step)):
                if step == 1 and count == pause_after:
                    yield Msg("pause")
                yield msg

    return plan()


class TestPause:
    # messages of one step: checkpoint, set, wait, trigger, wait, create, read, read, save, null
    @pytest.mark.parametrize("pause_after", range(10))
    def test_before_any_message(self, RE, documents, camera, axis, pause_after):
        with pytest.raises(RunEngineInterrupted):
            RE(paused_plan(camera, axis, pause_after))
        RE.resume()
        found = by_stream(numbers(documents))["primary"]
        # an Event saved before the pause is taken again, under the same seq_num
        seq_nums = [event["seq_num"] for event in documents.named("event")]
        assert seq_nums == {0: [1, 1, 2, 3, 4], 9: [1, 2, 2, 3, 4]}.get(pause_after, [1, 2, 3, 4])
        assert found == sorted(set(found)), "no frame twice"
        assert [event["z"] for event in documents.events("primary")][-3:] == [1, 2, 3]

    def test_deferred(self, RE, documents, camera, axis):
        @bpp.run_decorator()
        def plan():
            for step in range(3):
                yield from bps.checkpoint()
                yield from bps.trigger(camera, wait=True)
                yield from bps.create("primary")
                yield from bps.read(camera)
                if step == 1:
                    yield from bps.deferred_pause()
                yield from bps.save()

        with pytest.raises(RunEngineInterrupted):
            RE(plan())
        RE.resume()
        assert by_stream(numbers(documents)) == {"primary": [1, 2, 3]}

    @pytest.mark.parametrize("how", ["abort", "stop", "halt"])
    def test_and_end(self, RE, documents, camera, axis, how):
        with pytest.raises(RunEngineInterrupted):
            RE(paused_plan(camera, axis, 7))  # between two reads
        getattr(RE, how)()
        assert by_stream(numbers(documents)) == {"primary": [1]}
        # a later run starts afresh
        RE(bp.count([camera], 2))
        assert list(numbers(documents).values()) == [[1], [3, 4]]


# The file


def test_a_chunk_is_a_frame(RE, documents, make_camera):
    camera = make_camera(frame_shape=(6, 7, 3), dtype=np.uint8)
    RE(bp.count([camera], 5))
    (resource,) = documents.named("stream_resource")
    assert resource["mimetype"] == "application/x-hdf5"
    assert resource["parameters"] == {
        "dataset": DATASET, "swmr": True, "join_method": "stack", "chunk_shape": [1, 6, 7, 3]
    }  # fmt: skip
    with h5py.File(path_of(resource)) as file:
        assert file[DATASET].chunks == (1, 6, 7, 3)
        assert file[DATASET].shape == (5, 6, 7, 3)
        assert file[DATASET].dtype == np.uint8


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<f4", "<f8", "|u1"])
def test_pixels_survive_to_the_bit(RE, documents, make_camera, dtype):
    frame = np.random.default_rng(0).integers(0, 255, (9, 13)).astype(dtype)[::-1].T
    camera = make_camera(render=lambda: frame, frame_shape=frame.shape, dtype=dtype)
    RE(bp.count([camera]))
    (resource,) = documents.named("stream_resource")
    (row,) = rows_of(resource)
    assert row.dtype == np.dtype(dtype)
    assert row.tobytes() == frame.tobytes()


def test_files_in_odd_folders(RE, documents, make_camera, tmp_path):
    camera = make_camera()
    camera.frame_writer.directory = tmp_path / "µ scope #1 100%"
    RE(bp.count([camera]))
    (resource,) = documents.named("stream_resource")
    recent_frames.put(resource["uid"], 0, np.zeros(0))
    recent_frames._frames.pop((resource["uid"], 0))
    assert (read_frame(resource, 0) == 1).all()


def test_another_process_reads_while_frames_are_taken(RE, documents, camera):
    reader = (
        "import sys, json; from bluesky_autofocus.frames import read_frame\n"
        "r = json.loads(sys.argv[1]); print([int(read_frame(r, i).max()) for i in range(2)])"
    )
    seen = []

    @bpp.run_decorator()
    def plan():
        for _ in range(2):
            yield from bps.trigger_and_read([camera])
        (resource,) = documents.named("stream_resource")
        done = subprocess.run(
            [sys.executable, "-c", reader, json.dumps(resource)], capture_output=True, text=True, check=True
        )
        seen.append(json.loads(done.stdout))
        yield from bps.trigger_and_read([camera])

    RE(plan())
    assert seen == [[1, 2]]
    assert by_stream(numbers(documents)) == {"primary": [1, 2, 3]}


def test_a_frame_that_is_not_here():
    resource = {"uid": "u", "data_key": "camera_image", "uri": "file://localhost/nowhere/f.h5"}
    with pytest.raises(FileNotFoundError, match="'camera_image' are not on this machine"):
        read_frame(resource, 0)


def test_memory_forgets_the_oldest():
    cache = FrameCache(max_bytes=250)
    for row in range(3):
        cache.put("file", row, np.full(100, row, np.uint8))
    assert cache.get("file", 0) is None
    assert cache.get("file", 2)[0] == 2
    cache.put("file", 2, np.full(100, 9, np.uint8))  # written over after a rewind
    assert cache.get("file", 1) is not None
    assert cache.get("file", 2)[0] == 9
    cache.put("file", 3, np.zeros(1000, np.uint8))
    assert cache.get("file", 3) is not None, "the newest is kept, however large"


def test_who_records_frames(camera, sem, axis):
    assert isinstance(camera, RecordsFrames)
    assert isinstance(sem, RecordsFrames)
    assert not isinstance(axis, RecordsFrames)


WRITERS = """
    import sys, threading
    from pathlib import Path
    import numpy as np
    from bluesky_autofocus.frames import FrameFile

    sys.setswitchinterval(1e-5)
    frame, done = np.ones((96, 128), np.uint16), []

    def write(name):
        for number in range(60):
            file = FrameFile(Path(sys.argv[1], f"{name}-{number}.h5"), frame)
            for row in range(10):
                assert file.append(frame) == row
                file.saved = row + 1
            file.close()
        done.append(name)

    threads = [threading.Thread(target=write, args=(name,)) for name in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    sys.exit(len(done) != 3)
"""


def test_frames_are_written_from_several_threads(tmp_path):
    """As a camera's and those that are computed from them; in a process of its own, since HDF5 crashes."""
    script = [sys.executable, "-c", textwrap.dedent(WRITERS), str(tmp_path)]
    ended = subprocess.run(script, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
