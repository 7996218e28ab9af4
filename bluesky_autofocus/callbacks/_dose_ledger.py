"""What each field of a specimen has been exposed to, summed over the exposures of any runs."""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeAlias

from bluesky_autofocus.callbacks._place import place_in

__all__ = ["DoseLedger", "FieldDose"]

SAME_PLACE_UM = 1.0
"""Side of a field whose size is not known: more than a stage that comes back is off by."""

_Position: TypeAlias = tuple[float, ...]
_Name: TypeAlias = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class FieldDose:
    """What one field has been exposed to.

    Parameters
    ----------
    sample : str
        Of the start documents; empty where they name none.
    place : tuple
        Where its first exposure was taken: the position in um, or what it is called. Empty where the Events
        do not tell.
    exposures : int
        How many there were, those that a pause had taken again included.
    dose_s : float
        Seconds of exposure, of those that are recorded with their time.
    untimed : int
        How many are not: the dose is higher than it says.
    runs : tuple of str
        Uids of the runs that exposed it, in the order in which they came.
    """

    sample: str
    place: tuple[Any, ...]
    exposures: int
    dose_s: float
    untimed: int
    runs: tuple[str, ...]


@dataclasses.dataclass
class _Account:
    """What one run has exposed one field to."""

    exposures: int = 0
    dose_s: float = 0.0
    untimed: int = 0


