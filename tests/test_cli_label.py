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
from bluesky_autofocus.cli._labelling._session import Labelling
from bluesky_autofocus.cli._labelling._shown import Pictures
from bluesky_autofocus.cli._labelling._terminal import blocks
from bluesky_autofocus.dataset import FieldStack, class_labels_of, field_stacks, labels_of
from bluesky_autofocus.devices import SimulatedAxis, SimulatedCamera
from bluesky_autofocus.frames import install_frame_routing
from bluesky_autofocus.models.hh_net.classes import NAMES
from bluesky_autofocus.plans import autofocus, collect_focal_stacks, record_labels
from bluesky_autofocus.records import ClassLabel, FocusLabel

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

    @property
    def shown(self):
        return json.loads(self.ask("state"))["shown"]

    @property
    def titles(self):
        return [one["title"] for one in self.shown]

    def label(self, number, answer):
        return json.loads(self.ask("label", {"number": number, "answer": answer}))


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
        assert page.titles == ["field 0 (1 of 3)", "field 1 (2 of 3)", "field 2 (3 of 3)"]
        first = page.shown[0]
        assert first["captions"][::4] == ["plane 1 of 5   -4.00 um", "plane 5 of 5   4.00 um"]
        assert first["first"] == 2
        assert not any(one["labelled"] for one in page.shown)

        answered = page.label(0, 3)
        assert (answered["labelled"], answered["answer"], answered["said"]) == (True, 3, "labelled 2.00 um")
        assert [(one["labelled"], one["answer"]) for one in page.shown] == [
            (True, 3),
            (False, None),
            (False, None),
        ]
        assert labels_of(db, stacks, person_only=True) == {0: FocusLabel(0, 3, 2.0)}
        assert page.label(1, None)["said"] == "unusable"
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
        assert page.titles == ["field 2 (1 of 1)"]
        page.label(0, 0)
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
    pairs = [(7, 0), (-1, 0), (1, 5), (1, -1), ("1", None), (True, 0), (1, 0.0)]
    senseless = [{}, [1], *({"number": number, "answer": answer} for number, answer in pairs)]
    pictures = []

    def look_around(page):
        html = page.ask("").decode()
        assert "<script>" in html
        assert not re.search(r"""(src|href)=["']""", html)
        assert page.titles == ["field 1 (1 of 3)", "field 2 (2 of 3)", "field 0 (3 of 3)"]

        host = re.match(r"http://[^/]+/", page.url)[0]
        for url in (host, host + "guess/", page.url[:-2] + "/", page.url[:-1]):
            for what, sent in (
                ("", None),
                ("state", None),
                ("label", {"number": 1, "answer": 0}),
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
            cv2.imdecode(np.frombuffer(page.ask(f"frame/0/{index}"), np.uint8), cv2.IMREAD_UNCHANGED)
            for index in range(5)
        )
        with ThreadPoolExecutor(2) as threads:  # two tabs
            list(threads.map(page.label, (0, 1), (1, None)))
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

    def failing(self, number, answer):
        if next(fails, False):
            raise OSError("the disk is full")
        record(self, number, answer)

    monkeypatch.setattr(Labelling, "record", failing)

    def insist(page):
        assert page.refusal("label", {"number": 0, "answer": 1}) == (500, "OSError: the disk is full")
        assert page.label(0, 1)["labelled"]
        page.ask("finish", {})

    status, said = browse(insist, stacks)
    assert status == 0
    assert "the label of field 0 (1 of 3) was not recorded: the disk is full" in said.err
    assert labels_of(catalog.client, stacks, person_only=True) == {0: FocusLabel(0, 1, -2.0)}


def test_a_label_under_way_is_recorded_before_ctrl_c_ends(stacks, catalog, browse, monkeypatch):
    def interrupted(labels, **options):
        yield from record_labels(labels, **options)
        _thread.interrupt_main()

    monkeypatch.setattr("bluesky_autofocus.cli._labelling._session.record_labels", interrupted)

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


