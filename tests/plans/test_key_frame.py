import itertools
import json
import math

import pytest
from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.simulators import summarize_plan
from bluesky.utils import Msg, RunEngineInterrupted
from ophyd.utils import LimitError

from bluesky_autofocus.callbacks import AnalysisError, KeyFrameAnalysis, NotSubscribedError
from bluesky_autofocus.defocus import ModelMismatchError
from bluesky_autofocus.models.key_frame import Scan
from bluesky_autofocus.plans import METHODS, Approach, autofocus, coarse_fine_focus, key_frame_focus
from bluesky_autofocus.records import Reason
from bluesky_autofocus.simulation.motion import AxisMechanics

FOCUS_UM = 7.3
COARSE = Scan("coarse", (0.88, 1.2), 1.0, (3, 5), 1)
FINE = Scan("fine", (0.22, 0.3), 0.25, (5, 9), 3)


def focus(bench, analysis, **options):
    return coarse_fine_focus(bench.detectors, bench.axis, analysis=analysis, **options)


def scan(bench, analysis, **options):
    return key_frame_focus(bench.detectors, bench.axis, analysis=analysis, **options)


@pytest.fixture
def near(make_light_bench):
    """Return a function that makes a bench which stands so far above its focus."""
    return lambda defocus_um, **options: make_light_bench(start_um=FOCUS_UM + defocus_um, **options)


@pytest.fixture
def exposed(documents):
    """Return a function that gives the positions exposed, relative to focus."""

    def exposed(stream="focus_coarse_fine"):
        return [event["z"] - FOCUS_UM for event in documents.events(stream)]

    return exposed


@pytest.fixture
def as_before(documents):
    """Return what must hold of a bench where no focus was found."""

    def check(bench, verdict, reason):
        assert (verdict.found, str(verdict.reason)) == (False, reason)
        assert math.isnan(verdict.position_um)
        assert bench.axis.position == bench.start_um
        assert not bench.pending
        (recorded,) = documents.events("verdict")
        assert (recorded["verdict_found"], recorded["verdict_reason"]) == (False, reason)

    return check


