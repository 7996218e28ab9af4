import json

import pytest

from bluesky_autofocus.plans import METHODS, autofocus, brent_focus, register_method


def focused(RE, plan):  # noqa: N803
    verdicts = []

    def outer():
        verdicts.append((yield from plan))

    RE(outer())
    return verdicts[0]


@pytest.mark.parametrize("method", ["brent", "sweep"])
def test_focuses_in_a_run_of_its_own(RE, bench, analysis, documents, method):  # noqa: N803
    verdict = focused(
        RE,
        autofocus(
            [bench.camera],
            bench.axis,
            analysis=analysis,
            method=method,
            bounds_um=bench.bounds_um,
            budget=22,
        ),
    )
    assert verdict.found
    assert verdict.method == method
    (start,) = documents.named("start")
    assert start["plan_name"] == "autofocus"
    assert start["method"] == method
    assert start["detectors"] == ["camera"]
    assert start["motors"] == ["z"]
    assert start["hints"] == {"dimensions": [(["z"], f"focus_{method}")]}
    assert start["plan_args"]["bounds_um"] == repr(bench.bounds_um)
    assert start["versions"]["scipy"]
    json.dumps(start)
    assert documents.named("stop")[0]["exit_status"] == "success"


def test_metadata_wins(RE, bench, analysis, documents):  # noqa: N803
    focused(
        RE,
        autofocus(
            [bench.camera],
            bench.axis,
            analysis=analysis,
            bounds_um=bench.bounds_um,
            md={"sample": "grains", "plan_name": "mine"},
        ),
    )
    (start,) = documents.named("start")
    assert (start["sample"], start["plan_name"]) == ("grains", "mine")


def test_not_found_is_a_verdict_and_no_error(RE, make_bench, analysis, documents):  # noqa: N803
    bench = make_bench(lambda z: 0.5)
    verdict = focused(RE, autofocus([bench.camera], bench.axis, analysis=analysis, bounds_um=bench.bounds_um))
    assert not verdict.found
    assert documents.named("stop")[0]["exit_status"] == "success"
    assert bench.axis.position == bench.start_um


def test_the_devices_are_staged(RE, sem, analysis, messages):  # noqa: N803
    focused(RE, autofocus([sem], sem.working_distance, analysis=analysis, range_um=60.0))
    commands = [message.command for message in messages]
    assert commands.index("stage") < commands.index("open_run") < commands.index("trigger")
    assert commands.count("stage") == commands.count("unstage")


class TestRegister:
    @pytest.fixture(autouse=True)
    def methods(self, monkeypatch):
        for name in list(METHODS):
            monkeypatch.setitem(METHODS, name, METHODS[name])
        yield
        METHODS.pop("mine", None)

    def test_a_stub_of_your_own(self, RE, bench, analysis):  # noqa: N803
        def mine(detectors, axis, *, analysis, width_um):
            verdict = yield from brent_focus(detectors, axis, analysis=analysis, range_um=width_um)
            return verdict

        register_method("mine", mine)
        register_method("mine", mine)
        plan = autofocus([bench.camera], bench.axis, analysis=analysis, method="mine", width_um=80.0)
        assert focused(RE, plan).found

    def test_a_name_that_is_taken(self):
        with pytest.raises(ValueError, match="'brent' is already"):
            register_method("brent", lambda: None)
