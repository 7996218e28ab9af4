"""Data sets from a catalogue on disk: what is found, where its focus is, and what comes out the same."""

import itertools
import json
import math
import operator

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky import preprocessors as bpp
from bluesky.utils import Msg, RunEngineInterrupted
from ophyd import Signal

from bluesky_autofocus.catalog import open_catalog
from bluesky_autofocus.dataset import (
    Dataset,
    DatasetError,
    completed_fields,
    field_stacks,
    find_collections,
    ground_truths,
    labels_of,
    make_dataset,
    true_labels,
)
from bluesky_autofocus.devices import SimulatedAxis, SimulatedCamera, SimulatedLEDArray
from bluesky_autofocus.frames import install_frame_routing
from bluesky_autofocus.leds import Single
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.plans import Approach, collect_focal_stacks, record_labels
from bluesky_autofocus.records import FocusLabel
from bluesky_autofocus.simulation import AbbeImageFormation, LightCamera, specimen

pytestmark = [
    pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic"),
]

OPTICS = LightOptics()
SPACING_UM = 100.0
LED = str(Single(0.4, 0.0))
Z_UM, STEP_UM = (-12.0, 12.0), 2.0
PLANES = 13
NOWHERE = 4
"""A field without specimen."""


class Microscope:
    """A camera, LEDs and axes; the field at x = 100 n shows specimen n, focus at `focus_um(n)`."""

    def __init__(self, frame_directory):
        self.formation = AbbeImageFormation(OPTICS, (256, 256))
        self.camera_model = LightCamera(electrons=2000.0)
        self.rng = np.random.default_rng(1)
        self.views = {}
        self.x, self.y, self.z = (
            SimulatedAxis(name=f"stage_{name}", limits=(-1000, 1000)) for name in ("x", "y", "z")
        )
        self.leds = SimulatedLEDArray(name="leds")
        self.camera = SimulatedCamera(
            name="camera", render=self.render, frame_directory=frame_directory, frame_shape=(256, 256)
        )
        self.RE = RunEngine()
        install_frame_routing(self.RE)

    def view(self, number):
        if number not in self.views:
            kind = "empty" if number == NOWHERE else "tissue"
            self.views[number] = self.formation.view(specimen(kind, number, self.formation))
        return self.views[number]

    def offset_um(self, number):
        return 1.5 * number - 2.0

    def focus_um(self, number):
        return self.offset_um(number) + self.view(number).focus_um

    def render(self):
        number = round(self.x.position / SPACING_UM)
        na_xy, light = self.leds.light
        intensity = self.view(number).intensity(na_xy, [self.z.position - self.offset_um(number)], light)[0]
        return self.camera_model.frame(intensity / max(len(light), 1), self.rng)

    def collect(self, numbers, **options):
        return collect_focal_stacks(
            [self.camera],
            self.z,
            stage=(self.x, self.y),
            positions=[(number * SPACING_UM, 0.0) for number in numbers],
            **{
                "leds": self.leds,
                "patterns": ("half_annulus_top", LED),
                "z_um": Z_UM,
                "step_um": STEP_UM,
                "md": {"optics": vars(OPTICS)},
                **options,
            },
        )


