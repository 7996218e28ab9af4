"""What is to be seen of a run, from its documents; drawn with matplotlib."""

import logging
import math

import numpy as np
import pytest
from bluesky import plan_stubs as bps
from bluesky import plans as bp
from bluesky import preprocessors as bpp
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from slanted import PITCH_UM, Slanted

from bluesky_autofocus.callbacks import (
    COLOURS,
    LiveView,
    Progress,
    RunProgress,
    Watched,
    WatchedRun,
)
from bluesky_autofocus.callbacks import _watched_run as watched_module
from bluesky_autofocus.plans import record_surface
from bluesky_autofocus.prediction import FocusPoint, FocusSurface

LOST = (3 * PITCH_UM, 0.0)
"""Where there is no specimen."""


@pytest.fixture
def specimen(tmp_path):
    return Slanted(tmp_path / "frames")


@pytest.fixture
def watched(RE):
    made = Watched()
    RE.subscribe(made)
    return made


def kinds(run):
    return {key: tile.kind for key, tile in run.tiles.items()}


def test_tiles_and_focusings_are_where_the_stage_was(RE, analysis, specimen, watched):
    RE(specimen.scan(analysis))
    run = watched.run
    assert run.ended == "success"
    assert kinds(run) == {
        (PITCH_UM * column, PITCH_UM * row): "not found"
        if (PITCH_UM * column, PITCH_UM * row) == LOST
        else "found"
        for row in range(2)
        for column in range(4)
    }
    assert run.outcomes == {"found": 7, "not found": 1}
    for one in run.by_kind["found"]:
        assert abs(one.position_um - (5.0 + one.place.x_um / PITCH_UM)) < 5 * one.sigma_um
    (lost,) = run.by_kind["not found"]
    assert (lost.place.x_um, lost.place.y_um) == LOST
    assert math.isnan(lost.position_um) and lost.stands_um == lost.start_um

    assert run.frames == {"primary": 8, "focus_brent": run.exposures}
    assert run.dose_s == pytest.approx(0.01 * run.exposures)  # the camera exposes 10 ms
    assert (run.progress.done, run.progress.total, run.progress.remaining_s()) == (8, 8, 0.0)
    times = run.times(run.focusings)
    assert times == sorted(times) and 0 < times[0] and run.time_unit[0] == "s"
    # the curve is that of the last focusing alone
    assert len(run.curve.points) == run.focusings[-1].exposures
    assert run.curve.verdicts[-1]["position_um"] == run.focusings[-1].position_um


def test_frames_are_looked_at_when_asked_for_and_none_twice(RE, analysis, specimen):
    looked_at = []

    def fetch(resource, row):
        looked_at.append((resource["data_key"], row))
        if row == 3:
            raise FileNotFoundError
        return np.full((50, 100), row, np.uint16)

    watched = Watched(fetch)
    RE.subscribe(watched)
    RE(specimen.scan(analysis, every=4))
    run = watched.run
    assert not looked_at
    assert run.develop(3) == 6  # eight tiles and the newest frame
    assert run.develop(100) == 0
    assert run.develop(100) == 0
    assert sorted(looked_at) == sorted([("camera_image", row) for row in range(8)] + [("camera_image", 7)])
    pictures = [tile.picture for tile in run.tiles.values()]
    assert pictures[3] is None
    brightest = [picture.max() for picture in pictures if picture is not None]
    assert brightest == pytest.approx([0, 1, 2, 4, 5, 6, 7])
    assert pictures[0].shape == (32, 64) and run.newest.picture.shape == (50, 100)


def test_the_mosaic_has_each_picture_at_its_place(RE, analysis, specimen, watched):
    RE(specimen.scan(analysis, every=8))
    watched.run.develop(100)
    tile_map = watched.run.tile_map()
    assert (tile_map.unit, tile_map.title) == ("um", "8 tiles")
    mosaic = tile_map.mosaic()
    assert (mosaic.box.left, mosaic.box.bottom, mosaic.box.width, mosaic.box.height) == (-50, -50, 400, 200)
    rows, columns = mosaic.pixels.shape[:2]
    assert (rows, columns) == (128, 256)
    opaque = mosaic.pixels[..., 3] == 255
    # frames are wider than high, tiles are square
    assert opaque[32].all() and not opaque[2].any()
    upper, lower = (
        mosaic.pixels[slice_][opaque[slice_]][:, :3].mean() for slice_ in (np.s_[:64], np.s_[64:])
    )
    assert upper > lower + 50  # the second row is brighter, and it is above


