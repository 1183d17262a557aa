"""Every kernel under jit, vmap over seeds, grad and scan: equal to the plain call, traced once."""

import functools

import chex
import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import token_models as tm

from latenttrack import next_latent as nl

pytestmark = pytest.mark.usefixtures("x64")
SEEDS, VALUES = np.arange(3), np.linspace(0.3, 1.1, 3)
MODEL = tm.transformer()
TOKENS = tm.tokens(2, 6)


def params_of(seed, value):
    shapes = jax.eval_shape(lambda key: nl.NextLatParams(MODEL.init(key), tm.DYNAMICS.init(key)), jax.random.key(0))
    # Not drawn: that takes longer to compile than what is tested.
    return jax.tree.map(
        lambda leaf: 0.6 * value * jnp.sin(1.7 * jnp.arange(leaf.size) + seed).reshape(leaf.shape), shapes
    )


def hidden(seed, value):
    return MODEL.hidden(params_of(seed, value).model, TOKENS)


def extend(seed, value):
    params = params_of(seed, value).model
    cache = MODEL.initial_cache(params, 2, 6)
    first, cache = MODEL.extend(params, cache, TOKENS[:, :4], 0)
    return first, MODEL.extend(params, cache, TOKENS[:, 4:], 4)


def loss(seed, value):
    return nl.nextlat_loss(MODEL, tm.DYNAMICS, params_of(seed, 1.0), TOKENS, horizon=2, latent=value, divergence=0.2)


def filter_(seed, value):
    params = params_of(seed, value)
    init, predict, update = nl.latent_filter(MODEL, tm.DYNAMICS)
    return predict(params, update(params, init(params, TOKENS[0]), TOKENS[1, 0]))


KERNELS = {f.__name__: f for f in (hidden, extend, loss, filter_)}


@functools.cache
def compiled(name):
    return jax.jit(chex.assert_max_traces(KERNELS[name], n=1))


@functools.cache
def lanes(name):
    with jax.enable_x64(True):
        return [compiled(name)(seed, value) for seed, value in zip(SEEDS, VALUES, strict=True)]


def assert_lanes(came, name):
    for index in range(len(SEEDS)):
        for a, b in zip(jax.tree.leaves(came), jax.tree.leaves(lanes(name)[index]), strict=True):
            assert dense.relative_error(a[index], b) < 1e-9


@pytest.mark.parametrize("name", KERNELS)
def test_all_together(name):
    """A scan of a vmap of values and their gradients, in one program."""

    def both(seed, value):
        came = KERNELS[name](seed, value)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(came)), came

    graded = jax.vmap(jax.value_and_grad(both, 1, has_aux=True))
    scanned = jax.jit(lambda *args: jax.lax.scan(lambda _, lane: (None, graded(*lane)), None, args)[1])
    (_, came), slopes = jax.tree.map(lambda leaf: np.asarray(leaf)[0], scanned(SEEDS[None], VALUES[None]))
    assert_lanes(came, name)

    def at(value):
        return float(sum(np.sum(np.sin(leaf)) for leaf in jax.tree.leaves(compiled(name)(SEEDS[1], value))))

    assert slopes[1] != 0
    assert abs(slopes[1] - dense.finite_difference(at, VALUES[1], 1e-4)) < 1e-6 * max(1, abs(slopes[1]))


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_plain_calls(name):
    for a, b in zip(jax.tree.leaves(KERNELS[name](SEEDS[1], VALUES[1])), jax.tree.leaves(lanes(name)[1]), strict=True):
        assert dense.relative_error(a, b) < 1e-9
