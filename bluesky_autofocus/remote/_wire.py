"""How documents and readings travel: as data, never as code.

bluesky's 0MQ classes pickle unless told otherwise, and who can reach a socket that unpickles can run whatever
he likes. Here documents are msgpack, arrays in them as their type, shape and bytes; and a reading is built
only of frozen dataclasses and enumerations of this package that the receiver has loaded already.
"""

import dataclasses
import enum
import hashlib
import json
import sys
from typing import Any

import msgpack
import numpy as np

from bluesky_autofocus.callbacks import Analysis
from bluesky_autofocus.records import Reading

__all__ = ["decode_reading", "encode_reading", "pack", "settings_of", "unpack"]

_ARRAY = "__ndarray__"
_NUMBERS = "biuf"
"""Kinds of arrays that travel: truth values and real numbers."""
_PACKAGE = "bluesky_autofocus."


def pack(doc: Any) -> bytes:
    """Return a document as bytes."""
    return msgpack.packb(doc, default=_plain)  # type: ignore[return-value] - bytes, as no stream is given


def unpack(message: bytes) -> Any:
    """Return the document that `pack` has made bytes of.

    Raises
    ------
    ValueError
        If they are none.
    """
    return msgpack.unpackb(message, object_hook=_array)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in _NUMBERS:
            return value.tolist()
        return {_ARRAY: [value.dtype.str, list(value.shape), np.ascontiguousarray(value).tobytes()]}
    if isinstance(value, set | frozenset):
        return list(value)
    # text of whatever else a start document may hold: nobody needs it there
    return str(value)


def _array(found: dict[str, Any]) -> Any:
    if _ARRAY not in found:
        return found
    text, shape, data = found[_ARRAY]
    dtype = np.dtype(text)
    if dtype.kind not in _NUMBERS:
        raise ValueError(f"no array of {dtype} is taken from a message")
    return np.frombuffer(data, dtype).reshape(shape)


def settings_of(analysis: Analysis) -> str:
    """Return a hash of all that the readings of an analysis depend on."""
    said = json.dumps([analysis.parameters, analysis.model_hash], sort_keys=True, default=str)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def encode_reading(reading: Reading) -> str:
    """Return a reading, with whatever its kind has beside, as text; numbers keep their last bit."""
    return json.dumps(_encoded(reading))


def _encoded(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return {"is": _name_of(type(value)), "value": value.value}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _encoded(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"is": _name_of(type(value)), "fields": fields}
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": value.dtype.str}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple | list):
        return {"tuple" if isinstance(value, tuple) else "list": [_encoded(item) for item in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a reading that travels holds no {type(value).__name__}")


def decode_reading(text: str) -> Reading:
    """Return the reading that `encode_reading` has made text of.

    Raises
    ------
    ValueError
        If it is none, or is made of what is unknown here.
    """
    try:
        reading = _decoded(json.loads(text))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"this is no reading: {error}") from error
    if not isinstance(reading, Reading):
        raise ValueError(f"this is no reading but a {type(reading).__name__}")
    return reading


def _decoded(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "array" in value:
        dtype = np.dtype(value["dtype"])
        if dtype.kind not in _NUMBERS:
            raise ValueError(f"no array of {dtype} is part of a reading")
        return np.array(value["array"], dtype)
    if "tuple" in value:
        return tuple(_decoded(item) for item in value["tuple"])
    if "list" in value:
        return [_decoded(item) for item in value["list"]]
    kind = _kind_named(value["is"])
    if issubclass(kind, enum.Enum):
        return kind(value["value"])
    return kind(**{name: _decoded(item) for name, item in value["fields"].items()})


def _name_of(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _kind_named(name: str) -> Any:
    """Return a class of values of this package; nothing is imported for it."""
    module, _, qualname = name.partition(":")
    kind = getattr(sys.modules.get(module), qualname, None) if module.startswith(_PACKAGE) else None
    if isinstance(kind, type):
        if issubclass(kind, enum.Enum):
            return kind
        if dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            return kind
    raise ValueError(f"a reading holds no {name}")
