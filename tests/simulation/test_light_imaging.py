import math

import numpy as np
import pytest
from scipy.special import j1

from bluesky_autofocus.defocus import TwoCircles
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.simulation import AbbeImageFormation, Aberrations, Specimen, specimen
from bluesky_autofocus.simulation.light import _imaging

NONE = Aberrations(0.0, 0.0, 0.0)
OPTICS = LightOptics()
LAM, NA, K = OPTICS.wavelength_um, OPTICS.numerical_aperture, 1 / OPTICS.wavelength_um
AXIS = [(0.0, 0.0)]


@pytest.fixture(autouse=True)
def whole_tile(monkeypatch):
    """Frames show the whole tile, so that theory holds for their spectra without leakage."""
    monkeypatch.setattr(_imaging, "_MARGIN_PX", 0)


def ideal(side=192, optics=OPTICS, **options):
    shape = side if isinstance(side, tuple) else (side, side)
    return AbbeImageFormation(optics, shape, options.pop("aberrations", NONE), **options)


def grid(formation):
    """Coordinates (y, x) of the samples of a specimen, in um."""
    y, x = (
        np.arange(n) * extent / n
        for n, extent in zip(formation.sample_shape, formation.extent_um, strict=True)
    )
    return y[:, None], x


def look(formation, *slices, heights=None):
    """View some slices of given transmission, one at z = 0 by default."""
    stacked = np.stack([np.broadcast_to(one, formation.sample_shape) for one in slices])
    return formation.view(Specimen(stacked.astype(np.complex64), np.array(heights or [0.0]), "drawn"))


def noise(formation, seed=0):
    return np.random.default_rng(seed).standard_normal(formation.sample_shape)


def periodic(formation, na_xy):
    """Return the direction that the formation makes of another, periodic over its field."""
    rows, columns = formation._shift_of(na_xy)
    return columns * formation.step_per_um[1] * LAM, rows * formation.step_per_um[0] * LAM


def power(image):
    return np.abs(np.fft.fft2(image - image.mean(dtype=float))) ** 2


def frequencies(formation):
    px = formation.optics.pixel_size_um
    fy, fx = (np.fft.fftfreq(n, px) for n in formation.frame_shape)
    return fy[:, None], fx


def kz(u):
    return math.sqrt(K**2 - u**2)


# ---- propagation -----------------------------------------------------------------------------------------


def test_a_beam_widens_from_its_waist_and_keeps_its_energy():
    formation = ideal()
    y, x = grid(formation)
    waist, middle = 1.2, 28.8
    view = look(formation, np.exp(-((y - middle) ** 2 + (x - middle) ** 2) / waist**2))
    z = np.array([-20.0, -10.0, 0.0, 5.0, 20.0])
    images = view.intensity(AXIS, z)
    at = np.arange(192) * 0.3 - middle
    total = images.sum((1, 2))
    width = 2 * np.sqrt((images * at**2).sum((1, 2)) / total)
    np.testing.assert_allclose(width, waist * np.sqrt(1 + (z * LAM / np.pi / waist**2) ** 2), rtol=0.015)
    np.testing.assert_allclose(total, total[0], rtol=1e-5)


def test_a_pinhole_makes_an_airy_disc():
    formation = ideal()
    hole = np.zeros(formation.sample_shape)
    hole[96, 96] = 1  # 19.2 um: on pixel 64
    image = look(formation, hole).intensity(AXIS, [0.0])[0]
    assert np.unravel_index(image.argmax(), image.shape) == (64, 64)
    v = 2 * np.pi * NA / LAM * 0.3 * np.arange(1, 25)
    for profile in (image[64, 65:89], image[65:89, 64], image[63:39:-1, 64]):
        np.testing.assert_allclose(profile / image[64, 64], (2 * j1(v) / v) ** 2, atol=3e-3)


def test_behind_a_pinhole_light_on_the_axis_comes_and_goes():
    formation = ideal()
    hole = np.zeros(formation.sample_shape)
    hole[96, 96] = 1
    z = np.arange(0, 12, 0.5)
    axis = look(formation, hole).intensity(AXIS, z)[:, 64, 64]
    # the pupil's integral of exp(2 pi i z kz), in k = kz: u du = -k dk
    k = np.linspace(kz(NA / LAM), K, 4001)
    theory = np.array([np.abs(np.trapezoid(k * np.exp(2j * np.pi * one * k), k)) ** 2 for one in z])
    np.testing.assert_allclose(axis / axis[0], theory / theory[0], atol=0.015)
    assert axis[8] < 0.01 * axis[0]  # dark at lambda / (1 - cos) = 3.96 um


