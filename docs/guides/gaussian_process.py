"""Gaussian-process regression in linear time.

A Matérn process is a linear-Gaussian state-space model, so its evidence, its posterior and its forecasts cost O(T) and
not O(T³). Observations are sites: a mean and a precision, 0 where there is none, be it a gap or the future. What
follows learns length scales and noise by the evidence, fills a gap, forecasts, and draws paths.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from latenttrack import gaussian_process as gp

# Two hours' readings of a temperature: a slow wander and a faster one, noise, and times that are not regular.
T, gap, ahead = 1500, slice(700, 760), 60
random = np.random.default_rng(0)
times = np.cumsum(random.uniform(0.5, 1.5, T)).astype(np.float32)
steps = np.diff(times)
truth = gp.sample(gp.add(gp.matern(1.5, 150.0, 4.0, steps), gp.matern(0.5, 20.0, 0.5, steps)), jax.random.key(0), T)
y = truth + 0.3 * jax.random.normal(jax.random.key(1), (T,))
seen = np.ones(T, bool)
seen[gap] = seen[T - ahead :] = False


def model(logs):
    slow, size, fast, jitter, _ = jnp.exp(logs)
    return gp.add(gp.matern(1.5, slow, size, steps), gp.matern(0.5, fast, jitter, steps))


@jax.jit
def loss(logs):
    return -gp.log_prob(model(logs), y, noise=jnp.exp(logs[-1]), mask=seen) / seen.sum()


logs, optimizer = jnp.log(jnp.asarray([50.0, 1.0, 5.0, 1.0, 1.0])), optax.adam(0.1)
state, descend, before = optimizer.init(logs), jax.jit(jax.value_and_grad(loss)), loss(logs)
for _ in range(60):
    _, gradient = descend(logs)
    change, state = optimizer.update(gradient, state)
    logs = optax.apply_updates(logs, change)
print(f"nats per reading: {before:.2f}, learned {loss(logs):.2f}; noise {jnp.exp(logs[-1]) ** 0.5:.2f} (0.30)")

sites = gp.Site(jnp.where(seen, y, 0), jnp.where(seen, 1 / jnp.exp(logs[-1]), 0))
posterior = gp.posterior(model(logs), sites)
deviation = jnp.sqrt(posterior.variance)
for name, part in {"gap": gap, "future": slice(T - ahead, T)}.items():
    inside = (jnp.abs(truth - posterior.mean) < 1.645 * deviation)[part].mean()
    print(f"{name}: {inside:.0%} inside their 90 % intervals, deviation up to {deviation[part].max():.2f}")
    assert inside > 0.7

keys = jax.random.split(jax.random.key(2), 20)
paths = jax.vmap(lambda key: gp.sample(model(logs), key, T, sites=sites))(keys)
print(f"20 paths: spread {paths[:, gap].std(0).mean():.2f} in the gap, {deviation[gap].mean():.2f} by the posterior")
assert loss(logs) < before and abs(jnp.exp(logs[-1]) ** 0.5 - 0.3) < 0.05
