"""The page on which a person labels: a web server for this machine only."""

import hmac
import json
import queue
import secrets
import threading
import webbrowser
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any

import numpy as np

from bluesky_autofocus.cli._labelling._session import Labelling

__all__ = ["on_page"]

LARGEST_REQUEST = 10_000

LOOK_UP_S = 0.2

RECORDED_S = 600.0
"""Longest that a request waits for its label to be recorded."""


def on_page(labelling: Labelling, *, port: int, browser: bool) -> None:
    """Serve the page until the person is finished; record here, on the main thread, what it sends."""
    page = Page(labelling, port)
    try:
        labelling.say(f"{len(labelling.shown)} {labelling.things} to label at\n\n    {page.url}\n")
        labelling.say("each label is recorded at once; q on the page, or Ctrl-C here, ends")
        if browser:
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
        self.html = resources.files("bluesky_autofocus.cli._labelling").joinpath("page.html").read_bytes()
        self._to_record: queue.Queue[tuple[int, int | None, Future[None]]] = queue.Queue()
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
                number, answer, done = self._to_record.get(timeout=LOOK_UP_S)
            except queue.Empty:
                continue
            try:
                self.labelling.record(number, answer)
            except Exception as error:
                # the person sees it on the page, and may try again
                self.labelling.say(f"the label of {self.labelling.title(number)} was not recorded: {error}")
                done.set_exception(error)
            else:
                done.set_result(None)

    def submit(self, number: int, answer: int | None) -> None:
        """Have a label recorded, wait until it is."""
        if self._finished.is_set():
            raise RuntimeError("labelling has ended")
        done: Future[None] = Future()
        self._to_record.put((number, answer, done))
        done.result(RECORDED_S)

    def finish(self) -> None:
        """Let `record_labels` end."""
        self._finished.set()

    def state(self) -> dict[str, Any]:
        """Return all that the page must know."""
        return {
            "question": self.labelling.question,
            "things": self.labelling.things,
            "choices": self.labelling.choices,
            "shown": [self.state_of(number) for number in range(len(self.labelling.shown))],
        }

    def state_of(self, number: int) -> dict[str, Any]:
        """Return what the page must know of the number-th thing that is shown."""
        shown = self.labelling.shown[number]
        made = self.labelling.labels.get(shown.place)
        return {
            "title": self.labelling.title(number),
            "captions": shown.captions,
            "first": shown.first,
            "labelled": made is not None,
            "answer": shown.answer(made) if made is not None and made.usable else None,
            "said": self.labelling.said(number),
        }

    def png(self, number: int, index: int) -> bytes:
        """Return a picture of the number-th thing that is shown."""
        import cv2

        picture = self.labelling.shown[number].picture(index)
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
                    self.answer_json(200, {})
                    page.finish()
                case [*_]:
                    self.answer_json(404, {"error": f"there is no {self.path.split('/', 2)[2]}"})

        def recorded(self) -> tuple[int, Any]:
            """Have the label recorded that was sent; return status and answer."""
            try:
                number, answer = self.sent_answer()
                page.submit(number, answer)
            except ValueError as error:
                return 400, {"error": str(error)}
            except Exception as error:
                return 500, {"error": f"{type(error).__name__}: {error}"}
            return 200, page.state_of(number)

        def admitted(self) -> list[str] | None:
            """Return what is asked for; None, with the answer given, to whoever does not know the token."""
            _, token, *asked = self.path.split("?")[0].split("/") if "/" in self.path[1:] else ("", "", "")
            if hmac.compare_digest(token.encode(), page.token.encode()):
                return asked
            self.answer_json(403, {"error": "this address lacks the key that the command printed"})
            return None

        def has(self, number: str, index: str) -> bool:
            shown = page.labelling.shown
            if not (number.isdecimal() and index.isdecimal() and int(number) < len(shown)):
                return False
            return int(index) < len(shown[int(number)].captions)

        def sent_answer(self) -> tuple[int, int | None]:
            sent = json.loads(self.body)
            if not isinstance(sent, dict) or not {"number", "answer"} <= set(sent):
                raise ValueError(f"a label must have number and answer, got {sent!r}")
            number, answer = sent["number"], sent["answer"]
            if type(number) is int and 0 <= number < len(page.labelling.shown):
                if answer is None or (type(answer) is int and 0 <= answer < page.labelling.answers(number)):
                    return number, answer
            raise ValueError(f"there is no answer {answer!r} to number {number!r}")

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
