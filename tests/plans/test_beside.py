"""Focusing beside the field of interest: that one is spared, and everything comes back."""

import json
import math
from functools import partial

import pytest
from bluesky import plans as bp
from bluesky.simulators import summarize_plan
from bluesky.utils import RunEngineInterrupted
from interrupting import at_message, pausing, throwing
from ophyd.utils import LimitError

from bluesky_autofocus.callbacks import NotSubscribedError, SharpnessAnalysis
from bluesky_autofocus.devices import SimulatedAxis, SimulatedLEDArray
from bluesky_autofocus.leds import Orientation
from bluesky_autofocus.plans import (
    Approach,
    EveryExposures,
    UnknownMethodError,
    autofocus,
    autofocus_wrapper,
    brent_focus,
    focus_beside,
    focus_if_blurred,
    single_shot_focus,
    sweep_focus,
)
from bluesky_autofocus.records import Reason
from bluesky_autofocus.search import BlurTrigger
from bluesky_autofocus.simulation.motion import AxisMechanics

TILT_UM_PER_MM = (20.0, -5.0)
OFFSET_UM = [100.0, -40.0]
HOME_UM = (30.0, -20.0)
RISE_UM = -(20.0 * 0.1 + 5.0 * 0.04)
"""From there to the field of interest."""


def half_peak(position_um, focus_um):
    return 1 / (1 + ((position_um - focus_um) / 6.0) ** 2)


@pytest.fixture
def stage():
    return [
        SimulatedAxis(name=name, limits=(-500, 500), position_um=at)
        for name, at in zip("xy", HOME_UM, strict=True)
    ]


@pytest.fixture
def focus_um(stage):
    """Return a function that gives where focus is now; at home 7.3."""

    def focus_um():
        rise = sum(
            slope * (axis.position - home) / 1000
            for slope, axis, home in zip(TILT_UM_PER_MM, stage, HOME_UM, strict=True)
        )
        return 7.3 + rise

    return focus_um


@pytest.fixture
def bench(make_bench, focus_um):
    return make_bench(lambda position_um: half_peak(position_um, focus_um()))


@pytest.fixture
def beside(bench, stage, analysis):
    """Return a function that makes a stub beside the field of interest."""

    def make(**options):
        options = {
            "analysis": analysis,
            "stage": stage,
            "offset_um": OFFSET_UM,
            "by": sweep_focus,
            "tilt_um_per_mm": TILT_UM_PER_MM,
            "bounds_um": bench.bounds_um,
            **options,
        }
        return focus_beside([bench.camera], bench.axis, **options)

    return make


def at_home(stage) -> bool:
    return [axis.position for axis in stage] == list(HOME_UM)


