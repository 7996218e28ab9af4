"""No operation exposes its specimen for longer than it may."""

import inspect
import json
from functools import partial

import pytest
from bluesky import plan_stubs as bps
from bluesky import plans as bp
from bluesky.simulators import summarize_plan
from bluesky.utils import RunEngineInterrupted
from interrupting import at_message, pausing, throwing
from ophyd import Kind

from bluesky_autofocus.defocus import DefocusEstimate
from bluesky_autofocus.plans import (
    METHODS,
    EveryExposures,
    approach_focus,
    autofocus_wrapper,
    brent_focus,
    coarse_fine_focus,
    focus_if_blurred,
    key_frame_focus,
    search_focus,
    single_shot_focus,
    sweep_focus,
    two_led_focus,
)
from bluesky_autofocus.records import Reason
from bluesky_autofocus.search import LEAST_OCTAVE_EXPOSURES, BlurTrigger

EXPOSURE_S = 0.01


def spent_s(bench) -> float:
    return bench.triggers.calls * EXPOSURE_S


@pytest.fixture
def make_stub(make_bench, make_light_bench, analysis, single_shot, two_led, key_frame):
    """Return a function that makes a bench, and a function of the dose budget that makes a stub on it."""

    def make(method):
        light = make_light_bench(start_um=8.2)
        by_light = [light.detectors, light.axis]
        if method in ("brent", "sweep", "search"):
            bench = make_bench()
            stub = {"brent": brent_focus, "sweep": sweep_focus, "search": search_focus}[method]
            return bench, partial(
                stub, [bench.camera], bench.axis, analysis=analysis, bounds_um=bench.bounds_um
            )
        if method in ("single_shot", "two_led"):
            judge = {"single_shot": single_shot, "two_led": two_led}[method]()
            stub = {"single_shot": single_shot_focus, "two_led": two_led_focus}[method]
            return light, partial(stub, *by_light, leds=light.leds, analysis=judge)
        stub = {"key_frame": key_frame_focus, "coarse_fine": coarse_fine_focus}[method]
        return light, partial(stub, *by_light, analysis=key_frame())

    return make


LEAST = {
    "brent": 5,
    "sweep": 6,
    "search": LEAST_OCTAVE_EXPOSURES + 1,
    "single_shot": 2,
    "two_led": 4,
    "key_frame": 3,
    "coarse_fine": 9,
}
"""Exposures with which each can conclude anything."""


class TestEveryMethod:
    @pytest.mark.parametrize("method", LEAST)
    def test_too_little_for_any_conclusion_costs_nothing(self, run, documents, make_stub, method):
        bench, stub = make_stub(method)
        before_um = bench.axis.position
        verdict = run(stub(dose_budget_s=(LEAST[method] - 0.5) * EXPOSURE_S))
        assert (verdict.found, verdict.reason) == (False, Reason.DOSE_SPENT)
        assert (verdict.exposures, verdict.dose) == (0, 0.0)
        assert (bench.triggers.calls, bench.moves.calls) == (0, 0)
        assert bench.axis.position == before_um
        (recorded,) = documents.events("verdict")
        assert recorded["verdict_reason"] == "dose_spent"
        assert json.loads(recorded["verdict_parameters"])["dose_budget_s"] == pytest.approx(
            (LEAST[method] - 0.5) * EXPOSURE_S
        )

    @pytest.mark.parametrize("method", LEAST)
    def test_what_suffices_is_not_exceeded(self, run, make_stub, method):
        """Ten times 0.01 s are 0.1 s, whatever their sum is in floating point."""
        for exposures in (LEAST[method], 10, 13):
            bench, stub = make_stub(method)
            verdict = run(stub(dose_budget_s=exposures * EXPOSURE_S))
            assert verdict.reason is not Reason.DOSE_SPENT
            assert 0 < verdict.exposures <= exposures
            assert verdict.dose == pytest.approx(spent_s(bench))
            assert spent_s(bench) <= exposures * EXPOSURE_S * (1 + 1e-9)
        # frames of this bench lose all octaves alike, which one that compares octaves does not believe
        assert verdict.found or method == "search"

    @pytest.mark.parametrize("method", LEAST)
    def test_the_exposure_time_rises_meanwhile(self, run, documents, make_stub, method):
        """What was affordable is so no more: the next exposure is not taken, and the axis goes back."""
        bench, stub = make_stub(method)
        before_um, render = bench.axis.position, bench.camera.render

        def longer():
            bench.camera.exposure_s.put(1.0)
            return render()

        bench.camera.render = longer
        verdict = run(stub(dose_budget_s=0.5))
        assert verdict.reason is Reason.DOSE_SPENT
        assert (verdict.exposures, bench.triggers.calls) == (1, 1)
        assert bench.axis.position == before_um
        assert not hasattr(bench, "leds") or bench.leds.pattern.get() == bench.before

    @pytest.mark.parametrize("method", LEAST)
    def test_a_dry_run(self, make_stub, method, capsys):
        bench, stub = make_stub(method)
        summarize_plan(stub(dose_budget_s=10.0))
        assert "camera" in capsys.readouterr().out
        assert bench.triggers.calls == 0

    def test_every_method_has_the_option(self):
        def has_it(stub):
            return "dose_budget_s" in inspect.signature(stub).parameters

        # that one passes on what it is given
        assert {name for name, stub in METHODS.items() if not has_it(stub)} <= {"beside", "map"}


