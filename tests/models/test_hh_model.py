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
from bluesky_autofocus.models.hh_net._model import ARCHITECTURE, PatchFacts
from bluesky_autofocus.models.hh_net.bins import DefocusBins
from bluesky_autofocus.models.hh_net.classes import INDICES, NAMES
from bluesky_autofocus.models.hh_net.patches import busiest, coarse_of, patches_of, problem_of
from bluesky_autofocus.models.hh_net.vectors import PatchVectors
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.records import Reason
from bluesky_autofocus.simulation import Smear, SmearCamera

PATCH = 48
TABLE = ClassTable.of_width(6.0)
OPTICS = LightOptics(numerical_aperture=0.4, wavelength_um=0.54, pixel_size_um=0.33, magnification=20.0)
BINS = DefocusBins.fine(TABLE, -30.0, 40.0)
VECTORS = PatchVectors(PATCH, ("energies",))
PARAMETERS = {
    "classes": TABLE.to_dict(),
    "bins_um": BINS.edges_um.tolist(),
    "networks": 2,
    "most_patches": 4,
    "temperature": 1.0,
    "strangeness_limit": 1.0,
    "sigma_floor_um": 0.3,
    "sigma_scale": 2.0,
    "most_sigma_um": [4.0] * 7,
}


def make_arrays(seed=0):
    rng = np.random.default_rng(seed)
    arrays = {
        "mean": np.zeros(12),
        "deviation": np.ones(12),
        "familiar.mean": np.zeros((7, 12)),
        "familiar.axes": np.tile(np.eye(12) / 100, (7, 1, 1)),
    }
    for number in range(2):
        for layer, (width, following) in enumerate(((12, 8), (8, len(BINS)))):
            arrays[f"network{number}.kernel{layer}"] = rng.normal(0, 0.5, (width, following))
            arrays[f"network{number}.bias{layer}"] = rng.normal(0, 0.1, following)
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def make_card(**changes):
    said = {
        "name": "tiny",
        "architecture": ARCHITECTURE,
        "version": "3",
        "inputs": ModelInputs("", PATCH, pixel_size_um=0.33, magnification=20.0, numerical_aperture=0.4),
        "features": FeatureRecord("energies", VECTORS.to_dict()),
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


def sure_of(*defoci_um, p=1.0, bins=BINS):
    """Return the probabilities of patches that are sure of the bins about these defoci."""
    rows = np.full((len(defoci_um), len(bins)), (1 - p) / len(bins))
    for row, at in zip(rows, defoci_um, strict=True):
        row[np.searchsorted(bins.edges_um, at, side="right") - 1] += p
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

    @pytest.mark.parametrize("key", PARAMETERS)
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
            {"architecture_parameters": {**PARAMETERS, "bins_um": [-15.0, 0.0, 21.0]}},
            {"architecture_parameters": {**PARAMETERS, "most_sigma_um": [1.0]}},
            {"features": FeatureRecord("energies", {**VECTORS.to_dict(), "kinds": ["magic"]})},
            {"features": FeatureRecord("spectra", {**VECTORS.to_dict(), "kinds": ["spectra"]})},
            {"features": FeatureRecord("energies")},
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
        assert -30 < estimate.defocus_um < 40 and estimate.sigma_um > 0.3
        assert estimate.name == NAMES[INDICES.index(estimate.index)]
        assert estimate.accepted == (estimate.reason is Reason.OK)

    def test_it_is_what_the_networks_say_of_the_patches_with_most_content(self, model):
        frame = colour_frame()
        corners = patches_of(frame, PATCH)
        chosen = busiest(coarse_of(frame), frame.shape[:2], corners, PATCH, 4)
        facts = model.facts(VECTORS.of(frame, chosen))
        assert facts.probabilities.shape == (4, len(BINS))
        np.testing.assert_allclose(facts.probabilities.sum(axis=1), 1)
        assert model.judge(facts) == model.estimate(frame)
        everywhere = VECTORS.of(frame, corners)[:, -3:].mean(axis=1)
        assert everywhere[[corners.tolist().index(one) for one in chosen.tolist()]].min() > np.median(
            everywhere
        )

    def test_a_defocus_that_all_agree_on(self, model):
        for index, defocus_um in zip(INDICES, (24, 18, 12, 6, 0, -6, -12), strict=True):
            estimate = model.judge(PatchFacts(sure_of(defocus_um, defocus_um), 0.5))
            assert (estimate.index, estimate.name) == (index, NAMES[INDICES.index(index)])
            assert (estimate.certainty, estimate.sigma_index) == (1, 0)
            assert estimate.defocus_um == pytest.approx(defocus_um + 0.25), "the middle of its bin"
            within_um = 0.5 / math.sqrt(12) / math.sqrt(2)
            assert estimate.sigma_um == pytest.approx(math.hypot(2 * within_um, 0.3))
            assert (estimate.accepted, estimate.reason, estimate.measured) == (True, Reason.OK, True)

    def test_between_two_classes(self, model):
        p = (sure_of(2.8) + sure_of(3.2)) / 2
        estimate = model.judge(PatchFacts(p, 0.5))
        assert (estimate.index, estimate.expected_index, estimate.sigma_index) == (0, 0.5, 0.5)
        assert estimate.defocus_um == pytest.approx(3)
        assert estimate.accepted, "the edge is known well"

    def test_an_empty_patch_has_no_say(self, model):
        flat = np.full((3, len(BINS)), 1 / len(BINS))
        alone = model.judge(PatchFacts(sure_of(4.1, 4.4), 0.5))
        beside = model.judge(PatchFacts(np.vstack([sure_of(4.1, 4.4), flat]), 0.5))
        assert beside.index == alone.index == 1
        assert beside.defocus_um == pytest.approx(alone.defocus_um, abs=0.05)

    @pytest.mark.parametrize(
        ("defocus_um", "measured"), [(-24.4, False), (-23.6, True), (33.6, True), (34.4, False)]
    )
    def test_beyond_the_bins_only_the_side_is_known(self, model, defocus_um, measured):
        estimate = model.judge(PatchFacts(sure_of(defocus_um), 0.5))
        assert (estimate.measured, estimate.accepted) == (measured, True)
        assert estimate.index == (4 if defocus_um > 0 else -2)
        assert model.range_um == (-24, 34)

    def test_patches_disagree(self, model):
        """Most are sure of one defocus, a third as sure of one far from it."""
        assert model.judge(PatchFacts(sure_of(*9 * [12], 11), 0.5)).accepted
        estimate = model.judge(PatchFacts(sure_of(12, 12, -6), 0.5))
        assert (estimate.index, estimate.accepted, estimate.reason) == (2, False, Reason.UNCERTAIN)
        assert estimate.sigma_um > 4

    def test_nobody_knows(self, model):
        estimate = model.judge(PatchFacts(np.full((4, len(BINS)), 1 / len(BINS)), 0.5))
        assert estimate.reason is Reason.UNCERTAIN and estimate.certainty < 0.1

    def test_unfamiliar_patches(self):
        strange = HHNetModel(
            make_card(), {**make_arrays(), "familiar.axes": np.full((7, 12, 12), 1e3, np.float32)}
        )
        estimate = strange.estimate(colour_frame())
        assert (estimate.accepted, estimate.reason) == (False, Reason.UNFAMILIAR)
        assert strange.judge(PatchFacts(sure_of(0), math.nan)).reason is Reason.UNFAMILIAR

    def test_the_way_of_voting(self, model):
        """Nine patches that lean to one class, three that are sure of the next: see `voting`."""
        model.bins = DefocusBins.of_classes(TABLE)
        leaning = np.tile([0.15, 0.15, 0.23, 0.23, 0.24, 0, 0], (9, 1))
        facts = PatchFacts(np.vstack([leaning, sure_of(6, 6, 6, p=0.94, bins=model.bins)]), 0.5)
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
        assert problem_of(frame, coarse_of(frame)) is reason
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

    def test_too_small_for_the_crops(self):
        """Where a network is told the hand-crafted features, the frame has to have them."""
        vectors = PatchVectors(PATCH, ("handcrafted",))
        arrays = make_arrays()
        for name in ("mean", "deviation", "network0.kernel0", "network1.kernel0"):
            arrays[name] = np.resize(arrays[name], (18, *arrays[name].shape[1:]))
        arrays |= {"familiar.mean": np.zeros((7, 18)), "familiar.axes": np.zeros((7, 18, 18))}
        features = FeatureRecord("handcrafted", vectors.to_dict())
        model = HHNetModel(make_card(features=features), arrays)
        assert model.estimate(colour_frame()).patches == 4
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


def made_up(training, n=700, patches=3, seed=0, by_eye=False, fields=None):
    """Return frames whose energies fall off on both sides of where each colour is in focus."""
    rng = np.random.default_rng(seed)
    defocus_um = rng.uniform(-17, 29, n)
    away = defocus_um[:, None, None] - np.array([4.0, 0.0, -4.0])
    reach_um = np.array([4.0, 7.0, 12.0, 20.0])[:, None]
    energies = -np.log(1 + (away / reach_um) ** 2)
    energies = np.repeat(energies.reshape(n, 12), patches, axis=0)
    energies += rng.normal(0, 0.3, (n * patches, 1)) + rng.normal(0, 0.02, energies.shape)
    index = [TABLE.index_of(max(one, -15)) for one in defocus_um]
    truth = {"index": index} if by_eye else {"defocus_um": defocus_um}
    return training.FrameSet.of(energies, np.repeat(np.arange(n), patches), **truth, field=fields)


@pytest.fixture(scope="module")
def training():
    pytest.importorskip("tensorflow")
    from bluesky_autofocus.models.hh_net import train

    return train


def trained_on(training, frames, **changes):
    options = training.TrainingOptions(
        networks=2, width=24, steps=600, batch=256, learning_rate=1e-2, most_patches=3, seed=4
    )
    said = {"vectors": VECTORS, "table": TABLE, "inputs": ModelInputs("", PATCH, pixel_size_um=0.33)}
    return training.train_hh_net(frames, **{**said, "options": options, "data": "made up", **changes})


@pytest.fixture(scope="module")
def made(training):
    told = []
    return trained_on(training, made_up(training), progress=lambda *one: told.append(one)), told


class TestTraining:
    def test_it_learns(self, made, training):
        model, _ = made
        figures = training.judged(model, made_up(training, 300, seed=9))
        assert figures["frame_accuracy_certainty"] > 0.85
        assert figures["frame_accuracy_certainty_off_edge"] > figures["frame_accuracy_certainty"]
        assert figures["within_one"] == 1 and figures["wrong_sign"] == 0
        assert figures["calibration_error"] < 0.1 and figures["refused"] < 0.1
        assert figures["believed_wrong"] == 0
        assert figures["median_um"] < 0.5 and 0.9 < figures["within_two_sigma"] < 1

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

    def test_frames_sorted_by_eye(self, training):
        """The class is learned; the defocus is no finer than that."""
        model = trained_on(training, made_up(training, by_eye=True))
        assert len(model.bins) == 7 and model.range_um == (-15, 21)
        fresh = made_up(training, 300, seed=9)
        figures = training.judged(model, fresh)
        assert figures["frame_accuracy_certainty"] > 0.8 and figures["within_one"] == 1
        estimate = model.judge(model.facts(fresh.by_frame()[0]))
        assert estimate.sigma_um > 6 / math.sqrt(12)

    def test_some_measured_and_some_sorted_by_eye(self, training):
        measured, sorted_ = made_up(training, 400), made_up(training, 400, seed=1, by_eye=True)
        parts = ("vectors", "defocus_um", "index")
        both = {name: np.concatenate([getattr(measured, name), getattr(sorted_, name)]) for name in parts}
        frames = np.concatenate([measured.frames, 400 + sorted_.frames])
        model = trained_on(training, training.FrameSet.of(both.pop("vectors"), frames, **both))
        assert len(model.bins) > 80
        figures = training.judged(model, made_up(training, 300, seed=9))
        assert figures["frame_accuracy_certainty"] > 0.85 and figures["median_um"] < 0.6

    def test_vectors_unlike_those_are_unfamiliar(self, made, training):
        model, _ = made
        vectors = made_up(training, 5, seed=8).by_frame()[0]
        assert model.facts(vectors).strangeness < 1
        # all colours alike, as in a grey frame, when they should differ
        assert model.facts(np.repeat(vectors[:, 1::3], 3, axis=1) - 3).strangeness > 1

    def test_going_on_from_a_model(self, made, training):
        model, _ = made
        options = training.TrainingOptions(networks=2, width=24, steps=20, batch=64)
        gone_on = trained_on(training, made_up(training, seed=5), options=options, start=model)
        moved = np.abs(gone_on.arrays["network0.kernel0"] - model.arrays["network0.kernel0"])
        assert 0 < moved.max() < 0.3
        np.testing.assert_array_equal(gone_on.arrays["mean"], model.arrays["mean"])
        for changes in ({"networks": 1}, {"width": 8}, {"depth": 1}):
            other = dataclasses.replace(options, **changes)
            with pytest.raises(
                ValueError, match=f"{next(iter(changes))} is .*: to go on from hh-net it must"
            ):
                trained_on(training, made_up(training, seed=5), options=other, start=model)

    def test_what_cannot_be_trained_on(self, training):
        frames = made_up(training, 40)

        def changed(**changes):
            return dataclasses.replace(frames, **changes)

        for make, message in (
            (lambda: changed(vectors=frames.vectors[:, :11]), "the vectors have 11 features: expected 12"),
            (lambda: changed(vectors=frames.vectors[:7]), "have shapes"),
            (lambda: changed(field=frames.field[:4]), "have shapes"),
            (lambda: changed(vectors=frames.vectors * np.nan), "vectors has values that are not"),
            (lambda: changed(frames=frames.frames * 0), "each of the 40 frames"),
            (lambda: changed(defocus_um=frames.defocus_um * np.nan, index=frames.index + 9), "index has 9"),
            (lambda: changed(defocus_um=np.minimum(frames.defocus_um, 14)), "of the classes of index 4, 3"),
            (lambda: changed(field=np.arange(40) % 5), "there are 5 fields"),
            (lambda: frames, "4 frames are kept out to calibrate on: expected at least 10"),
        ):
            with pytest.raises(ValueError, match=message):
                trained_on(training, make())


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

    @pytest.mark.parametrize("defocus_um", [-95.0, -75.0, -64.0, 64.0, 80.0])
    def test_from_beyond_what_it_measures_only_the_side_is_told(self, shipped, defocus_um):
        smear = Smear((77,), (600, 600), 0.33)
        frame = SmearCamera().frame(smear.image_formation(defocus_um), np.random.default_rng(5))
        estimate = shipped.estimate(frame)
        assert not (estimate.accepted and estimate.measured)
        assert not estimate.accepted or estimate.defocus_um * defocus_um > 0

    def test_its_card(self, shipped):
        card = shipped.card
        assert (card.inputs.pixel_size_um, card.inputs.colour, card.inputs.patch_px) == (0.33, "rgb", 300)
        assert card.training.frames >= 7 * 350 and card.licence == "BSD-3-Clause"
        assert card.figures["validation_frame_accuracy_certainty_off_edge"] > 0.9
