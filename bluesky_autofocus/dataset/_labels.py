"""Focal stacks, where they are in focus, as persons and simulators say, and classes of their frames."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.dataset._collections import DatasetError, recorded_fields
from bluesky_autofocus.frames import read_frame
from bluesky_autofocus.records import ClassLabel, FocusLabel

__all__ = ["FieldStack", "class_labels_of", "field_stacks", "labels_of", "true_labels"]

OUTSIDE = "focus lies outside the stack"
"""The note of a label by a simulator whose focus no plane is near."""


@dataclasses.dataclass(frozen=True, eq=False)
class FieldStack:
    """The planes of the focal stack of one field, from the lowest to the highest.

    Parameters
    ----------
    number : int
        Of the field; 0 in a run of one stack.
    planes : tuple of int
        Index of each plane, as labels name it: ``field_plane`` where the run has it, else its place in this
        order.
    positions_um : tuple of float
        Where the axis stood, ascending. NaN where no axis alone tells the frames apart
        (`field_stacks` with `still`): they are in order of exposure then.
    rows : tuple of int
        Of the frames in their stream.
    """

    number: int
    planes: tuple[int, ...]
    positions_um: tuple[float, ...]
    rows: tuple[int, ...]
    _frames: "_Frames"

    def __len__(self) -> int:
        return len(self.planes)

    @property
    def stream(self) -> str:
        """Name of the stream that holds the frames."""
        return self._frames.stream

    def frame(self, index: int) -> NDArray:
        """Return the frame of the index-th plane from below, shape (H, W) or (H, W, 3)."""
        return self._frames[self.rows[index]]

    def frames(self) -> Iterator[NDArray]:
        """Yield all frames, the lowest first."""
        return (self.frame(index) for index in range(len(self)))

    def label(self, index: int, note: str = "") -> FocusLabel:
        """Return the label that the index-th plane from below is in focus."""
        return FocusLabel(self.number, self.planes[index], self.positions_um[index], note=note)


class _Frames:
    """Frames of a stream by their row: from their file where it is here, else from the server."""

    def __init__(self, run: Any, stream: str, key: str, resource: Mapping[str, Any] | None) -> None:
        self._run, self.stream, self._key, self._resource = run, stream, key, resource

    def __getstate__(self) -> dict[str, Any]:
        # a connection to a server does not travel; to a worker of a cluster the file has to be at hand
        return {**self.__dict__, "_run": None}

    def __getitem__(self, row: int) -> NDArray:
        if self._resource is not None:
            try:
                return _picture(read_frame(self._resource, row))
            except FileNotFoundError:
                if self._run is None:
                    raise
                self._resource = None
        return _picture(np.asarray(self._run[self.stream, self._key][row]))


def _picture(frame: NDArray) -> NDArray:
    """Drop the leading axes of length 1 that some detectors write."""
    while frame.ndim > 2 and frame.shape[0] == 1:
        frame = frame[0]
    return frame


def field_stacks(run: Any, *, image_key: str | None = None, still: bool = False) -> dict[int, FieldStack]:
    """Return the focal stacks that a run holds, by the number of their field.

    Of a run of `collect_focal_stacks` these are the fields that are complete, under the first of its
    illuminations. Any other run with a stream of images and one axis that moved holds one stack, number 0:
    a scan, an autofocus. Where several streams are such, the one that saw most positions counts.

    Parameters
    ----------
    run : databroker.client.BlueskyRun
        ``db[-1]``.
    image_key : str, optional
        Which image, where there are several cameras.
    still : bool
        Take frames that are no stack too, where none or several axes moved. They count as one field, number
        0, of planes in order of exposure, without positions.

    Raises
    ------
    DatasetError
        If there is no stack in the run; saying what is missing.
    """
    if "patterns" not in run.start or "collection" not in run.start:
        return {0: _scanned(run, image_key, still)}
    fields = recorded_fields([run], image_key)
    if not fields:
        raise DatasetError(f"run {run.start['uid'][:8]} holds no field that is complete")
    stacks = {}
    for field in fields:
        stack = field.stacks[run.start["patterns"][0]]
        frames = _Frames(run, "stack", stack.resource["data_key"], stack.resource)
        in_order = np.argsort(stack.positions_um, kind="stable")
        stacks[field.number] = FieldStack(
            number=field.number,
            planes=tuple(in_order.tolist()),
            positions_um=tuple(stack.positions_um[index] for index in in_order),
            rows=tuple(stack.rows[index] for index in in_order),
            _frames=frames,
        )
    return dict(sorted(stacks.items()))


def _scanned(run: Any, image_key: str | None, still: bool) -> FieldStack:
    """Return the one stack of a run that is no collection."""
    start = run.start
    dimensions = [key for keys, _ in start.get("hints", {}).get("dimensions", []) for key in keys]
    axes = list(dict.fromkeys([*dimensions, *(start.get("motors") or [])]))
    stacks, missing = [], []
    for stream in run:
        data_keys = _data_keys(run[stream])
        images = [
            key for key, of in data_keys.items() if of.get("external") == "STREAM:" and len(of["shape"]) > 1
        ]
        if not images:
            continue
        if image_key is None and len(images) > 1:
            missing.append(f"stream {stream} has the images {images}, choose an image_key of them")
            continue
        key = image_key or images[0]
        if key not in images:
            missing.append(f"stream {stream} has no image {key}, only {images}")
            continue
        read = [axis for axis in axes if axis in data_keys]
        table = run[stream].read(["seq_num", *read])
        newest = {int(number): row for row, number in enumerate(table["seq_num"].values)}
        rows = np.array([newest[number] for number in sorted(newest)])
        positions = {axis: np.asarray(table[axis].values, float)[rows] for axis in read}
        moved = {axis: at for axis, at in positions.items() if np.ptp(at) > 0}
        if len(moved) == 1:
            ((_, positions_um),) = moved.items()
        elif still:
            positions_um = np.full(len(rows), math.nan)
        else:
            missing.append(f"in stream {stream} the axes that moved are {list(moved)} of {axes}, not one")
            continue
        frames = _Frames(run, stream, key, _resource_or_none(run, stream, key))
        in_order = np.argsort(positions_um, kind="stable")
        stacks.append(
            FieldStack(
                number=0,
                planes=tuple(range(len(rows))),
                positions_um=tuple(positions_um[in_order].tolist()),
                rows=tuple(rows[in_order].tolist()),
                _frames=frames,
            )
        )
    if not stacks:
        why = "; ".join(missing) or "no stream has images"
        raise DatasetError(f"run {start['uid'][:8]} ({start.get('plan_name')}) holds no focal stack: {why}")
    return max(stacks, key=lambda stack: (_positions(stack), len(stack)))


def _positions(stack: FieldStack) -> int:
    return len({position for position in stack.positions_um if math.isfinite(position)})


def _data_keys(stream: Any) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for descriptor in stream.descriptors:
        keys |= descriptor["data_keys"]
    return keys


def _resource_or_none(run: Any, stream: str, key: str) -> dict[str, Any] | None:
    """Return what `read_frame` needs to know; None for files that it does not read."""
    source = run[stream, key].data_sources()[0]
    if "dataset" not in source.parameters or not source.assets:
        return None
    return {
        "uid": "",
        "data_key": key,
        "uri": source.assets[0].data_uri,
        "parameters": {"dataset": source.parameters["dataset"]},
    }


def true_labels(run: Any) -> dict[int, FocusLabel]:
    """Return where the fields of a run are in focus as its simulator knew it, by number.

    The position is the median of what was read in the course of the stack; the plane is the nearest one. A
    stack that focus lies outside of, by more than half of its largest step, or whose truth is not a finite
    number, is not usable.

    Parameters
    ----------
    run : databroker.client.BlueskyRun
        Of `collect_focal_stacks`.

    Returns
    -------
    dict
        Of the fields that are complete; empty where the run recorded no truth.
    """
    key = run.start.get("truth_key")
    if key is None or "field" not in run:
        return {}
    complete = {int(number) for number in run["field"].read(["field_number"])["field_number"].values}
    axis = run.start["motors"][0]
    table = run["stack"].read(["seq_num", axis, key, "field_number", "field_plane"])
    newest = {int(number): row for row, number in enumerate(table["seq_num"].values)}
    rows = np.array(sorted(newest.values()))
    numbers, planes = (np.asarray(table[f"field_{one}"].values)[rows] for one in ("number", "plane"))
    positions_um, truth_um = (np.asarray(table[one].values, float)[rows] for one in (axis, key))
    return {
        number: _true_label(number, planes[of], positions_um[of], truth_um[of])
        for number in sorted(complete)
        for of in [numbers == number]
    }


def _true_label(number: int, planes: NDArray, positions_um: NDArray, truth_um: NDArray) -> FocusLabel:
    focus_um = float(np.median(truth_um))
    if not math.isfinite(focus_um):
        return FocusLabel(number, -1, math.nan, usable=False, note=f"the truth reads {focus_um}")
    distance_um = np.abs(positions_um - focus_um)
    plane = int(planes[np.argmin(distance_um)])
    step_um = float(np.diff(np.unique(positions_um)).max(initial=0.0))
    if distance_um.min() > step_um / 2:
        return FocusLabel(number, plane, focus_um, usable=False, note=OUTSIDE)
    return FocusLabel(number, plane, focus_um)


def labels_of(catalog: Any, uid: str, *, person_only: bool = False) -> dict[int, FocusLabel]:
    """Return where the fields of a run are in focus, by number.

    Of a field that was labelled several times the newest label counts, and a person's before what a
    simulator knew.

    Parameters
    ----------
    catalog : databroker.client.CatalogOfBlueskyRuns
        ``db``, or the client of `open_catalog`.
    uid : str
        Of the run that holds the stacks, or its first characters.
    person_only : bool
        Leave out what a simulator knew.

    Raises
    ------
    DatasetError
        If there is no such run.
    """
    run = _run_of(catalog, uid)
    labels = {} if person_only else true_labels(run)
    for label in _recorded_labels(catalog, run, FocusLabel):
        labels[label.field] = label
    return dict(sorted(labels.items()))


def class_labels_of(catalog: Any, uid: str) -> dict[tuple[int, int], ClassLabel]:
    """Return which class of focus the frames of a run are of, by the numbers of their field and plane.

    Of a frame that was labelled several times the newest label counts.

    Parameters
    ----------
    catalog : databroker.client.CatalogOfBlueskyRuns
        ``db``, or the client of `open_catalog`.
    uid : str
        Of the run that holds the frames, or its first characters.

    Raises
    ------
    DatasetError
        If there is no such run.
    """
    labels = {
        (label.field, label.plane): label
        for label in _recorded_labels(catalog, _run_of(catalog, uid), ClassLabel)
    }
    return dict(sorted(labels.items()))


def _run_of(catalog: Any, uid: str) -> Any:
    try:
        return catalog[uid]
    except (KeyError, IndexError) as error:
        raise DatasetError(f"there is no run {uid!r} in the catalogue") from error


_Label = TypeVar("_Label", FocusLabel, ClassLabel)

_STREAMS = {FocusLabel: "label", ClassLabel: "class_label"}


def _recorded_labels(catalog: Any, run: Any, kind: type[_Label]) -> Iterator[_Label]:
    """Yield the labels of one kind that persons gave a run, the oldest first."""
    from tiled.queries import Key

    found = catalog.search(Key("labels_of") == run.start["uid"])
    if kind is ClassLabel:
        found = found.search(Key("label_kind") == "class")
    for one in sorted(found.values(), key=lambda run: run.start["time"]):
        # those of old say no kind: they are of where focus is
        if (one.start.get("label_kind") == "class") == (kind is ClassLabel):
            yield from _labels_in(one, kind)


def _labels_in(run: Any, kind: type[_Label]) -> Iterator[_Label]:
    stream, names = _STREAMS[kind], [field.name for field in dataclasses.fields(kind)]
    if "labels" in run.start and (run.metadata.get("stop") or {}).get("exit_status") == "success":
        # many label runs are read at once so: their Events would have to be asked for one by one
        said = [[label[name] for name in names] for label in run.start["labels"]]
    elif stream in run:
        table = run[stream].read([f"{stream}_{name}" for name in names])
        said = list(zip(*(table[f"{stream}_{name}"].values for name in names), strict=True))
    else:  # it ended before its first label
        return
    for field, plane, answer, usable, note in said:
        yield kind(int(field), int(plane), _answer(answer, kind), bool(usable), str(note))


def _answer(said: Any, kind: type) -> Any:
    """Return what a label answers; for what is unknown JSON has None and tables have NaN."""
    number = math.nan if said is None else float(said)
    if kind is FocusLabel:
        return number
    return None if math.isnan(number) else int(number)
