"""A bandit with Thompson sampling.

A network maps a context to the value of each arm, and only the pulled arm's reward is seen. Thompson sampling draws
one set of weights from the belief and pulls the arm that is best under it: arms whose value is uncertain are tried,
and no longer when the belief has narrowed. The observed value is picked inside `apply_fn`, whose input is a pair
(context, arm): any pytree with a leading axis of examples will do. The whole run is one `lax.scan`, and several runs
are a `vmap`.
"""

import jax
import jax.numpy as jnp

import lowrank_filter as lf

ARMS, FEATURES, STEPS, NOISE = 4, 5, 300, 0.1
HIDDEN = 1.5 * jax.random.normal(jax.random.key(0), (FEATURES, ARMS)) / FEATURES**0.5


def values(params, context):
    return jnp.tanh(context @ params["w1"] + params["b1"]) @ params["w2"]


def observed(params, x):
    context, arm = x
    return jnp.take_along_axis(values(params, context), arm[:, None], axis=1)


def step(belief, key):
    context_key, draw_key, noise_key = jax.random.split(key, 3)
    context = jax.random.normal(context_key, (1, FEATURES))
    truth = jnp.sin(context @ HIDDEN)
    drawn = jax.tree.map(lambda leaf: leaf[0], lf.sample(draw_key, belief, 1))
    arm = jnp.argmax(values(drawn, context), axis=1)
    reward = truth[0, arm] + NOISE * jax.random.normal(noise_key, (1,))
    belief, _ = lf.update(belief, observed, lf.Gaussian(0.03), (context, arm), reward, process_noise=1e-6)
    return belief, (truth.max() - truth[0, arm[0]], truth.max() - truth.mean())


@jax.jit
@jax.vmap
def run(key):
    first, second, key = jax.random.split(key, 3)
    params = {
        "w1": jax.random.normal(first, (FEATURES, 20)) / jnp.sqrt(FEATURES),
        "b1": jnp.zeros(20),
        "w2": jax.random.normal(second, (20, ARMS)) / jnp.sqrt(20),
    }
    prior = lf.init(params, {"w1": FEATURES, "b1": 1.0, "w2": 20.0}, rank=10)
    _, regrets = jax.lax.scan(step, prior, jax.random.split(key, STEPS))
    return regrets


regret, by_chance = run(jax.random.split(jax.random.key(1), 4))
late = regret[:, -100:].mean()
print(f"regret a step: {regret[:, :100].mean():.2f} at first, {late:.2f} at the end, {by_chance.mean():.2f} by chance")
assert late < 0.4 * by_chance.mean()
