"""Each of the eighteen hand-crafted features of a frame against its definition."""

import math
import subprocess
import sys

import cv2
import numpy as np
import pytest
from skimage.feature import graycomatrix
from stained import SMEAR, smear

from bluesky_autofocus.models.hh_net.features import (
    NAMES,
    EmptyRegionError,
    _crop_places,
    cooccurrence,
    correlations,
    handcrafted,
    moments,
    region_of_interest,
    shape,
    texture,
)
from bluesky_autofocus.models.hh_net.patches import as_colour


def grey(*rows):
    return np.array(rows, np.uint8)


def test_nothing_optional_is_needed():
    code = (
        "import sys, numpy as np; from bluesky_autofocus.models.hh_net import classes, features, vectors; "
        "frame = np.full((200, 200, 3), 230, np.uint8); frame[50:80, 50:80] = 90; "
        "features.handcrafted(frame); vectors.PatchVectors(64).of(frame, np.zeros((1, 2), int)); "
        "assert not {'skimage', 'tensorflow', 'bluesky'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- moments ---------------------------------------------------------------------------------------------


def test_moments_by_hand():
    # Levels 0, 0, 0, 4: mean 1, variance (3 x 1 + 9) / 4 = 3, third moment (3 x -1 + 27) / 4 = 6, fourth
    # (3 x 1 + 81) / 4 = 21. So the skewness is 6 / 3^1.5 = 2 / sqrt 3 and the kurtosis 21 / 9.
    np.testing.assert_allclose(moments(grey([0, 0], [0, 4])), [1, 3, 2 / math.sqrt(3), 7 / 3])


def test_moments_are_those_of_the_region():
    levels = np.random.default_rng(0).integers(0, 256, (30, 40)).astype(np.uint8)
    mask = np.random.default_rng(1).integers(0, 2, (30, 40)).astype(np.uint8)
    inside = levels[mask == 1].astype(float)
    z = (inside - inside.mean()) / inside.std()
    np.testing.assert_allclose(
        moments(levels, mask), [inside.mean(), inside.var(), (z**3).mean(), (z**4).mean()]
    )
    np.testing.assert_array_equal(moments(levels, mask * 255), moments(levels, mask))


def test_moments_where_all_is_the_same():
    assert moments(np.full((5, 5), 77, np.uint8)) == (77, 0, 0, 0)


# ---- texture ---------------------------------------------------------------------------------------------


def test_cooccurrence_by_hand():
    # Classes 0 0 / 0 1. Across: 00 and 01; down: 00 and 01; down to the right: 01; down to the left: 00.
    # That is three of each; both ways round 6 of 00, 3 of 01 and 3 of 10.
    np.testing.assert_allclose(cooccurrence(grey([0, 100], [127, 128]), levels=2), [[0.5, 0.25], [0.25, 0.0]])


def test_cooccurrence_within_a_region():
    # Only the upper three of a column: one pair 0 to 1 and one 1 to 1, so 01, 10 and twice 11.
    levels, mask = grey([0, 0], [200, 0], [200, 0], [0, 0]), grey([1, 0], [255, 0], [2, 0], [0, 0])
    np.testing.assert_allclose(cooccurrence(levels, mask, levels=2), [[0, 0.25], [0.25, 0.5]])


@pytest.mark.parametrize("levels", [2, 8, 32, 256])
@pytest.mark.parametrize("masked", [False, True])
def test_cooccurrence_is_that_of_scikit_image(levels, masked):
    rng = np.random.default_rng(levels)
    image = cv2.GaussianBlur(rng.integers(0, 256, (41, 37)).astype(np.uint8), (0, 0), 1.0)
    mask = (cv2.GaussianBlur(rng.normal(size=(41, 37)), (0, 0), 3.0) > 0).astype(np.uint8)
    classes = image.astype(int) * levels // 256
    if masked:
        classes[mask == 0] = levels  # a class of its own, which is left out afterwards
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    counts = graycomatrix(classes.astype(np.uint16), [1], angles, levels + 1, symmetric=True, normed=False)
    expected = counts.sum(axis=(2, 3), dtype=float)[:levels, :levels]
    found = cooccurrence(image, mask if masked else None, levels=levels)
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-12)
    if not masked:  # and nearly the mean of the normed ones
        each = graycomatrix(classes.astype(np.uint16), [1], angles, levels, symmetric=True, normed=True)
        np.testing.assert_allclose(found, each.mean(axis=(2, 3)), atol=0.01 * found.max())


