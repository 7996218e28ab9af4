"""The defocus by two frames, of a simulated SEM and of simulated fluorescence."""

import json
import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from scipy import fft, ndimage

from bluesky_autofocus.defocus.two_exposure import (
    BeamTransfer,
    LightTransfer,
    TwoExposureEstimate,
    TwoExposureEstimator,
    cramer_rao_bound,
)
from bluesky_autofocus.records import Reason
from bluesky_autofocus.simulation import (
    HOECHST_20X,
    FluorescentNuclei,
    LightCamera,
    SEMImageFormation,
    SEMOptics,
    scene,
)
from bluesky_autofocus.widefield import Widefield, transfer_table

SIDE = 256
MAGNIFICATION = 10_000.0
"""Of frames half as wide as usual: the pixel is that of 5000x, the depth of field 5 um."""
KINDS = ("grains", "particles", "tissue", "wafer")
BEAM = BeamTransfer(10.0)
DARK = 12.75
"""Grey level without electrons."""


@lru_cache(maxsize=24)
def column(kind, seed):
    specimen = scene(kind, seed=seed, shape=(SIDE + 128, SIDE + 128))
    return SEMImageFormation(specimen, frame_shape=(SIDE, SIDE), scene_magnification=MAGNIFICATION)


FORMATION = column("grains", 1)
PIXEL_UM = FORMATION.pixel_size_um(MAGNIFICATION)
DOF_UM = FORMATION.depth_of_field_um(MAGNIFICATION)


def look(defocus_dof, *, of=("grains", 1), dwell_us=1.0, rng=None, astigmatism_um=(0.0, 0.0), **options):
    """Return a frame."""
    per_unit = SEMOptics().astigmatism_um_per_unit
    return column(*of).image(
        defocus_dof * DOF_UM,
        magnification=MAGNIFICATION,
        dwell_us=dwell_us,
        stigmator_x=astigmatism_um[0] / per_unit,
        stigmator_y=astigmatism_um[1] / per_unit,
        rng=rng or np.random.default_rng(5),
        **options,
    )


def pair(defocus_dof, *, rng=None, **options):
    """Return frames a depth of field to either side."""
    rng = rng or np.random.default_rng(4)
    return look(defocus_dof - 1, rng=rng, **options), look(defocus_dof + 1, rng=rng, **options)


def told(first, second, *, separation_dof=2.0, transfer=BEAM, **options):
    estimator = TwoExposureEstimator(transfer, **{"dark_level": DARK, "astigmatism": False, **options})
    return estimator.estimate(first, second, separation_um=separation_dof * DOF_UM, pixel_size_um=PIXEL_UM)


def electrons(of=("grains", 1), dwell_us=1.0):
    """Return the specimen in electrons, and the variance of the noise."""
    formation = column(*of)
    specimen = formation.blurred(0.0, magnification=MAGNIFICATION) * formation.electrons_per_pixel(dwell_us)
    return specimen, float(specimen.mean()) + formation.optics.electronic_noise**2


