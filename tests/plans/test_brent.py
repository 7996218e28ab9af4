import json
import math

import numpy as np
import pytest
from bluesky import preprocessors as bpp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from bluesky_autofocus.plans import brent_focus
from bluesky_autofocus.records import Reason
from bluesky_autofocus.search import LEAST_BRENT_EXPOSURES


def scipy_asks(bench, tolerance_um, maxiter) -> list[float]:
    asked = []

    def reciprocal(x):
        asked.append(float(x))
        return 1 / bench.score(x)

    minimize_scalar(
        reciprocal,
        bounds=bench.bounds_um,
        method="bounded",
        options={"xatol": tolerance_um, "maxiter": maxiter},
    )
    return asked


class TestIsScipys:
    @pytest.mark.parametrize("tolerance_um", [0.05, 1.0])
    @pytest.mark.parametrize("budget", [6, 9, 30])
    def test_evaluation_by_evaluation(self, bench, analysis, documents, run, budget, tolerance_um):
        run(
            brent_focus(
                [bench.camera],
                bench.axis,
                analysis=analysis,
                bounds_um=bench.bounds_um,
                budget=budget,
                tolerance_um=tolerance_um,
                verify=False,
                confirm=False,
            )
        )
        expected = scipy_asks(bench, tolerance_um, budget)
        assert [data["z"] for data in documents.events("focus_brent")] == expected

    def test_before_the_checks(self, bench, analysis, documents, run):
        run(
            brent_focus(
                [bench.camera],
                bench.axis,
                analysis=analysis,
                bounds_um=bench.bounds_um,
                budget=40,
                tolerance_um=0.5,
            )
        )
        expected = scipy_asks(bench, 0.5, 100)
        positions = [data["z"] for data in documents.events("focus_brent")]
        assert positions[: len(expected)] == expected
        assert len(positions) > len(expected) + 1

    def test_golden_section_instead(self, bench, analysis, documents, run):
        expected = []

        def golden(function, bounds, tolerance, evaluations):
            def recorded(x):
                y = function(x)
                expected.append(float(x))
                return y

            found = minimize_scalar(
                recorded, bracket=(-5.0, 6.0, 20.0), method="golden", options={"maxiter": 5}
            )
            return float(found.x)

        verdict = run(
            brent_focus(
                [bench.camera],
                bench.axis,
                analysis=analysis,
                bounds_um=bench.bounds_um,
                budget=40,
                depth_of_field_um=bench.depth_of_field_um,
                solver=golden,
            )
        )
        assert [data["z"] for data in documents.events("focus_brent")][: len(expected)] == expected
        assert verdict.found
        assert verdict.position_um == pytest.approx(bench.focus_um, abs=bench.depth_of_field_um)
        assert verdict.parameters["solver"] == "golden"


