"""Truncation to the leading directions: accuracy in float32, awkward factors, gradients."""

import functools

import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from suites import fast

import lowrank_filter as lf
from lowrank_filter.algebra.diag_low_rank import with_policy
from lowrank_filter.algebra.example_gradients import Stack
from lowrank_filter.algebra.truncation import principal

METRICS = ["relative", "euclidean"]
LARGE = (20_000, 30)


@pytest.fixture(scope="module")
def large():
    """Wᵀ [30, 20000] in float32 with singular values 1e2 … 1e-5 in the metric, its columns mixed."""
    dimension, rank = LARGE
    rng = np.random.default_rng(0)
    diag = rng.uniform(0.5, 2.0, dimension).astype(np.float32)
    basis, _ = np.linalg.qr(rng.normal(size=(dimension, rank)))
    mix, _ = np.linalg.qr(rng.normal(size=(rank, rank)))
    values = np.logspace(2, -5, rank)
    factors = {
        "relative": (np.sqrt(diag) * ((basis * values) @ mix).T).astype(np.float32),
        "euclidean": ((basis * values) @ mix).T.astype(np.float32),
    }
    exact = {
        metric: np.linalg.svd(
            np.float64(factor) / np.sqrt(np.float64(diag) if metric == "relative" else 1.0), compute_uv=False
        )
        for metric, factor in factors.items()
    }
    return diag, factors, exact


