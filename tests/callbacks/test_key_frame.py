"""The readings of planes that belong together, from documents alone."""
# ruff: noqa: N803 - every bluesky user calls it RE

import contextlib
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from ophyd import Component as Cpt
from ophyd import Device, Signal

from bluesky_autofocus.callbacks import AnalysisError, KeyFrameAnalysis, analyse
from bluesky_autofocus.catalog import open_catalog
from bluesky_autofocus.defocus import ModelMismatchError
from bluesky_autofocus.devices import SimulatedAxis
from bluesky_autofocus.frames import read_frame
from bluesky_autofocus.models.key_frame import KeyFrameEstimate, Scan
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.plans import coarse_fine_focus
from bluesky_autofocus.records import Reason

# tiled's migration tool reads its own configuration in an old way
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic")

OPTICS = LightOptics()
SCANS = (Scan("coarse", (0.9, 1.1), 1.0, (3, 5), 1), Scan("fine", (0.2, 0.3), 0.25, (5, 9), 3))


class Objective(Device):
    numerical_aperture = Cpt(Signal, value=0.5, kind="normal")
    wavelength_um = Cpt(Signal, value=0.53, kind="normal")
    pixel_size_um = Cpt(Signal, value=0.3, kind="config")
    magnification = Cpt(Signal, value=20.0, kind="normal")
    refractive_index = Cpt(Signal, value=1.0, kind="normal")


class Place(Device):
    """What the stubs record of each plane."""

    operation = Cpt(Signal, value="first", kind="normal")
    position_um = Cpt(Signal, value=0.0, kind="normal")
    spacing_um = Cpt(Signal, value=1.0, kind="normal")
    planes = Cpt(Signal, value=3, kind="normal")
    last = Cpt(Signal, value=False, kind="normal")
    axis_sign = Cpt(Signal, value=1, kind="normal")


class Centre:
    """Says that the focus is 0.2 um above the middle of the planes, and notes what it was shown."""

    model_hash = "beef"
    parameters = {"kind": "centre"}

    def __init__(self) -> None:
        self.shown: list[tuple] = []
        self.reason = Reason.OK

    def check(self, optics) -> None:
        if optics != OPTICS:
            raise ModelMismatchError(f"made for NA 0.5, not for {optics.numerical_aperture}")

    def scan_of(self, spacing_um, n_planes):
        for scan in SCANS:
            if scan.spacing_um[0] <= spacing_um <= scan.spacing_um[1] and n_planes <= scan.planes[1]:
                return scan
        raise ModelMismatchError(f"{n_planes} planes {spacing_um:g} um apart")

    def estimate(self, frames, spacing_um, *, mask=None):
        positions = [round(float(frame[0, 0]) / 100 - 50, 3) for frame in frames]
        self.shown.append((positions, spacing_um, mask))
        focus_um = (len(frames) - 1) * spacing_um / 2 + 0.2
        accepted = self.reason is Reason.OK
        return KeyFrameEstimate(focus_um, 0.05, 1, (), (0.0, 0.0), 2, accepted, self.reason)


@pytest.fixture
def model():
    return Centre()


@pytest.fixture
def analysis(RE, model):
    made = KeyFrameAnalysis(model)
    RE.subscribe(made)
    return made


@pytest.fixture
def place():
    return Place(name="scan")


@pytest.fixture
def objective():
    return Objective(name="objective")


@pytest.fixture
def camera(make_camera, place):
    """Return a camera whose frames say in a pixel where they were taken."""
    noise = np.random.default_rng(5).integers(1000, 2000, (16, 16)).astype(np.uint16)

    def render():
        frame = noise.copy()
        frame[0, 0] = round(100 * (place.position_um.get() + 50))
        return frame

    return make_camera(render=render, frame_shape=(16, 16))


@pytest.fixture
def show(RE, camera, objective, place, analysis):
    """Return a function that takes frames of planes in a run, and returns the readings of `analysis`.

    Each plane is (position, last), or that and what else is to be recorded of it.
    """

    def show(*planes, detectors=None, judge=analysis):
        readings = []

        @bpp.run_decorator()
        def plan():
            for position_um, last, *others in planes:
                for key, value in {"position_um": position_um, "last": last, **dict(*others)}.items():
                    getattr(place, key).put(value)
                yield from bps.trigger_and_read(detectors or [camera, objective, place], name="planes")
                yield from bps.wait_for([lambda: judge.settled("planes")])
                readings.append(judge.reading("planes"))

        RE(plan())
        return readings

    return show


COARSE = [(-1.0, False), (0.0, False), (1.0, True)]
FINE = {"spacing_um": 0.25, "planes": 5}


def fine(*positions, last):
    return [(one, one == last, FINE) for one in positions]


def reasons(readings):
    return [str(reading.reason) for reading in readings]


