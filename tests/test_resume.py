"""Tile scans and time-lapses that ended early are gone on with: by documents alone, and after a kill."""

import json
import signal
import subprocess
import sys
import textwrap
from collections import Counter

import numpy as np
import pytest
from interrupting import at_message, throwing
from tiles import START, TileBench, dome, knowing, knowing_focus

from bluesky_autofocus.catalog import open_catalog
from bluesky_autofocus.cli import main
from bluesky_autofocus.clock import VirtualClock, WallClock
from bluesky_autofocus.leds import Single
from bluesky_autofocus.plans import METHODS, Approach, tile_scan, time_lapse
from bluesky_autofocus.resuming import (
    KEPT_POINTS,
    NotResumableError,
    Recorded,
    resumable,
    resumption,
    runs_of,
)
from bluesky_autofocus.session import open_session

# Of packages below Tiled, at their own use of each other
pytestmark = [
    pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic"),
]


@pytest.fixture(autouse=True)
def methods(monkeypatch):
    monkeypatch.setitem(METHODS, "knowing", knowing_focus)


@pytest.fixture
def bench(tmp_path):
    return TileBench(tmp_path)


@pytest.fixture
def named(bench, analysis):
    """Return the function that finds the devices of the bench by their names."""
    there = {one.name: one for one in (bench.x, bench.y, bench.z, bench.leds, bench.camera, bench.truth)}
    return {**there, analysis.name: analysis}.__getitem__


class DiedError(RuntimeError):
    pass


@pytest.fixture
def lives(RE, bench, analysis, named):  # noqa: N803
    """Return a function that runs a plan until a number of tiles are complete, and gives its documents."""

    def lives(make_plan, complete):
        recorded, tiles = Recorded(), []

        def dies(name, doc):
            recorded(name, json.loads(json.dumps(doc)))
            if name == "event" and "tile_frames" in doc["data"]:
                tiles.append(doc["data"])
                if len(tiles) == complete:
                    raise DiedError

        token = RE.subscribe(dies)
        try:
            RE(make_plan())
        except DiedError:
            assert complete
        RE.unsubscribe(token)
        return recorded, [(data["tile_time_point"], data["tile_index"]) for data in tiles]

    return lives


def options_of(bench, analysis, **options):
    return {
        "analysis": analysis,
        "stage": bench.stage,
        "depth_of_field_um": bench.depth_of_field_um,
        "travel_um": (-60.0, 60.0),
        "range_um": 30.0,
        **options,
    }


