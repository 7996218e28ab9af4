"""Focusing by two frames on either side of a position, with and without stigmators."""
# ruff: noqa: N803 - every bluesky user calls it RE

import itertools
import json
import math
from dataclasses import replace

import pytest
from bluesky import plan_stubs as bps
from bluesky import plans as bp
from bluesky import preprocessors as bpp
from bluesky.simulators import summarize_plan
from bluesky.utils import RunEngineInterrupted
from interrupting import at_message, pausing, throwing
from ophyd.status import Status
from ophyd.utils import LimitError
from paired import FOCUS_UM, KnowingPair, PairBench

from bluesky_autofocus.callbacks import (
    AnalysisError,
    NotSubscribedError,
    TwoExposureAnalysis,
    analyse,
)
from bluesky_autofocus.catalog import open_catalog
from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.defocus.two_exposure import BeamTransfer, LightTransfer, TwoExposureEstimator
from bluesky_autofocus.plans import METHODS, Approach, autofocus, search_focus, two_exposure_focus
from bluesky_autofocus.records import Reason
from bluesky_autofocus.session import open_session
from bluesky_autofocus.simulation import HOECHST_20X
from bluesky_autofocus.simulation.motion import AxisMechanics

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")

DOF_UM = 1.0
STREAM = "focus_two_exposure"


@pytest.fixture
def make_pair_bench(tmp_path):
    numbers = itertools.count()
    return lambda **options: PairBench(tmp_path / f"pairs{next(numbers)}", **options)


@pytest.fixture
def bench(make_pair_bench):
    return make_pair_bench()


@pytest.fixture
def pairs(RE):
    """Return a function that makes an analysis which reads the truth, and subscribes it."""

    def make(*args, **options):
        made = TwoExposureAnalysis(KnowingPair(*args, **options), pixel_size_um=0.05)
        RE.subscribe(made)
        return made

    return make


@pytest.fixture
def sem_analysis(RE):
    made = TwoExposureAnalysis(TwoExposureEstimator(BeamTransfer(10.0), dark_level=12.75))
    RE.subscribe(made)
    return made


def focus(bench, analysis, **options):
    return two_exposure_focus(
        [bench.camera], bench.axis, analysis=analysis, **{"depth_of_field_um": DOF_UM, **options}
    )


def stigmate(bench, analysis, **options):
    return focus(bench, analysis, **{"stigmators": bench.stigmators, "um_per_unit": 20.0, **options})


@pytest.fixture
def as_before(documents):
    """Return what must hold of a bench where no focus was found."""

    def check(bench, verdict, reason):
        assert (verdict.found, str(verdict.reason)) == (False, reason)
        assert math.isnan(verdict.position_um)
        assert bench.stands_at == pytest.approx([bench.start_um, *bench.before], abs=1e-9)
        (recorded,) = documents.events("verdict")
        assert (recorded["verdict_found"], recorded["verdict_reason"]) == (False, reason)

    return check


