"""Dropout in training and in prediction: MC-dropout."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from experiments.streaming.models import parts
from experiments.streaming.models.entry import Entry
from experiments.streaming.models.memoryless import memoryless, nll
from experiments.streaming.models.parts import Layer, StreamFunctions


@functools.lru_cache
def build(
    x_dim: int,
    y_dim: int,
    *,
    hidden: Sequence[int] = (128, 128),
    rate: float = 0.05,
    floor: float = parts.FLOOR,
) -> StreamFunctions:
    """Dropout after each hidden layer, in training and in prediction (Gal and Ghahramani 2016)."""

    def init(key: Array) -> Any:
        return parts.layers(key, (x_dim, *hidden, 2 * y_dim))

    def outputs(params: Sequence[Layer], key: Array, x: Array) -> Array:
        for number, layer in enumerate(params[:-1]):
            x = jnp.tanh(x @ layer.weight + layer.bias)
            kept = jax.random.bernoulli(jax.random.fold_in(key, number), 1 - rate, x.shape)
            x = jnp.where(kept, x / (1 - rate), 0)
        return x @ params[-1].weight + params[-1].bias

    def components(params: Any, key: Array, xs: Array, steps: Array, samples: int) -> tuple[Array, Array]:
        def one(inputs: tuple[Array, Array]) -> Array:
            x, step = inputs
            keys = jax.random.split(jax.random.fold_in(key, step), samples)
            return jax.vmap(lambda k: outputs(params, k, x))(keys)

        return parts.head(jax.lax.map(one, (xs, steps), batch_size=min(64, len(xs))), floor)

    def loss(params: Any, key: Array, xs: Array, ys: Array, share: Array) -> tuple[Array, Array]:
        return nll(outputs(params, key, xs), ys, share, floor), jnp.zeros(())

    return memoryless(init, components, loss)


MODELS = {"mc_dropout": Entry(lambda x, y, _, **sizes: build(x, y, **sizes))}
