import json
import math

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from bluesky_autofocus.stacks import FocusStack, StackError, read_stack


def planes(count=5, shape=(12, 16), dtype=np.uint16):
    """Return noise in which plane n has n in its first pixel."""
    frames = np.random.default_rng(0).integers(10, 200, (count, *shape)).astype(dtype)
    frames[:, 0, 0] = np.arange(count).reshape(count, *[1] * (len(shape) - 2))
    return frames


def order(stack):
    """Return the numbers of the planes in the order of the stack."""
    return [int(frame[0, 0].max()) for frame in stack.frames]


def ome(path, frames, **metadata):
    axes = "ZYXS" if frames.ndim == 4 else "ZYX"
    photometric = "rgb" if frames.ndim == 4 else "minisblack"
    tifffile.imwrite(path, frames, ome=True, photometric=photometric, metadata={"axes": axes, **metadata})


class TestTiff:
    @pytest.mark.parametrize(
        ("kind", "dtype", "shape"),
        [
            (kind, dtype, shape)
            for kind in ("plain", "imagej", "ome")
            for dtype in (np.uint8, np.uint16, np.float32)
            for shape in ((12, 16), (12, 16, 3))
            # ImageJ knows colour of 8 bits only
            if not (kind == "imagej" and len(shape) == 3 and dtype != np.uint8)
        ],
    )
    def test_kinds(self, tmp_path, kind, dtype, shape):
        frames = planes(shape=shape, dtype=dtype)
        path = tmp_path / "stack.tif"
        colour = {"photometric": "rgb"} if len(shape) == 3 else {"photometric": "minisblack"}
        if kind == "plain":
            tifffile.imwrite(path, frames, metadata=None, **colour)
        elif kind == "imagej":
            axes = "ZYXS" if len(shape) == 3 else "ZYX"
            tifffile.imwrite(path, frames, imagej=True, metadata={"axes": axes, "spacing": 0.5, "unit": "um"})
        else:
            ome(path, frames, PhysicalSizeZ=0.5, PhysicalSizeZUnit="µm")
        stack = read_stack(path, step_um=0.5 if kind == "plain" else None)
        assert stack.name == "stack"
        assert stack.unit == "um"
        assert stack.focus_index is None
        assert stack.frames.dtype == dtype
        np.testing.assert_array_equal(stack.frames, frames)
        np.testing.assert_allclose(stack.positions_um, [0, 0.5, 1, 1.5, 2])

    def test_pages_written_one_by_one(self, tmp_path):
        frames = planes()
        with tifffile.TiffWriter(tmp_path / "s.tif") as tiff:
            for frame in frames:
                tiff.write(frame, contiguous=False, metadata=None)
        np.testing.assert_array_equal(read_stack(tmp_path / "s.tif", step_um=1).frames, frames)

    def test_big_endian(self, tmp_path):
        frames = planes()
        tifffile.imwrite(tmp_path / "s.tif", frames, byteorder=">", metadata=None)
        stack = read_stack(tmp_path / "s.tif", step_um=1)
        assert stack.frames.dtype == np.uint16
        np.testing.assert_array_equal(stack.frames, frames)

    def test_transparency_is_left_out(self, tmp_path):
        frames = planes(shape=(12, 16, 4), dtype=np.uint8)
        tifffile.imwrite(
            tmp_path / "s.tif", frames, photometric="rgb", extrasamples=["unassalpha"], metadata=None
        )
        assert read_stack(tmp_path / "s.tif", step_um=1).frames.shape == (5, 12, 16, 3)

    def test_a_time_series_is_taken_for_planes(self, tmp_path):
        tifffile.imwrite(tmp_path / "s.tif", planes(), imagej=True, metadata={"axes": "TYX"})
        assert order(read_stack(tmp_path / "s.tif", step_um=1)) == [0, 1, 2, 3, 4]


