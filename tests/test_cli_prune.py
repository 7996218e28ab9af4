"""``prune`` as a user runs it."""

import contextlib
import io
import json
import time

import bluesky.plans as bp
import numpy as np
import pytest
from bluesky import RunEngine

from bluesky_autofocus.callbacks import SharpnessAnalysis
from bluesky_autofocus.catalog import open_catalog
from bluesky_autofocus.cli import main
from bluesky_autofocus.devices import SimulatedCamera
from bluesky_autofocus.frames import install_frame_routing
from bluesky_autofocus.plans import autofocus
from bluesky_autofocus.retention import pruning_history
from bluesky_autofocus.retention._file import frame_bytes

pytestmark = [
    pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic"),
]

FRAMES = 4
FRAME_BYTES = 8 * 9 * 2


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    opened = open_catalog(tmp_path_factory.mktemp("catalogue") / "data")
    yield opened
    opened.close()


@pytest.fixture
def record(catalog):
    """Return a function that records a run of a few frames and returns it."""
    run_engine = RunEngine()
    install_frame_routing(run_engine)
    catalog.subscribe(run_engine)
    camera = SimulatedCamera(
        name="camera",
        render=lambda: np.ones((8, 9), np.uint16),
        frame_directory=catalog.frame_directory,
        frame_shape=(8, 9),
    )

    def record(**md):
        run_engine(bp.count([camera], FRAMES, md=md))
        return catalog.client[-1]

    return record


@pytest.fixture
def left_of(catalog):
    """Return a function that counts the frames of a run that are there."""

    def left_of(run):
        (path,) = (catalog.frame_directory / run.start["uid"]).iterdir()
        return int((frame_bytes(path) > 0).sum())

    return left_of


@pytest.fixture
def prune(catalog, monkeypatch):
    """Return a function that gives the exit status, the lines of standard output, and standard error."""

    def prune(*arguments, answer=None):
        monkeypatch.setattr("sys.stdin", io.StringIO("" if answer is None else f"{answer}\n"))
        monkeypatch.setattr("sys.stdin.isatty", lambda: answer is not None, raising=False)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(["prune", "--catalog", str(catalog.folder), *map(str, arguments)])
        return status, out.getvalue().splitlines(), err.getvalue()

    return prune


def test_several_runs_and_their_age(prune, record, left_of):
    named, other = record(), record()
    uids = [one.start["uid"] for one in (named, other)]
    status, lines, _ = prune(uids[0], "--keep", "readings", "--older-than", 1, "--yes", "--json")
    assert (status, lines) == (0, []), "it is younger"
    status, lines, _ = prune(uids[0], "--keep", "readings", "--older-than", 0, "--dry-run", "--json")
    assert [json.loads(line)["run"] for line in lines] == uids[:1]
    status, lines, _ = prune("--keep", "readings", "--older-than", 0, "--dry-run", "--json")
    assert [json.loads(line)["run"] for line in lines][-2:] == uids
    status, lines, _ = prune(*uids, "--keep", "readings", "--yes", "--json")
    assert [json.loads(line)["deleted"] for line in lines] == [4, 4]
    assert left_of(named) == left_of(other) == 0


