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
    warmup: float = 0.4


@functools.partial(jax.jit, static_argnums=(0, 1))
def train(model: Language, budget: Budget, key: Array, tokens: Array, learning_rate: Array) -> tuple[Any, Array]:
    """Parameters after the last step, and the loss of each step. A gradient that is not finite changes nothing."""
    first, rest = jax.random.split(key)
    # Compiled once for all learning rates.
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(b2=0.99))
    params = model.init(first)
    mean = jax.vmap(model.loss, (None, 0, 0, None))

    def body(carry: tuple, step: Array) -> tuple[tuple, Array]:
        params, state = carry
        drawing, noise = jax.random.split(jax.random.fold_in(rest, step))
        starts = jax.random.randint(drawing, (budget.batch,), 0, len(tokens) - budget.window)
        batch = tokens[starts[:, None] + jnp.arange(budget.window)]
        beta = jnp.minimum(1.0, (step + 1) / (budget.warmup * budget.steps))
        keys = jax.random.split(noise, budget.batch)
        loss, gradient = jax.value_and_grad(lambda params: mean(params, keys, batch, beta).mean())(params)
        change, after = optimizer.update(gradient, state, params)
        done = step / budget.steps
        rate = learning_rate * jnp.minimum(1.0, 20 * done + 0.05) * (0.505 + 0.495 * jnp.cos(jnp.pi * done))
        moved = optax.apply_updates(params, jax.tree.map(lambda leaf: -rate * leaf, change))
        finite = jnp.isfinite(optax.global_norm(gradient))
        return jax.tree.map(lambda a, b: jnp.where(finite, a, b), (moved, after), carry), loss

    (params, _), losses = jax.lax.scan(body, (params, optimizer.init(params)), jnp.arange(budget.steps))
    return params, losses


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
        params, _ = train(model, budget, jax.random.key(1000), tokens, jnp.asarray(rate))
        scores.append(float(validation(model, params, windows)))
    return rates[int(np.argmin(np.where(np.isfinite(scores), scores, np.inf)))]
