"""``predict key-frame`` and ``train key-frame`` as a user runs them."""

import contextlib
import dataclasses
import functools
import io
import json

import numpy as np
import pytest
import tifffile
from bluesky import RunEngine
from ophyd import Signal

from bluesky_autofocus.catalog import open_catalog
from bluesky_autofocus.cli import main
from bluesky_autofocus.dataset import labelled_cells
from bluesky_autofocus.devices import SimulatedAxis, SimulatedCamera, SimulatedLiveCellMicroscope
from bluesky_autofocus.frames import install_frame_routing
from bluesky_autofocus.models.card import FeatureRecord, ModelCard, ModelInputs, TrainingRecord
from bluesky_autofocus.models.key_frame import KeyFrameModel
from bluesky_autofocus.models.key_frame._model import ARCHITECTURE
from bluesky_autofocus.models.key_frame.train import COARSE, FINE, TrainingOptions
from bluesky_autofocus.plans import collect_focal_stacks, record_labels
from bluesky_autofocus.records import FocusLabel
from bluesky_autofocus.training.key_frame import CellRecipe, field_stack

pytestmark = [
    pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic"),
]

LAYERS = ((4, 5, 4),)


def middle_model():
    """Return a model for which the three planes in the middle of nine are in focus, whatever they show."""
    rng = np.random.default_rng(0)
    arrays = {
        "encoder.kernel0": rng.normal(0, 0.2, (5, 5, 1, 4)),
        "encoder.bias0": np.zeros(4),
        "encoder.dense_kernel": rng.normal(0, 0.2, (8, 2)),
        "encoder.dense_bias": np.zeros(2),
        "familiar.mean": np.zeros(2),
        "familiar.axes": np.eye(2),
        "familiar.spread": np.full(2, 1e3),
    }
    # those that are farther than two from the ends, and of these those between two others
    far, between = np.zeros((5, 6, 1)), np.zeros((5, 2, 1))
    far[:, -2] = -1
    between[1:4, 0] = 1
    for name in ("coarse", "fine"):
        kernels = (far, between, np.full((1, 1, 1), 60.0))
        for i, (kernel, bias) in enumerate(zip(kernels, (1.0, -2.0, -30.0), strict=True)):
            arrays[f"{name}.kernel{i}"], arrays[f"{name}.bias{i}"] = kernel, np.full(1, bias)
    card = ModelCard(
        name="middle",
        architecture=ARCHITECTURE,
        version="1",
        inputs=ModelInputs(
            "",
            64,
            pixel_size_um=0.108,
            numerical_aperture=1.3,
            magnification=60.0,
            scans=tuple(map(dataclasses.asdict, (COARSE, FINE))),
        ),
        features=FeatureRecord("relative patches"),
        valid_range_um=None,
        training=TrainingRecord("none"),
        figures={},
        valid_for="tests",
        licence="BSD-3-Clause",
        architecture_parameters={"layers": LAYERS, "strangeness_limit": 1.0},
    )
    return KeyFrameModel(card, {name: np.asarray(array, np.float32) for name, array in arrays.items()})


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "middle.h5"
    middle_model().save(path)
    return path


@pytest.fixture(scope="module")
def field():
    """Return nine frames of simulated living cells, and the step between them."""
    frames, _, step_um, _ = field_stack(CellRecipe(1, 1, planes=9, frame_px=192), 3)
    return frames, step_um


@pytest.fixture
def stack(field, tmp_path):
    frames, step_um = field
    tifffile.imwrite(
        tmp_path / "stack.tif",
        frames,
        imagej=True,
        metadata={"spacing": step_um, "unit": "um", "axes": "ZYX"},
    )
    return tmp_path / "stack.tif"


@pytest.fixture
def bare(field, tmp_path):
    tifffile.imwrite(tmp_path / "bare.tif", field[0], photometric="minisblack")
    return tmp_path / "bare.tif"


