"""The model that refocuses: which frames it takes, what it gives, when it is not believed, and its file."""

import dataclasses
import math
import sys

import numpy as np
import pytest
from refocusing import OPTICS, PARAMETERS, blobs, make_arrays, make_card, make_model

from bluesky_autofocus.defocus import ModelMismatchError
from bluesky_autofocus.models.card import ModelFileError, ModelInputs
from bluesky_autofocus.models.refocus import RefocusModel, UNetModel, load_model, refocus_rows
from bluesky_autofocus.models.refocus._levels import Levels, noise_of
from bluesky_autofocus.models.refocus._reblur import Explanation
from bluesky_autofocus.records import Reason


@pytest.fixture(scope="module")
def model():
    """Return the network that changes nothing."""
    return make_model()


@pytest.fixture(scope="module")
def busy():
    """Return a network that changes a lot."""
    last = {"network.last.kernel": np.random.default_rng(1).normal(0, 0.1, (4, 4, 2, 3))}
    return make_model(arrays=last, mismatch_limit=1e6, strangeness_limit=1e6)


def of_blobs(shape=(160, 192), dtype=np.uint16, colours=False, seed=0):
    one = blobs(shape, dtype=dtype, seed=seed)
    return np.stack([one, blobs(shape, 1 + seed, dtype=dtype), one], axis=-1) if colours else one


class TestInFocus:
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
    @pytest.mark.parametrize("colours", [False, True])
    def test_a_frame_comes_back_as_it_was(self, model, dtype, colours):
        frame = of_blobs(dtype=dtype, colours=colours)
        made = model.refocus(frame)
        assert (made.accepted, made.reason) == (True, Reason.STILL_SHARP)
        assert made.frame.dtype == dtype and made.frame is not frame
        np.testing.assert_array_equal(made.frame, frame)
        assert made.defocus_um <= 0.5 * OPTICS.depth_of_field_um and 0 <= made.mismatch < 0.05
        assert made.sigma.shape == frame.shape and made.sigma.dtype == np.float32

    def test_its_uncertainty_is_its_noise(self, model):
        frame = blobs()
        np.testing.assert_allclose(model.refocus(frame).sigma, noise_of(frame), rtol=1e-6)

    @pytest.mark.parametrize("shape", [(64, 64), (65, 300), (257, 128), (1000, 70)])
    def test_any_size(self, model, shape):
        frame = blobs(shape)
        np.testing.assert_array_equal(model.refocus(frame).frame, frame)

    def test_the_frame_is_not_touched(self, model):
        frame = blobs()
        before = frame.copy()
        frame.flags.writeable = False
        assert model.refocus(frame).frame.flags.writeable
        np.testing.assert_array_equal(frame, before)
        np.testing.assert_array_equal(model.refocus(blobs()[::-1, ::-1]).frame, before[::-1, ::-1])