class TestFound:
    @pytest.mark.parametrize("above_um", [5.0, -5.0])
    def test_two_pairs(self, make_pair_bench, pairs, documents, run, above_um):
        bench, analysis = make_pair_bench(start_um=FOCUS_UM + above_um), pairs()
        verdict = run(focus(bench, analysis))
        assert (verdict.found, str(verdict.reason), verdict.exposures) == (True, "found", 4)
        assert verdict.position_um == bench.axis.position == pytest.approx(FOCUS_UM, abs=1e-4)
        assert (verdict.method, verdict.sigma_um, verdict.start_um) == ("two_exposure", 0.05, bench.start_um)

        events = documents.events(STREAM)
        expected = [bench.start_um - 1, bench.start_um + 1, FOCUS_UM - 1, FOCUS_UM + 1]
        assert [event["z"] for event in events] == pytest.approx(expected, abs=1e-4)
        assert [event["pair_position_um"] for event in events] == [event["z"] for event in events]
        assert [event["pair_last"] for event in events] == [False, True, False, True]
        assert {(event["pair_axis"], event["pair_axis_sign"]) for event in events} == {("z", 1)}
        first, again, second, _ = (event["pair_operation"] for event in events)
        assert first == again != second

        readings = documents.events("reading_two_exposure")
        assert [reading["two_exposure_reason"] for reading in readings] == ["incomplete", "ok"] * 2
        told = [reading["two_exposure_value"] for reading in readings[1::2]]
        assert told == pytest.approx([above_um + 1, 1.0], abs=1e-3), "the defocus of the second frame"
        assert [reading["two_exposure_event_uid"] for reading in readings] == list(verdict.event_uids)

    def test_near_focus_the_second_pair_is_taken_aside(self, make_pair_bench, pairs, documents, run):
        bench = make_pair_bench(start_um=FOCUS_UM + 0.4)
        verdict = run(focus(bench, pairs()))
        assert (verdict.found, verdict.exposures) == (True, 4)
        assert bench.axis.position == pytest.approx(FOCUS_UM, abs=1e-4)
        middle = sum(event["z"] for event in documents.events(STREAM)[2:]) / 2
        assert middle == pytest.approx(FOCUS_UM - DOF_UM, abs=1e-4)

    def test_the_first_estimate_is_believed(self, bench, pairs, run):
        verdict = run(focus(bench, pairs(), verify=False, budget=2))
        assert (verdict.found, verdict.exposures) == (True, 2)
        assert bench.axis.position == verdict.position_um == pytest.approx(FOCUS_UM, abs=1e-4)

    def test_the_verdict_is_recorded(self, bench, pairs, documents, run):
        verdict = run(focus(bench, pairs(), offset_um=2.0, travel_um=(0.0, 20.0), accept_um=0.3))
        (recorded,) = documents.events("verdict")
        assert recorded["verdict_position_um"] == verdict.position_um
        parameters = json.loads(recorded["verdict_parameters"])
        assert (parameters["offset_um"], parameters["travel_um"]) == (2.0, [0.0, 20.0])
        assert (parameters["depth_of_field_um"], parameters["accept_um"]) == (DOF_UM, 0.3)
        assert parameters["analysis"]["estimator"] == {"kind": "knowing pair"}
        assert parameters["stigmators"] is None
        at = [event["z"] for event in documents.events(STREAM)]
        assert at[1] - at[0] == pytest.approx(4.0)

    @pytest.mark.parametrize("direction", [1, -1])
    def test_every_frame_is_approached_from_one_side(self, make_pair_bench, pairs, documents, run, direction):
        """Lost motion of the axis cancels out only so."""
        bench = make_pair_bench(start_um=FOCUS_UM + 4.0, mechanics=AxisMechanics(backlash_um=0.5))
        approach = Approach(direction, overshoot_um=1.0)
        moves = []
        move = bench.axis.set
        bench.axis.set = lambda to: (moves.append(to), move(to))[1]
        verdict = run(focus(bench, pairs(), approach=approach))
        assert verdict.found
        at = [event["z"] for event in documents.events(STREAM)]
        assert [(second - first) * direction for first, second in zip(at[::2], at[1::2], strict=True)] == (
            pytest.approx([2.0, 2.0])
        )
        last = moves.index(bench.axis.position)
        assert (moves[last] - moves[last - 1]) * direction > 0

    def test_an_axis_that_runs_downwards(self, bench, pairs, run):
        verdict = run(focus(bench, pairs(axis_sign=-1), axis_sign=-1))
        assert verdict.found
        assert bench.axis.position == pytest.approx(FOCUS_UM, abs=1e-4)

    def test_a_scale_that_is_a_little_wrong_is_made_good(self, bench, pairs, run):
        verdict = run(focus(bench, pairs(lambda defocus_um: 0.8 * defocus_um)))
        assert (verdict.found, verdict.exposures) == (True, 6)
        assert bench.axis.position == pytest.approx(FOCUS_UM, abs=0.2)


