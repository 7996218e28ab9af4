import dataclasses
import json
import math

import numpy as np
import pytest

from bluesky_autofocus.defocus import DefocusEstimator, ModelMismatchError
from bluesky_autofocus.leds import Single
from bluesky_autofocus.models.card import (
    FeatureRecord,
    ModelCard,
    ModelFileError,
    ModelInputs,
    TrainingRecord,
    read_model,
    write_model,
)
from bluesky_autofocus.models.single_shot import SingleShotModel, make_features
from bluesky_autofocus.models.single_shot._model import ARCHITECTURE, FrameFacts
from bluesky_autofocus.models.single_shot.features import ContourFeatures
from bluesky_autofocus.models.single_shot.train import TrainingOptions, train_default
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.records import Reason
from bluesky_autofocus.simulation import AbbeImageFormation, LightCamera, specimen

OPTICS = LightOptics()
LED = (0.4, 0.0)
PATCH = 64
OPTIONS = {"contours": 16, "rings": 6, "edges": 4}
FEATURES = make_features("contours", OPTICS, LED, PATCH, **OPTIONS)
SETTINGS = {
    "residual_limit": 3.0,
    "distance_limit": 4.0,
    "least_contrast": -3.0,
    "sigma_scale": 2.0,
    "sigma_floor_um": 0.2,
    "largest_sigma_um": 0.9,
}
FACTS = FrameFacts(defocus_um=5.0, own_um=0.1, spread_um=0.2, quarters_um=0.2, strangeness=0.9, contrast=4.0)


def card(**change):
    said = {
        "name": "tried",
        "architecture": ARCHITECTURE,
        "version": "1",
        "inputs": ModelInputs.of(
            OPTICS, illumination="single(na=0.4, angle_deg=0)", patch_px=PATCH, led_na_xy=(LED,)
        ),
        "features": FeatureRecord("contours", OPTIONS),
        "valid_range_um": (-30.0, 25.0),
        "training": TrainingRecord(data="none"),
        "figures": {},
        "valid_for": "tests",
        "licence": "BSD-3-Clause",
        "architecture_parameters": SETTINGS,
    }
    return ModelCard(**{**said, **change})


@pytest.fixture(scope="module")
def frames():
    """Return frames of 128 x 192 px of one field at several heights."""
    formation = AbbeImageFormation(OPTICS, (128, 192))
    view = formation.view(specimen("tissue", 1, formation))
    return LightCamera().frame(view.intensity([LED], np.arange(-12, 13, 4.0)), np.random.default_rng(0))


@pytest.fixture(scope="module")
def arrays(frames):
    """Return two networks of one hidden layer that answer 4 and 6 um whatever they see, sigma 1 um."""
    vectors = np.concatenate([FEATURES(frame) for frame in frames])
    mean, deviation = vectors.mean(axis=0), vectors.std(axis=0) + 1e-3
    _, values, axes = np.linalg.svd((vectors - mean) / deviation, full_matrices=False)
    return {
        "mean": mean,
        "deviation": deviation,
        "axes": axes[:10],
        "spread": values[:10] / math.sqrt(len(vectors)),
        "w0": np.zeros((2, FEATURES.size, 3), np.float32),
        "b0": np.ones((2, 3), np.float32),
        "w1": np.full((2, 3, 2), [0.1, -0.5], np.float32),
        "b1": np.array([[0.1, 1.5 + math.log(0.1)], [0.3, 1.5 + math.log(0.1)]], np.float32),
    }


@pytest.fixture
def model(arrays):
    return SingleShotModel(card(), arrays)


# ---- what it makes of a frame ----------------------------------------------------------------------------


def test_it_is_an_estimator(model):
    assert isinstance(model, DefocusEstimator)
    assert model.leds == (Single(0.4, 0.0),)
    assert model.frames_needed == 1
    assert model.range_um == 25  # to either side: the nearer end
    assert json.loads(json.dumps(model.parameters))["model"] == "tried"