class TestTogether:
    def test_the_last_plane_has_its_defocus(self, show, model):
        readings = show(*COARSE)
        assert reasons(readings) == ["incomplete", "incomplete", "ok"]
        assert [reading.accepted for reading in readings] == [False, False, True]
        assert np.isnan([reading.value for reading in readings[:2]]).all()
        last = readings[-1]
        assert (last.value, last.sigma, last.unit) == (pytest.approx(0.8), 0.05, "um")
        assert [reading.seq_num for reading in readings] == [1, 2, 3]
        assert model.shown == [([-1.0, 0.0, 1.0], 1.0, None)]

    def test_whichever_is_the_last(self, show, model):
        *_, last = show((0.0, False), (1.0, False), (-1.0, True))
        assert last.value == pytest.approx(-1.2)
        assert model.shown[0][0] == [-1.0, 0.0, 1.0]

    def test_an_axis_that_runs_downwards(self, show, model):
        """The model sees the planes upwards; the reading too is how far up the plane lies."""
        planes = [(position, last, {"axis_sign": -1}) for position, last in COARSE]
        assert show(*planes)[-1].value == pytest.approx(-1.2)
        assert model.shown[0][0] == [1.0, 0.0, -1.0]

    def test_a_scan_that_walks_on(self, show, model):
        readings = show(*COARSE, (2.0, True), (3.0, True), (4.0, True))
        assert reasons(readings)[2:] == 4 * ["ok"]
        assert [len(positions) for positions, _, _ in model.shown] == [3, 4, 5, 5]
        assert model.shown[-1][0] == [0.0, 1.0, 2.0, 3.0, 4.0], "no more than the model takes"

    def test_coarse_planes_take_part_in_the_fine_scan(self, show, model):
        readings = show(*COARSE, *fine(-0.5, -0.25, 0.25, 0.5, last=0.5))
        assert reasons(readings)[3:] == [*3 * ["incomplete"], "ok"]
        assert model.shown[1][:2] == ([-0.5, -0.25, 0.0, 0.25, 0.5], 0.25)
        assert readings[-1].value == pytest.approx(0.3)

    def test_they_may_be_a_little_off(self, show, model):
        show(*COARSE, *fine(-0.46, -0.21, 0.29, 0.54, last=0.54))
        assert model.shown[1][0] == [-0.46, -0.21, 0.0, 0.29, 0.54]

    def test_a_row_with_a_gap_is_incomplete(self, show, model):
        readings = show(*fine(-0.5, -0.25, 0.25, 0.5, last=0.5))
        assert reasons(readings) == 4 * ["incomplete"]
        assert model.shown == []

    def test_a_plane_between_those_of_the_row_does_not_fit(self, show, model):
        readings = show((-1.0, False), (0.4, False), (1.0, True))
        assert reasons(readings) == 3 * ["incomplete"]

    def test_another_operation_begins_anew(self, show, model):
        second = [(position, last, {"operation": "second"}) for position, last in COARSE[1:]]
        readings = show(*COARSE[:2], *second)
        assert reasons(readings) == 4 * ["incomplete"], "the plane at -1 is that of the first operation"
        again = [(one, last, {"operation": "third"}) for one, last in COARSE]
        assert show(*again)[-1].reason == "ok"

    def test_another_run_begins_anew(self, show, model):
        show(*COARSE[:2])
        assert reasons(show(COARSE[2])) == ["incomplete"]

    def test_a_plane_that_is_exposed_again_counts_once(self, show, model):
        assert reasons(show(COARSE[0], COARSE[0], *COARSE[1:]))[-1] == "ok"
        assert model.shown[0][0] == [-1.0, 0.0, 1.0]

    def test_two_streams_at_once(self, RE, camera, objective, place, analysis):
        @bpp.run_decorator()
        def plan():
            for position, last in COARSE:
                place.position_um.put(position)
                place.last.put(last)
                for stream in ("one", "other"):
                    yield from bps.trigger_and_read([camera, objective, place], name=stream)

        RE(plan())
        assert analysis.reading("one").reason == analysis.reading("other").reason == "ok"

    @pytest.mark.parametrize("reason", [Reason.EDGE, Reason.UNCERTAIN, Reason.UNFAMILIAR])
    def test_what_the_model_refuses(self, show, model, reason):
        model.reason = reason
        last = show(*COARSE)[-1]
        assert (last.accepted, last.reason) == (False, reason)
        assert last.value == pytest.approx(0.8), "the sign tells the side"

    @pytest.mark.parametrize(("grey", "reason"), [(0, "black"), (65535, "saturated"), (700, "uniform")])
    def test_a_frame_that_shows_nothing(self, show, camera, model, grey, reason):
        render = camera.render
        camera.render = lambda: np.full((16, 16), grey, np.uint16) if next(numbers) == 1 else render()
        numbers = iter(range(10))
        readings = show(*COARSE)
        assert reasons(readings)[:2] == ["incomplete", reason]
        assert not readings[1].accepted

    @pytest.mark.parametrize(
        ("options", "reason"), [({"full_scale": 1100.0}, "saturated"), ({"dark_level": 3000.0}, "black")]
    )
    def test_full_scale_and_dark_level(self, RE, model, show, options, reason):
        narrow = KeyFrameAnalysis(model, **options)
        RE.subscribe(narrow)
        assert reasons(show(*COARSE, judge=narrow)) == 3 * [reason]

    def test_the_mask_is_handed_on(self, RE, model, show):
        mask = np.ones((16, 16), bool)
        masked = KeyFrameAnalysis(model, mask=mask, name="masked")
        RE.subscribe(masked)
        show(*COARSE, judge=masked)
        assert any(given is mask for _, _, given in model.shown)
        assert (masked.parameters["mask"], masked.parameters["model"]) == ("array", {"kind": "centre"})
        assert masked.model_hash == "beef"

    def test_on_a_thread(self, RE, model, show):
        with ThreadPoolExecutor(1) as executor:
            slow = KeyFrameAnalysis(model, executor=executor)
            RE.subscribe(slow)
            assert reasons(show(*COARSE, judge=slow)) == ["incomplete", "incomplete", "ok"]


