"""Forecasts: the distribution of ancestral sampling, one step a rollout's mixture, intervals that hold ahead."""

import functools

import jax
import jax.numpy as jnp
import latent
import numpy as np
import pytest
import scoringrules
from suites import fast

import latenttrack as lt

AHEAD = 4
forecast = jax.jit(lt.forecast, static_argnums=0, static_argnames=("samples", "components", "y_dim"))


@functools.cache
def started(transition="structured"):
    """A model, its parameters, its state after a stream, and the next inputs."""
    model = latent.model(transition)
    params = latent.params(model)
    xs, ys = (leaf.astype(jnp.float32) for leaf in latent.stream(latent.T + AHEAD))
    state, _ = jax.jit(model.rollout)(params, jax.random.key(5), xs[: latent.T], ys[: latent.T])
    return model, params, state, xs[latent.T :]


def ancestral(model, params, state, xs, paths, seed=0):
    """By the kernels, one z a step: predict, generate, emit, y, update; z exactly from the prior."""

    def one(key):
        def step(after, inputs):
            x, k = inputs
            prior = model.predict(params, after)
            first, second = jax.random.split(k)
            z = jax.random.multivariate_normal(first, prior.mean, prior.covariance)
            mean, variance = model.emit(model.generate(params, z, after), x)
            y = mean + jnp.sqrt(variance) * jax.random.normal(second, mean.shape)
            return model.update(params, after, x, y), y

        return jax.lax.scan(step, state, (xs, jax.random.split(key, len(xs))))[1]

    return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(seed), paths))


def energy_distance(first, second):
    """E‖X − Y‖ − ½E‖X − X'‖ − ½E‖Y − Y'‖, unbiased: about 0 for two samples of one distribution."""
    first, second = (np.asarray(leaf, np.float64).reshape(len(leaf), -1) for leaf in (first, second))

    def between(a, b):
        return np.sqrt(np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0))

    inside = sum(between(a, a).sum() / (len(a) * (len(a) - 1)) for a in (first, second))
    return between(first, second).mean() - 0.5 * inside


@pytest.mark.parametrize("transition", fast(latent.TRANSITIONS, "structured"))
def test_paths_have_the_distribution_of_ancestral_sampling(transition):
    model, params, state, xs = started(transition)
    came = forecast(model, params, jax.random.key(1), state, xs, samples=600).samples
    first, second = (ancestral(model, params, state, xs, 600, seed) for seed in (2, 3))
    assert came.shape == (600, AHEAD, latent.Y)
    pooled = np.concatenate([came, first])
    rng = np.random.default_rng(0)
    null = []
    for _ in range(50):  # what two halves of one sample differ by
        order = rng.permutation(len(pooled))
        null.append(energy_distance(pooled[order[:600]], pooled[order[600:]]))
    assert energy_distance(came, first) < np.quantile(null, 0.98)
    assert energy_distance(first, second) < max(null)
    # It sees a summary that is held fixed: paths without feedback.
    unseen = {"samples": 600, "mask": jnp.zeros(AHEAD, bool)}
    held = jax.jit(functools.partial(model.rollout, **unseen))
    masked = held(params, jax.random.key(4), xs, jnp.zeros((AHEAD, latent.Y)), state)[1]
    noise = rng.normal(size=masked.mean.shape)
    frozen = np.swapaxes(masked.mean + np.sqrt(masked.variance) * noise, 0, 1)
    assert energy_distance(frozen, first) > max(null)


@pytest.mark.parametrize("points", fast(["random", "fixed"], "fixed"))
def test_one_step_is_the_mixture_of_a_rollout(points):
    model = latent.model(points=points)
    params = latent.params(model)
    _, _, state, xs = started()
    paths = forecast(model, params, jax.random.key(1), state, xs[:1], samples=20_000, components=latent.K).samples
    key = jax.random.key(3)
    rolled = jax.jit(model.rollout, static_argnames="samples")
    count = latent.K if points == "fixed" else 20_000  # random points: another mixture each time, on average the prior
    _, mixture = rolled(params, key, xs[:1], jnp.zeros((1, latent.Y)), state, samples=count, mask=jnp.zeros(1, bool))
    levels = np.arange(1, 20) / 20
    expected = np.asarray(lt.metrics.quantile(mixture.mean, mixture.variance, levels)[:, 0])
    below = np.mean(np.asarray(paths)[None, :, 0] <= expected[:, None], axis=1)
    assert np.abs(below - levels[:, None]).max() < 4 * (0.25 / 20_000) ** 0.5 * (1 if points == "fixed" else 2**0.5)


