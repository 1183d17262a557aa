"""Every likelihood in every form × every structure × every kernel × every transformation and switch: all of them trace.

Tracing finds what ends in an error from inside (a value looked at in a trace, arithmetic in another dtype or rank, a
tracer that escapes); nothing is compiled. That the numbers are the same is the other tests' matter.
"""

import contextlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lowrank_filter as lf

RNG = np.random.default_rng(0)
PARAMS = {"b": np.zeros(2, np.float32), "w": RNG.normal(size=(3, 2)).astype(np.float32)}
PARAMS = jax.tree.map(jnp.asarray, PARAMS)
X = RNG.normal(size=(4, 3)).astype(np.float32)
FLOATS = RNG.uniform(size=(4, 2)).astype(np.float32)
STARTS = {
    "diagonal": lambda p: lf.init(p, rank=0),
    "network": lambda p: lf.init(p, rank=3),
    "layer": lambda p: lf.init(p, rank=3, structure="layer"),
    "unit": lambda p: lf.init(p, rank=3, structure="unit"),
    "kronecker": lambda p: lf.init(p, structure="kronecker"),
    "parts": lambda p: lf.init(p, structure={"w": lf.LowRank(3, "drop", "euclidean"), "b": lf.Dense()}),
    "frozen": lambda p: lf.init(p, structure={"w": lf.KroneckerFactored(), "b": lf.Frozen()}),
}


def net(params, x):
    return jnp.tanh(x @ params["w"] + params["b"][None])  # the user's own part keeps to the switches


class Cauchy(lf.Likelihood):
    """One of a user's own: nothing but nll, not registered."""

    def __init__(self, scale):
        self.scale = scale

    def nll(self, output, target):
        return jnp.sum(jnp.log1p(((output - target) / self.scale) ** 2 + self.scale))


MATRIX = 0.1 * np.eye(2, dtype=np.float32) + 0.05
LIKELIHOODS = {
    "Gaussian: Python": (lf.Gaussian, 0.1, FLOATS),
    "Gaussian: numpy scalar": (lf.Gaussian, np.float32(0.1), FLOATS),
    "Gaussian: vector": (lf.Gaussian, np.full(2, 0.1, np.float32), FLOATS),
    "Gaussian: numpy matrix": (lf.Gaussian, MATRIX, FLOATS),
    "Gaussian: matrix": (lf.Gaussian, jnp.asarray(MATRIX), FLOATS),
    "Categorical": (lambda _: lf.Categorical(), 0.1, np.array([0, 1, 1, 0])),
    "Categorical: uint8": (lambda _: lf.Categorical(), 0.1, np.array([0, 1, 1, 0], np.uint8)),
    "Bernoulli": (lambda _: lf.Bernoulli(), 0.1, FLOATS > 0.5),
    "Poisson": (lambda _: lf.Poisson(), 0.1, np.ones((4, 2), np.int32)),
    "HeteroscedasticGaussian": (lambda _: lf.HeteroscedasticGaussian(), 0.1, FLOATS[:, :1]),
    "own": (Cauchy, 0.1, FLOATS),
}


def kernels(belief, likelihood, x, y, mask):
    """All of them, one after the other."""
    predicted = lf.predict(belief, 0.1, 0.9)
    updated, info = lf.update(predicted, net, likelihood, x, y, mask=mask, health=True)
    params, _ = lf.fit(belief, net, likelihood, x, y, optimizer=optax.sgd(0.01), steps=1, mask=mask)
    laplace, about = lf.laplace_update(predicted, params, net, likelihood, x, y, mask=mask, temperature=0.5)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), updated, laplace)
    sites = jax.tree.map(lambda *leaves: jnp.stack(leaves), info.site, about.site)
    smoothed = lf.smooth(stacked, sites, 0.1)
    built = lf.Filter(
        lambda p: belief,
        lambda b: lf.predict(b, 0.1),
        lambda b, x, y, mask: lf.update(b, net, likelihood, x, y, mask=mask, outlier_threshold=3.0),
    )
    last, _ = lf.filter_stream(built, belief, x, y, mask=mask, chunk_size=3)
    drawn = lf.sample(jax.random.key(0), updated, 2)
    said = lf.predictive(updated, net, x)
    numbers = lf.logdet(updated.precision), lf.penalty(belief, params), lf.inverse_diagonal(updated.precision)
    solved = lf.solve(updated.precision, params), lf.matvec(lf.truncate(updated.precision, 1), params)
    return smoothed, last, drawn, said, numbers, solved, info.log_evidence + about.log_evidence


