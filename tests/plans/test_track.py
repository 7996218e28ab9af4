"""Scans in focus over a specimen that is neither level nor flat, with empty places and wrong readings."""
# ruff: noqa: N803 - every bluesky user calls it RE

import asyncio
import json
import math

import numpy as np
import pytest
from bluesky.simulators import summarize_plan
from bluesky.utils import RunEngineInterrupted
from interrupting import at_message, pausing, throwing
from ophyd.utils import LimitError

from bluesky_autofocus.callbacks import Analysis, FocusClassAnalysis
from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.devices import SimulatedRunningAxis, SimulatedSmearMicroscope
from bluesky_autofocus.devices._smear import TimedCamera
from bluesky_autofocus.models.hh_net import HHNetModel
from bluesky_autofocus.plans import ReadingTimeoutError, scan_in_focus, track_focus
from bluesky_autofocus.records import Reading, Reason
from bluesky_autofocus.simulation import Slide
from bluesky_autofocus.simulation.motion import AxisMechanics

WIDTH_UM = 6.0
DEFAULT_UM_S = 223.7
TOLERANCE_UM = WIDTH_UM / 2


class Eye(Analysis):
    """Reads defocus, x and y from three pixels, with some noise; beyond its range it only tells the side."""

    unit = "um"

    def __init__(self, says=lambda defocus_um, x, y: defocus_um, sigma_um=1.0):
        self.says, self.sigma_um = says, sigma_um
        self.rng = np.random.default_rng(5)
        super().__init__("eye")

    def analyse_frame(self, frame):
        said = self.says(*map(float, frame[0, :3]))
        if isinstance(said, Reading):
            return said
        if abs(said) > 3.5 * WIDTH_UM:
            value = math.copysign(4 * WIDTH_UM, said)
            return Reading("", value, math.nan, "um", accepted=False, reason=Reason.OUT_OF_RANGE)
        return Reading("", said + self.rng.normal(0, self.sigma_um), self.sigma_um, "um")


EMPTY = Reading("", math.nan, unit="um", accepted=False, reason=Reason.EMPTY)


class Bench:
    """Three axes that run, and a camera that sees how far from focus it is."""

    def __init__(
        self,
        folder,
        *,
        tilt=(2.0, -1.0),
        unevenness_um=1.0,
        transfer_s=0.015,
        limits=(-60.0, 60.0),
        z_um=None,
    ):
        self.clock = VirtualClock()
        self.slide = Slide(tilt, unevenness_um, 3)
        fast = AxisMechanics(velocity_um_s=5000.0, acceleration_um_s2=20_000.0, settle_s=0.02)
        self.start = {"x": 100.0, "y": -50.0, "z": self.slide.height_um(0.0, 0.0) if z_um is None else z_um}
        self.x, self.y = (
            SimulatedRunningAxis(
                name=name,
                limits=(-9000.0, 9000.0),
                position_um=self.start[name],
                velocity_limit_um_s=2000.0,
                mechanics=fast,
                clock=self.clock,
            )
            for name in "xy"
        )
        self.z = SimulatedRunningAxis(
            name="z",
            limits=limits,
            position_um=self.start["z"],
            mechanics=AxisMechanics(
                velocity_um_s=200.0, settle_s=0.01, acceleration_um_s2=5000.0, readback_noise_um=0.01
            ),
            clock=self.clock,
            watchdog_s=1.5,
        )
        self.defocus_um, self.went_um = [], []
        self.camera = TimedCamera(
            name="bench_camera",
            render_at=self.frame,
            frame_directory=folder,
            frame_shape=(8, 8),
            dtype=np.float32,
            clock=self.clock,
        )
        self.camera.exposure_s.put(0.02)
        self.camera.transfer_s.put(transfer_s)

    def frame(self, time_s):
        x, y, z = (axis.load_at_um(time_s) for axis in (self.x, self.y, self.z))
        self.went_um += [z, self.z.load_um]
        self.defocus_um.append(z - self.slide.height_um(x, y))
        frame = np.zeros((8, 8), np.float32)
        frame[0, :3] = self.defocus_um[-1], x, y
        return frame

    def back(self):
        """Return whether all is where it was, and stands."""
        axes = {"x": self.x, "y": self.y, "z": self.z}
        self.clock.advance(1.0)
        return all(
            not axis.running and axis.actual_velocity_um_s == 0 and abs(axis.load_um - self.start[name]) < 0.1
            for name, axis in axes.items()
        )


