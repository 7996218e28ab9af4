from dataclasses import replace

import cv2
import numpy as np
import pytest

from bluesky_autofocus.simulation import SEMImageFormation, SEMOptics, scene

MAGNIFICATION = 5000.0
# No blur but that of defocus, and the default pixel, 50 nm, also in frames of 128 pixels.
POINT = SEMOptics(spot_nm=0.0, field_width_mm=127 / 4)
ALPHA = 1e-3 * POINT.convergence_mrad


def laplacian_variance(image):
    return cv2.Laplacian(image.astype(np.float64), cv2.CV_64F).var()


def gaussian(row, column, sigma=3.0):
    return np.exp(-(row**2 + column**2) / (2 * sigma**2))


def blob(size=256, sigma=3.0):
    """A Gaussian of known width, in the middle of an empty scene."""
    at = np.arange(size) - size // 2
    return gaussian(at[:, None], at[None, :], sigma)


def blob_sem(optics=POINT, sigma=3.0):
    return SEMImageFormation(blob(sigma=sigma), optics, frame_shape=(128, 128))


def moments(image):
    """Centroid and covariance (row, column) of an image, in pixels."""
    image = image.astype(np.float64)
    at = np.stack(np.indices(image.shape))
    centroid = (at * image).sum((1, 2)) / image.sum()
    away = at - centroid[:, None, None]
    return centroid, np.einsum("aij,bij,ij->ab", away, away, image) / image.sum()


@pytest.fixture(scope="module")
def sem():
    return SEMImageFormation(scene("grains", seed=2, shape=(512, 512)), frame_shape=(256, 256))


# ---- geometry --------------------------------------------------------------------------------------------


def test_pixel_size_is_the_polaroid_field_over_the_columns():
    assert SEMImageFormation(blob()).pixel_size_um(5000) == pytest.approx(127e3 / 5000 / 512)
    wide = SEMImageFormation(blob(), frame_shape=(10, 1024))
    assert wide.pixel_size_um(5000) == pytest.approx(127e3 / 5000 / 1024)
    assert wide.pixel_size_um(10000) == pytest.approx(wide.pixel_size_um(5000) / 2)


def test_depth_of_field_is_where_the_disc_is_one_pixel_wide():
    sem = SEMImageFormation(blob())
    depth_um = sem.depth_of_field_um(MAGNIFICATION)
    assert 1 < depth_um < 5
    disc_um = 2 * ALPHA * depth_um / 2
    assert disc_um == pytest.approx(sem.pixel_size_um(MAGNIFICATION))


def test_at_the_magnification_of_the_scene_its_pixels_are_those_of_the_frame():
    image = scene("wafer", seed=0, shape=(400, 300))
    frame = SEMImageFormation(image, POINT, frame_shape=(100, 90)).blurred(0, magnification=MAGNIFICATION)
    assert frame.dtype == np.float32
    np.testing.assert_allclose(frame, image[150:250, 105:195], atol=1e-5)


@pytest.mark.parametrize("ratio", [0.5, 2.0, 3.3])
def test_magnification_scales_about_the_centre(ratio):
    sem = blob_sem(sigma=4.0)
    centroid, covariance = moments(sem.blurred(0, magnification=MAGNIFICATION * ratio))
    averaging = max(0.0, (1 / ratio**2 - 1) / 4) * ratio**2
    np.testing.assert_allclose(centroid, [64, 64], atol=0.01)
    np.testing.assert_allclose(covariance, np.eye(2) * ((4 * ratio) ** 2 + averaging), atol=0.05 * ratio)


@pytest.mark.parametrize("offset_px", [(5, -3), (16, 17), (100, -70), (-48, 33)])
def test_whole_pixels_of_drift_move_the_frame_exactly(offset_px):
    image = scene("tissue", seed=0, shape=(512, 512))
    sem = SEMImageFormation(image, POINT, frame_shape=(128, 128))
    frame = sem.blurred(0, magnification=MAGNIFICATION, offset_px=offset_px)
    row, column = 192 - offset_px[0], 192 - offset_px[1]
    np.testing.assert_allclose(frame, image[row : row + 128, column : column + 128], atol=1e-5)


