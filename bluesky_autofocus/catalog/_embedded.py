"""A Tiled server inside this process, over a folder: a database for the documents, HDF5 files for the frames.

SQLite files that two processes open are soon locked, so one process owns a catalogue and serves it on
127.0.0.1; others attach through an address that only this user can read.
"""

import atexit
import dataclasses
import json
import logging
import os
import secrets
import threading
import time
from pathlib import Path
from typing import Any

import filelock

from bluesky_autofocus.catalog._access import READ, WRITE, access_keys, authentication
from bluesky_autofocus.catalog._databases import CatalogError, prepare, without_password

__all__ = ["EmbeddedServer", "Serving", "serve_or_attach"]

STARTUP_TIMEOUT_S = 60.0

# Tiled keeps its settings, the key among them, once for each process.
_KEY = secrets.token_hex(32)
_served: dict[Path, "EmbeddedServer"] = {}


@dataclasses.dataclass(frozen=True)
class Serving:
    """How a folder is served.

    Parameters
    ----------
    port : int
        0 takes a free one.
    address : str
        Which network is listened to; "0.0.0.0" is all of them.
    database : str
        ``postgresql://...``; by default SQLite files in the folder.
    keys : Path, optional
        File of the keys that let others in, `access_keys`. By default there is one that nobody keeps.
    """

    port: int = 0
    address: str = "127.0.0.1"
    database: str = ""
    keys: Path | None = None


class EmbeddedServer:
    """A catalogue folder served on a thread of this process.

    Parameters
    ----------
    folder : Path
        Where everything is; made if need be.
    lock : filelock.BaseFileLock
        Held as long as it is served.
    how : Serving
        Port, database, keys.
    """

    def __init__(self, folder: Path, lock: filelock.BaseFileLock, how: Serving) -> None:
        import uvicorn
        from tiled.server.app import build_app_from_config

        # it announces its version at every start
        logging.getLogger("tiled.server.app").setLevel(logging.WARNING)
        self.folder = folder
        self.users = 0
        self._lock = lock
        databases = prepare(folder, how.database)
        keys = {WRITE: _KEY} if how.keys is None else access_keys(how.keys)
        access = {"authentication": {"single_user_api_key": _KEY}}
        if how.keys is not None:
            access = authentication(folder, keys)
        app = build_app_from_config({**_configuration(folder, *databases), **access})
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                host=how.address,
                port=how.port,
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
                raise CatalogError(f"the catalogue server for {folder} did not start (port {how.port})")
            time.sleep(0.02)
        _, self.port, *_ = self._server.servers[0].sockets[0].getsockname()
        host = "127.0.0.1" if how.address in ("0.0.0.0", "::") else how.address
        self.uri = f"http://{host}:{self.port}/api/v1?api_key={keys[WRITE]}"
        self.uri_to_read = f"http://{host}:{self.port}/api/v1?api_key={keys[READ]}" if READ in keys else ""
        self.web_page = f"http://{host}:{self.port}/ui/browse/?api_key={keys.get(READ, keys[WRITE])}"
        self.database = without_password(how.database)
        said = {"uri": self.uri, "web_page": self.web_page, "database": self.database}
        _write_private(folder / "server.json", said)
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


def serve_or_attach(folder: Path, how: Serving = Serving()) -> tuple[str, str, EmbeddedServer | None]:
    """Serve a catalogue folder, or find who does.

    Parameters
    ----------
    folder : Path
        Of the catalogue.
    how : Serving
        If it is not served already.

    Returns
    -------
    uri, web_page : str
        Both hold the key.
    server : EmbeddedServer or None
        None where another process serves the folder.

    Raises
    ------
    CatalogError
        If the folder cannot be written to, was made by a newer version, is owned by a process that does not
        answer, or is served with another database.
    """
    folder = folder.expanduser().resolve()
    if folder in _served:
        server = _served[folder]
        _check_same(folder, server.database, how)
        server.users += 1
        return server.uri, server.web_page, server
    try:
        for name in ("data", "frames", "spool"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / "server.lock")
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return *_address_of_owner(folder, how), None
    except OSError as error:
        raise CatalogError(f"cannot keep a catalogue in {folder}: {error}") from error
    try:
        # left by an owner that was killed: who attaches while this one starts must not find it
        (folder / "server.json").unlink(missing_ok=True)
        server = _served[folder] = EmbeddedServer(folder, lock, how)
    except BaseException:
        _served.pop(folder, None)
        lock.release()
        raise
    server.users += 1
    return server.uri, server.web_page, server


def _check_same(folder: Path, database: str, how: Serving) -> None:
    if database != without_password(how.database):
        raise CatalogError(
            f"the frames of {folder} go with {database or 'the catalogue in that folder'}, which is being "
            f"served, not with {without_password(how.database) or 'one in it'}: end that, or use another "
            "folder"
        )


def _address_of_owner(folder: Path, how: Serving) -> tuple[str, str]:
    deadline = time.monotonic() + STARTUP_TIMEOUT_S
    while time.monotonic() < deadline:  # it may only just be starting
        try:
            address = json.loads((folder / "server.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            time.sleep(0.2)
            continue
        _check_same(folder, address.get("database", ""), how)
        return address["uri"], address["web_page"]
    raise CatalogError(
        f"another process holds the catalogue {folder} but does not serve it; end it, or use another folder"
    )


def _write_private(path: Path, content: dict[str, str]) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(content, file)


def _configuration(folder: Path, catalogue: str, tables: str) -> dict[str, Any]:
    return {
        "trees": [
            {
                "path": "/",
                "tree": "catalog",
                "args": {
                    "uri": catalogue,
                    "writable_storage": [str(folder / "data"), tables],
                    "readable_storage": [str(folder / "frames")],
                    "specs": [{"name": "CatalogOfBlueskyRuns", "version": "3.0"}],
                },
            }
        ],
        # lets `run.documents()` give back the documents as they were emitted
        "media_types": {
            "BlueskyRun": {"application/json-seq": "bluesky_tiled_plugins.exporters:json_seq_exporter"}
        },
        # lets clients on this machine read frames from their files
        "expose_raw_assets": True,
    }
