"""HH-Net as published: its layers, what it learns, its file, how it answers, how patches are disturbed."""

import dataclasses
import json
import math
import subprocess
import sys

import cv2
import h5py
import numpy as np
import pytest

from bluesky_autofocus.callbacks import FocusClassAnalysis
from bluesky_autofocus.defocus import ModelMismatchError
from bluesky_autofocus.models.card import (
    FeatureRecord,
    ModelCard,
    ModelFileError,
    ModelInputs,
    TrainingRecord,
)
from bluesky_autofocus.models.hh_net import ClassTable
from bluesky_autofocus.models.hh_net.classes import INDICES, NAMES
from bluesky_autofocus.models.hh_net.features import handcrafted
from bluesky_autofocus.models.hh_net.patches import patches_of
from bluesky_autofocus.models.hh_net.published import (
    ARCHITECTURE,
    Augmentation,
    PatchSet,
    PublishedModel,
    PublishedOptions,
    build,
    kernels_of,
    train_published,
)
from bluesky_autofocus.models.hh_net.published._patches import Batches
from bluesky_autofocus.models.hh_net.voting import vote, winner
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.records import Reason

PATCH = 32
TABLE = ClassTable.of_width(6.0)
OPTICS = LightOptics(numerical_aperture=0.4, wavelength_um=0.54, pixel_size_um=0.33, magnification=20.0)
INPUTS = ModelInputs("", PATCH, pixel_size_um=0.33, magnification=20.0, numerical_aperture=0.4, colour="rgb")
OPTIONS = PublishedOptions(width=1 / 16, dropout=(0.2, 0.2), epochs=12, batch=16)
FEW = dataclasses.replace(OPTIONS, width=1 / 64, epochs=1)
BLUR_PX = (3.5, 2.2, 1.5, 1.0, 0.7, 0.5, 0.01)
PER_FRAME = 4


def frames_of(seed, repeats=6, told_by="patches"):
    """Return patches, features, classes and frames: grain, blurred by class, or features that tell it."""
    rng = np.random.default_rng(seed)
    classes = np.tile(np.arange(7), repeats)
    frames = np.repeat(np.arange(len(classes)), PER_FRAME)
    grain = rng.normal(0, 60, (len(frames), PATCH, PATCH, 3))
    features = np.full((len(classes), 18), 5.0)
    if told_by == "patches":
        grain = np.stack(
            [cv2.GaussianBlur(one, (0, 0), BLUR_PX[classes[k]]) for one, k in zip(grain, frames, strict=True)]
        )
    else:
        features[:, :7] += 100 * np.eye(7)[classes]
        grain = np.zeros_like(grain)
    return np.clip(grain + 150, 0, 255).astype(np.uint8), features, classes, frames


def colour_frame(shape=(160, 208), seed=0):
    """Return a bright frame with a dark, grainy disc in its upper left part."""
    rng = np.random.default_rng(seed)
    y, x = (np.arange(n) - 0.37 * n for n in shape)
    inside = np.hypot(y[:, None], x) < 60
    frame = 220 - inside[..., None] * (np.array([60, 90, 40]) + rng.normal(0, 20, (*shape, 3)))
    return np.clip(frame, 0, 255).astype(np.uint8)


def make_arrays(seed=0, width=1 / 64):
    rng = np.random.default_rng(seed)
    arrays = {"mean": np.zeros(18), "deviation": np.full(18, 100.0)}
    for name, shape in kernels_of(PATCH, width).items():
        arrays[f"{name}.kernel"] = rng.normal(0, math.sqrt(2 / np.prod(shape[:-1])), shape)
        arrays[f"{name}.bias"] = rng.normal(0, 0.1, shape[-1])
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def make_card(**changes):
    said = {
        "name": "tiny",
        "architecture": ARCHITECTURE,
        "version": "3",
        "inputs": INPUTS,
        "features": FeatureRecord("patches", {"patch_px": PATCH, "binning": 2, "seed": 0}),
        "valid_range_um": (-15.0, 21.0),
        "training": TrainingRecord("none"),
        "figures": {},
        "valid_for": "tests",
        "licence": "BSD-3-Clause",
        "architecture_parameters": {"classes": TABLE.to_dict(), "width": 1 / 64, "last_pooling": False},
    }
    return ModelCard(**{**said, **changes})


