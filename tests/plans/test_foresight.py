"""Focusing in a plan by what was measured: frames that blur, focus predicted, an axis that follows."""

import json
import math
from collections import Counter
from functools import partial

import pytest
from bluesky import plan_stubs as bps
from bluesky import plans as bp
from bluesky import preprocessors as bpp
from bluesky.utils import RunEngineInterrupted
from interrupting import at_message, pausing, throwing
from ophyd import Signal

from bluesky_autofocus.callbacks import NotSubscribedError, SharpnessAnalysis
from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.plans import (
    Blurred,
    EveryExposures,
    FocusNotFoundError,
    Uncertain,
    autofocus_wrapper,
    sweep_focus,
)
from bluesky_autofocus.prediction import DriftFilter
from bluesky_autofocus.records import Reason, Verdict

INTERVAL_S = 60.0
SURE = Uncertain(0.25, depth_of_field_um=2.0)


class DriftingBench:
    """A bench whose focus drifts on a clock, and a stub that knows where it is."""

    travel_um = [-40.0, 50.0]

    top_um = math.inf
    """No focusing goes higher."""

    def __init__(self, make_bench, drift_um, **options):
        self.clock = VirtualClock()
        self.drift_um = drift_um
        self.bench = make_bench(lambda z: 1 / (1 + ((z - self.focus_um) / 6) ** 2), **options)
        self.axis, self.camera = self.bench.axis, self.bench.camera
        self.errors_um, self.focused_s = [], []
        self.finds = True

    @property
    def focus_um(self):
        return 7.3 + self.drift_um(self.clock.now_s())

    def knowing(self):
        """Focus without exposing: within 0.1 um, as the verdict says."""
        self.focused_s.append(self.clock.now_s())
        start_um = self.axis.position
        found_um = self.focus_um + 0.1 * math.sin(len(self.focused_s))
        if self.finds:
            yield from bps.mv(self.axis, min(found_um, self.top_um))
        return Verdict(
            found=self.finds,
            reason=Reason.FOUND if self.finds else Reason.FLAT,
            position_um=found_um if self.finds else math.nan,
            sigma_um=0.1 if self.finds else math.nan,
            start_um=start_um,
            exposures=0,
            dose=0.0,
            method="knowing",
            parameters={"travel_um": self.travel_um},
        )

    def time_lapse(self, n):
        """Expose n times, a minute apart."""
        self.errors_um.clear()

        @bpp.run_decorator()
        def plan():
            for _ in range(n):
                yield from bps.trigger_and_read([self.camera, self.axis])
                self.errors_um.append(self.axis.position - self.focus_um)
                self.clock.advance(INTERVAL_S)

        return plan()

    def wrap(self, plan, when, **options):
        options = {
            "detectors": [self.camera],
            "axis": self.axis,
            "clock": self.clock,
            **options,
        }
        return autofocus_wrapper(plan, options.pop("focus", self.knowing), when=when, **options)


@pytest.fixture
def make(make_bench):
    return partial(DriftingBench, make_bench)


@pytest.fixture
def steady(make):
    return make(lambda now_s: 4e-3 * now_s)


def why(documents):
    return [data["focus_decision_why"] for data in documents.events("focus_decision")]