def test_a_focusing_run(catalog, make_sem, prune, left_of):
    run_engine, sem = RunEngine(), make_sem(frame_directory=catalog.frame_directory)
    install_frame_routing(run_engine)
    catalog.subscribe(run_engine)
    analysis = SharpnessAnalysis()
    run_engine.subscribe(analysis)
    run_engine(
        autofocus(
            [sem],
            sem.working_distance,
            analysis=analysis,
            method="brent",
            range_um=150.0,
            depth_of_field_um=5.0,
        )
    )
    run = catalog.client[-1]
    status, (line,), _ = prune("-1", "--keep", "in-focus", "--dry-run", "--json")
    foreseen = json.loads(line)
    assert status == 0
    assert foreseen["run"] == run.start["uid"] and foreseen["keep"] == "in-focus" and foreseen["dry_run"]
    assert 0 < foreseen["deleted"] < foreseen["frames"] == left_of(run)
    assert foreseen["bytes"] == foreseen["deleted"] * 128 * 128
    assert foreseen["without_reading"] == 0 and foreseen["spared"] == []
    assert len(foreseen["streams"]["focus_brent"]) == foreseen["deleted"]
    status, (line,), _ = prune(run.start["uid"][:8], "--keep", "in-focus", "--yes", "--json")
    assert json.loads(line) == {**foreseen, "dry_run": False}
    assert left_of(run) == foreseen["frames"] - foreseen["deleted"]
    # once more
    status, (line,), _ = prune("-1", "--keep", "in-focus", "--yes", "--json")
    assert (status, json.loads(line)["deleted"]) == (0, 0)
    assert len(pruning_history(run)) == 1


def test_what_is_printed(prune, record, left_of):
    run = record()
    uid = run.start["uid"]
    status, lines, _ = prune(uid, "--keep", "readings", "--dry-run")
    assert status == 0
    assert lines[0].startswith(f"{uid[:8]} 20")
    assert lines[0].endswith(": 4 of 4 frames would go, 576 bytes, 4 of them never read")
    assert lines[1] == "1 run: 4 frames, would free 576 bytes"
    status, lines, _ = prune(uid, "--keep", "readings", "--yes")
    assert lines[-1] == "1 run: 4 frames, freed 576 bytes"
    assert left_of(run) == 0


@pytest.mark.parametrize(("answer", "left"), [("yes", 0), ("", 4)])
def test_asks(prune, record, left_of, answer, left):
    run = record()
    status, lines, _ = prune(run.start["uid"], "--keep", "readings", answer=answer)
    assert status == 0
    assert "4 of 4 frames would go" in lines[0]
    assert left_of(run) == left
    assert ("nothing was deleted" in lines[-1]) == bool(left)


def test_asks_nothing_where_nothing_goes(prune, record, left_of):
    run = record()
    status, lines, _ = prune(run.start["uid"], "--keep", "all", answer="y")
    assert (status, lines[-1]) == (0, "1 run: 0 frames, would free 0 bytes")
    assert left_of(run) == 4


def test_frames_that_others_refer_to(prune, record, left_of):
    run = record(collection="c0ffee", sample="cells")
    uid = run.start["uid"]
    status, lines, _ = prune(uid, "--keep", "readings", "--yes")
    assert status == 0
    assert lines[1] == "    stays: it belongs to the collection c0ffee, to train networks with"
    assert left_of(run) == 4
    prune(uid, "--keep", "readings", "--yes", "--referred")
    assert left_of(run) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--keep", "readings", "--yes"], "prune needs runs: name some, or give --older-than DAYS"),
        (["-1", "--keep", "readings"], "do not come back: give --yes, or --dry-run to see what goes"),
        (["-1", "--keep", "readings", "--json"], "do not come back: give --yes"),
        (["nonesuch", "--keep", "readings", "--yes"], "there is no run nonesuch in the catalogue"),
        (["-1", "--keep", "readings", "--yes", "--older-than", "nan"], "an age of 0 days or more"),
    ],
)
def test_mistakes(prune, arguments, message):
    status, lines, error = prune(*arguments)
    assert (status, lines) == (2, [])
    assert message in error


def test_a_run_that_is_open_is_refused_before_any_frame_goes(prune, record, left_of, catalog):
    whole = record()
    documents = catalog.recorder()
    documents("start", {"uid": "0be0-open", "time": 0.0})
    while "0be0-open" not in catalog.client:  # its writer has a thread of its own
        time.sleep(0.01)
    status, lines, error = prune(whole.start["uid"], "0be0-open", "--keep", "readings", "--yes")
    assert (status, lines) == (2, [])
    assert "run 0be0-ope is open" in error
    assert left_of(whole) == 4
