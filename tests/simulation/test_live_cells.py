import dataclasses
import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.simulation import (
    AbbeImageFormation,
    Aberrations,
    Cell,
    Condenser,
    Specimen,
    specimen,
)

OPTICS = LightOptics(1.3, 0.55, 0.108, 60.0, 1.4)
LIGHT = Condenser(0.5)
PX = OPTICS.pixel_size_um
SIDE = 256
FORMATION = AbbeImageFormation(OPTICS, (SIDE, SIDE), Aberrations(0, 0, 0), steepest_na=0.5)
ONE = {"density_per_mm2": (1.0, 1.0), "radius_um": (7.0, 9.0)}
"""Options for a single cell."""
MIDDLE_UM = SIDE * PX / 2


def single(seed, **options):
    """Return a field with one cell, moved to the middle of the frame, and that cell."""
    made = specimen("live_cells", seed, FORMATION, **{**ONE, **options})
    (cell,) = made.cells
    shift = [
        round((MIDDLE_UM - at) / extent * n)
        for at, extent, n in zip(
            (cell.y_um, cell.x_um), FORMATION.extent_um, FORMATION.sample_shape, strict=True
        )
    ]
    return dataclasses.replace(made, slices=np.roll(made.slices, shift, axis=(1, 2))), cell


def on_pixels(samples):
    """Return a pattern on the pixels of the frame."""
    rows, columns = (
        np.arange(SIDE) * PX / extent * n
        for n, extent in zip(FORMATION.sample_shape, FORMATION.extent_um, strict=True)
    )
    at = np.meshgrid(rows, columns, indexing="ij")
    return scipy.ndimage.map_coordinates(samples, at, order=3, mode="grid-wrap")


def around(cell, share):
    y, x = np.ogrid[:SIDE, :SIDE]
    return np.hypot(y * PX - MIDDLE_UM, x * PX - MIDDLE_UM) < share * cell.radius_um


def details(image):
    return scipy.ndimage.gaussian_filter(image, 1) - scipy.ndimage.gaussian_filter(image, 6)


def stack(made, z_um, formation=FORMATION, light=LIGHT):
    return formation.view(made).intensity(light.na_xy, z_um, light.weights)


# ---- the specimen ----------------------------------------------------------------------------------------


def test_a_seed_makes_the_same_cells_again():
    first, again, other = (specimen("live_cells", seed, FORMATION) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first.slices, again.slices)
    assert first.cells == again.cells != other.cells
    assert np.abs(first.slices - other.slices).max() > 0.1


def test_cells_are_within_the_slab_and_a_tenth_of_a_micron_apart():
    heights = []
    for seed in range(12):
        made = specimen("live_cells", seed, FORMATION, density_per_mm2=(2000.0, 2000.0))
        assert len(made.heights_um) == 7
        np.testing.assert_allclose(np.diff(made.heights_um), 0.7)
        for cell in made.cells:
            assert made.heights_um[0] + 1 < cell.focus_um < made.heights_um[-1] - 1
            assert 0 <= cell.y_um < FORMATION.extent_um[0] and 0 <= cell.x_um < FORMATION.extent_um[1]
            assert 6 <= cell.radius_um <= 12
        assert made.focus_um == pytest.approx(np.mean([cell.focus_um for cell in made.cells]))
        heights += [cell.focus_um for cell in made.cells]
    assert np.std(heights) == pytest.approx(0.1, rel=0.35)


def test_fields_differ_in_number_of_cells_and_in_contrast():
    formation = AbbeImageFormation(OPTICS, (384, 384), steepest_na=0.5)  # 48 um
    made = [specimen("live_cells", seed, formation, radius_um=(6.0, 8.0)) for seed in range(12)]
    numbers = [len(one.cells) for one in made]
    assert min(numbers) >= 1 and max(numbers) <= 5 and len(set(numbers)) >= 3
    phases = [np.angle(one.slices).std() for one in made]
    assert max(phases) > 2 * min(phases)
    assert (
        0.5 < max(np.angle(one.slices).max() for one in made) < math.pi
    )  # strong granules, none wraps round