def test_networks_are_averaged_and_their_spread_told(model, frames):
    facts = model.facts(FEATURES.powers(frames[0]))
    assert facts.defocus_um == pytest.approx(5, abs=1e-4)
    assert facts.spread_um == pytest.approx(1, abs=1e-4)
    assert facts.own_um == pytest.approx(1, abs=1e-3)
    assert facts.quarters_um == pytest.approx(0, abs=1e-4)  # all parts of the frame say the same
    assert facts.strangeness < 1
    assert facts.raw_um == pytest.approx(math.sqrt(2), abs=1e-3)


def test_layers_are_applied_as_they_should_be(arrays, frames):
    rng = np.random.default_rng(1)
    random = {
        name: array if name in ("mean", "deviation", "axes", "spread") else rng.normal(0, 0.3, array.shape)
        for name, array in arrays.items()
    }
    powers = FEATURES.powers(frames[2])
    facts = SingleShotModel(card(), random).facts(powers)
    x = (FEATURES.vectors(powers.mean(axis=0, keepdims=True))[0] - random["mean"]) / random["deviation"]
    said = [
        np.maximum(x @ random["w0"][k] + random["b0"][k], 0) @ random["w1"][k] + random["b1"][k]
        for k in (0, 1)
    ]
    assert facts.defocus_um == pytest.approx(10 * np.mean([one[0] for one in said]), rel=1e-4)
    assert facts.spread_um == pytest.approx(10 * np.std([one[0] for one in said]), rel=1e-3)
    assert facts.quarters_um > 0


def test_one_patch_has_no_quarters(model, frames):
    assert model.facts(FEATURES.powers(frames[0][:64, :64])).quarters_um == 0


def test_a_frame_as_usual_is_believed(model, frames):
    model._settings["largest_sigma_um"] = 5.0
    estimate = model.estimate(frames[3])
    assert estimate.accepted and estimate.reason is Reason.OK
    assert estimate.defocus_um == pytest.approx(5, abs=1e-4)
    assert estimate.sigma_um == pytest.approx(math.hypot(2 * math.sqrt(2), 0.2), rel=1e-3)


# ---- when not to believe it ------------------------------------------------------------------------------


def test_judged_as_calibrated(model):
    estimate = model.judge(FACTS)
    assert estimate.accepted and estimate.defocus_um == 5
    assert estimate.sigma_um == pytest.approx(math.hypot(2 * 0.3, 0.2))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"contrast": -3.1}, Reason.EMPTY),
        ({"strangeness": 1.01}, Reason.UNFAMILIAR),
        ({"strangeness": math.nan}, Reason.UNFAMILIAR),
        ({"defocus_um": 25.1}, Reason.OUT_OF_RANGE),
        ({"defocus_um": -25.1}, Reason.OUT_OF_RANGE),
        ({"defocus_um": math.nan}, Reason.OUT_OF_RANGE),
        ({"own_um": 0.5}, Reason.UNCERTAIN),
        ({"spread_um": 0.5}, Reason.UNCERTAIN),
        ({"quarters_um": 0.5}, Reason.UNCERTAIN),
        ({"own_um": math.nan}, Reason.UNCERTAIN),
        (
            {"contrast": -9.0, "strangeness": 7.0, "defocus_um": 90.0},
            Reason.EMPTY,
        ),  # the plainest comes first
    ],
)
def test_refused_with_the_reason(model, change, reason):
    estimate = model.judge(dataclasses.replace(FACTS, **change))
    assert not estimate.accepted and estimate.reason is reason
    assert math.isnan(estimate.defocus_um) and math.isnan(estimate.sigma_um)


