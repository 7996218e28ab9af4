"""``refocus`` as a user runs it: files into files, runs into runs."""

import contextlib
import functools
import io
import json

import cv2
import numpy as np
import pytest
import tifffile
from bluesky import RunEngine
from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from refocusing import OPTICS, blobs, make_model

from bluesky_autofocus.catalog import open_catalog
from bluesky_autofocus.cli import _refocusing, main
from bluesky_autofocus.devices import replayed_instrument
from bluesky_autofocus.frames import install_frame_routing
from bluesky_autofocus.models.refocus import RefocusModel, UNetModel
from bluesky_autofocus.models.refocus._reblur import Explanation
from bluesky_autofocus.models.refocus.metrics import psnr_db
from bluesky_autofocus.simulation import FluorescentNuclei
from bluesky_autofocus.stacks import FocusStack
from bluesky_autofocus.widefield import Widefield

pytestmark = [
    pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic"),
]

SHAPE = (96, 128)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Return the file of a network that changes nothing."""
    path = tmp_path_factory.mktemp("weights") / "tiny.h5"
    make_model().save(path)
    return path


@pytest.fixture(scope="module")
def brightening(tmp_path_factory):
    """Return the file of a network that makes everything brighter."""
    path = tmp_path_factory.mktemp("weights") / "brightening.h5"
    make_model(arrays={"network.last.bias": np.array([0.05, 0.0])}).save(path)
    return path


@pytest.fixture
def far(monkeypatch):
    """Let every result be explained from 12 um."""
    monkeypatch.setattr(RefocusModel, "explained", lambda *_: Explanation(12.0, 0.01))


def run(*arguments):
    """Return the exit status, the lines of standard output read as JSON, and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(argument) for argument in arguments])
    return status, [json.loads(line) for line in out.getvalue().splitlines()], err.getvalue()


@pytest.fixture
def refocus(weights):
    return functools.partial(run, "refocus", "--weights", weights, "--json")


@pytest.fixture
def tiff(tmp_path):
    """Return the file of a frame that is in focus."""
    tifffile.imwrite(tmp_path / "frame.tif", blobs(SHAPE))
    return tmp_path / "frame.tif"


