"""Frames that are refocused while a run goes on or afterwards, and the run that the results go to."""
# ruff: noqa: N803 - every bluesky user calls it RE

import json
import math
import threading

import event_model
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky import plan_stubs as bps
from bluesky import plans as bp
from bluesky import preprocessors as bpp
from refocusing import OPTICS, Sharpener, make_model

from bluesky_autofocus.callbacks import Analysis, AnalysisError, LiveRefocus, analyse
from bluesky_autofocus.callbacks import _refocus as refocus_module
from bluesky_autofocus.callbacks._computed_run import ComputedRun
from bluesky_autofocus.callbacks._light import known_optics
from bluesky_autofocus.catalog import open_catalog
from bluesky_autofocus.devices import Objective, replayed_instrument
from bluesky_autofocus.frames import FrameCache, install_frame_routing, read_frame
from bluesky_autofocus.models.refocus import Refocused
from bluesky_autofocus.models.refocus._reblur import Explanation
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.records import Reading, Reason
from bluesky_autofocus.simulation import FluorescentNuclei
from bluesky_autofocus.stacks import FocusStack
from bluesky_autofocus.widefield import Widefield

pytestmark = [
    pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic"),
]

PLANES_UM = np.arange(-8.0, 9.0, 4.0)
KEYS = {"of_stream", "of_seq_num", "defocus_um", "mismatch"}


@pytest.fixture(scope="module")
def stack():
    """Return nuclei at five distances from focus; the middle frame is black."""
    nuclei = FluorescentNuclei(2, (96, 128), Widefield(OPTICS, reach_um=12.0))
    rng = np.random.default_rng(0)
    frames = np.stack([300 + rng.poisson(2000 * nuclei.image(z_um)) for z_um in PLANES_UM])
    frames[2] = 0
    return FocusStack("nuclei", frames.astype(np.uint16), PLANES_UM)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    opened = open_catalog(tmp_path_factory.mktemp("catalogue") / "data")
    yield opened
    opened.close()


class Computed:
    """Takes the documents of computed runs where no catalogue is needed, and shows what is in them."""

    def __init__(self):
        self.documents = []

    def __call__(self, name, doc):
        self.documents.append((name, doc))

    def named(self, name):
        return [doc for found, doc in self.documents if found == name]

    def values(self, stream, key):
        descriptors = {doc["uid"] for doc in self.named("descriptor") if doc["name"] == stream}
        return [doc["data"][key] for doc in self.named("event") if doc["descriptor"] in descriptors]

    def frames(self, key="refocused_camera_image"):
        resources = {doc["uid"]: doc for doc in self.named("stream_resource") if doc["data_key"] == key}
        return np.stack(
            [
                read_frame(resources[doc["stream_resource"]], doc["indices"]["start"])
                for doc in self.named("stream_datum")
                if doc["stream_resource"] in resources
            ]
        )


@pytest.fixture
def computed():
    return Computed()


@pytest.fixture
def live(RE, computed, tmp_path):
    """Return a function that makes what refocuses, subscribed."""

    def make(refocuser=None, **options):
        made = LiveRefocus(refocuser or Sharpener(), computed, tmp_path / "frames", **options)
        RE.subscribe(made)
        return made

    return make


@pytest.fixture
def camera_and_z(stack, tmp_path):
    return replayed_instrument(stack, tmp_path / "frames")


@pytest.fixture
def scan(RE, camera_and_z):
    """Return a function that records the planes of the stack, and gives the uid of the run."""
    camera, z = camera_and_z

    def scan(*more, planes_um=PLANES_UM, streams=("primary",)):
        @bpp.run_decorator()
        def plan():
            for stream in streams:
                for z_um in planes_um:
                    yield from bps.mv(z, z_um)
                    yield from bps.trigger_and_read([camera, z, *more], name=stream)

        return RE(plan())[0]

    return scan


def expected(stack, *planes):
    """Return what the refocuser makes of planes of the stack."""
    return np.stack([Sharpener().refocus(stack.frames[n]).frame for n in planes])


