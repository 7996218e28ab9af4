"""Tilt, curvature and astigmatism of frames of which they are known."""

import json
import math

import numpy as np
import pytest
from tilted import Tilted

from bluesky_autofocus.focus_map import FocusMap
from bluesky_autofocus.sharpness import TileScores, score_tiles

POSITIONS_UM = np.linspace(-60.0, 60.0, 21)
DOF_UM = 4.96


def map_of(specimen, positions_um=POSITIONS_UM, grid=(3, 3), **options):
    scores = [score_tiles(specimen.frame(one), grid) for one in positions_um]
    return FocusMap.of(positions_um, scores, depth_of_field_um=specimen.depth_of_field_um, **options)


@pytest.fixture(scope="module")
def bent():
    """Return a tilted, curved specimen under an astigmatic lens."""
    return Tilted("tissue", tilt_um=(20.0, -10.0), sag_um=15.0, astigmatism_um=(-6.0, 4.0))


@pytest.fixture(scope="module")
def map_of_bent(bent):
    return map_of(bent, grid=(4, 4))


@pytest.fixture(scope="module")
def scores_of_bent(bent):
    return [score_tiles(bent.frame(one)) for one in POSITIONS_UM]


def curves(*foci_um, width_um=20.0, positions_um=POSITIONS_UM, noise=0.0, frame_px=(256, 256)):
    """Return scores whose tiles, in one row or more, have peaks at given positions; NaN for an empty one."""
    foci_um = np.array(foci_um, dtype=float)
    foci_um = foci_um if foci_um.ndim == 2 else foci_um[None]
    rng = np.random.default_rng(3)
    scores = []
    for position_um in positions_um:
        peak = 1 / (1 + 1.66 * ((position_um - foci_um) / width_um) ** 2) ** 2
        peak = np.where(np.isnan(foci_um), 0.0, peak)
        sharpness = 1 + peak + noise * rng.normal(size=peak.shape)
        scores.append(TileScores(sharpness, np.zeros((8, *peak.shape)), frame_px))
    return scores


