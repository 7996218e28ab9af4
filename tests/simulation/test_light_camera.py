import numpy as np
import pytest

from bluesky_autofocus.simulation import LightCamera

CLEAN = {"vignetting": 0.0, "dust_per_mpx": 0.0}
SHAPE = (400, 500)


def flat(level, shape=SHAPE):
    return np.full(shape, level, np.float32)


@pytest.mark.parametrize("gain", [0.5, 2.0])
@pytest.mark.parametrize("read_noise", [0.0, 2.0, 20.0])
def test_variance_over_mean_is_the_gain(gain, read_noise):
    """The photon transfer curve: a straight line from the read noise up."""
    camera = LightCamera(gain=gain, read_noise_e=read_noise, **CLEAN)
    rng = np.random.default_rng(0)
    levels = np.array([0.002, 0.1, 0.3, 1.0, 3.0])  # the lowest of 10 electrons
    frames = [camera.frame(flat(level), rng).astype(float) for level in levels]
    mean = np.array([frame.mean() for frame in frames]) - camera.offset
    variance = np.array([frame.var() for frame in frames]) - 1 / 12
    np.testing.assert_allclose(mean, gain * 5000 * levels, rtol=5e-3, atol=0.5)
    np.testing.assert_allclose(variance, gain * mean + (gain * read_noise) ** 2, rtol=0.02, atol=0.2)


def test_few_photons_come_one_by_one():
    camera = LightCamera(electrons=3.0, read_noise_e=0.0, gain=10.0, **CLEAN)
    grey = (camera.frame(flat(1.0), np.random.default_rng(1)).astype(float) - 100) / 10
    assert (grey == np.round(grey)).all()
    counts = [np.mean(grey == n) for n in range(4)]
    np.testing.assert_allclose(counts, np.exp(-3) * np.array([1, 3, 4.5, 4.5]), atol=0.004)


def test_without_light_there_are_offset_and_read_noise():
    dark = LightCamera(read_noise_e=3.0).frame(flat(0.0), np.random.default_rng(0)).astype(float)
    assert dark.mean() == pytest.approx(100, abs=0.1)
    assert dark.std() == pytest.approx(6, rel=0.02)
    clipped = LightCamera(offset=0.0).frame(flat(0.0), np.random.default_rng(0))
    assert clipped.min() == 0  # and does not wrap round


def test_light_grows_with_exposure():
    camera = LightCamera(**CLEAN)
    rng = np.random.default_rng(0)
    for exposure in (0.0, 0.01, 0.5, 2.0):
        grey = camera.frame(flat(1.0), rng, exposure).mean() - 100
        assert grey == pytest.approx(10_000 * exposure, rel=2e-3, abs=0.1)


def test_full_wells_are_white():
    camera = LightCamera(**CLEAN)
    frame = camera.frame(flat(10.0), np.random.default_rng(0))
    assert (frame == 2 * 30_000 + 100).all()
    assert (LightCamera(gain=4.0).frame(flat(10.0), np.random.default_rng(0)) == 65535).all()


@pytest.mark.parametrize(("bits", "dtype"), [(1, np.uint8), (8, np.uint8), (12, np.uint16), (16, np.uint16)])
def test_grey_levels_fill_their_range(bits, dtype):
    camera = LightCamera(bits=bits, gain=2**bits / 8000, offset=0.0)
    frame = camera.frame(np.tile(np.linspace(0, 3, 300, dtype=np.float32), (64, 1)), np.random.default_rng(0))
    assert frame.dtype == dtype == camera.dtype
    assert (frame.min(), frame.max()) == (0, 2**bits - 1)


def test_corners_are_darker():
    camera = LightCamera(vignetting=0.2, dust_per_mpx=0, electrons=1e6, full_well_e=1e7, gain=0.01)
    frame = camera.frame(flat(1.0, (101, 201)), np.random.default_rng(0)).astype(float) - 100
    light = frame / frame[45:56, 95:106].mean()
    for y in (0, -1):
        for x in (0, -1):
            assert light[y, x] == pytest.approx(0.8, abs=0.01)
    assert light[50, :2].mean() == pytest.approx(0.9, abs=0.01)


