"""What all searches have in common: arguments are checked before anything moves, dry runs work."""

import math
import typing
from pathlib import Path

import pytest
from bluesky import preprocessors as bpp
from bluesky.simulators import check_limits, summarize_plan
from ophyd.utils import LimitError

from bluesky_autofocus import plans
from bluesky_autofocus.callbacks import NotSubscribedError, SharpnessAnalysis
from bluesky_autofocus.plans import (
    METHODS,
    Approach,
    UnknownMethodError,
    autofocus,
    brent_focus,
    focus_if_blurred,
    search_focus,
    sweep_focus,
)
from bluesky_autofocus.records import Reason
from bluesky_autofocus.search import BlurTrigger
from bluesky_autofocus.sharpness import UnknownMetricError

STUBS = {"brent": brent_focus, "sweep": sweep_focus}
GOOD = {"bounds_um": (-40.0, 50.0)}


def of_both(table):
    return [(stub, *row) for row in table for stub in STUBS.values()]


BAD = [
    *of_both(
        [
            ({"bounds_um": (50.0, -40.0)}, ValueError, r"bounds_um .*\(50.0, -40.0\)"),
            ({"bounds_um": (5.0, 5.0)}, ValueError, r"bounds_um .*\(5.0, 5.0\)"),
            ({"bounds_um": (math.nan, 5.0)}, ValueError, r"bounds_um .*nan"),
            ({"bounds_um": (0.0, math.inf)}, ValueError, r"bounds_um .*inf"),
            ({"bounds_um": (1.0, 2.0, 3.0)}, ValueError, r"bounds_um .*3.0"),
            ({"bounds_um": 7.0}, ValueError, r"bounds_um .*7.0"),
            ({"bounds_um": ("low", "high")}, ValueError, r"bounds_um .*'high'"),
            ({"bounds_um": (-101.0, 50.0)}, LimitError, r"z: -101.0 um .* -100.0 .. 100.0"),
            ({"bounds_um": (-40.0, 100.5)}, LimitError, r"z: 100.5 um .* -100.0 .. 100.0"),
            ({"bounds_um": None, "range_um": 180.0}, LimitError, r"z: -101.0 um"),
            ({"bounds_um": None, "range_um": 0.0}, ValueError, r"range_um .*0.0"),
            ({"bounds_um": None, "range_um": -5.0}, ValueError, r"range_um .*-5.0"),
            ({"bounds_um": None, "range_um": math.nan}, ValueError, r"range_um .*nan"),
            ({"range_um": 20.0}, ValueError, r"either bounds_um .* or range_um"),
            ({"bounds_um": None}, ValueError, r"either bounds_um .* or range_um"),
            ({"budget": 0}, ValueError, r"budget .*got 0"),
            ({"budget": -3}, ValueError, r"budget .*got -3"),
            ({"budget": 4}, ValueError, r"budget .*got 4"),
            ({"travel_um": (-30.0, 60.0)}, ValueError, r"travel_um .*-30.0.* must contain .*-40.0"),
            ({"travel_um": (-50.0, 40.0)}, ValueError, r"travel_um .*40.0.* must contain .*50.0"),
            ({"travel_um": (60.0, -60.0)}, ValueError, r"travel_um .*60.0, -60.0"),
            ({"bounds_um": (0.0, 50.0), "travel_um": (0.0, 50.0)}, ValueError, r"start -11.0"),
            ({"depth_of_field_um": 0.0}, ValueError, r"depth_of_field_um .*0.0"),
            ({"depth_of_field_um": -1.0}, ValueError, r"depth_of_field_um .*-1.0"),
            ({"depth_of_field_um": math.nan}, ValueError, r"depth_of_field_um .*nan"),
            (
                {
                    "bounds_um": (-100.0, 50.0),
                    "travel_um": (-120.0, 100.0),
                    "approach": Approach(overshoot_um=5.0),
                },
                LimitError,
                r"z: -105.0 um",
            ),
        ]
    ),
    (brent_focus, {"tolerance_um": -0.5}, ValueError, r"tolerance_um .*-0.5"),
    (brent_focus, {"tolerance_um": 0.0}, ValueError, r"tolerance_um .*0.0"),
    (brent_focus, {"tolerance_um": math.inf}, ValueError, r"tolerance_um .*inf"),
    (sweep_focus, {"positions_um": [1.0, 2.0]}, ValueError, r"positions_um"),
    (sweep_focus, {"bounds_um": None, "positions_um": list(range(30))}, ValueError, r"budget 22 .* 30"),
]