def test_texture_by_hand():
    # Sums 2 and 3 and differences 0 and 1, half each.
    np.testing.assert_allclose(
        texture(np.array([[0.5, 0.25], [0.25, 0.0]])), [math.log(2), 2.5, 0.25, math.log(2)]
    )
    # Levels 1 to 3, five pairs of 0.2: 11, 22, 33, 13 and 31. Sums: 2 with 0.2, 4 with 0.6, 6 with 0.2, on
    # average 4. Differences: 0 with 0.6, 2 with 0.4, on average 0.8, with variance 0.6 x 0.64 + 0.4 x 1.44.
    matrix = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]]) / 5
    np.testing.assert_allclose(
        texture(matrix),
        [
            -(0.4 * math.log(0.2) + 0.6 * math.log(0.6)),
            4.0,
            0.96,
            -(0.6 * math.log(0.6) + 0.4 * math.log(0.4)),
        ],
    )


def test_texture_of_one_level():
    np.testing.assert_allclose(texture(cooccurrence(np.full((4, 4), 255, np.uint8))), [0, 64, 0, 0])


# ---- shape -----------------------------------------------------------------------------------------------


def test_shape_of_a_rectangle():
    mask = np.zeros((9, 9), np.uint8)
    mask[3:5, 2:6] = 1
    # A = 8, hull 8; through the middles it is 2 (3 + 1) long, so P = 12; 2 high and 4 wide.
    np.testing.assert_allclose(shape(mask), [1, 144 / (4 * math.pi * 8), 0.5, 1])


def test_shape_of_a_corner():
    # A = 5. The hull is the square of 9 less a triangle with legs of 2. The line through the middles goes 2
    # down, 2 right, 1 back, across the inner corner by sqrt 2 and 1 up; the box is 3 x 3.
    mask = grey([1, 0, 0], [1, 0, 0], [1, 1, 1])
    perimeter = 6 + math.sqrt(2) + 4
    np.testing.assert_allclose(shape(mask), [5 / 7, perimeter**2 / (4 * math.pi * 5), 1, 5 / 9], rtol=1e-6)


def test_shape_of_a_pixel_and_of_a_line():
    np.testing.assert_allclose(shape(grey([0, 0], [0, 1])), [1, 16 / (4 * math.pi), 1, 1])
    # There and back: P = 2 x 3 + 4.
    np.testing.assert_allclose(shape(grey([1], [1], [1], [1])), [1, 100 / (4 * math.pi * 4), 4, 1])


def test_shape_of_a_disc():
    y, x = np.mgrid[-60:61, -60:61]
    convexity, compactness, aspect, area = shape((x**2 + y**2 <= 50**2).astype(np.uint8))
    assert convexity == pytest.approx(1, abs=0.02) and convexity <= 1
    assert compactness == pytest.approx(1.1, abs=0.05)
    assert aspect == 1
    assert area == pytest.approx(math.pi / 4, abs=0.02)


def test_shape_is_that_of_the_largest_outline_with_its_holes():
    mask = np.zeros((12, 12), np.uint8)
    mask[1:5, 1:7] = 255
    mask[2:4, 3:5] = 0
    alone = shape(mask)
    mask[8:10, 8:10] = 255
    assert shape(mask) == alone
    np.testing.assert_allclose(alone[2:], [4 / 6, 1])


# ---- the region ------------------------------------------------------------------------------------------


def test_the_region_is_the_largest_stained_part_with_its_holes():
    levels = np.full((9, 9), 200, np.uint8)
    levels[1:4, 1:4] = 60
    levels[2, 2] = 200
    levels[6:8, 5:8] = 50
    expected = np.zeros((9, 9), np.uint8)
    expected[1:4, 1:4] = 1  # 8 px against 6
    region = region_of_interest(levels, least_px=4)
    assert region.dtype == np.uint8
    np.testing.assert_array_equal(region, expected)
    levels[4, 4] = 60  # touches both by a corner of its own
    levels[5, 5] = 60
    joined = region_of_interest(levels, least_px=4)
    assert joined.sum() == 9 + 2 + 6