@pytest.fixture(scope="module")
def recorded(catalog, stack):
    """Return the uid of a run of two streams that was refocused while it went on, and what did that."""
    run_engine = RunEngine()
    install_frame_routing(run_engine)
    catalog.subscribe(run_engine)
    camera, z = replayed_instrument(stack, catalog.frame_directory)
    made = LiveRefocus(Sharpener(), catalog.recorder(), catalog.frame_directory)
    run_engine.subscribe(made)

    @bpp.run_decorator(md={"sample": "slide 3"})
    def plan():
        for stream, planes_um in (("focus", PLANES_UM), ("primary", PLANES_UM[:1])):
            for z_um in planes_um:
                yield from bps.mv(z, z_um)
                yield from bps.trigger_and_read([camera, z], name=stream)

    (uid,) = run_engine(plan())
    made.wait(30)
    return uid, made


class TestInTheCatalogue:
    @pytest.fixture(scope="class")
    @classmethod
    def run(cls, recorded, catalog):
        """Return the computed run."""
        return catalog.client[recorded[1].runs[0]]

    @pytest.fixture(scope="class")
    @classmethod
    def later(cls, recorded, catalog):
        """Return the run that is computed afterwards, and its readings."""
        uid, made = recorded
        readings = analyse(catalog.client[uid], made)
        assert len(made.runs) == 2
        return catalog.client[made.runs[1]], readings

    def test_a_run_of_its_own(self, recorded, run):
        uid, made = recorded
        start, stop = (run.metadata[name] for name in ("start", "stop"))
        assert start["computed"] is True and start["refocused_run"] == uid
        assert [start[key] for key in ("plan_name", "refocuser", "model_hash", "sample")] == [
            "refocus",
            "sharpener",
            "beef",
            "slide 3",
        ]
        assert json.loads(start["parameters"]) == made.parameters
        assert made.parameters == {
            "name": "refocus",
            "refocuser": "sharpener",
            "judge": None,
            "gain": 2.0,
            "offset": None,
        }
        assert "bluesky-autofocus" in start["versions"]
        assert stop["exit_status"] == "success" and stop["num_events"] == {"refocused": 5, "left": 1}

    def test_what_came_out(self, run, stack):
        data = run["refocused"].read()
        assert set(data) == KEYS | {"refocused_camera_image", "sigma_camera_image"}
        assert data["of_stream"].values.tolist() == 4 * ["focus"] + ["primary"]
        assert data["of_seq_num"].values.tolist() == [1, 2, 4, 5, 1]
        assert data["mismatch"].values.tolist() == 5 * [0.25]
        means = stack.frames[[0, 1, 3, 4, 0]].mean(axis=(1, 2)) / 100
        np.testing.assert_allclose(data["defocus_um"].values, means, rtol=1e-6)
        images = np.asarray(run["refocused"]["refocused_camera_image"].read())
        assert images.dtype == np.uint16
        np.testing.assert_array_equal(images, expected(stack, 0, 1, 3, 4, 0))
        sigma = np.asarray(data["sigma_camera_image"])
        assert sigma.dtype == np.float16 and sigma.shape == images.shape and (sigma == 3).all()

    def test_what_was_left(self, run):
        data = run["left"].read()
        assert set(data) == KEYS | {"reason", "note"}
        assert [data[key].values.tolist() for key in ("of_stream", "of_seq_num", "reason", "note")] == [
            ["focus"],
            [3],
            ["black"],
            [""],
        ]
        assert np.isnan(data["defocus_um"].values).all() and np.isnan(data["mismatch"].values).all()

    def test_its_frames_are_in_files_of_their_own(self, recorded, run, catalog):
        uid, _ = recorded
        folder = catalog.frame_directory
        assert sorted(path.name for path in (folder / run.metadata["start"]["uid"]).iterdir()) == [
            "refocused-refocused_camera_image.h5",
            "refocused-sigma_camera_image.h5",
        ]
        assert sorted(path.name for path in (folder / uid).iterdir()) == [
            "focus-camera_image.h5",
            "primary-camera_image.h5",
        ]
        assert not list((catalog.folder / "spool").rglob("*.jsonl")), "all of it is in the catalogue"

    def test_afterwards_it_is_the_same(self, run, later):
        again, readings = later
        assert again.metadata["start"]["uid"] != run.metadata["start"]["uid"]
        for key in ("refocused_run", "refocuser", "model_hash", "parameters", "computed"):
            assert again.metadata["start"][key] == run.metadata["start"][key]
        now, then = (one["refocused"].read() for one in (run, again))
        for key in KEYS | {"refocused_camera_image", "sigma_camera_image"}:
            # the order of the streams is not that of the experiment
            order = np.lexsort([then["of_seq_num"], then["of_stream"]])
            np.testing.assert_array_equal(now[key].values, then[key].values[order])
        assert again["left"].read()["reason"].values.tolist() == ["black"]
        assert {stream: [str(one.reason) for one in found] for stream, found in readings.items()} == {
            "focus": ["ok", "ok", "black", "ok", "ok"],
            "primary": ["ok"],
        }

    def test_the_recorded_run_is_not_touched(self, recorded, catalog, stack, later):
        run = catalog.client[recorded[0]]
        assert sorted(run) == ["focus", "primary"] and "computed" not in run.metadata["start"]
        data = run["focus"].read()
        assert not [key for key in data if "refocus" in key or "sigma" in key]
        np.testing.assert_array_equal(data["camera_image"], stack.frames)


