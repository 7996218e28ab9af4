"""A disk that is full costs the run its end and nothing that was recorded before."""

# ruff: noqa: N803 - every bluesky user calls it RE

import errno
import logging

import bluesky.plans as bp
import h5py
import numpy as np
import pytest
from bluesky import RunEngine

import bluesky_autofocus.frames as frames_module
from bluesky_autofocus.catalog import open_catalog
from bluesky_autofocus.catalog._spool import Spool, read_spooled
from bluesky_autofocus.devices import SimulatedCamera
from bluesky_autofocus.disk import DiskFullError, existing, free_bytes, size
from bluesky_autofocus.frames import DATASET, LEFT_FREE_BYTES, install_frame_routing

# Of packages below Tiled, at their own use of each other
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")

FRAME_BYTES = 4 * 5 * 2


@pytest.fixture
def most_bytes():
    """Return a function that says how long a file may become; longer ones fail half-written."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(n_bytes=None):
        resource.setrlimit(resource.RLIMIT_FSIZE, before if n_bytes is None else (n_bytes, before[1]))

    yield limit
    limit()


def frames_in(path):
    with h5py.File(path, "r", libver="latest", swmr=True) as file:
        return file[DATASET][:, 0, 0].tolist()


class TestFrames:
    def test_the_run_ends_before_the_disk_does(self, RE, documents, camera, monkeypatch):
        taken = []
        monkeypatch.setattr(
            frames_module, "free_bytes", lambda _: LEFT_FREE_BYTES + (3 - len(taken)) * FRAME_BYTES
        )
        RE.subscribe(lambda name, doc: taken.append(doc), "event")
        with pytest.raises(DiskFullError, match=r"camera_image: no room for a frame of 40 bytes in .*frames"):
            RE(bp.count([camera], 10))
        stop = documents[-1][1]
        assert stop["exit_status"] == "fail"
        assert "no room for a frame" in stop["reason"]
        assert stop["num_events"] == {"primary": 3}
        (path,) = camera.frame_writer.directory.rglob("*.h5")
        assert frames_in(path) == [event["data"]["camera_mean"] for event in taken] == [1, 2, 3]
        # there is room again
        taken.clear()
        RE(bp.count([camera], 2))
        assert documents[-1][1]["exit_status"] == "success"

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
    def test_a_disk_that_is_full_without_saying_so(self, RE, documents, camera, monkeypatch, code):
        """A quota, or another process that was faster."""
        append = frames_module.FrameFile.append

        def failing(self, frame):
            if self.saved == 2:
                raise OSError(code, "Can't write unprocessed chunk data (file write failed: time = ...")
            return append(self, frame)

        monkeypatch.setattr(frames_module.FrameFile, "append", failing)
        with pytest.raises(DiskFullError, match="no room for a frame") as caught:
            RE(bp.count([camera], 10))
        assert caught.value.errno == errno.ENOSPC
        assert documents[-1][1]["num_events"] == {"primary": 2}

    def test_another_error_goes_on_as_it_is(self, RE, camera, monkeypatch):
        def failing(self, frame):
            raise OSError(errno.EIO, "the disk is broken")

        monkeypatch.setattr(frames_module.FrameFile, "append", failing)
        with pytest.raises(OSError, match="broken") as caught:
            RE(bp.count([camera]))
        assert not isinstance(caught.value, DiskFullError)

    @pytest.mark.parametrize("rows", [0, 1, 5])
    def test_hdf5_fails_in_the_middle_of_a_frame(self, RE, documents, make_camera, most_bytes, rows):
        camera = make_camera(frame_shape=(40, 50))
        most_bytes(3000 + int((rows + 0.5) * 40 * 50 * 2))
        with pytest.raises(OSError, match="File too large"):
            RE(bp.count([camera], 10))
        most_bytes()
        events = documents.events("primary")
        assert documents[-1][1]["num_events"].get("primary", 0) == len(events) == rows
        paths = list(camera.frame_writer.directory.rglob("*.h5"))
        assert [frames_in(path) for path in paths] == [[1, 2, 3, 4, 5][:rows]][: len(paths)]
        # and the camera goes on
        RE(bp.count([camera], 2))
        assert documents[-1][1]["num_events"] == {"primary": 2}

    def test_a_file_that_was_not_finished_is_in_nobodys_way(self, tmp_path, monkeypatch):
        frame = np.zeros((4, 5), np.uint16)

        def failing(*args, **kwargs):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as full, pytest.raises(OSError, match="No space"):
            full.setattr(h5py.File, "create_dataset", failing)
            frames_module.FrameFile(tmp_path / "frames.h5", frame)
        assert not list(tmp_path.iterdir())
        file = frames_module.FrameFile(tmp_path / "frames.h5", frame)
        assert file.append(frame) == 0

    def test_a_file_that_cannot_be_closed_keeps_nobody_from_the_stop_document(
        self, RE, documents, camera, monkeypatch, caplog
    ):
        monkeypatch.setattr(
            frames_module.FrameFile, "close", lambda self: (_ for _ in ()).throw(OSError("x"))
        )
        with caplog.at_level(logging.ERROR):
            RE(bp.count([camera]))
        assert documents[-1][0] == "stop"
        assert "was not closed" in caplog.text


class TestSpool:
    def test_tears_no_line(self, RE, documents, tmp_path, camera, most_bytes):
        """What comes when there is room again is read, too: the stop document before all."""
        spool = Spool(tmp_path / "spool")

        def fill(name, doc):
            if name == "event" and doc["seq_num"] == 2:
                (path,) = spool.directory.iterdir()
                most_bytes(path.stat().st_size + 30)
            elif name == "stop":
                most_bytes()

        RE.subscribe(fill)
        RE.subscribe(spool)
        with pytest.raises(OSError, match="no document can be written any more.*jsonl"):
            RE(bp.count([camera], 5))
        (path,) = spool.directory.iterdir()
        kept = read_spooled(path)
        assert [name for name, _ in kept][-3:] == ["event", "stream_datum", "stop"]
        assert "no document can be written" in kept[-1][1]["reason"]
        assert kept[-1][1] == documents[-1][1]
        spool.close()

    def test_gives_documents_to_the_catalogue_all_the_same(self, tmp_path, monkeypatch):
        """That may be on another disk."""
        catalog = open_catalog(tmp_path / "data")
        run_engine = RunEngine()
        install_frame_routing(run_engine)
        catalog.subscribe(run_engine)
        camera = SimulatedCamera(
            name="camera",
            render=lambda: np.ones((8, 9), np.uint16),
            frame_directory=catalog.frame_directory,
            frame_shape=(8, 9),
        )

        def failing(file, line):
            if b'"event"' in line[:10]:
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("bluesky_autofocus.catalog._spool._append", failing)
        with pytest.raises(OSError, match="No space left"):
            run_engine(bp.count([camera], 3))
        run = catalog.client[-1]
        assert run.stop["exit_status"] == "fail"
        assert run["primary", "camera_image"].shape == (1, 8, 9)
        assert not list((tmp_path / "data" / "spool").rglob("*.jsonl")), "the catalogue has all of it"
        catalog.close()


def test_free_bytes_of_a_folder_that_is_not_there_yet(tmp_path):
    assert existing(tmp_path / "a" / "b") == tmp_path
    assert free_bytes(tmp_path / "a" / "b") > 0


@pytest.mark.parametrize(
    ("n_bytes", "said"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (8_390_000, "8.4 MB"), (2.5e13, "25.0 TB")],
)
def test_size(n_bytes, said):
    assert size(n_bytes) == said
