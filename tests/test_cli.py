"""The command line as a user runs it, and the session behind it."""

import json
import re
import sys

import pytest
import tifffile

from bluesky_autofocus.cli import main
from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.session import open_session
from bluesky_autofocus.simulation import SEMImageFormation, scene

# tiled's migration tool reads its own configuration in an old way
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return tmp_path_factory.mktemp("catalog")


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """Return a stack of 21 planes, 2 um apart, in focus at plane 12."""
    formation = SEMImageFormation(
        scene("grains", seed=3, shape=(256, 256)), frame_shape=(128, 128), scene_magnification=20_000
    )
    path = tmp_path_factory.mktemp("stacks") / "grains.tif"
    frames = [formation.image(2.0 * (plane - 12), magnification=20_000, dwell_us=1.0) for plane in range(21)]
    tifffile.imwrite(path, frames, photometric="minisblack")
    return path


@pytest.fixture(scope="module")
def demo(catalog, tmp_path_factory):
    report = tmp_path_factory.mktemp("report") / "focus.html"
    return report, ["demo", "--json", "--catalog", str(catalog), "--report", str(report)]


@pytest.fixture(scope="module")
def demo_result(demo):
    """Run the demo once; return what it said."""
    import contextlib
    import io

    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(demo[1]) == 0
    return json.loads(said.getvalue().splitlines()[-1])


def test_the_demo_focuses_within_a_tenth_of_the_depth_of_field(demo_result):
    assert demo_result["found"]
    assert abs(demo_result["error_dof"]) < 0.1
    assert abs(demo_result["start_um"] - demo_result["true_focus_um"]) > 50


def test_the_report_needs_nothing_else_and_shows_curve_and_frames(demo, demo_result):
    page = demo[0].read_text()
    assert demo_result["run"] in page
    assert page.count("data:image/png;base64,") == 3
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert f"{demo_result['position_um']:.3f}" in page


def test_the_report_verb_writes_the_same_run(demo_result, catalog, tmp_path, capsys):
    page = tmp_path / "again.html"
    assert main(["report", demo_result["run"][:8], "--catalog", str(catalog), "--output", str(page)]) == 0
    assert str(page) in capsys.readouterr().out
    assert demo_result["run"] in page.read_text()


def test_analyse_gives_what_was_recorded(demo_result, catalog, capsys):
    assert main(["analyse", demo_result["run"], "--catalog", str(catalog), "--json"]) == 0
    again = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    with open_session("sem", catalog=catalog, clock=VirtualClock(), show=None) as session:
        recorded = session.db[demo_result["run"]]["reading_sharpness"].read()
    scores = {
        (str(stream), int(number)): float(value)
        for stream, number, value in zip(
            recorded["sharpness_stream"].values,
            recorded["sharpness_seq_num"].values,
            recorded["sharpness_value"].values,
            strict=True,
        )
    }
    assert {(line["stream"], line["seq_num"]): line["value"] for line in again} == scores


@pytest.mark.parametrize("method", ["brent", "sweep"])
def test_try_prints_one_verdict_a_line(stack, method, capsys):
    arguments = ["try", str(stack), "--step-um", "2", "--method", method, "--dof-um", "5", "--json"]
    assert main([*arguments, "--start-um", "0", "--start-um", "35"]) == 0
    verdicts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [verdict["start_um"] for verdict in verdicts] == [0.0, 34.0]
    for verdict in verdicts:
        assert verdict["found"] is False or abs(verdict["plane"] - 12) <= 1


def test_try_says_it_in_words_and_starts_from_five_places(stack, capsys):
    assert main(["try", str(stack), "--step-um", "2", "--method", "sweep"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("grains: 21 planes")
    assert len(lines) == 5
    assert all("plane 12" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["try", "missing.tif"], "there is no focus stack at missing.tif"),
        (["try", "{stack}"], "give step_um"),
        (["try", "{stack}", "--step-um", "-1"], "step_um must be positive, got -1.0"),
        (["try", "{stack}", "--step-um", "2", "--metric", "guess"], "unknown sharpness metric 'guess'"),
        (["try", "{stack}", "--step-um", "2", "--method", "guess"], "unknown method 'guess'"),
        (["try", "{stack}", "--step-um", "2", "--start-um", "99"], "99.0 is outside the stack, 0 .. 40"),
        (["try", "{stack}", "--step-um", "2", "--budget", "0"], "budget must allow at least"),
        (["report", "99", "--catalog", "{catalog}"], "there is no run 99"),
        (["serve", "--catalog", "{stack}/below-a-file"], "cannot keep a catalogue in"),
    ],
)
def test_what_a_user_got_wrong_is_one_line(arguments, said, stack, catalog, capsys, demo_result):
    status = main([argument.format(stack=stack, catalog=catalog) for argument in arguments])
    *_, error = capsys.readouterr().err.splitlines()
    assert status == 2
    assert error.startswith("bluesky-autofocus: ")
    assert said in error


def test_an_option_of_the_session_replaces_the_instruments_own_place_to_look(catalog):
    with open_session("sem", catalog=catalog, clock=VirtualClock(), show=None) as session:
        sem = session.instrument.devices["sem"]
        session.RE(session.focus(bounds_um=(9_950.0, 10_070.0)))
        parameters = json.loads(str(session.db[-1]["verdict"]["verdict_parameters"].read()[-1]))
        assert parameters["bounds_um"] == [9_950.0, 10_070.0]
        assert abs(sem.working_distance.position - 10_000.0) < sem.depth_of_field_um


def test_a_session_has_ready_what_the_banner_names(catalog):
    with open_session("sem", catalog=catalog, clock=VirtualClock(), show=None) as session:
        names, banner = session.namespace(), session.banner()
    assert len(banner.splitlines()) == 6
    for name in ("RE", "db", "sd", "sem", "focus", "autofocus", "brent_focus", "write_report", "bp", "bps"):
        assert name in names
    for expression in re.findall(r"^  (\S.*?)  ", banner, flags=re.MULTILINE):
        compile(expression, "banner", "eval")


@pytest.mark.skipif(sys.platform == "win32", reason="pexpect drives a POSIX terminal")
def test_the_shell_focuses_with_one_line(catalog, tmp_path):
    import pexpect

    shell = pexpect.spawn(
        sys.executable,
        ["-m", "bluesky_autofocus", "shell", "sem", "--catalog", str(catalog)],
        env={"PATH": "", "HOME": str(tmp_path), "TERM": "dumb", "MPLBACKEND": "Agg"},
        timeout=240,
        encoding="utf-8",
        use_poll=True,  # select() knows no file descriptor beyond 1023, and earlier tests may hold many
    )
    shell.expect(r"In \[1\]")
    assert "RE(focus())" in shell.before
    shell.sendline("RE(focus())")
    shell.expect(r"found: \S+ \+- \S+ um after \d+ exposures")
    shell.expect(r"In \[2\]")
    shell.sendline("exit")
    shell.expect(pexpect.EOF)
    shell.close()
    assert shell.exitstatus == 0