def test_dust_stays_where_it_is():
    options = {"vignetting": 0.0, "dust_per_mpx": 60.0, "electrons": 1e6, "full_well_e": 1e7, "gain": 0.01}
    camera = LightCamera(**options)
    rng = np.random.default_rng(0)
    first, second = (camera.frame(flat(1.0), rng).astype(float) - 100 for _ in range(2))
    again = LightCamera(**options).frame(flat(1.0), rng).astype(float) - 100
    other = LightCamera(**options, seed=1).frame(flat(1.0), rng).astype(float) - 100
    specks = first < 0.995e4
    assert 0.005 < specks.mean() < 0.3
    assert (second[specks] < 0.997e4).mean() > 0.97
    assert (again[specks] < 0.997e4).mean() > 0.97
    assert (other[specks] < 0.997e4).mean() < 0.5
    clean = LightCamera(**{**options, "dust_per_mpx": 0.0}).frame(flat(1.0), rng).astype(float) - 100
    assert clean.min() > 0.994e4


def test_noise_follows_its_generator():
    camera = LightCamera()
    first, again, other = (camera.frame(flat(1.0), np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.9


def test_noise_of_frames_one_after_the_other_is_independent():
    camera = LightCamera(**CLEAN)
    rng = np.random.default_rng(0)
    first, second = (camera.frame(flat(1.0), rng).astype(float).ravel() - 10_100 for _ in range(2))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.01
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.01


def test_a_stack_is_its_planes():
    camera = LightCamera()
    planes = np.stack([flat(0.5), flat(1.0), flat(0.001)])
    stack = camera.frame(planes, np.random.default_rng(2))
    rng = np.random.default_rng(2)
    np.testing.assert_array_equal(stack, [camera.frame(plane, rng) for plane in planes])
    assert stack.dtype == np.uint16
    np.testing.assert_array_equal(planes[1], 1.0)  # what was given is left alone


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("electrons", 0.0),
        ("electrons", np.nan),
        ("gain", -1.0),
        ("full_well_e", np.inf),
        ("read_noise_e", -1.0),
        ("offset", np.nan),
        ("vignetting", -0.1),
        ("vignetting", 1.5),
        ("dust_per_mpx", -1.0),
        ("bits", 0),
        ("bits", 17),
        ("bits", 8.5),
    ],
)
def test_bad_cameras_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is .*: expected"):
        LightCamera(**{name: value})


@pytest.mark.parametrize("exposure", [-1.0, np.nan, np.inf])
def test_bad_exposures_are_refused(exposure):
    with pytest.raises(ValueError, match="exposure is .*: expected"):
        LightCamera().frame(flat(1.0), np.random.default_rng(0), exposure)


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4, 5)])
def test_what_is_no_image_is_refused(shape):
    with pytest.raises(ValueError, match="intensity has shape .*: expected"):
        LightCamera().frame(np.ones(shape, np.float32), np.random.default_rng(0))


class TestNoiseless:
    @pytest.mark.parametrize(
        "camera", [LightCamera(electrons=300.0), LightCamera(bits=8, gain=0.02, offset=5.0)]
    )
    def test_it_is_the_mean_of_many_frames(self, camera):
        """With vignetting, dust and rounding."""
        intensity = np.outer(np.linspace(0.2, 1.5, 60), np.ones(80)).astype(np.float32)
        before, rng = intensity.copy(), np.random.default_rng(0)
        mean = np.mean([camera.frame(intensity, rng, 0.7) for _ in range(400)], axis=0, dtype=float)
        clean = camera.noiseless(intensity, 0.7)
        assert clean.dtype == camera.dtype and clean.shape == intensity.shape
        deviation = np.std([camera.frame(intensity, rng, 0.7) for _ in range(50)], axis=0)
        # half a level is lost in rounding
        assert (np.abs(mean - clean) < 0.55 + 5 * deviation / np.sqrt(400)).all()
        assert abs((mean - clean).mean()) < 0.1
        np.testing.assert_array_equal(intensity, before)

    def test_it_has_no_noise(self):
        camera = LightCamera(**CLEAN)
        clean = camera.noiseless(flat(0.3))
        assert (clean == round(camera.offset + 2 * 0.3 * 5000)).all()
        np.testing.assert_array_equal(clean, camera.noiseless(flat(0.3)))

    def test_full_wells_are_white(self):
        camera = LightCamera(**CLEAN)
        assert (camera.noiseless(flat(10.0)) == camera.full_scale).all()
        assert (LightCamera(bits=8).noiseless(flat(10.0)) == 255).all()
        assert (LightCamera(**CLEAN).noiseless(flat(0.0)) == 100).all()


@pytest.mark.parametrize(
    ("intensity", "exposure"), [(np.ones((2, 8, 8), np.float32), 1.0), (np.ones((8, 8), np.float32), -1.0)]
)
def test_what_has_no_noiseless_frame(intensity, exposure):
    with pytest.raises(ValueError, match="expected"):
        LightCamera().noiseless(intensity, exposure)
