"""The focus of the tiles of the frame, from the documents of searches, live and recorded."""
# ruff: noqa: N803 - every bluesky user calls it RE

import math
import time

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky import preprocessors as bpp
from ophyd import Component as Cpt
from ophyd import Device, Signal
from tilted import Tilted

from bluesky_autofocus.callbacks import (
    AnalysisError,
    FocusMapAnalysis,
    FocusMapRecord,
    SharpnessAnalysis,
    analyse,
    focus_map,
)
from bluesky_autofocus.catalog import open_catalog
from bluesky_autofocus.devices import SimulatedAxis, SimulatedCamera
from bluesky_autofocus.frames import install_frame_routing
from bluesky_autofocus.plans import sweep_focus
from bluesky_autofocus.plans._map_focus import MappingAnalysis
from bluesky_autofocus.sharpness import UnknownMetricError

pytestmark = [
    pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic"),
]

TILTS_UM = ((20.0, 0.0), (0.0, -16.0))
"""Of the two places of the specimen."""


class Pixels(Device):
    numerical_aperture = Cpt(Signal, value=0.5, kind="normal")
    pixel_size_um = Cpt(Signal, value=0.4, kind="normal")


class Microscope:
    """An axis and a camera over a specimen with two places."""

    def __init__(self, frame_directory):
        self.places = [Tilted("tissue", tilt_um=tilt_um, size_px=144) for tilt_um in TILTS_UM]
        self.place = 0
        self.black_above_um = math.inf
        self.z = SimulatedAxis(name="z", limits=(-200.0, 200.0))
        self.objective = Pixels(name="objective")
        self.camera = SimulatedCamera(
            name="camera",
            render=self.render,
            frame_directory=frame_directory,
            frame_shape=(144, 144),
            dtype=np.uint16,
        )

    def render(self):
        if self.z.position > self.black_above_um:
            return np.zeros((144, 144), np.uint16)
        return self.places[self.place].frame(self.z.position)

    def sweep(self, analysis, *, detectors=(), **options):
        options = {"bounds_um": (-60.0, 60.0), "budget": 13, "depth_of_field_um": 4.96, **options}
        return sweep_focus([self.camera, *detectors], self.z, analysis=analysis, **options)


@pytest.fixture
def microscope(tmp_path):
    return Microscope(tmp_path / "frames")


@pytest.fixture
def tiles(RE):
    made = FocusMapAnalysis(grid=(3, 3))
    RE.subscribe(made)
    return made


def in_a_run(*stubs):
    @bpp.run_decorator()
    def plan():
        for stub in stubs:
            yield from stub()

    return plan()


