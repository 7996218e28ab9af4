"""Labelling focal stacks from the command line, on a page and in a terminal."""

import _thread
import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky import plans as bp
from ophyd import Signal

from bluesky_autofocus.callbacks import SharpnessAnalysis
from bluesky_autofocus.catalog import open_catalog
from bluesky_autofocus.cli import main
from bluesky_autofocus.cli._labelling import Labelling, Shown, blocks
from bluesky_autofocus.dataset import FieldStack, field_stacks, labels_of
from bluesky_autofocus.devices import SimulatedAxis, SimulatedCamera
from bluesky_autofocus.frames import install_frame_routing
from bluesky_autofocus.plans import autofocus, collect_focal_stacks, record_labels
from bluesky_autofocus.records import FocusLabel

pytestmark = [
    pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic"),
]

LEVEL = 1000
FIELDS = 3


class Bench:
    """A microscope whose frames get brighter with height; a field in x is 100 um wide."""

    def __init__(self, frame_directory):
        self.x, self.y, self.z = (SimulatedAxis(name=name, limits=(-400.0, 400.0)) for name in "xyz")
        self.camera = SimulatedCamera(
            name="camera", render=self.render, frame_directory=frame_directory, frame_shape=(48, 64)
        )
        self.RE = RunEngine()
        install_frame_routing(self.RE)
        self.analysis = SharpnessAnalysis()
        self.RE.subscribe(self.analysis)

    def render(self):
        frame = np.full((48, 64), LEVEL + 100 * self.z.position, np.uint16)
        contrast = 400 / (1 + (self.z.position / 4) ** 2)
        frame[::2] += np.uint16(contrast)
        return frame

    def run(self, plan):
        return self.RE(plan)[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("labelled")


@pytest.fixture(scope="module")
def catalog(folder):
    """Serve the folder; commands that are run attach to it."""
    opened = open_catalog(folder)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def bench(catalog):
    made = Bench(catalog.frame_directory)
    catalog.subscribe(made.RE)
    return made


@pytest.fixture
def stacks(bench):
    """Collect three fields of five planes, two um apart; return the uid of the run."""
    plan = collect_focal_stacks(
        [bench.camera],
        bench.z,
        stage=(bench.x, bench.y),
        positions=[(100.0 * number, 0.0, 0.0) for number in range(FIELDS)],
        sample="slide 7",
        z_um=(-4.0, 4.0),
        step_um=2.0,
        truth=Signal(name="focus", value=0.3),
    )
    return bench.run(plan)


class Page:
    """What a browser does with the page."""

    def __init__(self, url):
        self.url = url

    def ask(self, what, sent=None, url=None):
        content = None if sent is None else json.dumps(sent).encode()
        request = urllib.request.Request((url or self.url) + what, content)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    def refusal(self, what, sent=None, url=None):
        with pytest.raises(urllib.error.HTTPError) as raised:
            self.ask(what, sent, url)
        with raised.value as answer:
            return answer.code, json.loads(answer.read())["error"]

    def label(self, field, index):
        return json.loads(self.ask("label", {"field": field, "index": index}))


@pytest.fixture
def browse(monkeypatch, folder, capsys):
    """Return a function that runs the command here and does something with the page that it opens.

    It returns the exit status, and what was printed.
    """

    def browse(do, *arguments):
        failures = []

        def browsing(url):
            try:
                do(Page(url))
            except BaseException as error:
                failures.append(error)
                _thread.interrupt_main()

        monkeypatch.setattr(
            "webbrowser.open", lambda url: threading.Thread(target=browsing, args=[url]).start()
        )
        status = main(["label", *arguments, "--json", "--labeller", "Ada", "--catalog", str(folder)])
        if failures:
            raise failures[0]
        return status, capsys.readouterr()

    # a process that was started in the background ignores Ctrl-C
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield browse
    signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def labelling(folder, *arguments):
    """Run the command; give the page and the process."""
    command = [sys.executable, "-m", "bluesky_autofocus", "label", *arguments, "--catalog", str(folder)]
    process = subprocess.Popen(
        [*command, "--no-browser", "--json", "--labeller", "Ada"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if url := re.search(r"http://127\.0\.0\.1:\d+/[\w-]{20,}/", line):
                yield Page(url[0]), process
                break
        else:
            pytest.fail("".join(said))
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()
        process.stderr.close()


def test_labels_are_in_databroker_while_the_page_is_open_and_after_it_was_killed(
    stacks, folder, catalog, browse
):
    db = catalog.client
    assert {label.focus_um for label in labels_of(db, stacks).values()} == {0.3}
    with labelling(folder, stacks[:8]) as (page, process):
        state = json.loads(page.ask("state"))
        assert [field["number"] for field in state] == [0, 1, 2]
        assert state[0]["positions_um"] == [-4.0, -2.0, 0.0, 2.0, 4.0]
        assert not any(field["labelled"] for field in state)

        state = page.label(0, 3)
        assert [(field["labelled"], field["index"]) for field in state] == [
            (True, 3),
            (False, None),
            (False, None),
        ]
        assert labels_of(db, stacks, person_only=True) == {0: FocusLabel(0, 3, 2.0)}
        page.label(1, None)
        page.label(0, 2)  # gone back to
        process.kill()
        process.wait(20)
    found = labels_of(db, stacks)
    assert found[0] == FocusLabel(0, 2, 0.0)
    assert not found[1].usable
    assert found[2] == FocusLabel(2, 2, 0.3)
    newest = db[-1].start
    assert (newest["plan_name"], newest["labels_of"], newest["labeller"]) == ("label", stacks, "Ada")

    # labelled fields are not shown again; -1 is a run of labels, which stands for the one that it labels
    def label_and_finish(page):
        assert [field["number"] for field in json.loads(page.ask("state"))] == [2]
        page.label(2, 0)
        page.ask("finish", {})

    status, said = browse(label_and_finish, "-1")
    assert status == 0
    assert "1 fields labelled\n" in said.err
    assert [json.loads(line) for line in said.out.splitlines()] == [
        {
            "labels_of": stacks,
            "labeller": "Ada",
            "field": 2,
            "plane": 0,
            "focus_um": -4.0,
            "usable": True,
            "note": "",
        }
    ]
    assert labels_of(db, stacks)[2].plane == 0


def test_the_page_lets_in_who_has_its_key_and_takes_what_makes_sense(stacks, catalog, browse):
    senseless = [{"field": 7, "index": 0}, {"field": 1, "index": 5}, {"field": 1, "index": -1}, {}, [1]]
    senseless += [{"field": "1", "index": None}, {"field": True, "index": 0}, {"field": 1, "index": 0.0}]
    pictures = []

    def look_around(page):
        html = page.ask("").decode()
        assert "<script>" in html
        assert not re.search(r"""(src|href)=["']""", html)
        assert [field["number"] for field in json.loads(page.ask("state"))] == [1, 2, 0]

        host = re.match(r"http://[^/]+/", page.url)[0]
        for url in (host, host + "guess/", page.url[:-2] + "/", page.url[:-1]):
            for what, sent in (
                ("", None),
                ("state", None),
                ("label", {"field": 1, "index": 0}),
                ("finish", {}),
            ):
                status, error = page.refusal(what, sent, url)
                assert status == 403
                assert "key" in error
        for sent in senseless:
            assert page.refusal("label", sent)[0] == 400
        for what in ("frame/1/5", "frame/9/0", "frame/../0", "nothing", "frame/1"):
            assert page.refusal(what)[0] == 404
        assert page.refusal("state", {})[0] == 404
        assert labels_of(catalog.client, stacks, person_only=True) == {}

        pictures.extend(
            cv2.imdecode(np.frombuffer(page.ask(f"frame/1/{index}"), np.uint8), cv2.IMREAD_UNCHANGED)
            for index in range(5)
        )
        with ThreadPoolExecutor(2) as threads:  # two tabs
            list(threads.map(page.label, (1, 2), (1, None)))
        _thread.interrupt_main()  # Ctrl-C

    status, said = browse(look_around, stacks, "--field", "1", "2", "--field", "0")
    assert status == 130
    assert len(said.out.splitlines()) == 2
    assert "2 fields labelled, 1 left" in said.err
    assert set(labels_of(catalog.client, stacks, person_only=True)) == {1, 2}

    # one black and one white for the whole stack: what is brighter is shown brighter
    assert all(picture.shape == (48, 64) and picture.dtype == np.uint8 for picture in pictures)
    darkest = [int(picture.min()) for picture in pictures]
    assert darkest == sorted(darkest)
    assert (darkest[0], max(int(picture.max()) for picture in pictures)) == (0, 255)
    assert darkest[-1] > 100


def test_a_label_that_cannot_be_recorded_is_told_and_may_be_sent_again(stacks, catalog, browse, monkeypatch):
    record = Labelling.record
    fails = iter([True])

    def failing(self, made):
        if next(fails, False):
            raise OSError("the disk is full")
        record(self, made)

    monkeypatch.setattr(Labelling, "record", failing)

    def insist(page):
        assert page.refusal("label", {"field": 0, "index": 1}) == (500, "OSError: the disk is full")
        assert page.label(0, 1)[0]["labelled"]
        page.ask("finish", {})

    status, said = browse(insist, stacks)
    assert status == 0
    assert "the label of field 0 was not recorded: the disk is full" in said.err
    assert labels_of(catalog.client, stacks, person_only=True) == {0: FocusLabel(0, 1, -2.0)}


def test_a_label_under_way_is_recorded_before_ctrl_c_ends(stacks, catalog, browse, monkeypatch):
    def interrupted(labels, **options):
        yield from record_labels(labels, **options)
        _thread.interrupt_main()

    monkeypatch.setattr("bluesky_autofocus.cli._labelling.record_labels", interrupted)

    def label_one(page):
        with pytest.raises(OSError):  # whether there is an answer does not matter any more
            page.label(2, 2)
            raise OSError

    status, said = browse(label_one, stacks)
    assert status == 130
    assert [json.loads(line)["field"] for line in said.out.splitlines()] == [2]
    assert labels_of(catalog.client, stacks, person_only=True) == {2: FocusLabel(2, 2, 0.0)}


def test_a_scan_and_an_autofocus_are_one_field(bench, catalog):
    scan = catalog.client[bench.run(bp.scan([bench.camera], bench.z, 6, -6, 7))]
    (stack,) = field_stacks(scan).values()
    assert (stack.number, stack.planes) == (0, tuple(range(7)))
    assert stack.positions_um == tuple(np.arange(-6.0, 6.1, 2.0))
    assert [int(frame.min()) for frame in stack.frames()] == [400, 600, 800, 1000, 1200, 1400, 1600]

    bench.z.set(3.0).wait(1)
    plan = autofocus(
        [bench.camera], bench.z, analysis=bench.analysis, method="sweep", bounds_um=(-6.0, 6.0), budget=9
    )
    (stack,) = field_stacks(catalog.client[bench.run(plan)]).values()
    assert list(stack.positions_um) == sorted(stack.positions_um)
    assert len(stack) >= 5
    for index, position in enumerate(stack.positions_um):
        assert int(stack.frame(index).min()) == int(LEVEL + 100 * position)


def refused(capsys, *arguments):
    assert main(["label", *arguments]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("bluesky-autofocus: ")
    return line


def test_what_a_user_got_wrong_is_one_line(stacks, bench, folder, capsys):
    at = ["--catalog", str(folder)]
    assert "there is no run 99" in refused(capsys, "99", *at)
    said = refused(capsys, stacks, "--field", "5", *at)
    assert f"--field 5 is no complete field of run {stacks[:8]}: it has 0, 1, 2" in said
    assert "--port 99999 cannot be listened to" in refused(capsys, stacks, "--port", "99999", *at)
    assert "must be a terminal" in refused(capsys, stacks, "--terminal", *at)
    still = bench.run(bp.count([bench.camera], 2))
    assert "holds no focal stack: in stream primary the axes that moved are [] of" in refused(
        capsys, still, *at
    )
    blind = bench.run(bp.scan([bench.x], bench.z, 0, 1, 2))
    assert "(scan) holds no focal stack: no stream has images" in refused(capsys, blind, *at)


def test_a_run_of_which_everything_is_labelled_says_so(stacks, folder, catalog, bench, capsys):
    labels = [FocusLabel(number, 2, 0.0) for number in range(FIELDS)]
    bench.run(record_labels(labels, labels_of=stacks, labeller="Ada"))
    assert main(["label", stacks, "--catalog", str(folder)]) == 0
    assert "all fields are labelled; --relabel" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="pexpect drives a POSIX terminal")
def test_in_a_terminal_keys_label(stacks, folder, catalog, tmp_path):
    import pexpect

    terminal = pexpect.spawn(
        sys.executable,
        [
            "-m",
            "bluesky_autofocus",
            "label",
            stacks,
            "--terminal",
            "--labeller",
            "Ada",
            "--catalog",
            str(folder),
        ],
        env={"PATH": "", "HOME": str(tmp_path), "TERM": "xterm-256color"},
        timeout=60,
        encoding="utf-8",
        use_poll=True,  # select() knows no file descriptor beyond 1023, and earlier tests may hold many
    )
    db = catalog.client
    terminal.expect(r"field 0 \(1 of 3\)   plane 3 of 5   0\.00 um\r\n")
    terminal.expect("q finish")
    assert terminal.before.count("▀") == 60 * 22
    terminal.send("\x1b[C")
    terminal.expect(r"plane 4 of 5   2\.00 um")
    terminal.send("z")
    terminal.expect(r"plane 4 of 5")
    terminal.expect("q finish")
    assert terminal.before.count("▀") == 60 * 24
    terminal.send("\r")
    terminal.expect(r"field 1 \(2 of 3\)")
    assert labels_of(db, stacks, person_only=True) == {0: FocusLabel(0, 3, 2.0)}
    terminal.send("x")
    terminal.expect(r"field 2 \(3 of 3\)")
    assert not labels_of(db, stacks)[1].usable
    terminal.send("u\x1b[D\x1b[D\x1b[D")
    terminal.expect(r"field 1 \(2 of 3\)   plane 1 of 5   -4\.00 um   \[unusable\]")
    terminal.send(" ")
    terminal.expect(r"field 2 \(3 of 3\)")
    terminal.send(" ")
    terminal.expect("all 3 fields are labelled")
    terminal.send("q")
    terminal.expect("3 fields labelled")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
    assert {number: label.plane for number, label in labels_of(db, stacks).items()} == {0: 3, 1: 0, 2: 2}


def test_pictures_of_characters():
    picture = np.zeros((200, 400), np.uint8)
    picture[:, 200:] = 255
    lines = blocks(picture)
    assert len(lines) == 15
    assert {line.count("▀") for line in lines} == {60}
    assert lines[0].startswith("\x1b[38;5;232;48;5;232m▀")
    assert lines[0].endswith("\x1b[38;5;255;48;5;255m▀\x1b[0m")
    assert len(blocks(picture, whole=False)) == 30
    assert len(blocks(np.zeros((7, 5, 3), np.uint8), whole=False)) == 3
    assert len(blocks(np.zeros((1, 4000), np.uint8))) == 1


def test_all_planes_are_shown_by_the_same_scale():
    ramp = np.linspace(0, 4095, 64 * 64).reshape(64, 64)
    frames = {0: (ramp / 2).astype(np.uint16), 1: ramp.astype(np.uint16)}
    shown = Shown(FieldStack(0, (0, 1), (-1.0, 1.0), (0, 1), frames))
    low, high = shown.limits()
    for index, frame in frames.items():
        expected = np.clip((frame - low) * (255 / (high - low)), 0, 255)
        assert np.allclose(shown.picture(index), expected, atol=1.0)
    saturated = Shown(FieldStack(0, (0,), (0.0,), (0,), {0: np.full((4, 4), 65535, np.uint16)}))
    assert np.array_equal(saturated.picture(0), np.full((4, 4), 127))
    holes = Shown(FieldStack(0, (0,), (0.0,), (0,), {0: np.array([[0.0, np.nan], [1.0, 2.0]], np.float32)}))
    assert holes.picture(0)[0, 1] == 0