def test_frames_unlike_the_training_set_are_strange(model, frames):
    model._limits = 1.2 * np.max([model.strange_parts(FEATURES.powers(one)) for one in frames], axis=0)
    rng = np.random.default_rng(0)
    noise = rng.normal(5000, 500, frames[0].shape).astype(np.uint16)
    turned = np.ascontiguousarray(frames[0].T)
    for frame in (noise, turned):
        assert model.estimate(frame).reason is Reason.UNFAMILIAR
    assert all(model.facts(FEATURES.powers(frame)).strangeness < 1 for frame in frames)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (np.zeros((128, 128), np.uint16), Reason.BLACK),
        (np.full((128, 128), 65535, np.uint16), Reason.SATURATED),
        (np.full((128, 128), 700, np.uint16), Reason.UNIFORM),
        (np.full((128, 128), np.nan, np.float32), Reason.NOT_FINITE),
    ],
)
def test_frames_without_content_are_refused(model, frame, reason):
    assert model.estimate(frame).reason is reason


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_clipped_frames_are_refused_at_whatever_level_they_clip(model, frames, share):
    """A tenth of the pixels at full well gave errors above a depth of field, believed."""
    model._settings["largest_sigma_um"] = 5.0
    clipped = np.minimum(frames[3], np.uint16(np.quantile(frames[3], 1 - share)))
    assert model.estimate(clipped).reason is Reason.SATURATED
    assert model.estimate(frames[3]).accepted


def test_a_camera_of_twelve_bits_saturates_earlier(model, frames):
    frame = np.minimum(frames[0], 4095)
    model.full_scale = 4095
    assert model.estimate(frame).reason is Reason.SATURATED
    assert model.parameters["full_scale"] == 4095


@pytest.mark.parametrize("shape", [(63, 200), (200, 63), (128, 128, 3), (128,)])
def test_what_is_no_frame_of_at_least_a_patch_is_an_error(model, shape):
    with pytest.raises(ValueError, match="expected"):
        model.estimate(np.ones(shape, np.uint16))


def test_one_frame_is_wanted(model, frames):
    for given in ((), (frames[0], frames[1])):
        with pytest.raises(ValueError, match=f"got {len(given)} frames: expected one"):
            model.estimate(*given)


# ---- what it is made for ---------------------------------------------------------------------------------


def test_the_light_that_it_is_made_for_is_taken(model):
    model.check(OPTICS, [LED])
    model.check(LightOptics(magnification=10.0, pixel_size_um=0.301), [(0.401, -0.005)])


@pytest.mark.parametrize(
    ("optics", "directions", "message"),
    [
        ({"numerical_aperture": 0.45}, [LED], "numerical_aperture is 0.45: this estimator was made for 0.5"),
        ({"wavelength_um": 0.63}, [LED], "wavelength_um is 0.63"),
        ({"pixel_size_um": 0.6}, [LED], "pixel_size_um is 0.6"),  # binning
        ({"pixel_size_um": 0.3061}, [LED], "pixel_size_um is 0.3061"),
        ({"refractive_index": 1.33}, [LED], "refractive_index is 1.33"),
        ({}, [(-0.4, 0.0)], "NA 0.400 at 180.0 degrees"),
        ({}, [(0.0, 0.4)], "NA 0.400 at 90.0 degrees"),
        ({}, [(0.35, 0.0)], "NA 0.350 at"),
        ({}, [(math.nan, math.nan)], "NA nan"),
        ({}, [], "got 0 frames"),
        ({}, [LED, (-0.4, 0.0)], "got 2 frames"),
    ],
)
def test_other_light_is_a_mismatch(model, optics, directions, message):
    with pytest.raises(ModelMismatchError, match=message):
        model.check(LightOptics(**optics), directions)


# ---- from and to files -----------------------------------------------------------------------------------


def test_saved_and_loaded_it_says_the_same(model, frames, tmp_path):
    assert model.model_hash == ""
    written = model.save(tmp_path / "model.h5")
    assert len(written.hash) == 64 and model.model_hash == written.hash
    loaded = SingleShotModel.load(tmp_path / "model.h5")
    assert loaded.model_hash == written.hash
    assert loaded.card == model.card
    assert (loaded.leds, loaded.range_um, loaded.optics) == (model.leds, model.range_um, model.optics)
    powers = FEATURES.powers(frames[0])
    assert loaded.facts(powers) == model.facts(powers)
    assert loaded.features.parameters == FEATURES.parameters


