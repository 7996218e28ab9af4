"""``predict hh-net`` and ``train hh-net`` as a user runs them."""

import contextlib
import functools
import io
import json

import cv2
import numpy as np
import pytest
import tifffile

from bluesky_autofocus.cli import main
from bluesky_autofocus.models.card import FeatureRecord, ModelCard, ModelInputs, TrainingRecord
from bluesky_autofocus.models.hh_net import ClassTable, HHNetModel
from bluesky_autofocus.models.hh_net._model import ARCHITECTURE
from bluesky_autofocus.models.hh_net.bins import DefocusBins
from bluesky_autofocus.models.hh_net.classes import INDICES
from bluesky_autofocus.models.hh_net.vectors import PatchVectors
from bluesky_autofocus.training.hh_net import SmearRecipe, field_frames

pytestmark = [
    pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic"),
]


def brightness_model():
    """Return a model for which a frame whose region is darker than 120 is in focus, else out of focus I."""
    table = ClassTable.of_width(6.0)
    vectors = PatchVectors(100, ("handcrafted",))
    size = vectors.size
    kernel = np.zeros((size, 7))
    classes = list(reversed(INDICES))  # bins are in ascending order
    kernel[0, classes.index(1)] = 1.0  # the mean grey level of the region of interest
    bias = np.full(7, -60.0)
    bias[[classes.index(0), classes.index(1)]] = 0.0
    arrays = {
        "mean": np.eye(size)[0] * 120,
        "deviation": np.ones(size),
        "familiar.mean": np.zeros((7, size)),
        "familiar.axes": np.tile(np.eye(size) / 1e9, (7, 1, 1)),
        "network0.kernel0": kernel,
        "network0.bias0": bias,
    }
    card = ModelCard(
        name="brightness",
        architecture=ARCHITECTURE,
        version="1",
        inputs=ModelInputs("", 100, pixel_size_um=0.33, magnification=20.0, colour="rgb"),
        features=FeatureRecord("handcrafted", vectors.to_dict()),
        valid_range_um=(-15.0, 21.0),
        training=TrainingRecord("none"),
        figures={},
        valid_for="tests",
        licence="BSD-3-Clause",
        architecture_parameters={
            "classes": table.to_dict(),
            "bins_um": DefocusBins.of_classes(table).edges_um.tolist(),
            "networks": 1,
            "most_patches": 4,
            "temperature": 0.1,
            "strangeness_limit": 1.0,
            "sigma_floor_um": 1.7,
            "sigma_scale": 1.0,
            "most_sigma_um": [3.0] * 7,
        },
    )
    return HHNetModel(card, {name: np.asarray(array, np.float32) for name, array in arrays.items()})


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "brightness.h5"
    brightness_model().save(path)
    return path


def colour_frame(level=90, seed=0):
    """Return a bright frame with a square of some grey level in it."""
    frame = np.random.default_rng(seed).normal(220, 3, (200, 240, 3))
    frame[50:150, 60:180] -= 220 - level
    return frame.astype(np.uint8)


