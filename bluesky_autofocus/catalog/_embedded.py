"""A Tiled server inside this process, over a folder: SQLite for the documents, HDF5 files for the frames.

SQLite files that two processes open are soon locked, so one process owns a catalogue and serves it on
127.0.0.1; others attach through an address that only this user can read.
"""

import asyncio
import atexit
import json
import logging
import os
import secrets
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import filelock

__all__ = ["CatalogError", "EmbeddedServer", "serve_or_attach"]

STARTUP_TIMEOUT_S = 60.0

# Tiled keeps its settings, the key among them, once for each process.
_KEY = secrets.token_hex(32)
_served: dict[Path, "EmbeddedServer"] = {}


class CatalogError(RuntimeError):
    """The catalogue cannot be opened."""


class EmbeddedServer:
    """A catalogue folder served on a thread of this process.

    Parameters
    ----------
    folder : Path
        Where everything is; made if need be.
    port : int
        0 takes a free one.
    """

    def __init__(self, folder: Path, lock: filelock.BaseFileLock, port: int = 0) -> None:
        import uvicorn
        from tiled.server.app import build_app_from_config

        # it announces its version at every start
        logging.getLogger("tiled.server.app").setLevel(logging.WARNING)
        self.folder = folder
        self.users = 0
        self._lock = lock
        _prepare_databases(folder)
        app = build_app_from_config(_configuration(folder))
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                host="127.0.0.1",
                port=port,
                log_level="warning",
                log_config=None,
                access_log=False,
                # an idle session's connection must not be closed under it
                timeout_keep_alive=3600,
            )
        )
        # a daemon: a session that ends need not wait for its clients
        self._thread = threading.Thread(target=self._server.run, name="tiled-server", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + STARTUP_TIMEOUT_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise CatalogError(f"the catalogue server for {folder} did not start (port {port})")
            time.sleep(0.02)
        host, self.port = self._server.servers[0].sockets[0].getsockname()
        self.uri = f"http://{host}:{self.port}/api/v1?api_key={_KEY}"
        self.web_page = f"http://{host}:{self.port}/ui/browse/?api_key={_KEY}"
        _write_private(folder / "server.json", {"uri": self.uri, "web_page": self.web_page})
        atexit.register(self.close)

    def release(self) -> None:
        """Stop serving once nothing in this process uses the catalogue any more."""
        self.users -= 1
        if self.users <= 0:
            self.close()

    def close(self) -> None:
        """Stop serving and give the folder free."""
        atexit.unregister(self.close)
        if _served.pop(self.folder, None) is None:
            return
        self._server.should_exit = True
        self._thread.join(timeout=5)
        (self.folder / "server.json").unlink(missing_ok=True)
        self._lock.release()


def serve_or_attach(folder: Path, port: int = 0) -> tuple[str, str, EmbeddedServer | None]:
    """Serve a catalogue folder, or find who does.

    Returns
    -------
    uri, web_page : str
        Both hold the key.
    server : EmbeddedServer or None
        None where another process serves the folder.

    Raises
    ------
    CatalogError
        If the folder cannot be written to, was made by a newer version, or is owned by a process that
        does not answer.
    """
    folder = folder.expanduser().resolve()
    if folder in _served:
        server = _served[folder]
        server.users += 1
        return server.uri, server.web_page, server
    try:
        for name in ("data", "frames", "spool"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / "server.lock")
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return *_address_of_owner(folder), None
    except OSError as error:
        raise CatalogError(f"cannot keep a catalogue in {folder}: {error}") from error
    try:
        # left by an owner that was killed: who attaches while this one starts must not find it
        (folder / "server.json").unlink(missing_ok=True)
        server = _served[folder] = EmbeddedServer(folder, lock, port)
    except BaseException:
        _served.pop(folder, None)
        lock.release()
        raise
    server.users += 1
    return server.uri, server.web_page, server


def _address_of_owner(folder: Path) -> tuple[str, str]:
    deadline = time.monotonic() + STARTUP_TIMEOUT_S
    while time.monotonic() < deadline:  # it may only just be starting
        try:
            address = json.loads((folder / "server.json").read_text())
            return address["uri"], address["web_page"]
        except (FileNotFoundError, json.JSONDecodeError):
            time.sleep(0.2)
    raise CatalogError(
        f"another process holds the catalogue {folder} but does not serve it; end it, or use another folder"
    )


def _write_private(path: Path, content: dict[str, str]) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(content, file)


def _configuration(folder: Path) -> dict[str, Any]:
    return {
        "trees": [
            {
                "path": "/",
                "tree": "catalog",
                "args": {
                    "uri": f"sqlite:///{folder / 'catalog.db'}",
                    "writable_storage": [str(folder / "data"), f"sqlite:///{folder / 'tables.db'}"],
                    "readable_storage": [str(folder / "frames")],
                    "specs": [{"name": "CatalogOfBlueskyRuns", "version": "3.0"}],
                },
            }
        ],
        "authentication": {"single_user_api_key": _KEY},
        # lets `run.documents()` give back the documents as they were emitted
        "media_types": {
            "BlueskyRun": {"application/json-seq": "bluesky_tiled_plugins.exporters:json_seq_exporter"}
        },
        # lets clients on this machine read frames from their files
        "expose_raw_assets": True,
    }


def _prepare_databases(folder: Path) -> None:
    """Make the databases of a new catalogue, or make sure that those of an old one can be used."""
    from tiled.alembic_utils import stamp_head
    from tiled.catalog.alembic_constants import ALEMBIC_DIR, ALEMBIC_INI_TEMPLATE_PATH
    from tiled.catalog.core import ALL_REVISIONS, REQUIRED_REVISION

    database = folder / "catalog.db"
    uri = f"sqlite+aiosqlite:///{database}"
    if not database.exists():
        # Tiled's own `init_if_not_exists` takes 7 s at every start, this 0.4 s once.
        unfinished = folder / "catalog.db.new"
        unfinished.unlink(missing_ok=True)
        unfinished_uri = f"sqlite+aiosqlite:///{unfinished}"
        _run_apart(_initialize(unfinished_uri))
        stamp_head(Path(ALEMBIC_INI_TEMPLATE_PATH), Path(ALEMBIC_DIR), unfinished_uri)
        unfinished.rename(database)
    revision = _revision(database)
    if revision not in ALL_REVISIONS:
        raise CatalogError(
            f"the catalogue {folder} was made by a newer version of Tiled (schema {revision}, this one knows "
            f"{REQUIRED_REVISION}): update tiled and bluesky-autofocus, or use another folder"
        )
    if revision != REQUIRED_REVISION:
        raise CatalogError(
            f"the catalogue {folder} was made by an older version of Tiled (schema {revision}, expected "
            f"{REQUIRED_REVISION}): back it up, then run: tiled catalog upgrade-database {uri}"
        )
    for name in ("catalog.db", "tables.db"):
        connection = sqlite3.connect(folder / name)
        # readers and the writer do not wait for each other
        connection.execute("pragma journal_mode=WAL")
        connection.close()


def _revision(database: Path) -> str | None:
    connection = sqlite3.connect(database)
    try:
        row = connection.execute("select version_num from alembic_version").fetchone()
    except sqlite3.DatabaseError as error:
        raise CatalogError(f"{database} is not a catalogue: {error}") from error
    finally:
        connection.close()
    return None if row is None else row[0]


async def _initialize(uri: str) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine
    from tiled.catalog.core import initialize_database

    engine = create_async_engine(uri)
    try:
        await initialize_database(engine)
    finally:
        await engine.dispose()


def _run_apart(coroutine: Any) -> None:
    """Run a coroutine to its end, though an event loop may be running on this thread, as in Jupyter."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(coroutine)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
