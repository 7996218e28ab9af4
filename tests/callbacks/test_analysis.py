# ruff: noqa: N803 - every bluesky user calls it RE

import asyncio
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky.utils import Msg, RunEngineInterrupted

from bluesky_autofocus.callbacks import Analysis, AnalysisError, NotSubscribedError, SharpnessAnalysis
from bluesky_autofocus.devices import SimulatedAxis
from bluesky_autofocus.records import Reading, Reason

PATIENCE_S = 10


class Number(Analysis):
    """Reads the number that a numbered camera puts in its pixels."""

    def analyse_frame(self, frame):
        return Reading("", float(frame.max()))


@pytest.fixture
def number(RE):
    made = Number("number")
    RE.subscribe(made)
    return made


def expose(*cameras, stream="primary"):
    return bps.trigger_and_read(list(cameras), name=stream)


class TestReadings:
    def test_of_each_stream(self, RE, documents, number, camera):
        seen = []

        @bpp.run_decorator()
        def plan():
            for stream in ("focus", "overview", "focus"):
                yield from expose(camera, stream=stream)
                seen.append(number.reading(stream))

        RE(plan())
        assert [reading.value for reading in seen] == [1, 2, 3]
        assert [reading.seq_num for reading in seen] == [1, 1, 2]
        assert [reading.event_uid for reading in seen] == [doc["uid"] for doc in documents.named("event")]
        assert number.reading("overview") == seen[1], "the other stream's stays"
        assert all(reading.accepted and reading.reason == Reason.OK for reading in seen)
        assert math.isnan(seen[0].sigma)

    def test_are_those_of_the_events_frame(self, RE, documents, number, camera):
        """Frames that were dropped, and streams that were not asked about, shift nothing."""

        @bpp.run_decorator()
        def plan():
            for _ in range(3):
                yield from bps.trigger(camera, wait=True)
                yield from bps.create("primary")
                yield from bps.read(camera)
                yield from bps.drop()
                yield from expose(camera)
                assert number.reading("primary").value == documents.events("primary")[-1]["camera_mean"]

        RE(plan())

    def test_after_a_rewind(self, RE, documents, number, camera):
        seen = []

        @bpp.run_decorator()
        def plan():
            for step in range(3):
                yield from bps.checkpoint()
                yield from expose(camera)
                if step == 1:
                    yield Msg("pause")
                seen.append(number.reading("primary"))

        with pytest.raises(RunEngineInterrupted):
            RE(plan())
        RE.resume()
        assert [reading.value for reading in seen] == [1, 3, 4]
        assert [reading.seq_num for reading in seen] == [1, 2, 3]
        assert seen[1].event_uid == documents.named("event")[2]["uid"]

    def test_of_nested_runs(self, RE, number, camera):
        @bpp.set_run_key_decorator("inner")
        @bpp.run_decorator()
        def inner():
            with pytest.raises(AnalysisError, match="no frame in stream 'inner'"):
                number.reading("inner")
            assert number.reading("focus").value in (1, 3), "the run around is still open"
            yield from expose(camera, stream="inner")
            assert number.reading("inner").value in (2, 4)

        @bpp.run_decorator()
        def outer():
            yield from expose(camera, stream="focus")
            yield from inner()
            yield from expose(camera, stream="focus")
            assert number.reading("focus").value == 3
            number.require_open_run()
            yield from inner()

        RE(outer())

    def test_never_come_from_an_earlier_run(self, RE, number, camera):
        RE(bp.count([camera], 2))
        assert number.reading("primary").value == 2

        @bpp.run_decorator()
        def plan():
            with pytest.raises(AnalysisError, match="'number' has seen no frame in stream 'primary'"):
                number.reading("primary")
            yield from expose(camera)
            assert number.reading("primary").value == 3

        RE(plan())

    def test_of_a_stream_without_images(self, RE, number, camera):
        axis = SimulatedAxis(name="z", limits=(0, 1))
        RE(bp.count([axis]))
        with pytest.raises(AnalysisError, match="no frame"):
            number.reading("primary")


