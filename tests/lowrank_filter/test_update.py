"""The plain linearised update against a dense Newton step, and its evidence."""

import functools
import itertools

import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import LIKELIHOODS, B, problem
from suites import fast

import lowrank_filter as lf
from lowrank_filter.algebra.diag_low_rank import with_policy

pytestmark = pytest.mark.usefixtures("x64")


@functools.partial(jax.jit, static_argnums=(1,), static_argnames=("rank", "residual", "metric", "iterations"))
def update(belief, apply_fn, likelihood, x, y, *, iterations=0, temperature=1.0, **policy):
    belief = with_policy(belief, **policy)
    return lf.update(belief, apply_fn, likelihood, x, y, iterations=iterations, temperature=temperature)


def oracle(belief, apply_fn, likelihood, x, y, temperature):
    outputs = apply_fn(belief.mean, x)
    jacobian = np.asarray(jax.jit(jax.jacobian(apply_fn))(belief.mean, x)).reshape(outputs.size, -1)
    gradient = np.asarray(jax.jit(jax.vmap(jax.grad(likelihood.nll)))(outputs, y)).ravel() / temperature
    roots = np.asarray(jax.jit(jax.vmap(likelihood.root))(outputs, y))
    hessian = dense.block_diagonal(roots @ roots.transpose(0, 2, 1)) / temperature
    loss = float(jax.jit(jax.vmap(likelihood.nll))(outputs, y).sum()) / temperature
    prior = dense.matrix(*belief.precision)
    mean, posterior = dense.update(np.asarray(belief.mean), prior, jacobian, hessian, gradient)
    pulled = jacobian.T @ gradient
    evidence = (
        -loss
        + 0.5 * pulled @ np.linalg.solve(posterior, pulled)
        + 0.5 * (dense.logdet(prior) - dense.logdet(posterior))
    )
    return mean, posterior, evidence, loss


@pytest.mark.parametrize(
    ("name", "rank"),
    fast(
        [*((name, 4) for name in LIKELIHOODS), ("gaussian", 0), ("gaussian", 1), ("gaussian", 40)],
        *((name, 4) for name in ("categorical", "heteroscedastic")),
        ("gaussian", 0),
        ("gaussian", 40),
    ),
)
def test_without_truncation(name, rank):
    belief, apply_fn, likelihood, x, y = problem(name, rank)
    updated, info = update(belief, apply_fn, likelihood, x, y, rank=rank + B * 4, temperature=0.7)
    mean, posterior, evidence, loss = oracle(belief, apply_fn, likelihood, x, y, 0.7)
    assert dense.relative_error(updated.mean, mean) < 1e-9
    assert dense.relative_error(dense.matrix(*updated.precision), posterior) < 1e-9
    assert dense.relative_error(info.log_evidence, evidence) < 1e-9
    assert dense.relative_error(info.loss, loss) < 1e-9
    assert dense.relative_error(dense.matrix(*info.site), posterior - dense.matrix(*belief.precision)) < 1e-9
    assert info.truncated == 0
    assert info.invalid == 0


@pytest.mark.parametrize(
    ("residual", "metric"),
    fast(
        itertools.product(["diagonal", "drop"], ["relative", "euclidean"]),
        ("diagonal", "relative"),
        ("drop", "euclidean"),
    ),
)
def test_truncated(residual, metric):
    belief, apply_fn, likelihood, x, y = problem("categorical", 4)
    updated, info = update(belief, apply_fn, likelihood, x, y, rank=4, residual=residual, metric=metric)
    mean, posterior, evidence, _ = oracle(belief, apply_fn, likelihood, x, y, 1.0)
    # Mean and evidence are those of the untruncated posterior.
    assert dense.relative_error(updated.mean, mean) < 1e-9
    assert dense.relative_error(info.log_evidence, evidence) < 1e-9
    diag = np.asarray(belief.precision.diag)
    low_rank = posterior - np.diag(diag)
    scale = np.sqrt(diag) if metric == "relative" else np.ones(len(diag))
    values, vectors = np.linalg.eigh(low_rank / np.outer(scale, scale))
    kept = (vectors[:, -4:] * values[-4:]) @ vectors[:, -4:].T * np.outer(scale, scale)
    expected = np.diag(diag) + kept
    if residual == "diagonal":
        expected += np.diag(np.diag(low_rank - kept))
        assert dense.relative_error(np.diag(dense.matrix(*updated.precision)), np.diag(posterior)) < 1e-9
    assert dense.relative_error(dense.matrix(*updated.precision), expected) < 1e-9
    assert dense.relative_error(info.truncated, values[:-4].sum() / values.sum()) < 1e-9