class TestFound:
    def test_the_field_of_interest_is_in_focus_and_was_not_exposed(
        self, run, documents, bench, stage, beside
    ):
        verdict = run(beside())
        assert verdict.found
        assert at_home(stage)
        assert verdict.position_um == pytest.approx(7.3, abs=0.3)
        assert bench.axis.position == pytest.approx(verdict.position_um)
        exposures = documents.events("focus_sweep")
        assert len(exposures) == verdict.exposures == bench.triggers.calls
        assert {(event["x"], event["y"]) for event in exposures} == {(130.0, -60.0)}

    def test_the_verdict_says_where_it_was_found_and_how_sure_it_is(self, run, documents, beside):
        verdict = run(beside(tilt_sigma_um_per_mm=5.0))
        within, without = documents.events("verdict")
        assert (within["verdict_method"], without["verdict_method"]) == ("sweep", "beside")
        assert verdict.position_um == pytest.approx(within["verdict_position_um"] + RISE_UM)
        widened = math.hypot(within["verdict_sigma_um"], 5.0 * math.hypot(0.1, 0.04))
        assert verdict.sigma_um == pytest.approx(widened)
        assert verdict.event_uids == tuple(json.loads(within["verdict_event_uids"]))
        assert verdict.dose == within["verdict_dose"]
        parameters = json.loads(without["verdict_parameters"])
        assert parameters["found_at_um"] == [130.0, -60.0]
        assert parameters["focus_there_um"] == pytest.approx(within["verdict_position_um"])
        assert parameters["rise_um"] == pytest.approx(RISE_UM)
        assert (parameters["by"], parameters["stage"]) == ("sweep", ["x", "y"])

    def test_a_surface_in_place_of_a_tilt(self, run, beside):
        surface = lambda x_um, y_um: 50.0 + 0.020 * x_um - 0.005 * y_um  # noqa: E731
        verdict = run(beside(surface=surface, tilt_um_per_mm=None))
        assert verdict.parameters["rise_um"] == pytest.approx(RISE_UM)

    def test_without_a_tilt_it_is_as_far_off_as_it_says_it_may_be(self, run, beside):
        verdict = run(beside(tilt_um_per_mm=None, tilt_sigma_um_per_mm=20.0))
        assert verdict.position_um == pytest.approx(7.3 - RISE_UM, abs=0.3)
        assert abs(verdict.position_um - 7.3) < 3 * verdict.sigma_um

    def test_one_axis_is_enough(self, run, stage, bench, analysis, focus_um, messages):
        verdict = run(
            focus_beside(
                [bench.camera],
                bench.axis,
                analysis=analysis,
                stage=stage,
                offset_um=(0.0, 40.0),
                by="brent",
                tilt_um_per_mm=TILT_UM_PER_MM,
                bounds_um=bench.bounds_um,
            )
        )
        assert bench.axis.position == pytest.approx(focus_um(), abs=0.3)
        assert verdict.parameters["by"] == "brent"
        assert not [msg for msg in messages if msg.command == "set" and msg.obj is stage[0]]

    def test_backlash_of_the_stage_is_taken_up_both_ways(self, run, stage, beside, messages):
        run(beside(stage_approach=Approach(direction=1, overshoot_um=5.0)))
        moves = [msg.args[0] for msg in messages if msg.command == "set" and msg.obj is stage[0]]
        assert moves == [130.0, 25.0, 30.0]

    def test_held_back(self, run, make_light_bench, key_frame, stage):
        """A smooth correction goes as far towards focus as it may there, and on by the tilt."""
        from bluesky_autofocus.plans import key_frame_focus

        bench = make_light_bench(start_um=8.2)
        verdict = run(
            focus_beside(
                bench.detectors,
                bench.axis,
                analysis=key_frame(),
                stage=stage,
                offset_um=OFFSET_UM,
                by=key_frame_focus,
                tilt_um_per_mm=(1.0, 0.0),
                smooth_um=0.3,
            )
        )
        assert verdict.reason is Reason.HELD_BACK
        assert verdict.position_um == pytest.approx(7.3 - 0.1, abs=0.01)
        assert bench.axis.position == pytest.approx(8.2 - 0.3 - 0.1, abs=0.01)


class TestNotFound:
    def test_axis_and_stage_go_back(self, run, documents, make_bench, stage, analysis):
        bench = make_bench(lambda position_um: 0.5)
        verdict = run(
            focus_beside(
                [bench.camera],
                bench.axis,
                analysis=analysis,
                stage=stage,
                offset_um=OFFSET_UM,
                by=sweep_focus,
                bounds_um=bench.bounds_um,
            )
        )
        assert (verdict.found, verdict.reason, verdict.method) == (False, Reason.FLAT, "beside")
        assert at_home(stage)
        assert bench.axis.position == bench.start_um
        assert json.loads(documents.events("verdict")[-1]["verdict_parameters"])["focus_there_um"] is None

    @pytest.mark.parametrize("travel_um", [(-40.0, 50.0), (-200.0, 200.0)])
    def test_carried_over_beyond_the_travel_or_the_limits(self, run, bench, stage, beside, travel_um):
        """The axis ends at +-100, this travel at 50: neither is left for a tilt."""
        verdict = run(beside(surface=lambda x_um, y_um: -x_um, tilt_um_per_mm=None, travel_um=travel_um))
        assert (verdict.found, verdict.reason) == (False, Reason.OUT_OF_REACH)
        assert math.isnan(verdict.position_um)
        assert bench.axis.position == bench.start_um
        assert at_home(stage)

    def test_the_dose_is_spent(self, run, bench, stage, beside):
        verdict = run(beside(dose_budget_s=0.01))
        assert (verdict.reason, verdict.exposures) == (Reason.DOSE_SPENT, 0)
        assert at_home(stage)


