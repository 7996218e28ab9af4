"""The default HH-Net: its file, what it refuses, how its patches vote, training, and the shipped weights."""

import dataclasses
import math

import numpy as np
import pytest

from bluesky_autofocus.defocus import ModelMismatchError
from bluesky_autofocus.models.card import (
    FeatureRecord,
    ModelCard,
    ModelFileError,
    ModelInputs,
    TrainingRecord,
)
from bluesky_autofocus.models.hh_net import ClassEstimate, ClassTable, HHNetModel
from bluesky_autofocus.models.hh_net._model import (
    ARCHITECTURE,
    PatchFacts,
    busiest,
    disagreement,
    problem_of_colours,
)
from bluesky_autofocus.models.hh_net.classes import INDICES, NAMES
from bluesky_autofocus.models.hh_net.features import band_energies, choose, handcrafted, patches_of
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.records import Reason

PATCH = 48
TABLE = ClassTable.of_width(6.0)
OPTICS = LightOptics(numerical_aperture=0.4, wavelength_um=0.54, pixel_size_um=0.33, magnification=20.0)
PARAMETERS = {
    "classes": TABLE.to_dict(),
    "networks": 2,
    "most_patches": 4,
    "temperature": 1.0,
    "strangeness_limit": 1.0,
    "least_certainty": 0.5,
    "most_disagreement": 0.3,
}
FEATURES = {"patch_px": PATCH, "levels": 4, "binning": 2, "seed": 0}


def make_arrays(seed=0):
    rng = np.random.default_rng(seed)
    arrays = {
        "mean": np.zeros(30),
        "deviation": np.ones(30),
        "familiar.mean": np.zeros((7, 12)),
        "familiar.axes": np.tile(np.eye(12) / 100, (7, 1, 1)),
    }
    for number in range(2):
        for layer, (width, following) in enumerate(((30, 8), (8, 7))):
            arrays[f"network{number}.kernel{layer}"] = rng.normal(0, 0.5, (width, following))
            arrays[f"network{number}.bias{layer}"] = rng.normal(0, 0.1, following)
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def make_card(**changes):
    said = {
        "name": "tiny",
        "architecture": ARCHITECTURE,
        "version": "3",
        "inputs": ModelInputs("", PATCH, pixel_size_um=0.33, magnification=20.0, numerical_aperture=0.4),
        "features": FeatureRecord("band energies", FEATURES),
        "valid_range_um": (-15.0, 21.0),
        "training": TrainingRecord("none"),
        "figures": {},
        "valid_for": "tests",
        "licence": "BSD-3-Clause",
        "architecture_parameters": PARAMETERS,
    }
    return ModelCard(**{**said, **changes})


@pytest.fixture
def model():
    return HHNetModel(make_card(), make_arrays())


def colour_frame(shape=(160, 208), seed=0):
    """Return a bright frame with a dark, grainy disc in its upper left part."""
    rng = np.random.default_rng(seed)
    y, x = (np.arange(n) - 0.37 * n for n in shape)
    inside = np.hypot(y[:, None], x) < 60
    grain = np.sin(np.arange(shape[0]) / 2)[:, None] * np.sin(np.arange(shape[1]) / 2)
    frame = 220 - inside[..., None] * (np.array([60, 90, 40]) + 20 * grain[..., None])
    return np.clip(frame + rng.normal(0, 2, (*shape, 3)), 0, 255).astype(np.uint8)


def sure_of(*indices, p=0.94):
    """Return the probabilities of patches that are sure of these classes."""
    rows = np.full((len(indices), 7), (1 - p) / 6)
    rows[np.arange(len(indices)), [INDICES.index(index) for index in indices]] = p
    return rows