class TestFiles:
    def test_a_frame_in_focus(self, refocus, tiff, weights):
        status, (line,), _ = refocus(tiff)
        assert status == 0
        output = tiff.with_name("frame-refocused.tif")
        assert line.pop("defocus_um") <= 1.8 and 0 <= line.pop("mismatch") < 0.05
        assert line == {
            "method": "tiny",
            "model_hash": UNetModel.load(weights).model_hash,
            "file": str(tiff),
            "frame": 0,
            "output": str(output),
            "accepted": True,
            "reason": "still_sharp",
        }
        written = tifffile.imread(output)
        assert written.dtype == np.uint16
        np.testing.assert_array_equal(written, blobs(SHAPE))
        assert sorted(path.name for path in tiff.parent.iterdir()) == ["frame-refocused.tif", "frame.tif"]

    @pytest.mark.parametrize(("name", "large"), [("größe 5 µm.tif", True), ("細胞.tif", False)])
    def test_the_result_says_that_it_was_computed(self, refocus, tmp_path, monkeypatch, name, large):
        if large:
            monkeypatch.setattr(_refocusing, "LARGE_PX", 1)
        tifffile.imwrite(tmp_path / name, blobs(SHAPE))
        status, (line,), error = refocus(tmp_path / name)
        assert status == 0, error
        with tifffile.TiffFile(line["output"]) as written:
            said = written.pages[0].description
        assert said.startswith("computed from ") and line["model_hash"][:12] in said and "tiny" in said

    def test_a_frame_out_of_focus(self, brightening, tiff, far):
        status, (line,), _ = run("refocus", "--weights", brightening, "--json", tiff)
        assert (status, line["reason"], line["accepted"]) == (0, "ok", True)
        assert (line["defocus_um"], line["mismatch"]) == (12.0, 0.01)
        assert (tifffile.imread(line["output"]).astype(int) > blobs(SHAPE)).all()

    def test_each_page_is_a_frame(self, refocus, tmp_path):
        pages = np.stack([blobs(SHAPE), np.zeros(SHAPE, np.uint16), blobs(SHAPE, seed=1)])
        tifffile.imwrite(tmp_path / "pages.tif", pages, photometric="minisblack")
        status, lines, _ = refocus(tmp_path / "pages.tif")
        assert status == 1
        assert [line["frame"] for line in lines] == [0, 1, 2]
        assert [line["reason"] for line in lines] == ["still_sharp", "black", "still_sharp"]
        assert [line["accepted"] for line in lines] == [True, False, True]
        assert (lines[1]["defocus_um"], lines[1]["mismatch"]) == (None, None)
        np.testing.assert_array_equal(tifffile.imread(lines[0]["output"]), pages)

    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    def test_types_are_kept(self, refocus, tmp_path, dtype):
        tifffile.imwrite(tmp_path / "frame.tiff", blobs(SHAPE, dtype=dtype))
        status, (line,), _ = refocus(tmp_path / "frame.tiff")
        written = tifffile.imread(line["output"])
        assert status == 0 and written.dtype == dtype
        np.testing.assert_array_equal(written, blobs(SHAPE, dtype=dtype))

    def test_colour(self, refocus, tmp_path):
        """Red, green and blue, from a TIFF as from a PNG; the result is a TIFF."""
        frame = np.stack([blobs(SHAPE, seed, dtype=np.uint8) for seed in range(3)], axis=-1)
        tifffile.imwrite(tmp_path / "tiff.tif", frame, photometric="rgb")
        cv2.imwrite(str(tmp_path / "png.png"), frame[..., ::-1])
        status, lines, _ = refocus(tmp_path / "tiff.tif", tmp_path / "png.png")
        assert status == 0 and [line["reason"] for line in lines] == 2 * ["still_sharp"]
        for line in lines:
            with tifffile.TiffFile(line["output"]) as written:
                np.testing.assert_array_equal(written.asarray(), frame)
                assert written.pages[0].photometric.name == "RGB"

    def test_into_another_folder_with_its_uncertainty(self, refocus, tiff, tmp_path):
        folder = tmp_path / "out"
        folder.mkdir()
        status, (line,), _ = refocus(tiff, "--output", folder, "--sigma")
        assert status == 0 and line["output"] == str(folder / "frame-refocused.tif")
        assert sorted(path.name for path in folder.iterdir()) == ["frame-refocused.tif", "frame-sigma.tif"]
        sigma = tifffile.imread(folder / "frame-sigma.tif")
        assert sigma.dtype == np.float32 and sigma.shape == SHAPE and (sigma > 0).all()

    def test_for_a_person(self, brightening, weights, tiff, tmp_path, capsys, monkeypatch):
        black = tmp_path / "black.tif"
        tifffile.imwrite(black, np.zeros(SHAPE, np.uint16))
        assert main(["refocus", str(tiff), str(black), "--weights", str(weights)]) == 1
        assert capsys.readouterr().out.splitlines() == [
            f"{tiff} [0]: in focus, left as it was -> {tmp_path / 'frame-refocused.tif'}",
            f"{black} [0]: left as it was (black) -> {tmp_path / 'black-refocused.tif'}",
        ]
        monkeypatch.setattr(RefocusModel, "explained", lambda *_: Explanation(12.0, 0.01))
        assert main(["refocus", str(tiff), "--weights", str(brightening)]) == 0
        assert capsys.readouterr().out.startswith(f"{tiff} [0]: refocused from 12.0 um -> ")

    def test_a_camera_that_saturates_early(self, refocus, tmp_path):
        tifffile.imwrite(tmp_path / "full.tif", np.full(SHAPE, 4095, np.uint16))
        assert refocus(tmp_path / "full.tif")[1][0]["reason"] == "uniform"
        status, (line,), _ = refocus(tmp_path / "full.tif", "--full-scale", 4095)
        assert (status, line["reason"]) == (1, "saturated")

    @pytest.mark.parametrize(("size_um", "status"), [(0.656, 0), (0.33, 2)])
    def test_a_file_that_states_its_pixel_size(self, refocus, tmp_path, size_um, status):
        path = tmp_path / "frame.ome.tif"
        metadata = {"axes": "YX", "PhysicalSizeX": size_um, "PhysicalSizeXUnit": "µm"}
        tifffile.imwrite(path, blobs(SHAPE), ome=True, metadata=metadata)
        found, _, error = refocus(path)
        assert found == status
        said = f"{path}: as the file says, pixel_size_um is 0.33: tiny was made for 0.656"
        assert (said in error) == (status == 2)

    def test_optics_that_fit(self, refocus, tiff):
        optics = ("--pixel-size-um", 0.65, "--magnification", 20, "--na", 0.45, "--wavelength-um", 0.6)
        assert refocus(tiff, *optics)[0] == 0

    def test_what_is_no_frame(self, refocus, tmp_path):
        tifffile.imwrite(tmp_path / "small.tif", blobs((80, 60)))
        tifffile.imwrite(tmp_path / "deep.tif", blobs(SHAPE).astype(np.int32))
        tifffile.imwrite(tmp_path / "cut.tif", blobs(SHAPE), compression="zlib")
        content = (tmp_path / "cut.tif").read_bytes()
        (tmp_path / "cut.tif").write_bytes(content[: len(content) // 2])
        for name in ("text.tif", "text.png"):
            (tmp_path / name).write_text("no image")
        (tmp_path / "empty.tif").write_bytes(b"")
        for name, complaint in (
            ("missing.tif", "there is no file"),
            ("missing.png", "there is no file"),
            ("small.tif", "page 0: the frame has shape (80, 60): expected at least 64 pixels a side"),
            ("deep.tif", "page 0: the frame is of type int32: expected uint8, uint16 or float"),
            ("cut.tif", "cannot be read"),
            ("text.tif", "cannot be read"),
            ("empty.tif", "cannot be read"),
            ("text.png", "cannot be read as an image"),
        ):
            status, said, error = refocus(tmp_path / name)
            assert (status, said) == (2, []) and complaint in error and error.count("\n") == 1, error
            assert str(tmp_path / name) in error
            assert not (tmp_path / f"{name.split('.')[0]}-refocused.tif").exists()

    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            (("--defocus-um", 12), "--defocus-um is for a deconvolution: a network finds out by itself"),
            (("--pixel-size-um", 0.5), "pixel_size_um is 0.5: tiny was made for 0.656"),
            (("--na", 0.9), "numerical_aperture is 0.9: tiny was made for 0.45"),
            (("--full-scale", 0), "full_scale must be positive"),
            (("--output", "/nowhere/at/all"), "there is no folder /nowhere/at/all to write to"),
            (("--method", "wiener", "--defocus-um", 12), "--weights has no effect with --method wiener"),
            (("--weights", "/nowhere.h5"), "cannot read the model"),
        ],
    )
    def test_options_that_make_no_sense(self, refocus, tiff, options, complaint):
        status, said, error = refocus(tiff, *options)
        assert (status, said) == (2, []) and complaint in error and error.count("\n") == 1, error

    def test_colour_for_a_network_of_grey_frames(self, tmp_path):
        make_model(colour="grey").save(tmp_path / "grey.h5")
        frame = np.stack(3 * [blobs(SHAPE, dtype=np.uint8)], axis=-1)
        tifffile.imwrite(tmp_path / "rgb.tif", frame, photometric="rgb")
        status, _, error = run("refocus", "--weights", tmp_path / "grey.h5", tmp_path / "rgb.tif", "--json")
        assert status == 2 and "tiny expects (H, W): give one colour" in error