class TestNotFound:
    @pytest.mark.parametrize("says", [lambda _: 0.0, lambda _: 2.0, lambda defocus_um: -defocus_um])
    @pytest.mark.parametrize("above_um", [3.0, 0.4])
    def test_an_estimate_that_does_not_follow(self, make_pair_bench, pairs, as_before, run, says, above_um):
        bench = make_pair_bench(start_um=FOCUS_UM + above_um)
        verdict = run(focus(bench, pairs(says)))
        assert verdict.exposures <= 6
        as_before(bench, verdict, str(verdict.reason))
        assert verdict.reason in (Reason.WORSE_AFTERWARDS, Reason.NOT_CONVERGED)

    @pytest.mark.parametrize("reason", [Reason.EMPTY, Reason.OUT_OF_RANGE, Reason.POOR_FIT])
    def test_what_the_estimator_refuses(self, bench, pairs, as_before, run, reason):
        verdict = run(focus(bench, pairs(lambda _: reason)))
        assert verdict.exposures == 2
        as_before(bench, verdict, str(reason))

    @pytest.mark.parametrize(("at", "exposures"), [(0, 1), (1, 2), (2, 3)])
    def test_a_black_frame(self, bench, pairs, as_before, run, at, exposures):
        """The other frame of its pair would not help."""
        render = bench.camera.render
        bench.camera.render = lambda: render() * (bench.exposures - 1 != at)
        verdict = run(focus(bench, pairs()))
        assert verdict.exposures == exposures
        as_before(bench, verdict, "black")

    def test_not_known_to_within_the_depth_of_field(self, bench, pairs, as_before, run):
        as_before(bench, run(focus(bench, pairs(sigma_um=0.4))), "uncertain")

    def test_beyond_the_travel_range(self, bench, pairs, as_before, run):
        travel_um = (bench.start_um - 1.5, bench.start_um + 1.5)
        as_before(bench, run(focus(bench, pairs(), travel_um=travel_um)), "out_of_reach")

    def test_no_room_for_the_second_pair(self, make_pair_bench, pairs, as_before, run):
        """Focus is within the limits, but not both frames about it."""
        bench = make_pair_bench(limits=(FOCUS_UM - 0.5, 100.0))
        as_before(bench, run(focus(bench, pairs())), "out_of_reach")

    def test_the_default_travel_range(self, bench, pairs, as_before, run):
        """No correction that it could ask for in good faith goes farther than it can measure."""
        as_before(bench, run(focus(bench, pairs(lambda _: 10.5))), "out_of_reach")

    def test_the_end_of_the_dose(self, bench, pairs, as_before, run):
        verdict = run(focus(bench, pairs(lambda defocus_um: 0.8 * defocus_um), dose_budget_s=0.045))
        assert (verdict.exposures, bench.exposures) == (4, 4)
        as_before(bench, verdict, "not_converged")
        with_less = run(focus(bench, pairs(), dose_budget_s=0.035))
        assert (with_less.reason, bench.exposures) == (Reason.DOSE_SPENT, 4)


