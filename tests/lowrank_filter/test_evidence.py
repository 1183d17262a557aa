"""The evidence of discrete likelihoods against quadrature and draws; never above zero, and differentiable."""

import functools

import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import gammaln, logsumexp
from suites import fast

import lowrank_filter as lf


def linear(params, x):
    return x @ params["w"]


@functools.partial(jax.jit, static_argnums=0)
def evidence(likelihood, precision, offset, y):
    """Of one example whose outputs are N(offset, I/precision)."""
    outputs = len(offset)
    belief = lf.init({"w": jnp.zeros((1, outputs))}, precision, rank=1)
    return lf.update(belief, lambda p, x: linear(p, x) + offset, likelihood, jnp.ones((1, 1)), y[None])[1].log_evidence


LOG_DENSITIES = {
    "bernoulli": (lf.Bernoulli(), lambda f, y: y * f - np.logaddexp(0, f), (0.0, 1.0)),
    "poisson": (lf.Poisson(), lambda f, y: y * f - np.exp(f) - gammaln(y + 1), (0.0, 3.0)),
}


@pytest.mark.parametrize("name", LOG_DENSITIES)
def test_one_output_against_quadrature(name):
    likelihood, log_density, targets = LOG_DENSITIES[name]
    standard = np.linspace(-14, 14, 100_001)
    weights = -0.5 * standard**2 - logsumexp(-0.5 * standard**2)
    for deviation in (0.1, 1.0, 3.0, 10.0):
        for mean in (-30.0, 0.0, 3.0):
            for y in targets:
                came = evidence(likelihood, deviation**-2, jnp.asarray([mean]), jnp.asarray([y]))
                with np.errstate(over="ignore"):
                    exact = logsumexp(weights + log_density(mean + deviation * standard, y))
                assert came <= 0
                assert abs(came - exact) < 0.05, (deviation, mean, y)


@pytest.mark.parametrize("classes", fast([3, 10], 3))
def test_classes_against_draws(classes):
    rng = np.random.default_rng(classes)
    draws = rng.normal(size=(100_000, classes))
    for deviation in (0.3, 1.0, 3.0, 10.0):
        offset, y = 2 * rng.normal(size=classes), rng.integers(classes)
        outputs = offset + deviation * draws
        exact = logsumexp(outputs[:, y] - logsumexp(outputs, axis=1)) - np.log(len(draws))
        came = evidence(lf.Categorical(), deviation**-2, jnp.asarray(offset, jnp.float32), jnp.asarray(y))
        assert came <= 0
        assert abs(came - exact) < 0.05, deviation


@pytest.mark.parametrize("classes", fast([3, 10], 3))
def test_classes_of_unequal_covariances_against_draws(classes):
    rng = np.random.default_rng(classes)
    draws = rng.normal(size=(300_000, classes))

    @jax.jit
    def came(deviation, mixing, offset, y):
        belief = lf.init(jnp.zeros(classes), deviation**-2, rank=1)
        _, info = lf.update(
            belief, lambda p, x: (mixing @ p + offset)[None], lf.Categorical(), jnp.ones((1, 1)), y[None]
        )
        return info.log_evidence

    for deviation in (1.0, 3.2, 3.2, 3.2, 3.2, 3.2):
        mixing = rng.normal(size=(classes, classes)) / np.sqrt(classes) + 0.7 * rng.normal(size=(classes, 1)) / classes
        offset, y = 2 * rng.normal(size=classes), rng.integers(classes)
        outputs = offset + deviation * draws @ mixing.T
        exact = logsumexp(outputs[:, y] - logsumexp(outputs, axis=1)) - np.log(len(draws))
        given = jnp.asarray(mixing, jnp.float32), jnp.asarray(offset, jnp.float32), jnp.asarray(y)
        assert abs(came(deviation, *given) - exact) < 0.05, deviation


@pytest.mark.slow
def test_a_thousand_classes():
    came = evidence(lf.Categorical(), 1.0, jnp.zeros(1000), jnp.asarray(3))
    assert abs(came + np.log(1000)) < 0.05  # all are alike


def test_many_surprising_labels_at_once():
    x, y = jnp.asarray(np.random.default_rng(0).normal(size=(12, 4)), jnp.float32), jnp.arange(12) % 3
    belief = lf.init({"w": jnp.zeros((4, 3))}, 0.01, rank=2)
    assert jax.jit(lambda: lf.update(belief, linear, lf.Categorical(), x, y)[1].log_evidence)() < 0


@pytest.mark.usefixtures("x64")
def test_gradient():
    offset, y = jnp.asarray([0.3, -1.0, 2.0]), jnp.asarray(1)

    def value(precision):
        return evidence(lf.Categorical(), precision, offset, y)

    slope = jax.grad(value)(0.2)
    assert slope != 0
    assert abs(slope - dense.finite_difference(value, 0.2, 1e-4)) < 1e-6 * max(1, abs(slope))