@pytest.mark.parametrize("strength", [0.1, 0.4])
def test_a_grating_comes_back_after_a_talbot_length(strength):
    formation = ideal()
    _, x = grid(formation)
    period = formation.extent_um[1] / 16  # 12 px
    q = 1 / period
    talbot = 1 / (K - kz(q))
    assert talbot == pytest.approx(2 * period**2 / LAM, rel=0.01)
    view = look(formation, 1 + strength * np.cos(2 * np.pi * x * q))
    start, quarter, half, whole = view.intensity(AXIS, np.array([0, 0.25, 0.5, 1]) * talbot)
    np.testing.assert_allclose(whole, start, atol=2e-3)
    np.testing.assert_allclose(half, np.roll(start, 6, axis=1), atol=2e-3)
    harmonic = np.abs(np.fft.fft(np.stack([start, quarter])[:, 0], axis=1)[:, 16])
    assert harmonic[1] < 1e-3 * harmonic[0]


def test_the_pupil_cuts_orders_of_a_fine_grating():
    formation = ideal()
    _, x = grid(formation)
    q = 56 / formation.extent_um[1]
    assert NA / LAM < q < 2 * NA / LAM
    view = look(formation, 1 + 0.2 * np.cos(2 * np.pi * x * q))
    np.testing.assert_allclose(view.intensity(AXIS, [0.0, 7.0]), 1, atol=1e-4)  # the direct light alone
    # under a tilted wave one order comes through beside the direct light: fringes at any height
    fringes = view.intensity([(0.3, 0.0)], [-9.0, 0.0, 6.0])[:, 0]
    np.testing.assert_allclose(2 * np.abs(np.fft.fft(fringes))[:, 56] / 192, 0.2, rtol=0.01)


def test_energy_is_conserved_through_focus():
    formation = ideal(128, aberrations=Aberrations())
    view = formation.view(specimen("cells", 3, formation))
    for direction in (AXIS, [(0.4, 0.0)]):
        light = view.intensity(direction, np.arange(-30, 31, 10.0)).mean((1, 2), dtype=float)
        np.testing.assert_allclose(light, light[0], rtol=1e-5)


# ---- what passes the pupil -------------------------------------------------------------------------------


def test_brightfield_transfers_up_to_twice_the_aperture():
    """A condenser that fills the pupil: the incoherent transfer function, for a weak absorber."""
    formation = ideal(128, LightOptics(pixel_size_um=0.2))
    absorption = noise(formation)
    view = look(formation, 1 - 1e-3 * absorption)
    side = np.linspace(-NA, NA, 21)
    leds = [(a, b) for a in side for b in side if math.hypot(a, b) < 0.985 * NA]
    image = view.intensity(leds, [0.0])[0] / len(leds)
    fy, fx = frequencies(formation)
    rho = np.hypot(fy, fx) / OPTICS.cutoff_per_um
    seen, there = power(image), 4e-6 * power(absorption)  # pixels are samples here
    outside = rho > 1.02
    assert seen[outside].sum() < 1e-6 * there[outside].sum()
    for low in np.arange(0.05, 0.95, 0.15):
        ring = (rho > low) & (rho < low + 0.05)
        at = rho[ring].mean()
        theory = 2 / np.pi * (math.acos(at) - at * math.sqrt(1 - at**2))
        assert math.sqrt(seen[ring].sum() / there[ring].sum()) == pytest.approx(theory, abs=0.03)


def test_nothing_is_finer_than_the_cut_off():
    formation = ideal(128, LightOptics(pixel_size_um=0.2), aberrations=Aberrations())
    view = formation.view(specimen("tissue", 5, formation))
    radius = np.hypot(*frequencies(formation))
    for led in ((0.0, 0.0), (0.4, 0.1), (0.6, 0.0)):
        spectrum = power(view.intensity([led], [8.0])[0])
        beyond = radius > OPTICS.cutoff_per_um * 1.03
        assert spectrum[beyond].sum() < 1e-9 * spectrum.sum()


