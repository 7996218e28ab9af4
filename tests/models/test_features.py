import json
import math

import numpy as np
import pytest

from bluesky_autofocus.defocus import TwoCircles
from bluesky_autofocus.models.single_shot.features import FEATURES, ContourFeatures, make_features, patches_of
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.simulation import AbbeImageFormation, Aberrations, LightCamera, Specimen, specimen

OPTICS = LightOptics()
LED = (0.4, 0.0)
FORMATION = AbbeImageFormation(OPTICS, (256, 384))


@pytest.fixture(scope="module")
def frame():
    """Return a frame of 256 x 384 px, in grey levels over an offset of 100."""
    view = FORMATION.view(specimen("cells", 1, FORMATION))
    return LightCamera().frame(view.intensity([LED], [8.0])[0], np.random.default_rng(0))


# ---- patches ---------------------------------------------------------------------------------------------


def test_patches_are_cut_without_overlap_and_the_rest_is_left():
    frame = np.arange(5 * 7).reshape(5, 7)
    patches = patches_of(frame, 2)
    assert patches.shape == (2, 3, 2, 2)
    np.testing.assert_array_equal(patches[1, 2], [[18, 19], [25, 26]])
    assert np.shares_memory(patches_of(frame[:4, :6], 2), frame)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((64, 64, 3), "without colours"),
        ((64,), "without colours"),
        ((127, 500), "at least one patch of 128 px"),
        ((500, 127), "at least one patch of 128 px"),
    ],
)
def test_frames_without_a_patch_are_refused(shape, message):
    for name in FEATURES:
        with pytest.raises(ValueError, match=message):
            make_features(name, OPTICS, LED, 128)(np.ones(shape, np.uint16))


# ---- all kinds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FEATURES)
def test_a_vector_for_each_patch(frame, name):
    features = make_features(name, OPTICS, LED, 128)
    vectors = features(frame)
    assert vectors.shape == (6, features.size)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(features(frame[128:, 128:256])[0], vectors[4], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FEATURES)
