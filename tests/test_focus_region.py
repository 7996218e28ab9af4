"""One line focuses a region of the frame, or maps the whole of it."""
# ruff: noqa: N803 - every bluesky user calls it RE

import json

import pytest

from bluesky_autofocus.callbacks import Analysis, AnalysisError, FocusMapAnalysis, focus_map
from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.report import write_report
from bluesky_autofocus.session import open_session

pytestmark = [
    pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic"),
]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    with open_session(
        "sem", catalog=tmp_path_factory.mktemp("region") / "data", clock=VirtualClock(), show=None
    ) as session:
        yield session


@pytest.fixture
def session(opened):
    sem = opened.instrument.devices["sem"]
    sem.working_distance.set(sem.focus_um + 30.0).wait()
    return opened


@pytest.fixture
def subscribed(session):
    """Return a function that counts what listens to the RunEngine's documents."""
    return lambda: len(session.RE.dispatcher._token_mapping)


def test_a_region(session, subscribed):
    before, roi = subscribed(), (0.0, 0.5, 0.5, 1.0)
    session.RE(session.focus(method="search", roi=roi))
    verdict = session.db[-1]["verdict"].read()
    assert verdict["verdict_found"].values[0]
    parameters = json.loads(verdict["verdict_parameters"].values[0])
    assert parameters["analysis"]["roi"] == list(roi)
    # it sees that run and no others
    assert subscribed() == before
    assert session.sharpness.roi is None


def test_a_region_that_the_frame_has_not(session, subscribed):
    before = subscribed()
    start_um = session.instrument.axis.position
    with pytest.raises(AnalysisError, match="do not fit in a frame of 512 rows x 512 columns"):
        session.RE(session.focus(roi=(0, 600, 0, 300)))
    assert session.instrument.axis.position == pytest.approx(start_um, abs=0.1)
    assert subscribed() == before


@pytest.mark.parametrize("roi", [(0.5, 0.2, 0.0, 1.0), (0, 4, 0, 300), "left"])
def test_what_is_no_region(session, roi):
    with pytest.raises(ValueError, match="roi"):
        session.focus(roi=roi)


def test_a_method_that_does_not_go_by_sharpness(session):
    session.use("sweep", Analysis("other"))
    try:
        with pytest.raises(ValueError, match="'sweep' goes by 'other' and not by sharpness"):
            session.focus(method="sweep", roi=(0.0, 0.5, 0.0, 0.5))
    finally:
        session.use("sweep", session.sharpness)


def test_a_map(session, subscribed, tmp_path):
    sem = session.instrument.devices["sem"]
    sem.stigmator_x.put(0.4)
    before = subscribed()
    session.RE(session.focus(method="map", budget=12))
    sem.stigmator_x.put(0.0)
    run = session.db[-1]
    assert subscribed() == before
    (recorded,) = run["focus_map"].read()["focus_map_astigmatism_straight_um"].values
    found = focus_map(run)
    assert found.astigmatism.straight_um == pytest.approx(recorded)
    assert recorded == pytest.approx(-8.0, abs=1.0)
    assert abs(found.tilt_x_um) < sem.depth_of_field_um / 2
    page = write_report(run, tmp_path / "map.html").read_text(encoding="utf-8")
    assert "Across the frame" in page and "16 of 4 x 4 tiles found in focus" in page


def test_an_analysis_of_your_own_maps(session):
    mine = FocusMapAnalysis(grid=(2, 3))
    session.use("map", mine)
    session.RE(session.focus(method="map", by="search"))
    assert mine.focus_map().focus_um.shape == (2, 3)
    assert focus_map(session.db[-1]).focus_um.shape == (2, 3)
    assert abs(mine.focus_map().mean_um - session.instrument.devices["sem"].focus_um) < 2.0


def test_a_report_of_a_run_without_tiles_has_no_map(session, tmp_path):
    session.RE(session.focus(method="search"))
    page = write_report(session.db[-1], tmp_path / "plain.html").read_text(encoding="utf-8")
    assert "Across the frame" not in page
    # it can be had from the frames
    assert focus_map(session.db[-1], grid=(2, 2)).agree