class TestBeam:
    @pytest.mark.parametrize("defocus_dof", [-6.0, -2.4, -1.0, -0.3, 0.0, 0.6, 1.0, 3.1, 6.5])
    def test_how_far_and_on_which_side(self, defocus_dof):
        estimate = told(*pair(defocus_dof))
        assert (estimate.accepted, estimate.reason) == (True, Reason.OK)
        assert estimate.defocus_um == pytest.approx(defocus_dof * DOF_UM, abs=4 * estimate.sigma_um)
        assert estimate.sigma_um < 0.06 * DOF_UM
        assert estimate.misfit == pytest.approx(1.0, abs=0.1)
        assert math.isnan(estimate.straight_um) and math.isnan(estimate.diagonal_sigma_um)

    def test_the_order_of_the_frames(self):
        """Either may come first; and as a disc is the same on both sides, the wrong one is the wrong sign."""
        first, second = pair(1.7)
        estimate = told(first, second)
        swapped = told(second, first, separation_dof=-2.0)
        assert swapped.defocus_um == pytest.approx(estimate.defocus_um, abs=0.01 * estimate.sigma_um)
        wrong = told(second, first)
        assert wrong.defocus_um == pytest.approx(-estimate.defocus_um, abs=0.01 * estimate.sigma_um)

    @pytest.mark.parametrize("separation_dof", [1.0, 3.0])
    def test_other_separations(self, separation_dof):
        rng = np.random.default_rng(2)
        frames = [look(1.5 + side * separation_dof / 2, rng=rng) for side in (-1, 1)]
        estimate = told(*frames, separation_dof=separation_dof)
        assert estimate.defocus_um == pytest.approx(1.5 * DOF_UM, abs=4 * estimate.sigma_um)

    def test_stated_uncertainties_and_the_bound(self):
        """The error is within three times the bound, not below it, and as large as is stated."""
        errors = []
        for index in range(24):
            rng = np.random.default_rng((8, index))
            of, dwell_us = (KINDS[index % 4], 10 + index % 8), (1.0, 0.1, 0.026)[index // 4 % 3]
            defocus_dof = rng.uniform(-4, 4)
            estimate = told(*pair(defocus_dof, of=of, dwell_us=dwell_us, rng=rng))
            (bound_um,) = cramer_rao_bound(
                *electrons(of, dwell_us),
                BEAM,
                defocus_um=defocus_dof * DOF_UM,
                separation_um=2 * DOF_UM,
                pixel_size_um=PIXEL_UM,
            )
            if estimate.accepted:
                errors.append((estimate.defocus_um - defocus_dof * DOF_UM, estimate.sigma_um, bound_um))
        error_um, sigma_um, bound_um = np.array(errors).T
        assert len(errors) >= 23
        assert np.mean(np.abs(error_um) < 2 * sigma_um) >= 0.85
        assert np.sqrt(np.mean((error_um / sigma_um) ** 2)) < 1.5
        assert 1.0 < np.sqrt(np.mean((error_um / bound_um) ** 2)) < 3.0
        assert np.median(sigma_um / bound_um) < 3.0
        assert np.abs(error_um).max() < DOF_UM / 2

    def test_what_has_moved_between_the_frames(self):
        for offset_px in ((3.3, -5.6), (20.0, 30.0)):
            rng = np.random.default_rng(4)
            frames = look(0.2, rng=rng), look(2.2, rng=rng, offset_px=offset_px)
            estimate = told(*frames)
            assert estimate.shift_px == pytest.approx(offset_px, abs=0.1)
            assert estimate.defocus_um == pytest.approx(1.2 * DOF_UM, abs=4 * estimate.sigma_um)

    def test_brightness_that_has_changed(self):
        first, second = pair(1.2)
        brighter = np.clip(DARK + (second - DARK) * 1.2, 0, 255)
        assert told(first, brighter).defocus_um == pytest.approx(1.2 * DOF_UM, abs=0.1 * DOF_UM)

    def test_frames_of_another_shape_and_type(self):
        formation = SEMImageFormation(
            scene("tissue", seed=3, shape=(320, 448)),
            SEMOptics(bits=16),
            frame_shape=(192, 320),
            scene_magnification=MAGNIFICATION,
        )
        pixel_um, dof_um = (
            at(MAGNIFICATION) for at in (formation.pixel_size_um, formation.depth_of_field_um)
        )
        rng = np.random.default_rng(1)
        frames = [
            formation.image(at * dof_um, magnification=MAGNIFICATION, dwell_us=1.0, rng=rng)
            for at in (-3, -1)
        ]
        assert frames[0].dtype == np.uint16
        estimate = TwoExposureEstimator(BEAM, dark_level=0.05 * 65535).estimate(
            *frames, separation_um=2 * dof_um, pixel_size_um=pixel_um
        )
        assert estimate.defocus_um == pytest.approx(-2 * dof_um, abs=4 * estimate.sigma_um)


class TestAstigmatism:
    def test_it_comes_with_the_defocus(self):
        misses = []
        for index in range(8):
            rng = np.random.default_rng((9, index))
            of, true_um = (KINDS[index % 4], 3), DOF_UM * rng.uniform(-2.5, 2.5, 3)
            frames = pair(true_um[0] / DOF_UM, of=of, rng=rng, astigmatism_um=tuple(true_um[1:]))
            estimate = told(*frames, astigmatism=True)
            assert estimate.accepted, (index, estimate)
            found_um = np.array([estimate.defocus_um, estimate.straight_um, estimate.diagonal_um])
            sigma_um = [estimate.sigma_um, estimate.straight_sigma_um, estimate.diagonal_sigma_um]
            misses.append((found_um - true_um) / sigma_um)
            assert np.abs(found_um - true_um).max() < DOF_UM
        assert np.mean(np.abs(misses) < 2) >= 0.8
        assert np.sqrt(np.mean(np.square(misses))) < 1.6

    @pytest.mark.parametrize("astigmatism_dof", [2.0, 5.0])
    def test_one_that_is_not_fitted_is_noticed(self, astigmatism_dof):
        frames = pair(1.2, astigmatism_um=(astigmatism_dof * DOF_UM, 0.0))
        assert told(*frames).reason is Reason.POOR_FIT
        assert told(*frames, astigmatism=True).accepted


class TestRefusals:
    @staticmethod
    def noise(seed):
        return 100 + 5 * np.random.default_rng(seed).standard_normal((SIDE, SIDE))

    @staticmethod
    def shaken(frame):
        return ndimage.uniform_filter1d(frame.astype(float), 4)

    @staticmethod
    def grown(frame):
        return ndimage.affine_transform(frame.astype(float), 0.99 * np.eye(2), offset=1.28, mode="nearest")

    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            (lambda frames: (TestRefusals.noise(1), TestRefusals.noise(2)), "empty"),
            (lambda frames: (frames[0], look(2.2, of=("grains", 2))), "unfamiliar"),
            (lambda frames: (frames[0], look(2.2, of=("particles", 5))), "unfamiliar"),
            (lambda frames: (frames[1], frames[1]), "unfamiliar"),
            (lambda frames: (frames[0], TestRefusals.shaken(frames[1])), "poor_fit"),
            (lambda frames: (frames[0], TestRefusals.grown(frames[1])), "poor_fit"),
            (lambda frames: (frames[0], look(2.2, offset_px=(70.0, 0.0))), "poor_fit"),
            (lambda frames: (frames[0], 0 * frames[1]), "black"),
            (lambda frames: (np.minimum(frames[0] * 6.0, 255).astype(np.uint8), frames[1]), "saturated"),
        ],
        ids=["noise", "another field", "another kind", "one frame twice", "shaken", "grown", "moved far"]
        + ["black", "saturated"],
    )
    def test_frames_that_no_defocus_explains(self, make, reason):
        estimate = told(*make(pair(1.2)))
        assert (estimate.accepted, str(estimate.reason)) == (False, reason)
        assert math.isnan(estimate.defocus_um) and math.isnan(estimate.sigma_um)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("dwell_us", [1.0, 0.1])
    def test_beyond_the_range(self, kind, dwell_us):
        for index, defocus_dof in enumerate((-30.0, -13.0, 10.0, 18.0, 40.0)):
            estimate = told(*pair(defocus_dof, of=(kind, index), dwell_us=dwell_us))
            assert not estimate.accepted, (defocus_dof, estimate)

    def test_a_range_of_ones_own(self):
        frames = pair(11.0)
        assert told(*frames).reason is Reason.OUT_OF_RANGE
        estimate = told(*frames, range_dof=14.0)
        assert estimate.defocus_um == pytest.approx(11 * DOF_UM, abs=4 * estimate.sigma_um)

    @pytest.mark.parametrize("astigmatism", [False, True])
    @pytest.mark.parametrize("cycles_per_px", [0.05, 0.2])
    def test_a_grating(self, cycles_per_px, astigmatism):
        """Of one frequency there is one ratio, which many a defocus gives."""
        y, x = np.mgrid[: SIDE + 128, : SIDE + 128]
        lines = 0.5 + 0.4 * np.sin(2 * np.pi * cycles_per_px * (0.8 * x + 0.6 * y))
        grating = SEMImageFormation(lines, frame_shape=(SIDE, SIDE), scene_magnification=MAGNIFICATION)
        for defocus_dof in (-3.0, 0.3):
            rng = np.random.default_rng(1)
            frames = [
                grating.image(
                    (defocus_dof + side) * DOF_UM, magnification=MAGNIFICATION, dwell_us=1.0, rng=rng
                )
                for side in (-1, 1)
            ]
            assert told(*frames, astigmatism=astigmatism).reason in (Reason.SEVERAL_PEAKS, Reason.POOR_FIT)

    def test_too_little_light_and_detail(self):
        """A few particles, some electrons: never believed where it is far off, hardly ever at all."""
        for index in range(6):
            rng = np.random.default_rng((3, index))
            defocus_dof = rng.uniform(-3, 3)
            frames = pair(defocus_dof, of=("sparse", index), dwell_us=0.026, rng=rng)
            estimate = told(*frames)
            if estimate.accepted:
                assert abs(estimate.defocus_um - defocus_dof * DOF_UM) < DOF_UM