class TestUncertain:
    def test_a_steady_drift_is_followed_and_focused_less_and_less(self, RE, steady, documents):  # noqa: N803
        RE(steady.wrap(steady.time_lapse(90), SURE, follow=True))
        assert max(map(abs, steady.errors_um)) < 1.0  # half a depth of field; it has drifted by 21 um
        first, second = (sum(a <= now_s < a + 2700 for now_s in steady.focused_s) for a in (0, 2700))
        assert second < first / 2
        assert len(steady.focused_s) < 25
        followed = documents.events("focus_followed")
        assert len(followed) > 30
        for data in followed:
            assert data["focus_followed_sigma_um"] <= 0.5
            assert data["focus_followed_position_um"] != data["focus_followed_start_um"]
        reasons = Counter(one.split(" by ")[0] for one in why(documents))
        assert reasons == {"not focused yet": 1, "uncertain": len(steady.focused_s) - 1}
        # where no exposure is focused the axis is moved, and nowhere else
        positions = [data["z"] for data in documents.events("primary")]
        for data in followed:
            assert positions[data["focus_followed_exposure"] - 1] == data["focus_followed_position_um"]

    def test_without_following_known_drift_counts_too(self, RE, steady, documents):  # noqa: N803
        RE(steady.wrap(steady.time_lapse(60), SURE))
        assert not documents.events("focus_followed")
        assert max(map(abs, steady.errors_um)) < 1.0
        still, follows = len(steady.focused_s), []
        steady.clock, steady.focused_s = VirtualClock(), follows
        RE(steady.wrap(steady.time_lapse(60), SURE, follow=True))
        assert len(follows) < 0.6 * still

    def test_after_a_knock_it_looks_twice(self, RE, make, documents):  # noqa: N803
        bench = make(lambda now_s: 1e-3 * now_s + (12.0 if now_s > 3000 else 0.0))
        drift = DriftFilter()
        RE(bench.wrap(bench.time_lapse(90), SURE, follow=True, drift=drift))
        assert len(drift.jumps_s) == 1
        noticed = bench.focused_s.index(drift.jumps_s[0])
        assert bench.focused_s[noticed + 1] == drift.jumps_s[0] + INTERVAL_S
        blurred = [number for number, error_um in enumerate(bench.errors_um) if abs(error_um) > 1]
        # from the knock to the next focusing, and no longer
        assert blurred == list(range(51, math.ceil(drift.jumps_s[0] / INTERVAL_S)))

    def test_focus_that_is_not_found(self, RE, steady, documents):  # noqa: N803
        """It stays uncertain: no more often than the interval allows."""
        when = Uncertain(0.25, 2.0, min_interval_s=300.0)
        steady.finds = False
        RE(steady.wrap(steady.time_lapse(11), when, follow=True))
        assert steady.focused_s == [0.0, 300.0, 600.0]
        assert why(documents) == ["not focused yet", "no prediction", "no prediction"]
        with pytest.raises(FocusNotFoundError):
            RE(steady.wrap(steady.time_lapse(3), when, on_failure="stop"))

    def test_by_the_temperature(self, RE, make, documents):  # noqa: N803
        """A warm morning is foreseen once its effect is known."""
        room_c = Signal(name="room", value=21.0)
        bench = make(lambda now_s: 2.0 * (room_c.get() - 21.0))

        @bpp.run_decorator()
        def plan(n):
            for number in range(n):
                room_c.put(21.0 + 0.3 * math.sin(number / 4))
                yield from bps.trigger_and_read([bench.camera, bench.axis])
                bench.errors_um.append(bench.axis.position - bench.focus_um)
                bench.clock.advance(INTERVAL_S)

        drift = DriftFilter()
        RE(bench.wrap(plan(60), SURE, follow=True, drift=drift, temperature=room_c))
        learnt = drift.parameters["learnt"]
        assert learnt["temperature_coefficient_um_per_c"] == pytest.approx(2.0, abs=0.4)
        with_it, errors_um = len(bench.focused_s), list(bench.errors_um)
        bench.clock, bench.focused_s = VirtualClock(), []
        RE(bench.wrap(plan(60), SURE, follow=True))
        assert with_it < 0.7 * len(bench.focused_s)
        assert max(map(abs, errors_um)) < 1.0

    def test_with_a_search(self, RE, steady, analysis, documents):  # noqa: N803
        """Of its own uncertainty, within its own travel range."""
        focus = partial(
            sweep_focus,
            [steady.camera],
            steady.axis,
            analysis=analysis,
            range_um=40.0,
            budget=12,
            depth_of_field_um=2.0,
        )
        steady.axis.set(5.0).wait(1)
        RE(steady.wrap(steady.time_lapse(25), Uncertain(0.5, 2.0), follow=True, focus=focus))
        assert max(map(abs, steady.errors_um)) < 2.0
        assert documents.events("focus_followed")
        verdicts = documents.events("verdict")
        assert 1 < len(verdicts) < 20
        assert all(data["verdict_found"] for data in verdicts)