def test_only_some_streams(live, scan, computed):
    made = live(streams=["primary"])
    scan(streams=("focus", "primary"), planes_um=PLANES_UM[:2])
    made.wait(30)
    assert computed.values("refocused", "of_stream") == ["primary", "primary"]
    assert "left" not in [doc["name"] for doc in computed.named("descriptor")]


def test_two_runs_one_after_the_other(live, scan, computed, stack):
    made = live(Sharpener(delay_s=0.05))
    uids = [scan(planes_um=[-8.0]), scan(planes_um=[8.0, -8.0])]
    made.wait(30)
    assert [doc["refocused_run"] for doc in computed.named("start")] == uids
    assert [doc["uid"] for doc in computed.named("start")] == made.runs
    assert [doc["num_events"] for doc in computed.named("stop")] == [{"refocused": 1}, {"refocused": 2}]
    np.testing.assert_array_equal(computed.frames(), expected(stack, 0, 4, 0))


def test_a_run_without_frames_has_no_such_run(RE, live, camera_and_z, computed):
    made = live()
    RE(bp.count([camera_and_z[1]], 2))
    made.wait(30)
    assert (made.runs, computed.documents) == ([], [])


def test_readings_are_there_for_a_plan_that_wants_them(RE, live, camera_and_z):
    made, found = live(), []

    @bpp.run_decorator()
    def plan():
        yield from bps.trigger_and_read([camera_and_z[0]], name="focus")
        yield from bps.wait_for([lambda: made.settled("focus")])
        found.append(made.reading("focus"))

    RE(plan())
    made.wait(30)
    assert (found[0].unit, found[0].accepted, found[0].reason) == ("um", True, Reason.OK)
    assert found[0].value > 0 and found[0].seq_num == 1


class TestChosen:
    class Mean(Analysis):
        """Accepts frames that are bright on average."""

        def analyse_exposure(self, frame, recorded):
            assert recorded["camera_mean"] == pytest.approx(frame.mean())
            return Reading("", float(frame.mean()), accepted=bool(frame.mean() > 100), reason=Reason.OK)

    def test_by_what_the_judge_does_not_accept(self, live, scan, computed):
        """Only the black one is looked at, and that cannot be refocused."""
        made = live(judge=self.Mean("mean"))
        scan()
        made.wait(30)
        assert computed.values("left", "of_seq_num") == [1, 2, 3, 4, 5]
        assert computed.values("left", "reason") == 2 * ["still_sharp"] + ["black"] + 2 * ["still_sharp"]
        (start,) = computed.named("start")
        assert json.loads(start["parameters"])["judge"] == {"name": "mean"}

    def test_by_what_is_said_of_its_readings(self, live, scan, computed, stack):
        means = stack.frames.mean(axis=(1, 2))
        limit = float(np.median(means[[0, 1, 3, 4]]))
        made = live(judge=self.Mean("mean"), blurred=lambda reading: reading.value > limit)
        scan()
        made.wait(30)
        chosen = [n for n, mean in enumerate(means, 1) if mean > limit]
        assert len(chosen) == 2 and computed.values("refocused", "of_seq_num") == chosen
        assert computed.values("left", "of_seq_num") == sorted({1, 2, 3, 4, 5} - set(chosen))
        assert set(computed.values("left", "reason")) == {"still_sharp"}

    def test_a_judge_is_needed(self, live):
        with pytest.raises(ValueError, match="give a judge, too"):
            live(blurred=lambda reading: True)


