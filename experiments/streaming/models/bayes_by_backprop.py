"""Independent Gaussian weights: Bayes by backprop."""

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
from latenttrack.algebra import gaussian


@functools.lru_cache
def build(
    x_dim: int,
    y_dim: int,
    *,
    steps: int,
    hidden: Sequence[int] = (88, 88),
    prior: float = 1.0,
    floor: float = parts.FLOOR,
) -> StreamFunctions:
    """Independent Gaussian weights (Blundell et al. 2015), prior N(0, prior²/n) for a layer with n inputs.

    ``steps`` is the length of the training stream, over which the divergence is spread.
    """

    def init(key: Array) -> Any:
        mean = parts.layers(key, (x_dim, *hidden, 2 * y_dim))
        return mean, jax.tree.map(lambda leaf: jnp.full_like(leaf, -5.0), mean)

    def draw(params: Any, key: Array) -> Any:
        mean, raw = params
        leaves, tree = jax.tree.flatten(mean)
        keys = jax.tree.unflatten(tree, list(jax.random.split(key, len(leaves))))
        return jax.tree.map(lambda m, s, k: m + jax.nn.softplus(s) * jax.random.normal(k, m.shape), mean, raw, keys)

    def divergence(params: Any) -> Array:
        def one(mean: Layer, raw: Layer) -> Array:
            variance = prior**2 / jnp.array(mean.weight.shape[0])
            weights = gaussian.divergence(mean.weight, jax.nn.softplus(raw.weight) ** 2, 0.0 * mean.weight, variance)
            biases = gaussian.divergence(
                mean.bias, jax.nn.softplus(raw.bias) ** 2, 0.0 * mean.bias, jnp.array(prior**2)
            )
            return jnp.sum(weights) + biases

        return jnp.sum(jnp.array([one(m, s) for m, s in zip(*params, strict=True)]))

    def components(params: Any, key: Array, xs: Array, steps: Array, samples: int) -> tuple[Array, Array]:
        sampled = jax.vmap(lambda k: draw(params, k))(jax.random.split(key, samples))
        return parts.head(jnp.moveaxis(jax.vmap(lambda w: parts.network(w, xs))(sampled), 0, 1), floor)

    def loss(params: Any, key: Array, xs: Array, ys: Array, share: Array) -> tuple[Array, Array]:
        return nll(parts.network(draw(params, key), xs), ys, share, floor), divergence(params) / steps

    return memoryless(init, components, loss)


MODELS = {"bbb": Entry(lambda x, y, steps, **sizes: build(x, y, steps=steps, **sizes))}
