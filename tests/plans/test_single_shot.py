import itertools
import json
import math
from functools import partial

import pytest
from bluesky import preprocessors as bpp
from bluesky.simulators import summarize_plan
from bluesky.utils import FailedStatus
from ophyd.status import DeviceStatus

from bluesky_autofocus.callbacks import AnalysisError, SharpnessAnalysis
from bluesky_autofocus.defocus import DefocusEstimate
from bluesky_autofocus.leds import Single
from bluesky_autofocus.plans import (
    METHODS,
    Approach,
    UnknownMethodError,
    autofocus,
    brent_focus,
    single_shot_focus,
)
from bluesky_autofocus.plans._criteria import Criteria, Estimate
from bluesky_autofocus.records import Reason
from bluesky_autofocus.simulation.motion import AxisMechanics

LED = Single(0.4, 0.0)


def throwing(message):
    yield from ()
    raise RuntimeError(f"thrown in place of {message.command}")


def focus(bench, measuring, **options):
    options = {"leds": bench.leds, "analysis": measuring, **options}
    return single_shot_focus(bench.detectors, bench.axis, **options)


@pytest.fixture
def bench(light_bench):
    return light_bench


@pytest.fixture
def as_before(documents):
    """Return what must hold of a bench where no focus was found."""

    def check(bench, verdict, reason):
        assert (verdict.found, verdict.reason) == (False, reason)
        assert math.isnan(verdict.position_um)
        assert bench.axis.position == bench.start_um
        assert bench.leds.pattern.get() == bench.before
        (recorded,) = documents.events("verdict")
        assert recorded["verdict_reason"] == reason

    return check


class TestFound:
    def test_one_exposure_one_move_one_look(self, bench, single_shot, documents, run):
        verdict = run(focus(bench, single_shot()))
        assert verdict.found
        assert verdict.position_um == pytest.approx(bench.focus_um, abs=1e-3)
        assert bench.axis.position == verdict.position_um
        assert verdict.sigma_um == pytest.approx(0.1), "errors of one specimen do not average out"
        assert (verdict.exposures, verdict.method, verdict.model_hash) == (2, "single_shot", "0123abcd")
        exposures = documents.events("focus_single_shot")
        assert [event["z"] for event in exposures] == pytest.approx([-11.0, 7.3], abs=1e-3)
        assert {event["leds"] for event in exposures} == {str(LED)}
        assert [event["leds_na_x"] for event in exposures] == pytest.approx([0.4, 0.4])
        readings = documents.events("reading_single_shot")
        assert [reading["single_shot_value"] for reading in readings] == pytest.approx([-18.3, 0], abs=1e-3)
        assert [reading["single_shot_unit"] for reading in readings] == ["um", "um"]
        assert [reading["single_shot_event_uid"] for reading in readings] == list(verdict.event_uids)
        assert bench.leds.pattern.get() == bench.before

    def test_without_a_look(self, bench, single_shot, run):
        verdict = run(focus(bench, single_shot(), verify=False, budget=1))
        assert (verdict.found, verdict.exposures, bench.moves.calls) == (True, 1, 1)
        assert bench.axis.position == verdict.position_um == pytest.approx(bench.focus_um, abs=1e-3)

    def test_an_axis_that_runs_the_other_way(self, bench, single_shot, run):
        """Position 7.3 is in focus and the defocus rises as the position falls."""
        verdict = run(focus(bench, single_shot(lambda defocus_um: -defocus_um), axis_sign=-1))
        assert verdict.found
        assert verdict.position_um == pytest.approx(bench.focus_um, abs=1e-3)

    def test_repeats_what_was_not_near_enough(self, bench, single_shot, documents, run):
        """A prediction that falls short by 30 % far out converges."""
        analysis = single_shot(lambda defocus_um: 0.7 * defocus_um)
        verdict = run(focus(bench, analysis, budget=6))
        assert (verdict.found, verdict.exposures) == (True, 5)
        assert verdict.position_um == pytest.approx(bench.focus_um, abs=0.3)
        moved = [event["z"] for event in documents.events("focus_single_shot")]
        assert moved == sorted(moved)

    @pytest.mark.parametrize(
        ("options", "exposures"), [({"accept_um": 2.0}, 3), ({"depth_of_field_um": 2.7}, 4), ({}, 5)]
    )
    def test_near_enough_is_told(self, bench, single_shot, run, options, exposures):
        """Of 18.3 um remain 5.5, 1.6, 0.5, 0.15 um, of which 70 % are seen."""
        analysis = single_shot(lambda defocus_um: 0.7 * defocus_um)
        assert run(focus(bench, analysis, budget=9, **options)).exposures == exposures

    def test_the_two_frames_are_weighted(self, bench, single_shot, run):
        """The first errs by 0.8 um and says so; the second is sure."""

        def says(defocus_um):
            far = abs(defocus_um) > 5
            return DefocusEstimate(defocus_um + 0.8 * far, 0.4 if far else 0.3)

        verdict = run(focus(bench, single_shot(says)))
        weight = 0.3**2 / (0.3**2 + 0.4**2)
        assert verdict.position_um == pytest.approx(bench.focus_um - 0.8 * weight, abs=1e-3)
        assert verdict.sigma_um == pytest.approx(weight * 0.4 + (1 - weight) * 0.3)
        assert bench.axis.position == verdict.position_um

    def test_through_backlash_and_noise(self, make_light_bench, single_shot, run):
        bench = make_light_bench(mechanics=AxisMechanics(backlash_um=3.0, readback_noise_um=0.02))
        verdict = run(focus(bench, single_shot(), approach=Approach(overshoot_um=4.0), budget=6))
        assert verdict.found
        # the first frame is taken before the backlash is taken up
        assert bench.axis.load_um == pytest.approx(bench.focus_um, abs=0.4)

    def test_the_parameters_are_recorded(self, bench, single_shot, documents, run):
        run(focus(bench, single_shot(), travel_um=(-20, 30), accept_um=0.5))
        (recorded,) = documents.events("verdict")
        parameters = json.loads(recorded["verdict_parameters"])
        assert parameters["leds"] == [str(LED)]
        assert parameters["travel_um"] == [-20, 30]
        assert parameters["accept_um"] == 0.5
        assert parameters["analysis"]["estimator"] == {"kind": "knowing"}
        assert recorded["verdict_model_hash"] == "0123abcd"


