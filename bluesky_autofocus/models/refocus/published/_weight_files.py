"""Weights of other networks, read from local files of which nothing is run."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["KINDS", "read_arrays"]

KINDS = (".npz", ".h5", ".hdf5", ".safetensors")
_DTYPES = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
"""Numbers of safetensors that are read; others, such as counters, are left out."""


def read_arrays(path: Path | str) -> dict[str, NDArray[Any]]:
    """Return the arrays of floating-point numbers in a file, by their names.

    Parameters
    ----------
    path : path
        ``.npz`` of NumPy, without objects; ``.h5``, whose arrays are named with the groups they are in,
        ``GROUP/NAME``, and links are not followed; or ``.safetensors``.

    Raises
    ------
    ValueError
        If there is no such file, or it is none of these, or damaged.
    """
    path = Path(path)
    readers = dict.fromkeys(KINDS, _of_hdf5) | {".npz": _of_npz, ".safetensors": _of_safetensors}
    if path.suffix not in readers:
        raise ValueError(f"the weights are {path.name}: expected a file of the kind {', '.join(KINDS)}")
    if not path.is_file():
        raise ValueError(f"there are no weights {path}: expected a file")
    try:
        arrays = readers[path.suffix](path)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"cannot read the weights {path}: {error}") from error
    return {name: array for name, array in arrays.items() if np.issubdtype(array.dtype, np.floating)}


def _of_npz(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _of_hdf5(path: Path) -> dict[str, NDArray[Any]]:
    import h5py

    arrays: dict[str, NDArray[Any]] = {}

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = np.asarray(item[()])

    with h5py.File(path, "r") as file:
        file.visititems(note)
    return arrays


def _of_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """Read the length of a header, the header in JSON, and behind it the numbers as they are."""
    stored = np.memmap(path, np.uint8, "r")
    length = int.from_bytes(stored[:8].tobytes(), "little")
    header, numbers = json.loads(stored[8 : 8 + length].tobytes()), stored[8 + length :]
    arrays: dict[str, NDArray[Any]] = {}
    for name, said in header.items():
        if name != "__metadata__" and said["dtype"] in _DTYPES:
            first, last = said["data_offsets"]
            arrays[name] = numbers[first:last].view(_DTYPES[said["dtype"]]).reshape(said["shape"])
    return arrays