class TestStigmators:
    @pytest.mark.parametrize("above_um", [4.0, 0.3])
    def test_they_take_the_astigmatism_back(self, make_pair_bench, pairs, documents, run, above_um):
        bench = make_pair_bench(start_um=FOCUS_UM + above_um, stigmators=(0.5, 0.0))
        verdict = run(stigmate(bench, pairs(residual_um=(12.0, -7.0))))
        assert (verdict.found, verdict.exposures) == (True, 4)
        assert bench.stands_at == pytest.approx([FOCUS_UM, -0.6, 0.35], abs=1e-4)
        events = documents.events(STREAM)
        assert [event["stig_x"] for event in events] == pytest.approx([0.5, 0.5, -0.6, -0.6], abs=1e-5)
        parameters = verdict.parameters["stigmators"]
        assert (parameters["names"], parameters["before"]) == (["stig_x", "stig_y"], [0.5, 0.0])
        assert parameters["after"] == pytest.approx([-0.6, 0.35], abs=1e-5)
        readings = documents.events("reading_two_exposure")
        assert readings[1]["two_exposure_straight_um"] == pytest.approx(22.0, abs=1e-4)
        assert readings[3]["two_exposure_straight_um"] == pytest.approx(0.0, abs=1e-3)
        assert math.isnan(readings[0]["two_exposure_diagonal_um"])

    def test_each_may_act_on_both(self, bench, pairs, run):
        turned = [[12.0, -16.0], [16.0, 12.0]]
        verdict = run(
            stigmate(bench, pairs(um_per_unit=turned, residual_um=(10.0, 20.0)), um_per_unit=turned)
        )
        assert verdict.found
        assert bench.stands_at == pytest.approx([FOCUS_UM, -1.1, -0.2], abs=1e-4)

    def test_unverified(self, bench, pairs, run):
        verdict = run(stigmate(bench, pairs(residual_um=(12.0, -7.0)), verify=False, budget=2))
        assert (verdict.found, verdict.exposures) == (True, 2)
        assert bench.stands_at == pytest.approx([FOCUS_UM, -0.6, 0.35], abs=1e-4)

    def test_a_scale_that_is_a_little_wrong_is_made_good(self, bench, pairs, run):
        verdict = run(stigmate(bench, pairs(um_per_unit=17.0, residual_um=(8.0, 0.0))))
        assert (verdict.found, verdict.exposures) == (True, 6)
        assert bench.stands_at[1] == pytest.approx(-8 / 17, abs=0.015)

    @pytest.mark.parametrize("um_per_unit", [-20.0, [[0.0, 20.0], [20.0, 0.0]]])
    def test_the_wrong_way_round(self, make_pair_bench, pairs, as_before, run, um_per_unit):
        bench = make_pair_bench(stigmators=(0.5, 0.0))
        verdict = run(stigmate(bench, pairs(residual_um=(2.0, -7.0)), um_per_unit=um_per_unit))
        assert verdict.exposures == 4
        as_before(bench, verdict, "worse_afterwards")

    def test_that_do_nothing(self, bench, pairs, as_before, run):
        verdict = run(stigmate(bench, pairs(um_per_unit=1e-9, residual_um=(8.0, 0.0))))
        as_before(bench, verdict, "not_converged")

    @pytest.mark.parametrize("verify", [True, False])
    def test_beyond_their_limits(self, bench, pairs, as_before, run, verify):
        verdict = run(stigmate(bench, pairs(residual_um=(0.0, 120.0)), verify=verify))
        as_before(bench, verdict, "out_of_reach")

    def test_an_astigmatism_that_is_not_known(self, bench, pairs, as_before, run):
        as_before(bench, run(stigmate(bench, pairs(sigma_um=0.2))), "uncertain")

    def test_those_of_a_detector_are_read_once(self, sem, sem_analysis, documents, run):
        verdict = run(
            two_exposure_focus(
                [sem],
                sem.working_distance,
                analysis=sem_analysis,
                depth_of_field_um=5.0,
                stigmators=(sem.stigmator_x, sem.stigmator_y),
                um_per_unit=20.0,
            )
        )
        assert verdict.parameters["stigmators"]["names"] == ["sem_stigmator_x", "sem_stigmator_y"]
        assert "sem_stigmator_x" in documents.events(STREAM)[0]


