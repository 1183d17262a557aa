"""Several perceptrons as an equal mixture: a deep ensemble."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from experiments.streaming.models import parts
from experiments.streaming.models.entry import Entry
from experiments.streaming.models.memoryless import memoryless, nll
from experiments.streaming.models.parts import StreamFunctions


@functools.lru_cache
def build(
    x_dim: int, y_dim: int, *, members: int = 5, hidden: Sequence[int] = (56, 56), floor: float = parts.FLOOR
) -> StreamFunctions:
    """Deep ensemble (Lakshminarayanan et al. 2017): members that differ in their start, an equal mixture."""

    def init(key: Array) -> Any:
        return jax.vmap(lambda k: parts.layers(k, (x_dim, *hidden, 2 * y_dim)))(jax.random.split(key, members))

    def outputs(params: Any, xs: Array) -> Array:
        return jax.vmap(lambda member: parts.network(member, xs))(params)

    def components(params: Any, key: Array, xs: Array, steps: Array, samples: int) -> tuple[Array, Array]:
        return parts.head(jnp.moveaxis(outputs(params, xs), 0, 1), floor)

    def loss(params: Any, key: Array, xs: Array, ys: Array, share: Array) -> tuple[Array, Array]:
        return jnp.mean(nll(outputs(params, xs), ys, share, floor)), jnp.zeros(())

    return memoryless(init, components, loss)


MODELS = {"ensemble": Entry(lambda x, y, _, **sizes: build(x, y, **sizes))}