SPHERICAL_WAVES = 0.085


@pytest.fixture(scope="module")
def field():
    """Return a function that makes nuclei, at heights that may differ."""
    widefield, density = Widefield(HOECHST_20X, SPHERICAL_WAVES, reach_um=60), (400.0, 900.0)

    def make(seed, heights_um=0.0):
        return FluorescentNuclei(
            (7, seed), (SIDE, SIDE), widefield, heights_um=heights_um, density_per_mm2=density
        )

    return make


@pytest.fixture(scope="module")
def transfer():
    return LightTransfer(HOECHST_20X, SPHERICAL_WAVES)


class TestLight:
    CAMERA = LightCamera(electrons=900.0, gain=0.5, dust_per_mpx=0.0)
    DOF_UM = HOECHST_20X.depth_of_field_um

    def told(self, field, defocus_dof, transfer, **options):
        rng = np.random.default_rng((6, int(100 * (defocus_dof + 20))))
        frames = [
            self.CAMERA.frame(field.image((defocus_dof + side) * self.DOF_UM), rng, 1.0) for side in (-1, 1)
        ]
        estimator = TwoExposureEstimator(
            transfer, dark_level=100.0, full_scale=self.CAMERA.full_scale, **options
        )
        return estimator.estimate(
            *frames, separation_um=2 * self.DOF_UM, pixel_size_um=HOECHST_20X.pixel_size_um
        )

    @pytest.mark.parametrize("defocus_dof", [-4.0, -1.2, 0.0, 0.7, 4.0])
    def test_flat_specimens(self, field, transfer, defocus_dof):
        estimate = self.told(field(1), defocus_dof, transfer)
        assert estimate.accepted
        assert estimate.defocus_um == pytest.approx(defocus_dof * self.DOF_UM, abs=4 * estimate.sigma_um)
        assert estimate.sigma_um < 0.03 * self.DOF_UM

    def test_specimens_that_are_not_flat(self, field, transfer):
        options = {"specimen_sigma_um": 0.4, "unexplained": 0.05}
        for seed, defocus_dof in enumerate((-2.0, 0.3, 2.5)):
            estimate = self.told(field(seed, 0.8), defocus_dof, transfer, **options)
            assert estimate.accepted and estimate.sigma_um >= 0.4
            assert estimate.defocus_um == pytest.approx(defocus_dof * self.DOF_UM, abs=1.0)

    def test_few_nuclei_are_never_far_off(self, transfer):
        """Light of what lies outside comes in with the blur, and what the frame shows goes out."""
        widefield = Widefield(HOECHST_20X, SPHERICAL_WAVES, reach_um=60)
        for seed, side_px, defocus_dof in ((1, 256, -3.0), (0, 128, 4.0), (1, 128, 2.5), (1, 256, 4.0)):
            density = (150.0, 1100.0) if side_px == 256 else (400.0, 900.0)
            few = FluorescentNuclei((11, seed), (side_px, side_px), widefield, density_per_mm2=density)
            estimate = self.told(few, defocus_dof, transfer, unexplained=0.05)
            if estimate.accepted:
                assert estimate.defocus_um == pytest.approx(defocus_dof * self.DOF_UM, abs=0.3 * self.DOF_UM)

    def test_far_away(self, field, transfer):
        for defocus_dof in (-12.0, 11.0):
            assert not self.told(field(2), defocus_dof, transfer).accepted

    def test_an_empty_field(self, transfer):
        widefield = Widefield(HOECHST_20X, 0.0, reach_um=60)
        nothing = FluorescentNuclei(1, (SIDE, SIDE), widefield, density_per_mm2=(0.0, 0.0))
        assert not self.told(nothing, 1.0, transfer).accepted

    def test_the_transfer_is_that_of_the_optics(self, transfer):
        f = np.linspace(0, 1.1 * HOECHST_20X.cutoff_per_um, 60)
        sampled = transfer.sampled(f, 0 * f, 20.0)
        for defocus_um in (-17.3, -0.4, 0.0, 5.21):
            exact = transfer_table(
                HOECHST_20X.numerical_aperture,
                [HOECHST_20X.wavelength_um],
                np.array([defocus_um]),
                f,
                reach_um=100.0,
                spherical_um=SPHERICAL_WAVES * HOECHST_20X.wavelength_um,
            )[0]
            assert sampled(defocus_um, 0.0, 0.0) == pytest.approx(exact, abs=4e-3)