class TestFound:
    @pytest.fixture
    def verdict(self, bench, analysis, documents, run):
        return run(
            brent_focus(
                [bench.camera],
                bench.axis,
                analysis=analysis,
                bounds_um=bench.bounds_um,
                budget=25,
                depth_of_field_um=bench.depth_of_field_um,
            ),
            sample="grains",
        )

    def test_the_axis_stands_on_it(self, bench, verdict):
        assert verdict.found
        assert verdict.reason is Reason.FOUND
        assert bench.axis.position == verdict.position_um
        assert verdict.position_um == pytest.approx(bench.focus_um, abs=bench.depth_of_field_um)
        assert 0 < verdict.sigma_um < bench.depth_of_field_um
        assert verdict.start_um == bench.start_um

    def test_the_exposures_are_the_events(self, verdict, documents):
        assert verdict.exposures == len(documents.events("focus_brent")) <= 25
        assert verdict.dose == pytest.approx(
            sum(data["camera_exposure_s"] for data in documents.events("focus_brent"))
        )

    def test_the_readings_are_linked_to_their_events(self, bench, verdict, documents):
        (descriptor,) = (doc for doc in documents.named("descriptor") if doc["name"] == "focus_brent")
        events = [doc for doc in documents.named("event") if doc["descriptor"] == descriptor["uid"]]
        readings = documents.events("reading_sharpness")
        assert [data["sharpness_event_uid"] for data in readings] == [doc["uid"] for doc in events]
        assert [data["sharpness_seq_num"] for data in readings] == [doc["seq_num"] for doc in events]
        assert {data["sharpness_stream"] for data in readings} == {"focus_brent"}
        assert [data["sharpness_value"] for data in readings] == [
            bench.score(doc["data"]["z"]) for doc in events
        ]
        assert verdict.event_uids == tuple(doc["uid"] for doc in events)

    def test_the_verdict_is_recorded(self, verdict, documents):
        (recorded,) = documents.events("verdict")
        assert recorded["verdict_found"] is True
        assert recorded["verdict_reason"] == "found"
        assert recorded["verdict_method"] == "brent"
        for name in ("position_um", "sigma_um", "start_um", "exposures", "dose"):
            assert recorded[f"verdict_{name}"] == getattr(verdict, name)
        assert json.loads(recorded["verdict_event_uids"]) == list(verdict.event_uids)
        assert json.loads(recorded["verdict_parameters"]) == json.loads(json.dumps(verdict.parameters))
        assert json.loads(recorded["verdict_parameters"])["analysis"]["metric"] == "smoothed_laplacian"
        assert json.loads(recorded["verdict_versions"])["scipy"]

    def test_metadata_arrives(self, verdict, documents):
        assert documents.named("start")[0]["sample"] == "grains"

    def test_streams(self, verdict, documents):
        names = [doc["name"] for doc in documents.named("descriptor")]
        assert sorted(names) == ["focus_brent", "reading_sharpness", "verdict"]

    def test_each_ends_in_its_own_run(self, verdict, documents):
        assert documents.named("stop")[0]["exit_status"] == "success"


def test_range_is_about_where_the_axis_is(bench, analysis, run):
    verdict = run(brent_focus([bench.camera], bench.axis, analysis=analysis, range_um=80.0, budget=25))
    assert verdict.parameters["bounds_um"] == [bench.start_um - 40, bench.start_um + 40]
    assert verdict.found


@pytest.mark.parametrize("start_um", [-35.0, 7.0, 90.0])
def test_from_wherever_it_starts(make_bench, analysis, run, start_um):
    bench = make_bench(start_um=start_um)
    verdict = run(
        brent_focus([bench.camera], bench.axis, analysis=analysis, bounds_um=bench.bounds_um, budget=25)
    )
    assert verdict.found
    assert verdict.start_um == start_um
    assert bench.axis.position == pytest.approx(bench.focus_um, abs=bench.depth_of_field_um)


def test_twice_in_one_run(bench, analysis, documents, RE):  # noqa: N803
    verdicts = []

    @bpp.run_decorator()
    def plan():
        for width_um in (90.0, 40.0):
            verdict = yield from brent_focus(
                [bench.camera], bench.axis, analysis=analysis, range_um=width_um, budget=25
            )
            verdicts.append(verdict)

    RE(plan())
    assert [verdict.found for verdict in verdicts] == [True, True]
    assert len(documents.events("verdict")) == 2
    assert not set(verdicts[0].event_uids) & set(verdicts[1].event_uids)