class TestNotFound:
    @pytest.mark.parametrize("at", [0, 1])
    def test_refused(self, bench, single_shot, as_before, run, at):
        def says(defocus_um):
            refused = (abs(defocus_um) < 1) == bool(at)
            return DefocusEstimate.refused(Reason.UNFAMILIAR) if refused else defocus_um

        verdict = run(focus(bench, single_shot(says)))
        assert verdict.exposures == 1 + at
        as_before(bench, verdict, "unfamiliar")

    def test_black(self, make_light_bench, single_shot, as_before, run):
        bench = make_light_bench()
        bench.camera.render = lambda: bench.frame(0.0) * 0
        as_before(bench, run(focus(bench, single_shot())), "black")

    @pytest.mark.parametrize("options", [{"travel_um": (-20.0, 5.0)}, {}])
    def test_out_of_reach(self, make_light_bench, single_shot, as_before, run, options):
        bench = make_light_bench() if options else make_light_bench(limits=(-100.0, 7.0))
        as_before(bench, run(focus(bench, single_shot(), **options)), "out_of_reach")
        assert bench.moves.calls == 0

    def test_beyond_what_the_analysis_can_measure(self, make_light_bench, single_shot, as_before, run):
        bench = make_light_bench(start_um=-50.0)
        as_before(bench, run(focus(bench, single_shot())), "out_of_reach")
        assert bench.moves.calls == 0

    def test_the_wrong_sign(self, bench, single_shot, as_before, run):
        """As the sign of a single LED may be on a specimen that the model does not know."""
        verdict = run(focus(bench, single_shot(lambda defocus_um: -defocus_um / 2)))
        assert verdict.exposures == 2
        as_before(bench, verdict, "worse_afterwards")

    def test_a_constant_answer(self, bench, single_shot, as_before, run):
        as_before(bench, run(focus(bench, single_shot(lambda defocus_um: 5.0))), "worse_afterwards")

    def test_the_budget_is_spent(self, bench, single_shot, as_before, run):
        verdict = run(focus(bench, single_shot(lambda defocus_um: 0.3 * defocus_um), budget=4))
        assert verdict.exposures == 4
        as_before(bench, verdict, "not_converged")

    def test_no_uncertainty_is_stated(self, bench, single_shot, as_before, run):
        analysis = single_shot(lambda defocus_um: DefocusEstimate(defocus_um, math.nan))
        as_before(bench, run(focus(bench, analysis)), "not_finite")

    @pytest.mark.parametrize("verify", [True, False])
    def test_uncertain(self, bench, single_shot, as_before, run, verify):
        analysis = single_shot(sigma_um=1.0)
        as_before(bench, run(focus(bench, analysis, depth_of_field_um=2.7, verify=verify)), "uncertain")


