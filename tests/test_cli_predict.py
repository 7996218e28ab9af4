"""``predict`` and ``train`` as a user runs them."""

import contextlib
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import tifffile

from bluesky_autofocus.catalog import open_catalog
from bluesky_autofocus.cli import main
from bluesky_autofocus.models import read_model, write_model
from bluesky_autofocus.models._dense import DenseNetwork
from bluesky_autofocus.models.card import FeatureRecord, ModelCard, ModelInputs, TrainingRecord
from bluesky_autofocus.models.single_shot.features import StripFeatures
from bluesky_autofocus.models.single_shot.published import ARCHITECTURE, PublishedModel
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.simulation import AbbeImageFormation, LightCamera, specimen

# tiled's migration tool reads its own configuration in an old way
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic")

OPTICS = LightOptics()
FEATURES = StripFeatures(OPTICS, (0.4, 0.0), 64)


def make_model(path, scale=1.0, **changes):
    """Write a model of random weights, whose answers are small."""
    rng = np.random.default_rng(0)
    network = DenseNetwork(
        [
            (rng.standard_normal((FEATURES.size, 8)) / FEATURES.size, np.zeros(8)),
            (scale * rng.standard_normal((8, 1)), [3.0 * scale]),
        ]
    )
    parameters = dict(FEATURES.parameters)
    said = {
        "name": "random",
        "architecture": ARCHITECTURE,
        "version": "1",
        "inputs": ModelInputs.of(
            OPTICS, illumination="single(na=0.4, angle_deg=0)", patch_px=64, led_na_xy=[(0.4, 0.0)]
        ),
        "features": FeatureRecord(parameters.pop("name"), parameters),
        "valid_range_um": (-30, 30),
        "training": TrainingRecord("none"),
        "figures": {"validation_rmse_um": 1.25},
        "valid_for": "tests",
        "licence": "BSD-3-Clause",
    }
    write_model(path, ModelCard(**{**said, **changes}), network.arrays)
    return path


@pytest.fixture
def weights(tmp_path):
    return make_model(tmp_path / "model.h5")


def pixels(shape=(64, 128), seed=0):
    return np.random.default_rng(seed).poisson(1000, shape).astype(np.uint16)


@pytest.fixture
def frame(tmp_path):
    tifffile.imwrite(tmp_path / "frame.tif", pixels())
    return tmp_path / "frame.tif"


