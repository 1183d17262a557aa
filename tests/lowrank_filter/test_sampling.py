"""Draws from a belief: their covariance, and gradients through them."""

import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lowrank_filter as lf

pytestmark = pytest.mark.usefixtures("x64")

D, K, N = 12, 3, 200_000
sample = jax.jit(lf.sample, static_argnums=2)


def belief_of(kind):
    rng = np.random.default_rng(0)
    diag, factor = dense.random_precision(rng, D, K)
    factor = 2 * factor  # far from diagonal: a wrong sign or a forgotten factor is far outside the error
    if kind == "zero columns":
        factor = np.concatenate([factor, np.zeros((2, D))])
    if kind == "repeated columns":
        factor = np.concatenate([factor, factor[:1]])
    if kind == "rank 0":
        factor = factor[:0]
    return lf.Belief(jnp.asarray(rng.normal(size=D)), lf.DiagLowRank(jnp.asarray(diag), jnp.asarray(factor)))


KINDS = ["full", "zero columns", "repeated columns", "rank 0"]


@pytest.mark.parametrize("kind", KINDS)
def test_moments(kind):
    belief = belief_of(kind)
    covariance = np.linalg.inv(dense.matrix(*belief.precision))
    draws = np.asarray(sample(jax.random.key(1), belief, N)) - np.asarray(belief.mean)
    scale = np.sqrt(np.diag(covariance))
    # Five standard errors: of the mean, and of each entry of the covariance, (s_ii s_jj + s_ij²)/N.
    assert (np.abs(draws.mean(0)) < 5 * scale / np.sqrt(N)).all()
    error = np.sqrt((np.outer(scale, scale) ** 2 + covariance**2) / N)
    assert (np.abs(draws.T @ draws / N - covariance) < 5 * error).all()


def test_draws_are_independent_of_each_other_and_repeatable():
    belief = belief_of("full")
    draws = sample(jax.random.key(1), belief, 1000)
    np.testing.assert_array_equal(draws, sample(jax.random.key(1), belief, 1000))
    assert not np.array_equal(draws, sample(jax.random.key(2), belief, 1000))
    root = np.linalg.cholesky(dense.matrix(*belief.precision))
    white = (np.asarray(draws) - np.asarray(belief.mean)) @ root
    neighbours = (white[1:] * white[:-1]).mean()
    assert abs(neighbours) < 5 / np.sqrt(white[1:].size)


def test_leaves_of_equal_shape_get_different_draws():
    belief = lf.init({"a": jnp.zeros(5), "b": jnp.zeros(5)}, rank=1)
    draws = lf.sample(jax.random.key(0), belief, 3)
    assert draws["a"].shape == (3, 5)
    assert not np.array_equal(draws["a"], draws["b"])


def test_no_draws():
    assert lf.sample(jax.random.key(0), belief_of("full"), 0).shape == (0, D)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite(kind):
    belief = belief_of(kind)
    gradient = jax.jit(jax.grad(lambda b: jnp.sum(lf.sample(jax.random.key(0), b, 4) ** 2)))(belief)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert np.abs(gradient.precision.diag).min() > 0


def test_gradient_is_that_of_the_draw():
    belief, key = belief_of("zero columns"), jax.random.key(0)

    @jax.jit
    def value(shift):
        precision = belief.precision._replace(diag=belief.precision.diag + shift)
        return jnp.sum(lf.sample(key, belief._replace(precision=precision), 3) ** 2)

    assert dense.relative_error(jax.grad(value)(0.0), dense.finite_difference(value, 0.0)) < 1e-7