class TestFound:
    @pytest.mark.parametrize("above_um", [0.9, -0.9, 0.05])
    def test_nine_exposures(self, near, key_frame, documents, exposed, run, above_um):
        bench, analysis = near(above_um), key_frame()
        verdict = run(focus(bench, analysis))
        assert (verdict.found, str(verdict.reason), verdict.exposures) == (True, "found", 9)
        assert verdict.position_um == pytest.approx(FOCUS_UM, abs=1e-3)
        assert bench.axis.position == verdict.position_um
        assert (verdict.method, verdict.model_hash) == ("coarse_fine", "89abcdef")
        assert (verdict.sigma_um, verdict.start_um) == (0.02, bench.start_um)

        coarse = [above_um - 1, above_um, above_um + 1]
        picked = min(coarse, key=abs)
        fine = [picked + 0.25 * step for step in (-3, -2, -1, 1, 2, 3)]
        assert exposed() == pytest.approx(coarse + fine, abs=1e-6)

        events = documents.events("focus_coarse_fine")
        assert [event["scan_position_um"] for event in events] == [event["z"] for event in events]
        assert [event["scan_spacing_um"] for event in events] == pytest.approx(3 * [1.0] + 6 * [0.25])
        assert [event["scan_planes"] for event in events] == 3 * [3] + 6 * [7]
        assert [event["scan_last"] for event in events] == [False, False, True, *5 * [False], True]
        assert {event["scan_axis_sign"] for event in events} == {1}
        assert len({event["scan_operation"] for event in events}) == 1
        # the plane in the middle of the fine scan is that of the coarse one, and its neighbours fit in too
        assert analysis.model.seen[0] == pytest.approx([FOCUS_UM + one for one in coarse], abs=1e-3)
        assert FOCUS_UM + picked in [pytest.approx(one, abs=1e-3) for one in analysis.model.seen[1]]

        readings = documents.events("reading_key_frame")
        wanted = [*2 * ["incomplete"], "ok", *5 * ["incomplete"], "ok"]
        assert [reading["key_frame_reason"] for reading in readings] == wanted
        assert [reading["key_frame_accepted"] for reading in readings] == [one == "ok" for one in wanted]
        assert [reading["key_frame_event_uid"] for reading in readings] == list(verdict.event_uids)
        told = [reading["key_frame_value"] for reading in readings if reading["key_frame_accepted"]]
        assert told == pytest.approx([coarse[-1], fine[-1]], abs=1e-3), "the defocus of the last plane"

    def test_the_verdict_is_recorded(self, near, key_frame, documents, run):
        bench = near(0.4)
        verdict = run(focus(bench, key_frame(), travel_um=(0.0, 20.0), depth_of_field_um=0.5))
        (recorded,) = documents.events("verdict")
        assert recorded["verdict_position_um"] == verdict.position_um
        parameters = json.loads(recorded["verdict_parameters"])
        assert parameters["coarse_um"] == [-1.0, 0.0, 1.0]
        assert parameters["fine_um"] == [-0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75]
        assert parameters["travel_um"] == [0.0, 20.0]
        assert (parameters["depth_of_field_um"], parameters["reuse"]) == (0.5, True)
        assert parameters["analysis"]["model"]["kind"] == "knowing planes"
        assert "fine_analysis" not in parameters

    @pytest.mark.parametrize("above_um", [3.1, -3.1, 2.9, -2.9])
    def test_the_coarse_scan_walks_on(self, near, key_frame, exposed, run, above_um):
        bench = near(above_um)
        verdict = run(focus(bench, key_frame()))
        assert verdict.found and verdict.exposures <= 12
        assert bench.axis.position == verdict.position_um == pytest.approx(FOCUS_UM, abs=1e-3)
        side = math.copysign(1, above_um)
        assert exposed()[3:5] == pytest.approx([above_um - 2 * side, above_um - 3 * side], abs=1e-6)

    def test_every_plane_of_the_fine_scan_anew(self, near, key_frame, documents, exposed, run):
        bench, analysis = near(0.9), key_frame()
        verdict = run(focus(bench, analysis, reuse=False))
        assert (verdict.found, verdict.exposures) == (True, 10)
        assert bench.axis.position == pytest.approx(FOCUS_UM, abs=1e-3)
        fine = [-0.1 + 0.25 * step for step in range(-3, 4)]
        assert exposed()[3:] == pytest.approx(fine, abs=1e-6)
        operations = [event["scan_operation"] for event in documents.events("focus_coarse_fine")]
        assert len(set(operations[:3])) == len(set(operations[3:])) == 1
        assert operations[2] != operations[3]
        assert analysis.model.seen[1] == pytest.approx([FOCUS_UM + one for one in fine], abs=1e-3)

    def test_the_fine_scan_mends_what_the_coarse_one_got_wrong(self, near, key_frame, exposed, run):
        def one_too_high(scan, focus_um):
            return focus_um + 1 if scan.name == "coarse" else focus_um

        bench = near(0.3)
        verdict = run(focus(bench, key_frame(says=one_too_high)))
        assert (verdict.found, verdict.exposures) == (True, 10)
        assert bench.axis.position == verdict.position_um == pytest.approx(FOCUS_UM, abs=1e-3)
        # 0.3 um has been exposed: it walks on to the plane below that one
        assert exposed()[-1] == pytest.approx(0.05, abs=1e-6)

    @pytest.mark.parametrize("above_um", [0.8, -2.2])
    def test_an_axis_that_runs_downwards(self, near, key_frame, documents, run, above_um):
        bench = near(above_um)
        verdict = run(focus(bench, key_frame(upwards=-1), axis_sign=-1))
        assert verdict.found
        assert bench.axis.position == verdict.position_um == pytest.approx(FOCUS_UM, abs=1e-3)
        last = documents.events("reading_key_frame")[2]
        # higher up the axis is lower down: the defocus has the other sign
        assert last["key_frame_value"] * (above_um + 1) < 0

    def test_the_wrong_sign_of_the_axis_is_not_found(self, near, key_frame, as_before, run):
        """The planes arrive upside down, so the focus is looked for on the wrong side."""

        def upside_down(scan, focus_um):
            return -focus_um if scan.name == "coarse" else focus_um

        bench = near(2.2)
        verdict = run(focus(bench, key_frame(says=upside_down)))
        as_before(bench, verdict, "edge")

    def test_an_analysis_of_its_own_for_the_fine_scan(self, near, key_frame, documents, run):
        bench = near(0.9)
        coarse, fine = key_frame(COARSE, name="coarse"), key_frame(FINE, name="fine", sigma_um=0.03)
        verdict = run(focus(bench, coarse, fine_analysis=fine))
        assert (verdict.found, verdict.exposures, verdict.sigma_um) == (True, 9, 0.03)
        assert bench.axis.position == pytest.approx(FOCUS_UM, abs=1e-3)
        assert len(documents.events("reading_coarse")) == 3
        assert len(documents.events("reading_fine")) == 6
        assert len(fine.model.seen[0]) >= 7, "it has seen the coarse planes too"
        parameters = json.loads(documents.events("verdict")[0]["verdict_parameters"])
        assert parameters["analysis"]["model"]["scans"] == ["coarse"]
        assert parameters["fine_analysis"]["model"]["scans"] == ["fine"]
        assert parameters["fine_model_hash"] == "89abcdef"

    def test_through_backlash_and_noise(self, near, key_frame, run):
        bench = near(0.7, mechanics=AxisMechanics(backlash_um=1.0, readback_noise_um=0.005))
        verdict = run(focus(bench, key_frame(), approach=Approach(overshoot_um=1.5)))
        assert verdict.found
        # the axis comes from below, and says that it stands where its load is but for the noise
        assert bench.axis.load_um == pytest.approx(FOCUS_UM, abs=0.1)

    def test_one_scan_alone(self, near, key_frame, exposed, run):
        bench = near(0.8)
        verdict = run(scan(bench, key_frame()))
        assert (verdict.found, verdict.exposures, verdict.method) == (True, 3, "key_frame")
        assert bench.axis.position == verdict.position_um == pytest.approx(FOCUS_UM, abs=1e-3)
        assert exposed("focus_key_frame") == pytest.approx([-0.2, 0.8, 1.8], abs=1e-6)

    def test_one_fine_scan_that_walks_on(self, near, key_frame, exposed, run):
        bench = near(0.9)
        fine_um = [0.25 * step for step in range(-2, 3)]
        verdict = run(scan(bench, key_frame(), offsets_um=fine_um, travel_um=(0.0, 20.0)))
        assert (verdict.found, verdict.exposures) == (True, 7)
        assert exposed("focus_key_frame") == pytest.approx([0.4, 0.65, 0.9, 1.15, 1.4, 0.15, -0.1], abs=1e-6)
        assert bench.axis.position == pytest.approx(FOCUS_UM, abs=1e-3)