@pytest.mark.parametrize("offset_px", [(0.3, -0.7), (15.9, 16.1), (-20.25, 30.5)])
def test_parts_of_a_pixel_of_drift_move_the_centroid(offset_px):
    centroid, _ = moments(blob_sem().blurred(0, magnification=MAGNIFICATION, offset_px=offset_px))
    np.testing.assert_allclose(centroid, np.array([64, 64]) + offset_px, atol=1e-3)


# ---- blur ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("defocus_um", "stigmator_x", "stigmator_y"),
    [(1.3, 0, 0), (-18.1, 0, 0), (6, 1.1, 0), (6, 0, -0.9), (-9, 0.6, 0.7)],
)
def test_blur_is_that_of_a_finely_drawn_disc(defocus_um, stigmator_x, stigmator_y):
    sem = blob_sem()
    side = np.linspace(-1, 1, 121)
    ux, uy = (u[np.hypot(*np.meshgrid(side, side)) <= 1] for u in np.meshgrid(side, side))
    half_um = POINT.astigmatism_um_per_unit / 2
    scale = ALPHA / sem.pixel_size_um(MAGNIFICATION)
    dx = scale * ((defocus_um + half_um * stigmator_x) * ux + half_um * stigmator_y * uy)
    dy = scale * (half_um * stigmator_y * ux + (defocus_um - half_um * stigmator_x) * uy)
    at = np.arange(-12, 13, 2)
    direct = gaussian(at[:, None, None] - dy, at[None, :, None] - dx).mean(axis=-1)

    frame = sem.blurred(
        defocus_um, magnification=MAGNIFICATION, stigmator_x=stigmator_x, stigmator_y=stigmator_y
    )
    np.testing.assert_allclose(frame[np.ix_(64 + at, 64 + at)], direct, atol=2e-3 * direct.max())


@pytest.mark.parametrize("spot_nm", [0.0, 150.0])
@pytest.mark.parametrize("defocus_um", [0.0, 3.7, -60.0])
def test_blur_keeps_the_signal(defocus_um, spot_nm):
    sem = blob_sem(replace(POINT, spot_nm=spot_nm))
    frame = sem.blurred(defocus_um, magnification=MAGNIFICATION, stigmator_x=0.3)
    assert frame.sum() == pytest.approx(2 * np.pi * 3.0**2, rel=1e-3)
    assert sem.transfer_function(defocus_um, magnification=MAGNIFICATION)[0, 0] == pytest.approx(1)


def test_spot_adds_its_variance():
    sem = blob_sem(replace(POINT, spot_nm=200.0))
    sigma_px = 0.2 / 2.3548 / sem.pixel_size_um(MAGNIFICATION)
    _, covariance = moments(sem.blurred(0, magnification=MAGNIFICATION))
    np.testing.assert_allclose(covariance, np.eye(2) * (9 + sigma_px**2), atol=0.01)


def test_sharpness_falls_smoothly_from_focus(sem):
    depth_um = sem.depth_of_field_um(MAGNIFICATION)
    defocus = np.arange(0, 1.501, 0.05) * depth_um
    score = np.array([laplacian_variance(sem.blurred(d, magnification=MAGNIFICATION)) for d in defocus])
    falls = -np.diff(score) / score[:-1]
    assert np.all(falls > 1e-4)  # no flat stretch
    assert np.all(falls < 0.25)  # no jump
    # Near the peak the loss is a parabola.
    assert (score[0] - score[2]) / (score[0] - score[1]) == pytest.approx(4, rel=0.05)


def test_one_pixel_of_blur_is_visible(sem):
    half_depth_um = sem.depth_of_field_um(MAGNIFICATION) / 2
    focused = laplacian_variance(sem.blurred(0, magnification=MAGNIFICATION))
    assert laplacian_variance(sem.blurred(half_depth_um, magnification=MAGNIFICATION)) < 0.9 * focused


@pytest.mark.parametrize("defocus_um", [0.4, 7.0, 90.0])
def test_both_sides_of_focus_look_alike_without_astigmatism(sem, defocus_um):
    np.testing.assert_array_equal(
        sem.blurred(defocus_um, magnification=MAGNIFICATION),
        sem.blurred(-defocus_um, magnification=MAGNIFICATION),
    )