def test_a_sweep_spreads_what_it_may_spend(run, bench, analysis):
    """With half the exposures it looks at the whole range all the same."""
    verdict = run(
        sweep_focus(
            [bench.camera],
            bench.axis,
            analysis=analysis,
            bounds_um=bench.bounds_um,
            budget=40,
            dose_budget_s=0.2,
        )
    )
    assert verdict.found
    assert verdict.exposures == 20
    assert verdict.position_um == pytest.approx(bench.focus_um, abs=1.0)


def test_positions_that_are_too_many_cost_nothing(run, bench, analysis):
    options = {"analysis": analysis, "positions_um": range(-10, 20, 3), "confirm": False}
    stub = partial(sweep_focus, [bench.camera], bench.axis, **options)
    assert run(stub(dose_budget_s=0.09)).exposures == 0
    assert run(stub(dose_budget_s=0.1)).exposures == 10


def test_an_approach(run, tmp_path, make_bench, RE):  # noqa: N803
    """It runs towards focus as far as the dose goes, and comes back."""
    from bluesky_autofocus.callbacks import Analysis
    from bluesky_autofocus.devices import SimulatedRunningAxis
    from bluesky_autofocus.records import Reading

    bench = make_bench()
    axis = SimulatedRunningAxis(name="z", limits=(-100.0, 100.0), position_um=-60.0, velocity_limit_um_s=50.0)

    class Knowing(Analysis):
        unit = "um"

        def analyse_frame(self, frame):
            return Reading("", axis.load_um - 7.3, 0.1, "um")

    analysis = Knowing("knowing")
    RE.subscribe(analysis)
    stub = partial(
        approach_focus,
        [bench.camera],
        axis,
        analysis=analysis,
        default_velocity=1.0,
        class_width_um=6.0,
        travel_um=(-90.0, 90.0),
    )
    verdict = run(stub(dose_budget_s=0.05))
    assert verdict.reason is Reason.NOT_CONVERGED
    assert 0 < spent_s(bench) <= 0.05
    assert axis.position == pytest.approx(-60.0, abs=1e-6)
    assert run(stub(dose_budget_s=0.02)).exposures == 0


class TestFallback:
    @pytest.fixture
    def stub(self, light_bench, single_shot, analysis):
        refusing = single_shot(says=lambda defocus_um: DefocusEstimate.refused(Reason.UNFAMILIAR))
        return partial(
            single_shot_focus,
            light_bench.detectors,
            light_bench.axis,
            leds=light_bench.leds,
            analysis=refusing,
            fallback=brent_focus,
            fallback_analysis=analysis,
            fallback_options={"bounds_um": light_bench.bounds_um},
        )

    def test_it_gets_what_is_left(self, run, documents, light_bench, stub):
        verdict = run(stub(dose_budget_s=0.21))
        assert verdict.found
        single, brent = documents.events("verdict")
        assert single["verdict_reason"] == "unfamiliar"
        parameters = json.loads(brent["verdict_parameters"])
        assert parameters["dose_budget_s"] == pytest.approx(0.21 - single["verdict_dose"])
        assert spent_s(light_bench) <= 0.21

    def test_there_is_none_once_the_dose_is_spent(self, run, documents, light_bench, stub):
        assert run(stub(dose_budget_s=0.015)).method == "single_shot"
        assert len(documents.events("verdict")) == 1
        assert light_bench.patterns.calls == 0


class TestBlur:
    @pytest.fixture
    def stub(self, bench, analysis):
        return partial(
            focus_if_blurred,
            [bench.camera],
            bench.axis,
            analysis=analysis,
            trigger=BlurTrigger(),
            bounds_um=bench.bounds_um,
        )

    def test_the_look_is_counted(self, run, documents, bench, stub):
        verdict = run(stub(dose_budget_s=0.15))
        assert verdict.found
        assert verdict.dose == pytest.approx(spent_s(bench))
        assert spent_s(bench) <= 0.15
        inner = json.loads(documents.events("verdict")[0]["verdict_parameters"])
        assert inner["dose_budget_s"] == pytest.approx(0.14)

    def test_too_little_to_focus(self, run, bench, stub):
        verdict = run(stub(dose_budget_s=0.04))
        assert (verdict.reason, verdict.exposures) == (Reason.DOSE_SPENT, 1)
        assert bench.axis.position == bench.start_um

    def test_too_little_to_look(self, run, documents, bench, stub):
        verdict = run(stub(dose_budget_s=0.005))
        assert (verdict.reason, verdict.exposures, bench.triggers.calls) == (Reason.DOSE_SPENT, 0, 0)
        assert [event["verdict_reason"] for event in documents.events("verdict")] == ["dose_spent"]

    def test_a_dry_run(self, stub):
        assert any(msg.command == "trigger" for msg in stub(dose_budget_s=0.1))