@pytest.fixture
def make(tmp_path):
    return lambda **options: Bench(tmp_path / f"{len(list(tmp_path.iterdir()))}", **options)


@pytest.fixture
def eye(RE):
    def make(*args, **options):
        made = Eye(*args, **options)
        RE.subscribe(made)
        return made

    return make


def track(bench, analysis, plan=track_focus, **options):
    options = {
        "x_um": (0.0, 1800.0),
        "y_um": [0.0, 400.0],
        "scan_velocity_um_s": 1000.0,
        "default_velocity": DEFAULT_UM_S,
        "class_width_um": WIDTH_UM,
        "travel_um": (-50.0, 50.0),
        **options,
    }
    return plan([bench.camera], bench.z, analysis=analysis, stage=[bench.x, bench.y], **options)


def rows_of(documents):
    """Return the Events of the stream `track` as columns."""
    events = documents.events("track")
    return {key.removeprefix("track_"): np.array([one[key] for one in events]) for key in events[0]}


@pytest.mark.parametrize(
    ("tilt", "transfer_s", "least"),
    [
        ((0.0, 0.0), 0.02, 0.95),
        ((2.0, -1.0), 0.0, 0.95),
        ((2.0, -1.0), 0.1, 0.8),
        ((-6.0, 3.0), 0.02, 0.95),
        ((-6.0, 3.0), 0.1, 0.8),
    ],
)
def test_it_follows(make, eye, run, documents, tilt, transfer_s, least):
    bench = make(tilt=tilt, transfer_s=transfer_s)
    tracking = run(track(bench, eye()))
    assert tracking.complete and not tracking.lost_um
    defocus = np.abs(bench.defocus_um)
    assert tracking.frames == len(defocus) == len(documents.events("focus_track"))
    assert (defocus < TOLERANCE_UM).mean() > 0.97 and np.median(defocus) < 0.8
    assert tracking.share > least
    rows = rows_of(documents)
    assert (np.abs(np.array(bench.defocus_um))[rows["vouched"]] < TOLERANCE_UM).all()
    # one row is one run, to and fro
    ways = np.diff(rows["x_um"])
    assert (ways > 0).sum() > 0.4 * len(ways) and (ways < 0).sum() > 0.4 * len(ways)
    assert bench.back()


def test_every_frame_is_documented(make, eye, run, documents):
    bench = make()
    tracking = run(track(bench, eye(sigma_um=0.0)))
    rows = rows_of(documents)
    assert set(rows) == {
        *(
            "x_um",
            "y_um",
            "z_um",
            "velocity_um_s",
            "defocus_um",
            "index",
            "certainty",
            "focus_um",
            "sigma_um",
        ),
        *("used", "vouched", "lost", "event_uid", "seq_num"),
    }
    exposures = documents.events("focus_track")
    assert {"x", "y", "z", "z_velocity", "z_time_s", "bench_camera_time_s"} <= set(exposures[0])
    uids = [doc["uid"] for doc in documents.named("event") if "bench_camera_mean" in doc["data"]]
    assert rows["event_uid"].tolist() == uids and rows["seq_num"].tolist() == list(range(1, len(uids) + 1))
    assert rows["index"] == pytest.approx(rows["defocus_um"] / WIDTH_UM)
    # where it was taken, not where it was read
    height = [bench.slide.height_um(x, y) for x, y in zip(rows["x_um"], rows["y_um"], strict=True)]
    cruising = np.abs(np.diff(rows["x_um"], prepend=0.0)) > 20
    off = rows["z_um"] - height - bench.defocus_um
    assert np.abs(off[cruising]).max() < 0.1
    assert (rows["velocity_um_s"] == [one["z_velocity"] for one in exposures]).all()
    (end,) = documents.events("tracking")
    assert (end["tracking_frames"], end["tracking_vouched"]) == (tracking.frames, tracking.vouched)
    assert json.loads(end["tracking_lost_um"]) == [] and end["tracking_complete"]
    assert json.loads(end["tracking_parameters"])["scan_velocity_um_s"] == 1000.0


