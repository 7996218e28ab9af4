"""Runs that databroker holds look as they did when they went on, and the report says so."""

import base64
import re

import cv2
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky import plans as bp
from slanted import Slanted

from bluesky_autofocus.callbacks import COLOURS, SharpnessAnalysis, Watched, replayed
from bluesky_autofocus.catalog import open_catalog
from bluesky_autofocus.frames import install_frame_routing
from bluesky_autofocus.report import write_report
from bluesky_autofocus.retention import prune

pytestmark = [
    pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic"),
]


class Bench:
    """A specimen that was scanned, and what was seen while it was."""

    def __init__(self, folder):
        self.catalog = open_catalog(folder)
        self.RE = RunEngine()
        install_frame_routing(self.RE)
        self.catalog.subscribe(self.RE)
        analysis = SharpnessAnalysis()
        self.RE.subscribe(analysis)
        self.watched = Watched()
        self.RE.subscribe(self.watched)
        self.specimen = Slanted(self.catalog.frame_directory)
        self.RE(self.specimen.scan(analysis, every=3), sample="<b>slide</b>")
        self.scan = self.catalog.client[-1]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    made = Bench(tmp_path_factory.mktemp("data"))
    yield made
    made.catalog.close()


def test_a_recorded_run_looks_as_it_did(bench):
    documents, fetch = replayed(bench.scan)
    again = Watched(fetch)
    for name, doc in documents:
        again(name, doc)
    live, later = bench.watched.run, again.run
    for run in (live, later):
        run.develop(100)
    assert {key: tile.kind for key, tile in later.tiles.items()} == {
        key: tile.kind for key, tile in live.tiles.items()
    }
    assert repr(later.focusings) == repr(live.focusings)  # NaN equals nothing
    assert (later.frames, later.ended, later.title) == (live.frames, live.ended, live.title)
    for one, other in zip(later.tiles.values(), live.tiles.values(), strict=True):
        np.testing.assert_array_equal(one.picture, other.picture)
    assert repr(later.curve.points) == repr(live.curve.points)


def pictures_in(page):
    found = re.findall(r'<img alt="([^"]*)" src="data:image/png;base64,([^"]*)"', page)
    return {
        name: cv2.imdecode(np.frombuffer(base64.b64decode(png), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        for name, png in found
    }


def test_the_report_of_a_long_run_shows_time_place_tiles_and_failures(bench, tmp_path):
    page = write_report(bench.scan, tmp_path / "scan.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    pictures = pictures_in(page)
    assert list(pictures) == [
        "focus against time",
        "focus over the stage",
        "tiles",
        "focus curve",
        "first frame",
        "last frame",
    ]
    for kind in ("found", "not found", "not focused"):
        colour = tuple(bytes.fromhex(COLOURS[kind][1:]))
        assert (pictures["tiles"] == colour).all(axis=2).sum() > 100, kind

    said = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))
    assert "3 focusings: &#9632; found 2, &#9632; not found 1" in said
    failures = said.split("Not found ", 1)[1].split(" Dose ")[0]
    assert "2 " in failures and "several_peaks 300.0 0.0 5.00" in failures
    exposures = bench.watched.run.exposures
    assert f"primary 8 of all focusings {exposures} their exposure time (s) {0.01 * exposures:.3g}" in said
    assert "&lt;b&gt;slide&lt;/b&gt;" in page and "bluesky-autofocus" in said
    assert f"All {exposures} readings" in said


def test_the_report_of_a_run_that_did_not_focus_shows_its_frames(bench, tmp_path):
    bench.RE(bp.scan([bench.specimen.camera], bench.specimen.x, 0.0, 200.0, 3, md={"sample": "strip"}))
    page = write_report(bench.catalog.client[-1], tmp_path / "strip.html").read_text()
    assert list(pictures_in(page)) == ["tiles"]
    assert "verdict" not in page.lower() and "readings" not in page


def test_there_is_nothing_to_report_of_a_run_without_frames(bench, tmp_path):
    bench.RE(bp.count([bench.specimen.x], 1))
    with pytest.raises(ValueError, match="holds neither readings nor frames: nothing to report"):
        write_report(bench.catalog.client[-1], tmp_path / "nothing.html")
    assert not (tmp_path / "nothing.html").exists()


def test_the_report_tells_which_frames_are_gone(bench, tmp_path):
    prune(bench.catalog.client, bench.scan, keep="readings")
    page = write_report(bench.scan, tmp_path / "scan.html").read_text()
    assert list(pictures_in(page)) == ["focus against time", "focus over the stage", "tiles", "focus curve"]
    assert page.count("There is no picture: frame") == 2 and "deleted to free disk space" in page