class TestNotFound:
    @pytest.mark.parametrize("side", [1, -1])
    def test_the_end_of_the_travel_range(self, near, key_frame, as_before, exposed, run, side):
        bench = near(3 * side)
        travel_um = (bench.start_um - 1.2, bench.start_um + 1.2)
        verdict = run(focus(bench, key_frame(), travel_um=travel_um))
        assert verdict.exposures == 3
        as_before(bench, verdict, "edge")
        assert all(abs(one - 3 * side) <= 1.2 for one in exposed())

    def test_by_default_four_times_as_far_as_the_widest_plane(self, near, key_frame, as_before, exposed, run):
        bench = near(6.0)
        verdict = run(focus(bench, key_frame()))
        as_before(bench, verdict, "edge")
        assert min(exposed()) == pytest.approx(2.0, abs=1e-6)

    @pytest.mark.parametrize("side", [1, -1])
    def test_the_limits_of_the_axis(self, make_light_bench, key_frame, as_before, exposed, run, side):
        """They are narrower than the travel range: it does not run into them."""
        start_um = FOCUS_UM + 3 * side
        bench = make_light_bench(start_um=start_um, limits=(start_um - 1.5, start_um + 1.5))
        verdict = run(focus(bench, key_frame()))
        assert verdict.exposures == 3
        as_before(bench, verdict, "edge")

    def test_no_room_for_the_fine_scan(self, make_light_bench, key_frame, as_before, run):
        start_um = FOCUS_UM + 0.9
        bench = make_light_bench(start_um=start_um, limits=(start_um - 1.5, start_um + 1.5))
        verdict = run(focus(bench, key_frame()))
        assert verdict.exposures == 3
        as_before(bench, verdict, "out_of_reach")

    @pytest.mark.parametrize("options", [{}, {"smooth_um": 1.1}])
    def test_a_focus_just_beyond_the_range(self, near, key_frame, as_before, run, options):
        bench = near(1.3)
        travel_um = (bench.start_um - 1.05, bench.start_um + 1.05)
        verdict = run(scan(bench, key_frame(), travel_um=travel_um, **options))
        assert verdict.exposures == 3
        as_before(bench, verdict, "out_of_reach")

    def test_the_end_of_the_budget(self, near, key_frame, as_before, run):
        bench = near(4.0)
        verdict = run(scan(bench, key_frame(), budget=4))
        assert verdict.exposures == 4
        as_before(bench, verdict, "edge")

    def test_no_exposures_are_left_for_the_fine_scan(self, near, key_frame, as_before, run):
        bench = near(3.0)
        verdict = run(focus(bench, key_frame(), budget=10))
        assert verdict.exposures == 5
        as_before(bench, verdict, "not_converged")

    @pytest.mark.parametrize("reason", [Reason.UNCERTAIN, Reason.EMPTY, Reason.UNFAMILIAR])
    @pytest.mark.parametrize("kind", ["coarse", "fine"])
    def test_none_of_these(self, near, key_frame, as_before, run, reason, kind):
        bench = near(0.4)
        analysis = key_frame(says=lambda scan, focus_um: reason if scan.name == kind else focus_um)
        verdict = run(focus(bench, analysis))
        assert verdict.exposures == {"coarse": 3, "fine": 9}[kind]
        as_before(bench, verdict, str(reason))

    def test_once_above_and_once_below(self, near, key_frame, as_before, run):
        sides = itertools.cycle((-5.0, 9.0))
        bench = near(0.4)
        verdict = run(focus(bench, key_frame(says=lambda scan, focus_um: next(sides))))
        assert verdict.exposures == 4
        as_before(bench, verdict, "uncertain")

    def test_not_known_to_within_the_depth_of_field(self, near, key_frame, as_before, run):
        bench = near(0.4)
        verdict = run(focus(bench, key_frame(sigma_um=0.2), depth_of_field_um=0.5))
        assert verdict.exposures == 9
        as_before(bench, verdict, "uncertain")

    @pytest.mark.parametrize("at", [0, 1, 2, 5])
    def test_a_black_frame(self, near, key_frame, as_before, run, at):
        bench = near(0.4)
        render = bench.camera.render
        bench.camera.render = lambda: render() * (bench.triggers.calls - 1 != at)
        verdict = run(focus(bench, key_frame()))
        assert verdict.exposures == at + 1
        as_before(bench, verdict, "black")


