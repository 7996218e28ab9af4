import json
import math

import numpy as np
import pytest

from bluesky_autofocus.callbacks import SharpnessAnalysis
from bluesky_autofocus.plans import focus_if_blurred, single_shot_focus
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
        ({"confirm": False}, ValueError, "confirm=False"),
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