def run(*arguments):
    """Return the exit status, the lines of standard output read as JSON, and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(argument) for argument in arguments])
    return status, [json.loads(line) for line in out.getvalue().splitlines()], err.getvalue()


def test_each_frame_is_a_line(weights, frame, tmp_path):
    pages = np.stack([pixels(seed=1), np.full((64, 128), 700, np.uint16), pixels(seed=2)])
    tifffile.imwrite(tmp_path / "pages.tif", pages, photometric="minisblack")
    status, said, _ = run(
        "predict", "single-shot", frame, tmp_path / "pages.tif", "--weights", weights, "--json"
    )
    assert status == 1  # one of them shows nothing
    assert [(line["file"], line["frame"]) for line in said] == [
        (str(frame), 0), *[(str(tmp_path / "pages.tif"), n) for n in range(3)]
    ]  # fmt: skip
    model = PublishedModel.load(weights)
    for line, image in zip(said, [pixels(), *pages], strict=True):
        estimate = model.estimate(image)
        assert (line["accepted"], line["reason"]) == (estimate.accepted, str(estimate.reason))
        assert line["model_hash"] == model.model_hash
        if estimate.accepted:
            assert (line["defocus_um"], line["sigma_um"]) == (estimate.defocus_um, 1.25)
        else:
            assert (line["defocus_um"], line["sigma_um"]) == (None, None)
    assert [line["reason"] for line in said] == ["ok", "ok", "uniform", "ok"]


def test_all_accepted_is_success_and_lines_are_for_a_person(weights, frame, capsys):
    assert main(["predict", "single-shot", str(frame), "--weights", str(weights)]) == 0
    said = capsys.readouterr().out
    assert "frame.tif [0]: defocus +" in said and "+- 1.250 um" in said


def test_answers_out_of_range_are_refused(tmp_path, frame):
    wild = make_model(tmp_path / "wild.h5", scale=1e4)
    status, (line,), _ = run("predict", "single-shot", frame, "--weights", wild, "--json")
    assert (status, line["accepted"], line["reason"]) == (1, False, "out_of_range")


def test_the_optics_are_checked_against_the_card(weights, frame):
    base = ("predict", "single-shot", frame, "--weights", weights, "--json")
    fitting = (
        "--pixel-size-um",
        0.3,
        "--na",
        0.5,
        "--wavelength-um",
        0.53,
        "--led-na",
        0.4,
        "--led-angle-deg",
        0,
    )
    assert run(*base, *fitting)[0] == 0
    for option, value, complaint in (
        ("--pixel-size-um", 0.65, "pixel_size_um is 0.65: this estimator was made for 0.3"),
        ("--na", 0.75, "numerical_aperture is 0.75"),
        ("--wavelength-um", 0.63, "wavelength_um is 0.63"),
        ("--led-na", 0.3, "the light comes from NA 0.300"),
        ("--led-angle-deg", 90, "at 90.0 degrees"),
        ("--na", -1, "numerical_aperture is -1.0: expected a positive"),
    ):
        status, said, error = run(*base, option, value)
        assert (status, said) == (2, []) and complaint in error and error.count("\n") == 1


def test_a_file_that_says_that_its_pixels_are_of_another_size_is_refused(weights, tmp_path):
    for size, unit, expected in ((0.3, "µm", 0), (300, "nm", 0), (0.65, "µm", 2)):
        file = tmp_path / "frame.ome.tif"
        tifffile.imwrite(
            file, pixels(), metadata={"axes": "YX", "PhysicalSizeX": size, "PhysicalSizeXUnit": unit}
        )
        status, _, error = run("predict", "single-shot", file, "--weights", weights, "--json")
        assert status == expected
    assert "as the file says, pixel_size_um is 0.65" in error


def test_a_channel_of_a_colour_frame_can_be_chosen(weights, tmp_path):
    colour = np.stack([pixels(seed=n) for n in range(3)], axis=-1)
    tifffile.imwrite(tmp_path / "colour.tif", colour, photometric="rgb")
    base = ("predict", "single-shot", tmp_path / "colour.tif", "--weights", weights, "--json")
    status, _, error = run(*base)
    assert status == 2 and "is in colour: say which channel (--channel), 0 .. 2" in error
    assert run(*base, "--channel", 3)[0] == 2
    status, (line,), _ = run(*base, "--channel", 1)
    assert line["defocus_um"] == PublishedModel.load(weights).estimate(pixels(seed=1)).defocus_um


def test_what_is_no_frame_is_one_line_and_status_2(weights, frame, tmp_path):
    (tmp_path / "text.tif").write_text("no image")
    (tmp_path / "short.tif").write_bytes(frame.read_bytes()[:3000])
    tifffile.imwrite(tmp_path / "small.tif", pixels((63, 63)))
    tifffile.imwrite(tmp_path / "complex.tif", pixels().astype(np.complex64))
    for name, complaint in (
        ("missing.tif", "there is no file"),
        ("text.tif", "not a TIFF file"),
        ("short.tif", "short.tif"),
        ("small.tif", "small.tif, page 0: the frame is (63, 63) px: expected at least one patch of 64 px"),
        ("complex.tif", "pixels of type complex64"),
    ):
        status, said, error = run("predict", "single-shot", tmp_path / name, "--weights", weights, "--json")
        assert (status, said) == (2, []), name
        assert complaint in error and error.count("\n") == 1, error


def test_weights_that_cannot_be_used_are_one_line_and_status_2(weights, frame, tmp_path):
    damaged = bytearray(weights.read_bytes())
    damaged[-10] ^= 1
    (tmp_path / "damaged.h5").write_bytes(damaged)
    other = make_model(tmp_path / "other.h5", architecture="refocus-unet")
    for path, complaint in (
        (tmp_path / "damaged.h5", "damaged, cut short or altered"),
        (tmp_path / "missing.h5", "cannot read the model"),
        (other, "is a 'refocus-unet' network: expected one that tells the defocus"),
    ):
        status, said, error = run("predict", "single-shot", frame, "--weights", path, "--json")
        assert (status, said) == (2, []) and complaint in error


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Return two files of three planes of cells under opposite LEDs, and the true defoci."""
    folder = tmp_path_factory.mktemp("pair")
    formation = AbbeImageFormation(OPTICS, (512, 512))
    view, camera = formation.view(specimen("cells", 5, formation)), LightCamera()
    defoci, files = np.array([-12.0, 2.0, 15.0]), []
    for name, na in (("a", 0.4), ("b", -0.4)):
        frames = camera.frame(
            view.intensity(np.array([[na, 0.0]]), defoci + view.focus_um), np.random.default_rng(1)
        )
        files.append(folder / f"{name}.tif")
        tifffile.imwrite(files[-1], frames, photometric="minisblack")
    return files, defoci


def test_two_leds_tell_the_defocus_from_files(pair):
    files, defoci = pair
    status, said, _ = run("predict", "two-led", *files, "--json")
    assert status == 0
    for number, (line, defocus) in enumerate(zip(said, defoci, strict=True)):
        assert (line["files"], line["frame"], line["method"]) == ([str(f) for f in files], number, "two-led")
        assert line["defocus_um"] == pytest.approx(defocus, abs=1.5)
        assert 0 < line["sigma_um"] < 1.5
    # the other way round the light comes from the other side
    _, turned, _ = run("predict", "two-led", *files[::-1], "--json", "--bias-um", 0.5)
    for one, other in zip(said, turned, strict=True):
        assert other["defocus_um"] == pytest.approx(-one["defocus_um"] - 0.5, abs=0.05)


