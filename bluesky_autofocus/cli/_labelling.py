# ruff: noqa: T201 - this is the command line: printing is what it is for
"""Ask a person where recorded focal stacks are in focus: on a local page, or in the terminal.

Each label is a run of its own. The catalogue's writer stores the Events of a run when the run ends: in one
long run labels would be on disk, in the spool, but nobody could read them before its end.
"""

import contextlib
import dataclasses
import getpass
import hmac
import json
import math
import os
import queue
import re
import secrets
import signal
import sys
import threading
import webbrowser
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any

import numpy as np
from bluesky import RunEngine
from numpy.typing import NDArray

from bluesky_autofocus.catalog import Catalog
from bluesky_autofocus.dataset import FieldStack, field_stacks, labels_of
from bluesky_autofocus.plans import record_labels
from bluesky_autofocus.records import FocusLabel

__all__ = ["label"]

LIMITS = (0.5, 99.5)
"""Percentiles of the grey levels of a stack that become black and white."""

SAMPLED_PIXELS = 20_000
"""So many of each frame tell them."""

LARGEST_REQUEST = 10_000

LOOK_UP_S = 0.2

RECORDED_S = 600.0
"""Longest that a request waits for its label to be recorded."""


def label(catalog: Catalog, run: Any, options: Namespace) -> int:
    """Let a person label the fields of a run; return the exit status."""
    run = _labelled_run(catalog.client, run)
    labelling = Labelling(catalog, run, options)
    if not labelling.fields:
        labelling.say("all fields are labelled; --relabel shows them again")
        return 0
    try:
        if options.terminal:
            _in_terminal(labelling, sys.stderr if options.json else sys.stdout)
        else:
            _on_page(labelling, options)
    finally:
        left = len(labelling.fields) - len(labelling.labels)
        labelling.say(f"{len(labelling.labels)} fields labelled" + (f", {left} left" if left else ""))
    return 0


def _labelled_run(client: Any, run: Any) -> Any:
    """Return the run that is to be labelled: after labelling, -1 is the run of the last label."""
    return client[run.start["labels_of"]] if "labels_of" in run.start else run


class Labelling:
    """Which fields are to be labelled, and the labels that were recorded.

    Parameters
    ----------
    catalog : Catalog
        Where labels go.
    run : databroker.client.BlueskyRun
        That holds the stacks.
    options : Namespace
        Of the command.

    Raises
    ------
    ValueError
        If the run holds no stacks, or not all of the fields that were asked for.
    """

    def __init__(self, catalog: Catalog, run: Any, options: Namespace) -> None:
        self.uid = run.start["uid"]
        self.as_json = options.json
        stacks = field_stacks(run)
        wanted = list(stacks) if options.field is None else list(dict.fromkeys(options.field))
        unknown = [number for number in wanted if number not in stacks]
        if unknown:
            known = ", ".join(map(str, stacks))
            raise ValueError(
                f"--field {unknown[0]} is no complete field of run {self.uid[:8]}: it has {known}"
            )
        self.labeller = options.labeller or _user()
        skip = {} if options.relabel else labels_of(catalog.client, self.uid, person_only=True)
        self.fields = [Shown(stacks[number]) for number in wanted if number not in skip]
        self.labels: dict[int, FocusLabel] = {}
        # it would take a Ctrl-C for the wish to pause, and label on
        self._run_engine = RunEngine(context_managers=[])
        catalog.subscribe(self._run_engine)

    def record(self, made: FocusLabel) -> None:
        """Record a label; when this returns it is on disk. To be called by the main thread."""
        with _interrupts_later():
            self._run_engine(record_labels([made], labels_of=self.uid, labeller=self.labeller))
            self.labels[made.field] = made
            if self.as_json:
                said = dataclasses.asdict(made) | {"focus_um": made.focus_um if made.usable else None}
                print(json.dumps({"labels_of": self.uid, "labeller": self.labeller, **said}), flush=True)

    def say(self, line: str) -> None:
        """Tell the person something; with --json, beside the results."""
        print(line, file=sys.stderr if self.as_json else sys.stdout, flush=True)


@contextlib.contextmanager
def _interrupts_later() -> Iterator[None]:
    """Let a Ctrl-C wait for what is done within."""
    came = []
    before = signal.signal(signal.SIGINT, lambda *_: came.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, ImportError, KeyError) as error:
        raise ValueError("this machine does not say who you are: give --labeller NAME") from error


