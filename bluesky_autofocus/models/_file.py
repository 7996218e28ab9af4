"""Model files: the weights of a network and the card that says what they are for.

One file a model: a line of text with the file's checksum, in HDF5's user block, then HDF5 with the card as
JSON text and the arrays as plain numbers. Reading one runs nothing that is in it: no pickle, no layers built
from names, no links to other files. The checksum is compared first, since the HDF5 library does not always
come back from a damaged file.
"""

import dataclasses
import hashlib
import io
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.models._card import SCHEMA_VERSION, ModelCard, ModelFileError

__all__ = ["read_model", "write_model"]

Arrays = dict[str, NDArray[np.floating]]

_HEADER = re.compile(rb"bluesky-autofocus model, schema (\d{1,9}), sha256 ([0-9a-f]{64})\n\0*")
_HEADER_BYTES = 512
_DTYPES = (np.dtype("<f2"), np.dtype("<f4"))
# Far above any network of this package (the largest ever considered has 208 MB) and far below what
# would exhaust a control computer: a small file can claim to hold any amount.
_MOST_BYTES = 2**30
_MOST_ARRAYS = 10_000


def _canonical(card: ModelCard) -> str:
    return json.dumps(card.to_dict(), sort_keys=True, ensure_ascii=False, allow_nan=False)


def _hash(card_text: str, arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    # the length in front of each piece keeps two different models from running together into one text
    for piece in (card_text.encode(), *(piece for name in sorted(arrays) for piece in _pieces(name, arrays))):
        digest.update(len(piece).to_bytes(8, "little"))
        digest.update(piece)
    return digest.hexdigest()


def _pieces(name: str, arrays: Mapping[str, np.ndarray]) -> tuple[Any, ...]:
    array = arrays[name]
    return name.encode(), f"{array.dtype.str} {array.shape}".encode(), array.tobytes()


def _checked_arrays(arrays: Mapping[str, Any]) -> Arrays:
    """Return the arrays as they are written: little-endian float16 or float32, in C order, finite."""
    checked: Arrays = {}
    for name, given in arrays.items():
        array = np.asarray(given)
        if not name or "/" in name or name == ".":
            raise ValueError(f"{name!r} is no name for an array: expected text without '/'")
        if array.dtype not in (np.float16, np.float32):
            raise ValueError(f"{name} is of type {array.dtype}: expected float16 or float32")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} has values that are not finite")
        checked[name] = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
    return checked


def write_model(path: Path | str, card: ModelCard, arrays: Mapping[str, Any]) -> ModelCard:
    """Write a model file.

    It appears complete or not at all: it is written beside its place, flushed to the disk (fsync) and then
    moved there, replacing what was there before.

    Parameters
    ----------
    path : path
        Of the file.
    card : ModelCard
        What the arrays are.
    arrays : mapping of str to numpy.ndarray
        float16 or float32, of any shape.

    Returns
    -------
    ModelCard
        The card with its hash.

    Raises
    ------
    ValueError
        If an array is of another type, is not finite or has a name with a slash.
    OSError
        If the file cannot be written.
    """
    import h5py

    path = Path(path)
    written = _checked_arrays(arrays)
    text = _canonical(card)
    digest = _hash(text, written)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "w+b") as stream:
            with h5py.File(stream, "w", userblock_size=_HEADER_BYTES) as file:
                file.attrs["hash"] = digest
                file["card"] = np.frombuffer(text.encode(), np.uint8)
                group = file.create_group("arrays")
                for name, array in written.items():
                    group[name] = array
            stream.seek(_HEADER_BYTES)
            checksum = hashlib.sha256(stream.read()).hexdigest()
            stream.seek(0)
            header = f"bluesky-autofocus model, schema {card.schema_version}, sha256 {checksum}\n".encode()
            stream.write(header.ljust(_HEADER_BYTES, b"\0"))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return dataclasses.replace(card, hash=digest)