def test_empty_regions_are_refused():
    flat = np.full((20, 20), 200, np.uint8)
    for level in (0, 128, 255):
        with pytest.raises(EmptyRegionError, match="contrast of 0.0 grey levels .* expected at least 5"):
            region_of_interest(np.full((20, 20), level, np.uint8))
    with pytest.raises(EmptyRegionError, match="contrast of 0.0"):
        region_of_interest(flat, least_contrast=0)
    noise = np.random.default_rng(0).normal(200, 1.5, (200, 200)).astype(np.uint8)
    with pytest.raises(EmptyRegionError, match=r"contrast of 2\.\d grey levels"):
        region_of_interest(noise)
    flat[3:6, 3:6] = 50
    with pytest.raises(EmptyRegionError, match="largest stained part has 9 px: expected at least 16"):
        region_of_interest(flat)
    nothing = np.zeros((20, 20), np.uint8)
    for function in (moments, cooccurrence):
        with pytest.raises(EmptyRegionError, match="expected at least"):
            function(flat, nothing)
    with pytest.raises(EmptyRegionError, match="0 px: expected at least 1"):
        shape(nothing)
    assert issubclass(EmptyRegionError, ValueError)


# ---- correlations ----------------------------------------------------------------------------------------


def test_correlations_by_hand():
    # Just four crops: two alike, one turned into its negative, and one without detail.
    crop = np.random.default_rng(0).integers(0, 256, (100, 100)).astype(np.uint8)
    frame = np.block([[crop, 255 - crop], [np.full_like(crop, 9), crop]])
    np.testing.assert_allclose(sorted(correlations(frame)), [-1, -1, 0, 0, 0, 1], atol=1e-12)


@pytest.mark.parametrize("size", [(300, 400), (100, 103), (150, 240)])
def test_correlations_are_those_of_numpy(size):
    frame = np.random.default_rng(1).integers(0, 256, size).astype(np.uint8)
    frame = cv2.GaussianBlur(frame, (0, 0), 20)
    crops = [frame[y : y + 100, x : x + 100].ravel() for y, x in _crop_places(size, 5)]
    expected = np.corrcoef(np.array(crops, float))
    np.testing.assert_allclose(
        correlations(frame, 5), [expected[i, j] for i in range(4) for j in range(i + 1, 4)], atol=1e-9
    )


@pytest.mark.parametrize("size", [(1536, 2048), (200, 200), (100, 400), (199, 455), (299, 299)])
def test_crops_do_not_overlap_where_there_is_room(size):
    seen = set()
    for seed in range(30):
        places = _crop_places(size, seed)
        assert places == _crop_places(size, seed)
        seen.add(tuple(places))
        for i, (y, x) in enumerate(places):
            assert 0 <= y <= size[0] - 100 and 0 <= x <= size[1] - 100
            assert all(max(abs(y - v), abs(x - u)) >= 100 for v, u in places[:i])
    assert len(seen) > 10


@pytest.mark.parametrize("size", [(101, 101), (100, 103), (199, 199), (120, 399)])
def test_crops_lie_at_four_places_where_there_is_less_room(size):
    for seed in range(30):
        places = _crop_places(size, seed)
        assert len(set(places)) == 4
        assert all(0 <= y <= size[0] - 100 and 0 <= x <= size[1] - 100 for y, x in places)


# ---- all eighteen ----------------------------------------------------------------------------------------


