"""The columns of a batch as products of layers' inputs and gradients, and the prediction made inside an update."""

import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import lowrank_filter as lf
from lowrank_filter.algebra import tree
from lowrank_filter.algebra.example_gradients import LayerGradients, Stack
from lowrank_filter.kernels.examples import Examples, prepare
from lowrank_filter.kernels.expansion import localise
from lowrank_filter.kernels.linearisation import Linearisation

pytestmark = pytest.mark.usefixtures("x64")
LIKELIHOOD = lf.Categorical()
START = {
    "centre": np.random.default_rng(5).normal(size=4),
    "first": {"w": np.random.default_rng(0).normal(size=(4, 5)), "b": np.zeros(5)},
    "gain": np.ones(5),
    "last": np.random.default_rng(1).normal(size=(3, 5)),
    "idle": np.zeros(2),
}
with jax.enable_x64(True):
    FLAT, UNRAVEL = ravel_pytree(START)
    FLAT = np.asarray(FLAT)


def nested(params, x):
    """What is subtracted, a bias, a scale, and a last layer that is stored by outputs."""
    hidden = jnp.tanh((x - params["centre"]) @ params["first"]["w"] + params["first"]["b"]) * params["gain"]
    return hidden @ params["last"].T


def unravelled(flat, x):
    """The same with all parameters in one vector."""
    return nested(UNRAVEL(flat), x)


NETWORKS = {"nested": (nested, UNRAVEL), "flat": (unravelled, lambda flat: flat)}


def convolved(params, x):
    """Weights that are shared over positions, and a head that meets each example once."""
    numbers = ("NHWC", "HWIO", "NHWC")
    hidden = jax.lax.conv_general_dilated(x, params["kernel"], (1, 1), "VALID", dimension_numbers=numbers)
    return jnp.tanh(hidden + params["shift"]).reshape(len(x), -1) @ params["head"] + params["bias"]


def looked_up(params, x):
    """An embedding, which cannot be read, and a head."""
    return jnp.tanh(jnp.mean(params["table"][x.astype(int)], axis=1)) @ params["head"] + params["bias"]


PARTLY_BUILT = {
    "shared over positions": (
        convolved,
        {"kernel": (2, 2, 2, 3), "shift": (3,), "head": (12, 2), "bias": (2,)},
        np.random.default_rng(4).normal(size=(3, 3, 3, 2)),
    ),
    "not read": (
        looked_up,
        {"table": (6, 4), "head": (4, 2), "bias": (2,)},
        np.random.default_rng(4).integers(0, 6, size=(3, 5)).astype(float),
    ),
}


def products(columns, weight, stack, coefficients):
    """All that is made of columns, each as one vector."""

    def of(columns):
        made = (
            columns.stack(),
            columns.gram(weight),
            columns.gram(None),
            columns.squares(),
            columns.against(stack),
            columns.combine(coefficients),
        )
        return [ravel_pytree(each)[0] for each in made]

    return jax.jit(of)(columns)


@pytest.mark.parametrize("name", PARTLY_BUILT)
def test_only_leaves_that_have_to_be_are_built(name):
    network, shapes, x = PARTLY_BUILT[name]
    rng = np.random.default_rng(6)
    params = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    x, root = jnp.asarray(x), jnp.asarray(rng.normal(size=(3, 2, 2)))
    _, columns = jax.jit(lambda p: Linearisation(network, p, x).columns(x, lambda _: root))(params)
    assert isinstance(columns, LayerGradients)
    assert [inputs.shape for inputs in columns.inputs if inputs is not None] == [(3, len(params["head"]))]
    flat, unravel = ravel_pytree(params)
    jacobian = jax.jit(jax.jacobian(lambda flat: network(unravel(flat), x)))(flat)
    built = Stack(jax.vmap(unravel)(jnp.einsum("bcd,bcr->brd", jacobian, root).reshape(6, -1)))
    weight, stack = unravel(rng.uniform(1, 2, flat.size)), jax.vmap(unravel)(rng.normal(size=(2, flat.size)))
    coefficients = jnp.asarray(rng.normal(size=(2, 6)))
    for came, expected in zip(
        products(columns, weight, stack, coefficients), products(built, weight, stack, coefficients), strict=True
    ):
        assert dense.relative_error(came, expected) < 1e-12