def test_a_vertical_led_is_a_horizontal_one_on_the_turned_frame(frame, name):
    across = make_features(name, OPTICS, LED, 128)(frame)
    upright = make_features(name, OPTICS, LED[::-1], 128)(frame.T)
    order = np.arange(6).reshape(3, 2).T.ravel()  # where the patches went
    np.testing.assert_allclose(upright[order], across, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", FEATURES)
def test_parameters_make_the_same_features_again(frame, name):
    options = {"along_per_um": 0.8, "across_per_um": 0.2} if "strip" in name else {"contours": 20, "rings": 7}
    features = make_features(name, OPTICS, LED, 128, **options)
    said = json.loads(json.dumps(features.parameters))
    assert said["name"] == name and options.items() <= said.items()
    again = make_features(optics=OPTICS, na_xy=LED, patch_px=128, **said)
    assert again.parameters == features.parameters
    np.testing.assert_array_equal(again(frame), features(frame))


@pytest.mark.parametrize("name", FEATURES)
def test_a_frame_is_left_as_it_was(frame, name):
    given = frame.astype(np.float32)
    make_features(name, OPTICS, LED, 128)(given)
    np.testing.assert_array_equal(given, frame)


@pytest.mark.parametrize("name", FEATURES)
def test_a_black_frame_gives_numbers(name):
    assert np.isfinite(make_features(name, OPTICS, LED, 64)(np.zeros((64, 64), np.uint16))).all()


@pytest.mark.parametrize(
    ("name", "na_xy", "patch_px", "options", "message"),
    [
        ("wavelets", LED, 128, {}, "unknown features 'wavelets'; there are contours"),
        ("contours", LED, 16, {}, "patch_px is 16: expected at least 32"),
        ("contours", (0.0, 0.0), 128, {}, "expected an off-axis direction"),
        ("contours", (math.nan, 0.0), 128, {}, "expected an off-axis direction"),
        ("contours", (1.2, 0.0), 128, {}, "expected an off-axis direction"),
        ("contours", (0.55, 0.0), 128, {}, "na_xy is .*: expected .* aperture"),  # the circles do not overlap
        ("contours", (0.001, 0.0), 128, {}, "na_xy is .*: expected .* aperture"),  # they are one
        ("contours", LED, 128, {"contours": 0}, "contours is 0: expected at least 1"),
        ("contours", LED, 128, {"offset": math.nan}, "offset is nan: expected"),
        ("strip_magnitude", LED, 64, {"along_per_um": 3.0}, "has no strip of 3.0 x"),
        ("strip_phase", LED, 64, {"across_per_um": 0.0}, "has no strip of"),
        ("strip_phase", LED, 64, {"across_per_um": 5.0}, "has no strip of"),
        ("strip_magnitude", (0.3, 0.3), 64, {}, "expected an LED on the x or y axis"),
    ],
)
def test_bad_features_are_refused(name, na_xy, patch_px, options, message):
    with pytest.raises(ValueError, match=message):
        make_features(name, OPTICS, na_xy, patch_px, **options)


# ---- the strip -------------------------------------------------------------------------------------------


def test_the_strip_is_as_large_as_published():
    features = make_features("strip_magnitude", LightOptics(pixel_size_um=0.325), LED, 1024)
    assert features.shape == (2 * 307, 51)  # type: ignore[attr-defined]
    assert features.size == 31_314


def test_the_strip_is_the_centre_of_the_spectrum(frame):
    features = make_features("strip_magnitude", OPTICS, LED, 128)
    strip = features(frame)[0].reshape(features.shape)  # type: ignore[attr-defined]
    patch = frame[:128, :128].astype(float)
    full = np.abs(np.fft.fftshift(np.fft.fft2(patch - patch.mean())))
    half, width = features.half_length, features.width  # type: ignore[attr-defined]
    np.testing.assert_allclose(
        strip / strip.max(), (part := full[64 : 64 + width, 64 - half : 64 + half].T) / part.max(), atol=1e-5
    )


def test_the_strip_has_unit_mean_at_any_brightness(frame):
    features = make_features("strip_magnitude", OPTICS, LED, 128)
    vectors = features(frame)
    np.testing.assert_allclose(vectors.mean(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(features(frame * 0.31 + 7), vectors, rtol=2e-3, atol=2e-3)


def test_the_phase_is_an_angle(frame):
    vectors = make_features("strip_phase", OPTICS, LED, 128)(frame)
    assert vectors.min() >= -np.pi - 1e-6 and vectors.max() <= np.pi + 1e-6
    assert vectors.std() == pytest.approx(np.pi / math.sqrt(3), rel=0.1)


# ---- contours --------------------------------------------------------------------------------------------


def test_contours_do_not_depend_on_the_brightness(frame):
    features = make_features("contours", OPTICS, LED, 128)
    brighter = (frame.astype(np.float32) - 100) * 2.5 + 100
    np.testing.assert_allclose(features(brighter), features(frame), atol=1e-3)
    shifted = make_features("contours", OPTICS, LED, 128, offset=400.0)(frame.astype(np.float32) + 300)
    np.testing.assert_allclose(shifted, features(frame), atol=1e-3)


def test_powers_of_patches_and_frames_can_be_averaged(frame):
    features = make_features("contours", OPTICS, LED, 128)
    assert isinstance(features, ContourFeatures)
    powers = features.powers(frame)
    assert powers.shape == (6, features.size - 1)
    np.testing.assert_array_equal(features.vectors(powers), features(frame))
    mean = features.vectors(powers.mean(axis=0, keepdims=True))
    assert mean.shape == (1, features.size)
    # relative to their mean, but for the level at the end
    np.testing.assert_allclose(mean[0, :-2].mean(), 0, atol=1e-4)


def test_light_of_one_frequency_falls_into_its_bin():
    """A grating of low contrast in one circle only, beyond both, and inside both."""
    features = make_features("contours", OPTICS, LED, 256, contours=40, rings=12, edges=8)
    assert isinstance(features, ContourFeatures)
    y, x = np.mgrid[:256, :256]

    def brightest(fx, fy):
        grating = np.cos(2 * np.pi * 0.3 * (fx * x + fy * y))
        powers = features.powers((100 + 5000 * (1 + 0.01 * grating)).astype(np.float32))[0]
        return int(powers.argmax()), len(powers)

    in_both, n = brightest(0.1, 0.4)
    in_one, _ = brightest(1.1, 0.2)
    outside, _ = brightest(0.2, 1.6)
    assert in_both < 40 <= in_one < n - 1 - 8
    assert outside == n - 1


@pytest.mark.parametrize("led", [LED, (0.0, -0.35), (0.25, 0.25)])
def test_fringes_lie_where_they_should(led):
    """A weak phase object without aberrations: sin^2(z g), averaged over each bin of g."""
    formation = AbbeImageFormation(OPTICS, (256, 256), Aberrations(0.0, 0.0, 0.0))
    rows, columns = formation._shift_of(led)
    led = columns * formation.step_per_um[1] * 0.53, rows * formation.step_per_um[0] * 0.53
    features = make_features("contours", OPTICS, led, 256, contours=24, offset=0.0)
    assert isinstance(features, ContourFeatures)
    f = np.fft.fftfreq(256, 0.3)
    circles = TwoCircles(OPTICS, led, f, f[:, None])
    inside = np.maximum(circles.to_plus, circles.to_minus) < 0.98
    inside &= np.hypot(f, f[:, None]) > 2.5 / (256 * 0.3)
    g = circles.g[inside]
    number = np.minimum((g - g.min()) / np.ptp(g) * 24, 23.99).astype(int)
    z = np.array([-14.0, 6.0, 19.0])
    powers = np.zeros((3, features.size - 1))
    for seed in range(4):
        phase = 0.02 * np.random.default_rng(seed).standard_normal(formation.sample_shape)
        view = formation.view(Specimen(np.exp(1j * phase)[None].astype(np.complex64), np.zeros(1), "drawn"))
        powers += np.concatenate([features.powers(image) for image in view.intensity([led], z)])
    for power, height in zip(powers, z, strict=True):
        expected = np.array([np.mean(np.sin(height * g[number == k]) ** 2) for k in range(24)])
        seen = power[:24] / np.median(power[24 : 24 + 20]) / 4  # in one circle alone it is a quarter
        # the last bins are of few frequencies
        np.testing.assert_allclose(seen[:12], expected[:12], atol=0.15)
        assert np.median(np.abs(seen - expected)) < 0.07
        assert np.corrcoef(seen, expected)[0, 1] > 0.92
        assert power[-1] < 1e-2 * np.median(power[:-1])