def test_quantiles_intervals_mean_and_crps_are_those_of_the_paths():
    rng = np.random.default_rng(0)
    paths, y = rng.normal(size=(2, 50, 4, 3)).astype(np.float32), rng.normal(size=(2, 4, 3)).astype(np.float32)
    ahead = lt.Forecast(jnp.asarray(paths))
    np.testing.assert_allclose(
        ahead.quantile(0.3), np.quantile(paths, 0.3, axis=1, method="weibull"), rtol=1e-4, atol=1e-6
    )
    assert ahead.quantile(jnp.asarray([0.1, 0.5, 0.9])).shape == (3, 2, 4, 3)
    lower, upper = ahead.interval(0.8)
    np.testing.assert_allclose(lower, np.quantile(paths, 0.1, axis=1, method="weibull"), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(upper, np.quantile(paths, 0.9, axis=1, method="weibull"), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ahead.mean(), paths.mean(1), rtol=1e-4, atol=1e-6)
    expected = scoringrules.crps_ensemble(y, np.moveaxis(paths, 1, -1), estimator="nrg")
    np.testing.assert_allclose(ahead.crps(jnp.asarray(y)), expected, rtol=1e-4, atol=1e-6)
    alone = jax.vmap(lambda s, y: lt.Forecast(s).crps(y))(ahead.samples, jnp.asarray(y))
    np.testing.assert_allclose(alone, expected, rtol=1e-4, atol=1e-6)


def test_any_model_of_a_stream_is_sampled_and_needs_its_width():
    class Walk:
        """y_t = y_{t−1} + N(0, 1); nothing but the four functions."""

        def rollout(self, params, key, xs, ys, state=None, samples=32, mask=None):
            def body(last, inputs):
                _, y, seen = inputs
                after = jnp.where(seen, y, last)
                return after, lt.Outputs(last[None], jnp.ones((1, 1)), jnp.zeros(()))

            seen = jnp.ones(len(xs), bool) if mask is None else mask
            return jax.lax.scan(body, state, (xs, ys, seen))

        init = initial_state = loss = lambda *_: None

    ahead = lt.forecast(Walk(), {}, jax.random.key(0), jnp.zeros(1), jnp.zeros((9, 0)), samples=4000, y_dim=1)
    np.testing.assert_allclose(jnp.var(ahead.samples[:, :, 0], axis=0), np.arange(1, 10), rtol=0.1)


@pytest.mark.slow
def test_a_seed_a_lane():
    model, params, state, xs = started()
    keys = jax.random.split(jax.random.key(0), 2)
    together = jax.jit(jax.vmap(lambda key: lt.forecast(model, params, key, state, xs, samples=5)))(keys)
    for lane, key in zip(together.samples, keys, strict=True):
        alone = forecast(model, params, key, state, xs, samples=5).samples
        np.testing.assert_allclose(lane, alone, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(lt.forecast(model, params, keys[0], state, xs, samples=5).samples, together.samples[0],
                               rtol=1e-4, atol=1e-5)  # fmt: skip


DAY = 12


@functools.cache
def trained():
    """A season and a slow level, of which the inputs tell the season's phase alone."""
    rng = np.random.default_rng(0)
    steps = 3000
    phase = 2 * np.pi * np.arange(steps) / DAY
    level = np.zeros(steps)
    for t in range(1, steps):
        level[t] = 0.9 * level[t - 1] + 0.3 * rng.normal()
    xs = jnp.asarray(np.stack([np.sin(phase), np.cos(phase)], 1), jnp.float32)
    ys = jnp.asarray((level + np.sin(phase))[:, None], jnp.float32)
    model = lt.build(lt.Config(latent_dim=3, hidden_dim=12, prior_samples=16), 2, 1)
    options = {"updates": 250, "evaluate_every": 250, "window": 64, "learning_rate": 1e-2, "warmup": 20}
    fit = lt.fit(model, jax.random.key(0), xs[:2000], ys[:2000], **options, windows="vmap")
    return model, fit.params, xs, ys


@pytest.mark.slow
def test_intervals_hold_at_every_horizon_and_grow():
    model, params, xs, ys = trained()
    days = 80
    state, _ = jax.jit(model.rollout)(params, jax.random.key(1), xs[:2000], ys[:2000])
    cut = slice(2000, 2000 + days * DAY)
    keys = jax.random.split(jax.random.key(2), days)

    def advance(state, day):
        inputs, targets, key = day
        ahead = lt.forecast(model, params, key, state, inputs, samples=100, components=16)
        return model.rollout(params, key, inputs, targets, state)[0], ahead.interval(0.8)

    daily = xs[cut].reshape(days, DAY, 2), ys[cut].reshape(days, DAY, 1)
    _, ends = jax.jit(lambda s, d: jax.lax.scan(advance, s, d))(state, (*daily, keys))
    shares = lt.metrics.horizon_coverage(daily[1], *ends)[:, 0]
    assert jnp.all(jnp.abs(shares - 0.8) < 4 * (0.8 * 0.2 / days) ** 0.5), shares
    assert abs(float(shares.mean()) - 0.8) < 0.06
    widths = jnp.mean(ends[1] - ends[0], axis=0)[:, 0]
    assert widths[-1] > 1.5 * widths[0]
    # A stationary spread of .3 / √(1 − .81): the width at the end is that of the process, not of a frozen summary.
    np.testing.assert_allclose(widths[-1], 2 * 1.2816 * 0.3 / 0.19**0.5, rtol=0.25)


def test_missed_steps_of_an_expanding_transition_stay_finite():
    model = latent.model()
    params = {**latent.params(model)}
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    params["matrix"] = jnp.asarray(1.5 * rotation @ np.diag([1.0, 0.2, 0.01]) @ rotation.T, jnp.float32)
    _, _, state, _ = started()
    wait = jax.jit(lambda s: model.update(params, s, jnp.zeros(latent.X), jnp.zeros(latent.Y), mask=False))
    for _ in range(24):
        before = model.predict(params, state)
        state = wait(state)
        assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state))
        np.testing.assert_allclose(state.root @ state.root.T, before.covariance, rtol=1e-4, atol=1e-5 * float(
            jnp.max(jnp.abs(before.covariance))))  # fmt: skip
    assert jnp.all(jnp.triu(state.root, 1) == 0) and jnp.all(jnp.diag(state.root) > 0)