@pytest.mark.parametrize(("stub", "options", "error", "named"), BAD)
def test_bad_input(bench, analysis, run, messages, stub, options, error, named):
    with pytest.raises(error, match=named):
        run(stub([bench.camera], bench.axis, analysis=analysis, **{**GOOD, **options}))
    assert not {"set", "trigger"} & {message.command for message in messages}
    assert bench.axis.position == bench.start_um


@pytest.mark.parametrize("stub", [*STUBS.values(), focus_if_blurred])
def test_an_analysis_that_is_not_subscribed(bench, run, messages, stub):
    options = {"trigger": BlurTrigger()} if stub is focus_if_blurred else {}
    with pytest.raises(NotSubscribedError, match="analysis 'mine' .*RE.subscribe"):
        run(stub([bench.camera], bench.axis, analysis=SharpnessAnalysis(name="mine"), **GOOD, **options))
    assert not {"set", "trigger"} & {message.command for message in messages}


def test_a_stub_outside_a_run(RE, bench, analysis, messages):  # noqa: N803
    with pytest.raises(NotSubscribedError, match="inside a plan that opens a run"):
        RE(brent_focus([bench.camera], bench.axis, analysis=analysis, **GOOD))
    assert not {"set", "trigger"} & {message.command for message in messages}


def test_unknown_metric():
    with pytest.raises(UnknownMetricError, match="'sharpest'.*smoothed_laplacian"):
        SharpnessAnalysis("sharpest")


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"method": "guess"}, UnknownMethodError, "'guess'.*brent.*sweep"),
        ({"speed": 3}, TypeError, "speed"),
        ({"method": "sweep", "tolerance_um": 1.0}, TypeError, "tolerance_um"),
    ],
)
def test_unknown_names_open_no_run(RE, bench, analysis, messages, options, error, named):  # noqa: N803
    with pytest.raises(error, match=named):
        RE(autofocus([bench.camera], bench.axis, analysis=analysis, **GOOD, **options))
    assert messages == []


class TestTheConfirmingFrame:
    """It is compared with the best frame that could be used, whatever became of the others."""

    @pytest.fixture
    def search(self, RE, make_bench, run):  # noqa: N803
        """Return a function that searches, where the first frames are black, and focus is knocked later."""
        by_score = SharpnessAnalysis(octaves=False)
        RE.subscribe(by_score)

        def search(black, knocked_after=math.inf):
            bench = make_bench()

            def render():
                knock_um = 8.0 if bench.triggers.calls > knocked_after else 0.0
                return bench.frame(bench.axis.load_um + knock_um) * (bench.triggers.calls > black)

            bench.camera.render = render
            options = {"analysis": by_score, "depth_of_field_um": bench.depth_of_field_um, "budget": 20}
            return bench, run(search_focus([bench.camera], bench.axis, **GOOD, **options))

        return search

    @pytest.mark.parametrize("black", [0, 1, 2])
    def test_is_worse(self, search, black):
        _, undisturbed = search(black)
        assert undisturbed.found
        bench, verdict = search(black, knocked_after=undisturbed.exposures - 1)
        assert verdict.exposures == undisturbed.exposures
        assert (verdict.found, verdict.reason) == (False, Reason.WORSE_AFTERWARDS)
        assert bench.axis.position == bench.start_um