def test_slices_do_not_lie_at_the_truth():
    """Else a network could learn the slices."""
    nearest = [
        np.abs(made.heights_um - made.focus_um).min()
        for made in (specimen("live_cells", seed, FORMATION) for seed in range(12))
    ]
    assert max(nearest) > 0.25 and np.mean(nearest) == pytest.approx(0.175, abs=0.08)


def test_the_pattern_goes_on_beyond_its_border():
    for seed in range(4):
        made = specimen("live_cells", seed, FORMATION, density_per_mm2=(2500.0, 2500.0))
        phase = np.angle(made.slices)
        for axis in (1, 2):
            steps = np.abs(np.diff(phase, axis=axis, append=np.take(phase, [0], axis))).mean((0, 3 - axis))
            assert steps[-1] < 1.5 * np.quantile(steps, 0.95)


def test_a_cell_is_where_it_is_said_to_be():
    """Granules absorb: there are none in the nucleus."""
    y, x = np.ogrid[:SIDE, :SIDE]
    inside, around = 0.0, 0.0
    for seed in range(6):
        made, cell = single(seed, granules=(200.0, 260.0), debris_per_mm2=(0.0, 0.0))
        phase, absorption = (
            on_pixels(one.sum(0)) for one in (np.angle(made.slices), -np.log(np.abs(made.slices)))
        )
        distance = np.hypot(y * PX - MIDDLE_UM, x * PX - MIDDLE_UM) / cell.radius_um
        assert phase[distance < 0.3].mean() > 5 * np.abs(np.median(phase[distance > 1.45]))
        inside += absorption[distance < 0.25].mean()
        around += absorption[(distance > 0.6) & (distance < 0.8)].mean()
    assert inside < 0.02 * around


def test_small_fields_hold_small_cells():
    tiny = AbbeImageFormation(OPTICS, (64, 64), steepest_na=0.5)
    made = specimen("live_cells", 1, tiny)
    assert all(cell.radius_um <= min(tiny.extent_um) / 3 for cell in made.cells)


