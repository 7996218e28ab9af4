"""Pairs of planes out of focus and in focus: of recorded runs, and of files laid out as those of BBBC006."""

import itertools
import math
import shutil
from uuid import UUID

import numpy as np
import pytest
import tifffile
from bluesky import RunEngine
from bluesky import plans as bp
from ophyd import Signal

from bluesky_autofocus.catalog import open_catalog
from bluesky_autofocus.dataset import DatasetError, FieldStack, RecordedPairs, bbbc006_pairs, recorded_pairs
from bluesky_autofocus.dataset import _focal_pairs as focal_pairs
from bluesky_autofocus.devices import SimulatedAxis, SimulatedCamera
from bluesky_autofocus.frames import install_frame_routing
from bluesky_autofocus.plans import collect_focal_stacks, record_labels
from bluesky_autofocus.records import FocusLabel

pytestmark = [
    pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic"),
]

PIXELS = np.arange(12).reshape(3, 4)
TRUE_FOCUS_UM = (0.2, 1.3, -0.7, 4.4, 30.0, math.nan)
"""Of the fields; stacks reach from -4 to 4 um, in steps of 1."""


def grey(field, z_um):
    """Return the frame of a field at a position: no two are equal."""
    return (1000 * (field + 1) + 10 * (z_um + 20) + PIXELS).astype(np.uint16)


def coloured(field, z_um):
    return np.stack([20 * field + 60 * c + z_um + PIXELS for c in range(3)], axis=-1).astype(np.uint8)