class TestSmooth:
    @pytest.mark.parametrize("above_um", [1.5, -1.5])
    def test_a_large_correction_is_held_back(self, near, key_frame, documents, run, above_um):
        bench = near(above_um)
        verdict = run(focus(bench, key_frame(), smooth_um=0.4))
        assert (verdict.found, str(verdict.reason)) == (True, "held_back")
        assert verdict.position_um == pytest.approx(FOCUS_UM, abs=1e-3)
        assert bench.axis.position == bench.start_um - math.copysign(0.4, above_um)
        (recorded,) = documents.events("verdict")
        assert (recorded["verdict_found"], recorded["verdict_reason"]) == (True, "held_back")
        assert recorded["verdict_position_um"] == verdict.position_um

    def test_a_small_one_is_not(self, near, key_frame, run):
        bench = near(0.35)
        verdict = run(focus(bench, key_frame(), smooth_um=0.4))
        assert str(verdict.reason) == "found"
        assert bench.axis.position == verdict.position_um == pytest.approx(FOCUS_UM, abs=1e-3)

    def test_step_by_step_it_gets_there(self, near, key_frame, run):
        bench, analysis = near(0.9), key_frame()
        reasons = [str(run(focus(bench, analysis, smooth_um=0.4)).reason) for _ in range(3)]
        assert reasons == ["held_back", "held_back", "found"]
        assert bench.axis.position == pytest.approx(FOCUS_UM, abs=1e-3)

    def test_a_focus_out_of_reach_is_drawn_nearer(self, near, key_frame, run):
        bench = near(1.3)
        travel_um = (bench.start_um - 1.05, bench.start_um + 1.05)
        verdict = run(scan(bench, key_frame(), travel_um=travel_um, smooth_um=0.5))
        assert str(verdict.reason) == "held_back"
        assert bench.axis.position == bench.start_um - 0.5