class Shown:
    """A stack as a person sees it: 8 bits, all planes with the same black and white."""

    def __init__(self, stack: FieldStack) -> None:
        self.stack = stack
        self._lock = threading.Lock()
        self._limits: tuple[float, float] | None = None

    def limits(self) -> tuple[float, float]:
        """Return the grey levels of the stack that are shown black and white."""
        with self._lock:
            if self._limits is None:
                few = [
                    frame.ravel()[:: max(1, frame.size // SAMPLED_PIXELS)] for frame in self.stack.frames()
                ]
                low, high = np.nanpercentile(np.concatenate(few).astype(float), LIMITS)
                # a stack of one grey level, black or saturated, is shown grey
                self._limits = (float(low), float(high)) if low < high else (low - 1.0, high + 1.0)
            return self._limits

    def picture(self, index: int) -> NDArray[np.uint8]:
        """Return the index-th plane from below, shape (H, W) or (H, W, 3), as grey levels of a screen."""
        low, high = self.limits()
        scaled = (self.stack.frame(index).astype(np.float32) - low) * (255 / (high - low))
        return np.nan_to_num(np.clip(scaled, 0, 255)).astype(np.uint8)

    def label(self, index: int | None) -> FocusLabel:
        """Return the label that a plane is in focus; None: that the stack is not usable."""
        if index is None:
            return FocusLabel(self.stack.number, -1, math.nan, usable=False)
        return self.stack.label(index)


# --- the page ---


def _on_page(labelling: Labelling, options: Namespace) -> None:
    """Serve the page until the person is finished; record here, on the main thread, what it sends."""
    page = Page(labelling, options.port)
    try:
        labelling.say(f"{len(labelling.fields)} fields to label at\n\n    {page.url}\n")
        labelling.say("each label is recorded at once; q on the page, or Ctrl-C here, ends")
        if not options.no_browser:
            webbrowser.open(page.url)
        page.record_labels()
    finally:
        page.close()


class Page:
    """A web server for one person on this machine.

    Parameters
    ----------
    labelling : Labelling
        What is shown and where labels go.
    port : int
        0 takes a free one.
    """

    def __init__(self, labelling: Labelling, port: int) -> None:
        self.labelling = labelling
        self.token = secrets.token_urlsafe(24)
        self.shown = {one.stack.number: one for one in labelling.fields}
        self.html = resources.files("bluesky_autofocus.cli").joinpath("label.html").read_bytes()
        self._to_record: queue.Queue[tuple[FocusLabel, Future[None]]] = queue.Queue()
        self._finished = threading.Event()
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler_of(self))
        except (OSError, OverflowError) as error:
            raise ValueError(f"--port {port} cannot be listened to: {error}") from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="label-page", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Address of the page, with the token that lets one in."""
        return f"http://127.0.0.1:{self._server.server_port}/{self.token}/"

    def record_labels(self) -> None:
        """Record labels as they come, until the person is finished."""
        while not (self._finished.is_set() and self._to_record.empty()):
            try:
                # it looks up now and then: on Windows a lock that is waited for lets no Ctrl-C through
                made, done = self._to_record.get(timeout=LOOK_UP_S)
            except queue.Empty:
                continue
            try:
                self.labelling.record(made)
            except Exception as error:
                # the person sees it on the page, and may try again
                self.labelling.say(f"the label of field {made.field} was not recorded: {error}")
                done.set_exception(error)
            else:
                done.set_result(None)

    def submit(self, made: FocusLabel) -> None:
        """Have a label recorded, wait until it is."""
        if self._finished.is_set():
            raise RuntimeError("labelling has ended")
        done: Future[None] = Future()
        self._to_record.put((made, done))
        done.result(RECORDED_S)

    def finish(self) -> None:
        """Let `record_labels` end."""
        self._finished.set()

    def state(self) -> list[dict[str, Any]]:
        """Return what the page must know of each field; `index` is of the plane that was labelled."""
        labels = self.labelling.labels
        return [
            {
                "number": number,
                "positions_um": one.stack.positions_um,
                "labelled": number in labels,
                "index": one.stack.planes.index(labels[number].plane)
                if number in labels and labels[number].usable
                else None,
            }
            for number, one in self.shown.items()
        ]

    def png(self, number: int, index: int) -> bytes:
        """Return the picture of a plane."""
        import cv2

        picture = self.shown[number].picture(index)
        if picture.ndim == 3:
            picture = np.ascontiguousarray(picture[..., ::-1])
        return cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()

    def close(self) -> None:
        """Stop serving."""
        self._finished.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; connect-src 'self'; "
    "script-src 'unsafe-inline'; style-src 'unsafe-inline'",
    "Referrer-Policy": "no-referrer",  # the address is the key
    "X-Content-Type-Options": "nosniff",
}


def _handler_of(page: Page) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 60.0

        def do_GET(self) -> None:  # noqa: N802 - the name that http.server wants
            match self.admitted():
                case [""]:
                    self.answer(200, page.html, "text/html; charset=utf-8")
                case ["state"]:
                    self.answer_json(200, page.state())
                case ["frame", number, index] if self.has(number, index):
                    self.answer_png(int(number), int(index))
                case [*_]:
                    self.answer_json(404, {"error": f"there is no {self.path.split('/', 2)[2]}"})

        def do_POST(self) -> None:  # noqa: N802
            # read whoever sent it: a connection closed over unread bytes may lose the answer
            length = self.headers.get("Content-Length", "")
            self.body = self.rfile.read(min(int(length), LARGEST_REQUEST)) if length.isdecimal() else b""
            match self.admitted():
                case ["label"]:
                    self.answer_json(*self.recorded())
                case ["finish"]:
                    # answered first: afterwards this process may end any moment
                    self.answer_json(200, page.state())
                    page.finish()
                case [*_]:
                    self.answer_json(404, {"error": f"there is no {self.path.split('/', 2)[2]}"})

        def recorded(self) -> tuple[int, Any]:
            """Have the label recorded that was sent; return status and answer."""
            try:
                page.submit(self.sent_label())
            except ValueError as error:
                return 400, {"error": str(error)}
            except Exception as error:
                return 500, {"error": f"{type(error).__name__}: {error}"}
            return 200, page.state()

        def admitted(self) -> list[str] | None:
            """Return what is asked for; None, with the answer given, to whoever does not know the token."""
            _, token, *asked = self.path.split("?")[0].split("/") if "/" in self.path[1:] else ("", "", "")
            if hmac.compare_digest(token.encode(), page.token.encode()):
                return asked
            self.answer_json(403, {"error": "this address lacks the key that the command printed"})
            return None

        def has(self, number: str, index: str) -> bool:
            if not (number.isdecimal() and index.isdecimal() and int(number) in page.shown):
                return False
            return int(index) < len(page.shown[int(number)].stack)

        def sent_label(self) -> FocusLabel:
            sent = json.loads(self.body)
            if not isinstance(sent, dict) or not {"field", "index"} <= set(sent):
                raise ValueError(f"a label must have field and index, got {sent!r}")
            field, index = sent["field"], sent["index"]
            kinds = type(field), type(index)
            if kinds in ((int, int), (int, type(None))) and self.has(str(field), str(index or 0)):
                return page.shown[field].label(index)
            raise ValueError(f"there is no plane {index!r} of field {field!r} to label")

        def answer_png(self, number: int, index: int) -> None:
            try:
                picture = page.png(number, index)
            except Exception as error:  # frames that are gone are no reason to stop
                self.answer_json(500, {"error": f"{type(error).__name__}: {error}"})
            else:
                self.answer(200, picture, "image/png")

        def answer_json(self, status: int, answer: Any) -> None:
            self.answer(status, json.dumps(answer).encode(), "application/json")

        def answer(self, status: int, content: bytes, kind: str) -> None:
            try:
                self.send_response(status)
                for name, value in {
                    **HEADERS,
                    "Content-Type": kind,
                    "Content-Length": str(len(content)),
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
            except ConnectionError:  # the tab was closed; nothing waits for the answer any more
                self.close_connection = True

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    return Handler


# --- the terminal ---

COLUMNS, ROWS = 60, 30
"""Size of a picture in characters; a character is two pixels, one above the other."""

GREYS = 232, 24
"""First of the grey colours of terminals, and their number."""

HELP = "left/right plane   Enter in focus   x unusable   u back   z whole frame or its centre   q finish"


def _in_terminal(labelling: Labelling, screen: Any) -> None:
    """Show one field after the other as characters; read keys until the person is finished."""
    view = TerminalView(labelling, screen)
    with pressed_keys() as keys:
        view.draw()
        for key in keys:
            if key == "q":
                break
            view.press(key)
            view.draw()
    screen.write("\n")


class TerminalView:
    """One plane of one field on the screen of a terminal.

    Parameters
    ----------
    labelling : Labelling
        What is shown and where labels go.
    screen : text file
        A terminal with 256 colours.
    """

    def __init__(self, labelling: Labelling, screen: Any) -> None:
        self.labelling, self.screen = labelling, screen
        self.fields = labelling.fields
        self.at, self.whole = 0, True
        self.indices = [len(one.stack) // 2 for one in self.fields]

    def press(self, key: str) -> None:
        """Do what a key asks for."""
        if key == "u":
            self.at = max(self.at - 1, 0)
        elif key == "z":
            self.whole = not self.whole
        elif self.at < len(self.fields):
            shown, index = self.fields[self.at], self.indices[self.at]
            if key in ("left", "right"):
                step = 1 if key == "right" else -1
                self.indices[self.at] = min(max(index + step, 0), len(shown.stack) - 1)
            elif key in ("enter", " ", "x"):
                self.labelling.record(shown.label(None if key == "x" else index))
                self.at += 1

    def draw(self) -> None:
        """Write the screen anew."""
        self.screen.write("\x1b[2J\x1b[H")  # an empty one
        if self.at == len(self.fields):
            self.screen.write(f"all {len(self.fields)} fields are labelled\nu back   q finish\n")
        else:
            shown, index = self.fields[self.at], self.indices[self.at]
            stack = shown.stack
            self.screen.write(
                f"field {stack.number} ({self.at + 1} of {len(self.fields)})   "
                f"plane {index + 1} of {len(stack)}   {stack.positions_um[index]:.2f} um"
                f"{_said(self.labelling.labels.get(stack.number))}\n"
            )
            self.screen.write("\n".join(blocks(shown.picture(index), self.whole)) + f"\n{HELP}\n")
        self.screen.flush()


def _said(made: FocusLabel | None) -> str:
    if made is None:
        return ""
    return f"   [labelled {made.focus_um:.2f} um]" if made.usable else "   [unusable]"


@contextlib.contextmanager
def pressed_keys() -> Iterator[Iterator[str]]:
    """Read single keys from the terminal while this is open.

    Yields
    ------
    iterator of str
        Characters, and "left", "right", "enter". It ends where the input does.

    Raises
    ------
    ValueError
        If there is no terminal.
    """
    if not sys.stdin.isatty():
        raise ValueError("--terminal reads single keys: standard input must be a terminal")
    if sys.platform == "win32":
        yield _keys_on_windows()
        return
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)  # Ctrl-C still interrupts
    try:
        yield _keys_of(lambda: os.read(terminal, 64).decode(errors="replace"))
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


NAMED = {
    "\x1b[D": "left",
    "\x1b[C": "right",
    "\x1bOD": "left",
    "\x1bOC": "right",
    "\n": "enter",
    "\r": "enter",
}
"""What terminals send for keys without a character of their own."""


def _keys_of(read: Callable[[], str]) -> Iterator[str]:
    while text := read():
        for found in re.finditer(r"\x1b(?:[\[O][0-9;]*[A-Za-z~])?|.|\n", text):
            yield NAMED.get(found[0], found[0])


ARROWS_ON_WINDOWS = {"K": "left", "M": "right"}


def _keys_on_windows() -> Iterator[str]:
    import msvcrt

    read: Callable[[], str] = msvcrt.getwch  # type: ignore[attr-defined]
    while True:
        key = read()
        if key == "\x03":
            raise KeyboardInterrupt
        if key in "\x00\xe0":  # of two characters the second says which key it is
            yield ARROWS_ON_WINDOWS.get(read(), "")
        else:
            yield NAMED.get(key, key)


def blocks(picture: NDArray[np.uint8], whole: bool = True) -> list[str]:
    """Return lines of text that show a picture on a terminal with 256 colours.

    Parameters
    ----------
    picture : numpy.ndarray
        Shape (H, W) or (H, W, 3).
    whole : bool
        Shrink all of it; else its centre, pixel by pixel, where fine structure can be seen.
    """
    import cv2

    if picture.ndim == 3:
        picture = picture.mean(axis=2).astype(np.uint8)
    height, width = picture.shape
    if whole:
        scale = min(COLUMNS / width, 2 * ROWS / height)
        size = max(1, round(width * scale)), max(2, 2 * round(height * scale / 2))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    else:
        top, left = max(0, height // 2 - ROWS), max(0, (width - COLUMNS) // 2)
        picture = picture[top : top + 2 * ROWS, left : left + COLUMNS]
        picture = picture[: len(picture) // 2 * 2]
    first, count = GREYS
    greys = first + picture.astype(int) * count // 256
    return [
        "".join(f"\x1b[38;5;{up};48;5;{down}m▀" for up, down in zip(upper, lower, strict=True)) + "\x1b[0m"
        for upper, lower in zip(greys[::2], greys[1::2], strict=True)
    ]
