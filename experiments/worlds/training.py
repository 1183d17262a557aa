"""Training of several seeds: AdamW, a cosine from a peak after a warm-up, one compilation a method."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

import latenttrack as lt
from experiments.worlds import methods
from experiments.worlds.methods import Method


class Start(NamedTuple):
    """Of each seed: parameters before training, sequences, and which of them each step takes.

    Attributes:
        params: as the method has them, [S, …].
        tokens: [S, N, T].
        rows: [S, steps, batch].
    """

    params: Any
    tokens: Int[Array, "S N T"]
    rows: Int[Array, "S steps batch"]

    def first(self, seeds: int) -> "Start":
        """The first so many seeds."""
        return jax.tree.map(lambda leaf: leaf[:seeds], self)


def start(model: Any, method: Method, seeds: int, tokens: Int[Array, "S N T"], steps: int, batch: int) -> Start:
    """Methods of one model have the same weights to start from, and see the same sequences in the same order."""
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    first, second, third, order = jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 4))(keys), 1, 0)
    rows = jax.vmap(lambda key: jax.random.randint(key, (steps, batch), 0, tokens.shape[1]))(order)
    of_model = jax.vmap(model.init)(first)
    if method.heads > 1:
        shape = (method.heads - 1, model.config.width, model.vocabulary)
        return Start(
            (of_model, jax.vmap(lambda key: jax.nn.initializers.lecun_normal()(key, shape))(third)), tokens, rows
        )
    dynamics = lt.LatentDynamics(model.config.width, method.normalize)
    return Start(lt.NextLatParams(of_model, jax.vmap(dynamics.init)(second)), tokens, rows)


def fit(model: Any, method: Method, prompt: int, begin: Start, steps: int, rate: float, weight: float) -> Any:
    """The parameters of each seed after so many of its steps."""
    settings = jnp.asarray(steps), jnp.asarray(rate), jnp.asarray(weight)
    if jax.default_backend() == "cpu":  # small products run faster one after the other there
        each = [
            _fit(model, method, prompt, jax.tree.map(lambda leaf, seed=seed: leaf[seed], begin), *settings)
            for seed in range(len(begin.rows))
        ]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    return jax.vmap(lambda seed: _fit(model, method, prompt, seed, *settings))(begin)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _fit(model: Any, method: Method, prompt: int, begin: Start, steps: Array, rate: Array, weight: Array) -> Any:
    """Of one seed."""

    def objective(params: Any, tokens: Array) -> Array:
        if not method.afterwards:
            return methods.loss(model, method, weight, params, tokens, prompt)
        pair = jax.lax.stop_gradient(begin.params.model), params
        dynamics = lt.LatentDynamics(model.config.width, method.normalize)
        options: dict[str, Any] = {"horizon": method.horizon, "latent": weight, "divergence": weight, "detach": True}
        masked = methods.asked(tokens, prompt)
        return lt.nextlat_loss(model, dynamics, pair, tokens, token_mask=masked, **options)[0]

    made = optimizer(rate, steps)

    def step(index: Array, carry: tuple) -> tuple:
        params, state = carry
        changes, state = made.update(jax.grad(objective)(params, begin.tokens[begin.rows[index]]), state, params)
        return optax.apply_updates(params, changes), state

    free = begin.params.dynamics if method.afterwards else begin.params
    trained = jax.lax.fori_loop(0, steps, step, (free, made.init(free)))[0]
    return begin.params._replace(dynamics=trained) if method.afterwards else trained


def optimizer(rate: Array, steps: Array) -> optax.GradientTransformation:
    """AdamW with β = .9, .95, as published."""

    def schedule(count: Any) -> Any:
        """To the peak in a twentieth of the steps, then down to a hundredth of it along a cosine."""
        warm = jnp.maximum(steps // 20, 1)
        after = jnp.clip((count - warm) / jnp.maximum(steps - warm, 1), 0, 1)
        return rate * jnp.where(count < warm, count / warm, 0.01 + 0.99 * 0.5 * (1 + jnp.cos(jnp.pi * after)))

    descent = optax.adamw(schedule, 0.9, 0.95, weight_decay=1e-2)
    return optax.chain(optax.clip_by_global_norm(1.0), descent)
