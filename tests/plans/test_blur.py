import json
import math
from functools import partial

import numpy as np
import pytest
from interrupting import at_message, throwing

from bluesky_autofocus.callbacks import SharpnessAnalysis
from bluesky_autofocus.defocus import DefocusEstimate
from bluesky_autofocus.devices import SimulatedAxis
from bluesky_autofocus.plans import (
    brent_focus,
    coarse_fine_focus,
    focus_beside,
    focus_if_blurred,
    key_frame_focus,
    single_shot_focus,
)
from bluesky_autofocus.records import Reason
from bluesky_autofocus.search import BlurTrigger


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def look(bench, analysis, run, clock):
    """Return a function that runs `focus_if_blurred` once."""

    def look(trigger, bench=bench, **options):
        return run(
            focus_if_blurred(
                [bench.camera],
                bench.axis,
                **{
                    "analysis": analysis,
                    "trigger": trigger,
                    "bounds_um": bench.bounds_um,
                    "budget": 25,
                    "now_s": clock,
                    **options,
                },
            )
        )

    return look


def defocus(bench, distance_um):
    bench.axis.set(bench.axis.position + distance_um).wait(1)


def test_a_sharp_frame_costs_one_exposure(bench, look, documents):
    bench.axis.set(bench.focus_um).wait(1)
    moves = bench.moves.calls
    verdict = look(BlurTrigger(baseline=bench.score(bench.focus_um)))
    assert (verdict.found, verdict.reason) == (True, Reason.STILL_SHARP)
    assert verdict.exposures == bench.triggers.calls == len(documents.events("focus_blur")) == 1
    assert verdict.position_um == bench.focus_um
    assert bench.moves.calls == moves
    (recorded,) = documents.events("verdict")
    assert recorded["verdict_reason"] == "still_sharp"


def test_the_first_call_focuses_and_sets_the_baseline(bench, look, documents):
    trigger = BlurTrigger()
    verdict = look(trigger)
    assert verdict.found
    assert bench.axis.position == verdict.position_um == pytest.approx(bench.focus_um, abs=2.0)
    assert verdict.start_um == bench.start_um
    assert trigger.baseline == bench.score(bench.axis.position)
    exposures = len(documents.events("focus_blur") + documents.events("focus_brent"))
    assert verdict.exposures == exposures == len(verdict.event_uids)
    brent, blur = documents.events("verdict")
    assert (brent["verdict_method"], blur["verdict_method"]) == ("brent", "blur")
    # what the frame was compared with
    assert json.loads(blur["verdict_parameters"])["baseline"] is None


def test_focuses_again_once_it_is_blurred(bench, look):
    trigger = BlurTrigger()
    look(trigger)
    baseline = trigger.baseline
    assert look(trigger).reason is Reason.STILL_SHARP
    defocus(bench, 0.5)
    assert look(trigger).reason is Reason.STILL_SHARP
    defocus(bench, 9.0)
    verdict = look(trigger)
    assert (verdict.found, verdict.reason) == (True, Reason.FOUND)
    assert bench.axis.position == pytest.approx(bench.focus_um, abs=2.0)
    assert trigger.baseline == pytest.approx(baseline, rel=0.05)


def test_hysteresis(bench, look, clock):
    """Blurred once, a frame that is hardly sharper is blurred still."""
    trigger = BlurTrigger(baseline=1.0, blurred_below=0.6, sharp_above=0.8, min_interval_s=math.inf)
    trigger.focused(None, 0.0)
    reasons = []
    for fraction in (0.7, 0.5, 0.7, 0.85, 0.7):
        trigger.baseline = bench.score(bench.start_um) / fraction
        reasons.append(look(trigger).reason)
    sharp, soon = Reason.STILL_SHARP, Reason.TOO_SOON
    assert reasons == [sharp, soon, soon, sharp, sharp]


def test_least_interval(bench, look, clock):
    trigger = BlurTrigger(min_interval_s=60.0)
    clock.now_s = 1000.0
    assert look(trigger).reason is Reason.FOUND
    defocus(bench, 15.0)
    where = bench.axis.position
    clock.now_s = 1059.0
    verdict = look(trigger)
    assert (verdict.found, verdict.reason, verdict.exposures) == (False, Reason.TOO_SOON, 1)
    assert bench.axis.position == where
    clock.now_s = 1060.0
    assert look(trigger).reason is Reason.FOUND


