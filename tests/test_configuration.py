"""The file that describes an instrument: what it may say, what it must not, and that sessions go by it."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from bluesky import plan_stubs as bps
from hypothesis import given, settings
from hypothesis import strategies as st
from interrupting import at_message, pausing

from bluesky_autofocus.catalog import open_catalog
from bluesky_autofocus.cli import main
from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.configuration import (
    ApproachTable,
    AxisTable,
    CameraTable,
    Configuration,
    ConfigurationError,
    FocusTable,
    InstrumentTable,
    SessionTable,
    read_configuration,
    write_configuration,
)
from bluesky_autofocus.instruments import INSTRUMENTS, MissingExtraError, make_instrument
from bluesky_autofocus.plans import Approach, OutsideLimitsError
from bluesky_autofocus.session import Session, open_session

pytestmark = [
    pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic"),
]

DOCS = Path(__file__).resolve().parents[1] / "docs"

SCOPE = """
[instrument]
name = "nuclei"
options = { frame_px = 128, defocus_um = 9.0 }

[axis]
limits_um = [-30, 50.0]
approach = { direction = -1, overshoot_um = 2.0 }

[camera]
exposure_s = 0.02
full_scale = 15_000

[focus]
method = "brent"
metric = "tenengrad"
range_um = 40
depth_of_field_um = 4.0
budget = 14