class TestBeforeAnythingMoves:
    @pytest.mark.parametrize(
        ("options", "error", "says"),
        [
            ({"offset_um": (0.0, 0.0)}, ValueError, "not all 0"),
            ({"offset_um": (10.0,)}, ValueError, "each of the 2 axes"),
            ({"offset_um": (10.0, math.nan)}, ValueError, "finite distance"),
            ({"offset_um": 10.0}, ValueError, "got 10.0"),
            ({"offset_um": (480.0, 0.0)}, LimitError, "510.0 um is not within"),
            ({"tilt_um_per_mm": (1.0,)}, ValueError, "a finite slope for each axis"),
            ({"surface": lambda x, y: 0.0}, ValueError, "either tilt_um_per_mm or a surface"),
            ({"tilt_um_per_mm": None, "surface": lambda x, y: math.nan}, ValueError, "does not know the way"),
            ({"tilt_sigma_um_per_mm": -1.0}, ValueError, "tilt_sigma_um_per_mm must be finite"),
            (
                {"tilt_sigma_um_per_mm": 10.0, "depth_of_field_um": 2.0},
                ValueError,
                "leaves focus uncertain by",
            ),
            ({"by": "brend"}, UnknownMethodError, "unknown method"),
            ({"colour": "red"}, TypeError, "colour"),
        ],
    )
    def test_arguments_that_make_no_sense(self, run, bench, stage, beside, messages, options, error, says):
        with pytest.raises(error, match=says):
            run(beside(**options))
        assert not [msg for msg in messages if msg.command in ("set", "trigger")]
        assert at_home(stage)

    def test_an_analysis_that_sees_no_run(self, run, stage, beside):
        with pytest.raises(NotSubscribedError):
            run(beside(analysis=SharpnessAnalysis(name="other")))
        assert at_home(stage)

    def test_what_the_focusing_stub_does_not_like_is_known_there(self, run, bench, stage, beside):
        """Stage and axis are back when the error goes on."""
        with pytest.raises(LimitError):
            run(beside(bounds_um=(-400.0, 400.0)))
        assert at_home(stage)
        assert bench.axis.position == bench.start_um

    def test_a_dry_run(self, beside, bench, stage, capsys):
        summarize_plan(beside())
        shown = capsys.readouterr().out
        assert "x -> 100.0" in shown and "x -> 0.0" in shown
        assert bench.triggers.calls == 0
        assert at_home(stage)


