"""areaDetector's files, written by a fake plugin as the real one writes them."""

import threading

import h5py
import numpy as np
import pytest
from bluesky import plan_stubs as bps
from bluesky import plans as bp
from bluesky import preprocessors as bpp
from bluesky.utils import FailedStatus, RunEngineInterrupted
from ophyd.sim import FakeEpicsSignalWithRBV, fake_device_cache, make_fake_device
from ophyd.utils import DisconnectedError

from bluesky_autofocus.devices import FrameError, SimulatedAxis
from bluesky_autofocus.devices.epics import AreaDetectorCamera, SettingWithReadback
from bluesky_autofocus.frames import read_frame
from bluesky_autofocus.plans import autofocus

SHAPE = (48, 64)
FOCUS_UM = 2.0
LATE = "X:cam1:Acquire was put and no frame has come to the file, says X:HDF1:NumCaptured_RBV, within 0.11 s"


class FakePlugin:
    """What the plugin and the camera of an IOC do: a file at capture, a frame of it at acquire."""

    def __init__(self, detector, directory, frame):
        self.detector, self.directory, self.frame, self.file = detector, directory, frame, None
        self.during = lambda: None  # what happens in an exposure
        cam, hdf1 = detector.cam, detector.hdf1
        cam.array_size.array_size_y.sim_put(SHAPE[0])
        cam.array_size.array_size_x.sim_put(SHAPE[1])
        cam.num_images.sim_put(1)
        cam.data_type.sim_put("UInt16")
        cam.data_type_disabled.sim_put(0)
        hdf1.array_size.height.sim_put(SHAPE[0])
        hdf1.array_size.width.sim_put(SHAPE[1])
        hdf1.plugin_type.sim_put("NDFileHDF5")
        cam.port_name.sim_put("CAM")
        hdf1.port_name.sim_put("HDF1")
        hdf1.nd_array_port.sim_put("CAM")
        hdf1.enable.sim_put(1)
        del hdf1.stage_sigs["enable"]  # what ophyd's fake reads back is not equal to what was put
        hdf1.file_path_exists.sim_put(True)
        hdf1.num_capture.sim_put(0)
        hdf1.file_write_mode.sim_put("Single")
        hdf1.capture.subscribe(self.capture, run=False)
        cam.acquire.subscribe(self.acquire, run=False)

    def capture(self, value, **_):
        if self.file is not None:
            self.file.close()
            self.file = None
        if value:
            hdf1 = self.detector.hdf1
            hdf1.num_captured.sim_put(0)
            path = hdf1.file_template.get() % (f"{self.directory}/", hdf1.file_name.get(), -1)
            self.file = h5py.File(path, "w", libver="latest")
            shape = {"shape": (0, *SHAPE), "maxshape": (None, *SHAPE), "chunks": (1, *SHAPE)}
            self.rows = self.file.create_dataset("/entry/data/data", dtype="u2", **shape)
            self.file.swmr_mode = True

    def acquire(self, value, old_value, **_):
        if value and not old_value:
            threading.Timer(0.01, self.expose).start()

    def expose(self):
        if self.during() == "no frame":
            return
        self.rows.resize(len(self.rows) + 1, axis=0)
        self.rows[-1] = self.frame()
        self.rows.flush()
        self.detector.hdf1.num_captured.sim_put(len(self.rows))
        self.detector.cam.acquire.sim_put(0)


@pytest.fixture
def axis():
    return SimulatedAxis(name="z", limits=(-50.0, 50.0), position_um=-7.0)


@pytest.fixture
def plugin(camera):
    return camera.plugin


@pytest.fixture
def camera(tmp_path, axis, monkeypatch):
    monkeypatch.setitem(fake_device_cache, SettingWithReadback, FakeEpicsSignalWithRBV)
    detector = make_fake_device(AreaDetectorCamera)("X:", name="det", write_path_template=str(tmp_path))
    detector.exposure_s.sim_put(0.01)
    pattern = np.random.default_rng(0).random(SHAPE)

    def frame():
        contrast = 1000 / (1 + ((axis.load_um - FOCUS_UM) / 6) ** 2)
        return (2000 + contrast * pattern).astype(np.uint16)

    detector.cam.acquire.pvname, detector.hdf1.num_captured.pvname = (
        "X:cam1:Acquire",
        "X:HDF1:NumCaptured_RBV",
    )
    detector.plugin = FakePlugin(detector, tmp_path, frame)
    yield detector
    detector.plugin.capture(0)


def test_frames_are_in_the_documents(RE, camera, axis, documents):  # noqa: N803
    RE(bp.scan([camera], axis, -4.0, 8.0, 4))
    (resource,) = documents.named("stream_resource")
    assert resource["data_key"] == "det_image"
    (descriptor,) = documents.named("descriptor")
    key = descriptor["data_keys"]["det_image"]
    assert (tuple(key["shape"]), key["dtype_numpy"], key["external"]) == (SHAPE, "<u2", "STREAM:")
    assert [event["det_exposure_s"] for event in documents.events("primary")] == [0.01] * 4
    rows = [doc["indices"]["start"] for doc in documents.named("stream_datum")]
    assert rows == [0, 1, 2, 3]
    contrasts = [np.ptp(read_frame(resource, row)) for row in rows]
    # at -4, 0, 4 and 8 um
    assert contrasts[1] == pytest.approx(contrasts[2], abs=2) and contrasts[0] == pytest.approx(
        contrasts[3], abs=2
    )
    assert contrasts[1] > contrasts[0] + 100


