import pytest

from bluesky_autofocus.callbacks import AnalysisError, TwoLEDAnalysis
from bluesky_autofocus.defocus import DefocusEstimate, TwoLEDFilter
from bluesky_autofocus.devices import SimulatedMicroscope
from bluesky_autofocus.leds import Single
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.plans import METHODS, autofocus, two_led_focus
from bluesky_autofocus.records import Reason

LEDS = [str(Single(0.4, 0.0)), str(Single(0.4, 180.0))]


def focus(bench, measuring, **options):
    return two_led_focus(bench.detectors, bench.axis, leds=bench.leds, analysis=measuring, **options)


def test_two_exposures_for_each_estimate(light_bench, two_led, documents, run):
    bench = light_bench
    verdict = run(focus(bench, two_led()))
    assert (verdict.found, verdict.exposures, verdict.method) == (True, 4, "two_led")
    assert bench.axis.position == verdict.position_um == pytest.approx(bench.focus_um, abs=1e-3)
    exposures = documents.events("focus_two_led")
    assert [event["leds"] for event in exposures] == 2 * LEDS
    assert [event["z"] for event in exposures] == pytest.approx([-11, -11, 7.3, 7.3], abs=1e-3)
    readings = documents.events("reading_two_led")
    assert [reading["two_led_reason"] for reading in readings] == ["incomplete", "ok"] * 2
    assert [reading["two_led_event_uid"] for reading in readings] == list(verdict.event_uids)
    assert bench.leds.pattern.get() == bench.before
    assert METHODS["two_led"] is two_led_focus


def test_without_a_look(light_bench, two_led, run):
    verdict = run(focus(light_bench, two_led(), verify=False, budget=2))
    assert (verdict.found, verdict.exposures) == (True, 2)


@pytest.mark.parametrize("defocus_um", [0.0, 0.6, -1.9])
def test_near_focus_it_looks_aside(make_light_bench, two_led, documents, run, defocus_um):
    bench = make_light_bench(start_um=7.3 + defocus_um)
    verdict = run(focus(bench, two_led(), depth_of_field_um=2.7, budget=4))
    assert (verdict.found, verdict.exposures) == (True, 4)
    assert bench.axis.position == verdict.position_um == pytest.approx(bench.focus_um, abs=1e-3)
    exposures = documents.events("focus_two_led")
    aside_um = min(7.3 + defocus_um, 7.3) - 2.7
    expected = [bench.start_um, bench.start_um, aside_um, aside_um]
    assert [event["z"] for event in exposures] == pytest.approx(expected, abs=1e-3)
    assert [event["leds"] for event in exposures] == 2 * LEDS


def test_one_led_twice_is_not_in_focus(light_bench, two_led, run):
    """Two frames under one LED say 0 um wherever they are taken."""
    verdict = run(focus(light_bench, two_led(lambda _: 0.0), depth_of_field_um=2.7))
    assert (verdict.reason, verdict.exposures) == ("worse_afterwards", 4)
    assert light_bench.axis.position == light_bench.start_um


def test_the_budget_counts_exposures(light_bench, two_led, run):
    with pytest.raises(ValueError, match="at least 4 exposures for 'two_led' with verify, got 3"):
        run(focus(light_bench, two_led(), budget=3))
    verdict = run(focus(light_bench, two_led(lambda defocus_um: 0.3 * defocus_um), budget=7))
    assert (verdict.reason, verdict.exposures) == ("not_converged", 6)
    assert light_bench.axis.position == light_bench.start_um


def test_a_first_frame_that_cannot_be_used_spares_the_second(light_bench, two_led, run):
    light_bench.camera.render = lambda: light_bench.frame(0.0) * 0
    verdict = run(focus(light_bench, two_led()))
    assert (verdict.reason, verdict.exposures) == ("black", 1)
    assert light_bench.leds.pattern.get() == light_bench.before


def test_refused(light_bench, two_led, run):
    verdict = run(focus(light_bench, two_led(lambda _: DefocusEstimate.refused(Reason.EMPTY))))
    assert (verdict.reason, verdict.exposures) == ("empty", 2)
    assert light_bench.axis.position == light_bench.start_um


def test_an_array_that_was_not_calibrated(light_bench, two_led, run):
    light_bench.leds.calibrate(None)
    with pytest.raises(AnalysisError, match="not calibrated"):
        run(focus(light_bench, two_led()))
    assert light_bench.leds.pattern.get() == light_bench.before


def test_takes_the_analysis_of_two_frames(light_bench, single_shot, run):
    with pytest.raises(ValueError, match="'single_shot' takes 1 frames for one reading.*exposes 2"):
        run(focus(light_bench, single_shot()))


def test_falls_back(light_bench, two_led, analysis, run):
    refusing = two_led(lambda _: DefocusEstimate.refused(Reason.OUT_OF_RANGE))
    options = {"fallback": "sweep", "fallback_analysis": analysis}
    verdict = run(focus(light_bench, refusing, fallback_options={"range_um": 60.0}, **options))
    assert (verdict.method, verdict.found) == ("sweep", True)
    assert verdict.position_um == pytest.approx(light_bench.focus_um, abs=0.5)


def test_a_dry_run(light_bench, two_led):
    of_camera = [message for message in focus(light_bench, two_led()) if message.obj is light_bench.camera]
    assert [message.command for message in of_camera].count("trigger") == 4
    assert light_bench.moves.calls == light_bench.patterns.calls == light_bench.triggers.calls == 0


@pytest.mark.parametrize("start_um", [12.0, -17.0])
def test_on_a_microscope(RE, tmp_path, start_um):  # noqa: N803
    microscope = SimulatedMicroscope(
        name="microscope", frame_directory=tmp_path, frame_shape=(512, 512), seed=4, z_um=start_um
    )
    microscope.leds.set("brightfield").wait(1)
    measuring = TwoLEDAnalysis(TwoLEDFilter(LightOptics()))
    RE.subscribe(measuring)
    verdicts = []

    def plan():
        verdict = yield from autofocus(
            [microscope],
            microscope.z,
            method="two_led",
            analysis=measuring,
            leds=microscope.leds,
            depth_of_field_um=microscope.depth_of_field_um,
        )
        verdicts.append(verdict)

    RE(plan())
    assert verdicts[0].found
    assert microscope.z.position == verdicts[0].position_um
    assert abs(microscope.z.position - microscope.focus_um) < microscope.depth_of_field_um / 2
    assert microscope.leds.pattern.get() == "brightfield"