[session]
retention = "in-focus"
reserve_bytes = 1_000_000
"""


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "scope.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_all_that_a_file_may_say(written):
    assert read_configuration(written(SCOPE)) == Configuration(
        instrument=InstrumentTable(name="nuclei", options={"frame_px": 128, "defocus_um": 9.0}),
        axis=AxisTable(limits_um=(-30.0, 50.0), approach=ApproachTable(direction=-1, overshoot_um=2.0)),
        camera=CameraTable(exposure_s=0.02, full_scale=15_000.0),
        focus=FocusTable(method="brent", metric="tenengrad", range_um=40.0, depth_of_field_um=4.0, budget=14),
        session=SessionTable(retention="in-focus", reserve_bytes=1_000_000),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "instrument is missing"),
        ("x = [", "is no TOML"),
        ('[instrument]\nname = "stars"', "instrument.name is 'stars': expected one of cells"),
        ("[axis]\nlimits_um = [3, 1]", "axis.limits_um is [3, 1]: expected two positions in um, the lower"),
        ('[axis]\nlimits_um = ["1", 3]', "axis.limits_um.0 is '1'"),
        ("[axis.approach]\ndirection = 2", "axis.approach.direction is 2: it should be 1 or -1"),
        ("[axis.approach]\nsettle = 2", "axis.approach.settle is unknown; there are direction, overshoot_um"),
        ("[focus]\nrange_um = -3", "focus.range_um is -3: it should be greater than 0"),
        ("[focus]\nrange_um = nan", "focus.range_um is nan"),
        ('[focus]\nrange_um = "5"', "focus.range_um is '5'"),
        ("[focus]\nbudget = 2.5", "focus.budget is 2.5"),
        ('[focus]\nmethod = "guess"', "focus.method is 'guess': expected one of approach"),
        ('[focus]\nmetric = "guess"', "focus.metric is 'guess': expected one of "),
        ('[session]\nretention = "some"', "session.retention is 'some'"),
        ("[lamp]\non = true", "lamp is unknown; there are instrument, axis, camera, focus, session"),
        ("[focus]\ntravel_um = [0, 50]\n[axis]\nlimits_um = [10, 60]", "must lie within axis.limits_um"),
        ("[focus]\nrange_um = 50\ntravel_um = [0, 40]", "is wider than where the axis may go"),
    ],
)
def test_what_makes_no_sense_is_named(written, text, said):
    if text and "instrument" not in text and "[" in text:
        text = f'instrument = {{ name = "sem" }}\n{text}'
    path = written(text)
    with pytest.raises(ConfigurationError, match=re.escape(said)) as error:
        read_configuration(path)
    assert all(line.startswith(f"{path}: ") for line in str(error.value).splitlines())


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigurationError, match=r"none\.toml: cannot be read: No such file"):
        read_configuration(tmp_path / "none.toml")


@settings(max_examples=40)
@given(
    options=st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=8),
        st.recursive(
            st.booleans()
            | st.integers(-(2**62), 2**62)
            | st.floats(allow_nan=False)
            | st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=10),
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=4,
        ),
        max_size=4,
    ),
    range_um=st.none() | st.floats(1e-9, 1e9),
    limits=st.none() | st.tuples(st.floats(-1e9, -1e3), st.floats(1e3, 1e9)),
    settle_s=st.none() | st.floats(0, 1e6),
    budget=st.none() | st.integers(0, 10**9),
)
def test_what_is_written_is_read_again(tmp_path_factory, options, range_um, limits, settle_s, budget):
    if limits is not None and range_um is not None:
        range_um = min(range_um, limits[1] - limits[0])
    configuration = Configuration(
        instrument=InstrumentTable(name="sem", options=options),
        axis=AxisTable(
            limits_um=limits, approach=None if settle_s is None else ApproachTable(settle_s=settle_s)
        ),
        focus=FocusTable(range_um=range_um, budget=budget),
    )
    path = tmp_path_factory.getbasetemp() / "written.toml"
    comments = {"axis.approach.settle_s": "measured", "focus.range_um": "seen", "camera.exposure_s": "none"}
    write_configuration(configuration, path, comments)
    assert read_configuration(path) == configuration
    text = path.read_text(encoding="utf-8")
    assert ("# measured" in text) == (settle_s is not None) and "# none" not in text


def test_a_session_goes_by_it(written, tmp_path):
    path = written(SCOPE)
    with open_session(config=path, catalog=tmp_path, clock=VirtualClock(), show=None) as session:
        microscope = session.instrument.devices["microscope"]
        assert microscope.camera.exposure_s.get() == 0.02
        assert session.sharpness.metric.name == "tenengrad"
        assert session.sharpness.full_scale == session.instrument.full_scale == 15_000
        session.RE(session.focus())
        run = session.db[-1]
        assert run.metadata["start"]["method"] == "brent"
        assert run.metadata["start"]["retention"] == "in-focus"
        parameters = json.loads(str(run["verdict"]["verdict_parameters"].read()[-1]))
        assert parameters["travel_um"] == [-30.0, 50.0]
        assert parameters["budget"] == 14
        assert parameters["approach"] == {"direction": -1, "overshoot_um": 2.0, "settle_s": 0.0}
        low_um, high_um = parameters["bounds_um"]
        assert high_um - low_um == pytest.approx(40.0)
        with pytest.raises(OutsideLimitsError, match="beyond the limits -30"):
            session.RE(bps.mv(microscope.z, -31.0))
        # enough to make the instrument again, and to set it up as it was
        said = run.metadata["start"]["instrument"]
        made = {"name": said["name"], "options": said["options"]}
        assert Configuration.of({**said["configuration"], "instrument": made}) == read_configuration(path)


def test_what_is_given_wins_over_the_file(written, tmp_path):
    with open_session(
        config=written(SCOPE), catalog=tmp_path, clock=VirtualClock(), show=None, metric="brenner", seed=5
    ) as session:
        assert session.sharpness.metric.name == "brenner"
        assert session.RE.md["instrument"]["options"] == {"frame_px": 128, "defocus_um": 9.0, "seed": 5}
    with pytest.raises(ValueError, match="give either an instrument, 'sem', or a config"):
        open_session("sem", config=written(SCOPE), catalog=tmp_path)


def test_methods_of_an_instrument_take_what_they_understand():
    tables = {
        "axis": {"approach": {"overshoot_um": 3.0}},
        "focus": {"range_um": 20.0, "depth_of_field_um": 2.0},
    }
    configuration = Configuration.of({**tables, "instrument": {"name": "microscope"}})
    made = make_instrument("microscope", Path("unused"), VirtualClock(), frame_px=128)
    applied = configuration.applied_to(made)
    assert applied.focus_options["range_um"] == 20.0
    by_light = applied.method_options["two_led"]
    assert by_light["approach"] == Approach(1, 3.0, 0.0)
    assert by_light["depth_of_field_um"] == 2.0 and "range_um" not in by_light
    assert made.method_options["two_led"]["depth_of_field_um"] != 2.0


def test_the_startup_module_of_a_queueserver_goes_by_it(written, tmp_path, monkeypatch):
    import importlib

    monkeypatch.setenv("BLUESKY_AUTOFOCUS_CONFIG", str(written(SCOPE)))
    monkeypatch.setenv("BLUESKY_AUTOFOCUS_CATALOG", str(tmp_path / "data"))
    monkeypatch.delenv("BLUESKY_AUTOFOCUS_INSTRUMENT", raising=False)
    monkeypatch.delenv("BLUESKY_AUTOFOCUS_OPTIONS", raising=False)
    from bluesky_autofocus import startup

    names = vars(importlib.reload(startup))
    try:
        assert names["session"].instrument.focus_options["range_um"] == 40
    finally:
        names["session"].close()


# Back ends


@pytest.mark.parametrize("name", sorted(INSTRUMENTS))
def test_an_option_that_there_is_not_is_named(name, tmp_path):
    with pytest.raises((ValueError, MissingExtraError), match="unexpected keyword|missing a required|pip"):
        make_instrument(name, tmp_path, VirtualClock(), no_such_option=1)


def test_what_is_not_installed_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(
        "bluesky_autofocus.instruments.importlib.import_module", lambda _: __import__("absent")
    )
    with pytest.raises(
        MissingExtraError, match=r"epics needs absent: pip install 'bluesky-autofocus\[epics\]'"
    ):
        make_instrument("epics", tmp_path, VirtualClock(), camera="13SIM1:")


def test_the_extras_that_are_named_exist():
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))
    extras = {one.extra for one in INSTRUMENTS.values() if getattr(one, "extra", None)}
    assert extras <= set(project["project"]["optional-dependencies"])


# The command line


def test_check_writes_what_focus_reads(tmp_path, capsys):
    scope, catalog = tmp_path / "scope.toml", str(tmp_path / "catalog")
    arguments = ["check", "nuclei", "--option", "frame_px=128", "--option", "defocus_um=9.0"]
    limits = ["--range-um", "-20", "32", "--planes", "9", "--watch-s", "0.1", "--yes"]
    assert main([*arguments, *limits, "--write", str(scope), "--catalog", catalog, "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["written"] == str(scope) and said["grade"] in ("ok", "warning", "not tried")
    found = {one["what"]: one for one in said["findings"]}
    assert found["velocity"]["value"] == pytest.approx(200.0, rel=0.3)
    written = read_configuration(scope)
    assert written.instrument == InstrumentTable(name="nuclei", options={"frame_px": 128, "defocus_um": 9.0})
    assert written.axis.approach == ApproachTable()
    assert f"(check {said['run'][:8]})" in scope.read_text(encoding="utf-8")
    assert main(["focus", "--config", str(scope), "--catalog", catalog, "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert verdict["found"] and verdict["method"] == "search"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check", "sem"], "give --range-um LO HI --yes"),
        (["check", "sem", "--yes"], "--yes needs --range-um"),
        (["check", "--yes", "--range-um", "0", "1"], "give the name of an instrument, or --config FILE"),
        (
            ["check", "sem", "--yes", "--range-um", "0", "1", "--write", "no/where.toml"],
            "there is no folder no",
        ),
        (["focus"], "give the name of an instrument, or --config FILE"),
        (["shell"], "give the name of an instrument, or --config FILE"),
        (["focus", "--config", "none.toml"], "none.toml: cannot be read"),
        (["focus", "stars"], "unknown instrument 'stars'"),
        (["focus", "sem", "--option", "stars=3"], "its options are scene"),
    ],
)
def test_what_a_user_got_wrong_is_one_line(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BLUESKY_AUTOFOCUS_CATALOG", str(tmp_path / "catalog"))
    assert main(arguments) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_ctrl_c_ends_a_run_in_order(tmp_path, monkeypatch, capsys):
    """Axis and light are put back, and the run has its stop document."""
    seen = {}

    def interrupted(session, **options):
        seen["z"] = session.instrument.axis
        seen["start_um"] = session.instrument.axis.position
        return at_message(focus(session, **options), 60, pausing)

    focus = Session.focus
    monkeypatch.setattr(Session, "focus", interrupted)
    arguments = ["focus", "nuclei", "--option", "frame_px=128", "--option", "defocus_um=9.0", "--json"]
    assert main([*arguments, "--catalog", str(tmp_path)]) == 130
    assert "interrupted; all is put back" in capsys.readouterr().err
    assert seen["z"].position == pytest.approx(seen["start_um"], abs=0.1)
    catalog = open_catalog(tmp_path)
    try:
        assert catalog.repaired == []
        assert catalog.client[-1].stop["exit_status"] == "abort"
    finally:
        catalog.close()


@pytest.mark.parametrize(("answer", "sent"), [("n", None), ("", None), ("y", (-30, 30)), ("-9 12", (-9, 12))])
def test_nothing_moves_before_a_person_says_so(answer, sent, monkeypatch, capsys):
    from argparse import Namespace

    from bluesky_autofocus.cli._checking import _confirmed

    class Stage:
        name, position, limits = "z", 1.0, (-30.0, 100.0)

    instrument = Namespace(axis=Stage(), focus_options={"depth_of_field_um": 4.0})
    monkeypatch.setattr("builtins.input", lambda _: answer)
    confirmed = _confirmed(Namespace(instrument=instrument), Namespace(yes=False, range_um=None))
    assert confirmed == (
        None if sent is None else pytest.approx((sent[0], 41.0 if answer == "y" else sent[1]))
    )
    said = capsys.readouterr().out
    assert "z is at 1 um; its limits are -30 .. 100 um" in said and "within -30 .. 41 um" in said


# The documentation


def test_the_example_in_the_docs_is_one_and_names_all_keys():
    text = (DOCS / "reference" / "configuration.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", text, flags=re.DOTALL)
    tables = tomllib.loads(example)
    assert Configuration.of(tables).tables() == tables
    keys = {f"axis.approach.{key}" for key in ApproachTable.__dataclass_fields__}
    for name, field in Configuration.__dataclass_fields__.items():
        keys |= {f"{name}.{key}" for key in field.type.__dataclass_fields__}
    keys.remove("axis.approach")
    assert {key for key in keys if f"`{key}`" not in text} == set()
    # other tests may have added some of their own
    ours = {name for name, make in INSTRUMENTS.items() if make.__module__.startswith("bluesky_autofocus.")}
    assert {"sem", "epics"} <= ours
    assert {name for name in ours if f"`{name}`" not in text} == set()
