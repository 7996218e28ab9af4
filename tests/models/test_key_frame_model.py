"""The key-frame model: NumPy beside Keras, the file, and what it refuses."""

import dataclasses
import math

import numpy as np
import pytest

from bluesky_autofocus.defocus import ModelMismatchError
from bluesky_autofocus.models._convolutional import Encoder, encoder_arrays, keras_encoder, restore_encoder
from bluesky_autofocus.models._training import import_keras
from bluesky_autofocus.models.card import (
    FeatureRecord,
    ModelCard,
    ModelFileError,
    ModelInputs,
    TrainingRecord,
)
from bluesky_autofocus.models.key_frame import KeyFrameModel, Scan
from bluesky_autofocus.models.key_frame._comparison import (
    Comparison,
    comparison_arrays,
    comparison_inputs,
    keras_comparison,
    restore_comparison,
)
from bluesky_autofocus.models.key_frame._model import ARCHITECTURE
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.records import Reason

PATCH = 48
SIZE, WIDTH = 5, 6
LAYERS = ((4, 5, 2), (6, 3, 1), (3, 2, 2))
SCANS = (Scan("coarse", (0.88, 1.2), 1.0, (3, 5), 1), Scan("fine", (0.22, 0.3), 0.25, (5, 9), 3))
OPTICS = LightOptics(1.3, 0.55, 0.108, 60.0, 1.4)


def make_arrays(seed=0):
    rng = np.random.default_rng(seed)
    arrays, channels = {}, 1
    for i, (filters, side, _) in enumerate(LAYERS):
        arrays[f"encoder.kernel{i}"] = rng.normal(0, 0.5, (side, side, channels, filters))
        arrays[f"encoder.bias{i}"] = rng.normal(0, 0.1, filters)
        channels = filters
    arrays["encoder.dense_kernel"] = rng.normal(0, 0.5, (2 * channels, SIZE))
    arrays["encoder.dense_bias"] = rng.normal(0, 0.1, SIZE)
    for name, side in (("coarse", 3), ("fine", 5)):
        shapes = ((side, 2 * SIZE + 2, WIDTH), (side, 2 * WIDTH, WIDTH), (1, WIDTH, 1))
        for i, shape in enumerate(shapes):
            arrays[f"{name}.kernel{i}"] = rng.normal(0, 0.3, shape)
            arrays[f"{name}.bias{i}"] = rng.normal(0, 0.1, shape[-1])
    arrays["familiar.mean"] = np.ones(SIZE)
    arrays["familiar.axes"] = np.eye(SIZE)[:2]
    arrays["familiar.spread"] = np.full(2, 100.0)
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def make_card(**changes):
    scans = tuple(map(dataclasses.asdict, SCANS))
    said = {
        "name": "tiny",
        "architecture": ARCHITECTURE,
        "version": "3",
        "inputs": ModelInputs(
            "", PATCH, pixel_size_um=0.108, magnification=60.0, numerical_aperture=1.3, scans=scans
        ),
        "features": FeatureRecord("relative patches", {"patch_px": PATCH}),
        "valid_range_um": None,
        "training": TrainingRecord("none"),
        "figures": {},
        "valid_for": "tests",
        "licence": "BSD-3-Clause",
        "architecture_parameters": {
            "layers": LAYERS,
            "strangeness_limit": 1.0,
            "numerical_aperture_tolerance": 0.1,
        },
    }
    return ModelCard(**{**said, **changes})


@pytest.fixture
def model():
    return KeyFrameModel(make_card(), make_arrays())


def frames_of(planes=3, shape=(160, 160), at=(80, 80), seed=0):
    """Return grey frames of a granular cell, as a camera gives them."""
    rng = np.random.default_rng(seed)
    frames = 1000 + rng.normal(0, 5, (planes, *shape))
    inside = np.hypot(*np.meshgrid(*(np.arange(n) - c for n, c in zip(shape, at, strict=True)))).T < 40
    grain = np.sin(np.arange(shape[0]) / 2)[:, None] * np.sin(np.arange(shape[1]) / 2)
    frames += 80 * inside * grain * np.linspace(0.5, 1, planes)[:, None, None]
    return frames.astype(np.uint16)


