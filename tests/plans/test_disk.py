"""Room on the disk: foreseen before a plan, and watched while it goes on."""

# ruff: noqa: N803 - every bluesky user calls it RE

import errno
from functools import partial

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import h5py
import pytest
from bluesky.utils import Msg, RunEngineInterrupted

from bluesky_autofocus.devices import SimulatedAxis
from bluesky_autofocus.disk import DiskFullError
from bluesky_autofocus.frames import DATASET
from bluesky_autofocus.plans import (
    StoresFrames,
    _disk,
    _disk_guard,
    brent_focus,
    check_disk,
    check_disk_decorator,
    check_disk_wrapper,
    disk_guard_decorator,
    disk_guard_wrapper,
)

FRAME_BYTES = 4 * 5 * 2
BEYOND = 10**18


@pytest.fixture
def axis():
    return SimulatedAxis(name="z", limits=(-100, 100))


@pytest.fixture
def room(monkeypatch):
    """Return a disk: how much is free on it, and how often it was asked."""

    class Room:
        free = 10_000
        asked = 0

        def __call__(self, directory):
            self.asked += 1
            return self.free

    made = Room()
    monkeypatch.setattr(_disk, "free_bytes", made)
    monkeypatch.setattr(_disk_guard, "free_bytes", made)
    return made


class Told:
    """A detector of whatever kind."""

    parent = None

    def __init__(self, name, described, **attributes):
        self.name, self._described = name, described
        for attribute, value in attributes.items():
            setattr(self, attribute, value)

    def read(self):
        return {}

    def describe(self):
        return self._described


class Async(Told):
    async def describe(self):
        return self._described


IMAGE = {"external": "STREAM:", "dtype": "array", "shape": [100, 200, 3], "dtype_numpy": "<f4", "source": ""}