class TestBound:
    def test_it_is_that_of_the_information(self):
        """Each frequency of the specimen is two unknowns; taking them out leaves what is known of defocus."""
        specimen = np.random.default_rng(1).uniform(0, 50, (24, 20))
        point_um, half_um = np.array([2.0, 1.5, -3.0]), 4.0
        window = np.outer(np.hanning(24), np.hanning(20))
        window /= math.sqrt((window**2).mean())
        modes = fft.fft2((specimen - np.average(specimen, weights=window)) * window) / math.sqrt(
            specimen.size
        )
        fy, fx = np.meshgrid(fft.fftfreq(24), fft.fftfreq(20), indexing="ij")
        sampled = BEAM.sampled(fx / 0.05, fy / 0.05, 20.0)

        def means(at_um):
            return np.array([sampled(at_um[0] + side * half_um, at_um[1], at_um[2]) for side in (-1, 1)])

        # d mean / d parameter, of the two frames, for defocus and the astigmatisms; and for the specimen
        steps = 1e-4 * np.eye(3)
        slopes = [(means(point_um + step) - means(point_um - step)) / 2e-4 for step in steps]
        of_specimen = means(point_um)
        information = np.zeros((3, 3))
        for i in range(3):
            for j in range(3):
                own = (slopes[i] * slopes[j]).sum(0)
                lost = (slopes[i] * of_specimen).sum(0) * (slopes[j] * of_specimen).sum(0)
                information[i, j] = (np.abs(modes) ** 2 * (own - lost / (of_specimen**2).sum(0))).sum() / 30.0
        expected_um = np.sqrt(np.diag(np.linalg.inv(information)))
        options = {"defocus_um": 2.0, "separation_um": 2 * half_um, "pixel_size_um": 0.05}
        bound_um = cramer_rao_bound(specimen, 30.0, BEAM, astigmatism_um=(1.5, -3.0), **options)
        assert bound_um == pytest.approx(expected_um, rel=0.02)

    def test_more_light(self):
        specimen, variance = electrons()
        options = {"defocus_um": 2.0, "separation_um": 2 * DOF_UM, "pixel_size_um": PIXEL_UM}
        (once,) = cramer_rao_bound(specimen, variance, BEAM, **options)
        (thrice,) = cramer_rao_bound(3 * specimen, 3 * variance, BEAM, **options)
        assert thrice == pytest.approx(once / math.sqrt(3))
        with_astigmatism = cramer_rao_bound(specimen, variance, BEAM, astigmatism_um=(0.0, 0.0), **options)
        assert with_astigmatism[0] >= once

    def test_bad_input(self):
        options = {"defocus_um": 2.0, "separation_um": 5.0, "pixel_size_um": 0.05}
        with pytest.raises(ValueError, match="noise_variance is 0: expected a positive"):
            cramer_rao_bound(np.ones((64, 64)), 0, BEAM, **options)
        with pytest.raises(ValueError, match=r"specimen has shape \(64,\)"):
            cramer_rao_bound(np.ones(64), 1.0, BEAM, **options)


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"range_dof": 0.0}, "range_dof is 0.0: expected a positive"),
            ({"specimen_sigma_um": -1.0}, "specimen_sigma_um is -1.0: expected a finite number"),
            ({"unexplained": 1.0}, "unexplained is 1.0: expected a share between 0 and 1"),
            ({"dark_level": math.nan}, "dark_level is nan"),
        ],
    )
    def test_estimators(self, options, message):
        with pytest.raises(ValueError, match=message):
            TwoExposureEstimator(BEAM, **options)

    def test_transfers(self):
        with pytest.raises(ValueError, match="transfer must be a BeamTransfer.*got None"):
            TwoExposureEstimator(None)
        with pytest.raises(ValueError, match="LightTransfer knows no astigmatism"):
            TwoExposureEstimator(LightTransfer(HOECHST_20X), astigmatism=True)
        with pytest.raises(ValueError, match="convergence_mrad is 0: expected a positive"):
            BeamTransfer(0)
        with pytest.raises(ValueError, match="spherical_waves is inf"):
            LightTransfer(HOECHST_20X, math.inf)

    @pytest.mark.parametrize(
        ("frames", "options", "message"),
        [
            (((64, 64), (64, 65)), {}, "expected two of one shape"),
            (((3, 64, 64), (3, 64, 64)), {}, "expected two of one shape"),
            (((63, 99), (63, 99)), {}, "of 64 px at least"),
            (((64, 64), (64, 64)), {"separation_um": 0.0}, "separation_um is 0.0"),
            (((64, 64), (64, 64)), {"pixel_size_um": -1.0}, "pixel_size_um is -1.0"),
        ],
    )
    def test_frames(self, frames, options, message):
        first, second = (np.ones(shape, np.uint8) for shape in frames)
        options = {"separation_um": 5.0, "pixel_size_um": 0.05, **options}
        with pytest.raises(ValueError, match=message):
            TwoExposureEstimator(BEAM).estimate(first, second, **options)


def test_what_is_recorded():
    light = LightTransfer(replace(HOECHST_20X, pixel_size_um=0.3), 0.05)
    for transfer in (BEAM, light):
        parameters = json.loads(json.dumps(TwoExposureEstimator(transfer, range_dof=5.0).parameters))
        assert (parameters["method"], parameters["range_dof"]) == ("two_exposure", 5.0)
        assert parameters["astigmatism"] is (transfer is BEAM), "it is fitted where it is known"
    assert parameters["transfer"]["optics"]["pixel_size_um"] == 0.3
    assert math.isnan(TwoExposureEstimate.refused(Reason.EMPTY).misfit)
