"""A focus surface goes into the run that measured it, and a later run has it again."""

import pytest
from bluesky import preprocessors as bpp

from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.dataset import DatasetError, surface_of
from bluesky_autofocus.plans import record_surface
from bluesky_autofocus.prediction import FocusPoint, FocusSurface
from bluesky_autofocus.session import open_session

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")

PLACES = [(x, y) for x in (0.0, 500.0, 1000.0) for y in (0.0, 500.0, 1000.0)]


def surface(offset_um=0.0, kind="gaussian_process"):
    points = [FocusPoint(x, y, offset_um + 2e-3 * x - 1e-3 * y, 0.1) for x, y in PLACES]
    return FocusSurface.fit([*points, FocusPoint(250.0, 250.0, 40.0, 0.1)], kind=kind)


def test_in_the_documents(RE, documents):  # noqa: N803
    made = surface()
    RE(bpp.run_wrapper(record_surface(made)))
    (data,) = documents.events("focus_surface")
    assert (data["focus_surface_kind"], data["focus_surface_points"], data["focus_surface_rejected"]) == (
        *("gaussian_process", 10),
        1,
    )
    assert data["focus_surface_deviation_um"] == pytest.approx(made.deviation_um)


def test_in_a_later_session(tmp_path):
    """Of several in a run the newest counts; it predicts what it did."""
    options = {"catalog": tmp_path / "data", "clock": VirtualClock(), "show": None}

    @bpp.run_decorator()
    def plan():
        yield from record_surface(surface(5.0, kind="plane"))
        yield from record_surface(surface(7.0))

    with open_session("sem", **options) as session:
        session.RE(bpp.run_wrapper([]))
        session.RE(plan())
        uid = session.db[-1].start["uid"]
    with open_session("sem", **options) as session:
        made = surface(7.0)
        for which in (uid, uid[:8], -1):
            assert session.surface(which).to_dict() == made.to_dict()
        again = surface_of(session.db[uid])
        for place in ((300.0, 700.0), (5000.0, 0.0)):
            assert repr(again.predict(*place)) == repr(made.predict(*place))
        assert again.rejected == (9,)
        with pytest.raises(DatasetError, match="has recorded no focus surface"):
            session.surface(-2)


def test_something_else(RE):  # noqa: N803
    with pytest.raises(TypeError, match="expected a FocusSurface, got 3"):
        RE(bpp.run_wrapper(record_surface(3)))