class TestShutter:
    @pytest.fixture
    def leds(self):
        leds = SimulatedLEDArray(name="leds", orientation=Orientation())
        leds.set("brightfield").wait(1)
        return leds

    @pytest.fixture
    def lit_um(self, stage, leds):
        """Where the stage was while there was light, as often as that changes."""
        seen = []

        def look(**_):
            if leds.pattern.get() != "off":
                seen.append(tuple(axis.position for axis in stage))

        for axis in stage:
            axis.subscribe(look, run=False)
        return seen

    def test_it_is_dark_while_the_stage_moves(self, run, documents, beside, leds, lit_um):
        moved = run(beside(shutter=leds))
        assert moved.found
        assert lit_um == []
        assert leds.pattern.get() == "brightfield"

    def test_without_it_is_not(self, run, beside, lit_um):
        run(beside())
        assert (130.0, -20.0) in lit_um  # one axis after the other

    def test_a_stub_that_sets_the_light_itself(self, run, make_light_bench, single_shot, stage):
        bench = make_light_bench(start_um=-1.0)
        verdict = run(
            focus_beside(
                bench.detectors,
                bench.axis,
                analysis=single_shot(),
                stage=stage,
                offset_um=OFFSET_UM,
                by=single_shot_focus,
                leds=bench.leds,
                shutter=bench.leds,
            )
        )
        assert verdict.found
        assert bench.leds.pattern.get() == bench.before
        # off, as before, the LED, as before, off, as before
        assert bench.patterns.calls == 6

    def test_a_value_that_it_cannot_take(self, run, stage, beside, leds):
        with pytest.raises(ValueError, match="closed"):
            run(beside(shutter=leds, closed="closed"))
        assert at_home(stage)


class TestInterrupted:
    @pytest.fixture
    def make(self, make_light_bench, stage, single_shot):
        """Return a bench with a light, and a function that makes a stub on it."""
        bench, analysis = make_light_bench(start_um=-1.0), single_shot()
        return bench, lambda: focus_beside(
            bench.detectors,
            bench.axis,
            analysis=analysis,
            stage=stage,
            offset_um=(100.0, 0.0),
            by=single_shot_focus,
            leds=bench.leds,
            shutter=bench.leds,
            tilt_um_per_mm=(5.0, 0.0),
        )

    @pytest.fixture
    def length(self, run, messages, make):
        """Return of how many messages the stub is made."""
        bench, stub = make
        assert run(stub()).found
        number = len(messages) - 2
        messages.clear()
        return number

    def check(self, bench, stage, where):
        assert at_home(stage), where
        assert bench.leds.pattern.get() == bench.before, where
        assert not bench.pending, where

    def test_an_exception_at_every_message(self, RE, run, documents, make, length, stage):  # noqa: N803
        bench, stub = make
        assert length > 60
        for index in range(length):
            bench.axis.set(bench.start_um).wait(1)
            with pytest.raises(RuntimeError, match="thrown in place"):
                run(at_message(stub(), index, throwing))
            assert documents.named("stop")[-1]["exit_status"] == "fail"
            assert bench.axis.position == bench.start_um, index
            self.check(bench, stage, index)

    def test_a_pause_at_every_other_message(self, RE, run, documents, make, length, stage):  # noqa: N803
        bench, stub = make
        for index in range(0, length, 2):
            bench.axis.set(bench.start_um).wait(1)
            documents.clear()
            with pytest.raises(RunEngineInterrupted):
                run(at_message(stub(), index, pausing))
            RE.resume()
            verdict = documents.events("verdict")[-1]
            assert verdict["verdict_position_um"] == pytest.approx(7.3 - 0.5), index
            assert bench.axis.position == pytest.approx(7.3 - 0.5), index
            assert {event["x"] for event in documents.events("focus_single_shot")} == {130.0}, index
            self.check(bench, stage, index)

    def test_an_abort_at_some_messages(self, RE, run, make, length, stage):  # noqa: N803
        bench, stub = make
        for index in range(0, length, 4):
            bench.axis.set(bench.start_um).wait(1)
            with pytest.raises(RunEngineInterrupted):
                run(at_message(stub(), index, pausing))
            RE.abort()
            assert bench.axis.position == bench.start_um, index
            self.check(bench, stage, index)

    def test_a_stage_that_fails_under_way(self, run, bench, beside, stage):
        x, y = stage
        move, calls = y.set, []

        def fails(position_um):
            calls.append(position_um)
            if len(calls) == 2:  # on the way home
                raise RuntimeError("the stage is stuck")
            return move(position_um)

        y.set = fails
        with pytest.raises(RuntimeError, match="stuck"):
            run(beside())
        assert at_home(stage)
        assert bench.axis.position == bench.start_um


