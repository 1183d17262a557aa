"""A small network with every likelihood, and a belief that knows something already."""

import functools

import dense
import jax.numpy as jnp
import numpy as np

import lowrank_filter as lf

INPUTS, HIDDEN, B = 3, 4, 5
LIKELIHOODS = {
    "categorical": (lf.Categorical(), 3),
    "gaussian": (lf.Gaussian(jnp.asarray([[0.5, 0.1], [0.1, 0.3]])), 2),
    "bernoulli": (lf.Bernoulli(), 2),
    "poisson": (lf.Poisson(), 2),
    "heteroscedastic": (lf.HeteroscedasticGaussian(), 4),
}


def targets(name, outputs, rng, size=B):
    return {
        "categorical": lambda: rng.integers(0, outputs, size),
        "gaussian": lambda: rng.normal(size=(size, outputs)),
        "bernoulli": lambda: rng.integers(0, 2, (size, outputs)).astype(float),
        "poisson": lambda: rng.poisson(2.0, (size, outputs)).astype(float),
        "heteroscedastic": lambda: rng.normal(size=(size, outputs // 2)),
    }[name]()


@functools.cache
def network(outputs):
    cut = INPUTS * HIDDEN

    def apply_fn(params, x):
        return jnp.tanh(x @ params[:cut].reshape(INPUTS, HIDDEN)) @ params[cut:].reshape(HIDDEN, outputs)

    return apply_fn, cut + HIDDEN * outputs


def problem(name, rank, size=B):
    likelihood, outputs = LIKELIHOODS[name]
    rng = np.random.default_rng(rank)
    apply_fn, dimension = network(outputs)
    diag, factor = dense.random_precision(rng, dimension, rank)
    mean = rng.normal(size=dimension)
    belief = lf.Belief(jnp.asarray(mean), lf.DiagLowRank(jnp.asarray(diag), jnp.asarray(factor)))
    x, y = rng.normal(size=(size, INPUTS)), targets(name, outputs, rng, size)
    return belief, apply_fn, likelihood, jnp.asarray(x), jnp.asarray(y)
