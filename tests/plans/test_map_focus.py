"""A map of the focus of the tiles, recorded beside the verdict of any method."""
# ruff: noqa: N803 - every bluesky user calls it RE

import json
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
from bluesky.callbacks.best_effort import BestEffortCallback
from bluesky.simulators import summarize_plan
from bluesky.utils import RunEngineInterrupted
from interrupting import at_message, pausing, throwing

from bluesky_autofocus.callbacks import FocusMapAnalysis, FocusMapRecord
from bluesky_autofocus.plans import (
    METHODS,
    UnknownMethodError,
    autofocus,
    brent_focus,
    map_focus,
)
from bluesky_autofocus.records import Reason

DIFFERENCE_UM = 4.0
"""Focus of the right half of the frame less that of the left."""


@pytest.fixture
def bench(make_bench):
    """Return a bench whose specimen is tilted."""
    made = make_bench()
    plain = made.frame

    def tilted(position_um):
        left, right = (plain(position_um + side * DIFFERENCE_UM / 2) for side in (1, -1))
        return np.hstack([left[:, :16], right[:, 16:]])

    made.frame = tilted
    return made


@pytest.fixture
def tiles(RE):
    made = FocusMapAnalysis(grid=(2, 2))
    RE.subscribe(made)
    return made


def mapped(bench, analysis, **options):
    options = {"bounds_um": (-22.7, 37.3), "budget": 14, "depth_of_field_um": 2.0, **options}
    return map_focus([bench.camera], bench.axis, analysis=analysis, **options)


class TestRecorded:
    @pytest.mark.parametrize("by", ["sweep", "brent", brent_focus])
    def test_by_any_method(self, run, bench, tiles, documents, by):
        verdict = run(mapped(bench, tiles, by=by, budget=16))
        method = by if isinstance(by, str) else "brent"
        assert (verdict.found, verdict.method) == (True, method)
        assert bench.axis.position == pytest.approx(verdict.position_um)
        (recorded,) = documents.events("focus_map")
        foci_um = np.array(json.loads(recorded["focus_map_foci_um"]))
        between_um = foci_um[:, 1] - foci_um[:, 0]
        assert between_um == pytest.approx([DIFFERENCE_UM, DIFFERENCE_UM], abs=0.5)
        assert recorded["focus_map_exposures"] == verdict.exposures
        assert recorded["focus_map_depth_of_field_um"] == 2.0
        assert math.isnan(recorded["focus_map_pixel_size_um"])

    def test_it_is_what_the_analysis_tells(self, run, bench, tiles, documents):
        run(mapped(bench, tiles))
        (recorded,) = documents.events("focus_map")
        told = tiles.focus_map().recorded()
        assert {key.removeprefix("focus_map_") for key in recorded} == set(told)
        assert recorded["focus_map_mean_um"] == told["mean_um"]
        assert recorded["focus_map_foci_um"] == told["foci_um"]
        (descriptor,) = (doc for doc in documents.named("descriptor") if doc["name"] == "focus_map")
        assert {key: value["dtype"] for key, value in descriptor["data_keys"].items()}.items() >= {
            "focus_map_tilt_x_um": "number",
            "focus_map_agree": "boolean",
            "focus_map_exposures": "integer",
            "focus_map_foci_um": "string",
        }.items()

    def test_each_focusing_has_its_own(self, RE, run, bench, tiles, documents):
        def twice():
            yield from mapped(bench, tiles, budget=10)
            return (yield from mapped(bench, tiles, budget=14))

        run(twice())
        exposures = [one["focus_map_exposures"] for one in documents.events("focus_map")]
        assert exposures == [one["verdict_exposures"] for one in documents.events("verdict")]
        assert exposures[0] < exposures[1]

    def test_as_a_method_in_a_run_of_its_own(self, RE, bench, tiles, documents):
        RE(
            autofocus(
                [bench.camera], bench.axis, analysis=tiles, method="map", bounds_um=(-22.7, 37.3), budget=14
            )
        )
        assert METHODS["map"] is map_focus
        (start,) = documents.named("start")
        assert start["method"] == "map"
        assert len(documents.events("focus_map")) == len(documents.events("verdict")) == 1

    def test_the_best_effort_callback_goes_along(self, RE, bench, tiles, documents, capsys):
        """It takes the stream of that name for that of the scan, in which there is no axis."""
        RE.subscribe(BestEffortCallback())
        RE(
            autofocus(
                [bench.camera], bench.axis, analysis=tiles, method="map", bounds_um=(-22.7, 37.3), budget=14
            )
        )
        plt.close("all")
        assert "New stream: 'focus_map'" in capsys.readouterr().out
        assert documents.named("stop")[-1]["exit_status"] == "success"


