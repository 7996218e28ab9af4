"""What a network is told of patches: which are looked at, how sharp each colour is, and their spectra."""

import math

import cv2
import numpy as np
import pytest
from stained import SMEAR, smear

from bluesky_autofocus.models.hh_net.bins import DefocusBins
from bluesky_autofocus.models.hh_net.classes import ClassTable
from bluesky_autofocus.models.hh_net.energies import energies_of
from bluesky_autofocus.models.hh_net.features import handcrafted
from bluesky_autofocus.models.hh_net.patches import busiest, coarse_of, patches_of, problem_of
from bluesky_autofocus.models.hh_net.spectra import rings, spectra_of
from bluesky_autofocus.models.hh_net.vectors import PatchVectors
from bluesky_autofocus.records import Reason

# ---- which patches ---------------------------------------------------------------------------------------


def test_patches_lie_in_the_middle_of_the_frame():
    corners = patches_of(np.zeros((1536, 2048, 3), np.uint8))
    assert corners.shape == (5 * 6, 2)
    # 1536 - 5 x 300 = 36 and 2048 - 6 x 300 = 248 are left
    assert corners[0].tolist() == [18, 124]
    assert corners[-1].tolist() == [18 + 1200, 124 + 1500]
    assert patches_of(np.zeros((7, 10)), 3).tolist() == [[0, 0], [0, 3], [0, 6], [3, 0], [3, 3], [3, 6]]