@pytest.mark.parametrize(("rank", "size"), fast([(0, 5), (3, 1)], (3, 1)))
def test_gaussian_evidence_is_the_marginal_density_of_the_targets(rank, size):
    belief, apply_fn, likelihood, x, y = problem("gaussian", rank, size)
    _, info = update(belief, apply_fn, likelihood, x, y, rank=rank)
    jacobian = np.asarray(jax.jit(jax.jacobian(apply_fn))(belief.mean, x)).reshape(2 * size, -1)
    noise = np.kron(np.eye(size), np.asarray(likelihood.covariance))
    covariance = noise + jacobian @ np.linalg.solve(dense.matrix(*belief.precision), jacobian.T)
    residual = np.asarray(y - apply_fn(belief.mean, x)).ravel()
    assert dense.relative_error(info.log_evidence, dense.gaussian_log_density(residual, covariance)) < 1e-9


@pytest.mark.parametrize("name", fast(["gaussian", "categorical"], "gaussian"))
def test_evidence_of_a_sequence_of_linear_updates_is_that_of_the_whole(name):
    """For a linear-Gaussian model log p(y₁, y₂) = log p(y₁) + log p(y₂ | y₁); for another likelihood it is not."""
    outputs = 2
    rng = np.random.default_rng(7)
    x, apply_fn = jnp.asarray(rng.normal(size=(4, 3))), lambda params, x: x @ params.reshape(3, outputs)
    y = rng.normal(size=(4, 2)) if name == "gaussian" else rng.integers(0, 2, 4)
    likelihood = lf.Gaussian(0.3) if name == "gaussian" else lf.Categorical()
    belief = lf.init(jnp.asarray(rng.normal(size=6)), 2.0, rank=8)
    whole, whole_info = update(belief, apply_fn, likelihood, x, y)
    half, first = update(belief, apply_fn, likelihood, x[:2], y[:2])
    both, second = update(half, apply_fn, likelihood, x[2:], y[2:])
    same = np.isclose(first.log_evidence + second.log_evidence, whole_info.log_evidence, rtol=1e-9)
    assert same == (name == "gaussian")
    if same:
        assert dense.relative_error(both.mean, whole.mean) < 1e-9


def test_inputs_may_be_a_pytree():
    belief, apply_fn, likelihood, x, y = problem("gaussian", 2)
    plain, _ = update(belief, apply_fn, likelihood, x, y)
    split, _ = update(
        belief, lambda p, parts: apply_fn(p, jnp.concatenate(parts, 1)), likelihood, (x[:, :1], x[:, 1:]), y
    )
    np.testing.assert_allclose(split.mean, plain.mean, rtol=1e-12)


def test_a_single_output_takes_flat_targets():
    belief = lf.init(jnp.zeros(3), rank=2)
    x, y = jnp.asarray(np.eye(3)), jnp.arange(3.0)
    flat, _ = update(belief, lambda p, x: (x @ p)[:, None], lf.Gaussian(0.1), x, y)
    column, _ = update(belief, lambda p, x: (x @ p)[:, None], lf.Gaussian(0.1), x, y[:, None])
    np.testing.assert_array_equal(flat.mean, column.mean)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "examples", "variance"), [(200, 20, 1e-1), (200, 20, 1e-5), (5, 3, 1e-5)])
def test_log_evidence_in_float32_of_precise_observations(size, examples, variance):
    """The data say up to 1e7 times more than the prior: nothing may be found as a small difference."""
    rng = np.random.default_rng(0)
    mean, x = rng.normal(size=size).astype(np.float32), rng.normal(size=(examples, size)).astype(np.float32)
    noise = np.sqrt(variance) * rng.normal(size=examples)
    y = (x @ rng.normal(size=size) + noise).astype(np.float32)
    belief = lf.init(jnp.asarray(mean), rank=4)
    _, info = lf.update(belief, lambda p, x: (x @ p)[:, None], lf.Gaussian(variance), x, y)
    wide = x.astype(np.float64)
    covariance = variance * np.eye(examples) + wide @ wide.T
    residual = y - wide @ mean.astype(np.float64)
    exact = -0.5 * (residual @ np.linalg.solve(covariance, residual) + np.linalg.slogdet(2 * np.pi * covariance)[1])
    assert abs(info.log_evidence - exact) < 1e-5 * abs(exact)


@pytest.mark.slow
def test_bfloat16_parameters():
    """Stored in half the bytes; the small matrices are float32, and the result has rounding of bfloat16."""
    rng = np.random.default_rng(0)
    params, x = rng.normal(size=(4, 3)), jnp.asarray(rng.normal(size=(2, 4)), jnp.float32)

    def run(dtype):
        belief = lf.predict(lf.init(jnp.asarray(params, dtype), rank=2), 0.1)
        return lf.update(belief, lambda p, x: x @ p, lf.Categorical(), x, jnp.array([0, 1]))[0]

    low, full = run(jnp.bfloat16), run(jnp.float32)
    assert low.mean.dtype == low.precision.factor.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(low.mean, np.float32), full.mean, atol=20 * float(jnp.finfo("bfloat16").eps))