def test_pairs_must_be_pairs(pair, frame):
    files, _ = pair
    status, _, error = run("predict", "two-led", files[0], "--json")
    assert status == 2 and "in pairs" in error
    status, _, error = run("predict", "two-led", files[0], frame, "--json")
    assert status == 2 and "as many pages" in error
    status, _, error = run("predict", "two-led", *files, "--led-na", 0.7, "--json")
    assert status == 2 and "na is 0.7" in error


def test_predicting_never_imports_tensorflow(weights, frame, pair):
    code = (
        "import sys\n"
        "from bluesky_autofocus.cli import main\n"
        f"assert main(['predict', 'single-shot', {str(frame)!r}, '--weights', {str(weights)!r}]) == 0\n"
        f"assert main(['predict', 'two-led', *{[str(file) for file in pair[0]]!r}]) == 0\n"
        "print(sorted({'tensorflow', 'keras', 'torch', 'dask', 'matplotlib.pyplot'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """Serve a catalogue with stacks of a few small fields, to which commands attach; return its folder."""
    folder = tmp_path_factory.mktemp("catalog")
    status, said, _ = run(
        "collect", "--catalog", folder, "--fields", 4, "--frame-px", 256, "--range-um", 9, "--step-um", 3,
        "--sample", "first", "--json",
    )  # fmt: skip
    assert status == 0 and said[-1]["complete"]
    with contextlib.closing(open_catalog(folder)):
        yield folder


def test_a_network_is_trained_from_the_catalogue_and_predicts(catalog, tmp_path):
    pytest.importorskip("tensorflow")
    output = tmp_path / "trained.h5"
    train = (
        "train", "single-shot", "--published", "--catalog", catalog, "--sample", "first", "--patch-px", 128,
        "--epochs", 2, "--seed", 7, "--output", output, "--json",
    )  # fmt: skip
    status, (said,), error = run(*train)
    assert status == 0, error
    card, _ = read_model(output)
    assert said["model"] == str(output) and said["hash"] == card.hash and said["figures"] == card.figures
    assert said["fields"] + said["fields_left_out"] == 4 and said["frames"] == 7 * said["fields"]
    assert (card.training.seed, card.training.options["epochs"]) == (7, 2)
    assert card.inputs.optics == OPTICS and card.inputs.led_na_xy == ((0.4, 0.0),)
    assert card.inputs.illumination == "single(na=0.4, angle_deg=0)" and card.inputs.patch_px == 128
    assert 7 < card.valid_range_um[1] <= 9 and "first" in card.valid_for
    tifffile.imwrite(tmp_path / "frame.tif", pixels((256, 256)))
    status, (line,), _ = run("predict", "single-shot", tmp_path / "frame.tif", "--weights", output, "--json")
    assert status in (0, 1) and line["model_hash"] == card.hash
    status, _, error = run(*train)
    assert status == 2 and "is there already" in error


def test_the_default_model_is_given_the_powers_of_patches(catalog, tmp_path, monkeypatch):
    pytest.importorskip("tensorflow")
    from bluesky_autofocus.models.single_shot import train

    given = {}

    def record(powers, defocus_um, groups, features, **options):
        given.update(options, powers=powers, defocus_um=defocus_um, groups=groups, features=features)
        raise ValueError("far enough")

    monkeypatch.setattr(train, "train_default", record)
    status, _, error = run(
        "train", "single-shot", "--catalog", catalog, "--patch-px", 128, "--output", tmp_path / "m.h5",
        "--range-um", 8, "--features-folder", tmp_path / "features", "--json",
    )  # fmt: skip
    assert status == 2 and "far enough" in error
    assert given["powers"].shape == (len(given["defocus_um"]), 4, given["features"].size - 1)
    assert isinstance(given["powers"], np.memmap) and given["valid_range_um"] == 8
    assert len(given["groups"]) == len(given["defocus_um"])


def test_what_cannot_be_trained_is_said_before_the_work(catalog, tmp_path):
    pytest.importorskip("tensorflow")
    output = ("--output", tmp_path / "m.h5")
    # before the catalogue is opened, and then by what is in it
    for folder, options, complaint in (
        (tmp_path, (*output, "--epochs", 0), "--epochs must be at least 1"),
        (tmp_path, (*output, "--range-um", -3), "--range-um must be positive"),
        (tmp_path, (*output, "--patch-px", 8), "--patch-px must be at least 32"),
        (tmp_path, ("--output", tmp_path / "nowhere" / "m.h5"), "there is no folder"),
        (catalog, (*output, "--sample", "second"), "no run of collect_focal_stacks in the catalogue has"),
        (catalog, (*output, "--pattern", "half_annulus_top"), "expected a single LED"),
        (catalog, (*output, "--pattern", "single(na=0.2)"), "there are no stacks under single(na=0.2)"),
        (catalog, (*output, "--patch-px", 512), "expected at least one patch of 512 px"),
    ):
        status, said, error = run("train", "single-shot", "--catalog", folder, "--json", *options)
        assert (status, said) == (2, []) and complaint in error, error
    assert list(tmp_path.iterdir()) == []