def test_not_found_keeps_the_baseline(make_bench, look):
    bench = make_bench(lambda z: 0.3)
    baseline = 5 * bench.score(0.0)
    trigger = BlurTrigger(baseline=baseline)
    verdict = look(trigger, bench)
    assert (verdict.found, verdict.reason) == (False, Reason.FLAT)
    assert trigger.baseline == baseline
    assert trigger.blurred
    assert bench.axis.position == bench.start_um


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"level": 1e6}, Reason.SATURATED),
        ({"level": 0.0}, Reason.BLACK),
        ({"contrast": lambda z: math.nan, "dtype": np.float32}, Reason.NOT_FINITE),
    ],
)
def test_a_frame_that_cannot_be_used_moves_nothing(make_bench, look, options, reason):
    bench = make_bench(**options)
    trigger = BlurTrigger(baseline=1.0)
    verdict = look(trigger, bench)
    assert (verdict.found, verdict.reason, verdict.exposures) == (False, reason, 1)
    assert bench.moves.calls == 0
    assert not trigger.blurred


def test_one_metric_to_watch_and_another_to_focus(RE, bench, analysis, look):  # noqa: N803
    watching = SharpnessAnalysis("laplacian_ratio", name="watching")
    RE.subscribe(watching)
    trigger = BlurTrigger()
    assert look(trigger, analysis=watching, focus_analysis=analysis).found
    expected = watching.analyse_frame(bench.frame(bench.axis.position)).value
    assert trigger.baseline == expected


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"speed": 3}, TypeError, "speed"),
        ({"bounds_um": (5.0, -5.0)}, ValueError, r"\(5.0, -5.0\)"),
    ],
)
def test_bad_input_moves_nothing(bench, look, options, error, named):
    with pytest.raises(error, match=named):
        look(BlurTrigger(), **options)
    assert bench.moves.calls == 0


def test_an_option_that_does_not_exist_is_noticed_before_it_is_needed(bench, look):
    bench.axis.set(bench.focus_um).wait(1)
    with pytest.raises(TypeError, match="speed"):
        look(BlurTrigger(baseline=bench.score(bench.focus_um)), speed=3)
    assert bench.triggers.calls == 0


def test_focusing_under_another_light(light_bench, single_shot, analysis, run, documents):
    """The baseline is how sharp it is under the light in which it is looked at."""
    bench, trigger = light_bench, BlurTrigger()
    options = {"focus": single_shot_focus, "focus_analysis": single_shot(), "leds": bench.leds}
    verdict = run(
        focus_if_blurred(bench.detectors, bench.axis, analysis=analysis, trigger=trigger, **options)
    )
    assert (verdict.found, verdict.exposures, len(verdict.event_uids)) == (True, 4, 4)
    first, last = documents.events("focus_blur")
    assert (first["z"], last["z"]) == (bench.start_um, bench.axis.position)
    assert trigger.baseline == bench.score(bench.axis.position)
    again = run(focus_if_blurred(bench.detectors, bench.axis, analysis=analysis, trigger=trigger, **options))
    assert (again.reason, again.exposures) == (Reason.STILL_SHARP, 1)