class TestBadInput:
    @pytest.fixture(autouse=True)
    def nothing_happens(self, bench, documents):
        yield
        assert bench.exposures == 0 and bench.stands_at == [bench.start_um, 0.0, 0.0]
        assert documents.events(STREAM) == documents.events("verdict") == []

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"depth_of_field_um": 0.0}, "depth_of_field_um must be positive"),
            ({"offset_um": -1.0}, "offset_um must be positive"),
            ({"accept_um": math.nan}, "accept_um must be positive"),
            ({"axis_sign": 0}, r"axis_sign must be \+1 or -1, got 0"),
            ({"budget": 3}, "budget must allow at least 4 exposures for 'two_exposure' with verify, got 3"),
            ({"budget": 1, "verify": False}, "at least 2 exposures for 'two_exposure', got 1"),
            ({"travel_um": (5.0, 5.0)}, "travel_um must be two finite positions"),
            ({"dose_budget_s": -1.0}, "dose_budget_s must be finite and not negative"),
            ({"um_per_unit": 20.0}, "um_per_unit is that of stigmators, and there are none"),
        ],
    )
    def test_before_the_first_message(self, bench, pairs, messages, run, options, message):
        with pytest.raises(ValueError, match=message):
            run(focus(bench, pairs(), **options))
        assert {msg.command for msg in messages} == {"open_run", "close_run"}

    @pytest.mark.parametrize(
        ("um_per_unit", "message"),
        [
            (None, "stigmators need um_per_unit"),
            (0.0, "um_per_unit must be a finite number other than 0"),
            (math.inf, "um_per_unit must be a finite number"),
            ("twenty", "um_per_unit must be a finite number"),
            ([[1.0, 1.0], [1.0, 1.0]], "2 x 2 that can be inverted"),
            ([1.0, 2.0], "2 x 2 that can be inverted"),
        ],
    )
    def test_stigmators_of_no_strength(self, bench, pairs, messages, run, um_per_unit, message):
        with pytest.raises(ValueError, match=message):
            run(stigmate(bench, pairs(), um_per_unit=um_per_unit))
        assert {msg.command for msg in messages} == {"open_run", "close_run"}

    def test_one_stigmator(self, bench, pairs, run):
        with pytest.raises(ValueError, match="stigmators must be two, .*; got 1"):
            run(stigmate(bench, pairs(), stigmators=bench.stigmators[:1]))

    def test_an_analysis_that_tells_no_astigmatism(self, bench, pairs, run):
        with pytest.raises(ValueError, match="'two_exposure' does not tell the astigmatism"):
            run(stigmate(bench, pairs(astigmatism=False)))

    def test_an_analysis_that_compares_nothing(self, bench, analysis, run):
        with pytest.raises(
            ValueError, match="'sharpness' does not compare two exposures: TwoExposureAnalysis"
        ):
            run(focus(bench, analysis))

    def test_a_travel_range_without_the_first_frames(self, bench, pairs, run):
        with pytest.raises(ValueError, match=r"travel_um \(9.5, 20.0\) must contain 9.3 .. 11.3 um"):
            run(focus(bench, pairs(), travel_um=(9.5, 20.0)))

    def test_not_subscribed(self, bench, run):
        deaf = TwoExposureAnalysis(KnowingPair(), name="deaf", pixel_size_um=0.05)
        with pytest.raises(NotSubscribedError, match="'deaf'.*subscribe it before the run starts"):
            run(focus(bench, deaf))


def test_limits_without_the_first_frames(make_pair_bench, pairs, run):
    bench = make_pair_bench(limits=(-100.0, FOCUS_UM + 3.5))
    with pytest.raises(LimitError):
        run(focus(bench, pairs()))
    assert (bench.exposures, bench.axis.position) == (0, bench.start_um)


