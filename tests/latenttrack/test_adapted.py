"""A correction that goes on learning, against a dense filter of the same weights and against none."""

import dataclasses

import jax
import jax.numpy as jnp
import latent
import numpy as np
import pytest

import latenttrack as lt
import lowrank_filter as lf

STEPS = 40
KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def pair():
    """A latent filter, the same one corrected, parameters, a stream that the filter was not trained for."""
    plain, corrected = latent.model(), latent.model(adapt="filter")
    params = latent.params(plain)
    xs, ys = (leaf.astype(jnp.float32) for leaf in latent.stream(STEPS))
    mask = jnp.asarray(np.random.default_rng(1).uniform(size=STEPS) > 0.1)
    return plain, corrected, params, xs, ys, mask


@pytest.fixture(scope="module")
def run(pair):
    """Forty steps at a time, compiled once."""
    _, corrected, params, _, _, _ = pair
    rollout = jax.jit(corrected.rollout, static_argnames="samples")

    def pieces(xs, ys, mask, state=None):
        state, parts = corrected.initial_state(params) if state is None else state, []
        for at in range(0, len(xs), STEPS):
            piece = slice(at, at + STEPS)
            state, found = rollout(params, KEY, xs[piece], ys[piece], state, samples=latent.K, mask=mask[piece])
            parts.append(found)
        return state, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

    return pieces


def last_layer(weights, inputs):
    phi, scale = inputs
    return jnp.concatenate([phi @ weights["mean"] / scale, phi @ weights["log_variance"]], axis=1)


def test_weights_are_those_of_a_filter_beside_the_stream(pair, run):
    """By hand: rollout, residuals, one lf.update a step; then the mixture moved and widened."""
    plain, corrected, params, xs, ys, mask = pair
    mask = mask.at[2].set(False)
    state, belief = plain.initial_state(params), corrected.initial_state(params).belief
    _, outputs = run(xs, ys, mask)
    for t in range(6):
        belief = lf.predict(belief, process_noise={"mean": 1e-5, "log_variance": 1e-5})
        phi = plain.features(params, state, xs[t])
        assert phi.shape == (11,) and phi[-1] == 1
        np.testing.assert_array_equal(phi[5:10], state.summary)
        step = slice(t, t + 1)
        state, found = plain.rollout(params, KEY, xs[step], ys[step], state, latent.K, mask[step])
        mean, variance = found.mean[0], found.variance[0]
        centre, scale = mean.mean(0), jnp.sqrt(variance.mean(0) + mean.var(0))
        np.testing.assert_allclose(outputs.mean[t].mean(0), centre + phi @ belief.mean["mean"], rtol=1e-4)
        wide = jnp.exp(phi @ belief.mean["log_variance"]) * variance
        assert jnp.all(outputs.variance[t] >= wide * (1 - 1e-5)) and jnp.all(outputs.variance[t] < 1.3 * wide)
        expected = lt.metrics.nll(ys[step], outputs.mean[step], outputs.variance[step])
        np.testing.assert_allclose(-outputs.log_prob[step], expected if mask[t] else jnp.nan, rtol=1e-4)
        if mask[t]:
            target = ((ys[t] - centre) / scale)[None]
            belief, _ = lf.update(belief, last_layer, lf.HeteroscedasticGaussian(), (phi[None], scale[None]), target)


@pytest.mark.slow
def test_what_training_never_saw_is_learned(pair, run):
    """An offset and a noise three times as wide, which the filter's parameters know nothing of."""
    plain, _, params, _, _, _ = pair
    rng = np.random.default_rng(3)
    xs, seen = jnp.asarray(rng.normal(size=(600, latent.X)), jnp.float32), jnp.ones(600, bool)
    _, found = plain.rollout(params, KEY, xs, jnp.zeros((600, latent.Y)), samples=latent.K)
    # The state follows y, and predictions the state: these targets are not quite what the second rollout is away from.
    spread = jnp.sqrt(found.variance.mean(1) + found.mean.var(1))
    ys = found.mean.mean(1) + 0.5 + 3 * spread * jnp.asarray(rng.normal(size=(600, latent.Y)), jnp.float32)
    _, before = plain.rollout(params, KEY, xs, ys, samples=latent.K)
    _, after = run(xs, ys, seen)
    late = slice(300, None)
    assert jnp.mean(after.log_prob[late]) > jnp.mean(before.log_prob[late]) + 0.5
    share = jnp.mean(lt.metrics.coverage(lt.metrics.pit(ys, after.mean, after.variance)[late], 0.8))
    assert abs(share - 0.8) < 0.08


