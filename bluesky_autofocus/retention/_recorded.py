"""Read from databroker what a run recorded of its frames, and where they are."""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname

import numpy as np

from bluesky_autofocus.frames import DATASET
from bluesky_autofocus.retention._policies import RecordedReading, RecordedRun, RecordedVerdict

__all__ = ["FrameFiles", "frame_files", "recorded_run"]


@dataclasses.dataclass(frozen=True)
class FrameFiles:
    """The frames of one camera in one stream.

    Parameters
    ----------
    stream, key : str
        Which these are.
    numbers : tuple of int
        Of the Event of each row of the file.
    path : Path or None
        The file. None where they are not in one that a `FrameWriter` wrote for this run, on this machine.
    """

    stream: str
    key: str
    numbers: tuple[int, ...]
    path: Path | None


def frame_files(uid: str, streams: Mapping[str, Any]) -> list[FrameFiles]:
    """Return where the frames of a run are.

    Parameters
    ----------
    uid : str
        Of the run.
    streams : mapping
        ``dict(run.items())``: each look at a run or a stream by name costs a request.
    """
    found = []
    for name, stream in streams.items():
        data_keys = stream.metadata["data_keys"]
        keys = [key for key, of in data_keys.items() if of.get("external") and len(of["shape"]) > 1]
        if keys:
            numbers = tuple(map(int, stream.read(["seq_num"])["seq_num"].values))
            found += [FrameFiles(name, key, numbers, _path(uid, stream[key])) for key in keys]
    return found


def _path(uid: str, images: Any) -> Path | None:
    source = images.data_sources()[0]
    if len(source.assets) != 1 or source.parameters.get("dataset") != DATASET:
        return None
    path = Path(url2pathname(unquote(urlparse(source.assets[0].data_uri).path)))
    # a file that several runs share is in nobody's folder
    return path if path.is_file() and path.parent.name == uid else None


def recorded_run(streams: Mapping[str, Any], files: list[FrameFiles]) -> RecordedRun:
    """Return what a run recorded of its frames: readings and verdicts."""
    readings = [
        reading
        for name, stream in streams.items()
        if name.startswith("reading_")
        for reading in _readings(stream, name.removeprefix("reading_"))
    ]
    return RecordedRun(
        frames={one.stream: frozenset(one.numbers) for one in files},
        readings=tuple(readings),
        verdicts=tuple(_verdicts(streams["verdict"])) if "verdict" in streams else (),
    )


def _readings(stream: Any, name: str) -> Iterator[RecordedReading]:
    said = ["event_uid", "stream", "seq_num", "position_um", "value", "unit", "accepted"]
    has_index = f"{name}_index" in stream.metadata["data_keys"]
    for row in _rows(stream, name, [*said, "index"] if has_index else said):
        believed = bool(row["accepted"])
        yield RecordedReading(
            event_uid=str(row["event_uid"]),
            stream=str(row["stream"]),
            seq_num=int(row["seq_num"]),
            position_um=float(row["position_um"]),
            defocus_um=float(row["value"]) if believed and row["unit"] == "um" else math.nan,
            index=float(row["index"]) if believed and has_index else math.nan,
        )


def _verdicts(stream: Any) -> Iterator[RecordedVerdict]:
    said = ["found", "position_um", "sigma_um", "event_uids", "parameters"]
    for row in _rows(stream, "verdict", said):
        depth_um = json.loads(row["parameters"]).get("depth_of_field_um")
        yield RecordedVerdict(
            found=bool(row["found"]),
            position_um=float(row["position_um"]),
            sigma_um=float(row["sigma_um"]),
            depth_of_field_um=math.nan if depth_um is None else float(depth_um),
            event_uids=frozenset(json.loads(row["event_uids"])),
        )


def _rows(stream: Any, name: str, fields: list[str]) -> Iterator[dict[str, Any]]:
    table = stream.read([f"{name}_{field}" for field in fields])
    columns = [np.asarray(table[f"{name}_{field}"].values) for field in fields]
    for values in zip(*columns, strict=True):
        yield dict(zip(fields, values, strict=True))