DRY = {
    "brent": lambda *args, **kwargs: brent_focus(*args, **kwargs),
    "sweep": lambda *args, **kwargs: sweep_focus(*args, **kwargs),
    "blur": lambda *args, **kwargs: focus_if_blurred(*args, trigger=BlurTrigger(), **kwargs),
    "autofocus": lambda *args, **kwargs: autofocus(*args, **kwargs),
    "autofocus by sweep": lambda *args, **kwargs: autofocus(*args, method="sweep", **kwargs),
}


@pytest.mark.parametrize(
    "options",
    [
        {"bounds_um": (-40.0, 50.0)},
        {"range_um": 80.0},
        {"range_um": 500.0},
        {"range_um": 20.0, "travel_um": (50.0, 90.0)},
        {"bounds_um": (60.0, 90.0), "approach": Approach(overshoot_um=3.0, settle_s=0.1), "confirm": True},
    ],
)
@pytest.mark.parametrize("name", DRY)
class TestDryRun:
    """Outside a RunEngine, without a subscription, and without touching the instrument."""

    def plan(self, bench, name, options):
        return DRY[name]([bench.camera], bench.axis, analysis=SharpnessAnalysis(), **options)

    def test_list(self, bench, name, options):
        messages = list(self.plan(bench, name, options))
        low, high = options.get("bounds_um") or options.get("travel_um") or (-250.0, 250.0)
        positions = [message.args[0] for message in messages if message.command == "set"]
        assert len(positions) > 4
        assert all(low <= position <= high for position in positions)
        assert (bench.moves.calls, bench.triggers.calls) == (0, 0)

    def test_summary(self, bench, name, options, capsys):
        summarize_plan(self.plan(bench, name, options))
        assert "z ->" in capsys.readouterr().out
        assert bench.moves.calls == 0


@pytest.mark.parametrize("stub", STUBS.values())
def test_limits_can_be_checked_beforehand(RE, bench, stub):  # noqa: N803
    """By bluesky's own `check_limits`, which runs the plan dry, where a RunEngine's event loop is."""
    check_limits(stub([bench.camera], bench.axis, analysis=SharpnessAnalysis(), **GOOD))
    with pytest.raises(LimitError):
        check_limits(stub([bench.camera], bench.axis, analysis=SharpnessAnalysis(), bounds_um=(90.0, 110.0)))


class TestQueueserver:
    """It reads the annotations of plans, so they must be objects and not text."""

    plans = (autofocus, brent_focus, sweep_focus, focus_if_blurred)

    @pytest.mark.parametrize("plan", plans)
    def test_annotations_are_no_text(self, plan):
        assert not [name for name, value in plan.__annotations__.items() if isinstance(value, str)]
        assert set(typing.get_type_hints(plan)) >= {"detectors", "axis", "return"}

    def test_no_module_postpones_annotations(self):
        modules = list(Path(plans.__file__).parent.glob("*.py"))
        assert modules
        assert not [m.name for m in modules if "import annotations" in m.read_text()]

    def test_methods_are_known_by_plain_names(self):
        assert {"brent", "sweep"} <= set(METHODS)
        assert all(name.isidentifier() for name in METHODS)


def test_a_plan_that_is_not_iterated_says_so(bench, analysis):
    with pytest.warns(RuntimeWarning, match="was never iterated"):
        brent_focus([bench.camera], bench.axis, analysis=analysis, **GOOD)


def test_the_axis_may_already_be_among_the_detectors(RE, bench, analysis, documents, run):  # noqa: N803
    verdict = run(sweep_focus([bench.camera, bench.axis], bench.axis, analysis=analysis, **GOOD))
    assert verdict.found


def test_streams_stay_apart_in_one_run(RE, bench, analysis, documents):  # noqa: N803
    @bpp.run_decorator()
    def plan():
        for stub in STUBS.values():
            yield from stub([bench.camera], bench.axis, analysis=analysis, budget=22, **GOOD)

    RE(plan())
    assert [data["verdict_method"] for data in documents.events("verdict")] == ["brent", "sweep"]
    streams = [data["sharpness_stream"] for data in documents.events("reading_sharpness")]
    assert streams == sorted(streams)
    assert set(streams) == {"focus_brent", "focus_sweep"}