class TestBadInput:
    @pytest.fixture(autouse=True)
    def nothing_happens(self, light_bench, documents):
        yield
        assert (light_bench.moves.calls, light_bench.triggers.calls) == (0, 0)
        assert documents.events("focus_coarse_fine") == documents.events("verdict") == []

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"coarse_um": (-0.5, 0.5)}, r"coarse_um must be an odd number.*three at least"),
            ({"coarse_um": (0.0,)}, "coarse_um must be an odd number"),
            ({"fine_um": (0.25, 0.5, 0.75, 1.0, 1.25)}, "fine_um must contain 0"),
            ({"coarse_um": (1.0, 0.0, -1.0)}, "coarse_um must be finite and ascending"),
            ({"coarse_um": (-1.0, 0.0, math.nan)}, "coarse_um must be finite and ascending"),
            ({"coarse_um": (-1.0, 0.0, 2.0)}, "coarse_um must be evenly spaced"),
            ({"budget": 8}, "budget must allow at least 9 exposures for 'coarse_fine', got 8"),
            ({"budget": 9, "reuse": False}, "budget must allow at least 10 exposures"),
            ({"smooth_um": 0.0}, "smooth_um must be positive"),
            ({"smooth_um": -1.0}, "smooth_um must be positive"),
            ({"depth_of_field_um": math.nan}, "depth_of_field_um must be positive"),
            ({"axis_sign": 0}, r"axis_sign must be \+1 or -1, got 0"),
            ({"travel_um": (5.0, 5.0)}, "travel_um"),
        ],
    )
    def test_before_the_first_message(self, light_bench, key_frame, messages, run, options, message):
        with pytest.raises(ValueError, match=message):
            run(focus(light_bench, key_frame(), **options))
        assert {msg.command for msg in messages} == {"open_run", "close_run"}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"coarse_um": (-3.0, 0.0, 3.0)}, "3 planes 3 um apart"),
            ({"coarse_um": [float(n) for n in range(-3, 4)]}, "7 planes 1 um apart"),
            ({"fine_um": (-0.25, 0.0, 0.25)}, "3 planes 0.25 um apart"),
        ],
    )
    def test_a_scan_that_the_model_does_not_list(
        self, light_bench, key_frame, messages, run, options, message
    ):
        with pytest.raises(ModelMismatchError, match=message):
            run(focus(light_bench, key_frame(), **options))
        assert {msg.command for msg in messages} == {"open_run", "close_run"}

    @pytest.mark.parametrize("which", ["analysis", "fine_analysis"])
    def test_an_analysis_that_compares_no_planes(self, light_bench, key_frame, analysis, run, which):
        judges = {"analysis": key_frame(), which: analysis}
        with pytest.raises(ValueError, match="'sharpness' does not compare planes: KeyFrameAnalysis does"):
            run(coarse_fine_focus(light_bench.detectors, light_bench.axis, **judges))

    def test_a_travel_range_without_the_planes(self, light_bench, key_frame, run):
        with pytest.raises(ValueError, match=r"travel_um \(-11.5, 0.0\) must contain the planes.*-12 .. -10"):
            run(focus(light_bench, key_frame(), travel_um=(-11.5, 0.0)))

    @pytest.mark.parametrize("stub", [focus, scan])
    def test_limits_without_the_planes(self, make_light_bench, key_frame, run, stub):
        bench = make_light_bench(limits=(-11.5, 100.0))
        with pytest.raises(LimitError):
            run(stub(bench, key_frame()))
        assert (bench.moves.calls, bench.triggers.calls) == (0, 0)

    @pytest.mark.parametrize("which", ["analysis", "fine_analysis"])
    def test_not_subscribed(self, light_bench, key_frame, run, which):
        judges = {"analysis": key_frame(), which: KeyFrameAnalysis(key_frame().model, name="deaf")}
        with pytest.raises(NotSubscribedError, match="'deaf'.*subscribe it before the run starts"):
            run(coarse_fine_focus(light_bench.detectors, light_bench.axis, **judges))


