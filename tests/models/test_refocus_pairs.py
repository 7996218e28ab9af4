import dataclasses
import itertools

import numpy as np
import pytest

from bluesky_autofocus.models.refocus._levels import Levels
from bluesky_autofocus.models.refocus.pairs import FocalPairs, Sampler

DEFOCUS_UM = np.array([10.0, 4.0, 0.0, -6.0])
N, SHAPE = 3, (40, 48)


def made(offset=0, n=N, shape=SHAPE, modality="fluorescence"):
    """Return pairs of which each pixel says where it comes from: set, field, plane, place."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    place = (rows * shape[1] + columns).astype(np.uint16)
    targets = np.stack([place + offset for _ in range(n)])
    # planes are their targets and a constant: after `Levels` it is gone
    planes = np.stack([[targets[i] + 100 * (1 + i) + 1000 * j for j in range(4)] for i in range(n)])
    return FocalPairs(
        planes.astype(np.uint16), targets.astype(np.uint16), DEFOCUS_UM, np.arange(n) + 50, modality
    )


def sampler(*sets, seed=0, crop_px=16, **options):
    return Sampler(sets or [made()], np.random.default_rng(seed), crop_px, **options)


def asked_for(count, *sets, crop_px=16, **options):
    """Return the set, field and plane of each piece, and the pieces with their margins."""
    found, pieces = [], []

    def shown(x, *which):
        found.append(which)
        pieces.append(x)
        return x[..., None]

    sampler(*sets, crop_px=crop_px, shown=shown, **options).batch(count)
    return np.array(found), pieces


class TestFocalPairs:
    def test_which_are_taken(self):
        pairs = made()
        assert len(pairs) == N
        assert pairs.take(np.array([2, 0])).field.tolist() == [52, 50]
        assert pairs.take(pairs.field > 50).field.tolist() == [51, 52]
        one = pairs.take(np.array([1]))
        np.testing.assert_array_equal(one.planes[0], pairs.planes[1])
        np.testing.assert_array_equal(one.targets[0], pairs.targets[1])
        assert len(pairs.take(np.zeros(N, bool))) == 0

    def test_split_keeps_fields_together(self):
        """A field in three colours is there three times."""
        pairs = made(n=6)
        pairs = FocalPairs(pairs.planes, pairs.targets, DEFOCUS_UM, np.repeat([7, 8], 3), "brightfield")
        rest, out = pairs.split(np.array([8, 99]))
        assert rest.field.tolist() == [7, 7, 7] and out.field.tolist() == [8, 8, 8]
        assert out.modality == "brightfield"
        np.testing.assert_array_equal(out.planes, pairs.planes[3:])

    @pytest.mark.parametrize(
        ("defocus_um", "number"), [(10.0, 0), (100.0, 0), (1.0, 2), (2.5, 1), (-50.0, 3)]
    )
    def test_nearest(self, defocus_um, number):
        assert made().nearest(defocus_um) == number

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("planes", np.zeros((N, *SHAPE), np.uint16), "planes have shape"),
            ("planes", np.zeros((N + 1, 4, *SHAPE), np.uint16), "planes have shape"),
            ("targets", np.zeros((N, 41, 48), np.uint16), "planes have shape"),
            ("defocus_um", np.zeros(5), "of 4 planes"),
            ("field", np.arange(N + 1), "3 fields"),
        ],
    )
    def test_what_does_not_fit(self, name, value, message):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(made(), **{name: value})


class TestSampler:
    def test_shapes(self):
        x, target = sampler().batch(5)
        assert x.shape == target.shape == (5, 16, 16, 1)
        assert x.dtype == target.dtype == np.float32

    def test_both_are_cut_at_the_same_place_and_turned_alike(self):
        """Here a plane and its target differ by a constant, whichever pixel it is."""
        x, target = sampler().batch(64)
        apart = (x - target)[..., 0]
        assert np.ptp(apart, axis=(1, 2)).max() < 1e-4
        assert np.ptp(x, axis=(1, 2)).min() > 0.2, "while pixels differ"

    def test_all_eight_ways_of_turning_come(self):
        """By which way neighbours down and neighbours across go on: a pixel, or a row of 48."""
        x, _ = sampler(jitter=0.0).batch(128)
        down, across = x[:, 1, 0, 0] - x[:, 0, 0, 0], x[:, 0, 1, 0] - x[:, 0, 0, 0]
        kinds = {(bool(abs(d) > abs(a)), bool(d > 0), bool(a > 0)) for d, a in zip(down, across, strict=True)}
        assert kinds == set(itertools.product((False, True), repeat=3))

    def test_places_differ_and_reach_the_borders(self):
        _, pieces = asked_for(400, made(n=1), planes_um=[0.0], jitter=0.0)
        levels = Levels.of(made(n=1).planes[0, 2])
        corners = np.array([round(p[0, 0] * levels.scale + levels.offset) for p in pieces])
        rows, columns = np.divmod(corners - made(n=1).planes[0, 2, 0, 0], SHAPE[1])
        assert rows.min() == 0 and rows.max() == SHAPE[0] - 16
        assert columns.min() == 0 and columns.max() == SHAPE[1] - 16

    def test_they_are_scaled_as_the_whole_plane_is(self):
        pairs = made()
        found, pieces = asked_for(20, pairs, jitter=0.0)
        for (_, i, j), piece in zip(found, pieces, strict=True):
            levels = Levels.of(pairs.planes[i, j])
            grey = piece * levels.scale + levels.offset
            assert np.abs(grey - np.rint(grey)).max() < 0.01
            assert np.isin(np.rint(grey), pairs.planes[i, j]).all()

    def test_the_scale_is_off_by_as_much_as_asked_for(self):
        step = [sampler(made(n=1), seed=seed, jitter=0.5).batch(1)[0][0, ..., 0] for seed in range(60)]
        # neighbours in a row differ by 1 grey level
        seen = np.array([min(abs(x[1, 0] - x[0, 0]), abs(x[0, 1] - x[0, 0])) for x in step])
        factors = np.log(seen * Levels.of(made(n=1).planes[0, 0]).scale)
        assert -0.51 < factors.min() < -0.3 and 0.3 < factors.max() < 0.51

    def test_only_the_planes_asked_for(self):
        assert set(asked_for(60, planes_um=[9.0, -6.0])[0][:, 2]) == {0, 3}
        assert set(asked_for(100)[0][:, 2]) == {0, 1, 2, 3}

    def test_each_set_as_often_whatever_its_size(self):
        found, _ = asked_for(600, made(n=2), made(offset=20_000, n=12, shape=(20, 64)))
        assert np.mean(found[:, 0]) == pytest.approx(0.5, abs=0.08)
        for s, n in ((0, 2), (1, 12)):
            fields = np.bincount(found[found[:, 0] == s, 1], minlength=n)
            assert len(fields) == n and fields.min() > 0.3 * fields.mean()

    def test_a_seed_gives_the_same_pieces(self):
        one, same, other = (sampler(seed=seed) for seed in (4, 4, 5))
        first = one.batch(8)
        for a, b in zip(first, same.batch(8), strict=True):
            np.testing.assert_array_equal(a, b)
        assert (first[0] != other.batch(8)[0]).any()
        assert (first[0] != one.batch(8)[0]).any(), "and the next batch is another"

    def test_what_is_shown_is_cut_and_turned_with_the_target(self):
        """The margin is there for what is computed from the piece, and gone afterwards."""
        sizes = set()

        def shown(x, *_):
            sizes.add(x.shape)
            return np.stack([x, 2 * x], axis=-1)

        x, target = sampler(margin_px=10, shown=shown).batch(32)
        assert sizes == {(36, 36)}
        assert x.shape == (32, 16, 16, 2) and target.shape == (32, 16, 16, 1)
        np.testing.assert_allclose(x[..., 1], 2 * x[..., 0])
        assert np.ptp(x[..., 0] - target[..., 0], axis=(1, 2)).max() < 1e-4

    @pytest.mark.parametrize("options", [{"crop_px": 41}, {"crop_px": 16, "margin_px": 13}])
    def test_frames_that_are_too_small(self, options):
        with pytest.raises(ValueError, match="too small for pieces of"):
            sampler(made(shape=(80, 80)), made(), **options)

    def test_a_piece_may_be_a_whole_frame(self):
        x, _ = sampler(made(shape=(24, 24)), crop_px=24).batch(2)
        assert x.shape == (2, 24, 24, 1)

    def test_beyond_the_frame_lies_its_mirror_image(self):
        x, target = sampler(made(shape=(24, 24)), crop_px=32, beyond_px=4).batch(4)
        assert x.shape == (4, 32, 32, 1)
        # the piece is the frame with 4 pixels of mirror image all around, however it is turned
        for seen in (*x[..., 0], *target[..., 0]):
            np.testing.assert_allclose(seen[:4], seen[8:4:-1], atol=1e-5)
            np.testing.assert_allclose(seen[:, -4:], seen[:, -6:-10:-1], atol=1e-5)
