"""Small beliefs are worked on as one array: the same results, and programs that do not grow with the leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dense import relative_error
from jax.flatten_util import ravel_pytree

import lowrank_filter as lf
from lowrank_filter.algebra import one_buffer
from lowrank_filter.algebra.diag_low_rank import Joined

pytestmark = pytest.mark.usefixtures("x64")
NAMES = [f"layer{n}" for n in range(4)]


def belief_of(steps=None):
    rng = np.random.default_rng(0)
    leading = () if steps is None else (steps,)
    shapes = [(3, 2), (2, 3), (3,), (5, 4)]

    def tree(*more):
        return {n: jnp.asarray(rng.normal(size=leading + more + s)) for n, s in zip(NAMES, shapes, strict=True)}

    return lf.Belief(tree(), lf.DiagLowRank(jax.tree.map(lambda v: 1 + v * v, tree()), tree(2)))


def smooth():
    beliefs = belief_of(steps=3)
    noise = {name: 0.1 * (1 + index) for index, name in enumerate(NAMES)}
    smoothed = jax.jit(lambda b: lf.smooth(b, b.precision, noise, 0.9))(beliefs)
    squares = jax.tree.map(lambda w: jnp.sum(w * w, axis=1), smoothed.precision.factor)
    return ravel_pytree((smoothed.mean, smoothed.precision.diag, squares))[0]


def test_smoothing_is_the_same_leaf_by_leaf(monkeypatch):
    joined = smooth()
    monkeypatch.setattr(one_buffer, "_NUMBERS", 0)
    assert relative_error(joined, smooth()) < 1e-12


def test_draws_are_one_for_all_leaves():
    """One program of normal numbers for all leaves, one for the factor; leaves have their shapes and dtypes."""
    belief = belief_of()
    text = str(jax.make_jaxpr(lambda b: lf.sample(jax.random.key(0), b, 2))(belief))
    assert text.count("erf_inv") == 2
    draws = lf.sample(jax.random.key(0), belief, 2)
    assert jax.tree.map(jnp.shape, draws) == jax.tree.map(lambda v: (2, *v.shape), belief.mean)


@pytest.mark.parametrize(
    "likelihood",
    [pytest.param(lf.Categorical(), marks=pytest.mark.slow), lf.Gaussian(0.1)],
    ids=["classes", "gaussian"],
)
def test_an_update_of_many_leaves_is_the_same_leaf_by_leaf(likelihood, monkeypatch):
    """Of three layers, with a prediction on the way: mean, precision, site and what it says of the step."""
    rng = np.random.default_rng(1)
    layers = [
        (jnp.asarray(rng.normal(size=(a, b))), jnp.asarray(rng.normal(size=b))) for a, b in [(4, 3), (3, 5), (5, 2)]
    ]
    x = jnp.asarray(rng.normal(size=(2, 4)))
    y = jnp.array([0, 1]) if likelihood.classes else jnp.asarray(rng.normal(size=(2, 2)))
    belief = lf.init(layers, 2.0, rank=3)

    def network(params, x):
        for kernel, bias in params:
            x = jnp.tanh(x @ kernel + bias)
        return x

    def updated(most):
        monkeypatch.setattr(one_buffer, "_LAYERS", most)
        after, info = jax.jit(lambda b: lf.update(b, network, likelihood, x, y, process_noise=1e-3))(belief)
        assert jax.tree.structure(after) == jax.tree.structure(belief)
        for precision in (after.precision, info.site):
            squares = jax.tree.map(lambda w: jnp.sum(w * w, axis=0), precision.factor)
            yield ravel_pytree((precision.diag, squares))[0]
        yield ravel_pytree((after.mean, info.log_evidence, info.loss, info.surprise, info.step_size, info.outputs))[0]

    for came, expected in zip(updated(5), updated(6), strict=True):
        assert relative_error(came, expected) < 1e-9


def test_the_rule():
    """Several leaves, few numbers, one diagonal plus low rank."""
    belief = belief_of()
    assert Joined.of(belief.precision, belief.mean).buffer.joined
    single = lf.init(jnp.zeros(5), rank=1)
    assert not Joined.of(single.precision, single.mean).buffer.joined
    large = jax.eval_shape(lambda p: lf.init(p, rank=3), [jnp.zeros(10), jax.ShapeDtypeStruct((2**18,), float)])
    assert not Joined.of(large.precision, large.mean).buffer.joined
    blocks = lf.init(belief.mean, rank=1, structure="layer")
    assert not Joined.of(blocks.precision, blocks.mean).buffer.joined


@pytest.mark.parametrize(("leaves", "joined"), [(16, False), (17, True)])
def test_an_update_is_by_layers_unless_there_are_many(leaves, joined):
    belief = lf.init([jnp.zeros(3)] * leaves, rank=1)
    assert Joined.of(belief.precision, belief.mean, columns=2).buffer.joined is joined
