"""Training of several seeds side by side: AdamW, a cosine from a peak after a warm-up, one compilation a method."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

import latenttrack as lt
from experiments.worlds import methods
from experiments.worlds.methods import Method


class Budget(NamedTuple):
    """Of every training; sequences begin with so many tokens that are given."""

    steps: int
    batch: int
    prompt: int = 0


def optimizer(rate: Array, steps: int) -> optax.GradientTransformation:
    """AdamW with β = .9, .95, as published."""
    shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, max(steps // 20, 1), steps, 0.01)
    descent = optax.adamw(lambda count: rate * shape(count), 0.9, 0.95, weight_decay=1e-2)
    return optax.chain(optax.clip_by_global_norm(1.0), descent)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def fit(
    model: Any, method: Method, budget: Budget, keys: Array, tokens: Array, rate: Array, weight: Array
) -> lt.NextLatParams:
    """The parameters of each seed [S, …], from its key [S] and its sequences [S, N, T]."""
    dynamics = lt.LatentDynamics(model.config.width, method.normalize)

    def one(key: Array, tokens: Array) -> lt.NextLatParams:
        first, second, third, order, again = jax.random.split(key, 5)
        params: Any = lt.NextLatParams(model.init(first), dynamics.init(second))
        if method.heads > 1:
            shape = (method.heads - 1, model.config.width, model.vocabulary)
            params = params.model, jax.nn.initializers.lecun_normal()(third, shape)

        def objective(params: Any, batch: Array) -> Array:
            return methods.loss(model, method, weight, params, batch, budget.prompt)

        trained = _descend(objective, params, tokens, order, rate, budget)
        if method.heads > 1:
            return lt.NextLatParams(trained[0], dynamics.init(second))
        if not method.afterwards:
            return trained

        def later(of_dynamics: Any, batch: Array) -> Array:
            pair = trained.model, of_dynamics
            options = {"horizon": method.horizon, "latent": weight, "divergence": weight, "detach": True}
            masked = methods.asked(batch, budget.prompt)
            return lt.nextlat_loss(model, dynamics, pair, batch, token_mask=masked, **options)[0]

        return lt.NextLatParams(trained.model, _descend(later, trained.dynamics, tokens, again, rate, budget))

    if jax.default_backend() == "cpu":  # small products run faster one after the other there
        return jax.lax.map(lambda seed: one(*seed), (keys, tokens))
    return jax.vmap(one)(keys, tokens)


def _descend(objective: Any, params: Any, tokens: Array, key: Array, rate: Array, budget: Budget) -> Any:
    made = optimizer(rate, budget.steps)

    def step(carry: tuple, index: Array) -> tuple[tuple, None]:
        params, state = carry
        rows = jax.random.randint(jax.random.fold_in(key, index), (budget.batch,), 0, len(tokens))
        changes, state = made.update(jax.grad(objective)(params, tokens[rows]), state, params)
        return (optax.apply_updates(params, changes), state), None

    return jax.lax.scan(step, (params, made.init(params)), jnp.arange(budget.steps))[0][0]
