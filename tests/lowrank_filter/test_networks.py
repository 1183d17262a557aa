"""Networks with parts that a task does not use, with statistics, and networks that couple their examples."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from suites import fast

import lowrank_filter as lf

KEYS = jax.random.split(jax.random.key(0), 5)
X, Y = jax.random.normal(KEYS[0], (5, 3)), jnp.array([0, 1, 1, 0, 1])


def dense(key, inputs, outputs):
    return {"kernel": jax.random.normal(key, (inputs, outputs)), "bias": jnp.ones(outputs)}


PARAMS = {"body": dense(KEYS[1], 3, 4), "first": dense(KEYS[2], 4, 2), "second": dense(KEYS[3], 4, 2)}
STARTS = {
    "diagonal": lambda p: lf.init(p, rank=0),
    "network": lambda p: lf.init(p, rank=3),
    "layer": lambda p: lf.init(p, rank=3, structure="layer"),
    "unit": lambda p: lf.init(p, rank=3, structure="unit"),
    "kronecker": lambda p: lf.init(p, structure="kronecker"),
}


def layer(params, x):
    return x @ params["kernel"] + params["bias"]


def one_head(params, x):
    return layer(params["first"], jnp.tanh(layer(params["body"], x)))


def both_heads(params, x):
    hidden = jnp.tanh(layer(params["body"], x))
    return jnp.stack([layer(params["first"], hidden), layer(params["second"], hidden)])[0]


def dead_end(params, x):
    layer(params["second"], jnp.sin(params["second"]["kernel"].T @ jnp.ones((4, 4))))
    return one_head(params, x)


def stopped(params, x):
    frozen = jax.lax.stop_gradient(params["second"])
    return one_head(params, x) + layer(frozen, jnp.ones((len(x), 4)))


@pytest.mark.parametrize(
    ("structure", "network"),
    fast(
        [
            *((s, one_head) for s in STARTS),
            *(("kronecker", n) for n in (both_heads, stopped, dead_end)),
            ("unit", stopped),
        ],
        ("kronecker", both_heads),
    ),
)
def test_a_layer_that_is_not_used_learns_nothing(structure, network):
    """Zero curvature, in every structure: its belief is the prior, bit for bit in the mean."""
    belief = STARTS[structure](PARAMS)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)

    @jax.jit
    def updates(belief):
        kernels = (
            lf.laplace_update(belief, belief.mean, network, lf.Categorical(), X, Y),
            lf.update(belief, network, lf.Categorical(), X, Y),
        )
        only = zeros | {"second": jax.tree.map(jnp.ones_like, PARAMS["second"])}
        return [(after, after.precision.matvec(only), info.site.matvec(only)) for after, info in kernels]

    for after, held, learnt in updates(belief):
        jax.tree.map(np.testing.assert_array_equal, after.mean["second"], PARAMS["second"])
        jax.tree.map(lambda v: np.testing.assert_allclose(v, np.ones_like(v), rtol=1e-5), held["second"])
        jax.tree.map(lambda v: np.testing.assert_allclose(v, 0, atol=1e-5), learnt)


class Normalised(nn.Module):
    train: bool

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=not self.train)(nn.Dense(4)(x))
        return nn.Dense(2)(nn.relu(x))


VARIABLES = Normalised(train=False).init(KEYS[4], X)
REST = {"batch_stats": VARIABLES["batch_stats"]}


def in_training(params, x):
    return Normalised(train=True).apply({"params": params, **REST}, x, mutable=["batch_stats"])[0]


def in_evaluation(params, x):
    return Normalised(train=False).apply({"params": params, **REST}, x)


def attending(params, x):
    return jax.nn.softmax(x @ x.T) @ layer(params, x)


COUPLED = {
    "batch normalisation": (in_training, VARIABLES["params"]),
    "attention over the batch": (attending, dense(KEYS[1], 3, 2)),
    "centred": (lambda p, x: layer(p, x - jnp.mean(x, axis=0)), dense(KEYS[1], 3, 2)),
    "running sum": (lambda p, x: layer(p, jnp.cumsum(x, axis=0)), dense(KEYS[1], 3, 2)),
    "under jit": (jax.jit(lambda p, x: layer(p, x / x.max(0))), dense(KEYS[1], 3, 2)),
}


@pytest.mark.parametrize("name", COUPLED)
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_networks_that_couple_examples_are_refused(name, wrap):
    network, params = COUPLED[name]
    belief = lf.init(params, rank=0)
    for kernel in (
        lambda b: lf.update(b, network, lf.Categorical(), X, Y),
        lambda b: lf.laplace_update(b, b.mean, network, lf.Categorical(), X, Y),
        lambda b: lf.fit(b, network, lf.Categorical(), X, Y, optimizer=optax.sgd(0.1), steps=1),
        lambda b: lf.predictive(b, network, X),
    ):
        with pytest.raises(ValueError, match=r"(?s)apply_fn: expected outputs that depend on their own example alone"):
            wrap(kernel)(belief)


def positions(params, x):
    """Sums over positions, features and a batch that is folded into them do not couple."""
    folded = layer(params, jnp.repeat(x[:, None], 2, axis=1).reshape(-1, 3)).reshape(len(x), 2, 2)
    return jax.lax.map(lambda v: v.sum(0), folded) + jnp.sum(x, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("network", "params"), [(in_evaluation, VARIABLES["params"]), (positions, dense(KEYS[1], 3, 2))]
)
def test_other_networks_are_not(network, params):
    assert jnp.isfinite(lf.predictive(lf.init(params, rank=1), network, X).covariance).all()


class Net(nnx.Module):
    def __init__(self):
        self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))


STATISTICS = {"linen": VARIABLES, "nnx": nnx.state(Net())}


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("start", [lambda p: lf.init(p, rank=1), lambda p: lf.init(p, structure="kronecker")])
def test_statistics_are_refused_by_name(name, start):
    with pytest.raises(
        ValueError, match=r"(?s)params: expected weights only.*got flax variables with (batch_stats|BatchStat)"
    ):
        start(STATISTICS[name])
    start({"params": VARIABLES["params"]})


def test_dropout_with_its_own_key():
    """The recipe: one key for each call, closed over."""

    class Dropped(nn.Module):
        @nn.compact
        def __call__(self, x, deterministic):
            return nn.Dense(2)(nn.Dropout(0.5, deterministic=deterministic)(x))

    params = Dropped().init(KEYS[4], X, True)["params"]
    belief = lf.init(params, rank=1)

    def loss(key):
        network = lambda p, x: Dropped().apply({"params": p}, x, False, rngs={"dropout": key})  # noqa: E731
        return lf.update(belief, network, lf.Categorical(), X, Y, iterations=0)[1].loss

    losses = jax.jit(jax.vmap(loss))(KEYS)
    assert len(np.unique(losses)) == len(KEYS)