@pytest.mark.parametrize(
    ("data", "unit"),
    [
        ([{"tile_row": row, "tile_column": column} for row in range(2) for column in range(3)], "tile"),
        ([{"stage_x": 100.0 * n + 0.01 * n, "stage_y": 7.0} for n in range(4)], "um"),
        ([{"stage_x": 0.1 * n, "stage_y": 0.0} for n in range(4)], "mm"),
        ([{"stigmator_x": 1.0, "stigmator_y": 2.0}] * 5, "none"),
        ([{"stage_x": 1.0, "stage_y": 2.0}] * 2, "um, one place"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_map_goes_by_what_was_read(data, unit):
    run = run_of(data, units={"um": "um", "mm": "mm", "none": "unit"}.get(unit.split(",")[0], ""))
    tile_map = run.tile_map()
    corners = [(box.left, box.bottom) for box in tile_map.boxes]
    match unit:
        case "tile":
            assert tile_map.unit == "tile"
            assert corners == [(0, -1), (1, -1), (2, -1), (0, -2), (1, -2), (2, -2)]
        case "um" | "mm":
            assert tile_map.unit == "um"
            assert [box.middle[0] for box in tile_map.boxes] == pytest.approx([0, 100, 200, 300], abs=0.1)
            assert all(box.width == pytest.approx(100, abs=0.1) == box.height for box in tile_map.boxes)
        case "none":
            assert (tile_map.unit, corners) == ("frame", [(n, -1) for n in range(5)])
        case "um, one place":
            assert (tile_map.unit, len(corners)) == ("frame", 1)


def run_of(events, *, stream="primary", units="", run=None, frames=True):
    """Return a run of which a stream has such Events, each with a frame."""
    run = run or WatchedRun({"uid": "r", "time": 0.0}, lambda resource, row: np.zeros((4, 4), np.uint8))
    keys = {
        key: {
            "dtype": "number",
            "shape": [],
            "source": "",
            "units": units if isinstance(value, float) else "",
        }
        for key, value in events[0].items()
    }
    run("descriptor", {"uid": stream, "name": stream, "run_start": "r", "data_keys": keys | {"image": {}}})
    run("stream_resource", {"uid": f"file {stream}", "data_key": "image", "run_start": "r"})
    for number, data in enumerate(events, 1):
        if frames:
            indices = {"start": number - 1, "stop": number}
            run(
                "stream_datum",
                {"stream_resource": f"file {stream}", "descriptor": stream, "indices": indices},
            )
        run("event", {"descriptor": stream, "seq_num": number, "time": float(number), "data": data})
    return run


VERDICT = {
    "found": True,
    "reason": "found",
    "position_um": 1.0,
    "sigma_um": 0.1,
    "start_um": 0.0,
    "exposures": 2,
    "dose": 0.1,
    "method": "brent",
    "event_uids": "[]",
    "parameters": "{}",
    "versions": "{}",
}


def focused(run, **changes):
    data = {f"verdict_{key}": value for key, value in {**VERDICT, **changes}.items()}
    return run_of([data], stream="verdict", run=run, frames=False)


def at(row, column):
    return {"stage_x_um": 50.0 * column, "stage_y_um": 100.0 * row, "tile_row": row, "tile_column": column}


def test_a_plan_may_say_on_what_the_focus_of_its_tiles_rests():
    run = WatchedRun({"uid": "r", "time": 0.0})
    where = {"tile_index": 4, "tile_row": 1, "tile_column": 0}
    # focusing for a tile that is exposed later, as a survey does, another one for one that is left out
    focused(run)
    run_of([{**where, "tile_x_um": 0.0, "tile_y_um": 100.0}], stream="tile_focus", run=run, frames=False)
    focused(run, found=False, reason="flat", position_um=math.nan)
    left_out = {"tile_index": 1, "tile_row": 0, "tile_column": 1}
    run_of([{**left_out, "tile_x_um": 50.0, "tile_y_um": 0.0}], stream="tile_focus", run=run, frames=False)
    said = [
        {**at(0, 0), "tile_index": 0, "tile_source": "surface", "tile_marked": False, "tile_focus_um": 2.5},
        {**at(1, 1), "tile_index": 5, "tile_source": "last_good", "tile_marked": True, "tile_focus_um": 3.5},
        {**at(1, 0), **where, "tile_source": "focused", "tile_marked": False, "tile_focus_um": 1.0},
    ]
    run_of(said, run=run)
    focusings, tiles = run.surface()
    assert [one.position_um for one in focusings][0] == 1.0 and len(focusings) == 2
    assert [(box.middle, focus_um) for box, focus_um in tiles] == [
        ((0.0, 0.0), 2.5),
        ((50.0, 100.0), 3.5),
        ((0.0, 100.0), 1.0),
    ]
    ends = [{**left_out, "tile_source": "none", "tile_marked": True, "tile_frames": 0}]
    run_of(ends, stream="tile", run=run, frames=False)
    assert kinds(run) == {(0,): "expected", (5,): "marked", (4,): "found", (1,): "not found"}
    assert run.tiles[4,].focusing is run.focusings[0]
    assert run.tiles[1,].waiting is None and run.tiles[1,].place.x_um == 50.0
    assert run.tile_map().unit == "um"
    assert [one.place.y_um for one in run.focusings] == [100.0, 0.0]
    assert set(kinds(run).values()) < set(COLOURS)


def test_a_surface_that_was_recorded_is_shown_as_squares(RE, watched):
    corners = [(0.0, 0.0), (900.0, 0.0), (0.0, 500.0), (900.0, 500.0), (450.0, 250.0)]
    points = [FocusPoint(x, y, 5.0 + 0.01 * x - 0.02 * y, 0.05) for x, y in corners]

    @bpp.run_decorator()
    def plan():
        yield from record_surface(FocusSurface.fit(points, kind="plane"))

    RE(plan())
    assert watched.run.has_surface
    focusings, squares = watched.run.surface()
    assert not focusings and len(squares) > 200
    for box, focus_um in squares:
        x_um, y_um = box.middle
        assert focus_um == pytest.approx(5.0 + 0.01 * x_um - 0.02 * y_um, abs=0.1)


@pytest.mark.parametrize(
    ("found", "reason", "kind"),
    [
        (True, "found", "found"),
        (True, "held_back", "held back"),
        (True, "still_sharp", "left alone"),
        (False, "too_soon", "left alone"),
        (False, "flat", "not found"),
    ],
)
def test_verdicts_have_colours(found, reason, kind):
    run = focused(WatchedRun({"uid": "r", "time": 0.0}), found=found, reason=reason)
    assert (run.outcomes, run.reasons) == ({kind: 1}, {reason: 1})
    assert run.focusings[0].colour == COLOURS[kind]


def test_a_focusing_within_another_is_counted_once():
    run = WatchedRun({"uid": "r", "time": 0.0})
    focused(run, event_uids='["b", "c"]', exposures=2)
    focused(run, event_uids='["a", "b", "c"]', exposures=3, dose=0.3, method="blur")
    assert (run.outcomes["found"], run.exposures, len(run.focusings)) == (1, 3, 1)
    assert run.focusings[0].method == "blur" and run.dose_s == pytest.approx(0.3)
    focused(run, event_uids='["d"]', exposures=1, found=False, reason="flat")
    focused(run, event_uids='["e"]', exposures=1)  # what was fallen back on
    assert (run.outcomes, run.exposures) == ({"found": 2, "not found": 1}, 5)


def test_memory_is_bounded_and_counts_are_not(monkeypatch):
    monkeypatch.setattr(watched_module, "MOST_POINTS", 20)
    monkeypatch.setattr(watched_module, "MOST_TILES", 10)
    run = run_of([{"tile_index": n} for n in range(100)])
    for n in range(100):
        focused(run, position_um=float(n))
    assert [key for (key,) in run.tiles] == list(range(90, 100))
    assert len(run.focusings) <= 20 and run.outcomes["found"] == 100
    kept = [one.position_um for one in run.focusings]
    assert kept == sorted(kept) and kept[:: len(kept) - 1] == [0.0, 99.0]  # thinned out, and older ones more


def test_a_tile_that_was_taken_again_after_a_pause_is_one_tile(RE, analysis, specimen, watched):
    pauses = iter([True])

    def paused(detectors, step, pos_cache):
        yield from bps.move_per_step(step, pos_cache)
        yield from bps.trigger_and_read([*detectors, *step])
        if specimen.x.position == PITCH_UM and next(pauses, False):
            yield from bps.pause()

    plan = bp.scan_nd([specimen.camera], cycle(specimen), per_step=paused)
    from bluesky.utils import RunEngineInterrupted

    with pytest.raises(RunEngineInterrupted):
        RE(plan)
    RE.resume()
    run = watched.run
    run.develop(100)
    assert list(run.tiles) == [(0.0, 0.0), (PITCH_UM, 0.0), (2 * PITCH_UM, 0.0)]
    assert all(tile.picture is not None for tile in run.tiles.values())
    assert run.progress.done == 3


def cycle(specimen):
    from cycler import cycler

    return cycler(specimen.x, [0.0, PITCH_UM, 2 * PITCH_UM]) + cycler(specimen.y, [0.0, 0.0, 0.0])


def test_of_runs_within_each_other_the_inner_one_is_to_be_seen_while_it_goes_on(RE, camera, watched):
    seen = []

    def look():
        seen.append(watched.run.start["plan_name"])
        yield from bps.null()

    @bpp.set_run_key_decorator("inner")
    @bpp.run_decorator(md={"plan_name": "inner"})
    def inner():
        yield from look()

    @bpp.run_decorator(md={"plan_name": "outer"})
    def outer():
        yield from look()
        yield from inner()
        yield from look()
        yield from bps.trigger_and_read([camera])

    RE(outer())
    assert seen == ["outer", "inner", "outer"]
    assert watched.run.frames == {"primary": 1}
    watched("event", {"descriptor": "of a run whose start was missed", "data": {}})
    assert watched.run.frames == {"primary": 1}


# Drawn with matplotlib


@pytest.fixture
def figure():
    made = Figure(figsize=(8, 6))
    FigureCanvasAgg(made)
    return made


def test_the_live_view_draws_now_and_then_and_in_the_end(RE, analysis, specimen, figure):
    drawn = []
    view = LiveView(lambda: drawn.append(figure) or figure, interval_s=1e6)
    RE.subscribe(view)
    RE(specimen.scan(analysis))
    assert len(drawn) == 2  # the first point, and the end
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["focus against time", "focus over the stage", "8 tiles"]
    curve, against_time, *_ = figure.axes
    assert curve.get_ylabel() == "sharpness"
    labels = {text.get_text() for text in against_time.get_legend().get_texts()}
    assert labels == {"found (7)", "not found (1)"}
    view.draw()
    assert len(drawn) == 3
    figure.canvas.draw()
    colours = {
        tuple(colour) for colour in np.asarray(figure.canvas.buffer_rgba()).reshape(-1, 4)[:, :3].tolist()
    }
    assert {tuple(bytes.fromhex(COLOURS[kind][1:])) for kind in ("found", "not found")} < colours


def test_a_window_that_fails_does_not_stop_the_experiment(RE, analysis, specimen, watched, caplog):
    def broken():
        raise RuntimeError("the display is gone")

    RE.subscribe(LiveView(broken, interval_s=0.0))
    with caplog.at_level(logging.ERROR):
        RE(specimen.scan(analysis, every=8))
    assert watched.run.ended == "success"
    assert "the display is gone" in caplog.text


# Progress


@pytest.mark.parametrize(
    ("start", "total", "stream"),
    [
        ({"num_points": 12}, 12, "primary"),
        ({"shape": (3, 4)}, 12, "primary"),
        ({"num_points": 5, "hints": {"dimensions": [(["z"], "stack")]}}, 5, "stack"),
        ({"num_points": None}, None, "primary"),
        ({}, None, "primary"),
    ],
)
def test_progress_knows_how_many_and_of_what(start, total, stream):
    progress = Progress({"time": 100.0, **start})
    assert (progress.total, progress.stream) == (total, stream)
    assert math.isnan(progress.remaining_s())
    assert not progress.take("other", {"seq_num": 1, "time": 110.0})
    assert progress.take(stream, {"seq_num": 2, "time": 110.0})
    if total is not None:
        assert progress.remaining_s() == 5.0 * (total - 2)
        assert progress.remaining_s(now_s=113.0) == 5.0 * (total - 2) - 3.0
        assert progress.remaining_s(now_s=1e4) == 0.0


class Bar:
    def __init__(self, **options):
        self.options, self.n, self.closed = options, 0, False

    def update(self, more):
        self.n += more

    def close(self):
        self.closed = True


def test_long_runs_have_a_progress_bar(RE, camera, specimen):
    bars = []
    RE.subscribe(RunProgress(lambda **options: bars.append(Bar(**options)) or bars[-1], least=3))
    RE(bp.count([camera], 2))
    assert not bars
    RE(bp.scan([camera], specimen.x, 0.0, 1.0, 5))
    (bar,) = bars
    assert (bar.n, bar.options["total"], bar.options["desc"], bar.closed) == (5, 5, "scan", True)


def test_a_run_that_fails_ends_its_progress_bar(RE, camera):
    bars = []
    RE.subscribe(RunProgress(lambda **options: bars.append(Bar(**options)) or bars[-1]))

    @bpp.run_decorator(md={"num_points": 3})
    def plan():
        yield from bps.trigger_and_read([camera])
        raise RuntimeError("out of paper")

    with pytest.raises(RuntimeError, match="out of paper"):
        RE(plan())
    assert (bars[0].n, bars[0].closed) == (1, True)
