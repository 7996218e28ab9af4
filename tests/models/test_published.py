"""The network as published: learns, is repeatable, is saved, and answers without TensorFlow."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from bluesky_autofocus.defocus import DefocusEstimator, ModelMismatchError
from bluesky_autofocus.leds import Single
from bluesky_autofocus.models import ModelFileError, read_model, write_model
from bluesky_autofocus.models.single_shot.features import StripFeatures
from bluesky_autofocus.models.single_shot.published import (
    ARCHITECTURE,
    AS_PUBLISHED,
    PublishedModel,
    PublishedOptions,
    train_published,
)
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.records import Reason

pytest.importorskip("tensorflow")

FEATURES = StripFeatures(LightOptics(), (0.4, 0.0), 64)
OPTIONS = PublishedOptions(epochs=15, batch=32, learning_rate=3e-3, dropout=0.2, seed=1)


def spectra(fields, patches=2, seed=0):
    """Return vectors, defoci and fields: fringes whose phase goes with defocus, under random specimens."""
    planes_um = np.linspace(-20, 20, 21)
    rng = np.random.default_rng(seed)
    along = np.arange(-FEATURES.half_length, FEATURES.half_length)[:, None] / FEATURES.half_length
    across = np.arange(FEATURES.width) / FEATURES.half_length
    g = 0.03 * (along**2 + across**2)  # so that the phase stays within a quarter turn: no ambiguity
    defocus = np.tile(planes_um, fields)
    specimens = rng.gamma(25, size=(fields, 1, patches, *g.shape)) / 25
    fringes = np.abs(np.sin(planes_um[:, None, None] * g + 0.8)) + 0.1
    vectors = (specimens * fringes[:, None]).reshape(len(defocus), patches, -1)
    vectors /= vectors.mean(axis=-1, keepdims=True)
    return vectors.astype(np.float32), defocus, np.repeat(np.arange(fields), len(planes_um))


@pytest.fixture(scope="module")
def data():
    return spectra(40)


@pytest.fixture(scope="module")
def trained(data):
    return train_published(
        *data, FEATURES, options=OPTIONS, valid_range_um=20.0, data="made up", valid_for="tests"
    )


@pytest.fixture
def path(trained, tmp_path):
    trained.model.save(tmp_path / "published.h5")
    return tmp_path / "published.h5"


def frame(seed=0, shape=(128, 160)):
    rng = np.random.default_rng(seed)
    return rng.poisson(1000 * np.exp(0.1 * rng.standard_normal(shape))).astype(np.uint16)


def test_it_learns_the_defocus_of_fields_that_it_has_not_seen(trained):
    vectors, defocus, _ = spectra(10, seed=99)
    error = trained.model.predict(vectors) - defocus
    assert np.sqrt(np.mean(error**2)) < 4.5  # guessing gives 12
    assert trained.validation_rmse_um < 0.6 * trained.history["validation_rmse_um"][0]
    assert trained.history["loss"][-1] < 0.5 * trained.history["loss"][0]


def test_what_it_says_of_its_error_holds_for_the_fields_kept_out(trained, data):
    vectors, defocus, groups = data
    assert len(trained.validation_groups) == 8
    kept = np.isin(groups, trained.validation_groups)
    error = trained.model.predict(vectors[kept]) - defocus[kept]
    assert np.sqrt(np.mean(error**2)) == pytest.approx(trained.validation_rmse_um, rel=1e-5)
    assert trained.validation_rmse_um == min(trained.history["validation_rmse_um"])
    dof_um = LightOptics().depth_of_field_um
    assert trained.validation_rmse_dof == pytest.approx(trained.validation_rmse_um / dof_um)


def test_averaging_over_patches_is_better_than_one(trained):
    vectors, defocus, _ = spectra(10, patches=6, seed=99)
    rmse = [
        np.sqrt(np.mean((trained.model.predict(vectors[:, :n]) - defocus) ** 2)) for n in (1, 6)
    ]  # fmt: skip
    assert rmse[1] < rmse[0]


def test_the_same_seed_gives_the_same_weights_and_another_one_others(data):
    few = dataclasses.replace(OPTIONS, epochs=2)
    made = [
        train_published(*data, FEATURES, options=options).model.network.arrays
        for options in (few, few, dataclasses.replace(few, seed=2))
    ]
    for name in made[0]:
        np.testing.assert_array_equal(made[0][name], made[1][name])
    assert not np.array_equal(made[0]["kernel0"], made[2]["kernel0"])


def test_training_leaves_the_random_numbers_of_the_session_alone(data):
    np.random.seed(3)  # noqa: NPY002 - what others use
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    train_published(*data, FEATURES, options=dataclasses.replace(OPTIONS, epochs=1))
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_the_exported_network_gives_what_keras_gives(trained, data):
    vectors = data[0][:50]
    keras = np.asarray(trained.keras_model(vectors.reshape(-1, FEATURES.size), training=False))
    expected = keras.reshape(50, 2).mean(axis=1) * OPTIONS.target_scale_um
    np.testing.assert_allclose(trained.model.predict(vectors), expected, atol=2e-4)


def test_a_saved_model_is_the_same_model(trained, path, data):
    loaded = PublishedModel.load(path)
    np.testing.assert_array_equal(loaded.predict(data[0][:20]), trained.model.predict(data[0][:20]))
    assert loaded.estimate(frame()) == trained.model.estimate(frame())
    assert loaded.card == trained.model.card
    assert loaded.model_hash == trained.model.model_hash and len(loaded.model_hash) == 64
    card = loaded.card
    assert (card.architecture, card.training.fields, card.training.frames, card.training.seed) == (
        ARCHITECTURE, 40, 840, 1,
    )  # fmt: skip
    assert card.training.options["learning_rate"] == 3e-3 and "tensorflow" in card.training.versions
    assert card.figures["validation_rmse_um"] == trained.validation_rmse_um
    assert (card.valid_for, card.training.data, card.valid_range_um) == ("tests", "made up", (-20.0, 20.0))


def test_it_is_an_estimator(trained):
    model = trained.model
    assert isinstance(model, DefocusEstimator)
    assert model.leds == (Single(0.4, 0.0),) and model.frames_needed == 1 and model.range_um == 20.0
    json.dumps(model.parameters)
    found = model.estimate(frame())
    expected = model.predict(model.features(frame())[None])[0]  # 2 x 2 patches
    if abs(expected) <= 20:
        assert found.accepted and found.defocus_um == pytest.approx(expected)
        assert found.sigma_um == trained.validation_rmse_um
    else:
        assert found.reason is Reason.OUT_OF_RANGE


def test_it_answers_within_its_range_only(trained):
    model = trained.model
    answers = [model.estimate(frame(seed)) for seed in range(3)]
    narrow = dataclasses.replace(model.card, valid_range_um=(-1e-3, 1e-3))
    refused = PublishedModel(narrow, model.network.arrays).estimate(frame())
    assert refused.reason is Reason.OUT_OF_RANGE and np.isnan(refused.defocus_um)
    assert all(abs(answer.defocus_um) <= 20 for answer in answers if answer.accepted)


def test_frames_that_nothing_can_be_seen_in_are_refused(trained):
    for bad, reason in (
        (np.zeros((64, 64), np.uint16), Reason.BLACK),
        (np.full((64, 64), 65535, np.uint16), Reason.SATURATED),
        (np.full((64, 64), 500, np.uint16), Reason.UNIFORM),
        (np.full((64, 64), np.nan, np.float32), Reason.NOT_FINITE),
    ):
        assert trained.model.estimate(bad).reason is reason


@pytest.mark.parametrize(
    ("frames", "complaint"),
    [
        ([np.ones((63, 200), np.uint16)], "at least one patch of 64 px"),
        ([np.ones((128, 128, 3), np.uint8)], "without colours"),
        ([], "got 0 frames"),
    ],
)
def test_what_is_no_frame_is_an_error(trained, frames, complaint):
    with pytest.raises(ValueError, match=complaint):
        trained.model.estimate(*frames)


def test_other_light_is_refused(trained):
    trained.model.check(LightOptics(), [(0.4, 0.0)])
    for optics, na_xy in (
        (LightOptics(pixel_size_um=0.31), (0.4, 0.0)),
        (LightOptics(numerical_aperture=0.45), (0.4, 0.0)),
        (LightOptics(), (0.4, 0.03)),
        (LightOptics(), (np.nan, np.nan)),
    ):
        with pytest.raises(ModelMismatchError):
            trained.model.check(optics, [na_xy])


def test_training_stops_when_nothing_is_gained(data):
    """With a learning rate that changes nothing, after `patience` batches."""
    idle = PublishedOptions(epochs=50, patience=60, batch=64, learning_rate=1e-12, schedule="constant")
    stopped = train_published(*data, FEATURES, options=idle)
    steps = 32 * 21 * 2 // 64
    assert 60 <= stopped.history["step"][-1] < 60 + 3 * steps
    assert len(stopped.history["step"]) < 50


def test_the_published_settings_can_be_chosen_and_progress_is_told(data):
    assert (AS_PUBLISHED.learning_rate, AS_PUBLISHED.batch, AS_PUBLISHED.patience) == (2e-5, 25, 2000)
    assert (AS_PUBLISHED.dropout, AS_PUBLISHED.width, AS_PUBLISHED.depth) == (0.6, 100, 10)
    told = []
    made = train_published(
        *data,
        FEATURES,
        options=dataclasses.replace(AS_PUBLISHED, epochs=2),
        progress=lambda done, total: told.append((done, total)),
    )
    assert told[-1] == (2 * (32 * 21 * 2 // 25),) * 2
    assert made.model.network.arrays["kernel0"].shape == (FEATURES.size, 100)
    assert len(made.model.network.arrays) == 22


def test_the_progress_bar_goes_to_standard_error(data, capsys):
    train_published(*data, FEATURES, options=dataclasses.replace(OPTIONS, epochs=1), progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "100%" in err


class OnDisk:
    """Vectors of which only some rows at a time may be had."""

    def __init__(self, array):
        self._array, self.shape, self.ndim = array, array.shape, array.ndim

    def __len__(self):
        return len(self._array)

    def __getitem__(self, rows):
        assert len(rows) <= 512
        return self._array[rows]


def test_vectors_may_lie_on_disk_and_validation_data_may_be_given(data):
    vectors, defocus, groups = data
    few = dataclasses.replace(OPTIONS, epochs=2)
    there = train_published(vectors, defocus, groups, FEATURES, options=few)
    apart = train_published(OnDisk(vectors), defocus, groups, FEATURES, options=few)
    np.testing.assert_array_equal(
        there.model.network.arrays["kernel3"], apart.model.network.arrays["kernel3"]
    )
    given = train_published(
        vectors[:, 0], defocus, groups, FEATURES, options=few, validation=(vectors[:50, 0], defocus[:50])
    )
    assert len(given.validation_groups) == 0
    assert given.model.card.figures["validation_frames"] == 50


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda x, z, g: (x[..., :-1], z, g), "length 107: these features make 108"),
        (lambda x, z, g: (x, z[:-1], g), "have shapes"),
        (lambda x, z, g: (x, np.where(z > 0, np.nan, z), g), "not finite"),
        (lambda x, z, g: (x, z, np.zeros_like(g)), "there is 1 field: expected at least 2"),
        (lambda x, z, g: (x[:0], z[:0], g[:0]), "have shapes"),
    ],
)
def test_data_that_do_not_fit_are_refused(data, change, complaint):
    with pytest.raises(ValueError, match=complaint):
        train_published(*change(*data), FEATURES)


@pytest.mark.parametrize(
    "option",
    [
        {"epochs": 0},
        {"learning_rate": 0.0},
        {"dropout": 1.0},
        {"validation_share": 1.0},
        {"schedule": "step"},
    ],
)
def test_options_that_make_no_sense_are_refused(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} is"):
        PublishedOptions(**option)


def test_weights_that_do_not_fit_the_card_are_refused(path):
    card, arrays = read_model(path)

    def refused(card, arrays, complaint):
        write_model(path, card, arrays)
        with pytest.raises(ModelFileError, match=complaint):
            PublishedModel.load(path)

    inputs = dataclasses.replace(card.inputs, patch_px=128)
    refused(dataclasses.replace(card, inputs=inputs), arrays, "does not fit features of length")
    refused(dataclasses.replace(card, architecture="other"), arrays, "is a 'other' network")
    refused(dataclasses.replace(card, figures={}), arrays, "is incomplete: 'validation_rmse_um'")
    refused(dataclasses.replace(card, valid_range_um=None), arrays, "is incomplete")
    refused(card, {name: array for name, array in arrays.items() if name != "bias10"}, "expected the arrays")


def test_predicting_from_a_file_needs_no_tensorflow(path):
    code = (
        "import sys, numpy\n"
        "from bluesky_autofocus.models.single_shot.published import PublishedModel\n"
        f"model = PublishedModel.load({str(path)!r})\n"
        "model.estimate(numpy.random.default_rng(0).integers(1, 999, (64, 64)).astype(numpy.uint16))\n"
        "assert not {'tensorflow', 'keras', 'bluesky', 'ophyd', 'matplotlib'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