class TestLive:
    def test_the_map_of_a_sweep(self, RE, microscope, tiles, documents):
        RE(in_a_run(lambda: microscope.sweep(tiles)))
        found = tiles.focus_map()
        assert (found.tilt_x_um, found.tilt_y_um) == pytest.approx(TILTS_UM[0], abs=2.0)
        assert found.exposures == 13 and found.depth_of_field_um == 4.96 and found.agree
        (verdict,) = documents.events("verdict")
        assert verdict["verdict_found"]
        assert found.mean_um == pytest.approx(verdict["verdict_position_um"], abs=2.0)

    def test_readings_are_those_of_sharpness(self, RE, microscope, tiles, analysis, documents):
        RE(in_a_run(lambda: microscope.sweep(tiles)))
        frame = microscope.places[0].frame(0.0)
        ours, plain = tiles.analyse_frame(frame), analysis.analyse_frame(frame)
        assert ours.value == plain.value
        assert analysis.reading("focus_sweep").value == tiles.reading("focus_sweep").value
        # search_focus goes by these
        assert np.array_equal(
            tiles.reading("focus_sweep").bands.energies, analysis.reading("focus_sweep").bands.energies
        )

    def test_while_it_goes_on(self, RE, microscope, tiles, documents):
        """Before the verdict, from what is there."""
        maps = []

        def look():
            yield from microscope.sweep(
                tiles,
                bounds_um=None,
                positions_um=np.linspace(-50, 50, 9).tolist(),
                budget=9,
                confirm=False,
            )
            maps.append(tiles.focus_map())

        def watch(name, doc):
            if (
                name == "event"
                and "focus_map_seq_num" in doc["data"]
                and doc["data"]["focus_map_seq_num"] == 8
            ):
                maps.append(tiles.focus_map())

        RE(in_a_run(look), watch)
        assert [one.exposures for one in maps] == [8, 9]

    def test_one_focusing_after_another(self, RE, microscope, tiles):
        def elsewhere():
            microscope.place = 1
            return microscope.sweep(tiles)

        RE(in_a_run(lambda: microscope.sweep(tiles), elsewhere))
        first, second = tiles.focus_map(number=0), tiles.focus_map()
        assert (first.tilt_x_um, first.tilt_y_um) == pytest.approx(TILTS_UM[0], abs=2.0)
        assert (second.tilt_x_um, second.tilt_y_um) == pytest.approx(TILTS_UM[1], abs=2.0)
        with pytest.raises(ValueError, match="holds 2 focusings .* asked for number 2"):
            tiles.focus_map(number=2)

    def test_another_run_begins_anew(self, RE, microscope, tiles):
        RE(in_a_run(lambda: microscope.sweep(tiles)))
        RE(in_a_run())
        with pytest.raises(ValueError, match="holds 0 focusings"):
            tiles.focus_map()

    def test_a_frame_that_cannot_be_used_has_no_tiles(self, RE, microscope, tiles, documents):
        microscope.black_above_um = 20.0
        RE(in_a_run(lambda: microscope.sweep(tiles)))
        tiles_of = [data["focus_map_tiles"] for data in documents.events("reading_focus_map")]
        assert tiles_of[-1] == "" and all(tiles_of[:-1])
        assert documents.events("verdict")[-1]["verdict_reason"] == "black"
        assert tiles.focus_map().exposures == len(tiles_of) - 1

    def test_the_size_of_a_pixel_comes_from_the_documents(self, RE, microscope, tiles):
        RE(in_a_run(lambda: microscope.sweep(tiles, detectors=[microscope.objective])))
        found = tiles.focus_map()
        assert found.pixel_size_um == 0.4
        assert found.slopes[0] == pytest.approx(found.tilt_x_um / (144 * 0.4))
        assert tiles.focus_map(pixel_size_um=0.8).pixel_size_um == 0.8

    def test_or_is_given(self, RE, microscope):
        tiles = FocusMapAnalysis(pixel_size_um=0.7, grid=(2, 3))
        RE.subscribe(tiles)
        RE(in_a_run(lambda: microscope.sweep(tiles)))
        found = tiles.focus_map()
        assert found.pixel_size_um == 0.7 and found.focus_um.shape == (2, 3)

    def test_a_region_is_that_of_the_reading_not_of_the_tiles(self, RE, microscope, documents):
        left = FocusMapAnalysis(roi=(0.0, 1.0, 0.0, 0.25))
        RE.subscribe(left)
        RE(in_a_run(lambda: microscope.sweep(left)))
        (verdict,) = documents.events("verdict")
        assert verdict["verdict_position_um"] == pytest.approx(-7.5, abs=2.0)
        assert left.focus_map().tilt_x_um == pytest.approx(20.0, abs=2.0)

    def test_tiles_too_small_for_the_frame_are_an_error(self, RE, microscope):
        small = FocusMapAnalysis(grid=(10, 4))
        RE.subscribe(small)
        with pytest.raises(AnalysisError, match="does not fit in a frame of 144 rows x 144 columns"):
            RE(in_a_run(lambda: microscope.sweep(small)))
        assert microscope.z.position == 0.0

    def test_its_arguments(self):
        with pytest.raises(UnknownMetricError, match="guess"):
            FocusMapAnalysis("guess")
        with pytest.raises(ValueError, match="grid must be"):
            FocusMapAnalysis(grid=(0, 3))
        made = FocusMapAnalysis(grid=(3, 5))
        assert made.parameters["grid"] == [3, 5] and made.parameters["name"] == "focus_map"
        assert isinstance(made, MappingAnalysis) and not isinstance(SharpnessAnalysis(), MappingAnalysis)


