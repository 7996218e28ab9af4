"""The catalogue of a session: databroker in front, an embedded store or a server behind."""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs
from bluesky import RunEngine
from bluesky.callbacks.buffer import BufferingWrapper

from bluesky_autofocus.catalog._databases import CatalogError, is_postgresql
from bluesky_autofocus.catalog._embedded import EmbeddedServer, Serving, serve_or_attach
from bluesky_autofocus.catalog._spool import Document, Spool, repair

__all__ = ["Catalog", "open_catalog"]

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "BLUESKY_AUTOFOCUS_DATA"
CATALOG_VARIABLE = "BLUESKY_AUTOFOCUS_CATALOG"
BATCH = 500
"""Events of a stream that are written to the catalogue at once, and kept in memory until then. Tiled's 10,000
are a whole night."""

_LOOKED_AT = 100
"""Newest runs among which the last number is looked for."""


def default_folder() -> Path:
    """Return where data go unless told otherwise: $BLUESKY_AUTOFOCUS_DATA or the user's data folder."""
    return Path(os.environ.get(FOLDER_VARIABLE) or platformdirs.user_data_dir("bluesky-autofocus"))


class Catalog:
    """Runs on disk, read through databroker.

    Made by `open_catalog`.

    Parameters
    ----------
    client : databroker.client.CatalogOfBlueskyRuns
        What users get as ``db``.
    folder : Path, optional
        Of frames and spool; `default_folder` for a catalogue that is kept elsewhere.
    server : EmbeddedServer, optional
        Where this process serves the catalogue itself.
    web_page : str
        Address of Tiled's web interface, key included; empty where it is not known.
    """

    def __init__(
        self,
        client: Any,
        folder: Path | None = None,
        server: EmbeddedServer | None = None,
        web_page: str = "",
    ) -> None:
        self.client = client
        self.folder = folder = folder or default_folder()
        (folder / "spool").mkdir(parents=True, exist_ok=True)
        self.web_page = web_page
        self.frame_directory = folder / "frames"
        self._server = server
        self._writers: list[_Writer] = []
        self.repaired = repair(folder / "spool", self._store)
        """Uids of runs that a process which was killed, or lost its catalogue, had left behind."""

    @property
    def serving(self) -> bool:
        """Whether this process serves the catalogue, so that others lose it when it ends."""
        return self._server is not None

    @property
    def addresses(self) -> dict[str, str]:
        """What other processes give as their location, to ``write`` and to ``read``; none if not served here.

        They hold the keys. Without a file of keys there is one to write only.
        """
        if self._server is None:
            return {}
        both = {"write": self._server.uri, "read": self._server.uri_to_read}
        return {may: uri for may, uri in both.items() if uri}

    def subscribe(self, run_engine: RunEngine) -> None:
        """Record every run of a RunEngine; number its runs on from the newest one here that has a number."""
        if len(self.client):
            # runs that were computed have none
            newest = self.client.values().tail(_LOOKED_AT)[::-1]
            numbers = (run.metadata["start"].get("scan_id") for run in newest)
            run_engine.md["scan_id"] = next((number for number in numbers if number is not None), 0)
        run_engine.subscribe(self.recorder())

    def recorder(self) -> "_Writer":
        """Return a document callback that records runs, of a RunEngine or of whatever else makes them."""
        writer = _Writer(self.client, Spool(self.folder / "spool"))
        self._writers.append(writer)
        return writer

    def close(self) -> None:
        """Write what is left; if nothing else in this process uses the catalogue it serves, stop serving."""
        for writer in self._writers:
            writer.close()
        self._writers.clear()
        self.client.context.close()
        if self._server is not None:
            self._server.release()
            self._server = None

    def _store(self, documents: list[Document]) -> None:
        from bluesky_tiled_plugins import TiledWriter

        uid = documents[0][1]["uid"]
        if uid in self.client:
            # in part, even where it has its stop document: the spool holds all of it
            self.client.delete_contents(uid, recursive=True, external_only=False)
        writer = TiledWriter(self.client)
        for name, doc in documents:
            writer(name, doc)


