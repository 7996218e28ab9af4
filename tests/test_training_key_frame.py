"""Training the key-frame model on made-up cells, and simulating those of the shipped weights."""

import dataclasses

import numpy as np
import pytest

from bluesky_autofocus.models.card import ModelInputs
from bluesky_autofocus.models.key_frame import KeyFrameModel
from bluesky_autofocus.models.key_frame._posterior import posterior
from bluesky_autofocus.models.key_frame.train import (
    COARSE,
    FINE,
    STRIDE,
    CellStacks,
    TrainingOptions,
    train_key_frame,
)

INPUTS = ModelInputs("", 24, pixel_size_um=0.108, magnification=60.0)
OPTIONS = TrainingOptions(
    layers=((8, 5, 2), (12, 3, 2)), size=16, width=16, steps=250, cells=4, learning_rate=5e-3, seed=7
)


def made_up(fields=12, cells=2, planes=37, side=32, seed=0):
    """Return cells that are a spot: the wider the farther from focus, bright below and dark above."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    patches, focus = [], []
    for _ in range(fields * cells):
        at = (planes - 1) / 2 + rng.uniform(-2, 2)
        shift_y, shift_x = rng.uniform(-2, 2, 2)
        away = (np.arange(planes) - at)[:, None, None] / 4
        r2 = (y - shift_y) ** 2 + (x - shift_x) ** 2
        width = np.sqrt(2.0**2 + (2.5 * away) ** 2)
        stack = -np.tanh(2 * away) * 2 * np.exp(-r2 / (2 * width**2)) + rng.normal(
            0, 0.03, (planes, side, side)
        )
        patches.append(stack / stack.std())
        focus.append(at)
    return CellStacks(
        CellStacks.stored(np.array(patches, np.float32)),
        np.array(focus, np.float32),
        np.full(fields * cells, 0.25, np.float32),
        np.repeat(np.arange(fields), cells),
    )


def errors_um(model, scan, stacks):
    """Return how far off the model is in scans of single cells, the focus at an end or within."""
    n, stride = {"coarse": 3, "fine": 7}[scan.name], STRIDE[scan.name]
    found = []
    for cell in range(len(stacks)):
        for at in (0.25, 0.35 * (n - 1), n - 1.25):
            first = round(float(stacks.focus[cell]) - stride * at)
            patches = stacks.middle(cell, first + stride * np.arange(n), model.patch_px)[None]
            facts = model.facts(patches, scan, stride * float(stacks.step_um[cell]))
            focus = first + stride * posterior(facts.log_odds, scan.in_focus, scan.temperature).mean
            found.append((focus - stacks.focus[cell]) * stacks.step_um[cell])
    return np.abs(found)


@pytest.fixture(scope="module")
def stacks():
    pytest.importorskip("tensorflow")
    return made_up()


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def model(stacks, told):
    return train_key_frame(
        stacks,
        inputs=INPUTS,
        options=OPTIONS,
        data="made up",
        tolerances={"magnification": 0.02},
        progress=lambda done, total: told.append((done, total)),
    )


def untrained(model):
    rng = np.random.default_rng(0)
    arrays = {
        name: array if name.startswith("familiar") else rng.normal(0, 0.2, array.shape)
        for name, array in model.arrays.items()
    }
    return KeyFrameModel(model.card, arrays)


def test_it_learns(model):
    fresh = made_up(8, 1, seed=99)
    for scan, plane_um in zip(model.scans, (1.0, 0.25), strict=True):
        learnt, chance = (np.median(errors_um(one, scan, fresh)) for one in (model, untrained(model)))
        assert learnt < 0.4 * plane_um
        assert learnt < chance / 2


def test_the_card_says_what_it_is(model, told, tmp_path):
    card = model.card
    assert [scan.name for scan in model.scans] == ["coarse", "fine"]
    for scan, asked in zip(model.scans, (COARSE, FINE), strict=True):
        assert (scan.spacing_um, scan.planes, scan.in_focus) == (
            asked.spacing_um,
            asked.planes,
            asked.in_focus,
        )
        assert scan.temperature > 0 and scan.sigma_scale > 0 and scan.sigma_floor_um >= 0.01
        figures = {name: value for name, value in card.figures.items() if f"_{scan.name}_" in name}
        assert figures[f"validation_{scan.name}_scans"] >= 20
        assert figures[f"validation_{scan.name}_median_um"] < 0.5 * scan.nominal_um
    assert (card.training.fields, card.training.frames, card.training.seed) == (12, 24 * 37, 7)
    assert (card.training.data, card.inputs.patch_px) == ("made up", 24)
    assert card.training.minutes > 0 and card.training.options["steps"] == 250
    assert card.architecture_parameters["magnification_tolerance"] == 0.02
    assert told[-1] == (250, 250) and [done for done, _ in told] == sorted(done for done, _ in told)
    card = model.save(tmp_path / "made-up.h5")
    assert KeyFrameModel.load(tmp_path / "made-up.h5").card == card


def test_cells_like_those_are_familiar_and_others_are_not(model):
    fresh = made_up(6, 1, seed=98)
    scan = model.scans[1]
    noise = np.random.default_rng(0).normal(0, 1, (7, 24, 24)).astype(np.float32)
    for cell in range(6):
        first = round(float(fresh.focus[cell]) - 3)
        patches = fresh.middle(cell, first + np.arange(7), 24)
        assert model.facts(patches[None], scan, 0.25).strangeness < 1
        assert model.facts(4 * noise[None], scan, 0.25).strangeness > 1


def test_the_same_seed_gives_the_same(stacks):
    few = dataclasses.replace(OPTIONS, steps=3)
    from bluesky_autofocus.models.key_frame.train import _train

    def arrays(seed):
        options = dataclasses.replace(few, seed=seed)
        return _train(stacks, 24, options, np.random.default_rng(seed), lambda done, total: None, None)

    first, second, other = arrays(1), arrays(1), arrays(2)
    for name, array in first.items():
        np.testing.assert_allclose(second[name], array, rtol=1e-5, atol=1e-6, err_msg=name)
    assert np.abs(first["encoder.kernel0"] - other["encoder.kernel0"]).max() > 0.01


def test_going_on_from_a_model(model):
    """A few steps on other cells: still as good, and no longer the same."""
    others = made_up(seed=5)
    going_on = train_key_frame(
        others,
        inputs=INPUTS,
        options=dataclasses.replace(OPTIONS, steps=40, z_reversal=0.0),
        validation=made_up(10, 1, seed=6),
        start=model,
        name="gone on",
    )
    assert going_on.card.training.fields == 22
    moved = np.abs(going_on.arrays["encoder.kernel0"] - model.arrays["encoder.kernel0"])
    assert 0 < moved.max() < 0.5
    fresh = made_up(8, 1, seed=97)
    assert np.median(errors_um(going_on, going_on.scans[1], fresh)) < 0.1
    assert going_on.card.figures["validation_fine_median_um"] < 0.1


def test_more_cells_a_step_than_there_are(stacks):
    """Of which 22 are trained with: drawn again, not run out of."""
    options = dataclasses.replace(OPTIONS, steps=1, cells=50)
    with pytest.raises(ValueError, match="training did not converge"):
        train_key_frame(stacks, inputs=INPUTS, options=options)


class TestRefused:
    def refused(self, stacks, message, **options):
        with pytest.raises(ValueError, match=message):
            train_key_frame(stacks, **{"inputs": INPUTS, "options": OPTIONS, **options})

    def test_too_few_fields(self, stacks):
        self.refused(stacks[:18], "there are 9 fields: expected at least 10")

    def test_too_few_planes(self, stacks):
        few = dataclasses.replace(stacks, patches=stacks.patches[:, :16])
        self.refused(few, "stacks have 16 planes: expected at least 17")

    def test_no_focus(self, stacks):
        focus = stacks.focus.copy()
        focus[3] = np.nan
        self.refused(dataclasses.replace(stacks, focus=focus), "no finite focus: expected those")

    def test_stacks_smaller_than_a_patch(self, stacks):
        self.refused(stacks, "stacks are 32 px wide", inputs=dataclasses.replace(INPUTS, patch_px=48))

    @pytest.mark.parametrize("sizes", [{"size": 8}, {"width": 8}, {"layers": ((8, 5, 2),)}])
    def test_a_start_of_other_sizes(self, stacks, model, sizes):
        options = dataclasses.replace(OPTIONS, **sizes)
        self.refused(stacks, "to go on from it options must have the same", options=options, start=model)


class TestRecipe:
    @pytest.fixture
    def key_frame(self, monkeypatch, tmp_path):
        from bluesky_autofocus.training import key_frame

        monkeypatch.setattr(key_frame, "CACHE", tmp_path)
        return key_frame

    def test_fields_are_the_same_whenever_they_are_made_and_are_made_once(self, key_frame, tmp_path):
        recipe = key_frame.CellRecipe(31, 2, planes=9, frame_px=192)
        made = key_frame.cell_stacks(recipe, show=False)
        assert made.patches.shape[1:] == (9, 144, 144) and made.patches.dtype == np.int8
        assert 1 <= len(made) <= 8
        assert set(made.field) <= {31, 32}
        # the focus of a cell is near that of its field, which is in the middle
        assert np.abs(made.focus - 4).max() < 8
        assert ((made.step_um >= 0.225) & (made.step_um <= 0.295)).all()
        np.testing.assert_allclose(made.patches[0].astype(float).std(), 20, rtol=0.1)

        facts = tmp_path / recipe.key / "facts.npz"
        stamp = facts.stat().st_mtime_ns
        again = key_frame.cell_stacks(recipe, show=False)
        assert facts.stat().st_mtime_ns == stamp
        np.testing.assert_array_equal(again.patches, made.patches)
        assert key_frame.simulation_minutes(recipe) > 0
        assert dataclasses.replace(recipe, first_seed=32).key != recipe.key

        # a field that is simulated here is what a process of its own has made
        patches, focus, step_um = key_frame._cells_of_field((recipe, 31))
        of_field = made[made.field == 31]
        np.testing.assert_array_equal(of_field.patches, patches)
        np.testing.assert_allclose(of_field.focus, focus, rtol=1e-6)
        assert of_field.step_um == pytest.approx(step_um)

    def test_training_and_calibration_share_no_field(self, key_frame):
        training, calibration = (
            set(range(one.first_seed, one.first_seed + one.count))
            for one in (key_frame.TRAINING, key_frame.CALIBRATION)
        )
        assert not training & calibration

    def test_a_field(self, key_frame):
        recipe = key_frame.CellRecipe(1, 1, planes=9, frame_px=192)
        frames, focus, step_um, cells = key_frame.field_stack(recipe, 3)
        assert frames.shape == (9, 192, 192) and frames.dtype == np.uint16
        assert abs(focus - 4) <= 0.5
        assert 0.225 <= step_um <= 0.295
        assert cells and all(abs(one[3] - focus) * step_um < 3 for one in cells)