def test_it_is_focused_by(RE, camera, axis, analysis, documents):  # noqa: N803
    RE(autofocus([camera], axis, analysis=analysis, method="sweep", bounds_um=(-18.0, 22.0), budget=15))
    (verdict,) = documents.events("verdict")
    assert verdict["verdict_found"]
    assert axis.position == pytest.approx(FOCUS_UM, abs=1.0)


def test_each_staging_has_a_file_of_its_own(RE, camera, axis, documents):  # noqa: N803
    RE(bp.count([camera], 2))
    RE(bp.count([camera], 1))
    uris = [doc["uri"] for doc in documents.named("stream_resource")]
    assert len(set(uris)) == 2
    assert [doc["indices"]["start"] for doc in documents.named("stream_datum")] == [0, 1, 0]


def test_a_second_stream_in_one_staging_is_refused(RE, camera):  # noqa: N803
    @bpp.stage_decorator([camera])
    @bpp.run_decorator()
    def plan():
        yield from bps.trigger_and_read([camera], name="primary")
        yield from bps.trigger_and_read([camera], name="other")

    with pytest.raises(FrameError, match="its file is that of the stream 'primary'"):
        RE(plan())


def test_it_is_triggered_before_it_is_read(camera):
    camera.stage()
    with pytest.raises(FrameError, match="no frame to record"):
        list(camera.collect_asset_docs())
    camera.unstage()


def announced(documents):
    """Return the announced rows, and how many there are in the file."""
    (resource,) = documents.named("stream_resource")
    rows = [doc["indices"]["start"] for doc in documents.named("stream_datum")]
    with h5py.File(resource["uri"].removeprefix("file://localhost"), "r", swmr=True) as file:
        return rows, len(file["/entry/data/data"])


def test_rows_are_right_after_a_pause_in_an_exposure(RE, camera, plugin, documents, monkeypatch):  # noqa: N803
    trigger, triggers, again = camera.trigger, [], threading.Event()

    def counted():
        triggers.append(trigger())
        if len(triggers) == 4:
            again.set()
        return triggers[-1]

    def pause():
        if len(triggers) == 3 and not again.is_set():
            RE.request_pause()
            assert again.wait(10)

    monkeypatch.setattr(camera, "trigger", counted)
    plugin.during = pause
    with pytest.raises(RunEngineInterrupted):
        RE(bp.count([camera], 5))
    RE.resume()
    assert len(documents.events("primary")) == 5
    # the third exposure, begun before the pause, is nobody's
    assert announced(documents) == ([0, 1, 3, 4, 5], 6)


def test_rows_are_right_after_an_exposure_that_failed(RE, camera, plugin, documents):  # noqa: N803
    camera.overhead_s = 0.1
    plugin.during = lambda: "no frame"

    @bpp.stage_decorator([camera])
    @bpp.run_decorator()
    def plan():
        with pytest.raises(FailedStatus) as failed:
            yield from bps.trigger(camera, wait=True)
        assert LATE in str(failed.value.__cause__)
        assert camera.cam.acquire.get() == 0, "its frame would be taken for that of the next trigger"
        plugin.during = lambda: None
        for _ in range(2):
            yield from bps.trigger_and_read([camera])

    RE(plan())
    assert announced(documents) == ([0, 1], 2)


def test_a_frame_that_does_not_come_to_the_file(camera, plugin):
    def drop():
        camera.cam.acquire.sim_put(0)
        return "no frame"

    camera.overhead_s = 0.1
    plugin.during = drop
    camera.stage()
    with pytest.raises(TimeoutError, match=LATE):
        camera.trigger().wait(10)
    with pytest.raises(FrameError, match="no frame to record"):
        list(camera.collect_asset_docs())
    camera.unstage()


def test_an_ioc_that_dies_in_an_exposure(camera, plugin):
    plugin.during = lambda: "no frame"
    camera.stage()
    status, acquire = camera.trigger(), camera.cam.acquire
    acquire._metadata["connected"] = False
    acquire._run_subs(sub_type=acquire.SUB_META, **acquire._metadata)
    with pytest.raises(DisconnectedError, match="det: lost the connection to X:cam1:Acquire"):
        status.wait(10)
    with pytest.raises(DisconnectedError, match="det: no connection to X:cam1:Acquire"):
        camera.trigger()


def test_an_exposure_that_is_not_waited_for_ends_with_the_staging(RE, camera, plugin, documents):  # noqa: N803
    exposing = threading.Event()

    def endless():
        exposing.set()
        return "no frame"

    plugin.during = endless
    camera.stage()
    left = [camera.trigger(), camera.trigger(), camera.trigger()]
    assert exposing.wait(10)
    camera.unstage()
    for status in left:
        status.wait(10)
    plugin.during = lambda: None
    camera.cam.acquire.sim_put(0)
    RE(bp.count([camera], 1))
    assert announced(documents) == ([0], 1)


def test_an_overhead_that_makes_no_sense():
    with pytest.raises(ValueError, match="overhead_s is 0"):
        make_fake_device(AreaDetectorCamera)("X:", name="det", write_path_template="/", overhead_s=0)