class TestDeconvolution:
    OPTIONS = ("--pixel-size-um", OPTICS.pixel_size_um, "--na", 0.45, "--wavelength-um", 0.46)

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _skimage(cls):
        pytest.importorskip("skimage")

    @pytest.fixture(scope="class")
    @classmethod
    def nuclei(cls):
        """Return a field 12 um from focus, and in focus."""
        field = FluorescentNuclei(3, (192, 192), Widefield(OPTICS, reach_um=14.0), heights_um=0.0)
        rng = np.random.default_rng(0)
        return [(200 + rng.poisson(2000 * field.image(z_um))).astype(np.uint16) for z_um in (12.0, 0.0)]

    @pytest.mark.parametrize("method", ["wiener", "richardson-lucy"])
    def test_it_is_sharper(self, nuclei, tmp_path, method):
        blurred, focus = nuclei
        tifffile.imwrite(tmp_path / "frame.tif", blurred)
        options = ("--method", method, "--defocus-um", 12, *self.OPTIONS)
        status, (line,), error = run("refocus", tmp_path / "frame.tif", "--json", *options)
        assert status == 0, error
        assert (line["method"], line["model_hash"], line["reason"]) == (method, "", "ok")
        assert (line["defocus_um"], line["mismatch"]) == (12.0, None)
        written = tifffile.imread(line["output"])
        assert written.dtype == np.uint16
        inner = slice(32, -32), slice(32, -32)
        assert psnr_db(written[inner], focus[inner]) > psnr_db(blurred[inner], focus[inner]) + 2

    def test_the_optics_are_those_of_the_default_model(self, nuclei, tmp_path, monkeypatch):
        monkeypatch.setattr(_refocusing, "load_model", lambda path: make_model())
        tifffile.imwrite(tmp_path / "frame.tif", nuclei[0])
        options = ("--method", "wiener", "--defocus-um", 12, "--json")
        (first, second) = (
            tifffile.imread(run("refocus", tmp_path / "frame.tif", *options, *more)[1][0]["output"])
            for more in ((), self.OPTIONS)
        )
        np.testing.assert_array_equal(first, second)

    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            ((), "--method wiener needs --defocus-um, got None"),
            (("--defocus-um", "nan"), "--method wiener needs --defocus-um, got nan"),
            (("--defocus-um", 60), "expected at least"),
            (("--defocus-um", 12, "--na", 1.2), "numerical_aperture is 1.2"),
        ],
    )
    def test_options_that_make_no_sense(self, tiff, options, complaint):
        options = ("--method", "wiener", *self.OPTIONS, *options)
        status, said, error = run("refocus", tiff, "--json", *options)
        assert (status, said) == (2, []) and complaint in error and error.count("\n") == 1, error