class TestRuns:
    @pytest.mark.parametrize("travel_um", [None, (0.0, 20.0)])
    def test_a_dry_run(self, bench, pairs, travel_um):
        plan = list(stigmate(bench, pairs(), travel_um=travel_um))
        sets = [msg.args[0] for msg in plan if msg.command == "set" and msg.obj is bench.axis]
        middle = sum(travel_um or (0.0, 0.0)) / 2
        assert sets[:2] == [middle - 1, middle + 1]
        assert {msg.obj for msg in plan if msg.command == "set"} == {bench.axis, *bench.stigmators}
        assert (bench.exposures, bench.stands_at) == (0, [bench.start_um, 0.0, 0.0])

    def test_a_summary(self, bench, pairs, capsys):
        summarize_plan(focus(bench, pairs()))
        said = capsys.readouterr().out
        assert said.count("z -> ") >= 4 and "Read ['camera'" in said

    def test_by_its_name(self, RE, bench, pairs, documents):
        assert METHODS["two_exposure"] is two_exposure_focus
        RE(
            autofocus(
                [bench.camera],
                bench.axis,
                analysis=pairs(),
                method="two_exposure",
                depth_of_field_um=DOF_UM,
                md={"sample": "slide"},
            )
        )
        (start,) = documents.named("start")
        assert (start["method"], start["sample"]) == ("two_exposure", "slide")
        (recorded,) = documents.events("verdict")
        assert (recorded["verdict_method"], recorded["verdict_found"]) == ("two_exposure", True)
        assert documents.named("stop")[0]["exit_status"] == "success"

    def test_within_another_run(self, RE, bench, pairs, documents):
        """Twice, among exposures of another kind: no frame of one gets into a pair of the other."""
        analysis, verdicts = pairs(), []

        @bpp.run_decorator(md={"purpose": "time-lapse"})
        def plan():
            for moved_um in (0.0, -4.0):
                yield from bps.mvr(bench.axis, moved_um)
                yield from bps.trigger_and_read([bench.camera, bench.axis], name="primary")
                verdicts.append((yield from focus(bench, analysis)))

        RE(plan())
        assert [verdict.found for verdict in verdicts] == [True, True]
        assert bench.axis.position == pytest.approx(FOCUS_UM, abs=1e-4)
        assert [second - first for first, second in analysis.estimator.seen] == pytest.approx(4 * [2.0])


class TestDocuments:
    """What the analysis must be told of a frame, and by whom."""

    def test_frames_that_belong_to_no_pair(self, RE, sem, sem_analysis):
        RE(bp.count([sem]))
        with pytest.raises(AnalysisError, match="no document says to which pair.*pair_operation, pair_last"):
            sem_analysis.reading("primary")

    def test_a_beam_that_converges_otherwise(self, RE, sem, run):
        made = TwoExposureAnalysis(TwoExposureEstimator(BeamTransfer(12.0)))
        RE.subscribe(made)
        with pytest.raises(AnalysisError, match="convergence_mrad is 10: this estimator was made for 12"):
            run(
                two_exposure_focus([sem], sem.working_distance, analysis=made, depth_of_field_um=DOF_UM),
            )
        assert sem.working_distance.position == 10_030.0

    def test_another_objective(self, RE, bench, run):
        estimator = TwoExposureEstimator(LightTransfer(HOECHST_20X))
        made = TwoExposureAnalysis(estimator, optics=replace(HOECHST_20X, numerical_aperture=0.5))
        RE.subscribe(made)
        with pytest.raises(AnalysisError, match="numerical_aperture"):
            run(focus(bench, made))
        assert bench.axis.position == bench.start_um

    def test_pixels_of_unknown_size(self, RE, bench, run):
        made = TwoExposureAnalysis(KnowingPair())
        RE.subscribe(made)
        with pytest.raises(AnalysisError, match="no document says how large a pixel is"):
            run(focus(bench, made))
        with pytest.raises(ValueError, match="pixel_size_um must be positive and finite, got 0"):
            TwoExposureAnalysis(KnowingPair(), pixel_size_um=0)

    def test_an_axis_that_is_stuck(self, bench, pairs, run):
        """Two frames of one place are no pair."""
        analysis = pairs()

        def done(value):
            status = Status(bench.axis)
            status.set_finished()
            return status

        bench.axis.set = done
        verdict = run(focus(bench, analysis))
        assert (verdict.found, str(verdict.reason), verdict.exposures) == (False, "incomplete", 2)
        assert analysis.estimator.seen == []