class TestRefocused:
    @pytest.fixture
    def far(self, monkeypatch):
        """Let every result be explained from 12 um."""
        monkeypatch.setattr(RefocusModel, "explained", lambda *_: Explanation(12.0, 0.01))

    def test_its_uncertainty_in_grey_levels(self, model, far):
        """The tiny network expects an error of 1 everywhere, of which the card makes 0.1."""
        frame = blobs()
        np.testing.assert_allclose(model.refocus(frame).sigma, 0.1 * Levels.of(frame).scale, rtol=1e-4)
        sigma = make_model(sigma_floor=0.2).refocus(frame).sigma
        np.testing.assert_allclose(sigma, math.hypot(0.1, 0.2) * Levels.of(frame).scale, rtol=1e-4)

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
    def test_type_and_scale_are_kept(self, busy, far, dtype):
        frame = of_blobs(dtype=dtype)
        made = busy.refocus(frame)
        assert (made.accepted, made.reason, made.defocus_um) == (True, Reason.OK, 12.0)
        assert made.frame.dtype == dtype and made.frame.shape == frame.shape
        assert (made.frame != frame).mean() > 0.5
        difference = made.frame.astype(float) - frame
        assert 0.01 < difference.std() / Levels.of(frame).scale < 1

    def test_each_colour_by_itself(self, busy, far):
        frame = of_blobs(colours=True)
        made, parts = busy.refocus(frame), [busy.refocus(frame[..., n]) for n in range(3)]
        assert made.reason is Reason.OK
        for n, one in enumerate(parts):
            np.testing.assert_array_equal(made.frame[..., n], one.frame)
            np.testing.assert_array_equal(made.sigma[..., n], one.sigma)

    def test_one_colour_that_is_in_focus(self, busy, monkeypatch):
        found = [Explanation(0.0, 0.01), Explanation(12.0, 0.04), Explanation(3.0, 0.02)]
        monkeypatch.setattr(RefocusModel, "explained", lambda *_: found.pop(0))
        frame = of_blobs(colours=True)
        made = busy.refocus(frame)
        assert (made.accepted, made.reason, found) == (True, Reason.OK, [])
        assert (made.defocus_um, made.mismatch) == (5.0, 0.04)
        np.testing.assert_array_equal(made.frame[..., 0], frame[..., 0])
        assert (made.frame[..., 1] != frame[..., 1]).any()

    @pytest.mark.parametrize(
        ("first_um", "away_um", "left", "told_um"),
        [
            (8.0, 12.0, (0.1, 0.1), 12.0),
            (-8.0, 12.0, (0.1, 0.1), -12.0),
            (8.0, 12.0, (0.1, 0.06), -12.0),
            (8.0, 12.0, (0.1, 0.08), 12.0),
            (31.0, 37.0, (0.1, 0.1), 32.0),
            (-3.0, 1.0, (), -1.0),
        ],
    )
    def test_how_far_out_a_tile_is(self, monkeypatch, first_um, away_um, left, told_um):
        """The spectrum tells the side, unless the other one explains much more; the result how far."""
        model = make_model(arrays={"defocus.bias0": np.array([first_um / 32])})
        found = [
            (None, Explanation(away_um, 0.2)),
            *((min(away_um, 32.0), Explanation(0.0, one)) for one in left),
        ]

        def explained(*_, near_um=None, **__):
            expected_um, explanation = found.pop(0)
            assert near_um == expected_um
            return explanation

        monkeypatch.setattr("bluesky_autofocus.models.refocus._model.explain", explained)
        told, run = [], UNetModel.raw
        monkeypatch.setattr(UNetModel, "raw", lambda self, x, z_um: told.append(z_um) or run(self, x, z_um))
        tile = np.random.default_rng(0).random((288, 320), np.float32)
        assert model.distance_um(tile) == pytest.approx(told_um)
        away_um = min(away_um, 32.0)
        assert told == pytest.approx(
            [first_um, *(math.copysign(away_um, first_um) * s for s in (1, -1) if left)]
        )
        assert not found

    @pytest.mark.parametrize(
        ("known", "reason"),
        [
            (Explanation(12.0, 10.1), Reason.INVENTED),
            (Explanation(12.0, math.nan), Reason.INVENTED),
            (Explanation(34.5, 0.1), Reason.OUT_OF_RANGE),
            (Explanation(33.5, 0.1), Reason.OK),
            (Explanation(12.0, 9.9), Reason.OK),
            (Explanation(1.0, 0.1), Reason.STILL_SHARP),
        ],
    )
    def test_when_it_is_believed(self, model, monkeypatch, known, reason):
        monkeypatch.setattr(RefocusModel, "explained", lambda *_: known)
        frame = blobs()
        made = model.refocus(frame)
        accepted = reason in (Reason.OK, Reason.STILL_SHARP)
        assert (made.accepted, made.reason) == (accepted, reason)
        assert np.isfinite(made.sigma).all() == accepted
        if not accepted:
            np.testing.assert_array_equal(made.frame, frame)
            assert made.defocus_um == known.defocus_um, "what was found is told all the same"

    def test_an_unfamiliar_frame(self):
        strange = make_model(arrays={"familiar.spread": np.full(5, 1e-3)})
        frame = of_blobs(colours=True)
        for shown in (frame, frame[..., 0]):
            made = strange.refocus(shown)
            assert (made.accepted, made.reason) == (False, Reason.UNFAMILIAR)
            np.testing.assert_array_equal(made.frame, shown)

    def test_how_strange(self):
        model = make_model(
            arrays={
                "familiar.mean": np.array([1, 0, 0, 0, 0]),
                "familiar.axes": np.eye(5)[:2],
                "familiar.spread": np.array([2.0, 0.5]),
            },
            strangeness_limit=2.0,
        )
        assert model.strangeness(np.array([1, 0, 0, 0, 0])) == 0
        # two spreads along one of two axes; two of the last spread on average over five beside the axes
        assert model.strangeness(np.array([5, 0, 0, 0, 0])) == pytest.approx(2 / math.sqrt(2) / 2)
        assert model.strangeness(np.array([1, 0, math.sqrt(5), 0, 0])) == pytest.approx(1)