class TestErrors:
    def test_another_objective(self, near, key_frame, run):
        bench = near(0.4)
        bench.objective.numerical_aperture.put(0.75)
        with pytest.raises(AnalysisError, match="made for NA 0.5, the objective has 0.75"):
            run(focus(bench, key_frame()))
        assert bench.axis.position == bench.start_um

    def test_a_model_that_fails(self, near, key_frame, run):
        def fails(scan, focus_um):
            raise ArithmeticError("of the model")

        bench = near(0.4)
        with pytest.raises(AnalysisError, match="'key_frame' failed: of the model"):
            run(focus(bench, key_frame(says=fails)))
        assert bench.axis.position == bench.start_um


class TestRuns:
    @pytest.mark.parametrize("travel_um", [None, (0.0, 20.0), (-1.0, 1.0)])
    @pytest.mark.parametrize("stub", [focus, scan])
    def test_a_dry_run(self, light_bench, key_frame, stub, travel_um):
        plan = list(stub(light_bench, key_frame(), travel_um=travel_um))
        sets = [msg.args[0] for msg in plan if msg.command == "set"]
        middle = sum(travel_um or (0.0, 0.0)) / 2
        assert sets[:3] == [middle - 1, middle, middle + 1]
        assert (light_bench.moves.calls, light_bench.triggers.calls) == (0, 0)

    def test_a_summary(self, light_bench, key_frame, capsys):
        summarize_plan(focus(light_bench, key_frame()))
        said = capsys.readouterr().out
        assert said.count("z -> ") >= 9 and "Read ['camera'" in said

    @pytest.mark.parametrize(("method", "exposures"), [("coarse_fine", 9), ("key_frame", 3)])
    def test_by_its_name(self, RE, near, key_frame, documents, method, exposures):  # noqa: N803
        assert METHODS["coarse_fine"] is coarse_fine_focus and METHODS["key_frame"] is key_frame_focus
        bench, analysis = near(0.6), key_frame()
        RE(autofocus(bench.detectors, bench.axis, analysis=analysis, method=method, md={"sample": "slide"}))
        (start,) = documents.named("start")
        assert (start["plan_name"], start["method"], start["sample"]) == ("autofocus", method, "slide")
        assert len(documents.events(f"focus_{method}")) == exposures
        (recorded,) = documents.events("verdict")
        assert (recorded["verdict_method"], recorded["verdict_found"]) == (method, True)
        assert bench.axis.position == pytest.approx(FOCUS_UM, abs=1e-3)
        assert documents.named("stop")[0]["exit_status"] == "success"

    def test_an_option_that_there_is_not(self, RE, near, key_frame):  # noqa: N803
        bench = near(0.6)
        with pytest.raises(TypeError, match="range_um"):
            plan = autofocus(
                bench.detectors, bench.axis, analysis=key_frame(), method="coarse_fine", range_um=3.0
            )
            RE(plan)

    def test_within_another_run(self, RE, near, key_frame, documents):  # noqa: N803
        """Twice, among exposures of another kind: planes of one operation do not get into the other."""
        bench, analysis = near(0.6), key_frame()
        verdicts = []

        @bpp.run_decorator(md={"purpose": "time-lapse"})
        def plan():
            for moved_um in (0.0, 0.75):
                yield from bps.mvr(bench.axis, moved_um)
                yield from bps.trigger_and_read([*bench.detectors, bench.axis], name="primary")
                verdicts.append((yield from focus(bench, analysis)))

        RE(plan())
        assert [verdict.found for verdict in verdicts] == [True, True]
        assert [verdict.exposures for verdict in verdicts] == [9, 9]
        assert bench.axis.position == pytest.approx(FOCUS_UM, abs=1e-3)
        operations = [event["scan_operation"] for event in documents.events("focus_coarse_fine")]
        assert len(set(operations[:9])) == len(set(operations[9:])) == 1
        assert operations[0] != operations[9]
        # fine planes of the first one are where coarse ones of the second are, and take no part
        assert [len(seen) for seen in analysis.model.seen][::2] == [3, 3]
        assert len(documents.events("primary")) == 2
        assert len(documents.named("start")) == 1