@pytest.mark.parametrize("radius", [0.0, 4.0, 12.0])
def test_patches_with_content_are_chosen_in_focus_or_not(radius):
    frame = smear((400, 500), cells=0, seed=4)
    filled = {(0, 300), (200, 100), (300, 400)}
    for row, column in filled:
        block = frame[row + 25 : row + 75, column + 25 : column + 75]
        block[:] = smear((50, 50), cells=3, seed=row // 100 + 5)
    if radius:
        frame = cv2.GaussianBlur(frame, (0, 0), radius)
        frame = np.clip(frame + np.random.default_rng(0).normal(0, 1.5, frame.shape), 0, 255).astype(np.uint8)
    chosen = busiest(coarse_of(frame), frame.shape[:2], patches_of(frame, 100), 100, 3)
    assert set(map(tuple, chosen.tolist())) == filled
    assert len(busiest(coarse_of(frame), frame.shape[:2], patches_of(frame, 100), 100, 99)) == 20


def test_a_frame_that_shows_nothing_stained():
    bare = smear(cells=0)
    assert problem_of(bare, coarse_of(bare)) is Reason.EMPTY
    assert problem_of(SMEAR, coarse_of(SMEAR)) is None


# ---- sharpness in each colour ----------------------------------------------------------------------------


def test_the_energy_of_a_chessboard():
    # Intensities 0 and 2, logarithms ln 8 and ln 10. Five of 3 x 3 are as the middle one and four are not, so
    # it differs from their mean by 4/9 (ln 10 - ln 8). One level on all is even.
    patch = np.repeat((np.indices((24, 24)).sum(axis=0) % 2 * 2)[..., None], 3, axis=2).astype(np.uint8)
    energies = energies_of(patch, 2).reshape(2, 3)
    np.testing.assert_allclose(energies[0], math.log(4 / 9 * math.log(10 / 8)), atol=1e-4)
    np.testing.assert_allclose(energies[1], math.log(1e-10) / 2, atol=1e-2)
    # Fields of 2 x 2 px are the same chessboard one level on.
    large = patch.repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_allclose(energies_of(large, 2).reshape(2, 3)[1], energies[0], atol=1e-4)


def test_energies_belong_to_their_colour():
    patch = np.full((40, 40, 3), 100, np.uint8)
    patch[..., 1] = SMEAR[100:140, 100:140, 1]
    energies = energies_of(patch, 3).reshape(3, 3)
    np.testing.assert_allclose(energies[:, [0, 2]], math.log(1e-10) / 2, atol=1e-2)
    assert (energies[:, 1] > -8).all()


def energies_everywhere(frame):
    """Return the energies of patches of 100 px, shape (n, 4, 3)."""
    return PatchVectors(100, ("energies",)).of(frame, patches_of(frame, 100)).reshape(-1, 4, 3)


def test_the_ratios_of_colours_tell_the_sign():
    """With the foci of red and blue apart, the sharper one of them says on which side the specimen is."""
    far, near = energies_everywhere(smear(blur_px=(1, 2, 3))), energies_everywhere(smear(blur_px=(3, 2, 1)))
    red_over_blue = [float((one[:, 1, 0] - one[:, 1, 2]).mean()) for one in (far, near)]
    assert red_over_blue[0] > 0.2 and red_over_blue[1] < -0.2


def test_blur_takes_the_fine_levels_first():
    sharp, blurred = (np.median(energies_everywhere(smear(blur_px=(r, r, r))), axis=(0, 2)) for r in (0, 3))
    lost = sharp - blurred
    assert lost[1] > lost[2] > lost[3]  # of the finest one noise is what is left
    assert lost[1] > 2 * lost[3]


# ---- spectra ---------------------------------------------------------------------------------------------

SIDE = 120


def grating(cycles, contrast=0.1, phase=0.0, mean=120.0):
    """Return a patch of vertical stripes whose logarithm is a sine, of some cycles for each colour."""
    x = np.arange(SIDE) / SIDE
    stripes = [contrast * np.sin(2 * np.pi * (one * x) + phase) for one in cycles]
    return np.round(np.exp(np.broadcast_to(np.stack(stripes, 1), (SIDE, SIDE, 3))) * (mean + 8) - 8).astype(
        np.uint8
    )


def parts_of(patch):
    """Return powers and coherences, each of shape (3, n_rings)."""
    found = spectra_of(patch).reshape(6, -1)
    return found[:3], found[3:]


def ring_of(cycles):
    """Return which ring has most of the power of a grating."""
    return int(parts_of(grating((cycles, cycles, cycles)))[0][0].argmax())


def test_a_grating_is_in_its_ring():
    assert spectra_of(grating((5, 5, 5))).shape == (6 * rings(SIDE),)
    power, _ = parts_of(grating((4, 11, 40)))
    edges = np.geomspace(1.5, SIDE / 2, 29)
    # of 28 rings those below 4 cycles that hold no frequency are left out
    kept = rings(SIDE)
    expected = [np.searchsorted(edges, cycles) - 1 - (28 - kept) for cycles in (4, 11, 40)]
    assert power.argmax(axis=1).tolist() == expected


def test_its_power_grows_with_the_contrast():
    weak, strong = (parts_of(grating((17, 17, 17), contrast))[0].max(axis=1) for contrast in (0.1, 0.2))
    np.testing.assert_allclose(strong - weak, math.log(2), atol=0.02)
    flat = np.full((SIDE, SIDE, 3), 100, np.uint8)
    np.testing.assert_allclose(parts_of(flat)[0], math.log(1e-8) / 2, atol=1e-3)


def test_how_dense_the_stain_is_does_not_matter():
    """A factor of the intensity is a constant of its logarithm."""
    bright, dark = (parts_of(grating((20, 20, 20), 0.2, mean=mean))[0].max() for mean in (200, 100))
    assert bright == pytest.approx(dark, abs=0.02)


def test_colours_that_go_together_or_against_each_other():
    ring = ring_of(20)
    together = grating((20, 20, 20))
    np.testing.assert_allclose(parts_of(together)[1][:, ring], 1, atol=0.01)
    # a colour beyond the zero of its transfer function has its contrast inverted
    inverted = np.dstack([together[..., :2], grating((20, 20, 20), phase=math.pi)[..., 2]])
    red_green, green_blue, red_blue = parts_of(inverted)[1][:, ring]
    assert red_green > 0.99 and green_blue < -0.99 and red_blue < -0.99
    noise = np.random.default_rng(0).integers(100, 140, (SIDE, SIDE, 3)).astype(np.uint8)
    assert np.abs(parts_of(noise)[1][:, -8:]).max() < 0.2


@pytest.mark.parametrize("shape", [(40, 50, 3), (40, 40), (40, 40, 4)])
def test_what_has_no_spectra(shape):
    with pytest.raises(ValueError, match="expected \\(n, n, 3\\)"):
        spectra_of(np.zeros(shape, np.uint8))


# ---- vectors ---------------------------------------------------------------------------------------------


def test_a_vector_holds_the_kinds_in_their_order():
    vectors = PatchVectors(100, ("handcrafted", "energies", "spectra"), seed=3)
    corners = patches_of(SMEAR, 100)[[1, 7]]
    made = vectors.of(SMEAR, corners)
    assert made.shape == (2, vectors.size) and made.dtype == np.float32
    for row, (y, x) in zip(made, corners.tolist(), strict=True):
        # what is around a patch does not matter
        patch = SMEAR[y : y + 100, x : x + 100].copy()
        alone = np.concatenate([handcrafted(SMEAR, seed=3), energies_of(patch), spectra_of(patch)])
        np.testing.assert_array_equal(row, alone)
    assert PatchVectors.from_dict(vectors.to_dict()) == vectors


# ---- bins ------------------------------------------------------------------------------------------------

TABLE = ClassTable.of_width(6.0)
BINS = DefocusBins.fine(TABLE, -60.0, 60.0)


def test_fine_bins_have_the_edges_of_the_classes():
    assert (BINS.edges_um[0], BINS.edges_um[-1], BINS.range_um) == (-60, 60, (-54, 54))
    np.testing.assert_allclose(np.diff(BINS.edges_um), 0.5)
    assert {-9.0, -3.0, 3.0, 9.0, 15.0, 21.0} <= set(BINS.edges_um.tolist())
    uneven = DefocusBins.fine(ClassTable((-20, -9, -3, 3, 7, 15, 21)), 0, 0)
    assert uneven.edges_um[0] == -20 and uneven.edges_um[-1] > 21 and uneven.range_um[0] == -16
    assert DefocusBins.of_classes(TABLE).range_um == (-15, 21)
    assert (np.diff(uneven.edges_um) <= 1 / 3 + 1e-9).all()


@pytest.mark.parametrize("defocus_um", [-40.1, -3.2, 0.0, 0.13, 20.9, 55.0])
def test_the_mean_of_a_label_is_the_defocus(defocus_um):
    labels = BINS.soft_labels(np.array([defocus_um]))
    np.testing.assert_allclose(labels.sum(), 1, atol=1e-6)
    assert BINS.mean(labels)[0] == pytest.approx(defocus_um, abs=0.01)


def test_what_lies_beyond_is_in_the_outermost_bin():
    labels = BINS.soft_labels(np.array([-99.0, 99.0]))
    assert labels[0, 0] == labels[1, -1] == 1


def test_the_classes_are_sums_of_bins():
    labels = BINS.soft_labels(np.array([0.0, 3.0, 20.9, 50.0, -40.0]))
    p = BINS.classes(labels)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)
    assert p[0, 4] > 0.999 and p[1, 3] == pytest.approx(0.5, abs=1e-3)
    assert 0.3 < p[2, 0] < 0.5 < p[2, 1] < 0.7
    assert p[3, 0] == pytest.approx(1) and p[4, 6] == pytest.approx(1)
    members = BINS.labels_of_classes(np.arange(7))
    assert set(members.ravel().tolist()) == {0, 1} and (members.sum(axis=0) == 1).all()
    np.testing.assert_array_equal(BINS.classes(members) > 0, np.eye(7))