@pytest.mark.parametrize("rank", fast([10, 15, 20], 15))
@pytest.mark.parametrize("metric", METRICS)
def test_float32_keeps_the_accuracy_of_small_singular_values(large, metric, rank):
    diag, factors, exact = large
    precision = lf.DiagLowRank(jnp.asarray(diag), jnp.asarray(factors[metric]))
    kept = np.float64(lf.truncate(precision, rank, metric=metric).factor)
    assert kept.dtype == np.float64 and precision.factor.dtype == jnp.float32
    whitened = kept / np.sqrt(np.float64(diag) if metric == "relative" else 1.0)
    values = np.linalg.norm(whitened, axis=1)
    assert np.abs(values / exact[metric][:rank] - 1).max() < 1e-4
    directions = whitened / values[:, None]
    assert np.abs(directions @ directions.T - np.eye(rank)).max() < 1e-5


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("residual", ["diagonal", "drop"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.usefixtures("x64")
def test_is_the_best_low_rank_part(metric, residual, passes):
    rng = np.random.default_rng(1)
    diag, factor = dense.random_precision(rng, 9, 6)
    options = {"rank": 4, "residual": residual, "metric": metric}
    if passes == 1:
        precision = with_policy(lf.DiagLowRank(jnp.asarray(diag), jnp.asarray(factor[:2])), **options)
        came, _, _, misfit = precision.condition(Stack(jnp.asarray(factor[2:])), jnp.zeros(4))
    else:
        precision = with_policy(lf.DiagLowRank(jnp.asarray(diag), jnp.asarray(factor)), **options)
        came, misfit = precision.add(lf.DiagLowRank(jnp.zeros(9), jnp.zeros((0, 9))))
    kept, values = dense.best_rank(factor, 4, diag if metric == "relative" else None)
    assert dense.relative_error(dense.matrix(np.zeros(9), came.factor), kept) < 1e-9
    rest = np.diag(factor.T @ factor - kept) if residual == "diagonal" else 0
    assert dense.relative_error(came.diag, diag + rest) < 1e-9
    assert dense.relative_error(misfit.share, (values[4:] ** 2).sum() / (values**2).sum()) < 1e-9


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["zero", "repeated", "opposite", "all zero", "one"])
@pytest.mark.usefixtures("x64")
def test_dependent_columns_are_reproduced(kind, metric, dtype):
    rng = np.random.default_rng(2)
    diag, factor = dense.random_precision(rng, 40, 3)
    factor = {
        "zero": np.concatenate([np.zeros((2, 40)), factor, np.zeros((2, 40))]),
        "repeated": np.concatenate([factor, factor, factor[:1]]),
        "opposite": np.concatenate([factor, -factor, 1e-3 * factor]),
        "all zero": np.zeros((7, 40)),
        "one": np.concatenate([factor[:1]] * 7),
    }[kind].astype(dtype)
    precision = lf.DiagLowRank(jnp.asarray(diag, dtype), jnp.asarray(factor))
    came = lf.truncate(precision, 4, metric=metric)
    tolerance = 100 * np.finfo(dtype).eps
    assert dense.relative_error(dense.matrix(np.zeros(40), came.factor), factor.T @ factor) < tolerance
    assert dense.relative_error(came.diag, diag) < tolerance


@pytest.mark.parametrize("rank", [0, 5, 8])
@pytest.mark.usefixtures("x64")
def test_diagonal_is_kept_exactly_at_every_rank(rank):
    diag, factor = dense.random_precision(np.random.default_rng(3), 9, 6)
    came = lf.truncate(lf.DiagLowRank(jnp.asarray(diag), jnp.asarray(factor)), rank)
    assert came.factor.shape == (rank, 9)
    assert dense.relative_error(np.diag(dense.matrix(*came)), np.diag(dense.matrix(diag, factor))) < 1e-12


def test_a_larger_rank_appends_zeros_bit_for_bit():
    diag, factor = (a.astype(np.float32) for a in dense.random_precision(np.random.default_rng(3), 9, 3))
    came = lf.truncate(lf.DiagLowRank(jnp.asarray(diag), jnp.asarray(factor)), 5)
    np.testing.assert_array_equal(came.factor[:3], factor)
    np.testing.assert_array_equal(came.factor[3:], 0)
    np.testing.assert_array_equal(came.diag, diag)


def test_scales_far_from_one():
    """float32 squares of 1e-15 and 1e15 are still numbers; directions and values survive."""
    diag, factor = (a.astype(np.float32) for a in dense.random_precision(np.random.default_rng(4), 30, 4))
    for scale in (1e-15, 1e15):
        came = lf.truncate(
            lf.DiagLowRank(jnp.asarray(diag), jnp.asarray(factor * np.float32(scale))), 2, residual="drop"
        )
        kept, _ = dense.best_rank(np.float64(factor), 2, np.float64(diag))
        assert dense.relative_error(dense.matrix(np.zeros(30), np.float64(came.factor) / scale), kept) < 1e-5


def value_of(diag, factor, vector, **options):
    return jnp.sum(jnp.sin(lf.matvec(lf.truncate(lf.DiagLowRank(diag, factor), **options), vector)))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("residual", ["diagonal", "drop"])
@pytest.mark.parametrize("zeros", fast([0, 2], 2))
@pytest.mark.usefixtures("x64")
def test_gradient(metric, residual, zeros):
    rng = np.random.default_rng(5)
    diag, factor = dense.random_precision(rng, 8, 5)
    factor = np.concatenate([factor, np.zeros((zeros, 8))])
    vector, d_diag = rng.normal(size=8), rng.normal(size=8)
    d_factor = np.concatenate([rng.normal(size=(5, 8)), np.zeros((zeros, 8))])

    @jax.jit
    def value(t):
        return value_of(diag + t * d_diag, factor + t * d_factor, vector, rank=3, residual=residual, metric=metric)

    assert dense.relative_error(jax.grad(value)(0.0), dense.finite_difference(value, 0.0, 1e-4)) < 1e-7


gradient_of = jax.jit(jax.grad(functools.partial(value_of, rank=4), (0, 1)))


@pytest.mark.parametrize("kind", ["zeros kept", "zeros dropped", "all zero", "repeated"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.usefixtures("x64")
def test_gradients_are_finite_on_degenerate_spectra(kind, dtype):
    diag, factor = dense.random_precision(np.random.default_rng(6), 8, 3)
    factor = {
        "zeros kept": np.concatenate([factor, np.zeros((4, 8))]),
        "zeros dropped": np.concatenate([np.zeros((4, 8)), factor]),
        "all zero": np.zeros((7, 8)),
        "repeated": np.concatenate([factor, factor, factor[:1]]),
    }[kind].astype(dtype)
    gradients = gradient_of(jnp.asarray(diag, dtype), jnp.asarray(factor), jnp.ones(8, dtype))
    assert all(np.isfinite(g).all() for g in gradients)
    assert np.abs(gradients[0]).max() > 0


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("accurate", [False, True])
def test_second_derivatives_where_eigenvalues_are_equal(accurate):
    """Two of one eigenvalue are kept, two of another and two zero vectors are left out; all that are not zero split."""
    rng = np.random.default_rng(0)
    start, change = np.zeros((6, 9)), rng.normal(size=(6, 9))
    start[:2, :2], start[2:4, 2:4], change[4:] = 3 * np.eye(2), np.eye(2), 0
    kept_weights, rest_weights = jnp.asarray(rng.normal(size=(9, 9))), jnp.asarray(rng.normal(size=9))

    def function(t):
        stack = Stack(jnp.asarray(start) + t * jnp.asarray(change))
        found = principal(stack.gram(None), (stack,), None, 2, accurate)
        kept = jnp.sum(kept_weights * (found.kept.T @ found.kept))
        return kept + jnp.sum(rest_weights * found.residual) + jnp.sum(found.squared[2:])

    gradient = jax.jit(jax.grad(function))
    assert dense.relative_error(gradient(0.0), dense.finite_difference(jax.jit(function), 0.0, 1e-3)) < 1e-9
    curvature = jax.jit(jax.hessian(function))(0.0)
    assert dense.relative_error(curvature, dense.finite_difference(gradient, 0.0, 1e-3)) < 1e-8