class TestFile:
    def test_there_and_back(self, model, tmp_path):
        assert model.model_hash == ""
        card = model.save(tmp_path / "tiny.h5")
        assert len(card.hash) == 64 and model.model_hash == card.hash
        read = HHNetModel.load(tmp_path / "tiny.h5")
        assert (read.card, read.model_hash, read.table) == (model.card, card.hash, TABLE)
        for name, array in model.arrays.items():
            np.testing.assert_array_equal(read.arrays[name], array)
        assert read.estimate(colour_frame()) == model.estimate(colour_frame())

    def test_the_hash_is_of_the_weights(self, model, tmp_path):
        first = model.save(tmp_path / "first.h5").hash
        assert HHNetModel(model.card, model.arrays).save(tmp_path / "same.h5").hash == first
        assert HHNetModel(model.card, make_arrays(1)).save(tmp_path / "other.h5").hash != first

    def test_a_damaged_file(self, model, tmp_path):
        path = tmp_path / "tiny.h5"
        model.save(path)
        content = bytearray(path.read_bytes())
        at = content.find(model.arrays["network1.kernel0"].tobytes())
        assert at > 0
        content[at] ^= 1
        path.write_bytes(content)
        with pytest.raises(ModelFileError):
            HHNetModel.load(path)
        with pytest.raises(ModelFileError, match="nowhere.h5"):
            HHNetModel.load(tmp_path / "nowhere.h5")

    def test_another_architecture(self):
        with pytest.raises(ModelFileError, match=f"tiny is a 'dense-2' network: expected '{ARCHITECTURE}'"):
            HHNetModel(make_card(architecture="dense-2"), make_arrays())

    @pytest.mark.parametrize("change", ["missing", "longer", "scalar"])
    @pytest.mark.parametrize("name", make_arrays())
    def test_an_array_does_not_fit(self, name, change):
        arrays = make_arrays()
        old = arrays.pop(name)
        if change != "missing":
            arrays[name] = np.float32(1) if change == "scalar" else np.concatenate([old, old], axis=-1)
        with pytest.raises(ModelFileError, match="tiny is incomplete|dense network|layer"):
            HHNetModel(make_card(), arrays)

    @pytest.mark.parametrize("key", [*PARAMETERS])
    def test_a_parameter_is_missing(self, key):
        parameters = {name: value for name, value in PARAMETERS.items() if name != key}
        with pytest.raises(ModelFileError, match=f"tiny is incomplete: '{key}'"):
            HHNetModel(make_card(architecture_parameters=parameters), make_arrays())

    @pytest.mark.parametrize(
        "changes",
        [
            {"architecture_parameters": {**PARAMETERS, "networks": 0}},
            {"architecture_parameters": {**PARAMETERS, "networks": 3}},
            {"architecture_parameters": {**PARAMETERS, "classes": {"edges_um": [0, 1]}}},
            {"architecture_parameters": {**PARAMETERS, "classes": 3}},
            {"features": FeatureRecord("band energies", {**FEATURES, "levels": 3})},
            {"features": FeatureRecord("band energies")},
        ],
    )
    def test_the_card_does_not_fit(self, changes):
        with pytest.raises(ModelFileError, match="tiny is incomplete|dense network"):
            HHNetModel(make_card(**changes), make_arrays())