class TestStubsThatEndElsewhere:
    """Their last frame is not one of the focus, so another one is taken there."""

    @pytest.fixture
    def bench(self, make_light_bench):
        """A peak so narrow that the last plane of a scan is blurred."""
        return make_light_bench(lambda z: 1 / (1 + ((z - 7.3) / 0.4) ** 2), start_um=6.6)

    @pytest.fixture
    def look(self, bench, key_frame, analysis, run):
        planes = key_frame()

        def look(trigger, **options):
            options = {"analysis": analysis, "focus_analysis": planes, "trigger": trigger, **options}
            return run(focus_if_blurred(bench.detectors, bench.axis, **options))

        return look

    @pytest.mark.parametrize("focus", [key_frame_focus, coarse_fine_focus])
    def test_a_scan_of_planes(self, bench, look, documents, focus):
        trigger = BlurTrigger()
        verdict = look(trigger, focus=focus)
        assert bench.axis.position == verdict.position_um == pytest.approx(bench.focus_um, abs=0.01)
        first, last = documents.events("focus_blur")
        assert (first["z"], last["z"]) == (bench.start_um, bench.axis.position)
        assert verdict.exposures == len(verdict.event_uids) == bench.triggers.calls
        assert trigger.baseline == bench.score(bench.axis.position)
        assert look(trigger, focus=focus).reason is Reason.STILL_SHARP
        # as sharp as the last plane of the scan was
        defocus(bench, 0.7)
        assert bench.score(bench.axis.position) < 0.3 * trigger.baseline
        assert look(trigger, focus=focus).reason is Reason.FOUND

    def test_a_dry_run_shows_it(self, bench, key_frame, analysis):
        options = {"analysis": analysis, "focus_analysis": key_frame(), "trigger": BlurTrigger()}
        plan = focus_if_blurred(bench.detectors, bench.axis, focus=key_frame_focus, **options)
        assert [msg.obj for msg in plan if msg.command == "trigger"].count(bench.camera) == 1 + 3 + 1

    def test_short_of_the_focus(self, bench, look, documents):
        """Nothing there says how sharp it would be in focus."""
        trigger = BlurTrigger()
        options = {"focus": key_frame_focus, "smooth_um": 0.3}
        reasons = [look(trigger, **options).reason for _ in range(4)]
        assert reasons == [Reason.HELD_BACK, Reason.HELD_BACK, Reason.FOUND, Reason.STILL_SHARP]
        assert trigger.baseline == bench.score(bench.axis.position)
        assert len(documents.events("focus_blur")) == 5

    def test_an_error_while_it_looks_again(self, bench, look, key_frame, analysis, run, messages):
        """The focus was found, and cannot be recorded: the axis goes back."""
        options = {"analysis": analysis, "focus_analysis": key_frame()}

        def plan(trigger):
            return focus_if_blurred(
                bench.detectors, bench.axis, focus=key_frame_focus, trigger=trigger, **options
            )

        run(plan(BlurTrigger()))
        own = [message for message in messages if message.command not in ("open_run", "close_run")]
        triggered = [n for n, message in enumerate(own) if message.command == "trigger"]
        assert len(own) - triggered[-3] < 30
        for index in range(triggered[-3], len(own)):
            bench.axis.set(bench.start_um).wait(1)
            trigger = BlurTrigger()
            with pytest.raises(RuntimeError, match="thrown in place"):
                run(at_message(plan(trigger), index, throwing))
            assert bench.axis.position == bench.start_um, index
            assert math.isnan(trigger.baseline) and not bench.pending, index

    def test_no_dose_left_to_look_again(self, bench, look):
        trigger = BlurTrigger()
        verdict = look(trigger, focus=key_frame_focus, dose_budget_s=0.04)
        assert (verdict.found, verdict.exposures) == (True, 4)
        assert math.isnan(trigger.baseline)

    @pytest.mark.parametrize("told", ["as options", "beforehand"])
    def test_a_fallback_under_another_light(
        self, make_light_bench, single_shot, analysis, run, documents, told
    ):
        """Its stub confirms the focus in the light that it was given, not in this one."""
        bench = make_light_bench()
        in_this_light = bench.contrast
        bench.contrast = lambda z: in_this_light(z) * (1 if bench.leds.pattern.get() == bench.before else 0.5)
        options = {
            "leds": bench.leds,
            "fallback": brent_focus,
            "fallback_analysis": analysis,
            "fallback_options": {"bounds_um": bench.bounds_um},
        }
        refusing = single_shot(lambda defocus_um: DefocusEstimate.refused(Reason.UNFAMILIAR))
        trigger, focus = BlurTrigger(), single_shot_focus
        if told == "beforehand":
            focus, options = partial(focus, **options), {}
        watched = {"analysis": analysis, "focus_analysis": refusing, "trigger": trigger, "focus": focus}
        assert run(focus_if_blurred(bench.detectors, bench.axis, **watched, **options)).found
        assert trigger.baseline == bench.score(bench.axis.position)
        assert len(documents.events("focus_blur")) == 2

    def test_beside(self, bench, look, documents, analysis):
        """Where it looks is no option here: the verdict says so."""
        x = SimulatedAxis(name="x", limits=(-100.0, 100.0))

        def beside(*args, **options):
            aside = {"stage": [x], "offset_um": [50.0], "tilt_sigma_um_per_mm": 0.1}
            return focus_beside(*args, by=brent_focus, **aside, **options)

        trigger = BlurTrigger()
        options = {"focus_analysis": analysis, "bounds_um": (5.0, 9.0), "depth_of_field_um": 0.5}
        assert look(trigger, focus=beside, **options).found
        assert trigger.baseline == bench.score(bench.axis.position)
        assert [event["z"] for event in documents.events("focus_blur")] == [6.6, bench.axis.position]

    def test_a_search_that_confirms_nothing(self, bench, look, documents, analysis):
        trigger = BlurTrigger()
        options = {"focus_analysis": analysis, "bounds_um": (5.0, 9.0), "depth_of_field_um": 0.5}
        assert look(trigger, confirm=False, **options).found
        assert trigger.baseline == bench.score(bench.axis.position)
        assert len(documents.events("focus_blur")) == 2
        assert look(trigger, confirm=False, **options).reason is Reason.STILL_SHARP