def run(structure, name, *, value=None):
    """With the likelihood's parameter closed over, or given."""
    make, form, y = LIKELIHOODS[name]
    return kernels(STARTS[structure](PARAMS), make(form if value is None else value), X, y, np.array([1, 1, 0, 1]))


def plain(structure, name):
    return run(structure, name)


def jit_closed_over(structure, name):
    return jax.jit(lambda: run(structure, name))()


def jit_passed_in(structure, name):
    make, form, y = LIKELIHOODS[name]
    return jax.jit(kernels)(STARTS[structure](PARAMS), make(form), X, y, np.array([1, 1, 0, 1]))


def jit_traced(structure, name):
    return jax.jit(lambda value: run(structure, name, value=value))(jnp.asarray(LIKELIHOODS[name][1]))


def vmap(structure, name):
    values = jnp.stack([jnp.asarray(LIKELIHOODS[name][1])] * 2)
    return jax.vmap(lambda value: run(structure, name, value=value))(values)


def grad(structure, name):
    value = jnp.asarray(LIKELIHOODS[name][1])
    return jax.grad(lambda value: run(structure, name, value=value)[-1])(value)


def scan(structure, name):
    values = jnp.stack([jnp.asarray(LIKELIHOODS[name][1])] * 2)
    return jax.lax.scan(lambda carry, value: (carry, run(structure, name, value=value)[-1]), 0, values)


TRANSFORMATIONS = [plain, jit_closed_over, jit_passed_in, jit_traced, vmap, grad, scan]
# Some of each; all with all in the slow suite.
QUICK = {
    ("network", "Gaussian: matrix", jit_closed_over),
    ("kronecker", "Categorical: uint8", jit_passed_in),
    ("layer", "Gaussian: vector", scan),
    ("frozen", "Gaussian: Python", vmap),
}
CASES = [
    pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
    for case in itertools.product(STARTS, LIKELIHOODS, TRANSFORMATIONS)
]


@pytest.mark.parametrize(("structure", "name", "transformation"), CASES)
def test_it_traces(structure, name, transformation):
    # What is concrete stays so, and is looked at: as in a script under jit whose data are closed over.
    jax.eval_shape(lambda: transformation(structure, name))


@contextlib.contextmanager
def strict():
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


SWITCHES = {
    "both promotions": strict,
    "rank promotion": lambda: jax.numpy_rank_promotion("raise"),
    "dtype promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "leaks": jax.checking_leaks,
}


STRICT = [
    pytest.param(*case, marks=() if case == ("kronecker", "Categorical", "both promotions") else pytest.mark.slow)
    for case in itertools.product(STARTS, ("Gaussian: matrix", "Categorical", "Poisson"), SWITCHES)
]


@pytest.mark.parametrize(("structure", "name", "switch"), STRICT)
def test_under_a_strict_switch(structure, name, switch):
    make, form, y = LIKELIHOODS[name]
    with SWITCHES[switch]():
        belief, likelihood = STARTS[structure](PARAMS), make(jnp.asarray(form))
        jax.eval_shape(
            kernels, belief, likelihood, jnp.asarray(X), jnp.asarray(y), jnp.array([True, True, False, True])
        )


@pytest.mark.slow
@pytest.mark.parametrize("structure", ["network", "kronecker"])
def test_no_nan_on_the_way(structure):
    """debug_nans looks at every program's results."""
    make, form, y = LIKELIHOODS["Categorical"]
    with jax.debug_nans(True):
        jax.block_until_ready(
            jax.jit(kernels)(STARTS[structure](PARAMS), make(form), X, y, np.array([True, True, False, True]))
        )