class TestByDocuments:
    """With the bench of before, but whatever the process knew is gone."""

    @pytest.fixture
    def scan(self, bench, analysis):
        options = options_of(bench, analysis, rows=3, columns=4, pitch_um=100.0, kind="thin_plate")
        return lambda **more: tile_scan(
            bench.detectors, bench.z, clock=bench.clock, **{**options, "focus": "search", **more}
        )

    def go_on(self, left, named, bench):
        args, kwargs = left.decoded(named)
        return {"tile_scan": tile_scan, "time_lapse": time_lapse}[left.plan](
            *args, clock=bench.clock, **kwargs
        )

    def test_each_tile_exactly_once(self, RE, bench, scan, lives, named, documents):  # noqa: N803
        first, before = lives(scan, 5)
        left = resumption([first])
        assert (left.plan, left.missing, left.total) == ("tile_scan", 7, 12)
        documents.clear()
        second, after = lives(lambda: self.go_on(left, named, bench), 0)
        assert sorted(before + after) == [(0, index) for index in range(12)]
        assert second.start["continues"] == first.start["uid"]
        assert second.start["series"] == first.start["series"]
        # what was learnt of the surface serves
        assert documents.events("tile_focus")[0]["tile_why"] == "how far it has drifted"
        assert abs(bench.errors_dof(documents.events("primary"))).max() < 1.0
        assert resumption([first, second]).missing == 0
        assert bench.now == START

    def test_again_and_again(self, bench, scan, lives, named):
        runs, visits = [], []
        for complete in (4, 3, 0):
            plan = scan if not runs else lambda: self.go_on(resumption(runs), named, bench)  # noqa: B023
            recorded, tiles = lives(plan, complete)
            runs.append(recorded)
            visits += tiles
        assert sorted(visits) == [(0, index) for index in range(12)]
        assert [one.start.get("continues") for one in runs[1:]] == [one.start["uid"] for one in runs[:2]]
        # where the first of them is lost the later ones know what it had
        assert resumption(runs[1:2]).missing == 12 - 7

    def test_it_has_drifted_meanwhile(self, RE, bench, scan, lives, named, documents):  # noqa: N803
        first, _ = lives(scan, 6)
        bench.drift = lambda time_s: 6.0
        documents.clear()
        lives(lambda: self.go_on(resumption([first]), named, bench), 0)
        assert abs(bench.errors_dof(documents.events("primary"))).max() < 1.0

    def test_marked_tiles_once_more(self, bench, scan, lives, named, documents):
        bench.detail = lambda x_um, y_um: float(round(x_um) != 110)
        options = {"kind": None, **knowing(bench)}
        first, visits = lives(lambda: scan(**options), 0)
        assert len(visits) == 12 and sum(first.complete.values()) == 3
        # what is no document cannot come back from one
        kwargs = first.start["resumable"]["kwargs"]
        assert "unknown" in kwargs["focus_options"]["bench"]
        first.start["resumable"]["kwargs"] = {**kwargs, "focus_options": {"bench": {"named": "bench"}}}
        bench.detail = lambda x_um, y_um: 1.0
        assert resumption([first]).missing == 0
        left = resumption([first], marked=True)
        assert left.missing == 3
        _, again = lives(
            lambda: self.go_on(left, lambda name: bench if name == "bench" else named(name), bench), 0
        )
        assert again == [(0, 1), (0, 5), (0, 9)]

    def test_a_time_lapse(self, bench, analysis, lives, named, documents):
        places = [(0.0, 0.0), (300.0, 0.0)]
        options = options_of(
            bench, analysis, positions=places, interval_s=60.0, count=5, **{"focus": "search"}
        )
        first, before = lives(lambda: time_lapse(bench.detectors, bench.z, clock=bench.clock, **options), 5)
        left = resumption([first])
        assert (left.missing, left.total) == (5, 10)
        # where focus was last is where it is looked for
        assert left.kwargs["positions"] == [pytest.approx([x, y, dome(x, y)], abs=0.5) for x, y in places]
        began_s = bench.clock.now_s()
        _, after = lives(lambda: self.go_on(left, named, bench), 0)
        assert before + after == [(point, index) for point in range(5) for index in range(2)]
        # no time point is made up for, and none is in a hurry
        assert bench.clock.now_s() - began_s == pytest.approx(2 * 60, abs=5)

    def test_a_run_that_failed_before_its_first_tile(self, RE, scan, lives, named, bench):  # noqa: N803
        recorded = Recorded()
        RE.subscribe(recorded.__call__)
        with pytest.raises(RuntimeError, match="thrown in place"):
            RE(at_message(scan(), 60, throwing))
        assert recorded.complete == {}
        left = resumption([recorded])
        assert left.missing == 12
        _, visits = lives(lambda: self.go_on(left, named, bench), 0)
        assert len(visits) == 12

    def test_another_plan(self):
        recorded = Recorded()
        recorded("start", {"uid": "0123456789", "plan_name": "count"})
        with pytest.raises(NotResumableError, match="run 01234567 is no tile_scan or time_lapse but count"):
            resumption([recorded])