@given(
    budget=st.integers(LEAST_BRENT_EXPOSURES + 1, 30),
    verify=st.booleans(),
    confirm=st.booleans(),
    focus_um=st.floats(-60, 70),
)
@settings(
    deadline=None,
    derandomize=True,
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_the_budget_is_never_exceeded(
    make_bench, analysis, documents, run, budget, verify, confirm, focus_um
):
    bench = make_bench(lambda z: 1 / (1 + ((z - focus_um) / 6) ** 2))
    documents.clear()
    verdict = run(
        brent_focus(
            [bench.camera],
            bench.axis,
            analysis=analysis,
            bounds_um=bench.bounds_um,
            budget=budget,
            verify=verify,
            confirm=confirm,
        )
    )
    assert verdict.exposures == len(documents.events("focus_brent")) == bench.triggers.calls <= budget
    assert verdict.found or bench.axis.position == bench.start_um


def test_on_the_simulated_sem(sem, analysis, run):
    axis, depth_of_field_um = sem.working_distance, sem.depth_of_field_um
    verdict = run(
        brent_focus(
            [sem],
            axis,
            analysis=analysis,
            range_um=30 * depth_of_field_um,
            budget=30,
            depth_of_field_um=depth_of_field_um,
        )
    )
    assert verdict.found, verdict
    assert axis.load_um == pytest.approx(sem.focus_um, abs=depth_of_field_um)


class TestNotFound:
    """Each with its reason, and the axis back at exactly where it was."""

    def peak_at(self, focus_um):
        return lambda z: 1 / (1 + ((z - focus_um) / 6) ** 2)

    def focused(self, bench, analysis, run, **options):
        verdict = run(
            brent_focus(
                [bench.camera],
                bench.axis,
                analysis=analysis,
                **{"bounds_um": bench.bounds_um, "budget": 25, **options},
            )
        )
        assert not verdict.found
        assert math.isnan(verdict.position_um)
        assert bench.axis.position == bench.start_um
        assert bench.moves.calls > 0
        return verdict

    def test_flat(self, make_bench, analysis, run):
        bench = make_bench(lambda z: 0.5)
        assert self.focused(bench, analysis, run).reason is Reason.FLAT

    @pytest.mark.parametrize("focus_um", [-47.0, -40.0, 50.0, 56.0])
    def test_at_or_beyond_the_edge(self, make_bench, analysis, run, focus_um):
        bench = make_bench(self.peak_at(focus_um))
        assert self.focused(bench, analysis, run).reason is Reason.EDGE

    def test_two_peaks(self, make_bench, analysis, run):
        bench = make_bench(lambda z: self.peak_at(25.0)(z) + 0.97 * self.peak_at(-16.0)(z))
        verdict = self.focused(bench, analysis, run, budget=30)
        assert verdict.reason in {Reason.SEVERAL_PEAKS, Reason.POOR_FIT}

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"level": 1e6}, Reason.SATURATED),
            ({"level": 0.0}, Reason.BLACK),
            ({"contrast": lambda z: 0.0}, Reason.UNIFORM),
            ({"contrast": lambda z: math.nan, "dtype": np.float32}, Reason.NOT_FINITE),
        ],
    )
    def test_frames_that_cannot_be_used(self, make_bench, analysis, documents, run, options, reason):
        bench = make_bench(**options)
        verdict = self.focused(bench, analysis, run)
        assert verdict.reason is reason
        assert verdict.exposures == 1
        (reading,) = documents.events("reading_sharpness")
        assert reading["sharpness_accepted"] is False
        assert reading["sharpness_reason"] == str(reason)
        (recorded,) = documents.events("verdict")
        assert math.isnan(recorded["verdict_position_um"])
        assert recorded["verdict_reason"] == str(reason)

    def test_a_frame_that_cannot_be_used_among_others(self, make_bench, analysis, run):
        bench = make_bench()
        bench.camera.render = lambda: (
            bench.frame(bench.axis.position) | (0xFFFF if bench.triggers.calls == 4 else 0)
        )
        assert self.focused(bench, analysis, run).reason is Reason.SATURATED

    def test_the_focus_has_gone_when_the_axis_comes_back(self, make_bench, analysis, run):
        bench = make_bench()
        budget = 20

        def fading(z):
            return self.peak_at(7.3)(z) * (0.5 if bench.triggers.calls == last else 1.0)

        bench.contrast = self.peak_at(7.3)
        last = run(
            brent_focus(
                [bench.camera], bench.axis, analysis=analysis, bounds_um=bench.bounds_um, budget=budget
            )
        ).exposures
        bench = make_bench(fading)
        verdict = self.focused(bench, analysis, run, budget=budget)
        assert verdict.reason is Reason.WORSE_AFTERWARDS
        assert verdict.exposures == last