def run(*arguments):
    """Return the exit status, the lines of standard output read as JSON, and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(argument) for argument in arguments])
    return status, [json.loads(line) for line in out.getvalue().splitlines()], err.getvalue()


class TestPredict:
    @pytest.fixture
    def predict(self, weights):
        return functools.partial(run, "predict", "key-frame", "--weights", weights, "--json")

    def test_a_stack_is_a_line(self, predict, weights, stack, field):
        status, (line,), _ = predict(stack)
        assert status == 0
        step_um = field[1]
        assert (line["method"], line["file"], line["accepted"]) == ("key-frame", str(stack), True)
        assert (line["first_plane"], line["planes"], line["plane"]) == (0, 9, 4)
        assert line["positions_um"] == pytest.approx(step_um * np.arange(9), abs=1e-4)
        assert line["focus_um"] == pytest.approx(4 * step_um, abs=1e-4)
        assert 0 < line["sigma_um"] < 0.2 and line["cells"] >= 1
        assert np.round(line["probabilities"], 1).tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0]
        assert line["outside"] == [0, 0] and line["reason"] == "ok"
        assert line["model_hash"] == KeyFrameModel.load(weights).model_hash

    def test_for_a_person(self, weights, stack, field, capsys):
        assert main(["predict", "key-frame", str(stack), "--weights", str(weights)]) == 0
        assert f"[0:9]: focus at {4 * field[1]:.3f} +- " in capsys.readouterr().out
        assert main(["predict", "key-frame", str(stack), "--weights", str(weights), "--window", "5"]) == 1
        assert "[4:9]: refused (" in capsys.readouterr().out

    def test_every_window(self, predict, stack, field):
        status, said, _ = predict(stack, "--window", 7)
        assert [line["first_plane"] for line in said] == [0, 1, 2]
        assert {line["planes"] for line in said} == {7}
        starts = [line["positions_um"][0] for line in said]
        assert starts == pytest.approx(field[1] * np.arange(3), abs=1e-4)
        assert status == (0 if all(line["accepted"] for line in said) else 1)

    def test_every_fourth_plane_is_a_coarse_scan(self, predict, stack, field):
        status, (line,), _ = predict(stack, "--every", 4)
        assert line["positions_um"] == pytest.approx(field[1] * np.array([0.0, 4.0, 8.0]), abs=1e-4)
        # none of three is far from the ends
        assert (status, line["accepted"], line["plane"], line["focus_um"]) == (1, False, None, None)
        assert line["reason"] in ("uncertain", "edge")

    def test_one_that_shows_nothing(self, predict, field, tmp_path):
        frames = field[0].copy()
        frames[3] = 0
        tifffile.imwrite(tmp_path / "black.tif", frames, photometric="minisblack")
        status, (line,), _ = predict(tmp_path / "black.tif", "--step-um", 0.25)
        assert (status, line["accepted"], line["reason"], line["cells"]) == (1, False, "black", 0)
        assert (line["plane"], line["focus_um"], line["sigma_um"], line["outside"]) == 4 * (None,)
        assert line["probabilities"] == []

    def test_the_step_may_have_to_be_given(self, predict, bare):
        status, said, error = predict(bare)
        assert (status, said) == (2, []) and "--step-um" in error and error.count("\n") == 1
        status, (line,), _ = predict(bare, "--step-um", 0.25)
        assert (status, line["plane"], line["focus_um"]) == (0, 4, pytest.approx(1.0, abs=1e-4))

    def test_a_step_in_planes_is_none(self, predict, bare):
        bare.with_suffix(".json").write_text(json.dumps({"positions": list(range(9)), "unit": "plane"}))
        status, said, error = predict(bare)
        assert (status, said) == (2, []) and "does not say how far apart its planes are: give --step" in error

    def test_positions_beside_the_stack(self, predict, bare):
        bare.with_suffix(".json").write_text(json.dumps({"positions": [5 - 0.25 * n for n in range(9)]}))
        status, (line,), _ = predict(bare)
        assert status == 0
        assert line["positions_um"] == pytest.approx(3 + 0.25 * np.arange(9))
        assert line["focus_um"] == pytest.approx(4.0, abs=1e-4)

    def test_colour(self, predict, field, tmp_path):
        colour = np.stack([field[0][::-1], field[0], field[0]], axis=-1)
        tifffile.imwrite(tmp_path / "colour.tif", colour, photometric="rgb")
        base = (tmp_path / "colour.tif", "--step-um", 0.25)
        status, said, error = predict(*base)
        assert (status, said) == (2, []) and "is in colour: say which channel (--channel)" in error
        assert predict(*base, "--channel", 3)[0] == 2
        status, (line,), _ = predict(*base, "--channel", 1)
        assert (status, line["plane"]) == (0, 4)

    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            (("--step-um", 2.0), "9 planes 2 um apart: middle was made for coarse"),
            (("--every", 0), "--every must be at least 1, got 0"),
            (("--every", 9), "--every 9 leaves one plane"),
            (("--window", 1), "--window must be from 2 to the 9 planes"),
            (("--window", 10), "--window must be from 2 to the 9 planes"),
            (("--window", 3), "3 planes 0.25 um apart: middle was made for"),
            (("--pixel-size-um", 0.2), "pixel_size_um is 0.2: middle was made for 0.108"),
            (("--magnification", 40), "magnification is 40: middle was made for 60"),
            (("--na", "nan"), "numerical_aperture is nan: middle was made for 1.3"),
            (("--step-um", -1), "step_um must be positive"),
            (("--full-scale", 0), "full_scale must be positive"),
        ],
    )
    def test_options_that_make_no_sense(self, predict, bare, options, complaint):
        status, said, error = predict(bare, "--step-um", 0.25, *options)
        assert (status, said) == (2, []) and complaint in error and error.count("\n") == 1, error

    def test_options_that_fit(self, predict, stack):
        assert predict(stack, "--pixel-size-um", 0.11, "--magnification", 60, "--na", 1.3)[0] == 0

    def test_planes_unevenly_spaced(self, predict, bare):
        positions = [0.25 * n for n in range(8)] + [2.5]
        bare.with_suffix(".json").write_text(json.dumps({"positions": positions}))
        status, said, error = predict(bare)
        assert (status, said) == (2, []) and "planes must be evenly spaced, their steps are [0.25" in error

    def test_what_is_no_stack_or_no_model(self, predict, field, stack, weights, tmp_path):
        tifffile.imwrite(tmp_path / "small.tif", field[0][:, :60, :60], photometric="minisblack")
        (tmp_path / "broken.h5").write_bytes(weights.read_bytes()[:2000])
        for path, options, complaint in (
            (tmp_path / "missing.tif", (), "there is no focus stack at"),
            (tmp_path / "small.tif", ("--step-um", 0.25), "expected at least a patch of 64 px"),
            (stack, ("--weights", tmp_path / "broken.h5"), "broken.h5"),
            (stack, ("--weights", tmp_path / "missing.h5"), "cannot read the model"),
        ):
            status, said, error = predict(path, *options)
            assert (status, said) == (2, []) and complaint in error and error.count("\n") == 1, error


FIELDS = 11
STEP_UM = 0.25


class Bench:
    """Grains that are bright below focus and dark above; each field, 100 um of x wide, has its own focus."""

    def __init__(self, frame_directory):
        self.rng = np.random.default_rng(1)
        self.x, self.y, self.z = (SimulatedAxis(name=name, limits=(-5000.0, 5000.0)) for name in "xyz")
        self.camera = SimulatedCamera(
            name="camera",
            render=lambda: self.frame(round(self.x.position / 100), self.z.position),
            frame_directory=frame_directory,
            frame_shape=(160, 160),
        )

        class Focus(Signal):
            def get(signal, **kwargs):  # noqa: N805
                return self.focus_um(round(self.x.position / 100))

        self.truth = Focus(name="focus")

    @staticmethod
    def focus_um(number):
        return 3.0 + 0.6 * np.sin(2.5 * number)

    def frame(self, number, z_um):
        away_um = z_um - self.focus_um(number)
        y, x = np.mgrid[:160, :160] - 80.0
        phase = 0.7 * number
        grains = np.clip(np.sin(x / 3 + phase) * np.sin(y / 3 - phase), 0, None) ** 2
        grains *= np.hypot(x, y) < 60
        frame = 2000 * (1 - 0.3 * np.tanh(1.2 * away_um) * grains)
        return self.rng.normal(frame, 8).astype(np.uint16)

    def collect(self, fields, *, step_um=STEP_UM, span_um=2.25):
        return collect_focal_stacks(
            [self.camera],
            self.z,
            stage=(self.x, self.y),
            positions=[(100.0 * number, 0.0, 3.0) for number in range(fields)],
            sample="grains",
            z_um=(-span_um, span_um),
            step_um=step_um,
            truth=self.truth,
        )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Record labelled stacks; return their folder, the bench, and uids of runs by name.

    The catalogue is served all the while: commands attach to it.
    """
    folder = tmp_path_factory.mktemp("catalog")
    with contextlib.closing(open_catalog(folder)) as catalog:
        run_engine = RunEngine()
        install_frame_routing(run_engine)
        catalog.subscribe(run_engine)
        bench = Bench(catalog.frame_directory)
        runs = {"fine": run_engine(bench.collect(FIELDS))[0]}
        runs["wide"] = run_engine(bench.collect(2, step_um=1.0, span_um=3.0))[0]
        label = FocusLabel(0, -1, np.nan, usable=False, note="grains of sand")
        run_engine(record_labels([label], labels_of=runs["fine"], labeller="Ada"))
        yield folder, bench, runs


