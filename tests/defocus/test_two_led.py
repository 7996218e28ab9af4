import json
import math

import numpy as np
import pytest

from bluesky_autofocus.defocus import DefocusEstimator, ModelMismatchError, TwoLEDFilter
from bluesky_autofocus.leds import Single
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.records import Reason
from bluesky_autofocus.simulation import AbbeImageFormation, Aberrations, LightCamera, Specimen, specimen

OPTICS = LightOptics()
NONE = Aberrations(0.0, 0.0, 0.0)
CAMERA = LightCamera()


def direction(na=0.4, angle_deg=0.0):
    return na * math.cos(math.radians(angle_deg)), na * math.sin(math.radians(angle_deg))


def periodic(formation, led):
    """Return NA and angle of the direction that the formation makes of another: its waves are periodic."""
    shift = formation._shift_of(direction(*led))
    wavelength_um = formation.optics.wavelength_um
    y, x = (n * step * wavelength_um for n, step in zip(shift, formation.step_per_um, strict=True))
    return math.hypot(x, y), math.degrees(math.atan2(y, x))


def pair(view, z_um, led=(0.4, 0.0), seed=0, exposure=1.0, camera=CAMERA):
    """Return frames under an LED and the opposite one, z_um above the specimen's z = 0."""
    x, y = direction(*led)
    rng = np.random.default_rng(seed)
    return tuple(camera.frame(view.intensity([(s * x, s * y)], [z_um])[0], rng, exposure) for s in (1, -1))


def thin(formation, seed=1, strength=0.1):
    """A flat, weak specimen of phase and absorption at z = 0."""
    rng = np.random.default_rng(seed)
    phase, absorption = rng.standard_normal((2, *formation.sample_shape))
    made = np.exp(strength * (1j * phase - 0.4 * np.abs(absorption)))
    return formation.view(Specimen(made[None].astype(np.complex64), np.zeros(1), "drawn"))


FORMATION = AbbeImageFormation(OPTICS, (384, 384), NONE)
REAL = AbbeImageFormation(OPTICS, (384, 384))


@pytest.fixture(scope="module")
def flat():
    return thin(FORMATION)


@pytest.fixture(scope="module")
def tissue():
    return REAL.view(specimen("tissue", 2, REAL))


# ---- the defocus -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("led", [(0.4, 0.0), (0.4, 90.0), (0.4, 30.0), (0.45, 200.0), (0.25, 315.0)])
def test_thin_specimens_are_measured_exactly_and_with_their_sign(flat, led):
    led = periodic(FORMATION, led)
    two = TwoLEDFilter(OPTICS, *led)
    for z in (-28.3, -9.0, -1.2, 0.0, 3.7, 24.9):
        estimate = two.estimate(*pair(flat, z, led))
        assert estimate.accepted and estimate.reason is Reason.OK
        assert estimate.defocus_um == pytest.approx(z, abs=0.05)
        assert 0 < estimate.sigma_um < 0.6


@pytest.mark.parametrize(
    ("optics", "led"),
    [
        (LightOptics(numerical_aperture=0.3, pixel_size_um=0.5, magnification=10), (0.24, 0.0)),
        (LightOptics(numerical_aperture=0.75, pixel_size_um=0.2, magnification=40), (0.6, 90.0)),
        (LightOptics(wavelength_um=0.63), (0.4, 0.0)),
        (LightOptics(pixel_size_um=0.65), (0.4, 0.0)),  # coarser than the circles are wide
        (LightOptics(numerical_aperture=0.7, refractive_index=1.33, pixel_size_um=0.2), (0.5, 0.0)),
    ],
)
def test_other_optics(optics, led):
    formation = AbbeImageFormation(optics, (320, 320), NONE)
    led = periodic(formation, led)
    view = thin(formation)
    two = TwoLEDFilter(optics, *led)
    for z in (-3 * optics.depth_of_field_um, 0.0, 4 * optics.depth_of_field_um):
        estimate = two.estimate(*pair(view, z, led))
        assert estimate.accepted
        assert estimate.defocus_um == pytest.approx(z, abs=0.06 * optics.depth_of_field_um)


