"""A sample of the faults of `benchmarks.faults`: whatever breaks, nothing is lost and all is put back."""

import importlib
import logging
import weakref
from pathlib import Path

import pytest
from bluesky.utils import Msg

from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.session import open_session

# Of packages below Tiled, at their own use of each other
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")


@pytest.fixture
def faults(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    module = importlib.import_module("benchmarks.faults")
    monkeypatch.setattr(module.moving, "STOPPING_S", module.STALLED_S)
    # RunEngines and devices say what has failed
    monkeypatch.setattr(logging.getLogger("bluesky"), "disabled", True)
    return module


@pytest.mark.parametrize(
    ("plans", "number"),
    [(("search", "single_shot", "coarse_fine"), 24), (("autofocus_wrapper", "calibrate_leds"), 12)],
    ids=["methods", "plans"],
)
def test_whatever_breaks(faults, plans, number):
    outcomes = faults.strike(number, seed=1, plans=plans)
    assert len(outcomes) == number
    assert sum(one["struck"] for one in outcomes) > 0.8 * number
    assert [one["problem"] for one in outcomes if one["problem"]] == []
    for key in ("lost_frames", "out_of_bounds", "not_restored", "not_ended"):
        assert sum(one[key] for one in outcomes) == 0, key
    assert {one["ended"] for one in outcomes} == {"survived", "cleanly_stopped"}


class Thing:
    """What a message carries."""


def test_a_long_plan_does_not_keep_what_it_has_done(tmp_path):
    """bluesky's preprocessors keep each message until the plan ends: a session does not use them in vain."""
    alive = []
    with open_session("sem", catalog=tmp_path, clock=VirtualClock(), show=None) as session:

        def plan():
            seen = []
            for _ in range(5):
                thing = Thing()
                seen.append(weakref.ref(thing))
                yield Msg("null", None, thing)
                del thing
                yield Msg("checkpoint")  # until then the RunEngine keeps them too, to do them again
            alive.extend(one() is not None for one in seen)

        session.RE(plan())
        assert alive == [False] * 5
        # what is to be read before and after is added all the same
        session.sd.baseline.append(session.instrument.axis)
        session.RE(session.focus(range_um=20.0))
        assert "baseline" in session.db[-1]