class TestFollowing:
    def test_not_beyond_the_travel_range(self, RE, steady, documents):  # noqa: N803
        steady.travel_um, steady.top_um = [-40.0, 9.0], 9.0
        RE(steady.wrap(steady.time_lapse(16), EveryExposures(3), follow=True))
        followed = [data["focus_followed_position_um"] for data in documents.events("focus_followed")]
        assert 8.0 < max(followed) <= 9.0
        assert len(followed) < 8

    def test_not_beyond_the_limits_of_the_axis(self, RE, make, documents):  # noqa: N803
        bench = make(lambda now_s: 4e-3 * now_s, limits=(-100.0, 9.0))
        bench.travel_um, bench.top_um = [-40.0, 4000.0], 9.0
        RE(bench.wrap(bench.time_lapse(16), EveryExposures(3), follow=True))
        followed = [data["focus_followed_position_um"] for data in documents.events("focus_followed")]
        assert 8.0 < max(followed) <= 9.0
        assert len(followed) < 8

    def test_not_where_nobody_says_how_far_it_may_go(self, RE, steady, documents):  # noqa: N803
        def knowing():
            verdict = yield from steady.knowing()
            verdict.parameters.clear()
            return verdict

        RE(steady.wrap(steady.time_lapse(12), EveryExposures(3), follow=True, focus=knowing))
        assert not documents.events("focus_followed")

    def test_not_what_is_in_doubt(self, RE, make, documents):  # noqa: N803
        """Focus found where it cannot be, once: the axis does not follow that."""
        bench = make(lambda now_s: 15.0 if now_s == 1200.0 else 0.0)
        RE(bench.wrap(bench.time_lapse(30), EveryExposures(5), follow=True))
        for data in documents.events("focus_followed"):
            assert data["focus_followed_position_um"] == pytest.approx(7.3, abs=1.0)
        # from the next focusing on all is as it was
        assert max(map(abs, bench.errors_um[25:])) < 1.0

    def test_from_the_declared_side(self, RE, steady, messages):  # noqa: N803
        def knowing():
            verdict = yield from steady.knowing()
            verdict.parameters["approach"] = {"direction": 1, "overshoot_um": 3.0, "settle_s": 0.0}
            return verdict

        steady.drift_um = lambda now_s: -4e-3 * now_s
        RE(steady.wrap(steady.time_lapse(12), EveryExposures(4), follow=True, focus=knowing))
        moves = [msg.args[0] for msg in messages if msg.command == "set" and msg.obj is steady.axis]
        # the last one downwards goes past first
        assert moves[-1] - moves[-2] == pytest.approx(3.0)

    def test_what_is_recorded_at_the_start(self, RE, steady, documents):  # noqa: N803
        room_c = Signal(name="room", value=21.0)
        drift = DriftFilter(rate_um_per_min=0.5)
        RE(steady.wrap(steady.time_lapse(2), SURE, follow=True, drift=drift, temperature=room_c))
        (start,) = documents.named("start")
        recorded = json.loads(json.dumps(start["autofocus"]))
        assert recorded["follow"] is True
        assert recorded["temperature"] == "room"
        assert recorded["drift"]["rate_um_per_min"] == 0.5
        assert recorded["when"][0]["uncertain"] == 0.25

    def test_a_filter_that_is_kept_goes_on_from_plan_to_plan(self, RE, steady, documents):  # noqa: N803
        drift = DriftFilter()
        RE(steady.wrap(steady.time_lapse(40), SURE, follow=True, drift=drift))
        known = drift.parameters["observations"]
        RE(steady.wrap(steady.time_lapse(10), SURE, follow=True, drift=drift))
        assert known < drift.parameters["observations"] <= known + 3

    def test_a_clock_that_runs_behind_the_filter(self, RE, steady, messages):  # noqa: N803
        drift = DriftFilter()
        drift.observe(1e6, 3.0, 0.1)
        with pytest.raises(ValueError, match="time cannot run backwards"):
            RE(steady.wrap(steady.time_lapse(3), SURE, drift=drift))
        assert messages == []

    def test_a_dry_run(self, steady):
        seen = list(steady.wrap(steady.time_lapse(3), SURE, follow=True))
        assert [msg.obj for msg in seen if msg.command == "trigger"].count(steady.camera) == 3
        assert not steady.bench.triggers.calls