def test_swapped_frames_have_the_opposite_sign(flat):
    first, second = pair(flat, 7.0)
    two = TwoLEDFilter(OPTICS, *periodic(FORMATION, (0.4, 0.0)))
    assert two.estimate(second, first).defocus_um == pytest.approx(-7, abs=0.05)


def test_brightness_does_not_matter(flat):
    two = TwoLEDFilter(OPTICS, *periodic(FORMATION, (0.4, 0.0)))
    first, second = pair(flat, 7.0)
    dimmer = (100 + 0.4 * (second.astype(float) - 100)).astype(np.uint16)
    assert two.estimate(first, dimmer).defocus_um == pytest.approx(7, abs=0.05)
    offset = TwoLEDFilter(OPTICS, *periodic(FORMATION, (0.4, 0.0)), camera_offset=600.0)
    assert offset.estimate(first + 500, second + 500).defocus_um == pytest.approx(7, abs=0.05)


def test_few_photons_and_eight_bits_are_enough(tissue):
    two = TwoLEDFilter(OPTICS)
    expected = two.estimate(*pair(tissue, 12.0)).defocus_um
    dim = two.estimate(*pair(tissue, 12.0, exposure=0.03))
    assert dim.accepted and dim.defocus_um == pytest.approx(expected, abs=0.3)
    coarse = LightCamera(bits=8, gain=0.02, offset=5.0)
    eight = TwoLEDFilter(OPTICS, camera_offset=5.0).estimate(*pair(tissue, 12.0, camera=coarse))
    assert eight.accepted and eight.defocus_um == pytest.approx(expected, abs=0.2)


@pytest.mark.parametrize("shape", [(300, 520), (520, 256), (130, 700)])
def test_frames_need_not_be_square(shape):
    formation = AbbeImageFormation(OPTICS, shape, NONE)
    led = (0.4, 90.0)
    estimate = TwoLEDFilter(OPTICS, *led).estimate(*pair(thin(formation), -6.0, led))
    assert estimate.accepted
    assert estimate.defocus_um == pytest.approx(-6, abs=0.15)


def test_large_frames_are_cut_into_patches(flat):
    frames = pair(flat, 5.0)
    two = TwoLEDFilter(OPTICS, *periodic(FORMATION, (0.4, 0.0)), patch_px=192)
    estimate = two.estimate(*frames)
    assert estimate.accepted and estimate.defocus_um == pytest.approx(5, abs=0.05)
    assert two.parameters["patch_px"] == 192


def test_what_is_known_of_the_bias_is_taken_off(flat):
    frames = pair(flat, 5.0)
    led = periodic(FORMATION, (0.4, 0.0))
    plain = TwoLEDFilter(OPTICS, *led, bias_sigma_um=0.0).estimate(*frames)
    known = TwoLEDFilter(OPTICS, *led, bias_um=0.7, bias_sigma_um=0.4).estimate(*frames)
    assert known.defocus_um == pytest.approx(plain.defocus_um - 0.7)
    assert known.sigma_um == pytest.approx(math.hypot(plain.sigma_um, 0.4))
    assert plain.sigma_um == pytest.approx(0.1 * OPTICS.depth_of_field_um, abs=0.01), "of a single patch"


@pytest.mark.parametrize(("kind", "seeds"), [("cells", range(3)), ("tissue", range(3))])
def test_the_truth_lies_within_what_is_stated(kind, seeds):
    """Against the half-annulus focus, with aberrations, their bias taken off."""
    two = TwoLEDFilter(OPTICS, bias_um=0.4)
    for seed in seeds:
        view = REAL.view(specimen(kind, (50, seed), REAL))
        for z in (-22.0, -4.0, 11.0):
            estimate = two.estimate(*pair(view, z + view.focus_um, seed=seed))
            if kind == "tissue":
                assert estimate.accepted
            if estimate.accepted:
                assert abs(estimate.defocus_um - z) < min(3 * estimate.sigma_um, OPTICS.depth_of_field_um)


def test_a_field_with_little_in_it_is_less_certain():
    """What parts of the frame do not agree upon is not known well."""
    two = TwoLEDFilter(OPTICS, bias_sigma_um=0.0, patch_px=128)
    sigma = {}
    for kind in ("cells", "tissue"):
        view = REAL.view(specimen(kind, 5, REAL))
        estimates = [two.estimate(*pair(view, z)) for z in (-10.0, 10.0)]
        sigma[kind] = np.mean([one.sigma_um if one.accepted else 1.36 for one in estimates])
    assert sigma["cells"] > 1.5 * sigma["tissue"]


