"""Focusing on stacks that others recorded on real microscopes, through the RunEngine."""

import pytest

from bluesky_autofocus.devices import replayed_instrument
from bluesky_autofocus.plans import autofocus
from bluesky_autofocus.records import Verdict
from bluesky_autofocus.stacks import FocusStack, read_stack

WITH_ONE_CLEAR_PEAK = [
    "cell-smear-rgb",
    "circuit-board",
    "wafer-level1-ix000-iy000",
    "wafer-level1-ix000-iy001",
    "wafer-level1-ix000-iy002",
    "wafer-level2-ix000-iy000",
    "wafer-level2-ix000-iy001",
    "wafer-level2-ix000-iy002",
    "wafer-level2-ix000-iy003",
]
TRAPS = ["phase-object-coherent", "yeast-phase-object"]


@pytest.fixture
def focus(RE, analysis, documents, shared_stacks, tmp_path):
    """Return a function that focuses a stack and gives it, the verdict and the axis."""

    def run(name: str, start: float = 0.0, **options) -> tuple[FocusStack, dict, object]:
        stack = read_stack(shared_stacks / f"{name}.tif")
        low, high = stack.positions_um[[0, -1]]
        camera, z = replayed_instrument(stack, tmp_path, position_um=low + start * (high - low))
        RE(autofocus([camera], z, analysis=analysis, **options))
        return stack, documents.events("verdict")[-1], z

    return run


@pytest.mark.parametrize("name", WITH_ONE_CLEAR_PEAK)
def test_a_sweep_lands_within_one_plane_of_the_label(focus, shared_stacks, name):
    positions = read_stack(shared_stacks / f"{name}.tif").positions_um.tolist()
    stack, verdict, z = focus(name, method="sweep", positions_um=positions, budget=len(positions) + 1)
    assert verdict["verdict_found"]
    assert abs(stack.plane_at(verdict["verdict_position_um"]) - stack.focus_index) <= 1
    assert abs(z.plane_index - stack.focus_index) <= 1


@pytest.mark.parametrize("start", [0.0, 0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("method", ["search", "brent", "sweep"])
@pytest.mark.parametrize("name", TRAPS)
def test_a_phase_object_is_not_claimed_to_be_found_and_the_axis_goes_back(
    focus, shared_stacks, name, method, start
):
    positions = read_stack(shared_stacks / f"{name}.tif").positions_um.tolist()
    options = (
        {"bounds_um": (positions[0], positions[-1])}
        if method != "sweep"
        else {"positions_um": positions, "budget": len(positions) + 1}
    )
    _, verdict, z = focus(name, start, method=method, **options)
    assert not verdict["verdict_found"]
    assert z.position == verdict["verdict_start_um"]


@pytest.mark.parametrize("name", ["circuit-board", "grid-centre"])
def test_brent_finds_a_wide_single_peak(focus, shared_stacks, name):
    positions = read_stack(shared_stacks / f"{name}.tif").positions_um.tolist()
    stack, verdict, _ = focus(name, method="brent", bounds_um=(positions[0], positions[-1]))
    assert verdict["verdict_found"]
    assert abs(stack.plane_at(verdict["verdict_position_um"]) - stack.focus_index) <= 1
    assert verdict["verdict_exposures"] <= 20


@pytest.mark.parametrize("bounds_um", [(-9.0, 9.0), (-9.0, 6.0), (-5.0, 9.0), (-6.0, 4.0)])
def test_the_search_finds_a_smear_in_few_exposures(focus, bounds_um):
    stack, verdict, _ = focus("cell-smear-rgb", 0.4, bounds_um=bounds_um, depth_of_field_um=1.5)
    assert verdict["verdict_found"]
    assert abs(stack.plane_at(verdict["verdict_position_um"]) - stack.focus_index) <= 1
    assert verdict["verdict_exposures"] <= 9


@pytest.mark.parametrize("method", ["search", "brent"])
def test_no_method_is_confidently_wrong_on_any_labelled_stack(focus, shared_stacks, method):
    wrong = []
    for name in [*WITH_ONE_CLEAR_PEAK, "grid-centre", *TRAPS]:
        positions = read_stack(shared_stacks / f"{name}.tif").positions_um
        stack, verdict, _ = focus(name, 0.5, method=method, bounds_um=(positions[0], positions[-1]))
        position_um = verdict["verdict_position_um"]
        off = stack.plane_at(position_um) - stack.focus_index
        # where planes lie much nearer to each other than focus can be told, the label is one of several
        beyond = abs(position_um - positions[stack.focus_index]) > 2 * verdict["verdict_sigma_um"]
        if verdict["verdict_found"] and abs(off) > 1 and beyond:
            wrong.append((name, off))
    assert wrong == []


def test_a_verdict_reads_as_one_line():
    verdict = Verdict(True, "found", 12.3456, 0.1, 0.0, 1, 0.5, "brent")
    assert str(verdict) == "brent: found at 12.346 +- 0.100 um (1 exposure, started at 0.000 um)"
    lost = Verdict(False, "edge", float("nan"), float("nan"), 3.0, 8, 0.5, "brent")
    assert str(lost) == "brent: not found (edge), 8 exposures, back at 3.000 um"