def test_a_wrong_reading_does_not_throw_it_off(make, eye, run, documents):
    seen = []

    def says(defocus_um, x, y):
        seen.append(x)
        return 15.0 if len(seen) % 10 == 5 else defocus_um

    bench = make()
    tracking = run(track(bench, eye(says)))
    assert tracking.complete and tracking.share > 0.8
    assert np.abs(bench.defocus_um).max() < TOLERANCE_UM
    wrong = np.arange(1, len(seen) + 1) % 10 == 5
    assert not rows_of(documents)["vouched"][wrong].any()


def test_over_an_empty_place_it_goes_on_along_the_plane(make, eye, run, documents):
    bench = make(tilt=(6.0, 0.0), unevenness_um=0.3)
    analysis = eye(lambda defocus_um, x, y: EMPTY if 900 < x < 1300 else defocus_um)
    tracking = run(track(bench, analysis))
    rows = rows_of(documents)
    empty = (rows["x_um"] > 900) & (rows["x_um"] < 1300)
    assert empty.sum() > 15 and not rows["vouched"][empty].any()
    assert not tracking.lost_um
    assert np.abs(np.array(bench.defocus_um))[empty].max() < TOLERANCE_UM
    assert rows["vouched"][~empty].mean() > 0.9


def test_lost_it_returns_to_the_last_focus_and_finds_it_again(make, eye, run, documents):
    bench = make(tilt=(6.0, 0.0), unevenness_um=0.3)
    analysis = eye(lambda defocus_um, x, y: EMPTY if 600 < x < 1400 else defocus_um)
    tracking = run(track(bench, analysis, patience=8))
    assert len(tracking.lost_um) == 2, "once in each row"
    assert [600 < x < 1400 for x, _ in tracking.lost_um] == [True, True]
    rows = rows_of(documents)
    first = rows["y_um"] < 100
    waiting = first & rows["lost"] & (rows["x_um"] > 1100) & (rows["x_um"] < 1400)
    last = rows["focus_um"][first & rows["used"] & (rows["x_um"] < 700)][-1]
    assert rows["z_um"][waiting] == pytest.approx(np.full(waiting.sum(), last), abs=0.3)
    again = first & (rows["x_um"] > 1600)
    assert rows["vouched"][again].all()
    assert np.abs(np.array(bench.defocus_um))[again].max() < TOLERANCE_UM


@pytest.mark.parametrize("away_um", [-30.0, 12.0, 30.0])
def test_it_finds_the_focus_from_afar(make, eye, run, away_um):
    bench = make(z_um=away_um)
    tracking = run(track(bench, eye()))
    assert tracking.share > 0.8
    assert np.abs(bench.defocus_um[20:]).max() < TOLERANCE_UM
    assert bench.back()


def test_a_step_is_followed(make, eye, run):
    """Several readings in a row that say the same are believed."""
    bench = make(unevenness_um=0.1)
    analysis = eye(lambda defocus_um, x, y: defocus_um + 9.0 * (x > 1000))
    tracking = run(track(bench, analysis, y_um=[0.0]))
    assert tracking.share > 0.7
    assert bench.defocus_um[-1] == pytest.approx(-9.0, abs=1.5)


def test_an_axis_that_runs_the_other_way(make, eye, run):
    bench = make()
    tracking = run(track(bench, eye(lambda defocus_um, x, y: -defocus_um), axis_sign=-1))
    assert tracking.share > 0.9 and np.abs(bench.defocus_um).max() < TOLERANCE_UM


@pytest.mark.parametrize("says", [-20.0, 20.0])
@pytest.mark.parametrize("transfer_s", [0.0, 0.1])
def test_it_never_leaves_its_range(make, eye, run, documents, says, transfer_s):
    bench = make(transfer_s=transfer_s)
    tracking = run(track(bench, eye(lambda defocus_um, x, y: says), travel_um=(-8.0, 9.0), y_um=[0.0]))
    noise_um = 0.05
    assert min(bench.went_um) >= -8.0 - noise_um and max(bench.went_um) <= 9.0 + noise_um
    assert bench.back()
    xs = rows_of(documents)["x_um"]
    # while it gathers speed, where it was is known less well
    assert xs.min() >= -20.0 and xs.max() <= 1800.0
    assert tracking.share == 0.0