def test_other_weights_have_another_hash(arrays, tmp_path):
    first = SingleShotModel(card(created="now"), arrays).save(tmp_path / "a.h5").hash
    again = SingleShotModel(card(created="now"), arrays).save(tmp_path / "b.h5").hash
    changed = {**arrays, "b1": arrays["b1"] + 1e-3}
    other = SingleShotModel(card(created="now"), changed).save(tmp_path / "c.h5").hash
    assert first == again != other


def test_a_network_of_another_kind_is_refused(arrays, tmp_path):
    with pytest.raises(ModelFileError, match="tried is a 'unet' network: expected 'contour-ensemble-1'"):
        SingleShotModel(card(architecture="unet"), arrays)
    write_model(tmp_path / "m.h5", card(architecture="unet"), {"w0": np.ones(3, np.float32)})
    with pytest.raises(ModelFileError, match="unet"):
        SingleShotModel.load(tmp_path / "m.h5")


@pytest.mark.parametrize("name", ["mean", "deviation", "axes", "spread", "b0", "b1", "w0"])
def test_a_missing_array_is_refused(arrays, name):
    with pytest.raises(ModelFileError, match="tried is incomplete"):
        SingleShotModel(card(), {key: array for key, array in arrays.items() if key != name})


@pytest.mark.parametrize("name", ["mean", "deviation", "axes", "spread", "b0", "b1", "w0", "w1"])
def test_an_array_that_does_not_fit_is_refused(arrays, name):
    with pytest.raises(ModelFileError, match="tried is incomplete: .*expected"):
        SingleShotModel(card(), {**arrays, name: arrays[name][..., :-1]})


def test_a_model_without_layers_is_refused(arrays):
    with pytest.raises(ModelFileError, match="tried is incomplete"):
        SingleShotModel(card(), {name: arrays[name] for name in ("mean", "deviation", "axes", "spread")})


@pytest.mark.parametrize(
    "change",
    [
        {"valid_range_um": None},
        {"valid_range_um": (5.0, 30.0)},
        {"features": FeatureRecord("wavelets")},
        {"features": FeatureRecord("contours", {"colours": 3})},
        {"features": FeatureRecord("strip_magnitude")},
        {"architecture_parameters": {name: 1.0 for name in SETTINGS if name != "sigma_scale"}},
        {"architecture_parameters": {**SETTINGS, "sigma_scale": "large"}},
        {"inputs": ModelInputs(illumination="single(na=0.4)", patch_px=PATCH, led_na_xy=(LED,))},
        {"inputs": ModelInputs.of(OPTICS, illumination="single(na=0.4)", patch_px=PATCH)},
        {"inputs": ModelInputs.of(OPTICS, illumination="brightfield", patch_px=PATCH, led_na_xy=(LED,))},
        {"inputs": ModelInputs.of(OPTICS, illumination="nothing", patch_px=PATCH, led_na_xy=(LED,))},
    ],
)
def test_a_card_that_does_not_say_enough_is_refused(arrays, change):
    with pytest.raises(ModelFileError, match="tried"):
        SingleShotModel(card(**change), arrays)


def test_no_file_is_no_model(tmp_path):
    with pytest.raises(ModelFileError, match="cannot read the model"):
        SingleShotModel.load(tmp_path / "none.h5")


def test_the_shipped_model_is_that_of_the_simulated_microscope():
    model = SingleShotModel.load()
    model.check(OPTICS, [LED])
    assert len(model.model_hash) == 64
    assert model.range_um == 30
    model.full_scale = 4095
    assert SingleShotModel.load().full_scale is None  # nobody shares what another has set


# ---- training --------------------------------------------------------------------------------------------


def made_up(fields, patches=3, seed=0):
    """Return powers, defoci and fields: fringes that move with defocus, under random specimens."""
    assert isinstance(FEATURES, ContourFeatures)
    planes_um = np.linspace(-20, 20, 21)
    rng = np.random.default_rng(seed)
    bins = FEATURES.size - 1
    g = np.linspace(0, 0.06, bins)  # so that the phase stays within a quarter turn: no ambiguity
    specimens = rng.gamma(400, size=(fields, 1, patches, bins)) / 400
    powers = specimens * (np.sin(planes_um[:, None, None] * g / 2 + 0.8) ** 2 + 0.05)
    powers[..., -1] = 1e-3
    return (
        powers.reshape(-1, patches, bins).astype(np.float32),
        np.tile(planes_um, fields),
        np.repeat(np.arange(fields), len(planes_um)),
    )