class TestSubscription:
    def test_is_missing(self, RE, camera):
        number = Number("number")
        with pytest.raises(
            NotSubscribedError, match=r"'number' has seen no run open.*RE.subscribe\(analysis\)"
        ):
            number.require_open_run()

    def test_is_made_in_mid_run(self, RE, camera):
        number = Number("number")

        @bpp.run_decorator()
        def plan():
            yield from expose(camera)
            RE.subscribe(number)
            yield from expose(camera)
            with pytest.raises(NotSubscribedError):
                number.require_open_run()

        RE(plan())

    def test_ends_with_the_run(self, RE, number, camera):
        @bpp.run_decorator()
        def plan():
            yield from expose(camera)
            number.require_open_run()

        RE(plan())
        with pytest.raises(NotSubscribedError):
            number.require_open_run()

    def test_leaves_nothing_behind(self, RE, number, camera):
        RE(bp.count([camera], 3))
        assert not (number._open_runs or number._descriptors or number._resources or number._rows)


class TestSeveralImages:
    def test_without_a_choice(self, RE, number, make_camera):
        RE(bp.count([make_camera("left"), make_camera("right")]))
        with pytest.raises(AnalysisError, match="several images.*'left_image', 'right_image'"):
            number.reading("primary")

    def test_chosen(self, RE, make_camera):
        left, right = make_camera("left"), make_camera("right")
        number = Number("number", image_key="right_image")
        RE.subscribe(number)
        RE(bps.mv(left.exposure_s, 0.2))
        RE(bp.count([left], 2))
        with pytest.raises(AnalysisError, match=r"no image 'right_image', only \['left_image'\]"):
            number.reading("primary")
        RE(bp.count([left, right], 3))
        assert number.reading("primary").value == 3


class Moody(Number):
    """Fails on the second frame."""

    def analyse_frame(self, frame):
        if frame.max() == 2:
            raise ZeroDivisionError("cannot divide by this frame")
        return super().analyse_frame(frame)


class TestFailure:
    @pytest.mark.parametrize("threads", [0, 1])
    def test_is_kept_for_who_asks(self, RE, documents, camera, threads):
        pool = ThreadPoolExecutor(threads) if threads else None
        moody = Moody("moody", executor=pool)
        RE.subscribe(moody)
        RE(bp.count([camera], 2))
        assert documents.named("stop")[0]["exit_status"] == "success", "a plan that does not ask goes on"
        if pool is not None:
            pool.shutdown()
        with pytest.raises(AnalysisError, match="'moody' failed: cannot divide") as failed:
            moody.reading("primary")
        assert isinstance(failed.value.__cause__, ZeroDivisionError)

    def test_is_over_with_the_next_frame(self, RE, camera):
        moody = Moody("moody")
        RE.subscribe(moody)
        RE(bp.count([camera], 3))
        assert moody.reading("primary").value == 3

    def test_of_fetching_the_frame(self, RE, camera):
        def lost(resource, row):
            raise FileNotFoundError("the disk is gone")

        number = Number("number", fetch_frame=lost)
        RE.subscribe(number)
        RE(bp.count([camera]))
        with pytest.raises(AnalysisError, match="'number' failed: the disk is gone"):
            number.reading("primary")

    def test_an_event_whose_frame_no_document_names(self, RE, documents, number, camera):
        """As of a detector that announces its frames in batches."""
        RE(bp.count([camera]))
        twin = number.offline(lambda resource, row: np.zeros((4, 5)))
        for name, doc in documents:
            if not name.startswith("stream_"):
                twin(name, doc)
        with pytest.raises(AnalysisError, match="where the frame 'camera_image' of the Event is"):
            twin.reading("primary")

    def test_an_analysis_says_what_it_makes_of_a_frame(self):
        with pytest.raises(NotImplementedError):
            Analysis("none").analyse_frame(np.zeros((2, 2)))


