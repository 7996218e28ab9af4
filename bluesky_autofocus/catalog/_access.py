"""Who may do what with a catalogue that is served to others: a key to write with, another only to read."""

import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any

from bluesky_autofocus.catalog._databases import CatalogError, run_apart

__all__ = ["READ", "WRITE", "access_keys", "authentication"]

WRITE, READ = "write", "read"

_LEAST_BYTES = 20
"""Of a key: Tiled finds it by its first four, the rest has to be beyond guessing."""

_MAY = {
    READ: ("read:metadata", "read:data"),
    WRITE: (
        "read:metadata",
        "read:data",
        "create:node",
        "write:metadata",
        "write:data",
        # frames are written by the sessions: the catalogue is told of the files
        "register",
        # what was stored in part is stored anew
        "delete:node",
        "delete:revision",
    ),
}


def access_keys(path: Path) -> dict[str, str]:
    """Return the keys in a file; make the file, for this user only, if it is not there.

    Parameters
    ----------
    path : Path
        JSON: ``{"write": "...", "read": "..."}``, each an even number of hexadecimal digits.

    Raises
    ------
    CatalogError
        If the file holds something else, or can be read by others.
    """
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump({kind: secrets.token_hex(36) for kind in _MAY}, file, indent=1)
    except FileExistsError:
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise CatalogError(f"others can read the keys in {path}: chmod 600 {path}") from None
    try:
        keys = json.loads(path.read_text())
        usable = keys.keys() == _MAY.keys() and len(set(keys.values())) == len(keys)
        long_enough = usable and all(len(bytes.fromhex(key)) >= _LEAST_BYTES for key in keys.values())
    except (ValueError, TypeError, AttributeError) as error:
        raise CatalogError(f"there are no keys in {path}: {error}") from error
    if not long_enough:
        raise CatalogError(
            f"{path} must hold a key to {WRITE} and another one to {READ}, hexadecimal and of at least "
            f"{2 * _LEAST_BYTES} digits"
        )
    return keys


def authentication(folder: Path, keys: dict[str, str]) -> dict[str, Any]:
    """Return the part of Tiled's configuration that lets in who has one of the keys, and nobody else.

    Parameters
    ----------
    folder : Path
        Where a database with the hashes of the keys is made anew: a key that is no more in the file is void.
    keys : dict
        What `access_keys` gives.
    """
    from tiled.alembic_utils import stamp_head
    from tiled.authn_database.alembic_constants import ALEMBIC_DIR, ALEMBIC_INI_TEMPLATE_PATH

    database = folder / "access.db"
    database.unlink(missing_ok=True)
    uri = f"sqlite+aiosqlite:///{database}"
    run_apart(_let_in(uri, keys))
    stamp_head(Path(ALEMBIC_INI_TEMPLATE_PATH), Path(ALEMBIC_DIR), uri)
    nobody = {
        "provider": "keys",
        "authenticator": "tiled.authenticators:DictionaryAuthenticator",
        "args": {"users_to_passwords": {}},
    }
    return {
        # Tiled asks for some way to log in before it looks at keys; by this one nobody can
        "authentication": {"providers": [nobody], "secret_keys": [secrets.token_hex(32)]},
        "database": {"uri": uri},
    }


async def _let_in(uri: str, keys: dict[str, str]) -> None:
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
    from tiled.authn_database import orm
    from tiled.authn_database.core import create_service, initialize_database

    engine = create_async_engine(uri)
    try:
        await initialize_database(engine)
        async with AsyncSession(engine, expire_on_commit=False) as session:
            for kind, key in keys.items():
                # a key has at most what its owner's role has, and users may not register files
                owner = await create_service(session, "admin" if kind == WRITE else "user")
                secret = bytes.fromhex(key)
                session.add(
                    orm.APIKey(
                        principal_id=owner.id,
                        first_eight=secret.hex()[:8],
                        hashed_secret=hashlib.sha256(secret).digest(),
                        scopes=list(_MAY[kind]),
                        note=f"to {kind}",
                    )
                )
            await session.commit()
    finally:
        await engine.dispose()
