"""A fit that is not led astray, and that knows how good it is."""

import numpy as np
import pytest

from bluesky_autofocus.focus_map._robust import robust_fit

X, Y = (one.ravel() for one in np.meshgrid(np.linspace(-0.5, 0.5, 5), np.linspace(-0.5, 0.5, 5)))
PLANE = np.stack([np.ones_like(X), X, Y], axis=1)
TRUTH = np.array([3.0, 4.0, -2.0])


def measured(seed, sigmas):
    return PLANE @ TRUTH + np.random.default_rng(seed).normal(0, sigmas, len(X))


def test_a_cluster_of_outliers_at_the_edge_does_not_move_a_plane():
    """They could be met by tilting it, which is what least squares do."""
    values = measured(0, 0.05)
    off = X < -0.2
    values[off] += 5.0
    fitted = robust_fit(PLANE, values, np.full(len(X), 0.05))
    assert fitted.coefficients == pytest.approx(TRUTH, abs=0.15)
    assert (fitted.agreeing == ~off).all()
    assert fitted.residuals[off] == pytest.approx(np.full(off.sum(), 5.0), abs=0.4)


def test_its_uncertainty_is_that_of_repeated_measurements():
    sigmas = np.where(X > 0, 0.3, 0.05)
    fits = [robust_fit(PLANE, measured(seed, sigmas), sigmas) for seed in range(100)]
    errors = np.array([one.coefficients - TRUTH for one in fits])
    claimed = np.array([np.sqrt(np.diag(one.covariance)) for one in fits])
    assert np.abs(errors.mean(axis=0)).max() < 0.02
    assert errors.std(axis=0) == pytest.approx(claimed.mean(axis=0), rel=0.25)


def test_a_scatter_beyond_what_the_values_claim_is_found_and_counts():
    fits = [robust_fit(PLANE, measured(seed, 0.2), np.full(len(X), 0.01)) for seed in range(100)]
    assert np.mean([one.scatter for one in fits]) == pytest.approx(0.2, rel=0.12)
    errors = np.array([one.coefficients - TRUTH for one in fits])
    claimed = np.array([np.sqrt(np.diag(one.covariance)) for one in fits])
    assert errors.std(axis=0) == pytest.approx(claimed.mean(axis=0), rel=0.25)


def test_precise_values_count_more():
    sigmas = np.full(len(X), 1.0)
    sigmas[::4] = 0.01
    fitted = robust_fit(PLANE, measured(1, sigmas), sigmas)
    assert fitted.coefficients == pytest.approx(TRUTH, abs=0.05)


def test_values_within_their_tolerance_agree_whatever_the_others_say():
    values = PLANE @ TRUTH
    values[3] += 0.5
    exact = robust_fit(PLANE, values, np.full(len(X), 0.01))
    tolerant = robust_fit(PLANE, values, np.full(len(X), 0.01), np.full(len(X), 0.3))
    assert not exact.agreeing[3] and tolerant.agreeing.all()


def test_as_many_values_as_terms_agree_with_themselves():
    fitted = robust_fit(PLANE[[0, 4, 20]], (PLANE @ TRUTH)[[0, 4, 20]], np.full(3, 0.1))
    assert fitted.coefficients == pytest.approx(TRUTH)
    assert fitted.agreeing.all() and fitted.scatter == 0.0


def test_many_values_are_fitted_as_well_as_few():
    """Of those not all subsets are tried."""
    x = np.random.default_rng(5).uniform(-0.5, 0.5, (100, 2))
    design = np.column_stack([np.ones(100), x])
    values = design @ TRUTH
    values[:40] += 7.0
    fitted = robust_fit(design, values, np.full(100, 0.01))
    assert fitted.coefficients == pytest.approx(TRUTH)
    assert fitted.agreeing.sum() == 60