def cut_short(plan, exposures):
    """Let a plan fail after so many exposures."""
    left = iter(range(exposures))

    def breaking():
        yield Msg("null")
        raise RuntimeError("the lamp is broken")

    def act(msg):
        begins = msg.command == "create" and msg.kwargs.get("name") == "stack"
        return (breaking() if begins and next(left, None) is None else None), None

    return bpp.plan_mutator(plan, act)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    opened = open_catalog(tmp_path_factory.mktemp("dataset"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def microscope(catalog):
    """Collect two samples: of the first, two fields, the second run being needed for one of them; of the
    other, one field with specimen and one without."""
    made = Microscope(catalog.frame_directory)
    catalog.subscribe(made.RE)
    with pytest.raises(RuntimeError, match="lamp"):
        made.RE(cut_short(made.collect((0, 1), sample="first", collection="one"), 2 * PLANES + 5))
    assert completed_fields(catalog.client, "one") == {0}
    made.RE(made.collect((0, 1), sample="first", collection="one", skip=[0]))
    made.RE(made.collect((2, 3, NOWHERE), sample="other", collection="two"))
    return made


@pytest.fixture
def db(microscope, catalog):
    return catalog.client


@pytest.fixture(scope="module")
def features():
    """Return a function that no worker could import: it travels by value."""

    def spectrum(frame):
        size = frame.shape[0] // 2
        quarters = frame.reshape(2, size, 2, size).swapaxes(1, 2).reshape(4, size, size)
        return np.abs(np.fft.rfft2(quarters / quarters.mean()))[:, :3, 1:5].reshape(4, 12)

    spectrum.parameters = {"name": "spectrum"}
    return spectrum


@pytest.fixture(scope="module")
def dataset(microscope, catalog, features):
    return make_dataset(catalog.client, features, show=None)


def test_what_is_complete_is_known_from_all_runs(db):
    assert completed_fields(db, "one") == {0, 1}
    assert completed_fields(db, "two") == {0, 1, 2}
    assert [run.start["sample"] for run in find_collections(db)] == ["first", "first", "other"]
    assert len(find_collections(db, samples=["first"])) == 2


def test_the_ground_truth_is_where_the_specimen_is(db, microscope):
    fields = ground_truths(db)
    by_name = {field.name: field.truth for field in fields}
    assert set(by_name) == {"one/0", "one/1", "two/0", "two/1", "two/2"}
    for name, number in (("one/0", 0), ("one/1", 1), ("two/0", 2), ("two/1", 3)):
        truth = by_name[name]
        assert truth.trusted, truth
        assert truth.position_um == pytest.approx(microscope.focus_um(number), abs=0.3)
        assert truth.positions_um == tuple(np.arange(-12.0, 12.1, 2.0))
    assert not by_name["two/2"].trusted


def test_fields_that_are_not_trusted_are_left_out_and_counted(db, features, microscope):
    said = []
    dataset = make_dataset(db, features, show=said.append)
    assert dict(dataset.left_out) == {"flat": 1}
    assert said == ["5 fields, 1 left out because their ground truth is not to be trusted (flat 1)"]
    assert "1 fields left out (flat 1)" in str(dataset)
    assert [field.name for field in dataset.fields] == ["one/0", "one/1", "two/0", "two/1"]


def test_each_frame_has_the_features_and_the_defocus_of_its_event(db, dataset, features, microscope):
    assert dataset.features.shape == (4 * PLANES, 4, 12)
    assert dataset.features.dtype == np.float32
    assert dataset.patterns == (LED,)
    assert dataset.optics == OPTICS
    assert np.allclose(dataset.na_xy, [0.4, 0.0])
    assert list(dict.fromkeys(dataset.sample.tolist())) == ["first", "other"]
    assert dataset.parameters["features"] == {"name": "spectrum"}
    # of the run that was cut short and of the one that continued it
    table = db[-2]["stack"].read(["stage_z", "field_number", "field_pattern"])
    images = db[-2]["stack", "camera_image"]
    rows = np.flatnonzero(table["field_pattern"].values == 1)
    assert set(table["field_number"].values.tolist()) == {1}
    mine = np.flatnonzero(dataset.field == 1)
    truth = dataset.fields[1].truth.position_um
    for row, index in zip(rows, mine, strict=True):
        assert dataset.defocus_um[index] == pytest.approx(table["stage_z"].values[row] - truth, abs=1e-4)
        assert np.array_equal(dataset.features[index], features(images[int(row)]).astype(np.float32))


def test_the_range_and_the_sign_of_the_defocus(db, features, dataset):
    near = make_dataset(db, features, range_um=5.0, axis_sign=-1, samples=["first"], show=None)
    assert np.abs(near.defocus_um).max() <= 5.0
    chosen = (np.abs(dataset.defocus_um) <= 5.0) & (dataset.sample == "first")
    assert np.array_equal(near.defocus_um, -dataset.defocus_um[chosen])


def test_a_cluster_gives_the_same_arrays(db, features, dataset):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        done = []
        there = make_dataset(
            db, features, scheduler=cluster.scheduler_address, show=None, progress=lambda *n: done.append(n)
        )
        assert len(cluster.scheduler_info["workers"]) == 2
    assert np.array_equal(there.features, dataset.features)
    assert np.array_equal(there.defocus_um, dataset.defocus_um)
    assert there.fields == dataset.fields
    assert done == [(5, 5), (4, 4)]


def test_features_on_disk_are_the_same_and_open_again(db, features, dataset, tmp_path):
    out = make_dataset(db, features, out=tmp_path / "set", show=None)
    again = Dataset.open(tmp_path / "set")
    for one in (out, again):
        assert isinstance(one.features, np.memmap)
        for name in ("features", "defocus_um", "field", "pattern", "na_xy"):
            assert np.array_equal(getattr(one, name), getattr(dataset, name)), name
        assert one.fields == dataset.fields
        assert one.optics == OPTICS
        assert one.left_out == dataset.left_out
    first, second = again.split(0.25)
    assert not isinstance(second.features, np.ndarray)
    expected = dataset.split(0.25)[1].features
    assert np.array_equal(np.asarray(second.features), expected)
    assert np.array_equal(second.select([3, 1]).features[:], expected[[3, 1]])
    with pytest.raises(DatasetError, match="holds a data set already"):
        make_dataset(db, features, out=tmp_path / "set", show=None)


def test_a_data_set_that_was_not_finished_is_none(dataset, tmp_path):
    dataset.save(tmp_path)
    assert len(Dataset.open(tmp_path)) == len(dataset)
    table = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps({**table, "format": "another"}))
    with pytest.raises(DatasetError, match="another format"):
        Dataset.open(tmp_path)
    (tmp_path / "dataset.json").unlink()
    with pytest.raises(DatasetError, match="no complete data set"):
        Dataset.open(tmp_path)


class TestSplit:
    def test_by_field(self, dataset):
        first, second = dataset.split(0.5, seed=3)
        assert set(first.field) | set(second.field) == {0, 1, 2, 3}
        assert not set(first.field) & set(second.field)
        assert set(first.sample) == set(second.sample) == {"first", "other"}
        assert len(first) == len(second) == 2 * PLANES
        assert np.array_equal(second.features, dataset.features[np.isin(dataset.field, second.field)])

    def test_by_sample(self, dataset):
        first, second = dataset.split(0.5, by="sample")
        assert {*first.sample} | {*second.sample} == {"first", "other"}
        assert not {*first.sample} & {*second.sample}

    def test_the_seed_decides(self, dataset):
        splits = [tuple(np.unique(dataset.split(0.3, seed=seed)[1].field)) for seed in range(8)]
        assert len(set(splits)) > 1
        assert splits == [tuple(np.unique(dataset.split(0.3, seed=seed)[1].field)) for seed in range(8)]

    def test_shares_of_many_samples(self, dataset):
        """On made-up fields: 3 samples of 50, 30 and 20 fields."""
        import dataclasses

        names = ["a"] * 50 + ["b"] * 30 + ["c"] * 20
        fields = [
            dataclasses.replace(dataset.fields[0], sample=name, number=i) for i, name in enumerate(names)
        ]
        made = Dataset(
            features=np.zeros((200, 1, 1), np.float32),
            defocus_um=np.zeros(200, np.float32),
            field=np.repeat(np.arange(100), 2),
            pattern=np.zeros(200, int),
            na_xy=np.zeros((200, 2)),
            fields=tuple(fields),
            patterns=(LED,),
        )
        _, second = made.split(0.2)
        counts = {name: len(set(second.field[second.sample == name])) for name in "abc"}
        assert sum(counts.values()) == 20
        assert counts["a"] in (9, 10, 11)
        assert counts["b"] in (5, 6, 7)

    @pytest.mark.parametrize("options", [{"fraction": 0.0}, {"fraction": 1.5}, {"by": "frame"}])
    def test_what_makes_no_sense(self, dataset, options):
        with pytest.raises(ValueError, match="expected|between"):
            dataset.split(**options)

    def test_too_few(self, dataset):
        alone = dataset.select(dataset.sample == "first")
        with pytest.raises(ValueError, match="2 fields of 1 samples cannot be split by sample"):
            alone.split(by="sample")


class TestBadInput:
    def test_a_query_that_finds_nothing_tells_what_there_is(self, db, features):
        with pytest.raises(DatasetError, match=r"\['third'\]; there are runs of the samples first, o"):
            make_dataset(db, features, samples=["third"])
        with pytest.raises(DatasetError, match="no run"):
            completed_fields(db, "zero")
        with pytest.raises(DatasetError, match="no run"):
            make_dataset(db, features, until=1.0)

    def test_no_field_with_ground_truth(self, db, features):
        with pytest.raises(DatasetError, match=r"ground truth: 3 fields, 3 left out .*uncertain 2"):
            make_dataset(db, features, samples=["other"], max_sigma_um=1e-9, show=None)

    def test_no_stack_to_take_the_truth_or_the_features_from(self, db, features):
        with pytest.raises(DatasetError, match="no stack under annulus"):
            make_dataset(db, features, collections=["two"], truth_pattern="annulus", show=None)
        with pytest.raises(DatasetError, match="no stack under brightfield, only under half_annulus_top"):
            make_dataset(db, features, collections=["two"], patterns=["brightfield"], show=None)

    def test_features_of_a_wrong_shape(self, db):
        with pytest.raises(ValueError, match="must return"):
            make_dataset(db, operator.methodcaller("mean"), samples=["first"], show=None)

    def test_optics_that_differ(self, db, microscope, features):
        other = {"optics": {**vars(OPTICS), "numerical_aperture": 0.75}}
        plan = microscope.collect((2,), sample="foreign", collection="three", md=other)
        microscope.RE(plan)
        with pytest.raises(DatasetError, match="different optics"):
            make_dataset(db, features)

    @pytest.mark.parametrize("options", [{"axis_sign": 0}, {"range_um": -1.0}, {"samples": "first"}])
    def test_arguments(self, db, features, options):
        with pytest.raises(ValueError, match=r"axis_sign|range_um|expected a list"):
            make_dataset(db, features, **options)


def test_a_pause_that_takes_exposures_again_leaves_the_right_frames(microscope, catalog, features):
    """It gives Events of the same number; the file holds the frames of all of them."""
    seen = iter(range(10_000))
    number = PLANES + 3

    def act(msg):
        if msg.command == "save" and next(seen) == number:

            def save_and_pause():
                result = yield msg
                yield Msg("pause")
                return result

            return save_and_pause(), None
        return None, None

    plan = microscope.collect((3,), sample="paused", collection="four")
    with pytest.raises(RunEngineInterrupted):
        microscope.RE(bpp.plan_mutator(plan, act))
    microscope.RE.resume()
    run = catalog.client[-1]
    assert run["stack", "camera_image"].shape[0] == 2 * PLANES + 1
    dataset = make_dataset(catalog.client, features, collections=["four"], show=None)
    assert len(dataset) == PLANES
    truth = dataset.fields[0].truth
    assert np.allclose(dataset.defocus_um + truth.position_um, np.arange(-12.0, 12.1, 2.0), atol=1e-4)


TRUE_FOCUS_UM = {0: -2.6, 1: 1.2, 2: 30.0, 3: math.nan, NOWHERE: 0.0}
"""Of the fields of `labelled`, as its simulator says."""


@pytest.fixture(scope="module")
def labelled(microscope, catalog):
    """Record four complete fields and one that is cut short, from the highest plane to the lowest."""

    class Focus(Signal):
        def get(self, **kwargs):
            return TRUE_FOCUS_UM[round(microscope.x.position / SPACING_UM)] + 0.01 * jitter()

    def jitter():
        return next(numbers)

    numbers = itertools.cycle((-1, 0, 1))
    plan = microscope.collect(
        (0, 1, 2, 3, NOWHERE),
        sample="labelled",
        leds=None,
        patterns=None,
        z_um=(-3.0, 3.0),
        step_um=1.0,
        approach=Approach(direction=-1),
        truth=Focus(name="focus"),
    )
    with pytest.raises(RuntimeError, match="lamp"):
        microscope.RE(cut_short(plan, 4 * 7 + 2))
    return catalog.client[-1]


@pytest.fixture(scope="module")
def record(microscope, labelled):
    def record(*labels, labeller="Ada"):
        microscope.RE(record_labels(labels, labels_of=labelled.start["uid"], labeller=labeller))

    return record


class TestLabels:
    """Of stacks under ordinary light: by a simulator, by persons."""

    def test_the_truth_is_a_label(self, labelled):
        truth = true_labels(labelled)
        assert set(truth) == {0, 1, 2, 3}
        # the planes count downwards as they were exposed: plane 0 is at +3 um
        assert (truth[0].plane, truth[0].usable) == (6, True)
        assert truth[0].focus_um == pytest.approx(-2.6, abs=1e-9)
        assert (truth[1].plane, truth[1].focus_um) == (2, pytest.approx(1.2, abs=1e-9))
        assert (truth[2].plane, truth[2].usable, truth[2].note) == (0, False, "focus lies outside the stack")
        assert (truth[3].plane, truth[3].usable) == (-1, False)

    def test_a_run_without_truth_has_none(self, db):
        assert true_labels(find_collections(db, samples=["first"])[-1]) == {}

    def test_stacks_are_in_order_of_position(self, labelled):
        stacks = field_stacks(labelled)
        assert list(stacks) == [0, 1, 2, 3]
        table = labelled["stack"].read(["stage_z", "field_number", "field_plane"])
        for number, stack in stacks.items():
            assert stack.positions_um == tuple(np.arange(-3.0, 3.1))
            assert stack.planes == (6, 5, 4, 3, 2, 1, 0)
            for index in range(len(stack)):
                row = stack.rows[index]
                assert table["stage_z"].values[row] == stack.positions_um[index]
                assert (table["field_number"].values[row], table["field_plane"].values[row]) == (
                    number,
                    stack.planes[index],
                )
                assert np.array_equal(stack.frame(index), labelled["stack", "camera_image"][row])
        label = stacks[1].label(5, note="so")
        assert label == FocusLabel(1, 1, 2.0, note="so")

    def test_the_newest_label_of_a_person_wins(self, db, labelled, record):
        uid = labelled.start["uid"]
        assert labels_of(db, uid, person_only=True) == {}
        assert list(labels_of(db, uid)) == [0, 1, 2, 3]
        record(FocusLabel(1, 4, -1.0), FocusLabel(2, 0, 3.0))
        record(FocusLabel(1, 3, 0.0, note="surely"), labeller="Grace")
        record(FocusLabel(0, -1, math.nan, usable=False, note="empty"))
        by_person = labels_of(db, uid[:8], person_only=True)
        assert list(by_person) == [0, 1, 2]
        assert by_person[1] == FocusLabel(1, 3, 0.0, note="surely")
        assert by_person[2] == FocusLabel(2, 0, 3.0)
        assert (by_person[0].plane, by_person[0].usable, by_person[0].note) == (-1, False, "empty")
        both = labels_of(db, uid)
        assert both[1] == by_person[1]
        assert not both[3].usable

    def test_of_a_run_of_labels_that_was_cut_short_what_was_recorded_counts(self, db, labelled, microscope):
        uid = labelled.start["uid"]
        plan = record_labels([FocusLabel(2, 1, 2.0), FocusLabel(3, 1, 2.0)], labels_of=uid, labeller="Ada")
        saved = iter(range(10))

        def act(msg):
            def breaking():
                yield Msg("null")
                raise RuntimeError("tired")

            return (breaking() if msg.command == "create" and next(saved) == 1 else None), None

        with pytest.raises(RuntimeError, match="tired"):
            microscope.RE(bpp.plan_mutator(plan, act))
        found = labels_of(db, uid, person_only=True)
        assert found[2] == FocusLabel(2, 1, 2.0)
        assert 3 not in found

    def test_there_must_be_such_a_run(self, db):
        with pytest.raises(DatasetError, match="there is no run '01234567'"):
            labels_of(db, "01234567")
