"""The monitor page, in a real browser."""

import contextlib
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from bluesky import plans as bp
from slanted import Slanted

from bluesky_autofocus.callbacks import COLOURS, WatchedRun
from bluesky_autofocus.catalog import open_catalog
from bluesky_autofocus.monitor import Monitor
from bluesky_autofocus.monitor._words import duration, heading
from bluesky_autofocus.session import Session

pytestmark = [
    pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic"),
]

WAIT_MS = 120_000

QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


class Tab:
    """A tab of a real browser, driven on a thread of its own; nothing may go wrong in it."""

    def __init__(self, thread, browser):
        self._thread = thread
        self._page = self._do(browser.new_page, viewport={"width": 1400, "height": 1000})
        self.asked, self.errors = [], []
        self._page.set_default_timeout(WAIT_MS)
        self._do(self._page.on, "request", lambda request: self.asked.append(request.url))
        self._do(self._page.on, "pageerror", lambda error: self.errors.append(error))

    def _do(self, function, *args, **kwargs):
        return self._thread.submit(function, *args, **kwargs).result(WAIT_MS / 1000)

    def open(self, address):
        self._do(self._page.goto, address)

    def wait_for(self, text):
        self._do(lambda: self._page.get_by_text(text).first.wait_for())

    def text(self):
        # what Bokeh shows lies in shadow trees, through which locators look
        return " ".join(self._do(lambda: self._page.locator(".bk-clearfix").all_inner_texts()))

    def picture(self):
        """Return a screenshot, shape (H, W, 3), red first."""
        self._do(self._page.wait_for_function, "() => Bokeh.documents[0].is_idle")
        png = self._do(self._page.screenshot, full_page=True)
        return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]

    def close(self):
        self._do(self._page.close)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("there is no Chromium")
    with ThreadPoolExecutor(1) as thread:
        playwright = thread.submit(sync_playwright().start).result()
        launch = playwright.chromium.launch
        opened = thread.submit(launch, executable_path=chromium, args=QUIET).result()
        yield thread, opened
        thread.submit(opened.close).result()
        thread.submit(playwright.stop).result()


@pytest.fixture
def tab(browser):
    opened = Tab(*browser)
    yield opened
    opened.close()
    assert opened.errors == []
    assert {url.split(":")[1] for url in opened.asked} == {"//127.0.0.1"}


@pytest.fixture
def specimen(tmp_path):
    return Slanted(tmp_path / "frames")


def pixels_of(picture, kind):
    return int((picture == np.array(tuple(bytes.fromhex(COLOURS[kind][1:])))).all(axis=2).sum())


def test_the_page_shows_a_run_as_it_goes_on(RE, analysis, specimen, tab):
    with Monitor() as monitor:
        assert monitor.url.startswith(f"http://127.0.0.1:{monitor.port}/")
        RE.subscribe(monitor)
        tab.open(monitor.url)
        tab.wait_for("no run yet")

        while_it_went_on = []

        def look(name, doc):
            if name == "event" and doc["seq_num"] == 4 and "stage_x" in doc["data"]:
                tab.wait_for("going on")
                while_it_went_on.append(tab.text())

        RE.subscribe(look)
        specimen.rows = 1
        RE(specimen.scan(analysis), sample="<i>blood</i>")
        tab.wait_for("ended: success")
        tab.wait_for("found: 3")
        tab.wait_for("several_peaks")
        said = tab.text()
        picture = tab.picture()
    assert "<i>blood</i>" in said  # as it was written, not as HTML
    assert "4 of 4 points" in said and "tiles:" in said and "x 300, y 0 um" in said
    assert any("left" in text and " of 4 points" in text for text in while_it_went_on)
    # verdict colours of tiles, and their pictures, which are neither black nor white
    assert pixels_of(picture, "found") > 500 and pixels_of(picture, "not found") > 200
    grey = (np.ptp(picture, axis=2) == 0) & (picture[..., 0] > 40) & (picture[..., 0] < 200)
    assert grey.sum() > 5_000