@pytest.fixture(scope="module")
def tiny():
    pytest.importorskip("tensorflow")
    return PublishedModel(make_card(), make_arrays())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return what came of training on a memmap, and what was told of its progress."""
    pytest.importorskip("tensorflow")
    patches, *others = frames_of(0)
    path = tmp_path_factory.mktemp("patches") / "patches.dat"
    stored = np.memmap(path, np.uint8, "w+", shape=patches.shape)
    stored[:] = patches
    told = []
    made = train_published(
        stored,
        *others,
        table=TABLE,
        inputs=INPUTS,
        fields=np.arange(42) // 7,
        options=OPTIONS,
        data="made up",
        valid_for="tests",
        tolerances={"magnification": 0.5},
        progress=lambda done, total: told.append((done, total)),
    )
    return made, told


@pytest.fixture(scope="module")
def by_features():
    """Return a function that trains by the features of frames alone."""
    pytest.importorskip("tensorflow")
    options = dataclasses.replace(OPTIONS, width=1 / 64, epochs=3, learning_rate=3e-3)
    given, validation = (frames_of(seed, repeats=4 - seed, told_by="frame") for seed in (0, 2))

    def train():
        return train_published(*given, table=TABLE, inputs=INPUTS, options=options, validation=validation)

    return train, train()


class TestNetwork:
    @pytest.mark.parametrize(("last_pooling", "parameters"), [(False, 52_010_631), (True, 24_141_447)])
    def test_it_is_the_published_one(self, last_pooling, parameters):
        pytest.importorskip("tensorflow")
        model = build(last_pooling=last_pooling)
        assert model.count_params() == parameters
        convolutions = [layer for layer in model.layers if type(layer).__name__ == "Conv2D"]
        assert [(layer.kernel_size[0], layer.filters) for layer in convolutions] == (
            [(5, 64)] * 2 + [(3, 128)] * 2 + [(3, 256)] * 3 + [(3, 512)] * 6
        )
        assert all(
            (layer.strides, layer.padding, layer.activation.__name__) == ((1, 1), "same", "relu")
            for layer in convolutions
        )
        kinds = [type(layer).__name__ for layer in model.layers]
        assert kinds.count("MaxPooling2D") == 4 + last_pooling
        units = {layer.name: layer.units for layer in model.layers if type(layer).__name__ == "Dense"}
        assert units == {"patch": 224, "frame": 32, "both": 256, "classes": 7}
        assert [layer.rate for layer in model.layers if type(layer).__name__ == "Dropout"] == [0.7, 0.5]
        assert {name: one.shape for name, one in model.input.items()} == {
            "patches": (None, 300, 300, 3),
            "handcrafted": (None, 18),
        }
        assert model.output.shape == (None, 7) and model.layers[-1].activation.__name__ == "softmax"
        for name, shape in kernels_of(300, 1.0, last_pooling).items():
            assert model.get_layer(name).kernel.shape == shape

    def test_its_defaults_are_those_of_the_paper(self):
        options = PublishedOptions()
        assert (options.width, options.learning_rate, options.dropout) == (1.0, 0.001, (0.7, 0.5))
        assert options.validation_share == pytest.approx(50 / 350)

    def test_a_narrower_one_has_fewer_channels_and_the_same_layers_behind_them(self):
        kernels = kernels_of(300, 1 / 32)
        assert (kernels["conv1_1"], kernels["conv1_2"]) == ((5, 5, 3, 2), (5, 5, 2, 2))
        assert (kernels["conv5_3"], kernels["patch"]) == ((3, 3, 16, 16), (18 * 18 * 16, 224))
        assert len(kernels) == 13 + 4

    def test_the_seed_alone_gives_the_weights(self):
        pytest.importorskip("tensorflow")
        first, again, other = (build(PATCH, 1 / 64, seed=seed).get_weights() for seed in (1, 1, 2))
        for one, same in zip(first, again, strict=True):
            np.testing.assert_array_equal(one, same)
        assert not np.array_equal(first[0], other[0])

    @pytest.mark.parametrize(
        ("patch_px", "width", "last_pooling", "complaint"),
        [
            (15, 1.0, False, "patch_px is 15: expected at least 16"),
            (31, 1.0, True, "patch_px is 31: expected at least 32"),
            (300, 0.0, False, "width is 0.0: expected a positive number"),
            (300, math.nan, False, "width is nan"),
        ],
    )
    def test_what_cannot_be_built(self, patch_px, width, last_pooling, complaint):
        with pytest.raises(ValueError, match=complaint):
            kernels_of(patch_px, width, last_pooling)


class TestTraining:
    def test_it_learns_from_the_patches(self, trained):
        made, _ = trained
        patches, features, classes, frames = frames_of(99, repeats=3)
        p = made.model.probabilities(patches, features[frames])
        assert np.mean(winner(p) == classes[frames]) > 0.7  # guessing gives 0.14
        assert made.history["loss"][-1] < 0.6 * made.history["loss"][0]

    def test_it_learns_from_the_features_of_the_frame(self, by_features):
        card = by_features[1].model.card
        assert card.figures["validation_frame_accuracy_linear"] > 0.9
        assert (card.figures["validation_frames"], card.training.frames, card.training.fields) == (14, 42, 42)
        assert len(by_features[1].validation_fields) == 0

    def test_its_figures_are_of_whole_fields_kept_out(self, trained):
        made, _ = trained
        assert len(made.validation_fields) == 1
        patches, features, classes, frames = frames_of(0)
        kept = frames // 7 == made.validation_fields[0]
        p = made.model.probabilities(patches[kept], features[frames[kept]])
        figures = made.model.card.figures
        assert figures["validation_patch_accuracy"] == np.mean(winner(p) == classes[frames[kept]])
        of_frames = [winner(vote(one)) for one in p.reshape(7, PER_FRAME, 7)]
        assert figures["validation_frame_accuracy_certainty"] == np.mean(of_frames == np.arange(7))
        # the weights are those of the epoch with the lowest loss
        assert figures["validation_patch_accuracy"] == pytest.approx(
            made.history["val_accuracy"][int(np.argmin(made.history["val_loss"]))]
        )

    def test_its_card(self, trained):
        card = trained[0].model.card
        assert (card.architecture, card.inputs, card.valid_range_um) == (ARCHITECTURE, INPUTS, (-15.0, 21.0))
        said = card.training
        assert (said.data, said.fields, said.frames, said.seed) == ("made up", 6, 42, 0)
        assert said.options["augmentation"]["zoom"] == 0.02 and "tensorflow" in said.versions
        assert card.figures["epochs"] == len(trained[0].history["loss"]) <= OPTIONS.epochs

    def test_its_progress_is_told(self, trained):
        made, told = trained
        each = math.ceil(35 * PER_FRAME / 16)
        assert told == [(n + 1, OPTIONS.epochs * each) for n in range(each * len(made.history["loss"]))]

    def test_the_seed_alone_decides(self, by_features):
        train, made = by_features
        np.random.seed(3)  # noqa: NPY002 - what others use
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        again = train().model.arrays
        np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
        for name, array in made.model.arrays.items():
            np.testing.assert_allclose(again[name], array, atol=1e-5, err_msg=name)

    def test_that_it_diverged_is_said(self):
        pytest.importorskip("tensorflow")
        wild = dataclasses.replace(FEW, learning_rate=1e30, epochs=3)
        with pytest.raises(ValueError, match="learning_rate is 1e\\+30, expected a lower one"):
            train_published(*frames_of(0, repeats=2), table=TABLE, inputs=INPUTS, options=wild)

    @pytest.mark.parametrize(
        ("change", "complaint"),
        [
            (lambda x, h, c, f: (x[..., :2], h, c, f), "have shapes"),
            (lambda x, h, c, f: (x[:, 1:], h, c, f), "have shapes"),
            (lambda x, h, c, f: (x, h[:, 1:], c, f), "have shapes"),
            (lambda x, h, c, f: (x, h, c[1:], f), "have shapes"),
            (lambda x, h, c, f: (x, h, c, f[1:]), "have shapes"),
            (lambda x, h, c, f: (x / 255, h, c, f), "the patches are of float64: expected uint8"),
            (lambda x, h, c, f: (x, h * np.nan, c, f), "handcrafted has values that are not finite"),
            (lambda x, h, c, f: (x, h, c + 1, f), "classes has 7: expected 0 to 6"),
            (lambda x, h, c, f: (x, h, c - 2, f), "classes has -2: expected 0 to 6"),
            (lambda x, h, c, f: (x, h, c * 6.0, f), "classes is of float64: expected whole numbers"),
            (lambda x, h, c, f: (x, h, c, f + 1), "frames must name each of the 42 frames"),
            (lambda x, h, c, f: (x[:, 1:, 1:], h, c, f), "a side of 31 px: expected 32"),
            (lambda x, h, c, f: (x, h, c % 5, f), "no frame to train with of the classes of index -1, -2"),
        ],
    )
    def test_data_that_do_not_fit(self, change, complaint):
        with pytest.raises(ValueError, match=complaint):
            train_published(*change(*frames_of(0)), table=TABLE, inputs=INPUTS, options=FEW)

    @pytest.mark.parametrize(
        ("fields", "complaint"),
        [(np.zeros(42), "there is 1 field: expected at least 2"), (np.arange(41), "fields has shape")],
    )
    def test_fields_that_do_not_fit(self, fields, complaint):
        with pytest.raises(ValueError, match=complaint):
            train_published(*frames_of(0), table=TABLE, inputs=INPUTS, options=FEW, fields=fields)

    @pytest.mark.parametrize(
        "option",
        [
            {"epochs": 0},
            {"batch": 0},
            {"width": -1.0},
            {"learning_rate": math.nan},
            {"dropout": (0.7, 1.0)},
            {"dropout": (0.7,)},
            {"validation_share": 1.0},
        ],
    )
    def test_options_that_make_no_sense(self, option):
        with pytest.raises(ValueError, match=f"{next(iter(option))} is"):
            PublishedOptions(**option)


class TestBatches:
    @pytest.mark.parametrize("kind", ["array", "memmap", "hdf5"])
    def test_every_patch_once_an_epoch_in_another_order(self, kind, tmp_path):
        patches, features, classes, frames = frames_of(0, repeats=2)
        stored = patches
        if kind == "memmap":
            np.save(tmp_path / "patches.npy", patches)
            stored = np.load(tmp_path / "patches.npy", mmap_mode="r")
        elif kind == "hdf5":
            stored = h5py.File(tmp_path / "patches.h5", "w").create_dataset("patches", data=patches)
        given = PatchSet.of(stored, features, classes, frames)
        rows = given.rows_of(np.arange(14) != 3)
        batches = Batches(given, rows, given.handcrafted, 10)
        number = {one.tobytes(): row for row, one in enumerate(patches)}
        rng = np.random.default_rng(0)
        epochs = []
        for _ in range(2):
            read = list(batches.read(rng=rng))
            assert [len(one) for _, one in read] == [10, 10, 10, 10, 10, 2] and len(batches) == 6
            epochs.append([number[one.tobytes()] for x, _ in read for one in x["patches"]])
            np.testing.assert_array_equal(np.sort(epochs[-1]), rows)
            truth = np.concatenate([one for _, one in read])
            np.testing.assert_array_equal(truth, classes[frames[epochs[-1]]])
            shown = np.concatenate([x["handcrafted"] for x, _ in read])
            np.testing.assert_array_equal(shown, given.handcrafted[frames[epochs[-1]]])
        assert epochs[0] != epochs[1]
        if kind == "hdf5":
            stored.file.close()


class TestAugmentation:
    PATCHES = frames_of(0, repeats=2)[0]

    def test_it_keeps_shape_and_type_and_follows_the_seed(self):
        untouched = self.PATCHES.copy()
        first, again, other = (
            Augmentation()(self.PATCHES, np.random.default_rng(seed)) for seed in (1, 1, 2)
        )  # fmt: skip
        assert (first.shape, first.dtype) == (self.PATCHES.shape, np.uint8)
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)
        np.testing.assert_array_equal(self.PATCHES, untouched)

    def test_nothing_of_it(self):
        nothing = Augmentation(rotation=False, reflection=False, shift=0, zoom=0, jitter=0)
        np.testing.assert_array_equal(nothing(self.PATCHES, np.random.default_rng(0)), self.PATCHES)

    def test_turning_and_mirroring_move_pixels_and_change_none(self):
        turned = Augmentation(shift=0, zoom=0, jitter=0)(self.PATCHES, np.random.default_rng(0))
        seen = set()
        for old, new in zip(self.PATCHES, turned, strict=True):
            ways = [np.rot90(one, turns) for one in (old, old[:, ::-1]) for turns in range(4)]
            (way,) = [number for number, one in enumerate(ways) if np.array_equal(one, new)]
            seen.add(way)
        assert seen == set(range(8))

    def test_shifting_is_by_whole_pixels(self):
        shift = Augmentation(rotation=False, reflection=False, shift=0.1, zoom=0, jitter=0)
        shifted = shift(self.PATCHES, np.random.default_rng(0))
        seen = set()
        for old, new in zip(self.PATCHES, shifted, strict=True):
            middle = old[8:-8, 8:-8]
            seen |= {
                (y, x)
                for y in range(-3, 4)
                for x in range(-3, 4)
                if np.array_equal(new[8 + y : PATCH - 8 + y, 8 + x : PATCH - 8 + x], middle)
            }
        assert {y for y, _ in seen} == {x for _, x in seen} == set(range(-3, 4))

    def test_zooming_is_about_the_middle_and_of_half_of_the_patches(self):
        y, x = np.indices((64, 64)) - 31.5
        disc = np.where(np.hypot(y, x) < 20, 50, 200).astype(np.uint8)[None, ..., None]
        patches = np.repeat(np.repeat(disc, 3, axis=3), 40, axis=0)
        zoom = Augmentation(rotation=False, reflection=False, shift=0, zoom=0.2, jitter=0)
        zoomed = zoom(patches, np.random.default_rng(0))
        areas = (zoomed[..., 0] < 125).sum(axis=(1, 2)) / (disc < 125).sum()
        assert 12 <= (areas != 1).sum() <= 28
        assert 0.8**2 - 0.05 < areas.min() < 0.8 and 1.2 < areas.max() < 1.2**2 + 0.05
        for one in zoomed:
            rows, columns = np.nonzero(one[..., 0] < 125)
            assert rows.mean() == pytest.approx(31.5, abs=0.1) == columns.mean()

    def test_jittering_is_of_each_colour(self):
        patches = np.full((50, 8, 8, 3), 200, np.uint8)
        jitter = Augmentation(rotation=False, reflection=False, shift=0, zoom=0, jitter=0.1)
        levels = jitter(patches, np.random.default_rng(0))
        assert (levels == levels[:, :1, :1]).all()
        of_patches = levels[:, 0, 0].astype(float)
        assert 180 <= of_patches.min() < 185 and 215 < of_patches.max() <= 220
        assert np.abs(np.corrcoef(of_patches.T)[np.triu_indices(3, 1)]).max() < 0.5
        assert jitter(patches + 54, np.random.default_rng(0)).max() == 255

    @pytest.mark.parametrize("option", [{"shift": 1.0}, {"zoom": -0.1}, {"jitter": math.nan}])
    def test_shares_that_make_no_sense(self, option):
        with pytest.raises(ValueError, match=f"{next(iter(option))} is"):
            Augmentation(**option)


class TestFile:
    def test_there_and_back(self, trained, tmp_path):
        model = trained[0].model
        card = model.save(tmp_path / "published.h5")
        read = PublishedModel.load(tmp_path / "published.h5")
        assert (read.card, read.model_hash, read.table) == (model.card, card.hash, TABLE)
        assert len(card.hash) == 64
        patches, features, _, frames = frames_of(5, repeats=1)
        p = model.probabilities(patches, features[frames])
        np.testing.assert_array_equal(read.probabilities(patches, features[frames]), p)
        # what was trained, with the features standardised by hand
        standardised = (features - model.arrays["mean"]) / model.arrays["deviation"]
        inputs = {"patches": patches, "handcrafted": standardised[frames].astype(np.float32)}
        np.testing.assert_allclose(trained[0].keras_model(inputs, training=False), p, atol=1e-5)

    def test_none_comes_with_the_package(self):
        with pytest.raises(ModelFileError, match=f"no weights of '{ARCHITECTURE}' come with the package"):
            PublishedModel.load()

    def test_another_architecture(self):
        with pytest.raises(ModelFileError, match=f"tiny is a 'dense-2' network: expected '{ARCHITECTURE}'"):
            PublishedModel(make_card(architecture="dense-2"), make_arrays())

    @pytest.mark.parametrize("name", ["mean", "deviation", "conv1_1.kernel", "conv5_3.bias", "frame.kernel"])
    def test_an_array_is_missing_or_does_not_fit(self, name):
        arrays = make_arrays()
        old = arrays.pop(name)
        with pytest.raises(ModelFileError, match=f"tiny is incomplete: '{name}'"):
            PublishedModel(make_card(), arrays)
        with pytest.raises(ModelFileError, match=f"tiny is incomplete: {name} has shape"):
            PublishedModel(make_card(), {**arrays, name: np.concatenate([old, old], axis=-1)})

    @pytest.mark.parametrize(
        "changes",
        [
            {"architecture_parameters": {"classes": TABLE.to_dict(), "width": 1 / 64}},
            {"architecture_parameters": {"classes": 3, "width": 1 / 64, "last_pooling": False}},
            {"architecture_parameters": {"classes": TABLE.to_dict(), "width": 1 / 8, "last_pooling": False}},
            {"architecture_parameters": {"classes": TABLE.to_dict(), "width": 1 / 64, "last_pooling": True}},
            {"features": FeatureRecord("patches")},
        ],
    )
    def test_the_card_does_not_fit(self, changes):
        with pytest.raises(ModelFileError, match="tiny is incomplete"):
            PublishedModel(make_card(**changes), make_arrays())

    def test_reading_one_needs_no_tensorflow(self, tmp_path):
        path = tmp_path / "tiny.h5"
        PublishedModel(make_card(), make_arrays()).save(path)
        code = (
            "import sys\n"
            "from bluesky_autofocus.models.hh_net.published import PublishedModel\n"
            f"PublishedModel.load({str(path)!r})\n"
            "assert not {'tensorflow', 'keras', 'bluesky', 'ophyd', 'matplotlib'} & set(sys.modules)\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestEstimate:
    def test_all_its_patches_vote(self, tiny):
        frame = colour_frame()
        estimate = tiny.estimate(frame)
        corners = patches_of(frame, PATCH)
        patches = np.stack([frame[y : y + PATCH, x : x + PATCH] for y, x in corners])
        p = vote(tiny.probabilities(patches, handcrafted(frame)))
        assert estimate.patches == len(corners) == 30
        assert estimate.probabilities == pytest.approx(p)
        assert estimate.index == INDICES[int(winner(p))]
        assert estimate.name == NAMES[int(winner(p))]
        assert estimate.expected_index == pytest.approx(p @ np.array(INDICES))
        assert estimate.defocus_um == pytest.approx(6 * p @ np.array(INDICES))
        spread_um = 6 * math.sqrt(estimate.sigma_index**2 + 1 / 12)
        assert estimate.sigma_um == pytest.approx(spread_um)
        assert (estimate.accepted, estimate.reason) == (True, Reason.OK)
        assert estimate.measured == (estimate.index != 4)

    def test_patches_are_looked_at_one_by_one(self, tiny):
        rng = np.random.default_rng(0)
        patches = rng.integers(0, 255, (11, PATCH, PATCH, 3), np.uint8)
        features = rng.normal(100, 100, (11, 18))
        p = tiny.probabilities(patches, features)
        assert p.shape == (11, 7)
        np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
        for number in (0, 10):
            one = tiny.probabilities(patches[number][None], features[number])
            np.testing.assert_allclose(one[0], p[number], rtol=1e-3, atol=1e-6)
        assert not np.allclose(tiny.probabilities(patches, features + 100), p)
        assert tiny.probabilities(patches[:0], features[0]).shape == (0, 7)

    @pytest.mark.parametrize("way", ["hard", "linear"])
    def test_how_they_vote_can_be_chosen(self, tiny, monkeypatch, way):
        by_certainty = tiny.estimate(colour_frame())
        monkeypatch.setattr(tiny, "vote", way)
        assert tiny.estimate(colour_frame()).probabilities != by_certainty.probabilities
        assert tiny.parameters["vote"] == way

    @pytest.mark.parametrize(
        ("name", "value", "complaint"),
        [
            ("vote", "loud", "vote is 'loud': expected one of hard, linear, certainty"),
            ("grey", "guess", "grey is 'guess': expected one of refuse, repeat"),
        ],
    )
    def test_choices_that_there_are_not_are_refused_when_they_are_made(self, tiny, name, value, complaint):
        before = getattr(tiny, name)
        with pytest.raises(ValueError, match=complaint):
            setattr(tiny, name, value)
        assert getattr(tiny, name) == before

    @pytest.mark.parametrize(
        ("frame", "reason"),
        [
            (np.zeros((160, 208, 3), np.uint8), Reason.BLACK),
            (np.full((160, 208, 3), 255, np.uint8), Reason.SATURATED),
            (np.full((160, 208, 3), 200, np.uint8), Reason.UNIFORM),
            (np.random.default_rng(0).integers(198, 202, (160, 208, 3), np.uint8), Reason.EMPTY),
        ],
    )
    def test_frames_that_nothing_can_be_seen_in(self, tiny, frame, reason):
        estimate = tiny.estimate(frame)
        assert (estimate.reason, estimate.accepted, estimate.index) == (reason, False, None)

    @pytest.mark.parametrize(
        ("frame", "complaint"),
        [
            (np.ones((160, 208), np.uint8), "expected colours"),
            (np.ones((160, 208, 3), np.float32), "expected uint8"),
            (np.ones((31, 208, 3), np.uint8), "at least one patch of 32 px"),
        ],
    )
    def test_what_is_no_frame(self, tiny, frame, complaint):
        with pytest.raises(ValueError, match=complaint):
            tiny.estimate(frame)

    @pytest.mark.parametrize(
        "patches", [np.zeros((2, 31, 31, 3), np.uint8), np.zeros((2, PATCH, PATCH, 3), np.float32)]
    )
    def test_what_are_no_patches(self, tiny, patches):
        with pytest.raises(ValueError, match="the patches have shape"):
            tiny.probabilities(patches, np.zeros(18))

    def test_other_optics(self, tiny):
        tiny.check(OPTICS)
        for change in ({"pixel_size_um": 0.4}, {"numerical_aperture": 0.5}, {"magnification": 40.0}):
            with pytest.raises(ModelMismatchError, match=f"{next(iter(change))} is"):
                tiny.check(dataclasses.replace(OPTICS, **change))
        with pytest.raises(ModelMismatchError, match="pixel_size_um is nan"):
            tiny.check_values({"pixel_size_um": math.nan})

    def test_a_tolerance_of_its_own(self, trained):
        model = trained[0].model
        model.check_values({"magnification": 28.0})
        with pytest.raises(ModelMismatchError, match="within 50 %"):
            model.check_values({"magnification": 31.0})

    def test_it_stands_where_the_default_does(self, tiny):
        json.dumps(tiny.parameters)
        tiny.prepare()
        analysis = FocusClassAnalysis(tiny, optics=OPTICS)
        reading = analysis.analyse_exposure(colour_frame(), {})
        assert reading.estimate == tiny.estimate(colour_frame())
        assert analysis.model_hash == tiny.model_hash and analysis.range_um == 15.0