@pytest.mark.parametrize("defocus_um", [-12.0, -5.0, 5.0, 12.0])
def test_astigmatism_spreads_along_x_above_focus_and_along_y_below(defocus_um):
    sem = blob_sem()
    _, ((var_y, cov), (_, var_x)) = moments(
        sem.blurred(defocus_um, magnification=MAGNIFICATION, stigmator_x=0.5)
    )
    # The variance of a disc along its axis is a quarter of its squared radius.
    scale = ALPHA / sem.pixel_size_um(MAGNIFICATION)
    assert var_x - 9 == pytest.approx((scale * (defocus_um + 5)) ** 2 / 4, abs=0.01)
    assert var_y - 9 == pytest.approx((scale * (defocus_um - 5)) ** 2 / 4, abs=0.01)
    assert cov == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_other_stigmator_spreads_along_the_diagonals(sign):
    _, ((var_y, cov), (_, var_x)) = moments(
        blob_sem().blurred(sign * 8.0, magnification=MAGNIFICATION, stigmator_y=0.5)
    )
    assert var_x == pytest.approx(var_y, abs=1e-3)
    assert sign * cov > 0.5


def test_a_stigmator_cancels_the_astigmatism_of_the_column():
    astigmatic = blob_sem(replace(POINT, residual_astigmatism_um=(30.0, -20.0)))
    frame = astigmatic.blurred(3, magnification=MAGNIFICATION, stigmator_x=-1.5, stigmator_y=1.0)
    np.testing.assert_allclose(frame, blob_sem().blurred(3, magnification=MAGNIFICATION), atol=1e-6)
    assert astigmatic.blurred(0, magnification=MAGNIFICATION).max() < 0.8


# ---- noise and detector ----------------------------------------------------------------------------------


def flat_sem(level, **optics):
    return SEMImageFormation(np.full((8, 8), level), SEMOptics(**optics), frame_shape=(256, 256))


def test_dose_is_charge_over_that_of_the_electron():
    assert flat_sem(1).electrons_per_pixel(1.0) == pytest.approx(0.5 * 100e-12 * 1e-6 / 1.602176634e-19)
    assert flat_sem(1, beam_current_pa=50).electrons_per_pixel(4.0) == pytest.approx(
        2 * flat_sem(1).electrons_per_pixel(1.0)
    )


@pytest.mark.parametrize("dose", [2.0, 8.0, 30.0, 300.0])
def test_shot_noise_has_the_variance_of_its_mean(dose):
    # The gain that makes one grey level of 16 bits one electron.
    sem = flat_sem(0.7, bits=16, offset=100 / 65535, gain=dose / 65535, electronic_noise=0)
    dwell_us = dose / sem.electrons_per_pixel(1.0)
    electrons = sem.image(0, magnification=MAGNIFICATION, dwell_us=dwell_us).astype(float) - 100
    assert electrons.mean() == pytest.approx(0.7 * dose, rel=0.01)
    assert electrons.var() == pytest.approx(0.7 * dose, rel=0.03)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_detector_noise_adds_to_shot_noise(level):
    sem = flat_sem(level, bits=16, offset=0.1, gain=100 / 65535, electronic_noise=6)
    dwell_us = 100 / sem.electrons_per_pixel(1.0)
    grey = sem.image(0, magnification=MAGNIFICATION, dwell_us=dwell_us).astype(float)
    assert grey.mean() == pytest.approx(6553.5 + 100 * level, abs=0.3)
    assert grey.var() == pytest.approx(100 * level + 36 + 1 / 12, rel=0.04)


@pytest.mark.parametrize(("bits", "dtype"), [(1, np.uint8), (8, np.uint8), (12, np.uint16), (16, np.uint16)])
def test_grey_levels_fill_and_never_leave_their_range(bits, dtype):
    image = np.tile([[0.0, 0.5, 1.0]], (64, 64))[:, :128]
    optics = SEMOptics(bits=bits, gain=3.0, offset=-1.0)
    frame = SEMImageFormation(image, optics).image(0, magnification=MAGNIFICATION, dwell_us=1)
    assert frame.dtype == dtype
    assert frame.shape == (512, 512)
    assert frame.min() == 0
    assert frame.max() == 2**bits - 1


def test_dwell_changes_the_noise_and_not_the_grey():
    sem = flat_sem(0.5)
    slow, fast = (sem.image(0, magnification=MAGNIFICATION, dwell_us=dwell) for dwell in (10, 0.1))
    assert slow.mean() == pytest.approx(255 * (0.05 + 0.9 * 0.5), abs=0.3)
    assert fast.mean() == pytest.approx(slow.mean(), abs=0.6)
    assert fast.std() > 5 * slow.std()