# ---- when there is none to be told -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_an_empty_field_is_refused(seed):
    view = REAL.view(specimen("empty", seed, REAL))
    for z in (-15.0, 0.0, 4.0):
        estimate = TwoLEDFilter(OPTICS).estimate(*pair(view, z, seed=seed))
        assert not estimate.accepted and estimate.reason is Reason.EMPTY
        assert math.isnan(estimate.defocus_um) and math.isnan(estimate.sigma_um)


def test_frames_of_two_fields_are_refused(tissue):
    other = REAL.view(specimen("tissue", 3, REAL))
    for z in (0.0, 10.0):
        estimate = TwoLEDFilter(OPTICS).estimate(pair(tissue, z)[0], pair(other, z)[1])
        assert not estimate.accepted


@pytest.mark.parametrize("kind", ["cells", "tissue"])
@pytest.mark.parametrize("z", [-11.0, 0.0, 9.0])
def test_one_led_twice_is_refused(kind, z):
    """It would say 0 um, and be sure of it."""
    view = REAL.view(specimen(kind, 2, REAL))
    two = TwoLEDFilter(OPTICS)
    for exposure in (1.0, 0.05):
        (first, opposite), (again, _) = (pair(view, z, seed=seed, exposure=exposure) for seed in (0, 1))
        for second in (first, again):
            assert two.estimate(first, second).reason is Reason.UNFAMILIAR
        assert two.estimate(first, opposite).accepted


def test_one_led_twice_through_a_little_vibration(tissue):
    first, again = pair(tissue, 5.0)[0], pair(tissue, 5.0, seed=1)[0]
    turn = np.exp(-2j * np.pi * 0.1 * np.fft.fftfreq(first.shape[1]))
    moved = np.fft.ifft(np.fft.fft(again, axis=1) * turn, axis=1).real
    assert TwoLEDFilter(OPTICS).estimate(first, moved).reason is Reason.UNFAMILIAR


def test_one_led_twice_over_an_empty_field():
    """What they have in common is the dust on the camera."""
    view = REAL.view(specimen("empty", 0, REAL))
    frames = (pair(view, 0.0, seed=seed)[0] for seed in (0, 1))
    assert not TwoLEDFilter(OPTICS).estimate(*frames).accepted


@pytest.mark.parametrize("z", [-0.5, 0.0, 0.5])
def test_a_strong_absorber_in_focus_is_no_led_twice(z):
    """Its frames are nearly the same then, but for the little phase that it has."""
    rng = np.random.default_rng(1)
    phase, absorption = rng.standard_normal((2, *FORMATION.sample_shape))
    made = np.exp(0.03j * phase - 0.15 * absorption - 0.5)
    view = FORMATION.view(Specimen(made[None].astype(np.complex64), np.zeros(1), "drawn"))
    led = periodic(FORMATION, (0.4, 0.0))
    estimate = TwoLEDFilter(OPTICS, *led).estimate(*pair(view, z, led))
    assert estimate.accepted and estimate.defocus_um == pytest.approx(z, abs=0.1)


@pytest.mark.parametrize("z", [-75.0, -50.0, 43.0, 60.0, 90.0])
def test_far_from_focus_nothing_wrong_is_said(tissue, z):
    estimate = TwoLEDFilter(OPTICS).estimate(*pair(tissue, z))
    assert not estimate.accepted
    assert estimate.reason in (Reason.OUT_OF_RANGE, Reason.EMPTY, Reason.SEVERAL_PEAKS)


