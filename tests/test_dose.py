"""Seconds into electrons and photons per area, against numbers worked out by hand."""

import math

import pytest

from bluesky_autofocus.dose import (
    electrons_per_um2,
    exposure_s_for_electrons,
    exposure_s_for_photons,
    irradiance_w_cm2,
    joules_per_cm2,
    photons_per_um2,
)
from bluesky_autofocus.simulation import SEMImageFormation, SEMOptics, scene


def test_one_picoampere_for_a_second_on_a_square_micrometre():
    """1e-12 C are 1e-12 / 1.602176634e-19 = 6 241 509.07 electrons."""
    assert electrons_per_um2(1.0, beam_current_pa=1.0, field_um2=1.0) == pytest.approx(6_241_509.07, rel=1e-8)


def test_a_usual_frame():
    """100 pA on 512 x 512 px of 50 nm for 1 us each.

    The field is 25.6 um wide, 655.36 um^2; the frame takes 0.262144 s, in which 100e-12 * 0.262144 = 26.2144
    pC arrive, 163.6174e6 electrons: 249 660 a square micrometre, a quarter a square nanometre.
    """
    dose = electrons_per_um2(512 * 512 * 1e-6, beam_current_pa=100.0, field_um2=25.6**2)
    assert dose == pytest.approx(249_660.4, rel=1e-6)
    # by the pixel: 624.1509 electrons on 0.0025 um^2
    assert dose == pytest.approx(624.150907 / 0.0025, rel=1e-8)


def test_it_is_what_the_simulated_sem_draws_its_noise_from():
    formation = SEMImageFormation(
        scene("grains", seed=1, shape=(64, 64)),
        SEMOptics(beam_current_pa=50.0, detection_efficiency=0.2),
        frame_shape=(64, 64),
    )
    pixel_um = formation.pixel_size_um(5000.0)
    dose = electrons_per_um2(64 * 64 * 3e-6, beam_current_pa=50.0, field_um2=(64 * pixel_um) ** 2)
    assert formation.electrons_per_pixel(3.0) == pytest.approx(0.2 * dose * pixel_um**2)


def test_green_photons():
    """A photon of 0.5 um carries 6.62607015e-34 * 299792458 / 0.5e-6 = 3.972892e-19 J.

    1 W/cm^2 are 1e-8 W/um^2: 2.517058e10 photons a square micrometre and second.
    """
    dose = photons_per_um2(1.0, irradiance_w_cm2=1.0, wavelength_um=0.5)
    assert dose == pytest.approx(1e-8 / 3.972892e-19, rel=1e-6)
    assert photons_per_um2(0.02, irradiance_w_cm2=50.0, wavelength_um=0.5) == pytest.approx(dose)


def test_red_photons_are_more_for_the_same_energy():
    blue, red = (photons_per_um2(1.0, irradiance_w_cm2=1.0, wavelength_um=um) for um in (0.4, 0.8))
    assert red == pytest.approx(2 * blue)


def test_irradiance():
    """1 mW on 100 um x 100 um: 1e-3 W on 1e-4 cm^2."""
    assert irradiance_w_cm2(1.0, 100.0**2) == pytest.approx(10.0)
    assert joules_per_cm2(0.1, irradiance_w_cm2=10.0) == pytest.approx(1.0)


def test_there_and_back():
    beam = {"beam_current_pa": 13.0, "field_um2": 77.0}
    light = {"irradiance_w_cm2": 0.3, "wavelength_um": 0.488}
    assert exposure_s_for_electrons(electrons_per_um2(0.7, **beam), **beam) == pytest.approx(0.7)
    assert exposure_s_for_photons(photons_per_um2(0.7, **light), **light) == pytest.approx(0.7)


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf])
def test_numbers_that_make_no_sense(wrong):
    for call in (
        lambda: electrons_per_um2(wrong, beam_current_pa=1.0, field_um2=1.0),
        lambda: electrons_per_um2(1.0, beam_current_pa=wrong, field_um2=1.0),
        lambda: exposure_s_for_electrons(1.0, beam_current_pa=1.0, field_um2=wrong),
        lambda: photons_per_um2(1.0, irradiance_w_cm2=wrong, wavelength_um=0.5),
        lambda: exposure_s_for_photons(wrong, irradiance_w_cm2=1.0, wavelength_um=0.5),
        lambda: irradiance_w_cm2(wrong, 1.0),
        lambda: joules_per_cm2(1.0, irradiance_w_cm2=wrong),
    ):
        with pytest.raises(ValueError, match=f"got {wrong}"):
            call()


def test_no_exposure_costs_nothing():
    assert electrons_per_um2(0.0, beam_current_pa=1.0, field_um2=1.0) == 0.0
    with pytest.raises(ValueError, match="field_um2 must be positive"):
        electrons_per_um2(0.0, beam_current_pa=1.0, field_um2=0.0)