@pytest.fixture
def small(monkeypatch):
    """Let the command train a network that learns in seconds."""
    pytest.importorskip("tensorflow")
    from bluesky_autofocus.models.key_frame import train

    sizes = {"layers": ((6, 5, 4), (12, 3, 2)), "size": 16, "width": 16, "cells": 4, "learning_rate": 5e-3}
    monkeypatch.setattr(train, "TrainingOptions", functools.partial(TrainingOptions, **sizes))


def test_a_network_is_trained_from_labelled_runs_and_predicts(recorded, small, tmp_path):
    folder, bench, runs = recorded
    output = tmp_path / "trained.h5"
    train = ("train", "key-frame", "--catalog", folder, "--output", output, "--seed", 3, "--json")
    status, (said,), error = run(*train, "--run", runs["fine"], "--run", runs["wide"], "--steps", 120)
    assert status == 0, error
    model = KeyFrameModel.load(output)
    card = model.card
    assert (said["model"], said["hash"], said["figures"]) == (str(output), card.hash, card.figures)
    assert said["fields"] == card.training.fields == FIELDS - 1, "one is not usable, two are too wide"
    assert (card.training.seed, card.training.options["steps"]) == (3, 120)
    assert card.training.data.startswith("recorded: ") and runs["fine"] in card.training.data
    assert (card.inputs.pixel_size_um, card.inputs.magnification) == (0.108, 60.0)
    assert (card.inputs.patch_px, card.inputs.numerical_aperture) == (128, None)

    number = 40  # a field that was not recorded
    focus_um = bench.focus_um(number)
    positions_um = focus_um + 0.1 + STEP_UM * np.arange(-3, 4)
    frames = np.stack([bench.frame(number, z_um) for z_um in positions_um])
    tifffile.imwrite(tmp_path / "stack.tif", frames, photometric="minisblack")
    (tmp_path / "stack.json").write_text(json.dumps({"positions": positions_um.tolist()}))
    status, (line,), _ = run("predict", "key-frame", tmp_path / "stack.tif", "--weights", output, "--json")
    assert (status, line["accepted"], line["plane"]) == (0, True, 3)
    assert line["focus_um"] == pytest.approx(focus_um, abs=0.15)

    status, _, error = run(*train, "--run", runs["fine"])
    assert status == 2 and "is there already" in error

    # and on from there
    further = tmp_path / "further.h5"
    train = ("train", "key-frame", "--catalog", folder, "--output", further, "--start", output)
    status, (said,), error = run(*train, "--run", runs["fine"], "--steps", 5, "--json")
    assert status == 0, error
    assert said["hash"] != card.hash and further.is_file()


