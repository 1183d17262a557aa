"""What models without a memory share, y_t ~ p(y | x_t): perceptron, MC-dropout, deep ensemble, Bayes by backprop.

Their state is the number of steps, which numbers the noise, so that a stream in chunks gives what one piece gives.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from experiments.streaming.models import parts
from experiments.streaming.models.parts import StreamFunctions
from latenttrack import Aux, Outputs
from latenttrack.algebra import gaussian

Components = Callable[[Any, Array, Array, Array, int], tuple[Array, Array]]
"""(params, key, xs [T, x], numbers of the steps [T], K) → mean and variance [T, K, y] of an equal mixture."""


def memoryless(init: Callable[[Array], Any], components: Components, loss_: Callable[..., tuple]) -> StreamFunctions:
    """A model of its components and its loss."""

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


def nll(outputs: Array, ys: Array, share: Array, floor: float) -> Array:
    """Of each row, weighted by the share of each step."""
    return -jnp.sum(share * gaussian.log_density(ys, *parts.head(outputs, floor)), axis=-1)
