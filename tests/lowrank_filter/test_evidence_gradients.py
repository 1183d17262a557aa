"""The gradient of the log evidence in process noise, temperature and prior precision against finite differences."""

import itertools

import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from suites import fast

import lowrank_filter as lf
from lowrank_filter.algebra.diag_low_rank import with_policy

pytestmark = pytest.mark.usefixtures("x64")

D, B = 12, 3
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(B, 3)), RNG.integers(0, 2, B)
MEAN, FACTOR = RNG.normal(size=D), RNG.normal(size=(2, D))
WEIGHTS = RNG.uniform(0.2, 2.0, D)  # noise is not the same for all: the metric turns with it
AT = {"process noise": 0.3, "temperature": 0.8, "prior precision": 1.7}


def apply_fn(params, x):
    return jnp.tanh(x @ params[:6].reshape(3, 2)) @ params[6:10].reshape(2, 2) + params[10:]


def evidence(kernel, name, value, *, zeros, rank, metric, residual):
    at = {**AT, name: value}
    factor = jnp.asarray(np.concatenate([FACTOR, np.zeros((zeros, D))]))
    belief = lf.Belief(jnp.asarray(MEAN), lf.DiagLowRank(at["prior precision"] * jnp.ones(D), factor))
    belief = with_policy(lf.predict(belief, at["process noise"] * WEIGHTS), rank=rank, metric=metric, residual=residual)
    arguments = (apply_fn, lf.Categorical(), X, Y)
    if kernel == "update":
        return lf.update(belief, *arguments, temperature=at["temperature"])[1].log_evidence
    return lf.laplace_update(belief, belief.mean + 0.1, *arguments, temperature=at["temperature"])[1].log_evidence


def agrees(kernel, name, **options):
    function = jax.jit(lambda value: evidence(kernel, name, value, **options))
    came = jax.jit(jax.grad(function))(AT[name])
    return dense.relative_error(came, dense.finite_difference(function, AT[name], 1e-3))


@pytest.mark.parametrize(
    ("kernel", "name", "zeros"),
    fast(
        itertools.product(["update", "laplace_update"], AT, [0, 2]),
        ("update", "process noise", 2),
        ("laplace_update", "temperature", 2),
        ("laplace_update", "prior precision", 2),
    ),
)
def test_without_truncation(kernel, name, zeros):
    assert agrees(kernel, name, zeros=zeros, rank=2 + 2 * B + zeros, metric="relative", residual="diagonal") < 1e-6


@pytest.mark.parametrize(
    ("residual", "metric"),
    fast(
        itertools.product(["drop", "diagonal"], ["relative", "euclidean"]),
        ("diagonal", "relative"),
    ),
)
def test_truncated_laplace_update(residual, metric):
    """Its evidence depends on what was kept; update's does not."""
    assert agrees("laplace_update", "process noise", zeros=0, rank=3, metric=metric, residual=residual) < 1e-6


@pytest.mark.slow
def test_through_two_steps():
    """What the first step's truncation kept depends on the noise too."""

    def total(noise):
        start = with_policy(lf.Belief(jnp.asarray(MEAN), lf.DiagLowRank(jnp.ones(D), jnp.asarray(FACTOR))), rank=3)
        belief, first = lf.update(lf.predict(start, noise * WEIGHTS), apply_fn, lf.Categorical(), X, Y)
        _, second = lf.update(lf.predict(belief, noise), apply_fn, lf.Categorical(), 2 * X, Y)
        return first.log_evidence + second.log_evidence

    came = jax.jit(jax.grad(total))(0.3)
    assert dense.relative_error(came, dense.finite_difference(jax.jit(total), 0.3, 1e-3)) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("structure", ["network", "kronecker"])
def test_the_second_derivative_gives_standard_errors(structure):
    """Through two truncated steps from a diagonal prior, whose factor's columns are zero and all alike."""
    params = {"w": jnp.asarray(MEAN[:6].reshape(3, 2)), "b": jnp.asarray(MEAN[:2])}

    def network(params, x):
        return x @ params["w"] + params["b"]

    def total(log_noise):
        noise = jnp.exp(log_noise)
        belief = lf.init(params, structure="kronecker") if structure == "kronecker" else lf.init(params, rank=3)
        evidence = 0.0
        for turn in range(2):
            belief = lf.predict(belief, noise)
            belief, info = lf.update(belief, network, lf.Categorical(), X[:2] + turn, Y[:2])
            evidence += info.log_evidence
        return evidence

    gradient = jax.jit(jax.grad(total))
    curvature = jax.jit(jax.hessian(total))(jnp.log(0.3))
    assert dense.relative_error(curvature, dense.finite_difference(gradient, jnp.log(0.3), 1e-3)) < 1e-6


@pytest.mark.slow
def test_the_second_derivative_where_eigenvalues_are_equal():
    """Three kept directions with one eigenvalue, three left out with another; both split as the noise turns."""
    weights, inputs = jnp.arange(12) / 12 + 0.5, jnp.eye(12)[:6] * jnp.repeat(jnp.asarray([3.0, 1.0]), 3)[:, None]
    later = jnp.asarray(np.random.default_rng(0).normal(size=(2, 12)))

    def linear(params, x):
        return x @ params[:, None]

    def evidence(turned):
        belief = lf.predict(lf.init(jnp.zeros(12), rank=3), jnp.exp(turned * weights))
        belief, _ = lf.update(belief, linear, lf.Gaussian(0.1), inputs, jnp.ones(6))
        return lf.update(belief, linear, lf.Gaussian(0.1), later, jnp.ones(2))[1].log_evidence

    curvature = jax.jit(jax.hessian(evidence))(0.0)
    expected = dense.finite_difference(jax.jit(jax.grad(evidence)), 0.0, 1e-3)
    assert dense.relative_error(curvature, expected) < 1e-6
