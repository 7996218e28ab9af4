"""The plan that records which planes of focal stacks are in focus."""

import math
from collections import Counter
from collections.abc import Sequence
from numbers import Integral
from typing import Any

from bluesky import preprocessors as bpp
from bluesky.utils import CustomPlanMetadata, MsgGenerator, plan

from bluesky_autofocus.plans._exposing import _Record, _record, versions
from bluesky_autofocus.records import FocusLabel

__all__ = ["record_labels"]


@plan
def record_labels(
    labels: Sequence[FocusLabel], *, labels_of: str, labeller: str, md: CustomPlanMetadata | None = None
) -> MsgGenerator[None]:
    """Record where the focal stacks of another run are in focus; in a run of its own. Nothing moves.

    Each label is an Event of the stream ``label`` with ``label_field``, ``label_plane``,
    ``label_focus_um``, ``label_usable`` and ``label_note``. The metadata has all of them too, as ``labels``.
    Of an unusable stack the plane is -1 and the position NaN. A field may be labelled again by another run:
    the newest label counts (`bluesky_autofocus.dataset.labels_of`).

    Parameters
    ----------
    labels : sequence of FocusLabel
        One a field.
    labels_of : str
        Uid of the run that holds the stacks.
    labeller : str
        Who says so.
    md : dict, optional
        Metadata of the run; it wins over what the plan itself says.

    Raises
    ------
    ValueError
        If there are no labels, several of one field, or one that makes no sense; before the run is opened.
    """
    labels = list(labels)
    _check(labels)
    for name, text in (("labels_of", labels_of), ("labeller", labeller)):
        if not (isinstance(text, str) and text):
            raise ValueError(f"{name} must be a text that is not empty, got {text!r}")
    metadata = {
        "plan_name": "label",
        "labels_of": labels_of,
        "labeller": labeller,
        # The Events again: one query gives the metadata of all label runs, but their Events one by one.
        "labels": [_RecordedLabel(label).said() for label in labels],
        "num_points": len(labels),
        "versions": versions(),
        **(md or {}),
    }

    @bpp.run_decorator(md=metadata)
    def labelling() -> MsgGenerator[None]:
        for label in labels:
            yield from _record(_RecordedLabel(label), "label")

    yield from labelling()


def _check(labels: Sequence[FocusLabel]) -> None:
    if not labels:
        raise ValueError("labels must be one or more, got none")
    for label in labels:
        if not (isinstance(label.field, Integral) and label.field >= 0):
            raise ValueError(f"field must be the number of a field, 0 or more, got {label.field!r}")
        if not label.usable:
            continue
        if not (isinstance(label.plane, Integral) and label.plane >= 0):
            raise ValueError(
                f"plane must be the index of a plane, 0 or more, got {label.plane!r} for field {label.field}"
            )
        if not math.isfinite(label.focus_um):
            raise ValueError(
                f"focus_um must be finite where the stack is usable, got {label.focus_um!r} for field "
                f"{label.field}"
            )
    several = sorted(field for field, count in Counter(label.field for label in labels).items() if count > 1)
    if several:
        raise ValueError(f"labels must be one a field, got several for {several}")


class _RecordedLabel(_Record):
    def __init__(self, label: FocusLabel) -> None:
        super().__init__("label")
        self._label = label

    @property
    def hints(self) -> dict[str, list[str]]:
        return {"fields": ["label_focus_um"]}

    def said(self) -> dict[str, Any]:
        """Return the label for JSON, which has no number for what is not known."""
        return {key: None if value != value else value for key, value in self.fields().items()}

    def fields(self) -> dict[str, Any]:
        label = self._label
        return {
            "field": int(label.field),
            "plane": int(label.plane) if label.usable else -1,
            "focus_um": float(label.focus_um) if label.usable else math.nan,
            "usable": bool(label.usable),
            "note": str(label.note),
        }