class TestForecast:
    def answer(self, RE, stub):
        RE(partial_result(stub, found := []))
        return found[0]

    def test_of_a_camera(self, RE, camera, room):
        (forecast,) = self.answer(RE, check_disk([camera], 50, reserve_bytes=1000))
        assert forecast.needed_bytes == 50 * FRAME_BYTES
        assert (forecast.frames, forecast.free_bytes, forecast.reserve_bytes) == (50, 10_000, 1000)
        assert forecast.directory == str(camera.frame_directory)
        assert forecast.fits

    @pytest.mark.parametrize(("exposures", "fits"), [(225, True), (226, False)])
    def test_to_the_byte(self, RE, camera, room, exposures, fits):
        stub = check_disk([camera], exposures, reserve_bytes=1000)
        if fits:
            assert self.answer(RE, stub)[0].fits
        else:
            with pytest.raises(
                DiskFullError, match=r"226 frames will take 9\.0 kB; .*frames has 10\.0 kB free"
            ):
                RE(stub)

    def test_says_both_numbers_and_is_an_error_of_the_system(self, RE, camera, room):
        room.free = 55_000_000_000
        with pytest.raises(OSError, match=r"100\.7 GB.*55\.0 GB free, and 1\.0 GB are to stay") as caught:
            RE(check_disk([camera], 12_000, frame_bytes=8_391_000, reserve_bytes=10**9))
        assert caught.value.errno == errno.ENOSPC

    def test_warns_if_told_to(self, RE, camera, room):
        with pytest.warns(UserWarning, match="may fill the disk: 1000 frames will take 40.0 kB"):
            (forecast,) = self.answer(RE, check_disk([camera], 1000, on_shortage="warn"))
        assert not forecast.fits

    def test_of_the_real_disk(self, RE, camera):
        (forecast,) = self.answer(RE, check_disk([camera], 10))
        assert forecast.fits
        with pytest.raises(DiskFullError, match="would fill the disk"):
            RE(check_disk([camera], BEYOND))

    @pytest.mark.parametrize("kind", [Told, Async])
    def test_the_size_is_that_of_shape_and_type(self, RE, room, tmp_path, kind):
        room.free = 10**9
        keys = {"image": IMAGE, "scalar": {"dtype": "number", "shape": [], "source": ""}}
        detector = kind("camera", keys, frame_directory=tmp_path)
        (forecast,) = self.answer(RE, check_disk([detector], 2))
        assert forecast.needed_bytes == 2 * 100 * 200 * 3 * 4

    def test_detectors_on_one_disk_share_it(self, RE, make_camera, axis, room):
        left, right = make_camera("left"), make_camera("right", frame_shape=(8, 5))
        (forecast,) = self.answer(RE, check_disk([left, right, axis], 10, reserve_bytes=0))
        assert forecast.needed_bytes == 10 * 3 * FRAME_BYTES
        assert forecast.frames == 20

    def test_detectors_on_two_disks_do_not(self, RE, make_camera, tmp_path, room, monkeypatch):
        left, right = make_camera("left"), make_camera("right")
        right.frame_writer.directory = tmp_path / "other"
        monkeypatch.setattr(_disk, "disk_of", lambda folder: len(str(folder)))
        forecasts = self.answer(RE, check_disk([left, right], 10, reserve_bytes=0))
        assert [one.needed_bytes for one in forecasts] == [10 * FRAME_BYTES] * 2

    def test_a_folder_for_those_that_name_none(self, RE, tmp_path, room):
        detector = Told("camera", {"image": IMAGE})
        assert not isinstance(detector, StoresFrames)
        room.free = 10**9
        (forecast,) = self.answer(RE, check_disk([detector], 1, directory=tmp_path, reserve_bytes=0))
        assert forecast.directory == str(tmp_path)
        with pytest.raises(ValueError, match="camera has no frame_directory"):
            RE(check_disk([detector], 1))

    def test_what_describes_no_image(self, RE, axis, room):
        with pytest.raises(
            ValueError, match="z describe no image of which the size is known: give frame_bytes"
        ):
            RE(check_disk([axis], 1))

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"exposures": -1}, "exposures must not be negative, got -1"),
            ({"reserve_bytes": -5}, "reserve_bytes must not be negative, got -5"),
            ({"on_shortage": "ignore"}, "on_shortage must be 'raise' or 'warn', got 'ignore'"),
        ],
    )
    def test_arguments(self, camera, options, match):
        with pytest.raises(ValueError, match=match):
            next(iter(check_disk([camera], **{"exposures": 1, **options})))

    def test_a_dry_run(self, camera):
        assert [msg.command for msg in check_disk([camera], BEYOND)] == ["wait_for"]

    def test_devices_that_hold_a_camera_say_where_its_frames_go(self, sem):
        assert isinstance(sem, StoresFrames)
        assert sem.frame_directory == sem.frame_writer.directory


def partial_result(stub, found):
    found.append((yield from stub))