QUICK = TrainingOptions(
    networks=2, width=32, depth=2, steps=250, batch=64, learning_rate=4e-3, noise=0.05, seed=3
)


@pytest.fixture(scope="module")
def trained():
    pytest.importorskip("tensorflow")
    steps = []
    model = train_default(
        *made_up(40),
        FEATURES,
        options=QUICK,
        valid_range_um=18.0,
        data="made up",
        valid_for="tests",
        progress=lambda done, of: steps.append((done, of)),
    )
    assert steps[-1] == (500, 500) and steps == sorted(steps)
    return model


def test_a_model_learns(trained, tmp_path):
    powers, defocus, _ = made_up(10, seed=9)
    inside = np.abs(defocus) < 17
    estimates = [trained.judge(trained.facts(one)) for one in powers[inside]]
    believed = np.array([one.accepted for one in estimates])
    error = np.array([one.defocus_um for one in estimates])[believed] - defocus[inside][believed]
    sigma = np.array([one.sigma_um for one in estimates])[believed]
    assert np.sqrt(np.mean(error**2)) < 1.0
    assert believed.mean() > 0.7
    assert 0.8 < np.mean(np.abs(error) < 2 * sigma) <= 1
    assert trained.save(tmp_path / "m.h5").hash
    again = SingleShotModel.load(tmp_path / "m.h5")
    assert again.facts(powers[0]) == trained.facts(powers[0])


def test_the_card_says_how_it_was_trained(trained):
    said = trained.card
    assert said.training.fields == 40 and said.training.frames == 40 * 21
    assert said.training.seed == 3 and said.training.options["steps"] == 250
    assert "tensorflow" in said.training.versions
    assert said.figures["validation_frames"] == 4 * 19  # of a tenth of the fields, within the range
    assert said.figures["validation_rmse_um"] < 1.0
    assert said.valid_range_um == (-18, 18)
    trained.check(OPTICS, [LED])


def test_beyond_the_range_it_refuses(trained):
    powers, defocus, _ = made_up(10, seed=9)
    far = [trained.judge(trained.facts(one)) for one in powers[np.abs(defocus) == 20]]
    assert np.mean([one.reason is Reason.OUT_OF_RANGE for one in far]) > 0.5
    assert all(abs(one.defocus_um) > 15 for one in far if one.accepted)


def test_validation_frames_can_be_given():
    pytest.importorskip("tensorflow")
    powers, defocus, fields = made_up(12)
    model = train_default(
        powers,
        defocus,
        fields,
        FEATURES,
        options=dataclasses.replace(QUICK, networks=1),
        validation=made_up(3, seed=5)[:2],
    )
    assert model.card.figures["validation_frames"] == 63


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, z, f: (p[:, 0], z, f), r"expected \(n, patches, bins\)"),
        (lambda p, z, f: (p, z[:-1], f), "powers, defocus_um, groups have shapes"),
        (lambda p, z, f: (p, z, f[:, None]), "powers, defocus_um, groups have shapes"),
        (lambda p, z, f: (p[..., :-1], z, f), "these features make"),
        (lambda p, z, f: (p, z, f % 9), "there are 9 fields: expected at least 10"),
        (lambda p, z, f: (p, np.where(z == 0, np.nan, z), f), "defocus_um has values that are not finite"),
        (lambda p, z, f: (p * np.nan, z, f), "powers has values that are not finite"),
    ],
)
def test_data_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        train_default(*change(*made_up(12)), FEATURES)


def test_a_model_file_is_read_without_its_code(model, tmp_path):
    model.save(tmp_path / "m.h5")
    read_card, arrays = read_model(tmp_path / "m.h5")
    assert read_card.architecture == ARCHITECTURE
    assert set(arrays) == {"mean", "deviation", "axes", "spread", "w0", "b0", "w1", "b1"}