def read_model(path: Path | str) -> tuple[ModelCard, Arrays]:
    """Read a model file; nothing in it is run.

    Parameters
    ----------
    path : path
        Of a file made by `write_model`.

    Returns
    -------
    card : ModelCard
        With its hash.
    arrays : dict of str to numpy.ndarray
        float16 or float32, as they were written.

    Raises
    ------
    ModelFileError
        If there is no such file, it is no model, damaged, altered since it was written, or of a newer schema.
    """
    path = Path(path)
    try:
        # small enough to hold: the reader then never meets a file that changes or a file system that locks
        if path.stat().st_size > _MOST_BYTES:
            raise ModelFileError(f"{path} is no model: it is larger than {_MOST_BYTES >> 20} MiB")
        stored = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"cannot read the model {path}: {error.strerror or error}") from error
    try:
        return _read(stored)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error


def _read(stored: bytes) -> tuple[ModelCard, Arrays]:
    import h5py

    header = _HEADER.fullmatch(stored[:_HEADER_BYTES])
    if header is None:
        raise ModelFileError("not a model of bluesky-autofocus, or its first bytes are damaged")
    version = int(header[1])
    if version > SCHEMA_VERSION:
        raise ModelFileError(
            f"of schema {version}, newer than {SCHEMA_VERSION}, the newest that this version of "
            "bluesky-autofocus reads: update it"
        )
    if hashlib.sha256(stored[_HEADER_BYTES:]).hexdigest() != header[2].decode():
        raise ModelFileError("damaged, cut short or altered: its contents do not match its checksum")
    try:
        with h5py.File(io.BytesIO(stored), "r") as file:
            text, digest, arrays = _contents(file)
    except ModelFileError:
        raise
    # what HDF5 and h5py raise for a file made to look like a model is not documented and of many kinds
    except Exception as error:
        raise ModelFileError(f"its contents are no model's ({type(error).__name__}: {error})") from error
    if _hash(text, arrays) != digest:
        raise ModelFileError("altered: card and arrays do not match the hash they were written with")
    try:
        card = ModelCard.from_dict(json.loads(text))
    except json.JSONDecodeError as error:
        raise ModelFileError(f"its card is not JSON: {error}") from error
    if card.schema_version != version:
        raise ModelFileError(f"altered: its card is of schema {card.schema_version}, its header of {version}")
    return dataclasses.replace(card, hash=digest), arrays


def _contents(file: Any) -> tuple[str, str, Arrays]:
    members = {"card": _dataset(file, "card")}
    group = file["arrays"]
    if len(group) > _MOST_ARRAYS:
        raise ModelFileError(f"more than {_MOST_ARRAYS} arrays")
    members |= {f"arrays/{name}": _dataset(group, name) for name in group}
    if sum(dataset.nbytes for dataset in members.values()) > _MOST_BYTES:
        raise ModelFileError(f"it claims to hold more than {_MOST_BYTES >> 20} MiB")
    card = members.pop("card")
    if card.dtype != np.uint8 or card.ndim != 1:
        raise ModelFileError("its card is not text")
    arrays: Arrays = {}
    for name, dataset in members.items():
        if dataset.dtype not in _DTYPES:
            raise ModelFileError(f"{name} is of type {dataset.dtype}, not float16 or float32")
        arrays[name.removeprefix("arrays/")] = np.asarray(dataset[()])
    return card[()].tobytes().decode(), str(file.attrs["hash"]), arrays


def _dataset(group: Any, name: str) -> Any:
    """Return a dataset whose numbers are in this very file, stored as they are."""
    import h5py

    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ModelFileError(f"{name} is a link elsewhere")
    dataset = group[name]
    if not isinstance(dataset, h5py.Dataset):
        raise ModelFileError(f"{name} is not an array")
    # numbers kept in another file, or behind a filter that would have to be loaded from somewhere
    if dataset.external or dataset.is_virtual or dataset.id.get_create_plist().get_nfilters():
        raise ModelFileError(f"{name} is not stored plainly in the file")
    return dataset