class TestTogether:
    def test_as_a_method(self, RE, bench, stage, analysis, documents):  # noqa: N803
        RE(
            autofocus(
                [bench.camera],
                bench.axis,
                analysis=analysis,
                method="beside",
                stage=stage,
                offset_um=OFFSET_UM,
                by="sweep",
                tilt_um_per_mm=TILT_UM_PER_MM,
                bounds_um=bench.bounds_um,
            )
        )
        assert documents.events("verdict")[-1]["verdict_found"]
        assert bench.axis.position == pytest.approx(7.3, abs=0.3)

    def test_within_a_scan_of_tiles(self, RE, bench, stage, analysis, documents):  # noqa: N803
        """Each tile is exposed once, by the plan, and in focus."""
        x, y = stage
        tiles = bp.grid_scan([bench.camera], x, 0.0, 100.0, 2, y, 0.0, 100.0, 2)
        RE(
            autofocus_wrapper(
                tiles,
                "beside",
                when=EveryExposures(1),
                detectors=[bench.camera],
                axis=bench.axis,
                analysis=analysis,
                stage=stage,
                offset_um=(20.0, 20.0),
                by="sweep",
                tilt_um_per_mm=TILT_UM_PER_MM,
                bounds_um=bench.bounds_um,
            ),
        )
        tiles_um = [(event["x"], event["y"]) for event in documents.events("primary")]
        assert tiles_um == [(0.0, 0.0), (0.0, 100.0), (100.0, 0.0), (100.0, 100.0)]
        taken_um = {(event["x"], event["y"]) for event in documents.events("focus_sweep")}
        assert taken_um == {(a + 20.0, b + 20.0) for a, b in tiles_um}
        positions = [event["focus_decision_position_um"] for event in documents.events("focus_decision")]
        expected = [7.3 + 0.02 * (a - 30.0) - 0.005 * (b + 20.0) for a, b in tiles_um]
        assert positions == pytest.approx(expected, abs=0.3)

    def test_if_the_field_of_interest_is_blurred(self, run, documents, bench, stage, analysis):
        """One look at it says so, and one at the end how sharp it is now."""
        trigger = BlurTrigger()
        stub = partial(
            focus_if_blurred,
            [bench.camera],
            bench.axis,
            analysis=analysis,
            trigger=trigger,
            focus=focus_beside,
            stage=stage,
            offset_um=OFFSET_UM,
            tilt_um_per_mm=TILT_UM_PER_MM,
            bounds_um=bench.bounds_um,
        )
        verdict = run(stub())
        assert verdict.found
        assert len(documents.events("focus_blur")) == 2
        assert trigger.baseline == pytest.approx(bench.score(bench.axis.position))
        assert verdict.exposures == bench.triggers.calls
        assert run(stub()).reason is Reason.STILL_SHARP

    def test_axes_that_take_their_time(self, run, make_bench, analysis, focus_um):
        mechanics = AxisMechanics(velocity_um_s=500.0, settle_s=0.01)
        slow = [
            SimulatedAxis(name=name, limits=(-500, 500), position_um=at, mechanics=mechanics)
            for name, at in zip("xy", HOME_UM, strict=True)
        ]
        bench = make_bench(
            lambda position_um: half_peak(position_um, 7.3 + 0.02 * (slow[0].position - 30.0)),
            mechanics=mechanics,
        )
        verdict = run(
            focus_beside(
                [bench.camera],
                bench.axis,
                analysis=analysis,
                stage=slow,
                offset_um=(100.0, 0.0),
                by=brent_focus,
                tilt_um_per_mm=(20.0, 0.0),
                bounds_um=bench.bounds_um,
            )
        )
        assert verdict.position_um == pytest.approx(7.3, abs=0.3)
        assert slow[0].position == pytest.approx(30.0, abs=1e-9)
