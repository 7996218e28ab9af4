"""The databases of a catalogue, SQLite files in its folder or PostgreSQL: made if need be, else checked."""

import asyncio
import sqlite3
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

__all__ = ["CatalogError", "is_postgresql", "prepare", "run_apart", "without_password"]


_TABLES_OF_SQLITE = """
    select name from sqlite_master where type = 'table' and name like 'table\\_%' escape '\\'
    except select tbl_name from sqlite_master where type = 'index'
"""
_TABLES_OF_POSTGRESQL = """
    select tablename from pg_tables where schemaname = current_schema() and tablename like 'table\\_%'
    except select tablename from pg_indexes where schemaname = current_schema()
"""
"""Tables of Events that have no index. Tiled (0.2.20) calls that of each table the same, ``if not exists``:
only the first table of a database has one. To read the Events of a run, those of all runs with a stream of
the same keys are gone through."""


class CatalogError(RuntimeError):
    """The catalogue cannot be opened."""


def _index(table: str) -> str:
    return f'create index if not exists "ix_{table}" on "{table}" (_dataset_id, _partition_id)'


def is_postgresql(location: str) -> bool:
    """Whether a location names a PostgreSQL database."""
    return location.startswith(("postgresql://", "postgres://"))


def without_password(uri: str) -> str:
    """Return the address of a database as it may be shown."""
    parts = urlsplit(uri)
    if parts.password is None:
        return uri
    host = f"{parts.hostname or ''}{'' if parts.port is None else f':{parts.port}'}"
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}@{host}"))


def prepare(folder: Path, database: str = "") -> tuple[str, str]:
    """Make the databases of a new catalogue, or make sure that those of an old one can be used.

    Parameters
    ----------
    folder : Path
        Of the catalogue.
    database : str
        ``postgresql://...``; by default SQLite files in the folder.

    Returns
    -------
    catalogue, tables : str
        Addresses: of what is searched, and of what Events are in.

    Raises
    ------
    CatalogError
        If they cannot be reached, are none, or were made by another version.
    """
    if is_postgresql(database):
        database = database.replace("postgres://", "postgresql://", 1)
        _prepare_postgresql(database)
        return database, database
    _prepare_sqlite(folder)
    return f"sqlite:///{folder / 'catalog.db'}", f"sqlite:///{folder / 'tables.db'}"


def _prepare_sqlite(folder: Path) -> None:
    database = folder / "catalog.db"
    if not database.exists():
        # Tiled's own `init_if_not_exists` takes 7 s at every start, this 0.4 s once.
        unfinished = folder / "catalog.db.new"
        unfinished.unlink(missing_ok=True)
        _make(f"sqlite+aiosqlite:///{unfinished}")
        unfinished.rename(database)
    _check(_revision_of_sqlite(database), str(folder), f"sqlite+aiosqlite:///{database}")
    for name in ("catalog.db", "tables.db"):
        connection = sqlite3.connect(folder / name)
        # readers and the writer do not wait for each other
        connection.execute("pragma journal_mode=WAL")
        if name == "tables.db":
            tables = connection.execute(_TABLES_OF_SQLITE).fetchall()
            for (table,) in tables:
                connection.execute(_index(table))
            connection.commit()
        connection.close()


def _revision_of_sqlite(database: Path) -> str | None:
    connection = sqlite3.connect(database)
    try:
        row = connection.execute("select version_num from alembic_version").fetchone()
    except sqlite3.DatabaseError as error:
        raise CatalogError(f"{database} is not a catalogue: {error}") from error
    finally:
        connection.close()
    return None if row is None else row[0]


def _prepare_postgresql(database: str) -> None:
    from sqlalchemy.exc import DBAPIError
    from tiled.utils import ensure_specified_sql_driver

    uri, shown = ensure_specified_sql_driver(database), without_password(database)
    try:
        found, tables = run_apart(_what_is_in(uri))
        if found is None and not tables:
            _make(uri)
            found, _ = run_apart(_what_is_in(uri))
    except (OSError, DBAPIError) as error:
        raise CatalogError(f"the database {shown} cannot be used: {error}") from error
    if found is None:
        raise CatalogError(f"the database {shown} holds other tables ({tables}) and no catalogue: make one")
    _check(found, shown, without_password(uri))
    run_apart(_index_tables(uri))


async def _what_is_in(uri: str) -> tuple[str | None, str]:
    """Return the revision of a catalogue in a PostgreSQL database, and the first of the tables there are."""
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(uri)
    try:
        async with engine.connect() as connection:
            found = await connection.execute(
                text("select table_name from information_schema.tables where table_schema = current_schema()")
            )
            tables = sorted(found.scalars())
            if "alembic_version" not in tables:
                return None, ", ".join(tables[:3])
            revision = await connection.execute(text("select version_num from alembic_version"))
            return revision.scalar(), ", ".join(tables[:3])
    finally:
        await engine.dispose()


async def _index_tables(uri: str) -> None:
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(uri)
    try:
        async with engine.begin() as connection:
            tables = (await connection.execute(text(_TABLES_OF_POSTGRESQL))).scalars().all()
            for table in tables:
                await connection.execute(text(_index(table)))
    finally:
        await engine.dispose()


def _check(revision: str | None, shown: str, uri: str) -> None:
    from tiled.catalog.core import ALL_REVISIONS, REQUIRED_REVISION

    if revision not in ALL_REVISIONS:
        raise CatalogError(
            f"the catalogue {shown} was made by a newer version of Tiled (schema {revision}, this one knows "
            f"{REQUIRED_REVISION}): update tiled and bluesky-autofocus, or use another folder"
        )
    if revision != REQUIRED_REVISION:
        raise CatalogError(
            f"the catalogue {shown} was made by an older version of Tiled (schema {revision}, expected "
            f"{REQUIRED_REVISION}): back it up, then run: tiled catalog upgrade-database {uri}"
        )


def _make(uri: str) -> None:
    from tiled.alembic_utils import stamp_head
    from tiled.catalog.alembic_constants import ALEMBIC_DIR, ALEMBIC_INI_TEMPLATE_PATH

    run_apart(_initialize(uri))
    # it has an event loop of its own
    stamp_head(Path(ALEMBIC_INI_TEMPLATE_PATH), Path(ALEMBIC_DIR), uri)


async def _initialize(uri: str) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine
    from tiled.catalog.core import initialize_database

    engine = create_async_engine(uri)
    try:
        await initialize_database(engine)
    finally:
        await engine.dispose()


def run_apart(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return what a coroutine does, though an event loop may be running on this thread, as in Jupyter."""
    results: list[Any] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(asyncio.run(coroutine))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]