@pytest.fixture(scope="module")
def keras():
    pytest.importorskip("tensorflow")
    return import_keras()


@pytest.fixture(scope="module")
def trained(keras):
    """Return an encoder whose normalisation has seen a few batches."""
    keras, _ = keras
    keras.utils.set_random_seed(1)
    encoder = keras_encoder(keras, LAYERS, SIZE)
    rng = np.random.default_rng(2)
    for layer in encoder.layers:
        if layer.name.startswith("batch_norm"):
            gamma, beta, mean, variance = layer.get_weights()
            layer.set_weights(
                [rng.uniform(0.5, 2, gamma.shape), rng.normal(0, 1, beta.shape), mean, variance]
            )
    for _ in range(20):
        encoder(rng.normal(0.3, 2, (8, 24, 24, 1)).astype(np.float32), training=True)
    return encoder


class TestParity:
    @pytest.mark.parametrize("shape", [(24, 24), (25, 31), (7, 6)])
    def test_the_encoder(self, trained, shape):
        images = np.random.default_rng(3).normal(0, 1, (19, *shape, 1)).astype(np.float32)
        arrays = encoder_arrays(trained)
        expected = np.asarray(trained(images, training=False))
        assert expected.std() > 0.01
        np.testing.assert_allclose(Encoder(LAYERS, arrays)(images), expected, atol=1e-5)

    def test_no_images(self, trained):
        encoder = Encoder(LAYERS, encoder_arrays(trained))
        assert encoder(np.empty((0, 24, 24, 1), np.float32)).shape == (0, SIZE)

    def test_the_encoder_is_restored(self, keras, trained):
        arrays = encoder_arrays(trained)
        other = keras_encoder(keras[0], LAYERS, SIZE)
        restore_encoder(other, arrays)
        images = np.random.default_rng(3).normal(0, 1, (5, 24, 24, 1)).astype(np.float32)
        expected = np.asarray(trained(images, training=False))
        np.testing.assert_allclose(np.asarray(other(images, training=False)), expected, atol=1e-5)
        again = encoder_arrays(other)
        assert sorted(again) == sorted(arrays)
        for name, array in arrays.items():
            np.testing.assert_allclose(again[name], array, rtol=1e-5, atol=1e-7)

    @pytest.mark.parametrize("side", [3, 5])
    @pytest.mark.parametrize("planes", [3, 9])
    def test_the_comparison(self, keras, side, planes):
        keras, tf = keras
        keras.utils.set_random_seed(planes)
        made = keras_comparison(keras, SIZE, WIDTH, side, "coarse")
        rng = np.random.default_rng(4)
        made.set_weights([rng.normal(0, 0.5, one.shape) for one in made.get_weights()])
        features = rng.uniform(0, 2, (4, planes, SIZE)).astype(np.float32)
        stretch = np.full(4, 1.1, np.float32)
        out = made(comparison_inputs(tf, tf.constant(features), tf.constant(stretch)))
        expected = np.asarray(out)[..., 0]
        arrays = comparison_arrays(made)
        found = Comparison(arrays)(features, 1.1)
        assert found.shape == (4, planes + 2)
        np.testing.assert_allclose(found, expected, atol=1e-5)

        other = keras_comparison(keras, SIZE, WIDTH, side, "other")
        restore_comparison(other, arrays)
        for name, array in comparison_arrays(other).items():
            np.testing.assert_array_equal(array, arrays[name])

    def test_the_spacing_and_the_ends_count(self):
        arrays = {name[7:]: array for name, array in make_arrays().items() if name.startswith("coarse.")}
        features = np.random.default_rng(0).uniform(0, 2, (2, 4, SIZE)).astype(np.float32)
        compare = Comparison(arrays)
        assert compare.size == SIZE
        assert np.abs(compare(features, 1.2) - compare(features, 0.9)).max() > 1e-3
        np.testing.assert_array_equal(compare(features[:1], 1.0), compare(features, 1.0)[:1])