@pytest.fixture
def terminal(folder, tmp_path):
    """Return a function that runs the command in a terminal with 256 colours."""
    import pexpect

    opened = []

    def spawn(*arguments):
        command = ["-m", "bluesky_autofocus", "label", *arguments, "--terminal", "--labeller", "Ada"]
        opened.append(
            pexpect.spawn(
                sys.executable,
                [*command, "--catalog", str(folder)],
                env={"PATH": "", "HOME": str(tmp_path), "TERM": "xterm-256color"},
                timeout=60,
                encoding="utf-8",
                # select() knows no file descriptor beyond 1023, and earlier tests may hold many
                use_poll=True,
            )
        )
        return opened[-1]

    yield spawn
    for one in opened:
        one.close()


NO_TERMINAL = pytest.mark.skipif(sys.platform == "win32", reason="pexpect drives a POSIX terminal")


def ends(terminal):
    """Whether a command ended well."""
    import pexpect

    terminal.expect(pexpect.EOF)
    terminal.close()
    return terminal.exitstatus == 0


@NO_TERMINAL
def test_in_a_terminal_keys_label(stacks, catalog, terminal):
    terminal = terminal(stacks)
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
    assert ends(terminal)
    assert {number: label.plane for number, label in labels_of(db, stacks).items()} == {0: 3, 1: 0, 2: 2}


SMEAR = np.zeros((48, 64, 3), np.uint8)
SMEAR[:, :32] = 200, 40, 90
"""A frame in colour; that of the n-th position has n in its first pixel."""


@pytest.fixture
def smears(bench, catalog):
    """Scan a colour camera over six positions; return the uid of the run."""

    def render():
        frame = SMEAR.copy()
        frame[0, 0] = bench.z.position
        return frame

    camera = SimulatedCamera(
        name="eye",
        render=render,
        frame_directory=catalog.frame_directory,
        frame_shape=SMEAR.shape,
        dtype=np.uint8,
    )
    return bench.run(bp.scan([camera], bench.z, 0, 5, 6))


def test_frames_are_sorted_into_classes_on_the_page(smears, catalog, browse):
    db = catalog.client
    seen = []

    def frame(page, number):
        picture = np.frombuffer(page.ask(f"frame/{number}/0"), np.uint8)
        return cv2.cvtColor(cv2.imdecode(picture, cv2.IMREAD_UNCHANGED), cv2.COLOR_BGR2RGB)

    def sort(page):
        state = json.loads(page.ask("state"))
        assert state["choices"] == list(NAMES)
        assert page.titles == [f"frame {number} of 6" for number in range(1, 7)]
        # nothing gives away where a frame was taken, not even the order
        assert {tuple(one["captions"]) for one in state["shown"]} == {("",)}
        pictures = [frame(page, number) for number in range(6)]
        seen.extend(int(picture[0, 0, 0]) for picture in pictures)
        assert np.array_equal(pictures[0][1:], SMEAR[1:])

        assert page.label(0, 0)["said"] == "labelled totally blurred"
        assert page.label(1, 6)["answer"] == 6
        assert page.label(2, None)["said"] == "unusable"
        assert page.label(1, 4)["said"] == "labelled in focus"  # gone back to
        for answer in (7, -1, "in focus", 1.0, True):
            assert page.refusal("label", {"number": 3, "answer": answer})[0] == 400
        assert page.refusal("frame/0/1")[0] == 404
        page.ask("finish", {})

    status, said = browse(sort, smears[:8], "--classes")
    assert status == 0
    assert "6 frames to label" in said.err
    assert "3 frames labelled, 3 left" in said.err
    assert sorted(seen) == list(range(6)) != seen
    expected = {
        (0, seen[0]): ClassLabel(0, seen[0], 4),
        (0, seen[1]): ClassLabel(0, seen[1], 0),
        (0, seen[2]): ClassLabel(0, seen[2], None, usable=False),
    }
    assert class_labels_of(db, smears) == expected
    first, *_ = map(json.loads, said.out.splitlines())
    assert first == {
        "labels_of": smears,
        "labeller": "Ada",
        "field": 0,
        "plane": seen[0],
        "index": 4,
        "usable": True,
        "note": "",
    }

    # it goes on with the rest, in the same order; -1 is a run of labels
    def go_on(page):
        assert [int(frame(page, number)[0, 0, 0]) for number in range(3)] == seen[3:]
        page.label(2, 5)
        page.ask("finish", {})

    assert browse(go_on, "-1", "--classes")[0] == 0
    assert class_labels_of(db, smears) == expected | {(0, seen[5]): ClassLabel(0, seen[5], -1)}
    # which plane is in focus is another question, and not answered yet
    assert labels_of(db, smears) == {}

    def all_again(page):
        assert len(page.titles) == 6
        page.ask("finish", {})

    assert browse(all_again, smears, "--classes", "--relabel")[0] == 0


