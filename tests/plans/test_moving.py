import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ophyd.status import Status

from bluesky_autofocus.plans import Approach, brent_focus, sweep_focus
from bluesky_autofocus.plans._moving import Travel
from bluesky_autofocus.simulation.motion import AxisMechanics

fixed = settings(
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"direction": 0}, "direction .*0"),
        ({"direction": 2}, "direction .*2"),
        ({"overshoot_um": -1.0}, "overshoot_um .*-1.0"),
        ({"overshoot_um": math.inf}, "overshoot_um .*inf"),
        ({"settle_s": -0.1}, "settle_s .*-0.1"),
        ({"settle_s": math.nan}, "settle_s .*nan"),
    ],
)
def test_bad_approach(options, named):
    with pytest.raises(ValueError, match=named):
        Approach(**options)


class TestBacklash:
    backlash_um = 3.0
    noise_um = 0.02

    @pytest.fixture
    def bench(self, make_bench):
        return make_bench(
            mechanics=AxisMechanics(backlash_um=self.backlash_um, readback_noise_um=self.noise_um)
        )

    def errors(self, RE, bench, approach):  # noqa: N803
        """Return how far the load is from where it was sent, for moves to and fro."""
        found = []

        def plan():
            travel = Travel(bench.axis, (-80.0, 80.0), bench.start_um, approach)
            for target_um in (20.0, 10.0, 12.0, -5.0, -4.0, -4.0, 30.0, 29.9, 0.0):
                yield from travel.to(target_um)
                found.append(bench.axis.load_um - target_um)

        RE(plan())
        return found

    @pytest.mark.parametrize("overshoot_um", [3.0, 4.0, 10.0])
    def test_overshooting_takes_it_up(self, RE, bench, overshoot_um):  # noqa: N803
        errors = self.errors(RE, bench, Approach(overshoot_um=overshoot_um))
        assert max(map(abs, errors)) < 5 * self.noise_um

    @pytest.mark.parametrize("overshoot_um", [3.0, 10.0])
    def test_downwards_every_position_is_off_by_the_same(self, RE, bench, overshoot_um):  # noqa: N803
        """The load then trails the motor by the backlash, always."""
        errors = self.errors(RE, bench, Approach(direction=-1, overshoot_um=overshoot_um))
        assert errors == pytest.approx([self.backlash_um] * len(errors), abs=5 * self.noise_um)

    @pytest.mark.parametrize("overshoot_um", [0.0, 1.0, 2.5])
    def test_overshooting_by_less_does_not(self, RE, bench, overshoot_um):  # noqa: N803
        errors = self.errors(RE, bench, Approach(overshoot_um=overshoot_um))
        assert max(errors) == pytest.approx(self.backlash_um - overshoot_um, abs=0.2)

    def test_the_focus_is_where_the_load_ends(self, bench, analysis, run):
        verdict = run(
            brent_focus(
                [bench.camera],
                bench.axis,
                analysis=analysis,
                bounds_um=bench.bounds_um,
                travel_um=(-60.0, 60.0),
                budget=25,
                approach=Approach(overshoot_um=4.0),
            )
        )
        assert verdict.found
        assert bench.axis.load_um == pytest.approx(bench.focus_um, abs=bench.depth_of_field_um / 2)

    def test_the_load_is_put_back(self, make_bench, analysis, run):
        bench = make_bench(lambda z: 0.5, mechanics=AxisMechanics(backlash_um=3.0))
        run(
            sweep_focus(
                [bench.camera],
                bench.axis,
                analysis=analysis,
                bounds_um=bench.bounds_um,
                budget=6,
                approach=Approach(overshoot_um=4.0),
            )
        )
        assert bench.axis.position == bench.axis.load_um == bench.start_um


def sets(messages) -> list[float]:
    return [message.args[0] for message in messages if message.command == "set"]