@pytest.mark.parametrize("led", [(0.4, 0.0), (0.0, -0.35), (0.25, 0.25)])
def test_one_led_makes_two_circles_with_fringes(led):
    """Weak phase: sin^2(z g) where the circles overlap, 1/4 in one alone, nothing outside."""
    formation = ideal(192, LightOptics(pixel_size_um=0.25))
    phase = noise(formation)
    view = look(formation, np.exp(1e-3j * phase))
    circles = TwoCircles(formation.optics, periodic(formation, led), *reversed(frequencies(formation)))
    near, far = (f(circles.to_plus, circles.to_minus) for f in (np.minimum, np.maximum))
    both, one = far < 0.97, (near < 0.97) & (far > 1.03)
    keep = np.asarray(formation.sample_shape) // 2
    assert (keep >= 96).all()
    scattered = np.abs(np.fft.fft2(phase))
    rows, columns = (np.fft.fftfreq(192, 1 / 192).astype(int) % n for n in formation.sample_shape)
    scattered = scattered[rows[:, None], columns] * 192**2 / phase.size * 2e-3
    for z in (-12.0, 5.0, 17.0):
        measured = np.abs(np.fft.fft2(view.intensity([led], [z])[0]))
        assert (measured[near > 1.03] ** 2).sum() < 1e-4 * (measured[near < 0.97] ** 2).sum()
        ratio = measured / np.maximum(scattered, 1e-2)
        strong = scattered > np.median(scattered)
        fringes = np.abs(np.sin(z * circles.g))
        np.testing.assert_allclose(ratio[both & strong], fringes[both & strong], atol=0.05)
        np.testing.assert_allclose(ratio[one & strong], 0.5, atol=0.05)


def test_darkfield_has_scattered_light_only():
    formation = ideal(128)
    beyond = [(0.6, 0.0)]
    np.testing.assert_allclose(look(formation, 1.0).intensity(beyond, [0.0, 9.0]), 0, atol=1e-9)
    view = formation.view(specimen("cells", 3, formation))
    dark, bright = (view.intensity(led, [3.0])[0] for led in (beyond, [(0.4, 0.0)]))
    assert 1e-4 < dark.mean() < bright.mean() / 30
    assert dark.std() > dark.mean()  # on black


# ---- defocus ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("led", [(0.3, 0.0), (-0.3, 0.0), (0.0, 0.35), (0.2, -0.2)])
def test_out_of_focus_things_move_along_the_led(led):
    """By +z tan(theta): the convention of the whole package."""
    formation = ideal()
    y, x = grid(formation)
    view = look(formation, 1 - 0.02 * np.exp(-((y - 28.8) ** 2 + (x - 28.8) ** 2) / 2.0))
    led = periodic(formation, led)
    at = np.arange(192) * 0.3 - 28.8
    for z in (-8.0, 0.0, 6.0):
        shade = 1 - view.intensity([led], [z])[0].astype(float)
        seen = np.array([(shade * at).sum(), (shade * at[:, None]).sum()]) / shade.sum()
        tangent = np.array(led) / math.sqrt(1 - led[0] ** 2 - led[1] ** 2)
        np.testing.assert_allclose(seen, z * tangent, atol=0.06)


def asymmetry(formation, transmission, z=10.0):
    above, below = (
        np.sqrt(power(one)) for one in look(formation, transmission).intensity([(0.4, 0.0)], [z, -z])
    )
    return np.abs(above - below).sum() / (above + below).sum()


def test_weak_phase_looks_alike_above_and_below_and_nothing_else_does():
    formation = ideal()
    fy, fx = (np.fft.fftfreq(n, e / n) for n, e in zip(formation.sample_shape, formation.extent_um))  # noqa: B905
    smooth = np.exp(-((np.hypot(fy[:, None], fx) / 0.7) ** 2))
    phase, other = (np.fft.ifft2(np.fft.fft2(noise(formation, seed)) * smooth).real for seed in (1, 2))
    phase, other = phase / phase.std(), other / other.std()
    assert asymmetry(formation, np.exp(0.002j * phase)) < 0.01
    assert asymmetry(formation, 1 - 0.002 * other) < 0.01  # as does weak absorption
    assert asymmetry(formation, np.exp(0.002j * phase - 0.002 * other)) > 0.03
    assert asymmetry(formation, np.exp(0.8j * phase)) > 0.1
    aberrated = ideal(aberrations=Aberrations(0.1, 0, 0))
    assert asymmetry(aberrated, np.exp(0.002j * phase)) > 0.05


@pytest.mark.parametrize("led", [(0.0, 0.0), (0.35, 0.2)])
def test_a_slice_is_in_focus_at_its_height(led):
    formation = ideal(128, aberrations=Aberrations())
    slice_ = specimen("tissue", 1, formation).slices[0]
    raised, flat = look(formation, slice_, heights=[4.0]), look(formation, slice_)
    z = np.array([-3.0, 0.0, 4.0, 11.0])
    np.testing.assert_allclose(raised.intensity([led], z), flat.intensity([led], z - 4.0), atol=2e-4)