def test_the_budget_ends_it(make, eye, run):
    bench = make()
    tracking = run(track(bench, eye(), budget=17))
    assert (tracking.frames, tracking.complete) == (17, False)
    assert bench.back()


def test_a_late_answer_stops_all_and_ends_it(make, RE, run):
    bench = make()

    class Late(Eye):
        async def settled(self, stream):
            if bench.x.position > 1000:
                await asyncio.sleep(30)

    late = Late()
    RE.subscribe(late)
    with pytest.raises(ReadingTimeoutError, match="'eye' gave no reading of 'focus_track'"):
        run(track(bench, late, timeout_s=0.2))
    assert bench.back()


def test_a_late_answer_is_waited_for_at_rest(make, RE, run, documents):
    bench = make()
    halted = []
    brake = bench.x.brake

    def braked():
        halted.append(bench.x.position)
        return brake()

    class Late(Eye):
        async def settled(self, stream):
            if bench.x.position > 500 and not halted:
                bench.clock.advance(0.3)
                while not halted:
                    await asyncio.sleep(0.001)

    bench.x.brake = braked
    late = Late()
    RE.subscribe(late)
    tracking = run(track(bench, late, y_um=[0.0]))
    assert tracking.complete and 700 < halted[0] < 1000
    rows = rows_of(documents)
    assert rows["x_um"].max() > 1600, "the row is scanned to its end"
    assert np.abs(bench.defocus_um).max() < TOLERANCE_UM
    assert bench.back()


class TestPlan:
    def test_in_a_run_of_its_own(self, RE, make, eye, documents):
        bench = make()
        RE(track(bench, eye(), scan_in_focus, y_um=[0.0], md={"sample": "smear"}))
        (start,) = documents.named("start")
        assert start["plan_name"] == "scan_in_focus" and start["sample"] == "smear"
        assert start["detectors"] == ["bench_camera"] and start["motors"] == ["z", "x", "y"]
        assert len(documents.events("tracking")) == 1

    def test_an_unknown_option(self, RE, make, eye, documents):
        with pytest.raises(TypeError, match="speed"):
            RE(track(make(), eye(), scan_in_focus, speed=3.0))
        assert not documents

    def test_a_dry_run_goes_to_its_end(self, make, capsys):
        summarize_plan(track(make(), Eye(), scan_in_focus))
        assert "x_velocity -> 1000" in capsys.readouterr().out