class TestEstimate:
    def test_its_figures(self, model):
        estimate = model.estimate(colour_frame())
        p = np.array(estimate.probabilities)
        assert p.shape == (7,) and p.sum() == pytest.approx(1)
        assert estimate.patches == 4 and 0 <= estimate.certainty <= 1
        assert estimate.expected_index == pytest.approx(p @ np.array(INDICES))
        assert estimate.defocus_um == pytest.approx(6 * p @ np.array(INDICES))
        assert estimate.name == NAMES[INDICES.index(estimate.index)]
        assert estimate.accepted == (estimate.reason is Reason.OK)

    def test_it_is_what_the_networks_say_of_the_patches_with_most_content(self, model):
        frame = colour_frame()
        energies = band_energies(frame, PATCH)
        chosen = choose(energies, 4)
        facts = model.facts(energies[tuple(chosen.T)], handcrafted(frame))
        assert facts.probabilities.shape == (4, 7)
        np.testing.assert_allclose(facts.probabilities.sum(axis=1), 1)
        corners = patches_of(frame, PATCH).reshape(-1, 2)
        found = busiest(frame, corners, PATCH, 4)
        assert set(found.tolist()) == {int(row * 4 + column) for row, column in chosen}
        # in whichever order they are looked at
        assert model.judge(facts).defocus_um == pytest.approx(model.estimate(frame).defocus_um)

    def test_a_class_that_all_agree_on(self, model):
        for index, defocus_um in zip(INDICES, (24, 18, 12, 6, 0, -6, -12), strict=True):
            estimate = model.judge(PatchFacts(sure_of(index, index, p=1.0), 0.5))
            assert (estimate.index, estimate.name) == (index, NAMES[INDICES.index(index)])
            assert (estimate.certainty, estimate.sigma_index) == (1, 0)
            assert estimate.defocus_um == pytest.approx(defocus_um)
            assert estimate.sigma_um == pytest.approx(6 / math.sqrt(12))
            assert (estimate.accepted, estimate.reason) == (True, Reason.OK)

    def test_between_two_classes(self, model):
        p = np.array([[0, 0, 0, 0.5, 0.5, 0, 0]])
        estimate = model.judge(PatchFacts(p, 0.5))
        assert (estimate.index, estimate.expected_index, estimate.sigma_index) == (0, 0.5, 0.5)
        assert estimate.defocus_um == pytest.approx(3)
        assert estimate.sigma_um == pytest.approx(math.sqrt(9 + 3))
        assert estimate.accepted, "the edge is known well"

    def test_classes_of_unequal_width(self):
        table = ClassTable((-20, -9, -3, 3, 7, 15, 21))
        card = make_card(architecture_parameters={**PARAMETERS, "classes": table.to_dict()})
        estimate = HHNetModel(card, make_arrays()).judge(PatchFacts(sure_of(-2, p=1.0), 0.5))
        assert (estimate.defocus_um, estimate.sigma_um) == (-14.5, pytest.approx(11 / math.sqrt(12)))

    def test_three_classes_contend(self, model):
        p = np.array([[0, 0, 0.34, 0.33, 0.33, 0, 0]])
        estimate = model.judge(PatchFacts(p, 0.5))
        assert (estimate.accepted, estimate.reason) == (False, Reason.UNCERTAIN)
        assert estimate.index == 2 and estimate.certainty < 0.5

    def test_patches_disagree(self, model):
        """Most are sure of one class, a third as sure of one far from it."""
        model._least_certainty = 0.0
        assert model.judge(PatchFacts(sure_of(*9 * [2], 3), 0.5)).accepted
        estimate = model.judge(PatchFacts(sure_of(2, 2, -1, p=0.94), 0.5))
        assert (estimate.index, estimate.reason) == (2, Reason.UNCERTAIN)
        assert disagreement(sure_of(2, 2, 2, -1), INDICES.index(2)) == pytest.approx(0.25)
        assert disagreement(np.vstack([sure_of(2), np.full((5, 7), 1 / 7)]), 2) < 1e-4

    def test_unfamiliar_patches(self):
        strange = HHNetModel(
            make_card(), {**make_arrays(), "familiar.axes": np.full((7, 12, 12), 1e3, np.float32)}
        )
        estimate = strange.estimate(colour_frame())
        assert (estimate.accepted, estimate.reason) == (False, Reason.UNFAMILIAR)
        assert strange.judge(PatchFacts(sure_of(0), math.nan)).reason is Reason.UNFAMILIAR

    def test_the_way_of_voting(self, model):
        """Nine patches that lean to one class, three that are sure of the next: see `voting`."""
        leaning = np.tile([0, 0, 0.24, 0.23, 0.23, 0.15, 0.15], (9, 1))
        facts = PatchFacts(np.vstack([leaning, sure_of(1, 1, 1)]), 0.5)
        found = {}
        for way in ("hard", "linear", "certainty"):
            model.vote = way
            assert model.parameters["vote"] == way
            found[way] = model.judge(facts).index
        assert found == {"hard": 2, "linear": 1, "certainty": 1}
        with pytest.raises(ValueError, match="vote is 'loud': expected one of hard, linear, certainty"):
            model.vote = "loud"

    def test_a_refusal(self):
        estimate = ClassEstimate.refused(Reason.EMPTY)
        assert (estimate.index, estimate.name, estimate.probabilities, estimate.patches) == (None, "", (), 0)
        assert not estimate.accepted and math.isnan(estimate.defocus_um) and math.isnan(estimate.certainty)