def test_empty_slices_change_nothing():
    formation = ideal(128)
    slice_ = specimen("cells", 1, formation).slices[0]
    stacked = look(formation, 1.0, 1.0, slice_, 1.0, heights=[-3.0, -1.0, 2.0, 4.5])
    alone = look(formation, slice_, heights=[2.0])
    for led in ([(0.0, 0.0)], [(0.3, -0.3)]):
        np.testing.assert_allclose(stacked.intensity(led, [6.0]), alone.intensity(led, [6.0]), atol=2e-4)
    np.testing.assert_allclose(
        look(formation, 1.0, 1.0, heights=[0.0, 3.0]).intensity(led, [5.0]), 1, atol=1e-5
    )


def test_thin_slices_one_behind_the_other_multiply():
    formation = ideal(96)
    y, x = (2 * np.pi * one / formation.extent_um[0] for one in grid(formation))
    # smooth: what is finer than a wavelength does not reach the next slice
    first, second = np.exp(1j * np.sin(9 * x) * np.cos(7 * y)), np.exp(0.8j * np.cos(5 * x + 8 * y) - 0.1)
    np.testing.assert_allclose(
        look(formation, first, second, heights=[0.0, 1e-6]).intensity([(0.4, 0.0)], [5.0]),
        look(formation, first * second).intensity([(0.4, 0.0)], [5.0]),
        atol=1e-4,
    )


@pytest.mark.parametrize("kind", ["cells", "tissue"])
def test_the_whole_agrees_with_a_plain_calculation_in_double_precision(kind):
    formation = ideal((96, 120), aberrations=Aberrations())
    made = specimen(kind, 4, formation)
    led, z = (0.31, -0.22), 7.3
    rows, columns = formation._shift_of(led)
    uy, ux = (
        np.fft.fftfreq(n, extent / n)
        for n, extent in zip(formation.sample_shape, formation.extent_um, strict=True)
    )
    y, x = grid(formation)
    tilt_y, tilt_x = rows * formation.step_per_um[0], columns * formation.step_per_um[1]
    root = np.sqrt((K**2 - uy[:, None] ** 2 - ux**2).astype(complex))
    wave = np.exp(2j * np.pi * (tilt_y * y + tilt_x * x))
    height = made.heights_um[0]
    for slice_, at in zip(made.slices, made.heights_um, strict=True):
        propagator = np.where(root.imag == 0, np.exp(2j * np.pi * root * (at - height)), 0)
        wave = np.fft.ifft2(np.fft.fft2(wave) * propagator) * slice_
        height = at
    radius = np.hypot(uy[:, None], ux)
    edge = np.clip((NA / LAM - radius) / min(formation.step_per_um) + 0.5, 0, 1)
    wavefront = Aberrations().phase_waves(radius / (NA / LAM), np.arctan2(uy[:, None], ux))
    pupil = np.where(edge > 0, edge * np.exp(2j * np.pi * (wavefront + root * (z - height))), 0)
    seen = np.fft.fft2(wave) * pupil
    pixels = tuple(np.fft.fftfreq(n, 1 / n).astype(int) for n in formation.shape)
    seen = seen[pixels[0][:, None], pixels[1]] * np.prod(formation.shape) / seen.size
    reference = np.abs(np.fft.ifft2(seen)) ** 2
    image = formation.view(made).intensity([led], [z])[0]
    np.testing.assert_allclose(image, reference, atol=1e-4 * reference.max())


def test_planes_at_equal_steps_are_the_planes_one_by_one():
    formation = ideal(96, aberrations=Aberrations())
    view = formation.view(specimen("cells", 2, formation))
    z = np.linspace(-30, 30, 61)
    stack = view.intensity([(0.4, 0.0)], z)
    assert stack.shape == (61, 96, 96) and stack.dtype == np.float32
    for index in (0, 1, 30, 60):
        np.testing.assert_allclose(view.intensity([(0.4, 0.0)], z[index])[0], stack[index], atol=1e-3)
    odd = view.intensity([(0.4, 0.0)], z[[3, 4, 60]])
    np.testing.assert_allclose(odd, stack[[3, 4, 60]], atol=1e-3)