@pytest.mark.parametrize("command", ["trigger", "save", "wait_for"])
@pytest.mark.parametrize("exposure", [1, 2, 6, 8])
def test_a_pause_takes_an_exposure_again(RE, near, key_frame, documents, run, command, exposure):  # noqa: N803
    bench = near(0.9)
    seen = itertools.count()

    def paused(msg):
        """Pause in place of the command of one exposure, where the reading is not recorded yet."""
        of_exposure = msg.command == command and (command != "save" or saves(msg))
        if of_exposure and next(seen) == exposure:
            return pausing(msg), None
        return None, None

    streams = []

    def saves(msg):
        return streams[-1] == "focus_coarse_fine"

    def watched(plan):
        def note(msg):
            if msg.command == "create":
                streams.append(msg.kwargs["name"])
            return msg

        return bpp.msg_mutator(plan, note)

    def pausing(msg):
        yield Msg("pause")
        return (yield msg)

    with pytest.raises(RunEngineInterrupted):
        run(bpp.plan_mutator(watched(focus(bench, key_frame())), paused))
    assert RE.state == "paused"
    RE.resume()
    (recorded,) = documents.events("verdict")
    assert (recorded["verdict_found"], recorded["verdict_exposures"]) == (True, 9)
    assert bench.axis.position == recorded["verdict_position_um"] == pytest.approx(FOCUS_UM, abs=1e-3)
    uids = {doc["uid"] for doc in documents.named("descriptor") if doc["name"] == "focus_coarse_fine"}
    newest = {doc["seq_num"]: doc for doc in documents.named("event") if doc["descriptor"] in uids}
    assert json.loads(recorded["verdict_event_uids"]) == [doc["uid"] for doc in newest.values()]
    assert len(newest) == 9
    assert bench.triggers.calls >= 9 + (command != "trigger")
