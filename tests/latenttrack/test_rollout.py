"""Rollouts: chunks, causality, missing observations, forecasts."""

import functools

import jax
import jax.numpy as jnp
import latent
import numpy as np
import pytest
from suites import fast

import latenttrack as lt

STEPS = 300
TRANSITIONS = fast(latent.TRANSITIONS, "structured")


@functools.cache
def compiled(transition):
    return jax.jit(latent.model(transition).rollout, static_argnames="samples")


@functools.cache
def whole(transition):
    params = latent.params(latent.model(transition))
    xs, ys = (leaf.astype(jnp.float32) for leaf in latent.stream(STEPS))
    mask = jnp.asarray(np.random.default_rng(1).uniform(size=STEPS) > 0.1)
    return params, xs, ys, mask, compiled(transition)(params, jax.random.key(5), xs, ys, samples=latent.K, mask=mask)


@pytest.mark.parametrize("transition", TRANSITIONS)
@pytest.mark.parametrize("chunk", fast([1, 7, 256], 7))
def test_chunks_are_one_piece_bit_for_bit(transition, chunk):
    params, xs, ys, mask, (last, outputs) = whole(transition)
    state, parts = None, []
    steps = STEPS if chunk > 1 else 64
    for at in range(0, steps, chunk):
        part = slice(at, min(at + chunk, steps))
        state, came = compiled(transition)(
            params, jax.random.key(5), xs[part], ys[part], state, samples=latent.K, mask=mask[part]
        )
        parts.append(came)
    for joined, expected in zip(jax.tree.map(lambda *a: jnp.concatenate(a), *parts), outputs, strict=True):
        np.testing.assert_array_equal(joined, expected[:steps])
    if steps == STEPS:
        jax.tree.map(np.testing.assert_array_equal, state, last)


def predictions(transition, xs, ys):
    params, _, _, mask, _ = whole(transition)
    return compiled(transition)(params, jax.random.key(5), xs, ys, samples=latent.K, mask=mask)[1]


@pytest.mark.parametrize("transition", TRANSITIONS)
def test_no_prediction_sees_its_target_or_anything_later(transition):
    _, xs, ys, mask, (_, outputs) = whole(transition)
    t = 100
    assert mask[t]
    rng = np.random.default_rng(2)
    later_x = xs.at[t + 1 :].set(rng.normal(size=(STEPS - t - 1, latent.X)))
    later_y = ys.at[t:].set(rng.normal(size=(STEPS - t, latent.Y)))
    came = predictions(transition, later_x, later_y)
    for name in ("mean", "variance"):
        np.testing.assert_array_equal(getattr(came, name)[: t + 1], getattr(outputs, name)[: t + 1])
    np.testing.assert_array_equal(came.log_prob[:t], outputs.log_prob[:t])
    only_y = predictions(transition, xs, ys.at[t].add(1.0))
    assert jnp.all(only_y.mean[t + 1] != outputs.mean[t + 1])  # and it is seen right after
    assert only_y.log_prob[t] != outputs.log_prob[t]


@pytest.mark.parametrize("transition", TRANSITIONS)
def test_no_prediction_sees_a_later_input(transition):
    _, xs, ys, _, (_, outputs) = whole(transition)
    t = 100
    came = predictions(transition, xs.at[t].add(1.0), ys)
    for a, b in zip(came, outputs, strict=True):
        np.testing.assert_array_equal(a[:t], b[:t])
    assert jnp.all(came.mean[t] != outputs.mean[t])


@pytest.mark.parametrize("transition", TRANSITIONS)
def test_a_missing_observation_leaves_the_summary_and_widens_the_prior(transition):
    model = latent.model(transition)
    for params in (model.init(jax.random.key(0)), latent.params(model, 1)):
        xs, ys = (leaf.astype(jnp.float32) for leaf in latent.stream(9))
        state = model.initial_state(params)
        for t in range(4):
            state = model.update(params, state, xs[t], ys[t], mask=True)
        before = model.predict(params, state)
        for t in range(4, 9):
            after = model.update(params, state, xs[t], jnp.full(latent.Y, jnp.nan), mask=False)
            np.testing.assert_array_equal(after.summary, state.summary)
            prior = model.predict(params, after)
            assert jnp.trace(prior.covariance) > jnp.trace(before.covariance)
            state, before = after, prior
        assert state.missed == 5 and state.step == 9


def test_all_seen_is_no_mask():
    model = latent.model()
    params, xs, ys, _, _ = whole("structured")
    state, _ = compiled("structured")(params, jax.random.key(0), xs, ys, samples=latent.K)
    other, _ = compiled("structured")(params, jax.random.key(0), xs, ys, samples=latent.K, mask=jnp.ones(STEPS, bool))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state, other)
    assert model.rollout is latent.model().rollout


def test_a_step_without_a_target_has_no_score():
    params, xs, ys, mask, (_, outputs) = whole("structured")
    np.testing.assert_array_equal(jnp.isnan(outputs.log_prob), ~mask)
    lost = jnp.argmax(mask)
    _, came = compiled("structured")(
        params, jax.random.key(5), xs, ys.at[lost].set(jnp.nan), samples=latent.K, mask=mask
    )
    assert came.invalid[lost] and jnp.sum(came.invalid) == 1
    np.testing.assert_array_equal(jnp.isnan(came.log_prob), ~mask | came.invalid)
    found = lt.metrics.summary(came, ys, mask)
    seen = mask & ~came.invalid
    np.testing.assert_allclose(found.nll, -jnp.mean(came.log_prob[seen]), rtol=1e-5)
    np.testing.assert_allclose(found.max_nll, -jnp.min(came.log_prob[seen]), rtol=1e-6)
