"""A catalogue on a PostgreSQL database, served to other processes by keys."""

import asyncio
import gc
import json
import logging
import os
import socket
import subprocess
import sys
import time

import asyncpg
import numpy as np
import pytest
from postgresql import postgresql
from tiled.client.utils import ClientError
from tiled.queries import Key

from bluesky_autofocus.catalog import CatalogError, open_catalog
from bluesky_autofocus.catalog._access import access_keys
from bluesky_autofocus.catalog._databases import without_password
from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.session import open_session

# Of packages below Tiled, at their own use of each other
pytestmark = [
    pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic"),
    # a client of Tiled that is not let in, or whose server is gone, leaves its connection open
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def database():
    with postgresql() as address:
        yield address


class Server:
    """``bluesky-autofocus serve`` over a database, in a process of its own that can be killed."""

    def __init__(self, database, folder):
        self.database, self.folder = database, folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.process = None
        self.start()

    def start(self):
        keys = self.folder / "keys.json"
        options = ["--catalog", self.database, "--port", str(self.port), "--keys", str(keys)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bluesky_autofocus", "serve", *options],
            env={**os.environ, "BLUESKY_AUTOFOCUS_DATA": str(self.folder)},
            stdout=subprocess.PIPE,
            text=True,
        )
        self.addresses, may = {}, ""
        for line in self.process.stdout:
            if line.startswith("--catalog to "):
                may = line.split()[2].rstrip(":")
            elif may and "http" in line:
                self.addresses[may], may = line.strip(), ""
            if "Ctrl-C" in line:
                break

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def server(database, tmp_path_factory):
    started = Server(database, tmp_path_factory.mktemp("server"))
    yield started
    started.kill()


@pytest.fixture(autouse=True)
def beside_the_server(server, monkeypatch):
    """Frames go where the server sees them."""
    monkeypatch.setenv("BLUESKY_AUTOFOCUS_DATA", str(server.folder))
    monkeypatch.delenv("BLUESKY_AUTOFOCUS_CATALOG", raising=False)
    # a machine may have much else to do
    monkeypatch.setattr("bluesky_autofocus.catalog._catalog._Writer.patience_s", 300.0)


@pytest.fixture
def session(server):
    with open_session("sem", catalog=server.addresses["write"], clock=VirtualClock(), show=None) as opened:
        yield opened


@pytest.fixture
def reader(server):
    opened = open_catalog(server.addresses["read"])
    yield opened
    opened.close()


def test_a_run_is_stored_found_and_read_back(session, reader):
    sample = f"oxide {time.time()}"
    (uid,) = session.RE(session.focus(), sample=sample)
    assert not session.catalog.serving and not reader.serving
    found = reader.client.search(Key("sample") == sample)
    assert list(found) == [uid]
    run = reader.client[uid]
    assert run.stop["exit_status"] == "success"
    position_um = float(run["verdict"].read()["verdict_position_um"].values[0])
    sem = session.instrument.devices["sem"]
    assert position_um == pytest.approx(sem.focus_um, abs=sem.depth_of_field_um)
    scores = run["reading_sharpness"].read()["sharpness_value"].values
    frames = run["focus_search", "sem_camera_image"]
    assert len(frames) == len(scores) > 3
    assert session.sharpness.analyse_frame(np.asarray(frames[1])).value == scores[1]
    assert [name for name, _ in run.documents()][-1] == "stop"


def test_who_may_only_read_writes_nothing(session, reader, server, caplog):
    (uid,) = session.RE(session.focus())
    there = len(reader.client)
    with pytest.raises(ClientError, match="Not enough permissions"):
        reader.client.create_container("another")
    with pytest.raises(ClientError, match="Not enough permissions"):
        reader.client.delete_contents(uid, recursive=True, external_only=False)
    with (
        caplog.at_level(logging.WARNING),
        open_session("sem", catalog=server.addresses["read"], clock=VirtualClock(), show=None) as not_allowed,
    ):
        (kept,) = not_allowed.RE(not_allowed.focus())
    assert f"run {kept} is not in the catalogue" in caplog.text
    assert len(reader.client) == there
    # its documents are safe, and who may write stores them
    again = open_catalog(server.addresses["write"])
    assert again.repaired == [kept]
    assert again.client[kept].stop["exit_status"] == "success"
    again.close()


@pytest.mark.parametrize("key", [36 * "ab", "nonsense"])
def test_by_another_key_nobody_is_let_in(server, key):
    address = server.addresses["read"].partition("?")[0]
    with pytest.raises(CatalogError, match="does not answer"):
        open_catalog(f"{address}?api_key={key}")
    gc.collect()


def test_a_server_that_is_killed_and_comes_back(session, server, monkeypatch, caplog):
    (before,) = session.RE(session.focus())
    addresses = dict(server.addresses)
    # not ten times, for minutes
    monkeypatch.setattr("tiled.client.utils.TILED_RETRY_ATTEMPTS", 1)
    server.kill()
    with caplog.at_level(logging.WARNING):
        (meanwhile,) = session.RE(session.focus())
    assert f"run {meanwhile} is not in the catalogue" in caplog.text
    server.start()
    assert server.addresses == addresses
    (afterwards,) = session.RE(session.focus())
    session.catalog.close()

    again = open_catalog(addresses["write"])
    assert again.repaired == [meanwhile]
    for uid in (before, meanwhile, afterwards):
        assert again.client[uid].stop["exit_status"] == "success"
        assert again.client[uid]["verdict"].read()["verdict_found"].values.all()
    again.close()


async def execute(database, statement):
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


class TestMistakes:
    def test_another_database_than_the_one_that_is_served(self, database, server):
        with pytest.raises(
            CatalogError, match=f"go with {database}, which is being served, not with one in it"
        ):
            open_catalog(server.folder)

    def test_a_database_that_is_not_there(self, tmp_path, monkeypatch):
        monkeypatch.setenv("BLUESKY_AUTOFOCUS_DATA", str(tmp_path))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with pytest.raises(
            CatalogError, match=f"postgresql://me@127.0.0.1:{port}/focus cannot be used"
        ) as told:
            open_catalog(f"postgresql://me:secret@127.0.0.1:{port}/focus")
        assert "secret" not in str(told.value)

    def test_a_database_of_something_else(self, database, tmp_path, monkeypatch):
        monkeypatch.setenv("BLUESKY_AUTOFOCUS_DATA", str(tmp_path))
        another = database.rpartition("/")[0] + "/postgres"
        asyncio.run(execute(another, "create table notes (text text)"))
        with pytest.raises(CatalogError, match=r"holds other tables \(notes\) and no catalogue"):
            open_catalog(another)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("nonsense", "there are no keys in"),
            ('{"write": "ab", "read": "cd"}', "at least 40 digits"),
            (json.dumps({"write": 20 * "ab"}), "a key to write and another one to read"),
            (json.dumps({"write": 20 * "ab", "read": 20 * "ab"}), "another one to read"),
        ],
    )
    def test_keys_that_are_none(self, tmp_path, text, said):
        path = tmp_path / "keys.json"
        path.touch(0o600)
        path.write_text(text)
        with pytest.raises(CatalogError, match=said):
            access_keys(path)

    def test_keys_that_everybody_can_read(self, tmp_path):
        path = tmp_path / "keys.json"
        keys = access_keys(path)
        assert access_keys(path) == keys
        path.chmod(0o644)
        with pytest.raises(CatalogError, match="others can read the keys"):
            access_keys(path)


def test_addresses_are_shown_without_their_password():
    assert without_password("postgresql://me:secret@db:5432/focus") == "postgresql://me@db:5432/focus"
    assert without_password("postgresql:///focus?host=/run") == "postgresql:///focus?host=/run"