class TestWhatAStartDocumentHolds:
    def test_arguments_come_back(self, bench):
        given = {
            "detectors": [bench.camera],
            "travel_um": (-1.5, np.float64(2.0)),
            "channels": [Single(0.4, 0.0), "annulus"],
            "approach": Approach(overshoot_um=1.0),
            "wider": {"focus": "sweep", "budget": np.int64(9)},
            "nothing": None,
            "yes": True,
        }
        saved = json.loads(json.dumps(resumable("tile_scan", [], given)["resumable"]["kwargs"]))
        start = {"uid": "u", "series": "s"}
        kwargs = {**saved, "rows": 1, "columns": 1, "surface": []}
        start["resumable"] = {"plan": "tile_scan", "args": [], "kwargs": kwargs}
        _, decoded = resumption([Recorded(start=start)]).decoded({"camera": bench.camera}.__getitem__)
        assert {key: decoded[key] for key in given} == {
            "detectors": [bench.camera],
            "travel_um": [-1.5, 2.0],
            "channels": ["single(na=0.4, angle_deg=0)", "annulus"],
            "approach": {"direction": 1, "overshoot_um": 1.0, "settle_s": 0.0},
            "wider": {"focus": "sweep", "budget": 9},
            "nothing": None,
            "yes": True,
        }

    def test_what_no_document_can_hold(self):
        saved = resumable("tile_scan", [], {"solver": min})["resumable"]["kwargs"]
        start = {"uid": "u", "series": "s"}
        kwargs = {**saved, "rows": 1, "columns": 1, "surface": []}
        start["resumable"] = {"plan": "tile_scan", "args": [], "kwargs": kwargs}
        with pytest.raises(NotResumableError, match="made with <built-in function min>"):
            resumption([Recorded(start=start)]).decoded(str)

    @pytest.mark.parametrize(
        ("numbers", "runs"),
        [([], []), ([3], [[3, 3]]), ([2, 0, 1, 5, 7, 6], [[0, 2], [5, 7]]), (range(10_000), [[0, 9999]])],
    )
    def test_numbers_as_runs(self, numbers, runs):
        assert runs_of(numbers) == runs

    def test_a_long_night_fits_into_it(self):
        """However much was found, only so many points of a surface go on, spread over all of it."""
        recorded = Recorded(start={"uid": "u", "series": "s"})
        kwargs = {"rows": 100, "columns": 100, "surface": []}
        recorded.start["resumable"] = {"plan": "tile_scan", "args": [], "kwargs": kwargs}
        recorded.points = [(float(n), 0.0, 0.0, 0.1) for n in range(5000)]
        surface = resumption([recorded]).kwargs["surface"]
        assert len(surface) <= KEPT_POINTS
        assert surface[-1][0] > 4900


SCAN = """
    import sys
    from bluesky_autofocus.callbacks import SharpnessAnalysis
    from bluesky_autofocus.clock import VirtualClock
    from bluesky_autofocus.plans import tile_scan
    from bluesky_autofocus.session import open_session

    options = dict(frame_px=128, defocus_um=5.0, seed=3)
    with open_session("nuclei", catalog=sys.argv[1], clock=VirtualClock(), show=None, **options) as session:
        m = session.instrument.devices["microscope"]

        def tell(name, doc):
            if name == "start":
                print(doc["uid"], flush=True)
            elif name == "event" and "tile_frames" in doc["data"]:
                print(doc["data"]["tile_index"], flush=True)

        session.RE.subscribe(tell)
        # one of one's own is made again
        ratio = SharpnessAnalysis("laplacian_ratio", name="ratio")
        session.RE.subscribe(ratio)
        session.RE(
            tile_scan(
                [m], m.z, analysis=session.sharpness, watch=ratio, stage=(m.x, m.y),
                rows=3, columns=4, pitch_um=60.0, depth_of_field_um=m.depth_of_field_um,
                travel_um=(-60.0, 60.0), range_um=40.0, kind="plane", survey=5, on_failure="surface",
                clock=session.clock, md={"sample": "slide 7"},
            )
        )
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("night")


@pytest.fixture(scope="module")
def killed(folder):
    """Begin a scan, and kill it when it is in the middle; return its uid."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCAN), str(folder)], stdout=subprocess.PIPE, text=True
    )
    uid = process.stdout.readline().strip()
    for _ in range(4):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    assert process.wait(30) == -signal.SIGKILL
    return uid


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
class TestKilled:
    def said(self, capsys):
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    def test_it_goes_on_where_it_was(self, killed, folder, capsys):
        assert main(["resume", killed[:8], "--catalog", str(folder), "--json"]) == 0
        first, last = self.said(capsys)
        assert first["run"] == killed and first["total"] == 12
        assert 1 <= first["missing"] <= 8
        assert (last["complete"], last["continues"]) == (True, killed)

        catalog = open_catalog(folder)
        try:
            before, after = (catalog.client[uid] for uid in (killed, last["run"]))
            assert (before.stop["exit_status"], after.stop["exit_status"]) == ("abort", "success")
            assert after.start["continues"] == killed
            assert after.start["series"] == before.start["series"]
            indices = [run["tile"].read()["tile_index"].values.tolist() for run in (before, after)]
            assert len(indices[1]) == first["missing"]
            # each tile is complete exactly once over both runs
            assert Counter(sum(indices, [])) == Counter(range(12))
            for run, complete in zip((before, after), indices, strict=True):
                table = run["primary"].read(["tile_index", "microscope_z", "microscope_truth_focus_um"])
                of_tiles = np.isin(table["tile_index"].values, complete)
                # of a tile that was being exposed there may be a frame, and of no other
                assert (~of_tiles).sum() <= 1
                frames = np.asarray(run["primary", "microscope_camera_image"].read())
                assert len(frames) == len(table["tile_index"])
                assert frames.std(axis=(1, 2)).min() > 0
                errors_um = table["microscope_z"].values - table["microscope_truth_focus_um"].values
                assert abs(errors_um).max() < 3.73
        finally:
            catalog.close()

        # and then there is nothing left, by whichever run of the series
        assert main(["resume", "-1", "--catalog", str(folder)]) == 0
        assert "0 of 12 visits are missing" in capsys.readouterr().out


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    catalog = tmp_path_factory.mktemp("nuclei")
    with open_session("nuclei", catalog=catalog, clock=VirtualClock(), show=None, frame_px=64) as opened:
        yield opened