class TestChannels:
    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "two.ome.tif"
        both = np.stack([planes(), planes() + 1000], axis=1)
        tifffile.imwrite(path, both, ome=True, metadata={"axes": "ZCYX", "PhysicalSizeZ": 2.0})
        return path

    @pytest.mark.parametrize("channel", [None, 2, -1])
    def test_without_a_choice(self, path, channel):
        with pytest.raises(StackError, match=r"has 2 channels: say which, 0 \.\. 1"):
            read_stack(path, channel=channel)

    def test_chosen(self, path):
        np.testing.assert_array_equal(read_stack(path, channel=0).frames, planes())
        np.testing.assert_array_equal(read_stack(path, channel=1).frames, planes() + 1000)

    def test_and_times_are_too_much(self, tmp_path):
        frames = np.stack([planes(), planes()])
        tifffile.imwrite(tmp_path / "s.tif", frames, imagej=True, metadata={"axes": "TZYX"})
        with pytest.raises(StackError, match="more than one dimension"):
            read_stack(tmp_path / "s.tif", step_um=1)


class TestSpacing:
    @pytest.mark.parametrize(
        ("size", "unit", "um"),
        [(250, "nm", 0.25), (0.25, "µm", 0.25), (0.004, "mm", 4), (3, None, 3), (2e-6, "m", 2)],
    )
    def test_ome(self, tmp_path, size, unit, um):
        ome(
            tmp_path / "s.ome.tif",
            planes(),
            PhysicalSizeZ=size,
            **({"PhysicalSizeZUnit": unit} if unit else {}),
        )
        np.testing.assert_allclose(np.diff(read_stack(tmp_path / "s.ome.tif").positions_um), um)

    @pytest.mark.parametrize(
        ("spacing", "unit", "um"),
        [(0.5, "um", 0.5), (0.5, "micron", 0.5), (0.5, "\\u00B5m", 0.5), (500, "nm", 0.5), (-0.5, "um", 0.5)],
    )
    def test_imagej(self, tmp_path, spacing, unit, um):
        tifffile.imwrite(
            tmp_path / "s.tif",
            planes(),
            imagej=True,
            metadata={"axes": "ZYX", "spacing": spacing, "unit": unit},
        )
        np.testing.assert_allclose(np.diff(read_stack(tmp_path / "s.tif").positions_um), um)

    @pytest.mark.parametrize("unit", ["pixel", "inch", "reference frame"])
    def test_in_a_unit_that_is_no_length(self, tmp_path, unit):
        tifffile.imwrite(
            tmp_path / "s.tif", planes(), imagej=True, metadata={"axes": "ZYX", "spacing": 2, "unit": unit}
        )
        with pytest.raises(StackError, match="give step_um"):
            read_stack(tmp_path / "s.tif")

    def test_unknown(self, tmp_path):
        tifffile.imwrite(tmp_path / "s.tif", planes(), metadata=None)
        with pytest.raises(StackError, match="s.tif does not say how far apart its planes are: give step_um"):
            read_stack(tmp_path / "s.tif")

    @pytest.mark.parametrize("step_um", [0, -1, math.nan, math.inf])
    def test_step_that_cannot_be(self, tmp_path, step_um):
        tifffile.imwrite(tmp_path / "s.tif", planes(), metadata=None)
        with pytest.raises(StackError, match="step_um must be positive"):
            read_stack(tmp_path / "s.tif", step_um=step_um)

    def test_what_the_caller_says_comes_first(self, tmp_path):
        path = tmp_path / "s.ome.tif"
        ome(path, planes(), PhysicalSizeZ=9.0)
        path.with_suffix(".json").write_text(json.dumps({"positions": [0, 1, 2, 3, 5]}))
        assert read_stack(path).positions_um[-1] == 5
        assert read_stack(path, step_um=2).positions_um[-1] == 8
        assert read_stack(path, step_um=2, positions_um=[1, 2, 3, 4, 7]).positions_um[-1] == 7