def test_noise_follows_its_generator(sem):
    def take(seed):
        return sem.image(2, magnification=MAGNIFICATION, dwell_us=0.1, rng=np.random.default_rng(seed))

    np.testing.assert_array_equal(take(1), take(1))
    assert np.any(take(1) != take(2))


def test_without_a_generator_the_seed_of_the_instance_counts():
    def take_two():
        sem = SEMImageFormation(blob(), frame_shape=(64, 64), seed=5)
        return [sem.image(0, magnification=MAGNIFICATION, dwell_us=1) for _ in range(2)]

    first, second = take_two()
    assert np.any(first != second)
    np.testing.assert_array_equal([first, second], take_two())


def test_the_scene_is_not_shared_with_the_caller():
    image = blob().astype(np.float32)
    sem = SEMImageFormation(image, frame_shape=(64, 64))
    before = sem.blurred(0, magnification=3000)
    image[:] = 0
    np.testing.assert_array_equal(sem.blurred(0, magnification=3000), before)
    assert SEMImageFormation(blob(), frame_shape=(64, 64)).blurred(0, magnification=7000).max() > 0.5


# ---- bad inputs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["defocus_um", "stigmator_x", "stigmator_y", "offset_px"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_inputs_are_refused(sem, name, value):
    inputs = {"defocus_um": 0.0, "magnification": MAGNIFICATION, "dwell_us": 1.0}
    inputs[name] = (0.0, value) if name == "offset_px" else value
    with pytest.raises(ValueError, match=f"{name} is {value}: expected a finite number"):
        sem.image(**inputs)


@pytest.mark.parametrize("name", ["magnification", "dwell_us"])
@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf])
def test_non_positive_inputs_are_refused(sem, name, value):
    inputs = {"defocus_um": 0.0, "magnification": MAGNIFICATION, "dwell_us": 1.0, name: value}
    with pytest.raises(ValueError, match=f"{name} is {value}: expected a finite number above zero"):
        sem.image(**inputs)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("convergence_mrad", 0),
        ("beam_current_pa", -1),
        ("field_width_mm", np.nan),
        ("detection_efficiency", 0),
        ("gain", 0),
        ("spot_nm", -1),
        ("electronic_noise", np.inf),
        ("offset", np.nan),
        ("bits", 0),
        ("bits", 17),
        ("bits", 8.5),
        ("astigmatism_um_per_unit", np.inf),
        ("residual_astigmatism_um", (0, np.nan)),
    ],
)
def test_bad_optics_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is .*: expected"):
        SEMOptics(**{name: value})


@pytest.mark.parametrize("bad", [np.zeros(4), np.zeros((0, 4)), np.full((4, 4), 2), np.full((4, 4), np.nan)])
def test_bad_scene_is_refused(bad):
    with pytest.raises(ValueError, match="scene .*: expected"):
        SEMImageFormation(bad)


def test_bad_frames_are_refused():
    with pytest.raises(ValueError, match=r"frame_shape is \(0, 4\): expected"):
        SEMImageFormation(blob(), frame_shape=(0, 4))
    with pytest.raises(ValueError, match="scene_magnification is 0: expected"):
        SEMImageFormation(blob(), scene_magnification=0)


@pytest.mark.parametrize("skew_px", [-24.0, 3.0, 24.0])
def test_lines_of_a_scan_that_drifts_are_those_of_frames_that_have_drifted(sem, skew_px):
    """The n-th line is that of a frame moved by as much as the content has moved by then."""
    askew = sem.blurred(3.0, magnification=5000, offset_px=(0.0, 2.0), skew_px=skew_px)
    for line in (0, 100, len(askew) - 1):
        moved_px = 2.0 + skew_px * line / (len(askew) - 1)
        straight = sem.blurred(3.0, magnification=5000, offset_px=(0.0, moved_px))
        assert askew[line] == pytest.approx(straight[line], abs=2e-3)


@pytest.mark.parametrize("skew_px", [65.0, -65.0, np.nan])
def test_more_askew_than_the_guard_band_allows(sem, skew_px):
    with pytest.raises(ValueError, match="skew_px is"):
        sem.blurred(0.0, magnification=5000, skew_px=skew_px)
