"""Networks over frames of any size: tiles that blend, a band of rows at a time."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bluesky_autofocus.models.refocus._tiles import blended


class Rows:
    """Gives rows of a frame, and remembers what it was asked for."""

    def __init__(self, frame):
        self.frame, self.asked = frame, []

    def __call__(self, first, last):
        assert 0 <= first < last <= len(self.frame)
        self.asked.append((first, last))
        return self.frame[first:last]


class Network:
    """Does something to tiles, and remembers their shapes."""

    def __init__(self, does=lambda tile: tile):
        self.does, self.shapes = does, []

    def __call__(self, tile):
        assert tile.flags.c_contiguous
        self.shapes.append(tile.shape)
        return np.atleast_3d(self.does(tile))


def blur(radius):
    return lambda tile: cv2.blur(tile, (2 * radius + 1,) * 2, borderType=cv2.BORDER_REFLECT_101)


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def whole(frame, network, rows=None, *, tile_px=160, context_px=16, multiple_px=32):
    """Return what comes out, put together; it comes in order and each row once."""
    parts, following = [], 0
    for first, values in blended(
        rows or Rows(frame),
        frame.shape,
        network,
        tile_px=tile_px,
        context_px=context_px,
        multiple_px=multiple_px,
    ):
        assert first == following and len(values) > 0 and values.shape[1] == frame.shape[1]
        following += len(values)
        parts.append(values)
    assert following == len(frame)
    return np.concatenate(parts)


SHAPES = [(160, 160), (64, 64), (17, 31), (1, 1), (1, 400), (401, 3), (129, 128), (500, 333), (1000, 97)]


@pytest.mark.parametrize("shape", SHAPES)
def test_what_changes_nothing_gives_the_frame(shape):
    frame, network = noise(shape), Network()
    np.testing.assert_allclose(whole(frame, network)[..., 0], frame, rtol=0, atol=2e-6)
    for side, length in zip(np.unique(network.shapes, axis=0).T, shape, strict=True):
        assert len(set(side)) == 1, "all tiles are of one size"
        assert side[0] % 32 == 0 and side[0] <= 160
        assert side[0] < length + 2 * 16 + 32, "no larger than it has to be"


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    multiple_px=st.sampled_from((1, 2, 8, 32)),
    context_px=st.integers(0, 20),
    tile_px=st.integers(136, 200),
)
def test_any_size(shape, multiple_px, context_px, tile_px):
    frame, rows = noise(shape), Rows(noise(shape))
    out = whole(frame, Network(), rows, tile_px=tile_px, context_px=context_px, multiple_px=multiple_px)
    np.testing.assert_allclose(out[..., 0], frame, rtol=0, atol=2e-6)
    assert max(last - first for first, last in rows.asked) <= tile_px, "never more than a band"


@pytest.mark.parametrize("shape", [(300, 420), (97, 600), (40, 50)])
def test_tiles_do_not_show(shape):
    """The margin is as wide as what the network sees: it is as if there were one tile."""
    frame = noise(shape)
    for radius in (3, 16):
        out = whole(frame, Network(blur(radius)))[..., 0]
        np.testing.assert_allclose(out, blur(radius)(frame), rtol=0, atol=1e-6)


def test_a_margin_that_is_too_narrow_shows():
    """Only that the test above would see it."""
    frame = noise((300, 420))
    out = whole(frame, Network(blur(16)), context_px=0)[..., 0]
    assert np.abs(out - blur(16)(frame)).max() > 1e-3


def test_neighbours_fade_into_each_other():
    """Tiles that disagree leave slopes, no steps."""
    number = iter(range(100))
    out = whole(noise((500, 500)), Network(lambda tile: np.full_like(tile, next(number) % 2)))[..., 0]
    assert out.min() == 0 and out.max() == pytest.approx(1)
    assert max(np.abs(np.diff(out, axis=axis)).max() for axis in (0, 1)) < 0.07


def test_several_values_a_pixel():
    frame = noise((300, 200))
    out = whole(frame, Network(lambda tile: np.stack([tile, 2 * tile, tile * 0 + 7], axis=-1)))
    np.testing.assert_allclose(out, np.stack([frame, 2 * frame, frame * 0 + 7], axis=-1), atol=4e-6)


def test_a_band_at_a_time():
    """Of a tall frame no more rows are read than a band of tiles has, and each band only when it is due."""
    frame = noise((2000, 100))
    rows = Rows(frame)
    for done, (_, _) in enumerate(
        blended(rows, frame.shape, Network(), tile_px=160, context_px=16, multiple_px=32), 1
    ):
        assert len(rows.asked) == done
    assert max(last - first for first, last in rows.asked) <= 160
    assert rows.asked == sorted(rows.asked)


@pytest.mark.parametrize("tile_px", [1, 32, 96, 95])
def test_tiles_that_are_too_small(tile_px):
    with pytest.raises(ValueError, match=f"tiles of {tile_px} pixels are too small: expected more than 96"):
        whole(noise((300, 300)), Network(), tile_px=tile_px)


def test_a_small_frame_fits_into_a_small_tile():
    frame = noise((40, 32))
    np.testing.assert_allclose(whole(frame, Network(), tile_px=96)[..., 0], frame, rtol=0, atol=2e-6)