class TestNotRefocused:
    @pytest.fixture
    def left(self, computed):
        """Return a function that gives number, reason and note of the frames that were left."""
        return lambda: [computed.values("left", key) for key in ("of_seq_num", "reason", "note")]

    def test_frames_of_another_kind(self, RE, live, documents, left, tmp_path, computed):
        """The experiment goes on, and the record says why there is no result."""
        colours = FocusStack("rgb", np.full((2, 20, 30, 3), 9, np.uint8), np.arange(2.0))
        camera, z = replayed_instrument(colours, tmp_path / "frames")
        made = live()
        RE(bp.list_scan([camera], z, [0, 1]))
        made.wait(30)
        assert documents.named("stop")[0]["exit_status"] == "success"
        note = "the frame has shape (20, 30, 3): expected (H, W)"
        assert left() == [[1, 2], 2 * ["unfamiliar"], [note, note]]
        assert computed.named("stop")[0]["num_events"] == {"left": 2}

    def test_optics_that_do_not_fit(self, live, scan, left):
        refocuser = Sharpener()
        made = live(refocuser)
        scan(Objective(name="objective", optics=LightOptics(pixel_size_um=0.33)), planes_um=[-8.0])
        made.wait(30)
        assert left() == [[1], ["unfamiliar"], ["pixel_size_um is 0.33: sharpener was made for 0.656"]]
        assert refocuser.checked == [
            {"pixel_size_um": 0.33, "magnification": 20.0, "numerical_aperture": 0.5}
        ], "not the wavelength, which differs from stain to stain"

    def test_optics_in_the_configuration(self, live, scan, left):
        objective = Objective(name="objective", optics=LightOptics(pixel_size_um=0.33))
        for name in objective.component_names:
            getattr(objective, name).kind = "config"
        made = live()
        scan(objective, planes_um=[-8.0])
        made.wait(30)
        assert left()[2] == ["pixel_size_um is 0.33: sharpener was made for 0.656"]

    def test_optics_that_fit(self, live, scan, left, computed):
        made = live()
        scan(Objective(name="objective", optics=OPTICS), planes_um=[-8.0])
        made.wait(30)
        assert left()[0] == [] and computed.values("refocused", "of_seq_num") == [1]

    def test_optics_of_several_objectives(self, live, scan, left):
        objectives = [Objective(name=name, optics=OPTICS) for name in ("one", "other")]
        made = live()
        scan(*objectives, planes_um=[-8.0])
        made.wait(30)
        assert left()[2] == ["the frame was recorded with several objectives: one, other"]

    def test_frames_of_two_sizes(self, RE, live, camera_and_z, left, computed, stack, tmp_path):
        """One stream of documents holds frames of one kind; the others are told of."""
        camera, _ = camera_and_z
        small = FocusStack("small", stack.frames[:, :64, :64], PLANES_UM)
        other, _ = replayed_instrument(small, tmp_path / "frames")

        @bpp.run_decorator()
        def plan():
            for stream, one in (("large", camera), ("small", other), ("again", camera)):
                yield from bps.trigger_and_read([one], name=stream)

        made = live()
        RE(plan())
        made.wait(30)
        assert computed.values("refocused", "of_stream") == ["large", "again"]
        np.testing.assert_array_equal(computed.frames(), expected(stack, 0, 0))
        assert computed.values("left", "of_stream") == ["small"]
        assert "'(96, 128) of uint16'" in left()[2][0]

    def test_what_nobody_expected(self, live, scan, documents, computed, stack, caplog):
        """Neither the run nor the other frames suffer."""

        class Broken(Sharpener):
            def refocus(self, frame):
                if (frame == stack.frames[1]).all():
                    raise RuntimeError("out of memory")
                return super().refocus(frame)

        made = live(Broken())
        scan()
        made.wait(30)
        for one in (documents, computed):
            assert one.named("stop")[0]["exit_status"] == "success"
        assert computed.values("refocused", "of_seq_num") == [1, 4, 5]
        np.testing.assert_array_equal(computed.frames(), expected(stack, 0, 3, 4))
        assert "frame 2 of primary could not be refocused" in caplog.text and "out of memory" in caplog.text


