"""Serve the page from a thread of this process, from documents that are handed over or fetched."""

import asyncio
import logging
import queue
import secrets
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bluesky_autofocus.callbacks import Watched
from bluesky_autofocus.frames import read_frame

__all__ = ["Monitor"]

logger = logging.getLogger(__name__)

TICK_MS = 200
"""Time from one look for documents to the next."""

ENDED_S = 5.0
"""Longest wait for the server to end."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")

Document = tuple[str, Mapping[str, Any]]


class Monitor:
    """A page that shows the run that goes on, to whoever has its address.

    Subscribe it to a RunEngine, or let it fetch documents. Taking in a document is putting it into a queue:
    drawing happens on the thread of the server and costs the experiment no time, and what fails there is
    logged. It needs Bokeh, ``pip install "bluesky-autofocus[monitor]"``. The page loads nothing from the
    internet, and nobody can change anything from it.

    Parameters
    ----------
    port : int
        0 takes a free one.
    address : str
        Which network it listens to. By default only this machine; "0.0.0.0" is all of them. The address of
        the page holds a key, without which nothing is shown.
    fetch : callable, optional
        Returns documents that have come since it was called last; called five times a second.
    fetch_frame : callable, optional
        ``(stream_resource, row) -> frame``. By default from memory or from the file.
    on_close : callable, optional
        Called once, without arguments, when the page is closed: it is to be handed no more documents.

    Raises
    ------
    ImportError
        If there is no Bokeh; naming what to install.
    ValueError
        If the port cannot be listened to.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        address: str = "127.0.0.1",
        fetch: Callable[[], Iterable[Document]] | None = None,
        fetch_frame: Callable[[Mapping[str, Any], int], Any] = read_frame,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        try:
            import bokeh.server.server  # noqa: F401 - told here, not from a thread
        except ImportError as error:
            raise ImportError(
                'the monitor page needs Bokeh: pip install "bluesky-autofocus[monitor]"'
            ) from error
        self.watched = Watched(fetch_frame)
        self._address, self._key = address, secrets.token_urlsafe(16)
        self._fetch, self._on_close = fetch or (lambda: ()), on_close
        self._documents: queue.SimpleQueue[Document] = queue.SimpleQueue()
        try:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            listening = socket.create_server((address, port), family=family)
        except (OSError, OverflowError) as error:
            raise ValueError(f"port {port} of {address} cannot be listened to: {error}") from error
        listening.setblocking(False)
        self.port: int = listening.getsockname()[1]
        self._end = threading.Event()
        self._thread = threading.Thread(
            target=self._serve, args=[listening], name="monitor-page", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Address of the page, with the key that lets one in."""
        host = self._address if self._address in LOOPBACK else socket.getfqdn()
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/{self._key}"

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take in a document, as long as the page is served."""
        if self._thread.is_alive() and not self._end.is_set():
            self._documents.put((name, doc))

    def close(self) -> None:
        """Stop serving."""
        if not self._end.is_set():
            self._end.set()
            self._on_close()
        self._thread.join(ENDED_S)

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # On the thread of the server

    def _serve(self, listening: socket.socket) -> None:
        from bokeh.application import Application
        from bokeh.application.handlers.function import FunctionHandler
        from bokeh.server.server import BaseServer
        from bokeh.server.tornado import BokehTornado
        from tornado.httpserver import HTTPServer
        from tornado.ioloop import IOLoop, PeriodicCallback

        from bluesky_autofocus.monitor._page import Page

        def open_page(document: Any) -> None:
            Page(document, lambda: self.watched.run)

        def take_in() -> None:
            if self._end.is_set():
                loop.stop()
            else:
                self._take_in()

        asyncio.set_event_loop(asyncio.new_event_loop())
        loop = IOLoop.current()
        # by which names others call this machine nobody knows; a page from elsewhere does not know the key
        own = [f"{host}:{self.port}" for host in LOOPBACK]
        tornado = BokehTornado(
            {f"/{self._key}": Application(FunctionHandler(open_page))},
            extra_websocket_origins=own if self._address in LOOPBACK else ["*"],
            use_index=False,  # it would tell the key
            redirect_root=False,
        )
        http = HTTPServer(tornado)
        http.add_sockets([listening])
        server = BaseServer(loop, tornado, http)
        server.start()
        PeriodicCallback(take_in, TICK_MS).start()
        loop.start()
        server.stop()
        http.stop()
        loop.close(all_fds=True)

    def _take_in(self) -> None:
        while not self._documents.empty():
            self._watch(*self._documents.get())
        try:
            for name, doc in self._fetch():
                self._watch(name, doc)
            if self.watched.run is not None:
                self.watched.run.develop()
        except Exception:
            logger.exception("the monitor page cannot go on as it should")

    def _watch(self, name: str, doc: Mapping[str, Any]) -> None:
        try:
            self.watched(name, doc)
        except Exception:
            logger.exception("the monitor page cannot show a %s document", name)