class TestFile:
    def test_there_and_back(self, model, tmp_path):
        assert model.model_hash == ""
        card = model.save(tmp_path / "tiny.h5")
        assert len(card.hash) == 64 and model.model_hash == card.hash
        read = KeyFrameModel.load(tmp_path / "tiny.h5")
        assert (read.card, read.model_hash, read.scans) == (model.card, card.hash, SCANS)
        assert sorted(read.arrays) == sorted(model.arrays)
        for name, array in model.arrays.items():
            np.testing.assert_array_equal(read.arrays[name], array)
        assert read.estimate(frames_of(), 1.0) == model.estimate(frames_of(), 1.0)

    def test_the_hash_is_of_the_weights(self, model, tmp_path):
        first = model.save(tmp_path / "first.h5").hash
        assert KeyFrameModel(model.card, model.arrays).save(tmp_path / "same.h5").hash == first
        assert KeyFrameModel(model.card, make_arrays(1)).save(tmp_path / "other.h5").hash != first

    def test_a_damaged_file(self, model, tmp_path):
        path = tmp_path / "tiny.h5"
        model.save(path)
        content = bytearray(path.read_bytes())
        at = content.find(model.arrays["encoder.dense_kernel"].tobytes())
        assert at > 0
        content[at] ^= 1
        path.write_bytes(content)
        with pytest.raises(ModelFileError):
            KeyFrameModel.load(path)
        path.write_bytes(content[:100])
        with pytest.raises(ModelFileError):
            KeyFrameModel.load(path)

    def test_there_is_no_file(self, tmp_path):
        with pytest.raises(ModelFileError, match="nowhere.h5"):
            KeyFrameModel.load(tmp_path / "nowhere.h5")

    def test_another_architecture(self):
        with pytest.raises(ModelFileError, match=f"tiny is a 'dense-2' network: expected '{ARCHITECTURE}'"):
            KeyFrameModel(make_card(architecture="dense-2"), make_arrays())

    @pytest.mark.parametrize("name", make_arrays())
    def test_an_array_is_missing(self, name):
        arrays = make_arrays()
        del arrays[name]
        with pytest.raises(ModelFileError, match="tiny is incomplete"):
            KeyFrameModel(make_card(), arrays)

    @pytest.mark.parametrize("change", ["longer", "scalar"])
    @pytest.mark.parametrize("name", make_arrays())
    def test_an_array_does_not_fit(self, name, change):
        arrays = make_arrays()
        old = arrays[name]
        new = np.float32(1) if change == "scalar" else np.concatenate([old, old], axis=-1)
        with pytest.raises(ModelFileError, match="tiny is incomplete"):
            KeyFrameModel(make_card(), {**arrays, name: new})

    @pytest.mark.parametrize(
        "changes",
        [
            {"inputs": ModelInputs("", PATCH)},
            {"inputs": ModelInputs("", PATCH, scans=({"name": "coarse"},))},
            {"inputs": ModelInputs("", PATCH, scans=({**dataclasses.asdict(SCANS[0]), "colour": 3},))},
            {"inputs": ModelInputs("", PATCH, scans=({**dataclasses.asdict(SCANS[0]), "name": "wide"},))},
            {"architecture_parameters": {}},
            {"architecture_parameters": {"layers": LAYERS}},
            {"architecture_parameters": {"layers": LAYERS[:1], "strangeness_limit": 1.0}},
            {"architecture_parameters": {"layers": "none", "strangeness_limit": 1.0}},
        ],
    )
    def test_the_card_does_not_fit(self, changes):
        with pytest.raises(ModelFileError, match="tiny is incomplete"):
            KeyFrameModel(make_card(**changes), make_arrays())