def test_patches_that_scatter_are_less_sure():
    near, apart = (BINS.soft_labels(np.array(at)) for at in ([4.0, 4.2, 3.8], [4.0, 6.0, 2.0]))
    assert BINS.mean(near)[0] == pytest.approx(4) and BINS.mean(apart)[0] == pytest.approx(4, abs=0.01)
    assert BINS.mean(near)[1] < 0.4 and BINS.mean(apart)[1] > 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: patches_of(SMEAR, 301), "frame is 300 x 400 px: expected at least one patch of 301 px"),
        (lambda: patches_of(SMEAR, 0), "patch_px is 0: expected at least 1"),
        (lambda: energies_of(SMEAR[:23], 4), "side of 23 px: expected at least 24 for 4 levels"),
        (lambda: energies_of(SMEAR, 0), "levels is 0: expected at least 1"),
        (lambda: PatchVectors(100, ()), "expected one or more of spectra, energies, handcrafted"),
        (lambda: PatchVectors(100, ("magic",)), "kinds is \\('magic',\\)"),
        (lambda: PatchVectors(100, ("spectra", "spectra")), "kinds is"),
        (lambda: DefocusBins(TABLE, [-15, 0, 21]), "no edge at -9 um, where a class begins"),
        (lambda: DefocusBins(TABLE, [3, 1]), "ascending"),
    ],
)
def test_what_makes_no_sense(call, message):
    with pytest.raises(ValueError, match=message):
        call()
