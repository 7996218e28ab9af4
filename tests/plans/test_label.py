"""Labels of focal stacks as documents."""

import dataclasses
import math

import numpy as np
import pytest
from bluesky.simulators import summarize_plan

from bluesky_autofocus.models.hh_net.classes import INDICES
from bluesky_autofocus.plans import record_labels
from bluesky_autofocus.records import CLASS_INDICES, ClassLabel, FocusLabel

LABELS = [
    FocusLabel(0, 4, -1.5),
    FocusLabel(3, 0, 2.0, note="two layers"),
    FocusLabel(7, 2, 9.0, usable=False),
]
CLASSES = [ClassLabel(0, 4, 4), ClassLabel(0, 3, -2, note="a speck"), ClassLabel(2, 0, None, usable=False)]
WHO = {"labels_of": "0123-abcd", "labeller": "Ada"}


def test_each_label_is_an_event(RE, documents):  # noqa: N803
    RE(record_labels(LABELS, **WHO, md={"sample": "slide 7"}))
    (start,) = documents.named("start")
    assert start["plan_name"] == "label"
    assert start["labels_of"] == "0123-abcd"
    assert start["labeller"] == "Ada"
    assert start["sample"] == "slide 7"
    assert start["labels"][1] == {
        "field": 3,
        "plane": 0,
        "focus_um": 2.0,
        "usable": True,
        "note": "two layers",
    }
    assert start["labels"][2] == {"field": 7, "plane": -1, "focus_um": None, "usable": False, "note": ""}
    assert start["num_points"] == 3
    assert start["label_kind"] == "focus"
    first, second, unusable = documents.events("label")
    assert first == {
        "label_field": 0,
        "label_plane": 4,
        "label_focus_um": -1.5,
        "label_usable": True,
        "label_note": "",
    }
    assert (second["label_field"], second["label_note"]) == (3, "two layers")
    assert (unusable["label_field"], unusable["label_plane"], unusable["label_usable"]) == (7, -1, False)
    assert math.isnan(unusable["label_focus_um"])
    assert documents.named("stop")[0]["exit_status"] == "success"


def test_one_label_or_many_have_the_same_types(RE, documents):  # noqa: N803
    RE(record_labels([FocusLabel(np.int64(2), np.int64(1), np.float32(0.5), np.True_)], **WHO))
    RE(record_labels(LABELS[2:], **WHO))
    one, other = (doc["data_keys"] for doc in documents.named("descriptor"))
    assert one == other
    assert {key: of["dtype"] for key, of in one.items()} == {
        "label_field": "integer",
        "label_plane": "integer",
        "label_focus_um": "number",
        "label_usable": "boolean",
        "label_note": "string",
    }
    assert [type(value) for value in documents.events("label")[0].values()] == [int, int, float, bool, str]


def test_each_class_of_a_frame_is_an_event(RE, documents):  # noqa: N803
    RE(record_labels(CLASSES, **WHO))
    (start,) = documents.named("start")
    assert (start["plan_name"], start["labels_of"], start["label_kind"]) == ("label", "0123-abcd", "class")
    assert start["labels"][1] == {"field": 0, "plane": 3, "index": -2, "usable": True, "note": "a speck"}
    assert start["labels"][2] == {"field": 2, "plane": 0, "index": None, "usable": False, "note": ""}
    first, second, unusable = documents.events("class_label")
    assert first == {
        "class_label_field": 0,
        "class_label_plane": 4,
        "class_label_index": 4.0,
        "class_label_usable": True,
        "class_label_note": "",
    }
    assert (second["class_label_index"], second["class_label_note"]) == (-2.0, "a speck")
    assert math.isnan(unusable["class_label_index"])
    (descriptor,) = documents.named("descriptor")
    assert descriptor["data_keys"]["class_label_index"]["dtype"] == "number"


def test_the_classes_are_those_of_the_network():
    assert sorted(INDICES) == list(CLASS_INDICES)


def test_nothing_is_done_but_recording(RE, messages):  # noqa: N803
    RE(record_labels(LABELS, **WHO))
    assert {msg.command for msg in messages} == {"open_run", "create", "read", "save", "close_run"}


def test_a_dry_run(capsys):
    summarize_plan(record_labels(LABELS, **WHO))
    assert capsys.readouterr().out.count("Read ['label']") == 3


@pytest.mark.parametrize(
    ("labels", "who", "said"),
    [
        ([], {}, "got none"),
        ([FocusLabel(1, 0, 0.0), FocusLabel(1, 2, 1.0)], {}, r"one a field, got several for \[1\]"),
        ([FocusLabel(1, 0, math.nan)], {}, "focus_um must be finite .* got nan for field 1"),
        ([FocusLabel(1, 0, math.inf)], {}, "focus_um must be finite"),
        ([FocusLabel(1, -1, 0.0)], {}, "plane must be .* got -1 for field 1"),
        ([FocusLabel(1, 0.5, 0.0)], {}, "plane must be"),
        ([FocusLabel(-1, 0, 0.0)], {}, "field must be .* got -1"),
        ([ClassLabel(1, 2, 0), ClassLabel(1, 2, 1)], {}, r"one a frame, got several for \[\(1, 2\)\]"),
        ([ClassLabel(1, 2, 5)], {}, r"index must be -2 \.\. 4 .* got 5 for field 1"),
        ([ClassLabel(1, 2, None)], {}, "index must be .* got None"),
        ([ClassLabel(1, -1, None, usable=False)], {}, "plane must be .* got -1"),
        ([LABELS[0], CLASSES[0]], {}, "all FocusLabel or all ClassLabel, got ClassLabel, FocusLabel"),
        (["sharp"], {}, "all FocusLabel or all ClassLabel, got str"),
        (LABELS, {"labels_of": ""}, "labels_of must be a text"),
        (LABELS, {"labeller": None}, "labeller must be a text"),
    ],
)
def test_bad_input_is_refused_before_the_run_is_opened(RE, documents, messages, labels, who, said):  # noqa: N803
    with pytest.raises(ValueError, match=said):
        RE(record_labels(labels, **{**WHO, **who}))
    assert not documents
    assert not messages


def test_a_label_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        LABELS[0].plane = 3