class TestPositions:
    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "s.tif"
        tifffile.imwrite(path, planes(), metadata=None)
        return path

    def test_are_sorted_and_focus_follows(self, path):
        path.with_suffix(".json").write_text(
            json.dumps({"positions": [3, -1, 10, 0.5, 4], "unit": "um", "focus_index": 2})
        )
        stack = read_stack(path)
        assert stack.positions_um.tolist() == [-1, 0.5, 3, 4, 10]
        assert order(stack) == [1, 3, 0, 4, 2]
        assert stack.focus_index == 4
        assert stack.unit == "um"

    def test_in_planes(self, path):
        path.with_suffix(".json").write_text(json.dumps({"positions": [0, 1, 2, 3, 4], "unit": "planes"}))
        assert read_stack(path).unit == "plane"
        assert read_stack(path, step_um=0.5).unit == "um"

    def test_of_a_label_without_positions(self, path):
        path.with_suffix(".json").write_text(json.dumps({"focus_index": 3}))
        assert read_stack(path, step_um=2).focus_index == 3

    @pytest.mark.parametrize("focus_index", [5, -1, "three"])
    def test_and_a_label_that_is_no_plane(self, path, focus_index):
        path.with_suffix(".json").write_text(json.dumps({"focus_index": focus_index}))
        with pytest.raises(StackError, match="focus_index"):
            read_stack(path, step_um=2)

    def test_in_a_file_that_is_not_json(self, path):
        path.with_suffix(".json").write_text("{positions: 1, 2}")
        with pytest.raises(StackError, match="s.json"):
            read_stack(path, step_um=2)

    def test_descending_ones_turn_the_stack(self, path):
        stack = read_stack(path, positions_um=[8, 6, 4, 2, 0])
        assert order(stack) == [4, 3, 2, 1, 0]

    @pytest.mark.parametrize(
        ("positions", "match"),
        [
            ([0, 1, 1, 2, 3], "all different"),
            ([0, 1, 2, 3, math.nan], "finite"),
            ([0, 1, 2], "5 planes but 3 positions"),
            ([[0, 1, 2, 3, 4]], "5 planes but 5 positions"),
        ],
    )
    def test_that_cannot_be(self, path, positions, match):
        with pytest.raises(StackError, match=match):
            read_stack(path, positions_um=positions)

    @given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20, unique=True), st.floats(-2e3, 2e3))
    def test_nearest_plane(self, positions, wanted):
        positions = np.sort(positions)
        stack = FocusStack("s", np.zeros((len(positions), 2, 2), np.uint8), positions)
        assert abs(positions[stack.plane_at(wanted)] - wanted) == np.abs(positions - wanted).min()


