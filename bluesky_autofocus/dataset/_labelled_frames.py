"""Frames of recorded runs with their class of focus, to train and to judge a network of classes by."""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.dataset._collections import DatasetError
from bluesky_autofocus.dataset._labels import FieldStack, class_labels_of, field_stacks, labels_of
from bluesky_autofocus.models.hh_net.classes import ClassTable
from bluesky_autofocus.records import ClassLabel, FocusLabel

__all__ = ["LabelledFrame", "labelled_frames"]

RECORDED_DEFOCUS = "_truth_defocus_um"
"""What the key of an instrument ends in that knows how far from focus each frame was taken."""


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledFrame:
    """A frame of a run, the class of focus that it is of, and how far from focus it was taken.

    Parameters
    ----------
    run : str
        Uid of the run.
    field, plane : int
        Which frame it is, as labels name it.
    row : int
        Of the frame in its stream.
    index : int
        Distance index of its class, 4 to -2.
    defocus_um : float
        NaN where nobody knows.
    source : str
        Who says so: "class", a person who sorted the frames; "focus", a person who said which plane of the
        stack is in focus; "truth", a simulator.
    """

    run: str
    field: int
    plane: int
    row: int
    index: int
    defocus_um: float
    source: str
    _stack: FieldStack
    _place: int

    @property
    def still(self) -> bool:
        """Whether it is no plane of a stack: then the other frames of the run show other fields."""
        return math.isnan(self._stack.positions_um[self._place])

    def read(self) -> NDArray:
        """Return the frame, shape (H, W) or (H, W, 3)."""
        return self._stack.frame(self._place)


def labelled_frames(
    catalog: Any,
    runs: Sequence[str],
    table: ClassTable,
    *,
    image_key: str | None = None,
    axis_sign: int = 1,
    person_only: bool = False,
) -> list[LabelledFrame]:
    """Return the frames of runs whose class of focus somebody knows; each is read when it is asked for.

    What a person said of a frame itself counts first (``label --classes``), then where a person said that the
    focus of its stack is (``label``), then what a simulator knew: a key that ends in ``_truth_defocus_um``,
    else the `truth` of `collect_focal_stacks`. Left out are frames that are nearer to the specimen than the
    table has classes for, and what a person called unusable: a frame, or all frames of a stack but those
    that were sorted themselves.

    Parameters
    ----------
    catalog : databroker.client.CatalogOfBlueskyRuns
        ``db``, or the client of `open_catalog`.
    runs : sequence of str
        Uids, or their first characters. Any runs with images; of a collection the fields that are complete.
    table : ClassTable
        Which defocus each class means.
    image_key : str, optional
        Which image, where there are several cameras.
    axis_sign : int
        -1 where the axis runs downwards.
    person_only : bool
        Whether what a simulator knew does not count.

    Returns
    -------
    list of LabelledFrame
        Run by run and field by field, ordered as in `field_stacks`.

    Raises
    ------
    DatasetError
        If a run is unknown or holds no images, or no frame is left.
    ValueError
        If the sign is not 1 or -1.
    """
    if axis_sign not in (1, -1):
        raise ValueError(f"axis_sign is {axis_sign!r}: expected 1 or -1")
    chosen: list[LabelledFrame] = []
    left_out: Counter[str] = Counter()
    for uid in dict.fromkeys(runs):
        by_class, by_focus = class_labels_of(catalog, uid), labels_of(catalog, uid, person_only=True)
        run = catalog[uid]
        stacks = field_stacks(run, image_key=image_key, still=True)
        (stream,) = {stack.stream for stack in stacks.values()}
        truth_um = None if person_only else _true_defocus_um(run, stream, axis_sign)
        for stack in stacks.values():
            for place, (plane, row) in enumerate(zip(stack.planes, stack.rows, strict=True)):
                focus = by_focus.get(stack.number)
                known = _known(
                    by_class.get((stack.number, plane)),
                    focus,
                    math.nan if focus is None else axis_sign * (stack.positions_um[place] - focus.focus_um),
                    math.nan if truth_um is None else float(truth_um[row]),
                    table,
                )
                if isinstance(known, str):
                    left_out[known] += 1
                else:
                    chosen.append(
                        LabelledFrame(run.start["uid"], stack.number, plane, row, *known, stack, place)
                    )
    if not chosen:
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "no runs were given"
        raise DatasetError(f"there is no frame of a known class of focus: {why}")
    return chosen


def _known(
    label: ClassLabel | None,
    focus: FocusLabel | None,
    from_focus_um: float,
    true_um: float,
    table: ClassTable,
) -> tuple[int, float, str] | str:
    """Return the index of a frame, its defocus and who says so; or why it is left out."""
    if label is not None:
        return "labelled as unusable" if label.index is None else (label.index, math.nan, "class")
    if focus is not None and not focus.usable:
        return "of stacks labelled as unusable"
    defocus_um, source = (true_um, "truth") if focus is None else (from_focus_um, "focus")
    if not math.isfinite(defocus_um):
        return "not labelled"
    if defocus_um < table.limit_um:
        return f"nearer than {table.limit_um:g} um"
    return table.index_of(defocus_um), defocus_um, source


def _true_defocus_um(run: Any, stream: str, axis_sign: int) -> NDArray | None:
    """Return how far from focus each frame of a stream was taken, as a simulator knew it."""
    keys = [
        key
        for descriptor in run[stream].descriptors
        for key in descriptor["data_keys"]
        if key.endswith(RECORDED_DEFOCUS)
    ]
    if len(set(keys)) > 1:
        raise DatasetError(f"run {run.start['uid'][:8]} knows several defocuses: {sorted(set(keys))}")
    if keys:
        return np.asarray(run[stream].read(keys[:1])[keys[0]].values, float)
    truth, axis = run.start.get("truth_key"), (run.start.get("motors") or [None])[0]
    if truth is None or axis is None:
        return None
    table = run[stream].read([axis, truth])
    return axis_sign * (np.asarray(table[axis].values, float) - np.asarray(table[truth].values, float))