def test_only_living_cells_state_their_focus():
    made = specimen("cells", 0, AbbeImageFormation(frame_shape=(96, 96)))
    assert made.cells == () and made.focus_um is None
    drawn = dataclasses.replace(made, cells=(Cell(0, 0, 8, 0.5), Cell(5, 5, 8, -0.1)))
    assert drawn.focus_um == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density_per_mm2": (-5.0, 10.0)}, "density_per_mm2 is .*: expected"),
        ({"radius_um": (0.0, 10.0)}, "radius_um is .*: expected"),
        ({"radius_um": (12.0, 10.0)}, "radius_um is .*: expected"),
        ({"granules": (10.0, math.inf)}, "granules is .*: expected"),
        ({"contrast": (math.nan, 1.0)}, "contrast is .*: expected"),
        ({"focus_sd_um": -0.1}, "focus_sd_um is -0.1: expected"),
        ({"n_slices": 0}, "n_slices is 0: expected"),
        ({"spacing_um": 0.0}, "spacing_um is 0.0: expected"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        specimen("live_cells", 0, FORMATION, **options)


@pytest.mark.parametrize("options", [{"n_slices": 1}, {"granules": (0.0, 0.0)}, {"contrast": (0.0, 0.0)}])
def test_extreme_options_are_served(options):
    made = specimen("live_cells", 0, FORMATION, **options)
    assert np.isfinite(made.slices).all() and made.cells


# ---- its images ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def correlations():
    """How far nuclei look like their own projection, plane by plane, and the contrast of them.

    A row for each cell; the planes are relative to its focus.
    """
    z = np.arange(-1.5, 1.51, 0.125)
    likeness, contrast = [], []
    for seed in range(10):
        made, cell = single(seed, focus_sd_um=0.3, granules=(0.0, 0.0), debris_per_mm2=(0.0, 0.0))
        nucleus = around(cell, 0.42)
        near = np.abs(made.heights_um - cell.focus_um) < 1.2
        projection = details(on_pixels(np.angle(made.slices[near]).sum(0)))[nucleus]
        images = [details(image)[nucleus] for image in stack(made, cell.focus_um + z)]
        likeness.append([np.corrcoef(image, projection)[0, 1] for image in images])
        contrast.append([image.std() for image in images])
    return z, np.array(likeness), np.array(contrast)


def test_nuclei_turn_from_dark_to_bright_at_the_truth(correlations):
    """On either side of focus they are like the projection of their phase; in focus the sign changes."""
    z, likeness, _ = correlations
    found = []
    for row in likeness:
        assert row[:4].min() < -0.25 and row[-4:].max() > 0.25
        middle = np.abs(z) <= 1
        (crossings,) = np.nonzero((row[:-1] < 0) & (row[1:] >= 0) & middle[:-1])
        assert len(crossings) == 1
        (k,) = crossings
        found.append(z[k] + (z[1] - z[0]) * row[k] / (row[k] - row[k + 1]))
    assert np.abs(found).max() < 0.3  # nucleoli lie a little off the mid-plane
    assert abs(np.mean(found)) < 0.15


def test_nuclei_have_the_least_contrast_in_focus(correlations):
    """The trap for all who go by sharpness."""
    z, _, contrast = correlations
    least = z[contrast.argmin(axis=1)]
    assert abs(np.median(least)) <= 0.25
    assert (np.abs(least) <= 0.5).mean() >= 0.75
    in_focus = contrast[:, np.abs(z) < 0.3].mean()
    assert contrast[:, np.abs(np.abs(z) - 1) < 0.3].mean() > 1.3 * in_focus


def test_the_field_is_in_focus_where_its_cells_are():
    made = specimen("live_cells", 5, FORMATION, density_per_mm2=(2000.0, 2000.0), focus_sd_um=0.5)
    assert FORMATION.view(made).focus_um == made.focus_um
    unstated = FORMATION.view(dataclasses.replace(made, cells=()))
    assert abs(unstated.focus_um) < 6 * OPTICS.depth_of_field_um  # by sharpness, for what that is worth


def test_light_is_kept_and_empty_glass_is_one():
    made = specimen("live_cells", 2, FORMATION)
    light = stack(made, [-4.0, 0.0, 4.0]).mean((1, 2), dtype=float)
    np.testing.assert_allclose(light, 1, atol=0.03)
    np.testing.assert_allclose(light, light[0], rtol=0.01)  # a frame shows less than the tile
    clear = Specimen(np.ones((1, *FORMATION.sample_shape), np.complex64), np.zeros(1), "drawn")
    np.testing.assert_allclose(stack(clear, [-3.0, 2.0]), 1, atol=1e-4)


@pytest.mark.parametrize(("na", "index"), [(1.2, 1.33), (1.3, 1.4), (1.4, 1.515)])
def test_a_narrow_condenser_needs_fewer_samples(na, index):
    """The same specimen on the grid for all directions and on that for the condenser's gives one image."""
    optics, light = LightOptics(na, 0.55, 0.108, 60.0, index), Condenser(0.4, 6)
    coarse = AbbeImageFormation(optics, (96, 96), Aberrations(0.02), steepest_na=0.4)
    fine = AbbeImageFormation(optics, (96, 96), Aberrations(0.02))
    assert coarse.shape == fine.shape and coarse.sample_shape[0] < 0.75 * fine.sample_shape[0]
    made = specimen("live_cells", 3, coarse)
    log = np.log(np.abs(made.slices)) + 1j * np.angle(made.slices)
    for axis, n in zip((1, 2), fine.sample_shape, strict=True):
        log = scipy.signal.resample(log, n, axis=axis)
    finer = dataclasses.replace(made, slices=np.exp(log).astype(np.complex64))
    z = [-2.0, 0.0, 0.5]
    expected = stack(finer, z, fine, light)
    difference = stack(made, z, coarse, light) - expected
    assert difference.std() < 0.005 * expected.std()


def test_steeper_light_than_asked_for_is_refused():
    view = FORMATION.view(specimen("empty", 0, FORMATION))
    view.intensity([(0.5, 0.0), (0.0, -0.5)], [0.0])
    with pytest.raises(ValueError, match="expected a smaller sample_pixel_um"):
        view.intensity([(0.8, 0.0)], [0.0])
    for bad in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="steepest_na is .*: expected"):
            AbbeImageFormation(OPTICS, (64, 64), steepest_na=bad)