class _Writer:
    """Document callback that writes to the spool at once and to the catalogue from a thread.

    After the stop document it waits until the catalogue holds the run, so that ``db[-1]`` is the run that
    has just ended. A catalogue that fails or is slow costs a warning, never the experiment: the spool
    keeps the run and the next start stores it.
    """

    patience_s = 15.0
    _FLUSH = "_flush"

    def __init__(self, client: Any, spool: Spool) -> None:
        from bluesky_tiled_plugins import TiledWriter

        self._spool = spool
        self._write = TiledWriter(client, batch_size=BATCH)
        self._failures: dict[str, Exception] = {}
        """The first of each run, by its uid: runs may be open at the same time."""
        self._buffer = BufferingWrapper(self._from_buffer)

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        run_uid = self._spool.run_of(name, doc)
        try:
            self._spool(name, doc)
        finally:
            # a full disk here is no reason to keep it from a catalogue that may be elsewhere
            self._buffer(name, (run_uid, doc))
            if name == "stop":
                self._settle(run_uid)

    def _from_buffer(self, name: str, of_run: tuple[str, Any]) -> None:
        run_uid, doc = of_run
        if name == self._FLUSH:
            doc.set()
            return
        try:
            self._write(name, doc)
        except Exception as error:
            # the buffer would only log it; `_settle` tells the user which run it was
            self._failures.setdefault(run_uid, error)

    def _settle(self, run_uid: str) -> None:
        written = threading.Event()
        self._buffer(self._FLUSH, (run_uid, written))
        in_time = written.wait(self.patience_s)
        failure = self._failures.pop(run_uid, None)
        if in_time and failure is None:
            self._spool.forget(run_uid)
            return
        logger.warning(
            "run %s is not in the catalogue (%s); its documents are safe in %s and are stored when the "
            "catalogue is opened next",
            run_uid,
            failure or f"not written within {self.patience_s} s",
            self._spool.path(run_uid),
        )

    def close(self) -> None:
        self._buffer.shutdown()
        self._spool.close()


def open_catalog(
    location: str | Path | None = None,
    *,
    port: int = 0,
    address: str = "127.0.0.1",
    keys: Path | None = None,
) -> Catalog:
    """Open the catalogue that runs are recorded in and read from.

    Parameters
    ----------
    location : str or path, optional
        A folder: a catalogue is kept in it and served within this process; if another process has it
        open, this one attaches to that. ``http(s)://...`` is a Tiled server's address, with its key.
        ``profile:NAME`` is a Tiled profile. ``postgresql://USER@HOST/NAME`` is a database in place of the
        files of the default folder, served within this process too; its tables are made if there are none.
        By default $BLUESKY_AUTOFOCUS_CATALOG, else the folder $BLUESKY_AUTOFOCUS_DATA, else the user's data
        folder.
    port, address : int, str
        Where a folder is served; 0 takes a free port, "0.0.0.0" listens to all networks.
    keys : path, optional
        File of the keys that let other processes in, one to write and one to read; made if it is not there.
        By default there is one key, another one each time.

    Returns
    -------
    Catalog
        Its `client` is databroker's catalogue.

    Raises
    ------
    CatalogError
        If it cannot be opened, saying why.
    """
    where = str(location or os.environ.get(CATALOG_VARIABLE) or default_folder())
    if where.startswith("profile:"):
        from databroker import from_profile

        name = where.removeprefix("profile:")
        return Catalog(_connect(where, lambda: from_profile(name, structure_clients="numpy")))
    if where.startswith(("http://", "https://")):
        return Catalog(_connect(where, lambda: _from_uri(where)))
    database = where if is_postgresql(where) else ""
    folder = (default_folder() if database else Path(where)).expanduser().resolve()
    uri, web_page, server = serve_or_attach(folder, Serving(port, address, database, keys))
    try:
        return Catalog(_connect(where, lambda: _from_uri(uri)), folder, server, web_page)
    except BaseException:
        if server is not None:
            server.release()
        raise


def _from_uri(uri: str) -> Any:
    from tiled.client import from_uri

    return from_uri(uri, structure_clients="numpy")


def _connect(where: str, make_client: Callable[[], Any]) -> Any:
    from databroker.client import CatalogOfBlueskyRuns

    try:
        client = make_client()
    except Exception as error:
        raise CatalogError(f"the catalogue at {where} does not answer: {error}") from error
    if not isinstance(client, CatalogOfBlueskyRuns):
        raise CatalogError(f"{where} holds no catalogue of bluesky runs but a {type(client).__name__}")
    return client