class TestSessions:
    """The simulated instruments that have the analysis with them."""

    @pytest.mark.parametrize(
        ("name", "device", "options", "within_dof"),
        [
            ("sem", "sem", {"scene": "tissue", "defocus_um": -40.0, "astigmatism_um": (12.0, -7.0)}, 0.05),
            ("nuclei", "microscope", {"frame_px": 256, "defocus_um": 9.0}, 0.3),
        ],
    )
    def test_they_focus(self, tmp_path, name, device, options, within_dof):
        with open_session(name, catalog=tmp_path, show=None, clock=VirtualClock(), **options) as session:
            instrument = session.instrument.devices[device]
            session.RE(session.focus(method="two_exposure"))
            verdict = session.db[-1]["verdict"].read()
            assert verdict["verdict_found"].values.tolist() == [True]
            assert verdict["verdict_exposures"].item() <= 6
            off_um = verdict["verdict_position_um"].item() - instrument.focus_um
            assert abs(off_um) < within_dof * instrument.depth_of_field_um
            if name == "sem":
                assert instrument.stigmator_x.get() == pytest.approx(-0.6, abs=0.03)
                assert instrument.stigmator_y.get() == pytest.approx(0.35, abs=0.03)


class TestInterrupted:
    """Axis and stigmators go back, whatever happens and wherever."""

    CASES = {
        "contradicted": ({"says": lambda _: 2.0}, {}, False),
        "believed": ({}, {"verify": False, "budget": 2}, True),
    }

    @pytest.fixture
    def case(self, request, make_pair_bench, pairs):
        """Return a bench, a function that makes the plan, and whether it finds the focus."""
        judge, options, found = self.CASES[request.param]
        bench, analysis = make_pair_bench(stigmators=(0.5, -0.25)), pairs(residual_um=(12.0, -7.0), **judge)
        approach = Approach(overshoot_um=1.0)
        return bench, lambda: stigmate(bench, analysis, approach=approach, **options), found

    @pytest.fixture
    def count(self, run, messages):
        def count(plan):
            run(plan)
            number = len(messages) - 2  # open_run, close_run
            messages.clear()
            return number

        return count

    @staticmethod
    def put_at_start(bench):
        for one, value in zip((bench.axis, *bench.stigmators), (bench.start_um, *bench.before), strict=True):
            one.set(value).wait(1)

    def unharmed(self, RE, bench, documents, where):
        assert bench.stands_at == pytest.approx([bench.start_um, *bench.before], abs=1e-9), where
        assert RE.state == "idle", where
        assert len(documents.named("start")) == len(documents.named("stop")), where
        documents.clear()

    @pytest.mark.parametrize("case", CASES, indirect=True)
    def test_an_exception_at_every_message(self, RE, documents, run, count, case):
        bench, make, _ = case
        messages = count(make())
        assert messages > 30
        for index in range(messages):
            self.put_at_start(bench)
            with pytest.raises(RuntimeError, match="thrown in place"):
                run(at_message(make(), index, throwing))
            assert documents.named("stop")[-1]["exit_status"] == "fail", index
            self.unharmed(RE, bench, documents, index)

    @pytest.mark.parametrize("case", ["believed"], indirect=True)
    def test_an_abort_at_every_message(self, RE, documents, run, count, case):
        bench, make, _ = case
        for index in range(count(make())):
            self.put_at_start(bench)
            with pytest.raises(RunEngineInterrupted):
                run(at_message(make(), index, pausing))
            if RE.state == "paused":
                RE.abort()
            self.unharmed(RE, bench, documents, index)

    @pytest.mark.parametrize("case", ["believed"], indirect=True)
    def test_a_pause_at_every_message(self, RE, documents, run, count, case):
        bench, make, found = case
        self.put_at_start(bench)
        messages = count(make())
        keys = ("z", "stig_x", "stig_y", "pair_last")
        expected = [[data[key] for key in keys] for data in documents.events(STREAM)]
        (undisturbed,) = documents.events("verdict")
        stands_at = bench.stands_at
        assert undisturbed["verdict_found"] is found
        for index in range(messages):
            self.put_at_start(bench)
            documents.clear()
            with pytest.raises(RunEngineInterrupted):
                run(at_message(make(), index, pausing))
            RE.resume()
            assert documents.named("stop")[-1]["exit_status"] == "success"
            uids = {doc["uid"] for doc in documents.named("descriptor") if doc["name"] == STREAM}
            newest = {doc["seq_num"]: doc for doc in documents.named("event") if doc["descriptor"] in uids}
            assert [[doc["data"][key] for key in keys] for doc in newest.values()] == expected, index
            (verdict,) = documents.events("verdict")[-1:]
            for key in ("found", "reason", "position_um", "exposures", "start_um"):
                value = verdict[f"verdict_{key}"]
                assert value == pytest.approx(undisturbed[f"verdict_{key}"], nan_ok=True), (index, key)
            linked = json.loads(verdict["verdict_event_uids"])
            assert linked == [doc["uid"] for doc in newest.values()], index
            assert bench.stands_at == pytest.approx(stands_at, abs=1e-9), index

    def test_a_stigmator_that_fails(self, bench, pairs, run):
        def stuck(value):
            raise OSError("stigmator")

        bench.stigmators[1].set = stuck
        with pytest.raises(OSError, match="stigmator"):
            run(stigmate(bench, pairs(residual_um=(12.0, 0.0))))
        assert bench.stands_at[:2] == pytest.approx([bench.start_um, 0.0])

    def test_the_analysis_fails(self, bench, pairs, run):
        def fails(defocus_um):
            raise ArithmeticError("of the fit")

        with pytest.raises(AnalysisError, match="'two_exposure' failed: of the fit"):
            run(stigmate(bench, pairs(fails)))
        assert bench.stands_at == [bench.start_um, 0.0, 0.0]