@pytest.fixture
def lapse(session):
    """Return a function that makes a time-lapse of four frames."""

    def lapse(**options):
        microscope = session.instrument.devices["microscope"]
        return time_lapse(
            [microscope],
            microscope.z,
            analysis=session.sharpness,
            interval_s=10.0,
            count=4,
            depth_of_field_um=microscope.depth_of_field_um,
            travel_um=(-60.0, 60.0),
            clock=session.clock,
            **options,
        )

    return lapse


class TestSession:
    def test_the_start_document_says_by_which_instrument(self, session):
        assert session.RE.md["instrument"] == {
            "name": "nuclei",
            "options": {"frame_px": 64},
            "clock_speed": 0.0,
        }

    def test_devices_by_the_names_of_documents(self, session):
        microscope = session.instrument.devices["microscope"]
        assert session.named("microscope") is microscope
        assert session.named("microscope_z") is microscope.z
        assert session.named("microscope_camera_exposure_s") is microscope.camera.exposure_s
        assert session.named("sharpness") is session.sharpness
        with pytest.raises(ValueError, match="no device and no analysis 'laser' in this session"):
            session.named("laser")

    def test_a_time_lapse_goes_on(self, session, lapse):
        assert session.namespace()["resume"] == session.resume

        def dies(name, doc):
            if name == "event" and doc["data"].get("tile_time_point") == 1 and "tile_frames" in doc["data"]:
                raise DiedError

        token = session.RE.subscribe(dies)
        with pytest.raises(DiedError):
            session.RE(lapse())
        session.RE.unsubscribe(token)
        session.RE(session.resume(-1))
        assert session.db[-1]["tile"].read()["tile_time_point"].values.tolist() == [2, 3]
        for name in (-1, -2):
            with pytest.raises(NotResumableError, match="nothing is left: all 4 tiles are there"):
                session.resume(name)

    def test_a_run_of_another_plan(self, session, capsys):
        session.RE(session.focus(method="sweep", budget=6))
        with pytest.raises(NotResumableError, match="is no tile_scan or time_lapse but autofocus"):
            session.resume(-1)
        assert main(["resume", "-1", "--catalog", str(session.catalog.folder)]) == 2
        assert "is no tile_scan or time_lapse" in capsys.readouterr().err

    def test_a_run_by_an_instrument_of_ones_own(self, session, lapse, capsys):
        """The command line cannot make that; a session with it can."""
        aborted = at_message(lapse(md={"instrument": {}}), 40, throwing)
        with pytest.raises(RuntimeError, match="thrown in place"):
            session.RE(aborted)
        assert main(["resume", "-1", "--catalog", str(session.catalog.folder)]) == 2
        assert "does not say by which instrument it was made" in capsys.readouterr().err


def test_the_clock_goes_as_it_did():
    from bluesky_autofocus.cli._resuming import _clock_of

    assert isinstance(_clock_of({"clock_speed": 0.0}), VirtualClock)
    clock = _clock_of({"clock_speed": 4.0})
    assert isinstance(clock, WallClock) and clock.speed == 4.0