class TestInterrupted:
    """At every message between two exposures of which the second is followed to."""

    @pytest.fixture
    def plan(self, steady):
        def plan():
            steady.clock, steady.focused_s = VirtualClock(), []
            steady.axis.set(steady.bench.start_um).wait(1)
            drift = DriftFilter()
            for now_s in range(-360, 0, 60):
                drift.observe(now_s, 7.3 + steady.drift_um(now_s), 0.05)
            return steady.wrap(steady.time_lapse(2), EveryExposures(2), follow=True, drift=drift)

        return plan

    @pytest.fixture
    def indices(self, RE, steady, plan, messages, documents):  # noqa: N803
        RE(plan())
        assert len(documents.events("focus_followed")) == 1
        first, second = [
            number
            for number, msg in enumerate(messages)
            if msg.command == "trigger" and msg.obj is steady.camera
        ]
        return range(first, second + 1)

    def test_an_error(self, RE, steady, plan, indices, documents):  # noqa: N803
        for index in indices:
            documents.clear()
            with pytest.raises(RuntimeError, match="thrown in place"):
                RE(at_message(plan(), index, throwing))
            found = [data["focus_decision_position_um"] for data in documents.events("focus_decision")]
            kept = [data["focus_followed_position_um"] for data in documents.events("focus_followed")]
            assert any(steady.axis.position == pytest.approx(z) for z in found + kept), index
            assert documents.named("stop")[0]["exit_status"] == "fail"
            assert not steady.bench.pending

    def test_a_pause(self, RE, steady, plan, indices, documents):  # noqa: N803
        for index in indices:
            documents.clear()
            with pytest.raises(RunEngineInterrupted):
                RE(at_message(plan(), index, pausing))
            RE.resume()
            numbers = {data["focus_followed_exposure"] for data in documents.events("focus_followed")}
            assert numbers == {2}, index
            followed = documents.events("focus_followed")[-1]["focus_followed_position_um"]
            assert documents.events("primary")[-1]["z"] == followed, index
            assert len(steady.focused_s) == 1, index


class TestBlurred:
    @pytest.fixture
    def kicked(self, make):
        """Return a bench whose focus is 8 um away from the fifth exposure on."""
        return make(lambda now_s: 8.0 if now_s >= 4 * INTERVAL_S else 0.0)

    def test_when_the_frame_before_is_blurred(self, RE, kicked, analysis, documents):  # noqa: N803
        RE(kicked.wrap(kicked.time_lapse(9), Blurred(analysis)))
        assert [data["focus_decision_exposure"] for data in documents.events("focus_decision")] == [1, 6]
        first, second = why(documents)
        assert first == "not focused yet"
        assert second.startswith("blurred: 0.") and second.endswith(" of the baseline")
        assert [abs(error_um) > 1 for error_um in kicked.errors_um] == [False] * 4 + [True] + [False] * 4
        # nothing is exposed but what the plan exposes
        assert kicked.bench.triggers.calls == 9

    def test_in_a_stream_of_any_name_under_any_other_analysis(self, RE, kicked, analysis, documents):  # noqa: N803
        @bpp.run_decorator()
        def plan():
            for _ in range(8):
                yield from bps.trigger_and_read([kicked.camera], name="tile")
                kicked.clock.advance(INTERVAL_S)
                yield from bps.trigger_and_read([kicked.axis], name="between")

        other = SharpnessAnalysis("tenengrad", name="other")
        RE.subscribe(other)
        RE(kicked.wrap(plan(), Blurred(other)))
        assert [data["focus_decision_exposure"] for data in documents.events("focus_decision")] == [1, 6]

    def test_runs_of_one_exposure_each(self, RE, kicked, analysis, documents):  # noqa: N803
        def plan():
            for _ in range(8):
                yield from bp.count([kicked.camera])
                kicked.clock.advance(INTERVAL_S)

        RE(kicked.wrap(plan(), Blurred(analysis)))
        runs = [doc["uid"] for doc in documents.named("start")]
        focused = [
            runs.index(doc["run_start"])
            for doc in documents.named("descriptor")
            if doc["name"] == "focus_decision"
        ]
        assert focused == [0, 5]

    def test_black_frames_are_not_blurred(self, RE, kicked, analysis, documents):  # noqa: N803
        kicked.bench.level = 0.0
        RE(kicked.wrap(kicked.time_lapse(6), Blurred(analysis)))
        assert why(documents) == ["not focused yet"]

    def test_an_analysis_that_is_not_subscribed(self, RE, kicked):  # noqa: N803
        with pytest.raises(NotSubscribedError, match="'stranger'"):
            RE(kicked.wrap(kicked.time_lapse(3), Blurred(SharpnessAnalysis(name="stranger"))))
        assert kicked.bench.triggers.calls == 0

    def test_a_dry_run(self, kicked, analysis):
        seen = list(kicked.wrap(kicked.time_lapse(3), Blurred(analysis)))
        assert [msg.obj for msg in seen if msg.command == "trigger"].count(kicked.camera) == 3