@pytest.mark.parametrize(("name", "size"), [("nested", 3), ("flat", 1)])
def test_products_are_the_gradients(name, size):
    network, like = NETWORKS[name]
    rng = np.random.default_rng(2)
    params = like(jnp.asarray(FLAT))
    x, y = jnp.asarray(rng.normal(size=(size, 4))), jnp.asarray(rng.integers(0, 3, size))
    batch = prepare(params, network, LIKELIHOOD, Examples(x, y, None, None))
    _, columns = jax.jit(
        lambda p: Linearisation(network, p, x).columns(
            batch.x, lambda outputs: localise(LIKELIHOOD, outputs, batch, 1.0).root
        )
    )(params)
    assert isinstance(columns, LayerGradients)
    jacobian = jax.jit(jax.jacobian(lambda flat: network(like(flat), x)))(jnp.asarray(FLAT))
    root = jax.vmap(LIKELIHOOD.root)(network(params, x), y)
    built = Stack(jax.vmap(like)(jnp.einsum("bcd,bcr->brd", jacobian, root).reshape(3 * size, -1)))
    weight, stack = like(jnp.asarray(rng.uniform(1, 2, FLAT.size))), jax.vmap(like)(rng.normal(size=(2, FLAT.size)))
    coefficients = jnp.asarray(rng.normal(size=(2, 3 * size)))
    for came, expected in zip(
        products(columns, weight, stack, coefficients), products(built, weight, stack, coefficients), strict=True
    ):
        assert dense.relative_error(came, expected) < 1e-12
    assert columns.size == built.size


@pytest.mark.slow  # test_algebra_properties has the fused sum against dense matrices, test_parts a stream either way
@pytest.mark.parametrize("metric", ["relative", "euclidean"])
@pytest.mark.parametrize("blocks", ["network", "unit"])
def test_a_prediction_inside_an_update_is_a_prediction_before_it(blocks, metric):
    rng = np.random.default_rng(3)
    x, y = jnp.asarray(rng.normal(size=(6, 4))), jnp.asarray(rng.integers(0, 3, 6))
    params = UNRAVEL(jnp.asarray(FLAT))
    noise = {"centre": 0.1, "first": 0.3, "gain": 0.1, "last": 0.0, "idle": 0.2}

    @jax.jit
    def both(noise, transition):
        belief = lf.init(params, 0.5, structure=lf.LowRank(3, metric=metric, blocks=blocks))
        belief, _ = lf.update(belief, nested, LIKELIHOOD, x, y, iterations=0)
        ahead = lf.predict(belief, noise, transition)
        apart = lf.update(ahead, nested, LIKELIHOOD, x[:2], y[:2])
        together = lf.update(belief, nested, LIKELIHOOD, x[:2], y[:2], process_noise=noise, transition=transition)

        def compared(belief, info):
            matrix = jax.vmap(belief.precision.matvec)(jax.vmap(UNRAVEL)(jnp.eye(FLAT.size)))
            return belief.mean, matrix, info.log_evidence, info.truncated

        return compared(*apart), compared(*together)

    apart, together = both(noise, 0.9)
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(apart), strict=True):
        assert dense.relative_error(a, b) < 1e-9


def test_a_gram_matrix_in_pieces():
    """Values and gradients of a stack that is large enough to be cut, and of one that is not."""
    rng = np.random.default_rng(4)
    size = tree._PIECE * 32 // 8
    for shape in ((size,), (size // 16, 16)):
        stack, weight = jnp.asarray(rng.normal(size=(8, *shape))), jnp.asarray(rng.uniform(size=shape))
        assert tree._pieces(stack) is not None
        rows = np.asarray(stack).reshape(8, size)
        expected = (rows * np.asarray(weight).ravel()) @ rows.T
        assert dense.relative_error(jax.jit(tree.weighted_gram)(stack, weight), expected) < 1e-12
        came = jax.jit(jax.grad(lambda w, s: tree.weighted_gram(s, w).sum()))(weight, stack)
        assert dense.relative_error(came, jnp.sum(stack, axis=0) ** 2) < 1e-12