def test_a_network_that_does_not_learn_is_not_written(recorded, small, tmp_path):
    folder, _, runs = recorded
    output = tmp_path / "m.h5"
    status, said, error = run(
        "train", "key-frame", "--catalog", folder, "--run", runs["fine"], "--output", output, "--steps", 1,
        "--json",
    )  # fmt: skip
    assert (status, said) == (2, []) and "training did not converge" in error
    assert not output.exists()


def test_what_cannot_be_trained_is_said_before_the_work(recorded, weights, tmp_path):
    folder, _, runs = recorded
    fine = ("--run", runs["fine"])
    for options, complaint in (
        ((*fine, "--steps", 0), "--steps must be at least 1"),
        ((*fine, "--z-reversal", 1.5), "--z-reversal must be from 0 to 1"),
        ((*fine, "--pixel-size-um", -0.1), "--pixel-size-um must be positive"),
        ((*fine, "--magnification", "nan"), "--magnification must be positive"),
        ((*fine, "--start", tmp_path / "nothing.h5"), "there is no file"),
        ((*fine, "--output", tmp_path / "nowhere" / "m.h5"), "there is no folder"),
        ((*fine, "--start", weights), "to go on from it options must have the same"),
        (("--run", "01234567"), "there is no run 01234567 in the catalogue"),
        (
            (*fine, "--person-only"),
            "no labelled field to train with: 1 labelled as unusable, 10 not labelled",
        ),
        (("--run", runs["wide"]), "no labelled field to train with: 2 planes not 0.22 to 0.3 um apart"),
    ):
        base = ("train", "key-frame", "--catalog", folder, "--output", tmp_path / "m.h5", "--json")
        status, said, error = run(*base, *options)
        assert (status, said) == (2, []) and complaint in error and error.count("\n") == 1, error
    assert list(tmp_path.iterdir()) == []