def test_the_eighteen_are_what_their_names_say():
    features = handcrafted(SMEAR, seed=3)
    assert features.shape == (18,) == (len(NAMES),)
    assert features.dtype == np.float32
    levels = cv2.cvtColor(SMEAR, cv2.COLOR_RGB2GRAY)
    binned = np.rint(levels.reshape(150, 2, 200, 2).mean(axis=(1, 3))).astype(np.uint8)
    # halves may be rounded either way
    resized = cv2.resize(levels, (200, 150), interpolation=cv2.INTER_AREA)
    assert np.abs(binned.astype(int) - resized).max() <= 1
    mask = region_of_interest(resized)
    expected = [
        *moments(resized, mask),
        *texture(cooccurrence(resized, mask)),
        *shape(mask),
        *correlations(levels, 3),
    ]
    np.testing.assert_allclose(features, expected, rtol=1e-6)


def test_without_binning_it_is_the_frame_itself():
    levels = cv2.cvtColor(SMEAR, cv2.COLOR_RGB2GRAY)
    mask = region_of_interest(levels)
    np.testing.assert_allclose(handcrafted(SMEAR, binning=1)[8:12], shape(mask), rtol=1e-6)
    assert np.isfinite(handcrafted(SMEAR[:299, :399], binning=3)).all()


def test_the_seed_moves_only_the_crops():
    first, again, other = (handcrafted(SMEAR, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first[:12], other[:12])
    assert (first[12:] != other[12:]).any()


def test_defocus_is_seen():
    sharp, blurred = handcrafted(SMEAR), handcrafted(smear(blur_px=(8, 8, 8)))
    seen = dict(zip(NAMES, blurred - sharp, strict=True))
    assert seen["mean"] > 0 and seen["skewness"] < 0 and seen["sum_entropy"] > 0


def test_frames_are_left_as_they_are_and_may_lie_in_memory_in_any_way():
    for view in (SMEAR[..., ::-1], SMEAR[::-1, ::2], SMEAR.transpose(1, 0, 2)):
        copy = np.ascontiguousarray(view)
        copy.setflags(write=False)
        np.testing.assert_array_equal(handcrafted(view), handcrafted(copy))
    np.testing.assert_array_equal(SMEAR, smear())


def test_a_grey_frame_is_taken_only_when_asked_for():
    levels = SMEAR[..., 1]
    for function in (handcrafted, as_colour):
        with pytest.raises(ValueError, match=r"shape \(300, 400\): expected colours, \(H, W, 3\); a grey"):
            function(levels)
        np.testing.assert_array_equal(
            function(levels, grey="repeat"), function(np.repeat(levels[..., None], 3, 2))
        )
        np.testing.assert_array_equal(function(SMEAR, grey="repeat"), function(SMEAR))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (SMEAR.astype(np.uint16), "of uint16: expected uint8"),
        (SMEAR / 255, "of float64: expected uint8"),
        (np.zeros((300, 400, 4), np.uint8), r"shape \(300, 400, 4\): expected \(H, W, 3\)"),
        (np.zeros((300, 400, 1), np.uint8), r"shape \(300, 400, 1\): expected \(H, W, 3\)"),
        (np.zeros((2, 300, 400, 3), np.uint8), r"expected \(H, W, 3\)"),
    ],
)
def test_what_is_no_frame_of_colours(frame, message):
    for function in (handcrafted, as_colour):
        with pytest.raises(ValueError, match=message):
            function(frame)


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        (SMEAR[:99], {}, "the frame is 99 x 400 px: expected at least 100 x 100"),
        (SMEAR[:100, :102], {}, "100 x 102 px: expected room for four crops of 100 x 100, has it for 3"),
        (SMEAR, {"binning": 0}, "binning is 0: expected 1 to 16"),
        (SMEAR, {"binning": 17}, "binning is 17: expected 1 to 16"),
        (SMEAR, {"grey": "mean"}, "grey is 'mean': expected one of refuse, repeat"),
        (np.full((200, 200, 3), 230, np.uint8), {}, "contrast of 0.0"),
    ],
)
def test_what_has_no_eighteen(frame, options, message):
    with pytest.raises(ValueError, match=message):
        handcrafted(frame, **options)


@pytest.mark.parametrize("levels", [1, 257])
def test_other_numbers_of_levels_are_refused(levels):
    with pytest.raises(ValueError, match=f"levels is {levels}: expected 2 to 256"):
        cooccurrence(grey([0, 1]), levels=levels)