class TestCounted:
    def scan(self, camera, axis, points=20):
        return lambda: bp.scan([camera], axis, 0, 1, points)

    def test_a_plan_that_fits_runs(self, RE, documents, camera, axis, room):
        room.free = 20 * FRAME_BYTES
        RE(check_disk_wrapper(self.scan(camera, axis), [camera], reserve_bytes=0))
        assert len(documents.events("primary")) == 20

    def test_a_plan_that_does_not_opens_no_run(self, RE, documents, camera, axis, room):
        room.free = 20 * FRAME_BYTES - 1
        with pytest.raises(DiskFullError, match="20 frames will take 800 bytes; .* has 799 bytes free"):
            RE(check_disk_wrapper(self.scan(camera, axis), [camera], reserve_bytes=0))
        assert documents == []

    def test_each_detector_by_what_it_records(self, make_camera, axis):
        left, right = make_camera("left"), make_camera("right")

        @bpp.run_decorator()
        def plan():
            yield from bps.trigger_and_read([left])
            yield from bps.rd(right, default_value=0)
            for _ in range(3):
                yield from bps.trigger_and_read([left, right, axis])

        assert _disk._counted(plan(), [left, right]) == {left: 4, right: 3}

    def test_a_decorated_plan(self, RE, documents, camera, axis, room):
        @check_disk_decorator([camera], reserve_bytes=0)
        def plan(points, *, step=1.0):
            """Go along."""
            return (yield from bp.scan([camera], axis, 0, step * points, points))

        assert plan.__doc__ == "Go along."
        RE(plan(5, step=2.0))
        assert len(documents.events("primary")) == 5
        with pytest.raises(DiskFullError, match="1000 frames"):
            RE(plan(1000))

    def test_a_search_counts_its_dry_run(self, RE, bench, analysis, room):
        focus = partial(brent_focus, [bench.camera], bench.axis, analysis=analysis, bounds_um=bench.bounds_um)
        counted = _disk._counted(focus(), [bench.camera])[bench.camera]
        assert 0 < counted <= 20
        room.free = counted * 32 * 32 * 2 - 1
        with pytest.raises(DiskFullError, match=f"{counted} frames"):
            RE(bpp.run_wrapper(check_disk_wrapper(focus, [bench.camera], reserve_bytes=0)))

    def test_what_can_be_gone_through_once(self, camera, axis):
        with pytest.raises(TypeError, match="expected what returns it afresh"):
            next(check_disk_wrapper(self.scan(camera, axis)(), [camera]))

    def test_a_plan_that_exposes_something_else(self, RE, camera, axis, room):
        with pytest.warns(UserWarning, match="the plan exposes none of camera"):
            RE(check_disk_wrapper(lambda: bp.count([axis]), [camera]))

    def test_a_plan_without_end(self, camera, axis, monkeypatch):
        monkeypatch.setattr(_disk, "MOST_MESSAGES", 1000)

        def plan():
            while not (yield Msg("read", axis)):
                yield from bps.sleep(1)

        with pytest.raises(ValueError, match="goes on after 1000 messages without readings: tell check_disk"):
            next(check_disk_wrapper(plan, [camera]))

    def test_a_plan_that_needs_readings(self, camera, axis):
        def plan():
            reading = yield Msg("read", axis)
            yield from bps.sleep(reading["z"]["value"])

        with pytest.raises(ValueError, match=r"cannot be gone through without readings \(TypeError"):
            next(check_disk_wrapper(plan, [camera]))

    def test_its_own_dry_run(self, camera, axis):
        messages = list(check_disk_wrapper(self.scan(camera, axis, 3), [camera]))
        assert messages[0].command == "wait_for"
        assert sum(msg.command == "trigger" and msg.obj is camera for msg in messages) == 3