class Microscope:
    """Axes and cameras; the field at x = 10 n um shows what `grey` and `coloured` say of n."""

    def __init__(self, folder):
        self.x, self.y, self.z = (SimulatedAxis(name=name, limits=(-100, 100)) for name in "xyz")
        microscope = self

        def camera(name, made, shape=(3, 4), **options):
            def render():
                return made(round(microscope.x.position / 10), microscope.z.position)

            return SimulatedCamera(
                name=name, render=render, frame_directory=folder, frame_shape=shape, **options
            )

        class Focus(Signal):
            def get(self, **kwargs):
                return TRUE_FOCUS_UM[round(microscope.x.position / 10)]

        self.focus = Focus(name="focus")
        self.camera = camera("camera", grey)
        self.colour = camera("colour", coloured, (3, 4, 3), dtype=np.uint8)
        self.wide = camera("wide", lambda *at: np.tile(grey(*at), (1, 2)), (3, 8))
        self.floating = camera("floating", lambda *at: grey(*at).astype(np.float32), dtype=np.float32)
        self.run = RunEngine()
        install_frame_routing(self.run)

    def collect(self, fields, *, camera=None, z_um=(-4.0, 4.0), step_um=1.0, **options):
        plan = collect_focal_stacks(
            [camera or self.camera],
            self.z,
            stage=(self.x, self.y),
            positions=[(10.0 * field, 0.0) for field in fields],
            sample="numbers",
            z_um=z_um,
            step_um=step_um,
            **options,
        )
        return self.run(plan)[0]

    def label(self, uid, *labels):
        self.run(record_labels(labels, labels_of=uid, labeller="Ada"))


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    opened = open_catalog(tmp_path_factory.mktemp("pairs"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def microscope(catalog):
    made = Microscope(catalog.frame_directory)
    catalog.subscribe(made.run)
    return made


@pytest.fixture(scope="module")
def db(catalog, microscope):
    return catalog.client


@pytest.fixture(scope="module")
def known(microscope):
    """Record six fields whose focus the microscope knows, of two of them that it is of no use."""
    return microscope.collect(range(6), truth=microscope.focus)


@pytest.fixture(scope="module")
def labelled(microscope):
    """Record two fields in colour whose focus a person says: at 1 and at 0 um."""
    uid = microscope.collect(range(2), camera=microscope.colour, z_um=(-2.0, 2.0))
    microscope.label(uid, FocusLabel(0, 3, 1.0), FocusLabel(1, 2, 0.0))
    return uid


@pytest.fixture(scope="module")
def in_memory(db, known):
    """Return the pairs of `known`, and what was said of the progress."""
    done = []
    return recorded_pairs(db, [known], modality="brightfield", progress=lambda *n: done.append(n)), done


class TestRecorded:
    def test_planes_are_counted_from_the_one_in_focus(self, known, in_memory):
        pairs, done = in_memory
        assert isinstance(pairs, RecordedPairs)
        assert not isinstance(pairs.planes, np.memmap)
        # fields 0, 1 and 2 have -4 to 4, -5 to 3 and -3 to 5; field 3 has -8 to 0, which would cost more
        assert pairs.defocus_um.tolist() == [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]
        assert pairs.planes.shape == (3, 7, 3, 4)
        assert pairs.planes.dtype == pairs.targets.dtype == np.uint16
        assert pairs.field.tolist() == [0, 1, 2]
        assert pairs.modality == "brightfield"
        for number, in_focus_um in enumerate((0, 1, -1)):
            assert np.array_equal(pairs.targets[number], grey(number, in_focus_um))
            for plane, frame in enumerate(pairs.planes[number]):
                assert np.array_equal(frame, grey(number, in_focus_um + pairs.defocus_um[plane]))
        assert pairs.left_out == {
            "focus lies outside the stack": [f"{known[:8]}/4"],
            "labelled as unusable": [f"{known[:8]}/5"],
            "with only the planes -8 to 0 from focus": [f"{known[:8]}/3"],
        }
        assert done == [(1, 3), (2, 3), (3, 3)]
        assert str(pairs) == (
            "3 stacks of 3 fields, brightfield: 7 planes of 4 x 3 pixels, -3 to 3 um from focus; "
            "left out: 1 focus lies outside the stack, 1 labelled as unusable, "
            "1 with only the planes -8 to 0 from focus"
        )

    def test_an_axis_that_runs_downwards(self, db, known):
        pairs = recorded_pairs(db, [known], modality="brightfield", axis_sign=-1)
        assert pairs.defocus_um.tolist() == [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]
        assert np.array_equal(pairs.targets[1], grey(1, 1))
        for plane, frame in enumerate(pairs.planes[1]):
            assert np.array_equal(frame, grey(1, 1 - pairs.defocus_um[plane]))
        assert "with only the planes 0 to 8 from focus" in pairs.left_out

    def test_planes_that_are_asked_for(self, db, known):
        pairs = recorded_pairs(db, [known], modality="brightfield", planes=(4, -3))
        assert pairs.defocus_um.tolist() == [4.0, -3.0]
        assert pairs.planes[:, :, 0, 0].tolist() == [[1240, 1170], [3230, 3160]]
        assert pairs.left_out["with only the planes -5 to 3 from focus"] == [f"{known[:8]}/1"]
        taken, kept_out = pairs.split(np.array([1]))
        assert (taken.field.tolist(), kept_out.field.tolist()) == ([0], [1])

    def test_each_colour_is_an_entry(self, db, labelled):
        pairs = recorded_pairs(db, [labelled], modality="brightfield", person_only=True)
        # -3 to 1 and -2 to 2
        assert pairs.defocus_um.tolist() == [-2.0, -1.0, 0.0, 1.0]
        assert pairs.field.tolist() == [0, 0, 0, 1, 1, 1]
        assert pairs.planes.shape == (6, 4, 3, 4)
        assert pairs.planes.dtype == np.uint8
        for entry, (field, colour) in enumerate(itertools.product(range(2), range(3))):
            in_focus_um = (1, 0)[field]
            assert np.array_equal(pairs.targets[entry], coloured(field, in_focus_um)[..., colour])
            for plane, defocus_um in enumerate(pairs.defocus_um):
                expected = coloured(field, in_focus_um + defocus_um)[..., colour]
                assert np.array_equal(pairs.planes[entry, plane], expected)
        green = recorded_pairs(db, [labelled], modality="brightfield", channel=1)
        assert green.field.tolist() == [0, 1]
        assert np.array_equal(green.planes, pairs.planes[[1, 4]])
        assert np.array_equal(green.targets, pairs.targets[[1, 4]])
        with pytest.raises(DatasetError, match="there is no channel 3: the frames have 3, counted from 0"):
            recorded_pairs(db, [labelled], modality="brightfield", channel=3)

    def test_a_field_of_several_runs_is_one(self, db, known, microscope):
        options = {"collection": "twice", "truth": microscope.focus, "z_um": (0.0, 2.0)}
        first, second = (microscope.collect(fields, **options) for fields in ((0, 1), (0,)))
        pairs = recorded_pairs(db, [first, second, known, first[:8]], modality="brightfield", planes=[1])
        assert pairs.field.tolist() == [0, 1, 0, 2, 3, 4]

    def test_what_most_stacks_are_unlike(self, db, known, microscope):
        scans = {
            "coarse": bp.scan([microscope.camera], microscope.z, -4, 4, 5),
            "even": bp.scan([microscope.camera], microscope.z, -3, 3, 7),
            "wide": bp.scan([microscope.wide], microscope.z, -1, 1, 3),
            "floating": bp.scan([microscope.floating], microscope.z, -1, 1, 3),
        }
        uids = {}
        microscope.x.set(0).wait(1)
        for name, plan in scans.items():
            (uids[name],) = microscope.run(plan)
            microscope.label(uids[name], FocusLabel(0, 0, 0.4))
        pairs = recorded_pairs(db, [known, *uids.values()], modality="brightfield")
        assert pairs.left_out == {
            "focus lies outside the stack": [f"{known[:8]}/4"],
            "labelled as unusable": [f"{known[:8]}/5"],
            "with float32 frames of shape (3, 4)": [f"{uids['floating'][:8]}/0"],
            "with uint16 frames of shape (3, 8)": [f"{uids['wide'][:8]}/0"],
            "with planes 2 um apart": [f"{uids['coarse'][:8]}/0"],
            "with only the planes -8 to 0 from focus": [f"{known[:8]}/3"],
        }
        assert pairs.field.tolist() == [0, 1, 2, 3]
        assert np.array_equal(pairs.planes[3], [grey(0, z_um) for z_um in range(-3, 4)])

    def test_frames_in_files(self, db, known, in_memory, tmp_path, monkeypatch):
        expected, _ = in_memory
        done = []
        options = {"modality": "brightfield", "progress": lambda *n: done.append(n)}
        there = recorded_pairs(db, [known], folder=tmp_path / "given", **options)
        assert done == [(1, 3), (2, 3), (3, 3)]
        again = recorded_pairs(db, [known], folder=tmp_path / "given", **options)
        assert len(done) == 3
        monkeypatch.setattr(focal_pairs, "MEMORY_GIB", 1e-9)
        monkeypatch.setenv("BLUESKY_AUTOFOCUS_CACHE", str(tmp_path / "cache"))
        large = recorded_pairs(db, [known], **options)
        assert len(list((tmp_path / "cache").glob("recorded-*/planes.npy"))) == 1
        for pairs in (there, again, large):
            assert isinstance(pairs.planes, np.memmap)
            assert not pairs.planes.flags.writeable
            for name in ("planes", "targets", "defocus_um", "field"):
                assert np.array_equal(getattr(pairs, name), getattr(expected, name)), name
        # the other way round they are other files
        down = recorded_pairs(db, [known], axis_sign=-1, **options)
        assert np.array_equal(down.planes, expected.planes[:, ::-1])
        assert len(done) == 9

    def test_bad_input(self, db, known, labelled):
        with pytest.raises(ValueError, match="axis_sign is 0: expected 1 or -1"):
            recorded_pairs(db, [known], modality="brightfield", axis_sign=0)
        for planes in ((), (1, 1)):
            with pytest.raises(ValueError, match="expected one or more, all different"):
                recorded_pairs(db, [known], modality="brightfield", planes=planes)
        with pytest.raises(DatasetError, match="refocusing from: 6 not labelled"):
            recorded_pairs(db, [known], modality="brightfield", person_only=True)
        with pytest.raises(DatasetError, match="1 with only the planes -3 to 1 from focus, 1 with only"):
            recorded_pairs(db, [labelled], modality="brightfield", planes=(0, 9))
        with pytest.raises(DatasetError, match="no runs were given"):
            recorded_pairs(db, [], modality="brightfield")
        with pytest.raises(DatasetError, match="there is no run '01234567'"):
            recorded_pairs(db, ["01234567"], modality="brightfield")


@pytest.mark.parametrize(
    ("positions_um", "focus_um", "found"),
    [
        ((-2.0, -1.0, 0.0, 1.0), -0.6, (1, 1.0)),
        ((-2.0, -1.0, 0.0, 1.0), 1.5, (3, 1.0)),
        ((-2.0, -1.0, 0.0, 1.0), 1.51, "focus lies outside the stack"),
        ((-2.0, -1.0, 0.0, 1.0), -2.5, (0, 1.0)),
        ((-2.0, -1.0, 0.0, 1.0), math.nan, "focus lies outside the stack"),
        ((0.0, 0.95, 2.0), 0.47, (0, 1.0)),
        # within the largest step there is no place that is too far from both
        ((0.0, 0.95, 2.0), 1.475, (2, 1.0)),
        ((0.0, 0.8, 2.0), 0.8, "planes unevenly spaced"),
        ((0.0, 0.0, 0.0), 0.0, "planes unevenly spaced"),
        ((0.0,), 0.0, "of one plane"),
    ],
)
def test_the_target_is_the_plane_nearest_to_focus(positions_um, focus_um, found):
    places = tuple(range(len(positions_um)))
    stack = FieldStack(0, places, positions_um, places, None)
    assert focal_pairs._focused(stack, FocusLabel(0, 0, focus_um)) == found


@pytest.mark.parametrize(
    ("reaches", "shared"),
    [
        ([(-4, 4)], (-4, 4)),
        ([(-4, 4), (-4, 4), (-5, 3)], (-4, 3)),
        ([(-7, 7)] * 9 + [(-3, 11)], (-7, 7)),
        ([(-1, 0), (0, 1)], (-1, 0)),
        ([(-20, 0), (-1, 3), (-1, 3)], (-1, 3)),
    ],
)
def test_the_planes_that_make_the_most_frames_are_shared(reaches, shared):
    low, high = shared
    found = focal_pairs._shared([range(one, other + 1) for one, other in reaches])
    assert (found[0], found[-1]) == (low, high)


WELLS = ("a01", "a02", "b24", "p24")
FIELDS = [f"{well}_s{site}" for well in WELLS for site in (1, 2)]
NUMBERS = [0, 1, 2, 3, 94, 95, 766, 767]


def nuclei(field, z, channel=1):
    """Return the frame of a field's number at a plane."""
    return (1000 * channel + 100 * z + 10 * (FIELDS.index(field)) + PIXELS).astype(np.uint16)


@pytest.fixture
def collection(tmp_path):
    """Write four wells of planes 14 to 18, both channels, as the archives of BBBC006 unpack."""
    names = (str(UUID(int=number)) for number in itertools.count(1 << 96))
    folder = tmp_path / "BBBC006"
    for z in range(14, 19):
        plane = folder / f"BBBC006_v1_images_z_{z:02d}"
        plane.mkdir(parents=True)
        for field, channel in itertools.product(FIELDS, (1, 2)):
            file = plane / f"mcf-z-stacks-03212011_{field}_w{channel}{next(names)}.tif"
            tifffile.imwrite(file, nuclei(field, z, channel), compression="lzw")
    (folder / "BBBC006_v1_counts.csv").write_text("of the ground truth")
    (plane / "._mcf-z-stacks-03212011_a01_s1_w1.tif").write_text("of another operating system")
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("BLUESKY_AUTOFOCUS_CACHE", str(folder))
    return folder


def file_of(collection, field, z, channel=1):
    (found,) = collection.rglob(f"*z_{z:02d}/mcf-*_{field}_w{channel}*.tif")
    return found


class TestBBBC006:
    def test_planes_of_a_field_are_found_by_well_and_site(self, collection, cache):
        done = []
        pairs = bbbc006_pairs(collection, progress=lambda *n: done.append(n))
        # z = 14 is above focus
        assert pairs.defocus_um.tolist() == [4.0, 2.0, 0.0, -2.0, -4.0]
        assert pairs.field.tolist() == NUMBERS
        assert pairs.modality == "fluorescence"
        assert pairs.planes.shape == (8, 5, 3, 4)
        assert pairs.planes.dtype == np.uint16
        for number, field in enumerate(FIELDS):
            assert np.array_equal(pairs.targets[number], nuclei(field, 16))
            assert np.array_equal(pairs.planes[number], [nuclei(field, z) for z in range(14, 19)])
        assert pairs.left_out == {}
        assert done == [(number, 8) for number in range(1, 9)]
        assert isinstance(pairs.planes, np.memmap)

    def test_planes_channel_and_number_of_fields_that_are_asked_for(self, collection, cache):
        pairs = bbbc006_pairs(collection, planes=(18, 15), most_fields=3, channel=2)
        assert pairs.defocus_um.tolist() == [-4.0, 2.0]
        assert pairs.field.tolist() == [0, 94, 767]
        for number, field in enumerate(("a01_s1", "b24_s1", "p24_s2")):
            assert np.array_equal(pairs.targets[number], nuclei(field, 16, 2))
            assert np.array_equal(pairs.planes[number], [nuclei(field, 18, 2), nuclei(field, 15, 2)])
        assert len(bbbc006_pairs(collection, most_fields=100)) == 8

    def test_fields_that_lack_a_plane_are_left_out(self, collection, cache):
        file_of(collection, "a02_s1", 17).unlink()
        file_of(collection, "b24_s2", 14).unlink()
        file_of(collection, "b24_s2", 16).unlink()
        file_of(collection, "p24_s1", 15, channel=2).unlink()
        pairs = bbbc006_pairs(collection)
        assert pairs.left_out == {"without z = 17": ["a02_s1"], "without z = 14, 16": ["b24_s2"]}
        assert pairs.field.tolist() == [0, 1, 3, 94, 766, 767]
        assert np.array_equal(pairs.targets[3], nuclei("b24_s1", 16))
        # of planes that are not asked for nothing is lacking
        assert len(bbbc006_pairs(collection, planes=[15, 18])) == 7
        for field in FIELDS[:2] + FIELDS[3:]:
            file_of(collection, field, 17).rename(collection / f"{field}.tif")
        (collection / "a01_s1.tif").rename(
            collection / "BBBC006_v1_images_z_17" / "mcf-z-stacks-03212011_a03_s1_w1.tif"
        )
        with pytest.raises(DatasetError, match=r"all planes: 7 without z = 17, 1 without z = 14, 15, 16, 18"):
            bbbc006_pairs(collection)

    def test_the_copies_are_read_again_only_if_a_file_changes(self, collection, cache):
        done = []
        first = bbbc006_pairs(collection, progress=lambda *n: done.append(n))
        again = bbbc006_pairs(str(collection), progress=lambda *n: done.append(n))
        assert len(done) == 8
        assert np.array_equal(again.planes, first.planes)
        bbbc006_pairs(collection, cache=cache.parent / "other", progress=lambda *n: done.append(n))
        assert len(done) == 16
        tifffile.imwrite(file_of(collection, "a01_s2", 15), nuclei("a01_s1", 14), compression="lzw")
        changed = bbbc006_pairs(collection, progress=lambda *n: done.append(n))
        assert len(done) == 24
        assert np.array_equal(changed.planes[1, 1], nuclei("a01_s1", 14))
        # in place of the old ones
        assert len(list(cache.rglob("planes.npy"))) == 1

    def test_a_file_that_cannot_be_read_is_named_and_leaves_no_copy(self, collection, cache):
        file = file_of(collection, "b24_s1", 15)
        whole = file.read_bytes()
        for broken in (b"", b"II*\0", whole[:-8]):
            file.write_bytes(broken)
            with pytest.raises(DatasetError, match=f"{file.name} cannot be read: "):
                bbbc006_pairs(collection)
            assert not [one for one in cache.iterdir() if one.is_dir()]
        tifffile.imwrite(file, nuclei("b24_s1", 15)[:2])
        with pytest.raises(DatasetError, match=rf"{file.name} is uint16 \(2, 4\), others uint16 \(3, 4\)"):
            bbbc006_pairs(collection)
        file.write_bytes(whole)
        assert np.array_equal(bbbc006_pairs(collection).planes[4, 1], nuclei("b24_s1", 15))

    def test_what_an_end_in_the_middle_left_is_no_copy(self, collection, cache):
        class Killed(BaseException):
            pass

        def progress(done, _):
            if done == 3:
                raise Killed

        with pytest.raises(Killed):
            bbbc006_pairs(collection, progress=progress)
        assert not list(cache.rglob("*.npy"))
        # of a process that was killed
        whole = np.array(bbbc006_pairs(collection).planes)
        (kept,) = (one for one in cache.iterdir() if one.is_dir())
        kept.rename(f"{kept}.partial")
        assert np.array_equal(bbbc006_pairs(collection).planes, whole)
        assert [one for one in cache.iterdir() if one.is_dir()] == [kept]

    def test_there_must_be_room(self, collection, cache, monkeypatch):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 100, 0))
        with pytest.raises(DatasetError, match=r"take 0\.0 GiB, but in .*cache only 0\.0 GiB are free"):
            bbbc006_pairs(collection)

    def test_archives_that_windows_unpacked(self, collection, cache):
        for plane in list(collection.glob("BBBC006_v1_images_z_*")):
            plane.rename(collection / "moved")
            plane.mkdir()
            (collection / "moved").rename(plane / plane.name)
        assert np.array_equal(bbbc006_pairs(collection).targets[5], nuclei("b24_s2", 16))

    def test_other_folders(self, collection, cache, tmp_path):
        expected = r"does not hold BBBC006: expected folders BBBC006_v1_images_z_00 to .*_33 .*; found "
        with pytest.raises(DatasetError, match=expected + "no such folder"):
            bbbc006_pairs(tmp_path / "nowhere")
        (tmp_path / "empty").mkdir()
        with pytest.raises(DatasetError, match=expected + "nothing"):
            bbbc006_pairs(tmp_path / "empty")
        for z in range(7):
            (tmp_path / "empty" / f"BBBC006_v1_images_z_{z:02d}.zip").touch()
        with pytest.raises(DatasetError, match=expected + r"BBBC006_v1_images_z_00\.zip, .* and 2 more"):
            bbbc006_pairs(tmp_path / "empty")
        with pytest.raises(DatasetError, match=r"lacks BBBC006_v1_images_z_03: found z = 14, 15, 16, 17, 18"):
            bbbc006_pairs(collection, planes=(3, 14))
        twice = file_of(collection, "a01_s2", 16)
        shutil.copy(twice, twice.with_name(twice.name.replace(".tif", "0.tif")))
        with pytest.raises(DatasetError, match=r"two files in .*_16 are of a01_s2, channel 1: mcf"):
            bbbc006_pairs(collection)
        for file in collection.glob("*/*_w1*"):
            file.unlink()
        with pytest.raises(DatasetError, match=r"no file in .*z_14 is of channel 1: expected folders"):
            bbbc006_pairs(collection)
        for z in (14, 15, 17, 18):
            shutil.rmtree(collection / f"BBBC006_v1_images_z_{z}")
        with pytest.raises(DatasetError, match="has no plane out of focus: found z = 16 only"):
            bbbc006_pairs(collection, channel=2)
        (collection / "BBBC006_v1_images_z_16").rename(collection / "BBBC006_v1_images_z_15")
        with pytest.raises(DatasetError, match=r"lacks BBBC006_v1_images_z_16: .* z = 16 is in focus"):
            bbbc006_pairs(collection, channel=2)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"channel": 3}, "channel is 3: expected 1"),
            ({"most_fields": 0}, "most_fields is 0: expected 1 or more"),
            ({"planes": (1, 1)}, "expected one or more, all different"),
            ({"planes": ()}, "expected one or more, all different"),
        ],
    )
    def test_bad_input(self, collection, options, said):
        with pytest.raises(ValueError, match=said):
            bbbc006_pairs(collection, **options)
