import numpy as np
import pytest

from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.simulation import SPECIMEN_KINDS, AbbeImageFormation, Specimen, specimen

FORMATION = AbbeImageFormation(frame_shape=(320, 256))


def phase_of(made):
    return np.angle(made.slices)


@pytest.mark.parametrize("kind", SPECIMEN_KINDS)
def test_slices_fit_the_microscope_and_lie_in_the_order_of_light(kind):
    made = specimen(kind, 1, FORMATION)
    assert made.kind == kind
    assert made.slices.dtype == np.complex64
    assert made.slices.shape == (len(made.heights_um), *FORMATION.sample_shape)
    assert (np.diff(made.heights_um) > 0).all()
    modulus = np.abs(made.slices)
    assert modulus.max() <= 1 + 1e-6  # it absorbs or does not; nothing shines
    assert modulus.min() > 0.2


@pytest.mark.parametrize("kind", SPECIMEN_KINDS)
def test_a_seed_makes_the_same_specimen_again(kind):
    first, again, other = (specimen(kind, seed, FORMATION).slices for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    np.testing.assert_array_equal(
        specimen(kind, (1, 2), FORMATION).slices, specimen(kind, [1, 2], FORMATION).slices
    )


def test_kinds_differ_with_one_seed():
    phases = [phase_of(specimen(kind, 0, FORMATION)).std() for kind in ("empty", "cells", "tissue")]
    assert phases[0] < 0.003 < 0.05 < min(phases[1:])


def test_an_empty_field_is_empty():
    made = specimen("empty", 3, FORMATION)
    assert len(made.slices) == 1
    np.testing.assert_allclose(made.slices, 1, atol=0.02)
    image = FORMATION.view(made).intensity([(0.4, 0.0)], [10.0])[0]
    assert image.std() < 0.003  # far below the noise of 5000 electrons


@pytest.mark.parametrize("density", [150.0, 600.0])
def test_cells_are_as_dense_as_asked(density):
    wide = AbbeImageFormation(LightOptics(pixel_size_um=0.6), (256, 256))
    covered = [
        (phase_of(specimen("cells", seed, wide, density_per_mm2=(density, density))).sum(axis=0) > 0.2).mean()
        for seed in range(6)
    ]
    # radii of 6 to 13 um, on average 284 um^2
    assert np.mean(covered) == pytest.approx(density * 284e-6, rel=0.35)


def test_density_varies_from_specimen_to_specimen():
    covered = [(phase_of(specimen("cells", seed, FORMATION))[1] > 0.15).mean() for seed in range(8)]
    assert max(covered) > 2 * min(covered)
    assert min(covered) > 0  # never without a cell


def test_cells_do_not_lie_on_each_other():
    """A field full of cells is one layer: no phase of two."""
    made = specimen("cells", 5, FORMATION, density_per_mm2=(5000.0, 5000.0), index_difference=(0.02, 0.02))
    assert np.quantile(np.unwrap(phase_of(made).sum(axis=0), axis=1), 0.999) < 2 * 2 * np.pi


def test_a_larger_index_difference_is_a_stronger_phase():
    def strength(n):
        return phase_of(specimen("cells", 2, FORMATION, index_difference=(n, n)))[1].std()

    assert strength(0.03) == pytest.approx(1.5 * strength(0.02), rel=0.25)


def test_cells_lie_on_the_glass_and_tissue_fills_its_thickness():
    cells = specimen("cells", 4, FORMATION)
    strength = phase_of(cells).std(axis=(1, 2))
    assert strength[0] > strength[2]
    assert -2.5 < cells.centre_um < 1
    tissue = specimen("tissue", 4, FORMATION)
    strength = phase_of(tissue).std(axis=(1, 2))
    assert strength.max() < 2 * strength.min()
    assert abs(tissue.centre_um) < 1.7


@pytest.mark.parametrize(("thickness", "n"), [(5.0, 3), (2.0, 3), (8.0, 5)])
def test_tissue_is_as_thick_as_asked(thickness, n):
    made = specimen("tissue", 4, FORMATION, thickness_um=thickness, n_slices=n)
    assert len(made.slices) == n
    assert np.ptp(made.heights_um) == pytest.approx(thickness * (n - 1) / n)
    assert made.heights_um.mean() == pytest.approx(0, abs=1e-9)


def test_tissue_is_dense():
    covered = [(phase_of(specimen("tissue", s, FORMATION)) > 0.02).any(axis=0).mean() for s in range(6)]
    assert np.mean(covered) > 0.6


def test_the_centre_is_where_the_power_is():
    rng = np.random.default_rng(0)
    rough = np.exp(0.1j * rng.standard_normal((64, 64)))
    flat = np.ones((64, 64))
    heights = np.array([-2.0, 1.0, 4.0])
    assert Specimen(np.array([flat, rough, flat]), heights, "drawn").centre_um == pytest.approx(1)
    assert Specimen(np.array([rough, flat, rough]), heights, "drawn").centre_um == pytest.approx(1)
    assert Specimen(np.array([flat, flat, rough]), heights, "drawn").centre_um == pytest.approx(4)
    assert Specimen(np.array([flat]), np.array([3.0]), "drawn").centre_um == 0


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind is 'yeast': expected one of cells, tissue, empty"):
        specimen("yeast", 0, FORMATION)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("cells", {"density_per_mm2": (-5.0, 10.0)}, "density_per_mm2 is .*: expected"),
        ("cells", {"density_per_mm2": (10.0, 5.0)}, "density_per_mm2 is .*: expected"),
        ("cells", {"index_difference": (0.01, np.nan)}, "index_difference is .*: expected"),
        ("cells", {"n_slices": 0}, "n_slices is 0: expected"),
        ("tissue", {"thickness_um": 0.0}, "thickness_um is 0.0: expected"),
        ("tissue", {"thickness_um": np.inf}, "thickness_um is inf: expected"),
        ("tissue", {"n_slices": 0}, "n_slices is 0: expected"),
    ],
)
def test_bad_options_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        specimen(kind, 0, FORMATION, **options)