def test_intervals_hold_again_sixty_steps_after_a_level_shift(pair, run):
    """Two and a half deviations off from one step on: 80 % intervals of the filter alone hold about a tenth."""
    plain, _, params, _, _, _ = pair
    rng, shift = np.random.default_rng(4), 320
    xs, seen = jnp.asarray(rng.normal(size=(600, latent.X)), jnp.float32), jnp.ones(600, bool)
    _, found = plain.rollout(params, KEY, xs, jnp.zeros((600, latent.Y)), samples=latent.K)
    spread = jnp.sqrt(found.variance.mean(1) + found.mean.var(1))
    off = 2.5 * (jnp.arange(600) >= shift)[:, None] + jnp.asarray(rng.normal(size=(600, latent.Y)), jnp.float32)
    ys = found.mean.mean(1) + spread * off
    held = []
    for outputs in (plain.rollout(params, KEY, xs, ys, samples=latent.K)[1], run(xs, ys, seen)[1]):
        inside = lt.metrics.coverage(lt.metrics.pit(ys, outputs.mean, outputs.variance)[shift + 60 :], 0.8)
        held.append(float(jnp.mean(inside)))
    alone, corrected = held
    assert alone < 0.3 and corrected > 0.6, held


def test_what_is_not_observed_moves_nothing(pair, run):
    _, _, _, xs, ys, mask = pair
    mask = mask.at[3].set(True)
    missing, came = run(xs, ys.at[3].set(jnp.nan), mask)
    masked, outputs = run(xs, ys, mask.at[3].set(False))
    jax.tree.map(np.testing.assert_array_equal, missing, masked)
    assert came.invalid[3] and not came.invalid[4]
    assert jnp.all(jnp.isnan(outputs.log_prob) == ~mask.at[3].set(False))


@pytest.mark.slow
def test_chunks_channels_and_single_updates(pair, run):
    _, corrected, params, xs, ys, mask = pair
    last, outputs = run(xs, ys, mask)
    rollout = jax.jit(corrected.rollout, static_argnames="samples")
    state, first = rollout(params, KEY, xs[:20], ys[:20], samples=latent.K, mask=mask[:20])
    state, second = rollout(params, KEY, xs[20:], ys[20:], state, samples=latent.K, mask=mask[20:])
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)
    jax.tree.map(np.testing.assert_array_equal, (state, joined), (last, outputs))
    one = corrected.update(params, last, xs[0], ys[0], True, jnp.asarray([True, False]))
    moved = one.belief.mean["mean"] - last.belief.mean["mean"]
    assert jnp.all(moved[:, 1] == 0) and jnp.any(moved[:, 0] != 0)
    assert one.inner.step == STEPS + 1


def test_training_is_that_of_the_filter_alone(pair):
    plain, corrected, params, xs, ys, mask = pair
    jax.tree.map(np.testing.assert_array_equal, corrected.init(KEY), plain.init(KEY))
    state = corrected.initial_state(params)
    jax.tree.map(np.testing.assert_array_equal, state.inner, plain.initial_state(params))
    ours, aux = corrected.loss(params, KEY, xs, ys, state, mask)
    theirs, other = plain.loss(params, KEY, xs, ys, state.inner, mask)
    assert ours == theirs
    jax.tree.map(np.testing.assert_array_equal, aux.state.inner, other.state)
    z = jnp.ones(3)
    jax.tree.map(np.testing.assert_array_equal, corrected.generate(params, z, state), plain.generate(params, z))
    prior = corrected.predict(params, state).mean
    np.testing.assert_array_equal(prior, plain.predict(params, state.inner).mean)


@pytest.mark.slow
def test_paths_ahead_are_corrected_too(pair, run):
    plain, corrected, params, xs, ys, mask = pair
    state, _ = run(xs, ys, mask)
    weights = {**state.belief.mean, "mean": state.belief.mean["mean"].at[-1].add(jnp.asarray([3.0, -3.0]))}
    state = state._replace(belief=state.belief._replace(mean=weights))
    ahead = lt.forecast(corrected, params, KEY, state, xs[:2], samples=256, components=16)
    assert ahead.samples.shape == (256, 2, 2) and jnp.all(jnp.isfinite(ahead.samples))
    _, found = plain.rollout(params, KEY, xs[:1], ys[:1], state.inner, 512)
    moved = corrected.features(params, state, xs[0]) @ state.belief.mean["mean"]
    first = ahead.samples[:, 0]
    error = jnp.std(first, axis=0) / 16
    assert jnp.all(jnp.abs(jnp.mean(first, axis=0) - found.mean[0].mean(0) - moved) < 4 * error)
    assert jnp.all(jnp.abs(moved) > 6 * error)


def test_a_state_of_the_uncorrected_filter_is_refused(pair):
    plain, corrected, params, xs, ys, _ = pair
    with pytest.raises(TypeError, match=r"state: expected a AdaptedState.*initial_state"):
        corrected.rollout(params, KEY, xs, ys, plain.initial_state(params))
    assert dataclasses.replace(lt.Config(), adapt="filter") != lt.Config()