class TestWithoutAMap:
    def test_too_few_exposures(self, run, bench, tiles, documents):
        bench.frame = lambda position_um: np.zeros((32, 32), np.uint16)
        verdict = run(mapped(bench, tiles))
        assert verdict.reason is Reason.BLACK
        assert documents.events("focus_map") == []
        assert bench.axis.position == bench.start_um

    def test_what_is_not_found_has_a_map_all_the_same(self, run, make_bench, tiles, documents):
        bench = make_bench(lambda z: 0.5)
        verdict = run(mapped(bench, tiles))
        assert not verdict.found
        (recorded,) = documents.events("focus_map")
        assert not recorded["focus_map_agree"] and math.isnan(recorded["focus_map_mean_um"])
        assert json.loads(recorded["focus_map_foci_um"]) == [[None, None], [None, None]]

    def test_a_map_of_before_is_not_recorded_again(self, run, bench, tiles, documents):
        def twice():
            yield from mapped(bench, tiles)
            bench.frame = lambda position_um: np.zeros((32, 32), np.uint16)
            return (yield from mapped(bench, tiles))

        run(twice())
        assert len(documents.events("focus_map")) == 1


class TestArguments:
    def test_an_analysis_that_scores_no_tiles(self, run, bench, analysis, documents):
        with pytest.raises(ValueError, match="takes a FocusMapAnalysis"):
            run(mapped(bench, analysis))
        assert bench.moves.calls == bench.triggers.calls == 0

    def test_no_such_method(self, run, bench, tiles):
        with pytest.raises(UnknownMethodError, match="guess"):
            run(mapped(bench, tiles, by="guess"))
        assert bench.moves.calls == 0

    def test_no_such_option(self, run, bench, tiles):
        with pytest.raises(TypeError, match="guess"):
            run(mapped(bench, tiles, guess=1))
        assert bench.moves.calls == 0

    def test_a_dry_run(self, bench, tiles, capsys):
        summarize_plan(mapped(bench, tiles))
        assert "camera" in capsys.readouterr().out
        assert bench.moves.calls == bench.triggers.calls == 0
        assert len(list(mapped(bench, tiles))) > 50


class TestInterrupted:
    @pytest.fixture
    def last_messages(self, run, bench, tiles, messages):
        """Return the numbers of the messages after the verdict was saved."""
        run(mapped(bench, tiles, budget=9))
        commands = [message.command for message in messages][1:-1]
        messages.clear()
        saves = [index for index, command in enumerate(commands) if command == "save"]
        return range(saves[-2] + 1, len(commands))

    def test_an_exception_puts_the_axis_back(self, run, bench, tiles, documents, last_messages):
        for index in last_messages:
            bench.axis.set(bench.start_um).wait(1)
            documents.clear()
            with pytest.raises(RuntimeError, match="thrown in place of"):
                run(at_message(mapped(bench, tiles, budget=9), index, throwing))
            assert bench.axis.position == pytest.approx(bench.start_um), index
            assert len(documents.events("verdict")) == 1, index

    def test_a_pause_changes_nothing(self, RE, run, bench, tiles, documents, last_messages):
        for index in last_messages:
            bench.axis.set(bench.start_um).wait(1)
            documents.clear()
            with pytest.raises(RunEngineInterrupted):
                run(at_message(mapped(bench, tiles, budget=9), index, pausing))
            RE.resume()
            assert documents.named("stop")[-1]["exit_status"] == "success"
            assert {doc["seq_num"] for doc in self.of(documents, "verdict")} == {1}, index
            (recorded,) = self.of(documents, "focus_map")
            assert recorded["data"]["focus_map_exposures"] == 9, index

    def of(self, documents, stream):
        """Return the Events of a stream: one that a pause has had taken again counts once."""
        uids = {doc["uid"] for doc in documents.named("descriptor") if doc["name"] == stream}
        events = (doc for doc in documents.named("event") if doc["descriptor"] in uids)
        return list({doc["seq_num"]: doc for doc in events}.values())

    def test_the_map_is_told_later_from_what_was_recorded(self, run, bench, tiles, documents):
        run(mapped(bench, tiles))
        record = FocusMapRecord()
        for name, doc in documents:
            record(name, doc)
        assert record.focus_map().recorded()["foci_um"] == tiles.focus_map().recorded()["foci_um"]