def test_spherical_aberration_moves_the_best_focus_under_oblique_light():
    def focus(waves):
        formation = ideal(128, aberrations=Aberrations(waves, 0, 0))
        slice_ = specimen("tissue", 1, formation).slices[0]
        return look(formation, slice_).focus_um

    below, perfect, above = (focus(waves) for waves in (0.08, 0.0, -0.08))
    assert perfect - below == pytest.approx(0.6, abs=0.2)
    assert above - perfect == pytest.approx(0.6, abs=0.2)


def test_spherical_aberration_is_balanced_on_the_axis():
    """The Zernike polynomial: a point spreads, and is brightest where it was."""
    z = np.arange(-2, 2.01, 0.25)

    def brightness(waves):
        formation = ideal(aberrations=Aberrations(waves, 0, 0))
        hole = np.zeros(formation.sample_shape)
        hole[96, 96] = 1
        return look(formation, hole).intensity(AXIS, z)[:, 64, 64].astype(float)

    perfect, aberrated = brightness(0.0), brightness(0.08)
    assert perfect.argmax() == aberrated.argmax() == 8
    # Strehl
    assert aberrated.max() / perfect.max() == pytest.approx(math.exp(-((2 * np.pi * 0.08) ** 2)), rel=0.03)


# ---- several LEDs, the whole field -----------------------------------------------------------------------


def test_light_of_several_leds_adds():
    formation = ideal(96)
    view = formation.view(specimen("cells", 2, formation))
    leds, z = [(0.4, 0.0), (0.0, 0.2), (-0.3, 0.1)], [2.0, 9.0]
    each = [view.intensity([led], z) for led in leds]
    np.testing.assert_allclose(view.intensity(leds, z), sum(each), rtol=1e-5)
    weighted = view.intensity(leds, z, [0.5, 0.0, 2.0])
    np.testing.assert_allclose(weighted, 0.5 * each[0] + 2 * each[2], rtol=1e-5)
    assert 0.7 < each[0].mean() < 1  # cells absorb, and scatter beyond the pupil
    assert not view.intensity(leds, z, [0, 0, 0]).any()
    assert not view.intensity(np.empty((0, 2)), z).any()  # off
    np.testing.assert_allclose(look(formation, 1.0).intensity(leds, z), 3, rtol=1e-5)


def test_many_leds_one_after_the_other_are_not_mixed_up(monkeypatch):
    monkeypatch.setattr(_imaging, "_KEPT_SPECTRA", 2)
    formation = ideal(64)
    view = formation.view(specimen("tissue", 2, formation))
    leds = [(0.1 * k, 0.0) for k in range(5)]
    first = [view.intensity([led], [4.0]) for led in leds]
    assert len(view._windows) == 2
    for led, image in zip(leds, first, strict=True):
        np.testing.assert_array_equal(view.intensity([led], [4.0]), image)


def test_a_stage_that_is_not_level_is_out_of_focus_at_the_edges():
    level, tilted = ideal(97), ideal(97, tilt_um=(0.0, 8.0))
    made = specimen("tissue", 2, level)
    low, middle, high = level.view(made).intensity([(0.4, 0.0)], [3.0 + 4, 3.0, 3.0 - 4])
    image = tilted.view(made).intensity([(0.4, 0.0)], [3.0])[0]
    np.testing.assert_allclose(image[:, 0], low[:, 0], atol=1e-4)
    np.testing.assert_allclose(image[:, 48], middle[:, 48], atol=1e-3)
    np.testing.assert_allclose(image[:, -1], high[:, -1], atol=1e-4)
    across = ideal(97, tilt_um=(-8.0, 0.0)).view(made).intensity([(0.4, 0.0)], [3.0])[0]
    np.testing.assert_allclose(across[0], high[0], atol=1e-4)
    np.testing.assert_allclose(across[-1], low[-1], atol=1e-4)


def test_field_curvature_lifts_the_corners():
    flat, curved = ideal(97), ideal(97, aberrations=Aberrations(0, 0, 0, field_curvature_um=3.0))
    made = specimen("tissue", 2, flat)
    corner, edge, centre = flat.view(made).intensity([(0.0, 0.2)], [2.0 - 3, 2.0 - 1.5, 2.0])
    image = curved.view(made).intensity([(0.0, 0.2)], [2.0])[0]
    assert image[48, 48] == pytest.approx(centre[48, 48], abs=1e-3)
    assert image[0, -1] == pytest.approx(corner[0, -1], abs=1e-3)
    assert image[48, 0] == pytest.approx(edge[48, 0], abs=2e-3)