class TestNearFocus:
    """A second frame from where the first one was taken tells nothing: it is taken aside."""

    @pytest.fixture
    def near(self, make_light_bench):
        def near(defocus_um, **options):
            return make_light_bench(start_um=7.3 + defocus_um, **options)

        return near

    @pytest.mark.parametrize("options", [{}, {"depth_of_field_um": 2.7}, {"accept_um": 2.0}])
    @pytest.mark.parametrize("blur_um", [-20.0, 0.0, 1.5])
    @pytest.mark.parametrize("sigma_um", [0.1, 0.3])
    def test_an_answer_that_never_changes(
        self, near, single_shot, as_before, run, options, blur_um, sigma_um
    ):
        """As a model may give to whatever it has never seen."""
        for says in (0.0, 0.2, -0.2):
            bench = near(blur_um)
            analysis = single_shot(lambda _, says=says: says, sigma_um=sigma_um)
            verdict = run(focus(bench, analysis, budget=9, **options))
            assert (verdict.found, str(verdict.reason)) == (False, "worse_afterwards")
            assert bench.axis.position == bench.start_um
            assert bench.leds.pattern.get() == bench.before

    @pytest.mark.parametrize("sigma_um", [0.0, 1.0])
    def test_however_sure_it_is(self, near, single_shot, as_before, run, sigma_um):
        """One micron aside is nothing to a model that is not sure, and it is not enough to be found."""
        bench = near(-20.0)
        verdict = run(focus(bench, single_shot(lambda _: 0.0, sigma_um=sigma_um), budget=9))
        as_before(bench, verdict, "worse_afterwards")

    @pytest.mark.parametrize("options", [{}, {"depth_of_field_um": 2.7}, {"accept_um": 2.0}])
    @pytest.mark.parametrize("defocus_um", [0.0, 0.1, -0.1, 1.9, -2.6, 2.6, 2.8])
    @pytest.mark.parametrize("axis_sign", [1, -1])
    def test_a_true_answer_takes_as_many_exposures(
        self, near, single_shot, run, options, defocus_um, axis_sign
    ):
        bench = near(defocus_um)
        analysis = single_shot(lambda truth_um: axis_sign * truth_um)
        verdict = run(focus(bench, analysis, axis_sign=axis_sign, **options))
        assert (verdict.found, verdict.exposures) == (True, 2)
        assert bench.axis.position == verdict.position_um == pytest.approx(bench.focus_um, abs=1e-3)

    @pytest.mark.parametrize(
        ("defocus_um", "options", "at_um"),
        [
            (0.5, {"depth_of_field_um": 2.7}, 7.3 - 2.7),
            (-0.5, {"depth_of_field_um": 2.7}, 6.8 - 2.7),
            (-0.5, {"depth_of_field_um": 2.7, "approach": Approach(-1)}, 7.3 + 2.7),
            (0.5, {"depth_of_field_um": 2.7, "travel_um": (5.0, 20.0)}, 7.8 + 2.7),
            (0.2, {}, 6.3),
            (0.2, {"accept_um": 2.0}, 3.3),
            (3.0, {"depth_of_field_um": 2.7}, 7.3),
            (0.4, {}, 7.3),
        ],
    )
    def test_where_it_looks(self, near, single_shot, documents, run, defocus_um, options, at_um):
        bench = near(defocus_um)
        assert run(focus(bench, single_shot(), **options)).found
        exposures = documents.events("focus_single_shot")
        assert [event["z"] for event in exposures] == pytest.approx([7.3 + defocus_um, at_um], abs=1e-3)

    def test_within_the_limits_of_the_axis(self, near, single_shot, documents, run):
        bench = near(0.5, limits=(6.0, 30.0))
        verdict = run(focus(bench, single_shot(), depth_of_field_um=2.7))
        assert verdict.found and bench.axis.position == pytest.approx(7.3, abs=1e-3)
        assert documents.events("focus_single_shot")[1]["z"] == pytest.approx(10.5, abs=1e-3)

    @pytest.mark.parametrize("options", [{"travel_um": (5.0, 10.0)}, {}])
    def test_no_room(self, near, single_shot, as_before, run, options):
        bench = near(0.5) if options else near(0.5, limits=(5.0, 10.0))
        verdict = run(focus(bench, single_shot(), depth_of_field_um=2.7, **options))
        assert bench.moves.calls == 0
        as_before(bench, verdict, "out_of_reach")

    def test_an_answer_that_falls_short_is_looked_at_again(self, near, single_shot, documents, run):
        """Aside it follows well enough to be believed at the next look, which is at the focus."""
        bench = near(1.0)
        verdict = run(focus(bench, single_shot(lambda truth_um: 0.7 * truth_um), depth_of_field_um=2.7))
        assert (verdict.found, verdict.exposures) == (True, 3)
        assert verdict.position_um == pytest.approx(bench.focus_um, abs=0.7)

    def test_an_axis_that_is_stuck(self, near, single_shot, as_before, run):
        """It says that it arrived, and the frames say that it did not."""
        bench = near(0.0)
        frame = bench.frame
        bench.camera.render = lambda: frame(bench.start_um)
        verdict = run(focus(bench, single_shot(), depth_of_field_um=2.7))
        as_before(bench, verdict, "worse_afterwards")

    @pytest.mark.parametrize("what", ["camera", "axis"])
    @pytest.mark.parametrize("at", [0, 1])
    def test_all_is_put_back_when_it_fails_aside(self, near, single_shot, run, what, at):
        def fails():
            raise OSError("no answer")

        bench = near(0.5)
        failing = bench.triggers if what == "camera" else bench.moves
        failing.fails_at, failing.fails_with = at, fails
        with pytest.raises(OSError, match="no answer"):
            run(focus(bench, single_shot(), depth_of_field_um=2.7))
        assert bench.axis.position == bench.start_um
        assert bench.leds.pattern.get() == bench.before

    def test_an_exception_at_every_message(self, near, single_shot, messages, run):
        bench = near(0.5)
        make = partial(focus, bench, single_shot(), depth_of_field_um=2.7, approach=Approach(overshoot_um=1))
        assert run(make()).found
        count = len(messages) - 2  # open_run, close_run
        for index in range(count):
            bench.axis.set(bench.start_um).wait(1)
            seen = itertools.count()

            def instead(message, seen=seen, index=index):
                return (throwing(message) if next(seen) == index else None), None

            with pytest.raises(RuntimeError, match="thrown in place"):
                run(bpp.plan_mutator(make(), instead))
            assert bench.axis.position == pytest.approx(bench.start_um, abs=1e-9), index
            assert bench.leds.pattern.get() == bench.before, index
            assert not bench.pending, index

    def test_without_a_look(self, near, single_shot, run):
        bench = near(0.5)
        verdict = run(focus(bench, single_shot(), verify=False, budget=1, depth_of_field_um=2.7))
        assert (verdict.found, verdict.exposures, bench.moves.calls) == (True, 1, 1)

    def test_a_dry_run(self, bench, single_shot):
        plan = focus(bench, single_shot(), depth_of_field_um=2.7)
        of_axis = [message for message in plan if message.obj is bench.axis]
        assert [message.args[0] for message in of_axis if message.command == "set"] == [-2.7, 0.0]
        assert bench.moves.calls == 0

    @pytest.mark.parametrize("limits", [(-100.0, 100.0), (1000.0, 40_000.0)])
    def test_a_dry_run_knows_not_where_the_axis_is(self, make_light_bench, single_shot, limits):
        """It is not near 0 um, say, where the limits of a working distance are elsewhere."""
        bench = make_light_bench(start_um=sum(limits) / 2, limits=limits)
        plan = focus(bench, single_shot(), depth_of_field_um=2.7)
        assert [message.obj for message in plan if message.command == "trigger"].count(bench.camera) == 2
        assert bench.triggers.calls == 0


