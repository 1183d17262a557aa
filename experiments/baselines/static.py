"""Models without a memory, y_t ~ p(y | x_t): perceptron, MC-dropout, deep ensemble, Bayes by backprop.

Their state is the number of steps, which numbers the noise, so that a stream in chunks gives what one piece gives.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from experiments.baselines import parts
from experiments.baselines.parts import Layer, StreamFunctions
from latenttrack import Aux, Outputs
from latenttrack.algebra import gaussian

Components = Callable[[Any, Array, Array, Array, int], tuple[Array, Array]]
"""(params, key, xs [T, x], numbers of the steps [T], K) → mean and variance [T, K, y] of an equal mixture."""


def _model(init: Callable[[Array], Any], components: Components, loss_: Callable[..., tuple]) -> StreamFunctions:
    def initial_state(params: Any) -> Array:
        return jnp.zeros((), jnp.int32)

    def rollout(
        params: Any, key: Array, xs: Array, ys: Array, state: Any = None, samples: int = 32, mask: Any = None
    ) -> tuple[Array, Outputs]:
        ys, observed = parts.present(ys, mask)
        start = initial_state(params) if state is None else state
        mean, variance = components(params, key, xs, start + jnp.arange(len(xs)), samples)
        score = observed * gaussian.mixture(gaussian.log_density(ys[:, None], mean, variance))
        return start + len(xs), Outputs(mean, variance, score)

    def loss(
        params: Any,
        key: Array,
        xs: Array,
        ys: Array,
        state: Array,
        mask: Any = None,
        *,
        beta: Any = 1.0,
        weights: Any = None,
        **_: Any,
    ) -> tuple[Array, Aux]:
        ys, observed = parts.present(ys, mask)
        reconstruction, kl = loss_(params, key, xs, ys, parts.share(observed, weights))
        return reconstruction + beta * kl, Aux(reconstruction, kl, state + len(xs), reconstruction)

    return StreamFunctions(init, initial_state, rollout, loss)


def _nll(outputs: Array, ys: Array, share: Array, floor: float) -> Array:
    return -jnp.sum(share * gaussian.log_density(ys, *parts.head(outputs, floor)), axis=-1)


@functools.lru_cache
def mlp(x_dim: int, y_dim: int, *, hidden: Sequence[int] = (128, 128), floor: float = parts.FLOOR) -> StreamFunctions:
    """A perceptron with a Gaussian head."""
    return ensemble(x_dim, y_dim, members=1, hidden=hidden, floor=floor)


@functools.lru_cache
def ensemble(
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
        return jnp.mean(_nll(outputs(params, xs), ys, share, floor)), jnp.zeros(())

    return _model(init, components, loss)


@functools.lru_cache
def mc_dropout(
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
        return _nll(outputs(params, key, xs), ys, share, floor), jnp.zeros(())

    return _model(init, components, loss)


@functools.lru_cache
def bayes_by_backprop(
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
        return _nll(parts.network(draw(params, key), xs), ys, share, floor), divergence(params) / steps

    return _model(init, components, loss)