class TestGuard:
    @pytest.fixture
    def guarded(self, camera, axis, RE, room):
        """Return a function that runs a long scan on a disk that is full after so many frames."""

        def guarded(frames, *, of=None, **options):
            room.free = 1000 + frames * FRAME_BYTES

            def take(name, doc):
                room.free -= FRAME_BYTES

            RE.subscribe(take, "event")
            plan = bp.scan([camera], axis, 0, 50, 30) if of is None else of
            RE(disk_guard_wrapper(plan, [camera], **{"reserve_bytes": 1000, **options}))

        return guarded

    def test_ends_the_run_before_the_disk_is_full(self, RE, documents, camera, guarded, room):
        with pytest.raises(DiskFullError, match="stopped before the disk is full"):
            guarded(7)
        stop = documents[-1][1]
        assert stop["exit_status"] == "fail"
        assert (
            "frames has 1.0 kB free; what comes next takes 40 bytes, and 1.0 kB are to stay" in stop["reason"]
        )
        assert stop["num_events"] == {"primary": 7}
        assert room.free == 1000, "not a byte less"
        (path,) = camera.frame_directory.rglob("*.h5")
        with h5py.File(path) as file:
            assert file[DATASET][:, 0, 0].tolist() == [1, 2, 3, 4, 5, 6, 7]
        assert RE.state == "idle"

    def test_lets_a_plan_alone_that_has_room(self, documents, guarded):
        guarded(30)
        assert documents[-1][1]["exit_status"] == "success"

    @pytest.mark.parametrize(("every", "taken", "asked"), [(1, 10, 11), (4, 8, 3)])
    def test_asks_every_so_often_and_then_for_all_of_them(
        self, documents, guarded, room, every, taken, asked
    ):
        with pytest.raises(DiskFullError):
            guarded(10, every=every)
        assert documents[-1][1]["num_events"] == {"primary": taken}
        assert room.asked == asked

    def test_the_instrument_is_put_back(self, RE, documents, bench, analysis, room):
        """A search that is stopped stands where it began, and its readings are there."""
        room.free = 10_000

        def fill(name, doc):
            if doc["seq_num"] == 5:
                room.free = 0

        RE.subscribe(fill, "event")

        @disk_guard_decorator([bench.camera], reserve_bytes=1000)
        @bpp.run_decorator()
        def plan():
            yield from brent_focus([bench.camera], bench.axis, analysis=analysis, bounds_um=bench.bounds_um)

        with pytest.raises(DiskFullError):
            RE(plan())
        assert bench.axis.position == bench.start_um
        assert not bench.pending
        assert len(documents.events("focus_brent")) == len(documents.events("reading_sharpness")) == 5

    def test_cleanup_may_expose(self, documents, camera, guarded):
        """It is not stopped a second time."""

        @bpp.run_decorator()
        def plan():
            yield from bpp.finalize_wrapper(
                bps.repeat(partial(bps.trigger_and_read, [camera]), 10),
                partial(bps.trigger_and_read, [camera], name="dark"),
            )

        with pytest.raises(DiskFullError):
            guarded(2, of=plan())
        assert documents[-1][1]["num_events"] == {"primary": 2, "dark": 1}
        assert documents[-1][1]["exit_status"] == "fail"

    def test_after_a_pause(self, RE, documents, camera, guarded):
        def pausing():
            for step in range(6):
                yield from bps.checkpoint()
                yield from bps.trigger_and_read([camera])
                if step == 2:
                    yield Msg("pause")

        with pytest.raises(RunEngineInterrupted):
            guarded(5, of=bpp.run_wrapper(pausing()))
        with pytest.raises(DiskFullError):
            RE.resume()
        # the third was taken again, in the same place of the stream
        assert documents[-1][1]["num_events"] == {"primary": 4}

    def test_what_is_exposed_outside_of_runs_is_nobodys_frame(self, RE, camera, guarded):
        guarded(0, of=bps.trigger(camera, wait=True))

    def test_a_dry_run_shows_the_whole_plan(self, camera, axis, room):
        room.free = 0
        plan = bp.scan([camera], axis, 0, 1, 9)
        messages = list(disk_guard_wrapper(plan, [camera]))
        assert sum(msg.command == "trigger" and msg.obj is camera for msg in messages) == 9

    def test_all_plans_of_a_run_engine(self, RE, camera, room):
        room.free = 100
        RE.preprocessors.append(partial(disk_guard_wrapper, detectors=[camera]))
        with pytest.raises(DiskFullError, match="stopped before"):
            RE(bp.count([camera]))

    def test_the_real_disk(self, RE, documents, camera):
        RE(disk_guard_wrapper(bp.count([camera], 2), [camera]))
        assert documents[-1][1]["exit_status"] == "success"
        with pytest.raises(DiskFullError, match=r"1000\.0 TB are to stay"):
            RE(disk_guard_wrapper(bp.count([camera], 2), [camera], reserve_bytes=10**15))

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"every": 0}, "every must be 1 or more, got 0"),
            ({"reserve_bytes": -1}, "reserve_bytes must not be negative, got -1"),
        ],
    )
    def test_arguments(self, camera, options, match):
        with pytest.raises(ValueError, match=match):
            next(disk_guard_wrapper(bp.count([camera]), [camera], **options))

    def test_a_folder_must_be_known(self, axis, tmp_path):
        with pytest.raises(ValueError, match="z have no frame_directory: give the directory"):
            next(disk_guard_wrapper(bp.count([axis]), [axis]))
        next(disk_guard_wrapper(bp.count([axis]), [axis], directory=tmp_path))