class TestInterrupted:
    """At messages so far apart that each of those of a frame has its turn."""

    @pytest.fixture
    def short(self, eye):
        analysis = eye(sigma_um=0.3)
        return lambda bench: track(
            bench, analysis, x_um=(0.0, 200.0), y_um=[0.0, 100.0], scan_velocity_um_s=900.0, reaction_s=0.1
        )

    @pytest.fixture
    def bench(self, make):
        return make(transfer_s=0.03)

    @pytest.fixture
    def number(self, bench, short, run, messages):
        run(short(bench))
        return len(messages) - 2  # open_run, close_run

    def begin(self, bench):
        for name, axis in (("x", bench.x), ("y", bench.y), ("z", bench.z)):
            axis.set(bench.start[name]).wait(1)

    def test_an_exception_at_any_message(self, bench, short, run, number):
        assert 100 < number < 400
        # all at its beginning and its end, and between them one in three
        for index in sorted({*range(45), *range(45, number - 45, 3), *range(number - 45, number)}):
            self.begin(bench)
            with pytest.raises(RuntimeError, match="thrown in place"):
                run(at_message(short(bench), index, throwing))
            assert bench.back(), index

    def test_an_abort_at_any_message(self, RE, bench, short, run, number):
        for index in range(0, number, 5):
            self.begin(bench)
            with pytest.raises(RunEngineInterrupted):
                run(at_message(short(bench), index, pausing))
            bench.clock.advance(0.1)
            assert not (bench.x.running or bench.z.running), "a pause stops it"
            if RE.state == "paused":
                RE.abort()
            assert bench.back(), index

    def test_a_pause_at_any_message(self, RE, bench, short, run, number, documents):
        for index in range(0, number, 5):
            self.begin(bench)
            documents.clear()
            with pytest.raises(RunEngineInterrupted):
                run(at_message(short(bench), index, pausing))
            bench.clock.advance(3.0)
            RE.resume()
            assert bench.back(), index
            rows = rows_of(documents)
            (end,) = documents.events("tracking")[-1:]
            assert end["tracking_complete"], index
            assert end["tracking_frames"] == len(set(rows["seq_num"])), index
            assert np.abs(rows["z_um"] - rows["focus_um"]).max() < TOLERANCE_UM, index


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"x_um": (5.0, 0.0)}, ValueError, "x_um must be two finite positions"),
            ({"y_um": []}, ValueError, r"y_um must be one or more finite positions, got \[\]"),
            ({"y_um": [math.nan]}, ValueError, "y_um must be one or more finite positions"),
            ({"scan_velocity_um_s": 0.0}, ValueError, "scan_velocity_um_s must be positive"),
            ({"scan_velocity_um_s": 2500.0, "reaction_s": 0.1}, LimitError, "2500.0 um/s is not within"),
            ({"x_um": (0.0, 300.0)}, ValueError, "200 um from frame to frame: too much for rows of 300 um"),
            ({"x_um": (0.0, 9999.0)}, LimitError, "9999.0 um is not within"),
            ({"default_velocity": 250.0}, LimitError, r"250.0 um/s is not within \+-223.7"),
            ({"class_width_um": 0.0}, ValueError, "width_um must be positive and finite, got 0.0"),
            ({"tolerance_um": -1.0}, ValueError, "tolerance_um must be positive"),
            ({"tilt_um_per_mm": 0.0}, ValueError, "tilt_um_per_mm must be positive and finite, got 0.0"),
            ({"patience": 0}, ValueError, "patience must be at least 1 frame, got 0"),
            ({"budget": 0}, ValueError, "budget must allow at least 1 exposure, got 0"),
            ({"axis_sign": 2}, ValueError, "axis_sign must be"),
            ({"travel_um": (20.0, 30.0)}, ValueError, "must contain the start"),
            ({"travel_um": (-90.0, 30.0)}, LimitError, "-90.0 um is not within"),
        ],
    )
    def test_numbers(self, make, eye, run, messages, options, error, message):
        with pytest.raises(error, match=message):
            run(track(make(), eye(), **options))
        assert not {"set", "trigger"} & {one.command for one in messages}

    def test_axes(self, make, bench, eye, run):
        good = make()
        for options, message in (
            ({"stage": [good.x]}, "stage must be two axes"),
            ({"stage": [bench.axis, good.y]}, "'z' has no velocity mode"),
        ):
            with pytest.raises(ValueError, match=message):
                run(
                    track_focus(
                        [good.camera],
                        good.z,
                        analysis=eye(),
                        x_um=(0.0, 9.0),
                        y_um=[0.0],
                        scan_velocity_um_s=1.0,
                        default_velocity=10.0,
                        class_width_um=6.0,
                        travel_um=(-20.0, 20.0),
                        **options,
                    )
                )


def test_with_the_shipped_model_over_a_smear(RE, tmp_path, run, documents):
    microscope = SimulatedSmearMicroscope(
        name="microscope",
        frame_directory=tmp_path,
        frame_shape=(384, 512),
        smear_options={"density_per_mm2": (3000.0, 5000.0), "covered": (0.9, 1.0)},
        slide_tilt=(4.0, 0.0),
        transfer_s=0.015,
        mechanics=AxisMechanics(velocity_um_s=200.0, acceleration_um_s2=5000.0),
        seed=2,
    )
    microscope.z.set(microscope.focus_um).wait(1)
    analysis = FocusClassAnalysis(HHNetModel.load())
    RE.subscribe(analysis)
    tracking = run(
        track_focus(
            [microscope],
            microscope.z,
            analysis=analysis,
            stage=[microscope.x, microscope.y],
            x_um=(0.0, 600.0),
            y_um=[0.0, 100.0],
            scan_velocity_um_s=1000.0,
            reaction_s=0.1,
            default_velocity=DEFAULT_UM_S,
            class_width_um=WIDTH_UM,
            travel_um=(-60.0, 60.0),
        )
    )
    defocus = np.abs([one["microscope_truth_defocus_um"] for one in documents.events("focus_track")])
    assert tracking.complete and tracking.frames == len(defocus)
    assert (defocus < TOLERANCE_UM).mean() > 0.9
    assert tracking.share > 0.5
    assert np.isfinite(rows_of(documents)["certainty"]).any()
