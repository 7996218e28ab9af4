"""What fields were exposed to: live, from databroker, over many runs."""

import json
from functools import partial

import pytest
from bluesky import plan_stubs as bps
from bluesky import plans as bp
from bluesky import preprocessors as bpp
from bluesky.utils import Msg, RunEngineInterrupted

from bluesky_autofocus.callbacks import DoseLedger, FieldDose
from bluesky_autofocus.catalog import open_catalog
from bluesky_autofocus.cli import main
from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.devices import SimulatedAxis
from bluesky_autofocus.plans import autofocus, focus_beside, sweep_focus
from bluesky_autofocus.session import open_session

# tiled's migration tool reads its own configuration in an old way
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic")

EXPOSURE_S = 0.01


@pytest.fixture
def stage():
    return [SimulatedAxis(name=name, limits=(-1000, 1000)) for name in "xy"]


@pytest.fixture
def ledger(RE):  # noqa: N803
    """Return a function that makes a ledger and subscribes it."""

    def make(**options):
        made = DoseLedger(**options)
        RE.subscribe(lambda name, doc: made(name, doc))
        return made

    return make


def by_place(fields: list[FieldDose]) -> dict[tuple, int]:
    return {field.place: field.exposures for field in fields}


class TestLive:
    def test_a_grid_of_tiles_twice(self, RE, camera, stage, ledger):  # noqa: N803
        x, y = stage
        doses = ledger(field_um=50.0)
        tiles = partial(bp.grid_scan, [camera], y, 0, 100, 2, x, 0, 100, 2)
        uids = [*RE(tiles(), sample="liver"), *RE(tiles(), sample="liver")]
        assert by_place(doses.fields) == dict.fromkeys([(0, 0), (100, 0), (0, 100), (100, 100)], 2)
        assert {field.sample for field in doses.fields} == {"liver"}
        for field in doses.fields:
            assert field.dose_s == pytest.approx(2 * EXPOSURE_S)
            assert field.runs == tuple(uids)
            assert field.untimed == 0
        assert [field.exposures for field in doses.of_run(uids[1])] == [1, 1, 1, 1]
        assert doses.of_run("nobody") == []

    def test_another_sample_is_another_field(self, RE, camera, stage, ledger):  # noqa: N803
        doses = ledger()
        for sample in ("liver", {"name": "kidney", "stain": "HE"}, "liver"):
            RE(bp.count([camera, *stage], 2), sample=sample)
        assert [(field.sample, field.exposures) for field in doses.fields] == [("liver", 4), ("kidney", 2)]

    @pytest.mark.parametrize(
        ("places_um", "fields"),
        [
            ((0.0, 24.9, -24.9), [3]),
            ((0.0, 25.1), [1, 1]),
            # neither border nor origin of a grid divides a field, as a stage's noise would have it
            ((24.999, 25.001, 75.0, 75.001), [2, 2]),
            ((-25.001, -24.999), [2]),
            ((1000.0, 950.1, 1000.0), [2, 1]),
        ],
    )
    def test_places_half_a_field_apart_are_one_field(self, RE, camera, stage, ledger, places_um, fields):  # noqa: N803
        doses = ledger(field_um=50.0)
        RE(bp.list_scan([camera, stage[1]], stage[0], list(places_um)))
        assert [field.exposures for field in doses.fields] == fields
        assert doses.fields[0].place == (places_um[0], 0.0)

    def test_every_stream_with_frames_counts(self, RE, make_sem, analysis, stage, ledger):  # noqa: N803
        """The frames of a search beside count there, that of the plan here; readings and verdicts nowhere."""
        sem = make_sem()
        doses = ledger(field_um=5.0)

        @bpp.run_decorator(md={})
        def plan():
            verdict = yield from focus_beside(
                [sem],
                sem.working_distance,
                analysis=analysis,
                stage=stage,
                offset_um=(20.0, 0.0),
                by=sweep_focus,
                range_um=160.0,
                budget=24,
            )
            assert verdict.found and verdict.exposures == 24
            yield from bps.trigger_and_read([sem, *stage], name="primary")

        RE(plan())
        frame_s = 1e-6 * 128 * 128
        assert by_place(doses.fields) == {(20.0, 0.0): 24, (0.0, 0.0): 1}
        assert [field.dose_s for field in doses.fields] == pytest.approx([24 * frame_s, frame_s])

    def test_where_the_events_do_not_tell(self, RE, bench_like, ledger):  # noqa: N803
        camera, z = bench_like
        doses = ledger()
        RE(bp.list_scan([camera], z, [1, 2, 3]), sample="a")
        (field,) = doses.fields
        assert (field.place, field.exposures) == ((), 3)

    @pytest.fixture
    def bench_like(self, camera):
        return camera, SimulatedAxis(name="z", limits=(-10, 10))

    def test_keys_of_ones_own(self, RE, camera, ledger):  # noqa: N803
        from ophyd import Signal

        well, radius = Signal(name="well", value="A1"), SimulatedAxis(name="radius", limits=(-100, 100))
        doses = ledger(keys=["well", "radius"], field_um=10.0)
        for name, at in (("A1", 0.0), ("A1", 4.0), ("B2", 4.0), ("A1", 40.0)):
            RE(bps.mv(well, name, radius, at))
            RE(bp.count([camera, well, radius]))
        RE(bp.count([camera, well]))
        assert by_place(doses.fields) == {("A1", 0.0): 2, ("B2", 4.0): 1, ("A1", 40.0): 1, (): 1}

    def test_an_exposure_that_is_taken_again_was_taken_twice(self, RE, camera, stage, ledger):  # noqa: N803
        doses = ledger()
        with pytest.raises(RunEngineInterrupted):
            RE(pausing_after_save(bp.count([camera, *stage], 4), 3))
        RE.resume()
        assert [field.exposures for field in doses.fields] == [5]


