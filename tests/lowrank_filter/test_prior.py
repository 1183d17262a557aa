"""A prior precision that is the network's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lowrank_filter as lf

PARAMS = {"a": {"w": jnp.ones((3, 5)) / 3, "b": jnp.zeros(5)}, "c": {"w": jnp.ones((5, 2)) / 2}}
X = jnp.asarray(np.random.default_rng(0).normal(size=(7, 3)), jnp.float32)


def net(params, x):
    return jnp.tanh(x @ params["a"]["w"] + params["a"]["b"]) @ params["c"]["w"]


@pytest.mark.parametrize("per_layer", [False, True])
def test_the_outputs_have_the_variance_asked_for(per_layer):
    belief = lf.init(PARAMS, lf.scaled(net, X, variance=3.0, per_layer=per_layer), rank=0)
    covariance = lf.predictive(belief, net, X).covariance
    assert abs(np.trace(covariance, axis1=1, axis2=2).mean() / 2 - 3.0) < 1e-4
    precisions = [np.unique(leaf) for leaf in jax.tree.leaves(belief.precision.diag)]
    assert all(len(values) == 1 for values in precisions)
    assert (precisions[0] == precisions[1]).all()
    assert (precisions[0] == precisions[2]).all() != per_layer


def test_a_filter_takes_it_by_itself():
    filter = lf.extended_filter(net, lf.Categorical(), rank=1)
    expected = lf.init(PARAMS, lf.scaled(net, X), rank=1)
    jax.tree.map(np.testing.assert_array_equal, filter.init(PARAMS, X), expected)
    jax.tree.map(np.testing.assert_array_equal, filter.init(PARAMS), lf.init(PARAMS, rank=1))
    given = lf.extended_filter(net, lf.Categorical(), rank=1, precision=2.0)
    jax.tree.map(np.testing.assert_array_equal, given.init(PARAMS, X), lf.init(PARAMS, 2.0, rank=1))
    kronecker = lf.extended_filter(net, lf.Categorical(), structure="kronecker").init(PARAMS, X)
    expected = lf.init(PARAMS, lf.scaled(net, X), structure="kronecker")
    jax.tree.map(np.testing.assert_array_equal, kronecker, expected)


def test_traced():
    diag = jax.jit(lambda p, x, v: lf.init(p, lf.scaled(net, x, variance=v), rank=0).precision.diag)(PARAMS, X, 3.0)
    expected = lf.init(PARAMS, lf.scaled(net, X, variance=3.0), rank=0).precision.diag
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), diag, expected)


def test_parameters_that_the_outputs_do_not_see():
    belief = lf.init(PARAMS, lf.scaled(lambda p, x: x[:, :2], X), rank=0)
    np.testing.assert_array_equal(belief.precision.diag["a"]["w"], 1)


def test_a_rank_that_is_not_given_is_ten():
    assert lf.init(PARAMS).precision.rank == 10
    built = lf.extended_filter(net, lf.Categorical())
    belief, _ = built.step(built.init(PARAMS, X), X[:2], jnp.zeros(2, int))
    assert belief.precision.rank == 10
    assert lf.init(PARAMS, structure="kronecker").precision.rank == 0


@pytest.mark.parametrize("per_layer", [False, True])
def test_parameters_in_float32_where_float64_is_on(per_layer):
    expected = lf.init(PARAMS, lf.scaled(net, X, per_layer=per_layer), rank=0).precision.diag
    with jax.enable_x64(True):
        came = lf.init(PARAMS, lf.scaled(net, np.float64(X), per_layer=per_layer), rank=0).precision.diag
    assert {leaf.dtype for leaf in jax.tree.leaves(came)} == {np.dtype("float32")}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), came, expected)
