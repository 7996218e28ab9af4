import numpy as np
import pytest

from bluesky_autofocus.plans import sweep_focus
from bluesky_autofocus.records import Reason


@pytest.mark.parametrize("confirm", [True, False])
def test_spreads_its_budget_evenly(bench, analysis, documents, run, confirm):
    verdict = run(
        sweep_focus(
            [bench.camera],
            bench.axis,
            analysis=analysis,
            bounds_um=bench.bounds_um,
            budget=21,
            confirm=confirm,
        )
    )
    positions = [data["z"] for data in documents.events("focus_sweep")]
    spread = 20 if confirm else 21
    np.testing.assert_allclose(positions[:spread], np.linspace(*bench.bounds_um, spread))
    assert verdict.exposures == len(positions) == 21
    assert verdict.found
    assert verdict.method == "sweep"
    assert bench.axis.position == verdict.position_um == pytest.approx(bench.focus_um, abs=2.0)


def test_where_it_is_told(bench, analysis, documents, run):
    told = [-30.0, -10.0, 0.0, 4.0, 7.0, 10.0, 14.0, 30.0]
    verdict = run(sweep_focus([bench.camera], bench.axis, analysis=analysis, positions_um=told))
    assert [data["z"] for data in documents.events("focus_sweep")][:-1] == told
    assert verdict.position_um == pytest.approx(bench.focus_um, abs=2.0)


@pytest.mark.parametrize(
    ("contrast", "reason"),
    [
        (lambda z: 0.4, Reason.FLAT),
        (lambda z: 1 / (1 + ((z - 52) / 6) ** 2), Reason.EDGE),
        (
            lambda z: 0.6 / (1 + ((z - 30) / 5) ** 2) + 0.6 / (1 + ((z + 20) / 5) ** 2),
            Reason.SEVERAL_PEAKS,
        ),
    ],
)
def test_not_found(make_bench, analysis, run, contrast, reason):
    bench = make_bench(contrast)
    verdict = run(
        sweep_focus([bench.camera], bench.axis, analysis=analysis, bounds_um=bench.bounds_um, budget=31)
    )
    assert verdict.reason is reason
    assert bench.axis.position == bench.start_um


def test_on_the_simulated_sem(sem, analysis, run):
    dof_um = sem.depth_of_field_um
    verdict = run(
        sweep_focus(
            [sem],
            sem.working_distance,
            analysis=analysis,
            range_um=30 * dof_um,
            budget=62,
            depth_of_field_um=dof_um,
        )
    )
    assert verdict.found, verdict
    assert sem.working_distance.load_um == pytest.approx(sem.focus_um, abs=dof_um)