def test_a_moved_field_is_that_of_a_moved_specimen():
    made = specimen("live_cells", 4, FORMATION)
    view, z = FORMATION.view(made), [-1.0, 0.5]
    dy, dx = (extent / n for extent, n in zip(FORMATION.extent_um, FORMATION.sample_shape, strict=True))
    rolled = dataclasses.replace(made, slices=np.roll(made.slices, (11, -30), axis=(1, 2)))
    expected = stack(rolled, z)
    for moved in (view.moved(11 * dy, -30 * dx), view.moved(5 * dy, 10 * dx).moved(6 * dy, -40 * dx)):
        seen = moved.intensity(LIGHT.na_xy, z, LIGHT.weights)
        np.testing.assert_allclose(seen, expected, atol=2e-4)
        assert moved.focus_um == view.focus_um
    by_pixels = view.moved(3 * PX, 0.0).intensity(LIGHT.na_xy, z, LIGHT.weights)
    np.testing.assert_allclose(by_pixels[:, 3:], stack(made, z)[:, :-3], atol=2e-4)
    for bad in ((math.nan, 0.0), (0.0, math.inf)):
        with pytest.raises(ValueError, match="y_um, x_um are .*: expected finite"):
            view.moved(*bad)


# ---- the condenser ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", [1, 2, 5, 12, 30, 200])
@pytest.mark.parametrize("angle", [0.0, 77.0])
def test_a_condenser_is_an_even_disc(points, angle):
    condenser = Condenser(0.4, points, angle)
    xy, weights = condenser.na_xy, condenser.weights
    assert xy.shape == (points, 2) and weights.shape == (points,)
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(weights @ xy, 0, atol=1e-12)
    radius = np.hypot(*xy.T)
    assert radius.max() <= 0.4 + 1e-12
    if points >= 12:
        # mean square of a disc: half the square of its radius
        assert (radius**2).mean() == pytest.approx(0.4**2 / 2, rel=0.08)
        apart = np.hypot(*(xy[:, None] - xy[None]).transpose(2, 0, 1)) + np.eye(points)
        spacing = 0.4 * math.sqrt(math.pi / points)
        assert apart.min() > 0.6 * spacing and apart.min(axis=0).max() < 1.5 * spacing
    if points == 200:
        assert (radius < 0.4 * math.sqrt(0.5)).mean() == pytest.approx(0.5, abs=0.03)
        quadrants = np.bincount((xy[:, 0] > 0) * 2 + (xy[:, 1] > 0)) / points
        np.testing.assert_allclose(quadrants, 0.25, atol=0.03)


def test_a_condenser_can_be_turned():
    plain, turned = Condenser(0.5, 12).na_xy, Condenser(0.5, 12, 90.0).na_xy
    np.testing.assert_allclose(turned, plain @ [[0, 1], [-1, 0]], atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"numerical_aperture": 0.0}, "numerical_aperture is 0.0: expected"),
        ({"numerical_aperture": 1.0}, "numerical_aperture is 1.0: expected"),
        ({"numerical_aperture": math.nan}, "numerical_aperture is nan: expected"),
        ({"points": 0}, "points is 0: expected"),
        ({"points": 2.5}, "points is 2.5: expected"),
        ({"angle_deg": math.inf}, "angle_deg is inf: expected"),
    ],
)
def test_bad_condensers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Condenser(**options)