def pausing_after_save(plan, number):
    saves = iter(range(1, 10_000))

    def pause(msg):
        if msg.command == "save" and next(saves) == number:
            return None, (Msg("pause") for _ in range(1))
        return None, None

    return bpp.plan_mutator(plan, pause)


class TestDocuments:
    """What documents of other instruments say."""

    @staticmethod
    def told(ledger, *events, data_keys=None, configuration=None, start=None):
        image = {"dtype": "array", "shape": [100, 200], "external": "STREAM:"}
        number = {"dtype": "number", "shape": []}
        keys = {key for event in events for key in event} | set(data_keys or ())
        um = {"x": {**number, "units": "mm"}, "y": {**number, "units": "mm"}}
        ledger("start", {"uid": "r", **(start or {})})
        ledger(
            "descriptor",
            {
                "uid": "d",
                "run_start": "r",
                "name": "primary",
                "data_keys": {"image": image, **{key: um.get(key, number) for key in keys}},
                "configuration": {"camera": {"data": configuration or {}}},
            },
        )
        for event in events:
            ledger("event", {"descriptor": "d", "data": event})
        ledger("stop", {"run_start": "r"})
        return ledger.fields

    def test_a_stage_in_millimetres(self):
        (field,) = self.told(DoseLedger(), {"x": 1.5, "y": -2.0, "camera_exposure_s": 0.1})
        assert field == FieldDose("", (1500.0, -2000.0), 1, 0.1, 0, ("r",))

    def test_the_field_follows_from_the_pixels(self):
        """200 columns and 100 rows of 0.5 um: 100 um wide and 50 um high."""
        events = [{"x": x / 1000, "y": y / 1000} for x, y in ((0, 0), (49, 0), (0, 24), (51, 0), (0, 26))]
        fields = self.told(DoseLedger(), *events, configuration={"objective_pixel_size_um": 0.5})
        assert [field.exposures for field in fields] == [3, 1, 1]

    def test_an_exposure_time_that_is_configuration(self):
        (field,) = self.told(DoseLedger(), {"x": 0, "y": 0}, configuration={"camera_exposure_s": 0.25})
        assert (field.dose_s, field.untimed) == (0.25, 0)

    def test_a_camera_that_does_not_say_how_long(self):
        (field,) = self.told(DoseLedger(), {"x": 0, "y": 0}, {"x": 0, "y": 0})
        assert (field.exposures, field.dose_s, field.untimed) == (2, 0.0, 2)

    def test_computed_frames_are_no_exposures(self):
        assert self.told(DoseLedger(), {"x": 0, "y": 0}, start={"computed": True}) == []

    @pytest.mark.parametrize("field_um", [0.0, -1.0, float("nan")])
    def test_a_field_that_makes_no_sense(self, field_um):
        with pytest.raises(ValueError, match="field_um must be positive"):
            DoseLedger(field_um=field_um)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """Return a folder with two runs of a SEM, in the second of which an exposure was taken again."""
    folder = tmp_path_factory.mktemp("catalog")
    with open_session("sem", catalog=folder, show=None, clock=VirtualClock()) as session:
        sem = session.instrument.devices["sem"]
        session.RE(bp.count([sem], 3), sample="wafer")
        session.RE(bps.mv(sem.averaged_frames, 2))
        with pytest.raises(RunEngineInterrupted):
            session.RE(pausing_after_save(bp.count([sem], 4), 2), sample="wafer")
        session.RE.resume()
    return folder