class TestRefused:
    @pytest.mark.parametrize(
        ("frame", "reason"),
        [
            (np.zeros((96, 96), np.uint8), Reason.BLACK),
            (np.full((96, 96), 65535, np.uint16), Reason.SATURATED),
            (np.full((96, 96), 300.0), Reason.UNIFORM),
            (np.where(np.eye(96) > 0, np.nan, 5.0), Reason.NOT_FINITE),
            (np.random.default_rng(0).normal(200, 9, (96, 96)).astype(np.uint16), Reason.EMPTY),
            (np.random.default_rng(0).normal(200, 9, (96, 96)).astype(np.float32), Reason.EMPTY),
        ],
        ids=lambda value: str(value) if isinstance(value, Reason) else "",
    )
    def test_frames_that_show_nothing(self, model, frame, reason):
        for shown in (frame, np.stack([blobs((96, 96), dtype=frame.dtype), frame, frame], axis=-1)):
            made = model.refocus(shown)
            assert (made.accepted, made.reason) == (False, reason)
            np.testing.assert_array_equal(made.frame, shown)
            assert made.frame.dtype == frame.dtype and made.frame is not shown
            assert math.isnan(made.defocus_um) and math.isnan(made.mismatch) and np.isnan(made.sigma).all()

    def test_a_camera_that_saturates_early(self):
        model, frame = make_model(), np.minimum(blobs() * 40, 4095)
        assert model.refocus(frame).reason is not Reason.SATURATED
        model.full_scale = 4095.0
        assert model.refocus(np.full_like(frame, 4095)).reason is Reason.SATURATED
        assert model.parameters["full_scale"] == 4095.0

    @pytest.mark.parametrize(
        ("frame", "complaint"),
        [
            (np.zeros((96, 96), np.int32), "of type int32: expected uint8, uint16 or float"),
            (np.zeros((96, 96), bool), "of type bool: expected uint8"),
            (np.zeros((96, 96), np.complex64), "of type complex64: expected uint8"),
            (np.zeros((63, 96)), r"shape \(63, 96\): expected at least 64 pixels a side"),
            (np.zeros((96, 10, 3)), r"shape \(96, 10, 3\): expected at least 64 pixels a side"),
            (np.zeros(96), r"shape \(96,\): tiny expects \(H, W\) or \(H, W, 3\)"),
            (np.zeros((96, 96, 4)), r"shape \(96, 96, 4\): tiny expects \(H, W\) or \(H, W, 3\)"),
            (np.zeros((3, 96, 96)), r"shape \(3, 96, 96\): tiny expects"),
            (np.zeros((1, 96, 96, 3)), r"shape \(1, 96, 96, 3\): tiny expects"),
        ],
    )
    def test_what_is_no_frame(self, model, frame, complaint):
        with pytest.raises(ValueError, match=complaint):
            model.refocus(frame)

    def test_colour_only_where_the_card_says_so(self):
        grey = make_model(colour="grey")
        assert grey.refocus(blobs()).accepted
        with pytest.raises(ValueError, match=r"\(160, 192, 3\): tiny expects \(H, W\): give one colour"):
            grey.refocus(of_blobs(colours=True))

    def test_bytes_in_the_other_order(self, model):
        """As memory-mapped files of ImageJ have them."""
        frame = blobs()
        made = model.refocus(frame.astype(frame.dtype.newbyteorder()))
        assert made.accepted
        np.testing.assert_array_equal(made.frame, frame)


class TestOptics:
    def test_those_of_the_card(self, model):
        model.check(OPTICS)
        model.check_values({"pixel_size_um": 0.65, "numerical_aperture": 0.46})
        model.check_values({})

    @pytest.mark.parametrize(
        ("name", "value"),
        [("pixel_size_um", 0.33), ("magnification", 40.0), ("numerical_aperture", 0.75)],
    )
    def test_others(self, model, name, value):
        expected = getattr(OPTICS, name)
        with pytest.raises(ModelMismatchError, match=f"{name} is {value:g}: tiny was made for {expected:g}"):
            model.check_values({name: value})
        with pytest.raises(ModelMismatchError, match=name):
            model.check(dataclasses.replace(OPTICS, **{name: value}))

    def test_what_is_not_a_number(self, model):
        with pytest.raises(ModelMismatchError):
            model.check_values({"pixel_size_um": math.nan})