class TestSEM:
    """The simulated microscope, real frames, a real catalogue."""

    def options(self, sem):
        return {
            "depth_of_field_um": sem.depth_of_field_um,
            "stigmators": (sem.stigmator_x, sem.stigmator_y),
            "um_per_unit": 20.0,
        }

    def test_found_and_read_again(self, RE, make_sem, sem_analysis, tmp_path):
        catalog = open_catalog(tmp_path / "data")
        try:
            catalog.subscribe(RE)
            sem = make_sem(working_distance_um=10_015.0, frame_directory=catalog.frame_directory)
            sem.stigmator_x.put(-0.5)
            options = {"analysis": sem_analysis, "method": "two_exposure", **self.options(sem)}
            RE(autofocus([sem], sem.working_distance, **options))
            run = catalog.client[-1]
            verdict = run["verdict"].read()
            assert verdict["verdict_found"].values.tolist() == [True]
            assert verdict["verdict_exposures"].values.tolist() == [4]
            assert sem.working_distance.position == pytest.approx(10_000.0, abs=0.1 * sem.depth_of_field_um)
            assert sem.stigmator_x.get() == pytest.approx(0.0, abs=0.1)
            live = run["reading_two_exposure"].read()["two_exposure_value"].values
            (again,) = analyse(run, sem_analysis).values()
            assert [reading.value for reading in again] == pytest.approx(list(live), nan_ok=True, abs=0)
            assert [str(reading.reason) for reading in again] == ["incomplete", "ok"] * 2
        finally:
            catalog.close()

    def test_the_last_step_of_a_search(self, make_sem, sem_analysis, analysis, run):
        """From far away: what a search has found is near enough for two exposures."""
        sem = make_sem(working_distance_um=10_080.0)
        verdicts = []

        def both():
            verdicts.append(
                (
                    yield from search_focus(
                        [sem],
                        sem.working_distance,
                        analysis=analysis,
                        range_um=200.0,
                        depth_of_field_um=sem.depth_of_field_um,
                    )
                )
            )
            return (
                yield from two_exposure_focus(
                    [sem],
                    sem.working_distance,
                    analysis=sem_analysis,
                    verify=False,
                    budget=2,
                    **self.options(sem),
                )
            )

        last = run(both())
        assert verdicts[0].found and last.found
        assert last.position_um == pytest.approx(10_000.0, abs=0.05 * sem.depth_of_field_um)
        assert last.sigma_um < verdicts[0].sigma_um
