import pytest

from bluesky_autofocus.callbacks import OrientationAnalysis, TwoLEDAnalysis
from bluesky_autofocus.cli._main import _parser
from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.defocus import TwoLEDFilter
from bluesky_autofocus.instruments import make_instrument
from bluesky_autofocus.session import open_session

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")


@pytest.fixture
def open_microscope(tmp_path):
    opened = []

    def open_it(**options):
        opened.append(
            open_session(
                "microscope", catalog=tmp_path, clock=VirtualClock(), frame_px=320, show=None, **options
            )
        )
        return opened[-1]

    yield open_it
    for session in opened:
        session.close()


def verdict(session):
    return session.db[-1]["verdict"].read()


def test_focus_is_one_word(open_microscope):
    session = open_microscope()
    microscope = session.instrument.devices["microscope"]
    lit = microscope.leds.lit
    session.RE(session.focus(method="two_led"))
    assert abs(microscope.defocus_um) < microscope.depth_of_field_um / 2
    assert bool(verdict(session)["verdict_found"][0])
    assert microscope.leds.lit == lit
    # a method of another kind takes other options, and goes by sharpness
    assert session.analysis_of("brent") is session.sharpness
    session.RE(session.focus(method="sweep", range_um=10, budget=6))
    assert session.db[-1].metadata["start"]["method"] == "sweep"


def test_what_a_session_starts_with(open_microscope):
    session = open_microscope()
    namespace = session.namespace()
    assert namespace["leds"] is namespace["microscope"].leds
    assert namespace["Single"](0.4).na == 0.4
    assert isinstance(namespace["two_led"], TwoLEDAnalysis)
    assert isinstance(namespace["orientation"], OrientationAnalysis)
    assert namespace["calibrate_leds"]
    banner = session.banner()
    assert "microscope.z focuses" in banner and "bps.mv(leds" in banner
    assert f"focus_{session.instrument.method}" in banner
    assert session.instrument.method == (
        "single_shot" if "single_shot" in session.instrument.analyses else "two_led"
    )


def test_a_turned_array_is_calibrated_then_used(open_microscope):
    session = open_microscope(rotation_deg=20.0)
    microscope = session.instrument.devices["microscope"]
    leds, names = microscope.leds, session.namespace()
    session.RE(names["calibrate_leds"]([microscope], microscope.z, leds=leds, analysis=names["orientation"]))
    assert leds.orientation.rotation_deg == pytest.approx(20, abs=0.7)
    led = leds.nearest(0.4, 0)
    assert led.angle_deg == pytest.approx(5, abs=0.7)
    made = TwoLEDAnalysis(TwoLEDFilter(microscope.objective.optics, led.na, led.angle_deg))
    session.use("two_led", made)
    assert session.analysis_of("two_led") is made
    session.RE(session.focus(method="two_led"))
    assert abs(microscope.defocus_um) < microscope.depth_of_field_um / 2


def test_options_of_the_command_line():
    options = _parser().parse_args(
        ["shell", "microscope", "--kind", "tissue", "--frame-px", "512", "--seed", "3"]
    )
    assert (options.instrument, options.kind, options.frame_px, options.seed) == (
        "microscope",
        "tissue",
        512,
        3,
    )
    assert options.rotation_deg is None


def test_no_such_slide(tmp_path):
    with pytest.raises(ValueError, match="kind is 'stars'"):
        make_instrument("microscope", tmp_path, VirtualClock(), kind="stars", frame_px=128)


def test_too_much_light_is_known_for_what_it_is(tmp_path):
    """The camera's wells are full below the largest number of its type."""
    from bluesky import plan_stubs as bps

    with open_session(
        "microscope", catalog=tmp_path, clock=VirtualClock(), show=None, frame_px=256
    ) as session:
        session.RE(bps.mv(session.instrument.devices["leds"], "half_annulus_top"))
        session.RE(session.focus(method="sweep", budget=6))
        verdict = session.db[-1]["verdict"].read()
        assert verdict["verdict_reason"].values[-1] == "saturated"
