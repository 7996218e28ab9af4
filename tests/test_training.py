"""The scripts that make the shipped weights: fields from seeds, kept on disk, whole frames put together."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from bluesky_autofocus.models.single_shot import SingleShotModel

ROOT = Path(__file__).parent.parent


@pytest.fixture
def fields(monkeypatch, tmp_path):
    from bluesky_autofocus.training import fields

    monkeypatch.setattr(fields, "CACHE", tmp_path)
    return fields


def test_fields_are_the_same_whenever_they_are_made_and_are_made_once(fields, tmp_path):
    recipe = fields.Recipe(
        "cells",
        5,
        2,
        planes_um=(-6.0, 6.0, 6.0),
        frame_px=256,
        patch_px=128,
        features=("contours", "two_led"),
        patterns=(((0.4, 0.0),), ((-0.4, 0.0),)),
    )
    made = fields.fields(recipe, show=False)
    assert made["defocus_um"].shape == (2, 3)
    assert made["contours"].shape[:4] == (2, 1, 3, 4)
    assert made["two_led"].shape == (2, 3, 3)
    np.testing.assert_allclose(np.diff(made["defocus_um"], axis=1), 6.0, atol=1e-4)

    frames, defoci = fields.field_frames(recipe, 6)
    assert frames.shape == (2, 3, 256, 256)
    np.testing.assert_allclose(defoci, made["defocus_um"][1], atol=0.02)

    stamp = (tmp_path / recipe.key / "seconds").stat().st_mtime_ns
    fields.fields(recipe, show=False)
    assert (tmp_path / recipe.key / "seconds").stat().st_mtime_ns == stamp
    assert dataclasses.replace(recipe, first_seed=6).key != recipe.key


def test_no_field_is_in_two_sets(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from bluesky_autofocus.training.recipes import CALIBRATION, TEST, TRAINING

    seen: dict[str, set[int]] = {}
    for recipe in (*TRAINING, *CALIBRATION, *TEST):
        seeds = set(range(recipe.first_seed, recipe.first_seed + recipe.count))
        assert not seeds & seen.setdefault(recipe.kind, set())
        seen[recipe.kind] |= seeds


def test_the_shipped_weights_say_where_they_come_from_and_are_small(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from bluesky_autofocus.training.recipes import TRAINING

    card = SingleShotModel.load().card
    assert card.training.seed == 0
    assert card.training.fields == sum(recipe.count for recipe in TRAINING)
    assert card.training.minutes > 0
    assert card.figures["validation_confident_wrong"] == 0
    weights = ROOT / "bluesky_autofocus" / "models" / "single_shot" / "weights" / "simulated-20x.h5"
    assert weights.stat().st_size < 10e6


@pytest.mark.parametrize("kind", ["cells", "tissue"])
def test_the_shipped_weights_measure_fresh_fields(kind):
    """Not the benchmark: a few frames of the default sensor's quarter, seeds of no set."""
    from bluesky_autofocus.simulation import AbbeImageFormation, LightCamera, specimen

    model = SingleShotModel.load()
    formation = AbbeImageFormation(frame_shape=(1024, 1024))
    view = formation.view(specimen(kind, 123, formation))
    camera, rng = LightCamera(), np.random.default_rng(0)
    errors, sigmas = [], []
    for defocus_um in (-21.3, -6.2, 0.7, 12.9, 25.0):
        intensity = view.intensity([model.leds[0].na_xy], [view.focus_um + defocus_um])[0]
        estimate = model.estimate(camera.frame(intensity, rng))
        assert estimate.accepted, estimate
        errors.append(estimate.defocus_um - defocus_um)
        sigmas.append(estimate.sigma_um)
    assert np.abs(errors).max() < model.optics.depth_of_field_um / 2
    assert (np.abs(errors) < 3 * np.array(sigmas)).all()


def test_the_shipped_weights_refuse_an_empty_field_and_other_light():
    from bluesky_autofocus.simulation import AbbeImageFormation, LightCamera, specimen

    model = SingleShotModel.load()
    formation = AbbeImageFormation(frame_shape=(512, 512))
    rng = np.random.default_rng(0)
    empty = formation.view(specimen("empty", 1, formation)).intensity([(0.4, 0.0)], [5.0])[0]
    assert model.estimate(LightCamera().frame(empty, rng)).reason == "empty"
    view = formation.view(specimen("tissue", 1, formation))
    for light in ([(0.0, 0.4)], [(0.2, 0.0)], [(0.4, 0.0), (-0.4, 0.0)]):
        frame = LightCamera(electrons=2000).frame(view.intensity(light, [5.0])[0], rng)
        assert not model.estimate(frame).accepted