class TestRecorded:
    SCAN_S = 1e-6 * 512 * 512

    def test_over_all_runs(self, catalog):
        with open_session("sem", catalog=catalog, show=None, clock=VirtualClock()) as session:
            (field,) = session.doses()
            assert (field.sample, field.exposures, field.place) == ("wafer", 3 + 5, ())
            assert field.dose_s == pytest.approx((3 + 2 * 5) * self.SCAN_S)
            assert len(field.runs) == 2
            (newest,) = session.doses(-1)
            assert (newest.exposures, newest.runs) == (5, field.runs[1:])
            (dwell,) = session.doses(keys=["sem_dwell_time"])
            assert dwell.place == (1.0,)

    def test_it_is_what_was_told_live(self, RE, camera, stage, tmp_path):  # noqa: N803
        live = DoseLedger(field_um=10.0)
        catalog = open_catalog(tmp_path / "catalog")
        try:
            catalog.subscribe(RE)
            RE.subscribe(lambda name, doc: live(name, doc))
            RE(bp.list_scan([camera], *(arg for one in stage for arg in (one, [0, 3, 30]))))
            with pytest.raises(RunEngineInterrupted):
                RE(pausing_after_save(bp.count([camera, *stage], 3), 1))
            RE.resume()
            assert DoseLedger.of(catalog.client.values(), field_um=10.0).fields == live.fields
            assert by_place(live.fields) == {(0.0, 0.0): 2, (30.0, 30.0): 5}
        finally:
            catalog.close()

    def test_by_the_command_line(self, catalog, capsys):
        assert main(["dose", "--catalog", str(catalog), "--json"]) == 0
        (line,) = capsys.readouterr().out.splitlines()
        said = json.loads(line)
        assert (said["sample"], said["exposures"], said["untimed"]) == ("wafer", 8, 0)
        assert said["dose_s"] == pytest.approx(13 * self.SCAN_S)
        options = ["--key", "sem_dwell_time", "--field-um", "2"]
        assert main(["dose", "-1", *options, "--catalog", str(catalog)]) == 0
        (line,) = capsys.readouterr().out.splitlines()
        assert line.split() == ["wafer", "1.0", "5", "exposures", "2.62144", "s,", "1", "runs"]

    def test_a_run_that_is_not_there(self, catalog, capsys):
        assert main(["dose", "99", "--catalog", str(catalog)]) == 2
        assert "there is no run 99" in capsys.readouterr().err


def test_the_verdict_and_the_ledger_agree(RE, make_sem, analysis, documents, ledger):  # noqa: N803
    doses = ledger()
    sem = make_sem()
    RE(autofocus([sem], sem.working_distance, analysis=analysis, method="sweep", range_um=80.0, budget=8))
    assert doses.fields[0].dose_s == pytest.approx(documents.events("verdict")[0]["verdict_dose"])