class TestFolder:
    @pytest.mark.parametrize("suffix", [".tif", ".TIFF", ".png"])
    @pytest.mark.parametrize("shape", [(12, 16), (12, 16, 3)])
    def test_in_natural_order(self, tmp_path, suffix, shape):
        frames = planes(12, shape, np.uint8)
        for number in np.random.default_rng(1).permutation(12):
            file = tmp_path / f"z{number}_8bit{suffix}"
            if suffix == ".png":
                cv2.imwrite(str(file), frames[number][..., ::-1] if len(shape) == 3 else frames[number])
            else:
                tifffile.imwrite(file, frames[number])
        (tmp_path / "notes.txt").write_text("not an image")
        np.testing.assert_array_equal(read_stack(tmp_path, step_um=1).frames, frames)

    def test_names_that_begin_unlike(self, tmp_path):
        for number, name in enumerate(["1.tif", "2.tif", "a.tif"]):
            tifffile.imwrite(tmp_path / name, planes()[number])
        assert order(read_stack(tmp_path, step_um=1)) == [0, 1, 2]

    def test_sixteen_bits_and_a_json_beside(self, tmp_path):
        folder = tmp_path / "stack"
        folder.mkdir()
        for number, frame in enumerate(planes(3)):
            cv2.imwrite(str(folder / f"{number}.png"), frame)
        (tmp_path / "stack.json").write_text(json.dumps({"positions": [0, 1.5, 4], "focus_index": 1}))
        stack = read_stack(folder)
        assert stack.frames.dtype == np.uint16
        assert stack.positions_um.tolist() == [0, 1.5, 4]
        assert stack.focus_index == 1
        assert stack.name == "stack"

    def test_empty(self, tmp_path):
        with pytest.raises(StackError, match="holds no images"):
            read_stack(tmp_path)

    def test_of_frames_unlike_each_other(self, tmp_path):
        tifffile.imwrite(tmp_path / "0.tif", planes()[0])
        tifffile.imwrite(tmp_path / "1.tif", planes(shape=(12, 17))[0])
        with pytest.raises(StackError, match=r"one size .*: 0.tif is \(12, 16\) uint16, 1.tif \(12, 17\)"):
            read_stack(tmp_path, step_um=1)

    def test_of_types_unlike_each_other(self, tmp_path):
        """An 8-bit frame among 16-bit ones would be 256 times too dark, and look like defocus."""
        tifffile.imwrite(tmp_path / "0.tif", planes()[0])
        tifffile.imwrite(tmp_path / "1.tif", planes(dtype=np.uint8)[0])
        with pytest.raises(StackError, match="1.tif"):
            read_stack(tmp_path, step_um=1)

    @pytest.mark.parametrize("suffix", ["tif", "png"])
    def test_with_a_file_that_is_no_image(self, tmp_path, suffix):
        for name in "01":
            (tmp_path / f"{name}.{suffix}").write_text("not an image")
        with pytest.raises(StackError, match=rf"0\.{suffix}"):
            read_stack(tmp_path, step_um=1)

    def test_of_one_image(self, tmp_path):
        tifffile.imwrite(tmp_path / "0.tif", planes()[0])
        with pytest.raises(StackError, match="at least 2 planes"):
            read_stack(tmp_path)

    def test_of_stacks(self, tmp_path):
        for name in "01":
            tifffile.imwrite(tmp_path / f"{name}.tif", planes(), metadata=None)
        with pytest.raises(StackError, match="0.tif"):
            read_stack(tmp_path, step_um=1)


class TestNotAStack:
    def test_missing(self, tmp_path):
        with pytest.raises(StackError, match="there is no focus stack at .*nowhere.tif"):
            read_stack(tmp_path / "nowhere.tif")

    @pytest.mark.parametrize("content", [b"", b"hello world", b"II*\x00\xff\xff\xff\xff"])
    def test_not_a_tiff(self, tmp_path, content):
        (tmp_path / "s.tif").write_bytes(content)
        with pytest.raises(StackError, match="s.tif"):
            read_stack(tmp_path / "s.tif", step_um=1)

    def test_cut_short(self, tmp_path):
        tifffile.imwrite(tmp_path / "s.tif", planes(shape=(120, 160)), metadata=None)
        whole = (tmp_path / "s.tif").read_bytes()
        (tmp_path / "s.tif").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(StackError, match="s: .* this one has 1"):
            read_stack(tmp_path / "s.tif", step_um=1)

    @pytest.mark.parametrize("step_um", [None, 1.0])
    def test_one_plane(self, tmp_path, step_um):
        tifffile.imwrite(tmp_path / "s.tif", planes()[0], metadata=None)
        with pytest.raises(StackError, match="at least 2 planes, this one has 1"):
            read_stack(tmp_path / "s.tif", step_um=step_um)

    def test_pages_of_unequal_size(self, tmp_path):
        with tifffile.TiffWriter(tmp_path / "s.tif") as tiff:
            tiff.write(np.zeros((12, 16), np.uint16), metadata=None)
            tiff.write(np.zeros((12, 20), np.uint16), metadata=None)
        with pytest.raises(StackError, match="one size"):
            read_stack(tmp_path / "s.tif", step_um=1)

    def test_shared_example(self, shared_stacks):
        path = next(
            path for path in sorted(shared_stacks.rglob("*.tif*")) if path.with_suffix(".json").is_file()
        )
        stack = read_stack(path)
        assert len(stack.frames) == len(stack.positions_um)
        assert (np.diff(stack.positions_um) > 0).all()
