"""The simulated instruments with the weights that come with the package: a session focuses them."""

import numpy as np
import pytest
from bluesky import plan_stubs as bps

from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.session import open_session

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")


@pytest.fixture
def open_instrument(tmp_path):
    sessions = []

    def make(name, **options):
        session = open_session(name, catalog=tmp_path, clock=VirtualClock(), show=None, **options)
        sessions.append(session)
        return session, session.instrument.devices["microscope"]

    yield make
    for session in sessions:
        session.close()


def verdict_of(session):
    table = session.db[-1]["verdict"].read()
    return {
        name: table[f"verdict_{name}"].values[-1] for name in ("found", "reason", "exposures", "sigma_um")
    }


@pytest.mark.parametrize(("defocus_um", "exposures"), [(0.8, 9), (-2.6, 12)])
def test_living_cells(open_instrument, defocus_um, exposures):
    session, microscope = open_instrument("cells", seed=5, frame_px=384, defocus_um=defocus_um)
    session.RE(session.focus())
    verdict = verdict_of(session)
    assert verdict["found"], verdict
    assert verdict["exposures"] <= exposures
    assert abs(microscope.defocus_um) < 3 * verdict["sigma_um"]
    assert abs(microscope.defocus_um) < 0.375
    reasons = session.db[-1]["reading_key_frame"].read()["key_frame_reason"].values.tolist()
    assert reasons.count("ok") == 2 and set(reasons) <= {"incomplete", "edge", "ok"}


def test_living_cells_smoothly(open_instrument):
    session, microscope = open_instrument("cells", seed=5, frame_px=384, defocus_um=0.9)
    session.RE(session.focus(smooth_um=0.25))
    verdict = verdict_of(session)
    assert (bool(verdict["found"]), verdict["reason"]) == (True, "held_back")
    assert microscope.defocus_um == pytest.approx(0.65, abs=0.03)


def test_no_cell_in_the_field(open_instrument):
    session, microscope = open_instrument("cells", seed=5, frame_px=384)
    nothing = session.analysis_of("coarse_fine")
    nothing.mask = lambda planes: planes[0] > 1e9
    before_um = microscope.z.load_um
    session.RE(session.focus())
    assert verdict_of(session)["reason"] == "empty"
    assert microscope.z.load_um == pytest.approx(before_um, abs=0.05)


@pytest.mark.parametrize("defocus_um", [40.0, -8.0])
def test_a_smear(open_instrument, defocus_um):
    session, microscope = open_instrument("smear", seed=11, defocus_um=defocus_um)
    session.RE(session.focus())
    verdict = verdict_of(session)
    assert verdict["found"], verdict
    assert abs(microscope.defocus_um) < 0.5 and verdict["sigma_um"] < 0.5
    assert microscope.z.actual_velocity_um_s == 0
    run = session.db[-1]["focus_approach"].read()
    assert abs(run["microscope_z_velocity"].values).max() > 20
    read = session.db[-1]["reading_focus_class"].read()
    classes = np.clip(np.rint(read["focus_class_value"].values / 6), -2, 4)
    np.testing.assert_allclose(read["focus_class_index"].values, classes, atol=1)
    certainty = read["focus_class_certainty"].values
    assert ((certainty > 0) & (certainty <= 1)).all()
    session.RE(bps.mv(microscope.z, 0.0))  # moves go on working
