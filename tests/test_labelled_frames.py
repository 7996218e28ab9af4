"""Frames with their class of focus: sorted by eye, by the focus of their stack, by what a simulator knew."""

import math
import operator

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky import plans as bp
from ophyd import Signal

from bluesky_autofocus.catalog import open_catalog
from bluesky_autofocus.dataset import (
    DatasetError,
    class_labels_of,
    field_stacks,
    labelled_frames,
    labels_of,
)
from bluesky_autofocus.devices import SimulatedAxis, SimulatedCamera, SimulatedSmearMicroscope
from bluesky_autofocus.frames import install_frame_routing
from bluesky_autofocus.models.hh_net import ClassTable
from bluesky_autofocus.plans import collect_focal_stacks, record_labels
from bluesky_autofocus.records import ClassLabel, FocusLabel

pytestmark = [
    pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic"),
]

TABLE = ClassTable.of_width(6.0)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    opened = open_catalog(tmp_path_factory.mktemp("frames"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def run_engine(catalog):
    made = RunEngine()
    install_frame_routing(made)
    catalog.subscribe(made)
    return made


@pytest.fixture(scope="module")
def microscope(catalog):
    return SimulatedSmearMicroscope(
        name="microscope", frame_shape=(96, 128), frame_directory=catalog.frame_directory
    )


@pytest.fixture(scope="module")
def collect(run_engine, microscope):
    """Return a function that collects three fields of 15 planes, 3 um apart, and returns the run's uid."""

    def collect(**options):
        width_um, _ = microscope.field_um
        plan = collect_focal_stacks(
            [microscope],
            microscope.z,
            stage=(microscope.x, microscope.y),
            positions=[(width_um * number, 0.0) for number in range(3)],
            sample="smear",
            z_um=(-17.0, 26.0),
            step_um=3.0,
            **options,
        )
        return run_engine(plan)[0]

    return collect


@pytest.fixture
def record(run_engine):
    def record(uid, *labels):
        run_engine(record_labels(labels, labels_of=uid, labeller="Ada"))

    return record


def known(frames):
    return {(frame.field, frame.plane): (frame.index, frame.source) for frame in frames}


def test_what_the_microscope_knows_of_each_frame_is_its_class(catalog, collect, microscope):
    uid = collect(truth=microscope.truth.focus_um)
    run = catalog.client[uid]
    assert run.start["truth_key"] == "microscope_truth_focus_um"
    said = run["stack"].read(["microscope_truth_defocus_um", "field_number", "field_plane"])
    defocus_um = said["microscope_truth_defocus_um"].values
    frames = labelled_frames(catalog.client, [uid[:8]], TABLE)
    # nearer to the specimen than its limit the table has no class
    assert len(frames) == (defocus_um >= TABLE.limit_um).sum() < len(defocus_um) == 45
    for frame in frames:
        row = frame.row
        assert (frame.run, frame.source) == (uid, "truth")
        assert (frame.field, frame.plane) == (
            said["field_number"].values[row],
            said["field_plane"].values[row],
        )
        assert frame.defocus_um == defocus_um[row]
        assert frame.index == TABLE.index_of(defocus_um[row])
    pictures = run["stack", "microscope_camera_image"]
    for frame in (frames[0], frames[20], frames[-1]):
        picture = frame.read()
        assert picture.shape == (96, 128, 3)
        assert np.array_equal(picture, pictures[frame.row])
    with pytest.raises(DatasetError, match="no frame of a known class of focus: 45 not labelled"):
        labelled_frames(catalog.client, [uid], TABLE, person_only=True)


def test_persons_count_before_what_the_microscope_knows(catalog, collect, record):
    uid = collect()
    record(uid, FocusLabel(0, 5, 1.0), FocusLabel(1, -1, math.nan, usable=False))
    record(uid, ClassLabel(0, 14, 4), ClassLabel(1, 3, -1), ClassLabel(2, 0, 1))
    record(uid, ClassLabel(0, 14, 3), ClassLabel(0, 6, None, usable=False))
    frames = labelled_frames(catalog.client, [uid], TABLE)
    found = known(frames)
    # sorted by eye; the newest counts, and what was sorted out of an unusable stack
    assert (found[0, 14], found[1, 3], found[2, 0]) == ((3, "class"), (-1, "class"), (1, "class"))
    assert (0, 6) not in found
    assert [place for place in found if place[0] == 1] == [(1, 3)]
    # by the focus of its stack: planes are at -17, -14 ... um, the first of them too near
    by_focus = {frame.plane: frame for frame in frames if frame.source == "focus"}
    assert set(by_focus) == set(range(1, 14)) - {6}
    for plane, frame in by_focus.items():
        assert frame.defocus_um == pytest.approx(-17.0 + 3 * plane - 1.0)
        assert frame.index == TABLE.index_of(frame.defocus_um)
    assert {frame.source for frame in frames if frame.field == 2} == {"class", "truth"}
    assert all(math.isnan(frame.defocus_um) for frame in frames if frame.source == "class")
    assert {frame.field for frame in labelled_frames(catalog.client, [uid], TABLE, person_only=True)} == {
        0,
        1,
        2,
    }
    # labels of classes are none of focus, nor the other way round
    assert set(labels_of(catalog.client, uid, person_only=True)) == {0, 1}
    assert class_labels_of(catalog.client, uid[:8]) == {
        (0, 6): ClassLabel(0, 6, None, usable=False),
        (0, 14): ClassLabel(0, 14, 3),
        (1, 3): ClassLabel(1, 3, -1),
        (2, 0): ClassLabel(2, 0, 1),
    }


def test_of_a_run_of_labels_that_was_cut_short_what_was_recorded_counts(catalog, collect, run_engine):
    uid = collect()

    def cut_short():
        for number, msg in enumerate(
            record_labels([ClassLabel(0, 1, 2), ClassLabel(0, 2, 2)], labels_of=uid, labeller="Ada")
        ):
            yield msg
            if number == 4:
                raise RuntimeError("tired")

    with pytest.raises(RuntimeError, match="tired"):
        run_engine(cut_short())
    assert class_labels_of(catalog.client, uid) == {(0, 1): ClassLabel(0, 1, 2)}


@pytest.mark.parametrize("sign", [1, -1])
def test_the_truth_that_was_given_to_the_plan_serves_as_well(catalog, run_engine, sign):
    x, y, z = (SimulatedAxis(name=name, limits=(-100.0, 100.0)) for name in "xyz")
    camera = SimulatedCamera(
        name="camera",
        render=lambda: np.full((4, 5), 100 + z.position, np.uint16),
        frame_directory=catalog.frame_directory,
        frame_shape=(4, 5),
    )
    (uid,) = run_engine(
        collect_focal_stacks(
            [camera],
            z,
            stage=(x, y),
            positions=[(0.0, 0.0)],
            sample="dots",
            z_um=(-6.0, 12.0),
            step_um=3.0,
            truth=Signal(name="focus", value=2.0),
        )
    )
    frames = labelled_frames(catalog.client, [uid], TABLE, axis_sign=sign)
    assert [frame.defocus_um for frame in frames] == [sign * (at - 2.0) for at in range(-6, 13, 3)]
    assert [int(frame.read()[0, 0]) for frame in frames] == [100 + at for at in range(-6, 13, 3)]
    with pytest.raises(ValueError, match="axis_sign is 0: expected 1 or -1"):
        labelled_frames(catalog.client, [uid], TABLE, axis_sign=0)


def test_frames_of_a_stage_that_moves_are_frames_too(catalog, run_engine, microscope, record):
    (uid,) = run_engine(bp.grid_scan([microscope], microscope.x, 0, 100, 2, microscope.y, 0, 100, 2))
    run = catalog.client[uid]
    with pytest.raises(DatasetError, match="holds no focal stack"):
        field_stacks(run)
    (stack,) = field_stacks(run, still=True).values()
    assert (stack.planes, stack.rows) == ((0, 1, 2, 3), (0, 1, 2, 3))
    assert all(map(math.isnan, stack.positions_um))
    record(uid, ClassLabel(0, 2, 3))
    frames = labelled_frames(catalog.client, [uid], TABLE)
    assert list(map(operator.attrgetter("source"), frames)) == ["truth", "truth", "class", "truth"]
    assert frames[2].index == 3


def test_there_must_be_such_runs(catalog):
    with pytest.raises(DatasetError, match="there is no run '01234567'"):
        labelled_frames(catalog.client, ["01234567"], TABLE)
    with pytest.raises(DatasetError, match="no runs were given"):
        labelled_frames(catalog.client, [], TABLE)