class TestLarge:
    @pytest.fixture(autouse=True)
    def _limit(self, monkeypatch):
        monkeypatch.setattr(_refocusing, "LARGE_PX", 120 * 120)

    @pytest.mark.parametrize(
        "written",
        [{}, {"compression": "zlib"}, {"tile": (32, 32)}, {"byteorder": ">"}, {"imagej": True}],
        ids=str,
    )
    def test_it_is_what_the_network_makes(self, brightening, tmp_path, monkeypatch, written):
        """The same as of a small image, but for that nothing is left as it was."""
        frame = blobs((160, 192))
        tifffile.imwrite(tmp_path / "frame.tif", frame, **written)
        network = ("refocus", "--weights", brightening, "--json", tmp_path / "frame.tif")
        status, (line,), error = run(*network)
        assert (status, line["accepted"], line["reason"]) == (0, True, "ok"), error
        assert (line["frame"], line["parts"], line["parts_refused"]) == (0, 1, 0)
        large = tifffile.imread(line["output"])
        assert large.dtype == np.uint16 and large.shape == frame.shape
        monkeypatch.setattr(_refocusing, "LARGE_PX", 1 << 26)
        monkeypatch.setattr(RefocusModel, "explained", lambda *_: Explanation(12.0, 0.01))
        assert run(*network)[1][0]["reason"] == "ok"
        np.testing.assert_array_equal(large, tifffile.imread(line["output"]))

    @pytest.mark.parametrize("compression", [None, "zlib"])
    def test_colour(self, refocus, tmp_path, compression):
        frame = np.stack([blobs((160, 192), seed, dtype=np.uint8) for seed in range(3)], axis=-1)
        tifffile.imwrite(tmp_path / "frame.tif", frame, photometric="rgb", compression=compression)
        status, (line,), _ = refocus(tmp_path / "frame.tif")
        assert (status, line["parts"]) == (0, 3)
        with tifffile.TiffFile(line["output"]) as written:
            np.testing.assert_allclose(written.asarray().astype(int), frame.astype(int), atol=1)
            assert written.pages[0].photometric.name == "RGB"

    def test_for_a_person(self, weights, tmp_path, capsys):
        tifffile.imwrite(tmp_path / "frame.tif", blobs((160, 192)))
        assert main(["refocus", str(tmp_path / "frame.tif"), "--weights", str(weights)]) == 0
        said = capsys.readouterr()
        assert said.out.startswith(f"{tmp_path / 'frame.tif'} [0]: refocused from ")
        assert "160/160" in said.err, "a bar on standard error"

    @pytest.mark.parametrize(
        ("frame", "reason", "parts"),
        [(np.zeros((160, 192), np.uint16), "empty", 0), (blobs((160, 192)), "unfamiliar", 1)],
    )
    def test_what_is_not_believed(self, tmp_path, frame, reason, parts):
        make_model(strangeness_limit=1e-9).save(tmp_path / "strange.h5")
        tifffile.imwrite(tmp_path / "frame.tif", frame)
        options = ("--weights", tmp_path / "strange.h5", "--json")
        status, (line,), _ = run("refocus", *options, tmp_path / "frame.tif")
        assert (status, line["accepted"], line["reason"], line["parts"]) == (1, False, reason, parts)

    def test_what_cannot_be_done(self, refocus, tmp_path):
        tifffile.imwrite(tmp_path / "pages.tif", np.stack(2 * [blobs((160, 192))]), photometric="minisblack")
        tifffile.imwrite(tmp_path / "frame.tif", blobs((160, 192)))
        tifffile.imwrite(tmp_path / "deep.tif", blobs((160, 192)).astype(np.int32))
        tifffile.imwrite(tmp_path / "cut.tif", blobs((160, 192)), compression="zlib")
        content = (tmp_path / "cut.tif").read_bytes()
        (tmp_path / "cut.tif").write_bytes(content[: len(content) // 2])
        for name, options, complaint in (
            ("pages.tif", (), "has 2 pages: expected one"),
            ("frame.tif", ("--sigma",), "--sigma is for images of up to"),
            ("deep.tif", (), "the frame is of type int32"),
            ("cut.tif", (), "cannot be read"),
        ):
            status, said, error = refocus(tmp_path / name, *options)
            assert (status, said) == (2, []) and complaint in error and error.count("\n") == 1, error
            assert str(tmp_path / name) in error
        options = ("--method", "wiener", "--defocus-um", 12, "--na", 0.45, "--json")
        status, _, error = run("refocus", tmp_path / "frame.tif", *options)
        assert status == 2 and "a deconvolution takes up to" in error

    def test_a_file_that_states_another_pixel_size(self, refocus, tmp_path):
        metadata = {"axes": "YX", "PhysicalSizeX": 0.33, "PhysicalSizeXUnit": "µm"}
        tifffile.imwrite(tmp_path / "frame.ome.tif", blobs((160, 192)), ome=True, metadata=metadata)
        status, said, error = refocus(tmp_path / "frame.ome.tif")
        assert (status, said) == (2, []) and "as the file says, pixel_size_um is 0.33" in error


class TestRuns:
    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory):
        return tmp_path_factory.mktemp("catalogue") / "data"

    @pytest.fixture(scope="class")
    @classmethod
    def uid(cls, folder):
        """Return the uid of a run of two streams: two frames in focus and a black one, and one alone."""
        frames = np.stack([blobs(SHAPE), blobs(SHAPE, seed=1), np.zeros(SHAPE, np.uint16)])
        with contextlib.closing(open_catalog(folder)) as catalog:
            run_engine = RunEngine()
            install_frame_routing(run_engine)
            catalog.subscribe(run_engine)
            camera, z = replayed_instrument(FocusStack("s", frames, np.arange(3.0)), catalog.frame_directory)

            @bpp.run_decorator()
            def plan():
                for stream, planes in (("primary", (0, 1, 2)), ("after", (0,))):
                    for plane in planes:
                        yield from bps.mv(z, plane)
                        yield from bps.trigger_and_read([camera, z], name=stream)

            (uid,) = run_engine(plan())
            run_engine(bpp.run_wrapper(bps.trigger_and_read([z])))
        return uid

    @pytest.fixture
    def of_run(self, refocus, folder):
        return functools.partial(refocus, "--catalog", folder)

    def test_its_frames(self, of_run, uid, folder):
        status, lines, error = of_run(uid[:8])
        assert status == 1, error
        assert {(line["run"], line["method"]) for line in lines} == {(uid, "tiny")}
        found = {(line["stream"], line["seq_num"]): line for line in lines}
        assert {key: line["reason"] for key, line in found.items()} == {
            ("primary", 1): "still_sharp",
            ("primary", 2): "still_sharp",
            ("primary", 3): "black",
            ("after", 1): "still_sharp",
        }
        assert found["primary", 3]["accepted"] is False and found["primary", 3]["defocus_um"] is None
        (computed,) = {line["computed_run"] for line in lines}
        with contextlib.closing(open_catalog(folder)) as catalog:
            run = catalog.client[computed]
            assert run.metadata["start"]["refocused_run"] == uid
            assert run.metadata["stop"]["num_events"] == {"left": 4}
        status, said, error = of_run(-1)
        assert (status, said) == (2, [])
        assert f"{computed[:8]} holds refocused frames: give the one that they are of, {uid[:8]}" in error

    def test_one_stream_of_frames_out_of_focus(self, brightening, uid, folder, tmp_path, far):
        tifffile.imwrite(tmp_path / "frame.tif", blobs(SHAPE))
        options = ("--weights", brightening, "--catalog", folder, "--stream", "after", "--json")
        status, (of_file, line), error = run("refocus", uid, tmp_path / "frame.tif", *options)
        assert status == 0, error
        assert (line["stream"], line["seq_num"], line["reason"]) == ("after", 1, "ok")
        assert (line["defocus_um"], of_file["defocus_um"]) == (12.0, 12.0)
        with contextlib.closing(open_catalog(folder)) as catalog:
            image = catalog.client[line["computed_run"]]["refocused"]["refocused_camera_image"].read()
        np.testing.assert_array_equal(image[0], tifffile.imread(of_file["output"]))

    def test_for_a_person(self, weights, uid, folder, capsys):
        options = ["--weights", str(weights), "--catalog", str(folder), "--stream", "after"]
        assert main(["refocus", uid, *options]) == 0
        assert capsys.readouterr().out.startswith("after 1: in focus, left as it was -> run ")

    def test_what_there_is_not(self, of_run, uid):
        for name, options, complaint in (
            ("nonesuch", (), "there is no run nonesuch in the catalogue"),
            (uid, ("--stream", "before"), f"run {uid[:8]} has no stream 'before': it has"),
            ("2", (), "has no frames"),
        ):
            status, said, error = of_run(name, *options)
            assert (status, said) == (2, []) and complaint in error and error.count("\n") == 1, error