class TestErrors:
    def test_no_scan_is_recorded(self, show, camera, objective):
        with pytest.raises(AnalysisError, match=r"scan_operation, scan_position_um.*scan_axis_sign\).*focus"):
            show(*COARSE, detectors=[camera, objective])

    def test_one_key_is_missing(self, show, camera, objective, place):
        others = [getattr(place, name) for name in place.component_names if name != "last"]
        with pytest.raises(AnalysisError, match=r"belongs \(scan_last\): planes are compared"):
            show(*COARSE, detectors=[camera, objective, *others])

    def test_no_optics_are_recorded(self, RE, show, camera, place, model):
        with pytest.raises(AnalysisError, match="no document says the numerical_aperture of the objective"):
            show(*COARSE, detectors=[camera, place])
        told = KeyFrameAnalysis(model, optics=OPTICS)
        RE.subscribe(told)
        assert show(*COARSE, detectors=[camera, place], judge=told)[-1].reason == "ok"
        assert told.parameters["optics"]["numerical_aperture"] == 0.5

    def test_other_optics(self, show, objective):
        objective.numerical_aperture.put(0.75)
        with pytest.raises(AnalysisError, match="failed: made for NA 0.5, not for 0.75"):
            show(*COARSE)

    def test_a_scan_that_the_model_does_not_know(self, show, analysis):
        with pytest.raises(AnalysisError, match="failed: 3 planes 2 um apart"):
            show((0.0, True, {"spacing_um": 2.0}))
        with pytest.raises(ModelMismatchError, match="3 planes 2 um apart"):
            analysis.check_scan(2.0, 3)
        analysis.check_scan(1.0, 3)

    def test_a_colour_frame(self, RE, make_camera, objective, place, analysis, show):
        camera = make_camera("colour", frame_shape=(4, 5, 3))
        with pytest.raises(AnalysisError, match=r"expected a grey frame, got one of shape \(4, 5, 3\)"):
            show(*COARSE, detectors=[camera, objective, place])


def test_memory_of_a_finished_run_is_let_go(RE, model, show, camera):
    frames = []

    def fetch(resource, row):
        frame = read_frame(resource, row).copy()
        frames.append(weakref.ref(frame))
        return frame

    analysis = KeyFrameAnalysis(model, fetch_frame=fetch)
    RE.subscribe(analysis)
    show(*COARSE, judge=analysis)
    gc.collect()
    assert len(frames) == 3
    assert [frame() for frame in frames] == [None, None, None]
    assert analysis.reading("planes").reason == "ok", "the reading stays"


def test_a_replay_reads_the_same(RE, tmp_path, model, analysis, camera, objective, documents):
    """Of what the stub exposed, from the catalogue, by an analysis that has just been made."""
    axis = SimulatedAxis(name="z", limits=(-40.0, 40.0), position_um=0.4)
    noise = camera.render()

    def render():
        frame = noise.copy()
        frame[0, 0] = round(100 * (axis.load_um + 50))
        return frame

    camera.render = render
    with contextlib.closing(open_catalog(tmp_path / "data")) as catalog:
        catalog.subscribe(RE)

        @bpp.run_decorator()
        def plan():
            for _ in range(2):
                yield from coarse_fine_focus(
                    [camera, objective], axis, analysis=analysis, fine_um=(-0.5, -0.25, 0.0, 0.25, 0.5)
                )

        RE(plan())
        run = catalog.client[-1]
        replayed = analyse(run, KeyFrameAnalysis(Centre()))["focus_coarse_fine"]
        live = documents.events("reading_key_frame")
    keys = [f"key_frame_{name}" for name in ("seq_num", "reason", "value", "sigma")]
    said = [tuple(str(one[key]) for key in keys) for one in live]
    assert [(str(o.seq_num), str(o.reason), str(o.value), str(o.sigma)) for o in replayed] == said
    assert len(said) == 14
    assert [one.accepted for one in replayed].count(True) == 4