class TestFigures:
    @pytest.mark.parametrize("kind", ["wafer", "tissue"])
    @pytest.mark.parametrize(
        ("tilt_um", "sag_um", "astigmatism_um"),
        [((20.0, -10.0), 0.0, (0.0, 0.0)), ((0.0, 0.0), 15.0, (0.0, 0.0)), ((0.0, 0.0), 0.0, (-10.0, 6.0))],
    )
    def test_each_is_measured_and_the_others_are_not(self, kind, tilt_um, sag_um, astigmatism_um):
        specimen = Tilted(kind, tilt_um=tilt_um, sag_um=sag_um, astigmatism_um=astigmatism_um)
        found = map_of(specimen, grid=(4, 4))
        assert found.believed.all() and found.agree
        # half a depth of field over the whole frame
        assert (found.tilt_x_um, found.tilt_y_um) == pytest.approx(tilt_um, abs=DOF_UM / 2)
        assert found.sag_um == pytest.approx(sag_um, abs=DOF_UM)
        assert found.mean_um == pytest.approx(0.0, abs=DOF_UM / 4)
        measured = found.astigmatism
        assert (measured.straight_um, measured.diagonal_um) == pytest.approx(astigmatism_um, abs=DOF_UM / 3)

    def test_all_at_once(self, map_of_bent):
        assert map_of_bent.tilt_x_um == pytest.approx(20.0, abs=2.0)
        assert map_of_bent.tilt_y_um == pytest.approx(-10.0, abs=2.0)
        assert map_of_bent.sag_um == pytest.approx(15.0, abs=4.0)
        assert map_of_bent.astigmatism.straight_um == pytest.approx(-6.0, abs=1.0)
        assert map_of_bent.astigmatism.diagonal_um == pytest.approx(4.0, abs=1.0)
        assert all(0.05 < sigma < 3.0 for sigma in map_of_bent.sigmas_um.values())

    def test_lines_of_a_circuit_do_not_look_like_a_tilt_under_an_astigmatic_lens(self):
        """Where a tile is sharpest depends on how its lines run; midway between its line foci does not."""
        found = map_of(Tilted("wafer", astigmatism_um=(20.0, 0.0)), grid=(4, 4))
        assert found.astigmatism.straight_um == pytest.approx(20.0, abs=2.0)
        assert np.ptp(found.focus_um) > 10.0
        assert np.median(np.abs(found.round_um)) < 1.0
        assert math.hypot(found.tilt_x_um, found.tilt_y_um) < DOF_UM / 2

    def test_the_axis_of_an_astigmatism(self):
        found = map_of(Tilted("tissue", astigmatism_um=(0.0, -10.0))).astigmatism
        assert found.size_um == pytest.approx(10.0, abs=1.0)
        assert found.size_sigma_um < 1.0
        assert abs(found.angle_deg + 45.0) < 5.0

    def test_relative_to_the_frame(self, bent, scores_of_bent, map_of_bent):
        found = FocusMap.of(POSITIONS_UM, scores_of_bent, pixel_size_um=bent.pixel_size_um)
        side_um = 192 * bent.pixel_size_um
        assert found.slopes == pytest.approx((20.0 / side_um, -10.0 / side_um), abs=2.0 / side_um)
        # a sphere of that curvature rises by the sag towards the corner
        corner_um = side_um / math.sqrt(2)
        assert found.curvature_per_um * corner_um**2 / 2 == pytest.approx(found.sag_um)
        assert all(math.isnan(slope) for slope in map_of_bent.slopes)

    def test_the_order_of_exposures_does_not_matter(self, scores_of_bent):
        order = np.random.default_rng(0).permutation(len(POSITIONS_UM))
        straight = FocusMap.of(POSITIONS_UM, scores_of_bent)
        shuffled = FocusMap.of(POSITIONS_UM[order], [scores_of_bent[one] for one in order])
        assert shuffled.focus_um == pytest.approx(straight.focus_um, abs=1e-6)
        assert shuffled.astigmatism.straight_um == pytest.approx(straight.astigmatism.straight_um, abs=1e-6)

    def test_nine_exposures_are_enough(self, bent):
        found = map_of(bent, np.linspace(-50.0, 50.0, 9))
        assert (found.tilt_x_um, found.tilt_y_um) == pytest.approx((20.0, -10.0), abs=DOF_UM)