class TestFile:
    def test_there_and_back(self, busy, tmp_path):
        model = UNetModel(busy.card, busy.arrays)
        assert model.model_hash == ""
        card = model.save(tmp_path / "tiny.h5")
        assert len(card.hash) == 64 and model.model_hash == card.hash
        for read in (UNetModel.load(tmp_path / "tiny.h5"), load_model(tmp_path / "tiny.h5")):
            assert (read.card, read.model_hash, read.optics) == (model.card, card.hash, OPTICS)
            assert (read.name, read.modalities, read.channels) == ("tiny", ("fluorescence",), (3, 4, 5))
            assert read.parameters == model.parameters and read.parameters["tile_px"] == model.tile_px
            frame = of_blobs(colours=True)
            one, other = model.refocus(frame), read.refocus(frame)
            np.testing.assert_array_equal(one.frame, other.frame)
            np.testing.assert_array_equal(one.sigma, other.sigma)
            assert (one.reason, one.defocus_um) == (other.reason, other.defocus_um)

    @pytest.mark.parametrize("change", ["missing", "longer"])
    @pytest.mark.parametrize(
        "name",
        [
            "network.down0.kernel",
            "network.last.bias",
            "network.in2_1.kernel",
            "defocus.mean",
            "defocus.kernel0",
            "familiar.mean",
            "familiar.axes",
            "familiar.spread",
        ],
    )
    def test_an_array_does_not_fit(self, name, change):
        arrays = make_arrays()
        old = arrays.pop(name)
        if change == "longer":
            arrays[name] = np.concatenate([old, old])
        with pytest.raises(ModelFileError, match="tiny is incomplete"):
            UNetModel(make_card(), arrays)

    @pytest.mark.parametrize("key", sorted(PARAMETERS.keys() - {"modalities"}))
    def test_a_parameter_is_missing(self, key):
        said = {name: value for name, value in PARAMETERS.items() if name != key}
        with pytest.raises(ModelFileError, match=f"tiny is incomplete: '{key}'"):
            UNetModel(make_card(architecture_parameters=said), make_arrays())

    @pytest.mark.parametrize(
        "changes",
        [
            {"parameters": {"channels": (4, 4, 5)}},
            {"parameters": {"defocus_um": "far"}},
            {"inputs": ModelInputs("", 0, pixel_size_um=0.656)},
        ],
    )
    def test_the_card_does_not_fit(self, changes):
        with pytest.raises(ModelFileError, match="tiny is incomplete"):
            UNetModel(make_card(**changes), make_arrays())

    def test_more_levels_than_the_tiles_can_be_halved(self):
        channels = (1,) * 6
        with pytest.raises(ModelFileError, match="tiny is incomplete: more than"):
            UNetModel(make_card(parameters={"channels": channels}), make_arrays(channels))

    def test_another_architecture(self, tmp_path):
        with pytest.raises(ModelFileError, match="tiny is a 'dense-2' network"):
            UNetModel(make_card(architecture="dense-2"), make_arrays())
        with pytest.raises(ModelFileError, match="cannot read the model"):
            load_model(tmp_path / "nowhere.h5")

    def test_the_first_frame_need_not_wait(self):
        model = make_model()
        model.prepare()
        assert "_session" in vars(model)

    @pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
    def test_without_onnx(self, monkeypatch, missing):
        monkeypatch.setitem(sys.modules, missing, None)
        with pytest.raises(ImportError, match=r"pip install 'bluesky-autofocus\[refocus\]'"):
            make_model().refocus(blobs())


