"""The same network with its parameters as flax' nested dict, as a registered class, and as a flat vector."""

import dataclasses

import dense
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lowrank_filter as lf

nn = pytest.importorskip("flax.linen")
pytestmark = pytest.mark.usefixtures("x64")

IN, HIDDEN, OUT, B, K = 3, 4, 2, 3, 2


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = jnp.tanh(nn.Dense(HIDDEN, param_dtype=float)(x))
        return nn.Dense(OUT, param_dtype=float)(x)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Layer:
    weight: jax.Array
    bias: jax.Array

    def __call__(self, x):
        return x @ self.weight + self.bias


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Perceptron:
    """A callable tree, with a field that is not a parameter."""

    layers: list[Layer]
    activation: object = dataclasses.field(metadata={"static": True})

    def __call__(self, x):
        return self.layers[1](self.activation(self.layers[0](x)))


def forms():
    params = Network().init(jax.random.key(0), jnp.zeros((1, IN)))
    layers = [params["params"][name] for name in ("Dense_0", "Dense_1")]
    tree = Perceptron([Layer(layer["kernel"], layer["bias"]) for layer in layers], jnp.tanh)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    return {
        "flax": (params, Network().apply),
        "class": (tree, lambda p, x: p(x)),
        "flat": (flat, lambda p, x: Network().apply(unravel(p), x)),
    }


def as_numbers(tree, form):
    """The parameters of any form in one order: kernels and biases, layer by layer."""
    if form == "flat":
        tree = jax.flatten_util.ravel_pytree(forms()["flax"][0])[1](tree)
    if form == "class":
        layers = [(layer.weight, layer.bias) for layer in tree.layers]
    else:
        layers = [(tree["params"][name]["kernel"], tree["params"][name]["bias"]) for name in ("Dense_0", "Dense_1")]
    return np.concatenate([np.ravel(part) for layer in layers for part in layer])


def results(form):
    params, apply_fn = forms()[form]
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(B, IN))), jnp.asarray(rng.integers(0, OUT, B))

    @jax.jit
    def everything(params):
        data = (apply_fn, lf.Categorical(), x, y)
        belief = lf.predict(lf.init(params, 1.5, rank=K), 0.1)
        first, first_info = lf.update(belief, *data, iterations=0)
        second, second_info = lf.laplace_update(lf.predict(first, 0.1), first.mean, *data, batch_size=2)
        fitted, _ = lf.fit(second, *data, optimizer=optax.sgd(0.01), steps=3)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), first, second)
        sites = jax.tree.map(lambda *leaves: jnp.stack(leaves), first_info.site, second_info.site)
        smoothed = jax.tree.map(lambda leaf: leaf[0], lf.smooth(stacked, sites, 0.1))
        vectors = {
            "update": first.mean,
            "precision": lf.matvec(second.precision, params),
            "solve": lf.solve(second.precision, params),
            "marginal variances": lf.inverse_diagonal(second.precision),
            "fit": fitted,
            "smoothed mean": smoothed.mean,
            "smoothed variances": lf.inverse_diagonal(smoothed.precision),
            "truncated": lf.matvec(lf.truncate(second.precision, 1), params),
        }
        numbers = {
            "log determinant": lf.logdet(second.precision),
            "penalty": lf.penalty(second, params),
            "evidence": first_info.log_evidence,
            "Laplace evidence": second_info.log_evidence,
            "predictive": lf.predictive(second, apply_fn, x),
        }
        return vectors, numbers

    vectors, numbers = everything(params)
    assert all(jax.tree.structure(v) == jax.tree.structure(params) for v in vectors.values())
    return {name: as_numbers(v, form) for name, v in vectors.items()}, numbers


@pytest.fixture(scope="module")
def reference():
    with jax.enable_x64(True):
        return results("flat")


@pytest.mark.slow  # test_structures and test_parts have nested dictionaries against dense matrices, test_update vectors
@pytest.mark.parametrize("form", ["flax", "class"])
def test_the_result_is_the_same(form, reference):
    for came, expected in zip(results(form), reference, strict=True):
        for name in expected:
            for a, b in zip(jax.tree.leaves(came[name]), jax.tree.leaves(expected[name]), strict=True):
                assert dense.relative_error(a, b) < 1e-9, name


def test_per_layer_arguments_are_prefixes():
    params, _ = forms()["flax"]
    per_layer = {"params": {"Dense_0": 0.5, "Dense_1": {"kernel": 2.0, "bias": jnp.asarray([3.0, 4.0])}}}
    belief = lf.predict(lf.init(params, per_layer, rank=1), per_layer, per_layer)
    expected = {"Dense_0": 0.5, "Dense_1": 2.0}
    for name, value in expected.items():
        kernel = belief.precision.diag["params"][name]["kernel"]
        np.testing.assert_allclose(kernel, 1 / (value**2 / value + value), rtol=1e-12)
    bias = np.array([3.0, 4.0])
    np.testing.assert_allclose(belief.precision.diag["params"]["Dense_1"]["bias"], 1 / (2 * bias), rtol=1e-12)


def test_parameters_of_two_dtypes_keep_them():
    with jax.enable_x64(False):
        params = {"a": jnp.ones(3, jnp.bfloat16), "b": jnp.ones(2, jnp.float32)}
        belief = lf.predict(lf.init(params, rank=2), 0.1)

        def net(p, x):
            return x @ p["a"].astype(jnp.float32)[:, None] + p["b"]

        data = jnp.ones((2, 3)), jnp.asarray([0, 1])
        updated, info = jax.jit(lambda: lf.update(belief, net, lf.Categorical(), *data, iterations=0))()
        for leaf, like in zip(jax.tree.leaves(updated), jax.tree.leaves(belief), strict=True):
            assert leaf.dtype == like.dtype
        assert np.isfinite(info.log_evidence)
