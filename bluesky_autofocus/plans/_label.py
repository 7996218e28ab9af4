"""The plan that records what a person says of the frames of another run."""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from numbers import Integral
from typing import Any

from bluesky import preprocessors as bpp
from bluesky.utils import CustomPlanMetadata, MsgGenerator, plan

from bluesky_autofocus.plans._exposing import _Record, _record, versions
from bluesky_autofocus.records import CLASS_INDICES, ClassLabel, FocusLabel

__all__ = ["record_labels"]


@plan
def record_labels(
    labels: Sequence[FocusLabel | ClassLabel],
    *,
    labels_of: str,
    labeller: str,
    md: CustomPlanMetadata | None = None,
) -> MsgGenerator[None]:
    """Record where the focal stacks of another run are in focus, or which class of focus its frames are of.

    In a run of its own; nothing moves. Each label is an Event. Where stacks are in focus goes to the stream
    ``label``, with ``label_field``, ``label_plane``, ``label_focus_um``, ``label_usable`` and ``label_note``;
    of an unusable stack the plane is -1 and the position NaN. Classes of frames go to the stream
    ``class_label``, whose keys begin with its name, with ``index`` in place of ``focus_um``; of an unusable
    frame it is NaN. The metadata has all labels too, as ``labels``, and which they are, as ``label_kind``:
    "focus" or "class".

    What is labelled may be labelled again by another run: the newest label counts
    (`bluesky_autofocus.dataset.labels_of`, `class_labels_of`).

    Parameters
    ----------
    labels : sequence of FocusLabel or of ClassLabel
        One a field, or one a frame.
    labels_of : str
        Uid of the run that holds the stacks or frames.
    labeller : str
        Who says so.
    md : dict, optional
        Metadata of the run; it wins over what the plan itself says.

    Raises
    ------
    ValueError
        If there are no labels, labels of both kinds, several of one field or frame, or one that makes no
        sense; before the run is opened.
    """
    recorded = _recorded(labels)
    for name, text in (("labels_of", labels_of), ("labeller", labeller)):
        if not (isinstance(text, str) and text):
            raise ValueError(f"{name} must be a text that is not empty, got {text!r}")
    metadata = {
        "plan_name": "label",
        "labels_of": labels_of,
        "labeller": labeller,
        "label_kind": recorded[0].kind,
        # The Events again: one query gives the metadata of all label runs, but their Events one by one.
        "labels": [label.said() for label in recorded],
        "num_points": len(recorded),
        "versions": versions(),
        **(md or {}),
    }

    @bpp.run_decorator(md=metadata)
    def labelling() -> MsgGenerator[None]:
        for label in recorded:
            yield from _record(label, label.name)

    yield from labelling()


class _RecordedLabel(_Record):
    """A label that makes sense, as an Event and as JSON."""

    kind: str
    one: str
    """Of what there is one label."""
    answer: str
    """The field of the label that may be unknown."""
    label: FocusLabel | ClassLabel

    @property
    def hints(self) -> dict[str, list[str]]:
        return {"fields": [f"{self.name}_{self.answer}"]}

    @property
    def place(self) -> Any:
        """What the label is of."""
        return self.label.field

    def said(self) -> dict[str, Any]:
        """Return the label for JSON, which has no number for what is not known."""
        said = dataclasses.asdict(self.label)
        return {key: None if value != value else value for key, value in said.items()}

    def fields(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self.label)
        answer = fields[self.answer]
        # nor has a column of a table None
        return {**fields, self.answer: math.nan if answer is None else float(answer)}


class _RecordedFocus(_RecordedLabel):
    kind, one, answer = "focus", "field", "focus_um"

    def __init__(self, label: FocusLabel) -> None:
        super().__init__("label")
        _check_number("field", label.field, f"for plane {label.plane}")
        plane, focus_um = -1, math.nan
        if label.usable:
            where = f"for field {label.field}"
            _check_number("plane", label.plane, where)
            if not math.isfinite(label.focus_um):
                raise ValueError(
                    f"focus_um must be finite where the stack is usable, got {label.focus_um!r} {where}"
                )
            plane, focus_um = int(label.plane), float(label.focus_um)
        self.label = FocusLabel(int(label.field), plane, focus_um, bool(label.usable), str(label.note))


class _RecordedClass(_RecordedLabel):
    kind, one, answer = "class", "frame", "index"

    def __init__(self, label: ClassLabel) -> None:
        super().__init__("class_label")
        _check_number("field", label.field, f"for plane {label.plane}")
        where = f"for field {label.field}"
        _check_number("plane", label.plane, where)
        index = None
        if label.usable:
            if not (isinstance(label.index, Integral) and label.index in CLASS_INDICES):
                low, high = CLASS_INDICES[0], CLASS_INDICES[-1]
                raise ValueError(
                    f"index must be {low} .. {high} where the frame is usable, got {label.index!r} {where}"
                )
            index = int(label.index)
        self.label = ClassLabel(
            int(label.field), int(label.plane), index, bool(label.usable), str(label.note)
        )

    @property
    def place(self) -> Any:
        return self.label.field, self.label.plane


def _check_number(name: str, number: int, where: str) -> None:
    if not (isinstance(number, Integral) and number >= 0):
        raise ValueError(f"{name} must be a whole number, 0 or more, got {number!r} {where}")


_RECORDS: dict[type, type] = {FocusLabel: _RecordedFocus, ClassLabel: _RecordedClass}


def _recorded(labels: Sequence[FocusLabel | ClassLabel]) -> list[_RecordedLabel]:
    """Check labels and return what records them."""
    kinds = {type(label) for label in labels}
    if len(kinds) != 1 or not kinds <= set(_RECORDS):
        got = ", ".join(sorted(kind.__name__ for kind in kinds)) or "none"
        raise ValueError(f"labels must be one or more, all FocusLabel or all ClassLabel, got {got}")
    (record,) = (_RECORDS[kind] for kind in kinds)
    recorded: list[_RecordedLabel] = [record(label) for label in labels]
    places = Counter(label.place for label in recorded)
    several = sorted(place for place, count in places.items() if count > 1)
    if several:
        raise ValueError(f"labels must be one a {recorded[0].one}, got several for {several}")
    return recorded