class TestLarge:
    @pytest.fixture
    def mapped(self, tmp_path):
        """Return a function that gives a frame in a file, and a file for the result."""

        def make(frame):
            source = np.lib.format.open_memmap(tmp_path / "source.npy", "w+", frame.dtype, frame.shape)
            source[:] = frame
            target = np.lib.format.open_memmap(tmp_path / "target.npy", "w+", frame.dtype, frame.shape)
            return source, target

        return make

    @pytest.mark.parametrize("colours", [False, True])
    def test_it_is_what_the_network_makes(self, busy, mapped, colours):
        """All of it, also where `refocus` would leave the frame as it was."""
        frame = of_blobs((700, 900), colours=colours)
        source, target = mapped(frame)
        done = []
        found = refocus_rows(busy, source, target, progress=lambda *rows: done.append(rows))
        np.testing.assert_array_equal(source, frame)
        for n in range(3 if colours else 1):
            shown, made = (one[..., n] if colours else one for one in (frame, target))
            levels = Levels.of(shown)
            rows = busy.blended(lambda a, b: levels.apply(shown[a:b]), shown.shape, [])  # noqa: B023
            expected = np.concatenate([values[..., 0] for _, values in rows])
            assert (expected - levels.apply(shown)).std() > 0.05
            np.testing.assert_array_equal(made, levels.undo(expected, frame.dtype))
        total = (3 if colours else 1) * 700
        assert done[-1] == (total, total) and [rows for rows, _ in done] == sorted(rows for rows, _ in done)
        assert found.parts == (3 if colours else 1) and 0 <= found.mismatch
        assert 0 <= found.defocus_um <= 40

    def test_in_squares(self, model, mapped, monkeypatch):
        monkeypatch.setattr("bluesky_autofocus.models.refocus._large._PART_PX", 256)
        source, target = mapped(blobs((700, 900)))
        found = refocus_rows(model, source, target)
        np.testing.assert_allclose(target, source, atol=1)
        assert (found.parts, found.accepted, found.reasons) == (12, True, ())
        assert found.defocus_um <= 0.5 * OPTICS.depth_of_field_um and found.mismatch < 0.05
        monkeypatch.setattr("bluesky_autofocus.models.refocus._large._MOST_PARTS", 4)
        assert refocus_rows(model, source, target).parts == 4

    def test_squares_that_are_not_believed(self, mapped, monkeypatch):
        monkeypatch.setattr("bluesky_autofocus.models.refocus._large._PART_PX", 256)
        source, target = mapped(blobs((256, 600)))
        found = refocus_rows(make_model(strangeness_limit=1e-9), source, target)
        assert (found.parts, found.accepted, found.reasons) == (3, False, 3 * (Reason.UNFAMILIAR,))

    def test_squares_that_show_nothing_have_no_say(self, model, mapped, monkeypatch):
        """As in a slide that was put together from fields, with black corners."""
        monkeypatch.setattr("bluesky_autofocus.models.refocus._large._PART_PX", 256)
        frame = blobs((512, 768))
        frame[:256, :256] = 0
        frame[256:, 512:] = 65535
        frame[256:, :256] = np.random.default_rng(0).normal(300, 9, (256, 256))
        found = refocus_rows(model, *mapped(frame))
        assert (found.parts, found.accepted) == (3, True)

    @pytest.mark.parametrize(
        "frame",
        [
            np.zeros((200, 300), np.uint8),
            np.full((200, 300), 300.0),
            np.random.default_rng(0).normal(300, 9, (200, 300)).astype(np.uint16),
        ],
    )
    def test_an_image_that_shows_nothing(self, model, mapped, frame):
        found = refocus_rows(model, *mapped(frame))
        assert (found.parts, found.accepted, found.reasons) == (0, False, (Reason.EMPTY,))
        assert math.isnan(found.defocus_um) and math.isnan(found.mismatch)

    def test_an_image_that_is_not_finite(self, model, mapped, monkeypatch):
        monkeypatch.setattr("bluesky_autofocus.models.refocus._large._PART_PX", 256)
        frame = blobs((256, 512), dtype=np.float32)
        frame[100, 100] = np.nan
        with pytest.raises(ValueError, match="rows 0 to .* of the image have pixels that are NaN"):
            refocus_rows(model, *mapped(frame))

    def test_bytes_in_the_other_order(self, model, mapped):
        frame = blobs()
        source, target = mapped(frame)
        assert refocus_rows(model, frame.astype(">u2"), target).accepted
        np.testing.assert_allclose(target, source, atol=1)

    def test_a_target_that_does_not_fit(self, model):
        source = blobs()
        for target in (np.empty((160, 191), np.uint16), np.empty((160, 192), np.uint8)):
            with pytest.raises(ValueError, match="the target is .* expected .160, 192. of uint16"):
                refocus_rows(model, source, target)

    def test_what_is_no_frame(self, model):
        for source in (np.zeros((9, 900)), np.zeros((99, 99, 4)), np.zeros((99, 99), np.int16)):
            with pytest.raises(ValueError, match="expect"):
                refocus_rows(model, source, source.copy())
