"""A transformer as a model of a stream: causal, the ring is the band, served in pieces, its rollouts by ψ."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from suites import fast

from experiments.streaming.models import transformer

X, T = 3, 14
SIZES = {"width": 8, "heads": 2, "head": 6, "components": 3, "context": 5}


@functools.cache
def prepared(horizon: int):
    model = transformer.build(X, 1, horizon=horizon, **SIZES)
    params = jax.jit(model.init)(jax.random.key(1))
    run = jax.jit(lambda xs, ys, state, mask: model.rollout(params, jax.random.key(2), xs, ys, state, 1, mask))
    return model, params, run


def stream(seed: int = 0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(T, X)), jnp.float32), jnp.asarray(rng.normal(size=(T, 1)), jnp.float32)


@pytest.mark.parametrize("horizon", fast([0, 2], 2))
def test_causal_in_pieces_and_blind_to_what_is_masked(horizon: int) -> None:
    model, params, run = prepared(horizon)
    (xs, ys), mask = stream(), jnp.ones(T, bool).at[4].set(False)
    start = jax.jit(model.initial_state)(params)
    state, whole = run(xs, ys.at[4].set(jnp.nan), start, mask)
    assert np.isfinite(whole.log_prob).all() and whole.log_prob[4] == 0
    _, other = run(xs.at[9:].add(3.0), ys.at[8:].add(3.0), start, mask)
    np.testing.assert_array_equal(whole.mean[:9], other.mean[:9])
    assert not np.array_equal(whole.mean[9], other.mean[9])
    half = T // 2
    middle, first = run(xs[:half], ys.at[4].set(9.0)[:half], start, mask[:half])
    last, second = run(xs[half:], ys[half:], middle, mask[half:])
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), (whole, state), (joined, last))


@pytest.mark.parametrize("horizon", fast([0, 2], 0))
def test_the_loss_is_what_is_served(horizon: int) -> None:
    """Without ψ: attention in parallel within a band and step by step in a ring give the same scores."""
    model, params, run = prepared(horizon)
    (xs, ys), start = stream(), jax.jit(model.initial_state)(params)

    @jax.jit
    def loss(params):
        value = functools.partial(model.loss, key=jax.random.key(0), xs=xs, ys=ys, state=start)
        return jax.value_and_grad(lambda params: value(params), has_aux=True)(params)

    (value, aux), slopes = loss(params)
    assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(slopes))
    assert jax.tree.structure(aux.state) == jax.tree.structure(start)
    if not horizon:
        _, outputs = run(xs, ys, None, None)
        np.testing.assert_allclose(value, -jnp.mean(outputs.log_prob), rtol=1e-5)
        np.testing.assert_allclose(aux.reconstruction, value)


def test_sizes() -> None:
    for entry in transformer.MODELS.values():
        params = jax.eval_shape(entry.build(10, 1, 1000, **entry.options).init, jax.random.key(0))
        assert 15_000 < sum(leaf.size for leaf in jax.tree.leaves(params)) < 22_000
