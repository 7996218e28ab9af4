"""What seconds of exposure do to a specimen, in electrons or photons per area, and the way back.

Plans count dose in seconds of light or beam on the field, as the camera says them: that needs no calibration
and is the same for a lamp, a laser and a beam. Those who know their instrument's current or irradiance
turn that into what the literature on damage gives, and a tolerable dose into a budget.
"""

import math

__all__ = [
    "electrons_per_um2",
    "exposure_s_for_electrons",
    "exposure_s_for_photons",
    "irradiance_w_cm2",
    "joules_per_cm2",
    "photons_per_um2",
]

ELEMENTARY_CHARGE_C = 1.602176634e-19
"""Exact in the SI since 2019."""
PLANCK_J_S = 6.62607015e-34
"""Exact in the SI since 2019."""
LIGHT_M_S = 299_792_458.0
"""Exact in the SI."""

UM2_PER_CM2 = 1e8


def electrons_per_um2(exposure_s: float, *, beam_current_pa: float, field_um2: float) -> float:
    """Return the beam electrons per area that an exposure of a scanned field costs: ``I t / (e A)``.

    A pixel gets the dwell time, the field the dwell time of all its pixels: ``I t_dwell / (e a^2)``, with
    ``a`` the side of a pixel, is the same number.

    Parameters
    ----------
    exposure_s : float
        Seconds of beam on the field, all frames together.
    beam_current_pa : float
        Beam current, in picoampere.
    field_um2 : float
        Area that is scanned, in square micrometre.

    Returns
    -------
    float
        Electrons per square micrometre; a hundred millionth of that per square angstrom.

    Raises
    ------
    ValueError
        If a number is not finite, the time negative, or current or area not positive.
    """
    _check(exposure_s, beam_current_pa=beam_current_pa, field_um2=field_um2)
    return exposure_s * _electrons_per_um2_s(beam_current_pa, field_um2)


def exposure_s_for_electrons(electrons_um2: float, *, beam_current_pa: float, field_um2: float) -> float:
    """Return the seconds of beam that a dose allows; the inverse of `electrons_per_um2`.

    Parameters
    ----------
    electrons_um2 : float
        Electrons per square micrometre.
    beam_current_pa, field_um2 : float
        As for `electrons_per_um2`.

    Returns
    -------
    float
        Seconds, such as a ``dose_budget_s``.

    Raises
    ------
    ValueError
        As for `electrons_per_um2`.
    """
    _check(electrons_um2, beam_current_pa=beam_current_pa, field_um2=field_um2)
    return electrons_um2 / _electrons_per_um2_s(beam_current_pa, field_um2)


def irradiance_w_cm2(power_mw: float, field_um2: float) -> float:
    """Return the mean irradiance of a field, from the power that leaves the objective.

    Parameters
    ----------
    power_mw : float
        In the plane of the specimen, in milliwatt.
    field_um2 : float
        Area that is lit, in square micrometre; often more than the camera sees.

    Returns
    -------
    float
        In W/cm^2, as dyes and damage are tabulated.

    Raises
    ------
    ValueError
        If a number is not positive and finite.
    """
    _check(0.0, power_mw=power_mw, field_um2=field_um2)
    return 1e-3 * power_mw / (field_um2 / UM2_PER_CM2)


def joules_per_cm2(exposure_s: float, *, irradiance_w_cm2: float) -> float:
    """Return the radiant exposure: irradiance times time.

    Raises
    ------
    ValueError
        If a number is not finite, the time negative, or the irradiance not positive.
    """
    _check(exposure_s, irradiance_w_cm2=irradiance_w_cm2)
    return exposure_s * irradiance_w_cm2


def photons_per_um2(exposure_s: float, *, irradiance_w_cm2: float, wavelength_um: float) -> float:
    """Return the photons per area that an exposure costs: ``E t lambda / (h c)``.

    Parameters
    ----------
    exposure_s : float
        Seconds of light on the field, all frames together.
    irradiance_w_cm2 : float
        See `irradiance_w_cm2`.
    wavelength_um : float
        Centre of the light's spectrum, in vacuum.

    Returns
    -------
    float
        Photons per square micrometre that meet the specimen, absorbed or not.

    Raises
    ------
    ValueError
        If a number is not finite, the time negative, or irradiance or wavelength not positive.
    """
    _check(exposure_s, irradiance_w_cm2=irradiance_w_cm2, wavelength_um=wavelength_um)
    return exposure_s * _photons_per_um2_s(irradiance_w_cm2, wavelength_um)


def exposure_s_for_photons(photons_um2: float, *, irradiance_w_cm2: float, wavelength_um: float) -> float:
    """Return the seconds of light that a dose allows; the inverse of `photons_per_um2`.

    Parameters
    ----------
    photons_um2 : float
        Photons per square micrometre.
    irradiance_w_cm2, wavelength_um : float
        As for `photons_per_um2`.

    Returns
    -------
    float
        Seconds, such as a ``dose_budget_s``.

    Raises
    ------
    ValueError
        As for `photons_per_um2`.
    """
    _check(photons_um2, irradiance_w_cm2=irradiance_w_cm2, wavelength_um=wavelength_um)
    return photons_um2 / _photons_per_um2_s(irradiance_w_cm2, wavelength_um)


def _electrons_per_um2_s(beam_current_pa: float, field_um2: float) -> float:
    return 1e-12 * beam_current_pa / ELEMENTARY_CHARGE_C / field_um2


def _photons_per_um2_s(irradiance_w_cm2: float, wavelength_um: float) -> float:
    photon_j = PLANCK_J_S * LIGHT_M_S / (1e-6 * wavelength_um)
    return irradiance_w_cm2 / UM2_PER_CM2 / photon_j


def _check(amount: float, **positive: float) -> None:
    if not (math.isfinite(amount) and amount >= 0):
        raise ValueError(f"expected a finite time or dose, zero or more, got {amount!r}")
    for name, value in positive.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive and finite, got {value!r}")
