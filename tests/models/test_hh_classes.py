"""From a defocus in um to one of seven classes, and back."""

import dataclasses
import json
import math

import pytest

from bluesky_autofocus.models.hh_net.classes import (
    INDICES,
    NAMES,
    ClassTable,
    class_of,
    index_of_class,
    name_of,
)

TABLE = ClassTable.of_width(2.0)
# -2 from -5, -1 from -3, 0 from -1, 1 from 1, 2 from 3, 3 from 5, 4 from 7
UNEVEN = ClassTable((-20, -6, -1, 2, 4, 8, 16))


def test_the_classes_are_those_of_the_paper():
    assert dict(zip(INDICES, NAMES, strict=True)) == {
        4: "totally blurred",
        3: "out of focus III",
        2: "out of focus II",
        1: "out of focus I",
        0: "in focus",
        -1: "too close I",
        -2: "too close II",
    }
    for number, index in enumerate(INDICES):
        assert class_of(index) == number
        assert index_of_class(number) == index
        assert name_of(index) == NAMES[number]


@pytest.mark.parametrize("wrong", [5, -3, 0.5, math.nan])
def test_other_indices_are_refused(wrong):
    with pytest.raises(ValueError, match="the distance index is .*: expected one of 4, 3, 2, 1, 0, -1, -2"):
        class_of(wrong)


@pytest.mark.parametrize("wrong", [-1, 7])
def test_other_classes_are_refused(wrong):
    with pytest.raises(ValueError, match=f"the class is {wrong}: expected 0 to 6"):
        index_of_class(wrong)


def test_edges_of_one_width():
    assert TABLE.edges_um == (-5, -3, -1, 1, 3, 5, 7)
    assert ClassTable.of_width(2.0, limit_um=-9).edges_um == (-9, -3, -1, 1, 3, 5, 7)


@pytest.mark.parametrize(
    ("defocus_um", "index"),
    [
        (0, 0),
        (0.99, 0),
        (1.0, 1),  # an edge belongs to the class above
        (-1.0, 0),
        (-1.01, -1),
        (3.5, 2),
        (6.99, 3),
        (7.0, 4),
        (1e6, 4),
        (-3.0, -1),
        (-3.01, -2),
        (-5.0, -2),
    ],
)
def test_the_index_of_a_defocus(defocus_um, index):
    assert TABLE.index_of(defocus_um) == index


@pytest.mark.parametrize("wrong", [-5.01, -math.inf, math.inf, math.nan])
def test_below_the_limit_there_is_no_class(wrong):
    with pytest.raises(ValueError, match="defocus_um is .*: expected at least -5"):
        TABLE.index_of(wrong)


def test_the_defocus_of_an_index_is_the_middle_of_its_class():
    assert [TABLE.defocus_of(index) for index in INDICES] == [8, 6, 4, 2, 0, -2, -4]
    # (16 + 24) / 2, (8 + 16) / 2, (4 + 8) / 2, (2 + 4) / 2, (-1 + 2) / 2, (-6 - 1) / 2, (-20 - 6) / 2
    assert [UNEVEN.defocus_of(index) for index in INDICES] == [20, 12, 6, 3, 0.5, -3.5, -13]
    for table in (TABLE, UNEVEN):
        assert [table.index_of(table.defocus_of(index)) for index in INDICES] == list(INDICES)
    with pytest.raises(ValueError, match="the distance index is 5"):
        TABLE.defocus_of(5)


@pytest.mark.parametrize(
    ("defocus_um", "share", "near"),
    [
        (1.09, 0.05, True),  # within 0.05 x 2 um of the edge at 1
        (0.91, 0.05, True),
        (1.11, 0.05, False),
        (0.8, 0.2, True),
        (7.09, 0.05, True),  # index 4 counts as wide as index 3
        (7.11, 0.05, False),
        (40.0, 0.5, False),
        (-4.99, 0.05, False),  # the limit is no edge between classes
        (0.0, 0.5, False),
        (0.1, 0.5, True),
        (1.0, 0.0, False),
    ],
)
def test_near_an_edge(defocus_um, share, near):
    assert TABLE.near_edge(defocus_um, share) is near


def test_near_an_edge_is_measured_by_the_class_it_lies_in():
    assert UNEVEN.near_edge(8.3)  # 0.05 x 8 um
    assert not UNEVEN.near_edge(7.7)  # 0.05 x 4 um
    with pytest.raises(ValueError, match="defocus_um is -21"):
        UNEVEN.near_edge(-21)
    with pytest.raises(ValueError, match="share is 0.6: expected 0 to 0.5"):
        UNEVEN.near_edge(0, 0.6)


def test_a_table_goes_through_json():
    for table in (TABLE, UNEVEN):
        assert ClassTable.from_dict(json.loads(json.dumps(table.to_dict()))) == table
    for wrong in ({}, {"edges_um": [1], "width_um": 2}):
        with pytest.raises(ValueError, match="a class table has .*: expected"):
            ClassTable.from_dict(wrong)


def test_a_table_cannot_be_changed():
    assert ClassTable([-5, -3, -1, 1, 3, 5, 7]) == TABLE
    assert hash(ClassTable([-5, -3, -1, 1, 3, 5, 7])) == hash(TABLE)
    with pytest.raises(dataclasses.FrozenInstanceError):
        TABLE.edges_um = ()  # type: ignore[misc]


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ((-3, -1, 1, 3, 5, 7), "has 6 edges: expected 7"),
        ((-5, -3, -1, 1, 3, 5, math.inf), "expected finite numbers"),
        ((-5, -3, -1, 1, 3, 3, 7), "expected each edge above the one before"),
        ((7, 5, 3, 1, -1, -3, -5), "expected each edge above the one before"),
        ((1, 2, 3, 4, 5, 6, 7), "expected 0 between the third and the fourth edge"),
    ],
)
def test_bad_edges_are_refused(edges, message):
    with pytest.raises(ValueError, match=message):
        ClassTable(edges)


@pytest.mark.parametrize("width", [0, -1, math.nan, math.inf])
def test_bad_widths_are_refused(width):
    with pytest.raises(ValueError, match="width_um is .*: expected a positive number"):
        ClassTable.of_width(width)


@pytest.mark.parametrize("limit", [-3.0, 5, math.nan])
def test_bad_limits_are_refused(limit):
    with pytest.raises(ValueError, match="limit_um is .*: expected less than -3"):
        ClassTable.of_width(2.0, limit)
