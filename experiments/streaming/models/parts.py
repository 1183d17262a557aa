"""What the baselines share: layers as pure functions, a Gaussian head, and weights of a window's steps."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from latenttrack import Aux, Outputs
from latenttrack.algebra import gaussian as densities

FLOOR = 4e-4
"""The smallest variance that a head can give, in units of y²: (0.02 residual standard deviations)²."""


class Layer(NamedTuple):
    """x W + b."""

    weight: Float[Array, "n m"]
    bias: Float[Array, " m"]


class StreamFunctions(NamedTuple):
    """A :class:`latenttrack.StreamModel`."""

    init: Callable[..., Any]
    initial_state: Callable[..., Any]
    rollout: Callable[..., Any]
    loss: Callable[..., Any]


def layers(key: Array, widths: Sequence[int]) -> tuple[Layer, ...]:
    """Weights of variance 1/n and no biases, for a chain of widths."""
    keys = jax.random.split(key, len(widths) - 1)
    return tuple(
        Layer(jax.random.normal(k, (n, m)) / jnp.sqrt(n), jnp.zeros(m))
        for k, n, m in zip(keys, widths, widths[1:], strict=False)
    )


def network(parts: Sequence[Layer], *inputs: Float[Array, "*#batch n"]) -> Float[Array, "*batch m"]:
    """A perceptron with tanh between its layers, of its inputs side by side (their leading axes broadcast)."""
    x = join(*inputs)
    for layer in parts[:-1]:
        x = jnp.tanh(x @ layer.weight + layer.bias)
    return x @ parts[-1].weight + parts[-1].bias


def join(*inputs: Float[Array, "*#batch n"]) -> Float[Array, "*batch m"]:
    """Arrays side by side along the last axis."""
    leading = jnp.broadcast_shapes(*(part.shape[:-1] for part in inputs))
    return jnp.concatenate([jnp.broadcast_to(part, (*leading, part.shape[-1])) for part in inputs], axis=-1)


def head(outputs: Float[Array, "*batch 2y"], floor: float) -> tuple[Float[Array, "*batch y"], Float[Array, "*batch y"]]:
    """Mean, and a variance above the floor."""
    mean, raw = jnp.split(outputs, 2, axis=-1)
    return mean, floor + jnp.square(jax.nn.softplus(raw))


def gaussian(outputs: Float[Array, "*batch 2d"]) -> tuple[Float[Array, "*batch d"], Float[Array, "*batch d"]]:
    """Mean and standard deviation of a latent variable."""
    mean, raw = jnp.split(outputs, 2, axis=-1)
    return mean, 1e-3 + jax.nn.softplus(raw)


def present(ys: Float[Array, "T y"], mask: Array | None) -> tuple[Float[Array, "T y"], Float[Array, " T"]]:
    """Targets that are safe to compute with, and 1 where they were observed."""
    if mask is None:
        return ys, jnp.ones(len(ys), ys.dtype)
    return jnp.where(mask[:, None], ys, 0), mask.astype(ys.dtype)


def share(observed: Float[Array, " T"], weights: Float[Array, " T"] | None) -> Float[Array, " T"]:
    """The weight of each step in the mean over a window."""
    given = observed if weights is None else observed * weights
    return given / jnp.maximum(jnp.sum(given), 1e-12)


def by_evidence(rollout: Callable[..., tuple[Any, Outputs]]) -> Callable[..., tuple[Array, Aux]]:
    """The loss of a model that filters exactly: minus the log evidence of a window, as a rollout scores its steps."""

    def loss(
        params: Any, key: Array, xs: Array, ys: Array, state: Any, mask: Any = None, *, weights: Any = None, **_: Any
    ) -> tuple[Array, Aux]:
        after, outputs = rollout(params, key, xs, ys, jax.lax.stop_gradient(state), mask=mask)
        total = -jnp.sum(share(present(ys, mask)[1], weights) * outputs.log_prob)
        return total, Aux(total, jnp.zeros(()), jax.lax.stop_gradient(after), total)

    return loss


def of_latents(
    ys: Float[Array, "T y"],
    weight: Float[Array, " T"],
    posterior: tuple[Array, Array, Array],
    prior: tuple[Array, Array],
    noise: Float[Array, "T K d"],
    emit: Callable[[Array], tuple[Array, Array]],
) -> tuple[Array, Array, Array]:
    """Reconstruction, divergence, and −log mean density of prior samples, of a model of z_t along one sampled path.

    Args:
        ys, weight: targets, and the share of each step.
        posterior: a draw of z [T, d], and the mean and standard deviation it was drawn with.
        prior: mean and standard deviation [T, d] given the path before.
        noise: standard normal, for K draws of the prior.
        emit: z [T, S, d] → mean and variance [T, S, y].
    """
    z, mean, scale = posterior
    prior_mean, prior_scale = prior
    draws = prior_mean[:, None] + prior_scale[:, None] * noise
    density = densities.log_density(ys[:, None], *emit(jnp.concatenate([z[:, None], draws], axis=1)))
    kl = densities.divergence(mean, scale**2, prior_mean, prior_scale**2)
    terms = -density[:, 0], kl, -densities.mixture(density[:, 1:])
    reconstruction, divergence, ahead = (jnp.sum(weight * term) for term in terms)
    return reconstruction, divergence, ahead


def size(params: Any) -> int:
    """The number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