class TestErrors:
    """Frames that the analysis is not made for: an error that says so, and all is as before."""

    @pytest.fixture(autouse=True)
    def nothing_moved(self, bench):
        yield
        assert bench.axis.position == bench.start_um
        assert bench.leds.pattern.get() == bench.before

    def test_another_objective(self, bench, single_shot, run):
        bench.objective.numerical_aperture.put(0.75)
        with pytest.raises(AnalysisError, match="made for NA 0.5, the objective has 0.75"):
            run(focus(bench, single_shot()))

    def test_an_array_that_was_not_calibrated(self, bench, single_shot, run):
        bench.leds.calibrate(None)
        with pytest.raises(AnalysisError, match="'leds' was not calibrated.*calibrate_leds"):
            run(focus(bench, single_shot()))

    def test_optics_that_nothing_says(self, bench, single_shot, run):
        bench.detectors = [bench.camera]
        with pytest.raises(AnalysisError, match="no document says the numerical_aperture"):
            run(focus(bench, single_shot()))

    def test_the_light_fails(self, bench, single_shot, run):
        def fails():
            raise OSError("the array does not answer")

        bench.patterns.fails_at, bench.patterns.fails_with = 0, fails
        with pytest.raises(OSError, match="does not answer"):
            run(focus(bench, single_shot()))

    def test_the_light_fails_under_way(self, bench, single_shot, run):
        def fails():
            status = DeviceStatus(bench.leds)
            status.set_exception(OSError("a driver is hot"))
            return status

        bench.patterns.fails_at, bench.patterns.fails_with = 0, fails
        with pytest.raises(FailedStatus):
            run(focus(bench, single_shot()))

    def test_the_light_does_not_go_back_at_once(self, bench, single_shot, run):
        def fails():
            raise OSError("the array does not answer")

        bench.patterns.fails_at, bench.patterns.fails_with = 1, fails
        with pytest.raises(OSError, match="does not answer"):
            run(focus(bench, single_shot()))

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"budget": 1}, "budget must allow at least 2 exposures for 'single_shot' with verify, got 1"),
            ({"budget": 0, "verify": False}, "at least 1 exposures.*got 0"),
            ({"axis_sign": 0}, r"axis_sign must be \+1 or -1, got 0"),
            ({"accept_um": -1.0}, "accept_um must be positive and finite, got -1.0"),
            ({"depth_of_field_um": math.nan}, "depth_of_field_um must be positive and finite, got nan"),
            ({"travel_um": (5, 1)}, r"travel_um must be two finite positions.*\(5, 1\)"),
            ({"travel_um": (0, 1)}, r"travel_um \(0.0, 1.0\) must contain the start -11.0 um"),
            ({"analysis": SharpnessAnalysis()}, "'sharpness' does not measure the defocus under LEDs"),
            ({"leds": "leds"}, "leds must be readable and settable to a pattern, got 'leds'"),
            ({"fallback": brent_focus}, "needs a fallback_analysis"),
            (
                {"fallback": brent_focus, "fallback_analysis": 1, "fallback_pattern": "sunshine"},
                "'sunshine' is no illumination pattern",
            ),
        ],
    )
    def test_arguments(self, bench, single_shot, messages, run, options, named):
        with pytest.raises(ValueError, match=named):
            run(focus(bench, single_shot(), **options))
        assert not {"set", "trigger"} & {message.command for message in messages}

    def test_an_led_that_is_not_there(self, bench, single_shot, messages, run):
        with pytest.raises(ValueError, match="no LED within NA"):
            run(focus(bench, single_shot(led=Single(0.9, 0.0))))
        assert "set" not in {message.command for message in messages}

    def test_options_of_the_fallback(self, bench, single_shot, analysis, run):
        with pytest.raises(TypeError, match="colour"):
            run(
                focus(
                    bench,
                    single_shot(),
                    fallback="brent",
                    fallback_analysis=analysis,
                    fallback_options={"colour": 1},
                )
            )
        with pytest.raises(UnknownMethodError, match="'magic'.*brent"):
            run(focus(bench, single_shot(), fallback="magic", fallback_analysis=analysis))