def test_a_coarse_pixel_gathers_the_light_of_several_points():
    coarse, fine = (
        ideal(side, LightOptics(pixel_size_um=px), aberrations=Aberrations())
        for side, px in ((96, 0.65), (192, 0.325))
    )
    assert (coarse.oversampling, fine.oversampling) == (2, 1)
    made = specimen("cells", 2, coarse)
    image = coarse.view(made).intensity([(0.4, 0.0)], [5.0])[0]
    points = fine.view(made).intensity([(0.4, 0.0)], [5.0])[0]
    np.testing.assert_allclose(image, points.reshape(96, 2, 96, 2).mean((1, 3)), rtol=1e-4)


def test_a_frame_shows_less_than_the_periodic_field(monkeypatch):
    monkeypatch.undo()
    formation = AbbeImageFormation(OPTICS, (100, 140))
    assert formation.shape[0] >= 164 and formation.shape[1] >= 204
    view = formation.view(specimen("tissue", 1, formation))
    assert view.intensity(AXIS, [0.0, 1.0]).shape == (2, 100, 140)


@pytest.mark.parametrize("kind", ["cells", "tissue"])
def test_a_field_is_in_focus_near_what_scatters(kind):
    formation = ideal(192)
    view = formation.view(specimen(kind, 3, formation))
    assert abs(view.focus_um - view.specimen.centre_um) < OPTICS.depth_of_field_um / 2
    shifted = formation.view(Specimen(view.specimen.slices, view.specimen.heights_um + 5.0, kind))
    assert shifted.focus_um == pytest.approx(view.focus_um + 5, abs=0.02)


def test_a_field_without_specimen_is_in_focus_where_it_is():
    formation = ideal(128)
    assert look(formation, 1.0, heights=[2.5]).focus_um == 0.0


# ---- bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frame_shape": (8, 512)}, "frame_shape is .*: expected"),
        ({"frame_shape": (512,)}, "frame_shape is .*: expected"),
        ({"sample_pixel_um": 0.0}, "sample_pixel_um is 0.0: expected"),
        ({"sample_pixel_um": math.nan}, "sample_pixel_um is nan: expected"),
        ({"tilt_um": (0.0, math.nan)}, "tilt_um is .*: expected"),
        ({"tilt_um": (1.0,)}, "tilt_um is .*: expected"),
    ],
)
def test_bad_formations_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AbbeImageFormation(**{"frame_shape": (64, 64), **options})


@pytest.mark.parametrize("name", ["spherical_waves", "coma_waves", "astigmatism_waves", "field_curvature_um"])
def test_bad_aberrations_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} is nan: expected"):
        Aberrations(**{name: math.nan})


def test_a_specimen_of_another_microscope_is_refused():
    made = specimen("empty", 0, ideal(96))
    with pytest.raises(ValueError, match="make it for this microscope"):
        ideal(128).view(made)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([(1.0, 0.0)], [0.0]), "expected a direction within NA 1"),
        (([(0.4, math.nan)], [0.0]), "expected a direction within NA 1"),
        ((AXIS, [0.0, math.nan]), "defocus_um is .*: expected finite"),
        ((AXIS, math.inf), "defocus_um is .*: expected finite"),
        ((AXIS, [0.0], [1.0, 2.0]), "weights has shape .*: expected one for each of 1"),
        ((AXIS, [0.0], [math.nan]), "weights is .*: expected"),
        ((AXIS, [0.0], [-1.0]), "weights is .*: expected"),
        (([0.1, 0.2, 0.3], [0.0]), "na_xy has shape"),
    ],
)
def test_bad_questions_are_refused(arguments, message):
    formation = ideal(64)
    view = formation.view(specimen("empty", 0, formation))
    with pytest.raises(ValueError, match=message):
        view.intensity(*arguments)


def test_specimens_are_sampled_finely_enough_for_the_light():
    """What steep light scatters must not come back as something else."""
    strong = LightOptics(numerical_aperture=0.8, pixel_size_um=0.2)
    for optics in (OPTICS, strong):
        formation = ideal(96, optics, sample_pixel_um=0.5)
        view = formation.view(specimen("empty", 0, formation))
        view.intensity([(max(0.75, optics.numerical_aperture), 0.0)], [0.0])
        with pytest.raises(ValueError, match="expected a smaller sample_pixel_um"):
            view.intensity([(0.0, 0.97)], [0.0])
    fine = ideal(96, sample_pixel_um=0.15)
    fine.view(specimen("empty", 0, fine)).intensity([(0.0, 0.97)], [0.0])