def run(*arguments):
    """Return the exit status, the lines of standard output read as JSON, and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(argument) for argument in arguments])
    return status, [json.loads(line) for line in out.getvalue().splitlines()], err.getvalue()


class TestPredict:
    @pytest.fixture
    def predict(self, weights):
        return functools.partial(run, "predict", "hh-net", "--weights", weights, "--json")

    @pytest.fixture
    def tiff(self, tmp_path):
        tifffile.imwrite(tmp_path / "frame.tif", colour_frame(), photometric="rgb")
        return tmp_path / "frame.tif"

    def test_a_tiff(self, predict, tiff, weights):
        status, (line,), _ = predict(tiff)
        assert status == 0
        assert (line["method"], line["file"], line["frame"]) == ("hh-net", str(tiff), 0)
        assert (line["index"], line["name"], line["accepted"], line["reason"]) == (0, "in focus", True, "ok")
        assert line["probabilities"] == pytest.approx([0, 0, 0, 0, 1, 0, 0], abs=1e-6)
        assert line["certainty"] == pytest.approx(1, abs=1e-4)
        assert (line["expected_index"], line["sigma_index"]) == pytest.approx((0, 0), abs=1e-4)
        assert (line["defocus_um"], line["sigma_um"]) == pytest.approx((0, 1.908), abs=1e-3)
        assert (line["patches"], line["vote"]) == (4, "certainty")
        assert line["model_hash"] == HHNetModel.load(weights).model_hash

    def test_each_page_is_a_frame(self, predict, tmp_path):
        pages = np.stack([colour_frame(), colour_frame(150), colour_frame() * 0])
        tifffile.imwrite(tmp_path / "pages.tif", pages, photometric="rgb")
        status, lines, _ = predict(tmp_path / "pages.tif", "--vote", "hard")
        assert status == 1
        assert [line["frame"] for line in lines] == [0, 1, 2]
        assert [line["index"] for line in lines] == [0, 1, None]
        assert [line["vote"] for line in lines] == 3 * ["hard"]
        assert lines[1]["defocus_um"] == pytest.approx(6)
        assert (lines[2]["reason"], lines[2]["defocus_um"], lines[2]["certainty"]) == ("black", None, None)
        assert (lines[2]["probabilities"], lines[2]["patches"], lines[2]["accepted"]) == ([], 0, False)

    def test_a_png_is_read_as_red_green_blue(self, predict, tmp_path):
        frame = colour_frame()
        frame[..., 0] = 0  # no red
        cv2.imwrite(str(tmp_path / "frame.png"), frame[..., ::-1])
        cv2.imwrite(str(tmp_path / "good.png"), colour_frame(150)[..., ::-1])
        status, lines, _ = predict(tmp_path / "frame.png", tmp_path / "good.png")
        assert status == 1
        assert [line["reason"] for line in lines] == ["black", "ok"]
        assert lines[1]["index"] == 1

    def test_for_a_person(self, weights, tiff, tmp_path, capsys):
        assert main(["predict", "hh-net", str(tiff), "--weights", str(weights)]) == 0
        said = capsys.readouterr().out
        assert said == f"{tiff} [0]: in focus (index 0), certainty 1.00, defocus +0.0 +- 1.9 um\n"
        tifffile.imwrite(tmp_path / "black.tif", np.zeros((200, 240, 3), np.uint8), photometric="rgb")
        assert main(["predict", "hh-net", str(tmp_path / "black.tif"), "--weights", str(weights)]) == 1
        assert capsys.readouterr().out == f"{tmp_path / 'black.tif'} [0]: refused (black)\n"

    def test_a_grey_frame_only_when_asked(self, predict, tmp_path):
        path = tmp_path / "grey.tif"
        tifffile.imwrite(path, colour_frame()[..., 0], photometric="minisblack")
        status, said, error = predict(path)
        assert (status, said) == (2, []) and "page 0: the frame has shape" in error and "repeat" in error
        status, (line,), _ = predict(path, "--grey", "repeat")
        assert (status, line["index"]) == (0, 0)

    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            (("--pixel-size-um", 0.5), "pixel_size_um is 0.5: brightness was made for 0.33"),
            (("--magnification", 40), "magnification is 40: brightness was made for 20"),
            (("--full-scale", 0), "full_scale must be positive"),
        ],
    )
    def test_options_that_make_no_sense(self, predict, tiff, options, complaint):
        status, said, error = predict(tiff, *options)
        assert (status, said) == (2, []) and complaint in error and error.count("\n") == 1, error

    def test_options_that_fit(self, predict, tiff):
        assert predict(tiff, "--pixel-size-um", 0.33, "--magnification", 20, "--na", 0.4)[0] == 0

    def test_a_way_of_voting_that_there_is_not(self, tiff, capsys):
        with pytest.raises(SystemExit) as ended:
            main(["predict", "hh-net", str(tiff), "--vote", "loud"])
        assert ended.value.code == 2 and "--vote" in capsys.readouterr().err

    def test_a_file_that_states_another_pixel_size(self, predict, tmp_path):
        path = tmp_path / "frame.ome.tif"
        metadata = {"axes": "YXS", "PhysicalSizeX": 0.65, "PhysicalSizeXUnit": "µm"}
        tifffile.imwrite(path, colour_frame(), photometric="rgb", ome=True, metadata=metadata)
        status, said, error = predict(path)
        assert (status, said) == (2, []) and "as the file says, pixel_size_um is 0.65" in error

    def test_what_is_no_frame_or_no_model(self, predict, tiff, weights, tmp_path):
        tifffile.imwrite(tmp_path / "small.tif", colour_frame()[:, :90], photometric="rgb")
        tifffile.imwrite(tmp_path / "deep.tif", colour_frame().astype(np.uint16), photometric="rgb")
        (tmp_path / "text.png").write_text("no image")
        (tmp_path / "text.tif").write_text("no image")
        (tmp_path / "broken.h5").write_bytes(weights.read_bytes()[:2000])
        for path, options, complaint in (
            (tmp_path / "missing.tif", (), "there is no file"),
            (tmp_path / "missing.png", (), "there is no file"),
            (tmp_path / "small.tif", (), "expected at least one patch of 100 px"),
            (tmp_path / "deep.tif", (), "the frame is of uint16: expected uint8"),
            (tmp_path / "text.png", (), "cannot be read as an image"),
            (tmp_path / "text.tif", (), "is not a TIFF file"),
            (tiff, ("--weights", tmp_path / "broken.h5"), "broken.h5"),
            (tiff, ("--weights", tmp_path / "missing.h5"), "cannot read the model"),
        ):
            status, said, error = predict(path, *options)
            assert (status, said) == (2, []) and complaint in error and error.count("\n") == 1, error

    def test_the_weights_of_the_package(self, tmp_path):
        """Of frames far on both sides of focus, the side at least is right."""
        recipe = SmearRecipe(0, 1, frames=1, defocus_um=(12.0, 12.1), tail_share=0.0)
        for seed, low in ((391_000, 12.0), (391_000, -12.0)):
            recipe = SmearRecipe(0, 1, frames=1, defocus_um=(low, low + 0.1), tail_share=0.0)
            (frame,), _ = field_frames(recipe, seed)
            tifffile.imwrite(tmp_path / "smear.tif", frame, photometric="rgb")
            _, (line,), _ = run("predict", "hh-net", tmp_path / "smear.tif", "--json")
            assert line["patches"] == 9
            assert line["index"] * low > 0 and abs(line["defocus_um"] - low) < 6


class TestTrain:
    @pytest.fixture(autouse=True)
    def _catalog(self, monkeypatch, tmp_path):
        monkeypatch.setenv("BLUESKY_AUTOFOCUS_DATA", str(tmp_path / "data"))

    def test_simulated(self, monkeypatch, tmp_path):
        """A few small fields, simulated, kept, and trained on a little."""
        pytest.importorskip("tensorflow")
        from bluesky_autofocus.training import hh_net

        made = tmp_path / "cache"
        monkeypatch.setattr(hh_net, "CACHE", made)
        small = {"frames": 6, "frame_px": 300}
        monkeypatch.setattr(hh_net, "TRAINING", (SmearRecipe(5, 8, **small), SmearRecipe(13, 8, **small)))
        monkeypatch.setattr(hh_net, "CALIBRATION", (SmearRecipe(30, 4, **small),))
        monkeypatch.setattr(hh_net, "simulated", _here)
        output = tmp_path / "trained.h5"
        status, (said,), _ = run("train", "hh-net", "--output", output, "--steps", 100, "--seed", 3, "--json")
        assert status == 0
        card = HHNetModel.load(output).card
        assert (said["model"], said["hash"]) == (str(output.resolve()), card.hash)
        assert (card.training.seed, card.training.options["steps"]) == (3, 100)
        assert 90 <= said["frames"] <= 120 and said["fields"] == 20
        assert said["figures"]["validation_frame_accuracy_certainty"] > 0.3
        assert len(list(made.glob("*.npz"))) == 3
        kept = hh_net.smear_frames(*hh_net.TRAINING, show=False)
        assert (
            kept.energies.shape[1:] == (1, 12)
            and kept.spectra.shape[1:] == (1, PatchVectors(300).size)
            and set(kept.field) <= set(range(5, 21))
        )

    def test_recorded(self, tmp_path):
        """Stacks of a smear, collected, and trained on: the network learns what these frames show."""
        pytest.importorskip("tensorflow")
        small = ("--fields", 10, "--frame-px", 310, "--step-um", 4, "--sample", "blood", "--seed", 4)
        assert run("collect", "--instrument", "smear", *small, "--json")[0] == 0
        output = tmp_path / "trained.h5"
        train = ("train", "hh-net", "--json", "--run", -1)
        taken = ("--pixel-size-um", 0.33, "--na", 0.4, "--magnification", 20)
        status, (said,), error = run(*train, *taken, "--steps", 100, "--output", output)
        assert status == 0, error
        card = HHNetModel.load(output).card
        assert said["fields"] == card.training.fields == 10 and said["frames"] > 90
        assert card.training.data.startswith("recorded: ")
        assert said["figures"]["validation_within_one"] > 0.8
        again = ("--steps", 20, "--start", output, "--output", tmp_path / "again.h5", "--seed", 1)
        status, (said,), _ = run(*train, *again)
        assert status == 0 and said["figures"]["validation_within_one"] > 0.8

    def test_as_published(self, monkeypatch, tmp_path):
        """Hardly any width and one pass: that it is trained, written, and read by ``predict``."""
        pytest.importorskip("tensorflow")
        from bluesky_autofocus.training import published_hh_net

        monkeypatch.setattr(published_hh_net, "CACHE", tmp_path / "cache")
        monkeypatch.setattr(published_hh_net, "simulated", _here)
        recipe = SmearRecipe(60, 7, frames=10, frame_px=300, defocus_um=(-15.0, 27.0), tail_share=0.0)
        monkeypatch.setattr(published_hh_net, "TRAINING", recipe)
        monkeypatch.setattr(published_hh_net, "SHOWN", 1)
        output = tmp_path / "published.h5"
        narrow = ("--published", "--width", 1 / 64, "--epochs", 1, "--output", output, "--json")
        status, (said,), error = run("train", "hh-net", *narrow)
        assert status == 0 and said["frames"] > 50, error
        (frame,), _ = field_frames(SmearRecipe(0, 1, frames=1, frame_px=320), 3)
        tifffile.imwrite(tmp_path / "smear.tif", frame, photometric="rgb")
        _, (line,), _ = run("predict", "hh-net", "--weights", output, tmp_path / "smear.tif", "--json")
        assert (line["patches"], line["model_hash"]) == (1, said["hash"])

    def test_what_would_fail_later(self, tmp_path):
        there = tmp_path / "there.h5"
        there.write_bytes(b"")
        for options, complaint in (
            (("--steps", 0), "--steps must be at least 1"),
            (("--epochs", 0), "--epochs must be at least 1"),
            (("--epochs", 3), "--epochs has no effect without --published"),
            (("--published", "--steps", 3), "--steps has no effect with --published"),
            (("--class-width-um", 0), "--class-width-um must be positive"),
            (("--na", 0.5), "--na has no effect without --run"),
            (("--run", "abc", "--start", tmp_path / "none.h5"), "there is no file"),
            (("--run", "abc", "--start", there, "--na", 0.5), "--na has no effect"),
            (("--run", "abc", "--na", 0.5), "give --pixel-size-um, --magnification"),
            (("--start", there), "--start has no effect without --run"),
            (("--published", "--run", "abc"), "give no --run"),
            (("--output", there), "is there already"),
            (("--output", tmp_path / "no" / "folder.h5"), "there is no folder"),
        ):
            status, said, error = run("train", "hh-net", "--output", tmp_path / "out.h5", "--json", *options)
            assert (status, said) == (2, []) and complaint in error

    def test_training_calibration_and_test_share_no_field(self):
        from bluesky_autofocus.training import hh_net

        seeds = [
            range(one.first_seed, one.first_seed + one.count)
            for of in (hh_net.TRAINING, hh_net.CALIBRATION, hh_net.TEST)
            for one in of
        ]
        assert len({seed for one in seeds for seed in one}) == sum(map(len, seeds))

    def test_defoci_are_drawn_as_said(self):
        recipe = SmearRecipe(0, 1)
        rng = np.random.default_rng(0)
        drawn = np.array([recipe.draw_um(rng) for _ in range(4000)])
        low, high = recipe.defocus_um
        assert drawn.min() > recipe.tails_um[0] and drawn.max() < recipe.tails_um[1]
        assert np.mean((drawn < low) | (drawn > high)) == pytest.approx(recipe.tail_share, abs=0.02)
        assert drawn.min() < low and drawn.max() > 50


def _here(of_field, recipe, **_):
    """Simulate the fields in this very process."""
    for seed in range(recipe.first_seed, recipe.first_seed + recipe.count):
        yield seed, of_field((recipe, seed))