class TestEstimate:
    @pytest.mark.parametrize(("planes", "spacing_um"), [(3, 1.0), (5, 0.9), (7, 0.25), (9, 0.3)])
    def test_its_shape(self, model, planes, spacing_um):
        estimate = model.estimate(frames_of(planes), spacing_um)
        assert len(estimate.probabilities) == planes
        assert all(0 <= one <= 1 for one in (*estimate.probabilities, *estimate.outside))
        assert 0 <= estimate.plane < planes
        assert -2 * spacing_um < estimate.focus_um < (planes + 1) * spacing_um
        assert estimate.sigma_um > 0 and estimate.cells >= 1
        assert estimate.reason in (Reason.OK, Reason.EDGE, Reason.UNCERTAIN)
        assert estimate.accepted == (estimate.reason is Reason.OK)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
    def test_whatever_the_type_of_the_frames(self, model, dtype):
        expected = model.estimate(frames_of(), 1.0)
        assert model.estimate(frames_of().astype(dtype), 1.0) == expected

    def test_brightness_does_not_count(self, model):
        twice = model.estimate(2.0 * frames_of(), 1.0)
        assert twice.focus_um == pytest.approx(model.estimate(frames_of(), 1.0).focus_um, abs=1e-4)

    @pytest.mark.parametrize(
        ("frame", "reason"),
        [
            (np.zeros((160, 160), np.uint16), Reason.BLACK),
            (np.full((160, 160), 65535, np.uint16), Reason.SATURATED),
            (np.full((160, 160), 900, np.uint16), Reason.UNIFORM),
            (np.full((160, 160), np.nan), Reason.NOT_FINITE),
        ],
    )
    @pytest.mark.parametrize("at", [0, 2])
    def test_a_frame_that_shows_nothing(self, model, frame, reason, at):
        frames = list(frames_of().astype(frame.dtype))
        frames[at] = frame
        estimate = model.estimate(frames, 1.0)
        assert (estimate.accepted, estimate.reason, estimate.cells) == (False, reason, 0)
        assert np.isnan(estimate.focus_um) and np.isnan(estimate.sigma_um)
        assert (estimate.probabilities, estimate.plane) == ((), -1)

    def test_a_camera_that_saturates_early(self, model):
        clipped = np.minimum(frames_of(), 1000).astype(np.uint16)
        model.full_scale = 1000.0
        assert model.estimate(clipped, 1.0).reason is Reason.SATURATED
        assert model.parameters == {"model": "tiny", "version": "3", "full_scale": 1000.0}

    def test_an_empty_field(self, model):
        noise = np.random.default_rng(0).normal(1000, 10, (3, 160, 160))
        estimate = model.estimate(noise, 1.0)
        assert (estimate.accepted, estimate.reason) == (False, Reason.EMPTY)

    def test_unfamiliar_cells(self):
        strange = KeyFrameModel(
            make_card(), {**make_arrays(), "familiar.spread": np.full(2, 0.01, np.float32)}
        )
        estimate = strange.estimate(frames_of(), 1.0)
        assert (estimate.accepted, estimate.reason) == (False, Reason.UNFAMILIAR)

    @pytest.mark.parametrize(
        ("planes", "spacing_um", "said"),
        [(3, 2.0, "3 planes 2 um apart"), (2, 1.0, "2 planes 1 um"), (11, 0.25, "11 planes 0.25 um")],
    )
    def test_a_scan_that_the_card_does_not_list(self, model, planes, spacing_um, said):
        with pytest.raises(ModelMismatchError) as raised:
            model.estimate(frames_of(planes), spacing_um)
        message = str(raised.value)
        assert said in message and "tiny was made for" in message
        assert "coarse (3 to 5 planes, 0.88 to 1.2 um apart)" in message
        assert "fine (5 to 9 planes, 0.22 to 0.3 um apart)" in message

    def test_which_kind_of_scan(self, model):
        assert [model.scan_of(*one).name for one in ((1.0, 3), (0.88, 5), (1.2, 4))] == 3 * ["coarse"]
        assert [model.scan_of(*one).name for one in ((0.25, 7), (0.22, 5), (0.3, 9))] == 3 * ["fine"]

    @pytest.mark.parametrize("shape", [(160, 160), (3, 160, 160, 3)])
    def test_what_are_no_planes(self, model, shape):
        with pytest.raises(ValueError, match=r"expected \(n_planes, H, W\)"):
            model.estimate(np.ones(shape), 1.0)

    @pytest.mark.parametrize("shape", [(40, 160), (160, 47)])
    def test_frames_smaller_than_a_patch(self, model, shape):
        with pytest.raises(ValueError, match=r"expected at least a patch of 48 px"):
            model.estimate(frames_of(shape=shape), 1.0)

    def test_frames_of_just_a_patch(self, model):
        mask = np.ones((PATCH, PATCH), bool)
        estimate = model.estimate(frames_of(shape=(PATCH, PATCH), at=(24, 24)), 1.0, mask=mask)
        assert estimate.cells == 1

    def test_a_mask_of_ones_own(self, model):
        frames = frames_of(shape=(160, 300), at=(80, 70))
        mask = np.zeros((160, 300), bool)
        assert model.estimate(frames, 1.0, mask=mask).reason is Reason.EMPTY
        mask[40:120, 30:110] = True
        here = model.estimate(frames, 1.0, mask=mask)
        elsewhere = model.estimate(frames, 1.0, mask=mask[:, ::-1])
        assert here.cells >= 1 and here != elsewhere
        seen = []

        def find(planes):
            seen.append(planes)
            return mask

        assert model.estimate(frames, 1.0, mask=find) == here
        (planes,) = seen
        assert (planes.shape, planes.dtype) == ((3, 160, 300), np.float32)
        assert abs(planes.mean()) < 0.01, "relative to the local mean"

    def test_a_mask_of_another_shape(self, model):
        with pytest.raises(ValueError, match=r"the mask has shape \(160, 150\): expected that of the frames"):
            model.estimate(frames_of(), 1.0, mask=np.ones((160, 150)))


