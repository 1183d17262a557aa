"""Training on random windows: Adam, one schedule and one search of its learning rate for all models."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from experiments.language.models import Language


class Budget(NamedTuple):
    """Steps of so many windows each; the divergence's weight rises over the first part of the steps."""

    steps: int
    batch: int
    window: int
    warmup: float = 0.2


def train(model: Language, budget: Budget, key: Array, tokens: Array, learning_rate: float) -> Any:
    """Parameters after the last step. A gradient that is not finite changes nothing."""
    batch, window = budget.batch, budget.window
    return _train(model, batch, window, key, tokens, float(budget.steps), budget.warmup, learning_rate)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _train(
    model: Language,
    batch: int,
    window: int,
    key: Array,
    tokens: Array,
    steps: Array,
    warmup: Array,
    learning_rate: Array,
) -> Any:
    """Compiled once for all learning rates and numbers of steps."""
    first, rest = jax.random.split(key)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(b2=0.99))
    params = model.init(first)
    mean = jax.vmap(model.loss, (None, 0, 0, None))

    def body(step: Array, carry: tuple) -> tuple:
        params, state = carry
        drawing, noise = jax.random.split(jax.random.fold_in(rest, step))
        starts = jax.random.randint(drawing, (batch,), 0, len(tokens) - window)
        chosen = tokens[starts[:, None] + jnp.arange(window)]
        beta = jnp.minimum(1.0, (step + 1) / (warmup * steps))
        keys = jax.random.split(noise, batch)
        gradient = jax.grad(lambda params: mean(params, keys, chosen, beta).mean())(params)
        change, after = optimizer.update(gradient, state, params)
        done = step / steps
        rate = learning_rate * jnp.minimum(1.0, 20 * done + 0.05) * (0.505 + 0.495 * jnp.cos(jnp.pi * done))
        moved = optax.apply_updates(params, jax.tree.map(lambda leaf: -rate * leaf, change))
        finite = jnp.isfinite(optax.tree.norm(gradient))
        return jax.tree.map(lambda a, b: jnp.where(finite, a, b), (moved, after), carry)

    return jax.lax.fori_loop(0, jnp.asarray(steps, int), body, (params, optimizer.init(params)))[0]


@functools.partial(jax.jit, static_argnums=0)
def validation(model: Language, params: Any, windows: Array) -> Array:
    """The objective at full weight of the divergence, in nats per token."""
    keys = jax.random.split(jax.random.key(0), len(windows))
    one = jnp.ones(())
    return jax.lax.map(lambda pair: model.loss(params, *pair, one), (keys, windows)).mean()


def search(model: Language, budget: Budget, tokens: Array, windows: Array, rates: tuple[float, ...]) -> float:
    """The learning rate of the least validation loss after a training of its own, seed 0; what diverges loses."""
    if len(rates) == 1:
        return rates[0]
    scores = []
    for rate in rates:
        params = train(model, budget, jax.random.key(1000), tokens, rate)
        scores.append(float(validation(model, params, windows)))
    return rates[int(np.argmin(np.where(np.isfinite(scores), scores, np.inf)))]
