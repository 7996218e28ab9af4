"""An axis that a session keeps within limits of its own."""

import pytest
from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp

from bluesky_autofocus.devices import SimulatedAxis, SimulatedRunningAxis
from bluesky_autofocus.plans import OutsideLimitsError, axis_limits_wrapper

LIMITS_UM = (-10.0, 20.0)


@pytest.fixture
def axis():
    return SimulatedAxis(name="z", limits=(-100.0, 100.0), position_um=3.0)


def test_moves_within_are_as_they_were(RE, axis):  # noqa: N803
    RE(axis_limits_wrapper(bps.mv(axis, -10.0), axis, LIMITS_UM))
    assert axis.position == -10.0
    RE(axis_limits_wrapper(bps.mv(axis.setpoint, 20.0), axis, LIMITS_UM))
    assert axis.position == 20.0


@pytest.mark.parametrize("target_um", [-10.5, 21.0, float("nan")])
@pytest.mark.parametrize("part", ["z", "setpoint"])
def test_moves_beyond_are_refused_within_the_plan(RE, axis, target_um, part):  # noqa: N803
    other = SimulatedAxis(name="x", limits=(-100.0, 100.0))
    moved = axis if part == "z" else axis.setpoint

    def plan():
        yield from bps.mv(other, 50.0)
        yield from bps.mv(moved, target_um)

    def cleanup():
        yield from bps.mv(other, 1.0)

    with pytest.raises(OutsideLimitsError, match=r"z: .* um is beyond the limits -10\.0 \.\. 20\.0 um"):
        RE(axis_limits_wrapper(bpp.finalize_wrapper(plan(), cleanup()), axis, LIMITS_UM))
    assert axis.position == 3.0
    assert other.position == 1.0


def test_even_a_cleanup_after_an_error_stays_within(RE, axis):  # noqa: N803
    def fail():
        yield from bps.mv(axis, 99.0)

    with pytest.raises(OutsideLimitsError, match="-99"):
        RE(axis_limits_wrapper(bpp.finalize_wrapper(fail(), bps.mv(axis, -99.0)), axis, LIMITS_UM))
    assert axis.position == 3.0


def test_an_axis_that_could_run_away_does_not_run(RE):  # noqa: N803
    axis = SimulatedRunningAxis(name="z", limits=(-100.0, 100.0), position_um=3.0)
    with pytest.raises(OutsideLimitsError, match="may not run"):
        RE(axis_limits_wrapper(bps.mv(axis.velocity, 5.0), axis, LIMITS_UM))
    RE(axis_limits_wrapper(bps.mv(axis.velocity, 0.0), axis, LIMITS_UM))
    assert axis.position == 3.0


@pytest.mark.parametrize("limits_um", [(3, 1), (float("nan"), 1), "x"])
def test_limits_that_are_none(axis, limits_um):
    with pytest.raises(ValueError, match="limits_um must be two finite positions"):
        list(axis_limits_wrapper(iter(()), axis, limits_um))
