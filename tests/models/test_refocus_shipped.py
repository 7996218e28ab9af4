"""The weights that come with the package, on simulated fields that they were not trained on."""

import numpy as np
import pytest

from bluesky_autofocus.models.refocus import load_model
from bluesky_autofocus.models.refocus.metrics import psnr_db
from bluesky_autofocus.records import Reason
from bluesky_autofocus.simulation import scene
from bluesky_autofocus.training.refocus import DEFOCUS_UM, StackRecipe, field_stacks

FIELDS = {
    "fluorescence": StackRecipe("fluorescence", 690_000, 3, (320, 320)),
    "brightfield": StackRecipe("brightfield", 691_000, 1, (320, 320), electrons=(9000.0, 9000.0)),
}


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def stacks():
    """Return planes and targets: three fields of nuclei, and the three colours of a smear."""
    found = {}
    for kind, recipe in FIELDS.items():
        fields = [field_stacks(recipe, recipe.first_seed + n) for n in range(recipe.count)]
        found[kind] = tuple(np.concatenate([one[k] for one in fields]) for k in range(2))
    return found


@pytest.mark.parametrize(
    ("kind", "z", "least_db"),
    [
        ("fluorescence", 1, 5.0),
        ("fluorescence", 5, 5.0),
        ("fluorescence", 10, 4.0),
        ("fluorescence", 32, 3.0),
        ("brightfield", 5, 3.0),
        ("brightfield", 10, 3.0),
    ],
)
def test_frames_come_nearer_to_focus(model, stacks, kind, z, least_db):
    gains, inside = [], []
    for planes, target in zip(*stacks[kind], strict=True):
        frame = planes[z - 1]
        made = model.refocus(frame)
        assert made.accepted, made.reason
        assert made.frame.dtype == frame.dtype
        assert made.defocus_um == pytest.approx(abs(DEFOCUS_UM[z - 1]), abs=4)
        gains.append(psnr_db(made.frame, target) - psnr_db(frame, target))
        inside.append(np.abs(made.frame.astype(float) - target) <= 2 * made.sigma)
    assert np.mean(gains) > least_db and min(gains) > 1
    assert np.mean(inside) > 0.88


def test_what_is_in_focus_is_left_as_it_is(model, stacks):
    frame = stacks["fluorescence"][0][0, 15]
    made = model.refocus(frame)
    assert (made.accepted, made.reason) == (True, Reason.STILL_SHARP)
    assert (made.frame == frame).all()


def test_a_colour_frame(model, stacks):
    planes, targets = stacks["brightfield"]
    frame, target = (np.stack(list(one), axis=-1) for one in (planes[:, 9], targets))
    made = model.refocus(frame)
    assert made.accepted, made.reason
    assert made.frame.shape == frame.shape and made.frame.dtype == np.uint8
    for colour in range(3):
        assert psnr_db(made.frame[..., colour], target[..., colour]) > psnr_db(
            frame[..., colour], target[..., colour]
        )


@pytest.mark.parametrize("kind", ["grains", "wafer", "brick"])
def test_frames_of_another_kind_do_not_come_out_worse(model, kind):
    """They are refused, left as they are, or hardly changed; never made into nuclei."""
    rng = np.random.default_rng(0)
    specimen = scene(kind, seed=1)[:320, :320].astype(float)
    levels = (specimen - specimen.min()) / np.ptp(specimen)
    frame = rng.poisson(2000 * levels + 200).astype(np.uint16)
    made = model.refocus(frame)
    if made.accepted:
        assert made.mismatch < 0.2
        assert np.corrcoef(made.frame.ravel(), frame.ravel())[0, 1] > 0.7
    else:
        assert (made.frame == frame).all()