class TestFramesRefused:
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda frame: frame * 0, Reason.BLACK),
            (lambda frame: frame * 0 + 255, Reason.SATURATED),
            (lambda frame: frame * 0 + 150, Reason.UNIFORM),
            (lambda frame: np.dstack([frame[..., :2], frame[..., 2] * 0]), Reason.BLACK),
            (lambda frame: np.dstack([frame[..., 0] * 0 + 90, frame[..., 1:]]), Reason.UNIFORM),
            (lambda frame: np.where(frame > 205, 255, frame).astype(np.uint8), Reason.SATURATED),
        ],
    )
    def test_one_that_shows_nothing(self, model, change, reason):
        frame = change(colour_frame())
        assert problem_of_colours(frame) is reason
        assert model.estimate(frame) == ClassEstimate.refused(reason) or reason is not None
        assert model.estimate(frame).reason is reason

    def test_a_camera_that_saturates_early(self, model):
        frame = np.minimum(colour_frame(), 200)
        assert model.estimate(frame).reason is not Reason.SATURATED
        model.full_scale = 200.0
        assert model.estimate(frame).reason is Reason.SATURATED
        assert model.parameters["full_scale"] == 200.0

    def test_a_few_clipped_pixels_do_no_harm(self, model):
        frame = colour_frame()
        frame[:40] = 255
        assert model.estimate(frame).reason is not Reason.SATURATED

    def test_nothing_is_stained(self, model):
        frame = np.random.default_rng(0).normal(220, 2, (160, 208, 3)).astype(np.uint8)
        assert model.estimate(frame).reason is Reason.EMPTY

    def test_grey_frames_only_when_asked(self, model):
        grey = colour_frame()[..., 1]
        with pytest.raises(ValueError, match="grey='repeat'"):
            model.estimate(grey)
        model.grey = "repeat"
        assert model.estimate(grey) == model.estimate(np.repeat(grey[..., None], 3, axis=2))
        with pytest.raises(ValueError, match="grey is 'guess'"):
            model.grey = "guess"

    @pytest.mark.parametrize("shape", [(47, 208), (160, 40)])
    def test_smaller_than_a_patch(self, model, shape):
        with pytest.raises(ValueError, match="expected at least one patch of 48 px"):
            model.estimate(colour_frame(shape))

    def test_too_small_for_the_crops(self, model):
        with pytest.raises(ValueError, match="expected at least 100 x 100"):
            model.estimate(colour_frame((90, 208)))

    def test_other_optics(self, model):
        model.check(OPTICS)
        model.check(dataclasses.replace(OPTICS, pixel_size_um=0.34))
        for name, value in (("pixel_size_um", 0.5), ("numerical_aperture", 0.5), ("magnification", 40.0)):
            with pytest.raises(ModelMismatchError, match=f"{name} is {value:g}: tiny was made for"):
                model.check(dataclasses.replace(OPTICS, **{name: value}))
        with pytest.raises(ModelMismatchError, match="pixel_size_um is nan"):
            model.check_values({"pixel_size_um": math.nan})


# ---- training --------------------------------------------------------------------------------------------


def made_up(n=700, patches=3, seed=0):
    """Return features whose energies fall off on both sides of where each colour is in focus."""
    rng = np.random.default_rng(seed)
    defocus_um = rng.uniform(-17, 29, n)
    away = defocus_um[:, None, None] - np.array([4.0, 0.0, -4.0])
    reach_um = np.array([4.0, 7.0, 12.0, 20.0])[:, None]
    energies = -np.log(1 + (away / reach_um) ** 2)
    energies = np.repeat(energies.reshape(n, 12), patches, axis=0)
    energies += rng.normal(0, 0.3, (n * patches, 1)) + rng.normal(0, 0.02, energies.shape)
    return energies, rng.normal(0, 1, (n, 18)), defocus_um, np.repeat(np.arange(n), patches)


@pytest.fixture(scope="module")
def training():
    pytest.importorskip("tensorflow")
    from bluesky_autofocus.models.hh_net import train

    return train


def trained_on(training, features, **changes):
    options = training.TrainingOptions(
        networks=2, width=24, steps=600, batch=256, learning_rate=1e-2, most_patches=3, seed=4
    )
    inputs = ModelInputs("", PATCH, pixel_size_um=0.33)
    return training.train_hh_net(
        *features, **{"table": TABLE, "inputs": inputs, "options": options, "data": "made up", **changes}
    )


@pytest.fixture(scope="module")
def made(training):
    told = []
    return trained_on(training, made_up(), progress=lambda *one: told.append(one)), told