class TestNotAllCanBePutBack:
    """What can be, is, though something else never obeys again; and the error says what that was."""

    @staticmethod
    def obeys_once(watched, error):
        method = watched.method

        def once(*args, **kwargs):
            if watched.calls > 1:
                raise error
            return method(*args, **kwargs)

        watched.method = once

    @pytest.mark.parametrize("says", [lambda defocus_um: 5.0, lambda defocus_um: defocus_um])
    def test_the_light(self, bench, single_shot, run, says):
        self.obeys_once(bench.patterns, OSError("the array does not answer"))
        with pytest.raises(OSError, match="does not answer"):
            run(focus(bench, single_shot(says)))
        assert bench.axis.position == bench.start_um
        assert bench.leds.pattern.get() == str(LED)

    def test_the_axis(self, bench, single_shot, run):
        self.obeys_once(bench.moves, RuntimeError("the axis is stuck"))
        with pytest.raises(RuntimeError, match="stuck"):
            run(focus(bench, single_shot(lambda defocus_um: 5.0)))
        assert bench.axis.position == bench.start_um - 5.0
        assert bench.leds.pattern.get() == bench.before


class TestFallback:
    @pytest.fixture
    def fall_back(self, bench, single_shot, analysis):
        def fall_back(says=lambda _: DefocusEstimate.refused(Reason.UNFAMILIAR), **options):
            options = {"fallback_options": {"bounds_um": bench.bounds_um}, **options}
            return focus(bench, single_shot(says), fallback="brent", fallback_analysis=analysis, **options)

        return fall_back

    def test_takes_over(self, bench, documents, fall_back, run):
        verdict = run(fall_back(approach=Approach(overshoot_um=1.0), travel_um=(-50, 60)))
        assert (verdict.method, verdict.found) == ("brent", True)
        assert bench.axis.position == verdict.position_um == pytest.approx(bench.focus_um, abs=0.1)
        assert bench.leds.pattern.get() == bench.before
        own, of_fallback = documents.events("verdict")
        assert (own["verdict_method"], own["verdict_reason"]) == ("single_shot", "unfamiliar")
        assert (of_fallback["verdict_method"], of_fallback["verdict_exposures"]) == (
            "brent",
            verdict.exposures,
        )
        parameters = json.loads(of_fallback["verdict_parameters"])
        assert parameters["travel_um"] == [-50, 60]
        assert parameters["approach"]["overshoot_um"] == 1.0
        assert {event["leds"] for event in documents.events("focus_brent")} == {"half_annulus_top"}

    def test_is_not_needed(self, bench, documents, fall_back, run):
        assert run(fall_back(lambda defocus_um: defocus_um)).method == "single_shot"
        assert len(documents.events("verdict")) == 1

    def test_does_not_find_it_either(self, bench, fall_back, run):
        verdict = run(fall_back(fallback_options={"bounds_um": (-20, 0)}, fallback_pattern="brightfield"))
        assert (verdict.method, verdict.reason) == ("brent", "edge")
        assert bench.axis.position == bench.start_um
        assert bench.leds.pattern.get() == bench.before

    def test_its_arguments_make_no_sense(self, bench, fall_back, run):
        with pytest.raises(ValueError, match="budget"):
            run(fall_back(fallback_options={"bounds_um": (-20, 0), "budget": 1}))
        assert bench.leds.pattern.get() == bench.before