class TestManyFrames:
    def test_more_than_wait_in_memory(self, live, scan, computed, stack, monkeypatch):
        """They are read from the file that the camera still writes to."""
        monkeypatch.setattr("bluesky_autofocus.frames.recent_frames", FrameCache(max_bytes=1))
        go, fetched = threading.Event(), []
        planes = [0, 1, 3, 4] * 2

        class Waiting(Sharpener):
            def refocus(self, frame):
                assert go.wait(60)
                return super().refocus(frame)

        def fetch(resource, row):
            fetched.append((threading.current_thread().name.startswith("refocus"), row))
            if row == 6:
                go.set()  # and the file is still open
            return read_frame(resource, row)

        made = live(Waiting(), fetch_frame=fetch)
        uid = scan(planes_um=PLANES_UM[planes])
        made.wait(60)
        assert computed.named("start")[0]["refocused_run"] == uid
        assert computed.values("refocused", "of_seq_num") == list(range(1, 9))
        np.testing.assert_array_equal(computed.frames(), expected(stack, *planes))
        again = [row for on_thread, row in fetched if on_thread]
        assert again[:2] == [refocus_module._IN_MEMORY, 5], "the others had been kept"

    def test_waiting(self, live, scan, computed):
        made = live(Sharpener(delay_s=0.3))
        made.wait(0)  # there was no run yet
        scan(planes_um=[-8.0, -4.0])
        with pytest.raises(TimeoutError):
            made.wait(0.01)
        made.wait(30)
        assert computed.named("stop")[0]["num_events"] == {"refocused": 2}
        made.wait()


class TestWithAModel:
    def test_frames_in_focus_are_left(self, live, scan, computed, tmp_path):
        model = make_model()
        model.save(tmp_path / "tiny.h5")
        made = live(model)
        scan(Objective(name="objective", optics=OPTICS))
        made.wait(60)
        assert computed.values("left", "reason") == 2 * ["still_sharp"] + ["black"] + 2 * ["still_sharp"]
        assert np.nanmax(computed.values("left", "defocus_um")) <= 0.5 * OPTICS.depth_of_field_um
        (start,) = computed.named("start")
        assert start["model_hash"] == model.model_hash and len(start["model_hash"]) == 64
        assert json.loads(start["parameters"])["tile_px"] == model.tile_px

    def test_frames_out_of_focus_are_refocused(self, live, scan, computed, stack, monkeypatch):
        model = make_model(arrays={"network.last.bias": np.array([0.05, 0.0])})
        monkeypatch.setattr(type(model), "explained", lambda *_: Explanation(12.0, 0.01))
        made = live(model)
        scan(planes_um=[-8.0, 8.0])
        made.wait(60)
        assert computed.values("refocused", "defocus_um") == [12.0, 12.0]
        assert (computed.frames() > stack.frames[[0, 4]]).all()
        assert np.isfinite(computed.frames("sigma_camera_image")).all()

    def test_other_optics(self, live, scan, computed):
        made = live(make_model())
        scan(Objective(name="objective", optics=LightOptics(pixel_size_um=0.33)), planes_um=[-8.0])
        made.wait(30)
        (note,) = computed.values("left", "note")
        assert note.startswith("pixel_size_um is 0.33: tiny was made for 0.656")


