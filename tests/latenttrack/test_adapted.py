"""A correction that goes on learning, against a dense filter of the same weights and against none."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import latent
import numpy as np
import pytest
import scipy.stats

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


def density(y, mean, variance):
    return scipy.stats.norm.pdf(np.asarray(y), mean, np.sqrt(variance)).prod(-1).mean()


def test_a_stream_by_hand(pair, run):
    """Rollout, residuals, a filter's step; the mixture moved, widened, and mixed with the model's own by evidence."""
    plain, corrected, params, xs, ys, mask = pair
    mask = mask.at[2].set(False)
    start = corrected.initial_state(params)
    state, belief, doubt = plain.initial_state(params), start.belief, 0.5
    last, outputs = run(xs, ys, mask)

    @jax.jit
    def look(state, belief, x, y, seen):
        phi = plain.features(params, state, x)
        after, found = plain.rollout(params, KEY, x[None], y[None], state, latent.K, seen[None])
        mean, variance = found.mean[0], found.variance[0]
        scale = jnp.sqrt(variance.mean(0) + mean.var(0))
        belief = lf.predict(belief, process_noise={"mean": 1e-5, "log_variance": 1e-5})
        ahead = lf.predictive(belief, last_layer, (phi[None], scale[None]))
        return after, belief, (phi, mean, variance, scale, ahead.mean[0], jnp.diagonal(ahead.covariance[0]))

    @jax.jit
    def absorb(belief, inputs, target):
        return lf.update(belief, last_layer, lf.HeteroscedasticGaussian(), inputs, target)[0]

    for t in range(STEPS):
        after, belief, found = look(state, belief, xs[t], ys[t], mask[t])
        phi, mean, variance, scale, ahead, spread = map(np.asarray, found)
        assert phi.shape == (11,) and phi[-1] == 1
        np.testing.assert_array_equal(phi[5:10], state.summary)
        state, centre = after, mean.mean(0)
        factor = np.exp(ahead[latent.Y :] + spread[latent.Y :] / 2)
        moved = centre + phi @ np.asarray(belief.mean["mean"]) + np.sqrt(factor) * (mean - centre)
        widened = factor * variance + scale**2 * spread[: latent.Y]
        count = int(np.floor(latent.K * doubt + 0.5))
        own = np.zeros(latent.K, bool)
        own[np.argsort(-np.log(variance).sum(1))] = [i * count % latent.K < count for i in range(latent.K)]
        np.testing.assert_allclose(outputs.mean[t], np.where(own[:, None], mean, moved), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(outputs.variance[t], np.where(own[:, None], variance, widened), rtol=1e-3)
        expected = np.log(density(ys[t], outputs.mean[t], outputs.variance[t]))
        np.testing.assert_allclose(outputs.log_prob[t], expected if mask[t] else np.nan, rtol=1e-4)
        if mask[t]:
            theirs, ours = doubt * density(ys[t], mean, variance), (1 - doubt) * density(ys[t], moved, widened)
            doubt = theirs / (theirs + ours)
            belief = absorb(belief, (phi[None], scale[None]), ((np.asarray(ys[t]) - centre) / scale)[None])
        doubt = 1 / 16 + (1 - 2 / 16) * doubt
    np.testing.assert_allclose(last.doubt, doubt, rtol=1e-2)


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


@pytest.fixture(scope="module")
def beside_its_own():
    """log p of a fixed mixture with heavy tails, by itself and corrected: y [R, 600] → twice that."""
    count = 16
    scales = jnp.asarray(np.sqrt(3 / scipy.stats.chi2.ppf(1 - (np.arange(count) + 0.5) / count, 3)), jnp.float32)

    def rollout(params, key, xs, ys, state=None, samples=32, mask=None):
        mean = jnp.zeros((len(ys), count, 1))
        variance = jnp.broadcast_to(scales[:, None] ** 2, mean.shape)
        return state, lt.Outputs(mean, variance, -lt.metrics.nll(ys, mean, variance))

    def nothing(*_):
        return jnp.zeros(())

    fixed = lt.Adapted(nothing, nothing, rollout, nothing)
    corrected = lt.adapted(fixed, lambda params, state, x: jnp.ones(1), width=1, y_dim=1)

    def score(model, y):
        return model.rollout(0.0, KEY, jnp.zeros((len(y), 0)), y[:, None], model.initial_state(0.0))[1].log_prob

    def noise(runs):
        rng = np.random.default_rng(2)
        return np.asarray(scales)[rng.integers(0, count, (runs, 600))] * rng.normal(size=(runs, 600))

    return noise, jax.jit(lambda ys: [jax.vmap(functools.partial(score, model))(ys) for model in (fixed, corrected)])


STREAMS = {
    "as trained": lambda noise, t: noise,
    "outliers where it is calm": lambda noise, t: noise / 2 + 16 * (t % 150 == 149),
    "a jump and back": lambda noise, t: noise + 6 * ((t >= 300) & (t < 340)),
    "a jump": lambda noise, t: noise + 6 * (t >= 300),
    "a slow drift": lambda noise, t: noise + 3 * np.clip((t - 150) / 300, 0, 1),
    "wider": lambda noise, t: noise * np.where(t >= 300, 3, 1),
    "narrower": lambda noise, t: noise * np.where(t >= 300, 1 / 3, 1),
}


@pytest.mark.slow
def test_a_correction_never_costs_more_than_three_nats(beside_its_own):
    """At no time of 56 streams. One that is not mixed with the model's own costs up to 21 at an outlier."""
    noise, scores = beside_its_own
    t, runs = np.arange(600), 8
    alone, corrected = (
        np.asarray(found, np.float64).reshape(len(STREAMS), runs, 600)
        for found in scores(
            jnp.asarray(np.concatenate([made(noise(runs), t) for made in STREAMS.values()]), jnp.float32)
        )
    )
    cost = np.cumsum(alone - corrected, axis=-1)
    windows = cost[..., 24:] - cost[..., :-24]
    assert cost.max() < 3 and windows.max() < 3, (cost.max(), windows.max())
    late = dict(zip(STREAMS, (corrected - alone)[..., 450:].mean((1, 2)), strict=True))
    assert abs(late["as trained"]) < 0.01
    assert all(late[name] > 0.1 for name in ("outliers where it is calm", "a jump", "wider", "narrower")), late
    assert late["a slow drift"] > 0.1


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
    assert jnp.max(jnp.abs(moved[:, 1])) < 1e-6 * jnp.max(jnp.abs(moved[:, 0]))  # rounding: all weights are one array
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
    state = state._replace(belief=state.belief._replace(mean=weights), doubt=jnp.float32(1 / 16))
    ahead = lt.forecast(corrected, params, KEY, state, xs[:2], samples=256, components=16)
    assert ahead.samples.shape == (256, 2, 2) and jnp.all(jnp.isfinite(ahead.samples))
    _, found = plain.rollout(params, KEY, xs[:1], ys[:1], state.inner, 512)
    moved = 15 / 16 * corrected.features(params, state, xs[0]) @ state.belief.mean["mean"]  # one is the model's own
    first = ahead.samples[:, 0]
    error = jnp.std(first, axis=0) / 16
    assert jnp.all(jnp.abs(jnp.mean(first, axis=0) - found.mean[0].mean(0) - moved) < 4 * error)
    assert jnp.all(jnp.abs(moved) > 6 * error)


def test_a_state_of_the_uncorrected_filter_is_refused(pair):
    plain, corrected, params, xs, ys, _ = pair
    with pytest.raises(TypeError, match=r"state: expected an AdaptedState.*initial_state"):
        corrected.rollout(params, KEY, xs, ys, plain.initial_state(params))
    assert dataclasses.replace(lt.Config(), adapt="filter") != lt.Config()


def test_features_of_another_width_are_refused(pair):
    plain, _, params, xs, ys, _ = pair
    corrected = lt.adapted(plain, lambda params, state, x: jnp.ones(2), width=5, y_dim=ys.shape[1])
    with pytest.raises(ValueError, match=r"features: expected shape \(5,\), got \(2,\); return as many .* width"):
        corrected.rollout(params, KEY, xs, ys)
