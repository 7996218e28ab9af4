"""Find focal stacks in the catalogue, and where their frames are."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.frames import read_frame
from bluesky_autofocus.optics import LightOptics

__all__ = ["DatasetError", "Recorded", "Stack", "completed_fields", "find_collections", "recorded_fields"]

PLAN_NAME = "collect_focal_stacks"


class DatasetError(ValueError):
    """The catalogue does not hold what a data set was to be made of."""


def find_collections(
    client: Any,
    *,
    samples: Sequence[str] | None = None,
    collections: Sequence[str] | None = None,
    since: Any = None,
    until: Any = None,
) -> list[Any]:
    """Return the runs that hold focal stacks.

    Parameters
    ----------
    client : databroker.client.CatalogOfBlueskyRuns
        ``db``, or the client of `open_catalog`.
    samples, collections : sequence of str, optional
        Only of these.
    since, until : str, float or datetime, optional
        As for `databroker.queries.TimeRange`.

    Returns
    -------
    list of BlueskyRun
        Oldest first.

    Raises
    ------
    DatasetError
        If there is none; naming the samples that there are.
    """
    from databroker.queries import TimeRange
    from tiled.queries import In, Key

    everything = client.search(Key("plan_name") == PLAN_NAME)
    found = everything
    for key, wanted in (("sample", samples), ("collection", collections)):
        if isinstance(wanted, str):
            raise ValueError(f"{key}s is {wanted!r}: expected a list of names")
        if wanted is not None:
            found = found.search(In(key, list(wanted)))
    if since is not None or until is not None:
        found = found.search(TimeRange(since=since, until=until))
    runs = sorted(found.values(), key=lambda run: run.start["time"])
    if not runs:
        asked = {"samples": samples, "collections": collections, "since": since, "until": until}
        said = ", ".join(f"{key}={value!r}" for key, value in asked.items() if value is not None)
        there = sorted({str(run.start.get("sample")) for run in everything.values()})
        raise DatasetError(
            f"no run of {PLAN_NAME} in the catalogue{f' has {said}' if said else ''}; "
            + (f"there are runs of the samples {', '.join(there)}" if there else "there is none at all")
        )
    return runs


def completed_fields(client: Any, collection: str) -> set[int]:
    """Return the numbers of the fields that are complete in any run of a collection.

    Raises
    ------
    DatasetError
        If there is no such collection.
    """
    return {
        int(number)
        for run in find_collections(client, collections=[collection])
        for number in _complete_in(run)
    }


def _complete_in(run: Any) -> list[int]:
    if "field" not in run:  # it ended before its first field was complete
        return []
    return [int(number) for number in run["field"].read(["field_number"])["field_number"].values]


@dataclasses.dataclass(frozen=True)
class Stack:
    """Where the frames of one field under one illumination are: all that a worker needs to be told."""

    resource: Mapping[str, Any]
    rows: tuple[int, ...]
    positions_um: tuple[float, ...]
    pattern: str
    na_xy: tuple[float, float]

    def frames(self) -> Iterator[NDArray]:
        for row in self.rows:
            yield read_frame(self.resource, row)


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A field as the catalogue has it."""

    run: str
    number: int
    collection: str
    sample: str
    stacks: Mapping[str, Stack]
    optics: LightOptics | None


def recorded_fields(runs: Iterable[Any], image_key: str | None) -> list[Recorded]:
    """Return the complete fields of runs; of a field that several of them hold, the newest."""
    newest: dict[tuple[str, int], Recorded] = {}
    for run in runs:
        complete = set(_complete_in(run))
        if complete:
            for field in _fields_of(run, complete, image_key):
                newest[field.collection, field.number] = field
    return list(newest.values())


def _fields_of(run: Any, complete: set[int], image_key: str | None) -> Iterator[Recorded]:
    start, stream = run.start, run["stack"]
    data_keys: dict[str, Any] = {}
    for descriptor in stream.descriptors:
        data_keys |= descriptor["data_keys"]
    images = [
        key for key, of in data_keys.items() if of.get("external") == "STREAM:" and len(of["shape"]) > 1
    ]
    key = image_key or (images[0] if len(images) == 1 else None)
    if key not in images:
        raise DatasetError(f"run {start['uid'][:8]} has the images {images}: choose an image_key of them")
    axis = start["motors"][0]
    wanted = ["seq_num", axis, "field_number", "field_pattern"]
    lights = [one.removesuffix("_na_x") for one in data_keys if one.endswith("_na_x")]
    light = lights[0] if len(lights) == 1 else None
    optics_keys = {
        field.name: [one for one in data_keys if one.endswith(f"_{field.name}")]
        for field in dataclasses.fields(LightOptics)
    }
    wanted += [] if light is None else [f"{light}_na_x", f"{light}_na_y"]
    wanted += [one for ones in optics_keys.values() for one in ones]
    table = stream.read(wanted)
    # Rows of the file and of the table correspond; of an Event that was taken again the last counts. As
    # `rows_of_events` has it, without asking the catalogue once more.
    newest = {int(number): row for row, number in enumerate(table["seq_num"].values)}
    rows = np.array([newest[number] for number in sorted(newest)])
    numbers, patterns = (np.asarray(table[f"field_{one}"].values)[rows] for one in ("number", "pattern"))
    z = np.asarray(table[axis].values, float)[rows]
    directions = (
        np.full((len(rows), 2), np.nan)
        if light is None
        else np.stack([np.asarray(table[f"{light}_na_{one}"].values, float)[rows] for one in "xy"], axis=1)
    )
    resource = _resource(run, key)
    for number in sorted(complete):
        of_field = numbers == number
        stacks = {}
        for index, text in enumerate(start["patterns"]):
            chosen = np.flatnonzero(of_field & (patterns == index))
            direction = directions[chosen].mean(axis=0)
            stacks[text] = Stack(
                resource,
                tuple(rows[chosen].tolist()),
                tuple(z[chosen].tolist()),
                text,
                (float(direction[0]), float(direction[1])),
            )
        yield Recorded(
            run=start["uid"],
            number=number,
            collection=start["collection"],
            sample=start["sample"],
            stacks=stacks,
            optics=_optics_of(start, table, optics_keys, rows[of_field]),
        )


def _resource(run: Any, key: str) -> dict[str, Any]:
    """Return what `read_frame` needs to know."""
    source = run["stack", key].data_sources()[0]
    return {
        "uid": "",
        "data_key": key,
        "uri": source.assets[0].data_uri,
        "parameters": {"dataset": source.parameters["dataset"]},
    }


def _optics_of(
    start: Mapping[str, Any], table: Any, keys: Mapping[str, list[str]], rows: NDArray
) -> LightOptics | None:
    """Return the optics of a field: as its Events have them, else as the run's metadata do."""
    said = dict(start.get("optics") or {})
    for name, found in keys.items():
        values = {float(value) for key in found for value in np.asarray(table[key].values)[rows]}
        if len(values) > 1:
            raise DatasetError(f"{name} changes within a field of run {start['uid'][:8]}: {sorted(values)}")
        if values:
            said[name] = values.pop()
    return LightOptics(**said) if said else None