class Slow(Number):
    """Takes until it is released."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.release = threading.Event()
        self.thread = ""

    def analyse_frame(self, frame):
        assert self.release.wait(PATIENCE_S)
        self.thread = threading.current_thread().name
        return super().analyse_frame(frame)


class TestExecutor:
    @pytest.fixture
    def slow(self, RE):
        with ThreadPoolExecutor(1, thread_name_prefix="model") as pool:
            made = Slow("slow", executor=pool)
            RE.subscribe(made)
            yield made
            made.release.set()

    def test_late(self, RE, slow, camera):
        RE(bp.count([camera]))
        with pytest.raises(AnalysisError, match="'slow' is late: it has not finished the frame of 'primary'"):
            slow.reading("primary")
        slow.release.set()
        asyncio.run(asyncio.wait_for(slow.settled("primary"), PATIENCE_S))
        assert slow.reading("primary").value == 1
        assert slow.thread.startswith("model")

    def test_settled_waits_for_failures_too(self, RE, camera):
        with ThreadPoolExecutor(1) as pool:
            moody = Moody("moody", executor=pool)
            RE.subscribe(moody)
            RE(bp.count([camera], 2))
            asyncio.run(asyncio.wait_for(moody.settled("primary"), PATIENCE_S))
            with pytest.raises(AnalysisError, match="cannot divide"):
                moody.reading("primary")

    def test_settled_without_a_frame(self, slow):
        asyncio.run(asyncio.wait_for(slow.settled("primary"), PATIENCE_S))

    def test_waiting_that_is_given_up_leaves_the_reading_to_come(self, RE, slow, camera):
        RE(bp.count([camera]))
        with pytest.raises(asyncio.TimeoutError):
            asyncio.run(asyncio.wait_for(slow.settled("primary"), 0.01))
        slow.release.set()
        asyncio.run(asyncio.wait_for(slow.settled("primary"), PATIENCE_S))
        assert slow.reading("primary").value == 1

    def test_the_newest_frame_counts(self, RE, slow, camera):
        RE(bp.count([camera], 3))
        slow.release.set()
        asyncio.run(asyncio.wait_for(slow.settled("primary"), PATIENCE_S))
        assert slow.reading("primary").value == 3
        assert slow.reading("primary").seq_num == 3


def unusable(kind):
    noise = np.random.default_rng(0).integers(100, 1000, (32, 40))
    return {
        "black": np.zeros((32, 40), np.uint16),
        "saturated": np.where(np.arange(40) < 36, 65535, noise).astype(np.uint16),
        "uniform": np.full((32, 40), 1234, np.uint16),
        "not_finite": np.where(np.arange(40) == 7, np.nan, noise).astype(np.float32),
    }[kind]


class TestSharpness:
    @pytest.mark.parametrize("kind", ["black", "saturated", "uniform", "not_finite"])
    def test_frames_that_cannot_be_scored(self, RE, analysis, make_camera, kind):
        frame = unusable(kind)
        RE(bp.count([make_camera(render=lambda: frame, frame_shape=frame.shape, dtype=frame.dtype)]))
        reading = analysis.reading("primary")
        assert not reading.accepted
        assert reading.reason is Reason(kind)
        assert math.isnan(reading.value)
        assert reading.event_uid

    def test_a_camera_of_twelve_bits(self, RE, make_camera):
        frame = np.where(np.arange(40) < 36, 4095, np.arange(32)[:, None] + 100).astype(np.uint16)
        camera = make_camera(render=lambda: frame, frame_shape=frame.shape)
        plain, told = SharpnessAnalysis(), SharpnessAnalysis(full_scale=4095)
        RE.subscribe(plain)
        RE.subscribe(told)
        RE(bp.count([camera]))
        assert plain.reading("primary").accepted
        assert told.reading("primary").reason is Reason.SATURATED

    def test_a_frame_as_dark_as_the_camera_itself(self, RE, make_camera):
        frame = np.random.default_rng(0).normal(100, 3, (32, 40)).astype(np.uint16)
        plain, told = SharpnessAnalysis(), SharpnessAnalysis(dark_level=101.0)
        RE.subscribe(plain)
        RE.subscribe(told)
        RE(bp.count([make_camera(render=lambda: frame, frame_shape=frame.shape)]))
        assert plain.reading("primary").accepted
        assert told.reading("primary").reason is Reason.BLACK
        assert told.offline(lambda resource, row: frame).dark_level == told.parameters["dark_level"] == 101.0

    def test_scores_the_frame(self, RE, analysis, sem):
        RE(bp.list_scan([sem], sem.working_distance, [10_000.0]))
        reading = analysis.reading("primary")
        assert reading.accepted
        assert reading.value > 0
        assert reading.unit == ""

    def test_parameters_are_those_given(self):
        made = SharpnessAnalysis(roi=(0, 64, 16, 80), denoise_sigma_px=1.5, normalise=False, full_scale=4095)
        assert made.parameters["metric"]
        assert tuple(made.parameters["roi"]) == (0, 64, 16, 80)
        assert made.parameters["denoise_sigma_px"] == 1.5
        assert made.parameters["normalise"] is False
        assert made.parameters["full_scale"] == 4095
        assert made.offline(lambda resource, row: np.zeros((2, 2))).parameters == made.parameters