def test_labels_are_where_the_cells_are_in_focus(recorded):
    """By the truth of a simulated microscope too, and for an axis that runs downwards."""
    folder, bench, runs = recorded
    with contextlib.closing(open_catalog(folder)) as catalog:
        microscope = SimulatedLiveCellMicroscope(
            name="microscope", frame_directory=catalog.frame_directory, frame_shape=(192, 192), seed=3
        )
        run_engine = RunEngine()
        install_frame_routing(run_engine)
        catalog.subscribe(run_engine)
        plan = collect_focal_stacks(
            [microscope],
            microscope.z,
            stage=(microscope.x, microscope.y),
            positions=[(0.0, 0.0, microscope.focus_um + 0.3)],
            sample="living",
            z_um=(-1.0, 1.0),
            step_um=STEP_UM,
            truth=microscope.truth,
        )
        (living,) = run_engine(plan)
        cells, left_out = labelled_cells(catalog.client, [living], patch_px=96)
        up, _ = labelled_cells(catalog.client, [runs["fine"], runs["wide"]])
        down, why = labelled_cells(catalog.client, [runs["fine"], runs["wide"]], axis_sign=-1)
    assert left_out == {} and len(cells) >= 1
    assert cells.patches.shape[1:] == (9, 112, 112)
    # the planes lie about 0.3 um above focus, the lowest one 1 um below that
    assert cells.focus * STEP_UM == pytest.approx(0.7, abs=0.01)
    assert cells.step_um == pytest.approx(STEP_UM)

    assert why == {"labelled as unusable": 1, "planes not 0.22 to 0.3 um apart": 2}
    assert set(up.field) == set(range(FIELDS - 1))
    wanted = [(bench.focus_um(1 + number) - 3.0 + 2.25) / STEP_UM for number in up.field]
    assert up.focus == pytest.approx(wanted, abs=1e-3)
    # summed up in another order, a grey level may be rounded the other way
    assert np.abs(down.patches.astype(int) - up.patches[:, ::-1]).max() <= 1
    assert down.focus == pytest.approx(up.patches.shape[1] - 1 - up.focus, abs=1e-3)
    # bright below focus and dark above it
    middle = up.patches[:, [2, -3]].astype(float)
    skew = (middle**3).mean(axis=(2, 3))
    assert (skew[:, 0] > 0).all() and (skew[:, 1] < 0).all()