@NO_TERMINAL
def test_frames_are_sorted_into_classes_in_a_terminal(smears, catalog, terminal):
    terminal = terminal(smears, "--classes")
    terminal.expect(r"frame 1 of 6\r\n")
    terminal.expect("1 totally blurred   2 out of focus III .* 7 too close II   x unusable .* q finish")
    assert "38;5;161;48;5;161m▀" in terminal.before  # nearest of 216 colours to that of the frame
    terminal.send("8\r 5")  # of these only the last one means a class
    terminal.expect("frame 2 of 6")
    terminal.send("1")
    terminal.expect("frame 3 of 6")
    terminal.send("x")
    terminal.expect("frame 4 of 6")
    terminal.send("uu")
    terminal.expect(r"frame 2 of 6   \[labelled totally blurred\]")
    terminal.send("7")
    terminal.expect("frame 3 of 6   .unusable.")
    terminal.send("q")
    terminal.expect("3 frames labelled, 3 left")
    assert ends(terminal)
    found = [label.index for label in class_labels_of(catalog.client, smears).values()]
    assert sorted(found, key=str) == [-2, 0, None]


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
    line, *_ = blocks(SMEAR, whole=False, true_colour=True)
    assert line.startswith("\x1b[38;2;200;40;90;48;2;200;40;90m▀")
    black, white = (np.full((2, 1, 3), level, np.uint8) for level in (0, 255))
    assert blocks(black, whole=False) == ["\x1b[38;5;16;48;5;16m▀\x1b[0m"]
    assert blocks(white, whole=False) == ["\x1b[38;5;231;48;5;231m▀\x1b[0m"]


def test_all_planes_are_shown_by_the_same_scale():
    ramp = np.linspace(0, 4095, 64 * 64).reshape(64, 64)
    frames = {0: (ramp / 2).astype(np.uint16), 1: ramp.astype(np.uint16)}
    pictures = Pictures(FieldStack(0, (0, 1), (-1.0, 1.0), (0, 1), frames))
    low, high = pictures.limits()
    for index, frame in frames.items():
        expected = np.clip((frame - low) * (255 / (high - low)), 0, 255)
        assert np.allclose(pictures[index], expected, atol=1.0)
    saturated = Pictures(FieldStack(0, (0,), (0.0,), (0,), {0: np.full((4, 4), 65535, np.uint16)}))
    assert np.array_equal(saturated[0], np.full((4, 4), 127))
    colours = Pictures(FieldStack(0, (0,), (0.0,), (0,), {0: SMEAR // 2}))
    assert np.array_equal(colours[0], SMEAR // 2)
    holes = Pictures(
        FieldStack(0, (0,), (0.0,), (0,), {0: np.array([[0.0, np.nan], [1.0, 2.0]], np.float32)})
    )
    assert holes[0][0, 1] == 0
