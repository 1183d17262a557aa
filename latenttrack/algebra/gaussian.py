"""Draws, densities and divergences of Gaussians with diagonal covariance, and of their mixtures."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


def noise(key: Key[Array, ""], step: Int[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Standard normal numbers of one step of a stream: the same for a step, however the stream is cut."""
    # Drawn flat: with a short last axis the compiler's code for a CPU takes more than twice as long for the same bits.
    return jax.random.normal(jax.random.fold_in(key, step), (math.prod(shape),)).reshape(shape)


def log_density(
    y: Float[Array, "*#batch y"], mean: Float[Array, "*#batch y"], variance: Float[Array, "*#batch y"]
) -> Float[Array, "*#batch"]:
    """log N(y; mean, diag variance), summed over the last axis."""
    return -0.5 * jnp.sum(jnp.square(y - mean) / variance + jnp.log(2 * jnp.pi * variance), axis=-1)


def mixture(log_densities: Float[Array, "*batch K"]) -> Float[Array, "*batch"]:
    """log (1/K) Σ_k exp(log_densities_k), the log density of an equal mixture."""
    return jax.nn.logsumexp(log_densities, axis=-1) - jnp.log(log_densities.shape[-1])


def divergence(
    mean: Float[Array, "*#batch d"],
    variance: Float[Array, "*#batch d"],
    prior_mean: Float[Array, "*#batch d"],
    prior_variance: Float[Array, "*#prior"],
    spread: Float[Array, "*#batch d"] | float = 0.0,
) -> Float[Array, "*#batch"]:
    """E KL(N(mean, diag variance) ‖ N(m, diag prior_variance)) over m with mean ``prior_mean`` and variance ``spread``.

    The Gaussian divergence at the mean, plus ½ Σ_i spread_i / prior_variance_i. For a prior N(A z + b, ·) with
    z ~ N(μ, Σ), spread is the diagonal of A Σ Aᵀ (latent tracking, arXiv 2602.00458).
    """
    ratio = variance / prior_variance
    shift = jnp.square(mean - prior_mean) + spread
    return 0.5 * jnp.sum(ratio - jnp.log(ratio) - 1 + shift / prior_variance, axis=-1)