class TestAsAPlan:
    def test_autofocus(self, RE, bench, single_shot, documents, messages):  # noqa: N803
        verdicts = []

        def plan():
            verdicts.append(
                (
                    yield from autofocus(
                        bench.detectors,
                        bench.axis,
                        analysis=single_shot(),
                        method="single_shot",
                        leds=bench.leds,
                    )
                )
            )

        RE(plan())
        assert verdicts[0].found
        (start,) = documents.named("start")
        json.dumps(start)
        staged = [message.obj for message in messages if message.command == "stage"]
        assert bench.leds in staged
        assert METHODS["single_shot"] is single_shot_focus

    def test_a_dry_run(self, bench, single_shot, capsys):
        def exposures_in(plan):
            return [message.command for message in plan if message.obj is bench.camera].count("trigger")

        analysis = single_shot()
        plan = focus(bench, analysis)
        summarize_plan(plan)
        assert "leds -> single(na=0.4, angle_deg=0)" in capsys.readouterr().out
        assert exposures_in(focus(bench, analysis)) == 2
        assert bench.moves.calls == bench.patterns.calls == bench.triggers.calls == 0
        longer = focus(bench, analysis, travel_um=(0, 9), fallback="brent", fallback_analysis=analysis)
        assert exposures_in(longer) == 2, "found: it is not needed"