def test_who_does_not_know_the_key_sees_nothing():
    with Monitor() as monitor:
        root = monitor.url.rsplit("/", 1)[0]
        for path in ("/", "/guess", "/guess/ws"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(root + path, timeout=30)
            with refused.value as answer:
                assert answer.code == 404
                assert monitor.url.rsplit("/", 1)[1] not in answer.read().decode()
        with pytest.raises(ValueError, match=f"port {monitor.port} of 127.0.0.1 cannot be listened to"):
            Monitor(port=monitor.port)
    with pytest.raises(OSError):
        urllib.request.urlopen(monitor.url, timeout=5)


def test_a_document_that_cannot_be_shown_is_logged_and_the_page_goes_on(caplog):
    with Monitor() as monitor:
        monitor("start", {"uid": "r", "time": "yesterday"})
        monitor("start", {"uid": "s", "time": 0.0})
        urllib.request.urlopen(monitor.url, timeout=30).close()
        monitor("stop", {"run_start": "s", "time": 5.0, "exit_status": "abort"})
        wait_until(lambda: monitor.watched.run is not None and monitor.watched.run.ended)
        assert monitor.watched.run.ended == "abort"
    assert "cannot show a start document" in caplog.text


def test_a_session_serves_the_page_until_it_closes(RE, camera):
    closable = SimpleNamespace(close=lambda: None)
    session = Session(RE, closable, None, closable, None, None)
    page = session.monitor()
    (uid,) = RE(bp.count([camera]))
    urllib.request.urlopen(page.url, timeout=30).close()
    wait_until(lambda: page.watched.run is not None and page.watched.run.ended)
    assert page.watched.run.start["uid"] == uid
    session.close()
    with pytest.raises(OSError):
        urllib.request.urlopen(page.url, timeout=5)


def test_a_page_that_is_closed_collects_nothing(RE, camera, monkeypatch):
    handed = []
    take_in = Monitor.__call__
    monkeypatch.setattr(Monitor, "__call__", lambda page, *doc: (handed.append(page), take_in(page, *doc)))
    closable = SimpleNamespace(close=lambda: None)
    with Session(RE, closable, None, closable, None, None) as session:
        page, closed = session.monitor(), session.monitor()
        for _ in range(2):
            closed.close()
        RE(bp.count([camera]))
        assert page in handed and closed not in handed
    closed("start", {"uid": "s", "time": 0.0})  # of somebody else
    assert closed._documents.empty()


def wait_until(happened):
    for _ in range(WAIT_MS // 10):
        if happened():
            return
        time.sleep(0.01)
    pytest.fail("it did not happen")


@contextlib.contextmanager
def serving(folder, *arguments):
    """Run `serve`; give the address of the page, and the process."""
    command = [sys.executable, "-m", "bluesky_autofocus", "serve", "--catalog", str(folder), *arguments]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # tests that were started in the background ignore Ctrl-C, and so would it
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if "Ctrl-C" in line:
                break
        addresses = re.findall(r"http://127\.0\.0\.1:\d+/\S+", "".join(said))
        assert len(addresses) == 2, "".join(said)
        yield addresses[1], process
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


def test_serve_shows_the_runs_of_another_process(RE, camera, specimen, analysis, tab, tmp_path):
    catalog = open_catalog(tmp_path)
    try:
        catalog.subscribe(RE)
        RE(bp.count([camera], 2), sample="before")
        with serving(tmp_path) as (address, process):
            tab.open(address)
            tab.wait_for("before, run")
            tab.wait_for("ended: success")
            RE(bp.scan([specimen.camera], specimen.x, 0.0, 100.0, 2), sample="after")
            tab.wait_for("after, run")
            tab.wait_for("2 of 2 points")
            tab.wait_for("ended: success")
            process.send_signal(signal.SIGINT)
            assert process.wait(120) == 0
    finally:
        catalog.close()


# What it says in words


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (59.7, "1 min 00 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
        (float("nan"), "unknown"),
    ],
)
def test_durations_are_said_as_a_person_says_them(seconds, said):
    assert duration(seconds) == said


def test_a_run_that_says_nothing_any_more_is_pointed_out():
    run = WatchedRun({"uid": "r", "time": 1000.0, "num_points": 10})
    run("descriptor", {"uid": "d", "name": "primary", "data_keys": {}})
    run("event", {"descriptor": "d", "seq_num": 2, "time": 1020.0, "data": {}})
    at_once, later = heading(run, 1021.0), heading(run, 1200.0)
    assert "last heard of 1 s ago" in at_once and COLOURS["not found"] not in at_once
    assert "1 min 19 s left" in at_once and "2 of 10 points" in at_once
    assert "last heard of 3 min 00 s ago" in later and COLOURS["not found"] in later
    assert "no run yet" in heading(None, 0.0)