@given(
    low=st.floats(-90, 0),
    width=st.floats(1, 90),
    margins=st.tuples(st.floats(0, 20), st.floats(0, 20)),
    start=st.floats(0, 1),
    direction=st.sampled_from([1, -1]),
    overshoot=st.floats(0, 30),
    focus_um=st.floats(-100, 100),
    noise_um=st.sampled_from([0.0, 0.05]),
)
@fixed
def test_no_message_moves_it_out_of_its_travel(
    make_bench,
    analysis,
    run,
    messages,
    low,
    width,
    margins,
    start,
    direction,
    overshoot,
    focus_um,
    noise_um,
):
    bounds_um = (low, low + width)
    travel_um = (low - margins[0] - 0.5, low + width + margins[1] + 0.5)
    bench = make_bench(
        lambda z: 1 / (1 + ((z - focus_um) / 6) ** 2),
        start_um=low + start * width,
        limits=(-120.0, 120.0),
        mechanics=AxisMechanics(readback_noise_um=noise_um),
    )
    messages.clear()
    run(
        brent_focus(
            [bench.camera],
            bench.axis,
            analysis=analysis,
            bounds_um=bounds_um,
            travel_um=travel_um,
            budget=15,
            approach=Approach(direction=direction, overshoot_um=overshoot),
        )
    )
    assert sets(messages)
    assert all(travel_um[0] <= position <= travel_um[1] for position in sets(messages))


def test_by_default_the_travel_is_the_bounds_and_the_start(bench, analysis, run, messages):
    run(
        sweep_focus(
            [bench.camera],
            bench.axis,
            analysis=analysis,
            bounds_um=(0.0, 20.0),
            budget=8,
            approach=Approach(overshoot_um=50.0),
        )
    )
    assert min(sets(messages)) == bench.start_um
    assert max(sets(messages)) == 20.0


def test_outside_the_travel_nothing_moves(RE, bench):  # noqa: N803
    travel = Travel(bench.axis, (-20.0, 20.0), bench.start_um, Approach())
    with pytest.raises(ValueError, match=r"z: 20.1 um is outside the travel range -20.0 .. 20.0"):
        RE(travel.to(20.1))
    assert bench.moves.calls == 0


def test_every_position_is_come_to_from_the_declared_side(RE, bench, messages):  # noqa: N803
    def plan():
        travel = Travel(bench.axis, (-80.0, 80.0), bench.start_um, Approach(overshoot_um=2.0))
        for target_um in (10.0, 5.0, 6.0, 6.0, 20.0):
            yield from travel.to(target_um)

    RE(plan())
    assert sets(messages) == [10.0, 3.0, 5.0, 6.0, 6.0, 20.0]


def test_settling_is_a_message(bench, messages, RE):  # noqa: N803
    travel = Travel(bench.axis, (-80.0, 80.0), bench.start_um, Approach(settle_s=0.001))
    RE(travel.to(5.0))
    assert [m.command for m in messages] == ["set", "wait", "sleep"]
    assert messages[-1].args == (0.001,)


def test_putting_back(RE, bench):  # noqa: N803
    def plan():
        travel = Travel(bench.axis, (-80.0, 80.0), bench.start_um, Approach())
        yield from travel.to(30.0)
        yield from travel.put_back()

    RE(plan())
    assert bench.axis.position == bench.start_um


def test_putting_back_an_axis_that_cannot_be_stopped(RE):  # noqa: N803
    class Plain:
        name, parent, position = "plain", None, 0.0

        def read(self):
            return {"plain": {"value": self.position, "timestamp": 0.0}}

        def describe(self):
            return {"plain": {"source": "plain", "dtype": "number", "shape": []}}

        def set(self, value):
            self.position = value
            status = Status()
            status.set_finished()
            return status

    axis = Plain()

    def plan():
        travel = Travel(axis, (-80.0, 80.0), 1.0, Approach())
        yield from travel.to(30.0)
        yield from travel.put_back()

    RE(plan())
    assert axis.position == 1.0
