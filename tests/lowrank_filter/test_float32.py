"""float32 against float64: the covariance's action, predict then solve.

The 1e-5 holds where the parameters outnumber the factor's columns (D ≥ 10 k here) and the diagonal's own spread is
moderate. With D close to k, or a diagonal spread over ten decades, the answer lies in what the low-rank part has
almost removed: Woodbury then loses digits, but must stay finite.
"""

import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from suites import fast

import lowrank_filter as lf

D, K = 200, 5
DIAGONALS = [1e-4, 1e-1, 1e1, 1e3, 1e6]
SCALES = [1e-3, 1e-1, 1e1, 1e3]
NOISES = [0.0, 1e-3, 1.0, 1e3]


@jax.jit
def predict_then_solve(diag, factor, noise, vector):
    belief = lf.Belief(jnp.zeros_like(diag), lf.DiagLowRank(diag, factor))
    return lf.solve(lf.predict(belief, noise).precision, vector)


def error(diag, factor, noise, vector):
    """Relative to a float64 oracle for the same float32 numbers."""
    single = [np.asarray(a, np.float32) for a in (diag, factor, noise, vector)]
    came = predict_then_solve(*single)
    assert came.dtype == jnp.float32
    return dense.relative_error(came, dense.predicted_solve(*(np.float64(a) for a in single)))


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("diagonal", DIAGONALS)
def test_covariance_action(diagonal, scale, noise):
    rng = np.random.default_rng(0)
    diag = diagonal * rng.uniform(0.5, 2.0, D)
    assert error(diag, scale * rng.normal(size=(K, D)), noise, rng.normal(size=D)) < 1e-5


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("scale", SCALES)
def test_diagonal_spread_over_ten_decades(scale, noise):
    """d from 1e-4 to 1e6 within one precision: a few digits fewer where the factor is not small."""
    rng = np.random.default_rng(1)
    diag = 10 ** rng.uniform(-4, 6, D)
    assert error(diag, scale * rng.normal(size=(K, D)), noise, rng.normal(size=D)) < (1e-5 if scale < 1 else 1e-4)


@pytest.mark.parametrize("scales", [(1e-3, 1e3), (1e3, 1e-3), (1.0, 1e3)])
@pytest.mark.parametrize("diagonal", [1e-2, 1.0, 1e4])
def test_columns_of_very_different_norm(diagonal, scales):
    rng = np.random.default_rng(2)
    norms = np.geomspace(*scales, K)[:, None]
    assert error(np.full(D, diagonal), norms * rng.normal(size=(K, D)), 0.1, rng.normal(size=D)) < 1e-5


def dependent(kind, rng, scale):
    factor = scale * rng.normal(size=(K, D))
    return np.concatenate([factor, {"repeated": factor, "zero": 0 * factor, "opposite": -factor}[kind]])


@pytest.mark.parametrize("diagonal", DIAGONALS)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", ["repeated", "zero", "opposite"])
def test_dependent_columns(kind, scale, diagonal):
    rng = np.random.default_rng(3)
    # A repeated column's direction is decided by rounding once its share of K exceeds 1/eps.
    hard = kind != "zero" and D * scale**2 / diagonal > 1 / np.finfo(np.float32).eps
    came = error(np.full(D, diagonal), dependent(kind, rng, scale), 0.1, rng.normal(size=D))
    assert came < (1e-3 if hard else 1e-5)


@pytest.mark.parametrize("diagonal", DIAGONALS)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (5, 5), (8, 5)])
def test_few_parameters_give_finite_results(shape, scale, diagonal):
    rng = np.random.default_rng(4)
    dimension, rank = shape
    precision = lf.DiagLowRank(
        jnp.full(dimension, diagonal, jnp.float32), jnp.asarray(scale * rng.normal(size=(rank, dimension)), jnp.float32)
    )
    predicted = lf.predict(lf.Belief(jnp.zeros(dimension), precision), 0.1).precision
    assert np.isfinite(lf.solve(predicted, jnp.ones(dimension))).all()
    assert np.isfinite(lf.logdet(predicted))
    variances = np.asarray(lf.inverse_diagonal(predicted))
    assert np.isfinite(variances).all() and (variances > 0).all()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("diagonal", DIAGONALS)
def test_logdet_and_marginal_variances(diagonal, scale):
    rng = np.random.default_rng(5)
    diag, factor = diagonal * rng.uniform(0.5, 2.0, D).astype(np.float32), scale * rng.normal(size=(K, D))
    diag, factor = diag.astype(np.float32), factor.astype(np.float32)
    precision = lf.DiagLowRank(jnp.asarray(diag), jnp.asarray(factor))
    wide, high = np.float64(factor), np.float64(diag)
    inner = np.eye(K) + (wide / high) @ wide.T
    exact = np.log(high).sum() + dense.logdet(inner)
    # The sum of D logarithms is rounded relative to its terms, not to its value.
    assert abs(float(lf.logdet(precision)) - exact) < 1e-5 * np.abs(np.log(high)).sum() + 1e-5 * abs(
        dense.logdet(inner)
    )
    leverage = ((wide / high) * np.linalg.solve(inner, wide)).sum(0)
    assert dense.relative_error(lf.inverse_diagonal(precision), (1 - leverage) / high) < 1e-5


@pytest.mark.slow
def test_a_long_stream_stays_finite_and_positive():
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(300, 10)).astype(np.float32), rng.normal(size=300).astype(np.float32)
    built = lf.extended_filter(lambda p, x: x @ p[:, None], lf.Gaussian(1e-4), rank=3, process_noise=1e-6)
    belief, stream = lf.filter_stream(built, built.init(jnp.zeros(10)), x, y)
    assert np.isfinite(stream.info.log_evidence).all()
    assert (np.asarray(lf.inverse_diagonal(belief.precision)) > 0).all()


@pytest.mark.parametrize(("dimension", "rank"), fast([(2000, 5), (8000, 20)], (2000, 5)))
def test_parallel_columns_break_no_pivot(dimension, rank):
    """Columns of one direction, long ones: their Gram matrix is singular to less than the rounding of its sums."""

    def one(seed):
        first, second = jax.random.split(jax.random.key(seed))
        lengths, direction = jax.random.normal(first, (rank,)), jax.random.normal(second, (dimension,))
        precision = lf.DiagLowRank(jnp.full(dimension, 0.1), 1e3 * lengths[:, None] * direction)
        truncated = lf.truncate(precision, rank - 1)
        solved = lf.solve(precision, direction)
        before, after = (p.diag + jnp.sum(p.factor**2, axis=0) for p in (precision, truncated))
        return jnp.max(jnp.abs(after - before)) / jnp.max(before), jnp.isfinite(solved).all()

    error, finite = jax.jit(lambda seeds: jax.lax.map(one, seeds))(jnp.arange(60))
    assert finite.all()
    assert (error < 1e-5).all()  # NaN is not