class TestRewound:
    def test_an_exposure_that_was_taken_again_counts_once(self):
        """After a pause the reading comes again, under its old number, of another Event."""
        record = FocusMapRecord()
        record("start", {"uid": "run"})
        record("descriptor", {"uid": "readings", "name": "reading_focus_map"})
        tiles = FocusMapAnalysis(grid=(1, 1)).analyse_frame(Tilted("tissue").frame(0.0)).recorded()

        def read(uid, number, position_um):
            reading = {
                **tiles,
                "event_uid": uid,
                "seq_num": number,
                "stream": "focus_sweep",
                "position_um": position_um,
            }
            data = {f"focus_map_{key}": value for key, value in reading.items()}
            record("event", {"descriptor": "readings", "data": data})

        for number in range(1, 7):
            read(f"event {number}", number, 10.0 * number)
        read("event 6 again", 6, 61.0)
        exposures, _ = record.operation()
        assert [one.position_um for one in exposures] == [10.0, 20.0, 30.0, 40.0, 50.0, 61.0]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Return a catalogue with a run whose tiles were recorded, and one where they were not."""
    folder = tmp_path_factory.mktemp("recorded")
    catalog = open_catalog(folder / "data")
    RE = RunEngine()  # noqa: N806
    install_frame_routing(RE)
    catalog.subscribe(RE)
    microscope = Microscope(catalog.frame_directory)
    live = {}
    for kind in (FocusMapAnalysis, SharpnessAnalysis):
        made = kind()
        token = RE.subscribe(made)
        microscope.place = 0

        def elsewhere(made=made):
            microscope.place = 1
            return microscope.sweep(made)

        RE(in_a_run(lambda made=made: microscope.sweep(made), elsewhere))
        live[kind] = made
        RE.unsubscribe(token)
    yield catalog.client, live
    catalog.close()
    loop = RE.loop
    loop.call_soon_threadsafe(loop.stop)
    while loop.is_running():
        time.sleep(0.001)
    loop.close()


class TestRecorded:
    def test_from_the_recorded_tiles(self, recorded):
        client, live = recorded
        found, was = focus_map(client[-2]), live[FocusMapAnalysis].focus_map()
        assert found.focus_um == pytest.approx(was.focus_um)
        assert found.astigmatism.straight_um == pytest.approx(was.astigmatism.straight_um)
        assert FocusMapRecord.of(client[-2]).has_tiles

    @pytest.mark.parametrize(("number", "tilt_um"), [(0, TILTS_UM[0]), (1, TILTS_UM[1]), (-1, TILTS_UM[1])])
    def test_from_the_frames(self, recorded, number, tilt_um):
        client, _ = recorded
        found = focus_map(client[-1], number, grid=(3, 3))
        assert found.focus_um.shape == (3, 3) and found.exposures == 13
        assert (found.tilt_x_um, found.tilt_y_um) == pytest.approx(tilt_um, abs=2.0)
        assert not FocusMapRecord.of(client[-1]).has_tiles

    def test_what_was_live_is_read_again_from_the_frames(self, recorded):
        client, live = recorded
        (readings,) = analyse(client[-2], FocusMapAnalysis()).values()
        assert [one.recorded()["tiles"] for one in readings][-1]
        assert live[FocusMapAnalysis].focus_map().exposures == 13

    def test_a_record_says_that_there_are_no_tiles(self, recorded):
        client, _ = recorded
        with pytest.raises(ValueError, match="no tiles were recorded"):
            FocusMapRecord.of(client[-1]).focus_map()

    def test_no_such_focusing(self, recorded):
        client, _ = recorded
        with pytest.raises(ValueError, match="holds 2 focusings"):
            focus_map(client[-1], 5)