class TestCriteria:
    """What follows from two estimates, without anything that moves."""

    def conclude(self, before, now, aside_um=0.0, **options):
        criteria = Criteria(**{"verify": True, "accept_um": None, "depth_of_field_um": None, **options})
        made = [None if one is None else Estimate(-one[0], *one) for one in (now, before)]
        conclusion = criteria.conclude(*made, aside_um)
        return "again" if conclusion is None else str(conclusion.reason)

    @pytest.mark.parametrize(
        ("before", "now", "expected"),
        [
            (None, (0.0, 0.1), "again"),
            ((10.0, 0.1), (0.29, 0.1), "found"),
            ((10.0, 0.1), (0.31, 0.1), "again"),
            ((10.0, 0.1), (-9.9, 0.1), "again"),
            ((10.0, 0.1), (-10.0, 0.1), "worse_afterwards"),
            ((10.0, 0.1), (25.0, 0.1), "worse_afterwards"),
            ((0.5, 1.0), (0.9, 0.1), "again"),
            ((10.0, 0.1), (math.nan, 0.1), "uncertain"),
            ((10.0, 0.1), (1.0, math.nan), "uncertain"),
            ((10.0, 0.0), (0.0, 0.0), "found"),
        ],
    )
    def test_by_the_uncertainties(self, before, now, expected):
        assert self.conclude(before, now) == expected

    def test_by_the_depth_of_field(self):
        assert self.conclude((10, 0.1), (0.6, 0.1), depth_of_field_um=2.7) == "found"
        assert self.conclude((10, 0.1), (0.7, 0.1), depth_of_field_um=2.7) == "again"
        assert self.conclude((10, 1.0), (0.6, 1.0), depth_of_field_um=2.7) == "uncertain"

    @pytest.mark.parametrize(
        ("before", "now", "expected"),
        [
            ((0.0, 0.1), (2.7, 0.1), "found"),
            ((0.0, 0.1), (3.3, 0.1), "found"),
            ((0.0, 0.1), (3.5, 0.1), "again"),
            ((0.0, 0.1), (0.0, 0.1), "worse_afterwards"),
            ((0.5, 0.1), (0.5, 0.1), "worse_afterwards"),
            ((0.0, 0.1), (1.4, 0.1), "again"),
            ((0.0, 0.1), (-2.7, 0.1), "worse_afterwards"),
            ((0.0, 0.9), (0.0, 0.9), "again"),
        ],
    )
    def test_aside(self, before, now, expected):
        assert self.conclude(before, now, aside_um=2.7, depth_of_field_um=2.7) == expected

    def test_where_to_look_next(self):
        criteria = Criteria(True, None, 2.0)
        assert criteria.look_from(Estimate(5.0, 3.0, 0.1), 8.0, False) == (5.0,)
        assert criteria.look_from(Estimate(5.0, 1.0, 0.1), 6.0, False) == (3.0, 8.0)
        assert criteria.look_from(Estimate(5.0, 1.0, 0.1), 6.0, False, -1) == (8.0, 3.0)
        assert criteria.look_from(Estimate(5.0, 1.0, 0.5), 6.0, False) == (2.0, 9.0)
        assert criteria.look_from(Estimate(5.0, 1.0, 0.1), 6.0, True) == (5.0,)
        assert Criteria(False, None, 2.0).look_from(Estimate(5.0, 1.0, 0.1), 6.0, False) == (5.0,)

    def test_without_a_look(self):
        assert self.conclude(None, (10, 0.1), verify=False) == "found"
        assert self.conclude(None, (10, 1.0), verify=False, depth_of_field_um=2.7) == "again"


def test_an_answer_that_does_not_change_is_not_believed_for_being_less_sure():
    """It says 5 um, and after moving by 5 um it says 5 um again, but twice as uncertain."""
    criteria = Criteria(True, None, None)
    before, now = Estimate(95.0, 5.0, 1.0), Estimate(90.0, 5.0, 2.0)
    assert criteria.conclude(now, before) is None
    near = Estimate(95.0, 2.0, 1.0)
    assert criteria.conclude(Estimate(95.0, 2.0, 1.0), near).found, "that is within what is not told apart"
