"""Training the default refocusing network, from simulated stacks and from recorded ones."""

import json

import numpy as np
import pytest

from bluesky_autofocus.cli import main
from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.models.card import ModelInputs
from bluesky_autofocus.models.refocus import UNetModel, load_model
from bluesky_autofocus.models.refocus import train as training
from bluesky_autofocus.models.refocus.pairs import FocalPairs
from bluesky_autofocus.models.refocus.train import TrainingOptions, train_refocus
from bluesky_autofocus.plans import collect_focal_stacks
from bluesky_autofocus.session import open_session
from bluesky_autofocus.training.refocus import DEFOCUS_UM, OPTICS, StackRecipe, field_stacks

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning"),
]

OPTIONS = TrainingOptions(steps=4, batch=2, piece_px=96, channels=(4, 4, 4, 4, 4))


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("_FAMILIAR", 12), ("_CHECKED", 8), ("_EPOCHS", 2)):
            patch.setattr(training, name, value)
        yield


def pairs_of(first, count):
    recipe = StackRecipe("fluorescence", first, count, (128, 128))
    found = [field_stacks(recipe, first + n) for n in range(count)]
    planes, targets = (np.concatenate([one[k] for one in found]) for k in range(2))
    return FocalPairs(planes, targets, DEFOCUS_UM, np.arange(first, first + count), "fluorescence")


@pytest.fixture(scope="module")
def sets():
    return pairs_of(700_000, 2), pairs_of(700_100, 1)


def train(sets, **options):
    options = {"options": OPTIONS, "data": "some", "valid_for": "nothing", "name": "tiny"} | options
    inputs = ModelInputs.of(OPTICS, illumination="", patch_px=0)
    return train_refocus([sets[0]], inputs=inputs, validation=[sets[1]], spherical_waves=0.08, **options)


@pytest.fixture(scope="module")
def trained(sets):
    """Return what came of training, and what was told of its progress."""
    told = []
    return train(sets, progress=lambda n, of: told.append((n, of))), told


def test_a_card_says_what_it_was_trained_on(trained, sets, tmp_path):
    model, told = trained
    assert told[-1] == (4, 4)
    card = model.card
    assert card.training.fields == 3 and card.training.frames == 3 * 32
    assert card.architecture_parameters["defocus_um"] == 32
    assert card.architecture_parameters["modalities"] == ("fluorescence",)
    assert "validation_fluorescence_refused" in card.figures
    model.save(tmp_path / "tiny.h5")
    again = load_model(tmp_path / "tiny.h5")
    frame = sets[1].planes[0, 4]
    np.testing.assert_array_equal(again.refocus(frame).frame, model.refocus(frame).frame)


def test_going_on_keeps_the_channels(trained, sets):
    first, _ = trained
    second = train(sets, start=first, options=TrainingOptions(steps=2, batch=2, piece_px=96))
    assert second.channels == first.channels == OPTIONS.channels


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda sets: (sets[0], sets[0]), "field 700000 is both"),
        (lambda sets: (sets[0].take(np.zeros(2, bool)), sets[1]), "no pairs"),
    ],
)
def test_what_cannot_be_trained_on(sets, change, named):
    with pytest.raises(ValueError, match=named):
        train(change(sets))


@pytest.mark.parametrize("options", [{"piece_px": 100}, {"piece_px": 32}, {"steps": 0}, {"rate": -1.0}])
def test_options_that_make_no_sense(options):
    with pytest.raises(ValueError, match="expected"):
        TrainingOptions(**options)


def test_recorded_stacks_by_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("bluesky_autofocus.cli._refocus_training._options", lambda options: OPTIONS)
    with open_session(
        "nuclei", catalog=tmp_path, clock=VirtualClock(), show=None, frame_px=128, defocus_um=0.0
    ) as session:
        microscope = session.instrument.devices["microscope"]
        (uid,) = session.RE(
            collect_focal_stacks(
                [microscope],
                microscope.z,
                stage=(microscope.x, microscope.y),
                positions=[(n * microscope.field_um[0], 0) for n in range(10)],
                sample="nuclei",
                z_um=(-12, 12),
                step_um=4.0,
                truth=microscope.truth.focus_um,
            )
        )
    output = tmp_path / "own.h5"
    arguments = ["train", "refocus", "--run", uid, "--modality", "fluorescence", "--catalog", str(tmp_path)]
    arguments += ["--pixel-size-um", "0.656", "--na", "0.45", "--wavelength-um", "0.46"]
    assert main([*arguments, "--magnification", "20", "--output", str(output), "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["fields"] == 10
    model = UNetModel.load(output)
    assert model.optics.pixel_size_um == 0.656 and model.card.inputs.colour == "grey"
    assert 8 <= model.card.architecture_parameters["defocus_um"] <= 16


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--run", "abc"], "--pixel-size-um"),
        (["--run", "abc", "--bbbc006", "."], "not both"),
        (["--bbbc006", "nowhere"], "no folder nowhere"),
        (["--width", "0.5"], "without --published"),
        (["--published", "--width", "2"], "at most 1"),
        (["--steps", "0"], "--steps"),
        (["--na", "0.4"], "without --run"),
        (["--start", "nothing.h5"], "no file nothing.h5"),
    ],
)
def test_mistakes_are_found_first(arguments, named, capsys, tmp_path):
    output = ["--output", str(tmp_path / "x.h5"), "--catalog", str(tmp_path)]
    assert main(["train", "refocus", *arguments, *output]) == 2
    assert named in capsys.readouterr().err