@pytest.mark.parametrize("dose_budget_s", [-0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("method", LEAST)
def test_budgets_that_make_no_sense(run, make_stub, method, dose_budget_s):
    bench, stub = make_stub(method)
    with pytest.raises(ValueError, match="dose_budget_s must be finite and not negative, got"):
        run(stub(dose_budget_s=dose_budget_s))
    assert (bench.triggers.calls, bench.moves.calls) == (0, 0)


def test_a_camera_that_does_not_say_how_long_it_exposes(run, bench, analysis):
    bench.camera.exposure_s.kind = Kind.omitted
    stub = partial(brent_focus, [bench.camera], bench.axis, analysis=analysis, bounds_um=bench.bounds_um)
    with pytest.raises(ValueError, match=r"needs a key '\*_exposure_s' in what is read of camera"):
        run(stub(dose_budget_s=1.0))
    assert (bench.triggers.calls, bench.moves.calls) == (0, 0)
    assert run(stub()).found


class TestInterrupted:
    BUDGET_S = 2 * EXPOSURE_S

    @pytest.fixture
    def bench(self, make_light_bench):
        return make_light_bench(start_um=-1.0)

    @pytest.fixture
    def stub(self, bench, single_shot):
        """Return a function that makes a stub of 2 exposures, with dose for no more."""
        return partial(
            single_shot_focus,
            bench.detectors,
            bench.axis,
            leds=bench.leds,
            analysis=single_shot(),
            dose_budget_s=self.BUDGET_S,
        )

    @pytest.fixture
    def messages_of(self, run, messages):
        def count(stub):
            assert run(stub).found
            number = len(messages) - 2  # open_run, close_run
            messages.clear()
            return number

        return count

    def test_a_pause_at_every_message(self, RE, run, bench, stub, messages_of):  # noqa: N803
        """An exposure that is taken again is paid again: then the dose does not suffice to the end."""
        ended = set()
        for index in range(messages_of(stub())):
            bench.axis.set(bench.start_um).wait(1)
            before = bench.triggers.calls
            with pytest.raises(RunEngineInterrupted):
                run(at_message(stub(), index, pausing))
            RE.resume()
            assert (bench.triggers.calls - before) * EXPOSURE_S <= self.BUDGET_S * (1 + 1e-9), index
            assert bench.leds.pattern.get() == bench.before, index
            if bench.axis.position == bench.start_um:
                ended.add("dose spent")
            else:
                assert bench.axis.position == pytest.approx(bench.focus_um), index
                ended.add("found")
        assert ended == {"found", "dose spent"}

    def test_an_exception_at_every_message(self, RE, run, documents, bench, stub, messages_of):  # noqa: N803
        for index in range(messages_of(stub())):
            bench.axis.set(bench.start_um).wait(1)
            with pytest.raises(RuntimeError, match="thrown in place"):
                run(at_message(stub(), index, throwing))
            assert bench.axis.position == bench.start_um, index
            assert bench.leds.pattern.get() == bench.before, index
            assert RE.state == "idle"
            assert documents.named("stop")[-1]["exit_status"] == "fail"


def test_each_focusing_within_a_plan_has_its_budget(RE, bench, analysis, documents):  # noqa: N803
    def drifting():
        yield from bp.count([bench.camera], 4)

    RE(
        autofocus_wrapper(
            drifting(),
            "sweep",
            when=EveryExposures(2),
            detectors=[bench.camera],
            axis=bench.axis,
            analysis=analysis,
            bounds_um=bench.bounds_um,
            dose_budget_s=0.12,
        )
    )
    assert [event["verdict_dose"] for event in documents.events("verdict")] == pytest.approx([0.12, 0.12])
    assert bench.triggers.calls == 4 + 2 * 12


def test_the_meter_reads_the_time_that_is_set_now(RE, run, bench, analysis):  # noqa: N803
    """A plan that lengthens the exposure before it focuses gets fewer of them."""

    def plan():
        yield from bps.mv(bench.camera.exposure_s, 2 * EXPOSURE_S)
        return (
            yield from sweep_focus(
                [bench.camera],
                bench.axis,
                analysis=analysis,
                bounds_um=bench.bounds_um,
                dose_budget_s=0.2,
            )
        )

    verdict = run(plan())
    assert (verdict.exposures, verdict.dose) == (10, pytest.approx(0.2))