class TestTraining:
    def test_it_learns(self, made, training):
        model, _ = made
        figures = training.judged(model, training.FrameSet.of(*made_up(300, seed=9)))
        assert figures["frame_accuracy_certainty"] > 0.85
        assert figures["frame_accuracy_certainty_off_edge"] > figures["frame_accuracy_certainty"]
        assert figures["within_one"] == 1 and figures["wrong_sign"] == 0
        assert figures["calibration_error"] < 0.1 and figures["refused"] < 0.1
        assert figures["believed_wrong"] == 0

    def test_the_card_says_what_it_is(self, made, tmp_path):
        model, told = made
        card = model.card
        assert (card.training.fields, card.training.frames, card.training.seed) == (700, 700, 4)
        assert card.valid_range_um == (-15, 21) and card.features.parameters["patch_px"] == PATCH
        assert card.architecture_parameters["temperature"] > 0
        assert {"validation_patch_accuracy", "validation_frame_accuracy_hard_off_edge"} <= set(card.figures)
        assert told[-1] == (1200, 1200)
        model.save(tmp_path / "made-up.h5")
        assert HHNetModel.load(tmp_path / "made-up.h5").card == card

    def test_energies_unlike_those_are_unfamiliar(self, made):
        model, _ = made
        energies, of_frame, _, _ = made_up(5, seed=8)
        assert model.facts(energies[:3], of_frame[0]).strangeness < 1
        # all colours alike, as in a grey frame, when they should differ
        assert model.facts(np.repeat(energies[:3, 1::3], 3, axis=1) - 3, of_frame[0]).strangeness > 1

    def test_going_on_from_a_model(self, made, training):
        model, _ = made
        options = training.TrainingOptions(networks=2, width=24, steps=20, batch=64)
        gone_on = trained_on(training, made_up(seed=5), options=options, start=model)
        moved = np.abs(gone_on.arrays["network0.kernel0"] - model.arrays["network0.kernel0"])
        assert 0 < moved.max() < 0.3
        np.testing.assert_array_equal(gone_on.arrays["mean"], model.arrays["mean"])
        for changes in ({"networks": 1}, {"width": 8}, {"depth": 1}):
            other = dataclasses.replace(options, **changes)
            with pytest.raises(ValueError, match="to go on from it"):
                trained_on(training, made_up(seed=5), options=other, start=model)

    def test_labels_are_soft_at_the_edges(self, training):
        labels = training.soft_labels(np.array([0.0, 3.0, 20.9, 50.0, -40.0]), TABLE, 0.05)
        np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)
        assert labels[0, 4] > 0.999 and labels[1, 3] == pytest.approx(0.5, abs=1e-3)
        assert 0.3 < labels[2, 0] < 0.5 < labels[2, 1] < 0.7
        assert labels[3, 0] == labels[4, 6] == 1

    def test_what_cannot_be_trained_on(self, training):
        energies, of_frame, defocus_um, frames = made_up(40)
        for features, changes, message in (
            ((energies[:, :11], of_frame, defocus_um, frames), {}, "expected"),
            ((energies, of_frame[:, :3], defocus_um, frames), {}, "expected"),
            (
                (energies * np.nan, of_frame, defocus_um, frames),
                {},
                "energies has values that are not",
            ),
            ((energies, of_frame, defocus_um, frames * 0), {}, "each of the 40 frames"),
            ((energies, of_frame, np.minimum(defocus_um, 14), frames), {}, "of the classes of index 4, 3"),
            ((energies, of_frame, defocus_um, frames), {"fields": np.arange(40) % 5}, "there are 5 fields"),
            ((energies, of_frame, defocus_um, frames), {"fields": np.arange(4)}, "one for each frame"),
        ):
            with pytest.raises(ValueError, match=message):
                trained_on(training, features, **changes)


# ---- the shipped weights ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    return HHNetModel.load()


@pytest.fixture(scope="module")
def fresh():
    """Return frames of fields that nothing was trained, calibrated or tested on, with their defocus."""
    from bluesky_autofocus.training.hh_net import SmearRecipe, field_frames

    recipe = SmearRecipe(0, 1, frames=8, defocus_um=(-15.0, 27.0), tail_share=0.0)
    pairs = [zip(*field_frames(recipe, 390_000 + number), strict=True) for number in range(5)]
    return [pair for of_field in pairs for pair in of_field]


class TestShipped:
    def test_fresh_frames(self, shipped, fresh):
        wrong = far = 0
        for frame, defocus_um in fresh:
            estimate = shipped.estimate(frame)
            truth = shipped.table.index_of(defocus_um)
            if estimate.index is None or shipped.table.near_edge(defocus_um):
                continue
            wrong += estimate.index != truth
            far += estimate.accepted and abs(estimate.index - truth) > 1
        assert len(fresh) == 40 and wrong <= 2 and far == 0

    def test_without_the_right_colours_there_is_no_side(self, shipped, fresh):
        """Grey frames, and those whose red and blue are swapped, as OpenCV reads them."""
        shipped = HHNetModel(shipped.card, shipped.arrays)
        shipped.grey = "repeat"
        for frame, _ in fresh[:16]:
            for strange in (frame[..., 1], frame[..., ::-1]):
                estimate = shipped.estimate(strange)
                assert not estimate.accepted and estimate.reason in (Reason.UNFAMILIAR, Reason.EMPTY)

    def test_noise_is_refused(self, shipped):
        noise = np.random.default_rng(0).integers(60, 230, (600, 600, 3)).astype(np.uint8)
        assert not shipped.estimate(noise).accepted

    def test_its_card(self, shipped):
        card = shipped.card
        assert (card.inputs.pixel_size_um, card.inputs.colour, card.inputs.patch_px) == (0.33, "rgb", 300)
        assert card.training.frames >= 7 * 350 and card.licence == "BSD-3-Clause"
        assert card.figures["validation_frame_accuracy_certainty_off_edge"] > 0.9