def test_beyond_the_range_it_is_refused(flat):
    two = TwoLEDFilter(OPTICS, *periodic(FORMATION, (0.4, 0.0)), range_um=10.0)
    assert two.estimate(*pair(flat, 9.5)).accepted
    assert two.estimate(*pair(flat, 11.0)).reason is Reason.OUT_OF_RANGE
    assert not two.estimate(*pair(flat, -25.0)).accepted


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (np.zeros_like, Reason.BLACK),
        (lambda frame: np.full_like(frame, 65535), Reason.SATURATED),
        (lambda frame: np.full_like(frame, 3000), Reason.UNIFORM),
        (lambda frame: np.full(frame.shape, np.nan), Reason.NOT_FINITE),
    ],
)
def test_frames_that_no_method_could_use_are_refused(tissue, spoil, reason):
    first, second = pair(tissue, 5.0)
    two = TwoLEDFilter(OPTICS)
    assert two.estimate(spoil(first), second).reason is reason
    assert two.estimate(first, spoil(second)).reason is reason


def test_without_light_there_is_no_specimen(tissue):
    dark = tuple(CAMERA.frame(np.zeros((384, 384), np.float32), np.random.default_rng(s)) for s in (0, 1))
    assert TwoLEDFilter(OPTICS).estimate(*dark).reason is Reason.EMPTY


def test_a_camera_of_twelve_bits(tissue):
    first, second = (np.minimum(frame, 4095) for frame in pair(tissue, 5.0, exposure=2.0))
    assert TwoLEDFilter(OPTICS, full_scale=4095.0).estimate(first, second).reason is Reason.SATURATED


@pytest.mark.parametrize(
    "shapes",
    [
        [(256, 256)],
        [(256, 256)] * 3,
        [(256, 256), (256, 300)],
        [(256, 256, 3)] * 2,
        [(256,)] * 2,
        [(127, 300)] * 2,
        [(300, 127)] * 2,
        [],
    ],
)
def test_what_is_no_pair_is_an_error(shapes):
    rng = np.random.default_rng(0)
    frames = [rng.integers(1000, 3000, shape).astype(np.uint16) for shape in shapes]
    with pytest.raises(ValueError, match="expected"):
        TwoLEDFilter(OPTICS).estimate(*frames)


# ---- what it is made for ---------------------------------------------------------------------------------


def test_it_is_an_estimator():
    two = TwoLEDFilter(OPTICS, 0.4, 30.0)
    assert isinstance(two, DefocusEstimator)
    assert two.leds == (Single(0.4, 30.0), Single(0.4, 210.0))
    assert two.frames_needed == 2 and two.model_hash == "" and two.range_um == 36
    said = json.loads(json.dumps(two.parameters))
    assert said["leds"] == [str(led) for led in two.leds]
    assert said["optics"]["pixel_size_um"] == 0.3


def test_the_light_that_it_is_made_for_is_taken():
    two = TwoLEDFilter(OPTICS, 0.4, 30.0)
    two.check(OPTICS, [direction(0.4, 30), direction(0.4, 210)])
    two.check(LightOptics(magnification=40.0), [direction(0.402, 31), direction(0.398, 209.5)])


@pytest.mark.parametrize(
    ("optics", "directions", "message"),
    [
        ({"numerical_aperture": 0.45}, [(0.4, 0.0), (-0.4, 0.0)], "numerical_aperture is 0.45"),
        ({"pixel_size_um": 0.6}, [(0.4, 0.0), (-0.4, 0.0)], "pixel_size_um is 0.6"),
        ({}, [(-0.4, 0.0), (0.4, 0.0)], "180.0 degrees: this estimator was made for single"),
        ({}, [(0.4, 0.0), (0.4, 0.0)], "made for single.*180"),
        ({}, [(0.4, 0.0), (math.nan, math.nan)], "NA nan"),
        ({}, [(0.4, 0.0)], "got 1 frames: this estimator takes 2"),
    ],
)
def test_other_light_is_a_mismatch(optics, directions, message):
    with pytest.raises(ModelMismatchError, match=message):
        TwoLEDFilter(OPTICS).check(LightOptics(**optics), directions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"na": 0.0}, "na is 0.0: expected an off-axis LED"),
        ({"na": 0.5}, "na is 0.5: expected an off-axis LED within the objective's aperture"),
        ({"na": math.nan}, "na is nan: expected"),
        ({"range_um": 0.0}, "range_um is 0.0: expected"),
        ({"range_um": math.inf}, "range_um is inf: expected"),
        ({"patch_px": 64}, "patch_px is 64: expected at least 128"),
        ({"angle_deg": math.inf}, "angle_deg is inf: expected"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TwoLEDFilter(OPTICS, **options)
