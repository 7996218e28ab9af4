"""A PostgreSQL server of one's own, in a temporary folder, on a free port of this machine."""

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

STARTUP_S = 60.0
USER = "focus"


def binaries() -> Path:
    """Return the folder of PostgreSQL's programs, or skip."""
    found = shutil.which("initdb")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found is None and not folders:
        pytest.skip("there is no PostgreSQL server on this machine")
    return Path(found).parent if found is not None else folders[-1].parent


@contextmanager
def postgresql() -> Iterator[str]:
    """Run a server; yield the address of an empty database, for `open_catalog`."""
    programs = binaries()
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    # it refuses to run as root
    who = {}
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        import pwd

        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = (folder.parent / f"{folder.name}.log").open("wb")
    server = None
    try:
        for command in (
            [
                programs / "initdb",
                "-D",
                folder / "data",
                "-U",
                USER,
                "--auth=trust",
                "--no-sync",
                "-E",
                "UTF8",
            ],
        ):
            subprocess.run(command, check=True, stdout=log, stderr=log, cwd=folder, **who)
        server = subprocess.Popen(
            [programs / "postgres", "-D", folder / "data", "-p", str(port), "-k", folder, "-c", "fsync=off"],
            stdout=log,
            stderr=log,
            cwd=folder,
            **who,
        )
        asyncio.run(_create_database(port))
        yield f"postgresql://{USER}@127.0.0.1:{port}/{USER}"
    finally:
        if server is not None:
            server.terminate()  # at once those who are connected have gone
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
        log.close()
        Path(log.name).unlink()
        shutil.rmtree(folder)


async def _create_database(port: int) -> None:
    import asyncpg

    until_s = time.monotonic() + STARTUP_S
    while True:
        try:
            connection = await asyncpg.connect(
                host="127.0.0.1", port=port, user=USER, database="postgres", ssl=False
            )
            break
        except (OSError, asyncpg.PostgresError):
            if time.monotonic() > until_s:
                raise
            await asyncio.sleep(0.05)
    try:
        await connection.execute(f"create database {USER}")
    finally:
        await connection.close()