class TestComputedRun:
    @pytest.fixture
    def documents(self):
        return []

    @pytest.fixture
    def run(self, documents, tmp_path):
        return ComputedRun(lambda name, doc: documents.append((name, doc)), tmp_path, {"sample": "x"})

    def test_its_documents_are_as_bluesky_wants_them(self, run, documents):
        for n in range(3):
            frame = np.full((4, 5, 3) if n == 2 else (4, 5), n, np.uint8)
            stream = "colour" if n == 2 else "grey"
            run.add(stream, {"text": "a", "flag": True, "n": n, "x": math.nan}, {"image": frame}, {"x": "um"})
        run.add("scalars", {"n": 1})
        run.close("done")
        for name, doc in documents:
            event_model.schema_validators[event_model.DocumentNames[name]].validate(doc)
        names = [name for name, _ in documents]
        assert names[0] == "start" and names[-1] == "stop" and names.count("descriptor") == 3
        start, stop = documents[0][1], documents[-1][1]
        assert (start["computed"], start["sample"], start["uid"]) == (True, "x", run.uid)
        assert (stop["run_start"], stop["exit_status"], stop["reason"]) == (run.uid, "success", "done")
        assert stop["num_events"] == {"grey": 2, "colour": 1, "scalars": 1}
        grey = next(doc for name, doc in documents if name == "descriptor")["data_keys"]
        assert {key: said["dtype"] for key, said in grey.items()} == {
            "text": "string",
            "flag": "boolean",
            "n": "integer",
            "x": "number",
            "image": "array",
        }
        assert grey["x"]["units"] == "um" and grey["image"]["shape"] == [4, 5]

    def test_each_frame_is_in_its_file_before_its_event(self, documents, tmp_path):
        def record(name, doc):
            documents.append((name, doc))
            resources = {doc["uid"]: doc for name, doc in documents if name == "stream_resource"}
            if name == "event":
                datum = next(doc for name, doc in reversed(documents) if name == "stream_datum")
                assert datum["seq_nums"] == {"start": doc["seq_num"], "stop": doc["seq_num"] + 1}
                frame = read_frame(resources[datum["stream_resource"]], datum["indices"]["start"])
                assert (frame == doc["data"]["n"]).all()

        run = ComputedRun(record, tmp_path, {})
        for n in range(4):
            run.add("grey", {"n": n}, {"image": np.full((4, 5), n, np.uint8)})
        run.close()
        assert len([name for name, _ in documents if name == "event"]) == 4

    @pytest.mark.parametrize(
        ("values", "frame"),
        [
            ({"n": 1}, np.zeros((4, 6), np.uint8)),
            ({"n": 1}, np.zeros((4, 5), np.uint16)),
            ({"n": 1.0}, np.zeros((4, 5), np.uint8)),
            ({"m": 1}, np.zeros((4, 5), np.uint8)),
            ({"n": 1, "m": 1}, np.zeros((4, 5), np.uint8)),
        ],
    )
    def test_a_stream_is_of_one_kind(self, run, documents, values, frame):
        run.add("grey", {"n": 0}, {"image": np.zeros((4, 5), np.uint8)})
        before = len(documents)
        with pytest.raises(ValueError, match="stream 'grey' has .* got"):
            run.add("grey", values, {"image": frame})
        assert len(documents) == before
        run.add("grey", {"n": 1}, {"image": np.ones((4, 5), np.uint8)})
        run.close()
        assert documents[-1][1]["num_events"] == {"grey": 2}

    def test_one_that_failed(self, run, documents):
        run.close("the disk is full", failed=True)
        stop = documents[-1][1]
        assert (stop["exit_status"], stop["reason"]) == ("fail", "the disk is full")


class TestKnownOptics:
    def test_those_that_are_recorded(self):
        assert known_optics({}) == {}
        assert known_optics({"camera_mean": 3.0}) == {}
        recorded = {"lens_numerical_aperture": 0.5, "lens_pixel_size_um": 1, "lens_magnification": None}
        assert known_optics(recorded) == {"numerical_aperture": 0.5, "pixel_size_um": 1.0}

    def test_of_several_objectives(self):
        with pytest.raises(AnalysisError, match="several objectives: a, b"):
            known_optics({"a_numerical_aperture": 0.5, "b_numerical_aperture": 0.5})


def test_a_refocused_frame_is_one():
    """What the helper gives is what the protocol asks for."""
    made = Sharpener().refocus(np.arange(20, dtype=np.uint16).reshape(4, 5))
    assert isinstance(made, Refocused) and made.accepted
