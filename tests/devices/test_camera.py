# ruff: noqa: N803 - every bluesky user calls it RE

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import numpy as np
import pytest
from bluesky.utils import FailedStatus
from ophyd import Component as Cpt
from ophyd import Device
from ophyd.utils import LimitError

from bluesky_autofocus.clock import VirtualClock, WallClock
from bluesky_autofocus.devices import BoundedSignal, Camera, FrameError

PATIENCE_S = 10


class TestFrames:
    @pytest.mark.parametrize(
        ("frame", "got"),
        [
            (np.zeros((4, 6), np.uint16), r"\(4, 6\) and uint16"),
            (np.zeros((5, 4), np.uint16), r"\(5, 4\) and uint16"),
            (np.zeros((4, 5, 3), np.uint16), r"\(4, 5, 3\) and uint16"),
            (np.zeros((4, 5), np.uint8), r"\(4, 5\) and uint8"),
            (np.zeros((4, 5), np.float64), r"\(4, 5\) and float64"),
        ],
    )
    def test_unlike_those_described(self, make_camera, frame, got):
        camera = make_camera(render=lambda: frame)
        with pytest.raises(FrameError, match=rf"camera: expected .* \(4, 5\) and type uint16, got {got}"):
            camera.trigger().wait(PATIENCE_S)

    def test_that_cannot_be_rendered(self, RE, documents, make_camera):
        camera = make_camera(render=lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            camera.trigger().wait(PATIENCE_S)
        with pytest.raises(FailedStatus) as failed:
            RE(bp.count([camera]))
        assert isinstance(failed.value.__cause__, ZeroDivisionError)
        assert not documents.named("event")

    def test_mean(self, RE, documents, make_camera):
        frame = np.random.default_rng(0).integers(0, 255, (30, 40)).astype(np.uint8)
        camera = make_camera(render=lambda: frame, frame_shape=(30, 40), dtype=np.uint8)
        RE(bp.count([camera]))
        assert documents.events("primary")[0]["camera_mean"] == pytest.approx(frame.mean())

    def test_rgb(self, RE, documents, make_camera):
        frame = np.random.default_rng(0).integers(0, 255, (30, 40, 3)).astype(np.uint8)
        camera = make_camera(render=lambda: frame, frame_shape=(30, 40, 3), dtype=np.uint8)
        RE(bp.count([camera]))
        assert documents.events("primary")[0]["camera_mean"] == pytest.approx(frame.mean())
        (descriptor,) = documents.named("descriptor")
        assert descriptor["data_keys"]["camera_image"]["shape"] == [30, 40, 3]
        assert descriptor["data_keys"]["camera_image"]["dims"] == ["y", "x", "colour"]

    def test_are_asked_for_by_subclasses(self, tmp_path):
        camera = Camera(name="camera", frame_directory=tmp_path, frame_shape=(4, 5))
        with pytest.raises(NotImplementedError):
            camera.trigger()


class TestDocuments:
    def test_keys(self, RE, documents, camera):
        RE(bp.count([camera]))
        (descriptor,) = documents.named("descriptor")
        image = descriptor["data_keys"]["camera_image"]
        assert image["external"] == "STREAM:"
        assert image["dtype"] == "array"
        assert image["dtype_numpy"] == "<u2"
        assert image["shape"] == [4, 5]
        assert image["dims"] == ["y", "x"]
        assert set(descriptor["data_keys"]) == {"camera_mean", "camera_exposure_s", "camera_image"}
        assert descriptor["hints"]["camera"] == {"fields": ["camera_mean"]}
        assert set(documents.events("primary")[0]) == {"camera_mean", "camera_exposure_s"}

    def test_exposure_is_in_every_event(self, RE, documents, camera):
        RE(bp.list_scan([camera], camera.exposure_s, [0.1, 0.2, 0.3]))
        assert [event["camera_exposure_s"] for event in documents.events("primary")] == [0.1, 0.2, 0.3]


class TestExposure:
    def test_takes_its_time(self, make_camera):
        clock, seen = VirtualClock(), []

        def render():
            seen.append(clock.now_s())
            return np.zeros((4, 5), np.uint16)

        camera = make_camera(clock=clock, render=render)
        camera.exposure_s.put(2.5)
        camera.trigger().wait(PATIENCE_S)
        assert seen == [2.5], "what is seen is the end of the exposure"

    def test_on_the_wall_clock(self, RE, documents, make_camera):
        camera = make_camera(clock=WallClock(speed=50))
        RE(bps.mv(camera.exposure_s, 0.5))
        RE(bp.count([camera], 3))
        assert [event["camera_mean"] for event in documents.events("primary")] == [1, 2, 3]

    @pytest.mark.parametrize("exposure_s", [-0.1, 86_401, float("nan"), float("inf")])
    def test_limits(self, RE, camera, exposure_s):
        with pytest.raises(LimitError, match=r"camera_exposure_s: .* s is not within 0.0 \.\. 86400.0 s"):
            camera.exposure_s.put(exposure_s)
        with pytest.raises(FailedStatus) as failed:
            RE(bps.mv(camera.exposure_s, exposure_s))
        assert isinstance(failed.value.__cause__, LimitError)
        assert camera.exposure_s.get() == 0.01


class Lamp(Device):
    level = Cpt(BoundedSignal, value=1.0, egu="mW", limits=(0.0, 5.0), kind="normal")


class TestBoundedSignal:
    def test_describe(self):
        described = Lamp(name="lamp").describe()["lamp_level"]
        assert described["units"] == "mW"
        assert (described["lower_ctrl_limit"], described["upper_ctrl_limit"]) == (0, 5)
        assert described["dtype"] == "number"

    def test_integers_are_numbers(self, RE, documents):
        lamp = Lamp(name="lamp")
        RE(bp.list_scan([], lamp.level, [1, 2.5, 5]))
        assert [event["lamp_level"] for event in documents.events("primary")] == [1, 2.5, 5]
        (descriptor,) = documents.named("descriptor")
        assert descriptor["data_keys"]["lamp_level"]["dtype_numpy"] == "<f8"

    @pytest.mark.parametrize("level", [5.1, -1, float("nan")])
    def test_limits(self, level):
        lamp = Lamp(name="lamp")
        with pytest.raises(LimitError, match="lamp_level"):
            lamp.level.put(level)
        with pytest.raises(LimitError, match="lamp_level"):
            lamp.level.set(level).wait(PATIENCE_S)
        assert lamp.level.get() == 1
        assert lamp.level.limits == (0, 5)