class DoseLedger:
    """Sum the exposures of each field, live or over recorded runs.

    It goes by what every run records anyway: an Event with a frame is an exposure, ``*_exposure_s`` in it is
    what that cost, and the stage in it is where. So searches, corrections, scans and plans that know nothing
    of focusing count alike, and nothing can get out of step with the frames. Computed frames are no
    exposures; one that a pause broke off before its Event was saved is recorded nowhere, and not counted.

    Exposures of one sample whose places are no more than half a field apart, along each axis, are of one
    field: that of the first of them. Frames of another size are of another field, unless `field_um` is given.

    Parameters
    ----------
    keys : sequence of str, optional
        Keys that say where a frame was taken: positions in um, or names. By default the stage, known by keys
        that end in ``x`` and ``y`` and have a unit of length.
    field_um : float, optional
        Side of a field. By default it follows from frame and pixel size, where these are recorded
        (``*_pixel_size_um``); else places that are 1 um apart are different fields.

    Raises
    ------
    ValueError
        If the side is not positive and finite.
    """

    def __init__(self, *, keys: Sequence[str] | None = None, field_um: float | None = None) -> None:
        if field_um is not None and not (math.isfinite(field_um) and field_um > 0):
            raise ValueError(f"field_um must be positive and finite, got {field_um!r}")
        self._keys = None if keys is None else tuple(keys)
        self._field_um = field_um
        self._fields: list[tuple[str, tuple[Any, ...]]] = []
        self._near: dict[tuple[Any, ...], list[tuple[int, _Position]]] = {}
        self._accounts: list[dict[str, _Account]] = []
        self._starts: dict[str, Mapping[str, Any]] = {}
        self._descriptors: dict[str, Mapping[str, Any]] = {}

    @classmethod
    def of(cls, runs: Iterable[Any], **options: Any) -> Self:
        """Return the ledger of runs in databroker, such as ``db.values()``.

        Parameters
        ----------
        runs : iterable of databroker.client.BlueskyRun
            In the order in which they were taken.
        options
            Of `DoseLedger`.
        """
        ledger = cls(**options)
        for run in runs:
            for name, doc in _documents(run):
                ledger(name, doc)
        return ledger

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take in a document."""
        if name == "start" and not doc.get("computed"):
            self._starts[doc["uid"]] = doc
        elif name == "descriptor" and doc["run_start"] in self._starts and _image_shape(doc) is not None:
            self._descriptors[doc["uid"]] = doc
        elif name == "event" and doc["descriptor"] in self._descriptors:
            self._exposed(self._descriptors[doc["descriptor"]], doc["data"])
        elif name == "stop":
            run = doc["run_start"]
            self._starts.pop(run, None)
            self._descriptors = {u: d for u, d in self._descriptors.items() if d["run_start"] != run}

    @property
    def fields(self) -> list[FieldDose]:
        """The dose of each field over all runs, in the order in which they were exposed first."""
        return [self._sum(field, self._accounts[field]) for field in range(len(self._fields))]

    def of_run(self, uid: str) -> list[FieldDose]:
        """Return what one run exposed each field to."""
        return [
            self._sum(field, {uid: accounts[uid]})
            for field, accounts in enumerate(self._accounts)
            if uid in accounts
        ]

    def _sum(self, field: int, accounts: Mapping[str, _Account]) -> FieldDose:
        sample, place = self._fields[field]
        return FieldDose(
            sample,
            place,
            sum(account.exposures for account in accounts.values()),
            math.fsum(account.dose_s for account in accounts.values()),
            sum(account.untimed for account in accounts.values()),
            tuple(accounts),
        )

    def _exposed(self, descriptor: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        configuration = descriptor.get("configuration", {}).values()
        recorded = {key: value for of in configuration for key, value in of.get("data", {}).items()}
        recorded.update(data)
        run = descriptor["run_start"]
        position, name = self._where(descriptor["data_keys"], recorded)
        field = self._field(
            _sample(self._starts[run]), position, name, self._sides_um(descriptor, recorded, position)
        )
        account = self._accounts[field].setdefault(run, _Account())
        account.exposures += 1
        times_s = [value for key, value in recorded.items() if key.endswith("_exposure_s")]
        if times_s:
            account.dose_s += math.fsum(times_s)
        else:
            account.untimed += 1

    def _where(self, data_keys: Mapping[str, Any], recorded: Mapping[str, Any]) -> tuple[_Position, _Name]:
        """Return position and name of the place of an exposure, one of them or both empty."""
        if self._keys is None:
            place = place_in(data_keys, recorded)
            return ((place.x_um, place.y_um), ()) if place.known else ((), place.key or ())
        values = [recorded[key] for key in self._keys if key in recorded]
        if len(values) < len(self._keys):
            return (), ()
        names = tuple(value for value in values if isinstance(value, str))
        return tuple(float(value) for value in values if not isinstance(value, str)), names

    def _sides_um(
        self, descriptor: Mapping[str, Any], recorded: Mapping[str, Any], position: _Position
    ) -> _Position:
        if self._field_um is not None:
            return (self._field_um,) * len(position)
        pixels_um = [value for key, value in recorded.items() if key.endswith("pixel_size_um")]
        shape = _image_shape(descriptor)
        if len(pixels_um) != 1 or shape is None or len(position) != 2:
            return (SAME_PLACE_UM,) * len(position)
        rows, columns = shape
        return columns * pixels_um[0], rows * pixels_um[0]

    def _field(self, sample: str, position: _Position, name: _Name, sides_um: _Position) -> int:
        """Return the number of the field that a place belongs to."""
        # places within half a field lie in the same cell of this grid or in one next to it
        cell = tuple(math.floor(at / side) for at, side in zip(position, sides_um, strict=True))
        for near in itertools.product(*((at - 1, at, at + 1) for at in cell)):
            for field, centre in self._near.get((sample, name, sides_um, near), ()):
                if all(
                    abs(at - of) <= side / 2 for at, of, side in zip(position, centre, sides_um, strict=True)
                ):
                    return field
        self._fields.append((sample, (*name, *position)))
        self._accounts.append({})
        field = len(self._fields) - 1
        self._near.setdefault((sample, name, sides_um, cell), []).append((field, position))
        return field


def _sample(start: Mapping[str, Any]) -> str:
    sample = start.get("sample", "")
    return str(sample.get("name", sample) if isinstance(sample, Mapping) else sample)


def _image_shape(descriptor: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return rows and columns of the frames of a stream; None where it has none."""
    for data_key in descriptor["data_keys"].values():
        shape = data_key.get("shape") or ()
        if data_key["dtype"] == "array" and len(shape) >= 2:
            rows, columns = shape[-2:] if shape[-1] > 4 or len(shape) == 2 else shape[-3:-1]
            return int(rows), int(columns)
    return None


def _documents(run: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the documents of a recorded run, with all Events.

    Of exposures that were taken again after a pause databroker gives the Event of the last one only. The
    table of the stream has a row of each.
    """
    documents = list(run.documents())
    streams = {doc["uid"]: doc["name"] for name, doc in documents if name == "descriptor"}
    events = Counter(streams[doc["descriptor"]] for name, doc in documents if name == "event")
    rows = Counter[str]()
    for name, doc in documents:
        if name == "stream_datum":
            indices = doc["indices"]
            stream = streams[doc["descriptor"]]
            rows[stream] = max(rows[stream], indices["stop"])
    again = {stream for stream in rows if rows[stream] > events[stream] > 0}
    for name, doc in documents:
        if name == "event" and streams[doc["descriptor"]] in again:
            continue
        yield name, doc
        if name == "descriptor" and doc["name"] in again:
            yield from (("event", event) for event in _rows(run, doc))


def _rows(run: Any, descriptor: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield an Event for each row of the table of a stream."""
    keys = [key for key, data in descriptor["data_keys"].items() if not data.get("external")]
    table = run[descriptor["name"]].read(keys)
    for values in zip(*(table[key].values.tolist() for key in keys), strict=True):
        yield {"descriptor": descriptor["uid"], "data": dict(zip(keys, values, strict=True))}