class TestWhatIsNotTold:
    def test_a_grid_of_lines_tells_nothing_of_what_is_between_them(self):
        """Crossed gratings under a lens that is astigmatic, each in focus elsewhere."""
        y, x = np.mgrid[:128, :128]
        frames = []
        for position_um in POSITIONS_UM:
            contrast = [np.exp(-(((position_um - focus) / 20) ** 2)) for focus in (-6.0, 6.0)]
            frames.append(
                1000
                + 300 * contrast[0] * np.sin(2 * np.pi * x / 16)
                + 300 * contrast[1] * np.sin(2 * np.pi * y / 16)
            )
        found = FocusMap.of(POSITIONS_UM, [score_tiles(one.astype(np.float32), (2, 2)) for one in frames])
        assert found.astigmatism.straight_um == pytest.approx(-12.0, abs=0.5)
        assert math.isnan(found.astigmatism.diagonal_um)
        assert found.round_um == pytest.approx(np.zeros((2, 2)), abs=0.5)

    def test_lines_of_one_direction_tell_nothing(self):
        x = np.mgrid[:128, :128][1]
        frames = [
            1000 + 300 * np.exp(-((one / 20) ** 2)) * np.sin(2 * np.pi * x / 16) for one in POSITIONS_UM
        ]
        found = FocusMap.of(POSITIONS_UM, [score_tiles(one.astype(np.float32), (2, 2)) for one in frames])
        assert found.believed.all()
        assert math.isnan(found.astigmatism.straight_um) and math.isnan(found.astigmatism.diagonal_um)

    def test_a_row_of_tiles_tells_nothing_of_the_tilt_across(self):
        found = FocusMap.of(POSITIONS_UM, curves([-10.0, -6.0, -2.0, 2.0, 6.0, 10.0]))
        assert found.tilt_x_um == pytest.approx(24.0, abs=0.5)
        assert math.isnan(found.tilt_y_um) and math.isnan(found.sigmas_um["tilt_y_um"])
        assert found.surface.at(0.0, 0.5)[0] == pytest.approx(found.surface.at(1.0, 0.5)[0], abs=0.5)

    def test_empty_tiles(self):
        nothing = math.nan
        foci = [[0.0, 1.0, nothing, 3.0], [0.0, 1.0, 2.0, 3.0], [nothing] * 4]
        found = FocusMap.of(POSITIONS_UM, curves(*foci, noise=0.02))
        assert found.believed.tolist() == np.isfinite(foci).tolist()
        assert np.isnan(found.sigma_um[2]).all()
        assert found.textured.sum() == 7 and found.share == 1.0 and found.agree
        assert found.tilt_x_um == pytest.approx(4.0, abs=0.7)

    def test_an_empty_frame(self):
        found = FocusMap.of(POSITIONS_UM, curves(*[[math.nan] * 3] * 3, noise=0.02))
        assert not found.believed.any() and not found.agree
        assert math.isnan(found.mean_um) and math.isnan(found.share) and math.isnan(found.spread_um)
        assert math.isnan(found.in_focus_at(0.0, 1.0))
        assert "0 of 3 x 3 tiles" in str(found)
        with pytest.raises(ValueError, match=r"nothing is known of tile \(1, 2\)"):
            found.position_of((1, 2))

    @pytest.mark.parametrize("positions_um", [[0.0, 10.0, 20.0, 30.0], [1.0, 1.0, 1.0, 2.0, 3.0, 4.0]])
    def test_too_few_positions(self, positions_um):
        found = FocusMap.of(positions_um, curves([2.0, 2.0], positions_um=positions_um))
        assert not found.believed.any()

    def test_a_focus_at_the_edge_is_not_believed(self):
        found = FocusMap.of(POSITIONS_UM, curves([0.0, 58.0, -75.0], noise=0.01))
        assert found.believed.tolist() == [[True, False, False]]
        assert found.textured.all()


class TestAgreement:
    def test_dust_is_outvoted(self, bent, map_of_bent):
        """Of the tiles in the left column two see something 60 um above."""
        dusty = Tilted("tissue", astigmatism_um=(-6.0, 4.0), focus_um=bent.focus_um.copy())
        dusty.focus_um[:96, :48] += 40.0
        found = map_of(dusty, grid=(4, 4))
        assert found.believed.all()
        assert not found.agreeing[:2, 0].any() and found.agreeing.sum() == 14 and found.agree
        assert found.residual_um[0, 0] == pytest.approx(40.0, abs=5.0)
        assert found.tilt_x_um == pytest.approx(map_of_bent.tilt_x_um, abs=2.5)
        assert found.sag_um == pytest.approx(map_of_bent.sag_um, abs=5.0)
        # where to go there is what the others say
        assert found.position_of((0, 0)) == pytest.approx(bent.focus_um[:48, :48].mean(), abs=3.0)

    def test_tiles_whose_curves_have_no_peak_count_against_the_others(self):
        """A phase object: sharp on both sides of focus, in few tiles on one side only."""
        peaks = curves(*[[-30.0, -31.0, -29.0]] * 3, noise=0.01)
        mirrored = curves(*[[30.0, 31.0, 29.0]] * 3, noise=0.01)
        both = []
        for one, other in zip(peaks, mirrored, strict=True):
            sharpness = one.sharpness + other.sharpness
            sharpness[0] = one.sharpness[0]
            both.append(TileScores(sharpness, one.moments, one.frame_px))
        found = FocusMap.of(POSITIONS_UM, both)
        assert found.believed.tolist() == [[True] * 3, [False] * 3, [False] * 3]
        assert found.textured.all()
        assert found.share == pytest.approx(1 / 3) and not found.agree
        assert "they do not agree" in str(found)

    def test_the_share_in_focus_at_a_position(self, map_of_bent):
        everywhere = map_of_bent.in_focus_at(0.0, 50.0)
        some = map_of_bent.in_focus_at(0.0, DOF_UM)
        assert everywhere == 1.0 and 0.2 < some < 0.8


