"""Tilt, curvature and astigmatism of stacks that others recorded on real microscopes."""

import numpy as np
import pytest

from bluesky_autofocus.focus_map import FocusMap
from bluesky_autofocus.sharpness import score_tiles
from bluesky_autofocus.stacks import read_stack


@pytest.fixture
def across(shared_stacks):
    """Return a function that maps a stack, by every so many of its planes."""

    def across(name, *, every=1, grid=(4, 4)):
        stack = read_stack(shared_stacks / f"{name}.tif")
        scores = [score_tiles(frame, grid) for frame in stack.frames[::every]]
        return FocusMap.of(stack.positions_um[::every], scores), stack

    return across


def test_the_left_of_the_field_is_astigmatic_and_its_centre_is_not(across):
    """Of one microscope: lines along x and y of the grid are in focus a third of a millimetre apart."""
    left, _ = across("grid-left", every=8)
    centre, _ = across("grid-centre", every=8)
    assert left.astigmatism.straight_um == pytest.approx(-366.0, abs=60.0)
    assert abs(left.astigmatism.straight_um) > 5 * left.astigmatism.straight_sigma_um
    assert abs(centre.astigmatism.straight_um) < 3 * centre.astigmatism.straight_sigma_um
    # the grid has no lines between those, so nothing can be said of what is between them
    assert np.isnan(centre.astigmatism.diagonal_um)
    # and the whole field is curved
    assert centre.mean_um - left.mean_um > 400.0


def test_the_centre_of_the_field_is_tilted_and_curved(across):
    found, _ = across("grid-centre", every=8)
    assert found.agree and found.share == 1.0
    assert found.tilt_x_um == pytest.approx(115.0, abs=25.0)
    assert found.tilt_y_um == pytest.approx(89.0, abs=25.0)
    assert found.sag_um == pytest.approx(-56.0, abs=30.0)
    assert found.spread_um < 15.0


def test_debris_on_the_left_does_not_count(across):
    found, _ = across("grid-left", every=8)
    assert not found.agreeing[2, 0] and found.agree
    assert found.residual_um[2, 0] < -300.0


@pytest.mark.parametrize(("name", "grid"), [("circuit-board", (4, 4)), ("cell-smear-rgb", (3, 3))])
def test_the_tiles_agree_where_the_label_is(across, name, grid):
    found, stack = across(name, grid=grid)
    assert found.agree
    assert abs(stack.plane_at(found.mean_um) - stack.focus_index) <= 1


@pytest.mark.parametrize(
    ("name", "grid"), [("phase-object-coherent", (3, 3)), ("yeast-phase-object", (3, 2))]
)
def test_the_tiles_of_a_phase_object_do_not_agree(across, name, grid):
    found, _ = across(name, grid=grid)
    assert not found.agree
    assert found.textured.all()


def test_a_wafer_with_little_on_it(across):
    found, stack = across("wafer-level1-ix000-iy000")
    assert 5 <= found.believed.sum() < 16
    assert abs(stack.plane_at(found.mean_um) - stack.focus_index) <= 1
