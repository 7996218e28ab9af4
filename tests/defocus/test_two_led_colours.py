"""Two opposite LEDs of two colours in one exposure: the channels of a colour camera are the pair."""

import dataclasses
import json

import numpy as np
import pytest
import tifffile

from bluesky_autofocus.cli import main
from bluesky_autofocus.defocus import TwoLEDFilter
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.simulation import AbbeImageFormation, Aberrations, LightCamera, specimen

GREEN = LightOptics()
RED = dataclasses.replace(GREEN, wavelength_um=0.63)


@pytest.fixture(scope="module")
def exposure():
    """Return a function that gives a frame (H, W, 2) of a thin section, green from +x and red from -x."""
    green, red = (AbbeImageFormation(one, (256, 256), Aberrations(0, 0, 0)) for one in (GREEN, RED))
    section = specimen("tissue", 1, green, n_slices=1)
    views = green.view(section), red.view(section)
    camera, rng = LightCamera(), np.random.default_rng(0)

    def expose(z_um: float) -> np.ndarray:
        lit = zip(views, ((0.4, 0.0), (-0.4, 0.0)), strict=True)
        return np.stack([camera.frame(view.intensity([led], [z_um])[0], rng) for view, led in lit], axis=-1)

    return expose


@pytest.mark.parametrize("z_um", [-17.0, 0.0, 6.5])
def test_two_channels_tell_the_defocus_with_its_sign(exposure, z_um):
    frame = exposure(z_um)
    two = TwoLEDFilter(GREEN, second_wavelength_um=0.63)
    estimate = two.estimate(frame[..., 0], frame[..., 1])
    assert estimate.accepted
    assert estimate.defocus_um == pytest.approx(z_um, abs=0.15)


def test_the_second_wavelength_matters(exposure):
    frame = exposure(-17.0)
    ignorant = TwoLEDFilter(GREEN).estimate(frame[..., 0], frame[..., 1])
    assert not ignorant.accepted or abs(ignorant.defocus_um + 17.0) > 0.5


def test_predict_takes_both_from_one_file(exposure, tmp_path, capsys):
    file = tmp_path / "colours.tif"
    tifffile.imwrite(file, np.moveaxis(exposure(6.5), -1, 0), metadata={"axes": "CYX"}, imagej=True)
    arguments = ["--channel", "0", "--second-channel", "1", "--second-wavelength-um", "0.63", "--json"]
    assert main(["predict", "two-led", str(file), *arguments]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["defocus_um"] == pytest.approx(6.5, abs=0.15)