class TestOptics:
    def test_those_of_the_card(self, model):
        model.check(OPTICS)
        model.check(dataclasses.replace(OPTICS, numerical_aperture=1.2, wavelength_um=0.6))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"pixel_size_um": 0.216}, r"pixel_size_um is 0.216: tiny was made for 0.108 \(within 5 %\)"),
            ({"magnification": 40.0}, "magnification is 40: tiny was made for 60"),
            (
                {"numerical_aperture": 0.95},
                r"numerical_aperture is 0.95: tiny was made for 1.3 \(within 10 %\)",
            ),
        ],
    )
    def test_others(self, model, changes, message):
        with pytest.raises(ModelMismatchError, match=message):
            model.check(dataclasses.replace(OPTICS, **changes))

    def test_what_the_card_leaves_open(self):
        inputs = dataclasses.replace(make_card().inputs, magnification=None, numerical_aperture=None)
        model = KeyFrameModel(make_card(inputs=inputs), make_arrays())
        model.check(dataclasses.replace(OPTICS, magnification=10.0, numerical_aperture=0.3))
        with pytest.raises(ModelMismatchError, match="pixel_size_um is 1"):
            model.check(dataclasses.replace(OPTICS, pixel_size_um=1.0))

    def test_some_values(self, model):
        model.check_values({"magnification": 61.0})
        for value in (20.0, math.nan):
            with pytest.raises(ModelMismatchError, match=f"magnification is {value:g}"):
                model.check_values({"magnification": value})