class TestWhereToGo:
    def test_a_tile(self, bent, map_of_bent):
        assert map_of_bent.position_of((1, 2)) == map_of_bent.focus_um[1, 2]
        assert map_of_bent.position_of((3, 0)) == pytest.approx(bent.focus_um[144:, :48].mean(), abs=4.0)

    def test_the_surface_between_tiles(self, bent, map_of_bent):
        position_um, sigma_um = map_of_bent.surface.at(0.5, 1.0)
        assert position_um == pytest.approx(bent.focus_um[96, -1], abs=3.0)
        assert 0 < sigma_um < 2.0

    def test_the_regions_of_tiles_cover_the_frame(self, map_of_bent):
        rows = sorted({map_of_bent.roi_of((row, 0))[:2] for row in range(4)})
        assert rows == [(0, 48), (48, 96), (96, 144), (144, 192)]
        odd = FocusMap.of(POSITIONS_UM, curves(*[[0.0] * 3] * 3, frame_px=(100, 200)))
        assert odd.roi_of((1, 2)) == (34, 66, 134, 200)

    @pytest.mark.parametrize("tile", [(4, 0), (0, 4), (-1, 0)])
    def test_no_such_tile(self, map_of_bent, tile):
        with pytest.raises(IndexError, match="4 rows x 4 columns"):
            map_of_bent.position_of(tile)
        with pytest.raises(IndexError, match="4 rows x 4 columns"):
            map_of_bent.roi_of(tile)


class TestArguments:
    def test_a_position_for_each_exposure(self):
        with pytest.raises(ValueError, match="got 3 for 21"):
            FocusMap.of([0.0, 1.0, 2.0], curves([0.0]))
        with pytest.raises(ValueError, match="got 0 for 0"):
            FocusMap.of([], [])

    def test_one_grid(self):
        mixed = [*curves([0.0, 1.0])[:10], *curves([0.0])[10:]]
        with pytest.raises(ValueError, match="different grids"):
            FocusMap.of(POSITIONS_UM, mixed)


class TestShown:
    def test_a_few_lines(self, map_of_bent):
        said = str(map_of_bent)
        assert "16 of 4 x 4 tiles found in focus, 16 not empty (21 exposures)" in said
        assert [line.split("  ")[0] for line in said.splitlines()[2:]] == [
            "mean focus",
            "tilt, left to right",
            "tilt, top to bottom",
            "curvature, centre to corner",
            "astigmatism, 0/90 degrees",
            "astigmatism, 45/135 degrees",
        ]

    def test_what_is_recorded_has_the_same_types_for_all(self, map_of_bent):
        empty = FocusMap.of(POSITIONS_UM, curves(*[[math.nan] * 3] * 3))
        full, nothing = map_of_bent.recorded(), empty.recorded()
        assert {key: type(value) for key, value in full.items()} == {
            key: type(value) for key, value in nothing.items()
        }
        assert full["tilt_x_um"] == map_of_bent.tilt_x_um
        assert json.loads(nothing["foci_um"]) == [[None] * 3] * 3

    def test_a_picture(self, map_of_bent):
        axes = map_of_bent.plot()
        (image,) = axes.images
        assert np.array_equal(image.get_array(), map_of_bent.round_um - map_of_bent.mean_um)
        assert len(axes.lines) == 16  # a line of astigmatism in each tile
        assert axes.figure.axes[1].get_ylabel().startswith("focus less")
        axes.figure.canvas.draw()

    def test_a_picture_of_nothing(self):
        empty = FocusMap.of(POSITIONS_UM, curves(*[[math.nan] * 3] * 3))
        axes = empty.plot()
        assert len(axes.lines) == 0
        axes.figure.canvas.draw()
